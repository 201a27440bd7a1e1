#!/usr/bin/env python3
"""sandbox.t - what an intruder in the channel process can do, which is nothing
(t/fakes/planted.c is smtpd with one in it), and which system calls the process
makes without one."""
import errno
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time

import tap
from tap import (HELLO, SANITIZED, PolicyService, Session, Skip, folder, lines,
                 main, message, need, script, test, test_late, whole_calls)

PLANTED = os.path.abspath("t/out/san/planted")
REFUSED = {errno.EPERM, errno.EACCES}

# What DESIGN and manual promise: its descriptors, memory, time.
LISTED = set("""read write sendto recvfrom sendmsg recvmsg poll ppoll shutdown
    memfd_create lseek pread64 sendfile dup2 dup3 close clock_gettime
    setsockopt
    brk mmap munmap mremap mprotect madvise
    exit_group rt_sigreturn restart_syscall""".split())


class Planted(Session):
    def __init__(self, *arguments, lacks="", program=PLANTED, **more):
        super().__init__(*arguments, env={"PLANTED": lacks}, program=program,
                         **more)

    def plant(self, what):
        """What came of it, as {name: number}."""
        reply = self.say("PLANT " + what)[0]
        rows = [line[4:].split() for line in reply.splitlines()]
        return {row[0]: int(row[1]) for row in rows}


@test
def each_call_of_an_intruder_is_refused():
    with Planted("discard:") as s:
        s.start()
        got = s.plant("calls")
        path = got.pop("sendto-path")
        assert len(got) > 24, got
        for name, error in got.items():
            assert error in REFUSED, (name, os.strerror(error))
        # A connected stream takes no address.
        assert path in (errno.EISCONN, errno.EOPNOTSUPP), path
        assert s.deliver()[:9] == "250 2.0.0"
        assert s.finish()[0] == 0


@test
def each_number_that_is_not_listed_is_refused():
    with Planted("discard:") as s:
        s.start()
        assert s.plant("numbers") == {"done": 0}
        assert s.finish()[0] == 0


@test
def calls_by_numbers_of_another_architecture_end_the_process():
    if os.uname().machine != "x86_64":
        raise Skip("this machine has one way to number them")
    with Planted("discard:") as s:
        s.start()
        s.send(lines("PLANT foreign"))
        assert s.read.read() == b"" and s.process.wait() == 70
        assert "event=channel-broken" in s.logged()
        assert "signal 31" in s.logged()


@test
def without_seccomp_the_rest_still_refuses_files_programs_and_signals():
    with Planted("discard:", lacks="no-seccomp") as s:
        s.start()
        got = s.plant("calls")
        _, log = s.finish()
    assert "this kernel has no seccomp" in log, log
    if "Landlock" in log:
        raise Skip("this kernel has no Landlock")
    assert {"openat", "execve", "clone"} <= set(got), got
    for name in ("open", "openat", "openat-to-write", "openat2", "execve",
                 "execveat"):   # some machines have no open, and no fork
        assert got.get(name, 1) in REFUSED, (name, os.strerror(got[name]))
    for name in ("fork", "clone", "clone3"):    # by a limit
        assert got.get(name, 11) == errno.EAGAIN, (name, got[name])


@test
def each_part_that_is_missing_is_said_once_and_the_rest_is_there():
    for lacks, said in (("no-landlock", "this kernel has no Landlock"),
                        ("no-seccomp", "this kernel has no seccomp"),
                        ("no-limits", "this kernel has no limits"),
                        ("neither",
                         "this kernel has no Landlock and no seccomp")):
        with Planted("discard:", lacks=lacks) as s:
            s.start()
            if lacks == "no-landlock":
                got = s.plant("calls")
                got.pop("sendto-path")
                assert len(got) > 24 and set(got.values()) <= REFUSED, got
            assert s.deliver()[:9] == "250 2.0.0", lacks
            status, log = s.finish()
        assert status == 0
        assert log.count("event=sandbox-missing") == 1
        assert f'text="{said}"' in log, log


@test
def with_require_sandbox_a_session_has_all_of_it_or_does_not_run():
    for lacks in ("no-landlock", "no-seccomp", "no-limits", "no-nnp",
                  "neither"):
        with Planted("--require-sandbox", "discard:", lacks=lacks) as s:
            assert s.reply().startswith("421 mx.example.org "), lacks
            assert s.read.read() == b"" and s.process.wait() == 71
            log = s.logged()
            assert log.count("event=sandbox-missing") == 1, log
            assert ("no_new_privs" in log) == (lacks == "no-nnp"), log
    with Planted("--require-sandbox", "discard:") as s:
        s.start()
        assert s.deliver()[:9] == "250 2.0.0"
        assert s.finish()[0] == 0


@test
def a_smaller_limit_on_files_that_is_there_already_is_kept():
    """As LimitFSIZE= of a unit sets it, or ulimit: it cannot be raised."""
    small = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh"]
    with Session("--require-sandbox", "discard:", wrap=small) as s:
        s.start()
        assert s.deliver()[:9] == "250 2.0.0"
        status, log = s.finish()
    assert status == 0 and "sandbox-missing" not in log, log
    with Planted("discard:", wrap=small) as s:
        s.start()
        assert s.plant("spool")["large"] == errno.EFBIG
        s.socket.shutdown(socket.SHUT_RDWR)


@test
def the_monitor_refuses_what_makes_no_sense():
    with Planted("discard:") as s:
        s.start()
        names = list(s.plant("tell ?"))
        got = s.plant("tell sense")
        assert got["sent"] > 32
        assert s.deliver()[:9] == "250 2.0.0"
        _, log = s.finish()
        assert "event=planted client=unix text=hello" in log, log
    assert len(names) > 20
    place = folder()
    program = script(place, f"touch {place}/ran")
    for name in names:
        if name in ("sense", "external", "guess", "rcpt", "pause", "half") or \
                name.startswith(("message", "live-")):
            continue
        with Planted("--", program) as s:
            s.start()
            s.send(lines("PLANT tell " + name))
            assert s.read.read() == b"", name
            assert s.process.wait() == 70, name
            log = s.logged()
            assert log.count("channel process sent an invalid question; "
                             "killed") == 1, log
            assert "event=planted" not in log, name
        assert not os.path.exists(f"{place}/ran"), name
    shutil.rmtree(place)


def intruder(told, commands, answer=lambda question: "DUNNO", stages=""):
    """What became of a question of an intruder after these commands, where a
    policy service is asked: the code that the monitor answered, or None if it
    ended the session; and the log."""
    place = folder()
    try:
        with PolicyService(place, answer) as service:
            with Planted("--policy", f"{stages}{service.place}",
                         "discard:") as s:
                s.start()
                s.say(*commands)
                s.send(lines("PLANT tell message" + told))
                try:
                    code = int(s.reply().split()[-1])
                except EOFError:
                    code = None
                    assert s.process.wait() == 70
                if code is not None:
                    s.socket.shutdown(socket.SHUT_RDWR)
                    s.process.wait()
                return code, s.logged()
    finally:
        shutil.rmtree(place)


MAIL, RCPT = "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>"


@test
def a_message_that_the_services_were_asked_about_is_relayed():
    code, log = intruder("", [MAIL, RCPT, "DATA"])
    assert code == 250 and "event=message-relayed" in log, (code, log)


@test
def a_message_that_skips_a_stage_is_not_relayed():
    for told, commands in (("", [MAIL, RCPT]), ("", [MAIL]), ("", []),
                           ("-other", [MAIL, RCPT, "DATA"]),
                           ("-twice", [MAIL, RCPT, "DATA"]),
                           ("-sender", [MAIL, RCPT, "DATA"]),
                           ("", [MAIL, RCPT, "RSET"])):
        code, log = intruder(told, commands)
        assert code is None, (told, commands, code)
        assert "event=message-relayed" not in log, (told, commands)
        assert "sent an invalid question; killed" in log, log


@test
def a_message_that_a_service_refused_is_not_relayed():
    for stage in ("MAIL", "RCPT", "DATA"):
        for only in ("", stage + "="):
            code, log = intruder("", [MAIL, RCPT, "DATA"], lambda q: "REJECT"
                                 if q["protocol_state"] == stage else "DUNNO",
                                 only)
            assert code is None, (stage, only, code)
            assert "event=message-relayed" not in log, stage
    code, log = intruder("", [MAIL, RCPT, "DATA"], lambda q: "REJECT" if
                         q["protocol_state"] == "END-OF-MESSAGE" else "DUNNO")
    assert code == 554 and "event=message-relayed" not in log, (code, log)


@test
def a_message_that_is_relayed_cannot_be_changed_or_too_large():
    with Planted("discard:") as s:
        s.start()
        assert s.plant("spool") == {"large": errno.EFBIG, "code": 250,
                                    "change": errno.EPERM}
        s.socket.shutdown(socket.SHUT_RDWR)


@test
def a_message_that_is_longer_than_it_says_is_not_relayed():
    assert "sent an invalid question; killed" in is_ended("short")


@test
def failures_of_AUTH_are_counted_by_the_monitor():
    place = folder()
    with open(f"{place}/users", "w") as f:
        f.write("joe:*\n")
    with Planted("--no-auth-require-tls", "--auth", f"file:{place}/users",
                 "--max-errors", "3", "discard:", pair=tap.tcp_pair()) as s:
        s.start()
        for _ in range(3):
            assert s.plant("tell external")["code"] == 504
        s.send(lines("PLANT tell external"))
        # 1: the planted process has ended by itself, before it was killed.
        assert s.read.read() == b"" and s.process.wait() in (1, 70)
        assert "sent an invalid question; killed" in s.logged()
    shutil.rmtree(place)


@test_late
def guesses_are_delayed_by_the_monitor():
    place = folder()
    checker = script(place, "exit 1")
    with Planted("--no-auth-require-tls", "--auth",
                 f"checkpassword:{checker}", "discard:",
                 pair=tap.tcp_pair()) as s:
        s.start()
        assert s.plant("tell guess")["code"] == 535
        begun = time.monotonic()
        assert s.plant("tell guess")["code"] == 535
        assert time.monotonic() - begun > 1.9   # never less
        s.socket.shutdown(socket.SHUT_RDWR)
    shutil.rmtree(place)


@test
def recipients_are_counted_by_the_monitor():
    place = folder()
    with PolicyService(place) as service:
        with Planted("--policy", service.place, "--max-recipients", "3",
                     "discard:") as s:
            s.start()
            for _ in range(3):  # the count begins anew
                assert s.say(MAIL)[0][:3] == "250"
                for _ in range(3):
                    assert s.plant("tell rcpt")["code"] == 250
                s.say("RSET")
            s.say(MAIL)
            for _ in range(3):
                assert s.plant("tell rcpt")["code"] == 250
            s.send(lines("PLANT tell rcpt"))
            assert s.read.read() == b"" and s.process.wait() == 70
            assert "sent an invalid question; killed" in s.logged()
    shutil.rmtree(place)


@test
def messages_are_counted_by_the_monitor():
    with Planted("--max-messages", "2", "discard:") as s:
        s.start()
        for _ in range(2):
            assert s.plant("tell message")["code"] == 250
        s.send(lines("PLANT tell message"))
        assert s.read.read() == b"" and s.process.wait() == 70
        log = s.logged()
        assert "sent an invalid question; killed" in log
        assert log.count("event=message-relayed") == 2, log


@test_late
def an_intruder_that_never_pauses_does_not_outlive_the_session():
    log = is_ended("busy", "--session-timeout", "1", "--relay-timeout", "1",
                   "--policy-timeout", "1")
    assert log.count("channel process stalled in a question; killed") == 1
    # 2000 records at once, then 500 a second, for 7 seconds.
    assert log.count("event=planted") < 8000, log.count("event=planted")


FACTS = ["CLIENT_ADDRESS", "CLIENT_PORT", "CLIENT_HOSTNAME", "CLIENT_USER",
         "SERVER_ADDRESS", "SERVER_PORT", "SASL_METHOD", "SASL_USERNAME",
         "TLS_PROTOCOL", "TLS_CIPHER", "TLS_SNI", "TLS_SUBJECT", "TLS_ISSUER",
         "TLS_FINGERPRINT", "XFORWARD_IDENT", "XFORWARD_SOURCE"]


def exported_by_a_liar(*options, before=(), pair=None, lie="lie", greets=True):
    """What a program and a policy service hear of the client, after what is
    in before and then the lie; and what EHLO offers then, if the client greets
    again."""
    place = folder()
    program = script(place, f"env >{place}/env")
    with PolicyService(place) as service:
        with Planted("--policy", f"END-OF-MESSAGE={service.place}", *options,
                     "--", program, pair=pair) as s:
            ours = s.socket.getsockname()
            s.start()
            for command in before:
                assert s.say(command)[0][:3] == "235", command
            s.say("PLANT " + lie)
            offered = None
            if greets:
                s.send(lines(HELLO))
                offered = s.reply()
            assert s.deliver()[:9] == "250 2.0.0"
            s.finish()
        asked = service.asked[0]
    with open(f"{place}/env") as f:
        env = dict(line.rstrip("\n").split("=", 1) for line in f
                   if "=" in line)
    shutil.rmtree(place)
    return {k: env.get(k, "") for k in FACTS}, asked, offered, ours


@test
def the_monitor_knows_itself_who_the_client_is():
    env, asked, offered, ours = exported_by_a_liar(pair=tap.tcp_pair())
    true = {k: "" for k in FACTS}
    true.update(CLIENT_ADDRESS="127.0.0.1", CLIENT_PORT=str(ours[1]),
                CLIENT_HOSTNAME="unknown", SERVER_ADDRESS="127.0.0.1")
    assert env.pop("SERVER_PORT").isdigit() and true.pop("SERVER_PORT") == ""
    assert env == true, env
    assert "lie" not in asked.values(), asked
    assert asked["client_address"] == "127.0.0.1", asked
    assert "EXTERNAL" not in offered, offered


@test
def what_the_monitor_knows_cannot_be_blanked_out():
    env, asked, _, ours = exported_by_a_liar(pair=tap.tcp_pair(), lie="blank")
    assert env["CLIENT_ADDRESS"] == env["SERVER_ADDRESS"] == "127.0.0.1", env
    assert env["CLIENT_PORT"] == str(ours[1]), env
    assert asked["client_address"] == "127.0.0.1", asked
    place = folder()
    password = script(place, "exit 0")
    env, asked, _, _ = exported_by_a_liar(
        "--auth", f"checkpassword:{password}", "--no-auth-require-tls",
        before=["AUTH PLAIN AGpvZQB4"], lie="blank")
    assert env["SASL_USERNAME"] == asked["sasl_username"] == "joe", env
    # Whose login a unix socket's peer has: "spool" relays with no facts.
    program = script(place, f"env >{place}/env")
    with Planted("--auth", f"checkpassword:{password}",
                 "--no-auth-require-tls", "--", program) as s:
        s.start()
        assert s.plant("spool")["code"] == 250
        s.socket.shutdown(socket.SHUT_RDWR)
        s.process.wait()
    with open(f"{place}/env") as f:
        login = pwd.getpwuid(os.getuid()).pw_name
        assert f"\nCLIENT_USER={login}\n" in "\n" + f.read()
    shutil.rmtree(place)


@test
def the_monitor_knows_itself_who_authenticated():
    place = folder()
    password = script(place, "exit 0")
    env, asked, _, _ = exported_by_a_liar(
        "--auth", f"checkpassword:{password}", "--no-auth-require-tls",
        before=["AUTH PLAIN AGpvZQB4"])
    assert env["SASL_USERNAME"] == "joe", env
    assert env["SASL_METHOD"] == "PLAIN", env
    assert asked["sasl_username"] == "joe", asked
    shutil.rmtree(place)


@test
def a_client_that_may_not_send_XFORWARD_names_no_other():
    for option in ((), ("--xforward", "192.0.2.0/24")):
        env, asked, _, ours = exported_by_a_liar(
            *option, pair=tap.tcp_pair(), greets=False)
        assert env["CLIENT_ADDRESS"] == "127.0.0.1", env
        assert env["CLIENT_PORT"] == str(ours[1]), env
        assert "lie" not in [*env.values(), *asked.values()], (env, asked)


@test
def a_client_that_may_send_XFORWARD_gets_no_rights_by_it():
    env, _, _, _ = exported_by_a_liar("--xforward", "unix", greets=False)
    assert env["CLIENT_ADDRESS"] == env["XFORWARD_SOURCE"] == "lie", env
    assert env["SASL_USERNAME"] == env["SERVER_ADDRESS"] == "", env
    place = folder()
    with Planted("--xforward", "127.0.0.1", "--relay-clients", "192.0.2.1",
                 f"maildir:{place}/mail", pair=tap.tcp_pair()) as s:
        s.start()
        assert s.say("XFORWARD ADDR=192.0.2.1")[0][:3] == "250"
        assert s.say("MAIL FROM:<a@example.org>")[0][:3] == "250"
        assert s.say("RCPT TO:<b@example.org>")[0][:3] == "554"
        s.send(lines("PLANT tell message"))
        s.read.read()
        assert "sent an invalid question; killed" in s.logged()
    assert not os.path.exists(f"{place}/mail")
    shutil.rmtree(place)


@test
def a_proxys_word_has_to_be_taken():
    env, asked, _, _ = exported_by_a_liar("--xclient", "unix")
    for name in ("CLIENT_ADDRESS", "SASL_USERNAME"):
        assert env[name] == "lie", env
    assert env["TLS_SUBJECT"] == "" and asked["client_address"] == "lie"


@test
def nobody_relays_without_auth_or_tls_that_are_required():
    place = folder()
    os.mkdir(f"{place}/mail")
    with open(f"{place}/users", "w") as f:
        f.write("joe:*\n")
    tap.certificate(place, "mx", "mx.example.org")
    for options in (("--auth-required", "--no-auth-require-tls", "--auth",
                     f"file:{place}/users"),
                    ("--require-tls", "--tlscert", f"{place}/mx.pem",
                     "--tlskey", f"{place}/mx.key")):
        with Planted(*options, f"maildir:{place}/mail") as s:
            s.start()
            assert s.say("MAIL FROM:<a@example.org>")[0][:4] == "530 "
            s.say("PLANT lie")
            s.send(lines("MAIL FROM:<a@example.org>", "RCPT TO:<b@c.example>",
                         "DATA", "Subject: x", "", "."))
            assert not s.read.read().rstrip().split(b"\r\n")[-1].startswith(
                b"250 ")
            assert s.process.wait() == 70
            assert "invalid question" in s.logged()
        assert not os.path.exists(f"{place}/mail/new"), options
    shutil.rmtree(place)


@test
def nobody_is_external_by_its_own_word():
    place = folder()
    with open(f"{place}/users", "w") as f:
        f.write("joe:*\n")
    with Planted("--no-auth-require-tls", "--auth", f"file:{place}/users",
                 "discard:", pair=tap.tcp_pair()) as s:
        s.start()
        assert s.plant("tell external")["code"] == 504
        assert s.deliver()[:9] == "250 2.0.0"
        s.finish()
    shutil.rmtree(place)


@test
def tls_is_served_once():
    need("openssl")
    place = folder()
    tap.certificate(place, "mx", "mx.example.org")
    with Planted("--tlscert", f"{place}/mx.pem", "--tlskey",
                 f"{place}/mx.key", "discard:") as s:
        s.start()
        assert s.say("STARTTLS")[0][:3] == "220"
        with tap.unverified().wrap_socket(s.socket.dup()) as under:
            under.sendall(lines("PLANT tell tls-again"))
            assert under.recv(4096) == b""
        assert s.process.wait() == 70
        assert "invalid question" in s.logged()
    shutil.rmtree(place)


def is_ended(how, *options):
    """A traitor is ended, with its client; returns what was logged."""
    with Planted(*options, "discard:") as s:
        s.start()
        s.send(lines("PLANT " + how))
        assert s.read.read() == b"", how
        assert s.process.wait() == 70, how
        return s.logged()


@test
def no_file_is_open_neither_the_key_nor_the_log_nor_what_was_left_open():
    need("openssl")
    place = folder()
    tap.certificate(place, "mx", "mx.example.org")
    closed = tempfile.mkdtemp(dir=place)    # only root runs what is in it
    for program in (PLANTED, os.path.dirname(PLANTED) + "/smtpd-tls"):
        shutil.copy(program, closed)
    for program in (PLANTED, closed + "/planted"):
        with Planted("--tlscert", f"{place}/mx.pem", "--tlskey",
                     f"{place}/mx.key", "discard:", program=program,
                     wrap=["bash", "-c", 'exec "$@" 3<"$0" 5<"$0" 20<"$0"',
                           f"{place}/mx.key"]) as s:
            assert "STARTTLS" in s.start()
            assert s.plant("files") == {"done": 0}, program
            _, log = s.finish()
        assert "planted" not in log, log
    shutil.rmtree(place)


@test
def a_question_that_breaks_off_is_not_waited_for():
    assert "killed by signal 9" in is_ended("tell half")


@test
def a_process_that_closes_its_end_and_stays_is_ended():
    assert "killed by signal 9" in is_ended("leave")


@test_late
def a_question_that_pauses_is_waited_for_a_moment():
    log = is_ended("tell pause")
    assert log.count("channel process stalled in a question; killed") == 1, \
        log


@test_late
def an_answer_that_is_not_taken_is_given_up():
    log = is_ended("deaf")
    assert log.count("channel process stalled in a question; killed") == 1, \
        log


@test_late
def the_monitor_does_not_outlive_its_session_by_much():
    log = is_ended("hang", "--session-timeout", "1", "--relay-timeout", "1",
                   "--policy-timeout", "1")
    assert log.count("channel process stalled in a question; killed") == 1, \
        log


# --- what it does when nobody took it over

def calls_of_channel_process(trace):
    """The calls that the channel process made once it was confined, and those
    of them that were refused."""
    confined, made, refused = None, set(), []
    for line in whole_calls(trace).splitlines():
        row = re.match(r"(\d+) +(\w+)(.*)", line)
        if not row:
            continue
        pid, name, rest = row.groups()
        if name == "prctl" and "PR_SET_SECCOMP" in rest and confined is None:
            assert rest.endswith("= 0"), line
            confined = pid
        elif pid == confined:
            made.add(name)
            if "EPERM" in rest or "EACCES" in rest:
                refused.append(line)
    return confined, made, refused


def spoken_to(talk, *arguments):
    """Traces a session; checks what its channel process did."""
    need("strace")
    if SANITIZED:
        raise Skip("the sanitizers make calls of their own")
    with tempfile.NamedTemporaryFile() as trace:
        with Session(*arguments, wrap=("strace", "-f", "-e", "signal=none",
                                       "-o", trace.name)) as s:
            talk(s)
            s.read.read()
            s.process.wait()
            log = s.logged()
        seen = trace.read().decode(errors="replace")
    if "Operation not permitted" in log and "ptrace" in log:
        raise Skip("strace may not trace here")
    confined, made, refused = calls_of_channel_process(seen)
    assert confined, seen[-2000:]
    assert made <= LISTED, (made - LISTED, seen[-2000:])
    assert not refused, refused
    return made


@test
def a_normal_session_makes_listed_calls_alone():
    place = folder()

    def talk(s):
        s.start()
        assert s.deliver()[:9] == "250 2.0.0"
        assert s.say("NOOP", "VRFY x", "HELP", "RSET", "FOO")[0][:3] == "250"
        s.send(lines("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "BDAT 3 LAST") +
               b"a\r\n")
        assert s.replies(3)[2][:9] == "250 2.0.0"
        s.send(lines("QUIT"))

    made = spoken_to(talk, f"maildir:{place}/box")
    assert {"read", "sendto", "sendmsg", "recvmsg"} <= made
    assert "setsockopt" not in made     # where a message is one segment
    shutil.rmtree(place)


@test
def a_message_that_outgrows_memory_makes_listed_calls_alone():
    def talk(s):
        s.start()
        assert s.deliver("Subject: x", "", *["x" * 900] * 3000)[:3] == "250"
        s.send(lines("QUIT"))

    spoken_to(talk, "--", "cat")


@test
def a_client_of_single_octets_makes_listed_calls_alone():
    def talk(s):
        for octet in lines(HELLO) + message("Subject: x", "", "y") + \
                lines("QUIT"):
            s.send(bytes([octet]))

    spoken_to(talk, "discard:")


@test_late
def a_client_that_is_silent_makes_listed_calls_alone():
    def talk(s):
        s.start()
        assert s.reply()[:9] == "421 4.4.2"

    spoken_to(talk, "-t", "1", "discard:")


@test
def a_client_that_reads_late_makes_listed_calls_alone():
    def talk(s):
        s.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        s.socket.setblocking(False)
        sent = 0
        try:
            while sent < 100 << 20:
                sent += s.socket.send(lines("HELP") * 1000)
        except BlockingIOError:
            pass
        s.socket.setblocking(True)
        s.socket.shutdown(socket.SHUT_WR)

    assert "poll" in spoken_to(talk, "--max-errors", "0", "discard:")


@test_late
def authentication_makes_listed_calls_alone():
    place = folder()
    with open(f"{place}/users", "w") as f:
        f.write("joe:*\n")
    os.chmod(f"{place}/users", 0o644)

    def talk(s):
        s.start()
        assert s.say("AUTH PLAIN AGpvZQB4")[0][:3] == "535"
        s.say("AUTH PLAIN", "*")
        s.send(lines("QUIT"))

    spoken_to(talk, "--no-auth-require-tls", "--auth", f"file:{place}/users",
              "-d", "discard:")
    shutil.rmtree(place)


@test
def a_session_under_tls_makes_listed_calls_alone():
    need("openssl")
    place = folder()
    tap.certificate(place, "mx", "mx.example.org")

    def talk(s):
        s.start()
        assert s.say("STARTTLS")[0][:3] == "220"
        with tap.unverified().wrap_socket(s.socket.dup()) as under:
            under.sendall(lines(HELLO) + message("Subject: x", "", "y") +
                          lines("QUIT"))
            said = b""
            while chunk := under.recv(4096):
                said += chunk
        s.socket.shutdown(socket.SHUT_RDWR)
        assert b"\r\n250 2.0.0 " in said and b"\r\n221 " in said, said

    spoken_to(talk, "--tlscert", f"{place}/mx.pem", "--tlskey",
              f"{place}/mx.key", "discard:")
    shutil.rmtree(place)


@test
def a_session_on_pipes_makes_listed_calls_alone():
    need("strace")
    if SANITIZED:
        raise Skip("the sanitizers make calls of their own")
    with tempfile.NamedTemporaryFile() as trace:
        subprocess.run(["strace", "-f", "-e", "signal=none", "-o", trace.name,
                        tap.SMTPD, "print:"], check=True, capture_output=True,
                       input=lines(HELLO) + message("Subject: x", "", "y") +
                       lines("QUIT"))
        seen = trace.read().decode(errors="replace")
    confined, made, refused = calls_of_channel_process(seen)
    assert confined and made <= LISTED and not refused, (made, refused)
    assert "write" in made


if __name__ == "__main__":
    main()
