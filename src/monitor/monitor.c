/*
 * monitor.c - the boundary between the process that talks to the client and
 * the one that acts for it.
 *
 * monitor_start() forks.  The child, the channel process, goes on with the
 * client, confined: it can compute, read, write, and ask.  The parent, the
 * monitor, lets go of the client and answers questions until the child is
 * gone, then takes leave of the next hops and exits with the child's status.
 *
 * A question is a struct head and behind it strings, each with its NUL:
 * the envelope's facts, its recipients' addresses and options, a, b.  An
 * answer is a struct tail, verdicts, and a string.  A descriptor may ride on
 * either (SCM_RIGHTS).  Questions come from where strangers' octets were
 * parsed, so the monitor believes none: counts, lengths, NULs, control
 * characters and the descriptor's kind are checked, and a question that does
 * not pass ends the session.  Whom we are connected to, what TLS came to, and
 * who authenticated the monitor knows better: it does not even ask.
 */
#define _GNU_SOURCE	/* explicit_bzero, MSG_CMSG_CLOEXEC, _Fork,
			   closefrom */
#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "monitor/confine.h"
#include "monitor/monitor.h"
#include "relay/smtp.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

#define STRINGS_MAX (64 * 1024)	/* octets of strings beside recipients */
#define RECIPIENT_MAX 2048	/* octets of one recipient's two strings */
#define RECIPIENTS_MAX 1000000	/* where --max-recipients sets no limit */
/* Seconds for what should take none: between two processes of one machine a
   question that began must come, and an answer be taken.  Only a machine that
   stands still, or somebody who means harm, takes longer. */
#define EXCHANGE 5
#define SLOW 1000		/* milliseconds until a relay is called slow */
#define TEXT_MAX 4096		/* octets of an answer's string, with NUL */
#define USUAL 1024		/* octets of a question, and its recipients: */
#define FEW 8			/* with more of them it needs memory */

struct monitor {
	const struct monitor_settings *set;
	struct relay *relay;
	struct policy *policy;	/* NULL: none */
	struct auth *auth;	/* NULL: EXTERNAL at most */
	int peer;		/* the other process; -1: there is none yet */
	pid_t child;		/* the channel process; 0 in itself */
	bool broken;		/* a question or answer was not whole */
	bool tls;		/* it was served, which is once */
	bool ended;		/* the channel process took its leave, */
	int status;		/* to exit with this */
	int64_t end;		/* of the session: a deadline */
	/* The monitor's own facts, which take the place of those in questions;
	   NULL: the channel process knows. */
	const char *known[FACTS];
	char method[32], user[MONITOR_USER];	/* of AUTH, for known */
	/* From here on nothing is cleared, or touched before it is used. */
	struct recipient few[FEW];	/* of the usual question, */
	char usual[USUAL];		/* and the octets of it */
	char text[TEXT_MAX];		/* an answer's string */
	char mechanisms[512];
	char report[MONITOR_REPORT];	/* of TLS, for known */
};

enum ask {
	ASK_STAGE,
	ASK_RELAY,
	ASK_FORGET,		/* not answered */
	ASK_FILE,
	ASK_MECHANISMS,
	ASK_AUTH,
	ASK_ABANDON,		/* not answered */
	ASK_TLS,
	ASK_LOG,		/* not answered */
	ASK_STATUS,		/* not answered */
	ASK_END,		/* not answered: nothing will be asked again */
	ASKS
};

/* A question; a and b may be NULL. */
struct question {
	enum ask ask;
	unsigned number;	/* ASK_STAGE: enum stage; ASK_LOG: priority;
				   ASK_STATUS: is it about to end?;
				   ASK_END: exit status */
	const struct envelope *env;	/* NULL: none */
	const char *a, *b;
	int fd;			/* -1: none; borrowed */
};

#define HAS_ENVELOPE 1U
#define HAS_A 2U
#define HAS_B 4U
#define HAS_SMTPUTF8 8U

/* In front of a question's strings. */
struct head {
	uint32_t ask, number, flags, encoding;
	uint32_t nrecipients;
	uint32_t len;		/* octets of strings */
	uint64_t size;
};

/* In front of an answer's verdicts. */
struct tail {
	uint32_t nverdicts;	/* one for all recipients, or one for each */
	uint32_t len;		/* octets of the string with its NUL */
};

struct monitor *
monitor_open(const struct monitor_settings *set, char *error, size_t size)
{
	static struct monitor only;	/* pages that nobody uses cost nothing */
	struct monitor *m = &only;

	memset(m, 0, offsetof(struct monitor, few));
	m->set = set;
	m->peer = -1;
	m->relay = relay_open(&set->relay, error, size);
	if (m->relay == NULL)
		return NULL;
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
	if (m->peer != -1)
		close(m->peer);
	relay_close(m->relay);
	policy_close(m->policy);
	auth_close(m->auth);
}

enum spool_form
monitor_form(const struct monitor *m)
{
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

/* ---- what crosses ------------------------------------------------------ */

/* Waits until fd is ready.  -1 with errno, ETIMEDOUT at the deadline. */
static int
await(int fd, short what, int64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = what };
	int n;

	do
		n = poll(&p, 1, clock_left(deadline));
	while (n == -1 && errno == EINTR);
	if (n == 0)
		errno = ETIMEDOUT;
	return n > 0 ? 0 : -1;
}

/* Sends all of iov[0..n), the descriptor with the first octet, by the deadline
   if there is one; iov is used up.  -1 with errno. */
static int
send_all(int to, struct iovec *iov, size_t n, int fd, int64_t deadline)
{
	const int flags = MSG_NOSIGNAL | (deadline == 0 ? 0 : MSG_DONTWAIT);
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .room = { 0 } };
	struct msghdr msg;
	ssize_t sent;

	while (n > 0) {
		msg = (struct msghdr){ .msg_iov = iov, .msg_iovlen = n };
		if (fd != -1) {
			msg.msg_control = &control;
			msg.msg_controllen = sizeof control;
			control.head.cmsg_level = SOL_SOCKET;
			control.head.cmsg_type = SCM_RIGHTS;
			control.head.cmsg_len = CMSG_LEN(sizeof fd);
			memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
		}
		sent = sendmsg(to, &msg, flags);
		if (sent == -1 && (errno == EINTR || (errno == EAGAIN &&
		    await(to, POLLOUT, deadline) == 0)))
			continue;
		if (sent == -1)
			return -1;
		fd = -1;
		for (; n > 0 && (size_t)sent >= iov->iov_len; n--)
			sent -= (ssize_t)iov++->iov_len;
		if (n > 0) {
			iov->iov_base = (char *)iov->iov_base + sent;
			iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

/* Receives len octets, by the deadline if there is one, and perhaps a
   descriptor, which replaces *fd.  There is room for one: the kernel closes
   others.  -1 with errno, 0 for the end of file. */
static int
receive_all(int from, void *p, size_t len, int *fd, int64_t deadline)
{
	const int flags = MSG_CMSG_CLOEXEC | (deadline == 0 ? 0 : MSG_DONTWAIT);
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov;
	struct msghdr msg;
	char *octets = p;
	ssize_t n;

	while (len > 0) {
		iov = (struct iovec){ octets, len };
		msg = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1,
			.msg_control = &control,
			.msg_controllen = CMSG_LEN(sizeof *fd) };
		n = recvmsg(from, &msg, flags);
		if (n == -1 && (errno == EINTR || (errno == EAGAIN &&
		    await(from, POLLIN, deadline) == 0)))
			continue;
		if (n <= 0)
			return -(n < 0);
		if (CMSG_FIRSTHDR(&msg) != NULL &&
		    control.head.cmsg_type == SCM_RIGHTS) {
			if (*fd != -1)
				close(*fd);
			memcpy(fd, CMSG_DATA(&control.head), sizeof *fd);
		}
		octets += n;
		len -= (size_t)n;
	}
	return 1;
}

/* ---- the channel process ----------------------------------------------- */

/* Appends s with its NUL if there is room: p may be NULL to measure. */
static size_t
pack(char *p, size_t n, const char *s)
{
	size_t len = strlen(s) + 1;

	if (p != NULL)
		memcpy(p + n, s, len);
	return n + len;
}

static size_t
pack_strings(char *p, const struct question *q)
{
	size_t n = 0;

	for (size_t i = 0; q->env != NULL && i < FACTS; i++)
		n = pack(p, n, q->env->fact[i]);
	for (size_t i = 0; q->env != NULL && i < q->env->nrecipients; i++) {
		n = pack(p, n, q->env->recipients[i].address);
		n = pack(p, n, q->env->recipients[i].options);
	}
	if (q->a != NULL)
		n = pack(p, n, q->a);
	if (q->b != NULL)
		n = pack(p, n, q->b);
	return n;
}

static int
send_question(struct monitor *m, const struct question *q)
{
	size_t len = pack_strings(NULL, q), size = sizeof(struct head) + len;
	char *p = size <= sizeof m->usual ? m->usual : malloc(size);
	struct iovec iov = { p, size };
	struct head h = {
		.ask = (uint32_t)q->ask,
		.number = q->number,
		.flags = (q->env != NULL ? HAS_ENVELOPE : 0) |
		    (q->a != NULL ? HAS_A : 0) | (q->b != NULL ? HAS_B : 0),
		.len = (uint32_t)len,
	};
	int status;

	if (p == NULL || m->broken) {
		status = -1;
		goto out;
	}
	if (q->env != NULL) {
		h.flags |= q->env->smtputf8 ? HAS_SMTPUTF8 : 0;
		h.encoding = (uint32_t)q->env->body;
		h.nrecipients = (uint32_t)q->env->nrecipients;
		h.size = q->env->size;
	}
	memcpy(p, &h, sizeof h);
	pack_strings(p + sizeof h, q);
	status = send_all(m->peer, &iov, 1, q->fd, 0);
	if (status == -1)	/* half of it may have been sent */
		m->broken = true;
	if (q->ask == ASK_AUTH)
		explicit_bzero(p, size);
out:
	if (p != m->usual)
		free(p);
	return status;
}

/*
 * Waits for the answer: v[0..n) verdicts (one that came for all is repeated),
 * text[0..size) its string, *fd its descriptor or -1.  Returns false if the
 * monitor is not there any more.
 */
static bool
hear(struct monitor *m, struct reply *v, size_t n, char *text, size_t size,
    int *fd)
{
	struct tail t;
	int none = -1;

	if (fd == NULL)
		fd = &none;
	*fd = -1;
	if (receive_all(m->peer, &t, sizeof t, fd, 0) != 1 ||
	    t.nverdicts > n || t.len > size ||
	    (t.nverdicts != n && t.nverdicts != 1) ||
	    receive_all(m->peer, v, t.nverdicts * sizeof *v, fd, 0) != 1 ||
	    receive_all(m->peer, text, t.len, fd, 0) != 1) {
		/* What is left of it must not answer another question. */
		m->broken = true;
		return false;
	}
	if (t.len > 0)
		text[t.len - 1] = '\0';
	for (size_t i = t.nverdicts; i < n; i++)
		v[i] = v[0];
	return true;
}

static bool
ask(struct monitor *m, const struct question *q, struct reply *v, size_t n,
    char *text, size_t size, int *fd)
{
	return send_question(m, q) == 0 && hear(m, v, n, text, size, fd);
}

/* The monitor died: what it was asked to do may or may not have happened. */
static void
lost(struct reply *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		reply_set(&v[i], 421, "4.3.0", "Internal error, try again");
}

bool
monitor_broken(const struct monitor *m)
{
	return m->broken;
}

int
monitor_fd(const struct monitor *m)
{
	return m->peer;
}

void
monitor_stage(struct monitor *m, enum stage stage, const struct envelope *env,
    struct reply *v, char *prepend)
{
	const struct question q = { ASK_STAGE, (unsigned)stage, env, NULL, NULL,
		-1 };

	prepend[0] = '\0';
	if (!ask(m, &q, v, 1, prepend, POLICY_PREPEND, NULL))
		lost(v, 1);
}

void
monitor_relay(struct monitor *m, const struct envelope *env, int spool,
    void (*slow)(void *ctx), void *ctx, struct reply v[])
{
	const struct question q = { ASK_RELAY, 0, env, NULL, NULL, spool };
	char text[1];

	if (send_question(m, &q) == -1) {
		lost(v, env->nrecipients);
		return;
	}
	if (poll(&(struct pollfd){ .fd = m->peer, .events = POLLIN }, 1,
	    SLOW) == 0)
		slow(ctx);
	if (!hear(m, v, env->nrecipients, text, sizeof text, NULL))
		lost(v, env->nrecipients);
}

void
monitor_forget(struct monitor *m)
{
	const struct question q = { ASK_FORGET, 0, NULL, NULL, NULL, -1 };

	if (m->policy != NULL)
		send_question(m, &q);
}

int
monitor_file(void *ctx)
{
	struct monitor *m = ctx;
	const struct question q = { ASK_FILE, 0, NULL, NULL, NULL, -1 };
	char text[TEXT_MAX];
	int fd = -1, err = 0;

	if (ask(m, &q, NULL, 0, text, sizeof text, &fd) && fd == -1)
		err = (int)strtoul(text, NULL, 10);
	errno = err > 0 ? err : EIO;
	return fd;
}

const char *
monitor_mechanisms(struct monitor *m, const struct envelope *env)
{
	const struct question q = { ASK_MECHANISMS, 0, env, NULL, NULL, -1 };

	if (!ask(m, &q, NULL, 0, m->mechanisms, sizeof m->mechanisms, NULL))
		m->mechanisms[0] = '\0';
	return m->mechanisms;
}

void
monitor_auth(struct monitor *m, const struct envelope *env,
    const char *mechanism, const char *response, struct reply *v,
    char *user, size_t size)
{
	const struct question q = { ASK_AUTH, 0, env,
		mechanism == NULL ? "" : mechanism, response, -1 };

	user[0] = '\0';
	if (!ask(m, &q, v, 1, user, size, NULL))
		lost(v, 1);
}

void
monitor_auth_abandon(struct monitor *m)
{
	const struct question q = { ASK_ABANDON, 0, NULL, NULL, NULL, -1 };

	send_question(m, &q);
}

int
monitor_tls(struct monitor *m, int client, char *report, size_t size)
{
	const struct question q = { ASK_TLS, 0, NULL, NULL, NULL, client };
	int fd = -1;

	if (!ask(m, &q, NULL, 0, report, size, &fd))
		snprintf(report, size, "the monitor is gone");
	return fd;
}

/* Text that unpack() will take. */
static void
one_line(char *to, size_t size, const char *text)
{
	text_join(to, size, text, NULL);
	for (; *to != '\0'; to++)
		if ((unsigned char)*to < ' ' || *to == '\177')
			*to = ' ';
}

void
monitor_status(struct monitor *m, const char *text, bool stopping)
{
	char line[512];
	const struct question q = { ASK_STATUS, stopping, NULL, line, NULL,
		-1 };

	if (m->set->status == NULL)
		return;
	one_line(line, sizeof line, text);
	send_question(m, &q);
}

void
monitor_log(struct monitor *m, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	const struct logger *log = &m->set->log;
	char line[2048];
	const struct question q = { ASK_LOG, (unsigned)priority, env, event,
		line, -1 };

	one_line(line, sizeof line, text);
	if (m->peer == -1)	/* not started yet */
		log->log(log->ctx, priority, event, env, text);
	else
		send_question(m, &q);
}

void
monitor_end(struct monitor *m, int status, const char *event,
    const struct envelope *env, const char *text)
{
	char line[2048];
	const struct question q = { ASK_END, (unsigned)status, env, event,
		event == NULL ? NULL : line, -1 };

	if (event != NULL)
		one_line(line, sizeof line, text);
	send_question(m, &q);
}

/* ---- the monitor ------------------------------------------------------- */

/* The event that a verdict is. */
static const char *
event_of(const struct reply *v)
{
	return v->code < 400 ? "message-relayed"
	    : v->code < 500  ? "message-deferred"
			     : "message-refused";
}

static void
log_verdict(struct monitor *m, int priority, const char *event,
    const struct envelope *env, const struct reply *v)
{
	char text[REPLY_TEXT + 24], code[TEXT_NUMBER];

	text_join(text, sizeof text, text_number(code, (uint64_t)v->code, 3),
	    v->enh[0] == '\0' ? "" : " ", v->enh, " ", v->text, NULL);
	logger_put(&m->set->log, priority, event, env, text);
}

/* One record for all recipients that share a verdict, so usually one. */
static void
log_verdicts(struct monitor *m, const struct envelope *env,
    const struct reply v[])
{
	struct envelope one = *env;
	size_t i = 0, n;

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

/* The policy service may have said that the message goes nowhere, or
   somewhere else: then all recipients share what became of it. */
static void
relay_message(struct monitor *m, const struct envelope *env, int spool,
    struct reply v[])
{
	const char *to = m->policy == NULL ? NULL : policy_redirects(m->policy);
	struct envelope other = *env;
	struct recipient one = { to, "" };

	if (m->policy != NULL && policy_discards(m->policy)) {
		for (size_t i = 0; i < env->nrecipients; i++)
			reply_set(&v[i], 250, "2.0.0", "Message accepted");
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

static void
think_of_stage(struct monitor *m, enum stage stage, const struct envelope *env,
    struct reply *v, char *prepend)
{
	reply_set(v, 250, "2.0.0", "OK");
	if (stage == STAGE_RCPT)
		relay_rcpt(m->relay, env, v);
	if (m->policy != NULL && v->code < 400)
		policy_ask(m->policy, stage, env, v, prepend);
	if (v->code >= 400)
		log_verdict(m, LOG_NOTICE, "refused", env, v);
}

/* Remembers who authenticated, "" for nobody; unless XCLIENT might name
   somebody else, of which nobody tells us. */
static void
know_user(struct monitor *m, const char *user)
{
	if (m->known[FACT_SASL_USERNAME] == NULL)
		return;
	text_join(m->user, sizeof m->user, user, NULL);
	m->known[FACT_SASL_USERNAME] = m->user;
	m->known[FACT_SASL_METHOD] = m->user[0] == '\0' ? "" : m->method;
}

/* Remembers what the TLS engine said of the client.  RFC 3207 4.2: who he said
   he was in the clear is forgotten. */
static void
know_tls(struct monitor *m, const char *report)
{
	char *rest = m->report, *name, *value;
	size_t i;

	know_user(m, "");
	for (i = FACT_TLS_PROTOCOL; i <= FACT_TLS_FINGERPRINT; i++)
		m->known[i] = "";
	text_join(m->report, sizeof m->report, report, NULL);
	while ((value = strsep(&rest, "\n")) != NULL) {
		name = strsep(&value, "=");
		for (i = 0; i < FACTS; i++)
			if (value != NULL && *name != '\0' &&
			    strcmp(fact_names[i].report, name) == 0)
				m->known[i] = value;
	}
}

static void
authenticate(struct monitor *m, const struct question *q, struct reply *v,
    char *user)
{
	const char *mechanism = q->a[0] == '\0' ? NULL : q->a;

	auth_step(m->auth, q->env, mechanism, q->b, v, user, MONITOR_USER);
	if (mechanism != NULL)
		text_join(m->method, sizeof m->method, mechanism, NULL);
	know_user(m, v->code == 235 ? user : "");
}

static int
serve_tls(struct monitor *m, int client, char *report, size_t size)
{
	const struct tls_settings *tls = &m->set->tls;
	const int keep[] = { tls->cert, tls->key, -1 };
	char cert[16], key[16], timeout[16];
	int fd;
	const char *argv[12] = { tls->program, "server", "--certfd", cert,
		"--keyfd", key, "--timeout", timeout, NULL, NULL, NULL };

	snprintf(cert, sizeof cert, "%d", tls->cert);
	snprintf(key, sizeof key, "%d", tls->key);
	snprintf(timeout, sizeof timeout, "%u", tls->timeout);
	if (tls->ca != NULL) {
		argv[8] = "--ca";
		argv[9] = tls->ca;
	}
	fd = tls_start(argv, keep, client,
	    clock_now() + (int64_t)tls->timeout * 1000, report, size);
	if (fd != -1)
		know_tls(m, report);
	return fd;
}

/* A question as it came, checked. */
struct received {
	struct question q;	/* owns its descriptor */
	struct envelope env;
	struct recipient *recipients;	/* the monitor's, or owned: */
	char *strings;			/* likewise */
	size_t len;		/* octets of strings */
};

/* Takes the next string off *p; NULL if there is none without control
   characters before end. */
static const char *
unpack(const char **p, const char *end)
{
	const char *s = *p;

	for (; *p < end && **p != '\0'; ++*p)
		if (((unsigned char)**p < ' ' && **p != '\t') || **p == '\177')
			return NULL;
	if (*p == end)
		return NULL;
	++*p;
	return s;
}

/* Reads an envelope's strings, those of its recipients into rows. */
static bool
unpack_envelope(struct envelope *env, struct recipient *rows,
    const struct head *h, const char **p, const char *end)
{
	struct recipient *one;

	env->recipients = rows;
	env->nrecipients = h->nrecipients;
	env->size = h->size;
	env->smtputf8 = (h->flags & HAS_SMTPUTF8) != 0;
	env->body = (enum body)h->encoding;
	if (h->encoding > BODY_BINARYMIME)
		return false;
	for (size_t i = 0; i < FACTS; i++)
		if ((env->fact[i] = unpack(p, end)) == NULL)
			return false;
	for (one = rows; one < rows + h->nrecipients; one++) {
		one->address = unpack(p, end);
		one->options = unpack(p, end);
		if (one->address == NULL || one->options == NULL ||
		    one->address[0] == '\0' || one->address[0] == '-')
			return false;
	}
	return true;
}

/* Reads the strings of a question by its head.  False: it is none. */
static bool
unpack_question(struct received *r, const struct head *h)
{
	const char *p = r->strings, *end = p + h->len;
	struct envelope env = { .size = 0 };

	r->q.ask = (enum ask)h->ask;
	r->q.number = h->number;
	if ((h->flags & HAS_ENVELOPE) != 0) {
		if (!unpack_envelope(&env, r->recipients, h, &p, end))
			return false;
		r->env = env;
		r->q.env = &r->env;
	}
	if ((h->flags & HAS_A) != 0 && (r->q.a = unpack(&p, end)) == NULL)
		return false;
	if ((h->flags & HAS_B) != 0 && (r->q.b = unpack(&p, end)) == NULL)
		return false;
	return p == end;
}

/* Is a an event, and b a text about it? */
static bool
is_record(const struct question *q)
{
	const char *p = q->a;

	while (p != NULL && ((*p >= 'a' && *p <= 'z') || *p == '-'))
		p++;
	return p != NULL && *p == '\0' && q->b != NULL;
}

/* Has the client done what it must before its mail is taken?  The channel
   sees to that, but here is who knows; or nobody does. */
static bool
entitled(const struct monitor *m)
{
	const char *user = m->known[FACT_SASL_USERNAME];
	const char *tls = m->known[FACT_TLS_PROTOCOL];

	return (!m->set->auth_required || user == NULL || user[0] != '\0') &&
	    (!m->set->tls_required || tls == NULL || tls[0] != '\0');
}

/* Does the question have what its kind needs? */
static bool
sensible(const struct monitor *m, const struct question *q)
{
	struct stat st;
	bool file = q->fd != -1 && fstat(q->fd, &st) == 0;
	bool one = q->number == STAGE_RCPT || q->number == STAGE_VRFY;

	switch (q->ask) {
	case ASK_STAGE:
		return q->env != NULL && q->number < STAGES && q->fd == -1 &&
		    (!one || q->env->nrecipients == 1);
	case ASK_FORGET:
		return m->policy != NULL && q->fd == -1;
	case ASK_RELAY:
		return entitled(m) && q->env != NULL &&
		    q->env->nrecipients > 0 &&
		    q->env->fact[FACT_SENDER][0] != '-' &&
		    (q->fd == -1 || (file && S_ISREG(st.st_mode)));
	case ASK_MECHANISMS:
		return q->env != NULL;
	case ASK_AUTH:
		return q->env != NULL && q->a != NULL;
	case ASK_STATUS:
		return q->a != NULL && m->set->status != NULL;
	case ASK_TLS:
		return file && S_ISSOCK(st.st_mode) &&
		    m->set->tls.key != -1 && !m->tls;
	case ASK_LOG:	/* what is worse is shouted at every terminal */
		return q->number >= LOG_ERR && q->number <= LOG_DEBUG &&
		    is_record(q);
	case ASK_END:
		return q->number <= 255 && q->fd == -1 &&
		    ((q->a == NULL && q->b == NULL) || is_record(q));
	default:
		return q->fd == -1;
	}
}

/* Puts what we know in the place of what we are told.  But that a client is
   nobody we take the channel process's word for: XCLIENT may have named who has
   neither the login nor the certificate of who sent it. */
static void
correct(const struct monitor *m, struct envelope *env)
{
	static const bool modest[FACTS] = {
		[FACT_CLIENT_USER] = true,
		[FACT_TLS_SUBJECT] = true,
		[FACT_TLS_ISSUER] = true,
		[FACT_TLS_FINGERPRINT] = true,
	};

	for (size_t i = 0; i < FACTS; i++)
		if (m->known[i] != NULL && (!modest[i] ||
		    env->fact[i] == NULL || env->fact[i][0] != '\0'))
			env->fact[i] = m->known[i];
}

/* What came is no question.  (Setting errno in advance would cost each session
   a page.) */
static int
nonsense(void)
{
	errno = EBADMSG;
	return -1;
}

/* Gets a question.  1: here it is; 0: there will be no more; -1 with errno,
   EBADMSG if what came is none.  The caller calls dispose() in any case. */
static int
get_question(struct monitor *m, struct received *r)
{
	const int64_t deadline = clock_now() + EXCHANGE * 1000;
	size_t most = m->set->max_recipients;
	struct head h;
	int fd = -1, status;

	memset(r, 0, sizeof *r);
	status = receive_all(m->peer, &h, sizeof h, &fd, deadline);
	r->q.fd = fd;
	if (status != 1)
		return status;
	if (most == 0 || most > RECIPIENTS_MAX)
		most = RECIPIENTS_MAX;
	if (h.ask >= ASKS || h.nrecipients > most ||
	    h.len > STRINGS_MAX + (uint64_t)h.nrecipients * RECIPIENT_MAX)
		return nonsense();
	r->strings = h.len <= sizeof m->usual ? m->usual : calloc(1, h.len);
	r->recipients = h.nrecipients <= FEW ? m->few
	    : calloc(h.nrecipients, sizeof *r->recipients);
	if (r->strings == NULL || r->recipients == NULL)
		return -1;
	r->len = h.len;
	status = receive_all(m->peer, r->strings, h.len, &fd, deadline);
	r->q.fd = fd;
	if (status != 1)
		return status;
	if (!unpack_question(r, &h) || !sensible(m, &r->q))
		return nonsense();
	correct(m, &r->env);
	return 1;
}

/* Closes, wipes and frees; what is disposed of may be so again. */
static void
dispose(const struct monitor *m, struct received *r)
{
	if (r->q.fd != -1)
		close(r->q.fd);
	if (r->strings != NULL)
		explicit_bzero(r->strings, r->len);
	/* free(NULL) is legal, and costs a page that nothing else needs. */
	if (r->strings != NULL && r->strings != m->usual)
		free(r->strings);
	if (r->recipients != NULL && r->recipients != m->few)
		free(r->recipients);
	memset(r, 0, sizeof *r);
	r->q.fd = -1;
}

/* Answers: v[0..n), or v[0] alone if all are the same; m->text; fd.  What was
   done can not be undone, so it takes no memory that might not be there. */
static int
answer(struct monitor *m, struct reply *v, size_t n, int fd)
{
	struct tail t = { .len = (uint32_t)strlen(m->text) + 1 };
	struct iovec iov[] = { { &t, sizeof t }, { v, 0 }, { m->text, t.len } };
	size_t same = 1;
	int status;

	while (same < n && reply_same(&v[0], &v[same]))
		same++;
	t.nverdicts = same < n ? (uint32_t)n : n > 0;
	iov[1].iov_len = t.nverdicts * sizeof *v;
	status = send_all(m->peer, iov, sizeof iov / sizeof iov[0], fd,
	    clock_now() + EXCHANGE * 1000);
	explicit_bzero(m->text, t.len);
	return status;
}

/* What stands behind the words in a verdict's memory was the monitor's own,
   and is nothing for the channel process. */
static void
scrub(struct reply *v)
{
	size_t enh = strlen(v->enh), text = strlen(v->text);

	memset(v->enh + enh, 0, sizeof v->enh - enh);
	memset(v->text + text, 0, sizeof v->text - text);
}

/* Takes note of what wants no answer.  False if it wants one. */
static bool
heed(struct monitor *m, const struct question *q)
{
	switch (q->ask) {
	case ASK_FORGET:
		policy_forget(m->policy);
		return true;
	case ASK_ABANDON:
		auth_abandon(m->auth);
		return true;
	case ASK_STATUS:
		m->set->status(m->set->log.ctx, q->a, q->number != 0);
		return true;
	case ASK_LOG:
		m->set->log.log(m->set->log.ctx, (int)q->number, q->a, q->env,
		    q->b);
		return true;
	case ASK_END:
		m->ended = true;
		m->status = (int)q->number;
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
perform(struct monitor *m, const struct question *q, struct reply *v,
    int *fd)
{
	switch (q->ask) {
	case ASK_STAGE:
		think_of_stage(m, (enum stage)q->number, q->env, v, m->text);
		break;
	case ASK_RELAY:
		relay_message(m, q->env, q->fd, v);
		break;
	case ASK_FILE:
		*fd = spool_file(NULL);
		if (*fd == -1)
			snprintf(m->text, sizeof m->text, "%d", errno);
		break;
	case ASK_MECHANISMS:
		text_join(m->text, sizeof m->mechanisms,
		    auth_mechanisms(m->auth, q->env), NULL);
		break;
	case ASK_AUTH:
		authenticate(m, q, v, m->text);
		break;
	case ASK_TLS:
		m->tls = true;
		*fd = serve_tls(m, q->fd, m->text, MONITOR_REPORT);
		break;
	default:
		break;
	}
}

/* Answers a question, or heeds it.  -1 with errno: the channel process can not
   be told. */
static int
act(struct monitor *m, struct received *r)
{
	const struct question *q = &r->q;
	size_t n = q->ask == ASK_RELAY && q->env != NULL
	    ? q->env->nrecipients
	    : q->ask == ASK_STAGE || q->ask == ASK_AUTH;
	/* Zeroed: what lay there before is not for the channel process. */
	struct reply one = { .code = 0 }, *v = &one;
	int fd = -1, status;

	/* sensible() saw to it. */
	assert(q->a != NULL || q->ask != ASK_AUTH);
	assert(q->env != NULL || q->ask != ASK_RELAY);
	if (heed(m, q))
		return 0;
	if (n > 1 && (v = calloc(n, sizeof *v)) == NULL)
		return -1;
	m->text[0] = '\0';
	if (n > 0 && clock_left(m->end) == 0)
		for (size_t i = 0; i < n; i++)
			reply_set(&v[i], 421, "4.4.2", "Timed out");
	else
		perform(m, q, v, &fd);
	for (size_t i = 0; i < n; i++)
		scrub(&v[i]);
	dispose(m, r);	/* whoever hears of it finds no spool and no password */
	status = answer(m, v, n, fd);
	if (fd != -1)
		close(fd);
	if (v != &one)
		free(v);
	return status;
}

/* The client is the channel process's alone: here its descriptors become
   nothing, or it would not see us hang up.  Standard error may be one of them.
   -1 with errno. */
static int
let_go(const struct monitor *m)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), status = -1;

	if (null != -1 && dup2(null, STDIN_FILENO) != -1 &&
	    dup2(null, STDOUT_FILENO) != -1 &&
	    (m->set->relay.print != -1 || dup2(null, STDERR_FILENO) != -1))
		status = 0;
	if (null != -1)
		close(null);
	return status;
}

/* Waits for a question: as long as the session may last, and what was begun
   in it.  SIGTERM is blocked here, so it can not interrupt a relay; it is for
   who talks to the client to obey.  -1 with errno. */
static int
wait_question(const struct monitor *m, int signals)
{
	const unsigned relay = m->set->relay.timeout;
	const unsigned policy = m->set->policy_timeout;
	const int64_t deadline = m->end + EXCHANGE * 1000 +
	    (int64_t)(relay > policy ? relay : policy) * 1000;
	struct pollfd p[] = { { .fd = m->peer, .events = POLLIN },
		{ .fd = signals, .events = POLLIN } };
	struct signalfd_siginfo info;
	int n;

	for (;;) {
		n = poll(p, 2, clock_left(deadline));
		if (n == 0)
			errno = ETIMEDOUT;
		if (n == 0 || (n == -1 && errno != EINTR))
			return -1;
		if ((p[1].revents & POLLIN) != 0 &&
		    read(signals, &info, sizeof info) == sizeof info)
			kill(m->child, SIGTERM);
		if (p[0].revents != 0)
			return 0;
	}
}

/*
 * Waits for the end of the channel process, and gets its status.  One that is
 * to blame (error) is killed, and so is one that took its leave or closed its
 * end: it has nothing left to do but exit.  Any other may tell its client
 * that we are going, for a moment.  -1 with errno.
 */
static int
see_off(const struct monitor *m, int error, int *status)
{
	struct pollfd gone = { .fd = -1, .events = POLLIN };

	if (error == EBADMSG || error == ETIMEDOUT) {
		logger_printf(&m->set->log, LOG_CRIT, "channel-broken", NULL,
		    "the channel process %s: it is ended", error == EBADMSG
		    ? "asked for something impossible" : "does not go on");
	} else if (error != 0) {
		logger_printf(&m->set->log, LOG_ERR, "session", NULL,
		    "the monitor can not go on: %s", strerror(error));
		shutdown(m->peer, SHUT_RDWR);
		gone.fd = pidfd_open(m->child, 0);
		poll(&gone, 1, EXCHANGE * 1000);
		close(gone.fd);
	}
	if (waitpid(m->child, status, WNOHANG) == m->child)
		return 0;
	kill(m->child, SIGKILL);
	while (waitpid(m->child, status, 0) == -1)
		if (errno != EINTR)
			return -1;
	return 0;
}

/* The monitor's life.  Returns its exit status: the channel process's. */
static int
serve(struct monitor *m, int signals)
{
	struct received r;
	int status, more = 1, error = let_go(m) == -1 ? errno : 0;

	m->end = clock_now() + (int64_t)m->set->session_timeout * 1000;
	while (error == 0 && more == 1 && !m->ended) {
		if (wait_question(m, signals) == -1) {
			error = errno;
			break;
		}
		more = get_question(m, &r);
		if (more == 1)
			more = act(m, &r) == -1 ? -1 : 1;
		if (more == -1)
			error = errno;
		dispose(m, &r);
	}
	if (see_off(m, error, &status) == -1)
		return EX_OSERR;
	if (m->ended)
		return m->status;
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	logger_printf(&m->set->log, LOG_CRIT, "channel-broken", NULL,
	    "the channel process was ended by signal %d", WTERMSIG(status));
	return EX_SOFTWARE;
}

#ifdef CONFINE_ARCH
/* What is left to the channel process: its descriptors, memory, time. */
static const struct sock_filter calls[] = {
	CONFINE_BEGIN,
	CONFINE_ALLOW(poll, ppoll, sendto, recvfrom, sendmsg, recvmsg),
	CONFINE_ALLOW(memfd_create, lseek, pread64, sendfile, dup2, dup3),
	CONFINE_ALLOW_OPTION(IPPROTO_TCP, TCP_QUICKACK),
	CONFINE_END
};
#else
static const struct sock_filter calls[1];
#endif

/* Confines the channel process, and says once what this kernel lacks. */
static int
give_up_everything(struct monitor *m)
{
	static const struct {
		unsigned bit;
		const char *name;
	} parts[] = {
		{ CONFINE_NO_NEW_PRIVS, "no_new_privs" },
		{ CONFINE_NO_LIMITS, "limits" },
		{ CONFINE_NO_LANDLOCK, "Landlock" },
		{ CONFINE_NO_SECCOMP, "seccomp" },
	};
	unsigned missing = confine(calls,
	    sizeof calls > sizeof calls[0] ? sizeof calls / sizeof calls[0]
					   : 0);
	char text[96] = "";

	if (missing == 0)
		return 0;
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		if ((missing & parts[i].bit) != 0)
			text_join(text + strlen(text),
			    sizeof text - strlen(text), text[0] == '\0'
			    ? "this kernel has no " : " and no ",
			    parts[i].name, NULL);
	monitor_log(m, LOG_INFO, "sandbox-missing", NULL, text);
	return m->set->require_sandbox ? -1 : 0;
}

/* Closes all but descriptors 0 and 1, which are the client, and these two: the
   log is not for this process, nor is a key, nor what whoever started us forgot
   to close.  Standard error becomes signals, which nothing can be written to. */
static void
keep_alone(int signals, int peer)
{
	const int low = signals < peer ? signals : peer;
	const int high = signals < peer ? peer : signals;

#ifndef __SANITIZE_ADDRESS__	/* whose report shall be seen */
	dup2(signals, STDERR_FILENO);
#endif
	for (int fd = STDERR_FILENO + 1; fd < high; fd++)
		if (fd != low)
			close(fd);
	closefrom(high + 1);
}

int
monitor_start(struct monitor *m, int signals, const char *const known[FACTS])
{
	int pair[2], status;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == -1)
		return -1;
	confine_secrets();
	memcpy(m->known, known, sizeof m->known);
	signal(SIGCHLD, SIG_DFL);	/* ignored, it would cost us the status */
	m->child = _Fork();	/* no handlers: we have neither threads nor stdio */
	if (m->child == -1) {
		close(pair[0]);
		close(pair[1]);
		return -1;
	}
	m->peer = pair[m->child != 0];
	if (m->child == 0) {
		keep_alone(signals, m->peer);
		return give_up_everything(m);
	}
	close(pair[0]);
	status = serve(m, signals);
	monitor_close(m);
	_exit(status);	/* there is no stdio to flush */
}
