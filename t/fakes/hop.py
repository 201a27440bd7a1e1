"""hop.py - the next hop of scripts, which says yes to everything unless it is
told what to say, and remembers each octet; and what smuggling.t and
peers-smuggling.t share: a client whose packets stay apart, what it smuggles.

The hop ends a message at CRLF.CRLF alone; what a laxer one would make of the
same octets, ends() says.
"""
import os
import re
import select
import socket
import subprocess
import tempfile

from fakes.server import Server
from tap import HELLO, SMTPD, lines

START = lines(HELLO, "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>",
              "DATA") + b"Subject: x\r\n\r\nbefore"

EVIL = lines("MAIL FROM:<evil@example.org>", "RCPT TO:<evil@example.org>",
             "DATA", "Subject: evil", "", "evil")

# What somebody, somewhere, has taken for the end of a message.
VARIANTS = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r",
    b"\r\r\n.\r\r\n", b"\r\n.\r\r\n", b"\n\r.\n\r",
    b"\n\r\n.\n\r\n", b"\r\n.\n\r", b"\n.\r", b"\r.\n",
    b"\n\n.\n\n", b"\r\n\n.\r\n", b"\r\n\r.\r\n",
    b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\0\n.\r\0\n", b"\r\n.\r\0\n",
    b"\r\n\0.\0\r\n", b"\0\r\n.\0\0", b"\n\0.\n", b"\r\n. \r\n",
    b"\r\n.\t\r\n", b"\r\n \r\n .\r\n", b"\r\n..\r\n", b"\r\n...\r\n",
    b"\r\n.\x0b\r\n", b"\r\n.\x0c\r\n", b"\x0b.\x0b", b"\x0c.\x0c",
    b"\x85.\x85", b"\xc2\x85.\xc2\x85", b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\r\n\x1a\r\n", b"\x04", b"\r\n\x08.\r\n", b"\r\n.\x7f\r\n",
    b"\r\n\xef\xbb\xbf.\r\n",
]


# That is one, whatever stands before it.
assert not any(b"\r\n.\r\n" in variant for variant in VARIANTS)


def bare(text):
    """Is there a NUL, or a CR or LF alone?"""
    return re.search(rb"\r(?!\n)|(?<!\r)\n|\0", text) is not None


class Client:
    """Over a socket that keeps packets apart: one is one read at smtpd."""

    def __init__(self, *arguments, env=None):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX,
                                                socket.SOCK_SEQPACKET)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [SMTPD, "-H", "mx.example.org", *arguments], stdin=theirs,
            stdout=theirs, stderr=self.log, env={**os.environ, **(env or {})})
        theirs.close()

    def talk(self, *packets):
        """All packets, then the end.  Returns the replies' last lines."""
        for packet in packets:
            self.socket.sendall(packet)
        self.socket.shutdown(socket.SHUT_WR)
        said = b""
        while chunk := self.socket.recv(65536):
            said += chunk
        self.socket.close()
        assert self.process.wait() == 0
        self.log.seek(0)
        self.logged = self.log.read().decode(errors="replace")
        self.log.close()
        return [line for line in said.decode().splitlines()
                if line[3:4] != "-"]


def codes(replies):
    return [int(line[:3]) for line in replies]


# Whatever anybody is known to take for a line's end on either side of a dot:
# CR, LF, both in any order and number, and a NUL where a line is a C string.
END = re.compile(rb"(?:^|[\r\n])\.(?=[\r\n\0])")


def ends(text):
    """How many ends of a message there are in what followed 354."""
    return len(END.findall(text))


class Hop(Server):
    """A next hop that says at each step what answer(number, command) returns:
    a reply (octets or text), None for what it would say, HANG_UP, or STALL: it
    says nothing until we hang up.  number counts connections from 1; command
    is the line, or "" for the greeting and "." for the end of a message by
    DATA.  Extensions may be a function of number.  tls: a context, it is under
    TLS from the start."""

    HANG_UP = object()
    STALL = object()

    def __init__(self, answer=lambda number, command: None, path=None,
                 extensions=("PIPELINING", "SIZE", "8BITMIME"), lmtp=False,
                 tls=None):
        self.answer, self.extensions = answer, extensions
        self.lmtp, self.tls = lmtp, tls
        self.forget()
        super().__init__(path)

    def forget(self):
        self.messages = []      # without dots and chunk sizes
        self.texts = []         # as they came, the last dot included
        self.commands = []      # everything else: (number, line)

    def relay(self):
        at = self.at.replace("[127.0.0.1]", "[localhost]" if self.tls else
                             "[127.0.0.1]")
        return f"{'lmtp' if self.lmtp else 'smtps' if self.tls else 'smtp'}:" \
            + at

    def under(self, connection):
        return self.tls.wrap_socket(connection, server_side=True) \
            if self.tls else connection

    def told(self, number=None):
        """The commands of one connection, or of all."""
        return [c for n, c in self.commands if number in (None, n)]

    def say(self, connection, number, command, usual):
        """Returns the code, or 0 after hanging up."""
        said = self.answer(number, command)
        if said is self.STALL:
            gone = select.poll()
            gone.register(connection, select.POLLRDHUP)
            gone.poll()
        if said in (self.HANG_UP, self.STALL):
            connection.shutdown(socket.SHUT_RDWR)
            return 0
        if said is None:
            said = usual
        text = said if isinstance(said, bytes) else said.encode()
        connection.sendall(text + b"\r\n")
        return int(text[:3]) if text[:3].isdigit() else 0

    def usual(self, number, verb):
        if verb in ("EHLO", "LHLO"):
            extensions = self.extensions(number) \
                if callable(self.extensions) else self.extensions
            *rows, last = "next.example.net", *extensions
            return "".join(f"250-{row}\r\n" for row in rows) + f"250 {last}"
        return {"QUIT": "221 2.0.0 bye", "DATA": "354 go",
                "AUTH": "235 2.7.0 welcome", "XCLI": "220 next.example.net"
                }.get(verb, "250 2.0.0 taken")

    def talk(self, connection, read, number):
        recipients, chunks = 0, []
        if not self.say(connection, number, "", "220 next.example.net"):
            return
        for line in read:
            command = line.removesuffix(b"\r\n").decode(
                errors="surrogateescape")
            self.commands.append((number, command))
            verb, words = command[:4].upper(), command.upper().split()
            if verb == "BDAT":
                chunks.append(read.read(int(words[1])))
            last = verb == "BDAT" and words[-1] == "LAST"
            for _ in range(recipients if last and self.lmtp else 1):
                code = self.say(connection, number, command,
                                self.usual(number, verb))
            if code in (0, 221, 421):
                return
            if last and code < 300:
                self.messages.append(b"".join(chunks))
            if verb == "DATA" and code == 354:
                if not self.take_data(read):
                    return
                for _ in range(recipients if self.lmtp else 1):
                    if not self.say(connection, number, ".",
                                    "250 2.0.0 taken"):
                        return
            if last or verb in ("RSET", "MAIL", "DATA"):
                recipients, chunks = 0, []
            recipients += verb == "RCPT" and code < 300

    def take_data(self, read):
        text, raw = [], []
        for line in read:
            raw.append(line)
            # A line ends at CRLF: whatever readline() thinks.
            first = len(raw) == 1 or raw[-2].endswith(b"\r\n")
            if first and line == b".\r\n":
                self.messages.append(b"".join(text))
                self.texts.append(b"".join(raw))
                return True
            text.append(line[1:] if first and line[:1] == b"." else line)
        return False
