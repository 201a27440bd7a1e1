"""hop.py - what smuggling.t, peers-smuggling.t and faults.t share: a client
whose packets stay apart, what it smuggles, and a next hop that says yes to
everything and remembers each octet.

The hop ends a message at CRLF.CRLF alone; what a laxer one would make of the
same octets, ends() says.
"""
import os
import re
import select
import socket
import subprocess
import tempfile
import threading

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


class Hop:
    def __init__(self, extensions=("PIPELINING", "SIZE", "8BITMIME"),
                 lmtp=False, path=None):
        self.extensions, self.lmtp, self.path = extensions, lmtp, path
        if path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            os.chmod(path, 0o777)
            self.listener.listen()
        else:
            self.listener = socket.create_server(("127.0.0.1", 0))
        self.forget()
        threading.Thread(target=self.serve, daemon=True).start()

    def forget(self):
        self.messages = []      # without dots and chunk sizes
        self.texts = []         # as they came, the last dot included
        self.commands = []      # everything else, a line each

    def relay(self):
        at = f"unix:{self.path}" if self.path else \
            f"[127.0.0.1]:{self.listener.getsockname()[1]}"
        return f"{'lmtp' if self.lmtp else 'smtp'}:{at}"

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as read:
                try:
                    self.talk(connection, read)
                except OSError:
                    pass

    def talk(self, connection, read):
        recipients, chunks = 0, []
        connection.sendall(b"220 next.example.net\r\n")
        for command in read:
            self.commands.append(command)
            verb, answers = command[:4].upper(), 1
            if verb in (b"EHLO", b"LHLO"):
                rows = ["next.example.net", *self.extensions]
                connection.sendall(b"".join(
                    f"250{'-' if i + 1 < len(rows) else ' '}{row}\r\n".encode()
                    for i, row in enumerate(rows)))
                continue
            if verb == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            if verb == b"RCPT":
                recipients += 1
            if verb == b"DATA":
                connection.sendall(b"354 go\r\n")
                if not self.take_data(read):
                    return
            if verb == b"BDAT":
                chunks.append(read.read(int(command.split()[1])))
                if b"LAST" in command.upper():
                    self.messages.append(b"".join(chunks))
                    chunks = []
            if verb == b"DATA" or (verb == b"BDAT" and not chunks):
                answers = recipients if self.lmtp else 1
                recipients = 0
            connection.sendall(b"250 2.0.0 taken\r\n" * answers)

    def take_data(self, read):
        text, raw = [], []
        for line in read:
            raw.append(line)
            # A line ends at CRLF: whatever readline() thinks.
            if line == b".\r\n" and (len(raw) == 1 or
                                     raw[-2].endswith(b"\r\n")):
                self.messages.append(b"".join(text))
                self.texts.append(b"".join(raw))
                return True
            first = len(raw) == 1 or raw[-2].endswith(b"\r\n")
            text.append(line[1:] if first and line[:1] == b"." else line)
        return False

    def settle(self):
        """Returns when what was sent before has been read."""
        # One connection at a time: once we are greeted the others are over.
        with socket.create_connection(self.listener.getsockname()) as one:
            one.recv(4096)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Scripted(Hop):
    """A next hop that says at each step what answer(dial, command) returns:
    a reply (bytes or text), None for what it would say, HANG_UP, or STALL: it
    says nothing until we hang up.  dial counts connections from 1; command is
    the line, or "" for the greeting and "." for the end of a message by DATA.
    Extensions may be a function of dial.  Connections are served side by
    side."""

    HANG_UP = object()
    STALL = object()

    def __init__(self, answer=lambda dial, command: None, **more):
        self.answer, self.dials = answer, 0
        super().__init__(**more)

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.dials += 1
            threading.Thread(target=self.converse, daemon=True,
                             args=(connection, self.dials)).start()

    def converse(self, connection, dial):
        with connection, connection.makefile("rb") as read:
            try:
                self.dialogue(connection, read, dial)
            except OSError:
                pass

    def say(self, connection, dial, command, usual):
        """Returns the code, or 0 after hanging up."""
        said = self.answer(dial, command)
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

    def dialogue(self, connection, read, dial):
        recipients, chunks = 0, []
        extensions = self.extensions(dial) if callable(self.extensions) else \
            self.extensions
        if not self.say(connection, dial, "", "220 next.example.net"):
            return
        for line in read:
            command = line.rstrip(b"\r\n").decode()
            self.commands.append((dial, command))
            verb, usual, n = command[:4].upper(), "250 2.0.0 taken", 1
            if verb in ("EHLO", "LHLO"):
                rows = ["next.example.net", *extensions]
                usual = "\r\n".join(
                    f"250{'-' if i + 1 < len(rows) else ' '}{row}"
                    for i, row in enumerate(rows))
            elif verb == "QUIT":
                usual = "221 2.0.0 bye"
            elif verb == "DATA":
                usual = "354 go"
            elif verb == "AUTH":
                usual = "235 2.7.0 welcome"
            elif verb == "BDAT":
                chunks.append(read.read(int(command.split()[1])))
            code = self.say(connection, dial, command, usual)
            if code in (0, 221, 421):
                return
            if verb in ("RSET", "MAIL"):
                recipients = 0
            recipients += verb == "RCPT" and code < 300
            if verb == "BDAT" and "LAST" in command.upper() and code < 300:
                self.messages.append(b"".join(chunks))
            if verb == "DATA" and code == 354:
                if not self.take_data(read):
                    return
                for _ in range(recipients if self.lmtp else 1):
                    if not self.say(connection, dial, ".", "250 2.0.0 taken"):
                        return
