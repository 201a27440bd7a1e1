/*
 * smtp_forward.c - tells the next hop who our client is: by XFORWARD, for its
 * log, or by XCLIENT, which gives the connection that client's rights.
 *
 * It is told by one of them at most.  What one XCLIENT has made of a connection
 * stays: another client gets another connection.
 */
#include <assert.h>
#include <string.h>

#include "base/text.h"
#include "relay/smtp_private.h"

#define VALUE_MAX 255		/* octets, before they are encoded */
#define XFORWARD_LINE 256	/* octets after which another command begins */
#define SOURCE FACTS		/* no fact, but made from several */

/* What can be told, in this order; its bit in h->attributes is its place.  By
   XFORWARD: */
static const struct attribute {
	char name[9];
	unsigned char fact;
} rows[] = {
	{ "NAME", FACT_CLIENT_NAME },
	{ "ADDR", FACT_CLIENT_ADDRESS },
	{ "PORT", FACT_CLIENT_PORT },
	{ "PROTO", FACT_CLIENT_PROTOCOL },
	{ "HELO", FACT_CLIENT_HELO },
	{ "IDENT", FACT_FORWARD_IDENT },
	{ "SOURCE", SOURCE },
#define XFORWARDS 7		/* and then by XCLIENT */
	{ "ADDR", FACT_CLIENT_ADDRESS },
	{ "PORT", FACT_CLIENT_PORT },
	{ "PROTO", FACT_CLIENT_PROTOCOL },
	{ "DESTADDR", FACT_SERVER_ADDRESS },
	{ "DESTPORT", FACT_SERVER_PORT },
	{ "LOGIN", FACT_SASL_USERNAME },
	{ "NAME", FACT_CLIENT_NAME },
	{ "HELO", FACT_CLIENT_HELO },
};

#define ALL_XFORWARD ((1U << XFORWARDS) - 1)
#define ALL_XCLIENT (((1U << COUNT(rows)) - 1) & ~ALL_XFORWARD)

void
smtp_note_attributes(struct nexthop *h, const char *line)
{
	for (size_t i = 0; i < COUNT(rows); i++) {
		const char *command = i < XFORWARDS ? "XFORWARD" : "XCLIENT";

		if (text_find_word(line, command) == line &&
		    text_find_word(line + strlen(command),
		    rows[i].name) != NULL)
			h->attributes |= 1U << i;
	}
}

/* LOCAL for a client of this machine, unless a server in front of us knows
   better. */
static const char *
source(const struct envelope *env)
{
	const char *address = env->fact[FACT_CLIENT_ADDRESS];

	if (env->fact[FACT_FORWARD_ADDRESS][0] != '\0')
		return env->fact[FACT_FORWARD_SOURCE];
	return strcmp(address, "unknown") == 0 ||
	    strcmp(address, "unix") == 0 || strcmp(address, "::1") == 0 ||
	    text_starts(address, "127.") ? "LOCAL" : "REMOTE";
}

/* The value of row i, "" for none. */
static const char *
find_value(const struct envelope *env, size_t i)
{
	const char *value = rows[i].fact == SOURCE ? source(env)
	    : env->fact[rows[i].fact];

	if (strcmp(value, "unknown") == 0 || strcmp(value, "unix") == 0 ||
	    strlen(value) > VALUE_MAX)
		return "";
	/* A message has the name that the first server gave it. */
	if (rows[i].fact == FACT_FORWARD_IDENT && value[0] == '\0' &&
	    env->fact[FACT_FORWARD_ADDRESS][0] == '\0')
		return env->fact[FACT_QUEUE_ID];
	/* XCLIENT knows two protocols. */
	if (rows[i].fact == FACT_CLIENT_PROTOCOL && i >= XFORWARDS &&
	    value[0] != '\0' && strcmp(value, "SMTP") != 0)
		return "ESMTP";
	return value;
}

/* Writes row i with a blank before it into to[0..size): its value in xtext
   (RFC 3461 4), or that there is none. */
static void
write_attribute(char *to, size_t size, const struct envelope *env, size_t i)
{
	const char *value = find_value(env, i);
	bool v6 = strstr(rows[i].name, "ADDR") != NULL &&
	    strchr(value, ':') != NULL;
	char text[3 * VALUE_MAX + 4];

	text_encode_xtext(text, sizeof text, value, "+=");
	text_join(to, size, " ", rows[i].name, "=", value[0] == '\0'
	    ? "[UNAVAILABLE]" : v6 ? "IPV6:" : "", text, NULL);
}

bool
smtp_xforward(struct nexthop *h, const struct envelope *env, int64_t deadline,
    struct reply *r)
{
	char text[3 * VALUE_MAX + 32];
	size_t start = 0;	/* of this command */

	h->unread = 0;
	for (size_t i = 0; i < XFORWARDS && !h->introduced; i++) {
		if (h->attributes & 1U << i) {
			write_attribute(text, sizeof text, env, i);
			smtp_add(h, "%s%s", h->held == start ? "XFORWARD" : "",
			    text);
		}
		if (h->held == start || (i + 1 < XFORWARDS &&
		    h->held - start < XFORWARD_LINE))
			continue;
		smtp_add(h, "\r\n");
		h->unread++;
		start = h->held;
		if (h->can & CAN_PIPELINING)
			continue;
		if (!smtp_send_group(h, STEP_XFORWARD, deadline, r) ||
		    !smtp_read_xforward(h, deadline, r))
			return false;
		start = 0;
	}
	return true;
}

/* A next hop that wants no XFORWARD after all is not asked to take it again. */
bool
smtp_read_xforward(struct nexthop *h, int64_t deadline, struct reply *r)
{
	for (; h->unread > 0; h->unread--) {
		if (smtp_read_reply(h, STEP_XFORWARD, deadline, r))
			continue;
		if (h->s.fd == -1)
			return false;
		h->attributes &= ~ALL_XFORWARD;
	}
	return true;
}

/* Writes XCLIENT with these attributes.  If they are too many octets, the last
   ones are told to be unknown: names that the next hop can find itself, and at
   worst the user, who then has no more rights than others. */
static void
format_xclient(char to[XCLIENT_MAX], const struct envelope *env,
    unsigned attributes)
{
	char text[3 * VALUE_MAX + 32];
	size_t n = strlen("XCLIENT"), left = 0, i;

	text_copy(to, XCLIENT_MAX, "XCLIENT");
	for (i = XFORWARDS; i < COUNT(rows); i++)
		left += attributes & 1U << i ? sizeof " =[UNAVAILABLE]" - 1 +
		    strlen(rows[i].name) : 0;
	for (i = XFORWARDS; i < COUNT(rows); i++) {
		if (!(attributes & 1U << i))
			continue;
		left -= sizeof " =[UNAVAILABLE]" - 1 + strlen(rows[i].name);
		write_attribute(text, sizeof text, env, i);
		if (n + strlen(text) + left >= XCLIENT_MAX - 1)
			text_join(text, sizeof text, " ", rows[i].name,
			    "=[UNAVAILABLE]", NULL);
		text_copy(to + n, XCLIENT_MAX - n, text);
		n += strlen(to + n);
	}
}

bool
smtp_is_our_client(const struct nexthop *h)
{
	char line[XCLIENT_MAX];

	if (!h->introduced || smtp_is_login(h))
		return true;
	format_xclient(line, h->env, h->introduced_by);
	return strcmp(line, h->told) == 0;
}

/* Is it a refusal of XCLIENT from us, not one of the client? */
static bool
is_about_us(const struct reply *r)
{
	return (r->code >= 500 && r->code <= 504) || r->code == 550;
}

bool
smtp_xclient(struct nexthop *h, int64_t deadline, struct reply *r)
{
	if (!h->set->xclient)
		return true;
	assert(h->env != NULL);
	h->introduced_by = h->attributes & ALL_XCLIENT;
	if (h->introduced_by == 0) {
		smtp_log(h, "XCLIENT", "not offered");
		return true;
	}
	format_xclient(h->told, h->env, h->introduced_by);
	smtp_add(h, "%s\r\n", h->told);
	h->introduced = smtp_command(h, STEP_XCLIENT, deadline, r);
	if (!h->introduced && h->s.fd != -1 && is_about_us(r))
		reply_set(r, 451, "4.3.5",
		    "Cannot tell next hop who the client is");
	return h->introduced;
}

/* Can it be sent in EHLO? */
static bool
is_name(const char *s)
{
	if (*s == '\0' || strlen(s) > VALUE_MAX)
		return false;
	while (*s > ' ' && *s <= '~')
		s++;
	return *s == '\0';
}

const char *
smtp_hello_name(const struct nexthop *h)
{
	const char *helo = h->introduced ? h->env->fact[FACT_CLIENT_HELO] : "";

	return is_name(helo) ? helo : h->set->fqdn;
}
