/*
 * spawn.c - runs a program to its end, or to a deadline.
 *
 *  - clone(2) and execve(2), for posix_spawn(3) cannot ask for a signal at the
 *    death of the parent.  As with posix_spawn(3) the child shares our memory,
 *    and we stand still until it has become the program: copying the page
 *    tables would cost a quarter of a short program's whole connection.
 *  - The program is not reaped before its group has been signalled: until then
 *    its number, which is its group's number too, belongs to no other process.
 */
#define _GNU_SOURCE	/* clone, pipe2, ppoll, closefrom */
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compat.h"
#include "base/file.h"
#include "base/text.h"
#include "net/spawn.h"

#define OUTPUT_READS 64		/* of what is left when a program has ended */
#define KILL_GRACE 5000		/* milliseconds from SIGKILL until we give up */
#define END_RETRY 20		/* until waitid(2) is asked again */
#define OUT_OF_THE_WAY 10	/* no program gets a descriptor from here on */
#define CHILD_STACK 32768	/* octets, until it has become the program */
#define CLOSE_AT_EXEC 4U	/* CLOSE_RANGE_CLOEXEC, which musl lacks */

/* What systemd told the service.  A name that ends in '_' stands for all that
   begin with it. */
static const char private_variables[][22] = {
	"LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM",
	"INVOCATION_ID", "SYSTEMD_EXEC_PID", "MAINPID", "MANAGERPID", "FDSTORE",
	"MEMORY_PRESSURE_", "CREDENTIALS_DIRECTORY",
};

bool
spawn_is_private(const char *variable)
{
	size_t len = strcspn(variable, "="), n, i;

	for (i = 0; i < COUNT(private_variables); i++) {
		n = strlen(private_variables[i]);
		if (strncmp(private_variables[i], variable, n) == 0 &&
		    (n == len || private_variables[i][n - 1] == '_'))
			return true;
	}
	return false;
}

/* ---- In the child ---- */

/* A function whose frame is left by execve(2) or _exit(2): the address
   sanitizer would keep it forbidden on what is our stack again. */
#define LEFT_OPEN __attribute__((no_sanitize("address")))

/* Sets every signal to its default.  sigaction(3) refuses the two real-time
   signals that libc keeps for itself; the kernel passes them on, ignored. */
static void
reset_signals(void)
{
	static const unsigned long none[8];	/* a struct sigaction of zeros:
						   SIG_DFL */
	sigset_t empty;
	int n;

	for (n = 1; n < _NSIG; n++)
		syscall(SYS_rt_sigaction, n, none, NULL, (size_t)_NSIG / 8);
	sigemptyset(&empty);
	sigprocmask(SIG_SETMASK, &empty, NULL);
}

/* Executes argv[0], or the first file of that name in PATH.  Returns an
   errno if there is none. */
static LEFT_OPEN int
execute(char *const argv[], char *const envp[])
{
	const char *path = file_search_path();
	char file[PATH_MAX];
	int error = ENOENT;

	if (strchr(argv[0], '/') != NULL || *argv[0] == '\0') {
		execve(argv[0], argv, envp);
		return errno;
	}
	while (path != NULL) {
		if (!file_in_path(&path, argv[0], file, sizeof file))
			continue;
		execve(file, argv, envp);
		if (errno == EACCES)
			error = EACCES;
		else if (errno != ENOENT && errno != ENOTDIR)
			return errno;
	}
	return error;
}

/* What the child is told, and tells. */
struct child {
	const struct spawn *spawn;
	const int *given;	/* descriptors 0 to n - 1; -1: /dev/null */
	int n;
	pid_t parent;
	int error;		/* errno of a failure; 0: it has become it */
};

/* The program has no descriptor from this on.  They are still open when it is
   executed: argv[0] may be one of them, in /proc/self/fd. */
static void
leave_at_exec(int from)
{
	if (syscall(SYS_close_range, from, UINT_MAX, CLOSE_AT_EXEC) == -1)
		closefrom(from);
}

/* Becomes the program.  It writes to its own stack and to *child only. */
static LEFT_OPEN int
become_program(void *child)
{
	struct child *c = child;
	int from, i;

	setsid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != c->parent)
		_exit(1);
	for (i = 0; i < c->n; i++) {
		from = c->given[i] != -1 ? c->given[i] : file_null();
		if (from == i ? fcntl(i, F_SETFD, 0) == -1
		    : from == -1 || dup2(from, i) == -1) {
			c->error = errno;
			_exit(1);
		}
	}
	leave_at_exec(c->n);
	reset_signals();
	c->error = execute(c->spawn->argv, c->spawn->envp);
	_exit(1);
}

/* ---- In the parent ---- */

/* The descriptors of one run; -1: not open. */
struct run {
	int given[4];	/* what the child gets */
	int out[2];	/* our ends of its outputs; never block */
};

/* A pipe that the child does not have, but for *given, which is out of the
   way of the descriptors that it gets.  Returns 0, or an errno. */
static int
open_pipe(int *ours, int *given)
{
	int ends[2], error = 0;

	if (pipe2(ends, O_CLOEXEC) == -1)
		return errno;
	*given = fcntl(ends[1], F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
	if (*given == -1 || fcntl(ends[0], F_SETFL, O_NONBLOCK) == -1)
		error = errno;
	close(ends[1]);
	*ours = ends[0];
	return error;
}

/* Returns 0, or an errno; run is to be closed either way. */
static int
open_run(const struct spawn *s, struct run *run)
{
	const int from[4] = { s->input, -1, -1, s->extra };
	int error, i;

	for (i = 0; i < 4; i++) {
		if (from[i] == -1)
			continue;
		run->given[i] = fcntl(from[i], F_DUPFD_CLOEXEC,
		    OUT_OF_THE_WAY);
		if (run->given[i] == -1)
			return errno;
	}
	for (i = 0; i < 2 && s->hear != NULL; i++)
		if ((error = open_pipe(&run->out[i], &run->given[1 + i])) != 0)
			return error;
	return 0;
}

/* Closes what only the child is to have. */
static void
close_given(struct run *run)
{
	int i;

	for (i = 0; i < 4; i++)
		file_close(&run->given[i]);
}

/* Starts the child, and waits until it has become the program.  No handler may
   run in it: SIGCHLD, the only signal that has one, is blocked.  Returns 0, or
   an errno. */
static int
start_program(const struct spawn *s, struct run *run, pid_t *pid)
{
	struct child child = {
		.spawn = s, .given = run->given,
		.n = s->extra != -1 ? 4 : 3, .parent = getpid()
	};
	_Alignas(16) char stack[CHILD_STACK];

	*pid = clone(become_program, stack + sizeof stack,
	    CLONE_VM | CLONE_VFORK | SIGCHLD, &child);
	if (*pid == -1)
		return errno;
	close_given(run);
	if (child.error != 0)
		spawn_reap(*pid);
	return child.error;
}

/* Reads what is in one output, once.  False if there was nothing, or the
   end. */
static bool
read_output(const struct spawn *s, struct run *run, int i)
{
	char buffer[16384];
	ssize_t n;

	if (run->out[i] == -1)
		return false;
	n = read(run->out[i], buffer, sizeof buffer);
	if (n > 0) {
		s->hear(s->ctx, 1 + i, buffer, (size_t)n);
		return true;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		file_close(&run->out[i]);
	return false;
}

/* Has the child ended?  It stays unreaped.  -1: that cannot be told. */
static int
has_ended(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == -1)
		return errno == ECHILD ? 1 : -1;
	return info.si_pid == pid;
}

/* Waits for an output or SIGCHLD, which mask lets in, for at most that many
   milliseconds. */
static void
wait_program(const struct spawn *s, struct run *run, int ms,
    const sigset_t *mask)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000L };
	struct pollfd p[2];
	int i;

	for (i = 0; i < 2; i++)
		p[i] = (struct pollfd){ .fd = run->out[i], .events = POLLIN };
	if (ppoll(p, 2, &left, mask) <= 0)
		return;
	for (i = 0; i < 2; i++)
		if (p[i].revents != 0)
			read_output(s, run, i);
}

/*
 * Waits until the program has ended, and takes its output meanwhile; stops its
 * group at the deadline.  SIGCHLD is blocked but in ppoll(2): no wake-up is
 * lost.
 */
static void
await_program(const struct spawn *s, struct run *run, struct spawn_end *end,
    const sigset_t *mask)
{
	const struct {
		int signal;
		int grace;	/* milliseconds */
	} steps[] = { { SIGTERM, s->grace }, { SIGKILL, KILL_GRACE } };
	int64_t deadline = s->deadline;
	size_t step = s->grace == 0;
	int ended, ms;

	while ((ended = has_ended(end->pid)) != 1) {
		ms = clock_left(deadline);
		if (ms == 0 && step == COUNT(steps)) {
			end->alive = true;
			break;
		}
		if (ms == 0) {
			end->late = true;
			kill(-end->pid, steps[step].signal);
			deadline = clock_now() + steps[step++].grace;
			continue;
		}
		/* Its signal may have come already. */
		if (ended == -1 && ms > END_RETRY)
			ms = END_RETRY;
		wait_program(s, run, ms, mask);
	}
	if (end->late)
		kill(-end->pid, SIGKILL);
}

static void
wake(int signal)
{
	(void)signal;	/* ppoll(2) returns: that is all */
}

int
spawn_run(const struct spawn *s, struct spawn_end *end)
{
	struct run run = { { -1, -1, -1, -1 }, { -1, -1 } };
	void (*old_action)(int);
	sigset_t child, mask, old_mask;
	int error, reads, i;

	memset(end, 0, sizeof *end);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &old_mask);
	mask = old_mask;
	sigdelset(&mask, SIGCHLD);
	old_action = signal(SIGCHLD, wake);
	error = open_run(s, &run);
	if (error == 0)
		error = start_program(s, &run, &end->pid);
	if (error == 0) {
		await_program(s, &run, end, &mask);
		if (!end->alive &&
		    waitpid(end->pid, &end->status, WNOHANG) == -1)
			error = errno;
	}
	/* No more than a pipe holds: something that the program started may
	   go on writing. */
	for (i = 0; i < 2; i++) {
		for (reads = 0; error == 0 && reads < OUTPUT_READS &&
		    read_output(s, &run, i); reads++)
			;
		file_close(&run.out[i]);
	}
	close_given(&run);
	signal(SIGCHLD, old_action);
	sigprocmask(SIG_SETMASK, &old_mask, NULL);
	return error;
}

const char *
spawn_describe(const struct spawn_end *end, char why[SPAWN_WHY])
{
	if (end->late)
		text_copy(why, SPAWN_WHY, "stopped, as it took too long");
	else if (WIFEXITED(end->status))
		snprintf(why, SPAWN_WHY, "exit status %d",
		    WEXITSTATUS(end->status));
	else
		snprintf(why, SPAWN_WHY, "killed by signal %d",
		    WTERMSIG(end->status));
	return why;
}
