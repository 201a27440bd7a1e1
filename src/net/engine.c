/*
 * engine.c - starts smtpd-tls, the program that speaks TLS for us.
 */
#define _GNU_SOURCE	/* pipe2, memfd_create, syscall, environ */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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
#include "base/file.h"
#include "net/engine.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U		/* Linux 6.3 */
#endif

/*
 * Becomes the program argv[0]; returns only if that fails, with errno.
 *
 * From execve() until the program protects itself, another process of the same
 * user could take its descriptors (pidfd_getfd) or change its memory (ptrace).
 * The kernel protects a program that its user may execute but not read, from
 * its first instruction on: if the file is readable, a copy of it is executed
 * that is not.  Scripts cannot be protected so, and root need not be.
 */
static void
execute_protected(const char *const argv[])
{
	/* The kernel does not write there, in a prototype that is older. */
	char **arguments = (char **)(uintptr_t)argv;
	int file = open(argv[0], O_RDONLY | O_CLOEXEC), copy;
	char magic[4];

	if (file == -1 || geteuid() == 0 ||
	    pread(file, magic, sizeof magic, 0) != sizeof magic ||
	    memcmp(magic, "\177ELF", sizeof magic) != 0) {
		execv(argv[0], arguments);
		return;
	}
	copy = memfd_create("smtpd-tls", MFD_CLOEXEC | MFD_EXEC);
	if (copy == -1 && errno == EINVAL)
		copy = memfd_create("smtpd-tls", MFD_CLOEXEC);
	if (copy != -1 && file_copy(copy, file, FILE_END, 0) == 0 &&
	    fchmod(copy, S_IXUSR | S_IXGRP | S_IXOTH) == 0)
		syscall(SYS_execveat, copy, "", arguments, environ,
		    AT_EMPTY_PATH);
}

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
	execute_protected(argv);
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
