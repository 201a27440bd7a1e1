#!/usr/bin/env python3
"""peers-secure.t - smtpd between real servers: HAProxy and nginx in front of
it; Dovecot beside it; Postfix, which wants TLS and a password, as next hop.
Each is an instance of our own."""
import contextlib
import glob
import http.server
import os
import re
import shutil
import smtplib
import ssl
import subprocess
import sys
import threading

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
import peer
from secure import received
from tap import (Listener, Session, Skip, certificate, folder, free_port, need,
                 script, test, write)

PLACE = folder()
PASSWORD = "Swordfish.123"
CLIENT = "127.0.0.5"        # not who the proxies are
TEXT = "Subject: x\r\n\r\ny\r\n"


def path(name):
    return os.path.join(PLACE, name)


def save(name, text):
    return write(path(name), text)


def send(port, user=None, made=None):
    """A message from CLIENT, through whatever listens at port."""
    with smtplib.SMTP("127.0.0.1", port, source_address=(CLIENT, 0),
                      local_hostname="client.example.org") as client:
        if made:
            client.starttls(context=made)
        if user:
            client.login(user, PASSWORD)
        client.sendmail("a@example.org", ["b@example.org"], TEXT)


def keys():
    if not os.path.exists(path("mx.pem")):
        need("openssl")
        certificate(PLACE, "mx", "localhost", "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1")
        with open(path("mx.key")) as key, open(path("mx.pem")) as pem:
            save("chain.pem", key.read() + pem.read())
        os.chmod(path("mx.key"), 0o644)
    return ["--tlscert", path("mx.pem"), "--tlskey", path("mx.key")]


def trusting():
    made = ssl.create_default_context(cafile=path("mx.pem"))
    made.check_hostname = False     # smtplib was told an address
    return made


# --- in front

@contextlib.contextmanager
def haproxy(listen, server, how):
    """HAProxy on a port, in front of that server, with that of its options."""
    need("haproxy")
    port = free_port()
    name = save(f"haproxy.{port}", f"""
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen smtp
    bind 127.0.0.1:{port} {listen}
    server smtpd 127.0.0.1:{server.port} {how}
""")
    with peer.Program("haproxy", "-db", "-f", name, at=("127.0.0.1", port)):
        yield port


@test
def haproxy_says_who_the_client_is():
    for how in ("send-proxy", "send-proxy-v2"):
        with Listener("--proxy-protocol", *keys(), "print:") as server, \
                haproxy("", server, how) as port:
            send(port)
            send(port, made=trusting())
            log = server.logged()
        traces = re.findall(r"^Received: .*\n.*", log, re.M)
        assert len(traces) == 2, log
        assert all(f"([{CLIENT}])" in t for t in traces), traces
        assert " with ESMTP id" in traces[0], traces
        assert " with ESMTPS (TLSv1.3" in traces[1], traces


@test
def haproxy_ends_tls_and_says_so():
    keys()
    how = "send-proxy-v2 proxy-v2-options ssl,ssl-cipher,cert-cn"
    with Listener("--proxy-protocol", "print:") as server, \
            haproxy(f"ssl crt {path('chain.pem')}", server, how) as port:
        with smtplib.SMTP_SSL("127.0.0.1", port, context=trusting(),
                              source_address=(CLIENT, 0)) as client:
            client.sendmail("a@example.org", ["b@example.org"], TEXT)
        log = server.logged()
    assert f"([{CLIENT}]) by " in received(log), log
    assert " with ESMTPS (TLSv1.3 TLS_AES_" in received(log), log


class Gate(http.server.BaseHTTPRequestHandler):
    """nginx asks it whether a client may pass, and where to."""

    def do_GET(self):
        self.send_response(200)
        right = self.headers.get("Auth-Pass") == PASSWORD or \
            self.headers["Auth-Method"] == "none"
        self.send_header("Auth-Status", "OK" if right else "Wrong password")
        self.send_header("Auth-Server", "127.0.0.1")
        self.send_header("Auth-Port", str(self.server.behind))
        self.end_headers()

    def log_message(self, *_):
        pass


@test
def nginx_says_by_xclient_who_the_client_is():
    need("nginx")
    module = glob.glob("/usr/lib/nginx/modules/ngx_mail_module.so")
    if not module:
        raise Skip("nginx has no mail module here")
    place = folder()
    program = script(place, f"env >{place}/env; cat >{place}/message")
    port = free_port()
    with Listener("--xclient", "127.0.0.1", "--", program) as server, \
         http.server.HTTPServer(("127.0.0.1", 0), Gate) as gate:
        gate.behind = server.port
        threading.Thread(target=gate.serve_forever, daemon=True).start()
        conf = save("nginx.conf", f"""
load_module {module[0]};
daemon off;
worker_processes 1;
pid {path("nginx.pid")};
error_log {path("nginx.log")};
events {{ }}
mail {{
    server_name proxy.example.net;
    auth_http 127.0.0.1:{gate.server_port}/;
    server {{
        listen 127.0.0.1:{port};
        protocol smtp;
        smtp_auth plain login none;
        xclient on;
    }}
}}
""")
        with peer.Program("nginx", "-p", PLACE, "-e", path("nginx.log"), "-c",
                          conf, at=("127.0.0.1", port)):
            for user in (None, "joe"):
                send(port, user)
                with open(f"{place}/env") as f:
                    env = f.read()
                assert f"CLIENT_ADDRESS={CLIENT}\n" in env, env
                assert "CLIENT_HELO=client.example.org\n" in env, env
                assert ("SASL_USERNAME=joe\n" in env) == bool(user), env
                assert ("CLIENT_PROTOCOL=ESMTPA\n" in env) == bool(user), env
                with open(f"{place}/message") as f:
                    assert f"[{CLIENT}]) by mx.example.org" in received(
                        f.read())
        gate.shutdown()
    shutil.rmtree(place)


# --- beside

def dovecot():
    """The path of its socket for clients."""
    return peer.share("dovecot", lambda: peer.Dovecot(
        users={"user": PASSWORD})).auth


@test
def dovecot_decides_about_passwords():
    with Listener("--auth", "dovecot:" + dovecot(), *keys(),
                  "--auth-required", "print:") as server:
        send(server.port, "user", trusting())
        try:
            send(server.port, "nobody", trusting())
            assert False, "anybody may come in"
        except smtplib.SMTPAuthenticationError as error:
            assert error.smtp_code == 535, error
        log = server.logged()
    assert " with ESMTPSA (" in received(log), log
    assert PASSWORD not in log and "event=auth-failed" in log, log


@test
def scram_with_dovecot_by_a_client_that_speaks_it():
    need("gsasl")
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN"):
        with Listener("--auth", "dovecot:" + dovecot(), "-d",
                      "--no-auth-require-tls", "print:") as server:
            for password, wanted in ((PASSWORD, "235"), ("wrong", "535")):
                done = subprocess.run(
                    ["gsasl", "--smtp", "--no-starttls", "--no-cb", "-m",
                     mechanism, "-a", "user", "-p", password, "127.0.0.1",
                     str(server.port)], stdin=subprocess.DEVNULL,
                    capture_output=True, text=True)
                assert f"\n{wanted} " in done.stdout, (mechanism, done)
            log = server.logged()
        assert "event=auth-ok" in log and "user=user" in log, log
        assert PASSWORD not in log


# --- next hop

@test
def postfix_as_a_smarthost_demands_tls_and_a_password():
    auth = dovecot()
    with peer.Postfix(main=peer.SMARTHOST.replace("{auth}", auth)) as mx:
        host = f"[localhost]:{mx.ports[0]}"
        relay = save("relay-auth", f"{host} user:{PASSWORD}\n")
        wrong = save("relay-wrong", f"{host} user:wrong\n")
        must = ["-n", "--relay-tls", "must", "--relay-tls-ca",
                mx.path("mx.pem")]
        for options, wanted in (
                (must, "554 5.7.1 <b@example.org>: Recipient address "
                 "rejected: Access denied"),
                (["-n"], "451 4.7.0 Must issue a STARTTLS command first"),
                (must + ["--relay-auth", wrong],
                 "451 4.7.8 Cannot authenticate to next hop"),
                (["-n", "--relay-auth", relay],
                 "451 4.7.11 Cannot authenticate to next hop"),
                (must + ["--relay-auth", relay], "250 2.0.0 Ok: ")):
            with Session(*options, "-d", f"smtp:{host}") as s:
                s.start()
                reply = s.deliver("Subject: relayed", "", "y")
                _, log = s.finish()
            assert reply.startswith(wanted), (options, reply, log)
            assert PASSWORD not in log
        text = mx.arrival()[1].decode()
    assert "(Authenticated sender: user)" in text, text
    assert re.search(r"using TLSv1\.3 .*\n", text), text
    assert "Subject: relayed\n" in text, text


if __name__ == "__main__":
    peer.main()
