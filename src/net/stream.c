/*
 * stream.c - places to connect to, and connections read by lines.
 */
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "net/spawn.h"
#include "net/stream.h"

#define CONNECT_SECONDS 30	/* for one address */

/* What the process that resolves a name tells. */
struct answer {
	int error, system;	/* getaddrinfo()'s, and errno after it */
	struct addresses found;
};

static bool
starts(const char *p, size_t len, const char *prefix)
{
	size_t n = strlen(prefix);

	return len >= n && strncasecmp(p, prefix, n) == 0;
}

/* Is host an IPv6 address, perhaps with its scope ("fe80::1%eth0")? */
static bool
is_ipv6(const char *host)
{
	char address[INET6_ADDRSTRLEN];
	struct in6_addr to;
	size_t n = strcspn(host, "%");

	return (host[n] == '\0' || host[n + 1] != '\0') &&
	    text_fit(address, sizeof address, host, n) &&
	    inet_pton(AF_INET6, address, &to) == 1;
}

/* Is host a name or an address?  A name that ends in a number is neither
   (RFC 1123 2.1): getaddrinfo(3) would take 10.1 for 10.0.0.1. */
static bool
is_host(const char *host)
{
	const char *label = host;
	struct in_addr to;
	size_t n;

	if (host[strcspn(host, ":%")] != '\0')
		return is_ipv6(host);
	for (;; label += n + 1) {
		n = text_label(label);
		if (n == 0 || label[0] == '-' ||
		    (label[n] != '.' && label[n] != '\0'))
			return false;
		if (label[n] == '\0' || label[n + 1] == '\0')
			return text_digits(label) != n ||
			    inet_pton(AF_INET, host, &to) == 1;
	}
}

/* Can host, an IPv6 address without brackets, be read as another with a port
   after it, as ::1:25 can? */
static bool
ends_in_port(char *host)
{
	char *colon = strrchr(host, ':');
	bool is;

	if (colon == NULL || text_parse_port(colon + 1) == 0)
		return false;
	*colon = '\0';
	is = is_ipv6(host);
	*colon = ':';
	return is;
}

/* More than one colon without brackets is IPv6. */
bool
place_parse(const char *p, size_t len, struct place *to)
{
	const char *end, *colon, *rest;
	const size_t path_max = sizeof ((struct sockaddr_un *)0)->sun_path;

	memset(to, 0, sizeof *to);
	if (starts(p, len, "unix:")) {
		to->local = true;
		return text_fit(to->host, path_max, p + 5, len - 5);
	}
	if (starts(p, len, "inet:")) {
		p += 5;
		len -= 5;
	}
	end = p + len;
	if (len > 0 && *p == '[') {
		rest = memchr(++p, ']', len - 1);
		if (rest == NULL)
			return false;
		colon = rest + 1;
	} else {
		colon = memchr(p, ':', len);
		if (colon == NULL || memchr(colon + 1, ':',
		    (size_t)(end - colon - 1)) != NULL)
			colon = end;
		rest = colon;
	}
	if (!text_fit(to->host, sizeof to->host, p, (size_t)(rest - p)) ||
	    !is_host(to->host))
		return false;
	if (colon == end)
		return rest != colon || !ends_in_port(to->host);
	return *colon == ':' && text_fit(to->port, sizeof to->port, colon + 1,
	    (size_t)(end - colon - 1)) && to->port[strspn(to->port,
	    "abcdefghijklmnopqrstuvwxyz-0123456789")] == '\0' &&
	    (text_parse_port(to->port) != 0 ||
	    to->port[text_digits(to->port)] != '\0');
}

/* Connects to one address.  Returns a descriptor, or -1 with errno. */
static int
dial(const struct sockaddr *to, socklen_t len, int64_t deadline)
{
	int fd, err = 0, on = 1;
	socklen_t size = sizeof err;

	fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
	    0);
	if (fd == -1)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(fd, to, len) == -1) {
		err = errno;
		if (err == EINPROGRESS || err == EINTR) {
			if (clock_wait(fd, POLLOUT, deadline) == -1 ||
			    getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size)
			    == -1)
				err = errno;
		}
	}
	if (err != 0) {
		errno = err;
		file_close(&fd);
	}
	return fd;
}

/* Connects to a unix socket, likewise.  If its queue is full a connect() that
   does not block fails, and poll() cannot wait for a place: it has to block. */
static int
dial_path(const char *path, int64_t deadline)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int left = clock_left(deadline), fd, n;
	struct timeval tv;

	if (left == 0) {
		errno = ETIMEDOUT;
		return -1;
	}
	memcpy(un.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return -1;
	tv.tv_sec = left / 1000;
	tv.tv_usec = left % 1000 * 1000;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
	do
		n = connect(fd, (struct sockaddr *)&un, sizeof un);
	while (n == -1 && errno == EINTR && clock_left(deadline) > 0);
	if (n == 0)
		return fd;
	if (errno == EAGAIN || errno == EINTR)
		errno = ETIMEDOUT;
	file_close(&fd);
	return fd;
}

/* In a child process, which ends with us: writes the addresses of a name, or
   the error. */
static _Noreturn void
resolve_and_exit(int to, const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *a;
	struct answer answer;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	memset(&answer, 0, sizeof answer);
	answer.error = getaddrinfo(host, port, &hints, &list);
	answer.system = errno;
	for (a = answer.error == 0 ? list : NULL; a != NULL &&
	    answer.found.n < ADDRESSES_MAX; a = a->ai_next)
		if (a->ai_addrlen <= sizeof answer.found.at[0].in6) {
			memcpy(&answer.found.at[answer.found.n].in6,
			    a->ai_addr, a->ai_addrlen);
			answer.found.at[answer.found.n++].len = a->ai_addrlen;
		}
	_exit(file_write_all(to, (const char *)&answer, sizeof answer) == -1);
}

/* Asks the resolver in a process of its own, since it knows no deadline, and a
   process can be ended at ours.  Returns 0, or -1 with errno. */
static int
ask_resolver(const char *host, const char *port, struct answer *answer,
    int64_t deadline)
{
	struct stream s = { .fd = -1 };
	int line[2], n = -1, err;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) == -1)
		return -1;
	pid = fork();
	if (pid == 0)
		resolve_and_exit(line[1], host, port);
	err = errno;
	close(line[1]);
	if (pid != -1) {
		s.fd = line[0];
		n = stream_read(&s, answer, sizeof *answer, deadline);
		err = errno == 0 ? ECHILD : errno;	/* it ended */
		kill(pid, SIGKILL);
		spawn_reap(pid);
	}
	close(line[0]);
	errno = err;
	return n;
}

/* Finds the addresses of a host that is no literal address.  Returns 0, or -1
   with errno, and perhaps a phrase. */
static int
resolve_name(const char *host, const char *port, struct addresses *to,
    int64_t deadline, const char **phrase)
{
	struct answer answer;

	if (ask_resolver(host, port, &answer, deadline) == -1) {
		if (errno == ETIMEDOUT)
			*phrase = "the name server does not answer";
		return -1;
	}
	if (answer.error == 0) {
		*to = answer.found;
		return 0;
	}
	errno = answer.system;
	if (answer.error != EAI_SYSTEM) {
		*phrase = answer.error == EAI_SERVICE ? "no such port"
		    : gai_strerror(answer.error);
		errno = EHOSTUNREACH;
	}
	return -1;
}

static int
find_addresses(const struct place *place, const char *port,
    struct addresses *to, int64_t deadline, const char **phrase)
{
	struct address *a = &to->at[0];

	memset(to, 0, sizeof *to);
	to->n = 1;
	if (place->local)
		return 0;
	if (place->port[0] != '\0')
		port = place->port;
	if (port == NULL) {
		*phrase = "no port given";
		errno = EINVAL;
		return -1;
	}
	/* Only names need the resolver, which costs much. */
	a->in.sin_port = htons((in_port_t)text_parse_port(port));
	a->in.sin_family = AF_INET;
	a->len = sizeof a->in;
	if (a->in.sin_port != 0 &&
	    inet_pton(AF_INET, place->host, &a->in.sin_addr))
		return 0;
	a->in6.sin6_family = AF_INET6;
	a->len = sizeof a->in6;
	if (a->in6.sin6_port != 0 &&
	    inet_pton(AF_INET6, place->host, &a->in6.sin6_addr))
		return 0;
	to->n = 0;
	return resolve_name(place->host, port, to, deadline, phrase);
}

/* Ends a function with errno and the sentence for it.  Returns -1. */
static int
explain(const char *phrase, char *why, size_t size)
{
	int err = errno;

	text_copy(why, size, phrase != NULL ? phrase : strerror(err));
	errno = err;
	return -1;
}

int
stream_resolve(const struct place *place, const char *port,
    struct addresses *to, int64_t deadline, char *why, size_t size)
{
	const char *phrase = NULL;

	if (find_addresses(place, port, to, deadline, &phrase) == 0)
		return 0;
	to->n = 0;
	return explain(phrase, why, size);
}

int
stream_dial(struct stream *s, const struct place *place,
    const struct address *to, int64_t deadline, char *why, size_t size)
{
	s->have = s->used = 0;
	s->fd = place->local ? dial_path(place->host, deadline) :
	    dial((const struct sockaddr *)&to->in, to->len,
	    clock_within(deadline, CONNECT_SECONDS));
	return s->fd != -1 ? 0 : explain(NULL, why, size);
}

/* The time that there is is shared among the addresses. */
int
stream_connect(struct stream *s, const char *where, const char *port,
    int64_t deadline, char *why, size_t size)
{
	struct addresses found;
	struct place place;
	size_t i;

	s->fd = -1;
	s->have = s->used = 0;
	if (!place_parse(where, strlen(where), &place)) {
		errno = EINVAL;
		return explain("not a place to connect to", why, size);
	}
	if (stream_resolve(&place, port, &found, deadline, why, size) == -1)
		return -1;
	for (i = 0; i < found.n && s->fd == -1; i++)
		stream_dial(s, &place, &found.at[i], clock_now() +
		    clock_left(deadline) / (int)(found.n - i), why, size);
	return s->fd != -1 ? 0 : -1;
}

/* Reads what has come, and waits for none.  Returns the count, or -1 with
   errno, 0 for end of file. */
static long
receive(struct stream *s)
{
	ssize_t n;

	if (s->used == s->have)
		s->used = s->have = 0;
	n = recv(s->fd, s->buffer + s->have, sizeof s->buffer - s->have,
	    MSG_DONTWAIT);
	if (n == 0)
		errno = 0;
	if (n <= 0)
		return -1;
	s->have += (size_t)n;
	return n;
}

/*
 * Where the peer does not read, what it says is read meanwhile, as far as
 * there is room: it may be stuck in writing.
 */
int
stream_write(struct stream *s, const void *p, size_t len, int64_t deadline)
{
	const char *from = p;
	bool ended = false;
	ssize_t n;
	int seen;

	while (len > 0) {
		n = send(s->fd, from, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			from += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			if (s->have == sizeof s->buffer)
				ended = true;
			seen = clock_wait(s->fd, ended ? POLLOUT :
			    POLLOUT | POLLIN, deadline);
			if (seen == -1)
				return -1;
			if ((seen & POLLIN) && receive(s) == -1 &&
			    errno != EAGAIN && errno != EINTR)
				ended = true;
		} else if (errno != EINTR)
			return -1;
	}
	return 0;
}

long
stream_line(struct stream *s, char *line, size_t size, int64_t deadline)
{
	const char *p, *lf;
	size_t len = 0, all = 0, n, room;

	assert(size > 0);
	for (;;) {
		p = s->buffer + s->used;
		n = s->have - s->used;
		lf = memchr(p, '\n', n);
		if (lf != NULL)
			n = (size_t)(lf - p);
		room = size - 1 - len;
		memcpy(line + len, p, n < room ? n : room);
		len += n < room ? n : room;
		s->used += n;
		all += n;
		if (lf != NULL)
			break;
		if (all > STREAM_LINE_MAX) {
			errno = EMSGSIZE;
			return -1;
		}
		if (clock_wait(s->fd, POLLIN, deadline) == -1)
			return -1;
		if (receive(s) == -1 && errno != EAGAIN && errno != EINTR)
			return -1;
	}
	s->used++;
	if (len > 0 && line[len - 1] == '\r')
		len--;
	line[len] = '\0';
	return (long)len;
}

int
stream_read(struct stream *s, void *p, size_t len, int64_t deadline)
{
	char *to = p;
	size_t n;

	while (len > 0) {
		n = s->have - s->used < len ? s->have - s->used : len;
		memcpy(to, s->buffer + s->used, n);
		s->used += n;
		to += n;
		len -= n;
		if (len > 0 && (clock_wait(s->fd, POLLIN, deadline) == -1 ||
		    (receive(s) == -1 && errno != EAGAIN && errno != EINTR)))
			return -1;
	}
	return 0;
}

bool
stream_has_input(struct stream *s)
{
	int fills;

	/* A peer that sends empty lines without end has sent something. */
	for (fills = 0; fills < 16; fills++) {
		while (s->used < s->have && (s->buffer[s->used] == '\n' ||
		    (s->buffer[s->used] == '\r' && s->used + 1 < s->have &&
		    s->buffer[s->used + 1] == '\n')))
			s->used += s->buffer[s->used] == '\n' ? 1 : 2;
		if (s->used < s->have)
			return true;
		if (receive(s) == -1)
			return errno != EAGAIN && errno != EINTR;
	}
	return true;
}

void
stream_close(struct stream *s)
{
	file_close(&s->fd);
	s->have = s->used = 0;
}

bool
stream_quiet(const struct stream *s)
{
	char octet;

	return s->used == s->have &&
	    recv(s->fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT) == -1 &&
	    errno == EAGAIN;
}

const char *
stream_reason(int error)
{
	if (error == 0)
		return "connection closed";
	if (error == ETIMEDOUT)
		return "no answer in time";
	if (error == EMSGSIZE)
		return "line too long";
	return strerror(error);
}
