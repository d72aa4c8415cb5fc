"""The local node's faults: it drops, falls silent, refuses, and drops who lags, as a real one does."""

from __future__ import annotations

import asyncio
import json
import socket

import aiohttp
import msgspec
import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from account_socket.devnode import Devnode, Limits
from account_socket.errors import RpcError
from account_socket.model import RawAccount
from account_socket.sources.recording import Recording, RecordingHeader
from account_socket.sources.rpc_http import RpcHttp

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
A = "5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c"
B64 = {"encoding": "base64", "commitment": "confirmed"}
EMPTY = Recording(RecordingHeader(), [])
JSON = {"Content-Type": "application/json"}
GET_SLOT = '{"jsonrpc":"2.0","id":1,"method":"getSlot"}'


async def subscribe(ws: ClientConnection) -> None:
    await ws.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "programSubscribe", "params": [PROGRAM, B64]}))
    assert "result" in json.loads(await asyncio.wait_for(ws.recv(), 5))


def account(size: int = 3) -> RawAccount:
    return RawAccount(A, 0, PROGRAM, 1, bytes(size))


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (statistics have no event)
            await asyncio.sleep(0.005)


async def test_drop_has_no_close_frame():
    """Dropped connections end without a close frame, HTTP ones too, and new ones are taken."""
    async with Devnode(EMPTY) as node, aiohttp.ClientSession() as http:
        async with http.post(node.http_url, data=GET_SLOT, headers=JSON) as reply:
            assert reply.status == 200
        async with connect(node.ws_url) as ws:
            await subscribe(ws)
            node.drop_connections()
            with pytest.raises(ConnectionClosedError) as caught:
                await asyncio.wait_for(ws.recv(), 5)
            assert caught.value.rcvd is None
        await until(lambda: node.statistics()["connections"] == 0)
        assert node.statistics()["subscriptions"] == 0
        async with connect(node.ws_url) as ws:
            await subscribe(ws)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_silence(new_loop):
    """A silent node keeps TCP open, answers nothing and accepts; afterwards it answers what was asked."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(fall_silent_and_come_back())


async def fall_silent_and_come_back() -> None:
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws, aiohttp.ClientSession() as http:
        await subscribe(ws)
        node.silence()
        node.write(account())
        pong = await ws.ping()
        unanswered = asyncio.create_task(http.post(node.http_url, data=GET_SLOT, headers=JSON))
        handshake = asyncio.create_task(connect(node.ws_url, open_timeout=20).__aenter__())
        _, pending = await asyncio.wait([pong, unanswered, handshake], timeout=0.5)
        assert pending == {pong, unanswered, handshake}
        assert ws.state.name == "OPEN"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ws.recv(), 0.05)

        node.silence(False)
        await asyncio.wait_for(pong, 5)
        async with await asyncio.wait_for(unanswered, 5) as reply:
            assert reply.status == 200
        await (await asyncio.wait_for(handshake, 5)).close()
        told = node.write(account())
        notification = json.loads(await asyncio.wait_for(ws.recv(), 5))
        assert notification["params"]["result"]["context"]["slot"] == told.slot


async def test_refusing():
    """A refusing node ends new connections at once and keeps those it has."""
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws:
        await subscribe(ws)
        node.refuse()
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        writer.close()
        node.write(account())
        assert json.loads(await asyncio.wait_for(ws.recv(), 5))["method"] == "programNotification"
        node.refuse(False)
        async with connect(node.ws_url) as again:
            await subscribe(again)


@pytest.mark.parametrize(
    ("limits", "size"),
    [(Limits(max_queued_messages=100), 3), (Limits(max_queued_bytes=1_000_000), 10_000)],
    ids=["messages", "bytes"],
)
async def test_lagging_client_is_dropped_and_others_stay(limits, size):
    """A client that does not read is dropped once its queue is full, without a close frame; others miss nothing."""
    async with Devnode(EMPTY, limits=limits) as node, connect(node.ws_url) as good, connect(node.ws_url) as good_2:
        with socket.create_connection(("127.0.0.1", node.port)) as lagging:
            lagging.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lagging.sendall(HANDSHAKE)
            lagging.sendall(
                masked_text(
                    json.dumps({"jsonrpc": "2.0", "id": 1, "method": "programSubscribe", "params": [PROGRAM, B64]})
                )
            )
            await subscribe(good)
            await subscribe(good_2)
            await until(lambda: node.statistics()["connections"] == 3)
            written = 0
            while node.statistics()["lagging_dropped"] == 0:
                for _ in range(20):
                    node.write(account(size))
                written += 20
                for client in (good, good_2):
                    for _ in range(20):
                        assert "programNotification" in await asyncio.wait_for(client.recv(), 5)
                assert written < 1_000_000
            await until(lambda: node.statistics()["connections"] == 2)
        assert node.statistics()["lagging_dropped"] == 1


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked_text(text: str) -> bytes:
    """Return a client's text frame with the mask zero."""
    return b"\x81" + bytes([0x80 | 126]) + len(text).to_bytes(2, "big") + bytes(4) + text.encode()


async def test_restart_on_the_same_port():
    """A node that was stopped can be started again on its port; connections to the first end at once."""
    first = Devnode(EMPTY)
    await first.start()
    async with connect(first.ws_url) as ws:
        await subscribe(ws)
        await first.stop()
        await first.stop()
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(ws.recv(), 5)
    async with Devnode(EMPTY, port=first.port) as second, connect(second.ws_url) as ws:
        await subscribe(ws)


async def test_head_limits(monkeypatch):
    """A request head that is too large or never complete ends the connection."""
    monkeypatch.setattr("account_socket.devnode.gate.HEAD_SECONDS", 0.2)
    async with Devnode(EMPTY) as node:
        for sent in (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, b"GET / HTTP/1.1\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(sent)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 5)
            writer.close()


async def test_body_that_never_comes(monkeypatch):
    """A request whose body stays away is answered with 408 and its connection closed."""
    monkeypatch.setattr("account_socket.devnode.gate.BODY_SECONDS", 0.1)
    async with Devnode(EMPTY) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        writer.close()


def test_made_outside_a_loop():
    """A node can be made before there is an event loop."""
    node = Devnode(EMPTY)

    async def start_and_stop() -> int:
        async with node:
            return node.port

    assert asyncio.run(start_and_stop()) > 0


async def test_paused_replay_writes_nothing():
    """While it is held the replay writes nothing, and it goes on where it was."""
    from account_socket.devnode import shipped_recording

    async with Devnode(shipped_recording(), rate=2000) as node:
        await until(lambda: node.statistics()["position"] > 10)
        node.pause()
        held = node.statistics()["position"]
        await asyncio.sleep(0.1)
        assert node.statistics()["position"] == held < 1081
        node.resume()
        await asyncio.wait_for(node.finished.wait(), 10)
        assert node.statistics()["position"] == 1081


async def test_a_write_that_is_not_told_and_a_state_that_is_not_written():
    """A write without `tell` changes the accounts only; `tell` notifies only, also what never was."""
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws:
        await subscribe(ws)
        written = node.write(account(), tell=False)
        assert node._ledger.get(written.pubkey) == written
        node.tell(msgspec.structs.replace(written, lamports=77))
        told = json.loads(await asyncio.wait_for(ws.recv(), 5))
        assert told["params"]["result"]["value"]["account"]["lamports"] == 77
        assert node._ledger.get(written.pubkey) == written


async def test_any_message_can_be_said():
    """It reaches every client as it is, on the same connection as before."""
    async with Devnode(EMPTY) as node, connect(node.ws_url) as ws:
        await subscribe(ws)
        node.say(b"[{")
        assert await asyncio.wait_for(ws.recv(), 5) == "[{"
        node.write(account())
        assert json.loads(await asyncio.wait_for(ws.recv(), 5))["method"] == "programNotification"


async def test_held_reads_stand_still():
    """They show what was, at the slot that was, and do not reach a later one; afterwards they show what is."""
    async with Devnode(EMPTY) as node:
        first = node.write(account())
        node.hold_reads()
        second = node.write(msgspec.structs.replace(first, slot=0, lamports=first.lamports + 1))
        rpc = RpcHttp(node.http_url)
        slot, (held,) = await rpc.get_multiple_accounts([first.pubkey])
        assert (slot, held.lamports) == (first.slot, first.lamports)
        with pytest.raises(RpcError, match="Minimum context slot"):
            await rpc.get_multiple_accounts([first.pubkey], at_least=second.slot, deadline=0.3)
        node.hold_reads(False)
        slot, (now,) = await rpc.get_multiple_accounts([first.pubkey], at_least=second.slot)
        assert now.lamports == second.lamports
        await rpc.close()


@pytest.mark.parametrize("geyser", [None, 0], ids=["PubSub", "Yellowstone"])
async def test_restart_with_the_same_accounts(geyser):
    """A node that restarts ends its connections and is there again on the same ports, with what was written."""
    async with Devnode(EMPTY, geyser_port=geyser) as node:
        urls = node.ws_url, node.http_url, node.geyser_url if geyser is not None else ""
        async with connect(node.ws_url) as ws:
            await subscribe(ws)
            meanwhile = []
            await node.restart(meanwhile=lambda: meanwhile.append(node.write(account())))
            with pytest.raises(ConnectionClosedError):
                await asyncio.wait_for(ws.recv(), 5)
        assert (node.ws_url, node.http_url, node.geyser_url if geyser is not None else "") == urls
        assert node._ledger.get(meanwhile[0].pubkey) == meanwhile[0]
        async with connect(node.ws_url) as ws:
            await subscribe(ws)
            node.write(account())
            assert json.loads(await asyncio.wait_for(ws.recv(), 5))["method"] == "programNotification"
