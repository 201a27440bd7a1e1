/*
 * descriptors.h - what the descriptors 0 to 2 are.
 */
#ifndef SESSION_DESCRIPTORS_H
#define SESSION_DESCRIPTORS_H

#include <stdbool.h>
#include <sys/stat.h>

/* Looks at descriptors 0 to 2.  One that is closed becomes /dev/null, or the
   next file that is opened would become it. */
void	descriptors_look(struct stat std[3]);

bool	descriptors_same(const struct stat *a, const struct stat *b);

/* Is it a socket that listens?  -1: it is no socket. */
int	descriptors_listens(int fd);

/* Is the client one socket?  TLS, and looking ahead, need that. */
bool	descriptors_one_socket(const struct stat std[3]);

#endif
