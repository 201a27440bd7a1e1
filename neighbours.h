/*
 * neighbours.h - the rooms that only sessions with neighbours need (next hops,
 * policy services, sources of passwords, the TLS engine), in a shared object
 * of their own: who has none does not pay for them.
 *
 * neighbours.c has those of their functions that the other rooms call,
 * and passes each call on; table.c is the object's side.  Where
 * those rooms are linked as they are, neither is needed.
 */
#ifndef NEIGHBOURS_H
#define NEIGHBOURS_H

#include "fan.h"
#include "policy.h"

#ifndef VERSION
#define VERSION "1.0"
#endif

/* What the object exports, under the name "neighbours". */
struct neighbours {
	const char *version;	/* VERSION; another has another table */
	__typeof__(&nexthop_valid) nexthop_valid;
	__typeof__(&nexthop_close) nexthop_close;
	__typeof__(&tls_start) tls_start;
	__typeof__(&fan_rcpt) fan_rcpt;
	__typeof__(&fan_out) fan_out;
	__typeof__(&policy_open) policy_open;
	__typeof__(&policy_ask) policy_ask;
	__typeof__(&policy_discards) policy_discards;
	__typeof__(&policy_redirects) policy_redirects;
	__typeof__(&policy_forget) policy_forget;
	__typeof__(&policy_close) policy_close;
	__typeof__(&auth_open) auth_open;
	__typeof__(&auth_mechanisms) auth_mechanisms;
	__typeof__(&auth_step) auth_step;
	__typeof__(&auth_abandon) auth_abandon;
	__typeof__(&auth_close) auth_close;
	__typeof__(&routes_close) routes_close;
};

/*
 * Loads the object at path, once: before root is given up, and before anything
 * is opened that it knows.  False with a sentence in error[0..size) if it can
 * not be, or is not of our version.
 *
 * Without it nothing can be opened; what closes does nothing, and AUTH has no
 * mechanism.
 */
bool	neighbours_load(const char *path, char *error, size_t size);

#endif
