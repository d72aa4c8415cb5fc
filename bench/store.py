"""
Rows per second of the SQLite store, by group size, beside an idle and a busy event loop.

Each group is appended as the pipeline does it: one awaited `append` after the other. The busy loop spends the
rest of its time in pure Python, one millisecond a turn, as fan-out does.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure, Options, Series

from account_socket.model import AccountUpdate, Origin
from account_socket.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = (1, 10, 100, 1000)
ACCOUNTS = 2_000
RAW = bytes(range(256)) * 4 + bytes(88)
DATA_JSON = b'{"pool_fees":{' + b",".join(b'"field_%03d":"1234567890123456789"' % i for i in range(95)) + b"}}"
SWITCH_SECONDS = 0.0005
TURN_SECONDS = 0.001
SECONDS = 0.8
BIG_GROUP = 100


def update(number: int) -> AccountUpdate:
    """Return an update as large as a DAMM v2 pool: 1,112 bytes raw, 3.5 KB of JSON."""
    pubkey = f"{number * 7919 % ACCOUNTS:044d}"
    return AccountUpdate(
        number, None, pubkey, number, 0, b"h" * 16, "Pool", "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG",
        8_630_400, False, 2**64 - 1, RAW, DATA_JSON, "2026-11-23T12:00:00.123456Z", False, Origin.LIVE, 0.0, b"",
    )  # fmt: skip


async def spin(turns: list[int]) -> None:
    """Keep the loop busy; count the turns."""
    while True:
        end = time.perf_counter() + TURN_SECONDS
        while time.perf_counter() < end:
            sum(range(50))
        turns[0] += 1
        await asyncio.sleep(0)


def measure(options: Options) -> Iterator[Figure]:
    found = Series()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        for _ in range(options.repetitions):
            for busy in (False, True):
                for group in GROUPS:
                    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
                        path = Path(directory) / "bench.db"
                        asyncio.run(append(path, group, options.seconds(SECONDS), found, busy=busy))
            if options.big is not None:
                asyncio.run(append(options.big, BIG_GROUP, options.seconds(SECONDS), found, busy=False, name="big, "))
    finally:
        sys.setswitchinterval(interval)
    for case, values in found.values.items():
        yield Figure(case, case.rsplit(" ", 1)[-1], values, judge=">=" if case.endswith("/s") else "<=")
    if options.big is not None:
        ratio = found.ratio(
            f"idle loop, groups of {BIG_GROUP}: rows/s", f"big, idle loop, groups of {BIG_GROUP}: rows/s"
        )
        yield Figure("time of a row with 10 million stored, against none", "", ratio, 1.2)


async def append(path: Path, group: int, seconds: float, found: Series, *, busy: bool, name: str = "") -> None:
    """Append groups of `group` for `seconds` to a store at `path`."""
    store = SqliteStore(path)
    next_id = (await store.open()).next_id
    first_id = next_id
    turns = [0]
    spinner = asyncio.create_task(spin(turns)) if busy else None
    waits: list[float] = []
    started = time.perf_counter()
    while (before := time.perf_counter()) < started + seconds:
        await store.append([update(number) for number in range(next_id, next_id + group)])
        waits.append(time.perf_counter() - before)
        next_id += group
    elapsed = time.perf_counter() - started
    if spinner is not None:
        spinner.cancel()
    await store.close(next_id=next_id)
    waits.sort()
    case = f"{name}{'busy' if busy else 'idle'} loop, groups of {group}"
    found.add(f"{case}: rows/s", (next_id - first_id) / elapsed)
    found.add(f"{case}: p99 of a commit, ms", waits[len(waits) * 99 // 100] * 1e3)
    if busy:
        found.add(f"{case}: kept of the loop's turns, %", turns[0] * TURN_SECONDS / elapsed * 100)
