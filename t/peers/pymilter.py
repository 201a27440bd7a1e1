#!/usr/bin/python3
"""pymilter.py SOCKET RECORD - a filter on python3-milter that writes down every
callback with its arguments and macros, a line of JSON each, and at the end of
the message does every action that there is."""
import json
import sys

import Milter

MACROS = ["i", "j", "_", "{client_addr}", "{client_name}", "{client_ptr}",
          "{daemon_name}", "{mail_addr}", "{mail_host}", "{mail_mailer}",
          "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}", "{auth_type}",
          "{tls_version}"]


class Recorder(Milter.Base):
    def note(self, name, *arguments):
        macros = {m: self.getsymval(m) for m in MACROS}
        with open(sys.argv[2], "a") as f:
            print(json.dumps([name, arguments, {
                m: v for m, v in macros.items() if v is not None}]), file=f)
        return Milter.CONTINUE

    def connect(self, name, family, address):
        return self.note("connect", name, family)

    def hello(self, name):
        return self.note("hello", name)

    def envfrom(self, *arguments):
        return self.note("envfrom", *arguments)

    def envrcpt(self, *arguments):
        return self.note("envrcpt", *arguments)

    def data(self):
        return self.note("data")

    def header(self, name, value):
        return self.note("header", name, value)

    def eoh(self):
        return self.note("eoh")

    def body(self, chunk):
        return self.note("body", chunk.decode())

    def unknown(self, command):
        return self.note("unknown", command)

    def eom(self):
        self.note("eom")
        self.addheader("X-Added", "at the end")
        self.addheader("X-Inserted", "in front", 1)
        self.chgheader("Subject", 1, "changed")
        self.chgheader("X-Two", 2, "the second")
        self.chgheader("X-Gone", 1, "")
        self.replacebody("a new\r\nbody\r\n")
        self.addrcpt("<added@example.net>")
        self.delrcpt("<b@example.net>")
        self.chgfrom("<changed@example.org>")
        self.progress()
        return Milter.ACCEPT

    def abort(self):
        return self.note("abort")

    def close(self):
        return self.note("close")


Milter.factory = Recorder
Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGBODY
                 | Milter.ADDRCPT | Milter.DELRCPT | Milter.CHGFROM)
Milter.runmilter("recorder", sys.argv[1], 60)
