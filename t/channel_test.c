/*
 * channel_test.c - the suite of the channel.
 *
 * Most of it are transcripts, t/transcripts/NAME.smtp: each is one script, and
 * must read the same however it is cut up.  What a transcript cannot say is
 * said here: what hooks are told, and every verb in every phase.  What an
 * embedder and its driver see is in driver_test.c.
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

/* ---- transcripts, to smtpd ---- */

struct file {
	char name[64];
};

static struct criterion_test_params
files(void)
{
	static struct file all[64];
	glob_t g;
	size_t i;

	cr_assert_eq(glob("t/transcripts/*.smtp", 0, NULL, &g), 0,
	    "t/transcripts/*.smtp is not there");
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
	char *relay[] = { "--", "t/fakes/deliver", file, "{sender}",
		"{recipient}" };
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

/* ---- transcripts, to the channel ---- */

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

/* ---- every verb in every phase ---- */

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
	recorder_say(&r, until[phase]);
	cr_assert_eq(r.ch.smtp_state, lettered[phase]);
	heard = r.replies.len;
	snprintf(line, sizeof line, "%s\r\n", row->line);
	recorder_say(&r, line);
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
	struct channel_settings set = recorder_plain;
	size_t i, j;

	set.tls = set.xclient = set.xforward = true;
	set.auth = "PLAIN";
	for (i = 0; i < sizeof rows / sizeof *rows; i++)
		for (j = 0; j < PHASES; j++)
			try(&set, &rows[i], j);
}

/* ---- what hooks are told, and may say ---- */

/* Plays a script, and compares the hooks' calls. */
static void
calls(const struct channel_settings *set, const struct rule rules[], size_t n,
    const char *script, const char *want)
{
	struct recorder r;

	recorder_open(&r, set, rules, n);
	recorder_say(&r, script);
	recorder_close(&r);
	cr_expect_str_eq(r.calls.p == NULL ? "" : r.calls.p, want);
	cr_expect_null(r.broken, "%s", r.broken);
	recorder_free(&r);
}

#define START "connect <>\n  unknown  unknown  \n"

Test(hooks, are_called_once_for_each_step)
{
	calls(&recorder_plain, NULL, 0,
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

/* The device's name is in Latin-1: hooks get no octet that is not UTF-8. */
Test(hooks, helo_gets_a_name_that_can_be_shown)
{
	calls(&recorder_plain, NULL, 0,
	    "HELO b\xc3\xbcro-drucker\r\nEHLO b\xfcro-drucker\r\n",
	    START "helo <b\xc3\xbcro-drucker>\nhelo <b?ro-drucker>\n");
}

Test(hooks, are_not_asked_about_what_the_channel_refuses)
{
	calls(&recorder_plain, NULL, 0,
	    "MAIL FROM:<a>\r\nVRFY <\r\nEHLO\r\nEHLO client\r\nDATA\r\n"
	    "MAIL FROM:<a> FROB\r\nMAIL FROM:<a\r\nMAIL FROM:<a>\r\n"
	    "RCPT TO:<>\r\nRCPT TO:<b> FROB\r\nDATA\r\nRSET x\r\n",
	    START "helo <client>\nmail <a>\n  \nforget\n");
}

Test(hooks, forget_ends_every_transaction)
{
	calls(&recorder_plain, NULL, 0,
	    "EHLO client\r\nRSET\r\nMAIL FROM:<a>\r\nRSET\r\n"
	    "MAIL FROM:<b>\r\nEHLO client\r\n"
	    "MAIL FROM:<c>\r\nRCPT TO:<d>\r\nDATA\r\nhalf a mess",
	    START "helo <client>\nrset <>\nmail <a>\n  \nrset <>\nforget\n"
	    "mail <b>\n  \nhelo <client>\nforget\n"
	    "mail <c>\n  \nrcpt <d>\n  \ndata <>\nforget\n");
}

Test(hooks, a_refused_message_reaches_no_end)
{
	struct channel_settings set = recorder_plain;

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

	calls(&recorder_plain, rules, 3,
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

	recorder_open(&r, &recorder_plain, gone, 1);
	recorder_group(&r);
	recorder_say(&r, "EHLO client\r\nMAIL FROM:<a@example.org>\r\n"
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
	struct channel_settings set = recorder_plain;

	set.lmtp = true;
	calls(&set, NULL, 0,
	    "LHLO client\r\nMAIL FROM:<a>\r\nBDAT 3 LAST\r\nx\r\nNOOP\r\n",
	    START "helo <client>\nmail <a>\n  \nforget\nnoop <>\n");
}

Test(hooks, auth_gets_mechanism_and_response)
{
	struct channel_settings set = recorder_plain;

	set.auth = "PLAIN LOGIN EXTERNAL";
	calls(&set, NULL, 0,
	    "EHLO client\r\nAUTH login\r\ndXNlcg==\r\n*\r\n"
	    "AUTH External =\r\n",
	    START "helo <client>\nauth <LOGIN>\n  0 \nauth <>\n  1 dXNlcg==\n"
	    "auth <*>\nauth <EXTERNAL>\n  1 \n");
}

/* The mechanisms are unknown for now, and may be known later. */
Test(auth, without_mechanisms_is_no_refusal_for_good)
{
	static const char *const lines[] = {
		"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", "MAIL FROM:<a>\r\n"
	};
	static const struct {
		const char *auth, *offer;
	} lists[] = {
		{ "", NULL }, { "?", NULL },
		{ "EXTERNAL ?", "\r\n250-AUTH EXTERNAL\r\n" },
	};
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.auth_required = true;
	for (size_t i = 0; i < sizeof lists / sizeof *lists * 2; i++) {
		set.auth = lists[i / 2].auth;
		recorder_open(&r, &set, NULL, 0);
		recorder_say(&r, "EHLO c\r\n");
		recorder_say(&r, lines[i % 2]);
		recorder_close(&r);
		if (lists[i / 2].offer == NULL)
			cr_expect_null(strstr(r.replies.p, "250-AUTH"));
		else
			cr_expect_not_null(strstr(r.replies.p,
			    lists[i / 2].offer), "%s", r.replies.p);
		cr_expect_not_null(strstr(r.replies.p, "\n454 4.7.0 "
		    "Authentication is not available\r\n"), "%s: %s", set.auth,
		    lines[i % 2]);
		recorder_free(&r);
	}
}

/* An HTTP request is not taken for a response to a challenge. */
Test(auth, http_in_the_middle_of_auth_is_hung_up_on)
{
	struct channel_settings set = recorder_plain;

	set.auth = "PLAIN";
	calls(&set, NULL, 0,
	    "EHLO c\r\nAUTH PLAIN\r\nPOST / HTTP/1.1\r\nNOOP\r\n",
	    START "helo <c>\nauth <PLAIN>\n  0 \nauth <*>\n");
}

/* The dialogue of these lines shows the word, and not what is secret. */
static void
expect_no_secret(const struct channel_settings *set, const char *lines,
    const char *word)
{
	struct recorder r;

	recorder_open(&r, set, NULL, 0);
	recorder_say(&r, "EHLO c\r\n");
	recorder_say(&r, lines);
	recorder_close(&r);
	cr_expect_null(strstr(r.heard.p, "SECRET"), "%s shows %s", lines,
	    r.heard.p);
	cr_expect_not_null(strstr(r.heard.p, word), "%s", lines);
	recorder_free(&r);
}

Test(hooks, dialogue_has_no_credentials)
{
	static const char *const lines[] = {
		"AUTH PLAIN SECRET==\r\n",
		"auth  plain  SECRET==\r\n",
		"  AUTH PLAIN SECRET==\r\n",
		"AUTH PLAIN SECRET== SECRET==\r\n",
		"AUTH\tPLAIN\tSECRET==\r\n",
		"AUTH=PLAIN SECRET==\r\n",
		"AUTH PLAIN=SECRET==\r\n",
		"AUTH SECRET==\r\n",
		"AUHT PLAIN SECRET==\r\n\r\nAUTH\r\n",
		"\xff\xfb\x01" "AUTH PLAIN SECRET==\r\n\r\nAUTH\r\n",
		"AUHT XOAUTH2 SECRET==\r\n\r\nAUTH\r\n",
		"AUTH PLAIN\r\nSECRET==\r\n",
		"AUTH LOGIN\r\ndXNlcg==\r\nSECRET==\r\n",
		"AUTH PLAIN\r\nSECRET\r\n",
		"AUTH PLAIN SECRET==\n",
		"AUTH OTHER-METHOD SECRET==\r\n",
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
	struct channel_settings set = recorder_plain;
	size_t i;

	set.auth = "PLAIN LOGIN";
	for (i = 0; i < sizeof lines / sizeof *lines; i++)
		expect_no_secret(&set, lines[i], "AUTH");
}

/* Clients of POP3 and IMAP that were given the wrong port. */
Test(hooks, dialogue_has_no_passwords_of_other_protocols)
{
	static const char *const lines[] = {
		"USER joe\r\nPASS SECRET=\r\n",
		"pass SECRET=\r\n",
		"APOP joe SECRET=\r\n",
		"a1 LOGIN joe SECRET=\r\n",
		"login joe SECRET=\r\n",
		"LOGIN\r\njoe\r\nSECRET=\r\n",
		"PLAIN SECRET=\r\n",
		"a1 login {3}\r\njoe {7}\r\nSECRET=\r\n",
		"a1 AUTHENTICATE PLAIN SECRET=\r\n",
		"a1 AUTHENTICATE PLAIN\r\nNOOP\r\nSECRET=\r\n",
	};
	size_t i;

	for (i = 0; i < sizeof lines / sizeof *lines; i++)
		expect_no_secret(&recorder_plain, lines[i], "****");
}

/* Nothing that a hook says can be more than one reply. */
Test(hooks, cannot_forge_a_reply)
{
	static const struct rule rule = {
		MAIL, "", 550, "5.7.1", "a\r250 b\n250 c\r\n250 d\x01\x7f\t\n\n"
	};
	static const char script[] = "EHLO client\r\nMAIL FROM:<a>\r\n";
	struct recorder r;
	const char *reply;

	recorder_open(&r, &recorder_plain, &rule, 1);
	recorder_say(&r, script);
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
	size_t text = 0;

	memset(rule.text, 'x', sizeof rule.text - 1);
	recorder_open(&r, &recorder_plain, &rule, 1);
	recorder_say(&r, script);
	recorder_close(&r);
	for (p = r.replies.p; *p != '\0'; p = end + 2) {
		end = strstr(p, "\r\n");
		cr_assert_not_null(end);
		cr_expect_leq(end + 2 - p, 512);	/* RFC 5321 4.5.3.1.5 */
		if (strncmp(p, "550", 3) == 0)
			text += strspn(p + strlen("550-5.7.1 "), "x");
	}
	cr_expect_eq(text, sizeof rule.text - 1);
	recorder_free(&r);
}

/* ---- reply_set ---- */

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
