#!/usr/bin/env python3
"""empty-root.t - the static smtpd where there is nothing else: no /proc, no
/etc, no library, a root that cannot be written to, a user without a name."""
import json
import os
import queue
import re
import shutil
import smtplib
import subprocess
import sys

from fakes.server import Server
from tap import STATIC, folder, free_port, main, test, write

PROGRAM = os.path.abspath("musl/smtpd")
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
if not STATIC:
    print("1..0 # SKIP this is for the static smtpd: make STATIC=yes")
    sys.exit(0)

PLACE = folder()
ROOT = f"{PLACE}/root"


def in_chroot(*argv, **more):
    return subprocess.run(
        ["/usr/sbin/chroot", f"--userspec={USER}:{USER}", ROOT, *argv], env={},
        capture_output=True, **more)


def in_namespace(*argv, **more):
    """On a read-only mount, in a mount namespace."""
    script = ('mount --rbind "$1" "$1" && mount -o remount,bind,ro "$1" && '
              'root=$1 && shift && exec env -i /usr/sbin/chroot '
              '--userspec=%d:%d "$root" "$@"' % (USER, USER))
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh",
                           "-c", script, "sh", ROOT, *argv],
                          capture_output=True, **more)


class PrintingHop(Server):
    """Prints what it takes, an item for each session that has ended."""

    def __init__(self):
        self.taken = queue.Queue()
        super().__init__()

    def serve(self, connection, number):
        with connection:
            self.taken.put(subprocess.run(
                [PROGRAM, "print:"], stdin=connection, stdout=connection,
                stderr=subprocess.PIPE).stderr)


def files(place):
    found = []
    for at, _, names in os.walk(place):
        for name in names:
            with open(os.path.join(at, name), "rb") as f:
                found.append(f.read())
    return found


def takes_a_message(start, *relay):
    """What is printed."""
    done = start("/smtpd", *relay, input=MAIL)
    assert b"\n250 2.0.0 " in done.stdout and done.returncode == 0, done
    return done.stderr


def in_each_root(*relay):
    return [takes_a_message(start, *relay)
            for start in (in_chroot, in_namespace)]


@test
def discard_takes_a_message():
    in_each_root("discard:")


@test
def print_prints_it():
    for printed in in_each_root("print:"):
        assert b"world" in printed, printed


@test
def the_next_hop_gets_it():
    with PrintingHop() as hop:
        in_each_root(f"smtp:{hop.at}")
        for _ in range(2):
            assert b"world" in hop.taken.get()


@test
def a_folder_gets_it():
    os.mkdir(f"{ROOT}/mail/folder")
    os.chmod(f"{ROOT}/mail/folder", 0o777)
    takes_a_message(in_chroot, "maildir:/mail/folder")
    text, = files(f"{ROOT}/mail/folder")
    assert b"world" in text, text


@test
def a_program_gets_it():
    takes_a_message(in_chroot, "--", "/taker")
    with open(f"{ROOT}/mail/program", "rb") as f:
        assert b"world" in f.read()


@test
def the_container_of_README_takes_a_message():
    with open("README") as f:
        found = re.search(r"    FROM scratch\n((?:    \S.*\n)+)", f.read())[1]
    lines = [line.split(None, 1) for line in found.splitlines()]
    image = f"{PLACE}/image"
    os.mkdir(image)
    for source, to in [v.split() for k, v in lines if k == "COPY"]:
        shutil.copy({"smtpd": PROGRAM, "busybox": "/bin/busybox"}[source],
                    image + to)
    (user,), (command,) = ([v for k, v in lines if k == which]
                           for which in ("USER", "CMD"))
    port = free_port()
    server = subprocess.Popen(
        ["/usr/sbin/chroot", f"--userspec={user}:{user}", image,
         *(str(port) if word == "2525" else word
           for word in json.loads(command))],
        env={}, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert server.poll() is None
            try:
                client = smtplib.SMTP("127.0.0.1", port)
                break
            except ConnectionRefusedError:      # it does not listen yet
                pass
        with client:
            assert client.sendmail("a@example.org", "b@example.net",
                                   "Subject: x\r\n\r\ny\r\n") == {}
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    for made in ROOT, f"{ROOT}/mail":
        os.mkdir(made)
    os.chmod(f"{ROOT}/mail", 0o777)
    shutil.copy(PROGRAM, f"{ROOT}/smtpd")
    write(f"{PLACE}/taker.c", TAKER)
    subprocess.run(["musl-gcc", "-static", "-o", f"{ROOT}/taker",
                    f"{PLACE}/taker.c"], check=True)
    main()
