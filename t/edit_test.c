/*
 * edit_test.c - a message's header fields are found, and edits change just what
 * they name.  Every case holds for CRLF and for LF line ends.
 */
#define _GNU_SOURCE	/* memfd_create */
#include <sys/mman.h>

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/edit.h"

/* Writes text, with LF, in that form.  Returns its length. */
static size_t
form(const char *text, bool crlf, char *to)
{
	size_t n = 0;

	for (; *text != '\0'; text++) {
		if (*text == '\n' && crlf)
			to[n++] = '\r';
		to[n++] = *text;
	}
	return n;
}

static size_t
lines(const char *text)
{
	size_t n = 0;

	for (; *text != '\0'; text++)
		n += *text == '\n';
	return n;
}

static const char *const ours[] = { "Received", "X-Peer", NULL };

/* Opens text as a message, calls change, compares. */
static void
expect(const char *text, void (*change)(struct edit *e), const char *want)
{
	static char in[8192], out[8192], is[8192];

	for (int crlf = 0; crlf < 2; crlf++) {
		size_t n = form(text, crlf, in), m = form(want, crlf, out);
		int fd = memfd_create("t", MFD_CLOEXEC), new;
		uint64_t size = 0;
		struct edit e;
		ssize_t got;

		cr_assert_eq(write(fd, in, n), (ssize_t)n);
		cr_assert_eq(edit_open(&e, fd, crlf,
		    strlen(text) + lines(text), ours), 0);
		change(&e);
		cr_assert(e.changed);
		new = edit_finish(&e, &size);
		cr_assert_neq(new, -1);
		edit_close(&e);
		got = read(new, is, sizeof is);
		cr_expect(got == (ssize_t)m && memcmp(is, out, m) == 0,
		    "crlf %d: \"%.*s\" is not \"%s\"", crlf, (int)got, is,
		    want);
		cr_expect_eq(size, strlen(want) + lines(want),
		    "crlf %d: %s: %zu octets", crlf, want, (size_t)size);
		close(new);
		close(fd);
	}
}

#define MESSAGE "Received: us\n\tthen\nA: 1\nB: 2\n more\na: 3\n\nbody\n"

static void
add(struct edit *e)
{
	cr_assert_eq(edit_add(e, "X", " y"), 0);
}

Test(edit, a_field_is_added_at_the_end_of_the_header)
{
	expect(MESSAGE, add, "Received: us\n\tthen\nA: 1\nB: 2\n more\na: 3\n"
	    "X: y\n\nbody\n");
	expect("A: 1\n", add, "A: 1\nX: y\n");
	expect("\nbody\n", add, "X: y\n\nbody\n");
	expect("", add, "X: y\n");
}

Test(edit, a_header_that_does_not_end_gets_an_empty_line)
{
	expect("body\n", add, "X: y\n\nbody\n");
	expect("A: 1\n no\nbody: \n", add, "A: 1\n no\nbody: \nX: y\n");
	expect("A: 1\nno field\nB: 2\n", add,
	    "A: 1\nX: y\n\nno field\nB: 2\n");
	expect(" A: 1\n", add, "X: y\n\n A: 1\n");
	expect("A: 1", add, "A: 1\nX: y\n");
	expect("A:", add, "A:\nX: y\n");
	expect("no", add, "X: y\n\nno");
}

static void
insert(struct edit *e)
{
	cr_assert_eq(edit_insert(e, 1, "One", " 1"), 0);
	cr_assert_eq(edit_insert(e, 0, "Zero", " 0"), 0);
	cr_assert_eq(edit_insert(e, 1, "Next", " 1"), 0);
	cr_assert_eq(edit_insert(e, 99, "Last", " 9"), 0);
}

Test(edit, an_index_counts_our_own_fields_as_one)
{
	expect("Received: us\nX-Peer: u\nA: 1\n\nbody\n", insert,
	    "Zero: 0\nNext: 1\nReceived: us\nX-Peer: u\nOne: 1\nA: 1\n"
	    "Last: 9\n\nbody\n");
	expect("A: 1\nReceived: other\n\n", insert, "Zero: 0\nNext: 1\n"
	    "One: 1\nA: 1\nReceived: other\nLast: 9\n\n");
}

static void
change(struct edit *e)
{
	cr_assert_eq(edit_change(e, 2, "A", " x\ny\r\n\tz\r!\n\n"), 0);
	cr_assert_eq(edit_change(e, 1, "b", NULL), 0);
	cr_assert_eq(edit_change(e, 1, "received", NULL), 0);
	cr_assert_eq(edit_change(e, 3, "A", " new"), 0);
	cr_assert_eq(edit_change(e, 9, "A", NULL), 0);
}

Test(edit, the_nth_of_a_name_is_changed_or_deleted)
{
	expect(MESSAGE, change, "Received: us\n\tthen\nA: 1\n"
	    "A: x\n\ty\n\tz !\nA: new\n\nbody\n");
}

static void
remove_all(struct edit *e)
{
	cr_assert_eq(edit_add(e, "a", " 4"), 0);
	cr_assert_eq(edit_remove(e, 1, "received"), 0);
	cr_assert_eq(edit_remove(e, 2, "A"), 0);
	cr_assert_eq(edit_remove(e, 2, "b"), 0);
	cr_assert_eq(edit_remove(e, 1, "no name"), -1);
	cr_assert_eq(errno, EINVAL);
}

Test(edit, all_of_a_name_from_the_nth_on_are_removed)
{
	expect(MESSAGE, remove_all,
	    "Received: us\n\tthen\nA: 1\nB: 2\n more\n\nbody\n");
	expect("Received: us\nA: 1\nreceived: x\nA: 2\nReceived: y", remove_all,
	    "Received: us\nA: 1\n");
}

static void
body(struct edit *e)
{
	cr_assert_eq(edit_body(e, "new\r", 4), 0);
	cr_assert_eq(edit_body(e, "\nbody\r\n", 7), 0);
}

Test(edit, the_body_is_replaced)
{
	expect(MESSAGE, body,
	    "Received: us\n\tthen\nA: 1\nB: 2\n more\na: 3\n\nnew\nbody\n");
	expect("A: 1\nno field\n", body, "A: 1\n\nnew\nbody\n");
}

Test(edit, what_cannot_be_a_name_is_refused)
{
	static const char *const bad[] = { "", "A B", "A:", "A\n", "\303\244",
		"A\rB", "A\t" };
	int fd = memfd_create("t", MFD_CLOEXEC);
	struct edit e;

	cr_assert_eq(edit_open(&e, fd, true, 0, ours), 0);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		errno = 0;
		cr_expect(edit_add(&e, bad[i], "x") == -1 && errno == EINVAL,
		    "%s", bad[i]);
		cr_expect(edit_insert(&e, 0, bad[i], "x") == -1);
		cr_expect(edit_change(&e, 1, bad[i], NULL) == -1);
	}
	cr_expect(!e.changed);
	edit_close(&e);
	close(fd);
}

Test(edit, memory_does_not_grow_with_the_message)
{
	int fd = memfd_create("t", MFD_CLOEXEC);
	struct edit e;

	for (size_t i = 0; i < 2 * EDIT_FIELDS_MAX; i += 10)
		cr_assert_eq(write(fd, "a:\na:\na:\na:\na:\na:\na:\na:\na:\n"
		    "a:\n", 30), 30);
	errno = 0;
	cr_expect(edit_open(&e, fd, false, 0, ours) == -1 && errno == E2BIG);
	edit_close(&e);
	close(fd);
}

Test(edit, values_are_read_whole_and_cut)
{
	static const char text[] = "A : b\r\n c\r\nD:e";
	int fd = memfd_create("t", MFD_CLOEXEC);
	struct edit e;
	char to[16];

	cr_assert_eq(write(fd, text, sizeof text - 1), sizeof text - 1);
	cr_assert_eq(edit_open(&e, fd, true, sizeof text - 1, ours), 0);
	cr_expect(edit_value(&e, edit_row(&e, 0), to, 16) == 6 &&
	    memcmp(to, " b\r\n c", 6) == 0);
	cr_expect(edit_value(&e, edit_row(&e, 0), to, 2) == 2);
	cr_expect(edit_value(&e, edit_row(&e, 1), to, 16) == 1 && *to == 'e');
	cr_expect_null(edit_row(&e, 2));
	edit_close(&e);
	close(fd);
}

/* What edit_test's model of a header has: fields as text, each one line. */
struct model {
	char field[64][16];
	size_t n;
};

static void
put(struct model *m, size_t at, char name, unsigned value)
{
	memmove(m->field[at + 1], m->field[at],
	    (m->n++ - at) * sizeof *m->field);
	snprintf(m->field[at], sizeof *m->field, "%c:%u\n", name, value);
}

/* The place of the n-th field of that name; n if there is none.  The field
   "Received" is ours. */
static size_t
place(const struct model *m, char name, size_t n)
{
	size_t at = 0;

	while (at < m->n && (m->field[at][0] != name || --n > 0))
		at++;
	return at;
}

static void
cut(struct model *m, size_t at)
{
	memmove(m->field[at], m->field[at + 1],
	    (--m->n - at) * sizeof *m->field);
}

/* One edit, of both. */
static void
edit_both(struct model *m, struct edit *e, unsigned value)
{
	char name = (char)("ABb"[rand() % 3]), text[16], as[2] = { name, 0 };
	size_t n = 1 + (size_t)rand() % 4, at, own;

	snprintf(text, sizeof text, "%u", value);
	for (at = 0; at < m->n; at++)	/* in any case */
		if (m->field[at][0] == 'b' || m->field[at][0] == 'B')
			m->field[at][0] = 'B';
	name = name == 'b' ? 'B' : name;
	at = place(m, name, n);
	own = place(m, 'R', 1);
	switch (rand() % 6) {
	case 0:
		cr_assert_eq(edit_add(e, as, text), 0);
		put(m, m->n, name, value);
		break;
	case 1:
		n = (size_t)rand() % (m->n + 2);
		cr_assert_eq(edit_insert(e, n, as, text), 0);
		put(m, n <= own ? n : n > m->n ? m->n : n, name, value);
		break;
	case 2:
		cr_assert_eq(edit_change(e, n, as, text), 0);
		if (at < m->n)
			cut(m, at);
		put(m, at, name, value);
		break;
	case 3:
		cr_assert_eq(edit_remove(e, n, as), 0);
		while ((at = place(m, name, n)) < m->n)
			cut(m, at);
		break;
	default:
		cr_assert_eq(edit_change(e, n, as, NULL), 0);
		if (at < m->n)
			cut(m, at);
		break;
	}
}

/* What remains, in upper case as the model has it. */
static void
compare(const struct model *m, struct edit *e, int seed)
{
	char want[2048] = "", got[2048] = "";
	uint64_t size;
	int fd = edit_finish(e, &size);
	ssize_t n = read(fd, got, sizeof got - 1);

	cr_assert(n > 0 && fd != -1);
	for (size_t i = 0; i < m->n; i++)
		strcat(want, m->field[i][0] == 'R' ? "Received:1\n"
		    : m->field[i]);
	strcat(want, "\n");
	for (char *p = got; *p != '\0'; p++)
		if (*p == 'b')
			*p = 'B';
	cr_assert_str_eq(got, want, "seed %d: \"%s\" is not \"%s\"", seed, got,
	    want);
	close(fd);
}

Test(edit, many_edits_come_to_what_a_simple_list_would_have)
{
	static const char text[] = "Received:1\nA:1\nB:2\nA:3\nB:4\nA:5\n\n";
	static const char fields[] = "RABABA";
	struct model m;
	struct edit e;
	int fd;

	for (int seed = 0; seed < 2000; seed++) {
		srand((unsigned)seed);
		m.n = 0;
		for (unsigned i = 0; i < 6; i++)
			put(&m, i, fields[i], i == 0 ? 1 : i);
		fd = memfd_create("t", MFD_CLOEXEC);
		cr_assert_eq(write(fd, text, sizeof text - 1),
		    sizeof text - 1);
		cr_assert_eq(edit_open(&e, fd, false, sizeof text + 6, ours),
		    0);
		for (unsigned i = 0; i < 20; i++)
			edit_both(&m, &e, 100 + i);
		compare(&m, &e, seed);
		edit_close(&e);
		close(fd);
	}
}
