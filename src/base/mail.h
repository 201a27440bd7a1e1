/*
 * mail.h - what all parts of smtpd mean by a span, a reply, a recipient and a
 * body.  It is installed with channel.h, compiles alone, and in C++.
 */
#ifndef BASE_MAIL_H
#define BASE_MAIL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define REPLY_TEXT 1024		/* octets of a reply's text, with NUL */

/* Octets that the caller owns, lent for the duration of one call. */
struct span {
	const char *p;
	size_t len;
};

/* One SMTP reply: RFC 5321 4.2. */
struct reply {
	int code;		/* 200 to 599; 0: there is none yet */
	char enh[12];		/* RFC 3463 "2.1.5", or "" for none */
	char text[REPLY_TEXT];	/* '\n' separates lines */
};

/* How a message body was announced: RFC 6152, RFC 3030 3. */
enum body {
	BODY_7BIT,
	BODY_8BITMIME,
	BODY_BINARYMIME
};

/* One recipient.  Both strings belong to the envelope's owner. */
struct recipient {
	const char *address;	/* byte for byte, without angle brackets */
	const char *options;	/* "NOTIFY=NEVER ORCPT=rfc822;a@example.org",
				   or "" */
};

/*
 * Replaces *r.  enh is the enhanced status code, or "" for none (RFC 3463); one
 * that is malformed, or whose class is not code's, becomes x.0.0 (RFC 2034 4).
 * text may have several lines, separated by '\n'; it is cut to fit.  Control
 * characters and octets that are not UTF-8 become '?'.  enh and text may be
 * r's own.
 */
void	reply_set(struct reply *r, int code, const char *enh,
	    const char *text);

#ifdef __cplusplus
}
#endif

#endif
