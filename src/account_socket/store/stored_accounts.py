"""What `account_state` holds, byte for byte: for comparing it with the chain."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from account_socket.errors import StoreError
from account_socket.model import CONTENT_HASH_BYTES, RawAccount
from account_socket.store.connection import connect_reader
from account_socket.store.schema import check_current
from account_socket.store.sqlite_errors import store_error
from account_socket.store.summary import check_exists

_COLUMNS = (
    "pubkey, id, slot, closed, CAST(account_type AS TEXT), CAST(owner AS TEXT), CAST(lamports AS INTEGER), executable,"
    " CAST(raw AS BLOB), CAST(data_json AS BLOB)"
)


@dataclass(frozen=True)
class Fingerprint:
    """
    An account's stored state, without its bytes.

    Attributes:
        id, slot, closed, account_type: as stored.
        content: the hash of what is stored as `RawAccount.content_hash` makes it, not the hash that is stored.
        told: `told_hash` of `data_json`.
    """

    id: int
    slot: int
    closed: bool
    account_type: str
    content: bytes
    told: bytes


@dataclass(frozen=True)
class StoredAccount:
    """An account's stored state; `raw` has its slot, owner, lamports, executable flag and bytes."""

    id: int
    closed: bool
    account_type: str
    raw: RawAccount
    data_json: bytes

    @property
    def fingerprint(self) -> Fingerprint:
        """The same without the bytes."""
        content, told = self.raw.content_hash(), told_hash(self.data_json)
        return Fingerprint(self.id, self.raw.slot, self.closed, self.account_type, content, told)


def told_hash(data_json: bytes) -> bytes:
    """Return 16 bytes that are equal exactly when `data_json` is."""
    return blake2b(data_json, digest_size=CONTENT_HASH_BYTES).digest()


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
        marks = ",".join("?" * len(pubkeys))
        sql = f"SELECT {_COLUMNS} FROM account_state WHERE pubkey IN ({marks})"  # noqa: S608
        for pubkey, id_, slot, closed, type_, owner, lamports, executable, raw, data_json in self._rows(sql, pubkeys):
            state = RawAccount(pubkey, slot, owner, lamports, raw, executable=bool(executable))
            yield StoredAccount(id_, bool(closed), type_, state, data_json)

    def _pubkeys(self, sql: str, parameters: Sequence[object]) -> list[str]:
        return [str(pubkey) for (pubkey,) in self._rows(sql, parameters)]

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error
