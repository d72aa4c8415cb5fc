"""Lists that never end, and lists that change their slot on the way: what is new counts, and every slot is judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tests.hostile_node import FIRST_SLOT, account_json
from tests.integration.test_program_accounts import CONTEXT, LISTED, WHOLE, lists_of, page
from tests.samples import KEY_A, PROGRAM

from account_socket.devnode.replay import derived_pubkey
from account_socket.errors import RpcError
from account_socket.model import RawAccount
from account_socket.sources import program_accounts

AHEAD = {"slot": FIRST_SLOT + 10**9}
OPENING = '{"jsonrpc":"2.0","id":ID,"result":{"context":' + json.dumps(CONTEXT) + ',"value":['
ONE, TWO = (json.dumps(item) for item in LISTED)


def slowly(request: dict[str, Any], *parts: str, again: str = "", pause: float = 0.02) -> web.Response:
    """Answer with the parts, one after the other, then with `again` for ever."""

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part.replace("ID", str(request["id"])).encode()
            await asyncio.sleep(pause)
        while again:
            yield again.encode()
            await asyncio.sleep(pause)

    return web.Response(body=body(), content_type="application/json")


@pytest.mark.parametrize("again", [f"{ONE},", " ", '{"pubkey":"none"},'])
async def test_a_list_without_end_is_left(again: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same account again and again, blanks, or nonsense are no progress, whatever arrives; it is told."""
    monkeypatch.setattr(program_accounts, "NEW_ACCOUNT_SECONDS", 0.2)
    async with lists_of(lambda request: slowly(request, f"{OPENING}{ONE},", again=again)) as (lists, taken, _):
        async with asyncio.timeout(10):
            with pytest.raises(RpcError, match="no new account in") as caught:
                await lists.read(PROGRAM, taken.take)
    assert not caught.value.retryable
    assert {raw.pubkey for raw in taken.accounts} == {KEY_A}


async def test_a_slow_list_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as new accounts come it may take any time, and time in which we take them does not count."""
    monkeypatch.setattr(program_accounts, "NEW_ACCOUNT_SECONDS", 0.3)
    items = [json.dumps({"pubkey": derived_pubkey(KEY_A, copy), "account": account_json()}) for copy in range(8)]
    taken: list[RawAccount] = []

    async def take_slowly(accounts: list[RawAccount]) -> None:
        taken.extend(accounts)
        await asyncio.sleep(0.4 if len(taken) == 1 else 0)

    answer = [OPENING, *(f"{item}," for item in items[:-1]), items[-1], "]}}"]
    async with lists_of(lambda request: slowly(request, *answer, pause=0.1)) as (lists, _, _node):
        await lists.read(PROGRAM, take_slowly)
    assert len(taken) == 8


async def test_a_list_has_a_largest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also accounts that are all new have a bound."""
    monkeypatch.setattr(program_accounts, "MAX_LIST_ACCOUNTS", 1)
    async with lists_of(lambda _: WHOLE) as (lists, taken, _):
        with pytest.raises(RpcError, match="more accounts than"):
            await lists.read(PROGRAM, taken.take)
    assert taken.accounts == []


async def test_pages_of_the_same_accounts_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages with ever new keys and nothing new on them have no end."""
    monkeypatch.setattr(program_accounts, "MAX_EMPTY_PAGES", 5)
    monkeypatch.setattr(program_accounts, "MAX_PAGES", 50)

    def respond(request: dict[str, Any]) -> Any:
        number = int(request["params"][1].get("paginationKey", "k0")[1:])
        return page(number, LISTED, more=True)

    async with lists_of(respond) as (lists, taken, _):
        with pytest.raises(RpcError, match="have no end"):
            await lists.walk(PROGRAM, taken.take, taken.turned)
    assert len(taken.pages) == 7


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_a_second_context_is_refused(pause: float) -> None:
    """What a slot far ahead came with is not taken, also when an honest slot and its account came before."""
    second = f'],"context":{json.dumps(AHEAD)},"value":[{TWO}]}}}}'
    async with lists_of(lambda request: slowly(request, OPENING + ONE, second, pause=pause)) as (lists, taken, _):
        with pytest.raises(RpcError, match="twice"):
            await lists.read(PROGRAM, taken.take)
    assert {raw.slot for raw in taken.accounts} <= {FIRST_SLOT}


async def test_a_context_that_comes_late_is_judged_too() -> None:
    """Accounts that arrive together with it do not get a slot far ahead."""
    opening = f'{{"jsonrpc":"2.0","id":ID,"result":{{"value":[{ONE},'
    late = f'{TWO}],"context":{json.dumps(AHEAD)}}}}}'
    async with lists_of(lambda request: slowly(request, opening, late, pause=0.05)) as (lists, taken, _):
        with pytest.raises(RpcError, match="its tip is"):
            await lists.read(PROGRAM, taken.take)
    assert [(raw.pubkey, raw.slot) for raw in taken.accounts] == [(KEY_A, FIRST_SLOT - 7)]
