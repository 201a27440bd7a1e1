#!/usr/bin/env python3
"""accounts.t - what --check says of the accounts of --relay-auth: which is for
whose mail, and whether the next hop accepts it."""
import os
import subprocess

from fakes.provider import Provider
from tap import SMTPD, folder, main, script, test

PLACE = folder()
TOKENS = {"jo@example.com": "ya29.jo", "kim@example.net": "ya29.kim"}


def wrote(name, text):
    path = os.path.join(PLACE, name)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o600)
    return path


def token(user, value=None):
    return script(PLACE, f"echo {user} >>{PLACE}/ran; "
                  f"echo {value or TOKENS[user]}", "token-" + user)


def provider(name, mechanisms="XOAUTH2", **more):
    return Provider(os.path.join(PLACE, name), mechanisms, tokens=TOKENS,
                    **more)


def checked(how, credentials, *arguments):
    """What is said of credentials and next hops, as "kind: text"."""
    wrote("ran", "")
    done = subprocess.run(
        [SMTPD, f"--check={how}", "--nosetuid", "--relay-auth",
         wrote("credentials", credentials), *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == (78 if "\nbad: " in f"\n{done.stdout}" else 0), \
        done
    for secret in ("secret", *TOKENS.values()):
        assert secret not in done.stdout, done.stdout
    lines = done.stdout.replace(f"--relay-auth {PLACE}/credentials has ", "")
    return [line for line in lines.splitlines()
            if PLACE in line and "the program" not in line and
            "-routes" not in line and "--from" not in line]


def told(lines, *wanted):
    for text in wanted:
        assert text in lines, (text, lines)
    assert len(lines) == len(wanted), (lines, wanted)


def ran():
    with open(f"{PLACE}/ran") as f:
        return sorted(f.read().split())


@test
def connect_logs_in_with_a_token_and_says_as_whom():
    jo = "jo@example.com"
    with provider("hop") as hop:
        row = f"* {jo} oauth2 {token(jo)}\n"
        told(checked("connect", row, hop.relay()),
             f"good: a line for {hop.relay()}: line 1, user {jo}, a token of "
             f"{PLACE}/token-{jo}",
             f"good: {hop.relay()}: {hop.path} answers, and accepts user {jo}")
        assert hop.logins == [(1, "XOAUTH2", jo)] and ran() == [jo]
        assert hop.commands[-1] == (1, "QUIT"), hop.commands
        # One that is stale, and one that cannot be had.
        for name, value, why in (
                (jo, "stale", "AUTH: refused with 535 5.7.8, status 400"),
                ("nobody", "''", "its first line of output is empty")):
            lines = checked("connect", f"* {name} oauth2 "
                            f"{token(name, value)}\n", hop.relay())
            assert lines[-1].startswith(f"bad: {hop.relay()}: {hop.path}: "
                                        "451 4.7."), lines
            assert lines[-1].endswith(why), (why, lines)
        assert len(hop.logins) == 1
    # Without a line the hop says that it wants a password.
    with provider("hop") as hop:
        why = "5.7.57 Client not authenticated to send mail"
        told(checked("connect", "kim@example.com kim:secret\n", "--from", jo,
                     hop.relay()),
             f"bad: {hop.relay()}: {hop.path}: MAIL FROM:<{jo}>: 451 4{why[1:]}"
             f"; {hop.path}: MAIL: 530 {why}; see --relay-auth and --relay-tls",
             f"doubt: no line for {jo} at {hop.relay()}: it gets no password",
             f"doubt: {hop.path}: AUTH: {PLACE}/credentials"
             f" has no line for unix:{hop.path}")


@test
def connect_goes_on_where_clients_are_introduced():
    """There is none to speak of."""
    jo = "jo@example.com"
    with provider("hop", "XOAUTH2\r\n250-XCLIENT NAME ADDR LOGIN",
                  answers={"XCLIENT": "220 go"}) as hop:
        lines = checked("connect", f"* {jo} oauth2 {token(jo)}\n",
                        "--relay-xclient", hop.relay())
        assert lines[-1] == f"good: {hop.relay()}: {hop.path} answers, and " \
            f"accepts user {jo}", lines
        assert (1, "XCLIENT ADDR=[UNAVAILABLE] LOGIN=[UNAVAILABLE] "
                "NAME=[UNAVAILABLE]") in hop.commands, hop.commands


@test
def start_runs_no_program():
    jo = "jo@example.com"
    checked("start", f"* {jo} oauth2 {token(jo)}\n", f"smtp:unix:{PLACE}/no")
    assert ran() == []


@test
def each_account_is_tried_where_its_senders_are_routed():
    jo, kim = TOKENS
    rows = f"{jo} {jo} oauth2 {token(jo)}\n" \
        f"@example.net {kim} oauth2 {token(kim)}\n"
    with provider("a") as a, provider("b") as b, provider("c") as c:
        routes = wrote("routes", f"{jo} {a.relay()}\nexample.net {b.relay()}\n"
                       f"ann@example.net {b.relay()}\n* error:5.7.1 no\n")
        told(checked("connect", rows, "--sender-routes", routes, "discard:"),
             f"good: a line for {jo} at {a.relay()}: line 1, user {jo}, a "
             f"token of {PLACE}/token-{jo}",
             f"good: a line for ann@example.net at {b.relay()}: line 2, user "
             f"{kim}, a token of {PLACE}/token-{kim}",
             f"good: {a.relay()}: {a.path} answers, and accepts user {jo}",
             f"good: {b.relay()}: {b.path} answers, and accepts user {kim}")
        assert ran() == [jo, kim] and a.logins and b.logins, ran()
        # Where senders are not routed they all come to the one relay.
        lines = checked("connect", rows + "* other:secret\n", c.relay())
        assert ran() == [jo, kim], lines
        assert [l[2] for l in c.logins] == [jo, kim], c.logins
        assert "AUTH: no mechanism for a password is offered" in str(lines)
        assert lines[-1].startswith("bad: "), lines


@test
def mail_that_comes_from_one_address_has_its_account():
    jo, kim = TOKENS
    rows = f"{jo} {jo} oauth2 {token(jo)}\n{kim} {kim} oauth2 {token(kim)}\n"
    with provider("hop") as hop:
        lines = checked("connect", rows, "--from", kim, hop.relay())
        told(lines, f"good: a line for {kim} at {hop.relay()}: line 2, user "
             f"{kim}, a token of {PLACE}/token-{kim}",
             f"good: {hop.relay()}: {hop.path} answers, and accepts user "
             f"{kim}")
        assert ran() == [kim]
        senders = wrote("from", f"example.org {jo}\nroot {jo}\n* {kim}\n")
        lines = checked("connect", rows, "--from", senders, hop.relay())
        assert len(lines) == 4 and ran() == [jo, kim], lines
        told(checked("start", rows, "--from", "ann@example.org", hop.relay()),
             f"doubt: no line for ann@example.org at {hop.relay()}: it gets no "
             "password", f"good: {hop.relay()} can be connected to")


@test
def each_key_of_a_route_is_a_sender_that_needs_a_line():
    rows = "<> d:secret\n* e:secret\njo@example.com f:secret\n"
    at = [f"smtp:unix:{PLACE}/no{n}" for n in range(5)]
    keys = "<>", ".example.com", "root", "example.net", "*"
    senders = wrote("routes", "".join(
        f"{key} {place}\n" for key, place in zip(keys, at)))

    def lines_for(option, file):
        return [line[len("good: "):] for line in checked(
            "start", rows, option, file, "discard:") if "a line for" in line]

    assert sorted(lines_for("--sender-routes", senders)) == sorted([
        f"a line for the null sender at {at[0]}: line 1, user d, a password",
        f"a line for {at[1]}: line 2, user e, a password",
        f"a line for root at {at[2]}: line 2, user e, a password",
        f"a line for @example.net at {at[3]}: line 2, user e, a password",
        f"a line for jo@example.com at {at[4]}: line 3, user f, a password",
        f"a line for {at[4]}: line 2, user e, a password"])
    # Where a recipient's route leads, mail of any sender comes.
    assert sorted(lines_for("--routes", wrote(
        "routes", f"/^x/ {at[0]}\na@b.example {at[0]}\n"))) == [
        f"a line for jo@example.com at {at[0]}: line 3, user f, a password",
        f"a line for {at[0]}: line 2, user e, a password",
        f"a line for the null sender at {at[0]}: line 1, user d, a password"]


@test
def a_socket_with_an_at_sign_is_no_sender():
    with provider("a@b", passwords={"jo": "secret"}, mechanisms="PLAIN") as hop:
        told(checked("connect", f"{hop.key()} jo:secret\n", hop.relay()),
             f"good: a line for {hop.relay()}: line 1, user jo, a password",
             f"good: {hop.relay()}: {hop.path} answers, and accepts user jo")


@test
def very_many_senders_are_looked_at_in_part():
    lines = checked("start", "".join(f"u{n}@example.com u:secret\n"
                                     for n in range(1001)),
                    f"smtp:unix:{PLACE}/none")
    assert f"doubt: smtp:unix:{PLACE}/none: not all of its senders were " \
        "looked at" in lines and len(lines) == 1003, lines[-5:]


@test
def lines_of_senders_do_not_count_for_LMTP():
    lines = checked("start", "jo@example.com jo:secret\n* kim:secret\n",
                    f"lmtp:unix:{PLACE}/none")
    assert [line for line in lines if "a line for" in line] == [
        f"good: a line for lmtp:unix:{PLACE}/none: line 2, user kim, a "
        "password"], lines


if __name__ == "__main__":
    main()
