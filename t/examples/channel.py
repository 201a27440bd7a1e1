"""channel.py - channel.h from Python, by ctypes: SMTP with one client on
standard input and output.  python3 channel.py [libsmtpd-channel.so.1]"""
import email
import os
import sys
from ctypes import (CDLL, CFUNCTYPE, Structure, byref, c_char_p, c_int,
                    c_size_t, c_uint64, c_void_p, create_string_buffer,
                    string_at)


class Span(Structure):
    _fields_ = [("p", c_void_p), ("len", c_size_t)]


class Settings(Structure):      # struct channel_settings: what is used of it
    _fields_ = [("fqdn", c_char_p), ("size", c_uint64), ("rest", c_void_p * 16)]


PATH = CFUNCTYPE(None, c_void_p, Span, Span, c_void_p)
BODY = CFUNCTYPE(None, c_void_p, Span)
FORGET = CFUNCTYPE(None, c_void_p)
END = CFUNCTYPE(None, c_void_p, c_void_p, c_size_t)


class Hooks(Structure):         # struct channel_hooks: greeting, EHLO, MAIL...
    _fields_ = [("before", c_void_p * 3), ("rcpt", PATH),
                ("data", c_void_p * 2), ("body", BODY), ("end", END),
                ("refused", c_void_p), ("forget", FORGET), ("x", c_void_p * 32)]


lib = CDLL((sys.argv + ["libsmtpd-channel.so.1"])[1])
lib.channel_feed.restype = lib.channel_size.restype = c_size_t
lib.channel_output.restype = c_void_p
lib.reply_set.argtypes = [c_void_p, c_int, c_char_p, c_char_p]
assert lib.channel_version() // 1000 == 1


class Channel:
    """To refuse, rcpt() and message() return (code, enhanced code, text)."""

    def __init__(self, fqdn):
        self.set = Settings(fqdn.encode(), 10 ** 7)
        self.hooks = Hooks(
            body=BODY(self.body), forget=FORGET(self.forget),
            rcpt=PATH(lambda _, path, options, reply: self.answer(reply, lambda:
                self.rcpt(string_at(path.p, path.len).decode()))),
            end=END(lambda _, reply, n: self.answer(reply, lambda:
                self.message(email.message_from_bytes(self.text)))))
        self.forget()
        self.channel = create_string_buffer(lib.channel_size())
        lib.channel_init(self.channel, byref(self.set), byref(self.hooks), None)
        lib.channel_greet(self.channel)

    def answer(self, reply, function):
        try:        # an exception must not end in the channel, which is C
            refusal = function()
        except Exception as error:
            refusal = 451, b"4.3.0", b"Internal error"
            print(error, file=sys.stderr)
        if refusal:
            lib.reply_set(reply, *refusal)

    def body(self, _, text):
        self.text += string_at(text.p, text.len)

    def forget(self, _=None):
        self.text = b""

    def __del__(self):
        lib.channel_free(self.channel)

    def feed(self, octets):
        """Gives octets; returns the replies, and whether it is over."""
        out, size, used = b"", c_size_t(), 0    # used of octets
        while True:
            p = lib.channel_output(self.channel, byref(size))
            out += string_at(p, size.value)
            lib.channel_sent(self.channel, size)
            over = c_int.from_buffer(self.channel).value == 2   # WANT_CLOSE
            if over or used == len(octets):
                return out, over
            octets = octets[used:]
            used = lib.channel_feed(self.channel, octets, c_size_t(len(octets)))


class Example(Channel):
    def rcpt(self, address):
        if address.startswith("nobody@"):
            return 550, b"5.1.1", b"No such mailbox"

    def message(self, message):
        return 250, b"2.0.0", f"Thanks for {message['Subject']}".encode()


conversation, data, over = Example("python.example.org"), b"", False
while not over:
    replies, over = conversation.feed(data)
    os.write(1, replies)
    over = over or not (data := os.read(0, 65536))
