#!/usr/bin/env python3
"""peers-lmtp.t - lmtp: to a real Dovecot, with a mailbox that is full."""
import os
import re
import sys

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from peer import TEXTS, Dovecot, delivered_as, main, submit
from tap import test


def store():
    users = [f"{name}@example.net" for name in ("fine", "other", "full")]
    return Dovecot(lmtp=True, known=True, users=dict.fromkeys(users, ""),
                   full=["full@example.net"])


def the_one_message(dovecot, mailbox):
    octets, = dovecot.messages(mailbox)
    return octets


@test
def every_text_arrives_as_it_was_sent():
    for name in ("plain", "dots", "eight", "big"):
        with store() as d:
            got, = submit(d.relays[0], TEXTS[name], to=["fine@example.net"],
                          parameters="BODY=8BITMIME")
            assert got.startswith("250 2.0.0 "), got
            delivered_as(the_one_message(d, "fine"), TEXTS[name])


@test
def what_needs_SMTPUTF8_is_refused():
    with store() as d:
        got, = submit(d.relays[0], TEXTS["utf8"], to=["fine@example.net"],
                      parameters="SMTPUTF8")
        assert got.startswith("554 5.6.7 "), got
        assert d.messages("fine") == []


@test
def one_reply_names_the_mailbox_that_is_full():
    with store() as d:
        got, = submit(d.relays[0], TEXTS["plain"],
                      to=["fine@example.net", "full@example.net"])
        assert re.search("full@example.net.*The mailbox is full", got), got
        delivered_as(the_one_message(d, "fine"), TEXTS["plain"])
        assert d.messages("full") == []


@test
def as_an_LMTP_server_each_recipient_has_its_own_reply():
    with store() as d:
        got = submit(d.relays[0], TEXTS["plain"], "-l", hello="LHLO",
                     to=["fine@example.net", "full@example.net",
                         "nobody@example.net", "other@example.net"])
        assert [reply[:9] for reply in got] == [
            "250 2.0.0", "552 5.2.2", "550 5.1.1", "250 2.0.0"], got
        assert re.search("full@.*The mailbox is full", got[1]), got
        for mailbox in ("fine", "other"):
            delivered_as(the_one_message(d, mailbox), TEXTS["plain"])
        assert d.messages("full") == []


@test
def a_store_that_is_gone_keeps_the_mail_at_the_client():
    with store() as d:
        d.stop()
        got, = submit(d.relays[0], TEXTS["plain"], to=["fine@example.net"])
        assert got.startswith("451 4.4.1 "), got


if __name__ == "__main__":
    main()
