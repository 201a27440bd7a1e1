/*
 * smtp_test.c - the SMTP client's dialogue, text and connections.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/clock.h"
#include "base/reply.h"
#include "base/text.h"
#include "relay/smtp.h"

#include "t/fakes/hop.h"

TestSuite(smtp, .init = hop_begin, .fini = hop_end);

static const struct scene dialogues[] = {
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
	    "451 4.0.0 The next hop gives no reason\n" },
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
	{ .name = "one with something after it", PLAIN FROM
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

Test(smtp, dialogue)
{
	run_scenes(dialogues, COUNT(dialogues));
}

/* What a peer may do at any step, and the reply that comes of it. */
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
	OFFERS2("PIPELINING", "XFORWARD NAME")
	    "< XFORWARD NAME=[UNAVAILABLE]\n" FROM TO,
	/* Those from here on have the message. */
	PLAIN MAIL RCPT TEXT,
	OFFERS("CHUNKING") MAIL RCPT "#\n",
};

#define FIRST_WITH_MESSAGE 9

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
	hop_log[0] = '\0';
	start(&p, script);
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	m = post("a@example.net", "x\r\n");
	got = relay_by(h, m, b->ms);
	cr_expect_str_eq(got, wanted, "%s at \"%s\": %s", b->name, stage, got);
	cr_expect_eq(strstr(hop_log, "duplicate-possible") != NULL, doubt,
	    "%s at \"%s\": logged %s", b->name, stage, hop_log);
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

Test(smtp, closing_at_each_step)
{
	strike_everywhere(&(struct blow){ "close", "!\n", LOST, PATIENT,
	    true });
}

Test(smtp, end_inside_a_line_at_each_step)
{
	strike_everywhere(&(struct blow){ "cut", "= 250 2.0.0 Ok\n!\n", LOST,
	    PATIENT, true });
}

Test(smtp, hangs_up_politely_at_each_step)
{
	strike_everywhere(&(struct blow){ "421",
	    "> 421 4.3.2 Shutting down\n", "451 4.3.2 Shutting down", PATIENT,
	    false });
}

Test(smtp, garbage_at_each_step)
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
Test(smtp, silence_at_each_step)
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

Test(smtp, endless_reply)
{
	char script[16000], *p = script;
	int i;

	for (i = 0; i < 1001; i++)
		p += sprintf(p, "> 250-more\n");
	strike(PLAIN FROM, &(struct blow){ "endless", script, GARBLED, PATIENT,
	    false }, false);
}

Test(smtp, long_reply_lines_are_cut)
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
   taken, over small buffers: a client that only sends gets stuck. */
Test(smtp, thousand_recipients_in_groups)
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

/* More than was asked for, and in the same packet. */
#define SAID(x) \
	PLAIN MAIL RCPT TEXT "+ 250 2.0.0 Queued\\r\\n" x "\\r\\n\n"

Test(smtp, kept_open_and_opened_again)
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
Test(smtp, opened_again_no_more_than_once)
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

Test(smtp, abandoned_and_used_again)
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

Test(smtp, text_is_stuffed_exactly)
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

Test(smtp, chunk_is_sent_exactly)
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
Test(smtp, lf_form_goes_by_data)
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

Test(smtp, unreadable_spool_is_never_ended)
{
	struct nexthop *h;
	struct peer p;
	struct post *m = post("a@example.net", "a\r\n");

	close(m->spool);
	m->spool = open(hop_dir, O_RDONLY | O_CLOEXEC);	/* EISDIR */
	start(&p, PLAIN MAIL RCPT "< DATA\n> 354 Go\n@\n");
	h = nexthop_open(&settings, NEXTHOP_SMTP, p.where, -1);
	cr_expect_str_eq(relay_by(h, m, PATIENT),
	    "451 4.3.0 Cannot read the message\n");
	nexthop_close(h);
	finish(&p, "unreadable");
	post_free(m);
}
