"""GET /v1/stream: updates as Server-Sent Events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from solders.pubkey import Pubkey
from tests.integration.server.resting import BusyHistory, EventSource, Rested, resting
from tests.integration.server.serving import raw_client
from tests.samples import KEY_A, KEY_B
from tests.waiting import until

from account_socket.hub.frames import id_of, payload_of, state_message
from account_socket.server import catching_up
from account_socket.server.sse_events import EventMaker

STREAM = f"/v1/stream?pubkey={KEY_A}"


@pytest.fixture
async def rested() -> AsyncIterator[Rested]:
    async with resting() as rested:
        yield rested


async def test_the_state_first_then_what_is_live(rested: Rested) -> None:
    """The states come first, then a silent id that covers them, then each update with its own id."""
    await rested.commit(KEY_B)
    await rested.commit(KEY_A)
    async with EventSource(rested, KEY_A, KEY_B, KEY_A) as source:
        states = await source.take(2)
        assert [(event.name, event.key, event.data["source"], event.id) for event in states] == [
            ("update", (KEY_A, 2), "cache", ""),
            ("update", (KEY_B, 1), "cache", ""),
        ]
        await source.position(2)
        await rested.commit("other")
        live = await rested.commit(KEY_B)
        event = await source.next()
        assert (event.key, event.id, event.data["source"]) == ((KEY_B, live.id), "e1-4", "realtime")
        assert event.data["account"]["prev_id"] == 1
        assert source.response.headers["Access-Control-Allow-Origin"] == "*"


async def test_as_many_accounts_as_a_request_can_name(rested: Rested) -> None:
    """A stream has up to 250 accounts; one more is refused, and what fits no head is refused on any request."""
    keys = [str(Pubkey((number + 1).to_bytes(32, "little"))) for number in range(400)]
    await rested.commit(keys[249])
    async with EventSource(rested, *keys[:250]) as source:
        assert (await source.next()).key == (keys[249], 1)
    for count, refusal in ((251, (400, "invalid_parameter")), (400, (431, "head_too_large"))):
        path = "/v1/stream?" + "&".join(f"pubkey={key}" for key in keys[:count])
        assert await rested.refusal(path) == refusal
        async with raw_client(rested.served, shake=False) as client:
            client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 OK" in await client.read_head()
            client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = await client.read_rest()
            assert b" %d " % refusal[0] in answer
            assert refusal[1].encode() in answer


async def test_no_id_before_every_state_is_there(rested: Rested) -> None:
    """While the state of one account is still looked for, updates of others carry no id: it would skip that one."""
    await rested.commit(KEY_A)
    rested.served.holding = True
    async with EventSource(rested, KEY_A, KEY_B) as source:
        await source.next()
        await rested.commit(KEY_A)
        assert (await source.next()).id == ""
        rested.served.settle([KEY_B])
        await source.position(2)
        assert rested.served.hub.accounts_subscribed == 2


async def test_who_comes_back_is_told_what_was_missed(rested: Rested) -> None:
    """Last-Event-ID brings everything later of these accounts from history, in order, then what is live, no state."""
    for _ in range(3):
        await rested.commit(KEY_A)
        await rested.commit(KEY_B)
    await rested.commit("other")
    async with EventSource(rested, KEY_A, KEY_B, last_id="e1-2") as source:
        events = await source.take(4)
        assert [event.key for event in events] == [(KEY_A, 3), (KEY_B, 4), (KEY_A, 5), (KEY_B, 6)]
        assert [event.id for event in events] == ["e1-3", "e1-4", "e1-5", "e1-6"]
        assert {event.data["source"] for event in events} == {"database"}
        live = await rested.commit(KEY_A)
        assert (await source.next()).key == (KEY_A, live.id)


async def test_who_missed_nothing_is_told_nothing(rested: Rested) -> None:
    """A client that has the newest state gets the next update first."""
    await rested.commit(KEY_A)
    async with EventSource(rested, KEY_A, last_id="e1-1") as source:
        await until(lambda: rested.served.hub.accounts_subscribed == 1)
        live = await rested.commit(KEY_A)
        assert (await source.next()).key == (KEY_A, live.id)


@pytest.mark.parametrize("last_id", ["e2-1", "1", "e1-99", "e1-x", "e1--1", "e1-" + "9" * 30])
async def test_an_id_that_means_nothing_here(rested: Rested, last_id: str) -> None:
    """An id of another epoch, above the newest, or none at all, is answered by a reset and the fresh state."""
    await rested.commit(KEY_A)
    async with EventSource(rested, KEY_A, last_id=last_id) as source:
        reset, state = await source.take(2)
        assert reset.name == "reset"
        assert reset.data["reason"]
        assert state.key == (KEY_A, 1)


async def test_who_comes_back_while_upstream_is_silent_is_told(rested: Rested) -> None:
    """What was missed comes all the same, and behind it that it may not be all."""
    await rested.commit()
    await rested.commit()
    rested.served.hub.stale = True
    async with EventSource(rested, KEY_A, last_id="e1-1") as source:
        missed, stale = await source.take(2)
        assert missed.key == (KEY_A, 2)
        assert (stale.name, stale.data) == ("stale", {"stale": True})
        live = await rested.commit()
        assert (await source.next()).key == (KEY_A, live.id)


async def test_history_that_is_not_whole(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an update is missing from history, or too many were missed, the stream starts over and says so."""

    async def first(after: int) -> tuple[str, object]:
        async with EventSource(rested, KEY_A, last_id=f"e1-{after}") as source:
            event = await source.next()
            return event.name, event.data.get("reason")

    for history in (True, False, True, True):
        await rested.commit(history=history)
    assert await first(1) == ("reset", "history does not reach back")
    assert await first(2) == ("update", None)
    monkeypatch.setattr(catching_up, "MAX_MISSED", 1)
    assert await first(2) == ("reset", "more than 1 updates were missed")
    await rested.commit(history=False)
    assert await first(4) == ("reset", "history does not reach back")
    await rested.store.close(next_id=None)
    assert await first(4) == ("reset", "history could not be read")


async def test_more_comes_while_history_is_read_than_can_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came during a read and was too much to be held is read from history after it: no hole, no repeat."""
    async with resting(outbox_max_bytes=65_536) as rested:
        for _ in range(3):
            await rested.commit()
        history = BusyHistory(rested, monkeypatch)
        async with EventSource(rested, KEY_A, last_id="e1-1") as source:
            events = await source.take(15)
            assert [event.key for event in events] == [(KEY_A, id_) for id_ in range(2, 17)]
            assert [event.id for event in events] == [f"e1-{id_}" for id_ in range(2, 17)]
            assert history.reads == 3
            assert [event.data["source"] for event in events[-2:]] == ["database", "realtime"]


async def test_a_bug_while_history_is_read_ends_the_stream(rested: Rested, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody thought of while a stream is resumed ends it with 1011, and leaves no subscription behind."""
    for _ in range(2):
        await rested.commit()

    async def broken(*_: Any, **__: Any) -> list[int]:
        raise LookupError

    monkeypatch.setattr(rested.store, "later", broken)
    async with EventSource(rested, KEY_A, last_id="e1-1") as source:
        event = await source.next()
        assert (event.name, event.data["code"]) == ("close", 1011)
        with pytest.raises(EOFError):
            await source.next()
    assert rested.served.hub.subscriptions == 0


async def test_what_is_not_committed_cannot_be_resumed_behind(rested: Rested) -> None:
    """An update without an id that history may lack makes a stream start over."""
    await rested.commit()
    uncommitted = rested.next_update()
    account_json = uncommitted.account_json.replace(b'"id":2', b'"id":null')
    rested.served.hub.publish(msgspec.structs.replace(uncommitted, account_json=account_json))
    async with EventSource(rested, KEY_A, last_id="e1-1") as source:
        reset, state = await source.take(2)
        assert reset.data["reason"] == "the database could not commit"
        assert state.data["account"]["id"] is None


async def test_cut_at_random_nothing_is_missed_or_repeated(rested: Rested) -> None:
    """However often a client is cut off and comes back, each account's ids have no hole and no repeat."""
    chance = random.Random(7)
    keys = [KEY_A, KEY_B]
    for pubkey in keys:
        await rested.commit(pubkey)
    told: list[tuple[str, int]] = []
    made: list[tuple[str, int]] = []
    stop = asyncio.Event()

    async def publish() -> None:
        while not stop.is_set():
            update = await rested.commit(chance.choice(keys))
            made.append((update.pubkey, update.id))
            await asyncio.sleep(chance.random() * 0.002)

    publishing = asyncio.create_task(publish())
    last_id, cuts = "", 0
    while cuts < 60 or told[-1] != made[-1]:
        async with EventSource(rested, *keys, last_id=last_id) as source:
            if not last_id:
                await source.take(2)
                while not source.last_id:
                    told.append((await source.next()).key)
                told.clear()
                made_before = int(source.last_id.rpartition("-")[2])
            if cuts >= 60:
                stop.set()
                await publishing
            for _ in range(chance.randrange(1, 6) if cuts < 60 else 10_000):
                if cuts >= 60 and told[-1] == made[-1]:
                    break
                event = await source.next()
                assert event.name == "update"
                told.append(event.key)
            last_id = source.last_id
        cuts += 1
    assert told == [each for each in made if each[1] >= told[0][1]]
    assert told[0][1] > made_before - 3


async def test_a_slow_client_gets_the_newest_and_is_closed_in_the_end() -> None:
    """One that does not read costs a bounded amount, and is cut off after a time; others are not held up."""
    async with resting(outbox_max_bytes=65_536, slow_consumer_seconds=0.5, slow_close_seconds=0.3) as rested:
        await rested.commit()
        async with raw_client(rested.served, shake=False) as slow, EventSource(rested, KEY_A) as quick:
            slow.send(f"GET {STREAM} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await slow.read_head()
            await quick.next()
            await until(lambda: rested.served.listener.connections == 2)
            stalled = next(each for each in rested.served.listener.clients.connections if each.outbox.sent < 99)
            while len(rested.served.listener.clients.slow) == 0:
                made = await rested.commit(data_json=b'"%b"' % (b"x" * 50_000))
                assert (await quick.next()).key == (KEY_A, made.id)
            for _ in range(50):
                await rested.commit()
                await quick.next()
            assert rested.served.listener.clients.conflated >= 40
            assert stalled.outbox.backlog <= 1
            await until(lambda: rested.served.listener.connections == 1)
            assert rested.served.listener.clients.closes["4008"] == 1
            await rested.commit()
            await quick.next()


async def test_a_heartbeat_keeps_the_stream_alive() -> None:
    """A stream on which nothing happens carries comments, and is not closed for want of pongs."""
    async with resting(ping_seconds=0.1, pong_seconds=0.1) as rested, EventSource(rested, KEY_A) as source:
        with pytest.raises(TimeoutError):
            await source.next(seconds=0.6)
        assert source.comments >= 3


async def test_the_end_is_told(rested: Rested) -> None:
    """A server that shuts down says so, with the code that a WebSocket client is closed with."""
    async with EventSource(rested, KEY_A) as source:
        await until(lambda: rested.served.listener.connections == 1)
        await rested.served.listener.drain(1.0)
        event = await source.next()
        assert (event.name, event.data["code"]) == ("close", 1001)
        with pytest.raises(EOFError):
            await source.next()
    assert rested.served.listener.clients.sockets <= 1


async def test_streams_that_are_refused() -> None:
    """Too many accounts, none, a bad key, a full server, an address with enough: each is refused in words."""
    limits = {"max_connections": 2, "max_connections_per_ip": 1, "max_subscriptions": 1}
    async with resting(allowed_origins=("https://a.example",), **limits) as rested:
        assert await rested.refusal("/v1/stream") == (400, "invalid_parameter")
        assert await rested.refusal("/v1/stream?pubkey=abc") == (400, "invalid_pubkey")
        assert await rested.refusal(f"{STREAM}&x=1") == (400, "invalid_parameter")
        assert await rested.refusal(f"{STREAM}&pubkey={KEY_B}") == (400, "too_many_subscriptions")
        assert await rested.refusal(STREAM, headers={"Origin": "https://b.example"}) == (403, "origin_refused")
        assert (await rested.get(STREAM, method="HEAD"))[0] == 200
        async with EventSource(rested, KEY_A):
            assert await rested.refusal(STREAM) == (429, "rate_limited")
            rested.served.listener.clients._addresses.clear()
            rested.served.listener.clients._addresses["127.0.0.1"] = 0
            async with EventSource(rested, KEY_A):
                assert await rested.refusal(STREAM) == (503, "unavailable")
            await until(lambda: rested.served.listener.connections == 1)


async def test_a_stream_behind_other_requests(rested: Rested) -> None:
    """A connection may ask for a stream after other requests, also pipelined; what follows it is not answered."""
    await rested.commit()
    async with raw_client(rested.served, shake=False) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        client.send(f"GET {STREAM} HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await client.read_head()).startswith(b"HTTP/1.1 200 OK")
        assert b'{"status":"ok"}HTTP/1.1 200 OK\r\nContent-Type: text/event-stream' in await client.read_head()
        assert b"event: update" in await client.reader.readuntil(b"\ndata:")
        client.send(b"x" * 100_000)
        await until(lambda: rested.served.listener.connections == 0)
    await until(lambda: rested.served.listener.clients.sockets <= 1)


def test_an_event_has_the_frames_content() -> None:
    """The event of a frame has its payload on one line, and the id that it tells, if it is committed."""
    events = EventMaker("e1")
    for id_, line in ((7, b"id: e1-7\n"), (None, b"")):
        account = b'{"id":%b,"data_json":{"account":{"id":9}}}' % str(id_ or "null").encode()
        frame = state_message(KEY_A, "cache", account).frame
        assert id_of(frame) == id_
        assert events.update(frame, named=True) == b"%bevent: update\ndata: %b\n\n" % (line, payload_of(frame))
        assert events.update(frame, named=True) is events.update(frame, named=True)
        assert events.update(frame, named=False).startswith(b"event: update\ndata: {")
