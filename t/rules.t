#!/usr/bin/env python3
"""rules.t - --rules: how the server answers, seen by real clients."""
import os
import smtplib
import ssl
import subprocess
import time

from tap import (HELLO, SMTPD, Listener, Session, certificate, folder, lines,
                 main, message, need, tcp_pair, test)

PLACE = folder()
TEXT = "Subject: x\r\n\r\nhello\r\n"


def rules(*text, name="rules"):
    path = os.path.join(PLACE, name)
    with open(path, "w") as f:
        f.write("\n".join(text) + "\n")
    return path


def box():
    return os.path.join(PLACE, f"box{len(os.listdir(PLACE))}")


def kept(where):
    try:
        return sorted(os.listdir(f"{where}/new"))
    except FileNotFoundError:
        return []


def server(*text, relay=None, options=()):
    return Listener("--rules", rules(*text), *options, relay or "discard:")


def client(listener):
    return smtplib.SMTP("127.0.0.1", listener.port)


def refusal(call, *arguments):
    """What smtplib raises, as (code, text)."""
    try:
        call(*arguments)
    except smtplib.SMTPResponseException as error:
        return error.smtp_code, error.smtp_error.decode()
    except smtplib.SMTPRecipientsRefused as error:
        return [(k, v[0], v[1].decode()) for k, v in
                error.recipients.items()]
    raise AssertionError("it was accepted")


def send(c, *to, text=TEXT):
    return c.sendmail("me@example.org", to or ("you@example.net",), text)


# ---- the examples of the manual ---------------------------------------------

@test
def greylisting_is_passed_at_the_second_try():
    with server("RCPT grey@* once 451 4.7.1 Try again later") as s, \
            client(s) as c:
        assert refusal(send, c, "grey@example.net") == [
            ("grey@example.net", 451, "4.7.1 Try again later")]
        assert send(c, "grey@example.net") == {}


@test
def a_full_mailbox_is_refused():
    with server("RCPT full@* 452 4.2.2 Mailbox full") as s:
        with client(s) as c:
            assert refusal(send, c, "full@example.net") == [
                ("full@example.net", 452, "4.2.2 Mailbox full")]
        assert "event=rule" in s.logged()


@test
def one_bad_recipient_of_three_leaves_two():
    where = box()
    with server("RCPT bad@* 550 5.1.1 No such mailbox",
                relay=f"maildir:{where}") as s, client(s) as c:
        got = send(c, "a@example.net", "bad@example.net", "c@example.net")
        assert got == {"bad@example.net": (550, b"5.1.1 No such mailbox")}
    assert len(kept(where)) == 1


@test
def a_421_in_the_middle_ends_the_session():
    where = box()
    with server("RCPT * 421 4.3.2 Shutting down",
                relay=f"maildir:{where}") as s:
        c = client(s)
        got = refusal(send, c)
        assert got[0][1] == 421 and "Shutting down" in got[0][2], got
        c.close()
        assert "4.3.2" in s.logged(), s.logged()
    assert kept(where) == []


@test
def a_connection_closed_after_the_dot_leaves_a_duplicate():
    where = box()
    with server("END * once close", relay=f"maildir:{where}") as s:
        for _ in range(2):      # a client that keeps its mail sends it again
            try:
                send(client(s))
                raise AssertionError("accepted")
            except smtplib.SMTPServerDisconnected:
                pass
        log = s.logged()
        assert log.count("event=duplicate-possible") == 2, log
    assert len(kept(where)) == 2


@test
def a_server_that_is_slow_or_late_is_waited_for():
    with server("CONNECT * slow 200/s", "EHLO * delay 300ms",
                "END * delay 200ms") as s:
        begin = time.monotonic()
        with client(s) as c:
            assert time.monotonic() - begin >= 0.1
            c.ehlo()
            assert time.monotonic() - begin >= 0.4
            assert send(c) == {}
            assert time.monotonic() - begin >= 0.6


@test
def STARTTLS_is_offered_and_fails():
    with server("EHLO * offer STARTTLS",
                "STARTTLS * first 1 454 4.7.0 TLS is broken",
                "STARTTLS * 220 2.0.0 Go ahead") as s:
        with client(s) as c:
            c.ehlo()
            assert c.has_extn("starttls")
            assert refusal(c.starttls)[0] == 454
            assert send(c) == {}    # in the clear after all
            try:
                c.starttls(context=ssl._create_unverified_context())
                raise AssertionError("a handshake")
            except (ssl.SSLError, OSError, smtplib.SMTPException):
                c.close()
        assert "event=tls-failed" in s.logged()


@test
def STARTTLS_that_is_only_offered_is_not_available():
    with server("EHLO * offer STARTTLS") as s, client(s) as c:
        c.ehlo()
        assert refusal(c.starttls) == (454, "4.7.0 TLS is not available")
        assert send(c) == {}


@test
def AUTH_is_offered_and_refused_for_one_user():
    with server("EHLO * offer AUTH PLAIN LOGIN",
                "AUTH bad@* 535 5.7.8 Wrong password",
                "AUTH good@* 235 2.7.0 Welcome") as s, client(s) as c:
        for mechanism in ("auth_plain", "auth_login"):
            c.ehlo()
            assert c.esmtp_features["auth"].strip() == "PLAIN LOGIN"
            c.user, c.password = "bad@example.org", "x"
            name = mechanism[5:].upper()
            assert refusal(c.auth, name, getattr(c, mechanism)) == (
                535, "5.7.8 Wrong password")
        c.user = "good@example.org"
        assert c.auth("PLAIN", c.auth_plain) == (235, b"2.7.0 Welcome")
        assert send(c) == {}


@test
def a_source_of_AUTH_is_not_asked_for_a_user_that_a_rule_refuses():
    with server("AUTH bad@* 535 5.7.8 Wrong password", options=[
            "--auth", "checkpassword:/bin/true",
            "--no-auth-require-tls"]) as s, client(s) as c:
        for mechanism in ("PLAIN", "LOGIN"):
            c.user, c.password = "bad@example.org", "x"
            c.ehlo()
            assert refusal(c.auth, mechanism, getattr(
                c, f"auth_{mechanism.lower()}"))[0] == 535
        c.user = "good@example.org"
        assert c.auth("LOGIN", c.auth_login)[0] == 235
        c.quit()
        assert s.logged().count("event=auth-ok") == 1, s.logged()


@test
def a_message_that_is_too_large_is_refused_at_its_end():
    where = box()
    with server("TEXT >1K 552 5.3.4 Too big for the test",
                relay=f"maildir:{where}") as s, client(s) as c:
        big = TEXT + ("y" * 70 + "\r\n") * 100
        assert refusal(lambda: send(c, text=big)) == (
            552, "5.3.4 Too big for the test")
        assert send(c) == {}
    assert len(kept(where)) == 1


@test
def EHLO_is_refused_and_HELO_accepted():
    need("curl", "swaks")
    with server("EHLO * 502 5.5.1 Never heard of it") as s:
        with client(s) as c:
            assert send(c) == {}
            assert not c.does_esmtp
        done = subprocess.run(
            ["curl", "-sS", "--crlf", "-T", "-", "--mail-from",
             "me@example.org", "--mail-rcpt", "you@example.net",
             f"smtp://127.0.0.1:{s.port}"], input="Subject: x\n\nhello\n",
            text=True, capture_output=True)
        assert done.returncode == 0, done
        done = subprocess.run(
            ["swaks", "--server", f"127.0.0.1:{s.port}", "--to",
             "you@example.net", "--from", "me@example.org"],
            capture_output=True, text=True)
        assert done.returncode == 0 and "HELO" in done.stdout, done


# ---- EHLO --------------------------------------------------------------------

@test
def hidden_keywords_are_neither_listed_nor_taken():
    with Session("--rules", rules(
            "EHLO * hide 8BITMIME, size,CHUNKING,HELP",
            "EHLO * hide DSN", "EHLO * 550 never"), "discard:") as s:
        listed = s.start().split("\n")
        assert listed[1:] == ["250-PIPELINING", "250-BINARYMIME",
                              "250-ENHANCEDSTATUSCODES",
                              "250 LIMITS RCPTMAX=1000"], listed
        for parameter in ("SIZE=10", "RET=FULL"):
            assert s.say(f"MAIL FROM:<a@example.org> {parameter}")[0][
                :9] == "555 5.5.4"
        assert s.say("MAIL FROM:<a@example.org> BODY=8BITMIME")[0][
            :3] == "501"
        assert s.say("MAIL FROM:<a@example.org>",
                     "RCPT TO:<b@example.org>")[1][:3] == "250"
        s.send(b"BDAT 6 LAST\r\nNOOP\r\n")
        assert s.reply() == "502 5.5.1 CHUNKING is not offered"
        assert s.say("NOOP")[0][:3] == "250"
        s.finish()


@test
def without_enhanced_codes_replies_have_none():
    with Session("--rules", rules("EHLO old hide ENHANCEDSTATUSCODES"),
                 "discard:") as s:
        s.start()
        assert s.say("NOOP") == ["250 2.0.0 OK"]
        s.say("EHLO old")
        assert s.say("NOOP") == ["250 OK"]
        s.say("EHLO new")
        assert s.say("NOOP") == ["250 2.0.0 OK"]
        s.finish()


@test
def as_many_lines_are_offered_as_there_are_rules():
    want = [f"XTEST{i}" for i in range(100)]
    with Session("--rules", rules(*[f"EHLO * offer {w}" for w in want]),
                 "discard:") as s:
        got = s.start().split("\n")
        assert [line[4:] for line in got if "XTEST" in line] == want, got
        s.finish()


@test
def offered_lines_are_added_or_replace_ours():
    with Session("--rules", rules("EHLO * offer XTEST foo bar",
                                  "EHLO * offer SIZE 1000"),
                 "discard:") as s:
        listed = s.start().split("\n")
        assert "250-XTEST foo bar" in listed and "250-SIZE 1000" in listed
        assert len([l for l in listed if "SIZE" in l]) == 1, listed
        assert listed[-1] == "250 HELP"
        assert s.say("MAIL FROM:<a@example.org> SIZE=2000")[0][:3] == "250"
        s.finish()


@test
def STARTTLS_that_works_can_be_hidden():
    certificate(PLACE, "cert", "mx.example.org")
    with server("EHLO shy hide STARTTLS", options=[
            "--tlscert", f"{PLACE}/cert.pem",
            "--tlskey", f"{PLACE}/cert.key"]) as s, client(s) as c:
        c.ehlo("shy")
        assert not c.has_extn("starttls")
        assert c.docmd("STARTTLS")[0] == 454
        c.ehlo("bold")
        assert c.has_extn("starttls")
        c.starttls(context=ssl._create_unverified_context())
        assert send(c) == {}


# ---- what is done to replies

@test
def the_replies_before_the_faulty_one_arrive():
    for action in ("close", "reset"):
        pair = tcp_pair()
        with Session("--rules", rules(f"RCPT b@* {action}"), "discard:",
                     pair=pair) as s:
            s.start()
            s.send(lines("MAIL FROM:<a@example.org>",
                         "RCPT TO:<a@example.org>"))
            got = s.replies(2)
            assert [g[:3] for g in got] == ["250", "250"], got
            s.send(lines("RCPT TO:<b@example.org>"))
            try:
                rest = s.read.read()
                assert action == "close" and rest == b"", (action, rest)
            except ConnectionResetError:
                assert action == "reset"
            s.process.wait()
            assert "closed by a rule" in s.logged(), s.logged()


@test
def a_pipelined_group_is_answered_up_to_the_fault():
    with Session("--rules", rules("RCPT b@* close"), "discard:") as s:
        s.start()
        s.send(message("x", to=("a@example.org", "b@example.org")))
        assert [r[:3] for r in s.replies(2)] == ["250", "250"]
        assert s.read.read() == b""
        s.process.wait()
        assert "message-relayed" not in s.logged()


@test
def a_client_may_wait_for_ever_but_for_the_deadline():
    with Session("--rules", rules("MAIL * stall"), "-t", "1",
                 "discard:") as s:
        s.start()
        s.send(lines("MAIL FROM:<a@example.org>"))
        assert s.read.read() == b""     # no 421 either
        assert s.process.wait() == 0


@test
def a_stalled_session_ends_when_the_client_leaves():
    with Session("--rules", rules("MAIL * stall"), "discard:") as s:
        s.start()
        s.send(lines("MAIL FROM:<a@example.org>"))
        s.socket.shutdown(1)
        assert s.read.read() == b""
        assert s.process.wait() == 0


@test
def a_delay_ends_at_the_deadline():
    with Session("--rules", rules("MAIL * delay 1h"), "-t", "1",
                 "discard:") as s:
        s.start()
        s.send(lines("MAIL FROM:<a@example.org>"))
        rest = s.read.read()
        assert b"421 4.4.2" in rest, rest


@test
def garbage_is_no_reply_and_the_session_goes_on():
    with Session("--rules", rules("NOOP * once garbage"), "discard:") as s:
        s.start()
        s.send(lines("NOOP"))
        line = s.read.readline()
        assert line.endswith(b"\r\n") and not line[:3].isdigit(), line
        assert s.say("NOOP") == ["250 2.0.0 OK"]
        s.finish()


@test
def a_text_that_is_cut_off_is_not_relayed():
    for action in ("close", "stall"):
        where = box()
        with Session("--rules", rules(f"TEXT >10 {action}"), "-t", "1",
                     f"maildir:{where}") as s:
            s.start()
            s.send(message("Subject: x", "", "more than ten octets"))
            assert s.replies(3)[2][:3] == "354"
            assert s.read.read() == b""
            s.process.wait()
        assert kept(where) == [], action


@test
def text_may_be_compared_when_it_is_whole():
    with Session("--rules", rules("TEXT <10 554 5.6.0 Too short",
                                  "END >40 554 5.6.0 Too long"),
                 "discard:") as s:
        s.start()
        assert s.deliver("x") == "554 5.6.0 Too short"
        assert s.deliver("x" * 50) == "554 5.6.0 Too long"
        assert s.deliver("x" * 20)[:3] == "250"
        assert s.deliver("x") == "554 5.6.0 Too short"
        s.finish()


# ---- which rule holds

@test
def the_first_rule_of_a_stage_decides_and_a_delay_lets_the_next():
    with Session("--rules", rules(
            "# a remark", "", "rcpt *@example.net delay 10ms\r",
            "RCPT A@* 550 5.1.1 One\\nTwo", "RCPT a@* 551 5.1.6 never",
            "RCPT b@* first 2 450 4.2.0 Later",
            "MAIL <> 250 2.1.0 A bounce, thank you",
            "* z* 421 4.3.2 Bye"), "discard:") as s:
        s.start()
        assert s.say("MAIL FROM:<>") == ["250 2.1.0 A bounce, thank you"]
        assert s.say("RCPT TO:<a@example.net>") == [
            "550-5.1.1 One\n550 5.1.1 Two"]
        got = [s.say("RCPT TO:<b@example.org>")[0][:3] for _ in range(3)]
        assert got == ["450", "450", "250"], got
        assert s.say("RCPT TO:<z@example.org>")[0][:3] == "421"
        s.process.wait()
        log = s.logged()
        assert f"{PLACE}/rules: line 4: RCPT a@example.net: reply 550" in \
            log, log
        assert log.count("event=rule") == 6, log


@test
def each_stage_can_be_refused():
    for stage, command in (
            ("CONNECT", None), ("HELO", "HELO x"), ("EHLO", "EHLO x"),
            ("MAIL", "MAIL FROM:<a@example.org>"), ("VRFY", "VRFY a"),
            ("EXPN", "EXPN a"), ("NOOP", "NOOP"), ("RSET", "RSET"),
            ("QUIT", "QUIT")):
        with Session("--rules", rules(f"{stage} * 554 5.7.1 Not you"),
                     "discard:") as s:
            greeting = s.reply()
            if command is None:
                assert greeting == "554 Not you", greeting
                continue
            if stage not in ("EHLO", "HELO"):
                s.say(HELLO)
            assert s.say(command)[0].endswith("Not you"), stage
    with Session("--rules", rules("DATA a@* 554 5.7.1 Not you",
                                  "END b@* 554 5.7.1 Not now"),
                 "discard:") as s:
        s.start()
        assert s.say("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>",
                     "DATA")[2] == "554 5.7.1 Not you"
        s.say("RSET")
        assert s.deliver("x", sender="b@example.org") == "554 5.7.1 Not now"
        s.finish()


@test
def a_reply_without_words_has_those_of_its_class():
    for reply, words in (("450", "450 Try again later"),
                         ("550", "550 Refused"), ("250", "250 OK"),
                         ("252 2.0.0 Perhaps", "252 2.0.0 Perhaps")):
        with Session("--rules", rules(f"VRFY * {reply}"), "discard:") as s:
            s.start()
            got = s.say("VRFY a")
            assert got == [words], got
            s.finish()


@test
def CRAM_MD5_can_be_offered_and_its_user_is_compared():
    with server("EHLO * offer AUTH CRAM-MD5", "AUTH bad@* 535 5.7.8 No",
                "AUTH good@* 235 2.7.0 Welcome") as s, client(s) as c:
        c.ehlo()
        c.user, c.password = "bad@example.org", "x"
        assert refusal(c.auth, "CRAM-MD5", c.auth_cram_md5) == (
            535, "5.7.8 No")
        c.user = "good@example.org"
        assert c.auth("CRAM-MD5", c.auth_cram_md5) == (235, b"2.7.0 Welcome")


@test
def what_a_rule_refuses_the_policy_service_never_hears_of():
    from tap import PolicyService
    with PolicyService(folder()) as policy, Session(
            "--rules", rules("RCPT bad@* 550 5.1.1 No",
                             "RCPT odd@* 251 2.1.5 Forwarded"),
            "--policy", policy.place, "discard:") as s:
        s.start()
        s.send(message("x", to=("a@example.org", "bad@example.org",
                                "odd@example.org")))
        got = s.replies(6)
        assert [g[:3] for g in got] == ["250", "250", "550", "251", "354",
                                        "250"], got
        asked = [q["recipient"] for q in policy.asked
                 if q["protocol_state"] == "RCPT"]
        assert asked == ["a@example.org", "odd@example.org"], asked
        assert s.finish()[0] == 0


@test
def in_LMTP_each_recipient_gets_the_reply_of_END():
    with Session("--lmtp", "--rules", rules("END * 452 4.2.2 Full"),
                 "discard:") as s:
        s.reply()
        s.say("LHLO x")
        s.send(message("x", to=("a@example.org", "b@example.org")))
        assert s.replies(6)[4:] == ["452 4.2.2 Full"] * 2
        s.finish()


@test
def a_file_that_makes_no_sense_is_named_with_its_line():
    for bad, why in (
            ("RCPT", "after the stage"), ("FOO * close", "no such stage"),
            ("RCPT *", "no action"), ("RCPT * explode", "no such action"),
            ("RCPT * 99 x", "three digits"), ("RCPT * 650 x", "200 to 599"),
            ("RCPT * 550 4.1.1 x", "different classes"),
            ("RCPT * delay soon", "a time"), ("RCPT * slow 0/s", "a rate"),
            ("RCPT * first 0 close", "a number"), ("RCPT * close now",
                                                   "nothing may follow"),
            ("RCPT * hide SIZE", "belong to EHLO"),
            ("EHLO * hide FOO", "no such keyword"),
            ("EHLO * hide", "hide is followed by keywords"),
            ("RCPT * 550 " + "x" * 5000, "the reply is too long"),
            ("EHLO * offer",
                                                     "a line"),
            ("EHLO * hide 8BITMIME SIZE", "commas"),
            ("TEXT a@b 550 x", "TEXT is followed"), ("TEXT >x 550 x",
                                                     "octets"),
            ("TEXT * 250 x", "only be refused"), ("RCPT * 550 a\\b",
                                                  "backslash")):
        done = subprocess.run(
            [SMTPD, "--rules", rules("# one", "", bad), "discard:"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 78 and done.stdout == "", done
        assert f"smtpd: --rules {PLACE}/rules: line 3: " in done.stderr, done
        assert why in done.stderr, (bad, done.stderr)
        done = subprocess.run(
            [SMTPD, "--check", "--rules", f"{PLACE}/rules", "discard:"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        last = done.stdout.splitlines()[-1]
        assert done.returncode == 78 and done.stderr == "", done
        assert last.startswith(f"bad: --rules {PLACE}/rules: line 3: ") and \
            why in last, last
    done = subprocess.run(
        [SMTPD, "--check", "--rules", rules("QUIT * close"), "discard:"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0 and f"good: --rules {PLACE}/rules makes " \
        "sense\n" in done.stdout, done
    done = subprocess.run([SMTPD, "--rules", "/nowhere/rules", "discard:"],
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)
    assert done.returncode == 78 and "/nowhere/rules: No such" in done.stderr
    done = subprocess.run([SMTPD, "--rules", rules("RCPT * 550 \0"),
                           "discard:"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True)
    assert done.returncode == 78, done
    assert f"{PLACE}/rules: not a text file: it has a NUL\n" in done.stderr, \
        done


if __name__ == "__main__":
    main()
