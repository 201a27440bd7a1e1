/*
 * smtp_check.c - looks at the places of a next hop, for --check.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/reply.h"
#include "relay/smtp_private.h"

/* Goes as far as MAIL would, over TLS and AUTH, and takes leave. */
static void
check_connection(struct nexthop *h, const char *spec, struct findings *f)
{
	struct reply r;

	if (smtp_open_next(h, f->deadline, &r)) {
		findings_add(f, FINDING_GOOD, "%s: %s answers%s%s", spec,
		    h->place.host, h->secure && !h->place.local ? " over TLS"
		    : "", h->set->auth != NULL ? ", credentials included" : "");
		smtp_quit(h, f->deadline);
	} else {
		findings_add(f, FINDING_BAD, "%s: %s: %d %s %s", spec,
		    h->place.host, r.code, r.enh, r.text);
	}
}

/* Which line is for this place, what="smtp:PLACE", and does each make sense? */
static void
check_credentials(struct nexthop *h, const char *what, struct findings *f)
{
	struct credentials c;
	char why[512], *text;
	int found = smtp_find_credentials(h, &c, why, sizeof why);
	long n;

	if (found == 1)
		findings_add(f, FINDING_GOOD, "--relay-auth %s has a line for "
		    "%s: line %u, user %s, %s%.*s", h->set->auth, what, c.line,
		    c.user, c.token ? "a token of " : c.program ?
		    "a password of " : "a password", c.program ?
		    (int)strcspn(c.secret, " \t") : 0, c.secret);
	else if (found == 0)
		findings_add(f, FINDING_DOUBT, "--relay-auth %s has no line for "
		    "%s: it gets no password%s", h->set->auth, what,
		    h->by_sender ? " with mail of other senders than the "
		    "file's" : "");
	else
		findings_add(f, FINDING_BAD, "--relay-auth %s", why);
	credentials_wipe(&c);
	n = smtp_read_credentials(h, &text);
	if (n > 0) {
		credentials_check(text, (size_t)n, h->set->auth, f);
		explicit_bzero(text, (size_t)n);
	}
	free(text);
}

/* A unix socket: is it there, and may we?  What it says is not waited for. */
static void
check_socket(const struct nexthop *h, const char *spec, struct findings *f)
{
	struct stream s = { .fd = -1 };
	struct address none = { .len = 0 };
	char why[128];

	if (stream_dial(&s, &h->place, &none, f->deadline, why,
	    sizeof why) == 0)
		findings_add(f, FINDING_GOOD, "%s can be connected to", spec);
	else
		findings_add(f, findings_absence(f, errno), "%s: %s", spec, why);
	stream_close(&s);
}

/* The place that h->rest begins with. */
static void
check_place(struct nexthop *h, const char *where, size_t len,
    const char *spec, struct findings *f)
{
	struct addresses found;
	char why[128], what[512];

	place_parse(where, len, &h->place);
	snprintf(what, sizeof what, "%.*s%.*s", (int)strcspn(spec, ":") + 1,
	    spec, (int)len, where);
	if (h->set->auth != NULL)
		check_credentials(h, what, f);
	if (f->connect)
		return;
	if (h->place.local)
		check_socket(h, spec, f);
	else if (stream_resolve(&h->place, "25", &found, f->deadline, why,
	    sizeof why) == -1)
		findings_add(f, findings_absence(f, 0), "%s: cannot resolve "
		    "%s: %s", spec, h->place.host, why);
	else
		findings_add(f, FINDING_GOOD, "%s: %s has %zu address%s", spec,
		    h->place.host, found.n, found.n == 1 ? "" : "es");
}

void
nexthop_check(struct nexthop *h, const char *spec, struct findings *f)
{
	const char *where = h->where;
	size_t n;

	for (;; where += n + 1) {
		n = strcspn(where, ",");
		check_place(h, where, n, spec, f);
		if (where[n] == '\0')
			break;
	}
	if (!f->connect)
		return;
	for (smtp_restart(h); smtp_has_next(h); smtp_hang_up(h))
		check_connection(h, spec, f);
}
