/*
 * peer.c - the other end of every connection: a script of octets.
 *
 * It stands in for connect(), send(), recv() and poll(), so a dialogue costs
 * no system call and no time, and is the same every time.  Therefore it is
 * linked into the targets that want it, and is in no archive: everything else
 * keeps the C library's functions.
 *
 * The peer speaks when it is waited for, one line at a time, so a plain list
 * of replies is a polite peer.  Some octets make it another:
 *
 *	\1	does not pause here: what follows comes along
 *	\2	hangs up; the next connection goes on after it
 *	\3	resets the connection
 *	\4	is silent until the deadline
 *	\5	repeats the last line that it was told
 *	\6	pauses here, within a line
 *
 * At the end of the script it hangs up, and cannot be reached again.  The
 * TLS engine is part of it: where one is started it reports what the script
 * has up to an empty line, and the dialogue goes on.
 */
#define _GNU_SOURCE	/* pipe2 */
#include <sys/socket.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "t/fakes/peer.h"
#include "t/fuzz/fuzz.h"

#define ENGINE 4242	/* its process, as far as anybody asks */

static struct peer {
	const char *p, *end;	/* the script, and where it stands */
	const char *from;	/* what was said and is not read yet: to p */
	size_t step;		/* octets that a send takes at most, and if that
				   is not SIZE_MAX, every other takes none */
	bool full;		/* this is such a send */
	bool closed, reset;
	bool binary;		/* no octet of the script is special */
	int report[2];		/* the engine's pipe; borrowed */
	size_t lines;		/* lines that were read */
	unsigned dials;		/* connections */
	char line[4096];	/* what was read of a line */
	size_t len;
	char told[4096];	/* the last line that it was told */
	size_t told_len;
	bool complete;		/* told is */
	const char *echo;	/* what is left to say of told, or NULL */
	size_t echo_len;
} peer;

void
peer_open(const uint8_t *script, size_t len, size_t step)
{
	memset(&peer, 0, sizeof peer);
	peer.p = peer.from = (const char *)script;
	peer.end = peer.p + len;
	peer.step = step;
	peer.report[0] = peer.report[1] = -1;
	peer.closed = true;
}

void
peer_open_binary(const uint8_t *script, size_t len, size_t step)
{
	peer_open(script, len, step);
	peer.binary = true;
}

unsigned
peer_dials(void)
{
	return peer.dials;
}

/* Says what comes next, if nothing waits to be read. */
static void
speak(void)
{
	if (peer.closed || peer.reset || peer.from != peer.p ||
	    peer.echo_len > 0)
		return;
	if (peer.binary)
		peer.p = peer.end;
	while (peer.p < peer.end && (unsigned char)*peer.p - 2U > 4)
		if (*peer.p++ == '\n' && (peer.p == peer.end ||
		    *peer.p != '\1'))
			return;
	if (peer.p != peer.from)
		return;
	if (peer.p == peer.end) {
		peer.closed = true;
		return;
	}
	switch (*peer.p) {
	case '\2':
		peer.closed = true;
		break;
	case '\3':
		peer.reset = true;
		break;
	case '\5':
		peer.echo = peer.told;
		peer.echo_len = peer.told_len;
		break;
	}
	/* \4: nothing comes, once; \6 was a pause. */
	peer.from = ++peer.p;
	if (peer.p[-1] == '\6')
		speak();
}

static bool
readable(void)
{
	return peer.closed || peer.reset || peer.from != peer.p ||
	    peer.echo_len > 0;
}

/* The type of its address is glibc's own with _GNU_SOURCE. */
int
connect(int fd, __CONST_SOCKADDR_ARG to, socklen_t len)
{
	(void)fd;
	(void)to;
	(void)len;
	if (peer.p == peer.end) {
		errno = ECONNREFUSED;
		return -1;
	}
	peer.dials++;
	peer.from = peer.p;
	peer.closed = peer.reset = false;
	peer.echo_len = peer.len = peer.told_len = 0;
	return 0;
}

ssize_t
send(int fd, const void *p, size_t len, int flags)
{
	const char *octets = p;
	size_t i;

	(void)fd;
	demand((flags & MSG_NOSIGNAL) != 0, "a send that may raise SIGPIPE");
	if (peer.closed || peer.reset) {
		errno = EPIPE;
		return -1;
	}
	peer.full = !peer.full && peer.step != SIZE_MAX;
	if (peer.full) {
		errno = EAGAIN;
		return -1;
	}
	if (len > peer.step)
		len = peer.step;
	for (i = 0; i < len; i++) {
		if (peer.complete)
			peer.told_len = 0;
		peer.complete = octets[i] == '\n';
		if (peer.told_len < sizeof peer.told)
			peer.told[peer.told_len++] = octets[i];
	}
	return (ssize_t)len;
}

/* One octet was read. */
static void
hear_octet(char c)
{
	if (c != '\n') {
		if (peer.len < sizeof peer.line)
			peer.line[peer.len++] = c;
		return;
	}
	peer.lines++;
	peer_read(peer.line, peer.len);
	peer.len = 0;
}

ssize_t
recv(int fd, void *to, size_t size, int flags)
{
	char *octets = to;
	size_t n = 0;

	(void)fd;
	if (flags & MSG_PEEK) {
		errno = EAGAIN;
		return peer.closed ? 0 : peer.from != peer.p ||
		    peer.echo_len > 0 ? 1 : -1;
	}
	if (peer.reset) {
		errno = ECONNRESET;
		return -1;
	}
	while (n < size && peer.echo_len > 0) {
		hear_octet(octets[n++] = *peer.echo++);
		peer.echo_len--;
	}
	for (; n < size && peer.from < peer.p; peer.from++)
		if (*peer.from != '\1' || peer.binary)
			hear_octet(octets[n++] = *peer.from);
	if (n > 0 || peer.closed)
		return (ssize_t)n;
	errno = EAGAIN;
	return -1;
}

/* glibc declares that poll() only writes what it is given. */
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
int
poll(struct pollfd *p, nfds_t n, int timeout)
{
	for (nfds_t i = 1; i < n; i++) {
		demand(p[i].fd == -1, "more than one descriptor is waited for");
		p[i].revents = 0;
	}
	p->revents = p->events & POLLOUT;
	if (p->fd == peer.report[0]) {
		p->revents = POLLIN;
		return 1;
	}
	if (timeout != 0 && (p->events & POLLOUT) == 0)
		speak();
	if (readable())
		p->revents |= POLLIN;
	return p->revents != 0;
}

/* The engine's: what it says is written when it is started. */
int
pipe2(int ends[2], int flags)
{
	int status = pipe(ends);

	if (status == 0) {
		fcntl(ends[0], F_SETFD, flags & O_CLOEXEC ? FD_CLOEXEC : 0);
		memcpy(peer.report, ends, sizeof peer.report);
	}
	return status;
}

pid_t
fork(void)
{
	const char *end = peer.p;

	while (end < peer.end && (end - peer.p < 2 || end[-1] != '\n' ||
	    end[-2] != '\n') && end - peer.p < 4096)
		end++;
	if (write(peer.report[1], peer.p, (size_t)(end - peer.p)) !=
	    end - peer.p)
		abort();
	peer.from = peer.p = end;
	return ENGINE;
}

pid_t
waitpid(pid_t pid, int *status, int flags)
{
	(void)flags;
	demand(pid == ENGINE, "a process that nobody started is waited for");
	*status = 0;
	return pid;
}
