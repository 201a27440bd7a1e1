/*
 * systemd.h - what libsystemd does, where systemd started the process.
 */
#ifndef SESSION_SYSTEMD_H
#define SESSION_SYSTEMD_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/uio.h>
#ifdef WITH_SYSTEMD
#include <systemd/sd-daemon.h>
#include <systemd/sd-journal.h>
#endif

/* What libsystemd does for us, if systemd started us; else all NULL. */
struct systemd {
#ifdef WITH_SYSTEMD
	__typeof__(&sd_listen_fds) listen_fds;
	__typeof__(&sd_notify) notify;
	__typeof__(&sd_journal_sendv) journal;
#else
	int (*listen_fds)(int unset);
	int (*notify)(int unset, const char *state);
	int (*journal)(const struct iovec *fields, int n);
#endif
};

/* Loads libsystemd if systemd started the process: linking it would double the
   cost of a connection everywhere else. */
void	systemd_find(struct systemd *sd, bool journal);

/* A socket that systemd passes as descriptor 3 becomes the client.  It must be
   a connection (Accept=yes): accepting is not this program's job. */
void	systemd_take_socket(const struct systemd *sd, struct stat std[3]);

#endif
