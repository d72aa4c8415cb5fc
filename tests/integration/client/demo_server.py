"""A server on a recording that several tests share, as none of them breaks it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from tests.running import READY


class Demo:
    """A server on a recording, for the tests that leave it whole."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        flags = ("--websocket-port", "0", "--rate", "400", "--database-url", "sqlite:account.db")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "account_socket", "demo", *flags], cwd=directory, stderr=subprocess.PIPE
        )
        assert self.process.stderr is not None
        self.url = ""
        for line in self.process.stderr:
            if found := READY.search(line):
                self.url = found[0].decode()
            if b"watch" in line:
                break
        # Nobody else reads what it says from now on, and a pipe that is full would stop it.
        self._said = threading.Thread(target=self.process.stderr.read, daemon=True)
        self._said.start()
        self.http_url = self.url.replace("ws:", "http:").removesuffix("/ws")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._said.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
