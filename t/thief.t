#!/usr/bin/env python3
"""The TLS key and the next hop's password against another process of the same
user that looks at all others, all the time."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile

from fakes.hop import Hop

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

work = tempfile.mkdtemp()
os.chmod(work, 0o755)
done = failed = 0


def ok(good, name, *diagnosis):
    global done, failed
    done += 1
    failed += not good
    print("%sok %d - %s" % ("" if good else "not ", done, name), flush=True)
    for d in diagnosis if not good else []:
        print("#  ", d)


def run(*argv, **more):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, **more)


def session(smtpd):
    """One session with STARTTLS.  Returns the reply to EHLO within TLS."""
    ours, theirs = socket.socketpair()
    server = subprocess.Popen(
        [smtpd, "--user", "nobody", "--tlscert", work + "/cert",
         "--tlskey", work + "/key", "discard:"], stdin=theirs, stdout=theirs,
        stderr=subprocess.DEVNULL)
    theirs.close()
    ours.settimeout(60)
    ours.recv(4096)
    ours.sendall(b"EHLO x\r\n")
    ours.recv(4096)
    ours.sendall(b"STARTTLS\r\n")
    reply = ours.recv(4096)
    try:
        tls = context.wrap_socket(ours)
        tls.sendall(b"EHLO x\r\n")
        reply = tls.recv(4096)
        tls.close()
    except OSError as e:
        reply = str(e).encode()
    ours.close()
    server.wait()
    return reply


def relay(smtpd, hop):
    """One message to a next hop that wants the password.  Returns the last
    reply but that to QUIT."""
    done = subprocess.run(
        [smtpd, "--user", "nobody", "--relay-auth", work + "/auth",
         hop.relay()], capture_output=True, text=True,
        input="EHLO x\r\nMAIL FROM:<a@example.org>\r\n"
        "RCPT TO:<b@example.org>\r\nDATA\r\nSubject: x\r\n\r\ny\r\n.\r\n"
        "QUIT\r\n")
    return done.stdout.splitlines()[-2]


try:
    run("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:P-256", "-subj", "/CN=mx.example.org", "-keyout",
        work + "/key", "-out", work + "/cert")
    with open(work + "/thief.c", "w") as f:
        f.write(THIEF)
    run("cc", "-w", "-o", work + "/thief", work + "/thief.c")
    # Everybody can read the program, as when it is installed.
    shutil.copy(os.environ.get("ENGINE", "smtpd-tls"), work + "/smtpd-tls")
    shutil.copy(os.environ.get("SMTPD", "smtpd"), work + "/smtpd")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    loot = open(work + "/loot", "w+")
    thief = subprocess.Popen([work + "/thief", str(os.getpid())], stdout=loot,
                             user=NOBODY, group=NOBODY, extra_groups=[])
    key = open(work + "/key")
    naked = subprocess.Popen(["sleep", "60"], stdin=key, user=NOBODY,
                             group=NOBODY, extra_groups=[])
    for _ in range(3000):
        if "key of" in open(work + "/loot").read():
            break
        session(work + "/smtpd")
    naked.kill()
    naked.wait()
    key.close()
    ok("key of %d\n" % naked.pid in open(work + "/loot").read(),
       "the thief takes the key of a process that is not protected")
    replies = [session(work + "/smtpd") for _ in range(SESSIONS)]
    ok(all(r.startswith(b"250") for r in replies),
       "sessions with STARTTLS go on meanwhile", replies)
    hop = Hop(path=work + "/hop", extensions=["AUTH PLAIN"])
    with open(work + "/auth", "w") as f:
        f.write("# No PRIVATE KEY, but a word that the thief knows.\n"
                f"unix:{hop.path} joe:secret\n")
    os.chmod(work + "/auth", 0o600)
    replies = [relay(work + "/smtpd", hop) for _ in range(SESSIONS)]
    ok(all(r.startswith("250") for r in replies) and
       sum(c.startswith("AUTH") for c in hop.told()) == SESSIONS,
       "messages go on to a next hop that wants a password", replies)
    thief.kill()
    thief.wait()
    loot = open(work + "/loot").read().replace("key of %d\n" % naked.pid, "")
    ok(loot.split() == ["ready"],
       "no process of the same user can take the TLS key or the password",
       loot)
    print("1..%d" % done)
finally:
    shutil.rmtree(work)
sys.exit(failed > 0)
