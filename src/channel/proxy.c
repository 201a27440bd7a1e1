/*
 * proxy.c - the PROXY protocol: a proxy in front of us says who the client is.
 */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "channel/private.h"

#define PROXY_V1_MAX 107	/* octets of a version 1 header with CRLF */
#define PROXY_V2_HEAD 16	/* octets of a version 2 header's fixed part */

/* Takes an address of the family that the header names. */
static bool
take_ip(char to[CHANNEL_NAME_MAX], struct span s, bool six)
{
	return (memchr(s.p, ':', s.len) != NULL) == six && parse_ip(to, s);
}

/* Reads version 1: "PROXY TCP4 source destination port port", with single
   blanks; after UNKNOWN anything may follow. */
static bool
proxy_v1(struct channel *ch, struct span s)
{
	static const char tcp4[] = "PROXY TCP4 ", tcp6[] = "PROXY TCP6 ";
	static const char unknown[] = "PROXY UNKNOWN";
	struct channel_peer *peer = &ch->peer;
	struct span field[6];
	size_t n = 0, i;
	bool six;

	i = sizeof unknown - 1;
	if (s.len >= i && memcmp(s.p, unknown, i) == 0)
		return s.len == i || s.p[i] == ' ';
	if (s.len < sizeof tcp4 || s.p[s.len - 1] == ' ')
		return false;
	six = memcmp(s.p, tcp6, sizeof tcp6 - 1) == 0;
	if (!six && memcmp(s.p, tcp4, sizeof tcp4 - 1) != 0)
		return false;
	for (i = 1; i < s.len; i++)
		if (s.p[i] == ' ' && s.p[i - 1] == ' ')
			return false;
	for (; s.len > 0 && n < 6; n++)
		field[n] = span_word(&s);
	return s.len == 0 && n == 6 &&
	    take_ip(peer->address, field[2], six) &&
	    take_ip(peer->server_address, field[3], six) &&
	    span_copy(peer->port, sizeof peer->port, field[4]) &&
	    span_copy(peer->server_port, sizeof peer->server_port, field[5]) &&
	    parse_port(peer->port) && parse_port(peer->server_port);
}

static unsigned
big_endian16(const unsigned char *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

/* Takes a TLV of a version 2 header off *p.  Returns false at the end, and if
   the rest is no TLV. */
static bool
next_tlv(const unsigned char **p, size_t *len, unsigned *type, struct span *v)
{
	if (*len < 3 || big_endian16(*p + 1) > *len - 3)
		return false;
	*type = **p;
	v->len = big_endian16(*p + 1);
	v->p = (const char *)*p + 3;
	*p += 3 + v->len;
	*len -= 3 + v->len;
	return true;
}

/* Takes what the proxy says of the client's TLS: PP2_TYPE_SSL. */
static void
take_ssl(struct channel *ch, const unsigned char *p, size_t len)
{
	struct channel_tls *tls = &ch->tls;
	bool verified;
	unsigned type;
	struct span v;

	if (len < 5 || (p[0] & 1) == 0)
		return;
	verified = (p[0] & 6) != 0 && (p[1] | p[2] | p[3] | p[4]) == 0;
	ch->ssl = true;
	p += 5;
	len -= 5;
	while (next_tlv(&p, &len, &type, &v)) {
		if (!span_printable(v))
			continue;
		if (type == 0x21)
			span_copy(tls->protocol, sizeof tls->protocol, v);
		else if (type == 0x22 && verified)
			span_copy(tls->subject, sizeof tls->subject, v);
		else if (type == 0x23)
			span_copy(tls->cipher, sizeof tls->cipher, v);
	}
}

/* Reads version 2; proxy_missing() has found it complete.  Returns false if the
   addresses are cut short, of no TCP client, or of no family that there is:
   that must not have the rights of the proxy. */
static bool
proxy_v2(struct channel *ch, const unsigned char *p, size_t len)
{
	struct channel_peer *peer = &ch->peer;
	bool tcp4 = p[13] == 0x11, tcp6 = p[13] == 0x21;
	size_t used = tcp4 ? 12 : tcp6 ? 36 : 0;
	int family = p[13] >> 4;
	unsigned type;
	struct span v;

	if ((p[12] & 15) == 0)
		return true;	/* LOCAL, whatever the family */
	if (used == 0)		/* UNSPEC or a unix socket */
		return (family == 0 || family == 3) && (p[13] & 15) <= 2;
	if (len - PROXY_V2_HEAD < used)
		return false;
	p += PROXY_V2_HEAD;
	len -= PROXY_V2_HEAD + used;
	if (tcp4) {
		text_ipv4(peer->address, sizeof peer->address, p);
		text_ipv4(peer->server_address, sizeof peer->server_address,
		    p + 4);
	} else {
		write_ipv6(peer->address, p);
		write_ipv6(peer->server_address, p + 16);
	}
	p += used;
	snprintf(peer->port, sizeof peer->port, "%u", big_endian16(p - 4));
	snprintf(peer->server_port, sizeof peer->server_port, "%u",
	    big_endian16(p - 2));
	while (next_tlv(&p, &len, &type, &v))
		if (type == 0x20)
			take_ssl(ch, (const unsigned char *)v.p, v.len);
		else if (type == 0x02 && span_printable(v))
			span_copy(ch->tls.sni, sizeof ch->tls.sni, v);
	return true;
}

/* How many octets at least must follow those in line: 0 if the header is
   complete, -1 if it is none. */
static int
proxy_missing(const struct channel *ch)
{
	static const char v1[] = "PROXY ";
	static const char v2[] = "\r\n\r\n\0\r\nQUIT\n";
	const char *p = ch->line;
	size_t n = ch->linelen;
	size_t total;

	if (n <= 6 && memcmp(p, v1, n) == 0)
		return 1;
	if (memcmp(p, v1, n < 6 ? n : 6) == 0) {
		if (p[n - 1] == '\n')
			return p[n - 2] == '\r' ? 0 : -1;
		return n < PROXY_V1_MAX ? 1 : -1;
	}
	if (memcmp(p, v2, n < 12 ? n : 12) != 0)
		return -1;
	if (n < PROXY_V2_HEAD)
		return 1;
	total = PROXY_V2_HEAD + big_endian16((const unsigned char *)p + 14);
	if ((p[12] & ~1) != 0x20 || total > CHANNEL_LINE_MAX)
		return -1;
	return total == n ? 0 : 1;
}

size_t
proxy_take(struct channel *ch, const char *p, size_t len)
{
	const char *line = ch->line;
	struct span s;
	bool good = false;
	int missing = 1;
	size_t i = 0;

	while (i < len && missing > 0) {
		ch->line[ch->linelen++] = p[i++];
		missing = proxy_missing(ch);
	}
	if (missing > 0)
		return i;
	if (missing == 0 && line[0] == 'P') {
		s = (struct span){ line, ch->linelen - 2 };
		good = span_clean(s) && proxy_v1(ch, s);
	} else if (missing == 0) {
		good = proxy_v2(ch, (const unsigned char *)line, ch->linelen);
	}
	if (ch->hooks->received != NULL)
		ch->hooks->received(ch->ctx,
		    (struct span){ line, ch->linelen });
	ch->linelen = 0;
	if (good) {
		begin_session(ch);
	} else {
		text_copy(ch->farewell, sizeof ch->farewell,
		    "no valid PROXY header");
		ch->smtp_state = PHASE_CLOSED;
		ch->want = WANT_CLOSE;
	}
	return i;
}
