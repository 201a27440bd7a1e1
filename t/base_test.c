/*
 * base_test.c - what base has for all rooms: texts, their parts, the calendar,
 * files.
 */
#define _GNU_SOURCE	/* memfd_create */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

Test(base, copies_are_cut_to_fit_and_at_a_nul)
{
	char to[4];

	cr_assert_str_eq(text_copy(to, sizeof to, "abcd"), "abc");
	cr_assert_str_eq(text_cut(to, sizeof to, "abcd", 2), "ab");
	cr_assert_str_eq(text_cut(to, sizeof to, "a\0b", 3), "a");
	cr_assert_str_eq(text_cut(to, sizeof to, NULL, 0), "");
}

Test(base, what_must_fit_is_whole_or_nothing)
{
	char to[4];

	cr_assert(text_fit(to, sizeof to, "abcd", 3));
	cr_assert_str_eq(to, "abc");
	cr_assert_not(text_fit(to, sizeof to, "abcd", 4));
	cr_assert_not(text_fit(to, sizeof to, "", 0));
	cr_assert_not(text_fit(to, sizeof to, "a\0b", 3));
}

Test(base, a_reply_code_has_three_digits_and_no_fourth)
{
	cr_assert_eq(text_code("200"), 200);
	cr_assert_eq(text_code("599-x"), 599);
	cr_assert_eq(text_code("199"), 0);
	cr_assert_eq(text_code("600"), 0);
	cr_assert_eq(text_code("25"), 0);
	cr_assert_eq(text_code("2500"), 0);
	cr_assert_eq(text_code(""), 0);
}

Test(base, a_line_has_its_end)
{
	cr_assert_eq(text_line("a\nb", 3), 2);
	cr_assert_eq(text_line("ab", 2), 2);
	cr_assert_eq(text_line("\n", 1), 1);
	cr_assert_eq(text_line("ab\n", 2), 2);
}

Test(base, words_are_between_blanks)
{
	char text[] = "  one two  three ", *words[4];

	cr_assert_eq(text_split(text, " ", words, 3), 3);
	cr_assert_str_eq(words[0], "one");
	cr_assert_str_eq(words[2], "three");
	cr_assert_null(words[3]);
	cr_assert_eq(text_split((char[]){ "a b c d" }, " ", words, 3), 0);
	cr_assert_eq(text_split((char[]){ "  " }, " ", words, 3), 0);
	cr_assert_eq(text_split((char[]){ "a\tb c" }, " ", words, 3), 2);
}

Test(base, a_word_is_the_same_only_as_a_whole)
{
	cr_assert(text_is("smtp:", 4, "smtp"));
	cr_assert_not(text_is("smtps", 5, "smtp"));
	cr_assert_not(text_is("smt", 3, "smtp"));
	cr_assert(text_starts("file:x", "file:"));
	cr_assert_not(text_starts("file", "file:"));
}

Test(base, xtext_codes_what_the_caller_names)
{
	char to[16];

	text_encode_xtext(to, sizeof to, "a=b+c d", "+=");
	cr_assert_str_eq(to, "a+3Db+2Bc+20d");
	text_encode_xtext(to, sizeof to, "a=b+c d", "+");
	cr_assert_str_eq(to, "a=b+2Bc+20d");
}

Test(base, the_calendar_knows_leap_years)
{
	static const struct {
		time_t at;
		const char *date;
	} rows[] = {
		{ 0, "1970-01-01 00:00:00 4" },
		{ 951782400, "2000-02-29 00:00:00 2" },
		{ 951868799, "2000-02-29 23:59:59 2" },
		{ 4107542399, "2100-02-28 23:59:59 0" },
		{ 4107542400, "2100-03-01 00:00:00 1" },
		{ 253402300799, "9999-12-31 23:59:59 5" },
	};
	char text[64];
	struct date d;

	for (size_t i = 0; i < COUNT(rows); i++) {
		d = clock_split(rows[i].at);
		snprintf(text, sizeof text, "%04u-%02u-%02u %02u:%02u:%02u %u",
		    d.year, d.month, d.day, d.hour, d.minute, d.second,
		    d.weekday);
		cr_assert_str_eq(text, rows[i].date);
	}
}

Test(base, a_buffer_grows)
{
	struct buffer b = { .p = NULL };
	char *text;

	for (int i = 0; i < 1000; i++)
		buffer_join(&b, "ab", "", "c", NULL);
	buffer_add(&b, "de", 1);
	cr_assert_eq(b.len, 3001);
	text = buffer_take(&b);
	cr_assert_eq(strlen(text), 3001);
	cr_assert_str_eq(text + 2997, "abcd");
	free(text);
	b = (struct buffer){ .p = NULL };
	text = buffer_take(&b);
	cr_assert_str_eq(text, "");
	free(text);
}

Test(base, a_buffer_that_failed_stays_so)
{
	struct buffer b = { .p = NULL };

	buffer_join(&b, "text", NULL);
	b.failed = true;
	buffer_join(&b, "more", NULL);
	cr_assert_eq(b.len, 4);
	cr_assert_null(buffer_take(&b));
}

Test(base, a_descriptor_is_closed_once_and_errno_kept)
{
	int fd = memfd_create("x", MFD_CLOEXEC), was = fd;

	errno = EIO;
	file_close(&fd);
	cr_assert_eq(errno, EIO);
	cr_assert_eq(fd, -1);
	cr_assert_eq(fcntl(was, F_GETFD), -1);
	file_close(&fd);
	cr_assert_eq(fd, -1);
}

Test(base, a_named_file_is_read_whole_or_tells_why_not)
{
	int fd = memfd_create("x", MFD_CLOEXEC);
	char *text;

	cr_assert_eq(write(fd, "abc", 3), 3);
	cr_assert_eq(file_read_named(fd, "x", 10, &text), 3);
	cr_assert_str_eq(text, "abc");
	file_free(text, 3);
	cr_assert_eq(file_read_named(fd, "x", 2, &text), -1);
	cr_assert_eq(errno, EFBIG);
	cr_assert_null(text);
	file_free(text, -1);
	close(fd);
	cr_assert_eq(file_read_named(-1, "/nowhere/x", 10, &text), -1);
	cr_assert_eq(errno, ENOENT);
	cr_assert_null(text);
}
