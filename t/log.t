#!/usr/bin/env python3
"""log.t - what the log says of what a client is not told."""
import base64
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tap import Session, folder, main, script, test

PLACE = folder()


def plain(user, password):
    return "AUTH PLAIN " + base64.b64encode(
        f"\0{user}\0{password}".encode()).decode()


def attempt(source, user, password):
    """The reply, and the record of it."""
    with Session("--no-auth-require-tls", "--auth", source, "discard:") as s:
        s.start()
        reply = s.say(plain(user, password))[0]
        _, log = s.finish()
    records = [r for r in log.splitlines() if "event=auth-" in r]
    assert len(records) == 1, log
    assert "secret" not in log and "mallory" not in log, log
    return reply, records[0]


@test
def a_failure_of_AUTH_is_recorded_with_mechanism_source_and_reason():
    made = subprocess.run(["openssl", "passwd", "-6", "secret"], text=True,
                          capture_output=True).stdout.strip()
    users = os.path.join(PLACE, "users")
    with open(users, "w") as f:
        f.write(f"jo:{made}\nann:!\n")
    file = f"file:{users}"
    for user, password, why in (("mallory", "secret", "no such user"),
                                ("jo", "secret2", "wrong password"),
                                ("ann", "secret", "the user is locked")):
        reply, record = attempt(file, user, password)
        assert reply == "535 5.7.8 Authentication credentials invalid", reply
        assert record.endswith(f'text="PLAIN by file: {why}"'), record
    reply, record = attempt(file, "jo", "secret")
    assert reply.startswith("235 "), reply
    assert "user=jo" in record, record
    assert record.endswith('text="PLAIN by file:"'), record


@test
def a_source_that_is_away_is_recorded_as_that():
    reply, record = attempt("file:/no/users", "jo", "secret")
    assert reply.startswith("454 4.7.0 "), reply
    assert record.endswith('text="PLAIN by file: Temporary authentication '
                           'failure"'), record
    no = script(PLACE, "#!/bin/sh\nexit 1\n")
    reply, record = attempt(f"checkpassword:{no}", "jo", "secret")
    assert 'text="PLAIN by checkpassword: ' in record, record


main()
