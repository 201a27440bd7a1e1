/*
 * stream.h - places to connect to, and connections read by lines.
 */
#ifndef NET_STREAM_H
#define NET_STREAM_H

#include <sys/socket.h>

#include <netinet/in.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/findings.h"

#define PLACE_HOST_MAX 256	/* octets of a host name or path, with NUL */
#define PLACE_PORT_MAX 32	/* octets of a port's number or name */

/* Where to connect. */
struct place {
	bool local;		/* a unix socket, host is its path */
	char host[PLACE_HOST_MAX];
	char port[PLACE_PORT_MAX];	/* "" if none was given */
};

/* Reads one place: "unix:PATH", "inet:HOST:PORT", "[HOST]:PORT", "HOST:PORT",
   "HOST", or an IPv6 address without brackets, if it does not end like a port.
   False: p[0..len) is none. */
bool	place_parse(const char *p, size_t len, struct place *to);

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

#define ADDRESSES_MAX 16	/* that are tried of one name */

/* One address to connect to. */
struct address {
	socklen_t len;		/* 0: the place is a unix socket */
	union {
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	};
};

struct addresses {
	size_t n;
	struct address at[ADDRESSES_MAX];
};

/*
 * Finds the addresses of a place, with port if the place names none.  Returns
 * 0, or -1 with errno (ETIMEDOUT at the deadline) and a phrase in
 * why[0..size).  Only names cost a process, which asks the resolver.
 */
int	stream_resolve(const struct place *place, const char *port,
	    struct addresses *to, int64_t deadline, char *why, size_t size);

/* Connects s to one of the addresses of a place.  Returns as above. */
int	stream_dial(struct stream *s, const struct place *place,
	    const struct address *to, int64_t deadline, char *why,
	    size_t size);

/* Connects s to the first address that accepts of a place that place_parse()
   reads.  Returns as above; EINVAL if where is no place. */
int	stream_connect(struct stream *s, const char *where, const char *port,
	    int64_t deadline, char *why, size_t size);

/* For --check: adds whether that place, which what calls by its name, can be
   connected to: a network's only if f->connect is set, else its name is looked
   up.  worst is what it means where it cannot. */
void	stream_check(const char *where, const char *what, enum finding worst,
	    struct findings *f);

/* Sends all of it.  Returns 0, or -1 with errno.  Never raises SIGPIPE. */
int	stream_write(struct stream *s, const void *p, size_t len,
	    int64_t deadline);

/*
 * Reads a line into line[0..size), without its CRLF or LF, NUL-terminated; what
 * is longer is cut, its end skipped.  Returns its length as kept, or -1 with
 * errno: 0 for end of file, ETIMEDOUT, EMSGSIZE beyond STREAM_LINE_MAX: a line
 * without an end must not keep the deadline from coming.
 */
long	stream_line(struct stream *s, char *line, size_t size,
	    int64_t deadline);

/* Reads exactly len octets.  Returns 0, or -1 with errno: 0 for end of file. */
int	stream_read(struct stream *s, void *p, size_t len, int64_t deadline);

/* Whether the connection is open and the peer has said nothing that was not
   read: then what it says next is an answer to what it is told next. */
bool	stream_quiet(const struct stream *s);

/* What the errno of stream_line() or stream_write() means, as a phrase for the
   log. */
const char *stream_reason(int error);

/* True if there is input, or the end, without waiting.  Empty lines before it
   are skipped. */
bool	stream_has_input(struct stream *s);

/* Closes it, and drops what was not read.  Legal twice. */
void	stream_close(struct stream *s);

#endif
