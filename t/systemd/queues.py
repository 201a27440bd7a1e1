#!/usr/bin/env python3
"""queues.py - clients that never try again, and the queues of Postfix, dma and
nullmailer: port 25 hands mail to their sendmail, they send to port 2525, and
that to a provider with OAuth 2.0, which is away at first.  The units are the
shipped ones; t/systemd/queues.sh runs this."""
import os
import queue
import subprocess
import sys

sys.path.insert(0, "/rig")
from booted import (dropin, enable, records, run, same, settings, shipped, slurp,
                    succeeds, systemctl, takes_a_message, until, wait_for_end)
from provider import Provider
from servers import spew
from tap import main, test

ACCOUNT = "printer@example.com"


def shell(text):
    subprocess.run(["/bin/sh", "-ec", text], check=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def unpack(package):
    shell(f"mkdir /srv/{package} && dpkg -x /rig/{package}.deb /srv/{package} "
          f"&& cp -a --remove-destination /srv/{package}/usr /srv/{package}/var /srv/{package}/etc /")


class Arrivals(list):
    """Messages, for each of which somebody may wait."""

    def __init__(self):
        super().__init__()
        self.came = queue.Queue()

    def append(self, message):
        super().append(message)
        self.came.put(message)

    def wait(self):
        """A queue may have looked too early: it is asked again."""
        try:
            return self.came.get(timeout=2)
        except queue.Empty:
            return None


def deferred():
    return len(records("SMTPD_RELAY=smtp:unix:/srv/provider",
                       event="message-deferred"))


def survives(name, lines, flush):
    """Sends a message through the queue while the provider is away, lets the
    queue try, and again when the provider is back."""
    text = slurp(shipped("smtpd@.service.d/queue.conf.example"))
    wanted = [line.lstrip("#") for line in text.split("\n")
              if line.lstrip("#") in lines]
    same(wanted, lines)
    dropin(more="\n".join(lines))
    before = deferred()
    takes_a_message(25, f"by {name}")
    wait_for_end()
    flush()
    until(lambda: deferred() > before)
    with Provider("/srv/provider", "XOAUTH2 PLAIN",
                  tokens={ACCOUNT: "ya29.token"}) as hop:
        hop.messages = Arrivals()
        os.chmod(hop.path, 0o777)
        until(lambda: flush() or hop.messages.wait())
        wait_for_end("smtpd-smarthost")
        same([m[:2] for m in hop.messages], [(ACCOUNT, ACCOUNT)])
        assert f"Subject: by {name}".encode() in hop.messages[0][2]
        same({login[1:] for login in hop.logins}, {("XOAUTH2", ACCOUNT)})
    os.unlink("/srv/provider")
    dropin()


@test
def the_smarthosts_port_wants_its_credentials():
    succeeds("systemd-sysusers")
    systemctl("daemon-reload")
    _, status = run("systemctl", "start", "smtpd-smarthost.socket")
    assert status != 0
    os.makedirs("/etc/smtpd", exist_ok=True)
    spew("/etc/smtpd/smarthost", f"* {ACCOUNT} oauth2 /srv/token\n")
    os.chmod("/etc/smtpd/smarthost", 0o600)
    spew("/srv/token", "#!/bin/sh\necho ya29.token\n")
    os.chmod("/srv/token", 0o755)
    settings(SMTPD_RELAY="-- /usr/sbin/sendmail -i -f {sender} -- "
             "{recipient}",
             SMARTHOST_RELAY="smtp:unix:/srv/provider",
             SMARTHOST_OPTIONS=f"--relay-tls none --from {ACCOUNT}")
    enable("smtpd", "smtpd-smarthost")


@test
def postfix_keeps_what_the_smarthost_does_not_take():
    shell("postconf -e inet_interfaces=loopback-only inet_protocols=ipv4 "
          "'relayhost=[127.0.0.1]:2525' mydestination= myhostname=h.example.com "
          "alias_maps= maillog_file=/var/log/postfix.log; "
          "postconf -MX smtp/inet; postfix start")
    survives("Postfix", ["RestrictAddressFamilies=AF_NETLINK",
                         "SupplementaryGroups=postdrop"],
             lambda: succeeds("postqueue", "-f"))
    run("postfix", "stop")


@test
def dma_keeps_what_the_smarthost_does_not_take():
    unpack("dma")
    spew("/etc/dma/dma.conf", "SMARTHOST 127.0.0.1\nPORT 2525\n"
         "MAILNAME h.example.com\n")
    shell("chgrp mail /etc/dma/dma.conf; chmod 640 /etc/dma/dma.conf")
    survives("dma", ["SupplementaryGroups=mail"],
             lambda: shell("/usr/sbin/dma -q"))


@test
def nullmailer_keeps_what_the_smarthost_does_not_take():
    unpack("nullmailer")
    spew("/etc/mailname", "h.example.com\n")
    spew("/etc/nullmailer/remotes", "127.0.0.1 smtp --port=2525\n")
    shell("chown mail:mail /etc/nullmailer/remotes; "
          "chmod 600 /etc/nullmailer/remotes; "
          "mkfifo -m 622 /var/spool/nullmailer/trigger; "
          "chown mail /var/spool/nullmailer/trigger")
    sender = []

    def flush():
        for process in sender:
            process.terminate()
            process.wait()
        sender[:] = [subprocess.Popen(
            ["runuser", "-u", "mail", "--", "/usr/sbin/nullmailer-send"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)]

    survives("nullmailer", ["User=mail"], flush)
    sender[0].terminate()


main()
