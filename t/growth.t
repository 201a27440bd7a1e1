#!/usr/bin/env python3
"""growth.t - work grows with the input, and not with its square.

The kernel counts the work: a process that uses more than ten seconds of CPU
time is killed.  Each input needs less than one, with the sanitizers too; before
they were fixed, or with a loop within a loop, they need minutes."""
import shutil
import subprocess
import tempfile

from fakes.milter import Filter, number, packet
from tap import HELLO, SMTPD, folder, lines, main, test

SECONDS = 10
START = lines(HELLO, "MAIL FROM:<a@example.org>")
UNLIMITED = ("--max-errors", "0", "--max-recipients", "0")


def answers(octets, *arguments, seconds=SECONDS):
    """The replies to a session of these octets; empty if it was killed."""
    with tempfile.TemporaryFile() as f:
        f.write(octets)
        f.seek(0)
        done = subprocess.run(
            ["sh", "-c", f'ulimit -t {seconds}; exec "$@"', "sh", SMTPD, "-H",
             "mx.example.org", *UNLIMITED, *arguments], stdin=f,
            capture_output=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-300:])
    return done.stdout.decode().splitlines()


def relayed(octets, *arguments, **more):
    got = answers(START + octets + lines("QUIT"), *arguments, **more)
    assert got[-2].startswith("250 2.0.0 Message accepted"), got[-2:]


def routes(row, count):
    place = folder()
    with open(f"{place}/routes", "w") as f:
        for i in range(count):
            f.write(row.format(i=i) + "\n")
    return place


@test
def a_hundred_thousand_routes_to_as_many_next_hops():
    place = routes("p{i}@example.net lmtp:unix:/nowhere/{i}", 100000)
    relayed(lines("RCPT TO:<b@example.org>", "DATA", "x", "."),
            "--routes", f"{place}/routes", "discard:")
    shutil.rmtree(place)


@test
def a_hundred_thousand_routes_of_one_domain():
    place = routes("p{i}@example.net discard:", 100000)
    relayed(lines(*[f"RCPT TO:<p{i}@example.net>" for i in range(5000)],
                  "DATA", "x", "."), "--routes", f"{place}/routes", "discard:")
    shutil.rmtree(place)


@test
def twenty_thousand_recipients():
    relayed(lines(*[f"RCPT TO:<p{i}@example.net>" for i in range(20000)],
                  "DATA", "x", "."), "discard:")


@test
def a_hundred_thousand_chunks_of_one_octet():
    relayed(lines("RCPT TO:<b@example.org>") + b"BDAT 1\r\nx" * 100000 +
            lines("BDAT 0 LAST"), "discard:")


@test
def a_million_lines():
    relayed(lines("RCPT TO:<b@example.org>", "DATA") + b".x\r\n" * 1000000 +
            lines("."), "discard:")


@test
def a_header_of_half_a_million_fields_and_one_of_as_many_lines():
    relayed(lines("RCPT TO:<b@example.org>", "DATA") + b"X: y\r\n" * 500000 +
            lines("."), "discard:")
    relayed(lines("RCPT TO:<b@example.org>", "DATA", "X: y") +
            b" z\r\n" * 500000 + lines("."), "discard:")
    relayed(lines("RCPT TO:<b@example.org>", "DATA") + b"From a\r\n" * 500000 +
            lines("."), "discard:")


@test
def fifty_thousand_fields_that_a_filter_deletes_or_changes():
    """As filters delete what a client forged: it chooses how many."""
    count = 50000
    for each, value in ((range(count, 0, -1), ""), ([1] * count, ""),
                        (range(1, count + 1), "new"), ([count] * count, "x")):
        place = folder()
        edits = [packet("m", number(i, "X", value)) for i in each]
        with Filter(place, {"E": edits + [packet("c")]}, steps=0x70) as f:
            relayed(lines("RCPT TO:<b@example.org>", "DATA") +
                    b"X: y\r\n" * count + lines("", "z", "."),
                    "--milter", f.place, "discard:")
        shutil.rmtree(place)


@test
def fields_that_a_filter_puts_in_front_and_finds_by_as_many_names():
    """As one does that keeps under another name what a client forged."""
    count = 49000

    def edited(edits, text, seconds):
        place = folder()
        with Filter(place, {"E": [b"".join(edits), packet("c")]},
                    steps=0x70) as f:
            relayed(lines("RCPT TO:<b@example.org>", "DATA") + text +
                    lines("", "z", "."), "--milter", f.place, "discard:",
                    seconds=seconds)
        shutil.rmtree(place)

    for place in 0, 1:
        edited([packet("i", number(place, "X", "y"))] * 2 * count, b"A: b\r\n",
               2)
    old = b"A: b\r\n" * count
    for value in "", "z":       # deleted, or changed
        edited([packet("i", number(1, "X", "y")) +
                packet("m", number(count // 2, "A", value))] * count, old, 5)
    many = b"".join(b"A%d: b\r\n" % i for i in range(2 * count))
    for name in "A", "B":       # all of them, and none
        edited([packet("m", number(1, f"{name}{i}", ""))
                for i in range(2 * count)], many, 5)


@test
def fifty_thousand_recipients_that_a_filter_adds_and_takes_away():
    count = 50000
    who = [f"<q{i}@example.net>\0" for i in range(count)]
    place = folder()
    with Filter(place, {"E": [packet(c, w) for c in "+-" for w in who] +
                        [packet("c")]}, steps=0x70) as f:
        relayed(lines("RCPT TO:<b@example.org>", "DATA", "z", "."),
                "--milter", f.place, "discard:")
    with Filter(place, {"E": [packet(c, who[0]) for c in "+-" * count] +
                        [packet("c")]}, steps=0x70) as f:
        relayed(lines("RCPT TO:<b@example.org>", "DATA", "z", "."),
                "--milter", f.place, "discard:")
    shutil.rmtree(place)


@test
def a_line_of_four_megabytes():
    for verb in (b"", b"EHLO ", b"MAIL FROM:<", b"AUTH PLAIN "):
        got = answers(lines(HELLO) + verb + b"x" * (4 << 20) +
                      lines("", "QUIT"), "discard:")
        assert got[-2][:3] == "500" and got[-1][:3] == "221", got[-2:]


main()
