"""When the WAL is copied."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from account_socket.store.connection import connect_writer
from account_socket.store.upkeep import Upkeep


def test_a_copy_that_fails_is_not_tried_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a copy that failed nothing is tried for a second, as each attempt opens the database anew; then again."""
    path = tmp_path / "a.db"
    now = [100.0]
    monkeypatch.setattr("account_socket.store.upkeep.monotonic", lambda: now[0])
    upkeep, connection = Upkeep(path), connect_writer(path, create=True)
    connection.close()
    for _ in range(2):
        with pytest.raises(sqlite3.Error):
            upkeep(connection)
        now[0] += 0.9
        upkeep(connection)
        now[0] += 0.2
