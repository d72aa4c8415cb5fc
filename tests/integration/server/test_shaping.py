"""Subscriptions in other forms: some fields, differences, at most so often, every update."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.integration.server.resting import resting
from tests.integration.server.serving import raw_client
from tests.integration.server.test_selecting import follow, pool, select, selecting
from tests.samples import KEY_A, KEY_B
from tests.waiting import until


async def test_some_fields_only() -> None:
    """By name and by filter: states and updates hold the fields that were asked for, at their places."""
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=pool(liquidity="5", reward_infos=[{"mint": "m"}, {"mint": "n"}]))
        fields = ["liquidity", "reward_infos.1.mint"]
        client.say({"action": "subscribe", "pubkeys": [KEY_A], "fields": fields, "id": 1})
        state = await client.read_message()
        data = {"liquidity": "5", "reward_infos": [None, {"mint": "n"}]}
        assert (state["shape"], state["source"], state["account"]["data_json"]) == ("fields", "cache", data)
        assert (await client.read_message())["found"] == [KEY_A]
        await select(client, account_type="Pool", fields=fields)
        await rested.commit(KEY_A, data_json=pool(liquidity="6"))
        (live,) = await follow(client, 1)
        assert live["account"]["data_json"] == {"liquidity": "6"}
        assert live["account"].keys() == state["account"].keys()


async def test_differences_by_name() -> None:
    """First the state, then what changed; the state again at a close, and when the type changes."""
    async with selecting() as (rested, client):
        await rested.commit(KEY_A, data_json=pool(liquidity="5"))
        client.say({"action": "subscribe", "pubkeys": [KEY_A], "mode": "diff"})
        await rested.commit(KEY_A, data_json=pool(liquidity="6"), lamports=7)
        await follow(client, 0)
        await rested.commit(KEY_A, data_json=pool(liquidity="7"), lamports=7)
        (diff,) = await follow(client, 1)
        assert diff == {
            "pubkey": KEY_A,
            "source": "realtime",
            "shape": "diff",
            "account": {**diff["account"], "id": 3, "prev_id": 2},
            "changed": {"liquidity": ["6", "7"]},
        }
        keys = {"id", "pubkey", "slot", "account_type", "owner", "lamports", "created_at", "prev_id"}
        assert diff["account"].keys() == keys
        await rested.commit(KEY_A, data_json=pool(liquidity="7"), lamports=8)
        await rested.commit(KEY_A, data_json=pool(liquidity="7"), account_type="Config")
        await rested.commit(KEY_A, closed=True)
        lamports, other, closed = await follow(client, 2)
        assert lamports["changed"] == {"lamports": [7, 8]}
        assert "shape" not in other
        assert other["account"]["data_json"]["liquidity"] == "7"
        assert ("shape" in closed, closed["account"]["closed"]) == (False, True)


async def test_different_shapes_of_an_update_are_a_frame_each() -> None:
    """Two subscriptions in different shapes are both served; in the same shape, one frame."""
    async with selecting() as (rested, client):
        await select(client, account_type="Pool", mode="diff")
        await select(client, account_type="Pool", fields=["liquidity"])
        await select(client, where={"pool_status": 0}, fields=["liquidity"])
        await select(client, account_type="Pool")
        await rested.commit(KEY_A, data_json=pool(liquidity="1"))
        await rested.commit(KEY_A, data_json=pool(liquidity="2"))
        shapes = [message.get("shape") for message in await follow(client, 1)]
        assert sorted(map(str, shapes)) == ["None", "None", "None", "diff", "fields", "fields"]


async def test_at_most_so_often_and_never_a_stale_last() -> None:
    """Of many updates in a window the first comes at once and the newest at its end."""
    async with selecting() as (rested, client):
        await select(client, account_type="Pool", max_rate_ms=150)
        for _ in range(30):
            await rested.commit(KEY_A, data_json=pool())
        last = await rested.commit(KEY_B, data_json=pool())
        loop = asyncio.get_running_loop()
        first = [(await client.read_message())["account"]["id"] for _ in range(2)]
        began = loop.time()
        assert first == [1, last.id]
        assert (await client.read_message())["account"]["id"] == last.id - 1
        assert loop.time() - began > 0.03
        assert await follow(client, 1) == []


@pytest.mark.parametrize("shape", [{}, {"mode": "diff"}, {"fields": ["liquidity"]}])
async def test_who_asked_for_every_update_and_does_not_read_is_closed(shape: dict[str, Any]) -> None:
    """Where an update would be conflated, 4008 comes at once; up to there, everything came."""
    async with resting(outbox_max_bytes=64 * 1024) as rested, raw_client(rested.served) as client:
        await select(client, account_type="Pool", delivery="every", **shape)
        connections = rested.served.listener.clients.connections
        for count in range(4_000):
            rested.served.hub.publish(rested.next_update(KEY_A, data_json=pool(liquidity=f"{count}" * 300)))
            if count % 20 == 0:
                await asyncio.sleep(0)
            if next(iter(connections)).gone:  # type: ignore[attr-defined]
                break
        ids = []
        while True:
            opcode, payload = await client.read_frame()
            if opcode == 8:
                assert int.from_bytes(payload[:2], "big") == 4008
                break
            ids.append(json.loads(payload)["account"]["id"])
        assert ids == list(range(1, len(ids) + 1))
        assert count < 3_999


async def test_a_slow_client_of_differences_has_the_newest_states() -> None:
    """Whatever was conflated, what it makes of the differences is what was published last."""
    async with resting(outbox_max_bytes=64 * 1024) as rested, raw_client(rested.served) as client:
        await select(client, account_type="Pool", mode="diff")
        for count in range(3_000):
            key = (KEY_A, KEY_B)[count % 2]
            rested.served.hub.publish(
                rested.next_update(key, data_json=pool(liquidity=str(count), sqrt_price="9" * 900))
            )
            if count % 50 == 0:
                await asyncio.sleep(0)
        (connection,) = rested.served.listener.clients.connections
        await until(lambda: connection.outbox.conflated > 0)
        states: dict[str, Any] = {}
        while {states[key]["id"] for key in states} != {2_999, 3_000}:
            message = await client.read_message()
            account = message["account"]
            if message.get("shape") == "diff":
                old = states[account["pubkey"]]
                assert account["prev_id"] == old["id"]
                data = {**old["data_json"], **{path: new for path, (_, new) in message["changed"].items()}}
                account = {**account, "data_json": data}
            states[account["pubkey"]] = account
            assert int(account["data_json"]["liquidity"]) == account["id"] - 1


@pytest.mark.parametrize(
    "request_",
    [
        {"fields": ["liquidity"], "mode": "diff"},
        {"mode": "diff", "max_rate_ms": 5},
        {"fields": []},
        {"fields": "liquidity"},
        {"fields": [1]},
        {"mode": "half"},
        {"mode": 1},
        {"max_rate_ms": 0},
        {"max_rate_ms": 3_600_001},
        {"max_rate_ms": 1.5},
        {"max_rate_ms": True},
        {"delivery": "some"},
        {"delivery": "every", "max_rate_ms": 5},
        {"snapshot": 1},
        {"pubkeys": [KEY_A]},
        {"account_type": 1},
        {"program": None},
        {"where": []},
        {"where": {}},
        {"where": {"liquidity": []}},
        {"where": {"liquidity": 1.5}},
        {"where": {"liquidity": {"a": 1}}},
        {"where": {"liquidity": [[1]]}},
        {"where": {"liquidity": ["x"] * 101}},
        {"where": {"liquidity": "x" * 257}},
        {"where": {f"field_{index}": 1 for index in range(17)}},
        {"fields": ["liquidity"] * 65},
        {"unknown": 1},
    ],
)
async def test_a_wrong_request_is_refused(request_: dict[str, Any]) -> None:
    """What does not fit together, has a wrong type or is beyond a limit is `invalid_message`."""
    async with selecting() as (_, client):
        client.say({"action": "subscribe", "id": 3, "account_type": "Pool", **request_})
        error = await client.read_message()
        assert (error["type"], error["id"], error["code"]) == ("error", 3, "invalid_message")


async def test_a_rated_state_is_not_lost_to_a_filter_that_it_leaves() -> None:
    """What is held of an account that is subscribed to by name comes, though it leaves a filter of the same rate."""
    async with selecting() as (rested, client):
        client.say({"action": "subscribe", "pubkeys": [KEY_A], "max_rate_ms": 50})
        await select(client, account_type="Pool", where={"pool_status": 0}, max_rate_ms=50)
        await rested.commit(KEY_A, data_json=pool())
        await rested.commit(KEY_A, data_json=pool(pool_status=1))
        assert [(await client.read_message())["account"]["id"] for _ in range(2)] == [1, 2]
