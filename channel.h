/*
 * channel.h - the server's side of one SMTP or LMTP conversation.
 *
 * A channel is a function of octets.  You give it the client's octets, in
 * pieces of any size, and it collects the replies.  It reads no descriptor,
 * clock, environment or errno.  The replies do not depend on the pieces.
 *
 *	struct channel ch;
 *
 *	channel_init(&ch, &settings, &hooks, ctx);
 *	channel_greet(&ch);
 *	for (;;) {
 *		used += channel_feed(&ch, in + used, have - used);
 *		...write channel_output(&ch, &len), then call channel_sent()...
 *		if (ch.want == WANT_CLOSE)
 *			break;
 *		if (ch.want == WANT_TLS)
 *			...handshake, then channel_tls(); drop the rest of in...
 *		if (used == have)
 *			...read more into in...
 *	}
 *	channel_free(&ch);
 *
 * The program decides in hooks, one for each stage of the dialogue.  It adds
 * or replaces verbs by a table of its own, which is searched before the
 * built-in one.
 *
 * A client that speaks HTTP gets 421 4.7.0, and the session ends: a line whose
 * first word is GET, POST, PUT, HEAD, OPTIONS, CONNECT, PATCH or DELETE, or
 * that begins with "Host:", in any case.  If the program's own table has that
 * word as a verb, the line is a command.
 *
 * Protocol: RFC 5321, 2033 (LMTP), 1870 (SIZE), 6152 (8BITMIME), 6531
 * (SMTPUTF8), 2920 (PIPELINING), 3030 (CHUNKING, BINARYMIME), 2034 and 3463
 * (enhanced codes), 3461 (DSN), 9422 (LIMITS), 3207 (STARTTLS), 4954 (AUTH).
 *
 * Strings end in NUL and are not NULL, unless the comment says so.  The members
 * of session and envelope have the names that they have in Python's smtpd and
 * in aiosmtpd.
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

/*
 * This header's version.  A minor version adds; a major version may change, and
 * the shared library has another soname then.  The shared library also has
 * another soname when a struct becomes larger: its version may be newer than
 * this header's, but its structs are the same.
 */
#define CHANNEL_VERSION_MAJOR 1
#define CHANNEL_VERSION_MINOR 0
#define CHANNEL_VERSION (CHANNEL_VERSION_MAJOR * 1000 + CHANNEL_VERSION_MINOR)

#define CHANNEL_LINE_MAX 12290	/* octets of a line with CRLF; RFC 4954 4 */
#define CHANNEL_NAME_MAX 256	/* octets of a host name or address, with NUL */
/* The channel has so much room of its own, and allocates for more: */
#define CHANNEL_OUT 1024	/* octets of replies that wait */
#define CHANNEL_KEPT 512	/* octets of an envelope's strings */
#define CHANNEL_FEW 4		/* recipients */
#define CHANNEL_GROUP 128	/* RCPTs that are asked about at once */
#define CHANNEL_VERBS_MAX 64	/* verbs that command limits can count */

/*
 * The state of the dialogue: smtp_state in Python's smtpd.  A verb is legal in
 * a set of phases, which is written as the sum of 1U << PHASE_x.
 */
enum phase {
	PHASE_PROXY,	/* a PROXY header must come, before the greeting */
	PHASE_REFUSED,	/* our greeting was 554: only QUIT is legal */
	PHASE_CONNECT,	/* we have greeted, the client has not */
	PHASE_READY,	/* HELO, EHLO or LHLO given, no transaction */
	PHASE_MAIL,	/* sender given */
	PHASE_RCPT,	/* sender and at least one recipient given */
	PHASE_DATA,	/* in the text that follows DATA */
	PHASE_BDAT,	/* between two BDAT chunks */
	PHASE_AUTH,	/* the client must answer a challenge of AUTH */
	PHASE_CLOSED	/* the channel reads nothing more */
};

/* The channel cannot go on before its driver has done this: */
enum want {
	WANT_INPUT,	/* give more octets */
	WANT_TLS,	/* make a TLS handshake, then call channel_tls() */
	WANT_CLOSE	/* write the output, then hang up */
};

/* How message text is read that has a CR or an LF alone, or a NUL.  With
   BODY=BINARYMIME the message keeps every octet. */
enum bare_newline {
	BARE_REJECT,	/* the message is refused: 550 5.6.0 (RFC 5321 2.3.8) */
	BARE_NORMALIZE,	/* CR or LF becomes CRLF, which never ends a message;
			   NUL is dropped.  The message ends where it would
			   end with the NUL: "CRLF NUL . CRLF" does not end
			   it, and leaves a line that is a dot */
	BARE_UNIX	/* LF ends lines, "LF . LF" ends messages; a lone CR
			   and NUL are refused */
};

/* The keywords of EHLO: see channel_offer(). */
enum extension {
	EXT_PIPELINING,
	EXT_SIZE,
	EXT_8BITMIME,
	EXT_SMTPUTF8,
	EXT_CHUNKING,
	EXT_BINARYMIME,
	EXT_DSN,
	EXT_ENHANCEDSTATUSCODES,
	EXT_LIMITS,
	EXT_STARTTLS,
	EXT_AUTH,
	EXT_XCLIENT,
	EXT_XFORWARD,
	EXT_HELP,
	EXTENSIONS
};

/* Extensions that only add parameters to MAIL and RCPT, so that we have them
   where the next hop has: see channel_offer_next(). */
enum next_extension {
	NEXT_DELIVERBY,		/* RFC 2852 */
	NEXT_FUTURERELEASE,	/* RFC 4865 */
	NEXT_MT_PRIORITY,	/* RFC 6710 */
	NEXT_REQUIRETLS,	/* RFC 8689; under TLS only */
	NEXT_RRVS,		/* RFC 7293 */
	NEXT_EXTENSIONS
};

/* What a next hop can carry. */
struct channel_next {
	uint64_t size;		/* its SIZE, octets; 0: no limit known */
	uint64_t recipients;	/* of its LIMITS RCPTMAX; 0: none known */
	uint64_t messages;	/* likewise, MAILMAX */
	unsigned hidden;	/* 1U << EXT_x for what it lacks of ours */
	char lines[NEXT_EXTENSIONS][80];	/* as in its EHLO; "": none */
};

struct channel;

/*
 * One verb.  run gets the argument without blanks around it and without ASCII
 * control characters; it may have octets that are not UTF-8.  run answers by
 * channel_reply() exactly once.
 */
struct verb {
	const char *name;	/* upper case; NULL ends a table */
	unsigned when;		/* phases in which it is legal, else 503 */
	unsigned flags;		/* VERB_x */
	void (*run)(struct channel *ch, struct span arg);
	const char *help;	/* its syntax, for HELP; NULL: not listed */
	size_t more;		/* octets that its line may have in addition to
				   512, after EHLO or LHLO */
	/* Can this session use it?  NULL: yes.  If not, HELP omits it. */
	bool (*offered)(const struct channel *ch);
};

#define VERB_NOARG 1U	/* an argument is answered 501 */
#define VERB_ARG 2U	/* a missing argument is answered 501 */
#define VERB_CLEAR 4U	/* legal in clear text despite require_starttls */
#define VERB_ANON 8U	/* legal without AUTH despite auth_required */
#define VERB_SMTP 16U	/* exists in SMTP only */
#define VERB_LMTP 32U	/* exists in LMTP only */
#define VERB_RAW 64U	/* gets its argument unchecked, in every phase */
#define VERB_UNLIMITED 128U	/* the limit of "*" does not count it */

/* A session may use verb max times; one more is answered 421 4.7.0.  "*" stands
   for every verb that has no row of its own and is not VERB_UNLIMITED.  Of the
   built-in verbs RCPT and BDAT are. */
struct command_limit {
	const char *verb;	/* upper case; NULL ends a table */
	unsigned max;
};

/* How the channel behaves.  The channel borrows it: it must live as long as the
   channel, and must not change meanwhile.  channel_offer_auth(),
   channel_offer_xclient() and channel_offer_xforward() change what depends on
   the client. */
struct channel_settings {
	const char *fqdn;		/* our name in greeting and replies, at
					   most CHANNEL_NAME_MAX - 1 octets */
	uint64_t data_size_limit;	/* octets of a message; 0: no limit */
	bool enable_SMTPUTF8;		/* offer SMTPUTF8 */
	bool decode_data;		/* a message must be UTF-8; no 8BITMIME.
					   Not together with SMTPUTF8 */
	bool lmtp;			/* LHLO, and a reply per recipient */
	bool dsn;			/* offer DSN: the relay can carry it */
	enum bare_newline bare_newline;
	size_t max_recipients;		/* of one message; 0: no limit */
	unsigned max_errors;		/* replies of 400 and more in a session,
					   then 421 4.7.0; 0: no limit */
	unsigned max_messages;		/* in a session; 0: no limit */
	const struct command_limit *command_limits;	/* or NULL */
	const struct verb *verbs;	/* searched before the built-in table;
					   or NULL */
	const char *const *keywords;	/* more EHLO lines, the last is NULL; or
					   NULL */
	bool tls;			/* offer STARTTLS */
	bool tls_on_connect;		/* TLS before the greeting: RFC 8314
					   3.3 */
	bool require_starttls;		/* no mail without TLS: 530 5.7.0, or
					   454 4.7.0 if tls is false */
	const char *auth;		/* mechanisms, separated by spaces; a
					   last one of "?" is for some that are
					   unknown for now: 454 4.7.0, as is
					   ""; NULL: AUTH is not offered */
	bool auth_required;		/* no mail without AUTH: 530 5.7.0 */
	bool auth_require_tls;		/* AUTH only under TLS */
	unsigned max_auth_failures;	/* replies of 535 in a session, then 421
					   4.7.0; 0: no limit */
	bool proxy_protocol;		/* a PROXY header comes first */
	bool xclient;			/* offer XCLIENT to this client */
	bool xforward;			/* and XFORWARD */
	bool auth_foreign;		/* a next hop makes the texts of replies
					   to AUTH, which may repeat
					   credentials: they are not logged */
};

/*
 * The program's side of the dialogue.  Every hook may be NULL, which means yes.
 * ctx is the one that channel_init() got.  A span is valid during the call; it
 * is printable ASCII or UTF-8, without control characters, except in body,
 * dialogue and received.  r is the reply that the client will get; the hook may
 * change it, and must not use it after it has returned.  Everything else about
 * the session stands in the channel.
 */
struct channel_hooks {
	/* The greeting, 220.  A PROXY header or XCLIENT has set the peer.  421
	   and 521 (RFC 7504) hang up at once; after any other refusal only QUIT
	   is legal (RFC 5321 3.1). */
	void (*connect)(void *ctx, struct reply *r);
	/* HELO, or (extended) EHLO or LHLO: name is the client's name for
	   itself.  An octet of it that is not UTF-8 has become '?'. */
	void (*helo)(void *ctx, struct span name, bool extended,
	    struct reply *r);
	/* MAIL: path is without angle brackets and source route, and empty for
	   the null reverse-path.  options are as the client wrote them: each of
	   them is known and offered, none comes twice, blanks separate them. */
	void (*mail)(void *ctx, struct span path, struct span options,
	    struct reply *r);
	/* RCPT, likewise. */
	void (*rcpt)(void *ctx, struct span path, struct span options,
	    struct reply *r);
	/*
	 * If not NULL: MAIL (if mail is true) and n RCPTs that came at once, so
	 * that they can be asked about at once.  mailfrom and mail_options are
	 * set already.  r[0..mail + n): MAIL's, if mail is true, and then the
	 * recipients', in their order; where MAIL is refused they mean nothing.
	 * One command alone goes to mail or rcpt.
	 */
	void (*group)(void *ctx, bool mail, const struct recipient to[],
	    size_t n, struct reply r[]);
	/* DATA (r is 354) or the first BDAT of a message (r is 250): text will
	   follow.  The octets of a refused BDAT are read and dropped. */
	void (*data)(void *ctx, struct reply *r);
	/* One or more octets of the message, without stuffed dots.  Lines end
	   in CRLF, but with BODY=BINARYMIME the octets are as they came.
	   Where one call ends and the next begins has no meaning.  The hook
	   cannot refuse: it remembers the failure, and end refuses. */
	void (*body)(void *ctx, struct span text);
	/* The message is complete: relay it.  r[0..n) are 250.  n is 1 in SMTP.
	   In LMTP it is the number of rcpttos, in their order, and may be 0
	   (RFC 2033 4.3); r[0] exists even then. */
	void (*end)(void *ctx, struct reply r[], size_t n);
	/* In place of end, for a log: the message is complete, but the channel
	   refuses it (too large, a bare newline...), or data has refused it. */
	void (*refused)(void *ctx, const struct reply *r);
	/* The transaction is over: after end or a refused message, by RSET, by
	   a new greeting, STARTTLS or XCLIENT, by channel_free().  mailfrom and
	   rcpttos are still there.  Called only if mail has accepted. */
	void (*forget)(void *ctx);
	/* VRFY, EXPN: r is 252, 502. */
	void (*vrfy)(void *ctx, struct span address, struct reply *r);
	void (*expn)(void *ctx, struct span list, struct reply *r);
	/* NOOP, RSET, QUIT: r is 250, 250, 221. */
	void (*noop)(void *ctx, struct span arg, struct reply *r);
	void (*rset)(void *ctx, struct reply *r);
	void (*quit)(void *ctx, struct reply *r);
	/* STARTTLS: r is 220.  If it stays below 400, WANT_TLS follows. */
	void (*starttls)(void *ctx, struct reply *r);
	/*
	 * AUTH (RFC 4954).  In the first call of an exchange mechanism is its
	 * name in upper case, in the others it is empty.  response is valid
	 * base64, and empty if the client sent "=" or nothing; given tells an
	 * empty response from none.  r is 454.  Set it to 334 with a base64
	 * challenge as text, to 235 after channel_set_user(), or to a refusal.
	 * mechanism.p is NULL if the exchange has ended without a response: r
	 * is 501, or 500 for a line that was too long.
	 */
	void (*auth)(void *ctx, struct span mechanism, struct span response,
	    bool given, struct reply *r);
	/* A line that is no command, without control characters: r is 500,
	   and may become another refusal. */
	void (*unknown)(void *ctx, struct span line, struct reply *r);
	/* For a log: a line without its CRLF that we send (said), or that the
	   client has sent.  Asterisks replace whatever may be a credential: the
	   argument of AUTH, responses, and a line after these that is no
	   command.  A client's line may have any octet, NUL too. */
	void (*dialogue)(void *ctx, bool said, struct span line);
	/* For a log: octets of a PROXY header or of a message as the client
	   sent them, with stuffed dots and the line that ends the message. */
	void (*received)(void *ctx, struct span octets);
};

/* The result of a TLS handshake.  Each string may be "". */
struct channel_tls {
	char protocol[16];	/* "TLSv1.3" */
	char cipher[64];	/* "TLS_AES_256_GCM_SHA384" */
	char sni[CHANNEL_NAME_MAX];	/* server name that the client sent */
	char subject[CHANNEL_NAME_MAX];	/* common name of the verified client
					   certificate */
	char issuer[CHANNEL_NAME_MAX];	/* common name of its issuer */
	char fingerprint[128];	/* its digest, hexadecimal with colons */
};

/* The client's end of the connection, and ours.  An unknown address or name is
   "unknown", an unknown port is "". */
struct channel_peer {
	char address[CHANNEL_NAME_MAX];	/* "192.0.2.1", "2001:db8::1", "unix" */
	char port[8];			/* "0" to "65535", or "" */
	char name[CHANNEL_NAME_MAX];	/* host name that somebody has verified,
				   XCLIENT's NAME, or "unknown" */
	char server_address[CHANNEL_NAME_MAX];	/* ours, or "" */
	char server_port[8];		/* ours, "0" to "65535", or "" */
};

/* The client of a server in front of us, for whose transaction that server
   speaks: what XFORWARD said, of what it did not say the values in brackets. */
struct channel_forward {
	char address[CHANNEL_NAME_MAX];	/* ["unknown"] */
	char port[8];			/* "0" to "65535" [""] */
	char name[CHANNEL_NAME_MAX];	/* ["unknown"] */
	char helo[CHANNEL_NAME_MAX];	/* [""] */
	char protocol[65];		/* "ESMTP" ["unknown"] */
	char ident[CHANNEL_NAME_MAX];	/* that server's name for the message
					   [""] */
	char source[8];			/* "LOCAL", "REMOTE" [""] */
};

/*
 * One conversation.  Everybody may read the members above the line; only the
 * functions below write them.  The members under the line are private.
 */
struct channel {
	/* The session. */
	enum want want;
	enum phase smtp_state;
	struct channel_peer peer;
	char seen_greeting[CHANNEL_NAME_MAX];	/* argument of HELO, EHLO or
				   LHLO: printable ASCII or UTF-8; or "" */
	bool extended_smtp;	/* EHLO or LHLO */
	bool ssl;		/* under TLS */
	struct channel_tls tls;
	bool authenticated;
	char auth_method[32];	/* "PLAIN", or "" */
	char auth_user[CHANNEL_NAME_MAX];	/* or "" */
	unsigned messages;	/* messages that got a reply below 400 */
	unsigned errors;	/* replies of 400 and more */
	struct reply refusal;	/* the first of them; code 0: there is none */
	char farewell[128];	/* the 421 that ended the session, cut to fit;
				   that there was no valid PROXY header; or
				   "" */
	/* The envelope. */
	bool forwarded;		/* XFORWARD came: see forward */
	char *mailfrom;		/* NULL: no MAIL yet; "": null reverse-path */
	char *mail_options;	/* "SIZE=12 BODY=8BITMIME", or ""; NULL: no MAIL
				   yet */
	struct recipient *rcpttos;	/* rcpttos[0..nrcpttos) */
	size_t nrcpttos;	/* 0 to settings' max_recipients */
	bool smtp_utf8;		/* MAIL had SMTPUTF8 */
	enum body body;
	uint64_t declared;	/* octets that MAIL's SIZE announced, or 0 */
	uint64_t size;		/* octets of text so far, with CRLF, without
				   stuffed dots */
	struct reply verdict;	/* the channel refuses this message so; code 0:
				   it does not */

	/* ------------------------------------------------------------------ */
	const struct channel_settings *set;
	const char *auth;	/* see channel_offer_auth() */
	bool xclient;		/* see channel_offer_xclient() */
	bool xforward;		/* see channel_offer_xforward() */
	unsigned hidden;	/* see channel_offer() */
	const char *const *keywords;	/* likewise; or NULL */
	const struct channel_next *next;	/* see channel_offer_next() */
	bool paused;		/* see channel_pause() */
	bool mail_waits;	/* MAIL is not answered yet, */
	size_t waiting;		/* nor are so many RCPTs, which stand in
				   rcpttos after the first nrcpttos */
	const struct channel_hooks *hooks;
	void *ctx;		/* for hooks, and for verbs of the program */
	char *out;		/* replies that are not yet written: points to
				   first, or is owned */
	size_t outlen, outsent, outsize;
	bool failed;		/* sticky: no memory for a reply */
	bool hushed;		/* this reply's text is not to be logged */
	size_t linelen;		/* octets of line gathered */
	bool guarded;		/* a line may have been a credential: so may
				   this one, if it is no command */
	bool overlong;		/* the line had more, which was dropped */
	size_t keptlen;		/* octets of kept that are used */
	struct channel_kept *more;	/* strings that do not fit in kept;
				   owned */
	size_t rcptsize;	/* rows of rcpttos, which is few or owned */
	uint64_t chunk;		/* BDAT octets that have not come yet */
	bool last;		/* the chunk is BDAT LAST */
	bool drop;		/* the chunk belongs to no transaction */
	unsigned at;		/* state of the text decoder: enum at */
	unsigned utf8;		/* state of the UTF-8 check */
	char mechanism[32];	/* of the AUTH exchange */
	unsigned auth_failures;	/* replies of 535 */
	unsigned mails;		/* MAIL commands that were accepted */
	unsigned calls[CHANNEL_VERBS_MAX];
	/* Never cleared: */
	char first[CHANNEL_OUT];
	char kept[CHANNEL_KEPT];	/* strings of the envelope */
	struct recipient few[CHANNEL_FEW];
	char line[CHANNEL_LINE_MAX + 1];
	/* If forwarded; everybody may read it. */
	struct channel_forward forward;
};

/*
 * Initializes ch, without a reply.  Borrows set, hooks and ctx for ch's life.
 * ch must not be moved: its members point into it.
 * ch->peer is "unknown"; a driver that knows the peer writes it afterwards.
 */
void	channel_init(struct channel *ch, const struct channel_settings *set,
	    const struct channel_hooks *hooks, void *ctx);

/*
 * Begins: greets, or wants TLS first, or waits for a PROXY header.  While
 * ch->smtp_state is PHASE_PROXY a driver must keep the octets that
 * channel_feed() has left: a TLS handshake may follow the header.
 */
void	channel_greet(struct channel *ch);

/*
 * Takes octets from the client.  Returns how many it used: all of them, or
 * fewer if the channel wants TLS, wants to close, or has so many replies
 * waiting that they must be written first.  Give the rest again, except after
 * WANT_TLS: the client sent it in the clear, and the driver must drop it
 * (RFC 3207 4.2).
 */
size_t	channel_feed(struct channel *ch, const char *bytes, size_t len);

/* Replies to write: *len octets, owned by ch, valid until the next call. */
const char *channel_output(const struct channel *ch, size_t *len);

/* Removes the first len octets of the output: the driver has written them. */
void	channel_sent(struct channel *ch, size_t len);

/*
 * To be called after the handshake that WANT_TLS asked for.  Forgets everything
 * that the client said in the clear (RFC 3207 4.2); with tls_on_connect,
 * greets.  Copies tls.
 */
void	channel_tls(struct channel *ch, const struct channel_tls *tls);

/* Ends the session with a reply of the driver's own (421: RFC 5321 3.8). */
void	channel_close(struct channel *ch, int code, const char *enh,
	    const char *text);

/*
 * Changes which AUTH mechanisms are offered, from the next reply on, in place
 * of channel_settings' auth.  Borrows mechanisms until the next call or until
 * ch ends.
 * For the connect and helo hooks, which know the client.
 */
void	channel_offer_auth(struct channel *ch, const char *mechanisms);

/* Changes whether XCLIENT is offered, in place of channel_settings' xclient. */
void	channel_offer_xclient(struct channel *ch, bool offered);

/* Likewise for XFORWARD. */
void	channel_offer_xforward(struct channel *ch, bool offered);

/*
 * Changes what EHLO offers, from the next reply on.  hidden is the sum of
 * 1U << EXT_x for extensions that this client cannot have: EHLO does not list
 * them, their parameters are answered 555 and their verbs 502 or 454, without
 * ENHANCEDSTATUSCODES replies have no enhanced code.  keywords are more lines,
 * the last is NULL; one that begins with a keyword of ours stands in the place
 * of that line.  NULL: none.  Borrows keywords until the next call or until ch
 * ends.  For the connect and helo hooks.
 */
void	channel_offer(struct channel *ch, unsigned hidden,
	    const char *const *keywords);

/* A next hop of which nothing is known yet but that it has answered EHLO. */
void	channel_next_open(struct channel_next *n);

/* One more line of its answer, "SIZE 1000", without the code.  A line that
   makes no sense is skipped. */
void	channel_next_line(struct channel_next *n, struct span line);

/*
 * Offers no more than the next hop can carry, from the next reply on: the
 * smaller SIZE and LIMITS, of 8BITMIME, SMTPUTF8, BINARYMIME and DSN what it
 * has too, and the extensions of enum next_extension that it has.  Their
 * parameters are checked for syntax and stand in options as the client wrote
 * them.  NULL: what we can alone.  Borrows n until the next call or until ch
 * ends.  For the helo hook.
 */
void	channel_offer_next(struct channel *ch, const struct channel_next *n);

/* The EXT_x of a keyword in any case, or -1. */
int	channel_extension(struct span keyword);

/* For hooks: channel_feed() returns after the command, or the message, that the
   hook was called for, so that its reply is the last one of the output. */
void	channel_pause(struct channel *ch);

/* Sets auth_user, cut to fit; for the auth hook before it sets 235. */
void	channel_set_user(struct channel *ch, const char *user);

/* Calls forget if a transaction is open, and frees what ch owns.  ch may be all
   zeros, or already freed. */
void	channel_free(struct channel *ch);

/* For verbs: answers the command.  enh is "" for none.  Newlines separate the
   lines of text; its other control characters become '?'. */
void	channel_reply(struct channel *ch, int code, const char *enh,
	    const char *text);

/* Is name, in any case, a built-in verb? */
bool	channel_verb(const char *name);

/* The library's CHANNEL_VERSION. */
unsigned channel_version(void);

/* The library's sizeof(struct channel), for languages that do not read this
   header. */
size_t	channel_size(void);

#ifdef __cplusplus
}
#endif

#endif
