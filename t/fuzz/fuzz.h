/*
 * fuzz.h - what every fuzz target begins with: the one function that libFuzzer
 * calls, and the one by which a target objects.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void
demand(bool kept, const char *what)
{
	if (kept)
		return;
	fprintf(stderr, "fuzzer: %s\n", what);
	abort();
}

#endif
