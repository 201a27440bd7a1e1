#!/usr/bin/python3
"""peers-milter.t - filters of others: OpenDKIM, rspamd, ClamAV, SpamAssassin,
OpenDMARC, and one on pymilter, whose record of a session is compared with that
through Postfix."""
import base64
import glob
import os
import re
import socket
import subprocess
import sys

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from fakes.milter import box
from milters import (Clamav, OpenDKIM, OpenDMARC, Recorder, Redis, Rspamd,
                     Spamass, make_key, record)
from peer import Dovecot, Postfix, main
from tap import (Listener, Session, Skip, certificate, folder, message, script,
                 test, write)

PLACE = folder()
MAIL = ["From: a@example.org", "To: b@example.net", "Subject: a test",
        "Message-ID: <1@example.org>", "Date: Sat, 1 Aug 2026 10:00:00 +0000",
        ""]
HARD = [*MAIL[:-1], "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit", "",
        b"Gr\xc3\xbc\xc3\x9fe", "..", "..dot", "x" * 900, "", "trailing  ",
        ""]


def stored(where):
    texts = []
    for name in glob.glob(f"{where}/new/*"):
        with open(name, "rb") as f:
            texts.append(f.read())
    assert len(texts) == 1, texts
    return texts[0]


def pass_through(filters, *text, relay=None, options=()):
    """One message.  Returns the reply and, if there is one, what is stored."""
    where = box()
    asked = [a for f in filters for a in ("--milter", f.milter)]
    with Session("--nosetuid", *asked, *options,
                 *(relay or [f"maildir:{where}"])) as s:
        s.start()
        said = s.deliver(*text, sender="a@example.org", to=["b@example.net"])
        s.finish()
    return said, stored(where) if not relay and said[:3] == "250" else None


def dkimpy():
    try:
        import dkim
    except ImportError:
        raise Skip("no dkimpy here (package python3-dkim)")
    return dkim


def verified(message, key):
    """What dkimpy says of a message with CRLF."""
    return dkimpy().verify(message, dnsfunc=lambda name, timeout=5:
                       record(key).encode())


@test
def OpenDKIM_signs_and_the_signature_survives_every_relay():
    dkimpy()
    key = make_key(PLACE)
    with OpenDKIM("s", key) as signer:
        for text in (MAIL + ["body"], HARD):
            # A Maildir, with LF and with CRLF.
            for options in ([], ["--crlf"]):
                said, got = pass_through([signer], *text, options=options)
                assert said[:3] == "250", said
                got = got.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
                assert b"DKIM-Signature: v=1" in got
                assert verified(got, key), got
                assert not verified(got.replace(b"a test", b"a Test"), key)
            # A program.
            kept = f"{box()}.mail"
            said, _ = pass_through([signer], *text, relay=["--", script(
                PLACE, f"cat >{kept}")])
            assert said[:3] == "250", said
            with open(kept, "rb") as f:
                assert verified(f.read().replace(b"\n", b"\r\n"), key)
            # Another server.
            where = box()
            with Listener("--nosetuid", "--crlf", f"maildir:{where}") as hop:
                said, _ = pass_through(
                    [signer], *text, relay=[f"smtp:[127.0.0.1]:{hop.port}"])
                assert said[:3] == "250", said
            assert verified(stored(where), key)


@test
def OpenDKIM_verifies_what_it_signed():
    key = make_key(PLACE)
    with OpenDKIM("s", key) as signer, OpenDKIM("v", key) as verifier:
        said, got = pass_through([signer, verifier], *HARD)
        assert said[:3] == "250", said
        assert re.search(rb"(?s)Authentication-Results: mx\.example\.org;"
                         rb"[^:]*dkim=pass", got), got
        said, got = pass_through([verifier], *MAIL, "unsigned")
        assert b"dkim=pass" not in got


@test
def OpenDKIM_signs_on_the_way_to_a_smarthost():
    dkimpy()
    key, where = make_key(PLACE), box()
    certificate(PLACE, "hop", "localhost", "-addext",
                "subjectAltName=DNS:localhost")
    write(f"{PLACE}/users", "jo:" + subprocess.run(
        ["openssl", "passwd", "-6", "secret"], check=True, text=True,
        capture_output=True).stdout)
    write(f"{PLACE}/auth", "* jo:secret\n")
    with OpenDKIM("s", key) as signer, Listener(
            "--nosetuid", "--crlf", "--smtps", "--tlscert",
            f"{PLACE}/hop.pem", "--tlskey", f"{PLACE}/hop.key", "--auth",
            f"file:{PLACE}/users", "--auth-required",
            f"maildir:{where}") as smarthost:
        said, _ = pass_through([signer], *HARD, options=[
            "--relay-auth", f"{PLACE}/auth", "--relay-tls-ca",
            f"{PLACE}/hop.pem"], relay=[f"smtps:[localhost]:{smarthost.port}"])
        assert said[:3] == "250", said
    got = stored(where)
    assert b" with ESMTPSA " in got and verified(got, key), got


EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + \
    "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def attachment(octets):
    return [*MAIL[:-1], "MIME-Version: 1.0",
            'Content-Type: multipart/mixed; boundary="b"', "", "--b",
            "Content-Type: text/plain", "", "see attachment", "--b",
            "Content-Type: application/octet-stream; name=x.com",
            "Content-Transfer-Encoding: base64", "",
            base64.b64encode(octets.encode()).decode(), "--b--"]


@test
def ClamAV_finds_a_virus_in_an_attachment_and_lets_the_rest_pass():
    with Clamav() as scanner:
        said, _ = pass_through([scanner], *attachment(EICAR))
        assert said[:3] == "550" and "Infected" in said, said
        said, got = pass_through([scanner], *attachment("harmless"))
        assert said[:3] == "250" and b"X-Virus-Status: Clean" in got, said


GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


@test
def SpamAssassin_marks_mail_and_refuses_GTUBE():
    with Spamass() as scanner:
        said, got = pass_through([scanner], *MAIL, "hello")
        assert said[:3] == "250" and b"X-Spam-Checker-Version" in got, got
        said, _ = pass_through([scanner], *MAIL, GTUBE)
        assert said[:3] == "550", said


@test
def rspamd_adds_fields_refuses_GTUBE_and_greylists():
    with Redis() as redis, Rspamd(redis) as scanner:
        said, got = pass_through([scanner], *MAIL, "hello")
        assert said[:3] == "250" and b"X-Spamd-Result:" in got, (said, got)
        said, _ = pass_through([scanner], *MAIL, GTUBE)
        assert said[:3] == "554" and "Gtube" in said, said
        said, _ = pass_through([scanner], *MAIL[:2], "Subject: greylist me",
                               *MAIL[3:], "hello")
        assert said[:3] == "451", said


@test
def OpenDMARC_writes_its_result():
    key = make_key(PLACE)
    with OpenDKIM("v", key) as verifier, OpenDMARC() as judge:
        said, got = pass_through([verifier, judge], *MAIL, "hello")
        assert said[:3] == "250", said
        assert b"Authentication-Results: mx.example.org; dmarc=" in got, got


@test
def rspamd_stands_in_front_of_Dovecot():
    with Rspamd() as scanner, Dovecot(lmtp=True) as store, Session(
            "--nosetuid", "--milter", scanner.milter, store.relays[0]) as s:
        s.start()
        said = s.deliver(*MAIL, "hello", to=["b@example.net"])
        assert said[:3] == "250", said
        said = s.deliver(*MAIL, GTUBE, to=["b@example.net"])
        assert said[:3] == "554", said
        s.finish()
        mail, = store.messages("b")
        assert b"X-Spamd-Result:" in mail, mail


@test
def ClamAV_stands_between_two_Postfixes():
    with Clamav() as scanner, Postfix() as behind, Listener(
            "--nosetuid", "--milter", scanner.milter,
            behind.relays[0]) as between, Postfix(main=f"""
default_transport = smtp
relayhost = [127.0.0.1]:{between.port}
bounce_size_limit = 1
""") as front, Listener("--nosetuid", front.relays[0]) as door:
        with socket.create_connection(("127.0.0.1", door.port)) as client:
            read = client.makefile("rb")
            client.sendall(b"EHLO x\r\n" + message(
                *attachment(EICAR), to=["virus@example.net"]) + message(
                *attachment("harmless"), to=["b@example.net"]) + b"QUIT\r\n")
            assert read.read().count(b"250 2.0.0") == 2
        # The first Postfix bounces the message with the virus.
        arrived = {to: octets for (to,), octets in
                   (behind.arrival(), behind.arrival())}
        assert sorted(arrived) == ["a@example.org", "b@example.net"], arrived
        assert b"X-Virus-Status: Clean" in arrived["b@example.net"]
        assert b"Infected by" in arrived["a@example.org"]


# Where the records differ: Postfix has a queue id only after the first
# recipient, resolves addresses to mailers of its own and hosts, aborts again
# after each message, and of an unknown command tells the first word, where we,
# as Sendmail, tell all.  Version and ports are its own.
OWN = ("v", "{client_port}", "{daemon_port}",
       "i", "_", "{mail_mailer}", "{rcpt_mailer}", "{mail_host}",
       "{rcpt_host}", "{client_ptr}", "{client_name}")


def same(record):
    return [[name, [a.split()[0] for a in arguments] if name == "unknown"
             else arguments, {m: v for m, v in macros.items()
                               if m not in OWN}]
            for name, arguments, macros in record
            if name not in ("abort", "close")]


@test
def a_filter_on_pymilter_hears_and_does_what_it_does_with_Postfix():
    text = ["Subject: x", "X-Two: 1", "X-Gone: 1", "X-Two: 2", "X-Long: a",
            "\tb", "", "old", "body"]
    octets = b"EHLO client.example.org\r\nFOO bar\r\n" + message(
        *text, sender="a@example.org", to=["b@example.net", "c@example.net"]
        ) + b"RSET\r\nQUIT\r\n"
    with Recorder() as recorder, Postfix([
            f"smtpd_milters={recorder.milter}", "smtpd_client_port_logging=no"
            ], [], main="myhostname = mx.example.org") as mx, Listener(
                "--nosetuid", "--milter", recorder.milter,
                mx.relays[1]) as ours:
        records, mails = [], []
        for port in mx.ports[0], ours.port:
            with socket.create_connection(("127.0.0.1", port)) as client:
                read = client.makefile("rb")
                for line in octets.splitlines(keepends=True):
                    if line.startswith((b"EHLO", b"MAIL", b"RCPT", b"DATA",
                                        b"FOO", b"RSET", b"QUIT")):
                        while read.readline()[3:4] == b"-":
                            pass
                    client.sendall(line)
                read.read()
            mails.append(mx.arrival())
            records.append(recorder.heard())
        assert same(records[0]) == same(records[1]), (
            f"Postfix: {same(records[0])}\nsmtpd: {same(records[1])}")
        for to, got in mails:
            assert sorted(to) == ["added@example.net", "c@example.net",
                                  "never@example.net"], to
            got = re.sub(rb"(?m)^(Received|Message-Id|Date|From):.*\n"
                         rb"([ \t].*\n)*", b"", got)
            assert got == (b"X-Inserted: in front\nSubject: changed\n"
                           b"X-Two: 1\nX-Two: the second\nX-Long: a\n\tb\n"
                           b"X-Added: at the end\n\na new\nbody\n"), got


@test
def the_filters_verdicts_are_the_replies_that_Postfix_gives():
    with Recorder() as recorder, Postfix([
            f"smtpd_milters={recorder.milter}"], [],
            main="myhostname = mx.example.org") as mx, Listener(
                "--nosetuid", "--milter", recorder.milter,
                mx.relays[1]) as ours:
        replies = []
        for port in mx.ports[0], ours.port:
            with socket.create_connection(("127.0.0.1", port)) as client, \
                    client.makefile("rb") as read:
                read.readline()
                client.sendall(b"EHLO client.example.org\r\n")
                while read.readline()[3:4] == b"-":
                    pass
                replies.append([verdict(client, read, stage, what)
                                for stage in STAGES for what in VERDICTS])
        assert replies[0] == replies[1], "\n".join(
            f"{a} {b}" for a, b in zip(*replies) if a != b)
        assert replies[0] == [
            (stage, what, f"{command}: {SAID[what]}" if SAID[what]
             else "Subj: 250") for stage, command in STAGES.items()
            for what in VERDICTS], replies[0]


# The stages, each with what the client said last.
STAGES = {"mail": "MAIL", "rcpt": "RCPT", "data": "DATA", "header": "Subj",
          "end": "Subj"}
SAID = {"reject": "550 5.7.1 Command rejected\r\n",
        "tempfail": "451 4.7.1 Service unavailable, try again later\r\n",
        "reply": "554-5.7.9 100% of two\r\n554 5.7.9 lines\r\n",
        "discard": None, "accept": None}
VERDICTS = list(SAID)


def verdict(client, read, stage, what):
    """The last reply before a yes to all: which, and its text, but for what
    servers say of a message that they have."""
    for command in (f"MAIL FROM:<{stage}-{what}@example.org>",
                    "RCPT TO:<b@example.net>", "DATA",
                    "Subject: x\r\n\r\ny\r\n."):
        client.sendall(f"{command}\r\n".encode())
        said = read.readline()
        while said[3:4] == b"-":
            said += read.readline()
            if said.splitlines()[-1][3:4] != b"-":
                break
        if said[:1] not in b"23":
            client.sendall(b"RSET\r\n")
            read.readline()
            # Our words are the same but for a hyphen.
            said = said.decode().replace(" - try", ", try")
            return stage, what, f"{command[:4]}: {said}"
    return stage, what, f"{command[:4]}: {said[:3].decode()}"


if __name__ == "__main__":
    main()
