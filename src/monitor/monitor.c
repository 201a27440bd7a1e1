/*
 * monitor.c - what the monitor does with each question of the channel process.
 *
 * Questions come from a process where strangers' octets were parsed, so the
 * monitor believes none: wire.c checks their form, monitor_may_be_asked() what
 * they want and what rides on them, and a question that does not pass ends the
 * session.  The client's address, TLS and user are the monitor's own facts:
 * they replace those of the question.
 */
#define _GNU_SOURCE	/* strsep */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/spool.h"
#include "base/text.h"
#include "monitor/domain.h"
#include "monitor/grammar.h"
#include "monitor/private.h"
#include "net/engine.h"
#include "service/policy.h"

/* Adds one service to those that are asked.  NULL is none.  Returns false with
   a sentence in error[0..size). */
static bool
add_service(struct monitor *m, const struct service *kind, const char *where,
    char *error, size_t size)
{
	struct asked *a = &m->service[m->nservices];

	if (where == NULL)
		return true;
	a->kind = kind;
	a->where = where;
	a->ctx = kind->open(where, &m->services, error, size);
	m->nservices += a->ctx != NULL;
	return a->ctx != NULL;
}

/* Opens the services: the policy service is asked before the filters. */
static bool
open_services(struct monitor *m, char *error, size_t size)
{
	const struct monitor_settings *set = m->set;
	const struct asked *a;
	bool good;

	if (set->policy == NULL && set->nmilters == 0)
		return true;
	m->services = (struct service_settings){
		.log = &set->log, .timeout = set->policy_timeout,
		.connect = set->milter_times[0],
		.command = set->milter_times[1],
		.content = set->milter_times[2], .away = set->milter_away,
		.fqdn = set->relay.fqdn, .mailer = set->relay.spec };
	if (set->relay.spec == NULL)
		m->services.mailer = "program:";
	m->services.mailer_len = strcspn(m->services.mailer, ":");
	m->own[0] = set->no_received ? set->x_peer ? "X-Peer" : NULL
	    : "Received";
	m->own[1] = !set->no_received && set->x_peer ? "X-Peer" : NULL;
	good = add_service(m, &service_policy, set->policy, error, size);
	for (size_t i = 0; good && i < set->nmilters; i++)
		good = add_service(m, &service_milter, set->milters[i], error,
		    size);
	for (a = m->service; a < m->service + m->nservices; a++)
		for (size_t i = 0; i < STAGES; i++)
			if (i != STAGE_END_OF_MESSAGE &&
			    a->kind->asks(a->ctx, (enum stage)i))
				m->record.wanted[i] = true;
	return good;
}

struct monitor *
monitor_open(const struct monitor_settings *set, char *error, size_t size)
{
	static struct monitor only;	/* untouched pages cost nothing */
	struct monitor *m = &only;

	memset(m, 0, offsetof(struct monitor, wire));
	m->set = set;
	m->wire.peer = m->engine = -1;
	m->wire.broken = false;
	m->relay = relay_open(&set->relay, error, size);
	if (m->relay == NULL)
		return NULL;
	if (set->relay.live && !relay_live_possible(m->relay)) {
		text_copy(error, size, "--live needs a next hop: smtp:, "
		    "smtps: or lmtp:");
		goto bad;
	}
	m->access = access_open(&set->access, &set->log, error, size);
	if (m->access == NULL)
		goto bad;
	if (set->senders != NULL)
		m->senders = senders_open(set->senders, &set->log);
	if (set->from != NULL && (m->from = from_open(set->from, &set->log,
	    error, size)) == NULL)
		goto bad;
	if (!open_services(m, error, size))
		goto bad;
	if (set->relay.through) {
		if (!relay_auth_possible(m->relay, error, size))
			goto bad;
	} else if (set->auth != NULL) {
		m->auth = auth_open(set->auth, set->policy_timeout, &set->log,
		    error, size);
		if (m->auth == NULL)
			goto bad;
		if (set->log_names)
			auth_keep_names(m->auth);
	}
	return m;
bad:
	monitor_close(m);
	return NULL;
}

void
monitor_close(struct monitor *m)
{
	if (m == NULL)
		return;
	if (m->wire.peer != -1)
		close(m->wire.peer);
	relay_close(m->relay);
	access_close(m->access);
	from_close(m->from);
	senders_close(m->senders);
	for (size_t i = 0; i < m->nservices; i++)
		m->service[i].kind->close(m->service[i].ctx);
	record_forget(&m->record);
	auth_close(m->auth);
	tls_await_end(&m->engine);
}

void
monitor_probe_services(struct monitor *m, struct findings *f)
{
	for (size_t i = 0; i < m->nservices; i++)
		if (m->service[i].kind->probe != NULL)
			m->service[i].kind->probe(m->service[i].ctx, f);
}

bool
monitor_dsn(const struct monitor *m)
{
	return relay_dsn(m->relay);
}

/* Does the channel process say when a transaction is over? */
static bool
hears_of_ends(const struct monitor *m)
{
	return m->nservices > 0 || m->set->relay.live;
}

struct monitor_wants
monitor_wants(const struct monitor *m)
{
	struct monitor_wants w = {
		.form = monitor_form(m),
		.forget = hears_of_ends(m),
		.live = m->set->relay.live,
		.group = m->set->relay.live && m->nservices == 0,
		.unknown = m->set->nmilters > 0,
		.status = m->set->status != NULL,
	};

	for (size_t i = 0; i < STAGES; i++)
		w.stage[i] = m->record.wanted[i];
	if (m->set->relay.live)
		w.stage[STAGE_MAIL] = w.stage[STAGE_RCPT] =
		    w.stage[STAGE_VRFY] = true;
	if (m->set->senders != NULL)
		w.stage[STAGE_MAIL] = true;
	if (relay_screens(m->relay) || monitor_is_limited(m))
		w.stage[STAGE_RCPT] = true;
	return w;
}

/* ---- acting ---- */

/* Remembers what the TLS engine said of the client.  RFC 3207 4.2: what the
   client said in the clear is forgotten. */
static void
remember_tls(struct monitor *m, const char *report)
{
	char *rest = m->report, *name, *value;
	size_t i;

	monitor_forget_login(m);
	record_restart(&m->record);
	m->recipients = 0;
	for (i = FACT_TLS_PROTOCOL; i <= FACT_TLS_FINGERPRINT; i++)
		m->known[i] = "";
	text_copy(m->report, sizeof m->report, report);
	while ((value = strsep(&rest, "\n")) != NULL) {
		name = strsep(&value, "=");
		for (i = 0; i < FACTS; i++)
			if (value != NULL && *name != '\0' &&
			    strcmp(fact_names[i].report, name) == 0)
				m->known[i] = value;
	}
}

static int
serve_tls(struct monitor *m, int client, char *report, size_t size)
{
	const struct tls_settings *tls = &m->set->tls;
	char cert[16], key[16], timeout[16];
	bool mistake;
	int fd;
	struct tls_job j = {
		.resident = tls->resident, .words = { "server", "--timeout",
		    timeout }, .own = { "--certfd", cert, "--keyfd", key },
		.keep = { tls->cert, tls->key, -1 }, .fd = client,
		.deadline = clock_within(m->end, (int)tls->timeout),
		.stop = m->signals,
		.log = &m->set->log, .process = &m->engine,
		.mistake = &mistake
	};

	if (m->stopping) {
		text_copy(report, size, TLS_STOPPED);
		shutdown(client, SHUT_RDWR);
		return -1;
	}
	snprintf(cert, sizeof cert, "%d", tls->cert);
	snprintf(key, sizeof key, "%d", tls->key);
	snprintf(timeout, sizeof timeout, "%u", tls->timeout);
	if (tls->ca != NULL) {
		j.own[4] = "--ca";
		j.own[5] = tls->ca;
	}
	if (tls->key != -1)
		j.program = tls->program;
	fd = tls_start(&j, report, size);
	if (fd != -1)
		remember_tls(m, report);
	else if (mistake)
		logger_printf(&m->set->log, LOG_ERR, "config-error", NULL, "%s",
		    report);
	return fd;
}

/* Is q->a an event that the channel process may log, and q->b a text about
   it? */
static bool
is_record(const struct question *q)
{
	/* Events of what only the monitor does. */
	static const char own[][16] = { "message-relayed", "refused",
		"auth-ok", "auth-failed", "channel-broken", "relay" };
	const char *p = q->a;

	for (size_t i = 0; p != NULL && i < COUNT(own); i++)
		if (strcmp(p, own[i]) == 0)
			return false;
	while (p != NULL && ((*p >= 'a' && *p <= 'z') || *p == '-'))
		p++;
	return p != NULL && p > q->a && *p == '\0' && q->b != NULL;
}

/* Has the client the TLS and the AUTH that are required?  The channel checks
   that too, but only here it is certain: unless only the channel knows the
   fact, which is NULL here. */
static bool
may_relay(const struct monitor *m)
{
	const char *method = m->known[FACT_SASL_METHOD];
	const char *tls = m->known[FACT_TLS_PROTOCOL];

	return (!m->set->auth_required || method == NULL ||
	    method[0] != '\0') &&
	    (!m->set->tls_required || tls == NULL || tls[0] != '\0');
}

/* May n more recipients be asked about, after so many?  Each that is accepted
   takes memory until the transaction is over. */
static bool
has_room(const struct monitor *m, size_t before, size_t n)
{
	const size_t max = m->set->max_recipients;

	return !hears_of_ends(m) || before + n <= (max == 0
	    || max > WIRE_RECIPIENTS ? WIRE_RECIPIENTS : max);
}

bool
monitor_may_be_asked(const struct monitor *m, const struct question *q)
{
	struct stat st;
	bool file = q->fd != -1 && fstat(q->fd, &st) == 0;
	bool one = q->number == STAGE_RCPT || q->number == STAGE_VRFY;

	if (q->env != NULL && !grammar_allows(q->env))
		return false;
	switch (q->ask) {
	case ASK_STAGE:
		return q->env != NULL && q->number < STAGES &&
		    q->number != STAGE_END_OF_MESSAGE && q->fd == -1 &&
		    (!one || q->env->nrecipients == 1) &&
		    (q->number != STAGE_RCPT ||
		    has_room(m, m->recipients, 1)) &&
		    (!m->set->relay.live || q->number < STAGE_MAIL ||
		    may_relay(m));
	case ASK_GROUP:
		return q->env != NULL && q->fd == -1 && q->number <= 1 &&
		    m->set->relay.live && m->nservices == 0 &&
		    q->env->nrecipients > 0 && may_relay(m) &&
		    has_room(m, q->number == 1 ? 0 : m->recipients,
		    q->env->nrecipients);
	case ASK_HELLO:
		return q->env != NULL && q->fd == -1 && m->set->relay.live;
	case ASK_UNKNOWN:
		return q->env != NULL && q->a != NULL && q->fd == -1;
	case ASK_FORGET:
		return hears_of_ends(m) && q->fd == -1;
	case ASK_MESSAGE:
		return may_relay(m) && q->env != NULL &&
		    q->env->nrecipients > 0 &&
		    (m->set->max_messages == 0 ||
		    m->messages < m->set->max_messages) &&
		    (q->fd == -1 || (file && S_ISREG(st.st_mode) &&
		    (uint64_t)st.st_size <= q->env->size &&
		    (m->set->max_size == 0 || (uint64_t)st.st_size <=
		    m->set->max_size + MONITOR_FIELDS)));
	case ASK_MECHANISMS:
		return q->env != NULL;
	case ASK_AUTH:
		return q->env != NULL && q->a != NULL &&
		    (m->set->max_errors == 0 ||
		    m->failures < m->set->max_errors);
	case ASK_STATUS:
		return q->a != NULL && m->set->status != NULL;
	case ASK_TLS:
		return file && S_ISSOCK(st.st_mode) &&
		    (m->set->tls.key != -1 || m->set->tls.resident != NULL) &&
		    !m->tls;
	case ASK_LOG:	/* syslog writes what is worse to terminals */
		return q->number >= LOG_ERR && q->number <= LOG_DEBUG &&
		    is_record(q);
	case ASK_END:
		return q->number <= 255 && q->fd == -1 &&
		    ((q->a == NULL && q->b == NULL) || is_record(q));
	default:
		return q->fd == -1;
	}
}

/* Replaces the facts of a question by those that the monitor knows.  Only that
   a client has no login and no certificate is taken from the channel process:
   XCLIENT may have named such a client, and the known ones are of the server
   that sent XCLIENT. */
static void
override_facts(const struct monitor *m, struct envelope *env)
{
	static const bool may_be_emptied[FACTS] = {
		[FACT_CLIENT_USER] = true,
		[FACT_TLS_SUBJECT] = true,
		[FACT_TLS_ISSUER] = true,
		[FACT_TLS_FINGERPRINT] = true,
	};
	const bool xclient = m->known[FACT_SASL_USERNAME] == NULL;

	for (size_t i = 0; i < FACTS; i++)
		if (m->known[i] != NULL && (!xclient || !may_be_emptied[i] ||
		    env->fact[i][0] != '\0'))
			env->fact[i] = m->known[i];
}

/* Puts the client that XFORWARD names in the place of the one that is
   connected, for the log, services, programs and next hops.  m->client stays:
   what a client may do is not XFORWARD's affair, nor who it is to AUTH. */
static void
forward_facts(struct monitor *m, const struct question *q,
    struct envelope *env)
{
	static const struct {
		enum fact from, to;
	} rows[] = {
		{ FACT_FORWARD_ADDRESS, FACT_CLIENT_ADDRESS },
		{ FACT_FORWARD_PORT, FACT_CLIENT_PORT },
		{ FACT_FORWARD_NAME, FACT_CLIENT_NAME },
		{ FACT_FORWARD_HELO, FACT_CLIENT_HELO },
		{ FACT_FORWARD_PROTOCOL, FACT_CLIENT_PROTOCOL },
	};

	m->client = env->fact[FACT_CLIENT_ADDRESS];
	if (env->fact[FACT_FORWARD_ADDRESS][0] == '\0' ||
	    q->ask == ASK_AUTH || q->ask == ASK_MECHANISMS)
		return;
	for (size_t i = 0; i < COUNT(rows); i++)
		env->fact[rows[i].to] = env->fact[rows[i].from];
}

void
monitor_log_session(struct monitor *m)
{
	for (size_t i = 0; i < FACTS; i++)
		m->self.fact[i] = m->known[i] == NULL ? "" : m->known[i];
	if (m->set->about != NULL)
		m->set->about(m->set->log.ctx, &m->self);
}

int
monitor_get_question(struct monitor *m, struct received *r)
{
	struct reply denied;
	int status = wire_read_question(&m->wire, m->set->max_recipients, r,
	    clock_after(EXCHANGE));

	if (status == 1 && !monitor_may_be_asked(m, &r->q)) {
		errno = EBADMSG;
		return -1;
	}
	if (status == 1 && r->q.env != NULL) {
		override_facts(m, &r->env);
		forward_facts(m, &r->q, &r->env);
	}
	if (status == 1 && r->q.env != NULL && m->set->domain != NULL &&
	    !domain_complete(r, m->set->domain))
		return -1;
	if (status == 1 && r->q.env != NULL && m->set->about != NULL)
		m->set->about(m->set->log.ctx, r->q.env);
	if (status == 1 && r->q.ask == ASK_MESSAGE &&
	    (!monitor_may_send_all(m, r->q.env) ||
	    !senders_allow(m->senders, r->q.env, &denied) ||
	    (m->nservices > 0 && !record_has(&m->record, r->q.env)))) {
		errno = EBADMSG;
		return -1;
	}
	return status;
}

/* Writes a record of the channel process: one of a message tells of its user,
   who is ours to know. */
static void
log_record(struct monitor *m, const struct question *q)
{
	struct notes notes = { .delay = -1, .source = m->source };
	struct envelope noted;

	if (q->env != NULL) {
		noted = *q->env;
		noted.notes = &notes;
		if (text_starts(q->a, "message-"))
			m->untold = false;
	}
	m->set->log.log(m->set->log.ctx, (int)q->number, q->a,
	    q->env == NULL ? NULL : &noted, q->b);
}

/* Takes note of what wants no answer.  False if it wants one. */
static bool
handle_oneway(struct monitor *m, const struct question *q)
{
	switch (q->ask) {
	case ASK_FORGET:
		for (size_t i = 0; i < m->nservices; i++)
			m->service[i].kind->forget(m->service[i].ctx);
		if (m->set->relay.live)
			relay_live_forget(m->relay);
		record_forget(&m->record);
		m->recipients = 0;
		return true;
	case ASK_ABANDON:
		monitor_abandon_auth(m);
		return true;
	case ASK_STATUS:
		m->set->status(m->set->log.ctx, q->a, q->number != 0);
		return true;
	case ASK_LOG:
		log_record(m, q);
		return true;
	case ASK_END:
		m->ended = true;
		m->status = (int)q->number;
		monitor_tell_login(m);
		if (q->a != NULL)
			m->set->log.log(m->set->log.ctx, LOG_INFO, q->a,
			    q->env, q->b);
		return true;
	default:
		return false;
	}
}

/* Does what is asked: fills in v, m->text and *fd. */
static void
run_question(struct monitor *m, const struct question *q, struct reply *v,
    int *fd)
{
	switch (q->ask) {
	case ASK_STAGE:
		monitor_answer_stage(m, (enum stage)q->number, q->env, v,
		    m->text);
		break;
	case ASK_UNKNOWN:
		monitor_answer_unknown(m, q->a, q->env, v);
		break;
	case ASK_GROUP:
		monitor_answer_group(m, q->number == 1, q->env, v);
		break;
	case ASK_HELLO:
		relay_live_hello(m->relay, q->env, m->text, sizeof m->text);
		break;
	case ASK_MESSAGE:
		m->messages++;
		monitor_relay(m, q->env, q->fd, v);
		break;
	case ASK_FILE:
		*fd = spool_file(NULL);
		if (*fd == -1)
			snprintf(m->text, sizeof m->text, "%d", errno);
		break;
	case ASK_MECHANISMS:
		text_copy(m->text, 512, monitor_mechanisms(m, q->env));
		break;
	case ASK_AUTH:
		monitor_authenticate(m, q, v, m->text);
		break;
	case ASK_TLS:
		m->tls = true;
		*fd = serve_tls(m, q->fd, m->text, MONITOR_REPORT);
		break;
	default:
		break;
	}
}

int
monitor_handle(struct monitor *m, struct received *r)
{
	const struct question *q = &r->q;
	size_t n = q->ask == ASK_GROUP && q->env != NULL
	    ? q->env->nrecipients + q->number
	    : q->ask == ASK_MESSAGE && q->env != NULL
	    ? q->env->nrecipients
	    : q->ask == ASK_STAGE || q->ask == ASK_UNKNOWN ||
	    q->ask == ASK_AUTH;
	/* Zeroed: what lay there before is not for the channel process. */
	struct reply one = { .code = 0 }, *v = &one;
	int fd = -1, status;

	/* monitor_may_be_asked() saw to it. */
	assert(q->a != NULL || (q->ask != ASK_AUTH && q->ask != ASK_UNKNOWN));
	assert(q->env != NULL || q->ask != ASK_MESSAGE);
	if (handle_oneway(m, q))
		return 0;
	if (n > 1 && (v = calloc(n, sizeof *v)) == NULL)
		return -1;
	m->text[0] = '\0';
	if (n > 0 && clock_left(m->end) == 0) {
		reply_set(&v[0], 421, "4.4.2", "Timed out");
		reply_spread(v, n);
	} else {
		run_question(m, q, v, &fd);
	}
	monitor_log_session(m);
	/* No spool and no password is left when the answer is there. */
	wire_dispose(&m->wire, r);
	status = wire_send_answer(&m->wire, v, n, m->text, fd,
	    clock_after(EXCHANGE));
	file_close(&fd);
	if (v != &one)
		free(v);
	return status;
}
