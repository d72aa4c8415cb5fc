"""History that is too old goes, in small batches between commits; without space history stops and state goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from account_socket.errors import StoreError
from account_socket.store.base import Store

CHECK_SECONDS = 10.0
BATCH = 500
PAUSE_SECONDS = 0.05

log = structlog.get_logger("account_socket.database")


class Retention:
    """
    Args:
        keep_days: history older than this goes.
        reserve_bytes: below this free space no history is written.
        write_history: told whether history may be written; called when that changes.
    """

    def __init__(
        self, store: Store, *, keep_days: float, reserve_bytes: int, write_history: Callable[[bool], None]
    ) -> None:
        self._store = store
        self._keep_days = keep_days
        self._reserve_bytes = reserve_bytes
        self._write_history = write_history
        self.writing = True
        self.pruned = 0

    async def run(self, every: float = CHECK_SECONDS) -> None:
        """Check space and age until cancelled."""
        while True:
            self.check_space()
            try:
                await self.prune()
            except StoreError as error:
                log.warning("old history not deleted", error=str(error), hint=error.hint)
            await asyncio.sleep(every)

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

    async def prune(self) -> None:
        """Delete what is too old, a batch at a time, leaving the database to the commits in between."""
        oldest = datetime.now(UTC) - timedelta(days=self._keep_days)
        before = oldest.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        while gone := await self._store.prune(before=before, limit=BATCH):
            self.pruned += gone
            await asyncio.sleep(PAUSE_SECONDS)
