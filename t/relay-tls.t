#!/usr/bin/env python3
"""relay-tls.t - TLS and passwords on the way to a next hop."""
import os

from secure import (CLEAR, FILE, PASSWORD, delivered, main, path, received,
                    secrets, tls)
from tap import Listener, Session, test


def smarthost_session(server, *options, host="localhost", scheme="smtp"):
    with Session("--no-received", *options,
                 f"{scheme}:[{host}]:{server.port}") as s:
        s.start()
        reply = s.deliver("Subject: relayed", "", "y")
        _, log = s.finish()
    return reply, log


MUST = ["--relay-tls", "must", "--relay-tls-ca", path("ca.pem")]


@test
def a_smarthost_is_reached_over_tls():
    for options, more, scheme in (
            (["--relay-tls", "may"], [], "smtp"), (MUST, [], "smtp"),
            (["--relay-tls-ca", path("ca.pem")], ["--smtps"], "smtps")):
        with Listener(*tls(), *more, "print:") as server:
            reply, _ = smarthost_session(server, *options, scheme=scheme)
            assert reply[:9] == "250 2.0.0", reply
            assert " with ESMTPS (TLSv1.3 " in received(
                delivered(server, "relayed"))


@test
def a_smarthost_gets_the_password_over_tls():
    for options, more, scheme in (
            (MUST, [], "smtp"),
            (["--relay-tls-ca", path("ca.pem")], ["--smtps"], "smtps")):
        with Listener(*tls(), *FILE, "--auth-required", *more,
                      "print:") as server:
            with open(path("relay-auth"), "w") as f:
                f.write(f"[localhost]:{server.port}  user:{PASSWORD}\n")
            reply, log = smarthost_session(
                server, *options, "--relay-auth", path("relay-auth"), "-d",
                scheme=scheme)
            assert reply[:9] == "250 2.0.0", reply
            theirs = delivered(server, "relayed")
            assert " with ESMTPSA (" in received(theirs)
            for secret in secrets():
                assert secret not in log + theirs, secret


@test
def files_of_passwords_and_routes_may_be_roots_alone():
    def own(name, text):
        with open(path(name), "w", opener=lambda file, flags:
                  os.open(file, flags, 0o600)) as f:
            f.write(text)
        return path(name)

    with open(path("passwords")) as f:
        users = own("own-passwords", f.read())
    with Listener(*tls(), "--auth", f"file:{users}", "--auth-required",
                  "print:") as server:
        place = f"[localhost]:{server.port}"
        with Session("--no-received", *MUST, "--relay-auth",
                     own("own-auth", f"{place} user:{PASSWORD}\n"),
                     "--routes", own("own-routes", f"* smtp:{place}\n"),
                     "error:5.3.0 No route") as s:
            s.start()
            reply = s.deliver("Subject: relayed", "", "y")
            assert reply[:9] == "250 2.0.0", (reply, s.finish()[1])
            s.finish()
        assert " with ESMTPSA (" in received(delivered(server, "relayed"))


@test
def a_password_never_goes_to_a_smarthost_in_the_clear():
    with Listener(*CLEAR, "--auth-required", "-d", "print:") as server:
        with open(path("relay-auth"), "w") as f:
            f.write(f"[localhost]:{server.port}  user:{PASSWORD}\n")
        for options in ([], ["--relay-tls", "may"]):
            reply, _ = smarthost_session(server, *options, "--relay-auth",
                                         path("relay-auth"))
            assert reply == "451 4.7.11 Cannot authenticate to next hop"
        log = server.logged()
        assert "C: AUTH" not in log and "MESSAGE FOLLOWS" not in log, log


@test
def a_smarthost_that_is_not_who_it_should_be_gets_nothing():
    for name, ca, word in (("elsewhere", "ca", "hostname mismatch"),
                           ("ec", "other", "unable to get local issuer")):
        for scheme, more in (("smtp", []), ("smtps", ["--smtps"])):
            with Listener(*tls(name), *more, "print:") as server:
                reply, log = smarthost_session(
                    server, "--relay-tls", "must", "--relay-tls-ca",
                    path(ca + ".pem"), scheme=scheme)
                assert reply == "451 4.7.5 No secure connection to next hop"
                assert word in log, (name, scheme, log)
                assert "MESSAGE FOLLOWS" not in server.logged()


@test
def a_smarthost_without_tls_gets_nothing_if_it_must_have_it():
    with Listener("print:") as server:
        reply, _ = smarthost_session(server, *MUST)
        assert reply[:9] == "451 4.7.4", reply
        reply, _ = smarthost_session(server, "--relay-tls", "may")
        assert reply[:9] == "250 2.0.0", reply
        assert server.logged().count("MESSAGE FOLLOWS") == 1


if __name__ == "__main__":
    main()
