#!/usr/bin/env python3
"""What a connection costs: smtpd, its neighbours, and the floor, side by side.

Every candidate runs under the same super-server and gets the same load from
Postfix's smtp-source.  A measurement starts a listener, loads it, waits until
its children are gone, ends it, and asks wait4(2) what it and all of them used;
what it had used before the load is taken off.  Candidates take turns, round by
round, so that noise from elsewhere hits all alike, and what is shown are the
medians and their ratios.  The load's own cost is in no column but those by the
clock.

Nothing here passes or fails.  It listens on 127.0.0.1 alone, and ends whatever
it started, also when it is interrupted.
"""
import argparse
import ctypes
import os
import random
import re
import shutil
import signal
import smtplib
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
CLIENTS_MAX = 512       # connections that a listener may hold
PATIENCE = 120          # seconds that one load may take
MB = 1000000
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)

TCPSERVER = ["tcpserver", "-HRl0", "-c", str(CLIENTS_MAX), "-b",
             str(CLIENTS_MAX), "127.0.0.1", "{port}"]
ACTIVATE = ["systemd-socket-activate", "--accept", "--inetd", "-l",
            "127.0.0.1:{port}"]


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
        self.source = more.get("source", [])    # options of smtp-source
        self.binary = more.get("binary", argv[0])


# Processes

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

    def __init__(self, argv, port=None, env=None, root=False):
        self.port = port or free_port()
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
        tasks = "/proc/%d/task/" % self.pid
        self.before = sum(int(read(tasks + task + "/schedstat").split()[0])
                          for task in os.listdir(tasks)) / 1e9
        return self

    def __exit__(self, kind, value, traceback):
        if kind is None:
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


# Measurements

def source(port, messages, sessions, length, options):
    """Sends messages, one a connection, over as many connections at a time."""
    argv = [find("smtp-source"), "-s", str(min(sessions, messages)), "-m",
            str(messages), "-l", str(length), "-M", "client.example.com",
            "-f", "sender@example.com", "-t", "recipient@example.org",
            *options, "127.0.0.1:%d" % port]
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
    return Listener(argv if candidate.serves else listener + argv,
                    env=candidate.env, root=candidate.root)


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


def load(candidate, tmp, messages, sessions, length, super_server=None):
    """What messages of that length cost, one a connection."""
    with Hop(candidate.hop) as hop:
        with under(super_server or TCPSERVER, candidate, hop, tmp) as it:
            start = time.monotonic()
            source(it.port, messages, sessions, length, candidate.source)
            clock = time.monotonic() - start
    empty(tmp)
    return {"cpu": it.cpu / messages, "rate": messages / clock,
            "faults": it.minflt / messages,
            "mbcpu": messages * length / MB / max(it.cpu, 1e-6),
            "mbs": messages * length / MB / clock}


def pss(pid):
    total = 0
    for process in [pid] + descendants(pid):
        try:
            text = read("/proc/%d/smaps_rollup" % process)
        except OSError as error:
            raise Failed("smaps_rollup: " + error.strerror) from error
        total += int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE).group(1))
    return total


def idle(candidate, tmp, count=20):
    """KiB of memory, shared pages in proportion, of an idle connection."""
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            before = pss(it.pid)
            held = [socket.create_connection(("127.0.0.1", it.port), 20)
                    for _ in range(count)]
            for sock in held:
                sock.recv(512)
            during = pss(it.pid)
            for sock in held:
                sock.sendall(b"QUIT\r\n")
                sock.close()
    return (during - before) / count


def counted(candidate, tmp, messages):
    """System calls of messages sessions, as strace counts them."""
    out = os.path.join(tmp, "strace")
    os.makedirs(out, mode=0o777, exist_ok=True)
    os.chmod(out, 0o777)
    file = os.path.join(out, "count")
    traced = Candidate(candidate.name, [find("strace"), "-f", "-c", "-o", file,
                                        *candidate.argv], candidate.hop,
                       candidate.serves, candidate.env, root=candidate.root)
    with Hop(traced.hop) as hop:
        with under(TCPSERVER, traced, hop, tmp) as it:
            source(it.port, messages, 1, 1024, candidate.source)
            if candidate.serves:
                for child in children(it.pid):
                    os.kill(child, signal.SIGTERM)
    text = read(file)
    os.unlink(file)
    empty(tmp)
    total = re.search(r"^100[.,]00 +\S+ +\d* +(\d+) .*total$", text,
                      re.MULTILINE)
    if total is None:
        raise Failed("strace counted nothing")
    return int(total.group(1)), text


def calls(candidate, tmp, folder):
    if candidate.serves:
        return (counted(candidate, tmp, 11)[0] -
                counted(candidate, tmp, 1)[0]) / 10
    total, text = counted(candidate, tmp, 1)
    name = re.sub(r"[^a-z0-9]+", "-", candidate.name.lower()).strip("-")
    with open(os.path.join(folder, "strace-%s.txt" % name), "w",
              encoding="utf-8") as file:
        file.write(text)
    return total


def binary_size(candidate, tmp):
    """Octets of the stripped program itself, without its libraries."""
    path = find(candidate.binary)
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            raise Failed("not one program")
    subprocess.run(["strip", "-o", tmp + "/stripped", path], check=True)
    return os.path.getsize(tmp + "/stripped")


def encrypted(port, count, length):
    """Sessions with STARTTLS, four at a time; each with a message, or, with
    length 0, just to the second EHLO.  Every handshake is a full one."""
    failures = []

    def some():
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        text = (b"x" * 78 + b"\r\n") * (length // 80)
        try:
            for _ in range(max(1, count // 4)):
                with smtplib.SMTP("127.0.0.1", port, "client.example.com",
                                  timeout=PATIENCE) as client:
                    client.starttls(context=context)
                    client.ehlo()
                    if length:
                        client.mail("sender@example.com")
                        client.rcpt("recipient@example.org")
                        client.docmd("DATA")
                        client.send(text)
                        if client.docmd(".")[0] != 250:
                            raise Failed("message refused")
        except (OSError, smtplib.SMTPException, Failed) as error:
            failures.append(error)

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Failed(str(failures[0]))
    return 4 * max(1, count // 4)


def tls(candidate, tmp, count, length):
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            start = time.monotonic()
            done = encrypted(it.port, count, length)
            clock = time.monotonic() - start
    return {"cpu": it.cpu / done, "rate": done / clock,
            "mbcpu": done * length / MB / it.cpu,
            "mbs": done * length / MB / clock}


# Candidates

def copied(path, tmp):
    """A stripped copy where user nobody can execute it, or None."""
    if not os.access(path, os.X_OK):
        return None
    copy = os.path.join(tmp, os.path.basename(path))
    subprocess.run(["strip", "-o", copy, path], check=True)
    os.chmod(copy, 0o755)
    return copy


def smtpds(smtpd):
    yield Candidate("smtpd discard:", [smtpd, "discard:"])
    if os.geteuid() == 0:
        yield Candidate("smtpd discard: from root", [smtpd, "discard:"],
                        root=True)
    yield Candidate("smtpd -- /bin/true", [smtpd, "--", "/bin/true"])
    yield Candidate("smtpd smtp:", [smtpd, "smtp:[127.0.0.1]:{hop}"], hop=[])
    yield Candidate("smtpd lmtp:", [smtpd, "lmtp:[127.0.0.1]:{hop}"],
                    hop=["-L"])
    yield Candidate("smtpd maildir:", [smtpd, "maildir:{tmp}/Maildir"])


def peers():
    yield Candidate("mailfront", ["mailfront", "smtp", "echo", "accept"])
    yield Candidate("msmtpd to cat", ["msmtpd", "--inetd",
                                      "--command=cat >/dev/null; true"])
    yield Candidate("aiosmtpd", ["aiosmtpd", "-n", "-l", "127.0.0.1:{port}",
                                 "-c", "aiosmtpd.handlers.Sink"], serves=True)
    yield Candidate("smtp-sink", ["smtp-sink", "127.0.0.1:{port}", "512"],
                    serves=True)


def candidates(tmp, missing):
    floor = copied(HERE + "/out/floor", tmp)
    static = copied(HERE + "/out/floor-static", tmp)
    smtpd = copied(TOP + "/smtpd", tmp)
    copied(TOP + "/smtpd-tls", tmp)
    if floor is None or static is None:
        sys.exit("bench: not built: see the recipe in the Makefile")
    everyone = [Candidate("floor", [floor]),
                Candidate("floor, static", [static]),
                Candidate("floor + /bin/true", [floor, "/bin/true"])]
    if smtpd:
        everyone += smtpds(smtpd)
    else:
        missing.append("smtpd")
    for peer in peers():
        path = find(peer.argv[0])
        if path is None:
            missing.append(peer.argv[0])
            continue
        peer.argv[0] = path
        everyone.append(peer)
    return everyone


def tls_candidates(tmp, missing):
    cert, key = tmp + "/cert.pem", tmp + "/key.pem"
    if find("openssl") is None:
        missing.append("openssl")
        return []
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-subj",
                    "/CN=mx.example.com", "-days", "2", "-keyout", key, "-out",
                    cert], check=True, stderr=subprocess.DEVNULL)
    os.chmod(key, 0o644)
    some = []
    stunnel = find("stunnel4") or find("stunnel")
    if stunnel is None:
        missing.append("stunnel")
    else:
        with open(tmp + "/stunnel.conf", "w", encoding="utf-8") as file:
            file.write("foreground = yes\ndebug = 0\nprotocol = smtp\n"
                       "cert = %s\nkey = %s\nexec = %s/floor\n"
                       % (cert, key, tmp))
        some.append(Candidate("stunnel, floor", [stunnel,
                                                 tmp + "/stunnel.conf"]))
    smtpd = tmp + "/smtpd"
    if os.access(smtpd, os.X_OK) and os.access(tmp + "/smtpd-tls", os.X_OK):
        some.append(Candidate("smtpd discard:", [
            smtpd, "--tlscert", cert, "--tlskey", key, "discard:"]))
    else:
        missing.append("smtpd with smtpd-tls")
    return some


# What is shown

def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


class Results:
    """Every figure by candidate and column, a list of one a round."""

    def __init__(self):
        self.rows = {}
        self.failed = set()

    def add(self, name, column, value):
        self.rows.setdefault(name, {}).setdefault(column, []).append(value)

    def attempt(self, name, prefix, measure, *args):
        """Measures, unless that failed before, and keeps what comes out."""
        if (name, prefix) in self.failed:
            return
        try:
            values = measure(*args)
        except Failed as error:
            self.failed.add((name, prefix))
            say("%s (%s) is left out: %s" % (name, prefix, error))
            return
        if not isinstance(values, dict):
            values = {"": values}
        for column, value in values.items():
            self.add(name, (prefix + " " + column).strip(), value)

    def median(self, name, column):
        values = self.rows.get(name, {}).get(column)
        return statistics.median(values) if values else None

    def ratio(self, name, column, base="floor"):
        ours, theirs = self.median(name, column), self.median(base, column)
        return ours / theirs if ours and theirs else None

    def spread(self, name, column):
        """Half of what the middle half of the rounds spans, in per cent."""
        values = sorted(self.rows.get(name, {}).get(column) or [])
        if len(values) < 3:
            return None
        low, _, high = statistics.quantiles(values, n=4)
        return 50 * (high - low) / statistics.median(values)


# heading, column, how it is shown, unit's factor, ratio to the floor or not
COLUMNS = [
    ("us/conn", "small cpu", "%.0f", 1e6, False),
    ("xfloor", "small cpu", "%.2f", 1, True),
    ("conn/s", "small rate", "%.0f", 1, False),
    ("sys:us", "activate cpu", "%.0f", 1e6, False),
    ("xfloor", "activate cpu", "%.2f", 1, True),
    ("MB/cpu-s", "bulk mbcpu", "%.0f", 1, False),
    ("xfloor", "bulk mbcpu", "%.2f", 1, True),
    ("MB/s", "bulk mbs", "%.0f", 1, False),
    ("KiB", "pss", "%.0f", 1, False),
    ("calls", "calls", "%.0f", 1, False),
    ("faults", "small faults", "%.0f", 1, False),
    ("kB", "size", "%.1f", 1e-3, False),
]

LEGEND = """\
us/conn: microseconds of CPU, user and system, of the listener and all its
children, for a connection with one message of 1 kB; +-%: half the quartiles'
span.  conn/s: ten at a time, by the clock.  sys: the same under
systemd-socket-activate.  MB/cpu-s, MB/s: messages of 10 MB, by CPU and by the
clock.  KiB: memory of an idle connection, shared pages in proportion.  calls,
faults: system calls and page faults of one session (faults with those of the
super-server's fork).  kB: the stripped program.  xfloor: ratio to "floor"."""


def figure(results, name, column):
    _, key, form, factor, relative = column
    value = (results.ratio(name, key) if relative
             else results.median(name, key))
    return "-" if value is None else form % (value * factor)


def show(headings, lines, path):
    """The same table twice: for the eye, and for gnuplot and friends."""
    wide = [max(len(line[i]) for line in [headings] + lines)
            for i in range(len(headings))]
    for line in [headings] + lines:
        print("  ".join(cell.ljust(wide[0]) if i == 0 else cell.rjust(wide[i])
                        for i, cell in enumerate(line)))
    with open(path, "w", encoding="utf-8") as file:
        for line in [headings] + lines:
            file.write("\t".join(line) + "\n")
    sys.stdout.flush()


def show_main(results, folder):
    lines = []
    for name in results.rows:
        cells = [figure(results, name, column) for column in COLUMNS]
        spread = results.spread(name, "small cpu")
        cells.insert(1, "-" if spread is None else "%.0f" % spread)
        lines.append([name] + cells)
    headings = ["candidate"] + [column[0] for column in COLUMNS]
    headings.insert(2, "+-%")
    print()
    show(headings, lines, folder + "/table.tsv")
    print("\n" + LEGEND)


def show_budgets(results):
    """DESIGN.md 10, with what was measured just now beside it."""
    lines = []

    def line(what, budget, value, form="%.2f"):
        if value is not None:
            lines.append([what, budget, form % value])

    line("discard:, CPU of a connection / floor's", "<= 1.2 (confined 1.55)",
         results.ratio("smtpd discard:", "small cpu"))
    parts = [results.median(name, "small cpu") for name in (
        "smtpd -- /bin/true", "smtpd discard:", "floor + /bin/true", "floor")]
    if None not in parts:
        line("-- /bin/true / (discard: + a fork and exec)", "<= 1.15",
             parts[0] / (parts[1] + parts[2] - parts[3]))
    line("10 MB, discard: / plain read loop", ">= 0.8",
         results.ratio("smtpd discard:", "bulk mbcpu"))
    line("KiB of an idle connection", "<= 200",
         results.median("smtpd discard:", "pss"), "%.0f")
    line("kB of smtpd, stripped", "<= 100",
         (results.median("smtpd discard:", "size") or 0) / 1000, "%.1f")
    if results.rows.get("smtpd discard:"):
        print()
        for cells in lines:
            print("%-44s %-24s %8s" % tuple(cells))


PLOT = """\
set terminal svg size 960,%d font "sans,13" background "white"
set output "%s/bench.svg"
set datafile separator "\\t"
set datafile missing "-"
set multiplot
set origin 0,%g
set size 1,%g
set title "CPU of a connection with one message of 1 kB; the floor's is 1"
set style fill solid 0.7 noborder
set xrange [0:8]
set yrange [%d.6:-0.6]
set xtics 1
set grid x
unset key
table = "%s/table.tsv"
plot table every ::1 using (0):0:(0):4:($0-0.35):($0+0.35):ytic(1) \\
    with boxxyerror lc rgb "#3b6ea5", \\
  table every ::1 using 4:0:4 with labels offset 3,0
"""

PLOT_SCALE = """\
set origin 0,0
set size 1,%g
set title "CPU of a connection in microseconds, by connections at a time"
set logscale x
set xrange [0.9:500]
set yrange [0:*] noreverse
set xtics (1, 10, 50, 100, 200, 400)
set ytics auto
set key right bottom
plot for [i=2:%d] "%s/scale.tsv" using 1:i with linespoints title columnheader
"""


def plot(rows, scales, folder):
    if find("gnuplot") is None:
        say("no plot: gnuplot is missing")
        return
    part = 0.4 if scales else 0
    script = PLOT % (120 + 28 * rows + (300 if scales else 0), folder, part,
                     1 - part, rows - 1, folder)
    if scales:
        script += PLOT_SCALE % (part, scales + 1, folder)
    subprocess.run(["gnuplot"], input=script.encode(), check=False)
    say("plot: %s/bench.svg" % os.path.relpath(folder))


# The parts of a run

def main_part(args, tmp, everyone, folder):
    results = Results()
    for candidate in everyone:
        name = candidate.name
        say("counting " + name)
        results.attempt(name, "pss", idle, candidate, tmp)
        if find("strace"):
            results.attempt(name, "calls", calls, candidate, tmp, folder)
        try:
            results.add(name, "size", binary_size(candidate, tmp))
        except Failed:
            pass
    for turn in range(args.rounds):
        say("round %d of %d" % (turn + 1, args.rounds))
        for candidate in everyone:
            name = candidate.name
            results.attempt(name, "small", load, candidate, tmp, args.sessions,
                            10, 1024)
            if find(ACTIVATE[0]) and not candidate.serves:
                results.attempt(name, "activate", load, candidate, tmp,
                                args.sessions, 10, 1024, ACTIVATE)
            if turn % 3 == 0 or args.quick:
                results.attempt(name, "bulk", load, candidate, tmp, args.bulk,
                                1, 10 * MB)
    show_main(results, folder)
    show_budgets(results)
    return results


def scale_part(args, tmp, everyone, folder):
    """Does a connection cost more where there are many?"""
    some = [c for c in everyone if c.name in (
        "floor", "smtpd discard:", "smtpd smtp:", "mailfront")]
    steps = [1, 100] if args.quick else [1, 10, 50, 100, 200, 400]
    results = Results()
    for turn in range(max(1, args.rounds // 3)):
        say("scale, round %d" % (turn + 1))
        for step in steps:
            for candidate in some:
                results.attempt(candidate.name, str(step), load, candidate,
                                tmp, max(args.sessions, 2 * step), step, 1024)
    lines = [[str(step)] + ["-" if results.median(c.name, "%d cpu" % step)
                            is None else "%.0f" % (
                                1e6 * results.median(c.name, "%d cpu" % step))
                            for c in some] for step in steps]
    print("\nMicroseconds of CPU of a connection, by connections at a time:")
    show(["at a time"] + [c.name for c in some], lines, folder + "/scale.tsv")
    return len(some)


def large_part(tmp, everyone, folder):
    """Is time proportional to the message, and memory not?"""
    lines = []
    for candidate in everyone:
        if candidate.name != "smtpd discard:":
            continue
        candidate = Candidate(candidate.name, [candidate.argv[0], "--size",
                                               "0", "discard:"])
        for length in (1, 10, 100, 1000):
            say("a message of %d MB" % length)
            try:
                with under(TCPSERVER, candidate, Hop(None), tmp) as it:
                    with Watch(it.pid) as watch:
                        source(it.port, 1, 1, length * MB, [])
            except Failed as error:
                say("left out: %s" % error)
                continue
            lines.append([str(length), "%.2f" % (1000 * it.cpu / length),
                          str(watch.most or "-")])
    if lines:
        print("\nOne message, smtpd discard:")
        show(["MB", "ms CPU/MB", "KiB of a process"], lines,
             folder + "/large.tsv")


def tls_part(args, tmp, missing, folder):
    results = Results()
    some = tls_candidates(tmp, missing)
    for turn in range(max(3, args.rounds // 3)):
        say("STARTTLS, round %d" % (turn + 1))
        for candidate in some:
            results.attempt(candidate.name, "shake", tls, candidate, tmp,
                            args.sessions // 5, 0)
            results.attempt(candidate.name, "bulk", tls, candidate, tmp, 4,
                            10 * MB)
    form = [("us/handshake", "shake cpu", "%.0f", 1e6, False),
            ("handshakes/s", "shake rate", "%.0f", 1, False),
            ("MB/cpu-s", "bulk mbcpu", "%.0f", 1, False),
            ("MB/s", "bulk mbs", "%.0f", 1, False)]
    if results.rows:
        print("\nSTARTTLS, TLS 1.3, ECDSA P-256, no resumption:")
        show(["candidate"] + [column[0] for column in form],
             [[name] + [figure(results, name, column) for column in form]
              for name in results.rows], folder + "/tls.tsv")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true",
                        default=bool(os.environ.get("QUICK")),
                        help="under a minute, and rougher; or QUICK=1")
    parser.add_argument("--parts", default="main,scale,large,tls",
                        help="some of main,scale,large,tls")
    parser.add_argument("--only", default="", metavar="REGEX",
                        help="candidates whose name matches (and the floor)")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--output", default=HERE + "/out", metavar="DIR")
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 15)
    args.sessions = args.sessions or (60 if args.quick else 200)
    args.bulk = 1 if args.quick else 10
    return args


def run(args, tmp):
    missing = [name for name in ("strace", ACTIVATE[0]) if not find(name)]
    everyone = [c for c in candidates(tmp, missing)
                if c.name == "floor" or re.search(args.only, c.name)]
    scales = 0
    results = None
    if "main" in args.parts:
        results = main_part(args, tmp, everyone, args.output)
    if "scale" in args.parts:
        scales = scale_part(args, tmp, everyone, args.output)
    if "large" in args.parts and not args.quick:
        large_part(tmp, everyone, args.output)
    if "tls" in args.parts:
        tls_part(args, tmp, missing, args.output)
    if results:
        plot(len(results.rows), scales, args.output)
    if missing:
        print("\nNot here, so not measured: " + ", ".join(missing) + ".")


def main():
    args = arguments()
    lacking = [name for name in ("tcpserver", "smtp-source", "smtp-sink",
                                 "strip") if find(name) is None]
    if lacking:
        sys.exit("bench: not found: %s (Debian: ucspi-tcp, postfix, binutils)"
                 % ", ".join(lacking))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    become_reaper()
    os.makedirs(args.output, exist_ok=True)
    tmp = tempfile.mkdtemp(prefix="bench.")
    os.chmod(tmp, 0o755)
    for folder in ("", "/cur", "/new", "/tmp"):
        os.mkdir(tmp + "/Maildir" + folder)
        os.chmod(tmp + "/Maildir" + folder, 0o777)
    try:
        run(args, tmp)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        end_all()
        shutil.rmtree(tmp)


if __name__ == "__main__":
    main()
