/*
 * monitor.h - the boundary between the process that talks to the client and
 * the one that acts for it: relays, asks outside services, holds the key.
 *
 * Everything that crosses is plain data: an envelope, a descriptor, a verdict
 * per recipient.  It decides nothing about mail.
 */
#ifndef MONITOR_H
#define MONITOR_H

#include "service/auth.h"
#include "service/policy.h"
#include "relay.h"

/* How to serve TLS.  Strings are borrowed. */
struct tls_settings {
	const char *program;	/* path of smtpd-tls */
	int cert, key;		/* open files, or -1: TLS is not served */
	const char *ca;		/* file of CAs for client certificates; NULL */
	unsigned timeout;	/* seconds for a handshake */
};

struct monitor_settings {
	struct relay_settings relay;
	const char *policy;	/* "unix:PATH", "inet:HOST:PORT", or NULL */
	unsigned policy_timeout;	/* seconds for one question */
	const char *auth;	/* source of AUTH, or NULL */
	struct tls_settings tls;
	unsigned session_timeout;	/* seconds, then nothing is begun */
	bool auth_required;	/* nothing is relayed for who is nobody, */
	bool tls_required;	/* or without TLS */
	size_t max_recipients;	/* that an envelope can have; 0: no limit */
	bool require_sandbox;	/* do not run without the whole jail */
	struct logger log;
	/* Shows what the session is at, and that it is about to end; NULL if
	   nobody looks.  ctx is log's. */
	void (*status)(void *ctx, const char *text, bool stopping);
};

#define MONITOR_USER 256	/* octets of a user's name, with NUL */
#define MONITOR_REPORT 4096	/* octets of a TLS report, with NUL */

struct monitor;

/*
 * Reads the settings, which are borrowed; opens only files that may be root's
 * alone, of routes and passwords, so root is given up behind it.  Returns the
 * process's only monitor, in static memory; or NULL, with one sentence in
 * error[0..size), if they make no sense.
 */
struct monitor *monitor_open(const struct monitor_settings *set, char *error,
	    size_t size);

/*
 * Forks.  known has the facts that hold whatever the channel process says, but
 * that a client has no CLIENT_USER or certificate it may say: its strings are
 * borrowed; NULL stands for those that only it can learn.  What
 * TLS and AUTH come to later is known here in any case, but a SASL_USERNAME
 * that was NULL stays so.
 *
 * Returns in the channel process, which is confined from then on: 0,
 * or -1 if the jail is wanted and there is none (it was logged), or with errno
 * if there is no second process.  In the monitor it does not return: that
 * answers questions until the channel process has ended, and exits with its
 * status.  SIGTERM must be blocked, and signals is a signalfd for it, borrowed;
 * descriptors 0 and 1 are the client, and 2 if relay.print is -1.  The channel
 * process keeps 0, 1 and signals, and nothing else that was open.
 */
int	monitor_start(struct monitor *m, int signals,
	    const char *const known[FACTS]);

/* In the channel process: a descriptor that hangs up (POLLHUP) when the monitor
   is gone; before, -1. */
int	monitor_fd(const struct monitor *m);

/* And whether it can not be asked any more, gone or not. */
bool	monitor_broken(const struct monitor *m);

/* What is certain from the settings alone: the form of spools, whether DSN
   parameters reach anybody, whether there is anything to ask at a stage. */
enum spool_form monitor_form(const struct monitor *m);
bool	monitor_dsn(const struct monitor *m);
bool	monitor_asks(const struct monitor *m, enum stage stage);

/* All that follow are for the channel process: they ask the monitor.  If it is
   gone, verdicts are 421 4.3.0. */

/*
 * Asks routes and policy service what they think of a stage: see
 * policy_ask() and relay_rcpt().  prepend[0..POLICY_PREPEND) becomes the
 * header fields to put in front of the message, or "".
 */
void	monitor_stage(struct monitor *m, enum stage stage,
	    const struct envelope *env, struct reply *v, char *prepend);

/* Relays a message: see relay_deliver().  Logs what became of it.  If that
   takes long, slow(ctx) is called once: it writes what the client waits for. */
void	monitor_relay(struct monitor *m, const struct envelope *env, int spool,
	    void (*slow)(void *ctx), void *ctx, struct reply v[]);

/* The transaction is over. */
void	monitor_forget(struct monitor *m);

/* For spools that outgrow memory: see spool_file(), errno is what it was
   there.  ctx is the monitor. */
int	monitor_file(void *ctx);

/* AUTH: see policy.h.  The list is good until the next call. */
const char *monitor_mechanisms(struct monitor *m, const struct envelope *env);
void	monitor_auth(struct monitor *m, const struct envelope *env,
	    const char *mechanism, const char *response, struct reply *v,
	    char *user, size_t size);
void	monitor_auth_abandon(struct monitor *m);

/*
 * Serves TLS on the client's connection.  Returns the clear-text end, a
 * socket, with the report (lines "name=value") in report[0..size); or -1
 * with a sentence there.  client is borrowed.
 */
int	monitor_tls(struct monitor *m, int client, char *report, size_t size);

/* Tells the administrator: see struct logger. */
void	monitor_log(struct monitor *m, int priority, const char *event,
	    const struct envelope *env, const char *text);

/* Takes leave: the monitor will exit with status, 0 to 255, and need not wait
   for more.  event is the session's last record, or NULL for none. */
void	monitor_end(struct monitor *m, int status, const char *event,
	    const struct envelope *env, const char *text);

/* Shows what the session is at: see struct monitor_settings. */
void	monitor_status(struct monitor *m, const char *text, bool stopping);

/* Takes leave of everybody, frees m.  NULL is legal. */
void	monitor_close(struct monitor *m);

#endif
