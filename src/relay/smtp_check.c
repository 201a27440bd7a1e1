/*
 * smtp_check.c - looks at the places of a next hop, for --check.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/envelope.h"
#include "base/file.h"
#include "base/text.h"
#include "relay/expected.h"
#include "relay/smtp_private.h"

/* No address is that, and no key of a sender is for it. */
#define OTHERS "@"

/* One look at a next hop, for mail of some senders. */
struct look {
	struct nexthop *h;
	const char *spec;
	const char *const *sender;	/* so many: */
	size_t n;
	unsigned *line;		/* of the credentials, for each place and
				   sender; 0: there is none */
	struct envelope env;	/* of nobody's mail, but for its sender */
	struct findings *f;
	struct findings *log;	/* where what is logged goes */
	bool served;		/* a message would be taken at some place */
	bool refused;		/* or it would be refused before */
};

static void
set_sender(struct look *l, size_t i)
{
	l->env.fact[FACT_SENDER] = l->sender[i];
}

/* Writes " for X at": whose mail is spoken of. */
static const char *
name_sender(char *to, size_t size, const char *sender)
{
	if (strcmp(sender, OTHERS) == 0)
		text_copy(to, size, " for");
	else
		snprintf(to, size, " for %.320s at", *sender == '\0'
		    ? "the null sender" : sender);
	return to;
}

/* ---- Credentials ---- */

/* Is a connection there never safe from eavesdroppers? */
static bool
is_in_clear(const struct nexthop *h)
{
	return !h->place.local && h->protocol != NEXTHOP_SMTPS &&
	    h->set->tls == TLS_NONE && h->set->tls_pins == NULL;
}

/* Is a line that makes sense there for mail of this sender? */
static void
check_line(struct look *l, const char *what, unsigned *line, size_t i)
{
	const struct nexthop *h = l->h;
	char why[512], whose[400];
	struct credentials c;
	int found;

	set_sender(l, i);
	found = smtp_find_credentials(l->h, &c, why, sizeof why);
	line[i] = found == 0 ? 0 : found == 1 ? c.line : UINT_MAX;
	for (size_t k = 0; k < i; k++)
		if (line[k] == line[i] && found == 1)
			found = 2;	/* it was told */
	name_sender(whose, sizeof whose, l->sender[i]);
	if (found == 1 && is_in_clear(h))
		findings_add(l->f, FINDING_BAD, "%s: no password goes out "
		    "without TLS: see --relay-tls", what);
	if (found == 1)
		findings_add(l->f, FINDING_GOOD, "--relay-auth %s has a line%s "
		    "%s: line %u, user %s, %s%.*s", h->set->auth, whose, what,
		    c.line, c.user, c.token ? "a token of " : c.program ?
		    "a password of " : "a password", c.program ?
		    (int)strcspn(c.secret, " \t") : 0, c.secret);
	else if (found == 0)
		findings_add(l->f, FINDING_DOUBT, "--relay-auth %s has no "
		    "line%s %s: it gets no password%s", h->set->auth, whose,
		    what,
		    strcmp(l->sender[i], OTHERS) == 0 && h->by_sender ?
		    " with mail of other senders than the file's" : "");
	else if (found == -1)
		findings_add(l->f, FINDING_BAD, "--relay-auth %s", why);
	credentials_wipe(&c);
}

/* Those for the place what="smtp:PLACE", and does each line make sense? */
static void
check_credentials(struct look *l, const char *what, unsigned *line)
{
	char *text;
	size_t i;
	long n;

	for (i = 0; i < l->n; i++)
		check_line(l, what, line, i);
	n = nexthop_read_credentials(l->h, &text);
	if (n > 0)
		credentials_check(text, (size_t)n, l->h->set->auth, l->f);
	file_free(text, n);
}

/* ---- Connections ---- */

/* What would our clients be offered? */
static void
check_mechanisms(const struct look *l)
{
	const char *list = nexthop_live_mechanisms(l->h);

	if (list[0] != '\0')
		findings_add(l->f, FINDING_GOOD, "--auth relay: %s offers %s",
		    l->spec, list);
	else
		findings_add(l->f, FINDING_DOUBT, "--auth relay: %s offers no "
		    "AUTH that can be handed through%s", l->spec,
		    l->h->secure ? "" : " without TLS");
}

/*
 * Would it begin a transaction?  Many say only there that they want TLS or a
 * password.  Where mail of any sender comes the null sender is tried, which
 * some refuse for itself.
 */
static bool
check_mail(struct look *l, int64_t deadline)
{
	const char *sender = l->env.fact[FACT_SENDER];
	const size_t n = l->log->n;
	struct nexthop *h = l->h;
	char reason[512];
	struct reply r;

	if (*sender == '@')	/* of that domain, or OTHERS */
		sender = "";
	if (!text_is_ascii(sender, strlen(sender)))
		return true;	/* SMTPUTF8 is another question */
	smtp_add(h, "MAIL FROM:<%s>\r\n", sender);
	if (smtp_command(h, STEP_MAIL, deadline, &r))
		return true;
	l->refused = !h->away;	/* another place may do better */
	findings_add(l->f, *sender != '\0' || r.code < 500 ? FINDING_BAD
	    : FINDING_DOUBT, "%s: %s: MAIL FROM:<%s>: %d %s %s%s", l->spec,
	    h->place.host, sender, r.code, r.enh, r.text,
	    findings_take_reason(l->log, n, reason, sizeof reason));
	return false;
}

/* Goes as far as MAIL, over TLS and AUTH, and takes leave. */
static void
check_connection(struct look *l)
{
	struct nexthop *h = l->h;
	const int64_t deadline = clock_within(findings_deadline(l->f),
	    (int)h->set->timeout);
	const size_t n = l->log->n;
	struct credentials c = { .line = 0 };
	char why[512];
	struct reply r;

	if (!smtp_open_next(h, deadline, &r)) {
		findings_add(l->f, FINDING_BAD, "%s: %s: %d %s %s%s", l->spec,
		    h->place.host, r.code, r.enh, r.text,
		    findings_take_reason(l->log, n, why, sizeof why));
		return;
	}
	/* With --auth relay: it is our client that may have to log in first. */
	if (h->live == NULL && !check_mail(l, deadline)) {
		smtp_quit(h, deadline);
		return;
	}
	l->served = l->served || !l->refused;
	if (smtp_is_trusted(h))
		smtp_find_credentials(h, &c, why, sizeof why);
	findings_add(l->f, FINDING_GOOD, "%s: %s answers%s%s%s", l->spec,
	    h->place.host, h->secure && !h->place.local ? " over TLS" : "",
	    c.line != 0 ? ", and accepts user " : "", c.line != 0 ? c.user :
	    "");
	credentials_wipe(&c);
	if (h->live != NULL)
		check_mechanisms(l);
	smtp_quit(h, deadline);
}

/* Has none of the senders before this one the same lines? */
static bool
is_new_account(const struct look *l, size_t i, size_t places)
{
	const unsigned *line = l->line;
	size_t k, p;

	for (k = 0; k < i; k++) {
		for (p = 0; p < places; p++)
			if (line[p * l->n + k] != line[p * l->n + i])
				break;
		if (p == places)
			return false;
	}
	return true;
}

/* Connects to all addresses, with each account.  Mail flows if one of them
   serves, unless one before it would refuse it. */
static void
check_connections(const struct look *all, size_t places)
{
	struct findings mine = findings_apart(all->f);
	struct look l = *all;

	l.f = &mine;
	l.log = all->f;
	for (size_t i = 0; i < l.n; i++) {
		if (!is_new_account(&l, i, places))
			continue;
		set_sender(&l, i);
		l.h->env = &l.env;
		l.served = l.refused = false;
		for (smtp_restart(l.h); smtp_has_next(l.h); smtp_hang_up(l.h))
			check_connection(&l);
		findings_move(all->f, &mine, l.served ? FINDING_DOUBT
		    : FINDING_BAD);
	}
}

/* A place: where[0..len).  line has what check_credentials() finds, and f
   whether it can be reached. */
static void
check_place(struct look *l, const char *where, size_t len, unsigned *line,
    struct findings *f)
{
	struct nexthop *h = l->h;
	const char *spec = l->spec;
	struct addresses found;
	char why[128], what[512];

	place_parse(where, len, &h->place);
	if (!h->place.local && h->set->tls_pins == NULL &&
	    (h->protocol == NEXTHOP_SMTPS || h->set->tls == TLS_MUST))
		l->f->verifies = true;
	snprintf(what, sizeof what, "%.*s%.*s", (int)strcspn(spec, ":") + 1,
	    spec, (int)len, where);
	if (h->set->auth != NULL)
		check_credentials(l, what, line);
	if (f->connect)
		return;
	if (h->place.local)	/* what it says is not waited for */
		stream_check(strchr(what, ':') + 1, spec, FINDING_BAD, f);
	else if (stream_resolve(&h->place, "25", &found, findings_deadline(f),
	    why, sizeof why) == -1)
		findings_add(f, findings_absence(f, 0), "%s: cannot resolve "
		    "%s: %s", spec, h->place.host, why);
	else
		findings_add(f, FINDING_GOOD, "%s: %s has %zu address%s", spec,
		    h->place.host, found.n, found.n == 1 ? "" : "es");
}

static size_t
count_places(const char *where)
{
	size_t n = 1;

	for (; *where != '\0'; where++)
		n += *where == ',';
	return n;
}

void
nexthop_check(struct nexthop *h, const char *spec, const struct expected *from,
    struct findings *f)
{
	const size_t places = count_places(h->where);
	const char *where = h->where, *sender[EXPECTED_MAX + 1];
	struct look l = { .h = h, .spec = spec, .sender = sender, .f = f };
	struct findings reached = findings_apart(f);
	size_t i, n;

	for (i = 0; i < FACTS; i++)
		l.env.fact[i] = "";
	/* To LMTP lines of senders do not count. */
	for (i = 0; i < from->n && h->protocol != NEXTHOP_LMTP; i++)
		sender[l.n++] = from->sender[i].address;
	if (from->others || l.n == 0)
		sender[l.n++] = OTHERS;
	if (from->more)
		findings_add(f, FINDING_DOUBT, "%s: not all of its senders "
		    "were looked at", spec);
	l.line = calloc(places * l.n, sizeof *l.line);
	if (l.line == NULL) {
		findings_add(f, FINDING_BAD, "%s: out of memory", spec);
		return;
	}
	h->env = &l.env;
	for (i = 0; i < places; i++, where += n + 1) {
		n = strcspn(where, ",");
		check_place(&l, where, n, l.line + i * l.n, &reached);
	}
	findings_move(f, &reached, findings_count(&reached, FINDING_GOOD) > 0
	    ? FINDING_DOUBT : FINDING_BAD);
	if (f->connect)
		check_connections(&l, places);
	h->env = NULL;
	free(l.line);
}
