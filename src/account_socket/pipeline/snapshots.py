"""
The newest state of accounts that are not in memory: from the cache, else the store, else the node.

A value counts only if its id is the account's last id. If it is not, a newer one is on its way through the pipeline
and answers by itself when it is published. Accounts that nobody here knows, and those whose state a gap makes
doubtful, are read from the node: reads that clients cause are joined, rate-limited, and misses are remembered, so
that no client can turn its requests into a load on the node. What the node tells goes through the pipeline like
everything else. Where the node cannot tell, what is known is told as stale.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

import structlog

from account_socket.cache.base import Cache
from account_socket.errors import AccountSocketError, StoreError
from account_socket.hub.hub import Hub
from account_socket.logs import Seldom
from account_socket.model import RawAccount, StoredState, missing_account
from account_socket.pipeline.gaps import Gaps
from account_socket.pipeline.ordering import Ordering
from account_socket.sources.base import Deliver
from account_socket.store.base import Store

PATIENCE_SECONDS = 5.0
"""How long a client waits for the state of an account before it is told that none was found."""
PAGE = 500
MISS_SECONDS = 60.0
MAX_MISSES = 100_000
MAX_LOOKUP = 100
LOOKUPS_AT_ONCE = 4

Recall = Callable[[Sequence[str]], Awaitable[None]]
Lookup = Callable[[Sequence[str], int], Awaitable[tuple[int, list[RawAccount | None]]]]
"""Reads up to 100 accounts, at a given slot or later, within the budget of reads that clients cause."""

log = structlog.get_logger("account_socket.database")


class Snapshots:
    """
    Args:
        lookup: see `Lookup`; None when there is no node to ask.
    """

    def __init__(
        self,
        *,
        ordering: Ordering,
        gaps: Gaps,
        cache: Cache,
        store: Store,
        lookup: Lookup | None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._ordering = ordering
        self._first_id = ordering.next_id
        self._gaps = gaps
        self._cache = cache
        self._store = store
        self._lookup = lookup
        self._patience = patience
        self._hub: Hub | None = None
        self._admit: Deliver | None = None
        self._recheck: Callable[[Iterable[str]], None] = lambda _: None
        self._unknown: dict[str, float] = {}
        self._misses: OrderedDict[str, tuple[float, bool]] = OrderedDict()
        self._wanted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tries = Seldom(log)
        self.lookups = 0
        self.lookup_errors = 0

    def attach(self, hub: Hub, admit: Deliver, recall: Recall, recheck: Callable[[Iterable[str]], None]) -> None:
        """
        Close the circle.

        Args:
            hub: whose clients wait for what is read here.
            admit: the pipeline's entrance.
            recall: has the order of accounts in memory.
            recheck: told of accounts that were served stale, to be re-read when the node can tell.
        """
        self._hub = hub
        self._admit = admit
        self._recall = recall
        self._recheck = recheck

    @property
    def hub(self) -> Hub:
        assert self._hub is not None, "attach a hub first"
        return self._hub

    def trusts(self, pubkey: str) -> bool:
        """Whether what is known of `pubkey` is its newest state as far as anybody knows."""
        mark = self._ordering.mark(pubkey)
        return mark is not None and self._gaps.trusts(mark.slot)

    def is_foreign(self, pubkey: str) -> bool:
        """Whether the node said that an account belongs to another program, and it was not ours since."""
        missed = self._misses.get(pubkey)
        return missed is not None and missed[1] and self._ordering.mark(pubkey) is None

    def load(self, pubkeys: Sequence[str]) -> None:
        """Start reading `pubkeys`; the hub is told of each within four times `patience`, found or not."""
        if self._ordering.unread(pubkeys):
            self._spawn(self._recall_and_read(pubkeys))
        else:
            self._start_reading(pubkeys)

    async def _recall_and_read(self, pubkeys: Sequence[str]) -> None:
        await self._recall(pubkeys)
        self._start_reading(pubkeys)

    def _start_reading(self, pubkeys: Sequence[str]) -> None:
        known = [pubkey for pubkey in pubkeys if self._readable(pubkey)]
        for at in range(0, len(known), PAGE):
            self._spawn(self._read(known[at : at + PAGE], last_resort=False))
        self._ask([pubkey for pubkey in pubkeys if not self._readable(pubkey)])

    def _readable(self, pubkey: str) -> bool:
        return self.trusts(pubkey) or (self.hub.stale and self._ordering.mark(pubkey) is not None)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- accounts that we know -----------------------------------------------------------------------------

    async def _read(self, pubkeys: Sequence[str], *, last_resort: bool) -> None:
        """Answer from memory, cache and store; what these cannot tell in time is asked of the node, or given up."""
        deadline = time.monotonic() + self._patience
        in_memory = {pubkey: state for pubkey in pubkeys if (state := self.hub.newest(pubkey)) is not None}
        missing = self._settle(pubkeys, in_memory, "cache")
        if missing:
            missing = self._settle(missing, await self._cache.get(missing), "cache")
        pause = 0.02
        while missing and time.monotonic() < deadline:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                    missing = self._settle(missing, await self._store.states(missing), "database")
            except TimeoutError:
                break
            except StoreError as error:
                self._tries.warning("state not read", error=str(error), hint=error.hint)
            if missing:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)
        missing = [pubkey for pubkey in missing if self.hub.waits_for(pubkey)]
        for pubkey in missing:
            if last_resort:
                self.hub.settle(pubkey, None, "database")
            else:
                # The store cannot tell: the node's answer must count as news, so that it is published.
                self._ordering.forget_content(pubkey)
        if not last_resort:
            self._ask(missing)

    def _settle(self, pubkeys: Sequence[str], states: dict[str, StoredState], source: str) -> list[str]:
        """Answer with those of `states` that are the newest; return the pubkeys that still wait."""
        missing = []
        for pubkey in pubkeys:
            state = states.get(pubkey)
            mark = self._ordering.mark(pubkey)
            if state is not None and mark is not None and state.id == mark.id and self._was_published(state.id):
                stale = self.hub.stale or not self._gaps.trusts(mark.slot)
                self.hub.settle(pubkey, state, source, stale=stale)
                if stale:
                    self._recheck((pubkey,))
            elif self.hub.waits_for(pubkey):
                missing.append(pubkey)
        return missing

    def _was_published(self, id: int) -> bool:
        # What is committed and not published yet is about to come by itself; told from here it would come twice.
        return id < self._first_id or id <= self.hub.published_id

    # ---- accounts that only the node may know --------------------------------------------------------------

    def _ask(self, pubkeys: Sequence[str]) -> None:
        now = time.monotonic()
        for pubkey in pubkeys:
            missed = self._misses.get(pubkey)
            if missed is not None and missed[0] > now and self._ordering.mark(pubkey) is None:
                self.hub.settle(pubkey, None, "rpc", foreign=missed[1])
            else:
                self._unknown.setdefault(pubkey, now + self._patience)
        if self._unknown:
            self._wanted.set()

    def _give_up(self, pubkeys: Sequence[str]) -> None:
        """The node cannot tell: what is known is told as stale, and nothing of what is not."""
        known = [pubkey for pubkey in pubkeys if self._ordering.mark(pubkey) is not None]
        if known:
            self._spawn(self._read(known, last_resort=True))
            self._recheck(known)
        for pubkey in pubkeys:
            if self._ordering.mark(pubkey) is None:
                self.hub.settle(pubkey, None, "rpc")

    async def run(self) -> None:
        """Ask the node for what is wanted, until cancelled; then end what is still being read."""
        try:
            await self._ask_for_ever()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_for_ever(self) -> None:
        places = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        while True:
            await self._wanted.wait()
            await places.acquire()
            batch = self._next_batch()
            if not batch:
                places.release()
                continue
            self._spawn(self._look_up(batch, places))

    def _next_batch(self) -> list[str]:
        now = time.monotonic()
        batch: list[str] = []
        late: list[str] = []
        for pubkey, deadline in list(self._unknown.items())[: MAX_LOOKUP * 10]:
            if len(batch) == MAX_LOOKUP:
                break
            del self._unknown[pubkey]
            if deadline < now or self._lookup is None:
                late.append(pubkey)
            elif self.hub.waits_for(pubkey):
                batch.append(pubkey)
        self._give_up(late)
        if not self._unknown:
            self._wanted.clear()
        return batch

    async def _look_up(self, batch: list[str], places: asyncio.Semaphore) -> None:
        try:
            await self._ask_node(batch)
        finally:
            places.release()

    async def _ask_node(self, batch: list[str]) -> None:
        assert self._lookup is not None
        self.lookups += 1
        at_least = 0 if all(self._ordering.mark(pubkey) is None for pubkey in batch) else self._gaps.floor
        try:
            async with asyncio.timeout(self._patience):
                slot, accounts = await self._lookup(batch, at_least)
        except (AccountSocketError, TimeoutError) as error:
            self.lookup_errors += 1
            self._tries.warning(
                "accounts not read from the node", accounts=len(batch), error=str(error) or "timed out"
            )
            if len(batch) > 1 and not getattr(error, "retryable", True):
                # One account makes no sense; the others must not suffer for it.
                middle = len(batch) // 2
                await asyncio.gather(self._ask_node(batch[:middle]), self._ask_node(batch[middle:]))
            else:
                self._give_up(batch)
        else:
            await self._take(
                batch, [raw or missing_account(pubkey, slot) for pubkey, raw in zip(batch, accounts, strict=True)]
            )

    async def _take(self, batch: list[str], accounts: list[RawAccount]) -> None:
        news = []
        for pubkey, raw in zip(batch, accounts, strict=True):
            if self._ordering.mark(pubkey) is None and self._ordering.is_closed(raw):
                foreign = raw.lamports > 0
                self._remember_miss(pubkey, foreign=foreign)
                self.hub.settle(pubkey, None, "rpc", foreign=foreign)
            else:
                news.append(raw)
        before = {raw.pubkey: self._ordering.mark(raw.pubkey) for raw in news}
        if news:
            assert self._admit is not None, "attach a pipeline first"
            await self._admit(news)
        # Not admitted as news: it is as we know it, or the node is behind what we know.
        unchanged = [
            pubkey
            for pubkey, mark in before.items()
            if mark is not None and mark.id == self._ordering.newest_id(pubkey) and self.hub.waits_for(pubkey)
        ]
        if unchanged:
            await self._read(unchanged, last_resort=True)

    def _remember_miss(self, pubkey: str, *, foreign: bool) -> None:
        self._misses[pubkey] = (time.monotonic() + MISS_SECONDS, foreign)
        self._misses.move_to_end(pubkey)
        if len(self._misses) > MAX_MISSES:
            self._misses.popitem(last=False)

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        return {
            "lookups": self.lookups,
            "lookup_errors": self.lookup_errors,
            "wanted": len(self._unknown),
            "misses": len(self._misses),
        }
