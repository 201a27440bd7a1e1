/*
 * monitor.c - the boundary between the process that talks to the client and
 * the one that acts for it.
 *
 * It carries questions to relay and policy and verdicts back; it decides
 * nothing about mail.
 */
#include "monitor.h"
#include "nexthop.h"

#include <stdio.h>
#include <stdlib.h>
#include <syslog.h>
#include <unistd.h>

struct monitor {
	const struct monitor_settings *set;
	struct relay *relay;
	struct policy *policy;	/* NULL: none */
	struct auth *auth;	/* NULL: EXTERNAL at most */
};

struct monitor *
monitor_open(const struct monitor_settings *set, char *error, size_t size)
{
	struct monitor *m = calloc(1, sizeof *m);

	if (m == NULL) {
		snprintf(error, size, "out of memory");
		return NULL;
	}
	m->set = set;
	m->relay = relay_open(&set->relay, error, size);
	if (m->relay == NULL)
		goto bad;
	if (set->policy != NULL) {
		m->policy = policy_open(set->policy, set->policy_timeout,
		    &set->log, error, size);
		if (m->policy == NULL)
			goto bad;
	}
	if (set->auth != NULL) {
		m->auth = auth_open(set->auth, set->policy_timeout, &set->log,
		    error, size);
		if (m->auth == NULL)
			goto bad;
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
	relay_close(m->relay);
	policy_close(m->policy);
	auth_close(m->auth);
	free(m);
}

enum spool_form
monitor_form(const struct monitor *m)
{
	/* A redirected message still has to be there. */
	return relay_form(m->relay);
}

bool
monitor_dsn(const struct monitor *m)
{
	return relay_dsn(m->relay);
}

bool
monitor_asks(const struct monitor *m, enum stage stage)
{
	return m->policy != NULL ||
	    (stage == STAGE_RCPT && relay_screens(m->relay));
}

void
monitor_stage(struct monitor *m, enum stage stage, const struct envelope *env,
    struct verdict *v, char *prepend)
{
	prepend[0] = '\0';
	if (stage == STAGE_RCPT)
		relay_rcpt(m->relay, env, v);
	if (m->policy != NULL && v->code < 400)
		policy_ask(m->policy, stage, env, v, prepend);
}

/* The event that a verdict is. */
static const char *
event_of(const struct verdict *v)
{
	return v->code < 400 ? "message-relayed"
	    : v->code < 500  ? "message-deferred"
			     : "message-refused";
}

/* One record for all recipients that share a verdict, so usually one. */
static void
log_verdicts(struct monitor *m, const struct envelope *env,
    const struct verdict v[])
{
	struct envelope one = *env;
	size_t i = 0, n;

	for (; i < env->nrecipients; i += n) {
		for (n = 1; i + n < env->nrecipients; n++)
			if (!verdict_same(&v[i], &v[i + n]))
				break;
		one.recipients = env->recipients + i;
		one.nrecipients = n;
		logger_printf(&m->set->log,
		    v[i].code < 400 ? LOG_INFO : LOG_WARNING, event_of(&v[i]),
		    &one, "%d%s%s %s", v[i].code,
		    v[i].enh[0] == '\0' ? "" : " ", v[i].enh, v[i].text);
	}
}

/* The policy service may have said that the message goes nowhere, or
   somewhere else: then all recipients share what became of it. */
void
monitor_relay(struct monitor *m, const struct envelope *env, int spool,
    struct verdict v[])
{
	const char *to = m->policy == NULL ? NULL : policy_redirects(m->policy);
	struct envelope other = *env;
	struct recipient one = { to, "" };

	if (m->policy != NULL && policy_discards(m->policy)) {
		for (size_t i = 0; i < env->nrecipients; i++)
			verdict_set(&v[i], 250, "2.0.0", "Message accepted");
	} else if (to != NULL) {
		other.recipients = &one;
		other.nrecipients = 1;
		relay_deliver(m->relay, &other, spool, v);
		for (size_t i = 1; i < env->nrecipients; i++)
			v[i] = v[0];
	} else {
		relay_deliver(m->relay, env, spool, v);
	}
	log_verdicts(m, env, v);
}

void
monitor_forget(struct monitor *m)
{
	if (m->policy != NULL)
		policy_forget(m->policy);
}

int
monitor_file(void *ctx)
{
	(void)ctx;
	return spool_file(NULL);
}

const char *
monitor_mechanisms(struct monitor *m, const struct envelope *env)
{
	return auth_mechanisms(m->auth, env);
}

void
monitor_auth(struct monitor *m, const struct envelope *env,
    const char *mechanism, const char *response, struct verdict *v,
    char *user, size_t size)
{
	auth_step(m->auth, env, mechanism, response, v, user, size);
}

void
monitor_auth_abandon(struct monitor *m)
{
	auth_abandon(m->auth);
}

int
monitor_tls(struct monitor *m, int client, char *report, size_t size)
{
	const struct tls_settings *tls = &m->set->tls;
	const int keep[] = { tls->cert, tls->key, -1 };
	char cert[16], key[16], timeout[16];
	const char *argv[12] = { tls->program, "server", "--certfd", cert,
		"--keyfd", key, "--timeout", timeout, NULL, NULL, NULL };

	snprintf(cert, sizeof cert, "%d", tls->cert);
	snprintf(key, sizeof key, "%d", tls->key);
	snprintf(timeout, sizeof timeout, "%u", tls->timeout);
	if (tls->ca != NULL) {
		argv[8] = "--ca";
		argv[9] = tls->ca;
	}
	return tls_start(argv, keep, client,
	    clock_now() + (int64_t)tls->timeout * 1000, report, size);
}

void
monitor_log(struct monitor *m, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	m->set->log.log(m->set->log.ctx, priority, event, env, text);
}
