/*
 * ask.c - the channel process asks the monitor.
 */
#include "session/ask.h"

#include "base/reply.h"
#include "base/text.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define SLOW 1000		/* milliseconds until a relay is called slow */

void
ask_open(struct asker *a, const struct logger *log)
{
	a->log = log;
	a->wire.peer = -1;
}

void
ask_start(struct asker *a, int peer, const struct monitor *m)
{
	a->wire.peer = peer;
	a->wants = monitor_wants(m);
}

bool
ask_wanted(const struct asker *a, enum stage stage)
{
	return a->wants.stage[stage];
}

enum spool_form
ask_form(const struct asker *a)
{
	return a->wants.form;
}

/* Asks and waits for the answer: see wire_read_answer(). */
static bool
ask_monitor(struct asker *a, const struct question *q, struct reply *r,
    size_t n, char *text, size_t size, int *fd)
{
	return wire_send_question(&a->wire, q) == 0 &&
	    wire_read_answer(&a->wire, r, n, text, size, fd);
}

/* The reply where the monitor is gone: what it was asked to do may or may not
   have happened. */
static void
monitor_gone(struct reply r[], size_t n)
{
	reply_set(&r[0], 421, "4.3.0", "Internal error, try again");
	reply_spread(r, n);
}

bool
ask_broken(const struct asker *a)
{
	return a->wire.broken;
}

int
ask_fd(const struct asker *a)
{
	return a->wire.peer;
}

void
ask_stage(struct asker *a, enum stage stage, const struct envelope *env,
    struct reply *r, char *prepend)
{
	const struct question q = { ASK_STAGE, (unsigned)stage, env, NULL, NULL,
		-1 };

	prepend[0] = '\0';
	if (!ask_monitor(a, &q, r, 1, prepend, SERVICE_PREPEND, NULL))
		monitor_gone(r, 1);
}

bool
ask_wants_unknown(const struct asker *a)
{
	return a->wants.unknown;
}

void
ask_unknown(struct asker *a, const struct envelope *env, const char *line,
    struct reply *r)
{
	const struct question q = { ASK_UNKNOWN, 0, env, line, NULL, -1 };
	char text[1];

	if (!ask_monitor(a, &q, r, 1, text, sizeof text, NULL))
		monitor_gone(r, 1);
}

bool
ask_live(const struct asker *a)
{
	return a->wants.live;
}

void
ask_group(struct asker *a, bool mail, const struct envelope *env,
    struct reply r[])
{
	const struct question q = { ASK_GROUP, mail, env, NULL, NULL, -1 };
	const size_t n = env->nrecipients + mail;
	char text[1];

	if (!ask_monitor(a, &q, r, n, text, sizeof text, NULL))
		monitor_gone(r, n);
}

void
ask_hello(struct asker *a, const struct envelope *env, char *text,
    size_t size)
{
	const struct question q = { ASK_HELLO, 0, env, NULL, NULL, -1 };

	if (!ask_monitor(a, &q, NULL, 0, text, size, NULL))
		text[0] = '\0';
}

void
ask_message(struct asker *a, const struct envelope *env, int spool,
    void (*slow)(void *ctx), void *ctx, struct reply r[])
{
	const struct question q = { ASK_MESSAGE, 0, env, NULL, NULL, spool };
	char text[1];

	if (wire_send_question(&a->wire, &q) == -1) {
		monitor_gone(r, env->nrecipients);
		return;
	}
	if (poll(&(struct pollfd){ .fd = a->wire.peer, .events = POLLIN }, 1,
	    SLOW) == 0)
		slow(ctx);
	if (!wire_read_answer(&a->wire, r, env->nrecipients, text, sizeof text,
	    NULL))
		monitor_gone(r, env->nrecipients);
}

void
ask_forget(struct asker *a)
{
	const struct question q = { ASK_FORGET, 0, NULL, NULL, NULL, -1 };

	if (a->wants.forget)
		wire_send_question(&a->wire, &q);
}

int
ask_file(void *ctx)
{
	struct asker *a = ctx;
	const struct question q = { ASK_FILE, 0, NULL, NULL, NULL, -1 };
	char text[WIRE_TEXT];
	uint64_t err = 0;
	int fd = -1;

	if (ask_monitor(a, &q, NULL, 0, text, sizeof text, &fd) && fd == -1)
		text_parse_number(span_of(text), &err);
	errno = err > 0 ? (int)err : EIO;
	return fd;
}

const char *
ask_mechanisms(struct asker *a, const struct envelope *env)
{
	const struct question q = { ASK_MECHANISMS, 0, env, NULL, NULL, -1 };

	if (!ask_monitor(a, &q, NULL, 0, a->mechanisms, sizeof a->mechanisms,
	    NULL))
		a->mechanisms[0] = '\0';
	return a->mechanisms;
}

void
ask_auth(struct asker *a, const struct envelope *env,
    const char *mechanism, const char *response, struct reply *r,
    char *user, size_t size)
{
	const struct question q = { ASK_AUTH, 0, env,
		mechanism == NULL ? "" : mechanism, response, -1 };

	user[0] = '\0';
	if (!ask_monitor(a, &q, r, 1, user, size, NULL))
		monitor_gone(r, 1);
}

void
ask_auth_abandon(struct asker *a)
{
	const struct question q = { ASK_ABANDON, 0, NULL, NULL, NULL, -1 };

	wire_send_question(&a->wire, &q);
}

int
ask_tls(struct asker *a, int client, char *report, size_t size)
{
	const struct question q = { ASK_TLS, 0, NULL, NULL, NULL, client };
	int fd = -1;

	if (!ask_monitor(a, &q, NULL, 0, report, size, &fd))
		text_copy(report, size, "the monitor is gone");
	return fd;
}

/* Copies text without control characters, which no question may have. */
static void
one_line(char *to, size_t size, const char *text)
{
	text_copy(to, size, text);
	for (; *to != '\0'; to++)
		if (text_is_control(*to))
			*to = ' ';
}

void
ask_status(struct asker *a, const char *text, bool stopping)
{
	char line[512];
	const struct question q = { ASK_STATUS, stopping, NULL, line, NULL,
		-1 };

	if (!a->wants.status)
		return;
	one_line(line, sizeof line, text);
	wire_send_question(&a->wire, &q);
}

void
ask_log(struct asker *a, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	const struct logger *log = a->log;
	char line[2048];
	const struct question q = { ASK_LOG, (unsigned)priority, env, event,
		line, -1 };

	one_line(line, sizeof line, text);
	if (a->wire.peer == -1)	/* not started yet */
		log->log(log->ctx, priority, event, env, text);
	else
		wire_send_question(&a->wire, &q);
}

void
ask_end(struct asker *a, int status, const char *event,
    const struct envelope *env, const char *text)
{
	char line[2048];
	const struct question q = { ASK_END, (unsigned)status, env, event,
		event == NULL ? NULL : line, -1 };

	if (event != NULL)
		one_line(line, sizeof line, text);
	wire_send_question(&a->wire, &q);
}
