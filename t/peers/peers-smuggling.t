#!/usr/bin/env python3
"""peers-smuggling.t - what t/smuggling.t shows, with real next hops: however
they read what smtpd relays, they find as many messages as smtpd acknowledged.

Postfix is set to be as lax as it can be.  A comment in the output names what
each next hop falls for when a client speaks to it directly.  Exim and
OpenSMTPD, which cannot be installed beside Postfix, are fetched and unpacked if
they are missing."""
import os
import re
import socket
import sys

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from fakes.hop import EVIL, START, VARIANTS, Client, codes
import peer as peers
from tap import test

REST = EVIL + b"\r\n.\r\nQUIT\r\n"
LAX = """
smtpd_soft_error_limit = 1000
smtpd_hard_error_limit = 1000
smtpd_forbid_bare_newline = no
smtpd_forbid_unauth_pipelining = no
default_transport = discard:
"""


# Each counts the messages of either sender that it took, when it is stopped.

class Postfix(peers.Postfix):
    def __init__(self):
        super().__init__([], ["smtpd_discard_ehlo_keywords=chunking"],
                         main=LAX)

    def count(self):
        self.stop()
        log = self.read("maillog")
        # A message may be seen by the queue manager more than once.
        seen = {m[1]: m[2] for m in re.finditer(
            r"qmgr\[\d+\]: (\w+): from=<(\w+)@", log)}
        taken = set(re.findall(r"cleanup\[\d+\]: (\w+): message-id=", log))
        assert set(seen) <= taken
        return [list(seen.values()).count(w) for w in ("a", "evil")]


class Exim(peers.Exim):
    def count(self):
        # What was acknowledged is in the log.
        log = self.read("exim/mainlog")
        return [len(re.findall(rf" <= {w}@", log)) for w in ("a", "evil")]


class OpenSMTPD(peers.OpenSMTPD):
    def count(self):
        self.stop()
        log = self.read("out")
        total = len(re.findall(r"smtp message .*msgid=", log))
        evil = len(re.findall(r"smtp envelope .*from=<evil@", log))
        return [total - evil, evil]


class Dovecot(peers.Dovecot):
    def __init__(self):
        super().__init__(lmtp=True)

    def count(self):
        return [len(self.messages(w)) for w in ("b", "evil")]


def connect(relay):
    if relay.startswith("smtp"):
        return socket.create_connection(
            ("127.0.0.1", int(relay.rsplit(":", 1)[1])))
    client = socket.socket(socket.AF_UNIX)
    client.connect(relay.split(":", 2)[2])
    return client


def falls_for(relay):
    """The variants that smuggle if nobody stands before the peer: then there
    is a reply too many, to DATA."""
    fallen = []
    for variant in VARIANTS:
        with connect(relay) as client:
            octets = START + variant + REST
            if relay.startswith("lmtp"):
                octets = octets.replace(b"EHLO", b"LHLO")
            client.sendall(octets)
            said = b""
            try:
                while chunk := client.recv(65536):
                    said += chunk
            except ConnectionResetError:
                pass
        if len(re.findall(rb"(?m)^354 ", said)) > 1:
            fallen.append(variant)
    return fallen


def through_us(peer_class):
    with peer_class() as peer:
        for relay in peer.relays:
            fallen = falls_for(relay)
            print(f"# {relay.split(':')[0]}, directly: falls for {fallen}")
    with peer_class() as peer:
        told = [0, 0]   # how many messages of each sender were acknowledged
        for mode in ("reject", "normalize", "unix"):
            for relay in peer.relays:
                for variant in VARIANTS:
                    got = codes(Client("-n", "--bare-newline", mode, relay)
                                .talk(START + variant + REST))
                    finals = [got[i + 1] for i, code in enumerate(got)
                              if code == 354]
                    # Where LF is a line end, MAIL may follow a dot alone.
                    two = mode == "unix" and re.search(
                        rb"\n\.\r?\n(\r?\n)*\Z", variant) is not None
                    assert len(finals) == 1 + two, (mode, variant, got)
                    for i, code in enumerate(finals):
                        told[i] += code == 250
                    assert 451 not in finals, (mode, variant, got)
        assert told[0] > len(VARIANTS), told
        assert peer.count() == told, (peer.count(), told)


@test
def postfix_at_its_laxest_finds_as_many_messages_as_we_relay():
    through_us(Postfix)


@test
def exim_finds_as_many_messages_as_we_relay():
    through_us(Exim)


@test
def opensmtpd_finds_as_many_messages_as_we_relay():
    through_us(OpenSMTPD)


@test
def dovecot_finds_as_many_messages_as_we_relay():
    through_us(Dovecot)


if __name__ == "__main__":
    peers.main()
