"""engine.py - the TLS engine that stays, as tests start it."""
import os
import shutil
import socket
import subprocess
import tempfile

from tap import SMTPD, family

ENGINE = os.environ.get("ENGINE") or os.path.join(
    os.path.dirname(SMTPD), "smtpd-tls")


class Engine:
    """smtpd-tls resident, listening at where/tls.  Its certificate and key are
    where/now.pem and now.key: those of NAME, until put() replaces them."""

    def __init__(self, where, name, *options):
        self.where = where
        self.at = where + "/tls"
        self.put(name)
        old = os.umask(0)
        self.said = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [ENGINE, "resident", "--listen", self.at,
             "--cert", where + "/now.pem", "--key", where + "/now.key",
             *options], stderr=self.said)
        os.umask(old)
        while True:     # until it listens
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                if probe.connect_ex(self.at) == 0:
                    break
            assert self.process.poll() is None, self.errors()
        while family(self.process.pid):     # the process of the last probe
            pass

    def put(self, name, kinds=("pem", "key")):
        """NAME's certificate and key become those of the engine."""
        for kind in kinds:
            shutil.copy(f"{self.where}/{name}.{kind}", f"{self.where}/new")
            os.rename(f"{self.where}/new", f"{self.where}/now.{kind}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        os.unlink(self.at)

    def errors(self):
        self.said.seek(0)
        return self.said.read().decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self.said.close()
