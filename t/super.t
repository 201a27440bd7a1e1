#!/usr/bin/env python3
"""super.t - inetd, xinetd, tcpserver under s6 and busybox, each by its example
in smtpd-recipes(7), which is that of units/: a client hears replies and nothing
else, and what it hands over is delivered."""
import glob
import os
import pwd
import re
import socket
import subprocess

from servers import (MAIL, TAKEN, Server, codes, message, replaced, spew, talk,
                     tool)
from tap import SMTPD, folder, free_port, main, need, script, test
from text import manual, under

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


def printed(name):
    """What the manual has a reader write into the file of that name."""
    for text in under(manual("units/smtpd-recipes.7"), "Without systemd"):
        if found := re.search(
                rf"(?m)^cat >>?\S*/{name} <<'EOF'\n((?s:.*?))^EOF$", text):
            return found[1]
    raise AssertionError(f"the manual has no file {name}")


@test
def the_files_of_units_have_comments_and_what_the_manual_has():
    for file, name in (("tcpserver.run", "run"), ("xinetd.conf", "smtp"),
                       ("inetd.conf", "inetd.conf")):
        with open(f"units/{file}") as f:
            bare = re.sub(r"(?m)^#(?!!).*\n", "", f.read())
        assert bare.replace("@SBINDIR@", "@PREFIX@/sbin") == printed(name), file


def user():
    return pwd.getpwuid(os.getuid()).pw_name


@test
def inetd_by_its_example():
    inetd = tool("openbsd-inetd", "usr/sbin/inetd")
    services = Services()
    config = ""
    for name, port in services.port.items():
        config += replaced(printed("inetd.conf"), {
            "smtp stream": f"127.0.0.1:{port} stream", " root ": f" {user()} ",
            "@PREFIX@/sbin/smtpd": SMTPD,
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
        config += replaced(printed("smtp"), {
            "service smtp\n{": f"service {name}\n{{\n\ttype = UNLISTED\n"
                               f"\tbind = 127.0.0.1\n\tport = {port}",
            "= root\n": f"= {user()}\n", "@PREFIX@/sbin/smtpd": SMTPD,
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


def tcpserver_runs(services, name, tcpserver):
    """The file `run' of a service; -1 has tcpserver say that it listens."""
    return replaced(printed("run"), {
        "exec tcpserver": f"exec {tcpserver} -1",
        " 0 25 ": f" 127.0.0.1 {services.port[name]} ",
        "@PREFIX@/sbin/smtpd": SMTPD,
        "--live --relay-domains example.org smtp:[192.0.2.1]:25":
            services.arguments[name]})


@test
def tcpserver_by_its_example_with_a_log_that_tells_it_all():
    tcpserver = tool("ucspi-tcp", "usr/bin/tcpserver")
    services = Services()
    server = {}
    try:
        for name, port in services.port.items():
            run = spew(f"{services.where}/{name}.run",
                       tcpserver_runs(services, name, tcpserver))
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


@test
def s6_starts_a_tcpserver_and_another_when_it_is_killed():
    tcpserver = tool("ucspi-tcp", "usr/bin/tcpserver")
    s6 = os.path.dirname(tool("s6", "usr/bin/s6-svscan"))
    services = Services()
    for name in services.port:
        os.makedirs(f"{services.where}/service/{name}")
        run = spew(f"{services.where}/service/{name}/run",
                   tcpserver_runs(services, name, tcpserver))
        os.chmod(run, 0o755)
    with Server("env", f"PATH={s6}:{os.environ['PATH']}", "s6-svscan",
                f"{services.where}/service") as server:
        try:
            for port in services.port.values():
                server.seen = 0
                server.await_line(f"^{port}$")
            server.seen = len(server.text)
            # By its supervisor, which knows the process better than its status.
            subprocess.run([f"{s6}/s6-svc", "-k",
                            f"{services.where}/service/plain"], check=True)
            server.await_line(f"^{services.port['plain']}$")
            services.converse()
            server.await_line("event=message-relayed")
        finally:
            server.process.terminate()
            server.process.wait()


@test
def busybox_by_its_example():
    need("busybox")
    line, = [text for text in under(manual("units/smtpd-recipes.7"),
                                    "Without systemd")
             if text.startswith("busybox ")]
    port = free_port()
    with Server(*replaced(line, {"2525": str(port),
                                 "@PREFIX@/sbin/smtpd": SMTPD}).split()) as it:
        while True:
            assert it.process.poll() is None
            try:
                s = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:      # it does not listen yet
                pass
        assert codes(talk(s, *message("through busybox"))) == TAKEN


main()
