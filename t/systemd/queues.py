#!/usr/bin/env python3
"""queues.py - clients that never try again, and the queues of Postfix, dma and
nullmailer: port 25 hands mail to their sendmail, they send to port 2525, and
that to a provider with OAuth 2.0, which is away at first.  The units are the
shipped ones, set up as README and smtpd-recipes(7) say; t/systemd/queues.sh
runs this."""
import os
import queue
import subprocess
import sys

sys.path.insert(0, "/rig")
from booted import (dropin, matches, records, run, same, shipped, slurp,
                    succeeds, systemctl, takes_a_message, until, wait_for_end)
from fakes.provider import Provider
from servers import spew
from tap import main, test
from text import manual, readme, under

ACCOUNT = "jo@example.com"      # of the recipe


def shell(text):
    done = subprocess.run(["/bin/bash", "-ec", text], text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{text}\nsaid:\n{done.stdout}"
    return done.stdout


def unpack(package):
    """Puts the files of a package in place that excludes Postfix."""
    shell(f"mkdir /srv/{package} && cd /srv/{package} && "
          f"dpkg -x /rig/{package}.deb . && "
          "cp -a --remove-destination usr var etc /")


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


def provider(account):
    hop = Provider("/srv/provider", "XOAUTH2 PLAIN",
                   tokens={account: "ya29.token"})
    hop.messages = Arrivals()
    os.chmod(hop.path, 0o777)
    return hop


def deferred():
    return len(records("SMTPD_RELAY=smtp:unix:/srv/provider",
                       event="message-deferred"))


def takes(*lines):
    """Puts these lines of queue.conf.example into use, in its place."""
    text = slurp(shipped("smtpd@.service.d/queue.conf.example"))
    same([line.lstrip("#") for line in text.split("\n")
          if line.lstrip("#") in lines], [*lines])
    dropin(more="\n".join(lines))


def survives(name, flush):
    """Sends a message through the queue while the provider is away, lets the
    queue try, and again when the provider is back."""
    before = deferred()
    takes_a_message(25, f"by {name}")
    wait_for_end()
    flush()
    until(lambda: deferred() > before)
    with provider(ACCOUNT) as hop:
        until(lambda: flush() or hop.messages.wait())
        wait_for_end("smtpd-smarthost")
        same([m[:2] for m in hop.messages], [(ACCOUNT, ACCOUNT)])
        assert f"Subject: by {name}".encode() in hop.messages[0][2]
        same({login[1:] for login in hop.logins}, {("XOAUTH2", ACCOUNT)})
    os.unlink("/srv/provider")


@test
def the_smarthosts_port_wants_its_credentials():
    succeeds("systemd-sysusers")
    systemctl("daemon-reload")
    same(run("systemctl", "start", "smtpd-smarthost.socket")[1], 1)


@test
def the_lines_of_README_send_a_test_mail():
    if os.path.exists("/usr/sbin/policy-rc.d"):
        os.unlink("/usr/sbin/policy-rc.d")
    spew("/usr/local/bin/token", "#!/bin/sh\necho ya29.token\n")
    os.chmod("/usr/local/bin/token", 0o755)
    lines, login = under(readme("/rig/README"), "SEND THROUGH")[:2]
    same(lines.count("\n"), 10)
    with provider("me@example.com") as hop:
        shell(lines.replace("[smtp.office365.com]:587", "unix:/srv/provider"))
        user, sender, text = hop.messages[0]
        same((user, sender), ("me@example.com", "me@example.com"))
        assert text.endswith(b"\r\nSubject: test\r\nFrom: me@example.com\r\n"
                             b"\r\nIt works.\r\n"), text
        wait_for_end("smtpd-smarthost")
        said = shell(login.replace("[smtp.office365.com]:587",
                                   "unix:/srv/provider"))
        matches("^good: .*, and accepts user me@example.com$", said)
        same(len(hop.messages), 1)
    os.unlink("/srv/provider")
    systemctl("disable", "--now", "--quiet", "smtpd-smarthost.socket")
    shell("rm -r /etc/default/smtpd /etc/smtpd")


@test
def the_recipe_sets_up_Postfix_which_keeps_what_the_smarthost_does_not_take():
    recipe, = under(manual("/usr/local/share/man/man7/smtpd-recipes.7"),
                    "Queue")
    for old, new in (("apt-get install -y postfix", ":"),
                     ("[mail.example.net]:587", "unix:/srv/provider")):
        assert old in recipe, recipe
        recipe = recipe.replace(old, new)
    shell(recipe)
    survives("Postfix", lambda: succeeds("postqueue", "-f"))
    systemctl("stop", "postfix")


@test
def dma_keeps_what_the_smarthost_does_not_take():
    unpack("dma")
    spew("/etc/dma/dma.conf", "SMARTHOST 127.0.0.1\nPORT 2525\n"
         "MAILNAME h.example.com\n")
    shell("chgrp mail /etc/dma/dma.conf; chmod 640 /etc/dma/dma.conf")
    takes("SupplementaryGroups=mail")
    survives("dma", lambda: shell("/usr/sbin/dma -q"))


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

    takes("User=mail")
    survives("nullmailer", flush)
    sender[0].terminate()


main()
