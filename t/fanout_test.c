/*
 * fanout_test.c - one message to several next hops: which are asked, which get
 * it, and what the client is told.
 *
 * The functions below stand in for those of relay/smtp.h: they do as a table
 * says and write down what was asked of them; smtp.o stays in its archive.
 */
#include <sys/stat.h>

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/smtp.h"

/* ---- The false next hops ---- */

/* What a next hop says about an address, and about the message. */
struct answer {
	const char *address;
	int offer, send;		/* codes; 0: 250 */
};

static const struct answer *answers;	/* an empty address ends it */
static char calls[4096];		/* "offer h1 a@x b@x;"... */
static char journal[8192];
static int open_hops;
static enum spool_form sent_form;

struct nexthop {
	char where[32];
};

static void
note(const char *what, const struct nexthop *h, const struct envelope *env)
{
	size_t i, len = strlen(calls);

	len += (size_t)snprintf(calls + len, sizeof calls - len, "%s %s", what,
	    h->where);
	for (i = 0; env != NULL && i < env->nrecipients; i++)
		len += (size_t)snprintf(calls + len, sizeof calls - len, " %s",
		    env->recipients[i].address);
	snprintf(calls + len, sizeof calls - len, ";");
}

/* Sets *v to what code stands for, as where says it. */
static void
answer(struct reply *v, int code, const char *where)
{
	char enh[] = "2.0.0";

	enh[0] = (char)('0' + code / 100);
	reply_printf(v, code, enh, "%s says %s", where,
	    code < 300 ? "yes" : code < 500 ? "later" : "no\nnever");
}

static const struct answer *
find(const char *address)
{
	static const struct answer none = { "", 0, 0 };
	const struct answer *a;

	for (a = answers; a != NULL && *a->address != '\0'; a++)
		if (strcmp(a->address, address) == 0)
			return a;
	return &none;
}

static void
expect_message(int spool)
{
	char text[16];

	cr_assert_eq(pread(spool, text, sizeof text, 0), 3);
	cr_assert_eq(memcmp(text, "x\r\n", 3), 0);
}

struct nexthop *
nexthop_open(const struct relay_settings *set, enum nexthop_protocol protocol,
    const char *where, int auth)
{
	struct nexthop *h = calloc(1, sizeof *h);

	(void)set;
	(void)auth;
	snprintf(h->where, sizeof h->where, "%s%s",
	    protocol == NEXTHOP_LMTP ? "L" : protocol == NEXTHOP_SMTPS ? "T" :
	    "", where);
	open_hops++;
	return h;
}

void
nexthop_check(struct nexthop *h, const char *spec, const struct expected *from,
    struct findings *f)
{
	(void)h;
	(void)from;
	findings_add(f, FINDING_GOOD, "%s", spec);
}

long
nexthop_read_credentials(const struct nexthop *h, char **text)
{
	(void)h;
	*text = NULL;
	return -1;
}

bool
nexthop_valid(enum nexthop_protocol protocol, const char *where, char *error,
    size_t size)
{
	(void)protocol;
	snprintf(error, size, "no place: %s", where);
	return strchr(where, '!') == NULL;
}

void
nexthop_offer(struct nexthop *h, const struct envelope *env, int spool,
    int64_t deadline, struct reply v[])
{
	size_t i;
	int code;

	cr_assert_gt(clock_left(deadline), 0);
	expect_message(spool);
	note("offer", h, env);
	for (i = 0; i < env->nrecipients; i++) {
		code = find(env->recipients[i].address)->offer;
		answer(&v[i], code != 0 ? code : 250, h->where);
	}
}

void
nexthop_send(struct nexthop *h, const struct envelope *env, int spool,
    enum spool_form form, int64_t deadline, struct reply v[])
{
	size_t i;
	int code;

	cr_assert_gt(clock_left(deadline), 0);
	expect_message(spool);
	sent_form = form;
	note("send", h, env);
	for (i = 0; i < env->nrecipients; i++) {
		if (v[i].code != 250)
			continue;
		code = find(env->recipients[i].address)->send;
		answer(&v[i], code != 0 ? code : 250, h->where);
	}
}

void
nexthop_where(const struct nexthop *h, char *name, char *tls, size_t size)
{
	snprintf(name, size, "%s", h->where);
	*tls = '\0';
}

void
nexthop_abandon(struct nexthop *h, int64_t deadline)
{
	(void)deadline;
	note("abandon", h, NULL);
}

void
nexthop_close(struct nexthop *h)
{
	open_hops -= h != NULL;
	free(h);
}

/* No test here uses --live: t/live.t does. */
bool
nexthop_live(struct nexthop *h)
{
	note("live", h, NULL);
	return true;
}

void
nexthop_live_hello(struct nexthop *h, const struct envelope *env,
    int64_t deadline, char *text, size_t size)
{
	(void)deadline;
	snprintf(text, size, "OK\n");
	note("hello", h, env);
}

void
nexthop_live_offer(struct nexthop *h, const struct envelope *env,
    int64_t deadline, struct reply *mail, struct reply v[])
{
	(void)mail;
	nexthop_offer(h, env, -1, deadline, v);
}

void
nexthop_live_vrfy(struct nexthop *h, const struct envelope *env,
    int64_t deadline, struct reply *r)
{
	nexthop_offer(h, env, -1, deadline, r);
}

void
nexthop_live_forget(struct nexthop *h, int64_t deadline)
{
	(void)deadline;
	note("forget", h, NULL);
}

int
nexthop_live_idle(struct nexthop *h, unsigned seconds)
{
	(void)h;
	(void)seconds;
	return -1;
}

/* No test here authenticates: t/auth-relay.t does. */
const char *
nexthop_live_mechanisms(const struct nexthop *h)
{
	(void)h;
	return "";
}

void
nexthop_live_auth(struct nexthop *h, const struct envelope *e,
    const struct relay_login *l, int64_t deadline, struct reply *v)
{
	(void)l;
	(void)deadline;
	reply_set(v, 454, "4.7.0", "Nobody");
	note("auth", h, e);
}

void
nexthop_live_nobody(struct nexthop *h)
{
	note("nobody", h, NULL);
}

/* ---- The world of one test ---- */

static char dir[64], routes[80], out[80];
static struct relay_settings set;
static struct envelope env;
static struct recipient to[64];
static struct reply got[64];
static struct relay *relay;

static void
take_note(void *ctx, int priority, const char *event,
    const struct envelope *e, const char *text)
{
	size_t len = strlen(journal);

	(void)ctx;
	(void)priority;
	(void)e;
	snprintf(journal + len, sizeof journal - len, "%s %s\n", event, text);
}

static void
begin(void)
{
	size_t i;
	FILE *f;

	snprintf(dir, sizeof dir, "/tmp/fanout.XXXXXX");
	cr_assert(mkdtemp(dir) != NULL);
	setenv("TMPDIR", dir, 1);
	snprintf(routes, sizeof routes, "%s/routes", dir);
	snprintf(out, sizeof out, "%s/out", dir);
	f = fopen(routes, "w");
	fprintf(f, "one.example smtp:h1\ntwo.example lmtp:h2\n"
	    "three.example smtps:h3\nlocal.example print:%s\n"
	    "bad.example print:/none/such/file\n"
	    "same.example :h1\nno.example error:4.1.1 moved\n", out);
	fclose(f);
	set.fqdn = "mx.example.org";
	set.print = -1;
	set.timeout = 60;
	set.log.log = take_note;
	set.routes = routes;
	set.spec = "smtp:usual";
	for (i = 0; i < FACTS; i++)
		env.fact[i] = "";
	env.fact[FACT_QUEUE_ID] = "Q1";
	env.recipients = to;
}

static void
end(void)
{
	relay_close(relay);
	cr_assert_eq(open_hops, 0);
	unlink(routes);
	unlink(out);
	cr_assert_eq(rmdir(dir), 0, "a file is left");
}

TestSuite(fanout, .init = begin, .fini = end, .timeout = 30);

/* Sends to these addresses, separated by blanks. */
static void
deliver(const char *addresses)
{
	char *copy = strdup(addresses), *p = copy, error[256];
	struct spool *s = malloc(sizeof *s);

	for (env.nrecipients = 0; *p != '\0'; env.nrecipients++) {
		to[env.nrecipients] = (struct recipient){ p, "" };
		p += strcspn(p, " ");
		if (*p != '\0')
			*p++ = '\0';
	}
	if (relay == NULL)
		relay = relay_open(&set, error, sizeof error);
	cr_assert(relay != NULL, "%s", error);
	cr_assert_eq(relay_form(relay), SPOOL_CRLF);
	spool_open(s, SPOOL_CRLF, NULL, NULL);
	spool_write(s, "x\r\n", 3);
	spool_finish(s);
	memset(got, 0, sizeof got);
	relay_deliver(relay, &env, s->fd, got);
	spool_close(s);
	free(s);
	free(copy);
}

static void
expect_at(int line, size_t i, int code, const char *enh, const char *text)
{
	cr_assert(got[i].code == code && strcmp(got[i].enh, enh) == 0 &&
	    strcmp(got[i].text, text) == 0, "line %d: got %d %s %s", line,
	    got[i].code, got[i].enh, got[i].text);
}

#define expect(...) expect_at(__LINE__, __VA_ARGS__)

/* The same for all recipients. */
static void
expect_all(int code, const char *enh, const char *text)
{
	size_t i;

	for (i = 0; i < env.nrecipients; i++)
		expect(i, code, enh, text);
}

/* ---- SMTP: one reply for all ---- */

Test(fanout, a_next_hop_s_own_reply_is_handed_on)
{
	set.routes = NULL;
	deliver("a@x.example b@x.example");
	expect_all(250, "2.0.0", "usual says yes");
	cr_assert_str_eq(calls, "offer usual a@x.example b@x.example;"
	    "send usual a@x.example b@x.example;");
	cr_assert_eq(sent_form, SPOOL_CRLF);
	cr_assert_str_eq(journal, "");
}

Test(fanout, every_hop_accepts_before_any_is_sent)
{
	deliver("p@local.example a@one.example b@two.example c@one.example "
	    "d@three.example e@x.example f@same.example");
	expect_all(250, "2.0.0", "Message accepted, id Q1");
	cr_assert_str_eq(calls,
	    "offer h1 a@one.example c@one.example f@same.example;"
	    "offer Lh2 b@two.example;offer Th3 d@three.example;"
	    "offer usual e@x.example;"
	    "send h1 a@one.example c@one.example f@same.example;"
	    "send Lh2 b@two.example;send Th3 d@three.example;"
	    "send usual e@x.example;");
	cr_assert_eq(access(out, F_OK), 0);
}

Test(fanout, next_hops_are_kept_for_the_next_message)
{
	deliver("a@one.example b@two.example");
	deliver("a@one.example b@two.example");
	cr_assert_eq(open_hops, 2);
}

Test(fanout, one_recipient_s_refusal_is_the_hop_s_own)
{
	static const struct answer table[] = {
		{ "a@one.example", 552, 0 }, { "", 0, 0 }
	};

	answers = table;
	deliver("a@one.example");
	expect_all(552, "5.0.0", "h1 says no\nnever");
	cr_assert_str_eq(calls, "offer h1 a@one.example;abandon h1;");
}

Test(fanout, a_refusal_at_the_offer_stops_everything_and_is_named)
{
	static const struct answer table[] = {
		{ "b@two.example", 550, 0 }, { "", 0, 0 }
	};

	answers = table;
	deliver("a@one.example b@two.example c@two.example p@local.example");
	expect_all(550, "5.0.0", "The message was not accepted for anyone\n"
	    "Not delivered to <b@two.example>: 550 5.0.0 Lh2 says no never");
	cr_assert_str_eq(calls, "offer h1 a@one.example;"
	    "offer Lh2 b@two.example c@two.example;abandon h1;abandon Lh2;");
	cr_assert_eq(access(out, F_OK), -1);
	cr_assert_str_eq(journal,
	    "part not tried: another part of the message was refused\n"
	    "part 550 5.0.0 Lh2 says no\nnever\n"
	    "part not tried: another part of the message was refused\n"
	    "part not tried: another part of the message was refused\n");
	cr_assert_null(strstr(journal, "partial"));
}

Test(fanout, a_refusal_is_temporary_if_any_of_them_is)
{
	static const struct answer table[] = {
		{ "a@one.example", 550, 0 }, { "b@two.example", 450, 0 },
		{ "", 0, 0 }
	};

	answers = table;
	deliver("a@one.example b@two.example c@three.example");
	expect_all(450, "4.0.0", "The message was not accepted for anyone\n"
	    "Not delivered to <a@one.example>: 550 5.0.0 h1 says no never\n"
	    "Not delivered to <b@two.example>: 450 4.0.0 Lh2 says later");
	deliver("c@three.example d@no.example");
	expect_all(451, "4.1.1", "The message was not accepted for anyone\n"
	    "Not delivered to <d@no.example>: 451 4.1.1 moved");
}

Test(fanout, the_same_refusal_for_all_is_given_word_for_word)
{
	static const struct answer table[] = {
		{ "a@one.example", 451, 0 }, { "b@one.example", 451, 0 },
		{ "", 0, 0 }
	};

	answers = table;
	deliver("a@one.example b@one.example");
	expect_all(451, "4.0.0", "h1 says later");
}

Test(fanout, a_failure_before_anybody_has_it_stops_the_rest)
{
	static const struct answer table[] = {
		{ "a@one.example", 0, 451 }, { "", 0, 0 }
	};

	answers = table;
	deliver("a@one.example b@two.example p@local.example");
	expect_all(451, "4.0.0", "The message was not accepted for anyone\n"
	    "Not delivered to <a@one.example>: 451 4.0.0 h1 says later");
	cr_assert_str_eq(calls, "offer h1 a@one.example;"
	    "offer Lh2 b@two.example;send h1 a@one.example;abandon Lh2;");
	cr_assert_eq(access(out, F_OK), -1);
	cr_assert_null(strstr(journal, "partial"));
}

Test(fanout, a_failure_after_somebody_has_it_names_both)
{
	static const struct answer table[] = {
		{ "b@two.example", 0, 554 }, { "", 0, 0 }
	};

	answers = table;
	deliver("a@one.example b@two.example c@two.example d@three.example");
	expect_all(554, "5.0.0",
	    "Some recipients have the message, and some have not\n"
	    "Not delivered to <b@two.example>: 554 5.0.0 Lh2 says no never\n"
	    "Delivered to <a@one.example>\nDelivered to <c@two.example>\n"
	    "Delivered to <d@three.example>");
	cr_assert(strstr(calls, "send Th3") != NULL, "the rest is served");
	cr_assert(strstr(journal, "partial 3 recipients have the message and "
	    "1 have not: if it is sent again, duplicates are possible\n"));
	cr_assert(strstr(journal,
	    "partial <b@two.example>: 554 5.0.0 Lh2 says no\nnever\n"));
}

Test(fanout, a_local_failure_after_a_next_hop_took_it_is_temporary)
{
	static const struct answer table[] = {
		{ "b@two.example", 0, 554 }, { "", 0, 0 }
	};

	answers = table;
	deliver("p@bad.example a@one.example b@two.example");
	expect_all(451, "4.3.5",
	    "Some recipients have the message, and some have not\n"
	    "Not delivered to <p@bad.example>: 451 4.3.5 Local configuration "
	    "error\n"
	    "Not delivered to <b@two.example>: 554 5.0.0 Lh2 says no never\n"
	    "Delivered to <a@one.example>");
}

Test(fanout, the_names_in_a_reply_are_bounded)
{
	static struct answer table[63];
	static char names[64][64];
	char *addresses = calloc(64, 80);
	size_t i, lines = 0;
	const char *p;

	for (i = 0; i < 60; i++) {
		snprintf(names[i], sizeof names[i], "recipient-number-%zu@%s",
		    i, i < 30 ? "one.example" : "two.example");
		strcat(addresses, i > 0 ? " " : "");
		strcat(addresses, names[i]);
		table[i] = (struct answer){ names[i], 0, i >= 30 ? 452 : 0 };
	}
	table[60].address = "";
	answers = table;
	deliver(addresses);
	cr_assert_eq(got[0].code, 452);
	cr_assert_lt(strlen(got[0].text), REPLY_TEXT - 1);
	for (p = got[0].text; (p = strchr(p, '\n')) != NULL; p++)
		lines++;
	cr_assert(strstr(got[0].text, "Not delivered to <recipient-number-30@")
	    != NULL);
	cr_assert(strstr(got[0].text, "\nDelivered to <recipient-number-0@")
	    != NULL, "%s", got[0].text);
	cr_assert_gt(lines, 10);
	cr_assert(strstr(got[0].text, "\nand ") != NULL);
	p = strrchr(got[0].text, '\n');
	cr_assert_eq(strncmp(p, "\nand ", 5), 0);
	cr_assert_str_eq(p + strlen(p) - 5, " more");
	free(addresses);
}

/* ---- LMTP: a reply for each ---- */

Test(fanout, in_lmtp_each_recipient_has_its_own_verdict)
{
	static const struct answer table[] = {
		{ "a@one.example", 550, 0 }, { "c@two.example", 0, 452 },
		{ "e@three.example", 450, 0 }, { "", 0, 0 }
	};

	answers = table;
	set.lmtp = true;
	deliver("a@one.example b@one.example c@two.example d@two.example "
	    "e@three.example f@no.example p@local.example q@bad.example");
	expect(0, 550, "5.0.0", "h1 says no\nnever");
	expect(1, 250, "2.0.0", "h1 says yes");
	expect(2, 452, "4.0.0", "Lh2 says later");
	expect(3, 250, "2.0.0", "Lh2 says yes");
	expect(4, 450, "4.0.0", "Th3 says later");
	expect(5, 451, "4.1.1", "moved");
	expect(6, 250, "2.0.0", "Message accepted, id Q1");
	expect(7, 451, "4.3.5", "Local configuration error");
	cr_assert_str_eq(calls, "offer h1 a@one.example b@one.example;"
	    "offer Lh2 c@two.example d@two.example;offer Th3 e@three.example;"
	    "send h1 a@one.example b@one.example;"
	    "send Lh2 c@two.example d@two.example;abandon Th3;");
	cr_assert_eq(access(out, F_OK), 0);
}

Test(fanout, the_same_address_twice_has_two_verdicts)
{
	set.lmtp = true;
	deliver("a@one.example a@one.example");
	expect_all(250, "2.0.0", "h1 says yes");
	cr_assert_str_eq(calls, "offer h1 a@one.example a@one.example;"
	    "send h1 a@one.example a@one.example;");
}

Test(fanout, a_place_that_makes_no_sense_is_found_at_the_start)
{
	char error[256];

	set.spec = "smtp:what!";
	cr_assert(relay_open(&set, error, sizeof error) == NULL);
	cr_assert_str_eq(error, "no place: what!");
}
