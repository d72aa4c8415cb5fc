"""
A stream that goes on where an earlier one broke off.

What its accounts had behind a given id is written from history, then what was held meanwhile, then what is live:
exactly once, in the order of ids. An update is committed before it is published, so what is published before a read
of history is in what that read finds.

That history is whole is checked, not believed: each update names the one before it, and the last one must be the
account's state. Where it is not, or too much was missed, the stream starts over with the states, and says so.
"""

from __future__ import annotations

import asyncio

from account_socket.hub.hub import Answered
from account_socket.server.rest_parameters import RefusedError
from account_socket.server.rest_reading import STATE_SECONDS, Reads, StoreReading
from account_socket.server.sse import EventStream
from account_socket.server.sse_events import STALE, EventMaker
from account_socket.server.sse_held import Held
from account_socket.store.base import StoredUpdate

MAX_MISSED = 10_000
"""More updates than these are not caught up with."""
PAGE = 64


class CannotResumeError(Exception):
    """The stream has to start over, for the reason given."""


class Resumption:
    """
    Args:
        after: the id up to which the client has everything.
    """

    def __init__(
        self, stream: EventStream, events: EventMaker, reads: Reads, reading: StoreReading, after: int
    ) -> None:
        self._stream = stream
        self._events = events
        self._reads = reads
        self._reading = reading
        self._after = after
        self._told: dict[str, int] = {}

    async def run(self) -> None:
        """Resume the stream, or have it start over."""
        if self._stream.ended:
            return
        try:
            held, stale = await self._hold()
            newest = await self._catch_up(held)
        except CannotResumeError as error:
            self._stream.start_over(str(error))
        except RefusedError:
            self._stream.start_over("history could not be read")
        else:
            if stale:
                self._stream.write(STALE)
            self._stream.follow(newest, held.behind(self._told, self._after))

    async def _hold(self) -> tuple[Held, bool]:
        """
        Subscribe, have what comes held, and wait until every account's state is among it.

        Returns:
            What is held, and whether a state may not be the newest.
        """
        if self._after > self._reads.newest_id():
            raise CannotResumeError("the id is above the newest")
        answered: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        held = self._stream.hold(lambda answer: None if answered.done() else answered.set_result(answer))
        try:
            async with asyncio.timeout(STATE_SECONDS):
                stale = (await answered).stale
        except TimeoutError as error:
            raise CannotResumeError("the states were not read in time") from error
        return held, stale

    async def _catch_up(self, held: Held) -> int:
        """Write what was missed; return the id up to which everything is written but for what is held."""
        stream, store = self._stream, self._reads.store
        position, missed = self._after, 0
        while not stream.ended:
            stream.take_held()
            held.drop()  # it is committed: the next read finds it
            if held.is_told(self._told, self._after):
                break
            before = dict(held.dropped)
            after, room = position, MAX_MISSED - missed + 1
            ids = await self._reading(lambda: store.later(stream.pubkeys, after=after, limit=room))  # noqa: B023  (called before the loop goes on)
            missed += len(ids)
            if missed > MAX_MISSED:
                raise CannotResumeError(f"more than {MAX_MISSED} updates were missed")
            await self._write(ids)
            position = max([position, *ids[-1:]])
            if any(newest > self._told.get(pubkey, self._after) for pubkey, newest in before.items()):
                raise CannotResumeError("history does not reach back")
            stream.take_held()
            if not held.overflowed:
                break
        if held.uncommitted:
            raise CannotResumeError("the database could not commit")
        return position

    async def _write(self, ids: list[int]) -> None:
        stream = self._stream
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            updates = await self._reading(lambda: self._reads.store.updates(page))  # noqa: B023  (as above)
            if len(updates) != len(page):
                raise CannotResumeError("history was deleted meanwhile")
            for update in updates:
                self._check_chain(update)
            told = [self._events.stored(each.pubkey, each.id, each.account_json) for each in updates]
            stream.write(b"".join(told))
            stream.outbox.sent += len(told)
            await stream.writable.wait()  # who takes too long is closed, which ends the waiting too
            if stream.ended:
                return

    def _check_chain(self, update: StoredUpdate) -> None:
        before, told = update.prev_id, self._told.get(update.pubkey)
        if before is not None and (before > self._after if told is None else before != told):
            raise CannotResumeError("history does not reach back")
        self._told[update.pubkey] = update.id
