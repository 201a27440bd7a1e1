/*
 * from.h - the sender that a provider wants: --from.
 */
#ifndef MONITOR_FROM_H
#define MONITOR_FROM_H

#include <stdbool.h>
#include <stddef.h>

#include "base/envelope.h"
#include "base/findings.h"
#include "base/logger.h"

struct expected;
struct from;

/*
 * Reads what --from says: an address, or the name of a file, which is opened
 * here, for it may be root's only, and read when it is needed.  Everything is
 * borrowed.  Returns the process's only one, in static memory; or NULL with a
 * sentence in error[0..size).
 */
struct from *from_open(const char *what, const struct logger *log,
	    char *error, size_t size);

/* Puts in env the address that mail of its sender has to come from, which
   lives as long as f; the null sender stays, and all do if f is NULL.  False
   with a refusal in *v if the file cannot be used; then the sender stays. */
bool	from_map(struct from *f, struct envelope *env, struct reply *v);

/*
 * The same for a message: env, with its size, and its header, if *spool is not
 * -1: *spool becomes another descriptor, which the caller closes, if there was
 * anything to change.  crlf: its line ends.  False with a refusal in *v.
 */
bool	from_rewrite(struct from *f, struct envelope *env, int *spool,
	    bool crlf, struct reply *v);

/* For --check.  Adds the addresses that mail comes from; f may be NULL. */
void	from_check(struct from *f, struct expected *senders,
	    struct findings *found);

/* NULL is legal. */
void	from_close(struct from *f);

#endif
