#!/usr/bin/env python3
"""examples-text.t - the command lines of README and of the manual pages, taken
from their text.

Each that starts smtpd must pass --check, where files that it names stand in a
folder of ours; one whose relay is on this machine also takes a message.
Neither names nor services need to be there: --check=start doubts those only.
What needs a booted machine is in t/systemd: recipes.py and trouble.py.
"""
import glob
import os
import re
import shlex
import subprocess
import sys

from tap import (SMTPD, Listener, Session, certificate, folder, main, script,
                 test)
from text import commands, manual, readme

PLACE = folder()
PAGES = sorted(glob.glob("smtpd.8") + glob.glob("units/*.7") +
               glob.glob("t/tools/*.1") + glob.glob("src/tls/*.8"))
README = readme("README")
# The options that name a file, and what stands in for it.
FILES = {
    "--tlscert": "tls.pem", "--tlskey": "tls.key", "--tls-ca": "tls.pem",
    "--relay-tls-ca": "tls.pem", "--relay-auth": "smarthost",
    "--routes": "routes", "--sender-routes": "routes", "--rules": "rules",
    "--auth-senders": "senders", "--record": "record.smtp",
}


def write(name, text, mode=0o600):
    path = f"{PLACE}/{name}"
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def here(words):
    """The arguments of smtpd, with each file and folder in PLACE."""
    got, before = [], ""
    for word in words:
        at = re.match(r"(file|maildir|print):.*?([^/]+)$", word)
        if before == "--user":
            got.append("nobody")
        elif before == "--" and "--" not in got[:-1]:
            got.append(f"{PLACE}/program")
        elif before in FILES:
            got.append(f"{PLACE}/{FILES[before]}")
        elif at:
            got.append(f"{at[1]}:{PLACE}/{at[2]}")
        else:
            got.append(re.sub("unix:/.*", f"unix:{PLACE}/socket", word))
        before = word
    return got


def words_of(text):
    """The arguments of smtpd in a line; None if it is no command that starts
    smtpd, by itself or as a super-server."""
    if not re.match(r"(?:(?:tcpserver|systemd-socket-activate|smtp stream) .*)?"
                    r"(?:\S*/)?smtpd\s", text):
        return None
    words = []
    for word in shlex.split(text):
        if word in ("|", "<", ">", "&&"):
            break
        words.append(word)
    names = [i for i, w in enumerate(words) if w.rpartition("/")[2] == "smtpd"]
    return here(words[names[-1] + 1:]) if names else None


def settings_of(text):
    """The arguments that lines NAME_OPTIONS="..." and NAME_RELAY="..." of an
    example are, one list for each NAME."""
    found = dict(re.findall(r'^(?:echo \')?(\w+_(?:OPTIONS|RELAY))="([^"]*)"',
                            text, re.M))
    for name in sorted({name.rpartition("_")[0] for name in found}):
        yield here(shlex.split(found.get(f"{name}_OPTIONS", "") + " " +
                               found.get(f"{name}_RELAY", "discard:")))


def examples():
    """(where, arguments of smtpd), in the order of the texts."""
    texts = [("README", README)]
    texts += [(page, manual(page)) for page in PAGES]
    for name, some in texts:
        for heading, text in some:
            where = f"{name}, {heading}"
            for line in commands(text):
                if (words := words_of(line)) is not None:
                    yield where, words
            for words in settings_of(text):
                yield where, words


def is_local(words):
    """Can a message be relayed here, with nothing else running?"""
    relay = next((w for w in words if re.match(r"--$|[a-z]+:", w)), "")
    return re.match(r"--$|print:|discard:|maildir:", relay) and not {
        "--milter", "--policy", "--tls-engine", "--auth-required",
        "--check=connect"} & set(words)


@test
def there_are_examples():
    certificate(PLACE, "tls", "mail.example.org")
    done = subprocess.run(["openssl", "passwd", "-6", "x"], text=True,
                          check=True, capture_output=True)
    write("users", f"jo:{done.stdout}")
    write("smarthost", "* jo:secret\n")
    write("routes", "a@example.org discard:\n")
    write("rules", "".join(
        text for at, text in README if at.startswith("TEST WHAT") and
        text.startswith("RCPT")))
    write("senders", "jo@example.org jo\n")
    script(PLACE, f"cat >{PLACE}/ticket")
    os.mkdir(f"{PLACE}/bin")
    os.symlink(SMTPD, f"{PLACE}/bin/smtpd")
    found = [where for where, _ in examples()]
    for name, least in ("README", 15), ("smtpd.8", 11), \
            ("units/smtpd-recipes.7", 6):
        count = sum(where.startswith(name + ",") for where in found)
        assert count >= least, (name, count)


@test
def every_command_line_is_accepted():
    for where, words in examples():
        if "--version" in words:
            continue
        done = subprocess.run(
            [SMTPD, "--check=start", *[w for w in words if w != "--check"]],
            text=True, cwd=PLACE, stdin=subprocess.DEVNULL, capture_output=True,
            env={**os.environ, "CREDENTIALS_DIRECTORY": PLACE,
                 "RES_OPTIONS": "timeout:1 attempts:1"})
        assert done.returncode == 0, (where, words, done.stdout, done.stderr)


@test
def one_whose_relay_is_here_takes_a_message():
    taken = 0
    for where, words in examples():
        if not is_local(words) or "--rules" in words:
            continue
        with Session(*words, env={"TMPDIR": PLACE}) as s:
            s.start()
            reply = s.deliver("Subject: an example", "", "It works.")
            assert reply.startswith("250 2.0.0 "), (where, words, reply)
            status, logged = s.finish()
        assert status == 0, (where, words, logged)
        taken += 1
    assert taken >= 5, taken
    with open(f"{PLACE}/ticket", encoding="utf-8") as f:
        assert f.read().endswith("It works.\n")


@test
def the_first_message_is_printed():
    send, = [line for at, text in README for line in commands(text)
             if at == "START" and "curl" in line]
    with Listener("print:") as server:
        send = send.replace("8025", str(server.port))
        subprocess.run(["bash", "-o", "pipefail", "-c", send], check=True,
                       stdout=subprocess.DEVNULL)
        logged = server.logged()
    assert "\nSubject: hello\n" in logged and "\nIt works.\n" in logged, logged


@test
def the_rules_of_README_are_obeyed():
    with Session("--rules", f"{PLACE}/rules", "discard:") as s:
        s.start()
        to_full, to_grey = ("RCPT TO:<%s@example.org>" % x
                            for x in ("full", "grey"))
        got = s.say("MAIL FROM:<a@example.org>", to_full, to_grey, to_grey)
        assert [g[:9] for g in got] == [
            "250 2.1.0", "452 4.2.2", "451 4.7.1", "250 2.1.5"], got


@test
def a_session_is_recorded_and_played_again():
    """By the two lines of README, with the server at another place."""
    record, replay = next(
        text.splitlines() for _, text in README if "smtpd-replay" in text)
    with Session(*shlex.split(record)[1:3], "discard:", env={
            "SOURCE_DATE_EPOCH": "1"}, wrap=["env", "-C", PLACE]) as s:
        s.start()
        s.deliver()
        s.finish()
    assert shlex.split(record)[3:] == ["discard:"], record
    with Listener("discard:") as server:
        assert "mail.example.net:25" in replay
        replay = replay.replace("mail.example.net:25",
                                f"127.0.0.1:{server.port}")
        words = shlex.split(replay)
        done = subprocess.run(
            [sys.executable, os.path.abspath(f"t/tools/{words[0]}"),
             *words[1:]], cwd=PLACE, text=True, capture_output=True)
    assert done.returncode == 0, (replay, done.stdout, done.stderr)


@test
def every_target_of_make_is_there():
    with open("Makefile", encoding="utf-8") as f:
        text = f.read()
    with open("t/README", encoding="utf-8") as f:
        said = f.read()
    targets = set(re.findall(r"^([a-z-]+)(?=[ a-z-]*:(?!=))", text, re.M))
    for at, example in README + [("t/README", said)]:
        for words in re.findall(r"(?:^|&& |`)make((?: [a-zA-Z/=_-]+)+)",
                                example, re.M):
            for word in re.sub(r"  .*", "", words).split():
                assert not word.islower() or "/" in word or \
                    word in targets, (at, words)


if __name__ == "__main__":
    main()
