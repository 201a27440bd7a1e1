/*
 * confine.c - the jail for a process that reads what strangers send.
 *
 * no_new_privs first, for the others need it; limits; Landlock, all rights
 * that this kernel knows; the list of system calls last.
 */
#define _GNU_SOURCE	/* syscall */
#include "monitor/confine.h"

#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef __NR_landlock_create_ruleset	/* the same on all architectures */
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_restrict_self 446
#endif

/* struct landlock_ruleset_attr as of ABI 6: headers may be older than the
   kernel, which takes a longer one if what it does not know is 0. */
struct rights {
	uint64_t fs, net, scoped;
};

/* Every right that each ABI can deny; we ask for none of them back. */
static const struct rights rights[] = {
	{ 0x1fff, 0, 0 },	/* 1: files and directories */
	{ 0x3fff, 0, 0 },	/* 2: refer */
	{ 0x7fff, 0, 0 },	/* 3: truncate */
	{ 0x7fff, 3, 0 },	/* 4: bind and connect */
	{ 0xffff, 3, 0 },	/* 5: ioctl on devices */
	{ 0xffff, 3, 3 },	/* 6: abstract sockets, signals */
};

static int
deny_rights(void)
{
	long status, fd = -1;

	/* A kernel refuses rights that it does not know. */
	for (size_t abi = sizeof rights / sizeof rights[0]; fd == -1 && abi > 0;
	    abi--)
		fd = syscall(__NR_landlock_create_ruleset, &rights[abi - 1],
		    sizeof rights[0], 0L);
	if (fd == -1)
		return -1;
	status = syscall(__NR_landlock_restrict_self, fd, 0L);
	close((int)fd);
	return (int)status;
}

void
confine_secrets(void)
{
	prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
}

unsigned
confine(const struct sock_filter *calls, size_t n)
{
	const struct rlimit none = { 0, 0 };
	struct sock_fprog program = { .len = (unsigned short)n };
	unsigned missing = 0;

	/* The kernel only reads the list, but its type does not say so. */
	*(const struct sock_filter **)(void *)&program.filter = calls;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) == -1)
		missing |= CONFINE_NO_NEW_PRIVS;
	if (setrlimit(RLIMIT_CORE, &none) == -1 ||
	    setrlimit(RLIMIT_NPROC, &none) == -1)
		missing |= CONFINE_NO_LIMITS;
	if (deny_rights() == -1)
		missing |= CONFINE_NO_LANDLOCK;
	if (n == 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0L,
	    0L) == -1)
		missing |= CONFINE_NO_SECCOMP;
	return missing;
}
