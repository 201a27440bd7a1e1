#!/usr/bin/env python3
"""faults.t - every call on a message's way fails once, with each errno that
it may have; every process is ended at every call.  Then the client's reply
and the relay's state agree, and nothing hangs or is left behind.

    FAULT_TRACE=1 t/faults.t    shows what was tried, and what came of it
"""
import collections
import ctypes
import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from fakes.hop import Hop
from tap import (HELLO, SMTPD, PolicyService, Session, Skip, certificate,
                 family, folder, lines, main, message, need, script, test,
                 test_unless_static, unverified)

# The injector is preloaded, and the sanitizers' runtime must come first: so it
# is the plain program, whichever is under test.  Nothing can be preloaded into
# the static one.
SMTPD = SMTPD.replace("/t/out/san/", "/")

INJECTOR = os.path.abspath("t/out/san/fault.so")
TRACE = "FAULT_TRACE" in os.environ
END = 0     # in place of an errno: the process ends there

ERRORS = {
    # "+": that call and all after it
    "read": "EINTR EIO ECONNRESET", "recv": "EINTR EIO ECONNRESET",
    "write": "EINTR EIO ENOSPC+", "writev": "EINTR EIO ENOSPC+",
    "send": "EINTR EAGAIN EPIPE", "sendfile": "EIO ENOSPC",
    "sendmsg": "EINTR ENOBUFS EPIPE+", "recvmsg": "EINTR ENOMEM ECONNRESET+",
    "pread": "EINTR EIO", "open": "EMFILE+ EACCES ENOSPC",
    "openat": "EMFILE+ EACCES ENOSPC", "mkostemp": "EMFILE ENOSPC",
    "memfd_create": "EMFILE ENOMEM ENOSYS", "ftruncate": "EIO",
    "fsync": "EIO ENOSPC+", "syncfs": "EIO", "fstat": "EIO",
    "mkdir": "EACCES ENOSPC", "mkdirat": "EACCES ENOSPC",
    "linkat": "EIO ENOSPC EMLINK", "renameat": "EIO ENOSPC",
    "unlink": "EIO", "unlinkat": "EIO", "pipe2": "EMFILE", "dup2": "EMFILE",
    "dup3": "EMFILE", "_Fork": "EAGAIN", "clone": "EAGAIN ENOMEM",
    "execv": "ENOENT", "execvpe": "ENOENT", "socketpair": "EMFILE",
    "socket": "EMFILE EAFNOSUPPORT", "connect": "ECONNREFUSED ETIMEDOUT",
    "getsockopt": "ENOBUFS", "poll": "EINTR ENOMEM", "ppoll": "EINTR ENOMEM",
    "lseek": "EIO", "close": "EIO EINTR", "waitpid": "",
    "waitid": "EINTR ENOMEM", "kill": "EPERM", "pidfd_open": "EMFILE ENOSYS",
    "signalfd": "EMFILE", "setsid": "EPERM", "malloc": "ENOMEM ENOMEM+",
    "calloc": "ENOMEM ENOMEM+", "realloc": "ENOMEM ENOMEM+",
}


def adopt_orphans():
    """A process whose parent ended is ours to wait for."""
    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) != 0:
        raise Skip("no PR_SET_CHILD_SUBREAPER")


def wait_for_all():
    """Until nothing that was started is left."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def converse(ours, octets):
    """Sends all, then the end of file; returns all that was said."""
    said, sent = b"", 0
    ours.setblocking(False)
    while True:
        wanted = select.POLLIN | (select.POLLOUT if octets is not None else 0)
        poll = select.poll()
        poll.register(ours, wanted)
        ready = poll.poll()[0][1]
        if octets is not None and ready & (select.POLLOUT | select.POLLERR):
            try:
                sent += ours.send(octets[sent:sent + 65536])
                if sent == len(octets):
                    octets = None
                    ours.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                pass
            except OSError:
                octets = None
        if ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
            try:
                chunk = ours.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                return said
            if not chunk:
                return said
            said += chunk


Outcome = collections.namedtuple("Outcome",
                                 "final replies status log calls fired fds")


def session(octets, arguments, fault=None, env=None):
    """One session, with one fault."""
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as log, \
            tempfile.NamedTemporaryFile("r") as report:
        fd = os.open(report.name, os.O_WRONLY | os.O_APPEND)
        environment = {**os.environ, "LD_PRELOAD": INJECTOR,
                       "FAULT_FD": str(fd), **(env or {})}
        if fault:
            role, name, number, error, more = fault
            environment["FAULT"] = \
                f"{role}:{name}:{number}{'+' if more else ' '}:{error}"
        process = subprocess.Popen(
            [SMTPD, "-H", "mx.example.org", *arguments], stdin=theirs,
            stdout=theirs, stderr=log, pass_fds=(fd,), env=environment)
        os.close(fd)
        theirs.close()
        said = converse(ours, octets).decode(errors="replace")
        ours.close()
        status = process.wait()
        wait_for_all()
        log.seek(0)
        calls, fired, fds = collections.Counter(), False, {}
        for row in (line.split() for line in report):
            if row[1] == "descriptors":
                fds[row[0]] = int(row[2])
                continue
            calls[row[0], row[1]] += 1
            fired = fired or len(row) > 2
        replies = [line for line in said.splitlines() if line[3:4] != "-"]
        codes = [r[:3] for r in replies]
        final = ""
        if "354" in codes and codes.index("354") + 1 < len(replies):
            final = replies[codes.index("354") + 1]
        return Outcome(final, replies, status,
                       log.read().decode(errors="replace"), calls, fired, fds)


def plan(calls):
    """Every fault that these calls can have: the first and last of many."""
    for (role, name), count in sorted(calls.items()):
        for number in range(1, count + 1):
            if 6 < number < count - 3:
                continue
            yield role, name, number, END, False
            for word in ERRORS[name].split():
                yield (role, name, number, getattr(errno, word.rstrip("+")),
                       word.endswith("+"))


def told(fault):
    role, name, number, error, more = fault
    return (f"{name} {number}{'+' if more else ''} of {role}: "
            + (errno.errorcode[error] if error else "the end"))


SHORT = lines(HELLO) + message("Subject: short", "", ".dot") + lines("QUIT")
LONG = lines(HELLO) + message("Subject: long", "", *["x" * 998] * 2200) + \
    lines("QUIT")


class Place:
    """A relay whose state can be seen."""
    final = "250"

    def __init__(self):
        self.path = folder()
        self.spool = os.path.join(self.path, "spool")
        os.mkdir(self.spool)
        os.chmod(self.spool, 0o777)

    def close(self):
        shutil.rmtree(self.path)

    def left(self):
        """Files that should not be there."""
        return os.listdir(self.spool)


class Maildir(Place):
    def arguments(self):
        self.box = os.path.join(self.path, "box")
        return [f"maildir:{self.box}"]

    def take(self):
        """The messages that are there, as they are; there are none then."""
        new = os.path.join(self.box, "new")
        found = []
        for name in os.listdir(new) if os.path.isdir(new) else ():
            with open(os.path.join(new, name), "rb") as f:
                found.append(f.read())
            os.unlink(os.path.join(new, name))
        return found

    def left(self):
        tmp = os.path.join(self.box, "tmp")
        there = os.listdir(tmp) if os.path.isdir(tmp) else []
        for name in there:
            os.unlink(os.path.join(tmp, name))
        return super().left() + there


class Program(Place):
    def arguments(self):
        path = script(self.path, f"""cd {self.path} || exit 75
            cat >half && mv half whole || exit 75""")
        return ["--", path]

    def take(self):
        whole = os.path.join(self.path, "whole")
        if not os.path.exists(whole):
            return []
        with open(whole, "rb") as f:
            found = f.read()
        os.unlink(whole)
        return [found]


class Failing(Program):
    final = "451"

    def arguments(self):
        return ["--", script(self.path, "cat >/dev/null; exit 75")]


class Print(Place):
    def arguments(self):
        self.file = os.path.join(self.path, "file")
        with open(self.file, "w"):
            pass
        os.chmod(self.file, 0o666)
        return [f"print:{self.file}"]

    def take(self):
        with open(self.file, "r+b") as f:
            found = f.read()
            f.truncate(0)
        return [found] if found else []


class NextHop(Place):
    extensions = ("PIPELINING", "SIZE", "8BITMIME")

    def __init__(self):
        super().__init__()
        self.hop = Hop(extensions=self.extensions)

    def arguments(self):
        return [self.hop.relay()]

    def take(self):
        self.hop.settle()
        found = self.hop.messages
        self.hop.forget()
        return found

    def close(self):
        self.hop.close()
        super().close()


class ChunkingHop(NextHop):
    extensions = ("PIPELINING", "SIZE", "8BITMIME", "CHUNKING")


class LiveHop(NextHop):
    """Asked during the dialogue."""

    def arguments(self):
        return ["--live", self.hop.relay()]


UNHEARD = "421 4.3.0 mx.example.org Internal error, try again"
UNANSWERED = "451 4.4.2 Connection to next hop lost"


# What is right although judge() objects, or cannot be avoided.
KNOWN = (
    # The monitor trusts no descriptor that it cannot look at.
    ("fstat", "the channel process was ended"),
    # A file that could not be removed is still there.
    ("unlinkat", "files left"),
    # A process that has lost the log or the monitor, or does not know which
    # descriptor is the client, cannot say so.
    ("write", "nothing in the log"),
    ("sendmsg", "nothing in the log"),
    ("fstat", "nothing in the log"),
)


def judge(fault, got, taken, left, sound):
    """What is wrong, as a list of sentences."""
    wrong = []
    role, name, ended = fault[0], fault[1], fault[3] == END
    # Where one process cannot hear the other, only one of them knows what
    # happened: the client is told to try again, and may deliver twice, but
    # nothing is lost.
    if ended and role == "m":
        unknown = UNHEARD
    else:
        unknown = {("m", "sendmsg"): UNHEARD, ("c", "recvmsg"): UNHEARD,
                   ("m", "recv"): UNANSWERED, ("m", "poll"): UNANSWERED}.get(
                       (role, name))
    # glibc looks up users without looking at what malloc() says.
    if name == "malloc" and got.status < 0 and not got.replies:
        return []
    if len(taken) > 1:
        wrong.append("relayed more than once")
    if got.final.startswith("2") and not taken:
        wrong.append("LOST: acknowledged, not relayed")
    if taken and got.final.startswith("5"):
        wrong.append("bounced, but relayed")
    if taken and got.final.startswith("4") and got.final != unknown:
        wrong.append(f"deferred, but relayed ({got.final})")
    if taken and taken[0].count(b"x" * 998) not in (0, 2200):
        wrong.append("relayed in part")
    if left and not ended:
        wrong.append(f"files left: {left}")
    if not ended:
        if got.status not in (0, 64, 70, 71, 75, 78):
            wrong.append(f"exit status {got.status}")
        # A connection that is gone, without a message, is a probe.
        if not got.log and told(fault) not in ("read 1 of c: ECONNRESET",
                                               "send 1 of c: EPIPE",
                                               "send 1 of c: ECONNRESET"):
            wrong.append("nothing in the log")
        if "killed by signal" in got.log or got.status == 70:
            wrong.append("the channel process was ended")
    for who in "mc" if got.status == 0 else "":
        if got.fds.get(who, 0) > sound.fds[who]:
            wrong.append(f"descriptors of {who}: {got.fds[who]}, were "
                         f"{sound.fds[who]}")
    return wrong


def try_all(kind, octets, names=None):
    """Every fault of one session."""
    adopt_orphans()
    place = kind()
    arguments = place.arguments()
    env = {"TMPDIR": place.spool}
    session(octets, arguments, None, env)       # makes folders
    place.take()
    sound = session(octets, arguments, None, env)
    assert sound.final.startswith(place.final), (sound.replies, sound.log)
    assert len(place.take()) == (place.final == "250") and not place.left()
    wrong, tried, missed = [], 0, 0
    for fault in plan(sound.calls):
        if names and fault[1] not in names:
            continue
        began = time.monotonic()
        got = session(octets, arguments, fault, env)
        tried += 1
        missed += not got.fired
        bad = judge(fault, got, place.take(), place.left(), sound)
        if TRACE:
            print("#", f"{time.monotonic() - began:.3f}", told(fault),
                  got.final or got.replies[-1:],
                  got.status, bad or "")
        bad = [b for b in bad if not any(
            fault[1] == name and b.startswith(what) for name, what in KNOWN)]
        if bad:
            wrong.append(f"{told(fault)}: {', '.join(bad)}")
    place.close()
    print(f"# {tried} faults")
    assert not wrong, "\n".join(wrong)
    # Under load some calls are fewer, which then cannot fail.
    assert tried > 3 * missed, (tried, missed)


class Refusing(Program):
    """A policy service that says yes, and a program that says no."""
    final = "451"

    def arguments(self):
        self.service = PolicyService(self.path)
        path = script(self.path, "exit 75")
        return ["--policy", self.service.place, "--", path]

    def close(self):
        self.service.close()
        super().close()


@test_unless_static
def an_answer_is_never_taken_for_that_to_another_question():
    # A client that does not give up: each command twice.
    octets = lines(HELLO, HELLO, "MAIL FROM:<a@b>", "MAIL FROM:<a@b>",
                   "RCPT TO:<c@d>", "RCPT TO:<c@d>", "DATA", "Subject: x",
                   ".", "QUIT")
    try_all(Refusing, octets, names={
        "recvmsg", "sendmsg", "recv", "send", "read", "write", "poll"})


@test
def sigchld_that_was_ignored_where_we_were_started_matters_not():
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [SMTPD, "-H", "mx.example.org", "--", "true"], stdin=theirs,
        stdout=theirs, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    theirs.close()
    said = converse(ours, SHORT)
    ours.close()
    assert b"354 " in said and b"\r\n250 2.0.0 " in said, said
    assert process.wait() == 0


@test_unless_static
def a_maildir():
    try_all(Maildir, SHORT)


@test_unless_static
def a_program():
    try_all(Program, SHORT)


@test_unless_static
def a_program_that_says_no_when_it_has_read_all():
    # To take it for ended too early would be to acknowledge what it refuses.
    try_all(Failing, SHORT, names={
        "read", "poll", "ppoll", "waitid", "waitpid", "kill", "clone"})


@test_unless_static
def a_file_of_messages():
    try_all(Print, SHORT)


@test_unless_static
def a_next_hop():
    try_all(NextHop, SHORT)


@test_unless_static
def a_next_hop_that_answers_during_the_dialogue():
    try_all(LiveHop, SHORT)
    # A transaction that is given up, a group, and no group.
    try_all(LiveHop, lines(HELLO, "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RSET")
            + SHORT[len(lines(HELLO)):], names={
                "recv", "recvmsg", "send", "sendmsg", "poll", "connect",
                "socket", "read", "malloc", "calloc", "realloc"})


@test_unless_static
def a_next_hop_that_takes_chunks():
    try_all(ChunkingHop, SHORT)


@test_unless_static
def a_maildir_and_a_message_that_outgrows_memory():
    try_all(Maildir, LONG, names={
        "write", "sendfile", "ftruncate", "lseek", "pread", "memfd_create",
        "mkostemp", "open", "openat", "unlink", "fsync", "close"})


@test_unless_static
def a_next_hop_and_a_message_that_outgrows_memory():
    try_all(NextHop, LONG, names={
        "read", "send", "sendmsg", "writev", "sendfile", "lseek", "pread",
        "poll", "memfd_create", "mkostemp", "open", "openat"})


# --- memory

@test
def valgrind_finds_nothing_in_either_process():
    need("valgrind")
    # Confined, a process cannot be watched: here the kernel has no jail.
    planted = os.path.abspath("t/out/san/planted")
    for kind in (Maildir, Program, Print, NextHop, ChunkingHop, LiveHop,
                 Refusing):
        place = kind()
        done = subprocess.run(
            ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full",
             "--show-leak-kinds=definite,indirect",
             "--errors-for-leak-kinds=definite,indirect", "--track-fds=no",
             planted, *place.arguments()], input=SHORT, capture_output=True,
            env={**os.environ, "PLANTED": "neither", "TMPDIR": place.spool})
        log = done.stderr.decode(errors="replace")
        assert done.returncode == 0 and "==" not in log, log
        assert b"\r\n221 " in done.stdout
        assert len(place.take()) == (place.final == "250"), kind
        place.close()


# --- kill -9, from outside

@test
def a_client_whose_monitor_is_killed_is_told_so_at_once():
    adopt_orphans()
    for commands in ([], ["MAIL FROM:<a@b>", "RCPT TO:<c@d>"]):
        with Session("discard:") as s:
            s.start()
            s.say(*commands)
            s.process.kill()
            assert s.reply() == UNHEARD
            assert s.read.read() == b""
        wait_for_all()


def engine():
    """It may be anybody's child; its name is that of a descriptor where only
    root may look into its folder."""
    found = []
    for process in family(os.getpid()):
        try:
            with open(f"/proc/{process}/cmdline", "rb") as f:
                command = f.read().split(b"\0")
        except OSError:     # it is gone
            continue
        if command[1:2] == [b"server"]:
            found.append(process)
    assert len(found) == 1, found
    return found[0]


@test
def a_tls_engine_that_is_killed_ends_the_session_and_no_more():
    need("openssl")
    adopt_orphans()
    place = folder()
    certificate(place, "mx", "mx.example.org")
    os.mkfifo(f"{place}/go")
    os.chmod(f"{place}/go", 0o666)
    program = script(place, f"cat >{place}/taken; read x <{place}/go")
    whole = lines(HELLO) + message("Subject: x", "", "y")
    for octets, replies, relayed in (
            (b"", 0, False), (lines(HELLO), 1, False),
            (whole[:whole.index(b"DATA")], 3, False),
            (whole[:-3], 4, False), (whole, 4, True)):
        with Session("--tlscert", f"{place}/mx.pem", "--tlskey",
                     f"{place}/mx.key", "--", program) as s:
            s.start()
            assert s.say("STARTTLS")[0][:3] == "220"
            under = unverified().wrap_socket(s.socket.dup(),
                                             suppress_ragged_eofs=True)
            under.sendall(octets)
            read = under.makefile("rb")
            while replies > 0:
                replies -= read.readline()[3:4] == b" "
            go = open(f"{place}/go", "w") if relayed else None
            os.kill(engine(), signal.SIGKILL)
            if go:
                go.write("x\n")
                go.close()
            try:
                assert read.read() == b""
            except ConnectionError:
                pass    # it left things unread, or half said
            read.close()
            under.close()
            assert s.process.wait() == 0
            assert os.path.exists(f"{place}/taken") == relayed
            wait_for_all()
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
