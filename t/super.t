#!/usr/bin/env python3
"""super.t - inetd, xinetd and tcpserver, each by its example in units/: a
client hears replies and nothing else, and what it hands over is delivered."""
import glob
import os
import pwd
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import (MAIL, TAKEN, Server, codes, example, free_port, message,
                     spew, talk, tool)
from tap import SMTPD, folder, main, script, test

AWAY = b"421 4.3.5 Local configuration error\r\n"


class Services:
    """What each super-server runs: by name, smtpd's arguments and a port."""

    def __init__(self):
        self.where = folder()
        self.box = f"{self.where}/Maildir"
        os.mkdir(self.box, 0o700)
        if os.getuid() == 0:
            os.chown(self.box, pwd.getpwnam("nobody").pw_uid, -1)
        program = script(self.where, """cat >/dev/null
echo NOISE on standard error >&2
echo taken
echo NOISE on standard output""")
        self.arguments = {
            "plain": f"maildir:{self.box}",
            "chatty": f"--debug -- /bin/sh {program}",
            "wrong": f"--no-such-option maildir:{self.box}"}
        self.port = {name: free_port() for name in self.arguments}

    def delivered(self):
        return glob.glob(f"{self.box}/new/*")

    def converse(self):
        """The same with each super-server.  The records of all that happens
        may go anywhere but to the client."""
        got = talk(self.port["plain"], *message("through a super-server"))
        assert codes(got) == TAKEN, got
        assert len(self.delivered()) == 1
        with open(self.delivered()[0]) as f:
            text = f.read()
        assert text.endswith("\nSubject: through a super-server\n\nbody\n")
        assert re.search(r"^Received: from client\.example\.com "
                         r".*\[127\.0\.0\.1\]", text, re.M), text

        # With all of the log on, the client gets replies and nothing else.
        got = talk(self.port["chatty"], *message("to a program that talks"))
        assert codes(got) == TAKEN, got
        assert not re.search(rb"event=|NOISE|smtpd:|option", got), got

        # Of a message whose client goes away nothing is delivered.
        got = talk(self.port["plain"], *MAIL, None)
        assert codes(got) == "220 250 250 250 354", got
        assert len(self.delivered()) == 1

        # Of a wrong command line the client learns that it is wrong.
        assert talk(self.port["wrong"]) == AWAY


def user():
    return pwd.getpwuid(os.getuid()).pw_name


@test
def inetd_by_its_example():
    inetd = tool("openbsd-inetd", "usr/sbin/inetd")
    services = Services()
    config = ""
    for name, port in services.port.items():
        config += example("inetd.conf", {
            "\nsmtp ": f"\n127.0.0.1:{port} ", " root ": f" {user()} ",
            "@SBINDIR@/smtpd": SMTPD,
            "--live --relay-domains example.org smtp:[192.0.2.1]:25":
                services.arguments[name]})
    # inetd names each service before it listens for it, so one more is the
    # sign that the others are there.
    last = free_port()
    config += f"127.0.0.1:{last} stream tcp nowait nobody /bin/cat cat\n"
    with Server("stdbuf", "-oL", inetd, "-d",
                spew(f"{services.where}/inetd.conf", config)) as server:
        server.await_line(rf"^ADD: 127\.0\.0\.1:{last} ")
        services.converse()


@test
def xinetd_by_its_example():
    xinetd = tool("xinetd", "usr/sbin/xinetd")
    services = Services()
    config = ""
    for name, port in services.port.items():
        config += example("xinetd.conf", {
            "service smtp\n{": f"service {name}\n{{\n\ttype = UNLISTED\n"
                               f"\tbind = 127.0.0.1\n\tport = {port}",
            "= root\n": f"= {user()}\n", "@SBINDIR@/smtpd": SMTPD,
            "--live --relay-domains example.org smtp:[192.0.2.1]:25":
                services.arguments[name]})
    # Its log is a file, or nothing: so let the file be what we wait for.
    os.mkfifo(f"{services.where}/log", 0o600)
    with open(f"{services.where}/log", "r+b", buffering=0) as log, Server(
            xinetd, "-dontfork", "-filelog", f"{services.where}/log",
            "-pidfile", f"{services.where}/pid", "-f",
            spew(f"{services.where}/xinetd.conf", config), log=log) as server:
        server.await_line("Started working: 3 available services")
        services.converse()


@test
def tcpserver_by_its_example_with_a_log_that_tells_it_all():
    tcpserver = tool("ucspi-tcp", "usr/bin/tcpserver")
    services = Services()
    server = {}
    try:
        # -1 has tcpserver say that it listens.
        for name, port in services.port.items():
            run = spew(f"{services.where}/{name}.run", example(
                "tcpserver.run", {
                    "exec tcpserver": f"exec {tcpserver} -1",
                    " 0 25 ": f" 127.0.0.1 {port} ",
                    "@SBINDIR@/smtpd": SMTPD,
                    "--live --relay-domains example.org smtp:[192.0.2.1]:25":
                services.arguments[name]}))
            os.chmod(run, 0o755)
            server[name] = Server(run)
            server[name].await_line(f"^{port}$")
        services.converse()
        server["plain"].await_line(
            r"event=message-relayed .*client=127\.0\.0\.1")
        server["plain"].await_line(r"event=client-lost .*client=127\.0\.0\.1")
        server["chatty"].await_line("NOISE on standard error")
        server["wrong"].await_line("^smtpd: .*--no-such-option")
    finally:
        for one in server.values():
            one.__exit__()


main()
