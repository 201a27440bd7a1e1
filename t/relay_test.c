/*
 * relay_test.c - the relay room: spool, verdicts, local relays, routes.
 *
 * Programs are real ones, mostly shell scripts in a directory of the test's
 * own.  After each test no child, no descriptor and no file may be left.
 * Fan-out to next hops has a suite of its own, t/fanout_test.c.
 */
#define _GNU_SOURCE	/* asprintf, O_TMPFILE's relatives, ptsname */
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay.h"

/* ---- The world of one test ---- */

static char dir[64];		/* the test's own directory */
static char tmp[80];		/* $TMPDIR in it: must be empty at the end */
static int descriptors;		/* open when the test began */
static char *journal;		/* what was logged: "event text\n"... */
static size_t journal_len;
static FILE *journal_file;
static struct relay_settings set;
static struct recipient to[3];
static struct envelope env;

static int
entries(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	cr_assert(d != NULL, "%s: %s", path, strerror(errno));
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n - 2;
}

static void
take_note(void *ctx, int priority, const char *event,
    const struct envelope *e, const char *text)
{
	(void)ctx;
	(void)priority;
	(void)e;
	fprintf(journal_file, "%s %s\n", event, text);
	fflush(journal_file);
}

static void
begin(void)
{
	size_t i;

	snprintf(dir, sizeof dir, "/tmp/relay.XXXXXX");
	cr_assert(mkdtemp(dir) != NULL);
	chmod(dir, 0755);
	snprintf(tmp, sizeof tmp, "%s/tmp", dir);
	mkdir(tmp, 0777);
	chmod(tmp, 0777);
	setenv("TMPDIR", tmp, 1);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	memset(&set, 0, sizeof set);
	set.fqdn = "mx.example.org";
	set.print = -1;
	set.timeout = 60;
	set.log.log = take_note;
	for (i = 0; i < FACTS; i++)
		env.fact[i] = "";
	env.fact[FACT_SENDER] = "a@example.org";
	env.fact[FACT_QUEUE_ID] = "Q1";
	to[0] = (struct recipient){ "c+x@example.com", "" };
	to[1] = (struct recipient){ "d@example.net", "NOTIFY=NEVER" };
	to[2] = (struct recipient){ "e@example.net", "" };
	env.recipients = to;
	env.nrecipients = 1;
	env.size = 12;
	journal_file = open_memstream(&journal, &journal_len);
	fflush(journal_file);
	descriptors = entries("/proc/self/fd");
}

static void
end(void)
{
	char command[128];

	cr_assert(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD,
	    "a child is left");
	cr_assert_eq(entries("/proc/self/fd"), descriptors,
	    "a descriptor is left");
	cr_assert_eq(entries(tmp), 0, "a file is left in TMPDIR");
	fclose(journal_file);
	free(journal);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(relay, .init = begin, .fini = end, .timeout = 120);

/* A path in the test's directory; good until the fourth call after. */
static char *
in_dir(const char *name)
{
	static char path[4][256];
	static unsigned i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
	return path[i];
}

static void
write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	cr_assert(fd != -1);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	fchmod(fd, mode);
	close(fd);
}

/* An executable shell script. */
static char *
script(const char *name, const char *body)
{
	char *path = in_dir(name), *text;

	cr_assert(asprintf(&text, "#!/bin/sh\n%s\n", body) > 0);
	write_file(path, text, 0755);
	free(text);
	return path;
}

/* All of a file, to be freed. */
static char *
slurp(const char *path)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = fopen(path, "r"), *m = open_memstream(&text, &len);
	int c;

	cr_assert(f != NULL, "%s: %s", path, strerror(errno));
	while ((c = getc(f)) != EOF)
		putc(c, m);
	fclose(f);
	fclose(m);
	return text;
}

/* A spool with text, in the form that r wants. */
static struct spool *
spooled(enum spool_form form, const char *text, size_t len)
{
	struct spool *s = malloc(sizeof *s);

	spool_open(s, form, NULL, NULL);
	spool_write(s, text, len);
	spool_finish(s);
	cr_assert_eq(s->error, 0, "%s", strerror(s->error));
	return s;
}

/* Relays text by set: the first recipient's verdict. */
static struct reply
relay_text(const char *text, size_t len)
{
	struct reply v[3];
	char error[256];
	struct relay *r = relay_open(&set, error, sizeof error);
	struct spool *s;

	cr_assert(r != NULL, "%s", error);
	s = spooled(relay_form(r), text, len);
	memset(v, 0, sizeof v);
	if (s->fd > 0)
		lseek(s->fd, 0, SEEK_END);
	relay_deliver(r, &env, s->fd, v);
	spool_close(s);
	free(s);
	relay_close(r);
	return v[0];
}

static struct reply
relay_to(const char *spec)
{
	set.spec = spec;
	return relay_text("Subject: t\r\n\r\nbody\r\n", 20);
}

static struct reply
relay_program(char *const argv[])
{
	set.spec = NULL;
	set.program = argv;
	return relay_text("Subject: t\r\n\r\nbody\r\n", 20);
}

static struct reply
relay_script(const char *body)
{
	char *argv[] = { script("prog", body), NULL };

	return relay_program(argv);
}

static void
expect_at(int line, const struct reply *v, int code, const char *enh,
    const char *text)
{
	cr_assert(v->code == code && strcmp(v->enh, enh) == 0 &&
	    strcmp(v->text, text) == 0,
	    "line %d: got %d %s %s\nlog: %s", line, v->code, v->enh, v->text,
	    journal);
}

#define expect(...) expect_at(__LINE__, __VA_ARGS__)

static bool
logged(const char *text)
{
	return strstr(journal, text) != NULL;
}

/* ---- Verdicts, log and time ---- */

Test(relay, verdict_is_one_safe_reply)
{
	static const struct {
		int code;
		const char *enh, *text, *want_enh, *want;
	} cases[] = {
		{ 250, "2.0.0", "fine", "2.0.0", "fine" },
		{ 550, "2.0.0", "class must match", "", "class must match" },
		{ 250, "", "none", "", "none" },
		{ 250, "2.0.0 x", "no code", "", "no code" },
		{ 250, "2.0", "no code", "", "no code" },
		{ 250, "2.1234.0", "no code", "", "no code" },
		{ 250, "2..0", "no code", "", "no code" },
		{ 250, "2.0.", "no code", "", "no code" },
		{ 250, "2.0.1234", "no code", "", "no code" },
		{ 250, "25.0.0", "no code", "", "no code" },
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
		{ "smtps:mx.example.net,unix:mx", "cannot verify a unix socket: unix:mx" },
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

/* ---- print: ---- */

Test(relay, print_shows_envelope_and_message)
{
	char *spec, *text;
	struct reply v;

	cr_assert(asprintf(&spec, "print:%s/out", dir) > 0);
	env.nrecipients = 2;
	env.fact[FACT_MAIL_OPTIONS] = "SIZE=12 BODY=8BITMIME";
	v = relay_to(spec);
	expect(&v, 250, "2.0.0", "Message accepted, id Q1");
	env.nrecipients = 1;
	env.fact[FACT_MAIL_OPTIONS] = "";
	env.fact[FACT_SENDER] = "";
	set.crlf = true;
	set.spec = spec;
	v = relay_text("no newline", 10);
	expect(&v, 250, "2.0.0", "Message accepted, id Q1");
	v = relay_text("", 0);
	text = slurp(in_dir("out"));
	cr_assert_str_eq(text,
	    "---------- MESSAGE FOLLOWS ----------\n"
	    "mail from: <a@example.org>\n"
	    "mail options: ['SIZE=12', 'BODY=8BITMIME']\n"
	    "rcpt to: <c+x@example.com>\n"
	    "rcpt to: <d@example.net>\n"
	    "rcpt options: ['NOTIFY=NEVER']\n"
	    "-------------------------------------\n"
	    "Subject: t\n\nbody\n"
	    "------------ END MESSAGE ------------\n"
	    "---------- MESSAGE FOLLOWS ----------\n"
	    "mail from: <>\n"
	    "rcpt to: <c+x@example.com>\n"
	    "-------------------------------------\n"
	    "no newline\n"
	    "------------ END MESSAGE ------------\n"
	    "---------- MESSAGE FOLLOWS ----------\n"
	    "mail from: <>\n"
	    "rcpt to: <c+x@example.com>\n"
	    "-------------------------------------\n"
	    "------------ END MESSAGE ------------\n");
	free(text);
	free(spec);
}

Test(relay, print_without_a_place_to_print_defers)
{
	struct reply v = relay_to("print:");

	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("standard error is the client"));
}

Test(relay, print_writes_to_the_descriptor_it_is_given)
{
	int p[2];
	char text[1024];
	ssize_t n;

	cr_assert_eq(pipe(p), 0);
	set.print = p[1];
	relay_to("print:");
	close(p[1]);
	n = read(p[0], text, sizeof text - 1);
	cr_assert(n > 0);
	text[n] = '\0';
	cr_assert(strstr(text, ">\n-------------------------------------\n"
	    "Subject: t\n\nbody\n------------ END") != NULL, "%s", text);
	close(p[0]);
}

Test(relay, print_waits_for_a_slow_reader_and_sees_a_dead_one)
{
	size_t len = 1 << 20, got = 0;
	char *text = malloc(len), *buffer = malloc(len);
	struct reply v;
	int p[2];
	ssize_t n;
	pid_t pid;

	memset(text, 'x', len);
	cr_assert_eq(pipe2(p, O_NONBLOCK), 0);
	set.print = p[1];
	set.spec = "print:";
	pid = fork();
	if (pid == 0) {
		v = relay_text(text, len);
		_exit(v.code == 250 ? 0 : 1);
	}
	close(p[1]);
	fcntl(p[0], F_SETFL, 0);
	while ((n = read(p[0], buffer, len)) > 0)
		got += (size_t)n;
	cr_assert_gt(got, len);
	cr_assert_eq(waitpid(pid, &p[1], 0), pid);
	cr_assert_eq(p[1], 0);
	close(p[0]);

	cr_assert_eq(pipe(p), 0);
	close(p[0]);
	set.print = p[1];
	v = relay_text(text, len);
	expect(&v, 451, "4.3.0", "Local error in processing");
	cr_assert(logged("Broken pipe"));
	close(p[1]);
	free(text);
	free(buffer);
}

Test(relay, print_shows_control_characters_to_a_terminal)
{
	static const char mail[] = "a\033[2J\tb\r\n"
	    "c\rd \302\233 \303\274\377\n";
	int main = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), side;
	struct termios mode;
	char text[1024];
	size_t len = 0;
	ssize_t n;

	cr_assert(main != -1 && grantpt(main) == 0 && unlockpt(main) == 0);
	side = open(ptsname(main), O_RDWR | O_NOCTTY | O_CLOEXEC);
	cr_assert(side != -1);
	tcgetattr(side, &mode);
	mode.c_oflag &= ~(tcflag_t)OPOST;
	tcsetattr(side, TCSANOW, &mode);
	set.print = side;
	set.spec = "print:";
	env.fact[FACT_SENDER] = "\033]0;x\007";
	relay_text(mail, sizeof mail - 1);
	close(side);
	while (len < sizeof text - 1 &&
	    (n = read(main, text + len, sizeof text - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	cr_assert(strstr(text, "mail from: <\\x1b]0;x\\x07>\n") != NULL);
	cr_assert(strstr(text, "-\na\\x1b[2J\tb\nc\\x0dd \\xc2\\x9b \303\274"
	    "\\xff\n------------ END") != NULL, "%s", text);
	cr_assert(strchr(text, '\033') == NULL);
	close(main);
}

/* Relays s to spec while files can not grow beyond 1000. */
static struct reply
relay_to_full_disk(const char *spec, struct spool *s)
{
	struct rlimit limit, small = { 1000, RLIM_INFINITY };
	struct reply v;
	struct relay *r;
	char error[256];

	set.spec = spec;
	r = relay_open(&set, error, sizeof error);
	getrlimit(RLIMIT_FSIZE, &limit);
	small.rlim_max = limit.rlim_max;
	setrlimit(RLIMIT_FSIZE, &small);
	relay_deliver(r, &env, s->fd, &v);
	setrlimit(RLIMIT_FSIZE, &limit);
	relay_close(r);
	return v;
}

Test(relay, print_to_a_full_file_leaves_nothing_of_the_message)
{
	char *spec, *text, *big = calloc(1, 5000);
	struct reply v = relay_to("print:/dev/full");
	struct spool *s = spooled(SPOOL_LF, big, 5000);

	expect(&v, 452, "4.3.1", "Insufficient system storage");
	cr_assert(asprintf(&spec, "print:%s/out", dir) > 0);
	write_file(in_dir("out"), "before\n", 0600);
	v = relay_to_full_disk(spec, s);
	expect(&v, 452, "4.3.1", "Insufficient system storage");
	text = slurp(in_dir("out"));
	cr_assert_str_eq(text, "before\n");
	free(text);
	free(spec);
	spool_close(s);
	free(s);
	free(big);
}

Test(relay, print_to_what_can_not_be_opened_defers)
{
	char *spec;
	struct reply v = relay_to("print:/none/such/file");

	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("print:/none/such/file: No such file"));
	mkfifo(in_dir("fifo"), 0600);
	cr_assert(asprintf(&spec, "print:%s/fifo", dir) > 0);
	v = relay_to(spec);	/* nobody reads it: must not hang */
	expect(&v, 451, "4.3.5", "Local configuration error");
	free(spec);
}

Test(relay, print_waits_for_whoever_has_locked_the_file)
{
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int ready[2], over[2], fd;
	char *spec, *text, c;
	struct reply v;
	pid_t pid;

	cr_assert(pipe(ready) == 0 && pipe(over) == 0);
	write_file(in_dir("out"), "theirs\n", 0600);
	pid = fork();
	if (pid == 0) {
		close(over[1]);
		fd = open(in_dir("out"), O_RDWR);
		if (fcntl(fd, F_SETLK, &all) == -1 ||
		    write(ready[1], "", 1) != 1)
			_exit(1);
		_exit(read(over[0], &c, 1) != 0);
	}
	cr_assert_eq(read(ready[0], &c, 1), 1);
	cr_assert(asprintf(&spec, "print:%s/out", dir) > 0);
	set.timeout = 1;
	v = relay_to(spec);
	expect(&v, 451, "4.3.0", "Local error in processing");
	text = slurp(in_dir("out"));
	cr_assert_str_eq(text, "theirs\n");
	free(text);
	close(over[0]);
	close(over[1]);
	close(ready[0]);
	close(ready[1]);
	cr_assert_eq(waitpid(pid, &fd, 0), pid);
	cr_assert_eq(fd, 0);
	v = relay_to(spec);
	expect(&v, 250, "2.0.0", "Message accepted, id Q1");
	free(spec);
}

enum { PROCESSES = 4, MESSAGES = 25, LEN = 20000 };

/* Prints as set.spec says from several processes at once. */
static void
print_at_once(pid_t pid[PROCESSES])
{
	char *message = malloc(LEN);
	int i, k;

	for (i = 0; i < PROCESSES; i++) {
		memset(message, 'a' + i, LEN);
		pid[i] = fork();
		if (pid[i] != 0)
			continue;
		for (k = 0; k < MESSAGES; k++)
			if (relay_text(message, LEN).code != 250)
				_exit(1);
		_exit(0);
	}
	free(message);
}

/* Each of them printed, and no message is inside another. */
static void
expect_whole(const pid_t pid[PROCESSES], const char *p)
{
	int i, status, seen = 0;

	for (i = 0; i < PROCESSES; i++) {
		cr_assert_eq(waitpid(pid[i], &status, 0), pid[i]);
		cr_assert_eq(status, 0);
	}
	for (; *p != '\0'; seen++) {
		cr_assert_eq(strncmp(p, "---------- MESSAGE", 18), 0);
		p = strstr(p, "---\n") + 4;
		p = strstr(p, "---\n") + 4;
		for (i = 1; i < LEN; i++)
			cr_assert_eq(p[i], p[0]);
		p += LEN;
		cr_assert_eq(strncmp(p, "\n------------ END MESSAGE ----", 30),
		    0);
		p = strstr(p, "---\n") + 4;
	}
	cr_assert_eq(seen, PROCESSES * MESSAGES);
}

Test(relay, print_keeps_messages_whole_between_processes)
{
	pid_t pid[PROCESSES];
	char *spec, *text;
	int i;

	cr_assert(asprintf(&spec, "print:%s/out", dir) > 0);
	set.spec = spec;
	print_at_once(pid);
	for (i = 0; i < PROCESSES; i++)
		cr_assert_eq(waitid(P_PID, (id_t)pid[i], &(siginfo_t){ 0 },
		    WEXITED | WNOWAIT), 0);
	text = slurp(in_dir("out"));
	expect_whole(pid, text);
	free(text);
	free(spec);
}

/* Standard error that they share may be a pipe, which takes a message only
   bit by bit. */
Test(relay, print_keeps_messages_whole_in_a_pipe)
{
	pid_t pid[PROCESSES];
	char *text, path[64];
	int p[2];

	cr_assert_eq(pipe(p), 0);
	cr_assert_neq(fcntl(p[1], F_SETPIPE_SZ, 4096), -1);
	set.spec = "print:";
	set.print = p[1];
	print_at_once(pid);
	close(p[1]);
	snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
	text = slurp(path);
	close(p[0]);
	expect_whole(pid, text);
	free(text);
}

/* ---- maildir: ---- */

/* The one file in folder, to be freed. */
static char *
only_file(const char *folder)
{
	DIR *d = opendir(in_dir(folder));
	struct dirent *e;
	char *text = NULL, path[512];

	cr_assert(d != NULL);
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		cr_assert(text == NULL, "more than one");
		cr_assert(strchr(e->d_name, ':') == NULL);
		snprintf(path, sizeof path, "%s/%s", in_dir(folder),
		    e->d_name);
		text = slurp(path);
	}
	closedir(d);
	cr_assert(text != NULL, "none in %s", folder);
	return text;
}

Test(relay, maildir_is_made_and_filled)
{
	char *spec, *text;
	struct reply v;
	struct stat st;

	cr_assert(asprintf(&spec, "maildir:%s/box", dir) > 0);
	env.nrecipients = 2;
	v = relay_to(spec);
	expect(&v, 250, "2.0.0", "Message accepted, id Q1");
	text = only_file("box/new");
	cr_assert_str_eq(text, "Return-Path: <a@example.org>\n"
	    	    "Subject: t\n\nbody\n");
	free(text);
	cr_assert_eq(entries(in_dir("box/tmp")), 0);
	cr_assert_eq(entries(in_dir("box/cur")), 0);
	stat(in_dir("box"), &st);
	cr_assert_eq(st.st_mode & 07777, 0700);
	stat(in_dir("box/tmp"), &st);
	cr_assert_eq(st.st_mode & 07777, 0700);
	free(spec);
}

/* A copy that is not done in time is no copy. */
Test(relay, deadline_holds_for_copies)
{
	const size_t len = 3 << 20;
	char *text = malloc(len), *spec;
	struct reply v;

	memset(text, 'x', len);
	cr_assert(asprintf(&spec, "maildir:%s/box", dir) > 0);
	set.timeout = 0;
	set.spec = spec;
	v = relay_text(text, len);
	cr_expect_eq(v.code, 451, "%d %s", v.code, v.text);
	cr_expect_eq(entries(in_dir("box/new")), 0);
	cr_expect_eq(entries(in_dir("box/tmp")), 0);
	cr_expect(logged("timed out"), "%s", journal);
	/* And where the copy has other line ends. */
	write_file(in_dir("map"), "b@example.org discard:\n", 0644);
	set.routes = in_dir("map");
	v = relay_text(text, len);
	cr_expect_eq(v.code, 451, "%d %s", v.code, v.text);
	cr_expect_eq(entries(in_dir("box/new")), 0);
	free(spec);
	free(text);
}

Test(relay, maildir_names_are_unique_and_crlf_is_kept_if_wanted)
{
	char *spec, *text, error[256], host[65];
	struct reply v[3];
	struct relay *r;
	struct spool *s = spooled(SPOOL_CRLF, "x\r\n", 3);
	struct dirent *e;
	DIR *d;
	int i;

	cr_assert(asprintf(&spec, "maildir:%s/box", dir) > 0);
	set.spec = spec;
	set.crlf = true;
	r = relay_open(&set, error, sizeof error);
	for (i = 0; i < 50; i++) {
		relay_deliver(r, &env, s->fd, v);
		cr_assert_eq(v[0].code, 250);
	}
	relay_close(r);
	spool_close(s);
	free(s);
	cr_assert_eq(entries(in_dir("box/new")), 50);
	gethostname(host, sizeof host);
	d = opendir(in_dir("box/new"));
	while ((e = readdir(d)) != NULL) {
		long long sec, usec, pid, n;
		char rest[128];

		if (e->d_name[0] == '.')
			continue;
		cr_assert_eq(sscanf(e->d_name, "%lld.M%6lldP%lldQ%lld.%127s",
		    &sec, &usec, &pid, &n, rest), 5, "%s", e->d_name);
		cr_assert_eq(pid, getpid());
		cr_assert_str_eq(rest, host);
		text = malloc(512);
		snprintf(text, 512, "%s/%s", in_dir("box/new"), e->d_name);
		unlink(n == 1 ? "" : text);
		free(text);
	}
	closedir(d);
	text = only_file("box/new");
	cr_assert_str_eq(text, "Return-Path: <a@example.org>\r\n"
	    "Delivered-To: c+x@example.com\r\nx\r\n");
	free(text);
	free(spec);
}

Test(relay, maildir_that_can_not_be_entered_defers)
{
	char *spec;
	struct reply v = relay_to("maildir:/none/such/box");

	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("maildir:/none/such/box: No such file"));
	write_file(in_dir("file"), "", 0600);
	cr_assert(asprintf(&spec, "maildir:%s/file", dir) > 0);
	v = relay_to(spec);
	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("Not a directory"));
	free(spec);
}

Test(relay, maildir_on_a_full_disk_defers_and_leaves_nothing)
{
	char *spec, *big = calloc(1, 5000);
	struct spool *s = spooled(SPOOL_LF, big, 5000);
	struct reply v;

	cr_assert(asprintf(&spec, "maildir:%s/box", dir) > 0);
	v = relay_to_full_disk(spec, s);
	expect(&v, 452, "4.3.1", "Insufficient system storage");
	cr_assert_eq(entries(in_dir("box/tmp")), 0);
	cr_assert_eq(entries(in_dir("box/new")), 0);
	spool_close(s);
	free(s);
	free(spec);
	free(big);
}

Test(relay, maildir_that_can_only_be_read_defers_and_leaves_nothing)
{
	bool root = getuid() == 0;
	struct reply v;
	char *spec;

	cr_assert(asprintf(&spec, "maildir:%s/box", dir) > 0);
	mkdir(in_dir("box"), 0755);
	mkdir(in_dir("box/cur"), 0755);
	mkdir(in_dir("box/tmp"), 0777);
	chmod(in_dir("box/tmp"), 0777);
	mkdir(in_dir("box/new"), 0555);
	/* Nothing is forbidden to root. */
	if (root)
		cr_assert(setegid(65534) == 0 && seteuid(65534) == 0);
	v = relay_to(spec);
	if (root)
		cr_assert(seteuid(0) == 0 && setegid(0) == 0);
	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("Permission denied"));
	cr_assert_eq(entries(in_dir("box/tmp")), 0);
	cr_assert_eq(entries(in_dir("box/new")), 0);
	free(spec);
}

/* ---- Programs: status and output ---- */

Test(relay, exit_status_and_first_line_make_the_reply)
{
	static const struct {
		const char *body;
		int code;
		const char *enh, *text;
	} cases[] = {
		{ "exit 0", 250, "2.0.0", "Message accepted, id Q1" },
		{ "exit 67", 550, "5.1.1", "No such user" },
		{ "exit 68", 550, "5.1.2", "No such host" },
		{ "exit 65", 554, "5.6.0", "The message is not acceptable" },
		{ "exit 77", 550, "5.7.1", "Not permitted" },
		{ "exit 69", 554, "5.3.0", "Mail is not accepted here" },
		{ "exit 75", 451, "4.3.0", "Try again later" },
		{ "exit 71", 451, "4.3.0", "Local error in processing" },
		{ "exit 78", 451, "4.3.5", "Local configuration error" },
		{ "exit 1", 451, "4.3.0", "Local error in processing" },
		{ "exit 99", 451, "4.3.0", "Local error in processing" },
		{ "kill -9 $$", 451, "4.3.0", "Local error in processing" },
		{ "echo 250 ok; kill -9 $$", 451, "4.3.0",
		    "Local error in processing" },
		/* The first line is the text... */
		{ "echo stored as 7", 250, "2.0.0", "stored as 7" },
		{ "printf 'no newline'", 250, "2.0.0", "no newline" },
		{ "printf 'crlf\\r\\nmore\\r\\n'", 250, "2.0.0", "crlf" },
		{ "echo; echo second", 250, "2.0.0",
		    "Message accepted, id Q1" },
		{ "echo over quota; exit 75", 451, "4.3.0", "over quota" },
		{ "echo unknown here; exit 67", 550, "5.1.1", "unknown here" },
		{ "echo what; exit 3", 451, "4.3.0", "what" },
		{ "echo 250-no code", 250, "2.0.0", "250-no code" },
		{ "echo 999 no code", 250, "2.0.0", "999 no code" },
		{ "echo 354 no code", 250, "2.0.0", "354 no code" },
		{ "echo 2500 no code", 250, "2.0.0", "2500 no code" },
		{ "echo 250", 250, "2.0.0", "250" },
		{ "echo 413", 250, "2.0.0", "413" },
		{ "echo 550", 250, "2.0.0", "550" },
		{ "echo 550 5.1.1", 250, "2.0.0", "550 5.1.1" },
		{ "echo '550 '; exit 75", 451, "4.3.0", "550 " },
		{ "echo 469 no code", 250, "2.0.0", "469 no code" },
		/* ...after an enhanced code, if that fits the status... */
		{ "echo 4.2.0 mailbox busy; exit 75", 451, "4.2.0",
		    "mailbox busy" },
		{ "echo 5.1.6 moved; exit 67", 550, "5.1.6", "moved" },
		{ "echo 2.6.0 stored", 250, "2.6.0", "stored" },
		{ "echo 5.1.1 unknown; exit 75", 451, "4.3.0",
		    "5.1.1 unknown" },
		{ "echo 4.2.0 busy; exit 67", 550, "5.1.1", "4.2.0 busy" },
		/* ...or the whole reply. */
		{ "echo 250 2.6.0 stored", 250, "2.6.0", "stored" },
		{ "echo 250 stored", 250, "2.0.0", "stored" },
		{ "echo 221 bye", 250, "2.0.0", "bye" },
		{ "echo 552 5.2.2 full", 552, "5.2.2", "full" },
		{ "echo 451 4.7.1 greylisted", 451, "4.7.1", "greylisted" },
		{ "echo 554 4.7.1 odd", 554, "", "odd" },
		{ "echo 550 no; exit 1", 550, "5.0.0", "no" },
		{ "echo 552 5.2.2 full; exit 67", 552, "5.2.2", "full" },
		/* They must not contradict. */
		{ "echo 250 2.0.0 fine; exit 75", 451, "4.3.0",
		    "Try again later" },
		{ "echo 250 2.0.0 fine; exit 67", 550, "5.1.1",
		    "No such user" },
		{ "echo 250 2.0.0 fine; exit 1", 451, "4.3.0",
		    "Local error in processing" },
		{ "echo 550 5.1.1 never; exit 75", 451, "4.3.0", "never" },
		{ "echo 450 4.2.0 later; exit 67", 450, "4.2.0", "later" },
		{ "printf 'a\\033[2Jb\\001\\n'", 250, "2.0.0", "a?[2Jb?" },
	};
	struct reply v;
	size_t i;

	for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		v = relay_script(cases[i].body);
		cr_assert(v.code == cases[i].code &&
		    strcmp(v.enh, cases[i].enh) == 0 &&
		    strcmp(v.text, cases[i].text) == 0, "%s: %d %s %s",
		    cases[i].body, v.code, v.enh, v.text);
	}
	cr_assert(logged("prog: exit status 99\n"));
	cr_assert(logged("prog: killed by signal 9\n"));
	cr_assert(logged("prog: said \"250 2.0.0 fine\" and exited with 67\n"));
}

Test(relay, all_recipients_share_a_program_s_verdict)
{
	char error[256], *argv[] = { script("prog", "exit 67"), NULL };
	struct reply v[3];
	struct spool *s = spooled(SPOOL_LF, "x\n", 2);
	struct relay *r;
	int i;

	env.nrecipients = 3;
	set.program = argv;
	for (i = 0; i < 2; i++) {
		set.lmtp = i == 1;
		memset(v, 0, sizeof v);
		r = relay_open(&set, error, sizeof error);
		relay_deliver(r, &env, s->fd, v);
		expect(&v[0], 550, "5.1.1", "No such user");
		expect(&v[1], 550, "5.1.1", "No such user");
		expect(&v[2], 550, "5.1.1", "No such user");
		relay_close(r);
	}
	spool_close(s);
	free(s);
}

Test(relay, output_goes_to_the_log_line_by_line)
{
	struct reply v = relay_script("echo reply; echo out; echo err >&2; "
	    "printf 'last\\033' >&2");

	expect(&v, 250, "2.0.0", "reply");
	cr_assert(logged("prog: out\n"));
	cr_assert(logged("prog: err\n"));
	cr_assert(logged("prog: last?\n"));
	cr_assert(!logged("prog: reply\n"));
}

Test(relay, output_in_the_log_is_bounded)
{
	struct reply v = relay_script("echo reply; i=0; "
	    "while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done");

	expect(&v, 250, "2.0.0", "reply");
	cr_assert(logged("prog: line 49\n"));
	cr_assert(!logged("prog: line 50\n"));
	cr_assert(logged("prog: 250 more lines\n"));
}

Test(relay, a_megabyte_of_output_is_fine)
{
	struct reply v = relay_script(
	    "head -c 1048576 /dev/zero | tr '\\0' x; echo; "
	    "head -c 1048576 /dev/zero | tr '\\0' y >&2; exit 75");

	cr_assert_eq(v.code, 451);
	cr_assert_eq(strlen(v.text), REPLY_TEXT - 1);
	cr_assert_eq(v.text[0], 'x');
	cr_assert(logged("prog: yyyy"));
	v = relay_script("yes | head -c 1048576; yes | head -c 1048576 >&2");
	expect(&v, 250, "2.0.0", "y");
	cr_assert(logged("prog: 524238 more lines\n"));
}

/* ---- Programs: their start ---- */

Test(relay, a_program_that_can_not_be_executed_defers)
{
	char *missing[] = { (char[]){ "/no/such/program" }, NULL };
	char *unfound[] = { (char[]){ "no-such-program-here" }, NULL };
	char *plain[] = { in_dir("plain"), NULL };
	char *folder[] = { dir, NULL };
	struct reply v;

	setenv("PATH", "/usr/bin:/bin", 1);
	v = relay_program(missing);
	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("/no/such/program: No such file or directory\n"));
	v = relay_program(unfound);
	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("no-such-program-here: No such file"));
	write_file(plain[0], "#!/bin/sh\nexit 0\n", 0644);
	v = relay_program(plain);
	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("plain: Permission denied"));
	v = relay_program(folder);
	expect(&v, 451, "4.3.5", "Local configuration error");
}

Test(relay, a_program_is_found_in_path)
{
	char *argv[] = { (char[]){ "smtpd-test-program" }, NULL };
	struct reply v;

	script("smtpd-test-program", "echo found");
	setenv("PATH", dir, 1);
	v = relay_program(argv);
	setenv("PATH", "/usr/bin:/bin", 1);
	expect(&v, 250, "2.0.0", "found");
}

Test(relay, the_message_is_a_file_at_its_start)
{
	struct reply v = relay_script("test -f /dev/stdin || exit 1\n"
	    "set -- $(grep pos: /proc/self/fdinfo/0); test $2 = 0 || exit 1\n"
	    "read a; read b; read c; echo \"$a|$b|$c\"");

	expect(&v, 250, "2.0.0", "Subject: t||body");
	set.crlf = true;
	v = relay_script("wc -c");
	expect(&v, 250, "2.0.0", "20");
}

Test(relay, a_program_gets_three_descriptors)
{
	char *argv[] = { (char[]){ "/bin/ls" },
	    (char[]){ "/proc/self/fd" }, NULL };
	int low = open("/dev/null", O_RDONLY), high = fcntl(low, F_DUPFD, 200);
	struct reply v;

	/* 3 is ls's own. */
	v = relay_program(argv);
	close(low);
	close(high);
	expect(&v, 250, "2.0.0", "0");
	cr_assert_str_eq(journal, "program /bin/ls: 1\nprogram /bin/ls: 2\n"
	    "program /bin/ls: 3\n");
}

Test(relay, a_program_gets_clean_signals_and_a_session_of_its_own)
{
	char *argv[] = { (char[]){ "/bin/grep" },
	    (char[]){ "^Sig[BI]" }, (char[]){ "/proc/self/status" }, NULL };
	sigset_t all;
	struct reply v;
	const char *p;

	sigemptyset(&all);
	sigaddset(&all, SIGTERM);
	sigaddset(&all, SIGUSR1);
	sigprocmask(SIG_BLOCK, &all, NULL);
	signal(SIGHUP, SIG_IGN);
	v = relay_program(argv);
	sigprocmask(SIG_UNBLOCK, &all, NULL);
	expect(&v, 250, "2.0.0", "SigBlk:?0000000000000000");
	/* glibc keeps 32 and 33 to itself: we may have come to ignore them. */
	p = strstr(journal, "SigIgn:?");
	cr_assert_not_null(p);
	cr_assert_eq(strtoull(p + 8, NULL, 16) & ~(3ULL << 31), 0, "%s", p);
	v = relay_script("set -- $$ $(cat /proc/$$/stat); "
	    "[ $1 = $6 ] && [ $1 = $7 ] && echo leader");
	expect(&v, 250, "2.0.0", "leader");
}

Test(relay, low_descriptors_that_are_closed_do_no_harm)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		char *argv[] = { script("prog", "cat; echo e >&2"), NULL };
		char error[256];
		struct spool *s;
		struct relay *r;
		struct reply v;

		set.program = argv;
		r = relay_open(&set, error, sizeof error);
		/* The pipes will then have these very numbers. */
		s = spooled(SPOOL_LF, "text\n", 5);
		close(0);
		close(1);
		close(2);
		relay_deliver(r, &env, s->fd, &v);
		_exit(v.code == 250 && strcmp(v.text, "text") == 0 &&
		    logged("prog: e\n") ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}

Test(relay, arguments_are_replaced)
{
	char *argv[] = { script("prog", "for a; do printf '[%s]' \"$a\"; done"),
	    (char[]){ "-f{sender}" }, (char[]){ "{size}/{queue_id}" },
	    (char[]){ "{client_address}:{client_port}" },
	    (char[]){ "{client_helo}{sasl_username}" },
	    (char[]){ "{recipient}" },
	    (char[]){ "u={user},x={extension},d={domain}" },
	    (char[]){ "{ {}} {A} $HOME" }, (char[]){ "" }, NULL };
	struct reply v;

	env.nrecipients = 2;
	env.fact[FACT_CLIENT_ADDRESS] = "192.0.2.1";
	env.fact[FACT_CLIENT_PORT] = "99";
	env.fact[FACT_CLIENT_HELO] = "c.example.org";
	env.fact[FACT_SASL_USERNAME] = "{user}";
	v = relay_program(argv);
	expect(&v, 250, "2.0.0", "[-fa@example.org][12/Q1][192.0.2.1:99]"
	    "[c.example.org{user}][c+x@example.com][d@example.net]"
	    "[u=c,x=x,d=example.com][u=d,x=,d=example.net][{ {}} {A} $HOME][]");
	env.nrecipients = 1;
	to[0].address = "+odd";
	v = relay_program(argv);
	cr_assert(strstr(v.text, "[u=+odd,x=,d=]") != NULL, "%s", v.text);
	to[0].address = "\"john doe+tag\"@Example.net";
	v = relay_program(argv);
	cr_assert(strstr(v.text, "[\"john doe+tag\"@Example.net]"
	    "[u=john doe,x=tag,d=Example.net]") != NULL, "%s", v.text);
	to[0].address = "\"a@b\"";
	v = relay_program(argv);
	cr_assert(strstr(v.text, "[u=\"a@b\",x=,d=]") != NULL, "%s", v.text);
}

Test(relay, what_a_client_said_does_not_become_an_option)
{
	char *argv[] = { script("prog", "echo ran"), (char[]){ "{recipient}" },
	    NULL };
	char *safe[] = { argv[0], (char[]){ "--to={recipient}" }, NULL };
	struct reply v;

	to[0].address = "-oQ/tmp@example.org";
	v = relay_program(argv);
	expect(&v, 550, "5.7.1",
	    "A name must not begin with a hyphen: -oQ/tmp@example.org");
	v = relay_program(safe);
	expect(&v, 250, "2.0.0", "ran");
	to[0].address = "\"-oQ\"@example.org";	/* not without its quotes */
	argv[1] = (char[]){ "{user}" };
	v = relay_program(argv);
	expect(&v, 550, "5.7.1", "A name must not begin with a hyphen: -oQ");
}

Test(relay, the_environment_has_the_facts_and_not_our_own)
{
	static const char *const lines[] = {
		"SENDER=a@example.org\n",
		"RECIPIENT=c+x@example.com\nd@example.net\n",
		"RCPT_OPTIONS=\nNOTIFY=NEVER\n",
		"MAIL_OPTIONS=SIZE=12\n", "SIZE=12\n", "QUEUE_ID=Q1\n",
		"CLIENT_ADDRESS=2001:db8::1\n", "CLIENT_PORT=5\n",
		"CLIENT_HOSTNAME=unknown\n", "CLIENT_HELO=h\n",
		"CLIENT_PROTOCOL=ESMTPSA\n", "CLIENT_USER=joe\n",
		"SASL_METHOD=PLAIN\n", "SASL_USERNAME=\n",
		"SERVER_ADDRESS=2001:db8::2\n", "SERVER_PORT=25\n",
		"TLS_PROTOCOL=TLSv1.3\n", "TLS_CIPHER=C\n", "TLS_SNI=mx\n",
		"TLS_SUBJECT=s\n", "TLS_ISSUER=i\n", "TLS_FINGERPRINT=f\n",
		"KEPT=yes\n", "LISTENER=kept\n",
	};
	static const char *const gone[] = {
		"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET",
		"WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "evil",
		"INVOCATION_ID", "CREDENTIALS_DIRECTORY",
	};
	char *text, body[300];
	struct reply v;
	size_t i;

	for (i = 0; i < sizeof gone / sizeof gone[0]; i++)
		if (strcmp(gone[i], "evil") != 0)
			setenv(gone[i], "1", 1);
	setenv("SASL_USERNAME", "evil", 1);
	setenv("KEPT", "yes", 1);
	setenv("LISTENER", "kept", 1);
	env.nrecipients = 2;
	env.fact[FACT_MAIL_OPTIONS] = "SIZE=12";
	env.fact[FACT_CLIENT_ADDRESS] = "2001:db8::1";
	env.fact[FACT_CLIENT_PORT] = "5";
	env.fact[FACT_CLIENT_NAME] = "unknown";
	env.fact[FACT_CLIENT_HELO] = "h";
	env.fact[FACT_CLIENT_PROTOCOL] = "ESMTPSA";
	env.fact[FACT_CLIENT_USER] = "joe";
	env.fact[FACT_SASL_METHOD] = "PLAIN";
	env.fact[FACT_SERVER_ADDRESS] = "2001:db8::2";
	env.fact[FACT_SERVER_PORT] = "25";
	env.fact[FACT_TLS_PROTOCOL] = "TLSv1.3";
	env.fact[FACT_TLS_CIPHER] = "C";
	env.fact[FACT_TLS_SNI] = "mx";
	env.fact[FACT_TLS_SUBJECT] = "s";
	env.fact[FACT_TLS_ISSUER] = "i";
	env.fact[FACT_TLS_FINGERPRINT] = "f";
	snprintf(body, sizeof body, "env > %s", in_dir("env"));
	v = relay_script(body);
	cr_assert_eq(v.code, 250);
	text = slurp(in_dir("env"));
	for (i = 0; i < sizeof lines / sizeof lines[0]; i++)
		cr_assert(strstr(text, lines[i]) != NULL, "%s\n%s", lines[i],
		    text);
	for (i = 0; i < sizeof gone / sizeof gone[0]; i++)
		cr_assert(strstr(text, gone[i]) == NULL, "%s", gone[i]);
	free(text);
}

Test(relay, too_many_recipients_for_an_exec_is_said_so)
{
	enum { MANY = 2000 };
	struct recipient *many = calloc(MANY, sizeof *many);
	struct reply *v = calloc(MANY, sizeof *v);
	char error[256], *argv[] = { (char[]){ "/bin/true" }, NULL };
	char address[200];
	struct spool *s = spooled(SPOOL_LF, "x\n", 2);
	struct relay *r;
	int i;

	memset(address, 'x', sizeof address);
	address[sizeof address - 1] = '\0';
	for (i = 0; i < MANY; i++)
		many[i] = (struct recipient){ address, "" };
	env.recipients = many;
	env.nrecipients = MANY;
	set.program = argv;
	r = relay_open(&set, error, sizeof error);
	relay_deliver(r, &env, s->fd, v);
	expect(&v[0], 452, "4.5.3", "Too many recipients");
	expect(&v[MANY - 1], 452, "4.5.3", "Too many recipients");
	relay_close(r);
	spool_close(s);
	free(s);
	free(v);
	free(many);
}

/* ---- Programs: size and time ---- */

Test(relay, a_program_need_not_read_its_input)
{
	char *argv[] = { script("prog", "echo enough"), NULL };
	char *big = malloc(5 << 20);
	struct reply v;

	memset(big, 'x', 5 << 20);
	set.program = argv;
	v = relay_text(big, 5 << 20);
	expect(&v, 250, "2.0.0", "enough");
	free(big);
}

Test(relay, a_hundred_megabytes_arrive_and_memory_stays_flat)
{
	char *argv[] = { (char[]){ "sha256sum" }, NULL }, error[256];
	char line[128], sum[80];
	struct rusage before, after;
	struct relay *r;
	struct spool *s = malloc(sizeof *s);
	struct reply v;
	FILE *f;
	int i;

	f = popen("yes 0123456789012345678901234567890123456789012345678901234"
	    "567890123456789012345678 2>/dev/null | head -c 104857600 |"
	    "sha256sum", "r");
	cr_assert_eq(fscanf(f, "%64s", sum), 1);
	pclose(f);
	getrusage(RUSAGE_SELF, &before);
	set.program = argv;
	r = relay_open(&set, error, sizeof error);
	spool_open(s, relay_form(r), NULL, NULL);
	snprintf(line, sizeof line, "%s\r\n", "012345678901234567890123456789"
	    "0123456789012345678901234567890123456789012345678");
	for (i = 0; i < 104857600 / 80; i++)
		spool_write(s, line, 81);
	cr_assert_gt(spool_finish(s), 0);
	cr_assert_eq(s->stored, 104857600);
	relay_deliver(r, &env, s->fd, &v);
	getrusage(RUSAGE_SELF, &after);
	strcat(sum, "  -");
	expect(&v, 250, "2.0.0", sum);
	cr_assert_lt(after.ru_maxrss - before.ru_maxrss, 8192);
	relay_close(r);
	spool_close(s);
	free(s);
}

Test(relay, a_program_that_hangs_is_stopped)
{
	struct reply v;

	set.timeout = 1;
	v = relay_script("echo 250 fine; exec tail -f /dev/null");
	expect(&v, 451, "4.3.0", "The relay took too long");
	cr_assert(logged("prog: stopped after 1 seconds\n"));
}

Test(relay, a_program_that_will_not_be_stopped_is_killed_with_its_children)
{
	char body[300], *text;
	struct reply v;
	pid_t child;
	int status;

	set.timeout = 1;
	prctl(PR_SET_CHILD_SUBREAPER, 1);	/* to see its child's end */
	snprintf(body, sizeof body, "trap '' TERM\ntail -f /dev/null &\n"
	    "echo $! > %s\nwhile :; do wait; done", in_dir("child"));
	v = relay_script(body);
	expect(&v, 451, "4.3.0", "The relay took too long");
	text = slurp(in_dir("child"));
	child = (pid_t)atol(text);
	free(text);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

Test(relay, a_child_that_keeps_the_pipes_does_not_delay_the_reply)
{
	char body[300], *text;
	struct reply v;
	sigset_t blocked;
	pid_t child;

	/* Nothing but SIGCHLD will tell, also if we came with it blocked. */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	set.timeout = 5;
	snprintf(body, sizeof body, "tail -f /dev/null &\necho $! > %s\n"
	    "printf partial", in_dir("child"));
	v = relay_script(body);
	expect(&v, 250, "2.0.0", "partial");
	text = slurp(in_dir("child"));
	child = (pid_t)atol(text);
	free(text);
	cr_assert_eq(kill(child, 0), 0, "it was left alone");
	kill(child, SIGKILL);
}

Test(relay, a_child_that_goes_on_writing_does_not_delay_the_reply)
{
	char body[300], *text;
	struct reply v;

	snprintf(body, sizeof body, "echo done\nyes &\necho $! > %s\nexit 0",
	    in_dir("child"));
	v = relay_script(body);
	cr_assert_eq(v.code, 250);
	text = slurp(in_dir("child"));
	kill((pid_t)atol(text), SIGKILL);
	free(text);
}

static volatile sig_atomic_t rings;

static void
ring(int signal)
{
	(void)signal;
	rings = rings + 1;
}

Test(relay, signals_do_not_disturb_the_wait_and_are_given_back)
{
	struct sigaction action;
	sigset_t term, mask;
	struct reply v;
	int taken;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL);
	signal(SIGUSR1, ring);
	signal(SIGCHLD, SIG_IGN);	/* as a parent may have left it */
	v = relay_script("kill -TERM $PPID; kill -USR1 $PPID; cat; exit 65");
	expect(&v, 554, "5.6.0", "Subject: t");
	cr_assert_eq(rings, 1);
	cr_assert_eq(sigwait(&term, &taken), 0);
	cr_assert_eq(taken, SIGTERM);
	sigaction(SIGCHLD, NULL, &action);
	cr_assert(action.sa_handler == SIG_IGN);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	cr_assert(!sigismember(&mask, SIGCHLD));
	cr_assert(sigismember(&mask, SIGTERM));
	signal(SIGCHLD, SIG_DFL);
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

Test(relay, routes_are_found_as_transport_5_says)
{
	static const struct {
		const char *address, *enh;
	} cases[] = {
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
	for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		v = ask(r, cases[i].address);
		cr_assert_str_eq(v.enh, cases[i].enh, "%s: %s %s\n%s",
		    cases[i].address, v.enh, v.text, journal);
	}
	v = ask(r, "list-bounces@example.org");
	expect(&v, 550, "5.0.2", "bounces");
	/* Once per process. */
	unlink(set.routes);
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

Test(relay, a_broken_route_defers_all_mail_and_is_named)
{
	static const struct {
		const char *map, *want;
	} cases[] = {
		{ "a@example.org\n", "map:1: missing TRANSPORT:NEXTHOP" },
		{ "# x\n\na@example.org discard:\nb frob:x\n",
		    "map:4: frob:x: unknown transport" },
		{ "a error:1\nb\n error\n", "map:2: error: unknown" },
		{ "  a@example.org discard:\n", "map:1: indented line has no line before it" },
		{ "a maildir:\n", "map:1: maildir: needs a folder" },
		{ "a lmtp:\n", "map:1: lmtp: needs a host" },
		{ "a :[h]:25\n", "map:1: :[h]:25: missing transport" },
		{ "/^a discard:\n", "map:1: pattern without its last /" },
		{ "/a(/ discard:\n", "map:1: " },
		{ "/a/q discard:\n", "map:1: unknown flag q" },
		{ "/(a)/ smtp:$1\n", "map:1: $ is not replaced" },
		{ "/a/\n", "map:1: missing TRANSPORT:NEXTHOP" },
		{ "!/a/ discard:\n", "map:1: negated" },
		{ "if /a/\nendif\n", "map:2: " },
		{ "a error:2.0.0 x\n", "map:1: error:2.0.0 x: the status" },
		/* What no recipient can match. */
		{ "b@example.net: discard:\n", "map:1: b@example.net:: not an" },
		{ "\xef\xbb\xbf" "a@example.org discard:\n", "map:1: " },
		{ "@example.org discard:\n", "map:1: @example.org: no local" },
		{ "a@example.org, discard:\n", "map:1: a@example.org,: not an" },
		{ "a@ discard:\n", "map:1: a@: not an address" },
		{ "example.org. discard:\n", "map:1: example.org.: not an" },
		{ "a@.example.org discard:\n", "map:1: a@.example.org: not" },
		{ "example..org discard:\n", "map:1: example..org: not an" },
		{ "\"john doe@example.org discard:\n", "map:1: " },
		/* A hop that was refused once is refused again. */
		{ "a smtps:unix:/x\nb smtps:unix:/x\n", "map:2: smtps: cannot" },
		{ "a program:\n", "map:1: program:: unknown transport" },
		{ "a discard:x\n", "map:1: discard:x: nothing may follow" },
	};
	char error[256];
	struct relay *r;
	struct reply v;
	size_t i;

	set.spec = "discard:";
	for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		write_file(in_dir("map"), cases[i].map, 0644);
		set.routes = in_dir("map");
		r = relay_open(&set, error, sizeof error);
		cr_assert(r != NULL);
		v = ask(r, "z@example.net");
		expect(&v, 451, "4.3.5", "Local configuration error");
		cr_assert(logged(cases[i].want), "%s\n%s", cases[i].map,
		    journal);
		v = ask(r, "z@example.net");
		expect(&v, 451, "4.3.5", "Local configuration error");
		relay_close(r);
		v = relay_to("discard:");
		expect(&v, 451, "4.3.5", "Local configuration error");
		fseek(journal_file, 0, SEEK_SET);
		memset(journal, 0, journal_len);
	}
}

Test(relay, routes_that_can_not_be_read_defer)
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
	cr_assert(logged("map: not a readable text file\n"));
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
