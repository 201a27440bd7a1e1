/* The other end of every connection in a fuzz target: see peer.c. */
#ifndef PEER_H
#define PEER_H

#include <stddef.h>
#include <stdint.h>

/* Begins with this script; a send() takes at most step octets, and where step
   is not SIZE_MAX every other send() takes none. */
void	peer_open(const uint8_t *script, size_t len, size_t step);

/* The same for a protocol of packets: the script's octets mean nothing, all is
   said at once, and then the peer hangs up. */
void	peer_open_binary(const uint8_t *script, size_t len, size_t step);

/* How many connections there were since it was opened. */
unsigned peer_dials(void);

/* To be defined by the target: called with each line that was read. */
void	peer_read(const char *line, size_t len);

#endif
