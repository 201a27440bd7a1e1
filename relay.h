/*
 * relay.h - takes one envelope and one spooled message and says what became
 * of them, for each recipient.
 *
 * Nothing here knows that there is an SMTP server: envelope, spool and
 * verdicts are plain data, and can cross a process boundary.
 */
#ifndef RELAY_H
#define RELAY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/envelope.h"
#include "base/logger.h"
#include "base/spool.h"

enum tls_level {
	TLS_NONE,	/* never */
	TLS_MAY,	/* STARTTLS if it is offered, unverified */
	TLS_MUST	/* STARTTLS, certificate and name verified, or 4yz */
};

/* How to relay.  Borrowed for the life of the relay. */
struct relay_settings {
	const char *spec;	/* "TRANSPORT:NEXTHOP", or NULL: */
	char *const *program;	/* argv of a program, NULL-terminated */
	const char *quarantine;	/* "maildir:DIR", or NULL */
	const char *routes;	/* file of routes, or NULL */
	const char *sender_routes;	/* the same, by sender */
	const char *fqdn;	/* what we call ourselves in EHLO and LHLO */
	bool crlf;		/* programs and Maildirs get CRLF, not LF */
	bool show;		/* messages that were relayed are shown on
				   standard error, which is not the client */
	unsigned keep;		/* messages that a Maildir keeps; 0: all */
	bool live;		/* next hops are asked during the dialogue */
	unsigned idle;		/* seconds for which a client that says nothing
				   holds them, without a transaction */
	bool lmtp;		/* we serve LMTP: verdicts may differ */
	int print;		/* descriptor of "print:"; -1: none, as it is
				   the client */
	bool print_journal;	/* systemd's journal is what reads there */
	unsigned timeout;	/* seconds for one message, all in all */
	unsigned next_timeout;	/* seconds until the next address of several
				   next hops is tried */
	enum tls_level tls;	/* of smtp: and lmtp: next hops */
	const char *tls_ca;	/* file of CA certificates; NULL: those of the
				   system */
	const char *tls_pins;	/* SHA-256 of the next hops' certificates, which
				   demands TLS; or NULL */
	const char *tls_program;	/* path of smtpd-tls, or NULL */
	const char *tls_resident;	/* "unix:PATH" of one that stays, or
					   NULL */
	const char *auth;	/* file of credentials for next hops, or NULL */
	bool xclient;		/* next hops are told by XCLIENT who the client
				   is */
	bool debug;		/* log the dialogue with next hops */
	bool through;		/* clients authenticate to the next hop */
	bool clear;		/* and may do so in clear text */
	struct logger log;
};

/* Writes how a relay can be named, "maildir:DIR" and so on, in lines of at most
   79 octets, into to[0..size): for --help. */
void	relay_syntax(char *to, size_t size);

/* Can the relay need smtpd-tls? */
bool	relay_needs_tls(const struct relay_settings *set);

struct expected;
struct findings;
struct relay;

/*
 * Reads the RELAY argument, connects nothing.  The files of routes and
 * credentials are opened here, for they may be readable by root only; a file
 * that cannot be opened is an error when it is needed.  Returns the process's
 * only relay, in static memory; or NULL with one sentence in error[0..size) if
 * the argument makes no sense.
 */
struct relay *relay_open(const struct relay_settings *set, char *error,
	    size_t size);

/* The form in which relay_deliver() wants the spool of a message. */
enum spool_form relay_form(const struct relay *r);

/* True if parameters of RFC 3461 reach the place that takes the message. */
bool	relay_dsn(const struct relay *r);

/* True if relay_rcpt() has anything to say: routes, or "error:". */
bool	relay_screens(const struct relay *r);

/*
 * Whether the message to this address goes out to another server (smtp:,
 * smtps:), so that not everybody may send it there.  *named becomes whether a
 * route names the address or its domain; patterns and "*" do not.  False where
 * the routes cannot be read: relay_rcpt() refuses then.
 */
bool	relay_forwards(struct relay *r, const struct envelope *env,
	    bool *named);

/* Whether relay_forwards() is true of any address. */
bool	relay_may_forward(const struct relay *r);

/*
 * Asked when a recipient is named, before the message: env has just that
 * recipient.  *v says yes and is changed only for a refusal that is certain
 * now: a route to "error:", or routes that cannot be read (451 4.3.5).
 */
void	relay_rcpt(struct relay *r, const struct envelope *env,
	    struct reply *v);

/*
 * The relay during the dialogue, where set->live is set.  Answers come in less
 * than the five minutes for which a client waits (RFC 5321 4.5.3.2), and within
 * set->timeout seconds.
 */

/* Is there a next hop that could answer? */
bool	relay_live_possible(const struct relay *r);

/* The client has greeted: connects the next hop of the command line.
   text[0..size) becomes "OK" and the lines of its EHLO that our client may
   see, each ended by a newline; or "" if it is away. */
void	relay_live_hello(struct relay *r, const struct envelope *env,
	    char *text, size_t size);

/*
 * The client names a sender (mail is not NULL) and env's recipients, of which
 * there may be none.  *mail and v[0..env->nrecipients) are 250, and become the
 * next hop's replies, as it gave them, or ours where it cannot be asked; where
 * *mail is a refusal, v means nothing.  With routes *mail stays, and each
 * place hears of the sender with its first recipient.
 */
void	relay_live_offer(struct relay *r, const struct envelope *env,
	    struct reply *mail, struct reply v[]);

/* Asks about env's one recipient.  *v stays where nobody can be asked. */
void	relay_live_vrfy(struct relay *r, const struct envelope *env,
	    struct reply *v);

/* Where env's first recipient, or without one its sender, was asked about: for
   the log.  Owned by r, until the next message or call. */
const struct notes *relay_live_notes(struct relay *r,
	    const struct envelope *env);

/* The transaction is over: after relay_deliver(), or by RSET. */
void	relay_live_forget(struct relay *r);

/*
 * AUTH (RFC 4954) between our client and the next hop of the command line,
 * where set->live and set->through are set.
 */

/* Whether it can ever be offered.  False with a sentence in error[0..size). */
bool	relay_auth_possible(const struct relay *r, char *error, size_t size);

/* The mechanisms, separated by blanks, that the next hop offers on the
   connection that relay_live_hello() opened, and that can be handed through:
   not EXTERNAL and those with channel binding (-PLUS), which are about our
   connection, nor ANONYMOUS, which names nobody.  "" if there are none.  Good
   until the next call. */
const char *relay_auth_mechanisms(struct relay *r);

/* One line of the client. */
struct relay_login {
	const char *mechanism;	/* in upper case; NULL: a further line */
	const char *response;	/* base64; NULL: AUTH had none */
	char *user;		/* unless the answer is 334, it becomes the name
				   that the client gave, "" if there was none,
				   or the mechanism has none, */
	size_t size;		/* in so many octets, enough for 640; may be any
				   octets, and a secret if it is refused */
};

/*
 * Hands it on; *v becomes what the next hop says to it, which may repeat the
 * client's secret and must not be logged: 334 with a challenge, 235 or a
 * refusal; 454 4.7.0 if it does not answer.  With 235 the connection is that
 * user's, and is not dialled again when it is lost: 451.  l->response is its
 * owner's to wipe.
 */
void	relay_auth_step(struct relay *r, const struct envelope *env,
	    const struct relay_login *l, struct reply *v);

/* The client is nobody: it gave up the exchange, or its session begins anew,
   and what the next hop knows of it ends, too. */
void	relay_auth_forget(struct relay *r);

/* Gives back connections for which the client had no use for set->idle
   seconds, four times as long within a transaction.  Returns after how many
   milliseconds to call it again, or -1 if there is none. */
int	relay_live_idle(struct relay *r);

/*
 * Relays one message.  What relay_live_offer() has opened is taken up where env
 * has the same sender and recipients, else offered anew.  spool is its
 * descriptor, in relay_form()'s form (or in SPOOL_CRLF if env->body is
 * BODY_BINARYMIME: then no octet of it is changed), at any offset; it is
 * borrowed.  Fills in v[0..env->nrecipients).  Unless lmtp is set they are all
 * the same, and tell the truth about all recipients.  Returns within
 * set->timeout seconds and some for killing a program.  The caller ignores
 * SIGPIPE and SIGXFSZ; while a program runs, SIGCHLD is relay.c's.
 */
void	relay_deliver(struct relay *r, const struct envelope *env, int spool,
	    struct reply v[]);

/* Where the last message of relay_deliver() went, for its record; what is not
   known is NULL.  It is good until the next message. */
const struct notes *relay_notes(const struct relay *r);

/* Stores a message in the quarantine, which there must be: as
   relay_deliver(), but form is that of spool. */
void	relay_quarantine(struct relay *r, const struct envelope *env, int spool,
	    enum spool_form form, struct reply v[]);

/*
 * Looks at every place that mail may go to, those of the routes too, as it
 * would be used by mail of the senders from: folders, programs, sockets, names,
 * credentials.  If f->connect is set it connects to next hops and authenticates
 * with each account, but sends no message.
 */
void	relay_check(struct relay *r, const struct expected *from,
	    struct findings *f);

/* Says QUIT to next hops that were kept open, frees r.  NULL is legal. */
void	relay_close(struct relay *r);

#endif
