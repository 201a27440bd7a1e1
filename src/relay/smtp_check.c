/*
 * smtp_check.c - looks at the places of a next hop, for --check.
 */
#include <errno.h>
#include <stdio.h>
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

/* Is there a line for this place, and does it make sense? */
static void
check_credentials(struct nexthop *h, const char *spec, struct findings *f)
{
	char why[512];
	int found = smtp_has_credentials(h, why, sizeof why);

	if (found == 1)
		findings_add(f, FINDING_GOOD, "--relay-auth %s has a line for "
		    "%s", h->set->auth, spec);
	else if (found == 0)
		findings_add(f, FINDING_DOUBT, "--relay-auth %s has no line for "
		    "%s: it gets no password", h->set->auth, spec);
	else
		findings_add(f, FINDING_BAD, "--relay-auth %s", why);
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
	char why[128];

	place_parse(where, len, &h->place);
	if (h->set->auth != NULL)
		check_credentials(h, spec, f);
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
