/*
 * file.h - files read, written and copied whole, and found; tables that grow.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <sys/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Writes all of p[0..len).  Returns 0, or -1 with errno. */
int	file_write_all(int fd, const char *p, size_t len);

/* As pread(2), again where a signal interrupts it. */
ssize_t	file_read_at(int fd, void *p, size_t len, off_t at);

#define FILE_END INT64_MAX	/* octets that no file has */

/* Appends the first size octets, or all up to FILE_END, of the file from to
   the file to.  Returns 0, or -1 with errno: ETIMEDOUT at the deadline, if it
   is not 0; EIO if from has less. */
int	file_copy(int to, int from, off_t size, int64_t deadline);

/*
 * Reads all that is left of fd into memory, with a NUL after it: *text, which
 * the caller frees.  Returns its octets without that, or -1 with errno, EFBIG
 * if there are more than most; then *text is NULL, and what was read is wiped.
 */
long	file_read_all(int fd, size_t most, char **text);

/* The same of a file that an option names: see file_again(). */
long	file_read_named(int fd, const char *name, size_t most, char **text);

/* Wipes and frees text, of which len octets, or -1, were read so. */
void	file_free(char *text, long len);

/* Closes *fd, if it is not -1, which it becomes.  Keeps errno. */
void	file_close(int *fd);

/* $PATH, or what takes its place where it is not set. */
const char *file_search_path(void);

/*
 * Writes the next file of that name that execvp(3) would try, of *path, the
 * rest of file_search_path(), to to[0..size).  *path moves on, and is NULL
 * after the last.  False if it does not fit.
 */
bool	file_in_path(const char **path, const char *name, char *to,
	    size_t size);

/*
 * For files that an option names: fd is one that was opened before root was
 * given up, or -1, then it is opened by its name now.  Returns a descriptor at
 * its beginning, for the caller to close, or -1 with errno.
 */
int	file_again(int fd, const char *name);

/* A descriptor that has nothing to read: /dev/null, or, in a root that has no
   such file, an empty one that cannot be written.  -1 with errno. */
int	file_null(void);

/* Makes room for row n of a table of rows of size octets: returns its new
   place, or NULL with the old one as it was.  The table doubles whenever n is
   a power of two, so call it for every n from 0. */
void	*table_grow(void *rows, size_t n, size_t size);

#endif
