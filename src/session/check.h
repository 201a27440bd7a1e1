/*
 * check.h - --check: what would a session lack?
 */
#ifndef SESSION_CHECK_H
#define SESSION_CHECK_H

#include "session/options.h"

/* Collects what is logged from now on, before the monitor opens its files. */
void	check_begin(struct options *o);

/* Looks at everything that a session with these options would use, as the user
   that we are now, and prints a line for each, the worst last.  trouble is why
   there is no TLS, or "".  Returns the exit status: EX_OK, or EX_CONFIG if
   there is anything bad. */
int	check_run(const struct options *o, struct monitor *m,
	    const char *trouble);

#endif
