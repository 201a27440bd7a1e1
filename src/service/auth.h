/*
 * auth.h - who a client is.
 */
#ifndef SERVICE_AUTH_H
#define SERVICE_AUTH_H

#include "base/envelope.h"
#include "base/findings.h"
#include "base/logger.h"

#define AUTH_FAILURES_MAX 3	/* refusals (535) in a session: the monitor
				   counts them, as the channel process may not
				   be trusted to */
#define AUTH_THROUGH "relay:"	/* no source: the next hop is asked */
#define AUTH_DELAY 2		/* seconds by which session and monitor delay a
				   535: nothing in here sleeps */

/*
 * AUTH (RFC 4954) by "checkpassword:PROGRAM [ARG]...", "dovecot:PATH" or
 * "file:PATH".  Nothing is run or asked until a client wants it; the file is
 * opened at once, for it may be root's alone.
 *
 * PROGRAM is an absolute path, ARGs are separated by blanks (no quoting), and
 * /bin/true is added as what it is to run when the password is right.  It gets
 * PATH as its environment and /dev/null as descriptors 0 to 2.
 * A line of the file is "user:hash", hash as crypt(3) makes it, what follows
 * a further ":" and lines that begin with "#" are ignored.
 */
struct auth;

/*
 * Reads source, which is copied; log is borrowed, timeout is seconds for one
 * question.  Asks nothing yet.  Returns NULL with a sentence in error[0..size)
 * if source makes no sense.
 */
struct auth *auth_open(const char *source, unsigned timeout,
	    const struct logger *log, char *error, size_t size);

/*
 * The mechanisms to offer to this client, separated by spaces, "" for none
 * (Dovecot is asked; EXTERNAL is among them if env has a CLIENT_USER or a
 * TLS_SUBJECT; where Dovecot cannot be asked then, the last word is "?").
 * Owned by a, good until the next call.  a may be NULL: then EXTERNAL alone can
 * be there.  Whether a password may cross the line in the clear is decided by
 * who offers AUTH, not here.
 */
const char *auth_mechanisms(struct auth *a, const struct envelope *env);

/*
 * One step of an exchange.  mechanism is in upper case for the first step and
 * NULL for the further ones; response is base64 as the client sent it, NULL if
 * it sent none.  Fills in *v: 334 with the base64 challenge as its text, 235
 * with the user's name in user[0..size), or a refusal (535 5.7.8; 454 4.7.0
 * when the source does not answer; 504 5.5.4 unknown mechanism; 501 5.5.2; 500
 * 5.5.6 too long; 421 4.7.0 after AUTH_FAILURES_MAX refusals, when the source
 * is not asked any more).  Wipes its copies of every credential before it
 * returns, and logs none; response is its owner's to wipe.  user is "" but for
 * 235.  a may be NULL if the mechanism is EXTERNAL.
 */
void	auth_step(struct auth *a, const struct envelope *env,
	    const char *mechanism, const char *response, struct reply *v,
	    char *user, size_t size);

/* From now on auth_asked() tells the names that clients try. */
void	auth_keep_names(struct auth *a);

/* For the log, and never for the client: the source that was asked last,
   "file:", or EXTERNAL's; why it refused, or NULL if it does not say; and the
   name that was tried, "" if there was none or names are not kept. */
const char *auth_asked(const struct auth *a, const char **why,
	    const char **name);

/* Takes name as the user's.  Returns false if it is empty, too long or has
   characters that cannot be shown. */
bool	auth_take_name(const char *name, char *user, size_t size);

/* The exchange was abandoned by the client ("*"). */
void	auth_abandon(struct auth *a);

/* For --check: adds whether the source can be asked, and what is wrong in its
   file.  Nobody's password is tried. */
void	auth_check(struct auth *a, struct findings *f);

/* Closes, wipes and frees.  NULL is legal. */
void	auth_close(struct auth *a);

#endif
