/*
 * auth.c - AUTH (RFC 4954): the exchange with the client, and the table of
 * sources that know who a client is.
 *
 * PLAIN, LOGIN and EXTERNAL are spoken here; any other mechanism is between
 * the client and Dovecot.
 */
#define _GNU_SOURCE	/* explicit_bzero */

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/reply.h"
#include "base/text.h"
#include "service/auth_source.h"

#define SECRET_MAX (2 * USER_MAX + PASSWORD_MAX)	/* PLAIN, decoded */

static const struct auth_source *const auth_sources[] = {
	&auth_checkpassword, &auth_dovecot, &auth_file,
};

static const struct auth_source *
find_source(const char *source)
{
	size_t i;

	for (i = 0; i < COUNT(auth_sources); i++)
		if (text_starts(source, auth_sources[i]->prefix))
			return auth_sources[i];
	return NULL;
}

struct auth *
auth_open(const char *source, unsigned timeout, const struct logger *log,
    char *error, size_t size)
{
	const struct auth_source *as = find_source(source);
	char why[512] = "out of memory";
	const char *path;
	struct auth *a;

	if (as == NULL) {
		snprintf(error, size, "--auth: \"%s\" does not begin with "
		    "checkpassword:, dovecot:, file: or relay:", source);
		return NULL;
	}
	path = source + strlen(as->prefix);
	if (path[0] != '/') {
		snprintf(error, size, "--auth: \"%s\" has no path that begins "
		    "with /", source);
		return NULL;
	}
	a = calloc(1, sizeof *a);
	if (a != NULL) {
		a->source = as;
		a->timeout = timeout;
		a->log = log;
		a->limit = AUTH_FAILURES_MAX;
		a->where = strdup(path);
		if (a->where != NULL && as->open(a, why, sizeof why))
			return a;
		auth_close(a);
	}
	snprintf(error, size, "--auth: \"%s\": %s", source, why);
	return NULL;
}

enum answer
auth_broken(const struct auth *a, const char *why)
{
	const char *where = a->where;

	if (text_starts(where, "unix:"))	/* as we connect to it */
		where += 5;
	logger_printf(a->log, LOG_ERR, "auth", NULL, "%s%s: %s",
	    a->source->prefix, where, why);
	return ANSWER_UNSURE;
}

bool
auth_take_name(const char *name, char *user, size_t size)
{
	size_t len = strlen(name);

	if (len == 0 || len >= size || !text_is_printable(name, len))
		return false;
	memcpy(user, name, len + 1);
	return true;
}

void
auth_note_name(struct auth *a, const char *name)
{
	if (a != NULL && a->keeps_names)
		text_copy(a->tried, sizeof a->tried, name);
}

void
auth_answer(struct reply *v, enum answer answer)
{
	if (answer == ANSWER_YES)
		reply_set(v, 235, "2.7.0", "Authentication successful");
	else if (answer == ANSWER_NO)
		reply_set(v, 535, "5.7.8",
		    "Authentication credentials invalid");
	else
		reply_set(v, 454, "4.7.0",
		    "Temporary authentication failure");
}

void
auth_challenge(struct auth *a, enum turn turn, struct reply *v,
    const char *text)
{
	if (a != NULL)
		a->turn = turn;
	reply_set(v, 334, "", text);
}

/* Who EXTERNAL says a client is (RFC 4422 A): a verified certificate comes
   first, since a unix socket may be some proxy's.  "" for nobody. */
static const char *
external_name(const struct envelope *env)
{
	const char *subject = env->fact[FACT_TLS_SUBJECT];

	return *subject != '\0' ? subject : env->fact[FACT_CLIENT_USER];
}

static bool
list_has(const char *list, const char *name)
{
	size_t n;

	for (; *list != '\0'; list += n + strspn(list + n, " ")) {
		n = strcspn(list, " ");
		if (text_is(list, n, name))
			return true;
	}
	return false;
}

/* What the source has, without EXTERNAL.  NULL if it does not say. */
static const char *
source_mechanisms(struct auth *a)
{
	return a->source->check != NULL ? "PLAIN LOGIN" :
	    a->source->mechanisms(a);
}

const char *
auth_mechanisms(struct auth *a, const struct envelope *env)
{
	const char *own = external_name(env)[0] == '\0' ? "" : "EXTERNAL";
	const char *list;

	if (a == NULL)
		return own;
	list = source_mechanisms(a);
	if (list == NULL)
		text_join(a->offer, sizeof a->offer, own,
		    *own != '\0' ? " ?" : "", NULL);
	else
		text_join(a->offer, sizeof a->offer, list,
		    *list != '\0' && *own != '\0' ? " " : "", own, NULL);
	return a->offer;
}

/* An authorization identity may only repeat who one is (RFC 4616 2). */
static void
settle_external(const struct envelope *env, const char *authzid, size_t len,
    struct reply *v, char *user, size_t size)
{
	const char *name = external_name(env);

	if (strlen(authzid) != len || (len != 0 && strcmp(authzid, name) != 0))
		auth_answer(v, ANSWER_NO);
	else
		auth_answer(v, auth_take_name(name, user, size) ? ANSWER_YES
		    : ANSWER_NO);
}

/* An empty password is never right, whatever a source makes of it. */
static void
settle_password(struct auth *a, const char *name, const char *password,
    struct reply *v, char *user, size_t size)
{
	enum answer answer = ANSWER_NO;
	char known[USER_MAX];

	assert(a != NULL);	/* EXTERNAL alone has none */
	auth_note_name(a, name);
	if (size > sizeof known)
		size = sizeof known;
	if (auth_take_name(name, known, size) && password[0] != '\0' &&
	    strlen(password) < PASSWORD_MAX)
		answer = a->source->check(a, known, password);
	if (answer == ANSWER_YES)
		memcpy(user, known, strlen(known) + 1);
	auth_answer(v, answer);
	explicit_bzero(known, sizeof known);
}

/* RFC 4616: authzid NUL authcid NUL password. */
static void
settle_plain(struct auth *a, const char *text, size_t len, struct reply *v,
    char *user, size_t size)
{
	const char *authcid = memchr(text, '\0', len), *password = NULL;
	const char *end = text + len;

	if (authcid != NULL) {
		authcid++;
		password = memchr(authcid, '\0', (size_t)(end - authcid));
	}
	if (password != NULL)
		password++;
	if (password == NULL || strlen(password) != (size_t)(end - password))
		reply_set(v, 501, "5.5.2", "Response is not as in RFC 4616");
	else if (text[0] != '\0' && strcmp(text, authcid) != 0) {
		auth_note_name(a, authcid);
		auth_answer(v, ANSWER_NO);
	} else
		settle_password(a, authcid, password, v, user, size);
}

/* LOGIN (draft-murchison-sasl-login): a name, then a password. */
static void
settle_login(struct auth *a, enum turn turn, const char *text, size_t len,
    struct reply *v, char *user, size_t size)
{
	if (strlen(text) != len)
		auth_answer(v, ANSWER_NO);
	else if (turn == TURN_PASSWORD)
		settle_password(a, a->user, text, v, user, size);
	else if (len >= sizeof a->user)
		auth_answer(v, ANSWER_NO);
	else {
		assert(a != NULL);
		memcpy(a->user, text, len + 1);
		auth_challenge(a, TURN_PASSWORD, v, "UGFzc3dvcmQ6");
	}
}

/* A response, in base64, to a mechanism that is spoken here. */
static void
take_response(struct auth *a, const struct envelope *env, enum turn turn,
    const char *response, struct reply *v, char *user, size_t size)
{
	char text[SECRET_MAX];
	size_t len = (size_t)text_decode_base64(text, sizeof text - 1,
	    span_of(response));

	text[len < sizeof text ? len : 0] = '\0';
	if (len >= sizeof text)
		reply_set(v, 500, "5.5.6", "Response too long");
	else if (turn == TURN_EXTERNAL)
		settle_external(env, text, len, v, user, size);
	else if (turn == TURN_PLAIN)
		settle_plain(a, text, len, v, user, size);
	else
		settle_login(a, turn, text, len, v, user, size);
	explicit_bzero(text, sizeof text);
}

/* Mechanisms that are spoken here, and the challenge that begins them. */
static const struct {
	char name[9];
	enum turn turn;
	char challenge[13];
} spoken[] = {
	{ "PLAIN", TURN_PLAIN, "" },
	{ "LOGIN", TURN_USER, "VXNlcm5hbWU6" },
	{ "EXTERNAL", TURN_EXTERNAL, "" },
};

/* The turn that mechanism begins; TURN_NONE, with *v filled in, if none. */
static enum turn
begin_exchange(struct auth *a, const struct envelope *env, const char *name,
    const char **first, struct reply *v)
{
	bool certain = strcmp(name, "EXTERNAL") == 0;
	const char *list = "EXTERNAL";
	size_t i;

	*first = "";
	if (certain && external_name(env)[0] == '\0')
		list = "";
	else if (!certain)
		list = a == NULL ? "" : source_mechanisms(a);
	if (list == NULL) {
		auth_answer(v, ANSWER_UNSURE);
		return TURN_NONE;
	}
	if (!list_has(list, name)) {
		reply_set(v, 504, "5.5.4", "Mechanism is not offered");
		return TURN_NONE;
	}
	if (!certain && a->source->check == NULL)
		return TURN_SOURCE;
	for (i = 0; strcmp(spoken[i].name, name) != 0; i++)
		;
	*first = spoken[i].challenge;
	return spoken[i].turn;
}

static void
take_step(struct auth *a, const struct envelope *env, const char *name,
    const char *response, struct reply *v, char *user, size_t size)
{
	/* Without a source EXTERNAL is all there is, and needs no memory. */
	enum turn turn = a == NULL ? TURN_EXTERNAL : a->turn;
	const char *first = "";

	user[0] = '\0';
	if (name != NULL) {
		auth_abandon(a);
		turn = begin_exchange(a, env, name, &first, v);
		if (turn == TURN_NONE)
			return;
		/* RFC 4954 4: an initial response that is empty. */
		if (response != NULL && strcmp(response, "=") == 0)
			response = "";
	} else if (turn == TURN_NONE) {
		reply_set(v, 503, "5.5.1", "No AUTH exchange is going on");
		return;
	} else if (response == NULL)
		response = "";
	if (response != NULL &&
	    text_decode_base64(NULL, 0, span_of(response)) == -1) {
		auth_abandon(a);
		reply_set(v, 501, "5.5.2", "Response is not base64");
		return;
	}
	if (a != NULL)
		a->turn = TURN_NONE;
	if (turn == TURN_SOURCE) {
		assert(a != NULL);
		a->source->step(a, env, name, response, v, user, size);
	} else if (response == NULL)
		auth_challenge(a, turn, v, first);
	else
		take_response(a, env, turn, response, v, user, size);
	if (a != NULL && a->turn != TURN_PASSWORD)
		explicit_bzero(a->user, sizeof a->user);
}

void
auth_step(struct auth *a, const struct envelope *env, const char *mechanism,
    const char *response, struct reply *v, char *user, size_t size)
{
	if (a != NULL && a->limit != 0 && a->failures >= a->limit) {
		auth_abandon(a);
		user[0] = '\0';
		reply_set(v, 421, "4.7.0",
		    "Too many failed authentications");
		return;
	}
	if (a != NULL) {
		a->why = NULL;
		explicit_bzero(a->tried, sizeof a->tried);
	}
	take_step(a, env, mechanism, response, v, user, size);
	if (a != NULL && v->code == 535)
		a->failures++;
}

void
auth_keep_names(struct auth *a)
{
	a->keeps_names = true;
}

const char *
auth_asked(const struct auth *a, const char **why, const char **name)
{
	*why = a == NULL ? NULL : a->why;
	*name = a == NULL ? "" : a->tried;
	return a == NULL ? "certificate or login" : a->source->prefix;
}

void
auth_abandon(struct auth *a)
{
	if (a == NULL)
		return;
	if (a->turn == TURN_SOURCE)
		a->source->abandon(a);
	a->turn = TURN_NONE;
	explicit_bzero(a->user, sizeof a->user);
}

void
auth_check(struct auth *a, struct findings *f)
{
	a->source->probe(a, f);
}

void
auth_close(struct auth *a)
{
	if (a == NULL)
		return;
	auth_abandon(a);
	if (a->state != NULL)
		a->source->close(a);
	free(a->where);
	free(a);
}
