/*
 * hop.c - a next hop that plays a script, and messages to relay to it.
 */
#define _GNU_SOURCE	/* memfd_create, MAP_ANONYMOUS */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/clock.h"
#include "relay/smtp.h"

#include "t/fakes/hop.h"

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
expect_nothing(struct actor *a)
{
	int flags = fcntl(a->fd, F_GETFL), c;
	char line[8192];

	fcntl(a->fd, F_SETFL, flags | O_NONBLOCK);
	c = getc(a->in);
	if (c != EOF) {
		ungetc(c, a->in);
		hear_line(a, line, sizeof line);
		fail(a, "nothing yet", line);
	}
	clearerr(a->in);
	fcntl(a->fd, F_SETFL, flags);
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
	case '0':
		expect_nothing(a);
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

char hop_dir[64];

void
hop_begin(void)
{
	snprintf(hop_dir, sizeof hop_dir, "/tmp/nexthop.XXXXXX");
	cr_assert_not_null(mkdtemp(hop_dir));
}

void
hop_end(void)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", hop_dir);
	cr_expect_eq(system(command), 0);
}

int
listen_unix(char where[128])
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	static int n;

	snprintf(un.sun_path, sizeof un.sun_path, "%s/%d", hop_dir, n++);
	snprintf(where, 128, "unix:%s", un.sun_path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
	cr_assert_eq(listen(fd, 8), 0);
	return fd;
}

int
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

int
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

void
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

void
start(struct peer *p, const char *script)
{
	start_at(p, listen_unix(p->where), script);
}

void
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

char hop_log[65536], hop_record[2048];

static void
take_log(void *ctx, int priority, const char *event,
    const struct envelope *env, const char *text)
{
	size_t n = strlen(hop_log);

	(void)ctx, (void)env;
	if (priority > LOG_WARNING) {
		snprintf(hop_record, sizeof hop_record, "%s %s\n", event, text);
		return;
	}
	cr_expect_eq(strcspn(text, "\r\n\033"), strlen(text), "%s", text);
	snprintf(hop_log + n, sizeof hop_log - n, "%s %s\n", event, text);
}

struct relay_settings settings = {
	.next_timeout = 30,
	.fqdn = "smtpd.example.org", .log = { .log = take_log }
};

void
write_spool(struct post *m, const char *text, size_t len)
{
	m->spool = memfd_create("spool", MFD_CLOEXEC);
	m->form = SPOOL_CRLF;
	cr_assert_eq(write(m->spool, text, len), (ssize_t)len);
	m->env.size = len;
}

struct post *
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

void
post_free(struct post *m)
{
	close(m->spool);
	free(m->list);
	free(m);
}

const char *
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

void
relay_to_two(const char *name, const char *first, const char *second,
    const char *verdicts)
{
	struct peer p, q;
	char where[300];
	const char *got;

	start(&p, first);
	start(&q, second);
	snprintf(where, sizeof where, "%s,%s", p.where, q.where);
	got = relay_once(where, &settings, NEXTHOP_SMTP);
	cr_expect_str_eq(got, verdicts, "%s: got %s", name, got);
	finish(&p, name);
	finish(&q, name);
}

void
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

void
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

/* Relays one message to where; returns the verdicts. */
const char *
relay_once(const char *where, const struct relay_settings *set,
    enum nexthop_protocol protocol)
{
	struct nexthop *h = nexthop_open(set, protocol, where, -1);
	struct post *m = post("a@example.net", "x\r\n");
	const char *got;

	hop_log[0] = '\0';
	got = relay_by(h, m, PATIENT);
	nexthop_close(h);
	post_free(m);
	return got;
}

void
hop_write(char path[128], const char *name, const char *text, unsigned mode)
{
	FILE *f;

	snprintf(path, 128, "%s/%s", hop_dir, name);
	f = fopen(path, "w");
	cr_assert_not_null(f);
	fputs(text, f);
	fclose(f);
	chmod(path, mode);
}

void
run_pairs(const struct pair *pair, size_t n)
{
	struct nexthop *h;
	const char *got;
	struct peer p;
	struct post *m;

	for (; n > 0; n--, pair++) {
		hop_log[0] = '\0';
		start(&p, pair->peer);
		h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
		m = post("a@example.net", "x\r\n");
		got = relay_by(h, m, PATIENT);
		cr_expect_str_eq(got, pair->first, "%s: 1: %s", pair->name,
		    got);
		got = relay_by(h, m, PATIENT);
		cr_expect_str_eq(got, pair->second, "%s: 2: %s", pair->name,
		    got);
		cr_expect(hop_log[0] == '\0' || (strchr(hop_log, '\n')[1] ==
		    '\0' && strstr(hop_log, pair->first) != NULL), "%s: %s",
		    pair->name, hop_log);
		nexthop_close(h);
		post_free(m);
		finish(&p, pair->name);
	}
}
