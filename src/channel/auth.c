/*
 * auth.c - AUTH: RFC 4954.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "channel/private.h"

/* True for "=", for nothing, and for base64. */
static bool
auth_base64(struct span s)
{
	return span_same(s, "=") || text_decode_base64(NULL, 0, s) != -1;
}

/* Is w one of the words of list? */
static bool
mechanism_listed(const char *list, struct span w)
{
	struct span rest = span_of(list);

	while (rest.len > 0) {
		struct span one = span_word(&rest);

		if (one.len == w.len && *one.p != '?' &&
		    strncasecmp(one.p, w.p, w.len) == 0)
			return true;
	}
	return false;
}

static void
auth_failed(struct channel *ch, struct reply *r)
{
	unsigned max = ch->set->max_auth_failures;

	if (max != 0 && ++ch->auth_failures >= max)
		reply_set(r, 421, "4.7.0", "Too many failed authentications");
}

/* One step of an exchange: asks the hook, and answers. */
static void
auth_step(struct channel *ch, struct span mechanism, struct span response,
    bool given)
{
	struct reply r;

	if (response.len == 1 && response.p[0] == '=')
		response.len = 0;
	reply_set(&r, 454, "4.7.0", "Authentication is not available");
	if (ch->hooks->auth != NULL)
		ch->hooks->auth(ch->ctx, mechanism, response, given, &r);
	ch->smtp_state = r.code == 334 ? PHASE_AUTH : PHASE_READY;
	ch->authenticated = r.code == 235;
	if (ch->authenticated)
		text_copy(ch->auth_method, sizeof ch->auth_method,
		    ch->mechanism);
	else
		ch->auth_user[0] = '\0';
	if (r.code == 535)
		auth_failed(ch, &r);
	ch->hushed = ch->set->auth_foreign;
	reply_answer(ch, &r);
	ch->hushed = false;
}

/* The mechanism is not listed: because there is none such, or for now? */
static void
deny_mechanism(const struct channel *ch, struct reply *r)
{
	if (auth_is_short(ch))
		reply_deny(r, 454, "4.7.0", "Authentication is not available");
	else
		reply_deny(r, 504, "5.5.4", "Mechanism is not offered");
}

/* Makes r a refusal if an exchange cannot begin. */
static void
auth_check(struct channel *ch, struct span mechanism, struct span rest,
    struct reply *r)
{
	const char *list = offers_auth(ch) ? ch->auth : NULL;

	if (list == NULL)
		reply_deny(r, 502, "5.5.1", "AUTH is not offered");
	else if (list[strspn(list, "? ")] == '\0')
		reply_deny(r, 454, "4.7.0", "Authentication is not available");
	else if (!ch->extended_smtp)
		reply_deny(r, 503, "5.5.1", "Send EHLO first");
	else if (!ch->ssl && ch->set->auth_require_tls)
		reply_deny(r, 538, "5.7.11", "AUTH needs TLS: send STARTTLS");
	else if (ch->authenticated)
		reply_deny(r, 503, "5.5.1", "Authenticated already");
	else if (!mechanism_listed(list, mechanism) ||
	    !span_copy(ch->mechanism, sizeof ch->mechanism, mechanism))
		deny_mechanism(ch, r);
	else if (rest.len > 0 && memchr(rest.p, ' ', rest.len) != NULL)
		reply_deny(r, 501, "5.5.4", "Too many arguments");
	else if (!auth_base64(rest))
		reply_deny(r, 501, "5.5.2", "Response is not base64");
}

void
do_auth(struct channel *ch, struct span arg)
{
	struct span mechanism = span_word(&arg);
	struct reply r = { .code = 334 };

	auth_check(ch, mechanism, arg, &r);
	if (r.code >= 400) {
		reply_answer(ch, &r);
		return;
	}
	for (char *p = ch->mechanism; *p != '\0'; p++)
		if (*p >= 'a' && *p <= 'z')
			*p = (char)(*p - 'a' + 'A');
	auth_step(ch, span_of(ch->mechanism), arg, arg.len > 0);
}

void
auth_response(struct channel *ch, struct span line, bool http)
{
	struct span none = { NULL, 0 };
	struct reply r;

	if (!ch->overlong && auth_base64(line)) {
		auth_step(ch, span_of(""), line, true);
		return;
	}
	if (ch->overlong)
		reply_set(&r, 500, "5.5.6", "Authentication line too long");
	else if (span_same(line, "*"))
		reply_set(&r, 501, "5.7.0", "Authentication aborted");
	else
		reply_set(&r, 501, "5.5.2", "Response is not base64");
	if (ch->hooks->auth != NULL)
		ch->hooks->auth(ch->ctx, none, none, false, &r);
	ch->smtp_state = PHASE_READY;
	if (http)
		reply_set(&r, 421, "4.7.0", "HTTP is not served here");
	reply_answer(ch, &r);
}
