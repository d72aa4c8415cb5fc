"""Clients that stop reading, beside clients that do not, under load: the whole server as a process."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec
import psutil
import pytest
import websockets
from tests.running import ServerProcess
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording

RECORDING = shipped_recording()
ACCOUNTS_EACH = 20
STALLED = 10
CLIENTS = 100
RATE = 2_000
MIB = 2**20
ATTEMPTS = 3
"""Somebody else's load on the machine may spoil one comparison, not three."""
NOISE_SECONDS = 0.005
"""What a p99 of a few milliseconds differs by from run to run on a busy machine."""


class Account(msgspec.Struct):
    id: int | None
    created_at: str


class Update(msgspec.Struct):
    pubkey: str = ""
    source: str = ""
    account: Account | None = None


decode = msgspec.json.Decoder(Update).decode


@dataclass
class Reader:
    """A client that can stop reading; the newest id of each account, and how long live updates took."""

    pubkeys: Sequence[str]
    newest: dict[str, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    went_back: int = 0
    close_code: int | None = None

    async def run(self, url: str, stop_reading: asyncio.Event, read_again: asyncio.Event) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.setblocking(False)
        host, port = url.removeprefix("ws://").removesuffix("/ws").split(":")
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        async with websockets.connect(
            url, sock=sock, compression=None, max_queue=16, ping_interval=None, close_timeout=0.1
        ) as client:
            await client.send(json.dumps({"action": "subscribe", "pubkeys": list(self.pubkeys), "id": 1}))
            try:
                while True:
                    if stop_reading.is_set() and not read_again.is_set():
                        await read_again.wait()
                    self.take(decode(await client.recv()))
            except websockets.ConnectionClosed:
                self.close_code = client.close_code

    def take(self, update: Update) -> None:
        if update.account is None or update.account.id is None:
            return
        if update.account.id <= self.newest.get(update.pubkey, 0):
            self.went_back += 1
        self.newest[update.pubkey] = update.account.id
        if update.source == "realtime":
            written = datetime.fromisoformat(update.account.created_at).timestamp()
            self.latencies.append(time.time() - written)


def p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[int(len(ordered) * 0.99)]


async def run(directory: Path, *, stalled: int, seconds: float, env: dict[str, str]) -> tuple[list[Reader], float]:
    """Return the readers (the stalled ones first) and by how many MiB the server grew while these stalled."""
    directory.mkdir()
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(Devnode(RECORDING, rate=RATE, loop=True, accounts=500))
        server = await stack.enter_async_context(ServerProcess(directory, {"RPC_URL": node.ws_url, **env}))
        await until(lambda: len(node._ledger) >= 400, seconds=15)
        pubkeys = sorted(node._ledger._accounts)
        readers = [
            Reader([pubkeys[(number * 7 + step) % len(pubkeys)] for step in range(ACCOUNTS_EACH)])
            for number in range(CLIENTS)
        ]
        stop, again, never = asyncio.Event(), asyncio.Event(), asyncio.Event()
        tasks = [
            asyncio.ensure_future(reader.run(server.url, stop if number < stalled else never, again))
            for number, reader in enumerate(readers)
        ]
        await until(lambda: all(reader.latencies for reader in readers), seconds=20)
        await asyncio.sleep(2)
        for reader in readers:
            reader.latencies.clear()
        memory = psutil.Process(server.pid).memory_info().rss
        stop.set()
        await asyncio.sleep(seconds)
        growth = psutil.Process(server.pid).memory_info().rss - memory
        healthy = [list(reader.latencies) for reader in readers[stalled:]]
        node.pause()
        again.set()
        await until(lambda: caught_up(readers, stalled), seconds=20)
        if "SLOW_CONSUMER_SECONDS" in env:
            await until(lambda: all(reader.close_code for reader in readers[:stalled]), seconds=20)
        for reader, latencies in zip(readers[stalled:], healthy, strict=True):
            reader.latencies = latencies
        assert await server.stop() == 0
        await asyncio.gather(*tasks)
        return readers, growth / MIB


async def compare(directory: Path, *, seconds: float, env: dict[str, str]) -> bool:
    """Return whether stalled clients leave the others' p99 and the memory as without them, in one of some attempts."""
    for attempt in range(ATTEMPTS):
        calm, growth_without = await run(directory / f"without-{attempt}", stalled=0, seconds=seconds, env=env)
        readers, growth = await run(directory / f"with-{attempt}", stalled=STALLED, seconds=seconds, env=env)
        baseline = p99([value for reader in calm for value in reader.latencies])
        loaded = p99([value for reader in readers[STALLED:] for value in reader.latencies])
        print(f"p99 {baseline * 1000:.1f} ms without, {loaded * 1000:.1f} ms with {STALLED} of {CLIENTS} stalled")
        print(f"memory +{growth_without:.1f} MiB without, +{growth:.1f} MiB with them")
        assert_newest(readers)
        if loaded <= 1.5 * baseline + NOISE_SECONDS and growth - growth_without <= 1.5 * STALLED:
            return True
    return False


def assert_newest(readers: Sequence[Reader]) -> None:
    """No account went back, and who stalled and was not closed ended on the newest states."""
    assert sum(reader.went_back for reader in readers) == 0
    assert caught_up(readers, STALLED)


def caught_up(readers: Sequence[Reader], stalled: int) -> bool:
    """Return whether who stalled and was not closed has the newest states that the others have."""
    newest: dict[str, int] = {}
    for reader in readers[stalled:]:
        for pubkey, number in reader.newest.items():
            newest[pubkey] = max(newest.get(pubkey, 0), number)
    return all(
        newest.get(pubkey, number) == number
        for reader in readers[:stalled]
        if reader.close_code != 4008
        for pubkey, number in reader.newest.items()
    )


@pytest.mark.fault
@pytest.mark.timed
@pytest.mark.timeout(120)
async def test_stalled_clients_cost_the_others_nothing_and_end_on_the_newest_state(tmp_path: Path) -> None:
    """Ten of 100 stop reading: the others' p99 and the memory hold, and the ten end on the newest states."""
    assert await compare(tmp_path, seconds=4, env={"OUTBOX_MAX_BYTES": "262144"})


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_the_same_for_thirty_seconds_with_default_settings(tmp_path: Path) -> None:
    """Ten of 100 stop reading for 30 s at 2,000 updates a second, and all of the above holds."""
    assert await compare(tmp_path, seconds=30, env={})


async def test_a_client_that_stays_behind_is_closed_with_4008(tmp_path: Path) -> None:
    """A client that does not read for SLOW_CONSUMER_SECONDS is told 4008 when it reads again."""
    env = {"OUTBOX_MAX_BYTES": "65536", "SLOW_CONSUMER_SECONDS": "1"}
    readers, _ = await run(tmp_path / "slow", stalled=3, seconds=5, env=env)
    assert [reader.close_code for reader in readers[:3]] == [4008] * 3
    assert 4008 not in {reader.close_code for reader in readers[3:]}
