/*
 * channel.h - the server's side of one SMTP or LMTP conversation.
 *
 * A channel is a function of bytes.  You give it what the client sent, in
 * pieces of any size, and it collects the replies; it reads no descriptor,
 * clock, environment or errno, and where the pieces were cut never shows.
 *
 *	struct channel ch;
 *
 *	channel_init(&ch, &settings, &hooks, ctx);
 *	channel_greet(&ch);
 *	for (;;) {
 *		used += channel_feed(&ch, in + used, have - used);
 *		...write channel_output(&ch, &len), say so by channel_sent()...
 *		if (ch.want == WANT_CLOSE)
 *			break;
 *		if (ch.want == WANT_TLS)
 *			...handshake, then channel_tls(); drop the rest of in...
 *		if (used == have)
 *			...read more into in...
 *	}
 *	channel_free(&ch);
 *
 * What the program wants to decide it decides in hooks, one for each stage
 * of the dialogue.  What it wants to add or replace are verbs, in a table of
 * its own that is searched before the built-in one.
 *
 * Protocol: RFC 5321, 2033 (LMTP), 1870 (SIZE), 6152 (8BITMIME), 6531
 * (SMTPUTF8), 2920 (PIPELINING), 3030 (CHUNKING, BINARYMIME), 2034 and 3463
 * (enhanced codes), 3461 (DSN), 9422 (LIMITS), 3207 (STARTTLS), 4954 (AUTH).
 *
 * Strings are NUL-terminated and never NULL unless it is said; the names of
 * the session's and the envelope's members are those of Python's smtpd and
 * aiosmtpd where these have them.
 */
#ifndef CHANNEL_H
#define CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mail.h"	/* span, reply, recipient, body */

#ifdef __cplusplus
extern "C" {
#endif

#define CHANNEL_LINE_MAX 12290	/* octets of a line with CRLF; RFC 4954 4 */
#define CHANNEL_NAME_MAX 256	/* octets of a host name or address, with NUL */
/* What costs no malloc: */
#define CHANNEL_OUT 1024	/* octets of replies that wait */
#define CHANNEL_KEPT 512	/* octets of an envelope's strings */
#define CHANNEL_FEW 4		/* recipients */
#define CHANNEL_VERBS_MAX 64	/* verbs that command limits can count */

/*
 * Where the dialogue stands: the seed modules' smtp_state.  A verb is legal
 * in a set of these, written as the sum of 1U << PHASE_x.
 */
enum phase {
	PHASE_PROXY,	/* a PROXY protocol header is due, before the greeting */
	PHASE_REFUSED,	/* our greeting was 554: only QUIT is taken */
	PHASE_CONNECT,	/* greeted by us, not yet by the client */
	PHASE_READY,	/* HELO, EHLO or LHLO given, no transaction */
	PHASE_MAIL,	/* sender given */
	PHASE_RCPT,	/* sender and at least one recipient given */
	PHASE_DATA,	/* in the text that follows DATA */
	PHASE_BDAT,	/* between two BDAT chunks */
	PHASE_AUTH,	/* an AUTH response is due */
	PHASE_CLOSED	/* nothing more is read */
};

/* What the channel needs from its driver before it can go on. */
enum want {
	WANT_INPUT,	/* more octets */
	WANT_TLS,	/* a TLS handshake, then channel_tls() */
	WANT_CLOSE	/* the end: write the output, hang up */
};

/* What becomes of a CR or LF that stands alone in message text, and of a NUL.
   BODY=BINARYMIME keeps every octet. */
enum bare_newline {
	BARE_REJECT,	/* the message is refused: 550 5.6.0 (RFC 5321 2.3.8) */
	BARE_NORMALIZE,	/* CR or LF becomes CRLF, which never ends a message;
			   NUL is dropped.  The message ends where it would
			   end with the NUL: "CRLF NUL . CRLF" does not end
			   it, and leaves a line that is a dot */
	BARE_UNIX	/* LF ends lines, "LF . LF" ends messages; a lone CR
			   and NUL are refused */
};

struct channel;

/*
 * One verb.  run gets what followed the verb, without surrounding blanks and
 * without control characters, and answers by channel_reply() exactly once.
 */
struct verb {
	const char *name;	/* upper case; NULL ends a table */
	unsigned when;		/* phases in which it is legal, else 503 */
	unsigned flags;		/* VERB_x */
	void (*run)(struct channel *ch, struct span arg);
	const char *help;	/* its syntax, for HELP; NULL: not listed */
	size_t more;		/* octets that its line may be longer than 512,
				   once EHLO or LHLO was given */
	bool (*offered)(const struct channel *ch);	/* does HELP list it in
				   this session?  NULL: yes */
};

#define VERB_NOARG 1U	/* an argument is answered 501 */
#define VERB_ARG 2U	/* a missing argument is answered 501 */
#define VERB_CLEAR 4U	/* legal in clear text despite require_starttls */
#define VERB_ANON 8U	/* legal without AUTH despite auth_required */
#define VERB_SMTP 16U	/* exists in SMTP alone */
#define VERB_LMTP 32U	/* exists in LMTP alone */
#define VERB_RAW 64U	/* gets its argument unchecked, in every phase */
#define VERB_UNLIMITED 128U	/* the limit of "*" does not count it */

/* At most max uses of verb in a session, then 421 4.7.0.  "*" stands for every
   verb that has no row of its own and is not VERB_UNLIMITED (of the built-in
   ones RCPT and BDAT are). */
struct command_limit {
	const char *verb;	/* upper case; NULL ends a table */
	unsigned max;
};

/* How the channel behaves.  Borrowed: it must outlive the channel, and must
   not change while the channel exists.  What depends on the client is changed
   by channel_offer_auth() and channel_offer_xclient(). */
struct channel_settings {
	const char *fqdn;		/* our name in greeting and replies */
	uint64_t data_size_limit;	/* octets of a message; 0: no limit */
	bool enable_SMTPUTF8;		/* offer SMTPUTF8 */
	bool decode_data;		/* a message must be UTF-8; no 8BITMIME.
					   Not together with SMTPUTF8 */
	bool lmtp;			/* LHLO, and a reply per recipient */
	bool dsn;			/* offer DSN: the relay can carry it */
	enum bare_newline bare_newline;
	size_t max_recipients;		/* of one message; 0: no limit */
	unsigned max_errors;		/* replies >= 400 in a session; 0: none */
	unsigned max_messages;		/* in a session; 0: no limit */
	const struct command_limit *command_limits;	/* or NULL */
	const struct verb *verbs;	/* searched before the built-in; NULL */
	const char *const *keywords;	/* further EHLO lines, NULL-terminated;
					   or NULL */
	bool tls;			/* offer STARTTLS */
	bool tls_on_connect;		/* TLS before the greeting (RFC 8314 3) */
	bool require_starttls;		/* no mail without TLS: 530 5.7.0; 454
					   4.7.0 if tls is false */
	const char *auth;		/* mechanisms, separated by spaces, "":
					   nobody can say for now, 454 4.7.0;
					   NULL: AUTH is not offered */
	bool auth_required;		/* no mail without AUTH: 530 5.7.0 */
	bool auth_require_tls;		/* AUTH only under TLS */
	unsigned max_auth_failures;	/* then 421 4.7.0; 0: no limit */
	bool proxy_protocol;		/* a PROXY header comes first */
	bool xclient;			/* offer XCLIENT to this client */
};

/*
 * The program's side of the dialogue.  Every hook may be NULL: the default is
 * to say yes.  ctx is what channel_init() was given.  Spans are the client's
 * own octets, valid during the call, free of control characters; r is the
 * reply that the client will get, and may be changed.  What a hook learns of
 * the session it reads from the channel.  Unless it is said otherwise, r is
 * not used once the hook has returned.
 */
struct channel_hooks {
	/* The greeting, 220; the peer is what a PROXY header or XCLIENT made
	   it.  421 or 521 (RFC 7504) hang up at once, any other refusal leaves
	   the client nothing but QUIT (RFC 5321 3.1). */
	void (*connect)(void *ctx, struct reply *r);
	/* HELO, or (extended) EHLO or LHLO: name is what the client calls
	   itself.  It may be UTF-8; an octet that is not became '?'. */
	void (*helo)(void *ctx, struct span name, bool extended,
	    struct reply *r);
	/* MAIL: path is without angle brackets and source route, empty for the
	   null reverse-path; options are as the client wrote them. */
	void (*mail)(void *ctx, struct span path, struct span options,
	    struct reply *r);
	/* RCPT, likewise. */
	void (*rcpt)(void *ctx, struct span path, struct span options,
	    struct reply *r);
	/* DATA (r is 354) or the first BDAT of a message (r is 250): text will
	   follow.  A refused BDAT's octets are read and dropped. */
	void (*data)(void *ctx, struct reply *r);
	/* Some octets of the message, unstuffed, lines ended by CRLF (but with
	   BODY=BINARYMIME just as they came).  It can not fail: remember, and
	   say so in end. */
	void (*body)(void *ctx, struct span text);
	/* The message is complete: relay it.  r[0..n) are 250; n is 1 in SMTP,
	   and in LMTP the number of rcpttos, in their order, which may be 0
	   (RFC 2033 4.3); r[0] is there even then. */
	void (*end)(void *ctx, struct reply r[], size_t n);
	/* Instead of end, for a log: the message is complete, but the channel
	   refuses it (too large, a bare newline...), or data did. */
	void (*refused)(void *ctx, const struct reply *r);
	/* The transaction is forgotten: after end, by RSET, by a new greeting,
	   by a refused message, by channel_free().  mailfrom and rcpttos are
	   still there.  Called only if mail had accepted. */
	void (*forget)(void *ctx);
	/* VRFY, EXPN: r is 252, 502. */
	void (*vrfy)(void *ctx, struct span address, struct reply *r);
	void (*expn)(void *ctx, struct span list, struct reply *r);
	/* NOOP, RSET, QUIT, HELP: r is the reply that they always get. */
	void (*noop)(void *ctx, struct span arg, struct reply *r);
	void (*rset)(void *ctx, struct reply *r);
	void (*quit)(void *ctx, struct reply *r);
	/* STARTTLS: r is 220; WANT_TLS follows if it stays below 400. */
	void (*starttls)(void *ctx, struct reply *r);
	/*
	 * AUTH (RFC 4954).  mechanism is in upper case for the first call and
	 * empty for each further one of the same exchange; response is base64,
	 * checked as such ("=" or nothing: empty; given tells a response that
	 * is empty from none).  r is 454; set 334 with a base64 challenge as
	 * text, 235, or a refusal.  On 235 the hook has set auth_user by
	 * channel_set_user().  If mechanism.p is NULL the exchange was
	 * abandoned: r is 501, or 500 for a line that was too long.
	 */
	void (*auth)(void *ctx, struct span mechanism, struct span response,
	    bool given, struct reply *r);
	/* For a log: a line of the dialogue without its CRLF, said by us or
	   heard from the client, credentials replaced by asterisks.  What was
	   heard may have control characters, NUL among them. */
	void (*dialogue)(void *ctx, bool said, struct span line);
};

/* What TLS came to.  All strings may be "". */
struct channel_tls {
	char protocol[16];	/* "TLSv1.3" */
	char cipher[64];	/* "TLS_AES_256_GCM_SHA384" */
	char sni[CHANNEL_NAME_MAX];	/* the name the client asked for */
	char subject[CHANNEL_NAME_MAX];	/* common name of a client certificate
					   that was verified */
	char issuer[CHANNEL_NAME_MAX];	/* and that of its issuer */
	char fingerprint[128];	/* and its digest, hexadecimal with colons */
};

/* Who is at the other end: seed modules' peer.  Unknown: "unknown", "". */
struct channel_peer {
	char address[CHANNEL_NAME_MAX];	/* "192.0.2.1", "2001:db8::1", "unix" */
	char port[8];
	char name[CHANNEL_NAME_MAX];	/* as XCLIENT's NAME says, or "unknown" */
	char server_address[CHANNEL_NAME_MAX];	/* our end, or "" */
	char server_port[8];
};

/*
 * One conversation.  Members above the line are for everyone to read, and
 * are written by the functions below alone; those under it are private.
 */
struct channel {
	/* The session. */
	enum want want;
	enum phase smtp_state;
	struct channel_peer peer;
	char seen_greeting[CHANNEL_NAME_MAX];	/* HELO's argument, or "" */
	bool extended_smtp;	/* EHLO or LHLO */
	bool ssl;		/* under TLS */
	struct channel_tls tls;
	bool authenticated;
	char auth_method[32];	/* "PLAIN", or "" */
	char auth_user[CHANNEL_NAME_MAX];	/* or "" */
	unsigned messages;	/* messages that got a reply below 400 */
	unsigned errors;	/* replies of 400 and more */
	struct reply refusal;	/* the first of them, if there is any */
	/* The envelope. */
	char *mailfrom;		/* NULL: no MAIL yet; "": null reverse-path */
	char *mail_options;	/* "SIZE=12 BODY=8BITMIME", or ""; NULL as above */
	struct recipient *rcpttos;
	size_t nrcpttos;
	bool smtp_utf8;		/* MAIL had SMTPUTF8 */
	enum body body;
	uint64_t declared;	/* octets that MAIL's SIZE announced, or 0 */
	uint64_t size;		/* octets of text so far, with CRLF, unstuffed */
	struct reply verdict;	/* why the channel refuses this message; code
				   0: it does not */

	/* ------------------------------------------------------------------ */
	const struct channel_settings *set;
	const char *auth;	/* as set->auth: see channel_offer_auth() */
	bool xclient;		/* as set->xclient: see channel_offer_xclient() */
	const struct channel_hooks *hooks;
	void *ctx;		/* the hooks', for embedders' verbs too */
	char *out;		/* replies that are not written yet: first, or
				   owned */
	size_t outlen, outsent, outsize;
	bool failed;		/* sticky: no memory for a reply */
	size_t linelen;		/* octets of line gathered */
	bool guarded;		/* the last line was one of AUTH: what follows
				   and is no command may be a credential */
	bool overlong;		/* and more that were dropped */
	size_t keptlen;		/* octets of kept that are taken */
	struct channel_kept *more;	/* what did not fit there; owned */
	size_t rcptsize;	/* rows that rcpttos, few or owned, has */
	uint64_t chunk;		/* BDAT octets that are still to come */
	bool last;		/* of the chunk: BDAT LAST */
	bool drop;		/* of the chunk: belongs to no transaction */
	unsigned at;		/* where the text decoder stands */
	unsigned utf8;		/* where the UTF-8 check stands */
	char mechanism[32];	/* AUTH exchange that is going on */
	unsigned auth_failures;
	unsigned mails;		/* MAIL commands that were accepted */
	unsigned calls[CHANNEL_VERBS_MAX];
	/* Never cleared: */
	char first[CHANNEL_OUT];
	char kept[CHANNEL_KEPT];	/* the envelope's strings, if they fit */
	struct recipient few[CHANNEL_FEW];
	char line[CHANNEL_LINE_MAX + 1];
};

/*
 * Sets ch up; says nothing yet.  Borrows set, hooks and ctx for ch's life.
 * It must stay where it is: its members point into it.
 * ch->peer is "unknown"; a driver that knows better writes it now.
 */
void	channel_init(struct channel *ch, const struct channel_settings *set,
	    const struct channel_hooks *hooks, void *ctx);

/*
 * Begins: greets, or wants TLS first, or waits for a PROXY header.  While
 * ch->smtp_state is PHASE_PROXY a driver must not lose octets that
 * channel_feed() left: a TLS handshake may follow right behind the header.
 */
void	channel_greet(struct channel *ch);

/*
 * Takes octets from the client.  Returns how many were used: all of them,
 * or fewer if the channel wants TLS, wants to close, or has so many replies
 * waiting that they must be written first.  Octets not used are to be given
 * again, except after WANT_TLS: those were sent in the clear and are to be
 * dropped (RFC 3207 4.2).
 */
size_t	channel_feed(struct channel *ch, const char *bytes, size_t len);

/* Replies to write: *len octets, owned by ch, valid until the next call. */
const char *channel_output(const struct channel *ch, size_t *len);

/* The first len octets of the output were written. */
void	channel_sent(struct channel *ch, size_t len);

/*
 * The handshake that WANT_TLS asked for succeeded: everything that was learnt
 * in the clear is forgotten (RFC 3207 4.2), and with tls_on_connect we greet.
 * tls is copied.
 */
void	channel_tls(struct channel *ch, const struct channel_tls *tls);

/* Ends the session with a reply of the driver's own (421: RFC 5321 3.8). */
void	channel_close(struct channel *ch, int code, const char *enh,
	    const char *text);

/*
 * Changes which AUTH mechanisms are offered, from the next reply on: mechanisms
 * is what channel_settings' auth may be, borrowed until it is replaced or ch
 * ends.  For the connect and helo hooks, which know the client.
 */
void	channel_offer_auth(struct channel *ch, const char *mechanisms);

/* Changes whether XCLIENT is offered to this client, likewise. */
void	channel_offer_xclient(struct channel *ch, bool offered);

/* Records who authenticated; for the auth hook before it says 235. */
void	channel_set_user(struct channel *ch, const char *user);

/* Frees what ch owns, after calling forget if a transaction is open.  Legal
   on a zeroed struct, and twice. */
void	channel_free(struct channel *ch);

/* For verbs: answers the command.  enh is "" for none; text is made safe. */
void	channel_reply(struct channel *ch, int code, const char *enh,
	    const char *text);

/* Is name, in any case, one of this file's own verbs? */
bool	channel_verb(const char *name);

#ifdef __cplusplus
}
#endif

#endif
