/*
 * memory_test.c - OpenSSL's memory: what is taken keeps what is written there,
 * and what is given back is wiped.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "tls/tls.h"

#define PAGE ((uintptr_t)4096)
#define PIECES 64

static void *
take(size_t size)
{
	return memory_take(size, __FILE__, __LINE__);
}

static void *
resize(void *p, size_t size)
{
	return memory_resize(p, size, __FILE__, __LINE__);
}

static void
give(void *p)
{
	memory_give(p, __FILE__, __LINE__);
}

static bool
is_full_of(const unsigned char *p, unsigned char c, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
		if (p[i] != c)
			return false;
	return true;
}

/* Sizes at which kinds and ways to get memory change, one less and one more. */
static size_t
size_number(unsigned i)
{
	static const size_t edge[] = { 2, 8, 16, 24, 248, 256, 264, 504, 4096,
		16384, 67000, 262128, 262136, 262144, 1048576, 3000000 };
	const size_t n = sizeof edge / sizeof edge[0];

	return i < 3 * n ? edge[i % n] + i / n - 1 : 0;
}

Test(memory, pieces_do_not_touch)
{
	unsigned char *p[PIECES];
	unsigned i, n;
	size_t size;

	for (n = 0; (size = size_number(n)) != 0; n++) {
		cr_assert(n < PIECES);
		p[n] = take(size);
		cr_assert_neq(p[n], NULL);
		cr_assert_eq((uintptr_t)p[n] % 16, 0, "%zu is not aligned",
		    size);
		memset(p[n], (int)n + 1, size);
	}
	for (i = 0; i < n; i++)
		cr_assert(is_full_of(p[i], (unsigned char)(i + 1),
		    size_number(i)), "%zu has changed", size_number(i));
	for (i = 0; i < n; i++)
		give(p[i]);
}

Test(memory, what_is_given_back_is_wiped_and_used_again)
{
	unsigned char *p, *again;
	unsigned i;
	size_t size;

	for (i = 0; (size = size_number(i)) != 0; i++) {
		p = take(size);
		memset(p, 0xaa, size);
		give(p);
		if (size > 262136) {
			cr_assert_eq(msync((void *)((uintptr_t)p & -PAGE), 1,
			    MS_ASYNC), -1, "%zu is still mapped", size);
			cr_assert_eq(errno, ENOMEM);
			continue;
		}
		/* It begins with what leads to the next free piece. */
		if (size > sizeof(void *))
			cr_assert(is_full_of(p + sizeof(void *), 0,
			    size - sizeof(void *)), "%zu is not wiped", size);
		again = take(size);
		cr_assert_eq(again, p, "%zu is not used again", size);
		cr_assert(is_full_of(again, 0, size));
		give(again);
	}
}

Test(memory, a_larger_piece_has_what_the_smaller_had)
{
	unsigned char *p = NULL, *before;
	size_t size, old = 0;

	for (size = 1; size < 2000000; old = size, size = size * 5 / 3 + 1) {
		before = p;
		p = resize(p, size);
		cr_assert_neq(p, NULL);
		cr_assert(is_full_of(p, 0x55, old));
		if (before != NULL && p != before && old < 200000)
			cr_assert(is_full_of(before + sizeof(void *), 0,
			    old > sizeof(void *) ? old - sizeof(void *) : 0),
			    "the %zu of old are not wiped", old);
		memset(p, 0x55, size);
	}
	before = p;
	p = resize(p, 10);
	cr_assert_eq(p, before, "a smaller one moved");
	cr_assert_eq(resize(p, 0), NULL);
	give(NULL);
}

Test(memory, more_than_there_is_is_refused)
{
	unsigned char *p = take(100);

	cr_assert_eq(take(SIZE_MAX), NULL);
	cr_assert_eq(take(SIZE_MAX / 2), NULL);
	memset(p, 1, 100);
	cr_assert_eq(resize(p, SIZE_MAX - 16), NULL);
	cr_assert(is_full_of(p, 1, 100), "a refusal changed the old piece");
	give(p);
}

/* Whatever a forked process takes is in pages that its parent never wrote. */
Test(memory, a_fork_has_pages_of_its_own)
{
	unsigned char *parents = take(100), *freed = take(100), *mine;
	int status;
	pid_t pid;

	give(freed);
	pid = fork();
	if (pid == 0) {
		memory_renew();
		mine = take(100);
		_exit(mine == freed ||
		    (uintptr_t)mine / PAGE == (uintptr_t)parents / PAGE);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
	cr_assert_eq(take(100), freed, "the parent lost what was free");
}
