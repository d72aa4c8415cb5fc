"""A client that follows accounts, connects again whenever it is cut off, and has an oracle watch what it sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from tests.faults.oracle import Oracle, Update
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

AGAIN_SECONDS = 0.05
OPEN_SECONDS = 2.0


class _Message(msgspec.Struct):
    type: str = ""
    code: str = ""


class Follower:
    """
    Follows `pubkeys` until cancelled.

    Args:
        url: returns where the server is now.

    Attributes:
        acked: whether the subscription of the connection that is open now was acknowledged.
        connections: how many were opened.
        errors: error frames of the server.
        stamped: called with each update, for measuring.
    """

    def __init__(self, url: Callable[[], str], pubkeys: Sequence[str], oracle: Oracle) -> None:
        self.oracle = oracle
        self.pubkeys = list(pubkeys)
        self.acked = False
        self.connections = 0
        self.errors: list[str] = []
        self.stamped: Callable[[Update], None] = lambda _: None
        self._url = url
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            with suppress(OSError, WebSocketException, TimeoutError, EOFError):
                await self._follow()
            self.acked = False
            await asyncio.sleep(AGAIN_SECONDS)

    async def _follow(self) -> None:
        async with connect(
            self._url(),
            compression=None,
            max_size=None,
            open_timeout=OPEN_SECONDS,
            ping_interval=None,
            close_timeout=0.2,
            proxy=None,
        ) as self._socket:
            self.connections += 1
            self.oracle.connected()
            await self._socket.send(json.dumps({"action": "subscribe", "pubkeys": self.pubkeys, "id": 1}))
            async for text in self._socket:
                self._take(text)

    def _take(self, text: str | bytes) -> None:
        try:
            update = msgspec.json.decode(text, type=Update)
        except msgspec.ValidationError:
            self._take_answer(msgspec.json.decode(text, type=_Message))
        else:
            self.oracle.take(update)
            self.stamped(update)

    def _take_answer(self, message: _Message) -> None:
        if message.type == "ack":
            self.acked = True
        else:
            self.errors.append(message.code)

    def leave(self) -> None:
        """Cut the connection; `run` opens another one."""
        if self._socket is not None:
            self._socket.transport.abort()
