"""Copies the WAL into the database beside the writer, and watches the disk."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

PERIOD_SECONDS = 1.0


class Checkpointer:
    """
    A daemon thread with its own connection: PASSIVE checkpoints never make the writer wait.

    It measures as well, so that a disk that hangs does not hang the event loop.

    Attributes:
        wal_bytes, database_bytes: sizes of the files.
        free_bytes: free space of the disk, or None before it was measured.
        reusable_bytes: space of deleted rows inside the database file.
    """

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        self.wal_bytes = 0
        self.database_bytes = 0
        self.free_bytes: int | None = None
        self.reusable_bytes = 0
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._connect = connect
        self._stop = Event()
        self._thread = Thread(target=self._run, name="store-checkpoint", daemon=True)
        self.measure()
        self._thread.start()

    def end(self) -> None:
        """Let the thread end after what it does now."""
        self._stop.set()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def measure(self) -> None:
        """Read the sizes; what cannot be read keeps its last value."""
        with suppress(OSError):
            self.free_bytes = shutil.disk_usage(self._path.parent).free
            self.database_bytes = self._path.stat().st_size
        try:
            self.wal_bytes = self._wal.stat().st_size
        except OSError:
            self.wal_bytes = 0

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while not self._stop.wait(PERIOD_SECONDS):
            self.measure()
            try:
                connection = connection or self._connect()
                self._checkpoint(connection)
            except sqlite3.Error:  # the writer meets the same trouble and tells it
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        if self.wal_bytes:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        self.reusable_bytes = pages * size
