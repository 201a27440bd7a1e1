#!/usr/bin/env python3
"""log.t - what the log says of what a client is not told."""
import base64
import concurrent.futures
import os
import re
import socket
import subprocess

from fakes.hop import Hop
from tap import (Listener, PolicyService, Session, certificate, closed_port,
                 folder, lines, main, message, need, script, test, test_late,
                 unverified)

PLACE = folder()


def records(log, event):
    """The records of an event, each as a dictionary."""
    found = []
    for line in log.splitlines():
        assert line.startswith("smtpd: event="), line
        pairs = re.findall(r' ([a-z_]+)=("[^"]*"|\S+)', line)
        if pairs[0] == ("event", event):
            found.append({name: value.strip('"') for name, value in pairs})
    return found


def plain(user, password):
    return "AUTH PLAIN " + base64.b64encode(
        f"\0{user}\0{password}".encode()).decode()


def attempt(source, user, password, *options):
    """The reply, and the record of it."""
    with Session("--no-auth-require-tls", "--auth", source, *options,
                 "discard:") as s:
        s.start()
        reply = s.say(plain(user, password))[0]
        _, log = s.finish()
    records = [r for r in log.splitlines() if "event=auth-" in r]
    assert len(records) == 1, log
    assert "secret" not in log, log
    assert options or "mallory" not in log, log
    return reply, records[0]


def users_file():
    """Of jo, whose password is "secret", and of ann, who is locked."""
    made = subprocess.run(["openssl", "passwd", "-6", "secret"], text=True,
                          capture_output=True).stdout.strip()
    place = os.path.join(PLACE, "users")
    with open(place, "w") as f:
        f.write(f"jo:{made}\nann:!\n")
    return place


@test_late
def a_failure_of_AUTH_is_recorded_with_mechanism_source_and_reason():
    file = f"file:{users_file()}"
    for user, password, why in (("mallory", "secret", "no such user"),
                                ("jo", "secret2", "wrong password"),
                                ("ann", "secret", "the user is locked")):
        reply, record = attempt(file, user, password)
        assert reply == "535 5.7.8 Authentication credentials invalid", reply
        assert record.endswith(f'text="PLAIN by file: {why}"'), record
    reply, record = attempt(file, "jo", "secret")
    assert reply.startswith("235 "), reply
    assert "user=jo" in record, record
    assert record.endswith('text="PLAIN by file:"'), record


@test
def a_login_has_a_record_of_its_own_only_where_no_message_follows():
    users = users_file()
    for after, wanted in (
            (("mail",), ["message-relayed"]),
            (("mail", "mail"), ["message-relayed"] * 2),
            ((), ["auth-ok", "session"]),
            (("RSET",), ["auth-ok", "session"]),
            (("VRFY",), ["auth-ok", "session"]),
            (("bare",), ["message-refused"]),
            (("left",), ["auth-ok", "client-lost", "session"]),
            (("mail", "left"), ["message-relayed", "client-lost", "session"])):
        with Session("--no-auth-require-tls", "--auth", f"file:{users}",
                     "discard:") as s:
            s.start()
            assert s.say(plain("jo", "secret"))[0][:3] == "235"
            for word in after:
                if word == "mail":
                    assert s.deliver()[:3] == "250"
                elif word == "bare":
                    assert s.deliver(b"a\nb")[:3] == "550"
                elif word == "left":
                    s.say("MAIL FROM:<a@example.org>")
                    s.socket.shutdown(socket.SHUT_RDWR)
                else:
                    s.say(word)
            if "left" in after:
                s.process.wait()
                log = s.logged()
            else:
                log = s.finish()[1]
        found = [r for line in log.splitlines()
                 for r in records(line, line.split()[1].partition("=")[2])]
        if "left" in after:         # which process sees it first
            found.sort(key=lambda r: wanted.index(r["event"]))
        assert [r["event"] for r in found] == wanted, log
        assert (found[0]["user"], found[0]["method"], found[0]["source"]) == \
            ("jo", "PLAIN", "file:"), log
        assert found[0]["client"] == "unix", log


@test_late
def the_name_that_failed_is_recorded_only_where_it_is_asked_for():
    users = users_file()
    names = "--log-auth-names"
    wanted = {"mallory": "mallory", "jo": "jo", "a\nb\tc": "a?b?c",
              "x client=192.0.2.66": '"x client=192.0.2.66"'}
    with concurrent.futures.ThreadPoolExecutor() as pool:   # each is late
        tried = pool.map(lambda name: attempt(
            f"file:{users}", name, "secret2", names)[1], wanted)
    for shown, record in zip(wanted.values(), tried):
        assert f" tried={shown} text=" in record, record
        assert record.index(" client=") < record.index(" tried="), record
        assert " user=" not in record, record
    _, record = attempt(f"file:{users}", "jo", "secret", names)
    assert " tried=" not in record and " user=jo " in record, record
    with Session("--no-auth-require-tls", "--auth", f"file:{users}", names,
                 "discard:") as s:      # LOGIN, and authzid for another
        s.start()
        for line, code in (("AUTH LOGIN", "334"), ("amFuZQ==", "334"),
                           ("eA==", "535"),
                           ("AUTH PLAIN " + base64.b64encode(
                               b"ann\0jo\0secret").decode(), "535")):
            assert s.say(line)[0].startswith(code), line
        _, log = s.finish()
    assert [r.get("tried") for r in records(log, "auth-failed")] == \
        ["jane", "jo"], log


@test_late
def a_source_that_is_away_is_recorded_as_that():
    reply, record = attempt("file:/no/users", "jo", "secret")
    assert reply.startswith("454 4.7.0 "), reply
    assert record.endswith('text="PLAIN by file: Temporary authentication '
                           'failure"'), record
    no = script(PLACE, "exit 1")
    reply, record = attempt(f"checkpassword:{no}", "jo", "secret")
    assert 'text="PLAIN by checkpassword: ' in record, record


@test
def a_message_has_one_line_with_the_next_hop_that_took_it():
    hop = Hop()
    up = hop.relay()[len("smtp:"):]
    with closed_port() as down, Session(
            f"smtp:[127.0.0.1]:{down.getsockname()[1]},{up}") as s:
        s.start()
        assert s.deliver() == "250 2.0.0 taken"
        _, log = s.finish()
    hop.close()
    ours = [line for line in log.splitlines()
            if "event=nexthop" not in line]      # the one that is down
    assert len(ours) == 1, log
    record, = records(log, "message-relayed")
    assert record["nexthop"] == up.replace("[", "").replace("]", ""), log
    assert record["reply"] == "250 2.0.0 taken", log
    assert re.fullmatch(r"\d+\.\d\d\d", record["delay"]), log
    assert "nexthop_tls" not in record and "tls" not in record, log


@test
def a_silent_next_hop_is_left_for_the_next_when_its_time_is_over():
    """Its time is 30 seconds without the option: `delay' has both."""
    silent, up = Hop(lambda *_: Hop.STALL), Hop()
    with Session("--relay-next-timeout", "1",
                 silent.relay() + "," + up.relay()[len("smtp:"):]) as s:
        s.start()
        assert s.deliver() == "250 2.0.0 taken"
        _, log = s.finish()
    silent.close()
    up.close()
    record, = records(log, "nexthop")
    assert "the greeting: no answer in time" in record["text"], log
    record, = records(log, "message-relayed")
    assert 1 <= float(record["delay"]) < 25, log


@test
def each_part_of_a_message_has_the_place_that_took_it_and_its_words():
    store, box = Hop(lmtp=True), f"{PLACE}/box"
    routes = os.path.join(PLACE, "routes")
    with open(routes, "w") as f:
        f.write(f"list@example.org {store.relay()}\n")
    os.chmod(PLACE, 0o777)
    with Session("--routes", routes, f"maildir:{box}") as s:
        s.start()
        reply = s.deliver(to=("list@example.org", "jo@example.org"))
        identity = reply.split()[-1]
        # All of this one goes where the route leads: that is its relay.
        assert s.deliver(to=("list@example.org",)) == "250 2.0.0 taken"
        _, log = s.finish()
    place = store.relay()[len("lmtp:"):].replace("[", "").replace("]", "")
    parts = records(log, "part")
    assert [(p["id"], p["to"], p["relay"], p["reply"], p.get("nexthop"))
            for p in parts] == [
        (identity, "list@example.org", store.relay(), "250 2.0.0 taken",
         place),
        (identity, "jo@example.org", f"maildir:{box}", reply, None)], log
    first, second = records(log, "message-relayed")
    assert first["relay"] == "several" and first["reply"] == reply, log
    assert second["relay"] == store.relay(), log
    assert second["nexthop"] == place, log
    store.close()


@test
def TLS_of_both_sides_is_recorded():
    need("openssl")
    certificate(PLACE, "one", "mx.example.org")
    pair = ["--tlscert", f"{PLACE}/one.pem", "--tlskey", f"{PLACE}/one.key"]
    with Listener(*pair, "discard:") as far, \
            Session(*pair, "--relay-tls", "may",
                    f"smtp:[127.0.0.1]:{far.port}") as s:
        s.start()
        assert s.say("STARTTLS")[0].startswith("220 "), "STARTTLS"
        with unverified().wrap_socket(s.socket,
                                      suppress_ragged_eofs=True) as tls:
            with tls.makefile("rb") as read:
                for octets in (lines("EHLO client.example.org"),
                               *message("Subject: x", "", "y").splitlines(
                                   keepends=True)[:3],
                               lines("Subject: x", "", "y", "."),
                               lines("QUIT")):
                    tls.sendall(octets)
                    while read.readline()[3:4] == b"-":
                        pass
                assert read.read() == b""
        s.process.wait()
        log = s.logged()
        record, = records(log, "message-relayed")
        there, = records(far.logged(), "message-relayed")
    assert re.fullmatch(r"TLSv1\.[23] \S+", record["tls"]), log
    assert record["nexthop_tls"] == there["tls"], (log, there)


@test
def a_refusal_names_the_service_and_the_stage():
    def answer(question):
        return "550 5.7.1 No" if question["recipient"] == "no@example.org" \
            else "DUNNO"
    with PolicyService(PLACE, answer) as service, \
            Session("--policy", f"RCPT={service.place}", "discard:") as s:
        s.start()
        assert s.say("MAIL FROM:<a@example.org>",
                     "RCPT TO:<no@example.org>")[1] == "550 5.7.1 No"
        _, log = s.finish()
    os.unlink(f"{PLACE}/policy")
    record, = records(log, "refused")
    assert record["by"] == f"policy RCPT={service.place} at RCPT", log
    assert record["reply"] == "550 5.7.1 No" and record["id"], log
    routes = os.path.join(PLACE, "refusals")
    with open(routes, "w") as f:
        f.write("gone@example.org error:5.1.6 Moved\n")
    with Session("--routes", routes, "discard:") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org>", "RCPT TO:<gone@example.org>")
        _, log = s.finish()
    assert records(log, "refused")[0]["by"] == "routes at RCPT", log


@test
def a_refusal_of_the_next_hop_names_it_with_its_address():
    no = {"MAIL FROM:<no@example.org>": "550 5.1.8 no", "VRFY <x>": "550 no",
          "RCPT TO:<no@example.org>": "550 5.1.1 none"}
    usual, other = (Hop(lambda _dial, command: next(
        (no[k] for k in no if command.startswith(k)), None))
        for _ in range(2))
    at = [hop.relay()[len("smtp:"):].replace("[", "").replace("]", "")
          for hop in (usual, other)]
    # Alone, then with commands in one packet.
    for say in (lambda s, *c: [s.say(one)[0] for one in c],
                lambda s, *c: s.say(*c)):
        with Session("--live", usual.relay()) as s:
            s.start()
            said = say(s, "MAIL FROM:<no@example.org>")
            said += say(s, "MAIL FROM:<a@example.org>",
                        "RCPT TO:<no@example.org>", "RCPT TO:<b@example.org>")
            assert [r[:3] for r in said] == ["550", "250", "550", "250"], said
            _, log = s.finish()
        got = [(r["by"], r["nexthop"], r["relay"])
               for r in records(log, "refused")]
        assert got == [("next hop at MAIL", at[0], usual.relay()),
                       ("next hop at RCPT", at[0], usual.relay())], log
    routes = os.path.join(PLACE, "hops")
    with open(routes, "w") as f:
        f.write(f"no@example.org {other.relay()}\n")
    for say in (lambda s, *c: [s.say(one)[0] for one in c],
                lambda s, *c: s.say(*c)):
        with Session("--live", "--routes", routes, usual.relay()) as s:
            s.start()
            said = say(s, "MAIL FROM:<a@example.org>",
                       "RCPT TO:<no@example.org>", "RCPT TO:<b@example.org>")
            assert [r[:3] for r in said] == ["250", "550", "250"], said
            _, log = s.finish()
        record, = records(log, "refused")
        assert (record["nexthop"], record["relay"], record["to"]) == (
            at[1], other.relay(), "no@example.org"), log
    usual.close()
    other.close()
    # A next hop that was never reached has no address to name.
    with closed_port() as gone, Session(
            "--live", f"smtp:[127.0.0.1]:{gone.getsockname()[1]}") as s:
        s.start()
        assert s.say("MAIL FROM:<a@example.org>")[0].startswith("451 4.4.1")
        _, log = s.finish()
    record, = records(log, "refused")
    assert record["by"] == "next hop at MAIL", log


@test
def a_port_that_greets_nobody_may_want_TLS_from_the_start():
    hop = Hop(lambda _dial, command: Hop.HANG_UP if command == "" else None)
    with Session(hop.relay()) as s:
        s.start()
        assert s.deliver().startswith("451 4.4.2"), "not deferred"
        _, log = s.finish()
    hop.close()
    record = records(log, "nexthop")[0]
    assert record["text"].endswith(
        ": the greeting: connection closed (does it want TLS from the start, "
        "smtps:?)"), log


@test
def a_refusal_of_our_own_names_the_option():
    with Session("--relay-clients", "192.0.2.1", "--relay-domains",
                 "example.net", "discard:") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>")
        _, log = s.finish()
    record, = records(log, "refused")
    assert record["by"] == "--relay-clients at RCPT", log
    assert record["reply"].startswith("554 5.7.1 Relay access denied: "), log


@test
def every_record_of_a_session_names_its_client():
    with Session("--routes", "/no/routes", "-d", "discard:") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>")
        _, log = s.finish()
    for line in log.splitlines():
        assert " client=unix " in line, line
    record, = records(log, "routes")
    assert record["id"] == records(log, "refused")[0]["id"], log
    after = [r for r in records(log, "dialogue")
             if r["text"].startswith("C: RCPT")]
    assert after[0]["id"] == record["id"], log


@test
def the_dialogue_with_a_next_hop_is_shown_without_secrets():
    def answer(_dial, command):
        return {"AUTH LOGIN": "334 VXNlcm5hbWU6", "am8=": "334 UGFzc3dvcmQ6",
                "b3BlbnNlc2FtZQ==": "235 2.7.0 welcome"}.get(command)
    name = f"{PLACE}/hop"
    hop = Hop(answer, name, extensions=("AUTH LOGIN", "SIZE"))
    file = os.path.join(PLACE, "credentials")
    with open(file, "w") as f:
        f.write(f"unix:{name} jo:opensesame\n")
    os.chmod(file, 0o644)
    with Session("-d", "--relay-auth", file, f"smtp:unix:{name}") as s:
        s.start()
        assert s.deliver("Subject: x", "", "the words of a message") == \
            "250 2.0.0 taken"
        _, log = s.finish()
    said = [r["text"][len(name) + 1:] for r in records(log, "dialogue")
            if r["text"].startswith(name)]
    hop.close()
    size = records(log, "message-relayed")[0]["size"]
    assert said == [
        "S: 220 next.example.net", "C: EHLO mx.example.org",
        "S: 250-next.example.net", "S: 250-AUTH LOGIN", "S: 250 SIZE",
        "C: AUTH LOGIN", "S: 334 ***", "C: ***", "S: 334 ***", "C: ***",
        "S: 235 2.7.0 welcome",
        f"C: MAIL FROM:<a@example.org> SIZE={size}", "S: 250 2.0.0 taken",
        "C: RCPT TO:<b@example.org>", "S: 250 2.0.0 taken",
        "C: DATA", "S: 354 go", "S: 250 2.0.0 taken"], said
    assert ("b3BlbnNlc2FtZQ==" in str(hop.commands)), hop.commands
    for secret in ("b3BlbnNlc2FtZQ", "am8=", "UGFzc3dvcmQ6", "opensesame",
                   "the words of"):
        assert secret not in log, log
    quiet = [r for r in records(log, "dialogue") if "client" not in r]
    assert quiet == [], log


main()
