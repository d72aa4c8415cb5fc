"""
Lists of all accounts of a program, from one node: getProgramAccounts, and getProgramAccountsV2 in pages.

Accounts are handed over as they arrive, as re-reads at the answer's context slot. Sources: Agave's RPC
(getProgramAccounts), Helius' and Alchemy's documentation of getProgramAccountsV2; what their answers look like stands
in account_stream.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any, NamedTuple

import structlog

from account_socket.backoff import Backoff
from account_socket.errors import RpcError
from account_socket.model import RawAccount
from account_socket.sources.account_stream import AccountStream
from account_socket.sources.listed_accounts import ItemReader, LeftOut, SeenKeys
from account_socket.sources.rpc_answer import nonsense
from account_socket.sources.rpc_http import ENCODINGS, SLOT_NOT_REACHED, SLOT_SECONDS, RpcHttp, may_mean_encoding
from account_socket.sources.slot_tip import ACCOUNT_AHEAD_SLOTS

PAGE_ACCOUNTS = 5_000
"""Nodes allow 10,000."""
MAX_PAGES = 200_000
MAX_EMPTY_PAGES = 1_000
"""In a row, with nothing new on them: such a page is not the end, but an end there must be."""
MAX_LIST_ACCOUNTS = 100_000_000
NEW_ACCOUNT_SECONDS = 60.0
"""Of reading a list without an account that was not in it before; while the node waits for us nothing counts."""
ATTEMPTS = 4
SLOT_PATIENCE_SECONDS = 15.0
"""How long a node may take to come to the slot that was asked for."""

Take = Callable[[list[RawAccount]], Awaitable[None]]
"""Takes what has arrived; returns when there is room for more."""

_LIST, _PAGES = "getProgramAccounts", "getProgramAccountsV2"
_OTHER_NODE = "use a node that offers it, or BACKFILL=known"
_HINTS: Mapping[int, str] = {
    -32010: f"this node keeps no index of the program: {_OTHER_NODE}",
    -32012: "the list is too long for this node: use one that offers getProgramAccountsV2, or BACKFILL=known",
    **dict.fromkeys((-32601, 403, 404, 405, 410, 501), f"this node does not list a program's accounts: {_OTHER_NODE}"),
}

log = structlog.get_logger("account_socket.upstream")


class Page(NamedTuple):
    """What a page tells beside its accounts: its slot, and what the next one is asked with."""

    slot: int
    next_key: str | None


class ProgramAccounts:
    """
    Every method raises RpcError; accounts handed over until then are true all the same.

    Args:
        rpc: the node.
        tip: the newest slot that any upstream confirmed: a node that tells of slots far beyond is not believed.
        retry_base: seconds, the first wait before a page is asked for again.

    Attributes:
        has_pages: whether the node offers getProgramAccountsV2; None before `find_pages` could tell.
        odd: items that could not be used and were left out, by kind.
        left_out: those of the last answer.
    """

    def __init__(self, rpc: RpcHttp, tip: Callable[[], int | None], *, retry_base: float = 1.0) -> None:
        self.rpc = rpc
        self.has_pages: bool | None = None
        self._tip = tip
        self._retry_base = retry_base
        self._items = ItemReader(rpc.name)
        self.odd = self._items.odd
        self.left_out = LeftOut()
        self._dialects = {
            _LIST: [{"encoding": ENCODINGS[0], "sortResults": False}, *_dialects()],
            _PAGES: _dialects(),
        }
        self._tells_slots = False

    async def read(
        self, program: str, take: Take, *, starts_with: bytes = b"", head_bytes: int | None = None, at_least: int = 0
    ) -> int:
        """
        Hand all accounts of `program` to `take`.

        Args:
            starts_with: only accounts whose data starts so; at most 128 bytes.
            head_bytes: so many bytes of each account's data only.
            at_least: the lowest context slot that will do.
        Returns:
            The context slot of the answer. Where the node tells none: its slot before it was asked.
        """
        config: dict[str, Any] = {"withContext": True}
        if starts_with:
            config["filters"] = [{"memcmp": {"offset": 0, "bytes": encode_base58(starts_with)}}]
        if head_bytes is not None:
            config["dataSlice"] = {"offset": 0, "length": head_bytes}
        if at_least:
            config["minContextSlot"] = at_least
        return (await self._ask(_LIST, program, config, take, at_least=at_least)).slot

    async def find_pages(self, program: str) -> bool:
        """Return whether the node offers getProgramAccountsV2; asked until it can tell, then remembered."""
        if self.has_pages is None:
            config = {"limit": 1, "withContext": True, "dataSlice": {"offset": 0, "length": 0}}
            try:
                await self._ask(_PAGES, program, config, _leave, most=1)
            except RpcError as error:
                if error.retryable:
                    return False
                log.info("node offers no pages of a program's accounts", node=str(self.rpc), reason=str(error))
                self.has_pages = False
            else:
                self.has_pages = True
        return self.has_pages

    async def walk(
        self,
        program: str,
        take: Take,
        turned: Callable[[Page], Awaitable[None]],
        *,
        key: str | None = None,
        changed_since: int | None = None,
        at_least: int = 0,
    ) -> None:
        """
        Hand all accounts of `program` to `take`, page by page.

        Args:
            turned: told of each page when all its accounts were taken.
            key: the page to begin with; None: the first.
            changed_since: only accounts written in this slot or later; closed ones are not promised to be told.
            at_least: the lowest slot that will do for any page.
        """
        seen: set[str | None] = {key}
        accounts_seen = SeenKeys()
        empty = 0

        async def take_page(accounts: list[RawAccount]) -> None:
            nonlocal empty
            if accounts_seen.add(accounts):
                empty = 0
            await take(accounts)

        for _ in range(MAX_PAGES):
            empty += 1
            page = await self._page(program, take_page, key, changed_since, at_least)
            await turned(page)
            key = page.next_key
            if key is None:
                return
            if key in seen or empty > MAX_EMPTY_PAGES:
                raise nonsense(f"{_PAGES} at {self.rpc!r}: its pages have no end")
            seen.add(key)
        raise nonsense(f"{_PAGES} at {self.rpc!r}: more than {MAX_PAGES} pages")

    async def _page(self, program: str, take: Take, key: str | None, changed_since: int | None, at_least: int) -> Page:
        config: dict[str, Any] = {"withContext": True, "limit": PAGE_ACCOUNTS}
        config |= {"paginationKey": key} if key is not None else {}
        config |= {"changedSinceSlot": changed_since} if changed_since is not None else {}
        backoff = Backoff(self._retry_base, 30.0)
        attempts = ATTEMPTS
        while True:
            attempts -= 1
            try:
                return await self._ask(_PAGES, program, config, take, at_least=at_least, most=PAGE_ACCOUNTS)
            except RpcError as error:
                if not error.retryable or not attempts:
                    raise
                await asyncio.sleep(max(backoff.next(), error.retry_after or 0.0))

    # ---- one answer ----------------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        program: str,
        config: dict[str, Any],
        take: Take,
        *,
        at_least: int = 0,
        most: int | None = None,
    ) -> Page:
        """Ask in the dialect that the node understood last, else in the next simpler one; wait for `at_least`."""
        dialects = self._dialects[method]
        ends = monotonic() + SLOT_PATIENCE_SECONDS
        while True:
            asked = {"commitment": self.rpc.commitment, **config, **dialects[0]}
            try:
                return await self._listen(method, [program, asked], take, at_least, most)
            except RpcError as error:
                if len(dialects) > 1 and may_mean_encoding(error):
                    del dialects[0]
                elif error.code == SLOT_NOT_REACHED and monotonic() < ends:
                    await asyncio.sleep(SLOT_SECONDS)
                else:
                    if not error.retryable:
                        error.hint = error.hint or _HINTS.get(error.code, _OTHER_NODE)
                    raise

    async def _listen(self, method: str, params: list[Any], take: Take, at_least: int, most: int | None) -> Page:
        """Ask once. Without a context the accounts have the slot before: they are as they were then, or later."""
        before = None if self._tells_slots else await self.rpc.get_slot(commitment=self.rpc.commitment)
        self.left_out = LeftOut()
        stream, seen = AccountStream(), SeenKeys()
        count = 0
        judged, quiet, asked_on = -1, 0.0, None
        async with aclosing(self.rpc.stream(method, params, stream, budget=self.rpc.leftover)) as answer:
            async for items in answer:
                quiet += 0.0 if asked_on is None else monotonic() - asked_on
                count += len(items)
                if count > (MAX_LIST_ACCOUNTS if most is None else most):
                    raise nonsense(f"{method} at {self.rpc!r}: more accounts than were asked for")
                if items:
                    slot = self._slot_of(stream, before)
                    if slot != judged:  # a context that comes late is judged for itself
                        await self._judge(slot, at_least)
                        judged = slot
                    accounts = self._items.read(items, params[0], slot, monotonic(), self.left_out)
                    quiet = 0.0 if seen.add(accounts) else quiet
                    await take(accounts)
                if quiet > NEW_ACCOUNT_SECONDS:
                    raise nonsense(f"{method} at {self.rpc!r}: no new account in {quiet:.0f} s of its answer")
                asked_on = monotonic()
        slot = self._slot_of(stream, before)
        await self._judge(slot, at_least)
        return Page(slot, stream.next_key)

    def _slot_of(self, stream: AccountStream, before: int | None) -> int:
        if stream.slot is not None:
            self._tells_slots = True
            return stream.slot
        if before is None:
            self._tells_slots = False
            raise RpcError(f"{self.rpc!r} told no slot this time", code=0, retryable=True)
        return before

    async def _judge(self, slot: int, at_least: int) -> None:
        """Raise RpcError if an answer lies beyond what the upstreams confirm, or is older than was asked for."""
        if slot < at_least:
            raise RpcError(f"{self.rpc!r} is at slot {slot}, behind {at_least}", code=SLOT_NOT_REACHED, retryable=True)
        tip = self._tip() or await self.rpc.get_slot()
        if slot > tip + ACCOUNT_AHEAD_SLOTS:
            raise RpcError(f"{self.rpc!r} tells of slot {slot}, its tip is {tip}", code=0, retryable=True)


async def _leave(_: list[RawAccount]) -> None:
    """Take accounts that nobody wants."""


def _dialects() -> list[dict[str, Any]]:
    return [{"encoding": encoding} for encoding in ENCODINGS]


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def encode_base58(data: bytes) -> str:
    """Return a few bytes in base58, as old nodes want a filter."""
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits
