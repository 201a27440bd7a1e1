#!/usr/bin/env python3
"""access.t - who may send to whom through a relay that forwards:
--relay-clients and --relay-domains."""
import os
import subprocess

from tap import (HELLO, SMTPD, Session, folder, lines, main, script, tcp_pair,
                 test, write)

HOP = "smtp:[127.0.0.1]:9"      # nothing is ever sent there
DENIED = "554 5.7.1 Relay access denied"
PLACE = folder()
REMOTE = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25"


def wrote(name, text):
    return write(os.path.join(PLACE, name), text)


def asked(*arguments, to=("b@example.net",), client=REMOTE, before=(),
          pair=None, env=None):
    """The replies to RCPT, and what was logged.  client is a PROXY line, or
    None."""
    options = ["--proxy-protocol"] if client else []
    with Session(*options, *arguments, pair=pair, env=env) as s:
        if client:
            s.send(lines(client))
        s.start()
        for command in before:
            assert s.say(command)[0][0] == "2", command
        assert s.say("MAIL FROM:<a@example.com>")[0][:3] == "250"
        got = [s.say(f"RCPT TO:<{one}>")[0] for one in to]
        s.finish()
        return got, s.logged()


def on_pipes(*arguments, env=None, to="b@example.net"):
    environment = {k: v for k, v in os.environ.items()
                   if not k.startswith(("REMOTE_", "TCPREMOTE"))}
    done = subprocess.run(
        [SMTPD, *arguments], capture_output=True, check=True, text=True,
        env={**environment, **(env or {})},
        input=f"{HELLO}\r\nMAIL FROM:<a@example.com>\r\n"
        f"RCPT TO:<{to}>\r\nQUIT\r\n")
    return done.stdout.splitlines()[-2]


@test
def a_strange_client_reaches_nobody_through_a_relay_that_forwards():
    for relay in (HOP, "smtps:mx.example.net", "smtp:a.example,b.example"):
        got, log = asked(relay)
        assert got == [DENIED], got
        refused = [l for l in log.splitlines() if "event=refused" in l]
        assert len(refused) == 1, log
        assert "192.0.2.7" in refused[0] and "--relay-clients" in refused[0]


@test
def local_relays_take_mail_from_everybody():
    for relay in (["discard:"], ["print:"], [f"maildir:{PLACE}/box"],
                  ["lmtp:unix:/nowhere"], ["--", "/bin/cat"]):
        assert asked(*relay)[0][0][:3] == "250", relay


@test
def clients_of_loopback_unix_sockets_and_pipes_may_send_to_everybody():
    assert asked(HOP, client=None)[0][0][:3] == "250"
    assert asked(HOP, client=None, pair=tcp_pair())[0][0][:3] == "250"
    assert asked(HOP, client="PROXY TCP4 127.9.9.9 127.0.0.1 1 25")[0][0][
        :3] == "250"
    assert asked(HOP, client="PROXY TCP6 ::1 ::1 1 25")[0][0][:3] == "250"
    assert on_pipes(HOP)[:3] == "250"


@test
def a_remote_client_that_the_environment_names_is_not_local():
    for env in ({"REMOTE_ADDR": "192.0.2.7"}, {"TCPREMOTEIP": "2001:db8::7"},
                {"REMOTE_HOST": "192.0.2.7"}, {"REMOTE_HOST": "a.example"},
                {"REMOTE_ADDR": "::ffff:192.0.2.7"},
                {"REMOTE_ADDR": "fe80::1%eth0"},
                {"REMOTE_ADDR": "127.0.0.1", "TCPREMOTEIP": "192.0.2.7"},
                {"TCPREMOTEIP": "192.0.2.7", "REMOTE_HOST": "127.0.0.1"}):
        assert on_pipes(HOP, env=env) == DENIED, env
        assert asked(HOP, client=None, env=env)[0] == [DENIED], env
    for env in ({"REMOTE_ADDR": "127.0.0.1"}, {"REMOTE_HOST": "::1"},
                {"REMOTE_ADDR": "::ffff:127.0.0.1"},
                {"REMOTE_ADDR": "127.0.0.1", "REMOTE_HOST": "a.example",
                 "TCPREMOTEIP": "::ffff:127.0.0.1"}):
        assert on_pipes(HOP, env=env)[:3] == "250", env
    assert asked(HOP, client=None,
                 env={"REMOTE_ADDR": "/run/peer"})[0][0][:3] == "250"


@test
def an_address_has_one_spelling_wherever_it_comes_from():
    for written, meant in (("::ffff:192.0.2.7", "192.0.2.7"),
                           ("0:0:0:0:0:FFFF:192.0.2.7", "192.0.2.7"),
                           ("::ffff:c000:0207", "192.0.2.7"),
                           ("2001:DB8:0:0::7", "2001:db8::7")):
        log = asked(HOP, client=None, env={"REMOTE_HOST": written})[1]
        assert f"client={meant} " in log, (written, log)
        log = asked(HOP, client=f"PROXY TCP6 {written} {written} 1 25")[1]
        assert f"client={meant} " in log, (written, log)
        with Session("--xclient", "unix", HOP) as s:
            s.start()
            s.say(f"XCLIENT ADDR=IPV6:{written}", HELLO, "MAIL FROM:<>",
                  "RCPT TO:<b@example.net>")
            assert f"client={meant} " in s.finish()[1], written


@test
def relay_clients_names_networks_unix_auth_or_all():
    for clients, good in (("192.0.2.0/24", True), ("192.0.2.7", True),
                          ("198.51.100.0/24,192.0.2.6/31", True),
                          ("::ffff:192.0.2.0/120", True), ("all", True),
                          ("192.0.2.8/29", False), ("unix,auth", False),
                          ("::/0", False)):
        got, _ = asked("--relay-clients", clients, HOP)
        assert (got[0][:3] == "250") == good, (clients, got)
    assert asked("--relay-clients", "auth", HOP, client=None,
                 pair=tcp_pair())[0] == [DENIED]
    assert asked("--relay-clients", "127.0.0.1", HOP,
                 client=None)[0] == [DENIED]


@test
def a_client_that_authenticated_may_send_to_everybody():
    checker = script(PLACE, "exit 0", "checker")
    for clients, good in ((None, True), ("auth", True), ("unix", False)):
        options = ["--relay-clients", clients] if clients else []
        got, _ = asked(*options, "--auth", f"checkpassword:{checker}",
                       "--no-auth-require-tls", HOP,
                       before=["AUTH PLAIN AGpvZQB4"])
        assert (got[0][:3] == "250") == good, (clients, got)


@test
def relay_domains_are_forwarded_for_everybody():
    file = wrote("domains", "# ours\nexample.net\n\n.example.org\t\n")
    for value in ("example.net,.example.org", file):
        for to, good in (
                ("b@example.net", True), ("b@EXAMPLE.Net", True),
                ('"b c"@example.net', True), ("b@sub.example.net", False),
                ("b@example.org", True), ("b@sub.example.org", True),
                ("b@a.sub.example.org", True), ("b@notexample.org", False),
                ("b@xexample.net", False), ("b@example.com", False),
                ("b@[192.0.2.1]", False), ("b", False),
                ("postmaster", True), ("Postmaster", True),
                ("b%example.com@example.net", False),
                ("example.com!b@example.net", False),
                ('"b@example.com"@example.net', False),
                ('"b\\@example.com"@example.net', False)):
            got, _ = asked("--relay-domains", value, HOP, to=[to])
            assert got == [DENIED] if not good else got[0][:3] == "250", (
                value, to, got)
    got, _ = asked("--relay-domains", "[192.0.2.1]", HOP,
                   to=["b@[192.0.2.1]"])
    assert got[0][:3] == "250", got


@test
def an_address_that_names_two_hosts_is_never_forwarded_for_a_stranger():
    for to in ("@a.example:b@example.com", "a@b@example.net",
               "@example.net:b@example.com", '"a@b"@example.net',
               '"a\\%b"@example.net', '"b@example.net"', '"b@.example.net"'):
        got, _ = asked("--relay-domains", "example.net", HOP, to=[to])
        assert got[0][0] == "5", (to, got)
    got, _ = asked(HOP, to=["postmaster"])
    assert got == [DENIED], got
    got, _ = asked("--relay-domains", "Example.net", HOP,
                   to=['"b"@EXAMPLE.NET', '"b\\ c"@example.net',
                       '"postmaster"', '"post\\master"'])
    assert [reply[:3] for reply in got] == ["250"] * 4, got


@test
def an_unreadable_file_of_domains_opens_nothing():
    for name in ("/nowhere/domains", wrote("bad", "example.net\nb c\n"),
                 wrote("mark", "\ufeffexample.net\n"),
                 wrote("at", "b@example.net\n")):
        got, log = asked("--relay-domains", name, HOP)
        assert got == ["451 4.3.5 Local configuration error"], (name, got)
        assert name in log and "--relay-domains" in log, log
        assert asked("--relay-domains", name, HOP,
                     client=None)[0][0][:3] == "250"


@test
def given_explicitly_the_options_hold_for_every_relay():
    for relay in (["discard:"], ["--", "/bin/cat"], ["lmtp:unix:/nowhere"]):
        got, _ = asked("--relay-domains", "example.net", *relay,
                       to=["b@example.net", "b@example.org"])
        assert got[0][:3] == "250" and got[1] == DENIED, (relay, got)
        assert asked("--relay-clients", "unix", *relay)[0] == [DENIED], relay


@test
def a_route_that_names_the_recipient_or_its_domain_is_local():
    routes = wrote("routes", f"example.net {HOP}\n.example.org {HOP}\n"
                   f"c@example.com {HOP}\nd@example.com discard:\n"
                   f"/^e@/ {HOP}\n/^f@/ discard:\n* {HOP}\n")
    for to, good in (("b@example.net", True), ("b@Example.NET", True),
                     ("b@sub.example.org", True), ("c@example.com", True),
                     ("d@example.com", True), ("e@example.com", False),
                     ("f@example.com", True), ("g@example.com", False),
                     ("b%example.com@example.net", False)):
        got, _ = asked("--routes", routes, "discard:", to=[to])
        assert got == [DENIED] if not good else got[0][:3] == "250", (to, got)
    routes = wrote("few", "example.net discard:\n")
    got, _ = asked("--routes", routes, HOP,
                   to=["b@example.net", "b@example.org"])
    assert got[0][:3] == "250" and got[1] == DENIED, got


@test
def the_client_that_XCLIENT_names_counts():
    for name, good in (("192.0.2.7", False), ("127.0.0.1", True),
                       ("[UNAVAILABLE]", False)):
        with Session("--xclient", "unix", HOP) as s:
            s.start()
            assert s.say(f"XCLIENT ADDR={name}")[0][:3] == "220"
            s.say(HELLO)
            s.say("MAIL FROM:<a@example.com>")
            got = s.say("RCPT TO:<b@example.net>")[0]
            assert got[:3] == "250" if good else got == DENIED, (name, got)
            s.finish()


@test
def what_is_no_network_and_no_domain_is_refused_at_the_start():
    for option, value in (("--relay-clients", "localhost"),
                          ("--relay-clients", "10.0.0.0/33"),
                          ("--relay-clients", ""),
                          ("--relay-clients", "unix,"),
                          ("--relay-domains", "b@example.net"),
                          ("--relay-domains", "example..net"),
                          ("--relay-domains", "example.net,"),
                          ("--relay-domains", "*")):
        done = subprocess.run([SMTPD, option, value, HOP],
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
        assert done.returncode == 64 and option in done.stderr, done
        assert done.stdout == "", done


if __name__ == "__main__":
    main()
