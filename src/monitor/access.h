/*
 * access.h - who may send to whom through a relay that forwards.
 */
#ifndef MONITOR_ACCESS_H
#define MONITOR_ACCESS_H

#include "base/envelope.h"
#include "base/findings.h"
#include "base/logger.h"

/* The clients, where none are given. */
#define ACCESS_CLIENTS "127.0.0.0/8,::1,unix,auth"

struct access_settings {
	const char *clients;	/* --relay-clients, or NULL */
	const char *domains;	/* --relay-domains, a list or a file; or NULL */
	bool local;		/* the client is a pipe, a file or a terminal */
};

/* Where a recipient goes. */
enum access_way {
	ACCESS_LOCAL,		/* a program, a folder, an LMTP store */
	ACCESS_NAMED,		/* forwarded by a route that names its domain */
	ACCESS_ANY		/* forwarded, as anybody's is */
};

struct access;

/*
 * Reads the settings, which are borrowed, as log is; a file is only opened,
 * for it may be root's only.  Returns NULL with a sentence in error[0..size) if
 * they make no sense.
 */
struct access *access_open(const struct access_settings *set,
	    const struct logger *log, char *error, size_t size);

/* Whether every client may send to every recipient. */
bool	access_unlimited(const struct access *a);

/* Whether the options were given, so that they hold for every relay. */
bool	access_explicit(const struct access *a);

/* Whether the client of env may send to its one recipient, which goes that
   way.  *r is changed if not: 554 5.7.1, or 451 4.3.5 where the file of domains
   cannot be used.  why[0..size), if not NULL, gets a sentence for the log. */
bool	access_allows(struct access *a, const struct envelope *env,
	    enum access_way way, struct reply *r, char *why, size_t size);

/* For --check: adds whether the file of domains can be used. */
void	access_check(struct access *a, struct findings *f);

/* Closes and frees.  NULL is legal. */
void	access_close(struct access *a);

#endif
