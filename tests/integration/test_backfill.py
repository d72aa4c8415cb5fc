"""What is re-read in the background: the store holds what the node holds, without anybody being subscribed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from solders.pubkey import Pubkey
from tests.hostile_node import HostileHttp, hostile_http
from tests.running import Client, ServerProcess
from tests.samples import KEY_A, KEY_B, PROGRAM
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.devnode.replay import derived_pubkey
from account_socket.model import RawAccount
from account_socket.protocol.solana_jsonrpc import answer

RECORDING = shipped_recording()
STRAY = RawAccount("4QhNxceXm2LnDQnzxTt7FS9jGbUGUJ8eRM7D8N4Q8n7q", 0, PROGRAM, 5, b"abc")
KEYS = {b"kind-one": KEY_A, b"kind-two": KEY_B}
ODD = RawAccount("7YAtw7GcEuEV93E84pRPJnyGsKnCTgfPuTZxBWXZB8Sb", 0, PROGRAM, 5, b"no layout begins so")


@asynccontextmanager
async def full_node(**options: Any) -> AsyncIterator[Devnode]:
    """Run a node that has all accounts of the recording, and two of no type, and writes nothing more by itself."""
    async with Devnode(RECORDING, rate=100_000, **options) as node:
        await node.finished.wait()
        for account in (STRAY, ODD):
            node.write(account)
        node.advance_slots(1)
        yield node


def server(tmp_path: Path, node: Devnode, mode: str, **env: str) -> ServerProcess:
    return ServerProcess(tmp_path, {"RPC_URL": node.ws_url, "RPC_MAX_RPS": "1000", "BACKFILL": mode, **env})


def stored(tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """Return pubkey → (lamports, raw) of every open account in the database."""
    with sqlite3.connect(tmp_path / "account.db") as database:
        rows = database.execute("SELECT pubkey, lamports, raw FROM account_state WHERE NOT closed").fetchall()
    database.close()
    return {pubkey: (lamports, raw) for pubkey, lamports, raw in rows}


def held(node: Devnode) -> dict[str, tuple[object, ...]]:
    """Return the same of the node."""
    return {pubkey: (raw.lamports, raw.data) for pubkey, raw in node._ledger._accounts.items() if raw.owner == PROGRAM}


async def report(running: ServerProcess) -> dict[str, Any]:
    """Return what /readyz says of the backfill."""
    async with aiohttp.ClientSession(running.http_url) as http, http.get("/readyz") as response:
        return (await response.json())["backfill"]


async def agree(tmp_path: Path, node: Devnode, *, seconds: float = 15) -> None:
    """Return when the database holds what the node holds."""
    await until(lambda: stored(tmp_path) == held(node), seconds=seconds)


async def said(running: ServerProcess, **facts: object) -> dict[str, Any]:
    """Return the report as soon as it says `facts`."""
    async with asyncio.timeout(15):
        while not facts.items() <= (told := await report(running)).items():  # noqa: ASYNC110  (it is another process)
            await asyncio.sleep(0.02)
    return told


def change_some(node: Devnode) -> tuple[str, str, str]:
    """Change an account, close one and open one; return the three."""
    changed, closed = sorted(node._ledger._by_owner[PROGRAM])[:2]
    opened = str(Pubkey.from_bytes(bytes(31) + b"\7"))
    node.write(msgspec.structs.replace(node._ledger._accounts[changed], slot=0, lamports=77))
    node.close_account(closed)
    node.write(msgspec.structs.replace(STRAY, pubkey=opened, data=b"opened while away"))
    node.advance_slots(1)
    return changed, closed, opened


@pytest.mark.parametrize(("mode", "pages"), [("all", False), ("all", True), ("known", False), ("known", True)])
async def test_what_happened_while_away_is_caught_up(tmp_path: Path, mode: str, pages: bool) -> None:
    """A first start fills the store; after a restart it is right again, with new accounts where a node lists them."""
    async with full_node(pages=pages) as node:
        async with server(tmp_path, node, "all") as first:
            await said(first, complete=True, error="")
            assert stored(tmp_path) == held(node)
            assert {STRAY.pubkey, ODD.pubkey} <= stored(tmp_path).keys()
            await first.stop()
        _, _, opened = change_some(node)
        if mode == "known" and not pages:
            node._ledger._remove(opened)  # it could not be known
        async with server(tmp_path, node, mode) as again:
            await agree(tmp_path, node)
            await said(again, error="", reading=None, complete=mode == "all")


async def test_the_default_takes_what_a_node_tells_of_changes(tmp_path: Path) -> None:
    """With `subscribed` changes are read by pages where a node has them, but nothing else is."""
    async with full_node(pages=True) as node:
        async with server(tmp_path, node, "all") as first:
            await said(first, complete=True)
            await first.stop()
        changed, closed, opened = change_some(node)
        async with server(tmp_path, node, "subscribed"):
            await until(lambda: opened in stored(tmp_path), seconds=15)
        now = stored(tmp_path)
        assert now[changed] == held(node)[changed]
        assert closed in now


async def test_an_interruption_is_caught_up_too(tmp_path: Path) -> None:
    """What was written while the connection was down is read, for accounts that nobody is subscribed to."""
    async with full_node() as node, server(tmp_path, node, "known") as running, Client(running.url) as client:
        changed, closed, _ = change_some(node)
        await until(lambda: changed in stored(tmp_path), seconds=15)  # told live: now it is known
        assert closed not in stored(tmp_path)
        await said(running, reading=None)

        def meanwhile() -> None:
            node.write(msgspec.structs.replace(node._ledger._accounts[changed], slot=0, lamports=78))

        await node.restart(meanwhile=meanwhile)
        await until(lambda: stored(tmp_path)[changed] == held(node)[changed], seconds=15)
        found = await client.ask(action="subscribe", pubkey=changed)
        assert found["found"] == [changed]
        await until(lambda: client.updates[-1]["account"]["lamports"] == 78)  # committed, it may be about to come


@asynccontextmanager
async def behind_http(
    node: Devnode, instead: Callable[[dict[str, Any]], Any]
) -> AsyncIterator[tuple[HostileHttp, dict[str, str]]]:
    """Run an HTTP JSON-RPC that answers as `node` does, unless `instead` answers; yields it and the setting."""

    async def respond(request: dict[str, Any]) -> Any:
        refusal = instead(request)
        refusal = await refusal if asyncio.iscoroutine(refusal) else refusal
        return refusal or web.Response(body=answer(msgspec.json.encode(request), node._ledger.call))

    async with hostile_http(respond) as http:
        yield http, {"RPC_HTTP_URL": http.url}


def lists(http: HostileHttp) -> list[str]:
    """Return what lists were asked to begin with, "" for all."""
    asked = [request["params"][1] for request in http.requests if request["method"] == "getProgramAccounts"]
    return [each["filters"][0]["memcmp"]["bytes"] if "filters" in each else "" for each in asked]


async def test_a_fill_that_was_killed_goes_on(tmp_path: Path) -> None:
    """After SIGKILL the kind that was not read comes first, and what was read is there."""
    async with full_node() as node:
        for number in range(1_001, 2_102):
            for data in (b"kind-one", b"kind-two"):
                pubkey = derived_pubkey(KEYS[data], number)
                node._ledger.apply(msgspec.structs.replace(STRAY, pubkey=pubkey, slot=1, data=data))
        going_on = asyncio.Event()

        async def hang() -> None:
            await going_on.wait()

        instead = lambda _: hang() if len([each for each in lists(http) if each]) == 2 else None  # noqa: E731
        async with behind_http(node, instead) as (http, env):
            async with server(tmp_path, node, "all", **env) as first:
                await until(lambda: len([each for each in lists(http) if each]) == 2, seconds=15)
                await until(lambda: len(stored(tmp_path)) > 1_100, seconds=15)
                assert (await report(first))["complete"] is False
            done, missing = [each for each in lists(http) if each]
            http.requests.clear()
            going_on.set()
            async with server(tmp_path, node, "all", **env) as again:
                await said(again, complete=True)
            assert next(each for each in lists(http) if each) == missing
            assert done in lists(http)
        assert stored(tmp_path) == held(node)


async def test_a_node_that_lists_nothing_is_told_of(tmp_path: Path) -> None:
    """Without getProgramAccounts the server serves, and says what is missing and what to do."""
    no_lists = {"error": {"code": -32010, "message": "excluded from account secondary indexes"}}
    instead = lambda request: no_lists if "ProgramAccounts" in request["method"] else None  # noqa: E731
    async with full_node() as node, behind_http(node, instead) as (_, env):
        async with server(tmp_path, node, "all", **env) as running:
            told = await said(running, status="degraded")
            assert "excluded" in told["error"]
            assert told["complete"] is False
    assert running.stderr.count(b"backfill failed") == 1
    assert b"use a node that offers it, or BACKFILL=known" in running.stderr


async def test_an_interruption_during_a_backfill_is_caught_up_as_well(tmp_path: Path) -> None:
    """What was read before the interruption is read once more."""
    asked = asyncio.Event()
    release = asyncio.Event()

    async def hold() -> None:
        asked.set()
        await release.wait()

    instead = lambda request: hold() if request["method"] == "getMultipleAccounts" else None  # noqa: E731
    async with full_node() as node, behind_http(node, instead) as (_, env):
        async with server(tmp_path, node, "all", **env) as running:
            await asked.wait()
            changed = min(node._ledger._by_owner[PROGRAM])
            await node.restart(
                meanwhile=lambda: node.write(
                    msgspec.structs.replace(node._ledger._accounts[changed], slot=0, lamports=78)
                )
            )
            release.set()
            await said(running, complete=True)
            assert stored(tmp_path) == held(node)


async def test_readyz_and_the_metrics_tell_of_it(tmp_path: Path) -> None:
    """How many accounts were read, how often, and whether the store is complete."""
    async with full_node() as node, server(tmp_path, node, "all") as running:
        told = await said(running, complete=True, reading=None)
        assert told == {
            "status": "ok",
            "mode": "all",
            "complete": True,
            "reading": None,
            "done": None,
            "total": None,
            "unusable": 0,
            "not_reread": 0,
            "error": "",
        }
        async with aiohttp.ClientSession(running.http_url) as http, http.get("/metrics") as response:
            metrics = await response.text()
    assert f"account_socket_backfill_accounts_total {len(held(node))}.0" in metrics
    assert "account_socket_backfill_passes_total 1.0" in metrics
    assert "account_socket_backfill_complete 1.0" in metrics
