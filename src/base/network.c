/*
 * network.c - is an address in a network, as options name it?
 */
#include "base/network.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/text.h"

/* What IPv4 has in front of it among the 16 octets of IPv6. */
static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };

/* Reads an address as 16 octets of IPv6; IPv4 becomes ::ffff:a.b.c.d. */
static bool
read_ip(unsigned char to[16], const char *s, bool *v4)
{
	*v4 = strchr(s, ':') == NULL;
	if (!*v4)
		return inet_pton(AF_INET6, s, to) == 1;
	memcpy(to, mapped, sizeof mapped);
	return inet_pton(AF_INET, s, to + sizeof mapped) == 1;
}

int
network_has(const char *net, size_t len, const char *address)
{
	const char *slash = memchr(net, '/', len);
	size_t n = slash == NULL ? len : (size_t)(slash - net), bytes;
	char text[INET6_ADDRSTRLEN];
	unsigned char a[16], b[16];
	struct span digits;
	uint64_t bits;
	unsigned mask;
	bool v4, any;

	if (len == 4 && memcmp(net, "unix", 4) == 0)
		return strcmp(address, "unix") == 0;
	if (n >= sizeof text)
		return -1;
	memcpy(text, net, n);
	text[n] = '\0';
	if (!read_ip(b, text, &v4))
		return -1;
	bits = v4 ? 32 : 128;
	if (slash != NULL) {
		digits = (struct span){ slash + 1, len - n - 1 };
		if (digits.len == 0 || digits.len > 3 ||
		    !text_parse_number(digits, &bits) ||
		    bits > (v4 ? 32U : 128U))
			return -1;
	}
	if (!read_ip(a, address, &any))
		return 0;
	bits += v4 ? 96 : 0;
	/* ::/0 and its like are of IPv6, and IPv4 is not in them. */
	if (bits < 96 && memcmp(a, mapped, sizeof mapped) == 0)
		return 0;
	bytes = (size_t)bits / 8;
	mask = 0xff00U >> bits % 8 & 0xff;
	return memcmp(a, b, bytes) == 0 &&
	    (bits % 8 == 0 || ((a[bytes] ^ b[bytes]) & mask) == 0);
}

bool
network_address(char to[NETWORK_ADDRESS], const char *address)
{
	unsigned char a[16];
	bool v4;

	if (!read_ip(a, address, &v4))
		return false;
	v4 = memcmp(a, mapped, sizeof mapped) == 0;
	return inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? a + sizeof mapped : a,
	    to, NETWORK_ADDRESS) != NULL;
}
