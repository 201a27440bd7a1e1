/*
 * maildir.c - "maildir:" puts a message into a Maildir, and deletes the oldest
 * ones of too many.
 */
#define _GNU_SOURCE	/* syncfs */
#include <sys/stat.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/text.h"
#include "base/reply.h"
#include "relay/transport.h"

#define FOLDER_NAME 512	/* octets of "tmp/" and a unique name, with NUL */

/* Opens a Maildir, which is made if need be.  Returns its descriptor, or -1
   with errno. */
static int
folder_open(const char *where)
{
	static const char parts[][4] = { "tmp", "new", "cur" };
	bool made = false;
	int dir;
	size_t i;

	if (mkdirat(AT_FDCWD, where, 0700) == 0)
		made = true;
	else if (errno != EEXIST)
		return -1;
	dir = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir == -1)
		return -1;
	for (i = 0; i < COUNT(parts); i++) {
		if (mkdirat(dir, parts[i], 0700) == 0)
			made = true;
		else if (errno != EEXIST)
			goto out;
	}
	/* What was made just now must last as long as what goes into it. */
	if (!made || syncfs(dir) == 0)
		return dir;
out:
	file_close(&dir);
	return -1;
}

/* Writes "tmp/" and a name that is unique (maildir(5)) to name. */
static int
folder_name(struct relay *r, char *name, size_t size)
{
	char host[65], safe[4 * sizeof host], *to = safe;
	struct timespec now;
	const char *p;
	int len;

	if (clock_gettime(CLOCK_REALTIME, &now) == -1 ||
	    gethostname(host, sizeof host) == -1)
		return -1;
	host[sizeof host - 1] = '\0';
	for (p = host; *p != '\0'; p++) {
		if (*p == '/' || *p == ':')
			to += snprintf(to, 5, "\\%03o", (unsigned)*p);
		else
			*to++ = *p;
	}
	*to = '\0';
	len = snprintf(name, size, "tmp/%jd.M%06ldP%jdQ%u.%s",
	    (intmax_t)now.tv_sec, now.tv_nsec / 1000, (intmax_t)getpid(),
	    ++r->delivered, safe);
	if (len > 0 && (size_t)len < size)
		return 0;
	errno = ENAMETOOLONG;
	return -1;
}

/* Writes header fields and message to fd, and has them on the disk. */
static int
folder_write(const struct job *j, int fd)
{
	const char *end = j->r->set->crlf ? "\r\n" : "\n";
	struct buffer head = { .p = NULL };
	int status = -1;

	buffer_join(&head, "Return-Path: <", j->env->fact[FACT_SENDER], ">",
	    end, NULL);
	/* Several addresses would tell each recipient of the others' Bcc. */
	if (j->env->nrecipients == 1)
		buffer_join(&head, "Delivered-To: ",
		    j->env->recipients[0].address, end, NULL);
	if (!head.failed && file_write_all(fd, head.p, head.len) == 0 &&
	    file_copy(fd, j->spool, FILE_END, j->deadline) == 0)
		status = fsync(fd);
	free(head.p);
	return status;
}

/* Links the message from tmp into new, and has that on the disk.  A failure
   leaves it out of new. */
static int
folder_publish(int dir, const char *name)
{
	char published[FOLDER_NAME];
	int new, status = -1, error;

	snprintf(published, sizeof published, "new/%s", name + strlen("tmp/"));
	new = openat(dir, "new", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (new == -1)
		return -1;
	/* A link replaces nothing; some file systems have none. */
	if (linkat(dir, name, dir, published, 0) == 0 ||
	    ((errno == EPERM || errno == EOPNOTSUPP) &&
	    renameat(dir, name, dir, published) == 0)) {
		status = fsync(new);
		error = errno;
		if (status == -1)
			unlinkat(dir, published, 0);
		errno = error;
	}
	file_close(&new);
	return status;
}

/* ---- --maildir-keep ---- */

struct kept {
	uint64_t seconds;	/* that its name begins with */
	char *path;		/* "new/NAME" or "cur/NAME"; owned */
};

/* Names begin with the time of their delivery (maildir(5)), and ours go on with
   its microseconds. */
static int
compare_ages(const void *a, const void *b)
{
	const struct kept *x = a, *y = b;

	return x->seconds != y->seconds ? (x->seconds > y->seconds) -
	    (x->seconds < y->seconds) : strcmp(x->path + 4, y->path + 4);
}

/* Adds the messages of one folder, part, to *all.  Returns 0, or -1 with
   errno. */
static int
list_messages(int dir, const char *part, struct kept **all, size_t *n)
{
	int fd = openat(dir, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC), error;
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	const struct dirent *e;
	struct kept *more, k;
	size_t size;

	if (d == NULL) {
		file_close(&fd);
		return -1;
	}
	while (errno = 0, (e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		more = table_grow(*all, *n, sizeof *more);
		if (more == NULL)
			break;
		*all = more;
		size = strlen(e->d_name) + sizeof "new/";
		k.path = malloc(size);
		if (k.path == NULL)
			break;
		text_join(k.path, size, part, "/", e->d_name, NULL);
		if (!text_parse_number((struct span){ e->d_name,
		    text_digits(e->d_name) }, &k.seconds))
			k.seconds = 0;
		more[(*n)++] = k;
	}
	error = errno;
	closedir(d);
	errno = error;
	return error == 0 ? 0 : -1;
}

/* Deletes all but the newest messages.  Others may be doing the same.  Returns
   0, or -1 with errno. */
static int
delete_oldest(int dir, size_t keep)
{
	struct kept *all = NULL;
	size_t n = 0, i;
	int status = 0, error;

	if (list_messages(dir, "new", &all, &n) == -1 ||
	    list_messages(dir, "cur", &all, &n) == -1)
		status = -1;
	if (all == NULL)
		return status;
	if (n > keep)
		qsort(all, n, sizeof *all, compare_ages);
	for (i = 0; status == 0 && i + keep < n; i++)
		if (unlinkat(dir, all[i].path, 0) == -1 && errno != ENOENT)
			status = -1;
	error = errno;
	for (i = 0; i < n; i++)
		free(all[i].path);
	free(all);
	errno = error;
	return status;
}

/* A message that is delivered stays so, whatever becomes of older ones. */
static void
keep_some(const struct job *j, const struct hop *h, int dir)
{
	if (j->r->set->keep == 0 || h == &j->r->quarantine)
		return;
	if (delete_oldest(dir, j->r->set->keep) == -1)
		logger_printf(&j->r->set->log, LOG_WARNING, "relay", j->env,
		    "%s: cannot delete old messages: %s", h->spec,
		    strerror(errno));
}

static void
deliver_maildir(const struct job *j, struct hop *h, struct reply r[])
{
	char name[FOLDER_NAME];
	int dir = folder_open(h->where), fd = -1;

	if (dir != -1 && folder_name(j->r, name, sizeof name) == 0)
		fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
		    0600);
	if (fd == -1 || folder_write(j, fd) == -1 ||
	    folder_publish(dir, name) == -1)
		job_fail(j, h->spec, errno, &r[0]);
	else
		keep_some(j, h, dir);
	if (fd != -1)
		unlinkat(dir, name, 0);
	file_close(&fd);
	file_close(&dir);
	reply_spread(r, j->env->nrecipients);
}

static bool
check_folder(struct hop *h, char *error, size_t size)
{
	if (*h->where != '\0')
		return true;
	text_copy(error, size, "maildir: needs a folder");
	return false;
}

/* Opens the folder as a message would, which makes it. */
static void
probe_maildir(struct relay *r, struct hop *h, struct findings *f)
{
	static const char parts[][4] = { "tmp", "new" };
	int dir = folder_open(h->where), error = dir == -1 ? errno : 0;

	(void)r;
	for (size_t i = 0; dir != -1 && i < COUNT(parts) && error == 0; i++)
		if (faccessat(dir, parts[i], W_OK | X_OK, AT_EACCESS) == -1)
			error = errno;
	if (error == 0)
		findings_add(f, FINDING_GOOD, "%s is a folder that can be "
		    "written to", h->spec);
	else
		findings_add(f, FINDING_BAD, "%s: %s%s", h->spec,
		    strerror(error), error != ENOENT ? ""
		    : "; only the last folder of a path is made");
	if (error == 0)
		findings_add_room(f, h->spec, dir);
	file_close(&dir);
}

const struct transport transport_maildir = {
	.name = "maildir", .syntax = "maildir:DIR", .reach = LOCAL,
	.form = SPOOL_LF, .crlf = true, .check = check_folder,
	.deliver = deliver_maildir, .probe = probe_maildir,
};
