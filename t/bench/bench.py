#!/usr/bin/env python3
"""What a connection costs: smtpd, its peers, and the floor, side by side.

Every candidate runs under the same super-server and gets the same load from
Postfix's smtp-source.  A measurement starts a listener, loads it, waits until
its children are gone, ends it, and asks wait4(2) what it and all of them used;
what was used before the load is taken off.  Candidates take turns, round by
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
import textwrap
import threading
import time

import distance

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
OUT = TOP + "/t/out/bench"
PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
DISTANCE = 0.02         # seconds from here to the next hop, one way
CLIENTS_MAX = 512       # connections that a listener may hold
PATIENCE = 120          # seconds that one load may take
MB = 1000000
WARM = 20               # sessions until everything is there
STUNNEL = "stunnel, floor"
LOOP = "examples/loop.c"
CIPHER = "TLS_AES_256_GCM_SHA384"
FILTERED = "Postfix smtp:, filter"
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)

TCPSERVER = ["tcpserver", "-HRl0", "-c", str(CLIENTS_MAX), "-b",
             str(CLIENTS_MAX), "127.0.0.1", "{port}"]
BULK = ("floor", "smtpd discard:")
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
        self.package = more.get("package")      # where to get it, if not here
        self.plain = more.get("plain", self)    # the same without TLS
        self.prepare = more.get("prepare")      # told port and hop's port
        self.resumes = more.get("resumes", False)   # sessions, by tickets
        self.settle = more.get("settle")        # waits until it has done all


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


# Measurements

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


def load(candidate, tmp, messages, sessions, length, super_server=None):
    """What messages of that length cost, one a connection."""
    with Hop(candidate.hop) as hop:
        with under(super_server or TCPSERVER, candidate, hop, tmp) as it:
            start = time.monotonic()
            source(it.port, messages, sessions, length)
            clock = time.monotonic() - start
    empty(tmp)
    return {"cpu": it.cpu / messages, "rate": messages / clock,
            "faults": it.minflt / messages,
            "mbcpu": messages * length / MB / max(it.cpu, 1e-6),
            "mbs": messages * length / MB / clock}


def stream(candidate, tmp, messages, sessions):
    """What messages of 1 kB cost on connections that stay open."""
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            source(it.port, 10 * sessions, sessions, 1024, "-d")
            it.begin()      # its processes are there
            start = time.monotonic()
            source(it.port, messages, sessions, 1024, "-d")
            clock = time.monotonic() - start
    return {"cpurate": messages / max(it.cpu, 1e-6), "rate": messages / clock}


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
            source(it.port, messages, 1, 1024)
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
    path = find(candidate.argv[0])
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            raise Failed("not one program")
    subprocess.run(["strip", "-o", tmp + "/stripped", path], check=True)
    return os.path.getsize(tmp + "/stripped")


def client_context():
    """Full handshakes, and the same ones with everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve("prime256v1")
    return context


class Resuming:
    """A context whose handshakes resume the first session that ended."""

    def __init__(self, context):
        self.context = context
        self.ticket = None

    def wrap_socket(self, sock, **more):
        ticket = self.ticket
        secure = self.context.wrap_socket(sock, session=ticket, **more)
        if secure.session_reused != (ticket is not None):
            raise Failed("not resumed")
        return secure

    def learn(self, sock):
        """TLS 1.3 brings the ticket with what follows the handshake."""
        if self.ticket is None and sock.session.has_ticket:
            self.ticket = sock.session


def dialogue(port, length, context):
    """A session with a message, or, with length 0, to the second EHLO."""
    with smtplib.SMTP("127.0.0.1", port, "client.example.com",
                      timeout=PATIENCE) as client:
        client.ehlo()
        if context:
            client.starttls(context=context)
            if client.sock.cipher()[0] != CIPHER or (
                    client.sock.session_reused and
                    not isinstance(context, Resuming)):
                raise Failed("TLS is not as elsewhere: %s %s" % (
                    client.sock.version(), client.sock.cipher()[0]))
        client.ehlo()
        if isinstance(context, Resuming):
            context.learn(client.sock)
        if length:
            client.mail("sender@example.com")
            client.rcpt("recipient@example.org")
            client.docmd("DATA")
            client.send((b"x" * 78 + b"\r\n") * (length // 80))
            if client.docmd(".")[0] != 250:
                raise Failed("message refused")


def dialogues(port, count, length, context):
    """That many, four at a time."""
    failures = []

    def some():
        try:
            for _ in range(count // 4):
                dialogue(port, length, context)
        except (OSError, smtplib.SMTPException, Failed) as error:
            failures.append(error)

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Failed(str(failures[0]))


def tls(candidate, tmp, count, length, context):
    """Of those that stay, what they used until they were warm is taken off:
    CPU and time of the same without the sessions that count."""
    count -= count % 4
    total, seconds = talked(candidate, tmp, count, length, context)
    if candidate.prepare:
        total -= talked(candidate, tmp, 0, length, context)[0]
    return {"cpu": total / count, "rate": count / seconds,
            "mbcpu": count * length / MB / max(total, 1e-6),
            "mbs": count * length / MB / seconds}


def talked(candidate, tmp, count, length, context):
    """CPU of a listener and all its children, seconds of count sessions."""
    if candidate.resumes and context:
        context = Resuming(context)     # of this listener's tickets
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            if it.lasting:
                dialogues(it.port, WARM, 1024, context)
            start = time.monotonic()
            dialogues(it.port, count, length, context)
            clock = time.monotonic() - start
    return it.cpu, clock


def filtered(candidate, tmp, messages, length, *more):
    """What messages cost the server, once it has done all with them."""
    with Hop(candidate.hop) as hop:
        with under(TCPSERVER, candidate, hop, tmp) as it:
            for count in (20, messages):        # the first ones warm it
                it.begin()
                source(it.port, count, 4, length, *more)
                if candidate.settle:
                    candidate.settle()
    return {"cpu": it.cpu / messages}


# Candidates

def copied(path, tmp):
    """A stripped copy where user nobody can execute it, or None.  It is copied
    as install(1) does it: what strip writes bit by bit is in the page cache
    bit by bit, and takes more page faults."""
    if not os.access(path, os.X_OK):
        return None
    copy = os.path.join(tmp, os.path.basename(path))
    subprocess.run(["strip", "-o", copy + ".strip", path], check=True)
    subprocess.run(["install", "-m", "755", copy + ".strip", copy], check=True)
    os.unlink(copy + ".strip")
    return copy


def builds(label, path):
    """Another build of smtpd, where it stands, with the same two relays."""
    yield Candidate(label + " discard:", [path, "discard:"])
    yield Candidate(label + " smtp:", [path, "smtp:[127.0.0.1]:{hop}"], hop=[])


def smtpds(smtpd):
    yield Candidate("smtpd discard:", [smtpd, "discard:"])
    if os.geteuid() == 0:
        yield Candidate("smtpd from root", [smtpd, "discard:"],
                        root=True)
    yield Candidate("smtpd -- /bin/true", [smtpd, "--", "/bin/true"])
    yield Candidate("smtpd smtp:", [smtpd, "smtp:[127.0.0.1]:{hop}"], hop=[])
    yield Candidate("smtpd --live smtp:", [smtpd, "--live",
                                           "smtp:[127.0.0.1]:{hop}"], hop=[])
    yield Candidate("smtpd lmtp:", [smtpd, "lmtp:[127.0.0.1]:{hop}"],
                    hop=["-L"])
    yield Candidate("smtpd maildir:", [smtpd, "maildir:{tmp}/Maildir"])


def peers():
    yield Candidate("mailfront", ["mailfront", "smtp", "echo", "accept"])
    yield Candidate("msmtpd to cat", ["msmtpd", "--inetd",
                                      "--command=cat >/dev/null; true"],
                    package="msmtp-mta")
    yield Candidate("aiosmtpd", ["aiosmtpd", "-n", "-l", "127.0.0.1:{port}",
                                 "-c", "aiosmtpd.handlers.Sink"], serves=True)
    yield Candidate("smtp-sink", ["smtp-sink", "127.0.0.1:{port}", "512"],
                    serves=True)


def fetched(name, package, tmp):
    """A program out of a package that cannot be installed beside Postfix."""
    if package is None:
        return None
    for argv in (["apt-get", "download", "-qq", package],
                 ["sh", "-c", "dpkg -x %s_*.deb ." % package]):
        if not find(argv[0]) or subprocess.run(
                argv, cwd=tmp, check=False, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL).returncode:
            return None
    path = tmp + "/usr/bin/" + name
    runs = subprocess.run([path, "--version"], check=False,
                          stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
    return path if runs.returncode == 0 else None


def candidates(args, tmp, missing):
    floor = copied(OUT + "/floor", tmp)
    static = copied(OUT + "/floor-static", tmp)
    smtpd = copied(TOP + "/smtpd", tmp)
    engine = copied(TOP + "/smtpd-tls", tmp)
    if engine:
        os.chmod(engine, 0o711)
    if floor is None or static is None:
        sys.exit("bench: not built: see the recipe in the Makefile")
    everyone = [Candidate("floor", [floor]),
                Candidate("floor, static", [static]),
                Candidate("floor + /bin/true", [floor, "/bin/true"])]
    if smtpd:
        everyone += smtpds(smtpd)
    else:
        missing.append("smtpd")
    for label, path in args.beside:
        everyone += builds(label, path)
    for peer in peers():
        path = find(peer.argv[0]) or fetched(peer.argv[0], peer.package, tmp)
        if path is None:
            missing.append(peer.argv[0])
            continue
        peer.argv[0] = path
        everyone.append(peer)
    return everyone


# Nobody comes again: no tickets, for those who would make some.
OPENSSL_CNF = """\
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = default
[default]
NumTickets = 0
"""


def certificate(tmp):
    """One for all: the files of it and of its key."""
    cert, key = tmp + "/cert.pem", tmp + "/key.pem"
    if os.path.exists(key):
        return cert, key
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-subj",
                    "/CN=mx.example.com", "-days", "2", "-keyout", key, "-out",
                    cert], check=True, stderr=subprocess.DEVNULL)
    os.chmod(key, 0o644)
    with open(tmp + "/openssl.cnf", "w", encoding="utf-8") as file:
        file.write(OPENSSL_CNF)
    return cert, key


MAIN_CF = """\
compatibility_level = 3.6
myhostname = mx.example.com
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
message_size_limit = 33554432
queue_directory = %(dir)s/spool
data_directory = %(dir)s/data
maillog_file = %(dir)s/log
maillog_file_prefixes = %(dir)s
"""

TLS_CF = """\
smtpd_tls_security_level = may
smtpd_tls_chain_files = %s, %s
smtpd_tls_session_cache_timeout = 0
import_environment = MAIL_CONFIG, OPENSSL_CONF=%s/openssl.cnf
"""

PROXY_CF = "smtpd_proxy_filter = 127.0.0.1:%(hop)d\n"

# With a queue: its filters see a message on the way there.
QUEUE_CF = """\
default_transport = %s
relayhost = [127.0.0.1]:%%(hop)d
smtp_dns_support_level = disabled
"""

MASTER_CF = """\
127.0.0.1:%(port)d inet n - n - - smtpd -o max_use=%(sessions)d
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
cleanup unix n - n - 0 cleanup
postlog unix-dgram n - n - 1 postlogd
qmgr unix n - n 300 1 qmgr
discard unix - - n - - discard
smtp unix - - n - - smtp
scache unix - - n - 1 scache
bounce unix - - n - 0 bounce
"""


def postfix(tmp, sessions, name, more):
    """One of our own, each of its processes for so many sessions, with more in
    its main.cf.  None if it cannot be had."""
    if os.geteuid() != 0 or not find("postconf") or not find("postfix"):
        return None
    folder = tempfile.mkdtemp(prefix="postfix-", dir=tmp)
    for place in ("/spool", "/data"):
        os.mkdir(folder + place)
        os.chmod(folder + place, 0o755)
    os.chmod(folder, 0o755)
    shutil.chown(folder + "/data", "postfix")

    def prepare(port, hop):
        values = {"dir": folder, "port": port, "hop": hop,
                  "sessions": sessions}
        for place, text in (("main.cf", MAIN_CF + more),
                            ("master.cf", MASTER_CF)):
            with open(folder + "/" + place, "w", encoding="utf-8") as file:
                file.write(text % values)

    def settle():
        queues = [folder + "/spool/" + name for name in
                  ("maildrop", "incoming", "active", "deferred")]
        wait_for(lambda: not any(names for queue in queues
                                 for _, _, names in os.walk(queue)),
                 "an empty queue", PATIENCE)

    prepare(1, 1)
    daemons = subprocess.run(["postconf", "-h", "daemon_directory"],
                             env={"PATH": PATH}, stdout=subprocess.PIPE,
                             text=True, check=True).stdout.strip()
    if subprocess.run(["postfix", "-c", folder, "check"], env={"PATH": PATH},
                      check=False, stderr=subprocess.DEVNULL).returncode:
        return None
    return Candidate(name, [daemons + "/master", "-c", folder], hop=[],
                     serves=True, root=True, prepare=prepare, settle=settle)


def with_resident(smtpd, cert, key, tmp, plain, resumes):
    """The engine that stays is a child of the super-server, so that what its
    own children use is counted."""
    os.makedirs(tmp + "/tls", exist_ok=True)
    os.chmod(tmp + "/tls", 0o777)
    place = tmp + "/tls/socket"
    line = "umask 0; %s-tls resident --listen %s --cert %s --key %s & while [ ! -S \"$0\" ]; do sleep 0.1; done; exec %s" \
        % (smtpd, place, cert, key, " ".join(
            TCPSERVER + [smtpd, "--tls-engine", "unix:" + place, "discard:"]))

    def wait(_port, _hop):
        if os.path.exists(place):
            os.unlink(place)

    return Candidate("smtpd, resumed" if resumes else "smtpd, resident",
                     ["sh", "-c", line, place], serves=True, prepare=wait,
                     plain=plain, resumes=resumes)


def tls_candidates(args, tmp, missing):
    if find("openssl") is None:
        missing.append("openssl")
        return []
    cert, key = certificate(tmp)
    some = []
    stunnel = find("stunnel4") or find("stunnel")
    if stunnel is None:
        missing.append("stunnel")
    else:
        with open(tmp + "/stunnel.conf", "w", encoding="utf-8") as file:
            file.write("foreground = yes\ndebug = 0\nprotocol = smtp\n"
                       "cert = %s\nkey = %s\nexec = %s/floor\n"
                       % (cert, key, tmp))
        some.append(Candidate(STUNNEL, [stunnel, tmp + "/stunnel.conf"],
                              env={"OPENSSL_CONF": tmp + "/openssl.cnf"},
                              plain=Candidate("floor", [tmp + "/floor"])))
    smtpd = tmp + "/smtpd"
    if os.access(smtpd, os.X_OK) and os.access(tmp + "/smtpd-tls", os.X_OK):
        options = [smtpd, "--tlscert", cert, "--tlskey", key]
        some += [Candidate("smtpd discard:", options + ["discard:"]),
                 Candidate("smtpd smtp:", options + ["smtp:[127.0.0.1]:{hop}"],
                           hop=[])]
        some += [with_resident(smtpd, cert, key, tmp, some[-2], resumes)
                 for resumes in (False, True)]
        some += [Candidate(label + " discard:",
                           [path] + options[1:] + ["discard:"])
                 for label, path in args.beside
                 if os.access(path + "-tls", os.X_OK)]
    else:
        missing.append("smtpd with smtpd-tls")
    for sessions, name in ((1, "Postfix, max_use=1"), (100, "Postfix")):
        mta = postfix(tmp, sessions, name,
                      PROXY_CF + TLS_CF % (key, cert, tmp))
        if mta is None:
            missing.append(name + " (as root)")
        else:
            some.append(mta)
    return some


def filter_candidates(tmp, port, missing):
    """Each without the filter and with it."""
    smtpd = tmp + "/smtpd"
    some = []
    for name, relay in (("discard:", "discard:"),
                        ("smtp:", "smtp:[127.0.0.1]:{hop}")):
        for label, asked in (("", []), (", filter", [
                "--milter", "inet:127.0.0.1:%d" % port])):
            if os.access(smtpd, os.X_OK):
                some.append(Candidate("smtpd %s%s" % (name, label),
                                      [smtpd, *asked, relay], hop=[]))
    for relay in "discard", "smtp":
        for label, asked in (("", ""), (", filter",
                             "smtpd_milters = inet:127.0.0.1:%d\n" % port)):
            mta = postfix(tmp, 100, "Postfix %s:%s" % (relay, label),
                          QUEUE_CF % relay + asked)
            if mta is None:
                missing.append("Postfix (as root)")
            else:
                some.append(mta)
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

    def ratio(self, name, column, base):
        ours, theirs = self.median(name, column), self.median(base, column)
        return ours / theirs if ours and theirs else None

    def spread(self, name, column):
        """Half of what the middle half of the rounds spans, in per cent."""
        values = sorted(self.rows.get(name, {}).get(column) or [])
        if len(values) < 3:
            return None
        low, _, high = statistics.quantiles(values, n=4)
        return 50 * (high - low) / statistics.median(values)


# heading, column, how it is shown, unit's factor, whose it is divided by
COLUMNS = [
    ("us/conn", "small cpu", "%.0f", 1e6, None),
    ("xfloor", "small cpu", "%.2f", 1, "floor"),
    ("conn/s", "small rate", "%.0f", 1, None),
    ("sys:us", "activate cpu", "%.0f", 1e6, None),
    ("xfloor", "activate cpu", "%.2f", 1, "floor"),
    ("MB/cpu-s", "bulk mbcpu", "%.0f", 1, None),
    ("xfloor", "bulk mbcpu", "%.2f", 1, "floor"),
    ("MB/s", "bulk mbs", "%.0f", 1, None),
    ("KiB", "pss", "%.0f", 1, None),
    ("calls", "calls", "%.0f", 1, None),
    ("faults", "small faults", "%.0f", 1, None),
    ("kB", "size", "%.0f", 1e-3, None),
]

LEGEND = """\
us/conn: microseconds of CPU, user and system, of the listener and all its
children, for a connection with one message of 1 kB; +-%: half the quartiles'
span.  conn/s: ten at a time, by the clock.  sys: the same under
systemd-socket-activate.  MB/cpu-s, MB/s: messages of 10 MB, by CPU and by the
clock.  KiB: memory of an idle connection, shared pages in proportion.  calls,
faults: system calls and page faults of one session (faults with those of the
super-server's fork).  kB: the stripped program.  xfloor: ratio to "floor"."""

TLS_LEGEND = """\
TLS 1.3, %s, P-256 for key exchange and certificate,
no client certificate; every handshake is a full one, but for "resumed", each
with a ticket of the engine that stays.  Four sessions at a time.  us/session:
CPU of a session with STARTTLS and no message, of the server and all its
children; plain:us: the same without TLS (of the floor, where
stunnel is in front of it); TLS:us: what it adds.  hands/s: sessions by the
clock.  MB/cpu-s, MB/s: messages of 10 MB.  xstunnel: ratio to "%s".
Postfix's processes are there already and serve a hundred sessions each; with
max_use=1 they are new for each, as those of the others are.  It hands on to
smtp-sink without a queue, by its smtpd_proxy_filter, as "smtpd smtp:" does;
smtp-sink is not counted.""" % (
    CIPHER, STUNNEL)

FILTER_LEGEND = """\
Messages in a second of the server's CPU, four connections at a time.  kept:
messages of 1 kB, all over these four; the others one a connection.  x: ratio to
"%s".  The filter is libmilter's, in C, and continues at every step;
its CPU is not counted.  Postfix has its processes already, and a queue: to its
discard(8), or over SMTP to smtp-sink, as "smtpd smtp:".""" % FILTERED

LOOP_LEGEND = """\
msg/cpu-s: messages in a second of CPU, user and system, of the server; xloop:
ratio to t/examples/loop.c's.  msg/s: by the clock.  loop.c, aiosmtpd (Sink) and
smtp-sink are one process; smtpd is one for each connection, here with its
super-server; Postfix hands on to smtp-sink, which is not counted, without a
queue, by its smtpd_proxy_filter."""

DISTANCE_LEGEND = """\
A session with one message of 1 kB for so many recipients, from connect() to the
reply to QUIT; MAIL, RCPT and DATA go out together, or, by turns, each waits for
the reply to the one before.  dot: to the reply to the message.  straight: the
client is itself that far from smtp-sink; smtpd is where the client is.  Without
--live the next hop's time begins at the end of the message."""

ACCEPT_LEGEND = """\
ms CPU: of everything in the container but the client, so of the manager and
the journal, too.  ms: from connect() to end of file.  bare unit: nothing but
StandardInput=socket; the others are the units that are shipped, without and
with hardened.conf."""


def figure(results, name, column):
    _, key, form, factor, base = column
    value = (results.ratio(name, key, base) if base
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


def print_budgets(lines):
    if lines:
        print()
        for what, budget, value in lines:
            print("%-44s %-24s %8s" % (what, budget, value))


def show_tls_budgets(results, beside):
    lines = []
    for name in ("smtpd, resident", "smtpd, resumed"):
        both = [results.median(name, key + " cpu") for key in ("shake",
                                                               "plain")]
        if None not in both:
            lines.append([name + ", CPU / without TLS", "<= 2",
                          "%.2f" % (both[0] / both[1])])
    for label, _ in beside:
        ratio = results.ratio("smtpd discard:", "more", label + " discard:")
        if ratio is not None:
            lines.append(["TLS:us of smtpd / of " + label, "",
                          "%.2f" % ratio])
    for label in [label for label, _ in beside if label != "static"]:
        ratio = results.ratio("static discard:", "more", label + " discard:")
        if ratio is not None:
            lines.append(["TLS:us of static / of " + label, "",
                          "%.2f" % ratio])
    print_budgets(lines)


def show_budgets(results):
    """What a connection may cost, and what was measured just now."""
    lines = []

    def line(what, budget, value, form="%.2f"):
        if value is not None:
            lines.append([what, budget, form % value])

    for name, budget in (("smtpd discard:", "<= 1.5"),
                         ("smtpd smtp:", "<= 1.95"),
                         ("static discard:", "<= 1.05"),
                         ("static smtp:", "<= 1.45")):
        line(name + ", CPU of a connection / floor's", budget,
             results.ratio(name, "small cpu", "floor"))
    line("--live smtp:, CPU of a connection / smtp:'s", "<= 1.1",
         results.ratio("smtpd --live smtp:", "small cpu", "smtpd smtp:"))
    parts = [results.median(name, "small cpu") for name in (
        "smtpd -- /bin/true", "smtpd discard:", "floor + /bin/true", "floor")]
    if None not in parts:
        line("-- /bin/true / (discard: + a fork and exec)", "<= 1.15",
             parts[0] / (parts[1] + parts[2] - parts[3]))
    line("10 MB, discard: / plain read loop, MB/s", ">= 1.0",
         results.ratio("smtpd discard:", "bulk mbs", "floor"))
    line("the same, MB/cpu-s", "",
         results.ratio("smtpd discard:", "bulk mbcpu", "floor"))
    for name, memory, size in (("smtpd", 200, 200), ("static", 165, 280)):
        if not results.rows.get(name + " discard:"):
            continue
        for relay in (" discard:", " smtp:"):
            line("KiB of an idle connection, " + name + relay,
                 "<= %d" % memory, results.median(name + relay, "pss"), "%.0f")
        line("kB of " + name + ", stripped", "<= %d" % size,
             (results.median(name + " discard:", "size") or 0) / 1000, "%.1f")
    print_budgets(lines)


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
set xrange [0:*]
set offsets 0, 0.6, 0, 0
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

def rounds(what, most, args, share):
    """Counts them.  On a slow machine there are fewer, so that a part takes
    its share of the minutes, but not fewer than three."""
    end = time.monotonic() + 60 * args.minutes * share
    for turn in range(most):
        if turn >= 3 and time.monotonic() > end:
            say("%s: %d rounds are what there is time for" % (what, turn))
            return
        say("%s, round %d of %d" % (what, turn + 1, most))
        yield turn


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
    for turn in rounds("main", args.rounds, args, 0.5):
        for candidate in everyone:
            name = candidate.name
            results.attempt(name, "small", load, candidate, tmp, args.sessions,
                            10, 1024)
            if find(ACTIVATE[0]) and not candidate.serves:
                results.attempt(name, "activate", load, candidate, tmp,
                                args.sessions, 10, 1024, ACTIVATE)
            # Of the two that a budget compares there is more to see.
            if turn % 3 == 0 or args.quick or name in BULK:
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
    for _ in rounds("scale", max(1, args.rounds // 3), args, 0.15):
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
                        source(it.port, 1, 1, length * MB)
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
    context = client_context()
    some = [c for c in tls_candidates(args, tmp, missing)
            if re.search(args.only, c.name)]
    for _ in rounds("STARTTLS", max(3, args.rounds // 2), args, 0.2):
        for candidate in some:
            name = candidate.name
            results.attempt(name, "shake", tls, candidate, tmp, 40, 0, context)
            results.attempt(name, "plain", tls, candidate.plain, tmp, 40, 0,
                            None)
            results.attempt(name, "bulk", tls, candidate, tmp, 4, 10 * MB,
                            context)
    for name in results.rows:
        both = [results.median(name, key) for key in ("shake cpu",
                                                      "plain cpu")]
        if None not in both:
            results.add(name, "more", both[0] - both[1])
    form = [("us/session", "shake cpu", "%.0f", 1e6, None),
            ("xstunnel", "shake cpu", "%.2f", 1, STUNNEL),
            ("plain:us", "plain cpu", "%.0f", 1e6, None),
            ("TLS:us", "more", "%.0f", 1e6, None),
            ("hands/s", "shake rate", "%.0f", 1, None),
            ("MB/cpu-s", "bulk mbcpu", "%.0f", 1, None),
            ("xstunnel", "bulk mbcpu", "%.2f", 1, STUNNEL),
            ("MB/s", "bulk mbs", "%.0f", 1, None)]
    if results.rows:
        print("\nSTARTTLS:")
        show(["candidate"] + [column[0] for column in form],
             [[name] + [figure(results, name, column) for column in form]
              for name in results.rows], folder + "/tls.tsv")
        show_tls_budgets(results, args.beside)
        print("\n" + TLS_LEGEND)


def filter_part(args, tmp, missing, folder):
    """What a mail filter costs."""
    path = copied(OUT + "/filter", tmp)
    if path is None:
        missing.append("the filter (libmilter-dev)")
        return
    results = Results()
    loads = (("1kB", 1024), ("kept", 1024, "-d"), ("100kB", 102400))
    with Filter(path) as it:
        some = filter_candidates(tmp, it.port, missing)
        for _ in rounds("filter", max(3, args.rounds // 2), args, 0.2):
            for candidate in some:
                for label, *how in loads:
                    results.attempt(candidate.name, label, filtered, candidate,
                                    tmp, args.sessions, *how)
    for name in results.rows:
        for label, *_ in loads:
            cpu = results.median(name, label + " cpu")
            if cpu:
                results.add(name, label, 1 / cpu)
    form = [column for label, *_ in loads for column in (
        (label + "/cpu-s", label, "%.0f", 1, None),
        ("x" + label, label, "%.2f", 1, FILTERED))]
    if results.rows:
        print("\nBeside a mail filter:")
        show(["candidate"] + [column[0] for column in form],
             [[name] + [figure(results, name, column) for column in form]
              for name in results.rows], folder + "/filter.tsv")
        print("\n" + FILTER_LEGEND)


def loop_part(args, tmp, everyone, missing, folder):
    """One process for many clients: t/examples/loop.c beside its peers."""
    loop = copied(TOP + "/t/out/loop", tmp)
    if loop is None:
        missing.append("t/out/loop")
        return
    some = [Candidate(LOOP, [loop, "{port}"], serves=True)]
    some += [c for c in everyone if c.name in ("aiosmtpd", "smtp-sink",
                                               "smtpd discard:")]
    mta = postfix(tmp, 1000, "Postfix", PROXY_CF)
    if mta is None:
        missing.append("Postfix (as root)")
    else:
        some.append(mta)
    results = Results()
    for _ in rounds("loop", max(3, args.rounds // 2), args, 0.1):
        for candidate in some:
            results.attempt(candidate.name, "", stream, candidate, tmp,
                            10 * args.sessions, 10)
    form = [("msg/cpu-s", "cpurate", "%.0f", 1, None),
            ("xloop", "cpurate", "%.2f", 1, LOOP),
            ("msg/s", "rate", "%.0f", 1, None)]
    if results.rows:
        print("\nMessages of 1 kB on ten connections that stay open:")
        show(["candidate"] + [column[0] for column in form],
             [[name] + [figure(results, name, column) for column in form]
              for name in results.rows], folder + "/loop.tsv")
        print("\n" + LOOP_LEGEND)


def distance_part(args, tmp, folder):
    """What --live adds to the time of a client whose next hop is far."""
    smtpd = tmp + "/smtpd"
    if not os.access(smtpd, os.X_OK):
        return
    ways = [("straight", None), ("smtpd --live", ["--live"]), ("smtpd", [])]
    loads = [("1", 1, True), ("100", 100, True), ("20 by turns", 20, False)]
    results = Results()

    def measure(options, recipients, pipelined):
        with Hop([]) as hop, distance.Far(hop.port, DISTANCE) as far:
            try:
                if options is None:
                    times = distance.session(far.port, recipients, pipelined)
                else:
                    way = Candidate("", [smtpd, *options,
                                         "smtp:[127.0.0.1]:%d" % far.port])
                    with under(TCPSERVER, way, hop, tmp) as it:
                        times = distance.session(it.port, recipients,
                                                 pipelined)
            except OSError as error:
                raise Failed(str(error)) from error
        return dict(zip(("dot", "quit"), times))

    for _ in rounds("distance", max(3, args.rounds // 3), args, 0.1):
        for name, options in ways:
            for load_name, recipients, pipelined in loads:
                results.attempt(name, load_name, measure, options, recipients,
                                pipelined)
    form = [column for load_name, *_ in loads for column in (
        (load_name, load_name + " quit", "%.0f", 1e3, None),
        ("ratio", load_name + " quit", "%.2f", 1, "straight"))]
    form += [("dot", "100 dot", "%.0f", 1e3, None),
             ("ratio", "100 dot", "%.2f", 1, "straight")]
    print("\nMilliseconds of a session whose next hop is %.0f ms away:"
          % (1000 * DISTANCE))
    show(["by way of"] + [column[0] for column in form],
         [[name] + [figure(results, name, column) for column in form]
          for name, _ in ways], folder + "/distance.tsv")
    print("\n" + DISTANCE_LEGEND)


def systemd_part(tmp, missing, folder):
    """What Accept=yes costs, in a container; see accept.py."""
    say("systemd: boots in a container, which takes about a minute")
    done = subprocess.run([TOP + "/t/systemd/boot.sh", HERE + "/accept.py"],
                          env={"PATH": PATH, "RIG_FILES": tmp + "/floor"},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True, check=False)
    pairs = [line.split("\t") for line in done.stdout.splitlines()]
    if done.returncode or not pairs or any(len(pair) != 3 for pair in pairs):
        say("systemd is left out: " + done.stdout.strip()[-300:])
        missing.append("systemd in a container")
        return
    found = [(name, float(cpu), float(clock)) for name, cpu, clock in pairs]
    _, base_cpu, base_clock = found[0]
    print("\nConnections with one message of 1 kB, one after the other:")
    show(["started by, what", "ms CPU", "ratio", "ms", "ratio"],
         [[name, "%.2f" % (1000 * cpu), "%.1f" % (cpu / base_cpu),
           "%.2f" % (1000 * clock), "%.1f" % (clock / base_clock)]
          for name, cpu, clock in found], folder + "/systemd.tsv")
    print("\n" + ACCEPT_LEGEND)


# README's tables: the heading of the first column, the file, the columns by
# number, the rows that are left out, and whether rows become columns.
README = [
    ("A message of 1 kB", "table.tsv", (1, 3, 4, 7, 9, 10, 11, 13),
     ("floor, static", "floor + /bin/true"), False),
    ("STARTTLS", "tls.tsv", (1, 2, 4, 5, 6, 8), (), False),
    ("Beside a filter", "filter.tsv", (1, 2, 4, 6), (), False),
    ("1 kB, connections stay open", "loop.tsv", (1, 2, 3), (), False),
    ("A next hop 20 ms away", "distance.tsv", (1, 2, 3, 4, 5, 6, 7, 8), (),
     False),
    ("1 kB, one after the other", "systemd.tsv", (1, 2, 3, 4), (), False),
    ("us/conn, so many at a time", "scale.tsv", (1, 2, 3), (), True),
    ("A message of so many MB", "large.tsv", (1, 2), (), True),
]


def readme_table(folder, heading, name, columns, without, turn):
    rows = [line.split("\t") for line in
            read(folder + "/" + name).splitlines()]
    rows[0][0] = heading
    rows = [[row[i] for i in (0, *columns) if i < len(row)] for row in rows
            if row[0] not in without]
    if turn:
        rows = list(zip(*rows))
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("    " + "  ".join(
        cell.rjust(wide[i]) if i else cell.ljust(wide[0])
        for i, cell in enumerate(row)) for row in rows)


def fill_in(path, folder):
    """Puts what the last run found where README has what another found."""
    cpus = re.findall(r"^model name\s*: (.*)$", read("/proc/cpuinfo"),
                      re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', read("/etc/os-release"),
                       re.MULTILINE)
    parts = [textwrap.fill("Measured with %d x %s, Linux %s, %s:" % (
        os.cpu_count(), cpus[0] if cpus else os.uname().machine,
        os.uname().release.partition("-")[0],
        system.group(1) if system else "?"), 79)]
    for table in README:
        try:
            parts.append(readme_table(folder, *table))
        except OSError as error:
            sys.exit("bench: %s: %s; run all parts first" % (
                error.filename, error.strerror))
    text, count = re.subn(r"^Measured with\b.*?(?=\n\n\n)",
                          lambda _: "\n\n".join(parts), read(path), count=1,
                          flags=re.MULTILINE | re.DOTALL)
    if not count:
        sys.exit("bench: %s: no section to fill in" % path)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


PARTS = ["main", "scale", "large", "tls", "filter", "loop", "distance",
         "systemd"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true",
                        default=bool(os.environ.get("QUICK")),
                        help="about a minute, and rougher; or QUICK=1")
    parser.add_argument("--parts", help="some of " + ",".join(PARTS))
    parser.add_argument("--only", default="", metavar="REGEX",
                        help="candidates whose name matches (and the floor)")
    parser.add_argument("--minutes", type=float, default=8,
                        help="no new rounds after that (8)")
    parser.add_argument("--rounds", type=int, help="at most (15)")
    parser.add_argument("--sessions", type=int)
    parser.add_argument("--output", default=OUT, metavar="DIR")
    parser.add_argument("--beside", action="append", default=[],
                        metavar="NAME=PATH", help="measure another smtpd, too")
    parser.add_argument("--readme", metavar="README",
                        help="measure nothing, put the last run's tables there")
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 15)
    args.sessions = args.sessions or (60 if args.quick else 200)
    args.bulk = 1 if args.quick else 10
    args.beside = [(label, os.path.abspath(path)) for label, _, path in
                   (beside.partition("=") for beside in args.beside)]
    args.parts = (args.parts or ("main,scale,tls,loop" if args.quick else
                                 ",".join(PARTS))).split(",")
    for part in set(args.parts) - set(PARTS):
        parser.error("no such part: " + part)
    return args


def run(args, tmp):
    missing = [name for name in ("strace", ACTIVATE[0]) if not find(name)]
    everyone = [c for c in candidates(args, tmp, missing)
                if c.name == "floor" or re.search(args.only, c.name)]
    scales = 0
    results = None
    if "main" in args.parts:
        results = main_part(args, tmp, everyone, args.output)
    if "scale" in args.parts:
        scales = scale_part(args, tmp, everyone, args.output)
    if "large" in args.parts:
        large_part(tmp, everyone, args.output)
    if "tls" in args.parts:
        tls_part(args, tmp, missing, args.output)
    if "filter" in args.parts:
        filter_part(args, tmp, missing, args.output)
    if "loop" in args.parts:
        loop_part(args, tmp, everyone, missing, args.output)
    if "distance" in args.parts:
        distance_part(args, tmp, args.output)
    if "systemd" in args.parts:
        systemd_part(tmp, missing, args.output)
    if results:
        plot(len(results.rows), scales, args.output)
    if missing:
        print("\nNot here, so not measured: " + ", ".join(missing) + ".")


def main():
    args = arguments()
    if args.readme:
        fill_in(args.readme, args.output)
        return
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
