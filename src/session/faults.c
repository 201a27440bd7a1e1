/*
 * faults.c - does what the rules of --rules say.
 *
 * Each hook asks the rules first.  A reply of 400 and more ends the matter: the
 * monitor is never asked, so it has no record of what it refused.  Any other
 * reply only replaces the words of a success.  What a rule does to the way in
 * which a reply is written is noted, the channel pauses after that reply, and
 * faults_run() does it before anything else is written.
 */
#define _GNU_SOURCE	/* POLLRDHUP, explicit_bzero */
#include "session/faults.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <syslog.h>

#include "base/clock.h"
#include "base/text.h"
#include "session/rules.h"

#define OFFERS_MAX 32		/* lines of EHLO that hooks add, not rules */
#define SLICES 20		/* pieces of a second's slow reply, at most */

struct faults {
	struct rules rules;
	const char *name;	/* of the file */
	bool fake_tls;		/* STARTTLS is offered, there is no TLS */
	bool own_auth;		/* no source: the rules alone answer AUTH */
	/* What is to be done to the reply that was collected last. */
	bool pending;
	bool cut;		/* the text is not to be relayed */
	enum rule_action action;
	unsigned amount;
	int64_t delay;		/* milliseconds */
	const struct rule *text;	/* refuses the text; or NULL */
	bool decided;		/* no more rules about this text */
	/* What EHLO offers. */
	unsigned hidden;
	const char **offer;	/* room for a line of each rule, OFFERS_MAX
				   and NULL; owned */
	size_t offers;
	const char *auth;	/* mechanisms, or NULL */
	bool tls;		/* STARTTLS */
	/* The exchange of AUTH. */
	char mechanism[32], user[CHANNEL_NAME_MAX];
	unsigned responses;
};

static bool
offers(const struct rules *r, enum extension e)
{
	struct span word;

	for (size_t i = 0; i < r->n; i++) {
		word = (struct span){ r->rule[i].text, 0 };
		if (r->rule[i].action != RULE_OFFER)
			continue;
		word.len = strcspn(word.p, " \t");
		if (channel_extension(word) == (int)e)
			return true;
	}
	return false;
}

struct faults *
faults_open(struct options *o, const char *name, char *error, size_t size)
{
	struct faults *f = calloc(1, sizeof *f);

	if (f == NULL) {
		text_copy(error, size, "out of memory");
		return NULL;
	}
	f->name = name;
	if (rules_read(&f->rules, name, error, size)) {
		f->offer = calloc(f->rules.n + OFFERS_MAX + 1,
		    sizeof *f->offer);
		if (f->offer == NULL)
			text_copy(error, size, "out of memory");
	}
	if (f->offer == NULL) {
		free(f->rules.file);
		free(f->rules.rule);
		free(f);
		return NULL;
	}
	f->own_auth = o->monitor.auth == NULL;
	if (offers(&f->rules, EXT_STARTTLS) && !o->channel.tls) {
		f->fake_tls = true;
		o->channel.tls = true;
	}
	if (f->own_auth && offers(&f->rules, EXT_AUTH))
		o->channel.auth_require_tls = false;
	return f;
}

bool
faults_reset(const struct faults *f)
{
	return rules_have(&f->rules, RULE_RESET);
}

bool
faults_fake_tls(const struct faults *f)
{
	return f->fake_tls;
}

static void
log_rule(struct session *s, const struct rule *r, enum rule_stage stage,
    const char *what)
{
	char text[512], code[32] = "";

	if (r->action == RULE_REPLY)
		snprintf(code, sizeof code, " %d %s", r->code, r->enh);
	snprintf(text, sizeof text, "%.128s: line %u: %s %.200s: %s%s",
	    s->faults->name, r->line, rules_stage(stage), what,
	    rules_action(r->action), code);
	text_make_safe(text, text, false);
	session_log(s, LOG_INFO, "rule", text);
}

/* The line of EHLO that a rule offers.  STARTTLS and AUTH are the channel's own
   lines, which know when they are possible. */
static void
add_offer(struct faults *f, const char *line)
{
	size_t n = strcspn(line, " \t");
	int e = channel_extension((struct span){ line, n });

	if (e == EXT_STARTTLS && line[n] == '\0')
		f->tls = true;
	else if (e == EXT_AUTH && line[n] != '\0')
		f->auth = line + n + strspn(line + n, " \t");
	else if (f->offers < f->rules.n + OFFERS_MAX)
		f->offer[f->offers++] = line;
}

/*
 * Asks the rules about a stage.  Returns the one that decides, or NULL.  A
 * delay lets the next rule decide.  After hide or offer only more of these
 * count.
 */
static const struct rule *
decide(struct session *s, enum rule_stage stage, const char *what,
    uint64_t size, bool whole)
{
	struct faults *f = s->faults;
	const struct rule *r, *found = NULL;
	bool listing = false, waits = false;
	size_t at = 0;

	while (found == NULL && (r = rules_next(&f->rules, &at, stage, what,
	    size, whole)) != NULL) {
		if (listing && r->action != RULE_HIDE &&
		    r->action != RULE_OFFER)
			continue;
		log_rule(s, r, stage, what);
		if (r->action == RULE_DELAY) {
			f->delay += r->amount;
			waits = true;
		} else if (r->action == RULE_HIDE) {
			f->hidden |= r->amount;
			listing = true;
		} else if (r->action == RULE_OFFER) {
			add_offer(f, r->text);
			listing = true;
		} else {
			found = r;
		}
	}
	if (waits || (found != NULL && found->action != RULE_REPLY)) {
		if (found != NULL) {
			f->action = found->action;
			f->amount = found->amount;
		}
		f->pending = true;
		channel_output(&s->ch, &s->before);
		channel_pause(&s->ch);
	}
	return found;
}

/* decide() about what a span names. */
static const struct rule *
decide_span(struct session *s, enum rule_stage stage, struct span what)
{
	return decide(s, stage, text_cut(s->path, sizeof s->path, what.p,
	    what.len), 0, false);
}

/* Makes r the refusal that a rule is.  False if it is none. */
static bool
refuses(const struct rule *rule, struct reply *r)
{
	if (rule == NULL || rule->action != RULE_REPLY || rule->code < 400)
		return false;
	reply_set(r, rule->code, rule->enh, rule->text);
	return true;
}

/* Puts a rule's words in the place of a success. */
static void
reword(const struct rule *rule, struct reply *r)
{
	if (rule != NULL && rule->action == RULE_REPLY && rule->code < 400 &&
	    r->code < 400)
		reply_set(r, rule->code, rule->enh, rule->text);
}

static void
on_connect(void *ctx, struct reply *r)
{
	struct session *s = ctx;
	const struct rule *rule = decide(s, RULE_CONNECT, s->ch.peer.address,
	    0, false);

	if (refuses(rule, r))
		return;
	session_hooks.connect(ctx, r);
	reword(rule, r);
}

static void
on_helo(void *ctx, struct span name, bool extended, struct reply *r)
{
	struct session *s = ctx;
	struct faults *f = s->faults;
	const char *const *more;
	const struct rule *rule;

	f->hidden = 0;
	f->offers = 0;
	f->auth = NULL;
	f->tls = false;
	rule = decide_span(s, extended ? RULE_EHLO : RULE_HELO, name);
	if (refuses(rule, r))
		return;
	channel_offer(&s->ch, 0, NULL);
	session_hooks.helo(ctx, name, extended, r);
	reword(rule, r);
	if (f->fake_tls && !f->tls)
		f->hidden |= 1U << EXT_STARTTLS;
	if (f->auth != NULL)
		channel_offer_auth(&s->ch, f->auth);
	for (more = s->ch.keywords; more != NULL && *more != NULL; more++)
		add_offer(f, *more);
	f->offer[f->offers] = NULL;
	channel_offer(&s->ch, s->ch.hidden | f->hidden, f->offer);
}

static void
on_mail(void *ctx, struct span path, struct span options, struct reply *r)
{
	const struct rule *rule = decide_span(ctx, RULE_MAIL, path);

	if (refuses(rule, r))
		return;
	session_hooks.mail(ctx, path, options, r);
	reword(rule, r);
}

static void
on_rcpt(void *ctx, struct span path, struct span options, struct reply *r)
{
	const struct rule *rule = decide_span(ctx, RULE_RCPT, path);

	if (refuses(rule, r))
		return;
	session_hooks.rcpt(ctx, path, options, r);
	reword(rule, r);
}

static void
on_data(void *ctx, struct reply *r)
{
	struct session *s = ctx;
	struct faults *f = s->faults;
	const struct rule *rule = decide(s, RULE_DATA, s->ch.mailfrom, 0,
	    false);

	rules_begin_text(&f->rules);
	f->text = NULL;
	f->cut = f->decided = false;
	if (refuses(rule, r))
		return;
	session_hooks.data(ctx, r);
	reword(rule, r);
}

/* Asks the rules about the text so far. */
static void
look_at_text(struct session *s, bool whole)
{
	struct faults *f = s->faults;
	const struct rule *rule = f->decided ? NULL
	    : decide(s, RULE_TEXT, "", s->ch.size, whole);

	if (rule == NULL)
		return;
	f->decided = true;
	if (rule->action == RULE_REPLY)
		f->text = rule;
	else
		f->cut = rule->action == RULE_CLOSE ||
		    rule->action == RULE_RESET || rule->action == RULE_STALL;
}

static void
on_body(void *ctx, struct span text)
{
	session_hooks.body(ctx, text);
	look_at_text(ctx, false);
}

static void
on_end(void *ctx, struct reply r[], size_t n)
{
	struct session *s = ctx;
	const struct rule *rule;
	struct reply refusal;

	look_at_text(s, true);
	rule = s->faults->text != NULL || s->faults->cut ? s->faults->text
	    : decide(s, RULE_END, s->ch.mailfrom, s->ch.size, true);
	/* A message that is cut off is not complete: its reply is not sent. */
	reply_set(&refusal, 451, "4.3.0", "Cut off by a rule");
	if (refuses(rule, &refusal) || s->faults->cut) {
		session_hooks.refused(ctx, &refusal);
		for (size_t i = 0; i < n + (n == 0); i++)
			r[i] = refusal;
		return;
	}
	session_hooks.end(ctx, r, n);
	for (size_t i = 0; i < n; i++)
		reword(rule, &r[i]);
}

static void
on_vrfy(void *ctx, struct span address, struct reply *r)
{
	const struct rule *rule = decide_span(ctx, RULE_VRFY, address);

	if (refuses(rule, r))
		return;
	session_hooks.vrfy(ctx, address, r);
	reword(rule, r);
}

static void
on_expn(void *ctx, struct span list, struct reply *r)
{
	const struct rule *rule = decide_span(ctx, RULE_EXPN, list);

	if (rule != NULL && rule->action == RULE_REPLY)
		reply_set(r, rule->code, rule->enh, rule->text);
}

static void
on_noop(void *ctx, struct span arg, struct reply *r)
{
	const struct rule *rule = decide_span(ctx, RULE_NOOP, arg);

	if (!refuses(rule, r))
		reword(rule, r);
}

static void
on_rset(void *ctx, struct reply *r)
{
	const struct rule *rule = decide(ctx, RULE_RSET, "", 0, false);

	if (!refuses(rule, r))
		reword(rule, r);
}

static void
on_quit(void *ctx, struct reply *r)
{
	const struct rule *rule = decide(ctx, RULE_QUIT, "", 0, false);

	if (refuses(rule, r))
		return;
	session_hooks.quit(ctx, r);
	reword(rule, r);
}

static void
on_starttls(void *ctx, struct reply *r)
{
	struct session *s = ctx;
	const struct rule *rule = decide(s, RULE_STARTTLS, s->ch.seen_greeting,
	    0, false);

	if (refuses(rule, r))
		return;
	if (s->faults->fake_tls && (rule == NULL ||
	    rule->action != RULE_REPLY))
		reply_set(r, 454, "4.7.0", "TLS is not available");
	reword(rule, r);
}

/* ---- AUTH ---- */

/* Learns the user's name from a response.  Returns whether that was the last
   one of the exchange, as far as we know the mechanism. */
static bool
learn_user(struct faults *f, struct span response, bool given)
{
	bool plain = strcasecmp(f->mechanism, "PLAIN") == 0;
	bool login = strcasecmp(f->mechanism, "LOGIN") == 0;
	bool cram = strcasecmp(f->mechanism, "CRAM-MD5") == 0;
	char text[1024];
	const char *user = text;
	long n;

	if (!plain && !login && !cram)
		return true;
	if (!given)
		return false;
	f->responses++;
	n = text_decode_base64(text, sizeof text - 1, response);
	text[n < 0 ? 0 : n < (long)sizeof text ? n : (long)sizeof text - 1] =
	    '\0';
	if (plain && n > 0)	/* "admin NUL user NUL password" */
		user = text + strlen(text) + ((long)strlen(text) < n);
	if (cram && strrchr(text, ' ') != NULL)
		*strrchr(text, ' ') = '\0';
	if (f->responses == 1)
		text_copy(f->user, sizeof f->user, user);
	explicit_bzero(text, sizeof text);
	return !login || f->responses == 2;
}

/* Asks for the next response, in the place of a source. */
static void
challenge(const struct faults *f, struct reply *r)
{
	const char *text = "";		/* PLAIN */

	if (strcasecmp(f->mechanism, "LOGIN") == 0)
		text = f->responses == 0 ? "VXNlcm5hbWU6" : "UGFzc3dvcmQ6";
	else if (strcasecmp(f->mechanism, "CRAM-MD5") == 0)
		text = "PDEuMkBleGFtcGxlLm9yZz4=";
	reply_set(r, 334, "", text);
}

static void
on_auth(void *ctx, struct span mechanism, struct span response, bool given,
    struct reply *r)
{
	struct session *s = ctx;
	struct faults *f = s->faults;
	const struct rule *rule;
	struct reply unused;

	if (mechanism.p != NULL && mechanism.len > 0) {
		text_cut(f->mechanism, sizeof f->mechanism, mechanism.p,
		    mechanism.len);
		f->user[0] = '\0';
		f->responses = 0;
	}
	if (mechanism.p == NULL || !learn_user(f, response,
	    given || mechanism.len == 0)) {
		if (!f->own_auth)
			session_hooks.auth(ctx, mechanism, response, given, r);
		else if (mechanism.p != NULL)
			challenge(f, r);
		return;
	}
	rule = decide(s, RULE_AUTH, f->user, 0, false);
	if (f->own_auth)
		reply_set(r, 535, "5.7.8", "Wrong user name or password");
	if (refuses(rule, r)) {
		if (!f->own_auth && mechanism.len == 0)
			session_hooks.auth(ctx, (struct span){ NULL, 0 },
			    (struct span){ "", 0 }, false, &unused);
		return;
	}
	if (!f->own_auth) {
		session_hooks.auth(ctx, mechanism, response, given, r);
		if (r->code == 235)
			reword(rule, r);
	} else if (rule != NULL && rule->action == RULE_REPLY) {
		channel_set_user(&s->ch, f->user);
		reply_set(r, rule->code, rule->enh, rule->text);
	}
}

void
faults_hook(struct channel_hooks *h)
{
	*h = session_hooks;
	h->connect = on_connect;
	h->helo = on_helo;
	h->mail = on_mail;
	h->rcpt = on_rcpt;
	h->group = NULL;	/* a rule is about one command */
	h->data = on_data;
	h->body = on_body;
	h->end = on_end;
	h->vrfy = on_vrfy;
	h->expn = on_expn;
	h->noop = on_noop;
	h->rset = on_rset;
	h->quit = on_quit;
	h->starttls = on_starttls;
	h->auth = on_auth;
}

/* ---- what is done to a reply ---- */

/* Writing has failed.  Returns false. */
static bool
interrupted(struct session *s, enum ending *why)
{
	*why = session_interrupted(s);
	return false;
}

/* Waits so many milliseconds.  False if a deadline, SIGTERM or the monitor's
   end comes first. */
static bool
pause_for(struct session *s, int64_t milliseconds, enum ending *why)
{
	int64_t until = clock_now() + milliseconds;
	int status;

	s->pause = until;
	status = session_wait(s, -1, 0);
	s->pause = 0;
	if (status == 0 && clock_now() >= until)
		return true;
	*why = status == 0 ? END_TIMEOUT : session_interrupted(s);
	return false;
}

/* Never answers: until the client goes away, or a deadline. */
static void
stall(struct session *s, enum ending *why)
{
	int status = session_wait(s, s->in, POLLRDHUP);

	*why = status == 1 ? END_LOST
	    : status == 0 ? END_RULE : session_interrupted(s);
	if (*why == END_LOST && s->relayed_id[0] == '\0')
		*why = END_EOF;
}

static bool
write_slowly(struct session *s, unsigned rate, enum ending *why)
{
	unsigned piece = rate / SLICES == 0 ? 1 : rate / SLICES;
	size_t len;

	for (;;) {
		channel_output(&s->ch, &len);
		if (len == 0)
			return true;
		if (!session_write(s, piece, true))
			return interrupted(s, why);
		if (!pause_for(s, (int64_t)piece * 1000 / rate, why))
			return false;
	}
}

/* Octets that are no reply, in the place of the reply. */
static bool
write_garbage(struct session *s, enum ending *why)
{
	static const char garbage[] =
	    "\026\003\001\377\376 \200 this is no reply \377\r\n";
	size_t len;

	channel_output(&s->ch, &len);
	channel_sent(&s->ch, len);
	return session_put(s, garbage, sizeof garbage - 1) ||
	    interrupted(s, why);
}

bool
faults_run(struct session *s, enum ending *why)
{
	struct faults *f = s->faults;
	const struct linger now = { .l_onoff = 1 };
	enum rule_action action = f->action;
	int64_t delay = f->delay;

	if (!f->pending)
		return true;
	f->pending = false;
	f->action = RULE_REPLY;
	f->delay = 0;
	session_restart_clock(s);
	if (!session_write(s, s->before, true))
		return interrupted(s, why);
	session_restart_clock(s);
	if (delay > 0 && !pause_for(s, delay, why))
		return false;
	switch (action) {
	case RULE_RESET:
		setsockopt(s->out, SOL_SOCKET, SO_LINGER, &now, sizeof now);
		/* FALLTHROUGH */
	case RULE_CLOSE:
		*why = END_RULE;
		return false;
	case RULE_STALL:
		stall(s, why);
		return false;
	case RULE_SLOW:
		return write_slowly(s, f->amount, why);
	case RULE_GARBAGE:
		return write_garbage(s, why);
	default:
		return true;
	}
}
