"""The store in a SQLite file."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import structlog

from account_socket.database_url import SqliteUrl, parse_database_url
from account_socket.errors import StoreError
from account_socket.model import AccountUpdate, Mark, StoredState
from account_socket.store.base import Found, Identity, Selection, Store, StoredUpdate
from account_socket.store.connection import connect_reader, connect_writer
from account_socket.store.lock import take_lock
from account_socket.store.pruning import MAX_ROWS, SpaceReturn, select_accounts, select_excess
from account_socket.store.queries import (
    select_accounts_where,
    select_at,
    select_between,
    select_crowded,
    select_history,
    select_later,
    select_updates,
)
from account_socket.store.raw_accounts import Bytes, StoredAccount, select_raw, select_raw_page
from account_socket.store.rows import select_marks, select_marks_of, select_note, select_states
from account_socket.store.schema import prepare
from account_socket.store.upkeep import PERIOD_SECONDS, Upkeep
from account_socket.store.worker import Jobs, Work, Worker
from account_socket.store.writer import Writer, checkpoint

log = structlog.get_logger("account_socket.database")

CLOSE_SECONDS = 3.0
"""A database that hangs is left alone after this time; its threads are daemons."""

IDLE_SECONDS = 1.0
"""So long without an append, and the writer cuts the WAL to nothing."""

MARKS_PAGE = 1_000
STATES_PAGE = 200
MAX_GROWN = 50_000
"""Accounts that are remembered as having grown."""


class SqliteStore(Store):
    """
    One writing thread, a checkpointing thread, and up to `readers` reading threads, each with its connection.

    Where the event loop is busy, the writer waits up to the interpreter's switch interval after each SQL step:
    whoever runs the loop calls `sys.setswitchinterval(0.0005)`.

    A lock file beside the database (`account.db.lock`) keeps a second server off: both would give out the same ids.
    """

    def __init__(self, database: str | Path, *, readers: int = 10) -> None:
        """
        Name the database: a URL (see `parse_database_url`) or a path. Nothing is opened yet.

        Raises:
            SettingsError: the URL does not fit.
        """
        is_url = isinstance(database, str) and ":" in database
        url = parse_database_url(str(database)) if is_url else SqliteUrl(Path(database))
        self._temporary = tempfile.mkdtemp(prefix="account-socket-") if url.path is None else None
        self._path = url.path.absolute() if url.path else Path(self._temporary or "", "memory.db")
        self._mode = url.mode
        self._max_readers = max(1, readers)
        self._writing = Jobs()
        self._reading = Jobs()
        self._upkeeping = Jobs()
        self._writer = Writer()
        self._upkeep = Upkeep(self._path)
        self._give_back = SpaceReturn()
        self._grown: set[str] | None = None  # the writer's thread alone uses it
        self._lock: int | None = None
        self._opened = False
        self._closed = False

    @property
    def path(self) -> Path:
        """Where the database lies."""
        return self._path

    async def open(self) -> Identity:
        if self._mode == "ro":
            raise StoreError(
                f"database {self._path} is opened for reading only", hint="leave mode=ro out of DATABASE_URL"
            )
        if not self._writing.workers:
            connect = partial(connect_writer, self._path, create=self._mode != "rw")
            self._start(self._writing, connect, "writer", checkpoint, IDLE_SECONDS)
        identity = await self._writing.submit(self._prepare)
        if not self._upkeeping.workers:
            connect = partial(connect_writer, self._path, create=False)
            self._start(self._upkeeping, connect, "upkeep", self._upkeep, PERIOD_SECONDS)
        await self._upkeeping.submit(self._upkeep)
        return identity

    def _start(
        self,
        jobs: Jobs,
        connect: Callable[[], sqlite3.Connection],
        name: str,
        idle: Work[None] | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        Worker(jobs, self._path, connect, name=f"store-{name}", idle=idle, idle_seconds=idle_seconds)

    def _prepare(self, connection: sqlite3.Connection) -> Identity:
        if self._lock is None:
            self._lock = take_lock(self._path)
        identity = prepare(connection, self._path)
        self._writer.reserved = identity.next_id
        self._opened = True
        return identity

    async def bind(self, genesis_hash: str) -> None:
        await self._writing.submit(lambda connection: self._writer.bind(connection, genesis_hash))

    async def remember(self, key: str, value: str) -> None:
        await self._writing.submit(lambda connection: self._writer.remember(connection, key, value))

    async def recall(self, key: str) -> str | None:
        return await self._read().submit(partial(select_note, key=key))

    async def marks(self) -> AsyncIterator[list[tuple[str, Mark]]]:
        after = 0
        while True:
            after, page = await self._read().submit(partial(select_marks, after=after, limit=MARKS_PAGE))
            if not page:
                return
            yield page

    async def marks_of(self, pubkeys: Sequence[str]) -> dict[str, Mark]:
        found: dict[str, Mark] = {}
        for start in range(0, len(pubkeys), STATES_PAGE):
            page = tuple(pubkeys[start : start + STATES_PAGE])
            found |= await self._read().submit(partial(select_marks_of, pubkeys=page))
        return found

    async def append(
        self, updates: Sequence[AccountUpdate], *, history: bool = True, lost_id: int = 0
    ) -> list[AccountUpdate]:
        if not updates:
            return []
        append = partial(self._append, group=tuple(updates), history=history, lost_id=lost_id)
        return await self._writing.submit(append)

    def _append(
        self, connection: sqlite3.Connection, *, group: tuple[AccountUpdate, ...], history: bool, lost_id: int
    ) -> list[AccountUpdate]:
        upkeep = self._upkeep
        if upkeep.moved:
            raise StoreError(
                f"database {self._path} was moved or deleted while it was open",
                hint="put it back, or restart the server",
                retryable=True,
            )
        refused = self._writer.append(connection, group, history=history, lost_id=lost_id)
        if history and self._grown is not None:
            self._grown.update([update.pubkey for update in group])
            if len(self._grown) > MAX_GROWN:
                self._grown = None
        if upkeep.wanted:
            checkpoint(connection, upkeep.wanted)
            upkeep.wanted = None
        return refused

    async def states(self, pubkeys: Sequence[str]) -> dict[str, StoredState]:
        found: dict[str, StoredState] = {}
        for start in range(0, len(pubkeys), STATES_PAGE):
            page = tuple(pubkeys[start : start + STATES_PAGE])
            found |= await self._read().submit(partial(select_states, pubkeys=page))
        return found

    async def history(self, pubkey: str, *, before: int, limit: int) -> tuple[list[StoredUpdate], bool]:
        return await self._read().submit(partial(select_history, pubkey=pubkey, before=before, limit=limit))

    async def state_at(self, pubkey: str, slot: int) -> StoredUpdate | None:
        return await self._read().submit(partial(select_at, pubkey=pubkey, slot=slot))

    async def find(self, selection: Selection, *, after: str, limit: int) -> Found:
        return await self._read().submit(partial(select_accounts_where, selection=selection, after=after, limit=limit))

    async def raw(self, pubkeys: Sequence[str]) -> dict[str, StoredAccount]:
        return await self._read().submit(partial(select_raw, pubkeys=tuple(pubkeys)))

    async def raw_page(self, chosen: Bytes, *, after: str, limit: int) -> tuple[list[StoredAccount], str | None]:
        return await self._read().submit(partial(select_raw_page, chosen=chosen, after=after, limit=limit))

    async def later(self, after: Mapping[str, int], *, limit: int) -> list[int]:
        return await self._read().submit(partial(select_later, after=dict(after), limit=limit))

    async def crowded(self, after: Mapping[str, int], *, limit: int) -> list[str]:
        return await self._read().submit(partial(select_crowded, after=dict(after), limit=limit))

    async def between(self, after: int, upto: int, *, limit: int) -> list[StoredUpdate] | None:
        return await self._read().submit(partial(select_between, after=after, upto=upto, limit=limit))

    async def updates(self, ids: Sequence[int]) -> list[StoredUpdate]:
        return await self._read().submit(partial(select_updates, ids=tuple(ids)))

    def _read(self) -> Jobs:
        """Return the readers' queue, with one more reader where all are busy."""
        is_open = self._writing.workers > 0
        if is_open and self._reading.workers < self._max_readers and len(self._reading) >= self._reading.workers:
            self._start(self._reading, partial(connect_reader, self._path), "reader")
        return self._reading

    async def prune(self, *, before: str, limit: int) -> int:
        pruned = 0
        while pruned < limit:
            batch = min(MAX_ROWS, limit - pruned)
            count = await self._paced(partial(self._writer.prune, before=before, limit=batch))
            pruned += count
            if count < batch:
                break
        return pruned

    async def prune_accounts(self, pubkeys: Sequence[str], *, keep: int, limit: int) -> int:
        accounts = tuple(pubkeys)
        ids = await self._read().submit(partial(select_excess, pubkeys=accounts, keep=keep, limit=limit))
        ids.sort()  # those side by side go together
        pruned = 0
        for start in range(0, len(ids), MAX_ROWS):
            pruned += await self._paced(partial(self._writer.delete, ids=ids[start : start + MAX_ROWS]))
        return pruned

    async def _paced(self, work: Work[int]) -> int:
        """Do one short piece of work in the writer, then leave it to appends for as long."""
        started = perf_counter()
        done = await self._writing.submit(work)
        await asyncio.sleep(perf_counter() - started)
        return done

    async def take_grown(self) -> set[str] | None:
        return await self._writing.submit(self._take_grown)

    def _take_grown(self, _connection: sqlite3.Connection) -> set[str] | None:
        grown, self._grown = self._grown, set()
        return grown

    async def accounts(self, *, after: str, limit: int) -> list[str]:
        return await self._read().submit(partial(select_accounts, after=after, limit=limit))

    async def give_back(self, *, limit: int) -> int:
        given = 0
        while given < limit and (step := await self._paced(self._give_back)):
            given += step
        return given

    async def close(self, *, next_id: int | None) -> None:
        if self._closed:
            return
        self._closed = True
        beside = [*self._upkeeping.end(), *self._reading.end()]
        if beside:
            await asyncio.wait(beside, timeout=CLOSE_SECONDS / 3)
        if self._writing.workers:  # the last one, for whoever closes last removes the WAL
            finish = self._writing.submit(partial(self._finish, next_id=next_id))
            ends = self._writing.end()
            await asyncio.wait([finish, *ends], timeout=CLOSE_SECONDS * 2 / 3)
            if finish.done() and finish.exception() is not None and self._opened:
                log.warning("database not closed cleanly", reason=str(finish.exception()))
            if self._lock is not None and all(end.done() for end in ends):
                os.close(self._lock)  # a thread that hangs keeps it: it may still commit
                self._lock = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _finish(self, connection: sqlite3.Connection, next_id: int | None) -> None:
        if self._lock is None:
            return  # it was never ours
        if next_id is not None:
            self._writer.release(connection, next_id)
        checkpoint(connection)

    def statistics(self) -> dict[str, float]:
        totals = self._writer.totals
        return {
            "rows": totals.rows,
            "refused": totals.refused,
            "pruned": totals.pruned,
            "commits": totals.commits,
            "commit_seconds": totals.commit_seconds,
            "last_commit_seconds": totals.last_commit_seconds,
            "last_group": totals.last_group,
            "queued": len(self._writing),
            "readers": self._reading.workers,
            "wal_bytes": self._upkeep.wal_bytes,
            "database_bytes": self._upkeep.database_bytes,
            "reusable_bytes": self._upkeep.reusable_bytes,
        }

    @property
    def free_bytes(self) -> int | None:
        return self._upkeep.free_bytes
