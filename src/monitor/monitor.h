/*
 * monitor.h - the process that acts for the one that talks to the client: it
 * relays, asks outside services, holds the key.
 */
#ifndef MONITOR_H
#define MONITOR_H

#include "monitor/access.h"
#include "relay.h"
#include "service/auth.h"
#include "service/milter.h"

/* How to serve TLS.  Strings are borrowed. */
struct tls_settings {
	const char *resident;	/* "unix:PATH" of one that stays, or NULL */
	const char *program;	/* path of smtpd-tls */
	int cert, key;		/* for the program: open files, or -1 */
	const char *ca;		/* file of CAs for client certificates; NULL */
	unsigned timeout;	/* seconds for a handshake */
};

struct monitor_settings {
	struct relay_settings relay;
	const char *domain;	/* of addresses that have none, or NULL */
	const char *from;	/* the sender of all mail, or a file of them */
	struct access_settings access;
	const char *policy;	/* "unix:PATH", "inet:HOST:PORT", or NULL */
	unsigned policy_timeout;	/* seconds for one question */
	const char *milters[MILTERS_MAX];	/* filters, in order, */
	size_t nmilters;	/* so many */
	unsigned milter_times[3];	/* seconds: connect, command, content */
	enum service_away milter_away;
	bool no_received, x_peer;	/* which fields we write */
	const char *auth;	/* source of AUTH, or NULL */
	bool log_names;		/* that fail AUTH are logged */
	const char *senders;	/* file of who may send as whom, or NULL */
	struct tls_settings tls;
	unsigned session_timeout;	/* seconds, then nothing is begun */
	bool auth_required;	/* nothing is relayed without a user, */
	bool tls_required;	/* or without TLS */
	size_t max_recipients;	/* that an envelope can have; 0: no limit */
	unsigned max_messages;	/* that a session may relay; 0: no limit */
	unsigned max_errors;	/* failures of AUTH in a session; 0: no limit */
	uint64_t max_size;	/* octets of a message; 0: no limit */
	bool require_sandbox;	/* do not run without the whole jail */
	struct logger log;
	/* Says what is logged without an envelope is about from now on: the
	   transaction, or the session.  ctx is log's; NULL: nobody asks. */
	void (*about)(void *ctx, const struct envelope *env);
	/* Shows the session's state, and that it is about to end; NULL: it is
	   not shown.  ctx is log's. */
	void (*status)(void *ctx, const char *text, bool stopping);
	/* Called in the monitor when the channel process has ended; or NULL. */
	void (*ended)(void *ctx);
	void *ended_ctx;
};

#define MONITOR_FIELDS (64 * 1024)	/* octets of our header fields, which
					   may exceed --size */
#define MONITOR_USER 256	/* octets of a user's name, with NUL */
#define MONITOR_REPORT 4096	/* octets of a TLS report, with NUL */

struct monitor;
struct question;

/*
 * Reads the settings, which are borrowed; opens only files that may be root's
 * only, of routes and passwords, so root is given up after it.  Returns the
 * process's only monitor, in static memory; or NULL, with one sentence in
 * error[0..size), if they make no sense.
 */
struct monitor *monitor_open(const struct monitor_settings *set, char *error,
	    size_t size);

/*
 * Forks.  known has the facts that hold whatever the channel process says, but
 * that a client has no CLIENT_USER or certificate it may say: its strings are
 * borrowed; NULL stands for those that only it can learn.  The monitor itself
 * learns of TLS and AUTH in any case, but a SASL_USERNAME that was NULL stays
 * so.
 *
 * Returns in the channel process: its end of a pair of sockets, which it asks
 * by, see session/ask.h; or -1 with errno if there is no second process.  In
 * the monitor it does not return: that answers questions until the channel
 * process has ended, and exits with its status.  SIGTERM must be blocked, and
 * signals is a signalfd for it, borrowed; descriptors 0 and 1 are the client,
 * and 2 if relay.print is -1.
 */
int	monitor_start(struct monitor *m, int signals,
	    const char *const known[FACTS]);

/* What is certain from the settings alone: */
struct monitor_wants {
	bool stage[STAGES];	/* a service or a route is asked at it */
	bool unknown;		/* also about what is no command */
	bool forget;		/* a service remembers the transaction */
	bool live;		/* the next hop is asked during the dialogue */
	bool group;		/* it alone, so about several at once */
	bool status;		/* the state of the session is shown */
	enum spool_form form;	/* of messages */
};

struct monitor_wants monitor_wants(const struct monitor *m);

/* Whether DSN parameters reach the place that takes the message. */
bool	monitor_dsn(const struct monitor *m);

/* In the monitor: whether the question has what its kind needs, and nothing
   that the session does not allow. */
bool	monitor_may_be_asked(const struct monitor *m,
	    const struct question *q);

/* For --check: adds what relay, services and sources of users lack, as this
   process, which must be the user of the session, finds them. */
void	monitor_check(struct monitor *m, struct findings *f);

/* Closes everything that m has open.  NULL is legal. */
void	monitor_close(struct monitor *m);

#endif
