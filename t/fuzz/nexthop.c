/*
 * nexthop.c - a next hop that says anything.
 *
 * The first four octets choose protocol, envelope, settings and the message;
 * the rest is the peer's script (peer.c).  Whatever it says:
 *  - verdicts are replies that a client can be given: 250 or a refusal, none
 *    that would hang up on it, without control characters;
 *  - 250 means that the next hop said 2yz after it had the message;
 *  - no password is told to the administrator or the client.
 */
#define _GNU_SOURCE	/* memfd_create */
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/smtp.h"
#include "t/fakes/peer.h"
#include "t/fuzz/fuzz.h"

#define HEAD 4
#define RECIPIENTS 4
#define LONG 100000	/* octets of a message of several blocks */
/* A script that has neither '~' nor '+' cannot know it. */
#define PASSWORD "~~~~~~"
#define PASSWORD64 "fn5+fn5+"

static size_t yeses;	/* last lines of 2yz replies that were read */

void
peer_read(const char *line, size_t len)
{
	char code[5] = "";

	copy_printable(line, len, code, sizeof code);
	if (code[0] == '2' && strspn(code, "0123456789") == 3 &&
	    (code[3] == '\0' || code[3] == ' '))
		yeses++;
}

static const char *
long_message(void)
{
	static char text[LONG + 1];
	size_t i;

	for (i = 0; i < LONG; i++)
		text[i] = i % 61 == 60 ? '\n' : i % 60 == 0 ? '.' : 'x';
	return text;
}

static const char *const messages[] = {
	"Subject: dots\r\n\r\n.\r\n..\r\nend\r\n",
	"Subject: 8-bit\r\n\r\n\303\274\r\n",
	"Subject: \303\274\r\n\r\nno line end",
	"Subject: LF\n\n.\n\rx\n\r"
};

/* untried: some may be without a verdict, because others were refused. */
static void
check(const struct reply v[], size_t n, bool untried,
    const struct secret *secret)
{
	size_t i, refused = 0;

	for (i = 0; i < n; i++)
		refused += v[i].code >= 400;
	for (i = 0; i < n; i++) {
		if (untried && refused > 0 && v[i].code == 0)
			continue;
		demand_verdict(&v[i]);
		demand(v[i].code != 421, "a verdict hangs up on our client");
		demand_kept(secret, v[i].text);
	}
}

static void
deliver(struct nexthop *h, const struct envelope *env, const uint8_t *head,
    int spool, const struct secret *secret)
{
	struct reply v[RECIPIENTS];
	size_t i, good = 0, n = env->nrecipients;
	const bool lmtp = (head[0] & 3) == NEXTHOP_LMTP;

	memset(v, 'x', sizeof v);
	nexthop_offer(h, env, spool, clock_now() + 1000000, v);
	check(v, n, false, secret);
	if (head[3] & 8) {
		nexthop_abandon(h, clock_now() + 1000000);
		return;
	}
	yeses = 0;
	nexthop_send(h, env, spool, head[3] & 4 ? SPOOL_LF : SPOOL_CRLF,
	    clock_now() + 1000000, v);
	check(v, n, lmtp, secret);
	for (i = 0; i < n; i++)
		good += v[i].code == 250;
	if (good > 0 && !lmtp)
		good = 1;
	demand(good <= yeses, "a yes that the next hop did not say");
	demand(good == 0 || spool != -1, "a yes without a message");
}

static void
fill_in(struct envelope *env, const uint8_t *head)
{
	static const struct recipient to[RECIPIENTS] = {
		{ "a@example.org", "NOTIFY=NEVER ORCPT=rfc822;a@example.org" },
		{ "b@example.org", "" },
		{ "\303\274@example.org", "" },
		{ "\"c d\"@example.org", "NOTIFY=SUCCESS" }
	};
	size_t i;

	memset(env, 0, sizeof *env);
	for (i = 0; i < FACTS; i++)
		env->fact[i] = "";
	env->fact[FACT_SENDER] = head[1] & 1 ? "" : "s@example.org";
	env->fact[FACT_MAIL_OPTIONS] = "RET=HDRS ENVID=a+2Bb SIZE=9";
	env->fact[FACT_CLIENT_ADDRESS] = head[1] & 2 ? "2001:db8::1" :
	    "192.0.2.9";
	env->fact[FACT_CLIENT_PROTOCOL] = "ESMTP";
	env->fact[FACT_CLIENT_HELO] = "client\303\274 +=";
	env->recipients = to;
	env->nrecipients = 1 + (head[0] >> 2 & 3);
	env->smtputf8 = (head[1] & 4) != 0;
	env->body = (enum body)((head[1] >> 3) % 3);
	env->size = head[1] & 128 ? 0 : 40;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const places[] = {
		"unix:/x", "[192.0.2.1]:25", "192.0.2.1,unix:/x", "192.0.2.1"
	};
	static char name[64];
	static int spool[6];	/* the last: a message that is lost */
	struct relay_settings set = { .fqdn = "mx.example.org",
		.next_timeout = 30 };
	struct envelope env;
	struct nexthop *h;
	struct secret secret = { PASSWORD, PASSWORD64, false };
	size_t i, message;

	if (size < HEAD)
		return 0;
	if (name[0] == '\0') {
		for (i = 0; i < 4; i++)
			spool[i] = memory_file(messages[i],
			    strlen(messages[i]));
		spool[4] = memory_file(long_message(), LONG);
		spool[5] = -1;
		named_file("[192.0.2.1]:25 user:" PASSWORD "\n"
		    "unix:/x user:" PASSWORD "\n", name, sizeof name);
	}
	message = (data[3] & 0x70) == 0x70 ? 4U + (data[3] >> 7) :
	    data[3] & 3U;
	secret.kept = memchr(data + HEAD, '~', size - HEAD) == NULL &&
	    memchr(data + HEAD, '+', size - HEAD) == NULL;
	set.log = (struct logger){ log_kept, &secret };
	set.tls = (enum tls_level)((data[2] & 3) % 3);
	set.tls_program = "/nonexistent";
	set.auth = data[2] & 4 ? name : NULL;
	fill_in(&env, data);
	peer_open(data + HEAD, size - HEAD, data[2] & 8 ? 5000 : SIZE_MAX);
	h = nexthop_open(&set, (enum nexthop_protocol)((data[0] & 3) % 3),
	    places[data[2] >> 4 & 3], -1);
	demand(h != NULL, "no memory");
	for (i = 0; i < 1U + (data[2] >> 6); i++)
		deliver(h, &env, data, spool[message], &secret);
	nexthop_close(h);
	return 0;
}
