#!/usr/bin/env python3
"""recipes.py - smtpd-recipes(7), and README's lines for systemd, on a machine
that has just been booted: each example is pasted as it is printed, and tried.

The provider, the mail server and Mailman are Maildirs behind ports of this
machine; Dovecot, postgrey and pyspf-milter are the real ones.
"""
import glob
import os
import pwd
import re
import socket
import subprocess
import sys

sys.path.insert(0, "/rig")
from booted import (box, delivered, matches, records, run, same, slurp,
                    succeeds, systemctl, takes_a_message, until, wait_for_end)
from servers import TAKEN, codes, spew, talk
from tap import main, test
from text import manual, readme, under

SOCKETS = ["smtpd", "smtpd-submission", "smtpd-submissions", "smtpd-lmtp"]
RECIPES = []
SINKS = {}
STRANGER = "198.51.100.7"
CURL = ["curl", "-sS", "--max-time", "60", "-T", "/rig/mail", "--crlf"]


def paste(text, *wrap):
    done = subprocess.run([*wrap, "bash", "-e"], input=text, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{text}\nsaid:\n{done.stdout}" + run(
        "journalctl", "-n", "20", "--no-pager")[0]


def recipe(heading, which=0):
    return under(RECIPES, heading)[which]


def fresh():
    """As before any recipe."""
    systemctl("disable", "--quiet", "--now", *[f"{s}.socket" for s in SOCKETS])
    wait_for_end()
    run("sh", "-c", "rm -rf /etc/systemd/system/smtpd* /etc/default/smtpd "
        "/etc/smtpd")
    systemctl("daemon-reload")


def sink(place, name, *options):
    """Another smtpd at place, whose mail is in /srv/name."""
    if name not in SINKS:
        SINKS[name] = subprocess.Popen(
            ["systemd-socket-activate", "-l", place, "--accept", "--inetd",
             "smtpd", "--user", "smtpd", *options, f"maildir:{box(name)}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        host, port = place.rsplit(":", 1)
        until(lambda: run("ss", "-Hltn", f"src {host} and sport = {port}")[0])


def end_sink(name):
    with SINKS.pop(name) as it:
        it.terminate()


def send(url, *words, to="al@example.org"):
    """curl sends a message; its own status, 0 if it was taken."""
    return run(*CURL, "--mail-from", "jo@example.com", "--mail-rcpt", to,
               url, *words)[1]


# ---- the machine ------------------------------------------------------------

@test
def it_is_installed_by_make_install_and_the_commands_that_it_prints():
    if os.path.exists("/usr/sbin/policy-rc.d"):
        os.unlink("/usr/sbin/policy-rc.d")
    said, status = run("make", "-s", "-C", "/rig/src", "install")
    assert status == 0, said
    for command in re.findall(r"^  (.*)$", said, re.M):
        paste(command)
    RECIPES.extend(manual("/usr/local/share/man/man7/smtpd-recipes.7",
                          "DESCRIPTION"))
    succeeds("sh", "-c", "ip link set lo up && "
             "ip addr add 192.0.2.1/32 dev lo && "
             f"ip addr add {STRANGER}/32 dev lo")
    with open("/etc/hosts", "a", encoding="utf-8") as f:
        f.write("127.0.0.9 mail.example.net\n127.0.0.1 mail.example.org\n")
    spew("/rig/mail", "Subject: a recipe\n\nIt works.\n")
    os.makedirs("/rig/ca")
    paste("""cd /rig/ca
        openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=CA \\
            -keyout ca.key -out ca.pem
        openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=net \\
            -addext subjectAltName=DNS:mail.example.net \\
            -addext basicConstraints=critical,CA:FALSE \\
            -CA ca.pem -CAkey ca.key -keyout net.key -out net.pem
        cp ca.pem /usr/local/share/ca-certificates/test.crt
        update-ca-certificates
        echo "jo:$(openssl passwd -6 secret)" >users
        chmod 600 users net.key""")


@test
def every_example_of_the_page_is_tried_here_or_in_other_tests():
    """queues.py has that of Queue, peers-smarthost.t both of Tokens, super.t
    those of s6, xinetd, inetd and busybox."""
    same(len(RECIPES), 20)


# ---- null client ------------------------------------------------------------

TLS = ["--tlscert", "/rig/ca/net.pem", "--tlskey", "/rig/ca/net.key"]


@test
def a_null_client_sends_through_a_smarthost_with_a_password():
    sink("127.0.0.9:465", "provider", "--smtps", *TLS, "--auth",
         "file:/rig/ca/users", "--auth-required")
    fresh()
    paste(recipe("Null client"))
    same(send("smtp://127.0.0.1", to="root"), 0)
    mail, = delivered("provider")
    matches(r"^Delivered-To: root@example\.org$", mail)
    wait_for_end()


@test
def only_this_host_reaches_the_null_client():
    same(send("smtp://192.0.2.1"), 7)       # curl: it cannot connect
    end_sink("provider")


@test
def a_smarthost_without_a_password_is_sent_to_under_verified_TLS():
    sink("127.0.0.9:25", "open", "--require-tls", *TLS)
    fresh()
    paste(recipe("Null client", 1))
    same(send("smtp://127.0.0.1"), 0)
    same(len(delivered("open")), 1)
    end_sink("open")
    wait_for_end()


# ---- a folder or a program of one user --------------------------------------

@test
def a_Maildir_and_a_program_are_one_users():
    succeeds("useradd", "--create-home", "jo")
    spew("/usr/local/bin/ticket", "#!/bin/sh\n(id -un; echo \"$@\"; cat) "
         ">/home/jo/ticket\n")
    os.chmod("/usr/local/bin/ticket", 0o755)
    fresh()
    paste(recipe("Store mail: a Maildir"))
    same(send("smtp://127.0.0.1"), 0)
    path, = glob.glob("/home/jo/Maildir/new/*")
    same(pwd.getpwuid(os.stat(path).st_uid).pw_name, "jo")
    paste(recipe("Store mail: a Maildir", 1))
    succeeds("systemctl", "restart", "smtpd.socket")
    same(send("smtp://127.0.0.1"), 0)
    same(slurp("/home/jo/ticket").splitlines()[:2],
         ["jo", "--from jo@example.com -- al@example.org"])
    wait_for_end()


# ---- Dovecot, postgrey, SPF -------------------------------------------------

def al():
    return [slurp(path) for path in glob.glob("/home/al/Maildir/new/*")]


@test
def Dovecot_stores_mail_and_says_who_is_unknown():
    succeeds("useradd", "--create-home", "al")
    # ssl-cert makes it, if it is installed before Dovecot.
    private = "/etc/dovecot/private"
    if not os.path.exists(f"{private}/dovecot.pem"):
        os.makedirs(private, exist_ok=True)
        paste(f"cp /rig/ca/net.key {private}/dovecot.key\n"
              f"cp /rig/ca/net.pem {private}/dovecot.pem")
    fresh()
    paste(recipe("Store mail: LMTP",
                 run("dovecot", "--version")[0] > "2.4"))
    same(send("smtp://127.0.0.1"), 0)
    same(len(al()), 1)
    got = talk(25, "EHLO client.example.com", "MAIL FROM:<jo@example.com>",
               "RCPT TO:<nobody-here@example.org>",
               "RCPT TO:<al@example.org>", "DATA", "Subject: two\r\n\r\n.",
               "QUIT")
    same(codes(got), "220 250 250 550 250 354 250 221")
    same(len(al()), 2)
    wait_for_end()


@test
def the_lines_of_README_for_systemd_do_the_same():
    fresh()
    paste(under(readme("/rig/src/README"), "START IT FOR GOOD")[0])
    before = len(al())
    same(send("smtp://127.0.0.1"), 0)
    same(len(al()), before + 1)
    wait_for_end()


def stranger(*lines):
    afar = socket.create_connection(("192.0.2.1", 25),
                                    source_address=(STRANGER, 0))
    return talk(afar, "EHLO client.example.com", "MAIL FROM:<jo@example.com>",
                *lines, "QUIT")


@test
def an_MX_takes_mail_for_its_domain_after_postgrey_and_SPF():
    fresh()
    paste(recipe("MX"))
    # As long as postgrey's five minutes nobody waits here.
    paste("sed -i 's/10023/10023 --delay=1/' /etc/default/postgrey\n"
          "systemctl restart postgrey")
    until(lambda: run("ss", "-Hltn", "sport = 10023")[0] and
          run("ss", "-Hltn", "sport = 8893")[0])
    got = stranger("RCPT TO:<al@example.org>",
                   "RCPT TO:<al@third.example.net>")
    same(codes(got), "220 250 250 450 554 221")
    matches("Greylisted", got.decode())
    matches("554 5.7.1 Relay access denied", got.decode())
    whole = ("RCPT TO:<al@example.org>", "DATA", "Subject: at last\r\n\r\n.")
    until(lambda: codes(stranger(*whole)) == TAKEN)
    mail, = [text for text in al() if "at last" in text]
    matches("^(Received-SPF|Authentication-Results): .*spf", mail.replace(
        "\n ", " ").replace("\n\t", " "))
    wait_for_end()
    systemctl("stop", "dovecot", "postgrey", "pyspf-milter")


# ---- submission -------------------------------------------------------------

SUBMIT = ["--cacert", "/etc/smtpd/tlscert", "--ssl-reqd"]
JO = [*SUBMIT, "--user", "jo:correct horse"]


def submits():
    """Both ports take jo's mail, and nobody else's."""
    sink("192.0.2.1:25", "server")
    before = len(delivered("server"))
    for url in ("smtp://mail.example.org:587", "smtps://mail.example.org"):
        same(send(url, *JO), 0)
        same(send(url, *SUBMIT, "--user", "jo:wrong"), 67)  # login denied
        same(send(url, *SUBMIT), 55)        # curl: MAIL was refused
    same(len(delivered("server")), before + 2)
    for name in ("smtpd-submission", "smtpd-submissions"):
        wait_for_end(name)


@test
def users_submit_from_nothing_with_a_certificate_of_our_own():
    fresh()
    paste(recipe("Submission"))
    paste(recipe("Submission", 2))
    submits()


@test
def without_a_certificate_the_socket_does_not_start_and_says_why():
    systemctl("stop", "smtpd-submission.socket")
    os.rename("/etc/smtpd/tlscert", "/rig/own.pem")
    same(run("systemctl", "start", "smtpd-submission.socket")[1], 1)
    said = systemctl("status", "--no-pager", "smtpd-submission.socket")
    matches("bad: TLS is not offered: --tlscert /etc/smtpd/tlscert: No such",
            said)
    matches(r"man:smtpd-recipes\(7\)", said)


@test
def certbots_certificate_is_linked_and_a_renewed_one_is_used_at_once():
    live = "/etc/letsencrypt/live/mail.example.org"
    os.makedirs(live)
    os.rename("/rig/own.pem", f"{live}/fullchain.pem")
    os.rename("/etc/smtpd/tlskey", f"{live}/privkey.pem")
    fresh()
    paste(recipe("Submission", 1))
    paste(recipe("Submission", 2))
    submits()
    renew = recipe("Submission").replace("/etc/smtpd/tlscert",
                                         f"{live}/fullchain.pem")
    paste(renew.replace("/etc/smtpd/tlskey", f"{live}/privkey.pem"))
    submits()


# ---- Mailman, the catcher, no systemd ---------------------------------------

@test
def lists_go_to_Mailman_by_its_map_and_other_mail_to_the_server():
    sink("127.0.0.1:8024", "lists", "--lmtp")
    paste("""getent group list >/dev/null || groupadd list
        mkdir -p /var/lib/mailman3/data
        cd /var/lib/mailman3/data
        echo 'ants@example.org lmtp:[127.0.0.1]:8024' >postfix_lmtp
        chgrp list postfix_lmtp
        chmod 640 postfix_lmtp""")
    fresh()
    paste(recipe("Mailman"))
    before = len(delivered("server"))
    same(send("smtp://127.0.0.1", to="ants@example.org"), 0)
    same(send("smtp://127.0.0.1", to="al@example.org"), 0)
    same(len(delivered("lists")), 1)
    same(len(delivered("server")), before + 1)
    wait_for_end()


@test
def a_developer_catches_mail():
    fresh()
    succeeds("useradd", "--create-home", "--shell", "/bin/sh", "dev")
    uid = pwd.getpwnam("dev").pw_uid
    systemctl("start", f"user@{uid}.service")
    paste(recipe("Catcher"), "runuser", "-u", "dev", "--", "env",
          f"XDG_RUNTIME_DIR=/run/user/{uid}")
    takes_a_message(1025, "caught")
    same(len(glob.glob("/home/dev/Maildir-catch/new/*")), 1)


@test
def tcpserver_serves_too():
    with subprocess.Popen(["sh", "-c", "exec " + recipe("Without")]) as it:
        until(lambda: run("ss", "-Hltn", "sport = 2525")[0])
        takes_a_message(2525, "by tcpserver")
        it.terminate()
    for name in list(SINKS):
        end_sink(name)


@test
def no_session_crashed_and_none_was_confused():
    same(records("SMTPD_EVENT=config-error"), [])
    same(records("SMTPD_EVENT=channel-broken"), [])


main()
