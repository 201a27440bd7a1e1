/*
 * print.c - "print:" shows a message on standard error, or appends it to a
 * file.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
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
print_options(FILE *f, const char *what, const char *options)
{
	const char *separator = ": [";
	size_t len;

	options += strspn(options, " ");
	if (*options == '\0')
		return;
	fputs(what, f);
	while (*options != '\0') {
		len = strcspn(options, " ");
		fprintf(f, "%s'%.*s'", separator, (int)len, options);
		options += len;
		options += strspn(options, " ");
		separator = ", ";
	}
	fputs("]\n", f);
}

/* What is printed above the message: *len octets to be freed, or NULL. */
static char *
print_head(const struct envelope *env, size_t *len)
{
	char *head = NULL;
	FILE *f = open_memstream(&head, len);
	size_t i;

	if (f == NULL)
		return NULL;
	fputs("---------- MESSAGE FOLLOWS ----------\n", f);
	fprintf(f, "mail from: <%s>\n", env->fact[FACT_SENDER]);
	print_options(f, "mail options", env->fact[FACT_MAIL_OPTIONS]);
	for (i = 0; i < env->nrecipients; i++) {
		fprintf(f, "rcpt to: <%s>\n", env->recipients[i].address);
		print_options(f, "rcpt options", env->recipients[i].options);
	}
	fputs("-------------------------------------\n", f);
	if (fclose(f) == 0)
		return head;
	free(head);
	return NULL;
}

/* Puts text into s so that it cannot drive a terminal. */
static void
put_visibly(struct spool *s, const char *p, size_t len)
{
	char code[8];
	size_t n, run = 0;

	assert(p != NULL || len == 0);
	while (run < len) {
		n = text_printable(p + run, len - run);
		if (n == 0 && (p[run] == '\n' || p[run] == '\t'))
			n = 1;
		run += n;
		if (n > 0)
			continue;
		spool_write(s, p, run);
		snprintf(code, sizeof code, "\\x%02x", (unsigned char)p[run]);
		spool_write(s, code, strlen(code));
		p += run + 1;
		len -= run + 1;
		run = 0;
	}
	spool_write(s, p, run);
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

/* Prints head, the message and an end to fd.  Returns 0, or -1 with errno. */
static int
print_parts(const struct job *j, int fd, char *head, size_t len)
{
	static char end[] = "\n------------ END MESSAGE ------------\n";
	struct spool *shown = NULL;
	struct view w;
	struct iovec part[3];
	const char *text;
	size_t skip;
	int status = -1;

	if (view_open(&w, j->spool) == -1)
		return -1;
	text = w.p;
	skip = w.len == 0 || text[w.len - 1] == '\n';
	part[0] = (struct iovec){ head, len };
	part[1] = (struct iovec){ w.p, w.len };
	part[2] = (struct iovec){ end + skip, strlen(end + skip) };
	if (isatty(fd)) {
		shown = malloc(sizeof *shown);
		if (shown == NULL)
			goto out;
		spool_open(shown, SPOOL_CRLF, NULL, NULL);
		put_visibly(shown, head, len);
		put_visibly(shown, text, w.len);
		view_close(&w);
		if (spool_finish(shown) == -1)
			errno = shown->error;
		if (shown->error != 0 || view_open(&w, shown->fd) == -1)
			goto out;
		part[0].iov_len = 0;
		part[1] = (struct iovec){ w.p, w.len };
	}
	status = write_parts(fd, part, 3, j->deadline);
out:
	view_close(&w);
	if (shown != NULL)
		spool_close(shown);
	free(shown);
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
print_append(const struct job *j, int fd, char *head, size_t len)
{
	struct stat st;
	int error;

	if (fstat(fd, &st) == -1)
		return -1;
	if (print_parts(j, fd, head, len) == 0)
		return 0;
	error = errno;
	if (S_ISREG(st.st_mode) && ftruncate(fd, st.st_size) == -1)
		logger_printf(&j->r->set->log, LOG_ERR, "relay", j->env,
		    "part of a message is left in the file: %s",
		    strerror(errno));
	errno = error;
	return -1;
}

static void
take_print(const struct job *j, struct hop *h, struct reply *v)
{
	struct flock none = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	bool file = *h->where != '\0';
	int fd = j->r->set->print;
	size_t len;
	char *head;

	if (!file && fd == -1) {
		logger_printf(&j->r->set->log, LOG_ERR, "relay", j->env,
		    "print: standard error is the client, name a file");
		reply_set(v, 451, "4.3.5", "Local configuration error");
		return;
	}
	head = print_head(j->env, &len);
	if (head == NULL) {
		job_fail(j, h->spec, ENOMEM, v);
		return;
	}
	if (file)	/* O_NONBLOCK: a FIFO that nobody reads is an error */
		fd = open(h->where, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC |
		    O_NOCTTY | O_NONBLOCK, 0600);
	/* Standard error may be something that knows no locks. */
	if (fd == -1 || (lock_file(fd, j->deadline) == -1 &&
	    (file || errno == ETIMEDOUT)) ||
	    (file ? print_append : print_parts)(j, fd, head, len) == -1)
		job_fail(j, h->spec, errno, v);
	if (file && fd != -1)
		close(fd);
	else if (!file)
		fcntl(fd, F_SETLK, &none);
	free(head);
}

static void
deliver_print(const struct job *j, struct hop *h, struct reply r[])
{
	take_print(j, h, &r[0]);
	reply_spread(r, j->env->nrecipients);
}

/* Is it the client?  When a message is here, descriptors 0 and 1 are /dev/null:
   it would be lost. */
static bool
is_client(const char *name)
{
	struct stat st, other;

	if (strcmp(name, "-") == 0 || strncmp(name, "/dev/std", 8) == 0 ||
	    strncmp(name, "/dev/fd/", 8) == 0 ||
	    strncmp(name, "/proc/", 6) == 0)
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
	    "appended to; print: alone is standard error", h->spec);
	return false;
}

/* Opens the file as a message would, which makes it. */
static void
probe_print(struct relay *r, struct hop *h, struct findings *f)
{
	int fd;

	(void)r;
	if (*h->where == '\0') {
		findings_add(f, FINDING_GOOD, "print: writes to standard error");
		return;
	}
	fd = open(h->where, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC |
	    O_NOCTTY | O_NONBLOCK, 0600);
	if (fd == -1)
		findings_add(f, FINDING_BAD, "%s: %s", h->spec,
		    strerror(errno));
	else
		findings_add(f, FINDING_GOOD, "%s can be written to", h->spec);
	if (fd != -1)
		close(fd);
}

const struct transport transport_print = {
	.name = "print", .syntax = "print: print:FILE", .reach = LOCAL,
	.form = SPOOL_LF, .check = check_print, .deliver = deliver_print,
	.probe = probe_print,
};
