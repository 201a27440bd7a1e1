#!/usr/bin/env python3
"""milter-more.t - filters among others: that are killed, that serve two
sessions, that stand beside a policy service, a next hop of --live, LMTP, BDAT,
TLS and AUTH."""
import os
import re
import signal
import ssl
import subprocess
import threading

from fakes.hop import Hop
from fakes.milter import (PLACE, Filter, box, changes, number, packet, stored,
                          strings)
from tap import (SANITIZED, PolicyService, Session, certificate, family,
                 folder, lines, main, message, script, test, write)

def heard(filter_, event):
    return [data for e, data in filter_.heard if e == event]


# --- killed

class Mortal:
    """A filter with a process of its own that is killed at an event, before it
    answers or in the middle of an answer."""

    def __init__(self, event, last=b""):
        self.path = os.path.join(PLACE, "mortal")
        self.place = f"unix:{self.path}"
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.live(event, last, told)
        os.close(told)
        os.read(ready, 1)
        os.close(ready)

    def live(self, event, last, told):
        class Serving(Filter):
            def answer(self, client, count, heard_, data):
                if heard_ == event:
                    client.sendall(last)
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().answer(client, count, heard_, data)
        self.serving = Serving(PLACE, name="mortal")
        os.write(told, b"x")
        while True:
            signal.pause()

    def end(self):
        """Returns the signal that ended it; that is ours if it lives."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            os.kill(self.pid, signal.SIGTERM)
            status = os.waitpid(self.pid, 0)[1]
        return os.WTERMSIG(status)


STEPS = {"O": "CONNECT", "C": "CONNECT", "H": "HELO", "U": "UNKNOWN",
         "M": "MAIL", "R": "RCPT", "T": "DATA", "L": "END-OF-MESSAGE",
         "N": "END-OF-MESSAGE", "B": "END-OF-MESSAGE", "E": "END-OF-MESSAGE"}
HALF = (b"", packet("h", strings("Half", "1")) + b"\0\0\0\x09h",
        packet("b", b"half a body")[:9])


@test
def a_filter_that_is_killed_at_any_callback_loses_nothing():
    for default, want, count in (("tempfail", "451", 0), ("reject", "550", 0),
                                 ("accept", "250", 1)):
        for event, step in STEPS.items():
            for last in HALF if event == "E" else HALF[:1]:
                where = box()
                f = Mortal(event, last)
                with Session("--milter", f.place, "--milter-default", default,
                             f"maildir:{where}") as s:
                    s.start()
                    assert s.say("FOO")[0][:3] == "500", event
                    s.send(message("Subject: x", "", "y"))
                    got = [s.reply() for _ in range(4)]
                    if got[-1][:3] == "354":
                        got.append(s.reply())
                    assert f.end() == signal.SIGKILL, event
                    assert want in [r[:3] for r in got], (default, event,
                                                          got)
                    s.socket.close()
                    s.read.close()
                    s.process.wait()
                    log = s.logged()
                assert stored(where) == [b"Subject: x\n\ny\n"] * count, (
                    default, event, last)
                assert log.count("event=milter ") == 1, (event, log)
                assert f"filter {f.place}: {step}: " in log, (event, log)


@test
def a_filter_that_is_killed_between_messages_is_missed_at_the_next():
    f = Mortal("A")
    with Session("--milter", f.place, "discard:") as s:
        s.start()
        assert s.deliver()[:3] == "250"
        s.say("MAIL FROM:<a@example.org>", "RSET")
        os.waitpid(f.pid, 0)
        assert s.say("MAIL FROM:<a@example.org>")[0][:9] == "451 4.7.1"
        s.finish()


# --- two sessions

def talk_in_turns(*both):
    for s in both:
        assert s.say("MAIL FROM:<a@example.org>")[0][:3] == "250"
    got = [[r[:3] for r in s.say("RCPT TO:<no1@example.org>",
                                 "RCPT TO:<no2@example.org>")] for s in both]
    assert got == [["550", "250"], ["250", "550"]], got
    for s in both:
        assert s.say("DATA")[0][:3] == "354"
    for s in reversed(both):
        s.send(lines("Subject: x", "", "y", "."))
    assert [s.reply()[:3] for s in both] == ["250", "250"]
    for s in both:
        s.finish()


@test
def two_sessions_at_a_time_have_a_filter_each_to_themselves():
    def answer(count, event, data):
        if event == "E":
            return [packet("h", strings("Connection", str(count))),
                    packet("c")]
        return "r" if event == "R" and b"<no%d@" % count in data else "c"
    boxes_ = box(), box()
    with Filter(PLACE, answer) as f, \
            Session("--milter", f.place, f"maildir:{boxes_[0]}") as one:
        one.start()     # so it is the filter's first
        with Session("--milter", f.place, f"maildir:{boxes_[1]}") as two:
            two.start()
            talk_in_turns(one, two)
        f.wait()
        assert f.connections == 2
    for count, where in enumerate(boxes_, 1):
        assert stored(where) == [
            b"Subject: x\nConnection: %d\n\ny\n" % count], where


# --- recipients

@test
def five_hundred_recipients_become_five_hundred_others():
    old = [f"old{i}@example.org" for i in range(500)]
    kept = os.path.join(PLACE, "kept")
    note = script(PLACE, f'printf "%s\\n" "$@" >{kept}; cat >/dev/null', "note")
    relay = ["--", note, "{recipient}"]
    with changes(*[packet("-", strings(f"<{r}>")) for r in old],
                 *[packet("+", strings(f"<new{i}@example.org>"))
                   for i in range(500)]) as f:
        for mode, hello, count in ([], "EHLO", 1), (["--lmtp"], "LHLO", 500):
            with Session(*mode, "--milter", f.place, *relay) as s:
                s.reply()
                s.say(f"{hello} x")
                s.send(message("Subject: x", "", "y", to=old))
                got = s.replies(502 + count)
                assert {r[:3] for r in got} == {"250", "354"}, got[-1]
                s.finish()
            with open(kept) as r:
                assert r.read().split() == [f"new{i}@example.org"
                                            for i in range(500)]


@test
def a_refused_recipient_is_told_only_to_a_filter_that_asks():
    routes = os.path.join(PLACE, "routes")
    write(routes, "route@example.org error:5.1.1 Not here\n")
    reject = ("REJECT Not you", "DUNNO")

    def first(_, event, data):
        return "r" if event == "R" and b"<filter@" in data else "c"
    for steps in 0, 0x800:
        hop = Hop(lambda _, command: "550 5.1.6 Moved"
                       if command.startswith("RCPT TO:<hop@") else None)
        two, told = Filter(PLACE, steps=steps, name="two"), []

        def second(_, event, data):
            if event == "R":
                told.append([two.macros["R"][f"{{rcpt_{name}}}"]
                             for name in ("mailer", "host", "addr")])
            return "c"
        two.answers = second
        with two, Filter(PLACE, first, steps, name="one") as one, \
                PolicyService(folder(), lambda q: reject[
                    q["recipient"] != "policy@example.org"]) as policy, \
                Session("--live", "--policy", policy.place, "--milter",
                        one.place, "--milter", two.place, "--routes", routes,
                        hop.relay()) as s:
            s.start()
            s.send(message("Subject: x", "", "y", to=[
                f"{name}@example.org" for name in
                ("route", "policy", "hop", "filter", "good")]))
            got = s.replies(8)
            assert [r[:3] for r in got] == [
                "250", "550", "554", "550", "550", "250", "354", "250"], got
            s.finish()
            one.wait()
            two.wait()
        names = [[re.search(rb"<(\w+)@", d)[1].decode()
                  for d in heard(f, "R")] for f in (one, two)]
        good = ["smtp", "example.org", "good@example.org"]
        if steps == 0:
            assert names == [["filter", "good"], ["good"]], names
            assert told == [good], told
        else:
            assert names == [["route", "policy", "hop", "filter", "good"]] * 2
            assert told == [["error", "5.1.1", "Not here"],
                            ["error", "5.7.1", "Not you"],
                            ["error", "5.1.6", "Moved"],
                            ["error", "5.7.1", "Command rejected"], good], told
        # The hop had accepted the one that the filter refused.
        assert [c for _, c in hop.commands if c.startswith("RCPT")][-1] == \
            "RCPT TO:<good@example.org>", hop.commands
        assert len(hop.messages) == 1
        hop.close()


@test
def next_hops_answer_for_the_recipients_that_a_filter_adds():
    # What the hop refuses; what an LMTP client hears of good, bad and too, and
    # what an SMTP client hears.  A refusal of the one that the filter adds is
    # everybody's: its mail would be lost.
    for refused, lmtp, smtp in (("bad", "250 550 250", "550"),
                                ("added", "550 550 550", "550"),
                                ("nobody", "250 250 250", "250")):
        for mode, hello, want in ((["--lmtp"], "LHLO", lmtp),
                                  ([], "EHLO", smtp)):
            with Hop(lambda _, command: "550 5.1.1 Unknown" if
                     command.startswith(f"RCPT TO:<{refused}@")
                     else None) as hop, \
                    changes(packet("+", strings("added@example.org"))) as f, \
                    Session(*mode, "--milter", f.place, hop.relay()) as s:
                s.reply()
                s.say(f"{hello} x")
                s.send(message("Subject: x", "", "y", to=[
                    f"{name}@example.org" for name in ("good", "bad", "too")]))
                got = s.replies(5 + len(want.split()))[5:]
                assert " ".join(r[:3] for r in got) == want, (refused, got)
                s.finish()
                # To an SMTP client it is all or nobody.
                assert len(hop.messages) == ("2" in want or bool(mode)), (
                    refused, mode)


@test
def LMTP_clients_hear_a_filters_last_word_once_for_each_recipient():
    for packets, want, count in (
            ([packet("r")], "550 5.7.1", 0), ([packet("d")], "250 ", 0),
            ([packet("q", strings("odd")), packet("c")], "451 4.7.1", 0),
            ([packet("c")], "250 ", 1)):
        where = box()
        with Filter(PLACE, {"E": packets}) as f, \
                Session("--lmtp", "--milter", f.place,
                        f"maildir:{where}") as s:
            s.reply()
            s.say("LHLO x")
            s.send(message("Subject: x", "", "y",
                           to=["b@example.org", "c@example.org"]))
            got = s.replies(6)[4:]
            assert all(r.startswith(want) for r in got), (packets, got)
            s.finish()
        assert len(stored(where)) == count, packets


# --- BDAT, BINARYMIME, SMTPUTF8

@test
def chunks_are_answered_and_never_read_as_commands():
    # What a filter says of MAIL, RCPT, DATA and the message: the replies to
    # MAIL, RCPT, BDAT, BDAT LAST and RSET.
    for event, want in (("M", "550 503 503 503 250"),
                        ("R", "250 550 503 503 250"),
                        ("T", "250 250 550 550 250"),
                        ("L", "250 250 250 550 250"),
                        ("E", "250 250 250 550 250")):
        where = box()
        chunk = lines("Subject: x", "", "QUIT", "DATA")
        with Filter(PLACE, {event: "r"}) as f, \
                Session("--milter", f.place, f"maildir:{where}") as s:
            s.start()
            s.send(lines("MAIL FROM:<a@example.org>",
                         "RCPT TO:<b@example.org>") +
                   b"BDAT %d\r\n" % len(chunk) + chunk +
                   b"BDAT %d LAST\r\n" % len(chunk) + chunk)
            got = s.replies(4) + s.say("RSET")
            assert " ".join(r[:3] for r in got) == want, (event, got)
            f.answers = {}
            assert s.deliver()[:3] == "250"
            s.finish()
        assert len(stored(where)) == 1


@test
def a_binary_body_is_replaced_as_it_is():
    where = box()
    body = b"\0\r.\n\r\n.\r\n" + bytes(range(256))
    with changes(packet("b", body[:100]), packet("b", body[100:])) as f, \
            Session("--milter", f.place, f"maildir:{where}") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org> BODY=BINARYMIME",
              "RCPT TO:<b@example.org>")
        s.send(b"BDAT 12 LAST\r\nA: b\r\n\r\none\n")
        assert s.reply()[:3] == "250"
        s.finish()
    assert stored(where)[0].endswith(b"A: b\r\n\r\n" + body), stored(where)


@test
def SMTPUTF8_passes_a_filter_both_ways():
    name = "j\u00fcrgen@b\u00fccher.example"
    packets = (packet("+", strings(f"<n\u00f6@{name[7:]}>")),
               packet("e", strings(f"<x{name}>")),
               packet("m", number(1, "Subject", "gr\u00fcn")),
               packet("h", strings("X", "\u03c0")))
    kept = os.path.join(PLACE, "utf8")
    relay = ["--", script(PLACE, f'(echo "$SENDER" "$@"; cat) >{kept}',
                          "utf8.sh"), "{recipient}"]
    with changes(*packets) as f, Session("--smtputf8", "--milter", f.place,
                                         *relay) as s:
        s.start()
        got = s.say(f"MAIL FROM:<{name}> SMTPUTF8", f"RCPT TO:<{name}>")
        assert [r[:3] for r in got] == ["250", "250"], got
        assert s.say("DATA")[0][:3] == "354"
        s.send(lines("Subject: r\u00f6t", "", "\u00e9", "."))
        assert s.reply()[:3] == "250"
        assert f.macros["M"]["{mail_addr}"] == name
        assert f.macros["R"]["{rcpt_host}"] == name[7:]
        assert heard(f, "M") == [strings(f"<{name}>", "SMTPUTF8")]
        assert heard(f, "L") == [strings("Subject", "r\u00f6t")]
        assert heard(f, "B") == ["\u00e9\r\n".encode()]
        # Without the parameter such an address is refused.
        s.say("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "DATA")
        s.send(lines("", "y", "."))
        assert s.reply()[:9] == "451 4.7.1"
        s.finish()
    with open(kept) as text:
        first, *rest = text.read().splitlines()
    assert first == f"x{name} {name} n\u00f6@{name[7:]}", first
    assert rest[-4:] == ["Subject: gr\u00fcn", "X: \u03c0", "", "\u00e9"], rest


# --- relays

@test
def every_relay_gets_the_message_that_a_filter_made():
    routes, kept, where = (os.path.join(PLACE, name) for name in (
        "two-routes", "relayed", "routed"))
    program = script(PLACE, f"cat >{kept}", "keep")
    with Hop() as smtp, Hop(lmtp=True) as lmtp, changes(
            packet("m", number(1, "Subject", "new")),
            packet("b", b"made\r\n.\r\n")) as f:
        write(routes, f"b@example.org {smtp.relay()}\n")
        for relay, got in (
                ([smtp.relay()], lambda: smtp.messages),
                (["--live", smtp.relay()], lambda: smtp.messages),
                ([lmtp.relay()], lambda: lmtp.messages),
                (["--live", lmtp.relay()], lambda: lmtp.messages),
                (["--", program], lambda: [open(kept, "rb").read()]),
                ([f"maildir:{kept}.d"], lambda: stored(f"{kept}.d")),
                (["--routes", routes, f"maildir:{where}"],
                 lambda: smtp.messages + stored(where))):
            for hop in smtp, lmtp:
                hop.forget()
            with Session("--milter", f.place, *relay) as s:
                s.start()
                assert s.deliver(to=["b@example.org", "d@example.org"])[
                    :3] == "250", relay
                s.finish()
            texts = got()
            assert len(texts) == 1 + ("--routes" in relay), (relay, texts)
            for text in texts:
                text = text.replace(b"\r", b"")
                assert text.endswith(b"\nSubject: new\n\nmade\n.\n") or \
                    text == b"Subject: new\n\nmade\n.\n", (relay, text)


@test
def each_word_of_progress_gives_a_filter_its_time_again():
    # Five times 0.6 seconds are more than two.
    class Slow(Filter):
        def answer(self, client, count, event, data):
            for _ in range(5 if event == "E" else 0):
                threading.Event().wait(0.6)
                client.sendall(packet("p"))
            return super().answer(client, count, event, data)
    with Slow(PLACE) as f, Session("--milter", f.place, "--milter-timeout",
                                   "2", "discard:") as s:
        s.start()
        assert s.deliver()[:3] == "250"
        s.finish()


@test
def a_filter_that_never_ends_ends_with_the_session():
    class Endless(Filter):
        def answer(self, client, count, event, data):
            while event == "E":     # until smtpd has closed
                client.sendall(last)
            return super().answer(client, count, event, data)
    for last in packet("p"), packet("m", number(1, "None", "")):
        where = box()
        with Endless(PLACE) as f, Session(
                "--milter", f.place, "--milter-timeout", "300",
                "--session-timeout", "1", f"maildir:{where}") as s:
            s.start()
            assert s.deliver().startswith("451 4.7.1")
            s.socket.close()
            s.read.close()
            s.process.wait()
            assert "no answer in time" in s.logged()
        assert stored(where) == []


@test
def a_filter_that_adds_recipients_for_ever_adds_too_many():
    one = packet("+", strings("<c@example.org>"))
    with Filter(PLACE, {"E": [one] * 100001 + [packet("c")]}) as f, Session(
            "--milter", f.place, "discard:") as s:
        s.start()
        assert s.deliver().startswith("451 4.7.1")
        s.finish()
        assert "too many recipients" in s.logged()
    with Filter(PLACE, {"E": [one] * 100000 + [packet("c")]}) as f, Session(
            "--milter", f.place, "discard:") as s:
        s.start()
        assert s.deliver().startswith("250 2.0.0")
        s.finish()
        assert " to=b@example.org to=c@example.org size=" in s.logged(), \
            s.logged()


@test
def changes_that_have_no_room_defer_the_message():
    where = box()
    with changes(*[packet("b", b"x" * 65000)] * 32) as f, \
            Session("--milter", f.place, f"maildir:{where}",
                    env={"TMPDIR": "/no/such"}) as s:
        s.start()
        assert s.deliver() == "452 4.3.1 No room for the message"
        _, log = s.finish()
    assert f"filter {f.place}: its changes cannot be made: No such file" in \
        log, log
    assert stored(where) == []


@test
def more_fields_than_can_be_edited_are_refused():
    where = box()
    with Filter(PLACE, steps=0x20) as f, Session(
            "--milter", f.place, f"maildir:{where}") as s:
        s.start()
        assert s.deliver(*["A:"] * 100001, "", "y") == \
            "554 5.6.0 Too many header fields"
        got = s.deliver(*["A:"] * 99999, "", "y")
        assert got[:3] == "250", got
        s.finish()
    assert len(stored(where)) == 1


# --- policy, large, TLS and AUTH

@test
def what_a_policy_service_refuses_at_the_end_no_filter_reads():
    where = box()
    with changes(packet("h", strings("X", "y"))) as f, PolicyService(
            folder(), lambda q: "REJECT Too late" if q["protocol_state"] ==
            "END-OF-MESSAGE" and q["sender"] == "bad@example.org"
            else "DUNNO") as policy, \
            Session("--policy", policy.place, "--milter", f.place,
                    f"maildir:{where}") as s:
        s.start()
        assert s.deliver(sender="bad@example.org")[:3] == "554"
        assert s.deliver()[:3] == "250"
        s.finish()
        f.wait()
        assert f.events() == "CHMRTAMRTLNBEQ", f.events()
    assert stored(where) == [b"Subject: x\nX: y\n\ny\n"]


@test
def twenty_megabytes_become_twenty_others_in_four_of_memory():
    where = box()
    half = (b"x" * 998 + b"\r\n") * 65
    with changes(*[packet("b", half)] * 320) as f, \
            Session("--milter", f.place, "-s", "0", f"maildir:{where}") as s:
        s.start()
        assert s.deliver("Subject: x", "", *["y" * 998] * 20000)[:3] == "250"
        for pid in (s.process.pid, *family(s.process.pid)):
            with open(f"/proc/{pid}/status") as status:
                peak = int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])
            assert SANITIZED or peak < 4096, f"{peak} kB"
        s.finish()
        assert sum(map(len, heard(f, "B"))) == 20000 * 1000
    assert stored(where) == [b"Subject: x\n\n" + half.replace(
        b"\r", b"") * 320]


@test
def macros_tell_of_TLS_and_AUTH():
    certificate(PLACE, "ca", "Test CA")
    certificate(PLACE, "mx", "mx.example.org", "-addext",
                "subjectAltName=DNS:mx.example.org", ca="ca")
    certificate(PLACE, "client", "client.example.org", ca="ca")
    write(f"{PLACE}/passwords", "user:" + subprocess.run(
        ["openssl", "passwd", "-6", "secret"], check=True, text=True,
        capture_output=True).stdout)
    with Filter(PLACE) as f, Session(
            "--tlscert", f"{PLACE}/mx.pem", "--tlskey", f"{PLACE}/mx.key",
            "--tls-ca", f"{PLACE}/ca.pem", "--auth",
            f"file:{PLACE}/passwords", "--milter", f.place, "discard:",
            wrap=["setsid"]) as s:
        s.start()
        assert f.macros.get("H", {}) == {}, f.macros
        s.say("STARTTLS")
        made = ssl.create_default_context(cafile=f"{PLACE}/ca.pem")
        made.load_cert_chain(f"{PLACE}/client.pem", f"{PLACE}/client.key")
        s.read.close()
        s.socket = made.wrap_socket(s.socket, server_hostname="mx.example.org")
        s.read = s.socket.makefile("rb")
        got = s.say("EHLO client.example.org", "AUTH PLAIN AHVzZXIAc2VjcmV0",
                    "MAIL FROM:<a@example.org> AUTH=boss+2B1@example.org")
        assert [r[:3] for r in got] == ["250", "235", "250"], got
        cipher, version, bits = s.socket.cipher()
        s.finish()
        assert f.macros["H"] == {
            "{tls_version}": version, "{cipher}": cipher,
            "{cipher_bits}": str(bits), "{cert_subject}": "client.example.org",
            "{cert_issuer}": "Test CA"}, f.macros["H"]
        mail = f.macros["M"]
        assert mail["{auth_type}"] == "PLAIN", mail
        assert mail["{auth_authen}"] == "user", mail
        assert mail["{auth_author}"] == "boss+1@example.org", mail


main()
