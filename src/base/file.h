/*
 * file.h - files written and copied whole, and tables that grow.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <sys/types.h>

#include <stddef.h>
#include <stdint.h>

/* Writes all of p[0..len).  Returns 0, or -1 with errno. */
int	file_write_all(int fd, const char *p, size_t len);

#define FILE_END INT64_MAX	/* octets that no file has */

/* Appends the first size octets, or all up to FILE_END, of the file from to
   the file to.  Returns 0, or -1 with errno: ETIMEDOUT at the deadline, if it
   is not 0; EIO if from has less. */
int	file_copy(int to, int from, off_t size, int64_t deadline);

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
