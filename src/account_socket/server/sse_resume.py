"""
A stream that goes on where an earlier one broke off.

Everything of its accounts behind a given id is written from history, then what is live: exactly once, in the order
of ids. An update is committed before it is published, so what is published before a read of history began is in what
that read finds; only what comes during the last read, which finds nothing more, has to be held.

That history is whole is checked, not believed: each update names the one before it, and the last one must be the
account's state. Where it is not, or too much was missed, the stream starts over with the states, and says so.
"""

from __future__ import annotations

import asyncio

from account_socket.hub.hub import Answered, Hub
from account_socket.server.rest_parameters import RefusedError
from account_socket.server.rest_reading import STATE_SECONDS, Reads, StoreReading
from account_socket.server.sse import EventStream
from account_socket.server.sse_events import EventMaker, id_of
from account_socket.store.base import StoredUpdate

MAX_MISSED = 10_000
"""More updates than these are not caught up with."""
PAGE = 64
LOOK_SECONDS = 1.0


class CannotResumeError(Exception):
    """The stream has to start over, for the reason given."""


class Resumption:
    """
    Args:
        after: the id up to which the client has everything.
    """

    def __init__(
        self, stream: EventStream, hub: Hub, events: EventMaker, reads: Reads, reading: StoreReading, after: int
    ) -> None:
        self._stream = stream
        self._hub = hub
        self._events = events
        self._reads = reads
        self._reading = reading
        self._after = after
        self._told: dict[str, int] = {}
        self._known: dict[str, int] = {}

    async def run(self) -> None:
        """Resume the stream, or have it start over."""
        try:
            newest = await self._catch_up()
        except CannotResumeError as error:
            self._stream.start_over(str(error))
        except RefusedError:
            self._stream.start_over("history could not be read")
        else:
            if not self._stream.lost:
                self._stream.follow(newest)

    async def _catch_up(self) -> int:
        stream, store = self._stream, self._reads.store
        if self._after > self._reads.newest_id():
            raise CannotResumeError("the id is above the newest")
        stream.holding = True
        await self._subscribe()
        position, missed = self._after, 0
        while not stream.lost:
            self._drop_held()
            after, room = position, MAX_MISSED - missed + 1
            ids = await self._reading(lambda: store.later(stream.pubkeys, after=after, limit=room))  # noqa: B023
            if not ids:
                break
            missed += len(ids)
            if missed > MAX_MISSED:
                raise CannotResumeError(f"more than {MAX_MISSED} updates were missed")
            await self._write(ids)
            position = ids[-1]
        self._check_whole()
        return position

    async def _subscribe(self) -> None:
        """Have everything that is published from now on held, and know each account's newest state."""
        answered: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._hub.subscribe(
            self._stream.outbox,
            self._stream.pubkeys,
            lambda answer: None if answered.done() else answered.set_result(answer),
        )
        try:
            async with asyncio.timeout(STATE_SECONDS):
                stale = (await answered).stale
        except TimeoutError as error:
            raise CannotResumeError("the states were not read in time") from error
        if stale:
            raise CannotResumeError("a state may not be the newest")

    def _drop_held(self) -> None:
        """Forget what is committed already, since history tells it; but know what the newest states are."""
        stream = self._stream
        for message in (*stream.held, *stream.outbox.pending):
            id_ = id_of(message.frame)
            if id_ is None:
                raise CannotResumeError("the database could not commit")
            assert message.key is not None  # a stream is sent nothing but states
            self._known[message.key] = max(id_, self._known.get(message.key, 0))
        stream.held.clear()
        stream.outbox.pending.clear()

    async def _write(self, ids: list[int]) -> None:
        stream = self._stream
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            updates = await self._reading(lambda: self._reads.store.updates(page))  # noqa: B023
            if len(updates) != len(page):
                raise CannotResumeError("history was deleted meanwhile")
            for update in updates:
                self._check_chain(update)
            told = [self._events.stored(each.pubkey, each.id, each.account_json) for each in updates]
            stream.write(b"".join(told))
            while not stream.writable.is_set():
                self._drop_held()
                await self._wait_writable()
            if stream.lost:
                return
            self._drop_held()

    async def _wait_writable(self) -> None:
        """Wait for a slow client, looking after what is held now and then."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._stream.writable.wait()
        except TimeoutError:
            return

    def _check_chain(self, update: StoredUpdate) -> None:
        before, told = update.prev_id, self._told.get(update.pubkey)
        if before is not None and (before > self._after if told is None else before != told):
            raise CannotResumeError("history does not reach back")
        self._told[update.pubkey] = update.id

    def _check_whole(self) -> None:
        for pubkey, newest in self._known.items():
            if newest > max(self._told.get(pubkey, 0), self._after):
                raise CannotResumeError("history does not reach back")
