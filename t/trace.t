#!/usr/bin/env python3
"""trace.t - the header fields that smtpd writes, and how they name the
client."""
import datetime
import os
import re
import shutil
import socket
from email.utils import parsedate_to_datetime

from tap import EXAMPLE, Session, Skip, folder, lines, main, run, test, write


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
    os.chmod(place, 0o777)
    box = os.path.join(place, "box")
    to = [f"maildir:{box}"]
    routes = write(f"{place}/routes", f"* maildir:{box}\n")
    for options in (to, ["--no-received", "--x-peer", *to],
                    ["--no-received", *to],
                    ["--no-received", "--routes", routes, "discard:"],
                    ["--no-received", "--sender-routes", routes, "discard:"]):
        for first in (" 10.9.8.7 (authenticated)", "\tx", "Disk 3 has failed"):
            data = lines(first, "Subject: x")
            for text in (b"DATA\r\n" + data + b".\r\n",
                         lines(f"BDAT {len(data)} LAST") + data,
                         b"BDAT 1\r\n" + data[:1] +
                         lines(f"BDAT {len(data) - 1} LAST") + data[1:]):
                shutil.rmtree(box, ignore_errors=True)
                status, output, _ = run(options, lines(
                    "EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>") +
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


if __name__ == "__main__":
    main()
