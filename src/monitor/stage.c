/*
 * stage.c - what the monitor says at each step of the dialogue: the access
 * rule first, then routes and services, the next hop of --live last.  But of a
 * recipient filters hear last, as a server that they know tells them only of
 * those that it accepts.
 */
#include <stdlib.h>
#include <string.h>

#include "base/reply.h"
#include "base/text.h"
#include "monitor/private.h"
#include "monitor/record.h"

#define BY_MAX 512		/* octets of a service's name in the log */

bool
monitor_is_limited(const struct monitor *m)
{
	return !access_unlimited(m->access) && (access_explicit(m->access) ||
	    relay_may_forward(m->relay));
}

/* The envelope as the relay sees it.  Where --from cannot be used it has the
   client's sender, and nothing is relayed. */
static struct envelope
relay_envelope(struct monitor *m, const struct envelope *env)
{
	struct envelope mapped = *env;
	struct reply r;

	from_map(m->from, &mapped, &r);
	return mapped;
}

/* May the client send to the one recipient of env? */
static bool
may_send_to(struct monitor *m, const struct envelope *env, struct reply *r,
    char *why, size_t size)
{
	enum access_way way = ACCESS_LOCAL;
	struct envelope real = *env, mapped;
	bool named;

	if (!monitor_is_limited(m))
		return true;
	real.fact[FACT_CLIENT_ADDRESS] = m->client;
	mapped = relay_envelope(m, env);
	if (relay_forwards(m->relay, &mapped, &named))
		way = named ? ACCESS_NAMED : ACCESS_ANY;
	return access_allows(m->access, &real, way, r, why, size);
}

bool
monitor_may_send_all(struct monitor *m, const struct envelope *env)
{
	struct envelope one = *env;
	struct reply r;

	one.nrecipients = 1;
	for (size_t i = 0; monitor_is_limited(m) && i < env->nrecipients; i++) {
		one.recipients = &env->recipients[i];
		if (!may_send_to(m, &one, &r, NULL, 0))
			return false;
	}
	return true;
}

/* Tells the services from the i-th on, which were not asked, of a recipient
   that was refused. */
static void
tell_refusal(struct monitor *m, size_t i, const struct envelope *env,
    const struct reply *v)
{
	for (; i < m->nservices; i++)
		if (m->service[i].kind->refused != NULL)
			m->service[i].kind->refused(m->service[i].ctx, env, v);
}

void
monitor_answer_unknown(struct monitor *m, const char *line,
    const struct envelope *env, struct reply *v)
{
	struct reply answer;

	reply_set(v, 500, "5.5.2", "Command not recognized");
	for (size_t i = 0; i < m->nservices; i++) {
		if (m->service[i].kind->unknown == NULL)
			continue;
		answer = *v;
		m->service[i].kind->unknown(m->service[i].ctx, line, env,
		    &answer);
		if (reply_same(&answer, v))
			continue;
		*v = answer;
		break;
	}
	m->record.closed = m->record.closed || v->code == 421;
}

/* Logs that the client may not send to the recipient; why is for the log. */
static void
log_denial(struct monitor *m, const struct envelope *env, const struct reply *v,
    const char *why)
{
	struct reply told = *v;

	text_join(told.text, sizeof told.text, v->text, ": ", why, NULL);
	monitor_log_refusal(m, env, STAGE_RCPT, "--relay-clients", NULL,
	    &told);
}

/* Logs what the next hop has refused, and which one it is. */
static void
log_hop_refusal(struct monitor *m, const struct envelope *env,
    enum stage stage, const struct reply *v)
{
	struct envelope mapped = relay_envelope(m, env);

	monitor_log_refusal(m, env, stage, "next hop",
	    relay_live_notes(m->relay, &mapped), v);
}

/* What the next hop says, now that nobody here has anything against it.
   Returns whether it was asked. */
static bool
ask_next_hop(struct monitor *m, enum stage stage, const struct envelope *env,
    struct reply *v)
{
	struct envelope mapped = *env;
	struct reply denied = *v;

	if ((stage == STAGE_MAIL || stage == STAGE_RCPT) &&
	    !from_map(m->from, &mapped, v))
		return false;
	if (stage == STAGE_RCPT)
		relay_live_offer(m->relay, &mapped, NULL, v);
	else if (stage == STAGE_VRFY && may_send_to(m, env, &denied, NULL, 0))
		relay_live_vrfy(m->relay, &mapped, v);
	mapped.nrecipients = 0;
	if (stage == STAGE_MAIL)
		relay_live_offer(m->relay, &mapped, v, NULL);
	return true;
}

/* How many services, the first ones, hear nothing of refused recipients. */
static size_t
count_deaf(const struct monitor *m)
{
	size_t n = 0;

	while (n < m->nservices && m->service[n].kind->refused == NULL)
		n++;
	return n;
}

static void
ask_service(struct monitor *m, size_t i, enum stage stage,
    const struct envelope *env, struct reply *v, char *prepend, char by[BY_MAX])
{
	m->service[i].kind->ask(m->service[i].ctx, stage, env, v,
	    prepend + strlen(prepend));
	monitor_service_name(m, i, by, BY_MAX);
}

void
monitor_answer_stage(struct monitor *m, enum stage stage,
    const struct envelope *env, struct reply *v, char *prepend)
{
	struct envelope mapped;
	size_t i, first = stage == STAGE_RCPT ? count_deaf(m) : m->nservices;
	char why[128], by[BY_MAX] = "routes";
	bool hop = false;

	/* Without a text the channel has words of its own. */
	reply_set(v, 250, "2.0.0", m->set->relay.live ? "" : "OK");
	if (stage == STAGE_RCPT && !may_send_to(m, env, v, why, sizeof why)) {
		log_denial(m, env, v, why);
		tell_refusal(m, 0, env, v);
		return;
	}
	if (stage == STAGE_MAIL && !senders_allow(m->senders, env, v))
		text_copy(by, sizeof by, "--auth-senders");
	if (stage == STAGE_RCPT) {
		mapped = relay_envelope(m, env);
		relay_rcpt(m->relay, &mapped, v);
	}
	for (i = 0; i < first && v->code < 400; i++)
		ask_service(m, i, stage, env, v, prepend, by);
	if (m->set->relay.live && v->code < 400) {
		hop = ask_next_hop(m, stage, env, v) && v->code >= 400;
		text_copy(by, sizeof by, "--from");
	}
	for (; i < m->nservices && v->code < 400; i++)
		ask_service(m, i, stage, env, v, prepend, by);
	if (stage == STAGE_RCPT && v->code >= 400)
		tell_refusal(m, i, env, v);
	if (stage == STAGE_MAIL)
		m->recipients = 0;
	m->recipients += stage == STAGE_RCPT && v->code < 400;
	if (m->nservices > 0 && !record_stage(&m->record, stage, env, v))
		reply_no_memory(v);
	if (v->code >= 400 && hop)
		log_hop_refusal(m, env, stage, v);
	else if (v->code >= 400)
		monitor_log_refusal(m, env, stage, by, NULL, v);
}

/* May this recipient be asked about?  *v and the log say why not. */
static bool
is_for_next_hop(struct monitor *m, const struct envelope *one, struct reply *v)
{
	struct envelope mapped = relay_envelope(m, one);
	char why[128];

	reply_set(v, 250, "2.0.0", "");
	if (!may_send_to(m, one, v, why, sizeof why)) {
		log_denial(m, one, v, why);
		return false;
	}
	relay_rcpt(m->relay, &mapped, v);
	if (v->code >= 400)
		monitor_log_refusal(m, one, STAGE_RCPT, "routes", NULL, v);
	return v->code < 400;
}

/* Logs what the next hop has refused of a group. */
static void
log_group(struct monitor *m, const struct envelope *env, const struct reply v[])
{
	struct envelope one = *env;

	one.nrecipients = 1;
	for (size_t i = 0; i < env->nrecipients; i++) {
		one.recipients = env->recipients + i;
		if (v[i].code >= 400)
			log_hop_refusal(m, &one, STAGE_RCPT, &v[i]);
	}
}

void
monitor_answer_group(struct monitor *m, bool mail, const struct envelope *env,
    struct reply v[])
{
	struct recipient *to = calloc(env->nrecipients, sizeof *to);
	struct reply *w = calloc(env->nrecipients, sizeof *w);
	size_t *at = calloc(env->nrecipients, sizeof *at), n = 0;
	struct envelope part = *env, mapped = *env;
	const char *by = "memory";

	if (to == NULL || w == NULL || at == NULL)
		reply_no_memory(&v[0]);
	else if (mail && !senders_allow(m->senders, env, &v[0]))
		by = "--auth-senders";
	else if (!from_map(m->from, &mapped, &v[0]))
		by = "--from";
	else
		by = NULL;
	if (by != NULL) {
		reply_spread(v, env->nrecipients + mail);
		monitor_log_refusal(m, env, mail ? STAGE_MAIL : STAGE_RCPT, by,
		    NULL, &v[0]);
		goto out;
	}
	if (mail)
		m->recipients = 0;
	part.nrecipients = 1;
	reply_set(&v[0], 250, "2.0.0", "");
	for (size_t i = 0; i < env->nrecipients; i++) {
		part.recipients = env->recipients + i;
		if (!is_for_next_hop(m, &part, &v[mail + i]))
			continue;
		w[n] = v[mail + i];
		to[n] = env->recipients[i];
		at[n++] = mail + i;
	}
	part.recipients = mapped.recipients = to;
	part.nrecipients = mapped.nrecipients = n;
	if (mail || n > 0)
		relay_live_offer(m->relay, &mapped, mail ? &v[0] : NULL, w);
	for (size_t i = 0; i < n; i++) {
		v[at[i]] = w[i];
		m->recipients += w[i].code < 400 && !(mail && v[0].code >= 400);
	}
	if (mail && v[0].code >= 400)
		log_hop_refusal(m, env, STAGE_MAIL, &v[0]);
	else
		log_group(m, &part, w);
out:
	free(to);
	free(w);
	free(at);
}
