/*
 * routes.h - where recipients go: a file in the form of Postfix's
 * transport(5), as Mailman 3 writes it.
 */
#ifndef ROUTES_H
#define ROUTES_H

#include "relay.h"

struct hop;	/* where a route leads: known to who reads the routes */
struct routes;

/*
 * Reads the file name, of which fd, if it is not -1, was opened before; it is
 * borrowed.  hop(ctx, ...) says what its right-hand sides mean: a hop that ctx
 * owns, or NULL with a sentence in error[0..size).  Returns NULL if there is
 * anything in it that makes no sense, after it was logged with its line.
 */
struct routes *routes_read(int fd, const char *name, const struct logger *log,
	    struct hop *(*hop)(void *ctx, const char *result, char *error,
	    size_t size), void *ctx);

/*
 * Looks for an address, in the order of transport(5): the whole of it, without
 * its +detail, patterns, its domain, that domain's parents (".domain"), "*".
 * *h becomes where it leads, NULL if no route has it, and *named whether a key
 * other than "*" names the address, its domain or a domain above that (a
 * pattern does not).  Every spelling of a mailbox finds the same: see
 * base/address.h.  False: there was no memory to say.
 */
bool	routes_find(const struct routes *r, const char *address,
	    struct hop **h, bool *named);

/* Frees what routes_read() returned.  NULL is legal. */
void	routes_close(struct routes *r);

#endif
