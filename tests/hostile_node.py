"""A small real node, PubSub and HTTP, that does as the test says: odd frames, refusals, silence, drops."""

from __future__ import annotations

import asyncio
import base64
import http
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import zstandard
from aiohttp import web
from tests.samples import KEY_A, PROGRAM
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

SLOT_SUBSCRIPTION, PROGRAM_SUBSCRIPTION = 7, 24040
FIRST_SLOT = 370_462_731

Answer = dict[str, Any] | None
"""`{"result": …}`, `{"error": …}`, or None to say nothing."""


def zstd_frame(data: bytes) -> bytes:
    """Compress as Agave does: a frame that does not state its content's size."""
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    return compressor.compress(data) + compressor.flush()


def account_json(data: bytes = b"one", *, encoding: str = "base64", **more: Any) -> dict[str, Any]:
    """Return an account object as Agave writes it; `more` replaces its fields."""
    packed = zstd_frame(data) if encoding == "base64+zstd" else data
    return {
        "lamports": 8_630_400,
        "data": [base64.b64encode(packed).decode(), encoding],
        "owner": PROGRAM,
        "executable": False,
        "rentEpoch": 2**64 - 1,
        "space": len(data),
        **more,
    }


def program_notification(
    account: Any = None, *, pubkey: Any = KEY_A, slot: Any = FIRST_SLOT, subscription: Any = PROGRAM_SUBSCRIPTION
) -> dict[str, Any]:
    """Return a programNotification."""
    value = {"pubkey": pubkey, "account": account_json() if account is None else account}
    return {
        "jsonrpc": "2.0",
        "method": "programNotification",
        "params": {"result": {"context": {"slot": slot}, "value": value}, "subscription": subscription},
    }


def slot_notification(slot: Any, *, subscription: Any = SLOT_SUBSCRIPTION) -> dict[str, Any]:
    """Return a slotNotification."""
    result = {"parent": 0, "root": 0, "slot": slot}
    return {
        "jsonrpc": "2.0",
        "method": "slotNotification",
        "params": {"result": result, "subscription": subscription},
    }


class HostileNode:
    """
    A PubSub node.

    Attributes:
        answer: what a request gets; replace it, or let it fall back on `usual_answer`.
        beat_seconds: between slotNotifications; None for silence.
        refuse_with: an HTTP status for every handshake, or None.
        requests: every request that came, parsed.
        handshakes: how many connections asked to be opened.
        slot: the newest slot.
    """

    def __init__(self, *, beat_seconds: float | None = 0.02) -> None:
        self.answer: Callable[[dict[str, Any]], Answer] = self.usual_answer
        self.beat_seconds = beat_seconds
        self.refuse_with: int | None = None
        self.requests: list[dict[str, Any]] = []
        self.handshakes = 0
        self.paths: list[str] = []
        self.slot = FIRST_SLOT
        self._connections: set[ServerConnection] = set()
        self._server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def usual_answer(self, request: dict[str, Any]) -> Answer:
        """Answer as a good node does; like Agave's PubSub it does not know getSlot."""
        results = {"slotSubscribe": SLOT_SUBSCRIPTION, "programSubscribe": PROGRAM_SUBSCRIPTION}
        if request["method"] in results:
            return {"result": results[request["method"]]}
        return {"error": {"code": -32601, "message": "Method not found"}}

    async def start(self) -> None:
        """Listen, again on the same port after `stop`."""
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self.port,
            process_request=self._judge,
            compression=None,
            max_size=None,
            ping_interval=None,
            close_timeout=0.1,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every connection; the next connect is refused."""
        server, self._server = self._server, None
        if server is not None:
            self.drop()
            server.close()
            await server.wait_closed()

    def drop(self) -> None:
        """Cut every connection without a close frame."""
        for connection in self._connections:
            connection.transport.abort()

    async def close_all(self, code: int, reason: str) -> None:
        """Close every connection in order."""
        for connection in list(self._connections):
            await connection.close(code, reason)

    async def send(self, *frames: Any) -> None:
        """Send each frame on every connection: str and bytes as they are, anything else as JSON text."""
        for connection in list(self._connections):
            for frame in frames:
                await connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    @property
    def connected(self) -> int:
        return len(self._connections)

    def asked(self, method: str) -> list[dict[str, Any]]:
        """Return the requests of `method` that came."""
        return [request for request in self.requests if request.get("method") == method]

    def _judge(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes += 1
        self.paths.append(request.path)
        if self.refuse_with is None:
            return None
        return connection.respond(http.HTTPStatus(self.refuse_with), f"no: {request.path}\n")

    async def _serve(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        beat = asyncio.create_task(self._beat(connection))
        try:
            async for message in connection:
                request = json.loads(message)
                self.requests.append(request)
                answer = self.answer(request)
                if answer is not None:
                    await connection.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}))
        except ConnectionClosed:
            pass
        finally:
            beat.cancel()
            self._connections.discard(connection)

    async def _beat(self, connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                if self.beat_seconds is not None and self.asked("slotSubscribe"):
                    self.slot += 1
                    await connection.send(json.dumps(slot_notification(self.slot)))
                await asyncio.sleep(self.beat_seconds or 0.02)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class HostileHttp:
    """
    A JSON-RPC node over HTTP.

    Attributes:
        respond: takes the parsed request, returns a whole HTTP response, or the `{"result": …}` to wrap.
        requests: every request that came, parsed.
    """

    def __init__(self, respond: Callable[[dict[str, Any]], Any]) -> None:
        self.respond = respond
        self.requests: list[dict[str, Any]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one POST."""
        body = json.loads(await request.read())
        self.requests.append(body)
        answer = self.respond(body)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], **answer})


@asynccontextmanager
async def hostile_http(respond: Callable[[dict[str, Any]], Any]) -> AsyncIterator[HostileHttp]:
    """Run a HostileHttp for the block."""
    node = HostileHttp(respond)
    app = web.Application()
    app.router.add_post("/{path:.*}", node.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    node.port = runner.addresses[0][1]
    try:
        yield node
    finally:
        await runner.cleanup()


@contextmanager
def silent_server() -> Iterator[int]:
    """Let TCP connections be made, by the kernel, and never say a word; yields the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]
