#!/usr/bin/env python3
"""peers-mailman.t - lists of a real Mailman 3, reached by the map that it
writes itself, in both of its forms.

The Mailman is one of our own, in a temporary folder, with runners that are
children of this test.  Its LMTP runner queues a post before it answers, so a
queue is looked at as soon as smtpd has replied; what Mailman sends, it sends
to another smtpd, which is started here as by inetd.
"""
import contextlib
import email
import email.utils
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.abspath("t"))
from fakes.server import Server
from tap import SMTPD, Session, folder, free_port, lines, main, message, test

MASTER = "/usr/lib/mailman3/bin/master"
DOMAIN = "lists.example.org"
LIST, GONE = f"crew@{DOMAIN}", f"gone@{DOMAIN}"
REFUSAL = "550 5.0.0 Requested action not taken: mailbox unavailable"
CONFIG = """
[mailman]
layout: test
site_owner: owner@example.org
[paths.test]
var_dir: {where}/var
bin_dir: /usr/lib/mailman3/bin
[mta]
incoming: mailman.mta.postfix.LMTP
configuration: {where}/{kind}.postfix
lmtp_host: 127.0.0.1
lmtp_port: {lmtp}
smtp_host: 127.0.0.1
smtp_port: {smtp}
max_sessions_per_connection: 1
"""
# What nobody here needs; and bounces stay in their queue, to be seen.
for idle in ("archive", "bounces", "digest", "nntp", "rest", "retry", "task"):
    CONFIG += f"[runner.{idle}]\nstart: no\n"
for busy in ("command", "in", "out", "pipeline", "virgin"):
    CONFIG += f"[runner.{busy}]\nsleep_time: 0.1s\n"


class Sink(Server):
    """A mail server: smtpd for each connection, into a Maildir."""

    def __init__(self, maildir):
        self.maildir = maildir
        self.served = threading.Condition()
        super().__init__()

    def serve(self, connection, number):
        with connection:
            subprocess.run([SMTPD, "--", BOX, self.maildir],
                           stdin=connection, stdout=connection,
                           stderr=subprocess.DEVNULL)
        with self.served:
            self.served.notify_all()

    def close(self):
        super().close()
        self.wait()

    def get(self, recipient, wanted):
        """Waits for a mail to recipient with that text in it."""
        with self.served:
            return self.served.wait_for(
                lambda: mails(self.maildir, recipient, wanted))[0]


class Mailman:
    """An instance with two lists, one of which exists in its maps alone."""

    def __init__(self, where, smtp):
        self.where = where
        self.master = None
        self.var = os.path.join(where, "var")
        user = pwd.getpwnam("list")
        os.mkdir(self.var)
        os.chown(self.var, user.pw_uid, user.pw_gid)
        self.port = free_port()
        for kind in ("hash", "regex"):
            with open(f"{where}/{kind}.postfix", "w") as f:
                f.write("[postfix]\npostmap_command: true\n"
                        f"transport_file_type: {kind}\n")
            with open(f"{where}/{kind}.cfg", "w") as f:
                f.write(CONFIG.format(where=where, kind=kind, smtp=smtp,
                                      lmtp=self.port))

    def start(self):
        self.master = subprocess.Popen(
            [MASTER, "-C", f"{self.where}/hash.cfg"], **self.as_list())
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                pass
            # Nothing tells when it is up; but its end would be told.
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self.master.wait(0.05)
                raise AssertionError(f"Mailman has ended: {status}")

    def stop(self):
        if self.master is not None:
            self.master.terminate()
            self.master.wait()
        self.master = None

    def as_list(self):
        return {"user": "list", "group": "list", "extra_groups": [],
                "cwd": self.where, "umask": 0o007,
                "env": {**os.environ, "HOME": self.where}}

    def run(self, *command, kind="hash", text=""):
        """`mailman COMMAND', as the list user: what it prints."""
        done = subprocess.run(
            ["/usr/bin/mailman", "-C", f"{self.where}/{kind}.cfg", *command],
            input=text, capture_output=True, text=True, **self.as_list())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def map(self, kind):
        return os.path.join(self.where, "var", kind, "postfix_lmtp")

    def queue(self, name, wanted):
        """The entries of a queue with that text in them."""
        return contents(os.path.join(self.var, "queue", name), wanted)


def contents(path, wanted):
    """The files of a folder, which may be missing, with that text in them."""
    found = []
    for name in os.listdir(path) if os.path.isdir(path) else ():
        with contextlib.suppress(FileNotFoundError):
            with open(os.path.join(path, name), "rb") as f:
                found.append(f.read())
    return [octets for octets in found if wanted.encode() in octets]


def mails(maildir, recipient, wanted):
    """What a Maildir has for recipient with that text in it."""
    found = contents(os.path.join(maildir, "new"), wanted)
    return [m for m in map(email.message_from_bytes, found)
            if recipient in m.get_all("Delivered-To")]


def relayed(ident):
    """To whom RELAY was given that message, for each time."""
    return [email.message_from_bytes(m).get_all("Delivered-To")
            for m in contents(RELAY + "/new", f"<{ident}@")]


def each_map(function):
    """A test for each form of map."""
    for kind in ("hash", "regex"):
        def check(kind=kind):
            function(kind)
        check.__name__ = f"{kind}:_{function.__name__}"
        test(check)


def smtpd(kind, *options):
    """As the README has it: root may read the maps, nobody may not."""
    return Session("--routes", mailman.map(kind), *options, "--", BOX, RELAY)


def post(s, ident, *to, sender="poster@example.org", subject="ahoy", body="",
         headers=()):
    """Sends one message, returns what s says to its last dot."""
    return s.deliver(f"From: {sender}", f"To: {to[0]}", f"Subject: {subject}",
                     f"Message-ID: <{ident}@example.org>", *headers, "", body,
                     sender="poster@example.org", to=to)


@test
def mailman_writes_its_maps():
    for name in (LIST, GONE):
        mailman.run("create", "-d", name)
    mailman.run("addmembers", "-", LIST,
                text="poster@example.org\nreader@example.net\n")
    # Mailman knows these: when a post and a request of somebody new arrive
    # together, its own runners trip over each other.
    mailman.run("addmembers", "-W", "-", GONE,
                text="hash@example.org\nregex@example.org\n")
    for kind in ("hash", "regex"):
        os.mkdir(os.path.join(mailman.var, kind))
        shutil.chown(os.path.join(mailman.var, kind), "list", "list")
        mailman.run("aliases", "-d", os.path.dirname(mailman.map(kind)),
                    kind=kind)
    with open(mailman.map("hash")) as f:
        assert re.search(rf"^crew-join@{DOMAIN} +lmtp:\[127\.0\.0\.1\]:"
                         rf"{mailman.port}$", f.read(), re.M)
    with open(mailman.map("regex")) as f:
        assert r"/^gone-bounces(\+.*)?@lists\.example\.org$/" in f.read()


@test
def mailman_starts_and_has_one_list_less():
    mailman.run("remove", GONE)
    assert mailman.run("lists", "-q").split() == [LIST]
    mailman.start()


@each_map
def one_message_for_a_list_its_commands_and_a_person(kind):
    newcomer, person = f"{kind}@example.org", f"Jo+{kind}@example.com"
    with smtpd(kind) as s:
        s.start()
        reply = post(s, f"all-{kind}", LIST.upper(), person,
                     f"crew-request@{DOMAIN}", f"crew-join@{DOMAIN}",
                     sender=newcomer, subject="echo ahoy", body="..dot")
        assert reply.startswith("250 2.0.0 "), reply
        assert s.finish()[0] == 0
    assert relayed(f"all-{kind}") == [[person]]
    copy = sink.get("reader@example.net", f"<all-{kind}@")
    assert copy["Subject"] == "[Crew] echo ahoy", copy["Subject"]
    assert copy.get_payload().startswith(".dot"), copy.get_payload()
    assert copy["Return-Path"] == f"<crew-bounces@{DOMAIN}>"
    sink.get(newcomer, "- Results:\necho ahoy\n")
    confirm(kind, newcomer, sink.get(newcomer, "crew-confirm+"))


@test
def with_live_an_unknown_list_is_refused_when_it_is_named():
    with Session("--live", "--relay-clients", "all",
                 f"lmtp:[127.0.0.1]:{mailman.port}") as s:
        s.start()
        got = s.say("MAIL FROM:<poster@example.org>",
                    *[f"RCPT TO:<{to}>" for to in (
                        LIST, GONE, f"nobody@{DOMAIN}",
                        f"crew-request@{DOMAIN}")])
        assert [r[:3] for r in got] == ["250", "250", "550", "550", "250"], got
        assert got[2] == REFUSAL, got
        assert s.say("DATA")[0][:3] == "354"
        s.send(lines("From: poster@example.org", f"To: {LIST}",
                     "Subject: echo live", "Message-ID: <live@example.org>",
                     "", "y", "."))
        reply = s.reply()
        assert reply.startswith("250 "), reply
        s.finish()
    copy = sink.get("reader@example.net", "<live@")
    assert copy["Subject"] == "[Crew] echo live", copy["Subject"]


def confirm(kind, newcomer, request):
    """The address that Mailman made up leads back to it."""
    address = email.utils.parseaddr(request["From"])[1]
    assert re.fullmatch(rf"crew-confirm\+[0-9a-f]+@{DOMAIN}", address)
    with smtpd(kind) as s:
        s.start()
        reply = post(s, f"confirm-{kind}", address, sender=newcomer,
                     subject="Re: " + " ".join(request["Subject"].split()))
        assert reply.startswith("250 "), reply
    sink.get(newcomer, "Welcome to the ")
    assert newcomer in mailman.run("members", LIST).split()


@each_map
def a_bounce_finds_its_list_by_an_address_with_detail(kind):
    address = f"crew-bounces+reader=example.net@{DOMAIN}"
    with smtpd(kind) as s:
        s.start()
        reply = post(s, f"bounce-{kind}", address)
        assert reply.startswith("250 "), reply
    entry, = mailman.queue("bounces", f"<bounce-{kind}@")
    assert address.encode() in entry and b"crew.lists.example.org" in entry
    assert relayed(f"bounce-{kind}") == []


@each_map
def a_list_that_is_gone_is_refused_in_mailmans_words(kind):
    with smtpd(kind) as s:
        s.start()
        reply = post(s, f"gone-{kind}", GONE)
        assert reply == REFUSAL, reply
        # One reply for all: so it is for nobody, and says why.
        reply = post(s, f"mixed-{kind}", LIST, "jo@example.com", GONE)
        assert reply.startswith("550-"), reply
        assert f"<{GONE}>: {REFUSAL}" in reply, reply
        assert LIST not in reply and "jo@" not in reply, reply
        # What is in order goes the same way, so later than all of that.
        assert post(s, f"after-{kind}", LIST).startswith("250 ")
    sink.get("reader@example.net", f"<after-{kind}@")
    for ident in (f"gone-{kind}", f"mixed-{kind}"):
        assert not relayed(ident)
        assert not contents(sink.maildir + "/new", f"<{ident}@")


@each_map
def in_lmtp_each_recipient_has_its_own_reply(kind):
    with smtpd(kind, "--lmtp") as s:
        s.send(lines("LHLO client.example.org") +
               message("From: poster@example.org", f"To: {LIST}", "Subject: x",
                       f"Message-ID: <lmtp-{kind}@example.org>", "", "y",
                       sender="poster@example.org",
                       to=(GONE, LIST, "jo@example.com")))
        *_, gone, posted, person = s.replies(10)
    assert gone == REFUSAL, gone
    assert posted.startswith("250 ") and person.startswith("250 ")
    assert relayed(f"lmtp-{kind}") == [["jo@example.com"]]
    sink.get("reader@example.net", f"<lmtp-{kind}@")


@test
def a_map_that_may_not_be_read_puts_all_mail_off():
    place = folder()
    program = shutil.copy(SMTPD, place)     # ours may be where nobody comes
    with Session("--routes", mailman.map("hash"), f"maildir:{RELAY}",
                 wrap=["setpriv", "--reuid=65534", "--regid=65534",
                       "--clear-groups"], program=program) as s:
        s.start()
        replies = s.say("MAIL FROM:<a@example.org>",
                        "RCPT TO:<jo@example.com>")
        assert replies[1] == "451 4.3.5 Local configuration error", replies
    shutil.rmtree(place)


@test
def mailman_that_does_not_run_is_a_reason_to_come_back():
    mailman.stop()
    with smtpd("hash") as s:
        s.start()
        reply = post(s, "stopped", LIST, "jo@example.com")
        assert reply.startswith("451-4.4.1 "), reply
        assert f"<{LIST}>: 451 4.4.1 " in reply, reply
    assert relayed("stopped") == []


def show_log():
    """Mailman's own account, as TAP comments."""
    with contextlib.suppress(FileNotFoundError):
        with open(f"{mailman.var}/logs/mailman.log", errors="replace") as f:
            for line in f.readlines()[-60:]:
                print(f"# {line}", end="")


def lacks():
    """What is missing here, or None."""
    if os.getuid() != 0:
        return "Mailman runs as the list user: needs root"
    if not os.access(MASTER, os.X_OK) or not shutil.which("mailman"):
        return "no Mailman 3 here (package mailman3)"
    return None


if __name__ == "__main__":
    if lacks():
        print(f"1..0 # SKIP {lacks()}")
        sys.exit(0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    where = folder()
    RELAY = f"{where}/relay"
    BOX = shutil.copy("t/fakes/box", where)
    sink = Sink(f"{where}/sink")
    mailman = Mailman(where, sink.port)
    try:
        main()
    except SystemExit as end:
        if end.code:
            show_log()
        raise
    finally:
        mailman.stop()
        sink.close()
        shutil.rmtree(where)
