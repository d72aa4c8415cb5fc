"""What clients ask of the SQLite tables: pages of states, pages of history, the past."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from account_socket.store.base import Found, Selection, StoredUpdate
from account_socket.store.raw_accounts import MAX_SCANNED, SCANNED
from account_socket.store.rows import FORMAT, STATE_COLUMNS, UPDATE_COLUMNS, WHOLE_ABOVE, read_account

MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page ends early above this, however many rows were asked for; it has at least one."""

MAX_FORK_SLOTS = 512
"""In the order of ids, slots of an account go back only where a fork died, and never so far."""

_STATE_COLUMNS = f"{STATE_COLUMNS}, '', {FORMAT}"
_HISTORY_COLUMNS = f"{UPDATE_COLUMNS}, coalesce(event, ''), format"

_HISTORY = f"""
SELECT {_HISTORY_COLUMNS} FROM account_updates WHERE pubkey = ? AND id < ? ORDER BY id DESC LIMIT ?
"""  # noqa: S608  (our constants, here and below)
_STATE = f"SELECT {_STATE_COLUMNS} FROM account_state WHERE pubkey = ?"  # noqa: S608
_ENDS = """
SELECT (SELECT id FROM account_updates WHERE pubkey = :pubkey ORDER BY id LIMIT 1),
 (SELECT id + 1 FROM account_updates WHERE pubkey = :pubkey ORDER BY id DESC LIMIT 1)
"""
_FROM = "SELECT id, slot FROM account_updates WHERE pubkey = ? AND id >= ? ORDER BY id LIMIT 1"
_AT = f"""
SELECT {_HISTORY_COLUMNS} FROM account_updates WHERE pubkey = ? AND id < ? AND slot <= ? ORDER BY id DESC LIMIT 1
"""  # noqa: S608
_AFTER = "SELECT prev_id FROM account_updates WHERE pubkey = ? AND id > ? ORDER BY id LIMIT 1"
_SCANNED_OF_TYPE = """
SELECT pubkey FROM account_state WHERE account_type = ? AND pubkey > ? ORDER BY pubkey LIMIT 1 OFFSET ?
"""
_HAS = """
CASE json_type(data_json, ?) WHEN 'object' THEN 0 WHEN 'array' THEN 0
 WHEN 'text' THEN data_json ->> ? = ? ELSE data_json -> ? = ? END
"""
_AMONG = """
CASE json_type(data_json, ?) WHEN 'object' THEN 0 WHEN 'array' THEN 0
 WHEN 'text' THEN data_json ->> ? ELSE data_json -> ? END IN (SELECT value FROM json_each(?))
"""
_LATER = """
SELECT json_group_array(id) FROM (
 SELECT history.id FROM json_each(?) AS account CROSS JOIN account_updates AS history
 WHERE history.pubkey = account.key AND history.id > account.value LIMIT ?)
"""
_CROWDED = """
SELECT account.key FROM json_each(?) AS account WHERE EXISTS (
 SELECT 1 FROM account_updates AS history
 WHERE history.pubkey = account.key AND history.id > account.value LIMIT 1 OFFSET ?)
"""
_BETWEEN = f"""
SELECT {_HISTORY_COLUMNS} FROM account_updates WHERE id > ? AND id <= ? ORDER BY id LIMIT ?
"""  # noqa: S608
_UPDATES = f"""
SELECT {_HISTORY_COLUMNS} FROM account_updates WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id
"""  # noqa: S608


def select_history(
    connection: sqlite3.Connection, pubkey: str, before: int, limit: int
) -> tuple[list[StoredUpdate], bool]:
    """As `Store.history`. Raises sqlite3.Error."""
    return _page(connection.execute(_HISTORY, (pubkey, before, limit + 1)), limit)


def _page(rows: Iterable[Any], limit: int) -> tuple[list[StoredUpdate], bool]:
    """Return at most `limit` rows within the bytes of a page, and whether there are more to be told."""
    page: list[StoredUpdate] = []
    size = 0
    for row in rows:
        update = _read(row)
        if update is None:
            return page, False  # adopted; all that are older are adopted too
        if len(page) == limit or size >= MAX_PAGE_BYTES:
            return page, True
        page.append(update)
        size += len(update.account_json)
    return page, False


def select_at(connection: sqlite3.Connection, pubkey: str, slot: int) -> StoredUpdate | None:
    """As `Store.state_at`. Raises sqlite3.Error."""
    connection.execute("BEGIN")  # one moment for all the looks below
    try:
        row = connection.execute(_STATE, (pubkey,)).fetchone()
        state = None if row is None else _read(row)
        if state is None or state.slot <= slot:
            return state
        past = _select_past(connection, pubkey, slot)
        if past is None:
            return None
        after = connection.execute(_AFTER, (pubkey, past.id)).fetchone()
        # What follows it must say so: while the disk was full, or an adopted table was copied, rows were left out.
        follower = after[0] if after else state.prev_id
        return past if follower == past.id else None
    finally:
        connection.rollback()


def _select_past(connection: sqlite3.Connection, pubkey: str, slot: int) -> StoredUpdate | None:
    """Return the row of the highest id whose slot is not above `slot`, in few looks, however many there are."""
    first, end = connection.execute(_ENDS, {"pubkey": pubkey}).fetchone()
    if first is None:
        return None
    while first < end:
        middle = (first + end) // 2
        id_, its_slot = connection.execute(_FROM, (pubkey, middle)).fetchone() or (end, slot + MAX_FORK_SLOTS + 1)
        if its_slot <= slot + MAX_FORK_SLOTS:
            first = id_ + 1
        else:
            end = middle
    row = connection.execute(_AT, (pubkey, end, slot)).fetchone()
    return None if row is None else _read(row)


def select_accounts_where(connection: sqlite3.Connection, selection: Selection, after: str, limit: int) -> Found:
    """As `Store.find`. Raises sqlite3.Error."""
    scanned = _end_of_scan(connection, selection.account_type, after)
    conditions, values = ["pubkey > ?"], [after]
    if scanned is not None:
        conditions.append("pubkey <= ?")
        values.append(scanned)
    for column, value in (("account_type", selection.account_type), ("owner", selection.owner)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    for path, wanted in selection.where:
        conditions.append(_HAS)
        steps = json_path(path)
        values += [steps, steps, wanted, steps, wanted]
    for path, several in selection.among:
        conditions.append(_AMONG)
        values += [json_path(path)] * 3 + [json.dumps(several)]
    sql = f"SELECT {_STATE_COLUMNS} FROM account_state WHERE {' AND '.join(conditions)} ORDER BY pubkey LIMIT ?"  # noqa: S608  (placeholders only)
    page, more = _page(connection.execute(sql, (*values, limit + 1)), limit)
    if more:
        return Found(page, page[-1].pubkey)
    return Found(page, scanned)


def _end_of_scan(connection: sqlite3.Connection, account_type: str | None, after: str) -> str | None:
    """Return the last account that one page may look at, or None: all that are left."""
    if account_type is None:
        row = connection.execute(SCANNED, (after, MAX_SCANNED - 1)).fetchone()
    else:
        row = connection.execute(_SCANNED_OF_TYPE, (account_type, after, MAX_SCANNED - 1)).fetchone()
    return None if row is None else row[0]


def json_path(path: Sequence[str]) -> str:
    """Return the SQL form of the names and indexes that lead to a value; a number is an index of an array."""
    return "$" + "".join(f"[{step}]" if step.isdecimal() else f'."{step}"' for step in path)


def select_later(connection: sqlite3.Connection, after: Mapping[str, int], limit: int) -> list[int]:
    """As `Store.later`. Raises sqlite3.Error."""
    (ids,) = connection.execute(_LATER, (json.dumps(after), limit)).fetchone()
    return sorted(json.loads(ids))


def select_crowded(connection: sqlite3.Connection, after: Mapping[str, int], limit: int) -> list[str]:
    """As `Store.crowded`. Raises sqlite3.Error."""
    return [pubkey for (pubkey,) in connection.execute(_CROWDED, (json.dumps(after), limit))]


def select_between(connection: sqlite3.Connection, after: int, upto: int, limit: int) -> list[StoredUpdate] | None:
    """As `Store.between`. Raises sqlite3.Error."""
    connection.execute("BEGIN")  # rows and what is said of them, at one moment
    try:
        (whole_above,) = connection.execute("SELECT value FROM meta WHERE key = ?", (WHOLE_ABOVE,)).fetchone()
        if int(whole_above) > after:
            return None
        page: list[StoredUpdate] = []
        size = 0
        for row in connection.execute(_BETWEEN, (after, upto, limit)):
            update = _read(row)
            if update is None:
                return None  # written by another program
            page.append(update)
            size += len(update.account_json)
            if size >= MAX_PAGE_BYTES:
                break
        return page
    finally:
        connection.rollback()


def select_updates(connection: sqlite3.Connection, ids: Sequence[int]) -> list[StoredUpdate]:
    """As `Store.updates`. Raises sqlite3.Error."""
    rows = connection.execute(_UPDATES, (json.dumps(ids),)).fetchall()
    return [update for update in map(_read, rows) if update is not None]


def _read(row: Any) -> StoredUpdate | None:
    """Return what a row says, or None for one that was there before this program."""
    *account, event, format_ = row
    if format_ != FORMAT:
        return None
    pubkey, id_, slot, _, _, _, _, _, prev_id, *_ = account
    return StoredUpdate(id_, prev_id, pubkey, slot, read_account(account), event)
