/*
 * session.c - the verbs of a session: the greeting, HELO and EHLO, STARTTLS,
 * and those that only ask something.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "channel/private.h"

#define EXTENSION_LINE 1024	/* octets of a line of EHLO, with NUL */
#define LIMIT_MAX 999999	/* the largest number in LIMITS; RFC 9422 4 */

void
greet_client(struct channel *ch)
{
	struct reply r;
	char line[CHANNEL_NAME_MAX + 16];

	/* Monitors want a word after ESMTP. */
	text_join(line, sizeof line, ch->set->fqdn,
	    ch->set->lmtp ? " LMTP smtpd" : " ESMTP smtpd", NULL);
	reply_set(&r, 220, "", line);
	if (ch->hooks->connect != NULL)
		ch->hooks->connect(ch->ctx, &r);
	ch->smtp_state = r.code < 400 ? PHASE_CONNECT : PHASE_REFUSED;
	reply_answer(ch, &r);
	if (r.code == 521)	/* RFC 7504 3 */
		ch->want = WANT_CLOSE;
}

static void
write_size(const struct channel *ch, char *to, size_t size)
{
	char n[TEXT_NUMBER];

	text_join(to, size, " ", text_number(n, size_limit(ch), 1),
	    NULL);
}

/* The smaller of our limit and the next hop's; 0: there is none that LIMITS
   can tell, for one can have six digits (RFC 9422 4). */
static uint64_t
told_limit(uint64_t ours, uint64_t theirs)
{
	uint64_t n = smaller_limit(ours, theirs);

	return n <= LIMIT_MAX ? n : 0;
}

static uint64_t
message_limit(const struct channel *ch)
{
	return told_limit(ch->set->max_messages,
	    ch->next == NULL ? 0 : ch->next->messages);
}

static uint64_t
recipient_limit(const struct channel *ch)
{
	return told_limit(ch->set->max_recipients,
	    ch->next == NULL ? 0 : ch->next->recipients);
}

static bool
offers_limits(const struct channel *ch)
{
	return message_limit(ch) != 0 || recipient_limit(ch) != 0;
}

static void
write_limits(const struct channel *ch, char *to, size_t size)
{
	char n[TEXT_NUMBER], mails[40] = "", rcpts[40] = "";

	if (message_limit(ch) != 0)
		text_join(mails, sizeof mails, " MAILMAX=",
		    text_number(n, message_limit(ch), 1), NULL);
	if (recipient_limit(ch) != 0)
		text_join(rcpts, sizeof rcpts, " RCPTMAX=",
		    text_number(n, recipient_limit(ch), 1), NULL);
	text_join(to, size, mails, rcpts, NULL);
}

static bool
offers_starttls(const struct channel *ch)
{
	return offers_tls(ch) && !ch->ssl;
}

/* Is AUTH possible at this moment? */
static bool
offers_auth_now(const struct channel *ch)
{
	return offers_auth(ch) && ch->auth[strspn(ch->auth, "? ")] != '\0' &&
	    (ch->ssl || !ch->set->auth_require_tls);
}

static void
write_auth(const struct channel *ch, char *to, size_t size)
{
	text_join(to, size, " ", ch->auth, NULL);
	to[strcspn(to, "?")] = '\0';
	if (*to != '\0' && to[strlen(to) - 1] == ' ')
		to[strlen(to) - 1] = '\0';
}

static bool
offers_xclient(const struct channel *ch)
{
	return ch->xclient;
}

static void
write_xclient(const struct channel *ch, char *to, size_t size)
{
	(void)ch;
	text_copy(to, size,
	    " NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT");
}

static bool
offers_xforward(const struct channel *ch)
{
	return ch->xforward;
}

static void
write_xforward(const struct channel *ch, char *to, size_t size)
{
	(void)ch;
	text_copy(to, size, " NAME ADDR PORT PROTO HELO IDENT SOURCE");
}

/* The lines of EHLO's reply, between our name and HELP. */
static const struct keyword {
	const char *name;
	bool (*offered)(const struct channel *ch);	/* NULL: always */
	/* Writes the argument, after a blank.  NULL: there is none. */
	void (*argument)(const struct channel *ch, char *to, size_t size);
} extensions[] = {
	[EXT_PIPELINING] = { "PIPELINING", NULL, NULL },
	[EXT_SIZE] = { "SIZE", NULL, write_size },
	[EXT_8BITMIME] = { "8BITMIME", offers_8bit, NULL },
	[EXT_SMTPUTF8] = { "SMTPUTF8", offers_smtputf8, NULL },
	[EXT_CHUNKING] = { "CHUNKING", NULL, NULL },
	[EXT_BINARYMIME] = { "BINARYMIME", offers_8bit, NULL },
	[EXT_DSN] = { "DSN", offers_dsn, NULL },
	[EXT_ENHANCEDSTATUSCODES] = { "ENHANCEDSTATUSCODES", NULL, NULL },
	[EXT_LIMITS] = { "LIMITS", offers_limits, write_limits },
	[EXT_STARTTLS] = { "STARTTLS", offers_starttls, NULL },
	[EXT_AUTH] = { "AUTH", offers_auth_now, write_auth },
	[EXT_XCLIENT] = { "XCLIENT", offers_xclient, write_xclient },
	[EXT_XFORWARD] = { "XFORWARD", offers_xforward, write_xforward },
	[EXT_HELP] = { "HELP", NULL, NULL },
};
_Static_assert(COUNT(extensions) == EXTENSIONS, "each keyword has a row");

int
channel_extension(struct span keyword)
{
	for (size_t i = 0; i < COUNT(extensions); i++)
		if (span_same(keyword, extensions[i].name))
			return (int)i;
	return -1;
}

/* Is that the keyword of one of these lines? */
static bool
keyword_given(const char *const *lines, const char *name)
{
	struct span rest;

	for (; lines != NULL && *lines != NULL; lines++) {
		rest = span_of(*lines);
		if (span_same(span_word(&rest), name))
			return true;
	}
	return false;
}

/* Holds a line back, and writes the one that was: only the last one has a blank
   after its code. */
static void
put_extension(struct channel *ch, char held[EXTENSION_LINE], const char *line)
{
	if (held[0] != '\0')
		reply_line(ch, 250, true, "", span_of(held));
	text_copy(held, EXTENSION_LINE, line);
}

static void
put_extensions(struct channel *ch, char held[EXTENSION_LINE],
    const char *const *lines)
{
	for (; lines != NULL && *lines != NULL; lines++)
		put_extension(ch, held, *lines);
}

static void
list_extensions(struct channel *ch, char held[EXTENSION_LINE])
{
	for (size_t i = 0; i < COUNT(extensions); i++) {
		const struct keyword *e = &extensions[i];
		size_t n = strlen(e->name);

		if (i == EXT_HELP) {	/* it has always been the last one */
			for (size_t k = 0; k < NEXT_EXTENSIONS; k++)
				if (offers_next(ch, (enum next_extension)k))
					put_extension(ch, held,
					    ch->next->lines[k]);
			put_extensions(ch, held, ch->set->keywords);
			put_extensions(ch, held, ch->keywords);
		}
		if (is_hidden(ch, (enum extension)i) ||
		    keyword_given(ch->keywords, e->name) ||
		    (e->offered != NULL && !e->offered(ch)))
			continue;
		put_extension(ch, held, e->name);
		if (e->argument != NULL)
			e->argument(ch, held + n, EXTENSION_LINE - n);
	}
	reply_line(ch, 250, false, "", span_of(held));
}

/* HELO, EHLO, LHLO: RFC 5321 4.1.1.1, RFC 2033 4.1. */
static void
answer_hello(struct channel *ch, struct span name, bool extended)
{
	struct reply r;
	struct span line;
	const char *rest;
	char safe[sizeof ch->seen_greeting], held[EXTENSION_LINE] = "";

	if (!span_copy_name(safe, sizeof safe, name)) {
		channel_reply(ch, 501, "5.5.4", "That is not a host name");
		return;
	}
	reply_set(&r, 250, "", ch->set->fqdn);
	if (ch->hooks->helo != NULL)
		ch->hooks->helo(ch->ctx, span_of(safe), extended, &r);
	if (r.code >= 400) {
		reply_answer(ch, &r);
		return;
	}
	transaction_forget(ch);
	span_copy(ch->seen_greeting, sizeof ch->seen_greeting, span_of(safe));
	ch->extended_smtp = extended;
	ch->smtp_state = PHASE_READY;
	if (!extended) {
		reply_answer(ch, &r);
		return;
	}
	for (rest = r.text; *rest != '\0';) {
		line = reply_next_line(250, &rest);
		if (*rest != '\0' || line.len >= sizeof held)
			reply_line(ch, 250, true, "", line);
		else
			span_copy(held, sizeof held, line);
	}
	list_extensions(ch, held);
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

/* Refuses an argument that no other function checks, and that neither hook nor
   log may get. */
static void
check_text(struct span arg, struct reply *r)
{
	if (!span_printable(arg))
		reply_set(r, 501, "5.5.4", "The argument is not printable "
		    "UTF-8");
}

void
do_noop(struct channel *ch, struct span arg)
{
	struct reply r;

	reply_set(&r, 250, "2.0.0", "OK");
	check_text(arg, &r);
	if (r.code < 400 && ch->hooks->noop != NULL)
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
	check_text(arg, &r);
	if (r.code == 502 && ch->hooks->expn != NULL)
		ch->hooks->expn(ch->ctx, arg, &r);
	reply_answer(ch, &r);
}

/* RFC 3207 4: nothing that was pipelined after it may be used. */
void
do_starttls(struct channel *ch, struct span arg)
{
	struct reply r;

	(void)arg;
	if (ch->ssl) {
		channel_reply(ch, 503, "5.5.1", "TLS is active already");
		return;
	}
	if (!offers_tls(ch)) {
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

/* RFC 3207 4.2: forget everything that was said in the clear. */
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
	text_copy(ch->auth_user, sizeof ch->auth_user, user);
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
