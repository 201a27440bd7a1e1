/*
 * address.h - what a mailbox means, however it is spelled.
 */
#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Rewrites address where it stands: "a b"@Example.ORG becomes a b@Example.ORG,
 * and "a" becomes a.  RFC 5321 4.1.2: the quotes and backslashes of a local
 * part mean nothing.  An address without a domain that has an '@' in its quotes
 * stays as it is, for without them it would look like another one.  Returns the
 * '@' before its domain, or NULL if it has none.
 */
char	*address_unquote(char *address);

/*
 * The same with its domain in lower case, whose case does not matter either.
 * Every lookup uses this form; it is no address to be sent to a server.
 */
char	*address_canonical(char *address);

/*
 * Can p[0..len) stand after the '@' of an address that a client names (RFC 5321
 * 4.1.2, 4.1.3; RFC 6531)?  It is labels with dots between them, in which
 * underscores are allowed, of 255 octets at most; or an address literal.
 */
bool	address_is_domain(const char *p, size_t len);

#endif
