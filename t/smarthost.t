#!/usr/bin/env python3
"""smarthost.t - sending through a provider: whose credentials, which mechanism,
tokens from programs, senders that the provider wants."""
import hashlib
import os
import shutil
import subprocess

from fakes.provider import GOOGLE, MICROSOFT, Provider
from tap import (SMTPD, Listener, Session, certificate, folder, main, script,
                 test, write)

PLACE = folder()
CANNOT = "451 4.7.8 Cannot authenticate to next hop"
OURS = {"jo@example.com": "p:a c e", "kim@example.com": "k"}
TOKENS = {"jo@example.com": "ya29." + "a" * 40, "kim@example.com": "kt"}


def wrote(name, text):
    return write(os.path.join(PLACE, name), text)


def provider(mechanisms="PLAIN", name="hop", **more):
    p = Provider(os.path.join(PLACE, name), mechanisms,
                 **{"passwords": OURS, "tokens": TOKENS, **more})
    os.chmod(p.path, 0o777)
    return p


def sent(hop, credentials, *options, senders=("jo@example.com",), to=None,
         text=("Subject: x", "", "y"), program=None):
    """The replies to one message for each sender, in one session, and the
    log."""
    file = wrote("credentials", credentials)
    with Session("--no-received", "--relay-auth", file, "--relay-tls", "may",
                 *options, hop if isinstance(hop, str) else hop.relay(),
                 program=program) as s:
        s.start()
        got = [s.deliver(*text, sender=sender, to=to or ("b@example.org",))
               for sender in senders]
        s.finish()
        log = s.logged()
    # Nothing that is secret is ever in the log.
    for secret in [*OURS.values(), *TOKENS.values()]:
        assert len(secret) < 4 or secret not in log, log
    return got, log


def token(value, name="token"):
    return script(PLACE, f"echo {value}", name)


# --- which line

@test
def everything_after_the_first_colon_is_the_password():
    with provider() as hop:
        got, _ = sent(hop, f"{hop.key()} jo@example.com:p:a c e  \n")
        assert got[0][:3] == "250", got
        assert hop.logins == [(1, "PLAIN", "jo@example.com")]
    with provider(passwords={"jo command": "/x"}) as hop:
        got, _ = sent(hop, f"{hop.key()}\tjo command:/x\n")
        assert got[0][:3] == "250", got


@test
def the_senders_line_comes_first_then_its_domains_the_hops_and_the_star():
    rows = {"jo@example.com": "a:1", "@example.com": "b:1", "HOP": "c:1",
            "*": "d:1"}
    with provider(passwords=dict.fromkeys("abcd", "1")) as hop:
        for sender, user in (
                ("jo@example.com", "a"), ("jo@EXAMPLE.com", "a"),
                ("JO@example.com", "a"), ("jo+x@example.com", "a"),
                ('"jo"@example.com', "a"), ("kim@example.com", "b"),
                ("jo@sub.example.com", "c"), ("jo@example.org", "c"),
                ("", "c"), ("jo", "c")):
            for order in (list(rows), list(rows)[::-1]):
                hop.logins.clear()
                got, log = sent(hop, "".join(
                    f"{hop.key() if key == 'HOP' else key} {rows[key]}\n"
                    for key in order), senders=[sender])
                assert got[0][:3] == "250", (sender, got, log)
                assert hop.logins[0][2] == user, (sender, hop.logins)
        del rows["HOP"]
        for sender, user in (("jo@example.org", "d"), ("", "d")):
            hop.logins.clear()
            sent(hop, "".join(f"{k} {v}\n" for k, v in rows.items()),
                 senders=[sender])
            assert hop.logins[0][2] == user, (sender, hop.logins)
        hop.logins.clear()
        sent(hop, "* d:1\n<> a:1\n", senders=[""])
        assert hop.logins[0][2] == "a"
        # A key may have its quotes.
        hop.logins.clear()
        sent(hop, '* d:1\n"jo"@example.com a:1\n')
        assert hop.logins[0][2] == "a"
        # It must have them around a blank.
        hop.logins.clear()
        sent(hop, '"jo \\"x"@example.com a:1\n* d:1\n', senders=[
            '"jo \\"x"@example.com', "x@example.com"])
        assert [user for *_, user in hop.logins] == ["a", "d"], hop.logins


@test
def before_MAIL_a_live_next_hop_is_no_senders():
    file = wrote("credentials", "jo@example.com jo@example.com:p:a c e\n"
                 "<> kim@example.com:k\n")
    os.chmod(file, 0o600)
    with provider() as hop:
        for sender, users, told in (
                (None, [], 0), ("jo@example.com", ["jo@example.com"], 0),
                ("", ["kim@example.com"], 0), ("x@example.org", [], 1)):
            hop.logins.clear()
            with Session("-n", "--live", "--relay-auth", file,
                         hop.relay()) as s:
                s.start()
                if sender is not None:
                    s.say(f"MAIL FROM:<{sender}>")
                log = s.finish()[1]
            assert [user for *_, user in hop.logins] == users, hop.logins
            assert log.count(" has no line for ") == told, (sender, log)


@test
def systemds_credentials_are_found_by_their_names():
    def said(argument, env, *more):
        return subprocess.run(
            [SMTPD, *argument, *more, "print:"], env={**os.environ, **env},
            stdin=subprocess.DEVNULL, capture_output=True, text=True)

    wrote("smarthost", "* jo@example.com:p:a c e\n")
    here = {"CREDENTIALS_DIRECTORY": PLACE}
    with provider() as hop:
        for name in ("%d/smarthost", "$CREDENTIALS_DIRECTORY/smarthost",
                     "${CREDENTIALS_DIRECTORY}/smarthost"):
            with Session("--relay-auth", name, hop.relay(), env=here) as s:
                s.start()
                assert s.deliver()[:3] == "250", s.logged()
                s.finish()
            done = said(["--relay-auth", name], {"CREDENTIALS_DIRECTORY": ""})
            assert done.returncode == 64, done
            assert "there is no $CREDENTIALS_DIRECTORY" in done.stderr, done
        assert len(hop.logins) == 3
    # In all options, and only in front of a name.
    wrote("users", "x\n")
    done = said(["--check", "--no-auth-require-tls", "--auth",
                 "file:%d/users"], here)
    assert f"{PLACE}/users" in done.stdout, done
    done = said(["--check", "--routes", f"{PLACE}/%d/x"], here)
    assert f"{PLACE}/%d/x" in done.stdout, done


@test
def a_connection_carries_only_mail_of_the_account_that_opened_it():
    rows = "jo@example.com jo@example.com:p:a c e\n@example.com " \
        "kim@example.com:k\n"
    with provider() as hop:
        got, _ = sent(hop, rows, senders=["jo@example.com", "kim@example.com",
                                          "ann@example.com", "jo@example.com"])
        assert [r[:3] for r in got] == ["250"] * 4, got
        assert [(user, sender) for user, sender, _ in hop.messages] == [
            ("jo@example.com", "jo@example.com"),
            ("kim@example.com", "kim@example.com"),
            ("kim@example.com", "ann@example.com"),
            ("jo@example.com", "jo@example.com")], hop.messages
        assert hop.connections == 3
    with provider() as hop:
        # Without a line it is not authenticated, nor by the one before.
        got, _ = sent(hop, rows, senders=["jo@example.com", "x@example.org"])
        assert got[0][:3] == "250" and got[1][:3] == "451", got
        assert hop.connections == 2
    with provider() as hop:
        got, _ = sent(hop, f"{hop.key()} kim@example.com:k\n",
                      senders=["jo@example.com", "x@example.org"])
        assert [r[:3] for r in got] == ["250"] * 2 and hop.connections == 1


@test
def a_line_that_makes_no_sense_is_an_error_of_ours():
    with provider("PLAIN XOAUTH2") as hop:
        for row, word in (("jo", "USER:PASSWORD"),
                          ("jo oauth2", "absolute path"),
                          ("jo oauth2 bin/token", "absolute path"),
                          ("jo command", "absolute path"),
                          (":x", "USER:PASSWORD"), ("jo:", "USER:PASSWORD"),
                          ("u" * 256 + ":x", "USER:PASSWORD"),
                          ("u" * 256 + " oauth2 /x", "the user is too long"),
                          ("jo command /" + "x" * 20000,
                           "the command is too long")):
            got, log = sent(hop, f"# ours\n{hop.key()} {row}\n")
            assert got == ["451 4.3.5 Cannot authenticate to next hop"], (
                row[:80], got, log[:900])
            assert "line 2: " in log and word in log, (row, log)
        assert not hop.messages and not hop.logins


# --- which mechanism

@test
def the_strongest_mechanism_that_both_know_is_taken():
    for offered, taken in (
            ("LOGIN PLAIN", "PLAIN"), ("LOGIN", "LOGIN"),
            ("PLAIN CRAM-MD5 LOGIN", "CRAM-MD5"),
            ("LOGIN PLAIN CRAM-MD5 SCRAM-SHA-256 GSSAPI", "SCRAM-SHA-256"),
            ("XOAUTH2 OAUTHBEARER PLAIN", "PLAIN")):
        with provider(offered) as hop:
            got, log = sent(hop, f"{hop.key()} jo@example.com:p:a c e\n")
            assert got[0][:3] == "250", (offered, got, log)
            assert [l[1] for l in hop.logins] == [taken], (offered, log)


@test
def a_mechanism_that_needs_smtpd_tls_is_not_used_where_there_is_none():
    alone = shutil.copy(SMTPD, folder())
    for offered, want in (("SCRAM-SHA-256", "451 4.7.0"),
                          ("SCRAM-SHA-256 PLAIN", "250 2.0.0")):
        with provider(offered) as hop:
            got, log = sent(hop, f"{hop.key()} jo@example.com:p:a c e\n",
                            program=alone)
            assert got[0][:9] == want, (got, log)
            assert ("the mechanisms that are offered need smtpd-tls" in
                    log) == (want[0] == "4"), log


@test
def SCRAM_names_users_and_passwords_of_any_letters():
    users = {"j=o,k": "pässwörd, with = and more", "k" * 200: "x" * 300}
    with provider("SCRAM-SHA-256", passwords=users) as hop:
        for user, password in users.items():
            got, log = sent(hop, f"{hop.key()} {user}:{password}\n")
            assert got[0][:3] == "250", (user, got, log)
    assert [l[2] for l in hop.logins] == list(users)


@test
def a_server_that_does_not_know_the_password_is_not_believed():
    for forge in ("signature", "nonce"):
        with provider("SCRAM-SHA-256", forge=forge) as hop:
            got, log = sent(hop, f"{hop.key()} jo@example.com:p:a c e\n")
            assert got == [CANNOT], (forge, got, log)
            assert not hop.messages
    with provider("SCRAM-SHA-256", iterations=10**9) as hop:
        got, _ = sent(hop, f"{hop.key()} jo@example.com:p:a c e\n")
        assert got == [CANNOT], got


@test
def the_next_mechanism_is_tried_where_one_is_refused():
    row = "jo@example.com:p:a c e\n"
    for code in ("504 5.5.4 Unrecognized", "535 5.7.8 Not here",
                 "534 5.7.9 Too weak"):
        with provider("SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN",
                      answers={f"AUTH {name}": code for name in (
                          "SCRAM-SHA-256", "CRAM-MD5", "PLAIN")}) as hop:
            got, log = sent(hop, f"{hop.key()} {row}")
            assert got[0][:3] == "250", (code, got, log)
            assert hop.logins == [(1, "LOGIN", "jo@example.com")]
    with provider("PLAIN LOGIN", answers={
            "AUTH PLAIN": "454 4.7.0 Temporary failure"}) as hop:
        got, log = sent(hop, f"{hop.key()} {row}")
        assert got == [CANNOT] and "454 4.7.0" in log, (got, log)
        assert not any("LOGIN" in line for _, line in hop.commands)


# --- OAuth 2.0

@test
def OAUTHBEARER_comes_before_XOAUTH2():
    for offered, taken in (("XOAUTH2 OAUTHBEARER PLAIN", "OAUTHBEARER"),
                           ("PLAIN XOAUTH2", "XOAUTH2")):
        with provider(offered) as hop:
            got, log = sent(hop, f"{hop.key()} jo@example.com oauth2 "
                            f"{token(TOKENS['jo@example.com'])} x y\n")
            assert got[0][:3] == "250", (offered, got, log)
            assert hop.logins == [(1, taken, "jo@example.com")]


@test
def a_long_token_goes_out_after_an_empty_challenge():
    long = "eyJ0" + "b" * 3000
    for name in ("XOAUTH2", "OAUTHBEARER"):
        with provider(name, tokens={"j=o,": long}) as hop:
            got, log = sent(hop, f"* j=o, oauth2 {token(long)}\n")
            assert got[0][:3] == "250", (name, got, log)
            assert (1, f"AUTH {name}") in hop.commands, hop.commands
            assert hop.logins[0][2] == "j=o,"


@test
def an_error_in_JSON_is_answered_and_its_status_logged():
    for name, answer in (("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")):
        for json, status in ((GOOGLE["json"], "400"),
                             ('{ "status" : "invalid_token" }',
                              "invalid_token"),
                             ("no JSON", "unknown")):
            with provider(f"{name} PLAIN", json=json) as hop:
                got, log = sent(hop, "* jo@example.com oauth2 "
                                f"{token('stale')}\n")
                assert got == [CANNOT], (name, got)
                assert f"refused with 535 5.7.8, status {status}" in log, log
                assert [line for _, line in hop.commands if line in (
                    "", "AQ==")] == [answer], hop.commands
    # What is no better by another name is not tried by it.
    with provider("XOAUTH2 OAUTHBEARER") as hop:
        sent(hop, f"* jo@example.com oauth2 {token('stale')}\n")
        assert sum("AUTH " in line for _, line in hop.commands) == 1
    with provider("XOAUTH2 OAUTHBEARER", answers={
            "AUTH OAUTHBEARER": MICROSOFT["wrong"]}) as hop:
        got, _ = sent(hop, "* jo@example.com oauth2 "
                      f"{token(TOKENS['jo@example.com'])}\n")
        assert got[0][:3] == "250" and hop.logins[0][1] == "XOAUTH2"


@test
def a_token_never_goes_out_as_a_password():
    with provider("PLAIN LOGIN") as hop:
        got, log = sent(hop, f"* jo@example.com oauth2 {token('x')}\n")
        assert got == ["451 4.7.0 Cannot authenticate to next hop"], got
        assert "neither OAUTHBEARER nor XOAUTH2 is offered" in log
        assert not any("AUTH" in line for _, line in hop.commands)


# --- programs

@test
def a_program_prints_the_password():
    program = script(PLACE, 'printf "%s %s %s\\nmore\\n" "p:a" "$1" "$2"')
    with provider() as hop:
        got, log = sent(hop, f"@example.com jo@example.com command {program} "
                        " c   e\n", senders=["jo@example.com"] * 3)
        assert [r[:3] for r in got] == ["250"] * 3, (got, log)
        assert len(hop.logins) == 1     # once for a connection


@test
def a_program_that_fails_defers_the_mail_and_its_words_are_logged():
    for text, word in (
            ("echo no refresh token >&2; exit 3", "exit status 3"),
            ("echo no refresh token >&2; kill -9 $$", "killed by signal 9"),
            ("echo no refresh token >&2", "its first line of output is empty"),
            ("echo no refresh token >&2; echo; echo x",
             "its first line of output is empty"),
            ("echo no refresh token >&2; head -c 9000 /dev/zero | tr '\\0' x",
             "too long"),
            ("echo no refresh token >&2; printf 'a\\001b\\n'",
             "control characters")):
        with provider("XOAUTH2") as hop:
            got, log = sent(hop, "* jo@example.com oauth2 "
                            f"{script(PLACE, text)}\n")
            assert got == ["451 4.7.0 Cannot authenticate to next hop"], (
                text, got)
            assert word in log and "no refresh token" in log, (text, log)
            assert not any("AUTH" in line for _, line in hop.commands)
    for command, why in (("/nowhere/token", "/nowhere/token: No such"),
                         ("/bin/echo" + " x" * 64,
                          "the command has more than 64 words")):
        with provider("XOAUTH2") as hop:
            got, log = sent(hop, f"* jo@example.com oauth2 {command}\n")
            assert got[0][:3] == "451" and why in log, (got, log)


@test
def a_program_is_stopped_at_the_deadline():
    slow = script(PLACE, "exec sleep 600", "slow")
    with provider("XOAUTH2") as hop:
        got, log = sent(hop, f"* jo@example.com oauth2 {slow}\n",
                        "--relay-timeout", "1")
        assert got[0][:3] == "451" and "took too long" in log, (got, log)


@test
def a_program_inherits_neither_the_client_nor_the_file():
    program = script(PLACE, f"ls -l /proc/$$/fd >{PLACE}/fds; echo {'t' * 9}")
    wrote("fds", "")
    os.chmod(os.path.join(PLACE, "fds"), 0o666)
    with provider("XOAUTH2", tokens={"jo": "t" * 9}) as hop:
        got, log = sent(hop, f"* jo oauth2 {program}\n")
        assert got[0][:3] == "250", (got, log)
    with open(os.path.join(PLACE, "fds")) as f:
        text = f.read()
    assert "credentials" not in text and "socket:" not in text, text


@test
def a_program_inherits_nothing_that_systemd_told_the_service():
    program = script(PLACE, f"env >{PLACE}/variables; echo {'t' * 9}")
    wrote("variables", "")
    os.chmod(os.path.join(PLACE, "variables"), 0o666)
    told = {"CREDENTIALS_DIRECTORY": PLACE, "NOTIFY_SOCKET": f"{PLACE}/no",
            "JOURNAL_STREAM": "1:2", "WATCHDOG_USEC": "1", "LISTENER": "kept"}
    os.environ.update(told)
    with provider("XOAUTH2", tokens={"jo": "t" * 9}) as hop:
        got, log = sent(hop, f"* jo oauth2 {program}\n")
    for name in told:
        del os.environ[name]
    assert got[0][:3] == "250", (got, log)
    with open(os.path.join(PLACE, "variables")) as f:
        text = f.read()
    inherited = {line.partition("=")[0] for line in text.split("\n")}
    assert inherited & set(told) == {"LISTENER"}, inherited
    assert "PATH" in inherited


# --- what providers say

@test
def what_a_provider_means_is_in_the_log():
    for answer, words in ((MICROSOFT["wrong"], "535 5.7.3; wrong user"),
                          (MICROSOFT["off"],
                           "535 5.7.139; the provider has switched off"),
                          (GOOGLE["wrong"], "535 5.7.8"),
                          (GOOGLE["app"], "534 5.7.9; an app password")):
        with provider(answers={"AUTH PLAIN": answer}) as hop:
            got, log = sent(hop, "* jo@example.com:p:a c e\n")
            assert got == [CANNOT], (answer, got)
            assert f"AUTH: refused with {words}" in log, (answer, log)


@test
def a_sender_that_the_account_may_not_use_is_refused_and_explained():
    for verb, answer in (("MAIL", MICROSOFT["denied"]),
                         ("END", MICROSOFT["denied at the end"])):
        with provider(answers={verb: answer}) as hop:
            got, log = sent(hop, "* jo@example.com:p:a c e\n",
                            senders=["kim@example.com"])
            assert got == [answer], got
            assert "see --from" in log, log


@test
def too_many_connections_of_an_account_is_for_the_next_hop_or_later():
    busy = MICROSOFT["busy"]
    for verb in ("MAIL", "AUTH PLAIN", "GREETING"):
        with provider(answers={verb: busy}) as first, \
                provider(name="other") as second:
            got, log = sent(f"{first.relay()},{second.key()}",
                            "* jo@example.com:p:a c e\n")
            assert got[0][:3] == "250", (verb, got, log)
            assert len(second.messages) == 1
    for verb in ("MAIL", "RCPT", "AUTH PLAIN", "END"):
        with provider(answers={verb: busy}) as hop:
            got, log = sent(hop, "* jo@example.com:p:a c e\n")
            assert got[0][:3] == "451" and "4.3.2" in log, (verb, got, log)


# --- pinned certificates

def output(*command, text=None):
    return subprocess.run(command, cwd=PLACE, input=text, check=True,
                          capture_output=True).stdout


@test
def a_pinned_certificate_needs_no_authority_and_no_name():
    for name in ("self", "other"):
        certificate(PLACE, name, "nowhere.example.com")
    digest = output("openssl", "x509", "-in", "self.pem", "-noout",
                    "-fingerprint", "-sha256").decode()
    with_colons = digest.split("=")[1].strip()
    key = hashlib.sha256(output("openssl", "pkey", "-pubin", "-outform", "DER",
                                text=output("openssl", "x509", "-in",
                                            "self.pem", "-noout", "-pubkey"))
                         ).hexdigest()
    wrong = "0" * 64
    for pins, good in ((with_colons, True), (key, True), (wrong, False),
                       (with_colons.replace(":", "").lower(), True),
                       (f"{wrong},{with_colons}", True),
                       (f"{wrong},{wrong}", False)):
        for scheme, more in (("smtp", []), ("smtps", ["--smtps"])):
            with Listener("--tlscert", f"{PLACE}/self.pem", "--tlskey",
                          f"{PLACE}/self.key", *more, "print:") as server:
                got, log = sent(f"{scheme}:[127.0.0.1]:{server.port}", "",
                                "--relay-tls-fingerprint", pins)
                taken = "MESSAGE FOLLOWS" in server.logged()
            assert taken == good, (pins, scheme, got, log)
            assert (got[0][:3] == "250") == good, (pins, got, log)
            if not good:
                assert got == ["451 4.7.5 No secure connection to next hop"]
                assert "the certificate has another fingerprint" in log, log


@test
def a_pinned_next_hop_without_TLS_gets_nothing():
    with Listener("print:") as server:
        got, log = sent(f"smtp:[127.0.0.1]:{server.port}", "",
                        "--relay-tls-fingerprint", "0" * 64)
        assert got == ["451 4.7.4 Next hop offers no TLS"], (got, log)
        assert "MESSAGE FOLLOWS" not in server.logged()


@test
def what_is_no_fingerprint_is_refused_at_the_start():
    for pins in ("", "0" * 63, "0" * 65, "g" * 64, "0" * 64 + ",",
                 "sha256:" + "0" * 64, "00:" * 31):
        done = subprocess.run([SMTPD, "--relay-tls-fingerprint", pins,
                               "discard:"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)
        assert done.returncode == 64 and "fingerprint" in done.stderr, done


# --- by sender

def went(routes, senders, *options, relay="error:5.0.0 usual"):
    """Where mail of each sender went: the name of a Maildir, or the reply."""
    found = []
    for sender in senders:
        boxes = folder()
        os.chmod(boxes, 0o777)
        file = wrote("sender-routes", routes.replace("BOX", boxes))
        with Session("--sender-routes", file, *[
                o.replace("BOX", boxes) for o in options], relay) as s:
            s.start()
            got = s.say(f"MAIL FROM:<{sender}>", "RCPT TO:<b@example.org>",
                        "RSET")[1]
            if got[:3] == "250":
                got = s.deliver(sender=sender)
            s.finish()
            log = s.logged()
        full = [box for box in os.listdir(boxes)
                if os.path.isdir(f"{boxes}/{box}/new") and
                os.listdir(f"{boxes}/{box}/new")]
        found.append(full[0] if full else got)
        assert not full or got[:3] == "250", (got, log)
        shutil.rmtree(boxes)
    return found


@test
def mail_goes_where_its_sender_is_routed():
    routes = "jo@example.com maildir:BOX/a\nexample.com maildir:BOX/b\n" \
        "@example.net maildir:BOX/c\n<> maildir:BOX/d\n" \
        "scanner maildir:BOX/e\n.example.com maildir:BOX/f\n"
    assert went(routes, ["jo@example.com", "JO+x@EXAMPLE.com",
                         "kim@example.com", "kim@example.net", "", "scanner",
                         "a@b.example.com"]) == list("aabcdef")
    assert went(routes, ["a@example.org"]) == ["550 5.0.0 usual"]
    assert went(routes + "* maildir:BOX/g\n", ["a@example.org"]) == ["g"]


@test
def a_recipients_route_comes_before_the_senders():
    routes = "jo@example.com maildir:BOX/s\n* maildir:BOX/t\n"
    for own, to, place in (
            ("b@example.org maildir:BOX/r\n", None, "r"),
            ("example.org maildir:BOX/r\n", None, "r"),
            ("/^b@/ maildir:BOX/r\n", None, "r"),
            ("example.net maildir:BOX/r\n", None, "s"),
            ("* maildir:BOX/r\n", None, "s")):
        boxes = folder()
        os.chmod(boxes, 0o777)
        with Session("--routes", wrote("routes", own.replace("BOX", boxes)),
                     "--sender-routes", wrote("senders", routes.replace(
                         "BOX", boxes)), "discard:") as s:
            s.start()
            assert s.deliver(sender="jo@example.com")[:3] == "250"
            s.finish()
        assert os.listdir(boxes) == [place], (own, os.listdir(boxes))
        shutil.rmtree(boxes)


@test
def a_sender_that_anybody_can_write_opens_no_relay():
    file = wrote("senders", "jo@example.com smtp:[127.0.0.1]:9\n")
    with Session("--proxy-protocol", "--sender-routes", file,
                 "discard:") as s:
        s.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n")
        s.start()
        for sender, good in (("jo@example.com", False),
                             ("kim@example.com", True)):
            s.say("RSET")
            got = s.say(f"MAIL FROM:<{sender}>", "RCPT TO:<b@example.org>")
            assert (got[1][:3] == "250") == good, (sender, got)
            assert good or got[1] == "554 5.7.1 Relay access denied", got
        s.finish()


@test
def sender_routes_that_make_no_sense_defer():
    for text in ("jo@example.com nowhere\n", "jo@ discard:\n",
                 "jo@example.com\n", "<jo@example.com> discard:\n"):
        assert went(text, ["kim@example.com"], relay="discard:") == [
            "451 4.3.5 Local configuration error"], text


@test
def an_address_without_a_domain_gets_one():
    show = script(PLACE, 'echo "$SENDER to $*" >&2', "show")
    for sender, to, want in (
            ("root", "jo", "root@example.net to jo@example.net"),
            ('"a b"', '"a@b"',
             '"a b"@example.net to "a@b"@example.net'),
            ("", "postmaster", " to postmaster@example.net"),
            ("prvs=1234abcdef=jo", "jo@example.org",
             "prvs=1234abcdef=jo@example.net to jo@example.org"),
            ('"a"@example.com', "x@[192.0.2.1]",
             '"a"@example.com to x@[192.0.2.1]')):
        with Session("--domain", "example.net", "--", show,
                     "{recipient}") as s:
            s.start()
            assert s.deliver(sender=sender, to=(to,))[:3] == "250", sender
            s.finish()
            # The log has no '"' in a text.
            log, want = s.logged(), want.replace('"', "'")
        assert f"{show}: {want}\"" in log, (want, log)


@test
def a_completed_address_is_what_routes_and_access_see():
    routes = wrote("routes", "jo@example.net discard:\n"
                   "* error:5.1.1 nobody\n")
    with Session("--domain", "example.net", "--routes", routes,
                 "--relay-domains", "example.net", "discard:") as s:
        s.start()
        got = s.say("MAIL FROM:<root>", "RCPT TO:<jo>", "RCPT TO:<kim>")
        assert [r[:9] for r in got] == ["250 2.1.0", "250 2.1.5",
                                        "550 5.1.1"], got
        s.say("RSET")
        assert s.deliver(sender="root", to=("jo",))[:3] == "250"
        s.finish()
    for name in ("", "a b", "@example.net", "<x>", ".example.net",
                 "example.net.", "example..net", "-x.example", "a/b",
                 "[example.net]"):
        done = subprocess.run([SMTPD, "--domain", name, "discard:"],
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
        assert done.returncode == 64 and "--domain" in done.stderr, done


if __name__ == "__main__":
    main()
