#!/usr/bin/python3
"""pymilter.py SOCKET RECORD - a filter on python3-milter that writes down every
callback with its arguments and macros, a line of JSON each, and at the end of
the message does every action that there is."""
import json
import sys

import Milter

# All that Postfix's MILTER_README has.
MACROS = ["i", "j", "v", "_", "{auth_authen}", "{auth_author}", "{auth_type}",
          "{client_addr}", "{client_connections}", "{client_name}",
          "{client_port}", "{client_ptr}", "{cert_issuer}", "{cert_subject}",
          "{cipher}", "{cipher_bits}", "{daemon_addr}", "{daemon_name}",
          "{daemon_port}", "{mail_addr}", "{mail_host}", "{mail_mailer}",
          "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}", "{tls_version}"]
STAGES = 7


class Recorder(Milter.Base):
    def negotiate(self, opts):
        for stage in range(STAGES):     # each macro wherever there is one
            self._ctx.setsymlist(stage, " ".join(MACROS))
        return super().negotiate(opts)

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
        self.sender = arguments[0]
        self.note("envfrom", *arguments)
        return self.verdict("mail")

    def verdict(self, stage):
        """What a sender such as <mail-reject@example.org> asks for."""
        asked = self.sender[1:].partition("@")[0].partition("-")
        if asked[0] != stage:
            return Milter.CONTINUE
        if asked[2] == "reply":
            self.setreply("554", "5.7.9", "100%% of two", "lines")
        return {"reject": Milter.REJECT, "tempfail": Milter.TEMPFAIL,
                "reply": Milter.REJECT, "discard": Milter.DISCARD,
                "accept": Milter.ACCEPT}[asked[2]]

    def envrcpt(self, *arguments):
        self.note("envrcpt", *arguments)
        return self.verdict("rcpt")

    def data(self):
        self.note("data")
        return self.verdict("data")

    def header(self, name, value):
        return self.note("header", name, value)

    def eoh(self):
        self.note("eoh")
        return self.verdict("header")

    def body(self, chunk):
        return self.note("body", chunk.decode())

    def unknown(self, command):
        return self.note("unknown", command)

    def eom(self):
        self.note("eom")
        if "-" in self.sender:
            return self.verdict("end")
        self.addheader("X-Added", "at the end")
        self.addheader("X-Inserted", "in front", 1)
        self.chgheader("Subject", 1, "changed")
        self.chgheader("X-Two", 2, "the second")
        self.chgheader("X-Gone", 1, "")
        self.replacebody("a new\r\nbody\r\n")
        self.addrcpt("<added@example.net>")
        self.delrcpt("<b@example.net>")
        self.addrcpt("<never@example.net>", "NOTIFY=NEVER")
        self.chgfrom("<changed@example.org>", "RET=HDRS")
        self.progress()
        return Milter.ACCEPT

    def abort(self):
        return self.note("abort")

    def close(self):
        return self.note("close")


Milter.factory = Recorder
Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGBODY
                 | Milter.ADDRCPT | Milter.DELRCPT | Milter.CHGFROM
                 | Milter.SETSYMLIST | Milter.ADDRCPT_PAR)
Milter.runmilter("recorder", sys.argv[1], 60)
