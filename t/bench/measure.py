"""measure.py - the measurements of bench.py: each returns what one candidate
costs, by CPU and by the clock."""
import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import threading
import time

from rig import (PATIENCE, TCPSERVER, Candidate, Failed, Hop, children,
                 descendants, empty, find, read, source, under)

MB = 1000000
WARM = 20               # sessions until everything is there
CIPHER = "TLS_AES_256_GCM_SHA384"


def load(candidate, tmp, messages, sessions, length, super_server=None):
    """What messages of that length cost, one a connection."""
    with Hop(candidate.hop) as hop:
        with under(super_server or TCPSERVER, candidate, hop, tmp) as it:
            start = time.monotonic()
            source(it.port, messages, sessions, length)
            clock = time.monotonic() - start
    empty(tmp)
    return {"cpu": it.cpu / messages, "rate": messages / clock,
            "faults": it.minflt / messages,
            "mbcpu": messages * length / MB / max(it.cpu, 1e-6),
            "mbs": messages * length / MB / clock}


def stream(candidate, tmp, messages, sessions):
    """What messages of 1 kB cost on connections that stay open."""
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            source(it.port, 10 * sessions, sessions, 1024, "-d")
            it.begin()      # its processes are there
            start = time.monotonic()
            source(it.port, messages, sessions, 1024, "-d")
            clock = time.monotonic() - start
    return {"cpurate": messages / max(it.cpu, 1e-6), "rate": messages / clock}


def pss(pid):
    total = 0
    for process in [pid] + descendants(pid):
        try:
            text = read("/proc/%d/smaps_rollup" % process)
        except OSError as error:
            raise Failed("smaps_rollup: " + error.strerror) from error
        total += int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE).group(1))
    return total


def idle(candidate, tmp, count=20):
    """KiB of memory, shared pages in proportion, of an idle connection."""
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            before = pss(it.pid)
            held = [socket.create_connection(("127.0.0.1", it.port), 20)
                    for _ in range(count)]
            for sock in held:
                sock.recv(512)
            during = pss(it.pid)
            for sock in held:
                sock.sendall(b"QUIT\r\n")
                sock.close()
    return (during - before) / count


def counted(candidate, tmp, messages):
    """System calls of messages sessions, as strace counts them."""
    out = os.path.join(tmp, "strace")
    os.makedirs(out, mode=0o777, exist_ok=True)
    os.chmod(out, 0o777)
    file = os.path.join(out, "count")
    traced = Candidate(candidate.name, [find("strace"), "-f", "-c", "-o", file,
                                        *candidate.argv], candidate.hop,
                       candidate.serves, candidate.env, root=candidate.root)
    with Hop(traced.hop) as hop:
        with under(TCPSERVER, traced, hop, tmp) as it:
            source(it.port, messages, 1, 1024)
            if candidate.serves:
                for child in children(it.pid):
                    os.kill(child, signal.SIGTERM)
    text = read(file)
    os.unlink(file)
    empty(tmp)
    total = re.search(r"^100[.,]00 +\S+ +\d* +(\d+) .*total$", text,
                      re.MULTILINE)
    if total is None:
        raise Failed("strace counted nothing")
    return int(total.group(1)), text


def calls(candidate, tmp, folder):
    if candidate.serves:
        return (counted(candidate, tmp, 11)[0] -
                counted(candidate, tmp, 1)[0]) / 10
    total, text = counted(candidate, tmp, 1)
    name = re.sub(r"[^a-z0-9]+", "-", candidate.name.lower()).strip("-")
    with open(os.path.join(folder, "strace-%s.txt" % name), "w",
              encoding="utf-8") as file:
        file.write(text)
    return total


def binary_size(candidate, tmp):
    """Octets of the stripped program itself, without its libraries."""
    path = find(candidate.argv[0])
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            raise Failed("not one program")
    subprocess.run(["strip", "-o", tmp + "/stripped", path], check=True)
    return os.path.getsize(tmp + "/stripped")


def client_context():
    """Full handshakes, and the same ones with everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve("prime256v1")
    return context


class Resuming:
    """A context whose handshakes resume the first session that ended."""

    def __init__(self, context):
        self.context = context
        self.ticket = None

    def wrap_socket(self, sock, **more):
        ticket = self.ticket
        secure = self.context.wrap_socket(sock, session=ticket, **more)
        if secure.session_reused != (ticket is not None):
            raise Failed("not resumed")
        return secure

    def learn(self, sock):
        """TLS 1.3 brings the ticket with what follows the handshake."""
        if self.ticket is None and sock.session.has_ticket:
            self.ticket = sock.session


def dialogue(port, length, context):
    """A session with a message, or, with length 0, to the second EHLO."""
    with smtplib.SMTP("127.0.0.1", port, "client.example.com",
                      timeout=PATIENCE) as client:
        client.ehlo()
        if context:
            client.starttls(context=context)
            if client.sock.cipher()[0] != CIPHER or (
                    client.sock.session_reused and
                    not isinstance(context, Resuming)):
                raise Failed("TLS is not as elsewhere: %s %s" % (
                    client.sock.version(), client.sock.cipher()[0]))
        client.ehlo()
        if isinstance(context, Resuming):
            context.learn(client.sock)
        if length:
            client.mail("sender@example.com")
            client.rcpt("recipient@example.org")
            client.docmd("DATA")
            client.send((b"x" * 78 + b"\r\n") * (length // 80))
            if client.docmd(".")[0] != 250:
                raise Failed("message refused")


def dialogues(port, count, length, context):
    """That many, four at a time."""
    failures = []

    def some():
        try:
            for _ in range(count // 4):
                dialogue(port, length, context)
        except (OSError, smtplib.SMTPException, Failed) as error:
            failures.append(error)

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Failed(str(failures[0]))


def tls(candidate, tmp, count, length, context):
    """Of those that stay, what they used until they were warm is taken off:
    CPU and time of the same without the sessions that count."""
    count -= count % 4
    total, seconds = talked(candidate, tmp, count, length, context)
    if candidate.prepare:
        total -= talked(candidate, tmp, 0, length, context)[0]
    return {"cpu": total / count, "rate": count / seconds,
            "mbcpu": count * length / MB / max(total, 1e-6),
            "mbs": count * length / MB / seconds}


def talked(candidate, tmp, count, length, context):
    """CPU of a listener and all its children, seconds of count sessions."""
    if candidate.resumes and context:
        context = Resuming(context)     # of this listener's tickets
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            if it.lasting:
                dialogues(it.port, WARM, 1024, context)
            start = time.monotonic()
            dialogues(it.port, count, length, context)
            clock = time.monotonic() - start
    return it.cpu, clock


def filtered(candidate, tmp, messages, length, *more):
    """What messages cost the server, once it has done all with them."""
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            for count in (20, messages):        # the first ones warm it
                it.begin()
                source(it.port, count, 4, length, *more)
                if candidate.settle:
                    candidate.settle()
    return {"cpu": it.cpu / messages}
