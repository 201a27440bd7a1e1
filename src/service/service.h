/*
 * service.h - outside services that are asked during the dialogue: what each
 * of them is to the monitor.
 */
#ifndef SERVICE_SERVICE_H
#define SERVICE_SERVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/envelope.h"
#include "base/findings.h"
#include "base/logger.h"
#include "base/spool.h"

/* When a service is asked: protocol_state of Postfix's policy protocol. */
enum stage {
	STAGE_CONNECT,
	STAGE_HELO,
	STAGE_EHLO,	/* LHLO too */
	STAGE_MAIL,
	STAGE_RCPT,
	STAGE_DATA,
	STAGE_END_OF_MESSAGE,
	STAGE_VRFY,
	STAGES
};

/* Their names in the policy protocol, and in the log. */
extern const char *const service_stage_names[STAGES];

/* The client's address and name in the words of Postfix, which services know:
   a client on a unix socket is localhost, one without a name "unknown". */
const char *service_client_address(const struct envelope *env);
const char *service_client_name(const struct envelope *env);

#define SERVICE_PREPEND 2048	/* octets of header fields, with NUL */

/* What becomes of mail when a filter cannot be asked. */
enum service_away {
	AWAY_TEMPFAIL,
	AWAY_ACCEPT,
	AWAY_REJECT
};

/* What services are told when they are opened; borrowed.  Times in seconds. */
struct service_settings {
	const struct logger *log;
	unsigned timeout;	/* for one question to the policy service */
	/* For filters: */
	unsigned connect, command, content;
	int64_t end;		/* of the session: no answer counts after it */
	enum service_away away;
	const char *fqdn;	/* our name */
	const char *mailer;	/* the relay's transport; length below */
	size_t mailer_len;
};

/*
 * A message at its end: what will be relayed.  A service changes what it
 * wants to be relayed instead; what its changes point to is the service's
 * own, and stays until forget() or close().
 */
struct service_message {
	struct envelope env;
	int spool;		/* borrowed */
	bool crlf;		/* its line ends; if not, LF */
	const char *const *own;	/* names of the fields that we wrote in front of
				   it, up to NULL */
	bool discard;		/* accept it, and relay it to nobody */
	const char *quarantine;	/* why nobody is to have it now, or NULL */
};

/*
 * One kind of service.  ctx is what open() returned.  Whatever fails is in
 * the reply, as a refusal, and in the log.
 */
struct service {
	const char *name;
	/* Reads where, which is borrowed, as set is; connects to nothing yet.
	   Returns NULL with a sentence in error[0..size) if where makes no
	   sense. */
	void *(*open)(const char *where, const struct service_settings *set,
	    char *error, size_t size);
	/* Is there anything to ask at this stage?  It is the same for the
	   whole session.  message() is called in any case. */
	bool (*asks)(const void *ctx, enum stage stage);
	/*
	 * Asks at any stage but STAGE_END_OF_MESSAGE.  env has the session's
	 * facts, from MAIL on the sender, at RCPT only the recipient in
	 * question, at VRFY the address as its one recipient, at DATA all
	 * recipients.  *r is a success, and is changed if the service refuses.
	 * prepend[0..SERVICE_PREPEND) becomes the header fields to put in front
	 * of the message, each ended by CRLF, or "".
	 */
	void (*ask)(void *ctx, enum stage stage, const struct envelope *env,
	    struct reply *r, char *prepend);
	/* Tells of a recipient that somebody else has refused by r.  NULL:
	   does not want to know. */
	void (*refused)(void *ctx, const struct envelope *env,
	    const struct reply *r);
	/* Asks about a command that is none; *r is 500.  NULL: does not want
	   to know. */
	void (*unknown)(void *ctx, const char *command,
	    const struct envelope *env, struct reply *r);
	/* Asks at the end of the message, and applies what the service decided
	   during the transaction.  *r as above; after a refusal *m is not to
	   be relayed. */
	void (*message)(void *ctx, struct service_message *m,
	    struct reply *r);
	/* For --check: adds whether it can be reached; if f->connect is not
	   set only unix sockets are connected to, and names looked up. */
	void (*probe)(void *ctx, struct findings *f);
	/* The transaction is over. */
	void (*forget)(void *ctx);
	/* Closes and frees.  NULL is legal. */
	void (*close)(void *ctx);
};

#endif
