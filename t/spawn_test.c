/*
 * spawn_test.c - programs that are run: what they get, and how they end.
 */
#define _GNU_SOURCE	/* pipe2 */
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/clock.h"
#include "net/spawn.h"

#define LONG_TIME 60000		/* milliseconds */

static char heard[2][4096];

static void
hear(void *ctx, int descriptor, const char *p, size_t len)
{
	char *to = heard[descriptor - 1];
	size_t have = strlen(to);

	(void)ctx;
	cr_assert(have + len < sizeof heard[0]);
	memcpy(to + have, p, len);
	to[have + len] = '\0';
}

/* Runs the shell's script; what changes what is given. */
static int
run_script(struct spawn *what, const char *script, struct spawn_end *end)
{
	static char shell[] = "sh", option[] = "-c";
	static char path[] = "PATH=/usr/bin:/bin";
	char text[512];
	char *const argv[] = { shell, option, text, NULL };
	char *const envp[] = { path, NULL };

	snprintf(text, sizeof text, "%s", script);
	what->argv = argv;
	what->envp = envp;
	if (what->deadline == 0)
		what->deadline = clock_now() + LONG_TIME;
	memset(heard, 0, sizeof heard);
	return spawn_run(what, end);
}

TestSuite(spawn, .timeout = 60);

Test(spawn, both_outputs_are_heard)
{
	struct spawn what = { .input = -1, .extra = -1, .hear = hear };
	struct spawn_end end;

	cr_assert_eq(run_script(&what, "echo one; echo two >&2; exit 7", &end),
	    0);
	cr_assert(WIFEXITED(end.status) && WEXITSTATUS(end.status) == 7);
	cr_assert(!end.late && !end.alive);
	cr_assert_str_eq(heard[0], "one\n");
	cr_assert_str_eq(heard[1], "two\n");
}

Test(spawn, a_program_has_no_descriptor_that_it_is_not_given)
{
	struct spawn what = { .input = -1, .extra = -1, .hear = hear };
	int high = fcntl(STDIN_FILENO, F_DUPFD, 200);
	struct spawn_end end;

	cr_assert_neq(high, -1);
	cr_assert_eq(run_script(&what, "cd /proc/self/fd; echo *", &end), 0);
	/* The shell's own is a folder, and is closed again. */
	cr_assert(strncmp(heard[0], "0 1 2", 5) == 0, "%s", heard[0]);
	cr_assert(strstr(heard[0], "200") == NULL, "%s", heard[0]);
	close(high);
}

Test(spawn, the_extra_descriptor_is_3_and_the_others_are_dev_null)
{
	struct spawn what = { .input = -1 };
	struct spawn_end end;
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	cr_assert_eq(write(ends[1], "secret\n", 7), 7);
	close(ends[1]);
	what.extra = ends[0];
	cr_assert_eq(run_script(&what, "read word <&3; [ $word = secret ] && "
	    "! read word && for n in 0 1 2; do "
	    "[ $(readlink /proc/$$/fd/$n) = /dev/null ] || exit 2; done", &end),
	    0);
	cr_assert(WIFEXITED(end.status) && WEXITSTATUS(end.status) == 0,
	    "%x", (unsigned)end.status);
	close(ends[0]);
}

Test(spawn, every_signal_has_its_default)
{
	/* A struct sigaction of the kernel's, that ignores the signal. */
	const unsigned long ignore[8] = { 1 };
	struct spawn what = { .input = -1, .extra = -1, .hear = hear };
	struct spawn_end end;
	sigset_t all, old;
	int n;

	for (n = 32; n <= 64; n++)
		cr_assert_eq(syscall(SYS_rt_sigaction, n, ignore, NULL, 8), 0);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	cr_assert_eq(run_script(&what, "exec grep '^Sig[BI]' /proc/self/status",
	    &end), 0);
	sigprocmask(SIG_SETMASK, &old, NULL);
	cr_assert_str_eq(heard[0], "SigBlk:\t0000000000000000\n"
	    "SigIgn:\t0000000000000000\n");
}

Test(spawn, what_cannot_be_executed_is_an_errno)
{
	static const struct {
		const char *name;
		int error;
	} cases[] = {
		{ "/no/such/program", ENOENT }, { "no-such-program", ENOENT },
		{ "/etc/passwd", EACCES }, { "/etc", EACCES }, { "", ENOENT },
	};
	char name[64];
	char *const argv[] = { name, NULL }, *const envp[] = { NULL };
	const struct spawn what = { .argv = argv, .envp = envp, .input = -1,
	    .extra = -1, .deadline = clock_now() + LONG_TIME };
	struct spawn_end end;
	size_t i;

	for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		snprintf(name, sizeof name, "%s", cases[i].name);
		cr_assert_eq(spawn_run(&what, &end), cases[i].error, "%s",
		    name);
	}
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);	/* nobody is left */
	cr_assert_eq(errno, ECHILD);
}

Test(spawn, a_program_is_stopped_at_the_deadline_with_its_group)
{
	struct spawn what = { .input = -1, .extra = -1 };
	char fifo[] = "/tmp/spawn-test-XXXXXX/fifo", script[128], octet;
	struct spawn_end end;
	int fd;

	fifo[strlen(fifo) - 5] = '\0';
	cr_assert_not_null(mkdtemp(fifo));
	fifo[strlen(fifo)] = '/';
	cr_assert_eq(mkfifo(fifo, 0600), 0);
	fd = open(fifo, O_RDONLY | O_NONBLOCK);
	snprintf(script, sizeof script, "exec 9>%s; trap '' TERM; "
	    "sleep 1000 & wait; sleep 1000", fifo);
	what.deadline = clock_now() + 2000;	/* until then it has begun */
	cr_assert_eq(run_script(&what, script, &end), 0);
	cr_assert(end.late && !end.alive);
	cr_assert(WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGKILL);
	/* The end of the file is there when the last of them has gone. */
	fcntl(fd, F_SETFL, 0);
	cr_assert_eq(read(fd, &octet, 1), 0);
	close(fd);
	unlink(fifo);
	fifo[strlen(fifo) - 5] = '\0';
	rmdir(fifo);
}

Test(spawn, a_program_does_not_outlive_the_process_that_runs_it)
{
	struct spawn what = { .extra = -1 };
	struct spawn_end end;
	int life[2], ready[2];
	char octet;
	pid_t pid;

	/* The program has the only writing ends, as 3 and 0. */
	cr_assert_eq(pipe2(life, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	cr_assert_neq(pid, -1);
	if (pid == 0) {
		what.extra = life[1];
		what.input = ready[1];
		run_script(&what, "echo >&0; exec sleep 1000", &end);
		_exit(0);
	}
	close(life[1]);
	close(ready[1]);
	cr_assert_eq(read(ready[0], &octet, 1), 1);	/* it runs */
	kill(pid, SIGKILL);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_assert_eq(read(life[0], &octet, 1), 0);	/* it has ended */
	close(life[0]);
	close(ready[0]);
}
