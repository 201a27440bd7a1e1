/*
 * sasl.h - what clients say in SASL, ours and theirs: messages as octets,
 * without I/O.
 */
#ifndef RELAY_SASL_H
#define RELAY_SASL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/credentials.h"

#define SASL_MESSAGE (CREDENTIAL_SECRET + 4 * CREDENTIAL_USER + 512)
#define SCRAM_TEXT 1024		/* octets of one SCRAM message, with NUL */
#define SCRAM_NONCE 25		/* octets of our nonce, with NUL */

/* The messages of a client, in to[0..SASL_MESSAGE).  Return their length: */
size_t	sasl_plain(char *to, const struct credentials *c);	/* RFC 4616 */
/* RFC 7628 3.1 */
size_t	sasl_oauthbearer(char *to, const struct credentials *c,
	    const char *host, const char *port);
/* As Google and Microsoft document it. */
size_t	sasl_xoauth2(char *to, const struct credentials *c);

/* Copies the value of "status" in a JSON object, the error of RFC 7628 3.2.2
   and of XOAUTH2, to to[0..size), "" if there is none. */
void	sasl_status(char *to, size_t size, const char *json);

/*
 * Who a client says that it is, by the first message p[0..len) of a mechanism,
 * in to[0..size): who it proves to be, and not for whom it wants to act.  ""
 * if that mechanism does not tell, or the message is not one of it, or the
 * name does not fit or has a NUL.
 */
void	sasl_name(char *to, size_t size, const char *mechanism, const char *p,
	    size_t len);

/* SCRAM (RFC 5802), as far as it needs no hash. */
struct scram {
	char nonce[SCRAM_NONCE];	/* printable, without a comma */
	char first[SCRAM_TEXT];		/* client-first-message */
	char final[SCRAM_TEXT];		/* client-final-message-without-proof */
	char text[3 * SCRAM_TEXT];	/* AuthMessage */
	char salt[SCRAM_TEXT];		/* decoded */
	size_t saltlen;
	uint32_t iterations;
};

/* Makes s->first; s->nonce is set.  False: user is too long. */
bool	scram_begin(struct scram *s, const char *user);

/* Reads the server's first message: makes final, text, salt, iterations.
   False: it breaks the protocol, or wants more than DIGEST_ITERATIONS. */
bool	scram_continue(struct scram *s, const char *server);

#endif
