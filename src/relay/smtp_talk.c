/*
 * smtp_talk.c - the dialogue with a next hop: commands in groups, replies.
 *
 *  - Commands gather in out; smtp_send_group() sends them in one write, and
 *    smtp_read_reply() reads the reply to each (RFC 2920).
 *  - A group is small enough for a socket's buffers, so that neither side can
 *    wait for the other to read.  Without PIPELINING it is one command.
 *  - Every failure becomes a reply: the next hop's own, or 451.  Where the
 *    connection can no longer be trusted, it is closed.
 *  - Input that arrives before a group is sent would be taken for the answer
 *    to it, so it is looked for first.
 */
#include <arpa/inet.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "base/clock.h"
#include "base/text.h"
#include "relay/smtp_private.h"

#define REPLY_LINE_MAX 1024	/* octets kept of a reply's line */
#define REPLY_LINES_MAX 1000	/* lines of one reply */

/* Keywords of EHLO, and whether our client may see the line; AUTH is in
   smtp_auth.c. */
static const struct {
	char keyword[14];
	unsigned can;
	bool shown;
} offers[] = {
	{ "PIPELINING", CAN_PIPELINING, false },
	{ "SIZE", CAN_SIZE, true },
	{ "8BITMIME", CAN_8BITMIME, true },
	{ "SMTPUTF8", CAN_SMTPUTF8, true },
	{ "DSN", CAN_DSN, true },
	{ "CHUNKING", CAN_CHUNKING, false },
	{ "BINARYMIME", CAN_BINARYMIME, true },
	{ "STARTTLS", CAN_STARTTLS, false },
	{ "DELIVERBY", CAN_DELIVERBY, true },
	{ "FUTURERELEASE", CAN_FUTURERELEASE, true },
	{ "MT-PRIORITY", CAN_MT_PRIORITY, true },
	{ "REQUIRETLS", CAN_REQUIRETLS, true },
	{ "RRVS", CAN_RRVS, true },
	{ "LIMITS", CAN_LIMIT, true },
};

/*
 * The steps of a dialogue: the code that each wants, 200 for any of the two
 * hundreds, for how long it is waited for (RFC 5321 4.5.3.2), and whether a
 * refusal is logged with the step's name, as nobody would expect it there.
 */
static const struct {
	char name[23];
	short want, seconds;
	bool told;
} step_facts[] = {
	[STEP_GREETING] = { "the greeting", 220, 300, true },
	[STEP_HELLO] = { "EHLO", 250, 300, false },
	[STEP_HELO] = { "HELO", 250, 300, true },
	[STEP_STARTTLS] = { "STARTTLS", 220, 120, true },
	[STEP_AUTH] = { "AUTH", 235, 120, false },
	[STEP_CHALLENGE] = { "AUTH", 334, 120, false },
	[STEP_SASL] = { "AUTH", 235, 120, false },
	[STEP_XFORWARD] = { "XFORWARD", 250, 300, false },
	[STEP_XCLIENT] = { "XCLIENT", 220, 300, true },
	[STEP_RSET] = { "RSET", 250, 300, false },
	[STEP_MAIL] = { "MAIL", 200, 300, true },
	[STEP_RCPT] = { "RCPT", 200, 300, false },
	[STEP_VRFY] = { "VRFY", 200, 300, false },
	[STEP_DATA] = { "DATA", 354, 120, true },
	[STEP_END] = { "the end of the message", 200, 600, false },
};

const char *
smtp_name(const struct nexthop *h, char name[SMTP_NAME_MAX])
{
	const struct address *at;
	char text[INET6_ADDRSTRLEN] = "";
	bool named;

	if (h->tried > 0 && h->tried <= h->found.n && !h->place.local) {
		at = &h->found.at[h->tried - 1];
		inet_ntop(at->in.sin_family, at->in.sin_family == AF_INET6
		    ? (const void *)&at->in6.sin6_addr
		    : (const void *)&at->in.sin_addr, text, sizeof text);
	}
	named = text[0] != '\0' && strcmp(text, h->place.host) != 0;
	return text_join(name, SMTP_NAME_MAX, h->place.host, named ? "[" : "",
	    named ? text : "", named ? "]" : "", h->place.port[0] != '\0' ?
	    ":" : "", h->place.port, NULL);
}

void
smtp_log(const struct nexthop *h, const char *what, const char *why)
{
	char name[SMTP_NAME_MAX];

	logger_printf(&h->set->log, LOG_WARNING, "nexthop", h->env,
	    "%s: %s: %.*s", smtp_name(h, name), what,
	    (int)strcspn(why, "\n"), why);
}

void
smtp_hang_up(struct nexthop *h)
{
	stream_close(&h->s);
	h->held = 0;
	h->dirty = false;
	if (h->live != NULL)
		h->live->exchange = false;
}

void
smtp_no_connection(struct reply *r)
{
	reply_set(r, 451, "4.4.2", "Connection to next hop lost");
}

/* The connection failed, with errno or 0 for its end.  Returns false. */
static bool
smtp_lost(struct nexthop *h, enum step step, int err, struct reply *r)
{
	char why[128];

	smtp_hang_up(h);
	h->doubt = true;
	h->stale = h->kept && err != ETIMEDOUT;
	h->away = true;
	h->closed = err != ETIMEDOUT;
	h->timed_out = err == ETIMEDOUT;
	/* It may have dropped what came after the first command. */
	if (h->timed_out && h->grouped)
		h->avoid |= CAN_PIPELINING;
	h->quoted = false;
	snprintf(why, sizeof why, "%s%s", stream_reason(err),
	    step == STEP_GREETING && !h->place.local &&
	    h->protocol != NEXTHOP_SMTPS ? " (does it want TLS from the "
	    "start, smtps:?)" : "");
	if (!h->stale)
		smtp_log(h, step_facts[step].name, why);
	if (err == ETIMEDOUT)
		reply_set(r, 451, "4.4.2", "Next hop timed out");
	else
		smtp_no_connection(r);
	return false;
}

bool
smtp_garbled(struct nexthop *h, enum step step, const char *line,
    struct reply *r)
{
	smtp_hang_up(h);
	h->doubt = h->away = true;
	h->quoted = false;
	smtp_log(h, step_facts[step].name, smtp_is_secret(step) ||
	    smtp_may_repeat(h, step, line) ? "not a reply" : line);
	reply_set(r, 451, "4.5.0", "Next hop broke the protocol");
	return false;
}

/* Sets *limit to the one of that name in the arguments of LIMITS (RFC 9422 4),
   if there is one that makes sense. */
static void
note_limit(const char *arguments, const char *name, uint64_t *limit)
{
	const char *p = text_find_word(arguments, name);
	size_t n = strlen(name);
	uint64_t most;

	if (p != NULL && p[n] == '=' && text_parse_number((struct span){
	    p + n + 1, strcspn(p + n + 1, " ") }, &most))
		*limit = most;
}

/* Keeps a line of EHLO for our client.  What does not fit is left out. */
static void
keep_line(struct nexthop *h, const char *line)
{
	char *to = h->live->lines;
	size_t used = strlen(to);

	if (used + strlen(line) + 2 < LIVE_LINES)
		text_join(to + used, LIVE_LINES - used, line, "\n", NULL);
}

/* Learns from a line of EHLO's reply. */
static void
note_extension(struct nexthop *h, const char *line)
{
	const char *arguments;
	size_t i;

	if (h->live != NULL)
		smtp_note_mechanisms(h, line);
	for (i = 0; i < COUNT(offers); i++) {
		if (text_find_word(line, offers[i].keyword) != line)
			continue;
		if (h->live != NULL && offers[i].shown &&
		    (offers[i].can != CAN_REQUIRETLS || smtp_is_verified(h)))
			keep_line(h, line);
		arguments = line + strlen(offers[i].keyword);
		arguments += strspn(arguments, " =");
		h->can |= offers[i].can;
		if (offers[i].can == CAN_SIZE &&
		    !text_parse_number(span_of(arguments), &h->size_max))
			h->size_max = 0;
		if (offers[i].can == CAN_LIMIT) {
			note_limit(arguments, "RCPTMAX", &h->rcpt_max);
			note_limit(arguments, "MAILMAX", &h->mail_max);
		}
	}
}

static void
note_line(struct nexthop *h, const char *line)
{
	note_extension(h, line);
	smtp_note_auth(h, line);
	smtp_note_attributes(h, line);
}

void
smtp_strip(char *line, size_t len)
{
	size_t i, n = 0;

	for (i = 0; i < len; i++)
		if (!text_is_control(line[i]))
			line[n++] = line[i];
	line[n] = '\0';
}

/* Adds a line to a reply.  The first line of a code gives the enhanced code;
   the others lose theirs if it is the same. */
static void
add_reply_line(struct reply *r, int code, const char *text)
{
	size_t used = strlen(r->text), n = text_enhanced(text);
	bool first = code != r->code;

	if (n > 0 && text[0] != '0' + code / 100)
		n = 0;
	if (first && n == 0)
		snprintf(r->enh, sizeof r->enh, "%c.0.0", '0' + code / 100);
	else if (first)
		text_cut(r->enh, sizeof r->enh, text, n);
	else if (strlen(r->enh) != n || memcmp(r->enh, text, n) != 0)
		n = 0;
	if (n > 0)
		n += text[n] == ' ';
	r->code = code;
	snprintf(r->text + used, sizeof r->text - used, "%s%s",
	    first ? "" : "\n", text + n);
}

/* Reads a line of a reply; before its first line empty ones are skipped.
   Returns its length, or -1 with errno. */
static long
read_reply_line(struct nexthop *h, bool first, char line[REPLY_LINE_MAX],
    int64_t deadline)
{
	int n = 0;
	long len;

	do
		len = stream_line(&h->s, line, REPLY_LINE_MAX, deadline);
	while (len == 0 && first && n++ < REPLY_LINES_MAX);
	if (len > 0)
		smtp_strip(line, (size_t)len);
	return len;
}

/*
 * Reads a whole reply into *r as it was given, and from that to EHLO what is
 * offered.  If the codes differ, the last line's counts, and what was said
 * with others is dropped.  False: there was none, and *r is what that means.
 */
static bool
read_reply(struct nexthop *h, enum step step, int64_t deadline,
    struct reply *r)
{
	char line[REPLY_LINE_MAX];
	bool more = true;
	int n, code;
	long len;

	r->code = 0;
	r->enh[0] = r->text[0] = '\0';
	for (n = 0; more; n++) {
		len = read_reply_line(h, n == 0, line, deadline);
		if (len == -1)
			return smtp_lost(h, step, errno, r);
		smtp_show_reply(h, step, line);
		code = text_code(line);
		more = code != 0 && line[3] == '-';
		/* A challenge must not be cut. */
		if (code == 0 || strchr(" -", line[3]) == NULL ||
		    n == REPLY_LINES_MAX || (code == 334 &&
		    len == REPLY_LINE_MAX - 1))
			return smtp_garbled(h, step, line, r);
		if (code != r->code)
			r->text[0] = '\0';
		if (step == STEP_HELLO && n > 0 && code == 250)
			note_line(h, line + (line[3] == '\0' ? 3 : 4));
		add_reply_line(r, code, line + (line[3] == '\0' ? 3 : 4));
	}
	/* A challenge may be empty. */
	if (r->code != 334 && r->text[strspn(r->text, " \n")] == '\0')
		text_copy(r->text, sizeof r->text, r->code < 400 ? "OK" :
		    "The next hop gives no reason");
	h->can &= ~h->avoid;
	h->quoted = true;
	return true;
}

void
smtp_make_temporary(struct reply *r)
{
	if (r->code < 500)
		return;
	r->code = 451;
	if (r->enh[0] != '\0')
		r->enh[0] = '4';
}

void
smtp_log_refusal(const struct nexthop *h, enum step step,
    const struct reply *r, const char *hint)
{
	char why[REPLY_TEXT + 128], text[REPLY_TEXT];
	const bool secret = smtp_is_secret(step);

	/* The reason may be in the last line, after the hop's name. */
	text_one_line(text, sizeof text, secret ? "" : r->text);
	snprintf(why, sizeof why, "%d %s%s%s%s", r->code, r->enh,
	    secret ? "" : " ", text, hint);
	smtp_log(h, step_facts[step].name, why);
}

/* Is this what Microsoft says where the account may not use the sender? */
static bool
is_sender_denied(const struct reply *r)
{
	return r->code >= 500 && (strcmp(r->enh, "5.7.60") == 0 ||
	    strstr(r->text, "SendAsDenied") != NULL);
}

/*
 * Does it refuse us, and not what the client said?  530 to 538 (RFC 4954 6): it
 * wants what only our configuration can give it.  503: some servers say that
 * where they want AUTH, and nothing else is out of order in what we send.
 * 5.7.z: it does not permit what it may permit a client with the password that
 * the file has no line for.
 */
static bool
is_our_mistake(const struct nexthop *h, enum step step, const struct reply *r)
{
	static const int codes[] = { 503, 530, 534, 535, 538 };
	size_t i = 0;

	if (step != STEP_MAIL && step != STEP_RCPT && step != STEP_DATA)
		return r->code == 530;
	if (h->no_line && r->code >= 500 && strncmp(r->enh, "5.7.", 4) == 0)
		return true;
	while (i < COUNT(codes) && codes[i] != r->code)
		i++;
	return i < COUNT(codes);
}

/*
 * What a refusal comes to.  421: the next hop closes the connection.  432: it
 * has too many connections of this account, as Microsoft says it, and another
 * place may serve.  552 of a recipient is the 452 of RFC 5321 4.5.3.1.10.
 */
static void
weigh_refusal(struct nexthop *h, enum step step, struct reply *r)
{
	bool live_mail = h->live != NULL && step == STEP_MAIL;
	bool repeated = h->kept && (r->code == 421 ||
	    (step == STEP_MAIL && !live_mail));
	bool ours = is_our_mistake(h, step, r);

	/* A text may repeat what we said; what our client said, it knows. */
	if (smtp_is_secret(step) && !h->set->through)
		text_copy(r->text, sizeof r->text, SMTP_NO_AUTH);
	/* Without a transaction RCPT is refused because MAIL was. */
	if (ours && !repeated && (step != STEP_RCPT || h->dirty))
		smtp_log_refusal(h, step, r, step == STEP_DATA &&
		    r->code == 503 ? "" : "; see --relay-auth and "
		    "--relay-tls");
	else if (is_sender_denied(r))
		smtp_log_refusal(h, step, r, "; the account may not send as "
		    "this sender: see --from");
	else if (step_facts[step].told && !live_mail && !repeated)
		smtp_log_refusal(h, step, r, "");
	if (r->code == 421 || (r->code == 432 && step == STEP_MAIL)) {
		smtp_hang_up(h);
		h->stale = h->kept;
		h->away = true;
		r->code = 451;
	} else if (ours)
		smtp_make_temporary(r);
	else if (r->code == 432 && step > STEP_MAIL)
		r->code = 451;
	else if (r->code == 552 && step == STEP_RCPT && h->live == NULL) {
		smtp_make_temporary(r);
		r->code = 452;
	}
}

bool
smtp_read_reply(struct nexthop *h, enum step step, int64_t deadline,
    struct reply *r)
{
	int want = step_facts[step].want;

	if (!read_reply(h, step, clock_within(deadline,
	    step_facts[step].seconds), r))
		return false;
	if (r->code >= 400) {
		weigh_refusal(h, step, r);
		return false;
	}
	if (r->code == want || (step == STEP_SASL && r->code == 334) ||
	    (want == 200 && r->code / 100 == 2 && r->code != 221))
		return true;
	return smtp_garbled(h, step, r->text, r);
}

void
smtp_add(struct nexthop *h, const char *fmt, ...)
{
	size_t room = sizeof h->out - h->held;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(h->out + h->held, room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room)
		h->error = EMSGSIZE;
	else
		h->held += (size_t)n;
}

/* Are there several commands in the group? */
static bool
has_several(const struct nexthop *h, enum step step)
{
	const char *lf = memchr(h->out, '\n', h->held);

	return step != STEP_END && lf != NULL && lf + 1 < h->out + h->held;
}

/*
 * Input that nobody asked for means that the next hop closes the connection,
 * perhaps after telling why, or is out of step: nothing is sent then, for it
 * would be taken for the answer.  What it said while the connection was kept
 * is not about this message, whatever the code; before MAIL it never is.
 */
bool
smtp_send_group(struct nexthop *h, enum step step, int64_t deadline,
    struct reply *r)
{
	int err = h->error;

	h->error = 0;
	if (smtp_is_exchange(h) && step != STEP_SASL) {
		/* It would take this for a response of our client. */
		smtp_hang_up(h);
		return smtp_lost(h, step, EPROTO, r);
	}
	deadline = clock_within(deadline, BLOCK_SECONDS);
	if (err == 0 && !stream_has_input(&h->s)) {
		smtp_show_group(h, step);
		h->begun = h->begun || step == STEP_END;
		h->grouped = has_several(h, step);
		if (stream_write(&h->s, h->out, h->held, deadline) == -1)
			err = errno;
		h->held = 0;
		if (err == 0)
			return true;
	}
	if (h->kept || !stream_has_input(&h->s))
		return smtp_lost(h, step, err, r);
	if (smtp_read_reply(h, step, clock_within(deadline, 5), r))
		return smtp_garbled(h, step, r->text, r);
	if (step <= STEP_MAIL && h->quoted) {
		if (!step_facts[step].told)
			smtp_log_refusal(h, step, r, "");
		smtp_make_temporary(r);
	}
	if (step <= STEP_RCPT)
		h->away = true;
	smtp_hang_up(h);
	return false;
}

bool
smtp_command(struct nexthop *h, enum step step, int64_t deadline,
    struct reply *r)
{
	return smtp_send_group(h, step, deadline, r) &&
	    smtp_read_reply(h, step, deadline, r);
}

void
smtp_quit(struct nexthop *h, int64_t deadline)
{
	char line[REPLY_LINE_MAX];

	deadline = clock_within(deadline, QUIT_SECONDS);
	if (h->s.fd != -1 && !smtp_is_exchange(h) &&
	    stream_write(&h->s, "QUIT\r\n", 6, deadline) == 0)
		stream_line(&h->s, line, sizeof line, deadline);
	smtp_hang_up(h);
}
