#!/usr/bin/env python3
"""tls-confined.t - smtpd-tls is confined before it speaks, and keeps neither
the key nor what it carried in memory."""
import os
import re
import ssl
import subprocess

from tap import SANITIZED, main, tcp_pair, test
from tls import (Peer, asleep, make_certificates, matches, no_process_is_left,
                 path, read_exactly, same, server, status_of)


# Only root can look, and a sanitizer's memory is too large to look through.
READABLE = os.geteuid() == 0 and not SANITIZED


def memory(pid):
    """All that the process can write: each mapping, as /proc shows it, and
    what is in it."""
    with open("/proc/%d/maps" % pid) as maps, \
            open("/proc/%d/mem" % pid, "rb") as mem:
        for line in maps:
            m = re.match(r"(\w+)-(\w+) rw", line)
            if m:
                mem.seek(int(m[1], 16))
                yield line, mem.read(int(m[2], 16) - int(m[1], 16))


def secrets(name):
    """The private numbers of a key, in both orders of octets, and its text."""
    text = subprocess.run(["openssl", "pkey", "-in", path(name + ".key"),
                           "-noout", "-text"], check=True,
                          capture_output=True).stdout.decode()
    found = []
    for m in re.finditer(r"(?m)^(priv|privateExponent|prime\d|exponent\d|"
                         r"coefficient):\n((?: +[0-9a-f:]+\n)+)", text):
        octets = bytes.fromhex(re.sub(r"[\s:]", "", m[2])).lstrip(b"\0")
        found += [octets, octets[::-1]]
    with open(path(name + ".key")) as f:
        found += [line.strip().encode() for line in f
                  if "PRIVATE" not in line and len(line) > 40]
    return found


def hits(pid, wanted):
    """Where the process has them, and which."""
    return ["%s: %d: number %d" % (line.strip(), m.start(), i)
            for line, text in memory(pid) for i, w in enumerate(wanted)
            for m in re.finditer(re.escape(w[:32]), text)]


def forgets(e, peer):
    """What was carried does not stay behind."""
    for n, text in (1, b"auth plain a secret\r\n"), (4000, b"a message\r\n"):
        peer.send(n * text)
        read_exactly(e.clear, n * len(text))
        e.clear.sendall(n * text.upper())
        left = n * len(text)
        while left > 0:
            left -= len(peer.read(left))
        while not asleep(e.pid):
            pass
        same(hits(e.pid, [text, text.upper()]), [],
             "%d octets each way left nothing" % (n * len(text)))


@test
def it_is_confined_before_it_speaks_and_forgets_the_key():
    for name in ("ec", "rsa"):
        near, far = tcp_pair()
        e = server(far, name)
        peer = Peer(near)
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            peer.flush()
        first = near.recv(1)
        status = status_of(e.pid)
        matches(r"(?m)^NoNewPrivs:\s1$", status, "no new privileges")
        matches(r"(?m)^Seccomp:\s2$", status, "and a list of system calls, "
                "when the first octet goes out")
        during = None
        if READABLE:
            during = hits(e.pid, secrets(name))
        peer.into.write(first)
        peer.handshake()
        e.report()
        if READABLE:
            assert during, f"the {name} key is not found in the handshake"
            same(hits(e.pid, secrets(name)), [], "nor is it found after it")
            forgets(e, peer)
        elif os.geteuid() != 0:
            try:
                hits(e.pid, secrets(name))
                raise AssertionError("a user can look into its memory")
            except PermissionError:
                pass
        same(e.end(), 0, "and exit 0")


test(no_process_is_left)

if __name__ == "__main__":
    make_certificates()
    main()
