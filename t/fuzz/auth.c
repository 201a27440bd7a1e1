/*
 * auth.c - a Dovecot that answers anything, and clients that respond
 * anything.
 *
 * The first octet chooses mechanism and source; then come the client's two
 * responses, each ended by a line feed, and then Dovecot's script (peer.c).
 *  - A verdict is one that auth.h names; a challenge is base64.
 *  - 235 has a user's name, nothing else has one, and Dovecot said OK.
 */
#define _GNU_SOURCE	/* memmem */
#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "service/auth.h"
#include "t/fakes/peer.h"
#include "t/fuzz/fuzz.h"

#define USER 32		/* octets: short, so that names do not fit */
#define STEPS 3

static bool welcomed;	/* "OK", and a user, were read */

void
peer_read(const char *line, size_t len)
{
	if (len > 3 && memcmp(line, "OK\t", 3) == 0 &&
	    memmem(line, len, "\tuser=", 6) != NULL)
		welcomed = true;
}

static void
check(const struct reply *v, const char *user, bool dovecot)
{
	static const int codes[] = { 235, 334, 421, 454, 500, 501, 503, 504,
		535 };
	size_t i;

	for (i = 0; i < COUNT(codes) && v->code != codes[i]; i++)
		;
	demand(i < COUNT(codes), "not a verdict");
	demand((v->code == 235) == (user[0] != '\0'),
	    "a user without 235, or 235 without a user");
	demand(v->code != 235 || !dovecot || welcomed,
	    "235 without Dovecot's OK");
	demand(strlen(user) < USER, "a name without its end");
	demand_text(user, "", "a user's name with control characters");
	demand_text(v->text, "", "a verdict with control characters");
	demand(v->code != 334 || v->text[strspn(v->text, "+/="
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")]
	    == '\0', "a challenge that is not base64");
}

/* The next line, as a string of its own; NULL if there is none. */
static char *
cut(const uint8_t **p, const uint8_t *end)
{
	const uint8_t *lf = memchr(*p, '\n', (size_t)(end - *p));
	char *line;

	if (lf == NULL)
		return NULL;
	line = malloc((size_t)(lf - *p) + 1);
	demand(line != NULL, "no memory");
	memcpy(line, *p, (size_t)(lf - *p));
	line[lf - *p] = '\0';
	*p = lf + 1;
	return line;
}

/* Wipes and frees: what is kept of it after this is seen by a sanitizer. */
static void
answer(struct auth *a, const struct envelope *env, const char *name,
    char *response[STEPS], bool dovecot)
{
	struct reply v = { .code = 0 };
	char user[USER];
	size_t i;

	welcomed = false;
	for (i = 0; i < STEPS; i++) {
		memset(user, 'x', sizeof user);
		auth_step(a, env, i == 0 ? name : NULL, response[i], &v, user,
		    sizeof user);
		check(&v, user, dovecot);
		if (v.code != 334)
			break;
	}
	if (v.code == 334)
		auth_abandon(a);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {
		"PLAIN", "LOGIN", "EXTERNAL", "CRAM-MD5"
	};
	static const struct logger log = { demand_printable, NULL };
	const uint8_t *p = data + 1, *end = data + size;
	char *response[STEPS] = { NULL }, error[256];
	struct envelope env = { .nrecipients = 0 };
	bool dovecot;
	struct auth *a;
	size_t i;

	if (size < 1)
		return 0;
	dovecot = (data[0] & 4) == 0;
	for (i = 0; i < FACTS; i++)
		env.fact[i] = "";
	env.fact[FACT_CLIENT_ADDRESS] = "2001:db8::1";
	env.fact[FACT_TLS_SUBJECT] = data[0] & 8 ? "user" : "";
	for (i = data[0] >> 4 & 1; i < STEPS; i++)
		response[i] = cut(&p, end);
	peer_open(p, (size_t)(end - p), SIZE_MAX);
	a = auth_open(dovecot ? "dovecot:/x" : "file:/dev/null", 1, &log,
	    error, sizeof error);
	demand(a != NULL, "no source");
	for (i = 0; i < 2; i++) {
		demand(strlen(auth_mechanisms(a, &env)) < 600, "many offers");
		answer(a, &env, names[data[0] & 3], response,
		    dovecot && (data[0] & 3) != 2);
	}
	for (i = 0; i < STEPS; i++)
		free(response[i]);
	auth_close(a);
	return 0;
}
