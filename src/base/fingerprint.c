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
	int high, low;

	for (size_t i = 0; i < FINGERPRINT; i++) {
		if (i > 0 && *p == ':')
			p++;
		high = text_hex_digit(p[0]);
		low = high == -1 ? -1 : text_hex_digit(p[1]);
		if (low == -1)
			return NULL;
		to[i] = (unsigned char)(high << 4 | low);
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
