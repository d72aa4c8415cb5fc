"""Running the server as its users do: as a process, told by its environment, reached through its port."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import websockets
from websockets.asyncio.client import ClientConnection

READY = re.compile(rb"ws://[^\s\"']+/ws")
QUIET = {"REDIS_URL": "memory://", "LOG_FORMAT": "json", "WEBSOCKET_PORT": "0"}


class ServerProcess:
    """
    `account-socket COMMAND` in a directory of its own; an async context manager that kills what is left.

    Attributes:
        url: the WebSocket URL it printed.
        stderr: what it has said so far.
    """

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = ("serve",),
        launch: Sequence[str] = (sys.executable, "-m", "account_socket"),
    ) -> None:
        self.directory = directory
        self.env = {**QUIET, **(env or {})}
        self.command = command
        self.launch = launch
        self.stderr = bytearray()
        self.stdout = bytearray()
        self.url = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start it and wait until it says where it listens."""
        clean = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "TMPDIR"}}
        self.url = ""
        seen, seen_on_stdout = len(self.stderr), len(self.stdout)
        self.process = await asyncio.create_subprocess_exec(
            *self.launch,
            *self.command,
            cwd=self.directory,
            env={**clean, **self.env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._readers = [
            asyncio.ensure_future(self._read(self.process.stdout, self.stdout)),
            asyncio.ensure_future(self._read(self.process.stderr, self.stderr)),
        ]
        async with asyncio.timeout(20):
            while not self.url:
                match = READY.search(self.stderr, seen) or READY.search(self.stdout, seen_on_stdout)
                if match:
                    self.url = match[0].decode()
                elif self.process.returncode is not None:
                    raise AssertionError(f"exited {self.process.returncode}: {self.stderr.decode()[-2000:]}")
                await asyncio.sleep(0.01)

    @staticmethod
    async def _read(stream: asyncio.StreamReader | None, into: bytearray) -> None:
        assert stream is not None
        while data := await stream.read(65536):
            into += data

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def http_url(self) -> str:
        """The same port for HTTP, without a path."""
        return self.url.replace("ws://", "http://").removesuffix("/ws")

    async def stop(self, seconds: float = 12) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.wait(seconds)

    async def wait(self, seconds: float = 12) -> int:
        """Wait for the end; the exit code."""
        async with asyncio.timeout(seconds):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code

    async def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self._readers)


class Client:
    """A well-behaved client that keeps what it saw; an async context manager."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.updates: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None

    async def __aenter__(self) -> Self:
        self.socket: ClientConnection = await websockets.connect(self.url, max_size=None, compression=None)
        self._reader = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()
        await self._reader

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                message = json.loads(text)
                if "account" in message:
                    self.updates.append(message)
                    self.arrived(message)
                else:
                    self.others.append(message)
        except websockets.ConnectionClosed:
            pass
        self.closed = (self.socket.close_code or 0, self.socket.close_reason or "")

    def arrived(self, update: dict[str, Any]) -> None:
        """Be told of each update as it comes; for subclasses."""

    async def send(self, **request: object) -> None:
        """Send one request."""
        await self.socket.send(json.dumps(request))

    async def ask(self, **request: object) -> dict[str, Any]:
        """Send a request with an id and return its answer."""
        request = {"id": f"ask-{len(self.others)}-{id(request)}", **request}
        await self.send(**request)
        async with asyncio.timeout(15):
            while True:
                for answer in self.others:
                    if answer.get("id") == request["id"]:
                        return answer
                assert not self._reader.done(), f"closed: {self.closed}"
                await asyncio.sleep(0.002)

    @property
    def ids(self) -> list[int]:
        """The ids of all updates seen, in order."""
        return [update["account"]["id"] for update in self.updates]
