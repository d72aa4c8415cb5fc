"""A TCP port in front of the gRPC server, with the faults that a network has."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

_HIGH_WATER = 256 * 1024


class Relay:
    """
    Passes bytes between the connections it takes and `target`.

    Attributes:
        port: where it listens, once started.
        target: (host, port) that new connections are passed to.
        refusing: new connections are closed at once.
        connections: how many are open.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.port = 0
        self.target = target
        self.refusing = False
        self.silent = False
        self.pipes: set[_Pipe] = set()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self.pipes)

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen; port 0 picks a free one. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pipe(self), host, port, ssl=tls)
        self.port = cast("int", self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and abort every connection."""
        if self._server is not None:
            self._server.close()
        self.drop()

    def drop(self) -> None:
        """Abort every connection."""
        for pipe in tuple(self.pipes):
            pipe.abort()

    def silence(self, silent: bool) -> None:
        """Keep connections open and take new ones, but pass nothing on; or go on."""
        self.silent = silent
        for pipe in tuple(self.pipes):
            pipe.judge()


class _Pipe(asyncio.Protocol):
    """The near side: who connected to us."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._far = _Far(self)
        self._early = bytearray()
        self._task: asyncio.Task[None] | None = None
        self.blocked = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._relay.refusing:
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._relay.pipes.add(self)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        host, port = self._relay.target
        try:
            await asyncio.get_running_loop().create_connection(lambda: self._far, host, port)
        except OSError:
            self.abort()
            return
        if self._early:
            self._far.transport.write(bytes(self._early))
            self._early.clear()
        self.judge()

    def data_received(self, data: bytes) -> None:
        if self._far.open:
            self._far.transport.write(data)
        else:
            self._early += data

    def judge(self) -> None:
        """Read from each side as far as the other can take it."""
        silent = self._relay.silent
        _let_read(self.transport, not silent and not self._far.blocked)
        if self._far.open:
            _let_read(self._far.transport, not silent and not self.blocked)

    def pause_writing(self) -> None:
        self.blocked = True
        self.judge()

    def resume_writing(self) -> None:
        self.blocked = False
        self.judge()

    def abort(self) -> None:
        """End both sides."""
        self.transport.abort()
        if self._far.open:
            self._far.transport.abort()

    def close(self) -> None:
        """End the near side once everything was passed on."""
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._relay.pipes.discard(self)
        if self._task is not None:
            self._task.cancel()
        if self._far.open:
            self._far.transport.abort()


class _Far(asyncio.Protocol):
    """The far side: the gRPC server."""

    def __init__(self, near: _Pipe) -> None:
        self._near = near
        self.open = False
        self.blocked = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.open = True

    def data_received(self, data: bytes) -> None:
        self._near.transport.write(data)

    def pause_writing(self) -> None:
        self.blocked = True
        self._near.judge()

    def resume_writing(self) -> None:
        self.blocked = False
        self._near.judge()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self.open = False
        self._near.close()


def _let_read(transport: asyncio.Transport, reading: bool) -> None:
    if transport.is_closing():
        return
    if reading:
        transport.resume_reading()
    else:
        transport.pause_reading()
