"""booted.py - what the tests under a booted systemd share: commands, units,
the journal, clients."""
import glob
import json
import os
import pwd
import re
import socket
import subprocess

from servers import TAKEN, codes, message, spew, talk

os.environ["SYSTEMD_PAGER"] = "cat"
UNITS = "/etc/systemd/system"
SWAKS = ["swaks", "--silent", "3", "--server", "127.0.0.1", "--from",
         "jo@example.com", "--to", "rcpt@example.org"]
JO = ["--auth", "PLAIN", "--auth-user", "jo", "--auth-password"]


def run(*command):
    """What a command prints, and its status."""
    done = subprocess.run(command, stdout=subprocess.PIPE)
    return done.stdout.decode(errors="replace"), done.returncode


def systemctl(*command):
    return run("systemctl", *command)[0]


def prop(name, unit):
    """A property of a unit."""
    return systemctl("show", f"--property={name}", "--value", unit).strip()


def succeeds(*command):
    said, status = run(*command)
    assert status == 0, f"{command} ended with {status}:\n{said}"


def until(ask):
    """Asks until there is an answer: systemd does not tell when it has done
    what follows from the end of a connection."""
    for _ in range(1000):
        if answer := ask():
            return answer
    raise AssertionError("asked a thousand times in vain")


def instances(template):
    return [name for name in systemctl(
        "list-units", "--all", "--plain", "--no-legend", "--type=service",
        f"{template}@*").split() if name.startswith(f"{template}@")]


def wait_for_end(template="smtpd"):
    until(lambda: not instances(template))


def slurp(path):
    with open(path, encoding="utf-8", newline="") as f:
        return f.read()


# The MESSAGE_IDs, by the names that events have.
EVENT = dict(re.findall(r'\{ "([a-z-]+)", "([0-9a-f]{32})"',
                        slurp("/rig/log.c")))


def records(*fields, event=None):
    """The journal's records with these fields, as dictionaries."""
    run("journalctl", "--sync")
    if event:
        fields += (f"MESSAGE_ID={EVENT[event]}",)
    return [json.loads(line) for line in run(
        "journalctl", "--quiet", "--no-pager", "--output=json", "--all",
        *fields)[0].splitlines()]


def settings(**values):
    spew("/etc/default/smtpd", "".join(
        f'{name}="{value}"\n' for name, value in values.items()))


def shipped(file):
    """A file of units/, where it is installed."""
    return [path for place in ("/usr/local/lib", "/usr/lib")
            if os.path.exists(path := f"{place}/systemd/system/{file}")][0]


def dropin(name=None, more=None):
    """Puts an example drop-in of smtpd@.service into use, or none."""
    where = f"{UNITS}/smtpd@.service.d"
    os.makedirs(where, exist_ok=True)
    for path in glob.glob(f"{where}/*"):
        os.unlink(path)
    if name:
        os.symlink(shipped(f"smtpd@.service.d/{name}.conf.example"),
                   f"{where}/{name}.conf")
    if more:
        spew(f"{where}/more.conf", f"[Service]\n{more}\n")
    systemctl("daemon-reload")


def settle():
    """What the package does after make install."""
    succeeds("systemd-sysusers")
    run("journalctl", "--update-catalog")
    systemctl("daemon-reload")


def certify(name):
    """A new certificate and key, by rename as a renewal does it."""
    os.makedirs("/etc/smtpd", mode=0o755, exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                    "-days", "2", "-subj", f"/CN={name}", "-keyout",
                    "/etc/smtpd/new.key", "-out", "/etc/smtpd/new.cert"],
                   check=True, stderr=subprocess.DEVNULL)
    for kind in ("cert", "key"):
        os.chmod(f"/etc/smtpd/new.{kind}", 0o600)
        os.rename(f"/etc/smtpd/new.{kind}", f"/etc/smtpd/tls{kind}")


def add_jo():
    """The one user that may submit."""
    spew("/etc/smtpd/users",
         "jo:" + run("openssl", "passwd", "-6", "opensesame")[0])
    os.chmod("/etc/smtpd/users", 0o600)


def enable(*sockets):
    succeeds("systemctl", "enable", "--quiet", "--now",
             *[f"{name}.socket" for name in sockets])


def box(name):
    """A Maildir's place that the service may write to."""
    where = f"/srv/{name}"
    os.mkdir(where, 0o700)
    user = pwd.getpwnam("smtpd")
    os.chown(where, user.pw_uid, user.pw_gid)
    return where


def delivered(name):
    return [slurp(path) for path in glob.glob(f"/srv/{name}/new/*")]


def program(name, text):
    """A relay that is a shell script."""
    spew(f"/srv/slow/{name}", text)
    return f"-- /bin/sh /srv/slow/{name}"


def connection(port, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", port),
                                    source_address=(source, 0))


def ask(s, line=None):
    """Says a line, or nothing, and returns the reply; empty at end of file."""
    got = ""
    if line is not None:
        s.sendall(line.encode() + b"\r\n")
    while not re.search(r"^\d{3}(?: [^\n]*)?\r\n\Z", got, re.M):
        octets = s.recv(65536)
        if not octets:
            break
        got += octets.decode()
    return got


def hand_over(s, subject):
    """A message, its last dot included, whose reply is not read."""
    *lines, _ = message(subject)
    for line in lines:
        ask(s)
        s.sendall(line.encode() + b"\r\n")


def same(got, wanted):
    assert got == wanted, f"{got!r} is not {wanted!r}"


def matches(pattern, text):
    assert re.search(pattern, text, re.M), f"{pattern} is not in {text!r}"


def takes_a_message(port, subject):
    same(codes(talk(port, *message(subject))), TAKEN)


def lines_of(session):
    """How many lines there are in the journal of what a session did, whoever
    wrote them."""
    before = len(records())
    session()
    wait_for_end()
    new = records()[before:]
    return len(new), [r["MESSAGE"] for r in new]
