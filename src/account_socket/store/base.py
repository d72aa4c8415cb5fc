"""What every store is: the history of all updates and the newest state of each account."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from account_socket.model import AccountUpdate, Mark, StoredState
from account_socket.store.raw_accounts import Bytes, StoredAccount

ID_BLOCK = 100_000
"""Ids are reserved durably in blocks of this size; an unclean start skips to the end of the block."""


MAX_ACCOUNTS = 1_000
MAX_LOOKED_AT = 1_000_000


def accounts_at_once(keep: int) -> int:
    """
    Return how many accounts to give `Store.prune_accounts` at once, to look at some MAX_LOOKED_AT rows of an index.

    The more the better: rows that lie side by side cost half as much to delete together.
    """
    return max(1, min(MAX_ACCOUNTS, MAX_LOOKED_AT // keep))


@dataclass(frozen=True)
class Identity:
    """
    Who a database is, read when it is opened.

    Attributes:
        epoch: names the database's life; ids compare only within one epoch.
        genesis_hash: the cluster it belongs to, or None while it belongs to none.
        next_id: the first id that was never used.
        last_created_at: the newest `created_at` stored, or "".
        has_states: whether the state of any account is stored.
    """

    epoch: str
    genesis_hash: str | None
    next_id: int
    last_created_at: str
    has_states: bool


class StoredUpdate(msgspec.Struct, frozen=True, gc=False):
    """
    One update as it is stored; `account_json` is the public `account` object.

    `event` as in `AccountUpdate`, where it comes from the history; "" of rows from before it was kept.
    """

    id: int
    prev_id: int | None
    pubkey: str
    slot: int
    account_json: bytes
    event: str = ""


@dataclass(frozen=True)
class Selection:
    """
    Which accounts; each condition narrows it.

    Attributes:
        where: (path, value): the names and indexes that lead to a value of `data_json`, and the text it must have;
            a number and a literal have the text that JSON writes for them.
        among: (path, values): the same with several texts, of which it must have one.
    """

    account_type: str | None = None
    owner: str | None = None
    where: tuple[tuple[tuple[str, ...], str], ...] = ()
    among: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Found:
    """A page of states in the order of their pubkeys, and the pubkey to go on after; None at the end."""

    states: list[StoredUpdate]
    next: str | None


class Store(ABC):
    """
    Backends differ in SQL, never in policy. Driver errors leave as `StoreError`, `from` the driver's.

    One task appends; any number may read at the same time.
    """

    @abstractmethod
    async def open(self) -> Identity:
        """Create or migrate the tables, adopt a seed-made database, and return who it is. Raises StoreError."""

    @abstractmethod
    async def bind(self, genesis_hash: str) -> None:
        """Bind the database to a cluster, once. Raises WrongClusterError, naming both, if it has another."""

    @abstractmethod
    async def remember(self, key: str, value: str) -> None:
        """Keep a short text under a name of the caller's, durably, in place of the one before. Raises StoreError."""

    @abstractmethod
    async def recall(self, key: str) -> str | None:
        """Return what `remember` kept, or None. Raises StoreError."""

    @abstractmethod
    def marks(self) -> AsyncIterator[list[tuple[str, Mark]]]:
        """Yield (pubkey, mark) of every account's newest state, in pages."""

    @abstractmethod
    async def marks_of(self, pubkeys: Sequence[str]) -> dict[str, Mark]:
        """Return the marks of those of `pubkeys` that have a state. Raises StoreError."""

    @abstractmethod
    async def append(
        self, updates: Sequence[AccountUpdate], *, history: bool = True, lost_id: int = 0
    ) -> list[AccountUpdate]:
        """
        Commit a group in one transaction: a row each, and each account's newest state.

        Ids grow within and across groups. Before ids beyond the reserved block are committed, the next block is
        reserved durably (fsync). Appending an id again changes nothing. `history=False` writes only the state.

        Args:
            lost_id: the highest id that was given to an update which the caller gave up; 0: none since the last call.
        Returns:
            The updates the database refused for their content, found by bisecting; all others are committed.
        Raises:
            StoreError: nothing of the group was committed, as far as is known; the same call may be repeated.
        """

    @abstractmethod
    async def states(self, pubkeys: Sequence[str]) -> dict[str, StoredState]:
        """Return the newest state of those of `pubkeys` that have one. Raises StoreError."""

    @abstractmethod
    async def history(self, pubkey: str, *, before: int, limit: int) -> tuple[list[StoredUpdate], bool]:
        """
        Return at most `limit` updates of an account with ids below `before`, newest first, and whether there are more.

        A page ends early where it is large. Rows that were there before this program are left out. Raises StoreError.
        """

    @abstractmethod
    async def state_at(self, pubkey: str, slot: int) -> StoredUpdate | None:
        """
        Return an account's newest update of slot `slot` or before; not one that a fork took back by then.

        None: it has no state, or history does not reach back so far without a hole. Raises StoreError.
        """

    @abstractmethod
    async def find(self, selection: Selection, *, after: str, limit: int) -> Found:
        """
        Return at most `limit` newest states that fit, of the accounts behind `after`.

        The work is bounded: a page may be shorter than `limit`, or empty, and yet not be the last. Raises StoreError.
        """

    @abstractmethod
    async def raw(self, pubkeys: Sequence[str]) -> dict[str, StoredAccount]:
        """Return the newest state, byte for byte, of those of some hundreds of accounts that have one."""

    @abstractmethod
    async def raw_page(self, chosen: Bytes, *, after: str, limit: int) -> tuple[list[StoredAccount], str | None]:
        """
        Return at most `limit` open accounts that fit, behind `after`, and the pubkey to go on after; None at the end.

        The work is bounded: a page may be shorter than `limit`, or empty, and yet not be the last. Raises StoreError.
        """

    @abstractmethod
    async def later(self, after: Mapping[str, int], *, limit: int) -> list[int]:
        """
        Return ids of the history of accounts, of each those above its id in `after`; sorted.

        Of more than `limit` any are returned. Raises StoreError.
        """

    @abstractmethod
    async def crowded(self, after: Mapping[str, int], *, limit: int) -> list[str]:
        """Return the accounts that have more than `limit` updates above their id in `after`. Raises StoreError."""

    @abstractmethod
    async def between(self, after: int, upto: int, *, limit: int) -> list[StoredUpdate] | None:
        """
        Return at most `limit` updates of all accounts with `after` < id ≤ `upto`, in the order of ids.

        A page ends early where it is large; it is empty only where there are no more. None: an update with an id
        above `after` may be missing (pruned, not written for want of space, refused). Raises StoreError.
        """

    @abstractmethod
    async def updates(self, ids: Sequence[int]) -> list[StoredUpdate]:
        """Return those of some dozens of updates that are in the history, by id. Raises StoreError."""

    @abstractmethod
    async def prune(self, *, before: str, limit: int) -> int:
        """Delete at most `limit` of the oldest history rows created before `before`; return how many went."""

    @abstractmethod
    async def prune_accounts(self, pubkeys: Sequence[str], *, keep: int, limit: int) -> int:
        """Delete at most `limit` history rows of `pubkeys` beyond the `keep` newest of each; return how many went."""

    @abstractmethod
    async def take_grown(self) -> set[str] | None:
        """
        Return the accounts whose history grew since the last call, once each.

        None: any may have grown, since nobody asked before, or too many have. From the first call on it is kept track
        of. Raises StoreError.
        """

    @abstractmethod
    async def accounts(self, *, after: str, limit: int) -> list[str]:
        """Return at most `limit` accounts that have history, those behind `after`, sorted. Raises StoreError."""

    @abstractmethod
    async def give_back(self, *, limit: int) -> int:
        """Give about `limit` bytes that deleted rows left back to the disk; return how many. Raises StoreError."""

    @abstractmethod
    async def close(self, *, next_id: int | None) -> None:
        """Let go. `next_id` after a clean stop gives the unused rest of the id block back. Idempotent."""

    @abstractmethod
    def statistics(self) -> dict[str, float]:
        """Return counters and sizes: rows, commits, commit_seconds, last_group, wal_bytes, queued."""

    @property
    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space where the database lies, or None where that has no meaning."""
