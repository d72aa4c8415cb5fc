"""Clients that read slowly or not at all."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import AsyncExitStack

import psutil
import pytest
from solders.pubkey import Pubkey
from tests.integration.server.serving import TEXT, RawClient, Served, good_client, raw_client, serving
from tests.samples import KEY_A, KEY_B
from tests.waiting import until

KEYS = [str(Pubkey(number.to_bytes(32, "big"))) for number in range(20)]


async def subscribe(client: RawClient, keys: list[str]) -> None:
    client.say({"action": "subscribe", "pubkeys": keys, "id": "ready"})
    assert (await client.read_message())["id"] == "ready"


def stop_reading(client: RawClient) -> None:
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]


def resume_reading(client: RawClient) -> None:
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]


async def publish_many(served: Served, count: int, *, size: int) -> None:
    for number in range(count):
        served.publish(KEYS[number % len(KEYS)], size=size)
        if number % 16 == 15:
            await asyncio.sleep(0)


async def test_a_stalled_client_ends_on_the_newest_states() -> None:
    """A client that stops reading while 20,000 updates fly ends on each account's newest state, ids always growing."""
    async with serving() as served, good_client(served), raw_client(served) as client:
        await subscribe(client, KEYS)
        stop_reading(client)
        gc.collect()
        before = psutil.Process().memory_info().rss
        await publish_many(served, 20_000, size=3000)
        grown = psutil.Process().memory_info().rss - before
        (connection,) = [one for one in served.listener.clients.connections if len(one.outbox.pubkeys) == len(KEYS)]
        assert connection.outbox.conflated > 10_000
        assert grown < 16 * 1024 * 1024  # of 60 MB sent; the client's own buffers are in this process too
        newest = {key: served.hub.newest(key) for key in KEYS}
        resume_reading(client)
        seen: dict[str, int] = {}
        last = 0
        while {key: seen.get(key) for key in KEYS} != {key: state and state.id for key, state in newest.items()}:
            message = await client.read_message()
            assert message["account"]["id"] > last
            last = seen[message["pubkey"]] = message["account"]["id"]
        client.say({"action": "ping", "id": "alive"})
        assert await client.read_message() == {"type": "pong", "id": "alive"}
        assert served.listener.clients.conflated == connection.outbox.conflated


async def test_a_stalled_client_is_closed() -> None:
    """A client that stays above high water is closed with 4008, which it finds behind what was sent, if it looks."""
    async with (
        serving(slow_consumer_seconds=0.3, ping_seconds=0.1, pong_seconds=0.1) as served,
        good_client(served),
        raw_client(served) as client,
    ):
        await subscribe(client, KEYS)
        stop_reading(client)
        await publish_many(served, 3_000, size=3000)
        await until(lambda: served.hub.subscriptions == 1)
        resume_reading(client)
        code, reason = await client.read_close()
        assert (code, "slow" in reason) == (4008, True)
        client.send(b"\x88\x80\0\0\0\0")
        await until(lambda: served.listener.connections == 1)
        assert served.listener.clients.closes == {"4008": 1}


async def test_a_stalled_client_is_cut_off() -> None:
    """A slow consumer that does not even read the close frame is cut off."""
    async with (
        serving(slow_consumer_seconds=0.2, slow_close_seconds=0.3) as served,
        raw_client(served) as client,
    ):
        await subscribe(client, KEYS)
        stop_reading(client)
        await publish_many(served, 3_000, size=3000)
        await until(lambda: served.listener.clients.sockets == 0, seconds=3)
        assert served.listener.clients.closes == {"4008": 1}


async def test_missing_pongs_do_not_close_a_slow_client() -> None:
    """While a client is above high water, its missing pongs do not count; once it reads, they do again."""
    async with serving(ping_seconds=0.1, pong_seconds=0.15) as served, raw_client(served) as client:
        await subscribe(client, KEYS)
        stop_reading(client)
        await publish_many(served, 3_000, size=3000)
        await asyncio.sleep(0.6)
        assert served.listener.connections == 1
        resume_reading(client)
        code, _ = await client.read_close()
        assert code == 4012


async def test_a_client_that_asks_and_never_reads() -> None:
    """A client that asks for much and reads nothing is not read from any more; its cost stays bounded."""
    async with serving() as served, good_client(served), raw_client(served) as client:
        keys = [str(Pubkey(number.to_bytes(32, "big"))) for number in range(1000)]
        await subscribe(client, keys)
        stop_reading(client)
        before = psutil.Process().memory_info().rss
        for _ in range(2_000):
            client.say({"action": "list"})  # 45 KB each
        await until(lambda: len(served.listener.clients.slow) == 1)
        requests = served.listener.clients.tally.requests
        asked = -1
        while asked != requests["list"]:
            asked = requests["list"]
            await asyncio.sleep(0.05)
        assert asked < 150
        assert psutil.Process().memory_info().rss - before < 24 * 1024 * 1024
        resume_reading(client)
        for _ in range(2_000):
            assert len((await client.read_message())["pubkeys"]) == 1000


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_many_stalled_clients() -> None:
    """Ten stalled clients cost others nothing, and each little memory, as frames are shared."""
    async with serving() as served, good_client(served), AsyncExitStack() as stack:
        for _ in range(10):
            client = await stack.enter_async_context(raw_client(served))
            await subscribe(client, KEYS)
            stop_reading(client)
        before = psutil.Process().memory_info().rss
        await publish_many(served, 5_000, size=3000)
        assert len(served.listener.clients.slow) == 10
        assert psutil.Process().memory_info().rss - before < 10 * 1.5 * 1024 * 1024


async def test_a_slow_but_steady_client() -> None:
    """A client that reads little by little is never closed and never goes back in time."""
    async with serving(slow_consumer_seconds=0.5) as served, raw_client(served) as client:
        await subscribe(client, [KEY_A, KEY_B])
        publishing = asyncio.create_task(_publish_for(served, 1.5))
        last: dict[str, int] = {}
        while not publishing.done():
            for _ in range(200):
                opcode, payload = await client.read_frame()
                assert opcode == TEXT
                account = json.loads(payload)["account"]
                assert account["id"] > last.get(account["pubkey"], 0)
                last[account["pubkey"]] = account["id"]
                if served.last_id in last.values():
                    break
            await asyncio.sleep(0.02)
        assert served.listener.connections == 1


async def _publish_for(served: Served, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        for _ in range(8):
            served.publish(KEY_A, size=8000)
            served.publish(KEY_B, size=8000)
        await asyncio.sleep(0.002)
