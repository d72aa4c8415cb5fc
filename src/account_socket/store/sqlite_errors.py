"""What sqlite3 raises, told as ours."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from account_socket.errors import StoreError

REFUSED = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)
"""Raised for the content of one row: a constraint, a number above 64 bits, text that is not UTF-8, a wrong type."""

_IN_USE = "another process holds it; end that process, or its transaction"
_HINTS: dict[int, tuple[bool, str]] = {
    sqlite3.SQLITE_BUSY: (True, _IN_USE),
    sqlite3.SQLITE_LOCKED: (True, _IN_USE),
    sqlite3.SQLITE_FULL: (True, "free space on the disk"),
    sqlite3.SQLITE_IOERR: (True, "look at the disk: the kernel's log says more"),
    sqlite3.SQLITE_READONLY: (True, "make the file and its directory writable"),
    sqlite3.SQLITE_PERM: (True, "make the file and its directory writable"),
    sqlite3.SQLITE_CANTOPEN: (True, "make sure that its directory exists and is writable, and that it is a file"),
    sqlite3.SQLITE_INTERRUPT: (True, ""),
    sqlite3.SQLITE_NOMEM: (True, "the machine is out of memory"),
    sqlite3.SQLITE_CORRUPT: (False, "put a copy back, or save what is there with: sqlite3 FILE .recover"),
    sqlite3.SQLITE_NOTADB: (False, "DATABASE_URL names a file that is not a SQLite database"),
}


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's result code without its extension, or 0 where sqlite3 itself raised."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Whether another connection was in the way; ours is as good as before."""
    return isinstance(error, sqlite3.Error) and primary_code(error) in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """Return the StoreError to raise `from error`."""
    retryable, hint = _HINTS.get(primary_code(error), (False, ""))
    return StoreError(f"database {path}: {error}", hint=hint, retryable=retryable)
