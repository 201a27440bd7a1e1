/*
 * private.h - what the files of the channel share.
 */
#ifndef CHANNEL_PRIVATE_H
#define CHANNEL_PRIVATE_H

#include "channel.h"

/* Where the text decoder stands. */
enum at {
	BOL,	/* at the beginning of a line */
	TEXT,	/* within one */
	CR,	/* behind a CR that is held back */
	DOT,	/* behind a line's first octet, a dot, which is dropped */
	DOTCR	/* behind that and a CR */
};

/* ---- span.c ---- */

struct span span_of(const char *s);
struct span span_skip(struct span s, size_t n);
bool	span_starts(struct span s, const char *word);
bool	span_same(struct span s, const char *word);
struct span span_trim(struct span s);
struct span span_word(struct span *s);
bool	octet_alnum(char c);
bool	octet_control(char c);
bool	octet_high(char c);
bool	span_clean(struct span s);
bool	span_ascii(struct span s);
bool	span_copy(char *to, size_t size, struct span s);
bool	utf8_octet(unsigned *state, char octet);

/* Is all of s ASCII or UTF-8 (RFC 3629) without control characters, C1 among
   them? */
bool	span_printable(struct span s);

/* Copies a host name that the client calls itself: other octets than UTF-8
   become '?'.  False if it does not fit, or has C1 control characters. */
bool	span_copy_name(char *to, size_t size, struct span s);

/* ---- output.c ---- */

void	reply_deny(struct reply *r, int code, const char *enh,
	    const char *text);
void	reply_line(struct channel *ch, int code, bool more, const char *enh,
	    struct span text);
struct span reply_next_line(int code, const char **text);
void	reply_say(struct channel *ch, int code, const char *enh,
	    const char *text);
void	reply_note(struct channel *ch, int code, const char *enh,
	    const char *text);
void	reply_answer(struct channel *ch, const struct reply *r);

/* ---- transaction.c ---- */

void	transaction_forget(struct channel *ch);
void	do_mail(struct channel *ch, struct span arg);
void	do_rcpt(struct channel *ch, struct span arg);

/* ---- message.c ---- */

size_t	message_text(struct channel *ch, const char *p, size_t len);
void	do_data(struct channel *ch, struct span arg);
void	do_bdat(struct channel *ch, struct span arg);
size_t	message_chunk(struct channel *ch, const char *p, size_t len);

/* ---- address.c ---- */

bool	parse_ipv4(struct span s);
bool	parse_ipv6(struct span s);
bool	parse_path(struct span *s, struct span *out);
bool	parse_port(const char *s);

/* ---- parameter.c ---- */

/* Does this session have that extension? */
bool	offers_8bit(const struct channel *ch);
bool	offers_smtputf8(const struct channel *ch);
bool	offers_dsn(const struct channel *ch);
bool	offers_tls(const struct channel *ch);
bool	offers_auth(const struct channel *ch);
bool	parse_parameter(struct span *s, struct span *name, struct span *value);
void	parse_mail_parameters(struct channel *ch, struct span s,
	    struct reply *r);
void	parse_rcpt_parameters(struct channel *ch, struct span s,
	    struct reply *r);

/* ---- session.c ---- */

void	greet_client(struct channel *ch);
void	do_helo(struct channel *ch, struct span arg);
void	do_ehlo(struct channel *ch, struct span arg);
void	do_noop(struct channel *ch, struct span arg);
void	do_rset(struct channel *ch, struct span arg);
void	do_quit(struct channel *ch, struct span arg);
void	do_vrfy(struct channel *ch, struct span arg);
void	do_expn(struct channel *ch, struct span arg);
void	do_starttls(struct channel *ch, struct span arg);
void	begin_session(struct channel *ch);

/* ---- auth.c ---- */

void	do_auth(struct channel *ch, struct span arg);

/* Takes the line that answers a challenge.  "*" gives up: 501 (RFC 4954 4); a
   line that is no response ends the exchange, and one of http the session. */
void	auth_response(struct channel *ch, struct span line, bool http);

/* ---- xclient.c ---- */

void	do_xclient(struct channel *ch, struct span arg);

/* ---- proxy.c ---- */

size_t	proxy_take(struct channel *ch, const char *p, size_t len);

#endif
