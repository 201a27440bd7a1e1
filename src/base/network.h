/*
 * network.h - is an address in a network, as options name it?
 */
#ifndef BASE_NETWORK_H
#define BASE_NETWORK_H

#include <stdbool.h>
#include <stddef.h>

#define NETWORK_ADDRESS 46	/* octets of an address as text, with NUL */

/*
 * Whether address ("192.0.2.1", "2001:db8::1", "unix"...) is in the network
 * net[0..len): "ADDRESS", "ADDRESS/BITS" or "unix".  An IPv4 address that is
 * written as an IPv6 one (RFC 4291 2.5.5.2) counts as IPv4.  Returns 1 or 0; -1
 * if net is no network.
 */
int	network_has(const char *net, size_t len, const char *address);

/*
 * Writes the IP address to to in the form that it has in options and in the
 * log: IPv4 in dots, also where it is written as an IPv6 one.  Returns false,
 * and leaves to alone, if it is none.
 */
bool	network_address(char to[NETWORK_ADDRESS], const char *address);

#endif
