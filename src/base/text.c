/*
 * text.c - strings and numbers in the forms that mail and its logs need.
 *
 * What every session says is put together without stdio, whose pages the
 * channel process would have to fault in for it.
 */
#define _GNU_SOURCE	/* strsep */
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

size_t
text_printable(const char *p, size_t len)
{
	static const unsigned long least[] = { 0, 0, 0xa0, 0x800, 0x10000 };
	unsigned char c = (unsigned char)*p;
	unsigned long code;
	size_t i, n;

	if (c < 0x80)
		return c >= ' ' && c != 0x7f;
	n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
	if (c < 0xc2 || c > 0xf4 || n > len)
		return 0;
	code = c & (0x7fU >> n);
	for (i = 1; i < n; i++) {
		c = (unsigned char)p[i];
		if ((c & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (c & 0x3f);
	}
	if (code < least[n] || code > 0x10ffff)
		return 0;
	return code >= 0xd800 && code <= 0xdfff ? 0 : n;
}

bool
text_is_printable(const char *p, size_t len)
{
	size_t n;

	for (; len > 0; p += n, len -= n)
		if ((n = text_printable(p, len)) == 0)
			return false;
	return true;
}

bool
text_all_printable(const char *s)
{
	return text_is_printable(s, strlen(s));
}

bool
text_is_ascii(const char *p, size_t len)
{
	uint64_t word, all = 0;

	for (; len >= sizeof word; p += sizeof word, len -= sizeof word) {
		memcpy(&word, p, sizeof word);
		all |= word;
	}
	for (; len > 0; p++, len--)
		all |= (uint64_t)(unsigned char)*p;
	return (all & UINT64_C(0x8080808080808080)) == 0;
}

void
text_make_safe(char *safe, const char *text, bool lines)
{
	size_t len = strlen(text), n;

	for (; len > 0; len -= n) {
		n = text_printable(text, len);
		if (n == 0) {
			*safe++ = lines && *text == '\n' ? '\n' : '?';
			text++;
			n = 1;
		} else
			for (size_t i = 0; i < n; i++)
				*safe++ = *text++;
	}
	*safe = '\0';
}

size_t
text_one_line(char *to, size_t size, const char *text)
{
	size_t len = strlen(text), n, most, i = 0;
	const char *as;

	for (; len > 0; text += n, len -= n) {
		n = text_printable(text, len);
		as = n > 0 ? text : *text == '\n' ? " / " : "?";
		most = n > 0 ? n : strlen(as);
		n += n == 0;
		if (i + most >= size)
			break;
		memcpy(to + i, as, most);
		i += most;
	}
	to[i] = '\0';
	return i;
}

char *
text_join(char *to, size_t size, ...)
{
	const char *s;
	va_list ap;
	size_t n = 0;

	va_start(ap, size);
	while ((s = va_arg(ap, const char *)) != NULL)
		while (*s != '\0' && n < size - 1)
			to[n++] = *s++;
	va_end(ap);
	to[n] = '\0';
	return to;
}

char *
text_cut(char *to, size_t size, const char *p, size_t len)
{
	size_t n;

	for (n = 0; n < len && n < size - 1 && p[n] != '\0'; n++)
		to[n] = p[n];
	to[n] = '\0';
	return to;
}

char *
text_copy(char *to, size_t size, const char *s)
{
	return text_cut(to, size, s, SIZE_MAX);
}

bool
text_fit(char *to, size_t size, const char *p, size_t len)
{
	return len > 0 && len < size &&
	    strlen(text_cut(to, size, p, len)) == len;
}

const char *
text_number(char to[TEXT_NUMBER], uint64_t n, size_t digits)
{
	char *p = to + TEXT_NUMBER - 1;

	*p = '\0';
	do {
		*--p = (char)('0' + n % 10);
		n /= 10;
	} while (n > 0 || p > to + TEXT_NUMBER - 1 - digits);
	return p;
}

void
text_ipv4(char *to, size_t size, const unsigned char a[4])
{
	char n[4][TEXT_NUMBER];

	text_join(to, size, text_number(n[0], a[0], 1), ".",
	    text_number(n[1], a[1], 1), ".", text_number(n[2], a[2], 1), ".",
	    text_number(n[3], a[3], 1), NULL);
}

const char *
text_find_word(const char *words, const char *name)
{
	size_t n = strlen(name);

	for (;;) {
		words += strspn(words, " ");
		if (*words == '\0')
			return NULL;
		if (strncasecmp(words, name, n) == 0 &&
		    (words[n] == '\0' || words[n] == ' ' || words[n] == '='))
			return words;
		words += strcspn(words, " ");
	}
}

struct span
span_of(const char *s)
{
	return (struct span){ s, strlen(s) };
}

bool
text_starts(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

bool
text_is(const char *p, size_t len, const char *word)
{
	return len == strlen(word) && memcmp(p, word, len) == 0;
}

bool
text_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

bool
text_is_alnum(char c)
{
	return text_is_digit(c) || (c >= 'a' && c <= 'z') ||
	    (c >= 'A' && c <= 'Z');
}

bool
text_is_control(char c)
{
	return (unsigned char)c < ' ' || c == '\177';
}

bool
text_is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

size_t
text_line(const char *p, size_t len)
{
	const char *lf = memchr(p, '\n', len);

	return lf == NULL ? len : (size_t)(lf - p) + 1;
}

size_t
text_split(char *text, const char *blanks, char *words[], size_t most)
{
	char *word;
	size_t n = 0;

	while ((word = strsep(&text, blanks)) != NULL) {
		if (*word == '\0')
			continue;
		if (n == most)
			return 0;
		words[n++] = word;
	}
	words[n] = NULL;
	return n;
}

size_t
text_label(const char *p)
{
	size_t n = 0;

	while (text_is_alnum(p[n]) || p[n] == '-' || p[n] == '_')
		n++;
	return n;
}

size_t
text_digits(const char *p)
{
	size_t n = 0;

	while (text_is_digit(p[n]))
		n++;
	return n;
}

int
text_code(const char *p)
{
	if (*p < '2' || *p > '5' || text_digits(p) != 3)
		return 0;
	return (p[0] - '0') * 100 + (p[1] - '0') * 10 + p[2] - '0';
}

size_t
text_enhanced(const char *p)
{
	size_t subject, detail;

	if ((p[0] != '2' && p[0] != '4' && p[0] != '5') || p[1] != '.')
		return 0;
	subject = text_digits(p + 2);
	if (subject < 1 || subject > 3 || p[2 + subject] != '.')
		return 0;
	detail = text_digits(p + 3 + subject);
	if (detail < 1 || detail > 3)
		return 0;
	p += 3 + subject + detail;
	return *p == '\0' || *p == ' ' ? 3 + subject + detail : 0;
}

bool
text_parse_number(struct span s, uint64_t *n)
{
	uint64_t digit;
	size_t i;

	*n = 0;
	for (i = 0; i < s.len; i++) {
		if (!text_is_digit(s.p[i]))
			return false;
		digit = (uint64_t)(s.p[i] - '0');
		if (*n > (UINT64_MAX - digit) / 10)
			return false;
		*n = *n * 10 + digit;
	}
	return s.len > 0;
}

unsigned
text_parse_port(const char *s)
{
	uint64_t n;

	if (strlen(s) > 5 || !text_parse_number(span_of(s), &n))
		return 0;
	return n <= 65535 ? (unsigned)n : 0;
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "abcdefghijklmnopqrstuvwxyz0123456789+/";

size_t
text_encode_base64(char *to, const char *p, size_t len)
{
	unsigned char in[3];
	char *start = to;
	size_t n;

	for (; len > 0; p += n, len -= n) {
		n = len < 3 ? len : 3;
		memset(in, 0, sizeof in);
		memcpy(in, p, n);
		*to++ = base64_digits[in[0] >> 2];
		*to++ = base64_digits[(in[0] & 3) << 4 | in[1] >> 4];
		*to++ = n > 1 ? base64_digits[(in[1] & 15) << 2 | in[2] >> 6]
		    : '=';
		*to++ = n > 2 ? base64_digits[in[2] & 63] : '=';
	}
	*to = '\0';
	return (size_t)(to - start);
}

int
text_base64_digit(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z'
	    ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52
	    : c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t
text_base64_digits(const char *p)
{
	return strspn(p, base64_digits);
}

long
text_decode_base64(char *to, size_t size, struct span s)
{
	size_t n = 0, i, pad;
	unsigned bits = 0;
	int digit;

	if (s.len % 4 != 0)
		return -1;
	for (i = 0; i < s.len && s.p[i] != '='; i++) {
		if ((digit = text_base64_digit(s.p[i])) == -1)
			return -1;
		bits = (bits << 6 | (unsigned)digit) & 0xfff;
		if (i % 4 == 0)
			continue;
		if (n < size)
			to[n] = (char)(bits >> (6 - 2 * (i % 4)) & 0xff);
		n++;
	}
	pad = s.len - i;
	if (pad > 2 || (pad == 2 && s.p[i + 1] != '='))
		return -1;
	/* RFC 4648 3.5: the last digit's bits that are not used are 0. */
	if (pad != 0 && (bits & (pad == 1 ? 3U : 15U)) != 0)
		return -1;
	return (long)n;
}

static const char hex_digits[] = "0123456789ABCDEFabcdef";

static int
hex_digit(char c)
{
	const char *p = c == '\0' ? NULL : strchr(hex_digits, c);
	int n = p == NULL ? -1 : (int)(p - hex_digits);

	return n > 15 ? n - 6 : n;
}

int
text_hex_octet(const char *p)
{
	int high = hex_digit(p[0]);
	int low = high == -1 ? -1 : hex_digit(p[1]);

	return low == -1 ? -1 : high << 4 | low;
}

void
text_encode_xtext(char *to, size_t size, const char *s, const char *special)
{
	size_t n = 0;

	for (; *s != '\0' && n + 3 < size; s++)
		if (*s > ' ' && *s < '\177' && strchr(special, *s) == NULL) {
			to[n++] = *s;
		} else {
			to[n++] = '+';
			to[n++] = hex_digits[(unsigned char)*s >> 4];
			to[n++] = hex_digits[(unsigned char)*s & 15];
		}
	to[n] = '\0';
}

long
text_decode_xtext(char *to, size_t size, struct span s)
{
	size_t n = 0, i;
	int octet;
	char c;

	for (i = 0; i < s.len; i++) {
		c = s.p[i];
		if (((unsigned char)c & 0x80) != 0 || c == '=')
			return -1;
		if (c == '+') {
			if (s.len - i < 3)
				return -1;
			octet = text_hex_octet(s.p + i + 1);
			/* RFC 3461 4: in upper case. */
			if (octet == -1 || s.p[i + 1] >= 'a' ||
			    s.p[i + 2] >= 'a')
				return -1;
			c = (char)octet;
			i += 2;
		}
		if (n < size)
			to[n] = c;
		n++;
	}
	return (long)n;
}
