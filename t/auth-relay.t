#!/usr/bin/env python3
"""auth-relay.t - --auth relay: clients authenticate to the next hop itself."""
import base64
import hashlib
import hmac
import itertools
import os
import re
import smtplib
import ssl
import subprocess

from fakes.hop import Hop
from fakes.provider import Provider, b64
from tap import (HELLO, SMTPD, Listener, PolicyService, Session, certificate,
                 closed_port, folder, lines, main, test, test_late)

PLACE = folder()
PASSWORDS = {"jo@example.com": "p:a c=e,", "kim,k=1@example.com": "kimkim"}
TOKENS = {"jo@example.com": "ya29." + "a" * 40}
MECHANISMS = "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2 OAUTHBEARER"
PLAIN = b64("\0jo@example.com\0p:a c=e,")
SENDER = "MAIL FROM:<jo@example.com>"
RCPT = "RCPT TO:<b@example.net>"
DENIED = "535 5.7.8 Authentication failed"
LOST = ("451 4.4.2 Connection to next hop lost, and the login with it: "
        "connect again")
QUICK = "--no-auth-require-tls"


numbers = itertools.count()


def provider(mechanisms=MECHANISMS, **more):
    hop = Provider(os.path.join(PLACE, f"hop{next(numbers)}"), mechanisms,
                   **{"passwords": PASSWORDS, "tokens": TOKENS, **more})
    os.chmod(hop.path, 0o777)
    return hop


def scripted(answers, mechanisms="PLAIN LOGIN", **more):
    """A hop that answers a line that begins so."""
    def answer(dial, command):
        for begin, said in answers.items():
            if command.startswith(begin) and command:
                return said(dial) if callable(said) else said
        return None
    return Hop(answer, extensions=("PIPELINING", f"AUTH {mechanisms}"),
               **more)


class Through(Session):
    def __init__(self, hop, *arguments, quick=True, **more):
        self.hop = hop
        super().__init__("--live", "--auth", "relay:", *[QUICK] * quick,
                         *arguments, hop if isinstance(hop, str)
                         else hop.relay(), **more)

    def finish(self):
        done = super().finish()
        if not isinstance(self.hop, str):
            self.hop.wait()     # it has noted everything
        return done

    def offered(self, said=None):
        """The mechanisms of EHLO's reply."""
        for line in (said or self.say(HELLO)[0]).splitlines():
            if line[4:9] == "AUTH ":
                return line[9:].split()
        return []

    def text(self):
        """DATA, a message and its dot; the reply to that."""
        assert self.say("DATA")[0].startswith("354"), "DATA"
        self.send(lines("Subject: x", "", "y", "."))
        return self.reply()


def login(session, exchange):
    """Says each line; a line may be a function of the challenge before it."""
    got = []
    for line in exchange:
        if callable(line):
            line = line(base64.b64decode(got[-1][4:]).decode())
        got += session.say(line)
    return got


# ---- the command line -------------------------------------------------------

def refused(*arguments):
    done = subprocess.run([SMTPD, *arguments], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 64 and done.stdout == "", done
    return done.stderr


@test
def a_command_line_that_makes_no_sense_is_refused():
    usual = ("--live", "--auth", "relay:", QUICK)
    hop = "smtp:[127.0.0.1]:25"
    assert "needs --live" in refused("--auth", "relay:", QUICK, hop)
    assert "takes nothing after" in refused("--live", "--auth", "relay:x",
                                            QUICK, hop)
    assert "exclude each other" in refused(*usual, "--relay-auth", "/x", hop)
    assert "exclude each other" in refused(*usual, "--relay-xclient", hop)
    assert "needs a next hop" in refused(
        *usual, "--routes", "/dev/null", "discard:")
    # As nobody would ever be offered AUTH:
    assert "needs --tlscert" in refused("--live", "--auth", "relay:", hop)
    assert "without TLS to the next hop" in refused(
        "--live", "--auth", "relay:", "--proxy-protocol", hop)


# ---- EHLO -------------------------------------------------------------------

@test
def ehlo_offers_the_mechanisms_of_the_next_hop_that_can_be_handed_through():
    hop = Hop(extensions=(
        "AUTH plain SCRAM-SHA-256-PLUS SCRAM-SHA-256 EXTERNAL ANONYMOUS",
        "AUTH=PLAIN LOGIN GSSAPI", "AUTH",
        "AUTH " + "X" * 21 + " BAD/NAME X_1-2"))
    with Through(hop) as s:
        assert s.offered(s.start()) == ["PLAIN", "SCRAM-SHA-256", "LOGIN",
                                        "GSSAPI", "X_1-2"]
        for name in ("EXTERNAL", "SCRAM-SHA-256-PLUS", "ANONYMOUS", "XOAUTH2"):
            assert s.say(f"AUTH {name}") == [
                "504 5.5.4 Mechanism is not offered"], name
        s.finish()
    assert [c for _, c in hop.commands] == ["EHLO mx.example.org", "QUIT"]


@test
def a_next_hop_without_auth_or_that_is_away_offers_none():
    with Through(Hop(extensions=("PIPELINING",))) as s:
        assert s.offered(s.start()) == []
        assert s.say(f"AUTH PLAIN {PLAIN}") == [
            "454 4.7.0 Authentication is not available"]
        s.finish()
    with closed_port() as port, \
            Through("smtp:[127.0.0.1]:%d" % port.getsockname()[1]) as s:
        assert s.offered(s.start()) == []
        assert s.say(f"AUTH PLAIN {PLAIN}") == [
            "454 4.7.0 Authentication is not available"]
        s.finish()


@test
def no_credentials_cross_a_clear_line_to_the_next_hop():
    certificate(PLACE, "mx", "localhost")
    clear = scripted({})
    with provider() as hop:
        for relay, offers in ((clear.relay(), False), (hop.relay(), True)):
            with Listener("--live", "--auth", "relay:", "--relay-tls", "may",
                          "--tlscert", f"{PLACE}/mx.pem", "--tlskey",
                          f"{PLACE}/mx.key", relay) as server:
                client = smtplib.SMTP("127.0.0.1", server.port)
                client.ehlo()
                # Nor the line of the client:
                assert not client.has_extn("auth")
                assert client.docmd("AUTH", f"PLAIN {PLAIN}")[0] == \
                    (538 if offers else 454)
                context = ssl.create_default_context(
                    cafile=f"{PLACE}/mx.pem")
                context.check_hostname = False
                client.starttls(context=context)
                client.ehlo()
                assert client.has_extn("auth") == offers
                code, _ = client.docmd("AUTH", f"PLAIN {PLAIN}")
                assert code == (235 if offers else 454)
                client.quit()
                client.close()
    assert not [c for _, c in clear.commands if "AUTH" in c]


# ---- mechanisms -------------------------------------------------------------

def scram(user, password, gs2="n,,"):
    """The client's lines of SCRAM-SHA-256: RFC 5802."""
    quoted = user.replace("=", "=3D").replace(",", "=2C")
    bare = f"n={quoted},r=abc"
    expected = []

    def final(server):
        fields = dict(part.split("=", 1) for part in server.split(","))
        salted = hashlib.pbkdf2_hmac(
            "sha256", password.encode(), base64.b64decode(fields["s"]),
            int(fields["i"]))
        without = f"c={b64(gs2)},r={fields['r']}"
        text = f"{bare},{server},{without}"

        def mac(key, octets):
            return hmac.new(key, octets.encode(), "sha256").digest()

        key = mac(salted, "Client Key")
        proof = bytes(a ^ b for a, b in zip(
            key, mac(hashlib.sha256(key).digest(), text)))
        expected.append("v=" + b64(mac(mac(salted, "Server Key"), text)))
        return b64(f"{without},p={b64(proof)}")

    def verified(server):
        assert [server] == expected, "the server's signature"
        return ""

    return [f"AUTH SCRAM-SHA-256 {b64(gs2 + bare)}", final, verified]


def cram(challenge):
    digest = hmac.new(PASSWORDS["jo@example.com"].encode(),
                      challenge.encode(), "md5").hexdigest()
    return b64(f"jo@example.com {digest}")


XOAUTH2 = b64(f"user=jo@example.com\1auth=Bearer {TOKENS['jo@example.com']}"
              "\1\1")
BEARER = b64("n,a=jo@example.com,\1host=mx.example.org\1port=587\1"
             f"auth=Bearer {TOKENS['jo@example.com']}\1\1")
EXCHANGES = [
    ("PLAIN", [f"AUTH PLAIN {PLAIN}"], []),
    ("PLAIN", ["auth plain", PLAIN], [""]),
    ("LOGIN", ["AUTH LOGIN", b64("jo@example.com"), b64("p:a c=e,")],
     ["Username:", "Password:"]),
    ("LOGIN", ["AUTH LOGIN " + b64("jo@example.com"), b64("p:a c=e,")],
     ["Password:"]),
    ("CRAM-MD5", ["AUTH CRAM-MD5", cram], None),
    ("SCRAM-SHA-256", scram("jo@example.com", "p:a c=e,"), None),
    ("SCRAM-SHA-256", scram("kim,k=1@example.com", "kimkim"), None),
    ("XOAUTH2", [f"AUTH XOAUTH2 {XOAUTH2}"], []),
    ("XOAUTH2", ["AUTH XOAUTH2", XOAUTH2], [""]),
    ("OAUTHBEARER", [f"AUTH OAUTHBEARER {BEARER}"], []),
]


@test
def each_mechanism_goes_through_and_its_user_is_known():
    with provider() as hop, PolicyService(PLACE) as policy:
        for number, (name, exchange, challenges) in enumerate(EXCHANGES, 1):
            with Through(hop, "--policy", policy.place) as s:
                assert s.offered(s.start()) == MECHANISMS.split()
                *asked, last = login(s, exchange)
                assert last == "235 2.7.0 Ok", (name, asked, last)
                if challenges is not None:
                    assert asked == [f"334 {b64(c)}" for c in challenges]
                assert s.say(SENDER, RCPT) == ["250 2.1.0 Ok", "250 2.0.0 Ok"]
                question = policy.asked[-1]
                user = "kim,k=1@example.com" if number == 7 \
                    else "jo@example.com"
                assert (question["sasl_username"], question["sasl_method"]) \
                    == (user, name), question
                assert s.text() == "250 2.0.0 taken"
                status, log = s.finish()
            assert hop.logins[-1] == (number, name, user), hop.logins
            assert hop.messages[-1][:2] == (user, "jo@example.com")
            assert f" method={name} source=relay: " in log, log


@test_late
def a_wrong_token_is_told_as_the_mechanism_has_it():
    with provider() as hop, Through(hop) as s:
        s.start()
        wrong = b64("user=jo@example.com\1auth=Bearer wrong-token\1\1")
        said = login(s, [f"AUTH XOAUTH2 {wrong}", lambda json: ""])
        assert said == [f"334 {b64(hop.json)}", DENIED], said
        _, log = s.finish()
        assert "wrong-token" not in log and wrong not in log


@test
def an_empty_initial_response_is_handed_on_as_one():
    hop = scripted({"AUTH": "334 ", "=": "535 5.7.8 No",
                    "*": "501 5.7.0 Stopped"})
    with Through(hop) as s:
        s.start()
        assert s.say("AUTH PLAIN =", "") == [
            "334 ", "454 4.7.0 Next hop broke the protocol"]
        s.finish()
    assert [c for _, c in hop.commands][1:3] == ["AUTH PLAIN =", ""]


# ---- refusals ---------------------------------------------------------------

@test_late
def the_next_hops_refusal_is_ours_and_the_third_ends_the_session():
    with provider(refused="535-5.7.8 Not that one\r\n535 5.7.8 See "
                  "https://example.com") as hop, Through(hop) as s:
        s.start()
        bad = "AUTH PLAIN " + b64("\0jo@example.com\0wrong")
        assert s.say(bad) == ["535-5.7.8 Not that one\n"
                              "535 5.7.8 See https://example.com"]
        assert s.say(bad)[0][:3] == "535"
        assert s.say(bad) == ["421 4.7.0 mx.example.org Too many failed "
                              "authentications"]
        assert s.read.read() == b""
        s.process.wait()
        log = s.logged()
        assert log.count("PLAIN by relay: refused with 535 5.7.8") == 3, log
    assert hop.connections == 1


@test_late
def the_name_that_was_refused_is_recorded_only_where_it_is_asked_for():
    xoauth2 = b64("user=kim@example.com\1auth=Bearer x\1\1")
    for options, tried in (((), [None] * 3), (
            ("--log-auth-names",),
            ["jo@example.com", "not? mine", "kim@example.com"])):
        with provider() as hop, Through(hop, *options) as s:
            s.start()
            s.say(HELLO)
            assert s.say("AUTH PLAIN " + b64("\0jo@example.com\0no")) == \
                [DENIED]
            got = login(s, ("AUTH LOGIN", b64("not\n mine"), b64("no")))
            assert got[2] == DENIED, got
            assert s.say("AUTH XOAUTH2 " + xoauth2)[0][:3] == "334"
            assert s.say("")[0][:9] == "421 4.7.0"      # the third
            s.process.wait()
            log = s.logged()
        failed = [line for line in log.splitlines()
                  if "event=auth-failed" in line]
        names = [re.search(r' tried=("[^"]*"|\S+)', line) for line in failed]
        assert [n and n[1].strip('"') for n in names] == tried, log
    with provider() as hop, Through(hop, "--log-auth-names") as s:
        s.start()
        s.say(HELLO)
        got = login(s, ("AUTH LOGIN", b64("kim"), "no*base64"))
        assert got[2] == "501 5.5.2 Response is not base64", got
        assert s.say("AUTH PLAIN")[0][:3] == "334"
        assert s.say("*")[0][:3] == "501"
        assert s.say(f"AUTH PLAIN {PLAIN}")[0][:3] == "235"
        _, log = s.finish()
    assert " user=jo@example.com " in log, log
    assert "tried=jo" not in log, log


@test_late
def other_codes_reach_the_client_too():
    for said, heard in (
            ("432 4.7.12 Change it", "432 4.7.12 Change it"),
            ("534 5.7.9 Too weak", "534 5.7.9 Too weak"),
            ("454 4.7.0 Later", "454 4.7.0 Later"),
            ("550 5.7.1 No", "550 5.7.1 No"),
            ("504 5.5.4 Not now", "504 5.5.4 Not now"),
            ("535 no", "535 5.0.0 no"),
            # What only the administrator can mend is temporary.
            ("538 5.7.11 Encrypt", "454 4.7.0 Encrypt"),
            ("530 5.7.0 STARTTLS first", "451 4.7.0 STARTTLS first"),
            ("421 4.3.2 Going", "454 4.7.0 Going")):
        hop = scripted({"AUTH": said})
        with Through(hop) as s:
            s.start()
            assert s.say(f"AUTH PLAIN {PLAIN}") == [heard], heard
            assert s.say("NOOP")[0][:3] == "250"
            s.finish()


@test_late
def guesses_end_the_session_whatever_code_refuses_them():
    hop = scripted({"AUTH": "550 5.7.1 No"})
    with Through(hop) as s:
        s.start()
        got = [s.say(f"AUTH PLAIN {PLAIN}")[0] for _ in range(4)]
        assert got == ["550 5.7.1 No"] * 3 + [
            "421 4.7.0 mx.example.org Too many failed authentications"], got
    assert len([c for _, c in hop.commands if "AUTH" in c]) == 3


@test_late
def a_refused_client_may_try_again_on_the_same_connection():
    with provider() as hop, Through(hop) as s:
        s.start()
        assert s.say("AUTH PLAIN " + b64("\0jo@example.com\0wrong")) == [
            DENIED]
        assert s.say(f"AUTH PLAIN {PLAIN}") == ["235 2.7.0 Ok"]
        assert s.say(SENDER, RCPT)[1] == "250 2.0.0 Ok"
        assert s.text() == "250 2.0.0 taken"
        s.finish()
    assert hop.connections == 1


# ---- exchanges that end early -----------------------------------------------

@test
def an_exchange_that_the_client_gives_up_ends_at_the_next_hop():
    for line, code in (("*", "501 5.7.0"), ("not base64!", "501 5.5.2"),
                       ("A" * 13000, "500 5.5.6"), ("AA\0A", "501 5.5.2")):
        with provider() as hop, Through(hop) as s:
            s.start()
            assert s.say("AUTH LOGIN", line)[1].startswith(code), line
            assert s.say(f"AUTH PLAIN {PLAIN}") == ["235 2.7.0 Ok"]
            s.finish()
        assert [c for _, c in hop.commands][1:3] == ["AUTH LOGIN", "*"], \
            hop.commands
        assert hop.connections == 1


@test
def a_client_that_leaves_in_an_exchange_leaves_no_command_in_it():
    with provider() as hop:
        with Through(hop) as s:
            s.start()
            assert s.say("AUTH LOGIN")[0][:3] == "334"
        # The hop serves one at a time: it is done with the first.
        with Through(hop) as s:
            s.start()
            s.finish()
    assert [c for n, c in hop.commands if n == 1] == [
        "EHLO mx.example.org", "AUTH LOGIN"], hop.commands


@test
def what_the_client_pipelines_after_auth_is_not_for_the_next_hop():
    with provider() as hop, Through(hop) as s:
        s.start()
        s.send(lines(f"AUTH PLAIN {PLAIN}", SENDER, RCPT))
        assert s.replies(3) == ["235 2.7.0 Ok", "250 2.1.0 Ok",
                                "250 2.0.0 Ok"]
        assert s.say("RSET", "NOOP") == ["250 2.0.0 OK"] * 2
        s.finish()
    with provider() as hop, Through(hop) as s:
        s.start()
        # A response is awaited, and this is none.
        s.send(lines("AUTH LOGIN", SENDER, RCPT))
        assert [r[:9] for r in s.replies(3)] == ["334 VXNlc", "501 5.5.2",
                                                 "503 5.5.1"]
        s.finish()
    assert [c for _, c in hop.commands][1:] == ["AUTH LOGIN", "*", "QUIT"]


@test
def a_second_auth_and_auth_in_a_transaction_are_refused_here():
    with provider() as hop, Through(hop) as s:
        s.start()
        assert s.say(f"AUTH PLAIN {PLAIN}", f"AUTH PLAIN {PLAIN}") == [
            "235 2.7.0 Ok", "503 5.5.1 Authenticated already"]
        # Also after EHLO.
        assert s.offered() == MECHANISMS.split()
        assert s.say(f"AUTH PLAIN {PLAIN}") == [
            "503 5.5.1 Authenticated already"]
        assert s.say(SENDER, f"AUTH PLAIN {PLAIN}", RCPT)[1][:9] == \
            "503 5.5.1"
        assert s.text() == "250 2.0.0 taken"
        s.finish()
    assert [c.split()[0] for _, c in hop.commands] == [
        "EHLO", "AUTH", "EHLO", "MAIL", "RCPT", "DATA", "QUIT"], hop.commands
    assert hop.connections == 1


@test
def ehlo_after_auth_tells_what_the_next_hop_has_for_that_user():
    asked = itertools.count()
    hop = scripted({"EHLO": lambda dial: "250-next.example.net\r\n" +
                    ("250-SIZE 1000\r\n250 AUTH PLAIN" if next(asked) == 0
                     else "250-SIZE 5000\r\n250 DSN"),
                    "AUTH": "235 2.7.0 Ok"})
    big = SENDER + " SIZE=3000"
    with Through(hop) as s:
        s.start()
        assert s.say(big)[0][:9] == "552 5.3.4"
        assert s.say(f"AUTH PLAIN {PLAIN}") == ["235 2.7.0 Ok"]
        said = s.say(HELLO)[0].splitlines()
        # Clients that look again must still find AUTH, as with any source.
        assert {"250-SIZE 5000", "250-DSN"} < set(said), said
        assert s.offered(said="\n".join(said)) == ["PLAIN"], said
        # It is asked once: nothing changes after that.
        s.say(HELLO)
        assert s.say(big, RCPT) == ["250 2.0.0 taken"] * 2
        s.finish()
    assert [c.split()[0] for _, c in hop.commands] == [
        "EHLO", "AUTH", "EHLO", "MAIL", "RCPT", "QUIT"], hop.commands


@test
def a_login_that_is_lost_in_ehlo_is_not_given_again():
    asked = itertools.count()
    hop = scripted({"EHLO": lambda dial: None if next(asked) == 0
                    else Hop.HANG_UP, "AUTH": "235 2.7.0 Ok"})
    with Through(hop) as s:
        s.start()
        assert s.say(f"AUTH PLAIN {PLAIN}") == ["235 2.7.0 Ok"]
        assert s.offered() == []
        assert s.say(SENDER) == [LOST]
        s.finish()
    assert hop.connections == 1


@test
def a_token_has_12288_octets_and_not_more():
    big = base64.b64encode(b"user=jo\1auth=Bearer " + b"t" * 9194
                           + b"\1\1").decode()
    assert len(big) == 12288
    hop = scripted({"AUTH": "334 ", "dXNl": "235 2.7.0 Ok"}, "XOAUTH2")
    with Through(hop) as s:
        s.start()
        assert s.say("AUTH XOAUTH2", big) == ["334 ", "235 2.7.0 Ok"]
        s.finish()
    assert (1, big) in hop.commands
    with Through(hop) as s:
        s.start()
        assert s.say("AUTH XOAUTH2", big + "AAAA")[1][:9] == "500 5.5.6"
        s.finish()


# ---- a next hop that means harm, or is ill ----------------------------------

@test
def a_next_hop_that_makes_no_sense_is_left_and_the_client_may_try_again():
    challenge = base64.b64encode(b"c" * 700).decode()
    for said in ("250 fine", "354 go", "garbage", "334-Vg==\r\n334 Vg==",
                 "235", "334 " + "A" * 2000, "221 2.0.0 Bye",
                 Hop.HANG_UP):
        hop = scripted({"AUTH": lambda dial: said if dial == 1
                        else "235 2.7.0 Ok"})
        with Through(hop) as s:
            s.start()
            got = s.say(f"AUTH PLAIN {PLAIN}")[0]
            if said == "235":
                assert got == "235 2.0.0 OK", repr(got)
            else:
                assert got[:9] == "454 4.7.0", (said, got)
                assert s.say(f"AUTH PLAIN {PLAIN}") == ["235 2.7.0 Ok"]
            s.finish()
        assert hop.connections == (1 if said == "235" else 2), said
    hop = scripted({"AUTH": f"334 {challenge}"})
    with Through(hop) as s:
        s.start()
        assert s.say("AUTH PLAIN", "*")[0] == f"334 {challenge}"
        s.finish()


@test
def a_next_hop_that_never_has_enough_is_stopped():
    hop = scripted({"AUTH": "334 ", "QQ==": "334 QQ==", "*": "501 Stopped"})
    with Through(hop) as s:
        s.start()
        assert s.say("AUTH PLAIN") == ["334 "]
        got = [s.say("QQ==")[0] for _ in range(32)]
        assert got == ["334 QQ=="] * 31 + [
            "454 4.7.0 Too many challenges of next hop"], got
        s.finish()
    assert [c for _, c in hop.commands][-2:] == ["*", "QUIT"]


@test
def a_next_hop_that_goes_away_within_an_exchange_is_a_temporary_failure():
    for said in (Hop.HANG_UP, "421 4.3.2 Going down"):
        hop = scripted({"AUTH": "334 VXNlcm5hbWU6", "am8=": said})
        with Through(hop) as s:
            s.start()
            got = s.say("AUTH LOGIN", "am8=")
            assert got[1][:9] == "454 4.7.0", got
            assert s.say("AUTH LOGIN", "*")[0][:3] == "334"
            s.finish()
        assert hop.connections == 2


@test
def a_next_hop_that_left_before_auth_is_dialled_again():
    hop = scripted({"AUTH": "235 2.7.0 Ok", "VRFY": Hop.HANG_UP})
    with Through(hop) as s:
        s.start()
        s.say("VRFY <a@example.net>")
        assert s.say(f"AUTH PLAIN {PLAIN}") == ["235 2.7.0 Ok"]
        s.finish()
    assert hop.connections == 2


@test
def a_login_that_is_lost_with_its_connection_is_not_given_again():
    for lost in ("MAIL", "RCPT", "DATA", "RSET"):
        hop = scripted({"AUTH": "235 2.7.0 Ok", lost: Hop.HANG_UP})
        with Through(hop) as s:
            s.start()
            assert s.say(f"AUTH PLAIN {PLAIN}") == ["235 2.7.0 Ok"]
            got = s.say(SENDER)
            if lost != "MAIL":
                assert got == ["250 2.0.0 taken"], got
                got = s.say(RCPT)
            if lost == "DATA":
                got = [s.text()]
            if lost == "RSET":
                s.say("RSET")
                got = s.say(SENDER)
            assert got[0][:9] == "451 4.4.2", (lost, got)
            s.say("RSET")
            # It stays so: the client must come again.
            assert s.say(SENDER) == [LOST], lost
            assert s.offered() == []
            assert s.say(SENDER) == [LOST], lost
            s.finish()
        assert hop.connections == 1, (lost, hop.commands)
        assert not hop.messages


@test
def on_whose_behalf_the_client_says_that_it_sends_is_for_the_next_hop():
    for mechanisms, said in (("PLAIN", f"AUTH PLAIN {PLAIN}"),
                             ("GSSAPI", "AUTH GSSAPI QUFB")):
        hop = scripted({"AUTH": "235 2.7.0 Ok"}, mechanisms)
        with Through(hop) as s:
            s.start()
            assert s.say(said)[0][:3] == "235"
            assert s.say(SENDER + " AUTH=kim@example.com") == [
                "250 2.0.0 taken"]
            s.finish()
        assert (1, SENDER + " AUTH=kim@example.com") in hop.commands, \
            hop.commands


# ---- what a client may ------------------------------------------------------

@test
def the_rights_of_a_client_are_those_of_one_that_authenticated():
    for mechanisms, said, user in (
            ("PLAIN", f"AUTH PLAIN {PLAIN}", "user=jo@example.com"),
            # No name is known, but somebody it is.
            ("GSSAPI", "AUTH GSSAPI QUFB", ""),
            ("PLAIN", "AUTH PLAIN " + b64("\0a\nb\0c"), "")):
        hop = scripted({"AUTH": "235 2.7.0 Ok"}, mechanisms)
        with Through(hop, "--relay-clients", "auth") as s:
            s.start()
            assert s.say(SENDER, RCPT) == ["250 2.0.0 taken",
                                           "554 5.7.1 Relay access denied"]
            assert s.say("RSET", said) == ["250 2.0.0 OK", "235 2.7.0 Ok"]
            assert s.say(SENDER, RCPT) == ["250 2.0.0 taken"] * 2
            assert s.text() == "250 2.0.0 taken"
            _, log = s.finish()
            assert user in log, log
        hop = scripted({"AUTH": "235 2.7.0 Ok"}, mechanisms)
        with Through(hop, "--auth-required") as s:
            s.start()
            assert s.say(SENDER) == ["530 5.7.0 Authentication required"]
            assert s.say(said, SENDER, RCPT) == [
                "235 2.7.0 Ok", "250 2.0.0 taken", "250 2.0.0 taken"]
            assert s.text() == "250 2.0.0 taken"
            s.finish()


@test
def starttls_after_auth_begins_with_nobody_on_a_new_connection():
    certificate(PLACE, "mx", "localhost")
    with provider() as hop:
        with Listener("--live", "--auth", "relay:", QUICK,
                      "--tlscert", f"{PLACE}/mx.pem", "--tlskey",
                      f"{PLACE}/mx.key", hop.relay()) as server:
            client = smtplib.SMTP("127.0.0.1", server.port)
            client.ehlo()
            assert client.docmd("AUTH", f"PLAIN {PLAIN}")[0] == 235
            context = ssl.create_default_context(cafile=f"{PLACE}/mx.pem")
            context.check_hostname = False
            client.starttls(context=context)
            client.ehlo()
            # The next hop knows nobody on this connection.
            assert client.mail("jo@example.com") == (
                451, b"4.7.57 Client not authenticated to send mail")
            assert client.docmd("AUTH", f"PLAIN {PLAIN}")[0] == 235
            assert client.mail("jo@example.com")[0] == 250
            client.quit()
            client.close()
    assert [n for n, c in hop.commands if c.startswith("AUTH")] == [1, 2]


@test
def xclient_after_auth_begins_with_nobody_on_a_new_connection():
    with provider() as hop, Through(hop, "--xclient", "unix") as s:
        s.start()
        assert "\n250-XCLIENT " in s.say(HELLO)[0]
        assert s.say(f"AUTH PLAIN {PLAIN}") == ["235 2.7.0 Ok"]
        assert s.say("XCLIENT ADDR=192.0.2.9")[0][:3] == "220"
        assert s.offered() == MECHANISMS.split()
        assert s.say(SENDER) == [
            "451 4.7.57 Client not authenticated to send mail"]
        assert s.say(f"AUTH PLAIN {PLAIN}", SENDER) == [
            "235 2.7.0 Ok", "250 2.1.0 Ok"]
        s.finish()
    assert [n for n, c in hop.commands if c.startswith("AUTH")] == [1, 2]


# ---- secrets ----------------------------------------------------------------

@test_late
def no_log_has_a_secret_even_if_the_next_hop_repeats_it():
    token, password = TOKENS["jo@example.com"], "correct horse"
    plain = b64(f"\0jo@example.com\0{password}")
    secrets = (token, password, plain, b64(password), XOAUTH2, BEARER)
    for exchange, echo in (
            ([f"AUTH PLAIN {plain}"], password),
            ([f"AUTH PLAIN {plain}"], plain),
            (["AUTH LOGIN", b64("jo@example.com"), b64(password)], password),
            ([f"AUTH XOAUTH2 {XOAUTH2}"], token),
            # The error of a token comes as a challenge.
            ([f"AUTH XOAUTH2 {XOAUTH2}", "Zm9v"], token),
            ([f"AUTH OAUTHBEARER {BEARER}"], token)):
        # 535 is answered late: once will do.
        for code in ("530 5.7.0", "235 2.7.0", "garbage", "550",
                     "421 4.7.0", "550-5.7.1",
                     *["535 5.7.8"] * (echo == plain)):
            last = exchange[-1]
            more = f"\r\n{code[:3]} {echo}" if code[3:4] == "-" else ""
            hop = scripted({last: f"{code} I heard {echo}{more}",
                            "AUTH": f"334 {XOAUTH2}",
                            b64("jo@example.com"): f"334 {plain}"},
                           MECHANISMS)
            transcript = os.path.join(folder(), "transcript")
            with Through(hop, "-d", "--record", transcript) as s:
                s.start()
                said = login(s, exchange)[-1]
                # The client knows it.
                assert echo in said or code == "garbage", said
                # What comes after it is shown.
                assert s.say("NOOP") == ["250 2.0.0 OK"]
                _, log = s.finish()
            with open(transcript) as f:
                log += f.read()
            for secret in secrets:
                assert secret not in log, (exchange, code, log)
            assert "by relay:" in log, log
            if code == "550-5.7.1":
                assert log.count("S: 550-5.7.1 ********") == 2 and \
                    log.count("S: 550 5.7.1 ********") == 2, log
                assert "S: 250 2.0.0 OK\n" in log, log


# ---- --check ----------------------------------------------------------------

@test
def check_says_what_clients_would_be_offered():
    def check(hop):
        return subprocess.run(
            [SMTPD, "--check=connect", "--live", "--auth", "relay:", QUICK,
             hop.relay()], capture_output=True, text=True,
            stdin=subprocess.DEVNULL).stdout

    said = check(scripted({}, "LOGIN EXTERNAL PLAIN"))
    assert "good: --auth relay:" in said and "offers LOGIN PLAIN\n" in said, \
        said
    said = check(Hop(extensions=()))
    assert "doubt: --auth relay:" in said, said


main()
