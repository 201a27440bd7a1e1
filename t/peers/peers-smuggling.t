#!/usr/bin/env python3
"""peers-smuggling.t - what t/smuggling.t shows, with real next hops: however
they read what we relay, they find as many messages as we were told of.

Postfix is set to be as lax as it can; a control says for what each of them
falls when a client speaks to it directly.  Exim and OpenSMTPD, which can not
be installed beside Postfix, are fetched and unpacked if they are missing."""
import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.abspath("t"))
from fakes.hop import EVIL, START, VARIANTS, Client, codes
import tap
from tap import Skip, main, test

tap.PATIENCE = 300      # hundreds of sessions with a whole MTA

os.environ["PATH"] += ":/usr/sbin"
REST = EVIL + b"\r\n.\r\nQUIT\r\n"


def fetched(package, binary, place):
    """Where binary is: installed, or unpacked below place."""
    found = shutil.which(binary)
    if found:
        return found
    subprocess.run(["apt-get", "download", "-o", "APT::Sandbox::User=root",
                    package], cwd=place, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    for file in glob.glob(f"{place}/{package}_*.deb"):
        subprocess.run(["dpkg", "-x", file, f"{place}/root"], check=True)
        return f"{place}/root/usr/sbin/{binary}"
    raise Skip(f"no {package} here, and none to be had")


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def write(path, text):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o644)


class Peer:
    """One server; start() returns relays, count() what arrived by then."""
    family = socket.AF_INET

    def __init__(self):
        if os.geteuid() != 0:
            raise Skip("the peer switches between users: needs root")
        self.place = tempfile.mkdtemp()
        os.chmod(self.place, 0o755)
        self.process = None

    def spawn(self, script, port):
        """A shell script, with mounts of its own; until the port is open."""
        with open(f"{self.place}/out", "ab") as out:
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-ec", self.users() + script],
                stdout=out, stderr=out, start_new_session=True)
        while True:
            if self.process.poll() is not None:
                raise AssertionError(self.read("out"))
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except ConnectionRefusedError:
                pass

    def users(self):
        """Users that a package would have made."""
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", self.place)
        for number, name in enumerate(("Debian-exim", "opensmtpd",
                                       "opensmtpq"), 60900):
            with open(f"{self.place}/passwd", "a") as f:
                f.write(f"{name}:x:{number}:{number}::/nonexistent:"
                        "/usr/sbin/nologin\n")
            with open(f"{self.place}/group", "a") as f:
                f.write(f"{name}:x:{number}:\n")
        return (f"mount --bind {self.place}/passwd /etc/passwd\n"
                f"mount --bind {self.place}/group /etc/group\n")

    def read(self, name):
        with open(f"{self.place}/{name}", errors="replace") as f:
            return f.read()

    def stop(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()
            self.process = None

    def close(self):
        self.stop()
        shutil.rmtree(self.place, ignore_errors=True)

    def direct(self, relay):
        return socket.create_connection(
            ("127.0.0.1", int(relay.rsplit(":", 1)[1])))


class Postfix(Peer):
    def start(self):
        if not shutil.which("postconf"):
            raise Skip("no Postfix here (package postfix)")
        full, bare = free_ports(2)
        for name in ("etc", "spool", "data"):
            os.mkdir(f"{self.place}/{name}")
        shutil.chown(f"{self.place}/data", "postfix")
        open(f"{self.place}/maillog", "w").close()
        write(f"{self.place}/etc/main.cf", f"""
            compatibility_level = 3.6
            myhostname = mx.example.net
            mydestination =
            inet_interfaces = 127.0.0.1
            inet_protocols = ipv4
            mynetworks = 127.0.0.0/8
            queue_directory = {self.place}/spool
            data_directory = {self.place}/data
            maillog_file = {self.place}/maillog
            maillog_file_prefixes = {self.place}
            alias_maps =
            local_recipient_maps =
            default_transport = discard:
            smtpd_error_sleep_time = 0
            smtpd_soft_error_limit = 1000
            smtpd_hard_error_limit = 1000
            smtpd_peername_lookup = no
            smtpd_forbid_bare_newline = no
            smtpd_forbid_unauth_pipelining = no
            """.replace("\n            ", "\n"))
        write(f"{self.place}/etc/master.cf", f"""
            127.0.0.1:{full} inet n - n - - smtpd
            127.0.0.1:{bare} inet n - n - - smtpd
            \t-o smtpd_discard_ehlo_keywords=chunking
            cleanup unix n - n - 0 cleanup
            qmgr unix n - n 300 1 qmgr
            rewrite unix - - n - - trivial-rewrite
            bounce unix - - n - 0 bounce
            defer unix - - n - 0 bounce
            trace unix - - n - 0 bounce
            error unix - - n - - error
            retry unix - - n - - error
            discard unix - - n - - discard
            proxymap unix - - n - - proxymap
            anvil unix - - n - 1 anvil
            postlog unix-dgram n - n - 1 postlogd
            """.replace("\n            ", "\n"))
        subprocess.run(["postfix", "-c", f"{self.place}/etc", "start"],
                       check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        self.running = True
        return [f"smtp:[127.0.0.1]:{full}", f"smtp:[127.0.0.1]:{bare}"]

    def stop(self):
        if getattr(self, "running", False):
            subprocess.run(["postfix", "-c", f"{self.place}/etc", "stop"],
                           capture_output=True)
        self.running = False

    def count(self):
        self.stop()     # and so all of its log is written
        log = self.read("maillog")
        # A message may be seen by the queue manager more than once.
        seen = {m[1]: m[2] for m in re.finditer(
            r"qmgr\[\d+\]: (\w+): from=<(\w+)@", log)}
        taken = set(re.findall(r"cleanup\[\d+\]: (\w+): message-id=", log))
        assert set(seen) <= taken
        return [list(seen.values()).count(w) for w in ("a", "evil")]


class Exim(Peer):
    def start(self):
        binary = fetched("exim4-daemon-light", "exim4", self.place)
        full, bare = free_ports(2)
        os.mkdir(f"{self.place}/exim")
        os.chmod(f"{self.place}/exim", 0o777)
        write(f"{self.place}/conf", f"""
            primary_hostname = mx.example.net
            exim_user = nobody
            exim_group = nogroup
            never_users =
            keep_environment =
            spool_directory = {self.place}/exim/spool
            log_file_path = {self.place}/exim/%slog
            host_lookup =
            rfc1413_query_timeout = 0s
            acl_smtp_rcpt = accept
            queue_only
            smtp_enforce_sync = false
            smtp_max_synprot_errors = 1000
            smtp_max_unknown_commands = 1000
            local_interfaces = 127.0.0.1
            daemon_smtp_ports = {full} : {bare}
            tls_advertise_hosts =
            chunking_advertise_hosts = ${{if ={{$received_port}}{{{full}}}{{*}}}}
            """.replace("\n            ", "\n"))
        self.spawn(f"exec {binary} -C {self.place}/conf -bdf "
                   f"-oP {self.place}/exim/pid", bare)
        return [f"smtp:[127.0.0.1]:{full}", f"smtp:[127.0.0.1]:{bare}"]

    def count(self):
        # What was acknowledged is in the log.
        log = self.read("exim/mainlog")
        return [len(re.findall(rf" <= {w}@", log)) for w in ("a", "evil")]


class OpenSMTPD(Peer):
    def start(self):
        if shutil.which("smtpctl"):
            binary = shutil.which("smtpd")
        else:
            binary = fetched("opensmtpd", "no-such-name", self.place)
            binary = binary.replace("no-such-name", "smtpd")
        port, = free_ports(1)
        write(f"{self.place}/conf", f"""
listen on 127.0.0.1 port {port}
action "drop" relay host "smtp://127.0.0.1:1"
match from any for any action "drop"
""")
        self.spawn(f"""
            mount -t tmpfs none /var/spool
            mount -t tmpfs none /var/lib
            mount -t tmpfs none /run
            mkdir -p /var/lib/opensmtpd/empty
            mkdir -m 711 /var/spool/smtpd
            exec {binary} -d -f {self.place}/conf""", port)
        return [f"smtp:[127.0.0.1]:{port}"]

    def count(self):
        self.stop()
        log = self.read("out")
        accepted = {m[1]: m[2] for m in re.finditer(
            r"(?m)^(\w+) smtp message (?:.*)msgid=(\w+)", log)}
        total = len(re.findall(r"smtp message .*msgid=", log))
        evil = len(re.findall(r"smtp envelope .*from=<evil@", log))
        assert accepted or not total
        return [total - evil, evil]


class Dovecot(Peer):
    def start(self):
        if not shutil.which("dovecot") or \
                not os.path.exists("/usr/lib/dovecot/lmtp"):
            raise Skip("no Dovecot with LMTP here (package dovecot-lmtpd)")
        for name in ("mail", "run", "state"):
            os.mkdir(f"{self.place}/{name}")
        shutil.chown(f"{self.place}/mail", "nobody")
        write(f"{self.place}/conf", f"""
protocols = lmtp
listen = 127.0.0.1
hostname = store.example.net
base_dir = {self.place}/run
state_dir = {self.place}/state
log_path = {self.place}/log
ssl = no
default_vsz_limit = 512M
first_valid_uid = 1
mail_uid = nobody
mail_gid = nogroup
mail_location = maildir:{self.place}/mail/%n
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = allow_all_users=yes uid=nobody gid=nogroup home={self.place}/mail/%n
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0600
  }}
}}
""")
        # It stays, and so would a pipe.
        subprocess.run(["dovecot", "-c", f"{self.place}/conf"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running = True
        return [f"lmtp:unix:{self.place}/run/lmtp"]

    def direct(self, relay):
        client = socket.socket(socket.AF_UNIX)
        client.connect(relay.split(":", 2)[2])
        return client

    def count(self):
        return [len(glob.glob(f"{self.place}/mail/{w}/new/*"))
                for w in ("b", "evil")]

    def stop(self):
        if getattr(self, "running", False):
            subprocess.run(["doveadm", "-c", f"{self.place}/conf", "stop"],
                           capture_output=True)
        self.running = False


def falls_for(peer, relay):
    """The variants that smuggle if nobody stands before the peer: then there
    is a reply too many, to DATA."""
    fallen = []
    for variant in VARIANTS:
        with peer.direct(relay) as client:
            octets = START + variant + REST
            if relay.startswith("lmtp"):
                octets = octets.replace(b"EHLO", b"LHLO")
            client.sendall(octets)
            said = b""
            try:
                while chunk := client.recv(65536):
                    said += chunk
            except ConnectionResetError:
                pass
        if len(re.findall(rb"(?m)^354 ", said)) > 1:
            fallen.append(variant)
    return fallen


def through_us(peer_class):
    peer = peer_class()
    try:
        for relay in peer.start():
            fallen = falls_for(peer, relay)
            print(f"# {relay.split(':')[0]}, directly: falls for {fallen}")
        peer.close()
        peer = peer_class()
        relays = peer.start()
        told = [0, 0]   # how many messages of each sender were acknowledged
        for mode in ("reject", "normalize", "unix"):
            for relay in relays:
                for variant in VARIANTS:
                    got = codes(Client("-n", "--bare-newline", mode, relay)
                                .talk(START + variant + REST))
                    finals = [got[i + 1] for i, code in enumerate(got)
                              if code == 354]
                    assert len(finals) in (1, 2) if mode == "unix" \
                        else len(finals) == 1, (mode, variant, got)
                    for i, code in enumerate(finals):
                        told[i] += code == 250
                    assert 451 not in finals, (mode, variant, got)
        assert told[0] > len(VARIANTS), told
        assert peer.count() == told, (peer.count(), told)
    finally:
        peer.close()


@test
def postfix_at_its_laxest_finds_as_many_messages_as_we_relay():
    through_us(Postfix)


@test
def exim_finds_as_many_messages_as_we_relay():
    through_us(Exim)


@test
def opensmtpd_finds_as_many_messages_as_we_relay():
    through_us(OpenSMTPD)


@test
def dovecot_finds_as_many_messages_as_we_relay():
    through_us(Dovecot)


if __name__ == "__main__":
    main()
