/*
 * driver_test.c - the channel as an embedder and its driver see it: verbs and
 * keywords of their own, what waits, how a session ends, who the client is.
 */
#define _GNU_SOURCE	/* memmem */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "t/fakes/recorder.h"

static const struct pace whole = { .step = SIZE_MAX };

/* ---- an embedder's verbs, keywords and limits ---- */

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
	recorder_say(&r, script);
	recorder_close(&r);
	cr_expect_str_eq(r.replies.p == NULL ? "" : r.replies.p, want);
	recorder_free(&r);
}

#define HI "220 mx.example.org ESMTP smtpd\r\n"

Test(verbs, an_embedders_come_first)
{
	struct channel_settings set = recorder_plain;

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
	struct channel_settings set = recorder_plain;

	set.verbs = web;
	replies(&set, "HELO c\r\nget a\r\nPUT a\r\nget b\r\n",
	    HI "250 mx.example.org\r\n250 Pong a\r\n"
	    "421 mx.example.org HTTP is not served here\r\n");
}

Test(verbs, an_embedders_are_listed_by_help)
{
	struct channel_settings set = recorder_plain;

	set.verbs = own;
	replies(&set, "HELP\r\n",
	    HI "214 Commands: PING HELO EHLO MAIL RCPT DATA BDAT RSET NOOP "
	    "QUIT HELP VRFY\r\n");
}

Test(verbs, keywords_are_offered_before_help)
{
	static const char *const words[] = { "X-PING", "X-PONG 1 2", NULL };
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.keywords = words;
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, "EHLO c\r\n");
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
	struct channel_settings set = recorder_plain;

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

/* ---- what the driver sees ---- */

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
	channel_init(&ch, &recorder_plain, &(struct channel_hooks){ 0 }, NULL);
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

/* Text is decoded in blocks, wherever in them an odd octet is. */
Test(driver, sees_what_is_odd_wherever_it_stands)
{
	static const char odd[] = "\r\n.";	/* and NUL */
	static const char begin[] =
	    "HELO a\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n";
	enum { LINE = 50, N = 5 * LINE };
	struct channel_settings set = recorder_plain;
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
		recorder_say(&fast, begin);
		recorder_say(&slow, begin);
		recorder_feed(&fast, in, N, whole);
		recorder_feed(&slow, in, N, (struct pace){ .step = 1 });
		recorder_say(&fast, ".\r\n");
		recorder_say(&slow, ".\r\n");
		cr_assert(text_same(&fast.mail, &slow.mail) &&
		    text_same(&fast.replies, &slow.replies), "%zu", i);
		recorder_close(&fast);
		recorder_close(&slow);
		recorder_free(&fast);
		recorder_free(&slow);
	}
}

/* Their number does not matter: the work grows with the octets only. */
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
	channel_init(&ch, &recorder_plain, &(struct channel_hooks){ 0 }, NULL);
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

	channel_init(&ch, &recorder_plain, &(struct channel_hooks){ 0 }, NULL);
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

/* What was written takes up no room, even if something always waits. */
Test(driver, may_always_have_a_reply_that_waits)
{
	struct channel ch;
	size_t len, i;

	channel_init(&ch, &recorder_plain, &(struct channel_hooks){ 0 }, NULL);
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

	recorder_open(&r, &recorder_plain, NULL, 0);
	recorder_say(&r, "QUIT\r\nNOOP\r\n");
	cr_expect_eq(r.used, 6);
	cr_expect_eq(channel_feed(&r.ch, "NOOP\r\n", 6), 0);
	recorder_close(&r);
	recorder_free(&r);
}

Test(driver, takes_not_an_octet_after_starttls)
{
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.tls = true;
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, "STARTTLS\r\nNOOP\r\n");
	cr_expect_eq(r.used, 10);
	cr_expect_eq(r.ch.want, WANT_TLS);
	recorder_close(&r);
	recorder_free(&r);
}

#define IDLE "421 4.4.2 mx.example.org Idle too long\r\n"

Test(driver, closes_with_a_reply_of_its_own)
{
	struct recorder r;

	recorder_open(&r, &recorder_plain, NULL, 0);
	recorder_say(&r, "EHLO c\r\nMAIL FROM:<a>\r\n");
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

/* The driver's own reply is not replaced by `Too many errors'. */
Test(driver, closes_with_its_own_reply_after_many_errors)
{
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.max_errors = 1;
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, "EHLO c\r\nFROB\r\n");
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

	recorder_open(&r, &recorder_plain, NULL, 0);
	recorder_say(&r, script);
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
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.enable_SMTPUTF8 = true;
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, script);
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
	recorder_say(&r, "DATA\r\n..x\r\n.\r\nFROB\r\nHELO other\r\n");
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
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.tls = true;
	set.auth = "PLAIN";
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, script);
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
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.auth = "PLAIN";
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, "EHLO c\r\nAUTH PLAIN\r\n");
	recorder_say(&r, secret);
	cr_assert(memmem(&r.ch, sizeof r.ch, secret, sizeof secret - 1));
	recorder_say(&r, "\r\n");
	cr_assert(r.ch.authenticated);
	cr_assert_null(memmem(&r.ch, sizeof r.ch, secret, sizeof secret - 1),
	    "credentials are still in the channel");
	recorder_close(&r);
	recorder_free(&r);
}

/* ---- who the client is ---- */

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
	struct channel_settings set = recorder_plain;
	struct recorder r;
	size_t i;

	set.proxy_protocol = true;
	for (i = 0; i < sizeof proxied / sizeof *proxied; i++) {
		const struct proxied *p = &proxied[i];

		recorder_open(&r, &set, NULL, 0);
		cr_expect_eq(r.ch.smtp_state, PHASE_PROXY);
		recorder_feed(&r, p->header, p->len,
		    (struct pace){ .step = 1 });
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
	struct channel_settings set = recorder_plain;
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
Test(peer, tls_may_begin_right_after_the_header)
{
	static const char script[] =
	    "PROXY TCP4 192.0.2.1 198.51.100.1 56324 465\r\n\x16\x03\x01";
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.proxy_protocol = set.tls_on_connect = true;
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, script);
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
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.xclient = true;
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, script);
	cr_expect_str_eq(r.ch.peer.name, "client.example.net");
	cr_expect_str_eq(r.ch.peer.address, "2001:db8::1");
	cr_expect_str_eq(r.ch.peer.port, "1025");
	cr_expect_str_eq(r.ch.peer.server_address, "198.51.100.1");
	cr_expect_str_eq(r.ch.peer.server_port, "25");
	cr_expect_str_eq(r.ch.seen_greeting, "client");
	cr_expect_str_eq(r.ch.auth_user, "user");
	cr_expect(r.ch.authenticated);
	recorder_say(&r, "XCLIENT ADDR=[UNAVAILABLE] NAME=[TEMPUNAVAIL]\r\n");
	cr_expect_str_eq(r.ch.peer.name, "unknown");
	cr_expect_str_eq(r.ch.peer.address, "unknown");
	recorder_close(&r);
	recorder_free(&r);
}

Test(peer, is_what_it_was_if_xclient_is_refused)
{
	static const char script[] = "EHLO proxy\r\n"
	    "XCLIENT NAME=client ADDR=192.0.2.1 HELO=client LOGIN=user X=1\r\n";
	struct channel_settings set = recorder_plain;
	struct recorder r;

	set.xclient = true;
	recorder_open(&r, &set, NULL, 0);
	recorder_say(&r, script);
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
