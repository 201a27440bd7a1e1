#!/usr/bin/env python3
"""sandbox-live.t - what a channel process that was taken over can do by --live:
it asks the monitor about the next hop in whatever order it likes.  The next hop
hears nothing that a client could not have said, and a message is acknowledged
if and only if the next hop has it."""
import os
import random

import tap
from fakes.hop import Hop
from tap import HELLO, Session, lines, main, test, test_late

tap.SMTPD = os.path.abspath("t/out/san/planted")
EXTENSIONS = ("PIPELINING", "SIZE 1000000", "8BITMIME", "AUTH PLAIN LOGIN")
MAIL, TO_B = "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>"
QUICK = "--no-auth-require-tls"
THROUGH = ("--auth", "relay:", QUICK)
KILLED = "sent an invalid question; killed"


def says(table):
    """An answer: that of the first key with which the command begins."""
    def answer(_, command):
        for key, reply in table.items():
            if command.startswith(key):
                return reply
        return None
    return answer


class Intruder(Session):
    """A session through --live with a hop, in which PLANT is a command."""

    def __init__(self, *options, answers=None, **more):
        answers = answers if callable(answers) else says(answers or {})
        self.hop = Hop(answers, extensions=EXTENSIONS)
        super().__init__("--live", *options, self.hop.relay(),
                         env={"PLANTED": ""}, **more)
        self.send(lines(HELLO))
        self.replies(2)

    def plant(self, what):
        """What came of it, as {name: number}."""
        reply = self.say("PLANT " + what)[0]
        rows = [line[4:].split() for line in reply.splitlines()]
        return {row[0]: int(row[1]) for row in rows}

    def ask(self, name):
        """The codes of the answer to that question; None: the monitor has
        ended the session."""
        try:
            got = self.plant("tell " + name)
        except EOFError:
            assert self.process.wait() in (1, 70)
            assert KILLED in self.logged(), self.logged()
            return None
        return [code for key, code in got.items() if key.startswith("code")]

    def relay(self):
        """Relays a message from a to b."""
        return self.plant("spool")["code"]

    def leave(self):
        """Nothing more is asked: what the hop has heard."""
        self.read.close()
        self.socket.close()
        self.process.wait()
        self.hop.wait()
        return [command for _, command in self.hop.commands
                if not command.startswith("EHLO")]


@test
def questions_about_a_next_hop_need_one_that_is_live():
    for name in ("live-hello", "live-group", "live-more", "live-forget"):
        with Session("discard:", env={"PLANTED": ""}) as s:
            s.start()
            s.send(lines("PLANT tell " + name))
            s.read.read()
            assert s.process.wait() == 70, name
            assert KILLED in s.logged(), name


@test
def a_message_that_nobody_asked_about_is_offered_as_any():
    with Intruder() as s:
        assert s.relay() == 250
        got = s.leave()
    assert got[:3] == [MAIL + " SIZE=9", TO_B, "DATA"], got
    assert len(s.hop.messages) == 1
    with Intruder(answers={TO_B: "550 5.1.1 No"}) as s:
        assert s.relay() == 550
        assert "DATA" not in s.leave()
    assert not s.hop.messages


@test
def a_message_for_others_than_were_asked_about_goes_to_those_it_names():
    for before in (["live-group"], ["live-mail", "live-rcpt", "live-more"],
                   ["live-boss", "live-more"], ["live-more"], ["live-rcpt",
                   "live-rcpt"], ["live-group", "live-forget"]):
        with Intruder() as s:
            for name in before:
                assert set(s.ask(name)) <= {250}, (before, name)
            assert s.relay() == 250, before
            got = s.leave()
        data = got.index("DATA")
        begun = max(i for i in range(data) if got[i].startswith("MAIL"))
        assert got[begun].startswith(MAIL), got
        assert got[begun + 1:data] == [TO_B], (before, got)
        assert len(s.hop.messages) == 1


@test
def recipients_of_groups_are_counted_by_the_monitor():
    with Intruder("--max-recipients", "4") as s:
        for _ in range(3):      # a new transaction begins
            assert s.ask("live-group") == [250]
        assert s.ask("live-more") == [250]
        assert s.ask("live-more") is None
    with Intruder("--max-recipients", "4") as s:
        assert s.ask("live-group") == [250]
        assert s.ask("live-rcpt") == [250]
        assert s.ask("live-more") is None
    with Intruder("--max-recipients", "2") as s:
        assert s.ask("live-more") == [250]
        s.plant("tell live-forget")
        assert s.ask("live-more") == [250]
        assert s.ask("live-rcpt") is None
    with Intruder("--max-recipients", "2", answers={"RCPT": "550 5.1.1 No"}) \
            as s:
        for _ in range(3):      # those that are refused cost nothing
            assert s.ask("live-more") == [550], s.logged()
        s.leave()
    with Intruder() as s:
        assert s.ask("live-nobody") is None


@test
def nobody_asks_the_next_hop_before_auth_that_is_required():
    for name in ("live-mail", "live-rcpt", "live-vrfy", "live-group",
                 "live-more"):
        with Intruder(*THROUGH, "--auth-required") as s:
            assert s.ask(name) is None, name
            assert s.leave() in ([], ["QUIT"]), (name, s.hop.commands)
    with Intruder(*THROUGH, "--auth-required") as s:
        assert s.ask("live-plain") == [235]
        assert s.ask("live-group") == [250]
        assert s.leave()[1:4] == [MAIL, TO_B, "RCPT TO:<c@example.org>"]


@test
def nobody_that_may_not_relay_asks_the_next_hop_about_recipients():
    for name, codes in (("live-rcpt", [554]), ("live-group", [250, 554, 554]),
                        ("live-more", [554]), ("live-vrfy", [250])):
        with Intruder("--relay-clients", "auth") as s:
            assert s.ask(name) == codes, name
            got = s.leave()
        assert not any(c[:4] in ("RCPT", "VRFY") for c in got), got
    with Intruder("--relay-clients", "auth") as s:
        s.send(lines("PLANT spool"))
        s.read.read()
        assert s.process.wait() == 70 and KILLED in s.logged()
        assert "DATA" not in s.leave() and not s.hop.messages


@test
def a_line_of_auth_belongs_to_an_exchange():
    with Intruder(*THROUGH, answers={
            "AUTH LOGIN": "334 VXNlcm5hbWU6", "am8=": "235 2.7.0 Ok",
            "AUTH PLAIN": "235 2.7.0 Ok"}) as s:
        assert s.ask("live-response") == [503]
        assert s.ask("live-group") == [250]
        assert s.ask("live-login") == [503]
        s.plant("tell live-forget")
        assert s.ask("live-login") == [334]
        s.plant("tell live-abandon")
        assert s.ask("live-response") == [503]
        # The exchange that begins anew ends the one before.
        assert s.ask("live-login") == [334]
        assert s.ask("live-plain") == [235]
        assert s.ask("live-login") == [503] and s.ask("live-response") == [503]
        got = s.leave()
    assert [c for c in got if c not in (MAIL, TO_B, "QUIT")] == [
        "RCPT TO:<c@example.org>", "RSET", "AUTH LOGIN", "*", "AUTH LOGIN",
        "*", "AUTH PLAIN AGpvAHB3"], got


@test
def no_other_question_is_taken_for_a_response():
    """The hop waits for one: whatever else is asked must not reach it there."""
    for name in ("live-mail", "live-rcpt", "live-vrfy", "live-group",
                 "live-more", "live-hello"):
        with Intruder(*THROUGH, answers={"AUTH": "334 VXNlcm5hbWU6"}) as s:
            assert s.ask("live-login") == [334]
            s.ask(name)
            s.leave()
        # On that connection it heard nothing but "*", if anything.
        heard = [c for dial, c in s.hop.commands if dial == 1][2:]
        assert heard in ([], ["*"], ["*", "QUIT"]), (name, s.hop.commands)


@test_late
def guesses_are_counted_by_the_monitor_whatever_the_hop_calls_them():
    with Intruder(*THROUGH, "--max-errors", "50", answers={
            "AUTH": "550 5.7.1 No"}) as s:
        assert [s.ask("live-plain") for _ in range(4)] == [
            [550], [550], [550], [421]]
        assert sum(c.startswith("AUTH") for c in s.leave()) == 3


@test
def a_user_is_the_one_of_that_connection_alone():
    """The connection is lost after AUTH: no other goes on for the user."""
    with Intruder(*THROUGH, answers={"MAIL": Hop.HANG_UP}) as s:
        assert s.ask("live-plain") == [235]
        for name in ("live-mail", "live-rcpt", "live-group", "live-more"):
            assert set(s.ask(name)) == {451}, name
        assert s.relay() == 451
        s.leave()
    assert s.hop.connections == 1 and not s.hop.messages
    # Another client, by the channel process's word, is nobody over there.
    with Intruder(*THROUGH) as s:
        assert s.ask("live-plain") == [235]
        s.plant("tell live-abandon")
        assert s.ask("live-mail") == [250]
        s.leave()
    assert s.hop.connections == 2
    assert [c[:4] for dial, c in s.hop.commands if dial == 2][:2] == [
        "EHLO", "MAIL"], s.hop.commands


ANY = ["live-hello", "live-mail", "live-boss", "live-rcpt", "live-vrfy",
       "live-group", "live-more", "live-login", "live-plain", "live-response",
       "live-forget", "live-abandon"]


class Whim:
    """A hop that does something else now and then, the same for a seed; told:
    how many messages it said that it has."""

    def __init__(self, seed):
        self.choose = random.Random(seed)
        self.told = 0

    def __call__(self, _, command):
        if self.choose.random() < 0.25 and command:
            # A refusal of AUTH for good is a guess: those are delayed.
            return self.choose.choice([
                Hop.HANG_UP, "421 4.3.2 Going down", "451 4.3.0 Later",
                "garbage", *["550 5.7.1 No"] * (command[:4] in (
                    "MAIL", "RCPT", "DATA", ".", "RSET"))])
        self.told += command == "."
        return {"AUTH LOGIN": "334 VXNlcm5hbWU6"}.get(command)


@test
def in_any_order_a_message_is_acknowledged_if_and_only_if_the_hop_has_it():
    relayed = 0
    for seed in range(40):
        choose, hop = random.Random(seed), Whim(seed)
        asked, acknowledged = [], 0
        with Intruder(*THROUGH, "--max-errors", "0", "--max-recipients", "6",
                      answers=hop) as s:
            for _ in range(12):
                what = choose.choice([*ANY, "spool", "spool", "spool"])
                asked.append(what)
                if what == "spool":
                    acknowledged += s.relay() == 250
                elif what in ("live-forget", "live-abandon"):
                    s.plant("tell " + what)
                elif s.ask(what) is None:
                    break
            heard = s.leave()
        assert acknowledged == hop.told, (seed, asked, heard)
        relayed += acknowledged
    assert relayed > 20, relayed


main()
