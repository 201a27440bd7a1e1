#!/usr/bin/env python3
"""thief.t - the TLS key and the next hop's password are safe from another
process of the same user that looks at all others, all the time."""
import os
import shutil
import subprocess
import sys

import tap
from fakes.hop import Hop
from tap import (HELLO, Session, certificate, folder, lines, main, test,
                 unverified, write)

NOBODY = 65534
SESSIONS = 30

THIEF = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void look(int pid)
{
	static char text[4096];
	char path[64];
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), n, fd, status;
	ssize_t len;

	for (n = 0; n < 16; n++) {
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, n, 0);
		if (fd == -1)
			continue;
		len = pread(fd, text, sizeof text, 0);
		if (len > 0 && memmem(text, (size_t)len, "PRIVATE KEY", 11)) {
			printf("key of %d\n", pid);
			fflush(stdout);
		}
		close(fd);
	}
	close(pidfd);
	snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
	fd = open(path, O_RDONLY);
	len = read(fd, text, sizeof text);
	close(fd);
	if (len > 0 && (memmem(text, (size_t)len, "--keyfd", 7) ||
	    memmem(text, (size_t)len, "--relay-auth", 12))) {
		if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
			printf("traced %d\n", pid);
			fflush(stdout);
			kill(pid, 19), waitpid(pid, &status, __WALL);
			ptrace(PTRACE_DETACH, pid, 0, 18);
		}
		snprintf(path, sizeof path, "/proc/%d/mem", pid);
		fd = open(path, O_RDWR);
		if (fd != -1) {
			printf("memory of %d\n", pid);
			fflush(stdout);
			close(fd);
		}
	}
}

int main(int argc, char *argv[])
{
	int first = atoi(argv[argc - 1]), pid;
	struct dirent *d;
	DIR *dir = opendir("/proc");

	puts("ready");
	fflush(stdout);
	for (;;) {
		rewinddir(dir);
		while ((d = readdir(dir)) != NULL)
			if ((pid = atoi(d->d_name)) > first && pid != getpid())
				look(pid);
	}
}
"""

if os.getuid() != 0:
    print("1..0 # SKIP only root can start smtpd as another user")
    sys.exit(0)

# The processes of other tests would be looked at, and stopped.
if "ALONE" not in os.environ:
    os.environ["ALONE"] = "yes"
    os.execvp("unshare", ["unshare", "--pid", "--fork", "--kill-child",
                          "--mount-proc", sys.executable, *sys.argv])

PLACE = folder()
CONTEXT = unverified()
naked = None        # a process that is not protected


def path(name):
    return os.path.join(PLACE, name)


def loot():
    with open(path("loot")) as f:
        return f.read()


def session():
    """One session with STARTTLS.  Returns the reply to EHLO within TLS."""
    with Session("--user", "nobody", "--tlscert", path("mx.pem"), "--tlskey",
                 path("mx.key"), "discard:") as s:
        s.start()
        reply, = s.say("STARTTLS")
        assert reply[:3] == "220", reply
        with CONTEXT.wrap_socket(s.socket) as tls:
            tls.sendall(lines(HELLO))
            return tls.recv(4096).decode()


@test
def the_thief_takes_the_key_of_a_process_that_is_not_protected():
    global naked
    with open(path("mx.key")) as key:
        naked = subprocess.Popen(["sleep", "60"], stdin=key, user=NOBODY,
                                 group=NOBODY, extra_groups=[])
    for _ in range(3000):
        if "key of" in loot():
            break
        session()
    naked.kill()
    naked.wait()
    assert f"key of {naked.pid}\n" in loot(), loot()


@test
def sessions_with_STARTTLS_go_on_meanwhile():
    for _ in range(SESSIONS):
        reply = session()
        assert reply.startswith("250"), reply


@test
def messages_go_on_to_a_next_hop_that_wants_a_password():
    with Hop(path=path("hop"), extensions=["AUTH PLAIN"]) as hop:
        file = write(path("auth"), "# No PRIVATE KEY, but words that the thief "
                     f"knows.\nunix:{hop.path} joe:secret\n", 0o600)
        for _ in range(SESSIONS):
            with Session("--user", "nobody", "--relay-auth", file,
                         hop.relay()) as s:
                s.start()
                assert s.deliver()[:3] == "250"
                s.finish()
        assert sum(c.startswith("AUTH") for c in hop.told()) == SESSIONS


@test
def no_process_of_the_same_user_can_take_the_TLS_key_or_the_password():
    thief.kill()
    thief.wait()
    assert loot().replace(f"key of {naked.pid}\n", "").split() == ["ready"]


if __name__ == "__main__":
    certificate(PLACE, "mx", "mx.example.org")
    # Everybody can read the program, as when it is installed.
    tap.SMTPD = shutil.copy(tap.SMTPD, path("smtpd"))
    shutil.copy(os.environ.get("ENGINE", "smtpd-tls"), path("smtpd-tls"))
    write(path("thief.c"), THIEF)
    subprocess.run(["cc", "-w", "-o", path("thief"), path("thief.c")],
                   check=True)
    with open(path("loot"), "w") as file:
        thief = subprocess.Popen([path("thief"), str(os.getpid())], stdout=file,
                                 user=NOBODY, group=NOBODY, extra_groups=[])
    try:
        main()
    finally:
        thief.kill()
