"""
The node's slots as Yellowstone shows them: what was written in each, what came of it, and who is told what. Pure.

A slot is created, then processed once nothing more can be written in it, confirmed one slot later, and finalized
when it is 32 slots old; one that was abandoned stays what it was. At `processed` subscribers hear of each write at
once, at the other levels of each account's last write in a slot when that slot comes to the level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha512
from typing import Protocol

import msgspec
from solders.pubkey import Pubkey
from solders.signature import Signature

from account_socket.devnode.geyser_filters import Filters
from account_socket.model import RawAccount
from account_socket.sources.geyser_proto import geyser_pb2 as pb

REPLAY_SLOTS = 150
FINAL_DISTANCE = 32
_KEPT_SLOTS = 1_000
_CREATED = -1


class Subscriber(Protocol):
    """A stream, as seen from here."""

    filters: Filters | None

    def send(self, message: bytes) -> None:
        """Queue one SubscribeUpdate; never blocks, never raises."""


class ReplayFaultError(Exception):
    """Replay cannot begin where a subscriber wants it to; `code` is the name of the gRPC status."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Slot(msgspec.Struct):
    number: int
    parent: int
    level: int = _CREATED
    dead: bool = False
    writes: list[RawAccount] = []

    def last_writes(self) -> list[RawAccount]:
        return list({account.pubkey: account for account in self.writes}.values())


class Feed:
    """
    Args:
        replay_slots: how many of the newest slots can be replayed; 0: none.
        now: seconds since the Unix epoch, for `created_at`.
    """

    def __init__(self, *, replay_slots: int = REPLAY_SLOTS, now: Callable[[], float]) -> None:
        self._replay_slots = replay_slots
        self._now = now
        self._slots: dict[int, _Slot] = {}
        self._rising: dict[int, _Slot] = {}  # those of them that may still come to another level
        self._write_version = 0
        self.subscribers: dict[Subscriber, None] = {}
        self.updates = 0

    # ---- what happens --------------------------------------------------------------------------------------

    def create(self, slot: int, parent: int) -> None:
        """Take a new slot that descends from `parent`."""
        found = self._open(slot, parent)
        self._tell_status(found, pb.SLOT_CREATED_BANK)
        self._forget()

    def write(self, account: RawAccount) -> None:
        """Take a write; a slot that was never created is taken as it is."""
        self._write_version += 1
        signature = sha512(self._write_version.to_bytes(8, "little")).digest()
        written = msgspec.structs.replace(
            account, write_version=self._write_version, signature=str(Signature.from_bytes(signature))
        )
        slot = self._slots.get(account.slot)
        if slot is None:
            slot = self._open(account.slot, account.slot - 1)
        slot.writes.append(written)
        self._tell_write(slot, written)

    def tell(self, account: RawAccount) -> None:
        """Tell a write again; one that never was is told as if it were."""
        slot = self._slots.get(account.slot)
        for written in reversed(slot.writes if slot else []):
            if slot is not None and written.content_hash() == account.content_hash():
                self._tell_write(slot, written)
                return
        self.write(account)

    def _tell_write(self, slot: _Slot, account: RawAccount) -> None:
        for subscriber in self.subscribers:
            filters = subscriber.filters
            # No real node writes in a slot that has come to its level already; a lying one tells it at once.
            if filters is not None and (filters.level == pb.PROCESSED or slot.level >= filters.level):
                self._tell_account(subscriber, filters, account)

    def settle(self, frozen: int) -> None:
        """Take that nothing more is written in slots up to `frozen`."""
        for level, distance in ((pb.PROCESSED, 0), (pb.CONFIRMED, 1), (pb.FINALIZED, FINAL_DISTANCE)):
            for number in sorted(self._rising):
                slot = self._rising[number]
                if number > frozen - distance:
                    break
                if slot.level < level:
                    self._raise(slot, level)

    def abandon(self, slot: int, *, tell: bool) -> None:
        """Let a slot die. `tell`: with a status of its own."""
        found = self._slots[slot]
        found.dead = True
        self._rising.pop(slot, None)
        if tell:
            self._tell_status(found, pb.SLOT_DEAD)

    def _raise(self, slot: _Slot, level: int) -> None:
        slot.level = level
        if level == pb.FINALIZED:
            del self._rising[slot.number]
        for subscriber in self.subscribers:
            filters = subscriber.filters
            if filters is not None and filters.level == level and level > pb.PROCESSED:
                for account in slot.last_writes():
                    self._tell_account(subscriber, filters, account)
        self._tell_status(slot, level)

    def _open(self, slot: int, parent: int) -> _Slot:
        found = self._slots[slot] = self._rising[slot] = _Slot(slot, parent, writes=[])
        return found

    def _forget(self) -> None:
        while len(self._slots) > _KEPT_SLOTS:
            oldest = min(self._slots)
            del self._slots[oldest]
            self._rising.pop(oldest, None)

    # ---- who is told ---------------------------------------------------------------------------------------

    def _tell_account(self, subscriber: Subscriber, filters: Filters, account: RawAccount) -> None:
        if names := filters.account_names(account):
            self.updates += 1
            subscriber.send(encode_account_update(account, names, filters.cut(account.data), self._now()))

    def _tell_status(self, slot: _Slot, status: int) -> None:
        for subscriber in self.subscribers:
            if subscriber.filters is not None:
                self._tell_slot(subscriber, subscriber.filters, slot, status)

    def _tell_slot(self, subscriber: Subscriber, filters: Filters, slot: _Slot, status: int) -> None:
        if names := filters.slot_names(status):
            subscriber.send(encode_slot_update(slot.number, slot.parent, status, names))

    # ---- replay --------------------------------------------------------------------------------------------

    @property
    def first_available(self) -> int | None:
        """The first slot that can be replayed; None where replay is off, 2^64-1 while nothing is stored."""
        if self._replay_slots == 0:
            return None
        return next(self._stored(), 2**64 - 1)

    def newest(self, level: int) -> int | None:
        """Return the newest slot of at least `level`, or None."""
        return max(
            (slot.number for slot in self._slots.values() if slot.level >= level and not slot.dead), default=None
        )

    def replay(self, subscriber: Subscriber, filters: Filters, from_slot: int) -> None:
        """Send what is stored from `from_slot` on. Raises ReplayFaultError."""
        first = self.first_available
        if first is None:
            raise ReplayFaultError("INTERNAL", "from_slot is not supported")
        stored = list(self._stored())
        if not stored or from_slot > stored[-1]:
            raise ReplayFaultError("INTERNAL", "failed to get replay response")
        if from_slot < first:
            text = f"broadcast from {from_slot} is not available, last available: {first}"
            raise ReplayFaultError("OUT_OF_RANGE", text)
        for number in stored:
            slot = self._slots[number]
            if number < from_slot or slot.level < filters.level:
                continue
            for account in slot.last_writes():
                self._tell_account(subscriber, filters, account)
            for status in range(slot.level + 1):
                self._tell_slot(subscriber, filters, slot, status)

    def _stored(self) -> Iterator[int]:
        processed = sorted(slot.number for slot in self._slots.values() if slot.level >= pb.PROCESSED)
        return iter(processed[-self._replay_slots :])


def encode_account_update(account: RawAccount, names: list[str], data: bytes, now: float) -> bytes:
    """Return a SubscribeUpdate with `data` in the place of the account's."""
    info = pb.AccountInfo(
        pubkey=bytes(Pubkey.from_string(account.pubkey)),
        lamports=account.lamports,
        owner=bytes(Pubkey.from_string(account.owner)),
        executable=account.executable,
        rent_epoch=account.rent_epoch,
        data=data,
        write_version=account.write_version,
    )
    if account.signature:
        info.txn_signature = bytes(Signature.from_string(account.signature))
    update = pb.SubscribeUpdate(filters=names, account=pb.UpdateAccount(account=info, slot=account.slot))
    update.created_at.FromNanoseconds(int(now * 1e9))
    return update.SerializeToString()


def encode_slot_update(slot: int, parent: int, status: int, names: list[str]) -> bytes:
    """Return a SubscribeUpdate of a slot's status."""
    update = pb.UpdateSlot(slot=slot, parent=parent, status=pb.SlotStatus.Name(status))
    return pb.SubscribeUpdate(filters=names, slot=update).SerializeToString()
