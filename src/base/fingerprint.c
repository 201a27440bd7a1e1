/*
 * fingerprint.c - lists of SHA-256, in hexadecimal digits, as options name
 * certificates.
 */
#include <stddef.h>

#include "base/fingerprint.h"
#include "base/text.h"

const char *
fingerprint_read(const char *list, unsigned char to[FINGERPRINT])
{
	const char *p = list;
	int octet;

	for (size_t i = 0; i < FINGERPRINT; i++) {
		if (i > 0 && *p == ':')
			p++;
		octet = text_hex_octet(p);
		if (octet == -1)
			return NULL;
		to[i] = (unsigned char)octet;
		p += 2;
	}
	return *p == ',' || *p == '\0' ? p : NULL;
}

bool
fingerprint_are(const char *list)
{
	unsigned char one[FINGERPRINT];

	for (;; list++) {
		list = fingerprint_read(list, one);
		if (list == NULL || *list == '\0')
			return list != NULL;
	}
}
