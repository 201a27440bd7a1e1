#!/usr/bin/env python3
"""tls.t - smtpd-tls against openssl s_client and s_server, and against peers
that do what those cannot: half-close, silence, garbage, 50 MB each way."""

import fcntl
import hashlib
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import termios
import threading

from engine import ENGINE
from tap import SANITIZED, Skip, folder, main, reset_connection, tcp_pair, test

WORK = folder()
BULK = 50 * 1000 * 1000


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


# As a server.

@test
def the_report_names_what_the_handshake_agreed_on():
    c = Client("-tls1_3", "-servername", "mx.example.org", brief=False)
    c.engine.report()
    same(c.engine.report(),
         "protocol=TLSv1.3\ncipher=TLS_AES_256_GCM_SHA384\n"
         "sni=mx.example.org\nsubject=\nissuer=\nfingerprint=\n\n",
         "the report of a TLS 1.3 handshake, to the octet")
    out, status = c.over()
    same(status, 0, "exit 0 when the clear text is closed")
    matches(r"Verify return code: 0 \(ok\)", out, "s_client verifies us")
    matches(r"Compression: NONE", out, "no compression")

    c = Client("-tls1_2", "-noservername")
    same(c.engine.report(),
         "protocol=TLSv1.2\ncipher=ECDHE-ECDSA-AES256-GCM-SHA384\n"
         "sni=\nsubject=\nissuer=\nfingerprint=\n\n",
         "the report of a TLS 1.2 handshake, without SNI")
    same(c.over()[1], 0, "and exit 0")


@test
def TLS_1_1_is_refused_with_an_alert():
    c = Client("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    same(c.engine.report(),
         "error=the TLS handshake failed: unsupported protocol\n\n",
         "TLS 1.1 is refused")
    out, status = c.over()
    same(status, 76, "with exit 76")
    matches("alert protocol version", out, "and an alert tells the client")


@test
def of_two_certificates_the_client_gets_one_that_it_can_verify():
    ecdsa, rsa = "ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256"
    for protocol, choose, kind, newer in [
            ("-tls1_3", ["-sigalgs", ecdsa], "ECDSA", ecdsa),
            ("-tls1_3", ["-sigalgs", rsa], "RSA-PSS", rsa),
            ("-tls1_2", ["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
             "ECDSA", ecdsa),
            ("-tls1_2", ["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
             "RSA-PSS", rsa)]:
        c = Client(protocol, *choose, names=("rsa", "ec"))
        out, status = c.over()
        # OpenSSL 3.5 calls them by their other names.
        matches(r"(?s)Signature type: (%s|%s)\n.*Verification: OK" %
                (kind, newer), out,
                "of two certificates, %s with %s" % (kind, protocol))
        same(status, 0, "and exit 0")
    c = Client(names=("chain",))
    matches("Verification: OK", c.over()[0], "a chain is sent whole")


@test
def the_better_group_that_a_client_has_is_agreed_on():
    """Of the groups of a client; it guesses the first, and hears if another
    one is better: then there is a second hello."""
    wanted = [("X25519:P-521", "X25519", 1), ("P-384:P-521", "secp384r1", 1),
              ("P-521:P-256", "prime256v1|secp256r1", 2)]
    if b"X25519MLKEM768" in subprocess.run(
            ["openssl", "list", "-kem-algorithms"],
            capture_output=True).stdout:        # OpenSSL 3.5
        wanted += [("X25519MLKEM768:X25519", "X25519MLKEM768", 1),
                   ("X25519:X25519MLKEM768", "X25519MLKEM768", 2),
                   ("SecP256r1MLKEM768:X25519", "X25519", 2)]
    for groups, best, hellos in wanted:
        c = Client("-msg", "-groups", groups)
        out, status = c.over()
        matches(r"(Temp Key|TLS1.3 group): (ECDH, )?(%s)\b" % best, out,
                "of %s the better one" % groups)
        same(len(re.findall(">>> .*ClientHello", out)), hellos,
             "after %d hello" % hellos)
        same(status, 0, "and exit 0")
    same(Client("-groups", "P-521").over()[1], 76, "none of ours is refused")


@test
def certificate_and_key_may_be_descriptors_and_others_are_closed():
    """A certificate that somebody has read already, a key in a pipe, and a
    descriptor that is none of its business."""
    key, write_key = os.pipe()
    stray, held = os.pipe()
    with open(path("ec.key"), "rb") as f:
        os.write(write_key, f.read())
    os.close(write_key)
    with open(path("ec.pem")) as cert:
        cert.read()
        near, far = tcp_pair()
        e = Engine(far, "server", "--certfd", "7", "--keyfd", "5",
                   keep=[(cert.fileno(), 7), (key, 5), (held, 9)])
    os.close(key)
    os.close(held)
    peer = Peer(near).handshake()
    same(e.values()["protocol"], "TLSv1.3",
         "certificate and key from descriptors, the former from its start")
    same(os.read(stray, 1), b"", "and other descriptors were closed")
    e.clear.sendall(b"x")
    same(peer.read(), b"x", "while it works")
    same(e.end(), 0, "and exit 0")
    os.close(stray)


@test
def a_client_certificate_is_asked_for_and_verified_with_ca():
    ca = ["--ca", path("ca.pem")]
    for name, cn, version in [("client", "J\u00fcrgen", "-tls1_3"),
                              ("client", "J\u00fcrgen", "-tls1_2"),
                              ("odd", "a?b?c", "-tls1_3")]:
        c = Client("-cert", path(name + ".pem"), "-key", path(name + ".key"),
                   version, more=ca)
        v = c.engine.values()
        same((v["subject"], v["issuer"], v["fingerprint"]),
             (cn, "Test CA", fingerprint(name)),
             "client certificate of %s verified, %s" % (cn, version))
        same(c.over()[1], 0, "and exit 0")
    for args, what in [(["stranger"], "of an unknown CA"), ([], "not shown")]:
        more = [w for a in args for w in ("-cert", path(a + ".pem"), "-key",
                                          path(a + ".key"))]
        c = Client(*more, more=ca)
        v = c.engine.values()
        same((v["protocol"], v["subject"], v["issuer"], v["fingerprint"]),
             ("TLSv1.3", "", "", ""),
             "client certificate %s: TLS, but nobody is named" % what)
        same(c.over()[1], 0, "and exit 0")
    c = Client("-cert", path("client.pem"), "-key", path("client.key"))
    same(c.engine.values()["subject"], "",
         "without --ca no certificate is asked for")
    c.over()


@test
def the_name_that_a_client_asks_for_is_reported_without_control_characters():
    for asked, want in [("xn--bcher-kva.example.org", None),
                        (b"a\r\n\x01b\x7f\xc3\xbc\xff.example",
                         "a???b????.example")]:
        c = Client("-servername", asked)
        same(c.engine.values()["sni"], want or asked,
             "SNI %r" % (asked,))
        same(c.over()[1], 0, "and exit 0")


@test
def a_client_may_not_renegotiate():
    c = Client("-tls1_2", brief=False)
    c.engine.report()
    c.p.stdin.write(b"R\n")
    c.p.stdin.flush()
    out = c.p.stdout.read().decode(errors="replace")
    c.p.wait()
    matches("no renegotiation", out, "the client may not renegotiate")
    same(c.engine.clear.recv(1), b"",
         "and that s_client gives up then is an end of file to us")
    same(c.engine.end(), 74, "with exit 74")


@test
def no_session_ticket_is_given():
    for version in ("-tls1_2", "-tls1_3"):
        c = Client(version, "-msg", "-trace", brief=False)
        out, status = c.over()
        assert "NewSessionTicket" not in out and "Finished" in out, out


# Failures.

def refused(name, want, status, *argv, keep=()):
    near, far = tcp_pair()
    e = Engine(far, *argv, keep=keep)
    same(e.report(), "error=%s\n%s\n" % (
        want, "status=78\n" if status == 78 else ""), name)
    same(e.status(), status, "and exit %d" % status)
    near.close()


@test
def files_that_cannot_be_used_are_named_with_the_reason():
    ec = pair_args("ec")
    gone = path("gone.pem")
    refused("a certificate that is not there",
            "cannot read the certificate %s: No such file or directory"
            % gone, 78, "server", "--cert", gone, *ec[2:])
    refused("a file's name cannot become a line of the report",
            "cannot read the certificate a?b: No such file or directory",
            78, "server", "--cert", "a\nb", *ec[2:])
    refused("a key that is not there",
            "cannot read the key %s: No such file or directory" % gone, 78,
            "server", *ec[:2], "--key", gone)
    refused("a descriptor that is not there",
            "cannot read the certificate given as a descriptor: "
            "Bad file descriptor", 78,
            "server", "--certfd", "17", "--keyfd", "18")
    refused("a certificate that is none",
            "the certificate %s is not one in PEM form"
            % path("garbage.pem"), 78,
            "server", "--cert", path("garbage.pem"), *ec[2:])
    refused("a damaged one", "the certificate %s is not one in PEM form"
            % path("damaged.pem"), 78,
            "server", "--cert", path("damaged.pem"), *ec[2:])
    refused("a key of another kind",
            "the key %s does not match the certificate %s"
            % (path("rsa.key"), path("ec.pem")), 78,
            "server", *ec[:2], "--key", path("rsa.key"))
    refused("a key of another certificate",
            "the key %s does not match the certificate %s"
            % (path("ca.key"), path("ec.pem")), 78,
            "server", *ec[:2], "--key", path("ca.key"))
    refused("a key with a passphrase",
            "the key %s is not an unencrypted private key in PEM form"
            % path("locked.key"), 78,
            "server", *ec[:2], "--key", path("locked.key"))
    refused("one in the form of PKCS #8",
            "the key %s is not an unencrypted private key in PEM form"
            % path("locked8.key"), 78,
            "server", *ec[:2], "--key", path("locked8.key"))
    refused("a chain that is damaged, with a number for openssl errstr",
            "the chain of the certificate %s is damaged: "
            "OpenSSL error 04800064" % path("torn.pem"), 78, "server",
            "--cert", path("torn.pem"), "--key", path("deep.key"))
    refused("a certificate where the key should be",
            "the key %s is not an unencrypted private key in PEM form"
            % path("ec.pem"), 78,
            "server", *ec[:2], "--key", path("ec.pem"))
    refused("a key that is too short",
            "the certificate %s cannot be used: ee key too small"
            % path("small.pem"), 78, "server", *pair_args("small"))
    refused("two certificates of one kind",
            "the certificates %s and %s have the same kind of key"
            % (path("ec.pem"), path("client.pem")), 78,
            "server", *ec, *pair_args("client"))
    refused("a CA that is not there",
            "cannot read the CA certificates %s: No such file or directory"
            % gone, 78, "server", *ec, "--ca", gone)
    refused("a CA file without any",
            "there are no CA certificates in %s" % path("garbage.pem"), 78,
            "client", "--verify", "a.example", "--ca", path("garbage.pem"))


@test
def a_key_may_have_any_usual_form():
    for cert, key in (("ec", "ec-sec1"), ("ec", "ec-bare"),
                      ("ec", "ec-curve"), ("ec", "ec-both"),
                      ("ec", "ec-first"), ("rsa", "rsa-pkcs1"),
                      ("ed", "ed")):
        near, far = tcp_pair()
        e = Engine(far, "server", "--cert", path(cert + ".pem"), "--key",
                   path(key + ".key"))
        Peer(near).handshake()
        matches(r"(?m)^protocol=TLSv1\.3$", e.report(),
                "the key in %s.key serves" % key)
        same(e.end(), 0, "and exit 0")


@test
def a_wrong_command_line_is_told():
    ec = pair_args("ec")
    for name, want, argv in [
            ("no role",
             "the first argument is server, client, resident, check or "
             "digest", []),
            ("five pairs", "more than 4 certificates or keys",
             ["server"] + 5 * ec),
            ("a fingerprint that is none", '"x" is not a SHA-256 fingerprint',
             ["client", "--fingerprint", "x"]),
            ("no certificate",
             "a server needs certificates, and a key for each", ["server"]),
            ("a key missing",
             "a server needs certificates, and a key for each",
             ["server"] + ec + ec[:2]),
            ("a client with a key", "option --key is not known",
             ["client", "--key", "x"]),
            ("no argument", "option --ca needs an argument",
             ["client", "--ca"]),
            ("one too many", "argument x is one too many", ["client", "x"]),
            ("a time-out of 0", '"0" is not a number from 1 to 86400',
             ["client", "--timeout", "0"]),
            ("a time-out that is none",
             '"1s" is not a number from 1 to 86400',
             ["client", "--timeout", "1s"]),
            ("the report as key",
             '"3" is not a number from 4 to 2147483647',
             ["server", "--certfd", "4", "--keyfd", "3"]),
            ("an empty name to verify", "\"\" is not a host's name",
             ["client", "--verify", ""]),
            ("a name that fits many", "\".example\" is not a host's name",
             ["client", "--verify", ".example"])]:
        refused("usage: " + name, want, 64, *argv)
    for words, pattern in ((("--help", "-h"), r"usage: smtpd-tls server .*"
                            r"--fingerprint .*  -h, --help +print this\n"),
                           (("--version", "-V"), r"smtpd-tls \d[\d.]*\n")):
        for word in words:
            p = subprocess.run([ENGINE, word], text=True, stdin=
                               subprocess.DEVNULL, capture_output=True)
            same((p.returncode, p.stderr, bool(re.fullmatch(
                pattern, p.stdout, re.S))), (0, "", True),
                 f"{word} is answered")
    with open("src/tls/tls.c", encoding="utf-8") as f:
        known = set(re.findall(r'\{ "([a-z]+)", (?:required|no)_argument',
                               f.read()))
    help_ = subprocess.run([ENGINE, "--help"], text=True,
                           capture_output=True).stdout
    with open("src/tls/smtpd-tls.8", encoding="utf-8") as f:
        page = f.read()
    same([name for name in sorted(known) if f"--{name} " not in help_ or
          f"Fl -{name} " not in page], [], "every option is in --help and page")
    assert len(known) > 9, known
    with open(os.devnull) as f:
        with tempfile.TemporaryFile() as out:
            p = subprocess.run([ENGINE, "client"], stdin=f, stdout=out,
                               stderr=subprocess.PIPE)
            same((p.returncode, p.stderr, out.tell()),
                 (64, b"smtpd-tls: descriptor 0, the connection, is not a "
                  b"stream socket\n", 0),
                 "without descriptor 3 the error goes to standard error")


@test
def peers_that_speak_no_TLS_or_leave_or_are_silent_are_told_apart():
    near, far = tcp_pair()
    e = server(far)
    near.sendall(b"EHLO client.example.org\r\n")
    same(e.report(), "error=the TLS handshake failed: "
         "wrong version number\n\n", "a client that speaks SMTP")
    same(e.status(), 76, "and exit 76")

    near, far = tcp_pair()
    e = server(far)
    near.sendall(b"GET / HTTP/1.0\r\n\r\n")
    same(e.report(), "error=the TLS handshake failed: http request\n\n",
         "a client that speaks HTTP")
    same(e.status(), 76, "and exit 76")

    for octets, what, when in [
            (b"", "nothing", "before"),
            (b"\x16\x03\x01\x02\x00\x01", "half a greeting", "during")]:
        near, far = tcp_pair()
        e = server(far)
        near.sendall(octets)
        near.shutdown(socket.SHUT_WR)
        same(e.report(), f"error=the connection ended {when} the TLS "
             "handshake\n\n", "a client that sends %s and leaves" % what)
        same(e.status(), 76, "and exit 76")

    near, far = tcp_pair()
    e = server(far, more=["--timeout", "1"])
    near.sendall(b"\x16\x03\x01")
    same(e.report(), "error=the TLS handshake did not end within 1 s\n\n",
         "a client that falls silent")
    same(e.status(), 75, "and exit 75")

    near, far = tcp_pair()
    e = server(far)
    e.clear.close()
    same(e.report(), "error=the clear-text end was closed during the TLS "
         "handshake\n\n", "our own side gives up during the handshake")
    same(e.status(), 74, "and exit 74")

    near, far = tcp_pair()
    e = Engine(far, "client")
    near.sendall(b"220 mx.example.org ESMTP\r\n")
    same(e.report(), "error=the TLS handshake failed: "
         "wrong version number\n\n", "a server that speaks SMTP")
    same(e.status(), 76, "and exit 76")

    near, far = tcp_pair()
    e = server(far)
    peer = Peer(near).handshake()
    peer.send(b"before")
    same(e.clear.recv(6), b"before", "octets before a forged record")
    near.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    same(e.clear.recv(6), b"", "a forged record ends the clear text")
    same(e.end(), 74, "and exit 74")


# As a client.

@test
def verify_accepts_the_right_name_and_authority_only():
    ca = ["--ca", path("ca.pem")]
    s = OtherServer("--verify", "mx.example.org", *ca)
    v = s.engine.values()
    same((v["protocol"], v["subject"], v["issuer"], v["fingerprint"]),
         ("TLSv1.3", "mx.example.org", "Test CA", fingerprint("ec")),
         "--verify with the right name")
    same(s.over()[1], 0, "and exit 0")
    s = OtherServer("--verify", "mx.example.org.", *ca, cert="rsa",
                    tls=["-tls1_2"])
    same((s.engine.values()["protocol"], s.engine.values()["cipher"]),
         ("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"),
         "a dot at the end, RSA, TLS 1.2")
    same(s.over()[1], 0, "and exit 0")
    s = OtherServer("--verify", "127.0.0.1", *ca)
    same(s.engine.values()["subject"], "mx.example.org",
         "--verify with an address")
    same(s.over()[1], 0, "and exit 0")
    s = OtherServer("--verify", "mx.example.org", *ca, cert="deep")
    same(s.engine.values()["issuer"], "Middle CA", "a chain of three")
    same(s.over()[1], 0, "and exit 0")
    for anchor, cert in [("mid", "deep"), ("ec", "ec")]:
        s = OtherServer("--verify", "mx.example.org", "--ca",
                        path(anchor + ".pem"), cert=cert)
        same(s.engine.values()["fingerprint"], fingerprint(cert),
             "what --ca names is trusted, root or not: " + anchor)
        same(s.over()[1], 0, "and exit 0")
    for name, cert, cafile, why in [
            ("wrong.example.org", "ec", "ca", "hostname mismatch"),
            ("127.0.0.2", "ec", "ca", "IP address mismatch"),
            # RFC 9525: its common name alone has this name.
            ("mx.example.org", "unnamed", "ca", "hostname mismatch"),
            ("mx.example.org", "expired", "ca", "certificate has expired"),
            ("mx.example.org", "ec", "other",
             "unable to get local issuer certificate"),
            ("mx.example.org", "ca", "other", "self-signed certificate"),
            ("mx.example.org", "small", "ca", "EE certificate key too weak")]:
        s = OtherServer("--verify", name, "--ca", path(cafile + ".pem"),
                        cert=cert, tls=["-cipher", "ALL:@SECLEVEL=0"])
        same(s.engine.report(), "error=the certificate of %s cannot be "
             "trusted: %s\n\n" % (name, why), "--verify: " + why)
        same(s.over()[1], 76, "and exit 76")
    s = OtherServer("--verify", "mx.example.org")
    matches("^error=the certificate of mx.example.org cannot be trusted: "
            "unable to get local issuer certificate\n\n$", s.engine.report(),
            "without --ca the system's CA certificates count")
    same(s.over()[1], 76, "and exit 76")
    os.environ["SSL_CERT_FILE"] = path("ca.pem")
    s = OtherServer("--verify", "mx.example.org")
    same(s.engine.values()["subject"], "mx.example.org",
         "or those of SSL_CERT_FILE")
    same(s.over()[1], 0, "and exit 0")
    del os.environ["SSL_CERT_FILE"]


@test
def without_verify_every_certificate_will_do():
    for cert in ("expired", "small", "ca"):
        s = OtherServer(cert=cert, tls=["-cipher", "ALL:@SECLEVEL=0"])
        v = s.engine.values()
        same((v["protocol"], v["subject"], v["fingerprint"]),
             ("TLSv1.3", "", ""), "without --verify anything goes: " + cert)
        same(s.over()[1], 0, "and exit 0")
    s = OtherServer(tls=["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
    matches("^error=the TLS handshake failed: .*protocol", s.engine.report(),
            "but not TLS 1.1")
    same(s.over()[1], 76, "and exit 76")


@test
def a_client_asks_for_the_name_of_sni_or_verify():
    for args, want in [(["--sni", "a.example.org"], "a.example.org"),
                       (["--sni", "127.0.0.1"], None),
                       ([], None),
                       (["--verify", "mx.example.org", "--ca",
                         path("ca.pem")], "mx.example.org"),
                       (["--verify", "mx.example.org", "--sni",
                         "b.example.org", "--ca", path("ca.pem")],
                        "b.example.org"),
                       (["--verify", "127.0.0.1", "--ca", path("ca.pem")],
                        None)]:
        near, far = tcp_pair()
        e = Engine(far, "client", *args)
        peer = Peer(near, is_server=True)
        asked = []
        peer.tls.context.sni_callback = \
            lambda tls, name, context: asked.append(name)
        peer.handshake()
        e.report()
        same(asked, [want], "SNI sent with %s" % (args[::2],))
        same(e.end(), 0, "and exit 0")


# The pump.

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


def read_exactly(sock, n):
    got = bytearray()
    while len(got) < n:
        block = sock.recv(min(n - len(got), 1 << 20))
        if not block:
            break
        got += block
    return bytes(got)


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


def status_of(pid):
    with open("/proc/%d/status" % pid) as f:
        return f.read()


def asleep(pid):
    return "State:\tS" in status_of(pid)


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


# Confinement and the key.

# Only root can look, and a sanitizer's memory is too large to look through.
READABLE = os.geteuid() == 0 and not SANITIZED


def memory(pid):
    """All that the process can write: each mapping, as /proc shows it, and
    what is in it."""
    with open("/proc/%d/maps" % pid) as maps, \
            open("/proc/%d/mem" % pid, "rb") as mem:
        for line in maps:
            m = re.match(r"(\w+)-(\w+) rw", line)
            if m:
                mem.seek(int(m[1], 16))
                yield line, mem.read(int(m[2], 16) - int(m[1], 16))


def secrets(name):
    """The private numbers of a key, in both orders of octets, and its text."""
    text = subprocess.run(["openssl", "pkey", "-in", path(name + ".key"),
                           "-noout", "-text"], check=True,
                          capture_output=True).stdout.decode()
    found = []
    for m in re.finditer(r"(?m)^(priv|privateExponent|prime\d|exponent\d|"
                         r"coefficient):\n((?: +[0-9a-f:]+\n)+)", text):
        octets = bytes.fromhex(re.sub(r"[\s:]", "", m[2])).lstrip(b"\0")
        found += [octets, octets[::-1]]
    with open(path(name + ".key")) as f:
        found += [line.strip().encode() for line in f
                  if "PRIVATE" not in line and len(line) > 40]
    return found


def hits(pid, wanted):
    """Where the process has them, and which."""
    return ["%s: %d: number %d" % (line.strip(), m.start(), i)
            for line, text in memory(pid) for i, w in enumerate(wanted)
            for m in re.finditer(re.escape(w[:32]), text)]


def forgets(e, peer):
    """What was carried does not stay behind."""
    for n, text in (1, b"auth plain a secret\r\n"), (4000, b"a message\r\n"):
        peer.send(n * text)
        read_exactly(e.clear, n * len(text))
        e.clear.sendall(n * text.upper())
        left = n * len(text)
        while left > 0:
            left -= len(peer.read(left))
        while not asleep(e.pid):
            pass
        same(hits(e.pid, [text, text.upper()]), [],
             "%d octets each way left nothing" % (n * len(text)))


@test
def it_is_confined_before_it_speaks_and_forgets_the_key():
    for name in ("ec", "rsa"):
        near, far = tcp_pair()
        e = server(far, name)
        peer = Peer(near)
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            peer.flush()
        first = near.recv(1)
        status = status_of(e.pid)
        matches(r"(?m)^NoNewPrivs:\s1$", status, "no new privileges")
        matches(r"(?m)^Seccomp:\s2$", status, "and a list of system calls, "
                "when the first octet goes out")
        during = None
        if READABLE:
            during = hits(e.pid, secrets(name))
        peer.into.write(first)
        peer.handshake()
        e.report()
        if READABLE:
            assert during, f"the {name} key is not found in the handshake"
            same(hits(e.pid, secrets(name)), [], "nor is it found after it")
            forgets(e, peer)
        elif os.geteuid() != 0:
            try:
                hits(e.pid, secrets(name))
                raise AssertionError("a user can look into its memory")
            except PermissionError:
                pass
        same(e.end(), 0, "and exit 0")


@test
def no_process_is_left():
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        left = None
    same(left, None, "a child")


if __name__ == "__main__":
    make_certificates()
    main()
