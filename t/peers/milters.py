"""milters.py - other people's mail filters for the tests in t/peers, each an
instance of a test's own that listens at a unix socket, `milter', its place as
--milter takes it.  They need no network."""
import glob
import json
import os
import shutil
import subprocess

from peer import Peer, Program
from tap import Skip


class Milter(Peer):
    needs_root = True
    program = package = None

    def __init__(self):
        super().__init__()
        if not shutil.which(self.program):
            raise Skip(f"no {self.program} here (package {self.package})")
        os.chmod(self.place, 0o777)
        self.milter = f"unix:{self.place}/socket"

    def serve(self, *command):
        self.spawn(*command, at=self.path("socket"))
        os.chmod(self.path("socket"), 0o777)


class OpenDKIM(Milter):
    """Signs for example.org, or verifies.  key is made by make_key()."""
    program, package = "opendkim", "opendkim"

    def __init__(self, mode, key):
        super().__init__()
        self.mode, self.key = mode, key

    def start(self):
        shutil.copy(f"{self.key}.private", self.path("key"))
        os.chmod(self.path("key"), 0o600)
        # A verifier lets the mail of internal hosts pass unseen.
        self.save("internal", "127.0.0.1\n" if self.mode == "s"
                  else "192.0.2.255\n")
        self.save("dns", f"s._domainkey.example.org {record(self.key)}\n")
        self.save("conf", f"""
Domain example.org
Selector s
KeyFile {self.place}/key
Socket local:{self.place}/socket
Mode {self.mode}
InternalHosts {self.place}/internal
Canonicalization relaxed/simple
AlwaysAddARHeader yes
AuthservID mx.example.org
TestDNSData {self.place}/dns
Background no
Syslog no
RequireSafeKeys no
""")
        self.serve("opendkim", "-f", "-x", self.path("conf"))


def make_key(place):
    """Makes place/s.private and s.public.  Returns place/s."""
    name = os.path.join(place, "s")
    subprocess.run(["openssl", "genrsa", "-traditional", "-out",
                    f"{name}.private", "2048"], check=True,
                   capture_output=True)
    subprocess.run(["openssl", "rsa", "-in", f"{name}.private", "-pubout",
                    "-out", f"{name}.public"], check=True,
                   capture_output=True)
    return name


def record(key):
    """The TXT record of a key."""
    with open(f"{key}.public") as f:
        lines = f.read().splitlines()[1:-1]
    return "v=DKIM1; k=rsa; p=" + "".join(lines)


class Asking(Milter):
    """A filter that asks a scanner, which is a server of its own."""
    scanner = None

    def scan(self, *command, at):
        self.scanner = Program(*command, at=at)
        self.scanner.start()

    def stop(self):
        super().stop()
        if self.scanner:
            self.scanner.close()
        self.scanner = None


class Clamav(Asking):
    """clamd, which knows one virus: EICAR's test file; and its filter."""
    program, package = "clamav-milter", "clamav-milter"

    def start(self):
        os.mkdir(self.path("db"))
        text = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + \
            rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
        self.save("db/own.ndb", f"Eicar-Own:0:*:{text.hex()}\n")
        self.save("clamd.conf", f"""
Foreground yes
LocalSocket {self.place}/clamd
DatabaseDirectory {self.place}/db
TemporaryDirectory {self.place}
""")
        self.save("conf", f"""
Foreground yes
MilterSocket unix:{self.place}/socket
ClamdSocket unix:{self.place}/clamd
TemporaryDirectory {self.place}
OnInfected Reject
RejectMsg Infected by %v
AddHeader Replace
""")
        self.scan("clamd", "-F", "-c", self.path("clamd.conf"),
                  at=self.path("clamd"))
        self.serve("clamav-milter", "-c", self.path("conf"))


class Spamass(Asking):
    """spamd with SpamAssassin's own rules, and its filter."""
    program, package = "spamass-milter", "spamass-milter"

    def start(self):
        if not shutil.which("spamd"):
            raise Skip("no spamd here (package spamd)")
        os.mkdir(self.path("site"))
        for plugins in glob.glob("/etc/spamassassin/*.pre"):
            shutil.copy(plugins, self.path("site"))
        self.save("site/local.cf", "use_bayes 0\ndns_available no\n")
        self.scan("spamd", "--local", "--nouser-config", "--username=nobody",
                  "--max-children=1", f"--siteconfigpath={self.place}/site",
                  f"--socketpath={self.place}/spamd",
                  f"--helper-home-dir={self.place}", at=self.path("spamd"))
        os.chmod(self.path("spamd"), 0o777)
        self.serve("spamass-milter", "-p", self.path("socket"), "-r", "15",
                   "--", "-U", self.path("spamd"))


class OpenDMARC(Milter):
    program, package = "opendmarc", "opendmarc"

    def start(self):
        self.save("conf", f"""
AuthservID mx.example.org
Socket local:{self.place}/socket
Background false
Syslog false
IgnoreAuthenticatedClients false
IgnoreHosts {self.place}/nobody
PublicSuffixList /usr/share/publicsuffix/public_suffix_list.dat
""")
        self.save("nobody", "192.0.2.255\n")
        self.serve("opendmarc", "-f", "-c", self.path("conf"))


class Redis(Peer):
    """For rspamd's greylist: at ports[0]."""
    needs_root = False

    def start(self):
        if not shutil.which("redis-server"):
            raise Skip("no Redis here (package redis-server)")
        self.listen(1)
        self.spawn("redis-server", "--port", str(self.ports[0]), "--bind",
                   "127.0.0.1", "--save", "", "--dir", self.place,
                   at=("127.0.0.1", self.ports[0]))


class Rspamd(Milter):
    """With local rules only."""
    program, package = "rspamd", "rspamd"

    def __init__(self, redis=None):
        super().__init__()
        self.redis = redis

    def start(self):
        for name in ("db", "log", "run"):
            os.mkdir(self.path(name))
            os.chmod(self.path(name), 0o777)
        greylist = "" if self.redis is None else f"""
greylist {{
  servers = "127.0.0.1:{self.redis.ports[0]}";
  check_local = true;
  timeout = 1h;
}}
"""
        self.save("conf", f"""
options {{
  pidfile = "{self.place}/run/pid";
  filters = "regexp";
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }}
  local_addrs = [];
  control_socket = "{self.place}/run/control mode=0600";
  hs_cache_dir = "{self.place}/db";
}}
logging {{ type = "console"; level = "info"; }}
actions {{ reject = 15; add_header = 6; greylist = 4; }}
lua = "/usr/share/rspamd/rules/rspamd.lua";
worker "rspamd_proxy" {{
  bind_socket = "{self.place}/socket mode=0666";
  milter = yes;
  timeout = 60s;
  upstream "local" {{ default = yes; self_scan = yes; }}
  count = 1;
}}
modules {{ path = "/usr/share/rspamd/plugins/"; }}
milter_headers {{
  use = ["x-spamd-result", "x-rspamd-server", "x-spam-level"];
  skip_local = false; skip_authenticated = false;
}}
regexp {{
  "OWN_RULE" {{ re = 'Subject=/greylist me/iH'; score = 5.0; }}
}}
{greylist}
""")
        self.spawn("rspamd", "-f", "-u", "nobody", "-g", "nogroup", "-c",
                   self.path("conf"), f"--var=DBDIR={self.place}/db",
                   f"--var=RUNDIR={self.place}/run",
                   f"--var=LOGDIR={self.place}/log", at=self.path("socket"))


class Recorder(Milter):
    """pymilter.py: heard() is what was written down since the last call."""
    program, package = "/usr/bin/python3", "python3-milter"

    def start(self):
        if subprocess.run([self.program, "-c", "import Milter"],
                          capture_output=True).returncode != 0:
            raise Skip("no pymilter here (package python3-milter)")
        self.seen = 0
        self.save("record", "")
        os.chmod(self.path("record"), 0o666)
        self.serve(self.program, os.path.abspath("t/peers/pymilter.py"),
                   self.path("socket"), self.path("record"))

    def heard(self):
        lines = self.read("record").splitlines()
        new, self.seen = lines[self.seen:], len(lines)
        return [json.loads(line) for line in new]
