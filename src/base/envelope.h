/*
 * envelope.h - what is known of a session and of one transaction.
 */
#ifndef BASE_ENVELOPE_H
#define BASE_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mail.h"

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

/* One transaction.  Borrows every string; none is NULL. */
struct envelope {
	const char *fact[FACTS];
	const struct recipient *recipients;
	size_t nrecipients;
	uint64_t size;		/* octets of the spooled message with CRLF line
				   ends, trace header included; 0: unknown */
	bool smtputf8;		/* MAIL had SMTPUTF8 */
	enum body body;
};

#endif
