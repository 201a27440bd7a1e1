/*
 * failure_test.c - a next hop on a bad day.
 */
#define _GNU_SOURCE	/* RTLD_NEXT */
#include <sys/socket.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/reply.h"
#include "base/text.h"
#include "relay/smtp.h"

#include "t/fakes/hop.h"

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

TestSuite(failure, .init = hop_begin, .fini = hop_end);

Test(failure, last_line_of_a_reply_counts)
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

Test(failure, empty_line_between_replies_is_skipped)
{
	static const struct scene scenes[] = {
		{ .name = "before the greeting", "> \n" ONE, TAKEN },
		{ .name = "with the greeting",
		    "+ 220 mx\\r\\n\\r\\n\n< EHLO smtpd.example.org\n"
		    "+ \\r\\n250 mx\\r\\n\\n\n" MAIL RCPT TEXT QUEUED, TAKEN },
	};

	run_scenes(scenes, COUNT(scenes));
}

Test(failure, a_code_alone_is_a_reply_with_a_text)
{
	static const struct scene scenes[] = {
		{ .name = "MAIL", PLAIN FROM "> 550\n",
		    "550 5.0.0 The next hop gives no reason\n" },
		{ .name = "RCPT", PLAIN MAIL TO "> 450 4.2.1\n",
		    "450 4.2.1 The next hop gives no reason\n" },
		{ .name = "lines", PLAIN MAIL TO "> 550-\n> 550 \n",
		    "550 5.0.0 The next hop gives no reason\n" },
		{ .name = "taken", PLAIN MAIL RCPT TEXT "> 250\n",
		    "250 2.0.0 OK\n" },
	};

	run_scenes(scenes, COUNT(scenes));
}

Test(failure, what_a_hop_said_before_it_left_is_the_reply)
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
		{ .name = "several lines", "> 554-5.7.1 mx.example.net\n"
		    "> 554-5.7.1 Your address is blocked\n"
		    "> 554 5.7.1 See http://example.net/\n",
		    "451 4.7.1 mx.example.net\nYour address is blocked\n"
		    "See http://example.net/\n" },
	};
	size_t i;

	for (i = 0; i < COUNT(scenes); i++) {
		hop_log[0] = '\0';
		run_scenes(&scenes[i], 1);
		cr_expect_not_null(strstr(hop_log, "5.7.1 "), "%s: %s",
		    scenes[i].name, hop_log);
	}
	cr_expect_not_null(strstr(hop_log, "554 5.7.1 mx.example.net / Your "
	    "address is blocked / See http://example.net/"), "%s", hop_log);
}

Test(failure, ehlo_answered_by_closing_is_tried_again_by_helo)
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

Test(failure, refused_mail_of_a_kept_connection_is_said_again)
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

/* The second of two places takes the message. */
static void
fails_over(const char *name, const char *first)
{
	relay_to_two(name, first, ONE, TAKEN);
}

Test(failure, next_place_is_asked_when_one_cannot_serve)
{
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

	relay_to_two("a refusal is final", PLAIN FROM "> 550 5.7.1 No\n", "",
	    "550 5.7.1 No\n");

	relay_to_two("it may have the message", PLAIN MAIL RCPT TEXT "!\n", "",
	    "451 4.4.2 Connection to next hop lost\n");

	/* The next one must accept the same recipients. */
	relay_to_two("accepts less", PLAIN MAIL RCPT "< DATA\n!\n",
	    PLAIN MAIL TO "> 550 5.1.1 Unknown\n", "451 4.1.1 Unknown\n");
}

/* The first address is lost, the second takes the message. */
Test(failure, log_names_the_address_of_a_name)
{
	struct peer p, q;
	char where[128], wanted[128];
	unsigned port;
	int listener = listen_inet(where, &port);

	start_at(&p, listen_second(port), PLAIN MAIL RCPT "< DATA\n!\n");
	start_at(&q, listener, ONE);
	snprintf(where, sizeof where, "two.example.net:%u", port);
	cr_expect_str_eq(relay_once(where, &settings, NEXTHOP_SMTP), TAKEN);
	snprintf(wanted, sizeof wanted,
	    "nexthop two.example.net[127.0.0.2]:%u: DATA: ", port);
	cr_expect_neq(strstr(hop_log, wanted), NULL, "%s", hop_log);
	snprintf(wanted, sizeof wanted,
	    "nexthop two.example.net[127.0.0.1]:%u: took the message: ", port);
	cr_expect_neq(strstr(hop_record, wanted), NULL, "%s", hop_record);
	finish(&p, "lost");
	finish(&q, "took");
}

/* 127.0.0.2 comes first, and accepts the connection. */
Test(failure, next_address_of_a_name_is_asked_when_one_cannot_serve)
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

Test(failure, deadline_holds_for_name_resolution)
{
	struct post *m = post("a@example.net", "x\r\n");
	struct nexthop *h;
	struct peer p;
	char where[300];

	hop_log[0] = '\0';
	h = nexthop_open(&settings, NEXTHOP_SMTP, "silent.example.net", -1);
	cr_expect_str_eq(relay_by(h, m, 200),
	    "451 4.4.1 Cannot connect to next hop\n");
	cr_expect_not_null(strstr(hop_log, "silent.example.net: cannot resolve "
	    "the name: the name server does not answer"), "%s", hop_log);
	nexthop_close(h);

	start(&p, ONE);
	snprintf(where, sizeof where, "silent.example.net,%s", p.where);
	h = nexthop_open(&settings, NEXTHOP_SMTP, where, -1);
	cr_expect_str_eq(relay_by(h, m, 4000), TAKEN);
	nexthop_close(h);
	finish(&p, "the next place has time left");
	post_free(m);
}

Test(failure, next_mechanism_is_tried)
{
	static const char *const codes[] = { "502", "503", "504", "534",
		"535" };
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
		hop_write(path, "auth", text, 0600);
		got = relay_once(p.where, &set, NEXTHOP_SMTP);
		cr_expect_str_eq(got, TAKEN, "%s: %s", codes[i], got);
		finish(&p, codes[i]);
	}
}

Test(failure, too_many_recipients_is_temporary)
{
	static const struct scene scenes[] = {
		{ .name = "552 to RCPT", PLAIN MAIL TO
		    "> 552 5.5.3 Too many recipients\n",
		    "452 4.5.3 Too many recipients\n" },
	};

	run_scenes(scenes, COUNT(scenes));
}

Test(failure, what_we_configured_wrongly_is_temporary)
{
	static const struct scene scenes[] = {
		{ .name = "530 to MAIL", PLAIN FROM
		    "> 530 5.7.0 Authentication required\n",
		    "451 4.7.0 Authentication required\n" },
		{ .name = "530 to RCPT", PLAIN MAIL TO
		    "> 530 5.7.0 Must issue a STARTTLS command first\n",
		    "451 4.7.0 Must issue a STARTTLS command first\n" },
		{ .name = "503 to MAIL", PLAIN FROM
		    "> 503 5.5.4 Error: send AUTH command first.\n",
		    "451 4.5.4 Error: send AUTH command first.\n" },
		{ .name = "503 to RCPT", PLAIN MAIL TO
		    "> 503 Error: need EHLO and AUTH first !\n",
		    "451 4.0.0 Error: need EHLO and AUTH first !\n" },
		{ .name = "535 to MAIL", PLAIN FROM
		    "> 535 5.7.3 Authentication unsuccessful\n",
		    "451 4.7.3 Authentication unsuccessful\n" },
		{ .name = "538 to MAIL", PLAIN FROM
		    "> 538 5.7.11 Encryption required\n",
		    "451 4.7.11 Encryption required\n" },
		{ .name = "503 to DATA", PLAIN MAIL RCPT
		    "< DATA\n> 503 5.5.1 Bad sequence\n",
		    "451 4.5.1 Bad sequence\n" },
		{ .name = "500 to LHLO", "> 220 mx ESMTP\n"
		    "< LHLO smtpd.example.org\n> 500 5.5.1 What?\n",
		    "451 4.5.1 What?\n", .protocol = NEXTHOP_LMTP },
	};

	hop_log[0] = '\0';
	run_scenes(scenes, COUNT(scenes));
	cr_expect_not_null(strstr(hop_log, "see --relay-auth and --relay-tls"),
	    "%s", hop_log);
	cr_expect_not_null(strstr(hop_log, "this is no LMTP server"), "%s",
	    hop_log);
}

Test(failure, refused_chunk_goes_by_data_on_a_fresh_connection)
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

/* It answers some commands of a group, and the rest of it is lost. */
Test(failure, broken_pipelining_is_not_used_again)
{
	static const char *const firsts[] = {
		OFFERS("PIPELINING") FROM "@\n",
		OFFERS("PIPELINING") MAIL TO "@\n",
	};
	static const char second[] = OFFERS("PIPELINING")
	    FROM "0\n> 250 2.1.0 Ok\n" RCPT TEXT QUEUED;
	struct post *m = post("a@example.net", "x\r\n");
	char script[1024];
	struct nexthop *h;
	struct peer p;

	for (size_t i = 0; i < COUNT(firsts); i++) {
		snprintf(script, sizeof script, "%s%s", firsts[i], second);
		start(&p, script);
		h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
		/* It has greeted until then. */
		cr_expect_str_eq(relay_by(h, m, 2000),
		    "451 4.4.2 Next hop timed out\n", "%s", firsts[i]);
		cr_expect_str_eq(relay_by(h, m, PATIENT), TAKEN, "%s",
		    firsts[i]);
		nexthop_close(h);
		finish(&p, firsts[i]);
	}
	post_free(m);
}

Test(failure, undeclared_8_bit_text_is_declared)
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

Test(failure, orcpt_in_utf8_is_encoded_for_a_hop_without_smtputf8)
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

Test(failure, log_says_who_took_the_message)
{
	struct peer p;
	char wanted[256];

	start(&p, ONE);
	relay_once(p.where, &settings, NEXTHOP_SMTP);
	snprintf(wanted, sizeof wanted,
	    "nexthop %s: took the message: 250 2.0.0 Queued\n", p.where + 5);
	cr_expect_str_eq(hop_record, wanted, "%s", hop_record);
	finish(&p, "took");
}

Test(failure, valid)
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
