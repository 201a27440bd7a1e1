#!/usr/bin/env python3
"""container.t - units/Containerfile, without a container's engine: its files in
a root folder, its user, environment and commands, in namespaces of its own."""
import json
import os
import re
import shutil
import smtplib
import subprocess
import sys


if os.getuid() != 0:
    print("1..0 # SKIP only root can change the root folder")
    sys.exit(0)
if "IN_CONTAINER" not in os.environ:    # port 1025 is ours alone there
    os.environ["IN_CONTAINER"] = "yes"
    os.execvp("unshare", ["unshare", "--net", "--pid", "--fork",
                          "--kill-child", "--mount-proc", sys.executable,
                          *sys.argv])

from servers import Server
from tap import STATIC, folder, main, need, test

if not STATIC:
    print("1..0 # SKIP the container has the static smtpd: make STATIC=yes")
    sys.exit(0)

ROOT = folder()
HERE = {"/src/musl/smtpd": "musl/smtpd", "/bin/busybox": "/bin/busybox"}


def instructions():
    """What follows `FROM scratch', as (word, the rest)."""
    with open("units/Containerfile") as file:
        text = re.sub(r"(?m)^#.*\n", "", file.read()).replace("\\\n", " ")
    for line in text.partition("\nFROM scratch\n")[2].split("\n"):
        word, _, rest = line.partition(" ")
        if word:
            yield word, rest.strip()


class Container:
    def __init__(self):
        self.env = {}
        for word, rest in instructions():
            if word == "COPY":
                *options, source, to = rest.split()
                if source in HERE:
                    shutil.copy(HERE[source], ROOT + to)
                else:
                    os.mkdir(ROOT + to)
                for option in options:
                    if option.startswith("--chown="):
                        user, group = option[8:].split(":")
                        os.chown(ROOT + to, int(user), int(group))
            elif word == "ENV":
                name, _, value = rest.partition("=")
                self.env[name] = value
            elif word == "USER":
                self.user = rest
            elif word == "EXPOSE":
                self.port = int(rest)
            elif word == "HEALTHCHECK":
                self.health = json.loads(rest.partition(" CMD ")[2])
            elif word == "CMD":
                self.command = json.loads(rest)

    def argv(self, command, user=None):
        user = user or self.user
        return ["env", "-i", *[f"{k}={v}" for k, v in self.env.items()],
                "/usr/sbin/chroot", f"--userspec={user}:{user}", ROOT,
                *command]

    def healthy(self):
        return subprocess.run(self.argv(self.health),
                              capture_output=True).returncode == 0


@test
def the_health_check_waits_for_a_server_that_takes_and_shows_mail():
    need("busybox", "ip")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    container = Container()
    assert not container.healthy()
    with Server(*container.argv(container.command)) as server:
        while not container.healthy():
            assert server.process.poll() is None
        for number in range(2):
            with smtplib.SMTP("127.0.0.1", container.port) as client:
                client.sendmail("me@example.org", ["you@example.net"],
                                f"Subject: {number}\r\n\r\nIt works.")
            server.await_line("^==> me@example.org to you@example.net\n"
                              f"    Subject: {number}\n")
        with smtplib.SMTP("127.0.0.1", container.port) as client:
            client.sendmail("me@example.org", ["you@example.net"],
                            "Subject: large\r\nContent-Disposition: attachment"
                            "\r\n\r\n" + "x\r\n" * 1000000)
        server.await_line("    Subject: large\n"
                          "    attachment text/plain 2.0 MB\n")
        assert container.healthy()
    assert "event=client-lost" not in server.text, server.text[:2000]
    assert len(os.listdir(f"{ROOT}/mail/new")) == 3
    assert not container.healthy()


@test
def another_user_and_rules_are_possible():
    container = Container.__new__(Container)
    container.env, container.user = {"TMPDIR": "/mail"}, "1001"
    shutil.rmtree(f"{ROOT}/mail")
    os.mkdir(f"{ROOT}/mail")
    os.chown(f"{ROOT}/mail", 1001, 1001)
    with open(f"{ROOT}/mail/rules", "w") as file:
        file.write("RCPT full@* 452 4.2.2 Mailbox full\n")
    with open("units/Containerfile") as file:
        text = re.sub(r"\\\n#\s*", "", file.read())
    command = re.search(r"docker run \.\.\. smtpd (.*)", text)[1].split()
    with Server(*container.argv(command)):
        while True:
            try:
                client = smtplib.SMTP("127.0.0.1", 1025)
                break
            except ConnectionRefusedError:
                pass
        with client:
            assert client.sendmail("me@example.org", [
                "you@example.net", "full@example.net"], "x") == {
                    "full@example.net": (452, b"4.2.2 Mailbox full")}
    name, = os.listdir(f"{ROOT}/mail/new")
    assert os.stat(f"{ROOT}/mail/new/{name}").st_uid == 1001


if __name__ == "__main__":
    main()
