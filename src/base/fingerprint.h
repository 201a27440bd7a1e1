/*
 * fingerprint.h - lists of SHA-256, in hexadecimal digits, as options name
 * certificates.
 */
#ifndef BASE_FINGERPRINT_H
#define BASE_FINGERPRINT_H

#include <stdbool.h>

#define FINGERPRINT 32		/* octets */

/* Reads the first of a list: 64 digits, with or without colons between octets.
   Returns what follows it, a comma or the end; or NULL if it is none. */
const char *fingerprint_read(const char *list, unsigned char to[FINGERPRINT]);

/* Is this a list of them, with commas between them? */
bool	fingerprint_are(const char *list);

#endif
