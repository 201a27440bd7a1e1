/*
 * fan.c - one message to next hops, and to several places at once.
 *
 * How a message goes out:
 *  - Each recipient is looked up in the routes, which gives its hop: a
 *    program, a file, a next hop, a refusal.  Recipients are grouped by hop.
 *  - Every group is offered: next hops see the envelope, no data yet.
 *  - In SMTP, where there is one reply for all, one refusal here ends it:
 *    nobody gets the message.  In LMTP only the refused ones drop out.
 *  - The message is sent to next hops first, for they can still say no, then
 *    to what is local, where little can fail.
 *  - If it fails before anybody has it, that failure is the verdict.  After
 *    that the others are still served, and the verdict names those who have
 *    the message and those who have not.
 */
#define _GNU_SOURCE	/* asprintf */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/transport.h"

#define REASON_TEXT 200		/* octets of one recipient's reply when it is
				   quoted within the reply for all */

/* ---- Routes ---- */

/* The hop that spec describes, new or known.  NULL with a sentence in
   error[0..size) if there is none. */
static struct hop *
hop_find(struct relay *r, const char *spec, char *error, size_t size)
{
	const struct transport *t;
	size_t len = strlen(spec) + 1;
	struct hop *h;

	for (h = r->hops; h != NULL; h = h->link)
		if (strcmp(h->spec, spec) == 0)
			return h;
	t = hop_transport(spec, error, size);
	if (t == NULL)
		return NULL;
	h = calloc(1, sizeof *h + len);
	if (h == NULL) {
		snprintf(error, size, "out of memory");
		return NULL;
	}
	memcpy(h + 1, spec, len);
	return hop_add(r, h, t, (char *)(h + 1), error, size) ? h : NULL;
}

/*
 * The hop of a route's right-hand side.  As in transport(5) an empty
 * transport with an empty next hop is what there would be without routes, and
 * an empty transport alone leaves RELAY's.
 */
static struct hop *
route_hop(void *relay, const char *result, char *error, size_t size)
{
	struct relay *r = relay;
	const struct transport *t = r->usual.transport;
	struct hop *h;
	char *spec;

	if (strcmp(result, ":") == 0)
		return &r->usual;
	if (result[0] == '\0') {
		snprintf(error, size, "no relay stands behind the blank");
		return NULL;
	}
	if (result[0] != ':')
		return hop_find(r, result, error, size);
	if (t->kind != REMOTE) {
		snprintf(error, size, "%s needs a transport, for RELAY is not "
		    "a next hop", result);
		return NULL;
	}
	if (asprintf(&spec, "%s%s", t->name, result) == -1) {
		snprintf(error, size, "out of memory");
		return NULL;
	}
	h = hop_find(r, spec, error, size);
	free(spec);
	return h;
}

/* Reads the file of routes, once.  False if there is anything in it that
   makes no sense: then nothing can be routed. */
static bool
read_routes(struct relay *r)
{
	if (r->set->routes == NULL || r->table != NULL || r->broken)
		return !r->broken;
	r->table = routes_read(r->routes_file, r->set->routes, &r->set->log,
	    route_hop, r);
	r->broken = r->table == NULL;
	return !r->broken;
}

/* Who has them mended will get the mail. */
static void
no_routes(struct reply *v)
{
	reply_set(v, 451, "4.3.5", "Local configuration error");
}

/* The hop for an address, by the routes or RELAY.  NULL: no memory. */
static struct hop *
route(struct relay *r, const char *address)
{
	struct hop *h = NULL;

	if (r->set->routes != NULL && !routes_find(r->table, address, &h))
		return NULL;
	return h != NULL ? h : &r->usual;
}

/* ---- The way out ---- */

/* Copies a message with CRLF into s with LF.  Returns s's descriptor, or -1
   with errno. */
static int
unix_lines(struct spool *s, int from)
{
	char buffer[16384];
	off_t at = 0;
	ssize_t n;

	spool_open(s, SPOOL_LF, NULL, NULL);
	while ((n = pread(from, buffer, sizeof buffer, at)) > 0) {
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
	struct spool *text;		/* the same with LF, once somebody wants
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
arrays(struct fan *f, size_t count)
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
gather(struct fan *f)
{
	static const enum reach order[] = { REFUSAL, REMOTE, LOCAL };
	size_t count = f->env->nrecipients, n = 0, k, i;

	if (!arrays(f, count))
		return false;
	for (i = 0; i < count; i++) {
		f->hops[i] = route(f->r, f->env->recipients[i].address);
		if (f->hops[i] == NULL)
			return false;
	}
	for (k = 0; k < COUNT(order); k++)
		for (i = 0; i < count; i++)
			if (f->hops[i] != NULL &&
			    f->hops[i]->transport->kind == order[k])
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

/* How many of v[0..n) have the message, and in *failed how many are refused. */
static size_t
count(const struct reply v[], size_t n, size_t *failed)
{
	size_t i, good = 0;

	*failed = 0;
	for (i = 0; i < n; i++) {
		good += v[i].code != 0 && v[i].code < 400;
		*failed += v[i].code >= 400;
	}
	return good;
}

/* Shows the envelope to a group's hop. */
static void
offer(struct fan *f, struct group *g)
{
	struct hop *h = g->hop;

	reply_accept(&g->v[0], &g->env);
	if (h->transport->kind == REFUSAL)
		g->v[0] = h->refusal;
	reply_spread(g->v, g->env.nrecipients);
	if (h->transport->kind != REMOTE)
		return;
	if (h->next == NULL)
		h->next = nexthop_open(f->r->set, h->transport->protocol,
		    h->where, f->r->auth_file);
	if (h->next != NULL) {
		nexthop_offer(h->next, &g->env, f->spool, f->deadline,
		    g->v);
		return;
	}
	reply_set(&g->v[0], 451, "4.3.0", "Local error in processing");
	reply_spread(g->v, g->env.nrecipients);
}

/* Sends nothing to a group that was offered: those that had accepted count as
   not tried. */
static void
abandon(struct fan *f, struct group *g)
{
	size_t i;

	if (g->hop->transport->kind == REMOTE && g->hop->next != NULL)
		nexthop_abandon(g->hop->next, f->deadline);
	for (i = 0; i < g->env.nrecipients; i++)
		if (g->v[i].code < 400)
			g->v[i].code = 0;
}

/* Delivers within this machine. */
static void
deliver(struct fan *f, struct group *g)
{
	struct job j = { f->r, &g->env, f->spool, f->deadline };

	/* Binary text has no line ends that could be changed: RFC 3030 3. */
	if (f->form == SPOOL_CRLF && hop_form(f->r, g->hop) == SPOOL_LF &&
	    f->env->body != BODY_BINARYMIME) {
		if (f->text == NULL) {
			f->text = malloc(sizeof *f->text);
			if (f->text != NULL &&
			    unix_lines(f->text, f->spool) == -1)
				f->text->error = errno;
		}
		if (f->text == NULL || f->text->error != 0) {
			job_fail(&j, "spool",
			    f->text != NULL ? f->text->error : ENOMEM, g->v);
			reply_spread(g->v, g->env.nrecipients);
			return;
		}
		j.spool = f->text->fd;
	}
	g->hop->transport->take(&j, g->hop, g->v);
	reply_spread(g->v, g->env.nrecipients);
}

static void
send_to(struct fan *f, struct group *g)
{
	size_t failed;

	if (count(g->v, g->env.nrecipients, &failed) == 0)
		abandon(f, g);
	else if (g->hop->transport->kind == REMOTE)
		nexthop_send(g->hop->next, &g->env, f->spool, f->form,
		    f->deadline, g->v);
	else
		deliver(f, g);
}

/* Sends the message to all groups, or, if all must share one fate, to none of
   those that are left when it is a failure and nobody has the message. */
static void
send_all(struct fan *f)
{
	size_t i, good = 0, bad = 0, failed;

	for (i = 0; i < f->ngroups; i++) {
		if (f->groups[i].hop != &f->r->usual)
			logger_printf(&f->r->set->log, LOG_INFO, "routed",
			    &f->groups[i].env, "to %s",
			    f->groups[i].hop->spec);
		offer(f, &f->groups[i]);
	}
	if (!f->r->set->lmtp)
		count(f->v, f->env->nrecipients, &bad);
	for (i = 0; i < f->ngroups; i++) {
		if (!f->r->set->lmtp && bad > 0 && good == 0) {
			abandon(f, &f->groups[i]);
			continue;
		}
		send_to(f, &f->groups[i]);
		good += count(f->groups[i].v, f->groups[i].env.nrecipients,
		    &failed);
		bad += failed;
	}
}

/*
 * Appends to text[0..size) a line for each recipient that has the message, or
 * for each that was refused, as far as there is room; margin octets are left.
 */
static void
list(const struct fan *f, bool good, char *text, size_t size, size_t margin)
{
	size_t total, done = 0, len = strlen(text), i;
	const struct reply *v;
	char line[640], reason[REASON_TEXT], *p;

	total = count(f->v, f->env->nrecipients, &i);
	total = good ? total : i;
	for (i = 0; i < f->env->nrecipients; i++) {
		v = &f->v[i];
		if (v->code == 0 || (v->code < 400) != good)
			continue;
		snprintf(reason, sizeof reason, "%.*s", REASON_TEXT - 1,
		    v->text);
		for (p = reason; (p = strchr(p, '\n')) != NULL; )
			*p = ' ';
		snprintf(line, sizeof line, good ?
		    "\nDelivered to <%.320s>" :
		    "\nNot delivered to <%.320s>: %d%s%s %s",
		    f->recipients[i].address, v->code, *v->enh ? " " : "",
		    v->enh, reason);
		if (strlen(line) + len + margin >= size)
			break;
		len += (size_t)snprintf(text + len, size - len, "%s", line);
		done++;
	}
	if (done < total)
		snprintf(text + len, size - len, "\nand %zu more",
		    total - done);
}

/* Some recipients have the message and some have not: the administrator is
   to know which. */
static void
log_partial(const struct fan *f, size_t good, size_t bad)
{
	const struct reply *v;
	size_t i;

	logger_printf(&f->r->set->log, LOG_WARNING, "partial", f->env,
	    "%zu recipients have the message and %zu have not: if it is sent "
	    "again, duplicates are possible", good, bad);
	for (i = 0; i < f->env->nrecipients; i++) {
		v = &f->v[i];
		logger_printf(&f->r->set->log, LOG_WARNING, "partial", f->env,
		    "<%s>: %d %s %s", f->recipients[i].address, v->code,
		    v->enh, v->text);
	}
}

/*
 * One reply for all recipients (SMTP).  If they all had the same it is that
 * one, word for word.  Otherwise a refusal names them, and it is temporary if
 * any of them is: what is sent again may arrive twice, and is not lost.
 */
static void
unite(const struct fan *f, struct reply *v)
{
	size_t n = f->env->nrecipients, good, bad, alike = 0, i;
	const struct reply *worst = NULL;
	char text[REPLY_TEXT];

	good = count(f->v, n, &bad);
	for (i = 0; i < n; i++) {
		if (f->v[i].code == 0 || (bad > 0 && f->v[i].code < 400))
			continue;
		if (worst == NULL || (worst->code >= 500 && f->v[i].code < 500))
			worst = &f->v[i];
	}
	assert(worst != NULL);	/* somebody was asked, and said something */
	for (i = 0; i < n; i++)
		alike += reply_same(&f->v[i], worst);
	if (alike == n || (bad == 0 && f->ngroups == 1)) {
		*v = *worst;
		return;
	}
	if (bad == 0) {
		reply_accept(v, f->env);
		return;
	}
	snprintf(text, sizeof text, "%s", good == 0 ?
	    "The message was not accepted for anyone" :
	    "Some recipients have the message, and some have not");
	list(f, false, text, sizeof text, good == 0 ? 40 : 440);
	if (good > 0) {
		list(f, true, text, sizeof text, 40);
		log_partial(f, good, bad);
	}
	reply_set(v, worst->code, worst->enh, text);
}

/* ---- The interface ---- */

void
fan_rcpt(struct relay *r, const struct envelope *env, struct reply *v)
{
	const struct hop *h;

	if (!read_routes(r)) {
		no_routes(v);
		return;
	}
	h = route(r, env->recipients[0].address);
	if (h == NULL)
		reply_set(v, 451, "4.3.0", "Local error in processing");
	else if (h->transport->kind == REFUSAL)
		*v = h->refusal;
}

bool
hop_forwards(const struct hop *h)
{
	return h->transport->kind == REMOTE &&
	    h->transport->protocol != NEXTHOP_LMTP;
}

bool
fan_forwards(struct relay *r, const char *address, bool *named)
{
	const struct hop *h = read_routes(r) ? route(r, address) : NULL;

	if (h == NULL || !hop_forwards(h))
		return false;
	*named = routes_name(r->table, address);
	return true;
}

void
fan_out(const struct job *j, struct reply v[])
{
	struct relay *r = j->r;
	const struct envelope *env = j->env;
	struct fan f = {
		.r = r, .env = env, .spool = j->spool, .form = relay_form(r),
		.deadline = j->deadline
	};
	size_t i;

	if (!read_routes(r)) {
		no_routes(&v[0]);
		reply_spread(v, env->nrecipients);
		return;
	}
	if (!gather(&f)) {
		reply_set(&v[0], 451, "4.3.0", "Local error in processing");
		reply_spread(v, env->nrecipients);
	} else {
		send_all(&f);
		for (i = 0; i < env->nrecipients; i++)
			v[f.origin[i]] = f.v[i];
		if (!r->set->lmtp) {
			unite(&f, &v[0]);
			reply_spread(v, env->nrecipients);
		}
	}
	fan_free(&f);
}
