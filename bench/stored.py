"""
What is stored already: the time to start, the memory of an account known, and whether updates cost more.

Two servers alternate on the same stream: one began empty, the other with many small accounts in its database.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series
from solders.pubkey import Pubkey

from account_socket.store.schema import now
from account_socket.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNTS = 100_000
STREAM_ACCOUNTS = 1_000
RATE = 1_000
SECONDS = 2.0
BIG_ACCOUNTS = 1_000_000
BIG_ROWS = 10_000_000
PAGE = 10_000
PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
KEEP_FOR_EVER = {"RETENTION_DAYS": "36500"}

_INSERT_UPDATE = """
INSERT INTO account_updates (id, pubkey, slot, account_type, owner, lamports, data_json, created_at, prev_id, format)
VALUES (?, ?, 1, 'Pool', ?, 1, '{}', ?, NULL, 1)
"""
_INSERT_STATE = """
INSERT INTO account_state (pubkey, id, prev_id, slot, write_version, hash, account_type, owner, lamports, executable,
 rent_epoch, created_at, closed, data_json, raw)
VALUES (?, ?, NULL, 1, 0, ?, 'Pool', ?, 1, 0, '0', ?, 0, '{}', x'00')
"""


def measure(options: Options) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        if options.big is not None:
            yield from compare(options.big, BIG_ACCOUNTS, f"{BIG_ACCOUNTS:,} accounts, {BIG_ROWS:,} rows", options)
        else:
            accounts = options.many(ACCOUNTS)
            path = Path(directory) / "full.db"
            fill(path, accounts, accounts)
            yield from compare(path, accounts, f"{ACCOUNTS:,} accounts and rows", options)


def fill(path: Path, accounts: int, rows: int) -> None:
    """Make a database of so many accounts and small rows."""

    async def make() -> int:
        store = SqliteStore(path)
        identity = await store.open()
        await store.close(next_id=identity.next_id)
        return identity.next_id

    first = asyncio.run(make())
    chance = random.Random(1)
    keys = [str(Pubkey(chance.randbytes(32))) for _ in range(accounts)]
    created_at = now()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    for start in range(0, rows, PAGE):
        numbers = range(start, min(start + PAGE, rows))
        with connection:
            connection.executemany(
                _INSERT_UPDATE, [(first + number, keys[number % accounts], PROGRAM, created_at) for number in numbers]
            )
            if start < accounts:
                states = numbers[: accounts - start]
                connection.executemany(
                    _INSERT_STATE,
                    [
                        (keys[at], first + rows - accounts + at, chance.randbytes(16), PROGRAM, created_at)
                        for at in states
                    ],
                )
    connection.execute("UPDATE meta SET value = ? WHERE key = 'id_reserved'", (str(first + rows),))
    connection.commit()
    connection.close()


def compare(path: Path, accounts: int, name: str, options: Options) -> Iterator[Figure]:
    found = Series()
    count = round(RATE * options.seconds(SECONDS))
    with ExitStack() as stack:
        made = stack.enter_context(rig.made_messages(options.many(STREAM_ACCOUNTS)))
        servers = {}
        for case, environment in (("empty", {}), ("full", KEEP_FOR_EVER | {"DATABASE_URL": f"sqlite:{path}"})):
            server, feeder = stack.enter_context(rig.serving(made, warm=False, environment=environment))
            servers[case] = server, feeder
            found.add(f"{case} start", server.start_seconds)
            found.add(f"{case} memory", server.resident_bytes)
            rig.bring_states(server, feeder, made)
        for _ in range(options.repetitions):
            for case, (server, feeder) in servers.items():
                server.quiet()
                cpu = server.cpu_seconds
                feeder.play(count, RATE)
                server.quiet()
                found.add(case, (server.cpu_seconds - cpu) / count * 1e6)
    yield Figure("nothing stored: start to open port", "s", found["empty start"])
    yield Figure(f"{name}: start to open port", "s", found["full start"], 2.0)
    grown = (found["full memory"][0] - found["empty memory"][0]) / accounts
    yield Figure(f"{name}: resident memory of an account", "bytes", [grown], 200)
    yield Figure("nothing stored: server CPU an update", "µs", found["empty"])
    yield Figure(f"{name}: server CPU an update", "µs", found["full"])
    yield Figure(f"{name}: an update, CPU against none", "", found.ratio("full", "empty"), 1.1)
