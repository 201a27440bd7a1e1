/*
 * policy.h - asks a policy service during the dialogue, in Postfix's policy
 * delegation protocol (SMTPD_POLICY_README).
 *
 * The service is at "unix:PATH" or "inet:HOST:PORT".  It is asked at every
 * stage, or, if "STAGE,STAGE...=" stands in front, at those only: postgrey,
 * which greylists at any stage, wants "RCPT=".  STAGE is as in protocol_state,
 * in any case; EHLO and HELO are two.
 *
 * Actions are those of Postfix's access(5).  FILTER, BCC and names of
 * restrictions are unknown here: 451 4.3.5, as when the service cannot be
 * asked, or its answer cannot be understood.  The service is the only
 * restriction, so DEFER_IF_PERMIT refuses at once; DEFER_IF_REJECT is
 * remembered, and replaces a 5yz in the rest of the transaction by its 450.
 * HOLD is 451 4.7.1: there is no queue to hold mail in.  A 421 from the
 * service is passed on and ends the session.  PREPEND, REDIRECT and DISCARD
 * are ignored, with a log record, outside a transaction; PREPEND at
 * END-OF-MESSAGE too.
 */
#ifndef SERVICE_POLICY_H
#define SERVICE_POLICY_H

#include "service/service.h"

extern const struct service service_policy;

#endif
