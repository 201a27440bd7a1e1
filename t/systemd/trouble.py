#!/usr/bin/env python3
"""trouble.py - TROUBLESHOOTING of smtpd(8), smtpd-log(7) and MAINTENANCE of
smtpd-recipes(7), on a booted machine: a fault is made, the command that is
printed for it is pasted, and must show the cause.  Last, how many records there
are of a session, as smtpd@.service states it.
"""
import base64
import os
import re
import subprocess
import sys

sys.path.insert(0, "/rig")
from booted import (UNITS, ask, box, connection, dropin, enable, lines_of,
                    matches, program, prop, run, same, settings, succeeds,
                    systemctl, until, wait_for_end)
from servers import TAKEN, codes, message, spew, talk
from tap import main, test
from text import manual, under

MANUAL = []         # (heading, example) of TROUBLESHOOTING
PAGE = []           # of smtpd-log(7)
CARE = []           # of MAINTENANCE
DEFERRED = "220 250 250 250 354 451 221"
REFUSED = "220 250 250 451 221"
STATUS = "What does the exit status"
CURL = ["curl", "-sSk", "--max-time", "60", "-T", "/rig/mail", "--crlf",
        "--mail-from", "jo@example.com", "--mail-rcpt", "al@example.org"]
tried = set()


def paste(text):
    """What the shell prints for an example of a manual page."""
    tried.add(text)
    run("journalctl", "--sync")
    done = subprocess.run(["bash", "-o", "pipefail", "-c", text], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL)
    return done.stdout


def shows(example, *patterns):
    """An example of the manual shows all of these."""
    said = paste(example)
    for pattern in patterns:
        matches(pattern, said)
    return said


def advice(heading, which=0):
    return under(MANUAL, heading)[which]


def query(heading, which=0):
    return under(PAGE, heading)[which]


def counted(said):
    """The rows of `uniq -c'."""
    rows = [line.split(None, 1) for line in said.splitlines()]
    same([int(n) for n, _ in rows],
         sorted((int(n) for n, _ in rows), reverse=True))
    return {text: int(n) for n, text in rows}


def no_mail():
    """A connection that is closed without a greeting."""
    with connection(25) as s:
        same(ask(s), "")
    wait_for_end()


@test
def it_is_installed():
    said, status = run("make", "-s", "-C", "/rig/src", "install")
    assert status == 0, said
    for command in re.findall(r"^  (.*)$", said, re.M):
        same(subprocess.run(command, shell=True).returncode, 0)
    man = "/usr/local/share/man"
    MANUAL.extend(manual(f"{man}/man8/smtpd.8", "TROUBLESHOOTING"))
    PAGE.extend(manual(f"{man}/man7/smtpd-log.7"))
    CARE.extend(manual(f"{man}/man7/smtpd-recipes.7", "MAINTENANCE"))
    succeeds("sh", "-c",
             "ip link set lo up && ip addr add 192.0.2.1/32 dev lo")
    spew("/rig/mail", "Subject: a message\n\nIt works.\n")


# ---- is the configuration right? --------------------------------------------

def starts(name="smtpd"):
    return run("systemctl", "restart", f"{name}.socket")[1] == 0


@test
def a_socket_that_fails_has_a_bad_line():
    settings(SMTPD_RELAY="discard:", SMTPD_OPTIONS="--routes /no/routes")
    assert not starts()
    shows(advice("Is the configuration"),
          "bad: .*/no/routes: No such file or directory")
    settings(SMTPD_RELAY="discard:", SMTPD_OPTIONS="--szie 3")
    assert not starts()
    shows(advice("Is the configuration"), "status=64/USAGE")


@test
def the_check_can_be_run_with_the_settings_of_the_unit():
    settings(SMTPD_RELAY="smtp:[192.0.2.1]:2500",
             SMTPD_OPTIONS="--domain example.org")
    shows(advice("Is the configuration", 1),
          "^good: sessions run as smtpd",
          r"^bad: smtp:\[192\.0\.2\.1\]:2500: .*451 4\.4\.1 Cannot connect")
    settings(SMTPD_RELAY="error:4.3.5 'Closed for today'", SMTPD_OPTIONS="")
    same(re.findall("bad: .*", paste(advice("Is the configuration", 1))), [])


@test
def a_certificate_that_is_missing_is_named_as_the_page_has_it():
    assert not starts("smtpd-submission")
    with open("/usr/local/share/man/man8/smtpd.8", encoding="utf-8") as f:
        said, = re.findall(r"^\.Ql (TLS is not offered: .*)$", f.read(), re.M)
    said = said.replace(r"\&", "")
    matches("bad: " + re.escape(said), paste(advice(
        "Is the configuration").replace("smtpd.", "smtpd-submission.")))
    matches("smtpd-submission.socket", systemctl("--failed"))
    systemctl("reset-failed")


# ---- exit statuses ----------------------------------------------------------

@test
def status_64_is_of_the_command_line():
    settings(SMTPD_RELAY="discard:", SMTPD_OPTIONS="")
    assert starts()
    settings(SMTPD_RELAY="discard:", SMTPD_OPTIONS="--szie 3")
    matches(r"^421 4\.3\.5 ", talk(25).decode())
    wait_for_end()
    shows(advice(STATUS), "status=64/USAGE", "config-error.*--szie")


@test
def status_78_is_of_a_file():
    settings(SMTPD_RELAY="discard:", SMTPD_OPTIONS="--rules /no/rules")
    matches(r"^421 4\.3\.5 ", talk(25).decode())
    wait_for_end()
    shows(advice(STATUS), "status=78/CONFIG", "config-error.*/no/rules")


@test
def status_71_is_of_the_system():
    settings(SMTPD_RELAY="discard:", SMTPD_OPTIONS="--require-sandbox")
    dropin(more="TasksMax=1")
    matches(r"^421 ", talk(25).decode())
    wait_for_end()
    shows(advice(STATUS), "status=71/OSERR")
    dropin()


@test
def status_75_is_a_programs_and_defers():
    os.makedirs("/srv/slow", exist_ok=True)
    settings(SMTPD_RELAY=program("no", "echo not now >&2; exit 75\n"))
    same(codes(talk(25, *message("deferred"))), DEFERRED)
    wait_for_end()
    shows(advice("Mail is deferred"), "event=program .*not now",
          "event=message-deferred .*451 4.3.0", "A message was deferred")


@test
def status_203_has_no_program():
    dropin(more="ExecStart=\nExecStart=/no/smtpd discard:")
    no_mail()
    shows(advice(STATUS), "status=203/EXEC")


@test
def status_217_has_no_user():
    dropin(more="User=nosuch")
    no_mail()
    shows(advice(STATUS), "status=217/USER")


@test
def status_226_lacks_a_folder():
    dropin(more="ProtectSystem=strict\nReadWritePaths=/no/folder")
    no_mail()
    shows(advice(STATUS), "status=226/NAMESPACE")


@test
def status_243_lacks_a_credential():
    dropin("smarthost")
    no_mail()
    shows(advice(STATUS), "status=243/CREDENTIALS")
    matches("^LoadCredential=smarthost:/etc/smtpd/smarthost",
            systemctl("cat", "smtpd@.service"))
    dropin()


# ---- connections, mail, relaying --------------------------------------------

@test
def the_port_is_for_this_host_and_its_limits_are_told():
    shows(advice("Clients cannot connect"), r"127\.0\.0\.1:25\b")
    settings(SMTPD_RELAY="discard:")
    os.makedirs(f"{UNITS}/smtpd.socket.d", exist_ok=True)
    spew(f"{UNITS}/smtpd.socket.d/few.conf",
         "[Socket]\nMaxConnectionsPerSource=1\n")
    systemctl("daemon-reload")
    assert starts()
    with connection(25) as first:
        matches("^220 ", ask(first))
        with connection(25) as second:
            same(ask(second), "")
        shows(advice("Clients cannot connect"),
              r"Too many incoming connections \(\d+\) from source 127")
    os.unlink(f"{UNITS}/smtpd.socket.d/few.conf")
    systemctl("daemon-reload")
    wait_for_end()
    assert starts()


@test
def deferred_mail_has_its_reason_in_the_log():
    os.unlink("/etc/default/smtpd")
    same(codes(talk(25, *message("none")[:3], "QUIT")), REFUSED)
    wait_for_end()
    shows(advice("Mail is deferred"), "No relay is configured here")
    for relay, options, wanted in (
            ("maildir:/root/box", "", "maildir:/root/box: Permission denied"),
            ("-- /no/program", "", "/no/program: No such file"),
            ("smtp:[192.0.2.1]:2500", "", "cannot connect: Conn.* refused"),
            ("discard:", "--milter unix:/run/no", "unix:/run/no: CONNECT: No"),
            ("discard:", "--policy RCPT=unix:/run/no", "unix:/run/no")):
        settings(SMTPD_RELAY=relay, SMTPD_OPTIONS=options)
        got = codes(talk(25, *message("deferred")))
        assert " 451 " in got, got
        wait_for_end()
        shows(advice("Mail is deferred"), wanted)


@test
def relay_access_denied_names_the_options():
    settings(SMTPD_RELAY="smtp:[192.0.2.1]:2500",
             SMTPD_OPTIONS="--relay-clients 192.0.2.0/24")
    same(codes(talk(25, *message("denied")[:3], "QUIT")),
         "220 250 250 554 221")
    wait_for_end()
    shows(advice("Relay access"),
          r"client=127\.0\.0\.1 .*not in --relay-clients")


# ---- TLS and passwords ------------------------------------------------------

@test
def TLS_that_is_not_offered_has_its_reason_in_the_log():
    settings(SMTPD_RELAY="discard:")
    dropin("tls")
    shows(advice("TLS is not"), "tlscert: No such file or directory")
    wait_for_end()
    os.makedirs("/etc/smtpd", exist_ok=True)
    recipe = under(manual("/usr/local/share/man/man7/smtpd-recipes.7"),
                   "Submission")[0]
    for _ in "12":
        same(subprocess.run(["bash", "-e"], input=recipe, text=True,
                            stderr=subprocess.DEVNULL).returncode, 0)
    shows(advice("TLS is not"), r"^CONNECTION ESTABLISHED",
          r"^Protocol version: TLSv1\.[23]")
    wait_for_end()
    run("openssl", "s_client", "-brief", "-starttls", "smtp", "-connect",
        "127.0.0.1:25", "-verify_return_error")
    wait_for_end()
    shows(advice("TLS is not"), "event=tls-failed")
    wait_for_end()
    dropin()


@test
def who_cannot_log_in_is_told_why_in_the_log():
    hashed = run("openssl", "passwd", "-6", "correct horse")[0]
    spew("/etc/smtpd/users", f"jo:{hashed}")
    settings(SUBMISSION_RELAY=f"maildir:{box('box')}",
             SMTPD_RELAY="maildir:/srv/box")
    assert starts("smtpd-submission")
    url = "smtp://127.0.0.1:587"
    for user in "jo:wrong", "nobody:wrong":
        same(run(*CURL, "--ssl-reqd", "--user", user, url)[1], 67)
    said = shows(advice("Nobody can log in"), "no such user",
                 "wrong password")
    assert "curl:" not in said, said
    spew("/etc/smtpd/users", "jo:secret\n")
    same(run(*CURL, "--ssl-reqd", "--user", "jo:secret", url)[1], 67)
    said = shows(advice("Nobody can log in"), r"line 1: crypt\(3\) does not")
    assert "curl:" in said, said
    spew("/etc/smtpd/users", f"jo:{hashed}")
    same(run(*CURL, "--ssl-reqd", "--user", "jo:correct horse", url)[1], 0)
    wait_for_end("smtpd-submission")


# ---- smtpd-log(7) -----------------------------------------------------------

@test
def a_message_is_found_by_sender_recipient_and_queue_id():
    same(codes(talk(25, *message("one"))), TAKEN)
    wait_for_end()
    run("journalctl", "--sync")
    queue_id = run("journalctl", "-n", "1", "-o", "cat",
                   "SMTPD_EVENT=message-relayed",
                   "--output-fields=SMTPD_QUEUE_ID")[0].strip()
    by_sender, by_recipient, by_id = query("Where").splitlines()
    tried.add(query("Where"))
    for command, old, new in (
            (by_sender, "jo@example.com", "jo@example.com"),
            (by_recipient, "al@example.org", "al@example.org"),
            (by_id, "1K1CMVF0RS600076", queue_id)):
        assert old in command
        matches("event=message-relayed", paste(command.replace(old, new)))


@test
def who_sent_what_is_told():
    shows(query("Who sent what"), "event=message-relayed .*client=127")
    of_client, of_user = query("Who sent what", 1).splitlines()
    tried.add(query("Who sent what", 1))
    same(paste(of_client), "")
    assert "192.0.2.1" in of_client
    matches("client=127", paste(of_client.replace("192.0.2.1", "127.0.0.1")))
    said = paste(of_user)
    assert said and all(" user=jo " in line for line in said.splitlines())


@test
def users_are_counted_and_who_sent_nothing_is_told():
    """curl has tried a password, in `Nobody can log in', and sent nothing."""
    shows(query("Who logged in"), r"^ +[1-9]\d* jo$",
          "event=auth-ok .* user=jo .*PLAIN by file:")


@test
def failures_to_log_in_are_counted():
    said = shows(query("Who failed"), r"^ +[234] 127\.0\.0\.1$",
                 "wrong password", "no such user")
    assert said.index("127.0.0.1\n") < said.index("event=")


@test
def what_was_deferred_is_counted_by_reason_and_told():
    rows = counted(paste(query("What was deferred")))
    assert rows["451 4.3.5 Local configuration error"] >= 2, rows
    assert rows["451 4.4.1 Cannot connect to next hop"] == 1, rows
    shows(query("What was deferred", 1), "event=message-deferred",
          "event=(nexthop|relay|program)")


@test
def what_was_refused_names_who_did():
    shows(query("What was refused"), 'by="milter unix:/run/no at MAIL"',
          "Relay access denied")


@test
def top_clients_and_senders_are_counted():
    said = paste(query("Who sends most"))
    matches(r"^ +\d+ 127\.0\.0\.1$", said)
    matches(r"^ +\d+ sender@example\.com$", said)
    matches(r"^ +\d+ jo@example\.com$", said)
    shows(query("Who sends most", 1), "messages? relayed")


@test
def mail_without_TLS_is_told():
    said = shows(query("Who sends without"), "event=message-relayed")
    assert " user=jo " not in said


@test
def trouble_is_explained():
    shows(query("Is anything"), "A message was deferred", "event=relay")


@test
def sessions_are_shown_and_their_dialogue():
    with connection(25) as s:
        ask(s)
        ask(s, "EHLO client.example.com")
        ask(s, "MAIL FROM:<waiting@example.com>")
        until(lambda: "waiting@example.com" in paste(query("What happens")))
    wait_for_end()
    settings(SMTPD_RELAY="maildir:/srv/box", SMTPD_OPTIONS="-d")
    same(codes(talk(25, *message("two"))), TAKEN)
    wait_for_end()
    shows(query("What happens", 1), "MAIL FROM:")


# ---- MAINTENANCE ------------------------------------------------------------

@test
def an_upgrade_is_checked_and_old_sessions_are_seen():
    settings(SMTPD_RELAY="discard:")
    with connection(25) as s:
        ask(s)
        shows(under(CARE, "Upgrading")[0], r"^smtpd \d", "good: discard:",
              "smtpd@.*:25-127.* running")
    wait_for_end()


@test
def the_certificate_that_clients_get_is_shown():
    shows(under(CARE, "Renewal")[0], "CN = mail.example.org|CN=mail",
          "^notAfter=")
    wait_for_end("smtpd-submission")


@test
def the_engine_that_stays_is_restarted_by_a_hook_of_certbot():
    enable("smtpd-tls")
    systemctl("start", "smtpd-tls.service")
    before = prop("MainPID", "smtpd-tls.service")
    same(paste(under(CARE, "Renewal")[1]), "")
    succeeds("/etc/letsencrypt/renewal-hooks/deploy/smtpd")
    after = prop("MainPID", "smtpd-tls.service")
    assert after not in ("0", before), (before, after)


@test
def connections_are_counted():
    shows(under(CARE, "Several")[0], "^NAccepted=[1-9]", "^NConnections=0")


# ---- how many records -------------------------------------------------------

def hangs_up(port):
    """Looks at the greeting, and goes."""
    with connection(port) as s:
        matches("^220 ", ask(s))


def stated():
    """How many lines the unit says that there are: before, and now."""
    return {what: counts for what, *counts in re.findall(
        r"^#\t(\S.*?)\t+(\d)\t(\d)$", systemctl("cat", "smtpd@.service"),
        re.M)}


@test
def a_session_has_as_many_lines_as_the_unit_says():
    made = run("openssl", "passwd", "-6", "secret")[0].strip()
    spew("/srv/counted", f"jo:{made}\n")
    os.chmod("/srv/counted", 0o644)
    settings(SMTPD_RELAY="discard:", SMTPD_OPTIONS="--no-auth-require-tls "
             "--auth file:/srv/counted")
    says, mail = stated(), list(message("counted"))
    same(len(says), 4)
    login = "AUTH PLAIN " + base64.b64encode(b"\0jo\0secret").decode()
    for now, more in enumerate((
            "LogLevelMax=info\nSyslogLevel=info\n"
            "UnsetEnvironment=SMTPD_LOG_PRIORITY", None)):
        dropin(None, more)
        found = {}
        for what, *lines in (
                ("a session with one message", *mail),
                ("the same with AUTH", mail[0], login, *mail[1:]),
                ("each further message", *mail[:-1], *mail[1:]),
                ("a probe, or a client that says nothing", "QUIT")):
            found[what], texts = lines_of(lambda: talk(25, *lines))
            print(f"# {what}: {texts}")
        found["each further message"] -= found["a session with one message"]
        same(found, {what: int(counts[now]) for what, counts in says.items()})
    same(lines_of(lambda: hangs_up(25))[0], found[
        "a probe, or a client that says nothing"])


@test
def every_example_was_tried():
    same([text for _, text in MANUAL + PAGE + CARE if text not in tried], [])


main()
