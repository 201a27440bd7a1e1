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
#include <stdint.h>

#define VERDICT_TEXT 1024	/* octets of a verdict's text, with NUL */

/* What became of one recipient: an SMTP reply. */
struct verdict {
	int code;		/* 200 to 599 */
	char enh[12];		/* RFC 3463 "2.0.0", or "" for none */
	char text[VERDICT_TEXT];	/* '\n' separates lines */
};

/* The session's and the transaction's facts, as text.  relay.c has the table
   of the names that each has in argv and environment. */
enum fact {
	FACT_SENDER,		/* "" is the null reverse-path */
	FACT_MAIL_OPTIONS,	/* parameters of MAIL as the client wrote them */
	FACT_QUEUE_ID,
	FACT_CLIENT_ADDRESS,	/* "192.0.2.1", "2001:db8::1", "unix", "unknown" */
	FACT_CLIENT_PORT,
	FACT_CLIENT_NAME,	/* "unknown" unless somebody told us */
	FACT_CLIENT_HELO,
	FACT_CLIENT_USER,	/* login of the peer of a unix socket, or "" */
	FACT_CLIENT_PROTOCOL,	/* RFC 3848: "SMTP", "ESMTPSA", "LMTP"... */
	FACT_SERVER_ADDRESS,
	FACT_SERVER_PORT,
	FACT_SASL_METHOD,
	FACT_SASL_USERNAME,
	FACT_TLS_PROTOCOL,
	FACT_TLS_CIPHER,
	FACT_TLS_SNI,
	FACT_TLS_SUBJECT,	/* verified client certificate's common name */
	FACT_TLS_ISSUER,
	FACT_TLS_FINGERPRINT,
	FACTS
};

/* How the body was announced (RFC 6152, RFC 3030). */
enum encoding {
	ENCODING_7BIT,
	ENCODING_8BITMIME,
	ENCODING_BINARYMIME
};

struct recipient {
	const char *address;	/* as the client wrote it, no brackets */
	const char *options;	/* parameters of RCPT, or "" */
};

/* One transaction.  Borrows every string; none is NULL. */
struct envelope {
	const char *fact[FACTS];
	const struct recipient *recipients;
	size_t nrecipients;
	uint64_t size;		/* octets of the spooled message with CRLF line
				   ends, trace header included; 0: unknown */
	bool smtputf8;		/* MAIL had SMTPUTF8 */
	enum encoding encoding;
};

/*
 * The spooled message: a memfd up to SPOOL_MEMORY octets, beyond that an
 * unlinked file.  Errors are sticky: write on, and look once, at the end.
 */
#define SPOOL_MEMORY (1024 * 1024)
#define SPOOL_BUFFER 65536

enum spool_form {
	SPOOL_NONE,	/* octets are counted and dropped */
	SPOOL_CRLF,	/* octets as they came */
	SPOOL_LF	/* each CRLF becomes LF */
};

struct spool {
	char buffer[SPOOL_BUFFER];
	int fd;			/* the message, or -1; owned */
	int error;		/* errno of the first failure, or 0 */
	enum spool_form form;
	uint64_t size;		/* octets put in, before conversion */
	uint64_t stored;	/* octets in fd */
	bool cr;		/* a CR is held back: is LF next? */
	int (*file)(void *ctx);	/* opens an unlinked file: fd, or -1 and errno */
	void *ctx;
	size_t held;		/* octets in buffer */
};

/* Makes *s empty.  file may be NULL: spool_file() is used then. */
void	spool_open(struct spool *s, enum spool_form form,
	    int (*file)(void *ctx), void *ctx);

/* Appends len octets at p.  Failure sets s->error. */
void	spool_write(struct spool *s, const char *p, size_t len);

/* Writes what is held back and rewinds.  Returns the descriptor, which s
   keeps (-1 with SPOOL_NONE), or -1 with s->error set. */
int	spool_finish(struct spool *s);

/* Closes the descriptor.  Legal on a zeroed struct (fd 0 is never a spool)
   and twice. */
void	spool_close(struct spool *s);

/* An unlinked file in $TMPDIR or /var/tmp: descriptor, or -1 and errno. */
int	spool_file(void *ctx);

/*
 * Where the rooms tell the administrator something: priority as in
 * syslog(3), event one word ([a-z-]+), env NULL if it concerns no
 * transaction, text one line without control characters.
 */
struct logger {
	void (*log)(void *ctx, int priority, const char *event,
	    const struct envelope *env, const char *text);
	void *ctx;
};

/* text is made safe where it stands. */
void	logger_put(const struct logger *l, int priority, const char *event,
	    const struct envelope *env, char *text);
void	logger_printf(const struct logger *l, int priority, const char *event,
	    const struct envelope *env, const char *fmt, ...)
	    __attribute__((format(printf, 5, 6)));

enum tls_level {
	TLS_NONE,	/* never */
	TLS_MAY,	/* STARTTLS if it is offered, unverified */
	TLS_MUST	/* STARTTLS, certificate and name verified, or 4yz */
};

/* How to relay.  Borrowed for the life of the relay. */
struct relay_settings {
	const char *spec;	/* "TRANSPORT:NEXTHOP", or NULL: */
	char *const *program;	/* argv of a program, NULL-terminated */
	const char *routes;	/* file of routes, or NULL */
	const char *fqdn;	/* what we call ourselves in EHLO and LHLO */
	bool crlf;		/* programs and Maildirs get CRLF, not LF */
	bool lmtp;		/* we serve LMTP: verdicts may differ */
	int print;		/* descriptor of "print:"; -1: it is the client */
	unsigned timeout;	/* seconds for one message, all in all */
	enum tls_level tls;	/* of smtp: and lmtp: next hops */
	const char *tls_ca;	/* file of CA certificates; NULL: the system's */
	const char *tls_program;	/* path of smtpd-tls */
	const char *auth;	/* file with the next hops' credentials, or NULL */
	struct logger log;
};

struct relay;

/*
 * Reads the RELAY argument, connects nothing.  The files of routes and
 * credentials are opened here, for they may be root's alone; one that can not
 * be is heard of when it is wanted.  Returns the process's only relay, in
 * static memory; or NULL with one sentence in error[0..size) if the argument
 * makes no sense.
 */
struct relay *relay_open(const struct relay_settings *set, char *error,
	    size_t size);

/* The form in which relay_deliver() wants the spool of a message. */
enum spool_form relay_form(const struct relay *r);

/* True if parameters of RFC 3461 reach whoever takes the message. */
bool	relay_dsn(const struct relay *r);

/* True if relay_rcpt() has anything to say: routes, or "error:". */
bool	relay_screens(const struct relay *r);

/*
 * Asked when a recipient is named, before the message: env has just that
 * recipient.  *v says yes and is changed only for a refusal that is certain
 * now: a route to "error:", or routes that can not be read (451 4.3.5).
 */
void	relay_rcpt(struct relay *r, const struct envelope *env,
	    struct verdict *v);

/*
 * Relays one message.  spool is its descriptor, in relay_form()'s form (or in
 * SPOOL_CRLF if env->encoding is ENCODING_BINARYMIME: then no octet of it is
 * changed), at any offset; it is borrowed.  Fills in
 * v[0..env->nrecipients).  Unless lmtp is set they are all the same, and tell
 * the truth about all recipients.  Returns within set->timeout seconds and
 * some for killing a program.  The caller ignores SIGPIPE and SIGXFSZ; while
 * a program runs, SIGCHLD is relay.c's.
 */
void	relay_deliver(struct relay *r, const struct envelope *env, int spool,
	    struct verdict v[]);

/* Takes leave of next hops that were kept open, frees r.  NULL is legal. */
void	relay_close(struct relay *r);

/*
 * For files that an option names: fd is one that was opened before root was
 * given up, or -1, then it is opened by its name now.  Returns a descriptor at
 * its beginning, for the caller to close, or -1 with errno.
 */
int	file_again(int fd, const char *name);

/* Makes room for row n of a table: its new place, or NULL with the old one
   as it was.  It doubles whenever n is a power of two. */
void	*more_rows(void *rows, size_t n, size_t size);

/* Fills in *v.  text is made safe: one reply, no control characters; it may
   be v's own, and enh too. */
void	verdict_set(struct verdict *v, int code, const char *enh,
	    const char *text);
void	verdict_printf(struct verdict *v, int code, const char *enh,
	    const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* The strings up to NULL, one behind the other, in to[0..size), cut to fit.
   Returns to.  For what every session says in the channel process: stdio's
   pages would have to be faulted in there. */
char	*text_join(char *to, size_t size, ...) __attribute__((sentinel));

#define TEXT_NUMBER 21		/* octets of a number, with NUL */

/* n in decimal, in as many digits at least, somewhere in to. */
const char *text_number(char to[TEXT_NUMBER], uint64_t n, size_t digits);

/* Same code and words? */
bool	verdict_same(const struct verdict *a, const struct verdict *b);

/* Milliseconds of CLOCK_MONOTONIC, and those from now to a deadline in them:
   0 when it has passed, and never more than INT_MAX. */
int64_t	clock_now(void);
int	clock_left(int64_t deadline);

#endif
