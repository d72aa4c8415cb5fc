"""Status and gap frames through real sockets: who gets them, when, and what a client that stalls costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from solders.pubkey import Pubkey
from tests.integration.server.serving import RawClient, Served, raw_client, request_head, serving
from tests.waiting import until

from account_socket.model import Gap
from account_socket.server.readiness import Readiness
from account_socket.server.status_feed import StatusFeed
from account_socket.sources.base import Datasource, Deliver, SourceStatus

KEYS = [str(Pubkey(number.to_bytes(32, "big"))) for number in range(20)]


class Source(Datasource):
    """A source that only has a status."""

    name = "rpc-0"

    def __init__(self) -> None:
        self.status = SourceStatus(connected=True, tip_slot=5, tip_at=float("inf"))

    async def run(self, deliver: Deliver) -> None:
        """Deliver nothing."""

    def flap(self) -> None:
        self.status.connected = not self.status.connected
        self.status.reconnects += self.status.connected


class Fed:
    def __init__(self, served: Served) -> None:
        self.served = served
        self.source = Source()
        self.open: list[tuple[Gap, str]] = []
        readiness = Readiness([self.source], stale_after=15, parts={})
        self.feed = StatusFeed(
            served.hub, [self.source], readiness, open_gaps=lambda: self.open, admitted=lambda: served.last_id
        )
        served.listener.clients.greet = self.feed.greet


@asynccontextmanager
async def fed(**limits: Any) -> AsyncIterator[Fed]:
    async with serving(**limits) as served:
        yield Fed(served)


async def ask_for_status(client: RawClient, path: str = "/ws?status=1") -> None:
    client.send(request_head(path))
    assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")


async def test_only_who_asks_is_told_and_first_of_all() -> None:
    """The first frame is what is now; a client that did not ask has only answers."""
    async with fed() as fed_, raw_client(fed_.served, shake=False) as asker, raw_client(fed_.served) as other:
        await ask_for_status(asker)
        assert (await asker.read_message())["event"] == "now"
        fed_.feed.look()
        assert (await asker.read_message())["event"] == "connected"
        other.say({"action": "ping", "id": 1})
        assert await other.read_message() == {"type": "pong", "id": 1}
        assert len(fed_.served.hub.listeners) == 1
        asker.writer.close()
        await until(lambda: not fed_.served.hub.listeners)


async def test_a_connection_that_spoke_http_before_may_ask_too() -> None:
    """The query counts on a later request of a connection as well."""
    async with fed() as fed_, raw_client(fed_.served, shake=False) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await client.read_head()
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await client.reader.readexactly(size)
        await ask_for_status(client, "/ws/any?x=1&status=1")
        assert (await client.read_message())["event"] == "now"


async def test_a_stalled_asker_keeps_a_bounded_number_of_frames() -> None:
    """While upstream flaps for ever it keeps the newest of each topic, and is told the truth once it reads."""
    async with fed() as fed_, raw_client(fed_.served, shake=False) as asker:
        served = fed_.served
        await ask_for_status(asker)
        asker.say({"action": "subscribe", "pubkeys": KEYS, "id": "ready"})
        while (await asker.read_message()).get("id") != "ready":
            pass
        asker.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (connection,) = served.listener.clients.connections
        while connection.outbox.backlog < len(KEYS):
            for key in KEYS:
                served.publish(key, size=20_000)
            await asyncio.sleep(0)
        for number in range(3001):
            fed_.source.flap()
            fed_.open = [(Gap("rpc-0", 1, number, "again"), "")]
            fed_.feed.note_slot(number, "confirmed")
            fed_.feed.note_slot(number, "finalized")
            fed_.feed.look()
            if number % 16 == 0:
                await asyncio.sleep(0)
        fed_.open = []
        last = [served.publish(key) for key in KEYS]
        fed_.feed.look()
        late = served.publish(KEYS[0])
        await until(lambda: not connection.outbox.pending)
        assert connection.outbox.backlog == len(KEYS) + 4
        asker.writer.transport.resume_reading()  # type: ignore[attr-defined]
        newest: dict[str, dict[str, Any]] = {}
        states: dict[str, int] = {}
        while newest.get("gap rpc-0", {}).get("healed") is not True:
            message = await asker.read_message()
            if "account" in message:
                states[message["pubkey"]] = message["account"]["id"]
            else:
                newest[f"{message['type']} {message.get('source', message.get('event'))}"] = message
        assert states == dict(zip(KEYS, [late, *last[1:]], strict=True))
        asker.say({"action": "ping", "id": "alive"})
        while (message := await asker.read_message()).get("id") != "alive":
            newest[f"{message['type']} {message.get('source', message.get('event'))}"] = message
        assert newest["status rpc-0"]["event"] == "lost"
        assert newest["gap rpc-0"]["to_slot"] == 3000
        assert newest["status confirmed"]["slot"] == newest["status finalized"]["slot"] == 3000
