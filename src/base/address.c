/*
 * address.c - what a mailbox means, however it is spelled.
 */
#include <string.h>

#include "base/address.h"

char *
address_canonical(char *address)
{
	char *at = strrchr(address, '@'), *p, *to = address;

	if (at == NULL)
		return NULL;
	if (at >= address + 2 && *address == '"' && at[-1] == '"') {
		for (p = address + 1; p < at - 1; p++) {
			if (*p == '\\' && p + 1 < at - 1)
				p++;
			*to++ = *p;
		}
		memmove(to, at, strlen(at) + 1);
		at = to;
	}
	for (p = at + 1; *p != '\0'; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p | 0x20);
	return at;
}
