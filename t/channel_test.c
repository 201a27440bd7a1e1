/*
 * channel_test.c - the suite of the channel.
 *
 * Most of it are transcripts, t/transcripts/NAME.smtp: each is one script, and must read
 * the same however it is cut up.  What a transcript can not say is said here:
 * what hooks are told, every verb in every phase, verbs of an embedder's own,
 * and what the driver sees.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "t/transcripts/session.h"

static const struct pace whole = { .step = SIZE_MAX };

static void
say(struct recorder *r, const char *what)
{
	recorder_feed(r, what, strlen(what), whole);
}

static const struct channel_settings plain = {
	.fqdn = "mx.example.org",
	.data_size_limit = 33554432,
	.dsn = true,
	.max_recipients = 1000,
	.max_errors = 20
};

/* ---- transcripts, to smtpd --------------------------------------------- */

struct file {
	char name[64];
};

static struct criterion_test_params
files(void)
{
	static struct file all[64];
	glob_t g;
	size_t i;

	cr_assert_eq(glob("t/transcripts/*.smtp", 0, NULL, &g), 0, "t/transcripts/*.smtp is not there");
	cr_assert_leq(g.gl_pathc, sizeof all / sizeof *all);
	for (i = 0; i < g.gl_pathc; i++)
		snprintf(all[i].name, sizeof all[i].name, "%s", g.gl_pathv[i]);
	globfree(&g);
	return cr_make_param_array(struct file, all, i);
}

static void
check(const char *file, unsigned line, const char *what, const char *p,
    size_t len, const struct text *want)
{
	cr_expect(len == want->len &&
	    (len == 0 || memcmp(p, want->p, len) == 0),
	    "%s:%u: %s\n--- got\n%.*s\n--- want\n%.*s\n---", file, line, what,
	    (int)len, len == 0 ? "" : p, (int)want->len,
	    want->len == 0 ? "" : want->p);
}

#define WORDS 24

static char *
smtpd(void)
{
	static char here[] = "./smtpd";
	char *named = getenv("SMTPD");

	return named != NULL ? named : here;
}

static void
exec_smtpd(const struct session *s, int fd, char *file)
{
	char *argv[WORDS + SESSION_WORDS] = {
		smtpd(), "-n", "-H", "mx.example.org", "--no-received",
		"--crlf"
	};
	char *relay[] = { "--", "t/fakes/deliver", file, "{sender}", "{recipient}" };
	size_t n = 6;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	memcpy(argv + n, s->option, s->options * sizeof *argv);
	memcpy(argv + n + s->options, relay, sizeof relay);
	if (null != -1 && dup2(null, STDERR_FILENO) != -1 &&
	    dup2(fd, STDIN_FILENO) != -1 && dup2(fd, STDOUT_FILENO) != -1)
		execv(argv[0], argv);
	_exit(127);
}

/* Says all at once, then listens to the end; a server that hangs up of its
   own accord gets no end of file to do so. */
static void
talk(const struct session *s, int fd, struct text *heard)
{
	char in[4096];
	size_t i, n, sent;
	ssize_t got;

	for (i = 0; i < s->turns; i++)
		for (sent = 0; sent < s->turn[i].client.len; sent += n) {
			got = send(fd, s->turn[i].client.p + sent,
			    s->turn[i].client.len - sent, MSG_NOSIGNAL);
			if (got == -1)
				break;
			n = (size_t)got;
		}
	if (!s->closed)
		shutdown(fd, SHUT_WR);
	while ((got = read(fd, in, sizeof in)) > 0)
		text_add(heard, in, (size_t)got);
}

static void
read_file(const char *name, struct text *t)
{
	FILE *f = fopen(name, "re");
	char in[4096];
	size_t n;

	cr_assert_not_null(f);
	while ((n = fread(in, 1, sizeof in, f)) > 0)
		text_add(t, in, n);
	fclose(f);
}

static void
run(const char *file, const struct session *s)
{
	struct text want = { 0 }, heard = { 0 }, mail = { 0 };
	char name[] = "t/out/session-XXXXXX";
	int fd, pair[2], status;
	pid_t pid;
	size_t i;

	fd = mkstemp(name);
	cr_assert_neq(fd, -1);
	close(fd);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	pid = fork();
	cr_assert_neq(pid, -1);
	if (pid == 0) {
		close(pair[0]);
		exec_smtpd(s, pair[1], name);
	}
	close(pair[1]);
	talk(s, pair[0], &heard);
	close(pair[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0,
	    "%s:%u: %s: status %#x", file, s->line, s->title, status);
	for (i = 0; i < s->turns; i++)
		text_add(&want, s->turn[i].server.p, s->turn[i].server.len);
	check(file, s->line, s->title, heard.p, heard.len, &want);
	read_file(name, &mail);
	check(file, s->line, "relayed", mail.p, mail.len, &s->mail);
	unlink(name);
	free(want.p);
	free(heard.p);
	free(mail.p);
}

ParameterizedTestParameters(transcripts, hold_for_smtpd)
{
	return files();
}

ParameterizedTest(struct file *file, transcripts, hold_for_smtpd,
    .timeout = 300)
{
	struct session *all;
	size_t i, n;

	cr_assert_eq(access(smtpd(), X_OK), 0, "%s is not built", smtpd());
	all = session_load(file->name, &n);
	for (i = 0; i < n; i++)
		if (!all[i].inside)
			run(file->name, &all[i]);
	session_free(all, n);
}

/* ---- transcripts, to the channel --------------------------------------- */

/* Turn by turn: every reply must be there before the client goes on. */
static void
converse(const char *file, const struct session *s, struct recorder *r)
{
	const struct turn *t;
	size_t heard = 0;

	recorder_open(r, &s->set, s->rule, s->rules);
	recorder_drain(r);
	for (t = s->turn; t < s->turn + s->turns; t++) {
		if (t->tls)
			recorder_tls(r);
		recorder_feed(r, t->client.p, t->client.len, whole);
		check(file, t->line, s->title, r->replies.p + heard,
		    r->replies.len - heard, &t->server);
		heard = r->replies.len;
	}
	cr_expect_eq(r->ch.want == WANT_CLOSE, s->closed,
	    "%s:%u: %s: closed or not", file, s->line, s->title);
	recorder_close(r);
	check(file, s->line, "relayed", r->mail.p, r->mail.len, &s->mail);
	check(file, s->line, "logged", r->said.p, r->said.len, &r->replies);
}

/* All at once, at a pace: turns matter only where there is a handshake. */
static void
replay(const struct session *s, struct recorder *r, struct pace pace)
{
	struct text sent = { NULL, 0, 0 };
	size_t i, j;

	recorder_open(r, &s->set, s->rule, s->rules);
	if (pace.grouped)
		recorder_group(r);
	if (!pace.lazy)
		recorder_drain(r);
	for (i = 0; i < s->turns; i = j) {
		if (s->turn[i].tls)
			recorder_tls(r);
		sent.len = 0;
		for (j = i; j < s->turns && (j == i || !s->turn[j].tls); j++)
			text_add(&sent, s->turn[j].client.p,
			    s->turn[j].client.len);
		recorder_feed(r, sent.p, sent.len, pace);
	}
	free(sent.p);
	recorder_close(r);
}

static size_t
length(const struct session *s)
{
	size_t i, len = 0;

	for (i = 0; i < s->turns; i++)
		len += s->turn[i].client.len;
	return len;
}

static void
compare(const char *file, const struct session *s, const struct recorder *one,
    struct pace pace)
{
	struct recorder other;

	replay(s, &other, pace);
	/* A group is read before a 421 to one of it ends the session. */
	cr_expect((pace.grouped && one->ch.want == WANT_CLOSE) ||
	    (other.used == one->used && text_same(&other.heard, &one->heard)),
	    "%s:%u: %s: read %zu octets in pieces of %zu", file, s->line,
	    s->title, other.used, pace.step);
	cr_expect(other.ch.want == one->ch.want &&
	    text_same(&other.replies, &one->replies) &&
	    text_same(&other.calls, &one->calls) &&
	    text_same(&other.mail, &one->mail),
	    "%s:%u: %s: differs in pieces of %zu\n--- got\n%s\n--- want\n%s",
	    file, s->line, s->title, pace.step,
	    other.replies.p == NULL ? "" : other.replies.p,
	    one->replies.p == NULL ? "" : one->replies.p);
	cr_expect_null(other.broken, "%s:%u: %s: %s", file, s->line, s->title,
	    other.broken);
	recorder_free(&other);
}

ParameterizedTestParameters(transcripts, read_the_same_in_every_piece_size)
{
	return files();
}

ParameterizedTest(struct file *file, transcripts,
    read_the_same_in_every_piece_size, .timeout = 300)
{
	struct session *all, *s;
	struct recorder one;
	size_t n, len, step;

	all = session_load(file->name, &n);
	for (s = all; s < all + n; s++) {
		converse(file->name, s, &one);
		cr_expect_null(one.broken, "%s:%u: %s: %s", file->name,
		    s->line, s->title, one.broken);
		len = length(s);
		/* Every size up to 600, then fewer of those that are left. */
		for (step = 1; step < len; step += 1 + step / 600)
			compare(file->name, s, &one,
			    (struct pace){ step, false, step % 2 == 0 });
		compare(file->name, s, &one, whole);
		compare(file->name, s, &one,
		    (struct pace){ SIZE_MAX, .grouped = true });
		compare(file->name, s, &one, (struct pace){ 1, .lazy = true });
		compare(file->name, s, &one, (struct pace){ 7, .lazy = true });
		compare(file->name, s, &one,
		    (struct pace){ SIZE_MAX, .lazy = true });
		compare(file->name, s, &one,
		    (struct pace){ SIZE_MAX, true, true });
		recorder_free(&one);
	}
	session_free(all, n);
}

/* ---- every verb in every phase ----------------------------------------- */

#define SAY(text) text "\r\n"
#define TO_READY SAY("EHLO client")
#define TO_MAIL TO_READY SAY("MAIL FROM:<a@example.org>")
#define TO_RCPT TO_MAIL SAY("RCPT TO:<b@example.org>")
#define TO_BDAT TO_RCPT SAY("BDAT 1") "x"
#define PHASES 5

static const char *const until[PHASES] = {
	"", TO_READY, TO_MAIL, TO_RCPT, TO_BDAT
};

/* What is answered in each of them, and where the dialogue then stands: C, Y,
   M, R, B as above, D in the text, A in AUTH, E ended. */
static const char letters[] = "CYMRBDAE";
static const enum phase lettered[] = {
	PHASE_CONNECT, PHASE_READY, PHASE_MAIL, PHASE_RCPT, PHASE_BDAT,
	PHASE_DATA, PHASE_AUTH, PHASE_CLOSED
};

static const struct row {
	const char *line;
	int code[PHASES];
	const char *next;
} rows[] = {
	{ "HELO a", { 250, 250, 250, 250, 250 }, "YYYYY" },
	{ "EHLO a", { 250, 250, 250, 250, 250 }, "YYYYY" },
	{ "LHLO a", { 500, 500, 500, 500, 500 }, "CYMRB" },
	{ "MAIL FROM:<c>", { 503, 250, 503, 503, 503 }, "CMMRB" },
	{ "RCPT TO:<c>", { 503, 503, 250, 250, 503 }, "CYRRB" },
	{ "DATA", { 503, 503, 503, 354, 503 }, "CYMDB" },
	{ "BDAT 0", { 503, 503, 503, 250, 250 }, "CYMBB" },
	{ "BDAT 0 LAST", { 503, 503, 503, 250, 250 }, "CYMYY" },
	{ "BDAT", { 421, 421, 421, 421, 421 }, "EEEEE" },
	{ "RSET", { 250, 250, 250, 250, 250 }, "CYYYY" },
	{ "NOOP", { 250, 250, 250, 250, 250 }, "CYMRB" },
	{ "HELP", { 214, 214, 214, 214, 214 }, "CYMRB" },
	{ "VRFY a", { 252, 252, 252, 252, 252 }, "CYMRB" },
	{ "EXPN a", { 502, 502, 502, 502, 502 }, "CYMRB" },
	{ "STARTTLS", { 220, 220, 503, 503, 503 }, "CYMRB" },
	{ "AUTH PLAIN", { 503, 334, 503, 503, 503 }, "CAMRB" },
	{ "XCLIENT NAME=c", { 220, 220, 503, 503, 503 }, "CCMRB" },
	{ "XFORWARD NAME=c", { 250, 250, 503, 503, 503 }, "CYMRB" },
	{ "QUIT", { 221, 221, 221, 221, 221 }, "EEEEE" },
	{ "FROB", { 500, 500, 500, 500, 500 }, "CYMRB" },
	{ "", { 500, 500, 500, 500, 500 }, "CYMRB" }
};

static void
try(const struct channel_settings *set, const struct row *row, size_t phase)
{
	enum phase next;
	struct recorder r;
	char line[64];
	size_t heard;

	next = lettered[strchr(letters, row->next[phase]) - letters];
	recorder_open(&r, set, NULL, 0);
	say(&r, until[phase]);
	cr_assert_eq(r.ch.smtp_state, lettered[phase]);
	heard = r.replies.len;
	snprintf(line, sizeof line, "%s\r\n", row->line);
	say(&r, line);
	cr_expect_eq(atoi(r.replies.p + heard), row->code[phase],
	    "%s in phase %c: %s", row->line, letters[phase],
	    r.replies.p + heard);
	cr_expect_eq(r.ch.smtp_state, next, "%s in phase %c leads to %d",
	    row->line, letters[phase], r.ch.smtp_state);
	recorder_close(&r);
	cr_expect_null(r.broken, "%s in phase %c: %s", row->line,
	    letters[phase], r.broken);
	recorder_free(&r);
}

Test(order, every_verb_in_every_phase)
{
	struct channel_settings set = plain;
	size_t i, j;

	set.tls = set.xclient = set.xforward = true;
	set.auth = "PLAIN";
	for (i = 0; i < sizeof rows / sizeof *rows; i++)
		for (j = 0; j < PHASES; j++)
			try(&set, &rows[i], j);
}

/* ---- what hooks are told, and may say ---------------------------------- */

/* Plays a script, and compares the hooks' calls. */
static void
calls(const struct channel_settings *set, const struct rule rules[], size_t n,
    const char *script, const char *want)
{
	struct recorder r;

	recorder_open(&r, set, rules, n);
	say(&r, script);
	recorder_close(&r);
	cr_expect_str_eq(r.calls.p == NULL ? "" : r.calls.p, want);
	cr_expect_null(r.broken, "%s", r.broken);
	recorder_free(&r);
}

#define START "connect <>\n  unknown  unknown  \n"

Test(hooks, are_called_once_for_each_step)
{
	calls(&plain, NULL, 0,
	    "EHLO client\r\n"
	    "MAIL FROM:<@r:a@example.org> SIZE=5\r\n"
	    "RCPT TO:<b> NOTIFY=NEVER\r\nRCPT TO:<c>\r\n"
	    "DATA\r\nx\r\n.\r\n"
	    "NOOP what\r\nVRFY <d>\r\nEXPN e\r\nQUIT\r\n",
	    START "helo <client>\n"
	    "mail <a@example.org>\n  SIZE=5\n"
	    "rcpt <b>\n  NOTIFY=NEVER\nrcpt <c>\n  \n"
	    "data <>\nend 1\nforget\n"
	    "noop <what>\nvrfy <d>\nexpn <e>\nquit <>\n");
}

/* A device is called so in Latin-1; nobody gets an octet that is no text. */
Test(hooks, helo_gets_a_name_that_can_be_shown)
{
	calls(&plain, NULL, 0,
	    "HELO b\xc3\xbcro-drucker\r\nEHLO b\xfcro-drucker\r\n",
	    START "helo <b\xc3\xbcro-drucker>\nhelo <b?ro-drucker>\n");
}

Test(hooks, are_not_asked_about_what_the_channel_refuses)
{
	calls(&plain, NULL, 0,
	    "MAIL FROM:<a>\r\nVRFY <\r\nEHLO\r\nEHLO client\r\nDATA\r\n"
	    "MAIL FROM:<a> FROB\r\nMAIL FROM:<a\r\nMAIL FROM:<a>\r\n"
	    "RCPT TO:<>\r\nRCPT TO:<b> FROB\r\nDATA\r\nRSET x\r\n",
	    START "helo <client>\nmail <a>\n  \nforget\n");
}

Test(hooks, forget_ends_every_transaction)
{
	calls(&plain, NULL, 0,
	    "EHLO client\r\nRSET\r\nMAIL FROM:<a>\r\nRSET\r\n"
	    "MAIL FROM:<b>\r\nEHLO client\r\n"
	    "MAIL FROM:<c>\r\nRCPT TO:<d>\r\nDATA\r\nhalf a mess",
	    START "helo <client>\nrset <>\nmail <a>\n  \nrset <>\nforget\n"
	    "mail <b>\n  \nhelo <client>\nforget\n"
	    "mail <c>\n  \nrcpt <d>\n  \ndata <>\nforget\n");
}

Test(hooks, a_refused_message_reaches_no_end)
{
	struct channel_settings set = plain;

	set.data_size_limit = 4;
	calls(&set, NULL, 0,
	    "HELO client\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\n"
	    "DATA\r\nlonger\r\n.\r\n",
	    START "helo <client>\nmail <a>\n  \nrcpt <b>\n  \ndata <>\n"
	    "forget\n");
}

Test(hooks, a_refused_step_is_not_taken)
{
	static const struct rule rules[] = {
		{ MAIL, "x", 550, "5.7.1", "No" },
		{ RCPT, "x", 550, "5.1.1", "No" },
		{ DATA, "", 451, "4.3.0", "No" }
	};

	calls(&plain, rules, 3,
	    "EHLO client\r\nMAIL FROM:<x>\r\nMAIL FROM:<a>\r\n"
	    "RCPT TO:<x>\r\nRCPT TO:<b>\r\nDATA\r\n",
	    START "helo <client>\nmail <x>\n  \nmail <a>\n  \n"
	    "rcpt <x>\n  \nrcpt <b>\n  \ndata <>\nforget\n");
}

Test(hooks, are_not_called_after_a_group_that_ended_the_session)
{
	static const struct rule gone[] = {
		{ RCPT, "gone", 421, "4.3.2", "Going down" }
	};
	struct recorder r;

	recorder_open(&r, &plain, gone, 1);
	recorder_group(&r);
	say(&r, "EHLO client\r\nMAIL FROM:<a@example.org>\r\n"
	    "RCPT TO:<b@example.org>\r\nRCPT TO:<gone@example.org>\r\n"
	    "DATA\r\n");
	cr_expect_eq(r.ch.want, WANT_CLOSE);
	cr_expect_null(strstr(r.calls.p, "data"), "%s", r.calls.p);
	cr_expect_null(strstr(r.heard.p, "DATA"), "%s", r.heard.p);
	recorder_close(&r);
	recorder_free(&r);
}

Test(hooks, the_last_chunk_for_nobody_is_no_message)
{
	struct channel_settings set = plain;

	set.lmtp = true;
	calls(&set, NULL, 0,
	    "LHLO client\r\nMAIL FROM:<a>\r\nBDAT 3 LAST\r\nx\r\nNOOP\r\n",
	    START "helo <client>\nmail <a>\n  \nforget\nnoop <>\n");
}

Test(hooks, auth_gets_mechanism_and_response)
{
	struct channel_settings set = plain;

	set.auth = "PLAIN LOGIN EXTERNAL";
	calls(&set, NULL, 0,
	    "EHLO client\r\nAUTH login\r\ndXNlcg==\r\n*\r\n"
	    "AUTH External =\r\n",
	    START "helo <client>\nauth <LOGIN>\n  0 \nauth <>\n  1 dXNlcg==\n"
	    "auth <*>\nauth <EXTERNAL>\n  1 \n");
}

/* Nobody knows today what there is: tomorrow somebody may. */
Test(auth, without_mechanisms_is_no_refusal_for_good)
{
	static const char *const lines[] = {
		"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", "MAIL FROM:<a>\r\n"
	};
	struct channel_settings set = plain;
	struct recorder r;
	size_t i;

	set.auth = "";
	set.auth_required = true;
	for (i = 0; i < sizeof lines / sizeof *lines; i++) {
		recorder_open(&r, &set, NULL, 0);
		say(&r, "EHLO c\r\n");
		say(&r, lines[i]);
		recorder_close(&r);
		cr_expect_null(strstr(r.replies.p, "250-AUTH"));
		cr_expect_not_null(strstr(r.replies.p, "\n454 4.7.0 "
		    "Authentication is not available\r\n"), "%s", lines[i]);
		recorder_free(&r);
	}
}

/* A log of the dialogue shows who authenticates, and never with what. */
Test(hooks, dialogue_has_no_credentials)
{
	static const char *const lines[] = {
		"AUTH PLAIN SECRET==\r\n",
		"auth  plain  SECRET==\r\n",
		"  AUTH PLAIN SECRET==\r\n",
		"AUTH PLAIN SECRET== SECRET==\r\n",
		"AUTH\tPLAIN\tSECRET==\r\n",
		"AUTH=PLAIN SECRET==\r\n",
		"AUTH PLAIN\r\nSECRET==\r\n",
		"AUTH LOGIN\r\ndXNlcg==\r\nSECRET==\r\n",
		"AUTH PLAIN\r\nSECRET\r\n",
		"AUTH PLAIN SECRET==\n",
		"AUTH SECRET-METHOD SECRET==\r\n",
		"MAIL FROM:<a>\r\nAUTH PLAIN SECRET==\r\n",
		/* Sent although AUTH was refused, has failed or is over. */
		"AUTH CRAM-MD5\r\nSECRET==\r\n",
		"AUTH\r\nSECRET==\r\nSECRET==\r\n",
		"AUTH LOGIN !\r\ndXNlcg==\r\nSECRET==\r\n",
		"AUTH LOGIN\r\nYQ==\r\nSECRET==\r\n",
		"AUTH LOGIN\r\n*\r\nSECRET==\r\n",
		"AUTH PLAIN AHVzZXIAc2VjcmV0\r\nSECRET==\r\n",
		"HELO c\r\nAUTH LOGIN\r\ndXNlcg==\r\nSECRET==\r\n",
		"MAIL FROM:<a>\r\nAUTH LOGIN\r\ndXNlcg==\r\nSECRET==\r\n",
		"AUTH CRAM-MD5\r\nNOOP\r\nSECRET==\r\n",
		"AUTH LOGIN\r\n*\r\nRSET\r\nMAIL FROM:<a>\r\nSECRET==\r\n",
		"AUTH LOGIN !\r\nHELO c\r\nEHLO c\r\nwhat\r\nSECRET==\r\n",
	};
	struct channel_settings set = plain;
	struct recorder r;
	size_t i;

	set.auth = "PLAIN LOGIN";
	for (i = 0; i < sizeof lines / sizeof *lines; i++) {
		recorder_open(&r, &set, NULL, 0);
		say(&r, "EHLO c\r\n");
		say(&r, lines[i]);
		recorder_close(&r);
		cr_expect_null(strstr(r.heard.p, "SECRET="), "%s shows %s",
		    lines[i], r.heard.p);
		cr_expect_not_null(strstr(r.heard.p, "AUTH"), "%s", lines[i]);
		recorder_free(&r);
	}
}

/* Clients of POP3 and IMAP that were given the wrong port. */
Test(hooks, dialogue_has_no_passwords_of_other_protocols)
{
	static const char *const lines[] = {
		"USER joe\r\nPASS SECRET=\r\n",
		"pass SECRET=\r\n",
		"APOP joe SECRET=\r\n",
		"a1 LOGIN joe SECRET=\r\n",
		"a1 login {3}\r\njoe {7}\r\nSECRET=\r\n",
		"a1 AUTHENTICATE PLAIN SECRET=\r\n",
		"a1 AUTHENTICATE PLAIN\r\nNOOP\r\nSECRET=\r\n",
	};
	struct recorder r;
	size_t i;

	for (i = 0; i < sizeof lines / sizeof *lines; i++) {
		recorder_open(&r, &plain, NULL, 0);
		say(&r, "EHLO c\r\n");
		say(&r, lines[i]);
		recorder_close(&r);
		cr_expect_null(strstr(r.heard.p, "SECRET="), "%s shows %s",
		    lines[i], r.heard.p);
		cr_expect_not_null(strstr(r.heard.p, "****"), "%s", lines[i]);
		recorder_free(&r);
	}
}

/* Nothing that a hook says can be more than one reply. */
Test(hooks, can_not_forge_a_reply)
{
	static const struct rule rule = {
		MAIL, "", 550, "5.7.1", "a\r250 b\n250 c\r\n250 d\x01\x7f\t\n\n"
	};
	static const char script[] = "EHLO client\r\nMAIL FROM:<a>\r\n";
	struct recorder r;
	const char *reply;

	recorder_open(&r, &plain, &rule, 1);
	say(&r, script);
	recorder_close(&r);
	reply = strstr(r.replies.p, "550");
	cr_assert_not_null(reply);
	cr_expect_str_eq(reply, "550-5.7.1 a?250 b\r\n550-5.7.1 250 c\r\n"
	    "550 5.7.1 250 d???\r\n");
	recorder_free(&r);
}

Test(hooks, a_long_text_is_cut_into_lines_that_fit)
{
	struct rule rule = { MAIL, "", 550, "5.7.1", "" };
	static const char script[] = "EHLO client\r\nMAIL FROM:<a>\r\n";
	struct recorder r;
	const char *p, *end;

	memset(rule.text, 'x', sizeof rule.text - 1);
	recorder_open(&r, &plain, &rule, 1);
	say(&r, script);
	recorder_close(&r);
	for (p = r.replies.p; *p != '\0'; p = end + 2) {
		end = strstr(p, "\r\n");
		cr_assert_not_null(end);
		cr_expect_leq(end + 2 - p, 512);	/* RFC 5321 4.5.3.1.5 */
	}
	recorder_free(&r);
}

/* ---- reply_set --------------------------------------------------------- */

Test(reply, keeps_what_fits_and_nothing_that_ends_a_line)
{
	struct reply r;
	char text[2 * REPLY_TEXT];
	size_t i;

	reply_set(&r, 250, "2.1.0", "one\r\ntwo\rthree\x80\n");
	cr_expect_eq(r.code, 250);
	cr_expect_str_eq(r.enh, "2.1.0");
	cr_expect_str_eq(r.text, "one\ntwo?three?");
	memset(text, 'x', sizeof text);
	text[sizeof text - 1] = '\0';
	reply_set(&r, 599, "", text);
	cr_expect_lt(strlen(r.text), sizeof r.text);
	for (i = 0; r.text[i] != '\0'; i++)
		cr_assert_eq(r.text[i], 'x');
}

/* ---- an embedder's verbs, keywords and limits -------------------------- */

static void
do_ping(struct channel *ch, struct span arg)
{
	char text[64];

	snprintf(text, sizeof text, "Pong %.*s", (int)arg.len, arg.p);
	channel_reply(ch, 250, "2.0.0", text);
}

static const struct verb own[] = {
	{ "PING", 1U << PHASE_READY | 1U << PHASE_MAIL, VERB_ARG, do_ping,
	    "PING string", 0, NULL },
	{ "EXPN", ~0U, 0, do_ping, NULL, 0, NULL },
	{ NULL, 0, 0, NULL, NULL, 0, NULL }
};

static void
replies(const struct channel_settings *set, const char *script,
    const char *want)
{
	struct recorder r;

	recorder_open(&r, set, NULL, 0);
	say(&r, script);
	recorder_close(&r);
	cr_expect_str_eq(r.replies.p == NULL ? "" : r.replies.p, want);
	recorder_free(&r);
}

#define HI "220 mx.example.org ESMTP smtpd\r\n"

Test(verbs, an_embedders_come_first)
{
	struct channel_settings set = plain;

	set.verbs = own;
	replies(&set,
	    "PING a\r\nHELO client\r\nPING\r\nping  b \r\nEXPN c\r\n"
	    "HELP PING\r\nHELP EXPN\r\nMAIL FROM:<a>\r\nPING d\r\n"
	    "RCPT TO:<b>\r\nPING e\r\n",
	    HI
	    "503 Bad sequence of commands: HELO or EHLO comes first\r\n"
	    "250 mx.example.org\r\n501 Syntax: PING string\r\n250 Pong b\r\n"
	    "250 Pong c\r\n214 Syntax: PING string\r\n"
	    "504 There is no help on that\r\n250 Sender OK\r\n250 Pong d\r\n"
	    "250 Recipient OK\r\n"
	    "503 Bad sequence of commands: there are sender and recipients "
	    "already\r\n");
}

static const struct verb web[] = {
	{ "GET", ~0U, 0, do_ping, NULL, 0, NULL },
	{ NULL, 0, 0, NULL, NULL, 0, NULL }
};

/* A verb that HTTP has too is the embedder's, if the embedder has it. */
Test(verbs, an_embedders_may_be_called_get)
{
	struct channel_settings set = plain;

	set.verbs = web;
	replies(&set, "HELO c\r\nget a\r\nPUT a\r\nget b\r\n",
	    HI "250 mx.example.org\r\n250 Pong a\r\n"
	    "421 mx.example.org HTTP is not served here\r\n");
}

/* Nor is it taken for a response to a challenge. */
Test(verbs, http_in_the_middle_of_auth_is_hung_up_on)
{
	struct channel_settings set = plain;

	set.auth = "PLAIN";
	calls(&set, NULL, 0,
	    "EHLO c\r\nAUTH PLAIN\r\nPOST / HTTP/1.1\r\nNOOP\r\n",
	    START "helo <c>\nauth <PLAIN>\n  0 \nauth <*>\n");
}

Test(verbs, an_embedders_are_listed_by_help)
{
	struct channel_settings set = plain;

	set.verbs = own;
	replies(&set, "HELP\r\n",
	    HI "214 Commands: PING HELO EHLO MAIL RCPT DATA BDAT RSET NOOP "
	    "QUIT HELP VRFY\r\n");
}

Test(verbs, keywords_are_offered_before_help)
{
	static const char *const words[] = { "X-PING", "X-PONG 1 2", NULL };
	struct channel_settings set = plain;
	struct recorder r;

	set.keywords = words;
	recorder_open(&r, &set, NULL, 0);
	say(&r, "EHLO c\r\n");
	recorder_close(&r);
	cr_expect_not_null(strstr(r.replies.p,
	    "\r\n250-X-PING\r\n250-X-PONG 1 2\r\n250 HELP\r\n"));
	recorder_free(&r);
}

Test(verbs, each_has_a_limit_of_its_own)
{
	static const struct command_limit limits[] = {
		{ "PING", 1 }, { "RCPT", 1 }, { "*", 2 }, { NULL, 0 }
	};
	struct channel_settings set = plain;

	set.verbs = own;
	set.command_limits = limits;
	replies(&set,
	    "HELO c\r\nNOOP\r\nNOOP\r\nPING a\r\nPING b\r\nNOOP\r\n",
	    HI "250 mx.example.org\r\n250 OK\r\n250 OK\r\n250 Pong a\r\n"
	    "421 mx.example.org PING sent too many times\r\n");
	replies(&set,
	    "HELO c\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nRCPT TO:<c>\r\n",
	    HI "250 mx.example.org\r\n250 Sender OK\r\n250 Recipient OK\r\n"
	    "421 mx.example.org RCPT sent too many times\r\n");
}

/* ---- what the driver sees ---------------------------------------------- */

/* Replies that nobody takes stop the channel, which loses nothing. */
Test(driver, replies_that_wait_hold_the_client_back)
{
	enum { N = 100000 };
	struct channel ch;
	const char *out;
	char *in;
	size_t used, len, i, total = 0;

	in = malloc(6 * N);
	cr_assert_not_null(in);
	for (i = 0; i < N; i++)
		memcpy(in + 6 * i, "NOOP\r\n", 6);
	channel_init(&ch, &plain, &(struct channel_hooks){ 0 }, NULL);
	channel_greet(&ch);
	used = channel_feed(&ch, in, 6 * N);
	cr_expect_lt(used, 6 * N);
	cr_expect_eq(channel_feed(&ch, in + used, 6 * N - used), 0);
	channel_output(&ch, &len);
	cr_expect_lt(len, 64 * 1024);
	for (;;) {
		out = channel_output(&ch, &len);
		for (i = 0; i < len; i++)
			total += out[i] == '\n';
		if (len == 0)
			break;
		channel_sent(&ch, len);
		used += channel_feed(&ch, in + used, 6 * N - used);
	}
	cr_expect_eq(used, 6 * N);
	cr_expect_eq(total, 1 + N);
	cr_expect_eq(ch.want, WANT_INPUT);
	channel_free(&ch);
	free(in);
}

/* Text is looked at in blocks; where an odd octet falls in them never shows. */
Test(driver, sees_what_is_odd_wherever_it_stands)
{
	static const char odd[] = "\r\n.";	/* and NUL */
	enum { LINE = 50, N = 5 * LINE };
	struct channel_settings set = plain;
	struct recorder fast, slow;
	char in[N + 1];

	for (size_t i = 0; i < 3 * N * sizeof odd; i++) {
		set.bare_newline = (enum bare_newline)(i % 3);
		for (size_t k = 0; k < N; k++)
			in[k] = k % LINE == LINE - 1 ? '\n'
			    : k % LINE == LINE - 2   ? '\r'
						     : 'x';
		in[i / 3 % N] = odd[i / 3 / N];
		in[N] = '\0';
		recorder_open(&fast, &set, NULL, 0);
		recorder_open(&slow, &set, NULL, 0);
		say(&fast, "HELO a\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n");
		say(&slow, "HELO a\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n");
		recorder_feed(&fast, in, N, whole);
		recorder_feed(&slow, in, N, (struct pace){ .step = 1 });
		say(&fast, ".\r\n");
		say(&slow, ".\r\n");
		cr_assert(text_same(&fast.mail, &slow.mail) &&
		    text_same(&fast.replies, &slow.replies), "%zu", i);
		recorder_close(&fast);
		recorder_close(&slow);
		recorder_free(&fast);
		recorder_free(&slow);
	}
}

/* Nor does it matter how many there are: the work is one with the octets. */
Test(driver, a_flood_of_bare_crs_costs_no_more_than_its_octets,
    .timeout = 300)
{
	static const char script[] =
	    "HELO a\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n";
	enum { N = 16 << 20 };
	struct channel ch;
	char *in = malloc(N);

	cr_assert_not_null(in);
	memset(in, '\r', N);
	channel_init(&ch, &plain, &(struct channel_hooks){ 0 }, NULL);
	channel_greet(&ch);
	channel_feed(&ch, script, sizeof script - 1);
	cr_expect_eq(channel_feed(&ch, in, N), N);
	cr_expect_eq(ch.verdict.code, 550);
	channel_free(&ch);
	free(in);
}

Test(driver, may_write_replies_in_pieces)
{
	static const char script[] = "NOOP\r\nHELP\r\nRSET\r\nQUIT\r\n";
	struct channel ch;
	struct text got = { NULL, 0, 0 };
	const char *out;
	size_t len;

	channel_init(&ch, &plain, &(struct channel_hooks){ 0 }, NULL);
	channel_greet(&ch);
	cr_expect_eq(channel_feed(&ch, script, sizeof script - 1),
	    sizeof script - 1);
	while (out = channel_output(&ch, &len), len != 0) {
		text_add(&got, out, 1);
		channel_sent(&ch, 1);
	}
	cr_expect_str_eq(got.p, HI "250 OK\r\n"
	    "214 Commands: HELO EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT HELP "
	    "VRFY\r\n250 OK\r\n221 mx.example.org Bye\r\n");
	channel_free(&ch);
	free(got.p);
}

/* Nor does what was written take up room while something always waits. */
Test(driver, may_always_have_a_reply_that_waits)
{
	struct channel ch;
	size_t len, i;

	channel_init(&ch, &plain, &(struct channel_hooks){ 0 }, NULL);
	channel_greet(&ch);
	for (i = 0; i < 100000; i++) {
		cr_assert_eq(channel_feed(&ch, "NOOP\r\n", 6), 6);
		channel_output(&ch, &len);
		channel_sent(&ch, len - 1);
	}
	cr_expect_eq(*channel_output(&ch, &len), '\n');
	cr_expect_eq(len, 1);
	cr_expect_eq(ch.outsize, CHANNEL_OUT);
	channel_free(&ch);
}

Test(driver, is_not_told_of_what_follows_quit)
{
	struct recorder r;

	recorder_open(&r, &plain, NULL, 0);
	say(&r, "QUIT\r\nNOOP\r\n");
	cr_expect_eq(r.used, 6);
	cr_expect_eq(channel_feed(&r.ch, "NOOP\r\n", 6), 0);
	recorder_close(&r);
	recorder_free(&r);
}

Test(driver, takes_not_an_octet_behind_starttls)
{
	struct channel_settings set = plain;
	struct recorder r;

	set.tls = true;
	recorder_open(&r, &set, NULL, 0);
	say(&r, "STARTTLS\r\nNOOP\r\n");
	cr_expect_eq(r.used, 10);
	cr_expect_eq(r.ch.want, WANT_TLS);
	recorder_close(&r);
	recorder_free(&r);
}

#define IDLE "421 4.4.2 mx.example.org Idle too long\r\n"

Test(driver, closes_with_a_reply_of_its_own)
{
	struct recorder r;

	recorder_open(&r, &plain, NULL, 0);
	say(&r, "EHLO c\r\nMAIL FROM:<a>\r\n");
	r.replies.len = 0;
	channel_close(&r.ch, 421, "4.4.2", "Idle too long");
	recorder_drain(&r);
	cr_expect_str_eq(r.replies.p, IDLE);
	cr_expect_eq(r.ch.want, WANT_CLOSE);
	channel_close(&r.ch, 421, "4.3.2", "Going down");
	recorder_drain(&r);
	cr_expect_str_eq(r.replies.p, IDLE, "one goodbye is enough");
	recorder_close(&r);
	cr_expect_null(r.broken, "%s", r.broken);
	recorder_free(&r);
}

/* A good-bye is no error too many: it has a reason of its own. */
Test(driver, closes_with_its_own_reply_after_many_errors)
{
	struct channel_settings set = plain;
	struct recorder r;

	set.max_errors = 1;
	recorder_open(&r, &set, NULL, 0);
	say(&r, "EHLO c\r\nFROB\r\n");
	r.replies.len = 0;
	channel_close(&r.ch, 421, "4.4.2", "Idle too long");
	recorder_drain(&r);
	cr_expect_str_eq(r.replies.p, IDLE);
	recorder_close(&r);
	recorder_free(&r);
}

Test(driver, may_close_in_the_middle_of_a_message)
{
	static const char script[] =
	    "EHLO c\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\nhalf";
	struct recorder r;

	recorder_open(&r, &plain, NULL, 0);
	say(&r, script);
	channel_close(&r.ch, 421, "4.4.2", "Idle too long");
	cr_expect_eq(channel_feed(&r.ch, "\r\n.\r\n", 5), 0);
	recorder_close(&r);
	cr_expect_eq(r.mail.len, 0);
	cr_expect_null(r.broken, "%s", r.broken);
	recorder_free(&r);
}

Test(driver, may_free_a_channel_that_never_was)
{
	static struct channel ch;

	channel_free(&ch);
	channel_free(&ch);
	cr_expect_eq(ch.want, WANT_CLOSE);
	cr_expect_eq(channel_feed(&ch, "NOOP\r\n", 6), 0);
}

Test(driver, reads_session_and_envelope)
{
	static const char script[] = "EHLO client\r\n"
	    "MAIL FROM:<a@example.org> SIZE=9 BODY=8BITMIME SMTPUTF8\r\n"
	    "RCPT TO:<b> NOTIFY=NEVER\r\nRCPT TO:<c>\r\n";
	struct channel_settings set = plain;
	struct recorder r;

	set.enable_SMTPUTF8 = true;
	recorder_open(&r, &set, NULL, 0);
	say(&r, script);
	cr_expect_str_eq(r.ch.seen_greeting, "client");
	cr_expect(r.ch.extended_smtp);
	cr_expect_str_eq(r.ch.mailfrom, "a@example.org");
	cr_expect_str_eq(r.ch.mail_options, "SIZE=9 BODY=8BITMIME SMTPUTF8");
	cr_expect_eq(r.ch.nrcpttos, 2);
	cr_expect_str_eq(r.ch.rcpttos[0].address, "b");
	cr_expect_str_eq(r.ch.rcpttos[0].options, "NOTIFY=NEVER");
	cr_expect_str_eq(r.ch.rcpttos[1].address, "c");
	cr_expect_str_eq(r.ch.rcpttos[1].options, "");
	cr_expect(r.ch.smtp_utf8);
	cr_expect_eq(r.ch.body, BODY_8BITMIME);
	cr_expect_eq(r.ch.declared, 9);
	say(&r, "DATA\r\n..x\r\n.\r\nFROB\r\nHELO other\r\n");
	cr_expect_null(r.ch.mailfrom);
	cr_expect_null(r.ch.mail_options);
	cr_expect_eq(r.ch.nrcpttos, 0);
	cr_expect_not(r.ch.smtp_utf8);
	cr_expect_eq(r.ch.body, BODY_7BIT);
	cr_expect_eq(r.ch.declared, 0);
	cr_expect_eq(r.ch.size, 0);
	cr_expect_eq(r.ch.messages, 1);
	cr_expect_eq(r.ch.errors, 1);
	cr_expect_eq(r.ch.refusal.code, 500);
	cr_expect_str_eq(r.ch.seen_greeting, "other");
	cr_expect_not(r.ch.extended_smtp);
	recorder_close(&r);
	recorder_free(&r);
}

Test(driver, tls_is_recorded_and_what_was_said_before_is_not)
{
	static const char script[] =
	    "EHLO client\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\nSTARTTLS\r\n";
	struct channel_settings set = plain;
	struct recorder r;

	set.tls = true;
	set.auth = "PLAIN";
	recorder_open(&r, &set, NULL, 0);
	say(&r, script);
	cr_expect(r.ch.authenticated);
	cr_expect_str_eq(r.ch.auth_user, "user");
	cr_expect_str_eq(r.ch.auth_method, "PLAIN");
	recorder_tls(&r);
	cr_expect_str_eq(r.ch.tls.protocol, "TLSv1.3");
	cr_expect_str_eq(r.ch.seen_greeting, "");
	cr_expect_not(r.ch.authenticated);
	cr_expect_str_eq(r.ch.auth_user, "");
	cr_expect_str_eq(r.ch.auth_method, "");
	cr_expect_not(r.ch.extended_smtp);
	recorder_close(&r);
	cr_expect_null(r.broken, "%s", r.broken);
	recorder_free(&r);
}

Test(driver, credentials_do_not_stay_in_memory)
{
	static const char secret[] = "AHVzZXIAc2VjcmV0";
	struct channel_settings set = plain;
	struct recorder r;
	size_t i;

	set.auth = "PLAIN";
	recorder_open(&r, &set, NULL, 0);
	say(&r, "EHLO c\r\nAUTH PLAIN\r\n");
	say(&r, secret);
	say(&r, "\r\n");
	cr_assert(r.ch.authenticated);
	for (i = 0; i + strlen(secret) <= sizeof r.ch; i++)
		cr_assert_neq(memcmp((char *)&r.ch + i, secret, strlen(secret)),
		    0, "credentials are still in the channel");
	recorder_close(&r);
	recorder_free(&r);
}

/* ---- who the client is ------------------------------------------------- */

static const struct proxied {
	const char *header;
	size_t len;
	const char *address, *port, *server_address, *server_port;
} proxied[] = {
#define H(s) s, sizeof s - 1
#define V2 "\r\n\r\n\0\r\nQUIT\n"
	{ H("PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\r\n"),
	    "192.0.2.1", "56324", "198.51.100.1", "25" },
	{ H("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
	    "2001:db8::1", "1", "::1", "65535" },
	{ H("PROXY UNKNOWN\r\n"), "unknown", "", "", "" },
	{ H("PROXY UNKNOWN ::1 ::1 1 1\r\n"), "unknown", "", "", "" },
	{ H(V2 "\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\xdc\x04\0\x19"),
	    "192.0.2.1", "56324", "198.51.100.1", "25" },
	{ H(V2 "\x21\x21\0\x24" "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
	    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01" "\0\x01\xff\xff"),
	    "2001:db8::1", "1", "::1", "65535" },
	{ H(V2 "\x21\x21\0\x24" "\x20\x01\0\0\0\x01\0\0\0\0\0\x01\0\x01\0\x01"
	    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" "\0\0\0\x19"),
	    "2001:0:1::1:1:1", "0", "::", "25" },
	{ H("PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:198.51.100.1 56324 25\r\n"),
	    "192.0.2.1", "56324", "198.51.100.1", "25" },
	{ H(V2 "\x21\x21\0\x24" "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01"
	    "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x33\x64\x01" "\xdc\x04\0\x19"),
	    "192.0.2.1", "56324", "198.51.100.1", "25" },
	{ H(V2 "\x20\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\xdc\x04\0\x19"),
	    "unknown", "", "", "" },
	{ H(V2 "\x21\0\0\0"), "unknown", "", "", "" }
};

Test(peer, is_what_the_proxy_header_says)
{
	struct channel_settings set = plain;
	struct recorder r;
	size_t i;

	set.proxy_protocol = true;
	for (i = 0; i < sizeof proxied / sizeof *proxied; i++) {
		const struct proxied *p = &proxied[i];

		recorder_open(&r, &set, NULL, 0);
		cr_expect_eq(r.ch.smtp_state, PHASE_PROXY);
		recorder_feed(&r, p->header, p->len, (struct pace){ .step = 1 });
		cr_expect_eq(r.ch.smtp_state, PHASE_CONNECT, "header %zu", i);
		cr_expect_str_eq(r.ch.peer.address, p->address);
		cr_expect_str_eq(r.ch.peer.port, p->port);
		cr_expect_str_eq(r.ch.peer.server_address, p->server_address);
		cr_expect_str_eq(r.ch.peer.server_port, p->server_port);
		cr_expect_str_eq(r.replies.p, HI);
		recorder_close(&r);
		recorder_free(&r);
	}
}

Test(peer, is_told_with_its_tls_by_a_proxy)
{
	static const char header[] = V2 "\x21\x11\0\x46"
	    "\xc0\0\x02\x01\xc6\x33\x64\x01\xdc\x04\0\x19"
	    "\x02\0\x0emx.example.org"		/* authority: SNI */
	    "\x20\0\x26\x07\0\0\0\0"		/* TLS, certificate, verified */
	    "\x21\0\x07TLSv1.3"
	    "\x22\0\x06" "Client"
	    "\x23\0\x0b" "AES128-SHA1";
	struct channel_settings set = plain;
	struct recorder r;

	set.proxy_protocol = true;
	recorder_open(&r, &set, NULL, 0);
	recorder_feed(&r, header, sizeof header - 1, whole);
	cr_expect_eq(r.used, sizeof header - 1);
	cr_expect(r.ch.ssl);
	cr_expect_str_eq(r.ch.tls.protocol, "TLSv1.3");
	cr_expect_str_eq(r.ch.tls.cipher, "AES128-SHA1");
	cr_expect_str_eq(r.ch.tls.sni, "mx.example.org");
	cr_expect_str_eq(r.ch.tls.subject, "Client");
	recorder_close(&r);
	recorder_free(&r);
}

/* The header, and not an octet more: a handshake may follow. */
Test(peer, tls_may_begin_right_behind_the_header)
{
	static const char script[] =
	    "PROXY TCP4 192.0.2.1 198.51.100.1 56324 465\r\n\x16\x03\x01";
	struct channel_settings set = plain;
	struct recorder r;

	set.proxy_protocol = set.tls_on_connect = true;
	recorder_open(&r, &set, NULL, 0);
	say(&r, script);
	cr_expect_eq(r.used, sizeof script - 1 - 3);
	cr_expect_eq(r.ch.want, WANT_TLS);
	cr_expect_eq(r.replies.len, 0);
	recorder_tls(&r);
	cr_expect_str_eq(r.replies.p, HI);
	cr_expect_str_eq(r.ch.peer.address, "192.0.2.1");
	recorder_close(&r);
	recorder_free(&r);
}

Test(peer, is_what_xclient_says)
{
	static const char script[] = "EHLO proxy\r\n"
	    "XCLIENT NAME=client+2Eexample.net ADDR=IPV6:2001:db8::1\r\n"
	    "XCLIENT PORT=1025 DESTADDR=198.51.100.1 DESTPORT=25\r\n"
	    "XCLIENT HELO=client LOGIN=user\r\n";
	struct channel_settings set = plain;
	struct recorder r;

	set.xclient = true;
	recorder_open(&r, &set, NULL, 0);
	say(&r, script);
	cr_expect_str_eq(r.ch.peer.name, "client.example.net");
	cr_expect_str_eq(r.ch.peer.address, "2001:db8::1");
	cr_expect_str_eq(r.ch.peer.port, "1025");
	cr_expect_str_eq(r.ch.peer.server_address, "198.51.100.1");
	cr_expect_str_eq(r.ch.peer.server_port, "25");
	cr_expect_str_eq(r.ch.seen_greeting, "client");
	cr_expect_str_eq(r.ch.auth_user, "user");
	cr_expect(r.ch.authenticated);
	say(&r, "XCLIENT ADDR=[UNAVAILABLE] NAME=[TEMPUNAVAIL]\r\n");
	cr_expect_str_eq(r.ch.peer.name, "unknown");
	cr_expect_str_eq(r.ch.peer.address, "unknown");
	recorder_close(&r);
	recorder_free(&r);
}

Test(peer, is_what_it_was_if_xclient_is_refused)
{
	static const char script[] = "EHLO proxy\r\n"
	    "XCLIENT NAME=client ADDR=192.0.2.1 HELO=client LOGIN=user X=1\r\n";
	struct channel_settings set = plain;
	struct recorder r;

	set.xclient = true;
	recorder_open(&r, &set, NULL, 0);
	say(&r, script);
	cr_expect_str_eq(r.ch.peer.name, "unknown");
	cr_expect_str_eq(r.ch.peer.address, "unknown");
	cr_expect_str_eq(r.ch.seen_greeting, "proxy");
	cr_expect_str_eq(r.ch.auth_user, "");
	cr_expect_str_eq(r.ch.auth_method, "");
	cr_expect_not(r.ch.authenticated);
	recorder_close(&r);
	recorder_free(&r);
}

static void
note_greeting(void *ctx, struct span name, bool extended, struct reply *r)
{
	char *seen = ctx;

	(void)name;
	(void)r;
	seen[strlen(seen)] = extended ? 'E' : 'H';
}

Test(channel, the_helo_hook_knows_which_greeting_it_was)
{
	static const struct channel_hooks hooks = { .helo = note_greeting };
	static const char said[] = "HELO a\r\nEHLO b\r\nHELO c\r\n";
	struct channel_settings set = { .fqdn = "h.example.org" };
	struct channel ch;
	char seen[8] = "";

	channel_init(&ch, &set, &hooks, seen);
	channel_greet(&ch);
	channel_feed(&ch, said, sizeof said - 1);
	channel_free(&ch);
	cr_assert_str_eq(seen, "HEH");
}
