/*
 * mime_text.c - texts of MIME: encodings, charsets, encoded words, parameters.
 */
#include "base/mime.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

#define WORD_MAX 1000	/* octets of an encoded word; RFC 2047 2 says 75 */

/* A text that is being written, cut to fit. */
struct cut {
	char *to;
	size_t len, size;
	bool full;		/* something did not fit: nothing may follow */
};

static void
cut_add(struct cut *c, const char *p, size_t n)
{
	c->full = c->full || n >= c->size - c->len;
	if (c->full)
		return;
	memcpy(c->to + c->len, p, n);
	c->len += n;
}

/* ---- encodings ---- */

/* The octet that two hexadecimal digits at s.p[at] are, or -1. */
static int
hex_octet(struct span s, size_t at)
{
	return s.len - at < 2 ? -1 : text_hex_octet(s.p + at);
}

/* How many octets at s.p[at], which follow a "=", are a soft line break
   (RFC 2045 6.7), or 0. */
static size_t
soft_break(struct span s, size_t at)
{
	size_t i = at;

	while (i < s.len && (s.p[i] == ' ' || s.p[i] == '\t' ||
	    s.p[i] == '\r'))
		i++;
	return i < s.len && s.p[i] == '\n' ? i + 1 - at
	    : i == s.len ? i - at : 0;
}

/* One octet of quoted-printable, or none. */
static size_t
decode_quoted(bool word, struct span s, size_t *at, char *to)
{
	int octet;

	*to = s.p[(*at)++];
	if (word && *to == '_')
		*to = ' ';
	if (*to != '=')
		return 1;
	octet = hex_octet(s, *at);
	if (octet != -1) {
		*at += 2;
		*to = (char)octet;
		return 1;
	}
	if (*at < s.len && soft_break(s, *at) == 0)
		return 1;
	*at += soft_break(s, *at);
	return 0;
}

/* Four digits of base64, as far as there are so many: up to three octets. */
static size_t
decode_quantum(struct span s, size_t *at, char *to)
{
	uint32_t bits = 0;
	size_t n = 0;

	for (; *at < s.len && n < 4; ++*at) {
		int digit = text_base64_digit(s.p[*at]);

		if (s.p[*at] == '=')
			*at = s.len - 1;
		if (digit == -1)
			continue;
		bits = bits << 6 | (uint32_t)digit;
		n++;
	}
	bits <<= 6 * (4 - n);
	to[0] = (char)(bits >> 16);
	to[1] = (char)(bits >> 8);
	to[2] = (char)bits;
	return n < 2 ? 0 : n - 1;
}

size_t
mime_decode(enum mime_encoding encoding, struct span s, size_t *at, char *to,
    size_t size)
{
	size_t n = 0;

	if (encoding == MIME_PLAIN) {
		n = s.len - *at < size ? s.len - *at : size;
		memcpy(to, s.p + *at, n);
		*at += n;
		return n;
	}
	while (*at < s.len && size - n >= 4)
		n += encoding == MIME_BASE64 ? decode_quantum(s, at, to + n)
		    : decode_quoted(encoding == MIME_WORD, s, at, to + n);
	return n;
}

/* ---- charsets ---- */

/* Windows-1252 from 0x80 to 0x9f; 0: it has no such character. */
static const uint16_t windows[32] = {
	0x20ac, 0, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6,
	0x2030, 0x0160, 0x2039, 0x0152, 0, 0x017d, 0, 0, 0x2018, 0x2019,
	0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a,
	0x0153, 0, 0x017e, 0x0178
};

/* What ISO 8859-15 has in other places than ISO 8859-1. */
static const struct { unsigned char octet; uint16_t code; } latin9[] = {
	{ 0xa4, 0x20ac }, { 0xa6, 0x0160 }, { 0xa8, 0x0161 }, { 0xb4, 0x017d },
	{ 0xb8, 0x017e }, { 0xbc, 0x0152 }, { 0xbd, 0x0153 }, { 0xbe, 0x0178 }
};

static const char singles[][16] = {	/* of one octet a character */
	"windows-1252", "iso-8859-1", "cp1252", "latin1", "iso-8859-15"
};

bool
mime_charset_known(const char *charset)
{
	for (size_t i = 0; i < COUNT(singles); i++)
		if (strcasecmp(charset, singles[i]) == 0)
			return true;
	return *charset == '\0' || strcasecmp(charset, "utf-8") == 0 ||
	    strcasecmp(charset, "us-ascii") == 0;
}

size_t
mime_utf8(const char *charset, unsigned char octet, char to[4])
{
	uint16_t code = octet;
	size_t i = 0;

	while (i < COUNT(singles) && strcasecmp(charset, singles[i]) != 0)
		i++;
	to[0] = (char)octet;
	if (octet < 0x80 || i == COUNT(singles))
		return 1;
	if (octet < 0xa0 && windows[octet - 0x80] != 0)
		code = windows[octet - 0x80];
	for (size_t k = 0; i == COUNT(singles) - 1 && k < COUNT(latin9); k++)
		if (latin9[k].octet == octet)
			code = latin9[k].code;
	if (code < 0x800) {
		to[0] = (char)(0xc0 | code >> 6);
		to[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	to[0] = (char)(0xe0 | code >> 12);
	to[1] = (char)(0x80 | (code >> 6 & 0x3f));
	to[2] = (char)(0x80 | (code & 0x3f));
	return 3;
}

/* Adds octets of a charset. */
static void
cut_add_from(struct cut *c, const char *charset, const char *p, size_t n)
{
	char utf8[4];
	size_t len;

	for (; n > 0; p++, n--) {
		len = mime_utf8(charset, (unsigned char)*p, utf8);
		cut_add(c, utf8, len);
	}
}

/* Ends the text, where it was cut before a character that is not whole. */
static void
cut_end(struct cut *c)
{
	for (size_t i = 1; c->full && i < 4 && i <= c->len; i++) {
		unsigned char last = (unsigned char)c->to[c->len - i];

		if ((last & 0xc0) == 0x80)
			continue;
		if (last >= 0xc0 && text_printable(c->to + c->len - i, i) == 0)
			c->len -= i;
		break;
	}
	c->to[c->len] = '\0';
}

/* ---- encoded words ---- */

/* Adds the encoded word that s begins with.  Returns how many octets it has, or
   0 if that is none. */
static size_t
take_encoded_word(struct cut *c, struct span s)
{
	const size_t most = s.len < WORD_MAX ? s.len : WORD_MAX;
	char charset[32], octets[64];
	const char *mark, *end;
	size_t n, at = 0;
	enum mime_encoding encoding;
	struct span text;

	if (most < 8 || s.p[0] != '=' || s.p[1] != '?')
		return 0;
	mark = memchr(s.p + 2, '?', most - 2);
	if (mark == NULL || most - (size_t)(mark - s.p) < 5 || mark[2] != '?')
		return 0;
	encoding = mark[1] == 'B' || mark[1] == 'b' ? MIME_BASE64
	    : mark[1] == 'Q' || mark[1] == 'q' ? MIME_WORD : MIME_PLAIN;
	n = (size_t)(mark - s.p) - 2;
	if (n >= sizeof charset || encoding == MIME_PLAIN)
		return 0;
	memcpy(charset, s.p + 2, n);
	charset[n] = '\0';
	charset[strcspn(charset, "*")] = '\0';	/* RFC 2231 5: a language */
	text.p = mark + 3;
	for (end = text.p; ; end++) {
		if ((size_t)(end - s.p) + 2 > most || *end == '\n')
			return 0;
		if (end[0] == '?' && end[1] == '=')
			break;
	}
	text.len = (size_t)(end - text.p);
	while ((n = mime_decode(encoding, text, &at, octets,
	    sizeof octets)) > 0)
		cut_add_from(c, charset, octets, n);
	return (size_t)(end + 2 - s.p);
}

static bool
is_white(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

void
mime_words(struct span value, char *to, size_t size)
{
	struct cut c = { to, 0, size, false };
	bool blank = false, word = false;
	size_t i = 0, n;

	while (i < value.len && !c.full) {
		size_t before = c.len;

		if (is_white(value.p[i])) {
			blank = true;
			i++;
			continue;
		}
		/* RFC 2047 6.2: blanks between encoded words do not count. */
		if (blank && before > 0) {
			cut_add(&c, " ", 1);
			blank = false;
			if (word && (n = take_encoded_word(&c, (struct span){
			    value.p + i, value.len - i })) > 0) {
				size_t added = c.len > before
				    ? c.len - before - 1 : 0;

				memmove(to + before, to + before + 1, added);
				c.len = before + added;
				i += n;
				continue;
			}
		}
		blank = false;
		n = take_encoded_word(&c, (struct span){ value.p + i,
		    value.len - i });
		word = n > 0;
		if (n == 0)
			cut_add(&c, value.p + i, n = 1);
		i += n;
	}
	cut_end(&c);
}

/* ---- parameters ---- */

/* Goes past blanks and comments. */
static void
skip_white(struct span *s)
{
	unsigned depth = 0;

	for (; s->len > 0; s->p++, s->len--) {
		if (*s->p == '(') {
			depth++;
		} else if (depth > 0 && *s->p == ')') {
			depth--;
		} else if (depth > 0 && *s->p == '\\' && s->len > 1) {
			s->p++;
			s->len--;
		} else if (depth == 0 && !is_white(*s->p)) {
			return;
		}
	}
}

static void
skip_octet(struct span *s)
{
	s->p++;
	s->len--;
}

/* Takes a token, or what is quoted, off *s; c may be NULL. */
static void
take_parameter_value(struct span *s, struct cut *c)
{
	bool quoted = s->len > 0 && *s->p == '"';

	if (quoted)
		skip_octet(s);
	for (; s->len > 0; skip_octet(s)) {
		if (quoted ? *s->p == '"' : *s->p == ';' || *s->p == '(' ||
		    is_white(*s->p))
			break;
		if (quoted && *s->p == '\\' && s->len > 1)
			skip_octet(s);
		if (c != NULL && *s->p != '\r' && *s->p != '\n')
			cut_add(c, s->p, 1);
	}
	if (quoted && s->len > 0)
		skip_octet(s);
}

/* Goes past the next semicolon.  False if there is none. */
static bool
next_parameter(struct span *s)
{
	while (skip_white(s), s->len > 0 && *s->p != ';')
		take_parameter_value(s, NULL);
	if (s->len == 0)
		return false;
	skip_octet(s);
	skip_white(s);
	return true;
}

/* Takes "name*0*=" off *s, up to the value.  Returns whether it is that name;
   *section becomes 0 for "name*", -1 for "name". */
static bool
take_parameter_name(struct span *s, const char *name, long *section,
    bool *percent)
{
	struct span a = { s->p, 0 };
	size_t n = strlen(name);
	uint64_t number = 0;

	while (s->len > 0 && *s->p != '=' && *s->p != ';' && !is_white(*s->p))
		skip_octet(s);
	a.len = (size_t)(s->p - a.p);
	skip_white(s);
	if (s->len == 0 || *s->p != '=')
		return false;
	skip_octet(s);
	skip_white(s);
	*percent = a.len > n && a.p[a.len - 1] == '*';
	*section = -1;
	a.len -= *percent;
	if (a.len < n || strncasecmp(a.p, name, n) != 0)
		return false;
	if (*percent)
		*section = 0;
	if (a.len == n)
		return true;
	if (a.p[n] != '*' || !text_parse_number((struct span){ a.p + n + 1,
	    a.len - n - 1 }, &number) || number >= MIME_TEXT)
		return false;
	*section = (long)number;
	return true;
}

/* Adds a section of an extended value (RFC 2231 4); the first one names the
   charset. */
static void
add_extended(struct cut *c, struct span s, bool first, char charset[32])
{
	const char *mark;
	int octet;
	char one;

	if (first) {
		mark = memchr(s.p, '\'', s.len);
		if (mark != NULL && mark - s.p < 32) {
			memcpy(charset, s.p, (size_t)(mark - s.p));
			charset[mark - s.p] = '\0';
			s.len -= (size_t)(mark + 1 - s.p);
			s.p = mark + 1;
			mark = memchr(s.p, '\'', s.len);
			if (mark != NULL) {
				s.len -= (size_t)(mark + 1 - s.p);
				s.p = mark + 1;
			}
		}
	}
	for (size_t i = 0; i < s.len; i++) {
		one = s.p[i];
		octet = one == '%' ? hex_octet(s, i + 1) : -1;
		if (octet != -1) {
			one = (char)octet;
			i += 2;
		}
		cut_add_from(c, charset, &one, 1);
	}
}

bool
mime_parameter(struct span value, const char *name, char *to, size_t size)
{
	char raw[1024], charset[32] = "";
	struct cut c = { to, 0, size, false };
	bool found = false, percent;
	long section, next = 0;

	*to = '\0';
	while (next_parameter(&value)) {
		struct cut one = { raw, 0, sizeof raw, false };

		if (!take_parameter_name(&value, name, &section, &percent))
			continue;
		take_parameter_value(&value, &one);
		if (section == -1 && !found) {
			mime_words((struct span){ raw, one.len }, to, size);
			found = true;
		} else if (section == next) {
			if (percent)
				add_extended(&c, (struct span){ raw, one.len },
				    section == 0, charset);
			else
				cut_add(&c, raw, one.len);
			next++;
			cut_end(&c);
			found = true;
		}
	}
	return found;
}
