"""peer.py - other people's servers for the tests in t/peers: Postfix, Exim,
OpenSMTPD and Dovecot, each an instance of a test's own, on free ports of
127.0.0.1, in a temporary folder.  It is stopped and removed when `with' ends.

    sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
    from peer import Postfix

    with Postfix() as mx, Session("-n", mx.relays[0]) as s:
        s.start()
        assert s.deliver("Subject: x", "", "y")[:3] == "250"
        recipients, octets = mx.arrival()

Postfix takes every message from 127.0.0.1 and hands it to arrival().  Further
arguments are lines of main.cf, `main', and for each port that it listens at
the -o options of that smtpd(8): Postfix(["smtpd_tls_security_level=may"], []).
Each server has relays, what smtpd is told to relay there; ports; place, its
folder; read(name), a file of it; stop(), after which its log is whole.

Postgrey and Spf are services for --policy, at the unix socket `at'.  submit()
hands one of TEXTS to a server through smtpd, delivered_as() says whether it
has it.  main() runs a script's tests, and ends the servers that several of them
share().
"""
import contextlib
import glob
import grp
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile

import tap
from tap import (Listener, Session, Skip, certificate, free_port, lines, need,
                 script, write)

os.environ["PATH"] += ":/usr/sbin:/sbin"
shared, made = contextlib.ExitStack(), {}


def share(name, make):
    """What make() returns, entered once: it ends when all tests have run."""
    if name not in made:
        made[name] = shared.enter_context(make())
    return made[name]


def main():
    """Runs the tests.  What they started ends with them, by a signal too."""
    for number in signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.default_int_handler)
    with shared:
        tap.main()


def text_of(subject, *body):
    """A message that has the fields that Postfix would add."""
    return lines("From: s@example.org", "Date: Sat, 28 Nov 2026 12:00:00 +0000",
                 f"Message-Id: <{subject}@client.example.org>",
                 f"Subject: {subject}", "", *body)


TEXTS = {
    "plain": text_of("plain", "One line, and no more."),
    "dots": text_of("dots", ".", "..", ".a", "", ".", "b.", "..."),
    "eight": text_of("8-bit", b"k\xc3\xa4se \377\200"),
    "utf8": text_of("gr\u00fcn", "k\u00e4se"),
    # 20 MiB: lines of every length, some of which begin with dots.
    "big": text_of("big", *["." * (i % 3) + "x" * (i % 71)
                            for i in range(550000)]),
}


def submit(relay, text, *options, sender="s@example.org",
           to=("a@example.net",), parameters="", hello="EHLO", count=1,
           env=None):
    """The text, count times in one session.  Returns the replies to each last
    dot, or to RCPT where no recipient was taken."""
    got = []
    stuffed = re.sub(rb"(?m)^\.", b"..", text) + b".\r\n"
    with Session("-n", "-u", "-s", "41943040", *options, relay,
                 env=env) as s:
        s.reply()
        s.say(f"{hello} client.example.org")
        for _ in range(count):
            said = s.say(f"MAIL FROM:<{sender}> {parameters}".rstrip(),
                         *[f"RCPT TO:<{r}>" for r in to])
            assert said[0][:3] == "250", said
            taken = sum(reply[:3] == "250" for reply in said[1:])
            if taken == 0:
                got += said[1:]
                s.say("RSET")
                continue
            assert s.say("DATA")[0][:3] == "354"
            s.send(stuffed)
            got += s.replies(taken if hello == "LHLO" else 1)
        s.finish()
    return got


def delivered_as(octets, text):
    """A delivery is the text, its lines ended as files have it, after the
    fields that tell how it came; ours is among them."""
    text = text.replace(b"\r\n", b"\n")
    assert octets.endswith(text), octets[:2000]
    trace = octets[:-len(text)].decode()
    for line in trace.splitlines():
        assert re.match(r"[ \t]|(Return-Path|Delivered-To|Received|"
                        r"X-Original-To): ", line), trace
    assert " by mx.example.org " in trace.replace("\n\t", " "), trace


class Peer:
    """One server, in a folder of its own."""
    needs_root = True

    def __init__(self):
        if self.needs_root and os.geteuid() != 0:
            raise Skip("the peer switches between users: needs root")
        self.place = tempfile.mkdtemp(prefix="smtpd-peer-")
        os.chmod(self.place, 0o755)
        self.process = None
        self.ports = []
        self.relays = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.stop()
        shutil.rmtree(self.place, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.place, name)

    def save(self, name, text):
        return write(self.path(name), text)

    def read(self, name):
        with open(self.path(name), errors="replace") as f:
            return f.read()

    def await_lines(self, name, pattern, count):
        """Waits until so many lines of a file that another process writes
        match."""
        with subprocess.Popen(["tail", "-n", "+1", "-F", self.path(name)],
                              stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.DEVNULL) as follower:
            try:
                while count > 0:
                    line = follower.stdout.readline()
                    count -= re.search(pattern, line) is not None
            finally:
                follower.kill()

    def listen(self, count):
        self.ports = [free_port() for _ in range(count)]
        self.relays = [f"smtp:[127.0.0.1]:{port}" for port in self.ports]

    def spawn(self, *command, at):
        """Starts a command in the foreground; returns when it listens at a
        port or path.  What it prints is in the file out."""
        with open(self.path("out"), "ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True)
        family = socket.AF_UNIX if isinstance(at, str) else socket.AF_INET
        over = os.pidfd_open(self.process.pid)
        try:
            while True:
                with socket.socket(family) as probe:
                    if probe.connect_ex(at) == 0:
                        return
                if select.select([over], [], [], 0.02)[0]:
                    raise AssertionError(f"{command}: {self.read('out')}")
        finally:
            os.close(over)

    def stop(self):
        if self.process:
            # Again and again: postgrey misses a signal that comes while it is
            # about to wait.
            while self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGTERM)
                try:
                    self.process.wait(1)
                except subprocess.TimeoutExpired:
                    pass
            self.process = None


class Program(Peer):
    """A server that learns all that it needs from its command; it listens at
    `at', an address or a path."""
    needs_root = False

    def __init__(self, *command, at):
        super().__init__()
        self.command, self.at = command, at

    def start(self):
        self.spawn(*self.command, at=self.at)


def fetched(package, binary, place):
    """Where a program of /usr/sbin is: installed, or unpacked below place
    (Exim and OpenSMTPD cannot be installed beside Postfix)."""
    packaged = subprocess.run(["dpkg", "-s", package], capture_output=True)
    if packaged.returncode == 0:
        return f"/usr/sbin/{binary}"
    subprocess.run(["apt-get", "download", "-o", "APT::Sandbox::User=root",
                    package], cwd=place, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    for file in glob.glob(f"{place}/{package}_*.deb"):
        subprocess.run(["dpkg", "-x", file, f"{place}/root"], check=True)
        return f"{place}/root/usr/sbin/{binary}"
    raise Skip(f"no {package} here, and none to be had")


class Unpacked(Peer):
    """A server whose package may not be installed."""

    def spawn_with_users(self, commands, at):
        """Runs shell commands with mounts of their own, among them files of
        users that hold those that the package would have made."""
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", self.place)
        for number, name in enumerate(("Debian-exim", "opensmtpd",
                                       "opensmtpq"), 60900):
            with open(self.path("passwd"), "a") as f:
                f.write(f"{name}:x:{number}:{number}::/nonexistent:"
                        "/usr/sbin/nologin\n")
            with open(self.path("group"), "a") as f:
                f.write(f"{name}:x:{number}:\n")
        self.spawn("unshare", "-m", "sh", "-ec",
                   f"mount --bind {self.place}/passwd /etc/passwd\n"
                   f"mount --bind {self.place}/group /etc/group\n" + commands,
                   at=("127.0.0.1", at))


MAIN_CF = """
compatibility_level = 3.6
myhostname = mx.example.net
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
queue_directory = {place}/spool
data_directory = {place}/data
maillog_file = {place}/maillog
maillog_file_prefixes = {place}
alias_maps =
local_recipient_maps =
local_header_rewrite_clients =
default_transport = deliver
deliver_destination_recipient_limit = 1000
message_size_limit = 52428800
smtpd_error_sleep_time = 0
smtpd_peername_lookup = no
smtpd_tls_chain_files = {place}/chain.pem
smtpd_tls_received_header = yes
smtputf8_enable = yes
strict_smtputf8 = no
"""

MASTER_CF = """
tlsmgr unix - - n 1000? 1 tlsmgr
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
deliver unix - n n - - pipe
  user=nobody argv={place}/deliver ${{queue_id}} ${{recipient}}
"""


# A Postfix that relays for users whom it asks Dovecot about; auth is filled in.
SMARTHOST = """
mynetworks =
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {auth}
smtpd_sasl_authenticated_header = yes
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""


class Postfix(Peer):
    """Its certificate, for `names', is the file mx.pem; its log maillog."""
    names = "DNS:localhost,IP:127.0.0.1"

    def __init__(self, *services, main=""):
        if not shutil.which("postconf"):
            raise Skip("no Postfix here (package postfix)")
        super().__init__()
        self.services = services or ([],)
        self.main = main
        self.running = False
        self.arrived = None

    def start(self):
        self.listen(len(self.services))
        for name in ("etc", "spool", "data", "in"):
            os.mkdir(self.path(name), 0o755)
        os.chmod(self.path("in"), 0o777)
        shutil.chown(self.path("data"), "postfix")
        os.mkfifo(self.path("arrived"))
        os.chmod(self.path("arrived"), 0o666)
        script(self.place, f"""cat >{self.place}/in/$1 || exit 75
chmod 644 {self.place}/in/$1
echo "$*" 1<>{self.place}/arrived""", "deliver")     # waits for no reader
        certificate(self.place, "mx", "localhost", "-addext",
                    f"subjectAltName={self.names}")
        self.save("chain.pem", self.read("mx.key") + self.read("mx.pem"))
        self.save("maillog", "")
        self.save("etc/main.cf", MAIN_CF.format(place=self.place)
                  + self.main.format(place=self.place))
        self.save("etc/master.cf", "".join(
            f"127.0.0.1:{port} inet n - n - - smtpd\n"
            + "".join(f"  -o {option}\n" for option in options)
            for port, options in zip(self.ports, self.services))
            + MASTER_CF.format(place=self.place))
        done = subprocess.run(["postfix", "-c", self.path("etc"), "start"],
                              capture_output=True, text=True)
        self.running = True
        assert done.returncode == 0, done.stderr + self.read("maillog")
        # Open for writing as well, so that there is no end of file.
        self.arrived = open(self.path("arrived"), "r+b", buffering=0)

    def arrival(self):
        """Waits for the next delivery: its recipients, its octets."""
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self.arrived.fileno(), 1)
        queue_id, *recipients = line.decode().split()
        with open(self.path(f"in/{queue_id}"), "rb") as f:
            return recipients, f.read()

    def stop(self):
        if self.running:
            subprocess.run(["postfix", "-c", self.path("etc"), "stop"],
                           capture_output=True)
        self.running = False

    def close(self):
        if self.arrived:
            self.arrived.close()
        super().close()


class Exim(Unpacked):
    """Keeps what it takes in its queue.  The second port has no CHUNKING.
    The local part unknown is."""

    def start(self):
        binary = fetched("exim4-daemon-light", "exim4", self.place)
        self.listen(2)
        full, bare = self.ports
        os.mkdir(self.path("exim"))
        os.chmod(self.path("exim"), 0o777)
        self.save("conf", f"""
primary_hostname = mx.example.net
exim_user = nobody
exim_group = nogroup
never_users =
keep_environment =
spool_directory = {self.place}/exim/spool
log_file_path = {self.place}/exim/%slog
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = check_rcpt
queue_only
smtp_enforce_sync = false
smtp_max_synprot_errors = 1000
smtp_max_unknown_commands = 1000
local_interfaces = 127.0.0.1
daemon_smtp_ports = {full} : {bare}
tls_advertise_hosts =
chunking_advertise_hosts = ${{if ={{$received_port}}{{{full}}}{{*}}}}
begin acl
check_rcpt:
  deny
    local_parts = unknown
    message = No such mailbox here
  accept
""")
        self.spawn_with_users(f"exec {binary} -C {self.place}/conf -bdf "
                              f"-oP {self.place}/exim/pid", at=bare)


class OpenSMTPD(Unpacked):
    """Takes every message, or those to the named recipients; its log is the
    file out."""

    def __init__(self, *recipients):
        super().__init__()
        self.recipients = recipients

    def start(self):
        to = ", ".join(f'"{r}"' for r in self.recipients)
        wanted = f"for rcpt-to {{ {to} }}" if to else "for any"
        binary = fetched("opensmtpd", "smtpd", self.place)
        self.listen(1)
        self.save("conf", f"""
listen on 127.0.0.1 port {self.ports[0]}
action "drop" relay host "smtp://127.0.0.1:1"
match from any {wanted} action "drop"
""")
        self.spawn_with_users(f"""
mount -t tmpfs none /var/spool
mount -t tmpfs none /var/lib
mount -t tmpfs none /run
mkdir -p /var/lib/opensmtpd/empty
mkdir -m 711 /var/spool/smtpd
exec {binary} -d -f {self.place}/conf""", at=self.ports[0])


DOVECOT_CONF = """protocols = {protocols}
listen = 127.0.0.1
hostname = store.example.net
base_dir = {place}/run
state_dir = {place}/state
log_path = {place}/log
default_vsz_limit = 512M
first_valid_uid = 1
mail_uid = nobody
mail_gid = nogroup
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
service auth {{
  chroot =
  unix_listener auth {{
    mode = 0666
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
"""

# What has another form in Dovecot 2.4, by what it is for.
DOVECOT_2_3 = {
    "start": "",
    "mail": """mail_location = maildir:{place}/mail/%n
""",
    "passwords": """passdb {{
  driver = passwd-file
  args = {place}/users
}}
""",
    "known": """userdb {{
  driver = passwd-file
  args = {place}/users
}}
""",
    "everybody": """userdb {{
  driver = static
  args = allow_all_users=yes home={place}/mail/%n
}}
""",
    "quota": """mail_plugins = quota
plugin {{
  quota = maildir:mailbox
  quota_exceeded_message = The mailbox is full
}}
""",
    "full": "userdb_quota_rule=*:bytes=10",
    "certificate": """ssl_cert = <{place}/mx.pem
ssl_key = <{place}/mx.key
""",
    "bearer": """passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {place}/oauth2
}}
""",
}
DOVECOT_2_4 = {
    "start": """dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
""",
    "mail": """mail_driver = maildir
mail_path = {place}/mail/%{{user | username}}
""",
    "passwords": """passdb passwd-file {{
  passwd_file_path = {place}/users
}}
""",
    "known": """userdb passwd-file {{
  passwd_file_path = {place}/users
}}
""",
    "everybody": """userdb static {{
  userdb_static_allow_all_users = yes
  fields {{
    home = {place}/mail/%{{user | username}}
  }}
}}
""",
    "quota": """mail_plugins = quota
quota mailbox {{
  driver = maildir
}}
quota_storage_grace = 0
quota_exceeded_message = The mailbox is full
""",
    "full": "userdb_quota_storage_size=10B",
    "certificate": """ssl_server_cert_file = {place}/mx.pem
ssl_server_key_file = {place}/mx.key
""",
    "bearer": """oauth2 {{
  !include {place}/oauth2
}}
""",
}

DOVECOT_USER = """default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
"""

DOVECOT_LMTP = """service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
}}
"""

DOVECOT_SUBMISSION = """ssl = required
service submission-login {{
  chroot =
  inet_listener submission {{
    port = {port}
  }}
  inet_listener submissions {{
    port = 0
  }}
}}
submission_relay_host = 127.0.0.1
submission_relay_port = {onward}
"""

OAUTH2 = """introspection_mode = post
introspection_url = {url}
username_attribute = username
active_attribute = active
active_value = true
"""


class Dovecot(Peer):
    """Decides about passwords at the socket `auth', its path; takes messages
    by LMTP, for everybody, into Maildirs mail/LOCALPART.  Users have the
    passwords in `users'.  Without root there is no LMTP.  known: only users
    have mailboxes.  full: these have a mailbox that holds 10 octets.
    submission: it has that service, which wants STARTTLS with mx.pem and hands
    on to the port `onward', to be set before start().  bearer: the address of
    a service that knows tokens (RFC 7662), which must be for that scope."""
    needs_root = False

    def __init__(self, lmtp=False, users=None, known=False, full=(),
                 mechanisms="plain login scram-sha-1 scram-sha-256",
                 submission=False, bearer=None, scope=None):
        self.lmtp, self.submission = lmtp, submission
        self.needs_root = lmtp or submission
        self.known, self.full, self.mechanisms = known, full, mechanisms
        self.bearer, self.scope, self.onward = bearer, scope, None
        if not shutil.which("dovecot") or \
                lmtp and not os.path.exists("/usr/lib/dovecot/lmtp"):
            raise Skip("no Dovecot here (package dovecot-lmtpd)")
        if submission and not os.path.exists("/usr/lib/dovecot/submission"):
            raise Skip("no package dovecot-submissiond here")
        said = subprocess.run(["dovecot", "--version"], check=True,
                              capture_output=True, text=True).stdout
        self.form = DOVECOT_2_3 if said.startswith("2.3.") else DOVECOT_2_4
        super().__init__()
        self.users = users or {}
        self.auth = self.path("run/auth")

    def start(self):
        for name in ("mail", "run", "state"):
            os.mkdir(self.path(name), 0o755)
        if self.needs_root:
            shutil.chown(self.path("mail"), "nobody")
        self.save("users", "".join(
            f"{name}:{{PLAIN}}{password}:::::"
            + f":{self.form['full']}" * (name in self.full) + "\n"
            for name, password in self.users.items()))
        form = self.form
        conf = [form["start"], DOVECOT_CONF, form["mail"]]
        at = self.path("run/auth")
        if not self.needs_root:
            conf.append(DOVECOT_USER)
        if self.full:
            conf.append(form["quota"])
        if self.lmtp:
            conf.append(DOVECOT_LMTP)
            at = self.path("run/lmtp")
            self.relays = [f"lmtp:unix:{at}"]
        if self.submission:
            conf += [DOVECOT_SUBMISSION, form["certificate"]]
            self.listen(1)
            at = "127.0.0.1", self.ports[0]
            self.relays = [f"smtp:[localhost]:{self.ports[0]}"]
            certificate(self.place, "mx", "localhost", "-addext",
                        "subjectAltName=DNS:localhost,IP:127.0.0.1")
        else:
            conf.append("ssl = no\n")
        if self.bearer:
            conf.append(form["bearer"])
            self.save("oauth2", OAUTH2.format(url=self.bearer)
                      + (f"scope = {self.scope}\n" if self.scope else ""))
        if self.users or not self.bearer:
            conf.append(form["passwords"])
        conf.append(form["known" if self.known else "everybody"])
        self.save("conf", "".join(conf).format(
            place=self.place, protocols=" ".join(
                ["lmtp"] * self.lmtp + ["submission"] * self.submission),
            user=pwd.getpwuid(os.geteuid()).pw_name,
            group=grp.getgrgid(os.getegid()).gr_name,
            port=self.ports[0] if self.ports else None, onward=self.onward,
            mechanisms=self.mechanisms))
        self.spawn("dovecot", "-F", "-c", self.path("conf"), at=at)
        os.chmod(self.path("run"), 0o755)

    def messages(self, mailbox):
        """What is delivered there, as octets, in the order of names."""
        found = []
        for name in sorted(glob.glob(self.path(f"mail/{mailbox}/new/*"))):
            with open(name, "rb") as f:
                found.append(f.read())
        return found


class Postgrey(Peer):
    """Takes mail of those whom it greylisted when a second is over."""
    needs_root = False

    def start(self):
        need("postgrey")
        self.at = f"unix:{self.place}/postgrey"
        self.spawn("postgrey", f"--unix={self.place}/postgrey",
                   f"--dbdir={self.place}", "--delay=1",
                   f"--user={pwd.getpwuid(os.geteuid()).pw_name}",
                   f"--group={grp.getgrgid(os.getegid()).gr_name}",
                   "--hostname=mx.example.org", at=self.path("postgrey"))


# policyd-spf, and the DNS as it would answer for the example domains.
SPF = r"""
import sys
import spf
TEXTS = {"example.com": b"v=spf1 ip4:192.0.2.0/24 -all"}
def answer(name, qtype, *rest, **more):
    name = name.rstrip(".").lower()
    if qtype == "TXT" and name in TEXTS:
        return [((name, "TXT"), [TEXTS[name]])]
    return []
spf.DNSLookup = answer
from spf_engine.policyd_spf import main
sys.argv[1:] = [sys.argv[1]]
main()
"""
SPF_CONF = """debugLevel = 0
TestOnly = 1
HELO_reject = Fail
Mail_From_reject = Fail
PermError_reject = False
TempError_Defer = False
Header_Type = SPF
skip_addresses = 127.0.0.0/8,::ffff:127.0.0.0/104,::1
"""


class Spf(Peer):
    """A process for each connection, as Postfix's spawn(8) starts them.  Only
    192.0.2.0/24 may send for example.com."""
    needs_root = False
    listener = None

    def start(self):
        if subprocess.run(["/usr/bin/python3", "-c", "import spf_engine, spf"],
                          capture_output=True).returncode != 0:
            raise Skip("no spf_engine here (package python3-spf-engine)")
        self.at = f"unix:{self.place}/spf"
        self.listener = Listener(path=self.path("spf"), program=[
            "/usr/bin/python3", self.save("named.py", SPF),
            self.save("spf.conf", SPF_CONF)])

    def stop(self):
        if self.listener:
            self.listener.close()
        self.listener = None
