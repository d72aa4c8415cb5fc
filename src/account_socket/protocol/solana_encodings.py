"""How account data is written in JSON: Agave's account encodings. Pure."""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
import pybase64
import zstandard

from account_socket.protocol import base58

if TYPE_CHECKING:
    from account_socket.model import RawAccount

MAX_BASE58_BYTES = 128
TOO_LARGE_FOR_BASE58 = "error: data too large for bs58 encoding"
_MAX_REMEMBERED_BYTES = 16 * 1024
_REMEMBERED_BYTES = 8 * 2**20

_compress = zstandard.ZstdCompressor(level=3).compress


class Encoding(StrEnum):
    """The values of `encoding`; BINARY is what Agave uses when none is given."""

    BINARY = "binary"
    BASE58 = "base58"
    BASE64 = "base64"
    BASE64_ZSTD = "base64+zstd"
    JSON_PARSED = "jsonParsed"


def encode_data(data: bytes, encoding: Encoding) -> bytes:
    """Return the JSON of the `data` field. Nothing is parsed: jsonParsed falls back to base64, as for any program
    without a parser; base58 above 128 bytes is Agave's error text in place of the data."""
    if len(data) <= _MAX_REMEMBERED_BYTES:
        return _remembered.encode(data, encoding)
    return _encode_data(data, encoding)


def _encode_data(data: bytes, encoding: Encoding) -> bytes:
    match encoding:
        case Encoding.BINARY:
            return b'"%b"' % _base58(data)
        case Encoding.BASE58:
            return b'["%b","base58"]' % _base58(data)
        case Encoding.BASE64_ZSTD:
            return b'["%b","base64+zstd"]' % pybase64.b64encode(_compress(data))
        case _:
            return b'["%b","base64"]' % pybase64.b64encode(data)


class Remembered:
    """
    What was encoded last: a replay in loops, and onto many addresses, sends the same data again and again.

    Args:
        max_bytes: the most that data and encoded forms take together.

    Attributes:
        bytes: what they take.
    """

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._encoded: OrderedDict[tuple[bytes, Encoding], bytes] = OrderedDict()

    def encode(self, data: bytes, encoding: Encoding) -> bytes:
        """As `encode_data`."""
        key = data, encoding
        encoded = self._encoded.get(key)
        if encoded is not None:
            self._encoded.move_to_end(key)
            return encoded
        encoded = self._encoded[key] = _encode_data(data, encoding)
        self.bytes += len(data) + len(encoded)
        while self.bytes > self._max_bytes:
            (dropped, _), form = self._encoded.popitem(last=False)
            self.bytes -= len(dropped) + len(form)
        return encoded


_remembered = Remembered(_REMEMBERED_BYTES)


def _base58(data: bytes) -> bytes:
    return (base58.encode(data) if len(data) <= MAX_BASE58_BYTES else TOO_LARGE_FOR_BASE58).encode()


class Parsed(msgspec.Struct, frozen=True):
    """
    What jsonParsed shows of an account of a program with a parser.

    Attributes:
        program: its name, `meteora-damm-v2`.
        type: what the account is, `pool`.
        info: the decoded fields, as JSON.
    """

    program: str
    type: str
    info: bytes


def encode_parsed(parsed: Parsed, space: int) -> bytes:
    """Return the JSON of the `data` field of a parsed account of `space` bytes."""
    return b'{"program":"%b","parsed":{"type":"%b","info":%b},"space":%d}' % (
        parsed.program.encode(),
        parsed.type.encode(),
        parsed.info,
        space,
    )


def encode_account(
    account: RawAccount, encoding: Encoding, data: bytes | None = None, parsed: Parsed | None = None
) -> bytes:
    """
    Return the JSON of an account.

    Args:
        data: a slice, in place of all of its data.
        parsed: what jsonParsed shows; None: there is no parser for it.
    """
    if parsed is not None and encoding is Encoding.JSON_PARSED:
        encoded = encode_parsed(parsed, len(account.data))
    else:
        encoded = encode_data(account.data if data is None else data, encoding)
    return b'{"lamports":%d,"data":%b,"owner":"%b","executable":%b,"rentEpoch":%d,"space":%d}' % (
        account.lamports,
        encoded,
        account.owner.encode(),
        b"true" if account.executable else b"false",
        account.rent_epoch,
        len(account.data),
    )
