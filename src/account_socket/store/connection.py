"""How the connections to a SQLite file are set up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

BUSY_SECONDS = 2.0
"""How long a statement waits for another process's lock; below the time that closing may take."""


CACHE_KIB = 32 * 1024
"""The pages that a large group changes. With SQLite's 2 MiB they are written and read again within the group."""


def connect_writer(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open for writing; checkpoints are the Checkpointer's, not this connection's. Raises sqlite3.Error."""
    connection = _connect(path, "rwc" if create else "rw")
    try:
        if connection.execute("PRAGMA page_count").fetchone() == (0,):
            # Before the first page, or never: what deleted rows held can then be given back beside a running server.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open for reading only. Raises sqlite3.Error."""
    connection = _connect(path, "rw")
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, *, durable: bool = False) -> Iterator[None]:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when an exception passes; `durable` waits for the disk."""
    if durable:
        connection.execute("PRAGMA synchronous = FULL")
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
    finally:
        if durable:
            connection.execute("PRAGMA synchronous = NORMAL")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # transactions are begun where they are meant
        check_same_thread=False,  # one worker after another may use it; never two at once
    )
