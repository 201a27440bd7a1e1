/*
 * smtp.h - the client's side of SMTP and LMTP with one next hop.
 *
 * A message goes out in two steps, so that several next hops can all agree to
 * the envelope before the first of them gets the data.
 */
#ifndef RELAY_SMTP_H
#define RELAY_SMTP_H

#include "base/findings.h"
#include "net/engine.h"
#include "relay.h"

enum nexthop_protocol {
	NEXTHOP_SMTP,
	NEXTHOP_SMTPS,	/* TLS from the start, always verified */
	NEXTHOP_LMTP
};

struct nexthop;

/*
 * A next hop, not connected.  where is a comma-separated list of places,
 * tried in turn; borrowed, as set is, and auth, which is set->auth, open, or
 * -1.  NULL: no memory.  A unix socket counts as safe: set->tls is not for it,
 * and credentials may go there.
 */
struct nexthop *nexthop_open(const struct relay_settings *set,
	    enum nexthop_protocol protocol, const char *where, int auth);

/* Checks such a list: its syntax, and NEXTHOP_SMTPS wants names to verify.
   False with a sentence in error. */
bool	nexthop_valid(enum nexthop_protocol protocol, const char *where,
	    char *error, size_t size);

/*
 * Offers the envelope: connects if needed, MAIL, and RCPT for each of
 * env's recipients.  Fills in v[0..env->nrecipients): 250 for those that the
 * next hop accepted.  The connection stays in that transaction.  spool is the
 * message: it is looked at only if the next hop lacks 8BITMIME or SMTPUTF8,
 * which the message may turn out not to need.  Recipients that the next hop
 * takes not in one transaction, by its LIMITS RCPTMAX or 452, are offered to
 * it on further connections.
 */
void	nexthop_offer(struct nexthop *h, const struct envelope *env, int spool,
	    int64_t deadline, struct reply v[]);

/*
 * Sends the message, from spool's start; form says how its lines end.  v is
 * as nexthop_offer() left it; what was 250 there becomes what the next hop
 * said at last.  Of several transactions the first that fails ends it, unless
 * set->lmtp or somebody has the message: then the others are served, and v
 * says for each recipient what is true.  Where each recipient has a reply of
 * its own, code 0 is that of those whose transaction was not tried any more.
 */
void	nexthop_send(struct nexthop *h, const struct envelope *env, int spool,
	    enum spool_form form, int64_t deadline, struct reply v[]);

/*
 * The next hop during the dialogue: nexthop_live() comes first, and makes it
 * one that is asked then.  False: no memory.  See relay.h for what the others
 * do.  The open transaction is taken up by nexthop_offer().
 */
bool	nexthop_live(struct nexthop *h);
void	nexthop_live_hello(struct nexthop *h, const struct envelope *env,
	    int64_t deadline, char *text, size_t size);
void	nexthop_live_offer(struct nexthop *h, const struct envelope *env,
	    int64_t deadline, struct reply *mail, struct reply v[]);
void	nexthop_live_vrfy(struct nexthop *h, const struct envelope *env,
	    int64_t deadline, struct reply *r);
void	nexthop_live_forget(struct nexthop *h, int64_t deadline);
int	nexthop_live_idle(struct nexthop *h, unsigned seconds);

/* Where the connection leads, or led last, and protocol and cipher of its TLS;
   both cut to size, or "". */
void	nexthop_where(const struct nexthop *h, char *name, char *tls,
	    size_t size);

/* AUTH of our client by the next hop: see relay_auth_mechanisms() and what
   follows it. */
const char *nexthop_live_mechanisms(const struct nexthop *h);
void	nexthop_live_auth(struct nexthop *h, const struct envelope *env,
	    const struct relay_login *login, int64_t deadline, struct reply *v);
void	nexthop_live_nobody(struct nexthop *h);

/* Ends the transaction without sending, keeps the connection. */
void	nexthop_abandon(struct nexthop *h, int64_t deadline);

/*
 * For --check: adds what keeps its places from being used by mail of the
 * senders from: names, sockets, lines of the credentials; if f->connect is set
 * it opens each address as far as MAIL, with TLS and AUTH, for each account
 * that they have.  spec is what the administrator calls it.
 */
void	nexthop_check(struct nexthop *h, const char *spec,
	    const struct expected *from, struct findings *f);

/* Reads h's file of credentials as credentials_read() does. */
long	nexthop_read_credentials(const struct nexthop *h, char **text);

/* QUIT without waiting long, close, free.  NULL is legal. */
void	nexthop_close(struct nexthop *h);

#endif
