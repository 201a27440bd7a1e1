/*
 * private.h - what the monitor's own files share.
 */
#ifndef MONITOR_PRIVATE_H
#define MONITOR_PRIVATE_H

#include <sys/types.h>

#include "monitor/monitor.h"
#include "monitor/record.h"
#include "monitor/wire.h"

#define SERVICES_MAX 8

/* Seconds in which a question that began must be whole, and an answer be
   taken.  Both need no time at all, unless the machine stands still or the
   channel process means harm. */
#define EXCHANGE 5

struct monitor {
	const struct monitor_settings *set;
	struct relay *relay;
	struct access *access;
	void *service[SERVICES_MAX];	/* by services[]; NULL: none */
	bool served;		/* there is one */
	struct record record;	/* of what they were asked */
	struct auth *auth;	/* NULL: EXTERNAL at most */
	pid_t child;		/* the channel process; 0 in itself */
	unsigned messages;	/* relayed, or tried */
	unsigned failures;	/* of AUTH */
	int64_t next_auth;	/* no guess is looked at before this time */
	unsigned spent;		/* of the budget, at the time: */
	int64_t refilled;
	bool tls;		/* it was served, which is once */
	bool ended;		/* ASK_END came, */
	int status;		/* to exit with this */
	int64_t end;		/* of the session: a deadline */
	/* The monitor's own facts, which take the place of those in questions;
	   NULL: the channel process knows. */
	const char *known[FACTS];
	char method[32], user[MONITOR_USER];	/* of AUTH, for known */
	struct wire wire;
	/* From here on nothing is cleared, nor touched before it is used. */
	char text[WIRE_TEXT];		/* an answer's string */
	char report[MONITOR_REPORT];	/* of TLS, for known */
};

/* Gets a question.  Returns 1 with it; 0 if there will be none any more; -1
   with errno, EBADMSG if it makes no sense.  The caller calls wire_dispose()
   in any case. */
int	monitor_get_question(struct monitor *m, struct received *r);

/* Does what a question asks, and answers it if it wants an answer.  Returns 0,
   or -1 with errno: the channel process cannot be told. */
int	monitor_handle(struct monitor *m, struct received *r);

#endif
