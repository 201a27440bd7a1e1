/*
 * hooks.c - what the channel asks of the session.
 */
#define _GNU_SOURCE	/* explicit_bzero, strsep */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <time.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "monitor/wire.h"
#include "session/session.h"
#include "session/transcript.h"

#define RECEIVED_MAX 100	/* Received: fields; more are a loop: RFC 5321
				   6.3 */

/* Asks about a stage that has a service or routes, and edits the reply. */
static void
ask_about(struct session *s, enum stage stage, const struct envelope *env,
    struct reply *r)
{
	char *prepend = s->prepend + s->prepended;
	struct reply v;
	size_t n;

	ask_stage(&s->asker, stage, env, &v, prepend);
	if (v.code >= 400 || (v.text[0] != '\0' && ask_live(&s->asker)))
		reply_set(r, v.code, v.enh, v.text);
	n = strlen(prepend);
	if (s->prepended + n <= sizeof s->prepend - SERVICE_PREPEND)
		s->prepended += n;
	else
		session_log(s, LOG_WARNING, "policy",
		    "no room for one more header field, it is left out");
}

/* After XCLIENT the login and the certificate are those of the server that sent
   it: EXTERNAL does not count them. */
static void
forget_speaker(struct session *s)
{
	struct channel_tls *tls = &s->ch.tls;

	s->client_user[0] = '\0';
	tls->subject[0] = tls->issuer[0] = tls->fingerprint[0] = '\0';
	channel_offer_auth(&s->ch, NULL);
	if (s->options->monitor.auth != NULL)
		ask_auth_abandon(&s->asker);
}

static void
on_connect(void *ctx, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env;

	/* A client that sent XCLIENT once may send it again. */
	if (!s->greeted && s->options->xclient != NULL)
		channel_offer_xclient(&s->ch, peer_in_networks(
		    s->ch.peer.address, "xclient", s->options->xclient));
	if (!s->greeted && s->options->xforward != NULL)
		channel_offer_xforward(&s->ch, peer_in_networks(
		    s->ch.peer.address, "xforward", s->options->xforward));
	if (s->greeted)
		forget_speaker(s);
	s->greeted = true;
	if (!ask_wanted(&s->asker, STAGE_CONNECT))
		return;
	env = session_facts(s);
	ask_about(s, STAGE_CONNECT, &env, r);
}

static void
on_quit(void *ctx, struct reply *r)
{
	struct session *s = ctx;

	(void)r;
	s->quit = true;
}

/* Connects the next hop, and offers what it can carry; what we can alone, if it
   is away. */
static void
meet_next_hop(struct session *s, const struct envelope *env)
{
	char *rest = s->path, *line;

	ask_hello(&s->asker, env, s->path, sizeof s->path);
	channel_offer_next(&s->ch, NULL);
	if (s->path[0] == '\0')
		return;
	channel_next_open(&s->next);
	while ((line = strsep(&rest, "\n")) != NULL)
		channel_next_line(&s->next, span_of(line));
	channel_offer_next(&s->ch, &s->next);
}

static void
on_helo(void *ctx, struct span name, bool extended, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = session_facts(s);
	const enum stage stage = extended ? STAGE_EHLO : STAGE_HELO;
	char helo[CHANNEL_NAME_MAX];

	env.fact[FACT_CLIENT_HELO] = text_cut(helo, sizeof helo, name.p,
	    name.len);
	/* The protocol that this greeting begins: the channel sets it later. */
	if (!extended)
		env.fact[FACT_CLIENT_PROTOCOL] = "SMTP";
	else if (strcmp(env.fact[FACT_CLIENT_PROTOCOL], "SMTP") == 0)
		env.fact[FACT_CLIENT_PROTOCOL] = s->ch.ssl ? "ESMTPS" : "ESMTP";
	if (ask_wanted(&s->asker, stage))
		ask_about(s, stage, &env, r);
	if (ask_live(&s->asker) && r->code < 400)
		meet_next_hop(s, &env);
	if (extended && (s->options->monitor.auth != NULL ||
	    s->ch.tls.subject[0] != '\0'))
		channel_offer_auth(&s->ch,
		    ask_mechanisms(&s->asker, &env));
}

/*
 * Names a transaction: microseconds since 1970 and the process, in digits
 * that cannot be mistaken for each other.  Where the clock stands: a number in
 * the session.
 */
static void
name_transaction(char *id, size_t size, pid_t pid, unsigned number)
{
	static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
	const struct timespec now = clock_date();
	uint64_t n;
	size_t i = 0;

	n = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
	for (int shift = 50; shift >= 0 && i < size - 1; shift -= 5)
		id[i++] = digits[n >> shift & 31];
	n = clock_stands() ? number : (uint64_t)pid;
	for (int shift = 20; shift >= 0 && i < size - 1; shift -= 5)
		id[i++] = digits[n >> shift & 31];
	id[i] = '\0';
}

static void
on_forget(void *ctx)
{
	struct session *s = ctx;

	spool_close(&s->spool);
	ask_forget(&s->asker);
	s->queue_id[0] = '\0';
	s->prepended = 0;
}

static void
on_mail(void *ctx, struct span path, struct span options, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env;

	name_transaction(s->queue_id, sizeof s->queue_id, s->pid,
	    ++s->transactions);
	if (!ask_wanted(&s->asker, STAGE_MAIL))
		return;
	env = session_facts(s);
	env.fact[FACT_SENDER] = text_cut(s->path, sizeof s->path, path.p,
	    path.len);
	env.fact[FACT_MAIL_OPTIONS] =
	    text_cut(s->parameters, sizeof s->parameters, options.p,
	    options.len);
	ask_about(s, STAGE_MAIL, &env, r);
	if (r->code >= 400)	/* no transaction: nothing will be forgotten */
		on_forget(s);
}

static void
on_rcpt(void *ctx, struct span path, struct span options, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env;
	struct recipient one;

	if (!ask_wanted(&s->asker, STAGE_RCPT))
		return;
	env = session_facts(s);
	one.address = text_cut(s->path, sizeof s->path, path.p, path.len);
	one.options = text_cut(s->parameters, sizeof s->parameters, options.p,
	    options.len);
	env.recipients = &one;
	env.nrecipients = 1;
	ask_about(s, STAGE_RCPT, &env, r);
}

/* MAIL and RCPTs that came at once. */
static void
on_group(void *ctx, bool mail, const struct recipient to[], size_t n,
    struct reply r[])
{
	struct session *s = ctx;
	struct envelope env;
	struct reply *v = calloc(mail + n, sizeof *v);

	if (mail)
		name_transaction(s->queue_id, sizeof s->queue_id, s->pid,
		    ++s->transactions);
	env = session_facts(s);
	env.recipients = to;
	env.nrecipients = n;
	if (v != NULL)
		ask_group(&s->asker, mail, &env, v);
	for (size_t i = 0; i < mail + n; i++)
		if (v == NULL)
			reply_no_memory(&r[i]);
		else if (v[i].code >= 400 || v[i].text[0] != '\0')
			reply_set(&r[i], v[i].code, v[i].enh, v[i].text);
	if (mail && r[0].code >= 400)	/* no transaction */
		on_forget(s);
	free(v);
}

static void
on_unknown(void *ctx, struct span line, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env;
	struct reply v;

	if (!ask_wants_unknown(&s->asker))
		return;
	env = session_facts(s);
	ask_unknown(&s->asker, &env, text_cut(s->path, sizeof s->path, line.p,
	    line.len), &v);
	if (v.code >= 400)
		reply_set(r, v.code, v.enh, v.text);
}

static void
on_vrfy(void *ctx, struct span path, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = session_facts(s);
	struct recipient one;

	/* "<>" is nobody to ask about. */
	if (path.len == 0 || !ask_wanted(&s->asker, STAGE_VRFY))
		return;
	one.address = text_cut(s->path, sizeof s->path, path.p, path.len);
	one.options = "";
	env.recipients = &one;
	env.nrecipients = 1;
	ask_about(s, STAGE_VRFY, &env, r);
}

/* The envelope with all its recipients. */
static struct envelope
whole_envelope(const struct session *s)
{
	struct envelope env = session_facts(s);

	env.recipients = s->ch.rcpttos;
	env.nrecipients = s->ch.nrcpttos;
	return env;
}

static void
write_text(void *ctx, const char *p, size_t len)
{
	struct session *s = ctx;

	spool_write(&s->spool, p, len);
}

/* Whether fields stand in front of the message, or --from or a filter reads its
   header. */
static enum guard
header_guard(const struct session *s)
{
	const struct monitor_settings *m = &s->options->monitor;

	if (s->options->adds_fields || s->prepended > 0)
		return GUARD_FIELDS;
	return m->from != NULL || m->nmilters > 0 ? GUARD_HEADER : GUARD_NONE;
}

/* Text will follow: prepares the spool, the trace header in front. */
static void
on_data(void *ctx, struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = whole_envelope(s);

	if (ask_wanted(&s->asker, STAGE_DATA))
		ask_about(s, STAGE_DATA, &env, r);
	if (r->code >= 400)
		return;
	spool_open(&s->spool, s->ch.body == BODY_BINARYMIME ? SPOOL_CRLF
	    : ask_form(&s->asker), ask_file, &s->asker);
	trace_write(s, &env);
	spool_write(&s->spool, s->prepend, s->prepended);
	header_open(&s->header, header_guard(s), write_text, s);
}

static void
on_body(void *ctx, struct span text)
{
	struct session *s = ctx;

	header_feed(&s->header, text);
}

/* Writes pending replies without blocking: the monitor's answer may arrive
   meanwhile. */
static void
on_slow(void *ctx)
{
	session_flush(ctx, false);
}

/* Logs a message that was refused before the monitor was asked. */
static void
on_refused(void *ctx, const struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = whole_envelope(s);
	char text[REPLY_TEXT + 24], line[2 * sizeof text];

	env.size = s->ch.size;
	s->judged++;
	s->told += s->ch.set->lmtp ? s->ch.nrcpttos : 1;
	snprintf(text, sizeof text, "%d %s %s", r->code, r->enh, r->text);
	text_one_line(line, sizeof line, text);
	ask_log(&s->asker, LOG_WARNING,
	    r->code < 500 ? "message-deferred" : "message-refused", &env, line);
}

/* Says in the log where the message had no room, and why. */
static void
log_spool(struct session *s, const struct envelope *env)
{
	char text[512];

	snprintf(text, sizeof text, "the message cannot be kept in %.200s: %s",
	    spool_folder(), strerror(s->spool.error));
	ask_log(&s->asker, LOG_ERR, "spool", env, text);
}

/* Until the client has the replies r[0..n), it may send the message again. */
static void
remember_relayed(struct session *s, const struct reply r[], size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (r[i].code >= 400)
			continue;
		text_copy(s->relayed_id, sizeof s->relayed_id, s->queue_id);
		text_copy(s->relayed_from, sizeof s->relayed_from,
		    s->ch.mailfrom);
		return;
	}
}

/* The message is here: relays it, or says why not. */
static void
on_end(void *ctx, struct reply r[], size_t n)
{
	struct session *s = ctx;
	struct envelope env = whole_envelope(s);
	size_t count = s->ch.nrcpttos;
	struct reply only = { .code = 0 };
	struct reply *v = count == 1 ? &only : calloc(count + 1, sizeof *v);
	bool asked = false;
	int fd;

	assert(n <= count);
	header_close(&s->header);
	fd = spool_finish(&s->spool);
	if (v == NULL)
		reply_no_memory(r);
	else if (s->header.received > RECEIVED_MAX)
		reply_set(r, 554, "5.4.6", "Too many Received: fields, "
		    "this is a mail loop");
	else if (s->spool.error != 0) {
		log_spool(s, &env);
		reply_errno(r, ENOSPC);
	}
	if (v != NULL && r->code < 400) {
		env.size = s->spool.size;
		ask_message(&s->asker, &env, fd, on_slow, s, v);
		asked = true;
	} else {
		on_refused(s, r);
	}
	s->judged += asked;
	for (size_t i = 0; i < n; i++)
		if (asked) {
			reply_set(&r[i], v[i].code, v[i].enh, v[i].text);
			s->told += v[i].code >= 400;
		} else {
			r[i] = *r;
		}
	remember_relayed(s, r, n);
	if (v != &only)
		free(v);
}

/* The next reply is written late: two seconds later for each failure, however
   many the client has sent at once.  They begin when the source was asked: how
   long it took, which may tell of its users, is not seen. */
static void
postpone(struct session *s, int64_t asked)
{
	s->pause = (s->pause > asked ? s->pause : asked) + AUTH_DELAY * 1000;
}

/* RFC 4954; failures are answered late. */
static void
on_auth(void *ctx, struct span mechanism, struct span response, bool given,
    struct reply *r)
{
	struct session *s = ctx;
	struct envelope env = session_facts(s);
	char name[32], user[MONITOR_USER];
	int64_t asked = clock_now();
	struct reply v;

	if (mechanism.p == NULL) {
		ask_auth_abandon(&s->asker);
		return;
	}
	text_cut(name, sizeof name, mechanism.p, mechanism.len);
	text_cut(s->path, sizeof s->path, response.p, response.len);
	ask_auth(&s->asker, &env, mechanism.len == 0 ? NULL : name,
	    given ? s->path : NULL, &v, user, sizeof user);
	explicit_bzero(s->path, sizeof s->path);
	reply_set(r, v.code, v.enh, v.text);
	if (v.code == 235)
		channel_set_user(&s->ch, user);
	if (v.code == 535)
		postpone(s, asked);
}

static void
on_received(void *ctx, struct span octets)
{
	struct session *s = ctx;

	transcript_octets(s->transcript, &s->ch.peer, octets);
}

/* -d and --record: the dialogue, credentials masked by the channel. */
static void
on_dialogue(void *ctx, bool said, struct span line)
{
	struct session *s = ctx;
	char text[1024];
	size_t n = (size_t)snprintf(text, sizeof text, "%c: ",
	    said ? 'S' : 'C');

	if (s->transcript != NULL)
		transcript_line(s->transcript, &s->ch.peer, said, line);
	if (!s->options->debug)
		return;
	for (size_t i = 0; i < line.len && n < sizeof text - 1; i++)
		text[n++] = line.p[i] == '\0' ? '?' : line.p[i];
	text[n] = '\0';
	session_log(s, LOG_DEBUG, "dialogue", text);
}

const struct channel_hooks session_hooks = {
	.connect = on_connect,
	.helo = on_helo,
	.mail = on_mail,
	.rcpt = on_rcpt,
	.group = on_group,
	.data = on_data,
	.body = on_body,
	.end = on_end,
	.refused = on_refused,
	.forget = on_forget,
	.vrfy = on_vrfy,
	.unknown = on_unknown,
	.quit = on_quit,
	.auth = on_auth,
	.dialogue = on_dialogue,
	.received = on_received,
};
