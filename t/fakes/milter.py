"""milter.py - a filter that speaks Sendmail's milter protocol, for scripts.

A Filter answers each event as it is told: answers is {event: answer}, or a
function of (filter connection's number, event, data).  An answer is a list of
packets, which packet() makes; b"" in place of one hangs up; None: no answer at
all.  What it heard is kept in heard, as (event, data), and the macros in
macros: {event: {name: value}}.
"""
import glob
import itertools
import os
import re
import struct

from fakes.server import Server
from tap import folder

CONTINUE = "c"
PLACE = folder()
boxes = itertools.count(1)


def box():
    """A Maildir that is not there yet."""
    return os.path.join(PLACE, f"box{next(boxes)}")


def packet(command, data=b""):
    if isinstance(data, str):
        data = data.encode()
    return struct.pack(">I", len(data) + 1) + command.encode() + data


def number(n, *strings):
    return struct.pack(">I", n) + b"".join(s.encode() + b"\0"
                                           for s in strings)


def strings(*all_):
    return b"".join(s.encode() + b"\0" for s in all_)


def stored(where):
    """The messages in a Maildir as filters left them: without the fields that
    smtpd writes."""
    found = []
    for name in sorted(glob.glob(f"{where}/new/*")):
        with open(name, "rb") as f:
            found.append(re.sub(
                rb"(?m)^(Received|Return-Path|Delivered-To):.*\n"
                rb"([ \t].*\n)*", b"", f.read()))
    return found


class Filter(Server):
    def __init__(self, where, answers=None, steps=0, actions=0x1ff, version=6,
                 symbols=b"", name="filter", hello=None):
        self.answers = answers or {}
        self.hello = hello or packet("O", struct.pack(
            ">III", version, actions, steps) + symbols)
        self.steps = steps
        self.heard, self.macros, self.offers = [], {}, []
        super().__init__(os.path.join(where, name))
        self.place = self.at

    def talk(self, connection, read, number):
        while len(head := read.read(5)) == 5:
            length, event = struct.unpack(">Ic", head)
            if not self.answer(connection, number, event.decode(),
                               read.read(length - 1)):
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


def changes(*packets, **more):
    """A filter that answers the end of a message by these, and "continue"."""
    return Filter(PLACE, {"E": [*packets, packet(CONTINUE)]}, **more)
