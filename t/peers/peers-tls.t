#!/usr/bin/env python3
"""peers-tls.t - the TLS engine that stays, for the clients that people have:
openssl, GnuTLS, curl, swaks, smtplib, Postfix and Exim; for many of them at
once, while it is killed, and while its certificates are replaced; and what
sslscan finds."""
import collections
import contextlib
import os
import re
import resource
import select
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
import xml.etree.ElementTree

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
import peer
from engine import Engine
from tap import (HELLO, Listener, Session, certificate, family, folder, lines,
                 message, need, script, test)

WORK = folder()
FALLBACK = ["--tlscert", WORK + "/two.pem", "--tlskey", WORK + "/two.key"]
AT_ONCE = 500
VERSIONS = {"1_2": "TLSv1.2", "1_3": "TLSv1.3"}


def made():
    need("openssl")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    certificate(WORK, "ca", "CA")
    for name, kind in (("one", "ec"), ("two", "ec"), ("rsa", "rsa")):
        certificate(WORK, name, "localhost", "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1", ca="ca",
                    kind=kind)
        os.chmod(f"{WORK}/{name}.key", 0o644)
    os.mkdir(WORK + "/in")
    os.mkfifo(WORK + "/arrived")
    os.chmod(WORK + "/in", 0o777)       # smtpd may be nobody
    os.chmod(WORK + "/arrived", 0o666)
    script(WORK, f"umask 0\ncat >{WORK}/in/$$ || exit 75\n"
           f"echo $$ 1<>{WORK}/arrived")    # waits for no reader


class Relay:
    """What smtpd relays to, and what arrived there."""
    argv = ["--", WORK + "/program"]

    def __init__(self):
        # For writing as well, so that there is no end of file.
        self.fifo = open(WORK + "/arrived", "r+b", buffering=0)

    def arrival(self):
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self.fifo.fileno(), 1)
        path = f"{WORK}/in/{int(line)}"
        with open(path, "rb") as f:
            octets = f.read()
        os.unlink(path)
        return octets.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.fifo.close()


def by(text):
    """The TLS that the newest trace field of a message tells of."""
    return re.search(r"with ESMTPS \((\S+) \S+\)", text.replace("\n\t", " "))[1]


def wait_until(holds):
    while not holds():
        pass


def trusting():
    return ssl.create_default_context(cafile=WORK + "/ca.pem")


def client(port):
    return smtplib.SMTP("localhost", port, "client.example.org",
                        source_address=("127.0.0.1", 0))


def send(port, using=None):
    """A message by smtplib; the serial number of the server's certificate."""
    with client(port) as s:
        s.starttls(context=using or trusting())
        serial = s.sock.getpeercert()["serialNumber"]
        s.sendmail("a@example.org", ["b@example.org"],
                   "Subject: x\r\n\r\ny\r\n")
    return serial


class Served(Listener):
    """Ends those that a test that failed has left connected."""

    def __exit__(self, *_):
        for one in Waiting.all:
            one.close()
        Waiting.all.clear()
        super().__exit__()


def served(engine, *options):
    return Served("--tls-engine", "unix:" + engine.at, *options, *Relay.argv)


class Waiting:
    """A client that has been told to start TLS, and has not begun."""
    all = []

    def __init__(self, port):
        self.all.append(self)
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.read = self.socket.makefile("rb")
        assert self.reply().startswith("220 ")
        assert self.say(HELLO).startswith("250-")
        assert self.say("STARTTLS") == "220 2.0.0 Ready to start TLS"
        self.read.close()

    def reply(self):
        """The first line of one."""
        first = last = self.read.readline()
        while last[3:4] == b"-":
            last = self.read.readline()
        return first.decode().rstrip()

    def say(self, *commands):
        self.socket.sendall(lines(*commands))
        return [self.reply() for _ in commands][-1]

    def begin(self):
        """ClientHello; goes no further unless the answer is there."""
        self.socket = trusting().wrap_socket(
            self.socket, server_hostname="localhost",
            do_handshake_on_connect=False)
        self.socket.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.socket.do_handshake()

    def complete(self):
        self.socket.setblocking(True)
        self.socket.do_handshake()
        self.read = self.socket.makefile("rb")
        assert self.say(HELLO).startswith("250-")

    def half(self):
        """A message that has not ended."""
        for command, code in (("MAIL FROM:<a@example.org>", "250"),
                              ("RCPT TO:<b@example.org>", "250"),
                              ("DATA", "354")):
            assert self.say(command).startswith(code)
        self.socket.sendall(lines("Subject: x", "", "y"))

    def rest(self):
        return self.say(".")

    def quit(self):
        assert self.say("QUIT").startswith("221 ")
        assert self.read.read() == b""
        self.close()

    def close(self):
        self.read.close()
        self.socket.close()


# Clients

def run(*command, octets=b""):
    done = subprocess.run(command, input=octets, capture_output=True)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return (done.stdout + done.stderr).decode()


SCRIPT = lines(HELLO) + message("Subject: x", "", "y") + lines("QUIT")


@test
def openssl_sends_by_both_versions_and_resumes():
    with Relay() as relay:
        for name in ("one", "rsa"):
            with Engine(WORK, name) as engine, served(engine) as mx:
                for option, version in VERSIONS.items():
                    for how in ("-sess_out", "-sess_in"):
                        run("openssl", "s_client", "-quiet", "-starttls",
                            "smtp", "-tls" + option, "-connect",
                            f"localhost:{mx.port}", "-CAfile",
                            WORK + "/ca.pem", "-verify_return_error",
                            "-verify_hostname", "localhost", how,
                            WORK + "/session", octets=SCRIPT)
                        assert by(relay.arrival()) == version
                    said = run("openssl", "s_client", "-starttls", "smtp",
                               "-tls" + option, "-connect",
                               f"localhost:{mx.port}", "-sess_in",
                               WORK + "/session", octets=b"QUIT\r\n")
                    assert "\nReused, " + version in said, said


@test
def gnutls_cli_sends():
    need("gnutls-cli")
    with Relay() as relay, Engine(WORK, "one") as engine, \
            served(engine) as mx:
        for version in ("VERS-TLS1.2", "VERS-TLS1.3"):
            with subprocess.Popen(
                    ["gnutls-cli", "--starttls-proto=smtp", "--port",
                     str(mx.port), "--x509cafile", WORK + "/ca.pem",
                     "--priority", f"NORMAL:-VERS-ALL:+{version}",
                     "localhost"], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as cli:
                cli.stdin.write(SCRIPT)
                cli.stdin.flush()
                said = b""
                for line in cli.stdout:
                    said += line
                    if line.startswith(b"221 "):
                        break
                cli.stdin.close()
                cli.stdout.read()
            assert b"The certificate is trusted" in said, said
            assert by(relay.arrival()) == "TLSv" + version[8:]


@test
def curl_swaks_and_smtplib_send():
    need("curl", "swaks")
    with Relay() as relay, Engine(WORK, "one") as engine, \
            served(engine) as mx:
        run("curl", "-sS", "--ssl-reqd", "--cacert", WORK + "/ca.pem",
            "--mail-from", "a@example.org", "--mail-rcpt", "b@example.org",
            "-T", "-", f"smtp://localhost:{mx.port}/client.example.org",
            octets=b"Subject: x\r\n\r\ny\r\n")
        assert by(relay.arrival()) == "TLSv1.3"
        run("swaks", "-4", "--server", f"localhost:{mx.port}", "--tls",
            "--tls-verify", "--tls-ca-path", WORK + "/ca.pem", "--helo",
            "client.example.org", "--from", "a@example.org", "--to",
            "b@example.org")
        assert by(relay.arrival()) == "TLSv1.3"
        send(mx.port)
        assert by(relay.arrival()) == "TLSv1.3"


@test
def postfix_verifies_the_engine_and_sends():
    with Relay() as relay, Engine(WORK, "one") as engine, \
            served(engine) as mx, peer.Postfix(main=f"""
default_transport = smtp
relayhost = [127.0.0.1]:{mx.port}
smtp_tls_security_level = secure
smtp_tls_secure_cert_match = localhost
smtp_tls_CAfile = {WORK}/ca.pem
smtp_tls_loglevel = 1
""") as postfix:
        with smtplib.SMTP("127.0.0.1", postfix.ports[0]) as s:
            s.sendmail("a@example.org", ["b@example.org"], "Subject: x\n\ny\n")
        assert by(relay.arrival()) == "TLSv1.3"
        postfix.stop()
        assert "Verified TLS connection established" in postfix.read("maillog")


class SendingExim(peer.Exim):
    """Sends one message to a port, by TLS and verified, or not at all."""

    def __init__(self, port):
        super().__init__()
        self.port = port

    def start(self):
        binary = peer.fetched("exim4-daemon-light", "exim4", self.place)
        os.mkdir(self.path("exim"))
        os.chmod(self.path("exim"), 0o777)
        self.save("conf", f"""
primary_hostname = mx.example.net
exim_path = {binary}
exim_user = nobody
exim_group = nogroup
never_users =
keep_environment =
spool_directory = {self.place}/exim/spool
log_file_path = {self.place}/exim/%slog
begin routers
all:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {self.port}
  hosts_require_tls = *
  tls_verify_certificates = {WORK}/ca.pem
  tls_verify_hosts = *
  tls_verify_cert_hostnames =
""")
        self.save("message", "Subject: x\n\ny\n")
        self.spawn_with_users(
            f"{binary} -C {self.place}/conf -odf -oi -f a@example.org "
            f"b@example.org <{self.place}/message\n"
            f"exec socat TCP-LISTEN:{self.ports[0]},bind=127.0.0.1,fork -",
            at=self.ports[0])

    def __enter__(self):
        self.listen(1)
        return super().__enter__()

    def log(self):
        """Where the process that delivers may not write there, it prints."""
        return self.read("exim/mainlog") + self.read("out")


@test
def exim_verifies_the_engine_and_sends():
    need("socat")
    with Relay() as relay, Engine(WORK, "one") as engine, \
            served(engine) as mx, SendingExim(mx.port) as exim:
        assert by(relay.arrival()) == "TLSv1.3"
        wait_until(lambda: "Completed" in exim.log())
        log = exim.log()
        assert re.search(r" => b@example.org .* X=TLS1.3\S* CV=yes ", log), log


@test
def the_way_out_goes_by_the_engine_too():
    with Engine(WORK, "one") as engine, peer.Postfix(
            ["smtpd_tls_security_level=encrypt"]) as postfix, Session(
                "--tls-engine", "unix:" + engine.at, "--relay-tls-ca",
                postfix.path("mx.pem"), "--relay-tls", "must",
                f"smtp:localhost:{postfix.ports[0]}") as s:
        s.start()
        assert s.deliver().startswith("250 2.0.0 "), "message"
        _, octets = postfix.arrival()
        assert b"using TLSv1.3" in octets, octets
        _, log = s.finish()
        assert "tls-engine-away" not in log, log


@test
def sslscan_finds_nothing():
    need("sslscan")
    for name in ("one", "rsa"):
        with Engine(WORK, name) as engine, served(engine) as mx:
            text = run("sslscan", "--starttls-smtp", "--xml=-",
                       f"localhost:{mx.port}")
        found = xml.etree.ElementTree.fromstring(
            text[text.index("<?xml"):].encode())
        on = {p.get("type") + p.get("version") for p in found.iter("protocol")
              if p.get("enabled") == "1"}
        assert on == {"tls1.2", "tls1.3"}, text
        ciphers = collections.Counter(c.get("strength") for c in
                                      found.iter("cipher"))
        assert set(ciphers) <= {"strong", "acceptable"}, text
        assert ciphers.total() == 6, text
        for kind, value in (("renegotiation", "supported"),
                            ("compression", "supported"),
                            ("heartbleed", "vulnerable")):
            assert {f.get(value) for f in found.iter(kind)} <= {"0"}, text
        groups = {g.get("name").split()[0] for g in found.iter("group")}
        assert groups == {"secp256r1", "secp384r1", "x25519"}, text


# Bad days

@test
def five_hundred_shake_hands_at_once():
    with Relay() as relay, Engine(WORK, "one") as engine, \
            served(engine) as mx:
        all_ = [Waiting(mx.port) for _ in range(AT_ONCE)]
        wait_until(lambda: len(family(engine.process.pid)) == AT_ONCE)
        for one in all_:
            one.begin()
        for one in all_:
            one.complete()
        for one in all_:
            one.quit()
        send(mx.port)
        assert by(relay.arrival()) == "TLSv1.3"
        assert "tls-engine-away" not in mx.logged()


@test
def clients_that_stall_delay_nobody():
    with Relay() as relay, Engine(WORK, "one") as engine, \
            served(engine) as mx:
        stalled = [Waiting(mx.port) for _ in range(30)]
        for one in stalled[10:20]:
            one.socket.sendall(b"\x16\x03\x01")
        for one in stalled[20:]:
            one.begin()
        for _ in range(10):
            send(mx.port)
            assert by(relay.arrival()) == "TLSv1.3"
        for one in stalled[:20]:
            assert not select.select([one.socket], [], [], 0)[0], "an answer"
        for one in stalled[:10]:
            one.begin()
        for one in stalled[:10] + stalled[20:]:
            one.complete()
            one.quit()
        for one in stalled[10:20]:
            one.socket.close()


@test
def sessions_go_on_when_the_engine_is_killed_and_new_ones_fall_back():
    with Relay() as relay, Engine(WORK, "one") as engine, \
            served(engine, *FALLBACK) as mx:
        serial = send(mx.port)
        relay.arrival()
        some = [Waiting(mx.port) for _ in range(30)]
        for one in some[10:]:
            one.begin()
        for one in some[20:]:
            one.complete()
            one.half()
        engine.kill()
        for one in some[:10]:
            one.begin()
        for one in some[:20]:
            one.complete()
            one.half()
        for one in some:
            assert one.rest().startswith("250 2.0.0 ")
            relay.arrival()
            one.quit()
        first = send(mx.port)
        assert by(relay.arrival()) == "TLSv1.3"
        assert first != serial, "the certificate of the engine"
        log = mx.logged()
        assert log.count("event=tls-engine-away") == 1, log


@test
def a_session_whose_engine_process_is_killed_ends_and_nothing_is_relayed():
    with Relay() as relay, Engine(WORK, "one") as engine, \
            served(engine) as mx:
        some = [Waiting(mx.port) for _ in range(10)]
        for one in some[5:]:
            one.begin()
            one.complete()
            one.half()
        for pid in family(engine.process.pid):
            os.kill(pid, signal.SIGKILL)
        for one in some[:5]:
            assert one.socket.recv(100) == b""
            one.socket.close()
        for one in some[5:]:
            with_end = b"?"
            try:
                one.socket.sendall(lines("."))
                with_end = one.read.read()
            except OSError:         # a reset, or an end without close_notify
                with_end = b""
            assert with_end == b"", with_end
            one.close()
        send(mx.port)
        relay.arrival()
        log = mx.logged()
        assert log.count("event=message-relayed") == 1, log
        assert os.listdir(WORK + "/in") == []


@test
def certificates_are_replaced_under_load_and_no_session_is_refused():
    failed, serials = [], collections.Counter()

    def some(port):
        try:
            for _ in range(25):
                serials[send(port)] += 1
        except Exception as error:      # shown by the assertion below
            failed.append(repr(error))

    with Engine(WORK, "one") as engine, Listener(
            "--tls-engine", "unix:" + engine.at, "discard:") as mx:
        threads = [threading.Thread(target=some, args=[mx.port])
                   for _ in range(4)]
        for thread in threads:
            thread.start()
        count = 0
        while any(thread.is_alive() for thread in threads):
            count += 1
            for kind in ("pem", "key"):     # one after the other
                engine.put(("one", "two")[count % 2], [kind])
                threads[count % 4].join(0.01)
            if count % 3 == 0:
                engine.process.send_signal(signal.SIGHUP)
        assert failed == []
        assert len(serials) == 2 and sum(serials.values()) == 100, serials
        engine.put("two")
        last = send(mx.port)
        engine.put("one")
        assert send(mx.port) != last
        assert "tls-engine-away" not in mx.logged()
        assert "cannot" not in engine.errors(), engine.errors()


if __name__ == "__main__":
    made()
    peer.main()
