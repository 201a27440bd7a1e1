/*
 * dovecot_test.c - Dovecot as source of authentication, by a script.
 */
#include <sys/socket.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "service/auth_source.h"

#include "t/fakes/bench.h"

static struct auth *
open_dovecot(struct bench *b, const char *const *script)
{
	bench_peer(b, "\n", script);
	return open_auth(b, "dovecot", "socket");
}

#define HELLO "<", "<", HANDSHAKE

Test(dovecot, mechanisms)
{
	static const char *const script[] = { HELLO, "w", NULL };
	struct bench *b = bench_open();
	struct auth *a = open_dovecot(b, script);
	char expected[64];

	cr_assert_str_eq(auth_mechanisms(a, &b->env),
	    "PLAIN LOGIN SCRAM-SHA-256");
	b->env.fact[FACT_CLIENT_USER] = "alice";
	cr_assert_str_eq(auth_mechanisms(a, &b->env),
	    "PLAIN LOGIN SCRAM-SHA-256 EXTERNAL");
	cr_assert_eq(step(b, a, "EXTERNAL", "="), 235);
	cr_assert_eq(step(b, a, "ANONYMOUS", "="), 504);
	cr_assert_eq(step(b, a, "SCRAM-SHA-256-PLUS", NULL), 504);
	cr_assert_eq(step(b, a, "SCRAM", NULL), 504);
	auth_close(a);
	snprintf(expected, sizeof expected, "VERSION\t1\t1\nCPID\t%d\n",
	    (int)getpid());
	cr_assert_str_eq(bench_heard(b), expected);
	bench_close(b);
}

Test(dovecot, plain)
{
	static const char *const script[] = { HELLO, "<",
	    ">OK\t1\tuser=joe@example.org\toriginal_user=joe\n", "<",
	    ">FAIL\t2\tuser=joe\n", "<", ">FAIL\t3\tuser=joe\ttemp\n", "<",
	    ">FAIL\t4\tuser=joe\tcode=temp_fail\n", "<",
	    ">OK\t5\tuser=a\001\061b\n", "<", ">OK\t6\n", "<",
	    ">OK\t7\tuser=a\001nb\n", "<", ">OK\t8\tuser=\n", "<",
	    ">FAIL\t9\tuser=joe\tuser_disabled\n", NULL };
	struct bench *b = bench_open();
	struct auth *a = open_dovecot(b, script);
	const char *right = B64("\0joe\0secret");

	b->env.fact[FACT_CLIENT_ADDRESS] = "2001:db8::1";
	cr_assert_eq(step(b, a, "PLAIN", right), 235);
	cr_assert_str_eq(b->user, "joe@example.org");
	cr_assert_eq(step(b, a, "PLAIN", "="), 535);
	cr_assert_str_eq(b->log, "");
	b->env.fact[FACT_CLIENT_ADDRESS] = "unix";
	b->env.fact[FACT_CLIENT_PORT] = "";
	cr_assert_eq(step(b, a, "PLAIN", NULL), 454);
	cr_assert_eq(step(b, a, "PLAIN", right), 454);
	cr_assert_eq(step(b, a, "PLAIN", right), 454);	/* \001 is a control */
	cr_assert_eq(step(b, a, "PLAIN", right), 454);
	cr_assert_eq(step(b, a, "PLAIN", right), 454);
	cr_assert_eq(step(b, a, "PLAIN", right), 454);
	cr_assert_eq(step(b, a, "PLAIN", right), 535);
	bench_heard(b);
	cr_assert(strstr(b->text, "AUTH\t1\tPLAIN\tservice=smtp\tsecured\t"
	    "nologin\tlip=192.0.2.2\trip=2001:db8::1\tlport=25\trport=40000\t"
	    "resp=AGpvZQBzZWNyZXQ=\n"), "%s", b->text);
	cr_assert(strstr(b->text, "rport=40000\tresp=\n"));
	cr_assert(strstr(b->text, "AUTH\t3\tPLAIN\tservice=smtp\tsecured\t"
	    "nologin\tlip=192.0.2.2\tlport=25\n"));
	cr_assert_null(strstr(b->log, "AGpvZ"));
	auth_close(a);
	bench_close(b);
}

Test(dovecot, tells_the_name_that_failed)
{
	static const char *const script[] = { HELLO, "<",
	    ">FAIL\t1\tuser=jo\001te\treason=x\n", "<", ">FAIL\t2\n", NULL };
	struct bench *b = bench_open();
	struct auth *a = open_dovecot(b, script);
	const char *why, *name;

	auth_keep_names(a);
	cr_assert_eq(step(b, a, "PLAIN", "AGpvAHg="), 535);
	cr_assert_str_eq(auth_asked(a, &why, &name), "dovecot:");
	cr_assert_str_eq(name, "jo\te");
	cr_assert_eq(step(b, a, "PLAIN", "AGpvAHg="), 535);
	auth_asked(a, &why, &name);
	cr_assert_str_eq(name, "");
	auth_close(a);
	bench_close(b);
}

Test(dovecot, goes_on)
{
	static const char *const script[] = { HELLO, "<",
	    ">FAIL\t7\tuser=other\nCONT\t1\tYWJj\n", "<", ">CONT\t1\t\n", "<",
	    ">OK\t1\tuser=joe\n", NULL };
	struct bench *b = bench_open();
	struct auth *a = open_dovecot(b, script);

	cr_assert_eq(step(b, a, "SCRAM-SHA-256", "bixh"), 334);
	cr_assert_str_eq(b->v.text, "YWJj");
	cr_assert_str_eq(b->v.enh, "");
	cr_assert_eq(step(b, a, NULL, "Yz1i"), 334);
	cr_assert_str_eq(b->v.text, "");
	cr_assert_eq(step(b, a, NULL, ""), 235);
	cr_assert_str_eq(b->user, "joe");
	cr_assert_eq(step(b, a, NULL, ""), 503);
	cr_assert(strstr(bench_heard(b), "\nCONT\t1\tYz1i\nCONT\t1\t\n"));
	auth_close(a);
	bench_close(b);
}

Test(dovecot, is_told_when_an_exchange_ends_early)
{
	static const char *const script[] = { HELLO, "<", ">CONT\t1\t\n", "<",
	    "<", ">CONT\t2\t\n", "<", "<", ">CONT\t3\t\n", "<", "<",
	    ">OK\t4\tuser=joe\n", NULL };
	struct bench *b = bench_open();
	struct auth *a = open_dovecot(b, script);

	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	auth_abandon(a);
	cr_assert_eq(step(b, a, NULL, "YQ=="), 503);
	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	cr_assert_eq(step(b, a, NULL, "YQ==\tx"), 501);
	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	cr_assert_eq(step(b, a, "PLAIN", "YQ=="), 235);
	bench_heard(b);
	cr_assert(strstr(b->text, "CANCEL\t1\nAUTH\t2\t"));
	cr_assert(strstr(b->text, "CANCEL\t2\nAUTH\t3\t"));
	cr_assert(strstr(b->text, "CANCEL\t3\nAUTH\t4\t"));
	auth_close(a);
	bench_close(b);
}

Test(dovecot, never_sees_what_is_not_base64)
{
	static const char *const script[] = { HELLO, "w", NULL };
	static const char *const bad[] = { "YQ==\tresp=YQ==", "YQ==\n", "YQ",
	    "YQ==\nAUTH\t9\tPLAIN", "Y\001n=" };
	struct bench *b = bench_open();
	struct auth *a = open_dovecot(b, script);
	size_t i;

	for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_assert_eq(step(b, a, "PLAIN", bad[i]), 501);
	auth_close(a);
	cr_assert_null(strstr(bench_heard(b), "AUTH"));
	bench_close(b);
}

Test(dovecot, one_that_went_away_is_found_again)
{
	static const char *const script[] = { HELLO, "<", ">FAIL\t1\n", "x",
	    HELLO, "<", ">OK\t3\tuser=joe\n", NULL };
	struct bench *b = bench_open();
	struct auth *a = open_dovecot(b, script);

	cr_assert_eq(step(b, a, "PLAIN", "YQ=="), 535);
	cr_assert_eq(step(b, a, "PLAIN", "YQ=="), 235);
	cr_assert_str_eq(b->log, "");
	bench_heard(b);
	auth_close(a);
	bench_close(b);
}

Test(dovecot, one_that_fails)
{
	static char big[2100], many[1600] = ">";
	const struct {
		const char *script[10];
		const char *log;
	} rows[] = {
		{ { NULL }, "socket: " },
		{ { "<", "<", ">VERSION\t1\t2\nMECH\tPLAIN\n" },
		    "connection closed" },
		{ { "<", "<", ">VERSION\t2\t0\nDONE\n", "w" },
		    "another VERSION" },
		{ { "<", "<", ">VERSION\nDONE\n", "w" }, "no VERSION" },
		{ { "<", "<", ">MECH\tPLAIN\nDONE\n", "w" }, "no VERSION" },
		{ { "<", "<", ">VERSION\t1\t2\nMECH\tPLAIN\n", "w" },
		    "no answer in time" },
		{ { HELLO, "<", "x", HELLO, "<" }, "connection closed" },
		{ { HELLO, "<", "w" }, "no answer in time" },
		{ { HELLO, "<", ">garbage\n", "w" }, "no answer in time" },
		{ { HELLO, "<", ">NEW\t1\tx\n", "w" }, "not be understood" },
		{ { HELLO, "<", ">CONT\t1\n", "w" }, "not be understood" },
		{ { HELLO, "<", ">CONT\t1\t!\n", "w" }, "not be understood" },
		{ { HELLO, "<", ">CONT\t1\tYQ==\tx\n", "w" },
		    "not be understood" },
		{ { HELLO, "<", big, "w" }, "not be understood" },
		{ { "<", "<", many, "w" }, "handshake too long" },
		{ { HELLO, "<", many, "w" },
		    "no reply to our request in 256 lines" },
	};
	size_t i;

	memset(big, 'A', sizeof big - 1);
	memcpy(big, ">CONT\t1\t", 8);
	big[8 + 1024] = '\n';
	big[8 + 1025] = '\0';
	for (i = 0; i < 300; i++)
		strcat(many, "OK\t0\n");
	for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct bench *b = bench_open();
		struct auth *a = open_dovecot(b, rows[i].script);

		cr_expect_eq(step(b, a, "PLAIN", "YQ=="), 454, "%zu: %d", i,
		    b->v.code);
		cr_expect(strstr(b->log, rows[i].log), "%zu: %s", i, b->log);
		auth_close(a);
		bench_close(b);
	}
}

Test(dovecot, one_that_is_not_there)
{
	struct bench *b = bench_open();
	struct auth *a = open_auth(b, "dovecot", "socket");

	cr_assert_str_eq(auth_mechanisms(a, &b->env), "");
	b->env.fact[FACT_CLIENT_USER] = "alice";
	cr_assert_str_eq(auth_mechanisms(a, &b->env), "EXTERNAL ?");
	cr_assert_eq(step(b, a, "PLAIN", NULL), 454);
	cr_assert_str_eq(b->v.enh, "4.7.0");
	cr_assert(strstr(b->log, "socket: "));
	auth_close(a);
	bench_close(b);
}

/* An exchange that began on one connection does not continue on another. */
Test(dovecot, one_that_goes_away_in_the_middle)
{
	static const char *const script[] = { HELLO, "<", ">CONT\t1\t\n", "x",
	    HELLO, "<", ">OK\t2\tuser=joe\n", NULL };
	struct bench *b = bench_open();
	struct auth *a = open_dovecot(b, script);

	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	cr_assert_eq(step(b, a, NULL, "YQ=="), 454);
	cr_assert_eq(step(b, a, "PLAIN", "YQ=="), 235);
	bench_heard(b);
	auth_close(a);
	bench_close(b);
}
