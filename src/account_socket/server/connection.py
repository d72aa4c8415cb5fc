"""
One WebSocket client: a shell around the sans-I/O protocol of the `websockets` library.

The library does masking, fragments, control frames and the close handshake. Frames of the fan-out bypass it: they
are ready bytes, written once per loop turn. Work for clients is bounded in each turn: what arrives is fed in slices
until the time that all clients' input has (server/turns.py), or the client's room for answers, is used up; a client
that is behind with reading is not read from, as its requests could only be answered into a growing buffer.

States: open → closing (the close frame is written, nothing is pushed any more, what arrives is only searched for
the client's close frame) → lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from time import monotonic

import structlog
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event
from websockets.server import ServerProtocol

from account_socket.hub.hub import Answered, Target
from account_socket.hub.outbox import TURN_BYTES, Outbox
from account_socket.protocol import messages
from account_socket.protocol.codes import ABNORMAL_CLOSURE, Close
from account_socket.protocol.messages import Deselect, Id, Subscribe, Unsubscribe
from account_socket.protocol.resume import Resume
from account_socket.protocol.selection import Select
from account_socket.protocol.session import Action, Answer, Begin, Disconnect, Session
from account_socket.server.clients import Clients
from account_socket.server.resuming import Resumer
from account_socket.server.selecting import Selecting

MAX_MESSAGE_BYTES = 64 * 1024
SLICE_BYTES = 256
"""The library takes a slice as a whole, and one full of empty frames takes as long as a turn."""
UNREAD_BYTES = 2048
"""More than this waiting for its turn, and the client is not read from. A request is smaller: to stop and go on
reading costs two system calls, which ten thousand clients that ask at once cannot afford."""
NOTSENT_BYTES = 64 * 1024
"""How much the kernel takes of what it cannot send yet; without it, 4 MB per stalled client (docs/performance.md)."""
PING = b"\x89\x00"

log = structlog.get_logger("account_socket.websocket")

library_log = logging.getLogger("account_socket.websocket.library")
library_log.setLevel(logging.ERROR)  # the library tells of each connection at INFO; so do we, with more facts


class Connection(asyncio.Protocol):
    """
    Args:
        protocol: after a successful handshake, its answer still to be sent.
        number: names the connection in the log.
        wants_status: whether it is told of upstream beside accounts.
    """

    __slots__ = (
        "_clients",
        "_closing",
        "_fragments",
        "_frames",
        "_opened_at",
        "_protocol",
        "_reading",
        "_reading_on",
        "_resumer",
        "_room",
        "_selecting",
        "_session",
        "_transport",
        "_unread",
        "_wants_status",
        "_writable",
        "address",
        "number",
        "outbox",
    )

    _transport: asyncio.Transport

    def __init__(self, clients: Clients, protocol: ServerProtocol, number: int, *, wants_status: bool = False) -> None:
        now = monotonic()
        self.number = number
        self.address = ""
        batch = clients.compressed_batch if protocol.extensions else clients.batch
        self.outbox = Outbox(self.flush, batch, clients.limits.outbox_max_bytes)
        self._clients = clients
        self._wants_status = wants_status
        self._protocol = protocol
        self._session = Session(clients.limits.requests, clients.tally, now=now, check=clients.find_unknown)
        self._opened_at = now
        self._fragments: bytearray | None = None
        self._frames: list[Event] = []
        self._unread = b""
        self._room = 0
        self._reading = True
        self._reading_on = False
        self._resumer: Resumer | None = None
        self._selecting: Selecting | None = None
        self._writable = True
        self._closing = False

    def open(self, transport: asyncio.Transport, early: bytes) -> None:
        """
        Take over a transport.

        Args:
            early: what the client sent right behind its handshake.
        """
        self._transport = transport
        transport.set_protocol(self)
        high = self._clients.limits.outbox_max_bytes
        transport.set_write_buffer_limits(high=high, low=high // 4)
        tune(transport.get_extra_info("socket"))
        peer = transport.get_extra_info("peername") or ("", 0)
        self.address = str(peer[0])
        self._send_library_output()
        refusal = self._clients.judge(self._protocol.origin, self.address)
        if refusal is not None:
            log.info("client refused", conn=self.number, peer=self.address, code=refusal.code)
            self.close(refusal)
            return
        self._clients.admit(self)
        log.info("client connected", conn=self.number, peer=f"{peer[0]}:{peer[1]}")
        if self._wants_status:
            self._clients.greet(self.outbox)
        if early:
            self.data_received(early)

    # ---- receiving -----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what arrived (asyncio)."""
        # Ten thousand clients may ask in one turn of the loop: this is all that each of them costs there.
        if self._clients.turns.spent and len(data) + len(self._unread) <= UNREAD_BYTES:
            self._unread += data
            if not self._reading_on:
                self._reading_on = True
                self._clients.turns.waiting.append(self._take_unread)
            return
        try:
            self._receive(self._unread + data if self._unread else data)
        except Exception:  # our bug must cost this client only
            log.exception("client handling failed", conn=self.number)
            self._fail()

    def eof_received(self) -> None:
        """Take that the client will send no more: what is pending is written, then the transport closes (asyncio)."""
        try:
            self._take_last()
        except Exception:  # our bug must cost this client only
            log.exception("client handling failed", conn=self.number)
            self._fail()
        self._protocol.receive_eof()
        self._conclude()

    def _take_last(self) -> None:
        """Take what still waits for its turn: nothing will follow, and it is little (UNREAD_BYTES)."""
        if self._unread:
            self._protocol.receive_data(self._unread)
            self._unread = b""
            self._frames = self._protocol.events_received()[::-1] + self._frames
        while self._frames and not self._closing:
            self._take(self._frames.pop())

    def _receive(self, data: bytes) -> None:
        rest = memoryview(data)
        self._room = TURN_BYTES
        while self._take_frames() and rest:
            self._protocol.receive_data(bytes(rest[:SLICE_BYTES]))
            self._frames = self._protocol.events_received()[::-1]
            rest = rest[SLICE_BYTES:]
        self._unread = bytes(rest)
        self.read_on()

    def _take_frames(self) -> bool:
        """Take the frames that were read; return whether this turn's share of time and answers allows for more."""
        frames = self._frames
        time_is_up = self._clients.turns.time_is_up
        while frames:
            frame = frames.pop()
            if not self._closing:
                self._take(frame)
            if frames and (self._room <= 0 or time_is_up()):
                return False
        if self._protocol.state is not OPEN:
            self._conclude()
        self._send_library_output()
        return self._readable and self._room > 0 and not time_is_up()

    def read_on(self) -> None:
        """Go on with what was read already, and with reading, where there is room for what that asks for."""
        if (self._unread or self._frames) and self._readable and not self._reading_on:
            self._reading_on = True
            self._clients.turns.wait(self._take_unread)
        self._regulate_reading()

    def _take_unread(self) -> None:
        self._reading_on = False
        if (self._unread or self._frames) and self._readable:
            self.data_received(b"")

    @property
    def _readable(self) -> bool:
        """Whether there is room for answers: only so much can pile up as one turn's input asks for."""
        full = self._resumer is not None and self._resumer.full
        return self._closing or (self._writable and not self.outbox.waiting and not full)

    def _regulate_reading(self) -> None:
        wanted = self._readable and len(self._unread) <= UNREAD_BYTES
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
                self._clients.pongs.stop(self)

    def _take(self, frame: object) -> None:
        assert isinstance(frame, Frame)  # the handshake's request, the only other event, was taken before
        match frame.opcode:
            case Opcode.TEXT if frame.fin:
                self._take_text(frame.data)
            case Opcode.TEXT:
                self._fragments = bytearray(frame.data)
                self._count_frame()
            case Opcode.CONT:
                self._take_fragment(frame)
            case Opcode.BINARY:
                self.close(Close.BINARY)
            case Opcode.PONG:
                self._clients.pongs.stop(self)
                self._count_frame()
            case Opcode.PING:
                self._count_frame()

    def _take_fragment(self, frame: Frame) -> None:
        assert self._fragments is not None  # the library refuses a continuation of nothing
        self._fragments += frame.data
        if len(self._fragments) > MAX_MESSAGE_BYTES:  # the library lets the end of a compressed one pass
            self.close(Close.TOO_BIG)
        elif frame.fin:
            text, self._fragments = self._fragments, None
            self._take_text(text)
        else:
            self._count_frame()

    def _count_frame(self) -> None:
        disconnect = self._session.receive_other(now=monotonic())
        if disconnect is not None:
            self.close(disconnect.close)

    def _take_text(self, data: bytes | bytearray | memoryview) -> None:
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self.close(Close.BAD_UTF8)
            return
        self._act(self._session.receive_text(text, self.outbox.pubkeys, now=monotonic()))

    def _act(self, action: Action) -> None:
        hub = self._clients.hub
        match action:
            case Subscribe(resume=Resume() as resume):
                self.resume(action, resume, self.outbox)
            case Subscribe(id, pubkeys):
                hub.subscribe(self.outbox, pubkeys, partial(self._subscribed, id))
            case Unsubscribe(id, pubkeys):
                self.end_resuming(self.outbox, pubkeys)
                hub.unsubscribe(self.outbox, pubkeys)
                if id is not None:
                    hub.answer(self.outbox, messages.unsubscribe_ack(id, self._clients.epoch))
            case Begin() | Deselect():
                self._select(action)
            case Answer(payload):
                self._room -= len(payload)
                hub.answer(self.outbox, payload)
            case Disconnect(close):
                self.close(close)

    def _select(self, action: Begin | Deselect) -> None:
        if self._selecting is None:
            self._selecting = Selecting(self, self._clients)
        if isinstance(action, Begin):
            self._selecting.begin(action.sub, action.request)
        else:
            self._selecting.drop(action)

    def resume(self, request: Subscribe | Select, resume: Resume, target: Target, sub: int | None = None) -> None:
        """Have the client told what it missed, and `target` sent what comes; `sub` numbers the subscription."""
        if self._resumer is None:
            clients = self._clients
            self._resumer = Resumer(self, clients.hub, clients.epoch, clients.past, clients.limits.outbox_max_bytes)
        self._resumer.add(request, resume, target, sub)

    def end_resuming(self, target: Target, pubkeys: Sequence[str]) -> None:
        """Have nothing more told of these accounts."""
        if self._resumer is not None:
            self._resumer.drop(target, pubkeys)

    def _subscribed(self, id: Id | None, answered: Answered) -> None:
        if id is not None and not self._closing:
            found, foreign, stale = answered.found, answered.foreign, answered.stale
            ack = messages.subscribe_ack(id, self._clients.epoch, found, foreign, stale=stale)
            self._clients.hub.answer(self.outbox, ack)

    # ---- sending -------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what the outbox holds, as one system call; what does not fit this turn follows in the next."""
        if self._closing:
            return
        try:
            if self._writable and self._reading and (data := self.outbox.take_at_once()):
                self._transport.write(data)
                if self._resumer is not None:
                    self._resumer.wake()
                return
            self._write_pending()
            if self.outbox.lost:
                self.close(Close.SLOW_CONSUMER)
                return
        except Exception:  # the clients behind this one in the turn must not suffer
            log.exception("client flush failed", conn=self.number)
            self.abort()
            return
        if self.behind:
            self._clients.hub.touch(self.outbox)
            self._regulate_reading()
        elif not self._reading:
            self.read_on()
        if self._resumer is not None:
            self._resumer.wake()

    def ping(self) -> bool:
        """Ask for a pong, unless the client is above high water; return whether one is to come, and would be read."""
        if self._writable:
            self._transport.write(PING)
        return self._writable and self._reading

    def pause_writing(self) -> None:
        """Take that the transport is above high water (asyncio)."""
        self._writable = False
        if not self._closing:
            self._clients.slow.start(self, now=monotonic())
            self._clients.pongs.stop(self)
        self._regulate_reading()

    def resume_writing(self) -> None:
        """Take that the transport is below low water (asyncio)."""
        self._writable = True
        self._clients.slow.stop(self)
        if self.behind:
            self._clients.hub.touch(self.outbox)
        else:
            self.read_on()
        if self._resumer is not None:
            self._resumer.wake()

    def _send_library_output(self) -> None:
        output = self._protocol.data_to_send()
        if not output:
            return
        ends = not output[-1]  # an empty string, always the last, stands for the end of the stream
        if not self._closing:  # a pong to one who is told to go would pile up if it does not read
            self._transport.writelines(output)
        if ends:
            self._end_stream()

    def _end_stream(self) -> None:
        if self._protocol.close_rcvd is not None:
            self._transport.close()
        elif not self._transport.is_closing():
            # Closing now, with input unread, would reset the connection before the close frame is read.
            self._transport.write_eof()

    # ---- closing -------------------------------------------------------------------------------------------

    def close(self, close: Close) -> None:
        """Write what is pending and a close frame, and push nothing more; without effect if closing already."""
        if self._closing:
            return
        self._write_pending()
        if self._protocol.state is OPEN:  # else the library has closed for what came later in the same slice
            self._protocol.send_close(close.code, close.reason)
        self._conclude(slow=close is Close.SLOW_CONSUMER)

    def abort(self) -> None:
        """Cut the client off."""
        self._transport.abort()

    @property
    def behind(self) -> bool:
        """Whether the client keeps up but has not been written everything yet."""
        return self._writable and not self._closing and bool(self.outbox.backlog or self.outbox.pending)

    @property
    def takes_more(self) -> bool:
        """Whether the client was written everything so far."""
        return self._writable and not self.outbox.waiting

    def _conclude(self, *, slow: bool = False) -> None:
        if self._closing:
            return
        self._write_pending()
        self._send_library_output()
        self._closing = True
        self._end_parts()
        self._clients.hub.detach(self.outbox)
        self._clients.leave(self, slow=slow)
        self._regulate_reading()

    @property
    def gone(self) -> bool:
        """Whether nothing is sent any more."""
        return self._closing

    def _end_parts(self) -> None:
        if self._resumer is not None:
            self._resumer.end()
            self._resumer = None
        if self._selecting is not None:
            self._selecting.end()
            self._selecting = None

    def _write_pending(self) -> None:
        frames = self.outbox.take(writable=self._writable)
        if frames:
            self._transport.writelines(frames)
        if self.outbox.waiting and not self._writable:
            self.outbox.take(writable=False)  # what was left over joins the backlog, or it would grow unseen

    def _fail(self) -> None:
        try:
            self.close(Close.INTERNAL)
        except Exception:  # whatever state the bug left behind, the socket goes
            log.exception("client closing failed", conn=self.number)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take that the connection is gone (asyncio)."""
        del exc  # whatever it is, the client is gone
        self._closing = True
        self._unread = b""
        self._frames = []
        self._end_parts()
        self._clients.hub.detach(self.outbox)
        code, reason = self._outcome()
        admitted = self in self._clients.connections
        self._clients.forget(self, code)
        if admitted:
            log.info(
                "client disconnected",
                conn=self.number,
                code=code,
                reason=reason,
                sent=self.outbox.sent,
                conflated=self.outbox.conflated,
                requests=self._session.requests,
                seconds=round(monotonic() - self._opened_at, 3),
            )
        self._untie()

    def _untie(self) -> None:
        """Leave no cycle behind, so that memory is free at once: the collector's passes are rare (service.py)."""
        self.outbox.flush = _nothing
        self._protocol.parser.close()
        self._protocol.parser_exc = None

    def _outcome(self) -> tuple[int, str]:
        close = self._protocol.close_sent  # ours, or the client's own, as its echo
        return (ABNORMAL_CLOSURE, "") if close is None else (int(close.code), close.reason)


def _nothing() -> None:
    """Flush what has nobody to go to any more."""


def tune(sock: socket.socket | None) -> None:
    """Have small writes leave at once, and the kernel hold little for a client that does not read."""
    if sock is None:
        return
    with suppress(OSError):  # a kernel without these options only serves with larger buffers
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
