"""What every cache is: the newest `account` object by pubkey, kept for CACHE_TTL_SECONDS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from account_socket.model import AccountUpdate, StoredState


class Cache(ABC):
    """
    A cache may forget anything at any time and may be away; it never delays the pipeline.

    Whoever reads decides whether a value is still the newest (by its id); a value that is not a well-formed
    `account` object of that pubkey counts as absent.
    """

    @abstractmethod
    async def open(self) -> None:
        """Start the background work. Returns at once when the server behind the cache is away."""

    @abstractmethod
    def put(self, updates: Iterable[AccountUpdate]) -> None:
        """Queue the newest `account_json` of each update's pubkey; never blocks, keeps only the latest per key."""

    @abstractmethod
    async def get(self, pubkeys: Sequence[str]) -> dict[str, StoredState]:
        """Return what is cached of `pubkeys`; away, slow (over 1 s) or garbage counts as absent. Never raises."""

    @abstractmethod
    async def close(self) -> None:
        """Write what is queued (at most 2 s), then let go. Idempotent."""

    @property
    @abstractmethod
    def available(self) -> bool:
        """Whether the last contact succeeded."""

    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """Return counters and sizes: queued, written, dropped, hits, misses, errors, entries (embedded only)."""
