"""The whole server under load for long: a rig that plays faults, and the figures that it takes meanwhile."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from statistics import median, quantiles

import aiohttp
import psutil
from tests.faults.faults import FAULTS
from tests.faults.follower import Follower
from tests.faults.oracle import Oracle, Update
from tests.faults.proxy import Proxy
from tests.faults.stack import SETTLE_SECONDS, Kind, Stack
from tests.faults.subject import AsProcess
from tests.faults.traffic import Traffic
from tests.running import ServerProcess
from tests.servers import RedisServer

from account_socket.devnode import Devnode, shipped_recording

RATE = 2_000
ACCOUNTS = 500
CLIENTS = 200
ACCOUNTS_EACH = 10
ROAMING = 40
"""How many of the clients come and go."""
THROUGH_THE_LINE = 20
"""How many are behind the faulty line."""
FAULT_EVERY_SECONDS = 20.0
FAULT_SECONDS = (1.0, 8.0)
STAY_SECONDS = (2.0, 15.0)
SAMPLE_SECONDS = 2.0
WARM_SECONDS = 10.0
CALM_SECONDS = 5.0
"""So long after a fault latency counts again."""
MAX_LATENCIES = 200_000
KEEP_DAYS = 120 / 86_400
"""History of two minutes: the disk is not what is tested, and deleting goes on all the while."""
PLAYED = (
    *(name for name in FAULTS if name.startswith(("PubSub ", "HTTP ", "a client's line ", "Redis "))),
    "every line of the node drops",
    "the node drops its connections",
    "the node refuses connections",
    "the node is silent",
    "the node's reads lag",
    "the database is locked",
    "messages of no shape",
)
MIB = 2**20


@dataclass
class Figures:
    """
    What was measured of the server.

    Attributes:
        resident: MiB, a sample each SAMPLE_SECONDS.
        wal: MiB, at the same times.
        latencies: seconds from `created_at` to the client, in calm moments, a random choice of MAX_LATENCIES.
        before, after: file descriptors, threads and tasks while no client is there.
    """

    resident: list[float] = field(default_factory=list)
    wal: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    updates: int = 0
    faults: int = 0
    connections: int = 0
    left_out: int = 0
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)

    @property
    def growth(self) -> float:
        """By what part of itself memory grew over the last half: its last fifth against its first."""
        half = self.resident[len(self.resident) // 2 :]
        fifth = max(1, len(half) // 5)
        return median(half[-fifth:]) / median(half[:fifth]) - 1

    def table(self) -> str:
        """Return all of it, a line each."""
        cuts = quantiles(self.latencies, n=100)
        rows = {
            "updates seen by clients": f"{self.updates:,}",
            "connections of clients": f"{self.connections:,}",
            "faults": str(self.faults),
            "latency p50, p99": f"{cuts[49] * 1000:.1f} ms, {cuts[98] * 1000:.1f} ms",
            "memory, first and last": f"{self.resident[0]:.0f} MiB, {self.resident[-1]:.0f} MiB",
            "memory, growth over the last half": f"{self.growth:+.1%}",
            "write-ahead log, at most": f"{max(self.wal):.0f} MiB",
            "updates left out, explained": f"{self.left_out:,}",
            **{f"{name}, before and after": f"{count}, {self.after[name]}" for name, count in self.before.items()},
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


class Rig(Stack):
    """A server as a process, with the usual patience, on a node that replays, with CLIENTS clients."""

    def __init__(self, directory: Path, random: Random) -> None:
        super().__init__(Kind("soak", redis=True, compared=True, process=True), directory, random)
        self.figures = Figures()
        self._disturbed_until = 0.0
        self._following: list[asyncio.Task[None]] = []

    def _process(self) -> ServerProcess:
        return ServerProcess(self.database.parent, self.flags())

    async def _start_nodes(self) -> None:
        enter, parts = self._exits.enter_async_context, self.parts
        parts.nodes.append(
            await enter(Devnode(shipped_recording(), http_port=0, rate=RATE, loop=True, accounts=ACCOUNTS))
        )
        parts.proxies.append(await enter(Proxy(self.node.port)))
        parts.http = await enter(Proxy(self.node.http_port or 0))
        parts.redis = self._exits.enter_context(RedisServer())

    def flags(self) -> dict[str, str]:
        """Return the server's settings, the usual limits of clients among them."""
        changed = {"RPC_MAX_RPS": "50", "RETENTION_DAYS": str(KEEP_DAYS)}
        usual = {"OUTBOX_MAX_BYTES", "SLOW_CONSUMER_SECONDS", "STALE_AFTER_SECONDS"}
        return {name: value for name, value in super().flags().items() if name not in usual} | changed

    async def _start_clients(self) -> None:
        await self._exits.enter_async_context(self.parts.line)
        assert await self.wait(lambda: len(self.node._ledger) >= ACCOUNTS * 0.9, SETTLE_SECONDS), "no writes"
        self.traffic = Traffic(self.parts.nodes, self.random, sorted(self.node._ledger._accounts))
        # What is opened when it is first needed stays open: it is no leak.
        self._meet_clients()
        await asyncio.sleep(WARM_SECONDS)
        await self._leave()
        self.figures.before = await self._counts()
        self._meet_clients()
        self._watching = [self._go(self._sample()), self._go(self._roam())]

    def _meet_clients(self) -> None:
        line = self.parts.line
        self.clients = [
            self._follow(f"client {number}", line if number < THROUGH_THE_LINE else None) for number in range(CLIENTS)
        ]

    async def _leave(self) -> None:
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        self._following.clear()

    def _follow(self, name: str, line: Proxy | None = None) -> Follower:
        pubkeys = self.random.sample(self.traffic.pubkeys, ACCOUNTS_EACH)
        # So many clients in one process are slower at times than the server.
        follower = Follower(self._url(line), pubkeys, Oracle(name, serials=False, conflates=True))
        follower.stamped = self._note
        self._following.append(self._go(follower.run()))
        return follower

    def _note(self, update: Update) -> None:
        """Take how long an update took."""
        if update.source != "realtime" or time.monotonic() < self._disturbed_until:
            return
        latencies = self.figures.latencies
        seconds = time.time() - datetime.fromisoformat(update.account.created_at).timestamp()
        if len(latencies) < MAX_LATENCIES:
            latencies.append(seconds)
        else:
            latencies[self.random.randrange(MAX_LATENCIES)] = seconds

    async def _roam(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(*STAY_SECONDS) / ROAMING)
            self.random.choice(self.clients[-ROAMING:]).leave()

    async def _sample(self) -> None:
        wal = self.database.with_name(self.database.name + "-wal")
        while True:
            self.figures.resident.append(self._seen.memory_info().rss / MIB)
            self.figures.wal.append(wal.stat().st_size / MIB if wal.exists() else 0.0)
            await asyncio.sleep(SAMPLE_SECONDS)

    @property
    def _seen(self) -> psutil.Process:
        assert isinstance(self.server, AsProcess)
        return psutil.Process(self.server.process.pid)

    async def play(self, seconds: float) -> None:
        """Have a fault every FAULT_EVERY_SECONDS."""
        ends = time.monotonic() + seconds
        while (began := time.monotonic()) < ends - FAULT_EVERY_SECONDS:
            one = FAULTS[self.random.choice(PLAYED)]
            print(f"{ends - began:6.0f} s left: {one.name}")
            self._disturbed_until = float("inf")
            going_on = await one.inject(self)
            await asyncio.sleep(self.random.uniform(*FAULT_SECONDS))
            await going_on.clear()
            self.figures.faults += 1
            self._disturbed_until = time.monotonic() + CALM_SECONDS
            await asyncio.sleep(max(0.0, began + FAULT_EVERY_SECONDS - time.monotonic()))
        await asyncio.sleep(max(0.0, ends - time.monotonic()))

    def quiet(self) -> None:
        """Write nothing more, and let no client leave any more."""
        self.node.pause()
        for task in self._watching:
            task.cancel()

    async def _finish(self) -> None:
        figures = self.figures
        figures.updates = sum(client.oracle.seen for client in self.clients)
        figures.connections = sum(client.connections for client in self.clients)
        figures.left_out = sum(len(client.oracle.holes) for client in self.clients)
        await self._leave()
        figures.after = await self._counts()
        await super()._finish()

    async def _counts(self) -> dict[str, int]:
        """Return what the server holds once no client is there."""
        while True:
            metrics = await self._metrics()
            if not metrics["account_socket_connections"]:
                break
            await asyncio.sleep(0.1)
        return {
            "file descriptors": self._seen.num_fds(),
            "threads": self._seen.num_threads(),
            "tasks": int(metrics["account_socket_tasks"]),
        }

    async def _metrics(self) -> dict[str, float]:
        assert isinstance(self.server, AsProcess)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.server.process.http_url}/metrics") as response,
        ):
            lines = re.findall(r"^(\w+) (\S+)$", await response.text(), re.MULTILINE)
        return {name: float(value) for name, value in lines}
