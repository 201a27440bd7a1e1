#!/usr/bin/env python3
"""smuggling.t - nothing that a client sends as text becomes a command: not
here, and not at the next hop, however laxly that reads."""
import os
import re
import shutil
import socket
import struct

from fakes.hop import (EVIL, START, VARIANTS, Client, Hop, bare, codes, ends)
from tap import HELLO, certificate, folder, lines, main, script, test

DATA = ("PIPELINING", "SIZE", "8BITMIME")
BDAT = (*DATA, "CHUNKING", "BINARYMIME", "SMTPUTF8", "DSN")


def cuts(variant):
    """The session as one packet, and cut around and inside of the end."""
    rest = EVIL + b"\r\n.\r\nQUIT\r\n"
    yield [START + variant + rest]
    yield [START, *(bytes([octet]) for octet in variant), rest]
    for at in range(1, len(variant)):
        yield [START + variant[:at], variant[at:] + rest]


@test
def text_that_looks_like_an_end_ends_nothing():
    for variant in VARIANTS:
        for packets in cuts(variant):
            client = Client("print:")
            got = codes(client.talk(*packets))
            # 220, EHLO, MAIL, RCPT, 354, the message, QUIT: no more, no less
            final = 550 if bare(variant) else 250
            assert got == [220, 250, 250, 250, 354, final, 221], \
                (variant, packets[1:], got)
            assert client.logged.count("mail from: <a@") == (final == 250)
            assert "mail from: <evil" not in client.logged, variant


@test
def normalized_text_ends_nothing_either():
    for variant in VARIANTS:
        got = codes(Client("--bare-newline", "normalize", "discard:").talk(
            START + variant + EVIL + b"\r\n.\r\nQUIT\r\n"))
        assert got == [220, 250, 250, 250, 354, 250, 221], (variant, got)


# --- what goes out

def relayed(hop, mode, packets, *arguments):
    """The session's replies; the hop knows the rest."""
    hop.forget()
    got = codes(Client("--bare-newline", mode, "--no-received", *arguments,
                       hop.relay()).talk(*packets))
    hop.settle()
    return got


def sane(hop, got, about):
    """As many messages as were acknowledged; one end each; and no command
    that we did not mean."""
    finals = [got[i + 1] for i, code in enumerate(got[:-1]) if code == 354]
    assert len(hop.messages) == finals.count(250), (about, got, hop.messages)
    for text in hop.texts:
        assert ends(text) == 1 and text.endswith(b"\r\n.\r\n"), (about, text)
        assert not bare(text), (about, text)
    for command in hop.told():
        assert re.fullmatch("(EHLO|LHLO|MAIL|RCPT|DATA|BDAT|QUIT|RSET)"
                            r"[^\0-\x1f\x7f]*", command), (about, command)


def expected(mode, variant):
    """What a message with that in it becomes; None: it is not taken."""
    text = b"Subject: x\r\n\r\nbefore" + variant + EVIL + b"\r\n"
    if mode == "normalize":
        text = re.sub(rb"\r\n|\r|\n", b"\r\n", text).replace(b"\0", b"")
    elif bare(variant):
        return None
    # The client's stuffing goes away.
    return re.sub(rb"(\r\n)\.", rb"\1", text) if mode != "normalize" else text


def all_variants(hop, mode):
    for variant in VARIANTS:
        packets = [START + variant + EVIL + b"\r\n.\r\nQUIT\r\n"]
        got = relayed(hop, mode, packets)
        sane(hop, got, (mode, variant))
        if mode == "unix":
            continue
        wanted = expected(mode, variant)
        assert len(hop.messages) == (wanted is not None), (variant, got)
        if wanted and mode == "reject":
            assert hop.messages[0] == wanted, (variant, hop.messages)
        if wanted:
            assert "evil@example.org" not in "".join(hop.told())


def each_mode(hop):
    try:
        for mode in ("reject", "normalize", "unix"):
            all_variants(hop, mode)
    finally:
        hop.close()


@test
def by_data_each_message_has_one_end_however_it_is_read():
    each_mode(Hop(extensions=DATA))


@test
def by_bdat_each_message_is_as_long_as_it_says():
    each_mode(Hop(extensions=BDAT))


@test
def by_lmtp_each_message_has_one_end_however_it_is_read():
    each_mode(Hop(extensions=DATA, lmtp=True))


@test
def without_pipelining_too():
    each_mode(Hop(extensions=()))


@test
def a_message_that_came_by_bdat_is_stuffed_for_a_hop_that_has_none():
    for hop in (Hop(extensions=DATA), Hop(extensions=BDAT),
                Hop(extensions=DATA, lmtp=True)):
        for variant in [b"\r\n.\r\n", *VARIANTS]:
            text = b"Subject: x\r\n\r\nbefore" + variant + EVIL + b"\r\n"
            for chunks in ([text], [text[:25], text[25:]],
                           [bytes([octet]) for octet in text[:40]] +
                           [text[40:]]):
                packets = [lines(HELLO, "MAIL FROM:<a@b>", "RCPT TO:<c@d>")]
                for chunk in chunks[:-1]:
                    packets.append(b"BDAT %d\r\n" % len(chunk) + chunk)
                packets.append(b"BDAT %d LAST\r\n" % len(chunks[-1]) +
                               chunks[-1] + lines("QUIT"))
                got = relayed(hop, "reject", packets)
                assert len(got) == 4 + len(chunks) + 1, (variant, got)
                taken = got[-2] == 250
                assert taken == (not bare(variant)), (variant, got)
                assert hop.messages == ([text] if taken else []), variant
                for raw in hop.texts:
                    assert ends(raw) == 1, (variant, raw)
        hop.close()


@test
def binary_text_goes_where_it_can_and_nowhere_else():
    for variant in VARIANTS:
        text = b"Subject: x\r\n\r\nbefore" + variant + EVIL
        packets = [lines(HELLO, "MAIL FROM:<a@b> BODY=BINARYMIME",
                         "RCPT TO:<c@d>") +
                   b"BDAT %d LAST\r\n" % len(text) + text + lines("QUIT")]
        for hop in (Hop(extensions=BDAT), Hop(extensions=DATA)):
            got = relayed(hop, "reject", packets)
            chunks = "CHUNKING" in hop.extensions
            assert got[-2] == (250 if chunks else 554), (variant, got)
            assert hop.messages == ([text] if chunks else []), variant
            hop.close()


@test
def a_file_or_a_program_gets_lines_and_nothing_but_lines():
    place = folder()
    program = script(place, f"cat >{place}/message")
    for mode in ("reject", "normalize", "unix"):
        for crlf in (False, True):
            for variant in VARIANTS:
                path = f"{place}/message"
                if os.path.exists(path):
                    os.unlink(path)
                got = codes(Client(
                    "--bare-newline", mode, "--no-received",
                    *(["--crlf"] if crlf else []), "--", program).talk(
                        START + variant + EVIL + b"\r\n.\r\nQUIT\r\n"))
                if 250 not in [got[i + 1] for i, code in enumerate(got)
                               if code == 354]:
                    assert not os.path.exists(path), (mode, variant)
                    continue
                with open(path, "rb") as f:
                    text = f.read()
                assert not bare(text) if crlf else b"\r" not in text, \
                    (mode, variant, text)
                if mode == "reject":
                    wanted = expected(mode, variant)
                    assert text == (wanted if crlf else
                                    wanted.replace(b"\r\n", b"\n"))
    shutil.rmtree(place)


@test
def a_maildir_gets_one_file_for_each_acknowledged_message():
    place = folder()
    for mode in ("reject", "normalize", "unix"):
        for variant in VARIANTS:
            got = codes(Client("--bare-newline", mode, f"maildir:{place}/box")
                        .talk(START + variant + EVIL + b"\r\n.\r\nQUIT\r\n"))
            finals = [got[i + 1] for i, code in enumerate(got) if code == 354]
            new = os.listdir(f"{place}/box/new") \
                if os.path.exists(f"{place}/box/new") else []
            assert len(new) == finals.count(250), (mode, variant, got)
            for name in new:
                with open(f"{place}/box/new/{name}", "rb") as f:
                    assert b"\r" not in f.read(), (mode, variant)
                os.unlink(f"{place}/box/new/{name}")
    shutil.rmtree(place)


# --- commands

ADDRESSES = [
    b'<"a\rRCPT TO:<evil@b>"@b>', b"<a@b>\rRCPT TO:<evil@b>",
    b"<a\0@b>", b"<a@b\r>", b'<"a\\\r"@b>', b"<a@b> SIZE=1\rRCPT TO:<evil@b>",
    b"<a@b>\0RCPT TO:<evil@b>", b"<a\x7f@b>", b"<a\x1b@b>",
    b"<a@b> BODY=8BITMIME\0", b'<"\t"@b>', b"<a\xc2\x85b@c>",
    b"<a\xe2\x80\xa8b@c>", b"<a@b> RET=FULL\rX ENVID=x", b"<a@b> ENVID=\x0b",
    b"<a@b>\x0bRCPT TO:<evil@b>", b"<a@b>\r\rRCPT TO:<evil@b>",
    b"<a b@c>", b"<a@b>,<evil@b>", b"<a@b>> RCPT TO:<evil@b",
    b"<a>evil@b", b"<a@b> AUTH=<> \r", b"<<evil@b>", b"<a@[\r]>",
]


@test
def nothing_in_an_address_or_a_parameter_becomes_a_command():
    hop = Hop(extensions=BDAT)
    for address in ADDRESSES:
        for smtputf8 in ((), ("-u",)):
            for first, second in (
                    (b"MAIL FROM:" + address, b"RCPT TO:<c@d>"),
                    (b"MAIL FROM:<a@b>", b"RCPT TO:" + address)):
                got = relayed(hop, "reject", [
                    lines(HELLO, first, second, "DATA", "Subject: x", ".",
                          "QUIT")], *smtputf8)
                # One reply for each command; if DATA was refused there is
                # one for each of the two lines of text.
                count = 7 if 354 in got else 8
                assert len(got) == count, (address, got)
                sane(hop, got, address)
                seen = "\n".join(hop.told())
                # As one word in a quoted string it is nobody's command.
                assert not re.search("(?m)^RCPT TO:<evil", seen), seen
    hop.close()


def proxy(*words):
    return " ".join(words).encode() + b"\r\n"


def proxy2(rest, length=None):
    body = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + \
        struct.pack("!HH", 99, 25) + rest
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(
        "!H", len(body) if length is None else length) + body


@test
def nothing_in_a_proxy_header_becomes_a_command():
    good = proxy("PROXY", "TCP4", "192.0.2.1", "192.0.2.2", "99", "25")
    evil = lines("MAIL FROM:<evil@b>")
    rest = lines("NOOP", "QUIT")
    served = [220, 250, 221]
    for header, wanted in (
            (good, served),
            (proxy2(b""), served),
            # A TLV that is full of commands is a TLV.
            (proxy2(struct.pack("!BH", 0xe0, len(evil)) + evil), served),
            # Longer than its addresses: the rest is TLVs.
            (proxy2(evil), served),
            (good + good, [220, 500, 250, 221]),
            (proxy2(b"") + good, [220, 500, 250, 221]),
            # These are turned away without a reply, and nothing is obeyed.
            (good[:-2] + b"\n", []), (good[:-2] + b"\r", []),
            (good[:-2] + b" " + evil, []), (b"\r\n" + good, []),
            (good.replace(b"99", b"99\r"), []),
            (good.replace(b"99", b"99\n"), []),
            (good.replace(b"99", b"99\0"), []),
            (b"PROXY " + b"x" * 200 + b"\r\n", []),
            (proxy2(b"", 11), []), (proxy2(b"", 65535), []),
            (b"EHLO x\r\n", []), (evil, [])):
        got = codes(Client("--proxy-protocol", "discard:").talk(header + rest))
        assert got == wanted, (header, got)


@test
def what_follows_starttls_in_the_clear_is_dropped():
    place = folder()
    certificate(place, "mx", "mx.example.org")
    got = codes(Client("--tlscert", f"{place}/mx.pem", "--tlskey",
                       f"{place}/mx.key", "discard:").talk(
        lines(HELLO, "STARTTLS", "MAIL FROM:<evil@b>", "NOOP", "QUIT")))
    assert got == [220, 250, 220], got
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
