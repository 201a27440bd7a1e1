"""milter.py - a filter that speaks Sendmail's milter protocol, for scripts.

A Filter answers each event as it is told: answers is {event: answer}, or a
function of (filter connection's number, event, data).  An answer is a list of
packets, which packet() makes; b"" in place of one hangs up; None: no answer at
all.  What it heard is kept in heard, as (event, data), and the macros in
macros: {event: {name: value}}.
"""
import os
import socket
import struct
import threading

CONTINUE = "c"


def packet(command, data=b""):
    if isinstance(data, str):
        data = data.encode()
    return struct.pack(">I", len(data) + 1) + command.encode() + data


def number(n, *strings):
    return struct.pack(">I", n) + b"".join(s.encode() + b"\0"
                                           for s in strings)


def strings(*all_):
    return b"".join(s.encode() + b"\0" for s in all_)


class Filter:
    def __init__(self, where, answers=None, steps=0, actions=0x1ff, version=6,
                 symbols=b"", name="filter", hello=None):
        self.path = os.path.join(where, name)
        self.place = f"unix:{self.path}"
        self.answers = answers or {}
        self.hello = hello or packet("O", struct.pack(
            ">III", version, actions, steps) + symbols)
        self.steps = steps
        self.heard, self.macros, self.offers = [], {}, []
        self.connections = 0
        self.socket = socket.socket(socket.AF_UNIX)
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.socket.bind(self.path)
        os.chmod(self.path, 0o777)
        self.socket.listen()
        self.threads = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:     # shut down
                return
            self.connections += 1
            thread = threading.Thread(target=self.serve, daemon=True,
                                      args=[client, self.connections])
            self.threads.append(thread)
            thread.start()

    def serve(self, client, count):
        with client, client.makefile("rb") as read:
            while True:
                try:
                    head = read.read(5)
                except OSError:     # smtpd has closed before it read all
                    return
                if len(head) < 5:
                    return
                length, event = struct.unpack(">Ic", head)
                event = event.decode()
                data = read.read(length - 1)
                try:
                    if not self.answer(client, count, event, data):
                        return
                except OSError:     # smtpd has closed
                    return

    SILENT = {"L": 0x80, "C": 0x1000, "H": 0x2000, "M": 0x4000, "R": 0x8000,
              "T": 0x10000, "U": 0x20000, "N": 0x40000, "B": 0x80000}

    def answer(self, client, count, event, data):
        if event == "D":
            parts = data[1:].decode(errors="replace").split("\0")
            self.macros.setdefault(chr(data[0]), {}).update(
                zip(parts[::2], parts[1::2]))
            return True
        if event == "O":
            self.offers.append(struct.unpack(">III", data))
            client.sendall(self.hello)
            return True
        self.heard.append((event, data))
        if event == "Q":
            return False
        if event == "A" or self.steps & self.SILENT.get(event, 0):
            return True
        said = (self.answers(count, event, data) if callable(self.answers)
                else self.answers.get(event, CONTINUE))
        if said is None:
            return True
        for one in [packet(said)] if isinstance(said, str) else said:
            if one == b"":
                return False
            client.sendall(one)
        return True

    def events(self):
        return "".join(event for event, _ in self.heard)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def wait(self):
        """Until those who were connected are gone."""
        for thread in self.threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
