#!/usr/bin/env python3
"""check-connect.t - smtpd --check: next hops and services, with =connect as far
as a message would begin, with =start as they are when the system starts."""
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from checked import PLACE, bad, checked, wrote
from fakes.hop import Hop
from fakes.milter import Filter
from fakes.server import Server
from tap import closed_port, main, test


class Policy(Server):
    """Says answer to each question, and keeps the questions."""

    answer = b"action=DUNNO\n\n"

    def talk(self, connection, read, number):
        self.asked = getattr(self, "asked", [])
        question = {}
        for line in read:
            name, _, value = line.decode().strip().partition("=")
            question[name] = value
            if name == "":
                self.asked.append(question)
                question = {}
                connection.sendall(self.answer)


@test
def next_hops_are_resolved_and_only_with_connect_dialled():
    hop = Hop()
    relay = hop.relay()
    status, found = checked(relay)
    assert status == 0 and hop.connections == 0, found
    status, found = checked(relay, how="--check=connect")
    assert status == 0, found
    hop.settle()
    assert hop.told()[0].split()[0] == "EHLO", hop.told()
    assert hop.told()[1:] == ["MAIL FROM:<>", "QUIT"], hop.told()
    hop.close()
    with closed_port() as s:
        closed = s.getsockname()[1]
        status, found = checked(f"smtp:[127.0.0.1]:{closed}")
        assert status == 0, found
        status, found = checked(f"smtp:[127.0.0.1]:{closed}",
                                how="--check=connect")
    assert status == 78 and found["bad"] == [
        f"smtp:[127.0.0.1]:{closed}: 127.0.0.1: 451 4.4.1 Cannot connect to "
        f"next hop; 127.0.0.1:{closed}: cannot connect: Connection refused"]
    assert "cannot resolve none.invalid" in bad("smtp:none.invalid:25")


@test
def a_next_hop_that_refuses_us_is_bad():
    with Hop(lambda number, command: "554 5.7.1 go away"
             if command == "" else None) as hop:
        status, found = checked(hop.relay(), how="--check=connect")
    assert status == 78 and "go away" in str(found["bad"]), found


@test
def a_next_hop_that_would_begin_no_message_is_bad():
    def refusing(text):
        return Hop(lambda number, command: text
                   if command.startswith("MAIL") else None)

    def said(text, *arguments):
        with refusing(text) as hop:
            return checked(*arguments, hop.relay(), how="--check=connect")
    status, found = said("530 5.7.0 Must issue a STARTTLS command first")
    assert status == 78 and "STARTTLS" in found["bad"][0], found
    assert "--relay-tls" in found["bad"][0] and not found["doubt"], found
    # The null sender may be refused where others are not, one of ours not.
    status, found = said("550 5.7.1 no bounces")
    assert status == 0 and "MAIL FROM:<>: 550" in str(found["doubt"]), found
    accounts = wrote("accounts", "jo@example.org jo@example.com\n")
    secrets = wrote("secrets", "jo@example.com jo:secret\n")
    with Hop(lambda number, command: "550 5.7.1 not yours" if command ==
             "MAIL FROM:<jo@example.com>" else None, f"{PLACE}/hop",
             ["AUTH PLAIN"]) as hop:
        status, found = checked("--from", accounts, "--relay-auth", secrets,
                                hop.relay(), how="--check=connect")
    assert status == 78 and "not yours" in found["bad"][0], found


@test
def one_place_that_serves_is_enough():
    def leaving(number, command):
        return "421 4.3.2 later" if command.startswith("MAIL") else None

    def refusing(number, command):
        return "530 5.7.0 TLS first" if command.startswith("MAIL") else None
    with Hop() as serves, Hop(leaving) as leaves, Hop(refusing) as refuses, \
            closed_port() as closed:
        gone = f"[127.0.0.1]:{closed.getsockname()[1]}"
        for places, status, kind, said in (
                ([gone, serves.at], 0, "doubt", "451 4.4.1"),
                ([serves.at, gone], 0, "doubt", "451 4.4.1"),
                (["none.invalid", serves.at], 0, "doubt", "451 4.4.1"),
                ([leaves.at, serves.at], 0, "doubt", "4.3.2 later"),
                ([serves.at, refuses.at], 0, "doubt", "TLS first"),
                ([refuses.at, serves.at], 78, "bad", "TLS first"),
                ([gone, refuses.at, serves.at], 78, "bad", "TLS first"),
                ([gone, leaves.at], 78, "bad", "4.3.2 later")):
            got, found = checked("smtp:" + ",".join(places),
                                 how="--check=connect")
            assert got == status, (places, found)
            assert any(said in line for line in found[kind]), (places, found)
    got, found = checked("smtp:none.invalid,[127.0.0.1]:9")
    assert got == 0 and any("cannot resolve none.invalid" in line
                            for line in found["doubt"]), found
    assert checked("smtp:none.invalid,none.invalid:26")[0] == 78


@test
def one_that_never_answers_costs_the_others_nothing():
    with socket.create_server(("127.0.0.1", 0)) as s, Hop() as hop:
        silent = f"smtp:[127.0.0.1]:{s.getsockname()[1]}"
        status, found = checked(
            "--relay-timeout", "1", "--routes", wrote(
                "routes", f"a@example.org {silent}\n"), hop.relay(),
            how="--check=connect")
        assert status == 78 and len(found["bad"]) == 1, found
        assert "timed out" in found["bad"][0], found
        assert any(line.endswith("127.0.0.1 answers")
                   for line in found["good"]), found


@test
def unix_sockets_are_connected_to():
    path = f"{PLACE}/socket"
    missing = bad(f"lmtp:unix:{path}")
    assert "No such file" in missing, missing
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        os.chmod(path, 0o777)
        refused = bad(f"lmtp:unix:{path}")
        assert "refused" in refused, refused
        s.listen()
        assert checked(f"lmtp:unix:{path}")[0] == 0
        assert checked("--policy", f"unix:{path}", "discard:")[0] == 0
    assert "policy service unix:" in bad("--policy", f"unix:{path}",
                                         "discard:")


@test
def policy_services_on_the_network_are_asked_with_connect():
    def said(answer, stages=""):
        with Policy() as policy:
            policy.answer = answer
            status, found = checked("--policy", f"{stages}inet:{policy.at}",
                                    "discard:", how="--check=connect")
        return status, found, policy
    status, found, policy = said(b"action=REJECT\n\n")
    assert status == 0 and policy.asked[0]["protocol_state"] == "CONNECT"
    assert f"policy service inet:{policy.at} answers" in found["good"], found
    status, found, policy = said(b"action=DUNNO\n\n", "RCPT,DATA=")
    assert status == 0 and policy.asked[0]["protocol_state"] == "RCPT"
    status, found, policy = said(b"HTTP/1.1 400\n\n")
    assert status == 78 and "not name=value" in found["bad"][0], found
    with socket.create_server(("127.0.0.1", 0)) as s:
        place = f"inet:127.0.0.1:{s.getsockname()[1]}"
        assert "CONNECT: no answer in time" in bad(
            "--policy", place, "--policy-timeout", "1", "discard:",
            how="--check=connect")
    with closed_port() as s:
        place = f"inet:127.0.0.1:{s.getsockname()[1]}"
        assert checked("--policy", place, "discard:")[0] == 0
        assert "refused" in bad("--policy", place, "discard:",
                                how="--check=connect")


@test
def filters_are_spoken_with_where_connect_is_wanted():
    path = f"{PLACE}/filter"
    with Filter(PLACE) as spoken_with:
        status, found = checked("--milter", f"unix:{path}", "discard:",
                                how="--check=connect")
        assert status == 0, found
        assert f"milter unix:{path} answers, and speaks version 6" in \
            found["good"], found
        spoken_with.settle()
        assert spoken_with.events() == "Q", spoken_with.events()
    with socket.create_server(("127.0.0.1", 0)) as s:
        place = f"inet:127.0.0.1:{s.getsockname()[1]}"
        silent = ("--milter-timeout", "1", "--milter", place, "discard:")
        assert "no answer in time" in bad(*silent, how="--check=connect")
        status, found = checked("--milter-default", "accept", *silent,
                                how="--check=connect")
        assert status == 0 and "without it" in found["doubt"][-1], found
    path = f"{PLACE}/no-filter"
    assert "No such file" in bad("--milter", f"unix:{path}", "discard:")
    status, found = checked("--milter", f"unix:{path}", "--milter-default",
                            "accept", "discard:")
    assert status == 0 and path in found["doubt"][-1], found


@test
def what_another_service_provides_may_come_after_the_start():
    path = f"{PLACE}/later"
    for arguments, said in (
            ([f"lmtp:unix:{path}"], f"lmtp:unix:{path}: No such file"),
            (["smtp:none.invalid:25"], "cannot resolve none.invalid"),
            (["--policy", f"unix:{path}", "discard:"], "policy service unix:"),
            (["--milter", f"unix:{path}", "discard:"], path),
            (["--no-auth-require-tls", "--auth", f"dovecot:{path}",
              "discard:"], f"--auth dovecot: unix:{path}: No such file"),
            (["--tls-engine", f"unix:{path}", "discard:"], path)):
        status, found = checked(*arguments, how="--check=start")
        assert status == 0 and not found["bad"], found
        assert any(said in line for line in found["doubt"]), found
        assert checked(*arguments)[0] == 78, arguments
    for arguments in ([f"maildir:{PLACE}/no/box"], ["--", "/no/program"],
                      ["--routes", "/no/routes", "discard:"]):
        bad(*arguments, how="--check=start")
    if os.geteuid() == 0:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            os.chmod(path, 0o700)
            s.listen()
            assert "Permission denied" in bad(f"lmtp:unix:{path}",
                                              how="--check=start")



os.chmod(PLACE, 0o777)     # for nobody
main()
