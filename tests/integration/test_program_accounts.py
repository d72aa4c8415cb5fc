"""Lists of a program's accounts over HTTP: every dialect, every refusal, every way of lying."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from aiohttp import web
from tests.hostile_node import FIRST_SLOT, HostileHttp, account_json, hostile_http
from tests.samples import KEY_A, KEY_B, PROGRAM

from account_socket.errors import RpcError
from account_socket.model import SYSTEM_PROGRAM, Origin, RawAccount
from account_socket.protocol import base58
from account_socket.sources import program_accounts
from account_socket.sources.account_stream import AccountStream
from account_socket.sources.program_accounts import Page, ProgramAccounts
from account_socket.sources.rpc_http import RpcHttp

CONTEXT = {"slot": FIRST_SLOT, "apiVersion": "3.0.6"}
LISTED = [{"pubkey": KEY_A, "account": account_json(b"one")}, {"pubkey": KEY_B, "account": account_json(b"two")}]
WHOLE = {"result": {"context": CONTEXT, "value": LISTED}}


class Taken:
    """Accounts and pages that were handed over."""

    def __init__(self) -> None:
        self.accounts: list[RawAccount] = []
        self.pages: list[Page] = []

    async def take(self, accounts: list[RawAccount]) -> None:
        self.accounts += accounts

    async def turned(self, page: Page) -> None:
        self.pages.append(page)

    @property
    def data(self) -> list[bytes]:
        return [raw.data for raw in self.accounts]


@asynccontextmanager
async def lists_of(
    respond: Callable[[dict[str, Any]], Any], *, tip: int = FIRST_SLOT
) -> AsyncIterator[tuple[ProgramAccounts, Taken, HostileHttp]]:
    """Run a node that answers getSlot as usual and everything else with `respond`, and a reader of its lists."""

    def answer(request: dict[str, Any]) -> Any:
        return {"result": FIRST_SLOT - 7} if request["method"] == "getSlot" else respond(request)

    async with hostile_http(answer) as node:
        rpc = RpcHttp(f"{node.url}/?api-key=hidden-key", name="rpc-0", max_rps=1000, retry_base=0.01)
        try:
            yield ProgramAccounts(rpc, lambda: tip, retry_base=0.01), Taken(), node
        finally:
            await rpc.close()


def config(node: HostileHttp, number: int = -1) -> dict[str, Any]:
    """Return the config of the request for a list with that number."""
    asked = [request["params"][1] for request in node.requests if request["method"] != "getSlot"]
    return asked[number]


async def test_all_accounts_are_handed_over_at_the_context_slot() -> None:
    """A list asks for what it wants, and its accounts are re-reads."""
    async with lists_of(lambda _: WHOLE) as (lists, taken, node):
        slot = await lists.read(PROGRAM, taken.take, starts_with=b"\0\1abcdef", head_bytes=8, at_least=FIRST_SLOT - 1)
    assert slot == FIRST_SLOT
    assert [(raw.pubkey, raw.slot, raw.data, raw.origin, raw.source) for raw in taken.accounts] == [
        (KEY_A, FIRST_SLOT, b"one", Origin.REREAD, "rpc-0"),
        (KEY_B, FIRST_SLOT, b"two", Origin.REREAD, "rpc-0"),
    ]
    assert config(node) == {
        "withContext": True,
        "encoding": "base64+zstd",
        "sortResults": False,
        "commitment": "confirmed",
        "filters": [{"memcmp": {"offset": 0, "bytes": base58.encode(b"\0\1abcdef")}}],
        "dataSlice": {"offset": 0, "length": 8},
        "minContextSlot": FIRST_SLOT - 1,
    }


@pytest.mark.parametrize(
    ("result", "slot"),
    [
        ({"value": LISTED * 1_000, "context": CONTEXT}, FIRST_SLOT - 7),
        (LISTED * 1_000, FIRST_SLOT - 7),
        ({"context": CONTEXT, "value": LISTED * 1_000}, FIRST_SLOT),
    ],
)
async def test_without_a_slot_before_them_accounts_have_the_one_from_before(result: Any, slot: int) -> None:
    """What is not known to be newer is not called newer."""
    async with lists_of(lambda _: {"result": result}) as (lists, taken, _):
        await lists.read(PROGRAM, taken.take)
    assert (len(taken.accounts), taken.accounts[0].slot) == (2_000, slot)


async def test_a_node_that_knows_less_is_asked_more_simply() -> None:
    """Unknown keys and encodings are left out, and it is remembered."""

    def respond(request: dict[str, Any]) -> Any:
        asked = request["params"][1]
        if "sortResults" in asked or asked["encoding"] != "base64":
            return {"error": {"code": -32602, "message": "Invalid params: unknown field"}}
        return WHOLE

    async with lists_of(respond) as (lists, taken, node):
        await lists.read(PROGRAM, taken.take)
        await lists.read(PROGRAM, taken.take)
    assert taken.data == [b"one", b"two"] * 2
    assert [config(node, at)["encoding"] for at in range(4)] == ["base64+zstd", "base64+zstd", "base64", "base64"]


def cut_off(times: int, body: bytes) -> Callable[[dict[str, Any]], Any]:
    """Return a `respond` that breaks off in the middle of the list so many times."""

    def respond(request: dict[str, Any]) -> Any:
        nonlocal times
        times -= 1
        whole = body.replace(b"ID", b"%d" % request["id"])
        return web.Response(body=whole[: len(whole) * 2 // 3] if times >= 0 else whole)

    return respond


async def test_what_came_before_a_break_is_taken() -> None:
    """An answer that is cut off gives what was whole, and an error that may pass; the next one gives all."""
    body = json.dumps({"jsonrpc": "2.0", **WHOLE, "id": "ID"}).replace('"ID"', "ID").encode()
    async with lists_of(cut_off(1, body)) as (lists, taken, _):
        with pytest.raises(RpcError, match="broke off") as caught:
            await lists.read(PROGRAM, taken.take)
        assert caught.value.retryable
        assert taken.data == [b"one"]
        await lists.read(PROGRAM, taken.take)
        assert taken.data == [b"one", b"one", b"two"]


async def test_a_node_that_falls_silent_is_left() -> None:
    """Only time without a byte counts, and what came is taken."""
    release = asyncio.Event()

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        text = b'{"result":{"context":{"slot":5},"value":[1,2,3,'
        for at in range(len(text)):
            await response.write(text[at : at + 1])
            await asyncio.sleep(0.01)
        await release.wait()
        return response

    runner = web.ServerRunner(web.Server(respond), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rpc = RpcHttp(f"http://127.0.0.1:{runner.addresses[0][1]}/?api-key=hidden-key")
    items: list[Any] = []

    async def read() -> None:
        async for some in rpc.stream("getProgramAccounts", [], AccountStream(), idle_seconds=0.2):
            items.extend(some)

    with pytest.raises(RpcError, match=r"nothing came from the node for 0.2 s") as caught:
        await read()
    assert "hidden-key" not in str(caught.value)
    assert items == [1, 2, 3]
    release.set()
    await rpc.close()
    await runner.cleanup()


def failing(code: int, message: str) -> Callable[[dict[str, Any]], Any]:
    return lambda _: {"error": {"code": code, "message": f"{message} hidden-key"}}


@pytest.mark.parametrize(
    ("respond", "hint"),
    [
        (failing(-32010, "excluded from account secondary indexes"), "keeps no index of the program"),
        (failing(-32012, "accumulated scan results exceeded the limit"), "getProgramAccountsV2"),
        (failing(-32601, "Method not found"), "does not list a program's accounts"),
        (failing(-32600, "too large, use pagination"), "BACKFILL=known"),
        (lambda _: web.Response(status=410, text="Gone"), "does not list a program's accounts"),
        (lambda _: web.Response(status=403, text="<html>no</html>"), "refuses this key"),
        (lambda _: web.Response(text="<html>hidden-key</html>"), "BACKFILL=known"),
    ],
)
async def test_a_refusal_says_what_to_do(respond: Callable[[dict[str, Any]], Any], hint: str) -> None:
    """A node that cannot or will not list is not asked again at once, and the user is told of another way."""
    async with lists_of(respond) as (lists, taken, _):
        with pytest.raises(RpcError) as caught:
            await lists.read(PROGRAM, taken.take)
    assert not caught.value.retryable
    assert hint in caught.value.hint
    assert "hidden-key" not in str(caught.value)


async def test_a_list_from_the_future_is_not_believed() -> None:
    """A context slot far beyond the tip would freeze every account: nothing of the list is taken."""
    async with lists_of(lambda _: WHOLE, tip=FIRST_SLOT - 200) as (lists, taken, _):
        with pytest.raises(RpcError, match="its tip is"):
            await lists.read(PROGRAM, taken.take)
    assert taken.accounts == []


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_node_that_is_behind_is_waited_for(refuses: bool) -> None:
    """It says so, or answers from before the slot asked for: then nothing of it is taken."""
    behind = {"error": {"code": -32016, "message": "Minimum context slot has not been reached"}} if refuses else WHOLE
    answers = [{"result": {"context": {"slot": FIRST_SLOT + 1}, "value": LISTED[:1]}}, behind]
    async with lists_of(lambda _: answers.pop()) as (lists, taken, _):
        assert await lists.read(PROGRAM, taken.take, at_least=FIRST_SLOT + 1) == FIRST_SLOT + 1
    assert taken.data == [b"one"]


async def test_a_node_that_stays_behind_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting has an end, and is an error that may pass."""
    monkeypatch.setattr(program_accounts, "SLOT_PATIENCE_SECONDS", 0.0)
    async with lists_of(lambda _: WHOLE) as (lists, taken, _):
        with pytest.raises(RpcError, match="behind") as caught:
            await lists.read(PROGRAM, taken.take, at_least=FIRST_SLOT + 1)
    assert caught.value.retryable
    assert taken.accounts == []


async def test_accounts_that_make_no_sense_are_left_out() -> None:
    """An odd account is counted, and costs the others nothing; neither does one of another program."""
    odd = [
        {"pubkey": "no key", "account": account_json()},
        {"pubkey": KEY_A, "account": account_json(owner=SYSTEM_PROGRAM)},
        {"account": account_json()},
        7,
    ]
    async with lists_of(lambda _: {"result": {"context": CONTEXT, "value": [*odd, *LISTED]}}) as (lists, taken, _):
        await lists.read(PROGRAM, taken.take)
    assert taken.data == [b"one", b"two"]
    assert lists.odd == {"bad_pubkey": 2, "not_of_the_program": 1, "bad_account": 1}


# ---- pages -------------------------------------------------------------------------------------------------


def page(number: int, accounts: list[Any], *, more: bool) -> dict[str, Any]:
    value = {"accounts": accounts, "paginationKey": f"k{number + 1}" if more else None}
    return {"result": {"context": {"slot": FIRST_SLOT + number}, "value": value}}


def paged(request: dict[str, Any]) -> Any:
    """Answer with three pages, of which the second is empty."""
    number = int(request["params"][1].get("paginationKey", "k0")[1:])
    return page(number, [LISTED[:1], [], LISTED[1:]][number], more=number < 2)


async def test_pages_are_turned_until_there_is_none() -> None:
    """Each page has its own slot; an empty one is not the end."""
    async with lists_of(paged) as (lists, taken, node):
        await lists.walk(PROGRAM, taken.take, taken.turned, changed_since=9, at_least=FIRST_SLOT)
    assert [(raw.data, raw.slot) for raw in taken.accounts] == [(b"one", FIRST_SLOT), (b"two", FIRST_SLOT + 2)]
    assert [told.next_key for told in taken.pages] == ["k1", "k2", None]
    assert (config(node)["changedSinceSlot"], config(node)["limit"]) == (9, 5_000)


async def test_a_walk_goes_on_where_it_was_left() -> None:
    """With a key it begins there."""
    async with lists_of(paged) as (lists, taken, _):
        await lists.walk(PROGRAM, taken.take, taken.turned, key="k2")
    assert taken.data == [b"two"]


async def test_a_page_that_fails_is_asked_for_again() -> None:
    """One answer with an error that may pass does not end the walk."""
    failures = [{"error": {"code": -32005, "message": "Node is behind"}}, web.Response(status=503)]
    respond = lambda request: failures.pop() if failures else paged(request)  # noqa: E731
    async with lists_of(respond) as (lists, taken, _):
        await lists.walk(PROGRAM, taken.take, taken.turned)
    assert taken.data == [b"one", b"two"]


@pytest.mark.parametrize(
    "respond",
    [
        lambda _: page(0, [], more=True),
        lambda request: page(1 - int(request["params"][1].get("paginationKey", "k1")[1:]) % 2, LISTED, more=True),
        lambda _: page(0, LISTED * 3_000, more=False),
    ],
)
async def test_pages_without_end_are_left(respond: Callable[[dict[str, Any]], Any]) -> None:
    """A key that comes again, or more accounts than a page has, end the walk for good."""
    async with lists_of(respond) as (lists, taken, _):
        with pytest.raises(RpcError) as caught:
            await lists.walk(PROGRAM, taken.take, taken.turned)
    assert not caught.value.retryable
    assert len(taken.pages) <= 3


@pytest.mark.parametrize(
    ("respond", "found"),
    [
        (lambda _: page(0, LISTED[:1], more=True), True),
        (lambda _: {"result": {"accounts": [], "paginationKey": None}}, True),
        (failing(-32601, "Method not found"), False),
        (failing(-32602, "Invalid params"), False),
        (lambda _: web.Response(status=405), False),
        (lambda _: {"result": LISTED * 10}, False),
        (lambda _: {"result": None}, False),
    ],
)
async def test_whether_a_node_has_pages_is_asked_once(respond: Callable[[dict[str, Any]], Any], found: bool) -> None:
    """The answer is remembered, either way; that there are none is told, with the node's URL."""
    async with lists_of(respond) as (lists, _, node):
        with structlog.testing.capture_logs() as lines:
            assert await lists.find_pages(PROGRAM) is found
        assert [line["node"] for line in lines] == ([] if found else [str(lists.rpc)])
        assert str(lists.rpc).startswith("http://127.0.0.1:")
        asked = len(node.requests)
        assert await lists.find_pages(PROGRAM) is found
        assert (len(node.requests), lists.has_pages) == (asked, found)


async def test_a_node_that_cannot_tell_now_is_asked_again() -> None:
    """A failure that may pass says nothing of what a node offers."""
    failures = [web.Response(status=503)]
    respond = lambda request: failures.pop() if failures else paged(request)  # noqa: E731
    async with lists_of(respond) as (lists, _, _node):
        assert not await lists.find_pages(PROGRAM)
        assert lists.has_pages is None
        assert await lists.find_pages(PROGRAM)
