#!/usr/bin/env python3
"""smtpd.t - sessions of the program itself, over socket pairs, pipes, a file, a
terminal and a super-server, with real clients."""
import fcntl
import hashlib
import os
import pty
import re
import shutil
import smtplib
import socket
import subprocess
import sys
import tempfile
import termios

from servers import Server
from tap import (EXAMPLE, HELLO, SANITIZED, SMTPD, PolicyService, Session,
                 Skip, codes, family, folder, free_port, lines, main, message,
                 need, reset_connection, run, script, tcp_pair, test,
                 test_unless_static, whole_calls)


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
def what_is_made_is_its_users_whatever_the_umask():
    """UMask=0700 is soon written where 0077 is meant.  What it takes from the
    group and others, it takes from a relay program as well."""
    for mask, left in (0o777, "0077"), (0o700, "0000"), (0o422, "0022"):
        place, modes = folder(), {}
        program = script(place, "cat >/dev/null; echo 250 2.0.0 $(umask)")
        for relay in ([f"maildir:{place}/box"], [f"print:{place}/out"],
                      ["--", program]):
            done = subprocess.run(
                [SMTPD, "--record", f"{place}/record", *relay], umask=mask,
                input=lines(HELLO) + message("Subject: x", "", "y") +
                lines("QUIT"), capture_output=True)
            assert b"\r\n250 2.0.0 " in done.stdout, done
        assert f"250 2.0.0 {left}\r\n".encode() in done.stdout, done
        for at, _, files in os.walk(place):
            for name in [at, *(os.path.join(at, f) for f in files)]:
                modes[name] = os.stat(name).st_mode & 0o777
        assert set(modes) > {f"{place}/box/cur", f"{place}/out",
                             f"{place}/record"}, modes
        assert len([n for n in modes if f"{place}/box/new/" in n]) == 1, modes
        for name, mode in modes.items():
            assert name in (place, program) or mode == (
                0o700 if os.path.isdir(name) else 0o600), (name, oct(mode))
        shutil.rmtree(place)


@test
def a_network_client_that_hears_no_reply_is_told_of_once():
    """As where a unit has StandardOutput=journal.  What reads a pipe may pass
    the replies on, as tee(1) does."""
    want = 'event=config-error client=127.0.0.1 text="the client hears no ' \
        'reply: standard output leads elsewhere"'
    unix, theirs = socket.socketpair()
    with theirs, unix, tempfile.TemporaryFile() as file, \
            open("/dev/null", "wb") as null:
        for pair, output, count in ((tcp_pair(), theirs, 1),
                                    (tcp_pair(), file, 1),
                                    (tcp_pair(), null, 1),
                                    (tcp_pair(), subprocess.PIPE, 0),
                                    (socket.socketpair(), null, 0)):
            ours, its = pair
            with ours, its:
                ours.sendall(lines(HELLO) + message("x") + lines("QUIT"))
                done = subprocess.run([SMTPD, "discard:"], stdin=its,
                                      stdout=output, stderr=subprocess.PIPE)
            log = done.stderr.decode()
            assert log.count(want) == count, (count, log)
            assert log.count("config-error") == count, (count, log)
            assert "event=message-relayed" in log, log


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


def unread(connection):
    """Octets that the process behind our copy of its socket has to read."""
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)),
                          sys.byteorder)


def asleep(pid):
    """Do pid's children all wait?"""
    return all(state.rpartition(")")[2].split()[0] == "S"
               for state in family(pid).values())


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
    client, theirs = tcp_pair()
    process = subprocess.Popen([SMTPD, "--", program], stdin=theirs,
                               stdout=theirs, stderr=subprocess.DEVNULL)
    theirs.close()
    client.sendall(lines(HELLO) + message("Subject: x")[:-3])
    while b"354" not in client.recv(4096):
        pass
    reset_connection(client)
    assert process.wait() == 0
    assert not os.path.exists(f"{place}/ran")
    shutil.rmtree(place)


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


# --- what a client says, good and bad

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


if __name__ == "__main__":
    main()
