#!/usr/bin/env python3
"""starttls.t - STARTTLS and --smtps, with Python's ssl and smtplib, openssl,
swaks and curl as clients."""
import os
import re
import select
import shutil
import smtplib
import socket
import subprocess

from secure import (CLEAR, FILE, PASSWORD, PLACE, PROTOCOLS, Secure, context,
                    delivered, main, path, plain, received, tls, wait_for_all)
from tap import (HELLO, Listener, PolicyService, Session, Skip, folder, lines,
                 message, need, probed, script, tcp_pair, test, test_late)


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
            log = probed(reset, *["-d"] * debug, *tls(), "--smtps",
                         "discard:")
            assert log.count("event=") == debug, log
            assert log.count("event=session ") == debug, log


def outlived(*options, act=lambda s: None):
    """What is logged of a handshake that nobody goes on with.  It must end
    before another that began first, and has a minute."""
    with Session(*tls(), "--smtps", "discard:", pair=tcp_pair()) as other, \
            Session(*tls(), *options, "discard:", pair=tcp_pair()) as s:
        act(s)
        first = select.select([other.socket, s.socket], [], [])[0]
        assert first == [s.socket], first
        assert s.read.read() == b""
        s.process.wait()
        return s.logged()


@test
def a_handshake_lasts_no_longer_than_its_session_may():
    assert "the handshake took too long" in outlived(
        "--smtps", "--session-timeout", "1")


@test
def SIGTERM_ends_a_handshake():
    def terminate(session):
        session.start()
        assert session.say("STARTTLS")[0][:3] == "220"
        session.process.terminate()
    assert "the server is shutting down" in outlived(act=terminate)


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


if __name__ == "__main__":
    main()
