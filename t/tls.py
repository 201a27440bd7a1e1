"""tls.py - what tests of smtpd-tls share: certificates, the program with its
descriptors in place, openssl(1) and TLS by hand at its other end."""
import hashlib
import os
import re
import socket
import ssl
import subprocess
import threading

from engine import ENGINE
from tap import folder

WORK = folder()


def same(got, want, what):
    assert got == want, f"{what}:\ngot  {got!r}\nwant {want!r}"


def matches(pattern, text, what):
    assert re.search(pattern, text), f"{what}: no {pattern!r} in:\n{text}"


# Certificates, made on the fly.

def path(name):
    return os.path.join(WORK, name)


def openssl(*args):
    subprocess.run(["openssl"] + list(args), check=True, cwd=WORK,
                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def certificate(name, cn, *more, ca=None, new="ec"):
    kind = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            "rsa": ["rsa:2048"], "ed": ["ed25519"], "small": ["rsa:1024"]}[new]
    sign = ["-CA", ca + ".pem", "-CAkey", ca + ".key"] if ca else []
    openssl("req", "-x509", "-nodes", "-utf8", "-newkey", *kind, "-subj",
            "/O=Test/CN=" + cn, "-keyout", name + ".key", "-out",
            name + ".pem", *sign, *more)


def expired(name, cn, ca):
    """openssl req has no way to say a date that is past; ca has."""
    with open(path("ca.cnf"), "w") as f:
        f.write("[ca]\ndefault_ca=c\n[c]\ndatabase=index\nserial=serial\n"
                "new_certs_dir=.\npolicy=p\ndefault_md=sha256\n"
                "unique_subject=no\nx509_extensions=x\n[p]\n"
                "commonName=supplied\n[x]\nsubjectAltName=DNS:" + cn + "\n")
    open(path("index"), "w").close()
    openssl("req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:P-256", "-subj", "/CN=" + cn, "-keyout",
            name + ".key", "-out", name + ".csr")
    openssl("ca", "-batch", "-config", "ca.cnf", "-rand_serial", "-cert",
            ca + ".pem", "-keyfile", ca + ".key", "-startdate",
            "20200101000000Z", "-enddate", "20210101000000Z", "-in",
            name + ".csr", "-out", name + ".pem", "-notext")


def make_certificates():
    san = ["-addext", "subjectAltName=DNS:mx.example.org,IP:127.0.0.1"]
    leaf = ["-addext", "basicConstraints=critical,CA:FALSE"]
    certificate("ca", "Test CA")
    certificate("other", "Other CA")
    certificate("mid", "Middle CA", ca="ca")
    certificate("ec", "mx.example.org", *san, *leaf, ca="ca")
    certificate("rsa", "mx.example.org", *san, *leaf, ca="ca", new="rsa")
    certificate("ed", "mx.example.org", *san, *leaf, ca="ca", new="ed")
    certificate("small", "mx.example.org", *san, *leaf, ca="ca", new="small")
    certificate("deep", "mx.example.org", *san, *leaf, ca="mid")
    certificate("unnamed", "mx.example.org", *leaf, ca="ca")
    certificate("client", "J\u00fcrgen", *leaf, ca="ca")
    certificate("odd", "a\u0085b\u007fc", *leaf, ca="ca")
    certificate("stranger", "mallory", *leaf, ca="other")
    expired("expired", "mx.example.org", "ca")
    with open(path("chain.pem"), "w") as f:
        for name in ("deep", "mid"):
            f.write(open(path(name + ".pem")).read())
    with open(path("garbage.pem"), "w") as f:
        f.write("no certificate\n")
    with open(path("damaged.pem"), "w") as f:
        f.write(open(path("ec.pem")).read().replace("=\n-", "!\n-")
                .replace("M", "*"))
    with open(path("torn.pem"), "w") as f:
        f.write(open(path("deep.pem")).read())
        f.write(open(path("mid.pem")).read().replace("M", "*", 1))
    make_keys()


def make_keys():
    """The same keys in every form that there is for them."""
    openssl("ec", "-in", "ec.key", "-aes128", "-passout", "pass:x", "-out",
            "locked.key")
    openssl("pkcs8", "-topk8", "-in", "ec.key", "-passout", "pass:x", "-out",
            "locked8.key")
    openssl("ec", "-in", "ec.key", "-out", "ec-sec1.key")
    openssl("ec", "-in", "ec.key", "-no_public", "-out", "ec-bare.key")
    openssl("rsa", "-in", "rsa.key", "-traditional", "-out", "rsa-pkcs1.key")
    openssl("ecparam", "-name", "P-256", "-out", "curve.pem")
    for name, parts in (("ec-curve", ("curve.pem", "ec-sec1.key")),
                        ("ec-both", ("ec.pem", "ec.key")),
                        ("ec-first", ("ec.key", "rsa.key"))):
        with open(path(name + ".key"), "w") as f:
            for part in parts:
                f.write(open(path(part)).read())


def fingerprint(name):
    der = ssl.PEM_cert_to_DER_cert(open(path(name + ".pem")).read())
    digest = hashlib.sha256(der).hexdigest().upper()
    return ":".join(re.findall("..", digest))


# The program under test, with its descriptors in place.

class Engine:
    """One smtpd-tls.  clear is our end of the clear text."""

    def __init__(self, conn, *argv, report=True, keep=()):
        self.clear, theirs = socket.socketpair()
        self.lines, line = os.pipe()
        actions = []
        high = []
        for fd, to in [(conn.fileno(), 0), (theirs.fileno(), 1),
                       (line, 3 if report else 2)] + list(keep):
            high.append(os.dup(fd))
            actions.append((os.POSIX_SPAWN_DUP2, high[-1], to))
        self.pid = os.posix_spawn(ENGINE, [ENGINE] + list(argv),
                                  os.environ, file_actions=actions)
        for fd in high:
            os.close(fd)
        theirs.close()
        conn.close()
        os.close(line)
        self.text = None

    def report(self):
        if self.text is None:
            with os.fdopen(self.lines, "rb") as f:
                self.text = f.read().decode()
        return self.text

    def values(self):
        return dict(line.split("=", 1)
                    for line in self.report().splitlines() if line)

    def status(self):
        """Its exit status, once it is over."""
        pid, self.pid = self.pid, None
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def end(self):
        self.clear.close()
        return self.status()


def pair_args(*names):
    args = []
    for name in names:
        args += ["--cert", path(name + ".pem"), "--key",
                 path(name.replace("chain", "deep") + ".key")]
    return args


def server(conn, *names, more=(), **options):
    return Engine(conn, "server", *pair_args(*(names or ("ec",))), *more,
                  **options)


class Tool:
    """openssl(1) as self.p, at the other end of self.engine."""

    def over(self):
        """Ends both; what openssl printed, and our status."""
        self.engine.report()
        self.engine.clear.close()
        out = self.p.communicate()[0].decode(errors="replace")
        return out, self.engine.status()


class Client(Tool):
    """openssl s_client, connected to a server of ours."""

    def __init__(self, *args, names=("ec",), more=(), brief=True, **options):
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.p = subprocess.Popen(
                ["openssl", "s_client", "-connect",
                 "127.0.0.1:%d" % s.getsockname()[1], "-CAfile",
                 path("ca.pem"), *(["-brief"] if brief else []), *args],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT)
            conn, _ = s.accept()
        self.engine = server(conn, *names, more=more, **options)


class OtherServer(Tool):
    """openssl s_server, and our client connected to it."""

    def __init__(self, *args, cert="ec", tls=(), **options):
        self.p = subprocess.Popen(
            ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1",
             "-cert", path(cert + ".pem"), "-cert_chain", path("mid.pem"),
             "-key", path(cert + ".key"), *tls],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        for line in self.p.stdout:
            m = re.match(rb"ACCEPT 127\.0\.0\.1:(\d+)", line)
            if m:
                break
        conn = socket.create_connection(("127.0.0.1", int(m[1])))
        self.engine = Engine(conn, "client", *args, **options)


class Peer:
    """TLS by hand, on our side of a connection."""

    def __init__(self, sock, is_server=False, version=None, cert=None):
        purpose = ssl.PROTOCOL_TLS_SERVER if is_server else \
            ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(purpose)
        if version:
            context.maximum_version = version
        if is_server:
            context.load_cert_chain(path("ec.pem"), path("ec.key"))
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if cert:
                context.load_cert_chain(path(cert + ".pem"),
                                        path(cert + ".key"))
        self.sock = sock
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, is_server)

    def flush(self):
        data = self.out.read()
        if data:
            self.sock.sendall(data)

    def until(self, call, *args):
        """Calls until it need not wait; what it returned."""
        while True:
            try:
                result = call(*args)
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                if data:
                    self.into.write(data)
                else:
                    self.into.write_eof()

    def handshake(self):
        self.until(self.tls.do_handshake)
        return self

    def send(self, data):
        for i in range(0, len(data), 65536):
            self.tls.write(data[i:i + 65536])
            self.flush()

    def read(self, n=65536):
        """Some octets, or b"" at close_notify."""
        try:
            return self.until(self.tls.read, n)
        except ssl.SSLZeroReturnError:
            return b""

    def read_all(self):
        return b"".join(iter(self.read, b""))

    def close_notify(self):
        """Says that we send no more; reads nothing."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()


def read_all(sock):
    return b"".join(iter(lambda: sock.recv(65536), b""))


def in_background(call, *args):
    result = []
    t = threading.Thread(target=lambda: result.append(call(*args)))
    t.start()
    return lambda: (t.join(), result[0])[1]


def read_exactly(sock, n):
    got = bytearray()
    while len(got) < n:
        block = sock.recv(min(n - len(got), 1 << 20))
        if not block:
            break
        got += block
    return bytes(got)


def status_of(pid):
    with open("/proc/%d/status" % pid) as f:
        return f.read()


def asleep(pid):
    return "State:\tS" in status_of(pid)


# The last test of every script.

def no_process_is_left():
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        left = None
    same(left, None, "a child")
