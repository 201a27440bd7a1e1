/*
 * findings.c - what --check finds.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <syslog.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/executable.h"
#include "base/file.h"
#include "base/findings.h"

#define FOUND_TEXT 8192		/* octets of a line, with NUL */

void
findings_add(struct findings *f, enum finding kind, const char *fmt, ...)
{
	struct found_line *more;
	struct buffer copy = { .p = NULL };
	char text[FOUND_TEXT], *whole;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	text[strcspn(text, "\n")] = '\0';
	/* One mistake may be met on several ways. */
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->lines[i].text, text) == 0) {
			if (f->lines[i].kind < kind)
				f->lines[i].kind = kind;
			return;
		}
	more = table_grow(f->lines, f->n, sizeof *more);
	buffer_join(&copy, text, NULL);
	whole = buffer_take(&copy);
	if (more != NULL)
		f->lines = more;
	if (more == NULL || whole == NULL) {
		f->lost = true;
		free(whole);
		return;
	}
	f->lines[f->n++] = (struct found_line){ kind, whole };
}

struct findings
findings_apart(const struct findings *f)
{
	return (struct findings){ .connect = f->connect, .early = f->early,
		.deadline = f->deadline };
}

void
findings_move(struct findings *f, struct findings *from, enum finding worst)
{
	struct found_line *line;

	for (size_t i = 0; i < from->n; i++) {
		line = &from->lines[i];
		findings_add(f, line->kind < worst ? line->kind : worst, "%s",
		    line->text);
		free(line->text);
	}
	free(from->lines);
	f->lost = f->lost || from->lost;
	*from = findings_apart(f);
}

const char *
findings_take_reason(struct findings *f, size_t n, char *to, size_t size)
{
	to[0] = '\0';
	if (f->n > n && f->lines[f->n - 1].kind == FINDING_DOUBT) {
		f->n--;
		snprintf(to, size, "; %s", f->lines[f->n].text);
		free(f->lines[f->n].text);
	}
	return to;
}

enum finding
findings_absence(const struct findings *f, int error)
{
	return f->early && (error == 0 || error == ENOENT ||
	    error == ECONNREFUSED || error == EAGAIN || error == ETIMEDOUT)
	    ? FINDING_DOUBT : FINDING_BAD;
}

int64_t
findings_deadline(const struct findings *f)
{
	return f->connect ? clock_after(FINDINGS_PATIENCE) : f->deadline;
}

size_t
findings_count(const struct findings *f, enum finding kind)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n; i++)
		n += f->lines[i].kind == kind;
	return n;
}

void
findings_log(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	(void)event;
	(void)env;
	if (priority <= LOG_WARNING)
		findings_add(ctx, priority <= LOG_ERR ? FINDING_BAD
		    : FINDING_DOUBT, "%s", text);
}

void
findings_add_room(struct findings *f, const char *what, int fd)
{
	struct statvfs s;

	if (fstatvfs(fd, &s) == 0 && s.f_blocks > 0 && (s.f_bavail == 0 ||
	    (s.f_files > 0 && s.f_favail == 0)))
		findings_add(f, f->early ? FINDING_DOUBT : FINDING_BAD,
		    "%s: %s%s", what, strerror(ENOSPC), s.f_bavail == 0 ? ""
		    : ", for it has no inodes left");
}

void
findings_add_secret(struct findings *f, const char *name, int fd)
{
	struct stat st;

	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    (st.st_mode & S_IROTH) != 0)
		findings_add(f, FINDING_DOUBT, "every user of this host can "
		    "read %s: chmod o= %s", name, name);
}

void
findings_add_program(struct findings *f, const char *what,
    const char *program)
{
	char why[512];

	if (executable_fault(program, why, sizeof why) == 0)
		findings_add(f, FINDING_GOOD, "%s%s can be executed", what,
		    program);
	else
		findings_add(f, FINDING_BAD, "%s%s: %s", what, program, why);
}
