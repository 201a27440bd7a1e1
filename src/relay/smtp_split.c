/*
 * smtp_split.c - one message to one next hop that takes fewer recipients in a
 * transaction than the message has.
 *
 *  - What a connection answers by 452, or its LIMITS RCPTMAX leaves over, is
 *    offered on one more connection, and so on, as long as each accepts
 *    somebody.
 *  - No message text is sent before all of them were offered, so that where one
 *    recipient is refused nobody gets the message, as with one transaction.
 *  - The message goes out by one transaction after the other.  Where all
 *    recipients share one reply, a first one that fails is the reply of all.
 *    After one has succeeded, a failure makes a duplicate possible, and the
 *    caller tells who has the message.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "net/engine.h"
#include "relay/smtp_private.h"

#define CONNECTIONS_MAX 20	/* at once, to one next hop */

/* Some recipients of an envelope, and where they stand in it. */
struct some {
	struct envelope env;
	struct recipient *to;
	struct reply *v;
	size_t *origin;
};

static bool
some_open(struct some *s, const struct envelope *env)
{
	s->env = *env;
	s->env.recipients = s->to = calloc(env->nrecipients, sizeof *s->to);
	s->v = calloc(env->nrecipients, sizeof *s->v);
	s->origin = calloc(env->nrecipients, sizeof *s->origin);
	return s->to != NULL && s->v != NULL && s->origin != NULL;
}

static void
some_close(struct some *s)
{
	free(s->to);
	free(s->v);
	free(s->origin);
}

/* Takes those whose reply has that code and whose part is that one.  Returns
   their count. */
static size_t
some_take(struct some *s, const struct envelope *env, const struct reply v[],
    int code, const unsigned char part[], unsigned k)
{
	size_t i, n = 0;

	for (i = 0; i < env->nrecipients; i++) {
		if (v[i].code != code || part[i] != k)
			continue;
		s->to[n] = env->recipients[i];
		s->v[n] = v[i];
		s->origin[n++] = i;
	}
	s->env.nrecipients = n;
	return n;
}

static void
some_put_back(const struct some *s, struct reply v[])
{
	for (size_t i = 0; i < s->env.nrecipients; i++)
		v[s->origin[i]] = s->v[i];
}

/* Offers what the connection before did not take to the next one, until there
   is nothing left or one takes no recipient. */
static void
offer_rest(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct some *s, struct reply v[])
{
	struct nexthop *at = h;
	unsigned k;

	/* Another connection would not be our client's. */
	for (k = 1; k < CONNECTIONS_MAX && at->accepted > 0 &&
	    !smtp_is_login(h); k++) {
		if (some_take(s, env, v, CODE_TOO_MANY, h->part, k - 1) == 0)
			return;
		if (at->next == NULL)
			at->next = nexthop_open(h->set, h->protocol, h->where,
			    h->auth);
		if (at->next == NULL)
			return;
		at = at->next;
		smtp_offer(at, &s->env, spool, deadline, s->v);
		some_put_back(s, v);
		for (size_t i = 0; i < s->env.nrecipients; i++)
			h->part[s->origin[i]] = (unsigned char)k;
	}
}

static bool
is_too_many(const struct envelope *env, const struct reply v[])
{
	for (size_t i = 0; i < env->nrecipients; i++)
		if (v[i].code == CODE_TOO_MANY)
			return true;
	return false;
}

void
nexthop_offer(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[])
{
	struct some s;

	free(h->part);
	h->part = NULL;
	if (smtp_live_take(h, env, spool, deadline, v))
		return;
	smtp_offer(h, env, spool, deadline, v);
	if (h->accepted == 0 || !is_too_many(env, v))
		return;
	h->part = calloc(env->nrecipients, sizeof *h->part);
	if (some_open(&s, env) && h->part != NULL)
		offer_rest(h, env, spool, deadline, &s, v);
	some_close(&s);
}

/* Gives the same reply to each recipient that was accepted and whose message
   was not sent. */
static void
fail_all(const struct envelope *env, const struct reply *r, struct reply v[])
{
	struct reply all = *r;	/* it may be one of v */

	for (size_t i = 0; i < env->nrecipients; i++)
		if (v[i].code == 250)
			v[i] = all;
}

/* Sends the message by each transaction. */
static void
send_parts(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, struct some *s, struct reply v[])
{
	const struct reply none = { .code = 0 };
	struct nexthop *at = h;
	bool good = false;
	unsigned k;

	for (k = 0; at != NULL; at = at->next, k++) {
		if (some_take(s, env, v, 250, h->part, k) == 0)
			continue;
		smtp_send(at, &s->env, spool, form, deadline, s->v);
		some_put_back(s, v);
		for (size_t i = 0; i < s->env.nrecipients; i++)
			good = good || s->v[i].code < 400;
		if (good || h->set->lmtp)
			continue;
		for (at = at->next; at != NULL; at = at->next)
			smtp_abandon(at, deadline);
		/* In LMTP a reply is about one recipient. */
		if (h->protocol == NEXTHOP_LMTP)
			fail_all(env, &none, v);
		else
			fail_all(env, &s->v[0], v);
		return;
	}
}

void
nexthop_send(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, struct reply v[])
{
	struct some s;
	struct reply r;

	if (h->part == NULL) {
		smtp_send(h, env, spool, form, deadline, v);
		return;
	}
	if (some_open(&s, env)) {
		send_parts(h, env, spool, form, deadline, &s, v);
	} else {
		nexthop_abandon(h, deadline);
		reply_local_error(&r);
		fail_all(env, &r, v);
	}
	some_close(&s);
	free(h->part);
	h->part = NULL;
}

void
nexthop_abandon(struct nexthop *h, int64_t deadline)
{
	for (; h != NULL; h = h->next)
		smtp_abandon(h, deadline);
}

void
nexthop_close(struct nexthop *h)
{
	struct nexthop *next;

	for (; h != NULL; h = next) {
		next = h->next;
		smtp_quit(h, clock_after(QUIT_SECONDS));
		tls_await_end(&h->engine);
		smtp_live_close(h);
		free(h->part);
		free(h);
	}
}
