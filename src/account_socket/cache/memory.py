"""The embedded cache: bounded by entries, bytes and time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from account_socket.cache.account_value import read_account_value
from account_socket.cache.base import Cache
from account_socket.model import AccountUpdate, Origin, StoredState

MAX_ENTRIES = 200_000
MAX_BYTES = 256 * 2**20


class _Entry(NamedTuple):
    id: int
    account_json: bytes
    expires_at: float


class MemoryCache(Cache):
    """Least recently used first out. `account_json` is shared with whoever else holds it, never copied."""

    def __init__(
        self,
        *,
        ttl: float,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep a value for `ttl` seconds, and at most so many values and bytes of values."""
        self._ttl = ttl
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0
        self._written = self._dropped = self._hits = self._misses = 0

    async def open(self) -> None:
        """Do nothing: there is no background work."""

    def put(self, updates: Iterable[AccountUpdate]) -> None:
        expires_at = self._clock() + self._ttl
        entries = self._entries
        for update in updates:
            known = entries.get(update.pubkey)
            if known is None and update.origin is Origin.REREAD:
                continue  # a backfill must not push out what clients ask for
            if known is not None:
                if known.id > update.id:
                    continue
                self._remove(update.pubkey)
            entries[update.pubkey] = _Entry(update.id, update.account_json, expires_at)
            self._bytes += len(update.account_json)
            self._written += 1
        while len(entries) > self._max_entries or self._bytes > self._max_bytes:
            self._remove(next(iter(entries)))
            self._dropped += 1

    async def get(self, pubkeys: Sequence[str]) -> dict[str, StoredState]:
        found = {}
        now = self._clock()
        for pubkey in pubkeys:
            entry = self._entries.get(pubkey)
            if entry is not None and entry.expires_at <= now:
                self._remove(pubkey)
                entry = None
            state = read_account_value(pubkey, entry.account_json) if entry is not None else None
            if state is None:
                self._misses += 1
                continue
            self._entries.move_to_end(pubkey)
            self._hits += 1
            found[pubkey] = state
        return found

    def _remove(self, pubkey: str) -> None:
        self._bytes -= len(self._entries.pop(pubkey).account_json)

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    @property
    def available(self) -> bool:
        return True

    def statistics(self) -> dict[str, int]:
        return {
            "queued": 0,
            "written": self._written,
            "dropped": self._dropped,
            "hits": self._hits,
            "misses": self._misses,
            "errors": 0,
            "entries": len(self._entries),
            "bytes": self._bytes,
        }
