#!/usr/bin/env python3
"""resident.py - smtpd-tls.service, the TLS engine that stays, and submission
that uses it, under a systemd that runs: t/systemd/resident.sh boots it, and
runs this in it as root.

The tests follow each other.
"""
import errno
import os
import pwd
import re
import subprocess
import sys
import threading

sys.path.insert(0, "/rig")
from booted import (JO, SWAKS, UNITS, add_jo, ask, box, certify, connection,
                    delivered, enable, matches, prop, records, run, same,
                    settings, settle, slurp, succeeds, systemctl, until,
                    wait_for_end)
from servers import spew
from tap import main, test, unverified

ENGINE = "smtpd-tls.service"
AT_ENGINE = "--tls-engine unix:/run/smtpd/tls.sock"


def engine_alone(option=""):
    """Certificate and key are the engine's: systemd hands it copies, and
    smtpd is told of none."""
    where = f"{UNITS}/smtpd-submission@.service.d"
    os.makedirs(where, exist_ok=True)
    sbin = os.path.dirname(re.search(
        r"^ExecStart=(\S+)", systemctl("cat", "smtpd-submission@.service"),
        re.M)[1])
    spew(f"{where}/engine.conf", f"[Service]\nExecStart=\nExecStart={sbin}/"
         f"smtpd --user smtpd --require-tls --auth-required {AT_ENGINE} "
         f"--auth file:/etc/smtpd/users $SUBMISSION_RELAY\n{option}\n")
    systemctl("daemon-reload")


def engine():
    """The process id of the engine; 0: it does not run."""
    return int(prop("MainPID", ENGINE))


def stop_engine():
    """The socket stays, and systemd says on standard error that it does."""
    succeeds("/bin/sh", "-c", f"systemctl stop {ENGINE} 2>/dev/null")
    same(engine(), 0)


def shown():
    """Whom the certificate of port 587 names."""
    with Submission() as s:
        return s.name


class Submission:
    """A client of port 587 that has shaken hands."""

    def __enter__(self):
        return self

    def __init__(self):
        self.clear = connection(587)
        matches("^220 ", ask(self.clear))
        assert "STARTTLS" in ask(self.clear, "EHLO client.example.com")
        matches("^220 ", ask(self.clear, "STARTTLS"))
        self.tls = unverified().wrap_socket(self.clear)
        octets = self.tls.getpeercert(binary_form=True)
        self.name = re.search(rb"CN ?= ?(\S+)", subprocess.run(
            ["openssl", "x509", "-inform", "DER", "-noout", "-subject"],
            input=octets, stdout=subprocess.PIPE).stdout)[1].decode()
        matches("^250[- ]AUTH PLAIN LOGIN",
                ask(self.tls, "EHLO client.example.com"))

    def __exit__(self, *_):
        matches("^221 ", ask(self.tls, "QUIT"))
        same(self.tls.recv(1), b"")
        self.tls.close()


@test
def submission_serves_with_certificate_and_key():
    settle()
    certify("mail.example.com")
    add_jo()
    settings(SUBMISSION_RELAY="discard:")
    enable("smtpd-submission")
    same(shown(), "mail.example.com")
    wait_for_end("smtpd-submission")


@test
def the_socket_of_the_engine_is_for_smtpd_alone_and_starts_nothing():
    engine_alone()
    settings(SMTPD_RELAY="discard:",
             SUBMISSION_RELAY=f"maildir:{box('engine')}")
    enable("smtpd-tls")
    st = os.stat("/run/smtpd/tls.sock")
    same((oct(st.st_mode & 0o777), st.st_uid),
         ("0o600", pwd.getpwnam("smtpd").pw_uid))
    said, _ = run("runuser", "-u", "nobody", "--", "python3", "-c", """
import socket
print(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect_ex(
    "/run/smtpd/tls.sock"))""")
    same(said, f"{errno.EACCES}\n")
    same(engine(), 0)


@test
def a_session_without_STARTTLS_does_not_start_the_engine():
    for _ in range(3):
        with connection(587) as s:
            ask(s)
            assert "STARTTLS" in ask(s, "EHLO client.example.com")
            matches("^221 ", ask(s, "QUIT"))
    wait_for_end("smtpd-submission")
    same((engine(), prop("ActiveState", ENGINE)), (0, "inactive"))


@test
def the_first_STARTTLS_starts_the_engine_and_later_ones_find_it():
    for _ in range(2):
        succeeds(*SWAKS, "--port", "587", "--tls", *JO, "opensesame")
    pid = engine()
    assert pid != 0, "it was not started"
    same(len(delivered("engine")), 2)
    same(len(records("-u", ENGINE, "_PID=1", "-g", "Started")), 1)
    wait_for_end("smtpd-submission")
    same(engine(), pid)


@test
def the_key_is_the_engines_and_smtpds_user_cannot_read_it():
    pid, its = engine(), pwd.getpwnam("smtpd-tls")
    same(os.stat(f"/proc/{pid}").st_uid in (0, its.pw_uid), True)
    status = slurp(f"/proc/{pid}/status")
    matches(rf"^Uid:\s+{its.pw_uid}\s", status)
    copy = f"/run/credentials/{ENGINE}/tlskey"
    matches("PRIVATE KEY", slurp(copy))
    for path in (copy, "/etc/smtpd/tlskey", f"/proc/{pid}/mem",
                 f"/proc/{pid}/root{copy}"):
        for user in ("smtpd", "smtpd-tls" if path.startswith("/proc")
                     else "nobody"):
            said, _ = run("runuser", "-u", user, "--", "/bin/sh", "-c",
                          f"exec 2>&1; cat {path} | head -c 999")
            matches("Permission denied", said)


@test
def a_session_goes_on_over_a_restart_and_a_renewal_is_seen_by_the_next():
    same(shown(), "mail.example.com")
    before = engine()
    with Submission() as s:
        certify("new.example.com")
        systemctl("try-restart", ENGINE)
        after = engine()
        assert after not in (0, before), (before, after)
        with Submission() as new:
            same(new.name, "new.example.com")
            matches("^235 ", ask(s.tls, "AUTH PLAIN AGpvAG9wZW5zZXNhbWU="))
            matches("^250 ", ask(s.tls, "MAIL FROM:<jo@example.com>"))
            matches("^250 ", ask(s.tls, "RCPT TO:<rcpt@example.org>"))
            matches("^354 ", ask(s.tls, "DATA"))
            matches("^250 ", ask(s.tls, "Subject: over\r\n\r\nbody\r\n."))
    matches("^Subject: over", "\n".join(delivered("engine")))
    wait_for_end("smtpd-submission")
    same([r["MESSAGE"] for r in records("_PID=1", "-u", ENGINE, "-g",
                                        "SIGKILL|Failed")], [])


@test
def clients_that_come_during_restarts_are_not_refused():
    bad = []

    def work():
        for _ in range(10):
            try:
                with Submission():
                    pass
            except (AssertionError, OSError) as error:
                bad.append(repr(error))

    hands = [threading.Thread(target=work) for _ in range(3)]
    for hand in hands:
        hand.start()
    for _ in range(4):      # and each of them serves somebody
        systemctl("reset-failed", ENGINE)       # it counts starts
        succeeds("systemctl", "restart", ENGINE)
        same(shown(), "new.example.com")
    for hand in hands:
        hand.join()
    same(bad, [])
    wait_for_end("smtpd-submission")


@test
def an_engine_that_nobody_needs_ends_and_the_next_client_starts_it():
    where = f"{UNITS}/{ENGINE}.d"
    os.makedirs(where)
    start = re.search(r"^ExecStart=(.*?[^\\])$", systemctl("cat", ENGINE),
                      re.M | re.S)[1]
    assert "--idle 600" in start, start
    spew(f"{where}/idle.conf", "[Service]\nExecStart=\nExecStart=" +
         start.replace("--idle 600", "--idle 1"))
    systemctl("daemon-reload")
    stop_engine()
    same(shown(), "new.example.com")
    until(lambda: engine() == 0)
    same((prop("ActiveState", ENGINE), prop("Result", ENGINE)),
         ("inactive", "success"))
    same(prop("ActiveState", "smtpd-tls.socket"), "active")
    with Submission():
        assert engine() != 0, "it was not started again"
    os.unlink(f"{where}/idle.conf")
    systemctl("daemon-reload")


@test
def the_shipped_submission_unit_takes_the_engine_by_an_option():
    os.unlink(f"{UNITS}/smtpd-submission@.service.d/engine.conf")
    systemctl("daemon-reload")
    settings(SMTPD_RELAY="discard:", SUBMISSION_RELAY="discard:",
             SUBMISSION_OPTIONS=AT_ENGINE)
    # The unit's root has no right to files of others.
    os.chown("/etc/smtpd/tlskey", pwd.getpwnam("smtpd-tls").pw_uid, 0)
    os.chmod("/etc/smtpd/tlskey", 0o400)
    succeeds("systemctl", "restart", "smtpd-submission.socket")
    stop_engine()
    started = len(records("-u", ENGINE, "_PID=1", "-g", "Started"))
    same(shown(), "new.example.com")
    stop_engine()
    same(shown(), "new.example.com")
    same(len(records("-u", ENGINE, "_PID=1", "-g", "Started")), started + 2)
    same(records(event="tls-engine-away"), [])


@test
def without_its_socket_certificate_and_key_serve_and_the_log_says_so():
    systemctl("stop", "smtpd-tls.socket")
    stop_engine()
    assert not os.path.exists("/run/smtpd/tls.sock")
    os.chown("/etc/smtpd/tlskey", 0, 0)
    same(shown(), "new.example.com")
    wait_for_end("smtpd-submission")
    same(len(records(event="tls-engine-away")), 1)


@test
def nothing_has_failed():
    same(systemctl("list-units", "--failed", "--plain", "--no-legend",
                   "smtpd*"), "")
    same([r["MESSAGE"] for r in records("_PID=1", "-g",
                                        "smtpd.*Failed with result")], [])


main()
