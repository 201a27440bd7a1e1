#!/usr/bin/env python3
"""live-hop.t - --live before a next hop that fails: at each step, in each way,
on its first connection or on all; that is another one when it is dialled
again; and what it is told beyond addresses."""
import concurrent.futures
import os
import shutil
import smtplib
import ssl
import tempfile
import threading
import time

from fakes.hop import Hop
from fakes.server import Server
from tap import (Listener, Session, certificate, folder, lines, main, need,
                 script, test, test_late)

EXTENSIONS = ("PIPELINING", "SIZE 1000000", "8BITMIME", "DSN")
SENDER = "MAIL FROM:<a@example.com>"
B, C = (f"RCPT TO:<{name}@example.net>" for name in "bc")
FAULTS = {"close": Hop.HANG_UP, "stall": Hop.STALL,
          "421": "421 4.3.2 x", "4yz": "450 4.2.0 x", "5yz": "550 5.1.0 x",
          "2yz": "299 x", "noise": "hello"}


def text(session, *body):
    """DATA, a message and its dot; the reply to that."""
    assert session.say("DATA")[0].startswith("354"), "DATA"
    session.send(lines("Subject: x", "", *(body or ["y"]), "."))
    return session.reply()


# Where the next hop has the fault, "" in its greeting; which faults on its
# first connection; which on all; then the codes that the client gets for VRFY,
# MAIL, RCPT b, RCPT c, the last dot, and MAIL after RSET; and how many
# connections and messages the next hop has seen.  "---": no message was begun.
TABLE = (
    ("", "close 421 4yz 5yz noise 2yz stall", "",
     "252 250 250 250 250 250", 2, 1),
    ("", "", "close 421 5yz noise 2yz stall",
     "252 451 503 503 --- 451", 4, 0),
    ("", "", "4yz", "252 450 503 503 --- 450", 4, 0),
    # The second connection says HELO.
    ("EHLO", "close", "close", "250 250 250 250 250 250", 2, 1),
    ("EHLO", "421 4yz noise 2yz stall", "", "252 250 250 250 250 250", 2, 1),
    ("EHLO", "5yz", "5yz", "250 250 250 250 250 250", 1, 1),
    ("EHLO", "", "421 noise 2yz stall", "252 451 503 503 --- 451", 4, 0),
    ("EHLO", "", "4yz", "252 450 503 503 --- 450", 4, 0),
    ("VRFY", "close 421 noise stall", "close 421 noise stall",
     "252 250 250 250 250 250", 2, 1),
    ("VRFY", "4yz", "4yz", "450 250 250 250 250 250", 1, 1),
    ("VRFY", "5yz", "5yz", "550 250 250 250 250 250", 1, 1),
    ("VRFY", "2yz", "2yz", "299 250 250 250 250 250", 1, 1),
    ("MAIL", "close 421", "", "250 250 250 250 250 250", 2, 1),
    ("MAIL", "4yz", "4yz", "250 450 503 503 --- 450", 1, 0),
    ("MAIL", "5yz", "5yz", "250 550 503 503 --- 550", 1, 0),
    ("MAIL", "noise stall", "", "250 451 503 503 --- 250", 2, 0),
    ("MAIL", "2yz", "2yz", "250 299 250 250 250 299", 1, 1),
    ("MAIL", "", "close 421", "250 451 503 503 --- 451", 4, 0),
    ("MAIL", "", "noise stall", "250 451 503 503 --- 451", 3, 0),
    ("RCPT TO:<b", "close 421 noise", "", "250 250 250 250 250 250", 2, 1),
    ("RCPT TO:<b", "4yz", "4yz", "250 250 450 250 250 250", 1, 1),
    ("RCPT TO:<b", "5yz", "5yz", "250 250 550 250 250 250", 1, 1),
    ("RCPT TO:<b", "2yz", "2yz", "250 250 299 250 250 250", 1, 1),
    ("RCPT TO:<b", "stall", "stall", "250 250 451 250 250 250", 2, 1),
    ("RCPT TO:<b", "", "close 421 noise", "250 250 451 451 --- 250", 3, 0),
    ("RCPT TO:<c", "close 421 noise", "", "250 250 250 250 250 250", 2, 1),
    ("RCPT TO:<c", "4yz", "4yz", "250 250 250 450 250 250", 1, 1),
    ("RCPT TO:<c", "5yz", "5yz", "250 250 250 550 250 250", 1, 1),
    ("RCPT TO:<c", "2yz", "2yz", "250 250 250 299 250 250", 1, 1),
    ("RCPT TO:<c", "stall", "stall", "250 250 250 451 250 250", 2, 1),
    ("RCPT TO:<c", "", "close 421 noise", "250 250 250 451 451 250", 3, 0),
    ("DATA", "close 421 noise 2yz", "", "250 250 250 250 250 250", 2, 1),
    ("DATA", "4yz", "4yz", "250 250 250 250 450 250", 1, 0),
    ("DATA", "5yz", "5yz", "250 250 250 250 550 250", 1, 0),
    # The time for the message is over.
    ("DATA", "stall", "stall", "250 250 250 250 451 250", 2, 0),
    ("DATA", "", "close 421 noise 2yz", "250 250 250 250 451 250", 3, 0),
    # It has the message, and does not say that it takes it.
    (".", "close 421 noise stall", "close 421 noise stall",
     "250 250 250 250 451 250", 2, 1),
    (".", "4yz", "4yz", "250 250 250 250 450 250", 1, 1),
    (".", "5yz", "5yz", "250 250 250 250 550 250", 1, 1),
    (".", "2yz", "2yz", "250 250 250 250 250 250", 1, 1),
    ("RSET", "close 421 4yz 5yz noise 2yz stall",
     "close 421 4yz 5yz noise 2yz stall", "250 250 250 250 250 250", 2, 1),
    ("BDAT", "close 421 noise stall", "close 421 noise stall",
     "250 250 250 250 451 250", 2, 0),
    ("BDAT", "4yz", "4yz", "250 250 250 250 450 250", 1, 0),
    ("BDAT", "5yz", "5yz", "250 250 250 250 550 250", 1, 0),
    ("BDAT", "2yz", "2yz", "250 250 250 250 250 250", 1, 1),
)


def outcome(step, fault, always):
    """A session with that fault: codes, connections, messages."""
    def answer(dial, command):
        there = command == step if step in ("", ".") else \
            command.startswith(step)
        return FAULTS[fault] if there and (always or dial == 1) else None
    hop = Hop(answer, extensions=EXTENSIONS + ("CHUNKING",) * (
        step == "BDAT"))
    with Session("--live", "--relay-timeout", "1", hop.relay()) as s:
        s.start()
        got = s.say("VRFY <b@example.net>", SENDER)
        got += s.say(B) + s.say(C)
        got.append(text(s) if {got[2][:3], got[3][:3]} & {"250", "299"}
                   else "---")
        s.say("RSET")
        s.say("MAIL FROM:<x@example.com>", "RSET")
        got += s.say(SENDER)
        _, log = s.finish()
    hop.settle()
    hop.close()
    assert "hello" not in "".join(got) and log, (step, fault, got)
    return (" ".join(reply[:3] for reply in got), hop.connections - 1,
            len(hop.messages))


@test
def a_fault_of_the_next_hop_at_any_step_loses_nothing_and_bounces_nothing():
    wanted = {}
    for step, once, always, *want in TABLE:
        for when, faults in (False, once), (True, always):
            for fault in faults.split():
                wanted[step, fault, when] = tuple(want)
    assert len(wanted) == 2 * 10 * len(FAULTS), "the table has gaps"
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        got = {row: pool.submit(outcome, *row) for row in wanted}
    wrong = [(row, got[row].result(), want) for row, want in wanted.items()
             if got[row].result() != want]
    assert not wrong, "\n".join(map(str, wrong))


# --- another one, when it is dialled again

MAIL_ALL = f"{SENDER} BODY=8BITMIME RET=HDRS"


def changed(second, *commands, at="DATA", body=("y",), answer=None):
    """The reply to a message before which the connection was lost; what the
    second one offers, or says."""
    def say(dial, command):
        if dial == 1 and command == at:
            return Hop.HANG_UP
        return answer(command) if dial == 2 and answer else None
    hop = Hop(say, extensions=lambda dial: EXTENSIONS if dial == 1
                   else second)
    with Session("--live", hop.relay()) as s:
        s.start()
        assert [r[:3] for r in s.say(*commands)] == ["250"] * len(commands)
        reply = text(s, *body)
        s.finish()
    hop.close()
    assert hop.connections == 2, reply
    assert len(hop.messages) == (reply[:3] == "250"), reply
    return reply, hop


@test
def dialled_again_it_must_be_able_to_do_the_same():
    grown = ("y" * 70,) * 10
    for second, commands, body, want in (
            (("SIZE 100", *EXTENSIONS[2:]), (SENDER, B), grown,
             "451 4.3.4 Message too big for next hop"),
            (("SIZE", "DSN"), (MAIL_ALL, B), ("gr\u00fcn",),
             "451 4.6.3 Next hop lacks 8BITMIME"),
            (("SIZE", "8BITMIME"), (MAIL_ALL, B), ("y",),
             "451 4.5.4 Next hop lacks an extension"),
            (("SIZE", "8BITMIME"), (SENDER, B + " NOTIFY=NEVER"), ("y",),
             "451 4.5.4 Next hop lacks an extension"),
            ((), (SENDER, B, C), ("y",), "250 2.0.0 taken"),
            (EXTENSIONS, (MAIL_ALL, B), ("gr\u00fcn",), "250 2.0.0 taken")):
        reply, _ = changed(second, *commands, body=body)
        assert reply == want, (second, commands, reply)


@test
def dialled_again_it_must_accept_the_same():
    for refused, said, want in (
            ("RCPT TO:<c", "550 5.1.1 Gone", "451 4.1.1 Gone"),
            ("RCPT TO:<b", "452 4.2.2 Full", "452 4.2.2 Full"),
            ("MAIL", "550 5.7.1 No more", "451 4.7.1 No more")):
        reply, hop = changed(EXTENSIONS, SENDER, B, C, answer=lambda command:
                             said if command.startswith(refused) else None)
        assert reply == want, reply


@test_late
def an_idle_client_gets_its_transaction_again():
    gone = threading.Event()

    def answer(dial, command):
        if command == "QUIT":
            gone.set()
        return None
    hop = Hop(answer, extensions=EXTENSIONS)
    with Session("--live", "--timeout", "4", hop.relay()) as s:
        s.start()
        assert s.say(SENDER, B) == ["250 2.0.0 taken"] * 2
        # After four times --timeout / 5 + 1 seconds; NOOP keeps the client.
        while not gone.wait(0.5):
            assert s.say("NOOP")[0][:3] == "250"
        assert s.say(C) == ["250 2.0.0 taken"]
        assert [command for number, command in hop.commands if number == 2][
            1:] == [SENDER, B, C], hop.commands
        assert text(s) == "250 2.0.0 taken"
        s.finish()
    assert hop.connections == 2 and len(hop.messages) == 1


# --- several of them

@test_late
def places_that_stall_do_not_keep_the_others_from_the_message():
    stalled = [Hop(lambda _, command: Hop.STALL
                        if command == "" else None) for _ in range(3)]
    good = Hop(extensions=EXTENSIONS)
    with tempfile.NamedTemporaryFile("w", suffix=".routes") as f:
        f.writelines(f"{name}@example.net {hop.relay()}\n"
                     for name, hop in zip("xyz", stalled))
        f.flush()
        os.chmod(f.name, 0o644)
        with Session("--live", "--relay-timeout", "1", "--routes", f.name,
                     good.relay()) as s:
            s.start()
            to = [f"RCPT TO:<{name}@example.net>" for name in "bxyz"]
            assert [r[:3] for r in s.say(SENDER, *to)] == [
                "250", "250", "451", "451", "451"]
            assert text(s)[:3] == "250"
            s.finish()
    for hop in stalled:
        hop.settle()        # by a connection of its own
    assert [hop.connections for hop in stalled] == [2] * 3
    assert len(good.messages) == 1


class Mute(Server):
    """Never speaks; took: for how long it was waited for."""

    took = 0

    def talk(self, connection, read, number):
        begun = time.monotonic()
        read.read()
        self.took = max(self.took, time.monotonic() - begun)


@test_late
def a_place_that_never_speaks_takes_a_quarter_of_the_time():
    with Mute() as first, Mute() as last:
        with Session("--relay-timeout", "2",
                     f"smtp:{first.at},{last.at}") as s:
            s.start()
            assert s.deliver()[:9] == "451 4.4.2"
            s.finish()
        first.settle()
        last.settle()
        # The last has all that is left; a half for the first is too much.
        assert first.took * 2 < last.took, (first.took, last.took)


# --- TLS from the start

@test
def smtps_answers_during_the_dialogue_and_is_dialled_again():
    need("openssl")
    place = folder()
    certificate(place, "hop", "localhost", "-addext",
                "subjectAltName=DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{place}/hop.pem", f"{place}/hop.key")
    hop = Hop(lambda dial, command: Hop.HANG_UP if dial == 1 and
              command == "DATA" else "550 5.1.1 unknown" if command == C
              else None, extensions=EXTENSIONS + ("REQUIRETLS",), tls=context)
    with Session("--live", "--relay-tls-ca", f"{place}/hop.pem",
                 hop.relay()) as s:
        # The client is not under TLS.
        assert "REQUIRETLS" not in s.start()
        assert s.say(SENDER, B, C) == ["250 2.0.0 taken"] * 2 + [
            "550 5.1.1 unknown"]
        assert text(s) == "250 2.0.0 taken"
        s.finish()
    assert hop.connections == 2 and len(hop.messages) == 1
    shutil.rmtree(place)


class Upgraded(Hop):
    """One of smtp:, under TLS by STARTTLS."""

    def relay(self):
        return super().relay().replace("smtps:", "smtp:")

    def under(self, connection):
        for said in ("220 x", "250-x\r\n250 STARTTLS", "220 go"):
            connection.sendall(said.encode() + b"\r\n")
            if said != "220 go":
                connection.recv(4096)
        return super().under(connection)

    def say(self, connection, number, command, usual):
        return super().say(connection, number, command, usual) if command \
            else 220


@test
def requiretls_is_for_a_client_under_tls_and_a_verified_next_hop():
    need("openssl")
    place = folder()
    for name in ("hop", "mx"):
        certificate(place, name, "localhost", "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1")
    context = ssl.create_default_context(cafile=f"{place}/mx.pem")
    under = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    under.load_cert_chain(f"{place}/hop.pem", f"{place}/hop.key")
    for kind, tls, offered in ((Hop, "none", True), (Upgraded, "must", True),
                               (Upgraded, "may", False)):
        hop = kind(tls=under, extensions=EXTENSIONS + ("REQUIRETLS",))
        with Listener("--live", "--relay-tls", tls, "--relay-tls-ca",
                      f"{place}/hop.pem", "--tlscert", f"{place}/mx.pem",
                      "--tlskey", f"{place}/mx.key", hop.relay()) as server:
            with smtplib.SMTP("127.0.0.1", server.port) as client:
                client.ehlo()
                assert not client.has_extn("requiretls")
                client.starttls(context=context)
                client.ehlo()
                assert client.has_extn("requiretls") == offered, (kind, tls)
                code, _ = client.mail("a@example.com", ["REQUIRETLS"])
                assert code == (250 if offered else 555), (kind, tls, code)
            server.logged()
        assert any(c.endswith(" REQUIRETLS") for c in hop.told()) == offered, \
            hop.commands
    shutil.rmtree(place)


# --- what it is told of the sender, and our mistakes

@test
def the_size_that_the_client_declares_is_told():
    hop = Hop(lambda _, command: "552 5.2.2 Over quota"
                   if "SIZE=4000" in command else None, extensions=EXTENSIONS)
    with Session("--live", hop.relay()) as s:
        s.start()
        assert s.say(f"{SENDER} SIZE=4000", f"{SENDER} SIZE=3000") == [
            "552 5.2.2 Over quota", "250 2.0.0 taken"]
        s.finish()
    assert [command for _, command in hop.commands if "MAIL" in command] == [
        f"{SENDER} SIZE=4000", f"{SENDER} SIZE=3000"], hop.commands


@test
def AUTH_of_MAIL_goes_on_where_the_next_hop_knows_us_and_we_the_client():
    place = folder()
    with open(f"{place}/smarthost", "w") as f:
        f.write(f"unix:{place}/hop us:secret\n")
    os.chmod(f"{place}/smarthost", 0o644)
    known = script(place, "exit 0")
    offer = ("--no-auth-require-tls", "--auth", f"checkpassword:{known}")
    login = "AUTH PLAIN AGpvZQB4"
    trusted = ("--relay-auth", f"{place}/smarthost")
    for live, options, client, value, want in (
            (True, trusted, login, "e+3Dmc2@x", "e+3Dmc2@x"),
            (True, trusted, login, "<>", "<>"),
            (True, trusted, "NOOP", "e+3Dmc2@x", "<>"),
            (True, trusted, login, None, None),
            (True, (), login, "e+3Dmc2@x", None),
            (False, trusted, login, "e+3Dmc2@x", None)):
        hop = Hop(extensions=(*EXTENSIONS, "AUTH PLAIN"),
                       path=f"{place}/hop")
        with Session(*["--live"] * live, *offer, *options,
                     hop.relay()) as s:
            s.start()
            assert s.say(client)[0][:3] == (
                "235" if client == login else "250")
            got = s.say(SENDER + (f" AUTH={value}" if value else ""), B)
            assert [r[:3] for r in got] == ["250", "250"], got
            assert text(s)[:3] == "250"
            s.finish()
        told, = [command for _, command in hop.commands if "MAIL" in command]
        assert told.partition(" AUTH=")[2].split(" ")[0] == (want or ""), told
        hop.close()
        os.unlink(f"{place}/hop")
    shutil.rmtree(place)


@test
def a_next_hop_that_wants_AUTH_or_TLS_is_our_mistake():
    for step, at in ("MAIL", 0), ("RCPT", 1):
        hop = Hop(lambda _, command: "530 5.7.0 Must authenticate first"
                       if command.startswith(step) else None,
                       extensions=EXTENSIONS)
        with Session("--live", hop.relay()) as s:
            s.start()
            got = s.say(SENDER, B)[at]
            assert got == "451 4.7.0 Must authenticate first", got
            _, log = s.finish()
        assert log.count("530 5.7.0 Must authenticate first; see "
                         "--relay-auth and --relay-tls") == 1, log


@test
def a_sender_that_the_next_hop_refuses_is_logged_once():
    hop = Hop(lambda _, command: "550 5.7.1 Not you"
                   if command.startswith("MAIL") else None,
                   extensions=EXTENSIONS)
    with Session("--live", hop.relay()) as s:
        s.start()
        assert s.say(SENDER) == ["550 5.7.1 Not you"]
        _, log = s.finish()
    assert log.count("event=refused") == 1, log
    assert "event=nexthop" not in log, log


main()
