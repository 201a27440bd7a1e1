/*
 * carry_test.c - what the SMTP client forwards, LMTP, authentication and TLS.
 */
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "base/text.h"
#include "relay/smtp.h"

#include "t/fakes/hop.h"

TestSuite(carry, .init = hop_begin, .fini = hop_end);

Test(carry, lmtp)
{
	static const struct scene scenes[] = {
		{ .name = "mixed", LHLO("PIPELINING") MAIL "N 4 250\n" TEXT
		    "> 250 2.0.0 One\n> 452 4.2.2 Full\n> 250 2.0.0 Three\n",
		    "250 2.0.0 One\n452 4.2.2 Full\n"
		    "550 5.1.1 RCPT TO:<bad>\n250 2.0.0 Three\n",
		    .to = "a b bad c", .protocol = NEXTHOP_LMTP },
		{ .name = "dies in the middle", LHLO("CHUNKING") MAIL
		    "N 3 250\n#\n> 250 2.0.0 One\n!\n",
		    "250 2.0.0 One\n" LOST "\n" LOST "\n",
		    .to = "a b c", .protocol = NEXTHOP_LMTP },
		{ .name = "421 in the middle", LHLO("X") MAIL
		    "N 3 250\n" TEXT "> 250 2.0.0 One\n> 421 4.3.2 Later\n",
		    "250 2.0.0 One\n451 4.3.2 Later\n451 4.3.2 Later\n",
		    .to = "a b c", .protocol = NEXTHOP_LMTP },
		{ .name = "LHLO refused", "> 220 mx LMTP\n"
		    "< LHLO smtpd.example.org\n> 502 5.5.1 What?\n",
		    "451 4.5.1 What?\n", .protocol = NEXTHOP_LMTP },
		{ .name = "DATA refused", LHLO("X") MAIL "N 2 250\n"
		    "< DATA\n> 451 4.3.0 No\n",
		    "451 4.3.0 No\n451 4.3.0 No\n", .to = "a b",
		    .protocol = NEXTHOP_LMTP },
	};

	run_scenes(scenes, COUNT(scenes));
}

/* One message with its envelope set by the test, to one peer. */
Test(carry, xforward_in_xtext)
{
	struct post *m = post("a@example.net", "x\r\n");

	m->env.fact[FACT_CLIENT_NAME] = "unknown";
	m->env.fact[FACT_CLIENT_ADDRESS] = "2001:db8::1";
	m->env.fact[FACT_CLIENT_PORT] = "4321";
	m->env.fact[FACT_CLIENT_PROTOCOL] = "ESMTP";
	m->env.fact[FACT_CLIENT_HELO] = "a+b=c d\xc3\xa4";
	converse("all", OFFERS("XFORWARD NAME ADDR PROTO HELO PORT SOURCE")
	    "< XFORWARD NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1 PORT=4321 "
	    "PROTO=ESMTP HELO=a+2Bb+3Dc+20d+C3+A4 "
	    "SOURCE=REMOTE\n> 250 Ok\n"
	    NEXT, m, TAKEN);
	m->env.fact[FACT_CLIENT_ADDRESS] = "192.0.2.1";
	m->env.fact[FACT_CLIENT_NAME] = "client.example.com";
	converse("some", OFFERS("xforward NAME ADDR")
	    "< XFORWARD NAME=client.example.com ADDR=192.0.2.1\n> 250 Ok\n"
	    NEXT, m, TAKEN);
	m->env.fact[FACT_CLIENT_ADDRESS] = "unix";
	converse("refused", OFFERS("XFORWARD ADDR")
	    "< XFORWARD ADDR=[UNAVAILABLE]\n> 550 5.7.0 No\n" NEXT, m, TAKEN);
	post_free(m);
}

/* Postfix does that, too. */
Test(carry, xforward_goes_out_in_one_group_with_mail)
{
	static const char group[] = OFFERS2("PIPELINING", "XFORWARD NAME HELO")
	    "< XFORWARD NAME=+3D+3D...\n< XFORWARD HELO=h\n"
	    FROM TO;
	struct post *m = post("a@example.net", "x\r\n");
	char helo[256], script[4096];

	memset(helo, '=', 255);
	helo[255] = '\0';
	m->env.fact[FACT_CLIENT_NAME] = helo;
	m->env.fact[FACT_CLIENT_HELO] = "h";
	snprintf(script, sizeof script, "%s> 250 Ok\n> 250 Ok\n> 250 Ok\n"
	    "> 250 Ok\n" TEXT QUEUED, group);
	converse("told", script, m, TAKEN);
	snprintf(script, sizeof script, "%s> 550 5.7.0 No\n> 250 Ok\n> 250 Ok\n"
	    "> 250 Ok\n" TEXT QUEUED, group);
	converse("refused", script, m, TAKEN);
	snprintf(script, sizeof script, "%s> 250 Ok\n> 250 Ok\n"
	    "> 550 5.1.8 No\n> 503 5.5.1 No\n", group);
	converse("refused sender", script, m, "550 5.1.8 No\n");
	post_free(m);
}

Test(carry, long_xforward_is_split)
{
	struct post *m = post("a@example.net", "x\r\n");
	char helo[257], script[4096];

	memset(helo, '=', 255);
	helo[255] = helo[256] = '\0';
	m->env.fact[FACT_CLIENT_NAME] = helo;
	m->env.fact[FACT_CLIENT_HELO] = "h";
	converse("split", OFFERS("XFORWARD NAME HELO")
	    "< XFORWARD NAME=+3D+3D...\n> 250 Ok\n"
	    "< XFORWARD HELO=h\n> 250 Ok\n" NEXT, m, TAKEN);
	helo[255] = '=';
	snprintf(script, sizeof script, "%s", OFFERS("XFORWARD NAME HELO")
	    "< XFORWARD NAME=[UNAVAILABLE] HELO=h\n> 250 Ok\n" NEXT);
	converse("too long", script, m, TAKEN);
	post_free(m);
}

Test(carry, parameters_are_handed_on)
{
	struct post *m = post("a@example.net b@example.net", "x\r\n");

	m->env.fact[FACT_MAIL_OPTIONS] =
	    "SIZE=99 ret=HDRS BODY=8BITMIME ENVID=QQ+2B314159";
	m->to[0].options = "ORCPT=rfc822;A@example.net Notify=SUCCESS,DELAY";
	m->env.body = BODY_8BITMIME;
	converse("all", OFFERS2("SIZE 1000\n> 250-DSN", "8BITMIME")
	    "< MAIL FROM:<s@example.org> SIZE=3 BODY=8BITMIME ret=HDRS "
	    "ENVID=QQ+2B314159\n> 250 Ok\n"
	    "< RCPT TO:<a@example.net> Notify=SUCCESS,DELAY "
	    "ORCPT=rfc822;A@example.net\n> 250 Ok\n"
	    "< RCPT TO:<b@example.net>\n> 250 Ok\n" TEXT QUEUED, m,
	    TAKEN TAKEN);
	converse("none", PLAIN MAIL "N 2 250\n" TEXT QUEUED, m, TAKEN TAKEN);
	m->env.smtputf8 = true;
	m->env.body = BODY_7BIT;
	converse("utf8", OFFERS2("SMTPUTF8", "8BITMIME")
	    "< MAIL FROM:<s@example.org> SMTPUTF8\n> 250 Ok\nN 2 250\n"
	    TEXT QUEUED, m, TAKEN TAKEN);
	m->env.smtputf8 = false;
	m->env.body = BODY_BINARYMIME;
	converse("binary", OFFERS2("CHUNKING", "BINARYMIME")
	    "< MAIL FROM:<s@example.org> BODY=BINARYMIME\n> 250 Ok\n"
	    "N 2 250\n#\n" QUEUED, m, TAKEN TAKEN);
	m->env.fact[FACT_SENDER] = "";
	m->env.body = BODY_7BIT;
	converse("null sender", PLAIN "< MAIL FROM:<>\n> 250 Ok\nN 2 250\n"
	    TEXT QUEUED, m, TAKEN TAKEN);
	post_free(m);
}

Test(carry, what_it_cannot_carry)
{
	struct post *m = post("a@example.net",
	    "Subject: x\r\n\r\n\xc3\xa4\r\n");

	m->env.body = BODY_8BITMIME;
	converse("8-bit body", PLAIN, m, "554 5.6.3 Next hop lacks 8BITMIME\n");
	m->env.body = BODY_7BIT;
	converse("8-bit body, never announced", ONE, m, TAKEN);
	m->env.body = BODY_BINARYMIME;
	converse("binary", OFFERS2("CHUNKING", "8BITMIME"), m,
	    "554 5.6.3 Next hop lacks BINARYMIME\n");
	m->form = SPOOL_LF;
	converse("binary in LF form", OFFERS2("CHUNKING", "BINARYMIME")
	    "< MAIL FROM:<s@example.org> BODY=BINARYMIME\n> 250 Ok\n" RCPT, m,
	    "554 5.6.3 Cannot relay BINARYMIME\n");
	m->env.body = BODY_7BIT;
	m->env.smtputf8 = true;
	converse("8-bit body, ASCII header", ONE, m, TAKEN);
	m->env.fact[FACT_SENDER] = "s\xc3\xa4@example.org";
	converse("sender", PLAIN, m, "553 5.6.7 Next hop lacks SMTPUTF8\n");
	post_free(m);

	m = post("a@example.net \xc3\xa4@example.net", "x\r\n");
	m->env.smtputf8 = true;
	converse("one recipient", ONE, m,
	    TAKEN "553 5.6.7 Next hop lacks SMTPUTF8\n");
	m->env.body = BODY_8BITMIME;
	converse("announced as 8-bit, but is not", ONE, m,
	    TAKEN "553 5.6.7 Next hop lacks SMTPUTF8\n");
	post_free(m);

	m = post("a@example.net", "Subject: \xc3\xa4\r\n\r\nx\r\n");
	m->env.smtputf8 = true;
	m->env.body = BODY_8BITMIME;
	converse("UTF-8 header", OFFERS("8BITMIME"), m,
	    "554 5.6.7 Next hop lacks SMTPUTF8\n");
	m->env.size = 1001;
	converse("size", OFFERS2("SIZE 1000", "SMTPUTF8"), m,
	    "552 5.3.4 Message too big for next hop\n");
	post_free(m);
}

Test(carry, no_command_is_smuggled_in)
{
	struct post *m = post("a@example.net", "x\r\n");

	m->to[0].address = "a@example.net>\r\nRSET\r\n";
	converse("recipient", PLAIN, m, "553 5.1.3 Bad recipient address\n");
	m->to[0].address = "a@example.net";
	m->to[0].options = "NOTIFY=NEVER\r\nRSET";
	converse("option", PLAIN, m, "553 5.1.3 Bad recipient address\n");
	m->to[0].options = "";
	m->env.fact[FACT_SENDER] = "s@example.org>\nRSET";
	converse("sender", PLAIN, m, "553 5.1.7 Bad sender address\n");
	m->env.fact[FACT_SENDER] = "s@example.org\177";
	converse("sender's DEL", PLAIN, m, "553 5.1.7 Bad sender address\n");
	m->env.fact[FACT_SENDER] = "s@example.org";
	m->env.fact[FACT_MAIL_OPTIONS] = "RET=HDRS\r\nRSET";
	converse("its option", PLAIN, m, "553 5.1.7 Bad sender address\n");
	post_free(m);
}

Test(carry, places_are_tried_in_turn)
{
	struct peer p;
	char where[300];

	start(&p, ONE);
	snprintf(where, sizeof where, "unix:%s/none,%s", hop_dir, p.where);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP), TAKEN);
	finish(&p, "first is not there");

	relay_to_two("first refuses", "> 554 5.7.1 Go away\n", ONE, TAKEN);

	start(&p, "> 554 5.7.1 Go away\n");
	snprintf(where, sizeof where, "%s,unix:%s/none", p.where, hop_dir);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP),
	    "451 4.7.1 Go away\n");
	finish(&p, "its words, not that the other one is not there");

	start(&p, "> Hello\n");
	snprintf(where, sizeof where, "unix:%s/none,%s", hop_dir, p.where);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP),
	    GARBLED "\n");
	finish(&p, "what went wrong with the one that is there");

	relay_to_two("first is busy", "> 421 4.3.2 Busy\n",
	    "> 554 5.7.1 Go away\n", "451 4.3.2 Busy\n");
}

struct login {
	const char *name, *peer, *verdict;
};

Test(carry, authenticates)
{
	static const struct login logins[] = {
		{ "PLAIN", OFFERS("AUTH LOGIN PLAIN")
		    "< AUTH PLAIN AHVzZXIAcGFzczp3b3Jk\n> 235 2.7.0 Ok\n" NEXT,
		    TAKEN },
		{ "LOGIN", OFFERS("AUTH=CRAM-MD5 LOGIN")
		    "< AUTH LOGIN\n> 334 VXNlcm5hbWU6\n< dXNlcg==\n"
		    "> 334 UGFzc3dvcmQ6\n< cGFzczp3b3Jk\n> 235 2.7.0 Ok\n"
		    NEXT, TAKEN },
		{ "refused", OFFERS("AUTH PLAIN")
		    "< AUTH PLAIN ...\n> 535 5.7.8 No such user AHVzZXIA\n",
		    "451 4.7.8 Cannot authenticate to next hop\n" },
		{ "refused without a name", OFFERS("AUTH LOGIN")
		    "< AUTH LOGIN\n> 535 5.7.8 No\n",
		    "451 4.7.8 Cannot authenticate to next hop\n" },
		{ "refused by name", OFFERS("AUTH LOGIN")
		    "< AUTH LOGIN\n> 334 VXNlcm5hbWU6\n< dXNlcg==\n"
		    "> 535 5.7.8 No\n",
		    "451 4.7.8 Cannot authenticate to next hop\n" },
		{ "garbage", OFFERS("AUTH PLAIN")
		    "< AUTH PLAIN ...\n> AHVzZXIA\n", GARBLED "\n" },
		{ "neither is offered", OFFERS("AUTH DIGEST-MD5"),
		    "451 4.7.0 Cannot authenticate to next hop\n" },
	};
	struct relay_settings set = settings;
	char text[512], path[128];
	struct peer p;
	const char *got;
	size_t i;

	set.auth = path;
	for (i = 0; i < COUNT(logins); i++) {
		start(&p, logins[i].peer);
		snprintf(text, sizeof text, "# ours\n\nother.example.com a:b\n"
		    "%s\t user:pass:word \n", p.where);
		hop_write(path, "auth", text, 0600);
		got = relay_once(p.where, &set, NEXTHOP_SMTP);
		cr_expect_str_eq(got, logins[i].verdict, "%s: got %s",
		    logins[i].name, got);
		cr_expect_null(strstr(hop_log, "AHVzZXIA"), "%s", hop_log);
		cr_expect_eq(strstr(hop_log, ": AUTH: refused with 535 5.7.8\n")
		    != NULL, strncmp(logins[i].name, "refused", 7) == 0, "%s",
		    hop_log);
		finish(&p, logins[i].name);
	}
}

/* One message to a hop on loopback. */
static void
relay_inet(const char *name, const char *script,
    const struct relay_settings *set, const char *verdict)
{
	char where[128];
	unsigned port;
	struct peer p;

	start_at(&p, listen_inet(where, &port), script);
	cr_expect_str_eq(relay_once(where, set, NEXTHOP_SMTP), verdict);
	finish(&p, name);
}

Test(carry, credentials_are_guarded)
{
	struct relay_settings set = settings;
	char text[512], path[128], where[128];
	unsigned port;
	struct peer p;
	int listener;

	set.auth = path;
	listener = listen_inet(where, &port);
	start_at(&p, listener, OFFERS("AUTH PLAIN"));
	snprintf(text, sizeof text, "127.0.0.1:%u user:secret\n", port);
	hop_write(path, "auth", text, 0600);
	cr_expect_str_eq(relay_once(where, &set, NEXTHOP_SMTP),
	    "451 4.7.11 Cannot authenticate to next hop\n");
	finish(&p, "in the clear");

	hop_write(path, "auth", "127.0.0.1:1 user:secret\n"
	    "127.0.0.1 user:secret\nunix:127.0.0.1 user:secret\n", 0644);
	relay_inet("of others, and every user can read them",
	    OFFERS("AUTH PLAIN") NEXT, &set, TAKEN);
	cr_expect_not_null(strstr(hop_log, "/auth: every user of this "
	    "host can read this file"), "%s", hop_log);
	cr_expect_not_null(strstr(hop_log, "/auth has no line for [127.0.0.1]:"
	    ), "%s", hop_log);
	relay_inet("of others, and it wants one", OFFERS("AUTH PLAIN") MAIL TO
	    "> 554 5.7.1 Relay access denied\n", &set,
	    "451 4.7.1 Relay access denied\n");
	relay_inet("of others, and that is not why it refuses",
	    OFFERS("AUTH PLAIN") MAIL TO "> 550 5.1.1 No such user\n", &set,
	    "550 5.1.1 No such user\n");

	start(&p, OFFERS("AUTH PLAIN"));
	snprintf(text, sizeof text, "%s user\n", p.where);
	hop_write(path, "auth", text, 0600);
	cr_expect_str_eq(relay_once(p.where, &set, NEXTHOP_SMTP),
	    "451 4.3.5 Cannot authenticate to next hop\n");
	cr_expect_not_null(strstr(hop_log, "not KEY USER:PASSWORD"), "%s",
	    hop_log);
	finish(&p, "no password");

	start(&p, PLAIN);
	snprintf(path, sizeof path, "%s/none", hop_dir);
	cr_expect_str_eq(relay_once(p.where, &set, NEXTHOP_SMTP),
	    "451 4.3.5 Cannot authenticate to next hop\n");
	finish(&p, "no file");
}

/* TLS engines that do not encrypt: one that only carries, having noted how it
   was called, and one that fails. */
#define CARRIER \
	"echo \"$@\" >>$(dirname $0)/calls\n" \
	"printf 'protocol=none\\ncipher=none\\n\\n' >&3\n" \
	"exec 3>&- 4<&0 5<&1\n" \
	"cat <&4 >&5 & a=$!; cat <&5 >&4 & b=$!\n" \
	"wait -n; kill $a $b 2>/dev/null\n"
#define FAILER "printf 'error=bad certificate\\n\\n' >&3\n"

static void
write_engine(char path[128], const char *name, const char *script)
{
	char text[1024];

	snprintf(text, sizeof text, "#!/bin/bash\n%s", script);
	hop_write(path, name, text, 0700);
}

static void
calls(const char *wanted)
{
	char path[128], got[1024] = "";
	FILE *f;

	snprintf(path, sizeof path, "%s/calls", hop_dir);
	f = fopen(path, "r");
	cr_assert_not_null(f);
	cr_expect_gt(fread(got, 1, sizeof got - 1, f), 0);
	fclose(f);
	cr_expect_str_eq(got, wanted, "%s", got);
}

#define TLS OFFERS("STARTTLS") "< STARTTLS\n> 220 2.0.0 Go\n"
#define AGAIN(x) \
	"< EHLO smtpd.example.org\n> 250-mx.example.net\n> 250 " x "\n"

struct secured {
	const char *name, *peer, *verdict;
	enum tls_level level;
	bool fails;
};

Test(carry, starttls)
{
	static const struct secured scenes[] = {
		{ "may", TLS AGAIN("X") NEXT, TAKEN, TLS_MAY, false },
		{ "must", TLS AGAIN("X") NEXT, TAKEN, TLS_MUST, false },
		{ "none", OFFERS("STARTTLS") NEXT, TAKEN, TLS_NONE, false },
		{ "may, not offered", ONE, TAKEN, TLS_MAY, false },
		{ "must, not offered", PLAIN,
		    "451 4.7.4 Next hop offers no TLS\n", TLS_MUST, false },
		{ "may, refused", OFFERS("STARTTLS")
		    "< STARTTLS\n> 454 4.7.0 No\n" NEXT, TAKEN, TLS_MAY,
		    false },
		{ "must, refused", OFFERS("STARTTLS")
		    "< STARTTLS\n> 554-5.7.0 a\n> 554 5.7.0 b\n",
		    "451 4.7.4 Next hop offers no TLS\n", TLS_MUST, false },
		{ "may, but fails", TLS "@\n" ONE, TAKEN, TLS_MAY, true },
		{ "must, but fails", TLS,
		    "451 4.7.5 No secure connection to next hop\n",
		    TLS_MUST, true },
		{ "may, closed after the handshake", TLS "!\n",
		    LOST "\n", TLS_MAY, false },
		{ "more after the reply", OFFERS("STARTTLS")
		    "< STARTTLS\n+ 220 2.0.0 Go\\r\\n250 Surplus\\r\\n\n",
		    GARBLED "\n",
		    TLS_MUST, false },
	};
	struct relay_settings set = settings;
	char carrier[128], failer[128], where[128];
	const char *got;
	struct peer p;
	unsigned port;
	size_t i;

	write_engine(carrier, "carrier", CARRIER);
	write_engine(failer, "failer", FAILER);
	set.tls_ca = "/ca.pem";
	for (i = 0; i < COUNT(scenes); i++) {
		start_at(&p, listen_inet(where, &port), scenes[i].peer);
		set.tls = scenes[i].level;
		set.tls_program = scenes[i].fails ? failer : carrier;
		got = relay_once(where, &set, NEXTHOP_SMTP);
		cr_expect_str_eq(got, scenes[i].verdict, "%s: got %s",
		    scenes[i].name, got);
		cr_expect_eq(strstr(hop_log, "bad certificate") != NULL,
		    scenes[i].fails, "%s: %s", scenes[i].name, hop_log);
		finish(&p, scenes[i].name);
	}
	calls("client --sni 127.0.0.1\n"
	    "client --verify 127.0.0.1 --ca /ca.pem\n"
	    "client --sni 127.0.0.1\n");
}

Test(carry, tls_from_the_start_and_auth_over_it)
{
	struct relay_settings set = settings;
	char path[128], auth[128], where[128], text[256];
	unsigned port;
	struct peer p;

	write_engine(path, "carrier", CARRIER);
	start_at(&p, listen_inet(where, &port), OFFERS("AUTH PLAIN")
	    "< AUTH PLAIN AHUAcA==\n> 235 Ok\n" NEXT);
	snprintf(text, sizeof text, "[127.0.0.1]:%u u:p\n", port);
	hop_write(auth, "auth", text, 0600);
	set.auth = auth;
	set.tls_program = path;
	cr_expect_str_eq(relay_once(where, &set, NEXTHOP_SMTPS), TAKEN);
	finish(&p, "smtps");
	calls("client --verify 127.0.0.1\n");

	set.tls_program = "/nonexistent/smtpd-tls";
	start_at(&p, listen_inet(where, &port), "@\n");
	cr_expect_str_eq(relay_once(where, &set, NEXTHOP_SMTPS),
	    "451 4.7.5 No secure connection to next hop\n");
	cr_expect_not_null(strstr(hop_log, "No such file"), "%s", hop_log);
	finish(&p, "no engine");
}

Test(carry, tells_where_it_was_refused)
{
	static const struct {
		const char *peer, *want;
	} cases[] = {
		{ "> 554 5.7.1 Go\n", ": the greeting: 554 5.7.1 Go\n" },
		{ "!\n", ": the greeting: connection closed\n" },
		{ PLAIN FROM "> 450 No\n", ": MAIL: 450 4.0.0 No\n" },
		{ PLAIN MAIL RCPT "< DATA\n> 451 4.3.1 Full\n",
		    ": DATA: 451 4.3.1 Full\n" },
	};
	struct peer p;
	size_t i;

	for (i = 0; i < COUNT(cases); i++) {
		start(&p, cases[i].peer);
		relay_once(p.where, &settings, NEXTHOP_SMTP);
		cr_expect_not_null(strstr(hop_log, cases[i].want), "%s",
		    hop_log);
		finish(&p, cases[i].want);
	}
}
