"""One PubSub connection: the WebSocket shell around `jsonrpc` and `Subscriptions`."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import SEND_EOF
from websockets.server import ServerProtocol

from account_socket.hub.frames import text_frame
from account_socket.protocol.solana_jsonrpc import answer

if TYPE_CHECKING:
    from account_socket.devnode.gate import Gate

MAX_REQUEST_BYTES = 4096
HIGH_WATER_BYTES = 256 * 1024
"""What is handed to the transport before the rest waits in the queue."""
CLOSE_SECONDS = 5.0


class Connection(asyncio.Protocol):
    """
    One client, from its handshake to its end.

    What it is sent waits in a queue bounded in messages and bytes; a client that lags past a bound is dropped
    without a close frame, as Agave does.
    """

    def __init__(self, gate: Gate, transport: asyncio.Transport) -> None:
        self._gate = gate
        self.transport = transport
        self._websocket = ServerProtocol(max_size=MAX_REQUEST_BYTES)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._blocked = False
        self._fragments: list[bytes] = []
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        gate.connections.add(self)

    def send(self, frame: bytes) -> None:
        """Queue one complete frame; `flush` hands it to the transport."""
        if self._gate.silent or self.transport.is_closing():
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._gate.touched.add(self)
        limits = self._gate.limits
        if len(self._queue) > limits.max_queued_messages or self._queued_bytes > limits.max_queued_bytes:
            self._gate.lagging_dropped += 1
            self.transport.abort()

    def flush(self) -> None:
        """Hand what is queued to the transport, unless that is full."""
        while self._queue and not (self._blocked or self._gate.silent or self.transport.is_closing()):
            batch, size = [], 0
            while self._queue and size < HIGH_WATER_BYTES:
                frame = self._queue.popleft()
                batch.append(frame)
                size += len(frame)
            self._queued_bytes -= size
            self.transport.writelines(batch)

    def data_received(self, data: bytes) -> None:
        """Feed the protocol and answer what is complete."""
        self._websocket.receive_data(data)
        for event in self._websocket.events_received():
            if isinstance(event, Request):
                self._websocket.send_response(self._websocket.accept(event))
            elif isinstance(event, Frame):
                self._receive(event)
        if self._websocket.parser_exc is not None:
            # Too large, not UTF-8 or not WebSocket: Agave just ends the connection.
            self.transport.abort()
            return
        self._send_own()
        self.flush()

    def _send_own(self) -> None:
        for data in self._websocket.data_to_send():
            if data != SEND_EOF:
                self.send(data)
        if self._websocket.close_expected():
            self.flush()
            # What is still buffered goes out first; a client that does not take it is not waited for.
            self.transport.close()
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.transport.abort)

    def _receive(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            return
        self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return
        text = b"".join(self._fragments)
        self._fragments.clear()
        try:
            text.decode()
        except UnicodeDecodeError:
            self.transport.abort()
            return
        # Pongs for earlier pings leave before the answer, and the answer before what the call sets off.
        self._send_own()
        if (reply := answer(text, self._call)) is not None:
            self.send(text_frame(reply))

    def _call(self, method: str, params: list[Any]) -> bytes:
        return self._gate.subscriptions.call(self, method, params)

    def pause_writing(self) -> None:
        """Let frames wait in the queue."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Send what waited."""
        self._blocked = False
        self.flush()

    def eof_received(self) -> None:
        """End with the client."""
        self._websocket.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        """Forget everything."""
        self._gate.connections.discard(self)
        self._gate.subscriptions.drop(self)
        self._queue.clear()
