"""servers.py - what tests with real super-servers share: finding and starting
one, talking to what it starts, and looking at each octet that comes back."""
import glob
import os
import re
import shutil
import socket
import subprocess

from tap import Skip, folder

FIRST = re.compile(rb"^\d{3}(?: [^\n]*)?\r\n\Z", re.M)
TAKEN = "220 250 250 250 354 250 221"
MAIL = ("EHLO client.example.com", "MAIL FROM:<sender@example.com>",
        "RCPT TO:<rcpt@example.org>", "DATA")


def tool(package, path):
    """Where the system has a program, or out of its package, which is not
    installed (inetd and xinetd exclude each other)."""
    name = os.path.basename(path)
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found:
        return found
    where = folder()
    subprocess.run(["apt-get", "download", package], cwd=where,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    debs = glob.glob(f"{where}/{package}_*.deb")
    if not debs:
        raise Skip(f"{name} is not installed, nor can package {package} be "
                   "fetched")
    subprocess.run(["dpkg", "-x", debs[0], where], check=True)
    libraries = subprocess.run(["ldd", f"{where}/{path}"], text=True,
                               capture_output=True).stdout
    lacks = re.search(r"(\S+) => not found", libraries)
    if lacks:
        raise Skip(f"{name} needs {lacks[1]}, which is not installed")
    return f"{where}/{path}"


class Server:
    """A server in the foreground; what it writes can be awaited.  Its
    environment is ours but for the journal, whose reader we are not."""

    def __init__(self, *command, log=None):
        env = {name: value for name, value in os.environ.items()
               if name not in ("JOURNAL_STREAM", "NOTIFY_SOCKET")}
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.log = log or self.process.stdout
        self.text = ""
        self.seen = 0

    def await_line(self, like):
        """Waits for a line that matches, after the last one awaited."""
        while True:
            found = re.compile(like, re.M).search(self.text, self.seen)
            if found:
                self.seen = found.end()
                return
            octets = os.read(self.log.fileno(), 65536)
            assert octets, f"ended before it wrote {like}:\n{self.text}"
            self.text += octets.decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def replaced(text, words):
    """An example with other words in place of some of its own: each has to be
    there, or the example is not what is tried."""
    for word in sorted(words, key=len, reverse=True):
        assert word in text, f"the example has no {word!r}"
        text = text.replace(word, words[word])
    return text


def example(file, words):
    """An example of units/, likewise."""
    with open(f"units/{file}") as f:
        return replaced(f.read(), words)


def spew(path, text):
    with open(path, "w") as f:
        f.write(text)
    return path


def talk(where, *lines):
    """Sends lines to a port or a socket, each after the reply to the one
    before, and returns every octet that came back until the server hung up.
    None: hang up."""
    got, start = b"", 0
    with (where if isinstance(where, socket.socket) else
          socket.create_connection(("127.0.0.1", where))) as s:
        try:
            for line in lines:
                while not FIRST.search(got[start:]):
                    octets = s.recv(65536)
                    if not octets:
                        return got
                    got += octets
                start = len(got)
                if line is None:
                    s.shutdown(socket.SHUT_WR)
                    break
                s.sendall(line.encode() + b"\r\n")
            while octets := s.recv(65536):
                got += octets
        except (BrokenPipeError, ConnectionResetError):
            pass
    return got


def codes(got):
    """The codes of the replies, if every octet is part of one; else the first
    line that is none."""
    found = []
    for line in got.splitlines(keepends=True):
        reply = re.fullmatch(rb"(\d{3})([ -])[\x20-\x7e]*\r\n", line)
        if not reply:
            return f"not a reply: {line}"
        if reply[2] == b" ":
            found.append(reply[1].decode())
    return " ".join(found)


def message(subject):
    return (*MAIL, f"Subject: {subject}\r\n\r\nbody\r\n.", "QUIT")
