"""The native dialect over real sockets, with a client library that is not ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog.testing
from solders.pubkey import Pubkey
from tests.integration.server.serving import (
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Served,
    frame,
    raw_client,
    request_head,
    serving,
)
from tests.samples import KEY_A, KEY_B, update
from tests.waiting import until
from websockets.asyncio.client import ClientConnection, connect

from account_socket.hub.outbox import Outbox
from account_socket.model import StoredState

KEYS = [KEY_A, KEY_B]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[ClientConnection]:
    async with connect(served.url) as client:
        yield client


async def ask(client: ClientConnection, request: object) -> Any:
    await client.send(json.dumps(request))
    return await receive(client)


async def receive(client: ClientConnection) -> Any:
    async with asyncio.timeout(5):
        return json.loads(await client.recv())


async def silent(client: ClientConnection) -> None:
    """Fail if anything comes before the answer to a ping sent now."""
    assert await ask(client, {"action": "ping", "id": "silence"}) == {"type": "pong", "id": "silence"}


def stored(id_: int, pubkey: str = KEY_A) -> StoredState:
    return StoredState(id_, update(id_, pubkey).account_json)


async def test_the_oldest_form(served: Served, client: ClientConnection) -> None:
    """A subscription without id answers with the state, then streams, and says nothing else; so does its end."""
    served.stored[KEY_A] = stored(5)
    state = await ask(client, {"action": "subscribe", "pubkey": KEY_A, "whatever": True})
    assert (state["pubkey"], state["source"], state["account"]["id"]) == (KEY_A, "database", 5)
    assert list(state["account"]) == [
        *("id", "pubkey", "slot", "account_type", "owner", "lamports", "data_json", "created_at", "prev_id")
    ]
    await silent(client)
    served.last_id = 5
    served.publish()
    live = await receive(client)
    assert (live["source"], live["account"]["id"]) == ("realtime", 6)
    await client.send(json.dumps({"action": "unsubscribe", "pubkey": KEY_A}))
    await silent(client)
    served.publish()
    await silent(client)


async def test_states_then_ack(served: Served, client: ClientConnection) -> None:
    """With an id the states come first, then one ack with the epoch and what was found; nobody's are left out."""
    served.stored[KEY_A] = stored(5)
    first = await ask(client, {"action": "subscribe", "pubkeys": KEYS, "id": 7})
    assert first["account"]["id"] == 5
    assert await receive(client) == {
        "type": "ack",
        "id": 7,
        "action": "subscribe",
        "epoch": "e1",
        "found": [KEY_A],
        "foreign": [],
    }
    assert served.loads == [KEYS]


async def test_state_from_memory(served: Served, client: ClientConnection) -> None:
    """A state that the hub has is sent as `cache`, without reading anything."""
    served.publish()
    state = await ask(client, {"action": "subscribe", "pubkey": KEY_A, "id": "x"})
    assert (state["source"], state["account"]["id"]) == ("cache", 1)
    assert (await receive(client))["found"] == [KEY_A]
    assert served.loads == []


async def test_foreign_account(served: Served, client: ClientConnection) -> None:
    """An account of another program has no state and is listed as foreign, each time; the subscription stands."""
    served.foreign.add(KEY_B)
    ack = await ask(client, {"action": "subscribe", "pubkey": KEY_B, "id": 1})
    assert (ack["found"], ack["foreign"]) == ([], [KEY_B])
    again = await ask(client, {"action": "subscribe", "pubkey": KEY_B, "id": 2})
    assert (again["found"], again["foreign"]) == ([], [KEY_B])
    served.publish(KEY_B)
    assert (await receive(client))["account"]["pubkey"] == KEY_B


async def test_a_live_update_is_faster_than_the_state(served: Served, client: ClientConnection) -> None:
    """An update that comes while the state is still being read is the state; the older one never follows."""
    served.holding = True
    served.stored[KEY_A] = stored(5)
    await client.send(json.dumps({"action": "subscribe", "pubkey": KEY_A, "id": 1}))
    await until(lambda: served.loads)
    served.last_id = 5
    served.publish()
    assert (await receive(client))["account"]["id"] == 6
    assert (await receive(client))["type"] == "ack"
    served.settle([KEY_A])
    await silent(client)


async def test_subscribing_again(served: Served, client: ClientConnection) -> None:
    """Subscribing again is a success with the ack only, and updates still come once."""
    served.publish()
    await ask(client, {"action": "subscribe", "pubkey": KEY_A})
    ack = await ask(client, {"action": "subscribe", "pubkeys": [KEY_A, KEY_A], "id": 2})
    assert (ack["type"], ack["found"]) == ("ack", [KEY_A])
    served.publish()
    assert (await receive(client))["account"]["id"] == 2
    await silent(client)


async def test_unsubscribing(served: Served, client: ClientConnection) -> None:
    """Unsubscribing is acknowledged, also from what was never subscribed; nothing of it comes after the ack."""
    served.publish()
    await ask(client, {"action": "subscribe", "pubkey": KEY_A})
    served.publish()
    await client.send(json.dumps({"action": "unsubscribe", "pubkeys": KEYS, "id": 3}))
    assert (await receive(client))["account"]["id"] == 2
    assert await receive(client) == {"type": "ack", "id": 3, "action": "unsubscribe", "epoch": "e1"}
    served.publish()
    await silent(client)
    assert served.hub.subscriptions == 0


async def test_unsubscribing_while_the_state_is_read(served: Served, client: ClientConnection) -> None:
    """Who unsubscribes before the state came is answered both acks and no state."""
    served.holding = True
    served.stored[KEY_A] = stored(5)
    await client.send(json.dumps({"action": "subscribe", "pubkey": KEY_A, "id": 1}))
    answers = [await ask(client, {"action": "unsubscribe", "pubkey": KEY_A, "id": 2}), await receive(client)]
    assert [answer["id"] for answer in answers] == [1, 2]
    served.settle([KEY_A])
    await silent(client)


async def test_bulk_is_all_or_nothing(served: Served, client: ClientConnection) -> None:
    """One bad key refuses the whole request, and is named."""
    error = await ask(client, {"action": "subscribe", "pubkeys": [KEY_A, "abc", "def"], "id": 7})
    assert error == {
        "type": "error",
        "id": 7,
        "code": "invalid_pubkey",
        "message": "'abc' is not a base58 public key of 32 bytes",
    }
    assert served.hub.subscriptions == 0


async def test_list_and_ping(served: Served, client: ClientConnection) -> None:
    """The list is in the order of subscribing; a ping is answered with its id, or without if it had none."""
    await ask(client, {"action": "subscribe", "pubkeys": [KEY_B, KEY_A], "id": 1})
    listed = await ask(client, {"action": "list", "id": 2})
    assert listed == {"type": "subscriptions", "id": 2, "pubkeys": [KEY_B, KEY_A]}
    assert await ask(client, {"action": "ping"}) == {"type": "pong"}
    assert await ask(client, {"action": "list"}) == {"type": "subscriptions", "pubkeys": [KEY_B, KEY_A]}


async def test_a_thousand_accounts_at_once(served: Served, client: ClientConnection) -> None:
    """A thousand states of 3 KB arrive whole, each once, before their ack."""
    keys = [str(Pubkey(number.to_bytes(32, "big"))) for number in range(1000)]
    for key in keys:
        served.publish(key, size=3000)
    await client.send(json.dumps({"action": "subscribe", "pubkeys": keys, "id": 1}))
    states = [(await receive(client))["pubkey"] for _ in keys]
    assert states == keys
    assert (await receive(client))["found"] == keys


async def test_everybody_gets_every_update(served: Served) -> None:
    """Two clients of one account and one of another each get exactly theirs, in order."""
    async with connect(served.url) as one, connect(served.url) as two, connect(served.url + "/some/path?x=1") as other:
        for client, key in ((one, KEY_A), (two, KEY_A), (other, KEY_B)):
            await ask(client, {"action": "subscribe", "pubkey": key, "id": 1})
        for _ in range(50):
            served.publish(KEY_A)
            served.publish(KEY_B)
            await asyncio.sleep(0)
        for client, ids in ((one, range(1, 101, 2)), (two, range(1, 101, 2)), (other, range(2, 101, 2))):
            assert [(await receive(client))["account"]["id"] for _ in ids] == list(ids)


async def test_a_client_that_leaves_is_forgotten(served: Served) -> None:
    """Once a client is gone, with or without a close handshake, nothing of it is left."""
    async with connect(served.url) as client:
        await ask(client, {"action": "subscribe", "pubkeys": KEYS, "id": 1})
        assert (served.listener.connections, served.hub.subscriptions) == (1, 2)
    async with raw_client(served) as raw:
        raw.say({"action": "subscribe", "pubkey": KEY_A, "id": 1})
        await raw.read_message()
    await until(lambda: served.listener.clients.sockets == 0)
    assert (served.listener.connections, served.hub.subscriptions) == (0, 0)
    assert served.listener.clients.closes == {"1000": 1, "1006": 1}
    assert served.hub.accounts_subscribed == 0


@pytest.mark.parametrize("headers", [{"Connection": "keep-alive, Upgrade"}, {"Upgrade": "WebSocket"}])
async def test_handshakes_of_browsers(served: Served, headers: dict[str, str | None]) -> None:
    """Browsers' spellings of the handshake work, and what is sent right behind it is not lost."""
    async with raw_client(served, shake=False) as client:
        ping = b"\x89\x80\0\0\0\0"
        client.send(request_head(Origin="https://example.org", **headers) + ping)
        assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
        assert await client.read_frame() == (10, b"")


async def test_an_upgrade_on_a_kept_alive_connection(served: Served) -> None:
    """A connection that spoke HTTP may become a WebSocket client's, and what follows at once is not lost."""
    async with raw_client(served, shake=False) as client:
        for _ in range(2):
            client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await client.read_head()
            assert await client.reader.readexactly(15) == b'{"status":"ok"}'
        ping = b"\x89\x81\0\0\0\0x"
        client.send(request_head("/ws/deep") + ping)
        assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
        assert await client.read_frame() == (10, b"x")
        client.say({"action": "subscribe", "pubkey": KEY_A, "id": 1})
        assert (await client.read_message())["type"] == "ack"
        served.publish()
        assert (await client.read_message())["account"]["id"] == 1
        assert served.listener.connections == 1
    await until(lambda: served.listener.clients.sockets == 0)


async def test_pipelined_requests_before_an_upgrade(served: Served) -> None:
    """A GET and an upgrade in one segment are both served, in order."""
    async with raw_client(served, shake=False) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + request_head())
        assert b"200 OK" in await client.read_head()
        assert await client.reader.readexactly(15) == b'{"status":"ok"}'
        assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")


async def test_a_body_cannot_pose_as_an_upgrade(served: Served) -> None:
    """A handshake inside a POST body is a body."""
    async with raw_client(served, shake=False) as client:
        body = request_head()
        client.send(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert b"405" in await client.read_head()
        assert served.listener.connections == 0


async def test_fragments_are_put_together(served: Served) -> None:
    """A request in many fragments, a ping between them, a character split in two, is one request."""
    async with raw_client(served) as client:
        text = '{"action":"ping","id":"é"}'.encode()
        pieces = [text[i : i + 1] for i in range(len(text))]
        client.send(frame(TEXT, pieces[0], fin=False))
        for piece in pieces[1:]:
            client.send(frame(CONTINUATION, piece, fin=False))
        client.send(frame(PING, b"between"))
        client.send(frame(CONTINUATION, b"", fin=True))
        assert await client.read_frame() == (PONG, b"between")
        assert await client.read_message() == {"type": "pong", "id": "é"}


async def test_our_bug_costs_one_client(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in handling a request closes that client with 1011, and nobody else."""

    def explode(*_: object) -> None:
        raise RuntimeError("for the test")

    async with connect(served.url) as healthy, raw_client(served) as unlucky:
        await ask(healthy, {"action": "subscribe", "pubkey": KEY_A, "id": 1})
        with monkeypatch.context() as patch:
            patch.setattr(served.hub, "subscribe", explode)
            unlucky.say({"action": "subscribe", "pubkey": KEY_A})
            code, reason = await unlucky.read_close()
        assert (code, "internal error" in reason) == (1011, True)
        served.publish()
        assert (await receive(healthy))["account"]["id"] == 1


async def test_going_away(served: Served) -> None:
    """A drain sends everything that was published before, then closes with 1001, and is quick."""
    async with connect(served.url) as client, raw_client(served, shake=False):
        await ask(client, {"action": "subscribe", "pubkey": KEY_A, "id": 1})
        for _ in range(100):
            served.publish(size=2000)
        started = asyncio.get_running_loop().time()
        port = served.listener.port
        drain = asyncio.create_task(served.listener.drain(5.0))
        ids = [json.loads(message)["account"]["id"] async for message in client]
        await drain
        assert asyncio.get_running_loop().time() - started < 2
        assert ids == list(range(1, 101))
        assert client.close_code == 1001
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_drain_does_not_wait_for_ever(served: Served) -> None:
    """A client that neither reads nor answers is cut off when the drain's time is over."""
    async with raw_client(served) as client:
        client.say({"action": "subscribe", "pubkey": KEY_A, "id": 1})
        await client.read_message()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(400):
            served.publish(size=60_000)
        await until(lambda: len(served.listener.clients.slow) == 1)
        started = asyncio.get_running_loop().time()
        await served.listener.drain(1.0)
        assert 0.5 < asyncio.get_running_loop().time() - started < 2.5
        assert served.listener.connections == 0


async def test_metrics_tell_what_happened(served: Served, client: ClientConnection) -> None:
    """The server's own numbers are right at each scrape."""
    await ask(client, {"action": "subscribe", "pubkey": KEY_A, "id": 1})
    await ask(client, {"action": "nope"})
    served.publish()
    await receive(client)
    lines = served.metrics.render().decode().splitlines()
    assert "account_socket_connections 1.0" in lines
    assert "account_socket_subscriptions 1.0" in lines
    assert "account_socket_messages_sent_total 3.0" in lines
    assert 'account_socket_requests_total{action="subscribe"} 1.0' in lines
    assert 'account_socket_errors_total{code="unknown_action"} 1.0' in lines


async def test_log_lines(served: Served) -> None:
    """One line when a client comes, one with its totals when it goes, and nothing in between."""
    with structlog.testing.capture_logs() as lines:
        async with connect(served.url) as client:
            await ask(client, {"action": "subscribe", "pubkey": KEY_A, "id": 1})
            await ask(client, {"action": "nope"})
            served.publish()
            await receive(client)
        await until(lambda: served.listener.connections == 0)
    came, went = lines
    assert (came["event"], came["conn"], came["peer"][:10]) == ("client connected", 1, "127.0.0.1:")
    assert went.pop("seconds") >= 0
    assert went == {
        "event": "client disconnected",
        "log_level": "info",
        "conn": 1,
        "code": 1000,
        "reason": "",
        "sent": 3,
        "conflated": 0,
        "requests": 2,
    }


async def test_a_failing_flush_costs_one_client(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in writing to one client does not keep a turn's update from the clients behind it."""
    async with raw_client(served) as unlucky, connect(served.url) as healthy:
        unlucky.say({"action": "subscribe", "pubkey": KEY_A, "id": 1})
        await unlucky.read_message()
        await ask(healthy, {"action": "subscribe", "pubkey": KEY_A, "id": 1})
        (connection,) = [one for one in served.listener.clients.connections if one.number == 1]

        take_at_once = Outbox.take_at_once

        def explode(outbox: Outbox) -> bytes:
            if outbox is connection.outbox:
                raise RuntimeError("for the test")
            return take_at_once(outbox)

        monkeypatch.setattr(Outbox, "take_at_once", explode)
        served.publish()
        assert (await receive(healthy))["account"]["id"] == 1
        await until(lambda: served.listener.connections == 1)
