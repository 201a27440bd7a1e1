/*
 * tls.h - what the files of smtpd-tls share.
 */
#ifndef TLS_TLS_H
#define TLS_TLS_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#define PAIRS_MAX 4		/* certificates, with their keys */
#define FLOW_BUFFER 65536	/* octets; four records (RFC 8446 5.1) */

/* A file, or a descriptor that was opened before the start (path is NULL). */
struct source {
	const char *path;
	int fd;
};

/* The DER of one CA certificate. */
struct blob {
	unsigned char *p;
	long len;
};

/* What is held while certificates and keys are read, so that it can be given
   back where engine_fail() does not end the process. */
struct reading {
	char *text;		/* of a file; len octets */
	size_t len;
	BIO *bio;		/* reads text */
	X509 *leaf;
	EVP_PKEY *key;
};

/* One direction. */
struct flow {
	size_t start, len;	/* the octets in buffer that wait */
	bool eof;		/* the source has ended */
	bool done;		/* and the sink was told, or is gone */
	short conn, clear;	/* what it waits for: POLLIN, POLLOUT, 0 */
	char buffer[FLOW_BUFFER];
};

struct engine {
	bool server, digest;	/* the role; neither: client */
	bool check;		/* a server's certificates, and no more */
	bool resident;		/* it stays, and has a process for each
				   connection; see resident.c */
	bool handed;		/* this process serves one of them */
	const char *listen;	/* path of its socket; NULL: systemd's */
	int64_t idle;		/* milliseconds until it ends; 0: never */
	jmp_buf *rescue;	/* what engine_fail() returns to; NULL: exit */
	struct source cert[PAIRS_MAX], key[PAIRS_MAX];
	size_t ncerts, nkeys;
	struct reading reading;
	const char *ca, *verify, *sni;	/* or NULL */
	const char *pins;	/* SHA-256 of certificates, or NULL */
	int64_t timeout;	/* milliseconds */
	int64_t deadline;	/* of CLOCK_MONOTONIC, milliseconds; -1: none */
	int report;		/* descriptor; -1: the report is out */
	struct blob *trusted;
	size_t ntrusted;
	SSL *ssl;
	bool verified;		/* the peer has a certificate we trust */
	bool hung;		/* the clear-text end was closed */
	bool broken;		/* the connection can carry no more */
	size_t heard;		/* octets since something was written to it */
	struct flow in, out;	/* to the clear text, and from it */
};

/* tls.c */

/* Reports what went wrong, and exits, or returns to e->rescue.  After the
   report nobody is told. */
_Noreturn void engine_fail(struct engine *e, int status, const char *fmt, ...)
	    __attribute__((format(printf, 3, 4)));

/* What OpenSSL complained of first; otherwise, if it did not complain. */
const char *engine_reason(const char *otherwise);

/* Reads the command line: the role, and options. */
void	engine_options(struct engine *e, int argc, char *argv[]);

/* Serves the connection that descriptors 0, 1 and 3 are: makes e->ssl if there
   is none, gives up every other right, shakes hands, reports, forgets the
   keys, carries.  Returns the exit status. */
int	engine_serve(struct engine *e);

/* context.c */

/* Gets OpenSSL itself ready: once, and first. */
void	context_start(struct engine *e);

/* A context for e's role, with those that it trusts.  Owned by the caller. */
SSL_CTX	*context_new(struct engine *e);

/* A connection on descriptor 0, with certificates and keys: e->ssl. */
void	context_connect(struct engine *e, SSL_CTX *ctx);

/* provider.c */

/* Has OpenSSL prepare no algorithms that a server does without.  Before the
   first is used.  If that cannot be, it prepares them. */
void	provider_start(void);

/* memory.c */

/* OpenSSL's malloc(), realloc() and free(), CRYPTO_set_mem_functions(3).  What
   is freed is wiped first, whatever size it was taken with. */
void	*memory_take(size_t size, const char *file, int line);
void	*memory_resize(void *piece, size_t size, const char *file, int line);
void	memory_give(void *piece, const char *file, int line);

/* For a process that stays, and forks: before it takes anything. */
void	memory_stay(void);

/* For a process that was just forked: what it takes from now on is in pages of
   its own.  A page that it shares is copied once it writes there. */
void	memory_renew(void);

/* tickets.c */

/* Lets ctx give out tickets for resumption (RFC 8446 4.6.1, RFC 5077). */
void	tickets_offer(struct engine *e, SSL_CTX *ctx);

/* Makes a new key for tickets where it is time, or demanded; the last one still
   opens those that it closed. */
void	tickets_rotate(struct engine *e, bool demanded);

/* Wipes the keys of tickets. */
void	tickets_forget(void);

/* resident.c */

/* Stays, and serves connections that are handed over.  In a process for one
   connection it returns that one's exit status. */
int	resident_run(struct engine *e);

/* certs.c */

/* Reads the server's certificates and keys into e->ssl. */
void	certs_load(struct engine *e);

/* Wipes and frees what was held for reading, whether that failed or not. */
void	certs_drop(struct engine *e);

/* Reads the authorities of --ca, or the system's. */
void	certs_trust(struct engine *e);

/* Asks the peer for a certificate, and verifies it. */
void	certs_demand(struct engine *e, SSL_CTX *ctx);

/* keys.c */

/* The private key in der, which PEM calls form, if it is in the clear, RSA or
   EC, and of the kind of that public key; else NULL, whatever the reason.  It
   is the caller's, and need not belong to that public key. */
EVP_PKEY *keys_read(const char *form, const unsigned char *der, long len,
	    const EVP_PKEY *public);

/* pins.c */

/* Is the peer's certificate, or its public key, one of those that e->pins
   names? */
bool	pins_match(const struct engine *e);

/* digest.c */

/* Answers one question (see net/digest.h), and exits. */
_Noreturn void digest_run(struct engine *e);

/* check.c */

/* Says on standard output what is wrong with the certificates, a line each:
   good, doubt or bad and a sentence.  Returns the exit status. */
int	check_certificates(struct engine *e);

/* The same of the authorities that a client trusts. */
int	check_trusted(struct engine *e);

/* pump.c */

/* Shakes hands until e->deadline; exits if it fails. */
void	pump_handshake(struct engine *e);

/* Carries octets both ways until both have ended.  Returns the exit status. */
int	pump_run(struct engine *e);

#endif
