/*
 * header.h - keeps the client's first line out of the header fields that are
 * written in front of a message, and counts its Received: fields.
 */
#ifndef SESSION_HEADER_H
#define SESSION_HEADER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mail.h"

#define HEADER_HELD 2048	/* octets of lines that are not decided yet */

/* What the first line is looked at for. */
enum guard {
	GUARD_NONE,	/* nothing: all octets are emitted as they come */
	GUARD_HEADER,	/* somebody will read the header, or add to it */
	GUARD_FIELDS	/* fields stand in front of the message already */
};

struct header {
	enum guard guard;
	bool decided;		/* the first line is known for what it is */
	bool body;		/* the empty line has been seen */
	unsigned received;	/* Received: fields so far */
	size_t column;		/* octets of the current line */
	char start[9];		/* its first octets, in lower case */
	size_t held;
	void (*emit)(void *ctx, const char *p, size_t len);
	void *ctx;
	char *hold;		/* room for HEADER_HELD octets, borrowed */
};

/*
 * Begins a message; h->hold is set before.
 * - If the first line is no header field (it begins with a blank, or no name
 *   and colon are in it), and guard is GUARD_FIELDS, an empty line is put in
 *   front of the message.
 * - Mbox separators ("From ", ">From ") in front of a header field become
 *   X-Mailbox-Line: fields, if guard is not GUARD_NONE.
 */
void	header_open(struct header *h, enum guard guard,
	    void (*emit)(void *ctx, const char *p, size_t len), void *ctx);

/* Some octets of the message, cut anywhere. */
void	header_feed(struct header *h, struct span text);

/* The message is complete: emits what is held. */
void	header_close(struct header *h);

#endif
