/*
 * monitor.c - a channel process that asks anything.
 *
 * The first octet chooses what descriptor rides along, whether each question's
 * length is as it should be, whether two descriptors came before it, and
 * whether next hops are live; then come questions as they cross.
 *  - One that passes keeps what monitor.c promises of it, and packed and sent
 *    again it passes again, the same.
 *  - One that is cut off is the end, as if it had not begun: a channel process
 *    that dies while it asks has asked for nothing.
 *  - A new monitor acts on all that pass, in that order, but for TLS, which
 *    would start a program.
 */
#define _GNU_SOURCE	/* memfd_create */
#include "monitor/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "t/fuzz/fuzz.h"

#define RECIPIENTS 100		/* that a question can have */

static bool
same_string(const char *a, const char *b)
{
	return a == NULL ? b == NULL : b != NULL && strcmp(a, b) == 0;
}

static bool
same_envelope(const struct envelope *a, const struct envelope *b)
{
	size_t i;

	if (a == NULL || b == NULL)
		return a == b;
	for (i = 0; i < FACTS; i++)
		if (!same_string(a->fact[i], b->fact[i]))
			return false;
	for (i = 0; i < a->nrecipients && i < b->nrecipients; i++)
		if (!same_string(a->recipients[i].address,
		    b->recipients[i].address) ||
		    !same_string(a->recipients[i].options,
		    b->recipients[i].options))
			return false;
	return a->nrecipients == b->nrecipients && a->size == b->size &&
	    a->smtputf8 == b->smtputf8 && a->body == b->body;
}

static void
check_string(const char *s)
{
	if (s != NULL)
		demand_text(s, "\t", "a control character passed");
}

static void
check(const struct question *q, bool live)
{
	const struct envelope *env = q->env;
	struct stat st;
	size_t i;

	demand(q->ask < ASKS, "a question of no kind passed");
	check_string(q->a);
	check_string(q->b);
	if (q->ask == ASK_STAGE)
		demand(env != NULL && q->number < STAGES &&
		    (env->nrecipients == 1 || (q->number != STAGE_RCPT &&
		    q->number != STAGE_VRFY)), "a stage without its recipient");
	if (q->ask == ASK_MESSAGE)
		demand(env != NULL && env->nrecipients > 0 && (q->fd == -1 ||
		    (fstat(q->fd, &st) == 0 && S_ISREG(st.st_mode))),
		    "a message for nobody, or not a file");
	if (q->ask == ASK_HELLO)
		demand(live && env != NULL, "no next hop is asked for EHLO");
	if (q->ask == ASK_GROUP)
		demand(live && env != NULL && q->number <= 1 &&
		    env->nrecipients > 0, "a group of nobody, or for nobody");
	if (q->ask == ASK_TLS)
		demand(fstat(q->fd, &st) == 0 && S_ISSOCK(st.st_mode),
		    "TLS on something else than a socket");
	if (env == NULL)
		return;
	demand(env->nrecipients <= 100, "too many recipients passed");
	demand(env->body <= BODY_BINARYMIME, "an unknown encoding");
	for (i = 0; i < FACTS; i++)
		check_string(env->fact[i]);
	demand(strpbrk(env->fact[FACT_SENDER], "<>") == NULL ||
	    env->fact[FACT_SENDER][0] == '"', "a sender that ends early");
	for (i = 0; i < env->nrecipients; i++) {
		check_string(env->recipients[i].address);
		check_string(env->recipients[i].options);
		demand(env->recipients[i].address[0] != '-' &&
		    env->recipients[i].address[0] != '\0',
		    "a recipient that is none passed");
	}
}

static void
show(void *ctx, const char *text, bool stopping)
{
	(void)ctx;
	(void)text;
	(void)stopping;
}

/* What it logs has at most the tabs of a question. */
static void
record(void *ctx, int priority, const char *event, const struct envelope *env,
    const char *text)
{
	(void)ctx;
	(void)priority;
	(void)env;
	check_string(event);
	check_string(text);
}

/* A new monitor with TLS, a status line and a policy service; or with a next
   hop that is asked during the dialogue, also about AUTH. */
static struct monitor *
open_monitor(bool live)
{
	static struct monitor_settings set;
	static struct monitor *m;
	char error[256];

	monitor_close(m);
	set.max_recipients = RECIPIENTS;
	set.relay.live = set.relay.through = live;
	set.relay.spec = live ? "smtp:unix:/nowhere" : "discard:";
	/* So that there is a transaction. */
	set.policy = live ? NULL : "unix:/nowhere";
	set.status = show;
	set.log.log = record;
	set.relay.log = set.log;
	m = monitor_open(&set, error, sizeof error);
	demand(m != NULL, "no monitor");
	return m;
}

/* Reads a question and judges it, as the monitor does. */
static int
get_question(const struct monitor *m, struct wire *w, struct received *r)
{
	int status = wire_read_question(w, RECIPIENTS, r, 1LL << 60);

	return status == 1 && !monitor_may_be_asked(m, &r->q)
	    ? -1 : status;
}

/* What passed is sent again, the other way round. */
static void
repeat(const struct monitor *m, const struct question *q)
{
	struct wire from = { .peer = -1 }, to = { .peer = -1 };
	struct received again;
	int pair[2];

	demand(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
	    "no pair");
	from.peer = pair[0];
	to.peer = pair[1];
	demand(wire_send_question(&from, q) == 0, "it cannot be sent again");
	demand(get_question(m, &to, &again) == 1, "sent again, it is refused");
	demand(again.q.ask == q->ask && again.q.number == q->number &&
	    same_string(again.q.a, q->a) && same_string(again.q.b, q->b) &&
	    same_envelope(again.q.env, q->env) &&
	    (again.q.fd == -1) == (q->fd == -1), "sent again, it differs");
	wire_dispose(&to, &again);
	close(pair[0]);
	close(pair[1]);
}

/* Does p[0..len) start with a question that is cut off, but could be one? */
static bool
half(const char *p, size_t len)
{
	struct head h;

	if (len < sizeof h)
		return true;
	memcpy(&h, p, sizeof h);
	return h.ask < ASKS && h.nrecipients <= 100 && h.len <= WIRE_STRINGS &&
	    h.len > len - sizeof h;
}

/* The descriptor that rides along: borrowed, or -1. */
static int
rider(unsigned kind)
{
	static int fd[4] = { -1, -1, -1, -1 };
	int pair[2];

	if (fd[1] == -1) {
		fd[1] = memfd_create("fuzz", MFD_CLOEXEC);
		demand(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "pair");
		fd[2] = pair[0];
		demand(pipe(pair) == 0, "no pipe");
		fd[3] = pair[0];
	}
	return fd[kind];
}

/* Sends all of it, the descriptor with the first octet. */
static void
send_rider(int to, struct iovec *iov, int fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .head = { .cmsg_len = CMSG_LEN(sizeof(int)),
		.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 1 };

	memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
	if (fd != -1) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof control;
	}
	demand(sendmsg(to, &msg, MSG_NOSIGNAL) == (ssize_t)iov->iov_len,
	    "it cannot be sent");
}

/* One octet, with two descriptors where one is expected. */
static void
crowd(int to, char *octet)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control = { .head = { .cmsg_len = CMSG_LEN(2 * sizeof(int)),
		.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct iovec iov = { octet, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof control };
	int two[2] = { STDERR_FILENO, STDERR_FILENO };

	memcpy(CMSG_DATA(&control.head), two, sizeof two);
	demand(sendmsg(to, &msg, MSG_NOSIGNAL) == 1, "two cannot be sent");
}

/* How many descriptors are open. */
static int
open_now(void)
{
	int n = 0;

	for (int fd = 0; fd < 64; fd++)
		n += fcntl(fd, F_GETFD) != -1;
	return n;
}

/* A monitor that has done nothing yet acts on what p[0..len) asks. */
static void
act(const char *p, size_t len, int fd, bool live)
{
	struct monitor *m = open_monitor(live);
	char sent[65536], answer[4096];
	struct iovec iov = { sent, len };
	struct received r;
	int pair[2];

	memcpy(sent, p, len);
	demand(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
	    "no pair");
	m->wire.peer = pair[1];
	m->end = 1LL << 60;
	send_rider(pair[0], &iov, fd);
	shutdown(pair[0], SHUT_WR);
	while (monitor_get_question(m, &r) == 1) {
		if (r.q.ask != ASK_TLS && monitor_handle(m, &r) == -1)
			break;
		m->next_auth = 0;	/* nobody waits here */
		wire_dispose(&m->wire, &r);
		while (recv(pair[0], answer, sizeof answer, MSG_DONTWAIT) > 0)
			;
	}
	wire_dispose(&m->wire, &r);
	close(pair[0]);
	close(pair[1]);
	m->wire.peer = -1;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct monitor *m;
	struct wire w = { .peer = -1 };
	struct received r;
	struct head h;
	struct iovec iov;
	size_t at = 0, skip;
	char *sent;
	int pair[2], more = 1, before;

	if (size < 1 || size > 32768)
		return 0;
	rider(0);
	m = open_monitor((data[0] & 16) != 0);
	before = open_now();
	sent = malloc(size);
	demand(sent != NULL, "no memory");
	memcpy(sent, data + 1, size - 1);
	if (size - 1 >= sizeof h && data[0] & 4) {
		memcpy(&h, sent, sizeof h);
		h.ask %= ASKS;
		h.number %= 8;
		h.nrecipients %= 4;
		h.encoding %= 4;
		h.len = (uint32_t)(size - 1 - sizeof h);
		memcpy(sent, &h, sizeof h);
	}
	demand(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
	    "no pair");
	w.peer = pair[1];
	if (data[0] & 8 && size > 2)
		crowd(pair[0], sent);
	skip = data[0] & 8 && size > 2;
	iov = (struct iovec){ sent + skip, size - 1 - skip };
	if (size > 1)
		send_rider(pair[0], &iov, rider(data[0] & 3));
	close(pair[0]);
	while (more == 1) {
		more = get_question(m, &w, &r);
		demand(!half(sent + at, size - 1 - at) || more == 0,
		    "half a question is taken for one");
		at += sizeof h + r.len;
		if (more == 1) {
			check(&r.q, (data[0] & 16) != 0);
			repeat(m, &r.q);
		}
		wire_dispose(&w, &r);
	}
	close(pair[1]);
	if (size - 1 > skip)
		act(sent + skip, size - 1 - skip, rider(data[0] & 3),
		    (data[0] & 16) != 0);
	free(sent);
	demand(open_now() == before, "a descriptor is lost");
	return 0;
}
