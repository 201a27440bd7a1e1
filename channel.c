/*
 * channel.c - the server's side of one SMTP or LMTP conversation: the table of
 * verbs, and the dispatcher.
 *
 * The channel does no I/O and knows no clock, environment or log.
 *
 * - channel_feed() gives the octets to the function for the present phase: for
 *   a PROXY header, BDAT octets, text after DATA, or a command line.
 * - A line is gathered whole and looked up in the table of verbs.  The table
 *   knows in which phases each verb is legal, and answers in the others.
 * - A handler (do_x, in src/channel) parses, asks its hook, and commits if the
 *   reply is below 400.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "channel.h"
#include "channel/private.h"

#define OUT_HIGH 16384	/* octets of replies that stop the reading of more */
#define COMMAND_MAX 512	/* octets of a command with CRLF; RFC 5321 4.5.3.1.4 */

#define IN(phase) (1U << PHASE_##phase)
#define ANY (IN(CONNECT) | IN(READY) | IN(MAIL) | IN(RCPT) | IN(BDAT))

/* Overwrites a secret; the compiler must not leave it out. */
static void
wipe_line(char *p, size_t len)
{
	volatile char *v = p;

	while (len-- > 0)
		*v++ = '\0';
}

static void do_help(struct channel *ch, struct span arg);

static const struct verb verbs[] = {
	{ "HELO", ANY, VERB_ARG | VERB_ANON | VERB_SMTP, do_helo,
	    "HELO hostname", 0, NULL },
	{ "EHLO", ANY, VERB_ARG | VERB_CLEAR | VERB_ANON | VERB_SMTP, do_ehlo,
	    "EHLO hostname", 0, NULL },
	{ "LHLO", ANY, VERB_ARG | VERB_CLEAR | VERB_ANON | VERB_LMTP, do_ehlo,
	    "LHLO hostname", 0, NULL },
	/* RFC 1870 3: 26, 6152 2: 17, 6531 3.1: 10, 3461 5: 500, 4954 3: 500 */
	{ "MAIL", IN(READY), VERB_ARG | VERB_NEXT, do_mail,
	    "MAIL FROM:<address> [SP parameters]", 26 + 17 + 10 + 500 + 500,
	    NULL },
	{ "RCPT", IN(MAIL) | IN(RCPT), VERB_ARG | VERB_UNLIMITED | VERB_NEXT,
	    do_rcpt,
	    "RCPT TO:<address> [SP parameters]", 500, NULL },
	{ "DATA", IN(RCPT), VERB_NOARG, do_data, "DATA", 0, NULL },
	{ "BDAT", ANY, VERB_RAW | VERB_UNLIMITED, do_bdat,
	    "BDAT octets [SP LAST]", 0, NULL },
	{ "RSET", ANY, VERB_NOARG | VERB_ANON, do_rset, "RSET", 0, NULL },
	{ "NOOP", ANY, VERB_CLEAR | VERB_ANON, do_noop, "NOOP [SP string]", 0,
	    NULL },
	{ "QUIT", ANY | IN(REFUSED), VERB_CLEAR | VERB_ANON, do_quit, "QUIT",
	    0, NULL },
	{ "HELP", ANY, VERB_ANON, do_help, "HELP [SP verb]", 0, NULL },
	{ "VRFY", ANY, VERB_ARG, do_vrfy, "VRFY <address>", 10, NULL },
	{ "EXPN", ANY, VERB_ARG, do_expn, NULL, 10, NULL },
	{ "STARTTLS", IN(CONNECT) | IN(READY), VERB_NOARG | VERB_CLEAR |
	    VERB_ANON, do_starttls, "STARTTLS", 0, offers_tls },
	{ "AUTH", IN(READY), VERB_ARG | VERB_ANON, do_auth,
	    "AUTH mechanism [SP initial-response]", CHANNEL_LINE_MAX,
	    offers_auth },
	{ "XCLIENT", IN(CONNECT) | IN(READY), VERB_ARG | VERB_CLEAR | VERB_ANON,
	    do_xclient, NULL, 512, NULL },
	{ "XFORWARD", IN(CONNECT) | IN(READY), VERB_ARG | VERB_CLEAR |
	    VERB_ANON | VERB_UNLIMITED, do_xforward, NULL, 512, NULL },
	{ NULL, 0, 0, NULL, NULL, 0, NULL },
};

/* The text of 503 in each phase. */
static const char *const expected[] = {
	[PHASE_PROXY] = "",
	[PHASE_REFUSED] = "only QUIT is accepted",
	[PHASE_CONNECT] = "HELO or EHLO comes first",	/* in LMTP, LHLO */
	[PHASE_READY] = "there is no transaction, MAIL begins one",
	[PHASE_MAIL] = "there is a sender already, RCPT comes next",
	[PHASE_RCPT] = "there are sender and recipients already",
	[PHASE_DATA] = "",
	[PHASE_BDAT] = "BDAT is not finished",
	[PHASE_AUTH] = "",
	[PHASE_CLOSED] = "",
};

static bool
verb_exists(const struct channel *ch, const struct verb *v)
{
	return (v->flags & (ch->set->lmtp ? VERB_SMTP : VERB_LMTP)) == 0;
}

static const struct verb *
find_in_table(const struct channel *ch, const struct verb *table,
    struct span name)
{
	if (table == NULL)
		return NULL;
	for (; table->name != NULL; table++)
		if (span_same(name, table->name) && verb_exists(ch, table))
			return table;
	return NULL;
}

bool
channel_verb(const char *name)
{
	const struct verb *v = verbs;

	while (v->name != NULL && !span_same(span_of(name), v->name))
		v++;
	return v->name != NULL;
}

unsigned
channel_version(void)
{
	return CHANNEL_VERSION;
}

size_t
channel_size(void)
{
	return sizeof(struct channel);
}

/* The embedder's verbs come first. */
static const struct verb *
find_verb(const struct channel *ch, struct span name)
{
	const struct verb *v = find_in_table(ch, ch->set->verbs, name);

	return v != NULL ? v : find_in_table(ch, verbs, name);
}

/* HELP does not list what this session cannot have. */
static bool
verb_has_help(const struct channel *ch, const struct verb *v)
{
	return v->help != NULL && verb_exists(ch, v) &&
	    (v->offered == NULL || v->offered(ch));
}

static void
list_verbs(const struct channel *ch, const struct verb *table, char *text,
    size_t size)
{
	size_t n = strlen(text);

	for (; table != NULL && table->name != NULL; table++)
		if (verb_has_help(ch, table) && n < size)
			n += (size_t)snprintf(text + n, size - n, " %s",
			    table->name);
}

/* RFC 5321 4.1.1.8. */
static void
do_help(struct channel *ch, struct span arg)
{
	const struct verb *v = find_verb(ch, arg);
	char text[512] = "Commands:";

	if (arg.len > 0 && (v == NULL || !verb_has_help(ch, v))) {
		channel_reply(ch, 504, "5.5.4", "There is no help on that");
		return;
	}
	if (v != NULL) {
		snprintf(text, sizeof text, "Syntax: %s", v->help);
	} else {
		list_verbs(ch, ch->set->verbs, text, sizeof text);
		list_verbs(ch, verbs, text, sizeof text);
	}
	channel_reply(ch, 214, "2.0.0", text);
}

/* The counter of this verb: the embedder's verbs come after our own. */
static unsigned *
calls_of(struct channel *ch, const struct verb *v)
{
	size_t ours = sizeof verbs / sizeof *verbs, i;

	if (v >= verbs && v < verbs + ours)
		i = (size_t)(v - verbs);
	else
		i = ours + (size_t)(v - ch->set->verbs);
	return &ch->calls[i < CHANNEL_VERBS_MAX ? i : CHANNEL_VERBS_MAX - 1];
}

/* Counts one more use of v.  Returns false if that is one too many. */
static bool
within_limit(struct channel *ch, const struct verb *v)
{
	const struct command_limit *l = ch->set->command_limits;
	const struct command_limit *found = NULL;
	bool any = (v->flags & VERB_UNLIMITED) == 0;

	for (; l != NULL && l->verb != NULL; l++)
		if (span_same(span_of(v->name), l->verb))
			found = l;
		else if (any && found == NULL && strcmp(l->verb, "*") == 0)
			found = l;
	return found == NULL || ++*calls_of(ch, v) <= found->max;
}

/* Refuses mail in clear text: for now only if we have no TLS to offer, so that
   the client keeps its mail. */
static void
deny_clear(const struct channel_settings *set, struct reply *r)
{
	if (set->tls)
		reply_deny(r, 530, "5.7.0", "Send STARTTLS first");
	else
		reply_deny(r, 454, "4.7.0", "TLS is not available");
}

/* Refuses mail without AUTH, likewise. */
static void
deny_anonymous(const struct channel *ch, struct reply *r)
{
	if (ch->auth == NULL || !auth_is_short(ch))
		reply_deny(r, 530, "5.7.0", "Authentication required");
	else
		reply_deny(r, 454, "4.7.0", "Authentication is not available");
}

void
reply_deny_sequence(const struct channel *ch, struct reply *r)
{
	char text[128];

	snprintf(text, sizeof text, "Bad sequence of commands: %s",
	    ch->smtp_state == PHASE_CONNECT && ch->set->lmtp
	    ? "LHLO comes first" : expected[ch->smtp_state]);
	reply_deny(r, 503, "5.5.1", text);
}

/* Makes r a refusal if v cannot be used now, whatever its handler would say. */
static void
check_verb(struct channel *ch, const struct verb *v, struct span line,
    struct span arg, struct reply *r)
{
	char text[128];
	size_t more = v->more +
	    (ch->next != NULL && (v->flags & VERB_NEXT) != 0 ? NEXT_MORE : 0);
	size_t max = COMMAND_MAX - 2 + (ch->extended_smtp ? more : 0);
	bool missing = arg.len == 0 && (v->flags & VERB_ARG) != 0;
	bool extra = arg.len > 0 && (v->flags & VERB_NOARG) != 0;

	if (!span_clean(line))
		reply_deny(r, 500, "5.5.2", "Control characters in a command");
	if (ch->overlong || line.len > max)
		reply_deny(r, 500, "5.5.2", "Line too long");
	if ((v->when & 1U << ch->smtp_state) == 0)
		reply_deny_sequence(ch, r);
	if (ch->set->require_starttls && !ch->ssl &&
	    (v->flags & VERB_CLEAR) == 0)
		deny_clear(ch->set, r);
	if (ch->set->auth_required && !ch->authenticated &&
	    (v->flags & VERB_ANON) == 0)
		deny_anonymous(ch, r);
	if (missing || extra) {
		snprintf(text, sizeof text, "Syntax: %s",
		    v->help == NULL ? v->name : v->help);
		reply_deny(r, 501, "5.5.4", text);
	}
}

/* Does this line come from a client that speaks HTTP?  A web page can make a
   browser connect to us and post the commands of a session. */
static bool
line_is_http(const struct channel *ch, struct span line)
{
	static const char methods[][8] = {
		"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "PATCH",
		"DELETE"
	};
	struct span rest = span_trim(line), first = span_word(&rest);
	const char *tab = first.len == 0 ? NULL
	    : memchr(first.p, '\t', first.len);

	if (tab != NULL)
		first.len = (size_t)(tab - first.p);
	if (find_in_table(ch, ch->set->verbs, first) != NULL)
		return false;
	for (size_t i = 0; i < COUNT(methods); i++)
		if (span_same(first, methods[i]))
			return true;
	return span_starts(first, "Host:");
}

/* Can this be the name of a mechanism (RFC 4422 3.1), and not the credential of
   a client that left it out? */
static bool
is_mechanism(struct span s)
{
	bool upper = false, lower = false;
	size_t i;

	for (i = 0; i < s.len; i++) {
		upper = upper || (s.p[i] >= 'A' && s.p[i] <= 'Z');
		lower = lower || (s.p[i] >= 'a' && s.p[i] <= 'z');
		if (memchr("+/=", s.p[i], 3) != NULL)
			return false;
	}
	return s.len <= 20 && !(upper && lower);
}

/*
 * May this line have a credential?
 *  - It begins like AUTH, or is a response.
 *  - It is no command and comes after such a line, at once or later: clients
 *    send a response although their AUTH was refused.
 *  - POP3 and IMAP send a password so; or AUTH is misspelt.
 */
static bool
line_is_secret(const struct channel *ch, struct span line)
{
	struct span rest = span_trim(line), first, second;

	if (ch->smtp_state == PHASE_AUTH || span_starts(rest, "AUTH"))
		return true;
	first = span_word(&rest);
	second = span_word(&rest);
	if (find_verb(ch, first) != NULL)
		return false;
	return ch->guarded || span_same(first, "PASS") ||
	    span_same(first, "APOP") || span_same(first, "LOGIN") ||
	    span_same(first, "PLAIN") || span_same(second, "LOGIN") ||
	    span_same(second, "AUTHENTICATE") || span_same(second, "PLAIN") ||
	    span_same(second, "XOAUTH2") || span_same(second, "OAUTHBEARER");
}

/* The text for an unknown verb.  A client at the wrong port learns which port
   it is. */
static const char *
unknown_words(const struct channel *ch, struct span name)
{
	if (ch->set->lmtp && (span_same(name, "EHLO") ||
	    span_same(name, "HELO")))
		return "This is LMTP: say LHLO";
	if (!ch->set->lmtp && span_same(name, "LHLO"))
		return "This is SMTP: say EHLO";
	return "Command not recognized";
}

static void
run_command(struct channel *ch, struct span line)
{
	struct span arg = line, name = span_word(&arg);
	const struct verb *v = find_verb(ch, name);
	struct reply r = { .code = 250 };
	char text[64];

	if (v == NULL && ch->smtp_state == PHASE_REFUSED)
		reply_deny(&r, 503, "5.5.1", expected[PHASE_REFUSED]);
	else if (v == NULL && ch->overlong)
		reply_deny(&r, 500, "5.5.2", "Line too long");
	else if (v == NULL)
		reply_deny(&r, 500, "5.5.2", unknown_words(ch, name));
	else if (!within_limit(ch, v)) {
		snprintf(text, sizeof text, "%s sent too many times", v->name);
		reply_deny(&r, 421, "4.7.0", text);
	} else if ((v->flags & VERB_RAW) == 0)
		check_verb(ch, v, line, arg, &r);
	if (v != NULL && r.code >= 400 && transaction_waits(ch)) {
		/* What came before is answered first. */
		transaction_settle(ch);
		if (ch->want == WANT_CLOSE)
			return;
		if (r.code != 421) {
			r.code = 250;
			check_verb(ch, v, line, arg, &r);
		}
	}
	if (v == NULL && !ch->overlong && span_clean(line) &&
	    ch->smtp_state != PHASE_REFUSED && ch->hooks->unknown != NULL &&
	    !line_is_secret(ch, line))
		ch->hooks->unknown(ch->ctx, line, &r);
	if (v != NULL && r.code < 400)
		v->run(ch, arg);
	else
		reply_answer(ch, &r);
}

/* Tells the log the client's line, without credentials. */
static void
log_line(const struct channel *ch, struct span line)
{
	static const char stars[] = "********";
	struct span rest = span_trim(line), verb = span_word(&rest);
	struct span mechanism = span_word(&rest);
	bool command = ch->smtp_state != PHASE_AUTH &&
	    span_starts(verb, "AUTH");
	bool exact = span_same(verb, "AUTH");
	char text[64];

	if (ch->hooks->dialogue == NULL)
		return;
	exact = exact && is_mechanism(mechanism);
	if (command && (rest.len > 0 || !exact)) {
		snprintf(text, sizeof text, "AUTH %.*s %s",
		    exact ? (int)mechanism.len : 0, mechanism.p, stars);
		line = span_of(text);
	} else if (!command && line_is_secret(ch, line)) {
		line = span_of(stars);
	}
	ch->hooks->dialogue(ch->ctx, false, line);
}

/* May this line be answered together with the MAIL and the RCPTs before it? */
static bool
joins_group(const struct channel *ch, struct span line)
{
	struct span rest = line;
	const struct verb *v = find_verb(ch, span_word(&rest));

	return v != NULL && v->run == do_rcpt;
}

/* Runs one line of the client.  Credentials do not stay in memory. */
static void
take_line(struct channel *ch, struct span line)
{
	bool secret;

	if (transaction_waits(ch) && !joins_group(ch, line))
		transaction_settle(ch);
	if (ch->want == WANT_CLOSE) {	/* by what waited */
		wipe_line(ch->line, line.len);
		return;
	}
	secret = line_is_secret(ch, line);
	log_line(ch, line);
	if (ch->smtp_state == PHASE_AUTH)
		auth_response(ch, line, line_is_http(ch, line));
	else if (line_is_http(ch, line))
		channel_reply(ch, 421, "4.7.0", "HTTP is not served here");
	else
		run_command(ch, line);
	if (secret)
		wipe_line(ch->line, line.len);
	ch->guarded = ch->guarded || secret;
	ch->overlong = false;
}

/* Gathers a line, to its LF; a CR before it belongs to the line's end.
   Returns how many octets were used. */
static size_t
gather_line(struct channel *ch, const char *p, size_t len)
{
	const char *lf = memchr(p, '\n', len);
	size_t used = lf == NULL ? len : (size_t)(lf - p) + 1;
	size_t n = lf == NULL ? len : used - 1;

	if (n > CHANNEL_LINE_MAX - ch->linelen) {
		n = CHANNEL_LINE_MAX - ch->linelen;
		ch->overlong = true;
	}
	memcpy(ch->line + ch->linelen, p, n);
	ch->linelen += n;
	if (lf == NULL)
		return used;
	n = ch->linelen;
	if (n > 0 && ch->line[n - 1] == '\r' && !ch->overlong)
		n--;
	ch->linelen = 0;
	take_line(ch, (struct span){ ch->line, n });
	return used;
}

size_t
channel_feed(struct channel *ch, const char *bytes, size_t len)
{
	size_t used = 0;

	ch->paused = false;
	while (used < len && ch->want == WANT_INPUT && !ch->paused &&
	    ch->outlen - ch->outsent < OUT_HIGH) {
		const char *p = bytes + used;
		size_t n = len - used;

		if (ch->smtp_state == PHASE_PROXY)
			used += proxy_take(ch, p, n);
		else if (ch->chunk > 0)
			used += message_chunk(ch, p, n);
		else if (ch->smtp_state == PHASE_DATA)
			used += message_text(ch, p, n);
		else
			used += gather_line(ch, p, n);
	}
	transaction_settle(ch);
	return used;
}

void
channel_init(struct channel *ch, const struct channel_settings *set,
    const struct channel_hooks *hooks, void *ctx)
{
	static const struct span unknown = { "unknown", 7 };

	memset(ch, 0, offsetof(struct channel, first));
	ch->out = ch->first;
	ch->outsize = sizeof ch->first;
	ch->set = set;
	ch->auth = set->auth;
	ch->xclient = set->xclient;
	ch->xforward = set->xforward;
	ch->hooks = hooks;
	ch->ctx = ctx;
	ch->smtp_state = PHASE_PROXY;
	ch->want = WANT_INPUT;
	span_copy(ch->peer.address, sizeof ch->peer.address, unknown);
	span_copy(ch->peer.name, sizeof ch->peer.name, unknown);
}

void
channel_offer_auth(struct channel *ch, const char *mechanisms)
{
	ch->auth = mechanisms;
}

void
channel_offer_xclient(struct channel *ch, bool offered)
{
	ch->xclient = offered;
}

void
channel_offer_xforward(struct channel *ch, bool offered)
{
	ch->xforward = offered;
}

void
channel_offer(struct channel *ch, unsigned hidden, const char *const *keywords)
{
	ch->hidden = hidden;
	ch->keywords = keywords;
}

void
channel_pause(struct channel *ch)
{
	ch->paused = true;
}

void
channel_greet(struct channel *ch)
{
	if (!ch->set->proxy_protocol)
		begin_session(ch);
}

void
channel_free(struct channel *ch)
{
	if (ch->set != NULL)
		transaction_forget(ch);
	if (ch->out != ch->first)
		free(ch->out);
	ch->out = ch->first;
	ch->outsize = sizeof ch->first;
	ch->outlen = ch->outsent = 0;
	ch->smtp_state = PHASE_CLOSED;
	ch->want = WANT_CLOSE;
}
