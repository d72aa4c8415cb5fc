"""What a cached value must be to count: a well-formed `account` object of the pubkey it was asked for."""

from __future__ import annotations

import msgspec

from account_socket.model import StoredState


class _Value(msgspec.Struct, gc=False):
    id: int
    pubkey: str


_decode = msgspec.json.Decoder(_Value).decode


def read_account_value(pubkey: str, value: object) -> StoredState | None:
    """Return the state in `value`; None for what is absent, garbage, another account's, or without an id."""
    if not isinstance(value, bytes):
        return None
    try:
        account = _decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return StoredState(account.id, value) if account.pubkey == pubkey else None
