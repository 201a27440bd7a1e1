/*
 * hops.c - the places that mail goes to: a transport and a next hop each, from
 * the command line and from the routes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/field.h"
#include "base/text.h"
#include "relay/transport.h"

const struct transport *
hop_named(const struct transport *const table[], const char *spec)
{
	const char *colon = strchr(spec, ':');
	size_t len = colon == NULL ? 0 : (size_t)(colon - spec);

	for (; *table != NULL; table++)
		if (text_is(spec, len, (*table)->name))
			return *table;
	return NULL;
}

const struct transport *
hop_transport(const struct relay *r, const char *spec, char *error,
    size_t size)
{
	const struct transport *const *t, *found;
	size_t len;

	found = hop_named(r->transports, spec);
	if (found != NULL)
		return found;
	len = (size_t)snprintf(error, size, "%s: unknown transport; it must be "
	    "one of", spec);
	for (t = r->transports; *t != NULL && len < size; t++)
		len += (size_t)snprintf(error + len, size - len, "%s %s:",
		    t == r->transports ? "" : ",", (*t)->name);
	return NULL;
}

bool
hop_add(struct relay *r, struct hop *h, const struct transport *t,
    const char *spec, char *error, size_t size)
{
	h->transport = t;
	h->spec = spec;
	h->where = strchr(spec, ':');
	h->where = h->where == NULL ? "" : h->where + 1;
	if (t->form == SPOOL_LF && strchr(h->where, '{') != NULL) {
		snprintf(error, size, "%s: {names} stand only in the arguments "
		    "of a program", spec);
		return false;
	}
	if (t->check != NULL && !t->check(h, error, size))
		return false;
	h->link = r->hops;
	r->hops = h;
	return true;
}

enum spool_form
hop_form(const struct relay *r, const struct hop *h)
{
	return r->set->crlf && h->transport->crlf ? SPOOL_CRLF
	    : h->transport->form;
}

/* The list in which the hop of spec is, or NULL: no memory. */
static struct hop **
bucket_of(struct relay *r, const char *spec)
{
	if (r->buckets == NULL)
		r->buckets = calloc(HOP_BUCKETS, sizeof(struct hop *));
	return r->buckets == NULL ? NULL
	    : &r->buckets[field_hash(spec, strlen(spec)) % HOP_BUCKETS];
}

/* Returns the hop that spec describes, new or known, or NULL with a sentence
   in error[0..size). */
static struct hop *
hop_find(struct relay *r, const char *spec, char *error, size_t size)
{
	const struct transport *t;
	size_t len = strlen(spec) + 1;
	struct hop *h, **bucket = bucket_of(r, spec);

	if (strcmp(r->usual.spec, spec) == 0)
		return &r->usual;
	if (bucket == NULL) {
		text_copy(error, size, "out of memory");
		return NULL;
	}
	for (h = *bucket; h != NULL; h = h->alike)
		if (strcmp(h->spec, spec) == 0)
			return h;
	t = hop_transport(r, spec, error, size);
	if (t == NULL)
		return NULL;
	h = calloc(1, sizeof *h + len);
	if (h == NULL) {
		text_copy(error, size, "out of memory");
		return NULL;
	}
	memcpy(h + 1, spec, len);
	if (hop_add(r, h, t, (char *)(h + 1), error, size)) {
		h->alike = *bucket;
		*bucket = h;
		return h;
	}
	free(h);
	return NULL;
}

/*
 * Returns the hop of a route's right-hand side.  As in transport(5), ":" alone
 * is the relay on the command line, and an empty transport is that relay's.
 */
static void *
route_hop(void *relay, const char *result, char *error, size_t size)
{
	struct relay *r = relay;
	const struct transport *t = r->usual.transport;
	struct buffer whole = { .p = NULL };
	struct hop *h;
	char *spec;

	if (strcmp(result, ":") == 0)
		return &r->usual;
	if (result[0] == '\0') {
		text_copy(error, size, "missing TRANSPORT:NEXTHOP");
		return NULL;
	}
	if (result[0] != ':')
		return hop_find(r, result, error, size);
	if (t->reach != REMOTE) {
		snprintf(error, size, "%s: missing transport, and the relay on "
		    "the command line is not a next hop", result);
		return NULL;
	}
	buffer_join(&whole, t->name, result, NULL);
	spec = buffer_take(&whole);
	if (spec == NULL) {
		text_copy(error, size, "out of memory");
		return NULL;
	}
	h = hop_find(r, spec, error, size);
	free(spec);
	return h;
}

bool
hops_vary(const struct relay_settings *set)
{
	return set->routes != NULL || set->sender_routes != NULL;
}

bool
hops_read_routes(struct relay *r)
{
	const struct logger *log = &r->set->log;
	/* Both, so that the faults of both are told. */
	bool routes = route_file_read(&r->routes, false, log, route_hop, r);
	bool senders = route_file_read(&r->senders, true, log, route_hop, r);

	return routes && senders;
}

struct hop *
hop_route(struct relay *r, const char *address, const char *sender,
    bool *named)
{
	enum route_kind kind = ROUTE_NONE, other = ROUTE_NONE;
	void *h = NULL, *by_sender = NULL;

	*named = false;
	if (r->routes.table != NULL &&
	    !routes_find(r->routes.table, address, &h, &kind))
		return NULL;
	if (kind <= ROUTE_ANY && r->senders.table != NULL) {
		if (!routes_find(r->senders.table, sender, &by_sender, &other))
			return NULL;
		if (other > kind)
			h = by_sender;
	}
	*named = kind == ROUTE_NAMED;
	return h != NULL ? h : &r->usual;
}

void
hops_close(struct relay *r)
{
	struct hop *h;

	while ((h = r->hops) != NULL) {
		r->hops = h->link;
		if (h->transport->close != NULL)
			h->transport->close(h);
		if (h != &r->usual && h != &r->quarantine)
			free(h);
	}
	free(r->buckets);
	r->buckets = NULL;
}
