/*
 * confine.h - the jail for a process that reads what strangers send: what it
 * has open it may use, and nothing else.
 */
#ifndef CONFINE_H
#define CONFINE_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define CONFINE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && !defined(__AARCH64EB__)
#define CONFINE_ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define CONFINE_ARCH AUDIT_ARCH_RISCV64
#endif

/*
 * A list of system calls for confine(), made when we are compiled:
 *
 *	static const struct sock_filter calls[] = {
 *		CONFINE_BEGIN,
 *		CONFINE_ALLOW(poll, ppoll, sendto, recvfrom, dup2, dup3),
 *		CONFINE_END
 *	};
 *
 * Calls by another architecture's numbers kill.  The others that are not
 * listed (x32's are among them) fail with EPERM, and do not kill: libraries
 * may make one that they can do without, differently in every version, and
 * that is not worth a mail, while to an intruder it is all the same.
 */
#define CONFINE_LOAD(member) \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, \
	    offsetof(struct seccomp_data, member))
#define CONFINE_RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define CONFINE_IF(name, yes, no) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, yes, no)
/* Six at a time, for each instruction takes the kernel time to translate. */
#define CONFINE_ALLOW(a, b, c, d, e, f) \
	CONFINE_IF(a, 5, 0), CONFINE_IF(b, 4, 0), CONFINE_IF(c, 3, 0), \
	    CONFINE_IF(d, 2, 0), CONFINE_IF(e, 1, 0), CONFINE_IF(f, 0, 1), \
	    CONFINE_RETURN(SECCOMP_RET_ALLOW)
/* One option of a socket may be set. */
#define CONFINE_ALLOW_OPTION(level, option) \
	CONFINE_IF(setsockopt, 0, 6), CONFINE_LOAD(args[1]), \
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, level, 0, 3), \
	    CONFINE_LOAD(args[2]), \
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, option, 0, 1), \
	    CONFINE_RETURN(SECCOMP_RET_ALLOW), \
	    CONFINE_RETURN(SECCOMP_RET_ERRNO | EPERM)
/* aarch64 and riscv64 have no poll, dup2 and time: libc makes these calls. */
#ifndef __NR_poll
#define __NR_poll __NR_ppoll
#endif
#ifndef __NR_dup2
#define __NR_dup2 __NR_dup3
#endif
#ifndef __NR_time
#define __NR_time __NR_gettimeofday
#endif

/* musl's unistd.h makes pread64 a macro. */
#define __NR_pread __NR_pread64

#ifdef __SANITIZE_ADDRESS__	/* which looks at stacks before it ends */
#define CONFINE_SANITIZER \
	CONFINE_ALLOW(sigaltstack, sigaltstack, sigaltstack, sigaltstack, \
	    sigaltstack, sigaltstack),
#else
#define CONFINE_SANITIZER
#endif

#ifdef CONFINE_ARCH
/*
 * The kernel tries a new list with every number that there is, to remember
 * which calls are always allowed; that takes longer than the list will, in a
 * life as short as ours.  It gives up where a list copies to X.
 */
#define CONFINE_BEGIN \
	BPF_STMT(BPF_MISC | BPF_TAX, 0), CONFINE_LOAD(arch), \
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CONFINE_ARCH, 1, 0), \
	    CONFINE_RETURN(SECCOMP_RET_KILL_PROCESS), CONFINE_LOAD(nr), \
	    CONFINE_SANITIZER \
	    CONFINE_ALLOW(exit_group, rt_sigreturn, restart_syscall, brk, \
	        munmap, mremap), \
	    CONFINE_ALLOW(madvise, clock_gettime, read, write, close, shutdown)
/* mmap and mprotect, without PROT_EXEC. */
#define CONFINE_END \
	CONFINE_IF(mmap, 1, 0), CONFINE_IF(mprotect, 0, 2), \
	    CONFINE_LOAD(args[2]), \
	    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1), \
	    CONFINE_RETURN(SECCOMP_RET_ERRNO | EPERM), \
	    CONFINE_RETURN(SECCOMP_RET_ALLOW)
#endif

/* From now on nobody of our own user can trace us, read our memory, or have
   it dumped. */
void	confine_secrets(void);

/* What a kernel may lack, or refuse. */
#define CONFINE_NO_LANDLOCK 1U
#define CONFINE_NO_SECCOMP 2U
#define CONFINE_NO_NEW_PRIVS 4U	/* it was not to be given up */
#define CONFINE_NO_LIMITS 8U

/*
 * Gives up, for good: new privileges (no_new_privs), core dumps, new
 * processes, every right that the kernel's Landlock can deny (files,
 * connecting, binding, signals), and every system call but those of the list.
 * Returns the sum of CONFINE_NO_x for what was not done; 0: all was.
 */
unsigned confine(const struct sock_filter *calls, size_t n);

#endif
