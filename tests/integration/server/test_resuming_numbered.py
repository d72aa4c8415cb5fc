"""Going on in numbered subscriptions: in other forms, and beside a plain one of the same account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.integration.server.resting import LARGE, Rested, resting
from tests.integration.server.serving import raw_client
from tests.integration.server.test_resuming import Gate, key_of, resume
from tests.integration.server.test_selecting import pool
from tests.samples import KEY_A, KEY_B
from tests.waiting import until

from account_socket.hub import shapers
from account_socket.server.rest_reading import READS_AT_ONCE


@pytest.fixture
async def rested() -> AsyncIterator[Rested]:
    async with resting() as rested:
        yield rested


async def test_an_update_while_a_plain_one_resumes_is_not_lost(
    rested: Rested, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came while a plain subscription resumed, and was not told before it ended, a numbered one is told, once."""
    await rested.commit()
    await rested.commit()
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "pubkeys": [KEY_A], "delivery": "every", "id": 1})
        assert key_of(await client.read_message())[1] == 2
        assert (await client.read_message())["sub"] == 1
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "id": 2})
        await gate.reached.wait()
        between = [(await rested.commit()).id for _ in range(2)]
        client.say({"action": "unsubscribe", "pubkey": KEY_A, "id": 3})
        assert [key_of(await client.read_message())[1] for _ in between] == between
        assert (await client.read_message())["id"] == 3
        gate.open.set()
        assert (await client.read_message())["id"] == 2
        live = await rested.commit()
        assert key_of(await client.read_message()) == (KEY_A, live.id, "realtime")


async def test_an_update_while_both_stay_comes_once(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the plain subscription does not end, what came while it resumed comes once."""
    await rested.commit()
    await rested.commit()
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "pubkeys": [KEY_A], "delivery": "every", "id": 1})
        assert key_of(await client.read_message())[1] == 2
        assert (await client.read_message())["sub"] == 1
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "id": 2})
        await gate.reached.wait()
        between = await rested.commit()
        gate.open.set()
        assert key_of(await client.read_message())[1] == 2
        assert (await client.read_message())["id"] == 2
        assert key_of(await client.read_message())[1] == between.id
        client.say({"action": "unsubscribe", "pubkey": KEY_A, "id": 3})
        assert (await client.read_message())["id"] == 3
        live = await rested.commit()
        assert key_of(await client.read_message())[1] == live.id


async def test_some_fields_are_resumed(rested: Rested) -> None:
    """Each update that was missed comes with the fields that were asked for, then the ack, then what is live."""
    for liquidity in "1234":
        await rested.commit(data_json=pool(liquidity=liquidity))
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "fields": ["liquidity"], "id": 1})
        missed = [await client.read_message() for _ in range(3)]
        assert [each["account"]["data_json"] for each in missed] == [{"liquidity": each} for each in "234"]
        assert [(each["shape"], each["source"]) for each in missed] == [("fields", "database")] * 3
        ack = await client.read_message()
        assert (ack["recovered"], ack["found"], ack["sub"]) == (True, [KEY_A], 1)
        await rested.commit(data_json=pool(liquidity="5"))
        assert (await client.read_message())["account"]["data_json"] == {"liquidity": "5"}


async def test_differences_are_resumed(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first update that was missed comes whole, the others and what is live as differences, without a step."""
    for liquidity in "1234":
        await rested.commit(data_json=pool(liquidity=liquidity))
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "mode": "diff", "id": 1})
        await gate.reached.wait()
        await rested.commit(data_json=pool(liquidity="5"))
        gate.open.set()
        whole, *missed, ack, live = [await client.read_message() for _ in range(5)]
        assert (whole["account"]["id"], whole["account"]["data_json"]["liquidity"]) == (2, "2")
        assert [each["changed"] for each in (*missed, live)] == [
            {"liquidity": list(step)} for step in ("23", "34", "45")
        ]
        assert [each["account"]["prev_id"] for each in (*missed, live)] == [2, 3, 4]
        assert (ack["recovered"], ack["found"]) == (True, [KEY_A])
        await rested.commit(data_json=pool(liquidity="6"))
        assert (await client.read_message())["changed"] == {"liquidity": ["5", "6"]}


async def test_rated_states_are_resumed(rested: Rested) -> None:
    """Each account's newest state comes once, and only if it was missed; ids that mean nothing are unrecovered."""
    for pubkey in (KEY_A, KEY_B, KEY_A, KEY_A):
        await rested.commit(pubkey)
    async with raw_client(rested.served) as client:
        *told, ack = await resume(client, {KEY_A: 1, KEY_B: 2}, max_rate_ms=1)
        assert [key[:2] for key in told] == [(KEY_A, 4)]
        assert (ack["recovered"], ack["found"]) == (True, [KEY_A, KEY_B])
        live = await rested.commit(KEY_B)
        assert key_of(await client.read_message()) == (KEY_B, live.id, "realtime")
        *told, ack = await resume(client, {KEY_A: 99, KEY_B: 2}, max_rate_ms=2)
        assert sorted(told) == sorted([(KEY_A, 4, "cache"), (KEY_B, live.id, "cache")])
        assert (ack["recovered"], ack["unrecovered"]) == (False, [KEY_A])


@pytest.mark.parametrize("shape", [{"fields": ["liquidity"]}, {"mode": "diff"}, {"max_rate_ms": 1}])
async def test_other_shapes_of_another_epoch(rested: Rested, shape: dict[str, Any]) -> None:
    """A subscription in another shape with ids of another epoch gets its state, and says so."""
    await rested.commit()
    await rested.commit()
    async with raw_client(rested.served) as client:
        (state, ack) = await resume(client, {KEY_A: 1}, epoch="e2", **shape)
        assert state[:2] == (KEY_A, 2)
        assert (ack["recovered"], ack["unrecovered"]) == (False, [KEY_A])


async def test_more_than_can_be_kept_beside_a_plain_one(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too much that came while a plain subscription resumed a numbered one is told the newest state."""
    monkeypatch.setattr(shapers, "KEPT_BYTES", 30_000)
    await rested.commit()
    await rested.commit()
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "account_type": "Pool", "id": 1})
        while (await client.read_message()).get("type") != "snapshot_end":
            pass
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "id": 2})
        await gate.reached.wait()
        newest = [(await rested.commit(data_json=LARGE)).id for _ in range(7)][-1]
        client.say({"action": "unsubscribe", "pubkey": KEY_A, "id": 3})
        assert key_of(await client.read_message())[1] == newest
        assert (await client.read_message())["id"] == 3
        gate.open.set()


async def test_reads_of_everybody_share_their_places(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many resume and read history by HTTP, only so many reads of the database run at once."""
    for _ in range(2):
        await rested.commit()
    let_go, running, most = asyncio.Event(), 0, 0

    def held(read: Any) -> Any:
        async def hold(*args: Any, **options: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await let_go.wait()
            running -= 1
            return await read(*args, **options)

        return hold

    for name in ("later", "history"):
        monkeypatch.setattr(rested.store, name, held(getattr(rested.store, name)))
    gets = [asyncio.create_task(rested.get(f"/v1/accounts/{KEY_A}/history")) for _ in range(4)]
    await until(lambda: running == 4)
    async with AsyncExitStack() as several:
        clients = [await several.enter_async_context(raw_client(rested.served)) for _ in range(6)]
        for client in clients:
            client.say({"action": "subscribe", "after": {KEY_A: 0}, "epoch": "e1", "id": 1})
            client.say({"action": "ping", "id": 2})
            assert (await client.read_message())["type"] == "pong"
        await until(lambda: running == READS_AT_ONCE)
        let_go.set()
        assert [status for status, *_ in await asyncio.gather(*gets)] == [200] * 4
        for client in clients:
            assert [key_of(await client.read_message())[1] for _ in range(2)] == [1, 2]
    assert most == READS_AT_ONCE


async def test_a_filter_beside_it_tells_nothing_meanwhile(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a subscription by filter would bring of an account that another one resumes comes once, in order."""
    for _ in range(3):
        await rested.commit(data_json=pool())
    gate = Gate(rested, monkeypatch)
    async with raw_client(rested.served) as client:
        client.say({"action": "subscribe", "account_type": "Pool", "snapshot": False})
        assert (await client.read_message())["type"] == "snapshot_end"
        client.say({"action": "subscribe", "after": {KEY_A: 1}, "epoch": "e1", "delivery": "every", "id": 2})
        await gate.reached.wait()
        await rested.commit(data_json=pool())
        gate.open.set()
        told = [await client.read_message() for _ in range(4)]
        assert [each.get("account", each)["id"] for each in told] == [2, 3, 2, 4]
        await rested.commit(data_json=pool())
        assert key_of(await client.read_message())[1] == 5
