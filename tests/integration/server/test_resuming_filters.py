"""Going on where a subscription by filter broke off: what concerned it since, then what is live."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import pytest
from tests.integration.server.resting import Rested, resting
from tests.integration.server.serving import RawClient, raw_client
from tests.samples import KEY_A, KEY_B
from tests.waiting import until

from account_socket.server import selection_catch_up

KEY_C = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"
IN, OUT = b'{"pool_status":1}', b'{"pool_status":0}'
SELECTED: dict[str, Any] = {"account_type": "Pool", "where": {"pool_status": 1}}

Told = tuple[str, int, str]
"""An account, an id, and what became of it: "", "left", "closed" or "retracted"."""


@pytest.fixture
async def rested() -> AsyncIterator[Rested]:
    async with resting() as rested:
        yield rested


def told(message: Any) -> Told:
    account = message["account"]
    return message["pubkey"], account["id"], "closed" if account.get("closed") else message.get("event", "")


def ask(client: RawClient, after_id: int, *, epoch: str = "e1", **more: Any) -> None:
    client.say({"action": "subscribe", "id": 1, "after_id": after_id, "epoch": epoch, **(more or SELECTED)})


async def resume(client: RawClient, after_id: int, **more: Any) -> tuple[list[Told], dict[str, Any]]:
    """Resume a subscription; return what comes between its ack and its snapshot_end, and that."""
    ask(client, after_id, **more)
    ack = await client.read_message()
    assert ack["type"] == "ack", ack
    return await up_to_the_end(client)


async def up_to_the_end(client: RawClient) -> tuple[list[Told], dict[str, Any]]:
    coming: list[Told] = []
    while "account" in (message := await client.read_message()):
        coming.append(told(message))
    assert message["type"] == "snapshot_end"
    return coming, message


def nobody_selects(rested: Rested) -> bool:
    selections = rested.served.hub.selections
    return len(selections) == 0 and not selections.active


async def test_what_concerned_it_then_the_end_then_what_is_live(rested: Rested) -> None:
    """What fitted, left, closed and was retracted behind the id comes in the order of ids, then each update once."""
    for pubkey, fields in (
        (KEY_A, {"data_json": IN}),
        (KEY_B, {"data_json": IN}),
        (KEY_C, {"data_json": OUT}),
        (KEY_A, {"data_json": IN}),
        (KEY_B, {"data_json": OUT}),
        (KEY_B, {"data_json": OUT}),
        (KEY_C, {"data_json": IN}),
        (KEY_A, {"closed": True}),
        (KEY_C, {"data_json": IN, "event": "retracted"}),
    ):
        await rested.commit(pubkey, **fields)
    async with raw_client(rested.served) as client:
        missed, end = await resume(client, 2)
        assert missed == [
            (KEY_A, 4, ""),
            (KEY_B, 5, "left"),
            (KEY_C, 7, ""),
            (KEY_A, 8, "closed"),
            (KEY_C, 9, "retracted"),
        ]
        assert end == {"type": "snapshot_end", "sub": 1, "count": 5, "recovered": True}
        await rested.commit(KEY_B, data_json=OUT)
        await rested.commit(KEY_C, data_json=OUT)
        await rested.commit(KEY_A, data_json=IN)
        assert told(await client.read_message()) == (KEY_C, 11, "left")
        assert told(await client.read_message()) == (KEY_A, 12, "")
    await until(lambda: nobody_selects(rested))


async def test_whoever_holds_an_account_since_before_learns_that_it_leaves(rested: Rested) -> None:
    """A server that never told this client of an account tells it when the account leaves, and when one closes."""
    await rested.commit(KEY_A, data_json=IN)
    await rested.commit(KEY_B, data_json=IN)
    await rested.commit(KEY_C, data_json=OUT)
    async with raw_client(rested.served) as client:
        assert await resume(client, 3) == ([], {"type": "snapshot_end", "sub": 1, "count": 0, "recovered": True})
        await rested.commit(KEY_A, data_json=OUT)
        await rested.commit(KEY_B, closed=True)
        await rested.commit(KEY_C, closed=True)
        await rested.commit(KEY_A, data_json=IN)
        assert [told(await client.read_message()) for _ in range(3)] == [
            (KEY_A, 4, "left"),
            (KEY_B, 5, "closed"),
            (KEY_A, 7, ""),
        ]


Spoil = Callable[[Rested], Awaitable[object]]


async def _without_history(rested: Rested) -> None:
    await rested.commit(KEY_B, history=False, data_json=IN)


async def _prune(rested: Rested) -> None:
    assert await rested.store.prune_accounts([KEY_A], keep=1, limit=10) == 1


async def _delete(rested: Rested) -> None:
    with sqlite3.connect(rested.store._path) as connection:  # type: ignore[attr-defined]
        assert connection.execute("DELETE FROM account_updates WHERE id = 2").rowcount == 1
    connection.close()


async def _lose(rested: Rested) -> None:
    made = rested.next_update(KEY_B, data_json=IN)
    await rested.store.append([made], lost_id=3)
    rested.served.hub.publish(made)


@pytest.mark.parametrize("spoil", [_without_history, _prune, _delete, _lose])
async def test_history_with_a_hole(rested: Rested, spoil: Spoil) -> None:
    """Where a row behind the id is or may be missing, all states come in pages, each once, and the end says so."""
    await rested.commit(KEY_A, data_json=IN)
    await rested.commit(KEY_A, data_json=OUT)
    await spoil(rested)
    await rested.commit(KEY_A, data_json=IN)
    newest = rested.served.last_id
    async with raw_client(rested.served) as client:
        coming, end = await resume(client, 1)
        assert end["recovered"] is False
        assert coming.count((KEY_A, newest, "")) == 1
        await rested.commit(KEY_A, data_json=OUT)
        assert told(await client.read_message()) == (KEY_A, newest + 1, "left")
    await until(lambda: nobody_selects(rested))


@pytest.mark.parametrize(("epoch", "after_id"), [("e2", 1), ("e1", 9), ("e1", 2**63 - 1)])
@pytest.mark.parametrize("snapshot", [True, False])
async def test_an_id_that_means_nothing_here(rested: Rested, epoch: str, after_id: int, snapshot: bool) -> None:
    """With an id of another epoch or above the newest it begins anew, with states where they are wanted."""
    await rested.commit(KEY_A, data_json=IN)
    await rested.commit(KEY_A, data_json=IN)
    async with raw_client(rested.served) as client:
        coming, end = await resume(client, after_id, epoch=epoch, snapshot=snapshot, **SELECTED)
        assert coming == ([(KEY_A, 2, "")] if snapshot else [])
        assert (end["count"], end["recovered"]) == (len(coming), False)
        await rested.commit(KEY_A, data_json=IN)
        assert told(await client.read_message()) == (KEY_A, 3, "")


async def test_more_was_missed_than_is_looked_through(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind more updates than are looked through come the states that are selected now; what was told stays told."""
    monkeypatch.setattr(selection_catch_up, "MAX_LOOKED_AT", 3)
    monkeypatch.setattr(selection_catch_up, "PAGE", 2)
    for pubkey in (KEY_A, KEY_B, KEY_A, KEY_C, KEY_C):
        await rested.commit(pubkey, data_json=IN)
    async with raw_client(rested.served) as client:
        coming, end = await resume(client, 0)
        assert coming[:2] == [(KEY_A, 1, ""), (KEY_B, 2, "")]
        assert sorted(coming[2:], key=lambda each: each[1]) == [(KEY_A, 3, ""), (KEY_C, 5, "")]
        assert (end["count"], end["recovered"]) == (2, False)


async def test_what_was_told_before_it_began_anew_is_taken_back(
    rested: Rested, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where history breaks off, accounts that it told of are told to have left or closed if they have."""
    monkeypatch.setattr(selection_catch_up, "MAX_LOOKED_AT", 3)
    monkeypatch.setattr(selection_catch_up, "PAGE", 2)
    for pubkey in (KEY_A, KEY_B, KEY_C):
        await rested.commit(pubkey, data_json=IN)
    await rested.commit(KEY_A, data_json=OUT)
    await rested.commit(KEY_B, closed=True)
    async with raw_client(rested.served) as client:
        coming, end = await resume(client, 0)
        assert coming[:2] == [(KEY_A, 1, ""), (KEY_B, 2, "")]
        assert sorted(coming[2:4]) == sorted([(KEY_A, 4, "left"), (KEY_B, 5, "closed")])
        assert coming[4:] == [(KEY_C, 3, "")]
        assert (end["count"], end["recovered"]) == (1, False)
        await rested.commit(KEY_A, data_json=OUT)
        await rested.commit(KEY_C, data_json=OUT)
        assert told(await client.read_message()) == (KEY_C, 7, "left")
    await until(lambda: nobody_selects(rested))


async def test_old_rows_of_other_types_are_not_missed(rested: Rested) -> None:
    """An account of another type whose row before is pruned hinders nobody; one that may have fitted does."""
    await rested.commit(KEY_B, data_json=OUT, account_type="Position")
    await rested.commit(KEY_C, data_json=OUT)
    await rested.commit(KEY_A, data_json=IN)
    assert await rested.store.prune(before="2030", limit=2) == 2
    await rested.commit(KEY_B, data_json=OUT, account_type="Position")
    async with raw_client(rested.served) as client:
        assert await resume(client, 3) == ([], {"type": "snapshot_end", "sub": 1, "count": 0, "recovered": True})
        await rested.commit(KEY_C, data_json=OUT)
    async with raw_client(rested.served) as client:
        coming, end = await resume(client, 3)
        assert (coming, end["recovered"]) == ([(KEY_A, 3, "")], False)


async def test_an_update_that_two_subscriptions_select_comes_once(rested: Rested) -> None:
    """What another subscription of the connection tells of is not told again from history."""
    await rested.commit(KEY_A, data_json=IN)
    await rested.commit(KEY_B, data_json=OUT)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "pubkey": KEY_B, "id": 7})
        assert told(await client.read_message())[:2] == (KEY_B, 2)
        await client.read_message()
        for pubkey, data_json in ((KEY_A, OUT), (KEY_B, IN), (KEY_A, IN)):
            await rested.commit(pubkey, data_json=data_json)
        assert told(await client.read_message())[:2] == (KEY_B, 4)
        assert (await resume(client, 2))[0] == [(KEY_A, 3, "left"), (KEY_A, 5, "")]
        wider, end = await resume(client, 2, account_type="Pool")
        assert (wider, end["sub"]) == ([(KEY_A, 3, "")], 2)
        await rested.commit(KEY_A, data_json=OUT)
        await rested.commit(KEY_B, data_json=OUT)
        assert [told(await client.read_message()) for _ in range(2)] == [(KEY_A, 6, ""), (KEY_B, 7, "")]


async def test_an_account_that_goes_from_one_subscription_to_another_has_not_left(
    rested: Rested, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two subscriptions that resume, each update comes by one; what goes from one to the other has not left."""
    for data_json in (IN, OUT, IN, OUT, OUT):
        await rested.commit(KEY_A, data_json=data_json)
    await rested.commit(KEY_B, data_json=OUT)
    await rested.commit(KEY_B, closed=True)
    between = rested.store.between

    async def between_for_both(*args: Any, **options: Any) -> Any:
        await until(lambda: len(rested.served.hub.selections) == 2)
        return await between(*args, **options)

    monkeypatch.setattr(rested.store, "between", between_for_both)
    async with raw_client(rested.served) as client:
        ask(client, 1)
        ask(client, 1, account_type="Pool", where={"pool_status": 0})
        coming, ends = [], 0
        while ends < 2:
            message = await client.read_message()
            ends += message.get("recovered", False)
            if "account" in message:
                coming.append(told(message))
        assert coming == [
            (KEY_A, 3, ""),
            (KEY_A, 2, ""),
            (KEY_A, 4, ""),
            (KEY_A, 5, ""),
            (KEY_B, 6, ""),
            (KEY_B, 7, "closed"),
        ]
        await rested.commit(KEY_A, data_json=IN)
        await rested.commit(KEY_A, data_json=b'{"pool_status":2}')
        assert [told(await client.read_message()) for _ in range(2)] == [(KEY_A, 8, ""), (KEY_A, 9, "left")]


@pytest.mark.parametrize("ends", ["unsubscribe", "disconnect"])
async def test_it_ends_while_history_is_read(rested: Rested, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """Unsubscribed or disconnected in the middle, nothing more comes and nothing is left of it."""
    await rested.commit(KEY_A, data_json=IN)
    await rested.commit(KEY_A, data_json=IN)
    between, reading, go_on = rested.store.between, asyncio.Event(), asyncio.Event()

    async def slow_between(*args: Any, **options: Any) -> Any:
        reading.set()
        await go_on.wait()
        return await between(*args, **options)

    monkeypatch.setattr(rested.store, "between", slow_between)
    async with raw_client(rested.served) as client:
        ask(client, 1)
        await reading.wait()
        if ends == "unsubscribe":
            client.say({"action": "unsubscribe", "sub": 1, "id": 2})
            assert [(await client.read_message())["action"] for _ in range(2)] == ["subscribe", "unsubscribe"]
            go_on.set()
            await rested.commit(KEY_A, data_json=IN)
            client.say({"action": "ping", "id": 3})
            assert (await client.read_message())["type"] == "pong"
    go_on.set()
    await until(lambda: nobody_selects(rested) and not rested.served.hub.subscriptions)


class Follower:
    """A client that is cut off at random, goes on each time, and notes what it was told."""

    def __init__(self, rested: Rested, random: Random, filter: dict[str, Any]) -> None:
        self._rested = rested
        self._random = random
        self._filter = filter
        self.told: list[Told] = []
        self.cuts = 0
        self.recovered = 0

    @property
    def reached(self) -> int:
        return self.told[-1][1] if self.told else 0

    async def run(self, done: asyncio.Event, last: Callable[[], int]) -> None:
        """Come and go until `done`, then have everything up to the update that all are told of."""
        while not (done.is_set() and self.reached == last()):
            self.cuts += 1
            async with raw_client(self._rested.served) as client:
                ask(client, self.reached, **self._filter)
                assert (await client.read_message())["type"] == "ack"
                for _ in range(self._random.choice([3, 10, 100])):
                    if done.is_set() and self.reached == last():
                        break
                    self._note(await client.read_message())

    def _note(self, message: dict[str, Any]) -> None:
        if "account" in message:
            self.told.append(told(message))
        else:
            assert (message["type"], message["recovered"]) == ("snapshot_end", True)
            self.recovered += 1


@pytest.mark.parametrize("seed", range(4))
async def test_it_is_told_the_same_as_who_stayed(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """However often it is cut off while updates come, a client is told exactly what one that stayed is told."""
    random = Random(seed)
    monkeypatch.setattr(selection_catch_up, "PAGE", random.choice([1, 3, 128]))
    keys = [KEY_A, KEY_B, KEY_C]
    async with resting(outbox_max_bytes=random.choice([2_000, 1 << 20])) as rested:
        done = asyncio.Event()
        wide: dict[str, Any] = {"program": "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"}
        followers = [Follower(rested, Random(seed * 10 + at), [SELECTED, wide][at % 2]) for at in range(4)]
        async with raw_client(rested.served) as stayed, asyncio.TaskGroup() as group:
            client: RawClient = stayed
            client.say({"action": "subscribe", "id": 1, **SELECTED})
            assert [(await client.read_message())["type"] for _ in range(2)] == ["ack", "snapshot_end"]
            tasks = [group.create_task(each.run(done, lambda: rested.served.last_id)) for each in followers]
            for _ in range(150):
                closed = random.random() < 0.1
                fields = {"closed": True} if closed else {"data_json": random.choice([IN, OUT])}
                await rested.commit(random.choice(keys), **fields)
                if random.random() < 0.6:
                    await asyncio.sleep(random.random() * 0.004)
            await rested.commit(KEY_A, data_json=IN)
            done.set()
            everything = [told(await client.read_message())]
            while everything[-1][1] < rested.served.last_id:
                everything.append(told(await client.read_message()))
            async with asyncio.timeout(20):
                await asyncio.gather(*tasks)
        for follower in followers[::2]:
            assert follower.told == everything
        assert followers[1].told == followers[3].told
        assert [id_ for _, id_, _ in followers[1].told] == sorted({id_ for _, id_, _ in followers[1].told})
        assert min(sum(each.cuts for each in followers), 2 * sum(each.recovered for each in followers)) >= 8
        await until(lambda: nobody_selects(rested))
