"""The values that flow through the server. Frozen, compared by content, no I/O."""

from __future__ import annotations

from enum import Enum
from hashlib import blake2b

import msgspec

CONTENT_HASH_BYTES = 16
MAX_I64 = 2**63 - 1
"""The largest slot and lamports that a database can keep; larger ones are refused at the source."""

SYSTEM_PROGRAM = "11111111111111111111111111111111"


class Origin(Enum):
    """How an account state reached us."""

    LIVE = "realtime"
    """Pushed by a subscription."""
    REREAD = "rpc"
    """Read from the node by us; its slot is the response's context slot: the state *at* that slot."""


class RawAccount(msgspec.Struct, frozen=True, gc=False):
    """
    One account state as a node sent it, not decoded.

    Attributes:
        pubkey, owner: base58.
        slot: slot of the write (LIVE), or the context slot of the response (REREAD). 0 … 2^63-1.
        lamports: 0 … 2^63-1. A missing account is 0 lamports, empty data, owner the system program.
        rent_epoch: u64; larger numbers (JavaScript proxies send them) are clamped.
        write_version: order inside one slot of one node; 0 where the source has none.
        source: name of the datasource that delivered it.
        received_at: `time.monotonic()` seconds when the bytes arrived.
        signature: base58, the transaction that wrote it; "" where the source does not tell or none did.
        retracts: the slot of a state that a dead fork took along; this older one is the account's state again.
    """

    pubkey: str
    slot: int
    owner: str
    lamports: int
    data: bytes
    executable: bool = False
    rent_epoch: int = 0
    write_version: int = 0
    source: str = ""
    origin: Origin = Origin.LIVE
    received_at: float = 0.0
    signature: str = ""
    retracts: int | None = None

    def content_hash(self) -> bytes:
        """Return 16 bytes that are equal exactly when owner, lamports, executable and data are."""
        digest = blake2b(self.data, digest_size=CONTENT_HASH_BYTES)
        digest.update(b"%b %d %d" % (self.owner.encode(), self.lamports, self.executable))
        return digest.digest()


def missing_account(pubkey: str, slot: int) -> RawAccount:
    """Return what a re-read at `slot` says where there is no account: closed, as far as the chain is concerned."""
    return RawAccount(pubkey, slot, SYSTEM_PROGRAM, 0, b"", origin=Origin.REREAD)


class Gap(msgspec.Struct, frozen=True, gc=False):
    """
    A span of slots of which a datasource may have missed writes.

    Attributes:
        source: name of the datasource.
        from_slot: the last slot known to be complete; None when nothing is known of before.
        to_slot: the first slot from which on the source misses nothing again.
        reason: why continuity was lost, in words, without secrets.
    """

    source: str
    from_slot: int | None
    to_slot: int
    reason: str


class AccountUpdate(msgspec.Struct, frozen=True, gc=False):
    """
    One decoded account state with its place in the order of all updates.

    Attributes:
        id: grows with every update; never used twice in an epoch of the database.
        prev_id: the id of this account's update before this one, or None.
        content_hash: see `RawAccount.content_hash`.
        account_type: the layout's name, or "Unknown".
        data: the raw account bytes.
        data_json: the decoded fields as JSON bytes; b"null" for a closed account.
        created_at: UTC, `YYYY-MM-DDTHH:MM:SS.ffffffZ`; never decreases with id.
        account_json: the public `account` object, encoded once.
        signature: as in `RawAccount`.
        event: what happened beside a write (`retracted`), or "".
    """

    id: int
    prev_id: int | None
    pubkey: str
    slot: int
    write_version: int
    content_hash: bytes
    account_type: str
    owner: str
    lamports: int
    executable: bool
    rent_epoch: int
    data: bytes
    data_json: bytes
    created_at: str
    closed: bool
    origin: Origin
    received_at: float
    account_json: bytes
    signature: str = ""
    event: str = ""


class Mark(msgspec.Struct, frozen=True, gc=False):
    """
    What ordering remembers of an account's newest admitted update; the fields as in `AccountUpdate`.

    Attributes:
        source: the datasource that pushed it, which owns the slot; "" for a re-read, or after a restart.
    """

    id: int
    slot: int
    write_version: int
    content_hash: bytes
    account_type: str
    source: str = ""
    closed: bool = False


class StoredState(msgspec.Struct, frozen=True, gc=False):
    """The newest state of an account as a store or a cache returns it: its id and the public `account` object."""

    id: int
    account_json: bytes


class _Account(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    id: int | None
    pubkey: str
    slot: int
    account_type: str
    owner: str
    lamports: int
    data_json: msgspec.Raw
    created_at: str
    prev_id: int | None
    closed: bool = False
    signature: str = ""


_encode = msgspec.json.Encoder().encode


def encode_account(
    *,
    id: int | None,
    pubkey: str,
    slot: int,
    account_type: str,
    owner: str,
    lamports: int,
    data_json: bytes,
    created_at: str,
    prev_id: int | None,
    closed: bool,
    signature: str = "",
) -> bytes:
    """Return the public `account` object as JSON bytes, around `data_json` as it is (docs/protocol.md)."""
    return _encode(
        _Account(
            id,
            pubkey,
            slot,
            account_type,
            owner,
            lamports,
            msgspec.Raw(data_json),
            created_at,
            prev_id,
            closed,
            signature,
        )
    )
