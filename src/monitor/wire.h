/*
 * wire.h - questions of the channel process and answers of the monitor, as
 * the octets that cross between the two processes.
 *
 * A question is a struct head and after it strings, each with its NUL: the
 * envelope's facts, its recipients' addresses and options, a, b.  An answer is
 * a struct tail, replies, and a string.  A descriptor may ride on either
 * (SCM_RIGHTS).
 */
#ifndef MONITOR_WIRE_H
#define MONITOR_WIRE_H

#include "base/envelope.h"

#define WIRE_TEXT 4096		/* octets of an answer's string, with NUL */
#define WIRE_USUAL 1024		/* octets of a question, and its recipients: */
#define WIRE_FEW 8		/* with more of them it needs memory */
#define WIRE_STRINGS (64 * 1024)	/* octets of all other strings */
#define WIRE_RECIPIENT 2048	/* octets of one recipient's two strings */
#define WIRE_RECIPIENTS 1000000	/* where --max-recipients sets no limit */

enum ask {
	ASK_STAGE,
	ASK_HELLO,		/* what the next hop offers */
	ASK_MESSAGE,
	ASK_FORGET,		/* not answered */
	ASK_FILE,
	ASK_MECHANISMS,
	ASK_AUTH,
	ASK_ABANDON,		/* not answered */
	ASK_TLS,
	ASK_LOG,		/* not answered */
	ASK_STATUS,		/* not answered */
	ASK_END,		/* not answered: nothing will be asked again */
	ASK_UNKNOWN,		/* a is a line that is no command */
	ASK_GROUP,		/* number: is MAIL among it? */
	ASKS
};

/* A question; a and b may be NULL. */
struct question {
	enum ask ask;
	unsigned number;	/* ASK_STAGE: enum stage; ASK_LOG: priority;
				   ASK_STATUS: is it about to end?;
				   ASK_END: exit status */
	const struct envelope *env;	/* NULL: none */
	const char *a, *b;
	int fd;			/* -1: none; borrowed */
};

#define HAS_ENVELOPE 1U
#define HAS_A 2U
#define HAS_B 4U
#define HAS_SMTPUTF8 8U

/* In front of a question's strings. */
struct head {
	uint32_t ask, number, flags, encoding;
	uint32_t nrecipients;
	uint32_t len;		/* octets of strings */
	uint64_t size;
};

/* In front of an answer's replies. */
struct tail {
	uint32_t nreplies;	/* one for all recipients, or one for each */
	uint32_t len;		/* octets of the string with its NUL */
};

/* One end of the pair of sockets. */
struct wire {
	int peer;		/* the other process; -1: there is none yet */
	bool broken;		/* a question or an answer was not whole */
	/* Not cleared, nor touched before it is used. */
	struct recipient few[WIRE_FEW];	/* of the usual question, */
	char usual[WIRE_USUAL];		/* and its octets */
};

/* A question that was read.  Its strings have no control characters. */
struct received {
	struct question q;	/* owns its descriptor */
	struct envelope env;
	struct recipient *recipients;	/* the wire's, or owned */
	char *strings;			/* the wire's, or owned */
	size_t len;		/* octets of strings */
	char *completed;	/* addresses, see domain.h; owned, or NULL */
};

/* The channel process: sends a question, waits as long as that takes.  Returns
   0, or -1 with errno. */
int	wire_send_question(struct wire *w, const struct question *q);

/*
 * The channel process: waits for the answer, which is replies in r[0..n) (one
 * that came for all is repeated), a string in text[0..size), and a descriptor
 * in *fd, or -1.  Returns false if the monitor cannot be asked any more.
 */
bool	wire_read_answer(struct wire *w, struct reply r[], size_t n,
	    char *text, size_t size, int *fd);

/*
 * The monitor: reads a question, which must be whole by the deadline and may
 * have that many recipients.  Returns 1 with the question; 0 if there will be
 * none any more; -1 with errno, EBADMSG if the octets are no question.  The
 * caller calls wire_dispose() in any case.
 */
int	wire_read_question(struct wire *w, size_t recipients,
	    struct received *r, int64_t deadline);

/* Closes, wipes and frees what *r has; legal twice. */
void	wire_dispose(const struct wire *w, struct received *r);

/* The monitor: sends r[0..n), or r[0] alone if all are the same, and text and
   fd.  It needs no memory, for what was done cannot be undone.  Wipes text.
   Returns 0, or -1 with errno. */
int	wire_send_answer(struct wire *w, struct reply r[], size_t n,
	    char *text, int fd, int64_t deadline);

#endif
