/*
 * private.h - what the monitor's own files share.
 */
#ifndef MONITOR_PRIVATE_H
#define MONITOR_PRIVATE_H

#include <sys/types.h>

#include "monitor/from.h"
#include "monitor/monitor.h"
#include "monitor/record.h"
#include "monitor/senders.h"
#include "monitor/wire.h"

#define SERVICES_MAX (1 + MILTERS_MAX)

/* Seconds in which a question that began must be whole, and an answer be
   taken.  Both need no time at all, unless the machine stands still or the
   channel process means harm. */
#define EXCHANGE 5

/* A service that is asked during the dialogue. */
struct asked {
	const struct service *kind;
	void *ctx;
	const char *where;	/* as it was named; borrowed */
};

struct monitor {
	const struct monitor_settings *set;
	struct relay *relay;
	struct access *access;
	struct from *from;	/* NULL: senders stay */
	struct senders *senders;	/* NULL: any client, any sender */
	struct service_settings services;	/* what they were told */
	struct asked service[SERVICES_MAX];	/* in the order of asking, */
	size_t nservices;			/* so many */
	const char *own[3];	/* names of the fields in front of a message */
	struct record record;	/* of what they were asked */
	struct auth *auth;	/* NULL: EXTERNAL at most */
	pid_t child;		/* the channel process; 0 in itself */
	int signals;		/* signalfd of SIGTERM, borrowed, */
	bool stopping;		/* which has told of it */
	unsigned messages;	/* relayed, or tried */
	size_t recipients;	/* accepted in this transaction, while its end
				   is heard of */
	unsigned failures;	/* of AUTH, */
	unsigned guesses;	/* and of these, those that the next hop knew
				   to be wrong */
	int64_t next_auth;	/* no guess is looked at before this time */
	const char *source;	/* that knew who the client is: "file:"; or
				   NULL */
	bool untold;		/* no record tells of the login yet */
	unsigned spent;		/* of the budget, at the time: */
	int64_t refilled;
	bool tls;		/* it was served, which is once */
	int engine;		/* pidfd of its smtpd-tls, or -1 */
	bool ended;		/* ASK_END came, */
	int status;		/* to exit with this */
	int64_t end;		/* of the session: a deadline */
	/* The monitor's own facts, which take the place of those in questions;
	   NULL: the channel process knows. */
	const char *known[FACTS];
	const char *client;	/* address of the client that is connected, in a
				   question */
	char method[32], user[MONITOR_USER];	/* of AUTH, for known */
	int64_t began;		/* to relay the message, when */
	struct envelope self;	/* the session, as known has it, for records */
	struct wire wire;
	/* From here on nothing is cleared, nor touched before it is used. */
	char text[WIRE_TEXT];		/* an answer's string */
	char report[MONITOR_REPORT];	/* of TLS, for known */
	struct envelope login;		/* who logged in, and how; its */
	char login_facts[2048];		/* strings */
};

/* Has each service that there is look at its place: see monitor_check(). */
void	monitor_probe_services(struct monitor *m, struct findings *f);

/* Gets a question.  Returns 1 with it; 0 if there will be none any more; -1
   with errno, EBADMSG if it makes no sense.  The caller calls wire_dispose()
   in any case. */
int	monitor_get_question(struct monitor *m, struct received *r);

/* What is logged from now on is about the session, and no transaction. */
void	monitor_log_session(struct monitor *m);

/* Does what a question asks, and answers it if it wants an answer.  Returns 0,
   or -1 with errno: the channel process cannot be told. */
int	monitor_handle(struct monitor *m, struct received *r);

/* ---- login.c ---- */

/* The mechanisms that this client may use, good until the next call. */
const char *monitor_mechanisms(struct monitor *m, const struct envelope *env);

/* One step of AUTH; *v becomes the answer, and user[0..MONITOR_USER) who the
   client is, or "". */
void	monitor_authenticate(struct monitor *m, const struct question *q,
	    struct reply *v, char *user);

/* The client gives up an exchange, or is another one from now on. */
void	monitor_abandon_auth(struct monitor *m);

/* Writes the record of a login that no record of a message has told of. */
void	monitor_tell_login(struct monitor *m);

/* The client has not authenticated, whatever it did before. */
void	monitor_forget_login(struct monitor *m);

/* ---- stage.c ---- */

/* Is there anything that some client may not send to? */
bool	monitor_is_limited(const struct monitor *m);

/* May the client send to all of them?  It was told so of each. */
bool	monitor_may_send_all(struct monitor *m, const struct envelope *env);

/* Asks about a stage; *v becomes the answer, and prepend[0..SERVICE_PREPEND)
   the header fields to put in front of the message. */
void	monitor_answer_stage(struct monitor *m, enum stage stage,
	    const struct envelope *env, struct reply *v, char *prepend);

/* Asks about a line of the client that is no command. */
void	monitor_answer_unknown(struct monitor *m, const char *line,
	    const struct envelope *env, struct reply *v);

/* MAIL, if mail is true, and recipients that came at once: v[0] is MAIL's.
   There are no services to ask. */
void	monitor_answer_group(struct monitor *m, bool mail,
	    const struct envelope *env, struct reply v[]);

/* ---- message.c ---- */

/* The form of a message's spool: filters read also what is dropped. */
enum spool_form monitor_form(const struct monitor *m);

/* Logs a refusal at a stage, and by whom: "policy unix:/x"; with what is noted
   of a next hop, or NULL. */
void	monitor_log_refusal(struct monitor *m, const struct envelope *env,
	    enum stage stage, const char *by, const struct notes *where,
	    const struct reply *v);

/* "policy WHERE", of the service of that number. */
const char *monitor_service_name(const struct monitor *m, size_t i, char *to,
	    size_t size);

/* Asks the services about a whole message and relays it; spool may be -1.
   Fills in v[0..env->nrecipients). */
void	monitor_relay(struct monitor *m, const struct envelope *env, int spool,
	    struct reply v[]);

#endif
