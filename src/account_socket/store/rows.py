"""Account updates as rows of the SQLite tables, and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from account_socket.model import AccountUpdate, Mark, StoredState, encode_account

FORMAT = 1
"""What `account_updates.format` says of the rows written here; rows that were there before have 0."""

NOTE = "note:"
"""What the keys of `meta` begin with that hold a caller's notes."""

WHOLE_ABOVE = "history_whole_above"
"""The key in `meta` of the id above which history has every update."""

_RAISE_WHOLE_ABOVE = f"""
INSERT INTO meta VALUES ('{WHOLE_ABOVE}', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value
WHERE CAST(meta.value AS INTEGER) < CAST(excluded.value AS INTEGER)
"""  # noqa: S608  (our constant)

MAX_ROWS = 64
"""Rows per statement. A thread that shares the interpreter with a busy event loop waits for it after each
statement, so a group is written in few of them: powers of two, which stay prepared."""

_INSERT_UPDATE = """
INSERT INTO account_updates
 (id, pubkey, slot, account_type, owner, lamports, data_json, created_at, prev_id, signature, event, format)
VALUES {rows}
ON CONFLICT (id) DO NOTHING
"""

_UPSERT_STATE = """
INSERT INTO account_state
 (pubkey, id, prev_id, slot, write_version, hash, account_type, owner, lamports,
  executable, rent_epoch, created_at, closed, signature, data_json, raw)
VALUES {rows}
ON CONFLICT (pubkey) DO UPDATE SET
 id = excluded.id, prev_id = excluded.prev_id, slot = excluded.slot, write_version = excluded.write_version,
 hash = excluded.hash, {type_too} owner = excluded.owner, lamports = excluded.lamports,
 executable = excluded.executable, rent_epoch = excluded.rent_epoch, created_at = excluded.created_at,
 closed = excluded.closed, signature = excluded.signature, data_json = excluded.data_json, raw = excluded.raw
WHERE excluded.id > account_state.id {same_type}
"""
"""A column that an index holds costs writing that index, also where its value stays, as it nearly always does."""

_COLUMNS = (
    "pubkey, id, slot, account_type, owner, lamports, CAST(data_json AS BLOB), created_at, prev_id,"
    " coalesce(signature, '')"
)
STATE_COLUMNS = f"{_COLUMNS}, closed"
UPDATE_COLUMNS = f"{_COLUMNS}, data_json = 'null'"
"""What `read_account` reads, of `account_state` and of `account_updates`."""

SELECT_STATES = f"SELECT {STATE_COLUMNS} FROM account_state WHERE pubkey IN ({{marks}})"  # noqa: S608  (our constants)

SELECT_MARKS = """
SELECT rowid, pubkey, id, slot, write_version, hash, account_type, closed
FROM account_state WHERE rowid > ? ORDER BY rowid LIMIT ?
"""

SELECT_MARKS_OF = """
SELECT pubkey, id, slot, write_version, hash, account_type, closed FROM account_state WHERE pubkey IN ({marks})
"""

Row = tuple[object, ...]


def _by_size(sql: str, row: str, **more: str) -> dict[int, str]:
    sizes = [2**power for power in range(MAX_ROWS.bit_length())]
    return {size: sql.format(rows=",".join([row] * size), **more) for size in sizes}


INSERT_UPDATES = _by_size(_INSERT_UPDATE, f"(?,?,?,?,?,?,?,?,?,?,?,{FORMAT})")
_STATE_ROW = "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_UPSERT_ANY = _by_size(_UPSERT_STATE, _STATE_ROW, type_too="account_type = excluded.account_type,", same_type="")
_UPSERT_SAME = _by_size(
    _UPSERT_STATE, _STATE_ROW, type_too="", same_type="AND excluded.account_type = account_state.account_type"
)


def insert_updates(connection: sqlite3.Connection, updates: Sequence[AccountUpdate]) -> None:
    """Add a row each; an id that is there already stays as it is. Raises sqlite3.Error, UnicodeError."""
    write_rows(connection, INSERT_UPDATES, update_rows(updates))


def upsert_states(connection: sqlite3.Connection, updates: Sequence[AccountUpdate]) -> None:
    """Keep the update of the highest id of each account. Raises sqlite3.Error, UnicodeError."""
    for size, values in _parts(state_rows(updates)):
        if connection.execute(_UPSERT_SAME[size], values).rowcount < size:
            connection.execute(_UPSERT_ANY[size], values)


def raise_whole_above(connection: sqlite3.Connection, id: int) -> None:
    """Note, in the caller's transaction, that history may lack updates up to `id`. Raises sqlite3.Error."""
    connection.execute(_RAISE_WHOLE_ABOVE, (str(id),))


def write_rows(connection: sqlite3.Connection, statements: dict[int, str], rows: list[Row]) -> None:
    """Execute `statements` (by number of rows) with `rows`, in as few of them as can be."""
    for size, values in _parts(rows):
        connection.execute(statements[size], values)


def _parts(rows: list[Row]) -> Iterator[tuple[int, list[object]]]:
    """Yield (number of rows, their values), as few as can be."""
    start = 0
    while start < len(rows):
        size = min(MAX_ROWS, 1 << ((len(rows) - start).bit_length() - 1))
        yield size, list(chain.from_iterable(rows[start : start + size]))
        start += size


def update_rows(updates: Sequence[AccountUpdate]) -> list[Row]:
    """Return the rows of `account_updates`. Raises UnicodeError for a `data_json` that is not UTF-8."""
    return [
        (
            update.id,
            update.pubkey,
            update.slot,
            update.account_type,
            update.owner,
            update.lamports,
            update.data_json.decode(),
            update.created_at,
            update.prev_id,
            update.signature or None,
            update.event or None,
        )
        for update in updates
    ]


def state_rows(updates: Sequence[AccountUpdate]) -> list[Row]:
    """Return the rows of `account_state`: one row per account, its update of the highest id."""
    newest: dict[str, AccountUpdate] = {}
    for update in updates:
        known = newest.get(update.pubkey)
        if known is None or update.id > known.id:
            newest[update.pubkey] = update
    return [
        (
            update.pubkey,
            update.id,
            update.prev_id,
            update.slot,
            update.write_version,
            update.content_hash,
            update.account_type,
            update.owner,
            update.lamports,
            update.executable,
            str(update.rent_epoch),
            update.created_at,
            update.closed,
            update.signature or None,
            update.data_json.decode(),
            update.data,
        )
        for update in newest.values()
    ]


def select_states(connection: sqlite3.Connection, pubkeys: Sequence[str]) -> dict[str, StoredState]:
    """Return the newest state of those of `pubkeys` (at most SQLite's 32,766 parameters) that have one."""
    sql = SELECT_STATES.format(marks=",".join("?" * len(pubkeys)))
    rows = connection.execute(sql, pubkeys).fetchall()
    return {row[0]: StoredState(row[1], read_account(row)) for row in rows}


def read_account(row: Sequence[Any]) -> bytes:
    """Return the public `account` object of a row of STATE_COLUMNS or UPDATE_COLUMNS."""
    pubkey, id_, slot, type_, owner, lamports, data_json, created_at, prev_id, signature, closed = row
    return encode_account(
        id=id_,
        pubkey=pubkey,
        slot=slot,
        account_type=type_,
        owner=owner,
        lamports=lamports,
        data_json=data_json,
        created_at=created_at,
        prev_id=prev_id,
        closed=bool(closed),
        signature=signature,
    )


def select_marks(connection: sqlite3.Connection, after: int, limit: int) -> tuple[int, list[tuple[str, Mark]]]:
    """Return the page after row `after`, and the row to go on after."""
    rows = connection.execute(SELECT_MARKS, (after, limit)).fetchall()
    return (rows[-1][0] if rows else after), [_read_mark(row[1:]) for row in rows]


def select_marks_of(connection: sqlite3.Connection, pubkeys: Sequence[str]) -> dict[str, Mark]:
    """Return the marks of those of `pubkeys` (at most SQLite's 32,766 parameters) that have a state."""
    sql = SELECT_MARKS_OF.format(marks=",".join("?" * len(pubkeys)))
    return dict(map(_read_mark, connection.execute(sql, pubkeys).fetchall()))


def _read_mark(row: Any) -> tuple[str, Mark]:
    pubkey, id_, slot, write_version, hash_, account_type, closed = row
    return pubkey, Mark(id_, slot, write_version, hash_, account_type, closed=bool(closed))


def select_note(connection: sqlite3.Connection, key: str) -> str | None:
    """Return what is kept under a name, or None."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (NOTE + key,)).fetchone()
    return None if row is None else str(row[0])
