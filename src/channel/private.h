/*
 * private.h - functions and types that the files of the channel share.
 *
 * Embedders do not include it: channel.h is theirs.
 */
#ifndef CHANNEL_PRIVATE_H
#define CHANNEL_PRIVATE_H

#include "channel.h"

/* The state of the text decoder. */
enum at {
	BOL,	/* at the beginning of a line */
	TEXT,	/* within a line */
	CR,	/* after a CR that is held back */
	DOT,	/* after a dot that began a line, and is dropped */
	DOTCR	/* after such a dot and a CR */
};

/* ---- span.c ---- */

/* s without its first n octets, which it must have. */
struct span span_skip(struct span s, size_t n);

/* Compare in ASCII without regard to case, in every locale. */
bool	span_starts(struct span s, const char *word);
bool	span_same(struct span s, const char *word);

/* s without the blanks around it. */
struct span span_trim(struct span s);

/* Takes the first word off *s, and the blanks after it. */
struct span span_word(struct span *s);

bool	octet_high(char c);		/* not ASCII */

/* How many digits s begins with. */
size_t	span_digits(struct span s);

bool	span_clean(struct span s);	/* no text_is_control() in s */

/* Copies s and a NUL into to[0..size).  Returns false, and copies nothing, if
   it does not fit. */
bool	span_copy(char *to, size_t size, struct span s);

/*
 * Checks one octet of UTF-8 (RFC 3629 4).  *state is 0 between characters, and
 * otherwise counts the octets that are missing.  Returns false, and leaves
 * *state, if the octet cannot come here.
 */
bool	utf8_octet(unsigned *state, char octet);

/* Is all of s ASCII or UTF-8 (RFC 3629) without control characters, C1 among
   them? */
bool	span_printable(struct span s);

/* Copies a host name that a client calls itself.  Octets that are not UTF-8
   become '?'.  Returns false if it does not fit, or has C1 control characters
   in UTF-8.  s is span_clean(). */
bool	span_copy_name(char *to, size_t size, struct span s);

/* ---- output.c ---- */

/* Makes r a refusal unless it is one already: the first reason counts. */
void	reply_deny(struct reply *r, int code, const char *enh,
	    const char *text);

/* Writes one line of a reply; more: it is not the last one. */
void	reply_line(struct channel *ch, int code, bool more, const char *enh,
	    struct span text);

/* Takes the next line off *text, at most as long as a line of a reply may be.
   A challenge (334) is not broken (RFC 4954 4). */
struct span reply_next_line(int code, const char **text);

/* Writes a reply; 221 and 421 end the session.  Enhanced codes go only to
   clients that have sent EHLO, and not with 3yz (RFC 2034 3). */
void	reply_say(struct channel *ch, int code, const char *enh,
	    const char *text);

/* Counts a reply if it is an error, and keeps the first one for the program:
   it is often the cause of the others. */
void	reply_note(struct channel *ch, int code, const char *enh,
	    const char *text);

/* channel_reply() with the parts of r. */
void	reply_answer(struct channel *ch, const struct reply *r);

/* ---- channel.c ---- */

/* Makes r 503: the command is not for this phase. */
void	reply_deny_sequence(const struct channel *ch, struct reply *r);

/* ---- transaction.c ---- */

/* Ends the transaction, if there is one, and returns to PHASE_READY if the
   client has greeted. */
void	transaction_forget(struct channel *ch);

/* Is there a MAIL or a RCPT that is not answered yet? */
bool	transaction_waits(const struct channel *ch);

/* Answers them, if there are any. */
void	transaction_settle(struct channel *ch);

void	do_mail(struct channel *ch, struct span arg);
void	do_rcpt(struct channel *ch, struct span arg);

/* ---- message.c ---- */

/* Takes text after DATA, or of a BDAT chunk.  Returns how many octets it used:
   all of them, or up to the end of the message. */
size_t	message_text(struct channel *ch, const char *p, size_t len);

/* Takes octets of the BDAT chunk that ch->chunk counts.  Returns how many. */
size_t	message_chunk(struct channel *ch, const char *p, size_t len);

void	do_data(struct channel *ch, struct span arg);
void	do_bdat(struct channel *ch, struct span arg);

/* ---- address.c ---- */

/*
 * Reads an address, and writes it as every address is written: RFC 5952 4, and
 * as IPv4 what is IPv4 in IPv6, as a server with one socket for both families
 * calls its IPv4 clients.  Returns false if it is none, or IPv4 with a leading
 * zero, which others could read as octal.
 */
bool	parse_ip(char to[CHANNEL_NAME_MAX], struct span s);

/* Writes it so. */
void	write_ipv6(char to[CHANNEL_NAME_MAX], const unsigned char a[16]);

bool	parse_port(const char *s);	/* 0 to 65535, without leading zeros */

/*
 * Takes a path off *s: "<mailbox>", "<>", or a mailbox without brackets, as
 * Python's smtpd and Postfix do.  *out is without brackets and source route.
 * Returns false if there is none, or if it is not printable.
 */
bool	parse_path(struct span *s, struct span *out);

/* ---- parameter.c ---- */

/* A flag of verbs whose line is longer by these octets where there is a next
   hop: RFC 2852 4: 17, 4865 5: 34, 6710 4: 15, 8689 2: 11; 7293 4: 33. */
#define VERB_NEXT (1U << 31)
#define NEXT_MORE 80

/* Is the extension withdrawn, by channel_offer() or because the next hop lacks
   it? */
bool	is_hidden(const struct channel *ch, enum extension e);

/* Does this session have the extension?  AUTH also while its mechanisms are not
   known. */
bool	offers_8bit(const struct channel *ch);
bool	offers_smtputf8(const struct channel *ch);
bool	offers_dsn(const struct channel *ch);
bool	offers_tls(const struct channel *ch);
bool	offers_auth(const struct channel *ch);
/* Does the list of mechanisms, which is not NULL, lack some for now? */
bool	auth_is_short(const struct channel *ch);

/* Takes "name" or "name=value" off *s.  Without a value, value->p is NULL.
   Returns false if it is neither. */
bool	parse_parameter(struct span *s, struct span *name, struct span *value);

/* Read the parameters s into ch.  r becomes 501 if one is malformed or comes
   twice, 555 if it is not offered (RFC 5321 4.1.1.11). */
void	parse_mail_parameters(struct channel *ch, struct span s,
	    struct reply *r);
void	parse_rcpt_parameters(struct channel *ch, struct span s,
	    struct reply *r);

/* ---- next.c ---- */

/* The smaller of two limits, each of which is none if it is 0. */
uint64_t smaller_limit(uint64_t ours, uint64_t theirs);

/* Octets that a message may have: the settings' limit or the next hop's; 0:
   any. */
uint64_t size_limit(const struct channel *ch);

/* Does the next hop have the extension, and may this session use it? */
bool	offers_next(const struct channel *ch, enum next_extension e);

/*
 * Checks a parameter of an extension that the next hop has.  False: it is none.
 * *seen is the sum of those that were there before; r becomes 501 for a bad
 * value.
 */
bool	next_parameter(const struct channel *ch, struct span name,
	    struct span value, bool mail, unsigned *seen, struct reply *r);

/* ---- session.c ---- */

/* Greets, or wants TLS first. */
void	begin_session(struct channel *ch);

/* Asks the connect hook, and writes the greeting. */
void	greet_client(struct channel *ch);

void	do_helo(struct channel *ch, struct span arg);
void	do_ehlo(struct channel *ch, struct span arg);
void	do_noop(struct channel *ch, struct span arg);
void	do_rset(struct channel *ch, struct span arg);
void	do_quit(struct channel *ch, struct span arg);
void	do_vrfy(struct channel *ch, struct span arg);
void	do_expn(struct channel *ch, struct span arg);
void	do_starttls(struct channel *ch, struct span arg);

/* ---- auth.c ---- */

void	do_auth(struct channel *ch, struct span arg);

/* Takes the line that answers a challenge.  "*" gives up: 501 (RFC 4954 4).  A
   line that is no response ends the exchange; one of HTTP ends the session. */
void	auth_response(struct channel *ch, struct span line, bool http);

/* ---- xclient.c ---- */

void	do_xclient(struct channel *ch, struct span arg);
void	do_xforward(struct channel *ch, struct span arg);

/* ---- proxy.c ---- */

/* Takes octets of the PROXY header that must come first, and not one more.
   Returns how many.  Hangs up without a reply if they are none of it. */
size_t	proxy_take(struct channel *ch, const char *p, size_t len);

#endif
