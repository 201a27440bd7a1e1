/*
 * relay.c - takes one envelope and one spooled message and says what became
 * of them, for each recipient.
 *
 * It keeps no queue and tries nothing twice: a verdict below 400 means that
 * somebody else has the message, safely.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
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

/* ---- Hops ---- */

static void
take_nothing(const struct job *j, struct hop *h, struct reply *v)
{
	(void)j;
	(void)h;
	(void)v;
}

static bool
check_anything(struct hop *h, char *error, size_t size)
{
	(void)h;
	(void)error;
	(void)size;
	return true;
}

static bool
check_folder(struct hop *h, char *error, size_t size)
{
	if (*h->where != '\0')
		return true;
	snprintf(error, size, "maildir: needs a folder");
	return false;
}

static bool
check_places(struct hop *h, char *error, size_t size)
{
	if (*h->where != '\0')
		return nexthop_valid(h->transport->protocol, h->where, error,
		    size);
	snprintf(error, size, "%s needs a host or a socket", h->spec);
	return false;
}

/* "error:4.3.0 text", "error:5.1.1 text", "error:text". */
static bool
check_refusal(struct hop *h, char *error, size_t size)
{
	const char *p = h->where;
	size_t len = text_enhanced(p);
	char enh[12] = "5.0.0";

	if (*p == '2' ? len > 0 : len == 0 && text_digits(p) == 1 && p[1] == '.') {
		snprintf(error, size, "%s: the status code must be 4.y.z or "
		    "5.y.z", h->spec);
		return false;
	}
	if (len > 0)
		snprintf(enh, sizeof enh, "%.*s", (int)len, p);
	p += len;
	p += strspn(p, " \t");
	reply_set(&h->refusal, enh[0] == '4' ? 451 : 550, enh,
	    *p != '\0' ? p : "Mail is not accepted for this address");
	return true;
}

static const struct transport transports[] = {
	{ "print", LOCAL, SPOOL_LF, false, 0, check_anything, take_print },
	{ "discard", LOCAL, SPOOL_NONE, false, 0, check_anything,
	    take_nothing },
	{ "maildir", LOCAL, SPOOL_LF, false, 0, check_folder, take_maildir },
	{ "smtp", REMOTE, SPOOL_CRLF, true, NEXTHOP_SMTP, check_places, NULL },
	{ "smtps", REMOTE, SPOOL_CRLF, true, NEXTHOP_SMTPS, check_places,
	    NULL },
	{ "lmtp", REMOTE, SPOOL_CRLF, true, NEXTHOP_LMTP, check_places, NULL },
	{ "error", REFUSAL, SPOOL_NONE, false, 0, check_refusal, NULL },
};

static const struct transport program_transport = {
	"program", LOCAL, SPOOL_LF, true, 0, check_anything, take_program
};

enum spool_form
hop_form(const struct relay *r, const struct hop *h)
{
	if (r->set->crlf && h->transport->form == SPOOL_LF &&
	    h->transport->take != take_print)
		return SPOOL_CRLF;
	return h->transport->form;
}

const struct transport *
hop_transport(const char *spec, char *error, size_t size)
{
	const char *colon = strchr(spec, ':');
	size_t len = colon == NULL ? 0 : (size_t)(colon - spec), i;

	for (i = 0; i < COUNT(transports); i++)
		if (strlen(transports[i].name) == len &&
		    memcmp(transports[i].name, spec, len) == 0)
			return &transports[i];
	snprintf(error, size, "%s: not TRANSPORT:NEXTHOP with one of the "
	    "transports print, discard, maildir, smtp, smtps, lmtp, error",
	    spec);
	return NULL;
}

bool
hop_add(struct relay *r, struct hop *h, const struct transport *t,
    const char *spec, char *error, size_t size)
{
	h->transport = t;
	h->spec = spec;
	h->where = spec + strlen(t->name);
	if (*h->where == ':')
		h->where++;
	h->link = r->hops;
	r->hops = h;
	return t->check(h, error, size);
}

/* ---- The interface ---- */

static int
file_open(const char *name)
{
	return name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
}

struct relay *
relay_open(const struct relay_settings *set, char *error, size_t size)
{
	static struct relay only;	/* as monitor_open()'s */
	const struct transport *t = NULL;
	const char *spec = set->spec;
	struct relay *r = &only;

	memset(r, 0, sizeof *r);
	r->set = set;
	r->routes_file = file_open(set->routes);
	r->auth_file = file_open(set->auth);
	if (spec != NULL) {
		t = hop_transport(spec, error, size);
	} else if (check_program(set->program, error, size)) {
		t = &program_transport;
		spec = "program:";
	}
	if (t != NULL && hop_add(r, &r->usual, t, spec, error, size))
		return r;
	relay_close(r);
	return NULL;
}

enum spool_form
relay_form(const struct relay *r)
{
	/* A route may lead to a next hop, and LF can be had from CRLF. */
	return r->set->routes != NULL ? SPOOL_CRLF : hop_form(r, &r->usual);
}

bool
relay_dsn(const struct relay *r)
{
	return r->usual.transport->dsn;
}

bool
relay_screens(const struct relay *r)
{
	return r->set->routes != NULL || r->usual.transport->kind == REFUSAL;
}

bool
relay_may_forward(const struct relay *r)
{
	return r->set->routes != NULL || hop_forwards(&r->usual);
}

bool
relay_forwards(struct relay *r, const char *address, bool *named)
{
	*named = false;
	return r->set->routes == NULL ? hop_forwards(&r->usual)
	    : fan_forwards(r, address, named);
}

void
relay_rcpt(struct relay *r, const struct envelope *env, struct reply *v)
{
	if (r->set->routes != NULL)
		fan_rcpt(r, env, v);
	else if (r->usual.transport->kind == REFUSAL)
		*v = r->usual.refusal;
}

void
relay_deliver(struct relay *r, const struct envelope *env, int spool,
    struct reply v[])
{
	const struct job j = {
		.r = r, .env = env, .spool = spool,
		.deadline = clock_now() + (int64_t)r->set->timeout * 1000
	};
	struct hop *h = &r->usual;

	if (env->nrecipients == 0)
		return;
	if (r->set->routes != NULL || h->transport->kind == REMOTE) {
		fan_out(&j, v);
		return;
	}
	reply_accept(&v[0], env);
	if (h->transport->kind == REFUSAL)
		v[0] = h->refusal;
	else
		h->transport->take(&j, h, &v[0]);
	reply_spread(v, env->nrecipients);
}

void
relay_close(struct relay *r)
{
	struct hop *h;

	if (r == NULL)
		return;
	while ((h = r->hops) != NULL) {
		r->hops = h->link;
		nexthop_close(h->next);
		if (h != &r->usual)
			free(h);
	}
	routes_close(r->table);
	if (r->routes_file != -1)
		close(r->routes_file);
	if (r->auth_file != -1)
		close(r->auth_file);
}
