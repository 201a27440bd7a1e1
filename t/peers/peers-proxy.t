#!/usr/bin/env python3
"""peers-proxy.t - smtpd as Postfix's before-queue filter (smtpd_proxy_filter),
between two of its servers, and XCLIENT between smtpd and Postfix."""
import os
import re
import smtplib
import sys

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from peer import Postfix, main
from tap import HELLO, Listener, Session, lines, test
from text import manual, under

BEHIND = ["smtpd_proxy_filter=", "smtpd_authorized_xforward_hosts=127.0.0.0/8",
          "smtpd_client_restrictions=permit_mynetworks,reject"]


def recipe():
    """What smtpd(8) says: the -o options of both lines of master.cf, and those
    of smtpd, but for the filter."""
    servers, command = under(manual("smtpd.8"), "THE NEXT HOP ANSWERS")
    options = [re.findall(r"-o (\S+)", line) for line in
               re.split(r"(?m)^(?=\S)", servers) if line]
    words = command.replace("\\\n", " ").split()
    assert words[0] == "smtpd" and words[-1] == "smtp:[127.0.0.1]:10026", words
    at = words.index("--milter")
    return *options, words[1:at] + words[at + 2:-1]


# Strangers may send to example.net.
MAIN = "relay_domains = example.net\nrelay_transport = deliver\n"


class Filtered:
    """Postfix, smtpd, and the same Postfix again.  Other servers speak for
    clients to its first port by XCLIENT."""

    def __init__(self, *options, extra=(), main="", behind=BEHIND):
        self.filter = Listener("-n", "-u", "--xforward", "127.0.0.0/8",
                               *options)
        self.mx = Postfix(
            ["smtpd_authorized_xclient_hosts=127.0.0.0/8",
             f"smtpd_proxy_filter=127.0.0.1:{self.filter.port}", *extra],
            behind, main=MAIN + main)

    def __enter__(self):
        self.mx.__enter__()
        self.filter.command.append(self.mx.relays[1])
        return self

    def __exit__(self, *_):
        self.mx.stop()
        self.filter.__exit__()
        self.mx.close()

    def client(self):
        """A client of the first server, which takes it for a remote one."""
        client = smtplib.SMTP("127.0.0.1", self.mx.ports[0], timeout=60)
        client.ehlo("proxy.example.org")
        code, said = client.docmd("XCLIENT", "ADDR=192.0.2.7 "
                                  "NAME=client.example.org PORT=4711")
        assert code == 220, said
        client.ehlo("client.example.org")
        return client


def deliver(client, *options, to="a@example.net", rcpt=(), text=b""):
    client.mail("s@example.org", options)
    code, said = client.rcpt(to, rcpt)
    assert code == 250, said
    return client.data(b"Subject: x\r\n\r\n" + text)


def seen_by_both(with_filter):
    with with_filter as f:
        with f.client() as client:
            code, said = deliver(client)
            assert code == 250 and b"queued as" in said, said
        f.mx.arrival()
        f.mx.stop()
        log = f.mx.read("maillog")
        ours = f.filter.logged()
    # The real client, in the log of the second Postfix and in ours.
    assert "client=client.example.org[192.0.2.7]" in log, log
    relayed, = [l for l in ours.splitlines() if "event=message-relayed" in l]
    assert " client=192.0.2.7 " in relayed, relayed
    assert " helo=client.example.org " in relayed, relayed
    assert "event=session" in ours and " client=127.0.0.1 " in ours, ours


@test
def both_logs_have_the_client_of_the_first_server():
    seen_by_both(Filtered())
    seen_by_both(Filtered("--live"))


@test
def also_where_postfix_has_the_whole_message_before_it_connects():
    for options in ((), ("--live",)):
        seen_by_both(Filtered(*options, extra=[
            "smtpd_proxy_options=speed_adjust"]))


@test
def with_live_an_unknown_recipient_is_refused_when_it_is_named():
    with Filtered("--live", extra=["smtpd_reject_unlisted_recipient=no"],
                  main="relay_recipient_maps = inline:{{{{a@example.net=x}}}}"
                  "\n") as f:
        with f.client() as client:
            client.mail("s@example.org")
            for to, wanted in (("no@example.net", 550), ("a@example.net", 250),
                               ("no@example.net", 550)):
                code, said = client.rcpt(to)
                assert code == wanted, (to, code, said)
            assert b"User unknown" in client.rcpt("no@example.net")[1]
            code, said = client.data(b"Subject: x\r\n\r\ny\r\n")
            assert code == 250 and b"queued as" in said, said
        recipients, _ = f.mx.arrival()
        assert recipients == ["a@example.net"], recipients
        f.mx.stop()
        log = f.mx.read("maillog")
    # By the second server, for the client of the first.
    assert "reject: RCPT from unknown[127.0.0.1]: 550 5.1.1 " \
        "<no@example.net>" in log, log
    assert "client=client.example.org[192.0.2.7]" in log, log


@test
def the_recipe_of_the_manual_does_it():
    front, behind, options = recipe()
    assert front == ["smtpd_proxy_filter=127.0.0.1:10025"], front
    with Filtered(*options, behind=behind,
                  main="relay_recipient_maps = inline:{{{{a@example.net=x}}}}"
                  "\n", extra=["smtpd_reject_unlisted_recipient=no"]) as f:
        with f.client() as client:
            client.mail("s@example.org")
            assert client.rcpt("no@example.net")[0] == 550
            assert client.rcpt("a@example.net")[0] == 250
            # The second server takes the filter for one of its own network.
            code, said = client.data(b"Subject: x\r\n\r\ny\r\n")
            assert code == 250 and b"queued as" in said, said
        assert f.mx.arrival()[0] == ["a@example.net"]
        f.mx.stop()
        assert "client=client.example.org[192.0.2.7]" in f.mx.read("maillog")


@test
def dsn_and_smtputf8_go_through_the_filter():
    for options in ((), ("--live",)):
        with Filtered(*options) as f:
            with f.client() as client:
                assert client.has_extn("smtputf8") and client.has_extn("dsn")
                code, said = deliver(client, "SMTPUTF8", "ENVID=QQ+2B1",
                                     "RET=HDRS", to="a@example.net",
                                     rcpt=["NOTIFY=NEVER"],
                                     text="grün\r\n".encode())
                assert code == 250, said
            recipients, octets = f.mx.arrival()
            assert recipients == ["a@example.net"]
            assert octets.rstrip().endswith("grün".encode()), octets
            assert b"with UTF8SMTP" in octets, octets


@test
def postfix_takes_the_client_that_XCLIENT_names_for_its_own():
    xclient = "smtpd_authorized_xclient_hosts=127.0.0.0/8"
    mine = "smtpd_client_restrictions=permit_mynetworks,reject"
    with Postfix([xclient], [xclient, mine], main=MAIN) as mx:
        ask = ("--xclient", "unix", "--relay-clients", "all",
               "--relay-xclient")

        def told(relay, *said):
            with Session("-n", *ask, relay) as s:
                s.start()
                assert s.say("XCLIENT ADDR=192.0.2.7 NAME=client.example.org "
                             + " ".join(said))[0][:3] == "220"
                s.send(lines(HELLO))
                s.reply()
                got = s.deliver(to=["a@example.net"])
                s.finish()
                return got
        assert "queued as" in told(mx.relays[0], "LOGIN=joe")
        mx.arrival()
        # It is in mynetworks, our client is not.
        said = told(mx.relays[1])
        assert "Client host rejected: Access denied" in said, said
        assert said[:4] == "554 ", said
        mx.stop()
        log = mx.read("maillog")
    assert "client=client.example.org[192.0.2.7], sasl_method=XCLIENT, " \
        "sasl_username=joe" in log, log


if __name__ == "__main__":
    main()
