"""checked.py - what smtpd --check says, for check.t and check-connect.t."""
import os
import subprocess

from tap import SMTPD, folder, lines, write

PLACE = folder()


def wrote(name, text, mode=0o600):
    return write(os.path.join(PLACE, name), text, mode)


def checked(*arguments, how="--check", env=None):
    """Exit status, and the lines by their kind."""
    done = subprocess.run(
        [SMTPD, how, *arguments], stdin=subprocess.DEVNULL, text=True,
        capture_output=True, env={**os.environ, **(env or {})})
    order = ["good", "doubt", "bad"]
    found = [line.split(": ", 1) for line in done.stdout.splitlines()]
    kinds = [kind for kind, _ in found]
    assert kinds == sorted(kinds, key=order.index), done.stdout
    assert (done.returncode == 78) == ("bad" in kinds), done
    assert done.returncode in (0, 78), done
    return done.returncode, {
        k: [text for kind, text in found if kind == k] for k in order}


def talk(*arguments):
    """What a session with a message logs."""
    return subprocess.run(
        [SMTPD, *arguments], capture_output=True, text=True, input=lines(
            "EHLO a", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>",
            "DATA", "Subject: x", "", "x", ".", "QUIT").decode()).stderr


def bad(*arguments, how="--check"):
    """The one bad line."""
    status, found = checked(*arguments, how=how)
    assert status == 78 and len(found["bad"]) == 1, found
    return found["bad"][0]


def hashed():
    return subprocess.run(["openssl", "passwd", "-6", "secret"], text=True,
                          capture_output=True).stdout.strip()
