"""Reading all accounts of a program from a node, in one go and in several."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from tests.hostile_node import HostileHttp, hostile_http
from tests.samples import PROGRAM

from account_socket.devnode.ledger import Ledger
from account_socket.devnode.replay import derived_pubkey
from account_socket.errors import RpcError
from account_socket.model import RawAccount
from account_socket.pipeline import listing, whole_program
from account_socket.pipeline.listing import KeySet
from account_socket.pipeline.progress import Progress
from account_socket.pipeline.whole_program import Reading, WholeProgram
from account_socket.protocol.solana_jsonrpc import answer
from account_socket.sources import program_accounts
from account_socket.sources.program_accounts import ProgramAccounts
from account_socket.sources.rpc_http import RpcHttp

SLOT = 1_000
KEY = "5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c"
ACCOUNT = {"lamports": 1, "data": ["AAAA", "base64"], "owner": PROGRAM, "executable": False, "space": 3}
KINDS = {b"kind-one": 30, b"kind-two": 20, b"kind-few": 3, b"short": 2}


class Reader:
    """
    A whole program read from a ledger.

    Attributes:
        refuse: what a request is answered with instead, if anything.
        taken: pubkey → the slot and data it was taken with.
        kept: every Reading that was remembered.
    """

    def __init__(self, node: HostileHttp, ledger: Ledger, rpc: RpcHttp) -> None:
        self.node, self.ledger, self.rpc = node, ledger, rpc
        self.refuse: Any = lambda _: None
        self.taken: dict[str, tuple[int, bytes]] = {}
        self.kept: list[bytes] = []
        self.reading = Reading()
        self.keys = KeySet()
        self.progress = Progress(self._show)
        self.shown: list[tuple[str, int, int | None]] = []
        self.lists = self.new_lists()

    def new_lists(self) -> ProgramAccounts:
        return ProgramAccounts(self.rpc, lambda: SLOT, retry_base=0.01)

    def _show(self, progress: Progress) -> None:
        self.shown.append((progress.doing, progress.done, progress.total))

    async def take(self, accounts: list[RawAccount]) -> None:
        self.taken |= {raw.pubkey: (raw.slot, raw.data) for raw in accounts}
        self.progress.add(len(accounts))

    async def reread(self, pubkeys: Sequence[str], at_least: int) -> None:
        _, accounts = await self.rpc.get_multiple_accounts(pubkeys, at_least=at_least)
        await self.take([raw for raw in accounts if raw is not None])

    async def remember(self) -> None:
        self.kept.append(msgspec.json.encode(self.reading))

    async def read(self, floor: int = SLOT) -> int | None:
        whole = WholeProgram(
            PROGRAM,
            names={b"kind-one": "One"},
            progress=self.progress,
            take=self.take,
            reread=self.reread,
            remember=self.remember,
        )
        return await whole.read(self.lists, self.reading, self.keys, floor)

    def restart(self) -> None:
        """Forget all but what was remembered."""
        self.reading = msgspec.json.decode(self.kept[-1], type=Reading)
        self.keys, self.lists = KeySet(), self.new_lists()
        self.node.requests.clear()

    def respond(self, request: dict[str, Any]) -> Any:
        refusal = self.refuse(request)
        return refusal or web.Response(body=answer(msgspec.json.encode(request), self.ledger.call))

    @property
    def filters(self) -> list[str]:
        """What lists were asked to begin with, in their order."""
        asked = [request["params"][1] for request in self.node.requests if request["method"] == "getProgramAccounts"]
        return [each["filters"][0]["memcmp"]["bytes"] for each in asked if "filters" in each]

    @property
    def there(self) -> dict[str, tuple[int, bytes]]:
        return {pubkey: (self.ledger.context_slot, raw.data) for pubkey, raw in self.ledger._accounts.items()}


@asynccontextmanager
async def reader(*, pages: bool = False) -> AsyncIterator[Reader]:
    ledger = Ledger(tip_slot=SLOT, genesis_hash="hash")
    ledger.has_pages = pages
    copy = 0
    for kind, count in KINDS.items():
        for _ in range(count):
            copy += 1
            ledger.apply(
                RawAccount(derived_pubkey(KEY, copy), SLOT - 5, PROGRAM, 1, kind + b"data" * (kind != b"short"))
            )
    async with hostile_http(lambda request: made.respond(request)) as node:  # noqa: PLW0108  (made comes after it)
        rpc = RpcHttp(node.url, max_rps=10_000, retry_base=0.01)
        made = Reader(node, ledger, rpc)
        try:
            yield made
        finally:
            await rpc.close()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "FEW", 5)
    monkeypatch.setattr(program_accounts, "PAGE_ACCOUNTS", 10)


def busy(_: dict[str, Any]) -> web.Response:
    return web.Response(status=503)


async def test_every_kind_is_read_known_or_not() -> None:
    """Many accounts of a kind by a list of their own, few one by one, and those that are too short for a kind."""
    async with reader() as it:
        assert await it.read() == SLOT
        assert it.taken == it.there
        assert all(pubkey in it.keys for pubkey in it.there)
        assert len(it.filters) == 2
    begun = [(doing, total) for doing, done, total in it.shown if not done]
    assert begun == [
        ("list of all accounts", None),
        ("accounts that begin with 6b696e642d666577", 3),
        ("accounts that begin with 6b696e642d74776f", 20),
        ("One", 30),
        ("accounts of no type", 2),
    ]


async def test_after_a_restart_what_was_never_read_comes_first() -> None:
    """A reading that broke off goes on with the kinds that are missing, then renews the others."""
    async with reader() as it:
        lists = iter([None, None, busy, busy])
        it.refuse = lambda request: (next(lists) or (lambda _: None))(request) if is_list(request) else None
        with pytest.raises(RpcError):
            await it.read()
        first = it.filters[0]
        it.restart()
        it.refuse = lambda _: None
        it.ledger.tip_slot = it.ledger.context_slot = SLOT + 9
        assert await it.read(SLOT + 9) == SLOT + 9
        assert it.filters == [it.filters[0], first]
        assert it.filters[0] != first
        assert it.taken == it.there


async def test_a_kind_that_was_read_at_the_slot_is_not_read_again() -> None:
    """When the same reading is tried again, it goes on where it was."""
    async with reader() as it:
        lists = iter([None, None, busy])
        it.refuse = lambda request: (next(lists, None) or (lambda _: None))(request) if is_list(request) else None
        with pytest.raises(RpcError):
            await it.read()
        await it.read()
        assert len(it.filters) == 3
        assert it.taken == it.there


def is_list(request: dict[str, Any]) -> bool:
    return request["method"] == "getProgramAccounts"


async def test_pages_are_read_where_a_node_has_them() -> None:
    """No list is asked for then, and what is not on a page is not there."""
    async with reader(pages=True) as it:
        assert await it.read() == SLOT
        assert it.taken == it.there
        assert not any(map(is_list, it.node.requests))
        assert it.reading.key is None


async def test_pages_go_on_after_a_restart() -> None:
    """From the page that was next; then what changed on earlier pages is read, and no list is taken for whole."""
    async with reader(pages=True) as it:
        it.refuse = lambda request: busy(request) if len(it.taken) >= 30 and is_page(request) else None
        with pytest.raises(RpcError):
            await it.read()
        assert len(it.taken) == 30
        it.restart()
        it.refuse = lambda _: None
        changed = min(it.taken)
        it.ledger.tip_slot = it.ledger.context_slot = SLOT + 9
        it.ledger.apply(RawAccount(changed, SLOT + 8, PROGRAM, 1, b"kind-onechanged"))
        read_before = set(it.taken)
        assert await it.read(SLOT + 9) is None
        assert {pubkey: data for pubkey, (_, data) in it.taken.items()} == {
            pubkey: data for pubkey, (_, data) in it.there.items()
        }
        again = {pubkey for pubkey in read_before if it.taken[pubkey][0] == SLOT + 9}
        assert again == {changed}


def is_page(request: dict[str, Any]) -> bool:
    return request["method"] == "getProgramAccountsV2"


async def test_a_page_that_the_node_forgot_begins_the_reading_anew() -> None:
    """A key that is refused costs no more than reading from the first page."""
    async with reader(pages=True) as it:
        it.reading = Reading(key="forgotten", began=SLOT)
        refused = {"error": {"code": -32602, "message": "Invalid pagination key"}}
        it.refuse = lambda request: refused if "forgotten" in str(request) else None
        assert await it.read() == SLOT
        assert it.taken == it.there


async def test_a_node_whose_pages_make_no_sense_is_asked_for_lists() -> None:
    """Pages that never end are given up, for good."""
    async with reader(pages=True) as it:
        endless = {"result": {"accounts": [], "paginationKey": "again"}}
        it.refuse = lambda request: endless if is_page(request) else None
        assert await it.read() == SLOT
        assert it.taken == it.there
        assert it.lists.has_pages is False


async def test_what_was_read_long_ago_is_read_anew() -> None:
    """Beyond a day nothing is continued."""
    reading = Reading(kinds={"aa": 5, "bb": whole_program.REACH_SLOTS + 5}, key="k", began=5)
    reading.forget_before(6)
    assert reading == Reading(kinds={"bb": whole_program.REACH_SLOTS + 5})


def spoilt(it: Reader, item: dict[str, Any], *, pages: bool) -> Any:
    """Return a `refuse` by which the node lists `item` after the accounts, whichever way it is asked."""

    def refuse(request: dict[str, Any]) -> Any:
        if not (is_page(request) if pages else is_list(request)):
            return None
        whole = msgspec.json.decode(answer(msgspec.json.encode(request), it.ledger.call))
        value = whole["result"]["value"]
        items = value["accounts"] if pages else value
        if len(items) < request["params"][1].get("limit", 1_000):
            items.append(item)
        return whole

    return refuse


@pytest.mark.parametrize("pages", [False, True])
async def test_a_listed_account_that_makes_no_sense_is_read_by_itself(pages: bool) -> None:
    """The node lists it as another program's; asked for it alone, it tells the truth, and nothing is missing."""
    async with reader(pages=pages) as it:
        hidden = RawAccount(derived_pubkey(KEY, 999), SLOT - 5, PROGRAM, 1, b"kind-oneof another owner")
        it.refuse = spoilt(it, {"pubkey": hidden.pubkey, "account": {**ACCOUNT, "owner": KEY}}, pages=pages)
        it.ledger._accounts[hidden.pubkey] = hidden  # known to getMultipleAccounts alone
        assert await it.read() == SLOT
        assert it.taken == it.there
        assert it.lists.odd["not_of_the_program"] >= 1


async def test_a_listed_item_that_names_no_account_fails_the_reading() -> None:
    """What else there is was read; every try fails until the node lists accounts only."""
    async with reader() as it:
        it.refuse = spoilt(it, {"pubkey": "none", "account": ACCOUNT}, pages=False)
        for _ in range(2):
            with pytest.raises(RpcError, match="listed 3 accounts"):
                await it.read()
            assert it.taken == it.there
        it.refuse = lambda _: None
        assert await it.read() == SLOT


async def test_pages_with_items_that_name_no_account_are_given_up() -> None:
    """All pages are read all the same, then lists, in which nothing is missing."""
    async with reader(pages=True) as it:
        it.refuse = spoilt(it, {"pubkey": "none", "account": ACCOUNT}, pages=True)
        assert await it.read() == SLOT
        assert it.lists.has_pages is False
        assert it.taken == it.there
        assert it.reading.key is None
        assert max(msgspec.json.decode(kept, type=Reading).unread for kept in it.kept) == 1
