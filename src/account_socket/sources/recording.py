"""
Recordings: what came from a node in a file, to be replayed (docs/recording.md).

A recording is JSON lines in zstd frames: a header, then one write or one message per line in arrival order.
`RecordingParser` and the `encode_*` functions turn bytes into values and back; `RecordingReader` and
`RecordingWriter` join them to a file. Reading is bounded: one line and one decompression window at a time, whatever
the file holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO, Final, Literal, Protocol, Self

import msgspec
import zstandard

from account_socket.sources.recorded_message import RecordedMessage, parse_message
from account_socket.sources.recorded_write import (
    MAX_LINE_BYTES,
    RecordedWrite,
    RecordingError,
    encode_write,
    parse_write,
)

FORMAT: Final = "account-socket-recording"
VERSION: Final = 1
CONTENTS: Final = ("writes", "frames", "geyser")
MAX_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""What the zstd levels up to 19 use; a file that asks for more memory is refused."""
MAX_LOADED_BYTES: Final = 1024 * 1024 * 1024
"""Account bytes that `Recording.load` holds at most, each write counted with `WRITE_OVERHEAD_BYTES`."""
WRITE_OVERHEAD_BYTES: Final = 512

_CHUNK_BYTES: Final = 64 * 1024
_Key = Annotated[str, msgspec.Meta(max_length=44)]
_Word = Annotated[str, msgspec.Meta(max_length=32)]


class RecordingHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The first line.

    Attributes:
        content: What the other lines are: `writes`, or a node's messages: `frames` of PubSub or `geyser` updates.
        program: The program whose accounts were recorded, base58, or None for several.
        genesis_hash: The cluster's, base58, or None where it is not known.
        commitment: What the node was asked for, or None where it is not known.
        began_at: UTC, ISO 8601, what `at_ms` counts from, or None where it is not known.
    """

    format: str = msgspec.field(default=FORMAT)
    version: int = VERSION
    content: str = "writes"
    program: _Key | None = None
    description: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    genesis_hash: _Key | None = None
    commitment: _Word | None = None
    began_at: _Word | None = None


class _FullHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that every header of every version has."""

    format: Literal["account-socket-recording"]
    version: int
    content: str = "writes"


_decode_identity = msgspec.json.Decoder(_FullHeader).decode
_decode_header = msgspec.json.Decoder(RecordingHeader).decode
_encode = msgspec.json.Encoder().encode


def parse_header(line: bytes) -> RecordingHeader:
    """Return the header that the first line holds. Raises RecordingError: no recording, or one we cannot read."""
    try:
        identity = _decode_identity(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RecordingError(f"not a recording: {exc}", line=1) from exc
    if identity.version != VERSION:
        raise RecordingError(f"recording version {identity.version}; this program reads version {VERSION}", line=1)
    if identity.content not in CONTENTS:
        known = ", ".join(map(repr, CONTENTS))
        raise RecordingError(f"a recording of {identity.content!r}; this program reads {known}", line=1)
    try:
        return _decode_header(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RecordingError(f"bad header: {exc}", line=1) from exc


def encode_header(header: RecordingHeader) -> bytes:
    """Return the header's line, with its line feed."""
    named = {"format": FORMAT, "version": VERSION, "content": header.content}
    optional = {
        "program": header.program,
        "genesis_hash": header.genesis_hash,
        "commitment": header.commitment,
        "began_at": header.began_at,
    }
    known = {key: value for key, value in optional.items() if value is not None}
    return _encode({**named, **known, "description": header.description}) + b"\n"


class _Writes(Protocol):
    """Turns the lines of one content into writes; `odd` counts messages that could not be read."""

    @property
    def odd(self) -> int: ...

    def take(self, message: RecordedMessage) -> list[RecordedWrite]: ...


def _writes_of(header: RecordingHeader) -> _Writes | None:
    """Return what turns messages into writes; None where the lines are writes."""
    if header.content == "frames":
        from account_socket.sources.frame_writes import FrameWrites  # noqa: PLC0415  (most recordings need neither)

        return FrameWrites(header.program)
    if header.content == "geyser":
        from account_socket.sources.geyser_writes import GeyserWrites  # noqa: PLC0415  (it loads protobuf)

        return GeyserWrites()
    return None


class RecordingParser:
    """
    Takes the decompressed bytes in pieces of any size, gives lines or writes. Every method raises RecordingError.

    Attributes:
        header: The first line, or None before it is complete.
        line: How many lines were complete so far.
        warning: After `finish`, why the end is missing and what could not be read, or "".
    """

    def __init__(self) -> None:
        self.header: RecordingHeader | None = None
        self.line = 0
        self.warning = ""
        self._tail = bytearray()
        self._writes: _Writes | None = None

    def lines(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield number and text of the lines that end in `data`, but for the header. To be taken to its end."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = bytes(self._tail) + data[start:end] if self._tail else data[start:end]
            self._tail.clear()
            start = end + 1
            self.line += 1
            if len(line) > MAX_LINE_BYTES:
                raise RecordingError(f"longer than {MAX_LINE_BYTES} bytes", line=self.line)
            if self.header is None:
                self.header = parse_header(line)
                self._writes = _writes_of(self.header)
            else:
                yield self.line, line
        self._tail += data[start:]
        if len(self._tail) > MAX_LINE_BYTES:
            raise RecordingError(f"longer than {MAX_LINE_BYTES} bytes", line=self.line + 1)

    def writes(self, line: bytes, number: int) -> list[RecordedWrite]:
        """Return the writes that a line tells of: in a recording of messages none, one or several."""
        if self._writes is None:
            return [parse_write(line, number)]
        return self._writes.take(parse_message(line, number))

    def feed(self, data: bytes) -> list[RecordedWrite]:
        """Return the writes of the lines that end in `data`."""
        return [write for number, line in self.lines(data) for write in self.writes(line, number)]

    def finish(self) -> None:
        """Say that no more bytes come; an unfinished last line is left out. No header is an error."""
        if self.header is None:
            raise RecordingError("not a recording: the header is missing", line=1)
        warnings = []
        if self._writes is not None and self._writes.odd:
            warnings.append(f"{self._writes.odd} odd messages in it are left out")
        if self._tail:
            warnings.append(f"cut off in line {self.line + 1}; the lines before it are kept")
        self.warning = "; ".join(warnings)


class RecordingReader:
    """
    Reads an open file in bounded memory: iterating gives its writes, one by one; `messages` what they came in.

    The header is read at once. After the last line, `warning` says whether the end is missing, as it is after a
    recorder was killed; that is no error. Raises RecordingError, here and while iterating.
    """

    def __init__(self, file: BinaryIO) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._stream = decompressor.stream_reader(file, read_across_frames=True, closefd=False)
        self._parser = RecordingParser()
        self._first: list[tuple[int, bytes]] = []
        while self._parser.header is None and (chunk := self._read()):
            self._first = list(self._parser.lines(chunk))
        if self._parser.header is None:
            self._parser.finish()
        self.header: RecordingHeader = self._parser.header or RecordingHeader()

    @property
    def warning(self) -> str:
        """Why the end of the file is missing and what could not be read, or ""; known after the last line."""
        return self._parser.warning

    @property
    def line(self) -> int:
        """How many lines were read so far."""
        return self._parser.line

    def __iter__(self) -> Iterator[RecordedWrite]:
        for number, line in self._lines():
            yield from self._parser.writes(line, number)
        self._parser.finish()

    def messages(self) -> Iterator[RecordedMessage]:
        """Yield the messages as they came, instead of the writes. Only where the content is messages."""
        if self.header.content == "writes":
            raise RecordingError("a recording of writes holds no messages", line=1)
        for number, line in self._lines():
            yield parse_message(line, number)
        self._parser.finish()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        first, self._first = self._first, []
        yield from first
        while chunk := self._read():
            yield from self._parser.lines(chunk)

    def _read(self) -> bytes:
        try:
            return self._stream.read(_CHUNK_BYTES)
        except zstandard.ZstdError as exc:
            line = self._parser.line + 1
            raise RecordingError(f"not zstd data: {exc}", line=line) from exc


class RecordingWriter:
    """
    Writes a recording to an open file. A context manager: leaving it ends the zstd frame.

    What was written before the last `flush` survives the death of the process.
    """

    def __init__(self, file: BinaryIO, header: RecordingHeader, *, level: int = 3) -> None:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._file = file
        self._stream = compressor.stream_writer(file, closefd=False)
        self._stream.write(encode_header(header))

    def write(self, write: RecordedWrite) -> None:
        """Append one write."""
        self._stream.write(encode_write(write))

    def append(self, line: bytes) -> None:
        """Append a line of whatever the header's content is; it ends in a line feed."""
        self._stream.write(line)

    @property
    def written_bytes(self) -> int:
        """How much was handed to the file so far, compressed."""
        return self._stream.tell()

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self._stream.flush(zstandard.FLUSH_BLOCK)
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush(zstandard.FLUSH_FRAME)
        self._file.flush()


class Recording:
    """
    A whole recording in memory.

    Attributes:
        writes: In arrival order; slots need not grow.
        lowest_slot_from: For each write, the lowest slot of it and all later ones: a read before that write must
            not claim to show a later slot.
        timed: Whether each write has its time.
        warning: Why the end is missing and what could not be read, or "".
    """

    def __init__(self, header: RecordingHeader, writes: list[RecordedWrite], warning: str = "") -> None:
        self.header = header
        self.writes = writes
        self.warning = warning
        self.timed = bool(writes) and all(write.at_ms is not None for write in writes)
        slots = [write.account.slot for write in reversed(writes)]
        self.lowest_slot_from = list(accumulate(slots, min))[::-1]

    @classmethod
    def read(cls, file: BinaryIO) -> Recording:
        """Read an open file to its end. Raises RecordingError; more than MAX_LOADED_BYTES of account data is one."""
        reader = RecordingReader(file)
        writes: list[RecordedWrite] = []
        size = 0
        for write in reader:
            size += len(write.account.data) + WRITE_OVERHEAD_BYTES
            if size > MAX_LOADED_BYTES:
                raise RecordingError(f"more than {MAX_LOADED_BYTES} bytes of accounts", line=reader.line)
            writes.append(write)
        return cls(reader.header, writes, reader.warning)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read the file at `path`. Raises RecordingError, and OSError where it cannot be opened."""
        with path.open("rb") as file:
            return cls.read(file)
