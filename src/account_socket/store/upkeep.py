"""What goes on beside the writer: the WAL is copied into the database, the files and the disk are watched."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Literal

PERIOD_SECONDS = 0.1
"""Commits wait while the disk takes what is copied: often and little delays them less than seldom and much."""

REST = 10
"""So many times as long as a copy took, up to REST_SECONDS, nothing is copied: at a flood pages that change again and
again are copied once. With twice as many, copies at 2,000 updates a second grew until they took 60 ms each."""
REST_SECONDS = 1.0
EMPTY_SECONDS = 0.5
"""So long nothing is looked at where there was nothing to copy."""

RESTART_FRAMES = 49_152
"""So many pages (192 MiB) in the WAL, and the writer is asked to begin it anew, which keeps the file small and warm.
It has the disk take what is left, for which commits wait 10 to 40 ms: so not too often."""

MAX_WAL_BYTES = 512 * 2**20
"""A WAL file above this, as a long read of another program leaves it, is cut to nothing: that takes longer."""

LOW_BYTES = 512 * 2**20
"""Below this much free disk, space inside the database does not count as free: the WAL needs room beside it."""


class Upkeep:
    """
    Runs in a thread of its own, so that neither the writer nor the event loop waits for the disk.

    Attributes:
        wal_bytes, database_bytes: sizes of the files.
        disk_bytes: free space of the disk, or None before it was measured.
        reusable_bytes: room that deleted rows left inside the database file.
        wanted: the checkpoint that the writer should make now, when hardly anything is left to copy; it resets this.
        moved: whether another file, or none, lies where the database was opened.
    """

    def __init__(self, path: Path) -> None:
        self.wal_bytes = 0
        self.database_bytes = 0
        self.disk_bytes: int | None = None
        self.reusable_bytes = 0
        self.wanted: Literal["RESTART", "TRUNCATE"] | None = None
        self.moved = False
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._inode: int | None = None
        self._rests_until = 0.0

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Copy what the WAL holds without making anyone wait, then measure. Raises sqlite3.Error."""
        began = monotonic()
        if began < self._rests_until:
            return
        frames = 0
        try:
            self._rests_until = began + REST_SECONDS  # so long after a copy that fails, too
            frames = self._copy(connection)
            rest = min(REST_SECONDS, REST * (monotonic() - began)) if frames else EMPTY_SECONDS
            self._rests_until = began + rest
            if frames > RESTART_FRAMES:
                self._copy(connection)  # what came while the first copy was made
            (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
            self.reusable_bytes = pages * size
        finally:
            self._measure()  # a full disk fails the copy, and is what must be seen
        if self.wal_bytes > MAX_WAL_BYTES:
            self.wanted = "TRUNCATE"
        elif frames > RESTART_FRAMES:
            self.wanted = "RESTART"

    def _copy(self, connection: sqlite3.Connection) -> int:
        """Return how many pages the WAL holds."""
        frames: int = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
        return frames

    def _measure(self) -> None:
        with suppress(OSError):
            self.disk_bytes = shutil.disk_usage(self._path.parent).free
        self.wal_bytes = 0
        with suppress(FileNotFoundError):
            self.wal_bytes = self._wal.stat().st_size
        try:
            database = self._path.stat()
        except FileNotFoundError:
            self.moved = True
            return
        self._inode = self._inode or database.st_ino
        self.moved = database.st_ino != self._inode
        self.database_bytes = database.st_size

    @property
    def free_bytes(self) -> int | None:
        """Room for history: on the disk, and inside the database while the disk has room for a WAL."""
        if self.disk_bytes is None or self.disk_bytes < LOW_BYTES:
            return self.disk_bytes
        return self.disk_bytes + self.reusable_bytes
