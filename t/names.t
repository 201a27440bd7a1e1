#!/usr/bin/env python3
"""names.t - the client's host name, where a super-server gives it: what
policy services, filters, programs, the trace and the log are told, and when the
name is none.

The last test has tcpserver look a name up, at a name server of our own in a
network namespace of its own."""
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading

from fakes.milter import Filter, number
from servers import Server, codes, example, message, spew, talk
from tap import (SMTPD, Session, PolicyService, Skip, folder, main, script,
                 tcp_pair, test)

NAME = "mail.example.net"
OWN = ["unshare", *([] if os.getuid() == 0 else ["--user", "--map-root-user"]),
       "--net"]
TCPSERVER = {"TCPREMOTEHOST": NAME, "TCPREMOTEIP": "127.0.0.1",
             "TCPREMOTEPORT": "9"}
WORLD = "192.0.2.7"


def told(env, *options, pair=None, before=()):
    """What each is told of a client: policy, filter, program, trace, log."""
    place = folder()
    program = script(place, f"env >{place}/env; cat >{place}/message")
    with PolicyService(place) as policy, \
         Filter(place, symbols=number(0, "{client_name}")) as milter, \
         Session("--policy", policy.place, "--milter", milter.place, *options,
                 "--relay-clients", "all", "--", program,
                 env=env, pair=pair) as s:
        s.start()
        for command in before:
            assert s.say(command)[0][:1] == "2", command
        assert s.deliver()[:3] == "250"
        s.finish()
        milter.wait()
        got = {f"policy {k}": [q[k] for q in policy.asked][-1] for k in
               ("client_name", "reverse_client_name", "client_address")}
        heard = dict(milter.heard)
        got["connect"] = heard["C"].split(b"\0")[0].decode()
        got["macro"] = milter.macros["C"]["{client_name}"]
        with open(f"{place}/env") as f:
            got["program"], = [l.rstrip("\n").partition("=")[2] for l in f
                               if l.startswith("CLIENT_HOSTNAME=")]
        with open(f"{place}/message") as f:
            got["trace"] = f.readline().rstrip("\n")
        got["log"], = [l for l in s.logged().splitlines()
                       if "event=message-relayed" in l]
    shutil.rmtree(place)
    return got


def name(env, *options, pair=None):
    """The client's name: all that are told of it are told the same."""
    got = told(env, *options, pair=pair)
    names = {got[k] for k in ("policy client_name", "macro", "program",
                              "policy reverse_client_name")}
    assert len(names) == 1, got
    known = names.pop()
    assert (f" name={known} " in got["log"]) == (known != "unknown"), got
    assert (" name=" in got["log"]) == (known != "unknown"), got
    return known


@test
def all_are_told_the_name_that_a_super_server_gives():
    for env, pair, address in (
            (TCPSERVER, tcp_pair(), "127.0.0.1"),
            ({"TCPREMOTEHOST": NAME, "TCPREMOTEIP": WORLD}, None, WORLD),
            ({"REMOTE_HOST": NAME, "REMOTE_ADDR": WORLD}, None, WORLD)):
        got = told(env, pair=pair)
        log = got.pop("log")
        assert f" client={address} name={NAME} helo=" in log, log
        assert got == {
            "policy client_name": NAME, "policy reverse_client_name": NAME,
            "policy client_address": address, "connect": NAME, "macro": NAME,
            "program": NAME,
            "trace": f"Received: from client.example.org ({NAME} [{address}])",
            }, got


@test
def a_client_on_a_socket_may_have_a_name_alone():
    assert name({"TCPREMOTEHOST": NAME}, pair=tcp_pair()) == NAME
    assert name({"REMOTE_HOST": NAME}, pair=tcp_pair()) == NAME
    assert name({"TCPREMOTEHOST": NAME, "TCPREMOTEIP": "::ffff:127.0.0.1"},
                pair=tcp_pair()) == NAME


@test
def a_name_that_is_another_clients_is_none():
    for env in ({**TCPSERVER, "TCPREMOTEIP": WORLD},
                {**TCPSERVER, "TCPREMOTEIP": "127.0.0.0/8"},
                {**TCPSERVER, "TCPREMOTEIP": "unix"},
                {**TCPSERVER, "TCPREMOTEIP": ""},
                {"REMOTE_HOST": NAME, "REMOTE_ADDR": "127.0.0.2"}):
        assert name(env, pair=tcp_pair()) == "unknown", env


@test
def a_name_without_any_address_is_none():
    for env in ({"TCPREMOTEHOST": NAME}, {"REMOTE_HOST": NAME},
                {"TCPREMOTEHOST": NAME, "TCPREMOTEIP": "/run/socket"}):
        got = told(env)
        assert got["program"] == "unknown", (env, got)


@test
def a_super_server_that_gives_no_name_leaves_it_unknown():
    for env in ({"REMOTE_ADDR": WORLD}, {"REMOTE_HOST": WORLD},
                {"REMOTE_HOST": "2001:db8::7"},
                {"TCPREMOTEIP": WORLD, "TCPREMOTEHOST": ""},
                {"TCPREMOTEIP": WORLD, "TCPREMOTEHOST": "unknown"}):
        assert name(env) == "unknown", env


@test
def what_is_no_host_name_is_none():
    label = "a" * 63
    long = f"{label}.{label}.{label}.{label[:61]}"
    assert len(long) == 253
    for text, good in (
            (long, True), (f"{long}a", False), (f"a{label}.example", False),
            ("_x.example.net", True), ("localhost", True), ("1.example", True),
            ("a..example", False), (".example", False), ("example.", False),
            ("-a.example", False), ("a-.example", False), ("a b", False),
            ("a.example\nx: y", False), ("a.example) (by", False),
            ("b\xfccher.example", False), ("192.0.2.7", False), ("7", False),
            ("example.7", False), ("[192.0.2.7]", False), ("x" * 3000, False)):
        got = name({**TCPSERVER, "TCPREMOTEHOST": text}, pair=tcp_pair())
        assert got == (text if good else "unknown"), (text, got)


@test
def what_a_proxy_says_of_the_client_replaces_the_name():
    got = told(TCPSERVER, "--xclient", "127.0.0.1", pair=tcp_pair(),
               before=["XCLIENT ADDR=192.0.2.9", "EHLO client.example.org"])
    assert got["program"] == got["macro"] == "unknown", got
    got = told(TCPSERVER, "--xclient", "127.0.0.1", pair=tcp_pair(), before=[
        "XCLIENT ADDR=192.0.2.9 NAME=b.example", "EHLO client.example.org"])
    assert got["program"] == got["policy client_name"] == "b.example", got
    got = told(TCPSERVER, "--xforward", "127.0.0.1", pair=tcp_pair(),
               before=["XFORWARD ADDR=192.0.2.9"])
    assert got["program"] == got["policy client_name"] == "unknown", got
    assert f"({NAME} [127.0.0.1])" in got["trace"], got
    got = told(TCPSERVER, "--xforward", "127.0.0.1", pair=tcp_pair(),
               before=["XFORWARD ADDR=192.0.2.9 NAME=b.example"])
    assert got["program"] == got["policy client_name"] == "b.example", got
    assert " client=192.0.2.9 name=b.example " in got["log"], got


@test
def a_PROXY_header_names_a_client_that_has_no_name():
    place = folder()
    program = script(place, f"env >{place}/env")
    with Session("--proxy-protocol", "--relay-clients", "all", "--", program,
                 env=TCPSERVER, pair=tcp_pair()) as s:
        s.send(b"PROXY TCP4 192.0.2.9 192.0.2.1 9 25\r\n")
        s.start()
        assert s.deliver()[:3] == "250"
        s.finish()
        with open(f"{place}/env") as f:
            got = f.read().splitlines()
    assert "CLIENT_ADDRESS=192.0.2.9" in got, got
    assert "CLIENT_HOSTNAME=unknown" in got, got
    shutil.rmtree(place)


# ---- tcpserver, which asks a name server --------------------------------

REVERSE = {"7.2.0.192.in-addr.arpa": NAME, "8.2.0.192.in-addr.arpa": NAME}


def answer(query):
    """The answer of a name server: both addresses are called NAME, which says
    that it is the first of them."""
    ident, at, labels = query[:2], 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    asked, kind = ".".join(labels).lower(), query[at + 1:at + 3]
    data = b""
    if kind == b"\0\x0c" and asked in REVERSE:
        data = b"".join(bytes([len(l)]) + l.encode()
                        for l in NAME.split(".")) + b"\0"
    elif kind == b"\0\x01" and asked == NAME:
        data = socket.inet_aton("192.0.2.7")
    head = ident + struct.pack(">HHHHH", 0x8180 if data else 0x8183, 1,
                               bool(data), 0, 0)
    found = b"\xc0\x0c" + kind + struct.pack(">HIH", 1, 60, len(data)) + data
    return head + query[12:at + 5] + (found if data else b"")


def serve_names(server):
    while True:
        query, client = server.recvfrom(512)
        server.sendto(answer(query), client)


def in_a_namespace(where):
    """Two clients of a tcpserver by its example, which looks names up.  Prints
    what the policy service was told of each."""
    for words in (("link", "set", "lo", "up"),
                  ("address", "add", "192.0.2.7/32", "dev", "lo"),
                  ("address", "add", "192.0.2.8/32", "dev", "lo")):
        subprocess.run([shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:"
                                     "/bin"), *words], check=True)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    threading.Thread(target=serve_names, args=[names], daemon=True).start()
    run = spew(f"{where}/run", example("tcpserver.run", {
        "exec tcpserver": "exec tcpserver -1",
        " -H ": " -p ", " 0 25 ": " 127.0.0.1 25 ",
        "@SBINDIR@/smtpd": f"{SMTPD} --nosetuid --policy unix:{where}/policy",
        "--live --relay-domains example.org smtp:[192.0.2.1]:25": "discard:"}))
    os.chmod(run, 0o755)
    os.environ["DNSCACHEIP"] = "127.0.0.1"
    with PolicyService(where) as policy, Server(run) as server:
        server.await_line("^25$")
        for address in ("192.0.2.7", "192.0.2.8"):
            got = codes(talk(socket.create_connection(
                ("127.0.0.1", 25), source_address=(address, 0)),
                *message("named")))
            assert got == "220 250 250 250 354 250 221", got
            last = policy.asked[-1]
            print(last["client_address"], last["client_name"], flush=True)


@test
def tcpserver_p_gives_a_name_only_where_it_is_verified():
    if shutil.which("tcpserver") is None:
        raise Skip("tcpserver (package ucspi-tcp) is not installed")
    if subprocess.run([*OWN, "true"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("no network namespaces here")
    where = folder()
    done = subprocess.run([*OWN, sys.executable, os.path.abspath(__file__),
                           "--in-a-namespace", where], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"192.0.2.7 {NAME}\n192.0.2.8 unknown\n", (
        done.stdout, done.stderr)
    shutil.rmtree(where)


if sys.argv[1:2] == ["--in-a-namespace"]:
    in_a_namespace(sys.argv[2])
else:
    main()
