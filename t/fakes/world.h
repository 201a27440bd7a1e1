/*
 * world.h - what a test of the relay room has around it: a directory, a
 * journal, an envelope, and relays that are opened for one message.
 */
#ifndef WORLD_H
#define WORLD_H

#include <sys/types.h>

#include <stdbool.h>
#include <stddef.h>

#include "relay.h"

extern char dir[64];		/* the test's own directory */
extern char tmp[80];		/* $TMPDIR, in dir */
extern char *journal;		/* what was logged: "event text\n"... */
extern int descriptors;		/* open when the test began */
extern struct relay_settings set;	/* for what is opened */
extern struct recipient to[3];
extern struct envelope env;	/* of to[0] */

/* A test's .init and .fini.  No child, no descriptor and no file in $TMPDIR
   may be left. */
void	world_begin(void);
void	world_end(void);

/* The number of entries of a directory. */
int	entries(const char *path);

/* A path in the test's directory; good until the fourth call after. */
char	*in_dir(const char *name);

void	write_file(const char *path, const char *text, mode_t mode);

/* An executable shell script, called name in the test's directory. */
char	*script(const char *name, const char *body);

/* All of a file, to be freed. */
char	*slurp(const char *path);

/* The one file in folder, which is in the test's directory; to be freed. */
char	*only_file(const char *folder);

/* A spool with text, to be closed and freed. */
struct spool	*spooled(enum spool_form form, const char *text, size_t len);

/* Relay a message by set, which relay_to(), relay_program() and relay_script()
   fill in: the first recipient's verdict. */
struct reply	relay_text(const char *text, size_t len);
struct reply	relay_to(const char *spec);
struct reply	relay_program(char *const argv[]);
struct reply	relay_script(const char *body);

/* expect(&verdict, code, enhanced code, text) */
void	expect_at(int line, const struct reply *v, int code, const char *enh,
	    const char *text);
#define expect(...) expect_at(__LINE__, __VA_ARGS__)

/* Does the journal have text? */
bool	logged(const char *text);

void	journal_forget(void);

#endif
