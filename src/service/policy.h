/*
 * policy.h - asks a policy service during the dialogue, in Postfix's policy
 * delegation protocol.
 */
#ifndef SERVICE_POLICY_H
#define SERVICE_POLICY_H

#include "base/envelope.h"
#include "base/logger.h"
#include "service/service.h"

#define POLICY_PREPEND 2048	/* octets of header fields, with NUL */

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

#endif
