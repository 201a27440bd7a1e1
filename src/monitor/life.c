/*
 * life.c - the monitor's process, from fork to exit.
 *
 * monitor_start() forks.  The child is the channel process: src/session has
 * it.  The parent, the monitor, closes its client's descriptors and answers
 * questions until the child is gone, then closes the next hops and exits with
 * the child's status.
 */
#define _GNU_SOURCE	/* _Fork */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compat.h"
#include "monitor/confine.h"
#include "monitor/private.h"
#include "net/spawn.h"

/* Records and questions of a session: so many at once, and so many a second. */
#define BURST 2000
#define RATE 500

/* Only the channel process holds the client, or that would not see the end of
   the connection: here its descriptors, of which standard error may be one,
   become copies of one that cannot be written to.  -1 with errno. */
static int
detach_client(const struct monitor *m)
{
	const int fd = m->signals;

	return dup2(fd, STDIN_FILENO) == -1 || dup2(fd, STDOUT_FILENO) == -1 ||
	    (m->set->relay.print == -1 && dup2(fd, STDERR_FILENO) == -1)
	    ? -1 : 0;
}

/* Takes one question from the budget.  Returns 0, or for how many milliseconds
   the next must wait: a channel process that floods log or services is slowed
   down. */
static int
throttle(struct monitor *m)
{
	int64_t now, earned;

	if (m->spent < BURST)
		return 0;
	now = clock_now();
	earned = (now - m->refilled) * RATE / 1000;
	m->spent -= earned < m->spent ? (unsigned)earned : m->spent;
	m->refilled = now;
	return m->spent < BURST ? 0 : 10;
}

/* Waits for a question: as long as the session may last, and what was begun
   in it.  SIGTERM is blocked here, so it cannot interrupt a relay; the
   channel process obeys it.  -1 with errno. */
static int
wait_question(struct monitor *m)
{
	const unsigned relay = m->set->relay.timeout;
	const unsigned policy = m->set->policy_timeout;
	const int64_t deadline = m->end + EXCHANGE * 1000 +
	    (int64_t)(relay > policy ? relay : policy) * 1000;
	struct pollfd p[] = { { .fd = m->wire.peer, .events = POLLIN },
		{ .fd = m->signals, .events = POLLIN } };
	struct signalfd_siginfo info;
	int n, left, wait, idle;

	for (;;) {
		left = clock_left(deadline);
		wait = left == 0 ? 0 : throttle(m);
		idle = m->set->relay.live ? relay_live_idle(m->relay) : -1;
		/* Also a process that never pauses must end. */
		n = left == 0 ? 0 : wait == 0 ? poll(p, 2, idle != -1 &&
		    idle < left ? idle : left)
		    : poll(p + 1, 1, wait < left ? wait : left);
		if (n == 0 && ((wait != 0 && wait < left) ||
		    (wait == 0 && idle != -1 && idle < left)))
			continue;
		if (wait != 0)
			p[0].revents = 0;
		if (n == 0)
			errno = ETIMEDOUT;
		if (n == 0 || (n == -1 && errno != EINTR))
			return -1;
		if ((p[1].revents & POLLIN) != 0 &&
		    read(m->signals, &info, sizeof info) == sizeof info) {
			m->stopping = true;
			kill(m->child, SIGTERM);
		}
		if (p[0].revents != 0)
			return 0;
	}
}

/*
 * Waits for the end of the channel process, and gets its status.  It is killed
 * if its question was invalid (error), and if it has ended the session or
 * closed its end, as it has nothing left to do but exit.  Otherwise it has a
 * moment to tell its client that the monitor ends.
 */
static int
reap_channel(const struct monitor *m, int error, int *status)
{
	struct pollfd gone = { .fd = -1, .events = POLLIN };

	if (error == EBADMSG || error == ETIMEDOUT) {
		logger_printf(&m->set->log, LOG_CRIT, "channel-broken", NULL,
		    "channel process %s; killed", error == EBADMSG
		    ? "sent an invalid question" : "stalled in a question");
	} else if (error != 0) {
		logger_printf(&m->set->log, LOG_ERR, "session", NULL,
		    "the monitor cannot go on: %s", strerror(error));
		shutdown(m->wire.peer, SHUT_RDWR);
		gone.fd = pidfd_open(m->child, 0);
		poll(&gone, 1, EXCHANGE * 1000);
		close(gone.fd);
	}
	if (waitpid(m->child, status, WNOHANG) == m->child)
		return 0;
	kill(m->child, SIGKILL);
	*status = spawn_reap(m->child);
	return *status == -1 ? -1 : 0;
}

/* The monitor's life.  Returns its exit status: the channel process's. */
static int
serve(struct monitor *m)
{
	struct received r;
	int status, more = 1;
	int error = detach_client(m) == -1 ? errno : 0;

	monitor_log_session(m);
	while (error == 0 && more == 1 && !m->ended) {
		if (wait_question(m) == -1) {
			error = errno;
			break;
		}
		more = monitor_get_question(m, &r);
		m->spent++;
		if (more == 1)
			more = monitor_handle(m, &r) == -1 ? -1 : 1;
		if (more == -1)
			error = errno;
		monitor_log_session(m);
		wire_dispose(&m->wire, &r);
	}
	monitor_tell_login(m);
	if (reap_channel(m, error, &status) == -1)
		return EX_OSERR;
	if (m->ended)
		return m->status;
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	logger_printf(&m->set->log, LOG_CRIT, "channel-broken", NULL,
	    "channel process was killed by signal %d", WTERMSIG(status));
	return EX_SOFTWARE;
}

int
monitor_start(struct monitor *m, int signals, const char *const known[FACTS])
{
	int pair[2], status;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == -1)
		return -1;
	confine_secrets();
	memcpy(m->known, known, sizeof m->known);
	m->refilled = clock_now();
	m->end = m->refilled + (int64_t)m->set->session_timeout * 1000;
	m->services.end = m->end;
	/* Were it ignored, we would not get the status. */
	signal(SIGCHLD, SIG_DFL);
	/* Without handlers of libc's: we have neither threads nor stdio. */
	m->child = _Fork();
	if (m->child == -1) {
		close(pair[0]);
		close(pair[1]);
		return -1;
	}
	if (m->child == 0) {
		close(pair[1]);
		return pair[0];
	}
	close(pair[0]);
	m->wire.peer = pair[1];
	m->signals = signals;
	status = serve(m);
	if (m->set->ended != NULL)
		m->set->ended(m->set->ended_ctx);
	monitor_close(m);
	_exit(status);	/* there is no stdio to flush */
}
