#!/usr/bin/env python3
"""examples.t - libsmtpd-channel and t/examples, as an embedder has them."""
import glob
import os
import re
import resource
import signal
import smtplib
import socket
import subprocess
import sys
import threading

from tap import SMTPD, folder, lines, main, message, need, test
from text import manual

CLIENTS = 10000
MOST = 16 * 1024        # octets of memory of an idle client: loop.c says so
SCRIPT = lines("EHLO client.example.org", "MAIL FROM:<a@example.org>",
               "RCPT TO:<nobody@example.org>", "RCPT TO:<b@example.org>",
               "DATA", "Subject: a cat", "", "..dot", ".", "QUIT")
LIBRARY, = glob.glob(os.path.abspath("libsmtpd-channel.so.*"))


def codes(replies):
    """The codes of whole replies, and the last line but one."""
    got = replies.decode().split("\r\n")
    assert got.pop() == "", replies
    return [g[:3] for g in got if g[3] != "-"], got[-2]


class Loop:
    def __init__(self, *options):
        self.process = subprocess.Popen(
            ["t/out/loop", *options, "0"], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port))
        return s, s.makefile("rb")

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) * 1024


@test
def one_process_serves_clients_that_talk_at_once():
    with Loop("-v") as loop:
        clients = [smtplib.SMTP("127.0.0.1", loop.port) for _ in range(20)]
        text = "Subject: x\r\n\r\n" + ".y\r\n" * 50000
        for number, c in enumerate(clients):
            assert c.ehlo()[0] == 250
            assert c.mail(f"c{number}@example.org")[0] == 250
        for c in clients:
            assert c.rcpt("b@example.org")[0] == 250
        threads = [threading.Thread(target=c.data, args=(text,))
                   for c in clients]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        said = sorted(loop.process.stdout.readline() for _ in clients)
        assert said == sorted(
            f"127.0.0.1: <c{n}@example.org> to 1, {14 + 4 * 50000} octets\n"
            for n in range(20)), said
        for c in clients:
            assert c.quit()[0] == 221


@test
def a_client_that_does_not_read_is_not_read_from_and_loses_nothing():
    count = 200000
    with Loop() as loop:
        s, read = loop.connect()
        before = loop.resident()
        sender = threading.Thread(
            target=s.sendall, args=(b"NOOP\r\n" * count + b"QUIT\r\n",))
        sender.start()
        other, answer = loop.connect()      # others do not wait for it
        other.sendall(SCRIPT)
        assert answer.read().endswith(b"Bye\r\n")
        assert loop.resident() - before < 1000000
        got = read.read()
        sender.join()
        assert got.count(b"250 OK\r\n") + got.count(b"250 2.0.0 OK\r\n") == \
            count, got[:200]
        assert got.endswith(b"221 loop.example.org Bye\r\n")
        for each in (s, read, other, answer):
            each.close()


@test
def ten_thousand_idle_clients_cost_what_is_said():
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = CLIENTS + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (want, max(want, files[1])))
    with Loop() as loop:
        clients = []
        before = loop.resident()
        for _ in range(CLIENTS):
            s = socket.create_connection(("127.0.0.1", loop.port))
            s.sendall(lines("EHLO client.example.org"))
            clients.append(s)
        for s in clients:
            got = b""
            while b"250 HELP\r\n" not in got:
                got += s.recv(4096)
        each = (loop.resident() - before) / CLIENTS
        print(f"# {each:.0f} octets for each of {CLIENTS} idle clients")
        assert each < MOST, each
        loop.process.send_signal(signal.SIGTERM)
        for s in clients:
            assert s.recv(4096).startswith(b"421 4.3.2 "), "no 421"
            s.close()
        assert loop.process.wait() == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[0], max(want, files[1])))


@test
def the_server_in_the_manual_compiles_without_a_warning_and_serves():
    program = os.path.join(folder(), "server")
    source, = [text for _, text in manual("src/channel/smtpd-channel.3",
                                          "EXAMPLES")]
    subprocess.run(["cc", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall",
                    "-Wextra", "-Wno-unused-parameter", "-Werror", "-I.",
                    "-Isrc", "-xc", "-", "-xnone", "libsmtpd-channel.a", "-o",
                    program], input=source, text=True, check=True)
    got = subprocess.run([program], capture_output=True, check=True,
                         input=lines("EHLO client.example.org") + message(
                             "Subject: x", "", "y",
                             to=("a@example.org", "echo@example.org")) +
                         lines("QUIT"))
    assert codes(got.stdout) == (
        ["220", "250", "250", "550", "250", "354", "250", "221"],
        "250 2.0.0 Message accepted"), got


@test
def from_CXX_a_hook_is_a_virtual_function():
    got = subprocess.run(["t/out/server"], input=SCRIPT,
                         capture_output=True)
    assert codes(got.stdout) == (
        ["220", "250", "250", "550", "250", "354", "250", "221"],
        "250 2.0.0 24 octets to 1"), got


@test
def from_Python_a_hook_is_a_method():
    got = subprocess.run(
        [sys.executable, "t/examples/channel.py", LIBRARY], input=SCRIPT,
        capture_output=True)
    assert codes(got.stdout) == (
        ["220", "250", "250", "550", "250", "354", "250", "221"],
        "250 2.0.0 Thanks for a cat"), got


@test
def an_incomplete_command_is_waited_for():
    for command in ["t/out/server"], [sys.executable,
                                      "t/examples/channel.py", LIBRARY]:
        with subprocess.Popen(command, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, bufsize=0) as server:
            read = server.stdout
            assert read.readline().startswith(b"220 "), command
            server.stdin.write(b"NOOP\r\nRS")
            assert read.readline().startswith(b"250 "), command
            server.stdin.write(b"E")
            server.stdin.write(b"T\r\n")
            assert read.readline().startswith(b"250 "), command
            server.stdin.close()
            assert read.read() == b"", command


@test
def programs_that_send_mail_are_tested_with_unittest():
    done = subprocess.run([sys.executable, "t/examples/test_mail.py"],
                          env={**os.environ, "SMTPD": SMTPD},
                          capture_output=True, text=True)
    assert done.returncode == 0 and "Ran 3 tests" in done.stderr, done


@test
def programs_that_send_mail_are_tested_with_Nodes_runner():
    need("node")
    done = subprocess.run(["node", "--test", "--test-reporter=tap",
                           "t/examples/mail.test.mjs"],
                          env={**os.environ, "SMTPD": SMTPD},
                          capture_output=True, text=True)
    assert done.returncode == 0 and "# pass 2" in done.stdout, done


@test
def what_is_installed_builds_an_example_by_pkg_config():
    place = folder()
    with open(".built") as file:        # nothing may be built again
        prefix, version, with_systemd, static = file.read().split()
    subprocess.run(["make", "-s", "install", f"DESTDIR={place}",
                    f"PREFIX={prefix}", f"VERSION={version}",
                    f"WITH_SYSTEMD={with_systemd}", f"STATIC={static}"],
                   check=True, capture_output=True)
    env = {**os.environ, "PKG_CONFIG_SYSROOT_DIR": place,
           "PKG_CONFIG_PATH": f"{place}{prefix}/lib/pkgconfig"}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "smtpd-channel"], env=env,
        capture_output=True, text=True, check=True).stdout.split()
    for name, more in ("shared", []), ("static", ["-static"]):
        subprocess.run(["cc", "t/ping.c", "-o", f"{place}/{name}", *flags,
                        *more], check=True)
        got = subprocess.run(
            [f"{place}/{name}"], input=lines("PING x", "QUIT"),
            capture_output=True,
            env={**env, "LD_LIBRARY_PATH": f"{place}{prefix}/lib"})
        assert codes(got.stdout) == (["220", "250", "221"],
                                     "250 Pong x"), (name, got)


@test
def nothing_but_what_is_promised_can_be_seen():
    with open("src/channel/exports.map") as file:
        promised = set(re.findall(r"^\t(\w+);$", file.read(), re.M))
    for name, option in (LIBRARY, "-D"), ("libsmtpd-channel.a", "-g"):
        listed = subprocess.run(["nm", option, "--defined-only", name],
                                capture_output=True, text=True, check=True)
        seen = set(re.findall(r" [TDBRVW] (\w+)", listed.stdout))
        assert seen == promised, (name, seen ^ promised)


if __name__ == "__main__":
    main()
