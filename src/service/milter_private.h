/*
 * milter_private.h - what the files of the filters' client share.
 *
 * The protocol is that of libmilter's mfdef.h: packets of four octets of
 * length, a command and data.
 */
#ifndef SERVICE_MILTER_PRIVATE_H
#define SERVICE_MILTER_PRIVATE_H

#include "base/edit.h"
#include "net/stream.h"
#include "service/milter.h"

#define MILTER_VERSION 6U
#define MILTER_CHUNK 65535	/* octets of a body chunk */
#define MILTER_VALUE 102400	/* octets of a field that a filter is shown */
#define MILTER_OUT (MILTER_VALUE + FIELD_NAME_MAX + 32768)
#define MILTER_IN (1 << 20)	/* octets of an answer that is kept whole */

/* What the filter may ask for (SMFIF_*): all of it. */
#define MILTER_ACTIONS 0x1ffU
/* What it may do without (SMFIP_*). */
#define STEP_NO_CONNECT 0x1U
#define STEP_NO_HELO 0x2U
#define STEP_NO_MAIL 0x4U
#define STEP_NO_RCPT 0x8U
#define STEP_NO_BODY 0x10U
#define STEP_NO_HEADERS 0x20U
#define STEP_NO_EOH 0x40U
#define STEP_NR_HEADER 0x80U
#define STEP_NO_UNKNOWN 0x100U
#define STEP_NO_DATA 0x200U
#define STEP_SKIP 0x400U
#define STEP_RCPT_REJ 0x800U
#define STEP_NR_CONNECT 0x1000U
#define STEP_NR_HELO 0x2000U
#define STEP_NR_MAIL 0x4000U
#define STEP_NR_RCPT 0x8000U
#define STEP_NR_DATA 0x10000U
#define STEP_NR_UNKNOWN 0x20000U
#define STEP_NR_EOH 0x40000U
#define STEP_NR_BODY 0x80000U
#define STEP_LEADING_SPACE 0x100000U
#define MILTER_STEPS 0x1fffffU

/* Lists of macros: the numbers by which a filter asks for its own. */
enum symbols {
	SYMBOLS_CONNECT,
	SYMBOLS_HELO,
	SYMBOLS_MAIL,
	SYMBOLS_RCPT,
	SYMBOLS_DATA,
	SYMBOLS_END,
	SYMBOLS_EOH,
	SYMBOLS
};

/* What is left to ask the filter: */
enum milter_state {
	MILTER_CLOSED,		/* nothing: there is no connection yet */
	MILTER_OPEN,		/* everything */
	MILTER_MESSAGE_DONE,	/* nothing about this message */
	MILTER_SESSION_DONE,	/* nothing in this session: it accepts */
	MILTER_REFUSED,		/* nothing: its verdict holds for all */
	MILTER_FAILED		/* nothing: it cannot be asked */
};

struct milter {
	const struct service_settings *set;
	const char *service;	/* as the administrator wrote it */
	char where[PLACE_HOST_MAX + PLACE_PORT_MAX + 8];
	enum milter_state state;
	bool in_message;	/* it knows of a MAIL */
	bool discard;		/* it wants this message dropped */
	char skip;		/* the event of which it wants no more, or 0 */
	struct reply verdict;	/* in MILTER_REFUSED and MILTER_FAILED; code 0:
				   it lets pass */
	uint32_t version, actions, steps;
	char *symbols[SYMBOLS];	/* the filter's own lists, owned; NULL: usual */
	struct stream link;
	const char *fault;	/* what went wrong with the link; sticky */
	char why[256];		/* room for a fault */
	/* What it has changed, until forget(). */
	char **kept;		/* strings that stay until then; owned */
	size_t nkept;
	struct recipient *recipients;	/* NULL: unchanged; owned */
	size_t nrecipients;
	bool resized;		/* recipients are ours */
	int spool;		/* the message, or -1; owned */
	/* An answer. */
	char *in;		/* its data and a NUL; owned */
	size_t len, size;	/* octets of data, and of room */
	/* Not touched before it is used. */
	size_t outlen, begun;	/* octets of out, and where a packet begins */
	char out[MILTER_OUT];
};

/* ---- milter_wire.c ---- */

/* Connects and negotiates.  Faults, as of all functions here, are in
   m->fault. */
void	milter_connect(struct milter *m);

/* Begins a packet, adds octets, or a string with its NUL, and ends it.  What
   is written leaves with milter_flush(), or when there is no more room. */
void	milter_begin(struct milter *m, char command);
void	milter_add(struct milter *m, const char *p, size_t len);
void	milter_string(struct milter *m, const char *s);
void	milter_end(struct milter *m, unsigned seconds);
void	milter_flush(struct milter *m, unsigned seconds);

/* Room for len octets of the packet that is being written: milter_add() is
   told what was put there. */
char	*milter_room(struct milter *m, size_t *len);

/* Waits for an answer, each packet of it for that long.  Returns its command
   with its data in m->in, or 0 for a fault.  The data of a body (RESPONSE_BODY)
   is not read yet: *body has its length. */
char	milter_answer(struct milter *m, unsigned seconds, uint64_t *body);

/* Reads some of a body's data into m->in.  Returns how much, 0 for a fault. */
size_t	milter_body_data(struct milter *m, uint64_t left, unsigned seconds);

/* A number in the first four octets of data. */
uint32_t milter_number(const char *p);

/* Says QUIT if it can, and closes. */
void	milter_disconnect(struct milter *m);

/* ---- milter_macros.c ---- */

/* Writes the macros of a stage in a packet of their own.  refusal is that of a
   recipient which somebody else has refused, or NULL. */
void	milter_macros(struct milter *m, enum symbols stage, char event,
	    const struct envelope *env, const struct reply *refusal);

/* ---- milter_reply.c ---- */

/* Reads "550 5.7.1 text", or several such lines, as a filter sends it: "%%" is
   "%".  Returns false if it is no refusal (RFC 5321 4.2). */
bool	milter_parse_reply(const char *text, struct reply *r);

/* ---- milter_edit.c ---- */

/* A message that the filter changes. */
struct milter_change {
	struct milter *m;
	struct service_message *message;
	struct edit edit;
	bool ended;		/* the last octet of a new body was a CR */
	unsigned count;		/* of changes */
	const char *sender, *options;	/* new ones, or NULL */
	const char *quarantine;
};

/* Does what an answer asks for, if it asks for a change.  Returns false, and
   does nothing, if it is none.  A fault is in m->fault. */
bool	milter_change(struct milter_change *c, char command, uint64_t body);

/* The filter has accepted: makes the changes.  Returns 0, or -1 with errno. */
int	milter_commit(struct milter_change *c);

/* Drops what was changed in a transaction. */
void	milter_undo(struct milter *m);

#endif
