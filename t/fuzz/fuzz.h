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

#include "base/reply.h"

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

/* s has no control characters, but those that may has. */
static inline void
demand_text(const char *s, const char *may, const char *what)
{
	for (; *s != '\0'; s++)
		demand(((unsigned char)*s >= ' ' && *s != '\177') ||
		    strchr(may, *s) != NULL, what);
}

/* What a client can be told of a message or a recipient: 250 or a refusal. */
static inline void
demand_verdict(const struct reply *v)
{
	demand(v->code == 250 || (v->code >= 400 && v->code <= 599),
	    "not a verdict");
	demand(v->enh[0] == '\0' || v->enh[0] == '0' + v->code / 100,
	    "the enhanced code is of another class");
	demand_text(v->text, "\n", "a verdict with control characters");
}

#ifdef MFD_CLOEXEC	/* after <sys/mman.h>, with _GNU_SOURCE */
/* A file in memory; its position is at its end. */
static inline int
memory_file(const char *p, size_t len)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	demand(fd != -1 && write(fd, p, len) == (ssize_t)len,
	    "no file in memory");
	return fd;
}

/* One that stays, with this text; its name goes to name. */
static inline void
named_file(const char *text, char *name, size_t size)
{
	snprintf(name, size, "/proc/self/fd/%d",
	    memory_file(text, strlen(text)));
}
#endif

/* What may be told to nobody, in clear text and in base64. */
struct secret {
	const char *text, *base64;
	bool kept;	/* the input does not have it, and so cannot know it */
};

static inline void
demand_kept(const struct secret *s, const char *text)
{
	demand(!s->kept || (strstr(text, s->text) == NULL &&
	    strstr(text, s->base64) == NULL), "a secret was told");
}

/* For a struct logger whose ctx is a struct secret. */
static inline void
log_kept(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	(void)priority;
	(void)event;
	(void)env;
	demand_kept(ctx, text);
}

/* Copies the beginning of a line to text, as smtpd keeps replies: without
   control characters. */
static inline void
copy_printable(const char *line, size_t len, char *text, size_t size)
{
	size_t i, n = 0;

	for (i = 0; i < len && n < size - 1; i++)
		if ((unsigned char)line[i] >= ' ' && line[i] != '\177')
			text[n++] = line[i];
	text[n] = '\0';
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
	demand_text(text, "", "a log line with control characters");
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
