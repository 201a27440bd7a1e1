"""candidates.py - what bench.py compares: smtpd and its peers, each set up to
do the same."""
import glob
import os
import shutil
import subprocess
import sys
import tempfile

from rig import OUT, PATH, PATIENCE, TCPSERVER, TOP, Candidate, find, wait_for

STUNNEL = "stunnel, floor"
FILTERED = "Postfix smtp:, filter"


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


def installed(path, place):
    """A build's smtpd in that folder, with what stands beside it; or None.  As
    installed nobody may read smtpd-tls: a session does not copy it then."""
    os.makedirs(place, exist_ok=True)
    for part in sorted(glob.glob(path + "-*")):
        copy = copied(part, place)
        if copy and copy.endswith("-tls"):
            os.chmod(copy, 0o711)
    return copied(path, place)


def builds(label, path):
    """Another build of smtpd, with the same two relays."""
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
    smtpd = installed(TOP + "/smtpd", tmp)
    args.beside = [(label, installed(path, os.path.join(tmp, label)))
                   for label, path in args.beside]
    if None in [path for _, path in args.beside]:
        sys.exit("bench: --beside names no program")
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
    line = "umask 0\n%s-tls resident --listen %s --cert %s --key %s &\n" \
        "while [ ! -S \"$0\" ]; do sleep 0.1; done\nexec %s" \
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
