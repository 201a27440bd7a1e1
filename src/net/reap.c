/*
 * reap.c - waits for the end of a process.
 */
#include <sys/wait.h>

#include <errno.h>

#include "net/spawn.h"

int
spawn_reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) == -1)
		if (errno != EINTR)
			return -1;
	return status;
}
