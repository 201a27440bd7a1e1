/*
 * spool.c - the message on its way: in memory, or in a file without a name.
 */
#define _GNU_SOURCE	/* memfd_create, O_TMPFILE */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/spool.h"

#define COPY_SHORT 4096		/* octets that are not worth a sendfile() */

void
spool_open(struct spool *s, enum spool_form form, int (*file)(void *ctx),
    void *ctx)
{
	s->fd = -1;
	s->error = 0;
	s->form = form;
	s->size = s->stored = 0;
	s->cr = false;
	s->file = file != NULL ? file : spool_file;
	s->ctx = ctx;
	s->held = 0;
}

const char *
spool_folder(void)
{
	const char *dir = getenv("TMPDIR");

	return dir == NULL || *dir == '\0' ? "/var/tmp" : dir;
}

int
spool_file(void *ctx)
{
	const char *dir = spool_folder();
	struct buffer path = { .p = NULL };
	char *name;
	int fd;

	(void)ctx;
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd != -1 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd;
	/* A file system that has no O_TMPFILE. */
	buffer_join(&path, dir, "/smtpd.XXXXXX", NULL);
	name = buffer_take(&path);
	if (name == NULL)
		return -1;
	fd = mkostemp(name, O_CLOEXEC);
	if (fd != -1)
		unlinkat(AT_FDCWD, name, 0);
	free(name);
	return fd;
}

/* Makes s->fd a file that can hold that many octets.  Returns 0, or -1 with
   errno. */
static int
make_room(struct spool *s, uint64_t size)
{
	int fd = -1;

	if (s->fd != -1 && (s->stored > SPOOL_MEMORY || size <= SPOOL_MEMORY))
		return 0;
	if (size <= SPOOL_MEMORY)
		fd = memfd_create("spool", MFD_CLOEXEC |
		    MFD_ALLOW_SEALING);
	if (fd == -1)
		fd = s->file(s->ctx);
	if (fd == -1)
		return -1;
	if (s->fd != -1 && file_copy(fd, s->fd, FILE_END, 0) == -1) {
		file_close(&fd);
		return -1;
	}
	file_close(&s->fd);
	s->fd = fd;
	return 0;
}

/* Writes to s->fd what follows what it has. */
static void
store(struct spool *s, const char *p, size_t len)
{
	if (s->error != 0)
		return;
	/* s->file is the caller's, and may leave errno at 0. */
	if (make_room(s, s->stored + len) == -1 ||
	    file_write_all(s->fd, p, len) == -1)
		s->error = errno != 0 ? errno : EIO;
	else
		s->stored += len;
}

static void
store_held(struct spool *s)
{
	store(s, s->buffer, s->held);
	s->held = 0;
}

/* Gathers small pieces; large ones are written as they are. */
static void
put_piece(struct spool *s, const char *p, size_t len)
{
	if (len > sizeof s->buffer - s->held) {
		store_held(s);
	}
	if (len >= sizeof s->buffer / 2) {
		store_held(s);
		store(s, p, len);
		return;
	}
	memcpy(s->buffer + s->held, p, len);
	s->held += len;
}

/* Puts len octets with each CRLF as LF.  A CR at the end is held back. */
static void
put_with_lf(struct spool *s, const char *p, size_t len)
{
	const char *end = p + len, *cr;

	while (p < end) {
		if (s->cr && *p != '\n')
			put_piece(s, "\r", 1);
		s->cr = false;
		cr = memchr(p, '\r', (size_t)(end - p));
		if (cr == NULL) {
			put_piece(s, p, (size_t)(end - p));
			return;
		}
		put_piece(s, p, (size_t)(cr - p));
		s->cr = true;
		p = cr + 1;
	}
}

void
spool_write(struct spool *s, const char *p, size_t len)
{
	s->size += len;
	if (s->error != 0 || len == 0)
		return;
	if (s->form == SPOOL_LF)
		put_with_lf(s, p, len);
	else if (s->form == SPOOL_CRLF)
		put_piece(s, p, len);
}

/* Copies a few octets by way of the buffer: runs between two edits are mostly
   as short as a header field. */
static void
copy_short(struct spool *s, int from, uint64_t at, size_t len)
{
	char octets[COPY_SHORT];
	ssize_t n;

	while (s->error == 0 && len > 0) {
		n = file_read_at(from, octets, len, (off_t)at);
		if (n <= 0) {
			s->error = n == 0 ? EIO : errno;
			return;
		}
		put_piece(s, octets, (size_t)n);
		at += (uint64_t)n;
		len -= (size_t)n;
	}
}

void
spool_copy(struct spool *s, int from, uint64_t at, uint64_t len)
{
	off_t offset = (off_t)at;
	ssize_t n;

	s->size += len;
	if (len <= COPY_SHORT) {
		copy_short(s, from, at, (size_t)len);
		return;
	}
	store_held(s);
	if (s->error == 0 && make_room(s, s->stored + len) == -1)
		s->error = errno != 0 ? errno : EIO;
	while (s->error == 0 && len > 0) {
		n = sendfile(s->fd, from, &offset,
		    len < 1 << 30 ? (size_t)len : 1 << 30);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0) {
			s->error = n == 0 ? EIO : errno;
			return;
		}
		s->stored += (uint64_t)n;
		len -= (uint64_t)n;
	}
}

int
spool_finish(struct spool *s)
{
	if (s->form == SPOOL_NONE)
		return -1;
	if (s->cr)
		put_piece(s, "\r", 1);
	s->cr = false;
	store_held(s);
	if (s->error == 0 && lseek(s->fd, 0, SEEK_SET) == -1)
		s->error = errno;
	return s->error == 0 ? s->fd : -1;
}

void
spool_close(struct spool *s)
{
	if (s->fd > 0)
		close(s->fd);
	s->fd = -1;
}
