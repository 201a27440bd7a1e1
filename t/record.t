#!/usr/bin/env python3
"""record.t - sessions that read the same every time: SOURCE_DATE_EPOCH,
--record, smtpd-replay."""
import glob
import os
import resource
import shutil
import smtplib
import ssl
import subprocess

from tap import (SMTPD, Listener, Session, certificate, folder, lines, main,
                 message, test)

PLACE = folder()
REPLAY = "t/tools/smtpd-replay"
EPOCH = {"SOURCE_DATE_EPOCH": "1000000000"}
ENV = {**os.environ, **EPOCH}
ME = [SMTPD, "-H", "mx.example.org", "{options}"]


def path(name):
    return os.path.join(PLACE, name)


def contents(name):
    with open(path(name), "rb") as f:
        return f.read().decode()


def wrote(name, *text):
    with open(path(name), "w") as f:
        f.write("\n".join(text) + "\n")
    return path(name)


def replay(*arguments, env=EPOCH):
    done = subprocess.run([REPLAY, *arguments], capture_output=True,
                          text=True, env={**os.environ, **env})
    return done.returncode, done.stdout, done.stderr


SCRIPT = (lines("EHLO client.example.org") + message(
    "From: me@example.org", "Subject: golden", "", "..dot", "last",
    to=("b@example.net",)) + message("second", to=("c@example.net",)) +
    lines("QUIT"))

GOLDEN = """\
---------- MESSAGE FOLLOWS ----------
mail from: <a@example.org>
mail options: ['SIZE=%d']
rcpt to: <%s>
-------------------------------------
Received: from two.example.org (unix)
\tby three.example.org (smtpd) with ESMTP id 0WDFTJCD0000000%d
\tfor <%s>;
\tSun, 09 Sep 2001 01:46:40 +0000
Received: from one.example.org (unix)
\tby two.example.org (smtpd) with ESMTP id 0WDFTJCD0000000%d
\tfor <%s>;
\tSun, 09 Sep 2001 01:46:40 +0000
Received: from client.example.org (unknown)
\tby one.example.org (smtpd) with ESMTP id 0WDFTJCD0000000%d
\tfor <%s>;
\tSun, 09 Sep 2001 01:46:40 +0000
%s
------------ END MESSAGE ------------
"""


@test
def a_script_through_two_relays_is_the_same_byte_for_byte():
    for run in ("x", "y"):
        with Listener("-H", "three.example.org", f"print:{path(run)}",
                      path=path(f"{run}3"), env=EPOCH), \
             Listener("-H", "two.example.org", f"smtp:unix:{path(run)}3",
                      path=path(f"{run}2"), env=EPOCH):
            done = subprocess.run(
                [SMTPD, "-H", "one.example.org", f"smtp:unix:{path(run)}2"],
                input=SCRIPT, capture_output=True, env=ENV, check=True)
        assert b"250 2.0.0 Message accepted, id 0WDFTJCD00000001\r\n" in \
            done.stdout, done.stdout
        if run == "x":
            first = done.stdout
    assert first == done.stdout
    assert contents("x") == contents("y")
    got = contents("x").split("---------- MESSAGE FOLLOWS")[1:]
    assert len(got) == 2, contents("x")
    for number, to, text in ((1, "b@example.net", "From: me@example.org\n"
                              "Subject: golden\n\n.dot\nlast"),
                             (2, "c@example.net", "\nsecond")):
        whole = "---------- MESSAGE FOLLOWS" + got[number - 1]
        size = int(whole.split("SIZE=")[1].split("'")[0])
        assert whole == GOLDEN % (size, to, number, to, number, to, number,
                                  to, text), whole


@test
def a_date_that_is_no_number_is_refused():
    for bad in ("", "yesterday", "-1", "1e9", "999999999999"):
        done = subprocess.run(
            [SMTPD, "discard:"], stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": bad})
        assert done.returncode == 64 and done.stdout == "", done
        assert "SOURCE_DATE_EPOCH" in done.stderr, done


@test
def files_in_a_maildir_keep_their_own_names():
    for _ in range(2):
        with Session(f"maildir:{path('box')}", env=EPOCH) as s:
            s.start()
            assert s.deliver()[:3] == "250"
            s.finish()
    assert len(os.listdir(path("box/new"))) == 2


@test
def a_recorded_session_can_be_replayed():
    record = path("record")
    odd = b"Subject: x\r\n\r\n..dot\r\n.\xff\r\n{3 a} \\n\t\r\n" + \
        b"y" * 5000 + b"\r\n"
    for _ in range(2):
        with Session("--record", record, "discard:", env=EPOCH) as s:
            s.start()
            s.send(lines("MAIL FROM:<a@example.org>",
                         "RCPT TO:<b@example.org>", "DATA") + odd + b".\r\n")
            assert s.replies(4)[3][:3] == "250"
            s.send(lines("MAIL FROM:<a@example.org>",
                         "RCPT TO:<b@example.org>", "BDAT 3") + b"x{yBDAT 4"
                   b" LAST\r\nzz\r\nNOOP\r\n")
            assert [r[:3] for r in s.replies(5)] == ["250"] * 5
            s.finish()
    text = contents("record")
    assert text.count("== 2001-09-09 01:46:40 UTC, client unix\n") == 2
    assert text.count("\nCLOSED\n") == 2
    assert "\nC| .\\xff\\r\\n\nC: {3 a} \\n\n" in text.replace(
        "C| \\{3 a\\} \\\\n\\t\\r\\n", "C: {3 a} \\n"), text
    assert replay(record, "--", *ME, "discard:") == (0, "", "")
    # The client's own octets, once more: what is recorded is the same.
    os.rename(record, path("before"))
    assert replay(path("before"), "--", *ME, "--record", record,
                  "discard:")[0] == 0
    assert contents("record") == contents("before")
    assert os.stat(record).st_mode & 0o777 == 0o600


@test
def in_a_folder_each_session_has_its_file():
    os.mkdir(path("many"))
    os.chmod(path("many"), 0o777)
    for _ in range(3):
        with Session("--record", path("many"), "discard:", env=EPOCH) as s:
            s.start()
            s.finish()
    names = sorted(os.listdir(path("many")))
    assert names == [f"20010909T014640Z.000000-00{i}.smtp"
                     for i in range(3)], names
    assert replay(*glob.glob(path("many/*")), "--", *ME, "discard:")[0] == 0


@test
def sessions_at_the_same_time_are_recorded_whole():
    record = path("together")
    with Listener("--record", record, "discard:") as listener:
        clients = [smtplib.SMTP("127.0.0.1", listener.port)
                   for _ in range(8)]
        for _ in range(3):
            for number, c in enumerate(clients):
                c.docmd("NOOP", f"client {number}")
        for c in clients:
            c.quit()
        listener.logged()
    sessions = contents("together").split("== ")[1:]
    assert len(sessions) == 8
    for text in sessions:
        names = {l for l in text.splitlines() if l.startswith("C: NOOP")}
        assert len(names) == 1 and text.count("C: NOOP") == 3, text


@test
def credentials_are_masked_and_TLS_is_named():
    certificate(PLACE, "cert", "mx.example.org")
    with Listener("--record", path("secret"), "--auth",
                  "checkpassword:/bin/true", "--tlscert", path("cert.pem"),
                  "--tlskey", path("cert.key"), "discard:") as listener:
        with smtplib.SMTP("127.0.0.1", listener.port) as c:
            c.starttls(context=ssl._create_unverified_context())
            c.login("jo", "topsecret")
        listener.logged()
    text = contents("secret")
    assert "\nTLS\n" in text and "C: AUTH PLAIN ********\n" in text, text
    assert "topsecret" not in text
    assert "S: 235 2.7.0" in text


@test
def where_nothing_can_be_recorded_nothing_is_said():
    done = subprocess.run([SMTPD, "--record", "/nowhere/record", "discard:"],
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)
    assert done.returncode == 78 and done.stdout == "", done
    assert "--record /nowhere/record: No such file" in done.stderr, done


@test
def a_transcript_that_has_no_room_is_told():
    os.mkdir(path("full"), 0o777)
    os.chmod(path("full"), 0o777)
    done = subprocess.run(
        [SMTPD, "--record", path("full"), "discard:"], text=True,
        input="HELO client.example.org\r\n" + 40 * "NOOP\r\n" + "QUIT\r\n",
        capture_output=True, preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (512, 512)))
    assert done.stdout.endswith("Bye\n"), done
    assert f'--record {path("full")}: File too large' in done.stderr, done
    shutil.rmtree(path("full"))


@test
def a_device_or_a_pipe_that_cannot_be_recorded_to_is_told_by_its_reason():
    """A session neither waits for one to read a FIFO nor begins without."""
    fifo = path("fifo")
    os.mkfifo(fifo)
    os.chmod(fifo, 0o666)
    done = subprocess.run([SMTPD, "--record", "/dev/full", "discard:"],
                          input=b"QUIT\r\n", capture_output=True)
    assert done.returncode == 0 and done.stdout[-5:] == b"Bye\r\n", done
    assert b'"--record /dev/full: No space left on device"' in done.stderr, done
    for how in [], ["--check"]:
        done = subprocess.run([SMTPD, *how, "--record", fifo, "discard:"],
                              input=b"QUIT\r\n", capture_output=True)
        assert done.returncode == 78, done
        assert f"--record {fifo}: No such device or address" in \
            (done.stdout + done.stderr).decode(), done
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb") as read:
        for how in [], ["--check"]:
            done = subprocess.run([SMTPD, *how, "--record", fifo, "discard:"],
                                  input=b"QUIT\r\n", capture_output=True)
            assert done.returncode == 0, done
        got = read.read()
        assert got.startswith(b"== ") and got.endswith(b"CLOSED\n"), got


@test
def text_that_ends_in_LF_alone_is_recorded_as_it_came():
    with Session("--record", path("lone"), "discard:", env=EPOCH) as s:
        s.start()
        assert s.deliver(b"one\ntwo\n", b"three")[:9] == "550 5.6.0"
        s.finish()
    text = contents("lone")
    assert "\nC| one\\n\nC| two\\n\nC:\nC: three\nC: .\n" in text, text
    assert replay(path("lone"), "--", *ME, "discard:") == (0, "", "")


@test
def a_place_to_record_to_can_be_checked_and_is_not_made():
    for place, want in ((path("checked"), "good: --record %s can be written"),
                        (PLACE, "good: --record %s can be written"),
                        ("/nowhere/record", "bad: --record %s: No such file"),
                        (f"{path('checked')}/x/y", "bad: --record %s: No")):
        done = subprocess.run(
            [SMTPD, "--nosetuid", "--check", "--record", place, "discard:"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert want % place in done.stdout and done.stderr == "", done
        assert done.returncode == (78 if want[0] == "b" else 0), done
    assert not os.path.exists(path("checked"))


@test
def the_transcripts_of_the_tests_can_be_replayed():
    files = sorted(glob.glob("t/transcripts/*.smtp"))
    status, out, err = replay(*files, "--", *ME, "--", "/bin/echo",
                              "Message accepted", env={})
    assert (status, out, err) == (0, "", "")


@test
def the_first_line_that_differs_is_named():
    file = wrote("wrong", "== one", "S: 220 mx.example.org ESMTP smtpd",
                 "C: NOOP", "S: 250 No", "", "== two",
                 "S: 220 mx.example.org ESMTP smtpd", "C: QUIT",
                 "S: 221 mx.example.org Bye", "CLOSED")
    status, out, _ = replay("-v", file, "--", *ME, "discard:")
    assert status == 1
    assert out.splitlines() == [
        f"{file}:4: expected 250 No, got 250 OK", "differs: one",
        "ok: two"], out
    assert replay("--codes", file, "--", *ME, "discard:")[0] == 0
    assert replay("--only", "two", file, "--", *ME, "discard:")[0] == 0
    file = wrote("open", "== one", "S: 220 mx.example.org ESMTP smtpd",
                 "C: NOOP", "S: 250 OK", "CLOSED")
    status, out, _ = replay("-t", "0.3", file, "--", *ME, "discard:")
    assert status == 1 and f"{file}:4: no answer in 0.3 seconds" in out, out


@test
def another_server_is_compared_by_codes_over_a_port():
    file = wrote("plain", "== mail", "S: 220 anything", "C: EHLO x",
                 "S: 250-a", "S: 250 b", "C: MAIL FROM:<a@example.org>",
                 "S: 250 c", "C: RCPT TO:<echo@example.org>", "S: 250 d",
                 "C: DATA", "S: 354 e", "C: text", "C: .", "S: 250 f",
                 "C: QUIT", "S: 221 g", "CLOSED")
    with Listener(program=["t/out/ping"]) as listener:
        assert replay("-c", f"127.0.0.1:{listener.port}", file) == (0, "", "")


@test
def a_certificate_is_verified_and_its_name_where_the_server_has_one():
    certificate(PLACE, "local", "localhost", "-addext",
                "subjectAltName=DNS:localhost")
    certificate(PLACE, "other", "localhost")
    tls = ["--tlscert", path("local.pem"), "--tlskey", path("local.key"),
           "discard:"]
    text = wrote("tls", "== TLS", "S: 220 x", "C: EHLO x", "S: 250 x",
                 "C: STARTTLS", "S: 220 x", "TLS", "C: EHLO x", "S: 250 x",
                 "C: QUIT", "S: 221 x", "CLOSED")
    with Listener(*tls) as port, Listener(*tls, path=path("socket")):
        for server in ([f"localhost:{port.port}", text],
                       [f"unix:{path('socket')}", text],
                       [text, "--", SMTPD, *tls]):
            assert replay("-c", "--ca", path("local.pem"), *server) == (
                0, "", "")
            status, _, said = replay("-c", "--ca", path("other.pem"), *server)
            assert status == 2 and "certificate verify failed" in said, said
            assert replay("-c", "-k", *server) == (0, "", "")
        status, _, said = replay("-c", "--ca", path("local.pem"),
                                 f"127.0.0.1:{port.port}", text)
        assert status == 2 and "IP address mismatch" in said, said


@test
def a_transcript_can_be_had_in_a_form_for_programs():
    file = wrote("form", "== one", "options: --lmtp", "S: 220 y", "C: a",
                 "C| {2 b}\\x00", "S: 250 c", "", "== two", "after: one",
                 "TLS", "C: d", "F: <x>", "M: e", "CLOSED")
    status, out, _ = replay("--parse", file)
    assert status == 0
    got = [(w, int(n), bytes.fromhex(o)) for w, n, o in (
        l.split(" ") for l in out.splitlines())]
    common = [("options", b"--lmtp"), ("C", b""), ("S", b"220 y\r\n"),
              ("turn", b""), ("C", b"a\r\nbb\0"), ("S", b"250 c\r\n")]
    assert [(w, o) for w, _, o in got] == [
        ("title", b"one"), *common, ("title", b"two"), *common, ("tls", b""),
        ("C", b"d\r\n"), ("S", b""), ("F", b"F: <x>"), ("M", b"e\r\n"),
        ("closed", b"")], got
    assert got[4] == ("turn", 4, b""), got
    status, _, err = replay("--parse", wrote("bad", "== x", "C: y",
                                             "after: x"))
    assert status == 2 and "bad:3: " in err, err


@test
def a_title_of_any_octets_is_named():
    with open(path("odd"), "wb") as file:
        file.write(b"== \xff\nS: 220 mx.example.org ESMTP smtpd\n")
    assert replay("-v", path("odd"), "--", *ME, "discard:",
                  env={**EPOCH, "PYTHONIOENCODING": "utf-8:strict"})[:2] == (
                      0, "ok: \\udcff\n")


@test
def what_cannot_be_played_is_trouble():
    good = wrote("good", "== x", "S: 220 y")
    for arguments, why in (
            ([wrote("bad1", "S: 220 y"), "--", *ME], "bad1:1: no"),
            ([wrote("bad2", "== x", "S| \\q"), "--", *ME],
             "bad2:2: unknown escape"),
            ([wrote("bad3", "== x", "hello"), "--", *ME], "bad3:2: not a"),
            ([path("none"), "--", *ME], "No such file"),
            (["localhost", good], "is not HOST:PORT"),
            (["127.0.0.1:25"], "no file"),
            ([good, "--only", "y", "--", *ME], "nothing to play"),
            ([wrote("bad4", "== x", "C| {² y}"), "--", *ME], "bad4:2: {"),
            (["mx.example.org:²", good], "is not HOST:PORT"),
            *[(["-t", t, good, "--", *ME], "is not a number of seconds")
              for t in ("0", "-1", "nan", "inf", "1e300", "soon")],
            ([f"unix:{PLACE}/nothing", good], "No such file")):
        status, _, err = replay(*arguments)
        assert status == 2 and why in err, (arguments, err)


if __name__ == "__main__":
    main()
