/*
 * relay.c - takes one envelope and one spooled message and says what became
 * of them, for each recipient.
 *
 * It keeps no queue and tries nothing twice: a verdict below 400 means that
 * somebody else has the message, safely.  What stays within this machine it
 * does itself; next hops and routes are fan.c's.
 *
 * The sections: time, log and verdicts; the spool; hops; print; Maildir;
 * programs (their arguments, their start, their output, their end); the
 * interface.
 */
#define _GNU_SOURCE	/* memfd_create, O_TMPFILE, ppoll, pipe2, syncfs,
			   asprintf, POSIX_SPAWN_SETSID */
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/fan.h"

#define OUTPUT_LINES 50		/* of each of a program's outputs: logged */
#define OUTPUT_READS 64		/* of what is left when a program has ended */
#define TERM_GRACE 2000		/* milliseconds between SIGTERM and SIGKILL */
#define KILL_GRACE 5000		/* and from there until we no longer wait */
#define END_RETRY 20		/* until it is asked again if it has ended */
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

void
reply_accept(struct reply *v, const struct envelope *env)
{
	const char *id = env->fact[FACT_QUEUE_ID];
	char text[128];

	reply_set(v, 250, "2.0.0", text_join(text, sizeof text,
	    "Message accepted", *id != '\0' ? ", id " : "", id, NULL));
}

void
job_fail(const struct job *j, const char *what, int error, struct reply *v)
{
	reply_errno(v, error);
	logger_printf(&j->r->set->log, LOG_ERR, "relay", j->env, "%s: %s", what,
	    strerror(error));
}

/* ---- Hops ---- */

static void take_print(const struct job *j, struct hop *h, struct reply *v);
static void take_maildir(const struct job *j, struct hop *h,
    struct reply *v);
static void take_program(const struct job *j, struct hop *h,
    struct reply *v);

static void
take_nothing(const struct job *j, struct hop *h, struct reply *v)
{
	(void)j;
	(void)h;
	(void)v;
}

static bool
check_anything(struct hop *h, char *error, size_t size)
{
	(void)h;
	(void)error;
	(void)size;
	return true;
}

static bool
check_folder(struct hop *h, char *error, size_t size)
{
	if (*h->where != '\0')
		return true;
	snprintf(error, size, "maildir: needs a folder");
	return false;
}

static bool
check_places(struct hop *h, char *error, size_t size)
{
	if (*h->where != '\0')
		return nexthop_valid(h->transport->protocol, h->where, error,
		    size);
	snprintf(error, size, "%s needs a host or a socket", h->spec);
	return false;
}

/* "error:4.3.0 text", "error:5.1.1 text", "error:text". */
static bool
check_refusal(struct hop *h, char *error, size_t size)
{
	const char *p = h->where;
	size_t len = text_enhanced(p);
	char enh[12] = "5.0.0";

	if (*p == '2' ? len > 0 : len == 0 && text_digits(p) == 1 && p[1] == '.') {
		snprintf(error, size, "%s: the status code must be 4.y.z or "
		    "5.y.z", h->spec);
		return false;
	}
	if (len > 0)
		snprintf(enh, sizeof enh, "%.*s", (int)len, p);
	p += len;
	p += strspn(p, " \t");
	reply_set(&h->refusal, enh[0] == '4' ? 451 : 550, enh,
	    *p != '\0' ? p : "Mail is not accepted for this address");
	return true;
}

static const struct transport transports[] = {
	{ "print", LOCAL, SPOOL_LF, false, 0, check_anything, take_print },
	{ "discard", LOCAL, SPOOL_NONE, false, 0, check_anything,
	    take_nothing },
	{ "maildir", LOCAL, SPOOL_LF, false, 0, check_folder, take_maildir },
	{ "smtp", REMOTE, SPOOL_CRLF, true, NEXTHOP_SMTP, check_places, NULL },
	{ "smtps", REMOTE, SPOOL_CRLF, true, NEXTHOP_SMTPS, check_places,
	    NULL },
	{ "lmtp", REMOTE, SPOOL_CRLF, true, NEXTHOP_LMTP, check_places, NULL },
	{ "error", REFUSAL, SPOOL_NONE, false, 0, check_refusal, NULL },
};

static const struct transport program_transport = {
	"program", LOCAL, SPOOL_LF, true, 0, check_anything, take_program
};

enum spool_form
hop_form(const struct relay *r, const struct hop *h)
{
	if (r->set->crlf && h->transport->form == SPOOL_LF &&
	    h->transport->take != take_print)
		return SPOOL_CRLF;
	return h->transport->form;
}

const struct transport *
hop_transport(const char *spec, char *error, size_t size)
{
	const char *colon = strchr(spec, ':');
	size_t len = colon == NULL ? 0 : (size_t)(colon - spec), i;

	for (i = 0; i < COUNT(transports); i++)
		if (strlen(transports[i].name) == len &&
		    memcmp(transports[i].name, spec, len) == 0)
			return &transports[i];
	snprintf(error, size, "%s: not TRANSPORT:NEXTHOP with one of the "
	    "transports print, discard, maildir, smtp, smtps, lmtp, error",
	    spec);
	return NULL;
}

bool
hop_add(struct relay *r, struct hop *h, const struct transport *t,
    const char *spec, char *error, size_t size)
{
	h->transport = t;
	h->spec = spec;
	h->where = spec + strlen(t->name);
	if (*h->where == ':')
		h->where++;
	h->link = r->hops;
	r->hops = h;
	return t->check(h, error, size);
}

/* ---- print: ---- */

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

/* Puts text into s so that it can not drive a terminal. */
static void
put_visibly(struct spool *s, const char *p, size_t len)
{
	char code[8];
	size_t n, run = 0;

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

/* ---- maildir: ---- */

#define FOLDER_NAME 512	/* octets of "tmp/" and a unique name, with NUL */

/* Opens a Maildir, which is made if need be.  Returns its descriptor, or -1
   with errno. */
static int
folder_open(const char *where)
{
	static const char *const parts[] = { "tmp", "new", "cur" };
	bool made = false;
	int dir, error;
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
	error = errno;
	close(dir);
	errno = error;
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
	char *head = NULL;
	size_t len, i;
	FILE *f = open_memstream(&head, &len);
	int status = -1;

	if (f == NULL)
		return -1;
	fprintf(f, "Return-Path: <%s>%s", j->env->fact[FACT_SENDER], end);
	for (i = 0; i < j->env->nrecipients; i++)
		fprintf(f, "Delivered-To: %s%s", j->env->recipients[i].address,
		    end);
	if (fclose(f) == 0 && file_write_all(fd, head, len) == 0 &&
	    file_copy_all(fd, j->spool) == 0)
		status = fsync(fd);
	free(head);
	return status;
}

/* Links the message from tmp into new, and has that on the disk.  A failure
   leaves it out of new. */
static int
folder_publish(int dir, const char *name)
{
	char published[FOLDER_NAME];
	int new, error;

	snprintf(published, sizeof published, "new/%s", name + strlen("tmp/"));
	new = openat(dir, "new", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (new == -1)
		return -1;
	/* A link replaces nothing; some file systems have none. */
	if (linkat(dir, name, dir, published, 0) == 0 ||
	    ((errno == EPERM || errno == EOPNOTSUPP) &&
	    renameat(dir, name, dir, published) == 0)) {
		if (fsync(new) == 0) {
			close(new);
			return 0;
		}
		error = errno;
		unlinkat(dir, published, 0);
		errno = error;
	}
	error = errno;
	close(new);
	errno = error;
	return -1;
}

static void
take_maildir(const struct job *j, struct hop *h, struct reply *v)
{
	char name[FOLDER_NAME];
	int dir = folder_open(h->where), fd = -1;

	if (dir != -1 && folder_name(j->r, name, sizeof name) == 0)
		fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
		    0600);
	if (fd == -1 || folder_write(j, fd) == -1 ||
	    folder_publish(dir, name) == -1)
		job_fail(j, h->spec, errno, v);
	if (fd != -1) {
		unlinkat(dir, name, 0);
		close(fd);
	}
	if (dir != -1)
		close(dir);
}

/* ---- Programs: their arguments and environment ---- */

/* Further to enum fact: what is known of a message, and not of its session. */
enum {
	ABOUT_SIZE = FACTS,
	ABOUT_RECIPIENT,	/* from here on: of each recipient */
	ABOUT_OPTIONS,
	ABOUT_USER,
	ABOUT_EXTENSION,
	ABOUT_DOMAIN
};

/* The names that each has, as in Postfix's local(8) and pipe(8). */
static const struct name {
	int about;
	const char *variable;	/* in the environment, or NULL */
	const char *argument;	/* in "{...}", or "" */
} names[] = {
#define FACT_ROW(fact, variable, argument, set_by, report) \
	{ FACT_##fact, variable, argument },
	FACT_TABLE(FACT_ROW)
	{ ABOUT_SIZE, "SIZE", "size" },
	{ ABOUT_RECIPIENT, "RECIPIENT", "recipient" },
	{ ABOUT_OPTIONS, "RCPT_OPTIONS", "" },
	{ ABOUT_USER, NULL, "user" },
	{ ABOUT_EXTENSION, NULL, "extension" },
	{ ABOUT_DOMAIN, NULL, "domain" },
};

/* Ours, and nothing to a program: what systemd told the service.  A name that
   ends in '_' stands for all that begin with it. */
static const char *const private_variables[] = {
	"LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM",
	"INVOCATION_ID", "SYSTEMD_EXEC_PID", "MAINPID", "MANAGERPID", "FDSTORE",
	"MEMORY_PRESSURE_",
};

/* Strings for exec. */
struct vector {
	char **s;	/* each owned, NULL after the last */
	size_t n;
};

/* Takes text, which may be NULL for want of memory.  Returns false then. */
static bool
vector_take(struct vector *vec, char *text)
{
	char **rows = text != NULL ?
	    table_grow(vec->s, vec->n + 1, sizeof *rows) : NULL;

	if (rows == NULL) {
		free(text);
		return false;
	}
	rows[vec->n++] = text;
	rows[vec->n] = NULL;
	vec->s = rows;
	return true;
}

static void
vector_free(struct vector *vec)
{
	while (vec->n > 0)
		free(vec->s[--vec->n]);
	free(vec->s);
	vec->s = NULL;
}

/* What is known about recipient i.  Its length goes to *len. */
static const char *
about_recipient(const struct envelope *env, int about, size_t i, size_t *len)
{
	const char *address = env->recipients[i].address;
	const char *at = strrchr(address, '@'), *end, *plus;

	end = at != NULL ? at : address + strlen(address);
	plus = memchr(address, '+', (size_t)(end - address));
	if (plus == NULL || plus == address)
		plus = end;
	switch (about) {
	case ABOUT_USER:
		*len = (size_t)(plus - address);
		return address;
	case ABOUT_EXTENSION:
		plus += plus < end;
		*len = (size_t)(end - plus);
		return plus;
	case ABOUT_DOMAIN:
		end += *end == '@';
		*len = strlen(end);
		return end;
	case ABOUT_OPTIONS:
		address = env->recipients[i].options;
		break;
	}
	*len = strlen(address);
	return address;
}

/* Writes what is known about recipient i, or the message, to f. */
static void
write_about(FILE *f, const struct envelope *env, int about, size_t i)
{
	const char *p;
	size_t len;

	if (about == ABOUT_SIZE) {
		fprintf(f, "%" PRIu64, env->size);
	} else if (about < FACTS) {
		fputs(env->fact[about], f);
	} else {
		p = about_recipient(env, about, i, &len);
		fwrite(p, 1, len, f);
	}
}

/* The name of "{name}" at p, with the length of all of it in *len: 0 if there
   is no such thing at p; NULL if the name is not known. */
static const struct name *
placeholder(const char *p, size_t *len)
{
	size_t n, i;

	*len = 0;
	if (*p != '{')
		return NULL;
	n = strspn(p + 1, "abcdefghijklmnopqrstuvwxyz_");
	if (n == 0 || p[1 + n] != '}')
		return NULL;
	*len = n + 2;
	for (i = 0; i < COUNT(names); i++)
		if (names[i].argument[0] != '\0' &&
		    strlen(names[i].argument) == n &&
		    strncmp(names[i].argument, p + 1, n) == 0)
			return &names[i];
	return NULL;
}

/* Checks the arguments.  False with a sentence in error[0..size). */
static bool
check_program(char *const argv[], char *error, size_t size)
{
	const char *p;
	size_t i, len;

	if (argv[0] == NULL || *argv[0] == '\0') {
		snprintf(error, size, "no program is named");
		return false;
	}
	for (i = 0; argv[i] != NULL; i++)
		for (p = argv[i]; *p != '\0'; p += len + (len == 0)) {
			if (placeholder(p, &len) != NULL && i > 0)
				continue;
			if (len == 0)
				continue;
			snprintf(error, size, i > 0 ?
			    "%.*s is not a name that can be replaced" :
			    "%.*s can not be the program", (int)len, p);
			return false;
		}
	return true;
}

/* Is it to be repeated for each recipient, as in pipe(8)? */
static bool
repeats(const char *template)
{
	const struct name *name;
	size_t len;

	for (; *template != '\0'; template += len + (len == 0)) {
		name = placeholder(template, &len);
		if (name != NULL && name->about >= ABOUT_RECIPIENT)
			return true;
	}
	return false;
}

/* template with its names replaced, for recipient i.  NULL: no memory. */
static char *
expand(const char *template, const struct envelope *env, size_t i)
{
	const struct name *name;
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL)
		return NULL;
	for (; *template != '\0'; template += len + (len == 0)) {
		name = placeholder(template, &len);
		if (name != NULL)
			write_about(f, env, name->about, i);
		else
			putc(*template, f);
	}
	if (fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}

/*
 * Builds a program's arguments.  Returns false with *v changed if that can
 * not be done.  What a client said must not become an option: a program that
 * can tell has it behind something of the administrator's own.
 */
static bool
build_arguments(const struct job *j, struct vector *vec, struct reply *v)
{
	char *const *argv = j->r->set->program;
	size_t i, n;

	for (; *argv != NULL; argv++) {
		n = repeats(*argv) ? j->env->nrecipients : 1;
		for (i = 0; i < n; i++) {
			if (!vector_take(vec, expand(*argv, j->env, i))) {
				job_fail(j, *argv, ENOMEM, v);
				return false;
			}
			if (**argv != '{' || *vec->s[vec->n - 1] != '-')
				continue;
			reply_printf(v, 550, "5.7.1", "A name must not begin "
			    "with a hyphen: %s", vec->s[vec->n - 1]);
			return false;
		}
	}
	return true;
}

/* Is "NAME=value" one that a program does not inherit? */
static bool
hidden(const char *variable)
{
	size_t len = strcspn(variable, "="), n, i;

	for (i = 0; i < COUNT(names); i++)
		if (names[i].variable != NULL &&
		    strlen(names[i].variable) == len &&
		    strncmp(names[i].variable, variable, len) == 0)
			return true;
	for (i = 0; i < COUNT(private_variables); i++) {
		n = strlen(private_variables[i]);
		if (strncmp(private_variables[i], variable, n) == 0 &&
		    (n == len || private_variables[i][n - 1] == '_'))
			return true;
	}
	return false;
}

/* "NAME=value"; what each recipient has of it is separated by newlines. */
static char *
variable(const struct name *name, const struct envelope *env)
{
	size_t n = name->about < ABOUT_RECIPIENT ? 1 : env->nrecipients;
	char *text = NULL;
	size_t len, i;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL)
		return NULL;
	fprintf(f, "%s=", name->variable);
	for (i = 0; i < n; i++) {
		if (i > 0)
			putc('\n', f);
		write_about(f, env, name->about, i);
	}
	if (fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}

/* Builds a program's environment.  False: no memory. */
static bool
build_environment(const struct envelope *env, struct vector *vec)
{
	char **p;
	size_t i;

	for (p = environ; *p != NULL; p++)
		if (!hidden(*p) && !vector_take(vec, strdup(*p)))
			return false;
	for (i = 0; i < COUNT(names); i++)
		if (names[i].variable != NULL &&
		    !vector_take(vec, variable(&names[i], env)))
			return false;
	return true;
}

/* ---- Programs: their start ---- */

/* What a program writes to one descriptor, taken line by line. */
struct talk {
	int fd;			/* our end, never blocking; owned */
	int priority;		/* of its lines in the log */
	bool reply;		/* the first line is not logged: see first */
	bool heard;		/* a first line was there */
	unsigned long lines;	/* for the log */
	size_t len;		/* octets in line; the rest of it is dropped */
	char line[REPLY_TEXT];
	char first[REPLY_TEXT];
};

struct run {
	pid_t pid;
	int status;		/* as wait(2) has it */
	bool late;		/* had to be stopped at the deadline */
	struct talk out, err;
};

/* A pipe whose reading end does not block. */
static int
make_pipe(int end[2])
{
	if (pipe2(end, O_CLOEXEC) == -1)
		return -1;
	return fcntl(end[0], F_SETFL, O_NONBLOCK);
}

/* How a program is started: with nothing of ours but given[0..2] as its
   descriptors 0 to 2.  Returns 0, or an errno, exec's too. */
static int
spawn(pid_t *pid, char *const argv[], char *const envp[], const int given[3])
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t how;
	sigset_t all, none;
	int error, n;

	if ((error = posix_spawn_file_actions_init(&files)) != 0)
		return error;
	assert(argv != NULL);
	if ((error = posix_spawnattr_init(&how)) != 0) {
		posix_spawn_file_actions_destroy(&files);
		return error;
	}
	/* sigfillset() would leave out two that libc keeps for itself, and
	   the program would begin with them ignored. */
	memset(&all, 0xff, sizeof all);
	sigemptyset(&none);
	posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSID |
	    POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigdefault(&how, &all);
	posix_spawnattr_setsigmask(&how, &none);
	for (n = 0; n < 3 && error == 0; n++)
		error = posix_spawn_file_actions_adddup2(&files, given[n], n);
	if (error == 0)
		error = posix_spawn_file_actions_addclosefrom_np(&files, 3);
	if (error == 0)
		error = posix_spawnp(pid, argv[0], &files, &how, argv, envp);
	posix_spawnattr_destroy(&how);
	posix_spawn_file_actions_destroy(&files);
	return error;
}

/*
 * Starts argv with spool, rewound, as its standard input.  Returns 0, or an
 * errno; the caller closes what is open in run either way.
 */
static int
start(struct run *run, int spool, char *const argv[], char *const envp[])
{
	int out[2] = { -1, -1 }, err[2] = { -1, -1 };
	int given[3] = { -1, -1, -1 }, error = 0, n;

	if (lseek(spool, 0, SEEK_SET) == -1 || make_pipe(out) == -1 ||
	    make_pipe(err) == -1)
		error = errno;
	/* Out of the way: any of them may be a number that is wanted. */
	for (n = 0; n < 3 && error == 0; n++) {
		given[n] = fcntl(n == 0 ? spool : n == 1 ? out[1] : err[1],
		    F_DUPFD_CLOEXEC, 3);
		if (given[n] == -1)
			error = errno;
	}
	if (error == 0)
		error = spawn(&run->pid, argv, envp, given);
	run->out.fd = out[0];
	run->err.fd = err[0];
	for (n = 0; n < 3; n++)
		if (given[n] != -1)
			close(given[n]);
	if (out[1] != -1)
		close(out[1]);
	if (err[1] != -1)
		close(err[1]);
	return error;
}

/* ---- Programs: their output ---- */

/* The line is complete. */
static void
end_line(const struct job *j, struct talk *t)
{
	if (t->len > 0 && t->line[t->len - 1] == '\r')
		t->len--;
	t->line[t->len] = '\0';
	if (t->reply && !t->heard)
		memcpy(t->first, t->line, t->len + 1);
	else if (++t->lines <= OUTPUT_LINES)
		logger_printf(&j->r->set->log, t->priority, "program", j->env,
		    "%s: %s", j->r->set->program[0], t->line);
	t->heard = true;
	t->len = 0;
}

static void
take_text(const struct job *j, struct talk *t, const char *p, size_t len)
{
	const char *end;
	size_t n, room;

	while (len > 0) {
		end = memchr(p, '\n', len);
		n = end != NULL ? (size_t)(end - p) : len;
		room = sizeof t->line - 1 - t->len;
		memcpy(t->line + t->len, p, n < room ? n : room);
		t->len += n < room ? n : room;
		if (end != NULL) {
			end_line(j, t);
			n++;
		}
		p += n;
		len -= n;
	}
}

/* Reads what is there, once.  False if there was nothing, or the end. */
static bool
listen_to(const struct job *j, struct talk *t)
{
	char buffer[16384];
	ssize_t n;

	if (t->fd == -1)
		return false;
	n = read(t->fd, buffer, sizeof buffer);
	if (n > 0) {
		take_text(j, t, buffer, (size_t)n);
		return true;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		close(t->fd);
		t->fd = -1;
	}
	return false;
}

/*
 * The program has ended: takes what is left, and no more than a pipe holds,
 * for something that it started may go on writing.
 */
static void
end_talk(const struct job *j, struct talk *t)
{
	int reads;

	for (reads = 0; reads < OUTPUT_READS && listen_to(j, t); reads++)
		;
	if (t->len > 0)
		end_line(j, t);
	if (t->lines > OUTPUT_LINES)
		logger_printf(&j->r->set->log, t->priority, "program", j->env,
		    "%s: %lu more lines", j->r->set->program[0],
		    t->lines - OUTPUT_LINES);
	if (t->fd != -1)
		close(t->fd);
	t->fd = -1;
}

/* ---- Programs: their end ---- */

/* Has the child ended?  It stays unreaped, so that its number, which is its
   group's too, can not become somebody else's.  -1: that can not be told. */
static int
ended(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == -1)
		return errno == ECHILD ? 1 : -1;
	return info.si_pid == pid;
}

static void
stop(pid_t pid, int signal)
{
	kill(-pid, signal);	/* it began its own session, so its own group */
}

/*
 * Waits for the program, and takes its output meanwhile; at the deadline stops
 * it, more and more firmly.  SIGCHLD is blocked but in ppoll(): no wake-up is
 * lost.  False if it can not even be killed.
 */
static bool
wait_for(const struct job *j, struct run *run, const sigset_t *mask)
{
	static const struct {
		int signal;
		int grace;	/* milliseconds */
	} steps[] = { { SIGTERM, TERM_GRACE }, { SIGKILL, KILL_GRACE } };
	int64_t deadline = j->deadline;
	struct pollfd p[2];
	struct timespec left;
	size_t step = 0;
	int end, ms;

	while ((end = ended(run->pid)) != 1) {
		ms = clock_left(deadline);
		if (ms == 0 && step == COUNT(steps))
			return false;
		if (ms == 0) {
			run->late = true;
			stop(run->pid, steps[step].signal);
			deadline = clock_now() + steps[step++].grace;
			continue;
		}
		/* Its signal may have come already. */
		if (end == -1 && ms > END_RETRY)
			ms = END_RETRY;
		left.tv_sec = ms / 1000;
		left.tv_nsec = ms % 1000 * 1000000L;
		p[0] = (struct pollfd){ .fd = run->out.fd, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = run->err.fd, .events = POLLIN };
		if (ppoll(p, 2, &left, mask) <= 0)
			continue;
		if (p[0].revents != 0)
			listen_to(j, &run->out);
		if (p[1].revents != 0)
			listen_to(j, &run->err);
	}
	return true;
}

static void
wake(int signal)
{
	(void)signal;	/* that it comes is all: ppoll() returns */
}

/* Runs it to its end.  Returns 0, or exec's errno or that of starting it. */
static int
run_program(const struct job *j, struct run *run, char *const argv[],
    char *const envp[])
{
	struct sigaction action = { .sa_handler = wake }, old_action;
	sigset_t child, mask, old_mask;
	int error;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &old_mask);
	mask = old_mask;
	sigdelset(&mask, SIGCHLD);
	sigaction(SIGCHLD, &action, &old_action);
	error = start(run, j->spool, argv, envp);
	if (error == 0) {
		if (!wait_for(j, run, &mask))
			logger_printf(&j->r->set->log, LOG_CRIT, "program",
			    j->env, "%s: process %jd can not be killed",
			    argv[0], (intmax_t)run->pid);
		if (run->late)
			stop(run->pid, SIGKILL);
		if (waitpid(run->pid, &run->status, WNOHANG) == -1)
			error = errno;
	}
	end_talk(j, &run->out);
	end_talk(j, &run->err);
	sigaction(SIGCHLD, &old_action, NULL);
	sigprocmask(SIG_SETMASK, &old_mask, NULL);
	return error;
}

#define ANY_STATUS -1

/* What a program's exit status means: sysexits(3). */
static const struct outcome {
	int status;
	int code;
	const char *enh;
	const char *text;
} outcomes[] = {
	{ EX_OK, 250, "2.0.0", NULL },
	{ EX_NOUSER, 550, "5.1.1", "No such user" },
	{ EX_NOHOST, 550, "5.1.2", "No such host" },
	{ EX_DATAERR, 554, "5.6.0", "The message is not acceptable" },
	{ EX_NOPERM, 550, "5.7.1", "Not permitted" },
	{ EX_UNAVAILABLE, 554, "5.3.0", "Mail is not accepted here" },
	{ EX_TEMPFAIL, 451, "4.3.0", "Try again later" },
	{ EX_OSERR, 451, "4.3.0", "Local error in processing" },
	{ EX_CONFIG, 451, "4.3.5", "Local configuration error" },
	{ ANY_STATUS, 451, "4.3.0", "Local error in processing" },
};

/* How many octets of line are "250", "450 " or "550 5.1.1 ", with the numbers
   in *code and enh[12].  0: it does not begin with a reply's code. */
static size_t
reply_code(const char *line, int *code, char *enh)
{
	size_t len;

	if (strspn(line, "0123456789") != 3 || strchr("245", *line) == NULL ||
	    (line[3] != '\0' && line[3] != ' '))
		return 0;
	*code = (line[0] - '0') * 100 + (line[1] - '0') * 10 + line[2] - '0';
	len = 3 + strspn(line + 3, " ");
	snprintf(enh, 12, "%c.0.0", *line);
	if (text_enhanced(line + len) == 0)
		return len;
	snprintf(enh, 12, "%.*s", (int)text_enhanced(line + len), line + len);
	len += text_enhanced(line + len);
	return len + strspn(line + len, " ");
}

/*
 * What became of a program that exited and said line first.  Its status
 * decides whether it has the message; a line may explain that, or refuse it
 * in other words, or make a success a refusal, and never the other way round.
 * If one of the two is temporary, so is the verdict; but a status that has no
 * meaning of its own leaves that to the line.
 */
static void
judge(const struct job *j, int status, const char *line, struct reply *v)
{
	const struct outcome *o = outcomes;
	char enh[12];
	int code;
	size_t len;

	while (o->status != ANY_STATUS && o->status != status)
		o++;
	if (o->text != NULL)
		reply_set(v, o->code, o->enh, o->text);
	if (o->status == ANY_STATUS || o->status == EX_CONFIG)
		logger_printf(&j->r->set->log, LOG_ERR, "program", j->env,
		    "%s: exit status %d", j->r->set->program[0], status);
	len = reply_code(line, &code, enh);
	if (len == 0) {
		if (*line != '\0')
			reply_set(v, o->code, o->enh, line);
		return;
	}
	if (code < 300 && o->code >= 400) {
		logger_printf(&j->r->set->log, LOG_WARNING, "program", j->env,
		    "%s: said \"%s\" and exited with %d",
		    j->r->set->program[0], line, status);
		return;
	}
	if (code < 300)
		code = 250;	/* no other 2yz can answer a message */
	if (code >= 500 && o->code < 500 && o->code >= 400 &&
	    o->status != ANY_STATUS) {
		code = o->code;
		snprintf(enh, sizeof enh, "%s", o->enh);
	}
	line += len;
	reply_set(v, code, enh, *line != '\0' ? line : v->text);
}

static void
take_program(const struct job *j, struct hop *h, struct reply *v)
{
	struct vector argv = { NULL, 0 }, envp = { NULL, 0 };
	struct run *run = calloc(1, sizeof *run);
	const char *name = j->r->set->program[0];
	int error;

	(void)h;
	if (run == NULL || !build_environment(j->env, &envp)) {
		job_fail(j, name, ENOMEM, v);
		goto out;
	}
	if (!build_arguments(j, &argv, v))
		goto out;
	run->out.priority = LOG_INFO;
	run->out.reply = true;
	run->err.priority = LOG_NOTICE;
	error = run_program(j, run, argv.s, envp.s);
	if (error != 0) {
		job_fail(j, name, error, v);
	} else if (run->late) {
		logger_printf(&j->r->set->log, LOG_ERR, "program", j->env,
		    "%s: stopped after %u seconds", name, j->r->set->timeout);
		reply_set(v, 451, "4.3.0", "The relay took too long");
	} else if (!WIFEXITED(run->status)) {
		logger_printf(&j->r->set->log, LOG_ERR, "program", j->env,
		    "%s: killed by signal %d", name, WTERMSIG(run->status));
		reply_set(v, 451, "4.3.0", "Local error in processing");
	} else {
		judge(j, WEXITSTATUS(run->status), run->out.first, v);
	}
out:
	vector_free(&argv);
	vector_free(&envp);
	free(run);
}

/* ---- The interface ---- */

static int
file_open(const char *name)
{
	return name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
}

struct relay *
relay_open(const struct relay_settings *set, char *error, size_t size)
{
	static struct relay only;	/* as monitor_open()'s */
	const struct transport *t = NULL;
	const char *spec = set->spec;
	struct relay *r = &only;

	memset(r, 0, sizeof *r);
	r->set = set;
	r->routes_file = file_open(set->routes);
	r->auth_file = file_open(set->auth);
	if (spec != NULL) {
		t = hop_transport(spec, error, size);
	} else if (check_program(set->program, error, size)) {
		t = &program_transport;
		spec = "program:";
	}
	if (t != NULL && hop_add(r, &r->usual, t, spec, error, size))
		return r;
	relay_close(r);
	return NULL;
}

enum spool_form
relay_form(const struct relay *r)
{
	/* A route may lead to a next hop, and LF can be had from CRLF. */
	return r->set->routes != NULL ? SPOOL_CRLF : hop_form(r, &r->usual);
}

bool
relay_dsn(const struct relay *r)
{
	return r->usual.transport->dsn;
}

bool
relay_screens(const struct relay *r)
{
	return r->set->routes != NULL || r->usual.transport->kind == REFUSAL;
}

void
relay_rcpt(struct relay *r, const struct envelope *env, struct reply *v)
{
	if (r->set->routes != NULL)
		fan_rcpt(r, env, v);
	else if (r->usual.transport->kind == REFUSAL)
		*v = r->usual.refusal;
}

void
relay_deliver(struct relay *r, const struct envelope *env, int spool,
    struct reply v[])
{
	const struct job j = {
		.r = r, .env = env, .spool = spool,
		.deadline = clock_now() + (int64_t)r->set->timeout * 1000
	};
	struct hop *h = &r->usual;

	if (env->nrecipients == 0)
		return;
	if (r->set->routes != NULL || h->transport->kind == REMOTE) {
		fan_out(&j, v);
		return;
	}
	reply_accept(&v[0], env);
	if (h->transport->kind == REFUSAL)
		v[0] = h->refusal;
	else
		h->transport->take(&j, h, &v[0]);
	reply_spread(v, env->nrecipients);
}

void
relay_close(struct relay *r)
{
	struct hop *h;

	if (r == NULL)
		return;
	while ((h = r->hops) != NULL) {
		r->hops = h->link;
		nexthop_close(h->next);
		if (h != &r->usual)
			free(h);
	}
	routes_close(r->table);
	if (r->routes_file != -1)
		close(r->routes_file);
	if (r->auth_file != -1)
		close(r->auth_file);
}
