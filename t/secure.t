#!/usr/bin/env python3
"""secure.t - TLS, AUTH, PROXY, XCLIENT and policy from the command line, with
Python's ssl and smtplib, openssl, swaks and curl as clients."""
import base64
import ctypes
import glob
import os
import re
import select
import shutil
import smtplib
import socket
import ssl
import struct
import subprocess

from fakes.server import Server
from tap import (HELLO, SANITIZED, SMTPD, Listener, PolicyService, Session,
                 Skip, certificate, closed_port, folder, lines, main, message,
                 need, script, tcp_pair, test, test_if_static, test_late,
                 test_unless_static, whole_calls)

need("openssl")
PLACE = folder()
ROOT = os.geteuid() == 0
PASSWORD = "Swordfish.123"      # what must be seen nowhere
PROTOCOLS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2,
             "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def path(name):
    return os.path.join(PLACE, name)


def make_certificates():
    name = ["-addext", "subjectAltName=DNS:mx.example.org,DNS:localhost,"
            "IP:127.0.0.1"]
    certificate(PLACE, "ca", "Test CA")
    certificate(PLACE, "other", "Other CA")
    certificate(PLACE, "ec", "mx.example.org", *name, ca="ca")
    certificate(PLACE, "rsa", "mx.example.org", *name, ca="ca", kind="rsa")
    certificate(PLACE, "elsewhere", "elsewhere.example.net", "-addext",
                "subjectAltName=DNS:elsewhere.example.net", ca="ca")
    certificate(PLACE, "client", "client.example.org", ca="ca")
    certificate(PLACE, "stranger", "client.example.org", ca="other")
    for key in glob.glob(path("*.key")):
        os.chmod(key, 0o644)
    with open(path("empty.pem"), "w"):
        pass


def hashed(prefix):
    """PASSWORD by crypt(3), by the method that prefix names."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    made = crypt(PASSWORD.encode(), f"{prefix}saltsaltsalt".encode()).decode()
    assert made.startswith(prefix), made
    return made


def make_passwords():
    with open(path("passwords"), "w") as f:
        f.write(f"# name:hash\nuser:{hashed('$6$')}\n"
                f"yes:{hashed('$6$')}:more\n")


def tls(name="ec"):
    return ["--tlscert", path(name + ".pem"), "--tlskey", path(name + ".key")]


def context(version=None, certificate_of=None):
    made = ssl.create_default_context(cafile=path("ca.pem"))
    if version:
        made.minimum_version = made.maximum_version = PROTOCOLS[version]
    if certificate_of:
        made.load_cert_chain(path(certificate_of + ".pem"),
                             path(certificate_of + ".key"))
    return made


class Secure(Session):
    """A session that may turn to TLS, in a process group of its own: the TLS
    engine is nobody's child."""

    def __init__(self, *arguments, wrap=(), **more):
        super().__init__(*arguments, wrap=("setsid", *wrap), **more)

    def pids(self):
        """All processes, ours first, with descriptors that tell their end."""
        found = {}
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/stat") as f:
                    group = int(f.read().rpartition(")")[2].split()[2])
                if group == self.process.pid:
                    found[int(name)] = os.pidfd_open(int(name))
            except (OSError, ValueError):
                pass
        return dict(sorted(found.items(), key=lambda p: (
            p[0] != self.process.pid, p[0])))

    def handshake(self, made=None, name="mx.example.org"):
        self.read.close()
        self.socket = (made or context()).wrap_socket(self.socket,
                                                      server_hostname=name)
        self.read = self.socket.makefile("rb")
        return self

    def starttls(self, made=None, name="mx.example.org"):
        assert "\n250-STARTTLS\n" in self.start()
        assert self.say("STARTTLS") == ["220 2.0.0 Ready to start TLS"]
        self.handshake(made, name)
        self.send(lines(HELLO))
        return self.reply()


def wait_for_all(pids):
    """Until all of them are over; hangs if they do not end."""
    for fd in pids.values():
        select.select([fd], [], [])
        os.close(fd)


def received(log):
    """The trace header in it, unfolded."""
    found = re.findall(r"^Received: .*(?:\n\t.*)*", log, re.M)
    assert len(found) == 1, log
    return found[0].replace("\n\t", " ")


def plain(user="user", password=PASSWORD, mechanism="AUTH PLAIN "):
    return mechanism + b64(f"\0{user}\0{password}")


def b64(text):
    return base64.b64encode(text.encode()).decode()


FILE = ["--auth", "file:" + path("passwords")]
CLEAR = FILE + ["--no-auth-require-tls"]


# --- TLS

@test
def starttls_in_both_versions_with_both_kinds_of_certificate():
    for kind in ("ec", "rsa"):
        for version in PROTOCOLS:
            with Secure(*tls(kind), "print:") as s:
                greeting = s.starttls(context(version))
                assert "STARTTLS" not in greeting, greeting
                used, cipher = s.socket.version(), s.socket.cipher()[0]
                assert s.deliver()[:9] == "250 2.0.0"
                status, log = s.finish()
            assert status == 0 and used == version
            assert f"with ESMTPS ({version} {cipher}) id " in received(log)


@test
def a_probe_of_smtps_that_leaves_is_one_record_at_debug_level():
    for reset in (True, False):
        for debug in (True, False):
            client, theirs = tcp_pair()
            if reset:       # as HAProxy's check of TCP does
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                  b"\1\0\0\0\0\0\0\0")
            client.close()
            done = subprocess.run(
                [SMTPD, *["-d"] * debug, *tls(), "--smtps", "discard:"],
                stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
                check=True)
            theirs.close()
            assert done.stderr.count(b"event=") == debug, done
            assert done.stderr.count(b"event=session ") == debug, done


@test
def smtps_in_both_versions_with_both_kinds_of_certificate():
    for kind in ("ec", "rsa"):
        for version in PROTOCOLS:
            with Secure(*tls(kind), "--smtps", "print:") as s:
                s.handshake(context(version))
                assert "STARTTLS" not in s.start()
                cipher = s.socket.cipher()[0]
                assert s.deliver()[:9] == "250 2.0.0"
                status, log = s.finish()
            assert status == 0
            assert f"with ESMTPS ({version} {cipher}) id " in received(log)


@test
def tls_older_than_1_2_is_not_spoken():
    with Listener(*tls(), "discard:") as server:
        done = subprocess.run(
            ["openssl", "s_client", "-starttls", "smtp", "-tls1_1", "-cipher",
             "ALL:@SECLEVEL=0", "-connect", f"127.0.0.1:{server.port}"],
            input=b"", capture_output=True)
        assert done.returncode != 0, done
        assert "handshake failed: unsupported protocol" in server.logged()


@test
def programs_learn_about_tls():
    place = folder()
    program = script(place, f"env >{place}/env")
    with Secure(*tls(), "--", program) as s:
        s.starttls(name="localhost")
        cipher = s.socket.cipher()[0]
        assert s.deliver()[:9] == "250 2.0.0"
        s.finish()
    with open(f"{place}/env") as f:
        facts = dict(line.rstrip("\n").split("=", 1) for line in f
                     if "=" in line)
    assert facts["TLS_PROTOCOL"] == "TLSv1.3", facts
    assert facts["TLS_CIPHER"] == cipher, facts
    assert facts["TLS_SNI"] == "localhost", facts
    assert facts["CLIENT_PROTOCOL"] == "ESMTPS", facts
    assert facts.get("TLS_SUBJECT", "") == "", facts
    shutil.rmtree(place)


@test
def a_clients_certificate_is_verified_and_its_name_handed_on():
    place = folder()
    program = script(place, f"env >{place}/env")
    for name, subject in (("client", "client.example.org"), ("stranger", ""),
                          (None, "")):
        with PolicyService(place) as service, \
             Secure(*tls(), "--tls-ca", path("ca.pem"), "--policy",
                    service.place, "--", program) as s:
            s.starttls(context(certificate_of=name))
            assert s.deliver()[:9] == "250 2.0.0"
            s.finish()
            asked = service.asked[-1]
        os.unlink(f"{place}/policy")
        with open(f"{place}/env") as f:
            seen = re.findall(r"^TLS_SUBJECT=(.*)$", f.read(), re.M)
        assert seen == [subject], (name, seen)
        assert asked["ccert_subject"] == subject, asked
        assert bool(asked["ccert_fingerprint"]) == bool(subject), asked
        assert asked["encryption_protocol"] == "TLSv1.3", asked
        assert asked["encryption_keysize"] == "256", asked
    shutil.rmtree(place)


@test
def what_is_pipelined_after_starttls_is_dropped():
    with Secure(*tls(), "print:") as s:
        s.start()
        s.send(lines("STARTTLS", "MAIL FROM:<evil@example.net>", "RSET"))
        assert s.reply()[:3] == "220"
        s.handshake()
        assert s.say("MAIL FROM:<a@b>")[0][:4] == "503 "
        s.send(lines(HELLO))
        assert s.reply()[:4] == "250-"
        assert s.deliver()[:9] == "250 2.0.0"
        _, log = s.finish()
        assert "evil" not in log


@test
def what_was_said_in_the_clear_is_forgotten():
    with Secure(*tls(), *CLEAR, "print:") as s:
        s.start()
        assert s.say(plain())[0][:3] == "235"
        assert s.say("STARTTLS")[0][:3] == "220"
        s.handshake()
        for command in ("MAIL FROM:<a@b>", plain()):
            assert s.say(command)[0][:4] == "503 ", command
        s.send(lines(HELLO))
        assert "\n250-AUTH PLAIN LOGIN" in s.reply()
        s.deliver()
        _, log = s.finish()
        assert " with ESMTPS (" in received(log)    # not ESMTPSA
        assert s.process.returncode == 0


@test
def starttls_is_refused_where_it_makes_no_sense():
    with Secure(*tls(), "discard:") as s:
        assert s.reply()[:4] == "220 "
        assert s.say("STARTTLS x") == ["501 Syntax: STARTTLS"]
        s.send(lines(HELLO))
        s.reply()
        assert s.say("MAIL FROM:<a@b>", "STARTTLS")[1][:4] == "503 "
        assert s.say("RSET", "STARTTLS")[1][:4] == "220 "
        s.handshake()
        s.send(lines(HELLO))
        s.reply()
        assert s.say("STARTTLS")[0][:4] == "503 "
        s.finish()


@test
def require_tls_refuses_mail_in_the_clear():
    with Secure(*tls(), "--require-tls", "discard:") as s:
        s.start()
        for command in ("MAIL FROM:<a@b>", "VRFY a"):
            assert s.say(command)[0][:9] == "530 5.7.0", command
        assert s.say("NOOP") == ["250 2.0.0 OK"]
        assert s.say("STARTTLS")[0][:3] == "220"
        s.handshake()
        s.send(lines(HELLO))
        s.reply()
        assert s.deliver()[:9] == "250 2.0.0"
        s.finish()


# --- TLS that cannot be

@test
def without_certificate_or_key_there_is_no_starttls():
    os.mkdir(path("folder"))
    for cert, key, why in (
            ("none.pem", "ec.key", "No such file"),
            ("ec.pem", "none.key", "No such file"),
            ("folder", "ec.key", "--tlscert %s: Is a directory"),
            ("ec.pem", "folder", "--tlskey %s: Is a directory")):
        arguments = ["--tlscert", path(cert), "--tlskey", path(key)]
        with Session(*arguments, "discard:") as s:
            assert "STARTTLS" not in s.start(), arguments
            assert s.say("STARTTLS")[0][:9] == "454 4.7.0"
            assert s.deliver()[:9] == "250 2.0.0"
            status, log = s.finish()
        assert status == 0 and "event=config-error" in log, log
        assert why.replace("%s", path("folder")) in log, log
        with Session(*arguments, "--require-tls", "discard:") as s:
            s.start()
            assert s.say("MAIL FROM:<a@b>")[0][:9] == "454 4.7.0"
            s.finish()
        with Session(*arguments, "--smtps", "discard:") as s:
            assert s.read.read() == b""
            assert s.process.wait() == 78
            assert ("event=config-error client=unix text=\"--smtps: the "
                    "connection is closed: TLS is not offered: --tls"
                    ) in s.logged(), s.logged()


@test
def a_certificate_that_makes_no_sense_ends_the_handshake_with_a_word():
    match = "does not match the certificate"
    for cert, key, word in (
            ("ec.pem", "rsa.key", f"/rsa.key {match} {PLACE}/ec.pem"),
            ("empty.pem", "ec.key", "/empty.pem is not one in PEM form"),
            ("ec.pem", "empty.pem", "/empty.pem is not an unencrypted private "
             "key in PEM form"),
            ("passwords", "ec.key", "/passwords is not one in PEM form")):
        with Session("--tlscert", path(cert), "--tlskey", path(key),
                     "discard:") as s:
            s.start()
            assert s.say("STARTTLS")[0][:4] == "220 "
            assert s.read.read() == b""
            s.process.wait()
            log = s.logged()
            for event in "tls-failed", "config-error":
                assert word in re.search(f"event={event} .*", log)[0], log
        with Session("--tlscert", path(cert), "--tlskey", path(key),
                     "--smtps", "discard:") as s:
            assert s.read.read() == b""
            s.process.wait()
            assert word in re.search("event=config-error .*",
                                     s.logged())[0], s.logged()


@test
def bad_handshakes_are_logged_and_leave_nothing_behind():
    for octets in (b"EHLO x\r\nMAIL FROM:<a@b>\r\n", b"\0" * 64, b"",
                   b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x04abcd",
                   b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\n" * 1500):
        for arguments in (["--smtps"], []):
            with Secure(*tls(), *arguments, "print:") as s:
                if not arguments:
                    s.start()
                    assert s.say("STARTTLS")[0][:3] == "220"
                pids = s.pids()
                s.send(octets)
                s.socket.shutdown(socket.SHUT_WR)
                rest = s.read.read()    # its end is no reset
                assert b"220" not in rest and b"250" not in rest, rest
                assert s.process.wait() == 0
                log = s.logged()
                probe = octets == b"" and arguments
                assert ("event=tls-failed" in log) == (not probe), (
                    octets, log)
                assert "event=config-error" not in log, (octets, log)
                wait_for_all({**pids, **s.pids()})


@test
def a_client_that_vanishes_within_tls_leaves_nothing_behind():
    for half in (b"", lines("MAIL FROM:<a@b>"),
                 message("Subject: x", "", "half")[:-3]):
        with Secure(*tls(), "print:") as s:
            s.starttls()
            s.send(half)
            if b"DATA" in half:
                s.replies(3)
            elif half:
                s.reply()
            pids = s.pids()
            assert len(pids) == 3, pids
            s.read.close()
            s.socket.close()    # no close_notify
            assert s.process.wait() == 0
            wait_for_all(pids)
            log = s.logged()
            assert "MESSAGE FOLLOWS" not in log, log
            assert ("event=client-lost" in log) == (half != b""), log
            s.read, s.socket = open(os.devnull), open(os.devnull)


@test
def an_idle_client_is_told_so_within_tls():
    with Secure(*tls(), "-t", "1", "discard:") as s:
        s.starttls()
        assert s.reply()[:9] == "421 4.4.2"
        assert s.read.read() == b""
        s.leave()
        assert s.process.wait() == 0


# --- clients that people have

def delivered(server, word):
    log = server.logged()
    assert f"Subject: {word}\n" in log, log
    return log


@test
def openssl_s_client_speaks_starttls_and_smtps():
    dialogue = lines("EHLO openssl") + message("Subject: openssl", "", "y") + \
        lines("QUIT")
    for kind in ("ec", "rsa"):
        for version in ("-tls1_2", "-tls1_3"):
            for start in (["-starttls", "smtp"], []):
                more = [] if start else ["--smtps"]
                with Listener(*tls(kind), *more, "print:") as server:
                    done = subprocess.run(
                        ["openssl", "s_client", "-quiet",
                         "-verify_return_error", "-CAfile", path("ca.pem"),
                         "-verify_hostname", "mx.example.org", version, *start,
                         "-connect", f"127.0.0.1:{server.port}"],
                        input=dialogue, capture_output=True)
                    assert b"\n221 2.0.0" in done.stdout, done
                    delivered(server, "openssl")


@test
def swaks_speaks_starttls_and_smtps_and_authenticates():
    need("swaks")
    if subprocess.run(["perl", "-MNet::SSLeay", "-e", "1"],
                      capture_output=True).returncode:
        raise Skip("swaks has no Net::SSLeay")
    for option, more in (("--tls", []), ("--tlsc", ["--smtps"])):
        for mechanism in ("PLAIN", "LOGIN"):
            with Listener(*tls(), *FILE, "--auth-required", *more,
                          "print:") as server:
                done = subprocess.run(
                    ["swaks", "--server", "127.0.0.1", "--port",
                     str(server.port), option, "--tls-verify", "--tls-ca-path",
                     path("ca.pem"), "--auth", mechanism, "--auth-user",
                     "user", "--auth-password", PASSWORD, "--from",
                     "swaks@example.org", "--to", "b@example.org", "--header",
                     "Subject: swaks"], capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
                assert " with ESMTPSA (" in received(delivered(server,
                                                               "swaks"))


@test
def curl_speaks_starttls_and_smtps_and_authenticates():
    need("curl")
    for scheme, more in (("smtp", []), ("smtps", ["--smtps"])):
        with Listener(*tls(), *FILE, "--auth-required", *more,
                      "print:") as server:
            subprocess.run(
                ["curl", "-sS", "--ssl-reqd", "--cacert", path("ca.pem"),
                 "--user", f"user:{PASSWORD}", "--mail-from",
                 "curl@example.org", "--mail-rcpt", "b@example.org", "-T", "-",
                 f"{scheme}://127.0.0.1:{server.port}"],
                input=b"Subject: curl\r\n\r\ny\r\n", check=True)
            assert " with ESMTPSA (" in received(delivered(server, "curl"))


@test_late
def smtplib_speaks_starttls_and_smtps_and_logs_in():
    with Listener(*tls(), *FILE, "--auth-required", "print:") as server:
        with smtplib.SMTP("localhost", server.port) as client:
            client.starttls(context=context())
            client.login("user", PASSWORD)
            client.sendmail("a@example.org", ["b@example.org"],
                            "Subject: smtplib\r\n\r\ny\r\n")
        assert " with ESMTPSA (" in received(delivered(server, "smtplib"))
    with Listener(*tls(), *FILE, "--smtps", "print:") as server:
        with smtplib.SMTP_SSL("localhost", server.port,
                              context=context()) as client:
            try:
                client.login("user", "wrong")
                assert False, "a wrong password is right"
            except smtplib.SMTPAuthenticationError as error:
                assert error.smtp_code == 535
            client.login("yes", PASSWORD)
            client.sendmail("a@example.org", ["b@example.org"],
                            "Subject: smtplib\r\n\r\ny\r\n")
        delivered(server, "smtplib")


# --- AUTH

@test
def plain_and_login_with_and_without_initial_response():
    name, word = b64("user"), b64(PASSWORD)
    once = b64(f"\0user\0{PASSWORD}")
    for commands, wanted in (
            (["AUTH PLAIN " + once], "235"),
            (["auth plain " + once], "235"),
            (["Auth pLaIn", once], "334 235"),
            (["AUTH LOGIN", name, word], "334 334 235"),
            (["AUTH login " + name, word], "334 235"),
            ([plain("yes")], "235"),
            (["AUTH PLAIN", "*"], "334 501"),
            (["AUTH LOGIN", name, "*"], "334 334 501"),
            (["AUTH PLAIN !!!"], "501"),
            (["AUTH PLAIN", "!!!"], "334 501"),
            (["AUTH LOGIN", "x"], "334 501"),
            (["AUTH PLAIN =", "NOOP"], "501 250"),
            (["AUTH"], "501"),
            (["AUTH PLAIN x y"], "501"),
            (["AUTH CRAM-MD5"], "504"),
            (["AUTH PLAIN " + "A" * 20000], "500")):
        with Session(*CLEAR, "discard:") as s:
            assert "\n250-AUTH PLAIN LOGIN" in s.start()
            got = [s.say(command)[0] for command in commands]
            assert [r[:3] for r in got] == wanted.split(), (commands, got)
            if wanted.endswith("235"):
                assert s.say("AUTH PLAIN")[0][:3] == "503"
                assert s.deliver()[:3] == "250"
            else:
                assert s.say("NOOP") == ["250 2.0.0 OK"]
            s.finish()


@test_late
def three_wrong_passwords_are_three_delays_and_the_end():
    with Session(*CLEAR, "discard:") as s:
        s.start()
        for wrong in (plain(password="wrong"), plain("nobody")):
            assert s.say(wrong)[0][:9] == "535 5.7.8"
        assert s.say(plain(password=""))[0].startswith(
            "421 4.7.0 mx.example.org ")
        assert s.read.read() == b"" and s.process.wait() == 0
        log = s.logged()
        assert log.count("event=auth-failed") == 3, log


def answered_late(number, least, most, source=CLEAR):
    """The answers to so many wrong passwords at once are not there before
    monitor and session have waited: strace shows how long, in milliseconds,
    and not a clock of ours."""
    need("strace")
    file = os.path.join(folder(), "trace")
    with Session(*source, "discard:", wrap=(
            "strace", "-f", "-qq", "-o", file, "-e",
            "trace=poll,sendto")) as s:
        s.start()
        said = s.say(*[plain(password="wrong")] * number)
        assert [r[:3] for r in said] == ["535", "535", "421"][:number], said
        if said[-1][:3] != "421":
            s.send(lines("QUIT"))
        s.read.read()
        s.process.wait()
    with open(file) as f:
        trace = f.read()
    if "ptrace" in trace or "sendto" not in trace:
        raise Skip("strace may not trace here")
    trace = whole_calls(trace)
    before = trace[:trace.index("535")]
    waits = re.findall(r"poll\((?:NULL, 0|\[.*\{fd=-1.*\], 3), (\d+)\) += 0 ",
                       before)
    assert least <= sum(map(int, waits)) <= most, before


@test_late
def a_wrong_password_is_answered_late():
    answered_late(1, 1000, 2000)


@test_late
def a_wrong_password_is_answered_at_a_time_that_tells_nothing_of_its_source():
    """What the source needs is a part of the two seconds."""
    slow = script(PLACE, "sleep 1; exit 1", "slow")
    answered_late(1, 0, 1000, ("--auth", f"checkpassword:{slow}",
                               "--no-auth-require-tls"))


@test_late
def each_of_several_wrong_passwords_at_once_costs_its_time():
    answered_late(3, 5000, 6000)


@test
def auth_is_not_offered_in_the_clear():
    with Secure(*tls(), *FILE, "print:") as s:
        assert "AUTH" not in s.start()
        assert s.say(plain())[0][:10] == "538 5.7.11"
        assert s.deliver()[:3] == "250"
        assert s.say("STARTTLS")[0][:3] == "220"
        s.handshake()
        s.send(lines(HELLO))
        assert "\n250-AUTH PLAIN LOGIN" in s.reply()
        assert s.say(plain())[0][:3] == "235"
        s.finish()


@test
def auth_required_means_that_no_mail_is_taken_before():
    with Session(*CLEAR, "--auth-required", "print:") as s:
        s.start()
        for command in ("MAIL FROM:<a@b>", "VRFY a"):
            assert s.say(command)[0][:9] == "530 5.7.0", command
        assert s.say(plain("yes"))[0][:3] == "235"
        assert s.deliver()[:3] == "250"
        _, log = s.finish()
    assert " with ESMTPA id " in received(log), log
    assert "event=auth-ok" not in log, log
    assert re.search("event=message-relayed .* user=yes .* method=PLAIN "
                     "source=file: ", log), log


def two_users(place, prefix):
    """A file of them; where its second line has such a hash."""
    with open(f"{place}/users", "w") as f:
        f.write(f"user:{hashed('$6$')}\nother:{hashed(prefix)}\n")
    return ["--no-auth-require-tls", "--auth", f"file:{place}/users",
            "discard:"]


# The static program has none of these hashes.
@test_unless_static
def passwords_by_every_usual_hash_are_known():
    for prefix in ("$1$", "$5$", "$6$", "$y$j9T$"):
        place = folder()
        for user, wanted in (("user", "235"), ("other", "235")):
            with Session(*two_users(place, prefix)) as s:
                s.start()
                assert s.say(plain(user))[0][:3] == wanted, (prefix, user)
                _, log = s.finish()
            assert "config-error" not in log, log
        shutil.rmtree(place)


@test_if_static
def a_hash_that_the_static_program_does_not_know_is_a_configuration_error():
    for prefix in ("$1$", "$5$", "$y$j9T$"):
        place = folder()
        said = f"{place}/users: line 2: crypt(3) does not support this hash"
        arguments = two_users(place, prefix)
        with Session(*arguments) as s:
            s.start()
            _, log = s.finish()
        assert "event=config-error" in log and said in log, log
        for user, wanted in (("user", "235"), ("other", "454 4.7.0"),
                             ("nobody", "535")):
            with Session(*arguments) as s:
                s.start()
                reply = s.say(plain(user))[0]
                assert reply.startswith(wanted), (prefix, user, reply)
                s.finish()
        with open(f"{place}/users", "w") as f:
            f.write(f"other:{hashed(prefix)}\n")
        with Session(*arguments) as s:
            s.start()
            assert s.say(plain("nobody"))[0][:3] == "454"
            s.finish()
        shutil.rmtree(place)


@test
def a_password_file_that_is_not_there_is_our_mistake():
    with Session("--auth", "file:" + path("none"), "--no-auth-require-tls",
                 "discard:") as s:
        s.start()
        assert s.say(plain())[0][:9] == "454 4.7.0"
        _, log = s.finish()
    assert path("none") in log, log


@test
def a_dovecot_that_is_not_there_refuses_nobody_for_good():
    with Session("--auth", "dovecot:" + path("none"), "--auth-required",
                 "--no-auth-require-tls", "discard:", pair=tcp_pair()) as s:
        assert "AUTH" not in s.start()
        for command in (plain(), "MAIL FROM:<a@b>"):
            assert s.say(command)[0][:9] == "454 4.7.0", command
        _, log = s.finish()
    assert path("none") in log, log


class Dovecot(Server):
    """Its handshake, with these mechanisms."""

    def __init__(self, *mechanisms):
        self.mechanisms = mechanisms
        super().__init__(f"{folder()}/dovecot")

    def talk(self, connection, read, number):
        assert read.readline() == b"VERSION\t1\t1\n"
        assert read.readline().startswith(b"CPID\t")
        connection.sendall(b"VERSION\t1\t2\n" + b"".join(
            b"MECH\t%s\n" % name for name in self.mechanisms) + b"DONE\n")
        read.read()


@test
def a_dovecot_that_is_there_is_asked_by_check_what_it_offers():
    for mechanisms, status, said in (
            ([b"PLAIN", b"LOGIN"], 0, "good: --auth dovecot: offers PLAIN "
             "LOGIN\n"),
            ([b"ANONYMOUS\tanonymous"], 78, "bad: --auth dovecot: has no "
             "mechanism for us\n")):
        with Dovecot(*mechanisms) as dovecot:
            done = subprocess.run(
                [SMTPD, "--check", "--no-auth-require-tls", "--auth",
                 f"dovecot:{dovecot.path}", "discard:"], text=True,
                stdin=subprocess.DEVNULL, capture_output=True)
            dovecot.wait()
        assert done.returncode == status and said in done.stdout, done


@test_late
def checkpassword_programs_decide():
    place = folder()
    program = script(place, f"""
        tr '\\0' '\\n' <&3 >{place}/got
        case $(head -n 1 {place}/got) in
        user) exit 0 ;; later) exit 111 ;; *) exit 1 ;;
        esac""")
    for user, wanted in (("user", "235"), ("nobody", "535"),
                         ("later", "454")):
        with Session("--auth", f"checkpassword:{program}",
                     "--no-auth-require-tls", "discard:") as s:
            s.start()
            assert s.say(plain(user))[0][:3] == wanted, user
            s.finish()
        with open(f"{place}/got") as f:
            assert f.read().splitlines()[:2] == [user, PASSWORD]
    with Session("--auth", f"checkpassword:{place}/none",
                 "--no-auth-require-tls", "discard:") as s:
        s.start()
        assert s.say(plain())[0][:3] == "454"
        s.finish()
    shutil.rmtree(place)


@test_late
def a_peer_on_a_unix_socket_may_use_its_login():
    import pwd
    name = pwd.getpwuid(os.geteuid()).pw_name
    place = folder()
    program = script(place, f"env >{place}/env")
    with Listener(*CLEAR, "--auth-required", "--", program,
                  path=f"{place}/smtp"):
        for command, wanted in (("AUTH EXTERNAL =", "235"),
                                ("AUTH EXTERNAL " + b64(name), "235"),
                                ("AUTH EXTERNAL " + b64("x" + name), "535")):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{place}/smtp")
                read = client.makefile("rb")
                client.sendall(lines(HELLO, command))
                seen = b""
                while seen[-2:] != b"\r\n" or \
                        not re.search(rb"^[2-5]\d\d [^H].*\n\Z", seen, re.M) \
                        or b" HELP" not in seen:
                    seen += read.readline()
                assert f"\n{wanted} ".encode() in seen, seen
                assert b"-AUTH PLAIN LOGIN EXTERNAL" in seen, seen
                if wanted == "235":
                    client.sendall(message("Subject: x", "", "y") +
                                   lines("QUIT"))
                    assert b"250 2.0.0" in read.read()
                    with open(f"{place}/env") as f:
                        env = f.read()
                    assert f"SASL_USERNAME={name}\n" in env, env
                    assert "SASL_METHOD=EXTERNAL\n" in env, env
                read.close()
    shutil.rmtree(place)


@test
def a_client_with_a_verified_certificate_may_be_who_it_says():
    for name, wanted in (("client", "235"), ("stranger", "504")):
        with Secure(*tls(), "--tls-ca", path("ca.pem"), *FILE, "print:",
                    pair=tcp_pair()) as s:
            greeting = s.starttls(context(certificate_of=name))
            assert ("EXTERNAL" in greeting) == (wanted == "235"), greeting
            assert s.say("AUTH EXTERNAL =")[0][:3] == wanted, name
            s.deliver()
            _, log = s.finish()
        assert ("user=" in log) == (wanted == "235"), log


@test
def a_client_that_speaks_for_another_does_not_lend_its_certificate():
    external = ["--no-auth-require-tls", *FILE, "discard:"]
    for before in (b"PROXY TCP4 192.0.2.7 192.0.2.8 40000 25\r\n",
                   b"PROXY UNKNOWN\r\n"):
        with Session("--proxy-protocol", *external) as s:
            s.send(before)
            assert "EXTERNAL" not in s.start()
            assert s.say("AUTH EXTERNAL =")[0][:3] == "504"
            s.finish()
    for attribute in ("ADDR=192.0.2.7", "NAME=mail.example.net"):
        with Session("--xclient", "unix", *external) as s:
            assert "EXTERNAL" in s.start()
            assert s.say("XCLIENT " + attribute)[0][:4] == "220 "
            s.send(lines(HELLO))
            assert "EXTERNAL" not in s.reply()
            assert s.say("AUTH EXTERNAL =")[0][:3] == "504"
            s.finish()
    for source in (FILE, []):
        with Secure(*tls(), "--tls-ca", path("ca.pem"), *source, "--xclient",
                    "127.0.0.1", "discard:", pair=tcp_pair()) as s:
            assert "EXTERNAL" in s.starttls(context(certificate_of="client"))
            assert s.say("XCLIENT ADDR=192.0.2.7")[0][:4] == "220 "
            s.send(lines(HELLO))
            assert "EXTERNAL" not in s.reply()
            assert s.say("AUTH EXTERNAL =")[0][:3] == (
                "504" if source else "502")
            s.finish()


# --- what must be seen nowhere

def secrets():
    once = b64(f"\0user\0{PASSWORD}")
    return [PASSWORD, once, b64(PASSWORD)]


@test
def credentials_are_in_no_log_and_no_environment():
    place = folder()
    program = script(place, f"env >{place}/env")
    for commands in ([plain()], ["AUTH PLAIN", b64(f"\0user\0{PASSWORD}")],
                     ["AUTH LOGIN", b64("user"), b64(PASSWORD)],
                     ["AUTH LOGIN " + b64("user"), b64(PASSWORD)],
                     ["AUTH PLAIN " + b64("\0user\0" + PASSWORD) + "!"],
                     ["AUTH NONSENSE " + b64(PASSWORD)]):
        with Secure("-d", *CLEAR, "--", program) as s:
            s.start()
            for command in commands:
                s.say(command)
            environments = b""
            for pid in s.pids():
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    environments += f.read()
                if ROOT:
                    with open(f"/proc/{pid}/environ", "rb") as f:
                        environments += f.read()
            assert s.deliver()[:3] == "250"
            _, log = s.finish()
        with open(f"{place}/env") as f:
            everything = log + f.read() + environments.decode()
        for secret in secrets():
            assert secret not in everything, (commands, everything)
        assert "********" in log, log
    shutil.rmtree(place)


@test
def no_process_of_ours_leaves_a_core():
    with Secure(*tls(), *FILE, "discard:") as s:
        s.starttls()
        assert s.say(plain())[0][:3] == "235"
        pids = s.pids()
        assert len(pids) == 3, pids
        for pid in list(pids)[1:]:      # all but the monitor
            with open(f"/proc/{pid}/limits") as f:
                assert re.search(r"core file size +0 +0 ", f.read()), pid
        for pid in pids:    # of who may not be dumped all is root's
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0, pid
        s.finish()
        wait_for_all(pids)


@test
def credentials_are_wiped_from_memory():
    if not ROOT:
        raise Skip("this needs root")
    if SANITIZED:
        raise Skip("sanitizers keep what was freed")
    for commands in ([plain()],
                     ["AUTH LOGIN", b64("user"), b64(PASSWORD)],
                     ["AUTH PLAIN " + b64(PASSWORD) + "!", "NOOP"]):
        with Secure(*tls(), *FILE, "discard:") as s:
            s.starttls()
            assert s.say(*commands)[-1][:1] == "2"
            assert s.say("NOOP") == ["250 2.0.0 OK"]
            nobody_remembers(pids := s.pids())
            s.finish()
            wait_for_all(pids)


@test
def credentials_are_wiped_before_the_verdict_is_heard():
    need("strace")
    if not ROOT:
        raise Skip("this needs root")
    if SANITIZED:
        raise Skip("sanitizers keep what was freed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode != 0:
        raise Skip("strace may not trace here")
    # The monitor's first answer says the mechanisms.  Behind its second it
    # does nothing for a while, as the channel process has done long before,
    # when it said something for the log.
    slow = ["strace", "-DD", "-f", "-qq", "-o", "/dev/null", "-e",
            "trace=sendmsg", "-e", "inject=sendmsg:delay_exit=500000:when=2"]
    with Secure("-d", *CLEAR, "discard:", wrap=slow) as s:
        s.start()
        assert s.say(plain())[0][:3] == "235"
        nobody_remembers(pids := s.pids())
        s.finish()
        wait_for_all(pids)


def nobody_remembers(pids):
    for i, pid in enumerate(pids):
        seen = memory(pid)
        assert len(seen) > 100000, pid
        for secret in secrets():
            assert secret.encode() not in seen, (i, secret)


def memory(pid):
    """All that a process may write to."""
    seen = b""
    with open(f"/proc/{pid}/maps") as maps, \
         open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            span, mode = line.split()[:2]
            if not mode.startswith("rw"):
                continue
            low, high = (int(x, 16) for x in span.split("-"))
            mem.seek(low)
            try:
                seen += mem.read(high - low)
            except OSError:
                pass
    return seen


# --- PROXY protocol

def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def v2(command, family_, addresses, *tlvs):
    body = addresses + b"".join(tlvs)
    return b"\r\n\r\n\0\r\nQUIT\n" + \
        struct.pack("!BBH", 0x20 | command, family_, len(body)) + body


FOUR = socket.inet_aton("192.0.2.7") + socket.inet_aton("192.0.2.25") + \
    struct.pack("!HH", 4711, 25)
SIX = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + \
    socket.inet_pton(socket.AF_INET6, "2001:db8::25") + \
    struct.pack("!HH", 4711, 25)
SSL = tlv(0x20, b"\1" + b"\0\0\0\0" + tlv(0x21, b"TLSv1.3") +
          tlv(0x22, b"client.example.org") + tlv(0x23, b"TLS_AES_256_GCM"))


@test
def a_proxy_header_says_who_the_client_is():
    for header, address, trace in (
            (b"PROXY TCP4 192.0.2.7 192.0.2.25 4711 25\r\n", "192.0.2.7",
             "([192.0.2.7]) "),
            (b"PROXY TCP6 2001:db8::7 2001:db8::25 4711 25\r\n",
             "2001:db8::7", "([IPv6:2001:db8::7]) "),
            (b"PROXY UNKNOWN\r\n", "unix", "(unix) "),
            (v2(1, 0x11, FOUR), "192.0.2.7", "([192.0.2.7]) "),
            (v2(1, 0x21, SIX), "2001:db8::7", "([IPv6:2001:db8::7]) "),
            (v2(1, 0x11, FOUR, tlv(0x04, b"x" * 400)), "192.0.2.7",
             "([192.0.2.7]) "),
            (v2(0, 0, b""), "unix", "(unix) ")):
        place = folder()
        with PolicyService(place) as service, \
             Session("--proxy-protocol", "--policy", service.place,
                     "print:") as s:
            s.send(header)
            s.start()
            assert s.deliver()[:3] == "250"
            _, log = s.finish()
        assert service.asked[0]["client_address"] == (
            "127.0.0.1" if address == "unix" else address), service.asked
        assert trace in received(log), (header, log)
        if address == "192.0.2.7":
            first = service.asked[0]
            assert first["client_port"] == "4711", first
            assert first["server_address"] == "192.0.2.25", first
        shutil.rmtree(place)


@test
def a_certificate_that_a_proxy_verified_may_use_external():
    names = tlv(0x21, b"TLSv1.3") + tlv(0x22, b"client.example.org")
    for verified, wanted in ((b"\3\0\0\0\0", "235"),  # sent, and verified
                             (b"\3\0\0\0\1", "504"),  # sent, and not
                             (b"\1\0\0\0\0", "504")):  # not sent
        with Session("--proxy-protocol", *FILE, "print:") as s:
            s.send(v2(1, 0x11, FOUR, tlv(0x20, verified + names)))
            assert ("EXTERNAL" in s.start()) == (wanted == "235")
            assert s.say("AUTH EXTERNAL =")[0][:3] == wanted
            _, log = s.finish()
        assert ("user=client.example.org" in log) == (wanted == "235"), log


@test
def a_proxys_word_on_tls_is_taken():
    place = folder()
    program = script(place, f"env >{place}/env; cat")
    with Session(*FILE, "--proxy-protocol", "--", program) as s:
        s.send(v2(1, 0x11, FOUR, SSL))
        assert "\n250-AUTH PLAIN LOGIN" in s.start()
        assert s.deliver()[:3] == "250"
        s.finish()
    with open(f"{place}/env") as f:
        env = f.read()
    for wanted in ("CLIENT_PROTOCOL=ESMTPS\n", "TLS_PROTOCOL=TLSv1.3\n",
                   "TLS_CIPHER=TLS_AES_256_GCM\n",
                   "CLIENT_ADDRESS=192.0.2.7\n", "CLIENT_PORT=4711\n",
                   "SERVER_ADDRESS=192.0.2.25\n"):
        assert wanted in env, (wanted, env)
    shutil.rmtree(place)


@test
def tls_that_is_required_may_be_the_proxys():
    for header, code in ((v2(1, 0x11, FOUR, SSL), "250 2.1.0"),
                         (v2(1, 0x11, FOUR), "454 4.7.0")):
        with Session("--proxy-protocol", "--require-tls", "discard:") as s:
            s.send(header)
            assert "STARTTLS" not in s.start()
            assert s.say("MAIL FROM:<a@example.org>")[0][:9] == code
            s.finish()


@test
def a_proxys_word_on_tls_is_not_taken_if_it_is_cut_short():
    with Session("--proxy-protocol", "print:") as s:
        s.send(v2(1, 0x11, FOUR, tlv(0x20, b"\1"), SSL[:9] + b"\0\0"))
        s.start()
        s.deliver()
        _, log = s.finish()
    assert " with ESMTP id " in received(log), log


@test
def without_a_proper_proxy_header_nothing_is_said():
    for octets in (b"EHLO x\r\n", b"\0" * 32, b"", b"PROXY\r\n",
                   b"PROXY TCP4 192.0.2.7 192.0.2.25 4711\r\n",
                   b"PROXY TCP4 192.0.2.777 192.0.2.25 4711 25\r\n",
                   b"PROXY TCP4 192.0.2.7 192.0.2.25 4711 25\n",
                   b"PROXY UNKNOWN" + b"x" * 200 + b"\r\n",
                   v2(1, 0x11, FOUR)[:20], v2(3, 0x11, FOUR),
                   v2(1, 0x11, FOUR[:8]),
                   b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + b"x" * 70000):
        with Session("--proxy-protocol", "print:") as s:
            try:
                s.send(octets)
                s.socket.shutdown(socket.SHUT_WR)
                seen = s.read.read()
            except (BrokenPipeError, ConnectionResetError):
                seen = b""
            assert seen == b"", (octets[:40], seen)
            assert s.process.wait() == 0, octets[:40]


@test
def a_proxy_header_that_comes_too_slowly_is_not_waited_for():
    with Session("--proxy-protocol", "-t", "1", "discard:") as s:
        s.send(b"PROXY TCP4 192.0.2.7")
        assert s.read.read() == b"" and s.process.wait() == 0


@test
def tls_follows_a_proxy_header():
    header = v2(1, 0x11, FOUR)
    with Secure(*tls(), "--proxy-protocol", "print:") as s:
        s.send(header)
        s.starttls()
        assert s.deliver()[:3] == "250"
        _, log = s.finish()
    assert "([192.0.2.7]) by mx.example.org (smtpd) with ESMTPS (" in \
        received(log), log
    for header in (header, b"PROXY TCP4 192.0.2.7 192.0.2.25 4711 25\r\n"):
        with Secure(*tls(), "--smtps", "--proxy-protocol", "print:") as s:
            # The header and the handshake's first flight come in one go.
            into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = context().wrap_bio(into, out,
                                        server_hostname="mx.example.org")
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            s.send(header + out.read())
            while True:
                try:
                    client.do_handshake()
                    s.send(out.read())
                    break
                except ssl.SSLWantReadError:
                    if out.pending:
                        s.send(out.read())
                    into.write(s.socket.recv(65536))
            client.write(lines(HELLO) + message("Subject: x", "", "y") +
                         lines("QUIT"))
            s.send(out.read())
            seen = b""
            while b"\n221 " not in seen:
                try:
                    seen += client.read()
                except ssl.SSLWantReadError:
                    into.write(s.socket.recv(65536))
            s.leave()
            s.process.wait()
            log = s.logged()
        assert "([192.0.2.7]) by mx.example.org (smtpd) with ESMTPS (" in \
            received(log), log


# --- XCLIENT

@test
def xclient_is_for_those_who_are_listed():
    with Listener("--xclient", "192.0.2.0/24,2001:db8::/32",
                  "discard:") as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.ehlo()
            assert not client.has_extn("xclient")
            code, _ = client.docmd("XCLIENT ADDR=192.0.2.1")
            assert code == 550, code
    with Listener("--xclient", "127.0.0.0/8", "discard:") as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.ehlo()
            assert client.has_extn("xclient")


@test
def xclient_changes_trace_environment_and_policy():
    place = folder()
    program = script(place, f"env >{place}/env; cat >{place}/message")
    with PolicyService(place) as service, \
         Session("--xclient", "unix", "--policy", service.place, "--",
                 program) as s:
        assert "\n250-XCLIENT " in s.start()
        assert s.say("XCLIENT NAME=mail.example.net ADDR=192.0.2.9 PORT=99 "
                     "HELO=he.example.net PROTO=ESMTP LOGIN=joe "
                     "DESTADDR=192.0.2.25 DESTPORT=587")[0][:4] == "220 "
        s.send(lines(HELLO))
        s.reply()
        assert s.deliver()[:3] == "250"
        s.finish()
    with open(f"{place}/env") as f:
        env = f.read()
    for wanted in ("CLIENT_ADDRESS=192.0.2.9\n", "CLIENT_PORT=99\n",
                   "CLIENT_HOSTNAME=mail.example.net\n",
                   "SASL_USERNAME=joe\n", "SERVER_ADDRESS=192.0.2.25\n",
                   "SERVER_PORT=587\n", "CLIENT_PROTOCOL=ESMTPA\n"):
        assert wanted in env, (wanted, env)
    with open(f"{place}/message") as f:
        trace = received(f.read())
    assert "(mail.example.net [192.0.2.9]) " in trace, trace
    asked = {q["protocol_state"]: q for q in service.asked}
    assert asked["RCPT"]["client_address"] == "192.0.2.9", asked["RCPT"]
    assert asked["RCPT"]["client_name"] == "mail.example.net"
    assert asked["RCPT"]["sasl_username"] == "joe"
    states = [q["protocol_state"] for q in service.asked]
    assert states[:4] == ["CONNECT", "EHLO", "CONNECT", "EHLO"], states
    shutil.rmtree(place)


# --- policy

def with_policy(place, answer, *arguments, relay=("print:",)):
    """answer is a dictionary by stage."""
    service = PolicyService(
        place, lambda q: answer.get(q["protocol_state"], "DUNNO"))
    return service, Session("--policy", service.place, *arguments, *relay)


STAGES = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE", "VRFY"]


def ask_at(stage, action, helo="EHLO"):
    """What a client hears at stage when the service says action there."""
    place = folder()
    service, session = with_policy(place, {stage: action})
    with service, session as s:
        heard = {"CONNECT": s.reply()}
        if heard["CONNECT"][:3] != "220":
            heard["after"] = s.say("QUIT")[0]
        else:
            for name, command in (("EHLO", f"{helo} client.example.org"),
                                  ("VRFY", "VRFY b@example.org"),
                                  ("MAIL", "MAIL FROM:<a@example.org>"),
                                  ("RCPT", "RCPT TO:<b@example.org>"),
                                  ("DATA", "DATA"),
                                  ("END-OF-MESSAGE",
                                   "Subject: x\r\n\r\ny\r\n.")):
                heard[name] = s.say(command)[0]
                if heard[name][:1] in "45" and name != "VRFY":
                    break
            heard["after"] = s.say("QUIT")[0]
        s.process.wait()
        log = s.logged()
    shutil.rmtree(place)
    return heard, log, service.asked


@test
def a_policy_service_is_asked_at_every_stage():
    heard, log, asked = ask_at("none", "DUNNO")
    assert [q["protocol_state"] for q in asked] == [
        "CONNECT", "EHLO", "VRFY", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE"]
    assert {q["request"] for q in asked} == {"smtpd_access_policy"}
    by = {q["protocol_state"]: q for q in asked}
    assert by["MAIL"]["sender"] == "a@example.org"
    assert by["RCPT"]["recipient"] == "b@example.org"
    assert by["RCPT"]["helo_name"] == "client.example.org"
    assert by["RCPT"]["protocol_name"] == "ESMTP"
    assert by["END-OF-MESSAGE"]["recipient_count"] == "1"
    assert by["END-OF-MESSAGE"]["size"] not in ("", "0")
    assert by["RCPT"]["queue_id"] == by["END-OF-MESSAGE"]["queue_id"] != ""
    assert len({q["instance"] for q in asked[3:]}) == 1
    assert heard["END-OF-MESSAGE"][:3] == "250" and "MESSAGE FOLLOWS" in log


@test
def a_policy_service_is_asked_only_where_it_shall_be():
    place = folder()
    with PolicyService(place) as service, \
         Session("--policy", f"RCPT,vrfy={service.place}", "print:") as s:
        s.start()
        s.say("VRFY a")
        assert s.deliver()[:3] == "250"
        s.finish()
    assert [q["protocol_state"] for q in service.asked] == ["VRFY", "RCPT"]
    shutil.rmtree(place)


@test
def a_policy_service_may_refuse_at_every_stage():
    for stage in STAGES + ["HELO"]:
        for action, wanted in (("REJECT not you", "554 5.7.1 not you"),
                               ("DEFER later", "450 4.7.1 later"),
                               ("550 5.7.1 go away", "550 5.7.1 go away"),
                               ("450 4.7.1 wait", "450 4.7.1 wait")):
            heard, log, _ = ask_at(stage, action,
                                   "HELO" if stage == "HELO" else "EHLO")
            got = heard["EHLO" if stage == "HELO" else stage]
            if stage in ("CONNECT", "HELO", "EHLO"):    # RFC 2034 3
                wanted = re.sub(r" \d\.\d\.\d ", " ", wanted)
            assert got.startswith(wanted), (stage, action, got)
            assert heard["after"][:3] == "221", (stage, heard)
            assert ("MESSAGE FOLLOWS" in log) == (stage == "VRFY"), log


ACTIONS = [
    # what the service says at RCPT, the reply, is the message printed?
    ("OK", "250 ", True), ("DUNNO", "250 ", True), ("dunno", "250 ", True),
    ("WARN look out", "250 ", True), ("INFO by the way", "250 ", True),
    ("REJECT", "554 5.7.1 ", False), ("REJECT 5.1.1 no", "554 5.1.1 no", False),
    ("DEFER", "450 4.7.1 ", False),
    ("DEFER_IF_PERMIT later", "450 4.7.1 later", False),
    ("DEFER_IF_REJECT later", "250 ", True), ("421 4.7.0 bye", "421", False),
    ("HOLD", "451 4.7.1 ", False), ("DISCARD quietly", "250 ", False),
    ("FILTER smtp:x", "451 4.3.5", False), ("nonsense", "451 4.3.5", False),
    ("", "451 4.3.5", False),
]


@test
def each_action_of_a_policy_service_does_what_it_says():
    for action, wanted, printed in ACTIONS:
        place = folder()
        service, session = with_policy(place, {"RCPT": action})
        with service, session as s:
            s.start()
            s.say("MAIL FROM:<a@example.org>")
            got = s.say("RCPT TO:<b@example.org>")[0]
            assert got.startswith(wanted), (action, got)
            if got.startswith("250 "):
                assert s.say("DATA")[0][:3] == "354"
                assert s.say("Subject: x\r\n\r\ny\r\n.")[0][:3] == "250"
            if wanted == "421":
                assert s.read.read() == b""
                s.process.wait()
                log = s.logged()
            else:
                _, log = s.finish()
        assert ("MESSAGE FOLLOWS" in log) == printed, (action, log)
        if action.startswith(("WARN", "INFO")):
            assert action.split(" ", 1)[1] in log, log
        assert service.connections == 1
        shutil.rmtree(place)


@test
def prepend_puts_a_field_in_front():
    for stage in ("MAIL", "RCPT", "DATA"):
        _, log, _ = ask_at(stage, "PREPEND X-Policy: looked at")
        assert re.search(r"^X-Policy: looked at\nSubject: x$", log, re.M), \
            (stage, log)


@test
def redirect_changes_the_recipient():
    for stage in ("MAIL", "RCPT", "DATA", "END-OF-MESSAGE"):
        heard, log, _ = ask_at(stage, "REDIRECT other@example.net")
        assert heard["END-OF-MESSAGE"][:3] == "250", heard
        assert "rcpt to: <other@example.net>\n" in log, (stage, log)
        assert "rcpt to: <b@example.org>" not in log, (stage, log)


@test
def the_recipient_that_a_message_is_redirected_to_answers_for_all():
    place = folder()
    service, session = with_policy(
        place, {"END-OF-MESSAGE": "REDIRECT other@example.net"}, "--lmtp")
    with service, session as s:
        s.send(lines("LHLO x"))
        s.replies(2)
        s.send(message("Subject: x", "", "y",
                       to=("b@example.org", "c@example.org")))
        got = s.replies(6)
        assert [r[:9] for r in got[-2:]] == ["250 2.0.0"] * 2, got
        log = s.finish()[1]
    assert log.count("MESSAGE FOLLOWS") == 1, log
    assert "rcpt to: <other@example.net>\n" in log, log
    shutil.rmtree(place)


@test
def discard_takes_the_message_and_drops_it():
    for stage in ("MAIL", "RCPT", "DATA", "END-OF-MESSAGE"):
        heard, log, _ = ask_at(stage, "DISCARD")
        assert heard["END-OF-MESSAGE"][:3] == "250", heard
        assert "MESSAGE FOLLOWS" not in log, (stage, log)


@test
def hold_is_a_temporary_refusal_as_there_is_no_queue():
    heard, log, _ = ask_at("END-OF-MESSAGE", "HOLD")
    assert heard["END-OF-MESSAGE"][:9] == "451 4.7.1", heard
    assert "MESSAGE FOLLOWS" not in log


@test
def a_policy_service_that_is_not_there_never_means_yes():
    with closed_port() as port:
        for place in (f"unix:{PLACE}/nobody-listens",
                      f"inet:127.0.0.1:{port.getsockname()[1]}"):
            with Session("--policy", place, "print:") as s:
                assert s.reply() == "451 Policy service not available", place
                log = s.finish()[1]
            assert "event=policy " in log, log
            assert "CONNECT" in log and place in log, log


@test
def a_policy_service_that_dies_is_asked_again_once():
    place = folder()
    service, session = with_policy(place, {})
    with session as s:
        with service:
            s.start()
            assert s.deliver()[:3] == "250"
            os.unlink(f"{place}/policy")
        service.answer = lambda q: "garbage\nmore"      # the connection lives
        assert s.say("MAIL FROM:<a@example.org>")[0][:9] == "451 4.3.5"
        _, log = s.finish()
    assert log.count("MESSAGE FOLLOWS") == 1
    shutil.rmtree(place)


# --- as a client of a smarthost

def smarthost_session(server, *options, host="localhost", scheme="smtp"):
    with Session("--no-received", *options,
                 f"{scheme}:[{host}]:{server.port}") as s:
        s.start()
        reply = s.deliver("Subject: relayed", "", "y")
        _, log = s.finish()
    return reply, log


MUST = ["--relay-tls", "must", "--relay-tls-ca", path("ca.pem")]


@test
def a_smarthost_is_reached_over_tls():
    for options, more, scheme in (
            (["--relay-tls", "may"], [], "smtp"), (MUST, [], "smtp"),
            (["--relay-tls-ca", path("ca.pem")], ["--smtps"], "smtps")):
        with Listener(*tls(), *more, "print:") as server:
            reply, _ = smarthost_session(server, *options, scheme=scheme)
            assert reply[:9] == "250 2.0.0", reply
            assert " with ESMTPS (TLSv1.3 " in received(
                delivered(server, "relayed"))


@test
def a_smarthost_gets_the_password_over_tls():
    for options, more, scheme in (
            (MUST, [], "smtp"),
            (["--relay-tls-ca", path("ca.pem")], ["--smtps"], "smtps")):
        with Listener(*tls(), *FILE, "--auth-required", *more,
                      "print:") as server:
            with open(path("relay-auth"), "w") as f:
                f.write(f"[localhost]:{server.port}  user:{PASSWORD}\n")
            reply, log = smarthost_session(
                server, *options, "--relay-auth", path("relay-auth"), "-d",
                scheme=scheme)
            assert reply[:9] == "250 2.0.0", reply
            theirs = delivered(server, "relayed")
            assert " with ESMTPSA (" in received(theirs)
            for secret in secrets():
                assert secret not in log + theirs, secret


@test
def files_of_passwords_and_routes_may_be_roots_alone():
    def own(name, text):
        with open(path(name), "w", opener=lambda file, flags:
                  os.open(file, flags, 0o600)) as f:
            f.write(text)
        return path(name)

    with open(path("passwords")) as f:
        users = own("own-passwords", f.read())
    with Listener(*tls(), "--auth", f"file:{users}", "--auth-required",
                  "print:") as server:
        place = f"[localhost]:{server.port}"
        with Session("--no-received", *MUST, "--relay-auth",
                     own("own-auth", f"{place} user:{PASSWORD}\n"),
                     "--routes", own("own-routes", f"* smtp:{place}\n"),
                     "error:5.3.0 No route") as s:
            s.start()
            reply = s.deliver("Subject: relayed", "", "y")
            assert reply[:9] == "250 2.0.0", (reply, s.finish()[1])
            s.finish()
        assert " with ESMTPSA (" in received(delivered(server, "relayed"))


@test
def a_password_never_goes_to_a_smarthost_in_the_clear():
    with Listener(*CLEAR, "--auth-required", "-d", "print:") as server:
        with open(path("relay-auth"), "w") as f:
            f.write(f"[localhost]:{server.port}  user:{PASSWORD}\n")
        for options in ([], ["--relay-tls", "may"]):
            reply, _ = smarthost_session(server, *options, "--relay-auth",
                                         path("relay-auth"))
            assert reply == "451 4.7.11 Cannot authenticate to next hop"
        log = server.logged()
        assert "C: AUTH" not in log and "MESSAGE FOLLOWS" not in log, log


@test
def a_smarthost_that_is_not_who_it_should_be_gets_nothing():
    for name, ca, word in (("elsewhere", "ca", "hostname mismatch"),
                           ("ec", "other", "unable to get local issuer")):
        for scheme, more in (("smtp", []), ("smtps", ["--smtps"])):
            with Listener(*tls(name), *more, "print:") as server:
                reply, log = smarthost_session(
                    server, "--relay-tls", "must", "--relay-tls-ca",
                    path(ca + ".pem"), scheme=scheme)
                assert reply == "451 4.7.5 No secure connection to next hop"
                assert word in log, (name, scheme, log)
                assert "MESSAGE FOLLOWS" not in server.logged()


@test
def a_smarthost_without_tls_gets_nothing_if_it_must_have_it():
    with Listener("print:") as server:
        reply, _ = smarthost_session(server, *MUST)
        assert reply[:9] == "451 4.7.4", reply
        reply, _ = smarthost_session(server, "--relay-tls", "may")
        assert reply[:9] == "250 2.0.0", reply
        assert server.logged().count("MESSAGE FOLLOWS") == 1


if __name__ == "__main__":
    make_certificates()
    make_passwords()
    try:
        main()
    finally:
        shutil.rmtree(PLACE)
