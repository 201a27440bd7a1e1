/*
 * compat.h - what glibc has and musl, or the kernel's headers, may lack.
 *
 * Everything that differs between the two C libraries is here and in compat.c.
 */
#ifndef BASE_COMPAT_H
#define BASE_COMPAT_H

#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __GLIBC__
#include <sys/pidfd.h>
#else
int	pidfd_open(int pid, unsigned flags);
void	closefrom(int from);

/*
 * In musl a program that is being started cannot close a range of descriptors:
 * this marks those that the caller has now as close-on-exec.  It does the same
 * for the program, because dup2() of a file action clears the mark.
 */
int	posix_spawn_file_actions_addclosefrom_np(
	    posix_spawn_file_actions_t *actions, int from);
#endif

/* Hashes password as setting says, with crypt(3), into hash[0..size).  Returns
   false if crypt(3) refuses setting, or is not installed. */
bool	compat_crypt(const char *password, const char *setting, char *hash,
	    size_t size);

#endif
