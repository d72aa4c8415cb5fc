"""Old history goes in small batches; without space history stops and state goes on. On a real database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import msgspec
from tests.running import Client, ServerProcess
from tests.samples import KEY_A, update
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
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
