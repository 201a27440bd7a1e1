"""provider.py - a next hop that wants AUTH, as providers have it, and answers
as Microsoft and Google document it.

It listens on a unix socket, which smtpd takes for as safe as TLS.  It knows
passwords and tokens, and remembers who sent what on which connection.
"""
import base64
import hashlib
import hmac

from fakes.server import Server

MICROSOFT = {
    "wrong": "535 5.7.3 Authentication unsuccessful [AM0PR01CA0001.example]",
    "off": "535 5.7.139 Authentication unsuccessful, "
           "SmtpClientAuthentication is disabled for the Tenant. "
           "Visit https://aka.example/smtp_auth_disabled for more "
           "information.",
    "denied": "550 5.7.60 SMTP; Client does not have permissions to send as "
              "this sender",
    "denied at the end": "554 5.2.252 SendAsDenied; jo@example.com not "
                         "allowed to send as kim@example.com",
    "busy": "432 4.3.2 Concurrent connections limit exceeded. Visit "
            "https://aka.example/concurrent_sending for more information.",
}
GOOGLE = {
    "json": '{"status":"400","schemes":"Bearer",'
            '"scope":"https://mail.example.com/"}',
    "wrong": "535-5.7.8 Username and Password not accepted. For more "
             "information, go to\r\n535 5.7.8  "
             "https://support.example.com/mail/?p=BadCredentials x - gsmtp",
    "app": "534-5.7.9 Application-specific password required. For more "
           "information, go to\r\n534 5.7.9  "
           "https://support.example.com/mail/?p=InvalidSecondFactor",
}


def b64(octets):
    if isinstance(octets, str):
        octets = octets.encode()
    return base64.b64encode(octets).decode()


class Hangup(OSError):
    pass


class Provider(Server):
    """passwords and tokens by user; answers: what is said instead, by verb
    ("AUTH PLAIN", "MAIL", "END"...), a text or a list, of which each is said
    once; json: the error in a 334 where a token is wrong."""

    def __init__(self, path, mechanisms, passwords=None, tokens=None,
                 answers=None, json=GOOGLE["json"], refused=None,
                 iterations=4096, forge=None):
        self.mechanisms = mechanisms
        self.passwords, self.tokens = passwords or {}, tokens or {}
        self.answers, self.json = dict(answers or {}), json
        self.refused = refused or "535 5.7.8 Authentication failed"
        self.iterations, self.forge = iterations, forge
        self.commands = []      # (connection, line)
        self.logins = []        # (connection, mechanism, user)
        self.messages = []      # (user or None, sender, text)
        super().__init__(path)

    def relay(self):
        return f"smtp:{self.at}"

    def key(self):
        return self.at

    def say(self, stream, text):
        stream.write(text.encode() + b"\r\n")
        stream.flush()

    def hear(self, stream, number):
        line = stream.readline()
        if not line.endswith(b"\r\n"):
            raise Hangup
        line = line[:-2].decode("utf-8", "surrogateescape")
        self.commands.append((number, line))
        return line

    def answer(self, verb, usual):
        """What is said to a verb: the first of its answers that is left."""
        ours = self.answers.get(verb)
        if isinstance(ours, list):
            return ours.pop(0) if ours else usual
        return ours or usual

    def talk(self, connection, read, number):
        with connection.makefile("rwb") as stream:
            self.converse(stream, number)

    def converse(self, stream, number):
        user, sender = None, None
        self.say(stream, self.answer("GREETING", "220 smtp.example.net"))
        while True:
            line = self.hear(stream, number)
            verb = line.split(":")[0].split(" ")[0].upper()
            if verb == "EHLO":
                self.say(stream, "250-smtp.example.net\r\n250-8BITMIME\r\n"
                         f"250-AUTH {self.mechanisms}\r\n250 PIPELINING")
            elif verb == "AUTH":
                user = self.auth(stream, number, line) or user
            elif verb == "MAIL":
                sender = line[line.index("<") + 1:line.index(">")]
                self.say(stream, self.answer("MAIL", "250 2.1.0 Ok")
                         if user else "530 5.7.57 Client not authenticated "
                         "to send mail")
            elif verb == "DATA":
                self.say(stream, "354 go")
                text = b""
                while not (text == b".\r\n" or text.endswith(b"\r\n.\r\n")):
                    octets = stream.readline()
                    if not octets:
                        raise Hangup
                    text += octets
                said = self.answer("END", "250 2.0.0 taken")
                if said[0] == "2":
                    self.messages.append((user, sender, text[:-3]))
                self.say(stream, said)
            elif verb == "QUIT":
                self.say(stream, "221 bye")
                return
            else:
                self.say(stream, self.answer(verb, "250 2.0.0 Ok"))

    def auth(self, stream, number, line):
        words = line.split(" ")
        name = words[1].upper()
        said = self.answer(f"AUTH {name}", None)
        if said:
            self.say(stream, said)
            return None

        def ask(challenge):
            self.say(stream, f"334 {b64(challenge)}")
            text = self.hear(stream, number)
            if text == "*":
                self.say(stream, "501 5.7.0 Cancelled")
                raise KeyError
            return base64.b64decode(text, validate=True)

        first = base64.b64decode(words[2], validate=True) if len(
            words) > 2 else None
        method = getattr(self, "auth_" + name.lower().replace("-", "_"))
        try:
            user = method(ask, first)
        except KeyError:
            return None
        if user:
            self.logins.append((number, name, user))
            self.say(stream, "235 2.7.0 Ok")
        else:
            self.say(stream, self.refused)
        return user

    def auth_plain(self, ask, first):
        _, user, password = (first or ask("")).decode().split("\0")
        return self.passwords.get(user) == password and user

    def auth_login(self, ask, first):
        user = (first or ask("Username:")).decode()
        return self.passwords.get(user) == ask("Password:").decode() and user

    def auth_cram_md5(self, ask, first):
        assert first is None
        challenge = "<1896.697170952@smtp.example.net>"
        user, _, digest = ask(challenge).decode().rpartition(" ")
        right = hmac.new(self.passwords.get(user, "?").encode(),
                         challenge.encode(), "md5").hexdigest()
        return digest == right and user

    def auth_scram_sha_256(self, ask, first):
        gs2, rest = first.decode()[:3], first.decode()[3:]
        assert gs2 == "n,,", first
        fields = dict(part.split("=", 1) for part in rest.split(","))
        user = fields["n"].replace("=2C", ",").replace("=3D", "=")
        salt = b"a salt of it's own"
        server = f"r={fields['r']}xyz,s={b64(salt)},i={self.iterations}"
        if self.forge == "nonce":
            server = "r=mine" + server[2:]
        final = ask(server).decode()
        bare, _, proof = final.rpartition(",p=")
        assert bare == f"c=biws,r={fields['r']}xyz", final
        salted = hashlib.pbkdf2_hmac(
            "sha256", self.passwords.get(user, "?").encode(), salt,
            self.iterations)

        def mac(key, text):
            return hmac.new(key, text.encode(), "sha256").digest()

        text = f"{rest},{server},{bare}"
        key = mac(salted, "Client Key")
        mask = mac(hashlib.sha256(key).digest(), text)
        if base64.b64decode(proof) != bytes(a ^ b for a, b in zip(key, mask)):
            return None
        signature = mac(mac(salted, "Server Key"), text)
        if self.forge == "signature":
            signature = bytes(32)
        assert ask(f"v={b64(signature)}") == b""
        return user

    def token(self, ask, user, token, farewell):
        if self.tokens.get(user) == token:
            return user
        if self.json:
            assert ask(self.json) == farewell
        return None

    def auth_xoauth2(self, ask, first):
        user, auth, *rest = (first or ask("")).decode().split("\1")
        assert rest == ["", ""] and user[:5] == "user=", first
        return self.token(ask, user[5:], auth.removeprefix("auth=Bearer "),
                          b"")

    def auth_oauthbearer(self, ask, first):
        gs2, *fields = (first or ask("")).decode().split("\1")
        assert fields[-2:] == ["", ""] and gs2[:4] == "n,a=", first
        assert gs2[-1] == "," and fields[0][:5] == "host=", fields
        user = gs2[4:-1].replace("=2C", ",").replace("=3D", "=")
        return self.token(ask, user, fields[2].removeprefix("auth=Bearer "),
                          b"\1")
