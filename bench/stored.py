"""
What is stored already: the time to start, the memory of an account known, and whether updates cost more.

Two servers alternate on the same stream: one began with an empty database, the other with one of many small accounts
and rows. Then updates come for accounts that were stored before and have not come since the start, whose place in
the order is read from the store; then for the same ones again.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import rig
from figures import Figure, Options, Series
from solders.pubkey import Pubkey

from account_socket.store.schema import now
from account_socket.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from messages import Messages

ACCOUNTS = 100_000
BIG_ACCOUNTS = 1_000_000
BIG_ROWS = 10_000_000
BIG = f"{BIG_ACCOUNTS:,} accounts, {BIG_ROWS:,} rows"
STREAM_ACCOUNTS = 1_000
RATE = 1_000
SECONDS = 2.5
PAGE = 10_000
PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"

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
        empty = Path(directory) / "empty.db"
        fill(empty, 0, 0)
        if options.big is not None:
            full, accounts, name = options.big, BIG_ACCOUNTS, BIG
        else:
            full, accounts, name = (
                Path(directory) / "full.db",
                options.many(ACCOUNTS),
                f"{ACCOUNTS:,} accounts and rows",
            )
            fill(full, accounts, accounts)
        once = min(options.many(round(RATE * SECONDS)), accounts // 2 // options.repetitions)
        keys = stored_keys(STREAM_ACCOUNTS + options.repetitions * once)
        with rig.made_messages(len(keys), keys) as made:
            yield from measure_starts({"nothing stored": empty, name: full}, accounts, made, options)
            yield from measure_updates({"nothing stored": empty, name: full}, once, made, options)


def stored_keys(count: int) -> list[str]:
    """Return the public keys of the first so many accounts of a filled database."""
    chance = random.Random(1)
    return [str(Pubkey(chance.randbytes(32))) for _ in range(count)]


def keeping(path: Path) -> dict[str, str]:
    """Return the settings of a server on this database that deletes none of it."""
    return {"DATABASE_URL": f"sqlite:{path}", "RETENTION_DAYS": "36500"}


def fill(path: Path, accounts: int, rows: int) -> None:
    """Make a database of so many accounts and small rows."""

    async def make() -> int:
        store = SqliteStore(path)
        identity = await store.open()
        await store.close(next_id=identity.next_id)
        return identity.next_id

    first = asyncio.run(make())
    chance = random.Random(2)
    keys = stored_keys(accounts)
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


def measure_starts(databases: dict[str, Path], accounts: int, made: Messages, options: Options) -> Iterator[Figure]:
    empty, full = databases
    cold = f"{full}, not in the page cache"
    ready, resident = Series(), Series()
    for _ in range(options.repetitions):
        for name in (empty, full, cold):
            path = databases[empty if name == empty else full]
            if name == cold:
                forget(path)
            with serving(path, made) as (server, _):
                ready.add(name, server.await_ready())
                resident.add(name, server.resident_bytes)
    for name, seconds in ready.values.items():
        yield Figure(f"{name}: start to ready", "s", seconds, None if name == empty else 2.0)
    grown = [(more - less) / accounts for more, less in zip(resident[full], resident[empty], strict=True)]
    yield Figure(f"{full}: resident memory of an account after the start", "bytes", grown, 200)


@contextmanager
def serving(path: Path, made: Messages) -> Iterator[tuple[rig.Server, rig.Feeder]]:
    """Run a server on this database, from its start to the end of its drain."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        rig.Feeder(made) as feeder,
        rig.Server(Path(directory), feeder.port, keeping(path)) as server,
    ):
        yield server, feeder
        server.stop()


def forget(path: Path) -> None:
    """Have the system drop what it keeps in memory of a file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_updates(databases: dict[str, Path], once: int, made: Messages, options: Options) -> Iterator[Figure]:
    found = Series()
    count = options.many(round(RATE * SECONDS))
    empty, full = databases
    with ExitStack() as stack:
        servers = {case: stack.enter_context(serving(path, made)) for case, path in databases.items()}
        for server, feeder in servers.values():
            feeder.await_subscribed()
            cost((server, feeder), STREAM_ACCOUNTS, range(STREAM_ACCOUNTS))
        for repetition in range(options.repetitions):
            for case, parts in servers.items():
                found.add(case, cost(parts, count, range(STREAM_ACCOUNTS)))
            first = STREAM_ACCOUNTS + repetition * once
            for time in ("first", "again"):
                found.add(time, cost(servers[full], once, range(first, first + once)))
    yield Figure(f"{empty}: server CPU an update", "µs", found[empty])
    yield Figure(f"{full}: server CPU an update", "µs", found[full])
    yield Figure(f"{full}: an update, CPU against none", "", found.ratio(full, empty), 1.1)
    yield Figure(f"{full}: the first update of an account since the start", "µs", found["first"])
    yield Figure(f"{full}: the same accounts once more", "µs", found["again"])


def cost(parts: tuple[rig.Server, rig.Feeder], count: int, messages: range) -> float:
    """Return the server's processor µs an update of a steady stream."""
    server, feeder = parts
    server.quiet()
    published, cpu = server.metrics()["published_total"], server.cpu_seconds
    feeder.play(count, RATE, messages=messages)
    server.quiet()
    cpu = server.cpu_seconds - cpu
    rig.await_published(server, round(published + count))
    return cpu / count * 1e6
