"""
A WebSocket connection that takes plain messages past the library's parser, which at a flood costs a tenth of all.

What arrives is cut into frames here, whatever they are. A text frame that is a whole message, without a mask or
reserved bits, goes straight to where the library puts its messages. Everything else is fed to the library as it is:
the handshake, control frames, parts of messages, binary ones, what is too large, and a frame that has not wholly
arrived, until its end. So the library stays the judge of all that is not plain.
"""

from __future__ import annotations

from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN

_HEAD_END = b"\r\n\r\n"
_WHOLE_TEXT = 0x81
_MASKED = 0x80
_TWO_BYTES, _EIGHT_BYTES = 126, 127
"""What stands for a length in so many bytes that follow (RFC 6455, 5.2)."""


class WholeFrames(ClientConnection):
    """As `ClientConnection`, for connections without extensions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cuts = False
        self._head = b""  # of a frame whose length did not arrive with it
        self._owed = 0  # bytes that the library is to have of a frame it got the beginning of

    def data_received(self, data: bytes) -> None:
        """Take what arrived (asyncio)."""
        if self._cuts:
            self._cut(self._head + data if self._head else data)
            return
        if self.protocol.state is OPEN:  # something came right behind the handshake
            super().data_received(data)
            return
        super().data_received(data)
        # With something right behind the handshake it is not known where a frame begins: then all are the library's.
        ends = data.find(_HEAD_END) == len(data) - len(_HEAD_END)
        self._cuts = ends and self.protocol.state is OPEN and not self.protocol.extensions

    def eof_received(self) -> None:
        """Take that no more will come (asyncio)."""
        if self._head:
            super().data_received(self._head)
            self._head = b""
        super().eof_received()

    def _cut(self, data: bytes) -> None:
        self._head = b""
        at = min(self._owed, len(data))
        if at:
            self._owed -= at
            super().data_received(data[:at])
        largest = self.protocol.max_message_size or len(data)
        while at < len(data):
            start, length = _measure(data, at)
            if not start:
                self._head = data[at:]
                return
            end = start + length
            plain = data[at] == _WHOLE_TEXT and data[at + 1] < _MASKED and length <= largest and end <= len(data)
            if plain and self.protocol.current_size is None and self.protocol.state is OPEN:
                self.process_event(Frame(Opcode.TEXT, data[start:end]))
            else:
                self._owed = max(0, end - len(data))
                super().data_received(data[at:end])
            at = end


def _measure(data: bytes, at: int) -> tuple[int, int]:
    """Return where the payload of the frame at `at` begins, and its length; 0 while that has not arrived."""
    if len(data) < at + 2:
        return 0, 0
    length = data[at + 1] & ~_MASKED
    size = {_TWO_BYTES: 2, _EIGHT_BYTES: 8}.get(length, 0)
    start = at + 2 + size
    if len(data) < start:
        return 0, 0
    if size:
        length = int.from_bytes(data[at + 2 : start])
    return (start + 4 if data[at + 1] & _MASKED else start), length
