/*
 * loop.c - a mail server in one process, for many clients: channel.c, epoll(7)
 * and nothing else.
 *
 *	loop [-v] PORT	listens on 127.0.0.1; 0: a free port, which it prints
 *
 * It takes every message and drops it; -v says so.  A server that keeps mail
 * would write it in on_body(), and have it on the disk before on_end() returns.
 *
 * A client costs its struct client, 20 kB, of which the kernel gives only the
 * pages that are written to: 12 KB for a client that is idle after EHLO,
 * measured with 10 000 of them; t/examples.t does it again, and fails at 16.
 * One buffer serves all input; what a client has sent that cannot be used yet,
 * because it does not read its replies, is kept, and no more is read from it.
 *
 * Clients stand in a list, the one that was silent for longest first: its
 * deadline is the only one that must be looked at.
 *
 *	cc loop.c $(pkg-config --cflags --libs smtpd-channel)
 */
#define _GNU_SOURCE	/* accept4 */
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"

#define SILENCE 300	/* seconds; RFC 5321 4.5.3.2.7 */
#define SPARE 16	/* descriptors that are not clients */

struct client {
	struct server *server;
	struct client *before, *after;	/* in the list */
	int fd;
	uint32_t events;	/* what epoll waits for */
	time_t heard;		/* when it last sent or took something */
	char *rest;		/* octets that it sent and that wait; owned */
	size_t len;
	struct channel ch;
};

struct server {
	int epoll, listener, signals;
	size_t clients, most;
	bool verbose;
	/* A ring: after it comes the client that was silent for longest. */
	struct client list;
	char in[65536];
};

static time_t
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void
on_end(void *ctx, struct reply r[], size_t n)
{
	const struct client *c = ctx;

	(void)r, (void)n;
	if (!c->server->verbose)
		return;
	printf("%s: <%s> to %zu, %ju octets\n", c->ch.peer.address,
	    c->ch.mailfrom, c->ch.nrcpttos, (uintmax_t)c->ch.size);
	fflush(stdout);
}

static const struct channel_settings settings = {
	.fqdn = "loop.example.org", .data_size_limit = 50000000,
	.max_recipients = 1000, .max_errors = 20, .enable_SMTPUTF8 = true
};
static const struct channel_hooks hooks = { .end = on_end };

/* ---- clients ---- */

static void
client_unlink(struct client *c)
{
	c->before->after = c->after;
	c->after->before = c->before;
}

/* Puts c at the end of the list: it has just been heard. */
static void
client_link(struct client *c, struct client *list)
{
	c->before = list->before;
	c->after = list;
	c->before->after = c;
	list->before = c;
	c->heard = seconds();
}

static void
client_free(struct client *c)
{
	struct server *s = c->server;
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = &s->listener };

	client_unlink(c);
	channel_free(&c->ch);
	free(c->rest);
	close(c->fd);
	free(c);
	if (s->clients-- == s->most)
		epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &e);
}

/* Writes what waits.  False if the connection is over. */
static bool
client_flush(struct client *c)
{
	const char *out;
	size_t len;
	ssize_t did;

	while (out = channel_output(&c->ch, &len), len > 0) {
		did = send(c->fd, out, len, MSG_NOSIGNAL);
		if (did == -1)
			return errno == EAGAIN || errno == EINTR;
		channel_sent(&c->ch, (size_t)did);
	}
	return c->ch.want != WANT_CLOSE;
}

/* Is there something that the client must read first? */
static bool
client_blocked(const struct client *c)
{
	size_t len;

	channel_output(&c->ch, &len);
	return len > 0;
}

/* Gives the channel octets of the client, and keeps those that must wait.
   False if the connection is over. */
static bool
client_feed(struct client *c, const char *p, size_t len)
{
	size_t used = 0;
	char *rest = NULL;

	do {
		if (!client_flush(c))
			return false;
		if (client_blocked(c))
			break;
		used += channel_feed(&c->ch, p + used, len - used);
	} while (used < len);
	if (used < len) {
		rest = malloc(len - used);
		if (rest == NULL)
			return false;
		memcpy(rest, p + used, len - used);
	}
	free(c->rest);
	c->rest = rest;
	c->len = len - used;
	return client_flush(c);
}

/* Does what can be done for a client whose descriptor is ready. */
static bool
client_serve(struct client *c)
{
	struct server *s = c->server;
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
	ssize_t have;

	if (!client_flush(c) ||
	    (c->rest != NULL && !client_feed(c, c->rest, c->len)))
		return false;
	if (c->rest == NULL && !client_blocked(c)) {
		have = read(c->fd, s->in, sizeof s->in);
		if (have == 0 || (have == -1 && errno != EAGAIN &&
		    errno != EINTR))
			return false;
		if (have > 0 && !client_feed(c, s->in, (size_t)have))
			return false;
	}
	client_unlink(c);
	client_link(c, &s->list);
	if (client_blocked(c))
		e.events = EPOLLOUT;
	if (e.events == c->events)
		return true;
	c->events = e.events;
	return epoll_ctl(s->epoll, EPOLL_CTL_MOD, c->fd, &e) == 0;
}

/* ---- the server ---- */

/* Takes one connection. */
static void
server_accept(struct server *s)
{
	struct sockaddr_in from;
	socklen_t size = sizeof from;
	struct epoll_event e = { .events = EPOLLIN };
	int fd = accept4(s->listener, (struct sockaddr *)&from, &size,
	    SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct client *c;

	if (fd == -1)
		return;		/* it has left, or another time */
	c = malloc(sizeof *c);
	if (c == NULL) {
		close(fd);
		return;
	}
	c->server = s;
	c->fd = fd;
	c->events = EPOLLIN;
	c->rest = NULL;
	c->len = 0;
	channel_init(&c->ch, &settings, &hooks, c);
	inet_ntop(AF_INET, &from.sin_addr, c->ch.peer.address,
	    sizeof c->ch.peer.address);
	snprintf(c->ch.peer.port, sizeof c->ch.peer.port, "%u",
	    ntohs(from.sin_port));
	client_link(c, &s->list);
	if (++s->clients == s->most)	/* the others wait in the kernel */
		epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->listener, NULL);
	e.data.ptr = c;
	channel_greet(&c->ch);
	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) == -1 ||
	    !client_flush(c))
		client_free(c);
}

/* Hangs up on every client that was last heard before a time, and says why. */
static void
server_close(struct server *s, time_t before, const char *enh,
    const char *why)
{
	struct client *c;

	while (c = s->list.after, c != &s->list && c->heard < before) {
		channel_close(&c->ch, 421, enh, why);
		client_flush(c);
		client_free(c);
	}
}

/* Milliseconds until a client has been silent for too long, or -1. */
static int
server_patience(const struct server *s)
{
	time_t left = s->list.after->heard + SILENCE - seconds();

	if (s->list.after == &s->list)
		return -1;
	return left > 0 ? (int)left * 1000 : 0;
}

static void
server_run(struct server *s)
{
	struct epoll_event e[64];
	int n;

	for (;;) {
		n = epoll_wait(s->epoll, e, 64, server_patience(s));
		for (int i = 0; i < n; i++) {
			if (e[i].data.ptr == &s->signals)
				return;
			if (e[i].data.ptr == &s->listener)
				server_accept(s);
			else if (!client_serve(e[i].data.ptr))
				client_free(e[i].data.ptr);
		}
		server_close(s, seconds() - SILENCE + 1, "4.4.2",
		    "Silent for too long");
	}
}

/* False with errno if there is no server to be had. */
static bool
server_open(struct server *s, uint16_t port)
{
	struct sockaddr_in here = { .sin_family = AF_INET,
	    .sin_port = htons(port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct epoll_event e = { .events = EPOLLIN };
	socklen_t size = sizeof here;
	struct rlimit files;
	sigset_t end;
	int on = 1;

	s->list.after = s->list.before = &s->list;
	if (getrlimit(RLIMIT_NOFILE, &files) == -1)
		return false;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) == -1)
		return false;
	s->most = files.rlim_cur > SPARE ? files.rlim_cur - SPARE : 1;
	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigaddset(&end, SIGINT);
	sigprocmask(SIG_BLOCK, &end, NULL);
	s->signals = signalfd(-1, &end, SFD_CLOEXEC);
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK |
	    SOCK_CLOEXEC, 0);
	if (s->signals == -1 || s->epoll == -1 || s->listener == -1 ||
	    setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
	    bind(s->listener, (struct sockaddr *)&here, sizeof here) == -1 ||
	    listen(s->listener, SOMAXCONN) == -1 ||
	    getsockname(s->listener, (struct sockaddr *)&here, &size) == -1)
		return false;
	printf("127.0.0.1:%u\n", ntohs(here.sin_port));
	fflush(stdout);
	e.data.ptr = &s->signals;
	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->signals, &e) == -1)
		return false;
	e.data.ptr = &s->listener;
	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &e) == 0;
}

int
main(int argc, char *argv[])
{
	static struct server s;
	char *end;
	unsigned long port;

	s.verbose = argc == 3 && strcmp(argv[1], "-v") == 0;
	port = argc == 2 + s.verbose ? strtoul(argv[argc - 1], &end, 10)
	    : 65536;
	if (port > 65535 || *end != '\0') {
		fprintf(stderr, "usage: loop [-v] PORT\n");
		return 64;
	}
	if (!server_open(&s, (uint16_t)port)) {
		perror("loop");
		return 71;
	}
	server_run(&s);
	server_close(&s, seconds() + 1, "4.3.2", "Shutting down");
	return 0;
}
