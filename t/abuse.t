#!/usr/bin/env python3
"""abuse.t - clients that are slow, deaf, endless, rude or many: each gets what
the limits that were set allow, and no more."""
import itertools
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import threading

from tap import (HELLO, SANITIZED, SMTPD, Session, Skip, family, folder,
                 free_port, lines, main, message, need, reset_connection,
                 script, tcp_pair, test)

PEAK = 4096     # kB that a process of ours may ever have in memory
SHARE = 256     # KiB in proportion that an idle connection may cost, at
                # most: what it does cost is for make bench to say


def peaks(pid):
    """The most that each process of a session ever had in memory, in kB."""
    found = []
    for process in (pid, *family(pid)):
        with open(f"/proc/{process}/status") as status:
            found.append(int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]))
    assert len(found) == 2, found
    return found


def modest(s):
    for peak in peaks(s.process.pid):
        assert SANITIZED or peak < PEAK, f"{peak} kB"


def flood(s, octets, until):
    """Sends octets again and again, and reads, until that was said."""
    said, at = b"", 0
    s.socket.setblocking(False)
    while until not in said:
        ready = select.select([s.socket], [s.socket], [])
        if ready[1]:
            try:
                at += s.socket.send(octets[at:])
                at %= len(octets)
            except BlockingIOError:
                pass
            except OSError:
                ready = ([s.socket], [])
        if ready[0]:
            try:
                chunk = s.socket.recv(65536)
            except ConnectionResetError:    # it did not want the rest
                chunk = b""
            if not chunk:
                break
            said = said[-100:] + chunk
    s.socket.setblocking(True)
    return said


# --- slow

@test
def a_client_of_single_octets_is_served():
    with Session("print:") as s:
        for octet in lines(HELLO) + message("Subject: x", "", "..y") + \
                lines("QUIT"):
            s.send(bytes([octet]))
        codes = [r[:3] for r in s.replies(7)]
        assert codes == "220 250 250 250 354 250 221".split(), codes
        assert s.process.wait() == 0
        assert s.logged().count("\n.y\n") == 1


def trickle(s, octets):
    """An octet whenever nothing was said for a moment, until something is."""
    at = 0
    while not select.select([s.socket], [], [], 0.02)[0]:
        s.send(octets[at % len(octets):][:1])
        at += 1
    return s.reply()


def over(s):
    """Nothing more comes: an octet that crossed the last reply resets."""
    try:
        return s.read.read() == b""
    except ConnectionResetError:
        return True


@test
def a_command_that_never_ends_is_an_idle_client():
    for command in (b"NOOP ", b"x", b"\0", b"AUTH PLAIN "):
        with Session("-t", "1", "discard:") as s:
            s.start()
            assert trickle(s, command + b"x" * 400)[:9] == "421 4.4.2"
            assert over(s) and s.process.wait() == 0


@test
def a_client_that_trickles_text_has_until_the_end_of_the_session():
    place = folder()
    program = script(place, f"touch {place}/ran")
    for begin in (["DATA"], ["BDAT 99999"]):
        with Session("--session-timeout", "1", "--", program) as s:
            s.start()
            s.send(lines("MAIL FROM:<a@b>", "RCPT TO:<c@d>", *begin))
            s.replies(3 if begin == ["DATA"] else 2)
            assert trickle(s, b"text\r\n")[:9] == "421 4.4.2"
            assert over(s) and s.process.wait() == 0
            assert "nothing of it was relayed" in s.logged()
    assert not os.path.exists(f"{place}/ran")
    shutil.rmtree(place)


@test
def a_client_that_says_nothing_at_all_is_hung_up_on():
    with Session("-t", "1", "--proxy-protocol", "discard:") as s:
        assert s.read.read() == b"" and s.process.wait() == 0
        assert "timed out after 0 messages" in s.logged(), s.logged()


# --- deaf

@test
def a_client_that_reads_no_replies_costs_no_memory():
    with Session("--max-errors", "0", "discard:") as s:
        s.reply()
        s.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        s.socket.setblocking(False)
        sent = 0
        try:
            while True:
                sent += s.socket.send(lines("HELP") * 10000)
        except BlockingIOError:
            pass
        modest(s)
        # What was taken is answered, once it listens.
        s.socket.setblocking(True)
        s.socket.shutdown(socket.SHUT_WR)
        replies = 0
        for line in s.read:
            replies += line[3:4] == b" "
        assert replies == sent // 6, (replies, sent)
        assert s.process.wait() == 0


# --- endless

@test
def ten_thousand_commands_at_once_have_ten_thousand_replies():
    with Session("discard:") as s:
        s.start()
        flow = lines("NOOP", "RSET", "VRFY x", "MAIL FROM:<a@b>",
                     "RCPT TO:<c@d>") * 2000
        sender = threading.Thread(target=s.socket.sendall, args=[flow])
        sender.start()
        wanted = ["250", "250", "252", "250", "250"] * 2000
        assert [r[:3] for r in s.replies(10000)] == wanted
        sender.join()
        modest(s)
        assert s.finish()[0] == 0


@test
def endless_commands_end_with_the_limits():
    for arguments, command, said in (
            (["--max-errors", "10"], "X", b"421 4.7.0"),
            (["--max-errors", "10"], "MAIL FROM:<" + "a" * 600, b"421 4.7.0"),
            (["--command-limit", "EHLO=10"], HELLO, b"421 4.7.0"),
            (["--command-limit", "10"], "NOOP", b"421 4.7.0"),
            (["--session-timeout", "1"], HELLO, b"421 4.4.2"),
            (["--session-timeout", "1"], "HELO x", b"421 mx"),
            (["--session-timeout", "1", "--max-errors", "0"], "BDAT 0",
             b"421 4.4.2"),
            (["--max-messages", "3"], "MAIL FROM:<a@b>\r\nRSET",
             b"421 4.7.0")):
        with Session(*arguments, "discard:") as s:
            s.start()
            last = flood(s, lines(command) * 100, said)
            s.socket.shutdown(socket.SHUT_RDWR)
            assert s.process.wait() == 0
            # A client that has replies waiting when the time is over may not
            # hear why.
            assert said in last or "--session-timeout" in arguments and \
                re.search("client lost|timed out", s.logged()), \
                (arguments, command, last, s.logged())


@test
def recipients_without_end_end_with_the_limits():
    with Session("--max-recipients", "100", "discard:") as s:
        s.start()
        s.say("MAIL FROM:<a@b>")
        s.send(b"".join(lines(f"RCPT TO:<{n}@example.org>")
                        for n in range(130)))
        said = [r[:9] for r in s.replies(121)]
        assert said == ["250 2.1.5"] * 100 + ["452 4.5.3"] * 20 + \
            ["421 4.7.0"], said


@test
def a_line_of_a_hundred_megabytes_is_one_error():
    block = b"x" * (1 << 20)
    for first in (b"", b"MAIL FROM:<", b"EHLO ", b"AUTH PLAIN ", b"BDAT "):
        with Session("--no-auth-require-tls", "--auth", "file:/nonexistent",
                     "discard:") as s:
            s.start()
            s.send(first)
            for _ in range(100 if first == b"" else 5):
                s.send(block)
            s.send(b"\r\n")
            if first == b"BDAT ":
                assert s.reply()[:3] == "421"
                continue
            assert s.reply()[:3] == "500", first
            assert s.say("NOOP") == ["250 2.0.0 OK"]
            modest(s)
            assert s.finish()[0] == 0


@test
def a_line_of_text_may_be_long_and_costs_no_memory():
    with Session("-s", "0", "--no-received", "--", "wc", "-c") as s:
        s.start()
        s.say("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA")
        for _ in range(64):
            s.send(b"x" * (1 << 20))
        reply = s.say("\r\n.")[0]
        assert f" {(64 << 20) + 1}" in reply, reply
        modest(s)


@test
def text_beyond_the_limit_is_read_and_kept_nowhere():
    place = folder()
    with Session("-n", "-s", "100000", f"maildir:{place}/box",
                 env={"TMPDIR": place}) as s:
        s.start()
        s.say("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA")
        for _ in range(50):
            s.send((b"x" * 1022 + b"\r\n") * 1024)
        modest(s)
        channel = list(family(s.process.pid))[0]
        if os.geteuid() == 0:
            kept = 0
            for fd in os.listdir(f"/proc/{channel}/fd"):
                path = f"/proc/{channel}/fd/{fd}"
                if "memfd" in os.readlink(path):
                    kept = os.stat(path).st_size
            assert 0 < kept < 1 << 20, kept
        assert s.say(".")[0][:9] == "552 5.3.4"
        assert s.say("NOOP") == ["250 2.0.0 OK"]
        s.finish()
    assert set(os.listdir(place)) <= {"box"}
    shutil.rmtree(place)


@test
def a_full_disk_is_said_and_the_session_goes_on():
    place = folder()
    wrap = ("sh", "-c", 'ulimit -f 4096; exec "$@"', "sh")
    with Session("-s", "0", f"maildir:{place}/box", wrap=wrap,
                 env={"TMPDIR": place}) as s:
        s.start()
        s.say("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA")
        for _ in range(10):
            s.send((b"x" * 1022 + b"\r\n") * 1024)
        assert s.say(".")[0][:9] == "452 4.3.1"
        assert s.deliver()[:9] == "250 2.0.0"
        s.finish()
    assert len(os.listdir(f"{place}/box/new")) == 1
    assert os.listdir(f"{place}/box/tmp") == []
    assert os.listdir(place) == ["box"]
    shutil.rmtree(place)


@test
def endless_text_without_a_limit_ends_with_the_session():
    with Session("-s", "0", "--session-timeout", "2", "discard:") as s:
        s.start()
        s.say("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA")
        said = flood(s, (b"x" * 998 + b"\r\n") * 60, b"421 4.4.2")
        assert b"421 4.4.2" in said or "client lost" in s.logged(), said[-100:]


# --- rude

# Each is answered by one reply, as the greeting is.
STEPS = [lines(HELLO), lines("MAIL FROM:<a@example.org>"),
         lines("RCPT TO:<b@example.org>"), lines("DATA"),
         lines("Subject: x", "", ".dot", "."), lines("MAIL FROM:<a@b>"),
         lines("RCPT TO:<c@d>"), lines("BDAT 4") + b"QUIT",
         lines("BDAT 6 LAST") + b"QUIT\r\n", lines("QUIT")]
DIALOGUE = b"".join(STEPS)
ANSWERED = list(itertools.accumulate(map(len, STEPS)))
ENDS = ANSWERED[4], ANSWERED[8]     # where each message is complete


@test
def an_end_of_file_at_each_octet_relays_what_was_complete():
    place = folder()
    for at in range(len(DIALOGUE) + 1):
        with Session(f"maildir:{place}/box") as s:
            s.send(DIALOGUE[:at])
            s.socket.shutdown(socket.SHUT_WR)
            said = [line for line in s.read if line[3:4] == b" "]
            assert s.process.wait() == 0
        wanted = sum(at >= end for end in ENDS)
        new = f"{place}/box/new"
        got = os.listdir(new) if os.path.isdir(new) else []
        assert len(got) == wanted, (at, DIALOGUE[:at], got)
        finals = sum(line.startswith(b"250 2.0.0 Message") for line in said)
        assert finals == wanted, (at, said)
        for name in got:
            os.unlink(f"{new}/{name}")
    shutil.rmtree(place)


def serve(theirs, place):
    return subprocess.Popen([SMTPD, "-H", "x", f"maildir:{place}/box"],
                            stdin=theirs, stdout=theirs,
                            stderr=subprocess.DEVNULL)


def reset_after(client, theirs, octets):
    """Returns when both have come."""
    client.sendall(octets)
    reset_connection(client)
    came = select.poll()
    came.register(theirs, 0)
    came.poll()


def reset_before_it_starts(client, theirs, at, place):
    reset_after(client, theirs, DIALOGUE[:at])
    return serve(theirs, place), 0


def reset_while_it_does_nothing(client, theirs, at, place):
    """It finds all of the octets, and nobody who hears a reply."""
    process = serve(theirs, place)
    client.recv(100)    # the greeting
    channel, = family(process.pid)
    os.kill(channel, signal.SIGSTOP)
    stopped = False
    while not stopped:
        with open(f"/proc/{channel}/status") as status:
            stopped = "State:\tT" in status.read()
    reset_after(client, theirs, DIALOGUE[:at])
    os.kill(channel, signal.SIGCONT)
    return process, sum(at >= end for end in ENDS)


def reset_when_all_was_answered(client, theirs, at, place):
    process = serve(theirs, place)
    client.sendall(DIALOGUE[:at])
    awaited = 1 + sum(at >= end for end in ANSWERED)
    with client.makefile("rb") as read:
        while awaited > 0:
            line = read.readline()
            assert line, "it hung up"
            awaited -= line[3:4] == b" "
    reset_after(client, theirs, b"")
    return process, sum(at >= end for end in ENDS)


@test
def a_reset_at_each_step_relays_what_was_complete():
    place = folder()
    cuts = [m.end() for m in re.finditer(rb"\r\n|4\r\nQU", DIALOGUE)]
    for reset in (reset_before_it_starts, reset_while_it_does_nothing,
                  reset_when_all_was_answered):
        for at in [0, *cuts]:
            client, theirs = tcp_pair()
            with theirs:
                process, wanted = reset(client, theirs, at, place)
                assert process.wait() == 0, (reset, at)
            new = f"{place}/box/new"
            got = os.listdir(new) if os.path.isdir(new) else []
            assert len(got) == wanted, (reset, at, got)
            for name in got:
                os.unlink(f"{new}/{name}")
            tmp = f"{place}/box/tmp"
            assert not os.path.isdir(tmp) or os.listdir(tmp) == []
    shutil.rmtree(place)


# --- many

COUNT = 500


@test
def five_hundred_connections_at_once_are_served_and_small():
    need("tcpserver")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < COUNT + 64:
        raise Skip(f"only {hard} open files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, COUNT + 64), hard))
    port = free_port()
    server = subprocess.Popen(
        ["tcpserver", "-RHl0", "-c", str(COUNT), "-b", str(COUNT), "-D",
         "127.0.0.1", str(port), SMTPD, "-H", "mx.example.org", "discard:"],
        stderr=subprocess.DEVNULL)
    clients = []
    try:
        while not clients:
            try:
                clients.append(socket.create_connection(("127.0.0.1", port)))
            except ConnectionRefusedError:
                assert server.poll() is None
        for _ in range(COUNT - 1):
            clients.append(socket.create_connection(("127.0.0.1", port)))
        files = [c.makefile("rb") for c in clients]
        for read in files:
            assert read.readline()[:4] == b"220 "
        waiting = socket.create_connection(("127.0.0.1", port))
        everybody = family(server.pid)
        assert len(everybody) == 2 * COUNT, len(everybody)
        share = 0
        for pid in everybody:
            with open(f"/proc/{pid}/status") as status:
                peak = re.search(r"VmHWM:\s+(\d+)", status.read())[1]
            assert SANITIZED or int(peak) < PEAK, f"{peak} kB"
            if os.geteuid() == 0:
                with open(f"/proc/{pid}/smaps_rollup") as rollup:
                    share += int(re.search(r"\nPss:\s+(\d+)",
                                           rollup.read())[1])
        print(f"# {share / COUNT:.0f} KiB in proportion for each")
        assert SANITIZED or share <= SHARE * COUNT, share / COUNT
        for client in clients:
            client.sendall(lines(HELLO) + message("Subject: x", "", "y") +
                           lines("QUIT"))
        for read in files:
            said = [line[:3] for line in read if line[3:4] == b" "]
            assert said == [b"250", b"250", b"250", b"354", b"250", b"221"], \
                said
        # One that came too late has its turn now.
        with waiting, waiting.makefile("rb") as read:
            assert read.readline()[:4] == b"220 "
    finally:
        for client in clients:
            client.close()
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
