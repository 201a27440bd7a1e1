/*
 * message.c - what the monitor does with a message: asks the services about it,
 * then relays what they made of it, and tells each recipient of the client what
 * became of it.
 */
#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "monitor/private.h"
#include "monitor/seal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

enum spool_form
monitor_form(const struct monitor *m)
{
	enum spool_form form = relay_form(m->relay);

	return form == SPOOL_NONE && m->set->nmilters > 0 ? SPOOL_LF : form;
}

/* The event that a verdict is. */
static const char *
event_of(const struct reply *v)
{
	return v->code < 400 ? "message-relayed"
	    : v->code < 500  ? "message-deferred"
			     : "message-refused";
}

/* Logs a verdict about all recipients of env. */
static void
log_verdict(struct monitor *m, int priority, const char *event,
    const struct envelope *env, const struct reply *v)
{
	char text[REPLY_TEXT + 24], code[TEXT_NUMBER];

	text_join(text, sizeof text, text_number(code, (uint64_t)v->code, 3),
	    v->enh[0] == '\0' ? "" : " ", v->enh, " ", v->text, NULL);
	logger_put(&m->set->log, priority, event, env, text);
}

const char *
monitor_service_name(const struct monitor *m, size_t i, char *to, size_t size)
{
	return text_join(to, size, m->service[i].kind->name, " ",
	    m->service[i].where, NULL);
}

void
monitor_log_refusal(struct monitor *m, const struct envelope *env,
    enum stage stage, const char *by, const struct notes *where,
    const struct reply *v)
{
	char text[512];
	struct notes notes = { .delay = -1 };
	struct envelope noted = *env;

	if (where != NULL)
		notes = *where;
	notes.by = text;
	text_join(text, sizeof text, by, " at ",
	    service_stage_names[stage], NULL);
	noted.notes = &notes;
	log_verdict(m, LOG_NOTICE, "refused", &noted, v);
}

/* One record for all recipients that share a verdict, so usually one; where:
   where the message went, NULL if it did not go anywhere. */
static void
log_verdicts(struct monitor *m, const struct envelope *env,
    const struct reply v[], const struct notes *where)
{
	struct envelope one = *env;
	struct notes notes = { .delay = -1 };
	size_t i = 0, n;

	if (where != NULL)
		notes = *where;
	if (!clock_stands())
		notes.delay = clock_now() - m->began;
	notes.source = m->source;
	m->untold = false;
	one.notes = &notes;
	for (; i < env->nrecipients; i += n) {
		for (n = 1; i + n < env->nrecipients; n++)
			if (!reply_same(&v[i], &v[i + n]))
				break;
		one.recipients = env->recipients + i;
		one.nrecipients = n;
		log_verdict(m, v[i].code < 400 ? LOG_INFO : LOG_WARNING,
		    event_of(&v[i]), &one, &v[i]);
	}
}

/* The reply that the recipient of that address has, of v[0..env->nrecipients);
   NULL if env has none such. */
static const struct reply *
find_reply(const struct envelope *env, const struct reply v[],
    const char *address)
{
	for (size_t i = 0; i < env->nrecipients; i++)
		if (strcmp(env->recipients[i].address, address) == 0)
			return &v[i];
	return NULL;
}

/*
 * Tells each recipient of the client what became of it, where services have
 * changed them: one that is still there its own reply; one that was removed
 * shares the fate of those that were added.  If there is none such, a failure
 * of an added one is everybody's: else its mail would be lost.
 */
static void
answer_originals(const struct envelope *env, const struct envelope *sent,
    const struct reply w[], struct reply v[])
{
	struct reply added;
	const struct reply *own;
	bool removed = false;

	reply_set(&added, 250, "2.0.0", "Message accepted");
	for (size_t i = 0; i < sent->nrecipients; i++)
		if (find_reply(env, v, sent->recipients[i].address) == NULL &&
		    (added.code < 400 || w[i].code < 500) &&
		    (w[i].code >= 400 || added.code < 400))
			added = w[i];
	for (size_t i = 0; i < env->nrecipients; i++) {
		own = find_reply(sent, w, env->recipients[i].address);
		removed = removed || own == NULL;
		v[i] = own == NULL ? added : *own;
	}
	for (size_t i = 0; !removed && added.code >= 400 &&
	    i < env->nrecipients; i++)
		v[i] = added;
}

/* Relays a message, from the sender that --from wants; the log has the one that
   the client named. */
static void
send_message(struct monitor *m, const struct service_message *message,
    struct reply v[])
{
	struct envelope env = message->env;
	int spool = message->spool;
	const char *sender;
	bool sent;

	sent = from_rewrite(m->from, &env, &spool, message->crlf, &v[0]);
	if (!sent) {
		reply_spread(v, env.nrecipients);
	} else {
		sender = env.fact[FACT_SENDER];
		if (strcmp(sender, message->env.fact[FACT_SENDER]) != 0)
			logger_printf(&m->set->log, LOG_INFO, "rewritten",
			    &message->env, "sent as %s", sender);
		relay_deliver(m->relay, &env, spool, v);
	}
	if (spool != message->spool)
		close(spool);
	log_verdicts(m, &message->env, v, sent ? relay_notes(m->relay) : NULL);
}

/* Relays a message whose recipients are not the client's any more. */
static void
relay_changed(struct monitor *m, const struct envelope *env,
    const struct service_message *message, struct reply v[])
{
	const struct envelope *sent = &message->env;
	struct reply *w = calloc(sent->nrecipients, sizeof *w);

	if (w == NULL) {
		reply_no_memory(&v[0]);
		reply_spread(v, env->nrecipients);
		log_verdicts(m, env, v, NULL);
		return;
	}
	send_message(m, message, w);
	answer_originals(env, sent, w, v);
	free(w);
}

/* A service wants the message put into quarantine. */
static void
quarantine(struct monitor *m, const struct envelope *env,
    const struct service_message *message, struct reply v[])
{
	const struct envelope *kept = &message->env;
	struct reply *w = calloc(kept->nrecipients, sizeof *w);

	logger_printf(&m->set->log, LOG_NOTICE, "quarantine", kept, "to %s: %s",
	    m->set->relay.quarantine, message->quarantine);
	if (w == NULL) {
		reply_no_memory(&v[0]);
	} else {
		relay_quarantine(m->relay, kept, message->spool,
		    message->crlf ? SPOOL_CRLF : SPOOL_LF, w);
		v[0] = w[0];
	}
	reply_spread(v, env->nrecipients);
	log_verdicts(m, env, v, NULL);
	free(w);
}

/* Asks the services about the whole message, then relays what they made of
   it. */
static void
relay_fixed(struct monitor *m, const struct envelope *env, int spool,
    struct reply v[])
{
	char by[512] = "";
	struct service_message message = { .env = *env, .spool = spool,
		.crlf = monitor_form(m) == SPOOL_CRLF ||
		    env->body == BODY_BINARYMIME, .own = m->own };

	reply_set(&v[0], 250, "2.0.0", "Message accepted");
	for (size_t i = 0; i < m->nservices && v[0].code < 400; i++) {
		m->service[i].kind->message(m->service[i].ctx, &message, &v[0]);
		if (v[0].code >= 400)
			monitor_service_name(m, i, by, sizeof by);
	}
	if (v[0].code < 400 && message.quarantine != NULL &&
	    !message.discard && m->set->relay.quarantine != NULL) {
		quarantine(m, env, &message, v);
		return;
	}
	if (v[0].code < 400 && message.quarantine != NULL && !message.discard)
		reply_printf(&v[0], 451, "4.7.1", "Message is quarantined: %s",
		    message.quarantine);
	if (v[0].code >= 400 && by[0] == '\0')
		text_copy(by, sizeof by, "quarantine");
	if (v[0].code >= 400) {
		monitor_log_refusal(m, env, STAGE_END_OF_MESSAGE, by, NULL,
		    &v[0]);
		reply_spread(v, env->nrecipients);
		return;
	}
	if (m->set->status != NULL)
		m->set->status(m->set->log.ctx, "relaying", false);
	if (message.discard) {
		reply_spread(v, env->nrecipients);
		log_verdicts(m, env, v, NULL);
	} else if (message.env.recipients != env->recipients) {
		relay_changed(m, env, &message, v);
	} else {
		send_message(m, &message, v);
	}
}

void
monitor_relay(struct monitor *m, const struct envelope *env, int spool,
    struct reply v[])
{
	int fixed;

	m->began = clock_now();
	fixed = spool == -1 ? -1 : seal_spool(spool,
	    clock_within(m->end, (int)m->set->relay.timeout));
	if (spool != -1 && fixed == -1) {
		logger_printf(&m->set->log, LOG_ERR, "spool", env,
		    "cannot copy the message: %s", strerror(errno));
		reply_errno(&v[0], ENOSPC);
		reply_spread(v, env->nrecipients);
		return;
	}
	relay_fixed(m, env, fixed, v);
	if (fixed != spool)
		close(fixed);
}
