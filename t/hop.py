"""hop.py - a next hop that says yes to everything, and remembers each octet.

It ends a message at CRLF.CRLF alone; what a laxer one would make of the same
octets, ends() says.
"""
import re
import socket
import threading

# Whatever anybody is known to take for a line's end on either side of a dot:
# CR, LF, both in any order and number, and a NUL where a line is a C string.
END = re.compile(rb"(?:^|[\r\n])\.(?=[\r\n\0])")


def ends(text):
    """How many ends of a message there are in what followed 354."""
    return len(END.findall(text))


class Hop:
    def __init__(self, extensions=("PIPELINING", "SIZE", "8BITMIME"),
                 lmtp=False):
        self.extensions, self.lmtp = extensions, lmtp
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.forget()
        threading.Thread(target=self.serve, daemon=True).start()

    def forget(self):
        self.messages = []      # without dots and chunk sizes
        self.texts = []         # as they came, the last dot included
        self.commands = []      # everything else, a line each

    def relay(self):
        port = self.listener.getsockname()[1]
        return f"{'lmtp' if self.lmtp else 'smtp'}:[127.0.0.1]:{port}"

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
