"""
One message between us and a node as a line of a recording (docs/recording.md). Pure.

Whatever a node sends can be kept: JSON of one line as it is, other text as a JSON string, other bytes as base64.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from account_socket.model import MAX_I64, Gap
from account_socket.sources.recorded_write import MAX_LINE_BYTES, RecordingError

MAX_REASON: Final = 300
_MAX_HEAD: Final = 1_000
_MAX_BRACKETS: Final = 1_000
"""More of them may be nested deeper than a JSON reader goes; they are kept as text."""

_Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_I64)]
_NOTHING = msgspec.Raw()


class Mark(StrEnum):
    """What happened beside messages."""

    CONNECTED = "connected"
    """A connection was opened; what was said on the one before means nothing on this one."""
    LOST = "lost"
    """The connection ended, for a `reason`."""
    GAP = "gap"
    """Writes between `from_slot` and `to_slot` may be missing, for a `reason`."""
    OVERSIZE = "oversize"
    """A message of `size` bytes was too long for a line; `text` is its beginning."""


class _Line(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    at_ms: _Amount
    frame: msgspec.Raw = _NOTHING
    text: str | None = None
    base64: bytes | None = None
    sent: msgspec.Raw = _NOTHING
    mark: str | None = None
    reason: str = ""
    from_slot: _Amount | None = None
    to_slot: _Amount | None = None
    size: _Amount | None = None


class RecordedMessage(msgspec.Struct, frozen=True, gc=False):
    """
    One line of a recording of messages.

    Attributes:
        at_ms: milliseconds since the recording began.
        received: the whole message of the node, byte for byte, or None.
        sent: our whole request, or None.
        mark: a word of `Mark` (later versions may have more), or "".
        reason: of the mark, without secrets.
        from_slot, to_slot: of a gap.
    """

    at_ms: int
    received: bytes | None = None
    sent: bytes | None = None
    mark: str = ""
    reason: str = ""
    from_slot: int | None = None
    to_slot: int | None = None


_decode = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode


def encode_message(message: bytes, at_ms: int) -> bytes:
    """Return the line of a message that the node sent, with its line feed."""
    return _fitting(_embedded("frame", message, at_ms) or _quoted(message, at_ms), message, at_ms)


def encode_binary(message: bytes, at_ms: int) -> bytes:
    """Return the line of a message that is no text by its nature, with its line feed."""
    return _fitting(_encode(_Line(at_ms=at_ms, base64=message)) + b"\n", message, at_ms)


def encode_sent(request: bytes, at_ms: int) -> bytes:
    """Return the line of a request of ours, which is JSON of one line, with its line feed."""
    return b'{"at_ms":%d,"sent":%b}\n' % (at_ms, request)


def encode_mark(mark: Mark, at_ms: int, *, reason: str = "") -> bytes:
    """Return the line of something that happened, with its line feed."""
    return _encode(_Line(at_ms=at_ms, mark=mark.value, reason=reason[:MAX_REASON])) + b"\n"


def encode_gap(gap: Gap, at_ms: int) -> bytes:
    """Return the line of a gap, with its line feed."""
    line = _Line(
        at_ms=at_ms,
        mark=Mark.GAP.value,
        reason=gap.reason[:MAX_REASON],
        from_slot=gap.from_slot,
        to_slot=gap.to_slot,
    )
    return _encode(line) + b"\n"


def parse_message(line: bytes, number: int) -> RecordedMessage:
    """Return what line `number` holds. Raises RecordingError, saying what is wrong in which line."""
    try:
        found = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RecordingError(str(exc), line=number) from exc
    if found.mark is not None:
        return RecordedMessage(found.at_ms, None, None, found.mark, found.reason, found.from_slot, found.to_slot)
    if sent := bytes(found.sent):
        return RecordedMessage(found.at_ms, sent=sent)
    received = bytes(found.frame) or found.base64
    if found.text is not None:
        received = found.text.encode()
    if received is None:
        raise RecordingError("neither `frame`, `text`, `base64`, `sent` nor `mark`", line=number)
    return RecordedMessage(found.at_ms, received)


def _embedded(key: str, message: bytes, at_ms: int) -> bytes:
    """Return the line with `message` in it as it is; empty where it would not be read back byte for byte."""
    if b"\n" in message or message.count(b"{") + message.count(b"[") > _MAX_BRACKETS:
        return b""
    line = b'{"at_ms":%d,"%b":%b}' % (at_ms, key.encode(), message)
    try:
        message.isascii() or message.decode()
        exact = bytes(_decode(line).frame) == message
    except (ValueError, RecursionError):
        return b""
    return line + b"\n" if exact else b""


def _quoted(message: bytes, at_ms: int) -> bytes:
    try:
        line = _Line(at_ms=at_ms, text=message.decode())
    except UnicodeDecodeError:
        line = _Line(at_ms=at_ms, base64=message)
    return _encode(line) + b"\n"


def _fitting(line: bytes, message: bytes, at_ms: int) -> bytes:
    if len(line) <= MAX_LINE_BYTES:
        return line
    head = message[:_MAX_HEAD].decode(errors="replace")
    return _encode(_Line(at_ms=at_ms, mark=Mark.OVERSIZE.value, text=head, size=len(message))) + b"\n"
