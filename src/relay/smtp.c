/*
 * smtp.c - one message to one next hop by SMTP or LMTP: envelope, data.
 *
 *  - The envelope is offered first, the message sent in a second step, so that
 *    several next hops can agree before one of them gets it.
 *  - A connection that was kept from the message before may be dead.  Until
 *    its MAIL is answered this is not reported: it is opened again, once.
 *  - After the end of a message was sent, it is never sent again.
 * It keeps no queue.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <sys/stat.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "relay/smtp_private.h"

#define GROUP_MAX 8192		/* octets after which a group is sent */

static bool
is_printable(const char *p)
{
	for (; *p != '\0'; p++)
		if ((unsigned char)*p < ' ' || *p == '\177')
			return false;
	return true;
}

static bool
is_ascii(const char *p)
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
find_eight_bit(struct nexthop *h, int spool)
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
can_carry(struct nexthop *h, const struct envelope *env, int spool,
    struct reply *r)
{
	bool utf8 = env->smtputf8 && !(h->can & CAN_SMTPUTF8);
	bool eight = env->body == BODY_8BITMIME &&
	    !(h->can & CAN_8BITMIME);
	bool binary = env->body == BODY_BINARYMIME &&
	    !((h->can & CAN_BINARYMIME) && (h->can & CAN_CHUNKING));
	int found = utf8 || eight ? find_eight_bit(h, spool) : 0;

	if (!is_printable(env->fact[FACT_SENDER]) ||
	    !is_printable(env->fact[FACT_MAIL_OPTIONS]))
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
	else
		return true;
	return false;
}

/* The same for one recipient. */
static bool
can_carry_to(const struct nexthop *h, const struct recipient *to,
    struct reply *r)
{
	if (!is_printable(to->address) || !is_printable(to->options))
		reply_set(r, 553, "5.1.3", "Bad recipient address");
	else if (!(h->can & CAN_SMTPUTF8) && !is_ascii(to->address))
		reply_set(r, 553, "5.6.7", "Next hop lacks SMTPUTF8");
	else
		return true;
	return false;
}

/* Hands a parameter on as the client wrote it. */
static void
add_option(struct nexthop *h, const char *options, const char *name)
{
	const char *p = smtp_find_word(options, name);

	if (p != NULL)
		smtp_add(h, " %.*s", (int)strcspn(p, " "), p);
}

static void
add_mail(struct nexthop *h, const struct envelope *env)
{
	smtp_add(h, "MAIL FROM:<%s>", env->fact[FACT_SENDER]);
	if ((h->can & CAN_SIZE) && env->size != 0)
		smtp_add(h, " SIZE=%" PRIu64, env->size);
	if ((h->can & CAN_8BITMIME) && env->body == BODY_8BITMIME)
		smtp_add(h, " BODY=8BITMIME");
	if (env->body == BODY_BINARYMIME)
		smtp_add(h, " BODY=BINARYMIME");
	if ((h->can & CAN_SMTPUTF8) && env->smtputf8)
		smtp_add(h, " SMTPUTF8");
	if (h->can & CAN_DSN) {
		add_option(h, env->fact[FACT_MAIL_OPTIONS], "RET");
		add_option(h, env->fact[FACT_MAIL_OPTIONS], "ENVID");
	}
	smtp_add(h, "\r\n");
}

static void
add_rcpt(struct nexthop *h, const struct recipient *to)
{
	smtp_add(h, "RCPT TO:<%s>", to->address);
	if (h->can & CAN_DSN) {
		add_option(h, to->options, "NOTIFY");
		add_option(h, to->options, "ORCPT");
	}
	smtp_add(h, "\r\n");
}

/*
 * Offers the recipients whose verdict is still open (code 0), in groups.  The
 * first group begins with MAIL.  False: there is no transaction, *r says why.
 */
static bool
send_envelope(struct nexthop *h, const struct envelope *env, int64_t deadline,
    struct reply v[], struct reply *r)
{
	size_t said = 0, heard = 0, n = env->nrecipients;
	struct reply unheeded;
	bool mail = false;

	add_mail(h, env);
	do {
		for (; said < n && h->held < (h->can & CAN_PIPELINING ?
		    GROUP_MAX : 1); said++)
			if (v[said].code == 0)
				add_rcpt(h, &env->recipients[said]);
		if (!smtp_send_group(h, mail ? STEP_RCPT : STEP_MAIL, deadline, r))
			return false;
		if (!mail) {
			mail = smtp_read_reply(h, STEP_MAIL, deadline, r);
			h->dirty = mail;
			h->kept = false;
		}
		for (; heard < said && h->s.fd != -1; heard++)
			if (v[heard].code == 0 && smtp_read_reply(h, STEP_RCPT, deadline,
			    mail ? &v[heard] : &unheeded) && mail)
				reply_set(&v[heard], 250, "2.1.5", "Ok");
		if (mail && h->s.fd == -1)
			*r = v[heard - 1];
	} while (mail && said < n && h->s.fd != -1);
	return mail && h->s.fd != -1;
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

/* One attempt at a transaction; v as send_envelope() wants it. */
static bool
try_envelope(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[], struct reply *r)
{
	bool any = false;
	size_t i;

	if (h->s.fd == -1 && !smtp_open(h, deadline, r))
		return false;
	if (h->dirty && !reset_transaction(h, deadline, r))
		return false;
	if (!can_carry(h, env, spool, r))
		return false;
	for (i = 0; i < env->nrecipients; i++) {
		v[i].code = 0;
		any = can_carry_to(h, &env->recipients[i], &v[i]) || any;
	}
	return !any || (smtp_xforward(h, env, deadline, r) &&
	    send_envelope(h, env, deadline, v, r));
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
		ok = try_envelope(h, env, spool, deadline, v, &r);
	} while (h->stale);
	h->kept = false;
	for (i = 0; i < env->nrecipients; i++)
		if (!ok && (v[i].code == 0 || v[i].code == 250))
			v[i] = r;
		else if (v[i].code == 250)
			h->accepted++;
	h->env = NULL;
}

/* Sends what is held, as a part of the message.  smtp_send_group() reports a
   failure. */
static void
write_held(struct nexthop *h, int64_t deadline)
{
	if (h->error == 0 && stream_write(&h->s, h->out, h->held,
	    clock_within(deadline, BLOCK_SECONDS)) == -1)
		h->error = errno;
	h->held = 0;
}

/* Our own copy can not be read: nothing may end it.  Returns false. */
static bool
spool_error(struct nexthop *h, int err, struct reply *r)
{
	smtp_hang_up(h);
	smtp_log(h, "cannot read the message", strerror(err));
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
		return spool_error(h, errno, r);
	smtp_add(h, "BDAT %jd LAST\r\n", (intmax_t)st.st_size);
	for (; offset < st.st_size && h->error == 0; offset += n) {
		if (h->held == sizeof h->out)
			write_held(h, deadline);
		room = sizeof h->out - h->held;
		left = (size_t)(st.st_size - offset);
		n = pread(spool, h->out + h->held, left < room ? left : room,
		    offset);
		if (n <= 0)
			return spool_error(h, n == 0 ? EIO : errno, r);
		h->held += (size_t)n;
	}
	return smtp_send_group(h, STEP_END, deadline, r);
}

/* Adds to the message.  Something is always held back for smtp_send_group(). */
static void
add_octets(struct nexthop *h, const char *p, size_t len, int64_t deadline)
{
	size_t n;

	for (; len > 0; p += n, len -= n) {
		if (h->held == sizeof h->out)
			write_held(h, deadline);
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
add_text(struct nexthop *h, const char *p, size_t len, char last,
    int64_t deadline)
{
	const char *end = p + len, *lf;
	size_t n;

	for (; p < end; p += n) {
		if (last == '\n' && *p == '.')
			add_octets(h, ".", 1, deadline);
		lf = memchr(p, '\n', (size_t)(end - p));
		n = (size_t)((lf != NULL ? lf : end) - p);
		if (n > 0)
			last = p[n - 1];
		if (lf != NULL && last != '\r') {
			add_octets(h, p, n, deadline);
			add_octets(h, "\r\n", 2, deadline);
			n++;
		} else
			add_octets(h, p, n += lf != NULL, deadline);
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
		last = add_text(h, h->in, (size_t)n, last, deadline);
		offset += n;
		if (h->error != 0)
			break;
	}
	if (n == -1)
		return spool_error(h, errno, r);
	if (last != '\n')
		add_octets(h, last == '\r' ? "\n" : "\r\n", last == '\r' ? 1 : 2,
		    deadline);
	add_octets(h, ".\r\n", 3, deadline);
	return smtp_send_group(h, STEP_END, deadline, r);
}

/* Sends the message.  False: it did not go out whole, and *r says why. */
static bool
send_message(struct nexthop *h, const struct envelope *env, int spool,
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
	smtp_add(h, "DATA\r\n");
	return smtp_command(h, STEP_DATA, deadline, r) &&
	    send_text(h, spool, deadline, r);
}

/* Hears what became of the message that went out.  Where that stays unknown
   our client will try again, and the next hop may have it twice. */
static void
read_verdict(struct nexthop *h, int64_t deadline, struct reply *r)
{
	if (h->s.fd == -1)
		return;
	h->doubt = false;
	if (smtp_read_reply(h, STEP_END, deadline, r))
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
	sent = send_message(h, env, spool, form, deadline, &r);
	if (sent && !each)
		read_verdict(h, deadline, &r);
	for (i = 0; i < env->nrecipients; i++) {
		if (v[i].code != 250)
			continue;
		if (sent && each)
			read_verdict(h, deadline, &r);
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
		reset_transaction(h, deadline, &r);
}

void
nexthop_close(struct nexthop *h)
{
	if (h == NULL)
		return;
	smtp_quit(h, clock_now() + QUIT_SECONDS * 1000);
	free(h);
}
