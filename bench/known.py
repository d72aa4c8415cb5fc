"""
Accounts known: what each costs in memory, and whether updates cost more where many are known.

Two pipelines with stores of their own alternate on one stream in one process, which has nothing else to do: one
knows a thousand accounts, the other a million that it was told of before, of which it has the newest in memory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import rig
from figures import Figure, Options
from messages import PROGRAM, pool_states
from solders.pubkey import Pubkey

from account_socket.cache.memory import MemoryCache
from account_socket.hub.hub import Hub
from account_socket.model import RawAccount
from account_socket.pipeline.ordering import MAX_MARKS, Ordering
from account_socket.pipeline.pipeline import Pipeline
from account_socket.programs import load_programs
from account_socket.service import SWITCH_INTERVAL
from account_socket.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW = 1_000
MANY = 1_000_000
PAGE = 1_000
GROUP = 64
UPDATES = 6_400
ROUNDS = 7
DRAIN_SECONDS = 60.0


def measure(options: Options) -> Iterator[Figure]:
    many, updates = options.many(MANY, 2_000), options.many(UPDATES, GROUP)
    command = [sys.executable, __file__, str(many), str(updates), str(max(1, round(ROUNDS * options.scale)))]
    found = json.loads(rig.run(command))
    yield Figure(f"{FEW:,} accounts known: CPU an update", "µs", found["few"])
    yield Figure(f"{MANY:,} accounts known: CPU an update", "µs", found["many"])
    ratios = [many / few for few, many in zip(found["few"], found["many"], strict=True)]
    yield Figure(f"{MANY:,} accounts known: an update, CPU against {FEW:,}", "", ratios, 1.1)
    yield Figure(
        f"{MANY:,} accounts known: resident memory of each", "bytes", found["memory"], 200 if many == MANY else None
    )
    yield Figure(f"the first {MAX_MARKS:,} of them, all in memory: of each", "bytes", found["memory of first"])


class Side:
    """A pipeline with its store, hub and cache, and no clients."""

    def __init__(self, path: Path) -> None:
        self._store = SqliteStore(path)
        self._slot = 0
        self._stream = [
            (str(Pubkey(random.Random(at).randbytes(32))), state)
            for at, state in zip(range(FEW), pool_states() * FEW, strict=False)
        ]

    async def open(self) -> None:
        registry = load_programs()
        identity = await self._store.open()
        self._ordering = Ordering(registry.programs, identity.next_id)
        hub = Hub(schedule=asyncio.get_running_loop().call_soon, load=lambda _: None)
        cache = MemoryCache(ttl=600.0)
        self._pipeline = Pipeline(
            ordering=self._ordering, registry=registry, store=self._store,
            publish=hub.publish, keep=cache.put, amend=lambda _: None,
        )  # fmt: skip
        self._running = asyncio.create_task(self._pipeline.run())

    def learn(self, accounts: int) -> None:
        """Be told of so many accounts that never come again."""
        chance = random.Random(accounts)
        for _ in range(0, accounts, PAGE):
            page = [RawAccount(str(Pubkey(chance.randbytes(32))), 1, PROGRAM, 1, b"") for _ in range(PAGE)]
            for _ in self._ordering.admit(page):
                pass
            self._ordering.trim(self._ordering.next_id)

    async def stream(self, updates: int) -> float:
        """Return the processor µs an update of a stream on a thousand accounts."""
        self._slot += 1
        stream = self._stream
        batches = [
            [
                RawAccount(stream[at % FEW][0], self._slot, PROGRAM, self._slot * updates + at, stream[at % FEW][1])
                for at in range(start, start + GROUP)
            ]
            for start in range(0, updates, GROUP)
        ]
        started = time.process_time()
        for batch in batches:
            await self._pipeline.admit(batch)
            assert await self._pipeline.drain(DRAIN_SECONDS)
        return (time.process_time() - started) / (len(batches) * GROUP) * 1e6

    async def close(self) -> None:
        self._running.cancel()
        await self._store.close(next_id=self._ordering.next_id)


async def compare(many: int, updates: int, rounds: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        sides = {name: Side(Path(directory) / f"{name}.db") for name in ("few", "many")}
        for side in sides.values():
            await side.open()
            await side.stream(updates)
        empty = resident_bytes()
        first = min(many, MAX_MARKS)
        sides["many"].learn(first)
        found = {"memory of first": [(resident_bytes() - empty) / first]}
        sides["many"].learn(many - first)
        found["memory"] = [(resident_bytes() - empty) / many]
        for side in sides.values():
            await side.stream(updates)
        for _ in range(rounds):
            for name, side in sides.items():
                found.setdefault(name, []).append(await side.stream(updates))
        for side in sides.values():
            await side.close()
        return found


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_INTERVAL)
    print(json.dumps(asyncio.run(compare(*map(int, sys.argv[1:])))))
