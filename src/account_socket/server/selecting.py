"""What a connection does with numbered subscriptions: they are begun, told what was there before, and ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec
import structlog

from account_socket.hub.hub import Answered
from account_socket.hub.numbered import Numbered
from account_socket.hub.outbox import Outbox
from account_socket.hub.selections import Paging
from account_socket.hub.shapers import Shaper
from account_socket.hub.shapes import Shape
from account_socket.protocol import messages
from account_socket.protocol.messages import Deselect
from account_socket.protocol.resume import Resume
from account_socket.protocol.selection import Select
from account_socket.server.clients import Clients
from account_socket.server.filter_check import filter_of, shape_of
from account_socket.server.selection_catch_up import LostError, SelectionCatchUp
from account_socket.server.state_pages import Account

ROOM_SECONDS = 0.02
"""How often it is looked whether a client has taken its page."""
AGAIN_SECONDS = 1.0
"""When a page that could not be read is read again."""

encode = msgspec.json.Encoder().encode

log = structlog.get_logger("account_socket.websocket")


class Selecting:
    """
    The numbered subscriptions of one connection.

    Args:
        client: who is told of them.
    """

    def __init__(self, client: Selector, clients: Clients) -> None:
        self._client = client
        self._clients = clients
        self._numbered = Numbered(clients.hub, clients.rates, client.outbox)
        self._waiting: deque[tuple[int, Paging, Select]] = deque()
        self._told: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self, sub: int, request: Select) -> None:
        """Begin a subscription; by filter its ack comes first, by name the states do."""
        shape, every = shape_of(request), request.delivery == "every"
        if request.pubkeys and request.resume is not None:
            target = self._numbered.name(sub, request.pubkeys, shape, every=every)
            self._client.resume(request, request.resume, target, sub)
            return
        if request.pubkeys:
            done = partial(self._followed, request, sub)
            self._numbered.follow(sub, request.pubkeys, shape, every=every, done=done)
            return
        self._begin_by_filter(sub, request, shape, every=every)

    def _begin_by_filter(self, sub: int, request: Select, shape: Shape, *, every: bool) -> None:
        readable = self._clients.pages is not None and self._clients.past is not None
        resumes = readable and self._can_resume(request)
        pages = readable and request.snapshot and not resumes
        paging = self._numbered.select(
            sub, filter_of(request), shape, every=every, from_id=self._published_id, pages=pages, resumes=resumes
        )
        if request.is_whole:
            paging.told = self._told
        if request.id is not None:
            self._answer(messages.select_ack(request.id, self._clients.epoch, sub))
        if not pages and not resumes:
            self._answer(messages.snapshot_end(sub, 0, recovered=None if request.resume is None else False))
            return
        self._waiting.append((sub, paging, request))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._tell_all())

    @property
    def _published_id(self) -> int:
        pages = self._clients.pages
        return self._clients.hub.published_id if pages is None else pages.published_id

    def _can_resume(self, request: Select) -> bool:
        return request.resume is not None and request.resume.epoch == self._clients.epoch and request.is_whole

    def _followed(self, request: Select, sub: int, answered: Answered) -> None:
        if request.id is None or self._client.gone:
            return
        self._answer(
            messages.subscribe_ack(
                request.id,
                self._clients.epoch,
                answered.found,
                answered.foreign,
                stale=answered.stale,
                unrecovered=None if request.resume is None else list(request.resume.after),
                sub=sub,
            )
        )

    def drop(self, request: Deselect) -> None:
        """End a subscription."""
        self._numbered.drop(request.sub, self._client.end_resuming)
        if request.id is not None:
            self._answer(messages.unsubscribe_ack(request.id, self._clients.epoch))

    def end(self) -> None:
        """End all: the client is gone."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._waiting.clear()
        self._numbered.end()

    def _answer(self, payload: bytes) -> None:
        self._clients.hub.answer(self._client.outbox, payload)

    # ---- what was there before -------------------------------------------------------------------------------

    async def _tell_all(self) -> None:
        """Tell one subscription after the other: a client has one page in memory, however many it asked for."""
        try:
            while self._waiting:
                sub, paging, request = self._waiting.popleft()
                recovered = await self._recover(sub, paging, request)
                if not recovered and not paging.ended:
                    await self._tell_pages(sub, paging, resumed=request.resume is not None)
            self._told.clear()
        except Exception:  # our bug must cost this client only
            log.exception("telling states failed")
            self._client.abort()
        self._task = None

    async def _recover(self, sub: int, paging: Paging, request: Select) -> bool:
        """Tell a subscription what it missed; return whether nothing more is to be told. Else pages are to come."""
        if request.resume is None or not self._can_resume(request):
            return False
        clients = self._clients
        assert clients.pages is not None  # else nobody waits
        assert clients.past is not None
        catch_up = SelectionCatchUp(
            clients.hub,
            clients.pages,
            clients.past.reads,
            paging,
            after_id=request.resume.after_id or 0,
            max_bytes=clients.limits.outbox_max_bytes // 2,
            covers=partial(self._covers, paging),
            tell=self._write,
        )
        try:
            await catch_up.run()
        except LostError as lost:
            log.debug("subscription not resumed", sub=sub, reason=str(lost))
            if not paging.ended:
                self._begin_anew(sub, paging, request.resume.after_id or 0, pages=request.snapshot)
                await catch_up.take_back()
            return not request.snapshot
        if not paging.ended:
            self._answer(messages.snapshot_end(sub, catch_up.told, recovered=True))
        return True

    def _begin_anew(self, sub: int, paging: Paging, after_id: int, *, pages: bool) -> None:
        self._clients.hub.selections.begin_anew(paging, from_id=after_id, pages=pages)
        paging.after = ""
        if not pages:
            self._answer(messages.snapshot_end(sub, 0, recovered=False))

    def _covers(self, paging: Paging, pubkey: str, account: Account, id: int, *, leaves: bool = False) -> bool:
        if pubkey in self._client.outbox.pubkeys:
            return True
        if self._numbered.is_single:
            return False
        if account.closed:
            return pubkey in paging.target.pubkeys
        data_json = encode(account.data_json)
        kind, owner = account.account_type, account.owner
        return self._numbered.covers(
            paging, pubkey, id, account_type=kind, owner=owner, data_json=data_json, leaves=leaves
        )

    async def _write(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            self._answer(payload)
        await self._room()

    async def _room(self) -> None:
        """Return when the client was written everything so far."""
        while not self._client.takes_more or self._client.outbox.pending:  # noqa: ASYNC110  (polled only behind a page)
            await asyncio.sleep(ROOM_SECONDS if not self._client.takes_more else 0)

    async def _tell_pages(self, sub: int, paging: Paging, *, resumed: bool) -> None:
        pages = self._clients.pages
        assert pages is not None  # else nobody waits
        told, more = 0, True
        while more:
            await self._room()
            if paging.ended:
                return
            page = await pages.tell(paging)
            if paging.ended:
                return
            if page is None:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            told += page[0]
            more = page[1] is not None
        paging.selection.known = True
        self._clients.hub.selections.settle(paging)
        self._answer(messages.snapshot_end(sub, told, recovered=False if resumed else None))


class Selector(Protocol):
    """A connection, as far as subscriptions need it."""

    outbox: Outbox

    @property
    def takes_more(self) -> bool:
        """Whether the client was written everything so far."""

    @property
    def gone(self) -> bool:
        """Whether nothing is sent any more."""

    def resume(self, request: Select, resume: Resume, target: Shaper, sub: int) -> None:
        """Have it told what it missed, and `target` sent what comes."""

    def end_resuming(self, target: Shaper, pubkeys: Sequence[str]) -> None:
        """Have nothing more told of these accounts."""

    def abort(self) -> None:
        """Cut the client off."""
