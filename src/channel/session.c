/*
 * session.c - the verbs of a session: the greeting, HELO and EHLO, STARTTLS,
 * and those that only ask something.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "channel/private.h"

#define LIMIT_MAX 999999	/* what LIMITS has digits for; RFC 9422 4 */

void
greet_client(struct channel *ch)
{
	struct reply r;
	char line[CHANNEL_NAME_MAX + 16];

	text_join(line, sizeof line, ch->set->fqdn,
	    ch->set->lmtp ? " LMTP" : " ESMTP", NULL);
	reply_set(&r, 220, "", line);
	if (ch->hooks->connect != NULL)
		ch->hooks->connect(ch->ctx, &r);
	ch->smtp_state = r.code < 400 ? PHASE_CONNECT : PHASE_REFUSED;
	reply_answer(ch, &r);
	if (r.code == 521)	/* RFC 7504 3 */
		ch->want = WANT_CLOSE;
}

/* One EHLO line: name, and behind it its argument, blank included, or "". */
static void
ehlo_line(struct channel *ch, bool on, const char *name, const char *arg)
{
	char line[1024];

	if (!on)
		return;
	text_join(line, sizeof line, name, arg, NULL);
	reply_line(ch, 250, true, "", span_of(line));
}

/* RFC 9422 4: what is limited at all, a blank in front of each. */
static void
write_limits(const struct channel_settings *set, char *to, size_t size)
{
	char n[TEXT_NUMBER], mails[40] = "", rcpts[40] = "";

	if (set->max_messages != 0 && set->max_messages <= LIMIT_MAX)
		text_join(mails, sizeof mails, " MAILMAX=",
		    text_number(n, set->max_messages, 1), NULL);
	if (set->max_recipients != 0 && set->max_recipients <= LIMIT_MAX)
		text_join(rcpts, sizeof rcpts, " RCPTMAX=",
		    text_number(n, set->max_recipients, 1), NULL);
	text_join(to, size, mails, rcpts, NULL);
}

static void
ehlo_lines(struct channel *ch)
{
	const struct channel_settings *set = ch->set;
	const char *auth = ch->auth == NULL ? "" : ch->auth;
	char size[TEXT_NUMBER], limits[80];

	write_limits(set, limits, sizeof limits);
	ehlo_line(ch, true, "PIPELINING", "");
	ehlo_line(ch, true, "SIZE ", text_number(size, set->data_size_limit, 1));
	ehlo_line(ch, !set->decode_data, "8BITMIME", "");
	ehlo_line(ch, set->enable_SMTPUTF8, "SMTPUTF8", "");
	ehlo_line(ch, true, "CHUNKING", "");
	ehlo_line(ch, !set->decode_data, "BINARYMIME", "");
	ehlo_line(ch, set->dsn, "DSN", "");
	ehlo_line(ch, true, "ENHANCEDSTATUSCODES", "");
	ehlo_line(ch, limits[0] != '\0', "LIMITS", limits);
	ehlo_line(ch, set->tls && !ch->ssl, "STARTTLS", "");
	ehlo_line(ch, *auth != '\0' && (ch->ssl || !set->auth_require_tls),
	    "AUTH ", auth);
	ehlo_line(ch, ch->xclient, "XCLIENT ",
	    "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT");
	for (size_t i = 0; set->keywords != NULL && set->keywords[i] != NULL;
	    i++)
		ehlo_line(ch, true, set->keywords[i], "");
	reply_line(ch, 250, false, "", span_of("HELP"));
}

/* HELO, EHLO, LHLO: RFC 5321 4.1.1.1, RFC 2033 4.1. */
static void
answer_hello(struct channel *ch, struct span name, bool extended)
{
	struct reply r;
	const char *rest;

	if (name.len >= sizeof ch->seen_greeting || !span_ascii(name)) {
		channel_reply(ch, 501, "5.5.4", "That is not a host name");
		return;
	}
	reply_set(&r, 250, "", ch->set->fqdn);
	if (ch->hooks->helo != NULL)
		ch->hooks->helo(ch->ctx, name, extended, &r);
	if (r.code >= 400) {
		reply_answer(ch, &r);
		return;
	}
	transaction_forget(ch);
	span_copy(ch->seen_greeting, sizeof ch->seen_greeting, name);
	ch->extended_smtp = extended;
	ch->smtp_state = PHASE_READY;
	if (!extended) {
		reply_answer(ch, &r);
		return;
	}
	for (rest = r.text; *rest != '\0';)
		reply_line(ch, 250, true, "", reply_next_line(250, &rest));
	ehlo_lines(ch);
}

void
do_helo(struct channel *ch, struct span arg)
{
	answer_hello(ch, arg, false);
}

void
do_ehlo(struct channel *ch, struct span arg)
{
	answer_hello(ch, arg, true);
}

void
do_noop(struct channel *ch, struct span arg)
{
	struct reply r;

	reply_set(&r, 250, "2.0.0", "OK");
	if (ch->hooks->noop != NULL)
		ch->hooks->noop(ch->ctx, arg, &r);
	reply_answer(ch, &r);
}

void
do_rset(struct channel *ch, struct span arg)
{
	struct reply r;

	(void)arg;
	reply_set(&r, 250, "2.0.0", "OK");
	if (ch->hooks->rset != NULL)
		ch->hooks->rset(ch->ctx, &r);
	transaction_forget(ch);
	reply_answer(ch, &r);
}

void
do_quit(struct channel *ch, struct span arg)
{
	struct reply r;

	(void)arg;
	reply_set(&r, 221, "2.0.0", "Bye");
	if (ch->hooks->quit != NULL)
		ch->hooks->quit(ch->ctx, &r);
	reply_answer(ch, &r);
}

/* RFC 5321 3.5.3: 252 neither confirms nor denies.  RFC 6531 3.7.4.2: there
   may be a parameter, which only allows the reply to be in UTF-8. */
void
do_vrfy(struct channel *ch, struct span arg)
{
	struct reply r;
	struct span rest = arg, address;
	bool ok = parse_path(&rest, &address);

	rest = span_trim(rest);
	if (!offers_smtputf8(ch) || !span_same(rest, "SMTPUTF8"))
		ok = ok && rest.len == 0;
	if (!ok)
		reply_set(&r, 502, "5.5.2", "That is not an address");
	else
		reply_set(&r, 252, "2.1.5", "Cannot verify, but will accept "
		    "the message and try to deliver it");
	if (ok && ch->hooks->vrfy != NULL)
		ch->hooks->vrfy(ch->ctx, address, &r);
	reply_answer(ch, &r);
}

void
do_expn(struct channel *ch, struct span arg)
{
	struct reply r;

	reply_set(&r, 502, "5.5.1", "Lists are not expanded here");
	if (ch->hooks->expn != NULL)
		ch->hooks->expn(ch->ctx, arg, &r);
	reply_answer(ch, &r);
}

/* RFC 3207 4: what was pipelined behind it must not be used. */
void
do_starttls(struct channel *ch, struct span arg)
{
	struct reply r;

	(void)arg;
	if (ch->ssl) {
		channel_reply(ch, 503, "5.5.1", "TLS is active already");
		return;
	}
	if (!ch->set->tls) {
		channel_reply(ch, 454, "4.7.0", "TLS is not available");
		return;
	}
	reply_set(&r, 220, "2.0.0", "Ready to start TLS");
	if (ch->hooks->starttls != NULL)
		ch->hooks->starttls(ch->ctx, &r);
	reply_answer(ch, &r);
	if (r.code < 400)
		ch->want = WANT_TLS;
}

/* RFC 3207 4.2: forget what was said in the clear. */
void
channel_tls(struct channel *ch, const struct channel_tls *tls)
{
	assert(ch->want == WANT_TLS);
	transaction_forget(ch);
	ch->want = WANT_INPUT;
	ch->smtp_state = PHASE_CONNECT;
	ch->ssl = true;
	ch->tls = *tls;
	ch->seen_greeting[0] = '\0';
	ch->extended_smtp = false;
	ch->authenticated = false;
	ch->auth_user[0] = ch->auth_method[0] = '\0';
	ch->linelen = 0;
	if (ch->set->tls_on_connect)
		greet_client(ch);
}

void
channel_set_user(struct channel *ch, const char *user)
{
	snprintf(ch->auth_user, sizeof ch->auth_user, "%s", user);
}

void
begin_session(struct channel *ch)
{
	ch->smtp_state = PHASE_CONNECT;
	if (ch->set->tls_on_connect && !ch->ssl)
		ch->want = WANT_TLS;
	else
		greet_client(ch);
}
