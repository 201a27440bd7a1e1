/*
 * relay_test.c - verdicts, the spool, the RELAY argument, discard:, error: and
 * routes.  What goes to several next hops has a suite of its own,
 * fanout_test.c; so have programs, program_test.c, and print: and maildir:,
 * folder_test.c.
 */
#include <sys/stat.h>

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay.h"
#include "t/fakes/world.h"

TestSuite(relay, .init = world_begin, .fini = world_end, .timeout = 120);

/* ---- Verdicts, log and time ---- */

Test(relay, verdict_is_one_safe_reply)
{
	static const struct {
		int code;
		const char *enh, *text, *want_enh, *want;
	} cases[] = {
		{ 250, "2.0.0", "fine", "2.0.0", "fine" },
		{ 550, "2.0.0", "class must match", "5.0.0",
		    "class must match" },
		{ 250, "", "none", "", "none" },
		{ 250, "2.0.0 x", "no code", "2.0.0", "no code" },
		{ 250, "2.0", "no code", "2.0.0", "no code" },
		{ 250, "2.1234.0", "no code", "2.0.0", "no code" },
		{ 250, "2..0", "no code", "2.0.0", "no code" },
		{ 250, "2.0.", "no code", "2.0.0", "no code" },
		{ 250, "2.0.1234", "no code", "2.0.0", "no code" },
		{ 250, "25.0.0", "no code", "2.0.0", "no code" },
		{ 350, "3.0.0", "no code", "", "no code" },
		{ 250, "2.123.456", "ok", "2.123.456", "ok" },
		{ 250, "2.0.0", "a\r\nb\nc", "2.0.0", "a\nb\nc" },
		{ 250, "2.0.0", "a\rb\033[2J\001\177", "2.0.0", "a?b?[2J??" },
		{ 250, "2.0.0", "end\r\n\n", "2.0.0", "end" },
		{ 250, "2.0.0", "gr\303\274n \342\202\254 \360\237\223\254",
		    "2.0.0", "gr\303\274n \342\202\254 \360\237\223\254" },
		{ 250, "2.0.0", "C1 \302\233 bad \303( \377 \355\240\200",
		    "2.0.0", "C1 ?? bad ?( ? ???" },
		{ 250, "2.0.0", "overlong \300\257 \340\200\257 cut \342\202",
		    "2.0.0", "overlong ?? ??? cut ??" },
		{ 250, "2.0.0", "beyond \364\220\200\200 \365",
		    "2.0.0", "beyond ???? ?" },
	};
	struct reply v;
	size_t i;

	for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		reply_printf(&v, cases[i].code, cases[i].enh, "%s",
		    cases[i].text);
		expect(&v, cases[i].code, cases[i].want_enh, cases[i].want);
	}
}

Test(relay, verdict_may_be_made_from_itself)
{
	struct reply v;

	reply_printf(&v, 550, "5.1.1", "no %s", "such user");
	reply_printf(&v, v.code, v.enh, "<a>: %s", v.text);
	expect(&v, 550, "5.1.1", "<a>: no such user");
}

Test(relay, verdict_is_cut_at_its_size)
{
	char text[3 * REPLY_TEXT];
	struct reply v;

	memset(text, 'x', sizeof text);
	text[sizeof text - 1] = '\0';
	reply_printf(&v, 550, "5.0.0", "%s", text);
	cr_assert_eq(strlen(v.text), REPLY_TEXT - 1);
}

Test(relay, log_texts_have_no_control_character_but_newlines)
{
	struct logger none = { NULL, NULL };

	logger_printf(&set.log, LOG_INFO, "event", NULL, "a\nb\033%s", "\r");
	cr_assert_str_eq(journal, "event a\nb??\n");
	logger_printf(&none, LOG_INFO, "event", NULL, "nobody listens");
}

Test(relay, clock_left_is_what_is_left)
{
	int64_t now = clock_now();

	cr_assert_eq(clock_left(now - 1), 0);
	cr_assert_eq(clock_left(now + (int64_t)INT_MAX * 2), INT_MAX);
	cr_assert_gt(clock_left(now + 1000000), 0);
	cr_assert_leq(clock_left(now + 1000000), 1000000);
	cr_assert_geq(clock_now(), now);
}

/* ---- The spool ---- */

static void
expect_file(int fd, const char *text, size_t len)
{
	char *p = malloc(len + 1);

	cr_assert_eq(lseek(fd, 0, SEEK_CUR), 0, "it is not rewound");
	cr_assert_eq(pread(fd, p, len + 1, 0), (ssize_t)len);
	cr_assert_eq(memcmp(p, text, len), 0);
	free(p);
}

Test(relay, spool_turns_crlf_into_lf_however_it_is_cut)
{
	static const char in[] = "a\r\n\r\n\rb\r\r\nc\n\r\r\n\n\r";
	static const char out[] = "a\n\n\rb\r\nc\n\r\n\n\r";
	struct spool *s = malloc(sizeof *s);
	size_t len = sizeof in - 1, step, i;

	for (step = 1; step <= len; step++) {
		spool_open(s, SPOOL_LF, NULL, NULL);
		for (i = 0; i < len; i += step)
			spool_write(s, in + i, i + step < len ? step : len - i);
		cr_assert_gt(spool_finish(s), 0);
		expect_file(s->fd, out, sizeof out - 1);
		cr_assert_eq(s->size, len);
		cr_assert_eq(s->stored, sizeof out - 1);
		spool_close(s);

		spool_open(s, SPOOL_CRLF, NULL, NULL);
		for (i = 0; i < len; i += step)
			spool_write(s, in + i, i + step < len ? step : len - i);
		expect_file(spool_finish(s), in, len);
		spool_close(s);
	}
	free(s);
}

/* "memfd:spool (deleted)", "/tmp/... (deleted)". */
static const char *
where(int fd)
{
	static char name[256];
	char link[64];
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, name, sizeof name - 1);
	cr_assert(n > 0);
	name[n] = '\0';
	return name;
}

Test(relay, spool_is_memory_up_to_its_limit_and_a_file_beyond)
{
	struct spool *s = malloc(sizeof *s);
	char *text = malloc(SPOOL_MEMORY * 2);
	struct stat st;
	size_t i;

	for (i = 0; i < SPOOL_MEMORY * 2; i++)
		text[i] = (char)(i * 7 + i / 251);
	spool_open(s, SPOOL_CRLF, NULL, NULL);
	for (i = 0; i < SPOOL_MEMORY; i += 4096)
		spool_write(s, text + i, 4096);
	expect_file(spool_finish(s), text, SPOOL_MEMORY);
	cr_assert(strstr(where(s->fd), "memfd:") != NULL);
	lseek(s->fd, 0, SEEK_END);
	for (; i < SPOOL_MEMORY + 100; i++)
		spool_write(s, text + i, 1);
	expect_file(spool_finish(s), text, SPOOL_MEMORY + 100);
	cr_assert_eq(strncmp(where(s->fd), tmp, strlen(tmp)), 0);
	fstat(s->fd, &st);
	cr_assert_eq(st.st_nlink, 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	spool_close(s);

	/* More than memory may hold, in one piece. */
	spool_open(s, SPOOL_CRLF, NULL, NULL);
	spool_write(s, text, SPOOL_MEMORY * 2);
	expect_file(spool_finish(s), text, SPOOL_MEMORY * 2);
	cr_assert(strstr(where(s->fd), "memfd:") == NULL);
	spool_close(s);
	free(text);
	free(s);
}

static int
refuse_file(void *ctx)
{
	++*(int *)ctx;
	errno = EDQUOT;
	return -1;
}

Test(relay, spool_remembers_its_first_error)
{
	struct spool *s = malloc(sizeof *s);
	char *text = calloc(1, SPOOL_MEMORY + 1);
	int calls = 0;

	spool_open(s, SPOOL_CRLF, refuse_file, &calls);
	spool_write(s, text, SPOOL_MEMORY);
	cr_assert_eq(s->error, 0);
	spool_write(s, text, SPOOL_MEMORY);
	spool_write(s, text, SPOOL_MEMORY);
	spool_write(s, text, 1);
	cr_assert_eq(s->error, EDQUOT);
	cr_assert_eq(spool_finish(s), -1);
	cr_assert_eq(s->error, EDQUOT);
	cr_assert_eq(calls, 1);
	cr_assert_eq(s->size, 3UL * SPOOL_MEMORY + 1);
	spool_close(s);
	free(text);
	free(s);
}

Test(relay, spool_of_nothing_counts_and_an_empty_one_is_a_file)
{
	struct spool *s = calloc(1, sizeof *s);

	spool_close(s);		/* legal on a zeroed one */
	spool_open(s, SPOOL_NONE, NULL, NULL);
	spool_write(s, "abc\r\n", 5);
	spool_write(s, "d", 1);
	cr_assert_eq(spool_finish(s), -1);
	cr_assert_eq(s->error, 0);
	cr_assert_eq(s->size, 6);
	cr_assert_eq(s->stored, 0);
	spool_close(s);
	spool_open(s, SPOOL_LF, NULL, NULL);
	expect_file(spool_finish(s), "", 0);
	spool_close(s);
	spool_close(s);
	free(s);
}

Test(relay, spool_file_says_why_not)
{
	setenv("TMPDIR", in_dir("none"), 1);
	cr_assert_eq(spool_file(NULL), -1);
	cr_assert_eq(errno, ENOENT);
}

/* ---- The RELAY argument ---- */

Test(relay, a_senseless_relay_is_one_sentence)
{
	static const struct {
		const char *spec, *want;
	} cases[] = {
		{ "print", "print: unknown transport" },
		{ "", "unknown transport" },
		{ ":", "unknown transport" },
		{ "pri:", "unknown transport" },
		{ "printer:x", "unknown transport" },
		{ "PRINT:", "unknown transport" },
		{ "maildir:", "needs a folder" },
		{ "smtp:", "needs a host or a socket" },
		{ "lmtp:", "needs a host or a socket" },
		{ "smtps:unix:/run/mx", "cannot verify a unix socket: unix" },
		{ "smtps:mx.example.net,unix:mx",
		    "cannot verify a unix socket: unix:mx" },
		{ "error:2.0.0 fine", "4.y.z or 5.y.z" },
		{ "error:9.9.9 what", "4.y.z or 5.y.z" },
		{ "error:5.1 what", "4.y.z or 5.y.z" },
		{ "error:5.1.1234 what", "4.y.z or 5.y.z" },
		{ "error:5.1.1text", "4.y.z or 5.y.z" },
	};
	char error[256];
	size_t i;

	for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		set.spec = cases[i].spec;
		*error = '\0';
		cr_assert(relay_open(&set, error, sizeof error) == NULL, "%s",
		    cases[i].spec);
		cr_assert(strstr(error, cases[i].want) != NULL, "%s: %s",
		    cases[i].spec, error);
		cr_assert(strchr(error, '\n') == NULL);
	}
	cr_assert_eq(entries("/proc/self/fd"), descriptors);
}

Test(relay, a_senseless_program_is_one_sentence)
{
	char *nothing[] = { NULL }, *empty[] = { (char[]){ "" }, NULL };
	char name[] = "/bin/{user}", arg[] = "-f{sendr}", good[] = "{x";
	char *named[] = { name, NULL };
	char *unknown[] = { (char[]){ "/bin/true" }, good, arg, NULL };
	char error[256];

	set.program = nothing;
	cr_assert(relay_open(&set, error, sizeof error) == NULL);
	cr_assert_str_eq(error, "no program is named");
	set.program = empty;
	cr_assert(relay_open(&set, error, sizeof error) == NULL);
	set.program = named;
	cr_assert(relay_open(&set, error, sizeof error) == NULL);
	cr_assert_str_eq(error, "{user} cannot be the program");
	set.program = unknown;
	cr_assert(relay_open(&set, error, sizeof error) == NULL);
	cr_assert_str_eq(error, "{sendr} is not a name that can be replaced");
}

Test(relay, form_and_dsn_follow_the_relay)
{
	static const struct {
		const char *spec;
		enum spool_form form, crlf;
		bool dsn, screens;
	} cases[] = {
		{ "print:", SPOOL_LF, SPOOL_LF, false, false },
		{ "discard:", SPOOL_NONE, SPOOL_NONE, false, false },
		{ "error:no", SPOOL_NONE, SPOOL_NONE, false, true },
		{ "maildir:x", SPOOL_LF, SPOOL_CRLF, false, false },
		{ "smtp:[h]", SPOOL_CRLF, SPOOL_CRLF, true, false },
		{ "smtps:h:465", SPOOL_CRLF, SPOOL_CRLF, true, false },
		{ "lmtp:unix:/x", SPOOL_CRLF, SPOOL_CRLF, true, false },
		{ NULL, SPOOL_LF, SPOOL_CRLF, true, false },
	};
	char error[256], *argv[] = { (char[]){ "true" }, NULL };
	struct relay *r;
	size_t i;

	for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		set.spec = cases[i].spec;
		set.program = argv;
		set.crlf = false;
		set.routes = NULL;
		r = relay_open(&set, error, sizeof error);
		cr_assert(r != NULL, "%s", error);
		cr_assert_eq(relay_form(r), cases[i].form);
		cr_assert_eq(relay_dsn(r), cases[i].dsn);
		cr_assert_eq(relay_screens(r), cases[i].screens);
		set.crlf = true;
		cr_assert_eq(relay_form(r), cases[i].crlf);
		set.routes = "/etc/none";
		cr_assert_eq(relay_form(r), SPOOL_CRLF);
		cr_assert(relay_screens(r));
		relay_close(r);
	}
	relay_close(NULL);
}

/* ---- discard: and error: ---- */

Test(relay, discard_accepts)
{
	struct reply v = relay_to("discard:");

	expect(&v, 250, "2.0.0", "Message accepted, id Q1");
	env.fact[FACT_QUEUE_ID] = "";
	v = relay_to("discard:");
	expect(&v, 250, "2.0.0", "Message accepted");
}

Test(relay, error_refuses_with_its_text_at_rcpt_and_after)
{
	static const struct {
		const char *spec;
		int code;
		const char *enh, *text;
	} cases[] = {
		{ "error:4.3.0 later", 451, "4.3.0", "later" },
		{ "error:5.1.1 no such user", 550, "5.1.1", "no such user" },
		{ "error:5.7.1", 550, "5.7.1",
		    "Mail is not accepted for this address" },
		{ "error:mailbox moved", 550, "5.0.0", "mailbox moved" },
		{ "error:", 550, "5.0.0",
		    "Mail is not accepted for this address" },
	};
	struct reply v;
	struct relay *r;
	char error[256];
	size_t i;

	for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		set.spec = cases[i].spec;
		r = relay_open(&set, error, sizeof error);
		reply_set(&v, 250, "2.1.5", "OK");
		relay_rcpt(r, &env, &v);
		expect(&v, cases[i].code, cases[i].enh, cases[i].text);
		relay_close(r);
		v = relay_to(cases[i].spec);
		expect(&v, cases[i].code, cases[i].enh, cases[i].text);
	}
}

/* ---- Routes ---- */

static const char map[] =
    "# made by Mailman\n"
    "\n"
    "list@example.org        error:5.0.1 list\n"
    "list-bounces@example.org\n"
    "   # a comment in between\n"
    "\n"
    "\terror:5.0.2\n"
    "  bounces\n"
    "list+own@example.org error:5.0.3 own detail\n"
    "LIST@example.org error:5.0.9 a second one is not used\n"
    "Example.COM error:5.0.4 domain\n"
    ".example.com error:5.0.5 parent\n"
    ".sub.example.com error:5.0.6 nearer parent\n"
    "usual@example.com :\n"
    "plain error:5.0.9 not an address\n"
    "/^regexp-bounces(\\+.*)?@example\\.org$/  error:5.0.7 pattern\n"
    "/^Exact@example\\.org$/i error:5.0.8 case matters\n"
    "/slash\\/(a|b)@/ error:5.0.10 slash\n"
    "/plus\\+(x)@/x error:5.0.11 basic\n"
    "quoted@example.net error:5.0.12 quoted\n"
    "a@b@example.net error:5.0.13 two\n"
    "\"john doe\"@example.net error:5.0.14 a blank\n"
    "/^secret@example\\.net$/ error:5.0.15 every spelling\n";

static struct reply
ask(struct relay *r, const char *address)
{
	struct reply v;

	to[0].address = address;
	reply_set(&v, 250, "2.1.5", "OK");
	relay_rcpt(r, &env, &v);
	return v;
}

/* The route of an address by its enhanced code; 2.1.5: it has none. */
static const struct {
	const char *address, *enh;
} found[] = {
	{ "list@example.org", "5.0.1" },
	{ "List@Example.Org", "5.0.1" },
	{ "list+detail@example.org", "5.0.1" },
	{ "list+own@example.org", "5.0.3" },
	{ "list-bounces@example.org", "5.0.2" },
	{ "list-bounces+joe=example.net@example.org", "5.0.2" },
	{ "list-other@example.org", "2.1.5" },
	{ "+list@example.org", "2.1.5" },
	{ "list", "2.1.5" },
	{ "plain", "2.1.5" },
	{ "example.com", "2.1.5" },
	{ "any@example.com", "5.0.4" },
	{ "usual@example.com", "2.1.5" },
	{ "usual+x@example.com", "2.1.5" },
	{ "any@a.example.com", "5.0.5" },
	{ "any@a.b.sub.example.com", "5.0.6" },
	{ "any@sub.example.com", "5.0.5" },
	{ "any@notexample.com", "2.1.5" },
	{ "any@", "2.1.5" },
	{ "@", "2.1.5" },
	{ "regexp-bounces@example.org", "5.0.7" },
	{ "REGEXP-bounces+x@example.org", "5.0.7" },
	{ "regexp-bounces+x@examplexorg", "2.1.5" },
	{ "exact@example.org", "2.1.5" },
	{ "Exact@example.org", "5.0.8" },
	{ "slash/b@example.org", "5.0.10" },
	{ "plus(x)@example.org", "5.0.11" },
	{ "plusx@example.org", "2.1.5" },
	{ "\"quoted\"@example.net", "5.0.12" },
	{ "\"john doe\"@Example.NET", "5.0.14" },
	{ "\"john\\ doe\"@example.net", "5.0.14" },
	{ "secret@example.net", "5.0.15" },
	{ "\"secret\"@example.net", "5.0.15" },
	{ "\"s\\ecret\"@EXAMPLE.net", "5.0.15" },
	{ "\"quo\\ted\"@example.net", "5.0.12" },
	{ "\"a@b\"@example.net", "5.0.13" },
	{ "\"@example.net", "2.1.5" },
	/* It has no domain: that is in its local part. */
	{ "\"secret@example.net\"", "2.1.5" },
	{ "\"any@example.com\"", "2.1.5" },
};

Test(relay, routes_are_found_as_transport_5_says)
{
	char error[256];
	struct relay *r;
	struct reply v;
	size_t i;

	write_file(in_dir("map"), map, 0644);
	set.routes = in_dir("map");
	set.spec = "discard:";
	r = relay_open(&set, error, sizeof error);
	cr_assert_eq(entries("/proc/self/fd"), descriptors + 1);
	unlink(set.routes);	/* it is open, and need not be found again */
	for (i = 0; i < sizeof found / sizeof found[0]; i++) {
		v = ask(r, found[i].address);
		cr_assert_str_eq(v.enh, found[i].enh, "%s: %s %s\n%s",
		    found[i].address, v.enh, v.text, journal);
	}
	v = ask(r, "list-bounces@example.org");
	expect(&v, 550, "5.0.2", "bounces");
	v = ask(r, "list@example.org");
	expect(&v, 550, "5.0.1", "list");
	relay_close(r);
	cr_assert_str_eq(journal, "");
}

Test(relay, a_star_takes_what_nothing_else_takes)
{
	char error[256];
	struct relay *r;
	struct reply v;

	write_file(in_dir("map"), "a@example.org :\n* error:4.0.1 rest", 0644);
	set.routes = in_dir("map");
	set.spec = "discard:";
	r = relay_open(&set, error, sizeof error);
	v = ask(r, "a@example.org");
	cr_assert_eq(v.code, 250);
	v = ask(r, "b@example.org");
	expect(&v, 451, "4.0.1", "rest");
	v = ask(r, "b");
	expect(&v, 451, "4.0.1", "rest");
	relay_close(r);
}

static const struct {
	const char *map, *want;
} broken_routes[] = {
	{ "a@example.org\n", "map: line 1: missing TRANSPORT:NEXTHOP" },
	{ "# x\n\na@example.org discard:\nb frob:x\n",
	    "map: line 4: frob:x: unknown transport" },
	{ "a error:1\nb\n error\n", "map: line 2: error: unknown" },
	{ "  a@example.org discard:\n",
	    "map: line 1: indented line has no line before it" },
	{ "a maildir:\n", "map: line 1: maildir: needs a folder" },
	{ "a lmtp:\n", "map: line 1: lmtp: needs a host" },
	{ "a :[h]:25\n", "map: line 1: :[h]:25: missing transport" },
	{ "/^a discard:\n", "map: line 1: pattern without its last /" },
	{ "/a(/ discard:\n", "map: line 1: Unmatched (" },
	{ "/a/q discard:\n", "map: line 1: unknown flag q" },
	{ "/(a)\\\\\\1/ discard:\n", "map: line 1: back-references (\\1)" },
	{ "/(a)/ smtp:$1\n", "map: line 1: $ is not replaced" },
	{ "/a/\n", "map: line 1: missing TRANSPORT:NEXTHOP" },
	{ "!/a/ discard:\n", "map: line 1: negated patterns are not" },
	{ "if /a/\nendif\n", "map: line 1: /a/: unknown transport" },
	{ "a error:2.0.0 x\n", "map: line 1: error:2.0.0 x: the status" },
	{ "a error:450 later\n", "map: line 1: error:450 later: the status" },
	{ "a error:550\n", "map: line 1: error:550: the status" },
	/* What no recipient can match. */
	{ "b@example.net: discard:\n",
	    "map: line 1: b@example.net:: not an" },
	{ "\xef\xbb\xbf" "a@example.org discard:\n",
	    "map: line 1: \xef\xbb\xbf" "a@example.org: the file begins with" },
	{ "@example.org discard:\n", "map: line 1: @example.org: no local" },
	{ "a@example.org, discard:\n",
	    "map: line 1: a@example.org,: not an" },
	{ "a@ discard:\n", "map: line 1: a@: not an address" },
	{ "example.org. discard:\n", "map: line 1: example.org.: not an" },
	{ "a@.example.org discard:\n", "map: line 1: a@.example.org: not" },
	{ "example..org discard:\n", "map: line 1: example..org: not an" },
	{ "a@-example.org discard:\n", "map: line 1: a@-example.org: not" },
	{ "[example.org] discard:\n", "map: line 1: [example.org]: not an" },
	{ "a@[192.0.2] discard:\n", "map: line 1: a@[192.0.2]: not an" },
	{ ".[192.0.2.1] discard:\n", "map: line 1: .[192.0.2.1]: not an" },
	{ "a@example.\xff discard:\n", "map: line 1: " },
	{ "\"john doe@example.org discard:\n",
	    "map: line 1: \"john doe@example.org discard:: not an address" },
	{ "*@example.org discard:\n", "map: line 1: *@example.org: a domain "
	    "stands alone" },
	{ "\"a\tb\"@example.org discard:\n",
	    "map: line 1: a?b@example.org: no address has a control" },
	/* A hop that was refused once is refused again. */
	{ "a smtps:unix:/x\nb smtps:unix:/x\n",
	    "map: line 2: smtps: cannot" },
	{ "a program:\n", "map: line 1: program:: unknown transport" },
	{ "a discard:x\n", "map: line 1: discard:x: nothing may follow" },
};

Test(relay, a_broken_route_defers_all_mail_and_is_named)
{
	char error[256];
	struct relay *r;
	struct reply v;
	size_t i;

	set.spec = "discard:";
	for (i = 0; i < sizeof broken_routes / sizeof broken_routes[0]; i++) {
		write_file(in_dir("map"), broken_routes[i].map, 0644);
		set.routes = in_dir("map");
		r = relay_open(&set, error, sizeof error);
		cr_assert(r != NULL);
		v = ask(r, "z@example.net");
		expect(&v, 451, "4.3.5", "Local configuration error");
		cr_assert(logged(broken_routes[i].want), "%s\n%s",
		    broken_routes[i].map,
		    journal);
		v = ask(r, "z@example.net");
		expect(&v, 451, "4.3.5", "Local configuration error");
		relay_close(r);
		v = relay_to("discard:");
		expect(&v, 451, "4.3.5", "Local configuration error");
		journal_forget();
	}
}

Test(relay, routes_that_cannot_be_read_defer)
{
	int fd = open(in_dir("map"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct reply v;

	set.routes = in_dir("none");
	v = relay_to("discard:");
	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("none: No such file or directory\n"));
	set.routes = dir;
	v = relay_to("discard:");
	expect(&v, 451, "4.3.5", "Local configuration error");
	set.routes = in_dir("map");
	v = relay_to("discard:");	/* empty is fine */
	expect(&v, 250, "2.0.0", "Message accepted, id Q1");
	cr_assert_eq(write(fd, "a discard:\n\0x", 13), 13);
	close(fd);
	v = relay_to("discard:");
	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("map: not a text file: it has a NUL\n"));
}

Test(relay, routed_recipients_go_where_they_are_sent)
{
	char *text, routes[512], box[128];
	struct reply v;

	snprintf(routes, sizeof routes, "example.net maildir:%s/box\n"
	    "example.com print:%s/out\n", dir, dir);
	write_file(in_dir("map"), routes, 0644);
	set.routes = in_dir("map");
	env.nrecipients = 3;
	v = relay_to("error:5.1.1 nobody else");
	expect(&v, 250, "2.0.0", "Message accepted, id Q1");
	snprintf(box, sizeof box, "box/new");
	text = only_file(box);
	cr_assert_str_eq(text, "Return-Path: <a@example.org>\n"
	    	    "Subject: t\n\nbody\n");
	free(text);
	text = slurp(in_dir("out"));
	cr_assert(strstr(text, "rcpt to: <c+x@example.com>\n----") != NULL);
	cr_assert(strstr(text, "Subject: t\n\nbody\n---") != NULL);
	cr_assert(strstr(text, "example.net") == NULL);
	free(text);
}

Test(relay, a_binary_message_keeps_its_octets)
{
	char *text;
	char routes[256];

	snprintf(routes, sizeof routes, "* print:%s/out\n", dir);
	write_file(in_dir("map"), routes, 0644);
	set.routes = in_dir("map");
	env.body = BODY_BINARYMIME;
	relay_to("discard:");
	text = slurp(in_dir("out"));
	cr_assert(strstr(text, "Subject: t\r\n\r\nbody\r\n---") != NULL);
	free(text);
}

Test(relay, one_refusal_stops_the_message_for_all_in_smtp)
{
	char routes[512];
	struct reply v;

	snprintf(routes, sizeof routes, "example.net error:5.1.1 moved\n"
	    "* print:%s/out\n", dir);
	write_file(in_dir("map"), routes, 0644);
	set.routes = in_dir("map");
	env.nrecipients = 3;
	v = relay_to("discard:");
	expect(&v, 550, "5.1.1", "The message was not accepted for anyone\n"
	    "Not delivered to <d@example.net>: 550 5.1.1 moved\n"
	    "Not delivered to <e@example.net>: 550 5.1.1 moved");
	cr_assert_eq(access(in_dir("out"), F_OK), -1);
}
