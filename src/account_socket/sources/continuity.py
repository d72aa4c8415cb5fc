"""
Which slots of a Yellowstone node came whole, over all its streams, and what a new stream brings again. Pure.

A slot is whole once its status of the stream's commitment came: that comes after the last write of the slot.
"""

from __future__ import annotations

import msgspec

from account_socket.model import RawAccount
from account_socket.sources.geyser import COMPLETES, REPLAY_SLOTS

MAX_WHOLE_SLOTS = 512
MAX_OPEN_BYTES = 64 * 1024 * 1024
"""What the writes of slots that are not whole may hold; beyond, a repeat of them is only known by its slot."""

_ACCOUNT_OVERHEAD_BYTES = 512

_Key = tuple[int, str]


class Continuity:
    """
    Attributes:
        newest: the newest slot that came whole, or None.
        completes: the slot status that makes a slot whole.
    """

    def __init__(self, commitment: str) -> None:
        self._processed = commitment == "processed"
        self.completes = COMPLETES[commitment]
        self.newest: int | None = None
        self._whole: dict[int, None] = {}
        self._open: dict[_Key, RawAccount] = {}
        self._open_bytes = 0

    @property
    def replay_from(self) -> int | None:
        """The slot from which a new stream must begin to miss nothing; None where nothing came whole yet."""
        if self.newest is None:
            return None
        return max(0, self.newest - REPLAY_SLOTS) if self._processed else self.newest

    def wrote(self, account: RawAccount) -> None:
        """Keep a write whose slot is not whole yet."""
        if self._open_bytes < MAX_OPEN_BYTES:
            self._open[account.slot, account.pubkey] = account
            self._open_bytes += len(account.data) + _ACCOUNT_OVERHEAD_BYTES

    def came_whole(self, slot: int) -> None:
        """Take a slot of which every write came."""
        self._whole[slot] = None
        if len(self._whole) > MAX_WHOLE_SLOTS:
            del self._whole[next(iter(self._whole))]
        self.begins_after(slot if self.newest is None else max(slot, self.newest))

    def begins_after(self, slot: int) -> None:
        """Take that every write above `slot` comes."""
        self.newest = slot
        self._open = {key: account for key, account in self._open.items() if key[0] > slot}
        self._open_bytes = sum(len(account.data) + _ACCOUNT_OVERHEAD_BYTES for account in self._open.values())

    def overlap(self) -> Overlap | None:
        """Return what a stream that begins now may bring again; None where nothing came before."""
        return None if self.newest is None else Overlap(self, self.newest, dict(self._open))

    def has(self, account: RawAccount) -> bool:
        """Whether exactly this write came, or its whole slot."""
        if account.slot in self._whole:
            return True
        seen = self._open.get((account.slot, account.pubkey))
        return seen is not None and seen.write_version == account.write_version and _same_content(seen, account)


class Overlap:
    """
    What came before a stream began, as far as that stream may bring it again.

    Attributes:
        newest: the newest slot that had come whole.
    """

    def __init__(self, continuity: Continuity, newest: int, partly: dict[_Key, RawAccount]) -> None:
        self.newest = newest
        self._continuity = continuity
        self._partly = partly
        self._shifts: dict[_Key, int] = {}

    @property
    def ends_after(self) -> int:
        """Once this slot came whole, nothing comes again."""
        return self.newest + REPLAY_SLOTS

    def place(self, account: RawAccount) -> RawAccount | None:
        """
        Return a write in its place behind those that came before, or None if it is one of them.

        Another node may replay the slot in which the stream before ended. Its write_versions do not compare with
        the first one's, but what it brings of the slot is the last write of each account, then later ones: they
        are shifted behind what came.
        """
        if self._continuity.has(account):
            return None
        key = account.slot, account.pubkey
        shift = self._shifts.get(key)
        if shift is None:
            seen = self._partly.get(key)
            if seen is None:
                return account
            repeated = _same_content(seen, account)
            shift = max(0, seen.write_version - account.write_version + (not repeated))
            self._shifts[key] = shift
            if repeated:
                return None
        if shift == 0:
            return account
        return msgspec.structs.replace(account, write_version=account.write_version + shift)


def _same_content(one: RawAccount, other: RawAccount) -> bool:
    return one.data == other.data and one.lamports == other.lamports and one.owner == other.owner
