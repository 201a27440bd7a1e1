/*
 * findings.h - what --check finds: one line for each thing that was looked at.
 */
#ifndef BASE_FINDINGS_H
#define BASE_FINDINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct envelope;

enum finding {
	FINDING_GOOD,
	FINDING_DOUBT,		/* mail flows, but something is wrong */
	FINDING_BAD,		/* some mail would be refused or deferred */
	FINDINGS
};

struct findings {
	struct found_line {
		enum finding kind;
		char *text;
	} *lines;		/* owned, as their texts are */
	size_t n;
	bool connect;		/* also connect to next hops and services */
	bool early;		/* what other services provide may come later */
	bool lost;		/* there was no memory for a line */
	bool verifies;		/* certificates of next hops will be, by the
				   authorities */
	int64_t deadline;	/* for all that is looked up, as clock_now()
				   counts; with connect each thing has one of
				   its own: see findings_deadline() */
};

#define FINDINGS_PATIENCE 60	/* seconds */

/* Adds a line; a newline and what follows it are left out. */
void	findings_add(struct findings *f, enum finding kind,
	    const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* For lines whose kind depends on those after them: a place like f to keep them
   in, and to move them from to f, none worse than worst. */
struct findings findings_apart(const struct findings *f);
void	findings_move(struct findings *f, struct findings *from,
	    enum finding worst);

/* Takes away the last line, if it is a doubt that came after the first n, and
   writes "; " and its text to to[0..size), else "": what was logged is the
   reason of what will be added.  Returns to. */
const char *findings_take_reason(struct findings *f, size_t n, char *to,
	    size_t size);

/* The kind of what another service does not provide now, with that errno, or
   0 where it is a name that cannot be resolved: FINDING_BAD; where f is early
   only what will not mend by itself. */
enum finding findings_absence(const struct findings *f, int error);

/* Until when the next thing may take.  One that never answers takes nothing
   from those after it where connect is set. */
int64_t	findings_deadline(const struct findings *f);

/* How many lines of that kind there are. */
size_t	findings_count(const struct findings *f, enum finding kind);

/* A struct logger's function, with the findings as ctx: errors become bad
   lines, warnings doubts, what is less is nothing. */
void	findings_log(void *ctx, int priority, const char *event,
	    const struct envelope *env, const char *text);

/* Adds a line where what, open as fd, is on a file system without any room.  It
   may have some later: see findings_absence(). */
void	findings_add_room(struct findings *f, const char *what, int fd);

/* Adds a doubt where every user of this host can read the file name, which has
   a secret and is open as fd. */
void	findings_add_secret(struct findings *f, const char *name, int fd);

/* Adds whether this process may execute that program, which is looked for in
   PATH if it has no slash, as execvp(3) does. */
void	findings_add_program(struct findings *f, const char *what,
	    const char *program);

#endif
