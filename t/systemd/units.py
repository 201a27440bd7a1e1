#!/usr/bin/env python3
"""units.py - the shipped units, as `make install' leaves them, under a
systemd that runs: t/systemd/boot.sh boots it, and runs this in it as root.

The tests follow each other: each leaves the sockets enabled, and no instance.
"""
import glob
import json
import os
import pwd
import re
import smtplib
import socket
import subprocess
import sys
import threading

sys.path.insert(0, "/rig")
from booted import (EVENT, JO, SWAKS, UNITS, add_jo, ask, box, certify,
                    connection, delivered, dropin, enable, hand_over,
                    instances, lines_of, matches, program, prop, records, run,
                    same, settings, settle, shipped, slurp, succeeds,
                    systemctl, takes_a_message, until, wait_for_end)
from fakes.provider import Provider
from servers import MAIL, TAKEN, codes, message, spew, talk
from tap import main, test

# ---- installed and enabled --------------------------------------------------

@test
def the_user_smtpd_is_there():
    settle()
    pwd.getpwnam("smtpd")


def listens():
    return re.findall(r"^Listen=(\S+)",
                      systemctl("show", "--property=Listen", "smtpd.socket"),
                      re.M)


@test
def port_25_is_for_this_host_only_until_world_conf_opens_it():
    same(sorted(listens()), ["127.0.0.1:25", "[::1]:25"])
    where = f"{UNITS}/smtpd.socket.d"
    os.mkdir(where)
    os.symlink(shipped("smtpd.socket.d/world.conf.example"),
               f"{where}/world.conf")
    systemctl("daemon-reload")
    opened = listens()
    assert any(place.endswith(":25") for place in opened), opened
    assert not any("127.0.0.1" in place for place in opened), opened
    os.unlink(f"{where}/world.conf")
    systemctl("daemon-reload")


@test
def the_socket_is_enabled_and_started():
    enable("smtpd")


@test
def before_a_relay_is_set_mail_is_put_off():
    same(codes(talk(25, *MAIL[:3], "QUIT")), "220 250 250 451 221")


@test
def swaks_and_smtplib_hand_over_a_message_each_at_port_25():
    settings(SMTPD_RELAY=f"maildir:{box('box')}")
    succeeds("swaks", "--silent", "2", "--server", "127.0.0.1", "--port",
             "25", "--helo", "client.example.com", "--from",
             "sender@example.com", "--to", "rcpt@example.org", "--header",
             "Subject: by swaks")
    with smtplib.SMTP("127.0.0.1", 25, "client.example.com") as client:
        client.sendmail("sender@example.com", ["rcpt@example.org"],
                        "Subject: by smtplib\r\n\r\nbody\r\n")
    got = delivered("box")
    same(sorted(re.findall(r"^Subject: by (\w+)$", "".join(got), re.M)),
         ["smtplib", "swaks"])
    same(len(got), 2)


@test
def after_QUIT_no_instance_is_left():
    wait_for_end()


# ---- the journal ------------------------------------------------------------

@test
def the_journal_has_a_record_for_each_message():
    relayed = records(event="message-relayed")
    same(len(relayed), 2)
    record = relayed[0]
    for name, value in (("CLIENT", "127.0.0.1"),
                        ("HELO", "client.example.com"),
                        ("SENDER", "sender@example.com"),
                        ("RECIPIENT", "rcpt@example.org"),
                        ("RELAY", "maildir:/srv/box")):
        same(record[f"SMTPD_{name}"], value)
    matches(r"^250 2\.0\.0 ", record["SMTPD_REPLY"])
    matches(r"^[1-9]\d+\Z", record["SMTPD_SIZE"])
    matches(r"^\w+\Z", record["SMTPD_QUEUE_ID"])
    # journald reads it in /proc, where a process that has ended is not.
    matches(r"^smtpd@.*127\.0\.0\.1", record.get("_SYSTEMD_UNIT",
                                                  "smtpd@ 127.0.0.1"))
    same(record["PRIORITY"], "5")


@test
def a_queue_id_names_one_record_of_a_message_relayed():
    queue_id = records(event="message-relayed")[0]["SMTPD_QUEUE_ID"]
    same(len(records(f"SMTPD_QUEUE_ID={queue_id}", event="message-relayed")),
         1)


@test
def a_recipient_put_off_has_a_record_and_a_session_that_was_more_than_its_mail():
    refused, = records("SMTPD_RECIPIENT=rcpt@example.org", event="refused")
    same(refused["SMTPD_BY"], "routes at RCPT")
    same(len(records(event="session")), 1)


@test
def journalctl_x_explains_a_record():
    text, _ = run("journalctl", "--no-pager", "--quiet", "-x",
                  f"MESSAGE_ID={EVENT['message-relayed']}")
    matches(r"A message was relayed(?s:.*)\n(?s:.*)<sender@example\.com>",
            text)


@test
def a_message_that_is_printed_is_whole_in_the_journal():
    settings(SMTPD_RELAY="print:")
    lines = list(message("printed"))
    lines[4:5] = ["Subject: printed\r\n\r\n<0>shout\r\n\r\nbody\r\n."]
    same(codes(talk(25, *lines)), TAKEN)
    wait_for_end()
    printed = records("-t", "smtpd", "_TRANSPORT=stdout")
    texts = [r["MESSAGE"] for r in printed]
    start = texts.index("Subject: printed")
    same(texts[start:start + 6], ["Subject: printed", " ", "<0>shout", " ",
                                  "body",
                                  "------------ END MESSAGE ------------"])
    same({r["PRIORITY"] for r in printed[start:start + 6]}, {"5"})


@test
def debug_is_in_the_journal_as_well():
    settings(SMTPD_RELAY="discard:", SMTPD_OPTIONS="-d")
    count, lines = lines_of(lambda: takes_a_message(25, "debugged"))
    assert count > 8, lines
    matches("event=dialogue .*EHLO client.example.com", "\n".join(lines))
    settings(SMTPD_RELAY="discard:")


# ---- STATUS= and SIGTERM ----------------------------------------------------

@test
def systemctl_status_shows_the_client_and_its_command():
    with connection(25) as s:
        for line in (None, "EHLO client.example.com",
                     "MAIL FROM:<waiting@example.com>"):
            ask(s, line)
        unit = until(lambda: instances("smtpd"))[0]
        text = until(lambda: re.search(
            r"127\.0\.0\.1.*MAIL.*", prop("StatusText", unit)))[0]
        assert "waiting@example.com" in text, text
        matches(r'Status: ".*waiting@example', systemctl("status", "smtpd@*"))
    wait_for_end()


@test
def an_instance_that_is_stopped_while_it_waits_says_421():
    with connection(25) as s:
        ask(s)
        ask(s, "EHLO client.example.com")
        systemctl("stop", "--no-block", instances("smtpd")[0])
        matches(r"^421 4\.3\.2 ", ask(s))
        same(ask(s), "")
    wait_for_end()


@test
def an_instance_that_is_stopped_during_a_relay_finishes_it_first():
    box("slow")
    os.chmod("/srv/slow", 0o777)
    for name in ("begun", "go"):
        os.mkfifo(f"/srv/slow/{name}")
        os.chmod(f"/srv/slow/{name}", 0o666)
    settings(SMTPD_RELAY=program("relay", "echo begun >/srv/slow/begun\n"
                                 "read line </srv/slow/go\n"
                                 "cat >/srv/slow/message\n"))
    with connection(25) as s:
        hand_over(s, "slow")
        same(slurp("/srv/slow/begun"), "begun\n")
        unit = instances("smtpd")[0]
        systemctl("stop", "--no-block", unit)
        until(lambda: prop("ActiveState", unit) == "deactivating")
        assert not os.path.exists("/srv/slow/message")
        spew("/srv/slow/go", "go\n")
        end = ask(s)
        matches(r"^250 2\.0\.0 ", end)
        matches(r"^421 4\.3\.2 ", end + ask(s))
    matches(r"^Subject: slow\n\nbody\n\Z", slurp("/srv/slow/message"))
    wait_for_end()


# ---- limits -----------------------------------------------------------------

@test
def clients_of_one_address_are_limited_those_of_another_are_not():
    """Where port 25 is for other hosts; those of this host share an address."""
    settings(SMTPD_RELAY="maildir:/srv/box")
    world = f"{UNITS}/smtpd.socket.d/world.conf"
    os.makedirs(os.path.dirname(world), exist_ok=True)
    same(prop("MaxConnectionsPerSource", "smtpd.socket"), "0")
    os.symlink(shipped("smtpd.socket.d/world.conf.example"), world)
    systemctl("daemon-reload")
    succeeds("systemctl", "restart", "smtpd.socket")
    most = int(prop("MaxConnectionsPerSource", "smtpd.socket"))
    held = [connection(25) for _ in range(most)]
    for s in held:
        matches("^220 ", ask(s))
    with connection(25) as s:
        same(ask(s), "")
    with connection(25, "127.0.0.2") as s:
        matches("^220 ", ask(s))
    for s in held:
        ask(s, "QUIT")
        s.close()
    wait_for_end()
    with connection(25) as s:
        matches("^220 ", ask(s))
    wait_for_end()
    os.unlink(world)
    systemctl("daemon-reload")
    succeeds("systemctl", "restart", "smtpd.socket")


@test
def two_hundred_clients_lose_no_message_and_leave_no_instance():
    settings(SMTPD_RELAY=f"maildir:{box('many')}")
    bad = []

    def work(hand):
        """25 clients in turn, each from an address of its own."""
        for n in range(1, 26):
            got = codes(talk(connection(25, f"127.0.{hand}.{n}"),
                             *message(f"{hand}/{n}")))
            if got != TAKEN:
                bad.append(got)

    hands = [threading.Thread(target=work, args=[h]) for h in range(8)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    same(bad, [])
    same(len(delivered("many")), 200)
    wait_for_end()


# ---- what runs inside -------------------------------------------------------

@test
def a_relay_program_gains_a_group_only_with_setgid_conf():
    succeeds("/bin/sh", "-c", "cp /usr/bin/id /srv/slow/id && "
             "chgrp mail /srv/slow/id && chmod 2755 /srv/slow/id")
    settings(SMTPD_RELAY=program("setgid", "cat >/dev/null\n"
                                 "/srv/slow/id -gn >/srv/slow/group\n"))
    takes_a_message(25, "group")
    same(slurp("/srv/slow/group"), "smtpd\n")
    dropin("setgid")
    takes_a_message(25, "group")
    same(slurp("/srv/slow/group"), "mail\n")
    wait_for_end()
    dropin()


# What a program that means harm tries, each with what it would gain; $1 is the
# main process of another session, $2 that one's channel process.
HARM = r"""
cat >/dev/null
cd /srv/slow
exec >attempts 2>&1
try() { name=$1; shift; if "$@" >loot 2>&1; then echo "$name: $(cat loot)"; fi; }
try "root's" /srv/slow/sh -p -c 'test "$(id -u)" = 0'
try "unit" touch /etc/systemd/system/evil.service
try "settings" touch /etc/default/smtpd
try "program" touch /usr/local/sbin/smtpd
try "shadow" head -c 1 /etc/shadow
try "key" cat /etc/smtpd/tlskey
try "mount" mount -t tmpfs tmpfs /srv/slow
try "namespace" unshare -U true
try "device" mknod /srv/slow/null c 1 3
try "disk" sh -c 'for d in /dev/sd* /dev/vd* /dev/mem /dev/kmsg; do
    head -c 1 "$d" && exit; done; exit 1'
try "clock" date -s 2001-01-01
try "chroot" chroot / true
try "port" python3 -c 'import socket; socket.create_server(("127.0.0.9", 26))'
try "packets" python3 -c 'import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
try "first process" kill -STOP 1
for pid in $1 $2; do
	try "memory" head -c 1 /proc/$pid/mem
	try "environment" cat /proc/$pid/environ
	try "descriptor" ls /proc/$pid/fd/
	try "ptrace" python3 -c "import ctypes, sys
sys.exit(ctypes.CDLL(None).ptrace(16, $pid, 0, 0) == -1)"
	try "pidfd" python3 -c "import ctypes, os, sys
fd = os.pidfd_open($pid)
sys.exit(ctypes.CDLL(None).syscall(438, fd, 0, 0) == -1)"
done
# Who would be left when the session has ended.
(for i in $(seq 100); do setsid sleep 7654 & done) 2>/dev/null
echo "tried $(id -un)"
"""


@test
def a_hostile_relay_program_gains_nothing_and_leaves_nobody():
    succeeds("/bin/sh", "-c", "cp /bin/sh /srv/slow/sh && "
             "chmod 4755 /srv/slow/sh")
    settings(SMTPD_RELAY="discard:")
    with connection(25) as victim:
        ask(victim)
        pid = prop("MainPID", instances("smtpd")[0])
        channel = slurp(f"/proc/{pid}/task/{pid}/children").split()[0]
        settings(SMTPD_RELAY=program("harm", HARM) + f" {pid} {channel}")
        got = codes(talk(25, *message("harm")))
        # Nor is the other session disturbed.
        matches("^250 ", ask(victim, "HELO client.example.com"))
        matches("^221 ", ask(victim, "QUIT"))
    wait_for_end()
    same(got, TAKEN)
    same(slurp("/srv/slow/attempts"), "tried smtpd\n")
    same(run("pgrep", "-f", "sleep 7654")[0], "")


@test
def with_hardened_conf_a_message_is_delivered():
    settings(SMTPD_RELAY=f"maildir:{box('hardened')}")
    dropin("hardened", "ReadWritePaths=/srv/hardened")
    takes_a_message(25, "hardened")
    same(len(delivered("hardened")), 1)
    dropin()


def opendkim_listens():
    systemctl("is-active", "opendkim")      # takes the time of a process
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex("/run/opendkim/opendkim.sock") == 0


@test
def OpenDKIMs_socket_is_reached_with_milter_conf():
    # As Debian has it: the socket is for the group opendkim.
    spew("/srv/internal", "192.0.2.1\n")
    spew("/etc/opendkim.conf", """
Mode v
AlwaysAddARHeader yes
AuthservID mx.example.org
InternalHosts /srv/internal
UserID opendkim
UMask 007
Socket local:/run/opendkim/opendkim.sock
PidFile /run/opendkim/opendkim.pid
""")
    settings(SMTPD_RELAY=f"maildir:{box('milter')}",
             SMTPD_OPTIONS="--milter unix:/run/opendkim/opendkim.sock")
    dropin("milter")        # which wants OpenDKIM's unit,
    matches(r"\bopendkim\.service\b", prop("Wants", "smtpd@dkim.service"))
    systemctl("start", "opendkim")
    until(opendkim_listens) # but that need not listen yet when it has started
    same(run("systemctl", "restart", "smtpd.socket")[1], 1)
    where = f"{UNITS}/smtpd.socket.d"       # the check may not yet
    os.makedirs(where, exist_ok=True)
    os.symlink(shipped("smtpd.socket.d/milter.conf.example"),
               f"{where}/milter.conf")
    systemctl("daemon-reload")
    succeeds("systemctl", "restart", "smtpd.socket")
    os.unlink(f"{where}/milter.conf")
    takes_a_message(25, "filtered")
    got, = delivered("milter")
    matches("^Authentication-Results: ?mx.example.org; dkim=", got)
    wait_for_end()
    dropin("hardened", "SupplementaryGroups=opendkim\n"
           "ReadWritePaths=/srv/milter")
    takes_a_message(25, "filtered, hardened")
    same(len(delivered("milter")), 2)
    wait_for_end()
    dropin()                # without it sessions may not
    same(codes(talk(25, *MAIL[:2], "QUIT")), "220 250 451 221")
    matches("opendkim.sock: CONNECT: Permission denied",
            records(event="milter")[-1]["MESSAGE"])
    systemctl("stop", "opendkim")
    wait_for_end()


@test
def a_wrong_option_is_told_to_the_journal_and_421_to_the_client():
    settings(SMTPD_OPTIONS="--no-such-option", SMTPD_RELAY="discard:")
    with connection(25) as s:
        matches("^421 4.3.5 Local configuration error", ask(s))
    wait_for_end()
    matches("--no-such-option", "\n".join(r["MESSAGE"] for r in records(
        "SMTPD_EVENT=config-error")))


@test
def with_standard_error_at_the_client_it_gets_replies_and_syslog_records():
    settings(SMTPD_RELAY="discard:")
    dropin(more="StandardError=socket\nSyslogIdentifier=other")
    takes_a_message(25, "as from inetd")
    wait_for_end()
    same(len([r for r in records("-t", "smtpd", "_TRANSPORT=syslog")
              if "event=message-relayed" in r["MESSAGE"]]), 1)
    dropin()


# ---- a configuration that cannot serve --------------------------------------

def start_fails(unit, reason):
    """The socket is not started, and systemd's own answers say why."""
    systemctl("stop", unit)
    _, status = run("systemctl", "start", unit)
    same(status, 1)
    run("journalctl", "--sync")
    matches(reason, systemctl("status", "--no-pager", "--lines=50", "--full",
                              unit) +
            run("journalctl", "--no-pager", "--quiet", "-u", unit)[0])
    systemctl("reset-failed", unit)


@test
def a_socket_does_not_start_where_sessions_would_fail_and_says_why():
    settings(SMTPD_OPTIONS="--no-such-option", SMTPD_RELAY="discard:")
    start_fails("smtpd.socket", "unknown or ambiguous option --no-such-option")
    settings(SMTPD_RELAY="maildir:/srv/none/box")
    start_fails("smtpd.socket",
                "bad: maildir:/srv/none/box: No such file or directory; only")
    settings(SMTPD_RELAY="lmtp:unix:/run/not-yet/lmtp",
             SMTPD_OPTIONS="--milter unix:/run/not-yet/milter")
    succeeds("systemctl", "start", "smtpd.socket")
    doubts = [r for r in records("-u", "smtpd.socket", "PRIORITY=4")
              if "/run/not-yet/" in r["MESSAGE"]]
    same(len(doubts), 2)
    settings(SMTPD_RELAY="discard:")


@test
def submission_and_the_engine_do_not_start_without_certificate_and_key():
    assert not os.path.exists("/etc/smtpd/tlscert")
    start_fails("smtpd-submission.socket",
                "bad: TLS is not offered: --tlscert /etc/smtpd/tlscert: No "
                "such file or directory; --tlskey /etc/smtpd/tlskey: No such")
    start_fails("smtpd-tls.socket",
                "bad: TLS is not offered: --tlscert /etc/smtpd/tlscert: ")
    start_fails("smtpd-smarthost.socket",
                "bad: .*/etc/smtpd/smarthost: No such file or directory")


# ---- TLS and submission -----------------------------------------------------

@test
def submission_needs_TLS_and_a_password_with_files_that_root_can_read():
    certify("mail.example.com")
    add_jo()
    settings(SMTPD_RELAY="discard:",
             SUBMISSION_RELAY=f"maildir:{box('submitted')}")
    enable("smtpd-submission", "smtpd-submissions")
    for tls in (["--port", "587", "--tls"],
                ["--port", "465", "--tls-on-connect"]):
        succeeds(*SWAKS, *tls, *JO, "opensesame")
        _, status = run(*SWAKS, *tls, *JO, "let me in 99")
        same(status, 28)        # swaks: AUTH was refused
    same(len(delivered("submitted")), 2)


@test
def a_relay_program_of_port_465_can_read_neither_key_nor_users():
    settings(SMTPD_RELAY="discard:", SUBMISSION_RELAY=program("thief", """
cat >/dev/null
for f in /etc/smtpd/tlskey /etc/smtpd/users "$CREDENTIALS_DIRECTORY"/*; do
	cat "$f" 2>/dev/null
done | grep -a -e PRIVATE -e opensesame -e "^jo:" >/srv/slow/loot
id -un >/srv/slow/user
"""))
    succeeds(*SWAKS, "--port", "465", "--tls-on-connect", *JO, "opensesame")
    same(slurp("/srv/slow/user"), "smtpd\n")
    same(slurp("/srv/slow/loot"), "")


@test
def submission_in_the_clear_is_refused():
    settings(SMTPD_RELAY="discard:", SUBMISSION_RELAY="maildir:/srv/submitted")
    matches("^220 250 530 ", codes(talk(587, *message("in the clear"))))


@test
def the_journal_has_users_and_no_password():
    wait_for_end("smtpd-submission")
    wait_for_end("smtpd-submissions")
    same({(r["SMTPD_SASL_METHOD"], r["SMTPD_SASL_SOURCE"]) for r in records(
        "SMTPD_USER=jo", event="message-relayed")}, {("PLAIN", "file:")})
    same(len(records("SMTPD_USER=jo", event="message-relayed")), 3)
    same(records(event="auth-ok"), [])
    same(len(records(event="auth-failed")), 2)
    log = json.dumps(records("-t", "smtpd"))
    assert not re.search("opensesame|let me in 99", log), "a password"


@test
def another_source_takes_the_place_of_the_file_of_users():
    settings(SMTPD_RELAY="discard:", SUBMISSION_RELAY="discard:",
             SUBMISSION_OPTIONS="--auth checkpassword:/bin/false")
    os.rename("/etc/smtpd/users", "/etc/smtpd/users.away")
    succeeds("systemctl", "restart", "smtpd-submission.socket")
    status = systemctl("status", "--lines=50", "smtpd-submission.socket")
    assert "checkpassword" in status, status
    _, status = run(*SWAKS, "--port", "587", "--tls", *JO, "opensesame")
    same(status, 28)
    os.rename("/etc/smtpd/users.away", "/etc/smtpd/users")
    said = [r["MESSAGE"] for r in records(event="auth-failed")][-1]
    matches('text="PLAIN by checkpassword: ', said)


@test
def with_tls_conf_there_is_STARTTLS_at_port_25():
    dropin("tls")
    succeeds(*SWAKS, "--port", "25", "--tls")
    dropin()


@test
def smtpd_tls_of_both_sides_has_ended_when_its_session_has():
    settings(SMTPD_RELAY="discard:", SUBMISSION_RELAY="smtp:[127.0.0.1]:25",
             SUBMISSION_OPTIONS="--relay-tls may")
    dropin("tls")

    def work():
        for _ in range(8):
            subprocess.run([*SWAKS, "--port", "465", "--tls-on-connect", *JO,
                            "opensesame"], check=True)

    hands = [threading.Thread(target=work) for _ in range(4)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    wait_for_end("smtpd-submissions")
    wait_for_end()
    took = records("SMTPD_RELAY=smtp:[127.0.0.1]:25", event="message-relayed")
    same(len([r for r in took if r["SMTPD_NEXTHOP_TLS"].startswith("TLSv")]),
         32)
    same([r["MESSAGE"] for r in records("_PID=1", "-g", "SIGKILL|SIGTERM")
          if "(smtpd" in r["MESSAGE"]], [])     # and no relay program
    dropin()


@test
def with_smarthost_conf_credentials_are_roots_alone():
    spew("/etc/smtpd/smarthost", "printer@example.com "
         "printer@example.com command /srv/secret\n"
         "* jo@example.com:opensesame\n")
    os.chmod("/etc/smtpd/smarthost", 0o600)
    # The program may keep things where its home is.
    spew("/srv/secret", "#!/bin/sh\necho x >>~/kept && id -un >>~/kept && "
         "echo sesame\n")
    os.chmod("/srv/secret", 0o755)
    passwords = {"jo@example.com": "opensesame",
                 "printer@example.com": "sesame"}
    dropin("smarthost")
    where = f"{UNITS}/smtpd.socket.d"
    os.makedirs(where, exist_ok=True)
    os.symlink(shipped("smtpd.socket.d/smarthost.conf.example"),
               f"{where}/smarthost.conf")
    systemctl("daemon-reload")
    for option in ("%d/smarthost", "$CREDENTIALS_DIRECTORY/smarthost",
                   "${CREDENTIALS_DIRECTORY}/smarthost"):
        with Provider("/srv/provider", "PLAIN", passwords) as hop:
            os.chmod(hop.path, 0o777)
            settings(SMTPD_RELAY=hop.relay(),
                     SMTPD_OPTIONS=f"--relay-auth {option}")
            succeeds("systemctl", "restart", "smtpd.socket")
            takes_a_message(25, "as jo")
            succeeds(*SWAKS, "--port", "25", "--from", "printer@example.com")
            same([(user, sender) for user, sender, _ in hop.messages],
                 [("jo@example.com", "sender@example.com"),
                  ("printer@example.com", "printer@example.com")])
    os.unlink(f"{where}/smarthost.conf")
    same(slurp("/var/lib/smtpd/kept"), "x\nsmtpd\n" * 3)
    same(oct(os.stat("/var/lib/smtpd").st_mode & 0o777), "0o700")
    dropin()
    wait_for_end()


# ---- LMTP and the developer's catcher ---------------------------------------

@test
def the_LMTP_socket_is_for_its_group_and_replies_for_each_recipient():
    settings(LMTP_RELAY=f"maildir:{box('lmtp')}")
    enable("smtpd-lmtp")
    same(oct(os.stat("/run/smtpd/lmtp").st_mode & 0o7777), "0o660")
    s = socket.socket(socket.AF_UNIX)
    s.connect("/run/smtpd/lmtp")
    lines = list(message("by LMTP"))
    lines[0] = "LHLO client.example.com"
    lines.insert(2, "RCPT TO:<second@example.org>")
    same(codes(talk(s, *lines)), "220 250 250 250 250 354 250 250 221")
    same(len(delivered("lmtp")), 1)
    wait_for_end("smtpd-lmtp")


@test
def a_user_catches_mail_in_a_Maildir_under_the_home_directory():
    succeeds("useradd", "--create-home", "--shell", "/bin/sh", "smtpd-dev")
    uid = pwd.getpwnam("smtpd-dev").pw_uid
    systemctl("start", f"user@{uid}.service")
    succeeds("runuser", "-u", "smtpd-dev", "--", "env",
             f"XDG_RUNTIME_DIR=/run/user/{uid}", "systemctl", "--user",
             "enable", "--quiet", "--now", "smtpd-catch.socket")
    takes_a_message(1025, "caught")
    caught = [slurp(path) for path in
              glob.glob("/home/smtpd-dev/Maildir-catch/new/*")]
    same(len(caught), 1)
    matches("^Subject: caught$", caught[0])
    same(len(records(f"_UID={uid}", "SMTPD_RECIPIENT=rcpt@example.org",
                     event="message-relayed")), 1)
    matches("^==> sender@example.com to rcpt@example.org\n"
            "    Subject: caught\n    text/plain .*\n \n    body$",
            run("journalctl", "--quiet", "--output=cat", f"_UID={uid}")[0])


# ---- the end ----------------------------------------------------------------

@test
def the_exposure_is_at_most_what_the_unit_says():
    figure = re.search(r"^# Exposure by systemd-analyze security: ([\d.]+)$",
                       systemctl("cat", "smtpd@.service"), re.M)
    found = re.search(r"exposure level for .*?: ([\d.]+)", run(
        "systemd-analyze", "security", "--no-pager", "smtpd@test.service")[0])
    assert float(found[1]) <= float(figure[1]), found[0]


@test
def nothing_has_failed_but_for_the_wrong_option():
    same(systemctl("list-units", "--failed", "--plain", "--no-legend",
                   "smtpd*"), "")
    failed = [text for text in (r["MESSAGE"] for r in records(
        "_PID=1", "-g", "smtpd.*Failed with result"))
        if "Failed with result" in text and "status=64" not in text and
        ".socket" not in text]
    same(len(failed), 1)


main()
