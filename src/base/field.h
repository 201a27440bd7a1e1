/*
 * field.h - finds the header fields of a message in its octets.
 *
 * The reader is pure: it gets octets, cut anywhere, and tells offsets.  It
 * keeps no text, so a field may be as long as the message.
 */
#ifndef BASE_FIELD_H
#define BASE_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FIELD_NAME_MAX 998	/* octets of a name: RFC 5322 2.1.1 */

/* One header field (RFC 5322 2.2), as offsets in the message. */
struct field {
	uint64_t at;		/* of its first octet, where the name begins */
	uint64_t value;		/* of the octet after the colon */
	uint64_t end;		/* of the octet after it and its line end */
	uint32_t name;		/* octets of the name; blanks may follow it */
	uint32_t hash;		/* field_hash() of the name */
	uint64_t lines;		/* line ends in it */
};

enum field_found {
	FIELD_MORE,	/* all octets were used, more decide */
	FIELD_ONE,	/* field is the next one */
	FIELD_BODY	/* the header is over */
};

struct field_reader {
	bool crlf;		/* lines end in CRLF; if not, in LF */
	uint64_t at;		/* offset of the next octet */
	uint64_t line;		/* offset of the line that is being read */
	unsigned state;		/* enum state in field.c */
	bool cr;		/* the last octet was CR */
	struct field next;	/* the field that is being read */
	struct field field;	/* the one that was found last */
	/* After FIELD_BODY: where the body begins; and whether an empty line,
	   which belongs to neither, ends the header.  None does where a line
	   is no field: that one is the body's first (RFC 5321 4.1.1.4 sets no
	   form for a header). */
	uint64_t body;
	bool empty_line;
};

/* Begins at offset 0 of a message. */
void	field_open(struct field_reader *r, bool crlf);

/* Takes octets.  *used becomes how many were used; give the rest again, until
   FIELD_MORE or FIELD_BODY is returned. */
enum field_found field_feed(struct field_reader *r, const char *p, size_t len,
	    size_t *used);

/* The message is over.  Returns FIELD_ONE once for a field that its end has
   ended, then FIELD_BODY. */
enum field_found field_finish(struct field_reader *r);

/* Hash of a name in any case. */
uint32_t field_hash(const char *name, size_t len);

#endif
