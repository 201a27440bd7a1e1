/*
 * routes.h - where recipients go: a file in the form of Postfix's
 * transport(5), as Mailman 3 writes it.
 */
#ifndef RELAY_ROUTES_H
#define RELAY_ROUTES_H

#include "base/findings.h"
#include "relay.h"

struct routes;

/* How an address was found. */
enum route_kind {
	ROUTE_NONE,	/* not */
	ROUTE_ANY,	/* by "*" */
	ROUTE_PATTERN,
	ROUTE_NAMED	/* by a key that names it, its domain or one above */
};

/* A file of routes that is opened at the start, for it may be root's only, and
   read when it is needed, once. */
struct route_file {
	const char *name;	/* NULL: there is none; borrowed */
	int fd;			/* -1: it could not be opened; owned */
	struct routes *table;	/* NULL: it was not read; owned */
	bool broken;		/* it cannot be used, which was logged */
};

/* name may be NULL.  A failure is told by route_file_read(). */
void	route_file_open(struct route_file *f, const char *name);

/*
 * Reads f->table, unless it is there, or there is no file.  Keys are senders'
 * or recipients': a sender may be "<>", a word without a domain, and a domain
 * may have an '@' in front.  hop(ctx, ...) says what right-hand sides mean:
 * something that ctx owns (or result, which lives as long as the table), or
 * NULL with a sentence in error[0..size).  False if there is anything in it
 * that makes no sense, after it was logged with its line.
 */
bool	route_file_read(struct route_file *f, bool senders,
	    const struct logger *log, void *(*hop)(void *ctx,
	    const char *result, char *error, size_t size), void *ctx);

/* For --check, after it was read: adds a doubt where a key stands twice. */
void	route_file_check(const struct route_file *f, struct findings *found);

/* Closes and frees what f has.  Legal twice. */
void	route_file_close(struct route_file *f);

/*
 * Looks for an address, in the order of transport(5): the whole of it, without
 * its +detail, patterns, its domain, that domain's parents (".domain"), "*".
 * *h becomes what hop() returned for it, NULL if no route has it, and *kind how
 * it was found.  Every spelling of a mailbox finds the same: see
 * base/address.h.  False: there was no memory to say.
 */
bool	routes_find(const struct routes *r, const char *address,
	    void **h, enum route_kind *kind);

/* Calls row(ctx, ...) with the key of each row, NULL for a pattern, and what
   hop() returned for it. */
void	routes_each(const struct routes *r, void (*row)(void *ctx,
	    const char *key, const void *h), void *ctx);

#endif
