#!/usr/bin/env python3
"""senders.t - --auth-senders: who may send as whom."""
import base64
import os
import subprocess

from fakes.hop import Hop
from tap import (SMTPD, PolicyService, Session, folder, main, script, test,
                 write)

PLACE = folder()
CHECKER = script(PLACE, "IFS= read -r x <&3; exec \"$@\"", "anybody")
NOT_JO = "553 5.7.1 <{}>: Sender address rejected: not owned by user jo"
NOT_IN = "553 5.7.1 <{}>: Sender address rejected: not logged in"
OK = "250"

TABLE = """\
# who may send as whom
jo@example.org          jo
office@example.org      ann, Jo
"two words"@example.org jo
bounces@example.org     ann
@example.net            jo,admin
/^x-.*@example\\.org$/  jo
"""


def wrote(text, name="senders"):
    return write(os.path.join(PLACE, name), text)


def client(file, *options, user="jo", relay="discard:"):
    s = Session("--no-auth-require-tls", "--auth", f"checkpassword:{CHECKER}",
                "--auth-senders", file, *options, relay)
    s.start()
    if user:
        reply = s.say("AUTH PLAIN " + base64.b64encode(
            f"\0{user}\0secret".encode()).decode())[0]
        assert reply.startswith("235 "), reply
    return s


def said(s, sender):
    reply, _ = s.say(f"MAIL FROM:<{sender}>", "RSET")
    return OK if reply.startswith("250 ") else reply


@test
def a_user_may_use_its_own_senders_and_no_other():
    with client(wrote(TABLE)) as s:
        for sender in ("jo@example.org", "JO@example.org", "Jo@Example.ORG",
                       "office@example.org", "jo+detail@example.org",
                       "any.one@example.net", '"jo"@example.org',
                       '"two words"@example.org', "x-1@example.org",
                       ""):             # bounces are everybody's
            assert said(s, sender) == OK, sender
        for sender in ("two_words@example.org", "ann@example.org",
                       "bounces@example.org", "jo@example.com",
                       "jo@sub.example.net", "jo"):
            assert said(s, sender) == NOT_JO.format(sender), sender
        status, log = s.finish()
    assert status == 0
    assert log.count('by="--auth-senders at MAIL"') == 6, log


@test
def several_users_share_a_sender_in_whatever_case():
    file = wrote(TABLE)
    for user in ("ann", "ANN"):
        with client(file, user=user) as s:
            assert said(s, "office@example.org") == OK
            assert said(s, "bounces@example.org") == OK
            assert "not owned by user ann" in said(
                s, "jo@example.org").lower()


@test
def a_part_of_a_login_is_not_the_login():
    with client(wrote("a@example.org jojo,j\nb@example.org xjo\n")) as s:
        for sender in ("a@example.org", "b@example.org"):
            assert said(s, sender) == NOT_JO.format(sender)


@test
def a_client_that_has_not_logged_in_may_use_senders_without_a_login():
    with client(wrote(TABLE), user=None) as s:
        for sender in ("jo@example.org", "any@example.net"):
            assert said(s, sender) == NOT_IN.format(sender)
        assert said(s, "stranger@example.com") == OK
        assert said(s, "") == OK


@test
def a_star_is_who_may_send_as_everybody_else():
    file = wrote(TABLE + "* jo\n")
    with client(file) as s:
        assert said(s, "who.ever@example.com") == OK
        assert said(s, "bounces@example.org") == NOT_JO.format(
            "bounces@example.org")
    with client(file, user=None) as s:
        assert said(s, "who.ever@example.com") == OK
        assert said(s, "jo@example.org") == NOT_IN.format("jo@example.org")


@test
def a_message_is_relayed_and_a_refused_sender_has_no_transaction():
    with client(wrote(TABLE)) as s:
        assert s.deliver(sender="jo@example.org").startswith("250 2.0.0 ")
        got = s.say("MAIL FROM:<ann@example.org>", "RCPT TO:<b@example.org>",
                    "DATA")
        assert [r[:3] for r in got] == ["553", "503", "503"], got
        assert s.deliver(sender="jo@example.org").startswith("250 2.0.0 ")


@test
def the_next_hop_and_services_do_not_hear_of_a_refused_sender():
    file, hop = wrote(TABLE), Hop()
    with client(file, "--live", relay=hop.relay()) as s:
        assert said(s, "ann@example.org") == NOT_JO.format("ann@example.org")
        s.send(b"MAIL FROM:<ann@example.org>\r\nRCPT TO:<b@example.org>\r\n"
               b"RCPT TO:<c@example.org>\r\n")
        got = s.replies(3)
        assert got[0] == NOT_JO.format("ann@example.org"), got
        assert s.deliver(sender="jo@example.org").startswith("250 ")
        s.finish()
    mails = [c for c in hop.told() if c.startswith("MAIL")]
    assert len(mails) == 1 and "jo@example.org" in mails[0], mails
    hop.close()
    with PolicyService(PLACE) as service, \
            client(file, "--policy", f"MAIL={service.place}") as s:
        assert said(s, "ann@example.org").startswith("553 ")
        assert said(s, "jo@example.org") == OK
        s.finish()
    os.unlink(f"{PLACE}/policy")
    assert [q["sender"] for q in service.asked] == ["jo@example.org"]


@test
def addresses_are_completed_first():
    with client(wrote(TABLE), "--domain", "example.org") as s:
        assert said(s, "jo") == OK
        assert said(s, "ann") == NOT_JO.format("ann@example.org")


@test
def a_file_that_cannot_be_used_defers_mail_and_is_told_by_line():
    for text, why in (("a@example.org\n", "senders: line 1: no login"),
                      ("jo@example.org jo\nb@ jo\n", "senders: line 2: "),
                      ("a@example.org , ,\n", "senders: line 1: no login")):
        with client(wrote(text)) as s:
            assert said(s, "jo@example.org") == \
                "451 4.3.5 Local configuration error"
            _, log = s.finish()
        assert why in log, log
        done = subprocess.run([SMTPD, "--check", "--auth-senders",
                               f"{PLACE}/senders", "discard:"], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
        assert done.returncode == 78 and why in done.stdout, done
    with client("/no/senders") as s:
        assert said(s, "jo@example.org").startswith("451 4.3.5 ")
    done = subprocess.run([SMTPD, "--check", "--auth-senders", wrote(TABLE),
                           "discard:"], text=True, stdin=subprocess.DEVNULL,
                          capture_output=True)
    assert done.returncode == 0, done
    assert f"good: --auth-senders {PLACE}/senders can be used\n" in \
        done.stdout, done


@test
def a_file_that_only_root_can_read_is_opened_as_root():
    file = wrote(TABLE, "private")
    os.chmod(file, 0o600)
    with client(file) as s:
        assert said(s, "jo@example.org") == OK
        assert said(s, "ann@example.org") == NOT_JO.format("ann@example.org")


os.chmod(PLACE, 0o755)
main()
