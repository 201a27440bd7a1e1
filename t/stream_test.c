/*
 * stream_test.c - connects, reads and writes within deadlines.
 */
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <netinet/in.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/clock.h"
#include "base/text.h"
#include "net/stream.h"
#include "t/fakes/hop.h"

TestSuite(stream, .init = hop_begin, .fini = hop_end);

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
	struct sockaddr_in in = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof in;
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
	/* One that is bound and does not listen: nobody else can. */
	n = socket(AF_INET, SOCK_STREAM, 0);
	cr_assert_eq(bind(n, (struct sockaddr *)&in, len), 0);
	cr_assert_eq(getsockname(n, (struct sockaddr *)&in, &len), 0);
	snprintf(port_text, sizeof port_text, "%u", ntohs(in.sin_port));
	cr_expect_eq(stream_connect(&s, "127.0.0.1", port_text,
	    clock_now() + PATIENT, why, sizeof why), -1);
	cr_expect_eq(errno, ECONNREFUSED);
	close(n);
	cr_expect_str_eq(why, "Connection refused");
	cr_expect_eq(stream_connect(&s, "127.0.0.1", NULL, clock_now(), why,
	    sizeof why), -1);
	cr_expect_str_eq(why, "no port given");
}

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

Test(stream, a_place_has_a_host_and_a_port)
{
	static const struct {
		const char *text, *host, *port;	/* host NULL: it is none */
	} cases[] = {
		{ "mx.example.org", "mx.example.org", "" },
		{ "mx.example.org.:25", "mx.example.org.", "25" },
		{ "mx_1:smtp", "mx_1", "smtp" },
		{ "3com.example", "3com.example", "" },
		{ "192.0.2.1:25", "192.0.2.1", "25" },
		{ "[192.0.2.1]", "192.0.2.1", "" },
		{ "[mx]:submission", "mx", "submission" },
		{ "2001:db8::1", "2001:db8::1", "" },
		{ "[fe80::1%eth0]:25", "fe80::1%eth0", "25" },
		{ "inet:mx:10025", "mx", "10025" },
		{ "2001:db8:0:0:0:0:0:25", "2001:db8:0:0:0:0:0:25", "" },
		{ "::25", "::25", "" }, { "[::1:25]", "::1:25", "" },
		{ "::1:25", NULL, NULL }, { "2001:db8::1:25", NULL, NULL },
		{ "inet:2001:db8::1:24", NULL, NULL },
		{ "", NULL, NULL }, { ":25", NULL, NULL },
		{ "[]", NULL, NULL }, { "[mx", NULL, NULL },
		{ "[::1]x", NULL, NULL }, { "[::1]:", NULL, NULL },
		{ "mx:0", NULL, NULL }, { "mx:65536", NULL, NULL },
		{ "mx:", NULL, NULL }, { "mx:2 5", NULL, NULL },
		{ ".mx", NULL, NULL }, { "mx..example", NULL, NULL },
		{ "-mx", NULL, NULL }, { "mx.-example", NULL, NULL },
		{ "10.1", NULL, NULL }, { "256.0.2.1", NULL, NULL },
		{ "192.0.2.1.2", NULL, NULL }, { "1", NULL, NULL },
		{ "192.0.2.1.", NULL, NULL }, { "mx%eth0", NULL, NULL },
		{ ":::", NULL, NULL }, { "1:2:3", NULL, NULL },
		{ "fe80::1%", NULL, NULL }, { "mx example", NULL, NULL },
		{ "{domain}", NULL, NULL }, { "//mx", NULL, NULL },
	};
	struct place to;

	for (size_t i = 0; i < COUNT(cases); i++) {
		const char *text = cases[i].text;
		bool is = place_parse(text, strlen(text), &to);

		cr_expect_eq(is, cases[i].host != NULL, "%s", text);
		if (!is || cases[i].host == NULL)
			continue;
		cr_expect_str_eq(to.host, cases[i].host, "%s", text);
		cr_expect_str_eq(to.port, cases[i].port, "%s", text);
	}
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

/* Nobody accepts, and the queue is full: only the deadline ends it. */
Test(stream, full_queue_is_a_timeout)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), i;
	struct stream s[3];
	char where[128], why[128];

	snprintf(un.sun_path, sizeof un.sun_path, "%s/full", hop_dir);
	snprintf(where, sizeof where, "unix:%s/full", hop_dir);
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
