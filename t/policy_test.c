/*
 * policy_test.c - the policy service, against a peer that follows a script.
 */

#include <sys/socket.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "net/stream.h"
#include "service/policy.h"

#include "t/fakes/bench.h"

/* 33 octets: three of them and 9 more are the most that a socket's path has. */
#define DIGITS "012345678901234567890123456789012"

static struct bench *b;
static void *p;			/* the service, at b->place */

static void
open_policy(void)
{
	char error[256] = "";

	p = service_policy.open(b->place, &(struct service_settings){
	    .timeout = 1, .log = &b->logger }, error, sizeof error);
	cr_assert_not_null(p, "%s", error);
}

static void
begin(void)
{
	b = bench_open();
	open_policy();
}

static void
end(void)
{
	service_policy.close(p);
	bench_close(b);
}

TestSuite(policy, .init = begin, .fini = end);

static void
ask(enum stage stage)
{
	memset(&b->v, 0, sizeof b->v);
	b->v.code = 250;
	if (stage == STAGE_END_OF_MESSAGE) {
		b->message.env = b->env;
		b->message.spool = -1;
		b->message.discard = false;
		service_policy.message(p, &b->message, &b->v);
		return;
	}
	memset(b->prepend, 'x', sizeof b->prepend);
	service_policy.ask(p, stage, &b->env, &b->v, b->prepend);
	cr_assert_not_null(memchr(b->prepend, '\0', sizeof b->prepend));
}

static void
says(int code, const char *enh, const char *text)
{
	cr_assert_eq(b->v.code, code, "%d %s %s", b->v.code, b->v.enh,
	    b->v.text);
	cr_assert_str_eq(b->v.enh, enh);
	if (text != NULL)
		cr_assert_str_eq(b->v.text, text);
}

/* The value of the nth attribute called name in text. */
static const char *
value(const char *text, const char *name, unsigned nth)
{
	static char values[4][1024];
	static unsigned which;
	char *v = values[which++ % 4];
	size_t len = strlen(name);
	const char *at;

	for (at = text; *at != '\0'; at += strcspn(at, "\n") + 1)
		if (strncmp(at, name, len) == 0 && at[len] == '=' &&
		    nth-- == 0)
			break;
	cr_assert(*at != '\0', "no %s in %s", name, text);
	at += len + 1;
	snprintf(v, sizeof values[0], "%.*s", (int)strcspn(at, "\n"), at);
	return v;
}

Test(policy, services_that_make_no_sense)
{
	static const char *const bad[] = { "", "unix:", "inet:", "inet:host",
	    "inet:host:", "inet::25", "inet:host:0", "inet:host:65536",
	    "inet:host:2x", "inet:::1:25", "inet:[::1:25", "/socket",
	    "tcp:host:25", "unix:/" DIGITS DIGITS DIGITS "45678901",
	    "=unix:/s", "RCPT,=unix:/s", "RCPT;DATA=unix:/s", "RCPT=",
	    "RSET=unix:/s", "RCPT=/s", "RCPT" };
	static const char *const good[] = { "unix:/socket", "inet:host:25",
	    "inet:[::1]:65535", "unix:/" DIGITS DIGITS DIGITS "4567890",
	    "rcpt=unix:/s=t", "MAIL,End-of-Message=inet:host:25" };
	struct logger none = { NULL, NULL };
	const struct service_settings set = { .timeout = 1, .log = &none };
	void *one;
	char error[512];
	size_t i;

	for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		error[0] = '\0';
		one = service_policy.open(bad[i], &set, error, sizeof error);
		cr_expect_null(one, "%s", bad[i]);
		cr_expect(error[0] != '\0' && strchr(error, '\n') == NULL);
	}
	for (i = 0; i < sizeof good / sizeof good[0]; i++) {
		one = service_policy.open(good[i], &set, error, sizeof error);
		cr_expect_not_null(one, "%s", good[i]);
		service_policy.close(one);
	}
	service_policy.close(NULL);
}

Test(policy, question_is_postfix_s)
{
	static const char *const script[] = { "<", ">action=dunno\n\n", NULL };
	char expected[2048];

	b->env.fact[FACT_MAIL_OPTIONS] = "BODY=8BITMIME size=12345 RET=HDRS";
	b->env.fact[FACT_QUEUE_ID] = "Q1";
	b->env.fact[FACT_CLIENT_PROTOCOL] = "ESMTPSA";
	b->env.fact[FACT_CLIENT_NAME] = "client.example.com";
	b->env.fact[FACT_SASL_METHOD] = "PLAIN";
	b->env.fact[FACT_SASL_USERNAME] = "joe";
	b->env.fact[FACT_TLS_PROTOCOL] = "TLSv1.3";
	b->env.fact[FACT_TLS_CIPHER] = "TLS_AES_128_GCM_SHA256";
	b->env.fact[FACT_TLS_SUBJECT] = "J\303\266 Doe+x";
	b->env.fact[FACT_TLS_ISSUER] = "CA";
	b->env.fact[FACT_TLS_FINGERPRINT] = "C2:9D";
	bench_peer(b, "\n\n", script);
	ask(STAGE_RCPT);
	says(250, "", "");
	cr_assert_str_eq(b->prepend, "");
	bench_heard(b);
	snprintf(expected, sizeof expected,
	    "request=smtpd_access_policy\nprotocol_state=RCPT\n"
	    "protocol_name=ESMTP\nclient_address=192.0.2.1\n"
	    "client_name=client.example.com\nclient_port=40000\n"
	    "reverse_client_name=client.example.com\n"
	    "server_address=192.0.2.2\nserver_port=25\n"
	    "helo_name=client.example.com\nsender=s@example.com\n"
	    "recipient=r1@example.org\nrecipient_count=0\nqueue_id=Q1\n"
	    "instance=%s\nsize=12345\netrn_domain=\nstress=\n"
	    "sasl_method=PLAIN\nsasl_username=joe\nsasl_sender=\n"
	    "ccert_subject=J+C3+B6+20Doe+2Bx\nccert_issuer=CA\n"
	    "ccert_fingerprint=C2:9D\nccert_pubkey_fingerprint=\n"
	    "encryption_protocol=TLSv1.3\n"
	    "encryption_cipher=TLS_AES_128_GCM_SHA256\n"
	    "encryption_keysize=128\npolicy_context=\n\n",
	    value(b->text, "instance", 0));
	cr_assert_str_eq(b->text, expected);
	cr_assert_gt(strlen(value(b->text, "instance", 0)), 8);
}

Test(policy, every_stage_tells_what_it_knows)
{
	static const struct {
		enum stage stage;
		size_t n;
		const char *state, *recipient, *count;
	} rows[] = {
		{ STAGE_CONNECT, 0, "CONNECT", "", "0" },
		{ STAGE_HELO, 0, "HELO", "", "0" },
		{ STAGE_EHLO, 0, "EHLO", "", "0" },
		{ STAGE_MAIL, 0, "MAIL", "", "0" },
		{ STAGE_RCPT, 1, "RCPT", "r1@example.org", "0" },
		{ STAGE_VRFY, 1, "VRFY", "r1@example.org", "0" },
		{ STAGE_DATA, 1, "DATA", "r1@example.org", "1" },
		{ STAGE_DATA, 2, "DATA", "", "2" },
		{ STAGE_END_OF_MESSAGE, 1, "END-OF-MESSAGE",
		    "r1@example.org", "1" },
		{ STAGE_END_OF_MESSAGE, 2, "END-OF-MESSAGE", "", "2" },
	};
	enum { N = sizeof rows / sizeof rows[0] };
	const char *script[2 * N + 1] = { NULL };
	unsigned i;

	for (i = 0; i < N; i++) {
		script[2 * i] = "<";
		script[2 * i + 1] = ">action=OK\n\n";
	}
	bench_peer(b, "\n\n", script);
	b->env.size = 4711;
	b->env.fact[FACT_MAIL_OPTIONS] = "SIZE=1";
	for (i = 0; i < N; i++) {
		b->env.nrecipients = rows[i].n;
		ask(rows[i].stage);
		says(250, "", "");
	}
	bench_heard(b);
	for (i = 0; i < N; i++) {
		cr_expect_str_eq(value(b->text, "protocol_state", i),
		    rows[i].state);
		cr_expect_str_eq(value(b->text, "recipient", i),
		    rows[i].recipient);
		cr_expect_str_eq(value(b->text, "recipient_count", i),
		    rows[i].count);
		cr_expect_str_eq(value(b->text, "size", i), "4711");
	}
}

Test(policy, only_the_stages_that_were_named)
{
	static const char *const script[] = { "<", ">action=REJECT\n\n", "<",
	    ">action=REJECT\n\n", NULL };
	char service[80];
	int stage;

	snprintf(service, sizeof service, "vrfy,Rcpt=%s", b->place);
	service_policy.close(p);
	p = service_policy.open(service, &(struct service_settings){
	    .timeout = 1, .log = &b->logger }, b->text, sizeof b->text);
	cr_assert_not_null(p);
	bench_peer(b, "\n\n", script);
	for (stage = 0; stage < STAGES; stage++) {
		cr_assert_eq(service_policy.asks(p, (enum stage)stage),
		    stage == STAGE_RCPT || stage == STAGE_VRFY);
		ask((enum stage)stage);
		says(stage == STAGE_RCPT || stage == STAGE_VRFY ? 554 : 250,
		    b->v.enh, NULL);
		cr_assert_str_eq(b->prepend, "");
	}
	bench_heard(b);
}

Test(policy, instance_is_one_for_a_message)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "<",
	    ">action=OK\n\n", "<", ">action=OK\n\n", NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	ask(STAGE_RCPT);
	service_policy.forget(p);
	ask(STAGE_MAIL);
	bench_heard(b);
	cr_assert_str_eq(value(b->text, "instance", 0),
	    value(b->text, "instance", 1));
	cr_assert_str_neq(value(b->text, "instance", 1),
	    value(b->text, "instance", 2));
}

Test(policy, values_make_no_lines_and_unix_is_localhost)
{
	static const char *const script[] = { "<", ">action=OK\n\n", NULL };

	b->env.fact[FACT_SENDER] = "a\nsasl_username=root\n\nb\r\t\177@c";
	b->env.fact[FACT_CLIENT_ADDRESS] = "unix";
	b->env.fact[FACT_CLIENT_PORT] = "";
	b->env.fact[FACT_CLIENT_PROTOCOL] = "UTF8LMTP";
	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	bench_heard(b);
	cr_assert_str_eq(value(b->text, "sender", 0),
	    "a?sasl_username=root??b???@c");
	cr_assert_str_eq(value(b->text, "sasl_username", 0), "");
	cr_assert_str_eq(value(b->text, "client_address", 0), "127.0.0.1");
	cr_assert_str_eq(value(b->text, "client_name", 0), "localhost");
	cr_assert_str_eq(value(b->text, "reverse_client_name", 0),
	    "localhost");
	cr_assert_str_eq(value(b->text, "client_port", 0), "unknown");
	cr_assert_str_eq(value(b->text, "protocol_name", 0), "LMTP");
}

/* One mailbox has one spelling there, as in Postfix. */
Test(policy, quoted_addresses_are_unquoted)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "<",
	    ">action=OK\n\n", NULL };

	bench_peer(b, "\n\n", script);
	b->env.fact[FACT_SENDER] = "\"Se\\cret\"@Example.org";
	b->recipients[0].address = "\"a b\\\"@c\"@example.org";
	ask(STAGE_RCPT);
	b->env.fact[FACT_SENDER] = "";
	b->recipients[0].address = "r1@example.org";
	ask(STAGE_RCPT);
	bench_heard(b);
	cr_assert_str_eq(value(b->text, "sender", 0), "Secret@Example.org");
	cr_assert_str_eq(value(b->text, "recipient", 0),
	    "a b\"@c@example.org");
	cr_assert_str_eq(value(b->text, "sender", 1), "");
	cr_assert_str_eq(value(b->text, "recipient", 1), "r1@example.org");
}

Test(policy, question_that_has_no_room_is_not_asked)
{
	static char big[9000];

	memset(big, 'a', sizeof big - 1);
	b->env.fact[FACT_SENDER] = big;
	ask(STAGE_MAIL);
	says(451, "4.3.5", NULL);
	cr_assert(strstr(b->log, "too long"));
}

#define UNSURE_TEXT "Policy service not available"

static const struct {
	const char *answer;
	int code;
	const char *enh, *text, *prepend;
} answers[] = {
	{ "OK", 250, "", "", "" },
	{ "ok whatever", 250, "", "", "" },
	{ "Relay", 250, "", "", "" },
	{ "dUnNo", 250, "", "", "" },
	{ "1234567890", 250, "", "", "" },
	{ "550", 250, "", "", "" },
	{ "REJECT", 554, "5.7.1", "Access denied", "" },
	{ "reject Go away", 554, "5.7.1", "Go away", "" },
	{ "REJECT 5.1.1 No such user", 554, "5.1.1", "No such user",
	    "" },
	{ "REJECT 4.2.0 Soft", 554, "5.2.0", "Soft", "" },
	{ "REJECT 5.7.1", 554, "5.7.1", "Access denied", "" },
	{ "REJECT 5.7.1x", 554, "5.7.1", "5.7.1x", "" },
	{ "REJECT 5.7.1234 a", 554, "5.7.1", "5.7.1234 a", "" },
	{ "REJECT 3.7.1 a", 554, "5.7.1", "3.7.1 a", "" },
	{ "REJECT 5..1 a", 554, "5.7.1", "5..1 a", "" },
	{ "REJECT 5.1234.1 a", 554, "5.7.1", "5.1234.1 a", "" },
	{ "REJECT 5.1 a", 554, "5.7.1", "5.1 a", "" },
	{ "REJECT 5.7. a", 554, "5.7.1", "5.7. a", "" },
	{ "DEFER", 450, "4.7.1", "Access denied", "" },
	{ "DEFER 4.2.0 Greylisted", 450, "4.2.0", "Greylisted", "" },
	{ "DEFER_IF_PERMIT", 450, "4.7.1", "Service unavailable", "" },
	{ "defer_if_permit Greylisted", 450, "4.7.1", "Greylisted",
	    "" },
	{ "DEFER_IF_REJECT", 250, "", "", "" },
	{ "HOLD", 451, "4.7.1", "Message cannot be held here", "" },
	{ "450 Later", 450, "4.7.1", "Later", "" },
	{ "451 4.3.0 Later", 451, "4.3.0", "Later", "" },
	{ "550  5.1.1  Nobody", 550, "5.1.1", "Nobody", "" },
	{ "550 4.1.1 Nobody", 550, "5.1.1", "Nobody", "" },
	{ "421 Bye", 421, "4.7.1", "Bye", "" },
	{ "521 5.7.0 Never", 521, "5.7.0", "Never", "" },
	{ "250 fine", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "5500 no", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "55 no", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "55x no", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "WARN look out", 250, "", "", "" },
	{ "INFO look", 250, "", "", "" },
	{ "DISCARD", 250, "", "", "" },
	{ "REDIRECT a@example.net", 250, "", "", "" },
	{ "REDIRECT example.net", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "REDIRECT @example.net", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "REDIRECT a@", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "REDIRECT a@b c@d", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "REDIRECT -f@example.net", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "REDIRECT a\177@example.net", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "REDIRECT <a@b>", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "PREPEND X-Spam: yes", 250, "", "", "X-Spam: yes\r\n" },
	{ "prepend X:\tyes", 250, "", "", "X:\tyes\r\n" },
	{ "PREPEND X:", 250, "", "", "X:\r\n" },
	{ "PREPEND", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "PREPEND no field", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "PREPEND : none", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "PREPEND X y: none", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "PREPEND X: a\rY: b", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "FILTER smtp:host", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "BCC a@b", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "OKAY", 451, "4.3.5", UNSURE_TEXT, "" },
	{ "permit_mynetworks", 451, "4.3.5", UNSURE_TEXT, "" },
};

/* Each on a connection of its own, at RCPT. */
Test(policy, actions)
{
	size_t i;

	for (i = 0; i < sizeof answers / sizeof answers[0]; i++) {
		char answer[256];
		const char *script[] = { "<", answer, NULL };

		snprintf(answer, sizeof answer, ">action=%s\n\n",
		    answers[i].answer);
		bench_peer(b, "\n\n", script);
		ask(STAGE_RCPT);
		cr_expect_eq(b->v.code, answers[i].code, "%s: %d",
		    answers[i].answer, b->v.code);
		cr_expect_str_eq(b->v.enh, answers[i].enh, "%s: %s",
		    answers[i].answer, b->v.enh);
		cr_expect_str_eq(b->v.text, answers[i].text, "%s: %s",
		    answers[i].answer, b->v.text);
		cr_expect_str_eq(b->prepend, answers[i].prepend);
		cr_expect((strcmp(b->v.enh, "4.3.5") == 0) ==
		    (strstr(b->log, b->place) != NULL), "%s", b->log);
		bench_heard(b);
		end();
		begin();
	}
}

Test(policy, actions_that_last_until_the_transaction_ends)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "<",
	    ">action=REDIRECT a@example.net\n\n", "<", ">action=OK\n\n", "<",
	    ">action=redirect b@example.net\n\n", "<",
	    ">action=DISCARD spam\n\n", "<", ">action=WARN careful\n\n",
	    NULL };

	bench_peer(b, "\n\n", script);
	b->env.nrecipients = 2;
	ask(STAGE_END_OF_MESSAGE);
	cr_assert_eq(b->message.env.recipients, b->recipients);
	cr_assert_eq(b->message.env.nrecipients, 2);
	cr_assert_not(b->message.discard);
	ask(STAGE_RCPT);
	ask(STAGE_END_OF_MESSAGE);
	cr_assert_eq(b->message.env.nrecipients, 1);
	cr_assert_str_eq(b->message.env.recipients[0].address,
	    "a@example.net");
	cr_assert_str_eq(b->message.env.recipients[0].options, "");
	ask(STAGE_DATA);
	ask(STAGE_END_OF_MESSAGE);
	cr_assert_str_eq(b->message.env.recipients[0].address,
	    "b@example.net");
	cr_assert(b->message.discard);
	cr_assert(strstr(b->log, "policy: END-OF-MESSAGE: spam\n"));
	service_policy.forget(p);
	ask(STAGE_END_OF_MESSAGE);
	cr_assert_eq(b->message.env.recipients, b->recipients);
	cr_assert_not(b->message.discard);
	cr_assert(strstr(b->log, "policy: END-OF-MESSAGE: careful\n"));
	bench_heard(b);
}

Test(policy, defer_if_reject_softens_what_follows)
{
	static const char *const script[] = { "<",
	    ">action=DEFER_IF_REJECT 4.4.3 DNS is down\n\n", "<",
	    ">action=REJECT\n\n", "<", ">action=550 no\n\n", "<",
	    ">action=451 4.2.0 busy\n\n", "<", ">action=REJECT\n\n", NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	says(250, "", "");
	ask(STAGE_RCPT);
	says(450, "4.4.3", "DNS is down");
	ask(STAGE_RCPT);
	says(450, "4.4.3", "DNS is down");
	ask(STAGE_RCPT);
	says(451, "4.2.0", "busy");
	service_policy.forget(p);
	ask(STAGE_MAIL);
	says(554, "5.7.1", "Access denied");
	bench_heard(b);
}

Test(policy, message_actions_without_a_message_are_ignored)
{
	static const char *const script[] = { "<", ">action=DISCARD\n\n", "<",
	    ">action=REDIRECT a@b\n\n", "<", ">action=PREPEND X: y\n\n", "<",
	    ">action=PREPEND X: y\n\n", NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_CONNECT);
	ask(STAGE_EHLO);
	ask(STAGE_VRFY);
	cr_assert_str_eq(b->prepend, "");
	ask(STAGE_END_OF_MESSAGE);
	cr_assert_str_eq(b->prepend, "");
	says(250, "", "");
	cr_assert_not(b->message.discard);
	cr_assert_eq(b->message.env.recipients, b->recipients);
	cr_assert(strstr(b->log, "DISCARD ignored at CONNECT"));
	cr_assert(strstr(b->log, "REDIRECT ignored at EHLO"));
	cr_assert(strstr(b->log, "PREPEND ignored at VRFY"));
	cr_assert(strstr(b->log, "too late"));
	bench_heard(b);
}

Test(policy, answers_that_are_none)
{
	static char long_action[10100], endless[1024], field[1200];
	static char line[STREAM_LINE_MAX + STREAM_BUFFER + 2];
	static const struct {
		const char *answer, *log;
	} rows[] = {
		{ "x", "connection closed" },
		{ "w", "no answer in time" },
		{ ">\n", "answer has no action" },
		{ ">action=\n\n", "answer has no action" },
		{ ">status=ok\n\n", "answer has no action" },
		{ ">hello\n\n", "not name=value" },
		{ ">action=OK\naction=OK\n\n", "two actions" },
		{ ">action=OK\nhello\n\n", "not name=value" },
		{ ">action=OK\n", "connection closed" },
		{ ">action=OK", "connection closed" },
		{ ">action=FILTER smtp:host\n\n", "unknown action FILTER" },
		{ long_action, "line of answer too long" },
		{ field, "PREPEND without" },
		{ endless, "answer has more than 64 lines" },
		{ line, "line too long" },
	};
	size_t i;

	memset(long_action, 'a', sizeof long_action - 1);
	memcpy(long_action, ">action=REJECT ", 15);
	memcpy(long_action + sizeof long_action - 3, "\n\n", 3);
	memset(line, 'a', sizeof line - 1);
	line[0] = '>';
	memset(field, 'a', sizeof field - 1);
	memcpy(field, ">action=PREPEND X: ", 19);
	memcpy(field + sizeof field - 3, "\n\n", 3);
	memset(endless, 0, sizeof endless);
	strcpy(endless, ">");
	for (i = 0; i < 70; i++)
		strcat(endless, "a=b\n");
	for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const char *script[] = { "<", rows[i].answer, NULL };

		if (rows[i].answer[0] == 'x')
			script[1] = NULL;
		bench_peer(b, "\n\n", script);
		ask(STAGE_MAIL);
		cr_expect_eq(b->v.code, 451, "%.20s", rows[i].answer);
		cr_expect_str_eq(b->v.enh, "4.3.5");
		cr_expect(strstr(b->log, rows[i].log), "%.20s: %s",
		    rows[i].answer, b->log);
		end();
		begin();
	}
}

Test(policy, further_attributes_of_an_answer_are_ignored)
{
	static const char *const script[] = { "<",
	    ">ttl=3\naction=REJECT x=y\nmore=\n\n", NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	says(554, "5.7.1", "x=y");
}

Test(policy, unreachable)
{
	ask(STAGE_CONNECT);
	says(451, "4.3.5", UNSURE_TEXT);
	cr_assert(strstr(b->log, b->place) && strstr(b->log, "CONNECT"));
}

/* Two connections: the first is found closed, the second answers. */
Test(policy, stale_connection_is_reopened)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "x", "<",
	    ">action=REJECT\n\n", "<", ">action=OK\n\n", NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	says(250, "", "");
	ask(STAGE_RCPT);
	says(554, "5.7.1", NULL);
	ask(STAGE_RCPT);
	says(250, "", "");
	cr_assert_str_eq(b->log, "");
	bench_heard(b);
}

Test(policy, stale_connection_is_reopened_only_once)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "x", "<",
	    "x", "<", ">action=OK\n\n", NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	ask(STAGE_RCPT);
	says(451, "4.3.5", NULL);
	ask(STAGE_RCPT);
	says(250, "", "");
	bench_heard(b);
}

/* What was answered, however badly, is not asked again. */
Test(policy, garbage_is_no_sign_of_staleness)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "<",
	    ">hello\n\n", "x", "<", ">action=OK\n\n", NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	ask(STAGE_RCPT);
	says(451, "4.3.5", NULL);
	ask(STAGE_RCPT);
	says(250, "", "");
	bench_heard(b);
}

/* An answer to nothing is not the answer to the next question. */
Test(policy, unasked_answer_is_dropped)
{
	static const char *const script[] = { "<",
	    ">action=DUNNO\n\naction=OK\n\n", "x", "<", ">action=REJECT\n\n",
	    NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	ask(STAGE_RCPT);
	says(554, "5.7.1", NULL);
	bench_heard(b);
}

/* After silence the late answer must not be taken for the next one. */
Test(policy, late_answer_is_dropped)
{
	static const char *const script[] = { "<", "w", ">action=OK\n\n", "x",
	    "<", ">action=REJECT\n\n", NULL };

	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	says(451, "4.3.5", NULL);
	ask(STAGE_RCPT);
	says(554, "5.7.1", NULL);
	bench_heard(b);
}

/* A second answer, after the first was read, is not taken for the next. */
Test(policy, second_answer_is_not_the_next_question_s)
{
	static const char *const script[] = { "<", ">action=DUNNO\n\n", "g",
	    ">action=OK\n\n", "d", "x", "<", ">action=REJECT\n\n", NULL };

	cr_assert_eq(mkfifo(bench_path(b, "go"), 0600), 0);
	cr_assert_eq(mkfifo(bench_path(b, "done"), 0600), 0);
	bench_peer(b, "\n\n", script);
	ask(STAGE_MAIL);
	says(250, "", NULL);
	close(open(bench_path(b, "go"), O_WRONLY | O_CLOEXEC));
	close(open(bench_path(b, "done"), O_RDONLY | O_CLOEXEC));
	ask(STAGE_RCPT);
	says(554, "5.7.1", NULL);
	bench_heard(b);
}

Test(policy, service_on_the_network)
{
	static const char *const script[] = { "<", ">action=REJECT\n\n", NULL };
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(bind(fd, (struct sockaddr *)&at, len), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	cr_assert_eq(listen(fd, 5), 0);
	snprintf(b->place, sizeof b->place, "inet:127.0.0.1:%d",
	    ntohs(at.sin_port));
	bench_peer_at(b, fd, "\n\n", script);
	service_policy.close(p);
	open_policy();
	ask(STAGE_MAIL);
	says(554, "5.7.1", NULL);
	bench_heard(b);
}
