"""What goes on beside the writer: the WAL is copied into the database, the files and the disk are watched."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

PERIOD_SECONDS = 1.0

LOW_BYTES = 512 * 2**20
"""Below this much free disk, space inside the database does not count as free: the WAL needs room beside it."""


class Upkeep:
    """
    Runs in a thread of its own, so that neither the writer nor the event loop waits for the disk.

    Attributes:
        wal_bytes, database_bytes: sizes of the files.
        disk_bytes: free space of the disk, or None before it was measured.
        reusable_bytes: room that deleted rows left inside the database file.
        moved: whether another file, or none, lies where the database was opened.
    """

    def __init__(self, path: Path) -> None:
        self.wal_bytes = 0
        self.database_bytes = 0
        self.disk_bytes: int | None = None
        self.reusable_bytes = 0
        self.moved = False
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._inode: int | None = None

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Measure, and copy what the WAL holds without making anyone wait. Raises sqlite3.Error."""
        self._measure()
        if self.wal_bytes:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        self.reusable_bytes = pages * size

    def _measure(self) -> None:
        with suppress(OSError):
            self.disk_bytes = shutil.disk_usage(self._path.parent).free
        try:
            database = self._path.stat()
        except OSError:
            self.moved = True
        else:
            self._inode = self._inode or database.st_ino
            self.moved = database.st_ino != self._inode
            self.database_bytes = database.st_size
        try:
            self.wal_bytes = self._wal.stat().st_size
        except OSError:
            self.wal_bytes = 0

    @property
    def free_bytes(self) -> int | None:
        """Room for history: on the disk, and inside the database while the disk has room for a WAL."""
        if self.disk_bytes is None or self.disk_bytes < LOW_BYTES:
            return self.disk_bytes
        return self.disk_bytes + self.reusable_bytes
