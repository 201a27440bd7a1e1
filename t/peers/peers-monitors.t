#!/usr/bin/env python3
"""peers-monitors.t - what watches mail servers finds nothing wrong with smtpd:
Nagios' check_smtp, Prometheus' blackbox_exporter, HAProxy's health checks.  A
probe is no record in the log."""
import os
import re
import subprocess
import sys
import urllib.request

sys.path[:0] = [os.path.abspath("t"), os.path.abspath("t/peers")]
import peer
from tap import Listener, Skip, certificate, folder, free_port, need, test

NAGIOS = "/usr/lib/nagios/plugins/check_smtp"
PLACE = folder()
certificate(PLACE, "mx", "mx.example.org")
TLS = ("--tlscert", f"{PLACE}/mx.pem", "--tlskey", f"{PLACE}/mx.key")


def check_smtp(server, *arguments):
    done = subprocess.run([NAGIOS, "-H", "127.0.0.1", "-p", str(server.port),
                           *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout


@test
def nagios_check_smtp_is_content():
    if not os.path.exists(NAGIOS):
        raise Skip("monitoring-plugins-basic is not installed")
    with Listener(*TLS, "discard:") as server:
        for arguments in ([], ["-e", "220 mx.example.org ESMTP"],
                          ["-F", "monitor.example.org"], ["-S"],
                          ["-S", "-D", "1"],
                          ["-f", "nagios@example.org", "-C",
                           "RCPT TO:<b@example.org>", "-R", "250"]):
            status, said = check_smtp(server, *arguments)
            assert status == 0, (arguments, said)
            assert said.startswith(("SMTP OK", "OK - Certificate")), said
        log = server.logged()
    assert "event=message" not in log and "event=refused" not in log, log
    # Only the session that began a transaction is told of.
    assert log.count("event=session ") == 1, log


def scrape(port, module, target):
    url = f"http://127.0.0.1:{port}/probe?module={module}&target={target}"
    with urllib.request.urlopen(url, timeout=60) as page:
        text = page.read().decode()
    return re.search(r"^probe_success (\d)", text, re.M)[1], text


@test
def prometheus_blackbox_exporter_finds_smtp_with_starttls():
    need("prometheus-blackbox-exporter")
    port = free_port()
    config = f"{PLACE}/blackbox.yml"
    with open(config, "w") as f:
        # The example that its authors publish, but for tls_config.
        f.write("""
modules:
  smtp_starttls:
    prober: tcp
    timeout: 30s
    tcp:
      query_response:
        - expect: "^220 ([^ ]+) ESMTP (.+)$"
        - send: "EHLO prober\\r"
        - expect: "^250-(.*)"
        - expect: "^250-STARTTLS"
        - send: "STARTTLS\\r"
        - expect: "^220"
        - starttls: true
        - send: "EHLO prober\\r"
        - expect: "^250-"
        - send: "QUIT\\r"
      tls_config:
        insecure_skip_verify: true
""")
    process = subprocess.Popen(
        ["prometheus-blackbox-exporter", f"--config.file={config}",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log_of_its_own = ""
    try:
        while "Listening on" not in log_of_its_own:
            line = process.stderr.readline()
            log_of_its_own += line
            assert line, log_of_its_own
        with Listener(*TLS, "discard:") as server:
            good, text = scrape(port, "smtp_starttls",
                                f"127.0.0.1:{server.port}")
            log = server.logged()
        assert good == "1", (text, log)
        assert "event=" not in log, log
    finally:
        process.terminate()
        process.wait()


@test
def haproxy_health_checks_find_it_up():
    need("haproxy")
    with Listener("discard:") as server:
        port = free_port()
        for number, check in enumerate((
                "option smtpchk", "option smtpchk EHLO probe.example.org",
                "option tcp-check\n  tcp-check connect\n"
                "  tcp-check expect rstring ^220\\ \n"
                "  tcp-check send QUIT\\r\\n\n"
                "  tcp-check expect rstring ^221\\ ")):
            name = f"{PLACE}/haproxy.{number}"
            with open(name, "w") as f:
                f.write(f"""
global
  log stdout format raw daemon
defaults
  mode tcp
  log global
  option log-health-checks
  timeout connect 10s
  timeout client 60s
  timeout server 60s
listen smtp
  bind 127.0.0.1:{port}
  {check}
  server smtpd 127.0.0.1:{server.port} check inter 100ms
""")
            process = subprocess.Popen(["haproxy", "-db", "-f", name],
                                       stdout=subprocess.PIPE, text=True,
                                       stderr=subprocess.DEVNULL)
            try:
                told = next(line for line in process.stdout
                            if "Health check for server smtp/smtpd" in line)
                assert "succeeded, reason: Layer7 check passed" in told, (
                    check, told)
            finally:
                process.terminate()
                process.wait()
                process.stdout.close()
        log = server.logged()
    assert "event=message" not in log and "event=refused" not in log, log


if __name__ == "__main__":
    peer.main()
