#!/usr/bin/env python3
"""programs.t - programs as relays: what they are given, as which user, and what
the client is told of those that fail or are missing."""
import hashlib
import os
import pwd
import shutil
import signal

from tap import Session, Skip, family, folder, main, script, test

FAILURES = [
    # script, or argv; what section REPLIES of the manual promises
    ("exit 75", "451 4.3.0"),
    ("exit 67", "550 5.1.1"),
    ("exit 68", "550 5.1.2"),
    ("exit 65", "554 5.6.0"),
    ("exit 77", "550 5.7.1"),
    ("exit 69", "554 5.3.0"),
    ("exit 1", "451 4.3.0"),
    ("exit 255", "451 4.3.0"),
    ("kill -9 $$", "451 4.3.0"),
    ("kill -SEGV $$", "451 4.3.0"),
    ("trap '' TERM; while :; do read x </dev/zero; done", "451 4.3.0"),
    ("exec <&-; exit 0", "250 2.0.0"),
    ("head -c 1000000 /dev/zero | tr '\\0' x; exit 75", "451 4.3.0"),
    ("head -c 1000000 /dev/zero | tr '\\0' x >&2", "250 2.0.0"),
    # tail -f would end when nobody reads what it prints.
    ("sleep 600 & echo $! >child; exit 0", "250 2.0.0"),
    ("echo 452 4.2.2 Mailbox is full; exit 75", "452 4.2.2 Mailbox is full"),
    ("echo 250 2.0.0 fine; exit 75", "451 4.3.0"),
    ("echo 550 5.7.1 no thanks", "550 5.7.1 no thanks"),
    ("echo taken by script", "250 2.0.0 taken by script"),
]


def open_files(pid):
    return sorted(os.listdir(f"/proc/{pid}/fd"))


@test
def programs_that_fail_are_answered_and_the_session_goes_on():
    if os.geteuid() == 0:
        keep = ["--nosetuid"]      # /proc/PID/fd is read below
    else:
        keep = []
    # What a monitor has open that did its work before.
    with Session(*keep, "--", "/bin/true") as s:
        s.start()
        s.deliver()
        before = len(open_files(s.process.pid))
        s.finish()
    for text, wanted in FAILURES:
        place = folder()
        program = script(place, f"cd {place}\n{text}")
        with Session(*keep, "--relay-timeout", "1", "--", program,
                     env={"TMPDIR": place}) as s:
            s.start()
            monitor = s.process.pid
            big = ["x" * 900] * 2000    # beyond what the spool keeps in memory
            reply = s.deliver("Subject: x", "", *big)
            assert reply.replace("-", " ", 1).startswith(wanted), (text, reply)
            assert s.say("NOOP") == ["250 2.0.0 OK"], text
            assert len(open_files(monitor)) == before, text
            left = os.path.join(place, "child")
            if os.path.exists(left):
                with open(left) as f:
                    os.kill(int(f.read()), signal.SIGKILL)
            assert len(family(monitor)) == 1, (text, family(monitor))
            assert set(os.listdir(place)) == {"program", *["child"] * (
                ">child" in text)}, text
            assert s.finish()[0] == 0
        shutil.rmtree(place)


@test
def a_program_that_is_missing_is_our_mistake_and_said_in_the_log():
    with Session("--", "/no/such/program") as s:
        s.start()
        assert s.deliver().startswith("451 4.3.5 ")
        assert s.say("NOOP") == ["250 2.0.0 OK"]
        _, log = s.finish()
    assert "/no/such/program" in log and "No such file" in log, log


@test
def a_program_gets_facts_in_argv_and_environment():
    place = folder()
    script(place, 'printf "%s|" "$@" >args; env >env; cat >message')
    with Session("--no-received", "--", "/bin/sh", "-c",
                 f'cd {place}; shift; . ./program', "x", "y",
                 "{sender}", "{size}", "{recipient}") as s:
        s.start()
        reply = s.deliver("Subject: x", "", "..dot", "y", sender="",
                          to=("b+x@example.org", '"q q"@example.net'))
        assert reply.startswith("250 2.0.0 "), reply
        identity = reply.split()[-1]
        s.finish()
    arguments = open(f"{place}/args").read()
    assert arguments == '|23|b+x@example.org|"q q"@example.net|', arguments
    environment = open(f"{place}/env").read()
    for wanted in ("SENDER=\n", 'RECIPIENT=b+x@example.org\n"q q"@example.net',
                   "CLIENT_HELO=client.example.org\n", "SIZE=23\n",
                   "CLIENT_PROTOCOL=ESMTP\n", f"QUEUE_ID={identity}\n"):
        assert wanted in environment, (wanted, environment)
    assert open(f"{place}/message").read() == "Subject: x\n\n.dot\ny\n"
    shutil.rmtree(place)


@test
def with_crlf_a_program_gets_the_octets_as_they_came():
    with Session("--no-received", "--crlf", "--", "sha256sum") as s:
        s.start()
        wanted = hashlib.sha256(b"Subject: x\r\n\r\ny\r\n").hexdigest()
        assert wanted in s.deliver()


@test
def a_program_finds_its_own_users_home_and_not_roots():
    if os.geteuid() != 0:
        raise Skip("not root")
    nobody = pwd.getpwnam("nobody")
    roots = {"HOME": "/root", "USER": "root", "LOGNAME": "root",
             "MAIL": "/var/mail/root"}
    its_own = {"HOME": nobody.pw_dir, "USER": "nobody", "LOGNAME": "nobody"}
    for options, wanted in ((["--user", "nobody"], its_own),
                            ([], its_own),
                            (["-n"], roots)):
        place = folder()
        program = script(place, f"env >{place}/env")
        with Session(*options, "--", program, env=roots) as s:
            s.start()
            assert s.deliver()[:9] == "250 2.0.0"
            s.finish()
        with open(f"{place}/env") as f:
            env = dict(line.rstrip("\n").split("=", 1) for line in f
                       if "=" in line)
        assert {k: env[k] for k in roots if k in env} == wanted, env
        shutil.rmtree(place)


@test
def root_is_given_up_before_the_first_octet_is_read():
    if os.geteuid() != 0:
        raise Skip("this needs root")
    for options, wanted in (([], "65534 65534"), (["-n"], "0 0")):
        with Session(*options, "--", "sh", "-c", "echo $(id -u) $(id -G)") \
                as s:
            s.start()
            assert s.deliver().split(" ", 2)[2] == wanted


if __name__ == "__main__":
    main()
