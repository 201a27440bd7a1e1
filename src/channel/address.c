/*
 * address.c - the grammar of addresses: RFC 5321 4.1.2 and 4.1.3.
 */
#include <arpa/inet.h>

#include <string.h>

#include "base/text.h"
#include "channel/private.h"

#define DOMAIN_MAX 255	/* RFC 5321 4.5.3.1.2 */

static bool
atext(char c)
{
	return text_is_alnum(c) || octet_high(c) ||
	    (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL);
}

/* Length of a quoted string at the start of s, 0 if there is none. */
static size_t
quoted_length(struct span s)
{
	for (size_t i = 1; i < s.len; i++) {
		if (s.p[i] == '"')
			return i + 1;
		if (s.p[i] == '\\')
			i++;
	}
	return 0;
}

/* Postfix accepts underscores in host names, too. */
static bool
domain_octet(char c)
{
	return text_is_alnum(c) || octet_high(c) || c == '-' || c == '_';
}

/* Length of labels with single dots between them; 0 if there are none. */
static size_t
dotted_length(struct span s)
{
	size_t i = 0;

	for (;;) {
		if (i == s.len || !domain_octet(s.p[i]))
			return 0;
		while (i < s.len && domain_octet(s.p[i]))
			i++;
		if (i == s.len || s.p[i] != '.')
			return i;
		i++;
	}
}

/* Length of an unquoted local part.  RFC 5321 4.1.2 wants single dots between
   atoms.  Postfix accepts dots anywhere, and such mailboxes exist. */
static size_t
local_length(struct span s)
{
	size_t i = 0;

	while (i < s.len && (atext(s.p[i]) || s.p[i] == '.'))
		i++;
	return i;
}

/* Reads four numbers below 256 with dots between them (RFC 5321 4.1.3) as
   octets. */
static bool
read_ipv4(struct span s, unsigned char to[4])
{
	unsigned dots = 0;
	uint64_t octet;
	size_t n;

	for (;;) {
		for (n = 0; n < s.len && s.p[n] != '.'; n++)
			;
		if (n > 3 || dots > 3 || !text_parse_number((struct span){
		    s.p, n }, &octet) || octet > 255)
			return false;
		to[dots] = (unsigned char)octet;
		if (n == s.len)
			return dots == 3;
		s = span_skip(s, n + 1);
		dots++;
	}
}

/* RFC 4291 2.2. */
static bool
read_ipv6(struct span s, unsigned char to[16])
{
	char text[INET6_ADDRSTRLEN];

	return span_copy(text, sizeof text, s) && strlen(text) == s.len &&
	    inet_pton(AF_INET6, text, to) == 1;
}

void
write_ipv6(char to[CHANNEL_NAME_MAX], const unsigned char a[16])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (memcmp(a, mapped, sizeof mapped) == 0)
		text_ipv4(to, CHANNEL_NAME_MAX, a + sizeof mapped);
	else
		inet_ntop(AF_INET6, a, to, CHANNEL_NAME_MAX);
}

bool
parse_ip(char to[CHANNEL_NAME_MAX], struct span s)
{
	unsigned char octets[16];

	if (read_ipv4(s, octets)) {
		text_ipv4(to, CHANNEL_NAME_MAX, octets);
		return span_same(s, to);
	}
	if (!read_ipv6(s, octets))
		return false;
	write_ipv6(to, octets);
	return true;
}

/* An address literal without its brackets: RFC 5321 4.1.3. */
static bool
literal_address(struct span s)
{
	static const char tag[] = "IPv6:";
	unsigned char octets[16];

	return read_ipv4(s, octets) || (span_starts(s, tag) &&
	    read_ipv6(span_skip(s, sizeof tag - 1), octets));
}

/* Length of a domain or address literal; 0 if there is none. */
static size_t
domain_length(struct span s)
{
	size_t i;

	if (s.len == 0 || s.p[0] == '-')
		return 0;
	if (s.p[0] != '[') {
		i = dotted_length(s);
		return i > DOMAIN_MAX ? 0 : i;
	}
	for (i = 1; i < s.len && s.p[i] != ']'; i++)
		;
	return i < s.len && literal_address((struct span){ s.p + 1, i - 1 })
	    ? i + 1 : 0;
}

/* Length of a source route "@a,@b:", which is ignored (RFC 5321 4.1.1.3). */
static size_t
route_length(struct span s)
{
	size_t i = 0, n;

	while (i < s.len && s.p[i] == '@') {
		n = domain_length(span_skip(s, i + 1));
		i += n + 1;
		if (n == 0 || i == s.len)
			return 0;
		if (s.p[i] == ':')
			return i + 1;
		if (s.p[i] != ',')
			return 0;
		i++;
	}
	return 0;
}

/* Length of a mailbox (RFC 5321 4.1.2), whose domain is optional; 0 if there is
   none, or if a program could take it for an option. */
static size_t
mailbox_length(struct span s)
{
	size_t i, n;

	if (s.len == 0 || s.p[0] == '-')
		return 0;
	i = s.p[0] == '"' ? quoted_length(s) : local_length(s);
	if (i == 0 || i == s.len || s.p[i] != '@')
		return i;
	n = domain_length(span_skip(s, i + 1));
	return n == 0 ? 0 : i + 1 + n;
}

bool
parse_path(struct span *s, struct span *out)
{
	bool angle;
	size_t n = 0;

	*s = span_trim(*s);
	angle = s->len > 0 && s->p[0] == '<';
	if (angle) {
		*s = span_skip(*s, 1);
		n = route_length(*s);
		*s = span_skip(*s, n);
	}
	out->p = s->p;
	out->len = mailbox_length(*s);
	*s = span_skip(*s, out->len);
	if (angle && (s->len == 0 || s->p[0] != '>'))
		return false;
	*s = span_skip(*s, angle);
	return (out->len > 0 || (angle && n == 0)) &&
	    (s->len == 0 || s->p[0] == ' ') && span_printable(*out);
}

bool
parse_port(const char *s)
{
	return s[0] == '0' ? s[1] == '\0' : text_parse_port(s) != 0;
}
