/*
 * seal.h - keeps a message as it was when it was checked.
 */
#ifndef MONITOR_SEAL_H
#define MONITOR_SEAL_H

#include <stdint.h>

/*
 * Seals a memfd; copies a file, or a memfd that a process has mapped, by the
 * deadline.  Returns spool, or the copy, which the caller closes; -1 with
 * errno.
 */
int	seal_spool(int spool, int64_t deadline);

#endif
