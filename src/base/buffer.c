/*
 * buffer.c - text that grows.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"

void
buffer_add(struct buffer *b, const char *p, size_t len)
{
	char *more;

	if (b->failed || len == 0)
		return;
	if (len > b->size - b->len) {
		b->size = 2 * b->size + len;
		more = realloc(b->p, b->size);
		if (more == NULL) {
			b->failed = true;
			return;
		}
		b->p = more;
	}
	memcpy(b->p + b->len, p, len);
	b->len += len;
}

void
buffer_join(struct buffer *b, ...)
{
	const char *s;
	va_list ap;

	va_start(ap, b);
	while ((s = va_arg(ap, const char *)) != NULL)
		buffer_add(b, s, strlen(s));
	va_end(ap);
}

char *
buffer_take(struct buffer *b)
{
	buffer_add(b, "", 1);
	if (b->failed)
		free(b->p);
	return b->failed ? NULL : b->p;
}
