#!/usr/bin/env python3
"""from.t - --from: the sender that a provider wants, in the envelope and in the
header, and not an octet of anything else."""
import os
import subprocess

from fakes.provider import Provider
from tap import SMTPD, Session, folder, lines, main, script, test, write

PLACE = folder()
os.chmod(PLACE, 0o777)
US = "printer@example.com"
JO = "jo@example.org"
# Everything that a body can have: it must arrive as it is.
BODY = (b"From: body@example.org\r\nSender: body\r\n\r\n\xff\x80 8 bits\r\n"
        b" \t \r\nlast line\r\n")


def provider(**more):
    hop = Provider(f"{PLACE}/hop", "PLAIN", {"u": "p"}, **more)
    os.chmod(hop.path, 0o777)
    return hop


def wrote(name, text):
    return write(os.path.join(PLACE, name), text)


def store(name="store"):
    """A program that keeps sender and message in a file: the program's line,
    and what reads the file."""
    path = os.path.join(PLACE, name + ".out")
    if os.path.exists(path):
        os.unlink(path)
    program = script(PLACE, f'{{ echo "$SENDER"; cat; }} >{path}', name)

    def read():
        with open(path, "rb") as f:
            sender, _, text = f.read().partition(b"\n")
        return sender.decode(), text
    return ["--", program], read


def one(hop, what, header, sender, options):
    """Sends a message of octets; the reply and the log."""
    with Session("--no-received", "--from", what, *options, *hop) as s:
        s.start()
        s.send(lines(f"MAIL FROM:<{sender}>", "RCPT TO:<b@example.net>",
                     "DATA") + header + b"\r\n" + BODY + b".\r\n")
        got = s.replies(4)[-1]
        s.finish()
        return got, s.logged()


def relayed(header, what=US, sender=JO, options=()):
    """What a message with that header, whose lines end in LF, becomes: the
    envelope's sender and the header.  A next hop and a program must get the
    same, and the body as it was."""
    header = header if isinstance(header, bytes) else header.encode()
    program, read = store()
    got, log = one(program, what, header.replace(b"\n", b"\r\n"), sender,
                   options)
    assert got[:3] == "250", (got, log)
    who, text = read()
    with provider() as hop:
        got, log = one([hop.relay()], what, header.replace(b"\n", b"\r\n"),
                       sender, [*options, "--relay-auth",
                                wrote("credentials", "* u:p\n")])
        assert got[:3] == "250", (got, log)
        _, same, octets = hop.messages[0]
    assert same == who, (same, who)
    assert octets == text.replace(b"\n", b"\r\n"), (octets, text)
    head, _, body = octets.partition(b"\r\n\r\n")
    assert body == BODY, body
    return who, head.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def becomes(was, now, reply_to=None, **more):
    """A From: field, with all its lines, becomes another."""
    reply_to = was.partition(":")[2] if reply_to is None else reply_to
    who, head = relayed(f"Subject: x\n{was}\nTo: b@example.net\n", **more)
    want = f"Subject: x\n{now}\nTo: b@example.net" + (
        f"\nReply-To:{reply_to}" if reply_to else "")
    assert head == want, (was, head, want)
    assert who == US, who


@test
def an_address_is_replaced_where_it_stands_and_its_name_is_kept():
    for was, now in (
            ("jo@example.org", US),
            ("<jo@example.org>", f"<{US}>"),
            ("Jo Doe <jo@example.org>", f"Jo Doe <{US}>"),
            ("Jo Q. Doe <jo@example.org>", f"Jo Q. Doe <{US}>"),
            ('"Doe, Jo" <jo@example.org>', f'"Doe, Jo" <{US}>'),
            (r'"a \" b@c <d>" <jo@example.org>', rf'"a \" b@c <d>" <{US}>'),
            ("jo@example.org (Jo Doe)", f"{US} (Jo Doe)"),
            ("(x (y) \\) z) jo@example.org", f"(x (y) \\) z) {US}"),
            ("Jo (x) Doe (y) <jo@example.org> (z)",
             f"Jo (x) Doe (y) <{US}> (z)"),
            ("=?utf-8?q?J=C3=B6?= <jo@example.org>",
             f"=?utf-8?q?J=C3=B6?= <{US}>"),
            ("=?utf-8?q?Doe,_J=C3=B6?= <jo@example.org>",
             f"=?utf-8?q?Doe,_J=C3=B6?= <{US}>"),
            ("=?utf-8?B?SsO2?=\n =?utf-8?B?IERvZQ==?=\n\t<jo@example.org>",
             f"=?utf-8?B?SsO2?=\n =?utf-8?B?IERvZQ==?=\n\t<{US}>"),
            ("\n jo@example.org", f"\n {US}"),
            ("Jo\n <jo@example.org>\n\t(later)", f"Jo\n <{US}>\n\t(later)"),
            ('"jo doe"@example.org', US),
            ('jo . doe @ example . org', US),
            ("jo@[192.0.2.1]", US),
            ("jo@[IPv6:2001:db8::1]", US),
            ("Jo <@a.example,@b.example:jo@example.org>", f"Jo <{US}>"),
            ("j..o.@example.org", US),
            ("J\xf6 <jo@example.org>", f"J\xf6 <{US}>"),
            ("jö@exämple.org", US),
            (", jo@example.org,", f", {US},")):
        becomes(f"From: {was}", f"From: {now}")
    becomes("fRoM:jo@example.org", f"From: {US}")
    becomes("FROM :jo@example.org", f"From: {US}")


@test
def octets_that_are_no_utf8_are_kept():
    who, head = relayed(b"From: J\xf6 <jo@example.org>\nSubject: Gr\xfc\xdfe\n")
    assert head == f"From: J\udcf6 <{US}>\nSubject: Gr\udcfc\udcdfe\n" \
        "Reply-To: J\udcf6 <jo@example.org>", head


@test
def several_addresses_and_groups_become_one_with_the_first_name():
    for was, now in (
            ("jo@example.org, kim@example.org", US),
            ("Jo <jo@example.org>, Kim <kim@example.org>", f"Jo <{US}>"),
            ("jo@example.org,\n Kim <kim@example.org>", f"Kim <{US}>"),
            ("Team: jo@example.org, kim@example.org;", f"Team <{US}>"),
            ('"A; team" : Jo <jo@example.org>;', f'"A; team" <{US}>'),
            ("Team: , jo@example.org ,;, kim@example.org", f"Team <{US}>")):
        becomes(f"From: {was}", f"From: {now}")
    # Nobody to answer.
    becomes("From: Undisclosed sender:;", f"From: Undisclosed sender <{US}>",
            reply_to="")


@test
def a_field_that_cannot_be_read_is_replaced_whole():
    for was in ("", "   ", "Office Scanner", "Jo <jo@example.org", "Jo <>",
                "jo@", "@example.org", "jo@example..org", "jo@example.org.",
                "Jo jo@example.org", "a@b@example.org", '"Jo <jo@example.org>',
                "Jo (x <jo@example.org>", "Jo jo>", "a: b: c@example.org;;",
                "Team: jo@example.org", "jo@example.org; kim@example.org",
                "jo@[192.0.2.1", "jo@example.org <kim@example.org>",
                "J\x01o <jo@example.org>", "[Jo] <jo@example.org>",
                "Jo <jo@example.org> Doe", "Jo, <jo doe@example.org>",
                "Jo <jo@example.org>\n ,,\x7f"):
        becomes(f"From: {was}", f"From: {US}", reply_to="")
    # As devices write them: a local part is an address, but nobody elsewhere
    # could answer to it.
    becomes("From: scanner", f"From: {US}", reply_to="")
    becomes("From: Scanner <scanner>", f"From: Scanner <{US}>", reply_to="")


@test
def a_long_field_is_read_and_a_monstrous_one_replaced():
    many = ",\n ".join(f"user{i}@example.org" for i in range(2000))
    becomes(f"From: {many}", f"From: {US}")
    becomes(f"From: {many},\n {many}", f"From: {US}", reply_to="")
    deep = "(" * 400 + ")" * 400
    becomes(f"From: {deep} jo@example.org", f"From: {deep} {US}")


@test
def more_than_one_from_becomes_one():
    who, head = relayed("From: Jo <jo@example.org>\nA: 1\nfrom: kim@b.example\n"
                        "FROM: x\nB: 2\n")
    assert (who, head) == (US, f"From: {US}\nA: 1\nB: 2"), head


@test
def a_message_without_from_gets_one_and_loses_nothing():
    assert relayed("Subject: x\n") == (US, f"Subject: x\nFrom: {US}")
    assert relayed("") == (US, f"From: {US}")


@test
def a_header_that_follows_an_mbox_line_is_one():
    assert relayed("From jo@x Sat Nov 28\nSubject: x\nFrom: jo@example.org\n"
                   ) == (US, f"X-Mailbox-Line: From jo@x Sat Nov 28\n"
                         f"Subject: x\nFrom: {US}\nReply-To: jo@example.org")


@test
def sender_goes_and_reply_to_stays():
    assert relayed("Sender: sec@example.org\nFrom: Jo <jo@example.org>\n"
                   "sender : x\nReply-to: list@example.org\nX-Sender: y\n") == (
        US, f"From: Jo <{US}>\nReply-to: list@example.org\nX-Sender: y")
    # Also one that leads to nobody: it was meant.
    assert relayed("From: jo@example.org\nReply-To:\n")[1] == \
        f"From: {US}\nReply-To:"


@test
def what_is_right_already_stays_as_it_is():
    for was in (US, f"Jo <{US}>", '"printer"@EXAMPLE.com', f"(x) {US}"):
        assert relayed(f"From: {was}\nA: 1\n", sender=US) == (
            US, f"From: {was}\nA: 1"), was
    assert relayed(f"Sender: {JO}\nFrom: {US}\n")[1] == f"From: {US}"


@test
def the_null_sender_stays_null_and_the_header_is_changed():
    assert relayed("From: MAILER-DAEMON@example.org\n", sender="") == (
        "", f"From: {US}\nReply-To: MAILER-DAEMON@example.org")


@test
def a_map_has_senders_domains_and_a_star():
    file = wrote("from", "# who sends as whom\njo@example.org a@example.com\n"
                 "@example.org b@example.com\nexample.net\tc@example.com\n"
                 "<> d@example.com\nscanner e@example.com\n")
    for sender, header, who in (
            ("jo@example.org", "a", "a"), ("jo+x@EXAMPLE.org", "a", "a"),
            ("kim@example.org", "b", "b"), ("kim@example.net", "c", "c"),
            ("", "d", ""), ("scanner", "e", "e")):
        got = relayed("From: x@example.org\n", file, sender)
        assert got == (who and f"{who}@example.com", f"From: {header}"
                       "@example.com\nReply-To: x@example.org"), (sender, got)
    # The mail of a sender who is not in the file is not changed at all.
    for sender in ("x@example.com", "root"):
        assert relayed("Sender: y\nFrom: x@example.org\n", file, sender) == (
            sender, "Sender: y\nFrom: x@example.org"), sender
    file = wrote("from", "jo@example.org jo@example.org\n* f@example.com\n")
    assert relayed("From: jo@example.org\n", file)[0] == JO
    assert relayed("From: jo@example.org\n", file, "")[0] == ""
    assert relayed("From: x\n", file, "x@example.net") == (
        "f@example.com", "From: f@example.com")
    # After --domain, which completes the sender only.
    assert relayed("From: x\n", wrote("from", "root@example.net a@b.example\n"),
                   "root", ["--domain", "example.net"]) == (
        "a@b.example", "From: a@b.example")


@test
def a_map_that_makes_no_sense_defers_and_the_log_has_its_line():
    for text, why in (("jo@example.org\n", "missing"),
                      ("* x\n", "x: not an address"),
                      ("* a@b.example c@d.example\n", "not an address"),
                      ("* <a@b.example>\n", "not an address"),
                      ("* -a@b.example\n", "not an address"),
                      ("jo@ a@b.example\n", "not an address")):
        file = wrote("from", "# ours\n" + text)
        got, log = one(["discard:"], file, b"From: x\r\n", JO, [])
        assert got == "451 4.3.5 Local configuration error", (got, log)
        assert f"{file}: line 2: " in log and why in log, log
    got, log = one(["discard:"], f"{PLACE}/none", b"From: x\r\n", JO, [])
    assert got == "451 4.3.5 Local configuration error", (got, log)
    assert "No such file" in log, log


@test
def what_is_no_address_is_refused_at_the_start():
    for what in ("", "a@", "@example.com", "a b@example.com", "-a@b.example",
                 "a@b.example, c@d.example", "Jo <a@b.example>", "a@b (c)",
                 "<a@b.example>", "drück@b.example"):
        done = subprocess.run([SMTPD, "--from", what, "discard:"],
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
        assert done.returncode == 64, (what, done)
        assert "--from" in done.stderr, (what, done)


@test
def check_tells_what_mail_is_sent_as():
    for what, code, said in (
            (US, 0, f"good: --from: mail is sent as {US}"),
            (wrote("from", "* a@b.example\n"), 0, "good: --from "),
            (wrote("bad", "\n\n* a\n"), 78, "bad: line 3: a: not an address")):
        done = subprocess.run([SMTPD, "--check", "--from", what, "discard:"],
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
        assert done.returncode == code and said in done.stdout, done


@test
def binary_text_in_chunks_is_not_touched():
    program, read = store()
    head = b"From: Jo <jo@example.org>\r\nSubject: x\r\n\r\n"
    text = head + b"\0\r\n\n\r\x00.\r\n.\r\nno line end"
    for cut in (1, len(head) - 3, len(head) + 2, len(text)):
        with Session("--no-received", "--from", US, *program) as s:
            s.start()
            s.send(lines(f"MAIL FROM:<{JO}> BODY=BINARYMIME",
                         "RCPT TO:<b@example.net>", f"BDAT {cut}") +
                   text[:cut] + lines(f"BDAT {len(text) - cut} LAST") +
                   text[cut:])
            got = s.replies(4)
            assert got[3][:3] == "250", (got, s.logged())
            s.finish()
        assert read() == (US, b"From: Jo <" + US.encode() + b">\r\nSubject: "
                          b"x\r\nReply-To: Jo <jo@example.org>\r\n\r\n" +
                          text[len(head):]), read()


@test
def the_sender_that_is_relayed_has_the_account_and_the_route():
    credentials = wrote("credentials", "* other:o\nprinter@example.com u:p\n")
    with provider() as hop:
        routes = wrote("routes", f"{US} {hop.relay()}\n")
        got, log = one(["error:5.0.0 usual"], US, b"From: x\r\n", JO, [
            "--sender-routes", routes, "--relay-auth", credentials])
        assert got[:3] == "250", (got, log)
        assert [m[:2] for m in hop.messages] == [("u", US)], hop.messages
    # The log tells who sent it, and as whom.
    assert f"from={JO}" in log and f"sent as {US}" in log, log


@test
def every_place_of_a_message_gets_it_so():
    boxes = folder()
    os.chmod(boxes, 0o777)
    with provider() as hop:
        routes = wrote("routes", f"a.example {hop.relay()}\n"
                       f"b.example maildir:{boxes}/b\n")
        with Session("--no-received", "--from", US, "--routes", routes,
                     "--relay-auth", wrote("credentials", "* u:p\n"),
                     f"maildir:{boxes}/c") as s:
            s.start()
            got = s.deliver(f"From: {JO}", "", "y", sender=JO, to=(
                "x@a.example", "x@b.example", "x@c.example"))
            assert got[:3] == "250", (got, s.logged())
            s.finish()
        text = f"From: {US}\r\nReply-To: {JO}\r\n\r\ny\r\n"
        assert [m[1:] for m in hop.messages] == [(US, text.encode())]
    for box in "bc":
        (name,) = os.listdir(f"{boxes}/{box}/new")
        with open(f"{boxes}/{box}/new/{name}") as f:
            stored = f.read()
        assert stored.startswith(f"Return-Path: <{US}>\n"), stored
        assert stored.endswith(text.replace("\r", "")), stored


@test
def a_live_next_hop_hears_the_sender_before_the_data():
    with provider(answers={
            "MAIL": ["250 2.1.0 Ok", "550 5.7.60 Not you"]}) as hop:
        with Session("--no-received", "--live", "--from", US, "--relay-auth",
                     wrote("credentials", "* u:p\n"), hop.relay()) as s:
            s.start()
            got = s.say(f"MAIL FROM:<{JO}>", "RCPT TO:<b@example.net>")
            assert [r[:3] for r in got] == ["250", "250"], (got, s.logged())
            assert f"MAIL FROM:<{US}>" in hop.commands[-2][1], hop.commands
            s.send(lines("DATA", f"From: {JO}", "", "y", "."))
            assert s.replies(2)[1][:3] == "250"
            assert s.say(f"MAIL FROM:<{JO}>")[0][:3] == "550"
            s.finish()
        assert hop.messages == [("u", US, f"From: {US}\r\nReply-To: {JO}"
                                 "\r\n\r\ny\r\n".encode())], hop.messages
        assert sum("MAIL" in c for _, c in hop.commands) == 2, hop.commands
        with Session("--live", "--from", wrote("bad", "* x\n"), hop.relay()
                     ) as s:
            s.start()
            got = s.say(f"MAIL FROM:<{JO}>")
            assert got == ["451 4.3.5 Local configuration error"], got
            # As what came at once.
            s.send(lines(f"MAIL FROM:<{JO}>", "RCPT TO:<b@example.net>"))
            got = s.replies(2)
            assert got[0] == "451 4.3.5 Local configuration error", got
            s.finish()


@test
def in_lmtp_each_recipient_has_its_reply():
    program, read = store()
    with Session("--no-received", "--lmtp", "--from", US, *program) as s:
        s.send(lines("LHLO c", f"MAIL FROM:<{JO}>", "RCPT TO:<a@b.example>",
                     "RCPT TO:<c@b.example>", "DATA", f"From: {JO}", "", "y",
                     "."))
        got = s.replies(8)
        assert [r[:3] for r in got[-2:]] == ["250", "250"], got
        s.finish()
    assert read() == (US, f"From: {US}\nReply-To: {JO}\n\ny\n".encode())


@test
def too_many_fields_are_refused_and_many_cost_little():
    program, read = store()
    with Session("--no-received", "--from", US, *program) as s:
        s.start()
        got = s.deliver(*["Sender: x"] * 60000, "From: x", "", "y", sender=JO)
        assert got[:3] == "250", got
        assert read() == (US, f"From: {US}\n\ny\n".encode())
        got = s.deliver(*["A:"] * 100001, "", "y", sender=JO)
        assert got == "554 5.6.0 Too many header fields", got
        s.finish()


main()
