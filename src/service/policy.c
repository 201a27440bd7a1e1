/*
 * policy.c - asks a policy service during the dialogue what may be done.
 *
 * It knows nothing of the conversation but the stage, and never sleeps.  In
 * doubt it says 4yz: a service that cannot be asked is neither a yes nor a no.
 *
 * - A question to the policy service is one write of "name=value" lines and an
 *   empty one, in the order in which Postfix 3.7 sends them; the answer is
 *   "action=..." and an empty line.
 * - The connection is kept.  If the service closed it before it answered at
 *   all, it was stale, and the question is asked once more on a new one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "net/stream.h"
#include "service/policy.h"

#define REQUEST_MAX 8192	/* octets of a question */
#define ANSWER_MAX 2048		/* octets of a line of its answer, with NUL */
#define ANSWER_LINES 64		/* lines of an answer */
#define FIELD_MAX 998		/* octets of a header field; RFC 5322 2.1.1 */
#define ADDRESS_MAX 321		/* octets of an address, with NUL */

struct policy {
	const char *service;	/* where it is */
	unsigned asked;		/* stages at which it is: 1U << STAGE_x each */
	unsigned timeout;
	const struct logger *log;
	struct stream link;
	char session[48];	/* first part of "instance" */
	unsigned message;	/* its last part: which of the session's */
	bool discard;
	char redirect[ADDRESS_MAX];	/* or "" */
	struct recipient other;	/* which that is, at the end */
	struct reply excuse;	/* DEFER_IF_REJECT's; code 0: none */
	size_t len;		/* octets of request, more than it has room
				   for if something was left out */
	char request[REQUEST_MAX];
};

/* A question that is being asked, for the actions. */
struct question {
	struct policy *p;
	enum stage stage;
	const struct envelope *env;
	struct reply *v;
	char *prepend;
};

static bool
is_clean(const char *s)
{
	while (*s != '\0' && !text_is_control(*s))
		s++;
	return *s == '\0';
}

/* The prefix and the port are a must here. */
static bool
is_service(const char *s)
{
	struct place to;

	return (text_starts(s, "unix:") || text_starts(s, "inet:")) &&
	    place_parse(s, strlen(s), &to) &&
	    (to.local || text_parse_port(to.port) != 0);
}

/* The stages that list names, up to a "=", as a set.  0: not such a list. */
static unsigned
parse_stages(const char *list)
{
	unsigned set = 0, one;
	size_t len;
	int i;

	for (;; list += len + 1) {
		len = strcspn(list, ",=");
		for (one = 0, i = 0; i < STAGES; i++)
			if (strlen(service_stage_names[i]) == len &&
			    strncasecmp(service_stage_names[i], list, len) == 0)
				one = 1U << i;
		if (one == 0)
			return 0;
		set |= one;
		if (list[len] != ',')
			return list[len] == '=' ? set : 0;
	}
}

static void *
policy_open(const char *service, const struct service_settings *set,
    char *error, size_t size)
{
	unsigned asked = parse_stages(service);
	struct timespec now;
	struct policy *p;

	if (asked != 0)
		service = strchr(service, '=') + 1;
	if (!is_service(service)) {
		snprintf(error, size, "--policy: \"%s\" is neither unix:PATH "
		    "nor inet:HOST:PORT, perhaps with STAGE,STAGE...= "
		    "in front", service);
		return NULL;
	}
	if ((p = calloc(1, sizeof *p)) == NULL) {
		text_copy(error, size, strerror(errno));
		return NULL;
	}
	p->service = service;
	p->asked = asked != 0 ? asked : ~0U;
	p->timeout = set->timeout;
	p->log = set->log;
	p->link.fd = -1;
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(p->session, sizeof p->session, "%lx.%llx.%lx",
	    (unsigned long)getpid(), (unsigned long long)now.tv_sec,
	    (unsigned long)now.tv_nsec);
	return p;
}

/* Appends "name=value"; nothing in value can become a line of its own. */
static void
put_attribute(struct policy *p, const char *name, const char *value)
{
	size_t n = strlen(name), len = strlen(value);
	char *to;

	if (p->len > sizeof p->request ||
	    n + len + 2 > sizeof p->request - p->len) {
		p->len = sizeof p->request + 1;
		return;
	}
	to = p->request + p->len;
	memcpy(to, name, n);
	to[n] = '=';
	for (to += n + 1; *value != '\0'; value++)
		*to++ = text_is_control(*value) ? '?' : *value;
	*to = '\n';
	p->len += n + len + 2;
}

/* A local part in quotes is sent without them, as Postfix does it: a service
   looks up mailboxes, not spellings. */
static void
put_address(struct policy *p, const char *name, const char *address)
{
	char plain[REQUEST_MAX];	/* what is longer has no room anyway */

	if (*address == '"' && strlen(address) < sizeof plain) {
		text_copy(plain, sizeof plain, address);
		address_unquote(plain);
		address = plain;
	}
	put_attribute(p, name, address);
}

static void
put_number(struct policy *p, const char *name, uint64_t n)
{
	char value[24];

	snprintf(value, sizeof value, "%llu", (unsigned long long)n);
	put_attribute(p, name, value);
}

/* Certificates' names are in xtext (SMTPD_POLICY_README: ccert_*), as Postfix
   writes it: with "=" as it is. */
static void
put_xtext(struct policy *p, const char *name, const char *s)
{
	char value[1024];

	text_encode_xtext(value, sizeof value, s, "+");
	put_attribute(p, name, value);
}

/* SIZE= of MAIL (RFC 1870), or 0. */
static uint64_t
announced_size(const char *options)
{
	const char *p = text_find_word(options, "SIZE");
	uint64_t n;

	if (p == NULL || p[4] != '=')
		return 0;
	p += 5;
	/* More digits than 64 bits hold are more than anybody takes. */
	return text_parse_number((struct span){ p, text_digits(p) }, &n) ? n
	    : text_digits(p) > 0 ? UINT64_MAX : 0;
}

/* RFC 3848's and RFC 6531's names stand for three protocols. */
static const char *
protocol_name(const char *with)
{
	if (strstr(with, "LMTP") != NULL)
		return "LMTP";
	return strcmp(with, "SMTP") == 0 || *with == '\0' ? "SMTP" : "ESMTP";
}

static void
put_client(struct policy *p, const struct envelope *env)
{
	const char *name = service_client_name(env);
	const char *from = env->fact[FACT_CLIENT_PORT];

	put_attribute(p, "client_address", service_client_address(env));
	put_attribute(p, "client_name", name);
	put_attribute(p, "client_port", *from == '\0' ? "unknown" : from);
	put_attribute(p, "reverse_client_name", name);
}

/* Writes the question; false if it has no room. */
static bool
write_question(const struct question *q)
{
	const struct envelope *env = q->env;
	const char *const *fact = env->fact;
	struct policy *p = q->p;
	bool all = q->stage == STAGE_DATA || q->stage == STAGE_END_OF_MESSAGE;
	bool one = (all || q->stage == STAGE_RCPT || q->stage == STAGE_VRFY) &&
	    env->nrecipients == 1;
	char instance[64];

	snprintf(instance, sizeof instance, "%s.%x", p->session, p->message);
	p->len = 0;
	put_attribute(p, "request", "smtpd_access_policy");
	put_attribute(p, "protocol_state", service_stage_names[q->stage]);
	put_attribute(p, "protocol_name",
	    protocol_name(fact[FACT_CLIENT_PROTOCOL]));
	put_client(p, env);
	put_attribute(p, "server_address", fact[FACT_SERVER_ADDRESS]);
	put_attribute(p, "server_port", fact[FACT_SERVER_PORT]);
	put_attribute(p, "helo_name", fact[FACT_CLIENT_HELO]);
	put_address(p, "sender", fact[FACT_SENDER]);
	put_address(p, "recipient", one ? env->recipients[0].address : "");
	put_number(p, "recipient_count", all ? env->nrecipients : 0);
	put_attribute(p, "queue_id", fact[FACT_QUEUE_ID]);
	put_attribute(p, "instance", instance);
	put_number(p, "size", env->size != 0 ? env->size :
	    announced_size(fact[FACT_MAIL_OPTIONS]));
	put_attribute(p, "etrn_domain", "");
	put_attribute(p, "stress", "");
	put_attribute(p, "sasl_method", fact[FACT_SASL_METHOD]);
	put_attribute(p, "sasl_username", fact[FACT_SASL_USERNAME]);
	put_attribute(p, "sasl_sender", "");
	put_xtext(p, "ccert_subject", fact[FACT_TLS_SUBJECT]);
	put_xtext(p, "ccert_issuer", fact[FACT_TLS_ISSUER]);
	put_attribute(p, "ccert_fingerprint", fact[FACT_TLS_FINGERPRINT]);
	put_attribute(p, "ccert_pubkey_fingerprint", "");
	put_attribute(p, "encryption_protocol", fact[FACT_TLS_PROTOCOL]);
	put_attribute(p, "encryption_cipher", fact[FACT_TLS_CIPHER]);
	put_number(p, "encryption_keysize",
	    fact_cipher_bits(fact[FACT_TLS_CIPHER]));
	put_attribute(p, "policy_context", "");
	if (p->len >= sizeof p->request)
		return false;
	p->request[p->len++] = '\n';
	return true;
}

/*
 * Asks on the open connection.  Returns NULL with the action in
 * action[0..ANSWER_MAX), or what is wrong; *stale then tells whether the
 * service was gone before we asked.
 */
static const char *
ask_connected(struct policy *p, int64_t deadline, char *action, bool *stale)
{
	char line[ANSWER_MAX];
	unsigned n;
	long len;

	action[0] = '\0';
	if (stream_write(&p->link, p->request, p->len, deadline) == -1) {
		*stale = errno != ETIMEDOUT;
		return stream_reason(errno);
	}
	for (n = 0; n < ANSWER_LINES; n++) {
		if ((len = stream_line(&p->link, line, sizeof line,
		    deadline)) == -1) {
			*stale = n == 0 && errno != ETIMEDOUT;
			return stream_reason(errno);
		}
		*stale = false;
		if (len == 0)
			return action[0] != '\0' ? NULL :
			    "answer has no action";
		if ((size_t)len >= sizeof line - 2)
			return "line of answer too long";
		if (strlen(line) != (size_t)len || strchr(line, '=') == NULL)
			return "answer is not name=value";
		if (!text_starts(line, "action="))
			continue;
		if (action[0] != '\0')
			return "answer has two actions";
		memcpy(action, line + 7, (size_t)len - 6);
	}
	return "answer has more than 64 lines";
}

/* The same, connecting first if that is needed; twice if it was stale. */
static const char *
ask_again_if_stale(struct policy *p, char *action, char *why, size_t size)
{
	int64_t deadline = clock_after(p->timeout);
	bool kept, stale = false;
	const char *fault;

	/* What was sent unasked would be taken for the answer. */
	if (p->link.fd != -1 && !stream_quiet(&p->link))
		stream_close(&p->link);
	kept = p->link.fd != -1;
	if (kept) {
		fault = ask_connected(p, deadline, action, &stale);
		if (fault == NULL)
			return NULL;
		stream_close(&p->link);
		if (!stale)
			return fault;
	}
	if (stream_connect(&p->link, p->service, NULL, deadline, why,
	    size) == -1)
		return why;
	fault = ask_connected(p, deadline, action, &stale);
	if (fault != NULL)
		stream_close(&p->link);
	return fault;
}

/* 451: the client tries again when the service answers. */
static void
refuse_unsure(const struct question *q, const char *why)
{
	logger_printf(q->p->log, LOG_ERR, "policy", q->env,
	    "policy service %s: %s: %s", q->p->service,
	    service_stage_names[q->stage], why);
	reply_set(q->v, 451, "4.3.5", "Policy service not available");
}

/* One row for each action: what to do, and the reply that it implies. */
struct action {
	const char *name;
	void (*run)(struct question *q, const struct action *as,
	    const char *text);
	int code;
	const char *text;
};

/* A reply with the policy's own status and text, where it has them. */
static void
set_reply(struct reply *v, const struct action *as, const char *text)
{
	size_t len = text_enhanced(text);
	char enh[12] = "4.7.1";

	if (len > 0)
		text_cut(enh, sizeof enh, text, len);
	text += len + strspn(text + len, " ");
	enh[0] = (char)('0' + as->code / 100);	/* RFC 2034 4 */
	reply_set(v, as->code, enh, *text == '\0' ? as->text : text);
}

static void
do_pass(struct question *q, const struct action *as, const char *text)
{
	(void)q;
	(void)as;
	(void)text;
}

static void
do_refuse(struct question *q, const struct action *as, const char *text)
{
	if (as->code >= 500 && q->p->excuse.code != 0)
		*q->v = q->p->excuse;
	else
		set_reply(q->v, as, text);
}

static void
do_excuse(struct question *q, const struct action *as, const char *text)
{
	set_reply(&q->p->excuse, as, text);
}

static void
do_log(struct question *q, const struct action *as, const char *text)
{
	logger_printf(q->p->log, as->code, "policy", q->env, "%s: %s",
	    service_stage_names[q->stage], *text == '\0' ? as->text : text);
}

/* Actions on a message mean nothing where none is on its way. */
static bool
in_transaction(const struct question *q, const struct action *as)
{
	if (STAGE_MAIL <= q->stage && q->stage <= STAGE_END_OF_MESSAGE)
		return true;
	logger_printf(q->p->log, LOG_WARNING, "policy", q->env,
	    "%s ignored at %s", as->name, service_stage_names[q->stage]);
	return false;
}

static void
do_discard(struct question *q, const struct action *as, const char *text)
{
	if (!in_transaction(q, as))
		return;
	q->p->discard = true;
	do_log(q, as, text);
}

static void
do_redirect(struct question *q, const struct action *as, const char *text)
{
	const char *at = strrchr(text, '@');
	size_t len = strlen(text);

	if (!in_transaction(q, as))
		return;
	if (at == NULL || at[1] == '\0' || text[0] == '@' ||
	    text[0] == '-' || !is_clean(text) ||
	    text[strcspn(text, " <>")] != '\0' ||
	    len >= sizeof q->p->redirect) {
		refuse_unsure(q, "REDIRECT without user@domain");
		return;
	}
	memcpy(q->p->redirect, text, len + 1);
}

/* RFC 5322 2.2: a name of printable characters, and a colon. */
static bool
is_field(const char *text)
{
	const char *p = text;

	while ('!' <= *p && *p <= '~' && *p != ':')
		p++;
	return p != text && *p == ':' && strlen(text) <= FIELD_MAX;
}

static void
do_prepend(struct question *q, const struct action *as, const char *text)
{
	const char *p;

	if (!in_transaction(q, as))
		return;
	if (q->stage == STAGE_END_OF_MESSAGE) {
		logger_printf(q->p->log, LOG_WARNING, "policy", q->env,
		    "PREPEND ignored: too late at END-OF-MESSAGE");
		return;
	}
	for (p = text; *p == '\t' || !text_is_control(*p); p++)
		;
	if (*p != '\0' || !is_field(text)) {
		refuse_unsure(q, "PREPEND without a header field");
		return;
	}
	snprintf(q->prepend, SERVICE_PREPEND, "%s\r\n", text);
}

/* access(5); the replies are those of Postfix's defaults. */
static const struct action actions[] = {
	{ "OK", do_pass, 0, "" },
	{ "RELAY", do_pass, 0, "" },
	{ "DUNNO", do_pass, 0, "" },
	{ "REJECT", do_refuse, 554, "Access denied" },
	{ "DEFER", do_refuse, 450, "Access denied" },
	{ "DEFER_IF_PERMIT", do_refuse, 450, "Service unavailable" },
	{ "DEFER_IF_REJECT", do_excuse, 450, "Service unavailable" },
	{ "HOLD", do_refuse, 451, "Message cannot be held here" },
	{ "DISCARD", do_discard, LOG_NOTICE, "message will be discarded" },
	{ "REDIRECT", do_redirect, 0, "" },
	{ "PREPEND", do_prepend, 0, "" },
	{ "WARN", do_log, LOG_WARNING, "triggers warning" },
	{ "INFO", do_log, LOG_INFO, "triggers info" },
	{ NULL, NULL, 0, NULL },
};

/* 4yz or 5yz, with a text.  Digits alone are OK (access(5)). */
static bool
run_numeric(struct question *q, const char *action, size_t len)
{
	struct action as = { "", do_refuse, 0, "Access denied" };
	const char *text = action + len + strspn(action + len, " ");

	if (text_digits(action) != len || len == 0)
		return false;
	if (*text == '\0')
		return true;
	as.code = text_code(action);
	if (as.code < 400)
		return false;
	do_refuse(q, &as, text);
	return true;
}

static void
run_action(struct question *q, const char *action)
{
	size_t len = strcspn(action, " \t");
	const struct action *as;
	char why[64];

	if (run_numeric(q, action, len))
		return;
	for (as = actions; as->name != NULL; as++)
		if (strlen(as->name) == len &&
		    strncasecmp(as->name, action, len) == 0)
			break;
	if (as->name == NULL) {
		snprintf(why, sizeof why, "unknown action %.*s",
		    (int)(len < sizeof why ? len : sizeof why), action);
		refuse_unsure(q, why);
	} else
		as->run(q, as, action + len + strspn(action + len, " \t"));
}

static bool
policy_asks(const void *ctx, enum stage stage)
{
	const struct policy *p = ctx;

	return (p->asked & 1U << stage) != 0;
}

static void
policy_ask(void *ctx, enum stage stage, const struct envelope *env,
    struct reply *r, char *prepend)
{
	struct policy *p = ctx;
	struct question q = { p, stage, env, r, prepend };
	char action[ANSWER_MAX], why[256];
	const char *fault = "question too long";

	prepend[0] = '\0';
	if (!policy_asks(p, stage))
		return;
	if (write_question(&q))
		fault = ask_again_if_stale(p, action, why, sizeof why);
	if (fault != NULL)
		refuse_unsure(&q, fault);
	else
		run_action(&q, action + strspn(action, " \t"));
}

static void
policy_message(void *ctx, struct service_message *m, struct reply *r)
{
	struct policy *p = ctx;
	char prepend[SERVICE_PREPEND];

	policy_ask(p, STAGE_END_OF_MESSAGE, &m->env, r, prepend);
	m->discard = m->discard || p->discard;
	if (p->redirect[0] == '\0')
		return;
	p->other.address = p->redirect;
	p->other.options = "";
	m->env.recipients = &p->other;
	m->env.nrecipients = 1;
}

/* Does it answer?  Many accept connections and do not.  Asked is of nobody's
   mail, at the first stage at which it is asked; what it says does not
   matter. */
static void
probe_answer(struct policy *p, const char *name, struct findings *f)
{
	struct envelope env = { .size = 0 };
	struct question q = { .p = p, .env = &env };
	char action[ANSWER_MAX], why[256];
	const char *fault = "question too long";

	for (int i = 0; i < FACTS; i++)
		env.fact[i] = "";
	env.fact[FACT_CLIENT_ADDRESS] = "127.0.0.1";
	while (!policy_asks(p, q.stage))
		q.stage++;
	if (p->timeout > FINDINGS_PATIENCE)
		p->timeout = FINDINGS_PATIENCE;
	if (write_question(&q))
		fault = ask_again_if_stale(p, action, why, sizeof why);
	if (fault != NULL)
		findings_add(f, FINDING_BAD, "%s: %s: %s", name,
		    service_stage_names[q.stage], fault);
	else
		findings_add(f, FINDING_GOOD, "%s answers", name);
}

static void
policy_probe(void *ctx, struct findings *f)
{
	struct policy *p = ctx;
	char name[300];

	snprintf(name, sizeof name, "policy service %.250s", p->service);
	if (f->connect)
		probe_answer(p, name, f);
	else
		stream_check(p->service, name, FINDING_BAD, f);
}

static void
policy_forget(void *ctx)
{
	struct policy *p = ctx;

	p->message++;
	p->discard = false;
	p->redirect[0] = '\0';
	p->excuse.code = 0;
}

static void
policy_close(void *ctx)
{
	struct policy *p = ctx;

	if (p == NULL)
		return;
	stream_close(&p->link);
	free(p);
}

const struct service service_policy = {
	.name = "policy",
	.open = policy_open,
	.asks = policy_asks,
	.ask = policy_ask,
	.message = policy_message,
	.probe = policy_probe,
	.forget = policy_forget,
	.close = policy_close,
};
