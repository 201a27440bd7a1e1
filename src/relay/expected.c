/*
 * expected.c - for --check: the senders whose mail comes to a place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "relay/credentials.h"
#include "relay/expected.h"
#include "relay/routes.h"
#include "relay/transport.h"

void
expected_add(struct expected *e, const char *sender)
{
	struct expected_sender *rows = NULL;
	size_t len = strlen(sender);

	for (size_t i = 0; i < e->n; i++)
		if (strcmp(e->sender[i].address, sender) == 0)
			return;
	if (e->n < EXPECTED_MAX && len < sizeof rows->address)
		rows = table_grow(e->sender, e->n, sizeof *rows);
	if (rows == NULL) {
		e->more = true;
		return;
	}
	e->sender = rows;
	memcpy(rows[e->n++].address, sender, len + 1);
}

/* Adds the key of a row of routes by sender (routes.h): an address, a domain,
   "<>", or "*", NULL or ".domain" for others. */
static void
add_key(struct expected *e, const char *key)
{
	char domain[320];

	if (key == NULL || *key == '.' || strcmp(key, "*") == 0)
		e->others = true;
	else if (strcmp(key, "<>") == 0)
		expected_add(e, "");
	else if (strchr(key, '@') != NULL || strchr(key, '.') == NULL)
		expected_add(e, key);
	else if ((size_t)snprintf(domain, sizeof domain, "@%s", key) <
	    sizeof domain)
		expected_add(e, domain);
}

/* What is looked for. */
struct search {
	struct expected *to;
	struct relay *relay;
	const struct hop *hop;
	bool all;	/* a recipient's route leads here, with any sender */
};

static void
note_recipients_route(void *ctx, const char *key, const void *hop)
{
	struct search *s = ctx;

	(void)key;
	s->all = s->all || hop == s->hop;
}

/* Each sender is looked for in the whole file: so many for all hops. */
static bool
may_look(struct search *s)
{
	if (s->relay->looked_at < EXPECTED_MAX)
		s->relay->looked_at++;
	else
		s->to->more = true;
	return !s->to->more;
}

static void
note_senders_route(void *ctx, const char *key, const void *hop)
{
	struct search *s = ctx;

	if (hop == s->hop && may_look(s))
		add_key(s->to, key);
}

static bool
comes(const struct search *s, const char *sender)
{
	bool named;

	return s->all || hop_route(s->relay, "", sender, &named) == s->hop;
}

/* As credentials_each_sender()'s. */
static void
note_sender(void *ctx, const char *sender)
{
	struct search *s = ctx;

	if (comes(s, sender) && may_look(s))
		expected_add(s->to, sender);
}

void
expected_find(struct expected *e, struct relay *r, const struct hop *h,
    const char *text, size_t len)
{
	const struct expected *from = r->expected;
	struct search s = { .to = e, .relay = r, .hop = h };

	if (r->routes.table != NULL)
		routes_each(r->routes.table, note_recipients_route, &s);
	for (size_t i = 0; i < from->n; i++)
		note_sender(&s, from->sender[i].address);
	if (!from->others)
		return;
	if (r->senders.table != NULL)
		routes_each(r->senders.table, note_senders_route, &s);
	credentials_each_sender(text, len, note_sender, &s);
	/* No address is "@". */
	e->others = e->others || comes(&s, "@");
}

void
expected_free(struct expected *e)
{
	free(e->sender);
	e->sender = NULL;
	e->n = 0;
}
