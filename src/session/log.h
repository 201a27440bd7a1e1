/*
 * log.h - records of events: on standard error, in the journal or in syslog.
 */
#ifndef SESSION_LOG_H
#define SESSION_LOG_H

#include "base/envelope.h"
#include "session/systemd.h"

enum sink {
	SINK_STDERR,	/* one key=value line per event */
	SINK_JOURNAL,	/* the same with <N> in front: the journal reads it */
	SINK_SYSLOG	/* standard error is the client */
};

/* Where records go, and what all of them have in common. */
struct log {
	enum sink sink;
	int level;		/* what is less important is not recorded */
	int least;		/* what is less important is recorded as if it
				   had this priority; 0: it keeps its own */
	struct systemd systemd;
	const char *relay;	/* as it was named */
	const struct envelope *about;	/* what records are about that have no
					   envelope of their own, or NULL */
};

/*
 * Where records go.  Under a super-server standard error may be the client:
 * then nothing is ever written to it.  At a terminal all three are the same
 * file, and meant to be.
 */
enum sink log_choose_sink(const struct stat std[3]);

/* Is standard error the journal, which reads <N> in front of a line? */
bool	log_is_journal(const struct stat std[3]);

/* One sentence for the administrator who started the process; a client on a
   socket is told 421 4.3.5 and no more. */
void	log_complain(const char *text);

/* A wrong command line: one sentence, before a byte is spoken; exits with
   EX_USAGE. */
_Noreturn void log_misused(const char *fmt, ...)
	    __attribute__((format(printf, 1, 2)));

/* A struct logger's function: one record for one event. */
void	log_event(void *ctx, int priority, const char *event,
	    const struct envelope *env, const char *text);

/* Says what records without an envelope are about from now on: see struct
   monitor_settings. */
void	log_about(void *ctx, const struct envelope *env);

/* What `systemctl status' shows: see struct monitor_settings. */
void	log_show_status(void *ctx, const char *text, bool stopping);

#endif
