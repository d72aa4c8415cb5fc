"""Yellowstone's messages ↔ our values: what to ask for, what an update says, what the end of a stream means. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Final

import msgspec
from google.protobuf.message import DecodeError
from solders.pubkey import Pubkey
from solders.signature import Signature

from account_socket.model import MAX_I64, RawAccount
from account_socket.sources.geyser_proto import geyser_pb2 as pb

MAX_DATA_BYTES: Final = 10 * 1024 * 1024
"""The largest account of Solana (MAX_PERMITTED_DATA_LENGTH)."""

REPLAY_SLOTS: Final = 31
"""How far a processed stream goes back: a fork that wins later than that would be rooted already."""

COMMITMENTS: Final[Mapping[str, pb.CommitmentLevel]] = {
    "processed": pb.PROCESSED,
    "confirmed": pb.CONFIRMED,
    "finalized": pb.FINALIZED,
}
COMPLETES: Final[Mapping[str, pb.SlotStatus]] = {
    "processed": pb.SLOT_PROCESSED,
    "confirmed": pb.SLOT_CONFIRMED,
    "finalized": pb.SLOT_FINALIZED,
}
"""The status that comes after the last write of a slot, by the commitment of the stream."""

LEVELS: Final[Mapping[int, str]] = {pb.SLOT_CONFIRMED: "confirmed", pb.SLOT_FINALIZED: "finalized"}
"""The statuses that say that a slot is less likely to die than before."""

_NOTHING_STORED = 2**64 - 1
_MAX_KNOWN_KEYS = 200_000
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_MAX_ODD_DETAIL = 80

_parse = pb.SubscribeUpdate.FromString


class OddUpdateError(Exception):
    """An update that cannot be used; `kind` is a short snake_case word for counting."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail[:_MAX_ODD_DETAIL]


class SlotUpdate(msgspec.Struct, frozen=True, gc=False):
    """A slot came to a status (`geyser_pb2.SLOT_…`; numbers of later versions are possible)."""

    slot: int
    parent: int | None
    status: int


class Ping(msgspec.Struct, frozen=True, gc=False):
    """The node wants to hear from us (`asks`), or answers that it heard."""

    asks: bool


class UpdateReader:
    """
    Reads the updates of one datasource; keeps the base58 of the keys it saw.

    Args:
        source: name of the datasource, goes into each RawAccount.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._keys: dict[bytes, str] = {}

    def read(self, message: bytes, now: float) -> RawAccount | SlotUpdate | Ping | None:
        """
        Read one SubscribeUpdate.

        Args:
            now: monotonic seconds, goes into each RawAccount.
        Returns:
            None for an update of a kind that was not asked for.
        Raises:
            OddUpdateError: not_protobuf, bad_account, bad_pubkey, bad_owner, bad_slot, bad_lamports,
                bad_write_version, data_oversize.
        """
        try:
            update = _parse(message)
        except DecodeError:
            raise OddUpdateError("not_protobuf", f"{len(message)} bytes") from None
        kind = update.WhichOneof("update")
        if kind == "account":
            return self._account(update.account, now)
        if kind == "slot":
            return _slot(update.slot)
        if kind == "ping" or kind == "pong":  # noqa: PLR1714  (as fast as it gets)
            return Ping(kind == "ping")
        return None

    def _account(self, update: pb.UpdateAccount, now: float) -> RawAccount:
        info = update.account
        pubkey, owner, signature, data = info.pubkey, info.owner, info.txn_signature, info.data
        slot, lamports, write_version = update.slot, info.lamports, info.write_version
        if slot > MAX_I64:
            raise OddUpdateError("bad_slot", str(slot))
        if lamports > MAX_I64:
            raise OddUpdateError("bad_lamports", str(lamports))
        if write_version > MAX_I64:
            raise OddUpdateError("bad_write_version", str(write_version))
        if len(data) > MAX_DATA_BYTES:
            raise OddUpdateError("data_oversize", f"{len(data)} bytes")
        return RawAccount(
            self._keys.get(pubkey) or self._key(pubkey, "bad_pubkey"),
            slot,
            self._keys.get(owner) or self._key(owner, "bad_owner"),
            lamports,
            data,
            info.executable,
            info.rent_epoch,
            0 if update.is_startup else write_version,
            self._source,
            received_at=now,
            signature=str(Signature.from_bytes(signature)) if len(signature) == _SIGNATURE_BYTES else "",
        )

    def _key(self, key: bytes, kind: str) -> str:
        if len(key) != _KEY_BYTES:
            raise OddUpdateError(kind, f"{len(key)} bytes")
        if len(self._keys) >= _MAX_KNOWN_KEYS:
            self._keys.clear()
        text = self._keys[key] = str(Pubkey.from_bytes(key))
        return text


def _slot(update: pb.UpdateSlot) -> SlotUpdate:
    if update.slot > MAX_I64:
        raise OddUpdateError("bad_slot", str(update.slot))
    return SlotUpdate(update.slot, update.parent if update.HasField("parent") else None, update.status)


# ---- what to ask for ---------------------------------------------------------------------------------------


def subscribe_request(
    programs: Collection[str], watched: Collection[str], commitment: str, from_slot: int | None = None
) -> bytes:
    """
    Return the whole set of filters; a node that gets it forgets the set before.

    Args:
        programs: owners whose accounts are wanted.
        watched: accounts wanted whoever owns them: the close of an account takes it out of its owner's filter.
        from_slot: where replay begins, or None for no replay.
    """
    request = pb.SubscribeRequest(commitment=COMMITMENTS[commitment], from_slot=from_slot)
    request.accounts["programs"].owner.extend(programs)
    if watched:
        request.accounts["watched"].account.extend(watched)
    request.slots["slots"].interslot_updates = True
    return request.SerializeToString()


def ping_request(number: int) -> bytes:
    """Return a ping; it leaves the filters as they are, and is answered by a pong."""
    return pb.SubscribeRequest(ping=pb.Ping(id=number)).SerializeToString()


def slot_request(commitment: str) -> bytes:
    """Return the request of GetSlot."""
    return pb.GetSlotRequest(commitment=COMMITMENTS[commitment]).SerializeToString()


def read_slot(answer: bytes) -> int | None:
    """Return the slot in an answer of GetSlot; None for nonsense."""
    try:
        slot = pb.GetSlotResponse.FromString(answer).slot
    except DecodeError:
        return None
    return slot if 0 < slot <= MAX_I64 else None


def read_first_available(answer: bytes) -> int | None:
    """Return the first slot that can be replayed, from an answer of SubscribeReplayInfo; None: no replay."""
    try:
        info = pb.SubscribeReplayInfoResponse.FromString(answer)
    except DecodeError:
        return None
    # The greatest number is what the node starts from, before it has stored anything.
    if not info.HasField("first_available") or info.first_available == _NOTHING_STORED:
        return None
    return info.first_available


def read_version(answer: bytes) -> str:
    """Return the version in an answer of GetVersion, which is a JSON text; as it is where it is something else."""
    try:
        text = pb.GetVersionResponse.FromString(answer).version
    except DecodeError:
        return "unknown"
    try:
        found = msgspec.json.decode(text)
        version = found.get("version", found) if isinstance(found, dict) else found
        return str(version.get("version") if isinstance(version, dict) else version)[:_MAX_ODD_DETAIL]
    except msgspec.DecodeError:
        return text[:_MAX_ODD_DETAIL]


# ---- why a stream ended ------------------------------------------------------------------------------------


class Then(Enum):
    """What to do after a stream ended."""

    RETRY = "retry"
    """Connect again and replay what was missed."""
    RETRY_LATER = "later"
    """The same, but not soon: the node counts our tries."""
    WITHOUT_REPLAY = "without replay"
    """Connect again without from_slot: what lies between is a gap."""
    NARROW = "narrow"
    """The node refuses the filters: watch fewer accounts."""
    STOP = "stop"
    """No try can succeed until somebody changes a setting."""


_REPLAY_TEXTS = (
    "from_slot is not supported",
    "failed to get replay",
    "replay from",
    "broadcast from",
    "larger than max",  # replayed, the same message would end the stream again
)


def after(code: str, details: str) -> Then:
    """
    Judge the end of a stream.

    Args:
        code: the name of the gRPC status (`INTERNAL`); `OK` where the node ended the stream in order.
        details: its text.
    Source: yellowstone-grpc's grpc.rs; providers' balancers.
    """
    text = details.lower()
    match code:
        case "UNAUTHENTICATED" | "PERMISSION_DENIED" | "UNIMPLEMENTED":
            return Then.STOP
        case "INVALID_ARGUMENT":
            return Then.NARROW
        case "OUT_OF_RANGE":
            return Then.WITHOUT_REPLAY
        case "INTERNAL" | "RESOURCE_EXHAUSTED" if any(part in text for part in _REPLAY_TEXTS):
            return Then.WITHOUT_REPLAY
        case "RESOURCE_EXHAUSTED":
            return Then.RETRY_LATER
    return Then.RETRY


HINTS: Final[Mapping[str, str]] = {
    "UNAUTHENTICATED": "Check GEYSER_X_TOKEN: the node does not know this token.",
    "PERMISSION_DENIED": "Check GEYSER_X_TOKEN, and that the plan has Yellowstone gRPC.",
    "UNIMPLEMENTED": "Check GEYSER_URL: what answers there is no Yellowstone gRPC endpoint.",
    "INVALID_ARGUMENT": "The node refuses the filters: check that the plan allows owner filters on these programs.",
}
"""What a person can do about a `Then.STOP`, by the gRPC status."""
