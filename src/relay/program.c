/*
 * program.c - gives a message to a program: its arguments, its start, its
 * output, its end, and what that end means.
 */
#define _GNU_SOURCE	/* ppoll, pipe2, POSIX_SPAWN_SETSID, environ */
#include <sys/wait.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/outcome.h"
#include "relay/transport.h"

#define TERM_GRACE 2000		/* milliseconds between SIGTERM and SIGKILL */
#define KILL_GRACE 5000		/* and from there until we no longer wait */
#define END_RETRY 20		/* until it is asked again if it has ended */

/* ---- Arguments and environment ---- */

/* Further to enum fact: what is known of a message, and not of its session. */
enum {
	ABOUT_SIZE = FACTS,
	ABOUT_RECIPIENT,	/* from here on: of each recipient */
	ABOUT_OPTIONS,
	ABOUT_USER,
	ABOUT_EXTENSION,
	ABOUT_DOMAIN
};

/* The names that each has, as in Postfix's local(8) and pipe(8). */
static const struct name {
	int about;
	const char *variable;	/* in the environment, or NULL */
	const char *argument;	/* in "{...}", or "" */
} names[] = {
#define FACT_ROW(fact, variable, argument, set_by, report) \
	{ FACT_##fact, variable, argument },
	FACT_TABLE(FACT_ROW)
	{ ABOUT_SIZE, "SIZE", "size" },
	{ ABOUT_RECIPIENT, "RECIPIENT", "recipient" },
	{ ABOUT_OPTIONS, "RCPT_OPTIONS", "" },
	{ ABOUT_USER, NULL, "user" },
	{ ABOUT_EXTENSION, NULL, "extension" },
	{ ABOUT_DOMAIN, NULL, "domain" },
};

/* Ours, and nothing to a program: what systemd told the service.  A name that
   ends in '_' stands for all that begin with it. */
static const char *const private_variables[] = {
	"LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM",
	"INVOCATION_ID", "SYSTEMD_EXEC_PID", "MAINPID", "MANAGERPID", "FDSTORE",
	"MEMORY_PRESSURE_", "CREDENTIALS_DIRECTORY",
};

/* Strings for exec. */
struct vector {
	char **s;	/* each owned, NULL after the last */
	size_t n;
};

/* Takes text, which may be NULL for want of memory.  Returns false then. */
static bool
vector_take(struct vector *vec, char *text)
{
	char **rows = text != NULL ?
	    table_grow(vec->s, vec->n + 1, sizeof *rows) : NULL;

	if (rows == NULL) {
		free(text);
		return false;
	}
	rows[vec->n++] = text;
	rows[vec->n] = NULL;
	vec->s = rows;
	return true;
}

static void
vector_free(struct vector *vec)
{
	while (vec->n > 0)
		free(vec->s[--vec->n]);
	free(vec->s);
	vec->s = NULL;
}

/* Writes a part of recipient i to f.  As in pipe(8), a local part is taken
   apart without its quotes.  False: no memory. */
static bool
write_recipient(FILE *f, const struct envelope *env, int about, size_t i)
{
	char *address = strdup(env->recipients[i].address), *at, *end, *plus;

	if (address == NULL)
		return false;
	at = about == ABOUT_RECIPIENT ? NULL : address_canonical(address);
	end = at != NULL ? at : address + strlen(address);
	plus = memchr(address, '+', (size_t)(end - address));
	if (plus == NULL || plus == address)
		plus = end;
	if (about == ABOUT_RECIPIENT)
		fputs(address, f);
	else if (about == ABOUT_OPTIONS)
		fputs(env->recipients[i].options, f);
	else if (about == ABOUT_USER)
		fwrite(address, 1, (size_t)(plus - address), f);
	else if (about == ABOUT_EXTENSION && plus < end)
		fwrite(plus + 1, 1, (size_t)(end - plus - 1), f);
	else if (about == ABOUT_DOMAIN && at != NULL)	/* as it was written */
		fputs(strrchr(env->recipients[i].address, '@') + 1, f);
	free(address);
	return true;
}

/* Writes what is known about recipient i, or the message, to f.  False: no
   memory. */
static bool
write_about(FILE *f, const struct envelope *env, int about, size_t i)
{
	if (about >= ABOUT_RECIPIENT)
		return write_recipient(f, env, about, i);
	if (about == ABOUT_SIZE)
		fprintf(f, "%" PRIu64, env->size);
	else
		fputs(env->fact[about], f);
	return true;
}

/* The name of "{name}" at p, with the length of all of it in *len: 0 if there
   is no such thing at p; NULL if the name is not known. */
static const struct name *
placeholder(const char *p, size_t *len)
{
	size_t n, i;

	*len = 0;
	if (*p != '{')
		return NULL;
	n = strspn(p + 1, "abcdefghijklmnopqrstuvwxyz_");
	if (n == 0 || p[1 + n] != '}')
		return NULL;
	*len = n + 2;
	for (i = 0; i < COUNT(names); i++)
		if (names[i].argument[0] != '\0' &&
		    strlen(names[i].argument) == n &&
		    strncmp(names[i].argument, p + 1, n) == 0)
			return &names[i];
	return NULL;
}

/* Checks the arguments.  False with a sentence in error[0..size). */
bool
program_check(char *const argv[], char *error, size_t size)
{
	const char *p;
	size_t i, len;

	if (argv[0] == NULL || *argv[0] == '\0') {
		snprintf(error, size, "no program is named");
		return false;
	}
	for (i = 0; argv[i] != NULL; i++)
		for (p = argv[i]; *p != '\0'; p += len + (len == 0)) {
			if (placeholder(p, &len) != NULL && i > 0)
				continue;
			if (len == 0)
				continue;
			snprintf(error, size, i > 0 ?
			    "%.*s is not a name that can be replaced" :
			    "%.*s cannot be the program", (int)len, p);
			return false;
		}
	return true;
}

/* Is it to be repeated for each recipient, as in pipe(8)? */
static bool
repeats(const char *template)
{
	const struct name *name;
	size_t len;

	for (; *template != '\0'; template += len + (len == 0)) {
		name = placeholder(template, &len);
		if (name != NULL && name->about >= ABOUT_RECIPIENT)
			return true;
	}
	return false;
}

/* template with its names replaced, for recipient i.  NULL: no memory. */
static char *
expand(const char *template, const struct envelope *env, size_t i)
{
	const struct name *name;
	char *text = NULL;
	bool good = true;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL)
		return NULL;
	for (; *template != '\0'; template += len + (len == 0)) {
		name = placeholder(template, &len);
		if (name != NULL)
			good = write_about(f, env, name->about, i) && good;
		else
			putc(*template, f);
	}
	if (fclose(f) == 0 && good)
		return text;
	free(text);
	return NULL;
}

/*
 * Builds a program's arguments.  Returns false with *v changed if that cannot
 * be done.  What a client said must not become an option: a program that
 * can tell has it behind something of the administrator's own.
 */
static bool
build_arguments(const struct job *j, struct vector *vec, struct reply *v)
{
	char *const *argv = j->r->set->program;
	size_t i, n;

	for (; *argv != NULL; argv++) {
		n = repeats(*argv) ? j->env->nrecipients : 1;
		for (i = 0; i < n; i++) {
			if (!vector_take(vec, expand(*argv, j->env, i))) {
				job_fail(j, *argv, ENOMEM, v);
				return false;
			}
			if (**argv != '{' || *vec->s[vec->n - 1] != '-')
				continue;
			reply_printf(v, 550, "5.7.1", "A name must not begin "
			    "with a hyphen: %s", vec->s[vec->n - 1]);
			return false;
		}
	}
	return true;
}

/* Is "NAME=value" one that a program does not inherit? */
static bool
hidden(const char *variable)
{
	size_t len = strcspn(variable, "="), n, i;

	for (i = 0; i < COUNT(names); i++)
		if (names[i].variable != NULL &&
		    strlen(names[i].variable) == len &&
		    strncmp(names[i].variable, variable, len) == 0)
			return true;
	for (i = 0; i < COUNT(private_variables); i++) {
		n = strlen(private_variables[i]);
		if (strncmp(private_variables[i], variable, n) == 0 &&
		    (n == len || private_variables[i][n - 1] == '_'))
			return true;
	}
	return false;
}

/* "NAME=value"; what each recipient has of it is separated by newlines. */
static char *
variable(const struct name *name, const struct envelope *env)
{
	size_t n = name->about < ABOUT_RECIPIENT ? 1 : env->nrecipients;
	char *text = NULL;
	bool good = true;
	size_t len, i;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL)
		return NULL;
	fprintf(f, "%s=", name->variable);
	for (i = 0; i < n; i++) {
		if (i > 0)
			putc('\n', f);
		good = write_about(f, env, name->about, i) && good;
	}
	if (fclose(f) == 0 && good)
		return text;
	free(text);
	return NULL;
}

/* Builds a program's environment.  False: no memory. */
static bool
build_environment(const struct envelope *env, struct vector *vec)
{
	char **p;
	size_t i;

	for (p = environ; *p != NULL; p++)
		if (!hidden(*p) && !vector_take(vec, strdup(*p)))
			return false;
	for (i = 0; i < COUNT(names); i++)
		if (names[i].variable != NULL &&
		    !vector_take(vec, variable(&names[i], env)))
			return false;
	return true;
}

/* ---- Their start ---- */

struct run {
	pid_t pid;
	int status;		/* as wait(2) has it */
	bool late;		/* had to be stopped at the deadline */
	struct talk out, err;
};

/* A pipe whose reading end does not block. */
static int
make_pipe(int end[2])
{
	if (pipe2(end, O_CLOEXEC) == -1)
		return -1;
	return fcntl(end[0], F_SETFL, O_NONBLOCK);
}

/* How a program is started: with nothing of ours but given[0..2] as its
   descriptors 0 to 2.  Returns 0, or an errno, exec's too. */
static int
spawn(pid_t *pid, char *const argv[], char *const envp[], const int given[3])
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t how;
	sigset_t all, none;
	int error, n;

	if ((error = posix_spawn_file_actions_init(&files)) != 0)
		return error;
	assert(argv != NULL);
	if ((error = posix_spawnattr_init(&how)) != 0) {
		posix_spawn_file_actions_destroy(&files);
		return error;
	}
	/* sigfillset() would leave out two that libc keeps for itself, and
	   the program would begin with them ignored. */
	memset(&all, 0xff, sizeof all);
	sigemptyset(&none);
	posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSID |
	    POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigdefault(&how, &all);
	posix_spawnattr_setsigmask(&how, &none);
	for (n = 0; n < 3 && error == 0; n++)
		error = posix_spawn_file_actions_adddup2(&files, given[n], n);
	if (error == 0)
		error = posix_spawn_file_actions_addclosefrom_np(&files, 3);
	if (error == 0)
		error = posix_spawnp(pid, argv[0], &files, &how, argv, envp);
	posix_spawnattr_destroy(&how);
	posix_spawn_file_actions_destroy(&files);
	return error;
}

/*
 * Starts argv with spool, rewound, as its standard input.  Returns 0, or an
 * errno; the caller closes what is open in run either way.
 */
static int
start(struct run *run, int spool, char *const argv[], char *const envp[])
{
	int out[2] = { -1, -1 }, err[2] = { -1, -1 };
	int given[3] = { -1, -1, -1 }, error = 0, n;

	if (lseek(spool, 0, SEEK_SET) == -1 || make_pipe(out) == -1 ||
	    make_pipe(err) == -1)
		error = errno;
	/* Out of the way: any of them may be a number that is wanted. */
	for (n = 0; n < 3 && error == 0; n++) {
		given[n] = fcntl(n == 0 ? spool : n == 1 ? out[1] : err[1],
		    F_DUPFD_CLOEXEC, 3);
		if (given[n] == -1)
			error = errno;
	}
	if (error == 0)
		error = spawn(&run->pid, argv, envp, given);
	run->out.fd = out[0];
	run->err.fd = err[0];
	for (n = 0; n < 3; n++)
		if (given[n] != -1)
			close(given[n]);
	if (out[1] != -1)
		close(out[1]);
	if (err[1] != -1)
		close(err[1]);
	return error;
}

/* ---- Their end ---- */

/* Has the child ended?  It stays unreaped, so that its number, which is its
   group's too, cannot become somebody else's.  -1: that cannot be told. */
static int
ended(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == -1)
		return errno == ECHILD ? 1 : -1;
	return info.si_pid == pid;
}

static void
stop(pid_t pid, int signal)
{
	kill(-pid, signal);	/* it began its own session, so its own group */
}

/*
 * Waits for the program, and takes its output meanwhile; at the deadline stops
 * it, more and more firmly.  SIGCHLD is blocked but in ppoll(): no wake-up is
 * lost.  False if it cannot even be killed.
 */
static bool
wait_for(const struct job *j, struct run *run, const sigset_t *mask)
{
	static const struct {
		int signal;
		int grace;	/* milliseconds */
	} steps[] = { { SIGTERM, TERM_GRACE }, { SIGKILL, KILL_GRACE } };
	int64_t deadline = j->deadline;
	struct pollfd p[2];
	struct timespec left;
	size_t step = 0;
	int end, ms;

	while ((end = ended(run->pid)) != 1) {
		ms = clock_left(deadline);
		if (ms == 0 && step == COUNT(steps))
			return false;
		if (ms == 0) {
			run->late = true;
			stop(run->pid, steps[step].signal);
			deadline = clock_now() + steps[step++].grace;
			continue;
		}
		/* Its signal may have come already. */
		if (end == -1 && ms > END_RETRY)
			ms = END_RETRY;
		left.tv_sec = ms / 1000;
		left.tv_nsec = ms % 1000 * 1000000L;
		p[0] = (struct pollfd){ .fd = run->out.fd, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = run->err.fd, .events = POLLIN };
		if (ppoll(p, 2, &left, mask) <= 0)
			continue;
		if (p[0].revents != 0)
			talk_read(j, &run->out);
		if (p[1].revents != 0)
			talk_read(j, &run->err);
	}
	return true;
}

static void
wake(int signal)
{
	(void)signal;	/* that it comes is all: ppoll() returns */
}

/* Runs it to its end.  Returns 0, or exec's errno or that of starting it. */
static int
run_program(const struct job *j, struct run *run, char *const argv[],
    char *const envp[])
{
	struct sigaction action = { .sa_handler = wake }, old_action;
	sigset_t child, mask, old_mask;
	int error;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &old_mask);
	mask = old_mask;
	sigdelset(&mask, SIGCHLD);
	sigaction(SIGCHLD, &action, &old_action);
	error = start(run, j->spool, argv, envp);
	if (error == 0) {
		if (!wait_for(j, run, &mask))
			logger_printf(&j->r->set->log, LOG_CRIT, "program",
			    j->env, "%s: process %jd cannot be killed",
			    argv[0], (intmax_t)run->pid);
		if (run->late)
			stop(run->pid, SIGKILL);
		if (waitpid(run->pid, &run->status, WNOHANG) == -1)
			error = errno;
	}
	talk_end(j, &run->out);
	talk_end(j, &run->err);
	sigaction(SIGCHLD, &old_action, NULL);
	sigprocmask(SIG_SETMASK, &old_mask, NULL);
	return error;
}

static void
take_program(const struct job *j, struct hop *h, struct reply *v)
{
	struct vector argv = { NULL, 0 }, envp = { NULL, 0 };
	struct run *run = calloc(1, sizeof *run);
	const char *name = j->r->set->program[0];
	int error;

	(void)h;
	if (run == NULL || !build_environment(j->env, &envp)) {
		job_fail(j, name, ENOMEM, v);
		goto out;
	}
	if (!build_arguments(j, &argv, v))
		goto out;
	run->out.priority = LOG_INFO;
	run->out.reply = true;
	run->err.priority = LOG_NOTICE;
	error = run_program(j, run, argv.s, envp.s);
	if (error != 0) {
		job_fail(j, name, error, v);
	} else if (run->late) {
		logger_printf(&j->r->set->log, LOG_ERR, "program", j->env,
		    "%s: stopped after %u seconds", name, j->r->set->timeout);
		reply_set(v, 451, "4.3.0", "The relay took too long");
	} else if (!WIFEXITED(run->status)) {
		logger_printf(&j->r->set->log, LOG_ERR, "program", j->env,
		    "%s: killed by signal %d", name, WTERMSIG(run->status));
		reply_set(v, 451, "4.3.0", "Local error in processing");
	} else {
		outcome_judge(j, WEXITSTATUS(run->status), run->out.first, v);
	}
out:
	vector_free(&argv);
	vector_free(&envp);
	free(run);
}

static void
deliver_program(const struct job *j, struct hop *h, struct reply r[])
{
	take_program(j, h, &r[0]);
	reply_spread(r, j->env->nrecipients);
}

/* Not in relay.c's table: a program is named after "--". */
const struct transport transport_program = {
	.name = "program", .syntax = "-- PROGRAM", .reach = LOCAL,
	.form = SPOOL_LF, .crlf = true, .dsn = true,
	.deliver = deliver_program,
};
