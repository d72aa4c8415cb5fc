"""The backends that the conformance suites run on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
from tests.samples import KEY_A, update

from account_socket.model import AccountUpdate, StoredState
from account_socket.store.base import Store
from account_socket.store.sqlite import SqliteStore


class SqliteBackend:
    """A SQLite file that stores are opened on, and a look inside that is not theirs."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "account.db"

    def store(self) -> Store:
        """Return a store that is not open yet."""
        return SqliteStore(self.path, readers=3)

    def history(self) -> list[tuple[object, ...]]:
        """Return (id, pubkey, data_json) of every history row, by id."""
        with sqlite3.connect(self.path) as connection:
            rows = connection.execute("SELECT id, pubkey, data_json FROM account_updates ORDER BY id").fetchall()
        connection.close()
        return rows

    def signatures(self) -> list[tuple[object, ...]]:
        """Return (id, signature) of every history row, by id."""
        with sqlite3.connect(self.path) as connection:
            rows = connection.execute("SELECT id, signature FROM account_updates ORDER BY id").fetchall()
        connection.close()
        return rows


def changed(number: int, pubkey: str = KEY_A, **fields: object) -> AccountUpdate:
    """Return update `number` with its own content, and `fields` as given; `account_json` is not kept in step."""
    base = update(number, pubkey, slot=number, data_json=b'{"n":%d}' % number, data=b"raw %d" % number)
    return msgspec.structs.replace(base, **fields)


def state_of(stored: AccountUpdate) -> StoredState:
    """Return what a store or a cache says of an account whose newest update is `stored`."""
    return StoredState(stored.id, stored.account_json)
