#!/usr/bin/env python3
"""split.t - a next hop that takes few recipients in one transaction gets the
message in several, and all its recipients are told one truth."""
import socket

from fakes.hop import Hop
from tap import Session, main, message, test


class Limited(Hop):
    """A hop of many connections, each of which takes so many recipients and
    answers the others by 452.  refuses: what it says to a recipient; ends: what
    it says to each message in turn, 250 in the end."""

    def __init__(self, most, extensions=("PIPELINING",), connections=99,
                 refuses=None, ends=(), lmtp=False):
        self.most, self.most_connections = most, connections
        self.refuses, self.replies = refuses or {}, list(ends)
        self.transactions = []      # recipients of each message
        self.offered = []           # how many RCPT in each transaction
        super().__init__(extensions=extensions, lmtp=lmtp)

    def talk(self, connection, read, number):
        def say(text):
            connection.sendall(text.encode() + b"\r\n")

        if number > self.most_connections:
            say("421 4.7.0 Too many connections")
            return
        say("220 next.example.net")
        to, offered = [], 0
        for line in read:
            command = line.decode().rstrip("\r\n")
            verb = command[:4].upper()
            if verb in ("EHLO", "LHLO"):
                say(self.usual(number, verb))
            elif verb == "RCPT":
                offered += 1
                one = command[command.index("<") + 1:command.index(">")]
                reply = self.refuses.get(one)
                if reply is None and len(to) == self.most:
                    reply = "452 4.5.3 Too many recipients"
                if reply is None:
                    to.append(one)
                say(reply or "250 2.1.5 Ok")
            elif verb == "DATA":
                say("354 Go")
                self.take_data(read)
                self.offered.append(offered)
                self.transactions.append(to)
                reply = (self.replies.pop(0) if self.replies
                         else "250 2.0.0 Taken")
                for _ in range(len(to) if self.lmtp else 1):
                    say(reply)
                to, offered = [], 0
            elif verb == "QUIT":
                say("221 2.0.0 Bye")
                return
            else:
                if verb in ("MAIL", "RSET"):
                    to, offered = [], 0
                say("250 2.0.0 Ok")


@test
def a_connection_has_no_more_transactions_than_the_hop_says():
    # RFC 9422 4.1; one that a refused recipient ended counts as well.
    for options, limit, numbers in (
            ((), "MAILMAX=2", [1, 1, 2, 2]), ((), "MAILMAX=1", [1, 2, 3, 4]),
            (("--live",), "RCPTMAX=9 MAILMAX=2", [1, 1, 2, 2]),
            *(((), useless, [1] * 4) for useless in (
                "MAILMAX=", "MAILMAX=0", "MAILMAX=x", "MAILMAX=-1", "MAILMAX",
                "XMAILMAX=1"))):
        with Hop(lambda _, command: "450 4.2.0 Later" if "<no@" in command
                 else None, extensions=("PIPELINING", f"LIMITS {limit}")
                 ) as hop, Session(*options, hop.relay()) as s:
            s.start()
            s.send(message("x", to=["a@example.net" if options else
                                    "no@example.net"]))
            s.replies(4)
            for _ in range(3):
                assert s.deliver(to=["a@example.net"])[:3] == "250"
            s.finish()
        mails = [number for number, line in hop.commands
                 if line.startswith("MAIL")]
        assert mails == numbers, (limit, mails)


def people(n):
    return [f"p{i}@example.net" for i in range(n)]


def relay(hop, n, *options):
    """The reply to a message to n recipients, and the log."""
    with Session(*options, hop.relay()) as s:
        s.start()
        reply = s.deliver(to=people(n))
        s.socket.shutdown(socket.SHUT_RDWR)
        s.process.wait()
        log = s.logged()
    hop.close()
    return reply, log


@test
def a_hop_that_answers_452_after_some_gets_the_rest_in_more_transactions():
    hop = Limited(3)
    reply, log = relay(hop, 8)
    assert reply.startswith("250 2.0.0 "), reply
    assert [len(t) for t in hop.transactions] == [3, 3, 2], hop.transactions
    assert sum(hop.transactions, []) == people(8)
    assert len(hop.texts) == 3 and len(set(hop.texts)) == 1
    assert log.count("event=message-relayed") == 1, log


@test
def a_hop_that_tells_its_limit_is_offered_no_more():
    hop = Limited(3, ("PIPELINING", "LIMITS MAILMAX=9 RCPTMAX=3"))
    reply, _ = relay(hop, 8)
    assert reply.startswith("250 2.0.0 "), reply
    assert hop.offered == [3, 3, 2], hop.offered
    assert sum(hop.transactions, []) == people(8)


@test
def a_limit_that_makes_no_sense_is_none():
    for limit in ("RCPTMAX=0", "RCPTMAX", "RCPTMAX=x", "RCPTMAX=-1",
                  "RCPTMAX=99999999999999999999999", "XRCPTMAX=1"):
        hop = Limited(9, ("LIMITS " + limit,))
        reply, _ = relay(hop, 3)
        assert reply.startswith("250 2.0.0 "), (limit, reply)
        assert hop.offered == [3], (limit, hop.offered)


@test
def one_refused_recipient_of_a_later_transaction_keeps_the_message_from_all():
    hop = Limited(2, refuses={"p4@example.net": "550 5.1.1 Unknown"})
    reply, _ = relay(hop, 5)
    assert reply.startswith("550"), reply
    assert "p4@example.net" in reply and "5.1.1 Unknown" in reply, reply
    assert hop.transactions == []


@test
def a_first_message_that_is_refused_is_the_reply_and_the_last():
    hop = Limited(2, ends=["554 5.7.1 Looks like spam"])
    reply, log = relay(hop, 5)
    assert reply == "554 5.7.1 Looks like spam", reply
    assert [len(t) for t in hop.transactions] == [2], hop.transactions
    assert "event=partial" not in log, log


@test
def a_later_message_that_fails_is_told_with_those_who_have_it():
    hop = Limited(2, ends=["250 2.0.0 Taken", "452 4.3.1 Full"])
    reply, log = relay(hop, 5)
    assert reply.startswith("452"), reply
    for i in (2, 3):
        assert f"Not delivered to <p{i}@example.net>: 452" in reply, reply
    for i in (0, 1, 4):
        assert f"Delivered to <p{i}@example.net>" in reply, reply
    assert [len(t) for t in hop.transactions] == [2, 2, 1]
    assert "duplicates are possible" in log, log


@test
def an_lmtp_client_is_told_of_each():
    hop = Limited(2, lmtp=True, ends=["550 5.7.1 No", "250 2.0.0 Taken"])
    with Session("--lmtp", hop.relay()) as s:
        s.reply()
        s.say("LHLO client")
        s.send(message("Subject: x", "", "y", to=people(3)))
        got = s.replies(8)[-3:]
        s.finish()
    hop.close()
    assert [g[:3] for g in got] == ["550", "550", "250"], got


@test
def a_hop_that_takes_no_more_connections_defers_the_message():
    hop = Limited(2, connections=2)
    reply, _ = relay(hop, 5)
    assert reply.endswith("\n451 4.7.0 Not delivered to <p4@example.net>: "
                          "451 4.7.0 Too many connections"), reply
    assert hop.transactions == []


@test
def the_second_message_uses_the_same_connections():
    hop = Limited(2, connections=3)
    with Session(hop.relay()) as s:
        s.start()
        for _ in range(2):
            assert s.deliver(to=people(5))[:4] == "250 "
        s.finish()
    hop.close()
    assert [len(t) for t in hop.transactions] == [2, 2, 1] * 2


main()
