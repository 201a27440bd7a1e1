/*
 * senders.h - who may send as whom: --auth-senders.
 */
#ifndef MONITOR_SENDERS_H
#define MONITOR_SENDERS_H

#include <stdbool.h>

#include "base/envelope.h"
#include "base/findings.h"
#include "base/logger.h"

struct senders;

/* Opens the file, which may be root's only; it is read when it is needed, and
   if it cannot be opened, that is an error then.  Everything is borrowed.
   Returns the process's only one, in static memory. */
struct senders *senders_open(const char *file, const struct logger *log);

/*
 * May the client send as the sender of env?  Its user, FACT_SASL_USERNAME, must
 * be among the sender's logins; a client that has not logged in may use a
 * sender that has no logins.  Every client may use the null sender.  False with
 * a refusal in *v: 553, or 451 where the file cannot be used, which was logged.
 * s may be NULL: every client may use every sender.
 */
bool	senders_allow(struct senders *s, const struct envelope *env,
	    struct reply *v);

/* For --check. */
void	senders_check(struct senders *s, struct findings *f);

/* NULL is legal. */
void	senders_close(struct senders *s);

#endif
