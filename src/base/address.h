/*
 * address.h - what a mailbox means, however it is spelled.
 */
#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

/*
 * Rewrites address where it stands: "a b"@Example.ORG becomes
 * a b@example.org, and "a"@example.org becomes a@example.org.  RFC 5321
 * 4.1.2: the quotes and backslashes of a local part mean nothing, and the case
 * of a domain does not matter.  Every lookup uses this form; it is no address
 * to be sent to a server.  Returns its last '@', or NULL if it has none.
 */
char	*address_canonical(char *address);

#endif
