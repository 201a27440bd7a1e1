/*
 * address.c - what a mailbox means, however it is spelled.
 */
#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "base/address.h"
#include "base/text.h"

#define DOMAIN_MAX 255	/* octets: RFC 5321 4.5.3.1.2 */

char *
address_unquote(char *address)
{
	char *end, *p, *to = address;
	bool at = false;

	if (*address != '"')
		return strrchr(address, '@');
	for (end = address + 1; *end != '\0' && *end != '"'; end++) {
		if (*end == '\\' && end[1] != '\0')
			end++;
		at = at || *end == '@';
	}
	if (*end == '\0' || (end[1] != '@' && (end[1] != '\0' || at)))
		return NULL;
	for (p = address + 1; p < end; p++) {
		p += *p == '\\';
		*to++ = *p;
	}
	memmove(to, end + 1, strlen(end + 1) + 1);
	return *to == '@' ? to : NULL;
}

char *
address_canonical(char *address)
{
	char *at = address_unquote(address), *p;

	for (p = at; p != NULL && *p != '\0'; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p | 0x20);
	return at;
}

/* Is it an address literal, brackets included? */
static bool
is_literal(const char *p, size_t len)
{
	static const char tag[] = "IPv6:";
	char text[sizeof tag + INET6_ADDRSTRLEN];
	unsigned char binary[16];

	if (len < 3 || p[len - 1] != ']' ||
	    !text_fit(text, sizeof text, p + 1, len - 2))
		return false;
	return strncasecmp(text, tag, sizeof tag - 1) == 0
	    ? inet_pton(AF_INET6, text + sizeof tag - 1, binary) == 1
	    : inet_pton(AF_INET, text, binary) == 1;
}

bool
address_is_domain(const char *p, size_t len)
{
	size_t i, n;

	if (len == 0 || len > DOMAIN_MAX || *p == '-' || *p == '.' ||
	    p[len - 1] == '.')
		return false;
	if (*p == '[')
		return is_literal(p, len);
	for (i = 0; i < len; i += n) {
		n = text_printable(p + i, len - i);
		if (n == 0 || (n == 1 && (p[i] == '.' ? p[i + 1] == '.' :
		    text_label(p + i) == 0)))
			return false;
	}
	return true;
}
