/*
 * smtp_live.c - a next hop that is asked during the dialogue: its words for
 * sender and recipients, before there is a message.
 *
 *  - It is connected when the client greets, and each MAIL and RCPT goes out
 *    as the client sends it.  What it accepted is remembered.
 *  - At the end of the message that transaction is taken up, if the message is
 *    for just those recipients.  Otherwise, a filter has changed them, all is
 *    offered anew.
 *  - A connection that is lost meanwhile is dialled again once in a
 *    transaction, and what was accepted must be accepted again.  One that we
 *    gave back, as the client idled, does not count.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/smtp_private.h"

/* GCC's analyser does not see that h->live keeps what is stored there;
   forget_envelope() frees it. */
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"
#endif

#define OPEN_SHARE 4		/* an open transaction is held so much longer */

bool
nexthop_live(struct nexthop *h)
{
	h->live = calloc(1, sizeof *h->live);
	return h->live != NULL;
}

static void
forget_envelope(struct live *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->to[i].text);
	free(l->to);
	free(l->sender);
	l->to = NULL;
	l->n = 0;
	l->sender = NULL;
	l->begun = l->again = l->given_back = false;
	l->lost.code = 0;
}

void
smtp_live_close(struct nexthop *h)
{
	if (h->live == NULL)
		return;
	forget_envelope(h->live);
	free(h->live);
}

/* Copies two strings into one piece of memory; the second stands after the
   first one's NUL.  NULL: no memory. */
static char *
copy_pair(const char *a, const char *b)
{
	size_t na = strlen(a) + 1, nb = strlen(b) + 1;
	char *p = malloc(na + nb);

	if (p != NULL) {
		memcpy(p, a, na);
		memcpy(p + na, b, nb);
	}
	return p;
}

static const char *
second(const char *pair)
{
	return pair + strlen(pair) + 1;
}

/* Remembers a recipient that was accepted.  False: no memory. */
static bool
remember_recipient(struct live *l, const struct recipient *to)
{
	struct live_recipient *more = table_grow(l->to, l->n, sizeof *more);

	if (more == NULL)
		return false;
	l->to = more;
	more[l->n].text = copy_pair(to->address, to->options);
	if (more[l->n].text == NULL)
		return false;
	l->n++;
	return true;
}

static bool
is_usable(struct nexthop *h)
{
	return h->s.fd != -1 && !stream_has_input(&h->s);
}

bool
smtp_live_meet(struct nexthop *h, int64_t deadline, struct reply *r)
{
	if (is_usable(h))
		return true;
	smtp_hang_up(h);
	if (smtp_login_is_lost(h, r))
		return false;
	smtp_restart(h);
	while (!smtp_open_next(h, deadline, r) && smtp_has_next(h) &&
	    clock_left(deadline) > 0)
		;
	return h->s.fd != -1;
}

/* Removes BINARYMIME from an answer to EHLO: it needs BDAT (RFC 3030 3). */
static void
hide_binary(char *lines)
{
	static const char word[] = "BINARYMIME";
	const size_t len = sizeof word - 1;
	char *p, *end;

	for (p = lines; (end = strchr(p, '\n')) != NULL; p = end + 1)
		if (strncasecmp(p, word, len) == 0 &&
		    (p[len] == '\n' || p[len] == ' ')) {
			memmove(p, end + 1, strlen(end));
			return;
		}
}

void
nexthop_live_hello(struct nexthop *h, const struct envelope *env,
    int64_t deadline, char *text, size_t size)
{
	struct reply r;

	text[0] = '\0';
	h->env = env;
	h->live->used = clock_now();
	if (smtp_live_meet(h, deadline, &r))
		smtp_hello_again(h, deadline);
	if (h->s.fd != -1)
		text_join(text, size, "OK\n", h->live->lines, NULL);
	if (!(h->can & CAN_CHUNKING))
		hide_binary(text);
	h->env = NULL;
}

/* Without memory for a recipient that was accepted the whole transaction is
   given up. */
static void
remember_accepted(struct nexthop *h, const struct envelope *env,
    struct reply v[])
{
	for (size_t i = 0; i < env->nrecipients; i++)
		if (v[i].code < 400 &&
		    !remember_recipient(h->live, &env->recipients[i])) {
			reply_no_memory(&v[i]);
			smtp_hang_up(h);
		}
}

static void
refuse_all(const struct envelope *env, const struct reply *r, struct reply v[])
{
	for (size_t i = 0; i < env->nrecipients; i++)
		v[i] = *r;
}

/* Does the envelope ask for delivery reports? */
static bool
wants_reports(const struct live *l)
{
	const char *mail = second(l->sender);
	bool wants = text_find_word(mail, "RET") != NULL ||
	    text_find_word(mail, "ENVID") != NULL;

	for (size_t i = 0; !wants && i < l->n; i++) {
		const char *rcpt = second(l->to[i].text);

		wants = text_find_word(rcpt, "NOTIFY") != NULL ||
		    text_find_word(rcpt, "ORCPT") != NULL;
	}
	return wants;
}

bool
smtp_live_can(const struct nexthop *h, struct reply *r)
{
	const struct live *l = h->live;

	if (l == NULL || !l->begun || !l->dsn || (h->can & CAN_DSN) ||
	    !wants_reports(l))
		return true;
	reply_set(r, 451, "4.5.4", "Next hop lacks an extension");
	return false;
}

/* Offers what was accepted before on a fresh connection.  False: it is not
   accepted as it was, and *r says why. */
static bool
resume(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply *r)
{
	struct live *l = h->live;
	struct recipient *to = calloc(l->n + 1, sizeof *to);
	bool ok = false;

	smtp_hang_up(h);
	h->kept = false;
	if (to == NULL)
		reply_local_error(r);
	else if (l->again) {
		smtp_no_connection(r);
		if (l->lost.code != 0)
			*r = l->lost;
	} else {
		ok = true;
		for (size_t i = 0; i < l->n; i++)
			to[i] = (struct recipient){ l->to[i].text,
				second(l->to[i].text) };
	}
	l->again = l->again || !l->given_back;
	l->given_back = false;
	if (ok) {
		smtp_restart(h);
		ok = smtp_offer_same(h, env, to, l->n, spool, deadline, r);
	}
	free(to);
	if (!ok)
		smtp_quit(h, deadline);
	return ok;
}

static void	add_recipients(struct nexthop *h, const struct envelope *env,
	    int64_t deadline, struct reply v[]);

/* One recipient after the other, where the connection was lost in the group:
   what each hears must not depend on the others. */
static void
add_slowly(struct nexthop *h, const struct envelope *env, int64_t deadline,
    struct reply v[])
{
	struct envelope one = *env;

	one.nrecipients = 1;
	for (size_t i = 0; i < env->nrecipients; i++) {
		one.recipients = env->recipients + i;
		add_recipients(h, &one, deadline, &v[i]);
	}
}

/* More recipients, once more where the connection is lost. */
static void
add_recipients(struct nexthop *h, const struct envelope *env,
    int64_t deadline, struct reply v[])
{
	struct reply r, lost = { .code = 0 };

	while (lost.code == 0 ||
	    (!h->live->again && clock_left(deadline) > 0)) {
		if (!is_usable(h) && !resume(h, env, -1, deadline, &r)) {
			h->live->lost = lost.code != 0 ? lost : r;
			refuse_all(env, &h->live->lost, v);
			return;
		}
		smtp_try_recipients(h, env, deadline, v, &r);
		if (h->s.fd != -1) {
			remember_accepted(h, env, v);
			return;
		}
		if (env->nrecipients > 1) {
			add_slowly(h, env, deadline, v);
			return;
		}
		lost = r;
	}
	h->live->lost = lost;
	refuse_all(env, &lost, v);
}

/* MAIL alone, then one recipient after the other. */
static bool
begin_slowly(struct nexthop *h, const struct envelope *env, int64_t deadline,
    struct reply *mail, struct reply v[])
{
	struct envelope part = *env;

	h->live->again = true;
	smtp_restart(h);
	part.nrecipients = 0;
	h->live->begun = smtp_try_places(h, &part, -1, deadline, NULL, mail);
	if (h->live->begun)
		add_slowly(h, env, deadline, v);
	return h->live->begun;
}

/* MAIL, and the recipients with it. */
static void
begin_transaction(struct nexthop *h, const struct envelope *env,
    int64_t deadline, struct reply *mail, struct reply v[])
{
	struct live *l = h->live;
	struct reply r;

	forget_envelope(l);
	l->sender = copy_pair(env->fact[FACT_SENDER],
	    env->fact[FACT_MAIL_OPTIONS]);
	if (l->sender == NULL)
		reply_no_memory(&r);
	if (h->s.fd == -1)
		smtp_restart(h);
	l->begun = l->sender != NULL &&
	    smtp_try_places(h, env, -1, deadline, v, &r);
	if (l->begun)
		remember_accepted(h, env, v);
	else if (l->sender == NULL || h->s.fd != -1 || env->nrecipients == 0 ||
	    clock_left(deadline) == 0 ||
	    !begin_slowly(h, env, deadline, &r, v))
		refuse_all(env, &r, v);
	h->kept = false;
	l->dsn = (h->can & CAN_DSN) != 0;
	if (mail != NULL)
		*mail = r;
}

void
nexthop_live_offer(struct nexthop *h, const struct envelope *env,
    int64_t deadline, struct reply *mail, struct reply v[])
{
	h->env = env;
	if (mail != NULL || !h->live->begun)
		begin_transaction(h, env, deadline, mail, v);
	else
		add_recipients(h, env, deadline, v);
	h->live->used = clock_now();
	h->env = NULL;
}

void
nexthop_live_vrfy(struct nexthop *h, const struct envelope *env,
    int64_t deadline, struct reply *r)
{
	const char *address = env->recipients[0].address;
	const bool ascii = text_is_ascii(address, strlen(address));
	struct reply said;

	if (!is_usable(h) || (!ascii && !(h->can & CAN_SMTPUTF8)))
		return;
	h->env = env;
	smtp_add(h, "VRFY <%s>%s\r\n", address, ascii ? "" : " SMTPUTF8");
	if (smtp_command(h, STEP_VRFY, deadline, &said) || h->s.fd != -1)
		*r = said;
	h->live->used = clock_now();
	h->env = NULL;
}

void
nexthop_live_forget(struct nexthop *h, int64_t deadline)
{
	forget_envelope(h->live);
	h->live->used = clock_now();
	smtp_abandon(h, deadline);
}

int
nexthop_live_idle(struct nexthop *h, unsigned seconds)
{
	int64_t until;

	/* A login would be lost with it. */
	if (h->s.fd == -1 || smtp_is_exchange(h) || smtp_is_login(h))
		return -1;
	until = h->live->used + (int64_t)seconds * 1000 *
	    (h->dirty ? OPEN_SHARE : 1);
	if (clock_left(until) > 0)
		return clock_left(until);
	smtp_quit(h, clock_after(QUIT_SECONDS));
	h->live->given_back = true;
	return -1;
}

/* Is it the envelope that was accepted, whatever its size is now? */
static bool
is_same(const struct live *l, const struct envelope *env)
{
	bool same = l->n == env->nrecipients &&
	    strcmp(l->sender, env->fact[FACT_SENDER]) == 0 &&
	    strcmp(second(l->sender), env->fact[FACT_MAIL_OPTIONS]) == 0;

	for (size_t i = 0; same && i < l->n; i++)
		same = strcmp(l->to[i].text,
		    env->recipients[i].address) == 0 &&
		    strcmp(second(l->to[i].text),
		    env->recipients[i].options) == 0;
	return same;
}

bool
smtp_live_take(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[])
{
	struct reply r;
	bool ok;

	if (h->live == NULL || !h->live->begun)
		return false;
	if (!is_same(h->live, env)) {
		h->live->begun = false;
		smtp_abandon(h, deadline);
		return false;
	}
	h->env = env;
	ok = is_usable(h) ? smtp_can_carry(h, env, spool, &r)
	    : resume(h, env, spool, deadline, &r);
	if (!ok)
		refuse_all(env, &r, v);
	for (size_t i = 0; ok && i < env->nrecipients; i++)
		v[i].code = 250;
	h->accepted = ok ? env->nrecipients : 0;
	h->env = NULL;
	return true;
}

bool
smtp_live_again(struct nexthop *h)
{
	if (h->live == NULL || !h->live->begun || h->live->again)
		return false;
	h->live->again = true;
	smtp_restart(h);
	return true;
}
