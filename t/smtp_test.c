/*
 * smtp_test.c - tests the SMTP client against a false peer.
 *
 * The peer is a child that plays a script, one step a line:
 *	> TEXT	says TEXT and CRLF
 *	= TEXT	says TEXT, with \r \n \0 \e as in C, an octet at a time
 *	+ TEXT	the same, at once
 *	* N C	says the octet C, N times
 *	< TEXT	reads a line, which must be TEXT; "< TEXT..." its beginning
 *	.	reads a message to its final dot, and keeps it as it came
 *	#	reads BDAT with LAST and its octets, and keeps those
 *	N CODE	answers N lines of RCPT, those to "bad..." by 550, CODE else
 *	@	waits for a hang-up; a final dot would be wrong by now
 *	!	hangs up; !! by a reset; the next step is the next connection
 * At the end it waits for a hang-up, and "QUIT" is answered before it.
 */
#define _GNU_SOURCE	/* memfd_create, MAP_ANONYMOUS */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/smtp.h"

#define KEEP (8 * 1024 * 1024)

/* What the peer leaves behind. */
struct found {
	char fault[512];
	size_t len;		/* octets of messages */
	char message[KEEP];
};

struct peer {
	pid_t pid;
	int stop;		/* closed by us: nobody will come any more */
	char where[128];
	struct found *found;
};

/* One end of the conversation, in the child. */
struct actor {
	int listener, stop, fd;
	FILE *in;
	struct found *found;
};

static _Noreturn void
fail(struct actor *a, const char *wanted, const char *got)
{
	snprintf(a->found->fault, sizeof a->found->fault,
	    "wanted \"%.200s\", got \"%.200s\"", wanted, got);
	_exit(1);
}

/* Waits for the next connection, if there is none.  A script may end with
   one that is not to be made. */
static void
meet(struct actor *a)
{
	struct pollfd p[2] = {
		{ .fd = a->listener, .events = POLLIN },
		{ .fd = a->stop, .events = POLLIN },
	};

	if (a->in != NULL)
		return;
	if (poll(p, 2, -1) < 1)
		_exit(2);
	if (p[0].revents == 0)
		_exit(0);
	a->fd = accept(a->listener, NULL, NULL);
	if (a->fd == -1)
		_exit(2);
	a->in = fdopen(a->fd, "r");
}

static void
leave(struct actor *a, bool harsh)
{
	struct linger l = { .l_onoff = 1, .l_linger = 0 };

	if (harsh)
		setsockopt(a->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
	fclose(a->in);
	a->in = NULL;
}

/* A line without its CRLF; false at the end. */
static bool
hear_line(struct actor *a, char *line, size_t size)
{
	size_t n;

	if (fgets(line, (int)size, a->in) == NULL)
		return false;
	n = strlen(line);
	if (n < 2 || strcmp(line + n - 2, "\r\n") != 0)
		fail(a, "a line that ends in CRLF", line);
	line[n - 2] = '\0';
	return true;
}

static void
expect(struct actor *a, const char *wanted)
{
	size_t n = strlen(wanted);
	char line[8192];

	if (!hear_line(a, line, sizeof line))
		fail(a, wanted, "(end of file)");
	if (n > 3 && strcmp(wanted + n - 3, "...") == 0 ?
	    strncmp(wanted, line, n - 3) != 0 : strcmp(wanted, line) != 0)
		fail(a, wanted, line);
}

static void
utter(struct actor *a, const char *text, size_t len)
{
	ssize_t n;

	for (; len > 0; text += n, len -= (size_t)n) {
		n = send(a->fd, text, len, MSG_NOSIGNAL);
		if (n == -1)
			return;
	}
}

/* Says it with its escapes replaced, at once or octet by octet. */
static void
utter_raw(struct actor *a, const char *p, bool slowly)
{
	static const char names[] = "rne0", octets[] = "\r\n\033\0";
	char text[4096];
	size_t i, n = 0;

	for (; *p != '\0' && n < sizeof text; p++)
		if (*p == '\\' && p[1] != '\0' && strchr(names, p[1]) != NULL)
			text[n++] = octets[strchr(names, *++p) - names];
		else
			text[n++] = *p;
	for (i = 0; i < n; i += slowly ? 1 : n)
		utter(a, text + i, slowly ? 1 : n);
}

static void
keep(struct actor *a, int c)
{
	if (c == EOF || a->found->len == KEEP)
		fail(a, "more of a message", "(end of file)");
	a->found->message[a->found->len++] = (char)c;
}

static void
take_text(struct actor *a)
{
	size_t start = a->found->len, n;
	const char *m = a->found->message + start;

	do {
		keep(a, getc(a->in));
		n = a->found->len - start;
	} while (!(n == 3 && memcmp(m, ".\r\n", 3) == 0) &&
	    !(n >= 5 && memcmp(m + n - 5, "\r\n.\r\n", 5) == 0));
}

static void
take_chunk(struct actor *a)
{
	size_t n;
	char line[80], last[8];

	if (!hear_line(a, line, sizeof line) ||
	    sscanf(line, "BDAT %zu %7s", &n, last) != 2 ||
	    strcmp(last, "LAST") != 0)
		fail(a, "BDAT", line);
	while (n-- > 0)
		keep(a, getc(a->in));
}

static void
answer_rcpts(struct actor *a, const char *arguments)
{
	char line[8192], reply[8192 + 32];
	int n, code;

	if (sscanf(arguments, "%d %d", &n, &code) != 2)
		fail(a, "N CODE", arguments);
	while (n-- > 0) {
		if (!hear_line(a, line, sizeof line) ||
		    strncmp(line, "RCPT TO:<", 9) != 0)
			fail(a, "RCPT", line);
		snprintf(reply, sizeof reply, "%d %s %s\r\n",
		    strncmp(line + 9, "bad", 3) == 0 ? 550 : code,
		    strncmp(line + 9, "bad", 3) == 0 ? "5.1.1" : "2.1.5",
		    line);
		utter(a, reply, strlen(reply));
	}
}

static void
wait_for_end(struct actor *a)
{
	char line[65536];

	while (fgets(line, sizeof line, a->in) != NULL)
		if (strcmp(line, "QUIT\r\n") == 0)
			utter(a, "221 2.0.0 Bye\r\n", 15);
		else if (strcmp(line, ".\r\n") == 0)
			fail(a, "no final dot", line);
}

static void
step(struct actor *a, const char *line)
{
	const char *text = line[0] == '\0' || line[1] == '\0' ? "" : line + 2;
	int n, c;

	meet(a);
	switch (line[0]) {
	case '>':
		utter(a, text, strlen(text));
		utter(a, "\r\n", 2);
		break;
	case '=':
	case '+':
		utter_raw(a, text, line[0] == '=');
		break;
	case '*':
		n = atoi(text);
		for (c = text[strlen(text) - 1]; n > 0; n--)
			utter(a, &(char){ (char)c }, 1);
		break;
	case '<':
		expect(a, text);
		break;
	case '.':
		take_text(a);
		break;
	case '#':
		take_chunk(a);
		break;
	case 'N':
		answer_rcpts(a, text);
		break;
	case '@':
		wait_for_end(a);
		leave(a, false);
		break;
	case '!':
		leave(a, line[1] == '!');
		break;
	default:
		fail(a, "a step", line);
	}
}

static _Noreturn void
play(struct actor *a, const char *script)
{
	char line[4096];
	size_t n;

	alarm(60);
	for (; *script != '\0'; script += n + (script[n] == '\n')) {
		n = strcspn(script, "\n");
		snprintf(line, sizeof line, "%.*s", (int)n, script);
		step(a, line);
	}
	if (a->in != NULL)
		wait_for_end(a);
	_exit(0);
}

/* The resolver: two.example.net has two addresses, silent.example.net none
   that ever comes. */
int
getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
    struct addrinfo **list)
{
	int (*real)(const char *, const char *, const struct addrinfo *,
	    struct addrinfo **);
	static struct addrinfo a[2];
	static struct sockaddr_in in[2];
	int i;

	if (strcmp(host, "silent.example.net") == 0)
		for (;;)
			pause();
	if (strcmp(host, "two.example.net") != 0) {
		*(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
		return real(host, port, hints, list);
	}
	for (i = 0; i < 2; i++) {
		in[i].sin_family = AF_INET;
		in[i].sin_port = htons((in_port_t)atoi(port));
		in[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 -
		    (in_addr_t)i);
		a[i].ai_addr = (struct sockaddr *)&in[i];
		a[i].ai_addrlen = sizeof in[i];
		a[i].ai_next = i == 0 ? &a[1] : NULL;
	}
	*list = a;
	return 0;
}

static char dir[64];		/* for sockets and files, one per test */

static void
set_up(void)
{
	snprintf(dir, sizeof dir, "/tmp/nexthop.XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
}

static void
tear_down(void)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", dir);
	cr_expect_eq(system(command), 0);
}

TestSuite(nexthop, .init = set_up, .fini = tear_down);
TestSuite(stream, .init = set_up, .fini = tear_down);

static int
listen_unix(char where[128])
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	static int n;

	snprintf(un.sun_path, sizeof un.sun_path, "%s/%d", dir, n++);
	snprintf(where, 128, "unix:%s", un.sun_path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
	cr_assert_eq(listen(fd, 8), 0);
	return fd;
}

/* On 127.0.0.2, and that port. */
static int
listen_second(unsigned port)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
	in.sin_port = htons((in_port_t)port);
	cr_assert_eq(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
	cr_assert_eq(listen(fd, 8), 0);
	return fd;
}

/* On 127.0.0.1; returns the port too. */
static int
listen_inet(char where[128], unsigned *port)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	socklen_t len = sizeof in;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
	cr_assert_eq(listen(fd, 8), 0);
	getsockname(fd, (struct sockaddr *)&in, &len);
	*port = ntohs(in.sin_port);
	snprintf(where, 128, "[127.0.0.1]:%u", *port);
	return fd;
}

/* Starts a peer at listener, which is ours no more. */
static void
start_at(struct peer *p, int listener, const char *script)
{
	struct actor a = { .listener = listener };
	int stop[2];

	cr_assert_eq(pipe(stop), 0);
	p->stop = stop[1];
	a.stop = stop[0];
	p->found = mmap(NULL, sizeof *p->found, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(p->found, MAP_FAILED);
	a.found = p->found;
	p->pid = fork();
	if (p->pid == 0) {
		close(stop[1]);
		play(&a, script);
	}
	close(stop[0]);
	close(listener);
}

static void
start(struct peer *p, const char *script)
{
	start_at(p, listen_unix(p->where), script);
}

/* Waits for its end; it must have seen what its script wants. */
static void
finish(struct peer *p, const char *name)
{
	int status;

	close(p->stop);
	cr_assert_eq(waitpid(p->pid, &status, 0), p->pid);
	cr_expect_str_eq(p->found->fault, "", "%s: peer: %s", name,
	    p->found->fault);
	cr_expect_eq(status, 0, "%s: peer ended by %#x", name, status);
	munmap(p->found, sizeof *p->found);
}

static char logged[65536];	/* all warnings */
static char informed[2048];	/* the last record below */

static void
take_log(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	size_t n = strlen(logged);

	(void)ctx, (void)env;
	if (priority > LOG_WARNING) {
		snprintf(informed, sizeof informed, "%s %s\n", event, text);
		return;
	}
	cr_expect_eq(strcspn(text, "\r\n\033"), strlen(text), "%s", text);
	snprintf(logged + n, sizeof logged - n, "%s %s\n", event, text);
}

static struct relay_settings settings = {
	.fqdn = "smtpd.example.org", .log = { .log = take_log }
};

#define RECIPIENTS_MAX 1001

/* An envelope, and what it lends. */
struct post {
	struct envelope env;
	struct recipient to[RECIPIENTS_MAX];
	struct reply v[RECIPIENTS_MAX];
	int spool;
	enum spool_form form;
	char *list;		/* what to[] points into */
};

static void
write_spool(struct post *m, const char *text, size_t len)
{
	m->spool = memfd_create("spool", MFD_CLOEXEC);
	m->form = SPOOL_CRLF;
	cr_assert_eq(write(m->spool, text, len), (ssize_t)len);
	m->env.size = len;
}

/* To recipients, separated by spaces. */
static struct post *
post(const char *recipients, const char *text)
{
	struct post *m = calloc(1, sizeof *m);
	char *word, *save = NULL;
	size_t i;

	for (i = 0; i < FACTS; i++)
		m->env.fact[i] = "";
	m->env.fact[FACT_SENDER] = "s@example.org";
	m->env.recipients = m->to;
	m->list = strdup(recipients);
	for (word = strtok_r(m->list, " ", &save); word != NULL;
	    word = strtok_r(NULL, " ", &save)) {
		m->to[m->env.nrecipients].options = "";
		m->to[m->env.nrecipients++].address = word;
	}
	write_spool(m, text, strlen(text));
	return m;
}

static void
post_free(struct post *m)
{
	close(m->spool);
	free(m->list);
	free(m);
}

/* Offers and sends it; returns the verdicts, a line each. */
static const char *
relay_by(struct nexthop *h, struct post *m, int ms)
{
	static char all[RECIPIENTS_MAX * 64 + REPLY_TEXT];
	int64_t deadline = clock_now() + ms;
	size_t i, n = 0;

	memset(m->v, 0xa5, sizeof m->v);
	nexthop_offer(h, &m->env, m->spool, deadline, m->v);
	nexthop_send(h, &m->env, m->spool, m->form, deadline, m->v);
	all[0] = '\0';
	for (i = 0; i < m->env.nrecipients && n < sizeof all; i++)
		n += (size_t)snprintf(all + n, sizeof all - n, "%d %s %s\n",
		    m->v[i].code, m->v[i].enh, m->v[i].text);
	return all;
}

#define PATIENT 20000		/* milliseconds that no test uses up */

/* One message to one peer, and what comes of it. */
struct scene {
	const char *name;
	const char *peer;
	const char *verdicts;
	const char *to;		/* NULL: a@example.net */
	const char *text;	/* NULL: "x\r\n" */
	const char *got;	/* NULL: whatever */
	enum nexthop_protocol protocol;
};

static void
run_scenes(const struct scene *scene, size_t n)
{
	struct nexthop *h;
	struct peer p;
	struct post *m;
	const char *got;

	for (; n > 0; n--, scene++) {
		start(&p, scene->peer);
		h = nexthop_open(&settings, scene->protocol, p.where, -1);
		m = post(scene->to ? scene->to : "a@example.net",
		    scene->text ? scene->text : "x\r\n");
		got = relay_by(h, m, PATIENT);
		cr_expect_str_eq(got, scene->verdicts,
		    "%s: got %s", scene->name, got);
		nexthop_close(h);
		post_free(m);
		if (scene->got != NULL)
			cr_expect(p.found->len == strlen(scene->got) &&
			    memcmp(p.found->message, scene->got,
			    p.found->len) == 0, "%s: got \"%.*s\"",
			    scene->name, (int)p.found->len, p.found->message);
		finish(&p, scene->name);
	}
}


/* Pieces of scripts. */
#define EHLO "> 220 mx.example.net ESMTP\n< EHLO smtpd.example.org\n"
#define PLAIN EHLO "> 250 mx.example.net\n"
#define OFFERS(x) EHLO "> 250-mx.example.net\n> 250 " x "\n"
#define OFFERS2(x, y) \
	EHLO "> 250-mx.example.net\n> 250-" x "\n> 250 " y "\n"
#define LHLO(x) "> 220 mx.example.net LMTP\n< LHLO smtpd.example.org\n" \
	"> 250-mx.example.net\n> 250 " x "\n"
#define FROM "< MAIL FROM:<s@example.org>\n"
#define MAIL FROM "> 250 2.1.0 Ok\n"
#define TO "< RCPT TO:<a@example.net>\n"
#define RCPT TO "> 250 2.1.5 Ok\n"
#define TEXT "< DATA\n> 354 Go\n.\n"
#define QUEUED "> 250 2.0.0 Queued\n"
#define TAKEN "250 2.0.0 Queued\n"

Test(nexthop, dialogue)
{
	static const struct scene scenes[] = {
		{ .name = "no extension", PLAIN MAIL RCPT TEXT QUEUED, TAKEN,
		    .got = "x\r\n.\r\n" },
		{ .name = "HELO", "> 220 mx\n< EHLO smtpd.example.org\n"
		    "> 502 5.5.1 What?\n< HELO smtpd.example.org\n"
		    "> 250 mx\n" MAIL RCPT TEXT "> 250 Fine\n",
		    "250 2.0.0 Fine\n" },
		{ .name = "EHLO answered by 4yz", "> 220 mx\n"
		    "< EHLO smtpd.example.org\n> 451 4.3.0 Not now\n",
		    "451 4.3.0 Not now\n" },
		{ .name = "greeting in lines",
		    "> 220-mx\n> 220-be nice\n> 220 ESMTP\n"
		    "< EHLO smtpd.example.org\n> 250 mx\n"
		    MAIL RCPT TEXT QUEUED, TAKEN },
		{ .name = "greeting of 554", "> 554 5.7.1 Go away\n",
		    "451 4.7.1 Go away\n" },
		{ .name = "greeting of 250", "> 250 Ok\n",
		    "451 4.5.0 Next hop broke the protocol\n" },
		{ .name = "MAIL refused, its words kept", PLAIN FROM
		    "> 550-5.7.1 First: no.\n> 550 5.7.1 Second: never.\n",
		    "550 5.7.1 First: no.\nSecond: never.\n" },
		{ .name = "enhanced code of another class", PLAIN FROM
		    "> 550 4.2.1 Odd\n", "550 5.0.0 4.2.1 Odd\n" },
		{ .name = "no enhanced code, no text", PLAIN FROM "> 451\n",
		    "451 4.0.0 \n" },
		{ .name = "a code that only looks enhanced", PLAIN FROM
		    "> 550 5.1234.1 Odd\n", "550 5.0.0 5.1234.1 Odd\n" },
		{ .name = "one without a subject", PLAIN FROM
		    "> 550 5..1 Odd\n", "550 5.0.0 5..1 Odd\n" },
		{ .name = "one of two numbers", PLAIN FROM
		    "> 550 5.1 Odd\n", "550 5.0.0 5.1 Odd\n" },
		{ .name = "one without a detail", PLAIN FROM
		    "> 550 5.1. Odd\n", "550 5.0.0 5.1. Odd\n" },
		{ .name = "one with a long detail", PLAIN FROM
		    "> 550 5.1.1234 Odd\n", "550 5.0.0 5.1.1234 Odd\n" },
		{ .name = "one with something behind it", PLAIN FROM
		    "> 550 5.1.1x Odd\n", "550 5.0.0 5.1.1x Odd\n" },
		{ .name = "one that is a version", PLAIN FROM
		    "> 550 55.1.1 Odd\n", "550 5.0.0 55.1.1 Odd\n" },
		{ .name = "one of two recipients refused", PLAIN MAIL
		    "N 2 250\n" TEXT QUEUED,
		    TAKEN "550 5.1.1 RCPT TO:<bad@example.net>\n",
		    .to = "a@example.net bad@example.net" },
		{ .name = "all refused", OFFERS("PIPELINING") MAIL "N 2 250\n",
		    "550 5.1.1 RCPT TO:<bad@example.net>\n"
		    "550 5.1.1 RCPT TO:<bad2@example.net>\n",
		    .to = "bad@example.net bad2@example.net" },
		{ .name = "MAIL refused in a group", OFFERS("PIPELINING") FROM
		    "> 550 5.7.1 No\nN 2 250\n",
		    "550 5.7.1 No\n550 5.7.1 No\n",
		    .to = "a@example.net bad2@example.net" },
		{ .name = "DATA refused", PLAIN MAIL RCPT
		    "< DATA\n> 451 4.3.1 Disk full\n",
		    "451 4.3.1 Disk full\n" },
		{ .name = "DATA answered by 250",
		    PLAIN MAIL RCPT "< DATA\n> 250 Ok\n",
		    "451 4.5.0 Next hop broke the protocol\n" },
		{ .name = "354 to RCPT", PLAIN MAIL TO "> 354 Go\n",
		    "451 4.5.0 Next hop broke the protocol\n" },
		{ .name = "221 to MAIL", PLAIN FROM "> 221 Bye\n",
		    "451 4.5.0 Next hop broke the protocol\n" },
		{ .name = "251 to RCPT", PLAIN MAIL TO "> 251 Elsewhere\n"
		    TEXT QUEUED, TAKEN },
		{ .name = "refused at the end", PLAIN MAIL RCPT TEXT
		    "> 554 5.6.0 Spam\n", "554 5.6.0 Spam\n" },
		{ .name = "a reply in pieces", PLAIN FROM
		    "= 250-2.1.0 a\\r\\n250 2.1.0 b\\r\\n\n" RCPT TEXT
		    "= 250-2.0.0 One\\r\\n250 2.0.0 Two\\r\\n\n",
		    "250 2.0.0 One\nTwo\n" },
		{ .name = "replies that end in LF", "= 220 mx\\n\n"
		    "< EHLO smtpd.example.org\n= 250 mx\\n\n"
		    MAIL RCPT TEXT QUEUED, TAKEN },
		{ .name = "control characters", PLAIN FROM
		    "= 550 5.7.1 a\\0b\\ec\\rd\\r\\n\n",
		    "550 5.7.1 abcd\n" },
		{ .name = "a reply to nothing",
		    "+ 220 mx\\r\\n250 Surplus\\r\\n\n",
		    "451 4.5.0 Next hop broke the protocol\n" },
		{ .name = "a reply before the dot", PLAIN MAIL RCPT "< DATA\n"
		    "+ 354 Go\\r\\n552 5.3.4 Too big\\r\\n\n@\n",
		    "552 5.3.4 Too big\n" },
		{ .name = "success before the dot", PLAIN MAIL RCPT "< DATA\n"
		    "+ 354 Go\\r\\n250 2.0.0 Done\\r\\n\n@\n",
		    "451 4.5.0 Next hop broke the protocol\n" },
	};

	run_scenes(scenes, COUNT(scenes));
}

/* What a peer may do to us at any step, and what it comes to. */
struct blow {
	const char *name, *step, *verdict;
	int ms;
	bool doubt;		/* at the end it may have taken the message */
};

/* Up to each step of a dialogue. */
static const char *const stages[] = {
	"",
	EHLO,
	PLAIN FROM,
	PLAIN MAIL TO,
	PLAIN MAIL RCPT "< DATA\n",
	OFFERS("PIPELINING") FROM TO,
	OFFERS("PIPELINING") FROM TO "> 250 Ok\n",
	OFFERS("XFORWARD NAME") "< XFORWARD NAME=[UNAVAILABLE]\n",
	/* Those from here on have the message. */
	PLAIN MAIL RCPT TEXT,
	OFFERS("CHUNKING") MAIL RCPT "#\n",
};

#define FIRST_WITH_MESSAGE 8

static void
strike(const char *stage, const struct blow *b, bool doubt)
{
	char script[16384], wanted[512];
	struct nexthop *h;
	const char *got;
	struct peer p;
	struct post *m;

	snprintf(script, sizeof script, "%s%s", stage, b->step);
	snprintf(wanted, sizeof wanted, "%s\n", b->verdict);
	logged[0] = '\0';
	start(&p, script);
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	m = post("a@example.net", "x\r\n");
	got = relay_by(h, m, b->ms);
	cr_expect_str_eq(got, wanted, "%s at \"%s\": %s", b->name, stage, got);
	cr_expect_eq(strstr(logged, "duplicate-possible") != NULL, doubt,
	    "%s at \"%s\": logged %s", b->name, stage, logged);
	nexthop_close(h);
	post_free(m);
	finish(&p, b->name);
}

static void
strike_everywhere(const struct blow *b)
{
	size_t i;

	for (i = 0; i < COUNT(stages); i++)
		strike(stages[i], b, b->doubt && i >= FIRST_WITH_MESSAGE);
}

#define LOST "451 4.4.2 Connection to next hop lost"
#define GARBLED "451 4.5.0 Next hop broke the protocol"

Test(nexthop, closing_at_each_step)
{
	strike_everywhere(&(struct blow){ "close", "!\n", LOST, PATIENT,
	    true });
}

Test(nexthop, end_inside_a_line_at_each_step)
{
	strike_everywhere(&(struct blow){ "cut", "= 250 2.0.0 Ok\n!\n", LOST,
	    PATIENT, true });
}

Test(nexthop, hangs_up_politely_at_each_step)
{
	strike_everywhere(&(struct blow){ "421",
	    "> 421 4.3.2 Shutting down\n", "451 4.3.2 Shutting down", PATIENT,
	    false });
}

Test(nexthop, garbage_at_each_step)
{
	static const char *const garbage[] = {
		"> Hello\n", "> 25\n", "> 2500 Ok\n", "> 250_Ok\n",
		"> 199 Ok\n", "> 600 Ok\n", "= \\0\\0\\e\\r\\n\n",
		"> 250-Ok\n> Ok\n", "> 334 Ok\n",
		"> 221 Ok\n",
	};
	size_t i;

	for (i = 0; i < COUNT(garbage); i++)
		strike_everywhere(&(struct blow){ garbage[i], garbage[i],
		    GARBLED, PATIENT, true });
}

/* The deadline is short where its passing alone matters, and longer where
   the message must have gone out before it. */
Test(nexthop, silence_at_each_step)
{
	struct blow b = { "silence", "@\n", "451 4.4.2 Next hop timed out",
	    500, true };
	size_t i;

	for (i = 0; i < FIRST_WITH_MESSAGE; i++)
		strike(stages[i], &b, false);
	b.ms = 3000;
	for (; i < COUNT(stages); i++)
		strike(stages[i], &b, true);
}

Test(nexthop, endless_reply)
{
	char script[16000], *p = script;
	int i;

	for (i = 0; i < 1001; i++)
		p += sprintf(p, "> 250-more\n");
	strike(PLAIN FROM, &(struct blow){ "endless", script, GARBLED, PATIENT,
	    false }, false);
}

Test(nexthop, long_reply_lines_are_cut)
{
	struct nexthop *h;
	struct peer p;
	struct post *m;

	start(&p, PLAIN FROM "+ 550-5.7.1 \n* 10000 a\n+ \\r\\n550 5.7.1 \n"
	    "* 10000 b\n> \n");
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	m = post("a@example.net", "x\r\n");
	relay_by(h, m, PATIENT);
	cr_expect_eq(m->v[0].code, 550);
	cr_expect_str_eq(m->v[0].enh, "5.7.1");
	cr_expect_eq(strspn(m->v[0].text, "a"), 1023 - 10);
	cr_expect_lt(strlen(m->v[0].text), REPLY_TEXT);
	nexthop_close(h);
	post_free(m);
	finish(&p, "long lines");
}

/* A peer that reads no further until its long reply to each recipient is
   taken, over small buffers: who sends without end gets stuck. */
Test(nexthop, thousand_recipients_in_groups)
{
	char *list = malloc(250000), *p = list;
	int i, size = 4096, listener;
	struct nexthop *h;
	struct peer peer;
	struct post *m;
	unsigned port;

	for (i = 0; i < 1000; i++)
		p += sprintf(p, "%s%0180d@example.net ", i % 100 == 7 ? "bad" :
		    "a", i);
	listener = listen_inet(peer.where, &port);
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	start_at(&peer, listener, OFFERS("PIPELINING") MAIL "N 1000 250\n"
	    TEXT QUEUED);
	h = nexthop_open(&settings, NEXTHOP_SMTP, peer.where, -1);
	m = post(list, "x\r\n");
	relay_by(h, m, PATIENT);
	for (i = 0; i < 1000; i++)
		cr_expect_eq(m->v[i].code, i % 100 == 7 ? 550 : 250, "%d", i);
	cr_expect_str_eq(m->v[999].text, "Queued");
	cr_expect(strncmp(m->v[7].text, "RCPT TO:<bad0", 13) == 0);
	nexthop_close(h);
	post_free(m);
	free(list);
	finish(&peer, "thousand");
}

/* Two messages by one next hop. */
struct pair {
	const char *name, *peer, *first, *second;
};

static void
run_pairs(const struct pair *pair, size_t n)
{
	struct nexthop *h;
	const char *got;
	struct peer p;
	struct post *m;

	for (; n > 0; n--, pair++) {
		logged[0] = '\0';
		start(&p, pair->peer);
		h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
		m = post("a@example.net", "x\r\n");
		got = relay_by(h, m, PATIENT);
		cr_expect_str_eq(got, pair->first, "%s: 1: %s", pair->name,
		    got);
		got = relay_by(h, m, PATIENT);
		cr_expect_str_eq(got, pair->second, "%s: 2: %s", pair->name,
		    got);
		cr_expect(logged[0] == '\0' || (strchr(logged, '\n')[1] ==
		    '\0' && strstr(logged, pair->first) != NULL), "%s: %s",
		    pair->name, logged);
		nexthop_close(h);
		post_free(m);
		finish(&p, pair->name);
	}
}

#define ONE PLAIN MAIL RCPT TEXT QUEUED
#define NEXT MAIL RCPT TEXT QUEUED
/* More than was asked for, and in the same packet. */
#define SAID(x) \
	PLAIN MAIL RCPT TEXT "+ 250 2.0.0 Queued\\r\\n" x "\\r\\n\n"

Test(nexthop, kept_open_and_opened_again)
{
	static const struct pair pairs[] = {
		{ "kept", ONE NEXT "< QUIT\n> 221 2.0.0 Bye\n", TAKEN,
		    TAKEN },
		{ "closed while idle", ONE "!\n" ONE, TAKEN, TAKEN },
		{ "421 while idle", ONE "> 421 4.4.2 Idle\n!\n" ONE, TAKEN,
		    TAKEN },
		/* Some say it with other codes, and some do not mean us. */
		{ "451 while idle", SAID("451 Timeout") "!\n" ONE, TAKEN,
		    TAKEN },
		{ "554 while idle", SAID("554 5.0.0 Idle") "!\n" ONE, TAKEN,
		    TAKEN },
		{ "half a line while idle", PLAIN MAIL RCPT TEXT
		    "+ 250 2.0.0 Queued\\r\\n4\n!\n" ONE, TAKEN, TAKEN },
		{ "250 while idle", SAID("250 2.0.0 Queued") "@\n" ONE, TAKEN,
		    TAKEN },
		{ "closed at MAIL", ONE FROM "!\n" ONE, TAKEN, TAKEN },
		{ "421 at MAIL", ONE FROM "> 421 Bye\n@\n" ONE, TAKEN, TAKEN },
		{ "RSET after DATA was refused", PLAIN MAIL RCPT
		    "< DATA\n> 451 No\n< RSET\n> 250 Ok\n" NEXT,
		    "451 4.0.0 No\n", TAKEN },
		{ "RSET after all were refused", PLAIN MAIL TO
		    "> 550 5.1.1 No\n< RSET\n> 250 Ok\n" NEXT,
		    "550 5.1.1 No\n", TAKEN },
		{ "no RSET after MAIL was refused", PLAIN FROM "> 451 No\n"
		    NEXT, "451 4.0.0 No\n", TAKEN },
		{ "no RSET after the message was refused", PLAIN MAIL RCPT
		    TEXT "> 554 No\n" NEXT, "554 5.0.0 No\n", TAKEN },
		{ "closed at RSET", PLAIN MAIL TO "> 550 5.1.1 No\n"
		    "< RSET\n!\n" ONE, "550 5.1.1 No\n", TAKEN },
		{ "RSET refused", PLAIN MAIL TO "> 550 5.1.1 No\n"
		    "< RSET\n> 500 What?\n@\n" ONE, "550 5.1.1 No\n", TAKEN },
	};

	run_pairs(pairs, COUNT(pairs));
}

/* Once only, and not once MAIL was answered. */
Test(nexthop, opened_again_no_more_than_once)
{
	struct nexthop *h;
	struct peer p;
	struct post *m = post("a@example.net", "x\r\n");

	start(&p, ONE "!\n!\n" ONE);
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	cr_expect_str_eq(relay_by(h, m, PATIENT), TAKEN);
	cr_expect_str_eq(relay_by(h, m, PATIENT), LOST "\n");
	nexthop_close(h);
	finish(&p, "gone again");

	start(&p, ONE MAIL TO "!\n" ONE);
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	cr_expect_str_eq(relay_by(h, m, PATIENT), TAKEN);
	cr_expect_str_eq(relay_by(h, m, PATIENT), LOST "\n");
	nexthop_close(h);
	finish(&p, "after MAIL");
	post_free(m);
}

Test(nexthop, abandoned_and_used_again)
{
	struct nexthop *h;
	struct peer p;
	struct post *m = post("a@example.net", "x\r\n");

	start(&p, PLAIN MAIL RCPT "< RSET\n> 250 Ok\n" NEXT);
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	nexthop_offer(h, &m->env, m->spool, clock_now() + PATIENT, m->v);
	cr_expect_eq(m->v[0].code, 250);
	nexthop_abandon(h, clock_now() + PATIENT);
	cr_expect_str_eq(relay_by(h, m, PATIENT), TAKEN);
	nexthop_close(h);
	finish(&p, "abandoned");
	post_free(m);
}

/* What DATA should look like, made the slow way. */
static size_t
stuff(char *to, const char *text, size_t len)
{
	bool bol = true;
	size_t i, n = 0;

	for (i = 0; i < len; i++) {
		if (bol && text[i] == '.')
			to[n++] = '.';
		if (text[i] == '\n' && (i == 0 || text[i - 1] != '\r'))
			to[n++] = '\r';
		to[n++] = text[i];
		bol = text[i] == '\n';
	}
	if (!bol) {
		if (text[len - 1] != '\r')
			to[n++] = '\r';
		to[n++] = '\n';
	}
	memcpy(to + n, ".\r\n", 3);
	return n + 3;
}

static void
sent_exactly(struct nexthop *h, const struct found *found, struct post *m,
    const char *wanted, size_t len)
{
	size_t before = found->len;

	cr_expect_str_eq(relay_by(h, m, PATIENT), TAKEN);
	cr_expect_eq(found->len - before, len, "%zu octets, not %zu",
	    found->len - before, len);
	cr_expect(memcmp(found->message + before, wanted, len) == 0);
}

static const char *const texts[] = {
	"", ".", "..", ".\r\n", "\r\n", "a", "a\r", "a\r\n", "a\r\n.",
	"a\r\n.\r\n", "a\r\n..\r\nb\r\n", "\r\n.\r\n.\r\n", ".a\r\n.b",
	"a\n.\nb\n", "a\n.", ".\n", "\n", "\n.\r\n", "a\n\n.b\r\n.c", "\r",
};

/* With something that needs care at each octet around the end of a block. */
#define BLOCK 32768
#define EDGE 6

Test(nexthop, text_is_stuffed_exactly)
{
	char script[65536] = PLAIN, *p = script + strlen(script);
	static char text[2 * BLOCK], wanted[4 * BLOCK];
	struct nexthop *h;
	struct post *m;
	struct peer peer;
	size_t i, at, len;

	for (i = 0; i < COUNT(texts) * (1 + 2 * EDGE); i++)
		p += sprintf(p, NEXT);
	start(&peer, script);
	h = nexthop_open(&settings, NEXTHOP_SMTP, peer.where, -1);
	for (i = 0; i < COUNT(texts); i++) {
		m = post("a@example.net", texts[i]);
		sent_exactly(h, peer.found, m, wanted,
		    stuff(wanted, texts[i], strlen(texts[i])));
		post_free(m);
	}
	for (i = 0; i < COUNT(texts); i++)
		for (at = BLOCK - EDGE; at < BLOCK + EDGE; at++) {
			memset(text, 'x', at);
			text[at - 2] = '\r';
			text[at - 1] = '\n';
			len = strlen(texts[i]);
			memcpy(text + at, texts[i], len);
			m = post("a@example.net", "");
			write_spool(m, text, at + len);
			m->form = i % 2 ? SPOOL_LF : SPOOL_CRLF;
			sent_exactly(h, peer.found, m, wanted,
			    stuff(wanted, text, at + len));
			post_free(m);
		}
	nexthop_close(h);
	finish(&peer, "stuffed");
}

Test(nexthop, chunk_is_sent_exactly)
{
	char script[8192] = OFFERS("CHUNKING"), *p = script + strlen(script);
	static char text[3 * BLOCK];
	struct nexthop *h;
	struct post *m;
	struct peer peer;
	size_t i;

	for (i = 0; i < COUNT(texts) + 4; i++)
		p += sprintf(p, MAIL RCPT "#\n" QUEUED);
	start(&peer, script);
	h = nexthop_open(&settings, NEXTHOP_SMTP, peer.where, -1);
	for (i = 0; i < COUNT(texts); i++) {
		m = post("a@example.net", texts[i]);
		sent_exactly(h, peer.found, m, texts[i], strlen(texts[i]));
		post_free(m);
	}
	for (i = 0; i < sizeof text; i++)
		text[i] = (char)(i * 7919 >> 3);
	for (i = 0; i < 4; i++) {
		m = post("a@example.net", "");
		write_spool(m, text, 2 * BLOCK - 20 + i * 10);
		sent_exactly(h, peer.found, m, text, m->env.size);
		post_free(m);
	}
	nexthop_close(h);
	finish(&peer, "chunk");
}

/* The LF form's length is known only when it is sent: so by DATA. */
Test(nexthop, lf_form_goes_by_data)
{
	struct nexthop *h;
	struct peer p;
	struct post *m = post("a@example.net", "a\n.b\n");

	start(&p, OFFERS("CHUNKING") NEXT);
	m->form = SPOOL_LF;
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	sent_exactly(h, p.found, m, "a\r\n..b\r\n.\r\n", 11);
	nexthop_close(h);
	finish(&p, "lf");
	post_free(m);
}

Test(nexthop, unreadable_spool_is_never_ended)
{
	struct nexthop *h;
	struct peer p;
	struct post *m = post("a@example.net", "a\r\n");

	close(m->spool);
	m->spool = open(dir, O_RDONLY | O_CLOEXEC);	/* EISDIR */
	start(&p, PLAIN MAIL RCPT "< DATA\n> 354 Go\n@\n");
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	cr_expect_str_eq(relay_by(h, m, PATIENT),
	    "451 4.3.0 Cannot read the message\n");
	nexthop_close(h);
	finish(&p, "unreadable");
	post_free(m);
}

Test(nexthop, lmtp)
{
	static const struct scene scenes[] = {
		{ .name = "mixed", LHLO("PIPELINING") MAIL "N 4 250\n" TEXT
		    "> 250 2.0.0 One\n> 452 4.2.2 Full\n> 250 2.0.0 Three\n",
		    "250 2.0.0 One\n452 4.2.2 Full\n"
		    "550 5.1.1 RCPT TO:<bad>\n250 2.0.0 Three\n",
		    .to = "a b bad c", .protocol = NEXTHOP_LMTP },
		{ .name = "dies in the middle", LHLO("CHUNKING") MAIL
		    "N 3 250\n#\n> 250 2.0.0 One\n!\n",
		    "250 2.0.0 One\n" LOST "\n" LOST "\n",
		    .to = "a b c", .protocol = NEXTHOP_LMTP },
		{ .name = "421 in the middle", LHLO("X") MAIL
		    "N 3 250\n" TEXT "> 250 2.0.0 One\n> 421 4.3.2 Later\n",
		    "250 2.0.0 One\n451 4.3.2 Later\n451 4.3.2 Later\n",
		    .to = "a b c", .protocol = NEXTHOP_LMTP },
		{ .name = "LHLO refused", "> 220 mx LMTP\n"
		    "< LHLO smtpd.example.org\n> 502 5.5.1 What?\n",
		    "451 4.5.1 What?\n", .protocol = NEXTHOP_LMTP },
		{ .name = "DATA refused", LHLO("X") MAIL "N 2 250\n"
		    "< DATA\n> 451 4.3.0 No\n",
		    "451 4.3.0 No\n451 4.3.0 No\n", .to = "a b",
		    .protocol = NEXTHOP_LMTP },
	};

	run_scenes(scenes, COUNT(scenes));
}

/* One message with its envelope set by the test, to one peer. */
static void
converse(const char *name, const char *script, struct post *m,
    const char *verdicts)
{
	struct nexthop *h;
	const char *got;
	struct peer p;

	start(&p, script);
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	got = relay_by(h, m, PATIENT);
	cr_expect_str_eq(got, verdicts, "%s: got %s", name, got);
	nexthop_close(h);
	finish(&p, name);
}

Test(nexthop, xforward_in_xtext)
{
	struct post *m = post("a@example.net", "x\r\n");

	m->env.fact[FACT_CLIENT_NAME] = "unknown";
	m->env.fact[FACT_CLIENT_ADDRESS] = "2001:db8::1";
	m->env.fact[FACT_CLIENT_PORT] = "4321";
	m->env.fact[FACT_CLIENT_PROTOCOL] = "ESMTP";
	m->env.fact[FACT_CLIENT_HELO] = "a+b=c d\xc3\xa4";
	converse("all", OFFERS("XFORWARD NAME ADDR PROTO HELO PORT SOURCE")
	    "< XFORWARD NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1 PORT=4321 "
	    "PROTO=ESMTP HELO=a+2Bb+3Dc+20d+C3+A4 "
	    "SOURCE=REMOTE\n> 250 Ok\n"
	    NEXT, m, TAKEN);
	m->env.fact[FACT_CLIENT_ADDRESS] = "192.0.2.1";
	m->env.fact[FACT_CLIENT_NAME] = "client.example.com";
	converse("some", OFFERS("xforward NAME ADDR")
	    "< XFORWARD NAME=client.example.com ADDR=192.0.2.1\n> 250 Ok\n"
	    NEXT, m, TAKEN);
	m->env.fact[FACT_CLIENT_ADDRESS] = "unix";
	converse("refused", OFFERS("XFORWARD ADDR")
	    "< XFORWARD ADDR=[UNAVAILABLE]\n> 550 5.7.0 No\n" NEXT, m, TAKEN);
	post_free(m);
}

Test(nexthop, long_xforward_is_split)
{
	struct post *m = post("a@example.net", "x\r\n");
	char helo[257], script[4096];

	memset(helo, '=', 255);
	helo[255] = helo[256] = '\0';
	m->env.fact[FACT_CLIENT_NAME] = helo;
	m->env.fact[FACT_CLIENT_HELO] = "h";
	converse("split", OFFERS("XFORWARD NAME HELO")
	    "< XFORWARD NAME=+3D+3D...\n> 250 Ok\n"
	    "< XFORWARD HELO=h\n> 250 Ok\n" NEXT, m, TAKEN);
	helo[255] = '=';
	snprintf(script, sizeof script, "%s", OFFERS("XFORWARD NAME HELO")
	    "< XFORWARD NAME=[UNAVAILABLE] HELO=h\n> 250 Ok\n" NEXT);
	converse("too long", script, m, TAKEN);
	post_free(m);
}

Test(nexthop, parameters_are_handed_on)
{
	struct post *m = post("a@example.net b@example.net", "x\r\n");

	m->env.fact[FACT_MAIL_OPTIONS] =
	    "SIZE=99 ret=HDRS BODY=8BITMIME ENVID=QQ+2B314159";
	m->to[0].options = "ORCPT=rfc822;A@example.net Notify=SUCCESS,DELAY";
	m->env.body = BODY_8BITMIME;
	converse("all", OFFERS2("SIZE 1000\n> 250-DSN", "8BITMIME")
	    "< MAIL FROM:<s@example.org> SIZE=3 BODY=8BITMIME ret=HDRS "
	    "ENVID=QQ+2B314159\n> 250 Ok\n"
	    "< RCPT TO:<a@example.net> Notify=SUCCESS,DELAY "
	    "ORCPT=rfc822;A@example.net\n> 250 Ok\n"
	    "< RCPT TO:<b@example.net>\n> 250 Ok\n" TEXT QUEUED, m,
	    TAKEN TAKEN);
	converse("none", PLAIN MAIL "N 2 250\n" TEXT QUEUED, m, TAKEN TAKEN);
	m->env.smtputf8 = true;
	m->env.body = BODY_7BIT;
	converse("utf8", OFFERS2("SMTPUTF8", "8BITMIME")
	    "< MAIL FROM:<s@example.org> SMTPUTF8\n> 250 Ok\nN 2 250\n"
	    TEXT QUEUED, m, TAKEN TAKEN);
	m->env.smtputf8 = false;
	m->env.body = BODY_BINARYMIME;
	converse("binary", OFFERS2("CHUNKING", "BINARYMIME")
	    "< MAIL FROM:<s@example.org> BODY=BINARYMIME\n> 250 Ok\n"
	    "N 2 250\n#\n" QUEUED, m, TAKEN TAKEN);
	m->env.fact[FACT_SENDER] = "";
	m->env.body = BODY_7BIT;
	converse("null sender", PLAIN "< MAIL FROM:<>\n> 250 Ok\nN 2 250\n"
	    TEXT QUEUED, m, TAKEN TAKEN);
	post_free(m);
}

Test(nexthop, what_it_can_not_carry)
{
	struct post *m = post("a@example.net",
	    "Subject: x\r\n\r\n\xc3\xa4\r\n");

	m->env.body = BODY_8BITMIME;
	converse("8-bit body", PLAIN, m, "554 5.6.3 Next hop lacks 8BITMIME\n");
	m->env.body = BODY_7BIT;
	converse("8-bit body, never announced", ONE, m, TAKEN);
	m->env.body = BODY_BINARYMIME;
	converse("binary", OFFERS2("CHUNKING", "8BITMIME"), m,
	    "554 5.6.3 Next hop lacks BINARYMIME\n");
	m->form = SPOOL_LF;
	converse("binary in LF form", OFFERS2("CHUNKING", "BINARYMIME")
	    "< MAIL FROM:<s@example.org> BODY=BINARYMIME\n> 250 Ok\n" RCPT, m,
	    "554 5.6.3 Cannot relay BINARYMIME\n");
	m->env.body = BODY_7BIT;
	m->env.smtputf8 = true;
	converse("8-bit body, ASCII header", ONE, m, TAKEN);
	m->env.fact[FACT_SENDER] = "s\xc3\xa4@example.org";
	converse("sender", PLAIN, m, "553 5.6.7 Next hop lacks SMTPUTF8\n");
	post_free(m);

	m = post("a@example.net \xc3\xa4@example.net", "x\r\n");
	m->env.smtputf8 = true;
	converse("one recipient", ONE, m,
	    TAKEN "553 5.6.7 Next hop lacks SMTPUTF8\n");
	m->env.body = BODY_8BITMIME;
	converse("announced as 8-bit, but is not", ONE, m,
	    TAKEN "553 5.6.7 Next hop lacks SMTPUTF8\n");
	post_free(m);

	m = post("a@example.net", "Subject: \xc3\xa4\r\n\r\nx\r\n");
	m->env.smtputf8 = true;
	m->env.body = BODY_8BITMIME;
	converse("UTF-8 header", OFFERS("8BITMIME"), m,
	    "554 5.6.7 Next hop lacks SMTPUTF8\n");
	m->env.size = 1001;
	converse("size", OFFERS2("SIZE 1000", "SMTPUTF8"), m,
	    "552 5.3.4 Message too big for next hop\n");
	post_free(m);
}

Test(nexthop, no_command_is_smuggled_in)
{
	struct post *m = post("a@example.net", "x\r\n");

	m->to[0].address = "a@example.net>\r\nRSET\r\n";
	converse("recipient", PLAIN, m, "553 5.1.3 Bad recipient address\n");
	m->to[0].address = "a@example.net";
	m->to[0].options = "NOTIFY=NEVER\r\nRSET";
	converse("option", PLAIN, m, "553 5.1.3 Bad recipient address\n");
	m->to[0].options = "";
	m->env.fact[FACT_SENDER] = "s@example.org>\nRSET";
	converse("sender", PLAIN, m, "553 5.1.7 Bad sender address\n");
	m->env.fact[FACT_SENDER] = "s@example.org\177";
	converse("sender's DEL", PLAIN, m, "553 5.1.7 Bad sender address\n");
	m->env.fact[FACT_SENDER] = "s@example.org";
	m->env.fact[FACT_MAIL_OPTIONS] = "RET=HDRS\r\nRSET";
	converse("its option", PLAIN, m, "553 5.1.7 Bad sender address\n");
	post_free(m);
}

/* Relays one message to where; returns the verdicts. */
static const char *
relay_once(const char *where, const struct relay_settings *set,
    enum nexthop_protocol protocol)
{
	struct nexthop *h = nexthop_open(set, protocol, where, -1);
	struct post *m = post("a@example.net", "x\r\n");
	const char *got;

	logged[0] = '\0';
	got = relay_by(h, m, PATIENT);
	nexthop_close(h);
	post_free(m);
	return got;
}

Test(nexthop, places_are_tried_in_turn)
{
	struct peer p, q;
	char where[300];

	start(&p, ONE);
	snprintf(where, sizeof where, "unix:%s/none,%s", dir, p.where);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP), TAKEN);
	finish(&p, "first is not there");

	start(&p, "> 554 5.7.1 Go away\n");
	start(&q, ONE);
	snprintf(where, sizeof where, "%s,%s", p.where, q.where);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP), TAKEN);
	finish(&p, "first refuses");
	finish(&q, "second");

	start(&p, "> 554 5.7.1 Go away\n");
	snprintf(where, sizeof where, "%s,unix:%s/none", p.where, dir);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP),
	    "451 4.7.1 Go away\n");
	finish(&p, "its words, not that the other one is not there");

	start(&p, "> 554 5.7.1 Go away\n");
	start(&q, "> 421 4.3.2 Busy\n");
	snprintf(where, sizeof where, "%s,%s", q.where, p.where);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP),
	    "451 4.3.2 Busy\n");
	finish(&p, "last");
	finish(&q, "busy");
}

/* A file of credentials, readable by us alone. */
static void
write_file(char path[128], const char *name, const char *text, unsigned mode)
{
	FILE *f;

	snprintf(path, 128, "%s/%s", dir, name);
	f = fopen(path, "w");
	cr_assert_not_null(f);
	fputs(text, f);
	fclose(f);
	chmod(path, mode);
}

struct login {
	const char *name, *peer, *verdict;
};

Test(nexthop, authenticates)
{
	static const struct login logins[] = {
		{ "PLAIN", OFFERS("AUTH LOGIN PLAIN")
		    "< AUTH PLAIN AHVzZXIAcGFzczp3b3Jk\n> 235 2.7.0 Ok\n" NEXT,
		    TAKEN },
		{ "LOGIN", OFFERS("AUTH=CRAM-MD5 LOGIN")
		    "< AUTH LOGIN\n> 334 VXNlcm5hbWU6\n< dXNlcg==\n"
		    "> 334 UGFzc3dvcmQ6\n< cGFzczp3b3Jk\n> 235 2.7.0 Ok\n"
		    NEXT, TAKEN },
		{ "refused", OFFERS("AUTH PLAIN")
		    "< AUTH PLAIN ...\n> 535 5.7.8 No such user AHVzZXIA\n",
		    "451 4.7.8 Cannot authenticate to next hop\n" },
		{ "refused without a name", OFFERS("AUTH LOGIN")
		    "< AUTH LOGIN\n> 535 5.7.8 No\n",
		    "451 4.7.8 Cannot authenticate to next hop\n" },
		{ "refused by name", OFFERS("AUTH LOGIN")
		    "< AUTH LOGIN\n> 334 VXNlcm5hbWU6\n< dXNlcg==\n"
		    "> 535 5.7.8 No\n",
		    "451 4.7.8 Cannot authenticate to next hop\n" },
		{ "garbage", OFFERS("AUTH PLAIN")
		    "< AUTH PLAIN ...\n> AHVzZXIA\n", GARBLED "\n" },
		{ "neither is offered", OFFERS("AUTH DIGEST-MD5"),
		    "451 4.7.0 Cannot authenticate to next hop\n" },
	};
	struct relay_settings set = settings;
	char text[512], path[128];
	struct peer p;
	const char *got;
	size_t i;

	set.auth = path;
	for (i = 0; i < COUNT(logins); i++) {
		start(&p, logins[i].peer);
		snprintf(text, sizeof text, "# ours\n\nother.example.com a:b\n"
		    "%s\t user:pass:word \n", p.where);
		write_file(path, "auth", text, 0600);
		got = relay_once(p.where, &set, NEXTHOP_SMTP);
		cr_expect_str_eq(got, logins[i].verdict, "%s: got %s",
		    logins[i].name, got);
		cr_expect_null(strstr(logged, "AHVzZXIA"), "%s", logged);
		cr_expect_eq(strstr(logged, ": AUTH: refused with 535 5.7.8\n")
		    != NULL, strncmp(logins[i].name, "refused", 7) == 0, "%s",
		    logged);
		finish(&p, logins[i].name);
	}
}

Test(nexthop, credentials_are_guarded)
{
	struct relay_settings set = settings;
	char text[512], path[128], where[128];
	unsigned port;
	struct peer p;
	int listener;

	set.auth = path;
	listener = listen_inet(where, &port);
	start_at(&p, listener, OFFERS("AUTH PLAIN"));
	snprintf(text, sizeof text, "127.0.0.1:%u user:secret\n", port);
	write_file(path, "auth", text, 0600);
	cr_expect_str_eq(relay_once(where, &set, NEXTHOP_SMTP),
	    "451 4.7.11 Cannot authenticate to next hop\n");
	finish(&p, "in the clear");

	listener = listen_inet(where, &port);
	start_at(&p, listener, OFFERS("AUTH PLAIN") NEXT);
	snprintf(text, sizeof text, "127.0.0.1:%u user:secret\n"
	    "127.0.0.1 user:secret\nunix:127.0.0.1 user:secret\n", port + 1);
	write_file(path, "auth", text, 0644);
	cr_expect_str_eq(relay_once(where, &set, NEXTHOP_SMTP), TAKEN);
	cr_expect_not_null(strstr(logged, "anyone can read"), "%s", logged);
	cr_expect_not_null(strstr(logged, ": server offers AUTH, but: /"),
	    "%s", logged);
	cr_expect_not_null(strstr(logged, "/auth has no entry for [127.0.0.1]:"
	    ), "%s", logged);
	finish(&p, "of others, and anyone can read them");

	start(&p, OFFERS("AUTH PLAIN"));
	snprintf(text, sizeof text, "%s user\n", p.where);
	write_file(path, "auth", text, 0600);
	cr_expect_str_eq(relay_once(p.where, &set, NEXTHOP_SMTP),
	    "451 4.3.5 Cannot authenticate to next hop\n");
	cr_expect_not_null(strstr(logged, "not KEY USER:PASSWORD"), "%s",
	    logged);
	finish(&p, "no password");

	start(&p, PLAIN);
	snprintf(path, sizeof path, "%s/none", dir);
	cr_expect_str_eq(relay_once(p.where, &set, NEXTHOP_SMTP),
	    "451 4.3.5 Cannot authenticate to next hop\n");
	finish(&p, "no file");
}

/* TLS engines that do not encrypt: one that only carries, having noted how it
   was called, and one that fails. */
#define CARRIER \
	"echo \"$@\" >>$(dirname $0)/calls\n" \
	"printf 'protocol=none\\ncipher=none\\n\\n' >&3\n" \
	"exec 3>&- 4<&0 5<&1\n" \
	"cat <&4 >&5 & a=$!; cat <&5 >&4 & b=$!\n" \
	"wait -n; kill $a $b 2>/dev/null\n"
#define FAILER "printf 'error=bad certificate\\n\\n' >&3\n"

static void
write_engine(char path[128], const char *name, const char *script)
{
	char text[1024];

	snprintf(text, sizeof text, "#!/bin/bash\n%s", script);
	write_file(path, name, text, 0700);
}

static void
calls(const char *wanted)
{
	char path[128], got[1024] = "";
	FILE *f;

	snprintf(path, sizeof path, "%s/calls", dir);
	f = fopen(path, "r");
	cr_assert_not_null(f);
	cr_expect_gt(fread(got, 1, sizeof got - 1, f), 0);
	fclose(f);
	cr_expect_str_eq(got, wanted, "%s", got);
}

#define TLS OFFERS("STARTTLS") "< STARTTLS\n> 220 2.0.0 Go\n"
#define AGAIN(x) \
	"< EHLO smtpd.example.org\n> 250-mx.example.net\n> 250 " x "\n"

struct secured {
	const char *name, *peer, *verdict;
	enum tls_level level;
	bool fails;
};

Test(nexthop, starttls)
{
	static const struct secured scenes[] = {
		{ "may", TLS AGAIN("X") NEXT, TAKEN, TLS_MAY, false },
		{ "must", TLS AGAIN("X") NEXT, TAKEN, TLS_MUST, false },
		{ "none", OFFERS("STARTTLS") NEXT, TAKEN, TLS_NONE, false },
		{ "may, not offered", ONE, TAKEN, TLS_MAY, false },
		{ "must, not offered", PLAIN,
		    "451 4.7.4 Next hop offers no TLS\n", TLS_MUST, false },
		{ "may, refused", OFFERS("STARTTLS")
		    "< STARTTLS\n> 454 4.7.0 No\n" NEXT, TAKEN, TLS_MAY,
		    false },
		{ "must, refused", OFFERS("STARTTLS")
		    "< STARTTLS\n> 554-5.7.0 a\n> 554 5.7.0 b\n",
		    "451 4.7.4 Next hop offers no TLS\n", TLS_MUST, false },
		{ "may, but fails", TLS "@\n" ONE, TAKEN, TLS_MAY, true },
		{ "must, but fails", TLS,
		    "451 4.7.5 No secure connection to next hop\n",
		    TLS_MUST, true },
		{ "may, closed after the handshake", TLS "!\n",
		    LOST "\n", TLS_MAY, false },
		{ "more behind the reply", OFFERS("STARTTLS")
		    "< STARTTLS\n+ 220 2.0.0 Go\\r\\n250 Surplus\\r\\n\n",
		    GARBLED "\n",
		    TLS_MUST, false },
	};
	struct relay_settings set = settings;
	char carrier[128], failer[128], where[128];
	const char *got;
	struct peer p;
	unsigned port;
	size_t i;

	write_engine(carrier, "carrier", CARRIER);
	write_engine(failer, "failer", FAILER);
	set.tls_ca = "/ca.pem";
	for (i = 0; i < COUNT(scenes); i++) {
		start_at(&p, listen_inet(where, &port), scenes[i].peer);
		set.tls = scenes[i].level;
		set.tls_program = scenes[i].fails ? failer : carrier;
		got = relay_once(where, &set, NEXTHOP_SMTP);
		cr_expect_str_eq(got, scenes[i].verdict, "%s: got %s",
		    scenes[i].name, got);
		cr_expect_eq(strstr(logged, "bad certificate") != NULL,
		    scenes[i].fails, "%s: %s", scenes[i].name, logged);
		finish(&p, scenes[i].name);
	}
	calls("client --sni 127.0.0.1\n"
	    "client --verify 127.0.0.1 --ca /ca.pem\n"
	    "client --sni 127.0.0.1\n");
}

Test(nexthop, tls_from_the_start_and_auth_over_it)
{
	struct relay_settings set = settings;
	char path[128], auth[128], where[128], text[256];
	unsigned port;
	struct peer p;

	write_engine(path, "carrier", CARRIER);
	start_at(&p, listen_inet(where, &port), OFFERS("AUTH PLAIN")
	    "< AUTH PLAIN AHUAcA==\n> 235 Ok\n" NEXT);
	snprintf(text, sizeof text, "[127.0.0.1]:%u u:p\n", port);
	write_file(auth, "auth", text, 0600);
	set.auth = auth;
	set.tls_program = path;
	cr_expect_str_eq(relay_once(where, &set, NEXTHOP_SMTPS), TAKEN);
	finish(&p, "smtps");
	calls("client --verify 127.0.0.1\n");

	set.tls_program = "/nonexistent/smtpd-tls";
	start_at(&p, listen_inet(where, &port), "@\n");
	cr_expect_str_eq(relay_once(where, &set, NEXTHOP_SMTPS),
	    "451 4.7.5 No secure connection to next hop\n");
	cr_expect_not_null(strstr(logged, "No such file"), "%s", logged);
	finish(&p, "no engine");
}

Test(nexthop, tells_where_it_was_refused)
{
	static const struct {
		const char *peer, *want;
	} cases[] = {
		{ "> 554 5.7.1 Go\n", ": the greeting: 554 5.7.1 Go\n" },
		{ PLAIN FROM "> 450 No\n", ": MAIL: 450 4.0.0 No\n" },
		{ PLAIN MAIL RCPT "< DATA\n> 451 4.3.1 Full\n",
		    ": DATA: 451 4.3.1 Full\n" },
	};
	struct peer p;
	size_t i;

	for (i = 0; i < COUNT(cases); i++) {
		start(&p, cases[i].peer);
		relay_once(p.where, &settings, NEXTHOP_SMTP);
		cr_expect_not_null(strstr(logged, cases[i].want), "%s", logged);
		finish(&p, cases[i].want);
	}
}

/* ---- A next hop on a bad day ---- */

Test(nexthop, last_line_of_a_reply_counts)
{
	static const struct scene scenes[] = {
		{ .name = "greeting", "> 220-mx ESMTP\n> 521 5.3.2 No\n",
		    "451 4.3.2 No\n" },
		{ .name = "greeting that hangs up",
		    "> 220-mx ESMTP\n> 421 4.3.2 Busy\n",
		    "451 4.3.2 Busy\n" },
		{ .name = "MAIL", PLAIN FROM "> 250-Ok\n> 550 5.7.1 No\n",
		    "550 5.7.1 No\n" },
		{ .name = "the message", PLAIN MAIL RCPT TEXT
		    "> 250-2.0.0 Ok\n> 451 4.3.0 No\n", "451 4.3.0 No\n" },
	};

	run_scenes(scenes, COUNT(scenes));
}

Test(nexthop, empty_line_between_replies_is_skipped)
{
	static const struct scene scenes[] = {
		{ .name = "before the greeting", "> \n" ONE, TAKEN },
		{ .name = "with the greeting",
		    "+ 220 mx\\r\\n\\r\\n\n< EHLO smtpd.example.org\n"
		    "+ \\r\\n250 mx\\r\\n\\n\n" MAIL RCPT TEXT QUEUED, TAKEN },
	};

	run_scenes(scenes, COUNT(scenes));
}

Test(nexthop, what_a_hop_said_before_it_left_is_the_reply)
{
	static const struct scene scenes[] = {
		{ .name = "EHLO 550, closed", "> 220 mx\n"
		    "< EHLO smtpd.example.org\n"
		    "> 550 5.7.1 Your host is blocked here\n!\n",
		    "451 4.7.1 Your host is blocked here\n" },
		{ .name = "EHLO and HELO refused", "> 220 mx\n"
		    "< EHLO smtpd.example.org\n> 550 5.7.1 Blocked\n"
		    "< HELO smtpd.example.org\n> 550 5.7.1 Really\n",
		    "451 4.7.1 Really\n" },
		{ .name = "unasked", "+ 220 mx\\r\\n550 5.7.1 Blocked\\r\\n\n",
		    "451 4.7.1 Blocked\n" },
	};
	size_t i;

	for (i = 0; i < COUNT(scenes); i++) {
		logged[0] = '\0';
		run_scenes(&scenes[i], 1);
		cr_expect_not_null(strstr(logged, "550 5.7.1 "), "%s: %s",
		    scenes[i].name, logged);
	}
}

Test(nexthop, ehlo_answered_by_closing_is_tried_again_by_helo)
{
	static const struct scene scenes[] = {
		{ .name = "closed", EHLO "!\n> 220 mx\n"
		    "< HELO smtpd.example.org\n> 250 mx\n"
		    MAIL RCPT TEXT QUEUED, TAKEN },
		{ .name = "again", EHLO "!\n> 220 mx\n"
		    "< HELO smtpd.example.org\n!\n", LOST "\n" },
	};

	run_scenes(scenes, COUNT(scenes));
}

Test(nexthop, refused_mail_of_a_kept_connection_is_said_again)
{
	static const struct pair pairs[] = {
		{ "503", ONE FROM "> 503 5.5.1 Odd\n@\n" ONE, TAKEN, TAKEN },
		{ "452", ONE FROM "> 452 4.5.3 Enough\n@\n" ONE, TAKEN, TAKEN },
		{ "451", ONE FROM "> 451 4.3.0 Later\n@\n" ONE, TAKEN, TAKEN },
		{ "550", ONE FROM "> 550 5.7.1 No\n@\n" ONE, TAKEN, TAKEN },
	};
	struct nexthop *h;
	struct peer p;
	struct post *m = post("a@example.net", "x\r\n");

	run_pairs(pairs, COUNT(pairs));

	start(&p, ONE FROM "> 550 5.7.1 No\n@\n"
	    PLAIN FROM "> 550 5.7.1 Never\n");
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	cr_expect_str_eq(relay_by(h, m, PATIENT), TAKEN);
	cr_expect_str_eq(relay_by(h, m, PATIENT), "550 5.7.1 Never\n");
	nexthop_close(h);
	finish(&p, "a fresh connection's word is final");
	post_free(m);
}

/* Relays one message to two places, of which the second takes it. */
static void
fails_over(const char *name, const char *first)
{
	struct peer p, q;
	char where[300];
	const char *got;

	start(&p, first);
	start(&q, ONE);
	snprintf(where, sizeof where, "%s,%s", p.where, q.where);
	got = relay_once(where, &settings, NEXTHOP_SMTP);
	cr_expect_str_eq(got, TAKEN, "%s: %s", name, got);
	finish(&p, name);
	finish(&q, name);
}

Test(nexthop, next_place_is_asked_when_one_cannot_serve)
{
	struct peer p, q;
	char where[300];

	fails_over("421 to MAIL", PLAIN FROM "> 421 4.3.2 Busy\n");
	fails_over("hangs up at MAIL", PLAIN FROM "!\n");
	fails_over("421 to RCPT", PLAIN MAIL TO "> 421 4.3.2 Busy\n");
	fails_over("hangs up at the greeting", "!\n");
	fails_over("421 to EHLO", EHLO "> 421 4.3.2 Busy\n");
	fails_over("EHLO refused", EHLO "> 550 5.7.1 No\n"
	    "< HELO smtpd.example.org\n> 550 5.7.1 No\n");
	fails_over("silent", "@\n");
	fails_over("hangs up at DATA", PLAIN MAIL RCPT "< DATA\n!\n");
	fails_over("421 to DATA", PLAIN MAIL RCPT
	    "< DATA\n> 421 4.3.2 Busy\n");

	start(&p, PLAIN FROM "> 550 5.7.1 No\n");
	start(&q, "");
	snprintf(where, sizeof where, "%s,%s", p.where, q.where);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP),
	    "550 5.7.1 No\n");
	finish(&p, "a refusal is final");
	finish(&q, "never asked");

	start(&p, PLAIN MAIL RCPT TEXT "!\n");
	start(&q, "");
	snprintf(where, sizeof where, "%s,%s", p.where, q.where);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP),
	    "451 4.4.2 Connection to next hop lost\n");
	finish(&p, "it may have the message");
	finish(&q, "never asked");

	/* The next one must accept the same recipients. */
	start(&p, PLAIN MAIL RCPT "< DATA\n!\n");
	start(&q, PLAIN MAIL TO "> 550 5.1.1 Unknown\n");
	snprintf(where, sizeof where, "%s,%s", p.where, q.where);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP),
	    "451 4.1.1 Unknown\n");
	finish(&p, "lost at DATA");
	finish(&q, "accepts less");
}

/* The first address is lost, the second takes the message. */
Test(nexthop, log_names_the_address_of_a_name)
{
	struct peer p, q;
	char where[128], wanted[128];
	unsigned port;
	int listener = listen_inet(where, &port);

	start_at(&p, listen_second(port), PLAIN MAIL RCPT "< DATA\n!\n");
	start_at(&q, listener, ONE);
	snprintf(where, sizeof where, "two.example.net:%u", port);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP), TAKEN);
	snprintf(wanted, sizeof wanted, "nexthop two.example.net[127.0.0.2]:%u: "
	    "DATA: ", port);
	cr_expect_neq(strstr(logged, wanted), NULL, "%s", logged);
	snprintf(wanted, sizeof wanted, "nexthop two.example.net[127.0.0.1]:%u: "
	    "took the message: ", port);
	cr_expect_neq(strstr(informed, wanted), NULL, "%s", informed);
	finish(&p, "lost");
	finish(&q, "took");
}

/* 127.0.0.2 comes first, and accepts the connection. */
Test(nexthop, next_address_of_a_name_is_asked_when_one_cannot_serve)
{
	static const char *const firsts[] = {
		"> 421 4.3.2 Busy\n", "> 554 5.7.1 No\n", "!\n", "@\n",
		PLAIN FROM "> 421 4.3.2 Busy\n", PLAIN FROM "!\n",
	};
	char where[128];
	const char *got;
	struct peer p, q;
	unsigned port;
	int listener;
	size_t i;

	for (i = 0; i < COUNT(firsts); i++) {
		listener = listen_inet(where, &port);
		start_at(&p, listen_second(port), firsts[i]);
		start_at(&q, listener, ONE);
		snprintf(where, sizeof where, "two.example.net:%u", port);
		got = relay_once(where, &settings, NEXTHOP_SMTP);
		cr_expect_str_eq(got, TAKEN, "%s: %s", firsts[i], got);
		finish(&p, firsts[i]);
		finish(&q, firsts[i]);
	}
}

Test(nexthop, deadline_holds_for_name_resolution)
{
	struct post *m = post("a@example.net", "x\r\n");
	struct nexthop *h;
	struct peer p;
	char where[300];

	logged[0] = '\0';
	h = nexthop_open(&settings, NEXTHOP_SMTP, "silent.example.net", -1);
	cr_expect_str_eq(relay_by(h, m, 200),
	    "451 4.4.1 Cannot connect to next hop\n");
	cr_expect_not_null(strstr(logged, "silent.example.net: cannot resolve "
	    "the name: the name server does not answer"), "%s", logged);
	nexthop_close(h);

	start(&p, ONE);
	snprintf(where, sizeof where, "silent.example.net,%s", p.where);
	h = nexthop_open(&settings, NEXTHOP_SMTP, where, -1);
	cr_expect_str_eq(relay_by(h, m, 4000), TAKEN);
	nexthop_close(h);
	finish(&p, "the next place has time left");
	post_free(m);
}

Test(nexthop, next_mechanism_is_tried)
{
	static const char *const codes[] = { "502", "503", "504", "534", "535" };
	struct relay_settings set = settings;
	char text[512], path[128], script[2048];
	const char *got;
	struct peer p;
	size_t i;

	set.auth = path;
	for (i = 0; i < COUNT(codes); i++) {
		snprintf(script, sizeof script, OFFERS("AUTH PLAIN LOGIN")
		    "< AUTH PLAIN ...\n> %s 5.5.4 No\n"
		    "< AUTH LOGIN\n> 334 VXNlcm5hbWU6\n< dXNlcg==\n"
		    "> 334 UGFzc3dvcmQ6\n< cGFzcw==\n> 235 2.7.0 Ok\n" NEXT,
		    codes[i]);
		start(&p, script);
		snprintf(text, sizeof text, "%s user:pass\n", p.where);
		write_file(path, "auth", text, 0600);
		got = relay_once(p.where, &set, NEXTHOP_SMTP);
		cr_expect_str_eq(got, TAKEN, "%s: %s", codes[i], got);
		finish(&p, codes[i]);
	}
}

Test(nexthop, too_many_recipients_is_temporary)
{
	static const struct scene scenes[] = {
		{ .name = "552 to RCPT", PLAIN MAIL TO
		    "> 552 5.5.3 Too many recipients\n",
		    "452 4.5.3 Too many recipients\n" },
	};

	run_scenes(scenes, COUNT(scenes));
}

Test(nexthop, what_we_configured_wrongly_is_temporary)
{
	static const struct scene scenes[] = {
		{ .name = "530 to MAIL", PLAIN FROM
		    "> 530 5.7.0 Authentication required\n",
		    "451 4.7.0 Authentication required\n" },
		{ .name = "530 to RCPT", PLAIN MAIL TO
		    "> 530 5.7.0 Must issue a STARTTLS command first\n",
		    "451 4.7.0 Must issue a STARTTLS command first\n" },
		{ .name = "500 to LHLO", "> 220 mx ESMTP\n"
		    "< LHLO smtpd.example.org\n> 500 5.5.1 What?\n",
		    "451 4.5.1 What?\n", .protocol = NEXTHOP_LMTP },
	};

	logged[0] = '\0';
	run_scenes(scenes, COUNT(scenes));
	cr_expect_not_null(strstr(logged, "see --relay-auth and --relay-tls"),
	    "%s", logged);
	cr_expect_not_null(strstr(logged, "this is no LMTP server"), "%s",
	    logged);
}

Test(nexthop, refused_chunk_goes_by_data_on_a_fresh_connection)
{
	static const struct pair pairs[] = {
		{ "500", OFFERS("CHUNKING") MAIL RCPT "#\n> 500 5.5.1 What?\n"
		    "@\n" OFFERS("CHUNKING") NEXT NEXT, TAKEN, TAKEN },
		{ "502", OFFERS("CHUNKING") MAIL RCPT "#\n> 502 5.5.1 No\n"
		    "@\n" OFFERS("CHUNKING") NEXT NEXT, TAKEN, TAKEN },
		{ "503", OFFERS("CHUNKING") MAIL RCPT "#\n> 503 5.5.1 No\n"
		    "@\n" OFFERS("CHUNKING") NEXT NEXT, TAKEN, TAKEN },
	};

	run_pairs(pairs, COUNT(pairs));
}

Test(nexthop, broken_pipelining_is_not_used_again)
{
	struct nexthop *h;
	struct peer p;
	struct post *m = post("a@example.net", "x\r\n");

	start(&p, OFFERS("PIPELINING") FROM "@\n" OFFERS("PIPELINING") NEXT);
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	cr_expect_str_eq(relay_by(h, m, 500),
	    "451 4.4.2 Next hop timed out\n");
	/* MAIL is answered before RCPT is sent: no group. */
	cr_expect_str_eq(relay_by(h, m, PATIENT), TAKEN);
	nexthop_close(h);
	finish(&p, "pipelining");
	post_free(m);
}

Test(nexthop, undeclared_8_bit_text_is_declared)
{
	struct post *m = post("a@example.net",
	    "Subject: x\r\n\r\n\xc3\xa4\r\n");

	converse("8-bit", OFFERS("8BITMIME")
	    "< MAIL FROM:<s@example.org> BODY=8BITMIME\n> 250 Ok\n"
	    RCPT TEXT QUEUED, m, TAKEN);
	post_free(m);
	m = post("a@example.net", "Subject: x\r\n\r\ny\r\n");
	converse("7-bit", OFFERS("8BITMIME") NEXT, m, TAKEN);
	post_free(m);
}

Test(nexthop, orcpt_in_utf8_is_encoded_for_a_hop_without_smtputf8)
{
	struct post *m = post("a@example.net", "x\r\n");

	m->env.smtputf8 = true;
	m->to[0].options = "ORCPT=utf-8;\xc3\xa4\xf0\x9f\x98\x80@example.org "
	    "NOTIFY=NEVER";
	converse("encoded", OFFERS("DSN") MAIL "< RCPT TO:<a@example.net> "
	    "NOTIFY=NEVER ORCPT=utf-8;\\x{E4}\\x{1F600}@example.org\n"
	    "> 250 Ok\n" TEXT QUEUED, m, TAKEN);
	converse("as it is", OFFERS2("DSN", "SMTPUTF8")
	    "< MAIL FROM:<s@example.org> SMTPUTF8\n> 250 Ok\n"
	    "< RCPT TO:<a@example.net> NOTIFY=NEVER "
	    "ORCPT=utf-8;\xc3\xa4\xf0\x9f\x98\x80@example.org\n> 250 Ok\n"
	    TEXT QUEUED, m, TAKEN);
	post_free(m);
}

Test(nexthop, log_says_who_took_the_message)
{
	struct peer p;
	char wanted[256];

	start(&p, ONE);
	relay_once(p.where, &settings, NEXTHOP_SMTP);
	snprintf(wanted, sizeof wanted,
	    "nexthop %s: took the message: 250 2.0.0 Queued\n", p.where + 5);
	cr_expect_str_eq(informed, wanted, "%s", informed);
	finish(&p, "took");
}

Test(nexthop, valid)
{
	static const char *const good[] = {
		"mail.example.com", "mail.example.com:587", "[192.0.2.1]:25",
		"[2001:db8::1]:24", "2001:db8::1", "inet:mail.example.com:24",
		"inet:[::1]:24", "unix:/run/lmtp", "unix:lmtp",
		"a.example.com,[b.example.com]:26", "a.example.com:smtp",
	}, *const bad[] = {
		"", ",", "a.example.com,", ":25", "[]:25", "[::1", "[::1]25",
		"a.example.com:", "unix:", "inet:", "a b", "a.example.com:2 5",
		"a/b", "a.example.com:0", "[192.0.2.1]:65536",
	};
	char error[128], path[200];
	size_t i;

	for (i = 0; i < COUNT(good); i++)
		cr_expect(nexthop_valid(NEXTHOP_LMTP, good[i], error,
		    sizeof error), "%s", good[i]);
	for (i = 0; i < COUNT(bad); i++) {
		error[0] = '\0';
		cr_expect_not(nexthop_valid(NEXTHOP_SMTP, bad[i], error,
		    sizeof error), "%s", bad[i]);
		cr_expect_neq(error[0], '\0');
	}
	memset(path, 'p', sizeof path);
	memcpy(path, "unix:", 5);
	path[sizeof path - 1] = '\0';
	cr_expect_not(nexthop_valid(NEXTHOP_SMTP, path, error, sizeof error));
}

Test(stream, connects_to_each_form_of_place)
{
	static const char *const forms[] = {
		"127.0.0.1", "[127.0.0.1]", "inet:127.0.0.1", "localhost",
		"inet:[localhost]",
	};
	char where[128], why[128], port_text[16];
	unsigned port;
	struct stream s;
	int listener = listen_inet(where, &port), n;
	size_t i;

	for (i = 0; i < COUNT(forms); i++) {
		snprintf(where, sizeof where, "%s:%u", forms[i], port);
		n = stream_connect(&s, where, NULL, clock_now() + PATIENT, why,
		    sizeof why);
		cr_expect_eq(n, 0, "%s: %s", where, why);
		cr_expect(fcntl(s.fd, F_GETFD) & FD_CLOEXEC);
		stream_close(&s);
		cr_expect_eq(s.fd, -1);
	}
	snprintf(port_text, sizeof port_text, "%u", port);
	cr_expect_eq(stream_connect(&s, "127.0.0.1", port_text,
	    clock_now() + PATIENT, why, sizeof why), 0);
	stream_close(&s);
	close(listener);
	cr_expect_eq(stream_connect(&s, "127.0.0.1", port_text,
	    clock_now() + PATIENT, why, sizeof why), -1);
	cr_expect_eq(errno, ECONNREFUSED);
	cr_expect_str_eq(why, "Connection refused");
	cr_expect_eq(stream_connect(&s, "127.0.0.1", NULL, clock_now(), why,
	    sizeof why), -1);
	cr_expect_str_eq(why, "no port given");
}

/* Nobody accepts, and the queue is full: only the deadline ends it. */
Test(stream, connects_by_ipv6)
{
	static const char *const forms[] = { "[::1]", "inet:[::1]" };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	socklen_t len = sizeof in6;
	int listener = socket(AF_INET6, SOCK_STREAM, 0);
	char where[64], why[128], port[16];
	struct stream s;
	size_t i;

	in6.sin6_addr = in6addr_loopback;
	if (listener == -1 || bind(listener, (struct sockaddr *)&in6, len) != 0)
		cr_skip_test("no IPv6 on this machine");
	cr_assert_eq(listen(listener, 8), 0);
	getsockname(listener, (struct sockaddr *)&in6, &len);
	for (i = 0; i < COUNT(forms); i++) {
		snprintf(where, sizeof where, "%s:%u", forms[i],
		    ntohs(in6.sin6_port));
		cr_expect_eq(stream_connect(&s, where, NULL,
		    clock_now() + PATIENT, why, sizeof why), 0, "%s: %s",
		    where, why);
		stream_close(&s);
	}
	snprintf(port, sizeof port, "%u", ntohs(in6.sin6_port));
	cr_expect_eq(stream_connect(&s, "::1", port, clock_now() + PATIENT,
	    why, sizeof why), 0, "%s", why);
	stream_close(&s);
	close(listener);
}

Test(stream, says_why_a_place_is_none)
{
	char why[128];
	struct stream s;

	cr_expect_eq(stream_connect(&s, "a b", "25", clock_now() + PATIENT,
	    why, sizeof why), -1);
	cr_expect_eq(errno, EINVAL);
	cr_expect_str_eq(why, "not a place to connect to");
	cr_expect_eq(stream_connect(&s, "127.0.0.1:no-such-port", NULL,
	    clock_now() + PATIENT, why, sizeof why), -1);
	cr_expect_eq(errno, EHOSTUNREACH);
	cr_expect_str_eq(why, "no such port");
}

Test(stream, full_queue_is_a_timeout)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), i;
	struct stream s[3];
	char where[128], why[128];

	snprintf(un.sun_path, sizeof un.sun_path, "%s/full", dir);
	snprintf(where, sizeof where, "unix:%s/full", dir);
	cr_assert_eq(bind(listener, (struct sockaddr *)&un, sizeof un), 0);
	cr_assert_eq(listen(listener, 0), 0);
	cr_expect_eq(stream_connect(&s[0], where, NULL, clock_now() + PATIENT,
	    why, sizeof why), 0);
	for (i = 1; i < 3; i++)
		if (stream_connect(&s[i], where, NULL, clock_now() + 50, why,
		    sizeof why) == -1)
			break;
	cr_expect_lt(i, 3);
	cr_expect_eq(errno, ETIMEDOUT);
}

static void
make_pair(struct stream *s, int *other)
{
	int fd[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	s->fd = fd[0];
	s->have = s->used = 0;
	*other = fd[1];
}

Test(stream, reads_lines)
{
	char line[8], big[10000];
	struct stream s;
	int fd;

	make_pair(&s, &fd);
	memset(big, 'b', sizeof big);
	dprintf(fd, "one\r\ntwo\n\r\n1234567\r\n12345678\r\na\rb\r\n");
	cr_assert_eq(write(fd, big, sizeof big), sizeof big);
	dprintf(fd, "\r\nlast\npart");
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), 3);
	cr_expect_str_eq(line, "one");
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), 3);
	cr_expect_str_eq(line, "two");
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), 0);
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), 7);
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), 7);
	cr_expect_str_eq(line, "1234567");
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), 3);
	cr_expect_str_eq(line, "a\rb");
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), 7);
	cr_expect_str_eq(line, "bbbbbbb");
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), 4);
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), -1);
	cr_expect_eq(errno, ETIMEDOUT);
	close(fd);
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), -1);
	cr_expect_eq(errno, 0);
	stream_close(&s);
}

/* Its octets are there before they are asked for: no deadline would end it. */
Test(stream, a_line_without_end_is_an_error)
{
	static char much[STREAM_LINE_MAX + STREAM_BUFFER];
	char line[8];
	struct stream s;
	int fd;

	make_pair(&s, &fd);
	memset(much, 'm', sizeof much);
	cr_assert_eq(write(fd, much, sizeof much), sizeof much);
	cr_expect_eq(stream_line(&s, line, sizeof line, clock_now()), -1);
	cr_expect_eq(errno, EMSGSIZE);
	close(fd);
	stream_close(&s);
}

Test(stream, writing_to_nobody_is_an_error_and_no_signal)
{
	struct stream s;
	int fd;

	make_pair(&s, &fd);
	signal(SIGPIPE, SIG_DFL);
	close(fd);
	cr_expect_eq(stream_write(&s, "x", 1, clock_now() + PATIENT), -1);
	cr_expect_eq(errno, EPIPE);
	stream_close(&s);
}

Test(stream, writing_ends_at_its_deadline)
{
	static char big[4 * 1024 * 1024];
	struct stream s;
	int fd;

	make_pair(&s, &fd);
	cr_expect_eq(stream_write(&s, big, sizeof big, clock_now() + 50), -1);
	cr_expect_eq(errno, ETIMEDOUT);
	close(fd);
	stream_close(&s);
}

/* The other side has more to say than its socket holds, and reads nothing
   before it has said that. */
Test(stream, writes_to_one_who_is_writing)
{
	static char big[2 * 1024 * 1024];
	char octet[1] = "o";
	struct stream s;
	size_t left;
	ssize_t n;
	pid_t pid;
	int fd, i, status;

	make_pair(&s, &fd);
	while (send(fd, octet, 1, MSG_DONTWAIT) == 1)
		;
	cr_assert_eq(errno, EAGAIN);
	pid = fork();
	if (pid == 0) {
		close(s.fd);
		alarm(60);
		for (i = 0; i < STREAM_BUFFER / 4; i++)
			if (write(fd, octet, 1) != 1)
				_exit(1);
		for (left = sizeof big; left > 0; left -= (size_t)n)
			if ((n = read(fd, big, left)) <= 0)
				_exit(2);
		_exit(0);
	}
	close(fd);
	cr_expect_eq(stream_write(&s, big, sizeof big, clock_now() + PATIENT),
	    0);
	cr_expect_gt(s.have, 0);
	waitpid(pid, &status, 0);
	cr_expect_eq(status, 0);
	stream_close(&s);
}
