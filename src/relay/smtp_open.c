/*
 * smtp_open.c - opens a connection to a next hop as far as MAIL: greeting,
 * EHLO, STARTTLS, XCLIENT, AUTH.
 *
 * It looks up no MX, and links no TLS: smtpd-tls does that.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "net/engine.h"
#include "relay/smtp_private.h"

#define TLS_SECONDS 60		/* for a handshake */

const char *
smtp_default_port(enum nexthop_protocol protocol)
{
	if (protocol == NEXTHOP_LMTP)
		return "24";
	return protocol == NEXTHOP_SMTPS ? "465" : "25";
}

const char *
smtp_port(const struct nexthop *h)
{
	return h->place.port[0] != '\0' ? h->place.port
	    : smtp_default_port(h->protocol);
}

bool
smtp_is_verified(const struct nexthop *h)
{
	return h->secure && !h->place.local &&
	    (h->protocol == NEXTHOP_SMTPS || h->set->tls == TLS_MUST ||
	    h->set->tls_pins != NULL);
}

/* Says HELO (RFC 5321 3.2).  Where it is of no use *r may already say why. */
static bool
send_helo(struct nexthop *h, int64_t deadline, struct reply *r)
{
	struct reply said;

	smtp_add(h, "HELO %s\r\n", smtp_hello_name(h));
	if (smtp_command(h, STEP_HELO, deadline, &said))
		return true;
	if (h->quoted || r->code == 0)
		*r = said;
	smtp_make_temporary(r);
	return false;
}

bool
smtp_say_hello(struct nexthop *h, int64_t deadline, struct reply *r)
{
	bool lmtp = h->protocol == NEXTHOP_LMTP;

	h->can = h->attributes = 0;
	h->size_max = h->rcpt_max = h->mail_max = 0;
	if (h->live != NULL)
		h->live->lines[0] = h->live->mechanisms[0] = '\0';
	smtp_add(h, "%s %s\r\n", lmtp ? "LHLO" : "EHLO",
	    smtp_hello_name(h));
	if (smtp_command(h, STEP_HELLO, deadline, r))
		return true;
	if (h->s.fd == -1)
		return false;
	smtp_log_refusal(h, STEP_HELLO, r,
	    lmtp ? "; perhaps this is no LMTP server" : "");
	if (!lmtp && r->code >= 500)
		return send_helo(h, deadline, r);
	smtp_make_temporary(r);
	return false;
}

/* Keeps protocol and cipher, lines of the report of smtpd-tls, for the log. */
static void
note_protection(struct nexthop *h, const char *report)
{
	char protocol[16], cipher[64];

	tls_report_value(report, "protocol", protocol, sizeof protocol);
	tls_report_value(report, "cipher", cipher, sizeof cipher);
	text_join(h->tls, sizeof h->tls, protocol, " ", cipher, NULL);
}

/* Puts TLS between the next hop and us. */
static bool
begin_tls(struct nexthop *h, bool verify, int64_t deadline, struct reply *r)
{
	const char *pins = h->set->tls_pins;	/* which say it all */
	const bool by_name = verify && pins == NULL;
	struct tls_job j = {
		.resident = h->set->tls_resident,
		.program = h->set->tls_program,
		.words = { "client", by_name ? "--verify" : "--sni",
		    h->place.host }, .fd = h->s.fd,
		.deadline = clock_within(deadline, TLS_SECONDS),
		.log = &h->set->log, .process = &h->engine
	};
	char report[1024] = "";
	int fd;

	if (pins != NULL) {
		j.words[3] = "--fingerprint";
		j.words[4] = pins;
	} else if (by_name && h->set->tls_ca != NULL) {
		j.words[3] = "--ca";
		j.words[4] = h->set->tls_ca;
	}
	fd = tls_start(&j, report, sizeof report);
	stream_close(&h->s);
	h->s.fd = fd;
	h->secure = fd != -1;
	if (h->secure) {
		note_protection(h, report);
		return true;
	}
	h->handshake_failed = true;
	smtp_strip(report, strlen(report));
	smtp_log(h, "TLS", report);
	reply_set(r, 451, "4.7.5", "No secure connection to next hop");
	return false;
}

/*
 * STARTTLS, and EHLO again (RFC 3207 4.2).  False: *r says why there is no
 * TLS, which the connection may have survived.  Unless TLS is demanded, the
 * next hop's own refusal of STARTTLS counts as success.
 */
static bool
negotiate_tls(struct nexthop *h, bool must, int64_t deadline, struct reply *r)
{
	bool offered = (h->can & CAN_STARTTLS) != 0;

	if (offered) {
		smtp_add(h, "STARTTLS\r\n");
		if (smtp_command(h, STEP_STARTTLS, deadline, r)) {
			/* Nothing in clear text is certain: RFC 3207 5. */
			if (h->s.used < h->s.have)
				return smtp_garbled(h, STEP_STARTTLS,
				    "more than a reply", r);
			return begin_tls(h, must, deadline, r) &&
			    smtp_say_hello(h, deadline, r);
		}
		if (h->s.fd == -1)
			return false;
	}
	if (!must)
		return true;
	if (!offered)
		smtp_log(h, "STARTTLS", "not offered");
	reply_set(r, 451, "4.7.4", "Next hop offers no TLS");
	return false;
}

/* Connects to the address of h->place that is tried, and reads its greeting. */
static bool
connect_place(struct nexthop *h, int64_t deadline, struct reply *r)
{
	char why[128];

	h->secure = h->place.local;
	h->tls[0] = '\0';
	h->closed = h->timed_out = h->quoted = h->introduced = false;
	h->mails = 0;
	if (stream_dial(&h->s, &h->place, &h->found.at[h->tried - 1], deadline,
	    why, sizeof why) == -1) {
		smtp_log(h, "cannot connect", why);
		reply_set(r, 451, "4.4.1", "Cannot connect to next hop");
		return false;
	}
	h->reached = true;
	if (h->protocol == NEXTHOP_SMTPS && !begin_tls(h, true, deadline, r))
		return false;
	return smtp_read_reply(h, STEP_GREETING, deadline, r);
}

/* Connects and says EHLO, and HELO on a second connection if the next hop
   answered EHLO by closing the first. */
static bool
greet_place(struct nexthop *h, int64_t deadline, struct reply *r)
{
	struct reply unused;

	if (!connect_place(h, deadline, r)) {
		smtp_make_temporary(r);
		return false;
	}
	if (smtp_say_hello(h, deadline, r))
		return true;
	if (!h->closed || h->protocol == NEXTHOP_LMTP || r->code != 451 ||
	    strcmp(r->enh, "4.4.2") != 0)
		return false;
	return connect_place(h, deadline, &unused) &&
	    send_helo(h, deadline, r);
}

/* XCLIENT, and EHLO again: the session begins anew. */
static bool
introduce(struct nexthop *h, int64_t deadline, struct reply *r)
{
	return smtp_xclient(h, deadline, r) &&
	    (!h->introduced || smtp_say_hello(h, deadline, r));
}

/* Opens h->place as far as MAIL.  Where TLS is not demanded and its handshake
   fails, which was logged, the place is opened once more without it. */
static bool
open_place(struct nexthop *h, int64_t deadline, struct reply *r)
{
	bool must = h->set->tls == TLS_MUST || h->set->tls_pins != NULL;
	bool tls = (must || h->set->tls != TLS_NONE) && !h->place.local &&
	    h->protocol != NEXTHOP_SMTPS;
	bool ok = greet_place(h, deadline, r);

	h->handshake_failed = false;
	if (ok && tls && !negotiate_tls(h, must, deadline, r)) {
		ok = false;
		smtp_quit(h, deadline);
		if (!must && h->handshake_failed) {
			smtp_log(h, "TLS", "sending the message without it");
			ok = greet_place(h, deadline, r);
		}
	}
	if (ok && introduce(h, deadline, r) &&
	    smtp_authenticate(h, deadline, r))
		return true;
	smtp_quit(h, deadline);
	return false;
}

/*
 * How long an address may take to be opened.  The last one has all the time
 * that is left.  Before it, one that never answers has the seconds of
 * --relay-next-timeout, and a part of what is left that leaves the others more
 * than half.
 */
static int64_t
opening_deadline(const struct nexthop *h, int places, int64_t deadline)
{
	if (places < 2)
		return deadline;
	return clock_within(clock_now() + clock_left(deadline) / (2 * places),
	    (int)h->set->next_timeout);
}

void
smtp_restart(struct nexthop *h)
{
	h->rest = h->where;
	h->tried = h->found.n = 0;
}

bool
smtp_has_next(const struct nexthop *h)
{
	return h->tried < h->found.n || h->rest != NULL;
}

/* How many places are left of the list, and addresses of this one. */
static int
count_left(const struct nexthop *h)
{
	size_t n = h->found.n - h->tried;
	const char *p;

	n += h->rest != NULL;
	for (p = h->rest; p != NULL && *p != '\0'; p++)
		n += *p == ',';
	return (int)n;
}

/* Takes the next place of the list, and finds its addresses. */
static bool
find_next_place(struct nexthop *h, int64_t deadline, struct reply *r)
{
	const char *where = h->rest;
	size_t len = strcspn(where, ",");
	char why[128];

	h->tried = h->found.n = 0;
	deadline = opening_deadline(h, count_left(h), deadline);
	h->rest = where[len] == ',' ? where + len + 1 : NULL;
	if (!place_parse(where, len, &h->place)) {
		reply_set(r, 451, "4.3.5", "No such next hop");
		return false;
	}
	if (stream_resolve(&h->place, smtp_default_port(h->protocol), &h->found,
	    deadline, why, sizeof why) == 0)
		return true;
	smtp_log(h, "cannot resolve the name", why);
	reply_set(r, 451, "4.4.1", "Cannot connect to next hop");
	return false;
}

bool
smtp_open_next(struct nexthop *h, int64_t deadline, struct reply *r)
{
	h->quoted = h->reached = false;
	if (h->tried == h->found.n && !find_next_place(h, deadline, r))
		return false;
	deadline = opening_deadline(h, count_left(h), deadline);
	h->tried++;
	return open_place(h, deadline, r);
}

/* Says of a part of the list what it should be. */
static void
explain_place(enum nexthop_protocol protocol, const char *where, size_t n,
    char *error, size_t size)
{
	static const char names[][6] = { [NEXTHOP_SMTP] = "smtp",
		[NEXTHOP_SMTPS] = "smtps", [NEXTHOP_LMTP] = "lmtp" };
	const char *name = names[protocol];
	char place[128];

	snprintf(place, sizeof place, "%s:%.*s", name, n > 100 ? 100 : (int)n,
	    where);
	if (!text_starts(where, "//") && *where == '/' &&
	    protocol != NEXTHOP_SMTPS)
		snprintf(error, size, "%s: a socket is written %s:unix:%s",
		    place, name, place + strlen(name) + 1);
	else
		snprintf(error, size, "%s is not %s:HOST:PORT%s%s%s", place,
		    name, protocol == NEXTHOP_SMTPS ? "" : " or ",
		    protocol == NEXTHOP_SMTPS ? "" : name,
		    protocol == NEXTHOP_SMTPS ? "" : ":unix:PATH");
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
			explain_place(protocol, where, n, error, size);
			return false;
		}
		if (to.local && protocol == NEXTHOP_SMTPS) {
			snprintf(error, size, "smtps: cannot verify a unix "
			    "socket: %.*s", (int)n, where);
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
	h->s.fd = h->engine = -1;
	return h;
}
