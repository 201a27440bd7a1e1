/*
 * policy.h - asks outside services during the dialogue: a policy service in
 * Postfix's policy delegation protocol, and who a client is (AUTH).
 */
#ifndef POLICY_H
#define POLICY_H

#include "base/envelope.h"
#include "base/logger.h"

/* When a policy service is asked: protocol_state of Postfix's protocol. */
enum stage {
	STAGE_CONNECT,
	STAGE_HELO,
	STAGE_EHLO,	/* LHLO too */
	STAGE_MAIL,
	STAGE_RCPT,
	STAGE_DATA,
	STAGE_END_OF_MESSAGE,
	STAGE_VRFY,
	STAGES
};

#define POLICY_PREPEND 2048	/* octets of header fields, with NUL */
#define AUTH_DELAY 2	/* seconds by which the driver delays a 535: nothing
			   in here sleeps */

struct policy;

/*
 * A policy service at "unix:PATH" or "inet:HOST:PORT"; nothing is connected
 * yet.  It is asked at every stage, or, if service begins "STAGE,STAGE...=", at
 * those alone: postgrey, which greylists whatever it is asked, wants "RCPT=".
 * STAGE is as in protocol_state, in any case; EHLO and HELO are two.
 * Borrows service and log.  NULL with a sentence in error[0..size) if
 * service makes no sense.  timeout is in seconds, for one question.
 */
struct policy *policy_open(const char *service, unsigned timeout,
	    const struct logger *log, char *error, size_t size);

/*
 * Asks, if the service is to be asked at this stage.  env has the session's
 * facts, at MAIL and later the sender, at RCPT
 * just the recipient in question, at VRFY the address as its one recipient,
 * at DATA and after all recipients.  *v says yes and is changed if the
 * service refuses (451 4.3.5 if it can not be asked, or answers garbage).
 * prepend[0..POLICY_PREPEND) becomes the header fields to put in front of the
 * message, each ended by CRLF, or "".
 *
 * Actions are those of Postfix's access(5), of which FILTER, BCC and names of
 * restrictions are unknown here, thus 451 4.3.5.  We are the only restriction
 * there is, so DEFER_IF_PERMIT refuses at once; DEFER_IF_REJECT is remembered,
 * and a 5yz in what is left of the transaction becomes its 450.  HOLD is
 * 451 4.7.1: there is no queue to hold mail in.  A policy's own 421 is passed
 * on and ends the session.  PREPEND, REDIRECT and DISCARD are ignored, with a
 * log record, where no transaction is open; PREPEND at END-OF-MESSAGE too.
 */
void	policy_ask(struct policy *p, enum stage stage,
	    const struct envelope *env, struct reply *v, char *prepend);

/* What earlier answers decided for the transaction that is open: take the
   message and drop it; send it to this address alone (NULL: no). */
bool	policy_discards(const struct policy *p);
const char *policy_redirects(const struct policy *p);

/* The transaction is over. */
void	policy_forget(struct policy *p);

/* Closes and frees.  NULL is legal. */
void	policy_close(struct policy *p);

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

/* Borrows log, copies source; otherwise like policy_open(). */
struct auth *auth_open(const char *source, unsigned timeout,
	    const struct logger *log, char *error, size_t size);

/*
 * The mechanisms to offer to this client, separated by spaces, "" for none
 * (Dovecot is asked; EXTERNAL is among them if env has a CLIENT_USER or a
 * TLS_SUBJECT).  Owned by a, good until the next call.  a may be NULL: then
 * EXTERNAL alone can be there.  Whether a password may cross the line in the
 * clear is decided by who offers AUTH, not here.
 */
const char *auth_mechanisms(struct auth *a, const struct envelope *env);

/*
 * One step of an exchange.  mechanism is in upper case for the first step
 * and NULL for the further ones; response is base64 as the client sent it,
 * NULL if it sent none.  Fills in *v: 334 with the base64 challenge as its
 * text, 235 with the user's name in user[0..size), or a refusal (535 5.7.8;
 * 454 4.7.0 when the source does not answer; 504 5.5.4 unknown mechanism;
 * 501 5.5.2; 500 5.5.6 too long).  Wipes its copies of every credential before
 * it returns, and logs none; response is its owner's to wipe.  user is "" but
 * for 235.  a may be NULL if the mechanism is EXTERNAL.
 */
void	auth_step(struct auth *a, const struct envelope *env,
	    const char *mechanism, const char *response, struct reply *v,
	    char *user, size_t size);

/* The exchange was abandoned by the client ("*"). */
void	auth_abandon(struct auth *a);

/* Closes, wipes and frees.  NULL is legal. */
void	auth_close(struct auth *a);

#endif
