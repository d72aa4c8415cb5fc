"""A TCP proxy that does as the test says: between server and node, and between client and server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1024 * 1024
NOISE = b"\xff"
"""No UTF-8, no start of a WebSocket or HTTP/2 frame: whoever reads it must notice."""


class Flow:
    """
    One direction of every connection.

    Attributes:
        delay: seconds by which each chunk comes later.
        bytes_per_second: the most that passes, or None.
        left: after so many more bytes every connection is cut, in the middle of whatever passes; or None.
        noisy: everything that passes is turned into noise.
    """

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.clear()

    def clear(self) -> None:
        """Pass everything on as it is."""
        self.delay = 0.0
        self.bytes_per_second: float | None = None
        self.left: int | None = None
        self.noisy = False
        self.open.set()

    def stall(self) -> None:
        """Keep the connections, and pass nothing on."""
        self.open.clear()

    async def hold(self, size: int) -> None:
        """Let `size` bytes take the time that they should."""
        await self.open.wait()
        seconds = self.delay + (size / self.bytes_per_second if self.bytes_per_second else 0.0)
        if seconds:
            await asyncio.sleep(seconds)
            await self.open.wait()

    def change(self, data: bytes) -> bytes:
        """Return what is to be passed on of `data`."""
        if self.left is not None:
            data = data[: self.left]
            self.left -= len(data)
        return NOISE * len(data) if self.noisy else data


class Proxy:
    """
    Passes TCP on to `target`; an async context manager.

    Attributes:
        target: where new connections go; may be changed.
        port: where it listens.
        up, down: the directions to the target and from it.
        refusing: new connections are closed at once.
        taken: how many connections were taken in all.
    """

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1") -> None:
        self.target = (host, port)
        self.port = 0
        self.up, self.down = Flow(), Flow()
        self.refusing = False
        self.taken = 0
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.WriteTransport] = set()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._pipes)

    def drop(self) -> None:
        """Abort every connection, both ends."""
        for transport in self._transports:
            transport.abort()

    def stall(self) -> None:
        """Keep the connections, take new ones, and pass nothing on."""
        self.up.stall()
        self.down.stall()

    def clear(self) -> None:
        """End every fault; connections that were turned into noise are of no use and are aborted."""
        if self.up.noisy or self.down.noisy:
            self.drop()
        self.refusing = False
        self.up.clear()
        self.down.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.clear()
        self.drop()
        await asyncio.gather(*self._pipes)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        pipe = asyncio.current_task()
        assert pipe is not None
        self._pipes.add(pipe)
        self._transports.add(writer.transport)
        try:
            if not self.refusing:
                await self._join(reader, writer)
        finally:
            writer.transport.abort()
            self._transports.discard(writer.transport)
            self._pipes.discard(pipe)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
        except OSError:
            return
        self._transports.add(far_writer.transport)
        try:
            await asyncio.gather(self._pass(reader, far_writer, self.up), self._pass(far_reader, writer, self.down))
        finally:
            far_writer.transport.abort()
            self._transports.discard(far_writer.transport)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await flow.hold(len(data))
                writer.write(flow.change(data))
                await writer.drain()
                if flow.left == 0:
                    self.drop()
                    return
            await flow.open.wait()
        # Whoever ended: what was under way to the other end still arrives there.
        writer.close()
