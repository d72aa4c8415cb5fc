"""The whole server as a process on a local node: what its users see, kills and outages included."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.expected import MAINNET, PUBLIC, expected, records
from tests.running import Client, ServerProcess
from tests.samples import PROGRAM
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.programs import load_programs
from account_socket.sources.recording import RecordedWrite, Recording

RECORDING = shipped_recording()
REGISTRY = load_programs()
PUBKEYS = sorted({write.account.pubkey for write in RECORDING.writes})
BUSIEST = Counter(write.account.pubkey for write in RECORDING.writes).most_common(1)[0][0]


def upstream(node: Devnode) -> dict[str, str]:
    return {"RPC_URL": node.ws_url}


def stored(directory: Path, columns: str = "id, pubkey, slot, account_type, owner, lamports, data_json") -> list[Any]:
    connection = sqlite3.connect(f"file:{directory / 'account.db'}?mode=ro", uri=True)
    try:
        return connection.execute(f"SELECT {columns} FROM account_updates ORDER BY id").fetchall()
    finally:
        connection.close()


def as_row(account: dict[str, Any]) -> tuple[Any, ...]:
    names = ("id", "pubkey", "slot", "account_type", "owner", "lamports")
    return (*(account[name] for name in names), account["data_json"])


def rows_by_id(directory: Path) -> dict[int, tuple[Any, ...]]:
    return {row[0]: (*row[:6], json.loads(row[6])) for row in stored(directory)}


def assert_chained(updates: Sequence[dict[str, Any]]) -> None:
    """Ids grow per account, and each update names the one before: nothing missing, nothing twice."""
    chains = defaultdict(list)
    for update in updates:
        chains[update["pubkey"]].append(update["account"])
    for chain in chains.values():
        for before, after in pairwise(chain):
            assert after["id"] > before["id"]
            assert after["prev_id"] == before["id"]


async def subscribe_all(client: Client, pubkeys: Sequence[str]) -> dict[str, Any]:
    answer = await client.ask(action="subscribe", pubkeys=list(pubkeys))
    assert answer["type"] == "ack"
    return answer


async def test_a_seed_client_gets_the_state_and_then_live_updates(tmp_path: Path) -> None:
    """A client that sends the seed's subscribe, without id, gets a state, then `realtime` updates, nothing else."""
    async with Devnode(RECORDING, rate=300, loop=True, start_on_subscribe=True) as node:
        async with ServerProcess(tmp_path, upstream(node)) as server:
            await until(lambda: node.statistics()["writes"] > len(RECORDING.writes), seconds=15)
            async with Client(server.url) as client:
                await client.send(action="subscribe", pubkey=BUSIEST)
                await until(lambda: len(client.updates) >= 5, seconds=15)
            assert client.others == []
            assert client.updates[0]["source"] == "cache"
            assert {update["source"] for update in client.updates[1:]} == {"realtime"}
            assert_chained(client.updates)
            assert await server.stop() == 0


async def corpus_through_the_server(directory: Path, path: Path) -> int:
    """
    Replay `path` at 500 updates a second and compare what a client got, and SQLite, with the expected values.

    Returns:
        How many states were compared.
    """
    wanted = records(path)
    writes = []
    for number, record in enumerate(wanted):
        slot = record["slot"] if record["slot"] is not None else 1_000 + number
        lamports = record["lamports"] if record["lamports"] is not None else 5_000_000 + number
        account = msgspec.structs.replace(
            RECORDING.writes[0].account,
            pubkey=record["pubkey"],
            owner=record["owner"],
            slot=slot,
            lamports=lamports,
            data=base64.b64decode(record["data"]),
            rent_epoch=2**64 - 1,
        )
        writes.append(RecordedWrite(account))
    must = Counter(
        json.dumps(
            {
                "pubkey": write.account.pubkey,
                "slot": write.account.slot,
                "account_type": record["account_type"],
                "owner": record["owner"],
                "lamports": write.account.lamports,
                "data_json": expected(record),
            },
            sort_keys=True,
        )
        for record, write in zip(wanted, writes, strict=True)
    )
    recording = Recording(RECORDING.header, writes)
    node = Devnode(recording, rate=500)
    node.pause()
    async with node, ServerProcess(directory, upstream(node)) as server:
        async with Client(server.url) as client:
            await until(lambda: node.statistics()["subscriptions"] >= 1, seconds=15)
            await subscribe_all(client, sorted({write.account.pubkey for write in writes}))
            node.resume()
            await until(lambda: len(client.updates) >= len(wanted), seconds=30)
            await until(lambda: not must - states(client.updates), seconds=15)
            await asyncio.sleep(0.2)
        assert await server.stop() == 0
    # A re-read may be faster than the push, and tell a slot that is not complete yet: the push is then told as well.
    assert not must - states(client.updates)
    assert not states(live(client)) - must
    assert_chained(client.updates)
    ids = client.ids
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert {row[0]: row for row in rows_by_id(directory).values()} == {
        update["account"]["id"]: as_row(update["account"]) for update in client.updates
    }
    return must.total()


def states(updates: Sequence[dict[str, Any]]) -> Counter[str]:
    return Counter(json.dumps(seen(update["account"]), sort_keys=True) for update in updates)


def live(client: Client) -> list[dict[str, Any]]:
    """Return the pushed updates; the local node may tell a re-read of a slot that is not complete yet."""
    return [update for update in client.updates if update["source"] == "realtime"]


def seen(account: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in account.items() if key not in {"id", "created_at", "prev_id"}}


async def test_every_recorded_state_arrives_and_is_stored_with_the_expected_values(tmp_path: Path) -> None:
    """All 1,065 open states reach a client and SQLite at 500 a second: right, once, ids without a hole."""
    assert await corpus_through_the_server(tmp_path, PUBLIC) == 1_065


async def test_mainnet_accounts_arrive_and_are_stored_with_the_expected_values(tmp_path: Path) -> None:
    """Accounts dumped from mainnet go the same way."""
    if not MAINNET.exists():
        pytest.skip("the mainnet dump is not part of the project")
    assert await corpus_through_the_server(tmp_path, MAINNET) == len(records(MAINNET)) > 0


async def comes_to(client: Client, count: int) -> None:
    await until(lambda: len(client.updates) > count, seconds=20)


@pytest.mark.fault
async def test_ten_kills_use_no_id_twice_and_lose_nothing_that_was_seen(tmp_path: Path) -> None:
    """After ten SIGKILLs in mid-stream whatever a client saw with an id is in the database with that content."""
    everything: dict[int, tuple[Any, ...]] = {}
    async with Devnode(RECORDING, rate=2_000, loop=True, accounts=300) as node:
        server = ServerProcess(tmp_path, upstream(node))
        for round_number in range(10):
            await server.start()
            async with Client(server.url) as client:
                await until(lambda: len(node._ledger) >= 250, seconds=15)
                pubkeys = sorted(node._ledger._accounts)[:300]
                await client.send(action="subscribe", pubkeys=pubkeys, id=1)
                await comes_to(client, 150 + 37 * round_number)
                await server.kill()
                await until(lambda: client.closed is not None)
            for update in client.updates:
                account = update["account"]
                row = as_row(account)
                assert everything.setdefault(account["id"], row) == row
    in_database = rows_by_id(tmp_path)
    assert len(everything) > 1_000
    for number, row in everything.items():
        assert in_database[number] == row


async def streams(client: Client) -> None:
    """Return when three more updates have come."""
    before = len(client.updates)
    await until(lambda: len(client.updates) >= before + 3, seconds=20)


@pytest.mark.fault
@pytest.mark.timeout(120)
async def test_streaming_resumes_after_every_kind_of_outage(tmp_path: Path) -> None:
    """Dropped without a close, refusing for 10 s, silent, restarted: it streams again by itself within 15 s."""
    async with Devnode(RECORDING, rate=100, loop=True) as node, ServerProcess(tmp_path, upstream(node)) as server:
        async with Client(server.url) as client:
            await subscribe_all(client, PUBKEYS)
            await streams(client)
            node.drop_connections()
            await resumes(node, client, within=15)

            node.refuse()
            node.drop_connections()
            await asyncio.sleep(10)
            node.refuse(False)
            await resumes(node, client, within=15)

            node.silence()
            await until(lambda: "no slot" in server.stderr.decode(), seconds=20)
            node.silence(False)
            await resumes(node, client, within=15)

            port = int(node.ws_url.rsplit(":", 1)[1])
            await node.stop()
            await asyncio.sleep(1)
            async with Devnode(RECORDING, rate=100, loop=True, port=port) as restarted:
                await resumes(restarted, client, within=15)
                assert_ids_grow(client)
                assert server.process.returncode is None
                assert await server.stop() == 0


@pytest.mark.fault
async def test_what_happens_while_upstream_is_away_is_told_when_it_is_back(tmp_path: Path) -> None:
    """Accounts written, and one closed, while the node was not reachable: clients end on the node's state."""
    node = Devnode(RECORDING, rate=400, loop=True, accounts=120)
    async with node, ServerProcess(tmp_path, upstream(node)) as server, Client(server.url) as client:
        await until(lambda: len(node._ledger) >= 60, seconds=15)
        pubkeys = sorted(node._ledger._accounts)
        await subscribe_all(client, pubkeys)
        await streams(client)
        node.refuse()
        node.drop_connections()
        await asyncio.sleep(1)
        node.pause()
        node.close_account(pubkeys[0])
        node.refuse(False)

        def told() -> dict[str, Any]:
            return {each["pubkey"]: each["account"] for each in client.updates}

        def as_on_the_node() -> bool:
            on_the_node = node._ledger._accounts
            return all(
                account["lamports"] == on_the_node[pubkey].lamports
                and account["data_json"] == in_json(on_the_node[pubkey])
                for pubkey, account in told().items()
                if pubkey in on_the_node
            ) and told()[pubkeys[0]].get("closed", False)

        await until(as_on_the_node, seconds=20)
        assert_chained([each for each in client.updates if each["source"] != "cache"])
        assert await server.stop() == 0


def in_json(account: RawAccount) -> Any:
    return json.loads(REGISTRY.decode(account.owner, account.data).data_json)


def assert_ids_grow(client: Client) -> None:
    for pubkey in PUBKEYS:
        ids = [update["account"]["id"] for update in client.updates if update["pubkey"] == pubkey]
        assert ids == sorted(set(ids))


async def resumes(node: Devnode, client: Client, *, within: float) -> None:
    async with asyncio.timeout(within):
        await until(lambda: node.statistics()["subscriptions"] >= 1, seconds=within)
        await streams(client)


async def test_a_close_is_told_within_the_reconcile_time(tmp_path: Path) -> None:
    """PubSub does not tell of a close; the re-read does, and a re-opened account comes alive again."""
    async with Devnode(RECORDING, rate=400, loop=True) as node:
        env = {**upstream(node), "RECONCILE_SECONDS": "1"}
        async with ServerProcess(tmp_path, env) as server, Client(server.url) as client:
            await until(lambda: len(node._ledger) >= 20, seconds=15)
            node.pause()
            account = node._ledger.get(min(node._ledger._accounts))
            assert account is not None
            await subscribe_all(client, [account.pubkey])
            node.close_account(account.pubkey)
            await until(lambda: client.updates[-1]["account"].get("closed"), seconds=15)
            closed = client.updates[-1]["account"]
            assert closed["data_json"] is None
            assert closed["account_type"] == client.updates[0]["account"]["account_type"]
            node.write(msgspec.structs.replace(account, slot=0))
            await until(lambda: client.updates[-1]["account"]["data_json"] is not None, seconds=15)
            assert "closed" not in client.updates[-1]["account"]


async def test_health_readiness_and_metrics_tell_the_truth(tmp_path: Path) -> None:
    """/healthz, /readyz and /metrics answer on the same port, and readiness follows upstream."""
    async with Devnode(RECORDING, rate=100, loop=True) as node:
        env = {**upstream(node), "STALE_AFTER_SECONDS": "1"}
        async with ServerProcess(tmp_path, env) as server, aiohttp.ClientSession(server.http_url) as http:

            async def ready() -> tuple[int, dict[str, Any]]:
                async with http.get("/readyz") as response:
                    return response.status, await response.json()

            async def ready_is(status: int, word: str) -> None:
                async with asyncio.timeout(15):
                    while True:
                        code, report = await ready()
                        if (code, report["status"]) == (status, word):
                            return
                        await asyncio.sleep(0.05)

            await ready_is(200, "ok")
            async with http.get("/healthz") as response:
                assert response.status == 200
            async with http.get("/metrics") as response:
                text = await response.text()
            for name in (
                "account_socket_upstream_slot{",
                "account_socket_updates_total",
                "account_socket_commit_group_size_bucket",
                "account_socket_latency_seconds_bucket",
                "account_socket_store_wal_bytes",
                "account_socket_commit_queue_queued",
                "account_socket_connections",
                "account_socket_closes",
            ):
                assert name in text, name
            node.silence()
            await ready_is(503, "stale")
            node.silence(False)
            await ready_is(200, "ok")
            async with http.get("/nothing") as response:
                assert response.status == 404
                assert (await response.json())["error"]["code"] == "not_found"


async def test_another_clusters_node_is_refused(tmp_path: Path) -> None:
    """A database bound to one cluster makes the server exit with 2 on another one's node, naming both."""
    async with Devnode(RECORDING) as node, ServerProcess(tmp_path, upstream(node)) as server:
        await until(lambda: node.statistics()["subscriptions"] >= 1, seconds=15)
        assert await server.stop() == 0
        first = node.genesis_hash
    other = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
    async with Devnode(RECORDING, genesis_hash=other) as node:
        server = ServerProcess(tmp_path, upstream(node))
        with pytest.raises(AssertionError, match="exited 2"):
            await server.start()
        assert first in server.stderr.decode()
        assert other in server.stderr.decode()


@pytest.mark.fault
async def test_a_drain_sends_what_arrived_and_ends_in_time_with_a_locked_database(tmp_path: Path) -> None:
    """SIGTERM while the database is locked: clients are closed with 1001 and the process exits 0 within 10 s."""
    async with Devnode(RECORDING, rate=50, loop=True) as node, ServerProcess(tmp_path, upstream(node)) as server:
        async with Client(server.url) as client:
            await subscribe_all(client, PUBKEYS)
            await streams(client)
            lock = sqlite3.connect(tmp_path / "account.db", isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            started = asyncio.get_running_loop().time()
            assert await server.stop(seconds=11) == 0
            assert asyncio.get_running_loop().time() - started < 10
            lock.close()
            await until(lambda: client.closed is not None)
            assert client.closed is not None
            assert client.closed[0] == 1001


async def test_the_program_of_the_recording_is_what_the_server_asks_for(tmp_path: Path) -> None:
    """The server subscribes upstream to the programs it can decode, and to slots."""
    async with Devnode(RECORDING) as node, ServerProcess(tmp_path, upstream(node)):
        await until(lambda: node.statistics()["subscriptions"] >= 2, seconds=15)
        assert PROGRAM in {write.account.owner for write in RECORDING.writes}
