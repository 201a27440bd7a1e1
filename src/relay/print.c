/*
 * print.c - "print:" puts a message on standard error, or appends it to a file,
 * and "show:" does so as a person reads it.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/show.h"
#include "relay/transport.h"

#define LOCK_RETRY 20		/* milliseconds between two tries to lock */

/* The whole of a file, in memory as far as it is looked at. */
struct view {
	void *p;
	size_t len;
};

static int
view_open(struct view *w, int fd)
{
	struct stat st;

	w->p = NULL;
	if (fstat(fd, &st) == -1)
		return -1;
	w->len = (size_t)st.st_size;
	if (w->len == 0)
		return 0;
	w->p = mmap(NULL, w->len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (w->p == MAP_FAILED) {
		w->p = NULL;
		return -1;
	}
	return 0;
}

static void
view_close(struct view *w)
{
	if (w->p != NULL)
		munmap(w->p, w->len);
	w->p = NULL;
}

/* "MAIL OPTIONS: ['SIZE=12', 'BODY=8BITMIME']", as DebuggingServer does. */
static void
print_options(struct buffer *head, const char *what, const char *options)
{
	const char *separator = ": ['";
	size_t len;

	options += strspn(options, " ");
	if (*options == '\0')
		return;
	buffer_join(head, what, NULL);
	while (*options != '\0') {
		len = strcspn(options, " ");
		buffer_join(head, separator, NULL);
		buffer_add(head, options, len);
		options += len;
		options += strspn(options, " ");
		separator = "', '";
	}
	buffer_join(head, "']\n", NULL);
}

/* Writes what is printed above the message. */
static void
print_head(struct buffer *head, const struct envelope *env)
{
	buffer_join(head, "---------- MESSAGE FOLLOWS ----------\n"
	    "mail from: <", env->fact[FACT_SENDER], ">\n", NULL);
	print_options(head, "mail options", env->fact[FACT_MAIL_OPTIONS]);
	for (size_t i = 0; i < env->nrecipients; i++) {
		buffer_join(head, "rcpt to: <", env->recipients[i].address,
		    ">\n", NULL);
		print_options(head, "rcpt options",
		    env->recipients[i].options);
	}
	buffer_join(head, "-------------------------------------\n", NULL);
}

/*
 * Puts text into s as the journal keeps it.  The journal drops empty lines,
 * such as the one after the header: they get a blank.  It takes "<0>" at a
 * line's beginning for a priority, and would shout the line at every terminal:
 * such a line gets one of ours in front, which it takes in its place.
 */
static void
put_for_journal(struct spool *s, const char *p, size_t len)
{
	size_t n;

	for (; p != NULL && len > 0; p += n, len -= n) {
		n = text_line(p, len);
		if (*p == '\n')
			spool_write(s, " ", 1);
		else if (n > 2 && p[0] == '<' && text_is_digit(p[1]))
			spool_write(s, "<5>", 3);	/* LOG_NOTICE */
		spool_write(s, p, n);
	}
}

/* Writes all of it, with one call if the system lets us, so that what several
   processes print is not mixed.  Returns 0, or -1 with errno. */
static int
write_parts(int fd, struct iovec *part, int n, int64_t deadline)
{
	struct pollfd ready = { .fd = fd, .events = POLLOUT };
	size_t len;
	ssize_t did;

	while (n > 0) {
		did = writev(fd, part, n);
		if (did == -1 && errno == EAGAIN) {
			did = poll(&ready, 1, clock_left(deadline));
			if (did == 0)
				errno = ETIMEDOUT;
			if (did == 0 || (did == -1 && errno != EINTR))
				return -1;
			continue;
		}
		if (did == -1 && errno != EINTR)
			return -1;
		for (len = did > 0 ? (size_t)did : 0; n > 0; part++, n--) {
			if (len < part->iov_len)
				break;
			len -= part->iov_len;
		}
		if (n > 0) {
			part->iov_base = (char *)part->iov_base + len;
			part->iov_len -= len;
		}
	}
	return 0;
}

/* The kinds of the two transports. */
enum { AS_IT_IS, SHOWN };

/* What is to be printed: a message as it is, below head, or as a person reads
   it. */
struct page {
	bool shown;
	struct buffer head;
};

/* Prints to fd what is in a spool.  Returns 0, or -1 with errno. */
static int
print_spool(const struct job *j, int fd, struct spool *s)
{
	struct iovec part;
	struct view w;
	int status;

	if (spool_finish(s) == -1)
		errno = s->error;
	if (s->error != 0 || view_open(&w, s->fd) == -1)
		return -1;
	part = (struct iovec){ w.p, w.len };
	status = write_parts(fd, &part, 1, j->deadline);
	view_close(&w);
	return status;
}

/* Does the journal read what is printed to fd? */
static bool
is_journal(const struct job *j, int fd)
{
	return fd == j->r->set->print && j->r->set->print_journal;
}

/* Prints what a person reads, which is in a spool, as the journal keeps it.
   Returns 0, or -1 with errno. */
static int
print_for_journal(const struct job *j, int fd, struct spool *shown)
{
	struct spool *s = malloc(sizeof *s);
	struct view w;
	int status = -1;

	if (s == NULL)
		return -1;
	spool_open(s, SPOOL_CRLF, NULL, NULL);
	if (spool_finish(shown) == -1)
		errno = shown->error;
	if (shown->error == 0 && view_open(&w, shown->fd) == 0) {
		put_for_journal(s, w.p, w.len);
		view_close(&w);
		status = print_spool(j, fd, s);
	}
	spool_close(s);
	free(s);
	return status;
}

/* Prints head, the message and an end to fd, or the message as a person reads
   it.  Returns 0, or -1 with errno. */
static int
print_page(const struct job *j, int fd, const struct page *page)
{
	static char end[] = "\n------------ END MESSAGE ------------\n";
	void (*put)(struct spool *, const char *, size_t) = NULL;
	struct spool *s = NULL;
	struct iovec part[3];
	struct view w;
	const char *text;
	int status = -1;

	if (view_open(&w, j->spool) == -1)
		return -1;
	if (!page->shown && isatty(fd))
		put = show_visibly;
	else if (!page->shown && is_journal(j, fd))
		put = put_for_journal;
	text = w.p;
	part[0] = (struct iovec){ page->head.p, page->head.len };
	part[1] = (struct iovec){ w.p, w.len };
	part[2].iov_base = end + (w.len == 0 || text[w.len - 1] == '\n');
	part[2].iov_len = strlen(part[2].iov_base);
	if (!page->shown && put == NULL) {
		status = write_parts(fd, part, 3, j->deadline);
	} else if ((s = malloc(sizeof *s)) != NULL) {
		spool_open(s, SPOOL_CRLF, NULL, NULL);
		if (page->shown)
			show_message(s, j->env, (struct span){ w.p, w.len },
			    show_colours(fd));
		if (put != NULL) {
			put(s, page->head.p, page->head.len);
			put(s, w.p, w.len);
			spool_write(s, part[2].iov_base, part[2].iov_len);
		}
		status = page->shown && is_journal(j, fd)
		    ? print_for_journal(j, fd, s) : print_spool(j, fd, s);
		spool_close(s);
	}
	view_close(&w);
	free(s);
	return status;
}

/* Locks all of a file, or a pipe, against others who print.  fcntl(2) knows
   no deadline, so we ask again.  Returns 0, or -1 with errno. */
static int
lock_file(int fd, int64_t deadline)
{
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int left;

	while (fcntl(fd, F_SETLK, &all) == -1) {
		if (errno != EACCES && errno != EAGAIN && errno != EINTR)
			return -1;
		left = clock_left(deadline);
		if (left == 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		poll(NULL, 0, left < LOCK_RETRY ? left : LOCK_RETRY);
	}
	return 0;
}

/* Appends to a file that is locked: all of it, or nothing. */
static int
print_append(const struct job *j, int fd, const struct page *page)
{
	struct stat st;
	int error;

	if (fstat(fd, &st) == -1)
		return -1;
	if (print_page(j, fd, page) == 0)
		return 0;
	error = errno;
	if (S_ISREG(st.st_mode) && ftruncate(fd, st.st_size) == -1)
		logger_printf(&j->r->set->log, LOG_ERR, "relay", j->env,
		    "part of a message is left in the file: %s",
		    strerror(errno));
	errno = error;
	return -1;
}

/* Opens a file to append to, which is made if need be.  A FIFO that nobody
   reads is an error (O_NONBLOCK).  Returns its descriptor, or -1 with errno. */
static int
open_page(const char *file)
{
	return open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC |
	    O_NOCTTY | O_NONBLOCK, 0600);
}

/* Prints to standard error, or appends to a file where one is named.  Returns
   0, or -1 with errno. */
static int
print_to(const struct job *j, const char *file, const struct page *page)
{
	struct flock none = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	int fd = j->r->set->print, status = -1, error;

	if (file != NULL)
		fd = open_page(file);
	/* Standard error may be something that knows no locks. */
	if (fd != -1 && (lock_file(fd, j->deadline) == 0 ||
	    (file == NULL && errno != ETIMEDOUT)))
		status = file != NULL ? print_append(j, fd, page)
		    : print_page(j, fd, page);
	error = errno;
	if (file == NULL)
		fcntl(fd, F_SETLK, &none);
	else
		file_close(&fd);
	errno = error;
	return status;
}

static void
deliver_page(const struct job *j, struct hop *h, struct reply r[])
{
	const char *file = h->where;
	struct page page = { .shown = h->transport->kind == SHOWN };

	if (*file == '\0')
		file = NULL;
	if (file == NULL && j->r->set->print == -1) {
		logger_printf(&j->r->set->log, LOG_ERR, "relay", j->env,
		    "%s: standard error is the client, name a file",
		    h->transport->name);
		reply_config_error(&r[0]);
	} else {
		if (!page.shown)
			print_head(&page.head, j->env);
		if (page.head.failed)
			job_fail(j, h->spec, ENOMEM, &r[0]);
		else if (print_to(j, file, &page) == -1)
			job_fail(j, h->spec, errno, &r[0]);
		free(page.head.p);
	}
	reply_spread(r, j->env->nrecipients);
}

void
print_shown(const struct job *j)
{
	const struct page page = { .shown = true };

	if (print_to(j, NULL, &page) == -1)
		logger_printf(&j->r->set->log, LOG_ERR, "relay", j->env,
		    "--show: %s", strerror(errno));
}

/* Is it the client?  When a message is here, descriptors 0 and 1 are /dev/null:
   it would be lost. */
static bool
is_client(const char *name)
{
	struct stat st, other;

	if (strcmp(name, "-") == 0 || text_starts(name, "/dev/std") ||
	    text_starts(name, "/dev/fd/") ||
	    text_starts(name, "/proc/"))
		return true;
	if (stat(name, &st) == -1)
		return false;
	for (int fd = STDIN_FILENO; fd <= STDOUT_FILENO; fd++)
		if (fstat(fd, &other) == 0 && !isatty(fd) &&
		    st.st_dev == other.st_dev && st.st_ino == other.st_ino)
			return true;
	return false;
}

static bool
check_print(struct hop *h, char *error, size_t size)
{
	if (!is_client(h->where))
		return true;
	snprintf(error, size, "%s: this is no file that a message can be "
	    "appended to; %s: alone is standard error", h->spec,
	    h->transport->name);
	return false;
}

/* Opens the file as a message would, which makes it. */
static void
probe_print(struct relay *r, struct hop *h, struct findings *f)
{
	int fd, flags;

	if (*h->where == '\0') {
		flags = fcntl(r->set->print, F_GETFL);
		if (flags == -1 || (flags & O_ACCMODE) == O_RDONLY)
			findings_add(f, FINDING_BAD, "%s: cannot write to "
			    "standard error", h->transport->name);
		else
			findings_add(f, FINDING_GOOD, "%s: writes to standard "
			    "error", h->transport->name);
		return;
	}
	fd = open_page(h->where);
	if (fd == -1)
		findings_add(f, FINDING_BAD, "%s: %s", h->spec,
		    strerror(errno));
	else
		findings_add(f, FINDING_GOOD, "%s can be written to", h->spec);
	if (fd != -1)
		findings_add_room(f, h->spec, fd);
	file_close(&fd);
}

#define PAGE \
	.reach = LOCAL, .form = SPOOL_LF, .check = check_print, \
	.deliver = deliver_page, .probe = probe_print

const struct transport transport_print = {
	.name = "print", .syntax = "print: print:FILE", .kind = AS_IT_IS, PAGE
};

const struct transport transport_show = {
	.name = "show", .syntax = "show: show:FILE", .kind = SHOWN, PAGE
};
