/*
 * nexthop.h - the client's side of SMTP and LMTP with one next hop, and the
 * connection, the lines and the deadlines that it needs.
 *
 * A message goes out in two steps, so that several next hops can all agree to
 * the envelope before the first of them gets the data (DESIGN: fan-out).
 */
#ifndef NEXTHOP_H
#define NEXTHOP_H

#include "relay.h"

/*
 * A connection read by lines.  Deadlines are in milliseconds of
 * CLOCK_MONOTONIC (clock_now()).
 */
#define STREAM_BUFFER 4096
#define STREAM_LINE_MAX 65536	/* octets of a line */

struct stream {
	int fd;			/* -1: closed; owned */
	size_t have, used;	/* octets in buffer, and of them consumed */
	char buffer[STREAM_BUFFER];
};

/*
 * Connects s to where: "unix:PATH", "inet:HOST:PORT", "[HOST]:PORT",
 * "HOST:PORT", "HOST" (port then).  Returns 0, or -1 with errno
 * (ETIMEDOUT at the deadline) and a phrase in why[0..size).
 */
int	stream_connect(struct stream *s, const char *where, const char *port,
	    int64_t deadline, char *why, size_t size);

/* Sends all of it.  Returns 0, or -1 with errno.  Never raises SIGPIPE. */
int	stream_write(struct stream *s, const void *p, size_t len,
	    int64_t deadline);

/*
 * Reads a line into line[0..size), without its CRLF or LF, NUL-terminated;
 * what is longer is cut, its end skipped.  Returns its length as kept, or -1
 * with errno: 0 for end of file, ETIMEDOUT, EMSGSIZE beyond STREAM_LINE_MAX:
 * who always has more to say would never let a deadline come.
 */
long	stream_line(struct stream *s, char *line, size_t size,
	    int64_t deadline);

void	stream_close(struct stream *s);

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
 * which the message may turn out not to need.
 */
void	nexthop_offer(struct nexthop *h, const struct envelope *env, int spool,
	    int64_t deadline, struct verdict v[]);

/*
 * Sends the message, from spool's start; form says how its lines end.  v is
 * as nexthop_offer() left it; what was 250 there becomes what the next hop
 * said at last.
 */
void	nexthop_send(struct nexthop *h, const struct envelope *env, int spool,
	    enum spool_form form, int64_t deadline, struct verdict v[]);

/* Ends the transaction without sending, keeps the connection. */
void	nexthop_abandon(struct nexthop *h, int64_t deadline);

/* QUIT without waiting long, close, free.  NULL is legal. */
void	nexthop_close(struct nexthop *h);

/*
 * Starts the TLS engine (smtpd-tls; argv as for execv) on the connected socket
 * fd and waits for its report.  The engine gets fd as descriptor 0, the
 * clear-text end of a socket pair as 1, the report as 3, and the descriptors
 * that keep names, all above 3 and ended by -1 (NULL: none).  It ends by
 * itself once either side is closed; there is no child to wait for.  Who
 * leaves last words in the clear-text end waits for its end of file.
 *
 * Returns our clear-text end, with the report's lines "name=value" in
 * report[0..size); or -1 with a sentence there, and fd shut down.  fd is
 * borrowed: the caller closes it, either way.
 */
int	tls_start(const char *const argv[], const int keep[], int fd,
	    int64_t deadline, char *report, size_t size);

#endif
