/*
 * agree.h - one reply for all recipients of a message that went to several
 * places.
 */
#ifndef RELAY_AGREE_H
#define RELAY_AGREE_H

#include "base/envelope.h"
#include "base/logger.h"

/* How many of r[0..n) have the message; *failed becomes how many are refused.
   A code of 0 counts as neither: nothing was tried. */
size_t	agree_count(const struct reply r[], size_t n, size_t *failed);

/*
 * Replaces *all by one reply (SMTP) for env's recipients, whose replies are
 * r[0..env->nrecipients), in their order; places is how many took part.  If
 * they all had the same reply, *all is that one, word for word.  Otherwise a
 * refusal names them, and is temporary if any of them is: a duplicate is
 * possible, a loss is not.  *all was a success before, and stays one if nobody
 * refused.
 */
void	agree(const struct logger *log, const struct envelope *env,
	    const struct reply r[], size_t places, struct reply *all);

#endif
