"""What `account_state` holds, byte for byte: rows read whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from account_socket.model import CONTENT_HASH_BYTES, MAX_I64, RawAccount

MAX_SCANNED = 5_000
"""The most accounts that are looked at for one page."""
_BEYOND_ALL = 10 * 1024 * 1024
"""The most bytes an account has. SQLite counts bytes in 32 bits: a larger offset would begin again at the first."""

_COLUMNS = (
    "pubkey, id, slot, closed, CAST(account_type AS TEXT), CAST(owner AS TEXT), CAST(lamports AS INTEGER), executable,"
    " CAST(raw AS BLOB), CAST(data_json AS BLOB), rent_epoch"
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
    """An account's stored state; `raw` has its slot, owner, lamports, executable flag, rent epoch and bytes."""

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


SCANNED = "SELECT pubkey FROM account_state WHERE pubkey > ? ORDER BY pubkey LIMIT 1 OFFSET ?"


@dataclass(frozen=True)
class Bytes:
    """
    Which accounts, by what they hold.

    Attributes:
        owner: base58.
        sizes: of the data, in bytes; all of them.
        holds: (offset, bytes) that the data has.
    """

    owner: str
    sizes: tuple[int, ...] = ()
    holds: tuple[tuple[int, bytes], ...] = ()


def select_raw(connection: sqlite3.Connection, pubkeys: Sequence[str]) -> dict[str, StoredAccount]:
    """As `Store.raw`. Raises sqlite3.Error."""
    rows = connection.execute(select_rows_of(pubkeys), tuple(pubkeys)).fetchall()
    return {account.raw.pubkey: account for account in map(read_row, rows)}


def select_raw_page(
    connection: sqlite3.Connection, chosen: Bytes, after: str, limit: int
) -> tuple[list[StoredAccount], str | None]:
    """As `Store.raw_page`. Raises sqlite3.Error."""
    scanned = connection.execute(SCANNED, (after, MAX_SCANNED - 1)).fetchone()
    conditions = ["pubkey > ?", "owner = ?", "lamports > 0"]
    values: list[Any] = [after, chosen.owner]
    if scanned is not None:
        conditions.append("pubkey <= ?")
        values.append(scanned[0])
    for size in chosen.sizes:
        conditions.append("length(raw) = ?")
        values.append(min(size, MAX_I64))
    for offset, part in chosen.holds:
        if part:
            conditions.append("substr(CAST(raw AS BLOB), ?, ?) = ?")
            values += [min(offset, _BEYOND_ALL) + 1, len(part), part]
        else:
            conditions.append("length(raw) >= ?")
            values.append(min(offset, MAX_I64))
    sql = f"SELECT {_COLUMNS} FROM account_state WHERE {' AND '.join(conditions)} ORDER BY pubkey LIMIT ?"  # noqa: S608  (placeholders only)
    page = [read_row(row) for row in connection.execute(sql, (*values, limit))]
    if len(page) == limit:
        return page, page[-1].raw.pubkey
    return page, scanned[0] if scanned is not None else None


def select_rows_of(pubkeys: Sequence[str]) -> str:
    """Return the SQL that reads these accounts, its parameters; `read_row` takes its rows."""
    marks = ",".join("?" * len(pubkeys))
    return f"SELECT {_COLUMNS} FROM account_state WHERE pubkey IN ({marks})"  # noqa: S608


def read_row(row: Any) -> StoredAccount:
    """Return the account of a row."""
    pubkey, id_, slot, closed, type_, owner, lamports, executable, raw, data_json, rent_epoch = row
    state = RawAccount(
        pubkey, slot, owner, lamports, raw, executable=bool(executable), rent_epoch=int(rent_epoch or 0)
    )
    return StoredAccount(id_, bool(closed), type_, state, data_json)
