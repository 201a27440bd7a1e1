/*
 * auth_checkpassword.c - who a client is, by a program with checkpassword's
 * interface.
 */
#define _GNU_SOURCE	/* explicit_bzero, pipe2 */

#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/executable.h"
#include "base/text.h"
#include "net/spawn.h"
#include "service/auth_source.h"

#define ARGS_MAX 16		/* words of a checkpassword command */
#define CHECKPASSWORD_MAX 512	/* octets; checkpassword's interface */

/* The command, whose words are in where. */
struct checkpassword {
	char *argv[ARGS_MAX + 2];
};

/* Splits the command at its blanks: argv ends in the program that is run when
   the password is right, and NULL. */
static bool
open_checkpassword(struct auth *a, char *error, size_t size)
{
	static char truth[] = "/bin/true";
	struct checkpassword *c = calloc(1, sizeof *c);
	size_t n;

	a->state = c;
	if (c == NULL)
		return false;
	n = text_split(a->where, " ", c->argv, ARGS_MAX);
	if (n == 0) {	/* the path is absolute, so there is one word */
		text_copy(error, size, "too many arguments");
		return false;
	}
	c->argv[n] = truth;
	return true;
}

/*
 * The end of a pipe from which message[0..len) can be read: it fits in any
 * pipe.  -1 with errno.
 */
static int
fill_pipe(const char *message, size_t len)
{
	int ends[2], error;
	bool written;

	if (pipe2(ends, O_CLOEXEC) == -1)
		return -1;
	written = write(ends[1], message, len) == (ssize_t)len;
	error = errno;
	close(ends[1]);
	if (written)
		return ends[0];
	close(ends[0]);
	errno = error;
	return -1;
}

/* checkpassword(8): exit status 0 is yes, 1 is no. */
static enum answer
check_program(struct auth *a, const char *user, const char *password)
{
	char message[CHECKPASSWORD_MAX], why[SPAWN_WHY], reason[256];
	size_t u = strlen(user) + 1, p = strlen(password) + 1;
	struct checkpassword *c = a->state;
	static char path[] = "PATH=/usr/local/bin:/usr/bin:/bin";
	char *const environment[] = { path, NULL };
	struct spawn what = {
		.argv = c->argv, .envp = environment, .input = -1,
		.deadline = clock_after(a->timeout)
	};
	struct spawn_end end = { .pid = 0 };
	int error;

	if (u + p + 1 > sizeof message)
		return ANSWER_NO;
	memcpy(message, user, u);
	memcpy(message + u, password, p);
	message[u + p] = '\0';	/* timestamp: none */
	what.extra = fill_pipe(message, u + p + 1);
	explicit_bzero(message, sizeof message);
	if (what.extra == -1)
		return auth_broken(a, strerror(errno));
	error = spawn_run(&what, &end);
	close(what.extra);
	if (error != 0)
		return auth_broken(a, executable_reason(c->argv[0], error,
		    reason, sizeof reason));
	if (!end.late && WIFEXITED(end.status) && WEXITSTATUS(end.status) <= 1)
		return WEXITSTATUS(end.status) == 0 ? ANSWER_YES : ANSWER_NO;
	return auth_broken(a, spawn_describe(&end, why));
}

static void
probe_checkpassword(struct auth *a, struct findings *f)
{
	const struct checkpassword *c = a->state;

	findings_add_program(f, "--auth checkpassword: ", c->argv[0]);
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
	.probe = probe_checkpassword,
	.close = close_checkpassword,
};
