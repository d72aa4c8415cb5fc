"""The pipeline on a real database that is locked, slow or full, and the snapshots beside it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.samples import KEY_A, KEY_B, raw
from tests.waiting import until

from account_socket.cache.memory import MemoryCache
from account_socket.errors import SourceError
from account_socket.hub.hub import Hub
from account_socket.hub.outbox import Batch, Outbox
from account_socket.model import SYSTEM_PROGRAM, AccountUpdate, Gap, Origin, RawAccount
from account_socket.pipeline.gaps import Gaps
from account_socket.pipeline.healing import Healer
from account_socket.pipeline.ordering import MAX_MARKS, Ordering
from account_socket.pipeline.pipeline import Pipeline
from account_socket.pipeline.snapshots import Snapshots
from account_socket.programs import load_programs
from account_socket.store.sqlite import SqliteStore

REGISTRY = load_programs()


@dataclass
class Node:
    """Stands where the RPC client is called: what getMultipleAccounts would say."""

    accounts: dict[str, RawAccount] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    fails: bool = False
    odd: str = ""
    silent: bool = False
    waiting: int = 0

    async def look_up(self, pubkeys: Sequence[str], at_least: int) -> tuple[int, list[RawAccount | None]]:
        self.asked.append(list(pubkeys))
        if self.silent:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
        if self.fails:
            raise SourceError("the node is away", retryable=True)
        if self.odd in pubkeys:
            raise SourceError("a state that makes no sense", retryable=False)
        return max(at_least, 9), [self.accounts.get(pubkey) for pubkey in pubkeys]


@dataclass
class Rig:
    store: SqliteStore
    ordering: Ordering
    pipeline: Pipeline
    hub: Hub
    cache: MemoryCache
    node: Node
    gaps: Gaps
    healer: Healer
    published: list[AccountUpdate]

    def subscribe(self, *pubkeys: str) -> Subscriber:
        return Subscriber(self.hub, pubkeys)


class Subscriber:
    def __init__(self, hub: Hub, pubkeys: Sequence[str]) -> None:
        self.messages: list[dict[str, Any]] = []
        self.acks: list[tuple[list[str], list[str]]] = []
        self.hub = hub
        self.outbox = Outbox(self.flush, Batch())
        self.subscribe(*pubkeys)

    def subscribe(self, *pubkeys: str) -> None:
        self.hub.subscribe(self.outbox, pubkeys, lambda done: self.acks.append((done.found, done.foreign)))

    def flush(self) -> None:
        for frame in self.outbox.take(writable=True):
            self.messages.append(json.loads(frame[frame.index(b"{") :]))


@asynccontextmanager
async def rig(database: Path, *, patience: float = 0.3, max_marks: int = MAX_MARKS) -> AsyncIterator[Rig]:
    store = SqliteStore(database)
    identity = await store.open()
    ordering = Ordering(REGISTRY.programs, identity.next_id, stored=identity.has_states, max_marks=max_marks)
    cache = MemoryCache(ttl=3600)
    node = Node()
    published: list[AccountUpdate] = []
    gaps = Gaps()
    snapshots = Snapshots(
        ordering=ordering,
        gaps=gaps,
        cache=cache,
        store=store,
        lookup=node.look_up,
        patience=patience,
    )
    hub = Hub(
        schedule=asyncio.get_running_loop().call_soon,
        load=snapshots.load,
        trusts=snapshots.trusts,
        is_foreign=snapshots.is_foreign,
    )

    def publish(update: AccountUpdate) -> None:
        published.append(update)
        hub.publish(update)

    pipeline = Pipeline(
        ordering=ordering,
        registry=REGISTRY,
        store=store,
        publish=publish,
        keep=cache.put,
        amend=lambda _: None,
        last_created_at=identity.last_created_at,
        patience=patience,
    )
    healer = Healer(
        gaps,
        known=lambda: ordering.knows_any,
        subscribed=hub.subscribed_pubkeys,
        reread=node.look_up,
        admit=pipeline.admit,
    )
    snapshots.attach(hub, pipeline.admit, pipeline.recall, healer.recheck)
    tasks = [
        asyncio.ensure_future(pipeline.run()),
        asyncio.ensure_future(snapshots.run()),
        asyncio.ensure_future(healer.run()),
    ]
    try:
        yield Rig(store, ordering, pipeline, hub, cache, node, gaps, healer, published)
    finally:
        drained = await pipeline.drain(1.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close(next_id=ordering.next_id if drained else None)


def rows(database: Path) -> list[tuple[int, str, str]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute("SELECT id, pubkey, data_json FROM account_updates ORDER BY id").fetchall()
    finally:
        connection.close()


def public_id(update: AccountUpdate) -> int | None:
    return json.loads(update.account_json)["id"]


async def test_what_is_published_is_in_the_database_already(tmp_path: Path) -> None:
    """At the moment an update is published its row can be read by another process's connection."""
    database = tmp_path / "account.db"
    async with rig(database) as here:
        seen: list[bool] = []
        here.hub.publish = lambda update: seen.append(  # type: ignore[method-assign]
            update.id in {row[0] for row in rows(database)}
        )
        for slot in range(1, 6):
            await here.pipeline.admit([raw(slot=slot, data=b"x%d" % slot)])
            await asyncio.sleep(0)
        await until(lambda: len(here.published) == 5)
        assert seen == [True] * 5


async def test_a_locked_database_delays_then_degrades_and_nothing_is_lost(tmp_path: Path) -> None:
    """While locked for longer than patience, updates go on with id null; then all rows come, ids as allotted."""
    database = tmp_path / "account.db"
    async with rig(database) as here:
        await here.pipeline.admit([raw(slot=1, data=b"1")])
        await until(lambda: len(here.published) == 1)
        lock = sqlite3.connect(database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        await here.pipeline.admit([raw(slot=2, data=b"2")])
        await asyncio.sleep(0.05)
        assert len(here.published) == 1, "within patience an update waits for its commit"
        await until(lambda: here.pipeline.degraded)
        await here.pipeline.admit([raw(slot=3, data=b"3")])
        assert [public_id(update) for update in here.published] == [1, None, None]
        # An id that is not on disk yet might be given again after a kill: it is not told as prev_id either.
        assert [json.loads(update.account_json)["prev_id"] for update in here.published] == [None, 1, None]
        lock.execute("ROLLBACK")
        lock.close()
        await until(lambda: not here.pipeline.degraded, seconds=15)
        await here.pipeline.admit([raw(slot=4, data=b"4")])
        await until(lambda: len(here.published) == 4, seconds=15)
        assert public_id(here.published[3]) == 4
    assert [row[0] for row in rows(database)] == [1, 2, 3, 4]


async def test_ids_and_created_at_only_grow_across_restarts(tmp_path: Path) -> None:
    """A restart goes on above the last id, chains prev_id, and drops what it knows already."""
    database = tmp_path / "account.db"
    async with rig(database) as here:
        await here.pipeline.admit([raw(slot=1, data=b"1")])
    async with rig(database) as here:
        await here.pipeline.admit([raw(slot=1, data=b"1"), raw(slot=2, data=b"2")])
        await until(lambda: len(here.published) == 1)
        assert (here.published[0].id, here.published[0].prev_id) == (2, 1)
    assert [row[0] for row in rows(database)] == [1, 2]


async def test_undecodable_bytes_are_published_and_stored_with_the_reason(tmp_path: Path) -> None:
    """Garbage of the program is an Unknown account with its bytes, never dropped."""
    async with rig(tmp_path / "account.db") as here:
        await here.pipeline.admit([raw(slot=1, data=b"\x00garbage")])
        await until(lambda: len(here.published) == 1)
        assert here.published[0].account_type == "Unknown"
        assert set(json.loads(here.published[0].data_json)) == {"raw", "error"}
        assert sum(here.pipeline.decode_failures.values()) == 1


async def test_a_closed_account_keeps_its_type_and_comes_alive_again(tmp_path: Path) -> None:
    """A close is published with data_json null and closed true; the next write makes it live."""
    async with rig(tmp_path / "account.db") as here:
        gone = raw(slot=2, data=b"", lamports=0, owner=SYSTEM_PROGRAM)
        await here.pipeline.admit([raw(slot=1, data=b"1"), gone, raw(slot=3, data=b"1")])
        await until(lambda: len(here.published) == 3)
        accounts = [json.loads(update.account_json) for update in here.published]
        assert [account.get("closed", False) for account in accounts] == [False, True, False]
        assert accounts[1]["data_json"] is None
        assert accounts[1]["account_type"] == accounts[0]["account_type"]
        assert accounts[1]["owner"] == SYSTEM_PROGRAM


async def test_the_state_of_a_known_account_comes_from_the_database_after_a_restart(tmp_path: Path) -> None:
    """What memory and cache forgot is read from the database, without asking the node."""
    database = tmp_path / "account.db"
    async with rig(database) as here:
        await here.pipeline.admit([raw(slot=1, data=b"1")])
    async with rig(database) as here:
        client = here.subscribe(KEY_A)
        await until(lambda: client.acks)
        assert [(each["source"], each["account"]["id"]) for each in client.messages] == [("database", 1)]
        assert client.acks == [([KEY_A], [])]
        assert here.node.asked == []


async def test_an_unknown_account_is_read_from_the_node_once(tmp_path: Path) -> None:
    """Clients that ask for unknown accounts share one read; misses and foreign accounts are remembered."""
    async with rig(tmp_path / "account.db") as here:
        here.node.accounts[KEY_A] = raw(slot=9, data=b"x", origin=Origin.REREAD)
        here.node.accounts[KEY_B] = raw(KEY_B, slot=9, data=b"x", origin=Origin.REREAD, owner=SYSTEM_PROGRAM)
        first = here.subscribe(KEY_A, KEY_B, "nobody")
        second = here.subscribe("nobody", KEY_A)
        await until(lambda: first.acks and second.acks)
        assert [(each["source"], each["account"]["slot"]) for each in first.messages] == [("rpc", 9)]
        assert first.acks == [([KEY_A], [KEY_B])]
        assert second.acks == [([KEY_A], [])]
        assert len(here.node.asked) == 1
        third = here.subscribe(KEY_A, KEY_B, "nobody")
        await until(lambda: third.acks)
        assert third.acks == [([KEY_A], [KEY_B])]
        third.subscribe(KEY_B, "nobody")
        assert third.acks[1:] == [([], [KEY_B])]
        assert len(here.node.asked) == 1


async def test_a_node_that_fails_costs_no_client_its_subscription(tmp_path: Path) -> None:
    """When the node cannot be asked, the ack comes without the account, and updates still arrive."""
    async with rig(tmp_path / "account.db") as here:
        here.node.fails = True
        client = here.subscribe(KEY_A)
        await until(lambda: client.acks)
        assert client.acks == [([], [])]
        await here.pipeline.admit([raw(slot=1, data=b"1")])
        await until(lambda: client.messages)
        assert client.messages[0]["source"] == "realtime"


async def test_reads_under_way_end_when_the_server_stops(tmp_path: Path) -> None:
    """None goes on after the drain, when the connections to the node are closed."""
    async with rig(tmp_path / "account.db", patience=60.0) as here:
        here.node.silent = True
        here.subscribe(KEY_A)
        await until(lambda: here.node.waiting)
    assert here.node.waiting == 0


async def test_an_account_that_makes_no_sense_harms_no_other(tmp_path: Path) -> None:
    """When the node's answer holds one odd account, the others of the same request are read all the same."""
    async with rig(tmp_path / "account.db") as here:
        here.node.odd = "odd"
        here.node.accounts[KEY_A] = raw(slot=9, data=b"x", origin=Origin.REREAD)
        client = here.subscribe("first", "odd", KEY_A, "last")
        await until(lambda: client.acks)
        assert client.acks == [([KEY_A], [])]


async def test_a_state_that_is_being_committed_is_never_older_than_the_stream(tmp_path: Path) -> None:
    """Subscribing while a newer state is on its way through the database yields that state, not the stored one."""
    database = tmp_path / "account.db"
    async with rig(database) as here:
        await here.pipeline.admit([raw(slot=1, data=b"1")])
    async with rig(database, patience=5) as here:
        lock = sqlite3.connect(database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        await here.pipeline.admit([raw(slot=2, data=b"2")])
        client = here.subscribe(KEY_A)
        await asyncio.sleep(0.1)
        assert client.messages == []
        lock.execute("ROLLBACK")
        lock.close()
        await until(lambda: client.acks, seconds=15)
        assert [(each["source"], each["account"]["slot"]) for each in client.messages] == [("realtime", 2)]


async def test_a_state_that_is_committed_but_not_published_yet_comes_once(tmp_path: Path) -> None:
    """Subscribing between the commit of an update and its fan-out yields that update once."""
    async with rig(tmp_path / "account.db", patience=5) as here:
        publish_all, go = here.pipeline._publish_all, asyncio.Event()

        async def publish_later(updates: list[AccountUpdate], refused: set[int]) -> None:
            await go.wait()
            await publish_all(updates, refused)

        here.pipeline._publish_all = publish_later  # type: ignore[method-assign]
        await here.pipeline.admit([raw(slot=1, data=b"1")])
        await until(lambda: here.store.statistics()["commits"] == 1)
        client = here.subscribe(KEY_A)
        await asyncio.sleep(0.2)
        go.set()
        await until(lambda: client.acks)
        await asyncio.sleep(0.05)
        assert [(each["source"], each["account"]["id"]) for each in client.messages] == [("realtime", 1)]


async def test_without_space_history_stops_and_state_goes_on(tmp_path: Path) -> None:
    """With history off an update is published with its id and the state is stored, without a row of history."""
    database = tmp_path / "account.db"
    async with rig(database) as here:
        here.pipeline.history = False
        await here.pipeline.admit([raw(slot=1, data=b"1")])
        await until(lambda: len(here.published) == 1)
        assert public_id(here.published[0]) == 1
        assert set(await here.store.states([KEY_A])) == {KEY_A}
    assert rows(database) == []


@pytest.mark.parametrize("count", [1, 7, 2_500])
async def test_a_burst_is_committed_in_few_groups_and_published_in_order(tmp_path: Path, count: int) -> None:
    """However many arrive at once, all are published in order of their ids, each once."""
    async with rig(tmp_path / "account.db") as here:
        await here.pipeline.admit([raw(f"key-{n}", slot=1, data=b"x") for n in range(count)])
        await until(lambda: len(here.published) == count, seconds=15)
        assert [update.id for update in here.published] == list(range(1, count + 1))
        assert here.store.statistics()["commits"] <= 2 + count / 25


GAP = Gap("rpc-0", from_slot=5, to_slot=20, reason="dropped")


async def test_a_gap_is_healed_for_subscribed_accounts(tmp_path: Path) -> None:
    """What was written, closed or left alone in a gap is told as it is: the change, the close, and nothing."""
    async with rig(tmp_path / "account.db") as here:
        await here.pipeline.admit([raw(key, slot=1, data=b"1") for key in (KEY_A, KEY_B, "same")])
        await until(lambda: len(here.published) == 3)
        client = here.subscribe(KEY_A, KEY_B, "same")
        await until(lambda: client.acks)
        here.node.accounts[KEY_A] = raw(slot=20, data=b"2", origin=Origin.REREAD)
        here.node.accounts["same"] = raw("same", slot=20, data=b"1", origin=Origin.REREAD)
        here.healer.report(GAP)
        await until(lambda: here.gaps.healed == 1)
        await until(lambda: len(client.messages) == 5)
        news = {each["pubkey"]: each for each in client.messages[3:]}
        assert set(news) == {KEY_A, KEY_B}
        assert news[KEY_A]["source"] == "rpc"
        assert (news[KEY_B]["account"]["closed"], news[KEY_B]["account"]["data_json"]) == (True, None)


async def test_an_account_that_a_gap_makes_doubtful_is_read_before_it_is_told(tmp_path: Path) -> None:
    """After a gap a new subscriber gets the node's state, or what was known if that is unchanged."""
    async with rig(tmp_path / "account.db") as here:
        await here.pipeline.admit([raw(KEY_A, slot=1, data=b"1"), raw(KEY_B, slot=1, data=b"1")])
        await until(lambda: len(here.published) == 2)
        here.healer.report(GAP)
        here.node.accounts[KEY_A] = raw(slot=20, data=b"2", origin=Origin.REREAD)
        here.node.accounts[KEY_B] = raw(KEY_B, slot=20, data=b"1", origin=Origin.REREAD)
        client = here.subscribe(KEY_A, KEY_B)
        await until(lambda: client.acks)
        assert {each["pubkey"]: each["account"]["id"] for each in client.messages} == {KEY_A: 3, KEY_B: 2}
        assert not any("stale" in each for each in client.messages)
        asked = len(here.node.asked)
        await until(lambda: here.subscribe(KEY_B).acks)
        assert len(here.node.asked) == asked, "what was re-read is trusted again"


async def test_a_doubtful_account_is_told_as_stale_where_no_node_answers_and_mended_later(tmp_path: Path) -> None:
    """Without a node a doubtful state is marked stale; as soon as the node answers, the change follows."""
    async with rig(tmp_path / "account.db") as here:
        await here.pipeline.admit([raw(slot=1, data=b"1")])
        await until(lambda: len(here.published) == 1)
        here.healer.report(GAP)
        here.node.fails = True
        client = here.subscribe(KEY_A)
        await until(lambda: client.acks)
        assert client.messages[0]["stale"] is True
        here.node.accounts[KEY_A] = raw(slot=20, data=b"2", origin=Origin.REREAD)
        here.node.fails = False
        await until(lambda: len(client.messages) == 2, seconds=15)
        assert client.messages[1]["account"]["slot"] == 20
        assert "stale" not in client.messages[1]


async def test_what_is_told_as_stale_after_the_gap_was_healed_is_read_again(tmp_path: Path) -> None:
    """A client that comes between a gap's healing and the end of the silence is not left with the state before."""
    async with rig(tmp_path / "account.db") as here:
        await here.pipeline.admit([raw(slot=1, data=b"1")])
    async with rig(tmp_path / "account.db") as here:
        here.healer.report(GAP)
        await until(lambda: here.gaps.healed == 1)
        here.hub.stale = True
        here.node.accounts[KEY_A] = raw(slot=20, data=b"2", origin=Origin.REREAD)
        client = here.subscribe(KEY_A)
        await until(lambda: len(client.messages) == 2)
        assert (client.messages[0]["source"], client.messages[0]["stale"]) == ("database", True)
        assert client.messages[1]["account"]["slot"] == 20


async def test_while_upstream_is_silent_states_are_told_at_once_and_as_stale(tmp_path: Path) -> None:
    """With the hub told that upstream is silent, a known state comes at once, marked stale."""
    async with rig(tmp_path / "account.db") as here:
        await here.pipeline.admit([raw(slot=1, data=b"1")])
        await until(lambda: len(here.published) == 1)
        here.hub.stale = True
        client = here.subscribe(KEY_A)
        assert client.acks
        await until(lambda: client.messages)
        assert (client.messages[0]["source"], client.messages[0]["stale"]) == ("cache", True)


async def test_what_is_forgotten_while_it_is_admitted_is_recalled(tmp_path: Path) -> None:
    """However few accounts are kept in memory, each update names the one before, and none goes back."""
    async with rig(tmp_path / "account.db", max_marks=5) as r:
        keys = [f"key-{number}" for number in range(200)]
        for slot in range(1, 5):
            await r.pipeline.admit([raw(key, slot=slot, data=b"%d" % slot) for key in keys])
            await until(lambda slot=slot: len(r.published) == slot * len(keys))
        await r.pipeline.admit([raw(key, slot=2, data=b"late") for key in keys])
    newest: dict[str, int] = {}
    for each in r.published:
        assert each.prev_id == newest.get(each.pubkey)
        newest[each.pubkey] = each.id
    assert len(r.published) == 4 * len(keys)


async def test_a_locked_database_is_read_all_the_same(tmp_path: Path) -> None:
    """Who comes first while nothing can be committed is known, and an older state is not taken for a newer one."""
    database = tmp_path / "account.db"
    async with rig(database) as r:
        await r.pipeline.admit([raw(slot=5, data=b"known"), raw(KEY_B, slot=5)])
        await until(lambda: len(r.published) == 2)
    async with rig(database) as r:
        lock = sqlite3.connect(database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        await r.pipeline.admit([raw(KEY_B, slot=6, data=b"new")])
        await until(lambda: r.pipeline.degraded)
        await r.pipeline.admit([raw(slot=4, data=b"late"), raw(slot=6, data=b"newer")])
        await until(lambda: len(r.published) == 2)
        assert [(each.pubkey, each.prev_id) for each in r.published] == [(KEY_B, 2), (KEY_A, 1)]
        lock.close()
