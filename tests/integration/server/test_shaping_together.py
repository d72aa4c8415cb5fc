"""Several subscriptions of one connection in the same shape: what one ends, the others go on with."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.server.resting import resting
from tests.integration.server.serving import raw_client
from tests.integration.server.test_selecting import KEYS, follow, pool, select, selecting
from tests.samples import KEY_A, KEY_B
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.server.resting import Rested
    from tests.integration.server.serving import RawClient

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
RATE = 1_000
SHAPES: tuple[dict[str, Any], ...] = ({}, {"mode": "diff"}, {"fields": ["liquidity"]}, {"max_rate_ms": 20})


async def drop(client: RawClient, sub: int) -> list[dict[str, Any]]:
    """End a subscription; return what came before the ack."""
    client.say({"action": "unsubscribe", "sub": sub, "id": "drop"})
    messages = []
    while (message := await client.read_message()).get("id") != "drop":
        messages.append(message)
    return messages


async def by_name(client: RawClient, *pubkeys: str, **shape: Any) -> int:
    client.say({"action": "subscribe", "pubkeys": list(pubkeys), "id": "name", **shape})
    while (message := await client.read_message()).get("id") != "name":
        pass
    sub: int = message["sub"]
    return sub


def ids(messages: list[dict[str, Any]]) -> list[tuple[int, str | None]]:
    return [(each["account"]["id"], each.get("event")) for each in messages if "account" in each]


@asynccontextmanager
async def rated() -> AsyncIterator[tuple[Rested, RawClient]]:
    """As `selecting`; no window ends before `after_windows`."""
    async with selecting() as (rested, client):
        rested.served.listener.clients.rates._clock = lambda: 0.0
        yield rested, client


async def after_windows(rested: Rested, client: RawClient) -> list[tuple[int, str | None]]:
    """Return what was told once every window that is open now has ended."""
    rates = rested.served.listener.clients.rates
    seconds = count(rates._clock(), 2 * RATE / 1000)
    rates._clock = lambda: float(next(seconds))
    await until(lambda: not rates._running)
    now = float(next(seconds))
    rates._clock = lambda: now
    return ids(await follow(client, f"{rested.served.last_id} windows"))


# ---- at most so often --------------------------------------------------------------------------------------


async def test_nothing_is_held_beyond_its_subscription() -> None:
    """What waits for its time is let go of with the filter that brought it, though another one has the same rate."""
    async with rated() as (rested, client):
        sub = await select(client, account_type="Pool", max_rate_ms=RATE)
        await select(client, account_type="Config", max_rate_ms=RATE)
        for _ in range(2):
            await rested.commit(KEY_A, data_json=pool())
        assert ids(await drop(client, sub)) == [(1, None)]
        assert await after_windows(rested, client) == []


async def test_what_is_held_is_not_for_who_came_later() -> None:
    """A subscription that began after an update without states does not bring it, though its filter fits."""
    async with rated() as (rested, client), raw_client(rested.served) as other:
        sub = await select(client, account_type="Pool", max_rate_ms=RATE)
        await select(other, where={"pool_status": 0})
        for _ in range(2):
            await rested.commit(KEY_A, data_json=pool())
        await follow(client, 1)
        await select(client, where={"pool_status": 0}, max_rate_ms=RATE)
        await drop(client, sub)
        assert await after_windows(rested, client) == []


@pytest.mark.parametrize("first", ["name", "filter"])
async def test_what_another_subscription_brings_is_still_held(first: str) -> None:
    """By name and by filter in one rate: whichever ends, the newest state comes at the end of the window."""
    async with rated() as (rested, client):
        subs = {"name": await by_name(client, KEY_A, max_rate_ms=RATE)}
        subs["filter"] = await select(client, account_type="Pool", max_rate_ms=RATE)
        for _ in range(2):
            await rested.commit(KEY_A, data_json=pool())
        assert ids(await drop(client, subs[first])) == [(1, None)]
        assert await after_windows(rested, client) == [(2, None)]


async def test_a_page_that_tells_what_is_held_tells_it_alone() -> None:
    """An update that waits for its time and is told by another subscription's page does not come again."""
    async with rated() as (rested, client):
        await select(client, account_type="Pool", max_rate_ms=RATE)
        for _ in range(2):
            await rested.commit(KEY_A, data_json=pool())
        client.say({"action": "subscribe", "program": PROGRAM, "max_rate_ms": RATE})
        while (message := await client.read_message()).get("type") != "snapshot_end":
            told = message
        assert (told["source"], told["account"]["id"]) == ("database", 2)
        assert await after_windows(rested, client) == []
        await rested.commit(KEY_A, data_json=pool())
        assert ids(await follow(client, 10)) == [(3, None)]


async def test_who_was_not_told_since_is_not_told_again_that_it_left() -> None:
    """Out, in and out within one window is one `left`; in and closed after it is nothing; after a window, all anew."""
    wanted = {"account_type": "Pool", "where": {"pool_status": 0}, "max_rate_ms": RATE}
    async with rated() as (rested, client):
        await select(client, **wanted)
        for status in (0, 1, 0, 1):
            await rested.commit(KEY_A, data_json=pool(pool_status=status))
        await rested.commit(KEY_B, data_json=pool())
        await rested.commit(KEY_B, data_json=pool(pool_status=1))
        await rested.commit(KEY_B, data_json=pool())
        await rested.commit(KEY_B, closed=True)
        assert await after_windows(rested, client) == [(1, None), (2, "left"), (5, None), (6, "left")]
        for status in (0, 1):
            await rested.commit(KEY_A, data_json=pool(pool_status=status))
        await rested.commit(KEY_B, data_json=pool())
        await rested.commit(KEY_B, closed=True)
        assert await after_windows(rested, client) == [(9, None), (10, "left"), (11, None), (12, None)]


async def test_who_was_told_that_an_account_closed_is_not_told_that_it_left() -> None:
    """An account that is there again within a window, and does not fit any more before its end, is not told."""
    async with rated() as (rested, client):
        await select(client, where={"pool_status": 0}, max_rate_ms=RATE)
        await rested.commit(KEY_A, data_json=pool())
        await rested.commit(KEY_A, closed=True)
        rested.served.listener.clients.rates._clock = lambda: 1.5 * RATE / 1000
        assert ids([await client.read_message() for _ in range(2)]) == [(1, None), (2, None)]
        for status in (0, 1):
            await rested.commit(KEY_A, data_json=pool(pool_status=status))
        assert await after_windows(rested, client) == []


async def test_leaving_two_shapes_one_after_the_other_is_told_once() -> None:
    """Told in one shape while another one holds it, an account leaves when it has left both."""
    async with rated() as (rested, client):
        await select(client, where={"pool_status": [0, 2]}, max_rate_ms=RATE)
        await select(client, where={"pool_status": [0, 1, 3]})
        for status in (0, 1, 0, 2, 4):
            await rested.commit(KEY_A, data_json=pool(pool_status=status))
        assert await after_windows(rested, client) == [(1, None), (1, None), (2, None), (3, None), (5, "left")]


# ---- differences -------------------------------------------------------------------------------------------


async def test_differences_begin_with_a_state_again() -> None:
    """After their subscription ended, another one in the same shape tells the state first, whatever lived on."""
    async with selecting() as (rested, client):
        sub = await select(client, account_type="Pool", mode="diff")
        await select(client, account_type="Config", mode="diff")
        await by_name(client, KEY_B, mode="diff")
        for key in (KEY_A, KEY_B):
            await rested.commit(key, data_json=pool(liquidity="1"))
        await follow(client, 1)
        await drop(client, sub)
        await select(client, account_type="Pool", snapshot=False, mode="diff")
        for key in (KEY_A, KEY_B, KEY_A):
            await rested.commit(key, data_json=pool(liquidity="2"))
        told = await follow(client, 2)
        assert [(each["account"]["id"], each.get("shape")) for each in told] == [(3, None), (4, "diff"), (5, "diff")]


async def test_what_was_missed_begins_with_a_state() -> None:
    """A resume by name tells its first update whole, whatever a filter in the same shape told of the account."""
    async with selecting() as (rested, client):
        await select(client, account_type="Pool", mode="diff")
        for count_ in range(3):
            await rested.commit(KEY_A, data_json=pool(liquidity=str(count_)))
        await follow(client, 1)
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "mode": "diff", "id": 2})
        told = []
        while (message := await client.read_message()).get("type") != "ack":
            told.append((message["account"]["id"], message.get("shape")))
        assert told == [(2, None), (3, "diff")]


async def test_nothing_is_kept_of_accounts_that_closed() -> None:
    """A client of differences costs nothing for accounts that are gone."""
    async with selecting() as (rested, client):
        await select(client, account_type="Pool", mode="diff")
        for _ in range(2):
            await rested.commit(KEY_A, data_json=pool())
        await rested.commit(KEY_A, closed=True)
        assert len(await follow(client, 1)) == 3
        (connection,) = rested.served.listener.clients.connections
        (taken,) = connection._selecting._numbered._taken.values()
        assert taken.shaper._told == {}


# ---- clients that do not keep up ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
async def test_the_last_that_a_slow_client_is_told_of_an_account_is_the_newest(shape: dict[str, Any]) -> None:
    """Behind an ack that waits, an account that leaves and comes back does not end as one that left."""
    async with resting(outbox_max_bytes=64 * 1024) as rested, raw_client(rested.served) as client:
        hub, served = rested.served.hub, rested.served
        await select(client, where={"pool_status": 0}, **shape)
        await select(client, where={"pool_status": 2}, **shape)
        served.holding = True
        client.say({"action": "subscribe", "pubkeys": [KEYS[0]], "id": 77})
        await until(lambda: served.loads)
        (connection,) = served.listener.clients.connections
        for _ in range(3_000):
            hub.publish(rested.next_update(KEY_B, data_json=pool(pool_status=2, liquidity="9" * 8_000)))
            await asyncio.sleep(0)
            if connection.outbox.conflated:
                break
        assert connection.outbox.backlog == 1

        def publish(status: int) -> None:
            hub.publish(rested.next_update(KEY_A, data_json=pool(pool_status=status)))

        publish(0)
        await until(lambda: not connection.outbox.pending)
        served.settle(served.loads[-1])
        for status in (1, 0):
            await until(lambda: not connection.outbox.pending)
            publish(status)
        await until(lambda: not connection.outbox.pending)
        told = [each for each in await follow(client, 5) if each.get("pubkey", KEY_A) == KEY_A]
        assert [each.get("type") for each in told].count("ack") == 1
        assert ids(told)[-1] == (served.last_id, None)
        assert [id_ for id_, _ in ids(told)] == sorted({id_ for id_, _ in ids(told)})


# ---- whatever happens --------------------------------------------------------------------------------------


class Watching:
    """A client whose subscriptions by filter come and go while accounts change, and what it was told."""

    def __init__(self, rested: Rested, client: RawClient, shape: dict[str, Any]) -> None:
        self.rested = rested
        self.client = client
        self.shape = shape
        self.random = Random(1)
        self.subs: dict[int, dict[str, list[int]]] = {}
        self.states: dict[str, dict[str, int] | None] = {}
        self.log: list[dict[str, Any]] = []
        self.last_sub = 0

    def select(self) -> None:
        names = self.random.sample(["pool_status", "activation_type"], self.random.choice([1, 2]))
        where = {name: sorted(self.random.sample(range(3), self.random.choice([1, 2]))) for name in names}
        self.last_sub += 1
        self.subs[self.last_sub] = where
        self.client.say({"action": "subscribe", "account_type": "Pool", "where": where, **self.shape})

    async def step(self) -> None:
        chosen = self.random.random()
        key = self.random.choice(KEYS[:8])
        if chosen < 0.06 and len(self.subs) < 4:
            self.select()
        elif chosen < 0.1 and len(self.subs) > 1:
            sub = self.random.choice(list(self.subs))
            del self.subs[sub]
            self.client.say({"action": "unsubscribe", "sub": sub})
        elif chosen < 0.18 and self.states.get(key) is not None:
            self.states[key] = None
            await self.rested.commit(key, closed=True)
        else:
            self.states[key] = {name: self.random.randrange(3) for name in ("pool_status", "activation_type")}
            await self.touch(key)

    async def touch(self, key: str) -> None:
        if (state := self.states[key]) is not None:
            await self.rested.commit(key, data_json=pool(**state, liquidity=str(self.rested.served.last_id)))

    async def settle(self) -> None:
        """Wait for what is still to be told, and have every account told once more."""
        (connection,) = self.rested.served.listener.clients.connections
        for _ in range(2):
            self.log += await follow(self.client, f"{self.rested.served.last_id} asked")
            await until(lambda: connection._selecting._task is None)
            await until(lambda: not self.rested.served.listener.clients.rates._running)
            self.log += await follow(self.client, f"{self.rested.served.last_id} told")
            for key in self.states:
                await self.touch(key)
        self.log += await follow(self.client, "all")

    def fits(self, key: str) -> bool:
        state = self.states[key]
        return state is not None and any(
            all(state[name] in values for name, values in where.items()) for where in self.subs.values()
        )

    def check(self) -> None:
        """Fail at what is older than what came before it, came live twice, or left and was not there."""
        last: dict[str, dict[str, Any]] = {}
        for message in (each for each in self.log if "account" in each):
            before = last.get(message["pubkey"])
            if before is not None:
                assert message["account"]["id"] >= before["account"]["id"]
                assert message["account"]["id"] > before["account"]["id"] or message["source"] == "database"
            if message.get("event") == "left":
                assert before is not None
                assert (before.get("event"), before["account"].get("closed")) == (None, None)
            last[message["pubkey"]] = message
        for key in filter(self.fits, self.states):
            assert (last[key]["account"]["id"], last[key].get("event")) == (self.rested._newest[key], None)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_filters_that_come_and_go_are_told_what_holds(shape: dict[str, Any]) -> None:
    """With pages of what is there between the updates: none older, none live twice, `left` once, the newest last."""
    async with selecting() as (rested, client):
        watching = Watching(rested, client, shape)
        watching.select()
        for step in range(200):
            await watching.step()
            if step % 10 == 0:
                watching.log += await follow(client, step)
        await watching.settle()
        watching.check()
