/*
 * auth_test.c - sources of authentication: password files, and checkpassword
 * programs of a few lines of shell.
 */
#define _GNU_SOURCE	/* explicit_bzero */

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <crypt.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/clock.h"
#include "service/auth_source.h"

#include "t/fakes/bench.h"

/* 33 octets: three of them and 9 more are the most that a socket's path has. */
#define DIGITS "012345678901234567890123456789012"

/* As openssl passwd -6 and mkpasswd -m yescrypt print them, of "secret". */
#define OPENSSL "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U" \
	"0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1"
#define MKPASSWD "$y$j9T$saltsaltsaltsaltsalts.$RLGOTDF.U/4XhK4pw0Twc1QG4u" \
	"RDMi/qdr5UVb1K7D5"

/* A line "user:hash" by the method that prefix names. */
static void
enrol(char *file, size_t size, const char *user, const char *password,
    const char *prefix)
{
	struct crypt_data data = { 0 };
	char *setting = crypt_gensalt(prefix, 0, NULL, 0);
	size_t len = strlen(file);

	cr_assert_not_null(setting);
	snprintf(file + len, size - len, "%s:%s\n", user,
	    crypt_r(password, setting, &data));
}

static struct auth *
open_file(struct bench *b)
{
	char file[4096] = "# users\n\n  \nnocolon\n";

	enrol(file, sizeof file, "joe", "secret", "$6$");
	enrol(file, sizeof file, "eve", "geheim", "$y$");
	enrol(file, sizeof file, "joe", "other", "$6$");
	strcat(file, "off:!$6$saltsalt$x\nstar:*\nempty:\nplain:secret\n"
	    "bad:$9$nonsense\n");
	strcat(file, "ssl:" OPENSSL "\nwhois:" MKPASSWD "\n");
	enrol(file, sizeof file, "max", "0123", "$2b$");
	file[strlen(file) - 1] = '\0';
	strcat(file, ":1000:more\r\n");
	bench_save(b, "users", file, 0600);
	return open_auth(b, "file", "users");
}

Test(auth, sources_that_make_no_sense)
{
	static const char *const bad[] = { "", "file:", "file:users",
	    "dovecot:", "dovecot:auth", "checkpassword:", "checkpassword:true",
	    "pam:/x", "/etc/passwd", "checkpassword:/a 1 2 3 4 5 6 7 8 9 10 11 "
	    "12 13 14 15 16", "dovecot:/" DIGITS DIGITS DIGITS "45678901" };
	struct logger none = { NULL, NULL };
	char error[512];
	size_t i;

	for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		error[0] = '\0';
		cr_expect_null(auth_open(bad[i], 1, &none, error,
		    sizeof error), "%s", bad[i]);
		cr_expect(error[0] != '\0' && strchr(error, '\n') == NULL);
	}
	auth_close(NULL);
	auth_abandon(NULL);
}

/* Responses of PLAIN before they become base64. */
#define TEXT(s) s, sizeof(s) - 1

static const struct {
	const char *text;
	size_t len;
	int code;
	const char *enh, *user;
} plain[] = {
	{ TEXT("\0joe\0secret"), 235, "2.7.0", "joe" },
	{ TEXT("\0ssl\0secret"), 235, "2.7.0", "ssl" },
	{ TEXT("\0whois\0secret"), 235, "2.7.0", "whois" },
	{ TEXT("joe\0joe\0secret"), 235, "2.7.0", "joe" },
	{ TEXT("\0eve\0geheim"), 235, "2.7.0", "eve" },
	{ TEXT("\0max\0" "0123"), 235, "2.7.0", "max" },
	{ TEXT("eve\0joe\0secret"), 535, "5.7.8", "" },
	{ TEXT("\0joe\0Secret"), 535, "5.7.8", "" },
	{ TEXT("\0joe\0other"), 535, "5.7.8", "" },
	{ TEXT("\0joe\0secret "), 535, "5.7.8", "" },
	{ TEXT("\0JOE\0secret"), 535, "5.7.8", "" },
	{ TEXT("\0nobody\0secret"), 535, "5.7.8", "" },
	{ TEXT("\0off\0secret"), 535, "5.7.8", "" },
	{ TEXT("\0star\0*"), 535, "5.7.8", "" },
	{ TEXT("\0empty\0x"), 535, "5.7.8", "" },
	{ TEXT("\0empty\0"), 535, "5.7.8", "" },
	{ TEXT("\0plain\0secret"), 454, "4.7.0", "" },
	{ TEXT("\0# users\0x"), 535, "5.7.8", "" },
	{ TEXT("\0bad\0secret"), 454, "4.7.0", "" },
	{ TEXT("\0joe\0"), 535, "5.7.8", "" },
	{ TEXT("\0\0secret"), 535, "5.7.8", "" },
	{ TEXT("\0joe\nx\0secret"), 535, "5.7.8", "" },
	{ TEXT("joe\0secret"), 501, "5.5.2", "" },
	{ TEXT("\0joe\0secret\0"), 501, "5.5.2", "" },
	{ TEXT("joe"), 501, "5.5.2", "" },
};

/* What is not base64: not canonical, or not decodable at all. */
static const char *const malformed[] = {
	"=", "", "A", "AGpvZQBzZWNyZXQ", "AGpvZQBzZWNyZXR=",
	"AGpvZQBzZWNyZQ=A", "====", "A===", "AGpv\nZQA", "AGpv\tQQA", "AG-_",
};

Test(auth, plain)
{
	struct bench *b = bench_open();
	struct auth *a = open_file(b);
	char text[1100];
	size_t i;

	for (i = 0; i < sizeof plain / sizeof plain[0]; i++) {
		cr_expect_eq(step(b, a, "PLAIN", base64(plain[i].text,
		    plain[i].len)), plain[i].code, "%zu: %d", i, b->v.code);
		cr_expect_str_eq(b->v.enh, plain[i].enh);
		cr_expect_str_eq(b->user, plain[i].user);
	}
	for (i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
		cr_expect_eq(step(b, a, "PLAIN", malformed[i]), 501, "%s",
		    malformed[i]);
		cr_expect_str_eq(b->v.enh, "5.5.2");
	}
	cr_assert(strstr(b->log, "crypt(3) does not support this hash"));
	cr_assert_null(strstr(b->log, "secret"));
	memset(text, 'a', sizeof text);
	memcpy(text, "\0joe\0", 5);
	cr_assert_eq(step(b, a, "PLAIN", base64(text, 5 + 512)), 535);
	cr_assert_eq(step(b, a, "PLAIN", base64(text, 1023)), 535);
	cr_assert_eq(step(b, a, "PLAIN", base64(text, 1024)), 500);
	cr_assert_str_eq(b->v.enh, "5.5.6");
	memcpy(text + 1 + 256, "\0x", 2);
	memset(text + 1, 'a', 256);
	cr_assert_eq(step(b, a, "PLAIN", base64(text, 1 + 256 + 2)), 535);
	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	cr_assert_str_eq(b->v.text, "");
	cr_assert_str_eq(b->v.enh, "");
	cr_assert_eq(step(b, a, NULL, B64("\0joe\0secret")), 235);
	cr_assert_str_eq(b->user, "joe");
	cr_assert_eq(step(b, a, NULL, B64("\0joe\0secret")), 503);
	auth_close(a);
	bench_close(b);
}

Test(auth, login)
{
	struct bench *b = bench_open();
	struct auth *a = open_file(b);
	char name[256];		/* an octet too long, without a NUL */
	int again;

	memset(name, 'j', sizeof name);
	for (again = 0; again < 2; again++) {
		cr_assert_eq(step(b, a, "LOGIN", NULL), 334);
		cr_assert_str_eq(b->v.text, "VXNlcm5hbWU6");
		cr_assert_eq(step(b, a, NULL, B64("joe")), 334);
		cr_assert_str_eq(b->v.text, "UGFzc3dvcmQ6");
		cr_assert_eq(step(b, a, NULL, B64("secret")), 235);
		cr_assert_str_eq(b->user, "joe");
	}
	cr_assert_eq(step(b, a, "LOGIN", B64("eve")), 334);
	cr_assert_str_eq(b->v.text, "UGFzc3dvcmQ6");
	cr_assert_eq(step(b, a, NULL, B64("secret")), 535);
	cr_assert_eq(step(b, a, NULL, B64("geheim")), 503);
	cr_assert_eq(step(b, a, "LOGIN", "="), 334);
	cr_assert_eq(step(b, a, NULL, B64("secret")), 535);
	cr_assert_eq(step(b, a, "LOGIN", B64("jo\0e")), 535);
	cr_assert_eq(step(b, a, "LOGIN", base64(name, sizeof name - 1)), 334);
	cr_assert_eq(step(b, a, "LOGIN", base64(name, sizeof name)), 535);
	cr_assert_eq(step(b, a, NULL, B64("secret")), 503);
	cr_assert_eq(step(b, a, "LOGIN", B64("joe")), 334);
	cr_assert_eq(step(b, a, NULL, B64("secret\0x")), 535);
	cr_assert_eq(step(b, a, "LOGIN", B64("joe")), 334);
	cr_assert_eq(step(b, a, NULL, ""), 535);
	cr_assert_eq(step(b, a, "LOGIN", B64("joe")), 334);
	cr_assert_eq(step(b, a, NULL, "="), 501);
	cr_assert_eq(step(b, a, NULL, B64("secret")), 503);
	cr_assert_eq(step(b, a, "LOGIN", B64("joe")), 334);
	auth_abandon(a);
	cr_assert_eq(step(b, a, NULL, B64("secret")), 503);
	cr_assert_eq(step(b, a, "LOGIN", B64("joe")), 334);
	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	cr_assert_eq(step(b, a, NULL, B64("secret")), 501);
	auth_close(a);
	bench_close(b);
}

Test(auth, external)
{
	struct bench *b = bench_open();
	struct auth *a = open_file(b), *some[2] = { NULL, a };
	int i;

	for (i = 0; i < 2; i++) {
		b->env.fact[FACT_CLIENT_USER] = "";
		b->env.fact[FACT_TLS_SUBJECT] = "";
		cr_assert_str_eq(auth_mechanisms(some[i], &b->env),
		    i == 0 ? "" : "PLAIN LOGIN");
		cr_assert_eq(step(b, some[i], "EXTERNAL", "="), 504);
		b->env.fact[FACT_CLIENT_USER] = "alice";
		cr_assert_str_eq(auth_mechanisms(some[i], &b->env),
		    i == 0 ? "EXTERNAL" : "PLAIN LOGIN EXTERNAL");
		cr_assert_eq(step(b, some[i], "EXTERNAL", "="), 235);
		cr_assert_str_eq(b->user, "alice");
		cr_assert_eq(step(b, some[i], "EXTERNAL", NULL), 334);
		cr_assert_str_eq(b->v.text, "");
		cr_assert_eq(step(b, some[i], NULL, ""), 235);
		cr_assert_str_eq(b->user, "alice");
		cr_assert_eq(step(b, some[i], "EXTERNAL", B64("alice")), 235);
		cr_assert_eq(step(b, some[i], "EXTERNAL", B64("bob")), 535);
		cr_assert_eq(step(b, some[i], "EXTERNAL", B64("alice\0")),
		    535);
		cr_assert_eq(step(b, some[i], "EXTERNAL", "!"), 501);
		b->env.fact[FACT_TLS_SUBJECT] = "client.example.com";
		cr_assert_eq(step(b, some[i], "EXTERNAL", "="), 235);
		cr_assert_str_eq(b->user, "client.example.com");
		b->env.fact[FACT_TLS_SUBJECT] = "a\nb";
		cr_assert_eq(step(b, some[i], "EXTERNAL", "="), 535);
	}
	cr_assert_eq(step(b, NULL, "PLAIN", NULL), 504);
	cr_assert_eq(step(b, a, "CRAM-MD5", NULL), 504);
	cr_assert_eq(step(b, a, "", NULL), 504);
	auth_close(a);
	bench_close(b);
}

/* Processor time of a refusal, in clock(3)'s ticks. */
static clock_t
cost(struct bench *b, struct auth *a, const char *response)
{
	clock_t before = clock();

	cr_assert_eq(step(b, a, "PLAIN", response), 535);
	return clock() - before;
}

/* The monitor counts: an intruder in the channel process would not. */
Test(auth, after_three_failures_the_source_is_not_asked)
{
	struct bench *b = bench_open();
	char source[128];
	struct auth *a;
	int i;

	bench_save(b, "check", "#!/bin/sh\nread -r x <&3\n"
	    "echo >>${0%/*}/asked\nexit 1\n", 0700);
	snprintf(source, sizeof source, "checkpassword:%s",
	    bench_path(b, "check"));
	a = auth_open(source, 10, &b->logger, b->text, sizeof b->text);
	cr_assert_not_null(a);
	cr_assert_eq(step(b, a, "LOGIN", B64("joe")), 334);
	cr_assert_eq(step(b, a, NULL, B64("1")), 535);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0" "2")), 535);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0eve\0" "3")), 535);
	for (i = 0; i < 3; i++) {
		cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0" "4")), 421);
		cr_assert_str_eq(b->v.enh, "4.7.0");
	}
	cr_assert_str_eq(bench_load(b, "asked"), "\n\n\n");
	auth_close(a);
	bench_close(b);
}

/* What each user's attempt is hashed against: its cost is the same. */
Test(auth, unknown_users_cost_the_same_where_hashes_differ_in_cost)
{
	static const char cheap[] = "$6$a$x", dear[] = "$y$j9T$a$x",
	    also[] = "$6$b$y", most[] = "$2b$12$x", middle[] = "$y$j8T$a$x";
	const char *chosen[2];

	cr_assert_lt(auth_file_cost("aaaaaaaaaaaaa"), auth_file_cost(cheap));
	cr_assert_lt(auth_file_cost("$1$x$y"), auth_file_cost(cheap));
	cr_assert_lt(auth_file_cost(cheap),
	    auth_file_cost("$6$rounds=9999$a$x"));
	cr_assert_eq(auth_file_cost(cheap),
	    auth_file_cost("$6$rounds=5000$a$x"));
	cr_assert_lt(auth_file_cost(cheap), auth_file_cost(dear));
	cr_assert_lt(auth_file_cost(middle), auth_file_cost(dear));
	cr_assert_lt(auth_file_cost(dear), auth_file_cost(most));
	cr_assert_eq(auth_file_choose("", "", "", chosen), 0);
	cr_assert_eq(auth_file_choose(also, cheap, cheap, chosen), 1);
	cr_assert_eq(chosen[0], also);
	cr_assert_eq(auth_file_choose("", cheap, cheap, chosen), 1);
	cr_assert_eq(chosen[0], cheap);
	/* One of each, known or not. */
	cr_assert_eq(auth_file_choose(also, cheap, dear, chosen), 2);
	cr_assert_eq(chosen[0], also);
	cr_assert_eq(chosen[1], dear);
	cr_assert_eq(auth_file_choose("$y$j9T$b$y", cheap, dear, chosen), 2);
	cr_assert_eq(chosen[1], cheap);
	cr_assert_eq(auth_file_choose("", cheap, dear, chosen), 2);
	cr_assert_eq(chosen[0], cheap);
	cr_assert_eq(chosen[1], dear);
	cr_assert_eq(auth_file_choose("!locked", cheap, dear, chosen), 2);
	cr_assert_eq(chosen[0], cheap);
}

/* Known, unknown and locked cost a hash each, and that is what costs. */
Test(auth, unknown_users_cost_what_known_ones_cost)
{
	struct bench *b = bench_open();
	char file[512] = "off:!\n";
	clock_t known, unknown, locked, none;
	struct auth *a;

	bench_save(b, "users", file, 0600);
	a = open_auth(b, "file", "users");
	none = cost(b, a, B64("\0joe\0x"));
	strcat(file, "joe:$6$rounds=200000$saltsalt$");
	memset(file + strlen(file), 'x', 86);
	strcat(file, "\n");
	bench_save(b, "users", file, 0600);
	known = cost(b, a, B64("\0joe\0x"));
	unknown = cost(b, a, B64("\0nobody\0x"));
	locked = cost(b, a, B64("\0off\0x"));
	cr_assert_lt(10 * none, known);
	cr_assert_lt(known, 2 * unknown);
	cr_assert_lt(known, 2 * locked);
	auth_close(a);
	bench_close(b);
}

/* A hash that cannot be checked is a fault for every user. */
Test(auth, file_with_nothing_but_nonsense_is_no_refusal)
{
	struct bench *b = bench_open();
	struct auth *a = open_auth(b, "file", "users");

	bench_save(b, "users", "# none\njoe:$9$nonsense\n", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0nobody\0secret")), 454);
	bench_save(b, "users", "joe:secret\n", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0nobody\0secret")), 454);
	cr_assert(strstr(b->log,
	    "users: line 1: crypt(3) does not support this hash"));
	bench_save(b, "users", "joe:$9$nonsense\n" "eve:" OPENSSL "\n", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0eve\0secret")), 235);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0eve\0x")), 535);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0nobody\0secret")), 535);
	cr_assert(strstr(b->log,
	    "users: line 2: crypt(3) does not support this hash"));
	auth_close(a);
	bench_close(b);
}

Test(auth, file_that_cannot_be_read_is_no_refusal)
{
	struct bench *b = bench_open();
	struct auth *a = open_auth(b, "file", "users");

	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert_str_eq(b->v.enh, "4.7.0");
	cr_assert(strstr(b->log, "users: No such file"));
	cr_assert_eq(mkdir(bench_path(b, "users"), 0700), 0);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert(strstr(b->log, "users: Is a directory"));
	cr_assert_eq(rmdir(bench_path(b, "users")), 0);
	bench_save(b, "users", "", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 535);
	bench_save(b, "users", "joe:!\n", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 535);
	auth_close(a);
	bench_close(b);
}

/* How often a masked word is in text. */
static unsigned
count(const char *text, size_t n, const char *masked, size_t len)
{
	const char *p = text, *end = text + n;
	unsigned found = 0;
	size_t i;

	while ((size_t)(end - p) >= len && (p = memchr(p, masked[0] ^ 0x55,
	    (size_t)(end - p) - len + 1)) != NULL) {
		for (i = 1; i < len && (p[i] ^ 0x55) == masked[i]; i++)
			;
		found += i == len;
		p++;
	}
	return found;
}

/*
 * Counts copies of a word in this process's writable memory, but for block,
 * through which we look.  The word is given masked, so that looking for it
 * makes no copy.
 */
static unsigned
copies(const char *masked, size_t len)
{
	static char block[1 << 16];
	unsigned long from, to, mine = (unsigned long)block;
	FILE *maps = fopen("/proc/self/maps", "r");
	int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	unsigned found = 0;
	char line[512], mode[5];
	ssize_t n;

	while (fgets(line, sizeof line, maps) != NULL) {
		if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) != 3 ||
		    mode[1] != 'w' || to - from > 1UL << 26)
			continue;
		for (; from + len <= to; from += (unsigned long)n - len + 1) {
			n = pread(memory, block, to - from < sizeof block ?
			    to - from : sizeof block, (off_t)from);
			if (n < (ssize_t)len)
				break;
			if (from + (unsigned long)n <= mine ||
			    mine + sizeof block <= from)
				found += count(block, (size_t)n, masked, len);
		}
	}
	fclose(maps);
	close(memory);
	return found;
}

/* AUTH PLAIN with a response that is gone when it has been used. */
static void
leave_nothing(struct bench *b, struct auth *a, int code)
{
	/* base64 of "\0joe\0hunter2hunter2", and its "hunter2hunter2". */
	char response[] = "AGpvZQBodW50ZXIyaHVudGVyMg==";
	char word[] = "hunter2hunter2";
	char masked[sizeof word], whole[sizeof response];
	size_t i;

	for (i = 0; i < sizeof word; i++)
		masked[i] = (char)(word[i] ^ 0x55);
	for (i = 0; i < sizeof response; i++)
		whole[i] = (char)(response[i] ^ 0x55);
	cr_assert_gt(copies(masked, sizeof word - 1), 0);
	cr_assert_gt(copies(whole, sizeof response - 1), 0);
	explicit_bzero(word, sizeof word);
	cr_assert_eq(copies(masked, sizeof word - 1), 0);
	cr_assert_eq(step(b, a, "PLAIN", response), code);
	explicit_bzero(response, sizeof response);
	cr_assert_eq(copies(masked, sizeof word - 1), 0);
	cr_assert_eq(copies(whole, sizeof response - 1), 0);
}

Test(auth, credentials_are_wiped)
{
	static const char *const script[] = { "<", "<", HANDSHAKE, "<",
	    ">FAIL\t1\tuser=joe\n", NULL };
	struct bench *b = bench_open();
	struct auth *a = open_file(b);

	leave_nothing(b, a, 535);
	auth_close(a);
	bench_save(b, "check", "#!/bin/sh\nexit 1\n", 0700);
	a = open_auth(b, "checkpassword", "check");
	leave_nothing(b, a, 535);
	auth_close(a);
	bench_peer(b, "\n", script);
	a = open_auth(b, "dovecot", "socket");
	leave_nothing(b, a, 535);
	auth_close(a);
	bench_close(b);
}

/* ---- checkpassword ---- */

Test(auth, checkpassword_is_called_as_agreed)
{
	struct bench *b = bench_open();
	struct auth *a;
	char script[1024], message[64];
	FILE *f;

	snprintf(script, sizeof script, "#!/bin/sh\ncat <&3 >%s/message\n"
	    "tr '\\0' '\\n' </proc/$$/environ >%s/environ\n"
	    "echo \"$#|$1|$2|$3|$4\" >%s/argv\n"
	    "for f in /proc/$$/fd/*; do echo ${f##*/} >>%s/fds; done\n"
	    "for n in 0 1 2; do\n"
	    "test /proc/$$/fd/$n -ef /dev/null && echo $n >>%s/null\ndone\n"
	    "echo noise; echo noise >&2\nshift 3\nexec \"$@\"\n", b->dir,
	    b->dir, b->dir, b->dir, b->dir);
	bench_save(b, "check", script, 0700);
	/* Somebody's descriptor without FD_CLOEXEC. */
	cr_assert_eq(dup2(STDERR_FILENO, 77), 77);
	a = open_auth(b, "checkpassword", "check one  $(two) 'three");
	cr_assert_str_eq(auth_mechanisms(a, &b->env), "PLAIN LOGIN");
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret ;'")), 235);
	cr_assert_str_eq(b->user, "joe");
	f = fopen(bench_path(b, "message"), "r");
	cr_assert_not_null(f);
	cr_assert_eq(fread(message, 1, sizeof message, f), 15);
	cr_assert_eq(memcmp(message, "joe\0secret ;'\0\0", 15), 0);
	fclose(f);
	cr_assert_str_eq(bench_load(b, "argv"),
	    "4|one|$(two)|'three|/bin/true\n");
	cr_assert_str_eq(bench_load(b, "environ"),
	    "PATH=/usr/local/bin:/usr/bin:/bin\n");
	cr_assert(strstr(bench_load(b, "fds"), "2\n3\n"));
	cr_assert_null(strstr(b->text, "77\n"));
	cr_assert_str_eq(bench_load(b, "null"), "0\n1\n2\n");
	auth_close(a);
	bench_close(b);
}

Test(auth, checkpassword_says)
{
	static const struct {
		const char *script;
		int code;
		const char *log;
	} rows[] = {
		{ "#!/bin/sh\nexit 0\n", 235, "" },
		{ "#!/bin/sh\nexit 1\n", 535, "" },
		{ "#!/bin/sh\nexit 2\n", 454, "exit status 2" },
		{ "#!/bin/sh\nexit 111\n", 454, "exit status 111" },
		{ "#!/bin/sh\nexit 77\n", 454, "exit status 77" },
		{ "#!/bin/sh\nkill -9 $$\n", 454, "killed by signal 9" },
		{ "#!/no/such/interpreter\n", 454, "No such file" },
		{ "not a program", 454, "Exec format" },
	};
	struct bench *b = bench_open();
	struct auth *a;
	size_t i;

	for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		b->log[0] = '\0';
		bench_save(b, "check", rows[i].script, 0700);
		a = open_auth(b, "checkpassword", "check");
		cr_expect_eq(step(b, a, "PLAIN", B64("\0joe\0secret")),
		    rows[i].code, "%s: %d", rows[i].script, b->v.code);
		cr_expect(rows[i].log[0] == '\0' ? b->log[0] == '\0' :
		    strstr(b->log, rows[i].log) != NULL, "%s: %s",
		    rows[i].script, b->log);
		cr_expect_null(strstr(b->log, "secret"));
		auth_close(a);
	}
	cr_assert_eq(chmod(bench_path(b, "check"), 0600), 0);
	a = open_auth(b, "checkpassword", "check");
	cr_assert_eq(step(b, a, "LOGIN", B64("joe")), 334);
	cr_assert_eq(step(b, a, NULL, B64("secret")), 454);
	cr_assert(strstr(b->log, "Permission denied"));
	auth_close(a);
	bench_close(b);
}

/* As any program of ours: no signal is ignored or blocked in it. */
Test(auth, checkpassword_has_every_signal_s_default)
{
	struct bench *b = bench_open();
	struct auth *a;
	int n;

	bench_save(b, "check", "#!/bin/sh\n"
	    "grep -E '^Sig(Ign|Blk)' /proc/self/status >${0%/*}/signals\n"
	    "exit 0\n", 0700);
	for (n = SIGRTMIN; n <= SIGRTMAX; n++)
		signal(n, SIG_IGN);
	a = open_auth(b, "checkpassword", "check");
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 235);
	cr_assert_str_eq(bench_load(b, "signals"), "SigBlk:\t0000000000000000\n"
	    "SigIgn:\t0000000000000000\n");
	auth_close(a);
	bench_close(b);
}

/* The program and its children have ended. */
Test(auth, checkpassword_that_hangs_is_killed)
{
	struct bench *b = bench_open();
	struct auth *a;
	struct pollfd gone = { .events = POLLIN };
	char script[256], c;
	int fd;

	cr_assert_eq(mkfifo(bench_path(b, "alive"), 0600), 0);
	fd = open(bench_path(b, "alive"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	gone.fd = fd;
	snprintf(script, sizeof script, "#!/bin/sh\nexec 9>%s/alive\n"
	    "sleep 1000 & wait\n", b->dir);
	bench_save(b, "check", script, 0700);
	a = open_auth(b, "checkpassword", "check");
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert(strstr(b->log, "stopped, as it took too long"));
	/* End of file: nobody has the other end open any more. */
	cr_assert_eq(poll(&gone, 1, 60000), 1);
	cr_assert_eq(read(fd, &c, 1), 0);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
	auth_close(a);
	bench_close(b);
}

Test(auth, checkpassword_gets_no_more_than_512_octets)
{
	struct bench *b = bench_open();
	struct auth *a;
	char text[600];

	bench_save(b, "check", "#!/bin/sh\nexit 0\n", 0700);
	a = open_auth(b, "checkpassword", "check");
	memset(text, 'a', sizeof text);
	memcpy(text, "\0joe\0", 5);
	cr_assert_eq(step(b, a, "PLAIN", base64(text, 5 + 506)), 235);
	cr_assert_eq(step(b, a, "PLAIN", base64(text, 5 + 507)), 535);
	auth_close(a);
	bench_close(b);
}
