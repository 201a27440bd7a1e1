#!/usr/bin/env python3
"""policy.t - policy services: what they are asked, and what each of their
answers does."""
import os
import re
import shutil

from tap import (PolicyService, Session, closed_port, folder, lines, main,
                 message, test)

PLACE = folder()


def with_policy(place, answer, *arguments, relay=("print:",)):
    """answer is a dictionary by stage."""
    service = PolicyService(
        place, lambda q: answer.get(q["protocol_state"], "DUNNO"))
    return service, Session("--policy", service.place, *arguments, *relay)


STAGES = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE", "VRFY"]


def ask_at(stage, action, helo="EHLO"):
    """What a client hears at stage when the service says action there."""
    place = folder()
    service, session = with_policy(place, {stage: action})
    with service, session as s:
        heard = {"CONNECT": s.reply()}
        if heard["CONNECT"][:3] != "220":
            heard["after"] = s.say("QUIT")[0]
        else:
            for name, command in (("EHLO", f"{helo} client.example.org"),
                                  ("VRFY", "VRFY b@example.org"),
                                  ("MAIL", "MAIL FROM:<a@example.org>"),
                                  ("RCPT", "RCPT TO:<b@example.org>"),
                                  ("DATA", "DATA"),
                                  ("END-OF-MESSAGE",
                                   "Subject: x\r\n\r\ny\r\n.")):
                heard[name] = s.say(command)[0]
                if heard[name][:1] in "45" and name != "VRFY":
                    break
            heard["after"] = s.say("QUIT")[0]
        s.process.wait()
        log = s.logged()
    shutil.rmtree(place)
    return heard, log, service.asked


@test
def a_policy_service_is_asked_at_every_stage():
    heard, log, asked = ask_at("none", "DUNNO")
    assert [q["protocol_state"] for q in asked] == [
        "CONNECT", "EHLO", "VRFY", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE"]
    assert {q["request"] for q in asked} == {"smtpd_access_policy"}
    by = {q["protocol_state"]: q for q in asked}
    assert by["MAIL"]["sender"] == "a@example.org"
    assert by["RCPT"]["recipient"] == "b@example.org"
    assert by["RCPT"]["helo_name"] == "client.example.org"
    assert by["RCPT"]["protocol_name"] == "ESMTP"
    assert by["END-OF-MESSAGE"]["recipient_count"] == "1"
    assert by["END-OF-MESSAGE"]["size"] not in ("", "0")
    assert by["RCPT"]["queue_id"] == by["END-OF-MESSAGE"]["queue_id"] != ""
    assert len({q["instance"] for q in asked[3:]}) == 1
    assert heard["END-OF-MESSAGE"][:3] == "250" and "MESSAGE FOLLOWS" in log


@test
def a_policy_service_is_asked_only_where_it_shall_be():
    place = folder()
    with PolicyService(place) as service, \
         Session("--policy", f"RCPT,vrfy={service.place}", "print:") as s:
        s.start()
        s.say("VRFY a")
        assert s.deliver()[:3] == "250"
        s.finish()
    assert [q["protocol_state"] for q in service.asked] == ["VRFY", "RCPT"]
    shutil.rmtree(place)


@test
def a_policy_service_may_refuse_at_every_stage():
    for stage in STAGES + ["HELO"]:
        for action, wanted in (("REJECT not you", "554 5.7.1 not you"),
                               ("DEFER later", "450 4.7.1 later"),
                               ("550 5.7.1 go away", "550 5.7.1 go away"),
                               ("450 4.7.1 wait", "450 4.7.1 wait")):
            heard, log, _ = ask_at(stage, action,
                                   "HELO" if stage == "HELO" else "EHLO")
            got = heard["EHLO" if stage == "HELO" else stage]
            if stage in ("CONNECT", "HELO", "EHLO"):    # RFC 2034 3
                wanted = re.sub(r" \d\.\d\.\d ", " ", wanted)
            assert got.startswith(wanted), (stage, action, got)
            assert heard["after"][:3] == "221", (stage, heard)
            assert ("MESSAGE FOLLOWS" in log) == (stage == "VRFY"), log


ACTIONS = [
    # what the service says at RCPT, the reply, is the message printed?
    ("OK", "250 ", True), ("DUNNO", "250 ", True), ("dunno", "250 ", True),
    ("WARN look out", "250 ", True), ("INFO by the way", "250 ", True),
    ("REJECT", "554 5.7.1 ", False), ("REJECT 5.1.1 no", "554 5.1.1 no", False),
    ("DEFER", "450 4.7.1 ", False),
    ("DEFER_IF_PERMIT later", "450 4.7.1 later", False),
    ("DEFER_IF_REJECT later", "250 ", True), ("421 4.7.0 bye", "421", False),
    ("HOLD", "451 4.7.1 ", False), ("DISCARD quietly", "250 ", False),
    ("FILTER smtp:x", "451 4.3.5", False), ("nonsense", "451 4.3.5", False),
    ("", "451 4.3.5", False),
]


@test
def each_action_of_a_policy_service_does_what_it_says():
    for action, wanted, printed in ACTIONS:
        place = folder()
        service, session = with_policy(place, {"RCPT": action})
        with service, session as s:
            s.start()
            s.say("MAIL FROM:<a@example.org>")
            got = s.say("RCPT TO:<b@example.org>")[0]
            assert got.startswith(wanted), (action, got)
            if got.startswith("250 "):
                assert s.say("DATA")[0][:3] == "354"
                assert s.say("Subject: x\r\n\r\ny\r\n.")[0][:3] == "250"
            if wanted == "421":
                assert s.read.read() == b""
                s.process.wait()
                log = s.logged()
            else:
                _, log = s.finish()
        assert ("MESSAGE FOLLOWS" in log) == printed, (action, log)
        if action.startswith(("WARN", "INFO")):
            assert action.split(" ", 1)[1] in log, log
        assert service.connections == 1
        shutil.rmtree(place)


@test
def prepend_puts_a_field_in_front():
    for stage in ("MAIL", "RCPT", "DATA"):
        _, log, _ = ask_at(stage, "PREPEND X-Policy: looked at")
        assert re.search(r"^X-Policy: looked at\nSubject: x$", log, re.M), \
            (stage, log)


@test
def redirect_changes_the_recipient():
    for stage in ("MAIL", "RCPT", "DATA", "END-OF-MESSAGE"):
        heard, log, _ = ask_at(stage, "REDIRECT other@example.net")
        assert heard["END-OF-MESSAGE"][:3] == "250", heard
        assert "rcpt to: <other@example.net>\n" in log, (stage, log)
        assert "rcpt to: <b@example.org>" not in log, (stage, log)


@test
def the_recipient_that_a_message_is_redirected_to_answers_for_all():
    place = folder()
    service, session = with_policy(
        place, {"END-OF-MESSAGE": "REDIRECT other@example.net"}, "--lmtp")
    with service, session as s:
        s.send(lines("LHLO x"))
        s.replies(2)
        s.send(message("Subject: x", "", "y",
                       to=("b@example.org", "c@example.org")))
        got = s.replies(6)
        assert [r[:9] for r in got[-2:]] == ["250 2.0.0"] * 2, got
        log = s.finish()[1]
    assert log.count("MESSAGE FOLLOWS") == 1, log
    assert "rcpt to: <other@example.net>\n" in log, log
    shutil.rmtree(place)


@test
def discard_takes_the_message_and_drops_it():
    for stage in ("MAIL", "RCPT", "DATA", "END-OF-MESSAGE"):
        heard, log, _ = ask_at(stage, "DISCARD")
        assert heard["END-OF-MESSAGE"][:3] == "250", heard
        assert "MESSAGE FOLLOWS" not in log, (stage, log)


@test
def hold_is_a_temporary_refusal_as_there_is_no_queue():
    heard, log, _ = ask_at("END-OF-MESSAGE", "HOLD")
    assert heard["END-OF-MESSAGE"][:9] == "451 4.7.1", heard
    assert "MESSAGE FOLLOWS" not in log


@test
def a_policy_service_that_is_not_there_never_means_yes():
    with closed_port() as port:
        for place in (f"unix:{PLACE}/nobody-listens",
                      f"inet:127.0.0.1:{port.getsockname()[1]}"):
            with Session("--policy", place, "print:") as s:
                assert s.reply() == "451 Policy service not available", place
                log = s.finish()[1]
            assert "event=policy " in log, log
            assert "CONNECT" in log and place in log, log


@test
def a_policy_service_that_dies_is_asked_again_once():
    place = folder()
    service, session = with_policy(place, {})
    with session as s:
        with service:
            s.start()
            assert s.deliver()[:3] == "250"
            os.unlink(f"{place}/policy")
        service.answer = lambda q: "garbage\nmore"      # the connection lives
        assert s.say("MAIL FROM:<a@example.org>")[0][:9] == "451 4.3.5"
        _, log = s.finish()
    assert log.count("MESSAGE FOLLOWS") == 1
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
