"""
One client of /v1/stream: updates as Server-Sent Events, on a connection taken over from HTTP.

It is a client like one of WebSocket: the hub puts messages into its outbox, they are written once per loop turn, a
slow one is conflated and in the end closed, a heartbeat takes the place of pings.

States: resuming (what history has is written, live updates are held; server/catching_up.py) or starting (states come
as they are found) → following (each event says up to where the client has everything) → closing → lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

import structlog

from account_socket.hub.frames import Message, id_of
from account_socket.hub.hub import Answered
from account_socket.hub.outbox import Outbox
from account_socket.protocol.codes import ABNORMAL_CLOSURE, Close
from account_socket.server.clients import Clients
from account_socket.server.connection import tune
from account_socket.server.sse_events import HEAD, HEARTBEAT, RETRY, EventMaker, farewell, reset

MAX_INPUT_BYTES = 16 * 1024
"""A client has nothing to say after its request."""

log = structlog.get_logger("account_socket.stream")


class EventStream(asyncio.Protocol):
    """
    Args:
        number: names the connection in the log.

    Attributes:
        end_resuming: ends what resumes the stream, if that goes on.
        writable: set while the transport is below high water, and when it is lost.
        ended: nothing is written any more.
    """

    _transport: asyncio.Transport

    def __init__(self, clients: Clients, events: EventMaker, number: int, pubkeys: Sequence[str]) -> None:
        self.number = number
        self.address = ""
        self.pubkeys = pubkeys
        self.outbox = Outbox(self.flush, clients.batch, clients.limits.outbox_max_bytes)
        self.end_resuming: Callable[[], None] = _nothing
        self.writable = asyncio.Event()
        self.writable.set()
        self._clients = clients
        self._events = events
        self._opened_at = monotonic()
        self._following = False
        self._answered = False
        self._newest = 0
        self._input_bytes = 0
        self.ended = False
        self._code = ABNORMAL_CLOSURE

    def open(self, transport: asyncio.Transport, address: str, headers: dict[str, str]) -> None:
        """Take over a transport and write the head of the answer; then comes `start`, or a resumption."""
        self._transport = transport
        self.address = address
        transport.set_protocol(self)
        if not transport.is_reading():  # else nobody would see the client go
            transport.resume_reading()
        high = self._clients.limits.outbox_max_bytes
        transport.set_write_buffer_limits(high=high, low=high // 4)
        tune(transport.get_extra_info("socket"))
        self._clients.admit(self)
        log.info("stream opened", conn=self.number, peer=address, accounts=len(self.pubkeys))
        fields = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in headers.items())
        transport.write(HEAD + fields + b"\r\n" + RETRY)

    # ---- sending -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the states first, then what is live."""
        self._clients.hub.subscribe(self.outbox, self.pubkeys, self._found)

    def _found(self, answered: Answered) -> None:
        del answered  # an account that nobody knows is told once it is there
        self._answered = True
        self._clients.hub.touch(self.outbox)

    def follow(self, newest: int, live: list[Message]) -> None:
        """Go on with `live`, then what comes: the client has everything up to the id `newest`."""
        if self.ended:
            return
        self._newest = newest
        self._following = True
        self.outbox.pending[:0] = live
        self._clients.hub.touch(self.outbox)

    def start_over(self, reason: str) -> None:
        """Tell the client that it is not resumed, and begin with the states."""
        if self.ended:
            return
        self.write(reset(reason))
        self.start()

    def flush(self) -> None:
        """Write what the outbox holds (hub)."""
        if self.ended:
            return
        try:
            self._write_pending()
        except Exception:  # the clients behind this one in the turn must not suffer
            log.exception("stream flush failed", conn=self.number)
            self.abort()
            return
        if self.behind:
            self._clients.hub.touch(self.outbox)

    def _write_pending(self) -> None:
        frames = self.outbox.take(writable=self.writable.is_set())
        if self.outbox.waiting and not self.writable.is_set():
            self.outbox.take(writable=False)  # what was left over joins the backlog, or it would grow unseen
        events = [self._event(frame) for frame in frames]
        if not self._following and self._answered and not self.outbox.waiting:
            # All states are written, and everything live that came meanwhile.
            self._following = True
            self._newest = max(self._newest, self._clients.hub.published_id)
            if self._newest:
                events.append(self._events.position(self._newest) + b"\n")
        if events:
            self._transport.writelines(events)

    def _event(self, frame: bytes) -> bytes:
        self._newest = max(self._newest, id_of(frame) or 0)
        return self._events.update(frame, named=self._following)

    def write(self, data: bytes) -> None:
        """Write events that do not come from the outbox."""
        if not self.ended:
            self._transport.write(data)

    @property
    def behind(self) -> bool:
        """Whether the client keeps up but has not been written everything yet."""
        outbox = self.outbox
        return self.writable.is_set() and not self.ended and bool(outbox.backlog or outbox.pending)

    def pause_writing(self) -> None:
        """Take that the transport is above high water (asyncio)."""
        self.writable.clear()
        if not self.ended:
            self._clients.slow.start(self, now=monotonic())

    def resume_writing(self) -> None:
        """Take that the transport is below low water (asyncio)."""
        self.writable.set()
        self._clients.slow.stop(self)
        if self.behind:
            self._clients.hub.touch(self.outbox)

    def ping(self) -> bool:
        """Write a heartbeat, which proxies and clients wait for; there is no answer to expect."""
        if self.writable.is_set():
            self.write(HEARTBEAT)
        return False

    # ---- the end -------------------------------------------------------------------------------------------

    def close(self, close: Close) -> None:
        """Write what is pending and why the stream ends; without effect if it ends already."""
        if self.ended:
            return
        self._write_pending()
        self.write(farewell(close.code, close.reason))
        self._code = close.code
        self._conclude(slow=close is Close.SLOW_CONSUMER)
        self._transport.close()

    def abort(self) -> None:
        """Cut the client off."""
        self._transport.abort()

    def _conclude(self, *, slow: bool = False) -> None:
        self.ended = True
        self.end_resuming()
        self._clients.hub.detach(self.outbox)
        self._clients.leave(self, slow=slow)

    def data_received(self, data: bytes) -> None:
        """Take what nobody asked for (asyncio)."""
        self._input_bytes += len(data)
        if self._input_bytes > MAX_INPUT_BYTES:
            self.abort()

    def eof_received(self) -> None:
        """Take that the client is gone: the transport closes (asyncio)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Take that the connection is gone (asyncio)."""
        del exc  # whatever it is, the client is gone
        self.ended = True
        self.writable.set()
        self.end_resuming()
        self._clients.hub.detach(self.outbox)
        self._clients.forget(self, self._code)
        log.info(
            "stream ended",
            conn=self.number,
            code=self._code,
            sent=self.outbox.sent,
            conflated=self.outbox.conflated,
            seconds=round(monotonic() - self._opened_at, 3),
        )


def _nothing() -> None:
    """End nothing: the stream is not being resumed."""
