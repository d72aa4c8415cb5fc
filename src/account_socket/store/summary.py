"""What a database holds, told within seconds however large it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

from account_socket.errors import StoreError
from account_socket.store.connection import connect_reader
from account_socket.store.schema import check_current
from account_socket.store.sqlite_errors import primary_code, store_error

_BY_TYPE = "SELECT account_type, sum(NOT closed), sum(closed) FROM account_state GROUP BY account_type ORDER BY 1"
_USED_IDS = (
    "SELECT max((SELECT coalesce(max(id), 0) FROM account_updates), coalesce(max(seq), 0)) FROM sqlite_sequence"
)


@dataclass(frozen=True)
class Summary:
    """
    What `summarize` found.

    Attributes:
        database_bytes, wal_bytes, free_bytes: of the files, and of the database what deleted rows left.
        gives_back: whether a server gives free space back to the disk while it runs.
        rows: of history; None where counting them took too long.
        most_rows: the span of their ids: as many rows at most, fewer where ids were left out or rows deleted.
        oldest, newest: `created_at` of the first and the last row, or None.
        accounts: those with a state; None where counting them took too long.
        types: account type → how many are open, how many closed; None where counting them took too long.
        newest_id: no higher id was committed to the history.
        reserved_id: every id below it may have been used.
    """

    path: str
    database_bytes: int
    wal_bytes: int
    free_bytes: int
    gives_back: bool
    rows: int | None
    most_rows: int
    oldest: str | None
    newest: str | None
    accounts: int | None
    types: dict[str, tuple[int, int]] | None
    epoch: str | None
    genesis_hash: str | None
    newest_id: int
    reserved_id: int


def summarize(path: Path, *, seconds: float | None) -> Summary:
    """
    Look at a database, beside a server or without one; nothing is changed.

    Args:
        seconds: for counting rows, and for counting accounts; None: however long it takes.
    Raises:
        StoreError: there is none, or it is none of this version.
    """
    check_exists(path)
    try:
        with closing(connect_reader(path)) as connection:
            check_current(connection, path)
            return _summarize(connection, path, seconds)
    except sqlite3.Error as error:
        raise store_error(error, path) from error


def check_exists(path: Path) -> None:
    """Raise StoreError where there is no file."""
    if not path.is_file():
        raise StoreError(
            f"there is no database {path}", hint="DATABASE_URL or --database-url names it; a server makes it"
        )


def _summarize(connection: sqlite3.Connection, path: Path, seconds: float | None) -> Summary:
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    first, last = (_end_row(connection, order) for order in ("ASC", "DESC"))
    rows = _count("SELECT count(*) FROM account_updates", connection, seconds)
    types = _count(_BY_TYPE, connection, seconds)
    if types is not None:
        accounts = sum(opened + closed for _, opened, closed in types)
    else:
        counted = _count("SELECT count(*) FROM account_state", connection, seconds)
        accounts = counted[0][0] if counted else None
    wal = path.with_name(path.name + "-wal")
    return Summary(
        path=str(path),
        database_bytes=path.stat().st_size,
        wal_bytes=wal.stat().st_size if wal.exists() else 0,
        free_bytes=_pragma(connection, "freelist_count") * _pragma(connection, "page_size"),
        gives_back=_pragma(connection, "auto_vacuum") != 0,
        rows=rows[0][0] if rows else None,
        most_rows=last[0] - first[0] + 1 if first and last else 0,
        oldest=first[1] if first else None,
        newest=last[1] if last else None,
        accounts=accounts,
        types={type_: (opened, closed) for type_, opened, closed in types} if types is not None else None,
        epoch=meta.get("epoch"),
        genesis_hash=meta.get("genesis_hash"),
        newest_id=_newest_id(connection),
        reserved_id=int(meta.get("id_reserved", "1")),
    )


def _end_row(connection: sqlite3.Connection, order: str) -> tuple[int, str] | None:
    sql = f"SELECT id, created_at FROM account_updates ORDER BY id {order} LIMIT 1"  # noqa: S608  (our constants)
    row: tuple[int, str] | None = connection.execute(sql).fetchone()
    return row


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _newest_id(connection: sqlite3.Connection) -> int:
    try:
        (newest,) = connection.execute(_USED_IDS).fetchone()
    except sqlite3.OperationalError:  # an adopted table without AUTOINCREMENT has no sqlite_sequence
        (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM account_updates").fetchone()
    return int(newest)


def _count(sql: str, connection: sqlite3.Connection, seconds: float | None) -> list[Any] | None:
    """Return the rows of a statement, or None where it takes longer than `seconds`. Raises sqlite3.Error."""
    if seconds is None:
        return connection.execute(sql).fetchall()
    timer = Timer(seconds, connection.interrupt)
    timer.start()
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_INTERRUPT:
            raise
        return None
    finally:
        timer.cancel()
        timer.join()  # a late interruption would hit the next statement
