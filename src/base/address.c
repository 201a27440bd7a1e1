/*
 * address.c - what a mailbox means, however it is spelled.
 */
#include <stdbool.h>
#include <string.h>

#include "base/address.h"

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
