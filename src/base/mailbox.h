/*
 * mailbox.h - reads who a header field names: From:, Sender:, Reply-To:.
 */
#ifndef BASE_MAILBOX_H
#define BASE_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mail.h"

/* What a field names.  Spans are in the value that was read. */
struct mailbox_list {
	size_t count;		/* mailboxes, those in groups too */
	bool whole;		/* each of them has a domain */
	bool one;		/* it is one mailbox, in no group, and */
	/* its address: "jo@example.org", or all that stands between the angle
	   brackets, a route (RFC 5322 4.4) too. */
	struct span address;
	/* The first display name there is, of a mailbox or a group, as it is
	   written, without the blanks around it; len 0: there is none. */
	struct span name;
};

/*
 * Reads the value of a field: what follows the colon, folded or not, without
 * its last line end; lines end in CRLF or LF.  Grammar: address-list of
 * RFC 5322 3.4 with the obsolete forms of 4.4, UTF-8 (RFC 6532), and groups
 * (RFC 6854).  Beyond it, as devices and old programs write so: a mailbox
 * may be a local part alone; dots may stand anywhere in a local part; octets
 * above 127 need not be UTF-8; an encoded word may have any printable
 * characters.
 * False if it names nobody by that: then *l means nothing.
 */
bool	mailbox_read(struct span value, struct mailbox_list *l);

#endif
