"""The node's ports: WebSocket and HTTP on each, and the faults that a test may ask for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from account_socket.devnode.connection import Connection
from account_socket.hub.frames import text_frame
from account_socket.protocol.solana_jsonrpc import answer

if TYPE_CHECKING:
    from account_socket.devnode.ledger import Ledger
    from account_socket.devnode.subscriptions import Subscriptions

MAX_HEAD_BYTES = 16 * 1024
HEAD_SECONDS = 10.0
BODY_SECONDS = 10.0
LINGER_SECONDS = 1.0
"""How long a refused body may still arrive, so that its sender reads the answer before the connection ends."""
MAX_BODY_BYTES = 50 * 1024
"""Agave's default for a JSON-RPC request over HTTP."""

_LAST = {"Connection": "close"}


@dataclass(frozen=True)
class Limits:
    """What one lagging client may hold back before it is dropped."""

    max_queued_messages: int = 100_000
    max_queued_bytes: int = 64 * 1024 * 1024


class Gate:
    """
    Takes connections on any number of ports.

    Attributes:
        silent: Nothing is read or sent while TCP stays open.
        refusing: New connections are closed at once.
        touched: Connections with queued frames that `flush` sends.
    """

    def __init__(self, ledger: Ledger, subscriptions: Subscriptions, limits: Limits) -> None:
        self.ledger = ledger
        self.subscriptions = subscriptions
        self.limits = limits
        self.silent = False
        self.refusing = False
        self.lagging_dropped = 0
        self.http_requests = 0
        self.connections: set[Connection] = set()
        self.touched: set[Connection] = set()
        self.newcomers: set[Front] = set()
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._listeners: list[asyncio.Server] = []

    @cached_property
    def http(self) -> web.Server:
        """The HTTP server; made when first needed, because it needs a running loop."""
        return web.Server(self._serve_http)

    async def listen(self, host: str, port: int) -> int:
        """Take connections on one more port; return its number. Raises OSError."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Front(self), host, port)
        self._listeners.append(server)
        return cast("int", server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and abort every connection."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._speaking.set()
        self.drop_connections()
        await self.http.shutdown(timeout=1.0)

    def say(self, message: bytes) -> None:
        """Send every WebSocket client one text message."""
        frame = text_frame(message)
        for connection in self.connections:
            connection.send(frame)
        self.flush()

    def flush(self) -> None:
        """Send what is queued for every touched connection."""
        touched, self.touched = self.touched, set()
        for connection in touched:
            connection.flush()

    def drop_connections(self) -> None:
        """Abort every TCP connection, without a close frame."""
        for transport in self._transports():
            transport.abort()

    def set_silent(self, silent: bool) -> None:
        """Stop reading and sending, or go on."""
        self.silent = silent
        for transport in self._transports():
            if silent:
                transport.pause_reading()
            else:
                transport.resume_reading()
        if silent:
            self._speaking.clear()
            return
        self._speaking.set()
        for newcomer in tuple(self.newcomers):
            newcomer.judge()
        for connection in self.connections:
            connection.flush()

    def _transports(self) -> list[asyncio.Transport]:
        transports = [
            *(handler.transport for handler in self.http.connections),
            *(connection.transport for connection in self.connections),
            *(newcomer.transport for newcomer in self.newcomers),
        ]
        return [each for each in transports if each is not None and not each.is_closing()]

    async def _serve_http(self, request: web.BaseRequest) -> web.StreamResponse:
        await self._speaking.wait()
        self.http_requests += 1
        response = await self._answer_http(request)
        await self._speaking.wait()
        return response

    async def _answer_http(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET" and request.path == "/health":
            return web.Response(text="ok")
        if request.method != "POST":
            return web.Response(status=405, text="Used HTTP Method is not allowed. POST or OPTIONS is required\n")
        if request.content_type != "application/json":
            return web.Response(
                status=415,
                text="Supplied content type is not allowed. Content-Type: application/json is required\n",
            )
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        return web.Response(status=413, text="Payload Too Large\n", headers=_LAST)
        except TimeoutError:
            return web.Response(status=408, text="Request Timeout\n", headers=_LAST)
        reply = answer(bytes(body), self.ledger.call)
        return web.Response(body=reply or b"", content_type="application/json")


class _Http(RequestHandler):
    """One HTTP connection; what is no HTTP/1.1, such as a gRPC client's first bytes, is answered and not logged."""

    __slots__ = ()

    def __init__(self, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # the signature forgets what its body allows
            lingering_time=LINGER_SECONDS,
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what no handler could answer (aiohttp)."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        response = web.Response(status=status, text="This port speaks HTTP/1.1 and WebSocket\n")
        response.force_close()
        return response


class Front(asyncio.Protocol):
    """Reads the first request head, then hands the connection to WebSocket or HTTP."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._head = bytearray()
        self._timeout: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the head, for a while."""
        self.transport = cast("asyncio.Transport", transport)
        if self._gate.refusing:
            self.transport.abort()
            return
        self._gate.newcomers.add(self)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Collect the head."""
        self._head += data
        if self._gate.silent:
            # Not before: uvloop forgets a pause that is made in connection_made.
            self.transport.pause_reading()
        else:
            self.judge()

    def judge(self) -> None:
        """Hand the connection over once the head is complete."""
        end = self._head.find(b"\r\n\r\n")
        if end >= 0:
            self._hand_over(is_websocket=_asks_for_websocket(bytes(self._head[:end])))
        elif len(self._head) > MAX_HEAD_BYTES:
            self.transport.abort()

    def _hand_over(self, *, is_websocket: bool) -> None:
        self._forget()
        gate, transport = self._gate, self.transport
        protocol: asyncio.Protocol
        if is_websocket:
            protocol = Connection(gate, transport)
            transport.set_protocol(protocol)
        else:
            protocol = _Http(gate.http)
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
        protocol.data_received(bytes(self._head))

    def _expect_head(self) -> None:
        self._timeout = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._expire)

    def _expire(self) -> None:
        if self._gate.silent:
            self._expect_head()
        else:
            self.transport.abort()

    def _forget(self) -> None:
        self._gate.newcomers.discard(self)
        if self._timeout is not None:
            self._timeout.cancel()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        """Forget a connection that ended before its head was complete."""
        self._forget()


def _asks_for_websocket(head: bytes) -> bool:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade" and b"websocket" in value.lower():
            return True
    return False
