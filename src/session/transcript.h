/*
 * transcript.h - the dialogue as a transcript, for --record; smtpd-replay(1)
 * tells its form.
 */
#ifndef SESSION_TRANSCRIPT_H
#define SESSION_TRANSCRIPT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/logger.h"
#include "channel.h"

struct transcript;

/*
 * Opens a new file if name is a folder, else name, to which the whole session
 * will be appended at its end.  Returns what nobody frees, or NULL with one
 * sentence in error[0..size).
 */
struct transcript *transcript_open(const char *name, char *error,
	    size_t size);

/* Opens a file that sessions are appended to, and makes it if create is O_CREAT
   and not 0.  A FIFO that nobody reads is an error, and not waited for.
   Returns its descriptor, which the caller closes, or -1 with errno. */
int	transcript_target(const char *name, int create);

/* The descriptor that the channel process writes to. */
int	transcript_fd(const struct transcript *t);

/* A line of the dialogue, of ours (said) or of the client; whose is peer. */
void	transcript_line(struct transcript *t,
	    const struct channel_peer *peer, bool said, struct span line);

/* Octets of a message or a PROXY header, as the client sent them. */
void	transcript_octets(struct transcript *t,
	    const struct channel_peer *peer, struct span octets);

/* A remark, "TLS" or "CLOSED", on a line of its own. */
void	transcript_word(struct transcript *t, const char *word);

/* Writes what is held back: before we could wait, and at the end.  Returns 0,
   or the errno of the first failure, after which nothing is written. */
int	transcript_flush(struct transcript *t);

/* In the monitor, at the end: appends the session to the file. */
void	transcript_finish(struct transcript *t, const struct logger *log);

#endif
