/*
 * engine.c - finds smtpd-tls, which speaks TLS for us: the one that stays, or
 * a program that is started.
 */
#define _GNU_SOURCE	/* pipe2, memfd_create, syscall, environ */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compat.h"
#include "base/file.h"
#include "base/text.h"
#include "net/engine.h"
#include "net/spawn.h"

#define END_SECONDS 2		/* for a program's end, which takes none */

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
	    file_read_at(file, magic, sizeof magic, 0) != sizeof magic ||
	    memcmp(magic, "\177ELF", sizeof magic) != 0) {
		execve(argv[0], arguments, environ);
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

/* Both ends of what the engine gets: the clear text, and the report. */
struct ends {
	int clear[2], report[2];	/* ours is 0; -1: closed */
};

/* In the engine's process: puts its descriptors in place, and becomes it. */
static _Noreturn void
become_engine(const struct tls_job *j, const struct ends *ends)
{
	const char *argv[20] = { j->program };
	int from[3] = { j->fd, ends->clear[1], ends->report[1] };
	static const int to[3] = { 0, 1, 3 };
	size_t i, n = 1;

	for (i = 0; j->words[i] != NULL; i++)
		argv[n++] = j->words[i];
	for (i = 0; j->own[i] != NULL; i++)
		argv[n++] = j->own[i];
	/* Out of the way first: one may sit where another belongs. */
	for (i = 0; i < 3; i++)
		if ((from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 10)) == -1)
			_exit(71);
	for (i = 0; i < 3; i++)
		if (dup2(from[i], to[i]) == -1)
			_exit(71);
	for (i = 0; j->own[0] != NULL && j->keep[i] != -1; i++)
		if (fcntl(j->keep[i], F_SETFD, 0) == -1)
			_exit(71);
	signal(SIGPIPE, SIG_DFL);
	execute_protected(argv);
	dprintf(3, "error=%s: %s\n\n", argv[0], strerror(errno));
	_exit(71);
}

/* In the process between us and the engine: starts it, and says by its
   process id that it did. */
static _Noreturn void
start_engine(const struct tls_job *j, const struct ends *ends, int tell)
{
	pid_t pid = fork();

	if (pid == 0)
		become_engine(j, ends);
	_exit(pid == -1 || write(tell, &pid, sizeof pid) != sizeof pid);
}

/* Starts it as nobody's child: it outlives us if there are last words to
   bring to the client, and leaves no zombie.  -1 with errno. */
static int
spawn_engine(const struct tls_job *j, const struct ends *ends)
{
	int told[2], status;
	pid_t pid, engine;

	if (pipe2(told, O_CLOEXEC) == -1)
		return -1;
	pid = fork();
	if (pid == 0)
		start_engine(j, ends, told[1]);
	close(told[1]);
	status = pid == -1 ? -1 : spawn_reap(pid);
	if (status > 0)
		errno = EAGAIN;
	if (status == 0 && j->process != NULL &&
	    read(told[0], &engine, sizeof engine) == sizeof engine) {
		file_close(j->process);
		/* One that has ended already needs no wait. */
		*j->process = pidfd_open(engine, 0);
	}
	close(told[0]);
	return status == 0 ? 0 : -1;
}

void
tls_await_end(int *process)
{
	if (*process == -1)
		return;
	clock_wait(*process, POLLIN, clock_after(END_SECONDS));
	file_close(process);
}

/* Connects a socket of that type to the engine that stays.  -1 with errno. */
static int
dial_engine(const char *resident, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *path = resident + strlen("unix:");
	int fd;

	if (strlen(path) >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd != -1 && connect(fd, (struct sockaddr *)&address,
	    sizeof address) == -1)
		file_close(&fd);
	return fd;
}

/* Hands the connection over, in one packet.  -1 with errno: it is still ours
   alone. */
static int
hand_over(const struct tls_job *j, const struct ends *ends)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(3 * sizeof(int))];
	} control = { .space = "" };
	const int fds[3] = { j->fd, ends->clear[1], ends->report[1] };
	struct iovec part[8];
	struct msghdr m = { .msg_iov = part, .msg_control = &control,
		.msg_controllen = sizeof control };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int fd = dial_engine(j->resident, SOCK_SEQPACKET), status;

	if (fd == -1)
		return -1;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fds);
	memcpy(CMSG_DATA(c), fds, sizeof fds);
	for (; j->words[m.msg_iovlen] != NULL; m.msg_iovlen++) {
		part[m.msg_iovlen].iov_base =
		    (void *)(uintptr_t)j->words[m.msg_iovlen];
		part[m.msg_iovlen].iov_len = strlen(j->words[m.msg_iovlen]) + 1;
	}
	status = sendmsg(fd, &m, MSG_NOSIGNAL) == -1 ? -1 : 0;
	close(fd);
	return status;
}

static void
cannot_start(char *report, size_t size)
{
	snprintf(report, size, "cannot start the TLS engine: %s",
	    strerror(errno));
}

/* Gives the connection to an engine.  False with a sentence. */
static bool
pass_to_engine(const struct tls_job *j, const struct ends *ends, char *report,
    size_t size)
{
	if (j->resident != NULL) {
		if (hand_over(j, ends) == 0)
			return true;
		snprintf(report, size, "--tls-engine %s: %s", j->resident,
		    strerror(errno));
		if (j->program == NULL)
			return false;
		logger_printf(j->log, LOG_WARNING, "tls-engine-away", NULL,
		    "%s; %s is started instead", report, j->program);
	}
	if (spawn_engine(j, ends) == 0)
		return true;
	cannot_start(report, size);
	return false;
}

/* Waits for what the engine says.  Returns 0, or -1 with errno: ETIMEDOUT, or
   ECANCELED if the job is to end. */
static int
wait_words(const struct tls_job *j, int fd)
{
	struct pollfd p[] = { { .fd = fd, .events = POLLIN },
		{ .fd = j->stop == 0 ? -1 : j->stop, .events = POLLIN } };
	int n;

	do
		n = poll(p, 2, clock_left(j->deadline));
	while (n == -1 && errno == EINTR);
	if (n > 0 && p[0].revents != 0)
		return 0;
	if (n != -1)
		errno = n == 0 ? ETIMEDOUT : ECANCELED;
	return -1;
}

/* Reads what the engine says, up to last, or up to its end.  Returns 0, or -1
   with errno. */
static int
read_words(const struct tls_job *j, int fd, const char *last, char *to,
    size_t size)
{
	size_t have = 0;
	ssize_t n = 1;

	to[0] = '\0';
	while (n != 0 && have < size - 1 &&
	    (last == NULL || strstr(to, last) == NULL)) {
		n = -1;
		if (wait_words(j, fd) != -1)
			n = read(fd, to + have, size - 1 - have);
		if (n == -1 && errno != EINTR)
			return -1;
		have += n > 0 ? (size_t)n : 0;
		to[have] = '\0';
	}
	return 0;
}

/* Reads the engine's report.  False: it is a sentence, and an error;
   *mistake becomes whether of ours. */
static bool
read_report(const struct tls_job *j, int fd, char *report, size_t size,
    bool *mistake)
{
	int status = read_words(j, fd, "\n\n", report, size);

	if (text_starts(report, "error=")) {
		*mistake = strstr(report, "\nstatus=78\n") != NULL;
		report[strcspn(report, "\n")] = '\0';
		memmove(report, report + 6, strlen(report + 6) + 1);
		return false;
	}
	if (strstr(report, "\n\n") != NULL)
		return true;
	text_copy(report, size, status == 0 ? "the TLS engine gave up" :
	    errno == ETIMEDOUT ? "the handshake took too long" :
	    errno == ECANCELED ? TLS_STOPPED : "the TLS engine gave up");
	return false;
}

int
tls_start(const struct tls_job *j, char *report, size_t size)
{
	struct ends ends = { { -1, -1 }, { -1, -1 } };
	int flags = fcntl(j->fd, F_GETFL);
	bool ok, mistake = false;

	ok = flags != -1 && fcntl(j->fd, F_SETFL, flags & ~O_NONBLOCK) != -1 &&
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.clear) !=
	    -1 && pipe2(ends.report, O_CLOEXEC) != -1;
	if (!ok)
		cannot_start(report, size);
	ok = ok && pass_to_engine(j, &ends, report, size);
	file_close(&ends.report[1]);
	file_close(&ends.clear[1]);
	ok = ok && read_report(j, ends.report[0], report, size, &mistake);
	if (j->mistake != NULL)
		*j->mistake = mistake;
	file_close(&ends.report[0]);
	if (ok)
		return ends.clear[0];
	file_close(&ends.clear[0]);
	shutdown(j->fd, SHUT_RDWR);	/* ends the engine, wherever it is */
	return -1;
}

void
tls_report_value(const char *report, const char *name, char *to, size_t size)
{
	const char *p = report;
	size_t n = strlen(name);

	to[0] = '\0';
	while (p != NULL) {
		if (strncmp(p, name, n) == 0 && p[n] == '=') {
			p += n + 1;
			text_cut(to, size, p, strcspn(p, "\n"));
			return;
		}
		p = strchr(p, '\n');
		p = p == NULL ? NULL : p + 1;
	}
}

int
tls_ask_check(const char *resident, int64_t deadline, char *answer, size_t size)
{
	struct tls_job j = { .resident = resident, .words = { "check" },
		.deadline = deadline };
	struct ends ends;
	int pair[2], status;

	answer[0] = '\0';
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == -1)
		return -1;
	j.fd = ends.clear[1] = ends.report[1] = pair[1];
	status = hand_over(&j, &ends);
	close(pair[1]);
	if (status == 0)
		status = read_words(&j, pair[0], NULL, answer, size);
	file_close(&pair[0]);
	return status;
}

/* A socket of another type is refused where one of its type would be let in:
   so nobody is woken, and no process is made that nobody needs. */
bool
tls_reachable(const char *resident, char *why, size_t size)
{
	int fd = dial_engine(resident, SOCK_STREAM);

	if (fd == -1 && errno == EPROTOTYPE)
		return true;
	snprintf(why, size, "TLS is not offered: --tls-engine %s: %s",
	    resident, fd == -1 ? strerror(errno) :
	    "this is not the socket of smtpd-tls");
	file_close(&fd);
	return false;
}
