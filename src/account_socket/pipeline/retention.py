"""History that is too old or too much goes, in small batches between commits; without space only states are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic

import structlog

from account_socket.errors import StoreError
from account_socket.logs import Seldom
from account_socket.pipeline.wall_clock import WallClock
from account_socket.store.base import MAX_ACCOUNTS, Store, accounts_at_once

CHECK_SECONDS = 10.0
BATCH = 500
PAUSE_SECONDS = 0.05

ROWS_BATCH = 5_000
"""Rows beyond what an account keeps that are found at once."""

FREE_SHARE = 0.2
MIN_FREE_BYTES = 16 * 2**20
"""Free space in the database above both is given back to the disk; new rows will fill the rest again."""

GIVE_BACK_BYTES = 4 * 2**20

log = structlog.get_logger("account_socket.database")


class Retention:
    """
    Args:
        keep_days: history older than this goes.
        keep_rows: of each account only so many of the newest rows stay; 0: all.
        reserve_bytes: below this free space no history is written.
        write_history: told whether history may be written; called when that changes.
    """

    def __init__(
        self,
        store: Store,
        *,
        keep_days: float,
        keep_rows: int = 0,
        reserve_bytes: int,
        write_history: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._keep_days = keep_days
        self._keep_rows = keep_rows
        self._page = accounts_at_once(keep_rows or 1)
        self._reserve_bytes = reserve_bytes
        self._write_history = write_history
        self._clock = WallClock()
        self._tries = Seldom(log)
        self.writing = True
        self.pruned = 0
        self._due: list[str] = []
        self._sweep_after: str | None = None  # the last account looked at while all are

    async def run(self, every: float = CHECK_SECONDS) -> None:
        """Check space, age and rows until cancelled."""
        while True:
            due = monotonic() + every
            await self.prune()
            await self._repeat(self._give_back, until=due)
            await asyncio.sleep(max(PAUSE_SECONDS, due - monotonic()))

    async def prune(self) -> None:
        """Delete what is too old, and what an account has too much, leaving the database to commits in between."""
        await self._repeat(self._prune)

    async def _repeat(self, step: Callable[[], Awaitable[bool]], until: float = float("inf")) -> None:
        """Repeat `step` while it says that there is more to do, half of the time at most, and watch the space."""
        more = True
        while more and monotonic() < until:
            self.check_space()
            started = monotonic()
            try:
                more = await step()
            except StoreError as error:
                self._tries.warning("old history not deleted", error=str(error), hint=error.hint)
                return
            if more:
                await asyncio.sleep(max(PAUSE_SECONDS, monotonic() - started))

    def check_space(self) -> None:
        """Stop or resume history by the free space there is."""
        free = self._store.free_bytes
        writing = free is None or free >= self._reserve_bytes
        if writing != self.writing:
            self.writing = writing
            self._write_history(writing)
            facts = {"free_bytes": free, "reserve_bytes": self._reserve_bytes}
            if writing:
                log.info("history is written again", **facts)
            else:
                log.error(
                    "disk almost full, history stops, state goes on",
                    hint="free space, or lower DISK_RESERVE_MB",
                    **facts,
                )

    async def _prune(self) -> bool:
        oldest = self._clock.now() - timedelta(days=self._keep_days)
        before = oldest.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        gone = await self._store.prune(before=before, limit=BATCH)
        self.pruned += gone
        more = await self._prune_accounts() if self._keep_rows else False
        return more or gone == BATCH

    async def _prune_accounts(self) -> bool:
        if not self._due:
            await self._find_due()
        if page := self._due[-self._page :]:
            gone = await self._store.prune_accounts(page, keep=self._keep_rows, limit=ROWS_BATCH)
            self.pruned += gone
            if gone < ROWS_BATCH:
                del self._due[-self._page :]
        return bool(self._due) or self._sweep_after is not None

    async def _find_due(self) -> None:
        """Take the accounts that grew; where nobody knows which, the next page of all accounts."""
        if self._sweep_after is None:
            grown = await self._store.take_grown()
            if grown is None:
                self._sweep_after = ""
            else:
                self._due = list(grown)
        if self._sweep_after is not None:
            self._due = await self._store.accounts(after=self._sweep_after, limit=MAX_ACCOUNTS)
            self._sweep_after = self._due[-1] if self._due else None

    async def _give_back(self) -> bool:
        sizes = self._store.statistics()
        if sizes["reusable_bytes"] <= max(MIN_FREE_BYTES, FREE_SHARE * sizes["database_bytes"]):
            return False
        return await self._store.give_back(limit=GIVE_BACK_BYTES) > 0
