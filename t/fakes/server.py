"""server.py - what every fake server in Python is: it listens, and each
connection is a call of talk() in a thread of its own."""
import os
import socket
import threading


class Server:
    """At a port of 127.0.0.1, or the unix socket path.  at is that place as
    relays are written; connections counts those that came."""

    def __init__(self, path=None):
        self.path, self.connections, self.threads = path, 0, []
        if path:
            if os.path.exists(path):
                os.unlink(path)
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            os.chmod(path, 0o777)
            self.listener.listen()
            self.at = f"unix:{path}"
        else:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
            self.at = f"[127.0.0.1]:{self.port}"
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:     # shut down
                return
            if not self.path:   # each reply at once, not with the next ACK
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY,
                                      1)
            self.connections += 1
            self.admit(connection, self.connections)

    def admit(self, connection, number):
        thread = threading.Thread(target=self.serve, daemon=True,
                                  args=[connection, number])
        self.threads.append(thread)
        thread.start()

    def serve(self, connection, number):
        with connection:
            try:
                with self.under(connection) as stream, \
                        stream.makefile("rb") as read:
                    self.talk(stream, read, number)
            except OSError:     # the client has closed before it read all
                pass

    def under(self, connection):
        """The connection under what is spoken, perhaps TLS."""
        return connection

    def talk(self, connection, read, number):
        raise NotImplementedError

    def wait(self):
        """Until those who were connected are gone."""
        for thread in list(self.threads):
            thread.join()

    def settle(self):
        """The same, for clients who have come and gone."""
        if self.path:
            last = socket.socket(socket.AF_UNIX)
            last.connect(self.path)
        else:
            last = socket.create_connection(("127.0.0.1", self.port))
        with last:              # the others were accepted before it
            last.shutdown(socket.SHUT_WR)
            while last.recv(4096):
                pass
        self.wait()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join()
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
