"""What a server sends, typed (docs/protocol.md). Pure."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import msgspec


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """
    One state of an account.

    Attributes:
        id: grows with every update of any account, within one epoch; None: not committed yet.
        prev_id: the id of this account's update before this one.
        account_type: the layout's name, or `Unknown`.
        lamports: lamports, not SOL.
        data_json: the decoded fields (integers of 64 bits and more as decimal strings); None if closed, and in a diff.
        created_at: when the server took the update, `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
        closed: the account is gone, or belongs to another program now.
        signature: the transaction that wrote the state, where upstream tells it.
    """

    id: int | None
    pubkey: str
    slot: int
    account_type: str
    owner: str
    lamports: int
    created_at: str
    data_json: Any = None
    prev_id: int | None = None
    closed: bool = False
    signature: str | None = None


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """
    A state of an account, as it is told.

    Attributes:
        source: `realtime` as it happens; `cache`, `database`, `rpc` a state, or an update that was missed.
        event: `retracted` a fork took newer states back; `left` it stopped matching; None an ordinary write.
        stale: it may not be the newest.
        shape: `full`, `fields` or `diff`.
        changed: of a diff: dotted path → (old, new); a path that was not there, or is gone, has None.
        text: the message as it came, JSON.
    """

    pubkey: str
    source: str
    account: Account
    event: str | None = None
    stale: bool = False
    shape: str = "full"
    changed: dict[str, tuple[Any, Any]] | None = None
    text: str


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    epoch: str
    found: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    stale: bool = False
    recovered: bool | None = None
    unrecovered: tuple[str, ...] = ()


class Subscribed(_Answer, frozen=True, kw_only=True):
    """
    A request was answered. By pubkeys it comes behind their states, by a filter ahead of them.

    Attributes:
        asked: the accounts that the request named; () for a filter.
        found, foreign: those that have a state; those that belong to another program.
        epoch: ids compare only within one.
        stale: a state that was told may not be the newest.
        recovered: after a reconnect, whether nothing was missed; None on the first connection, and by a filter until
            `SnapshotEnd` tells.
        unrecovered: accounts that were told anew, without what was between.
    """

    asked: tuple[str, ...]


class SnapshotEnd(msgspec.Struct, frozen=True, kw_only=True):
    """
    All that matches a filter has been told.

    Attributes:
        count: how many states, or missed updates, were told for it.
        recovered: after a reconnect, whether nothing was missed; None on the first connection.
    """

    count: int
    recovered: bool | None = None


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """One node the server reads from."""

    connected: bool
    tip_slot: int | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """
    How the server's upstream is; only with `status=True`.

    Attributes:
        event: `now`, `lost`, `connected`, `stale`, `recovered`, `confirmed`, `finalized`.
        source, reason: the upstream that was lost or is back, and why it was lost.
        slot: the slot that was confirmed or finalized.
    """

    event: str
    stale: bool
    tip_slot: int | None = None
    sources: dict[str, Upstream] = {}
    source: str | None = None
    reason: str | None = None
    slot: int | None = None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Writes that an upstream may have missed; only with `status=True`. Until it is healed, states are doubtful."""

    source: str
    to_slot: int
    from_slot: int | None = None
    reason: str = ""
    healed: bool = False
    error: str | None = None


class Disconnected(msgspec.Struct, frozen=True, kw_only=True):
    """The connection broke off or could not be made; it is made (again) after `retry_in` seconds."""

    reason: str
    retry_in: float


Event: TypeAlias = Update | Subscribed | SnapshotEnd | Status | Gap | Disconnected


class Ack(_Answer, frozen=True, kw_only=True):
    """The answer to the request with this `id`."""

    id: int


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error answer."""

    code: str
    message: str


class _Envelope(msgspec.Struct, kw_only=True):
    """What an update and every other message have at their top."""

    type: str | None = None
    pubkey: str | None = None
    source: str | None = None
    account: Account | None = None
    event: str | None = None
    stale: bool = False
    shape: str = "full"
    changed: dict[str, tuple[Any, Any]] | None = None


_read_envelope = msgspec.json.Decoder(_Envelope).decode
_OTHERS: dict[str, type[Ack | Refusal | SnapshotEnd | Status | Gap]] = {
    "ack": Ack,
    "error": Refusal,
    "snapshot_end": SnapshotEnd,
    "status": Status,
    "gap": Gap,
}

Frame: TypeAlias = Update | Ack | Refusal | SnapshotEnd | Status | Gap | None

_Read = TypeVar("_Read")


def decode(data: bytes, type: type[_Read]) -> _Read:
    """Return what JSON says. Raises ValueError: it is none, of another type, or nested without end."""
    try:
        return msgspec.json.decode(data, type=type)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_frame(data: bytes) -> Frame:
    """
    Read one message of a server.

    Returns:
        What it says; None for a type that is not known, as later servers may have.
    Raises:
        ValueError: no server of ours sent it.
    """
    try:
        envelope = _read_envelope(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if envelope.account is not None:
        return Update(
            pubkey=envelope.account.pubkey,
            source=envelope.source or "",
            account=envelope.account,
            event=envelope.event,
            stale=envelope.stale,
            shape=envelope.shape,
            changed=envelope.changed,
            text=data.decode(),
        )
    if envelope.type is None:
        raise ValueError("neither an account nor a type")
    kind = _OTHERS.get(envelope.type)
    return None if kind is None else decode(data, kind)
