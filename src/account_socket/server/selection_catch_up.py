"""
Going on where a subscription by filter broke off: what concerns it behind one id, from history, then what is live.

Exactly once, and in the order of ids. Three things happen, the first two side by side:

    history behind the id is looked through, row by row, up to what was published;
    of each account it is noted whether the filter selects it now, so that whoever holds it learns that it leaves;
    what comes live is held, history is looked through up to there, and in one turn of the loop both are joined.

An update is committed before it is published, so what was published before a read is in what that read finds. That
history is whole is checked, not believed: by the store's mark, and as each update names the one before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from account_socket.decode.decoder import UNKNOWN
from account_socket.errors import StoreError
from account_socket.hub.frames import past_payload
from account_socket.hub.hub import Hub
from account_socket.hub.selections import PageRead, Paging
from account_socket.model import StoredState
from account_socket.server.rest_reading import Reads
from account_socket.server.state_pages import Account, StatePages, read_account
from account_socket.store.base import StoredUpdate

MAX_LOOKED_AT = 50_000
"""More updates than these behind the id are not looked through: the states that are selected now come sooner."""
PAGE = 128
"""Updates that the loop looks at in some two milliseconds."""
PAGE_BYTES = 256 * 1024
"""About so much is read at once and waits for a client that does not read."""
READ_SECONDS = 10.0
AGAIN_SECONDS = 1.0
"""When a page that could not be read is read again."""

_Result = TypeVar("_Result")


class Covers(Protocol):
    """Whether the client is told an update by another of its subscriptions; `leaves`: as it leaves this one."""

    def __call__(self, pubkey: str, account: Account, id: int, *, leaves: bool = False) -> bool: ...


Tell = Callable[[Sequence[bytes]], Awaitable[None]]
"""Writes payloads to the client; returns when there is room for more, or the client is gone."""


class LostError(Exception):
    """What was missed cannot be told; the message says why."""


@dataclass(slots=True)
class _Seen:
    """
    What the last update of an account that was looked at said.

    Attributes:
        fitted: whether it was selected, and so is held by the client.
        covered: whether another subscription of the client told of it.
    """

    id: int
    fitted: bool
    covered: bool


class SelectionCatchUp:
    """
    Args:
        paging: a subscription that joined with `resumes`.
        after_id: the id up to which the client has everything.
        max_bytes: how much may be held.

    Attributes:
        told: how many updates were told.
    """

    def __init__(
        self,
        hub: Hub,
        pages: StatePages,
        reads: Reads,
        paging: Paging,
        *,
        after_id: int,
        max_bytes: int,
        covers: Covers,
        tell: Tell,
    ) -> None:
        self._hub = hub
        self._pages = pages
        self._reads = reads
        self._paging = paging
        self._after_id = self._at = after_id
        self._max_bytes = max_bytes
        self._covers = covers
        self._tell = tell
        self._began_at = pages.published_id
        self._looked_at = 0
        self._page = PAGE
        self._seen: dict[str, _Seen] = {}
        self.told = 0

    async def run(self) -> None:
        """
        Tell what was missed, then have the subscription follow what is live; return early when it was ended.

        Raises:
            LostError: it does not follow; some updates may have been told, `paging.told` says which.
        """
        if self._after_id > self._reads.newest_id():
            raise LostError("the id is above the newest")
        await self._look_through()
        await self._note_selected()
        while not self._paging.ended:
            self._hub.selections.hold(self._paging, self._max_bytes)
            await self._look_through()
            if self._paging.room >= 0 and not self._paging.ended:
                self._join()
                return

    def _join(self) -> None:
        paging, hub = self._paging, self._hub
        held = paging.held
        hub.selections.follow(paging)
        for target, message in held:
            if message.key not in target.client.pubkeys:
                hub.send(target, message)
                self.told += 1

    async def take_back(self) -> None:
        """Where `run` raised LostError: tell of what it told that is not selected any more; then pages may come."""
        paging = self._paging
        held = {pubkey for pubkey, seen in self._seen.items() if seen.fitted and not seen.covered}
        while held and not paging.ended:
            read = self._hub.selections.begin_read()
            page = list(islice(held, PAGE))
            try:
                newest = await self._within(partial(self._reads.store.states, page))
            except LostError:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            finally:
                self._hub.selections.end_read(read)
            if paging.ended:
                return
            payloads: list[bytes] = []
            for pubkey in page:
                if self._is_settled(pubkey, newest[pubkey], read, payloads):
                    held.discard(pubkey)
            if payloads:
                await self._tell(payloads)

    def _is_settled(self, pubkey: str, newest: StoredState, read: PageRead, payloads: list[bytes]) -> bool:
        """Add what tells that an account left, if it did; return False where it is to be looked at again."""
        selections, paging = self._hub.selections, self._paging
        if selections.selects(paging.selection, pubkey):
            return True  # if it leaves now, that is told
        in_memory = self._hub.newest(pubkey)
        if in_memory is not None and in_memory.id > newest.id:  # published while the database could not commit
            newest = in_memory
        if pubkey in read.seen or newest.id > self._pages.published_id:
            return False
        account = read_account(newest.account_json)
        if self._fits(account):
            selections.tell(paging, pubkey)
        elif not self._covers(pubkey, account, newest.id, leaves=True):
            payloads.append(past_payload(pubkey, newest.account_json, "" if account.closed else "left"))
        return True

    # ---- which accounts it selects ---------------------------------------------------------------------------

    async def _note_selected(self) -> None:
        """Note every account that is selected now; what happens meanwhile is told as it comes."""
        paging = self._paging
        more = True
        while more and not paging.selection.known and not paging.ended:
            page = await self._pages.tell(paging, silently=True)
            if page is None:
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                more = page[1] is not None
            await self._look_through()
        paging.selection.known |= not more and not paging.ended

    # ---- history ---------------------------------------------------------------------------------------------

    async def _look_through(self) -> None:
        """Tell what concerns the subscription, up to what was published when this was called."""
        upto = self._pages.published_id
        if upto > self._reads.committed_id():
            raise LostError("the database could not commit")
        while self._at < upto and not self._paging.ended:
            updates = await self._read(upto)
            if not updates:
                self._at = upto
                return
            if self._at < self._began_at:  # what comes meanwhile is no more than what others are sent live
                self._looked_at += len(updates)
            if self._looked_at > MAX_LOOKED_AT:
                raise LostError(f"more than {MAX_LOOKED_AT:,} updates were missed")
            payloads = await self._judge(updates)
            self._at = updates[-1].id
            if payloads and not self._paging.ended:
                self.told += len(payloads)
                await self._tell(payloads)

    async def _read(self, upto: int) -> list[StoredUpdate]:
        updates = await self._within(lambda: self._reads.store.between(self._at, upto, limit=self._page))
        if updates is None:
            raise LostError("history does not reach back")
        size = sum(len(update.account_json) for update in updates)
        self._page = max(1, min(PAGE, self._page * PAGE_BYTES // max(size, 1)))
        return updates

    async def _judge(self, updates: Sequence[StoredUpdate]) -> list[bytes]:
        """Return what the client is told of some updates."""
        read = [(update, read_account(update.account_json)) for update in updates]
        first = {update.pubkey: (update, account) for update, account in reversed(read)}
        await self._recall([
            update
            for pubkey, (update, account) in first.items()
            if pubkey not in self._seen and not self._fits(account) and self._may_have_fitted(account)
        ])  # fmt: skip
        payloads: list[bytes] = []
        for update, account in read:
            event = self._news(update, account)
            if event is not None:
                if event != "left":  # another subscription of the client may still tell it
                    self._paging.told[update.pubkey] = update.id
                payloads.append(past_payload(update.pubkey, update.account_json, event))
        return payloads

    async def _recall(self, updates: Sequence[StoredUpdate]) -> None:
        """Read what the client held of accounts before these updates, which do not fit."""
        ids = {update.prev_id: update.id for update in updates if update.prev_id is not None}
        found = await self._within(lambda: self._reads.store.updates(list(ids))) if ids else []
        for before in found:
            account = read_account(before.account_json)
            fitted = self._fits(account)
            covered = fitted and self._covers(before.pubkey, account, ids[before.id])
            self._seen[before.pubkey] = _Seen(before.id, fitted, covered)

    def _fits(self, account: Account) -> bool:
        fits = self._paging.selection.filter.fits
        return not account.closed and fits(account.account_type, account.owner, account.data_json)

    def _may_have_fitted(self, account: Account) -> bool:
        """Whether the account before such an update may have been selected: one never changes its type unseen."""
        wanted = self._paging.selection.filter
        same_type = wanted.account_type in {None, account.account_type} or account.account_type == UNKNOWN
        return same_type and (account.closed or wanted.program in {None, account.owner})

    def _news(self, update: StoredUpdate, account: Account) -> str | None:
        """Return the event that an update is told with, or None: it is not told."""
        before, fits = self._seen.get(update.pubkey), self._fits(account)
        prev_id = update.prev_id
        unknown = prev_id is not None and prev_id != (before.id if before else None)
        # Whoever had an account that fitted would not be told that it left.
        untold = before is None and not fits and self._may_have_fitted(account)
        if unknown and ((prev_id or 0) > self._after_id or untold):
            raise LostError("history does not reach back")
        covered = fits and self._covers(update.pubkey, account, update.id)
        self._seen[update.pubkey] = _Seen(update.id, fits, covered)
        if fits:
            return None if covered else update.event
        if before is None or not before.fitted or before.covered:
            return None
        if self._covers(update.pubkey, account, update.id, leaves=True):
            return None
        return update.event if account.closed else "left"

    async def _within(self, read: Callable[[], Awaitable[_Result]]) -> _Result:
        try:
            async with self._pages.places, asyncio.timeout(READ_SECONDS):
                return await read()
        except (TimeoutError, StoreError) as error:
            raise LostError("history could not be read") from error
