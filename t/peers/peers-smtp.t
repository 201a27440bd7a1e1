#!/usr/bin/env python3
"""peers-smtp.t - smtp: and smtps: to a real Postfix: what a client sends gets
to its mailboxes as it was sent, and what Postfix says gets to the client."""
import os
import re
import sys

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from peer import TEXTS, Postfix, delivered_as, main, submit
from tap import test

MAIN = """
message_size_limit = 22000000
virtual_mailbox_domains = example.net
virtual_mailbox_maps = regexp:{place}/mailboxes
virtual_transport = deliver
smtpd_recipient_restrictions = check_recipient_access
    texthash:{place}/access, permit_mynetworks, reject
smtpd_authorized_xforward_hosts = 127.0.0.0/8
"""
MAILBOXES = r"/^(a|k..?se|user[0-9]+|slow|banned)@example.net$/ yes" + "\n"
ACCESS = """slow@example.net 450 4.7.1 Come back when the moon is full
banned@example.net 554 5.7.1 Never, not even with "quotes" & <brackets>
"""
FULL = ["smtpd_tls_security_level=may"]
BARE = ["smtpd_discard_ehlo_keywords=chunking,pipelining"]
OLD = ["smtpd_discard_ehlo_keywords=chunking,8bitmime,smtputf8"]
WRAPPED = ["smtpd_tls_wrappermode=yes"]


class Mx(Postfix):
    names = "DNS:localhost"

    def __init__(self, *services):
        super().__init__(*services, main=MAIN)

    def start(self):
        self.save("mailboxes", MAILBOXES)
        self.save("access", ACCESS)
        super().start()


def by_name(relay):
    """The relay under the name that its certificate has."""
    return relay.replace("[127.0.0.1]", "localhost")


def relays(relay, name, *options, to="a@example.net", counts=False, **more):
    """The message is taken and delivered, once, as it was sent; returns the
    octets of the delivery."""
    got, = submit(relay, TEXTS[name], *options, to=[to], **more)
    # Postfix counts octets in its reply to BDAT, and not after DATA.
    assert re.match("250 2.0.0 Ok: %squeued as " % (
        r"\d+ bytes " if counts else ""), got), got
    recipients, octets = mx.arrival()
    assert recipients == [to], recipients
    delivered_as(octets, TEXTS[name])
    return octets


@test
def every_text_arrives_as_it_was_sent_by_bdat_and_by_data():
    for relay, counts in (full, True), (bare, False):
        for name, more in (
                ("plain", {}), ("dots", {}), ("big", {}),
                ("eight", {"parameters": "BODY=8BITMIME"}),
                ("utf8", {"sender": "j\u00fcrgen@example.org",
                          "to": "k\u00e4se@example.net",
                          "parameters": "SMTPUTF8"})):
            relays(relay, name, counts=counts, **more)


@test
def one_of_a_hundred_recipients_is_unknown():
    known = [f"user{i}@example.net" for i in range(1, 100)]
    to = known + ["nobody@example.net"]
    for relay in full, bare:
        got, = submit(relay, TEXTS["plain"], to=to)
        assert re.match("(?s)550.*nobody@example.net", got), got
        # Had that one reached a mailbox, it would be the next arrival.
        got = submit(relay, TEXTS["plain"], "-l", to=to, hello="LHLO")
        assert len(got) == 100, got
        for reply in got[:99]:
            assert re.match("250 2.0.0 Ok: .*queued as", reply), got
        assert got[99] == "550 5.1.1 <nobody@example.net>: Recipient " \
            "address rejected: User unknown in virtual mailbox table"
        recipients, octets = mx.arrival()
        assert sorted(recipients) == sorted(known), recipients
        delivered_as(octets, TEXTS["plain"])


@test
def its_own_words_come_through():
    for to, wanted in (
            ("slow@example.net", "450 4.7.1 <slow@example.net>: Recipient "
             "address rejected: Come back when the moon is full"),
            ("banned@example.net", "554 5.7.1 <banned@example.net>: "
             "Recipient address rejected: Never, not even with "
             "\"quotes\" & <brackets>")):
        got = submit(full, TEXTS["plain"], to=[to])
        assert got == [wanted], got


@test
def what_it_cannot_take_is_refused_and_not_changed():
    bigger = TEXTS["big"] + b"x\r\n" * 600000
    assert submit(full, bigger) == [
        "552 5.3.4 Message too big for next hop"]
    got, = submit(old, TEXTS["eight"], parameters="BODY=8BITMIME")
    assert got.startswith("554 5.6.3 "), got
    got, = submit(old, TEXTS["utf8"], parameters="SMTPUTF8")
    assert got.startswith("554 5.6.7 "), got
    relays(old, "plain", parameters="BODY=8BITMIME")


# TLS.  Postfix says in its trace whether there was any.

def under_tls(octets):
    return b"using TLSv1" in octets


@test
def tls_is_used_where_it_may_and_where_it_must():
    trust = "--relay-tls-ca", mx.path("mx.pem")
    for level in ("may", "must"):
        assert under_tls(relays(by_name(full), "big", "--relay-tls",
                                level, *trust, counts=True)), level
    assert not under_tls(relays(full, "plain", counts=True))
    assert under_tls(relays(by_name(wrapped), "plain", *trust,
                            counts=True))


@test
def tls_that_must_be_and_cannot_keeps_the_mail():
    must = "--relay-tls", "must"
    insecure = "451 4.7.5 No secure connection to next hop"
    for relay, options, wanted in (
            (by_name(full), must, insecure),    # a stranger's certificate
            (full,                      # another name
             must + ("--relay-tls-ca", mx.path("mx.pem")), insecure),
            (by_name(bare), must, "451 4.7.4 Next hop offers no TLS")):
        got = submit(relay, TEXTS["plain"], *options)
        assert got == [wanted], (relay, got)


@test
def two_messages_of_a_remote_client_are_one_connection_that_hears_of_it():
    who = {"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "4321"}
    with Mx(FULL) as own:
        got = submit(own.relays[0], TEXTS["plain"], count=2, env=who)
        assert got == ["554 5.7.1 Relay access denied"] * 2, got
        got = submit(own.relays[0], TEXTS["plain"], "--relay-clients",
                     "192.0.2.0/24", count=2, env=who)
        for reply in got:
            assert re.match("250 2.0.0 Ok: .*queued as", reply), got
            own.arrival()
        own.stop()
        log = own.read("maillog")
    assert len(got) == 2 and log.count(": connect from") == 1, log
    assert len(re.findall(": disconnect from .* mail=2 .* quit=1", log)) == 1
    # XFORWARD tells it.
    assert len(re.findall(r"client=.*192\.0\.2\.7", log)) == 2, log


if __name__ == "__main__":
    with Mx(FULL, BARE, OLD, WRAPPED) as mx:
        full, bare, old, wrapped = mx.relays
        wrapped = wrapped.replace("smtp:", "smtps:")
        main()
