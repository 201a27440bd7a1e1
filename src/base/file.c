/*
 * file.c - files read, written and copied whole, and found; tables that grow.
 */
#define _GNU_SOURCE	/* reallocarray, explicit_bzero, memfd_create */
#include <sys/mman.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

#define COPY (1 << 20)		/* octets between two looks at the clock */
#define READ_STEP 65536		/* octets by which a buffer grows */

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

ssize_t
file_read_at(int fd, void *p, size_t len, off_t at)
{
	ssize_t n;

	do
		n = pread(fd, p, len, at);
	while (n == -1 && errno == EINTR);
	return n;
}

/* Makes room for more octets.  realloc(3) would leave a copy of what was read.
   Returns false without memory. */
static bool
grow_text(char **text, size_t have, size_t size)
{
	char *more = malloc(size);

	if (more == NULL)
		return false;
	if (*text != NULL) {
		memcpy(more, *text, have);
		explicit_bzero(*text, have);
		free(*text);
	}
	*text = more;
	return true;
}

long
file_read_all(int fd, size_t most, char **text)
{
	size_t have = 0, size = READ_STEP;
	struct stat st;
	ssize_t n = 1;
	int error;

	*text = NULL;
	/* One octet more than the file has, to see its end. */
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    (uint64_t)st.st_size < most)
		size = (size_t)st.st_size + 2;
	while (n != 0) {
		if ((*text == NULL || have + 1 == size) && !grow_text(text,
		    have, size = *text == NULL ? size : 2 * size))
			break;
		n = read(fd, *text + have, size - 1 - have);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			break;
		have += (size_t)n;
		if (have > most) {
			errno = EFBIG;
			break;
		}
	}
	if (n == 0) {
		(*text)[have] = '\0';
		return (long)have;
	}
	error = errno;
	if (*text != NULL)
		explicit_bzero(*text, have);
	free(*text);
	*text = NULL;
	errno = error;
	return -1;
}

long
file_read_named(int fd, const char *name, size_t most, char **text)
{
	long len = -1;

	*text = NULL;
	fd = file_again(fd, name);
	if (fd != -1)
		len = file_read_all(fd, most, text);
	file_close(&fd);
	return len;
}

void
file_free(char *text, long len)
{
	if (len > 0)
		explicit_bzero(text, (size_t)len);
	free(text);
}

void
file_close(int *fd)
{
	int error = errno;

	if (*fd != -1)
		close(*fd);
	*fd = -1;
	errno = error;
}

const char *
file_search_path(void)
{
	const char *path = getenv("PATH");

	return path != NULL ? path : "/usr/local/bin:/usr/bin:/bin";
}

bool
file_in_path(const char **path, const char *name, char *to, size_t size)
{
	const char *folder = *path, *end = folder + strcspn(folder, ":");
	int n = snprintf(to, size, "%.*s%s%s", (int)(end - folder), folder,
	    end == folder ? "" : "/", name);

	*path = *end == ':' ? end + 1 : NULL;
	return n >= 0 && (size_t)n < size;
}

/* What sendfile(2) does, for a device that does not take it. */
static ssize_t
copy_piece(int to, int from, off_t *at, size_t len)
{
	char piece[4096];
	ssize_t n = file_read_at(from, piece, len < sizeof piece ? len
	    : sizeof piece, *at);

	if (n > 0 && file_write_all(to, piece, (size_t)n) == -1)
		return -1;
	*at += n > 0 ? n : 0;
	return n;
}

int
file_copy(int to, int from, off_t size, int64_t deadline)
{
	off_t at = 0;
	size_t len;
	ssize_t n;

	while (at < size) {
		len = size - at < COPY ? (size_t)(size - at) : COPY;
		n = sendfile(to, from, &at, len);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EINVAL)
			n = copy_piece(to, from, &at, len);
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
