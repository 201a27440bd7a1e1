/*
 * file.c - files written and copied whole, and tables that grow.
 */
#define _GNU_SOURCE	/* reallocarray */
#include <sys/mman.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

#define COPY (1 << 20)		/* octets after which a copy looks at the clock */

int
file_write_all(int fd, const char *p, size_t len)
{
	ssize_t n;

	while (len > 0) {
		n = write(fd, p, len);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int
file_copy(int to, int from, off_t size, int64_t deadline)
{
	off_t at = 0;
	ssize_t n;

	while (at < size) {
		n = sendfile(to, from, &at, size - at < COPY
		    ? (size_t)(size - at) : COPY);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == 0 && size == FILE_END)
			break;
		if (n == 0)
			errno = EIO;	/* it shrank */
		else if (n == COPY && deadline != 0 &&
		    clock_left(deadline) == 0)
			errno = ETIMEDOUT;
		else if (n > 0)
			continue;
		return -1;
	}
	return 0;
}

int
file_again(int fd, const char *name)
{
	if (fd == -1)
		return open(name, O_RDONLY | O_CLOEXEC);
	fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (fd != -1)
		lseek(fd, 0, SEEK_SET);	/* a pipe is read where it is */
	return fd;
}

void *
table_grow(void *rows, size_t n, size_t size)
{
	if ((n & (n - 1)) != 0)
		return rows;
	return reallocarray(rows, n == 0 ? 1 : n * 2, size);
}

int
file_null(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd != -1)
		return fd;
	fd = memfd_create("null", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd != -1)
		fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW);
	return fd;
}
