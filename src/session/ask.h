/*
 * ask.h - how the channel process asks the monitor to act.
 *
 * All of it runs in the channel process.  If the monitor is gone, replies are
 * 421 4.3.0.
 */
#ifndef SESSION_ASK_H
#define SESSION_ASK_H

#include "monitor/monitor.h"
#include "monitor/wire.h"

/* The channel process's end.  Private to ask.c. */
struct asker {
	const struct logger *log;
	struct monitor_wants wants;
	char mechanisms[512];
	struct wire wire;
};

/* Makes a, which is all zeros, one that only logs until ask_start().  log is
   borrowed. */
void	ask_open(struct asker *a, const struct logger *log);

/* Asks at this end of the pair, which it owns from now on, the monitor m, of
   which it keeps what is certain from the settings alone. */
void	ask_start(struct asker *a, int peer, const struct monitor *m);

/* A descriptor that hangs up (POLLHUP) when the monitor is gone; -1 before
   ask_start(). */
int	ask_fd(const struct asker *a);

/* Whether the monitor cannot be asked any more, gone or not. */
bool	ask_broken(const struct asker *a);

/* Whether there is anything to ask at a stage. */
bool	ask_wanted(const struct asker *a, enum stage stage);

/* The form in which the relay wants the spool. */
enum spool_form ask_form(const struct asker *a);

/*
 * Asks what access, routes, services and the next hop say at a stage: see
 * struct service and relay_rcpt().  prepend[0..SERVICE_PREPEND) becomes the
 * header fields to put in front of the message, or "".
 */
void	ask_stage(struct asker *a, enum stage stage,
	    const struct envelope *env, struct reply *r, char *prepend);

/* Whether services want to know of lines that are no command. */
bool	ask_wants_unknown(const struct asker *a);

/* Asks about one, without control characters.  *r becomes a refusal. */
void	ask_unknown(struct asker *a, const struct envelope *env,
	    const char *line, struct reply *r);

/* Whether the next hop is asked during the dialogue. */
bool	ask_live(const struct asker *a);

/* Asks the next hop about MAIL, if mail is true, and env's recipients: r[0] is
   MAIL's reply, the others follow.  A text that is "" stands for the channel's
   own words. */
void	ask_group(struct asker *a, bool mail, const struct envelope *env,
	    struct reply r[]);

/* Tells that the client has greeted: see relay_live_hello(). */
void	ask_hello(struct asker *a, const struct envelope *env, char *text,
	    size_t size);

/* Relays a message: see relay_deliver().  The monitor logs the result.  If
   that takes long, slow(ctx) is called once: it writes the replies that the
   client waits for. */
void	ask_message(struct asker *a, const struct envelope *env, int spool,
	    void (*slow)(void *ctx), void *ctx, struct reply r[]);

/* The transaction is over. */
void	ask_forget(struct asker *a);

/* For spools that outgrow memory: see spool_file(), errno is what it was
   there.  ctx is the asker. */
int	ask_file(void *ctx);

/* AUTH: see service/auth.h.  The list is good until the next call. */
const char *ask_mechanisms(struct asker *a, const struct envelope *env);
void	ask_auth(struct asker *a, const struct envelope *env,
	    const char *mechanism, const char *response, struct reply *r,
	    char *user, size_t size);
void	ask_auth_abandon(struct asker *a);

/*
 * Serves TLS on the client's connection.  Returns the clear-text end, a
 * socket, with the report (lines "name=value") in report[0..size); or -1
 * with a sentence there.  client is borrowed.
 */
int	ask_tls(struct asker *a, int client, char *report, size_t size);

/* Tells the administrator: see struct logger. */
void	ask_log(struct asker *a, int priority, const char *event,
	    const struct envelope *env, const char *text);

/* Ends the session: the monitor will exit with status, 0 to 255, without
   waiting for more.  event is the session's last record, or NULL for none. */
void	ask_end(struct asker *a, int status, const char *event,
	    const struct envelope *env, const char *text);

/* Shows the session's state: see struct monitor_settings. */
void	ask_status(struct asker *a, const char *text, bool stopping);

#endif
