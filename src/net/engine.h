/*
 * engine.h - finds smtpd-tls, which speaks TLS for us: the one that stays, or
 * a program that is started.
 */
#ifndef NET_ENGINE_H
#define NET_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/logger.h"

#define TLS_STOPPED "the server is shutting down"	/* see tls_job.stop */

/* A connection that is to get TLS.  Everything is borrowed. */
struct tls_job {
	/* "unix:PATH" of an engine that stays, which is asked first; NULL. */
	const char *resident;
	/* Path of the program, which is started otherwise; NULL. */
	const char *program;
	const char *words[8];	/* role and options, ended by NULL */
	/* Further options that only a program of our own needs, ended by NULL,
	   and the descriptors that they name, all above 3, ended by -1. */
	const char *own[8];
	int keep[4];
	int fd;			/* the connection, a socket */
	int64_t deadline;	/* of the handshake */
	int stop;		/* descriptor that is readable when it is to end
				   at once; 0: there is none */
	const struct logger *log;
	bool *mistake;		/* becomes true if what it was given is of no
				   use: certificate, key, CAs; or NULL */
	int *process;		/* where a pidfd of a program that was started
				   goes, for tls_await_end(), which is -1 or
				   one from before; NULL: nobody will wait */
};

/*
 * Lets the TLS engine (smtpd-tls) serve the connection, and waits for its
 * report.  The engine gets j->fd as descriptor 0, the clear-text end of a
 * socket pair as 1, the report as 3.  It ends by itself once either side is
 * closed, and is no child of ours.  To leave last words in the clear-text end,
 * wait for its end of file.
 *
 * Returns our clear-text end, with the report's lines "name=value" in
 * report[0..size); or -1 with a sentence there, and j->fd shut down.  The
 * caller closes j->fd, either way.
 */
int	tls_start(const struct tls_job *j, char *report, size_t size);

/* Copies the value of name in such a report to to[0..size), cut to fit; "" if
   it has none. */
void	tls_report_value(const char *report, const char *name, char *to,
	    size_t size);

/*
 * Waits for a moment until a program that was started has ended, both of whose
 * sides are closed, closes its pidfd and makes it -1, which is what it may be
 * already.  systemd kills, and logs, what is left of a service when its main
 * process has ended.
 */
void	tls_await_end(int *process);

/*
 * Asks the engine at "unix:PATH" how its certificates are: answer becomes what
 * `smtpd-tls check' prints, which is "" if the engine ends without a word.
 * Returns 0, or -1 with errno.
 */
int	tls_ask_check(const char *resident, int64_t deadline, char *answer,
	    size_t size);

/* Whether an engine listens at "unix:PATH".  False with a sentence in
   why[0..size). */
bool	tls_reachable(const char *resident, char *why, size_t size);

#endif
