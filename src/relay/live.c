/*
 * live.c - the relay during the dialogue: next hops that are asked
 * before there is a message.
 *
 *  - The relay on the command line is connected when the client greets, and
 *    hears MAIL as it comes.
 *  - With routes a sender alone leads nowhere: each place hears MAIL together
 *    with its first recipient, whose reply is then what it says of both.
 *  - Places that are no next hops take everybody, until there is a message.
 */

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/transport.h"

/* Our client waits for 5 minutes (RFC 5321 4.5.3.2), and must not give up
   before we do.  To its greeting we answer without the next hop, too. */
#define LIVE_SECONDS 240
#define HELLO_SECONDS 30
#define RSET_SECONDS 30		/* for the reply to a RSET, which comes before
				   the next question */

static int64_t
live_deadline(const struct relay *r, unsigned seconds)
{
	unsigned most = r->set->timeout;

	if (most != 0 && most < seconds)
		seconds = most;
	return clock_after(seconds);
}

bool
relay_live_possible(const struct relay *r)
{
	return r->usual.transport->live != NULL || hops_vary(r->set);
}

void
relay_live_hello(struct relay *r, const struct envelope *env, char *text,
    size_t size)
{
	const struct transport *t = r->usual.transport;
	const struct job j = { .r = r, .env = env, .spool = -1,
		.deadline = live_deadline(r, HELLO_SECONDS) };

	text[0] = '\0';
	if (t->live != NULL)
		t->live->hello(&j, &r->usual, text, size);
}

/* What is asked of one hop. */
static void
offer_hop(struct relay *r, struct hop *h, const struct envelope *env,
    int64_t deadline, struct reply *mail, struct reply v[])
{
	const struct job j = { .r = r, .env = env, .spool = -1,
		.deadline = deadline };

	if (h->transport->live != NULL)
		h->transport->live->offer(&j, h, mail, v);
}

void
relay_live_offer(struct relay *r, const struct envelope *env,
    struct reply *mail, struct reply v[])
{
	struct envelope part = *env;
	struct hop *h, *next;
	int64_t deadline = live_deadline(r, LIVE_SECONDS);
	size_t i = 0, n;
	bool named;

	if (!hops_vary(r->set)) {
		offer_hop(r, &r->usual, env, deadline, mail, v);
		return;
	}
	for (; i < env->nrecipients; i += n) {
		/* relay_rcpt() has read the routes. */
		h = hop_route(r, env->recipients[i].address,
		    env->fact[FACT_SENDER], &named);
		for (n = 1; i + n < env->nrecipients; n++) {
			next = hop_route(r, env->recipients[i + n].address,
			    env->fact[FACT_SENDER], &named);
			if (next != h)
				break;
		}
		part.recipients = env->recipients + i;
		part.nrecipients = n;
		if (h != NULL) {
			offer_hop(r, h, &part, deadline, NULL, v + i);
			continue;
		}
		reply_local_error(&v[i]);
		reply_spread(v + i, n);
	}
}

void
relay_live_vrfy(struct relay *r, const struct envelope *env, struct reply *v)
{
	const struct job j = { .r = r, .env = env, .spool = -1,
		.deadline = live_deadline(r, LIVE_SECONDS) };
	struct hop *h = NULL;
	bool named;

	if (hops_read_routes(r))
		h = hop_route(r, env->recipients[0].address,
		    env->fact[FACT_SENDER], &named);
	if (h != NULL && h->transport->live != NULL)
		h->transport->live->vrfy(&j, h, v);
}

const struct notes *
relay_live_notes(struct relay *r, const struct envelope *env)
{
	const struct hop *h = &r->usual;
	bool named;

	if (hops_vary(r->set) && env->nrecipients > 0)
		h = hop_route(r, env->recipients[0].address,
		    env->fact[FACT_SENDER], &named);
	r->notes = (struct notes){ .delay = -1 };
	if (h != NULL)
		hop_note(r, h);
	return &r->notes;
}

void
relay_live_forget(struct relay *r)
{
	int64_t deadline = live_deadline(r, RSET_SECONDS);

	for (struct hop *h = r->hops; h != NULL; h = h->link)
		if (h->transport->live != NULL)
			h->transport->live->forget(h, deadline);
}

int
relay_live_idle(struct relay *r)
{
	int wait = -1, one;

	for (struct hop *h = r->hops; h != NULL; h = h->link) {
		one = h->transport->live == NULL ? -1
		    : h->transport->live->idle(h, r->set->idle);
		if (one != -1 && (wait == -1 || one < wait))
			wait = one;
	}
	return wait;
}

/* ---- AUTH ---- */

bool
relay_auth_possible(const struct relay *r, char *error, size_t size)
{
	const struct transport *t = r->usual.transport;

	if (t->live != NULL)
		return t->live->auth_possible(r, &r->usual, error, size);
	text_copy(error, size, "--auth relay: needs a next hop: smtp:, "
	    "smtps: or lmtp:");
	return false;
}

const char *
relay_auth_mechanisms(struct relay *r)
{
	return r->usual.transport->live->auth_mechanisms(&r->usual);
}

void
relay_auth_step(struct relay *r, const struct envelope *env,
    const struct relay_login *l, struct reply *v)
{
	const struct job j = { .r = r, .env = env, .spool = -1,
		.deadline = live_deadline(r, LIVE_SECONDS) };

	l->user[0] = '\0';
	r->usual.transport->live->auth_step(&j, &r->usual, l, v);
}

void
relay_auth_forget(struct relay *r)
{
	r->usual.transport->live->auth_forget(&r->usual);
}
