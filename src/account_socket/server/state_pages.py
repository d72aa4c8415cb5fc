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


class Account(msgspec.Struct, gc=False):
    """What filters ask of an `account` object."""

    account_type: str
    owner: str
    data_json: Any
    closed: bool = False


read_account = msgspec.json.Decoder(Account).decode


class StatePages:
    """
    Reads pages for all clients, a few at a time.

    Attributes:
        places: of those who read at the same time.
    """

    def __init__(self, hub: Hub, reads: Reads) -> None:
        self._hub = hub
        self._reads = reads
        self._last_before = reads.newest_id()
        self.places = asyncio.Semaphore(READS_AT_ONCE)

    async def tell(self, paging: Paging, *, silently: bool = False) -> tuple[int, str | None] | None:
        """
        Put the next page where a subscription's states go; `silently`: only note what it selects.

        Returns:
            How many states it had, and whether there are more: the account to go on after. None: the store failed.
        """
        selections = self._hub.selections
        async with self.places:
            read = selections.begin_read()
            try:
                async with asyncio.timeout(READ_SECONDS):
                    selection = stored(paging.selection.filter)
                    found = await self._reads.store.find(selection, after=paging.after, limit=PAGE)
                return (0 if paging.ended else self._put(paging, read, found, silently=silently)), found.next
            except (TimeoutError, StoreError):
                return None
            finally:
                selections.end_read(read)

    @property
    def published_id(self) -> int:
        """No update with a higher id was published."""
        return max(self._last_before, self._hub.published_id)

    def _put(self, paging: Paging, read: PageRead, found: Found, *, silently: bool) -> int:
        count = 0
        for state in found.states:
            # What is committed and not published yet is about to come by itself; told from here it would come twice.
            if state.pubkey in read.seen or state.pubkey in paging.sent or state.id > self.published_id:
                continue
            count += self._put_state(paging, state, silently=silently)
        if found.next is not None:
            paging.after = found.next
        return count

    def _put_state(self, paging: Paging, state: StoredUpdate, *, silently: bool) -> bool:
        hub, pubkey = self._hub, state.pubkey
        newest, source = StoredState(state.id, state.account_json), "database"
        in_memory = hub.newest(pubkey)
        if in_memory is not None and in_memory.id > state.id:  # published while the database could not commit
            newest, source = in_memory, "cache"
        account = read_account(newest.account_json)
        fits = paging.selection.filter.fits
        if account.closed or not fits(account.account_type, account.owner, account.data_json):
            return False
        hub.selections.tell(paging, pubkey)
        if silently or paging.told.get(pubkey, -1) >= newest.id:
            return False
        stale = hub.stale or not self._reads.trusts(pubkey, state.slot)
        hub.send(paging.target, state_message(pubkey, source, newest.account_json, stale=stale, answers=True))
        return True
