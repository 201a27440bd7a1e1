#!/usr/bin/env python3
"""peers-live.t - --live before other people's servers: each refuses an unknown
recipient when it is named, and the others get the message.  Postfix is in
peers-proxy.t, Mailman in peers-mailman.t."""
import glob
import os
import re
import sys

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from peer import Dovecot, Exim, OpenSMTPD, Postfix, main
from tap import Session, lines, test

TO = ["good@example.net", "unknown@example.net", "other@example.net"]


def submit(relay, *options, hello="EHLO", text=("Subject: live", "", "y")):
    """The replies to the three recipients, and at the message's end; EHLO's
    reply.  The client pipelines."""
    with Session("-n", "--live", *options, relay) as s:
        s.reply()
        offer, = s.say(f"{hello} client.example.org")
        got = s.say("MAIL FROM:<s@example.org>",
                    *[f"RCPT TO:<{to}>" for to in TO])
        assert got[0][:3] == "250", got
        assert s.say("DATA")[0][:3] == "354"
        s.send(lines(*text, "."))
        ends = s.replies(2 if hello == "LHLO" else 1)
        s.finish()
    return got[1:], ends, offer


def codes(replies):
    return [reply[:3] for reply in replies]


@test
def dovecots_lmtp():
    with Dovecot(lmtp=True, known=True, users={"good@example.net": "x",
                                               "other@example.net": "x"}) as d:
        for hello, options in (("EHLO", ()), ("LHLO", ("--lmtp",))):
            got, ends, offer = submit(d.relays[0], *options, hello=hello)
            assert codes(got) == ["250", "550", "250"], got
            assert "550 5.1.1" in got[1] and "unknown@example.net" in got[1]
            assert set(codes(ends)) == {"250"}, ends
            assert "8BITMIME" in offer and "SMTPUTF8" not in offer, offer
        d.stop()
        assert [len(d.messages(w)) for w in ("good", "unknown", "other")] == [
            2, 0, 2]


@test
def exim_with_chunking_and_without():
    with Exim() as exim:
        for count, relay in enumerate(exim.relays, 1):
            got, ends, _ = submit(relay)
            assert got == [got[0], "550 5.0.0 No such mailbox here", got[0]]
            assert codes(got) == ["250", "550", "250"], got
            assert re.search("(?m)^250 2.0.0 OK id=", ends[0]), ends
            queued = glob.glob(exim.path("exim/spool/input/*-H"))
            assert len(queued) == count, queued
        for name in queued:
            with open(name, errors="replace") as f:
                header = f.read()
            assert "\n2\ngood@example.net\nother@example.net\n" in header, \
                header


@test
def opensmtpd():
    with OpenSMTPD("good@example.net", "other@example.net") as server:
        got, ends, _ = submit(server.relays[0])
        assert codes(got) == ["250", "550", "250"], got
        assert "Invalid recipient" in got[1], got
        assert ends[0].startswith("250 2.0.0 ") and \
            "Message accepted for delivery" in ends[0], ends
        server.stop()
        log = server.read("out")
    assert re.search(r"smtp message msgid=.* nrcpt=2 ", log), log
    assert "smtp failed-command command=\"RCPT TO:<unknown@example.net>" in \
        log, log


@test
def postfix_with_an_extension_of_each_kind():
    with Postfix(["smtpd_reject_unlisted_recipient=yes"],
                 main="relay_domains = example.net\nrelay_transport = deliver"
                 "\nmessage_size_limit = 50000\nrelay_recipient_maps = "
                 "inline:{{{{good@example.net=x}}}}\n") as mx:
        with Session("-n", "-u", "--live", mx.relays[0]) as s:
            offer = s.start()
            for word in ("SIZE 50000", "8BITMIME", "SMTPUTF8", "DSN"):
                assert word in offer, offer
            assert "BINARYMIME" not in offer, offer
            got = s.say("VRFY <unknown@example.net>",
                        "MAIL FROM:<s@example.org> SIZE=60000",
                        "MAIL FROM:<s@example.org> BODY=8BITMIME SMTPUTF8 "
                        "RET=HDRS ENVID=x SIZE=100",
                        "RCPT TO:<unknown@example.net> NOTIFY=NEVER",
                        "RCPT TO:<good@example.net> NOTIFY=FAILURE")
            assert codes(got) == ["550", "552", "250", "550", "250"], got
            assert "User unknown" in got[0] and "User unknown" in got[3], got
            assert s.say("DATA")[0][:3] == "354"
            s.send(lines("Subject: gr\u00fcn", "", "y", "."))
            assert "queued as" in s.reply()
            s.finish()
        recipients, octets = mx.arrival()
        assert recipients == ["good@example.net"] and \
            "gr\u00fcn".encode() in octets


if __name__ == "__main__":
    main()
