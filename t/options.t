#!/usr/bin/env python3
"""options.t - the command line: what is refused, in one sentence, and what is
taken; --help and --version."""
import os
import re
import shutil
import socket
import subprocess

from tap import (EXAMPLE, HELLO, SMTPD, STATIC, Session, Skip, codes, folder,
                 lines, main, message, run, test, test_if_static,
                 test_unless_static)

USAGE = [
    [], ["print"], ["nosuch:relay"], ["--nosuch", "print:"], ["-s"],
    ["-s", "x", "print:"], ["-s", "-1", "print:"], ["print:", "extra"],
    ["-u", "--decode-data", "print:"], ["--bare-newline", "x", "print:"],
    ["-t", "0", "print:"], ["--"], ["--", "true", "{nosuch}"], ["smtp:"],
    ["lmtp:unix:"], ["error:9.9.9"], ["--tlscert", "x", "print:"],
    ["--smtps", "print:"], ["--require-tls", "print:"],
    ["--user", "no such user", "print:"],
    ["--xclient", "1.2.3", "print:"],
    ["--auth", "nosuch:x", "--no-auth-require-tls", "print:"],
    ["--auth", "file:/x", "print:"], ["--auth-required", "print:"],
    ["--policy", "nosuch:x", "print:"], ["-H", "a b", "print:"],
    ["--relay-tls", "maybe", "print:"], ["--command-limit", "x", "print:"],
    ["-s", "10 ", "print:"], ["-s", "9223372036854775808", "print:"],
    ["-s", "9999999999G", "print:"], ["-t", "2147483648", "print:"],
    ["--xclient", "::1," * 256 + "x", "print:"],
    ["--xclient", "192.0.2.0/33", "print:"], ["--xclient", "::/", "print:"],
    ["--xclient", "::/8x", "print:"], ["--xclient", "::/0008", "print:"],
    ["--xclient", "1" * 60, "print:"], ["-H", "", "print:"],
    ["-H", "x" * 256, "print:"], ["-H", "<x>", "print:"],
    ["-H", "a(b", "print:"], ["-H", "b\u00fcro.example", "print:"],
    ["-H", "mx..example", "print:"], ["-H", "mx.example.", "print:"],
    ["-n", "--user", "nobody", "print:"],
    ["--session-timeout", "0", "print:"], ["--relay-timeout", "0", "print:"],
    ["--policy-timeout", "0", "print:"],
    ["--command-limit", "NOOP=1," * 64 + "1", "print:"],
    ["--command-limit", "X" * 4096 + "=1", "print:"],
    ["--command-limit", "=1", "print:"],
    ["--command-limit", "NOOOP=1", "print:"],
    ["-t", "5x", "print:"], ["-t", "s", "print:"], ["-t", "0h", "print:"],
    ["-t", "99999d", "print:"], ["-t", "1m1", "print:"],
    ["--max-errors", "5m", "print:"], ["-s", "5s", "print:"],
    ["--log-level", "debug", "print:"], ["--log-level", "", "print:"],
    ["print:-"], ["print:/tmp/{user}"], ["maildir:/tmp/{domain}/{user}"],
    ["smtp:10.1"], ["smtp:.mx"], ["lmtp:{domain}"],
]


@test
def a_wrong_command_line_is_one_sentence_and_exit_64():
    for arguments in USAGE:
        if arguments[:1] == ["--user"] and os.geteuid() != 0:
            continue
        done = subprocess.run([SMTPD, *arguments], input=EXAMPLE,
                              capture_output=True)
        said = done.stderr.decode()
        assert done.returncode == 64, (arguments, done.returncode, said)
        assert said.startswith("smtpd: ") and said.count("\n") == 1, said
        assert done.stdout == b"", arguments


@test
def a_wrong_command_line_is_told_where_output_is_joined():
    done = subprocess.run([SMTPD, "nosuch:"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.stdout.startswith(b"smtpd: nosuch:: unknown"), done.stdout


@test
def a_wrong_value_is_answered_with_the_right_ones():
    for arguments, wanted in [
            (["print:", "x"], 'unexpected argument "x" after the relay; '
             "options go before it"),
            (["true"], "put a program after --"),
            (["--log-level", "x", "print:"], "err, warning, notice, info"),
            (["--bare-newline", "x", "print:"], "reject, normalize, unix"),
            (["--relay-tls", "x", "print:"], "none, may, must"),
            (["--check=x", "print:"], '"x" is not one of start, connect\n'),
            (["--size", "99999999999999999999", "print:"], "is too large"),
            (["--tls", "x", "print:"], "ambiguous option --tls"),
            (["-lmtp", "print:"], "unknown option -m,"),
            (["--lmtp=yes", "print:"], "--lmtp takes no argument")]:
        log = run(arguments)[2]
        assert wanted in log, (arguments, log)
    log = run(["print:"], env={**os.environ, "SMTPD_LOG_PRIORITY": "debug"})[2]
    assert log == 'smtpd: SMTPD_LOG_PRIORITY: "debug" is not one of err, ' \
        "warning, notice, info\n", log


@test
def a_message_is_not_printed_to_a_standard_error_that_is_closed():
    for relay in "print:", "show:":
        done = subprocess.run(
            ["sh", "-c", f'exec {SMTPD} {relay} 2>&-'], check=True,
            input=lines(HELLO) + message("x") + lines("QUIT"),
            stdout=subprocess.PIPE)
        assert b"\r\n451 4.3." in done.stdout, done.stdout
        assert b"250 2.0.0" not in done.stdout, done.stdout
        done = subprocess.run(
            ["sh", "-c", f"exec {SMTPD} --check {relay} 2>&-"],
            stdout=subprocess.PIPE, text=True)
        assert done.returncode == 78, done
        assert f"bad: {relay} cannot write to standard error" in done.stdout


@test
def a_message_is_never_printed_to_the_client():
    place = folder()
    os.symlink("/dev/stdout", f"{place}/link")
    for name in ("/dev/stdout", "/dev/stderr", "/dev/stdin", "/dev/fd/1",
                 "/proc/self/fd/1", f"{place}/link"):
        status, output, log = run([f"print:{name}"])
        assert (status, output) == (64, ""), (name, status, output)
        assert f"print:{name}: this is no file" in log, log
    with Session("print:/dev/full") as s:
        s.start()
        s.say("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "DATA")
        s.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert s.reply().startswith("452 4.3.1 ")
    shutil.rmtree(place)


@test
def a_user_that_is_missing_is_refused_whichever_user_starts_smtpd():
    if os.geteuid() != 0:
        raise Skip("root only")
    program = shutil.copy(SMTPD, folder())      # not below root's home
    for who in None, 65534:
        done = subprocess.run([program, "--user", "no such user", "discard:"],
                              input=EXAMPLE, capture_output=True, user=who)
        assert done.returncode == 64 and done.stdout == b"", done
        assert b'there is no user "no such user"' in done.stderr, done


@test
def standard_input_that_is_a_listening_socket_is_an_error():
    """Accept=no, or inetd's "wait": each client would start us again."""
    path = f"{folder()}/socket"
    with socket.create_server(("127.0.0.1", 0)) as tcp, \
            socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        for server in tcp, unix:
            done = subprocess.run([SMTPD, "print:"], stdin=server,
                                  stdout=server, stderr=subprocess.PIPE)
            assert done.returncode == 64, done
            assert b"standard input is a listening socket" in done.stderr, done


# LISTEN_FDS is read by libsystemd.
@test_unless_static
def a_descriptor_that_is_passed_is_a_connected_socket():
    with socket.create_server(("127.0.0.1", 0)) as server, \
            open(os.devnull) as nothing:
        for count, passed, wanted in (
                (1, server, "descriptor 3 is a listening socket"),
                (1, nothing, "descriptor 3 is not a socket"),
                (2, server, "2 descriptors were passed")):
            number = passed.fileno()
            done = subprocess.run(
                ["bash", "-c", f"exec 3<&{number} 4<&{number};"
                 f"LISTEN_PID=$$ LISTEN_FDS={count} exec $0 print:", SMTPD],
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
                pass_fds=[number])
            assert done.returncode == 64, done
            assert wanted in done.stderr, done.stderr


@test_if_static
def a_socket_that_is_passed_to_the_static_program_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.fileno()
        done = subprocess.run(
            ["bash", "-c", f"exec 3<&{number}; LISTEN_PID=$$ LISTEN_FDS=1 "
             "exec $0 print:", SMTPD], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, pass_fds=[number])
    assert done.returncode == 64, done
    assert "no libsystemd" in done.stderr, done.stderr


@test
def tls_is_offered_on_nothing_but_a_socket():
    for option, told, exits in (("--require-tls", "220 250 454 221", 0),
                                ("--smtps", "", 78)):
        status, output, log = run(
            [option, "--tlscert", "t/tap.py", "--tlskey", "t/tap.py",
             "discard:"], lines(HELLO, "STARTTLS", "QUIT"))
        assert codes(output) == told.split(), output
        assert "STARTTLS" not in output and status == exits, (status, output)
        assert "event=config-error" in log and "socket" in log, log


@test
def a_size_may_be_as_large_as_a_disk():
    for size, octets in (("9223372036854775807", 9223372036854775807),
                         ("4g", 4 << 30), ("1K", 1024), ("0", 0)):
        with Session("-s", size, "discard:") as s:
            assert f"250-SIZE {octets}\n" in s.start()


@test
def a_time_may_have_a_unit():
    for value in ("1s", "1m", "1h", "1d", "1"):
        for option in ("-t", "--session-timeout", "--relay-timeout",
                       "--policy-timeout"):
            status, output, log = run([option, value, "discard:"])
            assert status == 0 and codes(output)[-1] == "221", log


@test
def help_shows_the_defaults_that_hold():
    helped = subprocess.run([SMTPD, "-h"], capture_output=True, text=True)
    wanted = dict(re.findall(r"--([\w-]+) \S+ .*\((\w+)\)$", helped.stdout,
                             re.M))
    assert wanted["size"] == "32M" and wanted["max-errors"] == "20", wanted
    for line in helped.stdout.splitlines():     # none runs into the next one
        assert len(line) <= 80, line
    with Session("discard:") as s:
        assert f"250-SIZE {32 << 20}\n" in s.start()
        got = s.say(*["PING"] * 21)
        assert [r[:3] for r in got] == ["500"] * 20 + ["421"], got


@test
def help_and_version_are_said_on_standard_output():
    helped = subprocess.run([SMTPD, "-h"], capture_output=True)
    version = subprocess.run([SMTPD, "-V"], capture_output=True)
    assert helped.returncode == version.returncode == 0
    assert helped.stdout.startswith(b"usage: smtpd ")
    assert b"--bare-newline" in helped.stdout and helped.stderr == b""
    build = b", static" if STATIC else b""
    assert re.fullmatch(rb"smtpd \d+\.\d+%s\n" % build, version.stdout)


if __name__ == "__main__":
    main()
