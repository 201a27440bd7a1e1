#!/usr/bin/env python3
"""catch.t - what a developer sees of the mail that a program sends: show:,
--show, a Maildir that keeps some, `make run'."""
import email.message
import os
import pty
import re
import smtplib
import socket
import subprocess
import threading

from servers import Server
from tap import (SMTPD, Listener, Session, folder, free_port, lines, main,
                 message, test)

PLACE = folder()
ENVELOPE = ("MAIL FROM:<me@example.org>", "RCPT TO:<you@example.net>", "DATA")


def path(name):
    return os.path.join(PLACE, name)


def run(text, *arguments, to=ENVELOPE, **more):
    """What smtpd writes to standard error when text is sent to it."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogateescape")
    octets = lines("EHLO client.example.org", *to) + re.sub(
        rb"(?m)^\.", b"..", text).replace(b"\n", b"\r\n") + lines("", ".",
                                                                  "QUIT")
    done = subprocess.run([SMTPD, "--log-level", "err", "--no-received",
                           *arguments], input=octets, capture_output=True,
                          check=True, **more)
    assert b"\r\n250 2.0.0 Message accepted" in done.stdout, done
    return done.stderr.decode("utf-8", "backslashreplace")


def shown(*text):
    """What is shown of a message, but for the envelope and the last lines,
    which are always the same."""
    got = run("\n".join(text), "show:")
    begin = "==> me@example.org to you@example.net\n"
    assert got.startswith(begin), got
    return got[len(begin):].rstrip("\n").split("\n")


@test
def three_lines_say_envelope_subject_and_parts():
    m = email.message.EmailMessage()
    m["Subject"] = "Grüße aus Köln, und zwar sehr herzliche an alle dort"
    m.set_content("Schön ist's\n", cte="quoted-printable",
                  charset="iso-8859-1")
    m.add_alternative("<p>Schön</p>\n", subtype="html", cte="base64")
    m.add_attachment(b"\0" * 12345, maintype="application", subtype="pdf",
                     filename="Rechnung €.pdf")
    m.add_attachment(b"GIF", maintype="image", subtype="gif",
                     disposition="inline")
    assert run(m.as_string(), "show:") == """\
==> me@example.org to you@example.net
    Subject: Grüße aus Köln, und zwar sehr herzliche an alle dort
    text/plain 12 octets; text/html 14 octets; "Rechnung €.pdf" \
application/pdf 12.3 kB; image/gif 3 octets

    -- text/plain
    Schön ist's

    -- text/html
    <p>Schön</p>

"""


@test
def a_plain_message_has_no_headings():
    assert shown("Subject: x", "", "one", "", "two") == [
        "    Subject: x", "    text/plain 9 octets", "",
        "    one", "", "    two"]
    assert shown("Content-Disposition: attachment", "", "x" * 1999998)[1] == \
        "    attachment text/plain 2.0 MB"
    assert shown("", "no header") == [
        "    No subject", "    text/plain 10 octets", "", "    no header"]


@test
def an_envelope_is_cut_and_an_empty_sender_is_seen():
    to = ["MAIL FROM:<>", *[f"RCPT TO:<r{i}@example.net>" for i in range(13)],
          "DATA"]
    got = run("x", "show:", to=to).split("\n")[0]
    assert got == "==> <> to " + ", ".join(
        f"r{i}@example.net" for i in range(10)) + " and 3 more", got


@test
def subjects_and_names_are_decoded():
    for subject, want in (
            ("=?utf-8?Q?a_b=C3=BC?=", "a bü"),
            ("=?UTF-8?b?w7w=?= =?utf-8?q?=C3=BC?=\n =?latin1*de?q?=fc?= x",
             "üüü x"),
            ("=?utf-8?q?=E2=82?= =?utf-8?q?=AC?=", "€"),
            ("=?windows-1252?q?=80=93?=", "€“"),
            ("=?iso-8859-15?q?=A4?=", "€"),
            ("x =?utf-8?x?q?= =?utf-8?q?y", "x =?utf-8?x?q?= =?utf-8?q?y"),
            ("=?utf-8?q?a=0Ab?= c\td", "a b c d"),
            ("=?koi8-r?q?=C1?=", "\\xc1")):
        assert shown(f"Subject: {subject}", "", "x")[0] == \
            f"    Subject: {want}", (subject, want)
    for field, want in (
            ('name="a b.txt"', "a b.txt"), ("name=a.txt", "a.txt"),
            ('name="a\\"b"', 'a"b'), ("name*=utf-8'en'%e2%82%ac", "€"),
            ("name*0*=latin1''%fc;\n name*1=x; name*2*=%fc", "üxü"),
            ('name="=?utf-8?q?=c3=bc?="', "ü"), ("NAME=plain; name*=''%41",
                                                 "A"),
            ("x (name=no) ; name=yes (no)", "yes")):
        got = shown(f"Content-Type: image/png; {field}", "", "x")[1]
        assert got == f'    "{want}" image/png 2 octets', (field, got)
    got = shown("Content-Type: text/plain; name=a", "Content-Disposition: "
                "attachment; filename=b", "", "x")
    assert got[1:] == ['    "b" text/plain 2 octets'], got


@test
def texts_are_decoded():
    for charset, encoding, text, want in (
            ("utf-8", "quoted-printable", "a=\n b=3D=C3=BC =zz", "a b=ü =zz"),
            ("iso-8859-1", "8bit", "\udcfc", "ü"),
            ("utf-8", "BASE64 ", "w7xh\n * DQ\npi", "üa"),
            ("koi8-r", "8bit", "a\udcc1", "a\\xc1"),
            ("utf-8", "x-unknown", "=C3", "=C3")):
        got = shown(f"Content-Type: text/plain; charset={charset}",
                    f"Content-Transfer-Encoding: {encoding}", "", text)
        assert got[3] == f"    {want}", (text, got)
    assert " in koi8-r " in shown("Content-Type: text/plain; charset=KOI8-R",
                                  "", "x")[1]
    long = "x" * 300
    assert shown(f"Subject: {long}", "", "x")[0] == "    Subject: " + \
        long[:255]
    assert shown("Subject: y=?utf-8?q?" + "=C3=BC" * 150 + "?=", "", "x")[
        0] == "    Subject: y" + "ü" * 127
    long = "ü" * 5000 + "\n" + "y" * 4095 + "ü€"
    got = shown("Content-Type: text/plain; charset=utf-8", "", long)
    assert got[3:] == ["    " + l for l in long.split("\n")]


@test
def a_message_in_a_message_is_looked_into():
    got = shown("Subject: Undelivered", "Content-Type: multipart/report; "
                "boundary=a", "", "--a", "", "sorry", "--a", "Content-Type: "
                "message/rfc822", "", "Subject: inner", "Content-Type: "
                "multipart/mixed; boundary=ab", "", "--ab", "", "deep",
                "--ab--", "--a--")
    assert got == [
        "    Subject: Undelivered", '    text/plain 5 octets; "inner" '
        "message/rfc822; text/plain 4 octets", "", "    -- text/plain",
        "    sorry", "", '    -- "inner" message/rfc822', "",
        "    -- text/plain", "    deep"], got


@test
def what_is_malformed_is_text():
    for head, body in (
            ("multipart/mixed", ["--x", "", "text"]),
            ("multipart/mixed; boundary=x", ["-- x", "--y", "text"]),
            ("multipart/mixed; boundary=\"\"", ["--", "text"]),
            ("multipart/mixed; boundary=x", ["no part", "--x--", "after"]),
            ("nonsense", ["text"]), ("", ["text"])):
        got = shown(f"Content-Type: {head}", "", *body)
        if "--x--" in body:
            body = body[:1]
        assert got[3:] == ["    " + l if l else "" for l in body], got
    # An outer boundary ends an inner part; what follows the end is not shown.
    got = shown("Content-Type: multipart/mixed; boundary=o", "", "--o",
                "Content-Type: multipart/mixed; boundary=i", "", "--i", "",
                "in", "--o", "", "out", "--oo", "--o--", "after")
    assert got[2:] == ["", "    -- text/plain", "    in", "",
                       "    -- text/plain", "    out", "    --oo"], got


@test
def depth_and_number_of_parts_are_bounded():
    deep = []
    for i in range(40):
        deep += [f"Content-Type: multipart/mixed; boundary=b{i}", "",
                 f"--b{i}"]
    got = shown(*deep, "", "bottom")
    assert got[-1] == "    bottom" and "    multipart/mixed " in got[1], got
    many = ["Content-Type: multipart/mixed; boundary=b", ""]
    for i in range(1000):
        many += ["--b", "", str(i)]
    got = shown(*many)
    assert got[1].count("text/plain") == 64 and \
        got[1].endswith("; and more") and got[-1] == "    63", got
    inner = ["Content-Type: message/rfc822", ""] * 1000
    assert shown(*inner, "x")[1].count("message/rfc822") == 64


EVIL = ("Subject: \x1b]0;owned\x07 =?utf-8?q?=1b[2J=c2=9b?= \u202egpj",
        "Content-Type: multipart/mixed; boundary=b", "", "--b",
        "Content-Type: text/plain; charset=\"\x1b[31m\"", "",
        "\x1b[2J\r\x08\u202e\x7f\u009b31m\udcff", "==> forged", "--b",
        "Content-Type: image/\x1b[1m; name=\"=?utf-8?q?=1b?=\x1bc\"", "",
        "x", "--b", "Content-Transfer-Encoding: base64", "",
        "G1szMW0=", "--b--")


@test
def nothing_of_the_sender_drives_a_terminal():
    text = "\n".join(EVIL)
    got = run(text, "--bare-newline", "normalize", "show:")
    assert not re.search("[^\n\x20-\x7e\u00a1-\u02ff]", got), got
    assert "\\x1b[2J" in got and "\\xe2\\x80\\xaegpj" in got and \
        "\\x1b[31m" in got, got
    assert re.findall("(?m)^[^ \n].*", got) == [
        "==> me@example.org to you@example.net"], got


def on_terminal(text, relay, **env):
    """What smtpd writes to a terminal, which is its standard error."""
    ours, theirs = pty.openpty()
    octets = lines("EHLO x", *ENVELOPE) + text.encode(
        "utf-8", "surrogateescape").replace(b"\n", b"\r\n") + lines(
        "", ".", "QUIT")
    with subprocess.Popen(
            [SMTPD, "--log-level", "err", "--bare-newline", "normalize",
             relay], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=theirs, env={**os.environ, "TERM": "xterm", **env}) as p:
        os.close(theirs)
        writer = threading.Thread(target=lambda: (p.stdin.write(octets),
                                                  p.stdin.close()))
        writer.start()
        got = b""
        try:
            while octets := os.read(ours, 65536):
                got += octets
        except OSError:     # EIO: nobody has the other end any more
            pass
        writer.join()
    os.close(ours)
    return got.decode().replace("\r\n", "\n")


@test
def colours_are_for_terminals_and_are_ours():
    got = on_terminal("\n".join(EVIL), "show:")
    assert set(re.findall("\x1b.[0-9]*.", got)) == {
        "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[36m"}, got
    assert got.startswith("\x1b[1m==> me@example.org"), got
    for env in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
        assert "\x1b" not in on_terminal("\n".join(EVIL), "show:", **env), env
    plain = on_terminal("Subject: \u202ex\n\n\x1b", "print:")
    assert "\n\\x1b\n" in plain and "\\xe2\\x80\\xaex" in plain and \
        "\x1b" not in plain, plain


@test
def a_file_gets_whole_messages():
    with Listener(f"show:{path('file')}") as listener:
        clients = [smtplib.SMTP("127.0.0.1", listener.port)
                   for _ in range(4)]
        threads = [threading.Thread(target=lambda c=c, n=n: [
            c.sendmail(f"c{n}@example.org", ["you@example.net"],
                       f"Subject: {n}\r\n\r\n" + f"{n}\r\n" * 20000)
            for _ in range(3)]) for n, c in enumerate(clients)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for c in clients:
            c.quit()
    with open(path("file")) as file:
        found = file.read().split("==> ")[1:]
    assert len(found) == 12
    for text in found:
        n = text[1]
        assert text.startswith(f"c{n}@example.org to you@example.net\n"
                               f"    Subject: {n}\n"), text[:80]
        assert text.count(f"\n    {n}") == 20000, n
    done = subprocess.run([SMTPD, "show:/dev/stdout"], capture_output=True,
                          stdin=subprocess.DEVNULL, text=True)
    assert done.returncode == 64 and "show: alone is standard error" in \
        done.stderr, done


@test
def any_relay_can_be_watched():
    want = "==> me@example.org to you@example.net\n    Subject: x\n" \
        "    text/plain 5 octets\n\n    body\n\n"
    text = "Subject: x\n\nbody"
    with Listener("discard:", path=path("hop")):
        for relay in ("discard:", f"maildir:{path('watched')}",
                      f"print:{path('printed')}"):
            assert run(text, "--show", relay) == want, relay
        got = run(text, "--show", f"smtp:unix:{path('hop')}")
        assert got == want.replace("5 octets", "6 octets"), got    # CRLF
    with open(path("to"), "w") as file:
        file.write("you@example.net discard:\nno@example.net error:5.1.1 No\n")
    assert run(text, "--show", "--routes", path("to"), "discard:") == \
        want.replace("5 octets", "6 octets")
    assert run(text, "--show", "--", "/bin/true") == want


@test
def what_is_refused_is_not_shown():
    with Session("--show", "--", "/bin/false") as s:
        s.start()
        assert s.deliver()[:3] == "451"
        assert "==>" not in s.finish()[1]
    with Session("--show", "show:/nowhere/file") as s:
        s.start()
        assert s.deliver().startswith("451 4.3.5"), s
        assert "==>" not in s.finish()[1]


@test
def nothing_is_shown_to_the_client():
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([SMTPD, "--show", "discard:"],
                                   stdin=theirs, stdout=theirs,
                                   stderr=theirs)
    with ours, ours.makefile("rb") as read:
        assert read.read().startswith(b"421 4.3.5 ")
    assert process.wait() == 64
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([SMTPD, "show:"], stdin=theirs,
                                   stdout=theirs, stderr=theirs)
    with ours, ours.makefile("rb") as read:
        ours.sendall(lines("HELO x") + message("x") + lines("QUIT"))
        got = read.read()
    process.wait()
    assert b"\r\n451 Local " in got and b"==>" not in got, got


def names(box):
    return {part: sorted(os.listdir(f"{box}/{part}"))
            for part in ("new", "cur", "tmp")}


@test
def a_Maildir_keeps_the_newest_messages():
    box = path("kept")
    with Session("--maildir-keep", "3", f"maildir:{box}") as s:
        s.start()
        for i in range(5):
            assert s.deliver(f"Subject: {i}")[:3] == "250"
        s.finish()
    texts = []
    for name in names(box)["new"]:
        with open(f"{box}/new/{name}") as file:
            texts.append(file.read().rstrip()[-1])
    assert sorted(texts) == ["2", "3", "4"], texts
    assert names(box)["tmp"] == []


@test
def messages_that_were_read_count_and_other_files_do_not():
    box = path("read")
    for part in "new", "cur", "tmp":
        os.makedirs(f"{box}/{part}")
    for name in ("cur/1000000000.M1P1.x:2,S", "new/999999999.M9P1.x",
                 "cur/1000000000.M2P1.x:2,FS", "cur/.hidden", "tmp/1.x",
                 "new/no-time"):
        with open(f"{box}/{name}", "w"):
            pass
    os.mkdir(f"{box}/.Sent")
    os.chmod(box, 0o777)
    for part in "new", "cur", "tmp":
        os.chmod(f"{box}/{part}", 0o777)
    with Session("--maildir-keep", "2", f"maildir:{box}") as s:
        s.start()
        assert s.deliver()[:3] == "250"
        s.finish()
    left = names(box)
    assert left["cur"] == [".hidden", "1000000000.M2P1.x:2,FS"], left
    assert left["tmp"] == ["1.x"] and len(left["new"]) == 1, left
    assert left["new"][0] != "no-time" and os.path.isdir(f"{box}/.Sent")


@test
def many_may_deliver_to_a_Maildir_that_keeps_some():
    box = path("busy")
    with Listener("--maildir-keep", "5", f"maildir:{box}") as listener:
        def send():
            with smtplib.SMTP("127.0.0.1", listener.port) as c:
                for _ in range(10):
                    assert c.sendmail("a@example.org", ["b@example.org"],
                                      "x") == {}
        threads = [threading.Thread(target=send) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        log = listener.logged()
    assert len(names(box)["new"]) == 5
    assert log.count("event=message-relayed") == 40
    assert "cannot delete" not in log, log


@test
def what_cannot_be_deleted_is_told_and_costs_no_message():
    box = path("stuck")
    for part in "new", "cur", "tmp":
        os.makedirs(f"{box}/{part}")
        os.chmod(f"{box}/{part}", 0o777)
    os.mkdir(f"{box}/cur/1.M1P1.x")     # no file: unlink(2) refuses
    with Session("--maildir-keep", "1", f"maildir:{box}") as s:
        s.start()
        assert s.deliver()[:3] == "250"
        log = s.finish()[1]
    assert "cannot delete old messages: " in log, log
    assert len(names(box)["new"]) == 1


@test
def make_run_shows_what_is_sent_to_it():
    port = free_port()
    with open("Makefile") as file:      # nothing may be built again
        recipe = file.read().partition("\nrun: all\n")[2].partition("\n\n")[0]
    assert "./smtpd" in recipe, recipe
    script = path("run")
    with open(script, "w") as file:
        file.write("".join(
            l[1:].lstrip("@") + "\n" for l in recipe.split("\n")).replace(
                "$(PORT)", str(port)).replace("./smtpd", SMTPD))
    with Server("bash", script) as server:
        server.await_line("Listening on 127.0.0.1")
        client = None
        while not client:       # until it listens
            try:
                client = smtplib.SMTP("127.0.0.1", port)
            except ConnectionRefusedError:
                assert server.process.poll() is None
        with client:
            client.sendmail("me@example.org", ["you@example.net"],
                            "Subject: =?utf-8?q?hell=C3=B6?=\r\n\r\nIt works.")
        server.await_line("^==> me@example.org to you@example.net\n"
                          "    Subject: hellö\n    text/plain 1. octets\n\n"
                          "    It works.\n")
    assert "event=" not in server.text, server.text


if __name__ == "__main__":
    main()
