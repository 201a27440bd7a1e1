/*
 * spool.h - the message on its way: in memory, or in a file without a name.
 */
#ifndef BASE_SPOOL_H
#define BASE_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The spooled message: a memfd up to SPOOL_MEMORY octets, beyond that an
 * unlinked file.  Errors are sticky: write on, and look once, at the end.
 */
#define SPOOL_MEMORY (1024 * 1024)
#define SPOOL_BUFFER 65536

enum spool_form {
	SPOOL_NONE,	/* octets are counted and dropped */
	SPOOL_CRLF,	/* octets as they came */
	SPOOL_LF	/* each CRLF becomes LF */
};

struct spool {
	char buffer[SPOOL_BUFFER];
	int fd;			/* the message, or -1; owned */
	int error;		/* errno of the first failure, or 0 */
	enum spool_form form;
	uint64_t size;		/* octets put in, before conversion */
	uint64_t stored;	/* octets in fd */
	bool cr;		/* a CR is held back: is LF next? */
	int (*file)(void *ctx);	/* as spool_file(), with ctx */
	void *ctx;
	size_t held;		/* octets in buffer */
};

/* Makes *s empty.  file may be NULL: spool_file() is used then. */
void	spool_open(struct spool *s, enum spool_form form,
	    int (*file)(void *ctx), void *ctx);

/* Appends len octets at p.  Failure sets s->error. */
void	spool_write(struct spool *s, const char *p, size_t len);

/* Appends len octets of the file from, from offset at, as they are.  Failure
   sets s->error, EIO if the file has less. */
void	spool_copy(struct spool *s, int from, uint64_t at, uint64_t len);

/* Writes what is held back and rewinds.  Returns the descriptor, which s
   keeps (-1 with SPOOL_NONE), or -1 with s->error set. */
int	spool_finish(struct spool *s);

/* Closes the descriptor.  Legal on a zeroed struct (fd 0 is never a spool)
   and twice. */
void	spool_close(struct spool *s);

/* The folder for messages that are too large for memory: $TMPDIR or
   /var/tmp. */
const char *spool_folder(void);

/* A new file in spool_folder() that has no name: its descriptor, which the
   caller owns, or -1 with errno.  ctx means nothing. */
int	spool_file(void *ctx);

#endif
