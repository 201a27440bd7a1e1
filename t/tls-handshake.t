#!/usr/bin/env python3
"""tls-handshake.t - smtpd-tls agrees with openssl s_client and s_server, and
with peers made by hand, on a protocol, certificates and names, or refuses."""
import os
import re
import socket
import subprocess

from tap import main, tcp_pair, test
from tls import (Client, Engine, OtherServer, Peer, fingerprint,
                 make_certificates, matches, no_process_is_left, path, same,
                 server)


# As a server.

@test
def the_report_names_what_the_handshake_agreed_on():
    c = Client("-tls1_3", "-servername", "mx.example.org", brief=False)
    c.engine.report()
    same(c.engine.report(),
         "protocol=TLSv1.3\ncipher=TLS_AES_256_GCM_SHA384\n"
         "sni=mx.example.org\nsubject=\nissuer=\nfingerprint=\n\n",
         "the report of a TLS 1.3 handshake, to the octet")
    out, status = c.over()
    same(status, 0, "exit 0 when the clear text is closed")
    matches(r"Verify return code: 0 \(ok\)", out, "s_client verifies us")
    matches(r"Compression: NONE", out, "no compression")

    c = Client("-tls1_2", "-noservername")
    same(c.engine.report(),
         "protocol=TLSv1.2\ncipher=ECDHE-ECDSA-AES256-GCM-SHA384\n"
         "sni=\nsubject=\nissuer=\nfingerprint=\n\n",
         "the report of a TLS 1.2 handshake, without SNI")
    same(c.over()[1], 0, "and exit 0")


@test
def TLS_1_1_is_refused_with_an_alert():
    c = Client("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    same(c.engine.report(),
         "error=the TLS handshake failed: unsupported protocol\n\n",
         "TLS 1.1 is refused")
    out, status = c.over()
    same(status, 76, "with exit 76")
    matches("alert protocol version", out, "and an alert tells the client")


@test
def of_two_certificates_the_client_gets_one_that_it_can_verify():
    ecdsa, rsa = "ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256"
    for protocol, choose, kind, newer in [
            ("-tls1_3", ["-sigalgs", ecdsa], "ECDSA", ecdsa),
            ("-tls1_3", ["-sigalgs", rsa], "RSA-PSS", rsa),
            ("-tls1_2", ["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
             "ECDSA", ecdsa),
            ("-tls1_2", ["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
             "RSA-PSS", rsa)]:
        c = Client(protocol, *choose, names=("rsa", "ec"))
        out, status = c.over()
        # OpenSSL 3.5 calls them by their other names.
        matches(r"(?s)Signature type: (%s|%s)\n.*Verification: OK" %
                (kind, newer), out,
                "of two certificates, %s with %s" % (kind, protocol))
        same(status, 0, "and exit 0")
    c = Client(names=("chain",))
    matches("Verification: OK", c.over()[0], "a chain is sent whole")


@test
def the_better_group_that_a_client_has_is_agreed_on():
    """Of the groups of a client; it guesses the first, and hears if another
    one is better: then there is a second hello."""
    wanted = [("X25519:P-521", "X25519", 1), ("P-384:P-521", "secp384r1", 1),
              ("P-521:P-256", "prime256v1|secp256r1", 2)]
    if b"X25519MLKEM768" in subprocess.run(
            ["openssl", "list", "-kem-algorithms"],
            capture_output=True).stdout:        # OpenSSL 3.5
        wanted += [("X25519MLKEM768:X25519", "X25519MLKEM768", 1),
                   ("X25519:X25519MLKEM768", "X25519MLKEM768", 2),
                   ("SecP256r1MLKEM768:X25519", "X25519", 2)]
    for groups, best, hellos in wanted:
        c = Client("-msg", "-groups", groups)
        out, status = c.over()
        matches(r"(Temp Key|TLS1.3 group): (ECDH, )?(%s)\b" % best, out,
                "of %s the better one" % groups)
        same(len(re.findall(">>> .*ClientHello", out)), hellos,
             "after %d hello" % hellos)
        same(status, 0, "and exit 0")
    same(Client("-groups", "P-521").over()[1], 76, "none of ours is refused")


@test
def certificate_and_key_may_be_descriptors_and_others_are_closed():
    """A certificate that somebody has read already, a key in a pipe, and a
    descriptor that is none of its business."""
    key, write_key = os.pipe()
    stray, held = os.pipe()
    with open(path("ec.key"), "rb") as f:
        os.write(write_key, f.read())
    os.close(write_key)
    with open(path("ec.pem")) as cert:
        cert.read()
        near, far = tcp_pair()
        e = Engine(far, "server", "--certfd", "7", "--keyfd", "5",
                   keep=[(cert.fileno(), 7), (key, 5), (held, 9)])
    os.close(key)
    os.close(held)
    peer = Peer(near).handshake()
    same(e.values()["protocol"], "TLSv1.3",
         "certificate and key from descriptors, the former from its start")
    same(os.read(stray, 1), b"", "and other descriptors were closed")
    e.clear.sendall(b"x")
    same(peer.read(), b"x", "while it works")
    same(e.end(), 0, "and exit 0")
    os.close(stray)


@test
def a_client_certificate_is_asked_for_and_verified_with_ca():
    ca = ["--ca", path("ca.pem")]
    for name, cn, version in [("client", "J\u00fcrgen", "-tls1_3"),
                              ("client", "J\u00fcrgen", "-tls1_2"),
                              ("odd", "a?b?c", "-tls1_3")]:
        c = Client("-cert", path(name + ".pem"), "-key", path(name + ".key"),
                   version, more=ca)
        v = c.engine.values()
        same((v["subject"], v["issuer"], v["fingerprint"]),
             (cn, "Test CA", fingerprint(name)),
             "client certificate of %s verified, %s" % (cn, version))
        same(c.over()[1], 0, "and exit 0")
    for args, what in [(["stranger"], "of an unknown CA"), ([], "not shown")]:
        more = [w for a in args for w in ("-cert", path(a + ".pem"), "-key",
                                          path(a + ".key"))]
        c = Client(*more, more=ca)
        v = c.engine.values()
        same((v["protocol"], v["subject"], v["issuer"], v["fingerprint"]),
             ("TLSv1.3", "", "", ""),
             "client certificate %s: TLS, but nobody is named" % what)
        same(c.over()[1], 0, "and exit 0")
    c = Client("-cert", path("client.pem"), "-key", path("client.key"))
    same(c.engine.values()["subject"], "",
         "without --ca no certificate is asked for")
    c.over()


@test
def the_name_that_a_client_asks_for_is_reported_without_control_characters():
    for asked, want in [("xn--bcher-kva.example.org", None),
                        (b"a\r\n\x01b\x7f\xc3\xbc\xff.example",
                         "a???b????.example")]:
        c = Client("-servername", asked)
        same(c.engine.values()["sni"], want or asked,
             "SNI %r" % (asked,))
        same(c.over()[1], 0, "and exit 0")


@test
def a_client_may_not_renegotiate():
    c = Client("-tls1_2", brief=False)
    c.engine.report()
    c.p.stdin.write(b"R\n")
    c.p.stdin.flush()
    out = c.p.stdout.read().decode(errors="replace")
    c.p.wait()
    matches("no renegotiation", out, "the client may not renegotiate")
    same(c.engine.clear.recv(1), b"",
         "and that s_client gives up then is an end of file to us")
    same(c.engine.end(), 74, "with exit 74")


@test
def no_session_ticket_is_given():
    for version in ("-tls1_2", "-tls1_3"):
        c = Client(version, "-msg", "-trace", brief=False)
        out, status = c.over()
        assert "NewSessionTicket" not in out and "Finished" in out, out


@test
def peers_that_speak_no_TLS_or_leave_or_are_silent_are_told_apart():
    near, far = tcp_pair()
    e = server(far)
    near.sendall(b"EHLO client.example.org\r\n")
    same(e.report(), "error=the TLS handshake failed: "
         "wrong version number\n\n", "a client that speaks SMTP")
    same(e.status(), 76, "and exit 76")

    near, far = tcp_pair()
    e = server(far)
    near.sendall(b"GET / HTTP/1.0\r\n\r\n")
    same(e.report(), "error=the TLS handshake failed: http request\n\n",
         "a client that speaks HTTP")
    same(e.status(), 76, "and exit 76")

    for octets, what, when in [
            (b"", "nothing", "before"),
            (b"\x16\x03\x01\x02\x00\x01", "half a greeting", "during")]:
        near, far = tcp_pair()
        e = server(far)
        near.sendall(octets)
        near.shutdown(socket.SHUT_WR)
        same(e.report(), f"error=the connection ended {when} the TLS "
             "handshake\n\n", "a client that sends %s and leaves" % what)
        same(e.status(), 76, "and exit 76")

    near, far = tcp_pair()
    e = server(far, more=["--timeout", "1"])
    near.sendall(b"\x16\x03\x01")
    same(e.report(), "error=the TLS handshake did not end within 1 s\n\n",
         "a client that falls silent")
    same(e.status(), 75, "and exit 75")

    near, far = tcp_pair()
    e = server(far)
    e.clear.close()
    same(e.report(), "error=the clear-text end was closed during the TLS "
         "handshake\n\n", "our own side gives up during the handshake")
    same(e.status(), 74, "and exit 74")

    near, far = tcp_pair()
    e = Engine(far, "client")
    near.sendall(b"220 mx.example.org ESMTP\r\n")
    same(e.report(), "error=the TLS handshake failed: "
         "wrong version number\n\n", "a server that speaks SMTP")
    same(e.status(), 76, "and exit 76")

    near, far = tcp_pair()
    e = server(far)
    peer = Peer(near).handshake()
    peer.send(b"before")
    same(e.clear.recv(6), b"before", "octets before a forged record")
    near.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    same(e.clear.recv(6), b"", "a forged record ends the clear text")
    same(e.end(), 74, "and exit 74")


# As a client.

@test
def verify_accepts_the_right_name_and_authority_only():
    ca = ["--ca", path("ca.pem")]
    s = OtherServer("--verify", "mx.example.org", *ca)
    v = s.engine.values()
    same((v["protocol"], v["subject"], v["issuer"], v["fingerprint"]),
         ("TLSv1.3", "mx.example.org", "Test CA", fingerprint("ec")),
         "--verify with the right name")
    same(s.over()[1], 0, "and exit 0")
    s = OtherServer("--verify", "mx.example.org.", *ca, cert="rsa",
                    tls=["-tls1_2"])
    same((s.engine.values()["protocol"], s.engine.values()["cipher"]),
         ("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"),
         "a dot at the end, RSA, TLS 1.2")
    same(s.over()[1], 0, "and exit 0")
    s = OtherServer("--verify", "127.0.0.1", *ca)
    same(s.engine.values()["subject"], "mx.example.org",
         "--verify with an address")
    same(s.over()[1], 0, "and exit 0")
    s = OtherServer("--verify", "mx.example.org", *ca, cert="deep")
    same(s.engine.values()["issuer"], "Middle CA", "a chain of three")
    same(s.over()[1], 0, "and exit 0")
    for anchor, cert in [("mid", "deep"), ("ec", "ec")]:
        s = OtherServer("--verify", "mx.example.org", "--ca",
                        path(anchor + ".pem"), cert=cert)
        same(s.engine.values()["fingerprint"], fingerprint(cert),
             "what --ca names is trusted, root or not: " + anchor)
        same(s.over()[1], 0, "and exit 0")
    for name, cert, cafile, why in [
            ("wrong.example.org", "ec", "ca", "hostname mismatch"),
            ("127.0.0.2", "ec", "ca", "IP address mismatch"),
            # RFC 9525: its common name alone has this name.
            ("mx.example.org", "unnamed", "ca", "hostname mismatch"),
            ("mx.example.org", "expired", "ca", "certificate has expired"),
            ("mx.example.org", "ec", "other",
             "unable to get local issuer certificate"),
            ("mx.example.org", "ca", "other", "self-signed certificate"),
            ("mx.example.org", "small", "ca", "EE certificate key too weak")]:
        s = OtherServer("--verify", name, "--ca", path(cafile + ".pem"),
                        cert=cert, tls=["-cipher", "ALL:@SECLEVEL=0"])
        same(s.engine.report(), "error=the certificate of %s cannot be "
             "trusted: %s\n\n" % (name, why), "--verify: " + why)
        same(s.over()[1], 76, "and exit 76")
    s = OtherServer("--verify", "mx.example.org")
    matches("^error=the certificate of mx.example.org cannot be trusted: "
            "unable to get local issuer certificate\n\n$", s.engine.report(),
            "without --ca the system's CA certificates count")
    same(s.over()[1], 76, "and exit 76")
    os.environ["SSL_CERT_FILE"] = path("ca.pem")
    s = OtherServer("--verify", "mx.example.org")
    same(s.engine.values()["subject"], "mx.example.org",
         "or those of SSL_CERT_FILE")
    same(s.over()[1], 0, "and exit 0")
    del os.environ["SSL_CERT_FILE"]


@test
def without_verify_every_certificate_will_do():
    for cert in ("expired", "small", "ca"):
        s = OtherServer(cert=cert, tls=["-cipher", "ALL:@SECLEVEL=0"])
        v = s.engine.values()
        same((v["protocol"], v["subject"], v["fingerprint"]),
             ("TLSv1.3", "", ""), "without --verify anything goes: " + cert)
        same(s.over()[1], 0, "and exit 0")
    s = OtherServer(tls=["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
    matches("^error=the TLS handshake failed: .*protocol", s.engine.report(),
            "but not TLS 1.1")
    same(s.over()[1], 76, "and exit 76")


@test
def a_client_asks_for_the_name_of_sni_or_verify():
    for args, want in [(["--sni", "a.example.org"], "a.example.org"),
                       (["--sni", "127.0.0.1"], None),
                       ([], None),
                       (["--verify", "mx.example.org", "--ca",
                         path("ca.pem")], "mx.example.org"),
                       (["--verify", "mx.example.org", "--sni",
                         "b.example.org", "--ca", path("ca.pem")],
                        "b.example.org"),
                       (["--verify", "127.0.0.1", "--ca", path("ca.pem")],
                        None)]:
        near, far = tcp_pair()
        e = Engine(far, "client", *args)
        peer = Peer(near, is_server=True)
        asked = []
        peer.tls.context.sni_callback = \
            lambda tls, name, context: asked.append(name)
        peer.handshake()
        e.report()
        same(asked, [want], "SNI sent with %s" % (args[::2],))
        same(e.end(), 0, "and exit 0")


test(no_process_is_left)

if __name__ == "__main__":
    make_certificates()
    main()
