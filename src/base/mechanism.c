/*
 * mechanism.c - names of SASL mechanisms (RFC 4422 3.1).
 */
#include <string.h>

#include "base/mechanism.h"

bool
mechanism_is_portable(const char *name)
{
	size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");

	if (len == 0 || len > MECHANISM_MAX || name[len] != '\0')
		return false;
	if (len > 5 && strcmp(name + len - 5, "-PLUS") == 0)
		return false;
	return strcmp(name, "EXTERNAL") != 0;
}
