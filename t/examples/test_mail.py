#!/usr/bin/env python3
"""test_mail.py - how to test a program that sends mail, with Python's unittest:
smtpd on a free port of this machine, which keeps what it is sent in a Maildir.

    python3 t/examples/test_mail.py
"""
import mailbox
import os
import smtplib
import socket
import subprocess
import tempfile
import threading
import unittest
from email.message import EmailMessage


class Catcher:
    """with Catcher() as server: server.port, server.messages().  rules are the
    lines of --rules: how the server answers.  --nosetuid keeps root where root
    runs the tests, as in a container: the user nobody could not write to the
    folder."""

    def __init__(self, *rules):
        self.folder = tempfile.TemporaryDirectory()
        self.box = os.path.join(self.folder.name, "mail")
        with open(os.path.join(self.folder.name, "rules"), "w") as file:
            file.writelines(rule + "\n" for rule in rules)
        self.command = [os.environ.get("SMTPD", "smtpd"), "--nosetuid",
                        "--log-level", "err", "--rules", file.name,
                        "maildir:" + self.box]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sessions = []
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        """Starts a process for each connection, as inetd does."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:     # shut down
                return
            with client:
                self.sessions.append(subprocess.Popen(
                    self.command, stdin=client, stdout=client))

    def messages(self):
        """What was accepted: it is on the disk before the client knows."""
        return list(mailbox.Maildir(self.box, create=False)) if os.path.exists(
            self.box) else []

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        for session in self.sessions:
            session.wait()
        self.folder.cleanup()


def notify(port, to):
    """Stands for the program that is tested."""
    mail = EmailMessage()
    mail["Subject"] = "Your order"
    mail["From"], mail["To"] = "shop@example.org", ", ".join(to)
    mail.set_content("It is on its way.\n")
    with smtplib.SMTP("127.0.0.1", port) as client:
        return client.send_message(mail)


class TestMail(unittest.TestCase):
    def test_the_customer_gets_a_message(self):
        with Catcher() as server:
            notify(server.port, ["jo@example.net"])
            mail, = server.messages()
        self.assertEqual(mail["Subject"], "Your order")
        self.assertEqual(mail["Delivered-To"], "jo@example.net")
        self.assertEqual(mail.get_payload(), "It is on its way.\n")

    def test_a_full_mailbox_costs_the_others_nothing(self):
        with Catcher("RCPT full@* 452 4.2.2 Mailbox full") as server:
            refused = notify(server.port, ["jo@example.net",
                                           "full@example.net"])
            self.assertEqual(len(server.messages()), 1)
        self.assertEqual(refused, {
            "full@example.net": (452, b"4.2.2 Mailbox full")})

    def test_a_server_that_hangs_up_is_an_error(self):
        with Catcher("MAIL * close") as server:
            with self.assertRaises(smtplib.SMTPServerDisconnected):
                notify(server.port, ["jo@example.net"])
            self.assertEqual(server.messages(), [])


if __name__ == "__main__":
    unittest.main()
