/*
 * smtp.c - one message to one next hop by SMTP or LMTP, in one transaction:
 * envelope, data.
 *
 *  - The envelope is offered first, the message sent in a second step, so that
 *    several next hops can agree before one of them gets it.
 *  - A connection that was kept from the message before may be dead.  Until
 *    its MAIL is answered this is not reported: it is opened again, once.
 *  - After the end of a message was sent, it is never sent again.
 * It keeps no queue.
 */

#include <assert.h>
#include <inttypes.h>
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
#include "relay/smtp_private.h"

#define GROUP_MAX 8192		/* octets after which a group is sent */

static bool
is_ascii(const char *p)
{
	return text_is_ascii(p, strlen(p));
}

enum {
	EIGHT_HEADER = 1,	/* octets above 127 in the header */
	EIGHT_BODY = 2		/* and after it */
};

/* Looks at the message.  Returns the sum of those, or -1 with errno. */
static int
find_eight_bit(struct nexthop *h, int spool)
{
	bool header = true, empty = true;
	off_t offset = 0;
	int found = 0;
	ssize_t n, i;

	while ((n = file_read_at(spool, h->in, sizeof h->in, offset)) > 0) {
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

/* Parameters that are handed on as they are, where the next hop has the
   extension. */
static const struct {
	char name[12];
	unsigned can;
} passed[] = {
	{ "BY", CAN_DELIVERBY },
	{ "HOLDFOR", CAN_FUTURERELEASE },
	{ "HOLDUNTIL", CAN_FUTURERELEASE },
	{ "MT-PRIORITY", CAN_MT_PRIORITY },
	{ "REQUIRETLS", CAN_REQUIRETLS },
	{ "RRVS", CAN_RRVS },
};

/* Whether the next hop has the extensions of these parameters, of which the
   client was told that it has. */
static bool
can_pass(const struct nexthop *h, const char *options)
{
	for (size_t i = 0; i < COUNT(passed); i++)
		if (text_find_word(options, passed[i].name) != NULL &&
		    (!(h->can & passed[i].can) ||
		    (passed[i].can == CAN_REQUIRETLS &&
		    !smtp_is_verified(h))))
			return false;
	return true;
}

bool
smtp_can_carry(struct nexthop *h, const struct envelope *env, int spool,
    struct reply *r)
{
	bool utf8 = env->smtputf8 && !(h->can & CAN_SMTPUTF8);
	bool eight = env->body == BODY_8BITMIME &&
	    !(h->can & CAN_8BITMIME);
	bool binary = env->body == BODY_BINARYMIME &&
	    !((h->can & CAN_BINARYMIME) && (h->can & CAN_CHUNKING));
	int found = spool != -1 && (utf8 || eight) ? find_eight_bit(h, spool)
	    : 0;

	if (!text_all_printable(env->fact[FACT_SENDER]) ||
	    !text_all_printable(env->fact[FACT_MAIL_OPTIONS]))
		reply_set(r, 553, "5.1.7", "Bad sender address");
	else if (h->size_max != 0 && env->size > h->size_max)
		reply_set(r, 552, "5.3.4", "Message too big for next hop");
	else if (found == -1)
		reply_set(r, 451, "4.3.0", "Cannot read the message");
	else if (utf8 && !is_ascii(env->fact[FACT_SENDER]))
		reply_set(r, 553, "5.6.7", "Next hop lacks SMTPUTF8");
	else if (utf8 && (found & EIGHT_HEADER))
		reply_set(r, 554, "5.6.7", "Next hop lacks SMTPUTF8");
	else if (eight && found != 0)
		reply_set(r, 554, "5.6.3", "Next hop lacks 8BITMIME");
	else if (binary)
		reply_set(r, 554, "5.6.3", "Next hop lacks BINARYMIME");
	else if (!can_pass(h, env->fact[FACT_MAIL_OPTIONS]))
		reply_set(r, 455, "4.5.4", "Next hop lacks an extension");
	else
		return true;
	return false;
}

/* The same for one recipient. */
static bool
can_carry_to(const struct nexthop *h, const struct recipient *to,
    struct reply *r)
{
	if (!text_all_printable(to->address) ||
	    !text_all_printable(to->options))
		reply_set(r, 553, "5.1.3", "Bad recipient address");
	else if (!(h->can & CAN_SMTPUTF8) && !is_ascii(to->address))
		reply_set(r, 553, "5.6.7", "Next hop lacks SMTPUTF8");
	else if (!can_pass(h, to->options))
		reply_set(r, 455, "4.5.4", "Next hop lacks an extension");
	else
		return true;
	return false;
}

/* Adds a parameter as the client wrote it. */
static void
add_option(struct nexthop *h, const char *options, const char *name)
{
	const char *p = text_find_word(options, name);

	if (p != NULL)
		smtp_add(h, " %.*s", (int)strcspn(p, " "), p);
}

static void
add_passed(struct nexthop *h, const char *options)
{
	for (size_t i = 0; i < COUNT(passed); i++)
		if (h->can & passed[i].can)
			add_option(h, options, passed[i].name);
}

/* The code point of the UTF-8 character at p, which has n octets. */
static unsigned
code_point(const char *p, size_t n)
{
	unsigned c = (unsigned char)p[0] & (0xffU >> (n + 1));
	size_t i;

	for (i = 1; i < n; i++)
		c = c << 6 | ((unsigned char)p[i] & 0x3f);
	return c;
}

/* Adds ORCPT.  A next hop without SMTPUTF8 gets an address in UTF-8 as
   utf-8-addr-xtext (RFC 6533 3), and none where that cannot be written. */
static void
add_orcpt(struct nexthop *h, const char *options)
{
	const char *p = text_find_word(options, "ORCPT");
	size_t len, i, n;

	if (p == NULL)
		return;
	len = strcspn(p, " ");
	for (i = 0; i < len && (n = text_printable(p + i, len - i)) > 0; i += n)
		;
	if ((h->can & CAN_SMTPUTF8) || text_is_ascii(p, len)) {
		smtp_add(h, " %.*s", (int)len, p);
		return;
	}
	if (i < len || strncasecmp(p, "ORCPT=utf-8;", 12) != 0)
		return;
	smtp_add(h, " ");
	for (i = 0; i < len; i += n) {
		n = text_printable(p + i, len - i);
		if (n == 1)
			smtp_add(h, "%c", p[i]);
		else
			smtp_add(h, "\\x{%X}", code_point(p + i, n));
	}
}

/*
 * Adds AUTH during the dialogue, where the next hop knows who we are, or our
 * client is: others refuse it.  What a client says that has not authenticated
 * is not worth more than AUTH=<> (RFC 4954 5).
 */
static void
add_auth(struct nexthop *h, const struct envelope *env)
{
	const char *options = env->fact[FACT_MAIL_OPTIONS];

	if (h->live == NULL || !(smtp_is_login(h) || smtp_is_trusted(h)))
		return;
	if (smtp_is_login(h) || env->fact[FACT_SASL_USERNAME][0] != '\0')
		add_option(h, options, "AUTH");
	else if (text_find_word(options, "AUTH") != NULL)
		smtp_add(h, " AUTH=<>");
}

static void
add_mail(struct nexthop *h, const struct envelope *env, bool eight)
{
	h->mails++;
	smtp_add(h, "MAIL FROM:<%s>", env->fact[FACT_SENDER]);
	if ((h->can & CAN_SIZE) && env->size != 0)
		smtp_add(h, " SIZE=%" PRIu64, env->size);
	else if ((h->can & CAN_SIZE) && h->live != NULL)
		add_option(h, env->fact[FACT_MAIL_OPTIONS], "SIZE");
	if ((h->can & CAN_8BITMIME) && (env->body == BODY_8BITMIME ||
	    (env->body == BODY_7BIT && eight)))
		smtp_add(h, " BODY=8BITMIME");
	if (env->body == BODY_BINARYMIME)
		smtp_add(h, " BODY=BINARYMIME");
	if ((h->can & CAN_SMTPUTF8) && env->smtputf8)
		smtp_add(h, " SMTPUTF8");
	if (h->can & CAN_DSN) {
		add_option(h, env->fact[FACT_MAIL_OPTIONS], "RET");
		add_option(h, env->fact[FACT_MAIL_OPTIONS], "ENVID");
	}
	add_auth(h, env);
	add_passed(h, env->fact[FACT_MAIL_OPTIONS]);
	smtp_add(h, "\r\n");
}

static void
add_rcpt(struct nexthop *h, const struct recipient *to)
{
	smtp_add(h, "RCPT TO:<%s>", to->address);
	if (h->can & CAN_DSN) {
		add_option(h, to->options, "NOTIFY");
		add_orcpt(h, to->options);
	}
	add_passed(h, to->options);
	smtp_add(h, "\r\n");
}

/* Adds the RCPTs from *sent on whose verdicts are open, as many as a group
   has. */
static void
add_rcpts(struct nexthop *h, const struct envelope *env, size_t *sent,
    const struct reply v[])
{
	const size_t most = h->can & CAN_PIPELINING ? GROUP_MAX : 1;

	for (; *sent < env->nrecipients && h->held < most; ++*sent)
		if (v[*sent].code == 0)
			add_rcpt(h, &env->recipients[*sent]);
}

/* Reads the replies to the RCPTs before end, whose verdicts are open.  Those
   to a MAIL that was refused are of no interest. */
static void
read_rcpts(struct nexthop *h, size_t *read, size_t end, bool mail,
    int64_t deadline, struct reply v[])
{
	struct reply unused;

	for (; *read < end && h->s.fd != -1; ++*read)
		if (v[*read].code == 0 && smtp_read_reply(h, STEP_RCPT,
		    deadline, mail ? &v[*read] : &unused) && mail &&
		    h->live == NULL)
			reply_set(&v[*read], 250, "2.1.5", "Ok");
}

/*
 * Offers the recipients whose verdict is still open (code 0), in groups.  The
 * first begins with MAIL, after what waits in it.  False: there is no
 * transaction, *r says why.
 */
static bool
send_envelope(struct nexthop *h, const struct envelope *env, bool eight,
    int64_t deadline, struct reply v[], struct reply *r)
{
	size_t sent = 0, read = 0, n = env->nrecipients;
	bool mail = false;

	add_mail(h, env, eight);
	do {
		add_rcpts(h, env, &sent, v);
		if (!smtp_send_group(h, mail ? STEP_RCPT : STEP_MAIL, deadline,
		    r))
			return false;
		if (!mail) {
			mail = smtp_read_xforward(h, deadline, r) &&
			    smtp_read_reply(h, STEP_MAIL, deadline, r);
			h->dirty = mail;
			h->stale = h->stale || (!mail && h->kept && !h->away &&
			    h->live == NULL);
			h->kept = false;
		}
		read_rcpts(h, &read, sent, mail, deadline, v);
		if (mail && h->s.fd == -1)
			*r = v[read - 1];
	} while (mail && sent < n && h->s.fd != -1);
	return mail && h->s.fd != -1;
}

void
smtp_try_recipients(struct nexthop *h, const struct envelope *env,
    int64_t deadline, struct reply v[], struct reply *r)
{
	size_t sent = 0, read = 0, n = env->nrecipients;

	for (size_t i = 0; i < n; i++) {
		v[i].code = 0;
		can_carry_to(h, &env->recipients[i], &v[i]);
	}
	while (read < n && h->s.fd != -1) {
		add_rcpts(h, env, &sent, v);
		if (h->held > 0 && !smtp_send_group(h, STEP_RCPT, deadline, r))
			return;
		read_rcpts(h, &read, sent, true, deadline, v);
		if (h->s.fd == -1)
			*r = v[read - 1];
	}
}

static bool
reset_transaction(struct nexthop *h, int64_t deadline, struct reply *r)
{
	smtp_add(h, "RSET\r\n");
	if (!smtp_command(h, STEP_RSET, deadline, r)) {
		h->stale = h->stale || (h->s.fd != -1 && h->kept);
		smtp_hang_up(h);
	}
	h->dirty = false;
	return h->s.fd != -1;
}

/* Returns whether the message has octets above 127, which nobody declared but
   the next hop wants to be told; errors are found when it is sent. */
static bool
is_undeclared_eight_bit(struct nexthop *h, const struct envelope *env,
    int spool)
{
	off_t offset = 0;
	ssize_t n;

	if (env->body != BODY_7BIT || !(h->can & CAN_8BITMIME))
		return false;
	for (; (n = file_read_at(spool, h->in, sizeof h->in, offset)) > 0;
	    offset += n)
		if (!text_is_ascii(h->in, (size_t)n))
			return true;
	return false;
}

/* Offers the envelope on the open connection; v as send_envelope() wants it.
   False: there is no transaction, and *r says why. */
static bool
try_envelope(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[], struct reply *r)
{
	bool any = false, eight;
	size_t i, told = 0;

	if (h->dirty && !reset_transaction(h, deadline, r))
		return false;
	if (!smtp_can_carry(h, env, spool, r))
		return false;
	for (i = 0; i < env->nrecipients; i++) {
		v[i].code = 0;
		if (!can_carry_to(h, &env->recipients[i], &v[i]))
			continue;
		any = true;
		if (h->rcpt_max != 0 && ++told > h->rcpt_max)
			reply_set(&v[i], CODE_TOO_MANY, "4.5.3",
			    "Too many recipients for the next hop");
	}
	if (!any && h->live == NULL)
		return true;
	eight = spool != -1 && is_undeclared_eight_bit(h, env, spool);
	return smtp_xforward(h, env, deadline, r) &&
	    send_envelope(h, env, eight, deadline, v, r);
}

static size_t
count_accepted(const struct reply v[], size_t n)
{
	size_t i, accepted = 0;

	for (i = 0; i < n; i++)
		accepted += v[i].code / 100 == 2;
	return accepted;
}

/* Has the connection had all the transactions that the next hop grants?  A
   login that is our client's would be lost with it: let the hop say so then. */
static bool
is_used_up(const struct nexthop *h)
{
	return h->mail_max != 0 && h->mails >= h->mail_max && !h->set->through;
}

/*
 * Offers the envelope to the connection that is open, or else to the next
 * place.  False: *r says why there is no transaction; h->away if another place
 * may do better, since nobody has accepted anything here.
 */
static bool
try_place(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[], struct reply *r)
{
	size_t i;

	for (i = 0; i < env->nrecipients; i++)
		v[i].code = 0;
	h->stale = h->away = false;
	if (smtp_login_is_lost(h, r))
		return false;
	if (h->s.fd != -1 && (!smtp_is_our_account(h) ||
	    !smtp_is_our_client(h) || is_used_up(h))) {
		smtp_quit(h, deadline);
		smtp_restart(h);
	}
	h->kept = h->s.fd != -1;
	if (h->s.fd == -1 && !smtp_open_next(h, deadline, r)) {
		h->away = true;
		return false;
	}
	if (try_envelope(h, env, spool, deadline, v, r))
		return true;
	if (count_accepted(v, env->nrecipients) > 0)
		h->away = false;
	return false;
}

/*
 * Offers the envelope: to the connection that was kept, once more to a fresh
 * one if that cannot be used, and to the places of the list in turn until one
 * can serve.  If none can, *r is what the first of them said, in its words
 * rather than in ours; and in ours, of one that was reached rather than of one
 * that was not.
 */
bool
smtp_try_places(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[], struct reply *r)
{
	int known = 0, knows;	/* 1: it was reached; 2: it said why */
	struct reply said;

	r->code = 0;
	do {
		if (try_place(h, env, spool, deadline, v, &said)) {
			*r = said;
			return true;
		}
		if (h->stale) {
			smtp_quit(h, deadline);
			smtp_restart(h);
			continue;
		}
		knows = h->quoted ? 2 : h->reached;
		if (r->code == 0 || !h->away || knows > known) {
			*r = said;
			known = knows;
		}
	} while (h->stale || (h->away && smtp_has_next(h) &&
	    clock_left(deadline) > 0));
	return false;
}

void
smtp_offer(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[])
{
	struct reply r;
	size_t i;
	bool ok;

	h->env = env;
	if (h->s.fd == -1)
		smtp_restart(h);
	ok = smtp_try_places(h, env, spool, deadline, v, &r);
	h->kept = false;
	for (i = 0; i < env->nrecipients; i++)
		if (!ok && (v[i].code == 0 || v[i].code == 250))
			v[i] = r;
	h->accepted = count_accepted(v, env->nrecipients);
	h->env = NULL;
}

/* Reads what became of the message that went out.  Where that stays unknown
   our client tries again, and the next hop may have it twice. */
static void
read_verdict(struct nexthop *h, int64_t deadline, struct reply *r)
{
	char name[SMTP_NAME_MAX];

	if (h->s.fd == -1)
		return;
	h->doubt = false;
	if (smtp_read_reply(h, STEP_END, deadline, r)) {
		r->code = 250;
		logger_printf(&h->set->log, LOG_DEBUG, "nexthop", h->env,
		    "%s: took the message: 250 %s %.*s", smtp_name(h, name),
		    r->enh, (int)strcspn(r->text, "\n"), r->text);
	}
	h->dirty = false;
	if (h->doubt)
		logger_printf(&h->set->log, LOG_WARNING, "duplicate-possible",
		    h->env, "%s may have taken the message: a duplicate is "
		    "possible", smtp_name(h, name));
}

bool
smtp_offer_same(struct nexthop *h, const struct envelope *env,
    const struct recipient to[], size_t n, int spool, int64_t deadline,
    struct reply *r)
{
	struct reply *v = calloc(n + 1, sizeof *v);
	struct envelope same = *env;
	bool ok = false;

	same.recipients = to;
	same.nrecipients = n;
	if (v == NULL)
		reply_local_error(r);
	else
		ok = smtp_try_places(h, &same, spool, deadline, v, r);
	/* The client was told that it is accepted. */
	if (!ok && h->live != NULL)
		smtp_make_temporary(r);
	for (size_t i = 0; ok && i < n; i++)
		if (v[i].code >= 400) {
			*r = v[i];
			smtp_make_temporary(r);
			ok = false;
		}
	h->kept = false;
	free(v);
	return ok && smtp_live_can(h, r);
}

/* The same, to the next address or place that there is, after the connection
   was given up before anybody had the message. */
static bool
offer_again(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, const struct reply v[], struct reply *r)
{
	struct recipient *to = calloc(env->nrecipients, sizeof *to);
	bool ok = to != NULL;
	size_t n = 0;

	smtp_hang_up(h);
	for (size_t i = 0; ok && i < env->nrecipients; i++)
		if (v[i].code == 250)
			to[n++] = env->recipients[i];
	if (ok)
		ok = smtp_offer_same(h, env, to, n, spool, deadline, r);
	else
		reply_local_error(r);
	free(to);
	return ok;
}

/* True if r is what a server answers that does not know BDAT. */
static bool
is_chunk_unknown(const struct reply *r)
{
	return r->code == 500 || r->code == 502 || r->code == 503;
}

/* Sends the message; to the next place where the connection is lost before an
   octet of it was sent, for nobody has it then.  False: it did not go out
   whole, and *r says why. */
static bool
send_somewhere(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, const struct reply v[],
    struct reply *r)
{
	for (;;) {
		h->begun = h->away = false;
		if (smtp_send_message(h, env, spool, form, deadline, r))
			return true;
		if (h->begun || !h->away || h->s.fd != -1 ||
		    (!smtp_has_next(h) && !smtp_live_again(h)) ||
		    clock_left(deadline) == 0 ||
		    !offer_again(h, env, spool, deadline, v, r))
			return false;
	}
}

/* Sends the message and reads the first verdict; once more, by DATA, where
   BDAT turns out to be unknown.  False: *r is the verdict of all. */
static bool
send_and_read(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, const struct reply v[],
    struct reply *r)
{
	char name[SMTP_NAME_MAX];

	if (!send_somewhere(h, env, spool, form, deadline, v, r))
		return false;
	read_verdict(h, deadline, r);
	if (!smtp_is_chunked(h, form) || !is_chunk_unknown(r) ||
	    env->body == BODY_BINARYMIME)
		return true;
	logger_printf(&h->set->log, LOG_NOTICE, "nexthop", env,
	    "%s: BDAT: offered and refused, trying DATA", smtp_name(h, name));
	h->avoid |= CAN_CHUNKING;
	smtp_restart(h);
	if (!offer_again(h, env, spool, deadline, v, r) ||
	    !send_somewhere(h, env, spool, form, deadline, v, r))
		return false;
	read_verdict(h, deadline, r);
	return true;
}

void
smtp_send(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, struct reply v[])
{
	bool each, first = true;
	struct reply r;
	size_t i, n = count_accepted(v, env->nrecipients);

	assert(n == h->accepted);	/* or replies would go astray */
	if (n == 0)
		return;
	h->env = env;
	each = send_and_read(h, env, spool, form, deadline, v, &r) &&
	    h->protocol == NEXTHOP_LMTP;
	for (i = 0; i < env->nrecipients; i++) {
		if (v[i].code != 250)
			continue;
		if (each && !first)
			read_verdict(h, deadline, &r);
		first = false;
		v[i] = r;
	}
	h->accepted = 0;
	h->env = NULL;
}

void
smtp_abandon(struct nexthop *h, int64_t deadline)
{
	struct reply r;

	h->accepted = 0;
	if (h->s.fd != -1 && h->dirty)
		reset_transaction(h, deadline, &r);
}
