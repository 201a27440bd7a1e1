#!/usr/bin/env python3
"""smtpd.t - the program itself, over socket pairs, pipes, a file, a terminal
and a super-server, with real clients."""
import fcntl
import hashlib
import os
import pty
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import termios

from fakes.hop import Hop
from servers import Server, free_port
from tap import (HELLO, SANITIZED, SMTPD, STATIC, PolicyService, Session, Skip,
                 family, folder, lines, main, message, need, script, tcp_pair,
                 test, test_if_static, test_unless_static, whole_calls)

EXAMPLE = lines("EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA",
                "Subject: hi", "", ".dot", "..", ".", "QUIT")


def run(arguments, octets=EXAMPLE, **more):
    """smtpd on pipes: (status, output, log)."""
    done = subprocess.run([SMTPD, "-H", "mx.example.org", *arguments],
                          input=octets, capture_output=True, **more)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def codes(output):
    """The codes of an output's replies, one for each."""
    return [line[:3] for line in output.splitlines() if line[3:4] != "-"]


@test
def a_session_on_pipes_prints_its_message_once_and_unstuffed():
    status, output, log = run(["print:"])
    assert status == 0
    assert codes(output) == "220 250 250 250 354 250 221".split(), output
    assert log.count("Subject: hi\n\ndot\n.\n") == 1, log
    assert log.count("MESSAGE FOLLOWS") == log.count("END MESSAGE") == 1
    assert "mail from: <a@b>\nrcpt to: <c@d>\n" in log


@test
def at_a_terminal_plain_newlines_are_line_ends():
    pid, master = pty.fork()
    if pid == 0:
        os.execv(SMTPD, [SMTPD, "-H", "mx.example.org", "print:"])
    os.write(master, EXAMPLE.replace(b"\r\n", b"\n"))
    seen = b""
    try:
        while chunk := os.read(master, 4096):
            seen += chunk
    except OSError:     # the terminal's other side is closed
        pass
    os.close(master)
    assert os.waitpid(pid, 0)[1] == 0
    for wanted in (b"354 ", b"Subject: hi\r\n\r\ndot\r\n.\r\n", b"221 "):
        assert wanted in seen, seen


@test
def tls_is_offered_on_nothing_but_a_socket():
    for option, told, exits in (("--require-tls", "220 250 454 221", 0),
                                ("--smtps", "", 78)):
        status, output, log = run(
            [option, "--tlscert", "t/tap.py", "--tlskey", "t/tap.py",
             "discard:"], lines(HELLO, "STARTTLS", "QUIT"))
        assert codes(output) == told.split(), output
        assert "STARTTLS" not in output and status == exits, (status, output)
        assert "event=config-error" in log and "socket" in log, log


@test
def a_regular_file_may_have_plain_newlines():
    with tempfile.TemporaryFile() as session:
        session.write(EXAMPLE.replace(b"\r\n", b"\n"))
        session.seek(0)
        done = subprocess.run([SMTPD, "-H", "x", "print:"], stdin=session,
                              capture_output=True)
    assert codes(done.stdout.decode())[-2:] == ["250", "221"]
    assert b"\n\ndot\n.\n" in done.stderr


@test
def a_file_that_ends_inside_a_message_delivers_nothing():
    octets = lines(HELLO) + message("Subject: x", "", "half")[:-3]
    status, output, log = run(["print:"], octets)
    assert status == 0
    assert codes(output) == "220 250 250 250 354".split()
    assert "MESSAGE FOLLOWS" not in log and "event=client-lost" in log


@test
def a_last_dot_and_quit_and_the_end_in_one_go_are_all_answered():
    with Session("discard:") as s:
        s.send(lines(HELLO) + message("Subject: x", "", "y") + lines("QUIT"))
        s.socket.shutdown(socket.SHUT_WR)
        assert codes(s.read.read().decode()) == \
            "220 250 250 250 354 250 221".split()


@test
def a_pipelined_session_is_one_read_and_one_write():
    need("strace")
    with tempfile.NamedTemporaryFile() as trace:
        with Session("discard:", wrap=("strace", "-f", "-o", trace.name, "-e",
                     "trace=read,write,sendto,recvfrom,sendmsg")) as s:
            assert s.reply().startswith("220 ")
            s.send(lines(HELLO) + message("Subject: x", "", "y") +
                   lines("QUIT"))
            assert len(s.replies(6)) == 6
        seen = whole_calls(trace.read().decode())
    if "ptrace" in seen and "EXITED" not in seen.upper():
        raise Skip("strace may not trace here")
    assert len(re.findall(r'read\(0, "EHLO', seen)) == 1, seen
    assert len(re.findall(r"read\(0, ", seen)) == 1, seen
    assert len(re.findall(r"(?:sendto|write)\(1, ", seen)) == 2, seen


@test
def a_hundred_megabytes_have_the_right_sum_and_memory_stays_flat():
    block = (b"x" * 76 + b"\r\n") * 8192
    digest = hashlib.sha256()
    with Session("-s", "0", "--no-received", "--", "sha256sum") as s:
        s.start()
        s.say("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA")
        for _ in range(164):
            s.send(block)
            digest.update(block.replace(b"\r\n", b"\n"))
        reply = s.say(".")[0]
        assert digest.hexdigest() in reply, reply
        pids = [s.process.pid, *family(s.process.pid)]
        assert len(pids) == 2, pids
        for pid in pids:
            with open(f"/proc/{pid}/status") as status:
                peak = int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])
            assert SANITIZED or peak < 4096, f"{peak} kB"
        s.finish()


# --- programs that do not do what they should

FAILURES = [
    # script, or argv; what section REPLIES of the manual promises
    ("exit 75", "451 4.3.0"),
    ("exit 67", "550 5.1.1"),
    ("exit 68", "550 5.1.2"),
    ("exit 65", "554 5.6.0"),
    ("exit 77", "550 5.7.1"),
    ("exit 69", "554 5.3.0"),
    ("exit 1", "451 4.3.0"),
    ("exit 255", "451 4.3.0"),
    ("kill -9 $$", "451 4.3.0"),
    ("kill -SEGV $$", "451 4.3.0"),
    ("trap '' TERM; while :; do read x </dev/zero; done", "451 4.3.0"),
    ("exec <&-; exit 0", "250 2.0.0"),
    ("head -c 1000000 /dev/zero | tr '\\0' x; exit 75", "451 4.3.0"),
    ("head -c 1000000 /dev/zero | tr '\\0' x >&2", "250 2.0.0"),
    # tail -f would end when nobody reads what it prints.
    ("sleep 600 & echo $! >child; exit 0", "250 2.0.0"),
    ("echo 452 4.2.2 Mailbox is full; exit 75", "452 4.2.2 Mailbox is full"),
    ("echo 250 2.0.0 fine; exit 75", "451 4.3.0"),
    ("echo 550 5.7.1 no thanks", "550 5.7.1 no thanks"),
    ("echo taken by script", "250 2.0.0 taken by script"),
]


def unread(connection):
    """Octets that the process behind our copy of its socket has to read."""
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)),
                          sys.byteorder)


def asleep(pid):
    """Do pid's children all wait?"""
    return all(state.rpartition(")")[2].split()[0] == "S"
               for state in family(pid).values())


def open_files(pid):
    return sorted(os.listdir(f"/proc/{pid}/fd"))


@test
def programs_that_fail_are_answered_and_the_session_goes_on():
    if os.geteuid() == 0:
        keep = ["--nosetuid"]      # /proc/PID/fd is read below
    else:
        keep = []
    # What a monitor has open that did its work before.
    with Session(*keep, "--", "/bin/true") as s:
        s.start()
        s.deliver()
        before = len(open_files(s.process.pid))
        s.finish()
    for text, wanted in FAILURES:
        place = folder()
        program = script(place, f"cd {place}\n{text}")
        with Session(*keep, "--relay-timeout", "1", "--", program,
                     env={"TMPDIR": place}) as s:
            s.start()
            monitor = s.process.pid
            big = ["x" * 900] * 2000    # beyond what the spool keeps in memory
            reply = s.deliver("Subject: x", "", *big)
            assert reply.replace("-", " ", 1).startswith(wanted), (text, reply)
            assert s.say("NOOP") == ["250 2.0.0 OK"], text
            assert len(open_files(monitor)) == before, text
            left = os.path.join(place, "child")
            if os.path.exists(left):
                os.kill(int(open(left).read()), signal.SIGKILL)
            assert len(family(monitor)) == 1, (text, family(monitor))
            assert set(os.listdir(place)) <= {"program", "child"}, text
            assert s.finish()[0] == 0
        shutil.rmtree(place)


@test
def a_program_that_is_missing_is_our_mistake_and_said_in_the_log():
    with Session("--", "/no/such/program") as s:
        s.start()
        assert s.deliver().startswith("451 4.3.5 ")
        assert s.say("NOOP") == ["250 2.0.0 OK"]
        _, log = s.finish()
    assert "/no/such/program" in log and "No such file" in log, log


@test
def a_program_gets_facts_in_argv_and_environment():
    place = folder()
    script(place, 'printf "%s|" "$@" >args; env >env; cat >message')
    with Session("--no-received", "--", "/bin/sh", "-c",
                 f'cd {place}; shift; . ./program', "x", "y",
                 "{sender}", "{size}", "{recipient}") as s:
        s.start()
        reply = s.deliver("Subject: x", "", "..dot", "y", sender="",
                          to=("b+x@example.org", '"q q"@example.net'))
        assert reply.startswith("250 2.0.0 "), reply
        identity = reply.split()[-1]
        s.finish()
    arguments = open(f"{place}/args").read()
    assert arguments == '|23|b+x@example.org|"q q"@example.net|', arguments
    environment = open(f"{place}/env").read()
    for wanted in ("SENDER=\n", 'RECIPIENT=b+x@example.org\n"q q"@example.net',
                   "CLIENT_HELO=client.example.org\n", "SIZE=23\n",
                   "CLIENT_PROTOCOL=ESMTP\n", f"QUEUE_ID={identity}\n"):
        assert wanted in environment, (wanted, environment)
    assert open(f"{place}/message").read() == "Subject: x\n\n.dot\ny\n"
    shutil.rmtree(place)


@test
def with_crlf_a_program_gets_the_octets_as_they_came():
    with Session("--no-received", "--crlf", "--", "sha256sum") as s:
        s.start()
        wanted = hashlib.sha256(b"Subject: x\r\n\r\ny\r\n").hexdigest()
        assert wanted in s.deliver()


# --- what the administrator learns

@test
def a_message_that_smtpd_refuses_itself_has_a_record_with_its_reply():
    received = "Received: x\r\n" * 101 + "\r\n"
    for arguments, text, reply in [
            (["-s", "10"], "Subject: too long", "552 5.3.4 Message is larger"),
            ([], "bare\nLF", "550 5.6.0 Bare LF"),
            ([], received, "554 5.4.6 Too many Received: fields")]:
        octets = lines(HELLO) + message(text) + lines("QUIT")
        _, output, log = run([*arguments, "discard:"], octets)
        assert reply in output, output
        record = re.search(r"event=message-refused (.*)", log)[1]
        assert f'reply="{reply}' in record, log
        assert "from=" in record and "to=" in record, log
        assert log.count("event=message-") == 1, log


@test
def a_message_without_room_says_where_and_why():
    text = ["x" * 900] * 2000       # beyond what the spool keeps in memory
    octets = lines(HELLO) + message("Subject: x", "", *text) + lines("QUIT")
    _, output, log = run(["--", "true"], octets,
                         env={**os.environ, "TMPDIR": "/no/such"})
    assert "\n452 4.3.1 No room for the message" in output, output
    assert "event=spool " in log and "/no/such: No such file" in log, log
    assert 'reply="452 4.3.1 No room' in log, log


@test
def the_record_of_a_session_names_its_first_error():
    for words, wanted in [
            (["PING", "QUIT"], "quit after 0 messages, 1 error: 500 "),
            (["EXPN x", "PING"], "0 messages, 2 errors, the first: 502 ")]:
        log = run(["discard:"], lines(HELLO, *words))[2]
        assert wanted in log, log


@test
def the_record_of_a_session_names_the_421_that_ended_it():
    log = run(["--max-errors", "1", "discard:"],
              lines(HELLO, "PING", "PING"))[2]
    assert ("closed by server (421 4.7.0 Too many errors) after 0 messages, "
            "2 errors, the first: 500 ") in log, log


@test
def a_client_that_only_looks_leaves_a_record_at_debug_level():
    for octets in (b"", lines("QUIT"), lines(HELLO), lines(HELLO, "QUIT"),
                   lines(HELLO, "RSET", "QUIT")):
        assert run(["discard:"], octets)[2] == "", octets
        assert run(["-d", "discard:"], octets)[2].count("event=session ") == 1
    for octets in (lines("PING", "QUIT"), message("Subject: x"),
                   lines(HELLO, "MAIL FROM:<a@b>", "QUIT")):
        assert "event=session " in run(["discard:"], octets)[2], octets


@test
def a_client_that_leaves_before_the_greeting_leaves_a_record_at_debug_level():
    for reset in (True, False):
        for debug in (True, False):
            client, theirs = tcp_pair()
            if reset:       # as HAProxy's check of TCP does
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                  b"\1\0\0\0\0\0\0\0")
            client.close()
            done = subprocess.run([SMTPD, *["-d"] * debug, "discard:"],
                                  stdin=theirs, stdout=theirs,
                                  stderr=subprocess.PIPE, check=True)
            theirs.close()
            assert done.stderr.count(b"event=session ") == debug, done


@test
def a_client_that_is_gone_before_the_reply_may_send_again():
    place = folder()
    fifo = os.path.join(place, "fifo")
    os.mkfifo(fifo)
    program = script(place, f"cat >/dev/null; cat {fifo}")
    with Session("--", program) as s:
        s.start()
        s.send(message("Subject: x", "", "y"))
        s.replies(3)
        s.read.close()
        s.socket.close()
        with open(fifo, "w"):
            pass
        s.process.wait()
        log = s.logged()
    identity = re.search(r"event=message-relayed id=(\w+)", log)[1]
    assert re.search(f"event=duplicate-possible id={identity} .* "
                     "from=a@example.org ", log), log
    with Session("discard:") as s:
        s.start()
        s.deliver()
        assert "duplicate-possible" not in s.finish()[1]
    shutil.rmtree(place)


@test
def the_lines_of_a_reply_are_one_line_in_the_log():
    with Hop(lambda number, command: "550-5.7.1 one\r\n550 5.7.1 two"
             if command[:4] == "RCPT" else None) as hop:
        log = run(["--relay-clients", "all", hop.relay()])[2]
    assert re.search(r'event=message-refused .* reply="550 5.7.1 .*one / two',
                     log), log


@test
def c1_controls_do_not_reach_the_log():
    octets = lines("EHLO x", "MAIL FROM:<a\u009b1m@b> SMTPUTF8", "QUIT")
    log = run(["-u", "-d", "discard:"], octets)[2]
    assert "C: MAIL FROM:<a??1m@b> SMTPUTF8" in log, log
    assert "\u009b" not in log, log


# --- messages that must not be delivered

@test
def a_client_that_vanishes_in_data_or_bdat_starts_no_relay():
    for octets in (message("Subject: x")[:-3],
                   lines("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "BDAT 9 LAST") +
                   b"12345678",
                   lines("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "BDAT 4") +
                   b"1234"):
        place = folder()
        program = script(place, f"touch {place}/ran")
        with Session("--", program) as s:
            s.send(lines(HELLO) + octets)
            s.socket.shutdown(socket.SHUT_WR)
            s.read.read()
            s.process.wait()
            assert "event=client-lost" in s.logged()
        assert not os.path.exists(f"{place}/ran")
        shutil.rmtree(place)


@test
def a_client_that_resets_the_connection_starts_no_relay():
    place = folder()
    program = script(place, f"touch {place}/ran")
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    listener.close()
    process = subprocess.Popen([SMTPD, "--", program], stdin=theirs,
                               stdout=theirs, stderr=subprocess.DEVNULL)
    theirs.close()
    client.sendall(lines(HELLO) + message("Subject: x")[:-3])
    while b"354" not in client.recv(4096):
        pass
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                      b"\1\0\0\0\0\0\0\0")
    client.close()
    assert process.wait() == 0
    assert not os.path.exists(f"{place}/ran")
    shutil.rmtree(place)


@test
def a_monitor_finds_a_word_after_esmtp_in_the_greeting():
    # The expression that Prometheus' blackbox_exporter has as its example.
    with Session("discard:") as s:
        assert re.search("^220 ([^ ]+) ESMTP (.+)$", s.replies(1)[0])
    with Session("--lmtp", "discard:") as s:
        assert s.replies(1)[0] == "220 mx.example.org LMTP smtpd"


@test
def a_host_name_that_is_not_ascii_is_taken_and_logged():
    for name in (b"b\xc3\xbcro-drucker", b"b\xfcro-drucker"):
        with Session("print:") as s:
            s.replies(1)
            s.send(b"EHLO " + name + b"\r\n" +
                   lines("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "x", "."))
            assert s.replies(5)[-1].startswith("250 ")
            log = s.finish()[1]
            assert re.search(r"helo=b\?+ro-drucker", log), log
            assert re.search(r"from b\?+ro-drucker", log), log


@test
def only_crlf_dot_crlf_ends_a_message():
    for end in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r",
                b"\r\r\n.\r\r\n", b"\r\n\0.\r\n"):
        with Session("print:") as s:
            s.start()
            s.send(lines("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA") +
                   b"Subject: x\r\n\r\ny" + end + b"MAIL FROM:<evil@b>\r\n" +
                   b"\r\n.\r\n")
            reply = s.replies(4)[-1]
            assert reply == "550 5.6.0 " + reply[10:], (end, reply)
            assert s.say("NOOP") == ["250 2.0.0 OK"]
            _, log = s.finish()
        assert log.count("evil") == 0, log


# --- bad input

BAD = [
    (b"FOO", "500 5.5.2"), (b"", "500 5.5.2"), (b"x" * 1000000, "500 5.5.2"),
    (b"NOOP\0", "500 5.5.2"), (b"NOOP \0x", "500 5.5.2"),
    (b"\xff\xfe\0\1", "500 5.5.2"),
    (b"RCPT TO:<a@b>", "503 5.5.1"), (b"DATA", "503 5.5.1"),
    (b"MAIL", "501 5.5.4"), (b"MAIL TO:<a@b>", "501 5.1.7"),
    (b"MAIL FROM:<a@b", "501 5.1.7"), (b"MAIL FROM:<@>", "501 5.1.7"),
    (b"MAIL FROM:<-a@b>", "501 5.1.7"),
    (b"MAIL FROM:<a@b> FOO=1", "555 5.5.4"),
    (b"MAIL FROM:<a@b> SIZE=x", "501 5.5.4"),
    (b"MAIL FROM:<a@b> SIZE=1000000", "552 5.3.4"),
    (b"MAIL FROM:<a@b> BODY=9BIT", "501 5.5.4"),
    (b"MAIL FROM:<\xc3\xa4@b>", "553 5.6.7"),
    (b"RSET x", "501 5.5.4"), (b"VRFY", "501 5.5.4"), (b"EXPN x", "502 5.5.1"),
    (b"STARTTLS", "454 4.7.0"), (b"AUTH PLAIN", "502 5.5.1"),
    (b"BDAT 0 LAST", "503 5.5.1"),
]


@test
def bad_input_is_answered_and_nothing_is_lost():
    with Session("-s", "1000", "--max-recipients", "2", "--max-errors", "99",
                 "print:") as s:
        s.start()
        for command, wanted in BAD:
            reply = s.say(command)[0]
            assert reply.startswith(wanted + " "), (command[:40], reply)
            assert s.say("NOOP") == ["250 2.0.0 OK"], command[:40]
        got = s.say("MAIL FROM:<a@b>", "MAIL FROM:<a@b>", "RCPT TO:<>",
                    "RCPT TO:<c@d>", "RCPT TO:<e@f>", "RCPT TO:<g@h>")
        assert [r[:9] for r in got] == ["250 2.1.0", "503 5.5.1", "501 5.1.3",
                                        "250 2.1.5", "250 2.1.5",
                                        "452 4.5.3"], got
        s.say("DATA")
        assert s.say("x" * 2000 + "\r\n.")[0][:9] == "552 5.3.4"
        assert s.deliver("Subject: still here", "", "y")[:9] == "250 2.0.0"
        _, log = s.finish()
    assert log.count("MESSAGE FOLLOWS") == 1 and "still here" in log


@test
def a_bdat_count_that_cannot_be_read_ends_the_session():
    for command in ("BDAT", "BDAT x", "BDAT -1", "BDAT 1 LAST x", "BDAT +5",
                    "BDAT 99999999999999999999"):
        with Session("discard:") as s:
            s.start()
            s.send(lines(command, "NOOP"))
            assert s.reply().startswith("421 4.5.4 mx.example.org "), command
            assert s.read.read() == b""


@test
def bdat_in_the_wrong_phase_is_read_and_refused():
    with Session("discard:") as s:
        s.start()
        s.send(lines("BDAT 6") + b"QUIT\r\n" + lines("NOOP"))
        assert [r[:3] for r in s.replies(2)] == ["503", "250"]


@test
def each_limit_has_its_reply():
    for arguments, commands, last in (
            (["--max-errors", "2"], ["X", "X", "X"], "421 4.7.0 "),
            (["--max-messages", "1"],
             ["MAIL FROM:<a@b>", "RSET", "MAIL FROM:<a@b>"], "421 4.7.0 "),
            (["--command-limit", "2"], ["NOOP", "NOOP", "NOOP"], "421 4.7.0 "),
            (["--command-limit", "VRFY=1,9"], ["NOOP", "VRFY a", "VRFY a"],
             "421 4.7.0 ")):
        with Session(*arguments, "discard:") as s:
            s.start()
            got = s.say(*commands)
            assert got[-1].startswith(last + "mx.example.org "), got
            assert [r[:3] for r in got[:-1]].count("421") == 0, got
            assert s.read.read() == b""


USAGE = [
    [], ["print"], ["nosuch:relay"], ["--nosuch", "print:"], ["-s"],
    ["-s", "x", "print:"], ["-s", "-1", "print:"], ["print:", "extra"],
    ["-u", "--decode-data", "print:"], ["--bare-newline", "x", "print:"],
    ["-t", "0", "print:"], ["--"], ["--", "true", "{nosuch}"], ["smtp:"],
    ["lmtp:unix:"], ["error:9.9.9"], ["--tlscert", "x", "print:"],
    ["--smtps", "print:"], ["--require-tls", "print:"],
    ["--user", "no such user", "print:"],
    ["--xclient", "1.2.3", "print:"],
    ["--auth", "nosuch:x", "--no-auth-require-tls", "print:"],
    ["--auth", "file:/x", "print:"], ["--auth-required", "print:"],
    ["--policy", "nosuch:x", "print:"], ["-H", "a b", "print:"],
    ["--relay-tls", "maybe", "print:"], ["--command-limit", "x", "print:"],
    ["-s", "10 ", "print:"], ["-s", "9223372036854775808", "print:"],
    ["-s", "9999999999G", "print:"], ["-t", "2147483648", "print:"],
    ["--xclient", "::1," * 256 + "x", "print:"],
    ["--xclient", "192.0.2.0/33", "print:"], ["--xclient", "::/", "print:"],
    ["--xclient", "::/8x", "print:"], ["--xclient", "::/0008", "print:"],
    ["--xclient", "1" * 60, "print:"], ["-H", "", "print:"],
    ["-H", "x" * 256, "print:"], ["-H", "<x>", "print:"],
    ["-H", "a(b", "print:"], ["-H", "b\u00fcro.example", "print:"],
    ["-H", "mx..example", "print:"], ["-H", "mx.example.", "print:"],
    ["-n", "--user", "nobody", "print:"],
    ["--session-timeout", "0", "print:"], ["--relay-timeout", "0", "print:"],
    ["--policy-timeout", "0", "print:"],
    ["--command-limit", "NOOP=1," * 64 + "1", "print:"],
    ["--command-limit", "X" * 4096 + "=1", "print:"],
    ["--command-limit", "=1", "print:"],
    ["--command-limit", "NOOOP=1", "print:"],
    ["-t", "5x", "print:"], ["-t", "s", "print:"], ["-t", "0h", "print:"],
    ["-t", "99999d", "print:"], ["-t", "1m1", "print:"],
    ["--max-errors", "5m", "print:"], ["-s", "5s", "print:"],
    ["--log-level", "debug", "print:"], ["--log-level", "", "print:"],
    ["print:-"], ["print:/tmp/{user}"], ["maildir:/tmp/{domain}/{user}"],
    ["smtp:10.1"], ["smtp:.mx"], ["lmtp:{domain}"],
]


@test
def a_wrong_command_line_is_one_sentence_and_exit_64():
    for arguments in USAGE:
        if arguments[:1] == ["--user"] and os.geteuid() != 0:
            continue
        done = subprocess.run([SMTPD, *arguments], input=EXAMPLE,
                              capture_output=True)
        said = done.stderr.decode()
        assert done.returncode == 64, (arguments, done.returncode, said)
        assert said.startswith("smtpd: ") and said.count("\n") == 1, said
        assert done.stdout == b"", arguments


@test
def a_wrong_command_line_is_told_where_output_is_joined():
    done = subprocess.run([SMTPD, "nosuch:"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.stdout.startswith(b"smtpd: nosuch:: unknown"), done.stdout


@test
def a_size_may_be_as_large_as_a_disk():
    for size, octets in (("9223372036854775807", 9223372036854775807),
                         ("4g", 4 << 30), ("1K", 1024), ("0", 0)):
        with Session("-s", size, "discard:") as s:
            assert f"250-SIZE {octets}\n" in s.start()


@test
def a_time_may_have_a_unit():
    for value in ("1s", "1m", "1h", "1d", "1"):
        for option in ("-t", "--session-timeout", "--relay-timeout",
                       "--policy-timeout"):
            status, output, log = run([option, value, "discard:"])
            assert status == 0 and codes(output)[-1] == "221", log


@test
def the_log_level_says_which_records_are_kept():
    octets = lines(HELLO, "PING", "QUIT")
    for level, wanted in ("info", 1), ("notice", 0), ("err", 0):
        log = run(["--log-level", level, "discard:"], octets)[2]
        assert log.count("event=session") == wanted, (level, log)
    log = run(["--log-level", "warning", "--", "false"])[2]
    assert "event=message-" in log and "event=session" not in log, log
    log = run(["-d", "--log-level", "err", "discard:"], octets)[2]
    assert "event=dialogue" in log and "event=session" in log, log


@test
def help_shows_the_defaults_that_hold():
    helped = subprocess.run([SMTPD, "-h"], capture_output=True, text=True)
    wanted = dict(re.findall(r"--([\w-]+) \S+ .*\((\w+)\)$", helped.stdout,
                             re.M))
    assert wanted["size"] == "32M" and wanted["max-errors"] == "20", wanted
    with Session("discard:") as s:
        assert f"250-SIZE {32 << 20}\n" in s.start()
        got = s.say(*["PING"] * 21)
        assert [r[:3] for r in got] == ["500"] * 20 + ["421"], got


@test
def a_wrong_value_is_answered_with_the_right_ones():
    for arguments, wanted in [
            (["print:", "x"], 'unexpected argument "x" after the relay; '
             "options go before it"),
            (["true"], "put a program after --"),
            (["--log-level", "x", "print:"], "err, warning, notice, info"),
            (["--bare-newline", "x", "print:"], "reject, normalize, unix"),
            (["--relay-tls", "x", "print:"], "none, may, must"),
            (["--size", "99999999999999999999", "print:"], "is too large"),
            (["--tls", "x", "print:"], "ambiguous option --tls"),
            (["-lmtp", "print:"], "unknown option -m,"),
            (["--lmtp=yes", "print:"], "--lmtp takes no argument")]:
        log = run(arguments)[2]
        assert wanted in log, (arguments, log)
    log = run(["print:"], env={**os.environ, "SMTPD_LOG_PRIORITY": "debug"})[2]
    assert log == 'smtpd: SMTPD_LOG_PRIORITY: "debug" is not one of err, ' \
        "warning, notice, info\n", log


@test
def a_message_is_never_printed_to_the_client():
    place = folder()
    os.symlink("/dev/stdout", f"{place}/link")
    for name in ("/dev/stdout", "/dev/stderr", "/dev/stdin", "/dev/fd/1",
                 "/proc/self/fd/1", f"{place}/link"):
        status, output, log = run([f"print:{name}"])
        assert (status, output) == (64, ""), (name, status, output)
        assert f"print:{name}: this is no file" in log, log
    with Session("print:/dev/full") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "DATA")
        s.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert s.reply().startswith("452 4.3.1 ")
    shutil.rmtree(place)


@test
def help_and_version_are_said_on_standard_output():
    helped = subprocess.run([SMTPD, "-h"], capture_output=True)
    version = subprocess.run([SMTPD, "-V"], capture_output=True)
    assert helped.returncode == version.returncode == 0
    assert helped.stdout.startswith(b"usage: smtpd ")
    assert b"--bare-newline" in helped.stdout and helped.stderr == b""
    build = b", static" if STATIC else b""
    assert re.fullmatch(rb"smtpd \d+\.\d+%s\n" % build, version.stdout)


# --- time and signals

@test
def a_client_that_is_silent_for_too_long_is_told_so():
    with Session("-t", "1", "discard:") as s:
        s.start()
        assert s.reply().startswith("421 4.4.2 mx.example.org ")
        assert s.read.read() == b"" and s.process.wait() == 0


@test
def a_client_that_trickles_is_told_so_too():
    with Session("-t", "1", "discard:") as s:
        s.start()
        s.socket.setblocking(False)
        seen, sent = b"", 0
        while b"\r\n" not in seen:
            try:
                sent += s.socket.send(b"N")
            except (BlockingIOError, BrokenPipeError):
                pass
            try:
                seen += s.socket.recv(4096)
            except BlockingIOError:
                pass
        assert seen.startswith(b"421 4.4.2 "), seen


@test
def a_session_ends_in_time_however_busy():
    with Session("--session-timeout", "1", "discard:") as s:
        s.start()
        reply = "250 "
        while reply.startswith("250 "):
            try:
                s.send(lines("NOOP"))
            except BrokenPipeError:
                pass               # it is over, and its reason is there
            reply = s.reply()
        assert reply.startswith("421 4.4.2 "), reply


@test
def endless_input_outlasts_neither_the_session_nor_sigterm():
    command = [SMTPD, "-H", "mx.example.org", "discard:"]
    with open("/dev/zero", "rb") as zero:   # there is always more to read
        done = subprocess.run([*command[:-1], "--session-timeout", "1",
                               command[-1]], stdin=zero, capture_output=True)
        assert b"\r\n421 mx" in done.stdout, done.stdout
        with subprocess.Popen(command, stdin=zero, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL) as busy:
            assert busy.stdout.readline().startswith(b"220 ")
            busy.send_signal(signal.SIGTERM)
            assert busy.stdout.readline().startswith(b"421 mx.example.org ")


@test
def sigterm_says_good_bye_to_an_idle_client():
    with Session("discard:") as s:
        s.start()
        s.process.send_signal(signal.SIGTERM)
        assert s.reply().startswith("421 4.3.2 mx.example.org ")
        assert s.read.read() == b"" and s.process.wait() == 0


@test
def sigterm_lets_a_running_relay_finish():
    place = folder()
    os.mkfifo(f"{place}/go")
    os.chmod(f"{place}/go", 0o666)
    program = script(place, f"cat >/dev/null; read x <{place}/go; echo done")
    with Session("--", program) as s:
        s.start()
        s.send(message("Subject: x", "", "y"))
        s.replies(3)
        with open(f"{place}/go", "w") as go:    # opens once it is running
            s.process.send_signal(signal.SIGTERM)
            go.write("x\n")
        assert s.reply().startswith("250 2.0.0 done")
        assert s.reply().startswith("421 4.3.2 ")
        assert s.process.wait() == 0
    shutil.rmtree(place)


@test
def a_reply_on_a_pipe_is_heard_though_sigterm_came_first():
    place = folder()
    os.mkfifo(f"{place}/go")
    os.chmod(f"{place}/go", 0o666)
    program = script(place, f"cat >/dev/null; read x <{place}/go; echo done")
    with subprocess.Popen([SMTPD, "-H", "mx.example.org", "--", program],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as s:
        s.stdin.write(lines("EHLO client.example.org") +
                      message("Subject: x", "", "y"))
        s.stdin.flush()
        with open(f"{place}/go", "w") as go:    # opens once it is running
            os.kill(list(family(s.pid))[0], signal.SIGTERM)
            go.write("x\n")
        out, log = s.communicate()
        assert out.endswith(b"\r\n250 2.0.0 done\r\n421 4.3.2 "
                            b"mx.example.org Shutting down\r\n"), out
        assert s.returncode == 0
    events = [line.split()[1] for line in log.decode().splitlines()]
    assert events == ["event=message-relayed", "event=session"], log
    shutil.rmtree(place)


@test
def a_client_that_reads_nothing_is_dropped_in_time():
    with Session("-t", "1", "--max-errors", "0", "discard:") as s:
        s.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        s.socket.setblocking(False)
        try:
            while True:
                s.socket.send(lines("HELP") * 1000)
        except BlockingIOError:
            pass
        assert s.process.wait() == 0
        assert "client lost" in s.logged()


# --- who we are, who the client is

@test
def root_is_given_up_before_the_first_octet_is_read():
    if os.geteuid() != 0:
        raise Skip("this needs root")
    for options, wanted in (([], "65534 65534"), (["-n"], "0 0")):
        with Session(*options, "--", "sh", "-c", "echo $(id -u) $(id -G)") \
                as s:
            s.start()
            assert s.deliver().split(" ", 2)[2] == wanted


@test
def the_trace_header_says_who_sent_what_to_whom():
    with Session("print:") as s:
        s.start()
        s.deliver("Subject: one", "", "y")
        s.deliver("Subject: two", "", "y", to=("b@example.org", "c@d"))
        _, log = s.finish()
    assert re.search(
        r"^Received: from client\.example\.org \(unix\)\n"
        r"\tby mx\.example\.org \(smtpd\) with ESMTP id [0-9A-Z]{16}\n"
        r"\tfor <b@example\.org>;\n"
        r"\t(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} "
        r"\d\d:\d\d:\d\d \+0000\nSubject: one$", log, re.M), log
    assert re.search(r"id [0-9A-Z]{16};\n\t.* \+0000\nSubject: two$", log,
                     re.M), log


@test
def the_trace_date_is_the_date():
    from email.utils import parsedate_to_datetime
    import datetime
    with Session("print:") as s:
        s.start()
        before = datetime.datetime.now(datetime.timezone.utc)
        s.deliver()
        after = datetime.datetime.now(datetime.timezone.utc)
        _, log = s.finish()
    date = parsedate_to_datetime(re.search(r"^\t(.*\+0000)$", log, re.M)[1])
    assert before.replace(microsecond=0) <= date <= after, date


@test
def trace_and_x_peer_are_as_asked_for():
    with Session("--no-received", "--x-peer", "print:") as s:
        s.start()
        s.deliver("Subject: x", "", "y")
        _, log = s.finish()
    assert "Received:" not in log
    assert "\nX-Peer: unix\nSubject: x\n\ny\n" in log, log


@test
def a_mail_loop_is_ended():
    with Session("print:") as s:
        s.start()
        assert s.deliver(*["Received: x"] * 100, "", "y")[:3] == "250"
        assert s.deliver(*["rEcEiVeD: x"] * 101, "", "y")[:9] == "554 5.4.6"
        assert s.deliver(*["Subject: x", ""] + ["Received: x"] * 101)[:3] == \
            "250"


@test
def what_a_client_sends_first_continues_no_field_of_ours():
    place = folder()
    box = os.path.join(place, "box")
    for options in ([], ["--no-received", "--x-peer"], ["--no-received"]):
        for first in (" 10.9.8.7 (authenticated)", "\tx", "Disk 3 has failed"):
            data = lines(first, "Subject: x")
            for text in (b"DATA\r\n" + data + b".\r\n",
                         lines(f"BDAT {len(data)} LAST") + data,
                         b"BDAT 1\r\n" + data[:1] +
                         lines(f"BDAT {len(data) - 1} LAST") + data[1:]):
                shutil.rmtree(box, ignore_errors=True)
                status, output, _ = run(
                    [*options, f"maildir:{box}"],
                    lines("EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>") +
                    text + lines("QUIT"))
                assert status == 0 and "250 2.0.0" in output, output
                name, = os.listdir(f"{box}/new")
                with open(f"{box}/new/{name}") as f:
                    header, found, body = f.read().partition("\n\n")
                assert found and body == f"{first}\nSubject: x\n", body
                assert "Return-Path: <a@b>" in header, header
    shutil.rmtree(place)


@test
def an_mbox_separator_becomes_a_field_between_ours_and_the_clients():
    octets = EXAMPLE.replace(b"Subject", b"From a@b Sat\r\nSubject")
    log = run(["print:"], octets)[2]
    assert "+0000\nX-Mailbox-Line: From a@b Sat\nSubject: hi\n\n" in log, log


@test
def where_we_write_no_field_a_message_stays_as_it_is():
    for first in (" x", "Disk 3 has failed", "From a"):
        octets = EXAMPLE.replace(b"Subject", first.encode() + b"\r\nSubject")
        log = run(["--no-received", "print:"], octets)[2]
        assert f"-----\n{first}\nSubject: hi\n\n" in log, log


@test
def a_peer_that_is_no_socket_is_known_from_the_environment():
    for environment, wanted in (
            ({"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "99"},
             "([192.0.2.1])"),
            ({"TCPREMOTEIP": "2001:db8::1"}, "([IPv6:2001:db8::1])"),
            ({"REMOTE_ADDR": "evil\nX: y"}, "(unknown)"),
            ({}, "(unknown)")):
        _, _, log = run(["print:"], env={**os.environ, **environment})
        assert f"Received: from x {wanted}\n" in log, (environment, log)


@test
def each_recipient_of_lmtp_has_a_verdict_of_its_own():
    place = folder()
    routes = os.path.join(place, "routes")
    with open(routes, "w") as f:
        f.write("b@example.org maildir:/dev/null/none\n")
    with Session("--lmtp", "--routes", routes, "discard:") as s:
        s.send(lines("LHLO x") + message("Subject: x", "", "y", to=(
            "a@example.org", "b@example.org", "c@example.org")))
        got = [r[:3] for r in s.replies(10)]
        assert got == "220 250 250 250 250 250 354 250 451 250".split(), got
        log = s.finish()[1]
    assert log.count("event=message-relayed ") == 2, log
    assert log.count("event=message-deferred ") == 1, log
    shutil.rmtree(place)


@test
def what_a_client_calls_itself_is_no_comment_in_the_trace():
    octets = EXAMPLE.replace(b"EHLO x", b'EHLO x(y)<z>;"\\,')
    log = run(["print:"], octets)[2]
    assert "Received: from x?y??z????? (unknown)\n" in log, log


@test
def a_peer_that_is_a_socket_is_known_by_its_address():
    if not socket.has_dualstack_ipv6():
        raise Skip("no IPv6")
    with socket.create_server(("::", 0), family=socket.AF_INET6,
                              dualstack_ipv6=True) as server:
        for address, wanted in (("127.0.0.1", "([127.0.0.1])"),
                                ("::1", "([IPv6:::1])")):
            ours = socket.create_connection(
                (address, server.getsockname()[1]))
            with Session("print:", pair=(ours, server.accept()[0])) as s:
                s.start()
                assert s.deliver()[:3] == "250"
                log = s.finish()[1]
            assert f"Received: from client.example.org {wanted}\n" in log, log


@test
def text_is_acknowledged_at_once_for_its_last_segment_may_wait_for_that():
    ours, theirs = tcp_pair()
    watched = theirs.dup()

    def at_once():
        return watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)

    with Session("discard:", pair=(ours, theirs)) as s, watched:
        s.start()
        for command in ("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA"):
            s.say(command)
        if at_once():
            raise Skip("this kernel holds no acknowledgement back")
        s.send(lines("x" * 900))
        while unread(watched) or not asleep(s.process.pid):
            pass
        assert at_once()
        assert s.say(".")[0][:3] == "250"
        s.say("MAIL FROM:<a@b>")
        s.say("RCPT TO:<c@d>")
        assert not at_once()
        s.send(lines("BDAT 1802 LAST", "x" * 900))
        while unread(watched) or not asleep(s.process.pid):
            pass
        assert at_once()
        assert s.say("x" * 898)[0][:3] == "250"


# LISTEN_FDS is read by libsystemd.
@test_unless_static
def a_descriptor_that_is_passed_is_a_connected_socket():
    with socket.create_server(("127.0.0.1", 0)) as server, \
            open(os.devnull) as nothing:
        for count, passed, wanted in (
                (1, server, "descriptor 3 is a listening socket"),
                (1, nothing, "descriptor 3 is not a socket"),
                (2, server, "2 descriptors were passed")):
            number = passed.fileno()
            done = subprocess.run(
                ["bash", "-c", f"exec 3<&{number} 4<&{number};"
                 f"LISTEN_PID=$$ LISTEN_FDS={count} exec $0 print:", SMTPD],
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
                pass_fds=[number])
            assert done.returncode == 64, done
            assert wanted in done.stderr, done.stderr


@test_if_static
def a_socket_that_is_passed_to_the_static_program_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.fileno()
        done = subprocess.run(
            ["bash", "-c", f"exec 3<&{number}; LISTEN_PID=$$ LISTEN_FDS=1 "
             "exec $0 print:", SMTPD], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, pass_fds=[number])
    assert done.returncode == 64, done
    assert "no libsystemd" in done.stderr, done.stderr


@test
def where_standard_error_is_the_journal_each_record_has_its_level():
    with tempfile.NamedTemporaryFile("w+") as log:
        seen = os.fstat(log.fileno())
        for stream, wanted in ((f"{seen.st_dev}:{seen.st_ino}", r"<[3-7]>"),
                               (f"{seen.st_dev}:1", "")):
            log.truncate(0)
            subprocess.run([SMTPD, "-d", "--", "/no/such/program"],
                           input=EXAMPLE, stdout=subprocess.DEVNULL,
                           stderr=log, check=True,
                           env={**os.environ, "JOURNAL_STREAM": stream})
            with open(log.name) as file:
                records = [r.lstrip("\0") for r in file]
            assert len(records) > 1, records
            for record in records:
                assert re.match(wanted + "smtpd: ", record), record
            if wanted:
                levels = {record[:3] for record in records}
                assert len(levels) > 1, records


@test
def where_standard_error_is_the_client_nothing_is_written_to_it():
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([SMTPD, "-d", "--", "/no/such/program"],
                               stdin=theirs, stdout=theirs, stderr=theirs)
    theirs.close()
    ours.sendall(EXAMPLE)
    seen = ours.makefile("rb").read().decode()
    assert process.wait() == 0
    assert all(re.match(r"\d{3}[ -]", line) for line in seen.splitlines())
    assert codes(seen) == "220 250 250 250 354 451 221".split(), seen
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([SMTPD, "--nosuch"], stdin=theirs,
                               stdout=theirs, stderr=theirs)
    theirs.close()
    said = ours.makefile("rb").read()
    assert said == b"421 4.3.5 Local configuration error\r\n", said
    assert process.wait() == 64


@test
def where_standard_error_is_standard_output_no_record_is_among_the_replies():
    done = subprocess.run([SMTPD, "-d", "discard:"], input=EXAMPLE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen = done.stdout.decode()
    assert all(re.match(r"\d{3}[ -]", line) for line in seen.splitlines()), \
        seen
    assert codes(seen) == "220 250 250 250 354 250 221".split(), seen


@test
def a_user_that_is_missing_is_refused_whichever_user_starts_smtpd():
    if os.geteuid() != 0:
        raise Skip("root only")
    program = shutil.copy(SMTPD, folder())      # not below root's home
    for who in None, 65534:
        done = subprocess.run([program, "--user", "no such user", "discard:"],
                              input=EXAMPLE, capture_output=True, user=who)
        assert done.returncode == 64 and done.stdout == b"", done
        assert b'there is no user "no such user"' in done.stderr, done


@test
def where_standard_error_is_the_client_only_one_process_has_it():
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([SMTPD, "discard:"], stdin=theirs,
                               stdout=theirs, stderr=theirs)
    theirs.close()
    with ours, ours.makefile("rb") as read:
        ours.sendall(lines(HELLO) + message("Subject: x", "", "y"))
        while not read.readline().startswith(b"250 2.0.0 "):
            pass
        process.send_signal(signal.SIGSTOP)     # the monitor
        ours.sendall(lines("QUIT"))
        assert read.readline().startswith(b"221 ") and read.read() == b""
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 0


@test
def the_log_has_one_line_for_each_event():
    with Session("print:/dev/null") as s:
        s.start()
        reply = s.deliver()
        _, log = s.finish()
    identity = reply.split()[-1]
    assert log.splitlines() == [
        f"smtpd: event=message-relayed id={identity} client=unix "
        "helo=client.example.org from=a@example.org to=b@example.org "
        + re.search(r"size=\d+", log)[0] + " relay=print:/dev/null "
        + re.search(r"delay=\d+\.\d\d\d", log)[0] + f' reply="{reply}"'], log


@test
def the_log_has_a_line_for_each_message_that_we_refuse():
    for options, text, reply in (
            ([], [b"a\nb"], "550 5.6.0"),
            (["-s", "100"], ["x" * 200], "552 5.3.4"),
            (["--decode-data"], [b"\xff"], "554 5.6.0"),
            ([], ["Received: x"] * 101, "554 5.4.6")):
        with Session(*options, "discard:") as s:
            s.start()
            assert s.deliver(*text).startswith(reply)
            _, log = s.finish()
        assert len(log.splitlines()) == 1, log
        assert re.match("smtpd: event=message-refused id=\\w+ client=unix .*"
                        " to=b@example.org .* relay=discard: "
                        f'reply="{reply} ', log), log


@test
def long_addresses_do_not_crowd_the_reply_out_of_the_log():
    with Session("--", "sh", "-c", "echo " + "y" * 470) as s:
        s.start()
        reply = s.deliver(to=[f"{i}{'x' * 900}@example.org"
                              for i in range(8)])
        _, log = s.finish()
    assert f' reply="{reply}"\n' in log and " recipients=" not in log, log
    assert log.splitlines()[0].count(" to=") in range(1, 8), log


@test
def a_sender_that_is_refused_leaves_no_transaction():
    with Session("--policy", "MAIL=unix:/nosuch", "discard:") as s:
        s.start()
        assert s.say("MAIL FROM:<a@b>")[0].startswith("451 4.3.5 ")
        _, log = s.finish()
    assert re.search("event=refused id=", log), log
    assert re.search("event=session client=", log), log


@test
def the_null_path_is_nobody_to_ask_a_policy_service_about():
    place = folder()
    with PolicyService(place) as service, \
            Session("--policy", service.place, "discard:") as s:
        s.start()
        assert [r[:3] for r in s.say("VRFY <>", "VRFY x", "NOOP")] == \
            ["252", "252", "250"]
        _, log = s.finish()
    asked = [q["recipient"] for q in service.asked
             if q["protocol_state"] == "VRFY"]
    assert asked == ["x"] and "channel-broken" not in log, (asked, log)
    shutil.rmtree(place)


@test
def debugging_shows_the_dialogue():
    with Session("-d", "discard:") as s:
        s.start()
        _, log = s.finish()
    assert 'text="C: EHLO client.example.org"' in log
    assert re.search(r'text="S: 221 2\.0\.0 mx\.example\.org', log), log


# --- LMTP

@test
def lmtp_has_a_reply_for_each_recipient():
    with Session("--lmtp", "discard:") as s:
        got = [s.reply()] + s.say("EHLO x", "LHLO client.example.org")
        assert [r[:3] for r in got] == ["220", "500", "250"]
        s.send(message("Subject: x", "", "y", to=("a@b", "c@d", "e@f")))
        assert [r[:9] for r in s.replies(8)][5:] == ["250 2.0.0"] * 3
        s.send(lines("MAIL FROM:<a@b>", "BDAT 3 LAST") + b"abc" +
               lines("NOOP"))
        assert [r[:3] for r in s.replies(2)] == ["250", "250"]


# --- real clients, a real super-server

class Activated(Server):
    """systemd-socket-activate in front of smtpd, on a port of its own."""

    def __init__(self, *arguments, inetd=True):
        need("systemd-socket-activate")
        self.port = free_port()
        super().__init__(
            "systemd-socket-activate", "-l", f"127.0.0.1:{self.port}",
            "--accept", *(["--inetd"] if inetd else []), SMTPD, "-H",
            "mx.example.org", *arguments)
        self.await_line("Listening on")


def clients(port):
    """Each real client sends a message of its own."""
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("py@example.org", ["b@example.org"],
                        "Subject: smtplib\r\n\r\n.dot\r\n")
    yield "smtplib"
    need("curl", "swaks")
    subprocess.run(["curl", "-sS", f"smtp://127.0.0.1:{port}", "--mail-from",
                    "curl@example.org", "--mail-rcpt", "b@example.org", "-T",
                    "-"], input=b"Subject: curl\r\n\r\n.dot\r\n", check=True)
    yield "curl"
    subprocess.run(["swaks", "--server", f"127.0.0.1:{port}", "--from",
                    "swaks@example.org", "--to", "b@example.org", "--body",
                    ".dot", "--header", "Subject: swaks"], check=True,
                   stdout=subprocess.DEVNULL)
    yield "swaks"


@test
def real_clients_deliver_through_a_super_server():
    place = folder()
    with Activated(f"maildir:{place}/box") as server:
        for name in clients(server.port):
            new = os.listdir(f"{place}/box/new")
            assert len(new) == 1, (name, new)
            path = f"{place}/box/new/{new[0]}"
            with open(path) as f:
                text = f.read()
            assert f"Subject: {name}\n" in text and "\n.dot\n" in text, text
            assert "([127.0.0.1])\n\tby mx.example.org" in text, text
            os.unlink(path)
    shutil.rmtree(place)


# LISTEN_FDS is read by libsystemd.
@test_unless_static
def a_connection_passed_as_descriptor_3_is_served():
    place = folder()
    with Activated(f"maildir:{place}/box", inetd=False) as server:
        next(clients(server.port))
        assert len(os.listdir(f"{place}/box/new")) == 1
    shutil.rmtree(place)


@test
def a_program_finds_its_own_users_home_and_not_roots():
    if os.geteuid() != 0:
        raise Skip("not root")
    import pwd
    nobody = pwd.getpwnam("nobody")
    roots = {"HOME": "/root", "USER": "root", "LOGNAME": "root",
             "MAIL": "/var/mail/root"}
    its_own = {"HOME": nobody.pw_dir, "USER": "nobody", "LOGNAME": "nobody"}
    for options, wanted in ((["--user", "nobody"], its_own),
                            ([], its_own),
                            (["-n"], roots)):
        place = folder()
        program = script(place, f"env >{place}/env")
        with Session(*options, "--", program, env=roots) as s:
            s.start()
            assert s.deliver()[:9] == "250 2.0.0"
            s.finish()
        with open(f"{place}/env") as f:
            env = dict(line.rstrip("\n").split("=", 1) for line in f
                       if "=" in line)
        assert {k: env[k] for k in roots if k in env} == wanted, env
        shutil.rmtree(place)


@test
def what_is_asked_after_the_sessions_time_is_not_begun():
    place = folder()
    program = script(place, f"""echo x >>{place}/ran
        trap '' TERM; while :; do read x </dev/zero; done""")
    with Session("--session-timeout", "1", "--relay-timeout", "1", "--",
                 program) as s:
        s.send(lines(HELLO) + message("Subject: 1", "", "x") +
               message("Subject: 2", "", "x"))
        said = [r[:9] for r in s.replies(10)]
        assert said[5] == "451 4.3.0" and said[9] == "421 4.4.2", said
        assert s.read.read() == b"" and s.process.wait() == 0
    with open(f"{place}/ran") as f:
        assert f.read() == "x\n"
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
