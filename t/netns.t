#!/usr/bin/env python3
"""netns.t - beyond one machine: HAProxy, by units/haproxy.cfg as printed, in
front of three hosts, which are network namespaces with a tcpserver of their
own.  One of them is killed under load.

All of it is in namespaces of our own, and ends with them; as root, or where
users may have some."""
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import threading

from servers import Server, codes, example, message, spew, talk
from tap import SMTPD, Skip, folder, main, test

HANDS = 8
EACH = 40
CLIENT = "198.51.100.7"
BALANCER = "192.0.2.1"
HOSTS = {n: f"192.0.2.1{n}" for n in (1, 2, 3)}
OWN = ["unshare", *([] if os.getuid() == 0 else ["--user", "--map-root-user"]),
       "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
PROGRAMS = {name: shutil.which(name, path=os.environ["PATH"] +
                               ":/usr/sbin:/sbin")
            for name in ("haproxy", "tcpserver", "ip")}


def run(*command):
    subprocess.run(command, check=True)


class Hosts:
    """Three hosts, and HAProxy in front of them."""

    def __init__(self):
        self.where = folder()
        self.server = {}
        self.taken = []
        self.lock = threading.Lock()
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{CLIENT}/32", "dev", "lo")
        for n in HOSTS:
            self.start_host(n)
        self.front = Server(PROGRAMS["haproxy"], "-W", "-f",
                            "units/haproxy.cfg")
        self.front.await_line("Loading success")

    def start_host(self, n):
        """tcpserver by its example, in a namespace whose link it awaits."""
        where, address = self.where, HOSTS[n]
        os.mkfifo(f"{where}/link{n}", 0o600)
        path = spew(f"{where}/run{n}", example("tcpserver.run", {
            "exec 2>&1": f"read link <{where}/link{n}\n"
                         f"ip address add {address}/24 dev eth0\n"
                         f"ip link set eth0 up\nexec 2>{where}/log{n}",
            "exec tcpserver": f"exec {PROGRAMS['tcpserver']} -1",
            "@SBINDIR@/smtpd": SMTPD,
            "--live --relay-domains example.org smtp:[192.0.2.1]:25":
                f"--nosetuid --proxy-protocol maildir:{where}/box{n}"}))
        host = self.server[n] = Server(
            "unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c",
            f"echo born; exec sh {path}")
        host.await_line("^born$")
        run("ip", "link", "add", f"host{n}", "type", "veth", "peer", "name",
            "eth0", "netns", str(host.process.pid))
        run("ip", "address", "add", f"{BALANCER}/32", "dev", f"host{n}")
        run("ip", "link", "set", f"host{n}", "up")
        run("ip", "route", "add", f"{address}/32", "dev", f"host{n}", "src",
            BALANCER)
        spew(f"{where}/link{n}", "up\n")
        host.await_line("^25$")

    def hand(self, hand):
        """One hand's messages, each tried again until it gets 250, as clients
        do.  Every try has a name of its own."""
        for n in range(EACH):
            for attempt in range(1, 51):
                name = f"{hand}.{n}.{attempt}"
                try:
                    s = socket.create_connection(
                        ("127.0.0.1", 25), source_address=(CLIENT, 0))
                except OSError:
                    continue
                if not codes(talk(s, *message(name))).startswith(
                        "220 250 250 250 354 250"):
                    continue
                with self.lock:
                    self.taken.append(name)
                    if len(self.taken) == HANDS * EACH // 4:
                        self.server[2].process.kill()
                break

    def load(self):
        hands = [threading.Thread(target=self.hand, args=[n])
                 for n in range(HANDS)]
        for thread in hands:
            thread.start()
        for thread in hands:
            thread.join()

    def delivered(self, n):
        """The messages of a host."""
        texts = []
        for path in glob.glob(f"{self.where}/box{n}/new/*"):
            with open(path) as f:
                texts.append(f.read())
        return texts

    def log(self, n):
        with open(f"{self.where}/log{n}") as f:
            return re.findall(r"^smtpd: .*event=.*$", f.read(), re.M)


hosts = None


@test
def every_message_that_got_250_is_relayed_once_though_a_host_is_killed():
    global hosts
    for name, path in PROGRAMS.items():
        if path is None:
            raise Skip(f"{name} is not installed")
    if "SMTPD_NETNS" not in os.environ:
        raise Skip("no network namespaces here")
    hosts = Hosts()
    hosts.load()
    copies = {}
    share = {n: hosts.delivered(n) for n in HOSTS}
    for texts in share.values():
        for text in texts:
            name = re.search(r"^Subject: (\S+)$", text, re.M)[1]
            copies[name] = copies.get(name, 0) + 1
            # The trace names the client and not HAProxy.
            assert re.search(rf"^Received: .*\[{re.escape(CLIENT)}\]", text,
                             re.M), text
    assert len(hosts.taken) == HANDS * EACH
    assert [name for name in hosts.taken if copies.get(name) != 1] == []
    assert [name for name, n in copies.items() if n > 1] == []
    assert all(share.values()), "a host took no part"
    assert len(share[1]) + len(share[3]) > len(share[2])


@test
def a_health_check_is_answered_and_not_logged():
    if not hosts:
        raise Skip("no network namespaces here")
    # A PROXY header that speaks for HAProxy itself, EHLO, QUIT.
    check = socket.create_connection((HOSTS[1], 25))
    check.sendall(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")
    got = talk(check, "EHLO balancer.example.com", "QUIT")
    assert codes(got) == "220 250 221", got
    for n in (1, 3):
        records = hosts.log(n)
        assert records, n
        assert [r for r in records if not re.search(
            rf"client={re.escape(CLIENT)}\b", r)] == []


if "SMTPD_NETNS" not in os.environ and subprocess.run(
        [*OWN, "true"], stderr=subprocess.DEVNULL).returncode == 0:
    os.environ["SMTPD_NETNS"] = "1"
    os.execvp(OWN[0], [*OWN, sys.executable, *sys.argv])
main()
