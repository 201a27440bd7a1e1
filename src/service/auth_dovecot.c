/*
 * auth_dovecot.c - who a client is, by Dovecot's authentication service.
 */
#define _GNU_SOURCE	/* explicit_bzero */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/mechanism.h"
#include "base/reply.h"
#include "base/text.h"
#include "net/stream.h"
#include "service/auth_source.h"

#define DOVECOT_MAX 16384	/* octets of a line of Dovecot's protocol */
#define DOVECOT_LINES 256	/* lines of a handshake, or until an answer */

struct dovecot {
	struct stream link;
	unsigned id;		/* of the exchange */
	char offer[OFFER_MAX];	/* mechanisms that Dovecot has */
};

/* The words of Dovecot's protocol are separated by TABs. */
static bool
next_word(char **rest, const char **word)
{
	*word = strsep(rest, "\t");
	return *word != NULL;
}

/* One "MECH name property..." line.  A mechanism that is PRIVATE or ANONYMOUS
   is not offered. */
static void
learn_mechanism(struct dovecot *d, char *rest)
{
	size_t len = strlen(d->offer);
	const char *name, *property;

	if (!next_word(&rest, &name) || !mechanism_is_portable(name))
		return;
	while (next_word(&rest, &property))
		if (strcasecmp(property, "PRIVATE") == 0 ||
		    strcasecmp(property, "ANONYMOUS") == 0)
			return;
	if (len + strlen(name) + 2 > sizeof d->offer)
		return;
	snprintf(d->offer + len, sizeof d->offer - len, "%s%s",
	    len == 0 ? "" : " ", name);
}

/* Reads Dovecot's side of the handshake.  NULL, or what is wrong. */
static const char *
read_handshake(struct dovecot *d, int64_t deadline)
{
	char line[1024], *rest;
	bool ours = false;
	const char *word;
	unsigned n;

	d->offer[0] = '\0';
	for (n = 0; n < DOVECOT_LINES; n++) {
		if (stream_line(&d->link, line, sizeof line, deadline) == -1)
			return stream_reason(errno);
		rest = line;
		if (!next_word(&rest, &word))
			continue;
		if (strcmp(word, "DONE") == 0)
			return ours ? NULL : "no VERSION";
		if (rest == NULL)
			continue;
		if (strcmp(word, "MECH") == 0)
			learn_mechanism(d, rest);
		if (strcmp(word, "VERSION") != 0)
			continue;
		if (!next_word(&rest, &word) || strcmp(word, "1") != 0)
			return "another VERSION than 1";
		ours = true;
	}
	return "handshake too long";
}

/* Sees to it that we are connected.  NULL, or what is wrong. */
static const char *
reach_dovecot(struct auth *a, int64_t deadline, char *why, size_t size)
{
	struct dovecot *d = a->state;
	char hello[64];
	const char *fault = NULL;
	int len;

	if (d->link.fd != -1)
		return NULL;
	if (stream_connect(&d->link, a->where, NULL, deadline, why, size) == -1)
		return why;
	len = snprintf(hello, sizeof hello, "VERSION\t1\t1\nCPID\t%lu\n",
	    (unsigned long)getpid());
	if (stream_write(&d->link, hello, (size_t)len, deadline) == -1)
		fault = stream_reason(errno);
	else
		fault = read_handshake(d, deadline);
	if (fault != NULL)
		stream_close(&d->link);
	return fault;
}

/* Undoes Dovecot's escapes (\001 0, 1, t, r, n) in place. */
static void
unescape(char *s)
{
	static const char from[] = "1trn", into[] = "\001\t\r\n";
	const char *code;
	char *to = s;

	for (; *s != '\0'; s++) {
		if (*s != '\001' || s[1] == '\0') {
			*to++ = *s;
			continue;
		}
		code = strchr(from, *++s);
		*to++ = code == NULL ? *s : into[code - from];
	}
	*to = '\0';
}

/* "OK id user=name...": only that name counts. */
static enum answer
take_ok(struct auth *a, char *rest, char *user, size_t size)
{
	char *word;

	while ((word = strsep(&rest, "\t")) != NULL) {
		if (!text_starts(word, "user="))
			continue;
		unescape(word);
		if (auth_take_name(word + 5, user, size))
			return ANSWER_YES;
		return auth_broken(a, "the user's name cannot be used");
	}
	return auth_broken(a, "OK without a user");
}

/* "FAIL id ...": was it the client's fault, or Dovecot's? */
static enum answer
take_fail(struct auth *a, char *rest)
{
	bool broken = false;
	char *word;

	while ((word = strsep(&rest, "\t")) != NULL) {
		if (strcmp(word, "temp") == 0 ||
		    strcmp(word, "code=temp_fail") == 0)
			broken = true;
		if (text_starts(word, "user=")) {
			unescape(word);
			auth_note_name(a, word + 5);
		}
	}
	return broken ? auth_broken(a, "temporary failure") : ANSWER_NO;
}

/*
 * Reads what Dovecot says of our exchange, and settles it or goes on with it.
 * NULL, or what is wrong; then *stale tells whether there was no line at all.
 */
static const char *
hear_dovecot(struct auth *a, int64_t deadline, struct reply *v, char *user,
    size_t size, bool *stale)
{
	char line[DOVECOT_MAX], *rest, ours[16];
	struct dovecot *d = a->state;
	const char *what, *id;
	unsigned n;
	long len;

	snprintf(ours, sizeof ours, "%u", d->id);
	*stale = true;
	for (n = 0; n < DOVECOT_LINES; n++, *stale = false) {
		len = stream_line(&d->link, line, sizeof line, deadline);
		if (len == -1) {
			*stale = *stale && errno != ETIMEDOUT;
			return stream_reason(errno);
		}
		rest = line;
		if (!next_word(&rest, &what) || !next_word(&rest, &id) ||
		    strcmp(id, ours) != 0)
			continue;
		*stale = false;
		if (strcmp(what, "OK") == 0)
			auth_answer(v, take_ok(a, rest, user, size));
		else if (strcmp(what, "FAIL") == 0)
			auth_answer(v, take_fail(a, rest));
		else if (strcmp(what, "CONT") != 0 || rest == NULL ||
		    text_decode_base64(NULL, 0, span_of(rest)) == -1 ||
		    strlen(rest) >= REPLY_TEXT)
			return "answer cannot be understood";
		else
			auth_challenge(a, TURN_SOURCE, v, rest);
		return NULL;
	}
	return "no reply to our request in 256 lines";
}

/* Appends to a request; sticky: len is size once it did not fit. */
static void __attribute__((format(printf, 4, 5)))
append(char *to, size_t size, size_t *len, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (*len >= size)
		return;
	va_start(ap, fmt);
	n = vsnprintf(to + *len, size - *len, fmt, ap);
	va_end(ap);
	*len = n < 0 || (size_t)n >= size - *len ? size : *len + (size_t)n;
}

/* Appends an address or a port; a value that is neither is left out. */
static void
append_fact(char *to, size_t size, size_t *len, const char *name,
    const char *value)
{
	if (*value != '\0' &&
	    value[strspn(value, "0123456789abcdefABCDEF.:")] == '\0')
		append(to, size, len, "\t%s=%s", name, value);
}

/*
 * Writes the request that begins or goes on with an exchange.  Returns its
 * length, or size if it is too long.  "secured" because whether a mechanism
 * is too weak for the line is decided by who offers AUTH.
 */
static size_t
write_request(const struct dovecot *d, const struct envelope *env,
    const char *name, const char *response, char *to, size_t size)
{
	size_t len = 0;

	if (name == NULL) {
		append(to, size, &len, "CONT\t%u\t%s\n", d->id, response);
		return len;
	}
	append(to, size, &len, "AUTH\t%u\t%s\tservice=smtp\tsecured\tnologin",
	    d->id, name);
	append_fact(to, size, &len, "lip", env->fact[FACT_SERVER_ADDRESS]);
	append_fact(to, size, &len, "rip", env->fact[FACT_CLIENT_ADDRESS]);
	append_fact(to, size, &len, "lport", env->fact[FACT_SERVER_PORT]);
	append_fact(to, size, &len, "rport", env->fact[FACT_CLIENT_PORT]);
	if (response != NULL)	/* "must be last" */
		append(to, size, &len, "\tresp=%s", response);
	append(to, size, &len, "\n");
	return len;
}

/* One step that Dovecot takes.  The response is base64, and was checked. */
static void
step_dovecot(struct auth *a, const struct envelope *env, const char *name,
    const char *response, struct reply *v, char *user, size_t size)
{
	int64_t deadline = clock_after(a->timeout);
	struct dovecot *d = a->state;
	char line[DOVECOT_MAX], why[256];
	bool kept = d->link.fd != -1, stale = false;
	const char *fault = name == NULL && !kept ? stream_reason(0) : NULL;
	size_t len;

	for (; fault == NULL; kept = false) {
		fault = reach_dovecot(a, deadline, why, sizeof why);
		if (fault != NULL)
			break;
		if (name != NULL)
			d->id++;
		len = write_request(d, env, name, response, line, sizeof line);
		if (len >= sizeof line) {
			reply_set(v, 500, "5.5.6", "Response too long");
			break;
		}
		stale = true;
		if (stream_write(&d->link, line, len, deadline) == -1) {
			stale = errno != ETIMEDOUT;
			fault = stream_reason(errno);
		} else
			fault = hear_dovecot(a, deadline, v, user, size,
			    &stale);
		if (fault == NULL)
			break;
		stream_close(&d->link);
		if (name == NULL || !kept || !stale)
			break;
		fault = NULL;
	}
	explicit_bzero(line, sizeof line);
	if (fault != NULL)
		auth_answer(v, auth_broken(a, fault));
}

static const char *
dovecot_mechanisms(struct auth *a)
{
	struct dovecot *d = a->state;
	const char *fault;
	char why[256];

	fault = reach_dovecot(a, clock_after(a->timeout), why,
	    sizeof why);
	if (fault == NULL)
		return d->offer;
	auth_broken(a, fault);
	return NULL;
}

static void
abandon_dovecot(struct auth *a)
{
	struct dovecot *d = a->state;
	char line[32];
	int len;

	if (d->link.fd == -1)
		return;
	len = snprintf(line, sizeof line, "CANCEL\t%u\n", d->id);
	if (stream_write(&d->link, line, (size_t)len, clock_after(1)) ==
	    -1)
		stream_close(&d->link);
}

static bool
open_dovecot(struct auth *a, char *error, size_t size)
{
	struct dovecot *d = calloc(1, sizeof *d);
	struct buffer where = { .p = NULL };
	struct place place;

	if (d == NULL)
		return false;
	d->link.fd = -1;
	a->state = d;
	buffer_join(&where, "unix:", a->where, NULL);
	free(a->where);
	a->where = buffer_take(&where);
	if (a->where == NULL)
		return false;
	if (place_parse(a->where, strlen(a->where), &place))
		return true;
	text_copy(error, size, "too long for a socket");
	return false;
}

/* Its handshake is a part of connecting: what keeps it from that is logged. */
static void
probe_dovecot(struct auth *a, struct findings *f)
{
	struct stream s = { .fd = -1 };
	const char *offer;
	char why[128];

	if (f->early && stream_connect(&s, a->where, NULL, findings_deadline(f),
	    why, sizeof why) == -1) {
		findings_add(f, findings_absence(f, errno),
		    "--auth dovecot: %s: %s", a->where, why);
		return;
	}
	stream_close(&s);
	offer = dovecot_mechanisms(a);
	if (offer == NULL)
		findings_add(f, FINDING_BAD, "--auth dovecot: cannot be asked");
	else if (*offer == '\0')
		findings_add(f, FINDING_BAD, "--auth dovecot: has no mechanism "
		    "for us");
	else
		findings_add(f, FINDING_GOOD, "--auth dovecot: offers %s",
		    offer);
}

static void
close_dovecot(struct auth *a)
{
	struct dovecot *d = a->state;

	stream_close(&d->link);
	free(d);
}

const struct auth_source auth_dovecot = {
	.prefix = "dovecot:",
	.open = open_dovecot,
	.mechanisms = dovecot_mechanisms,
	.step = step_dovecot,
	.abandon = abandon_dovecot,
	.probe = probe_dovecot,
	.close = close_dovecot,
};
