"""Everything between a node's write and a client's eyes, in one event loop, with a proxy in each line."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from tests.faults.follower import Follower
from tests.faults.impatient_server import impatient_server
from tests.faults.oracle import Hole, Oracle, check_holes, check_stored
from tests.faults.proxy import Proxy
from tests.faults.subject import AsProcess, InLoop, Subject
from tests.faults.traffic import VERSIONS, Traffic
from tests.running import ServerProcess
from tests.servers import RedisServer

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.sources.recording import Recording
from account_socket.store.sqlite import SqliteStore

EMPTY = Recording(shipped_recording().header, [])
SETTLE_SECONDS = 20.0
"""Within this time after the last fault every client must see what the node has."""
STEADY_SECONDS = 0.4
START_SECONDS = 15.0
START_TRIES = 5
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
        compared: whether accounts are compared with the node every second, or as good as never.
        process: whether the server is a process, that can be killed.
    """

    name: str
    nodes: int = 1
    pubsub: bool = True
    geyser: bool = False
    redis: bool = False
    compared: bool = False
    process: bool = False
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
            "compared": self.compared,
            "process": self.process,
            "loop": not self.process,
            "processed": self.commitment == "processed",
        }
        return frozenset(word for word, holds in has.items() if holds)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("pubsub"),
        Kind("compared", compared=True),
        Kind("processed", commitment="processed"),
        Kind("twins", nodes=2),
        Kind("both", geyser=True),
        Kind("both-processed", geyser=True, commitment="processed"),
        Kind("geyser", geyser=True, pubsub=False),
        Kind("redis", redis=True),
        Kind("process", process=True),
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
        self._exits = AsyncExitStack()

    @property
    def node(self) -> Devnode:
        """The first node, whose accounts are the truth."""
        return self.parts.nodes[0]

    async def __aenter__(self) -> Self:
        try:
            await self._start_nodes()
            await self._start_server()
            await self._start_clients()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    def _process(self) -> ServerProcess:
        return impatient_server(self.database.parent, self.flags())

    def _go(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
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
        self.traffic = Traffic(parts.nodes, self.random, list(VERSIONS)[:ACCOUNTS])
        self.traffic.write_all()

    def flags(self) -> dict[str, str]:
        """Return the server's settings."""
        parts = self.parts
        flags = {
            "DATABASE_URL": f"sqlite://{self.database}",
            "REDIS_URL": parts.redis.url if parts.redis else "memory://",
            "WEBSOCKET_PORT": "0",
            "COMMITMENT": self.kind.commitment,
            "RECONCILE_SECONDS": "1" if self.kind.compared else "3600",
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

    async def _start_server(self) -> None:
        shutil.copyfile(await fresh_database(self.database.parent.parent), self.database)
        self.server: Subject
        if self.kind.process:
            self.server = AsProcess(self._process())
        else:
            self.server = InLoop(self.flags())
        self._exits.push_async_callback(self.server.stop)
        await self.start_server()

    async def start_server(self) -> None:
        """Start it, for the first time or after it was killed."""
        await self.server.start()
        self.parts.line.target = ("127.0.0.1", int(self.server.url.split(":")[2].split("/")[0]))

    async def _start_clients(self) -> None:
        line = await self._exits.enter_async_context(self.parts.line)
        self.steady = self._follow("steady")
        self.proxied = self._follow("proxied", line)
        self.roamer = self._follow("roamer")
        self.clients = [self.steady, self.proxied, self.roamer]
        await self.wait(lambda: self.server.connected, START_SECONDS)
        # Yellowstone alone tells nothing of what was written before it was there.
        for _ in range(START_TRIES):
            self.traffic.write_all()
            if await self.wait(lambda: not self.differences(), START_SECONDS / START_TRIES):
                break
        else:
            raise AssertionError(self.differences())
        self._roaming = self._go(self._roam())
        self._writing = self._go(self.traffic.run(self._rate))

    def _follow(self, name: str, line: Proxy | None = None) -> Follower:
        """Have a client more, behind a line that may fail, or none."""
        forks = self.kind.commitment == "processed"
        oracle = Oracle(name, serials=not forks, conflates=line is not None, forks=forks)
        follower = Follower(self._url(line), self.traffic.pubkeys, oracle)
        self._go(follower.run())
        return follower

    def _url(self, line: Proxy | None) -> Callable[[], str]:
        return lambda: self.server.url if line is None else f"ws://127.0.0.1:{line.port}/ws"

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
        return [
            line
            for client in self.clients
            for line in client.oracle.differences({pubkey: truth[pubkey] for pubkey in client.pubkeys})
        ]

    def _steady(self) -> Callable[[], bool]:
        """Return what tells whether all is as on the node, and was for a while: what is under way may change it."""
        loop = asyncio.get_running_loop()
        since = loop.time()

        def steady() -> bool:
            nonlocal since
            if self.differences():
                since = loop.time()
            return loop.time() - since > STEADY_SECONDS

        return steady

    async def wait(self, condition: Callable[[], object], seconds: float) -> bool:
        """
        Return whether `condition` came true in time.

        What this process could not run for is not counted: it is no time that the server had.
        """
        pause, waited = 0.01, 0.0
        while not condition():
            if self.server.ended:
                await self.server.stop()
                raise AssertionError("the server ended")
            if waited > seconds:
                return False
            await asyncio.sleep(pause)
            waited += pause
            pause = min(pause * 1.5, 0.1)
        return True

    def quiet(self) -> None:
        """Write nothing more, and let no client leave any more."""
        self._writing.cancel()
        self._roaming.cancel()

    async def verdict(self) -> list[str]:
        """Once every fault is over and nothing is written any more: return all that is wrong."""
        self.quiet()
        settled = await self.wait(self._steady(), SETTLE_SECONDS)
        wrong = [] if settled else [f"after {SETTLE_SECONDS:g} s: {line}" for line in self.differences()]
        for client in self.clients:
            wrong += client.oracle.wrong
            wrong += [f"{client.oracle.name}: error {code}" for code in client.errors]
        await self._finish()
        holes = [hole for client in self.clients for hole in client.oracle.holes]
        return wrong + await asyncio.to_thread(self._judge_database, settled, holes)

    async def _finish(self) -> None:
        await self.server.stop()

    def _judge_database(self, settled: bool, holes: Sequence[Hole]) -> list[str]:
        wrong = check_stored(self.database, self.truth()) if settled else []
        return wrong + check_holes(self.database, holes)


async def fresh_database(directory: Path) -> Path:
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
