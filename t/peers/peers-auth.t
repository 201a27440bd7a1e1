#!/usr/bin/env python3
"""peers-auth.t - mail programs authenticate through smtpd (--live --auth
relay:) to the server that it hands mail to: Postfix with SASL, and Dovecot's
submission service, which both want TLS.

Dovecot decides for both, also about bearer tokens, about which it asks a
service of ours.  Each client comes by STARTTLS.
"""
import base64
import concurrent.futures
import contextlib
import http.server
import json
import os
import re
import shutil
import smtplib
import ssl
import subprocess
import sys
import threading
import urllib.parse

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
import peer
from peer import Dovecot, Postfix
from tap import (HELLO, Listener, Session, Skip, certificate, folder, need,
                 test)

PLACE = folder()
USER, PASSWORD = "jo@example.com", "p a=c,100%"
TOKEN = "ya29." + "a" * 40
TO = "b@example.net"
TEXT = b"From: jo@example.com\r\nSubject: through\r\n\r\ny\r\n"


class Tokens(http.server.BaseHTTPRequestHandler):
    """Says whose a token is (RFC 7662)."""

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(
            int(self.headers["Content-Length"])).decode())
        good = form.get("token") == [TOKEN]
        said = json.dumps({"active": True, "username": USER} if good
                          else {"active": False}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


class Servers(contextlib.ExitStack):
    """All of it: postfix and dovecot, smtpd in front of each, with its log."""

    def __enter__(self):
        tokens = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
        threading.Thread(target=tokens.serve_forever, daemon=True).start()
        self.callback(tokens.shutdown)
        self.dovecot = Dovecot(
            users={USER: PASSWORD}, submission=True,
            mechanisms="plain login scram-sha-1 scram-sha-256 xoauth2 "
            "oauthbearer",
            bearer=f"http://127.0.0.1:{tokens.server_address[1]}/")
        self.postfix = self.enter_context(Postfix(
            ["smtpd_sasl_auth_enable=yes", "smtpd_tls_security_level=may",
             "smtpd_tls_auth_only=yes", "smtpd_relay_restrictions="
             "permit_sasl_authenticated,reject", "smtpd_sender_restrictions="
             "reject_sender_login_mismatch"], [], main=f"""
smtpd_sasl_type = dovecot
smtpd_sasl_path = {self.dovecot.auth}
smtpd_sender_login_maps = inline:{{{{{USER}={USER}, kim@example.com=kim}}}}
"""))
        self.dovecot.onward = self.postfix.ports[1]
        self.enter_context(self.dovecot)
        certificate(PLACE, "mx", "localhost", "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self.front = {name: self.enter_context(Listener(
            "-d", "--tlscert", f"{PLACE}/mx.pem", "--tlskey",
            f"{PLACE}/mx.key", "--relay-clients", "auth",
            *self.live(name))) for name in ("postfix", "dovecot")}
        return self

    def live(self, name, tls="must"):
        peer = getattr(self, name)
        return ("--live", "--auth", "relay:", "--relay-tls", tls,
                "--relay-tls-ca", peer.path("mx.pem"),
                f"smtp:localhost:{peer.ports[0]}")


# --- clients: each returns whether the message went out, and what was said

def run(*command, text=TEXT):
    done = subprocess.run(command, input=text, capture_output=True)
    said = (done.stdout + done.stderr).decode(errors="replace")
    return done.returncode == 0, said


def swaks(port, mechanism, password):
    return run("swaks", "--server", "127.0.0.1", "--port", str(port), "-tls",
               "--from", USER, "--to", TO, "--auth", mechanism, "--auth-user",
               USER, "--auth-password", password, "--data", TEXT.decode())


def curl(port, mechanism, password):
    secret = ["--oauth2-bearer", password, "--user", USER] if \
        mechanism in ("XOAUTH2", "OAUTHBEARER") else \
        ["--user", f"{USER}:{password}"]
    return run("curl", "-sSv", "--ssl-reqd", "--cacert", f"{PLACE}/mx.pem",
               "--login-options", f"AUTH={mechanism}", *secret, "--mail-from",
               USER, "--mail-rcpt", TO, "-T", "-",
               f"smtp://127.0.0.1:{port}")


def msmtp(port, mechanism, password):
    where = folder()
    with open(f"{where}/password", "w") as f:
        f.write(password)
    return run("msmtp", "-v", "-C", "/dev/null", "--host=127.0.0.1",
               f"--port={port}", "--tls=on", "--tls-starttls=on",
               f"--tls-trust-file={PLACE}/mx.pem",
               f"--auth={mechanism.lower()}", f"--user={USER}",
               f"--passwordeval=cat {where}/password", f"--from={USER}", TO)


def python(port, mechanism, password):
    """smtplib, which has PLAIN and LOGIN; a bearer token by its auth()."""
    context = ssl.create_default_context(cafile=f"{PLACE}/mx.pem")
    with smtplib.SMTP("127.0.0.1", port,
                      local_hostname="client.example.org") as client:
        client.starttls(context=context)
        client.ehlo()
        try:
            if mechanism == "XOAUTH2":
                client.auth("XOAUTH2", lambda challenge=None: "" if challenge
                            else f"user={USER}\1auth=Bearer {password}\1\1")
            else:
                client.user, client.password = USER, password
                client.auth(mechanism, getattr(
                    client, "auth_" + mechanism.lower()))
            client.sendmail(USER, [TO], TEXT)
        except smtplib.SMTPResponseException as error:
            return False, f"{error.smtp_code} {error.smtp_error.decode()}"
    return True, ""


NODEMAILER = "/usr/share/nodejs/nodemailer"
NODE = """
const [path, port, type, user, secret, ca] = process.argv.slice(1);
require(path).createTransport({
    host: "127.0.0.1", port: +port, requireTLS: true,
    name: "client.example.org",
    tls: { ca: require("fs").readFileSync(ca) },
    authMethod: type,
    auth: type == "XOAUTH2" ? { type: "OAuth2", user, accessToken: secret }
        : { user, pass: secret }
}).sendMail({ from: user, to: "b@example.net", subject: "through", text: "y" })
    .then(info => console.log(info.response), error => {
        console.log(error.message);
        process.exit(1);
    });
"""


def nodemailer(port, mechanism, password):
    return run("node", "-e", NODE, NODEMAILER, str(port), mechanism, USER,
               password, f"{PLACE}/mx.pem")


# msmtp 1.8.28 cannot use SCRAM over TLS where -PLUS is not offered: directly at
# Postfix neither.
SCRAM = () if shutil.which("msmtp") and "scram-sha-256-plus" in run(
    "msmtp", "--version", text=b"")[1] else ("SCRAM-SHA-1", "SCRAM-SHA-256")
CLIENTS = [(swaks, ("PLAIN", "LOGIN")),
           (curl, ("PLAIN", "LOGIN", "OAUTHBEARER")),
           (msmtp, ("PLAIN", "LOGIN", *SCRAM, "XOAUTH2", "OAUTHBEARER")),
           (python, ("PLAIN", "LOGIN", "XOAUTH2")),
           (nodemailer, ("PLAIN", "LOGIN", "XOAUTH2"))]
SECRETS = [s for octets in (PASSWORD, TOKEN) for s in (
    octets, base64.b64encode(octets.encode()).decode())]


def servers():
    """They are started by the first test that wants them."""
    return peer.share("servers", Servers)


def secret(mechanism):
    return TOKEN if mechanism in ("XOAUTH2", "OAUTHBEARER") else PASSWORD


def all_clients(port, wanted=lambda *_: True, change=lambda s: s):
    """Runs each client with each mechanism: [(client, mechanism, out, said)]"""
    jobs = [(client, mechanism) for client, mechanisms in CLIENTS
            for mechanism in mechanisms
            if wanted(client.__name__, mechanism)]
    need("swaks", "curl", "msmtp", "node")
    if not os.path.exists(NODEMAILER):
        raise Skip("no nodemailer here (package node-nodemailer)")
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        return [(client.__name__, mechanism, *done) for (client, mechanism),
                done in zip(jobs, pool.map(lambda job: job[0](
                    port, job[1], change(secret(job[1]))), jobs))]


PLAIN = "AUTH PLAIN " + base64.b64encode(
    f"\0{USER}\0{PASSWORD}".encode()).decode()


def authenticated(log):
    """The mechanisms of successful logins."""
    return sorted(re.findall(
        "event=message-relayed .* method=(.*) source=relay: ", log))


def mail_goes_out(name, log_of_hop, login):
    """Every client by every mechanism.  The hop's own log knows each login."""
    port = servers().front[name].port
    got = all_clients(port)
    for client, mechanism, out, said in got:
        assert out, (client, mechanism, said)
    for _ in got:
        recipients, octets = servers().postfix.arrival()
        assert recipients == [TO] and b"through" in octets
    log = servers().front[name].logged()
    assert authenticated(log) == sorted(m for _, m, *_ in got)
    assert len(re.findall(f"event=message-relayed .* user={USER} .* "
                          'nexthop_tls="TLSv1', log)) == len(got)
    for word in SECRETS:
        assert word not in log, word
    hop = getattr(servers(), name)
    for mechanism in {m for _, m, *_ in got}:
        wanted = sum(m == mechanism for _, m, *_ in got)
        pattern = login.format(re.escape(mechanism))
        hop.await_lines(log_of_hop, pattern, wanted)
        assert len(re.findall(pattern, hop.read(log_of_hop))) == wanted, \
            mechanism


@test
def every_client_sends_through_postfix():
    mail_goes_out("postfix", "maillog",
                  f"sasl_method={{}}, sasl_username={re.escape(USER)}")


@test
def every_client_sends_through_dovecot():
    mail_goes_out("dovecot", "log", "(?:Login|Logged in): "
                  f"user=<{re.escape(USER)}>, method={{}},")


@test
def a_wrong_password_and_a_wrong_token_are_told_by_the_hop():
    """The hop's own words reach each client, and no message leaves."""
    few = {"swaks": "LOGIN", "curl": "OAUTHBEARER", "python": "XOAUTH2",
           "msmtp": SCRAM[-1] if SCRAM else "PLAIN", "nodemailer": "PLAIN"}
    for name, words in (("postfix", "authentication failed"),
                        ("dovecot", "Authentication failed")):
        got = all_clients(servers().front[name].port,
                          lambda client, mechanism: few[client] == mechanism,
                          lambda right: "wrong" + right)
        assert len(got) == len(few)
        for client, mechanism, out, said in got:
            assert not out, (name, client, mechanism, said)
            assert re.search(f"535.*{words}", said, re.S), (
                name, client, mechanism, said)
        log = servers().front[name].logged()
        assert len(re.findall('event=auth-failed .* text="[A-Z0-9-]* by '
                              'relay: refused with 535 5.7.8"', log)) == \
            len(got), log
        for word in SECRETS:
            assert "wrong" + word not in log, word


@contextlib.contextmanager
def alone(name, *options, tls="must"):
    with Session("-n", "--no-auth-require-tls", *options,
                 *servers().live(name, tls)) as s:
        yield s


@test
def a_mechanism_that_the_hop_lacks_does_not_reach_it():
    for name in servers().front:
        port = servers().front[name].port
        for client in (swaks, curl):
            out, said = client(port, "CRAM-MD5", PASSWORD)
            assert not out, (name, said)
        with alone(name, "-d") as s:
            offer = s.start()
            assert "AUTH PLAIN LOGIN SCRAM-SHA-1 SCRAM-SHA-256 XOAUTH2 " \
                "OAUTHBEARER\n" in offer, offer
            for mechanism in ("CRAM-MD5", "EXTERNAL", "SCRAM-SHA-256-PLUS"):
                assert s.say(f"AUTH {mechanism}") == [
                    "504 5.5.4 Mechanism is not offered"], mechanism
            assert s.say(PLAIN)[0][:3] == "235"
            _, log = s.finish()
        assert "C: AUTH CRAM" in log and "]:" + str(getattr(
            servers(), name).ports[0]) + " C: AUTH CRAM" not in log, log


@test
def a_hop_that_wants_tls_before_auth_is_not_asked_without():
    """Postfix; to Dovecot a client on the same host is as safe."""
    with alone("postfix", "-d", tls="none") as s:
        assert "AUTH" not in s.start()
        assert s.say(PLAIN) == ["454 4.7.0 Authentication is not available"]
        assert "]:" not in s.finish()[1].partition("C: AUTH")[2]
    with alone("postfix", tls="may") as s:
        assert "AUTH PLAIN" in s.start()
        assert s.say(PLAIN)[0][:9] == "235 2.7.0"
        s.finish()


@test
def what_postfix_says_of_a_user_is_told():
    """reject_sender_login_mismatch, and the right to relay."""
    with alone("postfix") as s:
        s.start()
        assert s.say(f"MAIL FROM:<{USER}>", f"RCPT TO:<{TO}>") == [
            "250 2.1.0 Ok", f"553 5.7.1 <{USER}>: Sender address rejected: not "
            "logged in"]
        assert s.say("RSET", PLAIN)[1][:3] == "235"
        assert s.say("MAIL FROM:<kim@example.com>", f"RCPT TO:<{TO}>") == [
            "250 2.1.0 Ok", "553 5.7.1 <kim@example.com>: Sender address "
            f"rejected: not owned by user {USER}"]
        s.finish()


@test
def a_hop_that_restarts_ends_the_login():
    """Dovecot's proxy is stopped in the session; started again it would
    greet, but not know the user."""
    with alone("dovecot") as s:
        s.start()
        assert s.say(PLAIN)[0][:3] == "235"
        servers().dovecot.stop()
        assert s.say(f"MAIL FROM:<{USER}>")[0][:9] == "451 4.4.2"
        assert "AUTH" not in s.say(HELLO)[0]
        s.finish()


if __name__ == "__main__":
    peer.main()
