"""Clients that are late, silent or half gone, while a good client of the same server misses nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import structlog
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
from tests.samples import KEY_B
from tests.waiting import until

from account_socket.server.listener import BLOCKED_SECONDS

SOON = 0.2
"""Every time limit of the server in these tests, in seconds."""


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    limits = {"ping_seconds": SOON, "pong_seconds": SOON, "head_seconds": SOON, "close_seconds": SOON}
    async with serving(**limits) as served, good_client(served):
        yield served


async def closed_late(client: RawClient) -> int:
    """Return the code that the server closes with for a missing pong, having checked when it did."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    code, _ = await client.read_close()
    assert SOON < loop.time() - started < 6 * SOON
    return code


FIRST_HEADS = {
    "nothing": b"",
    "one byte": b"G",
    "half a line": b"GET /ws HTT",
    "half a head": request_head()[:-2],
    "all but one byte": request_head()[:-1],
}


@pytest.mark.parametrize("begun", FIRST_HEADS.values(), ids=FIRST_HEADS.keys())
@pytest.mark.parametrize("earlier", [0, 1], ids=["first", "second"])
async def test_slow_heads(served: Served, begun: bytes, earlier: int) -> None:
    """A head that is not complete in time ends the connection, the first as well as a later one."""
    loop = asyncio.get_running_loop()
    async with raw_client(served, shake=False) as client:
        for _ in range(earlier):
            client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.read_head()
            await client.reader.readexactly(15)
        client.send(begun)
        started = loop.time()
        assert await client.read_rest() == b""
        assert SOON * 0.8 < loop.time() - started < 4 * SOON


async def test_a_body_that_never_comes(served: Served) -> None:
    """An announced body that does not come does not hold the connection."""
    async with raw_client(served, shake=False) as client:
        client.send(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        assert b"405" in await client.read_head()
        await client.read_rest()


async def test_silence(served: Served) -> None:
    """A client that never answers pings is closed with 4012: it may be gone without TCP knowing."""
    async with raw_client(served) as client:
        assert await closed_late(client) == 4012
    await until(lambda: served.listener.connections == 1)
    assert served.listener.clients.closes == {"4012": 1}


async def test_requests_do_not_stand_in_for_pongs(served: Served) -> None:
    """A client that goes on asking but never answers a ping is closed all the same."""
    async with raw_client(served) as client:
        asking = asyncio.create_task(_repeat(client, frame(TEXT, b'{"action":"ping"}')))
        assert await closed_late(client) == 4012
        asking.cancel()


async def test_a_frame_that_never_ends(served: Served) -> None:
    """A frame of which a byte comes now and then does not keep a connection open."""
    async with raw_client(served) as client:
        client.send(frame(TEXT, b"x" * 60_000)[:100])
        dripping = asyncio.create_task(_repeat(client, b"x"))
        assert await closed_late(client) == 4012
        dripping.cancel()


async def test_a_message_that_never_ends(served: Served) -> None:
    """A message of endless parts does not keep a connection open."""
    async with raw_client(served) as client:
        client.send(frame(TEXT, b"x", fin=False))
        dripping = asyncio.create_task(_repeat(client, frame(CONTINUATION, b"x", fin=False)))
        assert await closed_late(client) == 4012
        dripping.cancel()


async def _repeat(client: RawClient, data: bytes) -> None:
    while True:
        client.send(data)
        await asyncio.sleep(0.02)


async def test_pongs_keep_a_silent_client(served: Served) -> None:
    """A client that says nothing but answers pings stays; so does one that sends pongs on its own."""
    loop = asyncio.get_running_loop()
    async with raw_client(served) as client, raw_client(served) as other:
        volunteering = asyncio.create_task(_repeat(other, frame(PONG, b"I live")))
        end = loop.time() + 5 * SOON
        while loop.time() < end:
            opcode, payload = await client.read_frame()
            assert opcode == PING
            client.send(frame(PONG, payload))
        volunteering.cancel()
        assert served.listener.connections == 3


async def test_a_loop_that_stood_still(served: Served) -> None:
    """Nobody is closed for what it sent while the loop stood still, which is told in the log and in a histogram."""
    async with raw_client(served) as client:
        opcode, payload = await client.read_frame()
        assert opcode == PING
        async with raw_client(served, shake=False) as other:
            other.send(request_head()[:-2])
            await until(lambda: len(served.listener.heads) == 1)
            with structlog.testing.capture_logs() as lines:
                time.sleep(BLOCKED_SECONDS + SOON)  # noqa: ASYNC251  (the loop stands still)
                client.send(frame(PONG, payload))
                other.send(b"\r\n")
                await other.read_head()
                opcode, payload = await client.read_frame()
            assert opcode == PING
            [told] = [line for line in lines if line["event"] == "event loop stood still"]
            assert told["seconds"] >= BLOCKED_SECONDS
            assert served.listener.lag.sum >= BLOCKED_SECONDS


async def test_byte_by_byte(served: Served) -> None:
    """A handshake and a request that come byte by byte are as good as any."""
    async with raw_client(served, shake=False) as client:
        for byte in request_head() + frame(TEXT, b'{"action":"list","id":1}'):
            client.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert b" 101 " in await client.read_head()
        assert await client.read_message() == {"type": "subscriptions", "id": 1, "pubkeys": []}


async def test_all_at_once(served: Served) -> None:
    """A handshake, requests and a close frame in one segment are answered in order."""
    async with raw_client(served, shake=False) as client:
        asked = [{"action": "subscribe", "pubkey": KEY_B, "id": 1}, {"action": "list", "id": 2}, {"action": "ping"}]
        frames = b"".join(frame(TEXT, json.dumps(request).encode()) for request in asked)
        client.send(request_head() + frames + frame(CLOSE, b"\x03\xe8"))
        assert b" 101 " in await client.read_head()
        kinds: list[str] = []
        while "pong" not in kinds:
            kinds.append((await client.read_message())["type"])
        if "ack" in kinds:  # the state was read in time; else nobody waits for its ack any more
            kinds.remove("ack")
        assert kinds == ["subscriptions", "pong"]
        assert await client.read_close() == (1000, "")
        assert await client.read_rest() == b""


async def test_a_half_closed_connection(served: Served) -> None:
    """A client that ends its side after asking gets its answer, then the end."""
    async with raw_client(served) as client:
        client.say({"action": "ping", "id": 1})
        client.writer.write_eof()
        assert await client.read_message() == {"type": "pong", "id": 1}
        assert await client.read_rest() == b""
    await until(lambda: served.listener.connections == 1)


async def test_half_closed_connections_are_answered_however_many(served: Served) -> None:
    """Requests that wait for their turn when the end of the stream comes are answered before it."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw_client(served)) for _ in range(60)]
        for client in clients:
            for number in range(15):
                client.say({"action": "ping", "id": number})
            client.writer.write_eof()
        for client in clients:
            for number in range(15):
                assert await client.read_message() == {"type": "pong", "id": number}
            assert await client.read_rest() == b""


async def test_a_half_closed_head(served: Served) -> None:
    """A client that ends its side inside the head is let go at once."""
    async with raw_client(served, shake=False) as client:
        client.send(b"GET /ws HT")
        client.writer.write_eof()
        assert await client.read_rest() == b""


async def test_a_close_frame_that_is_not_answered(served: Served) -> None:
    """A client that ignores the close frame, and goes on talking, is cut off."""
    async with raw_client(served) as client:
        client.send(frame(2, b"binary"))
        code, _ = await client.read_close()
        assert code == 1003
        talking = asyncio.create_task(_repeat(client, frame(TEXT, b'{"action":"ping"}')))
        await until(lambda: served.listener.clients.sockets == 1, seconds=4 * SOON)
        talking.cancel()


async def test_a_refused_handshake_that_stays(served: Served) -> None:
    """A client whose handshake was refused, and that does not leave, is cut off."""
    async with raw_client(served, shake=False) as client:
        client.send(request_head(Sec_WebSocket_Version="8"))
        assert b" 426 " in await client.read_head()
        await until(lambda: served.listener.clients.sockets == 1, seconds=4 * SOON)


async def test_vanishing_with_answers_under_way(served: Served) -> None:
    """A client that resets its connection while it is owed much leaves nothing behind."""
    async with raw_client(served) as client:
        client.send(frame(TEXT, b'{"action":"list"}') * 500)
        await client.read_frame()
    await until(lambda: served.listener.clients.sockets == 1)
    assert served.hub.subscriptions == 1
