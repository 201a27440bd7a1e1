/*
 * header.c - what a message's own header says.
 */
#include <string.h>

#include "session/session.h"

void
header_read(struct session *s, struct span text)
{
	static const char name[] = "received:";
	size_t n = sizeof name - 1;
	const char *lf;
	char c;

	for (size_t i = 0; i < text.len && s->column != SIZE_MAX; i++) {
		if (s->column > n) {	/* the rest of a line says nothing */
			lf = memchr(text.p + i, '\n', text.len - i);
			if (lf == NULL)
				return;
			i = (size_t)(lf - text.p);
		}
		c = text.p[i];
		if (s->column < n)
			s->start[s->column] =
			    c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
		s->column++;
		if (s->column == n && memcmp(s->start, name, n) == 0)
			s->received++;
		if (c == '\n')
			s->column = s->column <= 2 && (s->start[0] == '\r' ||
			    s->start[0] == '\n') ? SIZE_MAX : 0;
	}
}
