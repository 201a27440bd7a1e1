/*
 * program_test.c - relay programs: status and output, start, size and time.
 *
 * They are real ones, mostly shell scripts in the test's directory.
 */
#define _GNU_SOURCE	/* asprintf */
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/reply.h"
#include "relay.h"
#include "t/fakes/world.h"

TestSuite(program, .init = world_begin, .fini = world_end, .timeout = 120);

/* ---- Programs: status and output ---- */

/* What a program does, and the reply that it makes. */
static const struct {
	const char *body;
	int code;
	const char *enh, *text;
} outcomes[] = {
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
	{ "echo 550-5.7.1 one; echo 550 5.7.1 two", 550, "5.7.1", "one" },
	{ "echo 450-busy; exit 67", 450, "4.0.0", "busy" },
	{ "echo 550-; echo 550 no", 250, "2.0.0", "550-" },
	{ "echo '  '", 250, "2.0.0", "Message accepted, id Q1" },
	{ "echo 552 5.2.2 full", 552, "5.2.2", "full" },
	{ "echo 451 4.7.1 greylisted", 451, "4.7.1", "greylisted" },
	{ "echo 554 4.7.1 odd", 554, "5.0.0", "odd" },
	{ "echo 550 no; exit 1", 550, "5.0.0", "no" },
	{ "echo 552 5.2.2 full; exit 67", 552, "5.2.2", "full" },
	/* They must not contradict. */
	{ "echo 250 2.0.0 fine; exit 75", 451, "4.3.0",
	    "Try again later" },
	{ "echo 250 2.0.0 fine; exit 67", 550, "5.1.1",
	    "No such user" },
	{ "echo 250 2.0.0 fine; exit 1", 451, "4.3.0",
	    "Local error in processing" },
	{ "echo 450 5.1.1 later; exit 75", 450, "4.0.0", "later" },
	{ "echo 550 5.1.1 never; exit 75", 451, "4.3.0", "never" },
	{ "echo 450 4.2.0 later; exit 67", 450, "4.2.0", "later" },
	{ "printf 'a\\033[2Jb\\001\\n'", 250, "2.0.0", "a?[2Jb?" },
};

Test(program, exit_status_and_first_line_make_the_reply)
{
	struct reply v;
	size_t i;

	for (i = 0; i < sizeof outcomes / sizeof outcomes[0]; i++) {
		v = relay_script(outcomes[i].body);
		cr_assert(v.code == outcomes[i].code &&
		    strcmp(v.enh, outcomes[i].enh) == 0 &&
		    strcmp(v.text, outcomes[i].text) == 0, "%s: %d %s %s",
		    outcomes[i].body, v.code, v.enh, v.text);
	}
	cr_assert(logged("prog: exit status 99\n"));
	cr_assert(logged("prog: killed by signal 9\n"));
	cr_assert(logged("prog: said \"250 2.0.0 fine\" and exited with 67\n"));
}

Test(program, all_recipients_share_a_program_s_verdict)
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

Test(program, output_goes_to_the_log_line_by_line)
{
	struct reply v = relay_script("echo reply; echo out; echo err >&2; "
	    "printf 'last\\033' >&2");

	expect(&v, 250, "2.0.0", "reply");
	cr_assert(logged("prog: out\n"));
	cr_assert(logged("prog: err\n"));
	cr_assert(logged("prog: last?\n"));
	cr_assert(!logged("prog: reply\n"));
}

Test(program, output_in_the_log_is_bounded)
{
	struct reply v = relay_script("echo reply; i=0; "
	    "while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done");

	expect(&v, 250, "2.0.0", "reply");
	cr_assert(logged("prog: line 49\n"));
	cr_assert(!logged("prog: line 50\n"));
	cr_assert(logged("prog: 250 more lines\n"));
}

Test(program, a_megabyte_of_output_is_fine)
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

Test(program, a_program_that_cannot_be_executed_defers)
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

Test(program, a_program_is_found_in_path)
{
	char *argv[] = { (char[]){ "smtpd-test-program" }, NULL };
	struct reply v;

	script("smtpd-test-program", "echo found");
	setenv("PATH", dir, 1);
	v = relay_program(argv);
	setenv("PATH", "/usr/bin:/bin", 1);
	expect(&v, 250, "2.0.0", "found");
}

Test(program, the_message_is_a_file_at_its_start)
{
	struct reply v = relay_script("test -f /dev/stdin || exit 1\n"
	    "set -- $(grep pos: /proc/self/fdinfo/0); test $2 = 0 || exit 1\n"
	    "read a; read b; read c; echo \"$a|$b|$c\"");

	expect(&v, 250, "2.0.0", "Subject: t||body");
	set.crlf = true;
	v = relay_script("wc -c");
	expect(&v, 250, "2.0.0", "20");
}

Test(program, a_program_gets_three_descriptors)
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

Test(program, a_program_gets_clean_signals_and_a_session_of_its_own)
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

Test(program, low_descriptors_that_are_closed_do_no_harm)
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

Test(program, arguments_are_replaced)
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

Test(program, what_a_client_said_does_not_become_an_option)
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

Test(program, the_environment_has_the_facts_and_not_our_own)
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

Test(program, too_many_recipients_for_an_exec_is_said_so)
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

Test(program, a_program_need_not_read_its_input)
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

Test(program, a_hundred_megabytes_arrive_and_memory_stays_flat)
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

Test(program, a_program_that_hangs_is_stopped)
{
	struct reply v;

	set.timeout = 1;
	v = relay_script("echo 250 fine; exec sleep 600");
	expect(&v, 451, "4.3.0", "The relay took too long");
	cr_assert(logged("prog: stopped after 1 seconds\n"));
}

Test(program, a_program_that_will_not_be_stopped_is_killed_with_its_children)
{
	char body[300], *text;
	struct reply v;
	pid_t child;
	int status;

	set.timeout = 1;
	prctl(PR_SET_CHILD_SUBREAPER, 1);	/* to see its child's end */
	snprintf(body, sizeof body, "trap '' TERM\nsleep 600 &\n"
	    "echo $! > %s\nwhile :; do wait; done", in_dir("child"));
	v = relay_script(body);
	expect(&v, 451, "4.3.0", "The relay took too long");
	text = slurp(in_dir("child"));
	child = (pid_t)atol(text);
	free(text);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

Test(program, a_child_that_keeps_the_pipes_does_not_delay_the_reply)
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
	snprintf(body, sizeof body, "sleep 600 &\necho $! > %s\n"
	    "printf partial", in_dir("child"));
	v = relay_script(body);
	expect(&v, 250, "2.0.0", "partial");
	text = slurp(in_dir("child"));
	child = (pid_t)atol(text);
	free(text);
	cr_assert_eq(kill(child, 0), 0, "it was left alone");
	kill(child, SIGKILL);
}

Test(program, a_child_that_goes_on_writing_does_not_delay_the_reply)
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

Test(program, signals_do_not_disturb_the_wait_and_are_given_back)
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
