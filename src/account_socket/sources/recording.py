"""
Recordings: account writes in a file, to be replayed (docs/recording.md).

A recording is JSON lines in zstd frames: a header, then one write per line in arrival order. `RecordingParser` and
the `encode_*` functions turn bytes into values and back; `RecordingReader` and `RecordingWriter` join them to a
file. Reading is bounded: one line and one decompression window at a time, whatever the file holds.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, Literal, Self

import msgspec
import zstandard
from solders.pubkey import Pubkey

from account_socket.errors import SourceError
from account_socket.model import MAX_I64, RawAccount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

FORMAT: Final = "account-socket-recording"
VERSION: Final = 1
MAX_ACCOUNT_BYTES: Final = 10 * 1024 * 1024
"""The largest account that Solana allows."""
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""A 10 MiB account is 14.0 MB of base64; the other fields need less than 1 KB."""
MAX_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""What the zstd levels up to 19 use; a file that asks for more memory is refused."""
MAX_LOADED_BYTES: Final = 1024 * 1024 * 1024
"""Account bytes that `Recording.load` holds at most."""

_CHUNK_BYTES: Final = 64 * 1024
_MAX_U64: Final = 2**64 - 1


class RecordingError(SourceError):
    """
    A file is not a recording that this version reads.

    Attributes:
        line: The line where reading stopped, from 1; 0 where the fault is not in a line.
    """

    def __init__(self, message: str, *, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class RecordingHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The first line.

    Attributes:
        content: What the other lines are; version 1 has account writes only.
        program: The program whose accounts were recorded, base58, or None for several.
        genesis_hash: The cluster's, base58, or None where it is not known.
    """

    format: str = msgspec.field(default=FORMAT)
    version: int = VERSION
    content: str = "writes"
    program: Annotated[str, msgspec.Meta(max_length=44)] | None = None
    description: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    genesis_hash: Annotated[str, msgspec.Meta(max_length=44)] | None = None


class RecordedWrite(msgspec.Struct, frozen=True, gc=False):
    """
    One account state after a write.

    Attributes:
        at_ms: Milliseconds since the recording began, or None where the times were not recorded.
    """

    account: RawAccount
    at_ms: int | None = None


_Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_I64)]
_Base58Key = Annotated[str, msgspec.Meta(min_length=32, max_length=44)]


class _WriteLine(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    at_ms: _Amount | None = None
    slot: _Amount
    pubkey: _Base58Key
    owner: _Base58Key
    lamports: _Amount
    executable: bool
    rent_epoch: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,20}$")]
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_ACCOUNT_BYTES)]


class _FullHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that every header of every version has."""

    format: Literal["account-socket-recording"]
    version: int
    content: str = "writes"


_decode_identity = msgspec.json.Decoder(_FullHeader).decode
_decode_header = msgspec.json.Decoder(RecordingHeader).decode
_decode_write = msgspec.json.Decoder(_WriteLine).decode
_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=65_536)
def _is_key(text: str) -> bool:
    try:
        Pubkey.from_string(text)
    except ValueError:
        return False
    return True


def parse_header(line: bytes) -> RecordingHeader:
    """Return the header that the first line holds. Raises RecordingError: no recording, or one we cannot read."""
    try:
        identity = _decode_identity(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RecordingError(f"not a recording: {exc}", line=1) from exc
    if identity.version != VERSION:
        raise RecordingError(f"recording version {identity.version}; this program reads version {VERSION}", line=1)
    if identity.content != "writes":
        raise RecordingError(f"a recording of {identity.content!r}; only 'writes' can be replayed", line=1)
    try:
        return _decode_header(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RecordingError(f"bad header: {exc}", line=1) from exc


def parse_write(line: bytes, number: int) -> RecordedWrite:
    """Return the write that line `number` holds. Raises RecordingError, saying what is wrong in which line."""
    try:
        fields = _decode_write(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RecordingError(str(exc), line=number) from exc
    for name, key in (("pubkey", fields.pubkey), ("owner", fields.owner)):
        if not _is_key(key):
            raise RecordingError(f"{name} {key!r} is not a base58 public key of 32 bytes", line=number)
    rent_epoch = int(fields.rent_epoch)
    if rent_epoch > _MAX_U64:
        raise RecordingError(f"rent_epoch {rent_epoch} is above 2^64-1", line=number)
    account = RawAccount(
        pubkey=fields.pubkey,
        slot=fields.slot,
        owner=fields.owner,
        lamports=fields.lamports,
        data=fields.data,
        executable=fields.executable,
        rent_epoch=rent_epoch,
    )
    return RecordedWrite(account, fields.at_ms)


def encode_header(header: RecordingHeader) -> bytes:
    """Return the header's line, with its line feed."""
    named = {"format": FORMAT, "version": VERSION, "content": header.content}
    optional = {"program": header.program, "genesis_hash": header.genesis_hash}
    known = {key: value for key, value in optional.items() if value is not None}
    return _encode({**named, **known, "description": header.description}) + b"\n"


def encode_write(write: RecordedWrite) -> bytes:
    """Return the write's line, with its line feed."""
    account = write.account
    line = _WriteLine(
        at_ms=write.at_ms,
        slot=account.slot,
        pubkey=account.pubkey,
        owner=account.owner,
        lamports=account.lamports,
        executable=account.executable,
        rent_epoch=str(account.rent_epoch),
        data=account.data,
    )
    return _encode(line) + b"\n"


class RecordingParser:
    """
    Takes the decompressed bytes in pieces of any size, gives the writes.

    Attributes:
        header: The first line, or None before it is complete.
        line: How many lines were complete so far.
        warning: After `finish`, why the end is missing, or "".
    """

    def __init__(self) -> None:
        self.header: RecordingHeader | None = None
        self.line = 0
        self.warning = ""
        self._tail = bytearray()

    def feed(self, data: bytes) -> list[RecordedWrite]:
        """Return the writes whose lines end in `data`. Raises RecordingError."""
        start, writes = 0, []
        while (end := data.find(b"\n", start)) >= 0:
            line = bytes(self._tail) + data[start:end] if self._tail else data[start:end]
            self._tail.clear()
            start = end + 1
            self.line += 1
            if len(line) > MAX_LINE_BYTES:
                raise RecordingError(f"longer than {MAX_LINE_BYTES} bytes", line=self.line)
            if self.header is None:
                self.header = parse_header(line)
            else:
                writes.append(parse_write(line, self.line))
        self._tail += data[start:]
        if len(self._tail) > MAX_LINE_BYTES:
            raise RecordingError(f"longer than {MAX_LINE_BYTES} bytes", line=self.line + 1)
        return writes

    def finish(self) -> None:
        """Say that no more bytes come; an unfinished last line is left out. Raises RecordingError: no header."""
        if self.header is None:
            raise RecordingError("not a recording: the header is missing", line=1)
        if self._tail:
            self.warning = f"cut off in line {self.line + 1}; the {self.line - 1} writes before it are kept"


class RecordingReader:
    """
    Reads the writes of an open file one by one, in bounded memory.

    The header is read at once. After the last write, `warning` says whether the end is missing, as it is after a
    recorder was killed; that is no error. Raises RecordingError, here and while iterating.
    """

    def __init__(self, file: BinaryIO) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._stream = decompressor.stream_reader(file, read_across_frames=True, closefd=False)
        self._parser = RecordingParser()
        self._first: list[RecordedWrite] = []
        while self._parser.header is None and (chunk := self._read()):
            self._first = self._parser.feed(chunk)
        if self._parser.header is None:
            self._parser.finish()
        self.header: RecordingHeader = self._parser.header or RecordingHeader()

    @property
    def warning(self) -> str:
        """Why the end of the file is missing, or ""; known after the last write."""
        return self._parser.warning

    def __iter__(self) -> Iterator[RecordedWrite]:
        yield from self._first
        self._first = []
        while chunk := self._read():
            yield from self._parser.feed(chunk)
        self._parser.finish()

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
        self._stream = compressor.stream_writer(file, closefd=False)
        self._stream.write(encode_header(header))

    def write(self, write: RecordedWrite) -> None:
        """Append one write."""
        self._stream.write(encode_write(write))

    def flush(self) -> None:
        """Hand everything written so far to the file."""
        self._stream.flush(zstandard.FLUSH_BLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush(zstandard.FLUSH_FRAME)


class Recording:
    """
    A whole recording in memory.

    Attributes:
        writes: In arrival order; slots need not grow.
        lowest_slot_from: For each write, the lowest slot of it and all later ones: a read before that write must
            not claim to show a later slot.
        warning: Why the end is missing, or "".
    """

    def __init__(self, header: RecordingHeader, writes: list[RecordedWrite], warning: str = "") -> None:
        self.header = header
        self.writes = writes
        self.warning = warning
        slots = [write.account.slot for write in reversed(writes)]
        self.lowest_slot_from = list(accumulate(slots, min))[::-1]

    @classmethod
    def read(cls, file: BinaryIO) -> Recording:
        """Read an open file to its end. Raises RecordingError; more than MAX_LOADED_BYTES of account data is one."""
        reader = RecordingReader(file)
        writes: list[RecordedWrite] = []
        size = 0
        for write in reader:
            size += len(write.account.data)
            if size > MAX_LOADED_BYTES:
                raise RecordingError(f"more than {MAX_LOADED_BYTES} bytes of accounts", line=len(writes) + 2)
            writes.append(write)
        return cls(reader.header, writes, reader.warning)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read the file at `path`. Raises RecordingError, and OSError where it cannot be opened."""
        with path.open("rb") as file:
            return cls.read(file)
