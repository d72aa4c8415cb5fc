"""
Account objects of Solana's JSON-RPC → RawAccount. Pure; shared by PubSub and HTTP.

Shapes (docs of Solana RPC; Agave's `UiAccount`): `data` is `[text, encoding]`, a bare base58 string (legacy),
or an object (`jsonParsed`); `space` is absent on old nodes; `rentEpoch` may exceed u64 behind JavaScript proxies.
"""

from __future__ import annotations

import pybase64
import zstandard
from solders.pubkey import Pubkey

from account_socket.model import MAX_I64, Origin, RawAccount

MAX_DATA_BYTES = 10 * 1024 * 1024
"""The largest account of Solana (MAX_PERMITTED_DATA_LENGTH); nothing is inflated beyond it."""

MAX_U64 = 2**64 - 1

_MAX_WINDOW_BYTES = 1 << 25
"""What a zstd frame may make us allocate for its window: level 20 needs this much, Agave's level 3 needs 2 MiB."""

_MAX_BASE58_CHARS = 1_024
"""Nodes refuse base58 above 128 bytes (about 175 characters); decoding is quadratic, so it is bounded."""

_MAX_KNOWN_KEYS = 200_000
_PUBKEY_CHARS = range(32, 45)
_BASE58_DIGITS = {c: i for i, c in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}


class OddAccountError(Exception):
    """An account object that cannot be used; `kind` is a short snake_case word for counting."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail


class AccountReader:
    """
    Reads account objects for one datasource; keeps a decompressor and the public keys seen valid.

    Args:
        source: name of the datasource, goes into each RawAccount.

    Attributes:
        known: public keys that were found valid, for looking up before `pubkey` is called.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.known: dict[str, str] = {}
        self._inflate = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompress

    def pubkey(self, text: object, kind: str = "bad_pubkey") -> str:
        """Return `text`, checked to be base58 of 32 bytes. Raises OddAccountError(kind)."""
        if not isinstance(text, str) or len(text) not in _PUBKEY_CHARS:
            raise OddAccountError(kind, show(text))
        try:
            Pubkey.from_string(text)
        except ValueError:
            raise OddAccountError(kind, show(text)) from None
        if len(self.known) >= _MAX_KNOWN_KEYS:
            self.known.clear()
        self.known[text] = text
        return text

    def data(self, text: str, encoding: str, space: int) -> bytes:
        """
        Return the account's bytes.

        Args:
            text: as it stands in the JSON.
            encoding: `base64+zstd`, `base64` or `base58`.
            space: what the node says the length is, or a negative number; a hint only.
        Raises:
            OddAccountError: bad_encoding, bad_data, data_oversize.
        """
        if encoding != "base64+zstd" and encoding != "base64":  # noqa: PLR1714  (0.1 µs faster, and this is hot)
            if encoding == "base58":
                return _decode_base58(text)
            raise OddAccountError("bad_encoding", show(encoding))
        try:
            data = pybase64.b64decode(text, validate=True)
        except ValueError:
            raise OddAccountError("bad_data", encoding) from None
        if encoding == "base64+zstd":
            return self._decompress(data, space)
        if len(data) > MAX_DATA_BYTES:
            raise OddAccountError("data_oversize", f"{len(data)} bytes")
        return data

    def _decompress(self, frame: bytes, space: int) -> bytes:
        # A frame that states its size is inflated to that size whatever the limit: the size is judged first.
        # Agave's frames state none; then `space` makes the buffer fit (1 µs; a buffer of the maximum costs 11 µs).
        try:
            stated = zstandard.frame_content_size(frame)
            if stated > MAX_DATA_BYTES:
                raise OddAccountError("data_oversize", f"{stated} bytes")
            if 0 < space < MAX_DATA_BYTES:
                try:
                    return self._inflate(frame, space)
                except zstandard.ZstdError:
                    pass  # `space` may be wrong; the data may still be right
            return self._inflate(frame, MAX_DATA_BYTES)
        except zstandard.ZstdError:
            raise OddAccountError("bad_data", "base64+zstd") from None

    def account(
        self, pubkey: object, value: object, slot: object, *, origin: Origin, received_at: float
    ) -> tuple[RawAccount, list[str]]:
        """
        Read one parsed account object, whatever it is.

        Returns:
            The account, and the kinds of what was odd about it but did no harm.
        Raises:
            OddAccountError: the account cannot be used.
        """
        if not isinstance(value, dict):
            raise OddAccountError("bad_account", show(value))
        executable = value.get("executable", False)
        if type(executable) is not bool:
            raise OddAccountError("bad_account", "executable")
        space = value.get("space")
        hint = space if type(space) is int else -1
        account = RawAccount(
            pubkey=self.pubkey(pubkey),
            slot=_bounded(slot, "bad_slot"),
            owner=self.pubkey(value.get("owner"), "bad_owner"),
            lamports=_bounded(value.get("lamports"), "bad_lamports"),
            data=self._data_of(value.get("data"), hint),
            executable=executable,
            rent_epoch=(rent_epoch := clamp_rent_epoch(value.get("rentEpoch"))),
            source=self.source,
            origin=origin,
            received_at=received_at,
        )
        return account, harmless(len(account.data), hint, rent_epoch, value.get("rentEpoch"))

    def _data_of(self, data: object, space: int) -> bytes:
        if isinstance(data, str):
            if data.startswith("error:"):
                raise OddAccountError("data_too_large", show(data))
            return _decode_base58(data)
        if isinstance(data, dict):
            raise OddAccountError("data_parsed", show(data.get("program")))
        match data:
            case [str(text), str(encoding)]:
                return self.data(text, encoding, space)
        raise OddAccountError("bad_data", show(data))


def show(value: object, limit: int = 80) -> str:
    """Return a short text for a JSON value of any size or depth: scalars as they are, others by their type."""
    if isinstance(value, str):
        return repr(value[:limit])
    if value is None or isinstance(value, int | float):
        return repr(value)[:limit]
    return type(value).__name__


def clamp_rent_epoch(value: object) -> int:
    """Return `value` as a u64: nodes behind JavaScript proxies send more than u64, or a float."""
    if type(value) is int or type(value) is float:
        return min(max(int(value), 0), MAX_U64)
    return 0


def harmless(length: int, space: int, rent_epoch: int, sent_rent_epoch: object) -> list[str]:
    """Return the kinds of what is odd about an account that is usable all the same."""
    kinds = []
    if space < 0:
        kinds.append("space_missing")
    elif space != length:
        kinds.append("space_mismatch")
    if type(sent_rent_epoch) is not int or rent_epoch != sent_rent_epoch:
        kinds.append("rent_epoch_clamped")
    return kinds


def _bounded(value: object, kind: str) -> int:
    if type(value) is int and 0 <= value <= MAX_I64:
        return value
    raise OddAccountError(kind, show(value))


def _decode_base58(text: str) -> bytes:
    if len(text) > _MAX_BASE58_CHARS:
        raise OddAccountError("data_oversize", f"{len(text)} characters of base58")
    number = 0
    try:
        for character in text:
            number = number * 58 + _BASE58_DIGITS[character]
    except KeyError:
        raise OddAccountError("bad_data", "base58") from None
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
