"""
Writes what a datasource hears into a recording, as it comes (docs/recording.md).

A thread of its own encodes, compresses and writes, and flushes at least every half second: what a process that was
killed had heard a second before is in the file. While the disk takes less than comes, what waits is bounded, then
reading waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic
from typing import BinaryIO

import msgspec

from account_socket.errors import SourceError
from account_socket.model import Gap
from account_socket.sources.recorded_message import (
    Mark,
    encode_binary,
    encode_gap,
    encode_mark,
    encode_message,
    encode_sent,
)
from account_socket.sources.recording import RecordingHeader, RecordingWriter
from account_socket.sources.stars import Stars
from account_socket.sources.tap import Tap

FLUSH_SECONDS = 0.5
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""What may wait for the disk before reading waits; one message more always fits."""
END_SECONDS = 10.0
"""How long the disk may take for the rest."""

_BATCH_BYTES = 256 * 1024
_MESSAGE_OVERHEAD_BYTES = 128


class Recorder(Tap):
    """
    Records until `finish`, until the file is full, or until the disk refuses.

    Args:
        file: open for writing, buffered; it is closed at the end, by the thread: on a disk that stalls even closing
            does not return.
        header: its `content` says how messages are kept.
        max_bytes: the recording ends with the message with which the file comes to this size.
        secrets: keys and tokens; where the node or the description repeats one, stars stand in its place (`Stars`).

    Attributes:
        messages, interruptions: how many were recorded.
        ended: set when nothing more is recorded: `finish` tells why.
    """

    def __init__(
        self, file: BinaryIO, header: RecordingHeader, *, max_bytes: int, secrets: Collection[str] = ()
    ) -> None:
        self._file = file
        self._stars = Stars(secrets)
        description = self._stars.over(header.description.encode()).decode()
        self._header = msgspec.structs.replace(header, description=description)
        self._max_bytes = max_bytes
        self._encode = encode_binary if header.content == "geyser" else encode_message
        self._began = monotonic()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._waiting: list[bytes | tuple[bytes, int]] = []
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._closing = False
        self._failure: OSError | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self.written_bytes = 0
        self.messages = 0
        self.interruptions = 0
        self.ended = asyncio.Event()
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Since the recording began."""
        return monotonic() - self._began

    # ---- what the datasource tells -------------------------------------------------------------------------

    def opened(self) -> None:
        """Record that a connection was opened."""
        self._put(encode_mark(Mark.CONNECTED, self._at_ms(monotonic())))

    async def received(self, message: bytes, at: float) -> None:
        """Record a message; return when there is room for another."""
        self.messages += 1
        self._put((message, self._at_ms(at)))
        while self._waiting_bytes > MAX_WAITING_BYTES and not self.ended.is_set():
            self._room.clear()
            await self._room.wait()

    def sent(self, request: bytes) -> None:
        """Record a request of ours; those of Yellowstone are not kept."""
        self._put(encode_sent(request, self._at_ms(monotonic())))

    def lost(self, reason: str) -> None:
        """Record that the connection ended."""
        self.interruptions += 1
        self._put(encode_mark(Mark.LOST, self._at_ms(monotonic()), reason=reason))

    def gap(self, gap: Gap) -> None:
        """Record a gap; what was before the first connection is none."""
        if gap.from_slot is not None or self.interruptions:
            self._put(encode_gap(gap, self._at_ms(monotonic())))

    async def finish(self) -> None:
        """Write the rest and end the file. Raises SourceError: the disk did not take it, now or before."""
        self._closing = True
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self.ended.wait()
        if self._failure is not None:
            reason = self._failure.strerror or str(self._failure)
            raise SourceError(f"the disk refused: {reason}", hint="What was recorded before can be read.")
        if not self.ended.is_set():
            raise SourceError(f"the disk took nothing for {END_SECONDS:g} s", hint="The end of the file is missing.")

    def _at_ms(self, at: float) -> int:
        return max(0, int((at - self._began) * 1000))

    def _put(self, entry: bytes | tuple[bytes, int]) -> None:
        if self.ended.is_set():
            return
        with self._lock:
            self._waiting.append(entry)
        self._waiting_bytes += _size(entry)
        if self._waiting_bytes > _BATCH_BYTES:
            self._wake.set()

    # ---- the thread ----------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        try:
            with RecordingWriter(self._file, self._header) as writer:
                writer.flush()
                while not self._closing and self._has_room(writer):
                    self._wake.wait(FLUSH_SECONDS)
                    self._wake.clear()
                    self._write_waiting(writer)
                self._write_waiting(writer)
        except OSError as error:
            self._failure = error
        finally:
            with suppress(OSError):  # a full disk refuses once more what it refused before
                self._file.close()
            self._tell(self.ended.set)

    def _has_room(self, writer: RecordingWriter) -> bool:
        return writer.written_bytes < self._max_bytes

    def _write_waiting(self, writer: RecordingWriter) -> None:
        with self._lock:
            entries, self._waiting = self._waiting, []
        for entry in entries:
            if not self._has_room(writer):
                break
            writer.append(entry if isinstance(entry, bytes) else self._encode(self._stars.over(entry[0]), entry[1]))
        if entries:
            writer.flush()
            self._tell(self._take_written, sum(map(_size, entries)), writer.written_bytes)

    def _tell(self, told: Callable[..., object], *values: int) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(told, *values)
            self._loop.call_soon_threadsafe(self._room.set)

    def _take_written(self, size: int, written_bytes: int) -> None:
        self._waiting_bytes -= size
        self.written_bytes = written_bytes


def _size(entry: bytes | tuple[bytes, int]) -> int:
    return _MESSAGE_OVERHEAD_BYTES + len(entry if isinstance(entry, bytes) else entry[0])
