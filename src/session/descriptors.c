/*
 * descriptors.c - what the descriptors 0 to 2 are.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

#include "session/descriptors.h"

bool
descriptors_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* In the place of standard error that is closed, /dev/null cannot be written
   to: what print: puts there must not count as printed. */
void
descriptors_look(struct stat std[3])
{
	for (int fd = 0; fd <= 2; fd++)
		if (fstat(fd, &std[fd]) == -1 &&
		    (open("/dev/null", fd == STDERR_FILENO ? O_RDONLY
		    : O_RDWR) != fd || fstat(fd, &std[fd]) == -1))
			exit(EX_OSERR);
}

int
descriptors_listens(int fd)
{
	int listening = 0;
	socklen_t len = sizeof listening;

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening,
	    &len) == -1 ? -1 : listening;
}

bool
descriptors_one_socket(const struct stat std[3])
{
	return S_ISSOCK(std[STDIN_FILENO].st_mode) &&
	    descriptors_same(&std[STDIN_FILENO], &std[STDOUT_FILENO]);
}
