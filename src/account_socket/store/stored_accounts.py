"""A database's accounts, byte for byte: for comparing them with the chain."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from account_socket.errors import StoreError
from account_socket.store.connection import connect_reader
from account_socket.store.raw_accounts import Fingerprint, StoredAccount, read_row, select_rows_of
from account_socket.store.schema import check_current
from account_socket.store.sqlite_errors import store_error
from account_socket.store.summary import check_exists


class StoredAccounts:
    """
    A database, for reading only, beside a server or without one. One call at a time; every one raises StoreError.

    Args:
        path: where it lies; a server must have made it.
    """

    def __init__(self, path: Path) -> None:
        check_exists(path)
        self._path = path
        try:
            self._connection = connect_reader(path)
        except sqlite3.Error as error:
            raise store_error(error, path) from error
        try:
            check_current(self._connection, path)
        except StoreError:
            self.close()
            raise
        except sqlite3.Error as error:
            self.close()
            raise store_error(error, path) from error

    def close(self) -> None:
        """Let go."""
        self._connection.close()

    def genesis_hash(self) -> str | None:
        """Return the cluster it belongs to, None while it belongs to none."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'genesis_hash'")
        return next((str(value) for (value,) in rows), None)

    def count(self) -> int:
        """Return how many accounts there are."""
        (row,) = self._rows("SELECT count(*) FROM account_state")
        return int(row[0])

    def sample(self, count: int) -> list[str]:
        """Return up to `count` accounts at random."""
        return self._pubkeys("SELECT pubkey FROM account_state ORDER BY random() LIMIT ?", (count,))

    def page(self, after: str, limit: int) -> list[str]:
        """Return up to `limit` accounts behind `after`, sorted."""
        return self._pubkeys(
            "SELECT pubkey FROM account_state WHERE pubkey > ? ORDER BY pubkey LIMIT ?", (after, limit)
        )

    def fingerprints(self, pubkeys: Sequence[str]) -> dict[str, Fingerprint]:
        """Return those of `pubkeys` (some hundreds at most) that have a state; one row at a time is in memory."""
        return {account.raw.pubkey: account.fingerprint for account in self._accounts(pubkeys)}

    def account(self, pubkey: str) -> StoredAccount | None:
        """Return the state of one account, or None."""
        return next(self._accounts([pubkey]), None)

    def _accounts(self, pubkeys: Sequence[str]) -> Iterator[StoredAccount]:
        yield from map(read_row, self._rows(select_rows_of(pubkeys), pubkeys))

    def _pubkeys(self, sql: str, parameters: Sequence[object]) -> list[str]:
        return [str(pubkey) for (pubkey,) in self._rows(sql, parameters)]

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error
