"""What the methods take: public keys, configs and filters, checked as Agave checks them. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
import pybase64
from solders.pubkey import Pubkey

from account_socket.protocol import base58
from account_socket.protocol.solana_encodings import Encoding
from account_socket.protocol.solana_jsonrpc import INVALID_PARAMS, RpcFault

MAX_PUBKEY_BASE58 = 44
MAX_FILTERS = 4
MAX_MEMCMP_BYTES = 128
MAX_MEMCMP_BASE58 = 175
MAX_MEMCMP_BASE64 = 172

_TOKEN_ACCOUNT_BYTES = 165
_TOKEN_MULTISIG_BYTES = 355
_TOKEN_STATE_OFFSET = 108
_TOKEN_TYPE_ACCOUNT = 2

_Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class DataSize(msgspec.Struct, frozen=True):
    """Accounts whose data has this many bytes."""

    size: int

    def matches(self, data: bytes) -> bool:
        """Say whether an account with `data` passes."""
        return len(data) == self.size


class Memcmp(msgspec.Struct, frozen=True):
    """Accounts whose data holds `expected` at `offset`."""

    offset: int
    expected: bytes

    def matches(self, data: bytes) -> bool:
        """Say whether an account with `data` passes."""
        end = self.offset + len(self.expected)
        return len(data) >= end and data[self.offset : end] == self.expected


class TokenAccountState(msgspec.Struct, frozen=True):
    """Accounts that are initialized SPL token accounts."""

    def matches(self, data: bytes) -> bool:
        """Say whether an account with `data` passes."""
        size = len(data)
        if size < _TOKEN_ACCOUNT_BYTES or data[_TOKEN_STATE_OFFSET] == 0:
            return False
        if size == _TOKEN_ACCOUNT_BYTES:
            return True
        return size != _TOKEN_MULTISIG_BYTES and data[_TOKEN_ACCOUNT_BYTES] == _TOKEN_TYPE_ACCOUNT


Filter = DataSize | Memcmp | TokenAccountState


class DataSlice(msgspec.Struct, frozen=True):
    """The part of the data that a read asks for."""

    offset: _Unsigned
    length: _Unsigned

    def cut(self, data: bytes) -> bytes:
        """Return that part; empty where `data` ends before it."""
        return data[self.offset : self.offset + self.length]


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The optional last parameter; each method uses some of the keys and ignores the others, as Agave does."""

    encoding: Encoding | None = None
    commitment: Literal["processed", "confirmed", "finalized"] | None = None
    data_slice: DataSlice | None = None
    min_context_slot: _Unsigned | None = None
    filters: list[Any] | None = None
    with_context: bool | None = None
    limit: _Unsigned | None = None
    pagination_key: str | None = None
    changed_since_slot: _Unsigned | None = None


class _MemcmpFields(msgspec.Struct, frozen=True):
    offset: _Unsigned
    bytes: str | list[Annotated[int, msgspec.Meta(ge=0, le=255)]]
    encoding: Literal["base58", "base64", "bytes"] | None = None


def invalid_params(reason: object) -> RpcFault:
    """Return the fault of parameters that have the wrong shape."""
    return RpcFault(INVALID_PARAMS, f"Invalid params: {reason}.")


def expect(params: list[Any], *, least: int, most: int) -> None:
    """Check how many parameters there are. Raises RpcFault."""
    if len(params) < least:
        raise RpcFault(INVALID_PARAMS, f"`params` should have at least {least} argument(s)")
    if len(params) > most:
        raise RpcFault(INVALID_PARAMS, f"`params` should have at most {most} argument(s)")


def parse_config(params: list[Any], index: int) -> Config:
    """Return the config at `index`, or the defaults where it is absent or null. Raises RpcFault."""
    if len(params) <= index or params[index] is None:
        return Config()
    try:
        return msgspec.convert(params[index], Config)
    except msgspec.ValidationError as exc:
        raise invalid_params(exc) from exc


@lru_cache(maxsize=65_536)
def _is_pubkey(text: str) -> bool:
    try:
        Pubkey.from_string(text)
    except ValueError:
        return False
    return True


def is_pubkey(text: str) -> bool:
    """Say whether `text` is base58 of 32 bytes."""
    # Longer text is not remembered: it could fill the memory.
    return len(text) <= MAX_PUBKEY_BASE58 and _is_pubkey(text)


def parse_subscription_pubkey(value: Any) -> str:
    """Return a pubkey parameter of a subscription. Raises RpcFault with the text that PubSub has for it."""
    if not isinstance(value, str):
        raise invalid_params("invalid type, expected a string")
    if not is_pubkey(value):
        raise RpcFault(INVALID_PARAMS, "Invalid Request: Invalid pubkey provided")
    return value


def parse_read_pubkey(value: Any) -> str:
    """Return a pubkey parameter of a read. Raises RpcFault with the text that HTTP has for it."""
    if not isinstance(value, str):
        raise invalid_params("invalid type, expected a string")
    if is_pubkey(value):
        return value
    is_base58 = len(value) > MAX_PUBKEY_BASE58 or base58.is_base58(value)
    raise RpcFault(INVALID_PARAMS, f"Invalid param: {'WrongSize' if is_base58 else 'Invalid'}")


def parse_filters(filters: list[Any] | None) -> tuple[Filter, ...]:
    """Return the filters of a config. Raises RpcFault with the text that HTTP has for it."""
    if filters is None:
        return ()
    parsed = tuple(_parse_filter(each) for each in filters)
    if len(parsed) > MAX_FILTERS:
        raise RpcFault(INVALID_PARAMS, f"Too many filters provided; max {MAX_FILTERS}")
    return parsed


def _parse_filter(value: Any) -> Filter:
    if value == "tokenAccountState":
        return TokenAccountState()
    match value:
        case {"dataSize": int(size), **rest} if not rest and type(size) is int and size >= 0:
            return DataSize(size)
        case {"memcmp": dict(fields), **rest} if not rest:
            try:
                return _parse_memcmp(msgspec.convert(fields, _MemcmpFields))
            except msgspec.ValidationError as exc:
                raise invalid_params(exc) from exc
    raise invalid_params("unknown filter, expected dataSize, memcmp or tokenAccountState")


def _parse_memcmp(fields: _MemcmpFields) -> Memcmp:
    text = fields.bytes
    if isinstance(text, list):
        if fields.encoding not in (None, "bytes"):
            raise invalid_params("memcmp bytes in a list have the encoding bytes")
        expected = bytes(text)
    elif fields.encoding == "bytes":
        raise invalid_params("memcmp bytes of the encoding bytes are a list")
    else:
        expected = _decode_memcmp(text, is_base64=fields.encoding == "base64")
    if len(expected) > MAX_MEMCMP_BYTES:
        raise RpcFault(INVALID_PARAMS, "Invalid param: DataTooLarge")
    return Memcmp(fields.offset, expected)


def _decode_memcmp(text: str, *, is_base64: bool) -> bytes:
    if len(text) > (MAX_MEMCMP_BASE64 if is_base64 else MAX_MEMCMP_BASE58):
        raise RpcFault(INVALID_PARAMS, "Invalid param: DataTooLarge")
    try:
        return pybase64.b64decode(text, validate=True) if is_base64 else base58.decode(text)
    except ValueError as exc:
        kind = "Base64DecodeError" if is_base64 else "Base58DecodeError"
        raise RpcFault(INVALID_PARAMS, f"Invalid param: {kind}({exc})") from exc
