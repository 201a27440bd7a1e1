/*
 * network.h - is an address in a network, as options name it?
 */
#ifndef BASE_NETWORK_H
#define BASE_NETWORK_H

#include <stddef.h>

/*
 * Whether address ("192.0.2.1", "2001:db8::1", "unix"...) is in the network
 * net[0..len): "ADDRESS", "ADDRESS/BITS" or "unix".  An IPv4 address that is
 * written as an IPv6 one (RFC 4291 2.5.5.2) counts as IPv4.  Returns 1 or 0; -1
 * if net is no network.
 */
int	network_has(const char *net, size_t len, const char *address);

#endif
