"""Migrations: once, whole, and only where they are needed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from account_socket.errors import StoreError
from account_socket.store import schema
from account_socket.store.connection import connect_writer
from account_socket.store.schema import HEAD, normalized, prepare
from account_socket.store.tables import metadata


def make(path: Path) -> sqlite3.Connection:
    """Return a connection to a database at head."""
    connection = connect_writer(path, create=True)
    prepare(connection, path)
    return connection


def test_head_is_the_newest_migration() -> None:
    """The revision that is opened without Alembic is the newest that Alembic knows, and there is one line of them."""
    config = Config()
    config.set_main_option("script_location", str(files("account_socket.store.migrations")))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrations_make_the_tables(tmp_path: Path) -> None:
    """What the migrations make is what tables.py says."""
    make(tmp_path / "a.db").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_signature_comes_to_a_database_that_has_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrating keeps every row of both tables; what was there has no signature."""
    path = tmp_path / "a.db"
    connection = connect_writer(path, create=True)
    with monkeypatch.context() as older:
        older.setattr(schema, "HEAD", "0001")
        older.setattr(schema, "_probe", lambda *_: None)
        prepare(connection, path)
    connection.execute(
        "INSERT INTO account_updates (id, pubkey, slot, account_type, owner, lamports, data_json, created_at)"
        " VALUES (7, 'K', 1, 'Pool', 'P', 1, '{}', '2026-01-01T00:00:00.000000Z')"
    )
    connection.execute(
        "INSERT INTO account_state VALUES"
        " ('K', 7, NULL, 1, 0, x'00', 'Pool', 'P', 1, 0, '0', '2026-01-01T00:00:00.000000Z', 0, '{}', x'0102')"
    )
    assert prepare(connection, path).next_id == 8
    assert connection.execute("SELECT id, signature FROM account_updates").fetchall() == [(7, None)]
    assert connection.execute("SELECT pubkey, id, signature, data_json, raw FROM account_state").fetchall() == [
        ("K", 7, None, "{}", b"\1\2")
    ]
    connection.close()


def test_a_database_at_head_loads_no_alembic(tmp_path: Path) -> None:
    """Opening a database at head imports neither Alembic nor SQLAlchemy: start-up matters."""
    path = tmp_path / "a.db"
    make(path).close()
    program = (
        "import asyncio, sys\n"
        "from account_socket.store.sqlite import SqliteStore\n"
        "async def main():\n"
        f"    store = SqliteStore({str(path)!r})\n"
        "    await store.open()\n"
        "    await store.close(next_id=1)\n"
        "asyncio.run(main())\n"
        "print(sorted({'alembic', 'sqlalchemy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("revision", ["9999", "a1b2c3d4e5f6"])
def test_a_newer_schema_is_refused(tmp_path: Path, revision: str) -> None:
    """A database of a later version, or of another program, is left alone, with a hint."""
    path = tmp_path / "a.db"
    connection = make(path)
    connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(StoreError, match=revision) as raised:
        prepare(connection, path)
    assert raised.value.hint
    assert not raised.value.retryable
    connection.close()


def test_a_second_preparation_changes_nothing(tmp_path: Path) -> None:
    """Preparing again finds the same identity."""
    path = tmp_path / "a.db"
    connection = make(path)
    assert prepare(connection, path) == prepare(connection, path)
    connection.close()


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-09-30 12:00:00", "2024-09-30T12:00:00.000000Z"),
        ("2024-09-30 12:00:00.500", "2024-09-30T12:00:00.500000Z"),
        ("2024-09-30T12:00:00Z", "2024-09-30T12:00:00.000000Z"),
        ("2024-09-30T14:00:00.123456+02:00", "2024-09-30T12:00:00.123456Z"),
        ("2024-09-30", "2024-09-30T00:00:00.000000Z"),
        ("yesterday", ""),
        (None, ""),
        (1727697600, ""),
        ("0001-01-01T00:00:00+14:00", ""),
    ],
)
def test_times_are_read_as_ours(text: object, time: str) -> None:
    """ISO 8601 times become ours, UTC where they name no zone; anything else is none."""
    assert normalized(text) == time
