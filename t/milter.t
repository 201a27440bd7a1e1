#!/usr/bin/env python3
"""milter.t - filters that speak the milter protocol: what they are told, what
they can do, and that nothing is lost or half edited when they fail."""
import glob
import os
import re
import struct
import subprocess

from fakes.milter import (PLACE, Filter, box, changes, number, packet, stored,
                          strings)
from tap import (HELLO, SMTPD, Listener, PolicyService, Session, lines, main,
                 message, script, test)

def deliver(filters, *text, options=(), relay=None, envelope=None, before=(),
            quit=True):
    """One message past filters.  Returns the replies from MAIL on, what is
    stored, and the log."""
    where = box()
    more = [a for f in filters for a in ("--milter", getattr(f, "place", f))]
    with Session(*more, *options, *(relay or [f"maildir:{where}"])) as s:
        s.start()
        for command in before:
            s.say(command)
        envelope = envelope or {}
        octets = message(*(text or ("Subject: x", "", "body")), **envelope)
        s.send(octets)
        got = []
        for _ in range(len(envelope.get("to", "1")) + 2):
            got.append(s.reply())
            if got[-1][:3] == "421":
                break
        if got[-1][:3] == "354":
            got.append(s.reply())
        else:           # the text was read as commands
            s.socket.close()
        if quit and got[-1][:3] not in ("421", "503", "451", "550", "554"):
            s.send(lines("QUIT"))
            s.reply()
        s.socket.close()
        s.read.close()
        s.process.wait()
        log = s.logged()
    return got, stored(where), log


@test
def a_header_that_follows_an_mbox_line_is_shown_to_filters():
    """Also where smtpd writes no field: it could hide from a filter so."""
    program = script(PLACE, "cat >&2", "shown")
    for text, heard in (
            (["From jo", "Subject: x", "", "body"], "LLNB"),
            (["Disk 3 has failed"], "NB"), ([" x", "Subject: y"], "NB")):
        with Filter(PLACE, steps=0) as f:
            got, _, log = deliver([f], *text, options=["--no-received"],
                                  relay=["--", program])
            assert got[-1][:3] == "250", got
            assert "".join(e for e, _ in f.heard if e in "LNB") == heard
            assert ("X-Mailbox-Line: From jo" in log) == ("From jo" in text)


@test
def a_filter_hears_every_step_and_its_macros():
    with Filter(PLACE) as f:
        got, mail, _ = deliver([f], "Subject: x", "A: b", "\tc", "", "body")
        f.wait()
        assert got[-1][:3] == "250", got
        assert f.offers == [(6, 0x1ff, 0x1fffff)], f.offers
        assert f.events() == "CHMRTLLNBEQ", f.events()
        heard = dict(f.heard)
        assert heard["C"] == b"localhost\x004\0\0" + b"127.0.0.1\0", heard
        assert heard["H"] == b"client.example.org\0"
        assert heard["M"] == b"<a@example.org>\0"
        assert heard["R"] == b"<b@example.org>\0"
        assert [d for e, d in f.heard if e == "L"] == [
            b"Subject\0x\0", b"A\0b\n\tc\0"], f.heard
        assert heard["B"] == b"body\r\n"
        assert f.macros["C"]["j"] == "mx.example.org"
        assert f.macros["C"]["_"] == "localhost [127.0.0.1]"
        assert f.macros["C"]["v"].startswith("smtpd ")
        assert f.macros["M"]["{mail_addr}"] == "a@example.org"
        assert f.macros["M"]["{mail_host}"] == "example.org"
        assert f.macros["R"]["{rcpt_addr}"] == "b@example.org"
        assert f.macros["R"]["{rcpt_mailer}"] == "maildir"
        assert f.macros["E"]["i"] == f.macros["M"]["i"] != ""
        assert mail == [b"Subject: x\nA: b\n\tc\n\nbody\n"], mail


@test
def parameters_of_MAIL_and_RCPT_are_strings_of_their_own():
    with Filter(PLACE) as f, Session("--milter", f.place, "--smtputf8",
                                     "discard:") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org> SIZE=9 BODY=8BITMIME SMTPUTF8")
        s.finish()
        f.wait()
        assert dict(f.heard)["M"] == strings(
            "<a@example.org>", "SIZE=9", "BODY=8BITMIME", "SMTPUTF8"), f.heard
        assert f.events() == "CHMAQ", f.events()


@test
def steps_that_a_filter_does_without_are_left_out():
    for steps, want in ((0x7f | 0x300, "EQ"), (0x1, "HMRTLNBEQ"),
                        (0x20, "CHMRTNBEQ"), (0x10, "CHMRTLNEQ"),
                        (0x40, "CHMRTLBEQ"), (0x200, "CHMRLNBEQ")):
        with Filter(PLACE, steps=steps) as f:
            got, mail, _ = deliver([f])
            f.wait()
            assert got[-1][:3] == "250" and mail, got
            assert f.events() == want, (steps, f.events())


@test
def steps_without_an_answer_are_not_waited_for():
    with Filter(PLACE, steps=0x80 | 0xff000) as f:
        got, mail, _ = deliver([f])
        f.wait()
        assert got[-1][:3] == "250" and mail, got
        assert f.events() == "CHMRTLNBEQ", f.events()


@test
def versions_down_to_2_hear_what_they_know():
    for version, want in ((2, "CHMRLNBEQ"), (3, "CHUMRLNBEQ"),
                          (4, "CHUMRTLNBEQ"), (6, "CHUMRTLNBEQ")):
        with Filter(PLACE, version=version) as f:
            got, mail, _ = deliver([f], before=["FOO"])
            f.wait()
            assert got[-1][:3] == "250" and mail
            assert f.events() == want, (version, f.events())


@test
def a_filter_names_the_macros_that_it_wants():
    symbols = number(0, "{client_addr}, {client_name} {client_port},"
                     "{client_connections} {unknown}") + \
        number(2, "i") + number(3, "")
    with Filter(PLACE, symbols=symbols) as f:
        deliver([f])
        assert f.macros["C"] == {"{client_addr}": "127.0.0.1",
                                 "{client_name}": "localhost",
                                 "{client_port}": "0",
                                 "{client_connections}": "0"}, f.macros
        assert list(f.macros["M"]) == ["i"] and "R" not in f.macros, f.macros
        assert "E" in f.macros


@test
def a_leading_blank_is_the_filters_if_it_asks():
    for steps, want in ((0, b"a\0b\0"), (0x100000, b"a\0 b\0")):
        with Filter(PLACE, {"E": [packet("h", strings("X", "y")),
                                  packet("c")]}, steps=steps) as f:
            _, mail, _ = deliver([f], "a: b", "", "body")
            assert dict(f.heard)["L"] == want
            assert mail == [b"a: b\nX:" + (b"" if steps else b" ") +
                            b"y\n\nbody\n"], mail


@test
def SKIP_ends_a_kind_of_event():
    with Filter(PLACE, {"L": "s", "B": "s"}) as f:
        got, mail, _ = deliver([f], *["A: b"] * 5, "", *["x" * 70] * 3000)
        f.wait()
        assert f.events() == "CHMRTLNBEQ" and got[-1][:3] == "250"


@test
def progress_is_no_answer():
    with Filter(PLACE, {"M": [packet("p"), packet("p"), packet("c")],
                        "E": [packet("p"), packet("h", strings("A", "b")),
                              packet("p"), packet("c")]}) as f:
        got, mail, _ = deliver([f])
        assert got[-1][:3] == "250" and b"\nA: b\n" in mail[0]


REFUSALS = [
    ("r", "550 5.7.1"), ("t", "451 4.7.1"), ("4", "421 4.7.1"),
    ("f", "421 4.7.1"),
    ([packet("y", b"554 5.7.9 No 100%% way%\0")], "554 5.7.9 No 100% way"),
    ([packet("y", b"451-4.2.1 One\r\n451 4.2.1 Two\0")],
     "451-4.2.1 One\n451 4.2.1 Two"),
    ([packet("y", b"550 4.7.1 Class\0")], "550 5.0.0 Class"),
    ([packet("y", b"550 text\0")], "550 5.0.0 text"),
]


@test
def refusals_are_the_clients_reply_at_every_stage():
    for event, stage in (("M", 0), ("R", 1), ("T", 2), ("L", 3), ("N", 3),
                         ("B", 3), ("E", 3)):
        for answer, want in REFUSALS:
            with Filter(PLACE, {event: answer}) as f:
                got, mail, _ = deliver([f], quit=False)
                assert got[stage].startswith(want), (event, answer, got)
                assert not mail, (event, answer)


@test
def a_refusal_at_the_greeting_or_HELO_holds_for_the_session():
    for answer, want in (("r", "554 "), ("t", "421 "),
                         ([packet("y", b"550 5.7.1 Go\0")], "550 ")):
        with Filter(PLACE, {"C": answer}) as f, \
                Session("--milter", f.place, "discard:") as s:
            assert s.reply().startswith(want)
    with Filter(PLACE, {"H": "r"}) as f, \
            Session("--milter", f.place, "discard:") as s:
        s.reply()
        got = s.say(HELLO, "MAIL FROM:<a@example.org>", HELLO)
        assert [r[:3] for r in got] == ["550", "503", "550"], got


@test
def a_refused_recipient_is_not_in_the_envelope():
    def answer(_, event, data):
        return "r" if event == "R" and b"<bad@" in data else "c"
    for mode in ([], ["--lmtp"]):
        to = ["good@example.org", "bad@example.org", "two@example.org"]
        with Filter(PLACE, answer) as f, \
                Session(*mode, "--milter", f.place, "--", script(
                    PLACE, 'echo "$@" >&2; cat >/dev/null'), "{recipient}"
                    ) as s:
            s.reply()
            s.say(("LHLO" if mode else "EHLO") + " x")
            s.send(message("", "x", to=to))
            got = s.replies(6 if not mode else 7)
            assert [r[:3] for r in got[1:4]] == ["250", "550", "250"], got
            assert all(r[:3] == "250" for r in got[5:]), got
            assert f.events()[:7] == "CHMRRRT", f.events()
            _, log = s.finish()
            said = re.findall('event=program .*text="\\S+: (.*)"', log)
            assert said == ["good@example.org two@example.org"], log


@test
def accept_and_discard_end_the_questions():
    for event, answer, rest, kept in (
            ("M", "a", "CHM", 1), ("R", "a", "CHMR", 1), ("C", "a", "C", 1),
            ("L", "a", "CHMRTL", 1), ("H", "a", "CH", 1),
            ("M", "d", "CHM", 0), ("B", "d", "CHMRTLNB", 0),
            ("E", "d", "CHMRTLNBE", 0), ("C", "d", "CHMRTLNBE", 1)):
        with Filter(PLACE, {event: answer}) as f:
            got, mail, _ = deliver([f])
            f.wait()
            assert got[-1][:3] == "250", (event, got)
            assert len(mail) == kept, (event, answer)
            assert f.events().rstrip("AQ") == rest, (event, f.events())


@test
def the_next_message_is_asked_about_again():
    with Filter(PLACE, {"M": "a"}) as f, Session("--milter", f.place,
                                                 "discard:") as s:
        s.start()
        s.deliver()
        s.deliver()
        s.finish()
        f.wait()
        assert f.connections == 1
        assert f.events() == "CHMAMAQ", f.events()


EDITS = [
    (packet("h", strings("X", "y")), b"A: 1\nB: 2\nA: 3\nX: y\n\nbody\n"),
    (packet("i", number(0, "X", "y")), b"X: y\nA: 1\nB: 2\nA: 3\n\nbody\n"),
    (packet("i", number(1, "X", "y")), b"X: y\nA: 1\nB: 2\nA: 3\n\nbody\n"),
    (packet("i", number(2, "X", "y")), b"A: 1\nX: y\nB: 2\nA: 3\n\nbody\n"),
    (packet("i", number(99, "X", "y")), b"A: 1\nB: 2\nA: 3\nX: y\n\nbody\n"),
    (packet("m", number(2, "a", "z\n\tw")),
     b"A: 1\nB: 2\na: z\n\tw\n\nbody\n"),
    (packet("m", number(1, "A", "")), b"B: 2\nA: 3\n\nbody\n"),
    (packet("m", number(0, "B", "")), b"A: 1\nA: 3\n\nbody\n"),
    (packet("m", number(1, "Received", "x")),
     b"A: 1\nB: 2\nA: 3\n\nbody\n"),
    (packet("b", b"new\r\n.\r\nbody\r\n"),
     b"A: 1\nB: 2\nA: 3\n\nnew\n.\nbody\n"),
    (packet("b", b""), b"A: 1\nB: 2\nA: 3\n\n"),
    # Indices that filters count from -1, or have not set.
    (packet("i", number(0xffffffff, "X", "y")),
     b"A: 1\nB: 2\nA: 3\nX: y\n\nbody\n"),
    (packet("m", number(0xffffffff, "A", "y")),
     b"A: 1\nB: 2\nA: 3\nA: y\n\nbody\n"),
    (packet("m", number(0x80000000, "A", "")),
     b"A: 1\nB: 2\nA: 3\n\nbody\n"),
    # Neither a field, nor a line end, nor a message out of nothing.
    (packet("h", strings("X", "y\nBcc: z\r\n\r\nw\n\n")),
     b"A: 1\nB: 2\nA: 3\nX: y\n\tBcc: z\n\t\n\tw\n\nbody\n"),
    (packet("h", strings("X", "y\rZ: w")),
     b"A: 1\nB: 2\nA: 3\nX: y Z: w\n\nbody\n"),
    (packet("b", b"a\n.\nb\r.\rc\0"),
     b"A: 1\nB: 2\nA: 3\n\na\n.\nb\n.\nc"),
]


@test
def header_and_body_are_edited():
    for edit, want in EDITS:
        with changes(edit) as f:
            got, mail, log = deliver([f], "A: 1", "B: 2", "A: 3", "", "body")
            assert got[-1][:3] == "250", (edit, got, log)
            assert mail == [want], (edit, mail)


@test
def edits_follow_each_other_and_the_next_filter_sees_them():
    one = changes(packet("i", number(1, "One", "1")),
                  packet("b", b"first\r\n"), packet("b", b"second\r\n"),
                  packet("m", number(1, "One", "uno")), name="one")
    two = changes(packet("h", strings("Two", "2")), name="two")
    with one, two:
        got, mail, _ = deliver([one, two])
        assert got[-1][:3] == "250"
        assert [d for e, d in two.heard if e in "LB"] == [
            b"One\0uno\0", b"Subject\0x\0", b"first\r\nsecond\r\n"], two.heard
        assert mail == [b"One: uno\nSubject: x\nTwo: 2\n\nfirst\nsecond\n"]


@test
def what_follows_a_field_that_only_we_wrote_is_ours_to_keep():
    with changes(packet("i", number(0, "Top", "1")),
                 packet("i", number(1, "Next", "2"))) as f:
        where = box()
        with Session("--milter", f.place, "--x-peer",
                     f"maildir:{where}") as s:
            s.start()
            s.deliver("Subject: x", "", "y")
            s.finish()
        with open(glob.glob(f"{where}/new/*")[0]) as mail:
            names = [l.split(":")[0] for l in mail if re.match(r"\w\S*:", l)]
        assert names[-5:] == ["Top", "Next", "Received", "X-Peer",
                              "Subject"], names
        assert [d for e, d in f.heard if e == "L"] == [b"Subject\0x\0"]


def program(*names):
    """A relay that tells its environment on standard error."""
    return ["--", script(PLACE, "cat >/dev/null; for r; do echo to=$r >&2; "
                         "done; echo from=$SENDER options=$MAIL_OPTIONS >&2"),
            "{recipient}"]


@test
def envelopes_are_edited():
    f = changes(packet("+", strings("new@example.net")),
                packet("2", strings("<par@example.net>",
                                    "NOTIFY=NEVER FOO=bar")),
                packet("-", strings("<b@example.org>")),
                packet("e", strings("<s@example.com>", "ENVID=x")))
    with f:
        got, _, log = deliver([f], relay=program(),
                              envelope={"to": ["b@example.org",
                                               "c@example.org"]})
        assert got[-1][:3] == "250", got
        assert re.findall(r'(?m) to=(\S+@[^"]+)"$', log) == [
            "c@example.org", "new@example.net", "par@example.net"], log
        assert "from=s@example.com options=ENVID=x" in log, log
        assert "FOO=bar is ignored" in log
        assert "from=s@example.com" in [
            w for w in log.split() if w.startswith("from=")], log


@test
def what_a_filter_did_not_announce_it_may_change_all_the_same():
    """So it is with Sendmail and Postfix, by which filters are tested."""
    with changes(packet("h", strings("Added", "1")),
                 packet("m", number(1, "Subject", "z")),
                 packet("b", b"new\r\n"), packet("-", strings("b@example.org")),
                 packet("2", strings("new@example.net", "NOTIFY=NEVER")),
                 packet("e", strings("s@example.com")), actions=0) as f:
        got, mail, log = deliver([f])
        assert got[-1][:3] == "250", got
        assert mail == [b"Subject: z\nAdded: 1\n\nnew\n"], mail
        assert "from=s@example.com to=new@example.net" in log, log


@test
def a_message_without_recipients_is_dropped():
    with changes(packet("-", strings("b@example.org"))) as f:
        got, mail, _ = deliver([f])
        assert got[-1][:3] == "250" and not mail


@test
def LMTP_clients_get_a_reply_for_each_recipient_that_they_named():
    # What the next hop says of the one that was added is said of the one
    # that was removed.
    where = script(PLACE, 'cat >/dev/null; case $1 in new*) exit 67;; esac',
                   "picky")
    routes = os.path.join(PLACE, "routes")
    with open(routes, "w") as r:
        r.write("new@example.net error:5.1.1 Not here\n")
    f = changes(packet("+", strings("new@example.net")),
                packet("-", strings("b@example.org")))
    with f, Session("--lmtp", "--milter", f.place, "--routes", routes, "--",
                    where, "{recipient}") as s:
        s.reply()
        s.say("LHLO x")
        s.send(message("", "x", to=["b@example.org", "c@example.org"]))
        got = s.replies(6)
        assert got[4][:3] == "550" and got[5][:3] == "250", got


@test
def a_quarantined_message_is_refused_for_now_or_kept():
    with changes(packet("q", strings("looks odd"))) as f:
        got, mail, _ = deliver([f])
        assert got[-1].startswith("451 4.7.1 ") and "looks odd" in got[-1]
        assert not mail
        cell = box()
        got, mail, log = deliver([f], options=["--quarantine",
                                               f"maildir:{cell}"])
        assert got[-1][:3] == "250" and not mail, got
        assert stored(cell) == [b"Subject: x\n\nbody\n"]
        assert "event=quarantine" in log and "looks odd" in log
        cell = box()
        deliver([f], " continues", "Subject: x", relay=["discard:"], options=[
            "--no-received", "--quarantine", f"maildir:{cell}"])
        assert stored(cell) == [b"\n continues\nSubject: x\n"], stored(cell)


NONSENSE = {
    "it hangs up": [b""],
    "an unknown answer": [packet("Z")],
    "data after continue": [packet("c", b"x")],
    "an edit in mid-dialogue": [packet("h", strings("A", "b"))],
    "a length of nothing": [b"\0\0\0\0\0"],
    "a length beyond all bounds": [b"\x7f\xff\xff\xffc"],
    "half a packet": [b"\0\0\0\x09y55", b""],
    "a reply that is none": [packet("y", b"250 2.0.0 fine\0")],
    "a code out of bounds": [packet("y", b"599 5.9.9 x\0")],
    "two codes": [packet("y", b"550-5.7.1 a\r\n551 5.7.1 b\0")],
    "a NUL in the reply": [packet("y", b"550 5.7.1 a\0b\0")],
    "an empty reply": [packet("y", b"\0")],
    "no end of the reply": [packet("y", b"550-5.7.1 a\0")],
    "a negative code": [packet("y", b"-550 5.7.1 a\0")],
    "a code with a digit too many": [packet("y", b"5500 5.7.1 a\0")],
    "a line without a code": [packet("y", b"550-5.7.1 a\r\nb\0")],
    "a second negotiation": [packet("O", number(6) + bytes(8))],
    "a body before the end": [packet("b", b"x")],
    "a body that does not end": [b"\xff\xff\xff\xffbx", b""],
    "a recipient before the end": [packet("+", strings("x@example.org"))],
    "a command of ours": [packet("Q")],
    "an octet that is no letter": [b"\0\0\0\1\xff"],
}


@test
def nonsense_at_any_stage_defers_and_loses_nothing():
    for what, answer in NONSENSE.items():
        for event in "MRTLNBE":
            if event == "E" and answer[0][4:5] in (b"h", b"b", b"+") and \
                    len(answer) == 1:   # there it is none
                continue
            with Filter(PLACE, {event: answer}) as f:
                got, mail, log = deliver([f], quit=False)
                assert any(r.startswith("451 4.7.1") for r in got), (
                    what, event, got)
                assert not mail, (what, event)
                assert log.count("event=milter ") == 1, (what, log)
                assert f.place in log, (what, log)


@test
def edits_that_make_no_sense_defer_and_change_nothing():
    for edit in (packet("h", strings("A B", "x")), packet("h", b"A\0"),
                 packet("h", b"A\0b"), packet("i", b"\0\0"),
                 packet("h", strings("", "x")), packet("m", strings("A", "")),
                 # A NUL in a value, in an address, in a reason.
                 packet("h", strings("A", "b", "c")),
                 packet("i", number(1, "A", "b", "")),
                 packet("m", number(1, "Subject", "", "Bcc: z")),
                 packet("+", strings("a@example.org", "b@example.org")),
                 packet("-", strings("a@example.org", "")),
                 packet("q", strings("odd", "")), packet("q", b"odd"),
                 packet("h", strings("A\r\nB", "x")),
                 packet("h", strings("A:", "x")),
                 packet("i", number(1, "\u00e4", "x")),
                 packet("e", strings("a\nb@example.org")),
                 packet("e", b""), packet("2", b"a@example.org"),
                 b"\xff\xff\xff\xffh", b"\0\0\0\0+",
                 packet("+", strings("a\r\nDATA")), packet("+", strings("")),
                 packet("+", b"a@b"), packet("+", strings("<a> <b>")),
                 packet("+", strings("-x@example.org")), packet("-", b""),
                 packet("+", "sch\u00f6n@example.org\0"),
                 packet("e", strings("a b@example.org"))):
        with changes(packet("h", strings("Before", "1")), edit) as f:
            got, mail, _ = deliver([f])
            assert got[-1].startswith("451 4.7.1"), (edit, got)
            assert not mail
        with changes(packet("h", strings("Before", "1")), edit) as f:
            got, mail, _ = deliver([f], options=["--milter-default",
                                                 "accept"])
            assert got[-1][:3] == "250", (edit, got)
            assert mail == [b"Subject: x\n\nbody\n"], (edit, mail)


@test
def milter_default_says_what_becomes_of_the_mail():
    for default, want, count in (("tempfail", "451 4.7.1", 0),
                                 ("reject", "550 5.5.0", 0),
                                 ("accept", "250 ", 1)):
        for how, why in (
                (None, "No such file or directory"),
                ({"hello": packet("c")}, "it does not negotiate"),
                ({"version": 7}, "unknown version of the protocol"),
                ({"version": 1}, "unknown version of the protocol"),
                ({"actions": 0xfff}, "it wants to do what was not offered"),
                ({"symbols": b"\0\0\0\1x"}, "malformed list of macros")):
            with Filter(PLACE, **(how or {})) as f:
                got, mail, log = deliver(
                    [f if how else "unix:/nowhere/filter"], quit=False,
                    options=["--milter-default", default])
                assert f.connections == bool(how), how
            assert (got[0] if count == 0 else got[-1]).startswith(want), got
            assert len(mail) == count and log.count("event=milter ") == 1, log
            assert f": CONNECT: {why}; " in log, (how, log)


@test
def a_slow_filter_is_left_at_its_time():
    for event in "CME":
        with Filter(PLACE, {event: None}) as f:
            got, mail, log = deliver(
                [f], options=["--milter-timeout", "1"], quit=False)
            assert any(r.startswith("451 4.7.1") for r in got), (event, got)
            assert not mail and "no answer in time" in log, log


@test
def the_second_filter_refuses_what_the_first_has_changed():
    one = changes(packet("h", strings("One", "1")), name="one")
    two = Filter(PLACE, {"E": "r"}, name="two")
    three = Filter(PLACE, name="three")
    with one, two, three:
        got, mail, _ = deliver([one, two, three])
        for f in (one, two, three):
            f.wait()
        assert got[-1][:3] == "550" and not mail
        assert (b"One\0" + b"1\0") in [d for e, d in two.heard if e == "L"]
        assert three.events() == "CHMRTAQ", three.events()


@test
def a_policy_service_and_filters_work_together():
    policy = PolicyService(PLACE, lambda q: "PREPEND Received-SPF: pass"
                           if q["protocol_state"] == "RCPT" else "DUNNO")
    with policy, changes(packet("h", strings("X", "y"))) as f:
        got, mail, _ = deliver([f], options=["--policy", policy.place])
        assert got[-1][:3] == "250"
        assert [d for e, d in f.heard if e == "L"] == [
            b"Received-SPF\0pass\0", b"Subject\0x\0"], f.heard
        assert mail == [b"Received-SPF: pass\nSubject: x\nX: y\n\nbody\n"]


@test
def five_hundred_recipients_pass_a_filter():
    to = [f"r{i}@example.org" for i in range(500)]
    with Filter(PLACE) as f:
        got, mail, _ = deliver([f], envelope={"to": to})
        assert got[-1][:3] == "250" and len(mail) == 1, got[-1]
        assert f.events().count("R") == 500


@test
def twenty_megabytes_pass_a_filter_as_they_are():
    body = [f"{i:07} " + "x" * 62 for i in range(300000)]
    want = ("\n".join(["Subject: x", "X: y", "", *body]) + "\n").encode()
    for relay in ([], ["--crlf"]):
        with changes(packet("h", strings("X", "y"))) as f:
            got, mail, _ = deliver([f], "Subject: x", "", *body,
                                   options=[*relay, "-s", "0"])
            assert got[-1][:3] == "250", got
            text = b"".join(d for e, d in f.heard if e == "B")
            assert text == ("\r\n".join(body) + "\r\n").encode()
            assert max(len(d) for e, d in f.heard if e == "B") <= 65535
            assert mail[0].replace(b"\r", b"") == want


@test
def a_long_field_is_shown_cut_and_relayed_whole():
    value = "v" * 300000
    with Filter(PLACE) as f:
        got, mail, _ = deliver([f], *[f"A: {value}"], "", "x")
        assert got[-1][:3] == "250", got
        (name, shown, _), = [d.split(b"\0") for e, d in f.heard if e == "L"]
        assert name == b"A" and 102390 <= len(shown) <= 102400, len(shown)
        assert mail == [f"A: {value}\n\nx\n".encode()]


@test
def BDAT_and_BINARYMIME_keep_their_octets():
    text = b"A: b\r\n\r\none\ntwo\0\rthree"
    where = box()
    with changes(packet("h", strings("X", "y"))) as f, \
            Session("--milter", f.place, f"maildir:{where}") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org> BODY=BINARYMIME",
              "RCPT TO:<b@example.org>")
        s.send(b"BDAT %d LAST\r\n" % len(text) + text)
        assert s.reply()[:3] == "250"
        s.finish()
        assert dict(f.heard)["B"] == b"one\ntwo\0\rthree"
        assert stored(where)[0].endswith(
            b"A: b\r\nX: y\r\n\r\none\ntwo\0\rthree"), stored(where)


@test
def an_unknown_command_can_be_refused_in_the_filters_words():
    with Filter(PLACE, {"U": [packet("y", b"502 5.5.1 Not here\0")]}) as f, \
            Session("--milter", f.place, "discard:") as s:
        s.start()
        assert s.say("FOO bar")[0] == "502 5.5.1 Not here"
        assert dict(f.heard)["U"] == b"FOO bar\0"
        s.finish()


@test
def with_rules_too_a_filter_hears_of_an_unknown_command():
    rules = PLACE + "/rules"
    with open(rules, "w") as file:
        file.write("VRFY * 502 No\n")
    with Filter(PLACE, {"U": [packet("y", b"502 5.5.1 Not here\0")]}) as f, \
            Session("--rules", rules, "--milter", f.place, "discard:") as s:
        s.start()
        assert s.say("FOO bar")[0] == "502 5.5.1 Not here"
        s.finish()


@test
def a_filter_hears_of_recipients_that_were_refused_if_it_asks():
    with Filter(PLACE, steps=0x800) as f, \
            Session("--milter", f.place, "--proxy-protocol",
                    "smtp:[127.0.0.1]:9") as s:
        s.send(lines("PROXY TCP4 192.0.2.7 198.51.100.1 4711 25"))
        s.start()
        got = s.say("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>")
        assert got[1][:3] == "554"
        s.finish()
        f.wait()
        assert f.events() == "CHMRAQ", f.events()
        assert f.macros["R"]["{rcpt_mailer}"] == "error"
        assert f.macros["R"]["{rcpt_host}"] == "5.7.1"
        assert dict(f.heard)["C"] == (
            b"[192.0.2.7]\x004" + struct.pack(">H", 4711) + b"192.0.2.7\0")


@test
def RSET_is_an_abort():
    with Filter(PLACE) as f, Session("--milter", f.place, "discard:") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org>", "RSET", "RSET")
        s.deliver()
        s.finish()
        f.wait()
        assert f.events() == "CHMAMRTLNBEQ", f.events()


@test
def a_live_hop_is_told_the_envelope_that_filters_made():
    for packets, want in (
            ([packet("h", strings("X", "y"))],
             "a@example.org b@example.org c@example.org"),
            ([packet("+", strings("n@example.net")),
              packet("-", strings("b@example.org")),
              packet("e", strings("s@example.com"))],
             "s@example.com c@example.org n@example.net")):
        where = box()
        hop = ["--", script(PLACE, f'(echo "$SENDER" "$@"; cat) >{where}',
                            "hop"), "{recipient}"]
        with Listener("--nosetuid", *hop) as hop, changes(*packets) as f, \
                Session("--nosetuid", "--live", "--milter", f.place,
                        f"smtp:[127.0.0.1]:{hop.port}") as s:
            s.start()
            for number_ in ("1", "2"):
                said = s.deliver(f"Subject: {number_}", "", "y",
                                 to=["b@example.org", "c@example.org"])
                assert said[:3] == "250", said
                with open(where) as kept:
                    text = kept.read()
                assert text.startswith(want + "\n"), text
                assert f"Subject: {number_}\n" in text
            s.finish()


@test
def sendmail_writes_a_place_port_first():
    for place in ("inet:9@127.0.0.1", "inet:127.0.0.1:9", "inet6:9@::1",
                  "local:/nowhere"):
        _, _, log = deliver([place], quit=False)
        assert "event=milter" in log and place in log, log
    for bad in ("", "inet:", "inet:host", "unix:", "smtp:x:1", "9@host"):
        done = subprocess.run([SMTPD, "--milter", bad, "discard:"],
                              capture_output=True)
        assert done.returncode == 64 and b"milter" in done.stderr, done
    for bad in (["--milter-timeout", "1,2"], ["--milter-timeout", "1,2,3,4"],
                ["--milter-timeout", "x"], ["--milter-default", "maybe"],
                ["--quarantine", "maildir:/x"],
                ["--milter", "unix:/x", "--quarantine", "smtp:x"],
                ["--milter", "unix:/x"] * 9):
        done = subprocess.run([SMTPD, *bad, "discard:"], capture_output=True)
        assert done.returncode == 64, (bad, done)


main()
