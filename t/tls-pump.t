#!/usr/bin/env python3
"""tls-pump.t - what smtpd-tls carries after the handshake: 50 MB each way,
half-closes, and peers that do not read, leave or reset."""
import fcntl
import hashlib
import os
import re
import select
import socket
import ssl
import sys
import termios

from tap import SANITIZED, Skip, main, reset_connection, tcp_pair, test
from tls import (Client, Engine, OtherServer, Peer, asleep, in_background,
                 make_certificates, no_process_is_left, path, read_all,
                 read_exactly, same, server, status_of)

BULK = 50 * 1000 * 1000


@test
def a_line_goes_to_a_server_and_back():
    """The other way round too: s_server turns lines around."""
    s = OtherServer("--verify", "mx.example.org", "--ca", path("ca.pem"),
                    tls=["-rev"])
    s.engine.report()
    s.engine.clear.sendall(b"EHLO\n")
    same(s.engine.clear.recv(5), b"OLHE\n", "a line to s_server and back")
    same(s.over()[1], 0, "and exit 0")


@test
def acknowledgements_wait_for_replies_in_a_dialogue_only():
    near, far = tcp_pair()
    watched = far.dup()
    e = server(far)
    peer = Peer(near).handshake()

    def at_once():
        return watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)

    e.report()
    assert at_once(), "the end of a handshake is not acknowledged at once"
    for _ in range(3):
        peer.send(b"NOOP\r\n")
        e.clear.recv(100)
        held = not at_once()
        e.clear.sendall(b"250 OK\r\n")
        peer.read()
    peer.send(b"x" * 600)
    e.clear.recv(1000)
    long_text = at_once()
    watched.close()
    near.close()
    e.end()
    assert long_text, "in a long text acknowledgements wait for replies"
    if not held:
        raise Skip("this kernel holds no acknowledgement back")


@test
def fifty_megabytes_arrive_whole_each_way():
    data = os.urandom(1000 * 1000) * (BULK // 1000000)
    want = hashlib.sha256(data).hexdigest()
    for version in ("-tls1_2", "-tls1_3"):
        c = Client("-quiet", "-nocommands", version, names=("rsa",))
        send = in_background(lambda: (c.p.stdin.write(data),
                                      c.p.stdin.close()))
        answer = in_background(c.engine.clear.sendall, data)
        come = in_background(c.p.stdout.read)
        h, left = hashlib.sha256(), len(data)
        while left > 0:
            block = c.engine.clear.recv(min(left, 1 << 20))
            if not block:
                break
            h.update(block)
            left -= len(block)
        send()
        answer()
        same((left, h.hexdigest()), (0, want), "50 MB from s_client, " +
             version)
        same(c.engine.end(), 0, "and exit 0")
        same(hashlib.sha256(come()[-len(data):]).hexdigest(), want,
             "while 50 MB went to it")
        c.p.wait()
        c.p.stdout.close()

    near, far = tcp_pair()
    e = Engine(far, "client")
    peer = Peer(near, is_server=True).handshake()
    send = in_background(peer.send, data)
    got = read_exactly(e.clear, len(data))
    send()
    same(hashlib.sha256(got).hexdigest(), want, "50 MB to our client")
    send = in_background(lambda: (e.clear.sendall(data), e.clear.close()))
    got = peer.read_all()
    send()
    same(hashlib.sha256(got).hexdigest(), want, "and from it")
    same(e.status(), 0, "and exit 0")


@test
def each_direction_may_end_before_the_other():
    big = os.urandom(3000000)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        name = version.name
        near, far = tcp_pair()
        e = server(far)
        peer = Peer(near, version=version).handshake()
        send = in_background(lambda: (peer.send(big), peer.close_notify()))
        same(read_all(e.clear), big, "close_notify of the client: all that "
             "came before arrives, " + name)
        send()
        answer = in_background(lambda: (e.clear.sendall(big),
                                        e.clear.close()))
        same(peer.read_all(), big, "and the other direction goes on")
        answer()
        same(e.status(), 0, "until that is closed, exit 0")
        same(near.recv(1), b"", "and the connection ends")

        near, far = tcp_pair()
        e = server(far)
        peer = Peer(near, version=version).handshake()
        e.clear.sendall(b"221 bye")
        e.clear.shutdown(socket.SHUT_WR)
        same(peer.read_all(), b"221 bye", "half-close of the clear text "
             "becomes close_notify, " + name)
        peer.send(big[:100000])
        peer.close_notify()
        same(read_all(e.clear), big[:100000],
             "and the client can still be heard")
        same(e.status(), 0, "until it ends too, exit 0")


@test
def an_end_without_close_notify_is_an_end_of_file():
    near, far = tcp_pair()
    e = server(far)
    peer = Peer(near).handshake()
    peer.send(b"x" * 100000)
    near.shutdown(socket.SHUT_WR)
    same(len(read_all(e.clear)), 100000,
         "an end of file without close_notify is an end of file")
    e.clear.sendall(b"answer")
    same(peer.read(), b"answer", "which leaves the other direction alone")
    same(e.end(), 0, "and exit 0")


@test
def a_reader_that_waits_stops_the_sender():
    """Nobody reads: the sender must stand, and not our memory grow."""
    for to_clear in (True, False):
        near, far = socket.socketpair()
        e = server(far)
        peer = Peer(near).handshake()
        e.report()
        sock = near if to_clear else e.clear
        sock.setblocking(False)
        sent = 0
        block = bytes(65536)
        # What fits is known by two things only: it does not fit now, and
        # the engine sleeps.
        while True:
            try:
                if to_clear:
                    if not peer.out.pending:
                        peer.tls.write(block)
                    data = peer.out.read()
                    n = sock.send(data)
                    peer.out.write(data[n:])
                else:
                    n = sock.send(block)
                sent += n
            except BlockingIOError:
                if to_clear:
                    peer.out.write(data)
                if asleep(e.pid) and not writable(sock):
                    break
        rss = int(re.search(r"VmRSS:\s*(\d+)", status_of(e.pid))[1])
        assert SANITIZED or rss < 20000, (to_clear, rss, sent)
        if to_clear:
            near.close()
        sleeps(e.pid, "and the engine sleeps" +
               (", the connection closed or not" if to_clear else ""))
        near.close()
        e.clear.close()
        e.status()


def sleeps(pid, what):
    """A process that polls what is always ready is never seen asleep."""
    awake = sum(not asleep(pid) for _ in range(2000))
    assert awake < 1000, f"{what}: awake {awake} times of 2000"


def writable(sock):
    return select.select([], [sock], [], 0)[1] != []


def in_flight(sock):
    """Octets that its peer's system has not taken yet."""
    got = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(got, sys.byteorder)


@test
def what_is_left_when_one_side_has_gone_is_handed_over_or_given_up():
    """Our side is gone, and the client does not read what is left."""
    near, far = socket.socketpair()
    e = server(far, more=["--timeout", "1"])
    peer = Peer(near).handshake()
    e.report()
    e.clear.setblocking(False)
    while True:
        try:
            e.clear.send(bytes(65536))
        except BlockingIOError:
            if asleep(e.pid) and not writable(e.clear):
                break
    e.clear.close()
    sleeps(e.pid, "our side gone, what is left waits without haste")
    same(e.status(), 75, "a client that reads no more is left in the end")
    near.close()

    near, far = tcp_pair()
    e = server(far)
    peer = Peer(near).handshake()
    e.report()
    reset_connection(near)
    same(e.clear.recv(1), b"", "a reset ends the clear text")
    same(e.end(), 74, "and exit 74")

    near, far = tcp_pair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    e = server(far)
    peer = Peer(near).handshake()
    e.report()
    peer.send(bytes(300000))    # more than the clear side holds,
    while in_flight(near) > 0:  # and all of it there: more would be reset
        pass
    e.clear.sendall(b"421 bye\r\n")
    e.clear.close()
    same(peer.read_all(), b"421 bye\r\n",
         "last words arrive though the client is not listened to")
    same(e.status(), 0, "and exit 0")
    same(near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0,
         "and no reset behind them")


test(no_process_is_left)

if __name__ == "__main__":
    make_certificates()
    main()
