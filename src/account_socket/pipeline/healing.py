"""
Healing gaps: subscribe first, then re-read at the gap's end or later, then merge by slot.

The sources report a gap once they are subscribed again, so what is written from then on arrives by itself. Accounts
with subscribers are re-read at once, in hundreds, within the budget of background reads; all others are doubtful
until somebody asks for them (pipeline/gaps.py, pipeline/snapshots.py). What somebody was told as stale meanwhile is
re-read as soon as the node can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from account_socket.backoff import Backoff
from account_socket.errors import SourceError
from account_socket.logs import Seldom
from account_socket.model import Gap, RawAccount, missing_account
from account_socket.pipeline.gaps import Gaps
from account_socket.sources.base import Deliver

PAGE = 100
RETRY_SECONDS = (1.0, 10.0)

Reread = Callable[[Sequence[str], int], Awaitable[tuple[int, list[RawAccount | None]]]]
"""Reads up to 100 accounts, at a given slot or later, within the budget of background reads."""

log = structlog.get_logger("account_socket.upstream")


class Healer:
    """
    Args:
        known: whether anything is known that a gap could make doubtful.
        subscribed: the accounts that clients are subscribed to now.
        reread: see `Reread`; None where there is no node to ask: a gap that no source covers stays open then.
        admit: the pipeline's entrance.
        told: called after a gap was reported, and when the accounts with subscribers were re-read after one.
    """

    def __init__(
        self,
        gaps: Gaps,
        *,
        known: Callable[[], bool],
        subscribed: Callable[[], Iterable[str]],
        reread: Reread | None,
        admit: Deliver,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._gaps = gaps
        self._known = known
        self._subscribed = subscribed
        self._reread = reread
        self._admit = admit
        self._told = told
        self._wanted = asyncio.Event()
        self._doubtful: set[str] = set()
        self._tries = Seldom(log)

    def recheck(self, pubkeys: Iterable[str]) -> None:
        """Take accounts to be re-read if somebody is subscribed to them."""
        if self._reread is not None:
            self._doubtful.update(pubkeys)
            self._wanted.set()

    def report(self, gap: Gap) -> None:
        """Take a gap that a source tells of."""
        opened = self._gaps.report(gap)
        if opened is None:
            log.info(
                "gap covered by another upstream", source=gap.source, from_slot=gap.from_slot, to_slot=gap.to_slot
            )
        elif not self._known():
            self._gaps.close(opened, everything=True)
        else:
            # At the first connection that is only what the last run, or nobody, could see.
            note = log.info if gap.from_slot is None else log.warning
            note(
                "writes may have been missed",
                source=gap.source,
                from_slot=gap.from_slot,
                to_slot=gap.to_slot,
                reason=gap.reason,
            )
            if self._reread is None:
                opened.error = "there is no node to ask: RPC_URL is not set"
            self._wanted.set()
        self._told()

    async def run(self) -> None:
        """Heal until cancelled; a node that cannot be asked is asked again for ever."""
        if self._reread is None:
            await asyncio.Event().wait()
        backoff = Backoff(*RETRY_SECONDS)
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._heal()
            except SourceError as error:
                for opened in self._gaps.open:
                    opened.attempts += 1
                    opened.error = str(error)
                wait = backoff.next()
                self._tries.warning("gap not healed yet", error=str(error), hint=error.hint, retry_in=round(wait, 2))
                await asyncio.sleep(wait)
                self._wanted.set()
            else:
                backoff.reset()

    async def _heal(self) -> None:
        """Re-read what concerns somebody. Raises SourceError; what was re-read until then is admitted."""
        opened = list(self._gaps.open)
        doubtful, self._doubtful = self._doubtful, set()
        subscribed = set(self._subscribed())
        pubkeys = list(subscribed if opened else doubtful & subscribed)
        try:
            await self._read_again(pubkeys, self._gaps.floor)
        except SourceError:
            self._doubtful |= doubtful
            raise
        for each in opened:
            self._gaps.close(each, everything=False)
            log.info("gap healed", source=each.gap.source, to_slot=each.gap.to_slot, accounts=len(pubkeys))
        self._told()

    async def _read_again(self, pubkeys: Sequence[str], to_slot: int) -> None:
        assert self._reread is not None, "without a node nothing is healed"
        for at in range(0, len(pubkeys), PAGE):
            page = pubkeys[at : at + PAGE]
            slot, accounts = await self._reread(page, to_slot)
            await self._admit(
                [raw or missing_account(pubkey, slot) for pubkey, raw in zip(page, accounts, strict=True)]
            )
