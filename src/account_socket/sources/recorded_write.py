"""One account write as a line of a recording (docs/recording.md). Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final

import msgspec
from solders.pubkey import Pubkey

from account_socket.errors import SourceError
from account_socket.model import MAX_I64, RawAccount

MAX_ACCOUNT_BYTES: Final = 10 * 1024 * 1024
"""The largest account that Solana allows."""
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""A 10 MiB account is 14.0 MB of base64; the other fields need less than 1 KB."""

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


_decode = msgspec.json.Decoder(_WriteLine).decode
_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=65_536)
def _is_key(text: str) -> bool:
    try:
        Pubkey.from_string(text)
    except ValueError:
        return False
    return True


def parse_write(line: bytes, number: int) -> RecordedWrite:
    """Return the write that line `number` holds. Raises RecordingError, saying what is wrong in which line."""
    try:
        fields = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
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
