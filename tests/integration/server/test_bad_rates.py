"""Clients that ask too often or connect too often, while a good client of the same server misses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.integration.server.serving import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    Served,
    frame,
    good_client,
    raw_client,
    request_head,
    serving,
)
from tests.samples import KEY_A, KEY_B
from tests.waiting import until


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(max_requests_per_second=50, request_burst=100) as served, good_client(served):
        yield served


def text(request: object) -> bytes:
    return frame(TEXT, json.dumps(request).encode())


FLOODS = {
    "requests": text({"action": "ping", "id": 1}),
    "requests without id": text({"action": "ping"}),
    "subscriptions": text({"action": "subscribe", "pubkey": KEY_B}) + text({"action": "unsubscribe", "pubkey": KEY_B}),
    "bad json": frame(TEXT, b"{"),
    "bad pubkeys": text({"action": "subscribe", "pubkey": "abc"}),
    "empty messages": frame(TEXT),
    "pings": frame(PING),
    "full pings": frame(PING, b"x" * 125),
    "pongs": frame(PONG, b"x"),
    "lists": text({"action": "list"}),
    "messages in parts": frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"}"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_is_disconnected(served: Served, flood: bytes) -> None:
    """A client that goes on though it is rate limited is closed with 4029, whatever kind of frame it sends."""
    async with raw_client(served) as client:
        client.send(flood * 2500)
        code, reason = await client.read_close()
        assert (code, "reconnect later" in reason) == (4029, True)


async def test_a_flood_of_empty_parts(served: Served) -> None:
    """A message of endless empty parts is closed like any flood, and holds no memory."""
    async with raw_client(served) as client:
        client.send(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 2500)
        code, _ = await client.read_close()
        assert code == 4029


async def test_refusals(served: Served) -> None:
    """Above the rate each request is refused with its id; after a pause the client is served again."""
    async with raw_client(served) as client:
        for number in range(150):
            client.say({"action": "ping", "id": number})
        answers = [await client.read_message() for _ in range(150)]
        refused = [answer["id"] for answer in answers if answer.get("code") == "rate_limited"]
        assert 30 < len(refused) <= 50
        assert refused[0] >= 100
        assert [answer["id"] for answer in answers] == list(range(150))
        client.send(frame(TEXT, b"{"))
        assert (await client.read_message())["code"] in {"rate_limited", "invalid_json"}
        await asyncio.sleep(0.1)
        client.say({"action": "ping", "id": "again"})
        assert await client.read_message() == {"type": "pong", "id": "again"}


async def test_the_default_burst_lets_a_full_set_of_subscriptions_through() -> None:
    """By default 10,000 accounts may be subscribed one by one at once."""
    from solders.pubkey import Pubkey

    async with serving() as served, good_client(served), raw_client(served) as client:
        keys = [str(Pubkey(number.to_bytes(32, "big"))) for number in range(10_000)]
        client.send(b"".join(text({"action": "subscribe", "pubkey": key}) for key in keys))
        client.say({"action": "subscribe", "pubkey": KEY_A, "id": "one too many"})
        assert (await client.read_message())["code"] == "too_many_subscriptions"
        assert served.hub.subscriptions == 10_001
        client.say({"action": "list", "id": 1})
        assert (await client.read_message())["pubkeys"] == keys


async def test_too_many_connections() -> None:
    """Beyond the limit a client is told 1013 and to come later; when one leaves, the next is let in."""
    async with serving(max_connections=3) as served, good_client(served), AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(raw_client(served))
        async with raw_client(served) as refused:
            assert await refused.read_close() == (1013, "server is full; reconnect later")
            refused.send(frame(CLOSE, b"\x03\xf5"))
            assert await refused.read_rest() == b""
        await stack.aclose()
        await until(lambda: served.listener.connections == 1)
        async with raw_client(served) as client:
            client.say({"action": "ping"})
            assert await client.read_message() == {"type": "pong"}
        assert served.listener.clients.refused == {"1013": 1}


async def test_too_many_connections_of_one_address() -> None:
    """Beyond the limit of one address a client is told 1013 with the reason."""
    async with serving(max_connections_per_ip=2) as served, good_client(served), raw_client(served):
        async with raw_client(served) as refused:
            code, reason = await refused.read_close()
            assert (code, "your address" in reason) == (1013, True)
    await until(lambda: served.listener.clients.sockets == 0)


async def test_a_refused_client_that_stays() -> None:
    """A refused client that does not leave is cut off, and what it says is not heard."""
    async with serving(max_connections=1, close_seconds=0.3) as served, good_client(served):
        async with raw_client(served) as refused:
            refused.say({"action": "subscribe", "pubkey": KEY_A, "id": 1})
            code, _ = await refused.read_close()
            assert code == 1013
            refused.say({"action": "subscribe", "pubkey": KEY_A, "id": 1})
            assert await _rest(refused) == b""
        assert served.listener.clients.sockets == 1
        assert served.hub.subscriptions == 1


async def _rest(client: RawClient) -> bytes:
    try:
        return await client.read_rest()
    except ConnectionResetError:
        return b""


async def test_far_too_many_sockets() -> None:
    """Sockets far beyond the limit are cut off before they say a word."""
    async with serving(max_connections=1, max_sockets=3) as served, good_client(served), AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(raw_client(served, shake=False))
        async with raw_client(served, shake=False) as client:
            assert await _rest(client) == b""
        assert served.listener.overflowed == 1


async def test_connecting_and_leaving() -> None:
    """Hundreds that connect and vanish at every stage leave nothing behind."""
    async with serving() as served, good_client(served):
        for stage in (b"", b"GET", request_head(), request_head() + frame(TEXT, b"{", fin=False)):
            for _ in range(75):
                _, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
                writer.write(stage)
                await asyncio.sleep(0)
                writer.transport.abort()
        await until(lambda: served.listener.clients.sockets == 1)
        assert served.listener.connections == 1
