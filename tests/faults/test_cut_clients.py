"""Clients whose connections are cut a thousand times, which go on where they broke off."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import struct
from collections import Counter
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.integration.server.serving import CLOSE, TEXT, frame, request_head
from tests.running import ServerProcess
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.sources.recording import Recording

CUTS = 1_000
KILLS = 5
CLIENTS = 24
ACCOUNTS_EACH = 6
ACCOUNTS = 20
WRITES_PER_SECOND = 400
WAYS = ("reset", "close", "half", "half request", "at once")


class CutClient:
    """
    A client that is cut off at random and comes back.

    Attributes:
        seen: account → the ids it was told, in order.
        sources: how many states came from where.
        cuts: how many of its connections ended, by how.
        unrecovered: accounts that it was told to be not resumed of.
    """

    def __init__(self, pubkeys: list[str], random: Random) -> None:
        self.pubkeys = pubkeys
        self.seen: dict[str, list[int]] = {}
        self.sources: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self.unrecovered: list[str] = []
        self.recovered = 0
        self._random = random
        self._epoch = ""
        self._data = bytearray()

    async def live(self, port: int, way: str) -> None:
        """Connect, go on, and be cut off in some way after a moment; raises OSError where nobody listens."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._data.clear()
        writer.write(request_head() + frame(TEXT, json.dumps(self._request()).encode()))
        try:
            if way == "at once":
                await asyncio.sleep(self._random.random() * 0.005)
            else:
                await self._read_for(reader, self._random.random() * 0.2)
            await self._cut(reader, writer, way)
        except ConnectionError:
            way = "by the server"
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
        self.cuts[way] += 1

    def newest(self) -> dict[str, int]:
        """Return the last id that it was told of each account."""
        return {pubkey: ids[-1] for pubkey, ids in self.seen.items()}

    def _request(self) -> dict[str, Any]:
        request = {"action": "subscribe", "pubkeys": self.pubkeys, "id": 1}
        if self._epoch:
            request |= {"after": self.newest(), "epoch": self._epoch}
        else:
            self.seen.clear()  # without the epoch, ids say nothing: it begins anew
        return request

    async def _cut(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        if way == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == "half":
            writer.write_eof()
            while data := await reader.read(4096):
                self._take(data)
        elif way == "half request":
            writer.write(frame(TEXT, b'{"action":"ping"}')[:9])

    async def _read_for(self, reader: asyncio.StreamReader, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.read(reader)

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Read in pieces of any size, so that the end is in the middle of a frame as often as not."""
        while data := await reader.read(self._random.randrange(1, 20_000)):
            self._take(data)
        raise ConnectionResetError

    def _take(self, data: bytes) -> None:
        self._data += data
        if self._data.startswith(b"HTTP"):
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._data = rest
        while (whole := _split_frame(self._data)) is not None:
            opcode, payload, size = whole
            del self._data[:size]
            if opcode != CLOSE:
                self._see(json.loads(payload))

    def _see(self, message: dict[str, Any]) -> None:
        if "account" in message:
            account = message["account"]
            self.seen.setdefault(message["pubkey"], []).append(account["id"])
            self.sources[message["source"]] += 1
        else:
            assert message["type"] == "ack", message
            self._epoch = message["epoch"]
            self.unrecovered += message.get("unrecovered", ())
            self.recovered += message.get("recovered", False)


def _split_frame(data: bytearray) -> tuple[int, bytes, int] | None:
    """Return opcode, payload and size of the first frame, if it is whole."""
    if len(data) < 2:
        return None
    length, start = data[1], 2
    if length == 126:
        length, start = int.from_bytes(data[2:4]), 4
    elif length == 127:
        length, start = int.from_bytes(data[2:10]), 10
    size = start + length
    return (data[0] & 0x0F, bytes(data[start:size]), size) if len(data) >= size else None


def chains(database: Path) -> dict[str, list[int]]:
    """Return the ids of each account in the history, having checked that each row names the one before."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    rows: dict[str, list[tuple[int, int | None]]] = {}
    for pubkey, id_, prev_id in connection.execute("SELECT pubkey, id, prev_id FROM account_updates ORDER BY id"):
        rows.setdefault(pubkey, []).append((id_, prev_id))
    connection.close()
    for chain in rows.values():
        assert all(after[1] == before[0] for before, after in pairwise(chain))
    return {pubkey: [id_ for id_, _ in chain] for pubkey, chain in rows.items()}


async def kill_at_times(server: ServerProcess, clients: list[CutClient]) -> None:
    """Kill the server and start it again each time so many connections were cut."""
    for kill in range(1, KILLS + 1):
        threshold = kill * CUTS // (KILLS + 1)
        await until(lambda: sum(sum(each.cuts.values()) for each in clients) >= threshold, seconds=20)  # noqa: B023
        await server.kill()
        await server.start()


def busiest(accounts: int) -> tuple[Recording, list[str]]:
    """Return the shipped recording of its accounts with the most writes, and these."""
    shipped = shipped_recording()
    pubkeys = [key for key, _ in Counter(write.account.pubkey for write in shipped.writes).most_common(accounts)]
    return Recording(shipped.header, [write for write in shipped.writes if write.account.pubkey in pubkeys]), pubkeys


@pytest.mark.fault
async def test_a_thousand_cuts(tmp_path: Path) -> None:
    """However often clients are cut off and the server killed, each account's ids have no hole and no repeat."""
    recording, pubkeys = busiest(ACCOUNTS)
    random = Random(6)
    clients = [CutClient(random.sample(pubkeys, ACCOUNTS_EACH), Random(number)) for number in range(CLIENTS)]
    async with Devnode(recording, rate=WRITES_PER_SECOND, loop=True) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url}) as server:
            budget = count()

            async def come_and_go(client: CutClient) -> None:
                while next(budget) < CUTS:
                    while True:
                        try:
                            await client.live(port_of(server), random.choice(WAYS))
                            break
                        except OSError:
                            await asyncio.sleep(0.1)

            async with asyncio.timeout(45), asyncio.TaskGroup() as group:
                group.create_task(kill_at_times(server, clients))
                for client in clients:
                    group.create_task(come_and_go(client))
            await catch_up(node, server, clients, tmp_path / "account.db")
    history = chains(tmp_path / "account.db")
    for client in clients:
        assert len(client.seen) >= ACCOUNTS_EACH - 2  # some are open for moments only
        for pubkey, ids in client.seen.items():
            start = history[pubkey].index(ids[0])
            assert ids == history[pubkey][start : start + len(ids)]
        assert client.unrecovered == []
    how_often(clients)


def how_often(clients: list[CutClient]) -> None:
    """Check that the test was one: every way of being cut, history and live updates, each many times."""
    ways = sum((client.cuts for client in clients), Counter[str]())
    sources = sum((client.sources for client in clients), Counter[str]())
    assert ways.total() >= CUTS
    assert all(ways[way] > 50 for way in WAYS), ways
    assert sources["database"] > 1_000
    assert sources["realtime"] > 300


def port_of(server: ServerProcess) -> int:
    return int(server.url.rpartition(":")[2].removesuffix("/ws") or 1)


async def catch_up(node: Devnode, server: ServerProcess, clients: list[CutClient], database: Path) -> None:
    """Have every client read until it has the newest update of each of its accounts."""
    node.pause()

    async def read(client: CutClient) -> None:
        while client.newest() != {key: ids[-1] for key, ids in chains(database).items() if key in client.pubkeys}:
            with suppress(OSError):
                await client.live(port_of(server), "close")

    async with asyncio.timeout(15):
        await asyncio.gather(*map(read, clients))
