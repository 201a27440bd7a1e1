/*
 * relay.c - takes one envelope and one spooled message and says what became
 * of them, for each recipient.
 *
 * It keeps no queue: a reply below 400 means that a program, a file or a
 * server has the message, safely.  How a message goes out to several places:
 *  - Each recipient is looked up in the routes, which gives its hop: a
 *    program, a file, a next hop, a refusal.  Recipients are grouped by hop.
 *  - Every group is offered: next hops see the envelope, no data yet.
 *  - In SMTP, where there is one reply for all, one refusal here ends it:
 *    nobody gets the message.  In LMTP only the refused ones drop out.
 *  - The message is sent to next hops first, for they can still say no, then
 *    to what is local, where little can fail.
 *  - If it fails before any place has it, that failure is the reply.  After
 *    that the others are still served, and the reply names those who have the
 *    message and those who have not.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/agree.h"
#include "relay/transport.h"

void
reply_accept(struct reply *v, const struct envelope *env)
{
	const char *id = env->fact[FACT_QUEUE_ID];
	char text[128];

	reply_set(v, 250, "2.0.0", text_join(text, sizeof text,
	    "Message accepted", *id != '\0' ? ", id " : "", id, NULL));
}

void
job_fail(const struct job *j, const char *what, int error, struct reply *v)
{
	reply_errno(v, error);
	logger_printf(&j->r->set->log, LOG_ERR, "relay", j->env, "%s: %s", what,
	    strerror(error));
}

/* ---- The transports that are a few lines each ---- */

static bool
check_nothing_follows(struct hop *h, char *error, size_t size)
{
	if (*h->where == '\0')
		return true;
	snprintf(error, size, "%s: nothing may follow discard:", h->spec);
	return false;
}

static void
deliver_nothing(const struct job *j, struct hop *h, struct reply r[])
{
	(void)j;
	(void)h;
	(void)r;
}

static const struct transport transport_discard = {
	.name = "discard", .syntax = "discard:", .reach = LOCAL,
	.form = SPOOL_NONE, .check = check_nothing_follows,
	.deliver = deliver_nothing,
};

/* Does text begin with a code that is no enhanced one of a refusal: "2.0.0",
   "5.1 " or "450 ", which would be a text of 550? */
static bool
has_wrong_code(const char *text)
{
	const size_t digits = text_digits(text);

	if (text_enhanced(text) > 0)
		return text[0] == '2';
	return (digits == 1 && text[1] == '.') || (digits == 3 &&
	    (text[3] == ' ' || text[3] == '\0'));
}

static bool
check_refusal(struct hop *h, char *error, size_t size)
{
	if (!has_wrong_code(h->where))
		return true;
	snprintf(error, size, "%s: the status code must be 4.y.z or 5.y.z",
	    h->spec);
	return false;
}

/* "error:4.3.0 text", "error:5.1.1 text", "error:text". */
static void
refuse(const struct hop *h, struct reply *r)
{
	const char *p = h->where;
	const size_t len = text_enhanced(p);
	char enh[12] = "5.0.0";

	if (len > 0)
		text_cut(enh, sizeof enh, p, len);
	p += len;
	p += strspn(p, " \t");
	reply_set(r, enh[0] == '4' ? 451 : 550, enh,
	    *p != '\0' ? p : "Mail is not accepted for this address");
}

static void
offer_refusal(const struct job *j, struct hop *h, struct reply r[])
{
	refuse(h, &r[0]);
	reply_spread(r, j->env->nrecipients);
}

static const struct transport transport_error = {
	.name = "error", .syntax = "error:[CODE] TEXT", .reach = REFUSAL,
	.form = SPOOL_NONE, .check = check_refusal, .offer = offer_refusal,
	.deliver = deliver_nothing,
};

/* What TRANSPORT: can be. */
static const struct transport *const transports[] = {
	&transport_print, &transport_show, &transport_discard,
	&transport_maildir, &transport_smtp, &transport_smtps, &transport_lmtp,
	&transport_error, NULL
};

void
relay_syntax(char *to, size_t size)
{
	const struct transport *const *t;
	size_t len, column = sizeof "TRANSPORT:NEXTHOP is" - 1;

	*to = '\0';
	for (t = transports; *t != NULL; t++) {
		len = strlen((*t)->syntax);
		column += 1 + len;
		snprintf(to + strlen(to), size - strlen(to), "%s%s",
		    column > 78 ? "\n" : t == transports ? "" : " ",
		    (*t)->syntax);
		if (column > 78)
			column = len;
	}
}

bool
relay_needs_tls(const struct relay_settings *set)
{
	const struct transport *t = set->spec == NULL ? NULL
	    : hop_named(transports, set->spec);

	/* With credentials it makes digests, on a unix socket too. */
	return set->tls != TLS_NONE || set->tls_pins != NULL ||
	    set->auth != NULL || hops_vary(set) || (t != NULL && t->tls);
}

/* ---- To several places ---- */

/* Copies a message with CRLF into s with LF, by the deadline.  Returns s's
   descriptor, or -1 with errno. */
static int
unix_lines(struct spool *s, int from, int64_t deadline)
{
	char buffer[16384];
	off_t at = 0;
	ssize_t n;

	spool_open(s, SPOOL_LF, NULL, NULL);
	while ((n = file_read_at(from, buffer, sizeof buffer, at)) > 0) {
		if (clock_left(deadline) == 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		spool_write(s, buffer, (size_t)n);
		at += n;
	}
	if (n == -1)
		return -1;
	if (spool_finish(s) == -1)
		errno = s->error;
	return s->error == 0 ? s->fd : -1;
}

/* The recipients of one message that go to one hop. */
struct group {
	struct hop *hop;
	struct envelope env;	/* with just these recipients */
	struct reply *v;	/* theirs; code 0: nothing was tried */
};

/* One message on its way to all its hops. */
struct fan {
	struct relay *r;
	const struct envelope *env;
	int spool;
	enum spool_form form;		/* of spool */
	struct spool *text;		/* the same with LF, once a hop wants
					   it; owned, as all that follows */
	int64_t deadline;
	struct hop **hops;		/* of env's recipients, as they stand */
	struct group *groups;
	size_t ngroups;
	struct recipient *recipients;	/* group by group */
	struct reply *v;		/* of these */
	size_t *origin;			/* where they stand in env */
	/* For one recipient, the usual count, they are these: */
	struct {
		struct hop *hop;
		struct group group;
		struct recipient recipient;
		struct reply v;
		size_t origin;
	} one;
};

/* Adds all the recipients of one hop, of which i is the first. */
static void
add_group(struct fan *f, size_t i, size_t *n)
{
	struct group *g = &f->groups[f->ngroups++];
	struct hop *h = f->hops[i];

	g->hop = h;
	g->env = *f->env;
	g->env.recipients = f->recipients + *n;
	g->v = f->v + *n;
	for (; i < f->env->nrecipients; i++) {
		if (f->hops[i] != h)
			continue;
		f->recipients[*n] = f->env->recipients[i];
		f->origin[*n] = i;
		f->hops[i] = NULL;
		++*n;
	}
	g->env.nrecipients = (size_t)(f->recipients + *n - g->env.recipients);
}

static bool
make_arrays(struct fan *f, size_t count)
{
	if (count == 1) {
		f->hops = &f->one.hop;
		f->groups = &f->one.group;
		f->recipients = &f->one.recipient;
		f->v = &f->one.v;
		f->origin = &f->one.origin;
		return true;
	}
	f->hops = calloc(count, sizeof(struct hop *));
	f->groups = calloc(count, sizeof *f->groups);
	f->recipients = calloc(count, sizeof *f->recipients);
	f->v = calloc(count, sizeof *f->v);
	f->origin = calloc(count, sizeof *f->origin);
	return f->hops != NULL && f->groups != NULL && f->recipients != NULL &&
	    f->v != NULL && f->origin != NULL;
}

/* Finds each recipient's hop, and groups them: next hops first.  False: no
   memory. */
static bool
find_groups(struct fan *f)
{
	static const enum reach order[] = { REFUSAL, REMOTE, LOCAL };
	size_t count = f->env->nrecipients, n = 0, k, i;
	bool named;

	if (!make_arrays(f, count))
		return false;
	for (i = 0; i < count; i++) {
		f->hops[i] = hop_route(f->r, f->env->recipients[i].address,
		    f->env->fact[FACT_SENDER], &named);
		if (f->hops[i] == NULL)
			return false;
	}
	for (k = 0; k < COUNT(order); k++)
		for (i = 0; i < count; i++)
			if (f->hops[i] != NULL &&
			    f->hops[i]->transport->reach == order[k])
				add_group(f, i, &n);
	return true;
}

static void
fan_free(struct fan *f)
{
	if (f->text != NULL) {
		spool_close(f->text);
		free(f->text);
	}
	if (f->hops == &f->one.hop)
		return;
	free(f->hops);
	free(f->groups);
	free(f->recipients);
	free(f->v);
	free(f->origin);
}

/* The job of one group. */
static struct job
group_job(const struct fan *f, const struct group *g)
{
	return (struct job){ f->r, &g->env, f->spool, f->form, f->deadline };
}

/* Shows the envelope to a group's hop. */
static void
offer_group(struct fan *f, struct group *g)
{
	const struct transport *t = g->hop->transport;
	struct job j = group_job(f, g);

	reply_accept(&g->v[0], &g->env);
	reply_spread(g->v, g->env.nrecipients);
	if (t->offer != NULL)
		t->offer(&j, g->hop, g->v);
}

/* Sends nothing to a group that was offered: those that had accepted count as
   not tried. */
static void
abandon_group(struct fan *f, struct group *g)
{
	const struct transport *t = g->hop->transport;
	struct job j = group_job(f, g);
	size_t i;

	if (t->abandon != NULL)
		t->abandon(&j, g->hop);
	for (i = 0; i < g->env.nrecipients; i++)
		if (g->v[i].code < 400)
			g->v[i].code = 0;
}

/* Makes the copy of the message with LF, once.  Returns 0, or an errno. */
static int
make_text(struct fan *f)
{
	if (f->text != NULL)
		return f->text->error;
	f->text = malloc(sizeof *f->text);
	if (f->text == NULL)
		return ENOMEM;
	if (unix_lines(f->text, f->spool, f->deadline) == -1)
		f->text->error = errno;
	return f->text->error;
}

/* Has the group's hop take the message. */
static void
deliver_group(struct fan *f, struct group *g)
{
	struct job j = group_job(f, g);
	int error;

	/* RFC 3030 3: binary text has no line ends that could be changed. */
	if (f->form == SPOOL_CRLF && hop_form(f->r, g->hop) == SPOOL_LF &&
	    f->env->body != BODY_BINARYMIME) {
		error = make_text(f);
		if (error != 0) {
			job_fail(&j, "spool", error, g->v);
			reply_spread(g->v, g->env.nrecipients);
			return;
		}
		j.spool = f->text->fd;
		j.form = SPOOL_LF;
	}
	g->hop->transport->deliver(&j, g->hop, g->v);
}

static void
send_group(struct fan *f, struct group *g)
{
	size_t failed;

	if (agree_count(g->v, g->env.nrecipients, &failed) == 0)
		abandon_group(f, g);
	else
		deliver_group(f, g);
}

void
hop_note(struct relay *r, const struct hop *h)
{
	r->notes = (struct notes){ .delay = -1 };
	if (h != &r->usual)
		r->notes.relay = h->spec;
	if (h->transport->where == NULL)
		return;
	h->transport->where(h, r->nexthop, r->nexthop_tls, WHERE_MAX);
	r->notes.nexthop = r->nexthop;
	r->notes.nexthop_tls = r->nexthop_tls;
}

/* Records what became of a part of the message, its group's: one record for
   those in a row that share a verdict. */
static void
log_part(const struct fan *f, const struct group *g)
{
	struct envelope part = g->env;
	char text[REPLY_TEXT + 24];
	const struct reply *v;

	part.notes = &f->r->notes;
	for (size_t i = 0, n; i < g->env.nrecipients; i += n) {
		v = &g->v[i];
		for (n = 1; i + n < g->env.nrecipients; n++)
			if (!reply_same(v, v + n))
				break;
		part.recipients = g->env.recipients + i;
		part.nrecipients = n;
		if (v->code == 0)
			text_copy(text, sizeof text, "not tried: another "
			    "part of the message was refused");
		else
			snprintf(text, sizeof text, "%d %s %s", v->code, v->enh,
			    v->text);
		logger_put(&f->r->set->log, LOG_INFO, "part", &part, text);
	}
}

/* Where all went to one place its reply is the message's, and is recorded with
   that; else each part has a record. */
static void
note_groups(struct fan *f)
{
	for (size_t i = 0; i < f->ngroups; i++) {
		hop_note(f->r, f->groups[i].hop);
		if (f->ngroups > 1)
			log_part(f, &f->groups[i]);
	}
	if (f->ngroups > 1)
		f->r->notes = (struct notes){ .relay = "several", .delay = -1 };
}

/* Sends the message to all groups, or, if all must share one fate, to none of
   those that are left when it is a failure and nobody has the message. */
static void
send_groups(struct fan *f)
{
	const struct group *end = f->groups + f->ngroups;
	size_t good = 0, bad = 0, failed;
	struct group *g;

	for (g = f->groups; g < end; g++)
		offer_group(f, g);
	if (!f->r->set->lmtp)
		agree_count(f->v, f->env->nrecipients, &bad);
	for (g = f->groups; g < end; g++) {
		if (!f->r->set->lmtp && bad > 0 && good == 0) {
			abandon_group(f, g);
			continue;
		}
		send_group(f, g);
		good += agree_count(g->v, g->env.nrecipients, &failed);
		bad += failed;
	}
}

/* Sends a message to each recipient's hop. */
static void
send_everywhere(const struct job *j, struct reply r[])
{
	const struct envelope *env = j->env;
	struct fan f = {
		.r = j->r, .env = env, .spool = j->spool, .form = j->form,
		.deadline = j->deadline
	};
	size_t i;

	if (!hops_read_routes(j->r)) {
		reply_config_error(&r[0]);
		reply_spread(r, env->nrecipients);
		return;
	}
	if (!find_groups(&f)) {
		reply_local_error(&r[0]);
		reply_spread(r, env->nrecipients);
	} else {
		send_groups(&f);
		note_groups(&f);
		for (i = 0; i < env->nrecipients; i++)
			r[f.origin[i]] = f.v[i];
		if (!j->r->set->lmtp) {
			struct reply all;

			reply_accept(&all, env);
			agree(&j->r->set->log, env, r, f.ngroups, &all);
			r[0] = all;
			reply_spread(r, env->nrecipients);
		}
	}
	fan_free(&f);
}

/* ---- The interface ---- */

struct relay *
relay_open(const struct relay_settings *set, char *error, size_t size)
{
	static struct relay only;	/* untouched pages cost nothing */
	const struct transport *t = NULL;
	const char *spec = set->spec;
	struct relay *r = &only;

	memset(r, 0, sizeof *r);
	r->set = set;
	r->transports = transports;
	route_file_open(&r->routes, set->routes);
	route_file_open(&r->senders, set->sender_routes);
	r->auth_file = set->auth == NULL ? -1
	    : open(set->auth, O_RDONLY | O_CLOEXEC);
	if (spec != NULL) {
		t = hop_transport(r, spec, error, size);
	} else if (program_check(set->program, error, size)) {
		t = &transport_program;
		spec = "program:";
	}
	if (t != NULL && hop_add(r, &r->usual, t, spec, error, size) &&
	    (set->quarantine == NULL || hop_add(r, &r->quarantine,
	    &transport_maildir, set->quarantine, error, size)))
		return r;
	relay_close(r);
	return NULL;
}

enum spool_form
relay_form(const struct relay *r)
{
	enum spool_form form = hop_form(r, &r->usual);

	/* A route may lead to a next hop, and LF can be had from CRLF. */
	return hops_vary(r->set) ? SPOOL_CRLF
	    : form == SPOOL_NONE && r->set->show ? SPOOL_LF : form;
}

bool
relay_dsn(const struct relay *r)
{
	return r->usual.transport->dsn;
}

bool
relay_screens(const struct relay *r)
{
	return hops_vary(r->set) || r->usual.transport->reach == REFUSAL;
}

bool
relay_may_forward(const struct relay *r)
{
	return hops_vary(r->set) || r->usual.transport->forwards;
}

bool
relay_forwards(struct relay *r, const struct envelope *env, bool *named)
{
	const struct hop *h;

	*named = false;
	if (!hops_vary(r->set))
		return r->usual.transport->forwards;
	h = hops_read_routes(r) ? hop_route(r, env->recipients[0].address,
	    env->fact[FACT_SENDER], named) : NULL;
	return h != NULL && h->transport->forwards;
}

void
relay_rcpt(struct relay *r, const struct envelope *env, struct reply *v)
{
	const struct hop *h;
	bool named;

	if (!hops_read_routes(r)) {
		reply_config_error(v);
		return;
	}
	h = hop_route(r, env->recipients[0].address, env->fact[FACT_SENDER],
	    &named);
	if (h == NULL)
		reply_local_error(v);
	else if (h->transport->reach == REFUSAL)
		refuse(h, v);
}

void
relay_deliver(struct relay *r, const struct envelope *env, int spool,
    struct reply v[])
{
	const struct job j = {
		.r = r, .env = env, .spool = spool, .form = relay_form(r),
		.deadline = clock_after(r->set->timeout)
	};
	const struct transport *t = r->usual.transport;
	size_t failed;

	r->notes = (struct notes){ .delay = -1 };
	if (env->nrecipients == 0)
		return;
	if (hops_vary(r->set) || t->reach != LOCAL) {
		send_everywhere(&j, v);
	} else {
		reply_accept(&v[0], env);
		reply_spread(v, env->nrecipients);
		t->deliver(&j, &r->usual, v);
	}
	if (r->set->show && agree_count(v, env->nrecipients, &failed) > 0)
		print_shown(&j);
}

const struct notes *
relay_notes(const struct relay *r)
{
	return &r->notes;
}

void
relay_quarantine(struct relay *r, const struct envelope *env, int spool,
    enum spool_form form, struct reply v[])
{
	struct fan f = { .r = r, .env = env, .spool = spool, .form = form,
		.deadline = clock_after(r->set->timeout) };
	struct group g = { .hop = &r->quarantine, .env = *env, .v = v };

	reply_accept(&v[0], env);
	reply_spread(v, env->nrecipients);
	deliver_group(&f, &g);
	fan_free(&f);
}

/* Can the file of --relay-auth be read, also where no next hop needs it yet? */
static void
check_credentials_file(const struct relay *r, struct findings *f)
{
	bool told = false;	/* by a next hop's own probe */
	int fd;

	if (r->set->auth == NULL)
		return;
	for (const struct hop *h = r->hops; h != NULL; h = h->link)
		told = told || h->transport->reach == REMOTE;
	fd = file_again(r->auth_file, r->set->auth);
	if (fd == -1 && !told)
		findings_add(f, FINDING_BAD, "--relay-auth %s: %s",
		    r->set->auth, strerror(errno));
	if (fd != -1)
		findings_add_secret(f, r->set->auth, fd);
	file_close(&fd);
}

void
relay_check(struct relay *r, const struct expected *from, struct findings *f)
{
	const bool both = r->set->routes != NULL &&
	    r->set->sender_routes != NULL;
	size_t n = 0;

	if (hops_vary(r->set) && hops_read_routes(r)) {
		for (struct hop *h = r->hops; h != NULL; h = h->link)
			n += h != &r->usual && h != &r->quarantine;
		findings_add(f, FINDING_GOOD, "%s %s%s%s lead%s to %zu "
		    "relay%s", r->set->routes != NULL ? "--routes" :
		    "--sender-routes", r->set->routes != NULL ?
		    r->set->routes : r->set->sender_routes, both ?
		    " and --sender-routes " : "", both ?
		    r->set->sender_routes : "", both ? "" : "s", n,
		    n == 1 ? "" : "s");
	}
	route_file_check(&r->routes, f);
	route_file_check(&r->senders, f);
	r->expected = from;
	for (struct hop *h = r->hops; h != NULL; h = h->link)
		if (h->transport->probe != NULL)
			h->transport->probe(r, h, f);
		else if (h == &r->usual && h->transport->reach == REFUSAL &&
		    !hops_vary(r->set))
			findings_add(f, FINDING_DOUBT, "%s: this is the reply "
			    "to all mail", h->spec);
		else
			findings_add(f, FINDING_GOOD, "%s", h->spec);
	check_credentials_file(r, f);
}

void
relay_close(struct relay *r)
{
	if (r == NULL)
		return;
	hops_close(r);
	route_file_close(&r->routes);
	route_file_close(&r->senders);
	file_close(&r->auth_file);
}
