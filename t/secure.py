"""secure.py - what tests of TLS and AUTH share: sessions that turn to TLS,
certificates, users."""
import base64
import ctypes
import glob
import os
import re
import select
import ssl

import tap
from tap import HELLO, Session, certificate, folder, lines

PLACE = folder()
PASSWORD = "Swordfish.123"      # what must be seen nowhere
PROTOCOLS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2,
             "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def path(name):
    return os.path.join(PLACE, name)


def make_certificates():
    name = ["-addext", "subjectAltName=DNS:mx.example.org,DNS:localhost,"
            "IP:127.0.0.1"]
    certificate(PLACE, "ca", "Test CA")
    certificate(PLACE, "other", "Other CA")
    certificate(PLACE, "ec", "mx.example.org", *name, ca="ca")
    certificate(PLACE, "rsa", "mx.example.org", *name, ca="ca", kind="rsa")
    certificate(PLACE, "elsewhere", "elsewhere.example.net", "-addext",
                "subjectAltName=DNS:elsewhere.example.net", ca="ca")
    certificate(PLACE, "client", "client.example.org", ca="ca")
    certificate(PLACE, "stranger", "client.example.org", ca="other")
    for key in glob.glob(path("*.key")):
        os.chmod(key, 0o644)
    with open(path("empty.pem"), "w"):
        pass


def hashed(prefix):
    """PASSWORD by crypt(3), by the method that prefix names."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    made = crypt(PASSWORD.encode(), f"{prefix}saltsaltsalt".encode()).decode()
    assert made.startswith(prefix), made
    return made


def make_passwords():
    with open(path("passwords"), "w") as f:
        f.write(f"# name:hash\nuser:{hashed('$6$')}\n"
                f"yes:{hashed('$6$')}:more\n")


def tls(name="ec"):
    return ["--tlscert", path(name + ".pem"), "--tlskey", path(name + ".key")]


def context(version=None, certificate_of=None):
    made = ssl.create_default_context(cafile=path("ca.pem"))
    if version:
        made.minimum_version = made.maximum_version = PROTOCOLS[version]
    if certificate_of:
        made.load_cert_chain(path(certificate_of + ".pem"),
                             path(certificate_of + ".key"))
    return made


class Secure(Session):
    """A session that may turn to TLS, in a process group of its own: the TLS
    engine is nobody's child."""

    def __init__(self, *arguments, wrap=(), **more):
        super().__init__(*arguments, wrap=("setsid", *wrap), **more)

    def pids(self):
        """All processes, ours first, with descriptors that tell their end."""
        found = {}
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/stat") as f:
                    group = int(f.read().rpartition(")")[2].split()[2])
                if group == self.process.pid:
                    found[int(name)] = os.pidfd_open(int(name))
            except (OSError, ValueError):
                pass
        return dict(sorted(found.items(), key=lambda p: (
            p[0] != self.process.pid, p[0])))

    def handshake(self, made=None, name="mx.example.org"):
        self.read.close()
        self.socket = (made or context()).wrap_socket(self.socket,
                                                      server_hostname=name)
        self.read = self.socket.makefile("rb")
        return self

    def starttls(self, made=None, name="mx.example.org"):
        assert "\n250-STARTTLS\n" in self.start()
        assert self.say("STARTTLS") == ["220 2.0.0 Ready to start TLS"]
        self.handshake(made, name)
        self.send(lines(HELLO))
        return self.reply()


def wait_for_all(pids):
    """Until all of them are over; hangs if they do not end."""
    for fd in pids.values():
        select.select([fd], [], [])
        os.close(fd)


def received(log):
    """The trace header in it, unfolded."""
    found = re.findall(r"^Received: .*(?:\n\t.*)*", log, re.M)
    assert len(found) == 1, log
    return found[0].replace("\n\t", " ")


def delivered(server, word):
    log = server.logged()
    assert f"Subject: {word}\n" in log, log
    return log


def plain(user="user", password=PASSWORD, mechanism="AUTH PLAIN "):
    return mechanism + b64(f"\0{user}\0{password}")


def b64(text):
    return base64.b64encode(text.encode()).decode()


def secrets():
    once = b64(f"\0user\0{PASSWORD}")
    return [PASSWORD, once, b64(PASSWORD)]


FILE = ["--auth", "file:" + path("passwords")]
CLEAR = FILE + ["--no-auth-require-tls"]


def main():
    """Runs the tests of a script, with the certificates and users above."""
    make_certificates()
    make_passwords()
    tap.main()
