/*
 * handshake.h - what smtpd-tls and smtpd both know of a handshake's end.
 */
#ifndef BASE_HANDSHAKE_H
#define BASE_HANDSHAKE_H

/* How smtpd-tls reports a client that left before it sent an octet, as probes
   of port 465 do.  More may follow. */
#define HANDSHAKE_NOT_BEGUN "the connection ended before the TLS handshake"

#endif
