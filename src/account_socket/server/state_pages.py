"""
The states that were there before a subscription by filter: told page by page, while updates already flow.

A page is read in the store's reader threads. An account that has an update while it is read is left to the update; so
is one that an update told of before. What a page tells is then the newest there is, and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from account_socket.errors import StoreError
from account_socket.hub.frames import state_message
from account_socket.hub.hub import Hub
from account_socket.hub.selections import PageRead, Paging
from account_socket.model import StoredState
from account_socket.server.filter_check import stored
from account_socket.server.rest_reading import Reads
from account_socket.store.base import Found, StoredUpdate

PAGE = 128
"""States in a page: what the loop looks at in some milliseconds."""
READS_AT_ONCE = 2
"""The store's other readers are left to clients who wait for the state of one account."""
READ_SECONDS = 10.0


class _Account(msgspec.Struct, gc=False):
    account_type: str
    owner: str
    data_json: Any
    closed: bool = False


_decode = msgspec.json.Decoder(_Account).decode


class StatePages:
    """Reads pages for all clients, a few at a time."""

    def __init__(self, hub: Hub, reads: Reads) -> None:
        self._hub = hub
        self._reads = reads
        self._last_before = reads.newest_id()
        self._places = asyncio.Semaphore(READS_AT_ONCE)

    async def tell(self, paging: Paging) -> tuple[int, str | None] | None:
        """
        Put the next page where a subscription's states go.

        Returns:
            How many states it had, and whether there are more: the account to go on after. None: the store failed.
        """
        selections = self._hub.selections
        async with self._places:
            read = selections.begin_read()
            try:
                async with asyncio.timeout(READ_SECONDS):
                    selection = stored(paging.selection.filter)
                    found = await self._reads.store.find(selection, after=paging.after, limit=PAGE)
                return (0 if paging.ended else self._put(paging, read, found)), found.next
            except (TimeoutError, StoreError):
                return None
            finally:
                selections.end_read(read)

    def _put(self, paging: Paging, read: PageRead, found: Found) -> int:
        count = 0
        for state in found.states:
            if state.pubkey not in read.seen and state.pubkey not in paging.sent and self._was_published(state.id):
                count += self._put_state(paging, state)
        if found.next is not None:
            paging.after = found.next
        return count

    def _was_published(self, id: int) -> bool:
        # What is committed and not published yet is about to come by itself; told from here it would come twice.
        return id <= self._last_before or id <= self._hub.published_id

    def _put_state(self, paging: Paging, state: StoredUpdate) -> bool:
        hub, pubkey = self._hub, state.pubkey
        newest, source = StoredState(state.id, state.account_json), "database"
        in_memory = hub.newest(pubkey)
        if in_memory is not None and in_memory.id > state.id:  # published while the database could not commit
            newest, source = in_memory, "cache"
        account = _decode(newest.account_json)
        fits = paging.selection.filter.fits
        if account.closed or not fits(account.account_type, account.owner, account.data_json):
            return False
        stale = hub.stale or not self._reads.trusts(pubkey, state.slot)
        hub.selections.tell(paging, pubkey)
        hub.send(paging.target, state_message(pubkey, source, newest.account_json, stale=stale, answers=True))
        return True
