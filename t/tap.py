"""tap.py - tests as functions, run in order, reported as TAP.

A test is a function with the decorator @test; its name, blanks for
underscores, is the promise that it checks.  raise Skip(reason) where the
machine lacks something.  Session starts the program under test as a
super-server would, on one end of a socket pair.
"""
import atexit
import functools
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import traceback

from fakes.server import Server

SMTPD = os.path.abspath(os.environ.get("SMTPD", "./smtpd"))


def is_static(program):
    """Has program (ELF of 64 bits, of this machine) no PT_INTERP?"""
    try:
        with open(program, "rb") as file:
            elf = file.read(4096)
    except OSError:
        return False
    if elf[:5] != b"\x7fELF\x02":
        return False
    at, = struct.unpack_from("=Q", elf, 32)
    size, count = struct.unpack_from("=HH", elf, 54)
    return 3 not in [struct.unpack_from("=I", elf, at + i * size)[0]
                     for i in range(count)]


STATIC = is_static(SMTPD)
SANITIZED = "/san/" in SMTPD      # it needs more memory, and makes other calls
PATIENCE = 300      # seconds until a hanging test counts as failed
tests = []


class Skip(Exception):
    pass


def test(function):
    tests.append(function)
    return function


def test_unless_static(function):
    """For what the static program does not have.  It is no test then, rather
    than one that is skipped: no machine could make it run."""
    return function if STATIC else test(function)


def test_if_static(function):
    return test(function) if STATIC else function


class Late(threading.Thread):
    def __init__(self, function):
        super().__init__(daemon=True)
        functools.update_wrapper(self, function)
        self.function, self.error = function, None

    def run(self):
        try:
            self.function()
        except BaseException as error:      # it is the caller's
            self.error = error

    def __call__(self):
        self.join()
        if self.error:
            raise self.error


def test_late(function):
    """For what waits more than it works, as for the reply to a wrong password,
    two seconds: such tests run from the start, beside the others."""
    return test(Late(function))


def hung(_signal, _frame):
    raise TimeoutError("hung")


failures = []       # what ended a thread, which would else fail no test


def note_failure(thread):
    failures.append("".join(traceback.format_exception(
        thread.exc_type, thread.exc_value, thread.exc_traceback)))


def main():
    threading.excepthook = note_failure
    wanted = sys.argv[1:]
    unknown = set(wanted) - {t.__name__ for t in tests}
    if unknown:
        sys.exit(f"{sys.argv[0]} has no test {', '.join(sorted(unknown))}")
    chosen = [t for t in tests if not wanted or t.__name__ in wanted]
    print(f"1..{len(chosen)}", flush=True)
    for one in chosen:
        if isinstance(one, Late):
            one.start()
    signal.signal(signal.SIGALRM, hung)
    failed = 0
    for number, function in enumerate(chosen, 1):
        name = function.__name__.replace("_", " ")
        signal.alarm(PATIENCE)
        try:
            function()
            assert not failures, "a thread failed"
            print(f"ok {number} - {name}", flush=True)
        except Skip as reason:
            print(f"ok {number} - {name} # SKIP {reason}", flush=True)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
            print(f"not ok {number} - {name}")
            sys.stdout.flush()
            for text in traceback.format_exc(), *failures:
                for line in text.splitlines():
                    print(f"# {line}", file=sys.stderr)
        finally:
            signal.alarm(0)
            failures.clear()
    sys.exit(failed != 0)


def lines(*commands):
    """Commands as octets, each ended by CRLF."""
    return b"".join((c if isinstance(c, bytes) else c.encode()) + b"\r\n"
                    for c in commands)


def message(*text, sender="a@example.org", to=("b@example.org",)):
    """A transaction, from MAIL to the last dot."""
    return lines(f"MAIL FROM:<{sender}>", *[f"RCPT TO:<{r}>" for r in to],
                 "DATA", *text, ".")


HELLO = "EHLO client.example.org"
EXAMPLE = lines("EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA",
                "Subject: hi", "", ".dot", "..", ".", "QUIT")


def run(arguments, octets=EXAMPLE, **more):
    """smtpd on pipes: (status, output, log)."""
    done = subprocess.run([SMTPD, "-H", "mx.example.org", *arguments],
                          input=octets, capture_output=True, **more)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def codes(output):
    """The codes of an output's replies, one for each."""
    return [line[:3] for line in output.splitlines() if line[3:4] != "-"]


def no_sanitizer_spoke(log):
    """What a sanitizer finds must fail a test that looks at something else."""
    found = re.search(r"(ERROR: \w+Sanitizer|: runtime error: ).*", log, re.S)
    assert not found, found[0]


class Session:
    """smtpd, or program, on one end of a socket pair, we on the other."""

    def __init__(self, *arguments, env=None, wrap=(), pair=None,
                 program=None):
        self.socket, theirs = pair or socket.socketpair()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*wrap, program or SMTPD, "-H", "mx.example.org", *arguments],
            stdin=theirs, stdout=theirs, stderr=self.log,
            env={**os.environ, **(env or {})})
        theirs.close()
        self.read = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def leave(self):
        """Closes our end, as a client does: smtpd-tls waits a while for it."""
        self.read.close()
        self.socket.close()

    def __exit__(self, kind, *_):
        self.leave()
        self.process.wait()
        if kind is None:
            no_sanitizer_spoke(self.logged())
        self.log.close()

    def send(self, octets):
        self.socket.sendall(octets)

    def reply(self):
        """One whole reply, its lines joined by newlines."""
        got = []
        while True:
            line = self.read.readline()
            if not line:
                raise EOFError("\n".join(got))
            assert line.endswith(b"\r\n"), line
            got.append(line[:-2].decode())
            if line[3:4] != b"-":
                return "\n".join(got)

    def replies(self, count):
        return [self.reply() for _ in range(count)]

    def start(self):
        """Greeting and EHLO are out of the way."""
        self.send(lines(HELLO))
        first, second = self.replies(2)
        assert first.startswith("220 mx.example.org"), first
        assert second.startswith("250-mx.example.org\n"), second
        return second

    def say(self, *commands):
        """Sends commands, returns the reply to each."""
        self.send(lines(*commands))
        return self.replies(len(commands))

    def deliver(self, *text, **envelope):
        """Hands over one message, returns the reply to its last dot."""
        octets = message(*(text or ("Subject: x", "", "y")), **envelope)
        self.send(octets)
        count = len(envelope.get("to", "1")) + 3
        return self.replies(count)[-1]

    def finish(self):
        """QUIT, after which the exit status is 0; that and what was logged."""
        assert self.say("QUIT")[0].startswith("221 "), "QUIT"
        assert self.read.read() == b"", "something after 221"
        self.leave()
        status = self.process.wait()
        assert status == 0, (status, self.logged())
        return status, self.logged()

    def logged(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


class Listener(Server):
    """smtpd behind a port of its own, or a unix socket, one process for each
    connection, as any super-server has it; program serves, if not smtpd."""

    def __init__(self, *arguments, path=None, env=None, program=None):
        self.command = program or [SMTPD, "-H", "mx.example.org", *arguments]
        self.env = {**os.environ, **(env or {})}
        self.log = tempfile.TemporaryFile("a+b")
        self.processes = []
        super().__init__(path)

    def admit(self, connection, number):
        with connection:
            self.processes.append(subprocess.Popen(
                self.command, stdin=connection, stdout=connection,
                stderr=self.log, env=self.env))

    def logged(self):
        """What was logged, once those who are connected are gone."""
        for process in self.processes:
            process.wait()
        with open(f"/proc/self/fd/{self.log.fileno()}", "rb") as log:
            text = log.read().decode(errors="replace")
        no_sanitizer_spoke(text)
        return text

    def close(self):
        super().close()
        self.logged()

    def __exit__(self, *_):
        self.close()
        self.log.close()


def certificate(where, name, host, *more, ca=None, kind="ec", wrap=()):
    """Makes where/NAME.pem and NAME.key, valid for two days, signed by ca or by
    itself.  With wrap=("faketime", DAY) the days begin then."""
    new = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
           "rsa": ["rsa:2048"]}[kind]
    sign = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
            "-addext", "basicConstraints=critical,CA:FALSE"] if ca else [
                "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run([*wrap, "openssl", "req", "-x509", "-nodes", "-newkey", *new,
                    "-days", "2", "-subj", f"/O=Test/CN={host}", "-keyout",
                    f"{name}.key", "-out", f"{name}.pem", *sign, *more],
                   check=True, cwd=where, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def unverified():
    """A client's TLS context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def closed_port():
    """A socket at a port of loopback where nobody listens, nor can while it is
    open."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    return s


marks = []          # of the ports that free_port() has returned


def free_port():
    """A port of loopback, for a program that must be told one.  It is below
    those that the kernel chooses itself, and as long as this process lives no
    other test is told it: the abstract socket of its number is taken."""
    while True:
        port = random.randrange(10000, 32000)
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0smtpd-test-port-{port}")
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            mark.close()
            continue
        marks.append(mark)
        return port


def tcp_pair():
    """Both ends of a connection on loopback: ours, theirs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def reset_connection(connection):
    """Closes it, and its peer hears of that by a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                          struct.pack("ii", 1, 0))
    connection.close()


def probed(reset, *arguments):
    """What smtpd logs of a client that has connected and left, by a reset as
    HAProxy's check of TCP does it, or not."""
    client, theirs = tcp_pair()
    if reset:
        reset_connection(client)
    else:
        client.close()
    with theirs:
        return subprocess.run(
            [SMTPD, *arguments], stdin=theirs, stdout=theirs, check=True,
            stderr=subprocess.PIPE, text=True).stderr


class PolicyService(Server):
    """Answers questions on a unix socket in where: answer(attributes) is the
    action.  The questions are kept in asked."""

    def __init__(self, where, answer=lambda question: "DUNNO"):
        self.asked, self.answer = [], answer
        super().__init__(f"{where}/policy")
        self.place = self.at

    def talk(self, connection, read, number):
        question = {}
        for line in read:
            name, _, value = line.decode().rstrip("\n").partition("=")
            if name:
                question[name] = value
                continue
            self.asked.append(question)
            action = self.answer(question)
            connection.sendall(f"action={action}\n\n".encode())
            question = {}


def whole_calls(trace):
    """The lines of `strace -f', those it had to break put together again."""
    begun, lines_ = {}, []
    for line in trace.splitlines():
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            call = rest[:-len("<unfinished ...>")].rstrip()
            # strace may print the call of the process that kills again, as one
            # of the process that dies by it.
            if call != f"kill({pid}, SIGKILL" or call not in begun.values():
                begun[pid] = call
            continue
        if rest.startswith("<... ") and pid in begun:
            rest = begun.pop(pid) + rest.partition(" resumed>")[2]
        lines_.append(f"{pid} {rest}")
    lines_ += [f"{pid} {rest}" for pid, rest in begun.items()]
    return "\n".join(lines_) + "\n"


def family(pid):
    """The processes below pid, however deep, as {pid: name}."""
    found, todo = {}, [pid]
    while todo:
        parent = todo.pop()
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as f:
                children = [int(p) for p in f.read().split()]
        except OSError:
            continue
        for child in children:
            try:
                with open(f"/proc/{child}/stat") as f:
                    found[child] = f.read()
            except OSError:
                continue
            todo.append(child)
    return found


def script(folder, text, name="program"):
    """An executable shell script in folder."""
    return write(os.path.join(folder, name), f"#!/bin/sh\n{text}\n", 0o755)


def write(path, text, mode=0o644):
    """A file with that text; returns path."""
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def folder():
    """A new folder in which every user may write, until the test has ended."""
    path = tempfile.mkdtemp(prefix="smtpd-test-")
    os.chmod(path, 0o777)
    atexit.register(remove, path, os.getpid())
    return path


def remove(path, owner):
    if os.getpid() == owner:    # a process that was forked has none
        shutil.rmtree(path, ignore_errors=True)


def need(*programs):
    for program in programs:
        if shutil.which(program) is None:
            raise Skip(f"{program} is not installed")
