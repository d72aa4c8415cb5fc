"""
Rows per second of the SQLite store, by group size, beside an idle and a busy event loop.

    python bench/store.py [SECONDS]

Each group is appended as the pipeline does it: one awaited `append` after the other. The busy loop spends the
rest of its time in pure Python, one millisecond a turn, as fan-out does.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from account_socket.model import AccountUpdate, Origin
from account_socket.store.sqlite import SqliteStore

GROUPS = (1, 10, 100, 1000)
ACCOUNTS = 2_000
RAW = bytes(range(256)) * 4 + bytes(88)
DATA_JSON = b'{"pool_fees":{' + b",".join(b'"field_%03d":"1234567890123456789"' % i for i in range(95)) + b"}}"
SWITCH_SECONDS = 0.0005
TURN_SECONDS = 0.001


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


async def measure(group: int, seconds: float, *, busy: bool) -> str:
    """Append groups of `group` for `seconds`; return one line of the table."""
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore(Path(directory) / "bench.db")
        await store.open()
        turns = [0]
        spinner = asyncio.create_task(spin(turns)) if busy else None
        next_id, waits = 1, []
        peak_wal = 0.0
        started = time.perf_counter()
        while (before := time.perf_counter()) < started + seconds:
            await store.append([update(number) for number in range(next_id, next_id + group)])
            waits.append(time.perf_counter() - before)
            next_id += group
            peak_wal = max(peak_wal, store.statistics()["wal_bytes"])
        elapsed = time.perf_counter() - started
        if spinner is not None:
            spinner.cancel()
        await store.close(next_id=next_id)
    waits.sort()
    kept = turns[0] * TURN_SECONDS / elapsed
    return (
        f"{'busy' if busy else 'idle':5}{group:6}{(next_id - 1) / elapsed:12,.0f}"
        f"{waits[len(waits) // 2] * 1e3:9.2f}{waits[len(waits) * 99 // 100] * 1e3:9.2f}{waits[-1] * 1e3:9.1f}"
        f"{peak_wal / 2**20:9.0f}{kept if busy else 1:8.0%}"
    )


def main() -> None:
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    sys.setswitchinterval(SWITCH_SECONDS)
    print("loop  group      rows/s   p50 ms   p99 ms   max ms  WAL MiB  loop kept")
    for busy in (False, True):
        for group in GROUPS:
            print(asyncio.run(measure(group, seconds, busy=busy)), flush=True)


if __name__ == "__main__":
    main()
