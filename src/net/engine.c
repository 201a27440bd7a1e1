/*
 * engine.c - starts smtpd-tls, the program that speaks TLS for us.
 */
#define _GNU_SOURCE	/* pipe2 */
#include <sys/socket.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/engine.h"

/* In the engine's process: puts its descriptors in place, and becomes it. */
static _Noreturn void
become_engine(const char *const argv[], const int keep[], int fd, int clear,
    int report)
{
	int from[3] = { fd, clear, report };
	static const int to[3] = { 0, 1, 3 };
	size_t i;

	/* Out of the way first: one may sit where another belongs. */
	for (i = 0; i < 3; i++)
		if ((from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 10)) == -1)
			_exit(71);
	for (i = 0; i < 3; i++)
		if (dup2(from[i], to[i]) == -1)
			_exit(71);
	for (; keep != NULL && *keep != -1; keep++)
		if (fcntl(*keep, F_SETFD, 0) == -1)
			_exit(71);
	signal(SIGPIPE, SIG_DFL);
	/* execv() promises not to write, in a prototype that is older. */
	execv(argv[0], (char *const *)(uintptr_t)argv);
	dprintf(3, "error=%s: %s\n\n", argv[0], strerror(errno));
	_exit(71);
}

/* Starts it as nobody's child: it outlives us if there are last words to
   bring to the client, and need not be waited for. */
static int
spawn_engine(const char *const argv[], const int keep[], int fd, int clear,
    int report)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			become_engine(argv, keep, fd, clear, report);
		_exit(pid == -1);
	}
	if (pid == -1)
		return -1;
	while (waitpid(pid, &status, 0) == -1)
		if (errno != EINTR)
			return -1;
	if (status == 0)
		return 0;
	errno = EAGAIN;
	return -1;
}

/* Reads the engine's report.  False: it is a sentence, and an error. */
static bool
read_report(int fd, int64_t deadline, char *report, size_t size)
{
	size_t have = 0;
	ssize_t n = 0;

	report[0] = '\0';
	while (strstr(report, "\n\n") == NULL && have < size - 1) {
		n = -1;
		if (clock_wait(fd, POLLIN, deadline) != -1)
			n = read(fd, report + have, size - 1 - have);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		have += (size_t)n;
		report[have] = '\0';
	}
	if (strncmp(report, "error=", 6) == 0) {
		report[strcspn(report, "\n")] = '\0';
		memmove(report, report + 6, strlen(report + 6) + 1);
		return false;
	}
	if (strstr(report, "\n\n") != NULL)
		return true;
	snprintf(report, size, "%s", n == -1 && errno == ETIMEDOUT ?
	    "the handshake took too long" : "the TLS engine gave up");
	return false;
}

int
tls_start(const char *const argv[], const int keep[], int fd,
    int64_t deadline, char *report, size_t size)
{
	int pair[2] = { -1, -1 }, line[2] = { -1, -1 };
	int flags = fcntl(fd, F_GETFL);
	bool ok;

	ok = flags != -1 && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != -1 &&
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != -1 &&
	    pipe2(line, O_CLOEXEC) != -1 &&
	    spawn_engine(argv, keep, fd, pair[1], line[1]) != -1;
	if (!ok)
		snprintf(report, size, "%s", strerror(errno));
	if (line[1] != -1) {
		close(line[1]);
		ok = ok && read_report(line[0], deadline, report, size);
		close(line[0]);
	}
	if (pair[1] != -1)
		close(pair[1]);
	if (ok)
		return pair[0];
	if (pair[0] != -1)
		close(pair[0]);
	shutdown(fd, SHUT_RDWR);	/* ends the engine, wherever it is */
	return -1;
}
