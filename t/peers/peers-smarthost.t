#!/usr/bin/env python3
"""peers-smarthost.t - sending through a provider that wants AUTH: Postfix, for
which Dovecot decides, and Dovecot's submission service, which asks an OAuth 2.0
server about tokens; before smtpd the clients that devices and scripts have."""
import http.server
import json
import os
import re
import smtplib
import socket
import subprocess
import sys
import threading
import urllib.parse

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
import peer
import text
from tap import SMTPD, Listener, Session, folder, need, script, test, write

ACCOUNT = "printer@example.com"
PASSWORD = "Sword fish = 123"
CANNOT = "451 4.7.8 Cannot authenticate to next hop"
SCOPE = "https://smtp.example.net/send"
PLACE = folder()


def path(name):
    return os.path.join(PLACE, name)


def save(name, words, mode=0o644):
    return write(path(name), words, mode)


def options(credentials, ca, *more):
    return ["--relay-auth", save("credentials", credentials, 0o600),
            "--relay-tls", "must", "--relay-tls-ca", ca, *more]


def sent(relay, credentials, ca, *more, sender=ACCOUNT):
    """The reply to a message, and the log, which has no secret."""
    with Session("-d", *options(credentials, ca, *more), relay) as s:
        s.start()
        got = s.deliver("Subject: x", "From: Jo <jo@example.org>", "", "y",
                        sender=sender)
        log = s.finish()[1]
    for secret in (PASSWORD, *TOKENS, "refresh-"):
        assert secret not in log, log
    return got, "".join(line for line in log.splitlines(True) if
                        " C: AUTH " in line or "event=dialogue" not in line)


def tried(log):
    """The mechanisms, in their order."""
    return re.findall(r" C: AUTH ([\w-]+)", log)


# --- Postfix, which lets Dovecot decide

PROVIDER = peer.SMARTHOST + """
smtpd_sender_login_maps = inline:{{%s=%s}}
smtpd_sender_restrictions = reject_sender_login_mismatch
""" % (ACCOUNT, ACCOUNT)


SERVICES = {
    "PLAIN": ["smtpd_sasl_mechanism_filter=plain"],
    "LOGIN": ["smtpd_sasl_mechanism_filter=login"],
    "SCRAM-SHA-256": ["smtpd_sasl_mechanism_filter=scram-sha-256"],
    "all": [],
    "busy": ["smtpd_delay_reject=no",
             "{ smtpd_sender_restrictions = check_sender_access static:"
             "{432 4.3.2 Concurrent connections limit exceeded} }"],
    "denied": ["{ smtpd_sender_restrictions = check_sender_access static:"
               "{550 5.7.60 SMTP; Client does not have permissions to send "
               "as this sender} }"],
    "open": ["smtpd_tls_security_level=none", "smtpd_sasl_auth_enable=no",
             "smtpd_sender_restrictions=", "mynetworks=127.0.0.0/8",
             "smtpd_relay_restrictions=permit_mynetworks,reject",
             "smtpd_recipient_restrictions=permit_mynetworks,reject"],
}


def postfix():
    def make():
        dovecot = peer.share("dovecot", lambda: peer.Dovecot(
            users={ACCOUNT: PASSWORD}))
        return peer.Postfix(*SERVICES.values(),
                            main=PROVIDER.replace("{auth}", dovecot.auth))
    mx = peer.share("postfix", make)
    mx.at = dict(zip(SERVICES, mx.ports))
    return mx


def place(service):
    return f"[localhost]:{postfix().at[service]}"


def through(service, *more, password=PASSWORD, **how):
    mx = postfix()
    return sent(f"smtp:{place(service)}", f"* {ACCOUNT}:{password}\n",
                mx.path("mx.pem"), *more, **how)


@test
def postfix_and_dovecot_take_a_password_by_PLAIN_LOGIN_and_SCRAM():
    mx = postfix()
    for service, method in (("PLAIN", "PLAIN"), ("LOGIN", "LOGIN"),
                            ("SCRAM-SHA-256", "SCRAM-SHA-256"),
                            ("all", "SCRAM-SHA-256")):
        got, log = through(service)
        assert got[:3] == "250", (service, got, log)
        recipients, octets = mx.arrival()
        assert recipients == ["b@example.org"], recipients
        assert re.search(rb"\(using TLSv1\.3 .*", octets), octets
        assert b"\n\t(Authenticated sender: printer@example.com)" in octets
        assert tried(log) == [method], (service, log)


@test
def postfix_and_dovecot_refuse_another_password_and_it_is_451():
    for service in ("PLAIN", "LOGIN", "SCRAM-SHA-256", "all"):
        got, log = through(service, password="wrong")
        assert got == CANNOT, (service, got, log)
        assert "AUTH: refused with 535 5.7.8" in log, (service, log)
        assert tried(log) == (["SCRAM-SHA-256", "PLAIN", "LOGIN"] if
                              service == "all" else [service]), log


@test
def postfix_wants_the_accounts_sender_and_gets_it_by_from():
    mx = postfix()
    got, log = through("all", sender="scanner@example.org")
    assert got.startswith("553 5.7.1 <scanner@example.org>: Sender address "
                          "rejected: not owned by user"), (got, log)
    got, log = through("all", "--from", ACCOUNT, sender="scanner@example.org")
    assert got[:3] == "250", (got, log)
    octets = mx.arrival()[1]
    assert b"\nFrom: Jo <printer@example.com>\n" in octets, octets
    assert b"\nReply-To: Jo <jo@example.org>\n" in octets, octets


@test
def a_provider_that_is_busy_is_left_for_the_next_hop_or_later():
    mx = postfix()
    got, log = through("busy")
    assert got.startswith("451 4.3.2 ") and "432 4.3.2" in log, (got, log)
    got, log = sent(f"smtp:{place('busy')},{place('all')}",
                    f"* {ACCOUNT}:{PASSWORD}\n", mx.path("mx.pem"))
    assert got[:3] == "250", (got, log)
    assert b"with ESMTPSA" in mx.arrival()[1]
    assert len(tried(log)) == 2, log


@test
def a_provider_that_denies_the_sender_is_heard_by_the_client():
    got, log = through("denied")
    assert got == f"550 5.7.60 <{ACCOUNT}>: Sender address rejected: SMTP; " \
        "Client does not have permissions to send as this sender", got
    assert "see --from" in log, log


# --- Dovecot, which asks an OAuth 2.0 server

TOKENS = {
    "eyJ-good": {"active": True, "scope": f"openid {SCOPE}",
                 "username": ACCOUNT},
    "eyJ-expired": {"active": False},
    "eyJ-narrow": {"active": True, "scope": "openid calendar",
                   "username": ACCOUNT},
    "eyJ-others": {"active": True, "scope": SCOPE,
                   "username": "kim@example.com"},
}


class TokenServer(http.server.BaseHTTPRequestHandler):
    """Says what a token is worth (RFC 7662), and gives the good one for a
    refresh token (RFC 6749 6)."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        form = dict(urllib.parse.parse_qsl(body.decode()))
        status, answer = 200, TOKENS.get(form.get("token"),
                                         {"active": False})
        if self.path == "/token":
            answer = {"token_type": "Bearer", "expires_in": 3599,
                      "access_token": "eyJ-good"}
            if form != {"client_id": "printers", "client_secret": "s3cret",
                        "refresh_token": "refresh-1",
                        "grant_type": "refresh_token"}:
                status, answer = 400, {"error": "invalid_grant"}
        octets = json.dumps(answer, indent=2).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def log_message(self, *_):
        pass


def token_server():
    def make():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenServer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server
    return f"http://127.0.0.1:{peer.share('tokens', make).server_port}"


def submission(mechanisms):
    """Dovecot's submission service with these mechanisms.  It hands on to a
    Postfix that asks nothing."""
    def make():
        hop = peer.Dovecot(submission=True, mechanisms=mechanisms, scope=SCOPE,
                           bearer=f"{token_server()}/introspect")
        hop.onward = postfix().at["open"]
        return hop
    return peer.share(mechanisms, make)


def with_token(token, mechanisms):
    hop = submission(mechanisms)
    got, log = sent(hop.relays[0], f"{hop.relays[0][5:]} {ACCOUNT} oauth2 "
                    f"{script(PLACE, 'echo ' + token, 'token')}\n",
                    hop.path("mx.pem"))
    return hop, got, log


BOTH = "xoauth2 oauthbearer"


@test
def dovecot_takes_a_token_by_OAUTHBEARER_and_XOAUTH2():
    for mechanisms, method in ((BOTH, "OAUTHBEARER"), ("xoauth2", "XOAUTH2")):
        hop, got, log = with_token("eyJ-good", mechanisms)
        assert got[:3] == "250", (mechanisms, got, log, hop.read("log"))
        assert tried(log) == [method], log
        assert b"\nSubject: x\n" in postfix().arrival()[1]


@test
def a_token_that_is_expired_or_for_another_scope_is_451_with_its_status():
    for mechanisms, status, scope in (
            (BOTH, "invalid_token", "insufficient_scope"),
            ("xoauth2", "401", "403")):
        for token in ("eyJ-expired", "eyJ-narrow", "eyJ-others"):
            hop, got, log = with_token(token, mechanisms)
            told = f", status {status}"
            if hop.form is peer.DOVECOT_2_4:    # silent of another user
                told = {"eyJ-narrow": f", status {scope}",
                        "eyJ-others": ""}.get(token, told)
            assert got == CANNOT, (mechanisms, token, got, log)
            assert len(tried(log)) == (
                1 if told else len(mechanisms.split())), log
            assert f"AUTH: refused with 535 5.7.8{told}\"" in log, (
                mechanisms, token, log)


@test
def the_program_of_the_manual_fetches_a_token():
    need("curl")
    examples = text.under(text.manual("units/smtpd-recipes.7"), "Tokens")
    program = save("token", *[e for e in examples if e[:2] == "#!"], 0o755)
    lines_ = [e for e in examples if e.startswith("grant_type=")][0]
    form = [l for l in lines_.splitlines() if "=refresh_token&" in l][0]
    hop = submission(BOTH)
    for refresh, wanted in (("refresh-1", "250"), ("refresh-2", "451")):
        app = save("app", form.replace("ID", "printers").replace(
            "SECRET", "s3cret").replace("TOKEN", refresh) + "\n")
        got, log = sent(hop.relays[0], f"* {ACCOUNT} oauth2 {program} {app} "
                        f"{token_server()}/token\n", hop.path("mx.pem"))
        assert got[:3] == wanted, (refresh, got, log)
    assert "returned error: 400" in log, log
    assert "its first line of output is empty" in log, log
    assert b"\nSubject: x\n" in postfix().arrival()[1]


@test
def each_sender_has_its_account_at_its_provider():
    """A password at Postfix, a token at Dovecot, in one session; --check says
    that both are accepted."""
    mx, hop = postfix(), submission(BOTH)
    routes = save("routes", f"{ACCOUNT} smtp:{place('all')}\n"
                  f"example.org {hop.relays[0]}\n* error:5.7.1 No account\n")
    with open(path("both.pem"), "w") as both:
        for peer_ in (mx, hop):
            with open(peer_.path("mx.pem")) as f:
                both.write(f.read())
    args = options(f"{ACCOUNT} {ACCOUNT}:{PASSWORD}\n@example.org {ACCOUNT} "
                   f"oauth2 {script(PLACE, 'echo eyJ-good', 'token')}\n",
                   path("both.pem"), "--sender-routes", routes, "discard:")
    with Session("-d", *args) as s:
        s.start()
        for sender, code in ((ACCOUNT, "250"), ("jo@example.org", "250"),
                             ("jo@example.net", "550"), (ACCOUNT, "250")):
            s.say("RSET")
            got = s.say(f"MAIL FROM:<{sender}>", "RCPT TO:<b@example.org>")
            assert got[1][:3] == code, (sender, got)
            if code == "250":
                s.say("RSET")
                got = s.deliver(f"Subject: of {sender}", "", "y",
                                sender=sender)
                assert got[:3] == "250", (sender, got, s.logged())
                octets = mx.arrival()[1]
                assert f"\nSubject: of {sender}\n".encode() in octets, octets
                assert (b"(Authenticated sender" in octets) == (
                    sender == ACCOUNT), octets
        log = s.finish()[1]
    assert tried(log) == ["SCRAM-SHA-256", "OAUTHBEARER"], log
    done = subprocess.run([SMTPD, "--check=connect", "--nosetuid", *args],
                          capture_output=True, text=True)
    for spec in (f"smtp:{place('all')}", hop.relays[0]):
        assert f"good: {spec}: localhost answers over TLS, and accepts user " \
            f"{ACCOUNT}\n" in done.stdout, done


# --- in front, what devices and scripts have

BODY = b"\r\nScanned: 3 pages.\r\n..\r\n-- \r\nprinter\r\n"


class Front:
    """smtpd at a port, for those who can do plain SMTP, sending as ACCOUNT."""

    def __enter__(self):
        mx = postfix()
        self.server = Listener(
            *options(f"* {ACCOUNT}:{PASSWORD}\n", mx.path("mx.pem"),
                     "--domain", "example.com", "--from", ACCOUNT),
            f"smtp:{place('all')}")
        self.port = self.server.port
        return self

    def __exit__(self, *_):
        self.server.close()
        self.log = self.server.logged()
        self.server.log.close()


def client_sends(*command, message, to="b@example.org"):
    """A client's message goes as the account.  command: its words, in which
    PORT is where smtpd listens; or what sends it there."""
    with Front() as front:
        if callable(command[0]):
            command[0](front.port, message)
        else:
            done = subprocess.run(
                [word.replace("PORT", str(front.port)) for word in command],
                input=message, capture_output=True)
            assert done.returncode == 0, (done, front.server.logged())
        recipients, octets = postfix().arrival()
    assert recipients == [to], recipients
    assert b"(Authenticated sender: printer@example.com)" in octets, octets
    header, _, body = octets.partition(b"\n\n")
    assert body == BODY[2:].replace(b"\r\n", b"\n"), body
    sender, = re.findall(rb"^From: (.*)$", header, re.M)
    assert b"printer@example.com" in sender, sender
    return header.decode("latin-1")


USUAL = b"From: Joe <joe@printer.example.org>\r\nTo: b@example.org\r\n" \
    b"Subject: done\r\n" + BODY
PLAIN = USUAL.replace(b"\r\n", b"\n")       # as a program's input


@test
def ssmtp_sends():
    binary = peer.fetched("ssmtp", "ssmtp", PLACE)

    def send(port, message):
        conf = save("ssmtp.conf", f"mailhub=127.0.0.1:{port}\n"
                    "hostname=printer.example.org\nFromLineOverride=YES\n")
        subprocess.run([binary, "-C", conf, "b@example.org"], input=message,
                       check=True, capture_output=True)
    header = client_sends(send, message=PLAIN)
    assert "\nReply-To: Joe <joe@printer.example.org>" in header, header


@test
def msmtp_sends():
    need("msmtp")
    header = client_sends(
        "msmtp", "--file=/dev/null", "--host=127.0.0.1", "--port=PORT",
        "--tls=off", "--auth=off", "--from=cron", "--", "root",
        message=PLAIN, to="root@example.com")
    assert "\nReply-To: Joe <joe@printer.example.org>" in header, header


@test
def curl_sends():
    need("curl")
    client_sends("curl", "-sS", "-T", "-", "smtp://127.0.0.1:PORT",
                 "--mail-from", "cron", "--mail-rcpt", "root", message=USUAL,
                 to="root@example.com")


@test
def swaks_sends():
    need("swaks")
    name = path("mail")
    with open(name, "wb") as f:
        f.write(PLAIN[:-1])     # swaks adds the line's end
    client_sends("swaks", "--server", "127.0.0.1", "--port", "PORT",
                 "--from", "ups@ups.example.org", "--to", "b@example.org",
                 "--data", f"@{name}", "--silent", "3", message=b"")


@test
def smtplib_sends():
    def send(port, message):
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.sendmail("nas@nas.example.org", ["b@example.org"], message)
    client_sends(send, message=USUAL)


@test
def a_scanner_sends():
    """It says HELO, knows no TLS, has no domain, no Date:, no Message-Id:, and
    writes its subject in the letters that it has."""
    subject = b"Subject: Gescannt f\xfcr B\xfcro\r\n"

    def send(port, message):
        with socket.create_connection(("127.0.0.1", port)) as s, \
                s.makefile("rb") as replies:
            for octets, code in (
                    (b"", b"220"), (b"HELO scanner\r\n", b"250"),
                    (b"MAIL FROM:<scanner>\r\n", b"250"),
                    (b"RCPT TO:<root>\r\n", b"250"), (b"DATA\r\n", b"354"),
                    (message.replace(b"\r\n.", b"\r\n..") + b".\r\n", b"250"),
                    (b"QUIT\r\n", b"221")):
                s.sendall(octets)
                line = replies.readline()
                assert line[:3] == code and line[3:4] == b" ", (octets, line)
    header = client_sends(
        send, message=b"From: scanner\r\nTo: root\r\n" + subject + BODY,
        to="root@example.com")
    assert subject.decode("latin-1")[:-2] in header.split("\n"), header
    assert "\nReply-To: " not in header, header


if __name__ == "__main__":
    peer.main()
