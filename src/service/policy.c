/*
 * policy.c - asks outside services during the dialogue: a policy service what
 * may be done, and a source of passwords who a client is.
 *
 * It knows nothing of the conversation but the stage, and never sleeps.  In
 * doubt it says 4yz: a service that can not be asked is neither a yes nor a no.
 *
 * - A question to the policy service is one write of "name=value" lines and an
 *   empty one, in the order in which Postfix 3.7 sends them; the answer is
 *   "action=..." and an empty line.
 * - The connection is kept.  If the service closed it before it answered at
 *   all, it was stale, and the question is asked once more on a new one.
 * - AUTH is an exchange of base64: PLAIN, LOGIN and EXTERNAL are spoken here,
 *   any other mechanism is between the client and Dovecot.
 */
#define _GNU_SOURCE	/* explicit_bzero, pipe2, crypt_r, closefrom_np */

#include <sys/pidfd.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <crypt.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "net/stream.h"
#include "service/policy.h"

#define REQUEST_MAX 8192	/* octets of a question */
#define ANSWER_MAX 2048		/* octets of a line of its answer, with NUL */
#define ANSWER_LINES 64		/* lines of an answer */
#define FIELD_MAX 998		/* octets of a header field; RFC 5322 2.1.1 */
#define ADDRESS_MAX 321		/* octets of an address, with NUL */

#define USER_MAX 256		/* octets of a name, with NUL; RFC 4616 2 */
#define PASSWORD_MAX 512	/* octets of a password, with NUL */
#define SECRET_MAX (2 * USER_MAX + PASSWORD_MAX)	/* PLAIN, decoded */
#define CHECKPASSWORD_MAX 512	/* octets; checkpassword's interface */
#define ARGS_MAX 16		/* words of a checkpassword command */
#define OFFER_MAX 512		/* octets of a list of mechanisms, with NUL */
#define MECHANISM_MAX 20	/* octets of a mechanism's name; RFC 4422 3.1 */
#define DOVECOT_MAX 16384	/* octets of a line of Dovecot's protocol */
#define DOVECOT_LINES 256	/* lines of a handshake, or until an answer */
#define HASH_MAX 512		/* octets of a crypt(3) hash, with NUL */
#define SOCKET_MAX sizeof ((struct sockaddr_un *)NULL)->sun_path

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

static const char *const states[STAGES] = {
	[STAGE_CONNECT] = "CONNECT",
	[STAGE_HELO] = "HELO",
	[STAGE_EHLO] = "EHLO",
	[STAGE_MAIL] = "MAIL",
	[STAGE_RCPT] = "RCPT",
	[STAGE_DATA] = "DATA",
	[STAGE_END_OF_MESSAGE] = "END-OF-MESSAGE",
	[STAGE_VRFY] = "VRFY",
};

static bool
control(char c)
{
	return (unsigned char)c < ' ' || c == 127;
}

static bool
clean(const char *s)
{
	while (*s != '\0' && !control(*s))
		s++;
	return *s == '\0';
}

/* What errno says, in the terms of stream_line(). */
static const char *
reason(int error)
{
	if (error == 0)
		return "connection closed";
	if (error == ETIMEDOUT)
		return "no answer in time";
	if (error == EMSGSIZE)
		return "a line that never ends";
	return strerror(error);
}

static void * __attribute__((format(printf, 3, 4)))
complain(char *error, size_t size, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error, size, fmt, ap);
	va_end(ap);
	return NULL;
}

/* A port as a user may write it: 1 to 65535, digits alone. */
static bool
port(const char *s)
{
	unsigned long n = 0;
	const char *p = s;

	for (; '0' <= *p && *p <= '9' && n <= 65535; p++)
		n = n * 10 + (unsigned long)(*p - '0');
	return p != s && *p == '\0' && 0 < n && n <= 65535;
}

static bool
place(const char *s)
{
	const char *colon = strrchr(s, ':');

	if (strncmp(s, "unix:", 5) == 0)
		return s[5] != '\0' && strlen(s + 5) < SOCKET_MAX;
	if (strncmp(s, "inet:", 5) != 0 || colon <= s + 5 || !port(colon + 1))
		return false;
	return s[5] == '[' ? colon[-1] == ']' : strchr(s + 5, ':') == colon;
}

/* The stages that list names, up to a "=", as a set.  0: not such a list. */
static unsigned
stages(const char *list)
{
	unsigned set = 0, one;
	size_t len;
	int i;

	for (;; list += len + 1) {
		len = strcspn(list, ",=");
		for (one = 0, i = 0; i < STAGES; i++)
			if (strlen(states[i]) == len &&
			    strncasecmp(states[i], list, len) == 0)
				one = 1U << i;
		if (one == 0)
			return 0;
		set |= one;
		if (list[len] != ',')
			return list[len] == '=' ? set : 0;
	}
}

struct policy *
policy_open(const char *service, unsigned timeout, const struct logger *log,
    char *error, size_t size)
{
	unsigned asked = stages(service);
	struct timespec now;
	struct policy *p;

	if (asked != 0)
		service = strchr(service, '=') + 1;
	if (!place(service))
		return complain(error, size, "policy service \"%s\" is neither "
		    "unix:PATH nor inet:HOST:PORT, perhaps with STAGE,STAGE...= "
		    "in front", service);
	if ((p = calloc(1, sizeof *p)) == NULL)
		return complain(error, size, "%s", strerror(errno));
	p->service = service;
	p->asked = asked != 0 ? asked : ~0U;
	p->timeout = timeout;
	p->log = log;
	p->link.fd = -1;
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(p->session, sizeof p->session, "%lx.%llx.%lx",
	    (unsigned long)getpid(), (unsigned long long)now.tv_sec,
	    (unsigned long)now.tv_nsec);
	return p;
}

/* Appends "name=value"; nothing in value can become a line of its own. */
static void
put(struct policy *p, const char *name, const char *value)
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
		*to++ = control(*value) ? '?' : *value;
	*to = '\n';
	p->len += n + len + 2;
}

static void
put_number(struct policy *p, const char *name, uint64_t n)
{
	char value[24];

	snprintf(value, sizeof value, "%llu", (unsigned long long)n);
	put(p, name, value);
}

/* Certificates' names are in xtext (SMTPD_POLICY_README: ccert_*). */
static void
put_xtext(struct policy *p, const char *name, const char *s)
{
	char value[1024];
	size_t len = 0;

	for (; *s != '\0' && len < sizeof value - 4; s++)
		if (' ' < *s && *s < 127 && *s != '+')
			value[len++] = *s;
		else
			len += (size_t)snprintf(value + len, 4, "+%02X",
			    (unsigned)(unsigned char)*s);
	value[len] = '\0';
	put(p, name, value);
}

/* SIZE= of MAIL (RFC 1870), or 0. */
static uint64_t
announced(const char *options)
{
	uint64_t n = 0;
	const char *p;

	for (p = options; *p != '\0'; p += strcspn(p, " ")) {
		p += strspn(p, " ");
		if (strncasecmp(p, "SIZE=", 5) == 0)
			break;
	}
	if (*p == '\0')
		return 0;
	for (p += 5; '0' <= *p && *p <= '9' && n < UINT64_MAX / 10; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	return n;
}

/* RFC 3848's and RFC 6531's names stand for three protocols. */
static const char *
protocol(const char *with)
{
	if (strstr(with, "LMTP") != NULL)
		return "LMTP";
	return strcmp(with, "SMTP") == 0 || *with == '\0' ? "SMTP" : "ESMTP";
}

/* Secret bits of a cipher, as far as its name tells. */
static uint64_t
keysize(const char *cipher)
{
	if (strstr(cipher, "128") != NULL)
		return 128;
	return strstr(cipher, "256") || strstr(cipher, "CHACHA20") ? 256 : 0;
}

/* As Postfix does, we call a client on a unix socket localhost. */
static void
put_client(struct policy *p, const struct envelope *env)
{
	bool local = strcmp(env->fact[FACT_CLIENT_ADDRESS], "unix") == 0;
	const char *name = local ? "localhost" : env->fact[FACT_CLIENT_NAME];
	const char *from = env->fact[FACT_CLIENT_PORT];

	put(p, "client_address",
	    local ? "127.0.0.1" : env->fact[FACT_CLIENT_ADDRESS]);
	put(p, "client_name", *name == '\0' ? "unknown" : name);
	put(p, "client_port", *from == '\0' ? "unknown" : from);
	put(p, "reverse_client_name", *name == '\0' ? "unknown" : name);
}

/* Writes the question; false if it has no room. */
static bool
compose(const struct question *q)
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
	put(p, "request", "smtpd_access_policy");
	put(p, "protocol_state", states[q->stage]);
	put(p, "protocol_name", protocol(fact[FACT_CLIENT_PROTOCOL]));
	put_client(p, env);
	put(p, "server_address", fact[FACT_SERVER_ADDRESS]);
	put(p, "server_port", fact[FACT_SERVER_PORT]);
	put(p, "helo_name", fact[FACT_CLIENT_HELO]);
	put(p, "sender", fact[FACT_SENDER]);
	put(p, "recipient", one ? env->recipients[0].address : "");
	put_number(p, "recipient_count", all ? env->nrecipients : 0);
	put(p, "queue_id", fact[FACT_QUEUE_ID]);
	put(p, "instance", instance);
	put_number(p, "size", env->size != 0 ? env->size :
	    announced(fact[FACT_MAIL_OPTIONS]));
	put(p, "etrn_domain", "");
	put(p, "stress", "");
	put(p, "sasl_method", fact[FACT_SASL_METHOD]);
	put(p, "sasl_username", fact[FACT_SASL_USERNAME]);
	put(p, "sasl_sender", "");
	put_xtext(p, "ccert_subject", fact[FACT_TLS_SUBJECT]);
	put_xtext(p, "ccert_issuer", fact[FACT_TLS_ISSUER]);
	put(p, "ccert_fingerprint", fact[FACT_TLS_FINGERPRINT]);
	put(p, "ccert_pubkey_fingerprint", "");
	put(p, "encryption_protocol", fact[FACT_TLS_PROTOCOL]);
	put(p, "encryption_cipher", fact[FACT_TLS_CIPHER]);
	put_number(p, "encryption_keysize", keysize(fact[FACT_TLS_CIPHER]));
	put(p, "policy_context", "");
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
converse(struct policy *p, int64_t deadline, char *action, bool *stale)
{
	char line[ANSWER_MAX];
	unsigned n;
	long len;

	action[0] = '\0';
	if (stream_write(&p->link, p->request, p->len, deadline) == -1) {
		*stale = errno != ETIMEDOUT;
		return reason(errno);
	}
	for (n = 0; n < ANSWER_LINES; n++) {
		if ((len = stream_line(&p->link, line, sizeof line,
		    deadline)) == -1) {
			*stale = n == 0 && errno != ETIMEDOUT;
			return reason(errno);
		}
		*stale = false;
		if (len == 0)
			return action[0] != '\0' ? NULL :
			    "answer has no action";
		if ((size_t)len >= sizeof line - 2)
			return "line of answer too long";
		if (strlen(line) != (size_t)len || strchr(line, '=') == NULL)
			return "answer is not name=value";
		if (strncmp(line, "action=", 7) != 0)
			continue;
		if (action[0] != '\0')
			return "answer has two actions";
		memcpy(action, line + 7, (size_t)len - 6);
	}
	return "answer never ends";
}

/* The same, connecting first if that is needed; twice if it was stale. */
static const char *
inquire(struct policy *p, char *action, char *why, size_t size)
{
	int64_t deadline = clock_now() + (int64_t)p->timeout * 1000;
	bool kept, stale = false;
	const char *fault;

	/* What was sent unasked would be taken for the answer. */
	if (p->link.fd != -1 && p->link.used != p->link.have)
		stream_close(&p->link);
	kept = p->link.fd != -1;
	if (kept) {
		fault = converse(p, deadline, action, &stale);
		if (fault == NULL)
			return NULL;
		stream_close(&p->link);
		if (!stale)
			return fault;
	}
	if (stream_connect(&p->link, p->service, NULL, deadline, why,
	    size) == -1)
		return why;
	fault = converse(p, deadline, action, &stale);
	if (fault != NULL)
		stream_close(&p->link);
	return fault;
}

/* Nobody knows what the service wants: the client shall try again. */
static void
unsure(const struct question *q, const char *why)
{
	logger_printf(q->p->log, LOG_ERR, "policy", q->env,
	    "policy service %s: %s: %s", q->p->service, states[q->stage], why);
	reply_set(q->v, 451, "4.3.5", "Policy service not available");
}

/*
 * Length of the RFC 3463 status at the start of text, with the blanks after
 * it, which goes to enh[0..12); 0 if there is none.
 */
static size_t
status(const char *text, char *enh)
{
	size_t detail, len, subject;

	subject = strspn(text[0] == '\0' || text[1] != '.' ? "" : text + 2,
	    "0123456789");
	if (strchr("245", text[0]) == NULL || subject < 1 || subject > 3 ||
	    text[2 + subject] != '.')
		return 0;
	detail = strspn(text + 3 + subject, "0123456789");
	len = 3 + subject + detail;
	if (detail < 1 || detail > 3 || (text[len] != ' ' && text[len] != '\0'))
		return 0;
	memcpy(enh, text, len);
	enh[len] = '\0';
	return len + strspn(text + len, " ");
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
phrase(struct reply *v, const struct action *as, const char *text)
{
	char enh[12] = "";

	text += status(text, enh);
	if (enh[0] == '\0')
		memcpy(enh, "4.7.1", sizeof "4.7.1");
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
		phrase(q->v, as, text);
}

static void
do_excuse(struct question *q, const struct action *as, const char *text)
{
	phrase(&q->p->excuse, as, text);
}

static void
do_log(struct question *q, const struct action *as, const char *text)
{
	logger_printf(q->p->log, as->code, "policy", q->env, "%s: %s",
	    states[q->stage], *text == '\0' ? as->text : text);
}

/* Actions on a message mean nothing where none is on its way. */
static bool
open_transaction(const struct question *q, const struct action *as)
{
	if (STAGE_MAIL <= q->stage && q->stage <= STAGE_END_OF_MESSAGE)
		return true;
	logger_printf(q->p->log, LOG_WARNING, "policy", q->env,
	    "%s ignored at %s", as->name, states[q->stage]);
	return false;
}

static void
do_discard(struct question *q, const struct action *as, const char *text)
{
	if (!open_transaction(q, as))
		return;
	q->p->discard = true;
	do_log(q, as, text);
}

static void
do_redirect(struct question *q, const struct action *as, const char *text)
{
	const char *at = strrchr(text, '@');
	size_t len = strlen(text);

	if (!open_transaction(q, as))
		return;
	if (at == NULL || at[1] == '\0' || text[0] == '@' ||
	    text[0] == '-' || !clean(text) || strpbrk(text, " <>") != NULL ||
	    len >= sizeof q->p->redirect) {
		unsure(q, "REDIRECT without user@domain");
		return;
	}
	memcpy(q->p->redirect, text, len + 1);
}

/* RFC 5322 2.2: a name of printable characters, and a colon. */
static bool
field(const char *text)
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

	if (!open_transaction(q, as))
		return;
	if (q->stage == STAGE_END_OF_MESSAGE) {
		logger_printf(q->p->log, LOG_WARNING, "policy", q->env,
		    "PREPEND ignored: too late at END-OF-MESSAGE");
		return;
	}
	for (p = text; *p == '\t' || !control(*p); p++)
		;
	if (*p != '\0' || !field(text)) {
		unsure(q, "PREPEND without a header field");
		return;
	}
	snprintf(q->prepend, POLICY_PREPEND, "%s\r\n", text);
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
	{ "HOLD", do_refuse, 451, "Message can not be held here" },
	{ "DISCARD", do_discard, LOG_NOTICE, "message will be discarded" },
	{ "REDIRECT", do_redirect, 0, "" },
	{ "PREPEND", do_prepend, 0, "" },
	{ "WARN", do_log, LOG_WARNING, "triggers warning" },
	{ "INFO", do_log, LOG_INFO, "triggers info" },
	{ NULL, NULL, 0, NULL },
};

/* 4yz or 5yz, with a text.  Digits alone are OK (access(5)). */
static bool
numeric(struct question *q, const char *action, size_t len)
{
	struct action as = { "", do_refuse, 0, "Access denied" };
	const char *text = action + len + strspn(action + len, " ");

	if (strspn(action, "0123456789") != len || len == 0)
		return false;
	if (*text == '\0')
		return true;
	if (len != 3 || (action[0] != '4' && action[0] != '5'))
		return false;
	as.code = (action[0] - '0') * 100 + (action[1] - '0') * 10 +
	    (action[2] - '0');
	do_refuse(q, &as, text);
	return true;
}

static void
act(struct question *q, const char *action)
{
	size_t len = strcspn(action, " \t");
	const struct action *as;
	char why[64];

	if (numeric(q, action, len))
		return;
	for (as = actions; as->name != NULL; as++)
		if (strlen(as->name) == len &&
		    strncasecmp(as->name, action, len) == 0)
			break;
	if (as->name == NULL) {
		snprintf(why, sizeof why, "unknown action %.*s",
		    (int)(len < sizeof why ? len : sizeof why), action);
		unsure(q, why);
	} else
		as->run(q, as, action + len + strspn(action + len, " \t"));
}

void
policy_ask(struct policy *p, enum stage stage, const struct envelope *env,
    struct reply *v, char *prepend)
{
	struct question q = { p, stage, env, v, prepend };
	char action[ANSWER_MAX], why[256];
	const char *fault = "question too long";

	prepend[0] = '\0';
	if (!(p->asked & 1U << stage))
		return;
	if (compose(&q))
		fault = inquire(p, action, why, sizeof why);
	if (fault != NULL)
		unsure(&q, fault);
	else
		act(&q, action + strspn(action, " \t"));
}

bool
policy_discards(const struct policy *p)
{
	return p->discard;
}

const char *
policy_redirects(const struct policy *p)
{
	return p->redirect[0] == '\0' ? NULL : p->redirect;
}

void
policy_forget(struct policy *p)
{
	p->message++;
	p->discard = false;
	p->redirect[0] = '\0';
	p->excuse.code = 0;
}

void
policy_close(struct policy *p)
{
	if (p == NULL)
		return;
	stream_close(&p->link);
	free(p);
}

/* What a source of passwords says. */
enum answer {
	NO,
	YES,
	UNSURE
};

/* Where an exchange stands: what the client's next response is. */
enum turn {
	TURN_NONE,
	TURN_PLAIN,
	TURN_EXTERNAL,
	TURN_USER,	/* LOGIN's first */
	TURN_PASSWORD,	/* and second */
	TURN_DOVECOT
};

struct auth;

/* Sources.  check is NULL where the mechanisms are the source's own. */
struct source {
	const char *prefix;
	enum answer (*check)(struct auth *a, const char *user,
	    const char *password);
};

struct auth {
	const struct source *source;
	char *where;		/* program, file, or "unix:PATH"; owned */
	int file;		/* that file, open; or -1; owned */
	char *argv[ARGS_MAX + 2];	/* of the program; within where */
	unsigned timeout;
	const struct logger *log;
	enum turn turn;
	char user[USER_MAX];	/* LOGIN's, between its responses */
	struct stream link;	/* to Dovecot */
	unsigned id;		/* of the exchange, there */
	char theirs[OFFER_MAX];	/* mechanisms that Dovecot offers */
	char offer[OFFER_MAX + sizeof " EXTERNAL"];	/* theirs and ours */
};

static enum answer check_program(struct auth *a, const char *user,
	    const char *password);
static enum answer check_file(struct auth *a, const char *user,
	    const char *password);

static const struct source sources[] = {
	{ "checkpassword:", check_program },
	{ "file:", check_file },
	{ "dovecot:", NULL },
	{ NULL, NULL },
};

static int
sextet(char c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	    "abcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *p = c == '\0' ? NULL : strchr(digits, c);

	return p == NULL ? -1 : (int)(p - digits);
}

/*
 * Decodes canonical base64 (RFC 4648 3.5: no strangers, no bits left over)
 * into to[0..size), as far as it has room.  Returns the length of it all, or
 * -1 if it is none.
 */
static long
unbase64(const char *s, char *to, size_t size)
{
	size_t len = strlen(s), n = 0, i;
	unsigned bits = 0;
	int digit;

	if (len % 4 != 0)
		return -1;
	for (i = 0; i < len; i++) {
		if (s[i] == '=')
			break;
		if ((digit = sextet(s[i])) == -1)
			return -1;
		bits = (bits << 6 | (unsigned)digit) & 0xfff;
		if (i % 4 == 0)
			continue;
		if (n < size)
			to[n] = (char)(bits >> (6 - 2 * (i % 4)) & 0xff);
		n++;
	}
	len -= i;
	if (len > 2 || strspn(s + i, "=") != len)
		return -1;
	/* Of n octets the last digit has 2 or 4 bits that must be none. */
	if (len != 0 && (bits & (len == 1 ? 3U : 15U)) != 0)
		return -1;
	return (long)n;
}


/* Splits a command at its blanks, and says what to run on success. */
static bool
words(struct auth *a)
{
	static char truth[] = "/bin/true";
	char *rest = a->where, *word;
	size_t n = 0;

	while ((word = strsep(&rest, " ")) != NULL) {
		if (*word == '\0')
			continue;
		if (n == ARGS_MAX)
			return false;
		a->argv[n++] = word;
	}
	a->argv[n] = truth;
	return true;
}

struct auth *
auth_open(const char *source, unsigned timeout, const struct logger *log,
    char *error, size_t size)
{
	const struct source *as;
	const char *path;
	struct auth *a;

	for (as = sources; as->prefix != NULL; as++)
		if (strncmp(source, as->prefix, strlen(as->prefix)) == 0)
			break;
	if (as->prefix == NULL)
		return complain(error, size, "authentication source \"%s\" is "
		    "none of checkpassword:, dovecot:, file:", source);
	path = source + strlen(as->prefix);
	if (path[0] != '/')
		return complain(error, size, "authentication source \"%s\" "
		    "lacks an absolute path", source);
	if (as->check == NULL && strlen(path) >= SOCKET_MAX)
		return complain(error, size, "authentication source \"%s\": "
		    "too long for a socket", source);
	if ((a = calloc(1, sizeof *a)) == NULL)
		return complain(error, size, "%s", strerror(errno));
	a->source = as;
	a->timeout = timeout;
	a->log = log;
	a->link.fd = a->file = -1;
	if (asprintf(&a->where, "%s%s", as->check == NULL ? "unix:" : "",
	    path) == -1) {
		free(a);
		return complain(error, size, "%s", strerror(ENOMEM));
	}
	if (as->check == check_program && !words(a)) {
		auth_close(a);
		return complain(error, size, "authentication source \"%s\": "
		    "too many arguments", source);
	}
	if (as->check == check_file)
		a->file = open(a->where, O_RDONLY | O_CLOEXEC);
	return a;
}

/* The source itself failed: never what the client said. */
static enum answer
broken(const struct auth *a, const char *why)
{
	logger_printf(a->log, LOG_ERR, "auth", NULL, "%s: %s", a->where, why);
	return UNSURE;
}

/*
 * Waits until child is gone, and kills it with all its group at the deadline.
 * Returns its wait status, or -1 with errno.
 */
static int
await(pid_t child, int64_t deadline)
{
	struct pollfd gone = { pidfd_open(child, 0), POLLIN, 0 };
	int error = errno, n = -1, result;

	while (gone.fd != -1 && (n = poll(&gone, 1, clock_left(deadline))) ==
	    -1 && errno == EINTR)
		;
	if (gone.fd != -1) {
		error = n == 0 ? ETIMEDOUT : errno;
		close(gone.fd);
	}
	if (n != 1)
		kill(-child, SIGKILL);
	while (waitpid(child, &result, 0) == -1)
		if (errno != EINTR)
			return -1;
	errno = error;
	return n == 1 ? result : -1;
}

/*
 * Starts argv with fd as its descriptor 3 and no other but /dev/null, in a
 * process group of its own.  Returns 0 with *child, or an errno.
 */
static int
start(char *const argv[], int fd, pid_t *child)
{
	static char path[] = "PATH=/usr/local/bin:/usr/bin:/bin";
	char *const environment[] = { path, NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t how;
	sigset_t all, none;
	int error, n;

	if ((error = posix_spawn_file_actions_init(&files)) != 0)
		return error;
	if ((error = posix_spawnattr_init(&how)) != 0) {
		posix_spawn_file_actions_destroy(&files);
		return error;
	}
	sigfillset(&all);
	sigemptyset(&none);
	posix_spawnattr_setflags(&how, POSIX_SPAWN_SETPGROUP |
	    POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setpgroup(&how, 0);
	posix_spawnattr_setsigdefault(&how, &all);
	posix_spawnattr_setsigmask(&how, &none);
	for (n = 0; n < 3 && error == 0; n++)
		error = posix_spawn_file_actions_addopen(&files, n,
		    "/dev/null", n == 0 ? O_RDONLY : O_WRONLY, 0);
	if (error == 0)
		error = posix_spawn_file_actions_adddup2(&files, fd, 3);
	if (error == 0)
		error = posix_spawn_file_actions_addclosefrom_np(&files, 4);
	if (error == 0)
		error = posix_spawn(child, argv[0], &files, &how, argv,
		    environment);
	posix_spawnattr_destroy(&how);
	posix_spawn_file_actions_destroy(&files);
	return error;
}

/*
 * A pipe's end, above the descriptors that the program gets, from which
 * message[0..len) can be read: it fits in any pipe.  -1 with errno.
 */
static int
piped(const char *message, size_t len)
{
	int ends[2], fd = -1, error;

	if (pipe2(ends, O_CLOEXEC) == -1)
		return -1;
	if (write(ends[1], message, len) == (ssize_t)len)
		fd = fcntl(ends[0], F_DUPFD_CLOEXEC, 10);
	error = errno;
	close(ends[0]);
	close(ends[1]);
	errno = error;
	return fd;
}

/* checkpassword(8): 0 is yes, 1 is no */
static enum answer
check_program(struct auth *a, const char *user, const char *password)
{
	char message[CHECKPASSWORD_MAX], why[64];
	size_t u = strlen(user) + 1, p = strlen(password) + 1;
	int fd, error, result;
	pid_t child;

	if (u + p + 1 > sizeof message)
		return NO;
	memcpy(message, user, u);
	memcpy(message + u, password, p);
	message[u + p] = '\0';	/* timestamp: nothing to say */
	fd = piped(message, u + p + 1);
	explicit_bzero(message, sizeof message);
	if (fd == -1)
		return broken(a, strerror(errno));
	error = start(a->argv, fd, &child);
	close(fd);
	if (error != 0)
		return broken(a, strerror(error));
	result = await(child, clock_now() + (int64_t)a->timeout * 1000);
	if (result == -1)
		return broken(a, reason(errno));
	if (WIFEXITED(result) && WEXITSTATUS(result) <= 1)
		return WEXITSTATUS(result) == 0 ? YES : NO;
	snprintf(why, sizeof why, WIFEXITED(result) ? "exit status %d" :
	    "killed by signal %d", WIFEXITED(result) ? WEXITSTATUS(result) :
	    WTERMSIG(result));
	return broken(a, why);
}

/* Takes the same time wherever they differ. */
static bool
same(const char *s, const char *t)
{
	size_t len = strlen(s), i;
	unsigned differ = 0;

	if (len != strlen(t))
		return false;
	for (i = 0; i < len; i++)
		differ |= (unsigned)(s[i] ^ t[i]);
	return differ == 0;
}

/*
 * The hash of line, cut out of it, or NULL if it has none; *mine tells
 * whether the line is user's.
 */
static const char *
hash(char *line, const char *user, bool *mine)
{
	char *colon = strchr(line, ':');

	line[strcspn(line, "\r\n")] = '\0';
	if (line[0] == '#' || colon == NULL)
		return NULL;
	*colon++ = '\0';
	colon[strcspn(colon, ":")] = '\0';
	*mine = strcmp(line, user) == 0;
	return colon;
}

/* A locked account's hash is none of crypt(3)'s. */
static bool
usable(const char *setting)
{
	return setting[0] != '\0' && strchr("!*", setting[0]) == NULL;
}

/*
 * Finds user's hash in f, or else "" and for *other the first usable hash.
 * Reads all of f whoever is asked for.  Returns false if that fails.
 */
static bool
look_up(FILE *f, const char *user, char *theirs, char *other)
{
	const char *found;
	char *line = NULL;
	bool known = false, mine = false, whole;
	size_t size = 0;

	theirs[0] = other[0] = '\0';
	errno = 0;
	while (getline(&line, &size, f) != -1) {
		if ((found = hash(line, user, &mine)) == NULL)
			continue;
		if (mine && !known) {
			known = true;
			snprintf(theirs, HASH_MAX, "%s", found);
		}
		if (other[0] == '\0' && usable(found))
			snprintf(other, HASH_MAX, "%s", found);
	}
	whole = !ferror(f) && feof(f);
	if (line != NULL)
		explicit_bzero(line, size);
	free(line);
	return whole;
}

/* crypt_r(3), or NULL.  libcrypt is loaded by the few who need it: linked, it
   would be paid for by every connection. */
static __typeof__(&crypt_r)
find_crypt(void)
{
	__typeof__(&crypt_r) found = NULL;
	void *library;

	*(void **)(void *)&found = dlsym(RTLD_DEFAULT, "crypt_r");
	if (found != NULL)
		return found;
	library = dlopen("libcrypt.so.1", RTLD_NOW);
	if (library == NULL)	/* distributions without the obsolete half */
		library = dlopen("libcrypt.so.2", RTLD_NOW);
	if (library != NULL)
		*(void **)(void *)&found = dlsym(library, "crypt_r");
	return found;
}

/* Hashes password for setting; true if the result is setting itself. */
static bool
matches(const char *password, const char *setting, bool *unknown)
{
	struct crypt_data *data = calloc(1, sizeof *data);
	__typeof__(&crypt_r) crypt_it = find_crypt();
	const char *made = NULL;
	bool equal = false;

	if (data != NULL && crypt_it != NULL)
		made = crypt_it(password, setting, data);
	*unknown = made == NULL || made[0] == '*';
	if (!*unknown)
		equal = same(made, setting);
	if (data != NULL)
		explicit_bzero(data, sizeof *data);
	free(data);
	return equal;
}

/* Somebody who is not in the file costs what one who is in it costs. */
static enum answer
check_file(struct auth *a, const char *user, const char *password)
{
	char theirs[HASH_MAX], other[HASH_MAX], buffer[4096];
	bool good, whole, unknown;
	enum answer answer = NO;
	FILE *f;
	int fd;

	if ((fd = file_again(a->file, a->where)) == -1)
		return broken(a, strerror(errno));
	if ((f = fdopen(fd, "r")) == NULL) {
		close(fd);
		return broken(a, strerror(errno));
	}
	setvbuf(f, buffer, _IOFBF, sizeof buffer);
	whole = look_up(f, user, theirs, other);
	if (!whole)
		answer = broken(a, strerror(errno));
	fclose(f);
	explicit_bzero(buffer, sizeof buffer);
	if (whole && (usable(theirs) || other[0] != '\0')) {
		good = matches(password, usable(theirs) ? theirs : other,
		    &unknown);
		if (unknown)
			answer = broken(a, "a hash that crypt(3) refuses");
		else if (good && usable(theirs))
			answer = YES;
	}
	explicit_bzero(theirs, sizeof theirs);
	explicit_bzero(other, sizeof other);
	return answer;
}

/* The words of Dovecot's protocol are separated by TABs. */
static bool
next(char **rest, const char **word)
{
	*word = strsep(rest, "\t");
	return *word != NULL;
}

/* A name that SASL allows (RFC 4422 3.1), and that can do without what only a
   TLS library knows (channel binding, the client's certificate). */
static bool
mechanism(const char *name)
{
	size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");

	if (len == 0 || len > MECHANISM_MAX || name[len] != '\0')
		return false;
	if (len > 5 && strcmp(name + len - 5, "-PLUS") == 0)
		return false;
	return strcmp(name, "EXTERNAL") != 0;
}

/* One "MECH name property..." line: not for everybody, not for nobody. */
static void
learn(struct auth *a, char *rest)
{
	size_t len = strlen(a->theirs);
	const char *name, *property;

	if (!next(&rest, &name) || !mechanism(name))
		return;
	while (next(&rest, &property))
		if (strcasecmp(property, "PRIVATE") == 0 ||
		    strcasecmp(property, "ANONYMOUS") == 0)
			return;
	if (len + strlen(name) + 2 > sizeof a->theirs)
		return;
	snprintf(a->theirs + len, sizeof a->theirs - len, "%s%s",
	    len == 0 ? "" : " ", name);
}

/* Reads Dovecot's side of the handshake.  NULL, or what is wrong. */
static const char *
shake(struct auth *a, int64_t deadline)
{
	char line[1024], *rest;
	bool ours = false;
	const char *word;
	unsigned n;

	a->theirs[0] = '\0';
	for (n = 0; n < DOVECOT_LINES; n++) {
		if (stream_line(&a->link, line, sizeof line, deadline) == -1)
			return reason(errno);
		rest = line;
		if (!next(&rest, &word))
			continue;
		if (strcmp(word, "DONE") == 0)
			return ours ? NULL : "no VERSION";
		if (rest == NULL)
			continue;
		if (strcmp(word, "MECH") == 0)
			learn(a, rest);
		if (strcmp(word, "VERSION") != 0)
			continue;
		if (!next(&rest, &word) || strcmp(word, "1") != 0)
			return "another VERSION than 1";
		ours = true;
	}
	return "a handshake that never ends";
}

/* Sees to it that we are connected.  NULL, or what is wrong. */
static const char *
reach(struct auth *a, int64_t deadline, char *why, size_t size)
{
	char hello[64];
	const char *fault = NULL;
	int len;

	if (a->link.fd != -1)
		return NULL;
	if (stream_connect(&a->link, a->where, NULL, deadline, why, size) == -1)
		return why;
	len = snprintf(hello, sizeof hello, "VERSION\t1\t1\nCPID\t%lu\n",
	    (unsigned long)getpid());
	if (stream_write(&a->link, hello, (size_t)len, deadline) == -1)
		fault = reason(errno);
	else
		fault = shake(a, deadline);
	if (fault != NULL)
		stream_close(&a->link);
	return fault;
}

/* Undoes Dovecot's escapes (\001 0, 1, t, r, n) in place. */
static void
unescape(char *s)
{
	static const char from[] = "1trn", into[] = "\001\t\r\n";
	const char *code;
	char *to = s;

	for (; *s != '\0'; s++) {
		if (*s != '\001' || s[1] == '\0') {
			*to++ = *s;
			continue;
		}
		code = strchr(from, *++s);
		*to++ = code == NULL ? *s : into[code - from];
	}
	*to = '\0';
}

/* Whoever speaks of an octet that no name has means something else. */
static bool
name_user(const char *name, char *user, size_t size)
{
	size_t len = strlen(name);

	if (len == 0 || len >= size || !clean(name))
		return false;
	memcpy(user, name, len + 1);
	return true;
}

static void
say(struct reply *v, enum answer answer)
{
	if (answer == YES)
		reply_set(v, 235, "2.7.0", "Authentication successful");
	else if (answer == NO)
		reply_set(v, 535, "5.7.8",
		    "Authentication credentials invalid");
	else
		reply_set(v, 454, "4.7.0",
		    "Temporary authentication failure");
}

static void
challenge(struct auth *a, enum turn turn, struct reply *v, const char *text)
{
	if (a != NULL)
		a->turn = turn;
	reply_set(v, 334, "", text);
}

/* "OK id user=name...": only that name counts. */
static enum answer
welcome(struct auth *a, char *rest, char *user, size_t size)
{
	char *word;

	while ((word = strsep(&rest, "\t")) != NULL) {
		if (strncmp(word, "user=", 5) != 0)
			continue;
		unescape(word);
		if (name_user(word + 5, user, size))
			return YES;
		return broken(a, "a user's name that can not be used");
	}
	return broken(a, "OK without a user");
}

/* "FAIL id ...": was it the client's fault, or Dovecot's? */
static enum answer
failure(struct auth *a, char *rest)
{
	const char *word;

	while (next(&rest, &word))
		if (strcmp(word, "temp") == 0 ||
		    strcmp(word, "code=temp_fail") == 0)
			return broken(a, "temporary failure");
	return NO;
}

/*
 * Reads what Dovecot says of our exchange, and settles it or goes on with it.
 * NULL, or what is wrong; then *stale tells whether there was no line at all.
 */
static const char *
hear(struct auth *a, int64_t deadline, struct reply *v, char *user,
    size_t size, bool *stale)
{
	char line[DOVECOT_MAX], *rest, ours[16];
	const char *what, *id;
	unsigned n;
	long len;

	snprintf(ours, sizeof ours, "%u", a->id);
	*stale = true;
	for (n = 0; n < DOVECOT_LINES; n++, *stale = false) {
		len = stream_line(&a->link, line, sizeof line, deadline);
		if (len == -1) {
			*stale = *stale && errno != ETIMEDOUT;
			return reason(errno);
		}
		rest = line;
		if (!next(&rest, &what) || !next(&rest, &id) ||
		    strcmp(id, ours) != 0)
			continue;
		*stale = false;
		if (strcmp(what, "OK") == 0)
			say(v, welcome(a, rest, user, size));
		else if (strcmp(what, "FAIL") == 0)
			say(v, failure(a, rest));
		else if (strcmp(what, "CONT") != 0 || rest == NULL ||
		    unbase64(rest, NULL, 0) == -1 ||
		    strlen(rest) >= REPLY_TEXT)
			return "an answer that can not be understood";
		else
			challenge(a, TURN_DOVECOT, v, rest);
		return NULL;
	}
	return "no answer among all that it says";
}

/* Appends to a request; sticky: len is size once it did not fit. */
static void __attribute__((format(printf, 4, 5)))
add(char *to, size_t size, size_t *len, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (*len >= size)
		return;
	va_start(ap, fmt);
	n = vsnprintf(to + *len, size - *len, fmt, ap);
	va_end(ap);
	*len = n < 0 || (size_t)n >= size - *len ? size : *len + (size_t)n;
}

/* Addresses and ports that are what they are called, and nothing else. */
static void
add_fact(char *to, size_t size, size_t *len, const char *name,
    const char *value)
{
	if (*value != '\0' &&
	    value[strspn(value, "0123456789abcdefABCDEF.:")] == '\0')
		add(to, size, len, "\t%s=%s", name, value);
}

/*
 * Writes the request that begins or goes on with an exchange.  Returns its
 * length, or size if it is too long.  "secured" because whether a mechanism
 * is too weak for the line is decided by who offers AUTH.
 */
static size_t
request(const struct auth *a, const struct envelope *env, const char *name,
    const char *response, char *to, size_t size)
{
	size_t len = 0;

	if (name == NULL) {
		add(to, size, &len, "CONT\t%u\t%s\n", a->id, response);
		return len;
	}
	add(to, size, &len, "AUTH\t%u\t%s\tservice=smtp\tsecured\tnologin",
	    a->id, name);
	add_fact(to, size, &len, "lip", env->fact[FACT_SERVER_ADDRESS]);
	add_fact(to, size, &len, "rip", env->fact[FACT_CLIENT_ADDRESS]);
	add_fact(to, size, &len, "lport", env->fact[FACT_SERVER_PORT]);
	add_fact(to, size, &len, "rport", env->fact[FACT_CLIENT_PORT]);
	if (response != NULL)	/* "must be last" */
		add(to, size, &len, "\tresp=%s", response);
	add(to, size, &len, "\n");
	return len;
}

/* One step that Dovecot takes.  The response is base64, and was checked. */
static void
dovecot(struct auth *a, const struct envelope *env, const char *name,
    const char *response, struct reply *v, char *user, size_t size)
{
	int64_t deadline = clock_now() + (int64_t)a->timeout * 1000;
	char line[DOVECOT_MAX], why[256];
	bool kept = a->link.fd != -1, stale = false;
	const char *fault = name == NULL && !kept ? reason(0) : NULL;
	size_t len;

	for (; fault == NULL; kept = false) {
		fault = reach(a, deadline, why, sizeof why);
		if (fault != NULL)
			break;
		if (name != NULL)
			a->id++;
		len = request(a, env, name, response, line, sizeof line);
		if (len >= sizeof line) {
			reply_set(v, 500, "5.5.6", "Response too long");
			break;
		}
		stale = true;
		if (stream_write(&a->link, line, len, deadline) == -1) {
			stale = errno != ETIMEDOUT;
			fault = reason(errno);
		} else
			fault = hear(a, deadline, v, user, size, &stale);
		if (fault == NULL)
			break;
		stream_close(&a->link);
		if (name == NULL || !kept || !stale)
			break;
		fault = NULL;
	}
	explicit_bzero(line, sizeof line);
	if (fault != NULL)
		say(v, broken(a, fault));
}

/* Who EXTERNAL says a client is (RFC 4422 A): a verified certificate comes
   first, since a unix socket may be some proxy's.  "" for nobody. */
static const char *
external(const struct envelope *env)
{
	const char *subject = env->fact[FACT_TLS_SUBJECT];

	return *subject != '\0' ? subject : env->fact[FACT_CLIENT_USER];
}

static bool
among(const char *list, const char *name)
{
	size_t len = strlen(name), n;

	for (; *list != '\0'; list += n + strspn(list + n, " ")) {
		n = strcspn(list, " ");
		if (n == len && memcmp(list, name, n) == 0)
			return true;
	}
	return false;
}

/* What the source has, without EXTERNAL.  NULL if it does not say. */
static const char *
native(struct auth *a)
{
	char why[256];
	const char *fault;

	if (a->source->check != NULL)
		return "PLAIN LOGIN";
	fault = reach(a, clock_now() + (int64_t)a->timeout * 1000, why,
	    sizeof why);
	if (fault == NULL)
		return a->theirs;
	broken(a, fault);
	return NULL;
}

const char *
auth_mechanisms(struct auth *a, const struct envelope *env)
{
	const char *own = external(env)[0] == '\0' ? "" : "EXTERNAL";
	const char *list;

	if (a == NULL)
		return own;
	list = native(a);
	if (list == NULL)
		list = "";
	snprintf(a->offer, sizeof a->offer, "%s%s%s", list,
	    *list != '\0' && *own != '\0' ? " " : "", own);
	return a->offer;
}

/* An authorization identity may only repeat who one is (RFC 4616 2). */
static void
settle_external(const struct envelope *env, const char *authzid, size_t len,
    struct reply *v, char *user, size_t size)
{
	const char *name = external(env);

	if (strlen(authzid) != len || (len != 0 && strcmp(authzid, name) != 0))
		say(v, NO);
	else
		say(v, name_user(name, user, size) ? YES : NO);
}

/* An empty password is never right, whatever a source makes of it. */
static void
settle(struct auth *a, const char *name, const char *password,
    struct reply *v, char *user, size_t size)
{
	enum answer answer = NO;
	char known[USER_MAX];

	if (name_user(name, known, size < sizeof known ? size : sizeof known) &&
	    password[0] != '\0' && strlen(password) < PASSWORD_MAX)
		answer = a->source->check(a, known, password);
	if (answer == YES)
		memcpy(user, known, strlen(known) + 1);
	say(v, answer);
	explicit_bzero(known, sizeof known);
}

/* RFC 4616: authzid NUL authcid NUL password. */
static void
settle_plain(struct auth *a, const char *text, size_t len, struct reply *v,
    char *user, size_t size)
{
	const char *authcid = memchr(text, '\0', len), *password = NULL;
	const char *end = text + len;

	if (authcid != NULL) {
		authcid++;
		password = memchr(authcid, '\0', (size_t)(end - authcid));
	}
	if (password != NULL)
		password++;
	if (password == NULL || strlen(password) != (size_t)(end - password))
		reply_set(v, 501, "5.5.2", "Response is not as in RFC 4616");
	else if (text[0] != '\0' && strcmp(text, authcid) != 0)
		say(v, NO);
	else
		settle(a, authcid, password, v, user, size);
}

/* LOGIN (draft-murchison-sasl-login): a name, then a password. */
static void
settle_login(struct auth *a, enum turn turn, const char *text, size_t len,
    struct reply *v, char *user, size_t size)
{
	if (strlen(text) != len)
		say(v, NO);
	else if (turn == TURN_PASSWORD)
		settle(a, a->user, text, v, user, size);
	else if (len >= sizeof a->user)
		say(v, NO);
	else {
		memcpy(a->user, text, len + 1);
		challenge(a, TURN_PASSWORD, v, "UGFzc3dvcmQ6");
	}
}

/* A response, in base64, to a mechanism that is spoken here. */
static void
respond(struct auth *a, const struct envelope *env, enum turn turn,
    const char *response, struct reply *v, char *user, size_t size)
{
	char text[SECRET_MAX];
	size_t len = (size_t)unbase64(response, text, sizeof text - 1);

	text[len < sizeof text ? len : 0] = '\0';
	if (len >= sizeof text)
		reply_set(v, 500, "5.5.6", "Response too long");
	else if (turn == TURN_EXTERNAL)
		settle_external(env, text, len, v, user, size);
	else if (turn == TURN_PLAIN)
		settle_plain(a, text, len, v, user, size);
	else
		settle_login(a, turn, text, len, v, user, size);
	explicit_bzero(text, sizeof text);
}

/* Mechanisms that are spoken here, and the challenge that begins them. */
static const struct {
	const char *name;
	enum turn turn;
	const char *challenge;
} spoken[] = {
	{ "PLAIN", TURN_PLAIN, "" },
	{ "LOGIN", TURN_USER, "VXNlcm5hbWU6" },
	{ "EXTERNAL", TURN_EXTERNAL, "" },
};

/* The turn that mechanism begins; TURN_NONE, with *v filled in, if none. */
static enum turn
begin(struct auth *a, const struct envelope *env, const char *name,
    const char **first, struct reply *v)
{
	bool certain = strcmp(name, "EXTERNAL") == 0;
	const char *list = "EXTERNAL";
	size_t i;

	*first = "";
	if (certain && external(env)[0] == '\0')
		list = "";
	else if (!certain)
		list = a == NULL ? "" : native(a);
	if (list == NULL) {
		say(v, UNSURE);
		return TURN_NONE;
	}
	if (!among(list, name)) {
		reply_set(v, 504, "5.5.4", "Unknown mechanism");
		return TURN_NONE;
	}
	if (!certain && a->source->check == NULL)
		return TURN_DOVECOT;
	for (i = 0; strcmp(spoken[i].name, name) != 0; i++)
		;
	*first = spoken[i].challenge;
	return spoken[i].turn;
}

void
auth_step(struct auth *a, const struct envelope *env, const char *name,
    const char *response, struct reply *v, char *user, size_t size)
{
	/* Without a source EXTERNAL is all there is, and needs no memory. */
	enum turn turn = a == NULL ? TURN_EXTERNAL : a->turn;
	const char *first = "";

	user[0] = '\0';
	if (name != NULL) {
		auth_abandon(a);
		if ((turn = begin(a, env, name, &first, v)) == TURN_NONE)
			return;
		/* RFC 4954 4: an initial response that is empty. */
		if (response != NULL && strcmp(response, "=") == 0)
			response = "";
	} else if (turn == TURN_NONE) {
		reply_set(v, 503, "5.5.1", "No AUTH exchange is going on");
		return;
	} else if (response == NULL)
		response = "";
	if (response != NULL && unbase64(response, NULL, 0) == -1) {
		auth_abandon(a);
		reply_set(v, 501, "5.5.2", "Response is not base64");
		return;
	}
	if (a != NULL)
		a->turn = TURN_NONE;
	if (turn == TURN_DOVECOT)
		dovecot(a, env, name, response, v, user, size);
	else if (response == NULL)
		challenge(a, turn, v, first);
	else
		respond(a, env, turn, response, v, user, size);
	if (a != NULL && a->turn != TURN_PASSWORD)
		explicit_bzero(a->user, sizeof a->user);
}

void
auth_abandon(struct auth *a)
{
	char line[32];
	int len;

	if (a == NULL)
		return;
	if (a->turn == TURN_DOVECOT && a->link.fd != -1) {
		len = snprintf(line, sizeof line, "CANCEL\t%u\n", a->id);
		if (stream_write(&a->link, line, (size_t)len,
		    clock_now() + 1000) == -1)
			stream_close(&a->link);
	}
	a->turn = TURN_NONE;
	explicit_bzero(a->user, sizeof a->user);
}

void
auth_close(struct auth *a)
{
	if (a == NULL)
		return;
	auth_abandon(a);
	stream_close(&a->link);
	if (a->file != -1)
		close(a->file);
	free(a->where);
	free(a);
}
