/*
 * smtp_through.c - AUTH through: our client authenticates to the next hop
 * itself.
 *
 *  - The mechanisms of the next hop's EHLO are ours, but for those that are
 *    about the connection and not about the client.
 *  - Each line of the client goes to the next hop, each reply back, whatever
 *    the mechanism.  Nothing is kept of it but the name that the client gave.
 *  - Afterwards the connection is the client's own.  When it is lost, no other
 *    can take its place: the credentials were not kept.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/mechanism.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/sasl.h"
#include "relay/smtp_private.h"

#define CANCEL_SECONDS 30	/* for the reply to "*", which nobody awaits */
#define TURNS_MAX 32		/* challenges of one exchange */
#define RESPONSE_MAX 12288	/* octets of base64 in a line; RFC 4954 4 */

/* ---- What EHLO offers ---- */

/* Can it be handed through?  ANONYMOUS names nobody. */
static bool
is_offered_on(const char *name)
{
	return mechanism_is_portable(name) && strcmp(name, "ANONYMOUS") != 0;
}

void
smtp_note_mechanisms(struct nexthop *h, const char *line)
{
	char *list = h->live->mechanisms, name[MECHANISM_MAX + 1];
	size_t len, used;

	if (!h->set->through || !(h->secure || h->set->clear) ||
	    text_find_word(line, "AUTH") != line)
		return;
	line += strlen("AUTH");
	for (line += strspn(line, " ="); *line != '\0';
	    line += len + strspn(line + len, " ")) {
		len = strcspn(line, " ");
		if (len >= sizeof name)
			continue;
		for (size_t i = 0; i < len; i++)
			name[i] = line[i] >= 'a' && line[i] <= 'z'
			    ? (char)(line[i] - 'a' + 'A') : line[i];
		name[len] = '\0';
		used = strlen(list);
		if (is_offered_on(name) && text_find_word(list, name) == NULL &&
		    used + len + 2 <= LIVE_MECHANISMS)
			text_join(list + used, LIVE_MECHANISMS - used,
			    used == 0 ? "" : " ", name, NULL);
	}
}

const char *
nexthop_live_mechanisms(const struct nexthop *h)
{
	return h->s.fd == -1 ? "" : h->live->mechanisms;
}

/* ---- Whose connection it is ---- */

bool
smtp_is_exchange(const struct nexthop *h)
{
	return h->live != NULL && h->live->exchange;
}

bool
smtp_is_login(const struct nexthop *h)
{
	return h->live != NULL && h->live->login;
}

bool
smtp_login_is_lost(const struct nexthop *h, struct reply *r)
{
	if (h->s.fd != -1 || !smtp_is_login(h))
		return false;
	reply_set(r, 451, "4.4.2", "Connection to next hop lost, and the login "
	    "with it: connect again");
	return true;
}

void
smtp_hello_again(struct nexthop *h, int64_t deadline)
{
	char mechanisms[LIVE_MECHANISMS];
	struct reply r;

	if (!h->live->news)
		return;
	h->live->news = false;
	text_copy(mechanisms, sizeof mechanisms, h->live->mechanisms);
	smtp_say_hello(h, deadline, &r);
	text_copy(h->live->mechanisms, sizeof h->live->mechanisms, mechanisms);
}

/* Ends an exchange that our client has given up. */
static void
cancel_exchange(struct nexthop *h)
{
	struct reply r;

	if (!smtp_is_exchange(h))
		return;
	smtp_add(h, "*\r\n");
	/* What accepts that, or asks on, is out of step. */
	if (smtp_command(h, STEP_SASL, clock_after(CANCEL_SECONDS),
	    &r))
		smtp_hang_up(h);
	h->live->exchange = false;
}

void
nexthop_live_nobody(struct nexthop *h)
{
	assert(h->live != NULL);
	cancel_exchange(h);
	explicit_bzero(h->live->name, sizeof h->live->name);
	if (!h->live->login)
		return;
	smtp_quit(h, clock_after(QUIT_SECONDS));
	h->live->login = h->live->news = false;
}

/* ---- The exchange ---- */

/* It could not be asked, or makes no sense: RFC 4954 4.  Keeps the words. */
static void
fail_login(struct reply *v)
{
	v->code = 454;
	text_copy(v->enh, sizeof v->enh, "4.7.0");
}

/* A challenge came.  False, with *v, if the exchange cannot go on. */
static bool
take_challenge(struct nexthop *h, struct reply *v)
{
	v->enh[0] = '\0';
	if (strchr(v->text, '\n') != NULL) {
		smtp_garbled(h, STEP_SASL, "", v);
		fail_login(v);
		return false;
	}
	h->live->exchange = true;
	if (++h->live->turns <= TURNS_MAX)
		return true;
	smtp_log(h, "AUTH", "too many challenges");
	cancel_exchange(h);
	reply_set(v, 454, "4.7.0", "Too many challenges of next hop");
	return false;
}

/* The exchange is over: tells the name, and forgets it. */
static void
tell_name(struct nexthop *h, const struct relay_login *l)
{
	text_copy(l->user, l->size, h->live->name);
	explicit_bzero(h->live->name, sizeof h->live->name);
}

/* Sends the line of our client, and reads what that comes to. */
static void
exchange(struct nexthop *h, const struct relay_login *l, int64_t deadline,
    struct reply *v)
{
	struct live *live = h->live;
	bool ok;
	size_t n;

	if (l->mechanism != NULL)
		smtp_add(h, "AUTH %s%s%s\r\n", l->mechanism,
		    l->response == NULL ? "" : " ", l->response == NULL ? ""
		    : *l->response == '\0' ? "=" : l->response);
	else
		smtp_add(h, "%s\r\n", l->response == NULL ? "" : l->response);
	n = h->held;
	ok = smtp_command(h, STEP_SASL, deadline, v);
	explicit_bzero(h->out, n);
	live->exchange = false;
	if (ok && v->code == 334 && take_challenge(h, v))
		return;
	if (ok && v->code == 235)
		live->login = live->news = true;
	/* 538 is about our connection, not about the client's. */
	if (v->code >= 400 && (h->s.fd == -1 || v->code == 538))
		fail_login(v);
	tell_name(h, l);
}

/* May an exchange begin?  The channel has asked the same, but it is not
   trusted. */
static bool
may_begin(struct nexthop *h, const char *mechanism, int64_t deadline,
    struct reply *v)
{
	if (h->live->login || h->live->begun) {
		reply_set(v, 503, "5.5.1", h->live->login
		    ? "Authenticated already" : "No AUTH in a transaction");
		return false;
	}
	cancel_exchange(h);
	explicit_bzero(h->live->name, sizeof h->live->name);
	smtp_abandon(h, deadline);
	if (!smtp_live_meet(h, deadline, v)) {
		fail_login(v);
		return false;
	}
	if (h->live->mechanisms[0] == '\0')
		reply_set(v, 454, "4.7.0", "Authentication is not available");
	else if (mechanism[strcspn(mechanism, " =")] != '\0' ||
	    text_find_word(h->live->mechanisms, mechanism) == NULL)
		reply_set(v, 504, "5.5.4", "Mechanism is not offered");
	else {
		text_copy(h->live->mechanism, sizeof h->live->mechanism,
		    mechanism);
		h->live->turns = 0;
		h->live->named = false;
		return true;
	}
	return false;
}

/* Is there an exchange to go on with? */
static bool
may_go_on(const struct nexthop *h, struct reply *v)
{
	if (smtp_is_exchange(h))
		return true;
	reply_set(v, 503, "5.5.1", "No AUTH exchange is going on");
	return false;
}

/* Decodes the response; the name is in the first one.  False, with *v: it is
   not one that may be handed on. */
static bool
read_response(struct nexthop *h, const struct relay_login *l, struct reply *v)
{
	char said[RESPONSE_MAX / 4 * 3];
	const char *response = l->response == NULL ? "" : l->response;
	struct span base64 = span_of(response);
	long n = base64.len > RESPONSE_MAX ? 0
	    : text_decode_base64(said, sizeof said, base64);

	if (base64.len > RESPONSE_MAX)
		reply_set(v, 500, "5.5.6", "Response too long");
	else if (n == -1)
		reply_set(v, 501, "5.5.2", "Response is not base64");
	else if (!h->live->named &&
	    (l->mechanism == NULL || l->response != NULL)) {
		sasl_name(h->live->name, sizeof h->live->name,
		    h->live->mechanism, said, (size_t)n);
		h->live->named = true;
	}
	explicit_bzero(said, base64.len < sizeof said ? base64.len
	    : sizeof said);
	return base64.len <= RESPONSE_MAX && n != -1;
}

void
nexthop_live_auth(struct nexthop *h, const struct envelope *env,
    const struct relay_login *l, int64_t deadline, struct reply *v)
{
	h->env = env;
	if (l->mechanism != NULL ? may_begin(h, l->mechanism, deadline, v)
	    : may_go_on(h, v)) {
		if (read_response(h, l, v)) {
			exchange(h, l, deadline, v);
		} else {
			tell_name(h, l);
			cancel_exchange(h);
		}
	}
	h->live->used = clock_now();
	h->env = NULL;
}
