/*
 * mime.h - the parts of a message (RFC 2045 to 2047, 2231), to be looked at.
 *
 * Everything is pure and reads octets that anybody may have written: work is
 * linear in them, memory is struct mime.  What is malformed is read as plain
 * text rather than refused.  No text that comes out is safe to show as it is:
 * see text_printable().
 */
#ifndef BASE_MIME_H
#define BASE_MIME_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mail.h"

#define MIME_PARTS 64	/* that are told; the others are one part more */
#define MIME_DEPTH 16	/* multiparts in multiparts; deeper ones are text */
#define MIME_TEXT 256	/* octets of a decoded name or subject, with NUL */

enum mime_encoding {
	MIME_PLAIN,	/* 7bit, 8bit, binary, and what is unknown */
	MIME_QUOTED,	/* quoted-printable */
	MIME_BASE64,
	MIME_WORD	/* "Q" of RFC 2047 4.2 */
};

/* A part that has no parts; or a message in the message, whose parts are those
   that follow. */
struct mime_part {
	char type[80];		/* "text/plain", in lower case */
	char charset[32];	/* in lower case, or "" */
	char name[MIME_TEXT];	/* of the file; or the subject of a message */
	enum mime_encoding encoding;
	bool attachment;	/* Content-Disposition: says so */
	bool message;		/* it is a message */
	struct span body;	/* as it stands; of a message it is empty */
};

struct mime {
	char subject[MIME_TEXT];	/* "": there is none */
	struct mime_part part[MIME_PARTS];
	size_t n;
	bool more;		/* there are more parts than that */
};

/* Reads a whole message, whose lines end in CRLF or LF.  The spans are in it.
   There is at least one part. */
void	mime_read(struct mime *m, struct span message);

/*
 * Decodes s from offset *at on, which moves, into to[0..size); size is at
 * least 4.  Returns how many octets there are, 0 at the end.  What is not
 * encoded as it should be is taken as it is, or left out of base64.
 */
size_t	mime_decode(enum mime_encoding encoding, struct span s, size_t *at,
	    char *to, size_t size);

/* Whether mime_utf8() knows that charset. */
bool	mime_charset_known(const char *charset);

/* The character that an octet is in a charset (in any case), as UTF-8, in
   to[0..4).  Returns its length.  UTF-8 and what is not known stay as they
   are. */
size_t	mime_utf8(const char *charset, unsigned char octet, char to[4]);

/* Decodes the encoded words (RFC 2047) of a field's value into UTF-8, one
   line, cut to fit; to[0..size) with NUL. */
void	mime_words(struct span value, char *to, size_t size);

/* The value of a parameter (RFC 2045 5.1, RFC 2231) of a field, as UTF-8, in
   to[0..size), cut to fit.  False, with "", if there is none. */
bool	mime_parameter(struct span value, const char *name, char *to,
	    size_t size);

#endif
