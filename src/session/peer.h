/*
 * peer.h - who the client is.
 */
#ifndef SESSION_PEER_H
#define SESSION_PEER_H

#include <sys/types.h>

#include "session/options.h"

#define USER_MAX 64		/* octets of a login, with NUL */

/* The client, as the connection or the environment tells it. */
struct client {
	struct channel_peer peer;
	char user[USER_MAX];	/* login of a unix socket's peer, or "" */
	bool local;		/* it is a pipe, a file or a terminal */
	pid_t pid;		/* the monitor's: it names transactions */
};

/* Finds out who the client is, from the socket or the environment. */
void	peer_find(struct client *c, const struct options *o);

/* The facts that no question can change; NULL for those that the channel
   process tells the monitor. */
void	peer_facts(const char *known[FACTS], const struct options *o,
	    const struct client *c);

/* Is address in one of the networks of a comma-separated list?  Exits if the
   list, which is that option's argument, has anything else. */
bool	peer_in_networks(const char *address, const char *option,
	    const char *list);

#endif
