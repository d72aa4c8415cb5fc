"""Old history goes in small batches; without space history stops and state goes on. On a real database."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import msgspec
import pytest
from tests.running import Client, ServerProcess
from tests.samples import KEY_A, KEY_B, update
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.pipeline import retention as retention_module
from account_socket.pipeline.retention import BATCH, Retention
from account_socket.store.sqlite import SqliteStore

RECORDING = shipped_recording()


def count(database: Path, table: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        number: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return number


async def test_history_older_than_the_bound_goes_and_the_newest_states_stay(tmp_path: Path) -> None:
    """More old rows than one batch are deleted, newer ones and every account's state stay."""
    database = tmp_path / "account.db"
    store = SqliteStore(database)
    await store.open()
    old = [msgspec.structs.replace(update(n), created_at="2020-01-01T00:00:00.000000Z") for n in range(1, BATCH + 11)]
    new = [
        msgspec.structs.replace(update(n), created_at="2999-01-01T00:00:00.000000Z")
        for n in range(BATCH + 11, BATCH + 14)
    ]
    await store.append(old)
    await store.append(new)
    retention = Retention(store, keep_days=7, reserve_bytes=0, write_history=lambda _: None)
    await retention.prune()
    assert retention.pruned == BATCH + 10
    assert count(database, "account_updates") == 3
    assert set(await store.states([KEY_A])) == {KEY_A}
    await store.close(next_id=None)


@asynccontextmanager
async def opened(database: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(database)
    await store.open()
    yield store
    await store.close(next_id=None)


def keeping(store: SqliteStore, rows: int) -> Retention:
    return Retention(store, keep_days=36_500, keep_rows=rows, reserve_bytes=0, write_history=lambda _: None)


def ids(database: Path, pubkey: str) -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT id FROM account_updates WHERE pubkey = ? ORDER BY id", (pubkey,))
        return [number for (number,) in rows]


async def test_of_each_account_the_newest_rows_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a start every account is looked at, page by page; then those that grew; each keeps its newest rows."""
    monkeypatch.setattr(retention_module, "MAX_ACCOUNTS", 7)
    database = tmp_path / "account.db"
    keys = [f"key-{number:02}" for number in range(20)]
    async with opened(database) as store:
        await store.append([update(n, keys[n % 20]) for n in range(1, 201)])
        retention = keeping(store, 3)
        await retention.prune()
        assert retention.pruned == 140
        assert ids(database, keys[0]) == [160, 180, 200]
        await store.append([update(n, keys[0]) for n in range(201, 203)])
        await retention.prune()
        assert ids(database, keys[0]) == [200, 201, 202]
        assert {state.id for state in (await store.states(keys)).values()} == {*range(181, 200), 202}
        assert (retention.pruned, count(database, "account_updates")) == (142, 60)


async def test_only_accounts_that_grew_are_looked_at(tmp_path: Path) -> None:
    """After the first look at all, an account without new rows is left alone, whatever became of its rows."""
    database = tmp_path / "account.db"
    async with opened(database) as store:
        await store.append([update(1, KEY_A), update(2, KEY_B)])
        retention = keeping(store, 1)
        await retention.prune()
        with closing(sqlite3.connect(database)) as other, other:
            columns = "pubkey, slot, account_type, owner, lamports, data_json, created_at, prev_id, format, signature"
            other.execute(
                f"INSERT INTO account_updates (id, {columns}) SELECT 7, {columns} FROM account_updates WHERE id = 1"
            )
        await store.append([update(10, KEY_B)])
        await retention.prune()
    assert (ids(database, KEY_A), ids(database, KEY_B)) == ([1, 7], [10])


async def test_appends_go_on_beside_pruning(tmp_path: Path) -> None:
    """While many rows are deleted, groups are committed in between; in the end the newest rows are there."""
    database = tmp_path / "account.db"
    async with opened(database) as store:
        await store.append([update(n) for n in range(1, 1_001)])
        retention = keeping(store, 10)
        pruning = asyncio.create_task(retention.prune())
        appended = 1_000
        while not pruning.done():
            appended += 1
            await store.append([update(appended)])
        assert appended > 1_020
        await retention.prune()
        assert ids(database, KEY_A) == list(range(appended - 9, appended + 1))


async def test_the_file_shrinks_after_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What deleted rows leave goes back to the disk while the store is open, down to a bound."""
    monkeypatch.setattr(retention_module, "MIN_FREE_BYTES", 2**20)
    database = tmp_path / "account.db"
    big = b'"%s"' % (b"x" * 40_000)
    async with opened(database) as store:
        await store.append([update(n, data_json=big) for n in range(1, 301)])
        await until(lambda: database.stat().st_size > 300 * 40_000)
        running = asyncio.create_task(keeping(store, 10).run(every=0.1))
        await until(lambda: database.stat().st_size < 2**21, seconds=20)
        await until(lambda: store.statistics()["reusable_bytes"] <= 2**20)
        running.cancel()
        assert ids(database, KEY_A) == list(range(291, 301))


async def test_a_server_keeps_so_many_rows_of_each_account(tmp_path: Path) -> None:
    """With RETENTION_ROWS_PER_ACCOUNT a server deletes what is beyond it, also what was there before its start."""
    database = tmp_path / "account.db"
    async with Devnode(RECORDING, rate=500, loop=True, accounts=5) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url, "DISK_RESERVE_MB": "0"}) as server:
            await until(lambda: count(database, "account_updates") > 200, seconds=15)
            assert await server.stop() == 0
        node.pause()
        env = {"RPC_URL": node.ws_url, "DISK_RESERVE_MB": "0", "RETENTION_ROWS_PER_ACCOUNT": "4"}
        async with ServerProcess(tmp_path, env) as server:
            await until(lambda: count(database, "account_updates") <= 20, seconds=15)
            assert await server.stop() == 0


async def test_space_decides_whether_history_is_written(tmp_path: Path) -> None:
    """Below the reserve history is switched off once, and on again when there is space."""
    store = SqliteStore(tmp_path / "account.db")
    await store.open()
    await until(lambda: store.free_bytes is not None)
    told: list[bool] = []
    scarce = Retention(store, keep_days=7, reserve_bytes=2**62, write_history=told.append)
    scarce.check_space()
    scarce.check_space()
    assert told == [False]
    scarce._reserve_bytes = 0
    scarce.check_space()
    assert told == [False, True]
    await store.close(next_id=None)


async def test_a_server_without_space_streams_and_keeps_states_only(tmp_path: Path) -> None:
    """With DISK_RESERVE_MB above what is free, updates flow with ids, states are stored, /readyz says degraded."""
    async with Devnode(RECORDING, rate=300, loop=True) as node:
        env = {"RPC_URL": node.ws_url, "DISK_RESERVE_MB": str(2**31 - 1)}
        async with ServerProcess(tmp_path, env) as server, Client(server.url) as client:
            await until(lambda: b"history stops" in server.stderr, seconds=15)
            before = count(tmp_path / "account.db", "account_updates")
            pubkeys = sorted({write.account.pubkey for write in RECORDING.writes})
            await client.ask(action="subscribe", pubkeys=pubkeys)
            await until(lambda: len(client.updates) > 100, seconds=15)
            assert all(number is not None for number in client.ids)
            async with aiohttp.ClientSession() as http, http.get(f"{server.http_url}/readyz") as response:
                report = await response.json()
            assert (report["status"], report["database"]["history"]) == ("degraded", False)
            assert count(tmp_path / "account.db", "account_state") > 20
            assert count(tmp_path / "account.db", "account_updates") == before
            assert await server.stop() == 0
