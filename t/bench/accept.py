#!/usr/bin/env python3
"""What systemd's Accept=yes costs a connection, beside tcpserver.

t/systemd/boot.sh runs it in the container that it boots, for bench.py:

    RIG_FILES=FLOOR t/systemd/boot.sh t/bench/accept.py

FLOOR is the program of floor.c.  A batch is connections with one message of
1 kB each, one after the other.  Its CPU is what all processes of the container
used by then, those included that have ended, but for this one, which is the
client: with systemd that is the manager and the journal, too.  The kernel
tells it in hundredths of a second, so a batch is as long as it takes to make
these small.  Batches take turns, round by round.  Prints, for each that was
measured, seconds of CPU of a connection, and seconds from connect() to end of
file, separated by tabs: medians of the rounds.
"""
import os
import socket
import statistics
import subprocess
import time

ROUNDS = 7
BATCH = 0.6             # seconds
MESSAGE = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 14 + b".\r\n"
UNITS = "/run/systemd/system/"
TICK = os.sysconf("SC_CLK_TCK")
HERE = "/rig/"
SHIPPED = "/lib/systemd/system/smtpd@.service"
FLOOR = "[Service]\nExecStart=\nExecStart=/rig/floor\n"
DISCARD = "[Service]\nEnvironment=SMTPD_RELAY=discard:\n"
BARE = """[Service]
ExecStart=/rig/floor
StandardInput=socket
StandardError=journal
"""


def slurp(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def spew(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def used():
    """Seconds of CPU of everybody else."""
    ticks = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            stat = slurp("/proc/%s/stat" % pid)
        except OSError:
            continue            # what it used is its parent's now
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return ticks / TICK


def at_rest():
    """What was used, once nobody uses more."""
    before = -1
    now = used()
    while now != before:
        time.sleep(0.1)
        before, now = now, used()
    return now


def connection(port):
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        for line in (None, b"EHLO client.example.com\r\n",
                     b"MAIL FROM:<sender@example.com>\r\n",
                     b"RCPT TO:<recipient@example.org>\r\n", b"DATA\r\n",
                     MESSAGE, b"QUIT\r\n"):
            if line:
                sock.sendall(line)
            said = sock.recv(4096)
            if said[:1] not in (b"2", b"3"):
                raise OSError("a connection was refused: %r" % said)
        while sock.recv(4096):
            pass


def batch(port, count):
    before = at_rest()
    clock = []
    for _ in range(count):
        start = time.monotonic()
        connection(port)
        clock.append(time.monotonic() - start)
    return (at_rest() - before) / count, statistics.median(clock)


def unit(port, name, text, *dropins):
    """A socket that starts a service of that text, with these changes."""
    spew("%s%s.socket" % (UNITS, name), "[Socket]\nAccept=yes\n"
         "ListenStream=127.0.0.1:%d\nTriggerLimitIntervalSec=0\n" % port)
    spew("%s%s@.service" % (UNITS, name), text)
    for number, dropin in enumerate(dropins):
        spew("%s%s@.service.d/%d.conf" % (UNITS, name, number), dropin)


def units():
    """The ports of the sockets, and what is behind them."""
    prefix = [p for p in ("/usr/local", "/usr") if os.path.exists(p + SHIPPED)]
    shipped = slurp(prefix[0] + SHIPPED)
    hardened = slurp(prefix[0] + SHIPPED + ".d/hardened.conf.example")
    subprocess.run(["systemd-sysusers"], check=True)
    unit(2001, "bare", BARE)
    unit(2002, "shipped", shipped, FLOOR)
    unit(2003, "hardened", shipped, hardened, FLOOR)
    unit(2004, "shipped-smtpd", shipped, DISCARD)
    unit(2005, "hardened-smtpd", shipped, hardened, DISCARD)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "start", "bare.socket", "shipped.socket",
                    "hardened.socket", "shipped-smtpd.socket",
                    "hardened-smtpd.socket"], check=True)
    return {"systemd, bare unit: floor": 2001,
            "systemd, shipped unit: floor": 2002,
            "systemd, hardened.conf: floor": 2003,
            "systemd, shipped unit: smtpd discard:": 2004,
            "systemd, hardened.conf: smtpd discard:": 2005}


def servers():
    """The same under tcpserver."""
    smtpd = [p for p in ("/usr/local/sbin/smtpd", "/usr/sbin/smtpd")
             if os.path.exists(p)][0]
    ports = {}
    for port, name, argv in ((2006, "tcpserver: floor", [HERE + "floor"]),
                             (2007, "tcpserver: smtpd discard:",
                              [smtpd, "discard:"])):
        subprocess.Popen(["tcpserver", "-HRl0", "-u65534", "-g65534",
                          "127.0.0.1", str(port), *argv],
                         stdin=subprocess.DEVNULL,
                         stderr=open("/rig/log", "ab"))
        while True:
            try:
                connection(port)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        ports[name] = port
    return ports


def main():
    ports = {**servers(), **units()}
    sizes = {}
    found = {name: [] for name in ports}
    for name, port in ports.items():
        batch(port, 3)
        clock = batch(port, 5)[1]
        sizes[name] = max(10, min(400, int(BATCH / clock)))
    for _ in range(ROUNDS):
        for name, port in ports.items():
            found[name].append(batch(port, sizes[name]))
    for name, pairs in found.items():
        print("\t".join([name] + ["%.6f" % statistics.median(column)
                                  for column in zip(*pairs)]), flush=True)


main()
