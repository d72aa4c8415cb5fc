"""
Which states a dead fork took along, and what the accounts are again. Pure.

At `processed` a slot's writes are streamed before anybody voted on it. A slot dies when the node says so, or when a
slot is finalized that does not descend from it. Until then the writes of each slot are kept here, and of each
account that was seen written the newest state that can no longer be taken back.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from account_socket.model import RawAccount

MAX_BYTES = 64 * 1024 * 1024
"""The most that the writes of open slots, and the same again that rooted states, may hold."""

ACCOUNT_OVERHEAD_BYTES = 512
MAX_SLOTS = 2_000
"""Slots without a finalized one among them; beyond, the oldest counts as rooted."""


class Retraction(msgspec.Struct, frozen=True):
    """
    What dead slots change.

    Attributes:
        restored: the states that are true again, each with `retracts`.
        unknown: accounts whose state before the dead slots was never seen.
        slot: the lowest dead slot that had writes.
    """

    restored: list[RawAccount]
    unknown: list[str]
    slot: int


class _Slot(msgspec.Struct):
    parent: int | None = None
    writes: dict[str, RawAccount] = {}


class Forks:
    """The slots that may still die, with their writes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._slots: dict[int, _Slot] = {}
        self._bytes = 0
        self._rooted: OrderedDict[str, RawAccount] = OrderedDict()
        self._rooted_bytes = 0
        self._root = -1

    def write(self, account: RawAccount) -> None:
        """Keep a state that was streamed; writes of one account come in their order."""
        if account.slot <= self._root:
            self._keep_rooted(account)
            return
        writes = self._open(account.slot).writes
        before = writes.get(account.pubkey)
        if before is not None:
            self._bytes -= _size(before)
        writes[account.pubkey] = account
        self._bytes += _size(account)
        self._bound()

    def descends(self, slot: int, parent: int | None) -> None:
        """Take the parent of a slot."""
        if slot > self._root:
            found = self._open(slot)
            if parent is not None and parent < slot:
                found.parent = parent
            self._bound()

    def dead(self, slot: int) -> Retraction | None:
        """Take a slot out that the node gave up, and all that descend from it."""
        if slot not in self._slots:
            return None
        return self._remove(self._with_descendants({slot}))

    def finalized(self, slot: int) -> Retraction | None:
        """Root a slot and its ancestors; other slots below it are dead, as far as parents are known."""
        if slot <= self._root or slot not in self._slots:
            return None
        chain = {slot}
        lowest = slot
        while (parent := self._slots[lowest].parent) is not None and parent in self._slots:
            chain.add(parent)
            lowest = parent
        # Below a parent that was never seen nothing can be told apart: what is there is rooted, not dead.
        known_above = lowest if parent is None else max(parent, self._root)
        dead = {number for number in self._slots if known_above < number < slot and number not in chain}
        dead = self._with_descendants(dead)
        retraction = self._remove(dead)
        for number in sorted(number for number in self._slots if number <= slot):
            self._make_rooted(number)
        self._root = slot
        return retraction

    def _open(self, slot: int) -> _Slot:
        found = self._slots.get(slot)
        if found is None:
            found = self._slots[slot] = _Slot(writes={})
        return found

    def _with_descendants(self, dead: set[int]) -> set[int]:
        for number in sorted(self._slots):
            if self._slots[number].parent in dead:
                dead.add(number)
        return dead

    def _remove(self, dead: set[int]) -> Retraction | None:
        removed = {number: self._slots.pop(number).writes for number in sorted(dead)}
        self._bytes -= sum(_size(account) for writes in removed.values() for account in writes.values())
        newest = {pubkey: number for number, writes in removed.items() for pubkey in writes}
        written = [number for number, writes in removed.items() if writes]
        if not newest:
            return None
        restored, unknown = [], []
        for pubkey, number in newest.items():
            before = self._newest(pubkey)
            if before is None:
                unknown.append(pubkey)
            elif before.slot < number:
                restored.append(msgspec.structs.replace(before, retracts=number))
        return Retraction(restored, unknown, written[0])

    def _newest(self, pubkey: str) -> RawAccount | None:
        for number in sorted(self._slots, reverse=True):
            if (account := self._slots[number].writes.get(pubkey)) is not None:
                return account
        return self._rooted.get(pubkey)

    def _make_rooted(self, number: int) -> None:
        for account in self._slots.pop(number).writes.values():
            self._bytes -= _size(account)
            self._keep_rooted(account)

    def _keep_rooted(self, account: RawAccount) -> None:
        known = self._rooted.pop(account.pubkey, None)
        if known is not None:
            self._rooted_bytes -= _size(known)
            if known.slot > account.slot:
                account = known
        self._rooted[account.pubkey] = account
        self._rooted_bytes += _size(account)
        while self._rooted_bytes > self._max_bytes:
            self._rooted_bytes -= _size(self._rooted.popitem(last=False)[1])

    def _bound(self) -> None:
        while self._bytes > self._max_bytes or len(self._slots) > MAX_SLOTS:
            oldest = min(self._slots)
            self._make_rooted(oldest)
            self._root = max(self._root, oldest)


def _size(account: RawAccount) -> int:
    return len(account.data) + ACCOUNT_OVERHEAD_BYTES
