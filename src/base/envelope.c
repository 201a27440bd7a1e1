/*
 * envelope.c - the names of the facts.
 */
#include <string.h>

#include "base/envelope.h"

#define FACT_ROW(fact, variable, argument, set_by, report) \
	[FACT_##fact] = { variable, argument, report, set_by },

const struct fact_names fact_names[FACTS] = { FACT_TABLE(FACT_ROW) };

unsigned
fact_cipher_bits(const char *cipher)
{
	if (strstr(cipher, "128") != NULL)
		return 128;
	return strstr(cipher, "256") || strstr(cipher, "CHACHA20") ? 256 : 0;
}
