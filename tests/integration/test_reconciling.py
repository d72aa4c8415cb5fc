"""What nothing upstream would correct: closes that PubSub does not tell of, states that a fork takes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from tests.running import Client, ServerProcess
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import SYSTEM_PROGRAM, RawAccount

RECORDING = shipped_recording()


@asynccontextmanager
async def streaming(tmp_path: Path, **env: str) -> AsyncIterator[tuple[Devnode, ServerProcess, Client]]:
    """Run a server on a node whose replay is held, with a client subscribed to every account."""
    async with Devnode(RECORDING, rate=400, loop=True) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url, **env}) as server, Client(server.url) as client:
            await until(lambda: len(node._ledger) >= 20, seconds=15)
            node.pause()
            found = await client.ask(action="subscribe", pubkeys=sorted(node._ledger._accounts))
            assert len(found["found"]) == len(node._ledger)
            await settled(server)
            yield node, server, client


def some_account(node: Devnode) -> RawAccount:
    account = node._ledger.get(min(node._ledger._accounts))
    assert account is not None
    return account


def newest(client: Client, pubkey: str) -> dict[str, Any]:
    """Return the last message about an account."""
    return [update for update in client.updates if update["pubkey"] == pubkey][-1]


async def report(server: ServerProcess) -> dict[str, Any]:
    async with aiohttp.ClientSession(server.http_url) as http, http.get("/readyz") as response:
        answer: dict[str, Any] = await response.json()
        return answer


async def settled(server: ServerProcess) -> None:
    """Return when upstream is connected and the gap before that is healed."""
    async with asyncio.timeout(10):
        while True:
            parts = await report(server)
            if parts["upstream"]["sources"]["rpc-0"]["connected"] and not parts["gaps"]["open"]:
                return
            await asyncio.sleep(0.02)


async def test_a_close_is_told_at_once_where_the_account_is_watched(tmp_path: Path) -> None:
    """accountSubscribe tells of it, long before the accounts are looked at again."""
    async with streaming(tmp_path, RECONCILE_SECONDS="3600") as (node, _, client):
        account = some_account(node)
        await until(lambda: node.statistics()["subscriptions"] > 2)
        node.close_account(account.pubkey)
        await until(lambda: newest(client, account.pubkey)["account"].get("closed"), seconds=3)
        assert newest(client, account.pubkey)["source"] == "realtime"


async def test_a_close_right_after_the_subscription_is_told(tmp_path: Path) -> None:
    """It falls between the reading of the state and the beginning of the watch, which only tells of changes."""
    async with streaming(tmp_path, RECONCILE_SECONDS="3600") as (node, server, client):
        account = some_account(node)
        async with Client(server.url) as late:
            await client.ask(action="unsubscribe", pubkeys=sorted(node._ledger._accounts))
            await until(lambda: node.statistics()["subscriptions"] <= 2)
            await late.ask(action="subscribe", pubkey=account.pubkey)
            node.close_account(account.pubkey)
            await until(lambda: newest(late, account.pubkey)["account"].get("closed"))


async def test_an_account_that_another_program_owns_is_closed_until_it_comes_back(tmp_path: Path) -> None:
    """Its lamports and owner are those of the chain; given back to the program it is alive again."""
    async with streaming(tmp_path, RPC_MAX_WATCHED="0", RECONCILE_SECONDS="1") as (node, _, client):
        account = some_account(node)
        node.write(msgspec.structs.replace(account, slot=0, owner=SYSTEM_PROGRAM, lamports=77))
        await until(lambda: newest(client, account.pubkey)["account"].get("closed"))
        closed = newest(client, account.pubkey)["account"]
        assert (closed["owner"], closed["lamports"], closed["data_json"]) == (SYSTEM_PROGRAM, 77, None)
        node.write(msgspec.structs.replace(account, slot=0))
        await until(lambda: newest(client, account.pubkey)["account"]["data_json"] is not None)
        assert newest(client, account.pubkey)["account"]["owner"] == account.owner


async def test_an_account_that_came_back_unheard_is_found(tmp_path: Path) -> None:
    """A look sees that a closed account is there again, although no notification said so."""
    async with streaming(tmp_path, RPC_MAX_WATCHED="0", RECONCILE_SECONDS="1") as (node, _, client):
        account = some_account(node)
        node.close_account(account.pubkey)
        await until(lambda: newest(client, account.pubkey)["account"].get("closed"))
        node._ledger.apply(account)
        await until(lambda: newest(client, account.pubkey)["account"]["data_json"] is not None)


async def test_readyz_tells_the_period_that_the_limits_allow(tmp_path: Path) -> None:
    """One request a second is not enough for looking at all accounts every second."""
    async with streaming(tmp_path, RPC_MAX_RPS="0.5", RECONCILE_SECONDS="1") as (_, server, _client):
        periods: list[float] = []

        async def stretched() -> bool:
            periods.append((await report(server))["reconcile"]["period_seconds"])
            return periods[-1] > 1

        while not await stretched():
            assert len(periods) < 1000
        assert periods[0] >= 1


async def told_in_the_newest_slot(node: Devnode, client: Client, account: RawAccount) -> RawAccount:
    """Write until a write was told before the next slot began, on which nothing descends from it; return that one."""
    for lamports in range(account.lamports + 1, account.lamports + 100):
        written = node.write(msgspec.structs.replace(account, slot=0, lamports=lamports))
        await until(lambda at=lamports: newest(client, account.pubkey)["account"]["lamports"] == at)
        if node.statistics()["tip_slot"] == written.slot:
            return written
    raise AssertionError("the node is always ahead")


async def test_a_state_that_a_fork_takes_back_is_retracted(tmp_path: Path) -> None:
    """At `processed` the state before it is told again, with a higher id, when the node builds on without its slot."""
    async with streaming(tmp_path, COMMITMENT="processed", RECONCILE_SECONDS="3600") as (node, _, client):
        account = some_account(node)
        node.advance_slots(1)
        dying = await told_in_the_newest_slot(node, client, account)
        dead = newest(client, account.pubkey)["account"]
        node.abandon_slot(dying.slot)
        node.advance_slots(1)
        await until(lambda: newest(client, account.pubkey).get("event") == "retracted")
        true = newest(client, account.pubkey)["account"]
        assert true["lamports"] == dying.lamports - 1
        assert true["id"] > dead["id"] == true["prev_id"]


async def test_a_state_that_only_the_node_knows_is_wrong_is_retracted(tmp_path: Path) -> None:
    """At `processed` accounts are compared whole: what differs, and is not in the stream either, is taken back."""
    async with streaming(tmp_path, COMMITMENT="processed", RECONCILE_SECONDS="1") as (node, _, client):
        account = some_account(node)
        # By then a look has been, so that what was in doubt since the start was read.
        looks = node.statistics()["http_requests"]
        await until(lambda: node.statistics()["http_requests"] >= looks + 3, seconds=15)
        node.advance_slots(2)
        node._ledger.apply(msgspec.structs.replace(account, lamports=account.lamports + 5))
        await until(lambda: newest(client, account.pubkey).get("event") == "retracted")
        assert newest(client, account.pubkey)["account"]["lamports"] == account.lamports + 5
