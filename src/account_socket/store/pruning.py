"""
History that goes, in SQL, and the space that it leaves.

Each call is one short piece of work: whoever makes many leaves the database to others in between.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from time import perf_counter

from account_socket.store.connection import transaction
from account_socket.store.rows import raise_whole_above

MAX_ROWS = 16
"""Rows that one transaction deletes: under a millisecond of work, for which commits of updates wait."""

STEP_SECONDS = 0.002
"""How long a step of giving space back may take: what it costs depends on how many pages are free."""

MAX_STEP_PAGES = 64

_OLDEST = """
SELECT max(id) FROM (
 SELECT id, CASE format WHEN 0
   THEN min(coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', created_at), :adopted_at), :adopted_at)
   ELSE created_at END AS created
 FROM account_updates ORDER BY id LIMIT :limit)
WHERE created < :before
"""
"""The end of the oldest rows to go. An adopted row without a readable time is as old as its adoption."""

_EXCESS = """
SELECT json_group_array(id) FROM (
 SELECT history.id FROM json_each(:pubkeys) AS account CROSS JOIN account_updates AS history
 WHERE history.pubkey = account.value AND history.id <= (
  SELECT id FROM account_updates WHERE pubkey = account.value ORDER BY id DESC LIMIT 1 OFFSET :keep)
 LIMIT :limit)
"""
"""The rows of some accounts beyond the newest ones of each; in one step, since each step may wait for the loop."""

_ACCOUNTS = """
WITH RECURSIVE account(pubkey) AS (
 SELECT min(pubkey) FROM account_updates WHERE pubkey > :after
 UNION ALL
 SELECT (SELECT min(pubkey) FROM account_updates WHERE pubkey > account.pubkey) FROM account
 WHERE account.pubkey IS NOT NULL LIMIT :limit)
SELECT json_group_array(pubkey) FROM account WHERE pubkey IS NOT NULL
"""
"""One look into the index for each account, however many rows it has."""


def delete_before(connection: sqlite3.Connection, before: str, limit: int) -> int:
    """Delete the oldest rows created before `before`, at most `limit`; return how many. Raises sqlite3.Error."""
    with transaction(connection):
        adopted = connection.execute("SELECT value FROM meta WHERE key = 'adopted_at'").fetchone()
        (last,) = connection.execute(
            _OLDEST, {"before": before, "limit": limit, "adopted_at": adopted[0] if adopted else ""}
        ).fetchone()
        if last is None:
            return 0
        raise_whole_above(connection, last)
        return connection.execute("DELETE FROM account_updates WHERE id <= ?", (last,)).rowcount


def select_excess(connection: sqlite3.Connection, pubkeys: Sequence[str], keep: int, limit: int) -> list[int]:
    """
    Return the ids of at most `limit` rows that are not among the `keep` newest of their account.

    It takes as long as reading `keep` entries of an index for each account. Raises sqlite3.Error.
    """
    (ids,) = connection.execute(_EXCESS, {"pubkeys": json.dumps(pubkeys), "keep": keep, "limit": limit}).fetchone()
    found: list[int] = json.loads(ids)
    return found


def select_accounts(connection: sqlite3.Connection, after: str, limit: int) -> list[str]:
    """Return at most `limit` accounts that have history, those behind `after`, sorted. Raises sqlite3.Error."""
    (pubkeys,) = connection.execute(_ACCOUNTS, {"after": after, "limit": limit}).fetchone()
    found: list[str] = json.loads(pubkeys)
    return found


def delete_rows(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    """Delete the rows with these ids, in one transaction; return how many there were. Raises sqlite3.Error."""
    marks = ",".join("?" * len(ids))
    with transaction(connection):
        raise_whole_above(connection, max(ids))
        return connection.execute(f"DELETE FROM account_updates WHERE id IN ({marks})", ids).rowcount  # noqa: S608


class SpaceReturn:
    """
    Gives free pages at the end of the file back to the disk, in steps of STEP_SECONDS.

    Each call is a step and returns the bytes given back: 0 when nothing is free, or the database was made by a
    version that could not do that. The file shrinks with the next checkpoint. Raises sqlite3.Error.
    """

    def __init__(self) -> None:
        self._pages = 1

    def __call__(self, connection: sqlite3.Connection) -> int:
        (before,) = connection.execute("PRAGMA page_count").fetchone()
        started = perf_counter()
        # `execute` would stop it after the first page.
        connection.executescript(f"PRAGMA incremental_vacuum({self._pages})")
        elapsed = max(perf_counter() - started, 1e-6)
        self._pages = max(1, min(MAX_STEP_PAGES, 2 * self._pages, int(self._pages * STEP_SECONDS / elapsed)))
        (after,) = connection.execute("PRAGMA page_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        return int(before - after) * int(size)
