/*
 * folder_test.c - print: and maildir:.
 */
#define _GNU_SOURCE	/* asprintf, ptsname */
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/reply.h"
#include "relay.h"
#include "t/fakes/world.h"

TestSuite(folder, .init = world_begin, .fini = world_end, .timeout = 120);

/* ---- print: ---- */

Test(folder, print_shows_envelope_and_message)
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

Test(folder, print_without_a_place_to_print_defers)
{
	struct reply v = relay_to("print:");

	expect(&v, 451, "4.3.5", "Local configuration error");
	cr_assert(logged("standard error is the client"));
}

Test(folder, print_writes_to_the_descriptor_it_is_given)
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

Test(folder, print_waits_for_a_slow_reader_and_sees_a_dead_one)
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

Test(folder, print_shows_control_characters_to_a_terminal)
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

/* What a relay prints of a message to standard error, which the journal reads,
   or something else. */
static const char *
printed(const char *relay, bool to_journal, const char *mail)
{
	static char text[1024];
	int p[2];
	ssize_t n;

	cr_assert_eq(pipe(p), 0);
	set.print = p[1];
	set.print_journal = to_journal;
	set.spec = relay;
	relay_text(mail, strlen(mail));
	close(p[1]);
	n = read(p[0], text, sizeof text - 1);
	cr_assert_gt(n, 0);
	text[n] = '\0';
	close(p[0]);
	return text;
}

static void
has(const char *text, const char *part)
{
	cr_assert(strstr(text, part) != NULL, "%s", text);
}

Test(folder, print_keeps_empty_lines_and_priorities_in_the_journal)
{
	static const char mail[] = "a: b\r\n\r\n<0>shout\r\n<x>\r\n\r\n<7\r\n"
	    " <1>\r\n";

	has(printed("print:", true, mail), "-\na: b\n \n<5><0>shout\n<x>\n \n"
	    "<5><7\n <1>\n------------ END");
	has(printed("print:", false, mail), "-\na: b\n\n<0>shout\n<x>\n\n"
	    "<7\n <1>\n------------ END");
}

Test(folder, show_keeps_empty_lines_in_the_journal)
{
	static const char mail[] = "Subject: b\r\n\r\nIt works.\r\n";

	has(printed("show:", true, mail), " octets\n \n    It works.\n \n");
	has(printed("show:", false, mail), " octets\n\n    It works.\n\n");
}

/* Relays s to spec while files cannot grow beyond 1000. */
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

Test(folder, print_to_a_full_file_leaves_nothing_of_the_message)
{
	char *spec, *text, *big = calloc(1, 5000);
	struct reply v = relay_to("print:/dev/full");
	struct spool *s = spooled(SPOOL_LF, big, 5000);

	expect(&v, 452, "4.3.1", "No room for the message");
	cr_assert(asprintf(&spec, "print:%s/out", dir) > 0);
	write_file(in_dir("out"), "before\n", 0600);
	v = relay_to_full_disk(spec, s);
	expect(&v, 452, "4.3.1", "No room for the message");
	text = slurp(in_dir("out"));
	cr_assert_str_eq(text, "before\n");
	free(text);
	free(spec);
	spool_close(s);
	free(s);
	free(big);
}

Test(folder, print_to_what_cannot_be_opened_defers)
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

Test(folder, print_waits_until_the_file_is_unlocked)
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

Test(folder, print_keeps_messages_whole_between_processes)
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
Test(folder, print_keeps_messages_whole_in_a_pipe)
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

Test(folder, maildir_is_made_and_filled)
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
Test(folder, deadline_holds_for_copies)
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

Test(folder, maildir_names_are_unique_and_crlf_is_kept_if_wanted)
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

Test(folder, maildir_that_cannot_be_entered_defers)
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

Test(folder, maildir_on_a_full_disk_defers_and_leaves_nothing)
{
	char *spec, *big = calloc(1, 5000);
	struct spool *s = spooled(SPOOL_LF, big, 5000);
	struct reply v;

	cr_assert(asprintf(&spec, "maildir:%s/box", dir) > 0);
	v = relay_to_full_disk(spec, s);
	expect(&v, 452, "4.3.1", "No room for the message");
	cr_assert_eq(entries(in_dir("box/tmp")), 0);
	cr_assert_eq(entries(in_dir("box/new")), 0);
	spool_close(s);
	free(s);
	free(spec);
	free(big);
}

Test(folder, maildir_that_can_only_be_read_defers_and_leaves_nothing)
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
