/*
 * smtp_auth.c - authenticates to a next hop: which credentials, which
 * mechanism.
 *
 *  - A secret goes out over TLS only, or on a unix socket.
 *  - Of the mechanisms that both sides know the strongest is tried first, and
 *    the next one where the server refuses it.
 *  - A connection belongs to the line of the file that it was opened with: mail
 *    for which another line counts gets another connection.
 */
#define _GNU_SOURCE	/* explicit_bzero */
#include <sys/random.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "net/digest.h"
#include "relay/sasl.h"
#include "relay/smtp_private.h"

#define AUTH_LINE 512		/* octets of a command, with CRLF: RFC 5321
				   4.5.3.1.4 */
#define DIGEST_SECONDS 30	/* for smtpd-tls to compute one */

/* ---- The file ---- */

long
nexthop_read_credentials(const struct nexthop *h, char **text)
{
	int fd = file_again(h->auth, h->set->auth);
	bool open;
	long n;

	*text = NULL;
	if (fd == -1)
		return -1;
	n = credentials_read(fd, text, &open);
	close(fd);
	if (open && h->s.fd != -1)
		smtp_log(h, h->set->auth,
		    "every user of this host can read this file");
	return n;
}

/* A live next hop is asked before its client has said MAIL, too. */
static bool
is_before_mail(const struct nexthop *h)
{
	return h->live != NULL && h->live->sender == NULL;
}

int
smtp_find_credentials(struct nexthop *h, struct credentials *c, char *why,
    size_t size)
{
	const struct credentials_for who = {
		.sender = h->protocol == NEXTHOP_LMTP || h->env == NULL ||
		    is_before_mail(h) ? NULL : h->env->fact[FACT_SENDER],
		.place = &h->place, .port = smtp_default_port(h->protocol)
	};
	char *text, what[256] = "";
	int found = -1;
	long n;

	n = nexthop_read_credentials(h, &text);
	if (n == -1)
		text_copy(what, sizeof what, strerror(errno));
	else
		found = credentials_find(text, (size_t)n, &who, c,
		    &h->by_sender, what, sizeof what);
	if (found == -1)
		snprintf(why, size, "%.240s: %.240s", h->set->auth, what);
	file_free(text, n);
	return found;
}

/* Writes whose credentials these are, as one connection has them. */
static void
name_account(char to[SMTP_ACCOUNT], const struct credentials *c)
{
	text_join(to, SMTP_ACCOUNT, c->key, " ", c->user, NULL);
}

/* ---- Words ---- */

/* Our own configuration does not fit: an error of ours, so temporary. */
static bool
auth_error(const struct nexthop *h, struct reply *r, const char *enh,
    const char *why)
{
	smtp_log(h, "AUTH", why);
	reply_set(r, 451, enh, SMTP_NO_AUTH);
	return false;
}

/* What providers mean by their codes. */
static const struct {
	const char *enh, *hint;
} hints[] = {
	{ "5.7.139", "; the provider has switched off SMTP AUTH for this "
	    "account, or its policy forbids it: OAuth 2.0 may be needed" },
	{ "5.7.3", "; wrong user or password, a token of another user, or SMTP "
	    "AUTH is switched off" },
	{ "5.7.9", "; an app password, or OAuth 2.0, is needed" },
	{ "5.7.14", "; the provider wants its user to log in by a browser" },
};

/* The next hop refuses the credentials.  Its text may repeat them, so only the
   codes are told. */
static bool
auth_refused(const struct nexthop *h, const char *status, struct reply *r)
{
	const char *hint = "";
	char why[256];
	size_t i;

	for (i = 0; i < COUNT(hints); i++)
		if (strcmp(hints[i].enh, r->enh) == 0)
			hint = hints[i].hint;
	snprintf(why, sizeof why, "refused with %d %s%s%s%s", r->code, r->enh,
	    *status != '\0' ? ", status " : "", status, hint);
	return auth_error(h, r, "4.7.8", why);
}

/* Adds octets to the group as base64, and the end of the line. */
static void
add_base64(struct nexthop *h, const char *p, size_t len)
{
	char text[4 * ((SASL_MESSAGE + 2) / 3) + 1];

	if (len > SASL_MESSAGE)
		len = SASL_MESSAGE;	/* no mechanism has such a message */
	text_encode_base64(text, p, len);
	smtp_add(h, "%s\r\n", text);
	explicit_bzero(text, sizeof text);
}

/* ---- Mechanisms ---- */

/* One authentication. */
struct attempt {
	struct nexthop *h;
	const struct credentials *c;
	int64_t deadline;
	struct reply *r;
	char message[SASL_MESSAGE];	/* the first one; secret */
	char status[80];	/* of an error in JSON */
	bool sent;		/* the server was told something */
};

static bool
ask_step(struct attempt *a, enum step step)
{
	a->sent = true;
	return smtp_command(a->h, step, a->deadline, a->r);
}

/* Decodes the server's challenge, to which a NUL is added; "" if it is none, or
   too long.  Returns its octets. */
static size_t
read_challenge(const struct attempt *a, char *to, size_t size)
{
	long n = text_decode_base64(to, size - 1, span_of(a->r->text));

	if (n < 0 || (size_t)n >= size)
		n = 0;
	to[n] = '\0';
	return (size_t)n;
}

/*
 * Sends a mechanism's first message: with AUTH, or, where that line would be
 * too long (RFC 4954 4), after an empty challenge.
 */
static bool
begin_mechanism(struct attempt *a, const char *mechanism, const char *p,
    size_t len, enum step step)
{
	size_t line = strlen("AUTH  \r\n") + strlen(mechanism) +
	    4 * ((len + 2) / 3);

	smtp_add(a->h, "AUTH %s", mechanism);
	if (line > AUTH_LINE) {
		smtp_add(a->h, "\r\n");
		if (!ask_step(a, STEP_CHALLENGE))
			return false;
	} else
		smtp_add(a->h, " ");
	add_base64(a->h, p, len);
	return ask_step(a, step);
}

static bool
auth_plain(struct attempt *a)
{
	return begin_mechanism(a, "PLAIN", a->message,
	    sasl_plain(a->message, a->c), STEP_AUTH);
}

static bool
auth_login(struct attempt *a)
{
	smtp_add(a->h, "AUTH LOGIN\r\n");
	if (!ask_step(a, STEP_CHALLENGE))
		return false;
	add_base64(a->h, a->c->user, strlen(a->c->user));
	if (!ask_step(a, STEP_CHALLENGE))
		return false;
	add_base64(a->h, a->c->secret, strlen(a->c->secret));
	return ask_step(a, STEP_AUTH);
}

/* The server answers a token: 235, or 334 with an error in JSON, which wants
   an empty answer of that mechanism before it refuses. */
static bool
auth_token(struct attempt *a, const char *mechanism, size_t len,
    const char *answer)
{
	char json[REPLY_TEXT];

	if (!begin_mechanism(a, mechanism, a->message, len, STEP_SASL))
		return false;
	if (a->r->code == 235)
		return true;
	read_challenge(a, json, sizeof json);
	sasl_status(a->status, sizeof a->status, json);
	if (a->status[0] == '\0' || smtp_quotes_secret(a->h, a->status))
		text_copy(a->status, sizeof a->status, "unknown");
	smtp_add(a->h, "%s\r\n", answer);
	return ask_step(a, STEP_AUTH);
}

static bool
auth_oauthbearer(struct attempt *a)
{
	return auth_token(a, "OAUTHBEARER", sasl_oauthbearer(a->message, a->c,
	    a->h->place.host, smtp_port(a->h)), "AQ==");
}

static bool
auth_xoauth2(struct attempt *a)
{
	return auth_token(a, "XOAUTH2", sasl_xoauth2(a->message, a->c), "");
}

/* Ends an exchange in which the server made no sense. */
static bool
cancel(struct attempt *a)
{
	smtp_log(a->h, "AUTH", "the server's challenge makes no sense");
	smtp_add(a->h, "*\r\n");
	if (ask_step(a, STEP_AUTH))	/* it accepts what we take back */
		return smtp_garbled(a->h, STEP_AUTH, "", a->r);
	if (a->h->s.fd != -1)
		a->r->code = 535;
	return false;
}

/* Starts what computes.  Without it another mechanism must do: the server was
   told nothing yet. */
static bool
start_digest(struct attempt *a, struct digest *d)
{
	char why[256];

	if (digest_start(d, a->h->set->tls_program,
	    clock_within(a->deadline, DIGEST_SECONDS), why, sizeof why))
		return true;
	if (a->h->set->tls_program != NULL)
		smtp_log(a->h, "AUTH", why);
	a->r->code = 504;
	a->r->enh[0] = '\0';
	return false;
}

/* Asks for a digest of the password, of salt and text. */
static bool
ask_digest(struct attempt *a, struct digest *d, struct digest_question q,
    const char *salt, const char *text, struct digest_answer *to)
{
	q.password = (uint32_t)strlen(a->c->secret);
	return digest_ask(d, &q, a->c->secret, salt, text, to,
	    clock_within(a->deadline, DIGEST_SECONDS));
}

static bool
auth_cram(struct attempt *a)
{
	char challenge[REPLY_TEXT], answer[CREDENTIAL_USER + 40];
	struct digest_question q = { .kind = DIGEST_CRAM_MD5,
		.iterations = 1 };
	struct digest_answer hash;
	struct digest d;
	size_t len, i;
	bool ok;

	if (!start_digest(a, &d))
		return false;
	smtp_add(a->h, "AUTH CRAM-MD5\r\n");
	ok = ask_step(a, STEP_CHALLENGE);
	if (!ok) {
		digest_close(&d);
		return false;
	}
	q.text = (uint32_t)read_challenge(a, challenge, sizeof challenge);
	ok = q.text > 0 && ask_digest(a, &d, q, NULL, challenge, &hash);
	digest_close(&d);
	if (!ok)
		return cancel(a);
	len = (size_t)snprintf(answer, sizeof answer, "%s ", a->c->user);
	for (i = 0; i < 16; i++)
		len += (size_t)snprintf(answer + len, sizeof answer - len,
		    "%02x", hash.proof[i]);
	add_base64(a->h, answer, len);
	return ask_step(a, STEP_AUTH);
}

/* Is this the message "v=" with that signature?  Otherwise the server does not
   know the password, and is another. */
static bool
is_signature(const char *text, const unsigned char signature[32])
{
	char mine[64] = "v=", theirs[128];
	long n = text_decode_base64(theirs, sizeof theirs, span_of(text));
	size_t len = 2 + text_encode_base64(mine + 2,
	    (const char *)signature, 32);

	return n == (long)len && memcmp(mine, theirs, len) == 0;
}

/* The last messages: our proof, and the server's. */
static bool
finish_scram(struct attempt *a, struct digest *d, struct scram *s)
{
	const struct digest_question q = {
		.kind = DIGEST_SCRAM_SHA_256, .iterations = s->iterations,
		.salt = (uint32_t)s->saltlen, .text = (uint32_t)strlen(s->text)
	};
	char proof[64], final[SCRAM_TEXT + 80];
	struct digest_answer hash;
	int len;

	if (!ask_digest(a, d, q, s->salt, s->text, &hash))
		return cancel(a);
	text_encode_base64(proof, (const char *)hash.proof, sizeof hash.proof);
	len = snprintf(final, sizeof final, "%s,p=%s", s->final, proof);
	add_base64(a->h, final, (size_t)len);
	if (!ask_step(a, STEP_SASL))
		return false;
	if (a->r->code == 235 || !is_signature(a->r->text, hash.signature)) {
		smtp_log(a->h, "AUTH", "the server does not prove that it "
		    "knows the password");
		smtp_hang_up(a->h);
		reply_set(a->r, 451, "4.7.8", SMTP_NO_AUTH);
		return false;
	}
	smtp_add(a->h, "\r\n");
	return ask_step(a, STEP_AUTH);
}

static bool
auth_scram(struct attempt *a)
{
	char octets[18], server[SCRAM_TEXT];
	struct digest d;
	struct scram s;
	bool ok;

	if (getrandom(octets, sizeof octets, 0) != sizeof octets ||
	    !start_digest(a, &d)) {
		a->r->code = 504;
		return false;
	}
	text_encode_base64(s.nonce, octets, sizeof octets);
	ok = scram_begin(&s, a->c->user) &&
	    begin_mechanism(a, "SCRAM-SHA-256", s.first, strlen(s.first),
	    STEP_CHALLENGE);
	if (ok) {
		read_challenge(a, server, sizeof server);
		ok = scram_continue(&s, server) ? finish_scram(a, &d, &s)
		    : cancel(a);
	}
	digest_close(&d);
	return ok;
}

/* The strongest first. */
static const struct {
	const char *name;
	unsigned can;
	bool token;	/* for an access token, not for a password */
	bool (*run)(struct attempt *a);
} mechanisms[] = {
	{ "OAUTHBEARER", CAN_AUTH_OAUTHBEARER, true, auth_oauthbearer },
	{ "XOAUTH2", CAN_AUTH_XOAUTH2, true, auth_xoauth2 },
	{ "SCRAM-SHA-256", CAN_AUTH_SCRAM, false, auth_scram },
	{ "CRAM-MD5", CAN_AUTH_CRAM, false, auth_cram },
	{ "PLAIN", CAN_AUTH_PLAIN, false, auth_plain },
	{ "LOGIN", CAN_AUTH_LOGIN, false, auth_login },
};

/* Old servers write "AUTH=". */
void
smtp_note_auth(struct nexthop *h, const char *line)
{
	if (text_find_word(line, "AUTH") != line)
		return;
	line += strlen("AUTH");
	line += strspn(line, " =");
	for (size_t i = 0; i < COUNT(mechanisms); i++)
		if (text_find_word(line, mechanisms[i].name) != NULL)
			h->can |= mechanisms[i].can;
}

/* Codes after which another mechanism may do. */
static bool
is_mechanism_refused(int code)
{
	return code == 502 || code == 503 || code == 504 || code == 534 ||
	    code == 535;
}

/* Tries the mechanisms that both sides know, one after the other.  A token that
   a mechanism has refused by name is no better in the next one. */
static bool
try_mechanisms(struct attempt *a)
{
	struct nexthop *h = a->h;
	size_t i;

	a->r->code = 504;
	for (i = 0; i < COUNT(mechanisms) && h->s.fd != -1 &&
	    is_mechanism_refused(a->r->code) && a->status[0] == '\0'; i++)
		if ((h->can & mechanisms[i].can) &&
		    mechanisms[i].token == a->c->token &&
		    mechanisms[i].run(a))
			return true;
	if (!a->sent)
		return auth_error(h, a->r, "4.7.0",
		    "the mechanisms that are offered need smtpd-tls");
	return h->s.fd != -1 && auth_refused(h, a->status, a->r);
}

/* Does the server offer a mechanism for a token, or for a password? */
static bool
is_offered(const struct nexthop *h, bool token)
{
	size_t i;

	for (i = 0; i < COUNT(mechanisms); i++)
		if ((h->can & mechanisms[i].can) &&
		    mechanisms[i].token == token)
			return true;
	return false;
}

/* The server offers AUTH, and the file has no line for it. */
static void
log_no_credentials(const struct nexthop *h)
{
	char why[512 + PLACE_HOST_MAX];

	if (h->place.local)
		snprintf(why, sizeof why, "%.400s has no line for unix:%s",
		    h->set->auth, h->place.host);
	else
		snprintf(why, sizeof why, "%.400s has no line for [%s]:%s",
		    h->set->auth, h->place.host, smtp_port(h));
	smtp_log(h, "AUTH", why);
}

bool
smtp_is_our_account(struct nexthop *h)
{
	char account[SMTP_ACCOUNT] = "", why[512];
	struct credentials c;
	int found;

	if (h->set->auth == NULL || !h->by_sender || smtp_is_login(h))
		return true;
	found = smtp_find_credentials(h, &c, why, sizeof why);
	if (found == 1)
		name_account(account, &c);
	else if (found == 0 && h->live != NULL && h->no_line)
		log_no_credentials(h);
	credentials_wipe(&c);
	return found != -1 && strcmp(account, h->account) == 0;
}

/* Authenticates with *c. */
static bool
use_credentials(struct nexthop *h, struct credentials *c, int64_t deadline,
    struct reply *r)
{
	struct attempt a = { .h = h, .c = c, .deadline = deadline, .r = r };
	char why[512];
	bool ok;

	if (!h->secure)
		return auth_error(h, r, "4.7.11", c->token ?
		    "no token goes out without TLS" :
		    "no password goes out without TLS");
	if (!is_offered(h, c->token))
		return auth_error(h, r, "4.7.0", c->token ?
		    "neither OAUTHBEARER nor XOAUTH2 is offered" :
		    "no mechanism for a password is offered");
	if (c->program && !credentials_run(c, &h->set->log, h->env, deadline,
	    why, sizeof why))
		return auth_error(h, r, "4.7.0", why);
	h->secret = c->secret;
	ok = try_mechanisms(&a);
	explicit_bzero(a.message, sizeof a.message);
	h->secret = NULL;
	return ok;
}

bool
smtp_authenticate(struct nexthop *h, int64_t deadline, struct reply *r)
{
	struct credentials c;
	char why[512];
	bool ok = true;
	int n;

	h->account[0] = '\0';
	h->by_sender = false;
	if (h->set->auth == NULL)
		return true;
	n = smtp_find_credentials(h, &c, why, sizeof why);
	h->no_line = n == 0 && (is_offered(h, true) || is_offered(h, false));
	if (h->no_line && !(h->by_sender && is_before_mail(h)))
		log_no_credentials(h);
	if (n == -1)
		ok = auth_error(h, r, "4.3.5", why);
	if (n == 1) {
		name_account(h->account, &c);
		ok = use_credentials(h, &c, deadline, r);
		explicit_bzero(h->out, sizeof h->out);
	}
	credentials_wipe(&c);
	return ok;
}

bool
smtp_is_trusted(const struct nexthop *h)
{
	return h->account[0] != '\0';
}
