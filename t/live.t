#!/usr/bin/env python3
"""live.t - --live: the next hop is asked during the dialogue, and its answers
are ours."""
import contextlib
import os
import subprocess

from fakes.hop import Hop
from tap import SMTPD, Session, folder, lines, main, test, write

EXTENSIONS = ("PIPELINING", "SIZE 1000000", "8BITMIME", "DSN")
SENDER = "MAIL FROM:<a@example.com>"


def to(name):
    return f"RCPT TO:<{name}@example.net>"


def refuses(table):
    """An answer: the reply of the first key that is in the command."""
    def answer(_, command):
        for key, reply in table.items():
            if key in command and command:
                return reply
        return None
    return answer


class Live(Session):
    """A session, through --live, with a hop."""

    def __init__(self, hop, *arguments, **more):
        super().__init__("--live", *arguments, hop.relay(), **more)
        self.hop = hop


def text(session):
    """DATA, a message and its dot; the reply to that."""
    assert session.say("DATA")[0].startswith("354"), "DATA"
    session.send(lines("Subject: x", "", "y", "."))
    return session.reply()


@test
def live_needs_a_next_hop():
    done = subprocess.run([SMTPD, "--live", "discard:"], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 64 and "--live needs" in done.stderr, done


@test
def the_next_hop_refuses_an_unknown_recipient_and_the_others_get_the_mail():
    hop = Hop(refuses({"unknown": "550 5.1.1 No such mailbox here"}),
                   extensions=EXTENSIONS)
    with Live(hop) as s:
        s.start()
        assert s.say(SENDER)[0] == "250 2.0.0 taken"
        assert s.say(to("good"), to("unknown"), to("other")) == [
            "250 2.0.0 taken", "550 5.1.1 No such mailbox here",
            "250 2.0.0 taken"]
        assert text(s) == "250 2.0.0 taken"
        s.finish()
    assert hop.told()[1:] == ["MAIL FROM:<a@example.com>", to("good"),
                              to("unknown"), to("other"), "DATA", "QUIT"], \
        hop.told()
    assert hop.connections == 1 and len(hop.messages) == 1


@test
def the_next_hops_words_are_ours_at_each_step():
    table = {"MAIL FROM:<bad": "553-5.1.8 Not that\r\n553 5.1.8 sender",
             "far@": "251 2.1.5 It goes further", "full@": "452 4.2.2 Full",
             "many@": "552 5.5.3 Too many", "plain@": "450 Later",
             "VRFY <known": "250 2.1.5 <known@example.net>",
             "VRFY": "551 5.1.6 Not here"}
    hop = Hop(refuses(table), extensions=EXTENSIONS)
    with Live(hop) as s:
        s.start()
        assert s.say("VRFY <known@example.net>", "VRFY <x@example.net>") == [
            "250 2.1.5 <known@example.net>", "551 5.1.6 Not here"]
        assert s.say("MAIL FROM:<bad@example.com>") == [
            "553-5.1.8 Not that\n553 5.1.8 sender"]
        assert s.say(SENDER, to("far"), to("full"), to("many"),
                     to("plain")) == [
            "250 2.0.0 taken", "251 2.1.5 It goes further", "452 4.2.2 Full",
            "552 5.5.3 Too many", "450 4.0.0 Later"]
        assert text(s) == "250 2.0.0 taken"
        s.finish()
    assert hop.connections == 1, hop.commands


@test
def ehlo_offers_what_both_can():
    hop = Hop(extensions=(
        "SIZE 5000", "DSN", "LIMITS RCPTMAX=7 MAILMAX=3", "DELIVERBY 240",
        "FUTURERELEASE 86400 2030-01-01T00:00:00Z", "MT-PRIORITY MIXER",
        "REQUIRETLS", "RRVS", "XUNKNOWN"))
    with Live(hop, "--smtputf8") as s:
        offered = [line[4:] for line in s.start().splitlines()[1:]]
        assert offered == [
            "PIPELINING", "SIZE 5000", "CHUNKING", "DSN",
            "ENHANCEDSTATUSCODES", "LIMITS MAILMAX=3 RCPTMAX=7",
            "DELIVERBY 240", "FUTURERELEASE 86400 2030-01-01T00:00:00Z",
            "MT-PRIORITY MIXER", "RRVS", "HELP"], offered
        for parameter, code in (
                ("SIZE=5001", "552"), ("BODY=8BITMIME", "5"),
                ("SMTPUTF8", "555"), ("REQUIRETLS", "555"),
                ("BY=5;X", "501"), ("BY=0;R", "501"), ("HOLDFOR=x", "501"),
                ("HOLDUNTIL=2030-13-01T00:00:00Z", "501"),
                ("HOLDFOR=1 HOLDUNTIL=2030-01-01T00:00:00Z", "501"),
                ("MT-PRIORITY=10", "501"), ("RRVS=1", "555")):
            got = s.say(f"{SENDER} {parameter}")[0]
            assert got.startswith(code), (parameter, got)
        asked = (f"{SENDER} BY=120;R HOLDFOR=60 MT-PRIORITY=-3",
                 f"{to('b')} RRVS=2014-04-03T23:01:00Z;C")
        assert [r[:3] for r in s.say(*asked)] == ["250", "250"]
        assert text(s)[:3] == "250"
        s.finish()
    assert hop.told()[1:3] == list(asked), hop.commands


@test
def times_in_parameters_are_those_of_RFC_3339():
    hop = Hop(extensions=("RRVS", "FUTURERELEASE 9 2030-01-01T00:00:00Z"))
    with Live(hop, "--max-errors", "0") as s:
        s.start()
        for time, good in (
                ("2029-04-03T23:01:00Z", True), ("2029-04-03t23:01:00z", True),
                ("2029-12-31T23:59:60Z", True),
                ("2029-04-03T23:01:00.25Z", True),
                ("2029-04-03T23:01:00+02:00", True),
                ("2029-04-03T23:01:00.1-23:59", True),
                ("2029-04-03T23:01:00", False), ("2029-04-03", False),
                ("2029-04-03T23:01:00.Z", False),
                ("2029-04-03T23:01:00+24:00", False),
                ("2029-04-03T23:01:00+02:60", False),
                ("2029-04-03T23:01:00*02:00", False),
                ("2029-04-03T23:01:00+0200", False),
                ("2029-04-03T23:01:00Zx", False),
                ("2029-00-03T23:01:00Z", False),
                ("2029-04-32T23:01:00Z", False),
                ("2029-04-03T24:01:00Z", False),
                ("2029-04-03T23:60:00Z", False),
                ("2029-04-03T23:01:61Z", False)):
            got = s.say(f"{SENDER} HOLDUNTIL={time}", "RSET", SENDER,
                        f"{to('b')} RRVS={time}", "RSET")
            assert [r[:3] for r in got] == [
                "250" if good else "501", "250", "250",
                "250" if good else "501", "250"], (time, got)


@test
def a_helo_client_is_served_too():
    hop = Hop(refuses({"unknown": "550 5.1.1 No such mailbox"}),
                   extensions=EXTENSIONS)
    with Live(hop) as s:
        s.reply()
        assert s.say("HELO client.example.org")[0][:3] == "250"
        assert s.say(SENDER, to("unknown"), to("b")) == [
            "250 taken", "550 No such mailbox", "250 taken"]
        assert text(s) == "250 taken"
        s.finish()


@test
def what_we_refuse_never_reaches_the_next_hop():
    hop = Hop(extensions=EXTENSIONS)
    with Live(hop, "--relay-clients", "192.0.2.1", "--relay-domains",
              "example.org") as s:
        s.start()
        assert s.say(SENDER, to("b"), "RCPT TO:<bad", "VRFY <b@example.net>",
                     "RCPT TO:<c@example.org>")[1:] == [
            "554 5.7.1 Relay access denied", "501 5.1.3 Bad address syntax",
            "252 2.1.5 Cannot verify, but will accept the message and try to "
            "deliver it", "250 2.0.0 taken"]
        s.finish()
    assert hop.told()[1:] == [SENDER, "RCPT TO:<c@example.org>", "QUIT"], \
        hop.commands


@test
def rset_and_another_greeting_reset_the_next_hop():
    hop = Hop(extensions=EXTENSIONS)
    with Live(hop) as s:
        s.start()
        s.say(SENDER, to("b"), "RSET")
        s.say(SENDER, to("c"), "EHLO again.example.org")
        s.say(SENDER, to("d"))
        assert text(s)[:3] == "250"
        s.finish()
    assert hop.told()[1:] == [SENDER, to("b"), "RSET", SENDER, to("c"), "RSET",
                              SENDER, to("d"), "DATA", "QUIT"], hop.told()
    assert hop.connections == 1


@test
def a_next_hop_that_is_away_is_tried_again_at_mail():
    hop = Hop(lambda dial, command:
                   Hop.HANG_UP if dial < 3 else None,
                   extensions=EXTENSIONS)
    with Live(hop) as s:
        assert "BINARYMIME" in s.start()
        assert s.say(SENDER)[0].startswith("451 4.4."), "away"
        assert s.say(SENDER, to("b")) == ["250 2.0.0 taken"] * 2
        assert text(s) == "250 2.0.0 taken"
        s.finish()
    assert hop.connections == 3


@test
def a_next_hop_that_hangs_up_is_dialled_again_once():
    for at in (to("c"), "DATA"):
        hop = Hop(lambda dial, command: Hop.HANG_UP
                       if dial == 1 and command == at else None,
                       extensions=EXTENSIONS)
        with Live(hop) as s:
            s.start()
            assert s.say(SENDER, to("b"), to("c")) == ["250 2.0.0 taken"] * 3
            assert text(s) == "250 2.0.0 taken", at
            s.finish()
        assert hop.connections == 2 and len(hop.messages) == 1
        again = [command.partition(" SIZE")[0] for command in hop.told(2)]
        assert again[1:] == [SENDER, to("b"), to("c"), "DATA", "QUIT"], \
            hop.commands


@test
def the_second_time_it_must_accept_the_same():
    def answer(dial, command):
        if dial == 1 and command == "DATA":
            return Hop.HANG_UP
        return "550 5.1.1 Gone" if dial == 2 and "<c@" in command else None
    hop = Hop(answer, extensions=EXTENSIONS)
    with Live(hop) as s:
        s.start()
        s.say(SENDER, to("b"), to("c"))
        got = text(s)
        assert got.startswith("451 "), got
        s.finish()
    assert hop.messages == [] and hop.connections == 2


@test
def it_is_not_dialled_a_third_time():
    for step in (to("c"), "DATA"):
        hop = Hop(lambda _, command: Hop.HANG_UP
                       if command == step else None, extensions=EXTENSIONS)
        with Live(hop) as s:
            s.start()
            s.say(SENDER, to("b"))
            got = s.say(to("c"))[0] if step != "DATA" else text(s)
            assert got.startswith("451 4.4.2"), got
            s.finish()
        assert hop.connections == 2 and hop.messages == [], hop.commands


@test
def after_421_the_client_stays():
    hop = Hop(lambda dial, command: "421 4.3.2 Going down"
                   if "<c@" in command or "MAIL FROM:<x" in command else None,
                   extensions=EXTENSIONS)
    with Live(hop) as s:
        s.start()
        assert s.say(SENDER, to("b"), to("c")) == [
            "250 2.0.0 taken", "250 2.0.0 taken", "451 4.3.2 Going down"]
        s.say("RSET")
        assert s.say("MAIL FROM:<x@example.com>")[0] == "451 4.3.2 Going down"
        assert s.say(SENDER)[0] == "250 2.0.0 taken"
        s.finish()


@test
def an_idle_client_does_not_hold_the_next_hop():
    hop = Hop(extensions=EXTENSIONS)
    with Live(hop, "--timeout", "4") as s:
        s.start()
        while "QUIT" not in hop.told(1):
            assert s.say("HELP")[0].startswith("214")
        assert s.say(SENDER, to("b")) == ["250 2.0.0 taken"] * 2
        assert text(s) == "250 2.0.0 taken"
        s.finish()
    assert len(hop.messages) == 1


@test
def an_lmtp_client_and_an_lmtp_store_have_a_reply_for_each():
    ends = iter(["250 2.0.0 stored", "452 4.2.2 over quota"])
    hop = Hop(lambda _, command: next(ends) if command == "." else
                   "550 5.1.1 unknown" if "<u@" in command else None,
                   extensions=EXTENSIONS, lmtp=True)
    with Live(hop, "--lmtp") as s:
        s.reply()
        assert s.say("LHLO client.example.org")[0][:3] == "250"
        assert [r[:3] for r in s.say(SENDER, to("b"), to("u"), to("c"))] == [
            "250", "250", "550", "250"]
        s.say("DATA")
        s.send(lines("Subject: x", "", "y", "."))
        assert s.replies(2) == ["250 2.0.0 stored", "452 4.2.2 over quota"]
        s.finish()


@test
def each_place_of_routes_is_connected_at_its_first_recipient():
    import tempfile
    usual = Hop(extensions=EXTENSIONS)
    other = Hop(refuses({"unknown": "550 5.1.1 No such mailbox"}),
                     extensions=EXTENSIONS)
    with tempfile.NamedTemporaryFile("w", suffix=".routes") as f:
        f.write(f"example.net {other.relay()}\nexample.org {usual.relay()}\n")
        f.flush()
        os.chmod(f.name, 0o644)
        with Live(usual, "--routes", f.name) as s:
            s.start()
            assert s.say(SENDER)[0][:3] == "250" and other.connections == 0
            assert s.say(to("unknown"), to("b"), "RCPT TO:<c@example.com>") \
                == ["550 5.1.1 No such mailbox", "250 2.0.0 taken",
                    "250 2.0.0 taken"]
            assert other.connections == 1
            assert text(s)[:3] == "250"
            s.finish()
    assert len(other.messages) == 1 and len(usual.messages) == 1


@test
def what_a_routes_next_hop_lacks_is_refused_by_its_recipient():
    with Hop(extensions=("MT-PRIORITY MIXER", "RRVS")) as usual, \
            Hop(extensions=("SIZE",)) as other:
        routes = write(f"{folder()}/routes", f"example.net {other.relay()}\n")
        with Live(usual, "--routes", routes) as s:
            s.start()
            when = "RRVS=2014-04-03T23:01:00Z"
            got = s.say(f"{SENDER} MT-PRIORITY=3", to("b"),
                        "RCPT TO:<c@example.com>", "RSET",
                        SENDER, f"{to('b')} {when}", to("b"),
                        f"RCPT TO:<c@example.com> {when}")
            lacks = "455 4.5.4 Next hop lacks an extension"
            taken, sender = "250 2.0.0 taken", "250 2.1.0 Sender OK"
            assert got == [sender, lacks, taken, "250 2.0.0 OK",
                           sender, lacks, taken, taken], got
            assert text(s)[:3] == "250"
            s.finish()


@test
def a_chunk_goes_to_the_next_hop_only_when_it_is_whole():
    hop = Hop(extensions=EXTENSIONS)
    with Live(hop) as s:
        s.start()
        s.say(SENDER, to("b"))
        s.send(b"BDAT 6\r\nab\r\n\r\n")
        assert s.reply()[:3] == "250" and "DATA" not in hop.told()
        s.send(b"BDAT 3 LAST\r\nx\r\n")
        assert s.reply() == "250 2.0.0 taken"
        s.finish()
    assert hop.messages[0].endswith(b"ab\r\n\r\nx\r\n"), hop.messages


@test
def binary_and_utf8_go_through_where_the_next_hop_has_both():
    all_of_it = ("CHUNKING", "BINARYMIME", "8BITMIME", "SMTPUTF8")
    hop = Hop(extensions=all_of_it)
    octets = b"Subject: gr\xc3\xbcn\r\n\r\n\0\n.\r\n\r"
    with Live(hop, "--smtputf8", "--no-received") as s:
        offered = s.start()
        assert all(word in offered for word in all_of_it), offered
        assert s.say("MAIL FROM:<j\u00f6@example.com> BODY=BINARYMIME SMTPUTF8",
                     to("b")) == ["250 2.0.0 taken"] * 2
        s.send(b"BDAT %d LAST\r\n" % len(octets) + octets)
        assert s.reply() == "250 2.0.0 taken"
        s.finish()
    assert hop.messages == [octets], hop.messages
    hop.wait()
    assert hop.told()[1] == "MAIL FROM:<j\u00f6@example.com> " \
        "BODY=BINARYMIME SMTPUTF8", hop.commands
    # Without BDAT it cannot be carried.
    for lacks in all_of_it:
        hop = Hop(extensions=[w for w in all_of_it if w != lacks])
        with Live(hop, "--smtputf8") as s:
            offered = s.start()
            assert (lacks in offered) == (lacks == "CHUNKING"), (lacks, offered)
            assert ("BINARYMIME" in offered) == (lacks not in (
                "CHUNKING", "BINARYMIME")), (lacks, offered)
            s.finish()


class Patient(Hop):
    """Answers MAIL and recipients only when it has seen so many of these."""

    def __init__(self, count):
        self.count = count
        super().__init__(extensions=EXTENSIONS)

    def talk(self, connection, read, number):
        connection.sendall(b"220 next.example.net\r\n")
        waiting = 0
        for line in read:
            if line.startswith(b"EHLO"):
                connection.sendall(b"250-next.example.net\r\n"
                                   b"250 PIPELINING\r\n")
            elif line.startswith((b"MAIL", b"RCPT")):
                waiting += 1
                if waiting == self.count:
                    connection.sendall(b"250 2.0.0 taken\r\n" * waiting)
            elif line == b"DATA\r\n":
                connection.sendall(b"354 go\r\n")
                self.take_data(read)
                connection.sendall(b"250 2.0.0 taken\r\n")
            else:
                connection.sendall(b"221 2.0.0 bye\r\n")


@test
def a_pipelined_group_is_one_group_to_the_next_hop():
    hop = Patient(101)
    with Live(hop) as s:
        s.start()
        got = s.say(SENDER, *[to(f"b{i}") for i in range(100)])
        assert got == ["250 2.0.0 taken"] * 101, got
        assert text(s) == "250 2.0.0 taken"
        s.finish()
    assert len(hop.messages) == 1


SCRIPTS = [
    ([], [SENDER, to("b"), to("unknown"), "RCPT TO:<bad", to("c"), "NOOP",
          to("d"), "DATA", "Subject: x", "", "y", "."]),
    ([], ["MAIL FROM:<no@example.com>", to("b"), "RCPT TO:<bad", "RCPT", "DATA",
          SENDER, to("unknown"), "DATA", to("c"), "RSET"]),
    (["--max-recipients", "2"], [SENDER, to("unknown"), to("b"), to("c"),
                                 to("d"), SENDER, "RSET", SENDER]),
    (["--max-errors", "2"], [SENDER, to("unknown"), to("b"), to("unknown"),
                             to("unknown"), to("c")]),
    (["--max-errors", "1"], ["MAIL FROM:<no@example.com>", to("b"), to("c")]),
    (["--command-limit", "RCPT=2"], [SENDER, to("b"), to("unknown"), to("c")]),
    ([], [SENDER, to("b"), "GET / HTTP/1.1", to("c")]),
    ([], [SENDER, to("b"), to("shut"), to("c"), "DATA", "", "."]),
    (["--relay-clients", "192.0.2.1", "--relay-domains", "example.org"],
     [SENDER, to("b"), "RCPT TO:<c@example.org>", to("d")]),
]


def all_octets(connection):
    """To the end, which may be a reset: we go on after a 421."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while octets := connection.recv(65536):
            got += octets
    return got


@test
def packets_of_the_client_do_not_show_in_the_replies():
    answer = refuses({"unknown": "550 5.1.1 No such mailbox",
                      "<no@": "553 5.1.8 Not that sender",
                      "<shut@": "421 4.3.2 Going down"})
    for options, script in SCRIPTS:
        seen = []
        for size in (1, 7, 100000):
            hop = Hop(answer, extensions=EXTENSIONS)
            octets = lines("EHLO client.example.org", *script, "QUIT")
            with Live(hop, "--no-received", *options) as s:
                try:
                    for i in range(0, len(octets), size):
                        s.send(octets[i:i + size])
                except OSError:         # it has hung up
                    pass
                seen.append((all_octets(s.socket), hop.messages))
            hop.close()
        assert seen[0][0] and seen[0] == seen[1] == seen[2], (script, seen)


main()
