/*
 * smtp_private.h - what the files of the SMTP and LMTP client share.
 *
 * smtp_talk.c sends commands in groups and reads replies, smtp_open.c opens a
 * connection as far as MAIL, smtp_auth.c authenticates us and smtp_through.c
 * our client, smtp.c has the transaction, smtp_split.c several of them for one
 * message.
 */
#ifndef RELAY_SMTP_PRIVATE_H
#define RELAY_SMTP_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mechanism.h"
#include "base/reply.h"
#include "net/stream.h"
#include "relay/credentials.h"
#include "relay/smtp.h"

#define QUIT_SECONDS 1		/* for the reply to QUIT */
#define BLOCK_SECONDS 180	/* for a block of data; RFC 5321 4.5.3.2.5 */
#define SMTP_ACCOUNT 640	/* octets of an account's name, with NUL */
#define SMTP_NO_AUTH "Cannot authenticate to next hop"
#define BLOCK_MAX 32768		/* octets of a group, or of message text */

#define XCLIENT_MAX 511		/* octets of XCLIENT, with NUL in place of CRLF;
				   RFC 5321 4.5.3.1.4 */

/* What EHLO may offer. */
enum {
	CAN_PIPELINING = 1 << 0,
	CAN_SIZE = 1 << 1,
	CAN_8BITMIME = 1 << 2,
	CAN_SMTPUTF8 = 1 << 3,
	CAN_DSN = 1 << 4,
	CAN_CHUNKING = 1 << 5,
	CAN_BINARYMIME = 1 << 6,
	CAN_STARTTLS = 1 << 7,
	CAN_AUTH_PLAIN = 1 << 8,
	CAN_AUTH_LOGIN = 1 << 9,
	CAN_AUTH_SCRAM = 1 << 10,
	CAN_AUTH_CRAM = 1 << 11,
	CAN_AUTH_OAUTHBEARER = 1 << 12,
	CAN_AUTH_XOAUTH2 = 1 << 13,
	CAN_LIMIT = 1 << 14,
	CAN_DELIVERBY = 1 << 15,
	CAN_FUTURERELEASE = 1 << 16,
	CAN_MT_PRIORITY = 1 << 17,
	CAN_REQUIRETLS = 1 << 18,
	CAN_RRVS = 1 << 19
};

enum step {
	STEP_GREETING,
	STEP_HELLO,
	STEP_HELO,
	STEP_STARTTLS,
	STEP_AUTH,
	STEP_CHALLENGE,
	STEP_SASL,	/* the end of AUTH, or a challenge */
	STEP_XFORWARD,
	STEP_XCLIENT,
	STEP_RSET,
	STEP_MAIL,
	STEP_RCPT,
	STEP_VRFY,
	STEP_DATA,
	STEP_END
};

#define LIVE_LINES 2048		/* octets of an answer to EHLO, with NUL */
#define LIVE_MECHANISMS 512	/* octets of those of AUTH in it, with NUL */

/* What is remembered of a next hop that is asked during the dialogue. */
struct live {
	bool begun;		/* it has accepted MAIL in this transaction */
	bool again;		/* it was dialled again in it */
	bool given_back;	/* the connection was, by us */
	bool dsn;		/* it had DSN when the transaction began */
	struct reply lost;	/* why, and why not again; code 0: it was not */
	char *sender;		/* and after its NUL the parameters of MAIL;
				   owned */
	struct live_recipient {
		char *text;	/* address, and after its NUL parameters;
				   owned */
	} *to;			/* that were accepted; owned */
	size_t n;
	int64_t used;		/* when it was asked last */
	bool exchange;		/* AUTH is going on: it waits for a response */
	bool login;		/* it has authenticated our client, who cannot
				   be asked for that again, */
	bool news;		/* and was not asked since what it can */
	char mechanism[MECHANISM_MAX + 1];	/* of this exchange, */
	unsigned turns;		/* challenges in it so far, */
	bool named;		/* and name is what its first response said */
	char name[SMTP_ACCOUNT];	/* that our client gave itself */
	char mechanisms[LIVE_MECHANISMS];	/* that it may use, separated by
						   blanks */
	char lines[LIVE_LINES];	/* of EHLO that our client may see, each with
				   its newline */
};

struct nexthop {
	const struct relay_settings *set;
	struct live *live;	/* NULL: it is asked at the end; owned */
	enum nexthop_protocol protocol;
	const char *where;
	int auth;		/* the file of credentials, or -1 */
	const struct envelope *env;	/* for the log, during a call */
	struct place place;		/* where s leads, or led */
	struct stream s;
	int engine;			/* pidfd of its smtpd-tls, or -1 */
	const char *rest;	/* the places that are left of where, or NULL */
	struct addresses found;	/* of place */
	size_t tried;		/* how many of them */
	unsigned can;		/* what it offers: the sum of CAN_x */
	unsigned avoid;		/* of these, what failed in this session */
	unsigned attributes;	/* that XFORWARD and XCLIENT may have */
	unsigned introduced_by;	/* those of XCLIENT that it was told */
	bool introduced;	/* by XCLIENT: see told */
	uint64_t size_max;	/* the SIZE that it offers, 0: no limit known */
	uint64_t rcpt_max;	/* its LIMITS RCPTMAX (RFC 9422), likewise */
	uint64_t mail_max;	/* its LIMITS MAILMAX, likewise */
	uint64_t mails;		/* that this connection was sent */
	bool handshake_failed;	/* of TLS, on this opening */
	bool secure;		/* nobody can listen: TLS, or a unix socket */
	bool by_sender;		/* the credentials have lines of senders */
	char account[SMTP_ACCOUNT];	/* whose credentials it has; "": none */
	bool no_line;		/* it offers AUTH, and the file has no line */
	const char *secret;	/* of AUTH that goes on; borrowed, or NULL */
	bool dirty;		/* a transaction is open: RSET comes first */
	bool kept;		/* from another message, not heard of since */
	bool stale;		/* so it was, and cannot be used further */
	bool away;		/* it cannot serve now; the next place may */
	bool timed_out;		/* waiting for it to speak or to read */
	bool grouped;		/* it was sent several commands at once */
	bool closed;		/* by the next hop, without a reply */
	bool reached;		/* the place tried last was connected to */
	bool quoted;		/* the reply is in the next hop's words */
	bool doubt;		/* a reply never came, or made no sense */
	bool begun;		/* it was sent octets of the message */
	size_t accepted;	/* recipients of the open transaction */
	struct nexthop *next;	/* one more connection to the same place, for
				   recipients that this takes not; owned */
	unsigned char *part;	/* of the open transactions: which connection
				   has each recipient; owned; NULL: this one */
	char tls[96];		/* protocol and cipher, of s; or "" */
	int error;		/* errno of a failed write; smtp_send_group()
				   reports it */
	size_t held;		/* octets in out */
	size_t unread;		/* replies to XFORWARD in this group */
	char out[BLOCK_MAX];
	char in[BLOCK_MAX];
	char told[XCLIENT_MAX];	/* XCLIENT as it was sent */
};

/* ---- smtp_talk.c ---- */

#define SMTP_NAME_MAX (PLACE_HOST_MAX + 64 + PLACE_PORT_MAX)

/* Writes where the connection leads, or led, into name: "HOST[ADDRESS]:PORT",
   "HOST:PORT" where HOST is the address, or a socket's path.  Returns name. */
const char *smtp_name(const struct nexthop *h, char name[SMTP_NAME_MAX]);

/* Logs a warning about the next hop: "NAME: what: why". */
void	smtp_log(const struct nexthop *h, const char *what, const char *why);

/* Closes the connection without a word. */
void	smtp_hang_up(struct nexthop *h);

/* Says QUIT and closes the connection, if there is one. */
void	smtp_quit(struct nexthop *h, int64_t deadline);

/* Adds to the group.  Text that does not fit is an error that
   smtp_send_group() reports. */
void	smtp_add(struct nexthop *h, const char *fmt, ...)
	    __attribute__((format(printf, 2, 3)));

/* Sends the group; smtp_read_reply() must follow for each command in it.
   False: the connection is closed, and *r says why. */
bool	smtp_send_group(struct nexthop *h, enum step step, int64_t deadline,
	    struct reply *r);

/*
 * Reads the reply to a step.  True: it is the one that the step wants.  False:
 * *r says why not, with a code from 400 that is not 421, as our client would
 * hang up after that.  The connection is closed if it cannot be used further.
 */
bool	smtp_read_reply(struct nexthop *h, enum step step, int64_t deadline,
	    struct reply *r);

/* Sends one command, or what is in the group, and reads the reply. */
bool	smtp_command(struct nexthop *h, enum step step, int64_t deadline,
	    struct reply *r);

/* The next hop broke the protocol: closes the connection.  Returns false. */
bool	smtp_garbled(struct nexthop *h, enum step step, const char *line,
	    struct reply *r);

/* Makes a refusal temporary: it is about our configuration, or about the next
   hop, and not about this message. */
void	smtp_make_temporary(struct reply *r);

/* Logs a refusal with the step's name, and a hint where that is not "". */
void	smtp_log_refusal(const struct nexthop *h, enum step step,
	    const struct reply *r, const char *hint);

/* Removes control characters from line[0..len), and adds a NUL. */
void	smtp_strip(char *line, size_t len);

/* ---- smtp_show.c ---- */

/* With -d: logs the commands of a group, and a line of the reply. */
void	smtp_show_group(const struct nexthop *h, enum step step);
void	smtp_show_reply(const struct nexthop *h, enum step step,
	    const char *line);

/* Is it a step of AUTH?  What is said in it, or answered, is not to be told. */
bool	smtp_is_secret(enum step step);

/* Has text a part of the secret that is being sent, in clear or as base64? */
bool	smtp_quotes_secret(const struct nexthop *h, const char *text);

/* May line, which is no reply, be the secret that the next hop was sent? */
bool	smtp_may_repeat(const struct nexthop *h, enum step step,
	    const char *line);

/* ---- smtp.c ---- */

/* The next hop takes no more recipients in this transaction: RFC 5321
   4.5.3.1.10. */
#define CODE_TOO_MANY 452

/* nexthop_offer(), nexthop_send() and nexthop_abandon() by one transaction on
   one connection. */
void	smtp_offer(struct nexthop *h, const struct envelope *env, int spool,
	    int64_t deadline, struct reply v[]);
void	smtp_send(struct nexthop *h, const struct envelope *env, int spool,
	    enum spool_form form, int64_t deadline, struct reply v[]);
void	smtp_abandon(struct nexthop *h, int64_t deadline);

/* Whether the next hop can carry the message; spool is -1 where that is not
   here yet.  False: *r says why not. */
bool	smtp_can_carry(struct nexthop *h, const struct envelope *env,
	    int spool, struct reply *r);

/* Offers the envelope to the connection that is open, or to one place after
   the other.  True: *r is the reply to MAIL, v that to each RCPT. */
bool	smtp_try_places(struct nexthop *h, const struct envelope *env,
	    int spool, int64_t deadline, struct reply v[], struct reply *r);

/* Offers the envelope once more to those to[0..n) who had accepted it.  False:
   they do not all accept it again, and *r says why, for another try later. */
bool	smtp_offer_same(struct nexthop *h, const struct envelope *env,
	    const struct recipient to[], size_t n, int spool,
	    int64_t deadline, struct reply *r);

/* Adds recipients to the open transaction.  Where the connection is lost, *r
   says so. */
void	smtp_try_recipients(struct nexthop *h, const struct envelope *env,
	    int64_t deadline, struct reply v[], struct reply *r);

/* 451: the connection is gone. */
void	smtp_no_connection(struct reply *r);

/* ---- smtp_text.c ---- */

/* True if the message goes as one chunk of BDAT. */
bool	smtp_is_chunked(const struct nexthop *h, enum spool_form form);

/* Sends the message.  False: it did not go out whole, and *r says why. */
bool	smtp_send_message(struct nexthop *h, const struct envelope *env,
	    int spool, enum spool_form form, int64_t deadline,
	    struct reply *r);

/* ---- smtp_live.c ---- */

/* Takes up the transaction that the dialogue has opened.  False: there is none
   for this envelope. */
bool	smtp_live_take(struct nexthop *h, const struct envelope *env,
	    int spool, int64_t deadline, struct reply v[]);

/* Whether the next hop, dialled again, has the extensions that the dialogue has
   used.  False: *r says so. */
bool	smtp_live_can(const struct nexthop *h, struct reply *r);

/* Whether the places may be tried once more from the first. */
bool	smtp_live_again(struct nexthop *h);

/* Frees what is remembered. */
void	smtp_live_close(struct nexthop *h);

/* Connects it, if it is not.  False: *r says why not. */
bool	smtp_live_meet(struct nexthop *h, int64_t deadline, struct reply *r);

/* ---- smtp_through.c ---- */

/* Learns from a line of EHLO's reply which mechanisms our client may use. */
void	smtp_note_mechanisms(struct nexthop *h, const char *line);

/* Learns what it can now that it knows our client.  Mechanisms stay, although
   it need not tell them any more. */
void	smtp_hello_again(struct nexthop *h, int64_t deadline);

/* Does it wait for a response of our client? */
bool	smtp_is_exchange(const struct nexthop *h);

/* Has it authenticated our client? */
bool	smtp_is_login(const struct nexthop *h);

/* Was that on a connection that is lost?  Then no other takes its place, and *r
   says so. */
bool	smtp_login_is_lost(const struct nexthop *h, struct reply *r);

/* ---- smtp_open.c ---- */

/* EHLO or what it takes for it, and what it says of the next hop.  One that
   refuses all this refuses us, not this message: *r is 451. */
bool	smtp_say_hello(struct nexthop *h, int64_t deadline, struct reply *r);

/* Is it under TLS, and was its certificate verified?  REQUIRETLS wants both
   (RFC 8689 4.2.1). */
bool	smtp_is_verified(const struct nexthop *h);

/* The port that a place without one means; and that of h->place. */
const char *smtp_default_port(enum nexthop_protocol protocol);
const char *smtp_port(const struct nexthop *h);

/* Starts from the beginning of the list of places. */
void	smtp_restart(struct nexthop *h);

/* True if there is an address or a place that was not tried. */
bool	smtp_has_next(const struct nexthop *h);

/* Opens the next address of the list, as far as MAIL.  False: *r says why it
   cannot be opened. */
bool	smtp_open_next(struct nexthop *h, int64_t deadline, struct reply *r);

/* ---- smtp_forward.c ---- */

/* Learns from a line of EHLO's reply which attributes it may be told. */
void	smtp_note_attributes(struct nexthop *h, const char *line);

/* The name for HELO and EHLO: ours, or after XCLIENT the client's. */
const char *smtp_hello_name(const struct nexthop *h);

/*
 * With --relay-xclient, and if it is offered: the connection becomes that of
 * h->env's client.  EHLO must follow if h->introduced.  False: *r says why not:
 * what the next hop says of that client, or 451 where it wants no XCLIENT from
 * us, as then it would take our rights for the client's.
 */
bool	smtp_xclient(struct nexthop *h, int64_t deadline, struct reply *r);

/* Whether the open connection, if it was made a client's, is h->env's
   client's. */
bool	smtp_is_our_client(const struct nexthop *h);

/*
 * Tells the next hop by XFORWARD who the client is, if it wants to know and was
 * not told by XCLIENT.  With PIPELINING that waits in the group, whose replies
 * begin with those that smtp_read_xforward() reads.  False: the connection is
 * lost.
 */
bool	smtp_xforward(struct nexthop *h, const struct envelope *env,
	    int64_t deadline, struct reply *r);
bool	smtp_read_xforward(struct nexthop *h, int64_t deadline,
	    struct reply *r);

/* ---- smtp_auth.c ---- */

/* Learns from a line of EHLO's reply which mechanisms there are. */
void	smtp_note_auth(struct nexthop *h, const char *line);

/* Authenticates, where the file of credentials has a line for the next hop or
   the sender.  False: *r says why that fails. */
bool	smtp_authenticate(struct nexthop *h, int64_t deadline,
	    struct reply *r);

/* Finds our credentials with h->place for the sender of h->env, and sets
   h->by_sender: 1 with *c, which the caller wipes, 0 if we need none, or -1
   with a sentence in why[0..size). */
int	smtp_find_credentials(struct nexthop *h, struct credentials *c,
	    char *why, size_t size);

/* Whether this connection may carry mail of h->env's sender: whether it has
   the credentials that count for it. */
bool	smtp_is_our_account(struct nexthop *h);

/* Whether the open connection has authenticated. */
bool	smtp_is_trusted(const struct nexthop *h);

#endif
