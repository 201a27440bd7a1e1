/*
 * jail.c - what the channel process gives up before it reads its first octet.
 */
#define _GNU_SOURCE	/* closefrom */
#include "session/jail.h"

#include "base/compat.h"
#include "base/text.h"
#include "monitor/confine.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#ifdef CONFINE_ARCH
/* The channel process keeps its descriptors, memory and time, and may set one
   option of a socket. */
#define CALLS(level, option) { \
	CONFINE_BEGIN, \
	CONFINE_ALLOW(poll, ppoll, sendto, recvfrom, sendmsg, recvmsg), \
	CONFINE_ALLOW(memfd_create, lseek, pread64, sendfile, dup2, dup3), \
	CONFINE_ALLOW_OPTION(level, option), \
	CONFINE_END \
}
static const struct sock_filter calls[] = CALLS(IPPROTO_TCP, TCP_QUICKACK);
/* With rules that reset connections. */
static const struct sock_filter calls_linger[] = CALLS(SOL_SOCKET, SO_LINGER);
#define IS_LISTED true
#else
static const struct sock_filter calls[1], calls_linger[1];
#define IS_LISTED false
#endif

/* Limits the size of files, the spool above all.  A smaller limit stays.
   Returns what is missing, as confine() does. */
static unsigned
limit_files(uint64_t most)
{
	struct rlimit limit, had;

	if (most == 0)
		return 0;
	limit.rlim_cur = limit.rlim_max = (rlim_t)most;
	if (getrlimit(RLIMIT_FSIZE, &had) == 0 && had.rlim_max < limit.rlim_max)
		return 0;
	return setrlimit(RLIMIT_FSIZE, &limit) == -1 ? CONFINE_NO_LIMITS : 0;
}

bool
jail_try(uint64_t most, bool linger, char text[JAIL_TEXT])
{
	static const struct {
		unsigned bit;
		const char *name;
	} parts[] = {
		{ CONFINE_NO_NEW_PRIVS, "no_new_privs" },
		{ CONFINE_NO_LIMITS, "limits" },
		{ CONFINE_NO_LANDLOCK, "Landlock" },
		{ IS_LISTED ? CONFINE_NO_SECCOMP : 0, "seccomp" },
	};
	const size_t n = linger ? COUNT(calls_linger) : COUNT(calls);
	unsigned missing = limit_files(most) | confine(linger ? calls_linger
	    : calls, n > 1 ? n : 0);

	text[0] = '\0';
	for (size_t i = 0; i < COUNT(parts); i++)
		if ((missing & parts[i].bit) != 0)
			text_join(text + strlen(text),
			    JAIL_TEXT - strlen(text), text[0] == '\0'
			    ? "this kernel has no " : " and no ",
			    parts[i].name, NULL);
	if (!IS_LISTED)
		text_join(text + strlen(text), JAIL_TEXT - strlen(text),
		    text[0] == '\0' ? "" : ", and ", "smtpd filters no system "
		    "calls on this processor", NULL);
	return missing == 0;
}

int
jail_enter(struct asker *a, const struct options *o, uint64_t most,
    bool linger)
{
	const bool require = o->monitor.require_sandbox;
	char text[JAIL_TEXT];

	if (jail_try(most, linger, text))
		return 0;
	/* Under systemd --check of the socket unit logs it, once a boot. */
	ask_log(a, require ? LOG_ERR : o->journal ? LOG_DEBUG : LOG_INFO,
	    "sandbox-missing", NULL, text);
	return require ? -1 : 0;
}

void
jail_close_files(int signals, int peer, int record)
{
	int high = signals > peer ? signals : peer;

	if (record > high)
		high = record;
#ifndef __SANITIZE_ADDRESS__	/* its report must be seen */
	dup2(signals, STDERR_FILENO);
#endif
	for (int fd = STDERR_FILENO + 1; fd < high; fd++)
		if (fd != signals && fd != peer && fd != record)
			close(fd);
	closefrom(high + 1);
}
