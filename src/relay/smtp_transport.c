/*
 * smtp_transport.c - smtp:, smtps: and lmtp: as transports.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/expected.h"
#include "relay/smtp.h"
#include "relay/transport.h"

static enum nexthop_protocol
hop_protocol(const struct hop *h)
{
	return (enum nexthop_protocol)h->transport->kind;
}

static bool
check_places(struct hop *h, char *error, size_t size)
{
	if (*h->where != '\0')
		return nexthop_valid(hop_protocol(h), h->where, error, size);
	snprintf(error, size, "%s needs a host or a socket", h->spec);
	return false;
}

/* A new next hop; live: one that is asked during the dialogue.  NULL: no
   memory. */
static struct nexthop *
new_nexthop(const struct relay *r, const struct hop *h, bool live)
{
	struct nexthop *n = nexthop_open(r->set, hop_protocol(h), h->where,
	    r->auth_file);

	if (n == NULL || !live || nexthop_live(n))
		return n;
	nexthop_close(n);
	return NULL;
}

/* Has a next hop that may be connected.  False: no memory. */
static bool
open_nexthop(const struct job *j, struct hop *h)
{
	if (h->state == NULL)
		h->state = new_nexthop(j->r, h, j->r->set->live);
	return h->state != NULL;
}

static void
offer_nexthop(const struct job *j, struct hop *h, struct reply r[])
{
	if (open_nexthop(j, h)) {
		nexthop_offer(h->state, j->env, j->spool, j->deadline, r);
		return;
	}
	reply_local_error(&r[0]);
	reply_spread(r, j->env->nrecipients);
}

static void
deliver_nexthop(const struct job *j, struct hop *h, struct reply r[])
{
	nexthop_send(h->state, j->env, j->spool, j->form, j->deadline, r);
}

static void
abandon_nexthop(const struct job *j, struct hop *h)
{
	if (h->state != NULL)
		nexthop_abandon(h->state, j->deadline);
}

static void
where_nexthop(const struct hop *h, char *name, char *tls, size_t size)
{
	*name = *tls = '\0';
	if (h->state != NULL)
		nexthop_where(h->state, name, tls, size);
}

static void
close_nexthop(struct hop *h)
{
	nexthop_close(h->state);
	h->state = NULL;
}

/* ---- during the dialogue ---- */

static void
hello_nexthop(const struct job *j, struct hop *h, char *text, size_t size)
{
	if (open_nexthop(j, h))
		nexthop_live_hello(h->state, j->env, j->deadline, text, size);
}

static void
offer_nexthop_live(const struct job *j, struct hop *h, struct reply *mail,
    struct reply v[])
{
	struct reply failed;

	if (open_nexthop(j, h)) {
		nexthop_live_offer(h->state, j->env, j->deadline, mail, v);
		return;
	}
	reply_local_error(&failed);
	if (mail != NULL)
		*mail = failed;
	for (size_t i = 0; i < j->env->nrecipients; i++)
		v[i] = failed;
}

static void
vrfy_nexthop(const struct job *j, struct hop *h, struct reply *v)
{
	if (h->state != NULL)
		nexthop_live_vrfy(h->state, j->env, j->deadline, v);
}

static void
forget_nexthop(struct hop *h, int64_t deadline)
{
	if (h->state != NULL)
		nexthop_live_forget(h->state, deadline);
}

static int
idle_nexthop(struct hop *h, unsigned seconds)
{
	return h->state == NULL ? -1 : nexthop_live_idle(h->state, seconds);
}

static bool
can_authenticate(const struct relay *r, const struct hop *h, char *error,
    size_t size)
{
	const struct relay_settings *set = r->set;

	if (set->clear || set->tls != TLS_NONE || set->tls_pins != NULL ||
	    hop_protocol(h) == NEXTHOP_SMTPS ||
	    strstr(h->where, "unix:") != NULL)
		return true;
	text_copy(error, size, "--auth relay: would never be offered without "
	    "TLS to the next hop: it needs --relay-tls, smtps:, a unix "
	    "socket or --no-auth-require-tls");
	return false;
}

static const char *
nexthop_mechanisms(struct hop *h)
{
	return h->state == NULL ? "" : nexthop_live_mechanisms(h->state);
}

static void
authenticate_nexthop(const struct job *j, struct hop *h,
    const struct relay_login *l, struct reply *v)
{
	if (open_nexthop(j, h))
		nexthop_live_auth(h->state, j->env, l, j->deadline, v);
	else
		reply_set(v, 454, "4.7.0", "Local error in processing");
}

static void
forget_login(struct hop *h)
{
	if (h->state != NULL)
		nexthop_live_nobody(h->state);
}

static const struct live_transport live_nexthop = {
	.hello = hello_nexthop, .offer = offer_nexthop_live,
	.vrfy = vrfy_nexthop, .forget = forget_nexthop, .idle = idle_nexthop,
	.auth_possible = can_authenticate,
	.auth_mechanisms = nexthop_mechanisms,
	.auth_step = authenticate_nexthop, .auth_forget = forget_login,
};

static void
probe_nexthop(struct relay *r, struct hop *h, struct findings *f)
{
	struct nexthop *n = new_nexthop(r, h, r->set->through &&
	    h == &r->usual);
	struct expected from = { .others = r->set->auth == NULL };
	char *text = NULL;
	long len = -1;

	if (n == NULL) {
		findings_add(f, FINDING_BAD, "%s: out of memory", h->spec);
		return;
	}
	if (r->set->auth != NULL)
		len = nexthop_read_credentials(n, &text);
	if (len >= 0)
		expected_find(&from, r, h, text, (size_t)len);
	file_free(text, len);
	nexthop_check(n, h->spec, &from, f);
	nexthop_close(n);
	expected_free(&from);
}

/* What the three have in common. */
#define NEXTHOP \
	.reach = REMOTE, .form = SPOOL_CRLF, .dsn = true, \
	.check = check_places, .offer = offer_nexthop, \
	.deliver = deliver_nexthop, .abandon = abandon_nexthop, \
	.where = where_nexthop, .probe = probe_nexthop, \
	.close = close_nexthop, .live = &live_nexthop

const struct transport transport_smtp = {
	.name = "smtp", .syntax = "smtp:[HOST]:PORT smtp:unix:PATH",
	.kind = NEXTHOP_SMTP, .forwards = true, NEXTHOP
};

const struct transport transport_smtps = {
	.name = "smtps", .syntax = "smtps:[HOST]:PORT",
	.kind = NEXTHOP_SMTPS, .forwards = true, .tls = true, NEXTHOP
};

const struct transport transport_lmtp = {
	.name = "lmtp", .syntax = "lmtp:[HOST]:PORT lmtp:unix:PATH",
	.kind = NEXTHOP_LMTP, NEXTHOP
};
