/*
 * engine.h - starts smtpd-tls, the program that speaks TLS for us.
 */
#ifndef NET_ENGINE_H
#define NET_ENGINE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Starts the TLS engine (smtpd-tls; argv as for execv) on the connected socket
 * fd and waits for its report.  The engine gets fd as descriptor 0, the
 * clear-text end of a socket pair as 1, the report as 3, and the descriptors
 * that keep names, all above 3 and ended by -1 (NULL: none).  It ends by
 * itself once either side is closed; there is no child to wait for.  Who
 * leaves last words in the clear-text end waits for its end of file.
 *
 * Returns our clear-text end, with the report's lines "name=value" in
 * report[0..size); or -1 with a sentence there, and fd shut down.  fd is
 * borrowed: the caller closes it, either way.
 */
int	tls_start(const char *const argv[], const int keep[], int fd,
	    int64_t deadline, char *report, size_t size);

#endif
