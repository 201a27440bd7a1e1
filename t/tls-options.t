#!/usr/bin/env python3
"""tls-options.t - the command line of smtpd-tls, and the files of
certificates and keys that it names."""
import os
import re
import subprocess
import tempfile

from engine import ENGINE
from tap import main, tcp_pair, test
from tls import (Engine, Peer, make_certificates, matches, no_process_is_left,
                 pair_args, path, same)


def refused(name, want, status, *argv, keep=()):
    near, far = tcp_pair()
    e = Engine(far, *argv, keep=keep)
    same(e.report(), "error=%s\n%s\n" % (
        want, "status=78\n" if status == 78 else ""), name)
    same(e.status(), status, "and exit %d" % status)
    near.close()


@test
def files_that_cannot_be_used_are_named_with_the_reason():
    ec = pair_args("ec")
    gone = path("gone.pem")
    refused("a certificate that is not there",
            "cannot read the certificate %s: No such file or directory"
            % gone, 78, "server", "--cert", gone, *ec[2:])
    refused("a file's name cannot become a line of the report",
            "cannot read the certificate a?b: No such file or directory",
            78, "server", "--cert", "a\nb", *ec[2:])
    refused("a key that is not there",
            "cannot read the key %s: No such file or directory" % gone, 78,
            "server", *ec[:2], "--key", gone)
    refused("a descriptor that is not there",
            "cannot read the certificate given as a descriptor: "
            "Bad file descriptor", 78,
            "server", "--certfd", "17", "--keyfd", "18")
    refused("a certificate that is none",
            "the certificate %s is not one in PEM form"
            % path("garbage.pem"), 78,
            "server", "--cert", path("garbage.pem"), *ec[2:])
    refused("a damaged one", "the certificate %s is not one in PEM form"
            % path("damaged.pem"), 78,
            "server", "--cert", path("damaged.pem"), *ec[2:])
    refused("a key of another kind",
            "the key %s does not match the certificate %s"
            % (path("rsa.key"), path("ec.pem")), 78,
            "server", *ec[:2], "--key", path("rsa.key"))
    refused("a key of another certificate",
            "the key %s does not match the certificate %s"
            % (path("ca.key"), path("ec.pem")), 78,
            "server", *ec[:2], "--key", path("ca.key"))
    refused("a key with a passphrase",
            "the key %s is not an unencrypted private key in PEM form"
            % path("locked.key"), 78,
            "server", *ec[:2], "--key", path("locked.key"))
    refused("one in the form of PKCS #8",
            "the key %s is not an unencrypted private key in PEM form"
            % path("locked8.key"), 78,
            "server", *ec[:2], "--key", path("locked8.key"))
    refused("a chain that is damaged, with a number for openssl errstr",
            "the chain of the certificate %s is damaged: "
            "OpenSSL error 04800064" % path("torn.pem"), 78, "server",
            "--cert", path("torn.pem"), "--key", path("deep.key"))
    refused("a certificate where the key should be",
            "the key %s is not an unencrypted private key in PEM form"
            % path("ec.pem"), 78,
            "server", *ec[:2], "--key", path("ec.pem"))
    refused("a key that is too short",
            "the certificate %s cannot be used: ee key too small"
            % path("small.pem"), 78, "server", *pair_args("small"))
    refused("two certificates of one kind",
            "the certificates %s and %s have the same kind of key"
            % (path("ec.pem"), path("client.pem")), 78,
            "server", *ec, *pair_args("client"))
    refused("a CA that is not there",
            "cannot read the CA certificates %s: No such file or directory"
            % gone, 78, "server", *ec, "--ca", gone)
    refused("a CA file without any",
            "there are no CA certificates in %s" % path("garbage.pem"), 78,
            "client", "--verify", "a.example", "--ca", path("garbage.pem"))


@test
def a_key_may_have_any_usual_form():
    for cert, key in (("ec", "ec-sec1"), ("ec", "ec-bare"),
                      ("ec", "ec-curve"), ("ec", "ec-both"),
                      ("ec", "ec-first"), ("rsa", "rsa-pkcs1"),
                      ("ed", "ed")):
        near, far = tcp_pair()
        e = Engine(far, "server", "--cert", path(cert + ".pem"), "--key",
                   path(key + ".key"))
        Peer(near).handshake()
        matches(r"(?m)^protocol=TLSv1\.3$", e.report(),
                "the key in %s.key serves" % key)
        same(e.end(), 0, "and exit 0")


@test
def a_wrong_command_line_is_told():
    ec = pair_args("ec")
    for name, want, argv in [
            ("no role",
             "the first argument is server, client, resident, check or "
             "digest", []),
            ("five pairs", "more than 4 certificates or keys",
             ["server"] + 5 * ec),
            ("a fingerprint that is none", '"x" is not a SHA-256 fingerprint',
             ["client", "--fingerprint", "x"]),
            ("no certificate",
             "a server needs certificates, and a key for each", ["server"]),
            ("a key missing",
             "a server needs certificates, and a key for each",
             ["server"] + ec + ec[:2]),
            ("a client with a key", "option --key is not known",
             ["client", "--key", "x"]),
            ("no argument", "option --ca needs an argument",
             ["client", "--ca"]),
            ("one too many", "argument x is one too many", ["client", "x"]),
            ("a time-out of 0", '"0" is not a number from 1 to 86400',
             ["client", "--timeout", "0"]),
            ("a time-out that is none",
             '"1s" is not a number from 1 to 86400',
             ["client", "--timeout", "1s"]),
            ("the report as key",
             '"3" is not a number from 4 to 2147483647',
             ["server", "--certfd", "4", "--keyfd", "3"]),
            ("an empty name to verify", "\"\" is not a host's name",
             ["client", "--verify", ""]),
            ("a name that fits many", "\".example\" is not a host's name",
             ["client", "--verify", ".example"])]:
        refused("usage: " + name, want, 64, *argv)
    for words, pattern in ((("--help", "-h"), r"usage: smtpd-tls server .*"
                            r"--fingerprint .*  -h, --help +print this\n"),
                           (("--version", "-V"), r"smtpd-tls \d[\d.]*\n")):
        for word in words:
            p = subprocess.run([ENGINE, word], text=True, stdin=
                               subprocess.DEVNULL, capture_output=True)
            same((p.returncode, p.stderr, bool(re.fullmatch(
                pattern, p.stdout, re.S))), (0, "", True),
                 f"{word} is answered")
    with open("src/tls/tls.c", encoding="utf-8") as f:
        known = set(re.findall(r'\{ "([a-z]+)", (?:required|no)_argument',
                               f.read()))
    help_ = subprocess.run([ENGINE, "--help"], text=True,
                           capture_output=True).stdout
    with open("src/tls/smtpd-tls.8", encoding="utf-8") as f:
        page = f.read()
    same([name for name in sorted(known) if f"--{name} " not in help_ or
          f"Fl -{name} " not in page], [], "every option is in --help and page")
    assert len(known) > 9, known
    with open(os.devnull) as f:
        with tempfile.TemporaryFile() as out:
            p = subprocess.run([ENGINE, "client"], stdin=f, stdout=out,
                               stderr=subprocess.PIPE)
            same((p.returncode, p.stderr, out.tell()),
                 (64, b"smtpd-tls: descriptor 0, the connection, is not a "
                  b"stream socket\n", 0),
                 "without descriptor 3 the error goes to standard error")


test(no_process_is_left)

if __name__ == "__main__":
    make_certificates()
    main()
