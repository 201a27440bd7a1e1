#!/usr/bin/env python3
"""check.t - smtpd --check: what a session would lack, a line for each thing,
the worst last; exit status 0 or 78."""
import os
import shutil
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from checked import PLACE, bad, checked, hashed, talk, wrote
from tap import (
    SMTPD, Skip, certificate, is_static, main, need, test, write)


@test
def what_is_whole_is_good():
    box = f"{PLACE}/box"
    for relay in (["discard:"], ["print:"], [f"print:{PLACE}/log"],
                  [f"maildir:{box}"], ["--", "/bin/cat"], ["--", "cat"]):
        status, found = checked(*relay)
        assert status == 0 and found["good"], found
    assert os.path.isdir(f"{box}/new")


@test
def a_relay_that_refuses_everything_is_doubted():
    closed = "error:4.3.5 Closed"
    status, found = checked(closed)
    assert status == 0, found
    assert found["doubt"][-1] == f"{closed}: this is the reply to all mail", \
        found
    routes = wrote("some", "a@example.org discard:\n")
    assert closed in checked("--routes", routes, closed)[1]["good"]


@test
def folders_files_and_programs_that_cannot_be_used_are_named():
    assert bad(f"maildir:{PLACE}/no/box") == \
        f"maildir:{PLACE}/no/box: No such file or directory; only the last " \
        "folder of a path is made"
    assert bad(f"print:{PLACE}/no/log") == \
        f"print:{PLACE}/no/log: No such file or directory"
    assert bad("--", "/no/program") == \
        "the program /no/program: No such file or directory"
    status, found = checked("--", "no-such-program-here",
                            env={"PATH": "/usr/bin:/bin"})
    assert found["bad"] == ["the program no-such-program-here: "
                            "No such file or directory"], found
    plain = wrote("plain", "no program\n")
    assert bad("--", plain) == f"the program {plain}: Permission denied"
    assert bad("--milter", "inet:127.0.0.1:9", "--quarantine",
               f"maildir:{PLACE}/plain/box", "discard:") == \
        f"maildir:{PLACE}/plain/box: Not a directory"
    wrong = os.environ.get("TMPDIR", "/tmp") + "/nowhere/at/all"
    status, found = checked("discard:", env={"TMPDIR": wrong})
    assert status == 78 and wrong in found["bad"][0], found


@test
def a_full_file_system_is_named():
    if os.geteuid() != 0:
        raise Skip("not root")
    full = f"{PLACE}/full"
    os.mkdir(full)
    script = f"""mount -t tmpfs -o size=8k,mode=777 none {full} || exit 99
        : >{full}/log && chmod 666 {full}/log
        dd if=/dev/zero of={full}/x bs=4k count=2 status=none
        for how in --check --check=start; do
            TMPDIR={full} "$@" $how print:{full}/log; echo $?
        done"""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", SMTPD],
                          capture_output=True, text=True)
    if done.returncode == 99:
        raise Skip("no file system can be mounted")
    now, then = done.stdout.split("78\n")
    said = [f"{what}: No space left on device" for what in (
        f"{full}, for messages above 1 MiB", f"print:{full}/log")]
    for one in said:
        assert f"bad: {one}\n" in now, done
        assert f"doubt: {one}\n" in then and then.endswith("0\n"), done


@test
def a_script_without_its_interpreter_is_named_with_it():
    for text, why in (
            ("#!/no/such/sh\n", "its interpreter /no/such/sh: No such file or "
             "directory"),
            ("#! /etc/passwd -x\n", "its interpreter /etc/passwd: Permission "
             "denied"),
            ("#!/bin/sh\r\ncat\r\n", "its first line ends in CR LF"),
            ("#!sh\n", "its interpreter sh: No such file or directory")):
        program = wrote("script", text, 0o755)
        assert bad("--", program) == f"the program {program}: {why}"
        logged = talk("--", program)
        assert f'{program}: {why}"' in logged, logged
    assert "its interpreter no-such-program: " in bad("--", wrote(
        "script", "#!/usr/bin/env no-such-program\n", 0o755))
    kinds = "/proc/sys/fs/binfmt_misc"
    others = os.path.exists(kinds) and \
        set(os.listdir(kinds)) - {"register", "status"}
    for text in "", "cat >/dev/null\n":
        program = wrote("script", text, 0o755)
        if not others:
            assert bad("--", program) == f"the program {program}: Exec " \
                "format error: it begins neither with #! nor as an ELF file"
    for text in ("#!/bin/sh", "#! /bin/sh -e\n", "#!/usr/bin/env sh\n",
                 "#!/usr/bin/env -S sh -e\n", "#!/usr/bin/env A=b sh\n"):
        assert checked("--", wrote("script", text, 0o755))[0] == 0, text
    if os.geteuid() == 0:       # it may only be executed
        assert checked("--", wrote("script", "", 0o711))[0] == 0


@test
def a_program_that_is_missing_is_told_from_one_that_is_forbidden():
    hidden = f"{PLACE}/hidden"      # as /root/bin is, started as root
    os.mkdir(hidden, 0)
    wrote("forbidden", "", 0o644)
    nowhere = "Permission denied: not in a folder of PATH that may be entered"
    for name, path, why in (
            ("missing", PLACE, "No such file or directory"),
            ("missing", f"{hidden}:{PLACE}", nowhere),
            ("missing", f"{PLACE}:{hidden}", nowhere),
            ("forbidden", f"{hidden}:{PLACE}", "Permission denied"),
            ("forbidden", f"{PLACE}:{hidden}", "Permission denied")):
        found = checked("--", name, env={"PATH": path})[1]
        assert found["bad"] == [f"the program {name}: {why}"], (path, found)


@test
def routes_are_read_with_every_place_that_they_lead_to():
    routes = wrote("routes", "a@example.org discard:\n"
                   f"b@example.org maildir:{PLACE}/gone/box\n")
    assert bad("--routes", routes, "discard:").startswith(
        f"maildir:{PLACE}/gone/box: No such file or directory;")
    routes = wrote("routes", "a@example.org nothing:\n")
    got = bad("--routes", routes, "discard:")
    assert routes in got and "1" in got, got
    assert "/no/routes" in bad("--routes", "/no/routes", "discard:")


@test
def the_file_of_domains_is_read():
    assert "line 2" in bad("--relay-domains", wrote(
        "domains", "example.org\nnot a domain\n"), "discard:")
    assert "/no/domains" in bad("--relay-domains", "/no/domains", "discard:")


@test
def users_and_their_hashes_are_read_by_line():
    def users(text):
        return ("--no-auth-require-tls", "--auth",
                f"file:{wrote('users', text)}", "discard:")
    made = subprocess.run(["openssl", "passwd", "-6", "secret"], text=True,
                          capture_output=True).stdout.strip()
    status, found = checked(*users(f"# us\n\njo:{made}\nann:!\n"))
    assert status == 0, found
    assert any(line.endswith("users: 1 user can log in")
               for line in found["good"]), found
    status, found = checked(*users(f"jo:secret\nann:{made}\nnobody\n"))
    # A hash that crypt(3) does not know is logged, too, by the static program.
    found["bad"] = [line for line in found["bad"]
                    if "does not support this hash" not in line]
    assert status == 78 and len(found["bad"]) == 2, found
    assert "users: line 1: not a hash" in found["bad"][0], found
    assert "users: line 3: not USER:HASH" in found["bad"][1], found
    status, found = checked(*users(f"\ufeffjo:{made}\n jo:{made}\n"
                                   f"jo :{made}\nkim:{made}\n"))
    assert status == 78 and [line.partition("users: ")[2]
                             for line in found["bad"]] == [
        "line 1: the file begins with a byte order mark",
        "line 2: a blank is part of the user's name",
        "line 3: a blank is part of the user's name"], found
    # One hash of each form is tried, and none that takes for ever.
    status, found = checked(*users("".join(
        f"u{i}:{made}\n" for i in range(20000)) + f"kim:{made[:-1]}\n"
        f"lee:$6$rounds=999999999$x${made[-86:]}\n"))
    assert status == 78 and [line.partition("users: ")[2]
                             for line in found["bad"]] == [
        "line 20001: not a hash of crypt(3), as openssl passwd -6 makes one",
        "line 20002: a hash that takes too long"], found
    assert "no user who could log in" in bad(*users("# none\n"))
    assert "/no/users: No such file" in bad(
        "--no-auth-require-tls", "--auth", "file:/no/users", "discard:")
    assert "/no/checker" in bad("--no-auth-require-tls", "--auth",
                                "checkpassword:/no/checker", "discard:")
    assert "secret" not in str(found)


@test
def users_who_are_written_so_that_they_cannot_log_in_are_named():
    def found(text):
        status, seen = checked("--no-auth-require-tls", "--auth",
                               f"file:{wrote('users', text)}", "discard:")
        # The static program logs the first, too.
        seen["bad"] = [line for line in seen["bad"]
                       if "does not support this hash" not in line]
        return status, seen
    one, other = hashed(), hashed()
    status, seen = found(f"jo:{one}\nann:!\njo:{other}\nann:{one}\n")
    assert status == 0 and seen["doubt"] == [
        f"{PLACE}/users: line 3: line 1 counts for jo, and not this one; "
        "there are more such lines"], seen
    status, seen = found(f"jo: {one}\nann:{one} \nkim:{one}\n")
    assert status == 78 and seen["bad"] == [
        f"{PLACE}/users: line {n}: a blank is part of the hash"
        for n in (1, 2)], seen
    # That another hash was tried does not make every line one.
    for made in [one[:-1], *([] if is_static(SMTPD) else [one[:-1] + "!"])]:
        status, seen = found(f"jo:{one}\nann:{made}\n")
        assert status == 78 and "line 2: not a hash" in seen["bad"][0], seen


@test
def a_file_of_many_users_is_read_in_time():
    hard = "$6$rounds=300000$saltsaltsaltsalt$" + "x" * 86
    file = wrote("users", "".join(f"u{i}:{hard}\n" for i in range(500)))
    status, found = checked("--no-auth-require-tls", "--auth", f"file:{file}",
                            "discard:")
    assert status == 0 and f"{file}: 500 users can log in" in found["good"], \
        found


@test
def secrets_that_everybody_can_read_are_doubted():
    users = f"jo:{hashed()}\n"
    arguments = ("--no-auth-require-tls", "--auth",
                 f"file:{wrote('users', users, 0o644)}", "--relay-tls", "must",
                 "--relay-auth", wrote("secrets", "* jo:x\n", 0o604),
                 "smtp:[127.0.0.1]:9")
    status, found = checked(*arguments)
    assert status == 0 and sorted(found["doubt"]) == [
        f"every user of this host can read {PLACE}/{file}: chmod o= "
        f"{PLACE}/{file}" for file in ("secrets", "users")], found
    for file in "secrets", "users":
        os.chmod(f"{PLACE}/{file}", 0o640)
    assert checked(*arguments)[1]["doubt"] == []
    need("openssl")
    certificate(PLACE, "open", "mx.example.org")
    pair = ("--tlscert", f"{PLACE}/open.pem", "--tlskey", f"{PLACE}/open.key")
    os.chmod(f"{PLACE}/open.key", 0o644)
    assert f"chmod o= {PLACE}/open.key" in str(checked(*pair, "discard:"))
    os.chmod(f"{PLACE}/open.key", 0o600)
    assert "chmod" not in str(checked(*pair, "discard:"))


@test
def the_last_source_of_users_is_the_only_one():
    path = f"{PLACE}/dovecot"
    done, found = checked("--no-auth-require-tls", "--auth", "file:/no/users",
                          "--auth", f"dovecot:{path}", "discard:")
    assert done == 78 and path in str(found), found
    assert "/no/users" not in str(found), found
    status, found = checked(
        "--no-auth-require-tls", "--auth", f"dovecot:{path}", "--auth",
        f"checkpassword:{os.path.realpath('/bin/true')}", "discard:")
    assert status == 0 and path not in str(found), found


@test
def certificate_and_key_must_be_there_and_match():
    need("openssl")
    certificate(PLACE, "one", "mx.example.org")
    certificate(PLACE, "two", "mx.example.org")

    def read(name):
        with open(f"{PLACE}/{name}") as f:
            return f.read()

    def pair(cert, key):
        return ("--tlscert", f"{PLACE}/{cert}", "--tlskey", f"{PLACE}/{key}",
                "discard:")
    status, found = checked(*pair("one.pem", "one.key"))
    assert status == 0, found
    assert any("mx.example.org" in line and "expires" in line
               for line in found["doubt"]), found
    assert bad(*pair("one.pem", "two.key")).endswith(
        f"does not match the certificate {PLACE}/one.pem")
    wrote("turned.pem", read("two.pem") + read("one.pem"))
    assert bad(*pair("turned.pem", "one.key")).endswith(
        f"does not match the certificate {PLACE}/turned.pem, but one after "
        "it: the server's own must be the first")
    assert "not an unencrypted private key" in bad(*pair("one.pem",
                                                         "one.pem"))
    assert "is not one in PEM form" in bad(*pair("one.key", "one.key"))
    assert f"{PLACE}/none.key: No such file" in bad(*pair("one.pem",
                                                          "none.key"))
    both = open(f"{PLACE}/one.pem").read() + open(f"{PLACE}/two.pem").read()
    wrote("both.pem", both)
    # Both call themselves mx.example.org, so the names fit; the keys do not.
    assert bad(*pair("both.pem", "one.key")) == \
        'certificate of "mx.example.org": the certificates after it are not ' \
        "its chain"


@test
def smtpd_tls_may_be_where_the_user_cannot_enter():
    need("openssl")
    if os.geteuid() != 0:
        raise Skip("not root")
    certificate(PLACE, "one", "mx.example.org")
    private = os.path.join(PLACE, "private")
    os.mkdir(private, 0o700)
    for program in (SMTPD, SMTPD + "-tls"):
        shutil.copy(program, private)
    done = subprocess.run(
        [f"{private}/{os.path.basename(SMTPD)}", "--check",
         "--tlscert", f"{PLACE}/one.pem", "--tlskey", f"{PLACE}/one.key",
         "discard:"], stdin=subprocess.DEVNULL, text=True,
        capture_output=True)
    assert done.returncode == 0 and "mx.example.org" in done.stdout, done
    shutil.rmtree(private)


@test
def an_engine_that_dies_without_a_word_is_bad():
    need("openssl")
    certificate(PLACE, "one", "mx.example.org")
    other = os.path.join(PLACE, "other")
    os.mkdir(other)
    os.chmod(other, 0o755)
    program = shutil.copy(SMTPD, f"{other}/smtpd")
    write(f"{other}/smtpd-tls", "#!/bin/sh\nkill -9 $$\n", 0o755)
    done = subprocess.run(
        [program, "--check", "--tlscert", f"{PLACE}/one.pem", "--tlskey",
         f"{PLACE}/one.key", "discard:"], stdin=subprocess.DEVNULL,
        text=True, capture_output=True)
    assert done.returncode == 78, done
    assert f"bad: {other}/smtpd-tls: killed by signal 9\n" in done.stdout, done
    shutil.rmtree(other)


@test
def a_certificate_that_clients_may_refuse_is_bad_but_at_start_opens_the_port():
    need("openssl", "faketime")
    certificate(PLACE, "old", "old.example", wrap=("faketime", "2020-01-01"))
    certificate(PLACE, "new", "new.example", wrap=("faketime", "2120-01-01"))
    certificate(PLACE, "one", "mx.example.org")
    with open(f"{PLACE}/one.pem") as one, open(f"{PLACE}/old.pem") as old:
        wrote("gap.pem", one.read() + old.read())
    shutil.copy(f"{PLACE}/one.key", f"{PLACE}/gap.key")
    for name, said in (
            ("old", 'certificate of "old.example" expired on 2020-01-03'),
            ("new", 'certificate of "new.example" is not valid yet; is the '
             "clock right?"),
            ("gap", 'certificate of "mx.example.org": the certificates after '
             "it are not its chain")):
        pair = ("--tlscert", f"{PLACE}/{name}.pem", "--tlskey",
                f"{PLACE}/{name}.key", "discard:")
        assert bad(*pair) == said
        status, found = checked(*pair, how="--check=start")
        assert status == 0 and said in found["doubt"], found


@test
def a_password_that_never_goes_out_is_bad():
    secrets = wrote("secrets", "[127.0.0.1]:9 jo:secret\nunix:/no jo:x\n")
    assert bad("--relay-auth", secrets, "smtp:[127.0.0.1]:9") == \
        "smtp:[127.0.0.1]:9: no password goes out without TLS: " \
        "see --relay-tls"
    for relay in (["--relay-tls", "may", "smtp:[127.0.0.1]:9"],
                  ["--relay-tls-fingerprint", "0" * 64, "smtp:[127.0.0.1]:9"],
                  ["smtps:[127.0.0.1]:9"]):
        assert checked("--relay-auth", secrets, *relay)[0] == 0, relay


@test
def credentials_must_have_a_line_for_the_relay():
    text = "[mail.example.net] jo:secret\n\n# ours\n" \
        "[127.0.0.1]:9 ann:secret\n" \
        "[127.0.0.3]:9 kim oauth2 /bin/echo x\n" \
        "[127.0.0.4]:9 kim command /bin/echo x\n"
    file = wrote("credentials", text)

    def line(*relay):
        status, found = checked("--relay-tls", "may", "--relay-auth", file,
                                *relay)
        assert "secret" not in str(found), found
        return status, [text.removeprefix(f"--relay-auth {file} has ")
                        for kind in ("good", "doubt") for text in found[kind]
                        if "a line for" in text or "no line for" in text]

    for host, way in (
            ("smtp:mail.example.net:25", "line 1, user jo, a password"),
            ("smtp:[127.0.0.1]:9", "line 4, user ann, a password"),
            ("smtp:[127.0.0.3]:9", "line 5, user kim, a token of /bin/echo"),
            ("smtp:[127.0.0.4]:9",
             "line 6, user kim, a password of /bin/echo")):
        assert line(host)[1] == [f"a line for {host}: {way}"], line(host)
    assert line("smtp:[127.0.0.1]:10") == (0, [
        "no line for smtp:[127.0.0.1]:10: it gets no password"])
    assert line("smtp:[127.0.0.1]:10,[127.0.0.1]:9")[1] == [
        "a line for smtp:[127.0.0.1]:9: line 4, user ann, a password",
        "no line for smtp:[127.0.0.1]:10: it gets no password"]
    theirs = "a line for @example.org at smtp:[127.0.0.1]:10: line {}, user " \
        "them, a password"
    wrote("credentials", text + "* us:secret\n@example.org them:secret\n")
    assert line("smtp:[127.0.0.1]:10")[1] == [
        theirs.format(8),
        "a line for smtp:[127.0.0.1]:10: line 7, user us, a password"]
    wrote("credentials", "@example.org them:secret\n")
    assert line("smtp:[127.0.0.1]:10")[1] == [
        theirs.format(1), "no line for smtp:[127.0.0.1]:10: it gets no "
        "password with mail of other senders than the file's"]
    for relay in "smtp:[127.0.0.1]:9", "error:4.3.5 Closed", "discard:":
        assert "/no/file" in bad("--relay-auth", "/no/file", relay), relay


@test
def faulty_credentials_are_named_with_their_lines():
    file = wrote("credentials", "\ufeff* jo:secret\n"
                 "[127.0.0.1]:9 ann:secret\n"
                 "[127.0.0.2]:9 secret\n"
                 "\n"
                 "@example.org kim oauth2 token secret\n"
                 "  @example.net kim:secret\n"
                 "kim@example.com kim oauth2 /no/token secret\n"
                 "jo@example.com kim command\t/bin/cat secret\n"
                 "smtp:[mail.example.net]:25 jo:secret\n"
                 "<jo@example.com> jo:secret\n"
                 "jo@ jo:secret\n"
                 "*@example.org jo:secret\n"
                 "jo@example..org jo:secret\n"
                 f"{'x' * 320} jo:secret\n")
    form = "not KEY USER:PASSWORD, KEY USER oauth2 PROGRAM or KEY USER " \
        "command PROGRAM"
    faulty = [f"--relay-auth {file}: line {text}" for text in (
        f"3: {form}", "5: after oauth2 or command the absolute path of a "
        "program must follow")] + [
            "the program /no/token: No such file or directory"]
    useless = [f"--relay-auth {file}: line {n} is never used: {why}"
               for n, why in (
        (1, "the file begins with a byte order mark"),
        (6, "it begins with a blank"),
        (9, "the key is neither a sender nor a next hop, as "
            "[mail.example.net]:465"),
        (10, "the key is an address in <>: it must be without"),
        (11, "the key has no domain after @"),
        (12, "a domain is written @example.org"),
        (13, "what follows @ is no domain"),
        (14, "the key is too long, or has a NUL"))]
    for relay in ("smtp:[127.0.0.1]:9", "smtp:[127.0.0.2]:9,[127.0.0.1]:9"):
        status, found = checked("--relay-tls", "must", "--relay-auth", file,
                                relay)
        assert status == 78 and sorted(found["bad"]) == sorted(
            faulty), found
        assert [d for d in found["doubt"] if "line" in d] == useless, found
        assert "the program /bin/cat can be executed" in found["good"], found
        assert "secret" not in str(found), found


@test
def routes_of_senders_are_read_with_their_lines():
    box = f"{PLACE}/senders.box"
    senders = wrote("senders", f"jo@example.com maildir:{box}\n\n"
                    "example.net discard:\n")
    status, found = checked("--sender-routes", senders, "print:")
    assert status == 0, found
    assert f"--sender-routes {senders} leads to 2 relays" in found["good"]
    routes = wrote("routes", "example.org discard:\n")
    status, found = checked("--routes", routes, "--sender-routes", senders,
                            "print:")
    assert f"--routes {routes} and --sender-routes {senders} lead to 2 " \
        "relays" in found["good"], found
    wrote("senders", "jo@example.com discard:\n\nkim@ discard:\n"
          "<ann@example.com> discard:\nex.example.net nothing:\n")
    status, found = checked("--sender-routes", senders, "print:")
    assert status == 78, found
    assert [text.split(": ")[:2] for text in found["bad"]] == [
        [senders, f"line {n}"] for n in (3, 4, 5)], found
    wrote("routes", "example.org discard:\nexample.com\n")
    status, found = checked("--routes", routes, "--sender-routes", senders,
                            "print:")
    assert [text.split(": ")[:2] for text in found["bad"]] == [
        [routes, "line 2"],
        *[[senders, f"line {n}"] for n in (3, 4, 5)]], found


@test
def a_key_that_stands_twice_is_doubted():
    text = "jo@example.org {}\n*\t{}\nJO@example.org {}\n* {}\n"
    twins = wrote("twins", text.replace("{}", "discard:"))
    accounts = wrote("accounts", text.replace("{}", "us@example.org"))
    secrets = wrote("secrets", text.replace("{}", "us:secret"))
    logins = wrote("logins", text.replace("{}", "jo"))
    users = wrote("users", f"jo:{hashed()}\n")
    line = "{}: line 3: line 1 counts for {}, and not this one; " \
        "there are more such lines"
    for option in "--routes", "--sender-routes":
        status, found = checked(option, twins, "discard:")
        assert status == 0 and found["doubt"] == [
            line.format(twins, "JO@example.org")], found
    status, found = checked("--from", accounts, "discard:")
    assert status == 0 and found["doubt"] == [
        line.format(accounts, "JO@example.org")], found
    status, found = checked(
        "--auth-senders", logins, "--no-auth-require-tls", "--auth",
        f"file:{users}", "discard:")
    assert status == 0 and found["doubt"] == [
        line.format(logins, "JO@example.org")], found
    status, found = checked("--relay-auth", secrets, "smtps:[127.0.0.1]:9")
    assert status == 0 and sorted(found["doubt"]) == [
        f"--relay-auth {secrets}: line {n + 2}: line {n} counts for {key}, "
        "and not this one" for n, key in ((1, "JO@example.org"), (2, "*"))]


@test
def the_CAs_for_next_hops_are_looked_at():
    need("openssl")
    certificate(PLACE, "ca", "ca.example.org")
    hop = "smtp:[127.0.0.1]:9"
    status, found = checked("--relay-tls-ca", f"{PLACE}/ca.pem", hop)
    assert status == 0, found
    assert bad("--relay-tls-ca", "/no/ca", hop) == \
        "--relay-tls-ca /no/ca: No such file or directory"
    assert "no certificate in PEM form" in bad(
        "--relay-tls-ca", wrote("noca", "hello\n", 0o644), hop)


@test
def a_system_without_CAs_is_bad_where_next_hops_are_verified():
    none = {"SSL_CERT_FILE": "/no/ca-file"}
    said = "smtpd-tls: cannot read the CA certificates /no/ca-file: No such " \
        "file or directory"
    for arguments, wanted in (
            (["smtps:[127.0.0.1]:9"], [said]),
            (["--relay-tls", "must", "smtp:[127.0.0.1]:9"], [said]),
            (["--relay-tls", "must", "lmtp:unix:/no/socket"],
             ["lmtp:unix:/no/socket: No such file or directory"]),
            (["--relay-tls", "may", "smtp:[127.0.0.1]:9"], []),
            (["--relay-tls-fingerprint", "0" * 64, "smtps:[127.0.0.1]:9"], []),
            (["--relay-tls-ca", wrote("ours.pem", "-----BEGIN x\n", 0o644),
              "smtps:[127.0.0.1]:9"], [])):
        assert checked(*arguments, env=none)[1]["bad"] == wanted, arguments


@test
def a_relay_that_is_written_wrongly_is_told_how():
    for relay, told in (
            ("lmtp:/run/x", "lmtp:/run/x: a socket is written "
             "lmtp:unix:/run/x"),
            ("smtp:/run/x", "smtp:/run/x: a socket is written "
             "smtp:unix:/run/x"),
            ("smtp://host:25", "smtp://host:25 is not smtp:HOST:PORT or "
             "smtp:unix:PATH"),
            ("smtps:mail.example.net:465:3",
             "smtps:mail.example.net:465:3 is not smtps:HOST:PORT"),
            ("smtp:[mail.example.net:25]",
             "smtp:[mail.example.net:25] is not smtp:HOST:PORT or "
             "smtp:unix:PATH"),
            ("lmtp:host:25,host:0", "lmtp:host:0 is not lmtp:HOST:PORT or "
             "lmtp:unix:PATH"),
            ("foo:x", "foo:x: unknown transport; it must be one of"),
            ("discard:x", "discard:x: nothing may follow discard:"),
            ("discard", '"discard" is not TRANSPORT:NEXTHOP; put a program '
             "after --")):
        done = subprocess.run([SMTPD, "--check", relay], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
        assert done.returncode == 64 and done.stdout == "", done
        assert done.stderr.startswith(f"smtpd: {told}"), done.stderr
    for relay in ("smtp:[::1]:25", "smtp:::1", "smtp:[127.0.0.1]"):
        assert checked(relay)[0] == 0, relay
    for option, told in (
            ("--timeout=5q", '--timeout: "5q" is not a number of seconds, such '
             "as 90, 5m or 1h"),
            ("--size=5Z", '--size: "5Z" is not a number of octets, such as '
             "1000000 or 32M"),
            ("--size=9000000000G", '--size: "9000000000G" is too large')):
        done = subprocess.run([SMTPD, option, "discard:"], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
        assert done.returncode == 64, done
        assert done.stderr.startswith(f"smtpd: {told}"), done.stderr


@test
def under_systemd_lines_have_the_priority_that_the_journal_reads():
    read, write = os.pipe()
    at = os.fstat(write)
    done = subprocess.run(
        [SMTPD, "--check=start", f"lmtp:unix:{PLACE}/later2"], text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=write,
        env={**os.environ, "JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"})
    os.close(read)
    os.close(write)
    assert done.returncode == 0, done
    for line in done.stdout.splitlines():
        assert line.startswith(("<6>good: ", "<4>doubt: ")), done.stdout
    assert f"<4>doubt: lmtp:unix:{PLACE}/later2: " in done.stdout, done.stdout


@test
def a_wrong_command_line_is_a_line_in_the_journal():
    near, far = socket.socketpair()     # systemd's: output and error in one
    with near, far:
        at = os.fstat(far.fileno())
        done = subprocess.run(
            [SMTPD, "--check=start", "--no-such-option", "discard:"],
            stdin=subprocess.DEVNULL, stdout=far, stderr=far,
            env={**os.environ, "JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"})
        far.close()
        said = near.makefile().read()
    assert done.returncode == 64, done
    assert said == ("<3>smtpd: unknown or ambiguous option --no-such-option, "
                    "try smtpd --help\n"), said


@test
def it_looks_as_the_user_that_a_session_would_be():
    if os.geteuid() != 0:
        raise Skip("not root")
    box = os.path.join(PLACE, "roots")
    os.mkdir(box, 0o700)
    assert bad(f"maildir:{box}/in") == f"maildir:{box}/in: Permission denied"
    assert checked("-n", f"maildir:{box}/in")[0] == 0
    status, found = checked("discard:")
    assert "sessions run as nobody" in found["good"], found
    shutil.rmtree(box)


@test
def a_socket_unit_may_have_groups_as_its_service_has():
    need("setpriv")
    if os.geteuid() != 0:
        raise Skip("not root")
    path = f"{PLACE}/filter"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        os.chown(path, 0, 54321)
        os.chmod(path, 0o770)
        s.listen()

        def said(how):
            return subprocess.run(
                ["setpriv", "--groups", "54321", SMTPD, how, "--user",
                 "nobody", "--milter", f"unix:{path}", "discard:"],
                capture_output=True, text=True).stdout
        assert f"good: milter unix:{path} can be connected to" in said(
            "--check=start")
        assert f"bad: milter unix:{path}: Permission denied" in said("--check")


@test
def a_wrong_command_line_is_64_and_serves_nobody():
    for arguments in (["--szie", "1", "discard:"], ["discard"],
                      ["--check=none", "discard:"]):
        done = subprocess.run([SMTPD, "--check", *arguments], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True)
        assert done.returncode == 64 and done.stdout == "", done
        assert done.stderr.startswith("smtpd: "), done



os.chmod(PLACE, 0o777)     # for nobody
main()
