/*
 * nexthop.c - the client's side of SMTP and LMTP with one next hop.
 *
 * The dialogue is synchronous and in groups (RFC 2920): commands gather in
 * out, flush() sends them in one write, hear() reads a reply for each.
 *  - A group is small enough for a socket's buffers, so that neither side can
 *    wait for the other to read.  Without PIPELINING it is one command.
 *  - Whatever goes wrong becomes a verdict: what the next hop said, or 451.
 *    Where the connection can no longer be trusted, it is closed.
 *  - A reply that nobody asked for is looked for before each group, since it
 *    would be taken for the answer to the next command.
 *  - A connection that was kept from the message before may be dead.  Until
 *    its MAIL is answered that is no news: it is opened again, once.
 *  - Once the end of a message was sent, nothing is ever sent again.
 * It keeps no queue, looks up no MX, and links no TLS: smtpd-tls does that.
 */
#define _GNU_SOURCE	/* explicit_bzero, pipe2 */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/smtp.h"

#define TLS_SECONDS 60		/* for a handshake */
#define QUIT_SECONDS 1		/* for a farewell */
#define BLOCK_SECONDS 180	/* for a block of data; RFC 5321 4.5.3.2.5 */
#define REPLY_LINE_MAX 1024	/* octets kept of a reply's line */
#define REPLY_LINES_MAX 1000	/* lines of one reply */
#define GROUP_MAX 8192		/* octets after which a group is sent */
#define BLOCK_MAX 32768		/* octets of a group, or of message text */
#define CREDENTIALS_MAX 65536	/* octets of the file of credentials */
#define CREDENTIAL_MAX 256	/* octets of a user or a password, with NUL */
#define XFORWARD_VALUE_MAX 255	/* octets, before they are encoded */
#define XFORWARD_LINE 256	/* octets after which another command begins */

#define DIGITS "0123456789"

/* What EHLO may offer. */
enum {
	CAN_PIPELINING = 1 << 0,
	CAN_SIZE = 1 << 1,
	CAN_8BITMIME = 1 << 2,
	CAN_SMTPUTF8 = 1 << 3,
	CAN_DSN = 1 << 4,
	CAN_CHUNKING = 1 << 5,
	CAN_BINARYMIME = 1 << 6,
	CAN_STARTTLS = 1 << 7,
	CAN_AUTH_PLAIN = 1 << 8,
	CAN_AUTH_LOGIN = 1 << 9,
	CAN_XFORWARD_NAME = 1 << 10,
	CAN_XFORWARD_ADDR = 1 << 11,
	CAN_XFORWARD_PORT = 1 << 12,
	CAN_XFORWARD_PROTO = 1 << 13,
	CAN_XFORWARD_HELO = 1 << 14,
	CAN_XFORWARD = 31 << 10
};

/* Keywords of EHLO, and arguments among which one must be. */
static const struct {
	const char *keyword, *argument;
	unsigned can;
} offers[] = {
	{ "PIPELINING", NULL, CAN_PIPELINING },
	{ "SIZE", NULL, CAN_SIZE },
	{ "8BITMIME", NULL, CAN_8BITMIME },
	{ "SMTPUTF8", NULL, CAN_SMTPUTF8 },
	{ "DSN", NULL, CAN_DSN },
	{ "CHUNKING", NULL, CAN_CHUNKING },
	{ "BINARYMIME", NULL, CAN_BINARYMIME },
	{ "STARTTLS", NULL, CAN_STARTTLS },
	{ "AUTH", "PLAIN", CAN_AUTH_PLAIN },
	{ "AUTH", "LOGIN", CAN_AUTH_LOGIN },
	{ "XFORWARD", "NAME", CAN_XFORWARD_NAME },
	{ "XFORWARD", "ADDR", CAN_XFORWARD_ADDR },
	{ "XFORWARD", "PORT", CAN_XFORWARD_PORT },
	{ "XFORWARD", "PROTO", CAN_XFORWARD_PROTO },
	{ "XFORWARD", "HELO", CAN_XFORWARD_HELO },
};

/* What XFORWARD may carry. */
static const struct {
	const char *name;
	unsigned can;
	enum fact fact;
} forwards[] = {
	{ "NAME", CAN_XFORWARD_NAME, FACT_CLIENT_NAME },
	{ "ADDR", CAN_XFORWARD_ADDR, FACT_CLIENT_ADDRESS },
	{ "PORT", CAN_XFORWARD_PORT, FACT_CLIENT_PORT },
	{ "PROTO", CAN_XFORWARD_PROTO, FACT_CLIENT_PROTOCOL },
	{ "HELO", CAN_XFORWARD_HELO, FACT_CLIENT_HELO },
};

enum step {
	GREETING,
	HELLO,
	HELO,
	STARTTLS,
	AUTH,
	CHALLENGE,
	XFORWARD,
	RSET,
	MAIL,
	RCPT,
	DATA,
	END
};

/*
 * The steps of a dialogue: the code that each wants, 200 for any of the two
 * hundreds, for how long it is waited for (RFC 5321 4.5.3.2), and whether a
 * refusal is logged with the step's name, as nobody would expect it there.
 */
static const struct {
	const char *name;
	int want, seconds;
	bool told;
} steps[] = {
	[GREETING] = { "the greeting", 220, 300, true },
	[HELLO] = { "EHLO", 250, 300, false },
	[HELO] = { "HELO", 250, 300, true },
	[STARTTLS] = { "STARTTLS", 220, 120, true },
	[AUTH] = { "AUTH", 235, 120, false },
	[CHALLENGE] = { "AUTH", 334, 120, false },
	[XFORWARD] = { "XFORWARD", 250, 300, false },
	[RSET] = { "RSET", 250, 300, false },
	[MAIL] = { "MAIL", 200, 300, true },
	[RCPT] = { "RCPT", 200, 300, false },
	[DATA] = { "DATA", 354, 120, true },
	[END] = { "the end of the message", 200, 600, false },
};

struct nexthop {
	const struct relay_settings *set;
	enum nexthop_protocol protocol;
	const char *where;
	int auth;		/* the file of credentials, or -1 */
	const struct envelope *env;	/* for the log, during a call */
	struct place place;		/* where s leads, or led */
	struct stream s;
	unsigned can;
	uint64_t size_max;	/* the SIZE that it offers, 0: no limit known */
	bool secure;		/* nobody can listen: TLS, or a unix socket */
	bool dirty;		/* a transaction is open: RSET comes first */
	bool kept;		/* from another message, not heard of since */
	bool stale;		/* so it was, and is dead */
	bool doubt;		/* a reply never came, or made no sense */
	size_t accepted;	/* recipients of the open transaction */
	int error;		/* errno of a failed write, until flush() */
	size_t held;		/* octets in out */
	char out[BLOCK_MAX];
	char in[BLOCK_MAX];
};

/* Tells the administrator about the next hop. */
static void
complain(const struct nexthop *h, const char *what, const char *why)
{
	logger_printf(&h->set->log, LOG_WARNING, "nexthop", h->env,
	    "%s%s%s: %s: %.*s", h->place.host, h->place.port[0] ? ":" : "",
	    h->place.port, what, (int)strcspn(why, "\n"), why);
}

static void
hang_up(struct nexthop *h)
{
	stream_close(&h->s);
	h->held = 0;
	h->dirty = false;
}

/* The connection failed, with errno or 0 for its end.  Returns false. */
static bool
lost(struct nexthop *h, enum step step, int err, struct reply *r)
{
	hang_up(h);
	h->doubt = true;
	h->stale = h->kept && err != ETIMEDOUT;
	if (!h->stale)
		complain(h, steps[step].name, err == 0 ? "connection closed" :
		    strerror(err));
	if (err == ETIMEDOUT)
		reply_set(r, 451, "4.4.2", "Next hop timed out");
	else
		reply_set(r, 451, "4.4.2", "Connection to next hop lost");
	return false;
}

/* It says what makes no sense.  Returns false. */
static bool
garbled(struct nexthop *h, enum step step, const char *line,
    struct reply *r)
{
	hang_up(h);
	h->doubt = true;
	/* It may repeat what we said, and passwords are not logged. */
	complain(h, steps[step].name, step == AUTH || step == CHALLENGE ?
	    "not a reply" : line);
	reply_set(r, 451, "4.5.0", "Next hop broke the protocol");
	return false;
}

/* Octets of the enhanced code (RFC 3463) of that class that text starts with,
   and of the space after it; it goes to enh.  0: there is none. */
static size_t
enhanced(const char *text, int class, char enh[12])
{
	size_t a, b, n;

	if (text[0] != '0' + class || text[1] != '.')
		return 0;
	a = strspn(text + 2, DIGITS);
	if (a < 1 || a > 3 || text[2 + a] != '.')
		return 0;
	b = strspn(text + 3 + a, DIGITS);
	n = 3 + a + b;
	if (b < 1 || b > 3 || (text[n] != ' ' && text[n] != '\0'))
		return 0;
	memcpy(enh, text, n);
	enh[n] = '\0';
	return n + (text[n] == ' ');
}

/* The word, of those in words, that is name or begins with "name=". */
static const char *
find(const char *words, const char *name)
{
	size_t n = strlen(name);

	for (;;) {
		words += strspn(words, " ");
		if (*words == '\0')
			return NULL;
		if (strncasecmp(words, name, n) == 0 &&
		    (words[n] == '\0' || words[n] == ' ' || words[n] == '='))
			return words;
		words += strcspn(words, " ");
	}
}

/* Learns from a line of EHLO's reply.  Old servers write "AUTH=". */
static void
learn(struct nexthop *h, const char *line)
{
	const char *arguments;
	size_t i;

	for (i = 0; i < COUNT(offers); i++) {
		if (find(line, offers[i].keyword) != line)
			continue;
		arguments = line + strlen(offers[i].keyword);
		arguments += strspn(arguments, " =");
		if (offers[i].argument == NULL ||
		    find(arguments, offers[i].argument) != NULL)
			h->can |= offers[i].can;
		if (offers[i].can == CAN_SIZE && strlen(arguments) < 19 &&
		    arguments[strspn(arguments, DIGITS)] == '\0')
			h->size_max = strtoull(arguments, NULL, 10);
	}
}

/* Takes control characters out. */
static void
strip(char *line, size_t len)
{
	size_t i, n = 0;

	for (i = 0; i < len; i++)
		if ((unsigned char)line[i] >= ' ' && line[i] != '\177')
			line[n++] = line[i];
	line[n] = '\0';
}

/* The code of a reply's line, and whether more follow; 0 if it is none. */
static int
reply_code(const char *line, bool *more)
{
	if (line[0] < '2' || line[0] > '5' || strspn(line, DIGITS) != 3 ||
	    (line[3] != '\0' && line[3] != ' ' && line[3] != '-'))
		return 0;
	*more = line[3] == '-';
	return (line[0] - '0') * 100 + (line[1] - '0') * 10 + line[2] - '0';
}

/* Adds a line to a reply, whose first line has the enhanced code. */
static void
add_line(struct reply *r, bool first, const char *text)
{
	size_t used = strlen(r->text);
	char enh[sizeof r->enh] = "";
	size_t n = enhanced(text, r->code / 100, enh);

	if (first && n == 0) {
		memcpy(r->enh, "x.0.0", sizeof "x.0.0");
		r->enh[0] = (char)('0' + r->code / 100);
	} else if (first)
		memcpy(r->enh, enh, sizeof enh);
	else if (strcmp(r->enh, enh) != 0)
		n = 0;
	snprintf(r->text + used, sizeof r->text - used, "%s%s",
	    first ? "" : "\n", text + n);
}

/*
 * Reads a whole reply into *r as it was given, and from that to EHLO what is
 * offered.  False: there was none, and *r is what that means.
 */
static bool
read_reply(struct nexthop *h, enum step step, int64_t deadline,
    struct reply *r)
{
	char line[REPLY_LINE_MAX];
	bool more = true;
	int n, code;
	long len;

	r->code = 0;
	r->enh[0] = r->text[0] = '\0';
	for (n = 0; more; n++) {
		len = stream_line(&h->s, line, sizeof line, deadline);
		if (len == -1)
			return lost(h, step, errno, r);
		strip(line, (size_t)len);
		code = reply_code(line, &more);
		if (code == 0 || (n > 0 && code != r->code) ||
		    n == REPLY_LINES_MAX)
			return garbled(h, step, line, r);
		r->code = code;
		if (step == HELLO && n > 0 && code == 250)
			learn(h, line + (line[3] == '\0' ? 3 : 4));
		add_line(r, n == 0, line + (line[3] == '\0' ? 3 : 4));
	}
	return true;
}

/* Tells where the next hop refused, for our client is told only what. */
static void
refused(const struct nexthop *h, enum step step, const struct reply *r)
{
	char why[REPLY_TEXT + 32];

	snprintf(why, sizeof why, "%d %s %s", r->code, r->enh, r->text);
	complain(h, steps[step].name, why);
}

/*
 * Hears the reply that a step waits for.  True: it is the one wanted.  False:
 * *r says why not, with a code from 400 that is not 421: a server that says
 * so to its own client hangs up.  The connection is closed if it is lost.
 */
static bool
hear(struct nexthop *h, enum step step, int64_t deadline, struct reply *r)
{
	int want = steps[step].want;

	if (!read_reply(h, step, clock_within(deadline, steps[step].seconds), r))
		return false;
	if (r->code >= 400 && steps[step].told &&
	    !(h->kept && r->code == 421))
		refused(h, step, r);
	if (r->code == 421) {
		hang_up(h);
		h->stale = h->kept;
		r->code = 451;
		return false;
	}
	if (r->code >= 400 || r->code == want)
		return r->code < 400;
	if (want == 200 && r->code / 100 == 2 && r->code != 221)
		return true;
	return garbled(h, step, r->text, r);
}

/* Adds to the group.  What does not fit is an error that flush() finds. */
static void __attribute__((format(printf, 2, 3)))
say(struct nexthop *h, const char *fmt, ...)
{
	size_t room = sizeof h->out - h->held;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(h->out + h->held, room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room)
		h->error = EMSGSIZE;
	else
		h->held += (size_t)n;
}

/* Something has come that was not read. */
static bool
spoke(struct stream *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLIN };

	return s->used < s->have || poll(&p, 1, 0) == 1;
}

/*
 * Sends the group, after which step's reply is waited for.  A next hop that
 * has spoken before it was asked hung up, perhaps with a farewell, or is out
 * of step; then nothing is sent, for its words would be taken as the answer.
 * What it said while it was kept is not about this message, whatever code.
 */
static bool
flush(struct nexthop *h, enum step step, int64_t deadline, struct reply *r)
{
	int err = h->error;

	h->error = 0;
	deadline = clock_within(deadline, BLOCK_SECONDS);
	if (err == 0 && !spoke(&h->s)) {
		if (stream_write(&h->s, h->out, h->held, deadline) == -1)
			err = errno;
		h->held = 0;
		if (err == 0)
			return true;
	}
	if (h->kept || !spoke(&h->s))
		return lost(h, step, err, r);
	if (!hear(h, step, clock_within(deadline, 5), r))
		hang_up(h);
	else
		garbled(h, step, r->text, r);
	return false;
}

/* Sends a command and hears its reply. */
static bool
turn(struct nexthop *h, enum step step, int64_t deadline, struct reply *r)
{
	return flush(h, step, deadline, r) && hear(h, step, deadline, r);
}

/* Takes leave, if there is a connection. */
static void
part(struct nexthop *h, int64_t deadline)
{
	char line[REPLY_LINE_MAX];

	deadline = clock_within(deadline, QUIT_SECONDS);
	if (h->s.fd != -1 &&
	    stream_write(&h->s, "QUIT\r\n", 6, deadline) == 0)
		stream_line(&h->s, line, sizeof line, deadline);
	hang_up(h);
}

static const char *
default_port(enum nexthop_protocol protocol)
{
	if (protocol == NEXTHOP_LMTP)
		return "24";
	return protocol == NEXTHOP_SMTPS ? "465" : "25";
}

static bool
hello(struct nexthop *h, int64_t deadline, struct reply *r)
{
	bool lmtp = h->protocol == NEXTHOP_LMTP;

	h->can = 0;
	h->size_max = 0;
	say(h, "%s %s\r\n", lmtp ? "LHLO" : "EHLO", h->set->fqdn);
	if (turn(h, HELLO, deadline, r))
		return true;
	if (h->s.fd == -1 || lmtp || r->code < 500)
		return false;
	say(h, "HELO %s\r\n", h->set->fqdn);	/* RFC 5321 3.2 */
	return turn(h, HELO, deadline, r);
}

/* Puts TLS between the next hop and us. */
static bool
encrypt(struct nexthop *h, bool verify, int64_t deadline, struct reply *r)
{
	const char *argv[7];
	char report[1024] = "";
	size_t n = 0;
	int fd;

	argv[n++] = h->set->tls_program;
	argv[n++] = "client";
	if (verify) {
		argv[n++] = "--verify";
		argv[n++] = h->place.host;
	}
	if (verify && h->set->tls_ca != NULL) {
		argv[n++] = "--ca";
		argv[n++] = h->set->tls_ca;
	}
	argv[n] = NULL;
	fd = tls_start(argv, NULL, h->s.fd, clock_within(deadline, TLS_SECONDS),
	    report, sizeof report);
	stream_close(&h->s);
	h->s.fd = fd;
	h->secure = fd != -1;
	if (h->secure)
		return true;
	strip(report, strlen(report));
	complain(h, "TLS", report);
	reply_set(r, 451, "4.7.5", "No secure connection to next hop");
	return false;
}

/*
 * STARTTLS, and EHLO again (RFC 3207 4.2).  False: *r says why there is no
 * TLS, which the connection may have survived.  If we need not have it, the
 * next hop's own refusal counts as success.
 */
static bool
starttls(struct nexthop *h, bool must, int64_t deadline, struct reply *r)
{
	bool offered = (h->can & CAN_STARTTLS) != 0;

	if (offered) {
		say(h, "STARTTLS\r\n");
		if (turn(h, STARTTLS, deadline, r)) {
			/* Said in the clear, by somebody: RFC 3207 5. */
			if (h->s.used < h->s.have)
				return garbled(h, STARTTLS, "more than a reply",
				    r);
			return encrypt(h, must, deadline, r) &&
			    hello(h, deadline, r);
		}
		if (h->s.fd == -1)
			return false;
	}
	if (!must)
		return true;
	if (!offered)
		complain(h, "STARTTLS", "not offered");
	reply_set(r, 451, "4.7.4", "Next hop offers no TLS");
	return false;
}

/* Connects to h->place and greets it. */
static bool
reach(struct nexthop *h, int64_t deadline, struct reply *r)
{
	char why[128];

	if (stream_dial(&h->s, &h->place, default_port(h->protocol), deadline,
	    why, sizeof why) == -1) {
		complain(h, "cannot connect", why);
		reply_set(r, 451, "4.4.1", "Cannot connect to next hop");
		return false;
	}
	h->secure = h->place.local;
	if (h->protocol == NEXTHOP_SMTPS && !encrypt(h, true, deadline, r))
		return false;
	return hear(h, GREETING, deadline, r) && hello(h, deadline, r);
}

static bool
copy(char *to, size_t size, const char *from, size_t len)
{
	if (len == 0 || len >= size)
		return false;
	memcpy(to, from, len);
	to[len] = '\0';
	return true;
}

struct credentials {
	char user[CREDENTIAL_MAX];
	char password[CREDENTIAL_MAX];
};

/* Reads a line of the file: 1 if it is for h->place, c is filled in then; 0 if
   it is not; -1 with errno if it is, and makes no sense. */
static int
parse_credentials(const struct nexthop *h, const char *line, size_t len,
    struct credentials *c)
{
	const char *end = line + len, *key = line, *user, *colon;
	const char *standard = default_port(h->protocol);
	struct place to;

	while (end > line && isspace((unsigned char)end[-1]))
		end--;
	while (line < end && !isspace((unsigned char)*line))
		line++;
	if (*key == '#' || !place_parse(key, (size_t)(line - key), &to) ||
	    to.local != h->place.local ||
	    strcasecmp(to.host, h->place.host) != 0 ||
	    strcmp(to.port[0] ? to.port : standard,
	    h->place.port[0] ? h->place.port : standard) != 0)
		return 0;
	for (user = line; user < end && isspace((unsigned char)*user); )
		user++;
	colon = memchr(user, ':', (size_t)(end - user));
	if (colon != NULL &&
	    copy(c->user, sizeof c->user, user, (size_t)(colon - user)) &&
	    copy(c->password, sizeof c->password, colon + 1,
	    (size_t)(end - colon - 1)))
		return 1;
	errno = EINVAL;
	return -1;
}

/* Reads the file of credentials into text, less than size octets.  Returns the
   count, or -1 with errno. */
static long
read_file(const struct nexthop *h, char *text, size_t size)
{
	int fd = file_again(h->auth, h->set->auth), err;
	size_t have = 0;
	struct stat st;
	ssize_t n;

	if (fd == -1)
		return -1;
	if (fstat(fd, &st) == 0 && (st.st_mode & S_IROTH))
		complain(h, "anyone can read the credentials in",
		    h->set->auth);
	do {
		n = read(fd, text + have, size - have);
		if (n > 0)
			have += (size_t)n;
	} while (n > 0 || (n == -1 && errno == EINTR));
	err = errno;
	close(fd);
	errno = have == size ? EFBIG : err;
	return n == -1 || have == size ? -1 : (long)have;
}

/* Our credentials with h->place: 1, 0 if we need none, or -1 with errno. */
static int
credentials(const struct nexthop *h, struct credentials *c)
{
	char *text = malloc(CREDENTIALS_MAX), *p, *end;
	int found = 0, err;
	long n;

	if (text == NULL)
		return -1;
	n = read_file(h, text, CREDENTIALS_MAX);
	for (p = text; n > 0 && found == 0 && p < text + n; p = end + 1) {
		end = memchr(p, '\n', (size_t)(text + n - p));
		if (end == NULL)
			end = text + n;
		found = parse_credentials(h, p, (size_t)(end - p), c);
	}
	err = errno;
	explicit_bzero(text, CREDENTIALS_MAX);
	free(text);
	errno = err;
	return n == -1 ? -1 : found;
}

/* Adds octets to the group as base64. */
static void
say_base64(struct nexthop *h, const char *p, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	    "abcdefghijklmnopqrstuvwxyz" DIGITS "+/";
	unsigned char in[3];
	size_t n;

	for (; len > 0; p += n, len -= n) {
		n = len < 3 ? len : 3;
		memset(in, 0, sizeof in);
		memcpy(in, p, n);
		say(h, "%c%c%c%c", digits[in[0] >> 2],
		    digits[(in[0] & 3) << 4 | in[1] >> 4],
		    n > 1 ? digits[(in[1] & 15) << 2 | in[2] >> 6] : '=',
		    n > 2 ? digits[in[2] & 63] : '=');
	}
	explicit_bzero(in, sizeof in);
}

static bool
auth_plain(struct nexthop *h, const struct credentials *c, int64_t deadline,
    struct reply *r)
{
	char message[1 + 2 * CREDENTIAL_MAX];	/* RFC 4616 */
	size_t user = strlen(c->user) + 1, password = strlen(c->password);

	message[0] = '\0';
	memcpy(message + 1, c->user, user);
	memcpy(message + 1 + user, c->password, password);
	say(h, "AUTH PLAIN ");
	say_base64(h, message, 1 + user + password);
	say(h, "\r\n");
	explicit_bzero(message, sizeof message);
	return turn(h, AUTH, deadline, r);
}

static bool
auth_login(struct nexthop *h, const struct credentials *c, int64_t deadline,
    struct reply *r)
{
	say(h, "AUTH LOGIN\r\n");
	if (!turn(h, CHALLENGE, deadline, r))
		return false;
	say_base64(h, c->user, strlen(c->user));
	say(h, "\r\n");
	if (!turn(h, CHALLENGE, deadline, r))
		return false;
	say_base64(h, c->password, strlen(c->password));
	say(h, "\r\n");
	return turn(h, AUTH, deadline, r);
}

/* Our own configuration does not fit: an error of ours, so temporary. */
static bool
misfit(const struct nexthop *h, struct reply *r, const char *enh,
    const char *why)
{
	complain(h, "AUTH", why);
	reply_set(r, 451, enh, "Cannot authenticate to next hop");
	return false;
}

/* What the file of credentials has against itself. */
static bool
unusable(const struct nexthop *h, int err, struct reply *r)
{
	char why[512];

	snprintf(why, sizeof why, "%.400s: %s", h->set->auth, err == EINVAL ?
	    "its line there is not NEXTHOP USER:PASSWORD" : strerror(err));
	return misfit(h, r, "4.3.5", why);
}

/* It refuses them.  Its text may repeat them, so it is not told. */
static bool
denied(const struct nexthop *h, struct reply *r)
{
	char why[64];

	snprintf(why, sizeof why, "refused with %d %s", r->code, r->enh);
	return misfit(h, r, "4.7.8", why);
}

static bool
authenticate(struct nexthop *h, int64_t deadline, struct reply *r)
{
	bool (*mechanism)(struct nexthop *, const struct credentials *,
	    int64_t, struct reply *);
	struct credentials c;
	bool ok = false;
	int n = 0;

	if (h->set->auth != NULL)
		n = credentials(h, &c);
	if (n == 0 && h->set->auth != NULL &&
	    (h->can & (CAN_AUTH_PLAIN | CAN_AUTH_LOGIN)))
		complain(h, "it offers AUTH, and has no line in",
		    h->set->auth);
	if (n == 0)
		return true;
	if (n == -1)
		return unusable(h, errno, r);
	mechanism = h->can & CAN_AUTH_PLAIN ? auth_plain : auth_login;
	if (!h->secure)
		misfit(h, r, "4.7.11", "no password goes out without TLS");
	else if (!(h->can & (CAN_AUTH_PLAIN | CAN_AUTH_LOGIN)))
		misfit(h, r, "4.7.0", "neither PLAIN nor LOGIN is offered");
	else
		ok = mechanism(h, &c, deadline, r) || (h->s.fd != -1 &&
		    denied(h, r));
	explicit_bzero(&c, sizeof c);
	explicit_bzero(h->out, sizeof h->out);
	return ok;
}

/* Opens h->place as far as MAIL. */
static bool
open_place(struct nexthop *h, int64_t deadline, struct reply *r)
{
	bool must = h->set->tls == TLS_MUST;
	bool tls = h->set->tls != TLS_NONE && !h->place.local &&
	    h->protocol != NEXTHOP_SMTPS;
	bool ok = reach(h, deadline, r);

	if (ok && tls && !starttls(h, must, deadline, r)) {
		ok = false;
		part(h, deadline);
		if (!must)	/* once more, in the clear */
			ok = reach(h, deadline, r);
	}
	if (ok && authenticate(h, deadline, r))
		return true;
	part(h, deadline);
	return false;
}

/*
 * Opens the first place of the list that can be opened.  If none can, *r is
 * what the last one said, or the first of those that may change their minds.
 */
static bool
open_any(struct nexthop *h, int64_t deadline, struct reply *r)
{
	const char *p = h->where;
	struct reply said;
	int left = 1;
	size_t n;

	for (n = 0; p[n] != '\0'; n++)
		left += p[n] == ',';
	for (r->code = 0; left > 0; p += n + 1, left--) {
		n = strcspn(p, ",");
		if (!place_parse(p, n, &h->place))
			reply_set(&said, 451, "4.3.5", "No such next hop");
		else if (open_place(h, clock_now() +
		    clock_left(deadline) / left, &said))
			return true;
		if (r->code == 0 || r->code >= 500)
			*r = said;
	}
	return false;
}

bool
nexthop_valid(enum nexthop_protocol protocol, const char *where, char *error,
    size_t size)
{
	struct place to;
	size_t n;

	for (;; where += n + 1) {
		n = strcspn(where, ",");
		if (!place_parse(where, n, &to)) {
			snprintf(error, size, "Not a next hop: %.*s",
			    n > 100 ? 100 : (int)n, where);
			return false;
		}
		if (to.local && protocol == NEXTHOP_SMTPS) {
			snprintf(error, size, "A socket has no name that TLS "
			    "could verify: %.*s", (int)n, where);
			return false;
		}
		if (where[n] == '\0')
			return true;
	}
}

struct nexthop *
nexthop_open(const struct relay_settings *set,
    enum nexthop_protocol protocol, const char *where, int auth)
{
	struct nexthop *h = malloc(sizeof *h);

	if (h == NULL)
		return NULL;
	/* The buffers, at its end, are not worth clearing. */
	memset(h, 0, offsetof(struct nexthop, out));
	h->set = set;
	h->protocol = protocol;
	h->where = where;
	h->auth = auth;
	h->s.fd = -1;
	return h;
}

/* A fact as XFORWARD wants it: xtext (RFC 3461 4), or that there is none. */
static void
say_fact(struct nexthop *h, const char *name, const char *value)
{
	const char *p;

	if (value[0] == '\0' || strcmp(value, "unknown") == 0 ||
	    strcmp(value, "unix") == 0 || strlen(value) > XFORWARD_VALUE_MAX) {
		say(h, " %s=[UNAVAILABLE]", name);
		return;
	}
	say(h, " %s=%s", name, strcmp(name, "ADDR") == 0 &&
	    strchr(value, ':') != NULL ? "IPV6:" : "");
	for (p = value; *p != '\0'; p++)
		if (*p > ' ' && *p < '\177' && *p != '+' && *p != '=')
			say(h, "%c", *p);
		else
			say(h, "+%02X", (unsigned char)*p);
}

/*
 * Tells who the client is.  It may not want to know after all: then it is
 * not told again.  False: the connection is lost.
 */
static bool
forward(struct nexthop *h, const struct envelope *env, int64_t deadline,
    struct reply *r)
{
	size_t i;

	for (i = 0; i < COUNT(forwards); i++) {
		if (h->can & forwards[i].can) {
			if (h->held == 0)
				say(h, "XFORWARD");
			say_fact(h, forwards[i].name,
			    env->fact[forwards[i].fact]);
		}
		if (h->held == 0 || (i + 1 < COUNT(forwards) &&
		    h->held < XFORWARD_LINE))
			continue;
		say(h, "\r\n");
		if (turn(h, XFORWARD, deadline, r))
			continue;
		if (h->s.fd == -1)
			return false;
		h->can &= ~(unsigned)CAN_XFORWARD;
	}
	return true;
}

static bool
printable(const char *p)
{
	for (; *p != '\0'; p++)
		if ((unsigned char)*p < ' ' || *p == '\177')
			return false;
	return true;
}

static bool
ascii(const char *p)
{
	for (; *p != '\0'; p++)
		if ((unsigned char)*p > 127)
			return false;
	return true;
}

enum {
	EIGHT_HEADER = 1,	/* octets above 127 in the header */
	EIGHT_BODY = 2		/* and after it */
};

/* Looks at the message.  Returns the sum of those, or -1 with errno. */
static int
eight_bit(struct nexthop *h, int spool)
{
	bool header = true, empty = true;
	off_t offset = 0;
	int found = 0;
	ssize_t n, i;

	while ((n = pread(spool, h->in, sizeof h->in, offset)) > 0) {
		for (i = 0; i < n; i++) {
			if ((unsigned char)h->in[i] > 127)
				found |= header ? EIGHT_HEADER : EIGHT_BODY;
			if (h->in[i] == '\n' && empty)
				header = false;
			if (h->in[i] != '\r')
				empty = h->in[i] == '\n';
		}
		offset += n;
	}
	return n == -1 ? -1 : found;
}

/* False: the next hop can not carry this message, and *r says why. */
static bool
carries(struct nexthop *h, const struct envelope *env, int spool,
    struct reply *r)
{
	bool utf8 = env->smtputf8 && !(h->can & CAN_SMTPUTF8);
	bool eight = env->body == BODY_8BITMIME &&
	    !(h->can & CAN_8BITMIME);
	bool binary = env->body == BODY_BINARYMIME &&
	    !((h->can & CAN_BINARYMIME) && (h->can & CAN_CHUNKING));
	int found = utf8 || eight ? eight_bit(h, spool) : 0;

	if (!printable(env->fact[FACT_SENDER]) ||
	    !printable(env->fact[FACT_MAIL_OPTIONS]))
		reply_set(r, 553, "5.1.7", "Bad sender address");
	else if (h->size_max != 0 && env->size > h->size_max)
		reply_set(r, 552, "5.3.4", "Message too big for next hop");
	else if (found == -1)
		reply_set(r, 451, "4.3.0", "Cannot read the message");
	else if (utf8 && !ascii(env->fact[FACT_SENDER]))
		reply_set(r, 553, "5.6.7", "Next hop lacks SMTPUTF8");
	else if (utf8 && (found & EIGHT_HEADER))
		reply_set(r, 554, "5.6.7", "Next hop lacks SMTPUTF8");
	else if (eight && found != 0)
		reply_set(r, 554, "5.6.3", "Next hop lacks 8BITMIME");
	else if (binary)
		reply_set(r, 554, "5.6.3", "Next hop lacks BINARYMIME");
	else
		return true;
	return false;
}

/* The same for one recipient. */
static bool
carries_to(const struct nexthop *h, const struct recipient *to,
    struct reply *r)
{
	if (!printable(to->address) || !printable(to->options))
		reply_set(r, 553, "5.1.3", "Bad recipient address");
	else if (!(h->can & CAN_SMTPUTF8) && !ascii(to->address))
		reply_set(r, 553, "5.6.7", "Next hop lacks SMTPUTF8");
	else
		return true;
	return false;
}

/* Hands a parameter on as the client wrote it. */
static void
say_option(struct nexthop *h, const char *options, const char *name)
{
	const char *p = find(options, name);

	if (p != NULL)
		say(h, " %.*s", (int)strcspn(p, " "), p);
}

static void
say_mail(struct nexthop *h, const struct envelope *env)
{
	say(h, "MAIL FROM:<%s>", env->fact[FACT_SENDER]);
	if ((h->can & CAN_SIZE) && env->size != 0)
		say(h, " SIZE=%" PRIu64, env->size);
	if ((h->can & CAN_8BITMIME) && env->body == BODY_8BITMIME)
		say(h, " BODY=8BITMIME");
	if (env->body == BODY_BINARYMIME)
		say(h, " BODY=BINARYMIME");
	if ((h->can & CAN_SMTPUTF8) && env->smtputf8)
		say(h, " SMTPUTF8");
	if (h->can & CAN_DSN) {
		say_option(h, env->fact[FACT_MAIL_OPTIONS], "RET");
		say_option(h, env->fact[FACT_MAIL_OPTIONS], "ENVID");
	}
	say(h, "\r\n");
}

static void
say_rcpt(struct nexthop *h, const struct recipient *to)
{
	say(h, "RCPT TO:<%s>", to->address);
	if (h->can & CAN_DSN) {
		say_option(h, to->options, "NOTIFY");
		say_option(h, to->options, "ORCPT");
	}
	say(h, "\r\n");
}

/*
 * Offers the recipients whose verdict is still open (code 0), in groups.  The
 * first group begins with MAIL.  False: there is no transaction, *r says why.
 */
static bool
offer(struct nexthop *h, const struct envelope *env, int64_t deadline,
    struct reply v[], struct reply *r)
{
	size_t said = 0, heard = 0, n = env->nrecipients;
	struct reply unheeded;
	bool mail = false;

	say_mail(h, env);
	do {
		for (; said < n && h->held < (h->can & CAN_PIPELINING ?
		    GROUP_MAX : 1); said++)
			if (v[said].code == 0)
				say_rcpt(h, &env->recipients[said]);
		if (!flush(h, mail ? RCPT : MAIL, deadline, r))
			return false;
		if (!mail) {
			mail = hear(h, MAIL, deadline, r);
			h->dirty = mail;
			h->kept = false;
		}
		for (; heard < said && h->s.fd != -1; heard++)
			if (v[heard].code == 0 && hear(h, RCPT, deadline,
			    mail ? &v[heard] : &unheeded) && mail)
				reply_set(&v[heard], 250, "2.1.5", "Ok");
		if (mail && h->s.fd == -1)
			*r = v[heard - 1];
	} while (mail && said < n && h->s.fd != -1);
	return mail && h->s.fd != -1;
}

static bool
reset(struct nexthop *h, int64_t deadline, struct reply *r)
{
	say(h, "RSET\r\n");
	if (!turn(h, RSET, deadline, r)) {
		h->stale = h->stale || (h->s.fd != -1 && h->kept);
		hang_up(h);
	}
	h->dirty = false;
	return h->s.fd != -1;
}

/* One attempt at a transaction; v as offer() wants it. */
static bool
begin(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[], struct reply *r)
{
	bool any = false;
	size_t i;

	if (h->s.fd == -1 && !open_any(h, deadline, r))
		return false;
	if (h->dirty && !reset(h, deadline, r))
		return false;
	if (!carries(h, env, spool, r))
		return false;
	for (i = 0; i < env->nrecipients; i++) {
		v[i].code = 0;
		any = carries_to(h, &env->recipients[i], &v[i]) || any;
	}
	return !any || (forward(h, env, deadline, r) &&
	    offer(h, env, deadline, v, r));
}

void
nexthop_offer(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[])
{
	struct reply r;
	bool ok = false;
	size_t i;

	h->env = env;
	h->accepted = 0;
	do {
		for (i = 0; i < env->nrecipients; i++)
			v[i].code = 0;
		h->kept = h->s.fd != -1;
		h->stale = false;
		ok = begin(h, env, spool, deadline, v, &r);
	} while (h->stale);
	h->kept = false;
	for (i = 0; i < env->nrecipients; i++)
		if (!ok && (v[i].code == 0 || v[i].code == 250))
			v[i] = r;
		else if (v[i].code == 250)
			h->accepted++;
	h->env = NULL;
}

/* Sends what is held, as a part of the message; a failure waits for flush(). */
static void
push(struct nexthop *h, int64_t deadline)
{
	if (h->error == 0 && stream_write(&h->s, h->out, h->held,
	    clock_within(deadline, BLOCK_SECONDS)) == -1)
		h->error = errno;
	h->held = 0;
}

/* Our own copy can not be read: nothing may end it.  Returns false. */
static bool
unreadable(struct nexthop *h, int err, struct reply *r)
{
	hang_up(h);
	complain(h, "cannot read the message", strerror(err));
	reply_set(r, 451, "4.3.0", "Cannot read the message");
	return false;
}

/* The message as one chunk (RFC 3030), just as it is. */
static bool
send_chunk(struct nexthop *h, int spool, int64_t deadline, struct reply *r)
{
	off_t offset = 0;
	size_t room, left;
	struct stat st;
	ssize_t n;

	if (fstat(spool, &st) == -1)
		return unreadable(h, errno, r);
	say(h, "BDAT %jd LAST\r\n", (intmax_t)st.st_size);
	for (; offset < st.st_size && h->error == 0; offset += n) {
		if (h->held == sizeof h->out)
			push(h, deadline);
		room = sizeof h->out - h->held;
		left = (size_t)(st.st_size - offset);
		n = pread(spool, h->out + h->held, left < room ? left : room,
		    offset);
		if (n <= 0)
			return unreadable(h, n == 0 ? EIO : errno, r);
		h->held += (size_t)n;
	}
	return flush(h, END, deadline, r);
}

/* Adds to the message.  Something is always held back for flush(). */
static void
put(struct nexthop *h, const char *p, size_t len, int64_t deadline)
{
	size_t n;

	for (; len > 0; p += n, len -= n) {
		if (h->held == sizeof h->out)
			push(h, deadline);
		n = sizeof h->out - h->held;
		if (n > len)
			n = len;
		memcpy(h->out + h->held, p, n);
		h->held += n;
	}
}

/*
 * Adds text to the message: lines end in CRLF however they end in the spool,
 * and a dot before them is doubled (RFC 5321 4.5.2).  last is the octet
 * before, '\n' at first; returns it for the next time.
 */
static char
put_text(struct nexthop *h, const char *p, size_t len, char last,
    int64_t deadline)
{
	const char *end = p + len, *lf;
	size_t n;

	for (; p < end; p += n) {
		if (last == '\n' && *p == '.')
			put(h, ".", 1, deadline);
		lf = memchr(p, '\n', (size_t)(end - p));
		n = (size_t)((lf != NULL ? lf : end) - p);
		if (n > 0)
			last = p[n - 1];
		if (lf != NULL && last != '\r') {
			put(h, p, n, deadline);
			put(h, "\r\n", 2, deadline);
			n++;
		} else
			put(h, p, n += lf != NULL, deadline);
		last = p[n - 1];
	}
	return last;
}

/* The message as DATA, up to and with the final dot. */
static bool
send_text(struct nexthop *h, int spool, int64_t deadline, struct reply *r)
{
	off_t offset = 0;
	char last = '\n';
	ssize_t n;

	while ((n = pread(spool, h->in, sizeof h->in, offset)) > 0) {
		last = put_text(h, h->in, (size_t)n, last, deadline);
		offset += n;
		if (h->error != 0)
			break;
	}
	if (n == -1)
		return unreadable(h, errno, r);
	if (last != '\n')
		put(h, last == '\r' ? "\n" : "\r\n", last == '\r' ? 1 : 2,
		    deadline);
	put(h, ".\r\n", 3, deadline);
	return flush(h, END, deadline, r);
}

/* Sends the message.  False: it did not go out whole, and *r says why. */
static bool
transfer(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, struct reply *r)
{
	if (h->s.fd == -1) {
		reply_set(r, 451, "4.4.2", "Connection to next hop lost");
		return false;
	}
	if ((h->can & CAN_CHUNKING) && form == SPOOL_CRLF)
		return send_chunk(h, spool, deadline, r);
	if (env->body == BODY_BINARYMIME) {
		reply_set(r, 554, "5.6.3", "Cannot relay BINARYMIME");
		return false;
	}
	say(h, "DATA\r\n");
	return turn(h, DATA, deadline, r) && send_text(h, spool, deadline, r);
}

/* Hears what became of the message that went out.  Where that stays unknown
   our client will try again, and the next hop may have it twice. */
static void
conclude(struct nexthop *h, int64_t deadline, struct reply *r)
{
	if (h->s.fd == -1)
		return;
	h->doubt = false;
	if (hear(h, END, deadline, r))
		r->code = 250;
	h->dirty = false;
	if (h->doubt)
		logger_printf(&h->set->log, LOG_WARNING, "duplicate-possible",
		    h->env, "%s may have taken the message: a duplicate is "
		    "possible", h->place.host);
}

void
nexthop_send(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, struct reply v[])
{
	bool each = h->protocol == NEXTHOP_LMTP, sent;
	size_t i, n = 0;
	struct reply r;

	for (i = 0; i < env->nrecipients; i++)
		n += v[i].code == 250;
	assert(n == h->accepted);	/* or replies would go astray */
	if (n == 0)
		return;
	h->env = env;
	sent = transfer(h, env, spool, form, deadline, &r);
	if (sent && !each)
		conclude(h, deadline, &r);
	for (i = 0; i < env->nrecipients; i++) {
		if (v[i].code != 250)
			continue;
		if (sent && each)
			conclude(h, deadline, &r);
		v[i] = r;
	}
	h->accepted = 0;
	h->env = NULL;
}

void
nexthop_abandon(struct nexthop *h, int64_t deadline)
{
	struct reply r;

	h->accepted = 0;
	if (h->s.fd != -1 && h->dirty)
		reset(h, deadline, &r);
}

void
nexthop_close(struct nexthop *h)
{
	if (h == NULL)
		return;
	part(h, clock_now() + QUIT_SECONDS * 1000);
	free(h);
}
