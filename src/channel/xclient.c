/*
 * xclient.c - XCLIENT and XFORWARD: a server in front of us says who the client
 * is.
 *
 * XCLIENT replaces the client: the session begins anew, and is that client's.
 * XFORWARD only says for whom the next transaction is: the client stays who it
 * is.
 */
#include <string.h>

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

/* Takes "NAME=VALUE" off *arg; decoded becomes the value. */
static bool
take_attribute(struct span *arg, struct span *name,
    char decoded[CHANNEL_NAME_MAX])
{
	struct span value;

	return parse_parameter(arg, name, &value) &&
	    xdecode(decoded, CHANNEL_NAME_MAX, value);
}

static bool
is_unavailable(const char *value)
{
	return strcmp(value, "[UNAVAILABLE]") == 0 ||
	    strcmp(value, "[TEMPUNAVAIL]") == 0;
}

/* Takes an address, which "IPV6:" stands before if it is one of IPv6. */
static bool
take_address(char to[CHANNEL_NAME_MAX], struct span v, bool unknown)
{
	if (unknown)
		return span_copy(to, CHANNEL_NAME_MAX, v);
	if (span_starts(v, "IPV6:"))
		v = span_skip(v, 5);
	return parse_ip(to, v);
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
take_identity(struct identity *id, struct span name, const char *value)
{
	bool unknown = is_unavailable(value);
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
	if (span_same(name, "ADDR"))
		return take_address(id->peer.address, v, unknown);
	return span_same(name, "DESTADDR") &&
	    take_address(id->peer.server_address, v, unknown);
}

/* Postfix's XCLIENT_README: all attributes or none; on success the session
   starts anew, with a greeting.  The new client has not authenticated, unless
   LOGIN says so. */
void
do_xclient(struct channel *ch, struct span arg)
{
	struct identity id = { .peer = ch->peer };
	struct span name;
	char decoded[CHANNEL_NAME_MAX];

	if (!ch->xclient || is_hidden(ch, EXT_XCLIENT)) {
		channel_reply(ch, 550, "5.7.0",
		    "XCLIENT is not allowed for this client");
		return;
	}
	while (arg.len > 0)
		if (!take_attribute(&arg, &name, decoded) ||
		    !take_identity(&id, name, decoded)) {
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

/* The name of a protocol: letters, digits, hyphens. */
static bool
is_protocol(struct span v)
{
	for (size_t i = 0; i < v.len; i++)
		if (!text_is_alnum(v.p[i]) && v.p[i] != '-')
			return false;
	return true;
}

/* LOCAL or REMOTE, in any case. */
static bool
take_source(struct channel_forward *f, struct span v)
{
	bool local = span_same(v, "LOCAL");

	if (!local && !span_same(v, "REMOTE"))
		return false;
	return span_copy(f->source, sizeof f->source,
	    span_of(local ? "LOCAL" : "REMOTE"));
}

/* Takes one attribute of XFORWARD, as take_identity() does. */
static bool
take_forwarded(struct channel_forward *f, struct span name, const char *value)
{
	bool unknown = is_unavailable(value);
	struct span v = span_of(unknown ? "" : value);

	if (span_same(name, "HELO"))
		return span_copy_name(f->helo, sizeof f->helo, v);
	if (!span_printable(v))
		return false;
	if (span_same(name, "IDENT"))
		return span_copy(f->ident, sizeof f->ident, v);
	if (span_same(name, "PORT"))
		return span_copy(f->port, sizeof f->port, v) &&
		    (unknown || parse_port(f->port));
	if (span_same(name, "SOURCE")) {
		f->source[0] = '\0';
		return unknown || take_source(f, v);
	}
	if (unknown)
		v = span_of("unknown");
	if (span_same(name, "NAME"))
		return span_copy(f->name, sizeof f->name, v);
	if (span_same(name, "PROTO"))
		return span_copy(f->protocol, sizeof f->protocol, v) &&
		    is_protocol(v);
	return span_same(name, "ADDR") && take_address(f->address, v, unknown);
}

/* What nobody has told is not known of the forwarded client, whatever is known
   of the server that forwards. */
static const struct channel_forward nobody = { .address = "unknown",
	.name = "unknown", .protocol = "unknown" };

/* Postfix's XFORWARD_README: all attributes of a command or none.  They add to
   those of the commands before, until the transaction that follows is over. */
void
do_xforward(struct channel *ch, struct span arg)
{
	struct channel_forward f;
	struct span name;
	char decoded[CHANNEL_NAME_MAX];

	if (!ch->xforward || is_hidden(ch, EXT_XFORWARD)) {
		channel_reply(ch, 550, "5.7.0",
		    "XFORWARD is not allowed for this client");
		return;
	}
	f = ch->forwarded ? ch->forward : nobody;
	while (arg.len > 0)
		if (!take_attribute(&arg, &name, decoded) ||
		    !take_forwarded(&f, name, decoded)) {
			channel_reply(ch, 501, "5.5.4", "Bad attribute");
			return;
		}
	ch->forward = f;
	ch->forwarded = true;
	channel_reply(ch, 250, "2.0.0", "OK");
}
