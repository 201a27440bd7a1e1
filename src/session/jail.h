/*
 * jail.h - what the channel process gives up before it reads its first octet.
 */
#ifndef SESSION_JAIL_H
#define SESSION_JAIL_H

#include "session/ask.h"
#include "session/options.h"

/*
 * Closes all descriptors but 0 and 1, which are the client, and these; record
 * is that of --record, or -1.  Log and key are not for the channel process, nor
 * is what our starter left open.  Descriptor 2 becomes a copy of signals, which
 * cannot be written to.
 */
void	jail_close_files(int signals, int peer, int record);

#define JAIL_TEXT 160		/* octets of what a kernel lacks, with NUL */

/* Confines the process, as below.  False: text says what the kernel lacks. */
bool	jail_try(uint64_t most, bool linger, char text[JAIL_TEXT]);

/* Confines the process, which may write files of most octets (0: any), and
   logs what this kernel lacks for that; linger: it may set SO_LINGER.  Returns
   0, or -1 if anything is lacking and --require-sandbox was given. */
int	jail_enter(struct asker *a, const struct options *o, uint64_t most,
	    bool linger);

#endif
