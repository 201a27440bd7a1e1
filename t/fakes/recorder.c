/*
 * recorder.c - a channel with a witness.
 *
 * - Each hook writes a line into calls, and the message into mail when it
 *   is complete.
 * - Each call is held against what channel.h promises; the first that does
 *   not fit is remembered in broken.
 * - Octets are lent to the channel in blocks of their own, so that a
 *   sanitizer sees it read beyond them or keep them.
 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recorder.h"

const char *const stage_names[STAGES] = {
	"connect", "helo", "mail", "rcpt", "data", "end", "vrfy", "expn",
	"noop", "rset", "quit", "starttls", "auth"
};

void
text_add(struct text *t, const char *p, size_t len)
{
	if (t->size - t->len <= len) {
		t->size = (t->len + len) * 2 + 64;
		t->p = realloc(t->p, t->size);
		assert(t->p != NULL);
	}
	if (len != 0)
		memcpy(t->p + t->len, p, len);
	t->len += len;
	t->p[t->len] = '\0';
}

void
text_printf(struct text *t, const char *fmt, ...)
{
	char line[CHANNEL_LINE_MAX + 256];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	assert(n >= 0 && (size_t)n < sizeof line);
	text_add(t, line, (size_t)n);
}

bool
text_same(const struct text *a, const struct text *b)
{
	return a->len == b->len &&
	    (a->len == 0 || memcmp(a->p, b->p, a->len) == 0);
}

static void
promise(struct recorder *r, bool kept, const char *what)
{
	if (!kept && r->broken == NULL)
		r->broken = what;
}

static bool
contains(struct span s, const char *word)
{
	size_t i, len = strlen(word);

	for (i = 0; i + len <= s.len; i++)
		if (len == 0 || memcmp(s.p + i, word, len) == 0)
			return true;
	return false;
}

static struct span
span_of(const char *s)
{
	return (struct span){ s, strlen(s) };
}

static const struct span nothing = { "", 0 };

static bool
obey(const struct recorder *r, enum stage stage, struct span s,
    struct reply *reply)
{
	const struct rule *rule;
	size_t i;

	for (i = 0; i < r->nrules; i++) {
		rule = &r->rules[i];
		if (rule->stage == stage && contains(s, rule->word)) {
			reply_set(reply, rule->code, rule->enh, rule->text);
			return true;
		}
	}
	return false;
}

/* Every hook but body, end and forget: what it was told, what it answers.
   True if a rule said so. */
static bool
record(struct recorder *r, enum stage stage, struct span s, int code,
    struct reply *reply)
{
	size_t i;

	promise(r, reply->code == code, "a hook's reply is not its default");
	for (i = 0; i < s.len; i++)
		promise(r, (unsigned char)s.p[i] >= ' ' && s.p[i] != 0x7f &&
		    (i == 0 || s.p[i - 1] != '\xc2' ||
		    (unsigned char)s.p[i] >= 0xa0),
		    "a hook was given a control character");
	text_printf(&r->calls, "%s <%.*s>\n", stage_names[stage], (int)s.len,
	    s.p);
	return obey(r, stage, s, reply);
}

static void
on_connect(void *ctx, struct reply *r)
{
	struct recorder *w = ctx;
	const struct channel_peer *p = &w->ch.peer;

	record(w, CONNECT, nothing, 220, r);
	text_printf(&w->calls, "  %s %s %s %s %s\n", p->address, p->port,
	    p->name, p->server_address, p->server_port);
}

static void
on_helo(void *ctx, struct span name, bool extended, struct reply *r)
{
	(void)extended;
	record(ctx, HELO, name, 250, r);
}

static void
on_mail(void *ctx, struct span path, struct span options, struct reply *r)
{
	struct recorder *w = ctx;

	promise(w, !w->open, "mail before forget");
	record(w, MAIL, path, 250, r);
	text_printf(&w->calls, "  %.*s\n", (int)options.len, options.p);
	w->open = r->code < 400;
}

static void
on_rcpt(void *ctx, struct span path, struct span options, struct reply *r)
{
	struct recorder *w = ctx;

	promise(w, w->open && !w->begun, "rcpt out of place");
	promise(w, w->ch.mailfrom != NULL, "rcpt without mailfrom");
	record(w, RCPT, path, 250, r);
	text_printf(&w->calls, "  %.*s\n", (int)options.len, options.p);
}

/* The same as one by one: the calls, and what is said, must not differ. */
static void
on_group(void *ctx, bool mail, const struct recipient to[], size_t n,
    struct reply r[])
{
	struct recorder *w = ctx;
	size_t i;

	promise(w, n + mail > 1, "a group of one");
	promise(w, w->ch.mailfrom != NULL, "a group without mailfrom");
	if (mail)
		on_mail(ctx, span_of(w->ch.mailfrom),
		    span_of(w->ch.mail_options), &r[0]);
	if (mail && r[0].code >= 400)
		return;
	for (i = 0; i < n && (i == 0 || r[mail + i - 1].code != 421); i++)
		on_rcpt(ctx, span_of(to[i].address), span_of(to[i].options),
		    &r[mail + i]);
}

static void
on_data(void *ctx, struct reply *r)
{
	struct recorder *w = ctx;

	promise(w, w->open && !w->begun, "data out of place");
	record(w, DATA, nothing, r->code == 354 ? 354 : 250, r);
	w->begun = r->code < 400;
}

static void
on_body(void *ctx, struct span text)
{
	struct recorder *w = ctx;

	promise(w, w->begun && !w->over, "body out of place");
	promise(w, text.len != 0, "body without octets");
	text_add(&w->body, text.p, text.len);
}

static void
on_end(void *ctx, struct reply reply[], size_t n)
{
	struct recorder *w = ctx;
	const struct channel *ch = &w->ch;
	size_t i;

	promise(w, w->begun && !w->over, "end out of place");
	promise(w, n == (ch->set->lmtp ? ch->nrcpttos : 1),
	    "end's number of replies");
	promise(w, ch->set->lmtp || ch->nrcpttos != 0, "end without rcpttos");
	w->over = true;
	text_printf(&w->calls, "end %zu\n", n);
	for (i = 0; i < n; i++) {
		promise(w, reply[i].code == 250, "end's default is not 250");
		obey(w, END, ch->set->lmtp ?
		    span_of(ch->rcpttos[i].address) : nothing, &reply[i]);
	}
	if (ch->nrcpttos == 0)
		return;
	text_printf(&w->mail, "F: <%s>%s%s\n", ch->mailfrom,
	    *ch->mail_options != '\0' ? " " : "", ch->mail_options);
	for (i = 0; i < ch->nrcpttos; i++)
		text_printf(&w->mail, "T: <%s>%s%s\n", ch->rcpttos[i].address,
		    *ch->rcpttos[i].options != '\0' ? " " : "",
		    ch->rcpttos[i].options);
	text_add(&w->mail, w->body.p, w->body.len);
}

static void
on_forget(void *ctx)
{
	struct recorder *w = ctx;

	promise(w, w->open, "forget without mail");
	promise(w, w->ch.mailfrom != NULL, "forget after mailfrom is gone");
	text_printf(&w->calls, "forget\n");
	w->open = w->begun = w->over = false;
	w->body.len = 0;
}

static void
on_vrfy(void *ctx, struct span address, struct reply *r)
{
	record(ctx, VRFY, address, 252, r);
}

static void
on_expn(void *ctx, struct span list, struct reply *r)
{
	record(ctx, EXPN, list, 502, r);
}

static void
on_noop(void *ctx, struct span arg, struct reply *r)
{
	record(ctx, NOOP, arg, 250, r);
}

static void
on_rset(void *ctx, struct reply *r)
{
	record(ctx, RSET, nothing, 250, r);
}

static void
on_quit(void *ctx, struct reply *r)
{
	record(ctx, QUIT, nothing, 221, r);
}

static void
on_starttls(void *ctx, struct reply *r)
{
	record(ctx, STARTTLS, nothing, 220, r);
}

static bool
same(struct span s, const char *what)
{
	return s.len == strlen(what) && memcmp(s.p, what, s.len) == 0;
}

/* Knows one account, "user" with "secret", by PLAIN and LOGIN; EXTERNAL lets
   the empty identity in. */
static const struct exchange {
	const char *mechanism;
	unsigned step;
	const char *response;	/* NULL: it gave none */
	const char *challenge;	/* NULL: that is enough */
} exchanges[] = {
	{ "PLAIN", 0, NULL, "" },
	{ "PLAIN", 0, "AHVzZXIAc2VjcmV0", NULL },
	{ "PLAIN", 1, "AHVzZXIAc2VjcmV0", NULL },
	{ "LOGIN", 0, NULL, "VXNlcm5hbWU6" },
	{ "LOGIN", 0, "dXNlcg==", "UGFzc3dvcmQ6" },
	{ "LOGIN", 1, "dXNlcg==", "UGFzc3dvcmQ6" },
	{ "LOGIN", 1, "c2VjcmV0", NULL },
	{ "LOGIN", 2, "c2VjcmV0", NULL },
	{ "EXTERNAL", 0, NULL, "" },
	{ "EXTERNAL", 0, "", NULL },
	{ "EXTERNAL", 1, "", NULL },
	{ NULL, 0, NULL, NULL }
};

static void
authenticate(struct recorder *w, struct span response, bool given,
    struct reply *r)
{
	const struct exchange *e;

	for (e = exchanges; e->mechanism != NULL; e++)
		if (strcmp(e->mechanism, w->mechanism) == 0 &&
		    e->step == w->step && given == (e->response != NULL) &&
		    (!given || same(response, e->response)))
			break;
	if (e->mechanism == NULL) {
		reply_set(r, 535, "5.7.8", "Authentication failed");
	} else if (e->challenge != NULL) {
		reply_set(r, 334, "", e->challenge);
	} else {
		channel_set_user(&w->ch, "user");
		reply_set(r, 235, "2.7.0", "Authentication successful");
	}
}

static void
on_auth(void *ctx, struct span mechanism, struct span response, bool given,
    struct reply *r)
{
	struct recorder *w = ctx;

	if (mechanism.p == NULL) {	/* 500: the line was too long */
		record(w, AUTH, span_of("*"), r->code == 500 ? 500 : 501, r);
		w->step = 0;
		return;
	}
	promise(w, (w->step == 0) == (mechanism.len != 0),
	    "a further AUTH step names its mechanism, or the first does not");
	if (w->step == 0)
		snprintf(w->mechanism, sizeof w->mechanism, "%.*s",
		    (int)mechanism.len, mechanism.p);
	if (!record(w, AUTH, mechanism, 454, r))
		authenticate(w, response, given, r);
	text_printf(&w->calls, "  %d %.*s\n", given, (int)response.len,
	    response.p);
	w->step = r->code == 334 ? w->step + 1 : 0;
}

static void
on_dialogue(void *ctx, bool said, struct span line)
{
	struct recorder *w = ctx;
	struct text *t = said ? &w->said : &w->heard;

	text_add(t, line.p, line.len);
	text_add(t, "\r\n", 2);
}

const struct channel_settings recorder_plain = {
	.fqdn = "mx.example.org",
	.data_size_limit = 33554432,
	.dsn = true,
	.max_recipients = 1000,
	.max_errors = 20
};

const struct channel_hooks recorder_hooks = {
	.connect = on_connect,
	.helo = on_helo,
	.mail = on_mail,
	.rcpt = on_rcpt,
	.data = on_data,
	.body = on_body,
	.end = on_end,
	.forget = on_forget,
	.vrfy = on_vrfy,
	.expn = on_expn,
	.noop = on_noop,
	.rset = on_rset,
	.quit = on_quit,
	.starttls = on_starttls,
	.auth = on_auth,
	.dialogue = on_dialogue
};

void
recorder_open(struct recorder *r, const struct channel_settings *set,
    const struct rule rules[], size_t n)
{
	memset(r, 0, sizeof *r);
	r->rules = rules;
	r->nrules = n;
	channel_init(&r->ch, set, &recorder_hooks, r);
	channel_greet(&r->ch);
}

void
recorder_group(struct recorder *r)
{
	r->hooks = recorder_hooks;
	r->hooks.group = on_group;
	r->ch.hooks = &r->hooks;
}

void
recorder_drain(struct recorder *r)
{
	const char *p;
	size_t len;

	p = channel_output(&r->ch, &len);
	text_add(&r->replies, p, len);
	channel_sent(&r->ch, len);
}

void
recorder_feed(struct recorder *r, const char *p, size_t len, struct pace pace)
{
	size_t n, took, waiting;
	char *lent;

	while (len != 0 && r->ch.want == WANT_INPUT) {
		n = len < pace.step ? len : pace.step;
		lent = malloc(n);
		assert(lent != NULL);
		memcpy(lent, p, n);
		took = channel_feed(&r->ch, lent, n);
		free(lent);
		assert(took <= n);
		r->used += took;
		p += took;
		len -= took;
		channel_output(&r->ch, &waiting);
		if (took == 0 && waiting == 0 && r->ch.want == WANT_INPUT) {
			promise(r, false, "the channel takes nothing");
			return;
		}
		if (!pace.lazy || took < n)
			recorder_drain(r);
	}
	recorder_drain(r);
}

void
recorder_say(struct recorder *r, const char *what)
{
	recorder_feed(r, what, strlen(what), (struct pace){ .step = SIZE_MAX });
}

void
recorder_tls(struct recorder *r)
{
	static const struct channel_tls tls = {
		.protocol = "TLSv1.3",
		.cipher = "TLS_AES_256_GCM_SHA384",
		.sni = "mx.example.org"
	};

	promise(r, r->ch.want == WANT_TLS, "TLS was not wanted");
	channel_tls(&r->ch, &tls);
	promise(r, r->ch.ssl && r->ch.want == WANT_INPUT,
	    "channel_tls leaves the channel ready");
	recorder_drain(r);
}

void
recorder_close(struct recorder *r)
{
	channel_free(&r->ch);
	promise(r, !r->open, "no forget at the end of the session");
	channel_free(&r->ch);
}

void
recorder_free(struct recorder *r)
{
	free(r->replies.p);
	free(r->calls.p);
	free(r->said.p);
	free(r->heard.p);
	free(r->mail.p);
	free(r->body.p);
}
