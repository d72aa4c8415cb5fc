"""The local node over real sockets, with a plain WebSocket client and a plain HTTP client."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter

import aiohttp
import pytest
import zstandard
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from account_socket.devnode import GENESIS_HASH, Devnode, ListenError, run_devnode, shipped_recording
from account_socket.model import MAX_I64, SYSTEM_PROGRAM, RawAccount
from account_socket.sources.recording import RecordedWrite, Recording, RecordingHeader

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
A = "5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c"
B = "4QhNxceXm2LnDQnzxTt7FS9jGbUGUJ8eRM7D8N4Q8n7q"
B64 = {"encoding": "base64", "commitment": "confirmed"}
EMPTY = Recording(RecordingHeader(), [])


@pytest.fixture(scope="module")
def shipped() -> Recording:
    return shipped_recording()


def request(method: str, *params, request_id: object = 1) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": list(params)})


async def receive(ws: ClientConnection) -> dict:
    return json.loads(await asyncio.wait_for(ws.recv(), 5))


async def call(ws: ClientConnection, method: str, *params) -> object:
    """Return the result of a request whose answer is the next message."""
    await ws.send(request(method, *params))
    return (await receive(ws))["result"]


async def notifications(ws: ClientConnection, method: str, count: int) -> list[dict]:
    """Return the params of the next `count` notifications of a method, leaving out the others."""
    found = []
    while len(found) < count:
        message = await receive(ws)
        if message.get("method") == method:
            found.append(message["params"])
    return found


def account(pubkey: str = A, *, slot: int = 0, data: bytes = b"\1\2\3") -> RawAccount:
    return RawAccount(pubkey, slot, PROGRAM, 7, data)


def recording(*writes: RawAccount) -> Recording:
    return Recording(RecordingHeader(), [RecordedWrite(write) for write in writes])


async def test_whole_recording_arrives(shipped):
    """Every recorded write that is no close arrives once, in order, with its bytes and slot; slots come first."""
    expected = [write.account for write in shipped.writes if write.account.lamports]
    assert (len(shipped.writes), len(expected)) == (1081, 1065)
    async with Devnode(shipped, rate=3000, start_on_subscribe=True) as node, connect(node.ws_url) as ws:
        await call(ws, "slotSubscribe")
        number = await call(ws, "programSubscribe", PROGRAM, {"encoding": "base64+zstd", "commitment": "confirmed"})
        tip, seen = 0, []
        while len(seen) < len(expected):
            params = (await receive(ws))["params"]
            if params["subscription"] != number:
                assert params["result"]["slot"] > tip
                tip = params["result"]["slot"]
                continue
            assert params["result"]["context"]["slot"] <= tip
            seen.append(params["result"])
        await asyncio.wait_for(node.finished.wait(), 5)
    decompress = zstandard.ZstdDecompressor().decompress
    for result, wanted in zip(seen, expected, strict=True):
        value = result["value"]["account"]
        assert value["data"][1] == "base64+zstd"
        assert decompress(base64.b64decode(value["data"][0])) == wanted.data
        assert (result["context"]["slot"], result["value"]["pubkey"]) == (wanted.slot, wanted.pubkey)
        assert (value["owner"], value["lamports"], value["rentEpoch"]) == (PROGRAM, wanted.lamports, wanted.rent_epoch)


async def test_final_state_is_read_over_http(shipped):
    """After the replay getProgramAccounts holds the last state of every open account, and nothing else."""
    last = {write.account.pubkey: write.account for write in shipped.writes}
    async with Devnode(shipped, rate=50_000) as node, aiohttp.ClientSession() as http:
        await asyncio.wait_for(node.finished.wait(), 10)
        config = B64 | {"withContext": True}
        async with http.post(
            node.http_url, data=request("getProgramAccounts", PROGRAM, config), headers=JSON
        ) as reply:
            result = (await reply.json())["result"]
    assert result["context"]["slot"] >= shipped.writes[-1].account.slot
    assert {each["pubkey"]: base64.b64decode(each["account"]["data"][0]) for each in result["value"]} == {
        pubkey: state.data for pubkey, state in last.items() if state.lamports
    }


JSON = {"Content-Type": "application/json"}


async def test_account_subscription_hears_a_close():
    """accountSubscribe hears writes and the close, programSubscribe only the writes; reads then say null."""
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws, aiohttp.ClientSession() as http:
        assert await call(ws, "programSubscribe", PROGRAM, B64) == 0
        assert await call(ws, "accountSubscribe", A, B64) == 1
        written = node.write(account())
        closed = node.close_account(A)
        node.write(account(B))
        told = [await receive(ws) for _ in range(4)]
        assert [(each["method"], each["params"]["subscription"]) for each in told] == [
            ("programNotification", 0),
            ("accountNotification", 1),
            ("accountNotification", 1),
            ("programNotification", 0),
        ]
        assert [each["params"]["result"]["context"]["slot"] for each in told] == [
            written.slot,
            written.slot,
            closed.slot,
            closed.slot + 1,
        ]
        assert told[2]["params"]["result"]["value"] == {
            "lamports": 0,
            "data": ["", "base64"],
            "owner": SYSTEM_PROGRAM,
            "executable": False,
            "rentEpoch": 0,
            "space": 0,
        }
        config = B64 | {"minContextSlot": closed.slot}
        async with http.post(
            node.http_url, data=request("getMultipleAccounts", [A, B], config), headers=JSON
        ) as reply:
            closed_state, open_state = (await reply.json())["result"]["value"]
        assert closed_state is None
        assert open_state["data"] == ["AQID", "base64"]


async def test_requests_of_every_kind_on_one_socket():
    """Requests, batches and pings are answered in order on one socket; a ping without an id is not."""
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws:
        await ws.send('{"jsonrpc":"2.0","method":"ping"}')
        await ws.send("nonsense")
        assert (await receive(ws))["error"] == {"code": -32700, "message": "Parse error"}
        await ws.send(request("ping"))
        assert (await receive(ws))["error"] == {"code": -32601, "message": "Method not found"}
        batch = [json.loads(request("getVersion", request_id="v")), json.loads(request("slotSubscribe", request_id=2))]
        await ws.send(json.dumps(batch))
        version, slots = json.loads(await ws.recv())
        assert (version["id"], version["result"]["solana-core"], slots) == (
            "v",
            "3.0.6",
            {"jsonrpc": "2.0", "result": 0, "id": 2},
        )
        await ws.send(request("slotUnsubscribe", 9, request_id=3))
        reply = await receive(ws)
        assert reply == {"jsonrpc": "2.0", "error": {"code": -32602, "message": "Invalid subscription id."}, "id": 3}
        assert await call(ws, "slotUnsubscribe", 0) is True
        await ws.send(request("getVersion").encode())
        assert (await receive(ws))["result"]["feature-set"] == 2891131721
        pong = await ws.ping()
        await asyncio.wait_for(pong, 5)


async def test_fragments_are_one_request():
    """A request in several frames is one request."""
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws:
        text = request("getVersion")
        await ws.send([text[:10], text[10:20], text[20:]])
        assert (await receive(ws))["id"] == 1


async def test_largest_request():
    """4096 bytes are a request; 4097, in one frame or several, end the connection without a close frame."""
    async with Devnode(EMPTY) as node:
        async with connect(node.ws_url) as ws:
            await ws.send(request("getVersion").ljust(4096))
            assert (await receive(ws))["id"] == 1
        for oversized in (" " * 4097, [" " * 2000, " " * 2000, " " * 97]):
            async with connect(node.ws_url) as ws:
                await ws.send(oversized)
                with pytest.raises(ConnectionClosedError) as caught:
                    await receive(ws)
                assert caught.value.rcvd is None


async def test_text_that_is_not_utf8_ends_the_connection():
    """Bytes that are not UTF-8 end the connection without a close frame."""
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws:
        await ws.send(b"\xff\xfe")
        with pytest.raises(ConnectionClosedError) as caught:
            await receive(ws)
        assert caught.value.rcvd is None


async def test_clean_close():
    """A client that closes is answered with a close frame, and its subscriptions end."""
    async with Devnode(EMPTY) as node:
        ws = await connect(node.ws_url)
        await call(ws, "slotSubscribe")
        assert node.statistics()["subscriptions"] == 1
        await ws.close()
        assert ws.close_code == 1000
        await until(lambda: node.statistics()["connections"] == 0)
        assert node.statistics()["subscriptions"] == 0


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (statistics have no event)
            await asyncio.sleep(0.005)


async def test_a_grpc_client_at_the_wrong_port(caplog):
    """The first bytes of HTTP/2 are answered in words, and nothing is logged as if it were a fault."""
    async with Devnode(shipped_recording()) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert answer.endswith(b"speaks HTTP/1.1 and WebSocket\n")
    assert not caplog.records


async def test_bad_handshake_is_answered():
    """An upgrade that is no WebSocket handshake gets an HTTP error."""
    async with Devnode(EMPTY) as node:
        with pytest.raises(InvalidStatus) as caught:
            await connect(node.ws_url, additional_headers={"Sec-WebSocket-Version": "8"})
        assert caught.value.response.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/health", {}, b"", 200),
        ("GET", "/", {}, b"", 405),
        ("POST", "/", {"Content-Type": "text/plain"}, b"{}", 415),
        ("POST", "/", JSON, b" " * (50 * 1024 + 1), 413),
        ("POST", "/", JSON, b" " * (50 * 1024), 200),
        ("POST", "/", JSON, b'{"jsonrpc":"2.0","method":"getSlot"}', 200),
    ],
)
async def test_http_statuses(method, path, headers, body, status):
    """HTTP itself is answered as Agave does."""
    async with Devnode(EMPTY) as node, aiohttp.ClientSession() as http:
        async with http.request(method, node.http_url + path, headers=headers, data=body or None) as reply:
            assert reply.status == status
            text = await reply.text()
        if path == "/health":
            assert text == "ok"


async def test_connection_is_kept_alive():
    """Several HTTP requests go over one connection, faults and batches among them."""
    connector = aiohttp.TCPConnector(limit=1)
    async with Devnode(EMPTY) as node, aiohttp.ClientSession(connector=connector) as http:
        for method, expected in (("getHealth", "ok"), ("getGenesisHash", GENESIS_HASH)):
            async with http.post(node.http_url, data=request(method), headers=JSON) as reply:
                assert (await reply.json())["result"] == expected
        batch = f"[{request('getHealth')},{request('getBlock')}]"
        async with http.post(node.http_url, data=batch, headers=JSON) as reply:
            first, second = await reply.json()
            assert (first["result"], second["error"]["code"]) == ("ok", -32601)


async def test_two_ports_serve_both(shipped):
    """With an HTTP port there are two addresses, and each serves WebSocket and HTTP."""
    async with Devnode(shipped, http_port=0, start_on_subscribe=True) as node, aiohttp.ClientSession() as http:
        assert node.http_port != node.port
        assert (node.ws_url, node.http_url) == (
            f"ws://127.0.0.1:{node.port}",
            f"http://127.0.0.1:{node.http_port}",
        )
        for port in (node.port, node.http_port):
            async with connect(f"ws://127.0.0.1:{port}") as ws:
                assert await call(ws, "slotSubscribe") is not None
            async with http.get(f"http://127.0.0.1:{port}/health") as reply:
                assert reply.status == 200


async def test_port_in_use_is_an_error():
    """A port that is taken is an error that names it, and nothing stays open."""
    async with Devnode(EMPTY) as node:
        other = Devnode(EMPTY, port=0, http_port=node.port, geyser_port=0)
        with pytest.raises(ListenError, match="Address already in use"):
            await other.start()
        with pytest.raises(ConnectionRefusedError):
            await connect(other.ws_url)


async def test_several_subscribers_get_every_write(shipped):
    """At 5,000 writes a second each of five subscribers gets every notification."""
    async with Devnode(shipped, rate=5000) as node:
        node.pause()

        async def subscribe_and_count() -> int:
            async with connect(node.ws_url, max_queue=None) as ws:
                await call(ws, "programSubscribe", PROGRAM, B64)
                ready.release()
                return len(await notifications(ws, "programNotification", 1065))

        ready = asyncio.Semaphore(0)
        clients = [asyncio.create_task(subscribe_and_count()) for _ in range(5)]
        for _ in clients:
            await asyncio.wait_for(ready.acquire(), 5)
        node.resume()
        assert await asyncio.gather(*clients) == [1065] * 5
        assert node.statistics()["notifications"] == 5 * 1065


async def test_accounts_spread_the_recording(shipped):
    """With 300 addresses, 300 distinct accounts are written and notified, the originals among them."""
    addresses = {write.account.pubkey for write in shipped.writes}
    async with Devnode(shipped, rate=20_000, accounts=300, start_on_subscribe=True) as node:
        async with connect(node.ws_url, max_queue=None) as ws:
            await call(ws, "programSubscribe", PROGRAM, B64)
            await asyncio.wait_for(node.finished.wait(), 10)
            marker = node.write(account(B, data=b"end"))
            seen = Counter()
            while True:
                result = (await notifications(ws, "programNotification", 1))[0]["result"]
                if result["context"]["slot"] == marker.slot:
                    break
                seen[result["value"]["pubkey"]] += 1
    assert len(seen) == 300
    assert addresses <= set(seen)
    assert node.statistics()["total"] == node.statistics()["position"] > 2 * 1081


async def test_runner_serves_until_cancelled(shipped):
    """The runner tells when it is ready, serves, and frees its port when cancelled."""
    ready: asyncio.Future[Devnode] = asyncio.get_running_loop().create_future()
    runner = asyncio.create_task(run_devnode(shipped, on_ready=ready.set_result, rate=100))
    node = await asyncio.wait_for(ready, 5)
    async with connect(node.ws_url) as ws:
        assert await call(ws, "slotSubscribe") == 0
    runner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await runner
    with pytest.raises(ConnectionRefusedError):
        await connect(node.ws_url)


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"rate": -1}, {"rate": float("nan")}, {"rate": 1e9}, {"accounts": 0}]
)
def test_absurd_options_are_refused(options):
    """A rate or a number of accounts that makes no sense is refused at once."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Devnode(EMPTY, **options)


async def test_one_slow_reader_is_no_burden():
    """A write far above the high water reaches its reader whole."""
    big = account(data=bytes(range(256)) * 4096 * 8)
    async with Devnode(EMPTY) as node, connect(node.ws_url, max_size=None) as ws:
        await call(ws, "programSubscribe", PROGRAM, B64)
        for _ in range(3):
            node.write(big)
        for params in await notifications(ws, "programNotification", 3):
            assert base64.b64decode(params["result"]["value"]["account"]["data"][0]) == big.data


async def test_largest_slot_can_be_written():
    """A write may claim any slot that fits."""
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws:
        await call(ws, "programSubscribe", PROGRAM, B64)
        node.write(account(slot=MAX_I64), announce=False)
        (params,) = await notifications(ws, "programNotification", 1)
        assert params["result"]["context"]["slot"] == MAX_I64
