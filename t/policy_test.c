/*
 * policy.c against false peers: a policy service and a Dovecot that do what a
 * script says, checkpassword programs of a few lines of shell, and password
 * files.
 */
#define _GNU_SOURCE	/* explicit_bzero */

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <crypt.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/smtp.h"
#include "service/auth_source.h"
#include "service/policy.h"

#define ROOM 65536
/* 33 octets: three of them and 9 more are the most that a socket's path has. */
#define DIGITS "012345678901234567890123456789012"

/* One test's surroundings: a directory, a log, perhaps a peer. */
struct bench {
	char dir[32];
	char place[64];		/* "unix:DIR/socket" */
	char log[ROOM];		/* what was logged, line by line */
	struct logger logger;
	pid_t peer;
	struct envelope env;
	struct recipient recipients[2];
	struct reply v;
	struct service_message message;	/* as the service left it */
	char prepend[SERVICE_PREPEND];
	char user[256];
	char text[ROOM];	/* of a file that was read back */
};

static void
note(void *ctx, int priority, const char *event, const struct envelope *env,
    const char *text)
{
	struct bench *b = ctx;
	size_t len = strlen(b->log);

	(void)priority;
	(void)env;
	snprintf(b->log + len, sizeof b->log - len, "%s: %s\n", event, text);
}

static struct bench *
open_bench(void)
{
	struct bench *b = calloc(1, sizeof *b);
	size_t i;

	cr_assert_not_null(b);
	signal(SIGPIPE, SIG_IGN);
	snprintf(b->dir, sizeof b->dir, "/tmp/policy.XXXXXX");
	cr_assert_not_null(mkdtemp(b->dir));
	snprintf(b->place, sizeof b->place, "unix:%s/socket", b->dir);
	b->logger.log = note;
	b->logger.ctx = b;
	b->recipients[0].address = "r1@example.org";
	b->recipients[0].options = "";
	b->recipients[1].address = "r2@example.org";
	b->recipients[1].options = "";
	b->env.recipients = b->recipients;
	b->env.nrecipients = 1;
	for (i = 0; i < FACTS; i++)
		b->env.fact[i] = "";
	b->env.fact[FACT_SENDER] = "s@example.com";
	b->env.fact[FACT_CLIENT_ADDRESS] = "192.0.2.1";
	b->env.fact[FACT_CLIENT_PORT] = "40000";
	b->env.fact[FACT_CLIENT_NAME] = "unknown";
	b->env.fact[FACT_CLIENT_HELO] = "client.example.com";
	b->env.fact[FACT_CLIENT_PROTOCOL] = "ESMTP";
	b->env.fact[FACT_SERVER_ADDRESS] = "192.0.2.2";
	b->env.fact[FACT_SERVER_PORT] = "25";
	return b;
}

static const char *
path(const struct bench *b, const char *name)
{
	static char paths[4][96];
	static unsigned which;
	char *p = paths[which++ % 4];

	snprintf(p, sizeof paths[0], "%s/%s", b->dir, name);
	return p;
}

static void
save(const struct bench *b, const char *name, const char *text, mode_t mode)
{
	int fd = open(path(b, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
	    mode);

	cr_assert_neq(fd, -1);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static const char *
load(struct bench *b, const char *name)
{
	int fd = open(path(b, name), O_RDONLY | O_CLOEXEC);
	ssize_t n = fd == -1 ? 0 : read(fd, b->text, sizeof b->text - 1);

	close(fd);
	b->text[n] = '\0';
	return b->text;
}

/* ---- a peer that follows a script -------------------------------------- */

/* Reads until end, and appends it to the file "heard". */
static void
hear(const struct bench *b, int fd, const char *end)
{
	char heard[ROOM];
	size_t len = 0, n = strlen(end);
	int to = open(path(b, "heard"), O_WRONLY | O_CREAT | O_APPEND, 0600);

	while (len < sizeof heard && read(fd, heard + len, 1) == 1)
		if (++len >= n && memcmp(heard + len - n, end, n) == 0)
			break;
	if (write(to, heard, len) != (ssize_t)len)
		_exit(1);
	close(to);
}

/*
 * "<" hears, ">text" says, "x" hangs up and waits for the next client, "w"
 * waits until the client hangs up, "g" until the test opens the FIFO "go", and
 * "d" until it opens the FIFO "done".
 */
static void
play(const struct bench *b, int listener, const char *end,
    const char *const *script)
{
	int fd = accept(listener, NULL, NULL);
	char c;

	for (; *script != NULL; script++) {
		if (**script == '<')
			hear(b, fd, end);
		else if (**script == '>' && send(fd, *script + 1,
		    strlen(*script + 1), MSG_NOSIGNAL) == -1)
			continue;
		else if (**script == 'g')
			close(open(path(b, "go"), O_RDONLY | O_CLOEXEC));
		else if (**script == 'd')
			close(open(path(b, "done"), O_WRONLY | O_CLOEXEC));
		else if (**script == 'w')
			while (read(fd, &c, 1) > 0)
				;
		else if (**script == 'x') {
			close(fd);
			fd = accept(listener, NULL, NULL);
		}
	}
	close(fd);
	close(listener);
}

static void
peer(struct bench *b, const char *end, const char *const *script)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(at.sun_path, sizeof at.sun_path, "%s", b->place + 5);
	cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	cr_assert_eq(listen(fd, 5), 0);
	b->peer = fork();
	cr_assert_neq(b->peer, -1);
	if (b->peer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		play(b, fd, end, script);
		_exit(0);
	}
	close(fd);
}

/* The peer has come to its script's end, and what it heard is complete. */
static const char *
heard(struct bench *b)
{
	int status;

	cr_assert_eq(waitpid(b->peer, &status, 0), b->peer);
	cr_assert_eq(status, 0);
	b->peer = 0;
	return load(b, "heard");
}

static void
close_bench(struct bench *b)
{
	char command[64];

	if (b->peer != 0) {
		kill(b->peer, SIGKILL);
		waitpid(b->peer, NULL, 0);
	}
	snprintf(command, sizeof command, "rm -rf %s", b->dir);
	cr_assert_eq(system(command), 0);
	free(b);
}

/* ---- the policy service ------------------------------------------------- */

static void *
open_policy(struct bench *b)
{
	char error[256] = "";
	void *p = service_policy.open(b->place, &(struct service_settings){ .timeout = 1, .log = &b->logger }, error,
	    sizeof error);

	cr_assert_not_null(p, "%s", error);
	return p;
}

static void
ask(struct bench *b, void *p, enum stage stage)
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
says(const struct bench *b, int code, const char *enh, const char *text)
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
	const char *p;

	for (p = text; *p != '\0'; p += strcspn(p, "\n") + 1)
		if (strncmp(p, name, len) == 0 && p[len] == '=' && nth-- == 0)
			break;
	cr_assert(*p != '\0', "no %s in %s", name, text);
	p += len + 1;
	snprintf(v, sizeof values[0], "%.*s", (int)strcspn(p, "\n"), p);
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
	void *p;
	char error[512];
	size_t i;

	for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		error[0] = '\0';
		p = service_policy.open(bad[i], &(struct service_settings){ .timeout = 1, .log = &none }, error, sizeof error);
		cr_expect_null(p, "%s", bad[i]);
		cr_expect(error[0] != '\0' && strchr(error, '\n') == NULL);
	}
	for (i = 0; i < sizeof good / sizeof good[0]; i++) {
		p = service_policy.open(good[i], &(struct service_settings){ .timeout = 1, .log = &none }, error, sizeof error);
		cr_expect_not_null(p, "%s", good[i]);
		service_policy.close(p);
	}
	service_policy.close(NULL);
}

Test(policy, question_is_postfix_s)
{
	static const char *const script[] = { "<", ">action=dunno\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);
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
	peer(b, "\n\n", script);
	ask(b, p, STAGE_RCPT);
	says(b, 250, "", "");
	cr_assert_str_eq(b->prepend, "");
	heard(b);
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
	service_policy.close(p);
	close_bench(b);
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
	struct bench *b = open_bench();
	void *p = open_policy(b);
	unsigned i;

	for (i = 0; i < N; i++) {
		script[2 * i] = "<";
		script[2 * i + 1] = ">action=OK\n\n";
	}
	peer(b, "\n\n", script);
	b->env.size = 4711;
	b->env.fact[FACT_MAIL_OPTIONS] = "SIZE=1";
	for (i = 0; i < N; i++) {
		b->env.nrecipients = rows[i].n;
		ask(b, p, rows[i].stage);
		says(b, 250, "", "");
	}
	heard(b);
	for (i = 0; i < N; i++) {
		cr_expect_str_eq(value(b->text, "protocol_state", i),
		    rows[i].state);
		cr_expect_str_eq(value(b->text, "recipient", i),
		    rows[i].recipient);
		cr_expect_str_eq(value(b->text, "recipient_count", i),
		    rows[i].count);
		cr_expect_str_eq(value(b->text, "size", i), "4711");
	}
	service_policy.close(p);
	close_bench(b);
}

Test(policy, only_the_stages_that_were_named)
{
	static const char *const script[] = { "<", ">action=REJECT\n\n", "<",
	    ">action=REJECT\n\n", NULL };
	struct bench *b = open_bench();
	void *p;
	char service[80];
	int stage;

	snprintf(service, sizeof service, "vrfy,Rcpt=%s", b->place);
	p = service_policy.open(service, &(struct service_settings){ .timeout = 1, .log = &b->logger }, b->text, sizeof b->text);
	cr_assert_not_null(p);
	peer(b, "\n\n", script);
	for (stage = 0; stage < STAGES; stage++) {
		cr_assert_eq(service_policy.asks(p, (enum stage)stage),
		    stage == STAGE_RCPT || stage == STAGE_VRFY);
		ask(b, p, (enum stage)stage);
		says(b, stage == STAGE_RCPT || stage == STAGE_VRFY ? 554 : 250,
		    b->v.enh, NULL);
		cr_assert_str_eq(b->prepend, "");
	}
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

Test(policy, instance_is_one_for_a_message)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "<",
	    ">action=OK\n\n", "<", ">action=OK\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	ask(b, p, STAGE_RCPT);
	service_policy.forget(p);
	ask(b, p, STAGE_MAIL);
	heard(b);
	cr_assert_str_eq(value(b->text, "instance", 0),
	    value(b->text, "instance", 1));
	cr_assert_str_neq(value(b->text, "instance", 1),
	    value(b->text, "instance", 2));
	service_policy.close(p);
	close_bench(b);
}

Test(policy, values_make_no_lines_and_unix_is_localhost)
{
	static const char *const script[] = { "<", ">action=OK\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	b->env.fact[FACT_SENDER] = "a\nsasl_username=root\n\nb\r\t\177@c";
	b->env.fact[FACT_CLIENT_ADDRESS] = "unix";
	b->env.fact[FACT_CLIENT_PORT] = "";
	b->env.fact[FACT_CLIENT_PROTOCOL] = "UTF8LMTP";
	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	heard(b);
	cr_assert_str_eq(value(b->text, "sender", 0),
	    "a?sasl_username=root??b???@c");
	cr_assert_str_eq(value(b->text, "sasl_username", 0), "");
	cr_assert_str_eq(value(b->text, "client_address", 0), "127.0.0.1");
	cr_assert_str_eq(value(b->text, "client_name", 0), "localhost");
	cr_assert_str_eq(value(b->text, "reverse_client_name", 0),
	    "localhost");
	cr_assert_str_eq(value(b->text, "client_port", 0), "unknown");
	cr_assert_str_eq(value(b->text, "protocol_name", 0), "LMTP");
	service_policy.close(p);
	close_bench(b);
}

/* One mailbox has one spelling there, as in Postfix. */
Test(policy, quoted_addresses_are_unquoted)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "<",
	    ">action=OK\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	b->env.fact[FACT_SENDER] = "\"Se\\cret\"@Example.org";
	b->recipients[0].address = "\"a b\\\"@c\"@example.org";
	ask(b, p, STAGE_RCPT);
	b->env.fact[FACT_SENDER] = "";
	b->recipients[0].address = "r1@example.org";
	ask(b, p, STAGE_RCPT);
	heard(b);
	cr_assert_str_eq(value(b->text, "sender", 0), "Secret@Example.org");
	cr_assert_str_eq(value(b->text, "recipient", 0),
	    "a b\"@c@example.org");
	cr_assert_str_eq(value(b->text, "sender", 1), "");
	cr_assert_str_eq(value(b->text, "recipient", 1), "r1@example.org");
	service_policy.close(p);
	close_bench(b);
}

Test(policy, question_that_has_no_room_is_not_asked)
{
	struct bench *b = open_bench();
	void *p = open_policy(b);
	static char big[9000];

	memset(big, 'a', sizeof big - 1);
	b->env.fact[FACT_SENDER] = big;
	ask(b, p, STAGE_MAIL);
	says(b, 451, "4.3.5", NULL);
	cr_assert(strstr(b->log, "too long"));
	service_policy.close(p);
	close_bench(b);
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
		struct bench *b = open_bench();
		void *p = open_policy(b);
		char answer[256];
		const char *script[] = { "<", answer, NULL };

		snprintf(answer, sizeof answer, ">action=%s\n\n",
		    answers[i].answer);
		peer(b, "\n\n", script);
		ask(b, p, STAGE_RCPT);
		cr_expect_eq(b->v.code, answers[i].code, "%s: %d",
		    answers[i].answer, b->v.code);
		cr_expect_str_eq(b->v.enh, answers[i].enh, "%s: %s",
		    answers[i].answer, b->v.enh);
		cr_expect_str_eq(b->v.text, answers[i].text, "%s: %s",
		    answers[i].answer, b->v.text);
		cr_expect_str_eq(b->prepend, answers[i].prepend);
		cr_expect((strcmp(b->v.enh, "4.3.5") == 0) ==
		    (strstr(b->log, b->place) != NULL), "%s", b->log);
		heard(b);
		service_policy.close(p);
		close_bench(b);
	}
}

Test(policy, actions_that_last_until_the_transaction_ends)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "<",
	    ">action=REDIRECT a@example.net\n\n", "<", ">action=OK\n\n", "<",
	    ">action=redirect b@example.net\n\n", "<",
	    ">action=DISCARD spam\n\n", "<", ">action=WARN careful\n\n",
	    NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	b->env.nrecipients = 2;
	ask(b, p, STAGE_END_OF_MESSAGE);
	cr_assert_eq(b->message.env.recipients, b->recipients);
	cr_assert_eq(b->message.env.nrecipients, 2);
	cr_assert_not(b->message.discard);
	ask(b, p, STAGE_RCPT);
	ask(b, p, STAGE_END_OF_MESSAGE);
	cr_assert_eq(b->message.env.nrecipients, 1);
	cr_assert_str_eq(b->message.env.recipients[0].address,
	    "a@example.net");
	cr_assert_str_eq(b->message.env.recipients[0].options, "");
	ask(b, p, STAGE_DATA);
	ask(b, p, STAGE_END_OF_MESSAGE);
	cr_assert_str_eq(b->message.env.recipients[0].address,
	    "b@example.net");
	cr_assert(b->message.discard);
	cr_assert(strstr(b->log, "policy: END-OF-MESSAGE: spam\n"));
	service_policy.forget(p);
	ask(b, p, STAGE_END_OF_MESSAGE);
	cr_assert_eq(b->message.env.recipients, b->recipients);
	cr_assert_not(b->message.discard);
	cr_assert(strstr(b->log, "policy: END-OF-MESSAGE: careful\n"));
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

Test(policy, defer_if_reject_softens_what_follows)
{
	static const char *const script[] = { "<",
	    ">action=DEFER_IF_REJECT 4.4.3 DNS is down\n\n", "<",
	    ">action=REJECT\n\n", "<", ">action=550 no\n\n", "<",
	    ">action=451 4.2.0 busy\n\n", "<", ">action=REJECT\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	says(b, 250, "", "");
	ask(b, p, STAGE_RCPT);
	says(b, 450, "4.4.3", "DNS is down");
	ask(b, p, STAGE_RCPT);
	says(b, 450, "4.4.3", "DNS is down");
	ask(b, p, STAGE_RCPT);
	says(b, 451, "4.2.0", "busy");
	service_policy.forget(p);
	ask(b, p, STAGE_MAIL);
	says(b, 554, "5.7.1", "Access denied");
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

Test(policy, message_actions_without_a_message_are_ignored)
{
	static const char *const script[] = { "<", ">action=DISCARD\n\n", "<",
	    ">action=REDIRECT a@b\n\n", "<", ">action=PREPEND X: y\n\n", "<",
	    ">action=PREPEND X: y\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_CONNECT);
	ask(b, p, STAGE_EHLO);
	ask(b, p, STAGE_VRFY);
	cr_assert_str_eq(b->prepend, "");
	ask(b, p, STAGE_END_OF_MESSAGE);
	cr_assert_str_eq(b->prepend, "");
	says(b, 250, "", "");
	cr_assert_not(b->message.discard);
	cr_assert_eq(b->message.env.recipients, b->recipients);
	cr_assert(strstr(b->log, "DISCARD ignored at CONNECT"));
	cr_assert(strstr(b->log, "REDIRECT ignored at EHLO"));
	cr_assert(strstr(b->log, "PREPEND ignored at VRFY"));
	cr_assert(strstr(b->log, "too late"));
	heard(b);
	service_policy.close(p);
	close_bench(b);
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
		struct bench *b = open_bench();
		void *p = open_policy(b);
		const char *script[] = { "<", rows[i].answer, NULL };

		if (rows[i].answer[0] == 'x')
			script[1] = NULL;
		peer(b, "\n\n", script);
		ask(b, p, STAGE_MAIL);
		cr_expect_eq(b->v.code, 451, "%.20s", rows[i].answer);
		cr_expect_str_eq(b->v.enh, "4.3.5");
		cr_expect(strstr(b->log, rows[i].log), "%.20s: %s",
		    rows[i].answer, b->log);
		service_policy.close(p);
		close_bench(b);
	}
}

Test(policy, further_attributes_of_an_answer_are_ignored)
{
	static const char *const script[] = { "<",
	    ">ttl=3\naction=REJECT x=y\nmore=\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	says(b, 554, "5.7.1", "x=y");
	service_policy.close(p);
	close_bench(b);
}

Test(policy, unreachable)
{
	struct bench *b = open_bench();
	void *p = open_policy(b);

	ask(b, p, STAGE_CONNECT);
	says(b, 451, "4.3.5", UNSURE_TEXT);
	cr_assert(strstr(b->log, b->place) && strstr(b->log, "CONNECT"));
	service_policy.close(p);
	close_bench(b);
}

/* Two connections: the first is found closed, the second answers. */
Test(policy, stale_connection_is_reopened)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "x", "<",
	    ">action=REJECT\n\n", "<", ">action=OK\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	says(b, 250, "", "");
	ask(b, p, STAGE_RCPT);
	says(b, 554, "5.7.1", NULL);
	ask(b, p, STAGE_RCPT);
	says(b, 250, "", "");
	cr_assert_str_eq(b->log, "");
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

Test(policy, stale_connection_is_reopened_only_once)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "x", "<",
	    "x", "<", ">action=OK\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	ask(b, p, STAGE_RCPT);
	says(b, 451, "4.3.5", NULL);
	ask(b, p, STAGE_RCPT);
	says(b, 250, "", "");
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

/* What was answered, however badly, is not asked again. */
Test(policy, garbage_is_no_sign_of_staleness)
{
	static const char *const script[] = { "<", ">action=OK\n\n", "<",
	    ">hello\n\n", "x", "<", ">action=OK\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	ask(b, p, STAGE_RCPT);
	says(b, 451, "4.3.5", NULL);
	ask(b, p, STAGE_RCPT);
	says(b, 250, "", "");
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

/* An answer to nothing is not the answer to the next question. */
Test(policy, unasked_answer_is_dropped)
{
	static const char *const script[] = { "<",
	    ">action=DUNNO\n\naction=OK\n\n", "x", "<", ">action=REJECT\n\n",
	    NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	ask(b, p, STAGE_RCPT);
	says(b, 554, "5.7.1", NULL);
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

/* After silence the late answer must not be taken for the next one. */
Test(policy, late_answer_is_dropped)
{
	static const char *const script[] = { "<", "w", ">action=OK\n\n", "x",
	    "<", ">action=REJECT\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	says(b, 451, "4.3.5", NULL);
	ask(b, p, STAGE_RCPT);
	says(b, 554, "5.7.1", NULL);
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

/* Nor is a second answer that comes after the first was read. */
Test(policy, second_answer_is_not_the_next_question_s)
{
	static const char *const script[] = { "<", ">action=DUNNO\n\n", "g",
	    ">action=OK\n\n", "d", "x", "<", ">action=REJECT\n\n", NULL };
	struct bench *b = open_bench();
	void *p = open_policy(b);

	cr_assert_eq(mkfifo(path(b, "go"), 0600), 0);
	cr_assert_eq(mkfifo(path(b, "done"), 0600), 0);
	peer(b, "\n\n", script);
	ask(b, p, STAGE_MAIL);
	says(b, 250, "", NULL);
	close(open(path(b, "go"), O_WRONLY | O_CLOEXEC));
	close(open(path(b, "done"), O_RDONLY | O_CLOEXEC));
	ask(b, p, STAGE_RCPT);
	says(b, 554, "5.7.1", NULL);
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

Test(policy, service_on_the_network)
{
	static const char *const script[] = { "<", ">action=REJECT\n\n", NULL };
	struct bench *b = open_bench();
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	void *p;

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(bind(fd, (struct sockaddr *)&at, len), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	cr_assert_eq(listen(fd, 5), 0);
	snprintf(b->place, sizeof b->place, "inet:127.0.0.1:%d",
	    ntohs(at.sin_port));
	b->peer = fork();
	if (b->peer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		play(b, fd, "\n\n", script);
		_exit(0);
	}
	close(fd);
	p = open_policy(b);
	ask(b, p, STAGE_MAIL);
	says(b, 554, "5.7.1", NULL);
	heard(b);
	service_policy.close(p);
	close_bench(b);
}

/* ---- authentication ----------------------------------------------------- */

static struct auth *
open_auth(struct bench *b, const char *kind, const char *name)
{
	char source[128], error[256] = "";
	struct auth *a;

	snprintf(source, sizeof source, "%s:%s", kind, path(b, name));
	a = auth_open(source, 1, &b->logger, error, sizeof error);
	cr_assert_not_null(a, "%s", error);
	auth_limit(a, 0);
	return a;
}

static int
step(struct bench *b, struct auth *a, const char *name, const char *response)
{
	memset(&b->v, 0, sizeof b->v);
	memset(b->user, 'x', sizeof b->user);
	auth_step(a, &b->env, name, response, &b->v, b->user, sizeof b->user);
	cr_assert_not_null(memchr(b->user, '\0', sizeof b->user));
	cr_assert_eq(b->v.code == 235, b->user[0] != '\0');
	return b->v.code;
}

/* len octets of s in base64. */
static const char *
base64(const char *s, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	    "abcdefghijklmnopqrstuvwxyz0123456789+/";
	static char out[4][2048];
	static unsigned which;
	char *to = out[which++ % 4], *p = to;
	unsigned bits;
	size_t i;

	for (i = 0; i < len; i += 3) {
		bits = (unsigned)(unsigned char)s[i] << 16;
		if (i + 1 < len)
			bits |= (unsigned)(unsigned char)s[i + 1] << 8;
		if (i + 2 < len)
			bits |= (unsigned)(unsigned char)s[i + 2];
		*p++ = digits[bits >> 18];
		*p++ = digits[bits >> 12 & 63];
		*p++ = i + 1 < len ? digits[bits >> 6 & 63] : '=';
		*p++ = i + 2 < len ? digits[bits & 63] : '=';
	}
	*p = '\0';
	return to;
}

#define B64(s) base64(s, sizeof(s) - 1)

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
	save(b, "users", file, 0600);
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
	{ TEXT("\0plain\0secret"), 535, "5.7.8", "" },
	{ TEXT("\0# users\0x"), 535, "5.7.8", "" },
	{ TEXT("\0bad\0secret"), 454, "4.7.0", "" },
	{ TEXT("\0joe\0"), 535, "5.7.8", "" },
	{ TEXT("\0\0secret"), 535, "5.7.8", "" },
	{ TEXT("\0joe\nx\0secret"), 535, "5.7.8", "" },
	{ TEXT("joe\0secret"), 501, "5.5.2", "" },
	{ TEXT("\0joe\0secret\0"), 501, "5.5.2", "" },
	{ TEXT("joe"), 501, "5.5.2", "" },
};

/* And what is none: not canonical, or not decodable at all. */
static const char *const malformed[] = {
	"=", "", "A", "AGpvZQBzZWNyZXQ", "AGpvZQBzZWNyZXR=",
	"AGpvZQBzZWNyZQ=A", "====", "A===", "AGpv\nZQA", "AGpv\tQQA", "AG-_",
};

Test(auth, plain)
{
	struct bench *b = open_bench();
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
	close_bench(b);
}

Test(auth, login)
{
	struct bench *b = open_bench();
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
	close_bench(b);
}

Test(auth, external)
{
	struct bench *b = open_bench();
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
	close_bench(b);
}

/* Processor time of a refusal, in clock(3)'s ticks. */
static clock_t
cost(struct bench *b, struct auth *a, const char *response)
{
	clock_t before = clock();

	cr_assert_eq(step(b, a, "PLAIN", response), 535);
	return clock() - before;
}

/* The monitor counts, for an intruder in the channel process does not. */
Test(auth, after_three_failures_the_source_is_not_asked)
{
	struct bench *b = open_bench();
	char source[128];
	struct auth *a;
	int i;

	save(b, "check", "#!/bin/sh\nread -r x <&3\necho >>${0%/*}/asked\n"
	    "exit 1\n", 0700);
	snprintf(source, sizeof source, "checkpassword:%s", path(b, "check"));
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
	cr_assert_str_eq(load(b, "asked"), "\n\n\n");
	auth_close(a);
	close_bench(b);
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
	struct bench *b = open_bench();
	char file[512] = "off:!\n";
	clock_t known, unknown, locked, none;
	struct auth *a;

	save(b, "users", file, 0600);
	a = open_auth(b, "file", "users");
	none = cost(b, a, B64("\0joe\0x"));
	strcat(file, "joe:$6$rounds=200000$saltsalt$unmatched\n");
	save(b, "users", file, 0600);
	known = cost(b, a, B64("\0joe\0x"));
	unknown = cost(b, a, B64("\0nobody\0x"));
	locked = cost(b, a, B64("\0off\0x"));
	cr_assert_lt(10 * none, known);
	cr_assert_lt(known, 2 * unknown);
	cr_assert_lt(known, 2 * locked);
	auth_close(a);
	close_bench(b);
}

/* A hash that can not be checked is a fault, whoever asks. */
Test(auth, file_with_nothing_but_nonsense_is_no_refusal)
{
	struct bench *b = open_bench();
	struct auth *a = open_auth(b, "file", "users");

	save(b, "users", "# none\njoe:$9$nonsense\n", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0nobody\0secret")), 454);
	save(b, "users", "joe:$9$nonsense\n" "eve:" OPENSSL "\n", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0eve\0secret")), 235);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0eve\0x")), 535);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0nobody\0secret")), 535);
	cr_assert(strstr(b->log, "users: line 2: crypt(3) does not support this hash"));
	auth_close(a);
	close_bench(b);
}

Test(auth, file_that_can_not_be_read_is_no_refusal)
{
	struct bench *b = open_bench();
	struct auth *a = open_auth(b, "file", "users");

	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert_str_eq(b->v.enh, "4.7.0");
	cr_assert(strstr(b->log, "users: No such file"));
	cr_assert_eq(mkdir(path(b, "users"), 0700), 0);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert(strstr(b->log, "users: Is a directory"));
	cr_assert_eq(rmdir(path(b, "users")), 0);
	save(b, "users", "", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 535);
	save(b, "users", "joe:!\n", 0600);
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 535);
	auth_close(a);
	close_bench(b);
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

#define HANDSHAKE ">VERSION\t1\t2\nMECH\tPLAIN\tplaintext\n" \
	"MECH\tLOGIN\tplaintext\nMECH\tSCRAM-SHA-256\tmutual-auth\n" \
	"MECH\tANONYMOUS\tanonymous\nMECH\tAPOP\tprivate\tactive\n" \
	"MECH\tEXTERNAL\nMECH\tSCRAM-SHA-256-PLUS\nMECH\tlower\n" \
	"MECH\tWAY-TOO-LONG-A-NAME-FOR-IT\nMECH\t\nMECH\n" \
	"MECH\tBLANK IN\nSPID\t1\nCUID\t1\nCOOKIE\tabc\nDONE\n"

Test(auth, credentials_are_wiped)
{
	static const char *const script[] = { "<", "<", HANDSHAKE, "<",
	    ">FAIL\t1\tuser=joe\n", NULL };
	struct bench *b = open_bench();
	struct auth *a = open_file(b);

	leave_nothing(b, a, 535);
	auth_close(a);
	save(b, "check", "#!/bin/sh\nexit 1\n", 0700);
	a = open_auth(b, "checkpassword", "check");
	leave_nothing(b, a, 535);
	auth_close(a);
	peer(b, "\n", script);
	a = open_auth(b, "dovecot", "socket");
	leave_nothing(b, a, 535);
	auth_close(a);
	close_bench(b);
}

/* ---- checkpassword ------------------------------------------------------ */

Test(auth, checkpassword_is_called_as_agreed)
{
	struct bench *b = open_bench();
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
	save(b, "check", script, 0700);
	/* Somebody's descriptor without FD_CLOEXEC. */
	cr_assert_eq(dup2(STDERR_FILENO, 77), 77);
	a = open_auth(b, "checkpassword", "check one  $(two) 'three");
	cr_assert_str_eq(auth_mechanisms(a, &b->env), "PLAIN LOGIN");
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret ;'")), 235);
	cr_assert_str_eq(b->user, "joe");
	f = fopen(path(b, "message"), "r");
	cr_assert_not_null(f);
	cr_assert_eq(fread(message, 1, sizeof message, f), 15);
	cr_assert_eq(memcmp(message, "joe\0secret ;'\0\0", 15), 0);
	fclose(f);
	cr_assert_str_eq(load(b, "argv"),
	    "4|one|$(two)|'three|/bin/true\n");
	cr_assert_str_eq(load(b, "environ"),
	    "PATH=/usr/local/bin:/usr/bin:/bin\n");
	cr_assert(strstr(load(b, "fds"), "2\n3\n"));
	cr_assert_null(strstr(b->text, "77\n"));
	cr_assert_str_eq(load(b, "null"), "0\n1\n2\n");
	auth_close(a);
	close_bench(b);
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
	struct bench *b = open_bench();
	struct auth *a;
	size_t i;

	for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		b->log[0] = '\0';
		save(b, "check", rows[i].script, 0700);
		a = open_auth(b, "checkpassword", "check");
		cr_expect_eq(step(b, a, "PLAIN", B64("\0joe\0secret")),
		    rows[i].code, "%s: %d", rows[i].script, b->v.code);
		cr_expect(rows[i].log[0] == '\0' ? b->log[0] == '\0' :
		    strstr(b->log, rows[i].log) != NULL, "%s: %s",
		    rows[i].script, b->log);
		cr_expect_null(strstr(b->log, "secret"));
		auth_close(a);
	}
	cr_assert_eq(chmod(path(b, "check"), 0600), 0);
	a = open_auth(b, "checkpassword", "check");
	cr_assert_eq(step(b, a, "LOGIN", B64("joe")), 334);
	cr_assert_eq(step(b, a, NULL, B64("secret")), 454);
	cr_assert(strstr(b->log, "Permission denied"));
	auth_close(a);
	close_bench(b);
}

/* As any program of ours: no signal is ignored or blocked in it. */
Test(auth, checkpassword_has_every_signal_s_default)
{
	struct bench *b = open_bench();
	struct auth *a;
	int n;

	save(b, "check", "#!/bin/sh\ngrep -E '^Sig(Ign|Blk)' /proc/self/status "
	    ">${0%/*}/signals\nexit 0\n", 0700);
	for (n = SIGRTMIN; n <= SIGRTMAX; n++)
		signal(n, SIG_IGN);
	a = open_auth(b, "checkpassword", "check");
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 235);
	cr_assert_str_eq(load(b, "signals"), "SigBlk:\t0000000000000000\n"
	    "SigIgn:\t0000000000000000\n");
	auth_close(a);
	close_bench(b);
}

/* It and its children are gone, not left behind. */
Test(auth, checkpassword_that_hangs_is_killed)
{
	struct bench *b = open_bench();
	struct auth *a;
	struct pollfd gone = { .events = POLLIN };
	char script[256], c;
	int fd;

	cr_assert_eq(mkfifo(path(b, "alive"), 0600), 0);
	fd = open(path(b, "alive"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	gone.fd = fd;
	snprintf(script, sizeof script, "#!/bin/sh\nexec 9>%s/alive\n"
	    "sleep 1000 & wait\n", b->dir);
	save(b, "check", script, 0700);
	a = open_auth(b, "checkpassword", "check");
	cr_assert_eq(step(b, a, "PLAIN", B64("\0joe\0secret")), 454);
	cr_assert(strstr(b->log, "no answer in time"));
	/* End of file: nobody has the other end open any more. */
	cr_assert_eq(poll(&gone, 1, 60000), 1);
	cr_assert_eq(read(fd, &c, 1), 0);
	cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1);
	auth_close(a);
	close_bench(b);
}

Test(auth, checkpassword_gets_no_more_than_512_octets)
{
	struct bench *b = open_bench();
	struct auth *a;
	char text[600];

	save(b, "check", "#!/bin/sh\nexit 0\n", 0700);
	a = open_auth(b, "checkpassword", "check");
	memset(text, 'a', sizeof text);
	memcpy(text, "\0joe\0", 5);
	cr_assert_eq(step(b, a, "PLAIN", base64(text, 5 + 506)), 235);
	cr_assert_eq(step(b, a, "PLAIN", base64(text, 5 + 507)), 535);
	auth_close(a);
	close_bench(b);
}

/* ---- Dovecot ------------------------------------------------------------ */

static struct auth *
open_dovecot(struct bench *b, const char *const *script)
{
	peer(b, "\n", script);
	return open_auth(b, "dovecot", "socket");
}

#define HELLO "<", "<", HANDSHAKE

Test(auth, dovecot_s_mechanisms)
{
	static const char *const script[] = { HELLO, "w", NULL };
	struct bench *b = open_bench();
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
	cr_assert_str_eq(heard(b), expected);
	close_bench(b);
}

Test(auth, dovecot_plain)
{
	static const char *const script[] = { HELLO, "<",
	    ">OK\t1\tuser=joe@example.org\toriginal_user=joe\n", "<",
	    ">FAIL\t2\tuser=joe\n", "<", ">FAIL\t3\tuser=joe\ttemp\n", "<",
	    ">FAIL\t4\tuser=joe\tcode=temp_fail\n", "<",
	    ">OK\t5\tuser=a\001\061b\n", "<", ">OK\t6\n", "<",
	    ">OK\t7\tuser=a\001nb\n", "<", ">OK\t8\tuser=\n", "<",
	    ">FAIL\t9\tuser=joe\tuser_disabled\n", NULL };
	struct bench *b = open_bench();
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
	heard(b);
	cr_assert(strstr(b->text, "AUTH\t1\tPLAIN\tservice=smtp\tsecured\t"
	    "nologin\tlip=192.0.2.2\trip=2001:db8::1\tlport=25\trport=40000\t"
	    "resp=AGpvZQBzZWNyZXQ=\n"), "%s", b->text);
	cr_assert(strstr(b->text, "rport=40000\tresp=\n"));
	cr_assert(strstr(b->text, "AUTH\t3\tPLAIN\tservice=smtp\tsecured\t"
	    "nologin\tlip=192.0.2.2\tlport=25\n"));
	cr_assert_null(strstr(b->log, "AGpvZ"));
	auth_close(a);
	close_bench(b);
}

Test(auth, dovecot_goes_on)
{
	static const char *const script[] = { HELLO, "<",
	    ">FAIL\t7\tuser=other\nCONT\t1\tYWJj\n", "<", ">CONT\t1\t\n", "<",
	    ">OK\t1\tuser=joe\n", NULL };
	struct bench *b = open_bench();
	struct auth *a = open_dovecot(b, script);

	cr_assert_eq(step(b, a, "SCRAM-SHA-256", "bixh"), 334);
	cr_assert_str_eq(b->v.text, "YWJj");
	cr_assert_str_eq(b->v.enh, "");
	cr_assert_eq(step(b, a, NULL, "Yz1i"), 334);
	cr_assert_str_eq(b->v.text, "");
	cr_assert_eq(step(b, a, NULL, ""), 235);
	cr_assert_str_eq(b->user, "joe");
	cr_assert_eq(step(b, a, NULL, ""), 503);
	cr_assert(strstr(heard(b), "\nCONT\t1\tYz1i\nCONT\t1\t\n"));
	auth_close(a);
	close_bench(b);
}

Test(auth, dovecot_is_told_when_an_exchange_ends_early)
{
	static const char *const script[] = { HELLO, "<", ">CONT\t1\t\n", "<",
	    "<", ">CONT\t2\t\n", "<", "<", ">CONT\t3\t\n", "<", "<",
	    ">OK\t4\tuser=joe\n", NULL };
	struct bench *b = open_bench();
	struct auth *a = open_dovecot(b, script);

	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	auth_abandon(a);
	cr_assert_eq(step(b, a, NULL, "YQ=="), 503);
	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	cr_assert_eq(step(b, a, NULL, "YQ==\tx"), 501);
	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	cr_assert_eq(step(b, a, "PLAIN", "YQ=="), 235);
	heard(b);
	cr_assert(strstr(b->text, "CANCEL\t1\nAUTH\t2\t"));
	cr_assert(strstr(b->text, "CANCEL\t2\nAUTH\t3\t"));
	cr_assert(strstr(b->text, "CANCEL\t3\nAUTH\t4\t"));
	auth_close(a);
	close_bench(b);
}

Test(auth, dovecot_never_sees_what_is_not_base64)
{
	static const char *const script[] = { HELLO, "w", NULL };
	static const char *const bad[] = { "YQ==\tresp=YQ==", "YQ==\n", "YQ",
	    "YQ==\nAUTH\t9\tPLAIN", "Y\001n=" };
	struct bench *b = open_bench();
	struct auth *a = open_dovecot(b, script);
	size_t i;

	for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_assert_eq(step(b, a, "PLAIN", bad[i]), 501);
	auth_close(a);
	cr_assert_null(strstr(heard(b), "AUTH"));
	close_bench(b);
}

Test(auth, dovecot_that_went_away_is_found_again)
{
	static const char *const script[] = { HELLO, "<", ">FAIL\t1\n", "x",
	    HELLO, "<", ">OK\t3\tuser=joe\n", NULL };
	struct bench *b = open_bench();
	struct auth *a = open_dovecot(b, script);

	cr_assert_eq(step(b, a, "PLAIN", "YQ=="), 535);
	cr_assert_eq(step(b, a, "PLAIN", "YQ=="), 235);
	cr_assert_str_eq(b->log, "");
	heard(b);
	auth_close(a);
	close_bench(b);
}

Test(auth, dovecot_that_fails)
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
		{ { HELLO, "<", many, "w" }, "no reply to our request in 256 lines" },
	};
	size_t i;

	memset(big, 'A', sizeof big - 1);
	memcpy(big, ">CONT\t1\t", 8);
	big[8 + 1024] = '\n';
	big[8 + 1025] = '\0';
	for (i = 0; i < 300; i++)
		strcat(many, "OK\t0\n");
	for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct bench *b = open_bench();
		struct auth *a = open_dovecot(b, rows[i].script);

		cr_expect_eq(step(b, a, "PLAIN", "YQ=="), 454, "%zu: %d", i,
		    b->v.code);
		cr_expect(strstr(b->log, rows[i].log), "%zu: %s", i, b->log);
		auth_close(a);
		close_bench(b);
	}
}

Test(auth, dovecot_that_is_not_there)
{
	struct bench *b = open_bench();
	struct auth *a = open_auth(b, "dovecot", "socket");

	cr_assert_str_eq(auth_mechanisms(a, &b->env), "");
	b->env.fact[FACT_CLIENT_USER] = "alice";
	cr_assert_str_eq(auth_mechanisms(a, &b->env), "EXTERNAL");
	cr_assert_eq(step(b, a, "PLAIN", NULL), 454);
	cr_assert_str_eq(b->v.enh, "4.7.0");
	cr_assert(strstr(b->log, "socket: "));
	auth_close(a);
	close_bench(b);
}

/* What was begun on one connection is not gone on with on another. */
Test(auth, dovecot_that_goes_away_in_the_middle)
{
	static const char *const script[] = { HELLO, "<", ">CONT\t1\t\n", "x",
	    HELLO, "<", ">OK\t2\tuser=joe\n", NULL };
	struct bench *b = open_bench();
	struct auth *a = open_dovecot(b, script);

	cr_assert_eq(step(b, a, "PLAIN", NULL), 334);
	cr_assert_eq(step(b, a, NULL, "YQ=="), 454);
	cr_assert_eq(step(b, a, "PLAIN", "YQ=="), 235);
	heard(b);
	auth_close(a);
	close_bench(b);
}
