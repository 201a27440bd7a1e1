/*
 * span.c - borrowed octets: words, classes, UTF-8.
 */
#include <string.h>

#include "base/text.h"
#include "channel/private.h"

struct span
span_skip(struct span s, size_t n)
{
	return (struct span){ s.p + n, s.len - n };
}

static char
octet_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

bool
span_starts(struct span s, const char *word)
{
	size_t i = 0;

	while (i < s.len && word[i] != '\0' &&
	    octet_lower(s.p[i]) == octet_lower(word[i]))
		i++;
	return word[i] == '\0';
}

bool
span_same(struct span s, const char *word)
{
	return s.len == strlen(word) && span_starts(s, word);
}

struct span
span_trim(struct span s)
{
	while (s.len > 0 && s.p[0] == ' ')
		s = span_skip(s, 1);
	while (s.len > 0 && s.p[s.len - 1] == ' ')
		s.len--;
	return s;
}

struct span
span_word(struct span *s)
{
	struct span w = *s;

	while (s->len > 0 && s->p[0] != ' ')
		*s = span_skip(*s, 1);
	w.len -= s->len;
	*s = span_trim(*s);
	return w;
}

bool
octet_high(char c)
{
	return ((unsigned char)c & 0x80) != 0;
}

size_t
span_digits(struct span s)
{
	size_t n = 0;

	while (n < s.len && text_is_digit(s.p[n]))
		n++;
	return n;
}

bool
span_clean(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (text_is_control(s.p[i]))
			return false;
	return true;
}

bool
span_copy(char *to, size_t size, struct span s)
{
	if (s.len >= size)
		return false;
	if (s.len > 0)
		memcpy(to, s.p, s.len);
	to[s.len] = '\0';
	return true;
}

/* *state has the number of octets that are missing and, above it, the bounds of
   the next one. */
bool
utf8_octet(unsigned *state, char octet)
{
	unsigned c = (unsigned char)octet, missing = *state & 0xff;
	unsigned low = 0x80, top = 0xbf;

	if (missing != 0) {
		if (c < (*state >> 8 & 0xff) || c > *state >> 16)
			return false;
		missing--;
	} else if (c >= 0xc2 && c <= 0xdf) {
		missing = 1;
	} else if (c >= 0xe0 && c <= 0xef) {
		missing = 2;
		low = c == 0xe0 ? 0xa0 : low;
		top = c == 0xed ? 0x9f : top;
	} else if (c >= 0xf0 && c <= 0xf4) {
		missing = 3;
		low = c == 0xf0 ? 0x90 : low;
		top = c == 0xf4 ? 0x8f : top;
	} else if (c >= 0x80) {
		return false;
	}
	*state = missing == 0 ? 0 : missing | low << 8 | top << 16;
	return true;
}

bool
span_printable(struct span s)
{
	return text_is_printable(s.p, s.len);
}

bool
span_copy_name(char *to, size_t size, struct span s)
{
	for (size_t i = 1; i < s.len; i++)
		if (s.p[i - 1] == '\xc2' && (s.p[i] & '\xe0') == '\x80')
			return false;
	if (!span_copy(to, size, s))
		return false;
	text_make_safe(to, to, false);
	return true;
}
