/*
 * spawn.h - runs a program to its end, or to a deadline.
 */
#ifndef NET_SPAWN_H
#define NET_SPAWN_H

#include <sys/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What to run.  Everything is borrowed for the call. */
struct spawn {
	char *const *argv;	/* argv[0] is looked for in PATH, as execvp(3)
				   does, if it has no slash */
	char *const *envp;	/* the whole environment: of ours only what is
				   not private, see spawn_is_private() */
	int input;		/* becomes descriptor 0; -1: /dev/null */
	int extra;		/* becomes descriptor 3; -1: there is none */
	/* Gets what the program writes to descriptor 1 or 2, as it comes.
	   NULL: both are /dev/null. */
	void (*hear)(void *ctx, int descriptor, const char *p, size_t len);
	void *ctx;
	int64_t deadline;	/* as clock_now() counts */
	int grace;		/* milliseconds from SIGTERM, at the deadline,
				   to SIGKILL; 0: SIGKILL at the deadline */
};

/* How it ended. */
struct spawn_end {
	pid_t pid;
	int status;		/* as wait(2) has it */
	bool late;		/* it was stopped at the deadline */
	bool alive;		/* not even SIGKILL has ended it: no status */
};

/* Is "NAME=value" of our environment what systemd told the service, such as
   CREDENTIALS_DIRECTORY?  No program that we start inherits it. */
bool	spawn_is_private(const char *variable);

/*
 * Runs the program in a session of its own, with default signals, no signal
 * blocked, and no descriptor but 0, 1, 2 and extra.  At the deadline it is
 * stopped with all of its process group.  If this process dies the kernel
 * kills the program (not what the program has started, and not a program that
 * changes its user as it starts).  What the program started and left running
 * does not delay the return.  SIGCHLD is taken during the call and given back.
 * Returns 0 with *end, or an errno if the program was not started: execve(2)'s
 * too.
 */
int	spawn_run(const struct spawn *s, struct spawn_end *end);

/* Waits for the end of a process that was forked.  Returns its status, as
   wait(2) has it, or -1 with errno. */
int	spawn_reap(pid_t pid);

#define SPAWN_WHY 40		/* octets of that phrase, with NUL */

/* Writes how a program ended: "exit status 1", "killed by signal 9", "stopped,
   as it took too long".  Returns why. */
const char *spawn_describe(const struct spawn_end *end, char why[SPAWN_WHY]);

#endif
