"""distance.py - a server that is far away, for bench.py: a proxy that holds
each octet for a while, in both directions, and a client that names many
recipients."""
import asyncio
import contextlib
import socket
import threading
import time


class Far:
    """Listens at port, and is the way to a server at another port of this
    host.  What either side sends arrives delay seconds later, its first packet
    and its end included."""

    def __init__(self, server, delay):
        self.server, self.delay = server, delay
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self.stopped = asyncio.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete,
                                       args=[self.serve()], daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join()
        self.loop.close()

    async def serve(self):
        joined = set()

        def join(read, write):
            one = asyncio.ensure_future(self.join(read, write))
            joined.add(one)
            one.add_done_callback(joined.discard)

        async with await asyncio.start_server(join, sock=self.listener):
            await self.stopped.wait()
        # One end may wait for the other to close.
        for one in set(joined):
            one.cancel()
        await asyncio.gather(*joined, return_exceptions=True)

    async def join(self, read, write):
        await asyncio.sleep(self.delay)
        far_read, far_write = await asyncio.open_connection("127.0.0.1",
                                                            self.server)
        try:
            await asyncio.gather(self.carry(read, far_write),
                                 self.carry(far_read, write))
        finally:
            for end in (write, far_write):
                end.close()

    async def carry(self, read, write):
        """Reads on while what was read before is under way."""
        waiting = asyncio.Queue()

        async def arrive():
            while True:
                due, octets = await waiting.get()
                await asyncio.sleep(due - self.loop.time())
                if not octets:
                    with contextlib.suppress(OSError):
                        write.write_eof()
                    return
                write.write(octets)

        async def depart():
            octets = b"..."
            while octets:
                try:
                    octets = await read.read(65536)
                except OSError:
                    octets = b""
                waiting.put_nowait((self.loop.time() + self.delay, octets))

        await asyncio.gather(arrive(), depart())


def session(port, recipients, pipelined):
    """One with a message of 1 kB: the seconds until its last dot is answered,
    and until QUIT is."""
    envelope = ["MAIL FROM:<sender@example.com>"] + [
        "RCPT TO:<recipient%d@example.org>" % i for i in range(recipients)
    ] + ["DATA"]
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as sock, \
            sock.makefile("rb") as read:

        def heard(count=1):
            while count:
                line = read.readline()
                if line[:1] not in (b"2", b"3"):
                    raise OSError("refused: %r" % line)
                count -= line[3:4] == b" "

        def say(*lines):
            sock.sendall("".join(line + "\r\n" for line in lines).encode())
            heard(len(lines))

        heard()
        say("EHLO client.example.com")
        for group in [envelope] if pipelined else [[e] for e in envelope]:
            say(*group)
        sock.sendall((b"x" * 78 + b"\r\n") * 12 + b".\r\n")
        heard()
        relayed = time.monotonic() - start
        say("QUIT")
        return relayed, time.monotonic() - start
