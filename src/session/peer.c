/*
 * peer.c - who the client is.
 */
#define _GNU_SOURCE	/* struct ucred */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/network.h"
#include "base/text.h"
#include "session/descriptors.h"
#include "session/log.h"
#include "session/peer.h"

#define HOST_NAME_MOST 253	/* octets of a host name in text */
#define LABEL_MOST 63		/* octets between two dots */

bool
peer_in_networks(const char *address, const char *option, const char *list)
{
	bool found = false;
	size_t len;
	int one;

	for (;; list += len + 1) {
		len = strcspn(list, ",");
		one = network_has(list, len, address);
		if (one == -1)
			log_misused("--%s: \"%.*s\" is not a network", option,
			    (int)len, list);
		found = found || one == 1;
		if (list[len] == '\0')
			return found;
	}
}

static void
describe_port(char *to, size_t size, in_port_t port)
{
	char n[TEXT_NUMBER];

	text_copy(to, size, text_number(n, ntohs(port), 1));
}

/* One end of a connection as text.  Returns its address family. */
static int
describe(const struct sockaddr_storage *sa, char *address, size_t size,
    char *port, size_t portsize)
{
	const struct sockaddr_in *v4 = (const void *)sa;
	const struct sockaddr_in6 *v6 = (const void *)sa;

	if (sa->ss_family == AF_INET) {
		/* inet_ntop() would do it by printf, which every connection
		   would pay. */
		text_ipv4(address, size, (const void *)&v4->sin_addr);
		describe_port(port, portsize, v4->sin_port);
	} else if (sa->ss_family == AF_INET6) {
		if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
			text_ipv4(address, size, v6->sin6_addr.s6_addr + 12);
		else
			inet_ntop(AF_INET6, &v6->sin6_addr, address,
			    (socklen_t)size);
		describe_port(port, portsize, v6->sin6_port);
	} else if (sa->ss_family == AF_UNIX) {
		text_copy(address, size, "unix");
	}
	return sa->ss_family;
}

/*
 * Takes the client's address from the environment, as super-servers and TLS
 * wrappers set it.  On a unix socket a path there is the peer's own name.
 * Returns whether the environment names a client.  What is no address leaves it
 * unknown, and so do two that differ: one of them was inherited.
 */
static bool
peer_of_environment(struct channel_peer *peer)
{
	static const char *const names[][2] = {
		{ "REMOTE_ADDR", "REMOTE_PORT" },
		{ "TCPREMOTEIP", "TCPREMOTEPORT" },
		{ "REMOTE_HOST", "REMOTE_PORT" },
	};
	const char *value, *port = NULL;
	char address[NETWORK_ADDRESS], first[NETWORK_ADDRESS] = "";
	bool named = false, two = false;

	for (size_t i = 0; i < COUNT(names); i++) {
		value = getenv(names[i][0]);
		if (value == NULL || value[0] == '\0' || value[0] == '/' ||
		    value[0] == '@')
			continue;
		named = true;
		if (!network_address(address, value))
			continue;
		two = two || (first[0] != '\0' && strcmp(first, address) != 0);
		if (first[0] == '\0') {
			memcpy(first, address, sizeof first);
			port = getenv(names[i][1]);
		}
	}
	if (!named)
		return false;
	text_copy(peer->address, sizeof peer->address,
	    two || first[0] == '\0' ? "unknown" : first);
	if (!two && port != NULL && text_parse_port(port) != 0)
		text_copy(peer->port, sizeof peer->port, port);
	return true;
}

/* Is it the name of a host: labels of letters, digits, '-' and '_' with dots
   between them (RFC 1123 2.1, RFC 1035 2.3.4)?  An address is none. */
static bool
is_host_name(const char *s)
{
	const size_t total = strlen(s);
	const char *label;
	size_t len;

	if (total == 0 || total > HOST_NAME_MOST)
		return false;
	for (label = s;; label += len + 1) {
		len = text_label(label);
		if (len == 0 || len > LABEL_MOST || label[0] == '-' ||
		    label[len - 1] == '-')
			return false;
		if (label[len] == '\0')
			return label[text_digits(label)] != '\0';
		if (label[len] != '.')
			return false;
	}
}

/* Nothing can be verified of a client without an address. */
static bool
has_address(const struct channel_peer *peer)
{
	return network_has(peer->address, strlen(peer->address),
	    peer->address) == 1 && strcmp(peer->address, "unix") != 0;
}

/*
 * Takes the client's host name from the environment.  The super-server has
 * looked it up; nobody here does.  It counts only where the address beside it,
 * if there is one, is the client's: an environment that was inherited from
 * somewhere else names another client.
 */
static void
name_of_environment(struct channel_peer *peer)
{
	static const char *const names[][2] = {
		{ "TCPREMOTEHOST", "TCPREMOTEIP" },
		{ "REMOTE_HOST", "REMOTE_ADDR" },
	};
	const char *name, *address;

	for (size_t i = 0; i < COUNT(names); i++) {
		name = getenv(names[i][0]);
		address = getenv(names[i][1]);
		if (name == NULL || !is_host_name(name) ||
		    !has_address(peer) || (address != NULL &&
		    (strchr(address, '/') != NULL || network_has(address,
		    strlen(address), peer->address) != 1)))
			continue;
		text_copy(peer->name, sizeof peer->name, name);
		return;
	}
}

/* Can a client of that list be at the other end?  With a PROXY header, which is
   yet to come, it can. */
static bool
may_send(const struct options *o, const struct client *c, const char *option,
    const char *list)
{
	return list != NULL && (o->channel.proxy_protocol ||
	    peer_in_networks(c->peer.address, option, list));
}

/* Is standard input, which has no peer for this errno, no socket at all?  A
   listening one would start us again and again, and serve nobody. */
static bool
is_file(int error)
{
	if (error != ENOTSOCK && descriptors_listens(STDIN_FILENO) == 1)
		log_misused("standard input is a listening socket: a unit "
		    "needs Accept=yes, and inetd nowait");
	return error == ENOTSOCK;
}

void
peer_find(struct client *c, const struct options *o)
{
	struct channel_peer *peer = &c->peer;
	struct sockaddr_storage sa = { .ss_family = AF_UNSPEC };
	socklen_t len = sizeof sa;
	struct ucred cred;
	const struct passwd *pw;
	int family = AF_UNSPEC;
	bool named = false, file = false;

	memset(c, 0, sizeof *c);
	c->pid = getpid();
	text_copy(peer->address, sizeof peer->address, "unknown");
	text_copy(peer->name, sizeof peer->name, "unknown");
	if (getpeername(STDIN_FILENO, (struct sockaddr *)&sa, &len) == 0)
		family = describe(&sa, peer->address, sizeof peer->address,
		    peer->port, sizeof peer->port);
	else
		file = is_file(errno);
	/* A wrapper's socket pair is not the client. */
	if (family == AF_UNSPEC || family == AF_UNIX)
		named = peer_of_environment(peer);
	c->local = file && !named;
	if (!may_send(o, c, "xclient", o->xclient) &&
	    !o->channel.proxy_protocol)	/* the name would be the proxy's */
		name_of_environment(peer);
	len = sizeof sa;
	if ((family == AF_INET || family == AF_INET6) &&
	    getsockname(STDIN_FILENO, (struct sockaddr *)&sa, &len) == 0)
		describe(&sa, peer->server_address,
		    sizeof peer->server_address, peer->server_port,
		    sizeof peer->server_port);
	len = sizeof cred;
	if (family == AF_UNIX && !named && o->monitor.auth != NULL &&
	    !o->channel.proxy_protocol &&	/* a proxy is not the client */
	    getsockopt(STDIN_FILENO, SOL_SOCKET, SO_PEERCRED, &cred,
	    &len) == 0 && (pw = getpwuid(cred.uid)) != NULL)
		text_copy(c->user, sizeof c->user, pw->pw_name);
}

void
peer_facts(const char *known[FACTS], const struct options *o,
    const struct client *c)
{
	unsigned who = SET_BY_CLIENT;

	if (o->channel.proxy_protocol)
		who |= SET_BY_PROXY;
	if (may_send(o, c, "xclient", o->xclient))
		who |= SET_BY_XCLIENT;
	if (may_send(o, c, "xforward", o->xforward))
		who |= SET_BY_XFORWARD;
	for (size_t i = 0; i < FACTS; i++)
		known[i] = "";
	known[FACT_CLIENT_ADDRESS] = c->peer.address;
	known[FACT_CLIENT_PORT] = c->peer.port;
	known[FACT_CLIENT_NAME] = c->peer.name;
	known[FACT_CLIENT_USER] = c->user;
	known[FACT_SERVER_ADDRESS] = c->peer.server_address;
	known[FACT_SERVER_PORT] = c->peer.server_port;
	for (size_t i = 0; i < FACTS; i++)
		if ((fact_names[i].set_by & who) != 0)
			known[i] = NULL;
}
