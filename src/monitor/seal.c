/*
 * seal.c - keeps a message as it was when it was checked.
 */
#define _GNU_SOURCE	/* F_ADD_SEALS */
#include "monitor/seal.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/spool.h"

/* Copies the first size octets of from by the deadline.  Returns a new file, or
   -1 with errno. */
static int
copy_spool(int from, off_t size, int64_t deadline)
{
	int fd = spool_file(NULL);

	if (fd != -1 && file_copy(fd, from, size, deadline) == -1)
		file_close(&fd);
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
