/*
 * domain.h - completes addresses that have no domain.
 */
#ifndef MONITOR_DOMAIN_H
#define MONITOR_DOMAIN_H

#include "monitor/wire.h"

/*
 * Gives the sender and the recipients of r's envelope that have none the
 * domain, which is borrowed; the null sender stays null.  r owns the new
 * strings.  False: no memory.
 */
bool	domain_complete(struct received *r, const char *domain);

#endif
