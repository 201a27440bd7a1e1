/*
 * milter.c - asks a mail filter what it thinks of each step of the dialogue,
 * and at the end of the whole message.
 *
 * - The connection is made at the client's greeting, and lives as long as the
 *   session.
 * - Each step is a struct event, which tells how the filter says that it does
 *   without it, or does not answer it.
 * - A filter that cannot be reached, is too slow or breaks the protocol has no
 *   further say in the session: --milter-default tells what becomes of the
 *   mail.  What it began to change is dropped.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "service/milter_private.h"

/* One kind of event. */
struct event {
	char command;
	enum symbols symbols;	/* its macros; SYMBOLS: it has none */
	uint32_t skip, silent;	/* STEP_NO_x: not sent; STEP_NR_x: no answer */
	bool content;		/* --milter-timeout's third number */
	char name[15];
};

static const struct event at_connect = { 'C', SYMBOLS_CONNECT,
	STEP_NO_CONNECT, STEP_NR_CONNECT, false, "CONNECT" };
static const struct event at_helo = { 'H', SYMBOLS_HELO, STEP_NO_HELO,
	STEP_NR_HELO, false, "HELO" };
static const struct event at_mail = { 'M', SYMBOLS_MAIL, STEP_NO_MAIL,
	STEP_NR_MAIL, false, "MAIL" };
static const struct event at_rcpt = { 'R', SYMBOLS_RCPT, STEP_NO_RCPT,
	STEP_NR_RCPT, false, "RCPT" };
static const struct event at_data = { 'T', SYMBOLS_DATA, STEP_NO_DATA,
	STEP_NR_DATA, false, "DATA" };
static const struct event at_unknown = { 'U', SYMBOLS, STEP_NO_UNKNOWN,
	STEP_NR_UNKNOWN, false, "UNKNOWN" };
static const struct event at_field = { 'L', SYMBOLS, STEP_NO_HEADERS,
	STEP_NR_HEADER, true, "HEADER" };
static const struct event at_header_end = { 'N', SYMBOLS_EOH, STEP_NO_EOH,
	STEP_NR_EOH, true, "END-OF-HEADER" };
static const struct event at_body = { 'B', SYMBOLS, STEP_NO_BODY,
	STEP_NR_BODY, true, "BODY" };
static const struct event at_end = { 'E', SYMBOLS_END, 0, 0, true,
	"END-OF-MESSAGE" };

static unsigned
patience(const struct milter *m, const struct event *ev)
{
	return ev->content ? m->set->content : m->set->command;
}

static bool
is_connection(const struct event *ev)
{
	return ev == &at_connect || ev == &at_helo;
}

/* ---- opening ---- */

/* Postfix's inet:HOST:PORT and unix:PATH, and Sendmail's inet:PORT@HOST,
   inet6: and local:, as place_parse() has it.  Returns false if it is none. */
static bool
read_service(struct milter *m, const char *s)
{
	const char *rest = strchr(s, ':'), *at;
	bool local = text_starts(s, "unix:") ||
	    text_starts(s, "local:");
	struct place to;

	if (rest == NULL || strlen(s) >= sizeof m->where - 8 || (!local &&
	    !text_starts(s, "inet:") && !text_starts(s, "inet6:")))
		return false;
	rest++;
	at = strchr(rest, '@');
	if (local)
		text_join(m->where, sizeof m->where, "unix:", rest, NULL);
	else if (at != NULL)
		snprintf(m->where, sizeof m->where, "inet:%s%s%s:%.*s",
		    strchr(at, ':') != NULL && at[1] != '[' ? "[" : "", at + 1,
		    strchr(at, ':') != NULL && at[1] != '[' ? "]" : "",
		    (int)(at - rest), rest);
	else
		text_join(m->where, sizeof m->where, "inet:", rest, NULL);
	return place_parse(m->where, strlen(m->where), &to) &&
	    (to.local || text_parse_port(to.port) != 0);
}

static void *
open_milter(const char *service, const struct service_settings *set,
    char *error, size_t size)
{
	struct milter *m = calloc(1, sizeof *m);

	if (m == NULL) {
		text_copy(error, size, strerror(errno));
		return NULL;
	}
	m->set = set;
	m->service = service;
	m->link.fd = m->spool = -1;
	if (read_service(m, service))
		return m;
	snprintf(error, size, "--milter: \"%s\" is neither unix:PATH nor "
	    "inet:HOST:PORT", service);
	free(m);
	return NULL;
}

static bool
asks_milter(const void *ctx, enum stage stage)
{
	(void)ctx;	/* what it wants it says when it is connected */
	return stage != STAGE_VRFY;
}

/* ---- verdicts ---- */

/* The filter has no further say. */
static void
fail(struct milter *m, const struct event *ev, const struct envelope *env)
{
	static const char then[][24] = {
		[AWAY_TEMPFAIL] = "mail is deferred",
		[AWAY_ACCEPT] = "mail passes without it",
		[AWAY_REJECT] = "mail is refused",
	};

	logger_printf(m->set->log, LOG_ERR, "milter", env,
	    "filter %s: %s: %s; %s", m->service, ev->name, m->fault,
	    then[m->set->away]);
	stream_close(&m->link);
	m->outlen = 0;
	m->state = MILTER_FAILED;
	m->verdict.code = 0;
	if (m->set->away == AWAY_TEMPFAIL)
		reply_set(&m->verdict, 451, "4.7.1",
		    "Service unavailable, try again later");
	if (m->set->away == AWAY_REJECT)
		reply_set(&m->verdict, 550, "5.5.0", "Service unavailable");
}

/* Refuses.  At the beginning of a session that holds for all of it. */
static void
keep_refusal(struct milter *m, const struct event *ev, struct reply *r)
{
	if (!is_connection(ev) && r->code != 421)
		return;
	m->state = MILTER_REFUSED;
	m->verdict = *r;
}

/* The filter's own words, the code is made a refusal of this stage. */
static void
take_verdict(struct milter *m, const struct event *ev, char command,
    const struct envelope *env, struct reply *r)
{
	const bool first = ev == &at_connect;	/* RFC 5321 4.3.2 */
	char line[2 * REPLY_TEXT];

	if (command != 'y' && m->len > 0) {
		m->fault = "unexpected data in its answer";
		return;
	}
	switch (command) {
	case 'c':
		return;
	case 'a':
		m->state = is_connection(ev) ? MILTER_SESSION_DONE
		    : MILTER_MESSAGE_DONE;
		return;
	case 's':
		m->skip = ev->command;
		return;
	case 'd':
		if (!is_connection(ev)) {
			m->discard = true;
			m->state = MILTER_MESSAGE_DONE;
		}
		break;
	case 'r':
		reply_set(r, first ? 554 : 550, "5.7.1", "Command rejected");
		break;
	case 't':
		reply_set(r, first ? 421 : 451, "4.7.1",
		    "Service unavailable, try again later");
		break;
	case 'f':
	case '4':
		reply_set(r, 421, "4.7.1", "Service unavailable, closing");
		break;
	case 'y':
		if (strlen(m->in) + 1 < m->len)
			m->fault = "NUL in its reply";
		else if (!milter_parse_reply(m->in, r))
			m->fault = "malformed reply";
		break;
	default:
		m->fault = "answer that does not belong there";
		return;
	}
	if (m->fault != NULL)
		return;
	if (r->code >= 400)
		keep_refusal(m, ev, r);
	text_one_line(line, sizeof line, r->text);
	logger_printf(m->set->log, LOG_INFO, "milter", env, "filter %s: %s: %s",
	    m->service, ev->name, command == 'd' ? is_connection(ev) ?
	    "discard, which is ignored here" : "discard" : line);
}

/* ---- events ---- */

/* Begins an event with its macros.  Returns false if the filter does not want
   it. */
static bool
begin_event(struct milter *m, const struct event *ev,
    const struct envelope *env, const struct reply *refusal)
{
	if (m->skip == ev->command)
		return false;
	m->skip = 0;
	if (ev->symbols != SYMBOLS)
		milter_macros(m, ev->symbols, ev->command, env, refusal);
	if ((m->steps & ev->skip) != 0)
		return false;
	milter_begin(m, ev->command);
	return true;
}

/* Ends an event and takes the answer. */
static void
end_event(struct milter *m, const struct event *ev, const struct envelope *env,
    struct reply *r)
{
	uint64_t body;
	char command;

	milter_end(m, patience(m, ev));
	if ((m->steps & ev->silent) != 0)
		return;
	do
		command = milter_answer(m, patience(m, ev), &body);
	while (command == 'p');
	if (m->fault == NULL)
		take_verdict(m, ev, command, env, r);
}

/* "<address>" and the parameters, a string each. */
static void
add_path(struct milter *m, const char *address, const char *options)
{
	size_t len;

	milter_add(m, "<", 1);
	milter_add(m, address, strlen(address));
	milter_string(m, ">");
	for (; *options != '\0'; options += len) {
		options += strspn(options, " ");
		len = strcspn(options, " ");
		if (len == 0)
			continue;
		milter_add(m, options, len);
		milter_add(m, "", 1);
	}
}

/* As Postfix does, we call a client without a name by its address. */
static void
add_client(struct milter *m, const struct envelope *env)
{
	const char *address = service_client_address(env);
	const char *name = service_client_name(env);
	bool v6 = strchr(address, ':') != NULL;
	bool v4 = !v6 && strchr(address, '.') != NULL;
	unsigned port = text_parse_port(env->fact[FACT_CLIENT_PORT]);
	char text[512];

	if ((v4 || v6) && strcmp(name, "unknown") == 0)
		name = text_join(text, sizeof text, "[", address, "]", NULL);
	milter_string(m, name);
	milter_add(m, v6 ? "6" : v4 ? "4" : "U", 1);
	if (!v4 && !v6)
		return;
	milter_add(m, (char[]){ (char)(port >> 8), (char)(port & 0xff) }, 2);
	milter_string(m, address);
}

/* The filter's part of the transaction is over, whatever it was. */
static void
abort_message(struct milter *m)
{
	if (m->in_message && m->link.fd != -1) {
		milter_begin(m, 'A');
		milter_end(m, m->set->command);
		milter_flush(m, m->set->command);
	}
	m->in_message = false;
}

static void
forget_milter(void *ctx)
{
	struct milter *m = ctx;

	abort_message(m);
	milter_undo(m);
	m->discard = false;
	m->skip = 0;
	if (m->state == MILTER_MESSAGE_DONE)
		m->state = MILTER_OPEN;
}

/* Sets *r by what is known already.  Returns false if the filter is to be
   asked. */
static bool
is_decided(struct milter *m, const struct event *ev, struct reply *r)
{
	if (m->state == MILTER_CLOSED) {	/* nobody was greeted */
		reply_set(r, 451, "4.3.0", "Internal error, try again");
		return true;
	}
	if (m->state == MILTER_MESSAGE_DONE)
		return !is_connection(ev) && ev != &at_mail;
	/* Clients are told where the mail is concerned, not earlier. */
	if (m->state == MILTER_REFUSED || (m->state == MILTER_FAILED &&
	    m->verdict.code != 0 && !is_connection(ev)))
		*r = m->verdict;
	return m->state != MILTER_OPEN;
}

/* Connects, after XCLIENT once more: that is a new client. */
static void
greet(struct milter *m, const struct envelope *env)
{
	forget_milter(m);
	milter_disconnect(m);
	m->state = MILTER_OPEN;
	milter_connect(m);
	if (m->fault != NULL)
		fail(m, &at_connect, env);
}

static const struct event *const stages[STAGES] = {
	[STAGE_CONNECT] = &at_connect,
	[STAGE_HELO] = &at_helo,
	[STAGE_EHLO] = &at_helo,
	[STAGE_MAIL] = &at_mail,
	[STAGE_RCPT] = &at_rcpt,
	[STAGE_DATA] = &at_data,
};

/* Sends an event that env is the argument of. */
static void
tell(struct milter *m, const struct event *ev, const struct envelope *env,
    const struct reply *refusal, struct reply *r)
{
	if (begin_event(m, ev, env, refusal)) {
		if (ev == &at_connect)
			add_client(m, env);
		else if (ev == &at_helo)
			milter_string(m, env->fact[FACT_CLIENT_HELO]);
		else if (ev == &at_mail)
			add_path(m, env->fact[FACT_SENDER],
			    env->fact[FACT_MAIL_OPTIONS]);
		else if (ev == &at_rcpt)
			add_path(m, env->recipients[0].address,
			    env->recipients[0].options);
		end_event(m, ev, env, r);
	}
	if (m->fault == NULL)
		return;
	fail(m, ev, env);
	is_decided(m, ev, r);
}

static void
ask_milter(void *ctx, enum stage stage, const struct envelope *env,
    struct reply *r, char *prepend)
{
	const struct event *ev = stages[stage];
	struct milter *m = ctx;

	prepend[0] = '\0';
	if (ev == NULL)
		return;
	if (ev == &at_connect)
		greet(m, env);
	if (ev == &at_mail)
		forget_milter(m);
	if (is_decided(m, ev, r))
		return;
	if (ev == &at_mail)
		m->in_message = true;
	tell(m, ev, env, NULL, r);
}

static void
tell_refused(void *ctx, const struct envelope *env, const struct reply *refusal)
{
	struct milter *m = ctx;
	struct reply r = { .code = 250 };

	if (m->state != MILTER_OPEN || (m->steps & STEP_RCPT_REJ) == 0)
		return;
	tell(m, &at_rcpt, env, refusal, &r);
}

static void
ask_unknown(void *ctx, const char *command, const struct envelope *env,
    struct reply *r)
{
	struct milter *m = ctx;

	if (m->state != MILTER_OPEN || !begin_event(m, &at_unknown, env, NULL))
		return;
	milter_string(m, command);
	end_event(m, &at_unknown, env, r);
	if (m->fault != NULL)
		fail(m, &at_unknown, env);
}

/* ---- the message ---- */

/* Shows one field: a value's lines are separated by LF; it is cut. */
static void
show_field(struct milter_change *c, const struct edit_row *row,
    struct reply *r)
{
	struct milter *m = c->m;
	char name[FIELD_NAME_MAX + 1], *value;
	size_t room = MILTER_VALUE, n = 0, i = 0;
	long len;

	len = edit_name(&c->edit, row, name, FIELD_NAME_MAX);
	if (len == -1)
		m->fault = "the message cannot be read";
	if (len == -1 || !begin_event(m, &at_field, &c->message->env, NULL))
		return;
	milter_add(m, name, (size_t)len);
	milter_add(m, "", 1);
	value = milter_room(m, &room);
	len = edit_value(&c->edit, row, value, room);
	if (len == -1)
		m->fault = "the message cannot be read";
	/* Sendmail takes one blank for its own. */
	if (len > 0 && *value == ' ' && (m->steps & STEP_LEADING_SPACE) == 0)
		i = 1;
	for (; len > 0 && i < (size_t)len; i++)
		if (value[i] != '\r' || i + 1 == (size_t)len ||
		    value[i + 1] != '\n')
			value[n++] = value[i] == '\0' ? ' ' : value[i];
	milter_add(m, value, n);
	milter_add(m, "", 1);
	end_event(m, &at_field, &c->message->env, r);
}

/* Has the filter answered all that it will of this message? */
static bool
is_over(const struct milter *m, const struct reply *r)
{
	return m->fault != NULL || r->code >= 400 || m->state != MILTER_OPEN;
}

static void
show_header(struct milter_change *c, struct reply *r)
{
	struct milter *m = c->m;
	const struct edit_row *row;

	if ((m->steps & STEP_NO_HEADERS) == 0)
		for (size_t i = 0; !is_over(m, r) && m->skip != 'L' &&
		    (row = edit_row(&c->edit, i)) != NULL; i++)
			show_field(c, row, r);
	if (!is_over(m, r) &&
	    begin_event(m, &at_header_end, &c->message->env, NULL))
		end_event(m, &at_header_end, &c->message->env, r);
}

/* Where the body is read. */
struct source {
	const struct edit *edit;
	uint64_t at;
	bool crlf;		/* lines end in CRLF already */
	size_t have, used;	/* octets in raw, and of them consumed */
	char raw[16384];
};

/* Copies the next octets of the body, with CRLF, to to[0..size).  Returns how
   many; 0 at the end; -1 with errno. */
static long
read_body(struct source *s, char *to, size_t size)
{
	size_t n = 0;
	ssize_t got;
	char c;

	if (s->crlf) {
		got = file_read_at(s->edit->fd, to, size, (off_t)s->at);
		s->at += got > 0 ? (uint64_t)got : 0;
		return got;
	}
	while (n + 1 < size) {
		if (s->used == s->have) {
			got = file_read_at(s->edit->fd, s->raw,
			    sizeof s->raw, (off_t)s->at);
			if (got <= 0)
				return got == -1 ? -1 : (long)n;
			s->at += (uint64_t)got;
			s->have = (size_t)got;
			s->used = 0;
		}
		c = s->raw[s->used++];
		if (c == '\n')
			to[n++] = '\r';
		to[n++] = c;
	}
	return (long)n;
}

static void
show_body(struct milter_change *c, struct reply *r)
{
	struct source s = { .edit = &c->edit, .at = c->edit.body,
		.crlf = c->message->crlf };
	struct milter *m = c->m;
	size_t room;
	long len = 1;

	while (!is_over(m, r) && len > 0 && m->skip != 'B' &&
	    (m->steps & STEP_NO_BODY) == 0) {
		begin_event(m, &at_body, &c->message->env, NULL);
		room = MILTER_CHUNK;
		len = read_body(&s, milter_room(m, &room), room);
		if (len <= 0) {		/* there was nothing to begin with */
			m->outlen = m->begun;
			if (len == -1)
				m->fault = "the message cannot be read";
			return;
		}
		milter_add(m, m->out + m->outlen, (size_t)len);
		end_event(m, &at_body, &c->message->env, r);
	}
}

/* Asks about the whole, and takes the changes and the verdict. */
static void
ask_at_end(struct milter_change *c, struct reply *r)
{
	struct milter *m = c->m;
	uint64_t body;
	char command;

	begin_event(m, &at_end, &c->message->env, NULL);
	milter_end(m, m->set->content);
	do {
		command = milter_answer(m, m->set->content, &body);
		if (m->fault != NULL)
			return;
	} while (command == 'p' || (milter_change(c, command, body) &&
	    m->fault == NULL));
	if (m->fault == NULL)
		take_verdict(m, &at_end, command, &c->message->env, r);
	m->in_message = m->in_message && m->fault != NULL;
}

/* The filter has said all: makes its changes, or drops them. */
static void
settle_changes(struct milter_change *c, struct reply *r)
{
	struct milter *m = c->m;
	int error;

	if (m->fault != NULL) {
		fail(m, &at_end, &c->message->env);
		is_decided(m, &at_end, r);
		milter_undo(m);
	} else if (r->code >= 400 || m->discard) {
		milter_undo(m);
	} else if (milter_commit(c) == -1) {
		error = errno;
		logger_printf(m->set->log, LOG_ERR, "milter", &c->message->env,
		    "filter %s: its changes cannot be made: %s", m->service,
		    strerror(error));
		reply_errno(r, ENOSPC);
	} else if (c->count > 0) {
		logger_printf(m->set->log, LOG_INFO, "milter", &c->message->env,
		    "filter %s: %u changes", m->service, c->count);
	}
}

static void
ask_message(void *ctx, struct service_message *message, struct reply *r)
{
	struct milter *m = ctx;
	struct milter_change c = { .m = m, .message = message };

	if (message->discard)
		return;
	if (is_decided(m, &at_end, r)) {
		message->discard = m->discard;
		return;
	}
	if (edit_open(&c.edit, message->spool, message->crlf,
	    message->env.size, message->own) == -1) {
		if (errno == E2BIG)
			reply_set(r, 554, "5.6.0", "Too many header fields");
		else
			reply_errno(r, errno);
		edit_close(&c.edit);
		return;
	}
	show_header(&c, r);
	show_body(&c, r);
	if (!is_over(m, r))
		ask_at_end(&c, r);
	settle_changes(&c, r);
	message->discard = message->discard || m->discard;
	edit_close(&c.edit);
}

static void
close_milter(void *ctx)
{
	struct milter *m = ctx;

	if (m == NULL)
		return;
	forget_milter(m);
	milter_disconnect(m);
	for (size_t i = 0; i < SYMBOLS; i++)
		free(m->symbols[i]);
	free(m->in);
	free(m);
}

static void
probe_milter(void *ctx, struct findings *f)
{
	struct milter *m = ctx;
	const enum finding worst = m->set->away == AWAY_ACCEPT ? FINDING_DOUBT
	    : FINDING_BAD;
	char name[400];

	snprintf(name, sizeof name, "milter %s", m->where);
	if (!f->connect) {
		stream_check(m->where, name, worst, f);
		return;
	}
	milter_connect(m);
	if (m->fault == NULL)
		findings_add(f, FINDING_GOOD, "%s answers, and speaks version "
		    "%u", name, m->version);
	else
		findings_add(f, worst, "%s: %s%s", name, m->fault, worst ==
		    FINDING_BAD ? "" : "; mail passes without it");
	milter_disconnect(m);
}

const struct service service_milter = {
	.name = "milter",
	.open = open_milter,
	.asks = asks_milter,
	.ask = ask_milter,
	.refused = tell_refused,
	.unknown = ask_unknown,
	.message = ask_message,
	.probe = probe_milter,
	.forget = forget_milter,
	.close = close_milter,
};
