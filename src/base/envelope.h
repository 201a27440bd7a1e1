/*
 * envelope.h - what is known of a session and of one transaction.
 */
#ifndef BASE_ENVELOPE_H
#define BASE_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mail.h"

/*
 * The facts of the session and of the transaction, as text.  Each row: FACT_x,
 * its name in the environment of programs, and in their arguments ("": it has
 * none), who may set it, its name in the report of smtpd-tls ("": it
 * is not in there).
 */
#define FACT_TABLE(row) \
	/* "" is the null reverse-path */ \
	row(SENDER, "SENDER", "sender", SET_BY_CLIENT, "") \
	/* the parameters of MAIL as the client wrote them */ \
	row(MAIL_OPTIONS, "MAIL_OPTIONS", "", SET_BY_CLIENT, "") \
	row(QUEUE_ID, "QUEUE_ID", "queue_id", SET_BY_CLIENT, "") \
	/* "192.0.2.1", "2001:db8::1", "unix", "unknown" */ \
	row(CLIENT_ADDRESS, "CLIENT_ADDRESS", "client_address", \
	    SET_BY_PROXY | SET_BY_XCLIENT, "") \
	row(CLIENT_PORT, "CLIENT_PORT", "client_port", \
	    SET_BY_PROXY | SET_BY_XCLIENT, "") \
	/* "unknown" unless a super-server or XCLIENT named it */ \
	row(CLIENT_NAME, "CLIENT_HOSTNAME", "", SET_BY_XCLIENT, "") \
	row(CLIENT_HELO, "CLIENT_HELO", "client_helo", SET_BY_CLIENT, "") \
	/* login of the client on a unix socket, or "" */ \
	row(CLIENT_USER, "CLIENT_USER", "", 0, "") \
	/* RFC 3848: "SMTP", "ESMTPSA", "LMTP"... */ \
	row(CLIENT_PROTOCOL, "CLIENT_PROTOCOL", "", SET_BY_CLIENT, "") \
	row(SERVER_ADDRESS, "SERVER_ADDRESS", "", \
	    SET_BY_PROXY | SET_BY_XCLIENT, "") \
	row(SERVER_PORT, "SERVER_PORT", "", \
	    SET_BY_PROXY | SET_BY_XCLIENT, "") \
	row(SASL_METHOD, "SASL_METHOD", "", SET_BY_XCLIENT, "") \
	row(SASL_USERNAME, "SASL_USERNAME", "sasl_username", \
	    SET_BY_XCLIENT, "") \
	row(TLS_PROTOCOL, "TLS_PROTOCOL", "", SET_BY_PROXY, "protocol") \
	row(TLS_CIPHER, "TLS_CIPHER", "", SET_BY_PROXY, "cipher") \
	row(TLS_SNI, "TLS_SNI", "", SET_BY_PROXY, "sni") \
	/* common name of the verified client certificate */ \
	row(TLS_SUBJECT, "TLS_SUBJECT", "", SET_BY_PROXY, "subject") \
	row(TLS_ISSUER, "TLS_ISSUER", "", SET_BY_PROXY, "issuer") \
	row(TLS_FINGERPRINT, "TLS_FINGERPRINT", "", SET_BY_PROXY, \
	    "fingerprint") \
	/* What XFORWARD said, all of it or nothing ("").  The monitor puts \
	   the first five in the place of CLIENT_... */ \
	row(FORWARD_ADDRESS, "", "", SET_BY_XFORWARD, "") \
	row(FORWARD_PORT, "", "", SET_BY_XFORWARD, "") \
	row(FORWARD_NAME, "", "", SET_BY_XFORWARD, "") \
	row(FORWARD_HELO, "", "", SET_BY_XFORWARD, "") \
	row(FORWARD_PROTOCOL, "", "", SET_BY_XFORWARD, "") \
	row(FORWARD_IDENT, "XFORWARD_IDENT", "", SET_BY_XFORWARD, "") \
	row(FORWARD_SOURCE, "XFORWARD_SOURCE", "", SET_BY_XFORWARD, "")

/* Who may set a fact during the session: the client's commands, a PROXY
   header, XCLIENT, XFORWARD.  The other facts are known at the start, or the
   monitor learns them from smtpd-tls and AUTH. */
enum {
	SET_BY_CLIENT = 1,
	SET_BY_PROXY = 2,
	SET_BY_XCLIENT = 4,
	SET_BY_XFORWARD = 8
};

#define FACT_ROW(fact, variable, argument, set_by, report) FACT_##fact,
enum fact { FACT_TABLE(FACT_ROW) FACTS };
#undef FACT_ROW

/* The rows of FACT_TABLE by enum fact. */
extern const struct fact_names {
	char variable[16], argument[15], report[12];
	unsigned char set_by;	/* SET_BY_x | ... */
} fact_names[FACTS];

/* Secret bits of a cipher, as far as its name tells; 0: it does not. */
unsigned fact_cipher_bits(const char *cipher);

/* What a record says beside its envelope.  NULL: it does not. */
struct notes {
	const char *by;		/* what refused, and when: "policy
				   unix:/run/policy at RCPT" */
	const char *relay;	/* the place that was used, "lmtp:unix:/run/x",
				   where that is not the command line's */
	const char *nexthop;	/* "mx.example.org[192.0.2.1]:25" */
	const char *nexthop_tls;	/* "TLSv1.3 TLS_AES_256_GCM_SHA384" */
	const char *source;	/* who knew the user: "file:" */
	const char *tried;	/* the name that failed to authenticate */
	int64_t delay;		/* milliseconds that it took to relay; -1 */
};

/* One transaction.  Borrows every string; none is NULL. */
struct envelope {
	const char *fact[FACTS];
	const struct recipient *recipients;
	size_t nrecipients;
	uint64_t size;		/* octets of the spooled message with CRLF line
				   ends, trace header included; 0: unknown */
	const struct notes *notes;	/* for the log; or NULL */
	bool smtputf8;		/* MAIL had SMTPUTF8 */
	enum body body;
};

#endif
