/*
 * buffer.h - text that grows.
 */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

/* Begins as zeros. */
struct buffer {
	char *p;		/* owned */
	size_t len, size;	/* octets in it, and that it has room for */
	bool failed;		/* no memory, for instance; sticky */
};

void	buffer_add(struct buffer *b, const char *p, size_t len);

/* Adds the strings up to NULL, one after the other. */
void	buffer_join(struct buffer *b, ...) __attribute__((sentinel));

/* Ends it.  Returns the text with a NUL, for the caller to free, or NULL if
   there was no memory for all of it. */
char	*buffer_take(struct buffer *b);

#endif
