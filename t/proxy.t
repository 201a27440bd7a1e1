#!/usr/bin/env python3
"""proxy.t - who the client is, as a proxy in front of us says it: the PROXY
protocol and XCLIENT."""
import shutil
import smtplib
import socket
import ssl
import struct

from secure import FILE, Secure, context, main, received, tls
from tap import (HELLO, Listener, PolicyService, Session, folder, lines,
                 message, script, test)


# --- PROXY protocol

def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def v2(command, family_, addresses, *tlvs):
    body = addresses + b"".join(tlvs)
    return b"\r\n\r\n\0\r\nQUIT\n" + \
        struct.pack("!BBH", 0x20 | command, family_, len(body)) + body


FOUR = socket.inet_aton("192.0.2.7") + socket.inet_aton("192.0.2.25") + \
    struct.pack("!HH", 4711, 25)
SIX = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + \
    socket.inet_pton(socket.AF_INET6, "2001:db8::25") + \
    struct.pack("!HH", 4711, 25)
SSL = tlv(0x20, b"\1" + b"\0\0\0\0" + tlv(0x21, b"TLSv1.3") +
          tlv(0x22, b"client.example.org") + tlv(0x23, b"TLS_AES_256_GCM"))


@test
def a_proxy_header_says_who_the_client_is():
    for header, address, trace in (
            (b"PROXY TCP4 192.0.2.7 192.0.2.25 4711 25\r\n", "192.0.2.7",
             "([192.0.2.7]) "),
            (b"PROXY TCP6 2001:db8::7 2001:db8::25 4711 25\r\n",
             "2001:db8::7", "([IPv6:2001:db8::7]) "),
            (b"PROXY UNKNOWN\r\n", "unix", "(unix) "),
            (v2(1, 0x11, FOUR), "192.0.2.7", "([192.0.2.7]) "),
            (v2(1, 0x21, SIX), "2001:db8::7", "([IPv6:2001:db8::7]) "),
            (v2(1, 0x11, FOUR, tlv(0x04, b"x" * 400)), "192.0.2.7",
             "([192.0.2.7]) "),
            (v2(0, 0, b""), "unix", "(unix) ")):
        place = folder()
        with PolicyService(place) as service, \
             Session("--proxy-protocol", "--policy", service.place,
                     "print:") as s:
            s.send(header)
            s.start()
            assert s.deliver()[:3] == "250"
            _, log = s.finish()
        assert service.asked[0]["client_address"] == (
            "127.0.0.1" if address == "unix" else address), service.asked
        assert trace in received(log), (header, log)
        if address == "192.0.2.7":
            first = service.asked[0]
            assert first["client_port"] == "4711", first
            assert first["server_address"] == "192.0.2.25", first
        shutil.rmtree(place)


@test
def a_certificate_that_a_proxy_verified_may_use_external():
    names = tlv(0x21, b"TLSv1.3") + tlv(0x22, b"client.example.org")
    for verified, wanted in ((b"\3\0\0\0\0", "235"),  # sent, and verified
                             (b"\3\0\0\0\1", "504"),  # sent, and not
                             (b"\1\0\0\0\0", "504")):  # not sent
        with Session("--proxy-protocol", *FILE, "print:") as s:
            s.send(v2(1, 0x11, FOUR, tlv(0x20, verified + names)))
            assert ("EXTERNAL" in s.start()) == (wanted == "235")
            assert s.say("AUTH EXTERNAL =")[0][:3] == wanted
            _, log = s.finish()
        assert ("user=client.example.org" in log) == (wanted == "235"), log


@test
def a_proxys_word_on_tls_is_taken():
    place = folder()
    program = script(place, f"env >{place}/env; cat")
    with Session(*FILE, "--proxy-protocol", "--", program) as s:
        s.send(v2(1, 0x11, FOUR, SSL))
        assert "\n250-AUTH PLAIN LOGIN" in s.start()
        assert s.deliver()[:3] == "250"
        s.finish()
    with open(f"{place}/env") as f:
        env = f.read()
    for wanted in ("CLIENT_PROTOCOL=ESMTPS\n", "TLS_PROTOCOL=TLSv1.3\n",
                   "TLS_CIPHER=TLS_AES_256_GCM\n",
                   "CLIENT_ADDRESS=192.0.2.7\n", "CLIENT_PORT=4711\n",
                   "SERVER_ADDRESS=192.0.2.25\n"):
        assert wanted in env, (wanted, env)
    shutil.rmtree(place)


@test
def tls_that_is_required_may_be_the_proxys():
    for header, code in ((v2(1, 0x11, FOUR, SSL), "250 2.1.0"),
                         (v2(1, 0x11, FOUR), "454 4.7.0")):
        with Session("--proxy-protocol", "--require-tls", "discard:") as s:
            s.send(header)
            assert "STARTTLS" not in s.start()
            assert s.say("MAIL FROM:<a@example.org>")[0][:9] == code
            s.finish()


@test
def a_proxys_word_on_tls_is_not_taken_if_it_is_cut_short():
    with Session("--proxy-protocol", "print:") as s:
        s.send(v2(1, 0x11, FOUR, tlv(0x20, b"\1"), SSL[:9] + b"\0\0"))
        s.start()
        s.deliver()
        _, log = s.finish()
    assert " with ESMTP id " in received(log), log


@test
def without_a_proper_proxy_header_nothing_is_said():
    for octets in (b"EHLO x\r\n", b"\0" * 32, b"", b"PROXY\r\n",
                   b"PROXY TCP4 192.0.2.7 192.0.2.25 4711\r\n",
                   b"PROXY TCP4 192.0.2.777 192.0.2.25 4711 25\r\n",
                   b"PROXY TCP4 192.0.2.7 192.0.2.25 4711 25\n",
                   b"PROXY UNKNOWN" + b"x" * 200 + b"\r\n",
                   v2(1, 0x11, FOUR)[:20], v2(3, 0x11, FOUR),
                   v2(1, 0x11, FOUR[:8]),
                   b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + b"x" * 70000):
        with Session("--proxy-protocol", "print:") as s:
            try:
                s.send(octets)
                s.socket.shutdown(socket.SHUT_WR)
                seen = s.read.read()
            except (BrokenPipeError, ConnectionResetError):
                seen = b""
            assert seen == b"", (octets[:40], seen)
            assert s.process.wait() == 0, octets[:40]


@test
def a_proxy_header_that_comes_too_slowly_is_not_waited_for():
    with Session("--proxy-protocol", "-t", "1", "discard:") as s:
        s.send(b"PROXY TCP4 192.0.2.7")
        assert s.read.read() == b"" and s.process.wait() == 0


@test
def tls_follows_a_proxy_header():
    header = v2(1, 0x11, FOUR)
    with Secure(*tls(), "--proxy-protocol", "print:") as s:
        s.send(header)
        s.starttls()
        assert s.deliver()[:3] == "250"
        _, log = s.finish()
    assert "([192.0.2.7]) by mx.example.org (smtpd) with ESMTPS (" in \
        received(log), log
    for header in (header, b"PROXY TCP4 192.0.2.7 192.0.2.25 4711 25\r\n"):
        with Secure(*tls(), "--smtps", "--proxy-protocol", "print:") as s:
            # The header and the handshake's first flight come in one go.
            into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = context().wrap_bio(into, out,
                                        server_hostname="mx.example.org")
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            s.send(header + out.read())
            while True:
                try:
                    client.do_handshake()
                    s.send(out.read())
                    break
                except ssl.SSLWantReadError:
                    if out.pending:
                        s.send(out.read())
                    into.write(s.socket.recv(65536))
            client.write(lines(HELLO) + message("Subject: x", "", "y") +
                         lines("QUIT"))
            s.send(out.read())
            seen = b""
            while b"\n221 " not in seen:
                try:
                    seen += client.read()
                except ssl.SSLWantReadError:
                    into.write(s.socket.recv(65536))
            s.leave()
            s.process.wait()
            log = s.logged()
        assert "([192.0.2.7]) by mx.example.org (smtpd) with ESMTPS (" in \
            received(log), log


# --- XCLIENT

@test
def xclient_is_for_those_who_are_listed():
    with Listener("--xclient", "192.0.2.0/24,2001:db8::/32",
                  "discard:") as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.ehlo()
            assert not client.has_extn("xclient")
            code, _ = client.docmd("XCLIENT ADDR=192.0.2.1")
            assert code == 550, code
    with Listener("--xclient", "127.0.0.0/8", "discard:") as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.ehlo()
            assert client.has_extn("xclient")


@test
def xclient_changes_trace_environment_and_policy():
    place = folder()
    program = script(place, f"env >{place}/env; cat >{place}/message")
    with PolicyService(place) as service, \
         Session("--xclient", "unix", "--policy", service.place, "--",
                 program) as s:
        assert "\n250-XCLIENT " in s.start()
        assert s.say("XCLIENT NAME=mail.example.net ADDR=192.0.2.9 PORT=99 "
                     "HELO=he.example.net PROTO=ESMTP LOGIN=joe "
                     "DESTADDR=192.0.2.25 DESTPORT=587")[0][:4] == "220 "
        s.send(lines(HELLO))
        s.reply()
        assert s.deliver()[:3] == "250"
        s.finish()
    with open(f"{place}/env") as f:
        env = f.read()
    for wanted in ("CLIENT_ADDRESS=192.0.2.9\n", "CLIENT_PORT=99\n",
                   "CLIENT_HOSTNAME=mail.example.net\n",
                   "SASL_USERNAME=joe\n", "SERVER_ADDRESS=192.0.2.25\n",
                   "SERVER_PORT=587\n", "CLIENT_PROTOCOL=ESMTPA\n"):
        assert wanted in env, (wanted, env)
    with open(f"{place}/message") as f:
        trace = received(f.read())
    assert "(mail.example.net [192.0.2.9]) " in trace, trace
    asked = {q["protocol_state"]: q for q in service.asked}
    assert asked["RCPT"]["client_address"] == "192.0.2.9", asked["RCPT"]
    assert asked["RCPT"]["client_name"] == "mail.example.net"
    assert asked["RCPT"]["sasl_username"] == "joe"
    states = [q["protocol_state"] for q in service.asked]
    assert states[:4] == ["CONNECT", "EHLO", "CONNECT", "EHLO"], states
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
