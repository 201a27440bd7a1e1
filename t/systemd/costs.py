#!/usr/bin/env python3
"""costs.py - what each directive of a service unit costs a connection.

	t/systemd/boot.sh t/systemd/costs.py	(as root; a minute or two)

Every directive gets a unit of its own, with a responder of a dozen lines of C
as the service.  A connection is timed from connect() to end of file, one after
the other.  Rounds go over all units in turn, each measured right after the
bare unit, so that whatever else the machine does falls on both; of what is
measured the fastest tenth counts.  Prints, for each, what a connection takes
as a multiple of the bare unit's, and in milliseconds more.

Then sessions of port 587, as the shipped units serve them, without and with
STARTTLS, by a smtpd-tls for each and by the one that stays: the CPU that all
processes but the client used, systemd's own included, as a multiple of that of
a session without.
"""
import contextlib
import glob
import os
import re
import socket
import ssl
import subprocess
import sys
import time

sys.path.insert(0, "/rig")
from servers import spew

ROUNDS, EACH = 10, 8
TURNS, SESSIONS = 5, 40    # of port 587
DIRECTIVES = """\
# bare
# bare, again: the noise
User=smtpd
DynamicUser=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
UMask=0077
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=@system-service; SystemCallArchitectures=native
SystemCallFilter=~@mount @module @raw-io; SystemCallArchitectures=native
ProtectHostname=yes
ProtectClock=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectSystem=yes
ProtectSystem=strict
ProtectHome=yes
ReadOnlyPaths=/
InaccessiblePaths=/boot
NoExecPaths=/tmp
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
PrivateNetwork=yes
PrivateIPC=yes
PrivateMounts=yes
ProtectProc=invisible
ProcSubset=pid
DevicePolicy=closed
IPAddressDeny=any
RemoveIPC=yes
KeyringMode=private
LimitCORE=0
LimitNOFILE=64
TasksMax=32
MemoryMax=64M
RuntimeMaxSec=1h
NotifyAccess=all
Type=exec
EnvironmentFile=/etc/smtpd/env
LoadCredential=key:/etc/hostname
SetCredential=key:value
StateDirectory=smtpd
RuntimeDirectory=smtpd
Slice=smtpd.slice"""
RESPONDER = r"""
#include <unistd.h>
int
main(void)
{
	char line[512];

	return write(1, "220 ready\r\n", 11) == 11 &&
	    read(0, line, sizeof line) > 0 &&
	    write(1, "221 bye\r\n", 9) == 9 ? 0 : 1;
}
"""


def directives(*files):
    """Those of shipped units, as installed, without what they run."""
    text = ""
    for file in files:
        with open(file) as f:
            text += f.read()
    text = re.sub(r"\\\n\s*", "", text)
    text = re.sub(r"^\[Unit\].*?(?=^\[)", "", text, flags=re.M | re.S)
    return [line for line in text.splitlines() if re.match("[A-Z]", line)
            and not line.startswith(("ExecStart=", "Environment="))]


def place():
    """Where the shipped units are."""
    return [u for u in ("/usr/local/lib/systemd/system",
                        "/usr/lib/systemd/system")
            if os.path.exists(f"{u}/smtpd@.service")][0]


def all_sets():
    """What is measured: names, and lists of directives."""
    units = place()
    service = f"{units}/smtpd@.service"
    sets = [(line.lstrip("# "), [] if line.startswith("#")
             else line.split("; ")) for line in DIRECTIVES.splitlines()]
    sets.append(("smtpd@.service", directives(service)))
    sets += [(f"with {name}", directives(service,
                                         f"{service}.d/{name}.conf.example"))
             for name in ("tls", "hardened", "setgid")]
    sets.append(("smtpd-submission@.service",
                 directives(f"{units}/smtpd-submission@.service")))
    return sets


def start(port, lines):
    """A socket unit at port whose service has these lines."""
    where = f"/run/systemd/system/cost{port}"
    spew(f"{where}.socket", f"[Socket]\nListenStream=127.0.0.1:{port}\n"
         "Accept=yes\nTriggerLimitIntervalSec=0\n")
    spew(f"{where}@.service", "\n".join(
        ["[Service]", "ExecStart=/rig/responder", "StandardInput=socket",
         "StandardError=journal", *lines, ""]))


def connection(port):
    """Milliseconds of one, or None if it fails."""
    begin = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port)) as s:
            with s.makefile("rb") as read:
                greeting = read.readline()
                s.sendall(b"QUIT\r\n")
                rest = read.read()
    except OSError:
        return None
    if not greeting.startswith(b"220 ") or not rest.startswith(b"221 "):
        return None
    return 1000 * (time.monotonic() - begin)


def middle(times):
    return sorted(times)[len(times) // 2]


def submission(port, tls, ticket=None):
    """A session, with STARTTLS if there is a context; its ticket."""
    s = socket.create_connection(("127.0.0.1", port))
    for line in (None, b"EHLO x\r\n", b"STARTTLS\r\n")[:3 if tls else 2]:
        if line:
            s.sendall(line)
        while not re.search(rb"^2\d\d .*\n\Z", s.recv(65536), re.M):
            pass
    if tls:
        s = tls.wrap_socket(s, session=ticket)
        if ticket and not s.session_reused:
            raise OSError("not resumed")
    s.sendall(b"QUIT\r\n")
    while s.recv(65536):
        pass
    ticket = s.session if tls else None
    s.close()
    return ticket


def used():
    """Milliseconds of CPU that all processes but ours, and those that they
    have waited for, used until now."""
    time.sleep(0.5)     # what follows a session is part of it
    ticks = 0
    for path in glob.glob("/proc/[0-9]*/stat"):
        if path != f"/proc/{os.getpid()}/stat":
            with contextlib.suppress(OSError), open(path) as f:
                ticks += sum(map(int, f.read().rsplit(")", 1)[1]
                                 .split()[11:15]))
    return 1000 * ticks / os.sysconf("SC_CLK_TCK")


def submissions(where):
    """Measures and prints those."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                    "/CN=mail.example.com", "-keyout", "/etc/smtpd/tlskey",
                    "-out", "/etc/smtpd/tlscert"], check=True,
                   stderr=subprocess.DEVNULL)
    spew("/etc/smtpd/users", "jo:" + subprocess.run(
        ["openssl", "passwd", "-6", "opensesame"], check=True,
        stdout=subprocess.PIPE, text=True).stdout)
    spew("/etc/default/smtpd", "SUBMISSION_RELAY=discard:\n")
    with open(f"{where}/smtpd-submission.socket") as f:
        spew("/run/systemd/system/cost.socket",
             f.read().replace("ListenStream=587", "ListenStream=588"))
    with open(f"{where}/smtpd-submission@.service") as f:
        spew("/run/systemd/system/cost@.service", f.read().replace(
            " $SUBMISSION_OPTIONS", " --tls-engine unix:/run/smtpd/tls.sock"))
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "start", "smtpd-tls.socket", "cost.socket",
                    "smtpd-submission.socket"], check=True)
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    # Tickets of TLS 1.2 are here when the handshake is over.
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    ticket = submission(588, tls)
    kinds = (("port 587 without STARTTLS", 587, None, None),
             ("STARTTLS, smtpd-tls for each session", 587, tls, None),
             ("STARTTLS, smtpd-tls that stays", 588, tls, None),
             ("STARTTLS, smtpd-tls that stays, resumed", 588, tls, ticket))
    took = [[] for _ in kinds]
    for turn in range(TURNS + 1):
        for kind, cpu in zip(kinds, took):
            before = used()
            for _ in range(SESSIONS):
                submission(*kind[1:])
            if turn:
                cpu.append((used() - before) / SESSIONS)
    plain = middle(took[0])
    for kind, cpu in zip(kinds, took):
        print(f"{middle(cpu) / plain:5.2f} x  {middle(cpu):6.2f} ms of CPU  "
              f"{kind[0]}")


def measure(port):
    return [ms for ms in (connection(port) for _ in range(EACH))
            if ms is not None]


def low(times):
    return sorted(times)[len(times) // 10] if times else float("nan")


def main():
    spew("/rig/responder.c", RESPONDER)
    subprocess.run(["cc", "-O2", "-o", "/rig/responder", "/rig/responder.c"],
                   check=True)
    subprocess.run("systemd-sysusers")
    os.makedirs("/etc/smtpd", exist_ok=True)
    spew("/etc/smtpd/env", "SMTPD_RELAY=discard:\n")
    for name in ("tlscert", "tlskey", "users"):
        spew(f"/etc/smtpd/{name}", "")
    sets = dict(enumerate(all_sets(), 2000))
    for port, (_, lines) in sets.items():
        start(port, lines)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "start",
                    *[f"cost{port}.socket" for port in sets]], check=True)

    bare = {port: [] for port in sets}
    took = {port: [] for port in sets}
    for turn in range(ROUNDS + 1):
        for port in sets:
            b, t = measure(2000), measure(port)
            if turn:    # the first warms up
                bare[port] += b
                took[port] += t

    print(f"bare unit: {low(sum(bare.values(), [])):.2f} ms")
    for port, (name, _) in sets.items():
        b, t = low(bare[port]), low(took[port])
        lost = ROUNDS * EACH - len(took[port])
        print(f"{t / b:5.2f} x  {t - b:+6.2f} ms  {name}"
              + (f"  ({lost} lost)" if lost else ""))
    submissions(place())


main()
