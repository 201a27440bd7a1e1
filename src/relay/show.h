/*
 * show.h - a message as a person reads it.
 */
#ifndef RELAY_SHOW_H
#define RELAY_SHOW_H

#include <stdbool.h>
#include <stddef.h>

#include "base/envelope.h"
#include "base/spool.h"

/*
 * Writes envelope, subject and parts, a line each, and then the texts, decoded,
 * to a spool.  message has lines that end in CRLF or LF; nothing in it or in
 * the envelope can drive a terminal.  colours adds those of the three lines.
 */
void	show_message(struct spool *to, const struct envelope *env,
	    struct span message, bool colours);

/* Writes p[0..len) so that it cannot drive a terminal: what cannot be shown,
   and what changes the direction of writing, is \xHH. */
void	show_visibly(struct spool *to, const char *p, size_t len);

/* Does the terminal that fd may be want colours?  It is one, and the
   environment has no NO_COLOR, nor TERM=dumb. */
bool	show_colours(int fd);

#endif
