/*
 * auth_checkpassword.c - who a client is, by a program with checkpassword's
 * interface.
 */
#define _GNU_SOURCE	/* explicit_bzero, pipe2, closefrom_np */

#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compat.h"
#include "net/stream.h"
#include "service/auth_source.h"

#define ARGS_MAX 16		/* words of a checkpassword command */
#define CHECKPASSWORD_MAX 512	/* octets; checkpassword's interface */

/* The command, within where, and what it runs when the password is right. */
struct checkpassword {
	char *argv[ARGS_MAX + 2];
};

/* Splits the command at its blanks. */
static bool
open_checkpassword(struct auth *a, char *error, size_t size)
{
	static char truth[] = "/bin/true";
	struct checkpassword *c = calloc(1, sizeof *c);
	char *rest = a->where, *word;
	size_t n = 0;

	a->state = c;
	if (c == NULL)
		return false;
	while ((word = strsep(&rest, " ")) != NULL) {
		if (*word == '\0')
			continue;
		if (n == ARGS_MAX) {
			snprintf(error, size, "too many arguments");
			return false;
		}
		c->argv[n++] = word;
	}
	c->argv[n] = truth;
	return true;
}

/*
 * Waits until child is gone, and kills it with all its group at the deadline.
 * Returns its wait status, or -1 with errno.
 */
static int
reap_program(pid_t child, int64_t deadline)
{
	int fd = pidfd_open(child, 0), error = errno, result;
	bool gone = false;

	if (fd != -1) {
		gone = clock_wait(fd, POLLIN, deadline) != -1;
		error = errno;
		close(fd);
	}
	if (!gone)
		kill(-child, SIGKILL);
	while (waitpid(child, &result, 0) == -1)
		if (errno != EINTR)
			return -1;
	errno = error;
	return gone ? result : -1;
}

/*
 * Starts argv with fd as its descriptor 3 and no other but /dev/null, in a
 * process group of its own.  Returns 0 with *child, or an errno.
 */
static int
start_program(char *const argv[], int fd, pid_t *child)
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
	/* sigfillset() would leave out two that libc keeps for itself, and
	   the program would begin with them ignored. */
	memset(&all, 0xff, sizeof all);
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
fill_pipe(const char *message, size_t len)
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
	struct checkpassword *c = a->state;
	int fd, error, result;
	pid_t child;

	if (u + p + 1 > sizeof message)
		return ANSWER_NO;
	memcpy(message, user, u);
	memcpy(message + u, password, p);
	message[u + p] = '\0';	/* timestamp: nothing to auth_answer */
	fd = fill_pipe(message, u + p + 1);
	explicit_bzero(message, sizeof message);
	if (fd == -1)
		return auth_broken(a, strerror(errno));
	error = start_program(c->argv, fd, &child);
	close(fd);
	if (error != 0)
		return auth_broken(a, strerror(error));
	result = reap_program(child, clock_now() + (int64_t)a->timeout * 1000);
	if (result == -1)
		return auth_broken(a, stream_reason(errno));
	if (WIFEXITED(result) && WEXITSTATUS(result) <= 1)
		return WEXITSTATUS(result) == 0 ? ANSWER_YES : ANSWER_NO;
	snprintf(why, sizeof why, WIFEXITED(result) ? "exit status %d" :
	    "killed by signal %d", WIFEXITED(result) ? WEXITSTATUS(result) :
	    WTERMSIG(result));
	return auth_broken(a, why);
}

static void
close_checkpassword(struct auth *a)
{
	free(a->state);
}

const struct auth_source auth_checkpassword = {
	.prefix = "checkpassword:",
	.open = open_checkpassword,
	.check = check_program,
	.close = close_checkpassword,
};
