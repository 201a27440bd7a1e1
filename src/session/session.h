/*
 * session.h - the channel process: octets, time, TLS; and what its files
 * share.
 */
#ifndef SESSION_SESSION_H
#define SESSION_SESSION_H

#include "base/spool.h"
#include "session/ask.h"
#include "session/header.h"
#include "session/peer.h"

#define INPUT 65536		/* octets read at once */

/* Why the session is over, for its last record. */
enum ending {
	END_QUIT,
	END_CLOSED,	/* by the channel, with 421 or 521 */
	END_EOF,
	END_TIMEOUT,
	END_TERM,
	END_ORPHAN,	/* the monitor is gone */
	END_LOST,	/* the client cannot be reached any more */
	END_RULE,	/* a rule of --rules said so */
	END_TLS		/* no handshake */
};

struct faults;

/* A page that is never touched costs nothing: what every session uses stands
   together, and buffers begin where that ends. */
struct session {
	struct asker asker;
	char in_buffer[INPUT];	/* what was read */
	_Alignas(4096) struct spool spool;	/* its buffer comes first */
	const struct options *options;
	int in, out;		/* the client; the same socket, or two */
	bool socket;		/* they are one */
	bool engine;		/* the client is the TLS engine's clear end */
	pid_t pid;		/* the monitor's: it names transactions */
	char queue_id[24];	/* of the open transaction, or "" */
	char relayed_id[24];	/* of a message whose reply the client has not
				   got yet, or "" */
	char relayed_from[322];	/* its sender, cut to fit */
	unsigned judged;	/* messages whose verdict has a record, */
	size_t told;		/* and their replies of 400 or more */
	struct header header;	/* of the message that is being received */
	int64_t idle, end;	/* deadlines: of the command, of the session */
	int64_t looked;		/* when deadlines and SIGTERM were looked at,
				   in a message's text; or 0 */
	struct faults *faults;	/* of --rules, or NULL */
	struct transcript *transcript;	/* of --record, or NULL */
	unsigned transactions;	/* that were begun */
	size_t before;		/* octets of output before the last reply, as a
				   fault noted them */
	int64_t pause;		/* before the next reply is written; 0 */
	int signals;		/* readable when SIGTERM came; -1: once that
				   was obeyed */
	bool terminated;	/* it came */
	bool orphaned;		/* there is no monitor to ask any more */
	bool quit;		/* the client said so */
	bool reset;		/* the client is gone: EPIPE, ECONNRESET */
	bool soon;		/* acknowledge_soon() was called in this text */
	bool greeted;		/* the connect hook was called */
	enum phase shown;	/* what systemd was told last */
	char client_user[USER_MAX];	/* login of a unix socket's peer */
	size_t prepended;	/* octets of prepend */
	struct channel ch;	/* its line comes late in it */
	char prepend[SERVICE_PREPEND * 5];	/* policy's header fields, and
						   room for one answer more */
	char held[HEADER_HELD];	/* of header */
	struct channel_next next;	/* what the next hop can carry */
	char path[CHANNEL_LINE_MAX], parameters[CHANNEL_LINE_MAX]; /* scratch */
};

/* The hooks of a session's channel; ctx is the session. */
extern const struct channel_hooks session_hooks;

/* Returns a session, which nobody frees, or NULL. */
struct session *session_open(struct options *o,
	    const struct channel_hooks *hook, const struct client *who);

/* Runs the session, from greeting to end.  Returns the exit status of the
   channel process. */
int	session_run(struct session *s, const char *tls_trouble);

/* Answers 421 instead of the greeting, and logs why, unless that was logged
   where it failed.  Returns status. */
int	session_turn_away(struct session *s, int error, int status);

/* The session's facts and the transaction's so far, without recipients. */
struct envelope session_facts(const struct session *s);

void	session_log(struct session *s, int priority, const char *event,
	    const char *text);

/* Writes what the channel has to say: all of it, waiting until the client
   takes it; or what it takes at once.  False if it was not all. */
bool	session_flush(struct session *s, bool patient);

/* Likewise, at most so many octets of it. */
bool	session_write(struct session *s, size_t most, bool patient);

/* Writes p[0..len), which the channel did not say, waiting until the client
   takes it.  False if it does not. */
bool	session_put(struct session *s, const char *p, size_t len);

/* Waits until fd is ready for events.  Returns 1 if it is, 0 at the earliest
   deadline, -1 with errno, or because of SIGTERM, or the monitor's end. */
int	session_wait(struct session *s, int fd, short what);

/* Why session_wait() did not wait. */
enum ending session_interrupted(const struct session *s);

/* The client has --timeout from now on for its next command, or for more
   text. */
void	session_restart_clock(struct session *s);

/* Puts the fields that we write in front of the message into the spool. */
void	trace_write(struct session *s, const struct envelope *env);

#endif
