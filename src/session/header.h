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

struct header {
	bool guard;		/* fields are written in front of the message */
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
 * Begins a message; h->hold is set before.  Without guard all octets are
 * emitted as they come.  With it:
 * - if the first line is no header field (it begins with a blank, or no name
 *   and colon are in it), an empty line is put in front of the message;
 * - mbox separators ("From ", ">From ") in front of a header field become
 *   X-Mailbox-Line: fields.
 */
void	header_open(struct header *h, bool guard,
	    void (*emit)(void *ctx, const char *p, size_t len), void *ctx);

/* Some octets of the message, cut anywhere. */
void	header_feed(struct header *h, struct span text);

/* The message is complete: emits what is held. */
void	header_close(struct header *h);

#endif
