"""
What a node listed of a program: which accounts there are, and of which kinds. Pure.

Of each account 8 bytes stay here, whatever their number.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from account_socket.model import RawAccount

HEAD_BYTES = 8
"""Anchor's discriminator: accounts that begin alike are of one kind."""

FEW = 1_000
"""A kind with no more accounts than this is read account by account, not by a list of its own."""

MAX_KINDS = 256
MAX_STRAYS = 100_000
"""Accounts remembered that are shorter than a discriminator, or of a kind beyond MAX_KINDS."""

_RUN = 1 << 18


class KeySet:
    """A set of public keys of 8 bytes each, told apart by their hash: of a billion pairs none is mixed up."""

    def __init__(self) -> None:
        self._newest: set[int] = set()
        self._runs: list[array[int]] = []

    def add(self, pubkey: str) -> None:
        """Put `pubkey` in."""
        self._newest.add(hash(pubkey))
        if len(self._newest) >= _RUN:
            self._runs.append(array("q", sorted(self._newest)))
            self._newest.clear()

    def __contains__(self, pubkey: str) -> bool:
        key = hash(pubkey)
        return key in self._newest or any(_has(run, key) for run in self._runs)


def _has(run: array[int], key: int) -> bool:
    at = bisect_left(run, key)
    return at < len(run) and run[at] == key


class Listing:
    """
    Attributes:
        pubkeys: every account listed.
        kinds: how many accounts begin with these 8 bytes.
        few: of kinds with few accounts: which ones.
        strays: accounts of no such kind.
        left_out: accounts that were too many to remember; they are in `pubkeys` only.
    """

    def __init__(self, pubkeys: KeySet) -> None:
        self.pubkeys = pubkeys
        self.kinds: Counter[bytes] = Counter()
        self.few: dict[bytes, list[str]] = {}
        self.strays: list[str] = []
        self.left_out = 0

    @property
    def total(self) -> int:
        """How many accounts there are."""
        return self.kinds.total() + len(self.strays) + self.left_out

    def add(self, accounts: Iterable[RawAccount]) -> None:
        """Take accounts of whose data only the first 8 bytes were read."""
        for raw in accounts:
            self.pubkeys.add(raw.pubkey)
            self._add(raw.pubkey, raw.data[:HEAD_BYTES])

    def _add(self, pubkey: str, head: bytes) -> None:
        if len(head) < HEAD_BYTES or (head not in self.kinds and len(self.kinds) >= MAX_KINDS):
            if len(self.strays) < MAX_STRAYS:
                self.strays.append(pubkey)
            else:
                self.left_out += 1
            return
        self.kinds[head] += 1
        if self.kinds[head] <= FEW:
            self.few.setdefault(head, []).append(pubkey)
        else:
            self.few.pop(head, None)
