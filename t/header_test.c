/*
 * header_test.c - what a client sends never becomes part of header fields that
 * are written in front of it.  Each message reads the same at every chunk size.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session/header.h"

struct output {
	char text[16384];
	size_t len;
};

static void
append(void *ctx, const char *p, size_t len)
{
	struct output *out = ctx;

	cr_assert_leq(len, sizeof out->text - out->len);
	memcpy(out->text + out->len, p, len);
	out->len += len;
}

/* Sends in[0..len) in chunks of step octets.  Returns the Received: fields. */
static unsigned
pass(enum guard guard, const char *in, size_t len, size_t step,
    struct output *out)
{
	static struct header h;
	static char hold[HEADER_HELD];
	size_t n;

	memset(&h, 'x', sizeof h);
	h.hold = hold;
	out->len = 0;
	header_open(&h, guard, append, out);
	for (; len > 0; in += n, len -= n) {
		n = len < step ? len : step;
		header_feed(&h, (struct span){ in, n });
	}
	header_close(&h);
	return h.received;
}

static void
becomes(enum guard guard, const char *in, const char *want)
{
	static struct output out;
	size_t len = strlen(in), n = strlen(want);

	for (size_t step = 1; step <= len; step++) {
		pass(guard, in, len, step, &out);
		cr_expect(out.len == n && memcmp(out.text, want, n) == 0,
		    "%zu octets at a time: \"%.*s\" and not \"%s\"", step,
		    (int)out.len, out.text, want);
	}
}

static void
expect(bool fields, const char *in, const char *want)
{
	becomes(fields ? GUARD_FIELDS : GUARD_NONE, in, want);
}

Test(header, a_field_comes_first_as_it_was)
{
	expect(true, "Subject: x\r\n\r\nbody\r\n",
	    "Subject: x\r\n\r\nbody\r\n");
	expect(true, "Subject \t: x\r\n", "Subject \t: x\r\n");
	expect(true, "From: x\r\n y\r\n", "From: x\r\n y\r\n");
	expect(true, "From : x\r\n", "From : x\r\n");
	expect(true, ">From: x\r\n", ">From: x\r\n");
	expect(true, "F:\r\n", "F:\r\n");
}

Test(header, a_first_line_with_a_blank_continues_nothing)
{
	expect(true, " 10.9.8.7 (authenticated)\r\nA: b\r\n",
	    "\r\n 10.9.8.7 (authenticated)\r\nA: b\r\n");
	expect(true, "\tx\r\n", "\r\n\tx\r\n");
	expect(true, " ", "\r\n ");
	expect(true, " : x\r\n", "\r\n : x\r\n");
	expect(true, " \r\nA: b\r\n", "\r\n \r\nA: b\r\n");
}

Test(header, a_message_without_header_gets_an_empty_line)
{
	expect(true, "Disk 3 has failed\r\n", "\r\nDisk 3 has failed\r\n");
	expect(true, "word\r\nA: b\r\n", "\r\nword\r\nA: b\r\n");
	expect(true, "word", "\r\nword");
	expect(true, ": x\r\n", "\r\n: x\r\n");
	expect(true, "sch\303\266n: x\r\n", "\r\nsch\303\266n: x\r\n");
	expect(true, ".\r\n", "\r\n.\r\n");
}

Test(header, an_empty_line_comes_first_as_it_was)
{
	expect(true, "\r\nbody\r\n", "\r\nbody\r\n");
	expect(true, "\r\n A: b\r\n", "\r\n A: b\r\n");
	expect(true, "", "");
}

Test(header, a_lone_CR_or_LF_is_no_empty_line)
{
	expect(true, "\r x: y\r\n", "\r\n\r x: y\r\n");
	expect(true, "\n x: y\r\n", "\r\n\n x: y\r\n");
	expect(true, "\r", "\r\n\r");
	expect(true, "A\rB: c\r\n", "\r\nA\rB: c\r\n");
}

Test(header, an_mbox_line_before_a_field_becomes_one)
{
	expect(true, "From a@b Sat\r\nSubject: x\r\n",
	    "X-Mailbox-Line: From a@b Sat\r\nSubject: x\r\n");
	expect(true, ">>From a\r\nFrom b\r\nSubject: x\r\n\r\nFrom c\r\n",
	    "X-Mailbox-Line: >>From a\r\nX-Mailbox-Line: From b\r\n"
	    "Subject: x\r\n\r\nFrom c\r\n");
}

Test(header, an_mbox_line_before_text_is_text)
{
	expect(true, "From here on all is well\r\n",
	    "\r\nFrom here on all is well\r\n");
	expect(true, "From a\r\n\r\nSubject: x\r\n",
	    "\r\nFrom a\r\n\r\nSubject: x\r\n");
	expect(true, "From a\r\n Subject: x\r\n",
	    "\r\nFrom a\r\n Subject: x\r\n");
	expect(true, "From a\n b\r\nSubject: x\r\n",
	    "\r\nFrom a\n b\r\nSubject: x\r\n");
	expect(true, ">From", "\r\n>From");
	expect(true, "From a\r", "\r\nFrom a\r");
}

Test(header, without_fields_of_ours_nothing_changes)
{
	expect(false, " x\r\nSubject: y\r\n", " x\r\nSubject: y\r\n");
	expect(false, "From a\r\nSubject: y\r\n", "From a\r\nSubject: y\r\n");
	expect(false, "Disk 3", "Disk 3");
}

Test(header, a_header_that_is_read_begins_after_mbox_lines)
{
	becomes(GUARD_HEADER, "From a\r\n>From b\r\nSubject: y\r\n",
	    "X-Mailbox-Line: From a\r\nX-Mailbox-Line: >From b\r\n"
	    "Subject: y\r\n");
	becomes(GUARD_HEADER, "From a\r\n x\r\n", "From a\r\n x\r\n");
	becomes(GUARD_HEADER, " x\r\nSubject: y\r\n", " x\r\nSubject: y\r\n");
	becomes(GUARD_HEADER, "Disk 3", "Disk 3");
}

/* A first line that is longer than what is held is no field. */
Test(header, an_endless_first_line_takes_bounded_memory)
{
	static char in[3 * HEADER_HELD], want[sizeof in + 2];
	static struct output out;

	memset(in, 'a', sizeof in);
	in[HEADER_HELD + 10] = ':';
	memcpy(want, "\r\n", 2);
	memcpy(want + 2, in, sizeof in);
	for (size_t step = 1; step < HEADER_HELD; step += 61) {
		pass(GUARD_FIELDS, in, sizeof in, step, &out);
		cr_assert(out.len == sizeof want &&
		    memcmp(out.text, want, sizeof want) == 0);
	}
}

Test(header, received_fields_are_counted)
{
	static const char in[] = "From x\r\nReceived: 1\r\nRECEIVED: 2\r\n"
	    " Received: no\r\nX-Received: no\r\n\r\nReceived: no\r\n";
	const size_t len = sizeof in - 1;
	static struct output out;

	for (size_t step = 1; step <= sizeof in; step++) {
		cr_expect_eq(pass(GUARD_FIELDS, in, len, step, &out), 2);
		cr_expect_eq(pass(GUARD_NONE, in, len, step, &out), 2);
	}
}
