"""A real listener with a real hub for tests, and a client that speaks raw bytes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.samples import KEY_A, update

from account_socket.hub.hub import Hub
from account_socket.metrics import Metrics
from account_socket.model import StoredState
from account_socket.server.http import Readiness
from account_socket.server.limits import Limits
from account_socket.server.listener import Listener

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ANSWER_SECONDS = 10.0


@dataclass
class Served:
    """
    Attributes:
        stored: what `load` finds, by pubkey; everything else is unknown.
        foreign: accounts that belong to another program.
        holding: while set, `load` answers nothing.
    """

    hub: Hub
    listener: Listener
    metrics: Metrics
    stored: dict[str, StoredState] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    loads: list[list[str]] = field(default_factory=list)
    holding: bool = False
    last_id: int = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.listener.port}/ws"

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.listener.port}"

    def publish(self, pubkey: str = KEY_A, *, size: int = 0) -> int:
        """Publish a new update of `pubkey`; return its id."""
        self.last_id += 1
        self.hub.publish(update(self.last_id, pubkey, data_json=b'"%b"' % (b"x" * size)))
        return self.last_id

    def settle(self, pubkeys: Sequence[str]) -> None:
        for pubkey in pubkeys:
            state = self.stored.get(pubkey)
            self.hub.settle(pubkey, state, "database", foreign=pubkey in self.foreign)


@asynccontextmanager
async def serving(readiness: Readiness = lambda: (200, {"status": "ok"}), **limits: Any) -> AsyncIterator[Served]:
    """Run a listener for the block, with these `Limits`; `reads`, if given, is what HTTP clients read from."""
    reads = limits.pop("reads", None)
    loop = asyncio.get_running_loop()
    served: Served

    def load(pubkeys: Sequence[str]) -> None:
        served.loads.append(list(pubkeys))
        if not served.holding:
            loop.call_soon(served.settle, pubkeys)

    hub = Hub(schedule=loop.call_soon, load=load, is_foreign=lambda pubkey: pubkey in served.foreign)
    metrics = Metrics()
    listener = Listener(
        "127.0.0.1",
        0,
        hub=hub,
        epoch="e1",
        readiness=readiness,
        metrics=metrics,
        limits=Limits(**limits),
        reads=reads,
    )
    served = Served(hub, listener, metrics)
    await listener.start()
    try:
        yield served
    finally:
        await listener.drain(2.0)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """Return one client frame, well formed or not."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def request_head(path: str = "/ws", method: str = "GET", version: str = "HTTP/1.1", **changed: str | None) -> bytes:
    """Return a WebSocket handshake; a header given as None is left out, `_` in a name stands for `-`."""
    headers: dict[str, str | None] = {
        "Host": "127.0.0.1",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }
    headers.update({name.replace("_", "-"): value for name, value in changed.items()})
    lines = [
        f"{method} {path} {version}",
        *(f"{name}: {value}" for name, value in headers.items() if value is not None),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class RawClient:
    """A socket; every read ends within ANSWER_SECONDS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def say(self, request: object) -> None:
        """Send a request as one text frame."""
        self.send(frame(TEXT, json.dumps(request).encode()))

    async def shake_hands(self) -> None:
        self.send(request_head())
        head = await self.read_head()
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def read_head(self) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def read_rest(self) -> bytes:
        """Return everything until the server ends the stream."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self.reader.read()

    async def read_frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(ANSWER_SECONDS):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(size)

    async def read_message(self) -> Any:
        """Return the next text message as JSON, skipping control frames."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == TEXT:
                return json.loads(payload)
            assert opcode in {PING, PONG}, (opcode, payload)

    async def read_close(self) -> tuple[int, str]:
        """Return the code and reason of the close frame, skipping what comes before it."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == CLOSE:
                code: int
                (code,) = struct.unpack("!H", payload[:2])
                return code, payload[2:].decode()


@asynccontextmanager
async def raw_client(served: Served, *, shake: bool = True) -> AsyncIterator[RawClient]:
    """Connect for the block, with little room in the kernel; with the handshake made unless told otherwise."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", served.listener.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    client = RawClient(reader, writer)
    try:
        if shake:
            await client.shake_hands()
        yield client
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def good_client(served: Served) -> AsyncIterator[list[int]]:
    """
    Have a well-behaved client subscribed for the block, while an update is published every few milliseconds.

    Yields the ids it received; at the end of the block it must have received every one, in order.
    """
    received: list[int] = []
    async with raw_client(served) as client:
        client.say({"action": "subscribe", "pubkey": KEY_A, "id": "good"})
        while (await client.read_message()).get("id") != "good":
            pass
        published: list[int] = []
        stop, finished = asyncio.Event(), asyncio.Event()

        async def publish() -> None:
            while not stop.is_set():
                published.append(served.publish(KEY_A, size=200))
                await asyncio.sleep(0.003)
            published.append(served.publish(KEY_A))
            finished.set()

        async def receive() -> None:
            while not finished.is_set() or received[-1:] != published[-1:]:
                opcode, payload = await client.read_frame()
                if opcode == PING:
                    client.send(frame(PONG, payload))
                else:
                    assert opcode == TEXT, (opcode, payload)
                    received.append(json.loads(payload)["account"]["id"])

        tasks = [asyncio.create_task(publish()), asyncio.create_task(receive())]
        try:
            yield received
            stop.set()
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        assert received == published
