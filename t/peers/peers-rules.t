#!/usr/bin/env python3
"""peers-rules.t - what Postfix, curl and swaks make of the answers that --rules
gives: who keeps the mail, who bounces it, who sends it twice."""
import glob
import os
import re
import smtplib
import socket
import subprocess
import sys

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from peer import Postfix, main
from tap import Listener, Session, folder, need, test

PLACE = folder()
BOX = os.path.join(PLACE, "box")
RULES = os.path.join(PLACE, "rules")


def rules(*text):
    """Holds for the sessions that follow: each reads the file."""
    with open(RULES, "w") as file:
        file.write("\n".join(text) + "\n")


rules()
server = Listener("--rules", RULES, f"maildir:{BOX}")
postfix = Postfix(main="default_transport = smtp\n"
                  f"relayhost = [127.0.0.1]:{server.port}\n"
                  "smtp_tls_security_level = may\n"
                  "smtp_connection_cache_on_demand = no\n"
                  "minimal_backoff_time = 1000s\nmaximal_backoff_time = 1000s\n"
                  "smtp_destination_concurrency_failed_cohort_limit = 0\n")


def arrived(queue_id):
    """What came of a message of Postfix's, as often as it came."""
    texts = []
    for path in glob.glob(f"{BOX}/new/*"):
        with open(path) as file:
            texts.append(file.read())
    return [t for t in texts if re.search(rf"\bid {queue_id}\b", t)]


def logged(queue_id, like, count=1):
    """Waits for so many records of a message in Postfix's log."""
    record = f"(?m) {queue_id}: {like}"
    postfix.await_lines("maillog", record, count)
    return re.findall(record, postfix.read("maillog"))


def submit(*to, text="Subject: x\r\n\r\ny\r\n"):
    """Gives Postfix a message; returns its name there."""
    with smtplib.SMTP("127.0.0.1", postfix.ports[0]) as client:
        client.mail("me@example.org")
        for name in to or ("you",):
            client.rcpt(f"{name}@example.net")
        return client.data(text)[1].decode().split()[-1]


def fate(queue_id, count=1):
    """What became of a message: for each recipient status and reason."""
    return {to: (status, why) for to, status, why in logged(
        queue_id, r"to=<([^@>]*)@.* status=(\w+) \((.*)\)$", count)[-count:]}


def try_again(queue_id):
    """What becomes of a deferred message at the next try."""
    before = len(logged(queue_id, "to=.* status="))
    # It is logged before the queue manager has put it away.
    while not glob.glob(postfix.path(f"spool/deferred/*/{queue_id}")):
        pass
    with socket.socket(socket.AF_UNIX) as queue_manager:
        queue_manager.connect(postfix.path("spool/public/qmgr"))
        queue_manager.sendall(b"FADI")      # as `postqueue -f' does
    return fate(queue_id, before + 1)


@test
def greylisted_mail_is_kept_and_sent_again():
    rules("RCPT grey@* 451 4.7.1 Try again later")
    name = submit("grey")
    status, why = fate(name)["grey"]
    assert status == "deferred" and "4.7.1 Try again later" in why, why
    rules()
    assert try_again(name)["grey"][0] == "sent"
    assert len(arrived(name)) == 1


@test
def mail_for_a_full_mailbox_is_kept():
    rules("RCPT full@* 452 4.2.2 Mailbox full")
    status, why = fate(submit("full"))["full"]
    assert status == "deferred" and "452 4.2.2 Mailbox full" in why, why


@test
def one_bad_recipient_of_three_is_bounced():
    rules("RCPT bad@* 550 5.1.1 No such mailbox")
    name = submit("one", "bad", "three")
    got = fate(name, 3)
    assert {to: s for to, (s, _) in got.items()} == {
        "one": "sent", "bad": "bounced", "three": "sent"}, got
    bounce, = logged(name, "sender non-delivery notification: (.*)$")
    assert fate(bounce)["me"][0] == "sent"
    text, = arrived(bounce)
    assert "550 5.1.1 No such mailbox" in text, text
    assert len([t for t in arrived(name) if t != text]) == 1


@test
def a_421_in_the_middle_keeps_the_mail():
    for stage in "MAIL", "RCPT", "DATA", "END":
        rules(f"{stage} * 421 4.3.2 Shutting down")
        name = submit()
        status, why = fate(name)["you"]
        assert status == "deferred" and "421 4.3.2" in why, (stage, why)
        assert arrived(name) == [], stage


@test
def mail_whose_reply_is_lost_is_sent_twice():
    rules("END * once close")
    name = submit()
    status, why = fate(name)["you"]
    assert status == "deferred" and \
        "message may be sent more than once" in why, why
    rules()
    assert try_again(name)["you"][0] == "sent"
    assert len(arrived(name)) == 2


@test
def a_slow_server_is_waited_for():
    rules("CONNECT * slow 300/s", "MAIL * delay 300ms", "END * delay 300ms",
          "END * slow 100/s")
    name = submit()
    assert fate(name)["you"][0] == "sent"
    assert len(arrived(name)) == 1


@test
def mail_goes_in_clear_text_where_STARTTLS_is_refused():
    rules("EHLO * offer STARTTLS", "STARTTLS * 454 4.7.0 TLS is broken")
    name = submit()
    assert fate(name)["you"][0] == "sent"
    text, = arrived(name)
    assert " with ESMTP id " in text.partition("by mx.example.org")[2], text


@test
def mail_is_kept_where_the_handshake_fails():
    rules("EHLO * offer STARTTLS", "STARTTLS * 220 2.0.0 Go ahead")
    status, why = fate(submit())["you"]
    assert status == "deferred" and "handshake failure" in why, why


@test
def refused_AUTH_is_an_error():
    need("swaks", "curl")
    rules("EHLO * offer AUTH PLAIN LOGIN", "AUTH * 535 5.7.8 Wrong password")
    done = subprocess.run(
        ["swaks", "--server", f"127.0.0.1:{server.port}", "--to",
         "you@example.net", "--auth", "LOGIN", "--auth-user", "jo",
         "--auth-password", "x"], capture_output=True, text=True)
    assert done.returncode == 28 and "535 5.7.8" in done.stdout, done
    done = subprocess.run(
        ["curl", "-sS", "--crlf", "-T", "-", "--user", "jo:x", "--mail-from",
         "me@example.org", "--mail-rcpt", "you@example.net",
         f"smtp://127.0.0.1:{server.port}"], input="Subject: x\n\ny\n",
        text=True, capture_output=True)
    assert done.returncode == 67, done


@test
def a_message_that_is_too_large_is_bounced():
    rules("TEXT >1M 552 5.3.4 Too big for the test", "MAIL <> 250 OK")
    name = submit(text="Subject: x\r\n\r\n" + ("y" * 70 + "\r\n") * 20000)
    status, why = fate(name)["you"]
    assert status == "bounced" and "552 5.3.4 Too big for the test" in why, why


@test
def HELO_follows_where_EHLO_is_refused():
    for answer in "502 5.5.1 Never heard of it", "500 Unknown":
        rules(f"EHLO * {answer}")
        name = submit()
        assert fate(name)["you"][0] == "sent"
        text, = arrived(name)
        assert " with SMTP id " in text.partition("by mx.example.org")[2], text


@test
def a_recorded_session_is_played_against_Postfix():
    record = os.path.join(PLACE, "record")
    with Session("--record", record, "discard:") as s:
        s.start()
        assert s.deliver(to=("a@example.net", "b@example.net"))[:3] == "250"
        s.finish()
    command = ["t/tools/smtpd-replay", "--codes",
               f"127.0.0.1:{postfix.ports[0]}", record]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    done = subprocess.run([command[0], *command[2:]], capture_output=True,
                          text=True)
    assert done.returncode == 1 and re.search(
        r"expected 220 mx.example.org ESMTP smtpd, got 220 mx.example.net "
        "ESMTP Postfix", done.stdout), done


@test
def what_is_no_reply_is_no_success():
    for action, want in (("close", "deferred"), ("reset", "deferred"),
                         ("garbage", "bounced")):
        rules(f"RCPT * {action}")
        name = submit()
        status, why = fate(name)["you"]
        assert status == want, (action, status, why)
        assert arrived(name) == [], action


if __name__ == "__main__":
    with server, postfix:
        main()
