/*
 * xclient.c - XCLIENT: a server in front of us says who the client is.
 */
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "channel/private.h"

/* Decodes xtext into to[0..size).  Returns false if it does not fit, is empty,
   or has control characters. */
static bool
xdecode(char *to, size_t size, struct span s)
{
	long n = text_decode_xtext(to, size - 1, s);

	if (n <= 0 || (size_t)n >= size)
		return false;
	to[n] = '\0';
	return span_clean((struct span){ to, (size_t)n });
}

/* An IPv4 or IPv6 address in text. */
static bool
parse_ip(const char *s)
{
	return parse_ipv4(span_of(s)) || parse_ipv6(span_of(s));
}

/* The attributes, until all of them have proved valid. */
struct identity {
	struct channel_peer peer;
	char helo[CHANNEL_NAME_MAX];
	char login[CHANNEL_NAME_MAX];
};

/* Takes one attribute with its decoded value.  Returns false if it is not
   valid. */
static bool
take_attribute(struct identity *id, struct span name, const char *value)
{
	bool unknown = strcmp(value, "[UNAVAILABLE]") == 0 ||
	    strcmp(value, "[TEMPUNAVAIL]") == 0;
	struct span v = span_of(unknown ? "" : value);

	if (span_same(name, "HELO"))
		return span_copy_name(id->helo, sizeof id->helo, v);
	if (!span_printable(v))
		return false;
	if (span_same(name, "LOGIN"))
		return span_copy(id->login, sizeof id->login, v);
	if (span_same(name, "PROTO"))
		return unknown || span_same(v, "SMTP") || span_same(v, "ESMTP");
	if (span_same(name, "PORT"))
		return span_copy(id->peer.port, sizeof id->peer.port, v) &&
		    (unknown || parse_port(id->peer.port));
	if (span_same(name, "DESTPORT"))
		return span_copy(id->peer.server_port,
		    sizeof id->peer.server_port, v) &&
		    (unknown || parse_port(id->peer.server_port));
	if (unknown)
		v = span_of("unknown");
	if (span_same(name, "NAME"))
		return span_copy(id->peer.name, sizeof id->peer.name, v);
	if (v.len > 5 && strncasecmp(v.p, "IPV6:", 5) == 0)
		v = span_skip(v, 5);
	if (span_same(name, "ADDR"))
		return span_copy(id->peer.address, sizeof id->peer.address,
		    v) && (unknown || parse_ip(id->peer.address));
	return span_same(name, "DESTADDR") &&
	    span_copy(id->peer.server_address, sizeof id->peer.server_address,
	    v) && (unknown || parse_ip(id->peer.server_address));
}

/* Postfix's XCLIENT_README: all attributes or none; on success the session
   starts anew, with a greeting.  The new client has not authenticated, unless
   LOGIN says so. */
void
do_xclient(struct channel *ch, struct span arg)
{
	struct identity id = { .peer = ch->peer };
	struct span name, value;
	char decoded[CHANNEL_NAME_MAX];

	if (!ch->xclient) {
		channel_reply(ch, 550, "5.7.0", "XCLIENT is not for you");
		return;
	}
	while (arg.len > 0)
		if (!parse_parameter(&arg, &name, &value) ||
		    !xdecode(decoded, sizeof decoded, value) ||
		    !take_attribute(&id, name, decoded)) {
			channel_reply(ch, 501, "5.5.4", "Bad attribute");
			return;
		}
	transaction_forget(ch);
	ch->peer = id.peer;
	span_copy(ch->seen_greeting, sizeof ch->seen_greeting,
	    span_of(id.helo));
	channel_set_user(ch, id.login);
	ch->authenticated = id.login[0] != '\0';
	span_copy(ch->auth_method, sizeof ch->auth_method,
	    span_of(ch->authenticated ? "XCLIENT" : ""));
	ch->extended_smtp = false;
	greet_client(ch);
}
