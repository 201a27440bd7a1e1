/*
 * planted.c - smtpd with an intruder in its channel process, for t/sandbox.t.
 *
 * Linked with the product's own objects and -Wl,--wrap, so nothing of it is
 * in the product.  channel_feed() here knows one more verb, and what that
 * does is what an intruder that has taken over the parser would try:
 *
 *	PLANT calls		each call of a table, with arguments that mean
 *				something: "NAME ERRNO" for each
 *	PLANT numbers		every number that a system call can have, but
 *				the listed: those that did not fail with EPERM
 *	PLANT foreign		a call by another architecture's number
 *	PLANT tell NAME		sends the monitor a question, see questions[]
 *	PLANT deaf		asks and asks, and takes no answer
 *	PLANT hang		does nothing any more
 *	PLANT busy		asks without end, and never pauses
 *	PLANT spool		writes a file that is too large, relays mail
 *				and changes it
 *	PLANT short		relays a message that is longer than it says
 *	PLANT leave		closes its end to the monitor, and stays
 *	PLANT files		reads what is open, writes to standard error:
 *				"file NUMBER" for each
 *	PLANT lie		from now on the client is somebody else
 *	PLANT blank		from now on the channel knows nothing of it
 *
 * And kernels that lack something: PLANTED=no-landlock, no-seccomp, neither;
 * or refuse it: no-nnp, no-limits.
 */
#define _GNU_SOURCE	/* syscall, MSG_*, struct open_how's number */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

size_t	__real_channel_feed(struct channel *ch, const char *p, size_t len);
size_t	__wrap_channel_feed(struct channel *ch, const char *p, size_t len);
int	__real_socketpair(int domain, int type, int protocol, int pair[2]);
int	__wrap_socketpair(int domain, int type, int protocol, int pair[2]);
int	__real_prctl(int what, long a, long b, long c, long d);
int	__wrap_prctl(int what, long a, long b, long c, long d);
int	__real_setrlimit(int what, const struct rlimit *limit);
int	__wrap_setrlimit(int what, const struct rlimit *limit);
long	__real_syscall(long number, ...);
long	__wrap_syscall(long number, ...);

static int monitor = -1;	/* our end of the pair */
static pid_t parent;

/* ---- kernels that lack something ---- */

static bool
lacks(const char *what)
{
	const char *plan = getenv("PLANTED");

	return plan != NULL && (strcmp(plan, what) == 0 ||
	    (strcmp(plan, "neither") == 0 && strcmp(what, "no-nnp") != 0 &&
	    strcmp(what, "no-limits") != 0));
}

int
__wrap_prctl(int what, long a, long b, long c, long d)
{
	if ((what == PR_SET_SECCOMP && lacks("no-seccomp")) ||
	    (what == PR_SET_NO_NEW_PRIVS && lacks("no-nnp"))) {
		errno = EINVAL;
		return -1;
	}
	return __real_prctl(what, a, b, c, d);
}

long
__wrap_syscall(long number, ...)
{
	va_list ap;
	long a, b, c;

	if (number == __NR_landlock_create_ruleset && lacks("no-landlock")) {
		errno = ENOSYS;
		return -1;
	}
	va_start(ap, number);
	a = va_arg(ap, long);
	b = va_arg(ap, long);
	c = number == __NR_landlock_restrict_self ? 0 : va_arg(ap, long);
	va_end(ap);
	return __real_syscall(number, a, b, c);
}

int
__wrap_setrlimit(int what, const struct rlimit *limit)
{
	if (lacks("no-limits")) {
		errno = EPERM;
		return -1;
	}
	return __real_setrlimit(what, limit);
}

/* The first pair is the one between the processes; the child has its end. */
int
__wrap_socketpair(int domain, int type, int protocol, int pair[2])
{
	int status = __real_socketpair(domain, type, protocol, pair);

	if (status == 0 && monitor == -1) {
		monitor = pair[0];
		parent = getpid();
	}
	return status;
}

/* ---- calls ---- */

/* What an answer is made of; one session, so there is one. */
static char said[REPLY_TEXT];

static void
say(const char *name, long number)
{
	size_t n = strlen(said);

	snprintf(said + n, sizeof said - n, "%s%s %ld", n == 0 ? "" : "\n",
	    name, number);
}

static struct sockaddr_un place = { .sun_family = AF_UNIX,
	.sun_path = "/dev/log" };
static struct sockaddr_in home = { .sin_family = AF_INET };
static char *words[] = { (char[]){ "/bin/true" }, NULL };
static const struct open_how_like {
	unsigned long long flags, mode, resolve;
} how;
static const unsigned long long clone_args[8] = { 0, 0, 0, 0, SIGCHLD };
static const int one = 1;

#define P(x) ((long)(x))

#define CALL(name, number, ...) \
	try_call(name, number, (const long [6]){ __VA_ARGS__ })

/* Says what became of it: 0, or why not. */
static void
try_call(const char *name, long number, const long a[6])
{
	errno = 0;
	if (__real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) != -1)
		errno = 0;
	say(name, errno);
}

static void
try_file_calls(void)
{
	CALL("openat", __NR_openat, AT_FDCWD, P("/etc/passwd"), 0);
	CALL("openat-to-write", __NR_openat,
	    AT_FDCWD, P("/tmp/smtpd-planted"), O_CREAT | O_WRONLY, 0600);
	CALL("openat2", __NR_openat2,
	    AT_FDCWD, P("/etc/passwd"), P(&how), sizeof how);
#ifdef __NR_open
	CALL("open", __NR_open, P("/etc/passwd"), O_RDONLY);
	CALL("fork", __NR_fork, 0);
	CALL("unlink", __NR_unlink, P("/tmp/smtpd-planted"));
#endif
	CALL("unlinkat", __NR_unlinkat, AT_FDCWD, P("/tmp/smtpd-planted"));
	CALL("renameat2", __NR_renameat2,
	    AT_FDCWD, P("/tmp/smtpd-planted"), AT_FDCWD,
	    P("/tmp/smtpd-planted"));
}

static void
try_process_calls(void)
{
	CALL("execve", __NR_execve, P(words[0]), P(words), 0);
	CALL("execveat", __NR_execveat, AT_FDCWD, P(words[0]), P(words), 0, 0);
	CALL("clone", __NR_clone, SIGCHLD);
	CALL("clone3", __NR_clone3, P(clone_args), sizeof clone_args);
	CALL("ptrace", __NR_ptrace, PTRACE_ATTACH, parent);
	CALL("kill", __NR_kill, parent, SIGTERM);
	CALL("tgkill", __NR_tgkill, parent, parent, SIGTERM);
	CALL("process_vm_readv", __NR_process_vm_readv, parent);
	CALL("pidfd_open", __NR_pidfd_open, parent);
}

static void
try_socket_calls(void)
{
	CALL("socket-inet", __NR_socket, AF_INET, SOCK_STREAM);
	CALL("socket-unix", __NR_socket, AF_UNIX, SOCK_DGRAM);
	CALL("connect", __NR_connect, 0, P(&home), sizeof home);
	CALL("bind", __NR_bind, 0, P(&home), sizeof home);
	CALL("setsockopt-level", __NR_setsockopt,
	    0, SOL_SOCKET, TCP_QUICKACK, P(&one), sizeof one);
	CALL("setsockopt-option", __NR_setsockopt,
	    0, IPPROTO_TCP, TCP_NODELAY, P(&one), sizeof one);
	CALL("setsockopt-filter", __NR_setsockopt,
	    0, SOL_SOCKET, SO_ATTACH_FILTER, P(&one), sizeof one);

	/* The one call that is listed and takes an address. */
	CALL("sendto-path", __NR_sendto, 0, P("x"), 1,
	    MSG_NOSIGNAL | MSG_DONTWAIT, P(&place), sizeof place);
}

static void
try_calls(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	try_file_calls();
	try_process_calls();
	try_socket_calls();
	CALL("mprotect-exec", __NR_mprotect,
	    P(page), 4096, PROT_READ | PROT_EXEC);
	CALL("mmap-exec", __NR_mmap,
	    0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	CALL("prctl", __NR_prctl, PR_SET_DUMPABLE, 1);
	CALL("seccomp", __NR_seccomp, SECCOMP_SET_MODE_FILTER);
	CALL("ioctl", __NR_ioctl, 0, 0x5412 /* TIOCSTI */, P("x"));
	CALL("setuid", __NR_setuid, 0);
	CALL("io_uring_setup", __NR_io_uring_setup, 8, P(&home));
	CALL("getppid", __NR_getppid, 0);
	munmap(page, 4096);
}

/* Every call that the channel process may make: a second list, on purpose. */
static const long listed[] = {
	__NR_exit_group, __NR_rt_sigreturn, __NR_restart_syscall, __NR_brk,
	__NR_munmap, __NR_mremap, __NR_madvise, __NR_close,
	__NR_clock_gettime, __NR_read, __NR_write, __NR_sendto, __NR_recvfrom,
	__NR_sendmsg, __NR_recvmsg, __NR_ppoll, __NR_shutdown,
#ifdef __NR_poll
	__NR_poll,
#endif
#ifdef __NR_dup2
	__NR_dup2,
#endif
	__NR_memfd_create, __NR_lseek, __NR_pread64, __NR_sendfile,
	__NR_dup3, __NR_mmap, __NR_mprotect,
};

/* No filter can refuse these: the kernel ends a process that calls them from
   outside of the page that the kernel made for tracing. */
static bool
is_trap(long number)
{
#ifdef __x86_64__
	return number == 335 || number == 336;	/* uretprobe, uprobe */
#else
	return number < 0;
#endif
}

static bool
is_listed(long number)
{
	for (size_t i = 0; i < sizeof listed / sizeof *listed; i++)
		if (listed[i] == number)
			return true;
	return false;
}

static void
try_numbers(void)
{
	for (long number = 0; number < 1024; number++)
		if (!is_listed(number) && !is_trap(number) &&
		    (__real_syscall(number, -1L, -1L, -1L, -1L, -1L,
		    -1L) != -1 || errno != EPERM))
			say("number", number);
#ifdef __x86_64__	/* x32 is the same architecture, with bit 30 set */
	if (__real_syscall(0x40000000L + __NR_read, 0L, NULL, 0L) != -1 ||
	    errno != EPERM)
		say("number", 0x40000000L + __NR_read);
#endif
	say("done", 0);
}

static void
try_foreign(void)
{
#ifdef __x86_64__
	long number = 20;	/* i386's getpid */

	__asm__ volatile ("int $0x80" : "+a" (number) : : "memory");
#endif
	say("survived", 0);
}

/* ---- questions to the monitor ---- */

/* struct head of wire.h, and its numbers. */
struct head {
	uint32_t ask, number, flags, encoding, nrecipients, len;
	uint64_t size;
};

enum { STAGE, HELLO, RELAY, FORGET, FILE_, MECHANISMS, AUTH, ABANDON, TLS, LOG,
	STATUS, END, UNKNOWN, GROUP };
enum { ENVELOPE = 1, A = 2, B = 4 };

/* The NULs that end the facts, from the first, second, third on. */
#define FACTS "\0" FACTS_1
#define FACTS_1 "\0" FACTS_2
#define FACTS_2 "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" FORWARD
#define FORWARD "\0\0\0\0\0\0\0"
#define HEAD(ask, number, flags, encoding, recipients, text, more) \
	{ ask, number, flags, encoding, recipients, sizeof text - 1 + (more), \
	    0 }, sizeof text - 1, text

static const struct question {
	const char *name;
	struct head head;
	size_t len;		/* octets that follow head */
	const char *strings;
	int fd;			/* sent along, or -1 */
} questions[] = {
	/* One that makes sense: so the form is the right one. */
	{ "sense", HEAD(LOG, 6, A | B, 0, 0, "planted\0hello\0", 0), -1 },
	{ "ask", HEAD(99, 0, 0, 0, 0, "", 0), -1 },
	{ "log-number", HEAD(LOG, 99, A | B, 0, 0, "planted\0hello\0", 0), -1 },
	{ "log-alarm", HEAD(LOG, 0, A | B, 0, 0, "planted\0hello\0", 0), -1 },
	{ "log-name", HEAD(LOG, 6, A | B, 0, 0, "pl=nted\0hello\0", 0), -1 },
	{ "log-alone", HEAD(LOG, 6, A, 0, 0, "planted\0", 0), -1 },
	{ "control", HEAD(LOG, 6, A | B, 0, 0, "planted\0he\nlo\0", 0), -1 },
	{ "unended", HEAD(LOG, 6, A | B, 0, 0, "planted\0hello", 0), -1 },
	{ "surplus", HEAD(LOG, 6, A | B, 0, 0, "planted\0x\0y\0", 0), -1 },
	{ "too-long", HEAD(LOG, 6, A | B, 0, 0, "", 64 * 1024 + 1), -1 },
	{ "longest", HEAD(LOG, 6, A | B, 0, 0, "", UINT32_MAX), -1 },
	{ "recipients", HEAD(RELAY, 0, ENVELOPE, 0, UINT32_MAX, "", 0), -1 },
	{ "stage-alone", HEAD(STAGE, 0, 0, 0, 0, "", 0), -1 },
	{ "stage-number", HEAD(STAGE, 99, ENVELOPE, 0, 0, FACTS, 0), -1 },
	{ "hello-alone", HEAD(HELLO, 0, 0, 0, 0, "", 0), -1 },
	{ "relay-alone", HEAD(RELAY, 0, 0, 0, 0, "", 0), -1 },
	{ "relay-nobody", HEAD(RELAY, 0, ENVELOPE, 0, 0, FACTS, 0), -1 },
	{ "relay-short", HEAD(RELAY, 0, ENVELOPE, 0, 1, FACTS, 0), -1 },
	{ "relay-option", HEAD(RELAY, 0, ENVELOPE, 0, 1, FACTS "-x\0\0", 0),
	    -1 },
	{ "relay-empty", HEAD(RELAY, 0, ENVELOPE, 0, 1, FACTS "\0\0", 0), -1 },
	{ "relay-sender", HEAD(RELAY, 0, ENVELOPE, 0, 1,
	    "-f" FACTS "x@y\0\0", 0), -1 },
	/* More than one thing in one string. */
	{ "relay-two", HEAD(RELAY, 0, ENVELOPE, 0, 1,
	    "a@x> SIZE=18 AUTH=<boss@x" FACTS "x@y\0\0", 0), -1 },
	{ "relay-blank", HEAD(RELAY, 0, ENVELOPE, 0, 1,
	    "a@x" FACTS "x@y z@y\0\0", 0), -1 },
	{ "relay-quote", HEAD(RELAY, 0, ENVELOPE, 0, 1,
	    "a@x" FACTS "\"x\"y> <z\"@y\0\0", 0), -1 },
	{ "relay-quoted", HEAD(RELAY, 0, ENVELOPE, 0, 1,
	    "a@x" FACTS "\"x\\\"@y\0\0", 0), -1 },
	{ "relay-c1", HEAD(RELAY, 0, ENVELOPE, 0, 1,
	    "a@x" FACTS "x\302\205@y\0\0", 0), -1 },
	{ "relay-value", HEAD(RELAY, 0, ENVELOPE, 0, 1, "a@x\0"
	    "SIZE=18=AUTH=<boss@x>" FACTS_1 "x@y\0\0", 0), -1 },
	{ "relay-word", HEAD(RELAY, 0, ENVELOPE, 0, 1, "a@x\0"
	    "<boss@x>" FACTS_1 "x@y\0\0", 0), -1 },
	{ "relay-again", HEAD(RELAY, 0, ENVELOPE, 0, 1, "a@x\0"
	    "SIZE=18 size=19" FACTS_1 "x@y\0\0", 0), -1 },
	{ "relay-notify", HEAD(RELAY, 0, ENVELOPE, 0, 1,
	    "a@x" FACTS "x@y\0NOTIFY=NEVER NOTIFY=FAILURE\0", 0), -1 },
	{ "relay-id", HEAD(RELAY, 0, ENVELOPE, 0, 1, "a@x\0\0"
	    "id for boss@x" FACTS_2 "x@y\0\0", 0), -1 },
	{ "log-two", HEAD(LOG, 6, ENVELOPE | A | B, 0, 0,
	    "a@x> relay=x" FACTS "planted\0hello\0", 0), -1 },
	{ "relay-encoding", HEAD(RELAY, 0, ENVELOPE, 9, 1, FACTS "x@y\0\0", 0),
	    -1 },
	{ "relay-socket", HEAD(RELAY, 0, ENVELOPE, 0, 1, FACTS "x@y\0\0", 0),
	    0 },
	{ "auth-alone", HEAD(AUTH, 0, 0, 0, 0, "", 0), -1 },
	{ "tls-alone", HEAD(TLS, 0, 0, 0, 0, "", 0), -1 },
	{ "tls-again", HEAD(TLS, 0, 0, 0, 0, "", 0), 0 },
	{ "status-alone", HEAD(STATUS, 0, 0, 0, 0, "", 0), -1 },
	{ "file-with", HEAD(FILE_, 0, 0, 0, 0, "", 0), 0 },
	{ "noise", HEAD(0x5ad1f00d, 0x8badf00d, 0xdeadbeef, 0xfeedface,
	    0xbaadf00d, "\377\376\1\2\3", 0x0ddba11), -1 },
	/* Somebody whom neither socket nor certificate names. */
	{ "external", HEAD(AUTH, 0, ENVELOPE | A | B, 0, 0, "\0\0\0\0\0\0\0"
	    "root\0\0\0\0\0\0\0\0\0client.example.org\0\0\0" FORWARD
	    "EXTERNAL\0\0", 0), -1 },
	{ "rcpt", HEAD(STAGE, 4, ENVELOPE, 0, 1, "a@example.org" FACTS
	    "b@example.org\0\0", 0), -1 },
	{ "guess", HEAD(AUTH, 0, ENVELOPE | A | B, 0, 0, FACTS
	    "PLAIN\0AGpvZQB4\0", 0), -1 },
	{ "log-empty", HEAD(LOG, 6, A | B, 0, 0, "\0\0", 0), -1 },
	{ "log-forged", HEAD(LOG, 6, A | B, 0, 0, "message-relayed\0x\0", 0),
	    -1 },
	{ "log-auth", HEAD(LOG, 6, A | B, 0, 0, "auth-ok\0boss\0", 0), -1 },
	{ "end-forged", HEAD(END, 0, A | B, 0, 0, "message-relayed\0x\0", 0),
	    -1 },
	/* A message that was asked about, or not. */
	{ "message", HEAD(RELAY, 0, ENVELOPE, 0, 1, "a@example.org" FACTS
	    "b@example.org\0\0", 0), -1 },
	{ "message-other", HEAD(RELAY, 0, ENVELOPE, 0, 2, "a@example.org" FACTS
	    "b@example.org\0\0c@example.org\0\0", 0), -1 },
	{ "message-twice", HEAD(RELAY, 0, ENVELOPE, 0, 2, "a@example.org" FACTS
	    "b@example.org\0\0b@example.org\0\0", 0), -1 },
	{ "message-sender", HEAD(RELAY, 0, ENVELOPE, 0, 1, "z@example.org" FACTS
	    "b@example.org\0\0", 0), -1 },
	/* About the next hop of --live, for t/sandbox-live.t. */
	{ "live-hello", HEAD(HELLO, 0, ENVELOPE, 0, 0, FACTS, 0), -1 },
	{ "live-mail", HEAD(STAGE, 3, ENVELOPE, 0, 0, "a@example.org" FACTS, 0),
	    -1 },
	{ "live-boss", HEAD(STAGE, 3, ENVELOPE, 0, 0, "boss@example.org" FACTS,
	    0), -1 },
	{ "live-rcpt", HEAD(STAGE, 4, ENVELOPE, 0, 1, "a@example.org" FACTS
	    "b@example.org\0\0", 0), -1 },
	{ "live-vrfy", HEAD(STAGE, 7, ENVELOPE, 0, 1, FACTS
	    "b@example.org\0\0", 0), -1 },
	{ "live-group", HEAD(GROUP, 1, ENVELOPE, 0, 2, "a@example.org" FACTS
	    "b@example.org\0\0c@example.org\0\0", 0), -1 },
	{ "live-more", HEAD(GROUP, 0, ENVELOPE, 0, 2, "a@example.org" FACTS
	    "d@example.org\0\0e@example.org\0\0", 0), -1 },
	{ "live-nobody", HEAD(GROUP, 1, ENVELOPE, 0, 0, "a@example.org" FACTS,
	    0), -1 },
	{ "live-forget", HEAD(FORGET, 0, 0, 0, 0, "", 0), -1 },
	{ "live-login", HEAD(AUTH, 0, ENVELOPE | A, 0, 0, FACTS "LOGIN\0", 0),
	    -1 },
	{ "live-plain", HEAD(AUTH, 0, ENVELOPE | A | B, 0, 0, FACTS
	    "PLAIN\0AGpvAHB3\0", 0), -1 },
	{ "live-response", HEAD(AUTH, 0, ENVELOPE | A | B, 0, 0, FACTS
	    "\0am8=\0", 0), -1 },
	{ "live-abandon", HEAD(ABANDON, 0, 0, 0, 0, "", 0), -1 },
	{ "pause", HEAD(LOG, 6, A | B, 0, 0, "pla", 11), -1 },
	{ "half", HEAD(LOG, 6, A | B, 0, 0, "pla", 11), -1 },
	{ NULL, HEAD(0, 0, 0, 0, 0, "", 0), -1 },
};

static ssize_t
send_question(const struct question *q)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .room = { 0 } };
	char frame[256];
	struct iovec iov = { frame, sizeof q->head + q->len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	memcpy(frame, &q->head, sizeof q->head);
	memcpy(frame + sizeof q->head, q->strings, q->len);
	if (q->fd != -1) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof control;
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof q->fd);
		memcpy(CMSG_DATA(&control.head), &q->fd, sizeof q->fd);
	}
	return sendmsg(monitor, &msg, MSG_NOSIGNAL);
}

/* The codes of the verdicts that an answer has, the first of which is "code":
   see struct tail. */
static void
hear_verdict(void)
{
	char answer[4096], name[16] = "code";
	struct reply r;
	uint32_t n;
	ssize_t len = recv(monitor, answer, sizeof answer, 0);

	if (len < 8)
		_exit(1);
	memcpy(&n, answer, sizeof n);
	for (uint32_t i = 0; i < n && 8 + (i + 1) * sizeof r <= (size_t)len;
	    i++) {
		memcpy(&r, answer + 8 + i * sizeof r, sizeof r);
		say(name, r.code);
		snprintf(name, sizeof name, "code-%u", i + 2);
	}
}

/* Asks, then waits for a monitor that hangs up. */
static void
tell(const char *name)
{
	const struct question *q = questions;
	char rest[64];

	while (q->name != NULL && strcmp(q->name, name) != 0)
		q++;
	if (q->name == NULL) {	/* which there are */
		for (q = questions; q->name != NULL; q++)
			say(q->name, 0);
		return;
	}
	say("sent", send_question(q));
	if (strcmp(q->name, "sense") == 0 || q->head.ask == FORGET ||
	    q->head.ask == ABANDON)
		return;
	if (strcmp(q->name, "external") == 0 || strcmp(q->name, "guess") == 0 ||
	    strcmp(q->name, "rcpt") == 0 ||
	    strncmp(q->name, "live-", 5) == 0 ||
	    strncmp(q->name, "message", 7) == 0) {
		hear_verdict();
		return;
	}
	if (strcmp(q->name, "half") == 0)
		shutdown(monitor, SHUT_WR);
	say("heard", recv(monitor, rest, sizeof rest, 0));
}

static void
try_files(void)
{
	char octet;

	if (write(STDERR_FILENO, "planted\n", 8) != -1)
		say("file", STDERR_FILENO);
	for (int fd = 3; fd < 1024; fd++)
		if (pread(fd, &octet, 1, 0) == 1)
			say("file", fd);
	say("done", 0);
}

static void
be_deaf(void)
{
	static const struct question q = { "", HEAD(MECHANISMS, 0, ENVELOPE, 0,
	    0, FACTS, 0), -1 };

	while (send_question(&q) > 0)
		;
}

/* Writes a file that is larger than a message may be; relays a message, and
   then changes it. */
static void
try_spool(bool lie)
{
	int fd = memfd_create("spool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct question q = { "", HEAD(RELAY, 0, ENVELOPE, 0, 1, "a@example.org"
	    FACTS "b@example.org\0\0", 0), fd };

	errno = 0;
	if (lseek(fd, 1L << 40, SEEK_SET) == -1 || write(fd, "x", 1) == 1)
		errno = 0;
	say("large", errno);
	lseek(fd, 0, SEEK_SET);
	if (write(fd, "\r\nhello\r\n", 9) != 9)
		say("written", errno);
	q.head.size = lie ? 5 : 9;
	send_question(&q);
	hear_verdict();
	lseek(fd, 0, SEEK_SET);
	errno = 0;
	if (write(fd, "y", 1) == 1)
		errno = 0;
	say("change", errno);
}

/* Records, one after the other. */
static void
be_busy(void)
{
	while (send_question(&questions[0]) > 0)
		;
}

/* All that the channel knows of the client becomes wrong, or nothing. */
static void
lie(struct channel *ch, const char *with)
{
	struct channel_peer *peer = &ch->peer;
	struct channel_tls *tls = &ch->tls;
	struct channel_forward *ahead = &ch->forward;
	char *const facts[] = { peer->address, peer->port, peer->name,
		peer->server_address, peer->server_port, ch->auth_user,
		ch->auth_method, tls->protocol, tls->cipher, tls->sni,
		tls->subject, tls->issuer, tls->fingerprint, ahead->address,
		ahead->port, ahead->name, ahead->helo, ahead->protocol,
		ahead->ident, ahead->source };

	for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
		strcpy(facts[i], with);
	ch->authenticated = ch->ssl = ch->forwarded = *with != '\0';
}

/* Does what follows PLANT in a command. */
static void
act(struct channel *ch, const char *what)
{
	if (strcmp(what, "calls") == 0)
		try_calls();
	else if (strcmp(what, "numbers") == 0)
		try_numbers();
	else if (strcmp(what, "foreign") == 0)
		try_foreign();
	else if (strcmp(what, "files") == 0)
		try_files();
	else if (strcmp(what, "deaf") == 0)
		be_deaf();
	else if (strcmp(what, "hang") == 0)
		poll(NULL, 0, -1);
	else if (strcmp(what, "spool") == 0)
		try_spool(false);
	else if (strcmp(what, "short") == 0)
		try_spool(true);
	else if (strcmp(what, "busy") == 0)
		be_busy();
	else if (strcmp(what, "leave") == 0) {
		close(monitor);
		poll(NULL, 0, -1);
	} else if (strcmp(what, "lie") == 0)
		lie(ch, "lie");
	else if (strcmp(what, "blank") == 0)
		lie(ch, "");
	else if (strncmp(what, "tell ", 5) == 0)
		tell(what + 5);
	else
		say("unknown", 0);
}

size_t
__wrap_channel_feed(struct channel *ch, const char *p, size_t len)
{
	const char *end = memchr(p, '\r', len);
	size_t n = end == NULL ? 0 : (size_t)(end - p);
	char what[64];

	if (n < 6 || memcmp(p, "PLANT ", 6) != 0)
		return __real_channel_feed(ch, p, len);
	snprintf(what, sizeof what, "%.*s", (int)n - 6, p + 6);
	said[0] = '\0';
	act(ch, what);
	channel_reply(ch, 250, "", said);
	return n + 2;
}
