#!/usr/bin/env python3
"""The static smtpd where there is nothing else: no /proc, no /etc, no library,
a root that cannot be written to, a user without a name."""

import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

SMTPD = os.path.abspath("musl/smtpd")
USER = 4242
MAIL = (b"EHLO client.example.org\r\nMAIL FROM:<a@example.org>\r\n"
        b"RCPT TO:<b@example.net>\r\nDATA\r\nSubject: hello\r\n\r\nworld\r\n"
        b".\r\nQUIT\r\n")
TAKER = r"""
#include <fcntl.h>
#include <unistd.h>

int main(void)
{
	char text[4096];
	int to = open("/mail/program", O_WRONLY | O_CREAT | O_EXCL, 0666);
	ssize_t n;

	while ((n = read(0, text, sizeof text)) > 0)
		if (write(to, text, (size_t)n) != n)
			return 75;
	return to == -1;
}
"""

if os.getuid() != 0:
    print("1..0 # SKIP only root can change the root folder")
    sys.exit(0)

work = tempfile.mkdtemp()
root = work + "/root"
os.chmod(work, 0o755)
done = failed = 0


def ok(good, name, *diagnosis):
    global done, failed
    done += 1
    failed += not good
    print("%sok %d - %s" % ("" if good else "not ", done, name), flush=True)
    for d in diagnosis if not good else []:
        print("#  ", d)
    return good


def in_chroot(*argv, **more):
    return subprocess.run(
        ["/usr/sbin/chroot", "--userspec=%d:%d" % (USER, USER), root, *argv], env={},
        capture_output=True, **more)


def in_namespace(*argv, **more):
    """On a read-only mount, in a mount namespace."""
    script = ('mount --rbind "$1" "$1" && mount -o remount,bind,ro "$1" && '
              'root=$1 && shift && exec env -i /usr/sbin/chroot '
              '--userspec=%d:%d "$root" "$@"' % (USER, USER))
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh",
                           "-c", script, "sh", root, *argv],
                          capture_output=True, **more)


def next_hop():
    """An SMTP server; returns its port and a queue of what it printed, one
    item a session that has ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken = queue.Queue()

    def serve():
        while True:
            s = listener.accept()[0]
            p = subprocess.run([SMTPD, "print:"], stdin=s, stdout=s,
                               stderr=subprocess.PIPE)
            s.close()
            taken.put(p.stderr)
    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1], taken


def files(folder):
    return [open(os.path.join(at, name), "rb").read()
            for at, _, names in os.walk(folder) for name in names]


def sessions(start, where):
    shutil.rmtree(root + "/mail", ignore_errors=True)
    os.mkdir(root + "/mail")
    os.chmod(root + "/mail", 0o777)
    os.mkdir(root + "/mail/folder")
    os.chmod(root + "/mail/folder", 0o777)
    if start is in_namespace:
        relays = [("discard:",), ("print:",), ("smtp:[127.0.0.1]:%d" % port,)]
    else:
        relays = [("discard:",), ("print:",), ("smtp:[127.0.0.1]:%d" % port,),
                  ("maildir:/mail/folder",), ("--", "/taker")]
    for relay in relays:
        p = start("/smtpd", *relay, input=MAIL)
        took = ok(b"\n250 2.0.0 " in p.stdout and p.returncode == 0,
           "%s takes a message %s" % (relay[-1].split(":")[0], where),
           p.stdout, p.stderr)
        if relay == ("print:",):
            ok(b"world" in p.stderr, "and prints it", p.stderr)
        if relay[0].startswith("smtp:"):
            text = taken.get() if took else b""
            ok(b"world" in text, "the next hop has the message", text)
    if start is in_chroot:
        texts = files(root + "/mail")
        ok(len(texts) == 2 and all(b"world" in t for t in texts),
           "the folder and the program have the message", texts)


try:
    os.mkdir(root)
    shutil.copy(SMTPD, root + "/smtpd")
    with open(work + "/taker.c", "w") as f:
        f.write(TAKER)
    subprocess.run(["musl-gcc", "-static", "-o", root + "/taker",
                    work + "/taker.c"], check=True)
    port, taken = next_hop()
    sessions(in_chroot, "in an empty root")
    sessions(in_namespace, "in a namespace with a read-only root")
    print("1..%d" % done)
finally:
    shutil.rmtree(work)
sys.exit(failed > 0)
