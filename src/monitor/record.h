/*
 * record.h - the monitor's own record of a transaction: which stages its
 * services were asked about, and which they accepted.
 */
#ifndef MONITOR_RECORD_H
#define MONITOR_RECORD_H

#include "service/service.h"

struct record {
	bool wanted[STAGES];	/* a service is to be asked at that stage */
	bool connected, greeted, mail, data;	/* asked and accepted */
	bool refused;		/* the last HELO or EHLO was */
	bool closed;		/* a service answered 421 */
	uint64_t key[2];	/* of the hashes, random once it is used */
	uint64_t sender;	/* hash of sender and options of MAIL */
	uint64_t *recipients;	/* hashes of those accepted, in order; owned */
	size_t nrecipients;
};

/* Notes that a service was asked at a stage and answered r.  Returns false if
   there is no memory for that. */
bool	record_stage(struct record *k, enum stage stage,
	    const struct envelope *env, const struct reply *r);

/* Whether all that env needs was asked and accepted: the session, the sender,
   each recipient, DATA. */
bool	record_has(const struct record *k, const struct envelope *env);

/* The transaction is over. */
void	record_forget(struct record *k);

/* TLS began: the client must greet again. */
void	record_restart(struct record *k);

#endif
