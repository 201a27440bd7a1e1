/*
 * compat.h - what glibc has and musl, or the kernel's headers, may lack.
 *
 * Everything that differs between the two C libraries is here and in compat.c.
 */
#ifndef BASE_COMPAT_H
#define BASE_COMPAT_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __GLIBC__
#include <sys/pidfd.h>

#define COMPAT_CRYPT_WHOLE true	/* any hash may be one that crypt(3) knows */
#define COMPAT_BUILD ""		/* for --version */
#else
#define COMPAT_CRYPT_WHOLE false
#define COMPAT_BUILD ", static"

int	pidfd_open(int pid, unsigned flags);
void	closefrom(int from);
#endif

/* Does compat_crypt() know hashes of setting's kind?  Where COMPAT_CRYPT_WHOLE
   is true the answer is always yes: to know better it would have to load
   libcrypt. */
bool	compat_crypt_knows(const char *setting);

/* Hashes password as setting says, with crypt(3), into hash[0..size).  Returns
   false if crypt(3) refuses setting, or is not installed. */
bool	compat_crypt(const char *password, const char *setting, char *hash,
	    size_t size);

#endif
