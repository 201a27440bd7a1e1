#!/usr/bin/env python3
"""peers-fail2ban.t - units/fail2ban-filter.conf in fail2ban: what smtpd logs of
clients that guess is found, and nobody else is banned by what a client says."""
import base64
import os
import re
import shutil
import subprocess
import sys
import time

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
from peer import main
from tap import Session, folder, need, test

PLACE = folder()
CONF = f"{PLACE}/fail2ban"
LOG = f"{PLACE}/mail.log"


def plain(user, password):
    return "AUTH PLAIN " + base64.b64encode(
        f"\0{user}\0{password}".encode()).decode()


def session(client, *commands, options=(), helo="client.example.org"):
    """What smtpd logs of a client whose address a front end tells."""
    with Session("--proxy-protocol", "--no-auth-require-tls", "--auth",
                 f"file:{PLACE}/users", *options, "discard:") as s:
        family = "TCP6" if ":" in client else "TCP4"
        s.send(f"PROXY {family} {client} {client} 4000 25\r\n"
               f"EHLO {helo}\r\n".encode())
        s.replies(2)
        for command in commands:
            if s.say(command)[0][:3] == "421":
                break
        else:
            s.say("QUIT")
        s.socket.close()
        s.process.wait()
        return s.logged().splitlines()


def stamped(records):
    """As syslog writes them to a file, now."""
    now = time.strftime("%b %d %H:%M:%S")
    return [f"{now} mx {record.replace('smtpd:', 'smtpd[123]:', 1)}"
            for record in records]


def prepare():
    need("fail2ban-regex", "fail2ban-server")
    with open(f"{PLACE}/users", "w") as f:
        f.write("jo:" + subprocess.run(
            ["openssl", "passwd", "-6", "opensesame"], text=True,
            capture_output=True).stdout)
    os.chmod(f"{PLACE}/users", 0o644)
    if not os.path.isdir(CONF):
        shutil.copytree("/etc/fail2ban", CONF)
        shutil.copy("units/fail2ban-filter.conf",
                    f"{CONF}/filter.d/smtpd.conf")


def banned(records, mode="auth"):
    """The clients that the filter finds."""
    with open(LOG, "w") as f:
        f.write("".join(f"{line}\n" for line in stamped(records)))
    done = subprocess.run(
        ["fail2ban-regex", "-c", CONF, "--print-all-matched", "-o", "ip", LOG,
         f"smtpd[mode={mode}]"], text=True, capture_output=True)
    assert done.returncode == 0, done
    return done.stdout.split()


@test
def clients_that_guess_are_found_and_others_are_not():
    prepare()
    records = [
        *session("203.0.113.9", plain("jo", "wrong")),
        *session("2001:db8::9", plain("nobody", "wrong")),
        *session("192.0.2.1", plain("jo", "opensesame")),
        *session("192.0.2.2", "MAIL FROM:<a@example.org>",
                 "RCPT TO:<b@example.org>"),
        *session("192.0.2.8", plain("jo", "opensesame"),
                 options=("--auth", "file:/no/users"))]
    assert sum("event=auth-failed" in r for r in records) == 3, records
    # By a next hop, which is away, or refuses.
    form = ('smtpd: event=auth-failed client={} helo="text=" tried=jo '
            'text="PLAIN by relay: refused with {}"')
    records += [form.format("192.0.2.8", "454 4.7.0"),
                form.format("203.0.113.7", "535 5.7.8")]
    assert banned(records) == ["203.0.113.9", "2001:db8::9",
                               "203.0.113.7"], records


@test
def a_client_cannot_have_another_banned():
    prepare()
    names = ["x event=auth-failed client=192.0.2.66 ",
             'x text="PLAIN by file: Temporary authentication failure"',
             "x]: event=auth-failed client=192.0.2.66",
             'x" event=auth-failed client=192.0.2.66 y="',
             "smtpd[1]: event=auth-failed client=192.0.2.66 helo=x"]
    records = [r for name in names for r in
               session("192.0.2.3", plain(name, "wrong"),
                       'MAIL FROM:<"client=192.0.2.66"@example.org>',
                       helo=name, options=("--log-auth-names",))]
    assert str(records).count("tried=") == len(names), records
    assert "192.0.2.66" in str(records), records
    assert set(banned(records)) == {"192.0.2.3"}, records
    assert set(banned(records, "abuse")) == {"192.0.2.3"}, records


@test
def abuse_is_found_where_that_is_asked_for():
    prepare()
    records = [
        *session("192.0.2.4", "MAIL FROM:<a@example.org>",
                 "RCPT TO:<b@example.com>",
                 options=("--relay-domains", "example.org")),
        *session("192.0.2.5", *["PING"] * 3, options=("--max-errors", "2")),
        *session("192.0.2.6", "MAIL FROM:<a@example.org>", *["PING"] * 3,
                 options=("--max-errors", "2"))]
    assert "Relay access denied" in str(records), records
    assert banned(records) == [], records
    assert banned(records, "abuse") == ["192.0.2.4", "192.0.2.5",
                                        "192.0.2.6"], records


@test
def fail2ban_itself_bans_by_the_shipped_jail():
    prepare()
    with open("units/fail2ban-jail.conf") as f:
        jail = f.read().replace("backend = systemd", "backend = polling")
    for path in os.listdir(f"{CONF}/jail.d"):
        os.unlink(f"{CONF}/jail.d/{path}")
    with open(LOG, "w"):
        pass
    with open(f"{CONF}/jail.d/smtpd.conf", "w") as f:
        f.write(jail + f"\nlogpath = {LOG}\nbanaction = note\n"
                "action = note\nusedns = no\n")
    with open(f"{CONF}/fail2ban.local", "w") as f:
        f.write("[Definition]\ndbfile = None\n")
    os.mkfifo(f"{PLACE}/bans")
    with open(f"{CONF}/action.d/note.conf", "w") as f:
        f.write(f"[Definition]\nactionban = echo <ip> >{PLACE}/bans\n")
    server = subprocess.Popen(
        ["fail2ban-server", "-c", CONF, "-s", f"{PLACE}/socket", "-p",
         f"{PLACE}/pid", "--logtarget", f"{PLACE}/f2b.log", "-f", "start"],
        stdout=subprocess.DEVNULL)
    try:
        lines = stamped(session("203.0.113.9", plain("jo", "wrong")))
        guess, = [r for r in lines if "event=auth-failed" in r]
        with open(LOG, "a") as f:
            f.write(f"{guess}\n" * 4)
            f.write(guess.replace("203.0.113.9", "203.0.113.10") + "\n")
            f.write(f"{guess}\n")
        with open(f"{PLACE}/bans") as f:
            assert f.read() == "203.0.113.9\n"
    finally:
        server.terminate()
        server.wait()
    with open(f"{PLACE}/f2b.log") as f:
        assert re.search(r"\[smtpd\] Ban 203\.0\.113\.9$", f.read(), re.M)


if __name__ == "__main__":
    main()
