#!/usr/bin/env python3
"""peers-policy.t - postgrey and policyd-spf, which --policy asks, and Dovecot,
which --auth asks about passwords."""
import base64
import hashlib
import hmac
import os
import re
import sys

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from peer import Dovecot, Postgrey, Spf, main
from tap import HELLO, Listener, Session, lines, tcp_pair, test

USER, PASSWORD = "joe@example.org", "secret"


def as_client(address, *options, to=("b@example.org",)):
    """What the client with that address hears of its recipients, and the log
    with the message; None: a client that is on this host."""
    with Session("-n", "--xclient", "unix", *options, "print:") as s:
        s.start()
        if address:
            greeting, = s.say(f"XCLIENT ADDR={address} NAME=mail.example.com")
            assert greeting[:3] == "220", greeting
            s.send(lines(HELLO))
            assert s.reply()[:3] == "250"
        got = s.say("MAIL FROM:<s@example.com>",
                    *[f"RCPT TO:<{r}>" for r in to])
        assert got[0][:3] == "250", got
        if "250" in [reply[:3] for reply in got[1:]]:
            assert s.say("DATA")[0][:3] == "354"
            assert s.say("Subject: x\r\n\r\ny\r\n.")[0][:3] == "250"
        return got[1:], s.finish()[1]


@test
def postgrey_puts_a_stranger_off_and_then_marks_the_message():
    with Postgrey() as service:
        only = "--policy", f"RCPT={service.at}"
        (reply,), log = as_client("192.0.2.1", *only)
        assert reply.startswith("450 4.2.0 Greylisted"), reply
        assert "MESSAGE FOLLOWS" not in log
        while reply[:3] == "450":   # until its clock says: a second is over
            (reply,), log = as_client("192.0.2.1", *only)
        assert reply[:3] == "250", reply
        assert re.search(r"\nX-Greylist: delayed \d+ seconds by postgrey-",
                         log), log
        # A session has one connection.
        with Listener(path=service.path("front"), program=[
                "socat", "STDIO", service.at.replace("unix", "UNIX-CONNECT")
                ]) as front:
            got, _ = as_client(
                "192.0.2.1", "--policy", f"RCPT=unix:{service.path('front')}",
                to=["new@example.org", "b@example.org"])
            assert [reply[:3] for reply in got] == ["450", "250"], got
            assert len(front.processes) == 1


@test
def policyd_spf_refuses_forgers_and_marks_the_others_once():
    with Spf() as service:
        only = "--policy", f"RCPT={service.at}"
        (reply,), log = as_client("198.51.100.1", *only)
        assert reply.startswith("550 5.7.23 "), reply
        assert "MESSAGE FOLLOWS" not in log
        for to in (["b@example.org"], ["b@example.org", "c@example.org"]):
            got, log = as_client("192.0.2.1", *only, to=to)
            assert {reply[:9] for reply in got} == {"250 2.1.5"}, got
            assert re.search(r"\nReceived-SPF: Pass .*(\n\s.*)*"
                             r"client-ip=192\.0\.2\.1", log), log
            assert log.count("Received-SPF:") == 1, log
        (reply,), log = as_client(None, *only)
        assert reply[:3] == "250" and "\nX-Comment: SPF " in log, log


def b64(octets):
    return base64.b64encode(octets.encode() if isinstance(octets, str) else
                            octets).decode()


RIGHT = b64(f"\0{USER}\0{PASSWORD}")


class Login(Session):
    """A session whose passwords Dovecot knows."""

    def __init__(self, dovecot):
        # By TCP, because a client on a unix socket may be EXTERNAL.
        super().__init__("-n", "--auth", f"dovecot:{dovecot.auth}",
                         "--no-auth-require-tls", "discard:", pair=tcp_pair())
        self.offer = re.findall("(?m)^250[- ]AUTH (.*)", self.start())

    def user(self):
        """Whom the session, which ends, is known as."""
        return re.findall("event=auth-ok .*user=([^ ]+)", self.finish()[1])


def scram(session, user, password):
    """RFC 5802, RFC 7677: the last reply.  The server proves itself too."""
    def mac(key, text):
        return hmac.new(key, text, hashlib.sha256).digest()

    first = f"n={user},r={b64(os.urandom(18))}"
    challenge, = session.say(f"AUTH SCRAM-SHA-256 {b64('n,,' + first)}")
    assert challenge[:4] == "334 ", challenge
    server = base64.b64decode(challenge[4:]).decode()
    part = dict(x.split("=", 1) for x in server.split(","))
    assert part["r"].startswith(first.split("r=")[1]), server
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(),
                                 base64.b64decode(part["s"]), int(part["i"]))
    key, final = mac(salted, b"Client Key"), f"c=biws,r={part['r']}"
    said = ",".join((first, server, final)).encode()
    sign = mac(hashlib.sha256(key).digest(), said)
    proof = bytes(a ^ b for a, b in zip(key, sign))
    reply, = session.say(b64(f"{final},p={b64(proof)}"))
    if reply[:3] != "334":
        return reply
    verifier = base64.b64decode(reply[4:])
    assert verifier == b"v=" + b64(mac(mac(salted, b"Server Key"),
                                       said)).encode(), verifier
    return session.say("")[0]


def dovecot():
    return Dovecot(users={USER: PASSWORD}, mechanisms="plain login cram-md5 "
                   "scram-sha-256 anonymous")


@test
def dovecot_offers_what_it_has_but_for_anonymous():
    with dovecot() as d, Login(d) as s:
        assert s.offer == ["PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256"], s.offer


@test
def dovecot_and_the_client_prove_themselves_by_scram():
    with dovecot() as d:
        with Login(d) as s:
            reply = scram(s, USER, PASSWORD)
            assert reply.startswith("235 2.7.0 "), reply
            assert s.user() == [USER]
        with Login(d) as s:
            reply = scram(s, USER, "Secret")
            assert reply.startswith("535 "), reply
            assert s.user() == []


@test
def dovecot_takes_passwords_with_and_without_an_initial_response():
    success = "235 2.7.0 Authentication successful"
    with dovecot() as d:
        for said in (
                ((f"AUTH PLAIN {RIGHT}", success),),
                (("AUTH LOGIN", "334 VXNlcm5hbWU6"),
                 (b64(USER), "334 UGFzc3dvcmQ6"), (b64(PASSWORD), success)),
                (("AUTH PLAIN", "334 "),
                 ("*", "501 5.7.0 Authentication aborted"),
                 ("AUTH PLAIN", "334 "), (RIGHT, success))):
            with Login(d) as s:
                for command, wanted in said:
                    got, = s.say(command)
                    assert got == wanted, (command, got)
                assert s.user() == [USER]
        with Login(d) as s:
            got, = s.say("AUTH PLAIN AGpvZQB4")
            assert got == "535 5.7.8 Authentication credentials invalid", got


@test
def dovecot_that_has_gone_is_no_wrong_password():
    with dovecot() as d, Login(d) as before:
        d.stop()
        got, = before.say(f"AUTH PLAIN {RIGHT}")
        assert got == "454 4.7.0 Temporary authentication failure", got
        with Login(d) as after:
            assert after.offer == [], after.offer
            got, = after.say(f"AUTH PLAIN {RIGHT}")
            assert got == "454 4.7.0 Authentication is not available", got


if __name__ == "__main__":
    main()
