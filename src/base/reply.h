/*
 * reply.h - making, comparing and spreading replies.
 */
#ifndef BASE_REPLY_H
#define BASE_REPLY_H

#include <stdbool.h>

#include "base/mail.h"

/* As reply_set(), with a format for the text. */
void	reply_printf(struct reply *r, int code, const char *enh,
	    const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Same code and words? */
bool	reply_same(const struct reply *a, const struct reply *b);

/* Copies r[0] to r[1..n). */
void	reply_spread(struct reply r[], size_t n);

/* Replaces *r by 451 4.3.0, for a failure of this machine, such as a lack of
   memory. */
void	reply_local_error(struct reply *r);

/* Replaces *r by 452 4.3.1, where there is no memory for what it answers. */
void	reply_no_memory(struct reply *r);

/* Replaces *r by 451 4.3.5, where the administrator has to mend something. */
void	reply_config_error(struct reply *r);

/* Replaces *r by what the client is told when a system call failed with that
   errno: one of the three above, or another 452; always 4yz. */
void	reply_errno(struct reply *r, int error);

#endif
