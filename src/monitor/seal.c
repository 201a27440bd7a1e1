/*
 * seal.c - keeps a message as it was when it was checked.
 */
#define _GNU_SOURCE	/* F_ADD_SEALS */
#include "monitor/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/spool.h"

/* Copies the first size octets of from, 1 MiB at a time, by the deadline.
   Returns a new file, or -1 with errno. */
static int
copy_spool(int from, off_t size, int64_t deadline)
{
	int fd = spool_file(NULL);
	off_t at = 0;
	ssize_t n = 0;

	while (fd != -1 && at < size) {
		n = sendfile(fd, from, &at, size - at < 1 << 20
		    ? (size_t)(size - at) : 1 << 20);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == 0)
			errno = EIO;	/* it shrank */
		else if (n > 0 && clock_left(deadline) == 0)
			errno = ETIMEDOUT;
		else if (n > 0)
			continue;
		close(fd);
		fd = -1;
	}
	return fd;
}

int
seal_spool(int spool, int64_t deadline)
{
	struct stat st;

	if (fcntl(spool, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW |
	    F_SEAL_SHRINK) == 0)
		return spool;
	if (fstat(spool, &st) == -1)
		return -1;
	return copy_spool(spool, st.st_size, deadline);
}
