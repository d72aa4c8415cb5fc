"""COMPRESSION=on over real sockets: clients that compress and clients that do not, side by side."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from solders.pubkey import Pubkey
from tests.integration.server.serving import (
    ANSWER_SECONDS,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    RawClient,
    Served,
    frame,
    raw_client,
    request_head,
    serving,
)
from tests.samples import KEY_A, KEY_B, update
from tests.waiting import until
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate

from account_socket.hub.frames import notice_message

KEYS = [str(Pubkey(number.to_bytes(32, "big"))) for number in range(20)]
NODE_MODULES = Path(__file__).parents[2] / "node" / "node_modules"
OFFER = "permessage-deflate; client_max_window_bits"
"""As browsers send it."""
RSV1 = 4
MESSAGE_LIMIT = 64 * 1024

NODE_CLIENT = """
const WebSocket = require("ws");
const socket = new WebSocket(process.argv[1], { perMessageDeflate: { threshold: 0 } });
socket.on("open", () => socket.send(JSON.stringify({ action: "subscribe", pubkey: process.argv[2], id: 1 })));
socket.on("message", (message) => {
  console.log(JSON.stringify([socket.extensions, socket._socket.bytesRead, JSON.parse(message)]));
});
socket.on("error", (error) => console.log(JSON.stringify([String(error)])));
"""


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(compression=True) as served:
        yield served


def publish(served: Served, pubkey: str = KEY_A, fields: int = 60) -> int:
    """Publish an update that shrinks about as a pool's does."""
    served.last_id += 1
    chance = random.Random(served.last_id)
    data = {f"field_{number}": str(chance.randrange(10 ** chance.randrange(1, 20))) for number in range(fields)}
    served.hub.publish(update(served.last_id, pubkey, data_json=json.dumps(data).encode()))
    return served.last_id


def deflated(data: bytes) -> bytes:
    """Deflate as a client does."""
    stream = zlib.compressobj(9, wbits=-15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Deflating:
    """A raw client that has agreed to compress."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.say = client.say
        self.send = client.send

    async def read(self) -> tuple[int, bytes]:
        """Return the first byte of the next frame and its payload as it came."""
        reader = self.client.reader
        async with asyncio.timeout(ANSWER_SECONDS):
            first, size = await reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await reader.readexactly(2))
            return first, await reader.readexactly(size)

    async def message(self) -> Any:
        """Return the next message as JSON, inflated on its own."""
        first, payload = await self.read()
        assert first & 0x8F == 0x80 | TEXT, (first, payload)
        return json.loads(zlib.decompress(payload + b"\x00\x00\xff\xff\x03\x00", -15) if first & 0x40 else payload)

    async def subscribe(self, *keys: str) -> list[Any]:
        """Subscribe; return the states."""
        self.say({"action": "subscribe", "pubkeys": keys, "id": "ready"})
        messages = []
        while (message := await self.message()).get("id") != "ready":
            messages.append(message)
        return messages


@asynccontextmanager
async def deflating(served: Served, path: str = "/ws") -> AsyncIterator[Deflating]:
    async with raw_client(served, shake=False) as client:
        client.send(request_head(path, Sec_WebSocket_Extensions=OFFER))
        head = await client.read_head()
        assert b"permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n" in head
        yield Deflating(client)


async def test_everybody_gets_the_same_content(served: Served) -> None:
    """Two clients that compress get the very same bytes, and one that does not the same content, always in order."""
    publish(served)
    async with deflating(served) as first, deflating(served) as second, raw_client(served) as plain:
        states = [await first.subscribe(KEY_A), await second.subscribe(KEY_A)]
        plain.say({"action": "subscribe", "pubkey": KEY_A})
        assert states[0] == states[1] == [await plain.read_message()]
        for burst in (1, 2, 16):
            for _ in range(burst):
                publish(served)
            for _ in range(burst):
                opcode, payload = await plain.read_frame()
                frames = [await first.read(), await second.read()]
                assert opcode == TEXT
                assert frames[0] == frames[1]
                assert frames[0][0] == 0xC1
                assert zlib.decompress(frames[0][1] + b"\x00\x00\xff\xff\x03\x00", -15) == payload
                assert len(frames[0][1]) < 0.6 * len(payload)
        assert served.listener.clients.compressor.compressed == 20


async def test_a_library_that_compresses_both_ways(served: Served) -> None:
    """A websockets client with its usual settings compresses its requests, and understands all answers."""
    publish(served)
    keys = [*KEYS, KEY_A]
    async with connect(served.url, compression="deflate") as client:
        (extension,) = client.protocol.extensions
        assert isinstance(extension, PerMessageDeflate)
        assert extension.local_no_context_takeover
        assert extension.remote_no_context_takeover
        async with asyncio.timeout(5):
            for number in range(3):
                await client.send(json.dumps({"action": "subscribe", "pubkeys": keys, "id": number}))
                if number == 0:
                    assert json.loads(await client.recv())["account"]["id"] == 1
                assert json.loads(await client.recv())["found"] == [KEY_A]
            last = publish(served)
            assert json.loads(await client.recv())["account"]["id"] == last


@pytest.mark.parametrize("bits", [{"server_max_window_bits": 10}, {"client_max_window_bits": 10}])
async def test_smaller_windows_are_declined(served: Served, bits: dict[str, int]) -> None:
    """A client that insists on a smaller window is served as if it had offered nothing."""
    async with connect(served.url, extensions=[ClientPerMessageDeflateFactory(**bits)], compression=None) as client:
        assert client.protocol.extensions == []
        await client.send(json.dumps({"action": "subscribe", "pubkey": KEY_A}))
        await until(lambda: served.hub.accounts_subscribed == 1)
        last = publish(served)
        async with asyncio.timeout(5):
            assert json.loads(await client.recv())["account"]["id"] == last
    assert served.listener.clients.compressor.compressed == 0


async def test_by_default_nothing_is_compressed() -> None:
    """Without COMPRESSION=on an offer is passed over, and a compressed request is a breach of the protocol."""
    async with serving() as served, connect(served.url, compression="deflate") as client:
        assert client.protocol.extensions == []
        async with raw_client(served) as raw:
            raw.send(frame(TEXT, deflated(b'{"action":"ping","id":1}'), rsv=RSV1))
            assert (await raw.read_close())[0] == 1002


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_node_ws(served: Served) -> None:
    """The `ws` library of Node.js agrees, compresses its request, and reads states and updates."""
    node = shutil.which("node")
    if node is None or not NODE_MODULES.exists():
        pytest.skip("Node.js and npm are not installed here; .ci/run installs them")
    publish(served)
    process = await asyncio.create_subprocess_exec(
        *(node, "-e", NODE_CLIENT, served.url, KEY_A),
        env=os.environ | {"NODE_PATH": str(NODE_MODULES)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(15):
            lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
            publish(served)
            lines.append(json.loads(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()
    assert {line[0] for line in lines} == {"permessage-deflate"}
    assert [line[2].get("source", line[2].get("type")) for line in lines] == ["cache", "ack", "realtime"]
    assert lines[2][1] - lines[1][1] < 0.6 * len(json.dumps(lines[2][2], separators=(",", ":")))


async def test_answers_and_small_frames_are_plain(served: Served) -> None:
    """What is one client's alone, and what would gain nothing, is not compressed."""
    async with deflating(served) as client:
        client.say({"action": "subscribe", "pubkeys": KEYS, "id": 1})
        await until(lambda: served.hub.accounts_subscribed == len(KEYS))
        client.say({"action": "list", "id": 2})
        frames = [await client.read() for _ in range(2)]
        (connection,) = served.listener.clients.connections
        served.hub.listeners[connection.outbox] = None
        served.hub.notify(notice_message("status slot", b'{"type":"status","event":"confirmed","slot":370462731}'))
        frames.append(await client.read())
        assert [first for first, _ in frames] == [0x81] * 3
        assert len(frames[1][1]) > 700


async def test_status_frames(served: Served) -> None:
    """A notice goes compressed to a listener that compresses, plain to another, each understood."""
    payload = json.dumps({"type": "gap", "source": "rpc-0", "reason": "the node hung up, again " * 20}).encode()
    async with deflating(served) as client, raw_client(served) as plain:
        for connection in served.listener.clients.connections:
            served.hub.listeners[connection.outbox] = None
        served.hub.notify(notice_message("gap rpc-0", payload))
        assert await plain.read_message() == json.loads(payload)
        first, compressed = await client.read()
        assert first == 0xC1
        assert zlib.decompress(compressed + b"\x00\x00\xff\xff\x03\x00", -15) == payload


# ---- what clients send -------------------------------------------------------------------------------------


async def test_a_compressed_request_in_fragments(served: Served) -> None:
    """A compressed request may come in fragments, with a ping in between, beside plain ones."""
    request = deflated(b'{"action":"ping","id":"in pieces"}')
    async with deflating(served) as client:
        client.send(frame(TEXT, request[:5], fin=False, rsv=RSV1))
        client.send(frame(CONTINUATION, b"", fin=False) + frame(PING, b"now"))
        assert await client.read() == (0x8A, b"now")
        client.send(frame(CONTINUATION, request[5:]) + frame(TEXT, b'{"action":"ping","id":"plain"}'))
        assert await client.message() == {"type": "pong", "id": "in pieces"}
        assert await client.message() == {"type": "pong", "id": "plain"}


SPACES = b" " * MESSAGE_LIMIT
BOMB = deflated(b" " * 50_000_000)
assert len(BOMB) < MESSAGE_LIMIT


@pytest.mark.parametrize(
    "frames",
    [
        frame(TEXT, BOMB, rsv=RSV1),
        frame(TEXT, deflated(SPACES + b" "), rsv=RSV1),
        frame(TEXT, BOMB[:50], fin=False, rsv=RSV1) + frame(CONTINUATION, BOMB[50:]),
        frame(TEXT, SPACES[:60_000], fin=False) + frame(CONTINUATION, SPACES[:6_000]),
        # The library stops at the limit, and counts the few bytes it still held back only later:
        frame(TEXT, deflated(SPACES + b" "), fin=False, rsv=RSV1) + frame(CONTINUATION, b""),
        frame(TEXT, deflated(SPACES + b" " * 256), fin=False, rsv=RSV1) + frame(CONTINUATION, b""),
    ],
    ids=["bomb", "a byte too many", "bomb in fragments", "plain fragments", "held back", "more held back"],
)
async def test_a_message_that_inflates_beyond_the_limit(served: Served, frames: bytes) -> None:
    """The limit of 64 KiB is that of the inflated message: 1009, and others notice nothing."""
    async with deflating(served) as client, deflating(served) as other:
        client.send(frames)
        first, payload = await client.read()
        assert first == 0x80 | CLOSE
        assert struct.unpack("!H", payload[:2]) == (1009,)
        other.say({"action": "ping", "id": 1})
        assert await other.message() == {"type": "pong", "id": 1}


async def test_a_message_of_exactly_the_limit(served: Served) -> None:
    """64 KiB inflated are taken."""
    request = b'{"action":"ping","id":1}'.ljust(MESSAGE_LIMIT)
    async with deflating(served) as client:
        client.send(frame(TEXT, deflated(request), rsv=RSV1))
        assert await client.message() == {"type": "pong", "id": 1}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff" * 20, rsv=RSV1), 1002),
        (frame(TEXT, b"{}", fin=False) + frame(CONTINUATION, b"", rsv=RSV1), 1002),
        (frame(PING, b"", rsv=RSV1), 1002),
        (frame(TEXT, deflated(b"\xff\xfe"), rsv=RSV1), 1007),
    ],
    ids=["no deflate", "RSV1 on a continuation", "RSV1 on a ping", "no UTF-8"],
)
async def test_what_cannot_be_inflated(served: Served, data: bytes, code: int) -> None:
    """What is not as RFC 7692 has it closes the connection."""
    async with deflating(served) as client:
        client.send(data)
        first, payload = await client.read()
        assert first == 0x80 | CLOSE
        assert struct.unpack("!H", payload[:2]) == (code,)


async def test_a_flood_of_requests_that_inflate(served: Served) -> None:
    """While one client sends what inflates a thousandfold as fast as it can, another's updates come in time."""
    flood = frame(TEXT, deflated(b'{"action":"ping"}'.ljust(MESSAGE_LIMIT)), rsv=RSV1) * 3_000
    loop = asyncio.get_running_loop()
    async with deflating(served) as bad, deflating(served) as good:
        await good.subscribe(KEY_A)
        bad.send(flood)
        waits = []
        for _ in range(50):
            started = loop.time()
            last = publish(served)
            assert (await good.message())["account"]["id"] == last
            waits.append(loop.time() - started)
            await asyncio.sleep(0.002)
        assert served.listener.clients.tally.requests["ping"] < 3_000  # the flood was still going on
    assert sorted(waits)[25] < 0.1


# ---- what it costs -----------------------------------------------------------------------------------------


async def test_an_idle_client_keeps_no_context(served: Served) -> None:
    """Between messages a connection holds no zlib stream, which would be 50 KB and more."""
    async with deflating(served) as client:
        client.send(frame(TEXT, deflated(b'{"action":"ping","id":1}'), rsv=RSV1))
        assert await client.message() == {"type": "pong", "id": 1}
        await client.subscribe(KEY_A)
        publish(served)
        await client.message()
        (connection,) = served.listener.clients.connections
        (extension,) = connection._protocol.extensions
        assert not any("zlib" in type(value).__module__ for value in vars(extension).values())
        assert sorted(vars(extension)) == sorted(vars(PerMessageDeflate(True, True, 15, 15)))


async def test_a_client_that_is_behind() -> None:
    """A client that compresses and stalls ends on each account's newest state, ids always growing."""
    async with (
        serving(compression=True, outbox_max_bytes=64 * 1024) as served,
        deflating(served) as client,
        deflating(served) as good,
    ):
        await client.subscribe(*KEYS)
        await good.subscribe(KEY_B)
        client.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(800):
            publish(served, KEYS[number % len(KEYS)], fields=120)
            if number % 16 == 15:
                await asyncio.sleep(0)
        last = publish(served, KEY_B)
        assert (await good.message())["account"]["id"] == last
        (connection,) = [one for one in served.listener.clients.connections if len(one.outbox.pubkeys) == len(KEYS)]
        assert connection.outbox.conflated > 100
        client.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        newest = {key: state.id for key in KEYS if (state := served.hub.newest(key))}
        seen: dict[str, int] = {}
        newest_id = 0
        while seen != newest:
            message = await client.message()
            assert message["account"]["id"] > newest_id
            newest_id = seen[message["pubkey"]] = message["account"]["id"]


async def test_of_many_states_at_once_as_many_are_compressed_as_time_allows() -> None:
    """A client that subscribes to 600 accounts gets all of them, in order, only the first of them compressed."""
    keys = [str(Pubkey(number.to_bytes(32, "big"))) for number in range(1000, 1600)]
    async with serving(compression=True, outbox_max_bytes=1 << 24) as served, deflating(served) as client:
        compressor = served.listener.clients.compressor
        compressor._clock = lambda: compressor._since  # time stands still
        for key in keys:
            publish(served, key)
        client.say({"action": "subscribe", "pubkeys": keys})
        messages = [await client.message() for _ in keys]
        assert [message["pubkey"] for message in messages] == keys
        assert 250 < compressor.compressed < 350
        assert compressor.skipped >= len(keys) - compressor.compressed
        assert f"account_socket_messages_compressed_total {compressor.compressed}" in served.metrics.render().decode()
