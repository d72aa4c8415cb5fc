"""One port for WebSocket and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import cast

import structlog
from aiohttp import web
from websockets.server import ServerProtocol

from account_socket.hub.hub import Hub
from account_socket.hub.outbox import Outbox
from account_socket.metrics import Histogram, Metrics
from account_socket.protocol.codes import Close
from account_socket.server import handshake
from account_socket.server.catching_up import Past
from account_socket.server.clients import SWEEP_LIMIT, Clients
from account_socket.server.connection import MAX_MESSAGE_BYTES, Connection, library_log
from account_socket.server.deadlines import Deadlines
from account_socket.server.http import HttpProtocol, Readiness, error_response, make_app
from account_socket.server.limits import Limits
from account_socket.server.rest import add_rest
from account_socket.server.rest_reading import Reads, StoreReading
from account_socket.server.solana_connection import SolanaConnection
from account_socket.server.solana_http import Solana
from account_socket.server.state_pages import StatePages
from account_socket.server.token_bucket import TokenBucket

BACKLOG = 4096
HTTP_SLICE_BYTES = 256
"""aiohttp takes a slice as a whole; one full of one-byte chunks costs about a turn's time (server/turns.py)."""
TICK_SECONDS = 0.25
BUSY_TICK_SECONDS = 0.005
BLOCKED_SECONDS = 0.5
"""A loop later than this is told of in the log."""
DRAIN_POLL_SECONDS = 0.01
HTTP_GOODBYE_SECONDS = 1.0

log = structlog.get_logger("account_socket.server")


class Front(asyncio.Protocol):
    """
    Stands before a new connection until its first request head is complete, then hands it to who serves it.

    An HTTP connection stays behind it: it forwards what asyncio tells, and gives the transport away if a later
    request on the same connection upgrades.
    """

    __slots__ = ("_head", "_http", "_listener", "_refused", "_transport", "_unread", "_waits")

    _transport: asyncio.Transport

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._head = bytearray()
        self._http: HttpProtocol | None = None
        self._refused = False
        self._waits = False
        self._unread = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection (asyncio)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._listener.arrived(self)

    def data_received(self, data: bytes) -> None:
        """Take what arrived (asyncio)."""
        if self._http is not None:
            self._unread += data
            if not self._waits:
                self._feed_http()
        elif not self._refused:
            self._head += data
            turns = self._listener.clients.turns
            if not turns.time_is_up():
                self._judge()
            elif not self._waits:
                self._waits = True
                self._transport.pause_reading()
                turns.wait(self._judge_later)

    def _feed_http(self) -> None:
        """Feed HTTP what arrived, in slices, as long as clients' input has time."""
        self._waits = False
        turns = self._listener.clients.turns
        while self._unread and self._http is not None:
            if turns.time_is_up():
                self._waits = True
                self._transport.pause_reading()
                turns.wait(self._feed_http)
                return
            data = bytes(self._unread[:HTTP_SLICE_BYTES])
            del self._unread[:HTTP_SLICE_BYTES]
            self._http.data_received(data)
        if self._http is not None and not self._http.reading_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _judge_later(self) -> None:
        self._waits = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._judge()

    def _judge(self) -> None:
        end = handshake.head_end(self._head)
        if end > handshake.MAX_HEAD_BYTES or (not end and len(self._head) > handshake.MAX_HEAD_BYTES):
            message = f"the request head is over {handshake.MAX_HEAD_BYTES} bytes"
            self._refuse(handshake.plain_response(431, "head_too_large", message))
        elif end and handshake.is_upgrade(bytes(self._head[:end]), anywhere=self._listener.solana is not None):
            self.upgrade(bytes(self._head[:end]), bytes(self._head[end:]))
        elif end or not handshake.may_be_http(self._head):
            self._serve_http(bytes(self._head))

    def _serve_http(self, data: bytes) -> None:
        self._listener.heads.stop(self)
        self._head.clear()
        self._http = self._listener.make_http()
        self._http.connection_made(self._transport)
        self._unread += data
        self._feed_http()

    def upgrade(self, head: bytes, early: bytes) -> None:
        """Turn the connection into a WebSocket client's, or refuse; `early` is what came behind the head."""
        self._listener.heads.stop(self)
        shaken = handshake.shake_hands(
            head, max_message_bytes=MAX_MESSAGE_BYTES, compression=self._listener.compression, logger=library_log
        )
        if isinstance(shaken, handshake.Refused):
            self._refuse(shaken.response)
            return
        self._listener.opened(self)
        connection = self._listener.make_connection(head, shaken)
        connection.open(self._transport, early)

    def release_http(self) -> bytes:
        """Take the transport away from HTTP, whose handler is asking for it; return what it read beyond the head."""
        http, self._http = self._http, None
        assert http is not None
        early = _Early()
        http.set_parser(early)  # type: ignore[arg-type]  # gets what was read after the request that upgrades
        http.transport = None  # else it would close what is no longer its own
        http.connection_lost(None)
        early.data += self._unread
        self._unread.clear()
        return bytes(early.data)

    def _refuse(self, response: bytes) -> None:
        self._refused = True
        self._head.clear()
        self._listener.heads.stop(self)
        self._listener.farewells.start(self, now=monotonic())
        self._transport.write(response)
        self._transport.write_eof()  # and wait for the client's end: a reset would take the answer away

    def close(self) -> None:
        """End the connection, once what is written has left."""
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    def eof_received(self) -> None:
        """Take that no more will come; the transport closes after what is written (asyncio)."""
        if self._http is not None:
            if self._unread:
                self._http.data_received(bytes(self._unread))
                self._unread.clear()
            self._http.eof_received()

    def pause_writing(self) -> None:
        """Forward, and watch for how long a client does not read its answer (asyncio)."""
        if self._http is not None:
            self._http.pause_writing()
            self._listener.stalled.start(self, now=monotonic())

    def resume_writing(self) -> None:
        """Forward (asyncio)."""
        if self._http is not None:
            self._http.resume_writing()
            self._listener.stalled.stop(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take that the connection is gone (asyncio)."""
        self._listener.gone(self)
        self._unread.clear()
        if self._http is not None:
            self._http.connection_lost(exc)


class _Early:
    """Takes what an HTTP connection has read beyond the request that upgrades it."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        pass


class Listener:
    """
    Args:
        host, port: where to listen; port 0 picks a free one.
        epoch: names the database's life, said in every ack.
        readiness: what /readyz answers.
        metrics: what /metrics shows; the server adds its own.
        greet: see `Clients`.
        reads: what HTTP clients read from; None: they cannot ask for accounts.
        solana: Solana's dialect, on every path but /ws and by POST; None: it is not spoken.

    Attributes:
        clients: the WebSocket clients and their totals.
        compression: see `Limits`.
        lag: how late the event loop comes to its timer, four times a second.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        hub: Hub,
        epoch: str,
        readiness: Readiness,
        metrics: Metrics,
        limits: Limits | None = None,
        greet: Callable[[Outbox], None] = lambda _: None,
        reads: Reads | None = None,
        solana: Solana | None = None,
    ) -> None:
        self._host = host
        self._requested_port = port
        self._limits = limits or Limits()
        self.compression = self._limits.compression
        self.solana = solana
        self.clients = Clients(hub, self._limits, epoch, greet)
        self.heads: Deadlines[Front] = Deadlines(self._limits.head_seconds)
        self.farewells: Deadlines[Front] = Deadlines(self._limits.close_seconds)
        self.stalled: Deadlines[Front] = Deadlines(self._limits.slow_consumer_seconds)
        self.overflowed = 0
        self.lag = Histogram()
        self._fronts: set[Front] = set()
        app = make_app(readiness=readiness, metrics=metrics)
        app.router.add_get("/ws", _upgrade_later)
        app.router.add_get("/ws/{tail:.*}", _upgrade_later)
        reading = StoreReading()
        if reads is not None:
            self.clients.past = Past(hub, reads, reading)
            self.clients.pages = StatePages(hub, reads)
            add_rest(app, self.clients, self.clients.past, metrics, self._take_over)
        if solana is not None:
            solana.add_to(app, self.clients, metrics, reading)
            app.router.add_get("/", _upgrade_later)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=HTTP_GOODBYE_SECONDS)
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = 0
        self._due = inf
        self._measure(metrics)

    async def start(self) -> None:
        """Listen. Raises OSError if the address cannot be had."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Front(self), self._host, self._requested_port, backlog=BACKLOG, reuse_address=True
            )
        except OSError:
            await self._runner.cleanup()
            raise
        self._tick()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many WebSocket clients are connected."""
        return len(self.clients.connections)

    async def stop_accepting(self) -> None:
        """Close the port; who is connected stays. Idempotent."""
        if self._server is not None:
            self._server.close()

    async def drain(self, seconds: float) -> None:
        """
        Stop accepting, let clients that keep up have what waits for them, close everybody with 1001.

        Returns after about `seconds` at most, whatever clients do: who has not gone by then is cut off.
        """
        started = monotonic()
        await self.stop_accepting()
        connections = self.clients.connections
        await _until(lambda: not any(connection.behind for connection in connections), started + seconds / 2)
        for connection in list(connections):
            connection.close(Close.GOING_AWAY)
        await _until(lambda: not connections, started + seconds * 0.9)
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(connections):
            connection.abort()
        for front in list(self._fronts):
            front.close()
        await asyncio.sleep(0)
        await self._runner.cleanup()

    def _measure(self, metrics: Metrics) -> None:
        clients, hub = self.clients, self.clients.hub
        add = metrics.add
        add(
            "account_socket_connections",
            "Clients connected, by WebSocket or stream",
            "gauge",
            lambda: self.connections,
        )
        add("account_socket_sockets", "Sockets open on the port, HTTP included", "gauge", lambda: clients.sockets)
        add("account_socket_listeners", "Clients that asked for status", "gauge", lambda: len(hub.listeners))
        add("account_socket_connections_accepted", "Clients let in", "counter", lambda: clients.accepted)
        add("account_socket_connections_refused", "Clients refused", "counter", lambda: clients.refused, label="code")
        add("account_socket_connections_overflowed", "Sockets cut off unseen", "counter", lambda: self.overflowed)
        add("account_socket_closes", "Connections ended", "counter", lambda: clients.closes, label="code")
        add("account_socket_subscriptions", "Subscriptions of all clients", "gauge", lambda: hub.subscriptions)
        add("account_socket_accounts_subscribed", "Accounts streamed", "gauge", lambda: hub.accounts_subscribed)
        add("account_socket_published", "Updates given to the fan-out", "counter", lambda: hub.published)
        add("account_socket_messages", "Messages put out for clients", "counter", lambda: hub.messages)
        add("account_socket_messages_sent", "Messages written to clients", "counter", lambda: clients.sent)
        add("account_socket_messages_conflated", "Messages replaced by newer", "counter", lambda: clients.conflated)
        compressor = clients.compressor
        add(
            "account_socket_messages_compressed",
            "Messages compressed, each once for all",
            "counter",
            lambda: compressor.compressed,
        )
        add(
            "account_socket_compression_skipped",
            "Left as it was for want of time",
            "counter",
            lambda: compressor.skipped,
        )
        add("account_socket_tasks", "Tasks of the event loop", "gauge", lambda: len(asyncio.all_tasks()))
        metrics.add_histogram("account_socket_loop_lag_seconds", "How late the event loop is", self.lag)
        tally = clients.tally
        add("account_socket_requests", "Requests understood", "counter", lambda: tally.requests, label="action")
        add("account_socket_errors", "Errors answered", "counter", lambda: tally.errors, label="code")
        add("account_socket_slow_clients", "Clients above high water", "gauge", lambda: len(clients.slow))

    # ---- called by Front -----------------------------------------------------------------------------------

    def arrived(self, front: Front) -> None:
        """Take a new connection, or cut it off if there are far too many."""
        self.clients.sockets += 1
        self._fronts.add(front)
        if self.clients.sockets > self._limits.max_sockets:
            self.overflowed += 1
            front.abort()
            return
        self.heads.start(front, now=monotonic())

    def opened(self, front: Front) -> None:
        """Take that a connection became a client's that is sent updates."""
        self._fronts.discard(front)
        self.stalled.stop(front)

    def gone(self, front: Front) -> None:
        """Take that a connection is lost."""
        self.clients.sockets -= 1
        self._fronts.discard(front)
        for deadlines in (self.heads, self.farewells, self.stalled):
            deadlines.stop(front)

    def make_http(self) -> HttpProtocol:
        """Return the protocol of one HTTP connection."""
        server = self._runner.server
        assert server is not None
        limits = self._limits
        budget = TokenBucket(limits.requests, now=monotonic())
        return HttpProtocol(server, budget, head_seconds=limits.head_seconds, linger_seconds=limits.close_seconds)

    def make_connection(self, head: bytes, shaken: ServerProtocol) -> Connection:
        """Return the client of a handshake that succeeded: one of the dialect that its path stands for."""
        number = self.next_number()
        if self.solana is not None and not handshake.is_native(head):
            solana = self.solana
            return SolanaConnection(self.clients, shaken, number, feed=solana.feed, known=solana.known)
        return Connection(self.clients, shaken, number, wants_status=handshake.asks_for_status(head))

    def _take_over(self, request: web.Request) -> tuple[asyncio.Transport, int] | None:
        front = _front_of(request)
        if front is None or request.transport is None:
            return None
        transport = request.transport
        front.release_http()  # what it read beyond the request is no one's
        self.opened(front)
        return transport, self.next_number()

    def next_number(self) -> int:
        """Return a connection's name in the log."""
        self._numbers += 1
        return self._numbers

    # ---- time ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        seconds = min(TICK_SECONDS, self._limits.shortest_seconds / 8)
        now = monotonic()
        self._excuse(max(0.0, now - self._due))
        try:
            if self._sweep(now):
                seconds = BUSY_TICK_SECONDS
        finally:  # a bug in one client's closing must not stop the clock for all
            self._due = monotonic() + seconds
            self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)

    def _excuse(self, late: float) -> None:
        """Take how late the loop is; what clients sent meanwhile is not read yet, so that is not their delay."""
        self.lag.observe(late)
        if late > BLOCKED_SECONDS:
            log.warning("event loop stood still", seconds=round(late, 2))
            for deadlines in (self.heads, self.farewells, self.stalled):
                deadlines.postpone(late)
            self.clients.postpone(late)

    def _sweep(self, now: float) -> bool:
        """Act on what is due; return whether more is due already."""
        more = self.clients.sweep(now=now)
        late = self.heads.take_due(now=now, limit=SWEEP_LIMIT)
        for front in late:
            front.close()
        staying = self.farewells.take_due(now=now, limit=SWEEP_LIMIT)
        stalled = self.stalled.take_due(now=now, limit=SWEEP_LIMIT)
        for front in (*staying, *stalled):
            front.abort()
        return more or SWEEP_LIMIT in {len(late), len(staying), len(stalled)}


async def _upgrade_later(request: web.Request) -> web.StreamResponse:
    """Serve WebSocket to a connection that spoke HTTP before."""
    if "websocket" not in request.headers.get("Upgrade", "").lower():
        message = "this is a WebSocket address; connect with a WebSocket client"
        return error_response(426, message, {"Upgrade": "websocket", "Connection": "Upgrade"})
    front = _front_of(request)
    if front is None:
        return web.Response()  # the client is gone
    line = f"{request.method} {request.raw_path} HTTP/{request.version.major}.{request.version.minor}\r\n"
    fields = b"".join(b"%b: %b\r\n" % field for field in request.raw_headers)
    early = front.release_http()
    front.upgrade(line.encode("latin-1") + fields + b"\r\n", early)
    return web.Response()  # goes nowhere: the transport is a WebSocket client's now


def _front_of(request: web.Request) -> Front | None:
    protocol = None if request.transport is None else request.transport.get_protocol()
    return protocol if isinstance(protocol, Front) else None


async def _until(condition: Callable[[], bool], deadline: float) -> None:
    while not condition() and monotonic() < deadline:  # noqa: ASYNC110  (a condition of thousands of clients)
        await asyncio.sleep(DRAIN_POLL_SECONDS)
