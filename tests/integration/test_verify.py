"""What is stored against what the node says: real databases, a real node, a server that goes on beside."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.commands import run
from tests.running import ServerProcess
from tests.servers import free_port
from tests.waiting import until

from account_socket.cli.audit import MAX_CHANGES, STILL_ROUNDS, Audit, Difference
from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import AccountUpdate, Origin, RawAccount
from account_socket.programs import load_programs
from account_socket.sources.rpc_http import RpcHttp
from account_socket.store.sqlite import SqliteStore
from account_socket.store.stored_accounts import StoredAccounts

REGISTRY = load_programs()
RECORDING = shipped_recording()
POOLS = list({w.account.pubkey: w.account for w in RECORDING.writes if len(w.account.data) == 1112}.values())
POOL, OTHER_POOL = POOLS[:2]
NOBODY = "11111111111111111111111111111111"
ROUND_SECONDS = 0.05


def update(number: int, raw: RawAccount, *, closed: bool = False) -> AccountUpdate:
    """Return what the pipeline makes of a state."""
    decoded = REGISTRY.decode(raw.owner, raw.data)
    return AccountUpdate(
        id=number,
        prev_id=None,
        pubkey=raw.pubkey,
        slot=raw.slot,
        write_version=0,
        content_hash=raw.content_hash(),
        account_type=decoded.account_type,
        owner=raw.owner,
        lamports=raw.lamports,
        executable=raw.executable,
        rent_epoch=raw.rent_epoch,
        data=raw.data,
        data_json=b"null" if closed else decoded.data_json,
        created_at="2026-01-01T00:00:00.000000Z",
        closed=closed,
        origin=Origin.LIVE,
        received_at=0.0,
        account_json=b"{}",
    )


class Place:
    """A quiet node and a store beside it."""

    def __init__(self, node: Devnode, store: SqliteStore, path: Path) -> None:
        self.node = node
        self.store = store
        self.path = path
        self._ids = count(1)

    async def keep(self, *states: RawAccount, closed: bool = False) -> None:
        await self.store.append([update(next(self._ids), state, closed=closed) for state in states])

    def tamper(self, sql: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as other, other:
            assert other.execute(f"UPDATE account_state SET {sql}", values).rowcount

    async def audit(self, pubkeys: Iterable[str]) -> tuple[Audit, list[Difference]]:
        return await audit(self.node, self.path, pubkeys, ROUND_SECONDS)


async def audit(
    node: Devnode, path: Path, pubkeys: Iterable[str], round_seconds: float
) -> tuple[Audit, list[Difference]]:
    rpc = RpcHttp(node.http_url, max_rps=1_000)
    try:
        with closing(StoredAccounts(path)) as stored:
            auditing = Audit(stored, rpc, REGISTRY, round_seconds=round_seconds)
            return auditing, [difference async for difference in auditing.compare(each(pubkeys))]
    finally:
        await rpc.close()


async def each(pubkeys: Iterable[str]) -> AsyncIterator[str]:
    for pubkey in pubkeys:
        yield pubkey


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Place]:
    path = tmp_path / "account.db"
    store = SqliteStore(path)
    await store.open()
    async with Devnode(RECORDING, rate=0.01, loop=True, start_on_subscribe=True) as node:
        await store.bind(node.genesis_hash)
        yield Place(node, store, path)
    await store.close(next_id=None)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with opened(tmp_path) as opened_place:
        yield opened_place


def fresh(account: RawAccount, **changes: object) -> RawAccount:
    return msgspec.structs.replace(account, slot=0, **changes)


# ---- comparing ---------------------------------------------------------------------------------------------


async def test_what_the_node_has_is_equal(place: Place) -> None:
    """Accounts that are stored as the node has them are equal, each compared once; others are said to be unknown."""
    await place.keep(*(place.node.write(fresh(pool)) for pool in POOLS))
    done, differences = await place.audit([*(pool.pubkey for pool in POOLS), NOBODY])
    assert differences == []
    assert (done.tally.compared, done.tally.unknown, done.tally.unsettled) == (len(POOLS), [NOBODY], 0)
    assert done.tally.last_slot is not None


@pytest.mark.parametrize(
    ("sql", "value", "told"),
    [
        ("lamports = ?", 7, ("lamports", 7, POOL.lamports)),
        ("owner = ?", NOBODY, ("owner", NOBODY, POOL.owner)),
        ("executable = ?", 1, ("executable", True, False)),
        ("raw = ?", POOL.data[:-1] + b"\xff", ("data[1111]", 255, POOL.data[-1])),
        ("raw = ?", POOL.data[:-2], ("data bytes", 1110, 1112)),
        ("raw = ?", "text", ("data bytes", 4, 1112)),
        ("closed = ?", 1, ("closed", True, False)),
        ("account_type = ?", "Config", ("account_type", "Config", "Pool")),
    ],
)
async def test_what_differs_is_named(place: Place, sql: str, value: object, told: tuple[str, object, object]) -> None:
    """A stored column that is not the node's is told, as it is stored and as the node has it, and nothing else."""
    await place.keep(place.node.write(fresh(POOL)), place.node.write(fresh(OTHER_POOL)))
    place.tamper(sql + " WHERE pubkey = ?", value, POOL.pubkey)
    done, [difference] = await place.audit([POOL.pubkey, OTHER_POOL.pubkey])
    assert (difference.pubkey, difference.changes, difference.more) == (POOL.pubkey, [told], 0)
    assert (done.tally.compared, done.tally.different) == (2, 1)


def leaf(state: RawAccount, path: str) -> Any:
    value: Any = {"data_json": json.loads(REGISTRY.decode(state.owner, state.data).data_json)}
    for name in path.split("."):
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


async def test_decoded_fields_are_named(place: Place) -> None:
    """Of another state the fields that differ are told by name, old and new, so many at most; so is wrong JSON."""
    later = next(
        w.account for w in RECORDING.writes if w.account.pubkey == POOL.pubkey and w.account.data != POOL.data
    )
    await place.keep(place.node.write(fresh(POOL)), place.node.write(fresh(OTHER_POOL)))
    place.node.write(fresh(later))
    place.tamper("data_json = '{}' WHERE pubkey = ?", OTHER_POOL.pubkey)
    _, differences = await place.audit([POOL.pubkey, OTHER_POOL.pubkey])
    found = {difference.pubkey: difference for difference in differences}
    told = [change for change in found[POOL.pubkey].changes if change[0].startswith("data_json.")]
    assert told
    assert told == [(path, leaf(POOL, path), leaf(later, path)) for path, _, _ in told]
    assert len(found[OTHER_POOL.pubkey].changes) == MAX_CHANGES
    assert found[OTHER_POOL.pubkey].more == len(leaf(OTHER_POOL, "data_json")) - MAX_CHANGES


async def test_a_hash_that_lies_hides_nothing(place: Place) -> None:
    """The stored bytes are compared, not the hash that is stored beside them."""
    await place.keep(place.node.write(fresh(POOL)))
    place.tamper("raw = ?", b"\0" * 1112)
    assert len((await place.audit([POOL.pubkey]))[1]) == 1
    place.tamper("raw = ?, hash = x'00'", POOL.data)
    assert (await place.audit([POOL.pubkey]))[1] == []


async def test_closed_accounts(place: Place) -> None:
    """Closed here and there is equal, whoever owns it now; closed on one side only is told."""
    gone, foreign, missed, revived = (pool.pubkey for pool in POOLS[:4])
    await place.keep(*(place.node.write(fresh(pool)) for pool in POOLS[:4]))
    for pubkey in (gone, missed):
        place.node.close_account(pubkey)
    place.node.write(fresh(POOLS[1], owner=NOBODY))
    await place.keep(*(fresh(pool, data=b"", lamports=0) for pool in (POOLS[0], POOLS[1], POOLS[3])), closed=True)
    _, differences = await place.audit([gone, foreign, missed, revived])
    told = {difference.pubkey: difference.changes[0] for difference in differences}
    assert told == {missed: ("closed", False, True), revived: ("closed", True, False)}


# ---- while both go on --------------------------------------------------------------------------------------


async def test_a_state_that_is_about_to_be_stored_is_not_wrong(place: Place) -> None:
    """What the node has and the store gets a little later is equal in the end."""
    before = place.node.write(fresh(POOL))
    after = place.node.write(fresh(POOL, lamports=POOL.lamports + 1))
    await place.keep(before)
    auditing = asyncio.create_task(place.audit([POOL.pubkey]))
    await asyncio.sleep(ROUND_SECONDS * (STILL_ROUNDS - 2))
    await place.keep(after)
    done, differences = await auditing
    assert (differences, done.tally.unsettled) == ([], 0)


async def test_a_stored_state_newer_than_the_nodes_answer_is_waited_for(place: Place) -> None:
    """A node that lags behind what is stored is asked until it has come that far."""
    place.node.write(fresh(POOL))
    place.node.hold_reads()
    await place.keep(place.node.write(fresh(POOL, lamports=POOL.lamports + 1)))
    auditing = asyncio.create_task(place.audit([POOL.pubkey]))
    await asyncio.sleep(0.3)
    assert not auditing.done()
    place.node.hold_reads(held=False)
    done, differences = await auditing
    assert (differences, done.tally.unsettled) == ([], 0)


async def test_a_slot_that_never_was_is_compared_all_the_same(place: Place) -> None:
    """A stored slot far in the future keeps nobody waiting; it is told, also of a closed account."""
    gone = place.node.write(fresh(OTHER_POOL))
    await place.keep(place.node.write(fresh(POOL)), fresh(gone, data=b"", lamports=0))
    place.node.close_account(gone.pubkey)
    place.tamper("slot = ?, lamports = 5 WHERE pubkey = ?", 2**62, POOL.pubkey)
    place.tamper("slot = ?, closed = 1, account_type = 'Config' WHERE pubkey = ?", 2**62, gone.pubkey)
    _, differences = await place.audit([POOL.pubkey, gone.pubkey])
    told = {difference.pubkey: difference for difference in differences}
    slots = {pubkey: ("slot", 2**62, difference.node_slot) for pubkey, difference in told.items()}
    assert told[POOL.pubkey].changes == [slots[POOL.pubkey], ("lamports", 5, POOL.lamports)]
    assert told[gone.pubkey].changes == [slots[gone.pubkey]]


async def test_an_account_that_is_not_stored(place: Place) -> None:
    """What a program has and the database lacks differs; what is foreign, closed or nowhere is said to be unknown."""
    missed, foreign, gone = (place.node.write(fresh(pool)) for pool in POOLS[:3])
    place.node.write(fresh(foreign, owner=NOBODY))
    place.node.close_account(gone.pubkey)
    done, [difference] = await place.audit([missed.pubkey, foreign.pubkey, gone.pubkey, NOBODY])
    assert (difference.pubkey, difference.account_type, difference.stored_slot) == (missed.pubkey, "Pool", None)
    assert difference.changes == [("exists", False, True)]
    assert done.tally.unknown == [foreign.pubkey, gone.pubkey, NOBODY]
    assert (done.tally.compared, done.tally.different) == (1, 1)


async def test_an_account_that_is_about_to_be_stored_is_not_wrong(place: Place) -> None:
    """An account that the node has and the store gets a little later is equal in the end."""
    account = place.node.write(fresh(POOL))
    auditing = asyncio.create_task(place.audit([POOL.pubkey]))
    await asyncio.sleep(ROUND_SECONDS * (STILL_ROUNDS - 2))
    await place.keep(account)
    done, differences = await auditing
    assert (differences, done.tally.compared, done.tally.unsettled) == ([], 1, 0)


async def test_an_account_that_never_stands_still_is_not_called_wrong(place: Place) -> None:
    """An account that is different whenever it is looked at, and changes each time, is counted as unsettled."""
    await place.keep(place.node.write(fresh(POOL)))
    place.node.write(fresh(POOL, lamports=2**40))

    async def rewrite() -> None:
        for lamports in count(5):
            await place.keep(fresh(POOL, lamports=lamports))
            await asyncio.sleep(0.01)

    writing = asyncio.create_task(rewrite())
    done, differences = await place.audit([POOL.pubkey])
    writing.cancel()
    assert (differences, done.tally.unsettled) == ([], 1)


async def test_beside_a_live_server_only_what_is_wrong_is_called_so(tmp_path: Path) -> None:
    """
    Beside a server that goes on storing updates the accounts are found equal.

    But for those that were closed while nobody was subscribed to them, of which PubSub does not tell.
    """
    database = tmp_path / "account.db"
    async with Devnode(RECORDING, rate=80, loop=True, accounts=150) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url, "DISK_RESERVE_MB": "0"}) as server:
            with closing(StoredAccounts(database)) as stored:
                await until(lambda: stored.count() > 50, seconds=20)
                pubkeys = stored.page("", 1_000)
            done, differences = await audit(node, database, pubkeys, 0.4)
            assert await server.stop() == 0
    tally = done.tally
    assert [told for told in differences if told.changes[0] != ("closed", False, True)] == []
    assert tally.compared == len(pubkeys)
    assert tally.different + tally.unsettled < 0.2 * tally.compared


# ---- the command -------------------------------------------------------------------------------------------


async def test_verify_tells_differences(tmp_path: Path) -> None:
    """Differences are printed with their fields, the summary counts them, and the exit code is 1."""
    async with opened(tmp_path) as place:
        await place.keep(*(place.node.write(fresh(pool)) for pool in POOLS[:3]))
        env = {"RPC_HTTP_URL": place.node.http_url}
        place.tamper("lamports = 5 WHERE pubkey = ?", POOL.pubkey)
        missed = place.node.write(fresh(POOLS[3])).pubkey
        text, as_json, lacking, foreign = await asyncio.gather(
            run("verify", cwd=tmp_path, env=env),
            run("verify", POOL.pubkey, NOBODY, "--json", cwd=tmp_path, env=env),
            run("verify", missed, cwd=tmp_path, env=env),
            run("verify", NOBODY, cwd=tmp_path, env=env),
        )
    lines = text.out.splitlines()
    assert text.code == as_json.code == 1
    assert lines[0].startswith(f"{POOL.pubkey} Pool: stored at slot ")
    assert lines[1] == f"  lamports: 5 → {POOL.lamports}"
    assert lines[2].endswith("2 equal, 1 different")
    difference, summary = map(json.loads, as_json.out.splitlines())
    assert difference["differences"] == [{"field": "lamports", "stored": 5, "node": POOL.lamports}]
    assert (summary["compared"], summary["different"], summary["unknown"]) == (1, 1, [NOBODY])
    assert lacking.code == 1
    assert lacking.out.startswith(f"{missed} Pool: not in the database, the node's at slot ")
    assert foreign.code == 0
    assert foreign.out.startswith(
        f"{NOBODY}: neither in the database nor, as an account of the program, on the node\n"
    )


async def test_verify_counts_closes_apart(tmp_path: Path) -> None:
    """Accounts that only were closed since are counted among the different ones, and it is said how that comes."""
    async with opened(tmp_path) as place:
        await place.keep(*(place.node.write(fresh(pool)) for pool in POOLS[:3]))
        place.tamper("lamports = 5 WHERE pubkey = ?", POOLS[0].pubkey)
        place.node.close_account(POOLS[1].pubkey)
        env = {"RPC_HTTP_URL": place.node.http_url}
        text, one, as_json = await asyncio.gather(
            run("verify", "--all", cwd=tmp_path, env=env),
            run("verify", POOLS[2].pubkey, cwd=tmp_path, env=env),
            run("verify", "--all", "--json", cwd=tmp_path, env=env),
        )
    assert (text.code, one.code, as_json.code) == (1, 0, 1)
    assert text.out.endswith(": 1 equal, 2 different (1 of them only closed)\n")
    assert "PubSub does not tell of closes" in text.err
    assert one.out.startswith("compared 1 account at slots ")
    assert one.err == ""
    summary = json.loads(as_json.out.splitlines()[-1])
    assert (summary["equal"], summary["different"], summary["closed"]) == (1, 2, 1)


async def test_verify_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    """Another cluster, wrong usage and no node to ask exit 2; a node that is away and a missing database exit 1."""
    async with opened(tmp_path) as place, Devnode(RECORDING, loop=True, genesis_hash=NOBODY) as other:
        asked = [
            (2, "belongs to the cluster", (), {"RPC_HTTP_URL": other.http_url}),
            (2, "is not a base58 public key", ("abc",), {"RPC_URL": place.node.ws_url}),
            (2, "one of them", (POOL.pubkey, "--all"), {"RPC_URL": place.node.ws_url}),
            (2, "no node to compare with", (), {"GEYSER_URL": "http://127.0.0.1:1"}),
            (1, "there is no database", ("--database-url", "sqlite:no.db"), {"RPC_URL": place.node.ws_url}),
            (1, "127.0.0.1", (), {"RPC_HTTP_URL": f"http://127.0.0.1:{free_port()}"}),
        ]
        ends = await asyncio.gather(*(run("verify", *words, cwd=tmp_path, env=env) for _, _, words, env in asked))
    for ended, (code, told, _, _) in zip(ends, asked, strict=True):
        assert (ended.code, ended.out) == (code, ""), ended.err
        assert told in ended.err
        assert "Traceback" not in ended.err
    assert not (tmp_path / "no.db").exists()
