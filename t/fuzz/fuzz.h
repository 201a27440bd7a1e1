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

struct envelope;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void
demand(bool kept, const char *what)
{
	if (kept)
		return;
	fprintf(stderr, "fuzzer: %s\n", what);
	abort();
}

/* For a struct logger. */
static inline void
demand_printable(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	(void)ctx;
	(void)priority;
	(void)event;
	(void)env;
	for (; *text != '\0'; text++)
		demand((unsigned char)*text >= ' ' && *text != '\177',
		    "a log line with control characters");
}

/* The same, and counts the lines in *ctx, an unsigned. */
static inline void
count_printable(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	++*(unsigned *)ctx;
	demand_printable(NULL, priority, event, env, text);
}

#endif
