/*
 * transcript.c - the dialogue as a transcript, for --record.
 *
 * The channel process, which can open nothing, writes to a file that was opened
 * for it: the session's own one in a folder, or one without a name.  The latter
 * is appended by the monitor, under a lock, when the session is over.
 */
#define _GNU_SOURCE	/* memfd_create */
#include "session/transcript.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "base/spool.h"

#define LINE 2000		/* octets of the client's in one line */
#define TRIES 1000		/* names that a folder may have already */

struct transcript {
	const char *name;
	int fd;			/* the channel process writes to it */
	int target;		/* the file that fd is appended to; -1: none */
	int error;		/* errno of the first failure, or 0 */
	bool begun;
	size_t held, len;
	char line[LINE];	/* octets of the client that are no line yet */
	char out[8192];
};

/* Makes the session's own file in a folder.  -1 with errno. */
static int
open_in_folder(const char *folder)
{
	const struct timespec now = clock_date();
	const struct date d = clock_split(now.tv_sec);
	char name[4096];
	int fd = -1;

	for (int i = 0; i < TRIES; i++) {
		if ((size_t)snprintf(name, sizeof name, "%s/%04u%02u%02uT%02u"
		    "%02u%02uZ.%06ld-%03d.smtp", folder, d.year, d.month,
		    d.day, d.hour, d.minute, d.second, now.tv_nsec / 1000, i)
		    >= sizeof name) {
			errno = ENAMETOOLONG;
			return -1;
		}
		fd = open(name, O_WRONLY | O_APPEND | O_CREAT | O_EXCL |
		    O_CLOEXEC, 0600);
		if (fd != -1 || errno != EEXIST)
			break;
	}
	return fd;
}

int
transcript_target(const char *name, int create)
{
	/* Not O_APPEND, which sendfile(2) does not take. */
	int fd = open(name, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
	    create, 0600);

	if (fd != -1)
		fcntl(fd, F_SETFL, 0);
	return fd;
}

/* A file for the session, and the one to append it to.  False with errno. */
static bool
open_to_append(struct transcript *t)
{
	t->target = transcript_target(t->name, O_CREAT);
	if (t->target == -1)
		return false;
	t->fd = spool_file(NULL);
	if (t->fd == -1)
		t->fd = memfd_create("transcript", MFD_CLOEXEC);
	return t->fd != -1;
}

struct transcript *
transcript_open(const char *name, char *error, size_t size)
{
	struct transcript *t = calloc(1, sizeof *t);
	struct stat st;
	bool folder = stat(name, &st) == 0 && S_ISDIR(st.st_mode);

	if (t == NULL) {
		text_copy(error, size, "out of memory");
		return NULL;
	}
	t->name = name;
	t->fd = t->target = -1;
	if (folder)
		t->fd = open_in_folder(name);
	if (folder ? t->fd != -1 : open_to_append(t))
		return t;
	snprintf(error, size, "--record %s: %s", name, strerror(errno));
	if (t->target != -1)
		close(t->target);
	free(t);
	return NULL;
}

int
transcript_fd(const struct transcript *t)
{
	return t->fd;
}

int
transcript_flush(struct transcript *t)
{
	if (t->error == 0 && t->len > 0 &&
	    file_write_all(t->fd, t->out, t->len) == -1)
		t->error = errno;
	t->len = 0;
	return t->error;
}

static void
put_octets(struct transcript *t, const char *p, size_t len)
{
	size_t n;

	while (len > 0) {
		n = sizeof t->out - t->len < len ? sizeof t->out - t->len : len;
		memcpy(t->out + t->len, p, n);
		t->len += n;
		p += n;
		len -= n;
		if (t->len == sizeof t->out)
			transcript_flush(t);
	}
}

/* Writes one octet, escaped as lines with "|" want it. */
static void
put_escaped(struct transcript *t, char c)
{
	static const char octets[] = "\r\n\t\\{}", names[] = "rnt\\{}";
	const char *name = c == '\0' ? NULL : strchr(octets, c);
	char code[8];

	if (name != NULL)
		snprintf(code, sizeof code, "\\%c", names[name - octets]);
	else if (c >= ' ' && c <= '~')
		snprintf(code, sizeof code, "%c", c);
	else
		snprintf(code, sizeof code, "\\x%02x", (unsigned char)c);
	put_octets(t, code, strlen(code));
}

/* One line of the client's or ours; end: CRLF follows it. */
static void
put_line(struct transcript *t, char whose, const char *p, size_t len, bool end)
{
	size_t n;

	if (end && len <= LINE && text_is_printable(p, len)) {
		put_octets(t, (const char[]){ whose, ':', ' ' },
		    len > 0 ? 3 : 2);
		put_octets(t, p, len);
		put_octets(t, "\n", 1);
		return;
	}
	do {	/* a reader need not have room for long lines */
		n = len < LINE / 4 ? len : LINE / 4;
		put_octets(t, (const char[]){ whose, '|', ' ' }, 3);
		for (size_t i = 0; i < n; i++)
			put_escaped(t, p[i]);
		p += n;
		len -= n;
		if (len == 0 && end)
			put_octets(t, "\\r\\n", 4);
		put_octets(t, "\n", 1);
	} while (len > 0);
}

/* What the client sent without an end of line. */
static void
put_held(struct transcript *t)
{
	if (t->held > 0)
		put_line(t, 'C', t->line, t->held, false);
	t->held = 0;
}

static void
begin_transcript(struct transcript *t, const struct channel_peer *peer)
{
	const struct date d = clock_split(clock_date().tv_sec);
	char title[128];

	if (t->begun)
		return;
	t->begun = true;
	snprintf(title, sizeof title, "== %04u-%02u-%02u %02u:%02u:%02u UTC, "
	    "client %.64s\n", d.year, d.month, d.day, d.hour, d.minute,
	    d.second, peer->address);
	put_octets(t, title, strlen(title));
}

void
transcript_line(struct transcript *t, const struct channel_peer *peer,
    bool said, struct span line)
{
	begin_transcript(t, peer);
	put_held(t);
	put_line(t, said ? 'S' : 'C', line.p, line.len, true);
}

void
transcript_octets(struct transcript *t, const struct channel_peer *peer,
    struct span octets)
{
	begin_transcript(t, peer);
	for (size_t i = 0; i < octets.len; i++) {
		if (t->held == sizeof t->line)
			put_held(t);
		t->line[t->held++] = octets.p[i];
		if (octets.p[i] != '\n')
			continue;
		if (t->held > 1 && t->line[t->held - 2] == '\r') {
			put_line(t, 'C', t->line, t->held - 2, true);
			t->held = 0;
		} else {
			put_held(t);
		}
	}
}

void
transcript_word(struct transcript *t, const char *word)
{
	put_held(t);
	put_octets(t, word, strlen(word));
	put_octets(t, "\n", 1);
}

/* Appends all of the session, or nothing. */
static int
append(struct transcript *t)
{
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct stat st;
	int error;

	/* A pipe or a device has no locks, and needs none. */
	while (fcntl(t->target, F_SETLKW, &all) == -1 && errno == EINTR)
		;
	if (fstat(t->target, &st) == -1 || (S_ISREG(st.st_mode) &&
	    lseek(t->target, 0, SEEK_END) == -1))
		return errno;
	if ((st.st_size == 0 || file_write_all(t->target, "\n", 1) == 0) &&
	    file_copy(t->target, t->fd, FILE_END, 0) == 0)
		return 0;
	error = errno;
	if (S_ISREG(st.st_mode) && ftruncate(t->target, st.st_size) == -1)
		error = errno;
	return error;
}

void
transcript_finish(struct transcript *t, const struct logger *log)
{
	struct stat st;

	if (t->target == -1 || fstat(t->fd, &st) == -1 || st.st_size == 0)
		return;
	t->error = append(t);
	if (t->error != 0)
		logger_printf(log, LOG_ERR, "config-error", NULL,
		    "--record %s: %s", t->name, strerror(t->error));
}
