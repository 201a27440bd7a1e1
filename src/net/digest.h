/*
 * digest.h - hashes of a password that smtpd-tls makes for us, as it has
 * OpenSSL: what SCRAM-SHA-256 (RFC 5802, RFC 7677) and CRAM-MD5 (RFC 2195)
 * need.
 */
#ifndef NET_DIGEST_H
#define NET_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_TEXT 16384	/* octets of password, salt and text together */
#define DIGEST_ITERATIONS 10000000	/* at most: some seconds */

enum digest_kind {
	DIGEST_SCRAM_SHA_256,
	DIGEST_CRAM_MD5
};

/* A question, as it goes to smtpd-tls: after it that many octets of each. */
struct digest_question {
	uint32_t kind;		/* enum digest_kind */
	uint32_t iterations;	/* of SCRAM, at least 1 */
	uint32_t password, salt, text;	/* octets; text is the challenge, or
					   the AuthMessage of SCRAM */
};

struct digest_answer {
	unsigned char proof[32];	/* ClientProof; CRAM-MD5: 16 octets */
	unsigned char signature[32];	/* ServerSignature; CRAM-MD5: zeros */
};

/* The program that computes, started but not asked. */
struct digest {
	int fd;			/* -1: it is not started; owned */
};

/* Starts program, smtpd-tls.  False with a phrase in why[0..size). */
bool	digest_start(struct digest *d, const char *program, int64_t deadline,
	    char *why, size_t size);

/* Asks it, once.  False if that fails, or they have more octets than it
   takes. */
bool	digest_ask(struct digest *d, const struct digest_question *q,
	    const char *password, const char *salt, const char *text,
	    struct digest_answer *a, int64_t deadline);

/* Ends it.  Legal twice. */
void	digest_close(struct digest *d);

#endif
