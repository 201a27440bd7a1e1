"""rig.py - what every measurement of bench.py stands on: processes that are
started, awaited and ended, the CPU that they used, and the load."""
import ctypes
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
OUT = TOP + "/t/out/bench"
PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
CLIENTS_MAX = 512       # connections that a listener may hold
PATIENCE = 120          # seconds that one load may take
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
TCPSERVER = ["tcpserver", "-HRl0", "-c", str(CLIENTS_MAX), "-b",
             str(CLIENTS_MAX), "127.0.0.1", "{port}"]


class Failed(Exception):
    """A measurement that could not be made, and why."""


class Candidate:
    """Something that answers SMTP.  argv may speak of {port}, {tmp}, {hop}."""

    def __init__(self, name, argv, hop=None, serves=False, env=None, **more):
        self.name = name
        self.argv = argv
        self.hop = hop              # options of the smtp-sink it relays to
        self.serves = serves        # it listens by itself
        self.env = env or {}
        self.root = more.get("root", False)     # it begins as root
        self.package = more.get("package")      # where to get it, if not here
        self.plain = more.get("plain", self)    # the same without TLS
        self.prepare = more.get("prepare")      # told port and hop's port
        self.resumes = more.get("resumes", False)   # sessions, by tickets
        self.settle = more.get("settle")        # waits until it has done all


def children(pid):
    try:
        tasks = os.listdir("/proc/%d/task" % pid)
        return [int(child) for task in tasks for child in
                read("/proc/%d/task/%s/children" % (pid, task)).split()]
    except OSError:
        return []


def descendants(pid):
    found = []
    for child in children(pid):
        found += [child] + descendants(child)
    return found


def used(pid):
    """Seconds of CPU of a process that runs, without its children."""
    tasks = "/proc/%d/task/" % pid
    try:
        return sum(int(read(tasks + task + "/schedstat").split()[0])
                   for task in os.listdir(tasks)) / 1e9
    except OSError:
        return 0


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def become_reaper():
    """Orphans of what we start become our children: none is lost."""
    if LIBC.prctl(36, 1, 0, 0, 0) == -1:        # PR_SET_CHILD_SUBREAPER
        raise OSError(ctypes.get_errno(), "prctl")


def die_with_us():
    LIBC.prctl(1, signal.SIGTERM, 0, 0, 0)      # PR_SET_PDEATHSIG


def end_all():
    while True:
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.01)


def wait_for(condition, what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed("waited in vain: " + what)
        time.sleep(0.002)


def listens(port):
    return re.search(r"^ *\d+: [0-9A-F]+:%04X \S+ 0A " % port,
                     read("/proc/net/tcp"), re.MULTILINE) is not None


def free_port():
    """A port below those that the load's own connections get."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def find(name):
    return shutil.which(name, path=PATH)


class Listener:
    """A listener on a port of its own, and what it and its children used."""

    def __init__(self, argv, port=None, env=None, root=False, lasting=False):
        self.port = port or free_port()
        self.lasting = lasting      # its children do not end with a session
        who = {}
        if os.geteuid() == 0 and not root:
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        argv = [arg.replace("{port}", str(self.port)) for arg in argv]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            env={"PATH": PATH, **(env or {})}, start_new_session=True,
            preexec_fn=die_with_us, **who)
        self.pid = self.process.pid
        self.cpu = self.minflt = 0
        self.before = 0

    def __enter__(self):
        wait_for(lambda: listens(self.port) or self.gone(), "a listener")
        if self.gone():
            raise Failed("it ended at once: " + self.said())
        self.begin()
        return self

    def begin(self):
        """What was used until now does not count."""
        self.before = sum(map(used, [self.pid] + descendants(self.pid)))

    def __exit__(self, kind, value, traceback):
        if kind is None and not self.lasting:
            wait_for(lambda: not children(self.pid), "the last child's end")
        if self.process.returncode is None:
            os.killpg(self.pid, signal.SIGTERM)
            self.take(self.pid)
        self.log.close()
        known = [self.pid]
        for pid in set(children(os.getpid())) - set(Hop.pids) - set(known):
            os.kill(pid, signal.SIGKILL)
            self.take(pid)
        self.cpu -= self.before

    def take(self, pid):
        timer = threading.Timer(5, os.kill, (pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(pid, 0)
        timer.cancel()
        if pid == self.pid:
            self.process.returncode = status
        self.cpu += usage.ru_utime + usage.ru_stime
        self.minflt += usage.ru_minflt + usage.ru_majflt

    def gone(self):
        return os.waitid(os.P_PID, self.pid,
                         os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace").strip()[-200:]


class Hop:
    """The smtp-sink that a candidate relays to, if it does."""
    pids = []

    def __init__(self, options):
        self.listener = None
        if options is not None:
            self.listener = Listener([find("smtp-sink"), *options,
                                      "127.0.0.1:{port}", "512"])

    def __enter__(self):
        if self.listener:
            Hop.pids.append(self.listener.pid)
            self.listener.__enter__()
        return self

    def __exit__(self, *exc):
        if self.listener:
            os.killpg(self.listener.pid, signal.SIGKILL)
            self.listener.take(self.listener.pid)
            Hop.pids.remove(self.listener.pid)

    @property
    def port(self):
        return self.listener.port if self.listener else 0


class Filter(Hop):
    """The mail filter that servers ask; it is not counted."""

    def __init__(self, path):
        super().__init__(None)
        self.listener = Listener([path, "{port}"])


def source(port, messages, sessions, length, *more):
    """Sends messages, one a connection unless more options say otherwise, over
    as many connections at a time."""
    argv = [find("smtp-source"), "-s", str(min(sessions, messages)), "-m",
            str(messages), "-l", str(length), "-M", "client.example.com",
            "-f", "sender@example.com", "-t", "recipient@example.org",
            *more, "127.0.0.1:%d" % port]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=PATIENCE,
                              stdout=subprocess.PIPE, check=False,
                              stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired as error:
        raise Failed("no end within %d s" % PATIENCE) from error
    if done.returncode:
        raise Failed(done.stdout.decode(errors="replace").strip()[-200:])


def under(listener, candidate, hop, tmp):
    argv = [arg.replace("{tmp}", tmp).replace("{hop}", str(hop.port))
            for arg in candidate.argv]
    port = free_port()
    if candidate.prepare:
        candidate.prepare(port, hop.port)
    return Listener(argv if candidate.serves else listener + argv, port,
                    candidate.env, candidate.root,
                    lasting=candidate.prepare is not None)


def empty(tmp):
    for folder, _, names in os.walk(os.path.join(tmp, "Maildir")):
        for name in names:
            os.unlink(os.path.join(folder, name))


class Watch(threading.Thread):
    """The most memory, in KiB, that any descendant of pid ever has.  (What
    wait4 says of it includes what we were before exec.)"""

    def __init__(self, pid):
        super().__init__()
        self.pid = pid
        self.most = 0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.01):
            for pid in descendants(self.pid):
                try:
                    text = read("/proc/%d/status" % pid)
                except OSError:
                    continue
                found = re.search(r"^VmHWM:\s+(\d+)", text, re.MULTILINE)
                self.most = max(self.most, int(found.group(1)) if found else 0)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.join()
