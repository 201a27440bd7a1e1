/*
 * live.c - a monitor that is asked about a next hop during the dialogue, in any
 * order, while that next hop says anything.
 *
 * The first octet chooses settings, the second how many questions follow, an
 * octet each; the rest is the peer's script (peer.c).  Whatever comes:
 *  - replies can be given to a client: of a class that fits the question,
 *    without control characters, their enhanced codes of the same class;
 *  - a yes to a sender, a recipient, a user or a message is one that the next
 *    hop said;
 *  - what a client said in AUTH goes to one connection, and to no log;
 *  - a login holds on the connection on which it was made, and on no other.
 */
#define _GNU_SOURCE	/* memfd_create */
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay.h"
#include "t/fakes/peer.h"
#include "t/fuzz/fuzz.h"

#define HEAD 2
#define QUESTIONS_MAX 24
#define RECIPIENTS 4
#define SECRET "fn5+fn5+"	/* "~~~~~~"; a script without '+' and the octet
				   that repeats cannot know it */

/* What was heard of the next hop since the last question, by reply. */
static struct heard {
	size_t yeses;		/* 2yz, */
	size_t welcomes;	/* of these 235, */
	size_t challenges;	/* and 334 */
} heard;

void
peer_read(const char *line, size_t len)
{
	char code[5] = "";

	copy_printable(line, len, code, sizeof code);
	if (strspn(code, "0123456789") != 3 ||
	    (code[3] != '\0' && code[3] != ' '))
		return;
	heard.yeses += code[0] == '2';
	heard.welcomes += strncmp(code, "235", 3) == 0;
	heard.challenges += strncmp(code, "334", 3) == 0;
}

/* A reply that a client can be given, and that does not hang up on it. */
static void
check(const struct reply *v)
{
	demand((v->code >= 200 && v->code <= 299) || v->code == 334 ||
	    (v->code >= 400 && v->code <= 599), "no reply");
	demand(v->code != 421, "a reply hangs up on our client");
	demand(v->enh[0] == '\0' || v->enh[0] == '0' + v->code / 100,
	    "the enhanced code is of another class");
	demand_text(v->text, "\n", "a reply with control characters");
}

/* One session: what is asked, and what came of it. */
struct asker {
	struct relay *r;
	struct envelope env;
	struct recipient to[RECIPIENTS];
	bool exchange;		/* AUTH has been answered 334 */
	unsigned user;		/* the connection with a login, counted from 1;
				   0: there is none */
	int spool;
};

static void
init(struct asker *a)
{
	static const char *const known[RECIPIENTS] = {
		"a@example.org", "b@example.org", "\303\274@example.org",
		"\"c d\"@example.org"
	};

	for (size_t i = 0; i < FACTS; i++)
		a->env.fact[i] = "";
	a->env.fact[FACT_SENDER] = "s@example.org";
	a->env.fact[FACT_CLIENT_ADDRESS] = "192.0.2.9";
	a->env.fact[FACT_CLIENT_PROTOCOL] = "ESMTP";
	a->env.fact[FACT_CLIENT_HELO] = "client.example.org";
	for (size_t i = 0; i < RECIPIENTS; i++)
		a->to[i] = (struct recipient){ known[i],
			i % 2 == 0 ? "NOTIFY=NEVER" : "" };
	a->env.recipients = a->to;
}

/* Chooses sender and recipients. */
static void
choose(struct asker *a, uint8_t how)
{
	a->env.fact[FACT_MAIL_OPTIONS] = how & 8 ? "RET=HDRS AUTH=<> SIZE=9"
	    : "";
	a->env.recipients = a->to + (how >> 4 & 1);
	a->env.nrecipients = how >> 5 & 3;
	a->env.smtputf8 = (how & 0x90) == 0x90;
}

static void
offer(struct asker *a, uint8_t how, bool mail)
{
	struct reply v[1 + RECIPIENTS];
	size_t good = 0, n;

	choose(a, how);
	n = a->env.nrecipients;
	if (n == 0 && !mail)
		return;
	for (size_t i = 0; i < COUNT(v); i++)
		reply_set(&v[i], 250, "2.0.0", "Ok");
	relay_live_offer(a->r, &a->env, mail ? v : NULL, v + 1);
	for (size_t i = !mail; i < 1 + n && (i <= 1 || v[0].code < 400 ||
	    !mail); i++) {
		check(&v[i]);
		demand(v[i].code != 334, "a challenge, but no AUTH");
		good += v[i].code < 400;
	}
	demand(good <= heard.yeses, "the next hop did not take as many");
}

static void
deliver(struct asker *a, uint8_t how)
{
	struct reply v[RECIPIENTS];
	size_t good = 0;

	choose(a, how);
	if (a->env.nrecipients == 0)
		return;
	relay_deliver(a->r, &a->env, a->spool, v);
	for (size_t i = 0; i < a->env.nrecipients; i++) {
		check(&v[i]);
		demand(v[i].code != 334, "a challenge, but no AUTH");
		good += v[i].code < 400;
	}
	demand(good == 0 || heard.yeses > 0, "a yes that nobody said");
	relay_live_forget(a->r);
}

/* A line of AUTH, as a channel process that keeps no order may ask. */
static void
login(struct asker *a, uint8_t how)
{
	static const char *const mechanisms[] = { NULL, "PLAIN", "LOGIN",
		"SCRAM-SHA-256", "XOAUTH2", "EXTERNAL", "PLAIN =", "X" };
	static const char *const responses[] = { SECRET, NULL, "",
		"not base64" };
	char user[256] = "x";
	const struct relay_login l = { .mechanism = mechanisms[how >> 3 & 7],
		.response = responses[how >> 6], .user = user,
		.size = sizeof user };
	struct reply v = { .code = 0 };

	relay_auth_step(a->r, &a->env, &l, &v);
	check(&v);
	demand(v.code == 235 || v.code == 334 || v.code >= 400,
	    "not an answer to AUTH");
	demand(v.code != 235 || heard.welcomes > 0,
	    "a login that the next hop did not take");
	demand(v.code != 334 || heard.challenges > 0, "no challenge came");
	demand(v.code >= 400 || a->user == 0, "authenticated twice");
	demand(v.code >= 400 || l.mechanism != NULL || a->exchange,
	    "a response to nothing was taken");
	if (v.code == 235)
		a->user = peer_dials();
	a->exchange = v.code == 334;
}

static void
ask(struct asker *a, uint8_t how)
{
	char text[4096];
	struct reply v = { .code = 252 };

	switch (how & 7) {
	case 0:
		relay_live_hello(a->r, &a->env, text, sizeof text);
		demand(text[0] == '\0' || strncmp(text, "OK\n", 3) == 0,
		    "not what EHLO offers");
		a->exchange = false;
		break;
	case 1:
		offer(a, how, true);
		break;
	case 2:
		offer(a, how, false);
		break;
	case 3:
		choose(a, 0x20);
		relay_live_vrfy(a->r, &a->env, &v);
		check(&v);
		break;
	case 4:
		if (how & 8)
			relay_live_idle(a->r);
		else
			relay_live_forget(a->r);
		break;
	case 5:
		login(a, how);
		break;
	case 6:
		if (how & 8) {
			relay_auth_mechanisms(a->r);
			break;
		}
		relay_auth_forget(a->r);
		a->user = 0;
		a->exchange = false;
		break;
	case 7:
		deliver(a, how);
		break;
	}
	demand(a->user == 0 || a->user == peer_dials(),
	    "a user's session goes on elsewhere");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const relays[] = { "smtp:unix:/x",
		"lmtp:unix:/x", "smtp:[192.0.2.1]:25,unix:/x",
		"smtps:[192.0.2.1]:465" };
	static int spool = -1;
	static struct asker a;
	static const char message[] = "Subject: x\r\n\r\n.\r\ny\r\n";
	struct relay_settings set = { .fqdn = "mx.example.org", .live = true,
		.through = true, .timeout = 540, .next_timeout = 30,
		.print = -1, .debug = true,
		.tls_program = "/nonexistent" };
	char error[256];
	struct secret secret = { SECRET, SECRET, false };
	size_t n;

	if (size < HEAD)
		return 0;
	n = data[1] % (QUESTIONS_MAX + 1);
	if (size < HEAD + n)
		return 0;
	if (spool == -1)
		spool = memory_file(message, sizeof message - 1);
	secret.kept = memchr(data + HEAD, '+', size - HEAD) == NULL &&
	    memchr(data + HEAD, '\5', size - HEAD) == NULL;
	set.log = (struct logger){ log_kept, &secret };
	set.spec = relays[data[0] & 3];
	set.lmtp = (data[0] & 4) != 0;
	set.clear = (data[0] & 8) != 0;
	set.tls = (enum tls_level)((data[0] >> 4 & 3) % 3);
	peer_open(data + HEAD + n, size - HEAD - n, data[0] & 64 ? 100
	    : SIZE_MAX);
	memset(&a, 0, sizeof a);
	init(&a);
	a.spool = spool;
	a.r = relay_open(&set, error, sizeof error);
	demand(a.r != NULL, error);
	for (size_t i = 0; i < n; i++) {
		memset(&heard, 0, sizeof heard);
		ask(&a, data[HEAD + i]);
	}
	relay_close(a.r);
	return 0;
}
