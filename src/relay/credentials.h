/*
 * credentials.h - the file of --relay-auth: with which user and secret we
 * authenticate to a next hop.
 *
 * Each line is KEY METHOD.  KEY is a sender ("jo@example.net", "@example.net",
 * "<>" for the null sender), a next hop as the relay names it, or "*".  METHOD
 * is USER:PASSWORD, "USER command PROGRAM ARGUMENT..." or "USER oauth2 PROGRAM
 * ARGUMENT...".
 */
#ifndef RELAY_CREDENTIALS_H
#define RELAY_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/findings.h"
#include "base/logger.h"
#include "net/stream.h"

#define CREDENTIAL_USER 256	/* octets of a user, with NUL */
#define CREDENTIAL_SECRET 8192	/* octets of a password or token, with NUL */
#define CREDENTIAL_KEY 320	/* octets of a key, with NUL */

/* Who wants to authenticate where.  Borrowed. */
struct credentials_for {
	const char *sender;	/* "": the null sender; NULL: lines of senders
				   do not count */
	const struct place *place;
	const char *port;	/* that a place without one means */
};

/* What a line says.  It is a secret: credentials_wipe() comes at the end. */
struct credentials {
	unsigned line;		/* its number in the file, from 1 */
	char key[CREDENTIAL_KEY];
	char user[CREDENTIAL_USER];
	bool token;		/* the secret is an OAuth 2.0 access token */
	bool program;		/* the secret is a command that prints it */
	char secret[CREDENTIAL_SECRET];
};

/*
 * Reads the file fd, which is borrowed, into *text, which the caller
 * wipes and frees.  *open becomes whether anyone may read the file.  Returns as
 * file_read_all(): EFBIG if the file has 1 MiB or more.
 */
long	credentials_read(int fd, char **text, bool *open);

/*
 * Finds the line for who in text[0..len): the sender's own comes first, then
 * the one without its +detail, its domain's, the next hop's, and "*"; of
 * several for the same key the first counts.  Returns 1 with *c; 0 if there is
 * none; -1 with a phrase in why[0..size) if it makes no sense.  *senders
 * becomes whether any line is a sender's.
 */
int	credentials_find(const char *text, size_t len,
	    const struct credentials_for *who, struct credentials *c,
	    bool *senders, char *why, size_t size);

/* Adds to f the number of each line of text[0..len) that makes no sense, or
   that nothing can ever match, with the reason; and for each program whether it
   may be executed.  name is the file's. */
void	credentials_check(const char *text, size_t len, const char *name,
	    struct findings *f);

/*
 * Runs the command that c->secret is, without a shell: words are separated by
 * blanks.  Its first line of output becomes the secret; what it writes to
 * standard error is logged.  False with a phrase in why[0..size) if it fails,
 * takes too long or prints nothing.
 */
bool	credentials_run(struct credentials *c, const struct logger *log,
	    const struct envelope *env, int64_t deadline, char *why,
	    size_t size);

/* Calls sender(ctx, ...) with the key of each line of text[0..len) that is a
   sender's: an address, "@example.net", or "" for the null sender. */
void	credentials_each_sender(const char *text, size_t len,
	    void (*sender)(void *ctx, const char *key), void *ctx);

void	credentials_wipe(struct credentials *c);

#endif
