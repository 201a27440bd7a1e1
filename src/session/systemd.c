/*
 * systemd.c - what libsystemd does, where systemd started the process.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "session/descriptors.h"
#include "session/log.h"
#include "session/systemd.h"

/* Is that variable the number of this process? */
static bool
names_us(const char *variable)
{
	const char *value = getenv(variable);
	char ours[TEXT_NUMBER];

	return value != NULL && strcmp(value, text_number(ours,
	    (uint64_t)getpid(), 1)) == 0;
}

void
systemd_find(struct systemd *sd, bool journal)
{
#ifdef WITH_SYSTEMD
	void *library;

	if (!names_us("SYSTEMD_EXEC_PID") && !names_us("LISTEN_PID"))
		return;
	library = dlopen("libsystemd.so.0", RTLD_NOW);
	if (library == NULL)
		return;
	*(void **)(void *)&sd->listen_fds = dlsym(library, "sd_listen_fds");
	*(void **)(void *)&sd->notify = dlsym(library, "sd_notify");
	*(void **)(void *)&sd->journal = dlsym(library, "sd_journal_sendv");
	if (getenv("NOTIFY_SOCKET") == NULL)
		sd->notify = NULL;
	if (!journal)
		sd->journal = NULL;
#else
	(void)sd;
	(void)journal;
#endif
}

void
systemd_take_socket(const struct systemd *sd, struct stat std[3])
{
	int n;

	if (!names_us("LISTEN_PID"))
		return;
	if (sd->listen_fds == NULL)
		log_misused("a socket was passed, but there is no libsystemd");
	n = sd->listen_fds(1);
	if (n != 1)
		log_misused("%d descriptors were passed: one is served", n);
	n = descriptors_listens(3);
	if (n == -1)
		log_misused("descriptor 3 is not a socket");
	if (n > 0)
		log_misused("descriptor 3 is a listening socket: "
		    "the unit needs Accept=yes");
	dup2(3, STDIN_FILENO);
	dup2(3, STDOUT_FILENO);
	close(3);
	descriptors_look(std);
}
