"""Faults of the node: it restarts, falls behind, repeats itself, talks nonsense, forgets to tell, builds forks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from tests.faults.fault import fault
from tests.faults.stack import Stack

SKIPPED_SLOTS = 25
"""Five times these are still within what Yellowstone replays."""
_NOTHING_OF_A_PROGRAM = (
    b'{"jsonrpc":"2.0","method":"programNotification","params":{"result":{"context":{"slot":-1},"value":null},'
    b'"subscription":0}}'
)
_NO_ACCOUNT = (
    b'{"jsonrpc":"2.0","method":"programNotification","params":{"result":{"context":{"slot":1},"value":{"pubkey":'
    b'"abc","account":{"lamports":1e99,"data":["!","base64"],"owner":"","executable":0}}},"subscription":0}}'
)
_NO_SLOT = (
    b'{"jsonrpc":"2.0","method":"slotNotification","params":{"result":{"parent":-5,"root":"x","slot":1.5},'
    b'"subscription":1}}'
)
NONSENSE = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b'{"jsonrpc":"2.0","id":99999,"result":true}',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}',
    b'{"jsonrpc":"2.0","method":"signatureNotification","params":{"result":{},"subscription":7}}',
    _NOTHING_OF_A_PROGRAM,
    _NO_ACCOUNT,
    _NO_SLOT,
]


@fault("the node drops its connections")
async def node_drops(stack: Stack) -> AsyncGenerator[None, None]:
    """All protocols at once."""
    stack.node.drop_connections()
    yield


@fault("the node refuses connections")
async def node_refuses(stack: Stack) -> AsyncGenerator[None, None]:
    """After it dropped those that there were."""
    stack.node.refuse()
    stack.node.drop_connections()
    yield
    stack.node.refuse(False)


@fault("the node is silent", "pubsub", "compared", hold=(0.2, 1.8))
async def node_silent(stack: Stack) -> AsyncGenerator[None, None]:
    """What it would have notified meanwhile is lost, also where the connections outlive the silence."""
    stack.node.silence()
    yield
    stack.node.silence(False)


@fault("the node restarts", alone="restart")
async def node_restarts(stack: Stack) -> AsyncGenerator[None, None]:
    """On the same ports; meanwhile everything is written and something closed."""

    def meanwhile() -> None:
        stack.traffic.write_all()
        stack.traffic.write(stack.traffic.closed(stack.traffic.some()))

    await stack.node.restart(meanwhile=meanwhile)
    yield


@fault("the node's reads lag", "pubsub", hold=(0.2, 1.5))
async def reads_lag(stack: Stack) -> AsyncGenerator[None, None]:
    """Its HTTP JSON-RPC stands still while the stream goes on, and breaks off once."""
    stack.node.hold_reads()
    stack.parts.proxies[0].drop()
    yield
    stack.node.hold_reads(False)


@fault("notifications are lost", "pubsub", "compared")
async def notifications_lost(stack: Stack) -> AsyncGenerator[None, None]:
    """The connections stand, and some writes are never told."""
    stack.traffic.told = False
    stack.traffic.write_all()
    yield
    stack.traffic.told = True


@fault("a gap of many slots")
async def slots_skipped(stack: Stack) -> AsyncGenerator[None, None]:
    """The connection breaks, and slots with writes go by."""
    stack.node.refuse()
    stack.node.drop_connections()
    for node in stack.parts.nodes:
        node.advance_slots(SKIPPED_SLOTS)
    stack.traffic.write_all()
    yield
    stack.node.refuse(False)


@fault("states are told twice")
async def told_twice(stack: Stack) -> AsyncGenerator[None, None]:
    """The newest ones, again and again."""
    for _ in range(3):
        for raw in stack.truth().values():
            if raw is not None:
                stack.node.tell(raw)
        await asyncio.sleep(0)
    yield


@fault("states are told late")
async def told_late(stack: Stack) -> AsyncGenerator[None, None]:
    """Old ones come behind newer ones of the same accounts."""
    old = [raw for raw in stack.truth().values() if raw is not None]
    stack.traffic.write_all()
    yield
    for raw in old:
        stack.node.tell(raw)


@fault("states change places", "pubsub")
async def told_out_of_order(stack: Stack) -> AsyncGenerator[None, None]:
    """Writes of several slots are told in the wrong order."""
    traffic = stack.traffic
    pubkey = traffic.some()
    written = [raw for _ in range(4) for raw in traffic.write(traffic.state(pubkey), tell=False)]
    for node in stack.parts.nodes:
        for raw in stack.random.sample(written, len(written)):
            node.tell(raw)
    yield


@fault("a state of a slot that nobody announced")
async def future_slot(stack: Stack) -> AsyncGenerator[None, None]:
    """Far ahead of the tip; believed once it would hide everything that comes."""
    ahead = int(stack.node.statistics()["tip_slot"]) + 5_000
    for raw in stack.truth().values():
        if raw is not None:
            stack.node.tell(msgspec.structs.replace(raw, slot=ahead, lamports=raw.lamports + 1))
    yield


@fault("messages of no shape", "pubsub")
async def nonsense(stack: Stack) -> AsyncGenerator[None, None]:
    """Each is survived on the same connection."""
    for message in NONSENSE:
        stack.node.say(message)
    yield


@fault("updates of no shape", "geyser")
async def geyser_nonsense(stack: Stack) -> AsyncGenerator[None, None]:
    """No protobuf, an empty message, and an account without a key."""
    for message in (b"\xff\xff", b"", bytes.fromhex("0a0161120612040a020102")):
        stack.node.geyser.say(message)
    yield


@fault("Yellowstone says that we lag", "geyser")
async def geyser_lagged(stack: Stack) -> AsyncGenerator[None, None]:
    """The stream ends with a status."""
    stack.node.geyser.fail("INTERNAL", "lagged to receive geyser messages")
    yield


@fault("Yellowstone says goodbye", "geyser", alone="restart")
async def geyser_goodbye(stack: Stack) -> AsyncGenerator[None, None]:
    """GOAWAY, then another server on the same address."""
    await stack.node.geyser.restart()
    yield


@fault("Yellowstone does not replay", "geyser", "pubsub")
async def no_replay(stack: Stack) -> AsyncGenerator[None, None]:
    """Streams end meanwhile: what was missed must be read."""
    feed = stack.node.geyser.feed
    feed._replay_slots, before = 0, feed._replay_slots
    stack.node.geyser.fail("UNAVAILABLE", "server is shutting down try again later")
    yield
    feed._replay_slots = before


@fault("a fork dies", "processed", alone="write")
async def fork_dies(stack: Stack) -> AsyncGenerator[None, None]:
    """What was told of its slot never was."""
    traffic = stack.traffic
    traffic.pause()
    traffic.write_all()
    slot = int(stack.node.statistics()["tip_slot"])
    await asyncio.sleep(stack.random.uniform(0.0, 0.1))
    if all(node.statistics()["tip_slot"] == slot for node in stack.parts.nodes):  # else something descends from it
        for node in stack.parts.nodes:
            node.abandon_slot(slot)
    yield
    traffic.resume()


@fault("the second node falls behind", "two", hold=(0.5, 1.5))
async def second_lags(stack: Stack) -> AsyncGenerator[None, None]:
    """All that it says comes late."""
    line = stack.parts.proxies[-1].down
    line.delay = stack.random.uniform(0.3, 1.2)
    yield
    line.delay = 0.0


@fault("the second node restarts", "two", alone="restart")
async def second_restarts(stack: Stack) -> AsyncGenerator[None, None]:
    """The first one goes on."""
    await stack.parts.nodes[-1].restart(meanwhile=stack.traffic.write_all)
    yield


@fault("the nodes drop one after the other", "two")
async def nodes_drop(stack: Stack) -> AsyncGenerator[None, None]:
    """In between there is always one."""
    for node in stack.parts.nodes:
        node.drop_connections()
        await asyncio.sleep(stack.random.uniform(0.0, 0.2))
    yield
