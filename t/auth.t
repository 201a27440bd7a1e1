#!/usr/bin/env python3
"""auth.t - AUTH: mechanisms, sources of users, wrong passwords, and where no
password may be seen."""
import os
import pwd
import re
import shutil
import socket
import subprocess

from fakes.server import Server
from secure import (CLEAR, FILE, PASSWORD, PLACE, Secure, b64, context, hashed,
                    main, path, plain, received, secrets, tls, wait_for_all)
from tap import (HELLO, SANITIZED, SMTPD, Listener, Session, Skip, folder,
                 lines, message, need, script, tcp_pair, test, test_if_static,
                 test_late, test_unless_static, whole_calls)

ROOT = os.geteuid() == 0


@test
def plain_and_login_with_and_without_initial_response():
    name, word = b64("user"), b64(PASSWORD)
    once = b64(f"\0user\0{PASSWORD}")
    for commands, wanted in (
            (["AUTH PLAIN " + once], "235"),
            (["auth plain " + once], "235"),
            (["Auth pLaIn", once], "334 235"),
            (["AUTH LOGIN", name, word], "334 334 235"),
            (["AUTH login " + name, word], "334 235"),
            ([plain("yes")], "235"),
            (["AUTH PLAIN", "*"], "334 501"),
            (["AUTH LOGIN", name, "*"], "334 334 501"),
            (["AUTH PLAIN !!!"], "501"),
            (["AUTH PLAIN", "!!!"], "334 501"),
            (["AUTH LOGIN", "x"], "334 501"),
            (["AUTH PLAIN =", "NOOP"], "501 250"),
            (["AUTH"], "501"),
            (["AUTH PLAIN x y"], "501"),
            (["AUTH CRAM-MD5"], "504"),
            (["AUTH PLAIN " + "A" * 20000], "500")):
        with Session(*CLEAR, "discard:") as s:
            assert "\n250-AUTH PLAIN LOGIN" in s.start()
            got = [s.say(command)[0] for command in commands]
            assert [r[:3] for r in got] == wanted.split(), (commands, got)
            if wanted.endswith("235"):
                assert s.say("AUTH PLAIN")[0][:3] == "503"
                assert s.deliver()[:3] == "250"
            else:
                assert s.say("NOOP") == ["250 2.0.0 OK"]
            s.finish()


@test_late
def three_wrong_passwords_are_three_delays_and_the_end():
    with Session(*CLEAR, "discard:") as s:
        s.start()
        for wrong in (plain(password="wrong"), plain("nobody")):
            assert s.say(wrong)[0][:9] == "535 5.7.8"
        assert s.say(plain(password=""))[0].startswith(
            "421 4.7.0 mx.example.org ")
        assert s.read.read() == b"" and s.process.wait() == 0
        log = s.logged()
        assert log.count("event=auth-failed") == 3, log


def answered_late(number, least, most, source=CLEAR):
    """The answers to so many wrong passwords at once are not there before
    monitor and session have waited: strace shows how long, in milliseconds,
    and not a clock of ours."""
    need("strace")
    file = os.path.join(folder(), "trace")
    with Session(*source, "discard:", wrap=(
            "strace", "-f", "-qq", "-o", file, "-e",
            "trace=poll,sendto")) as s:
        s.start()
        said = s.say(*[plain(password="wrong")] * number)
        assert [r[:3] for r in said] == ["535", "535", "421"][:number], said
        if said[-1][:3] != "421":
            s.send(lines("QUIT"))
        s.read.read()
        s.process.wait()
    with open(file) as f:
        trace = f.read()
    if "ptrace" in trace or "sendto" not in trace:
        raise Skip("strace may not trace here")
    trace = whole_calls(trace)
    before = trace[:trace.index("535")]
    waits = re.findall(r"poll\((?:NULL, 0|\[.*\{fd=-1.*\], 3), (\d+)\) += 0 ",
                       before)
    assert least <= sum(map(int, waits)) <= most, before


@test_late
def a_wrong_password_is_answered_late():
    answered_late(1, 1000, 2000)


@test_late
def a_wrong_password_is_answered_at_a_time_that_tells_nothing_of_its_source():
    """What the source needs is a part of the two seconds."""
    slow = script(PLACE, "sleep 1; exit 1", "slow")
    answered_late(1, 0, 1000, ("--auth", f"checkpassword:{slow}",
                               "--no-auth-require-tls"))


@test_late
def each_of_several_wrong_passwords_at_once_costs_its_time():
    answered_late(3, 5000, 6000)


@test
def auth_is_not_offered_in_the_clear():
    with Secure(*tls(), *FILE, "print:") as s:
        assert "AUTH" not in s.start()
        assert s.say(plain())[0][:10] == "538 5.7.11"
        assert s.deliver()[:3] == "250"
        assert s.say("STARTTLS")[0][:3] == "220"
        s.handshake()
        s.send(lines(HELLO))
        assert "\n250-AUTH PLAIN LOGIN" in s.reply()
        assert s.say(plain())[0][:3] == "235"
        s.finish()


@test
def auth_required_means_that_no_mail_is_taken_before():
    with Session(*CLEAR, "--auth-required", "print:") as s:
        s.start()
        for command in ("MAIL FROM:<a@b>", "VRFY a"):
            assert s.say(command)[0][:9] == "530 5.7.0", command
        assert s.say(plain("yes"))[0][:3] == "235"
        assert s.deliver()[:3] == "250"
        _, log = s.finish()
    assert " with ESMTPA id " in received(log), log
    assert "event=auth-ok" not in log, log
    assert re.search("event=message-relayed .* user=yes .* method=PLAIN "
                     "source=file: ", log), log


def two_users(place, prefix):
    """A file of them; where its second line has such a hash."""
    with open(f"{place}/users", "w") as f:
        f.write(f"user:{hashed('$6$')}\nother:{hashed(prefix)}\n")
    return ["--no-auth-require-tls", "--auth", f"file:{place}/users",
            "discard:"]


# The static program has none of these hashes.
@test_unless_static
def passwords_by_every_usual_hash_are_known():
    for prefix in ("$1$", "$5$", "$6$", "$y$j9T$"):
        place = folder()
        for user, wanted in (("user", "235"), ("other", "235")):
            with Session(*two_users(place, prefix)) as s:
                s.start()
                assert s.say(plain(user))[0][:3] == wanted, (prefix, user)
                _, log = s.finish()
            assert "config-error" not in log, log
        shutil.rmtree(place)


@test_if_static
def a_hash_that_the_static_program_does_not_know_is_a_configuration_error():
    for prefix in ("$1$", "$5$", "$y$j9T$"):
        place = folder()
        said = f"{place}/users: line 2: crypt(3) does not support this hash"
        arguments = two_users(place, prefix)
        with Session(*arguments) as s:
            s.start()
            _, log = s.finish()
        assert "event=config-error" in log and said in log, log
        for user, wanted in (("user", "235"), ("other", "454 4.7.0"),
                             ("nobody", "535")):
            with Session(*arguments) as s:
                s.start()
                reply = s.say(plain(user))[0]
                assert reply.startswith(wanted), (prefix, user, reply)
                s.finish()
        with open(f"{place}/users", "w") as f:
            f.write(f"other:{hashed(prefix)}\n")
        with Session(*arguments) as s:
            s.start()
            assert s.say(plain("nobody"))[0][:3] == "454"
            s.finish()
        shutil.rmtree(place)


@test
def a_password_file_that_is_not_there_is_our_mistake():
    with Session("--auth", "file:" + path("none"), "--no-auth-require-tls",
                 "discard:") as s:
        s.start()
        assert s.say(plain())[0][:9] == "454 4.7.0"
        _, log = s.finish()
    assert path("none") in log, log


@test
def a_dovecot_that_is_not_there_refuses_nobody_for_good():
    with Session("--auth", "dovecot:" + path("none"), "--auth-required",
                 "--no-auth-require-tls", "discard:", pair=tcp_pair()) as s:
        assert "AUTH" not in s.start()
        for command in (plain(), "MAIL FROM:<a@b>"):
            assert s.say(command)[0][:9] == "454 4.7.0", command
        _, log = s.finish()
    assert path("none") in log, log


class Dovecot(Server):
    """Its handshake, with these mechanisms."""

    def __init__(self, *mechanisms):
        self.mechanisms = mechanisms
        super().__init__(f"{folder()}/dovecot")

    def talk(self, connection, read, number):
        assert read.readline() == b"VERSION\t1\t1\n"
        assert read.readline().startswith(b"CPID\t")
        connection.sendall(b"VERSION\t1\t2\n" + b"".join(
            b"MECH\t%s\n" % name for name in self.mechanisms) + b"DONE\n")
        read.read()


@test
def a_dovecot_that_is_there_is_asked_by_check_what_it_offers():
    for mechanisms, status, said in (
            ([b"PLAIN", b"LOGIN"], 0, "good: --auth dovecot: offers PLAIN "
             "LOGIN\n"),
            ([b"ANONYMOUS\tanonymous"], 78, "bad: --auth dovecot: has no "
             "mechanism for us\n")):
        with Dovecot(*mechanisms) as dovecot:
            done = subprocess.run(
                [SMTPD, "--check", "--no-auth-require-tls", "--auth",
                 f"dovecot:{dovecot.path}", "discard:"], text=True,
                stdin=subprocess.DEVNULL, capture_output=True)
            dovecot.wait()
        assert done.returncode == status and said in done.stdout, done


@test_late
def checkpassword_programs_decide():
    place = folder()
    program = script(place, f"""
        tr '\\0' '\\n' <&3 >{place}/got
        case $(head -n 1 {place}/got) in
        user) exit 0 ;; later) exit 111 ;; *) exit 1 ;;
        esac""")
    for user, wanted in (("user", "235"), ("nobody", "535"),
                         ("later", "454")):
        with Session("--auth", f"checkpassword:{program}",
                     "--no-auth-require-tls", "discard:") as s:
            s.start()
            assert s.say(plain(user))[0][:3] == wanted, user
            s.finish()
        with open(f"{place}/got") as f:
            assert f.read().splitlines()[:2] == [user, PASSWORD]
    with Session("--auth", f"checkpassword:{place}/none",
                 "--no-auth-require-tls", "discard:") as s:
        s.start()
        assert s.say(plain())[0][:3] == "454"
        s.finish()
    shutil.rmtree(place)


@test_late
def a_peer_on_a_unix_socket_may_use_its_login():
    name = pwd.getpwuid(os.geteuid()).pw_name
    place = folder()
    program = script(place, f"env >{place}/env")
    with Listener(*CLEAR, "--auth-required", "--", program,
                  path=f"{place}/smtp"):
        for command, wanted in (("AUTH EXTERNAL =", "235"),
                                ("AUTH EXTERNAL " + b64(name), "235"),
                                ("AUTH EXTERNAL " + b64("x" + name), "535")):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{place}/smtp")
                read = client.makefile("rb")
                client.sendall(lines(HELLO, command))
                seen = b""
                while seen[-2:] != b"\r\n" or \
                        not re.search(rb"^[2-5]\d\d [^H].*\n\Z", seen, re.M) \
                        or b" HELP" not in seen:
                    seen += read.readline()
                assert f"\n{wanted} ".encode() in seen, seen
                assert b"-AUTH PLAIN LOGIN EXTERNAL" in seen, seen
                if wanted == "235":
                    client.sendall(message("Subject: x", "", "y") +
                                   lines("QUIT"))
                    assert b"250 2.0.0" in read.read()
                    with open(f"{place}/env") as f:
                        env = f.read()
                    assert f"SASL_USERNAME={name}\n" in env, env
                    assert "SASL_METHOD=EXTERNAL\n" in env, env
                read.close()
    shutil.rmtree(place)


@test
def a_client_with_a_verified_certificate_may_be_who_it_says():
    for name, wanted in (("client", "235"), ("stranger", "504")):
        with Secure(*tls(), "--tls-ca", path("ca.pem"), *FILE, "print:",
                    pair=tcp_pair()) as s:
            greeting = s.starttls(context(certificate_of=name))
            assert ("EXTERNAL" in greeting) == (wanted == "235"), greeting
            assert s.say("AUTH EXTERNAL =")[0][:3] == wanted, name
            s.deliver()
            _, log = s.finish()
        assert ("user=" in log) == (wanted == "235"), log


@test
def a_client_that_speaks_for_another_does_not_lend_its_certificate():
    external = ["--no-auth-require-tls", *FILE, "discard:"]
    for before in (b"PROXY TCP4 192.0.2.7 192.0.2.8 40000 25\r\n",
                   b"PROXY UNKNOWN\r\n"):
        with Session("--proxy-protocol", *external) as s:
            s.send(before)
            assert "EXTERNAL" not in s.start()
            assert s.say("AUTH EXTERNAL =")[0][:3] == "504"
            s.finish()
    for attribute in ("ADDR=192.0.2.7", "NAME=mail.example.net"):
        with Session("--xclient", "unix", *external) as s:
            assert "EXTERNAL" in s.start()
            assert s.say("XCLIENT " + attribute)[0][:4] == "220 "
            s.send(lines(HELLO))
            assert "EXTERNAL" not in s.reply()
            assert s.say("AUTH EXTERNAL =")[0][:3] == "504"
            s.finish()
    for source in (FILE, []):
        with Secure(*tls(), "--tls-ca", path("ca.pem"), *source, "--xclient",
                    "127.0.0.1", "discard:", pair=tcp_pair()) as s:
            assert "EXTERNAL" in s.starttls(context(certificate_of="client"))
            assert s.say("XCLIENT ADDR=192.0.2.7")[0][:4] == "220 "
            s.send(lines(HELLO))
            assert "EXTERNAL" not in s.reply()
            assert s.say("AUTH EXTERNAL =")[0][:3] == (
                "504" if source else "502")
            s.finish()


# --- what must be seen nowhere

@test
def credentials_are_in_no_log_and_no_environment():
    place = folder()
    program = script(place, f"env >{place}/env")
    for commands in ([plain()], ["AUTH PLAIN", b64(f"\0user\0{PASSWORD}")],
                     ["AUTH LOGIN", b64("user"), b64(PASSWORD)],
                     ["AUTH LOGIN " + b64("user"), b64(PASSWORD)],
                     ["AUTH PLAIN " + b64("\0user\0" + PASSWORD) + "!"],
                     ["AUTH NONSENSE " + b64(PASSWORD)]):
        with Secure("-d", *CLEAR, "--", program) as s:
            s.start()
            for command in commands:
                s.say(command)
            environments = b""
            for pid in s.pids():
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    environments += f.read()
                if ROOT:
                    with open(f"/proc/{pid}/environ", "rb") as f:
                        environments += f.read()
            assert s.deliver()[:3] == "250"
            _, log = s.finish()
        with open(f"{place}/env") as f:
            everything = log + f.read() + environments.decode()
        for secret in secrets():
            assert secret not in everything, (commands, everything)
        assert "********" in log, log
    shutil.rmtree(place)


@test
def no_process_of_ours_leaves_a_core():
    with Secure(*tls(), *FILE, "discard:") as s:
        s.starttls()
        assert s.say(plain())[0][:3] == "235"
        pids = s.pids()
        assert len(pids) == 3, pids
        for pid in list(pids)[1:]:      # all but the monitor
            with open(f"/proc/{pid}/limits") as f:
                assert re.search(r"core file size +0 +0 ", f.read()), pid
        for pid in pids:    # of who may not be dumped all is root's
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0, pid
        s.finish()
        wait_for_all(pids)


@test
def credentials_are_wiped_from_memory():
    if not ROOT:
        raise Skip("this needs root")
    if SANITIZED:
        raise Skip("sanitizers keep what was freed")
    for commands in ([plain()],
                     ["AUTH LOGIN", b64("user"), b64(PASSWORD)],
                     ["AUTH PLAIN " + b64(PASSWORD) + "!", "NOOP"]):
        with Secure(*tls(), *FILE, "discard:") as s:
            s.starttls()
            assert s.say(*commands)[-1][:1] == "2"
            assert s.say("NOOP") == ["250 2.0.0 OK"]
            nobody_remembers(pids := s.pids())
            s.finish()
            wait_for_all(pids)


@test
def credentials_are_wiped_before_the_verdict_is_heard():
    need("strace")
    if not ROOT:
        raise Skip("this needs root")
    if SANITIZED:
        raise Skip("sanitizers keep what was freed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode != 0:
        raise Skip("strace may not trace here")
    # The monitor's first answer says the mechanisms.  Behind its second it
    # does nothing for a while, as the channel process has done long before,
    # when it said something for the log.
    slow = ["strace", "-DD", "-f", "-qq", "-o", "/dev/null", "-e",
            "trace=sendmsg", "-e", "inject=sendmsg:delay_exit=500000:when=2"]
    with Secure("-d", *CLEAR, "discard:", wrap=slow) as s:
        s.start()
        assert s.say(plain())[0][:3] == "235"
        nobody_remembers(pids := s.pids())
        s.finish()
        wait_for_all(pids)


def nobody_remembers(pids):
    for i, pid in enumerate(pids):
        seen = memory(pid)
        assert len(seen) > 100000, pid
        for secret in secrets():
            assert secret.encode() not in seen, (i, secret)


def memory(pid):
    """All that a process may write to."""
    seen = b""
    with open(f"/proc/{pid}/maps") as maps, \
         open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            span, mode = line.split()[:2]
            if not mode.startswith("rw"):
                continue
            low, high = (int(x, 16) for x in span.split("-"))
            mem.seek(low)
            try:
                seen += mem.read(high - low)
            except OSError:
                pass
    return seen


if __name__ == "__main__":
    main()
