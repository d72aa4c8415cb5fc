"""What a person does to a database: deleting history and giving space back, beside a running server or without one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter, sleep

from account_socket.errors import StoreError
from account_socket.store.base import accounts_at_once
from account_socket.store.connection import connect_reader, connect_writer
from account_socket.store.lock import take_lock
from account_socket.store.pruning import (
    SpaceReturn,
    delete_before,
    delete_rows,
    select_accounts,
    select_excess,
)
from account_socket.store.schema import check_current
from account_socket.store.sqlite_errors import store_error
from account_socket.store.summary import check_exists

ROWS_PAGE = 5_000
ROWS_AT_ONCE = 32
"""Rows of one transaction: more than a server takes, since somebody waits for the end."""

CHECKPOINT_PAGES = 1_000
"""Without a server nobody else copies the WAL into the database."""

MIN_PAUSE_SECONDS = 0.001

Tell = Callable[[int], object]
"""Told, again and again, how many rows are gone so far."""

_BOUNDARY = "SELECT id, created_at FROM account_updates WHERE id >= ? ORDER BY id LIMIT 1"

_TO_DELETE = """
SELECT coalesce(sum(old + max(0, young - :keep)), 0) FROM (
 SELECT count(*) FILTER (WHERE id <= :last) AS old, count(*) FILTER (WHERE id > :last) AS young
 FROM account_updates GROUP BY pubkey)
"""

ALL = 2**62


def prune(path: Path, *, before: str | None, keep: int | None, tell: Tell) -> int:
    """
    Delete history created before `before`, and of each account what is beyond its `keep` newest rows.

    Each transaction takes about a millisecond, and a pause as long follows: a server's commits come in between.

    Returns:
        How many rows are gone.
    Raises:
        StoreError: there is no database of this version, or it cannot be written; what is deleted stays so.
    """
    gone = 0
    with _writer(path) as connection:
        for rows in _prune(connection, before, keep):
            gone += rows
            tell(gone)
    return gone


def _prune(connection: sqlite3.Connection, before: str | None, keep: int | None) -> Iterator[int]:
    if before is not None:
        rows = ROWS_AT_ONCE
        while rows == ROWS_AT_ONCE:
            with _pause():
                rows = delete_before(connection, before, ROWS_AT_ONCE)
            yield rows
    after = ""
    page_length = accounts_at_once(keep or 1)
    while keep is not None and (page := select_accounts(connection, after, page_length)):
        after = page[-1]
        more = True
        while more:
            ids = sorted(select_excess(connection, page, keep, ROWS_PAGE))
            more = len(ids) == ROWS_PAGE  # what a server adds meanwhile is not chased
            for start in range(0, len(ids), ROWS_AT_ONCE):
                with _pause():
                    rows = delete_rows(connection, ids[start : start + ROWS_AT_ONCE])
                yield rows


def count_prunable(path: Path, *, before: str | None, keep: int | None) -> int:
    """
    Return how many rows `prune` would delete; some seconds for ten million rows.

    Adopted rows whose times are not in the order of their ids may be counted otherwise than they would go.
    Raises StoreError.
    """
    check_exists(path)
    try:
        with closing(connect_reader(path)) as connection:
            check_current(connection, path)
            last = 0 if before is None else _last_before(connection, before)
            parameters = {"last": last, "keep": ALL if keep is None else keep}
            return int(connection.execute(_TO_DELETE, parameters).fetchone()[0])
    except sqlite3.Error as error:
        raise store_error(error, path) from error


def _last_before(connection: sqlite3.Connection, before: str) -> int:
    """Return an id up to which rows were created before `before`: `created_at` grows with the id."""
    first, end = connection.execute("SELECT min(id), max(id) + 1 FROM account_updates").fetchone()
    if first is None:
        return 0
    while first < end:
        middle = (first + end) // 2
        id_, created_at = connection.execute(_BOUNDARY, (middle,)).fetchone()
        if created_at < before:
            first = id_ + 1
        else:
            end = middle
    return int(first) - 1


def give_back(path: Path, tell: Tell) -> int:
    """
    Give what deleted rows left back to the disk: in small steps, beside a server or without one.

    A database that an earlier version made is rewritten once, which needs the server stopped and the room for it.

    Args:
        tell: told how many bytes were given back so far.
    Returns:
        By how many bytes the file shrank.
    Raises:
        StoreError: it must be rewritten, and a server runs, or there is not enough room; or it cannot be written.
    """
    before = path.stat().st_size if path.is_file() else 0
    with _writer(path) as connection:
        if connection.execute("PRAGMA auto_vacuum").fetchone() == (0,):
            _rewrite(connection, path)
        else:
            step, given, total = SpaceReturn(), 1, 0
            while given:
                with _pause():
                    given = step(connection)
                total += given
                tell(total)
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return max(0, before - path.stat().st_size)


def _rewrite(connection: sqlite3.Connection, path: Path) -> None:
    try:
        lock = take_lock(path)
    except StoreError as error:
        raise StoreError(
            str(error), hint="stop it: a database that an earlier version made must be rewritten once"
        ) from error
    try:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        needed, free = 2 * (pages - free_pages) * size, shutil.disk_usage(path.parent).free
        if needed > free:
            raise StoreError(
                f"rewriting {path} takes {needed >> 20} MB, {free >> 20} MB are free", hint="free space on the disk"
            )
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        os.close(lock)


@contextmanager
def _writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to a database of this version. Raises StoreError."""
    check_exists(path)
    try:
        with closing(connect_reader(path)) as reader:
            check_current(reader, path)  # before anything is changed, the journal mode included
        with closing(connect_writer(path, create=False)) as connection:
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            yield connection
    except sqlite3.Error as error:
        raise store_error(error, path) from error


@contextmanager
def _pause() -> Iterator[None]:
    """Leave the database to others for as long as the work inside takes."""
    started = perf_counter()
    yield
    sleep(max(MIN_PAUSE_SECONDS, perf_counter() - started))
