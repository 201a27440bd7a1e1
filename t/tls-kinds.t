#!/usr/bin/env python3
"""tls-kinds.t - smtpd-tls server with every kind of key, in every form of file,
and with every cipher and group that it has."""
import base64
import os
import socket
import ssl
import subprocess

from engine import ENGINE
from tap import folder, main, test, unverified

WORK = folder()
V2, V3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def made(name, *words):
    """A key of that kind and its certificate; the files' names without end."""
    path = f"{WORK}/{name}"
    if not os.path.exists(path + ".pem"):
        subprocess.run(["openssl", "genpkey", "-out", path + ".key",
                        "-algorithm", *words], check=True,
                       stderr=subprocess.DEVNULL)
        subprocess.run(["openssl", "req", "-x509", "-key", path + ".key",
                        "-subj", "/CN=mx.example.org", "-days", "2", "-out",
                        path + ".pem"], check=True)
    return path


def ec(curve="P-256"):
    return made(curve, "EC", "-pkeyopt", "ec_paramgen_curve:" + curve)


def rsa():
    return made("rsa", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")


def session(path, version, ciphers=None):
    """A line each way.  Returns the report as a dict."""
    context = unverified()
    context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    outer, connection = socket.socketpair()
    clear, inner = socket.socketpair()
    report, told = os.pipe()
    with outer, connection, clear, inner, open(report, "rb") as heard:
        program = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3>&%d' % told, "sh", ENGINE, "server",
             "--cert", path + ".pem", "--key", path + ".key"],
            stdin=connection, stdout=inner, pass_fds=[told])
        connection.close()
        inner.close()
        os.close(told)
        try:
            with context.wrap_socket(outer) as peer:
                peer.sendall(b"EHLO client.example.net\r\n")
                assert clear.recv(100) == b"EHLO client.example.net\r\n"
                clear.sendall(b"250 mx.example.org\r\n")
                assert peer.recv(100) == b"250 mx.example.org\r\n"
                clear.close()
                assert peer.recv(100) == b""
        finally:
            clear.close()
            outer.close()
            said = heard.read().decode()
            status = program.wait()
        assert status == 0, (status, said)
        return dict(line.split("=", 1) for line in said.split("\n") if line)


def agreed(path, version, group):
    """What s_client says that it agreed on, if it has one group only."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = subprocess.Popen(
            ["openssl", "s_client", "-connect", "127.0.0.1:%d" %
             listener.getsockname()[1], version, "-groups", group],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        connection = listener.accept()[0]
    clear, inner = socket.socketpair()
    with connection, clear, inner:
        program = subprocess.Popen(
            [ENGINE, "server", "--cert", path + ".pem", "--key",
             path + ".key"], stdin=connection, stdout=inner)
        inner.close()
        connection.close()
        said = client.communicate()[0]
        clear.close()       # before, it would end the handshake
        program.wait()
    return said


def check(certificate, key):
    """What smtpd-tls check says of them, and its exit status."""
    done = subprocess.run([ENGINE, "check", "--cert", certificate, "--key",
                           key], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr, done.returncode


def refused(certificate, key):
    said, status = check(certificate, key)
    assert status == 78, (status, said)
    return said


def both(path):
    assert session(path, V2)["protocol"] == "TLSv1.2"
    assert session(path, V3)["protocol"] == "TLSv1.3"


@test
def keys_of_elliptic_curves():
    for curve in ("P-256", "P-384", "P-521"):
        both(ec(curve))


@test
def keys_of_edwards_curves():
    for kind in ("ED25519", "ED448"):
        both(made(kind, kind))


@test
def keys_of_rsa():
    both(rsa())
    both(made("pss", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"))


@test
def keys_in_other_forms():
    for path, tool, *how in ((ec(), "ec"), (rsa(), "rsa", "-traditional"),
                             (ec(), "ec", "-no_public"),
                             (ec(), "ec", "-conv_form", "compressed")):
        new = f"{WORK}/{tool}{''.join(how)}"
        subprocess.run(["openssl", tool, "-in", path + ".key", "-out",
                        new + ".key", *how], check=True,
                       stderr=subprocess.DEVNULL)
        with open(new + ".key", encoding="ascii") as file:
            assert file.readline() == f"-----BEGIN {tool.upper()} " \
                "PRIVATE KEY-----\n"
        os.link(path + ".pem", new + ".pem")
        both(new)


@test
def a_key_behind_parameters_of_its_curve():
    path = f"{WORK}/behind"
    with open(path + ".key", "wb") as file:
        for words in (["ecparam", "-name", "P-256"],
                      ["ec", "-in", ec() + ".key"]):
            file.write(subprocess.run(["openssl", *words], check=True,
                                      capture_output=True).stdout)
    os.link(ec() + ".pem", path + ".pem")
    both(path)


@test
def keys_that_are_none_or_another_certificates():
    cases = (
        (rsa(), made("rsa2", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
         "does not match the certificate"),
        (ec(), made("other", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
         "does not match the certificate"),
        (ec(), ec("P-384"), "does not match the certificate"),
        (ec(), rsa(), "does not match the certificate"),
        (rsa(), ec(), "does not match the certificate"),
        (ec(), made("ED25519", "ED25519"), "does not match the certificate"),
    )
    for certificate, key, why in cases:
        assert why in refused(certificate + ".pem", key + ".key"), key


@test
def keys_with_a_passphrase_are_not_asked_for_one():
    for path, tool in ((ec(), "ec"), (rsa(), "pkey")):
        new = f"{WORK}/{tool}-secret.key"
        subprocess.run(["openssl", tool, "-in", path + ".key", "-out", new,
                        "-aes128", "-passout", "pass:secret"], check=True,
                       stderr=subprocess.DEVNULL)
        assert "is not an unencrypted private key" in \
            refused(path + ".pem", new), new


@test
def damaged_keys():
    """Each is cut where it still is base64, or has one octet changed."""
    for path in (ec(), rsa()):
        der = subprocess.run(["openssl", "pkey", "-in", path + ".key",
                              "-outform", "DER"], check=True,
                             capture_output=True).stdout
        # Lengths and types stand in the first octets of all elements.
        for damaged in [der[:n] for n in (1, 2, 5, 26, 30, len(der) - 1)] + \
                [der[:n] + bytes([der[n] ^ 0xff]) + der[n + 1:]
                 for n in range(40)]:
            broken = f"{WORK}/broken.key"
            with open(broken, "wb") as file:
                file.write(b"-----BEGIN PRIVATE KEY-----\n" +
                           base64.encodebytes(damaged) +
                           b"-----END PRIVATE KEY-----\n")
            said, status = check(path + ".pem", broken)
            assert status in (0, 78), (status, said, damaged)
            assert status == 0 or "private key in PEM form" in said or \
                "does not match" in said, said


@test
def every_cipher_of_tls_1_2():
    for path, kind in ((ec(), "ECDSA"), (rsa(), "RSA")):
        for rest in ("AES128-GCM-SHA256", "AES256-GCM-SHA384",
                     "CHACHA20-POLY1305"):
            cipher = f"ECDHE-{kind}-{rest}"
            assert session(path, V2, cipher)["cipher"] == cipher


@test
def ciphers_of_tls_1_2_that_are_not_offered_are_not_used():
    for cipher in ("AES128-GCM-SHA256", "DHE-RSA-AES128-GCM-SHA256",
                   "ECDHE-RSA-AES128-SHA256"):
        try:
            session(rsa(), V2, cipher)
        except ssl.SSLError as error:
            assert error.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE", error
        else:
            raise AssertionError(cipher)


@test
def every_group():
    groups = ["X25519", "P-256", "P-384"]
    if ssl.OPENSSL_VERSION_INFO >= (3, 5):
        groups.append("X25519MLKEM768")
    for group in groups:
        said = agreed(ec(), "-tls1_3", group)
        assert "New, TLSv1.3, Cipher is TLS_" in said, (group, said)
    # In TLS 1.2 the curve of a certificate must be one of them, too.
    for group in groups[:3]:
        said = agreed(rsa(), "-tls1_2", group)
        assert "New, TLSv1.2, Cipher is ECDHE-RSA" in said, (group, said)
    assert "Cipher is (NONE)" in agreed(ec(), "-tls1_3", "P-521")


main()
