"""One program's accounts: bytes → account type and `data_json`. A bad account is a value, never an exception."""

from __future__ import annotations

from hashlib import sha256
from typing import Literal, TypeAlias

import msgspec
import pybase64

from account_socket.decode.idl import Idl, parse_idl
from account_socket.decode.layout import InvalidValueError, Layout, LayoutCompiler

UNKNOWN = "Unknown"
"""The account type of bytes that no layout fits."""
MAX_RAW_BYTES = 64 * 1024
"""Larger accounts that no layout fits are told by size and hash only."""

Failure: TypeAlias = Literal["empty", "too_short", "unknown_discriminator", "invalid_value", "unknown_program"]
"""Why bytes did not decode, for counters and for logging once per kind."""


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """
    What an account's bytes say.

    Attributes:
        account_type: the layout's name, or "Unknown".
        data_json: the fields as JSON bytes; where no layout fits, `{"raw":"<base64>","error":"…"}`, and above
            `MAX_RAW_BYTES` `{"raw":null,"size":n,"sha256":"…","error":"…"}`.
        error: the reason in words, or None.
        failure: its kind, or None.
    """

    account_type: str
    data_json: bytes
    error: str | None = None
    failure: Failure | None = None


class ProgramDecoder:
    """
    Decodes the accounts of one program.

    Attributes:
        address: the program's, base58.
        name: the program's name in its IDL.
        layouts: account type → its layout.
    """

    def __init__(self, idl: Idl) -> None:
        compiler = LayoutCompiler()
        self.address = idl.address
        self.name = idl.name
        self.layouts = {account.name: compiler.compile(account) for account in idl.accounts}
        self._by_discriminator = {layout.discriminator: layout for layout in self.layouts.values()}
        # Anchor's own are 8 bytes; others may be of any length, and the longest that fits is meant.
        self._lengths = tuple(sorted({len(key) for key in self._by_discriminator}, reverse=True))

    @classmethod
    def from_idl(cls, document: bytes | str) -> ProgramDecoder:
        """Compile a program's Anchor IDL (JSON text). Raises LayoutError."""
        return cls(parse_idl(document))

    def decode(self, data: bytes) -> Decoded:
        """
        Decode one account.

        Args:
            data: The whole account data, discriminator included, little-endian; bytes beyond the layout are allowed.
        Returns:
            The account type and its fields as JSON bytes, amounts in raw base units; where no layout fits, type
            Unknown with the reason (too short: the dotted path and the byte offset of the first missing field).
        Raises:
            Nothing, whatever the bytes.
        Source: Anchor IDL spec 0.1.0; zero-copy accounts follow repr(C).
        """
        for length in self._lengths:
            layout = self._by_discriminator.get(data[:length])
            if layout is None:
                continue
            if len(data) < layout.size:
                return undecoded(data, "too_short", _too_short(layout, len(data)))
            try:
                return Decoded(layout.name, layout.to_json(data))
            except InvalidValueError as error:
                return undecoded(data, "invalid_value", f"{layout.name}: {error}")
        if not data:
            return undecoded(data, "empty", "the account has no data")
        start = data[: max(self._lengths, default=8)].hex()
        return undecoded(data, "unknown_discriminator", f"no account type of {self.name} starts with {start}")


def undecoded(data: bytes, failure: Failure, error: str) -> Decoded:
    """Return the value of an account that no layout fits."""
    if len(data) > MAX_RAW_BYTES:
        fields = {"raw": None, "size": len(data), "sha256": sha256(data).hexdigest(), "error": error}
    else:
        fields = {"raw": pybase64.b64encode_as_string(data), "error": error}
    return Decoded(UNKNOWN, msgspec.json.encode(fields), error, failure)


def _too_short(layout: Layout, size: int) -> str:
    missing = next(place for place in layout.places if place.offset + place.size > size)
    return f"{layout.name}: {size} of {layout.size} bytes; {missing.path} at byte {missing.offset} is missing"
