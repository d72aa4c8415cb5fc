"""Brings a SQLite database to the schema that this program knows, and reads who it is."""

from __future__ import annotations

import secrets
import sqlite3
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from account_socket.errors import StoreError
from account_socket.store.base import Identity
from account_socket.store.connection import connect_writer
from account_socket.store.rows import INSERT_UPDATES, write_rows

HEAD = "0004"
"""The newest migration; a database at it is opened without loading Alembic, which takes half a second."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ADOPTABLE = {"id", "pubkey", "slot", "account_type", "owner", "lamports", "data_json", "created_at"}


def now() -> str:
    """Return the time as `created_at` writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def prepare(connection: sqlite3.Connection, path: Path) -> Identity:
    """Create, migrate or adopt; then return who the database is. Raises StoreError, sqlite3.Error."""
    revision = _revision(connection)
    if revision is None:
        _check_adoptable(connection, path)
    elif revision != HEAD and not (revision.isdigit() and revision < HEAD):
        raise StoreError(
            f"database {path} has schema revision {revision!r}; this version knows up to {HEAD!r}",
            hint="run the version that wrote it, or name another database",
        )
    if revision != HEAD:
        _migrate(path)
    return _identify(connection)


def check_current(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreError unless the database is at HEAD: whoever only looks at it must not migrate it."""
    revision = _revision(connection)
    if revision == HEAD:
        return
    raise StoreError(
        f"database {path} has " + (f"schema revision {revision!r}" if revision else "no tables of this program"),
        hint=f"a server of this version brings it to {HEAD!r} when it starts" if (revision or "") < HEAD else "",
    )


def _revision(connection: sqlite3.Connection) -> str | None:
    if not _has_table(connection, "alembic_version"):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def _check_adoptable(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse tables of our names that are not what the first migration can build on."""
    hint = "name another database, or move this one away"
    for name in ("account_state", "meta"):
        if _has_table(connection, name):
            raise StoreError(f"database {path} has a table {name!r} that this program did not make", hint=hint)
    if not _has_table(connection, "account_updates"):
        return
    columns = {row[1]: row for row in connection.execute("PRAGMA table_info(account_updates)")}
    missing = sorted(_ADOPTABLE - columns.keys())
    if missing or {"prev_id", "format", "signature", "event"} & columns.keys():
        raise StoreError(
            f"database {path} has a table 'account_updates' of another kind"
            + (f": it lacks {', '.join(missing)}" if missing else ""),
            hint=hint,
        )
    if [name for name, row in columns.items() if row[5]] != ["id"]:
        raise StoreError(f"database {path}: 'id' is not the primary key of 'account_updates'", hint=hint)


def _migrate(path: Path) -> None:
    from alembic import command  # noqa: PLC0415  (see HEAD)
    from alembic.config import Config  # noqa: PLC0415
    from sqlalchemy import create_engine, event  # noqa: PLC0415
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    engine = create_engine("sqlite://", creator=lambda: connect_writer(path, create=False), poolclass=NullPool)
    event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
    with as_file(files("account_socket.store.migrations")) as scripts, engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            with connection.begin():
                command.upgrade(config, HEAD)
                _probe(connection.connection.driver_connection, path)
        except DBAPIError as error:
            raise error.orig or error from error


def _probe(connection: Any, path: Path) -> None:
    """Raise StoreError unless an adopted table takes our rows: constraints and triggers of others show here."""
    row = ("probe", 0, "Unknown", "probe", 0, "null", now(), None, None, None)
    connection.execute("SAVEPOINT probe")
    try:
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM account_updates").fetchone()
        write_rows(connection, INSERT_UPDATES, [(last + 1, *row), (last + 2, *row)])
    except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
        raise StoreError(
            f"database {path} has a table 'account_updates' that refuses our rows: {error}",
            hint="name another database, or move this one away",
        ) from error
    finally:
        connection.execute("ROLLBACK TO probe")
        connection.execute("RELEASE probe")


def _identify(connection: sqlite3.Connection) -> Identity:
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    if "epoch" not in meta:
        meta["epoch"] = "".join(secrets.choice(_ALPHABET) for _ in range(13))
        connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (meta["epoch"],))
    has_states = connection.execute("SELECT 1 FROM account_state LIMIT 1").fetchone() is not None
    newest = max(_newest(connection), meta.get("created_at", ""))
    return Identity(meta["epoch"], meta.get("genesis_hash"), _next_id(connection, meta), newest, has_states)


def _next_id(connection: sqlite3.Connection, meta: dict[str, str]) -> int:
    """
    Return the first id that was surely never used, whatever a copy or a hand at the history left behind.

    Ids in `account_state` are below those reserved; looking for its newest would read all of it.
    """
    used = [int(meta.get("id_reserved", "1")) - 1]
    for sql in (
        "SELECT max(id) FROM account_updates",
        "SELECT seq FROM sqlite_sequence WHERE name = 'account_updates'",
    ):
        try:
            row = connection.execute(sql).fetchone()
        except sqlite3.OperationalError:  # an adopted table without AUTOINCREMENT has no sqlite_sequence
            continue
        used.append((row and row[0]) or 0)
    return max(used) + 1


def _newest(connection: sqlite3.Connection) -> str:
    """
    Return the newest `created_at` of the history, in our form, or "".

    A time that an adopted row has from a clock gone wrong does not push ours into the future.
    """
    newest = [
        min(normalized(created_at), now()) if format_ == 0 else created_at
        for created_at, format_ in connection.execute(
            "SELECT created_at, format FROM account_updates ORDER BY id DESC LIMIT 100"
        )
    ]
    return max(newest, default="")


def normalized(created_at: object) -> str:
    """Return an ISO 8601 time (UTC where it names no zone) as `created_at` writes it, or "" if it is none."""
    try:
        time = datetime.fromisoformat(str(created_at))
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
