/*
 * fault.c - makes one call of smtpd fail, for t/faults.t.
 *
 *	LD_PRELOAD=t/out/san/fault.so FAULT=m:fsync:2:5 FAULT_FD=9 smtpd ...
 *
 * The second fsync of the monitor fails with errno 5; "2+" is the second and
 * all after it, and errno 0 ends the process there, without a word.  Letters
 * are processes: m is the monitor, and what it was before there were two; c
 * the channel process; x a child that the monitor forked, before it executes.
 * Each call is written to FAULT_FD, one line "m fsync", or "m fsync !" if it
 * was the one; and at its end each process says how many descriptors it has.
 */
#define _GNU_SOURCE	/* RTLD_NEXT, program_invocation_short_name */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

void	*__libc_malloc(size_t size);
void	*__libc_calloc(size_t n, size_t size);
void	*__libc_realloc(void *p, size_t size);
typedef int program(int argc, char **argv, char **environment);
int	__libc_start_main(program *start, int argc, char **argv,
	    void (*init)(void), void (*fini)(void), void (*loader)(void),
	    void *stack);
ssize_t	__read_chk(int fd, void *p, size_t len, size_t size);

static int report = -1;
static char role = 'm';
static char wanted_role, wanted[32];
static int wanted_number, wanted_errno, seen;
static bool wanted_all, forked;
static program *real_main;

static void *
find(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

/* FAULT is the program's own from here on. */
static void
begin(void)
{
	const char *plan = getenv("FAULT"), *fd = getenv("FAULT_FD");
	char more = ' ';

	if (fd == NULL || strcmp(program_invocation_short_name, "smtpd") != 0)
		return;
	if (plan != NULL && sscanf(plan, "%c:%31[^:]:%d%c", &wanted_role,
	    wanted, &wanted_number, &more) == 4) {
		wanted_all = more == '+';
		wanted_errno = atoi(strrchr(plan, ':') + 1);
	}
	report = atoi(fd);
}

static int
begin_main(int argc, char **argv, char **environment)
{
	begin();
	return real_main(argc, argv, environment);
}

/* What constructors do before main(), counting lines for example, is not the
   program's. */
int
__libc_start_main(program *start, int argc, char **argv, void (*init)(void),
    void (*fini)(void), void (*loader)(void), void *stack)
{
	int (*real)(program *, int, char **, void (*)(void), void (*)(void),
	    void (*)(void), void *);

	*(void **)(void *)&real = find("__libc_start_main");
	real_main = start;
	return real(begin_main, argc, argv, init, fini, loader, stack);
}

/* Notes the call.  True, with errno, if it is to fail. */
static bool
fails(const char *name)
{
	char line[64];
	bool now = false;
	int saved = errno, n;

	if (report == -1)
		return false;
	if (role == wanted_role && strcmp(name, wanted) == 0) {
		seen++;
		now = seen == wanted_number ||
		    (wanted_all && seen > wanted_number);
	}
	n = snprintf(line, sizeof line, "%c %s%s\n", role, name,
	    now ? " !" : "");
	syscall(SYS_write, report, line, (size_t)n);
	if (now && wanted_errno == 0)
		__builtin_trap();	/* it may not be able to kill */
	errno = now ? wanted_errno : saved;
	return now;
}

#define CALL(type, name, parameters, arguments) \
	type name parameters \
	{ \
		static type (*real) parameters; \
		if (fails(#name)) \
			return -1; \
		if (real == NULL) \
			*(void **)(void *)&real = find(#name); \
		return real arguments; \
	}

CALL(ssize_t, read, (int fd, void *p, size_t n), (fd, p, n))
CALL(ssize_t, pread, (int fd, void *p, size_t n, off_t at), (fd, p, n, at))
CALL(ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n))
CALL(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))
CALL(ssize_t, send, (int fd, const void *p, size_t n, int f), (fd, p, n, f))
CALL(ssize_t, recv, (int fd, void *p, size_t n, int f), (fd, p, n, f))
CALL(ssize_t, sendmsg, (int fd, const struct msghdr *m, int f), (fd, m, f))
CALL(ssize_t, recvmsg, (int fd, struct msghdr *m, int f), (fd, m, f))
CALL(ssize_t, sendfile, (int to, int from, off_t *at, size_t n),
    (to, from, at, n))
CALL(int, memfd_create, (const char *name, unsigned f), (name, f))
CALL(off_t, lseek, (int fd, off_t to, int whence), (fd, to, whence))
CALL(int, ftruncate, (int fd, off_t size), (fd, size))
CALL(int, fstat, (int fd, struct stat *st), (fd, st))
CALL(int, fsync, (int fd), (fd))
CALL(int, syncfs, (int fd), (fd))
CALL(int, dup2, (int from, int to), (from, to))
CALL(int, dup3, (int from, int to, int f), (from, to, f))
CALL(int, pipe2, (int p[2], int f), (p, f))
CALL(int, socket, (int d, int t, int p), (d, t, p))
CALL(int, socketpair, (int d, int t, int p, int v[2]), (d, t, p, v))
CALL(int, getsockopt, (int fd, int l, int o, void *p, socklen_t *n),
    (fd, l, o, p, n))
CALL(int, poll, (struct pollfd *p, nfds_t n, int ms), (p, n, ms))
CALL(int, ppoll, (struct pollfd *p, nfds_t n, const struct timespec *t,
    const sigset_t *m), (p, n, t, m))
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode))
CALL(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
CALL(int, linkat, (int a, const char *from, int b, const char *to, int f),
    (a, from, b, to, f))
CALL(int, renameat, (int a, const char *from, int b, const char *to),
    (a, from, b, to))
CALL(int, unlink, (const char *path), (path))
CALL(int, unlinkat, (int at, const char *path, int f), (at, path, f))
CALL(int, mkostemp, (char *path, int f), (path, f))
CALL(int, waitid, (idtype_t t, id_t id, siginfo_t *i, int f), (t, id, i, f))
CALL(pid_t, waitpid, (pid_t pid, int *status, int f), (pid, status, f))
CALL(int, pidfd_open, (pid_t pid, unsigned f), (pid, f))
CALL(int, signalfd, (int fd, const sigset_t *m, int f), (fd, m, f))
CALL(int, setsid, (void), ())
CALL(int, execv, (const char *path, char *const argv[]), (path, argv))
CALL(int, execvpe, (const char *path, char *const argv[], char *const env[]),
    (path, argv, env))

ssize_t
__read_chk(int fd, void *p, size_t len, size_t size)
{
	(void)size;
	return read(fd, p, len);
}

/* They also have a type that is not plain int, or a third argument. */
int
connect(int fd, __CONST_SOCKADDR_ARG to, socklen_t len)
{
	return fails("connect") ? -1
	    : (int)syscall(SYS_connect, fd, to.__sockaddr__, len);
}

int
open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = va_arg(ap, mode_t);
	va_end(ap);
	return fails("open") ? -1
	    : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int
openat(int at, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = va_arg(ap, mode_t);
	va_end(ap);
	return fails("openat") ? -1
	    : (int)syscall(SYS_openat, at, path, flags, mode);
}

/* The report is not the program's to close. */
void
closefrom(int first)
{
	if (report >= first)
		syscall(SYS_close_range, first, report - 1, 0);
	syscall(SYS_close_range, report >= first ? report + 1 : first, ~0U, 0);
}

/* Linux closes, whatever it says; but not the report. */
int
close(int fd)
{
	bool bad = fails("close");
	int saved = errno, status;

	status = fd == report ? 0 : (int)syscall(SYS_close, fd);

	if (!bad)
		return status;
	errno = saved;
	return -1;
}

/* A program's child shares the caller's memory, and so its role and counts. */
int
clone(int (*start)(void *), void *stack, int flags, void *argument, ...)
{
	static __typeof__(&clone) real;

	if (fails("clone"))
		return -1;
	if (real == NULL)
		*(void **)(void *)&real = find("clone");
	return real(start, stack, flags, argument);
}

/* The process that calls _Fork() first becomes the monitor; its first child is
   the channel process, and a later one becomes the TLS engine. */
pid_t
_Fork(void)
{
	static __typeof__(&_Fork) real;
	pid_t pid;

	if (fails("_Fork"))
		return -1;
	if (real == NULL)
		*(void **)(void *)&real = find("_Fork");
	pid = real();
	if (pid == 0) {
		role = forked ? 'x' : 'c';
		seen = 0;
	}
	forked = true;
	return pid;
}

void *
malloc(size_t size)
{
	return fails("malloc") ? NULL : __libc_malloc(size);
}

void *
calloc(size_t n, size_t size)
{
	return fails("calloc") ? NULL : __libc_calloc(n, size);
}

void *
realloc(void *p, size_t size)
{
	return fails("realloc") ? NULL : __libc_realloc(p, size);
}

/* A process that is about to be killed, because it is not gone yet, has half a
   second more to report that it has ended. */
int
kill(pid_t pid, int signal)
{
	struct pollfd gone = { .events = POLLIN };

	if (fails("kill"))
		return -1;
	if (signal == SIGKILL && pid > 0) {
		gone.fd = (int)syscall(SYS_pidfd_open, pid, 0);
		syscall(SYS_poll, &gone, 1, 500);
		syscall(SYS_close, gone.fd);
	}
	return (int)syscall(SYS_kill, pid, signal);
}

/* lseek() is what every process may call. */
void
_exit(int status)
{
	char line[64];
	int open = 0, n;

	for (int fd = 0; fd < 256; fd++)
		open += fd != report && (syscall(SYS_lseek, fd, 0L,
		    SEEK_CUR) != -1 || errno != EBADF);
	n = snprintf(line, sizeof line, "%c descriptors %d\n", role, open);
	if (report != -1)
		syscall(SYS_write, report, line, (size_t)n);
	for (;;)
		syscall(SYS_exit_group, status);
}
