"""
One WebSocket client's requests to go on where it broke off, one after the other.

The accounts of such a request count as subscribed from the start. What was missed is written as answers, which
nothing replaces, a page whenever the client has taken the one before; then comes the ack, then what was held
meanwhile. An account of which that cannot be done is subscribed to as if it were new, before the ack.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from account_socket.hub.frames import Message, id_of, past_payload, text_frame
from account_socket.hub.hub import Answered, Hub, Target
from account_socket.hub.outbox import Outbox
from account_socket.hub.shapers import RatedShaper, Shaper
from account_socket.protocol.codes import Close
from account_socket.protocol.messages import Subscribe, subscribe_ack
from account_socket.protocol.resume import Resume
from account_socket.protocol.selection import Select
from account_socket.server.catching_up import CatchUp, Past
from account_socket.store.base import StoredUpdate

MAX_WAITING = 4
"""More requests than these waiting, and the client is not read from: each may name a thousand accounts."""

log = structlog.get_logger("account_socket.websocket")


class Resumable(Protocol):
    """A client that may be told what it missed."""

    number: int
    outbox: Outbox

    @property
    def takes_more(self) -> bool:
        """Whether it was written everything so far."""

    def close(self, close: Close) -> None:
        """Say why, and end."""

    def read_on(self) -> None:
        """Read from it again, if there is room for what that asks for."""


@dataclass(eq=False)
class _Request:
    """
    Attributes:
        target: where states of its accounts are put: the client's outbox, or that of a numbered subscription.
        sub: the number of that.
        again: the accounts that are subscribed to already.
        lost: those that it is not resumed of.
    """

    subscribe: Subscribe | Select
    resume: Resume
    target: Target
    sub: int | None
    after: Mapping[str, int]
    again: list[str]
    lost: list[str] = field(default_factory=list)
    found: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)
    stale: bool = False

    def note(self, answered: Answered, pubkeys: Collection[str]) -> None:
        """Keep what the hub said of `pubkeys` for the ack."""
        self.found.update(pubkey for pubkey in answered.found if pubkey in pubkeys)
        self.foreign.update(pubkey for pubkey in answered.foreign if pubkey in pubkeys)
        self.stale |= answered.stale

    def ack(self, epoch: str) -> bytes | None:
        """Return the ack, if one was asked for."""
        if self.subscribe.id is None:
            return None
        found, foreign = (
            [key for key in self.subscribe.pubkeys if key in some] for some in (self.found, self.foreign)
        )
        return subscribe_ack(
            self.subscribe.id, epoch, found, foreign, stale=self.stale, unrecovered=self.lost, sub=self.sub
        )


class Resumer:
    """
    Args:
        past: what history is read from; None: there is none, and nothing is resumed.
        max_bytes: the most that may wait for the client.
    """

    def __init__(self, client: Resumable, hub: Hub, epoch: str, past: Past | None, max_bytes: int) -> None:
        self._client = client
        self._hub = hub
        self._epoch = epoch
        self._past = past
        self._max_bytes = max_bytes
        self._queue: deque[_Request] = deque()
        self._reserved: dict[tuple[Target, str], _Request] = {}
        self._catch_up: CatchUp | None = None
        self._resumed: Target | None = None
        self._room = asyncio.Event()
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    def add(self, subscribe: Subscribe | Select, resume: Resume, target: Target, sub: int | None = None) -> None:
        """Take a request that has an `after`; the arguments as in `_Request`."""
        plain, pubkeys = self._client.outbox, target.pubkeys
        again = [pubkey for pubkey in subscribe.pubkeys if pubkey in pubkeys]
        # What comes without a number does not come with one too (hub/shapers.py): nothing of it is missed.
        comes = plain.pubkeys if _is_silent_beside(target) else ()
        after = {pubkey: id_ for pubkey, id_ in resume.after.items() if pubkey not in comes}
        request = _Request(subscribe, resume, target, sub, after, again)
        for pubkey in subscribe.pubkeys:
            if pubkey not in pubkeys:
                pubkeys[pubkey] = None
                self._reserved[target, pubkey] = request
                if target is plain:
                    plain.resuming[pubkey] = []
        self._queue.append(request)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def full(self) -> bool:
        """Whether no more requests should be taken."""
        return len(self._queue) >= MAX_WAITING

    def drop(self, target: Target, pubkeys: Iterable[str]) -> None:
        """Have nothing more told of these accounts: the client unsubscribes."""
        dropped = [pubkey for pubkey in pubkeys if (target, pubkey) in self._reserved]
        catch_up = self._catch_up if self._resumed is target else None
        reached = {} if catch_up is None else catch_up.reached
        kept = self._client.outbox.resuming if target is self._client.outbox else {}
        for pubkey in dropped:  # a numbered subscription has been silent for their sake
            for message in kept.get(pubkey, ()):
                if (id_ := id_of(message.frame)) is None or id_ > reached.get(pubkey, 0):
                    self._hub.send(self._client.outbox, message)
        self._release(target, dropped)
        if catch_up is not None:
            catch_up.drop(dropped)

    def wake(self) -> None:
        """Take that something was written."""
        if self._client.takes_more:
            self._room.set()

    def end(self) -> None:
        """Take that the client is gone, or about to go."""
        self._ended = True
        self._room.set()
        for target, pubkey in list(self._reserved):
            self._release(target, [pubkey])
        if self._catch_up is not None:
            self._catch_up.end()

    def _release(self, target: Target, pubkeys: Iterable[str]) -> None:
        for pubkey in pubkeys:
            del self._reserved[target, pubkey]
            del target.pubkeys[pubkey]
            if target is self._client.outbox:
                del target.resuming[pubkey]

    def _waits(self, request: _Request, pubkey: str) -> bool:
        return self._reserved.get((request.target, pubkey)) is request

    async def _run(self) -> None:
        try:
            while self._queue and not self._ended:
                await self._resume(self._queue.popleft())
                self._client.read_on()
        except Exception:  # our bug must cost this client only
            log.exception("client not resumed", conn=self._client.number)
            self._client.close(Close.INTERNAL)
        finally:
            self._task = None

    async def _resume(self, request: _Request) -> None:
        await self._subscribe_new(request)
        after = {pubkey: id_ for pubkey, id_ in request.after.items() if self._waits(request, pubkey)}
        if self._past is None or request.resume.epoch != self._epoch:
            self._start_over(request, after, after)
            return
        if isinstance(request.target, RatedShaper):  # the newest is told alone, and that is the state
            newest_id = self._past.reads.newest_id()
            request.target.resume({pubkey: id_ for pubkey, id_ in after.items() if id_ <= newest_id})
            self._start_over(request, after, [pubkey for pubkey, id_ in after.items() if id_ > newest_id])
            return
        catch_up = self._past.catch_up(after, max_bytes=self._max_bytes, tell=self._tell)
        self._catch_up, self._resumed = catch_up, request.target
        try:
            await catch_up.run()
            if not self._ended:
                request.note(catch_up.answered, catch_up.reached)
                self._start_over(request, catch_up.lost, catch_up.lost)
                self._follow(request.target, catch_up)
        finally:
            catch_up.end()
            self._catch_up = self._resumed = None

    async def _subscribe_new(self, request: _Request) -> None:
        """Subscribe to the accounts without an `after`, and ask again for those that there is a subscription to."""
        target = request.target
        new = [key for key in request.subscribe.pubkeys if key not in request.after and self._waits(request, key)]
        self._release(target, new)
        done = asyncio.Event()

        def note(answered: Answered) -> None:
            request.note(answered, request.subscribe.pubkeys)
            done.set()

        self._hub.subscribe(target, [*new, *(key for key in request.again if key in target.pubkeys)], note)
        await done.wait()

    def _start_over(self, request: _Request, pubkeys: Collection[str], lost: Collection[str]) -> None:
        """Subscribe to accounts as if they were new, and answer the request: of these, some are lost."""
        new = [pubkey for pubkey in pubkeys if self._waits(request, pubkey)]
        request.lost = [pubkey for pubkey in new if pubkey in lost]
        self._release(request.target, new)

        def answer(answered: Answered) -> None:
            request.note(answered, new)
            ack = request.ack(self._epoch)
            if ack is not None and not self._ended:
                self._hub.answer(self._client.outbox, ack)

        self._hub.subscribe(request.target, new, answer)

    async def _tell(self, updates: Sequence[StoredUpdate]) -> None:
        outbox, target = self._client.outbox, self._resumed
        if _is_silent_beside(target):  # what is subscribed to without a number meanwhile: its state came
            updates = [update for update in updates if update.pubkey not in outbox.pubkeys]
        if not updates:
            return  # nothing will be written, and there is no room to wait for
        for update in updates:
            payload = past_payload(update.pubkey, update.account_json, update.event)
            whole = Message(text_frame(payload), update.pubkey)
            self._hub.send(outbox, target.past(whole) if isinstance(target, Shaper) else Message(whole.frame))
        self._room.clear()
        await self._room.wait()

    def _follow(self, target: Target, catch_up: CatchUp) -> None:
        for pubkey in catch_up.reached:
            del self._reserved[target, pubkey]
            if target is self._client.outbox:
                del target.resuming[pubkey]
        for message in catch_up.hand_over(target):
            self._hub.send(target, message)


def _is_silent_beside(target: Target | None) -> bool:
    """Whether nothing of an account comes here that comes without a number; other shapes tell something else."""
    return type(target) is Shaper
