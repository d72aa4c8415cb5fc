"""
Comparing with the node what nothing upstream would correct.

Every `every` seconds the accounts with subscribers are looked at: PubSub tells of no closes. A look reads all but
the data, a hundred accounts a request; every tenth is a whole read, in case a notification was lost on the way. At
`processed` each is a whole read, as a fork may have taken a state back without a word.

A doubted state is given a moment, in which the stream usually settles it; then it is read from the node. At
`processed` what the node says instead is published as retracting it: nothing but a fork, or a loss, explains it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import msgspec
import structlog

from account_socket.backoff import Backoff
from account_socket.errors import SourceError
from account_socket.logs import Seldom
from account_socket.model import RawAccount, missing_account
from account_socket.pipeline.ordering import Ordering
from account_socket.sources.base import Deliver

PAGE = 100
WHOLE_EVERY = 10
MAX_DOUBTED = 100_000
RETRY_SECONDS = (1.0, 10.0)

Read = Callable[[Sequence[str], int], Awaitable[tuple[int, list[RawAccount | None]]]]
Glance = Callable[[Sequence[str]], Awaitable[tuple[int, list[RawAccount | None]]]]

log = structlog.get_logger("account_socket.upstream")


class Reconciler:
    """
    Args:
        subscribed: the accounts that clients are subscribed to now.
        glance: reads of up to 100 accounts all but their data.
        reread: reads up to 100 accounts, at a given slot or later.
        admit: the pipeline's entrance.
        every: seconds between looks at the same account, where the nodes' limits allow.
        forks: whether the stream tells states that a fork may take back.
        settle: seconds that a doubted state is given.

    Attributes:
        retracted: how many states the node took back.
    """

    def __init__(
        self,
        ordering: Ordering,
        *,
        subscribed: Callable[[], Iterable[str]],
        glance: Glance,
        reread: Read,
        admit: Deliver,
        every: float,
        forks: bool,
        settle: float,
    ) -> None:
        self._ordering = ordering
        self._subscribed = subscribed
        self._glance = glance
        self._reread = reread
        self._admit = admit
        self._every = every
        self._forks = forks
        self._settle = settle
        self._doubted: dict[str, int] = {}
        self._soon: dict[str, None] = {}
        self._wanted = asyncio.Event()
        self._in_doubt = asyncio.Event()
        self._tries = Seldom(log)
        self._began: float | None = None
        self._took = 0.0
        self.failures = 0
        self.retracted = 0

    @property
    def period(self) -> float:
        """Seconds between two looks at the same account: `every`, or as long as the nodes' limits make it take."""
        running = 0.0 if self._began is None else time.monotonic() - self._began
        return max(self._every, self._took, running)

    async def run(self) -> None:
        """Look at the accounts with subscribers until cancelled."""
        number = 0
        while True:
            await asyncio.sleep(max(0.0, self._every - self._took))
            number += 1
            self._began = time.monotonic()
            pubkeys = list(self._subscribed())
            for at in range(0, len(pubkeys), PAGE):
                await self._look(pubkeys[at : at + PAGE], whole=self._forks or number % WHOLE_EVERY == 0)
            self._took, self._began = time.monotonic() - self._began, None

    def look_soon(self, pubkeys: Iterable[str]) -> None:
        """Have accounts looked at that the sources have only now begun to watch: they may have been closed before."""
        self._soon.update(dict.fromkeys(pubkeys))
        if self._soon:
            self._wanted.set()

    async def run_soon(self) -> None:
        """Do what `look_soon` asks for, until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(self._settle)
            self._wanted.clear()
            # What is not known yet comes by itself; read now, it would only overtake the stream.
            pubkeys, self._soon = [key for key in self._soon if self._ordering.mark(key) is not None], {}
            for at in range(0, len(pubkeys), PAGE):
                await self._look(pubkeys[at : at + PAGE], whole=False)

    async def _look(self, pubkeys: Sequence[str], *, whole: bool) -> None:
        try:
            if not whole:
                pubkeys = await self._changed_hands(pubkeys)
            if pubkeys:
                await self._compare(pubkeys)
        except SourceError as error:
            self.failures += 1
            self._tries.warning("accounts not compared with the node", error=str(error), hint=error.hint)

    async def _changed_hands(self, pubkeys: Sequence[str]) -> list[str]:
        """Take what is closed; return the accounts that must be read whole."""
        slot, glimpses = await self._glance(pubkeys)
        gone: list[RawAccount] = []
        changed: list[str] = []
        for pubkey, glimpse in zip(pubkeys, glimpses, strict=True):
            mark = self._ordering.mark(pubkey)
            if glimpse is None:
                gone.append(missing_account(pubkey, slot))
            elif self._ordering.is_closed(glimpse):
                if mark is not None and not mark.closed:
                    changed.append(pubkey)
            elif mark is None or mark.closed:
                changed.append(pubkey)
        await self._admit(gone)
        return changed

    async def _compare(self, pubkeys: Sequence[str]) -> None:
        slot, accounts = await self._reread(pubkeys, 0)
        states = [raw or missing_account(pubkey, slot) for pubkey, raw in zip(pubkeys, accounts, strict=True)]
        if self._forks:
            self.doubt(raw.pubkey for raw in states if self._ordering.disagrees(raw))
            states = [raw for raw in states if not self._ordering.disagrees(raw)]
        await self._admit(states)

    # ---- doubts --------------------------------------------------------------------------------------------

    def doubt(self, pubkeys: Iterable[str]) -> None:
        """Take accounts whose newest state may be wrong; they are read from the node unless a newer one comes."""
        for pubkey in pubkeys:
            newest = self._ordering.newest_id(pubkey)
            if newest is not None and len(self._doubted) < MAX_DOUBTED:
                self._doubted[pubkey] = newest
        if self._doubted:
            self._in_doubt.set()

    async def settle(self) -> None:
        """Settle doubts until cancelled; a node that cannot be asked is asked again for ever."""
        backoff = Backoff(*RETRY_SECONDS)
        while True:
            await self._in_doubt.wait()
            await asyncio.sleep(self._settle)
            doubted, self._doubted = self._doubted, {}
            self._in_doubt.clear()
            pending = self._unsettled(doubted)
            try:
                while pending:
                    await self._judge(pending[:PAGE])
                    pending = pending[PAGE:]
            except SourceError as error:
                self.failures += 1
                self.doubt(self._unsettled(doubted, pending))
                wait = backoff.next()
                self._tries.warning(
                    "doubted states not read yet", accounts=len(pending), error=str(error), hint=error.hint
                )
                await asyncio.sleep(wait)
            else:
                backoff.reset()

    def _unsettled(self, doubted: dict[str, int], pubkeys: Collection[str] | None = None) -> list[str]:
        return [pubkey for pubkey in pubkeys or doubted if self._ordering.newest_id(pubkey) == doubted[pubkey]]

    async def _judge(self, pubkeys: Sequence[str]) -> None:
        marks = {pubkey: mark for pubkey in pubkeys if (mark := self._ordering.mark(pubkey)) is not None}
        slot, accounts = await self._reread(pubkeys, max(mark.slot for mark in marks.values()))
        states = [raw or missing_account(pubkey, slot) for pubkey, raw in zip(pubkeys, accounts, strict=True)]
        if self._forks:
            states = [
                msgspec.structs.replace(raw, retracts=marks[raw.pubkey].slot)
                for raw in states
                if self._ordering.disagrees(raw) and self._ordering.mark(raw.pubkey) == marks[raw.pubkey]
            ]
            self.retracted += len(states)
        await self._admit(states)
