/*
 * sasl.c - a next hop that says anything while we authenticate to it.
 *
 * The first octet chooses a password or a token; the rest is the peer's script
 * (peer.c).  Whatever it says:
 *  - no secret is in a reply or in the log;
 *  - nothing is offered to it before it said 235;
 *  - a server of SCRAM is believed only after it has proved that it knows the
 *    password.
 * Digests and nonce are always the same, so that a script can be right.
 */
#define _GNU_SOURCE	/* memfd_create */
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "net/digest.h"
#include "net/spawn.h"
#include "relay/smtp.h"
#include "t/fakes/peer.h"
#include "t/fuzz/fuzz.h"

#define HEAD 1
/* A script that has neither '~' nor '+' cannot know it. */
#define SECRET "~~~~~~"
#define SECRET64 "fn5+fn5+"
#define PROOF "334 dj1VMU5UVTFOVFUxTlRVMU5UVTFOVFUxTlRVMU5U" \
    "VTFOVFUxTlRVMU5UVTFNPQ=="

static struct {
	bool yes;	/* 235 was read */
	bool asked;	/* SCRAM has its proof, and was not refused */
	bool proved;	/* and the server has sent its own */
} seen;

/* In place of those that start smtpd-tls. */
bool
digest_start(struct digest *d, const char *program, int64_t deadline,
    char *why, size_t size)
{
	(void)program;
	(void)deadline;
	(void)why;
	(void)size;
	d->fd = -1;
	return true;
}

bool
digest_ask(struct digest *d, const struct digest_question *q,
    const char *password, const char *salt, const char *text,
    struct digest_answer *a, int64_t deadline)
{
	(void)d;
	(void)salt;
	(void)text;
	(void)deadline;
	demand(q->iterations >= 1 && q->iterations <= DIGEST_ITERATIONS,
	    "a count without bounds");
	demand((size_t)q->password + q->salt + q->text <= DIGEST_TEXT &&
	    strcmp(password, SECRET) == 0, "not the password");
	memset(a, 'S', sizeof *a);
	seen.asked = q->kind == DIGEST_SCRAM_SHA_256;
	seen.proved = false;
	return true;
}

void
digest_close(struct digest *d)
{
	(void)d;
}

int	__wrap_spawn_run(const struct spawn *s, struct spawn_end *end);

/* In place of the one that starts programs: the linker sees to that. */
int
__wrap_spawn_run(const struct spawn *s, struct spawn_end *end)
{
	s->hear(s->ctx, 1, SECRET "\n", strlen(SECRET "\n"));
	*end = (struct spawn_end){ .pid = 1, .status = 0 };
	return 0;
}

ssize_t
getrandom(void *p, size_t len, unsigned flags)
{
	(void)flags;
	memset(p, 'N', len);
	return (ssize_t)len;
}

void
peer_read(const char *line, size_t len)
{
	char text[sizeof PROOF];

	copy_printable(line, len, text, sizeof text);
	if (strncmp(text, "235", 3) == 0)
		seen.yes = true;
	if (*text == '5')
		seen.asked = false;
	if (strcmp(text, PROOF) == 0)
		seen.proved = true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char password[64], token[64];
	static const struct recipient to = { "a@example.org", "" };
	struct relay_settings set = { .fqdn = "mx.example.org",
		.next_timeout = 30 };
	struct envelope env = { .recipients = &to, .nrecipients = 1 };
	struct reply v = { .code = 0 };
	struct nexthop *h;
	struct secret secret = { SECRET, SECRET64, false };

	if (size < HEAD)
		return 0;
	if (password[0] == '\0') {
		named_file("* user:" SECRET "\n", password, sizeof password);
		named_file("* user oauth2 /bin/token\n", token, sizeof token);
	}
	secret.kept = memchr(data + HEAD, '~', size - HEAD) == NULL &&
	    memchr(data + HEAD, '+', size - HEAD) == NULL;
	set.log = (struct logger){ log_kept, &secret };
	set.auth = data[0] & 1 ? token : password;
	for (size_t i = 0; i < FACTS; i++)
		env.fact[i] = "";
	memset(&seen, 0, sizeof seen);
	peer_open(data + HEAD, size - HEAD, data[0] & 2 ? 5000 : SIZE_MAX);
	h = nexthop_open(&set, NEXTHOP_SMTP, "unix:/x", -1);
	demand(h != NULL, "no memory");
	nexthop_offer(h, &env, -1, clock_now() + 1000000, &v);
	demand_verdict(&v);
	demand(v.code != 421, "a verdict hangs up on our client");
	demand_kept(&secret, v.text);
	if (v.code == 250) {
		demand(seen.yes, "a server that did not say 235 is used");
		demand(!seen.asked || seen.proved,
		    "a server that has not proved itself is believed");
	}
	nexthop_close(h);
	return 0;
}
