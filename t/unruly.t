#!/usr/bin/env python3
"""unruly.t - token programs, and servers that want AUTH, that do what they
should not."""
import base64
import json
import os
import signal
import socket
import ssl
import threading

from fakes.provider import Provider
from tap import Session, certificate, folder, main, script, test

PLACE = folder()
CANNOT = "Cannot authenticate to next hop"
OURS = {"jo": "secret of jo"}


def sent(relay, credentials, *options):
    """The reply to a message, and the log, in which there is no secret."""
    path = os.path.join(PLACE, "credentials")
    with open(path, "w") as f:
        f.write(credentials)
    os.chmod(path, 0o644)
    with Session("--relay-auth", path, *options, relay) as s:
        s.start()
        got = s.deliver()
        s.finish()
        log = s.logged()
    assert OURS["jo"] not in log, log
    return got, log


def provider(mechanisms, **more):
    hop = Provider(os.path.join(PLACE, "hop"), mechanisms, passwords=OURS,
                   tokens=OURS, **more)
    os.chmod(hop.path, 0o777)
    return hop


def by_program(text, *options):
    with provider("XOAUTH2") as hop:
        got, log = sent(hop.relay(), f"* jo oauth2 {script(PLACE, text)}\n",
                        *options)
        tried = [line for _, line in hop.commands if line[:4] == "AUTH"]
        assert bool(tried) == (got[:3] == "250"), (text, got, tried)
    return got, log


# --- programs

@test
def odd_output_of_a_program_is_a_token_or_451():
    token = "echo 'secret of jo'"
    for text, why in (
            ("printf 'secret of jo'", None),
            ("printf 'secret of jo \\t\\r\\n\\nmore\\n'", None),
            (f"{token}; sleep 600 & echo $! >{PLACE}/child; exit 0", None),
            (f"cat; {token}", None),
            (f"{token}; yes warning | head -n 100000 >&2", None),
            ("echo no token >&2", "its first line of output is empty"),
            ("exec >&-; exit 0", "its first line of output is empty"),
            (f"echo; {token}", "its first line of output is empty"),
            (f"{token}; exit 1", "exit status 1"),
            ("head -c 1048576 /dev/zero | tr '\\0' x", "is too long"),
            ("printf 'secret of jo\\0\\n'", "has control characters")):
        got, log = by_program(text)
        assert got[:3] == "250" if why is None else \
            got == f"451 4.7.0 {CANNOT}", (text, got, log)
        assert why is None or why in log, (text, log)
        assert len(log.splitlines()) < 40, log
    with open(f"{PLACE}/child") as f:
        os.kill(int(f.read()), signal.SIGKILL)      # it was left alone


@test
def a_program_that_hangs_is_stopped_with_what_it_started():
    for text in ("trap '' TERM; sleep 600 & wait; sleep 600",
                 "yes warning >&2"):
        got, log = by_program(text, "--relay-timeout", "1")
        assert got == f"451 4.7.0 {CANNOT}", (text, got, log)
        assert "stopped, as it took too long" in log, log


# --- SCRAM

LONG = "A" * 2000       # more than a line of ours takes: it is not cut


@test
def what_a_server_says_first_is_checked():
    """A hop that says 235 to whatever follows it."""
    for first, good in (
            ("r=NONCE1,s=c2FsdA==,i=1", True),
            ("r=NONCE1,s=c2FsdA==,i=4096,x=future", True),
            ("r=NONCE,s=c2FsdA==,i=4096", False),
            ("r=NONC,s=c2FsdA==,i=4096", False),
            ("r=,s=c2FsdA==,i=4096", False),
            ("r=1NONCE,s=c2FsdA==,i=4096", False),
            ("r=NONCE1,s=c2FsdA==,i=0", False),
            ("r=NONCE1,s=c2FsdA==,i=-1", False),
            ("r=NONCE1,s=c2FsdA==,i=2147483648", False),
            ("r=NONCE1,s=c2FsdA==,i=18446744073709551617", False),
            ("r=NONCE1,s=c2FsdA==", False),
            ("r=NONCE1,s=,i=4096", False),
            ("r=NONCE1,s=?,i=4096", False),
            ("s=c2FsdA==,r=NONCE1,i=4096", False),
            ("m=x,r=NONCE1,s=c2FsdA==,i=4096", False),
            ("e=other-error", False), ("", False),
            ("r=NONCE1,s=" + LONG + ",i=4096", False)):
        with provider("SCRAM-SHA-256") as hop:
            finals = []

            def scram(ask, octets):
                nonce = octets.decode().split("r=")[1]
                finals.append(ask(first.replace("NONCE", nonce)))
                return "jo"

            hop.auth_scram_sha_256 = scram
            got, log = sent(hop.relay(), "* jo:secret of jo\n")
            # Our proof goes out where the message makes sense, and the yes
            # of a server that has sent none of its own is no yes.
            assert got == ("451 4.5.0 Next hop broke the protocol" if LONG in
                           first else f"451 4.7.8 {CANNOT}"), (first, got, log)
            assert len(finals) == good, (first, finals, log)
            assert ("does not prove that it knows" if good else
                    "not a reply" if LONG in first else
                    "the server's challenge makes no sense") in log, log
            assert not hop.messages


@test
def no_password_follows_to_a_server_that_lied():
    with provider("SCRAM-SHA-256 PLAIN LOGIN", forge="signature") as hop:
        got, log = sent(hop.relay(), "* jo:secret of jo\n")
        assert got == f"451 4.7.8 {CANNOT}", (got, log)
        assert [line.split(" ")[1] for _, line in hop.commands if
                line[:4] == "AUTH"] == ["SCRAM-SHA-256"], hop.commands


@test
def a_secret_that_a_server_repeats_is_not_logged():
    for late in (False, True):      # at once, and as the reply to MAIL
        with provider("PLAIN") as hop:
            def answer(verb, usual):
                said = [line for _, line in hop.commands if "AUTH" in line]
                return said[0] if verb == ("MAIL" if late else
                                           "AUTH PLAIN") else usual

            hop.answer = answer
            for options in ([], ["-d"]):
                hop.commands.clear()
                got, log = sent(hop.relay(), "* jo:secret of jo\n", *options)
                assert got == "451 4.5.0 Next hop broke the protocol", got
                assert f"{'MAIL' if late else 'AUTH'}: not a reply" in log, log
                auth = next(line for _, line in hop.commands
                            if line[:5] == "AUTH ")
                assert auth[11:] not in log, log
    for code in ("421 4.7.0", "454 4.7.0", "530 5.7.0", "535 5.7.8",
                 "550 5.7.60"):
        with provider("PLAIN") as hop:
            hop.answer = lambda verb, usual: usual if verb != "AUTH PLAIN" \
                else f"{code} Not now: {hop.commands[-1][1]}"
            got, log = sent(hop.relay(), "* jo:secret of jo\n")
            assert got[:3] == "451" and got[10:] == CANNOT, (code, got)
            auth = next(line for _, line in hop.commands
                        if line[:5] == "AUTH ")
            assert auth[11:] not in log, (code, log)


class Parrot(Provider):
    """Quotes what it was told: in codes' texts, JSON and challenges."""

    quote = ""

    def say(self, stream, text):
        if text[:4] in ("535 ", "235 ") and self.quote:
            text = f"{text[:3]} {text[0]}.7.8 You said {self.quote} to me"
        super().say(stream, text)


def quotes(secret, mechanism):
    """Forms in which it crosses, or may be quoted."""
    message = {"PLAIN": f"\0jo\0{secret}",
               "XOAUTH2": f"user=jo\1auth=Bearer {secret}\1\1",
               "OAUTHBEARER": f"n,a=jo,\1host=x\1port=25\1auth=Bearer "
               f"{secret}\1\1"}.get(mechanism, secret)
    whole = base64.b64encode(message.encode()).decode()
    return {"plain": secret, "part": secret[2:-1], "base64": whole,
            "without padding": whole.rstrip("="), "its end": whole[9:],
            "in a word": f"<<{secret}>>", "its base64":
            base64.b64encode(secret.encode()).decode()}


@test
def a_secret_that_a_reply_quotes_is_not_shown():
    """Nor does -d show it, which shows the rest of the reply."""
    for mechanism, method in (
            ("PLAIN", ":{}"), ("LOGIN", ":{}"), ("CRAM-MD5", ":{}"),
            ("SCRAM-SHA-256", ":{}"), ("XOAUTH2", " oauth2 /bin/echo {}"),
            ("OAUTHBEARER", " oauth2 /bin/echo {}")):
        for secret in ("hunter2-swordfish", "ya29." + "aBcD7-_." * 250):
            if len(secret) > 1000 and ":" in method:
                continue
            for known in (True, False):
                for form, quote in quotes(secret, mechanism).items():
                    shown_secret(mechanism, method.format(secret), secret,
                                 known, quote, form)


def shown_secret(mechanism, method, secret, known, quote, form):
    path = os.path.join(PLACE, "hop")
    users = {"jo": secret if known else "?"}
    with Parrot(path, mechanism, passwords=users, tokens=users,
                json=json.dumps({"status": quote[:200]})) as hop:
        os.chmod(path, 0o777)
        for words in (quote, ""):
            hop.quote = words
            _, log = sent(hop.relay(), f"* jo{method}\n", "-d")
            what = (mechanism, form, known, log)
            for at in range(0, len(quote) - 8, 4):
                assert quote[at:at + 8] not in log, what
            # What tells no secret is shown.
            said = "235 2.7.0 Ok" if known else "535 5.7.8 Authentication"
            assert words or said in log, what


# --- TLS

class Turncoat:
    """A hop that offers these in the clear, and nothing under TLS."""

    def __init__(self, offers):
        self.offers, self.heard = ["x", *offers], []
        certificate(PLACE, "hop", "localhost")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(f"{PLACE}/hop.pem", f"{PLACE}/hop.key")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        with self.listener, self.listener.accept()[0] as s:
            s.sendall(b"220 x\r\n")
            if self.talk(s, self.offers):
                with self.tls.wrap_socket(s, server_side=True) as s:
                    self.talk(s, ["x"])

    def talk(self, s, offers):
        """Ends with STARTTLS, when it is true, or QUIT."""
        with s.makefile("rb") as lines:
            for line in lines:
                line = line.decode().strip()
                self.heard.append(line)
                if line == "STARTTLS":
                    s.sendall(b"220 go\r\n")
                    return True
                if line == "QUIT":
                    s.sendall(b"221 bye\r\n")
                    return False
                said = offers if line[:4] == "EHLO" else ["ok"]
                s.sendall("".join(
                    f"250{'-' if i < len(said) else ' '}{word}\r\n"
                    for i, word in enumerate(said, 1)).encode())
        return False


@test
def AUTH_that_is_offered_in_the_clear_only_is_not_used():
    token = f" oauth2 {script(PLACE, 'echo secret of jo')}"
    for offers, method, enh, why in (
            (["AUTH PLAIN", "STARTTLS"], ":secret of jo", "4.7.0",
             "no mechanism for a password is offered"),
            (["AUTH PLAIN"], ":secret of jo", "4.7.11",
             "no password goes out without TLS"),
            (["AUTH XOAUTH2"], token, "4.7.11",
             "no token goes out without TLS")):
        hop = Turncoat(offers)
        got, log = sent(f"smtp:[127.0.0.1]:{hop.port}", f"* jo{method}\n",
                        "--relay-tls", "may")
        hop.thread.join()
        assert got == f"451 {enh} {CANNOT}" and why in log, (got, log)
        assert not [line for line in hop.heard if "AUTH" in line], hop.heard
        assert ("STARTTLS" in hop.heard) == (len(offers) == 2), hop.heard


if __name__ == "__main__":
    main()
