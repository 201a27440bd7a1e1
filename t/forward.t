#!/usr/bin/env python3
"""forward.t - who the client is, as a server in front of us says it by
XFORWARD, and as we say it to the next hop by XFORWARD and XCLIENT."""
import shutil

from fakes.hop import Hop
from tap import (HELLO, PolicyService, Session, folder, lines, main, script,
                 tcp_pair, test)

FORWARDED = ("XFORWARD NAME=mail.example.net ADDR=192.0.2.9 PORT=99 "
             "HELO=he.example.net PROTO=ESMTP IDENT=4Wabc SOURCE=REMOTE")
CLIENT = {"CLIENT_ADDRESS": "192.0.2.9", "CLIENT_PORT": "99",
          "CLIENT_HOSTNAME": "mail.example.net",
          "CLIENT_HELO": "he.example.net", "CLIENT_PROTOCOL": "ESMTP",
          "XFORWARD_IDENT": "4Wabc", "XFORWARD_SOURCE": "REMOTE"}


class Told:
    """A session whose program writes its environment, message by message."""

    def __init__(self, *options, **named):
        self.place = folder()
        program = script(self.place, f"env >{self.place}/env; "
                         f"cat >{self.place}/message")
        self.session = Session(*options, "--", program, **named)

    def env(self):
        with open(f"{self.place}/env") as f:
            return dict(line.rstrip("\n").split("=", 1) for line in f
                        if "=" in line)

    def message(self):
        with open(f"{self.place}/message") as f:
            return f.read()

    def __enter__(self):
        self.session.__enter__()
        return self, self.session

    def __exit__(self, *all_):
        self.session.__exit__(*all_)
        shutil.rmtree(self.place)


@test
def programs_policy_and_log_hear_of_the_client_that_XFORWARD_names():
    place = folder()
    with PolicyService(place) as service, \
         Told("--xforward", "unix", "--policy", service.place) as (told, s):
        assert "\n250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\n" in \
            s.start()
        assert s.say(FORWARDED) == ["250 2.0.0 OK"]
        assert s.deliver()[:3] == "250"
        s.finish()
        env = told.env()
        assert {k: env.get(k) for k in CLIENT} == CLIENT, env
        asked = {q["protocol_state"]: q for q in service.asked}
        assert asked["EHLO"]["client_address"] == "127.0.0.1", asked["EHLO"]
        for stage in "RCPT", "END-OF-MESSAGE":
            for name, value in (("client_address", "192.0.2.9"),
                                ("client_name", "mail.example.net"),
                                ("client_port", "99"),
                                ("helo_name", "he.example.net"),
                                ("protocol_name", "ESMTP")):
                assert asked[stage][name] == value, (stage, asked[stage])
        relayed, = [l for l in s.logged().splitlines()
                    if "event=message-relayed" in l]
        for wanted in ("client=192.0.2.9", "helo=he.example.net",
                       "ident=4Wabc"):
            assert f" {wanted} " in relayed, relayed
        # The trace names who is connected.
        assert told.message().startswith(
            "Received: from client.example.org (unix)"), told.message()
    shutil.rmtree(place)


@test
def what_XFORWARD_has_not_told_is_not_the_servers_own():
    with Told("--xforward", "127.0.0.1", pair=tcp_pair()) as (told, s):
        s.start()
        assert s.say("XFORWARD HELO=he.example.net")[0][:3] == "250"
        assert s.deliver()[:3] == "250"
        env = told.env()
        wanted = {**dict.fromkeys(CLIENT, ""), "CLIENT_ADDRESS": "unknown",
                  "CLIENT_HOSTNAME": "unknown", "CLIENT_PROTOCOL": "unknown",
                  "CLIENT_HELO": "he.example.net"}
        assert {k: env.get(k) for k in CLIENT} == wanted, env


@test
def it_holds_for_one_transaction():
    forget = ((), ("RSET",), (HELLO,),
              ("MAIL FROM:<a@example.org>", "RSET"))
    with Told("--xforward", "127.0.0.1", pair=tcp_pair()) as (told, s):
        s.start()
        for commands in forget:
            assert s.say(FORWARDED)[0][:3] == "250"
            for command in commands:
                assert s.say(command)[0][:3] == "250", command
            assert s.deliver()[:3] == "250"
            own = "127.0.0.1" if commands else "192.0.2.9"
            assert told.env()["CLIENT_ADDRESS"] == own, (commands, told.env())
            assert s.deliver()[:3] == "250"
            env = told.env()
            assert env["CLIENT_ADDRESS"] == "127.0.0.1", env
            assert env["XFORWARD_IDENT"] == "", env


@test
def a_refused_attribute_changes_nothing():
    with Told("--xforward", "127.0.0.1", pair=tcp_pair()) as (told, s):
        s.start()
        assert s.say("XFORWARD ADDR=192.0.2.1 FROB=x")[0][:3] == "501"
        assert s.deliver()[:3] == "250"
        assert told.env()["CLIENT_ADDRESS"] == "127.0.0.1", told.env()


@test
def it_is_offered_to_those_who_are_listed():
    for nets in "192.0.2.0/24", "unix", "127.0.0.2":
        with Session("--xforward", nets, "discard:", pair=tcp_pair()) as s:
            assert "XFORWARD" not in s.start(), nets
            assert s.say("XFORWARD ADDR=192.0.2.1") == [
                "550 5.7.0 XFORWARD is not allowed for this client"]
    with Session("--xforward", "192.0.2.7", "--proxy-protocol",
                 "discard:") as s:
        s.send(lines("PROXY TCP4 192.0.2.7 198.51.100.1 4711 25"))
        assert "XFORWARD" in s.start()
    with Session("--xforward", "192.0.2.7", "--proxy-protocol",
                 "discard:") as s:
        s.send(lines("PROXY TCP4 192.0.2.8 198.51.100.1 4711 25"))
        assert "XFORWARD" not in s.start()


@test
def access_is_of_the_client_that_is_connected():
    def asked(address, *options):
        with Session("--xforward", "127.0.0.1", *options,
                     "smtp:[127.0.0.1]:9", pair=tcp_pair()) as s:
            s.start()
            assert s.say(f"XFORWARD ADDR={address}")[0][:3] == "250"
            return [r[:3] for r in s.say("MAIL FROM:<a@example.org>",
                                         "RCPT TO:<b@example.net>")][-1]
    assert asked("192.0.2.9") == "250"
    assert asked("192.0.2.9", "--relay-clients", "192.0.2.9") == "554"
    assert asked("127.0.0.1", "--relay-clients", "192.0.2.9") == "554"


def offers(*extensions, refusal=None):
    """A next hop; refusal: what it says to XCLIENT."""
    return Hop(lambda number, command: refusal if command[:7] == "XCLIENT"
               else None, extensions=extensions)


OFFER = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
FORWARD = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
SPEAKER = ("XCLIENT NAME=mail.example.net ADDR=192.0.2.9 PORT=99 LOGIN=j+C3+B6 "
           "DESTADDR=IPV6:2001:db8::1 DESTPORT=587")
UNKNOWN = "[UNAVAILABLE]"


@test
def what_XFORWARD_told_us_the_next_hop_hears_by_XFORWARD():
    with offers(FORWARD) as hop, \
         Session("--xforward", "127.0.0.1", hop.relay(),
                 pair=tcp_pair()) as s:
        s.start()
        assert s.say(FORWARDED, "XFORWARD NAME=[UNAVAILABLE]")[1][:3] == "250"
        assert s.deliver()[:3] == "250"
        assert s.deliver()[:3] == "250"
        s.finish()
        told = [c for c in hop.told(1) if c.startswith("XFORWARD")]
    assert told[0] == (f"XFORWARD NAME={UNKNOWN} ADDR=192.0.2.9 PORT=99 "
                       "PROTO=ESMTP HELO=he.example.net IDENT=4Wabc "
                       "SOURCE=REMOTE"), told
    assert told[1].startswith(f"XFORWARD NAME={UNKNOWN} ADDR=127.0.0.1 PORT=")
    assert " HELO=client.example.org IDENT=" in told[1], told
    assert told[1].endswith(" SOURCE=LOCAL"), told
    assert len(told) == 2 and "4Wabc" not in told[1], told


@test
def the_next_hop_hears_by_XCLIENT_who_the_client_is_then_EHLO_anew():
    with offers(OFFER, FORWARD) as hop, \
         Session("--xclient", "unix", "--relay-clients", "all",
                 "--relay-xclient", hop.relay()) as s:
        s.start()
        assert s.say(SPEAKER)[0][:3] == "220"
        s.send(lines("EHLO client.example.net"))
        s.reply()
        assert s.deliver()[:3] == "250"
        assert s.deliver()[:3] == "250"
        s.finish()
        assert hop.connections == 1
        session = hop.told()
    assert session[:4] == [
        "EHLO mx.example.org",
        "XCLIENT ADDR=192.0.2.9 PORT=99 PROTO=ESMTP DESTADDR=IPV6:2001:db8::1 "
        "DESTPORT=587 LOGIN=j+C3+B6 NAME=mail.example.net "
        "HELO=client.example.net",
        "EHLO client.example.net", "MAIL FROM:<a@example.org>"], session
    assert len([c for c in session if c.startswith("X")]) == 1, session


@test
def with_live_one_connection_is_the_clients_from_its_EHLO_on():
    for client, user in ((), ()), (("AUTH PLAIN AGpvZQB4",), ("LOGIN=joe",)):
        place = folder()
        password = script(place, "exit 0")
        with offers(OFFER) as hop, \
             Session("--live", "--relay-xclient", "--no-auth-require-tls",
                     "--auth", f"checkpassword:{password}", hop.relay()) as s:
            s.start()
            for command in client:
                assert s.say(command)[0][:3] == "235"
            assert s.deliver()[:3] == "250"
            s.finish()
            # Who has authenticated is another client to the next hop.
            assert hop.connections == 1 + len(user), hop.commands
            told = hop.told(hop.connections)[1].split()
            assert {"PROTO=ESMTP", "HELO=client.example.org",
                    *(user or ["LOGIN=" + UNKNOWN])} <= set(told), told
        shutil.rmtree(place)


@test
def only_what_is_offered_is_told_and_what_nobody_knows_is_unavailable():
    with offers("XCLIENT NAME LOGIN ADDR") as hop, \
         Session("--relay-xclient", hop.relay()) as s:
        s.start()
        assert s.deliver()[:3] == "250"
        s.finish()
        assert hop.told(1)[1] == (
            f"XCLIENT ADDR={UNKNOWN} LOGIN={UNKNOWN} NAME={UNKNOWN}")


@test
def another_client_gets_another_connection():
    with offers(OFFER) as hop, \
         Session("--xclient", "unix", "--relay-clients", "all",
                 "--relay-xclient", hop.relay()) as s:
        s.start()
        for address in "192.0.2.1", "192.0.2.2", "192.0.2.2":
            assert s.say(f"XCLIENT ADDR={address}")[0][:3] == "220"
            s.send(lines(HELLO))
            s.reply()
            assert s.deliver()[:3] == "250"
        s.finish()
        hop.wait()
        assert hop.connections == 2, hop.commands
        for number, address in (1, "192.0.2.1"), (2, "192.0.2.2"):
            assert f"ADDR={address} " in hop.told(number)[1], hop.commands
        assert hop.told(1)[-1] == "QUIT", hop.told(1)


@test
def without_XCLIENT_over_there_XFORWARD_tells_it_and_the_log_says_so():
    with offers(FORWARD) as hop, Session("--relay-xclient", hop.relay()) as s:
        s.start()
        assert s.deliver()[:3] == "250"
        _, log = s.finish()
        assert "XCLIENT: not offered" in log, log
        assert hop.told(1)[1].startswith("XFORWARD NAME="), hop.commands


@test
def a_hop_that_takes_no_XCLIENT_from_us_gets_no_message_with_our_rights():
    for refusal in ("550 5.7.0 insufficient authorization",
                    "501 5.5.4 Bad attribute", "502 No", "503 5.5.1 No"):
        with offers(OFFER, refusal=refusal) as hop, \
             Session("--relay-xclient", hop.relay()) as s:
            s.start()
            assert s.deliver() == ("451 4.3.5 Cannot tell next hop who the "
                                   "client is"), refusal
            _, log = s.finish()
            assert f"XCLIENT: {refusal[:3]}" in log, log
            assert not [c for c in hop.told(1) if c[:4] == "MAIL"]


@test
def what_the_hop_says_of_the_client_is_the_clients_to_hear():
    for refusal, heard in (
            ("554 5.7.1 Client host rejected", "554 5.7.1 Client host "
             "rejected"),
            ("450 4.7.1 Come back later", "450 4.7.1 Come back later"),
            ("421 4.7.0 Too many", "451 4.7.0 Too many")):
        with offers(OFFER, refusal=refusal) as hop, \
             Session("--relay-xclient", hop.relay()) as s:
            s.start()
            assert s.deliver() == heard, refusal
            s.finish()


@test
def XCLIENT_fits_into_a_line_of_512_octets():
    long = "+C3+B6" * 100
    with offers(OFFER) as hop, \
         Session("--xclient", "unix", "--relay-clients", "all",
                 "--relay-xclient", hop.relay()) as s:
        s.start()
        assert s.say(f"XCLIENT ADDR=192.0.2.9 HELO={long} PORT=1")[0][
            :3] == "220"
        s.send(lines("EHLO " + "x" * 255))
        s.reply()
        assert s.say(f"XCLIENT NAME={'+3D' * 150} LOGIN=joe")[0][
            :3] == "220"
        s.send(lines("EHLO " + "x" * 255))
        s.reply()
        assert s.deliver()[:3] == "250"
        told = hop.told(1)[1]
        assert len(told) <= 510, told
        assert " ADDR=192.0.2.9 PORT=1 " in told and " LOGIN=joe " in told
        assert f" NAME={UNKNOWN} " in told, told
        assert told.endswith(" HELO=" + "x" * 255), told
        assert hop.told(1)[2] == "EHLO " + "x" * 255


if __name__ == "__main__":
    main()
