/*
 * bench.c - what a test of a service has around it, and the service's peer.
 */
#define _GNU_SOURCE	/* the flags of SOCK_* */

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "service/auth_source.h"

#include "t/fakes/bench.h"

static void
note(void *ctx, int priority, const char *event, const struct envelope *env,
    const char *text)
{
	struct bench *b = ctx;
	size_t len = strlen(b->log);

	(void)priority;
	(void)env;
	snprintf(b->log + len, sizeof b->log - len, "%s: %s\n", event, text);
}

struct bench *
bench_open(void)
{
	struct bench *b = calloc(1, sizeof *b);
	size_t i;

	cr_assert_not_null(b);
	signal(SIGPIPE, SIG_IGN);
	snprintf(b->dir, sizeof b->dir, "/tmp/service.XXXXXX");
	cr_assert_not_null(mkdtemp(b->dir));
	snprintf(b->place, sizeof b->place, "unix:%s/socket", b->dir);
	b->logger.log = note;
	b->logger.ctx = b;
	b->recipients[0].address = "r1@example.org";
	b->recipients[0].options = "";
	b->recipients[1].address = "r2@example.org";
	b->recipients[1].options = "";
	b->env.recipients = b->recipients;
	b->env.nrecipients = 1;
	for (i = 0; i < FACTS; i++)
		b->env.fact[i] = "";
	b->env.fact[FACT_SENDER] = "s@example.com";
	b->env.fact[FACT_CLIENT_ADDRESS] = "192.0.2.1";
	b->env.fact[FACT_CLIENT_PORT] = "40000";
	b->env.fact[FACT_CLIENT_NAME] = "unknown";
	b->env.fact[FACT_CLIENT_HELO] = "client.example.com";
	b->env.fact[FACT_CLIENT_PROTOCOL] = "ESMTP";
	b->env.fact[FACT_SERVER_ADDRESS] = "192.0.2.2";
	b->env.fact[FACT_SERVER_PORT] = "25";
	return b;
}

const char *
bench_path(const struct bench *b, const char *name)
{
	static char paths[4][96];
	static unsigned which;
	char *p = paths[which++ % 4];

	snprintf(p, sizeof paths[0], "%s/%s", b->dir, name);
	return p;
}

void
bench_save(const struct bench *b, const char *name, const char *text,
    mode_t mode)
{
	int fd = open(bench_path(b, name),
	    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	cr_assert_neq(fd, -1);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

const char *
bench_load(struct bench *b, const char *name)
{
	int fd = open(bench_path(b, name), O_RDONLY | O_CLOEXEC);
	ssize_t n = fd == -1 ? 0 : read(fd, b->text, sizeof b->text - 1);

	close(fd);
	b->text[n] = '\0';
	return b->text;
}

/* ---- a peer that follows a script ---- */

/* Reads until end, and appends it to the file "heard". */
static void
hear(const struct bench *b, int fd, const char *end)
{
	char heard[ROOM];
	size_t len = 0, n = strlen(end);
	int to = open(bench_path(b, "heard"), O_WRONLY | O_CREAT | O_APPEND,
	    0600);

	while (len < sizeof heard && read(fd, heard + len, 1) == 1)
		if (++len >= n && memcmp(heard + len - n, end, n) == 0)
			break;
	if (write(to, heard, len) != (ssize_t)len)
		_exit(1);
	close(to);
}

/* bench.h has the steps. */
static void
play(const struct bench *b, int listener, const char *end,
    const char *const *script)
{
	int fd = accept(listener, NULL, NULL);
	char c;

	for (; *script != NULL; script++) {
		if (**script == '<')
			hear(b, fd, end);
		else if (**script == '>' && send(fd, *script + 1,
		    strlen(*script + 1), MSG_NOSIGNAL) == -1)
			continue;
		else if (**script == 'g')
			close(open(bench_path(b, "go"), O_RDONLY | O_CLOEXEC));
		else if (**script == 'd')
			close(open(bench_path(b, "done"),
			    O_WRONLY | O_CLOEXEC));
		else if (**script == 'w')
			while (read(fd, &c, 1) > 0)
				;
		else if (**script == 'x') {
			close(fd);
			fd = accept(listener, NULL, NULL);
		}
	}
	close(fd);
	close(listener);
}

void
bench_peer_at(struct bench *b, int listener, const char *end,
    const char *const *script)
{
	b->peer = fork();
	cr_assert_neq(b->peer, -1);
	if (b->peer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		play(b, listener, end, script);
		_exit(0);
	}
	close(listener);
}

void
bench_peer(struct bench *b, const char *end, const char *const *script)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(at.sun_path, sizeof at.sun_path, "%s", b->place + 5);
	cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	cr_assert_eq(listen(fd, 5), 0);
	bench_peer_at(b, fd, end, script);
}

const char *
bench_heard(struct bench *b)
{
	int status;

	cr_assert_eq(waitpid(b->peer, &status, 0), b->peer);
	cr_assert_eq(status, 0);
	b->peer = 0;
	return bench_load(b, "heard");
}

void
bench_close(struct bench *b)
{
	char command[64];

	if (b->peer != 0) {
		kill(b->peer, SIGKILL);
		waitpid(b->peer, NULL, 0);
	}
	snprintf(command, sizeof command, "rm -rf %s", b->dir);
	cr_assert_eq(system(command), 0);
	free(b);
}

/* ---- Authentication ---- */

struct auth *
open_auth(struct bench *b, const char *kind, const char *name)
{
	char source[128], error[256] = "";
	struct auth *a;

	snprintf(source, sizeof source, "%s:%s", kind, bench_path(b, name));
	a = auth_open(source, 1, &b->logger, error, sizeof error);
	cr_assert_not_null(a, "%s", error);
	a->limit = 0;
	return a;
}

int
step(struct bench *b, struct auth *a, const char *name, const char *response)
{
	memset(&b->v, 0, sizeof b->v);
	memset(b->user, 'x', sizeof b->user);
	auth_step(a, &b->env, name, response, &b->v, b->user, sizeof b->user);
	cr_assert_not_null(memchr(b->user, '\0', sizeof b->user));
	cr_assert_eq(b->v.code == 235, b->user[0] != '\0');
	return b->v.code;
}

const char *
base64(const char *s, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	    "abcdefghijklmnopqrstuvwxyz0123456789+/";
	static char out[4][2048];
	static unsigned which;
	char *to = out[which++ % 4], *p = to;
	unsigned bits;
	size_t i;

	for (i = 0; i < len; i += 3) {
		bits = (unsigned)(unsigned char)s[i] << 16;
		if (i + 1 < len)
			bits |= (unsigned)(unsigned char)s[i + 1] << 8;
		if (i + 2 < len)
			bits |= (unsigned)(unsigned char)s[i + 2];
		*p++ = digits[bits >> 18];
		*p++ = digits[bits >> 12 & 63];
		*p++ = i + 1 < len ? digits[bits >> 6 & 63] : '=';
		*p++ = i + 2 < len ? digits[bits & 63] : '=';
	}
	*p = '\0';
	return to;
}
