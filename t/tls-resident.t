#!/usr/bin/env python3
"""tls-resident.t - smtpd-tls resident: the TLS engine that stays, for smtpd
--tls-engine."""
import array
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading

import engine
from fakes.hop import Hop
from tap import (HELLO, SANITIZED, SMTPD, Session, certificate, family, folder,
                 lines, main, message, need, tcp_pair, test, write)

WORK = folder()
AT = WORK + "/tls"


def made():
    certificate(WORK, "ca", "CA")
    certificate(WORK, "one", "mx.example.org", "-addext",
                "subjectAltName=DNS:mx.example.org,DNS:localhost", ca="ca")
    certificate(WORK, "two", "mx.example.org", "-addext",
                "subjectAltName=DNS:mx.example.org", ca="ca")
    certificate(WORK, "user", "user.example.org", ca="ca")


def Engine(*options):
    return engine.Engine(WORK, "one", *options)


def context(version=None, **more):
    made_ = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made_.load_verify_locations(more.get("ca", WORK + "/ca.pem"))
    if version:
        made_.minimum_version = made_.maximum_version = version
    if more.get("client"):
        made_.load_cert_chain(WORK + "/user.pem", WORK + "/user.key")
    return made_


class Secure(Session):
    """A session that has said STARTTLS and shaken hands."""

    def __init__(self, *options, using=None, session=None, host=None,
                 relay=("discard:",)):
        super().__init__("--tls-engine", "unix:" + AT, *options, *relay,
                         pair=tcp_pair())
        self.start()
        assert self.say("STARTTLS") == ["220 2.0.0 Ready to start TLS"]
        self.read.close()
        self.socket = (using or context()).wrap_socket(
            self.socket, server_hostname=host or "mx.example.org",
            session=session)
        self.read = self.socket.makefile("rb")

    def relayed(self):
        """A message goes through, and QUIT; what was logged."""
        self.send(lines(HELLO))
        self.reply()
        assert self.deliver().startswith("250 2.0.0 "), "message"
        ticket = self.socket.session
        _, log = self.finish()
        return ticket, log

    @property
    def serial(self):
        return self.socket.getpeercert()["serialNumber"]


def handed(*words, count=3, end=b"\0"):
    """Hands over one end of a pair as smtpd does; returns the other end, our
    end of the clear text, and of the report."""
    near, far = socket.socketpair()
    clear, its = socket.socketpair()
    report, pipe = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as to:
        to.connect(AT)
        fds = [far.fileno(), its.fileno(), pipe][:count]
        to.sendmsg([b"\0".join(w.encode() for w in words) + end],
                   [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                     array.array("i", fds))] if fds else [])
    far.close()
    its.close()
    os.close(pipe)
    with os.fdopen(report) as f:
        said = f.read() if count < 3 or words[0] != "server" or \
            len(words) > 1 else None
    return near, clear, said


@test
def what_it_cannot_listen_on_is_told_on_standard_error():
    file = write(f"{WORK}/file", "")
    for words, status, said in (
            ([], 64, "resident needs --listen, or one socket from systemd"),
            (["--listen", "/" * 108], 64,
             f"--listen: {'/' * 108} is too long"),
            (["--listen", "", "--idle", "9"], 64, "--listen: no path is named"),
            (["--listen", file], 71,
             f"cannot listen on {file}: Address already in use")):
        done = subprocess.run(
            [engine.ENGINE, "resident", "--cert", WORK + "/one.pem", "--key",
             WORK + "/one.key", *words], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (
            status, f"smtpd-tls: {said}\n"), done


@test
def a_session_is_served_by_the_engine_that_stays():
    with Engine(), Secure() as s:
        assert s.socket.version() == "TLSv1.3", s.socket.version()
        _, log = s.relayed()
        assert "tls-engine-away" not in log, log


@test
def sessions_are_resumed_in_both_versions():
    with Engine():
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            using = context(version)
            with Secure(using=using) as s:
                assert not s.socket.session_reused
                ticket, _ = s.relayed()
            assert ticket.has_ticket, version
            assert 0 < ticket.ticket_lifetime_hint <= 3600
            with Secure(using=using, session=ticket) as s:
                assert s.socket.session_reused, version
                s.relayed()


@test
def a_ticket_of_an_engine_that_is_gone_is_no_error():
    using = context()
    with Engine():
        with Secure(using=using) as s:
            ticket, _ = s.relayed()
    with Engine(), Secure(using=using, session=ticket) as s:
        assert not s.socket.session_reused
        s.relayed()


@test
def the_key_of_tickets_is_a_new_one_after_SIGHUP_and_the_last_still_opens():
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with Engine() as stays:
            using = context(version)

            def resumes(ticket):
                with Secure(using=using, session=ticket) as s:
                    return s.socket.session_reused, s.relayed()[0]

            _, first = resumes(None)
            stays.process.send_signal(signal.SIGHUP)
            reused, second = resumes(first)
            assert reused, version
            stays.process.send_signal(signal.SIGHUP)
            assert resumes(first)[0] is False, version
            assert resumes(second)[0] is True, version


@test
def a_resumed_session_has_the_client_certificate_of_the_first():
    show = WORK + "/show"
    with open(show, "w") as f:
        f.write('#!/bin/sh\ncat >/dev/null\n'
                'echo "250 2.0.0 $TLS_SUBJECT $TLS_FINGERPRINT"\n')
    os.chmod(show, 0o755)
    with Engine("--ca", WORK + "/ca.pem"):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            using = context(version, client=True)
            said, ticket = [], None
            for _ in range(2):
                with Secure(using=using, session=ticket,
                            relay=("--", show)) as s:
                    s.send(lines(HELLO))
                    s.reply()
                    said.append(s.deliver())
                    assert s.socket.session_reused == (ticket is not None)
                    ticket = s.socket.session
                    s.finish()
            assert said[0].startswith("250 2.0.0 user.example.org "), said
            assert said[0] == said[1], said


@test
def a_resumed_session_has_the_name_that_the_first_asked_for():
    show = WORK + "/name"
    with open(show, "w") as f:
        f.write('#!/bin/sh\ncat >/dev/null\necho "250 2.0.0 $TLS_SNI"\n')
    os.chmod(show, 0o755)
    with Engine():
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            using = context(version)
            got, ticket = [], None
            for host in ("mx.example.org", "mx.example.org", "localhost"):
                with Secure(using=using, session=ticket, host=host,
                            relay=("--", show)) as s:
                    s.send(lines(HELLO))
                    s.reply()
                    got.append((s.deliver(), s.socket.session_reused))
                    ticket = ticket or s.socket.session
                    s.finish()
            assert got == [("250 2.0.0 mx.example.org", False),
                           ("250 2.0.0 mx.example.org", True),
                           ("250 2.0.0 localhost", False)], (version, got)


@test
def without_the_engine_or_a_key_starttls_is_not_offered():
    with Session("--tls-engine", f"unix:{WORK}/nobody", "discard:",
                 pair=tcp_pair()) as s:
        assert "STARTTLS" not in s.start()
        _, log = s.finish()
        assert "event=config-error" in log, log
        assert f"TLS is not offered: --tls-engine unix:{WORK}/nobody: No " \
            "such file" in log, log
    with Session("--tls-engine", f"unix:{WORK}/nobody", "--smtps", "discard:",
                 pair=tcp_pair()) as s:
        assert s.read.read() == b"" and s.process.wait() == 78
        assert ('event=config-error client=127.0.0.1 text="--smtps: the '
                "connection is closed: TLS is not offered") in s.logged()


@test
def a_session_without_starttls_does_not_wake_the_engine():
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as its:
        its.bind(f"{WORK}/idle")
        os.chmod(f"{WORK}/idle", 0o666)
        its.listen()
        its.setblocking(False)
        with Session("--tls-engine", f"unix:{WORK}/idle", "discard:") as s:
            assert "250-STARTTLS\n" in s.start()
            assert s.finish() == (0, "")
        try:
            its.accept()
            raise AssertionError("somebody connected")
        except BlockingIOError:
            pass


@test
def a_socket_of_another_kind_is_no_engine():
    for kind, name, why in (
            (socket.SOCK_STREAM, "stream", "this is not the socket of"),
            (socket.SOCK_SEQPACKET, "closed", "Connection refused")):
        its = socket.socket(socket.AF_UNIX, kind)
        its.bind(f"{WORK}/{name}")
        os.chmod(f"{WORK}/{name}", 0o666)
        its.listen()
        if name == "closed":
            its.close()
        with its, Session("--tls-engine", f"unix:{WORK}/{name}",
                          "discard:") as s:
            assert "STARTTLS" not in s.start()
            assert "TLS is not offered: --tls-engine " \
                f"unix:{WORK}/{name}: {why}" in s.finish()[1]


@test
def without_the_engine_certificate_and_key_serve():
    with Engine() as stays:
        stays.kill()
        with Secure("--tlscert", WORK + "/two.pem", "--tlskey",
                    WORK + "/two.key") as s:
            assert s.socket.session_reused is False
            _, log = s.relayed()
        assert "event=tls-engine-away" in log, log
        assert "No such file" in log, log


@test
def beside_the_engine_certificate_and_key_need_not_be_readable():
    files = ("--tlscert", WORK + "/two.pem", "--tlskey", WORK + "/none.key")
    with Engine():
        with Secure(*files) as s:
            _, log = s.relayed()
            assert log.count("event=") == log.count("event=message-relayed"), \
                log
        done = subprocess.run(
            [SMTPD, "--check", "--tls-engine", "unix:" + AT, *files,
             "discard:"], stdin=subprocess.DEVNULL, capture_output=True)
        assert f"doubt: --tlskey {WORK}/none.key: No such file" in \
            done.stdout.decode(), done
        assert b"bad: " not in done.stdout, done
    with Session("--tls-engine", "unix:" + AT, *files, "discard:",
                 pair=tcp_pair()) as s:
        assert "STARTTLS" not in s.start()
        _, log = s.finish()
        assert "TLS is not offered: --tls-engine " \
            f"unix:{AT}: No such file or directory; " \
            f"--tlskey {WORK}/none.key: No such file or directory" in log, log


@test
def a_new_certificate_is_shown_at_once_and_old_sessions_go_on():
    with Engine() as stays, Secure() as old:
        first = old.serial
        stays.put("two")
        with Secure() as new:
            assert new.serial != first
            new.relayed()
        old.relayed()


@test
def half_of_a_new_pair_changes_nothing():
    with Engine() as stays:
        with Secure() as s:
            first = s.serial
            s.relayed()
        shutil.copy(WORK + "/two.pem", WORK + "/now.pem")
        for _ in range(2):
            with Secure() as s:
                assert s.serial == first
                s.relayed()
        assert "does not match the certificate" in stays.errors()
        shutil.copy(WORK + "/two.key", WORK + "/now.key")
        with Secure() as s:
            assert s.serial != first
            s.relayed()


def held(pid):
    """Octets of memory that the process has, and how many descriptors, which
    root alone can see.  A sanitizer keeps what was freed.  Only when it waits
    has the process closed what it handed on."""
    while open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "S":
        pass
    with open(f"/proc/{pid}/status") as f:
        size = int(re.search(r"VmSize:\s+(\d+) kB", f.read())[1]) * 1024
    fds = os.listdir(f"/proc/{pid}/fd") if os.geteuid() == 0 else []
    return 0 if SANITIZED else size, len(fds)


@test
def files_that_cannot_be_used_leave_nothing_in_the_engine():
    # An extension and a comment, each so large that it has pages of its own.
    write(f"{WORK}/large.conf", "[req]\ndistinguished_name=dn\n[dn]\n[more]\n"
          "1.3.6.1.4.1.32473.1=DER:04:83:06:00:00" + ":41" * 0x60000 + "\n")
    certificate(WORK, "large", "mx.example.org", "-config",
                f"{WORK}/large.conf", "-extensions", "more")
    with open(f"{WORK}/large.pem") as f:
        large = f.read()
    comment = "# comment\n" * 100000
    os.mkdir(f"{WORK}/folder")
    with Engine() as stays:
        def fails(cert, key, count):
            write(f"{WORK}/new.pem", cert)
            os.rename(f"{WORK}/new.pem", f"{WORK}/now.pem")
            os.symlink(key, f"{WORK}/new.key")
            os.rename(f"{WORK}/new.key", f"{WORK}/now.key")
            for _ in range(count):
                stays.process.send_signal(signal.SIGHUP)
                with Secure() as s:
                    s.relayed()

        pid = stays.process.pid
        for cert, key, why in (
                (large + comment, "two.key", "does not match"),
                (large + comment, "large.conf", "is not an unencrypted"),
                (large + comment + large[:1000], "large.key", "is damaged"),
                (large + comment, "folder", "Is a directory")):
            fails(cert, key, 4)
            before = held(pid)
            fails(cert, key, 8)
            after = held(pid)
            assert stays.errors().count(why) >= 12, stays.errors()
            assert after[0] - before[0] < 2 * len(large), (why, before, after)
            assert after[1] == before[1], (why, before, after)


@test
def a_session_outlives_the_engine():
    for how in (signal.SIGKILL, signal.SIGTERM):
        with Engine() as stays, Secure() as s:
            stays.process.send_signal(how)
            stays.process.wait()
            s.relayed()
        if os.path.exists(AT):
            os.unlink(AT)


@test
def a_client_that_stalls_in_the_handshake_delays_nobody():
    with Engine():
        with Session("--tls-engine", "unix:" + AT, "discard:",
                     pair=tcp_pair()) as idle:
            idle.start()
            idle.say("STARTTLS")
            idle.send(b"\x16\x03\x01")
            with Secure() as s:
                s.relayed()
            idle.socket.shutdown(socket.SHUT_RDWR)


@test
def fifty_sessions_are_served_at_once():
    with Engine():
        some = [Secure() for _ in range(50)]
        for s in some:
            with s:
                s.relayed()


@test
def nonsense_is_dropped_or_refused_and_the_engine_stays():
    with Engine() as stays:
        for words, want in (
                (["server", "--cert", "x"], "option --cert is not known"),
                (["resident"], "the first argument is server, client, "
                 "resident, check or digest"),
                (["client", "--verify"], "option --verify needs an argument"),
                (["server", "--timeout", "0"], "is not a number from 1 to"),
                (["server", "x"], "argument x is one too many")):
            near, clear, said = handed(*words)
            assert want in said, (words, said)
            assert near.recv(1) == b"" and clear.recv(1) == b"", words
        for words, more in ((["client", "-"], {"count": 2}),
                            (["client", "-"], {"count": 0}),
                            (["client", "x"], {"end": b""}),
                            (["x"] * 40, {})):
            near, clear, said = handed(*words, **more)
            assert said == "", (words, said)
            assert near.recv(1) == b"" and clear.recv(1) == b"", words
        with Secure() as s:
            s.relayed()
        assert stays.process.poll() is None


def secrets(path):
    """The private number of a P-256 key, in both orders of octets."""
    text = subprocess.run(["openssl", "pkey", "-in", path, "-noout", "-text"],
                          check=True, capture_output=True).stdout.decode()
    number = bytes.fromhex(re.sub(r"[\s:]", "", re.search(
        r"priv:\n([ 0-9a-f:\n]+)pub", text)[1])).lstrip(b"\0")
    return [number, number[::-1]]


def holds(pid, wanted):
    """How often one of wanted is in what the process can write."""
    found = 0
    with open(f"/proc/{pid}/maps") as maps, \
            open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            m = re.match(r"(\w+)-(\w+) rw", line)
            size = int(m[2], 16) - int(m[1], 16) if m else 0
            if 0 < size < 1 << 28:      # more is a sanitizer's own
                memory.seek(int(m[1], 16))
                octets = memory.read(size)
                found += sum(octets.count(w[:28]) for w in wanted)
    return found


@test
def after_the_handshake_a_session_has_no_key_and_nothing_of_another():
    with Engine() as stays, Secure() as s, Secure() as other:
        s.say(HELLO)
        other.say(HELLO)
        pids = list(family(stays.process.pid))
        assert len(pids) == 2, pids
        sockets = [{os.readlink(f"/proc/{pid}/fd/{fd}")
                    for fd in os.listdir(f"/proc/{pid}/fd")}
                   for pid in pids] if os.geteuid() == 0 else [{1}, {2}]
        assert not {n for n in sockets[0] & sockets[1]
                    if str(n).startswith("socket:")}, sockets
        for pid in pids:
            status = open(f"/proc/{pid}/status").read()
            assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status
        try:
            resident = holds(stays.process.pid, secrets(WORK + "/one.key"))
        except PermissionError:
            assert os.geteuid() != 0
        else:
            assert resident > 0, "the engine has it, or we cannot see"
            assert [holds(pid, secrets(WORK + "/one.key"))
                    for pid in pids] == [0, 0]
        s.relayed()
        other.relayed()


@test
def next_hops_get_their_tls_from_it_and_are_verified():
    with Engine():
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(WORK + "/one.pem", WORK + "/one.key")
        for ca, want in ((WORK + "/ca.pem", "250 2.0.0 taken"),
                         (WORK + "/two.pem", "451 4.7.5 ")):
            with Hop(tls=server) as hop, \
                    Session("--tls-engine", "unix:" + AT, "--relay-tls-ca",
                            ca, f"smtps:localhost:{hop.port}") as s:
                s.start()
                s.send(message("Subject: x", "", "y"))
                got = s.replies(4)
                assert got[3].startswith(want), got
                _, log = s.finish()
                assert "tls-engine-away" not in log, log
                assert want[0] == "2" or "cannot be trusted" in log, log


@test
def it_ends_when_nobody_came_and_takes_its_socket_along():
    with Engine("--idle", "1") as stays:
        assert stays.process.wait() == 0
        assert not os.path.exists(AT)


@test
def a_session_that_has_ended_keeps_it_from_ending_no_longer():
    with Engine("--idle", "1") as stays:
        with Secure() as s:
            s.relayed()
        assert stays.process.wait() == 0


@test
def a_file_in_the_place_of_its_socket_is_left_alone():
    with open(AT, "w") as file:
        file.write("precious")
    try:
        done = subprocess.run(
            [engine.ENGINE, "resident", "--listen", AT, "--cert",
             WORK + "/one.pem", "--key", WORK + "/one.key"],
            capture_output=True)
        assert done.returncode == 71, done
        assert f"cannot listen on {AT}: " in done.stderr.decode(), done
        with open(AT) as file:
            assert file.read() == "precious"
    finally:
        os.unlink(AT)


@test
def systemd_may_have_opened_the_socket():
    for kind in ("pem", "key"):
        shutil.copy(f"{WORK}/one.{kind}", f"{WORK}/now.{kind}")
    for kind, want in ((socket.SOCK_SEQPACKET, None),
                       (socket.SOCK_STREAM, "not ListenSequentialPacket=")):
        with socket.socket(socket.AF_UNIX, kind) as listener:
            listener.bind(AT)
            os.chmod(AT, 0o777)
            listener.listen()
            os.dup2(listener.fileno(), 3) if listener.fileno() != 3 else None
            with subprocess.Popen(
                    ["sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh",
                     engine.ENGINE, "resident", "--cert", WORK + "/now.pem",
                     "--key", WORK + "/now.key"], pass_fds=[3],
                    stderr=subprocess.PIPE) as stays:
                if want is None:
                    with Secure() as s:
                        s.relayed()
                    stays.terminate()
                else:
                    assert stays.wait() == 64
                    assert want in stays.stderr.read().decode()
        os.unlink(AT)


def checked(*options, how="--check"):
    """Exit status, and what is said of the engine's certificates."""
    done = subprocess.run(
        [SMTPD, how, "--tls-engine", "unix:" + AT, *options, "discard:"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode, [line for line in done.stdout.splitlines()
                             if "certificate" in line or AT in line]


@test
def check_asks_the_engine_how_its_certificates_are():
    need("faketime")
    certificate(WORK, "old", "old.example.org",
                wrap=("faketime", "2020-01-01"))
    with Engine() as stays:
        status, said = checked()
        mine = f'doubt: unix:{AT}: certificate of "mx.example.org" '
        assert status == 0 and len(said) == 2, said
        assert re.fullmatch(mine + r"expires on \d{4}-\d\d-\d\d", said[0]), said
        assert said[1] == mine + "comes without its chain: many clients " \
            "cannot verify it", said
        stays.put("old")
        assert checked() == (78, [
            f'bad: unix:{AT}: certificate of "old.example.org" expired on '
            "2020-01-03"])
        # What is on the disk now is not what clients get.
        shutil.copy(WORK + "/two.key", WORK + "/now.key")
        assert checked()[1][0].endswith(" expired on 2020-01-03")


@test
def an_engine_that_does_not_say_how_its_certificates_are_is_told():
    nothing = f"bad: unix:{AT}: the TLS engine gave up: its log says why"
    older = f"doubt: unix:{AT}: the TLS engine is of another version, and " \
        "tells of no certificates"
    for answer, want in ((b"", (78, [nothing])),
                         (b"error=the first argument is server, client, "
                          b"resident, check or digest\n\n", (0, [older]))):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as its:
            its.bind(AT)
            os.chmod(AT, 0o777)
            its.listen()

            def serve():
                with its.accept()[0] as one:
                    words, fds, *_ = socket.recv_fds(one, 8192, 3)
                    os.write(fds[2], answer)
                    for fd in fds:
                        os.close(fd)
                asked.append(words)
            asked = []
            serving = threading.Thread(target=serve, daemon=True)
            serving.start()
            assert checked() == want
            serving.join()
            assert asked == [b"check\0"], asked
            # Once the system starts the engine may wait for the socket that is
            # checked: it is not asked.
            its.setblocking(False)
            assert checked(how="--check=start") == (0, [])
            try:
                its.accept()
                raise AssertionError("somebody connected")
            except BlockingIOError:
                pass
        os.unlink(AT)


@test
def what_makes_no_sense_is_refused_at_the_start():
    for options, want in (
            (["--tls-engine", "/run/x"], "is not unix:PATH"),
            (["--tls-engine", "unix:x"], "is not unix:PATH"),
            (["--tls-engine", "unix:/" + 107 * "x"], "is not unix:PATH"),
            (["--tls-engine", "unix:/x", "--tls-ca", "/y"],
             "--tls-ca needs --tlscert")):
        done = subprocess.run([SMTPD, *options, "discard:"],
                              stdin=subprocess.DEVNULL, capture_output=True)
        assert done.returncode == 64 and want in done.stderr.decode(), done


if __name__ == "__main__":
    made()
    main()
