#!/usr/bin/env python3
"""deadlines.t - a session ends in time, whatever the client does, and when
SIGTERM says so."""
import os
import shutil
import signal
import socket
import subprocess

from tap import (HELLO, SMTPD, Session, family, folder, lines, main, message,
                 script, test, test_late)


@test_late
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
        seen = b""
        while b"\r\n" not in seen:
            try:
                s.socket.send(b"N")
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


@test_late
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


@test_late
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
