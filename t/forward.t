#!/usr/bin/env python3
"""forward.t - who the client is, as a server in front of us says it by
XFORWARD, and as we say it to the next hop by XFORWARD and XCLIENT."""
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tap import (HELLO, Listener, PolicyService, Session, folder, lines, main,
                 script, tcp_pair, test)

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
                "550 5.7.0 XFORWARD is not for you"]
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


if __name__ == "__main__":
    main()
