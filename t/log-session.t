#!/usr/bin/env python3
"""log-session.t - which records a session leaves, at which level and where:
standard error, the journal, and never the client."""
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

from fakes.hop import Hop
from tap import (EXAMPLE, HELLO, SMTPD, Session, codes, folder, lines, main,
                 message, probed, run, script, test)


# --- what a record says

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


# --- which sessions have one

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
def the_log_says_that_a_PROXY_header_was_none():
    for first in ["EHLO x", "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536"]:
        log = run(["--proxy-protocol", "discard:"], lines(first))[2]
        assert ('text="closed by server (no valid PROXY header) after 0 '
                'messages, 0 errors"') in log, log


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
            log = probed(reset, *["-d"] * debug, "discard:")
            assert log.count("event=session ") == debug, log


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
    assert re.search(
        f"event=duplicate-possible id={identity} .* from=a@example.org "
        'text="the message was relayed, but the client left before the '
        'reply"\n', log), log
    with Session("discard:") as s:
        s.start()
        s.deliver()
        assert "duplicate-possible" not in s.finish()[1]
    shutil.rmtree(place)


# --- levels, and where the log is

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
def debugging_shows_the_dialogue():
    with Session("-d", "discard:") as s:
        s.start()
        _, log = s.finish()
    assert 'text="C: EHLO client.example.org"' in log
    assert re.search(r'text="S: 221 2\.0\.0 mx\.example\.org', log), log


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


if __name__ == "__main__":
    main()
