/*
 * address.h - what a mailbox means, however it is spelled.
 */
#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

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

#endif
