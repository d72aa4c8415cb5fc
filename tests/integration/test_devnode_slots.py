"""The local node's slots: announced first, never silent, never ahead of what a read shows."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from websockets.asyncio.client import ClientConnection, connect

from account_socket.devnode import Devnode, shipped_recording
from account_socket.devnode.replay import slot_at
from account_socket.model import RawAccount
from account_socket.sources.recording import RecordedWrite, Recording, RecordingHeader

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
A = "5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c"
B64 = {"encoding": "base64", "commitment": "confirmed"}


def recording(*slots: int) -> Recording:
    writes = [RawAccount(A, slot, PROGRAM, 1 + index, bytes([index])) for index, slot in enumerate(slots)]
    return Recording(RecordingHeader(), [RecordedWrite(write) for write in writes])


class Client:
    """Subscribed to slots and to the program; can also read over the same node's HTTP methods."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws

    async def subscribe(self) -> None:
        for number, (method, params) in enumerate((("slotSubscribe", []), ("programSubscribe", [PROGRAM, B64]))):
            await self.ws.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))

    async def next(self) -> tuple[str, int]:
        """Return the next notification as ("slot", slot) or ("write", slot)."""
        while True:
            message = json.loads(await asyncio.wait_for(self.ws.recv(), 5))
            if message.get("method") == "slotNotification":
                return "slot", message["params"]["result"]["slot"]
            if message.get("method") == "programNotification":
                return "write", message["params"]["result"]["context"]["slot"]


async def test_slots_as_recorded():
    """Without loop, writes keep their slots, together where recorded together, each slot announced first."""
    async with Devnode(recording(10, 10, 11, 500), rate=1000, start_on_subscribe=True) as node:
        async with connect(node.ws_url) as ws:
            client = Client(ws)
            await client.subscribe()
            seen = []
            while ("write", 500) not in seen:
                seen.append(await client.next())
    assert seen[0][0] == "slot"
    assert [slot for kind, slot in seen if kind == "write"] == [10, 10, 11, 500]
    for index, (kind, slot) in enumerate(seen):
        if kind == "write":
            assert max(tip for what, tip in seen[:index] if what == "slot") >= slot


async def test_heartbeat_goes_on_when_paused_and_finished():
    """Slots come about every 400 ms before the replay, while it is held, and after it."""
    async with Devnode(recording(10), rate=1000) as node, connect(node.ws_url) as ws:
        client = Client(ws)
        await client.subscribe()
        await asyncio.wait_for(node.finished.wait(), 5)
        started = time.monotonic()
        slots = [slot for _, slot in [await client.next() for _ in range(4)]]
        assert time.monotonic() - started < 4 * 0.4 + 5
        assert slots == sorted(set(slots))
        node.pause()
        assert (await client.next())[0] == "slot"
    async with Devnode(recording(10), start_on_subscribe=True) as node, connect(node.ws_url) as ws:
        await ws.send('{"jsonrpc":"2.0","id":1,"method":"slotSubscribe"}')
        assert (await Client(ws).next())[0] == "slot"
        assert node.statistics()["writes"] == 0


async def test_heartbeat_while_a_slow_replay_runs():
    """A replay slower than the slots does not keep them back, and its later writes still come."""
    async with Devnode(recording(10, 11), rate=1, start_on_subscribe=True) as node, connect(node.ws_url) as ws:
        client = Client(ws)
        await client.subscribe()
        seen = [await client.next()]
        while seen[-1] != ("write", 11):
            seen.append(await client.next())
    assert [kind for kind, _ in seen].count("slot") >= 3


async def test_loop_follows_the_clock_and_grows_across_restarts():
    """With loop, slots are those of the clock: they grow from pass to pass and from node to node."""
    last = 0
    for _ in range(2):
        async with Devnode(recording(10, 11, 12), rate=500, loop=True, start_on_subscribe=True) as node:
            async with connect(node.ws_url) as ws:
                client = Client(ws)
                await client.subscribe()
                tip, writes = 0, []
                while len(writes) < 12:
                    kind, slot = await client.next()
                    if kind == "slot":
                        assert slot > tip
                        tip = slot
                    else:
                        assert last <= slot <= tip
                        writes.append(slot)
                assert writes == sorted(writes)
                assert abs(writes[-1] - slot_at(time.time() * 1000)) <= 25
                assert node.statistics()["passes"] >= 3
                assert not node.finished.is_set()
                last = writes[-1]


async def test_advancing_slots():
    """Slots can be announced ahead of time, and the clock of a loop goes on from there."""
    for loop in (False, True):
        async with Devnode(recording(10), loop=loop) as node, connect(node.ws_url) as ws:
            node.pause()
            client = Client(ws)
            await client.subscribe()
            before = (await client.next())[1]
            node.advance_slots(1000)
            slots = [slot for kind, slot in [await client.next() for _ in range(1001)] if kind == "slot"]
            assert slots[-1] >= before + 1000
            later = await client.next()
            assert later[1] > slots[-1] or later[0] == "write"


async def test_hidden_slot_of_a_liar():
    """A write may claim a slot that is never announced; one that is announced comes after its slot."""
    async with Devnode(recording()) as node, connect(node.ws_url) as ws:
        client = Client(ws)
        await client.subscribe()
        tip = (await client.next())[1]
        node.write(RawAccount(A, tip + 10_000, PROGRAM, 1, b""), announce=False)
        seen = [await client.next()]
        while seen[-1][0] != "write":
            seen.append(await client.next())
        assert seen.pop() == ("write", tip + 10_000)
        assert all(slot < tip + 100 for _, slot in seen)
        node.write(RawAccount(A, tip + 20_000, PROGRAM, 1, b""))
        seen = [await client.next(), await client.next()]
        while seen[-1][0] != "write":
            seen.append(await client.next())
        assert seen[-2:] == [("slot", tip + 20_000), ("write", tip + 20_000)]


@pytest.mark.parametrize("loop", [False, True])
async def test_a_read_never_claims_a_slot_with_writes_to_come(loop):
    """What a read shows is labelled with a slot below that of every later write, at each moment of the replay."""
    source = shipped_recording()
    node = Devnode(source, loop=loop, rate=5000)
    labels: list[tuple[int, int]] = []
    apply = node._apply

    def watch(account: RawAccount) -> None:
        labels.append((node._ledger.context_slot, account.slot))
        apply(account)

    node._apply = watch  # type: ignore[method-assign]
    async with node, asyncio.timeout(10):
        while len(labels) < 1081:  # noqa: ASYNC110  (a loop has no end to wait for)
            await asyncio.sleep(0.01)
    assert all(label < slot for label, slot in labels)
    if not loop:
        assert node._ledger.context_slot >= source.writes[-1].account.slot
