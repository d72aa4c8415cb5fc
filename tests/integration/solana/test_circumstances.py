"""What is answered when upstream, the database, the node or a client is not as it should be."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.integration.server.serving import TEXT, frame, raw_client, request_head
from tests.integration.solana.inside import TIP, inside
from tests.integration.solana.stack import Stack, stack
from tests.samples import KEY_A, KEY_B, PROGRAM
from tests.waiting import until

from account_socket.protocol.codes import Close
from account_socket.server import http, solana_reads

BASE64 = {"encoding": "base64"}


async def test_nothing_old_is_told_as_fresh(tmp_path: Path) -> None:
    """A silent upstream, a gap and a database that is behind are errors; well again, the state is told at the tip."""
    async with inside(tmp_path) as made:
        await made.commit()
        assert await made.ask("getHealth") == "ok"
        assert (await made.ask("getAccountInfo", KEY_A, BASE64))["context"]["slot"] == TIP
        made.now.behind = 42
        unhealthy = {"code": -32005, "message": "Node is behind by 42 slots", "data": {"numSlotsBehind": 42}}
        for method, *params in (
            ("getHealth",),
            ("getAccountInfo", KEY_A, BASE64),
            ("getProgramAccounts", PROGRAM, BASE64),
        ):
            assert await made.ask(method, *params) == unhealthy
        made.now.behind = 0
        made.now.commits = False
        assert (await made.ask("getAccountInfo", KEY_A, BASE64))["code"] == -32603
        made.now.commits = True
        made.now.filled = False
        refused = await made.ask("getProgramAccounts", PROGRAM, BASE64)
        assert refused["code"] == -32602
        assert "BACKFILL=all" in refused["message"]
        value = (await made.ask("getAccountInfo", KEY_A, BASE64))["value"]
        assert value["data"] == [base64.b64encode(b"data").decode(), "base64"]
        assert value["rentEpoch"] == 2**64 - 1


async def test_a_node_that_falls_silent_makes_health_an_error_until_it_speaks(tmp_path: Path) -> None:
    """While a node says nothing, its TCP open, getHealth is the error that clients know, and then ok again."""
    async with stack(tmp_path, STALE_AFTER_SECONDS="1") as made:
        await until_answer(made, lambda health: health == "ok")
        made.node.silence(True)
        health = await until_answer(made, lambda health: health != "ok")
        behind = health["data"]["numSlotsBehind"]
        assert behind >= 1
        assert health == {
            "code": -32005,
            "message": f"Node is behind by {behind} slots",
            "data": {"numSlotsBehind": behind},
        }
        made.node.silence(False)
        await until_answer(made, lambda health: health == "ok")


async def until_answer(made: Stack, fits: Callable[[Any], bool]) -> Any:
    """Return the first answer to getHealth that fits."""
    async with asyncio.timeout(30):
        while not fits(health := await made.ask("getHealth")):  # noqa: ASYNC110  (another process)
            await asyncio.sleep(0.05)
    return health


async def test_a_state_in_doubt_is_read_again_or_refused(tmp_path: Path) -> None:
    """What may not be the newest is asked for again; where that brings nothing, the read is refused."""
    async with inside(tmp_path) as made:
        await made.commit()
        made.now.untrusted = True
        assert (await made.ask("getAccountInfo", KEY_A, BASE64))["code"] == -32602
        made.served.hub.stale = True
        assert (await made.ask("getAccountInfo", KEY_A, BASE64))["code"] == -32005


def test_a_slot_that_was_a_lie_is_forgotten() -> None:
    """What is told is not behind what was told, unless that was farther ahead than any account's slot may be."""
    told = solana_reads.ToldSlot()
    assert told.tell_tip(10**9) == 10**9
    assert told.tell_tip(500) == 500
    told.tell(520)
    told.tell(510)
    assert [told.tell_tip(tip) for tip in (501, 519, 505, 521)] == [520, 520, 520, 521]


async def test_too_many_requests_are_429(tmp_path: Path) -> None:
    """Above MAX_REQUESTS_PER_SECOND the answer is 429, as public nodes give it, with the requests' ids."""
    async with inside(tmp_path, request_burst=3, max_requests_per_second=0.01) as made:
        batch = [{"jsonrpc": "2.0", "id": each, "method": "getHealth"} for each in range(2)]
        for status in (200, 429):
            async with made.http.post("/", json=batch) as response:
                answers = await response.json()
                assert response.status == status
                assert [each["id"] for each in answers] == [0, 1]
        assert answers[0]["error"]["code"] == 429
        assert response.headers["Retry-After"] == "1"
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_large_answers_are_refused(tmp_path: Path) -> None:
    """A list over the limit is -32012; lists of a batch that together are too large are refused, each with its id."""
    async with inside(tmp_path) as made:
        for at in range(7):
            await made.commit(f"{at:032d}", bytes(1_000_000))
        memcmp = {"memcmp": {"offset": 0, "bytes": "1"}}
        listed = {
            "jsonrpc": "2.0",
            "method": "getProgramAccounts",
            "params": [PROGRAM, {**BASE64, "filters": [memcmp]}],
        }
        async with made.http.post("/", json=[{**listed, "id": each} for each in range(4)]) as response:
            answers = await response.json()
        assert [each["id"] for each in answers] == [0, 1, 2, 3]
        assert {each["error"]["code"] for each in answers} == {-32603}
        for at in range(7, 14):
            await made.commit(f"{at:032d}", bytes(1_000_000))
        assert (await made.ask("getProgramAccounts", PROGRAM, BASE64))["code"] == -32012
        sliced = await made.ask("getProgramAccounts", PROGRAM, {**BASE64, "dataSlice": {"offset": 0, "length": 4}})
        assert len(sliced) == 14


async def test_a_list_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is given up after a while, its wait for others included, and its place is free again."""
    async with inside(tmp_path) as made:
        await made.commit()
        with monkeypatch.context() as patched:
            patched.setattr(solana_reads, "SCAN_SECONDS", 0.0)
            for _ in range(solana_reads.SCANS_AT_ONCE + 1):
                refused = await made.ask("getProgramAccounts", PROGRAM, BASE64)
                assert refused["code"] == -32603
                assert "the list took too long; try again" in refused["message"]
        assert len(await made.ask("getProgramAccounts", PROGRAM, BASE64)) == 1


@pytest.mark.parametrize("path", ["/", "/v1/accounts"])
async def test_a_body_that_stays_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """A body that does not come whole in time is answered 408, and the connection ends."""
    monkeypatch.setattr(http, "BODY_SECONDS", 0.1)
    async with inside(tmp_path, close_seconds=0.2) as made, raw_client(made.served, shake=False) as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[".encode())
        assert (await client.read_head()).startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in await client.read_rest()


async def test_a_batch_cannot_pass_the_limit(tmp_path: Path) -> None:
    """Subscriptions of a batch count one by one, those that are looked up too; what is there already does not."""
    async with inside(tmp_path, max_subscriptions=3) as made:
        made.served.holding = True
        async with websockets.connect(made.served.base.replace("http", "ws")) as socket:
            asked: list[tuple[str, list[object]]] = [("accountSubscribe", [KEY_A, BASE64])]
            asked += [("programSubscribe", [PROGRAM, {"filters": [{"dataSize": size}]}]) for size in (1, 2, 1, 3, 4)]
            asked += [("slotSubscribe", [])]
            batch = [
                {"jsonrpc": "2.0", "id": at, "method": method, "params": params}
                for at, (method, params) in enumerate(asked)
            ]
            await socket.send(json.dumps(batch))
            await until(lambda: made.served.hub.waits_for(KEY_A))
            made.served.settle([KEY_A])
            answers = json.loads(await socket.recv())
            assert ["result" in each for each in answers] == [True, True, True, True, False, False, False]
            assert {each["error"]["code"] for each in answers[4:]} == {-32603}
            assert len(made.solana.feed.registry) == 3


async def test_a_flood_is_answered_and_then_cut_off(tmp_path: Path) -> None:
    """A socket that asks too much is told so, and closed when it goes on."""
    async with inside(tmp_path, request_burst=3, max_requests_per_second=0.01) as made:
        url = made.served.base.replace("http", "ws")
        async with websockets.connect(url) as socket:
            codes = []
            with suppress(websockets.ConnectionClosed):
                while True:
                    request = {"jsonrpc": "2.0", "id": 1, "method": "getVersion"}
                    await socket.send(json.dumps([request] * 100))
                    codes += [each.get("error", {}).get("code") for each in json.loads(await socket.recv())]
            assert codes[:3] == [None] * 3
            assert set(codes[3:]) == {-32603}
            assert socket.close_code == Close.RATE_LIMITED.code


async def test_a_client_that_does_not_read(tmp_path: Path) -> None:
    """It costs one notification of each account and subscription, is closed with 4008, and leaves nothing behind."""
    limits = {"outbox_max_bytes": 64 * 1024, "slow_consumer_seconds": 0.5, "ping_seconds": 100.0}
    async with inside(tmp_path, **limits) as made, raw_client(made.served, shake=False) as client:
        client.send(request_head("/"))
        await client.read_head()
        for method, target in (("accountSubscribe", KEY_A), ("programSubscribe", PROGRAM)):
            client.say({"jsonrpc": "2.0", "id": 1, "method": method, "params": [target, BASE64]})
            assert "result" in await client.read_message()
        (connection,) = made.served.listener.clients.connections
        for _ in range(200):
            await made.commit(data=bytes(20_000))
        assert connection.outbox.backlog <= 2
        assert len(connection.outbox.pending) <= 2
        assert connection.outbox.conflated > 100
        await until(lambda: len(made.solana.feed.registry) == 0)
        assert made.served.hub.accounts_subscribed == 0
        code, _ = await client.read_close()
        assert code == Close.SLOW_CONSUMER.code


async def test_accounts_that_must_be_looked_up(tmp_path: Path) -> None:
    """A subscription waits for the look-up: a foreign account is refused, an unknown one is told once it is there."""
    async with inside(tmp_path) as made, websockets.connect(made.served.base.replace("http", "ws")) as socket:
        made.served.foreign.add(KEY_B)
        for id_, target in enumerate((KEY_B, KEY_A)):
            request = {"jsonrpc": "2.0", "id": id_, "method": "accountSubscribe", "params": [target, BASE64]}
            await socket.send(json.dumps(request))
        refused, told = [json.loads(await socket.recv()) for _ in range(2)]
        assert (refused["id"], refused["error"]["code"]) == (0, -32602)
        assert list(made.served.hub.subscribed_pubkeys()) == [KEY_A]
        await made.commit(KEY_B)
        await made.commit(KEY_A)
        assert json.loads(await socket.recv())["params"]["subscription"] == told["result"]


async def test_a_client_that_leaves_while_it_waits(tmp_path: Path) -> None:
    """Whoever leaves during a look-up leaves nothing behind."""
    async with inside(tmp_path) as made:
        made.served.holding = True
        async with websockets.connect(made.served.base.replace("http", "ws")) as socket:
            request = {"jsonrpc": "2.0", "id": 1, "method": "accountSubscribe", "params": [KEY_A]}
            await socket.send(json.dumps([request, {**request, "id": 2}, {**request, "params": [KEY_B]}]))
            await until(lambda: made.served.hub.waits_for(KEY_B))
        await until(lambda: not made.served.hub.waits_for(KEY_A) and not made.served.hub.waits_for(KEY_B))
        assert len(made.solana.feed.registry) == 0
        assert made.served.hub.subscriptions == 0


async def test_an_upgrade_on_a_kept_alive_connection(tmp_path: Path) -> None:
    """Proxies keep connections: one that spoke HTTP before may become a PubSub client's."""
    async with inside(tmp_path) as made, raw_client(made.served, shake=False) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await client.read_head()
        assert await client.reader.readexactly(15) == b'{"status":"ok"}'
        client.send(request_head("/"))
        assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
        client.say({"jsonrpc": "2.0", "id": 1, "method": "slotSubscribe"})
        assert "result" in await client.read_message()


async def test_input_of_any_kind(tmp_path: Path) -> None:
    """Binary frames and bad UTF-8 end a connection; a page that is HTTP stays HTTP; others are served on."""
    async with inside(tmp_path) as made:
        for sent, code in ((frame(2, b"x"), 1003), (frame(TEXT, b"\xff"), 1007)):
            async with raw_client(made.served, shake=False) as client:
                client.send(request_head("/any/path?x=1"))
                assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
                client.send(sent)
                assert (await client.read_close())[0] == code
        async with raw_client(made.served, shake=False) as client:
            client.send(request_head("/healthz"))
            assert (await client.read_head()).startswith(b"HTTP/1.1 200 ")
        async with made.http.post("/", data=b"x" * 70_000) as response:
            assert response.status == 413
        async with made.http.options("/", headers={"Access-Control-Request-Method": "POST"}) as response:
            assert response.status == 204
            assert "solana-client" in response.headers["Access-Control-Allow-Headers"]
