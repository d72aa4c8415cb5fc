"""What the one writing connection of a SQLite database does: append, reserve ids, bind, prune, truncate the WAL."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from account_socket.errors import WrongClusterError
from account_socket.model import AccountUpdate
from account_socket.store.base import ID_BLOCK
from account_socket.store.connection import transaction
from account_socket.store.pruning import delete_before, delete_rows
from account_socket.store.rows import NOTE, insert_updates, raise_whole_above, upsert_states
from account_socket.store.sqlite_errors import REFUSED

_PUT_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


@dataclass
class Totals:
    """What was done since the start; written by the writer's thread, read by anyone."""

    rows: int = 0
    refused: int = 0
    pruned: int = 0
    commits: int = 0
    commit_seconds: float = 0.0
    last_commit_seconds: float = 0.0
    last_group: int = 0


class Writer:
    """
    The state of the writing connection; every method runs in the writer's thread and takes its connection.

    Attributes:
        reserved: every id below it may be committed without reserving anew.
        created_at: the newest that was committed since the start, or "".
    """

    def __init__(self) -> None:
        self.totals = Totals()
        self.reserved = 0
        self.created_at = ""

    def append(
        self, connection: sqlite3.Connection, updates: Sequence[AccountUpdate], *, history: bool, lost_id: int = 0
    ) -> list[AccountUpdate]:
        """Commit `updates` in one transaction; return those refused for their content. Raises sqlite3.Error."""
        started = perf_counter()
        beyond = max(update.id for update in updates) + 1
        reserve = beyond > self.reserved
        refused: list[AccountUpdate] = []
        self.created_at = max(self.created_at, updates[-1].created_at)
        if not history:
            lost_id = max(lost_id, beyond - 1)
        try:
            with transaction(connection, durable=reserve):
                if reserve:
                    self._reserve(connection, beyond + ID_BLOCK)
                _insert(connection, updates, history=history)
                if lost_id:
                    raise_whole_above(connection, lost_id)
        except REFUSED:
            with transaction(connection, durable=reserve):
                if reserve:
                    self._reserve(connection, beyond + ID_BLOCK)
                refused = _bisect(connection, updates, history=history)
                raise_whole_above(connection, max([lost_id, *(update.id for update in refused)]))
        if reserve:
            self.reserved = beyond + ID_BLOCK
        self._count(len(updates) - len(refused), len(refused), perf_counter() - started)
        return refused

    def _reserve(self, connection: sqlite3.Connection, reserved: int) -> None:
        connection.execute(_PUT_META, ("id_reserved", str(reserved)))
        connection.execute(_PUT_META, ("created_at", self.created_at))

    def _count(self, rows: int, refused: int, seconds: float) -> None:
        totals = self.totals
        totals.rows += rows
        totals.refused += refused
        totals.commits += 1
        totals.commit_seconds += seconds
        totals.last_commit_seconds = seconds
        totals.last_group = rows

    def release(self, connection: sqlite3.Connection, next_id: int) -> None:
        """Give the ids from `next_id` on back. Raises sqlite3.Error."""
        if next_id < self.reserved:
            with transaction(connection, durable=True):
                self._reserve(connection, next_id)
            self.reserved = next_id

    def bind(self, connection: sqlite3.Connection, genesis_hash: str) -> None:
        """Keep the cluster's genesis hash. Raises WrongClusterError if there is another."""
        with transaction(connection, durable=True):
            connection.execute("INSERT INTO meta VALUES ('genesis_hash', ?) ON CONFLICT DO NOTHING", (genesis_hash,))
            (kept,) = connection.execute("SELECT value FROM meta WHERE key = 'genesis_hash'").fetchone()
        if kept != genesis_hash:
            raise WrongClusterError(
                f"the database belongs to the cluster with genesis hash {kept}, the node to {genesis_hash}",
                hint="name another database, or a node of that cluster",
            )

    def remember(self, connection: sqlite3.Connection, key: str, value: str) -> None:
        """Keep a text under a name, durably. Raises sqlite3.Error."""
        with transaction(connection, durable=True):
            connection.execute(_PUT_META, (NOTE + key, value))

    def prune(self, connection: sqlite3.Connection, before: str, limit: int) -> int:
        """As `pruning.delete_before`, counted."""
        return self._count_pruned(delete_before(connection, before, limit))

    def delete(self, connection: sqlite3.Connection, ids: Sequence[int]) -> int:
        """As `pruning.delete_rows`, counted."""
        return self._count_pruned(delete_rows(connection, ids))

    def _count_pruned(self, rows: int) -> int:
        self.totals.pruned += rows
        return rows


def checkpoint(connection: sqlite3.Connection, mode: str = "TRUNCATE") -> None:
    """Copy the WAL into the database, then begin it anew or cut it to nothing; not when a reader is in the way."""
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 20")
    try:
        connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")


def _insert(connection: sqlite3.Connection, updates: Sequence[AccountUpdate], *, history: bool) -> None:
    if history:
        insert_updates(connection, updates)
    upsert_states(connection, updates)


def _bisect(connection: sqlite3.Connection, updates: Sequence[AccountUpdate], *, history: bool) -> list[AccountUpdate]:
    """Insert what the database takes and return the rest, halving until the rest stands alone."""
    connection.execute("SAVEPOINT bisect")
    try:
        _insert(connection, updates, history=history)
    except REFUSED:
        connection.execute("ROLLBACK TO bisect")
        connection.execute("RELEASE bisect")
    else:
        connection.execute("RELEASE bisect")
        return []
    if len(updates) == 1:
        return list(updates)
    middle = len(updates) // 2
    return [
        *_bisect(connection, updates[:middle], history=history),
        *_bisect(connection, updates[middle:], history=history),
    ]
