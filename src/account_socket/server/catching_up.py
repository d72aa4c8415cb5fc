"""
Going on where a client broke off: what its accounts had behind given ids, from history, then what is live.

Exactly once, and of each account in the order of ids. What comes live meanwhile is held, and tells how far history
is to be read: an update is committed before it is published, so what was held before a read is in what that read
finds; what the read finds beyond is about to come live.

That history is whole is checked, not believed: each update names the one before it, and the last one must be the
account's newest that was held. An account of which it is not, or of which too much was missed, is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from account_socket.hub.frames import Message
from account_socket.hub.hub import Answered, Hub, Target
from account_socket.hub.outbox import Batch, Outbox
from account_socket.server.held import Held
from account_socket.server.rest_parameters import RefusedError
from account_socket.server.rest_reading import RESUMING_SECONDS, STATE_SECONDS, Reads, StoreReading
from account_socket.store.base import StoredUpdate

MAX_MISSED = 10_000
"""More updates than these are not caught up with at once: the accounts that missed most are lost."""
PAGE = 64
PAGE_BYTES = 256 * 1024
"""About so much is read at once and waits for a client that does not read."""

_Result = TypeVar("_Result")

Tell = Callable[[Sequence[StoredUpdate]], Awaitable[None]]
"""Writes updates to the client; returns when there is room for more, or the client is gone."""


@dataclass(frozen=True)
class Past:
    """What catching up reads from."""

    hub: Hub
    reads: Reads
    reading: StoreReading

    def catch_up(self, after: Mapping[str, int], *, max_bytes: int, tell: Tell) -> CatchUp:
        """Return what brings one client up to date; the arguments as there."""
        return CatchUp(self.hub, self.reads, self.reading, max_bytes=max_bytes, after=after, tell=tell)


class CatchUp:
    """
    Args:
        max_bytes: the most that may wait for the client.
        after: account → the id up to which the client has everything.

    Attributes:
        reached: the accounts still caught up with → the id up to which everything was told.
        lost: the other ones → why they are not.
        answered: what the hub said of all of them.
        ended: nothing is to be told any more.
    """

    def __init__(
        self, hub: Hub, reads: Reads, reading: StoreReading, *, max_bytes: int, after: Mapping[str, int], tell: Tell
    ) -> None:
        self.reached = dict(after)
        self.lost: dict[str, str] = {}
        self.answered = Answered()
        self.ended = False
        self._hub = hub
        self._reads = reads
        self._reading = reading
        self._tell = tell
        self._outbox = Outbox(self._take, Batch(), max_bytes)
        self._held = Held(max_bytes // 2)  # all of it is put into the client's outbox at once, beside what is there
        self._page = PAGE

    async def run(self) -> None:
        """Tell what was missed. Afterwards `hand_over` in the same turn of the loop, or `end`."""
        newest_id = self._reads.newest_id()
        self._lose([key for key, after in self.reached.items() if after > newest_id], "the id is above the newest")
        await self._hold()
        while not self.ended:
            self._take()
            self._held.drop()  # what has an id is committed: the next read finds it
            untold = self._held.untold(self.reached)
            if untold:
                await self._read(untold)
                self._lose(
                    [key for key, newest in untold.items() if self.reached.get(key, newest) < newest],
                    "history does not reach back",
                )
                self._take()
            if not self._held.overflowed:
                break
        self._lose(self._held.uncommitted & self.reached.keys(), "the database could not commit")

    def hand_over(self, heir: Target) -> list[Message]:
        """Have what comes from now on sent to `heir`; return what was held, to be told before."""
        self._take()
        self._hub.hand_over(self._outbox, heir)
        return self._held.behind(self.reached)

    def drop(self, pubkeys: Collection[str]) -> None:
        """Tell nothing more of these accounts."""
        for pubkey in pubkeys:
            self.reached.pop(pubkey, None)
            self.lost.pop(pubkey, None)
        self._hub.unsubscribe(self._outbox, pubkeys)

    def end(self) -> None:
        """Tell nothing more."""
        self.ended = True
        self._hub.detach(self._outbox)

    def _take(self) -> None:
        self._held.add(self._outbox.pending)
        self._outbox.pending.clear()

    def _lose(self, pubkeys: Iterable[str], reason: str) -> None:
        lost = dict.fromkeys(pubkeys, reason)
        self.drop(lost)
        self.lost.update(lost)

    async def _hold(self) -> None:
        """Have what comes held, and wait until every account's state is among it."""
        done = asyncio.Event()

        def answer(answered: Answered) -> None:
            self.answered = answered
            done.set()

        self._hub.subscribe(self._outbox, list(self.reached), answer)
        try:
            async with asyncio.timeout(STATE_SECONDS):
                await done.wait()
        except TimeoutError:
            self._lose(list(self.reached), "the states were not read in time")

    async def _read(self, untold: Mapping[str, int]) -> None:
        """Tell the history of accounts up to the ids given."""
        try:
            ids = await self._find({pubkey: self.reached[pubkey] for pubkey in untold})
            while ids and not self.ended:
                page, ids = ids[: self._page], ids[self._page :]
                updates = await self._from_store(partial(self._reads.store.updates, page))
                size = sum(len(update.account_json) for update in updates)
                self._page = max(1, min(PAGE, self._page * PAGE_BYTES // max(size, 1)))
                news = [update for update in updates if self._is_next(update, untold[update.pubkey])]
                if news and not self.ended:
                    await self._tell(news)
        except RefusedError:
            self._lose(list(untold), "history could not be read")

    async def _find(self, after: dict[str, int]) -> list[int]:
        """Return the ids of what was missed; some accounts are lost where it is too much."""
        store = self._reads.store
        ids = await self._from_store(lambda: store.later(after, limit=MAX_MISSED + 1))
        if len(ids) <= MAX_MISSED:
            return ids
        share = MAX_MISSED // len(after)
        crowded = await self._from_store(lambda: store.crowded(after, limit=share))
        self._lose(crowded, f"more than {MAX_MISSED} updates were missed")
        rest = {pubkey: id_ for pubkey, id_ in after.items() if pubkey in self.reached}
        return await self._from_store(lambda: store.later(rest, limit=MAX_MISSED + 1)) if rest else []

    async def _from_store(self, read: Callable[[], Awaitable[_Result]]) -> _Result:
        return await self._reading(read, RESUMING_SECONDS)

    def _is_next(self, update: StoredUpdate, newest: int) -> bool:
        """Return whether an update is to be told; where one is missing before it, its account is lost."""
        reached = self.reached.get(update.pubkey)
        if reached is None or update.id > newest:
            return False
        if update.prev_id is not None and update.prev_id > reached:
            self._lose([update.pubkey], "history does not reach back")
            return False
        self.reached[update.pubkey] = update.id
        return True
