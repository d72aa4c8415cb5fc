"""Everything between a node's write and a client's eyes, in one event loop, with a proxy in each line."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from tests.faults.follower import Follower
from tests.faults.oracle import Oracle, check_holes, check_stored
from tests.faults.proxy import Proxy
from tests.faults.traffic import Traffic
from tests.servers import RedisServer

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.service import Service
from account_socket.settings import load
from account_socket.sources.recording import Recording
from account_socket.store.sqlite import SqliteStore
from account_socket.upstreams import Timing

EMPTY = Recording(shipped_recording().header, [])
SETTLE_SECONDS = 20.0
"""Within this time after the last fault every client must see what the node has."""
START_SECONDS = 15.0
TIMING = Timing(
    stall=1.2, open=0.8, backoff_base=0.1, backoff_cap=0.4, restart=0.05, watch=0.05, commit=0.3, settle=0.2
)
WRITES_PER_SECOND = 15.0
ACCOUNTS = 8


@dataclass(frozen=True)
class Kind:
    """
    What a server runs on.

    Attributes:
        name: one word.
        nodes: how many nodes, fed alike, each read by PubSub.
        geyser: whether the first node is read by Yellowstone too.
        pubsub: whether nodes are read by PubSub at all.
        redis: whether the cache is a Redis.
    """

    name: str
    nodes: int = 1
    pubsub: bool = True
    geyser: bool = False
    redis: bool = False
    commitment: str = "confirmed"

    @property
    def traits(self) -> frozenset[str]:
        """The words that faults ask for."""
        has = {
            "pubsub": self.pubsub,
            "two": self.nodes > 1,
            "http": self.pubsub and self.nodes == 1,
            "geyser": self.geyser,
            "redis": self.redis,
            "processed": self.commitment == "processed",
        }
        return frozenset(word for word, holds in has.items() if holds)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("pubsub"),
        Kind("processed", commitment="processed"),
        Kind("twins", nodes=2),
        Kind("both", geyser=True),
        Kind("geyser", geyser=True, pubsub=False),
        Kind("redis", redis=True),
    )
}


@dataclass
class Parts:
    """
    What faults act on.

    Attributes:
        proxies: of each node: PubSub with HTTP on one port, or PubSub alone.
        http: the proxy of the first node's HTTP JSON-RPC where it has a port of its own.
        geyser: the proxy of Yellowstone.
        line: the proxy between the server and one client.
    """

    nodes: list[Devnode] = field(default_factory=list)
    proxies: list[Proxy] = field(default_factory=list)
    http: Proxy | None = None
    geyser: Proxy | None = None
    redis: RedisServer | None = None
    line: Proxy = field(default_factory=Proxy)


class Stack:
    """
    A server on a node, clients on the server, writes on the node; an async context manager.

    One client is connected directly, one through a proxy, and one comes and goes.
    """

    def __init__(self, kind: Kind, directory: Path, random: Random, *, rate: float = WRITES_PER_SECOND) -> None:
        self.kind = kind
        self.random = random
        self.database = directory / "account.db"
        self.parts = Parts()
        self._rate = rate
        self._stop = asyncio.Event()
        self._exits = AsyncExitStack()

    @property
    def node(self) -> Devnode:
        """The first node, whose accounts are the truth."""
        return self.parts.nodes[0]

    async def __aenter__(self) -> Self:
        try:
            await self._start_nodes()
            self.traffic = Traffic(self.parts.nodes, self.random, ACCOUNTS)
            self.traffic.write_all()
            await self._start_service()
            await self._start_clients()
            self._writing = self._go(self.traffic.run(self._rate))
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    def _go(self, work: object) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._exits.push_async_callback(_cancel, task)
        return task

    async def _start_nodes(self) -> None:
        kind, parts = self.kind, self.parts
        for number in range(kind.nodes):
            geyser = 0 if kind.geyser and number == 0 else None
            node = Devnode(EMPTY, http_port=0, geyser_port=geyser)
            parts.nodes.append(await self._exits.enter_async_context(node))
            node.advance_slots(5)
            parts.proxies.append(await self._exits.enter_async_context(Proxy(node.port)))
        if kind.nodes == 1 and kind.pubsub:
            parts.http = await self._exits.enter_async_context(Proxy(self.node.http_port or 0))
        if kind.geyser:
            parts.geyser = await self._exits.enter_async_context(Proxy(self.node.geyser.port))
        if kind.redis:
            parts.redis = self._exits.enter_context(RedisServer())

    def flags(self) -> dict[str, str]:
        """Return the server's settings."""
        parts = self.parts
        flags = {
            "DATABASE_URL": f"sqlite://{self.database}",
            "REDIS_URL": parts.redis.url if parts.redis else "memory://",
            "WEBSOCKET_PORT": "0",
            "COMMITMENT": self.kind.commitment,
            "RECONCILE_SECONDS": "1",
            "RPC_MAX_RPS": "1000",
            "RPC_LOOKUPS_PER_SECOND": "1000",
            "STALE_AFTER_SECONDS": "3",
            "OUTBOX_MAX_BYTES": "65536",
            "SLOW_CONSUMER_SECONDS": "2",
        }
        if self.kind.pubsub:
            flags["RPC_URL"] = ",".join(f"ws://127.0.0.1:{proxy.port}" for proxy in parts.proxies)
        if parts.http is not None:
            flags["RPC_HTTP_URL"] = f"http://127.0.0.1:{parts.http.port}"
        if parts.geyser is not None:
            flags["GEYSER_URL"] = f"http://127.0.0.1:{parts.geyser.port}"
        return flags

    async def _start_service(self) -> None:
        shutil.copyfile(await _fresh_database(self.database.parent.parent), self.database)
        self.service = Service(load(self.flags(), flags_only=True), timing=TIMING)
        await self.service.start()
        self._running = asyncio.ensure_future(self.service.run_until(self._stop))
        self._exits.push_async_callback(self._stop_service)
        self.parts.line.target = ("127.0.0.1", int(self.service.url.split(":")[2].split("/")[0]))

    async def _stop_service(self) -> None:
        self._stop.set()
        await self._running

    async def _start_clients(self) -> None:
        line = await self._exits.enter_async_context(self.parts.line)
        through = f"ws://127.0.0.1:{line.port}/ws"
        self.steady = self._follow("steady", self.service.url)
        self.proxied = self._follow("proxied", through, conflates=True)
        self.roamer = self._follow("roamer", self.service.url)
        self.clients = [self.steady, self.proxied, self.roamer]
        self._roaming = self._go(self._roam())
        await self.wait(lambda: all(not client.oracle.differences(self.truth()) for client in self.clients))

    def _follow(self, name: str, url: str, *, conflates: bool = False) -> Follower:
        oracle = Oracle(name, serials=self.kind.commitment != "processed", conflates=conflates)
        follower = Follower(lambda: url, self.traffic.pubkeys, oracle)
        self._go(follower.run())
        return follower

    async def _roam(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.1, 0.6))
            self.roamer.leave()

    def truth(self) -> dict[str, RawAccount | None]:
        """Return the accounts as the node has them."""
        return {pubkey: self.node._ledger.get(pubkey) for pubkey in self.traffic.pubkeys}

    def differences(self) -> list[str]:
        """Return where what clients saw last is not what the node has."""
        truth = self.truth()
        return [line for client in self.clients for line in client.oracle.differences(truth)]

    async def wait(self, condition: object, seconds: float = START_SECONDS) -> bool:
        """Return whether `condition` came true in time. Raises what ended the server."""
        assert callable(condition)
        ends = asyncio.get_running_loop().time() + seconds
        while not condition():
            if self._running.done():
                self._running.result()
            if asyncio.get_running_loop().time() > ends:
                return False
            await asyncio.sleep(0.02)
        return True

    def quiet(self) -> None:
        """Write nothing more."""
        self._writing.cancel()

    async def verdict(self) -> list[str]:
        """Once every fault is over and nothing is written any more: return all that is wrong."""
        self.quiet()
        self._roaming.cancel()
        settled = await self.wait(lambda: not self.differences(), SETTLE_SECONDS)
        wrong = [] if settled else [f"after {SETTLE_SECONDS:g} s: {line}" for line in self.differences()]
        for client in self.clients:
            wrong += client.oracle.wrong
            wrong += [f"{client.oracle.name}: error {code}" for code in client.errors]
        await self._stop_service()
        holes = [hole for client in self.clients for hole in client.oracle.holes]
        return wrong + await asyncio.to_thread(self._judge_database, settled, holes)

    def _judge_database(self, settled: bool, holes: list[object]) -> list[str]:
        wrong = check_stored(self.database, self.truth()) if settled else []
        return wrong + check_holes(self.database, holes)  # type: ignore[arg-type]


async def _fresh_database(directory: Path) -> Path:
    """Return an empty database, made once: the migrations take longer than everything else."""
    path = directory / "fresh.db"
    if not path.exists():
        made = directory / f"making-{id(path)}.db"
        store = SqliteStore(f"sqlite://{made}")
        await store.open()
        await store.close(next_id=1)
        made.rename(path)
    return path


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextmanager
def surprises() -> Iterator[list[str]]:
    """Collect what tasks raise that nobody awaits."""
    found: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: found.append(str(context)))
    try:
        yield found
    finally:
        loop.set_exception_handler(before)
