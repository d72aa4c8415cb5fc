"""DATABASE_URL, as sqlx reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import parse_qsl, unquote_to_bytes

from account_socket.errors import SettingsError, scrub_url

Mode = Literal["rwc", "rw", "ro", "memory"]

_EXAMPLE = "for example sqlite:account.db, sqlite:///var/lib/account.db or sqlite::memory:"
_MODES = ("rwc", "rw", "ro", "memory")
_CACHES = ("shared", "private")


@dataclass(frozen=True)
class SqliteUrl:
    """
    Where a SQLite database lies.

    Attributes:
        path: relative to the working directory, or absolute; None for a database that lives as long as the process.
        mode: `rwc` creates a missing file, `rw` does not, `ro` forbids writing.
    """

    path: Path | None
    mode: Mode = "rwc"


def parse_database_url(url: str) -> SqliteUrl:
    """
    Read `sqlite:p` and `sqlite://p` (relative), `sqlite:///p` (absolute), `sqlite::memory:`; `%` escapes in the path.

    The parameter `mode` is one of rwc (the default), rw, ro, memory; `cache` is accepted and changes nothing.

    Raises:
        SettingsError: another scheme, an empty path, an unknown parameter.
    Source: sqlx-sqlite, `SqliteConnectOptions::from_str`.
    """
    scheme, colon, rest = url.strip().partition(":")
    if scheme in ("postgres", "postgresql") and colon:
        raise SettingsError(
            "PostgreSQL is not available in this version", hint=f"DATABASE_URL names a SQLite file, {_EXAMPLE}"
        )
    if scheme != "sqlite" or not colon:
        raise SettingsError("this is not a database URL", hint=f"write it with its scheme, {_EXAMPLE}")
    database, _, query = rest.removeprefix("//").partition("?")
    mode = _mode(url, query)
    if database == ":memory:" or mode == "memory":
        return SqliteUrl(None, "memory")
    return SqliteUrl(_path(url, database), mode)


def _path(url: str, database: str) -> Path:
    try:
        name = unquote_to_bytes(database).decode()
    except UnicodeDecodeError:
        raise SettingsError(f"the path of {scrub_url(url)!r} is not UTF-8") from None
    if not name or "\0" in name:
        raise SettingsError(f"{scrub_url(url)!r} names no file", hint=f"name one, {_EXAMPLE}")
    return Path(re.sub("^/+", "/", name))  # SQLite reads //p as the host p


def _mode(url: str, query: str) -> Mode:
    mode: Mode = "rwc"
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "mode" and value in _MODES:
            mode = cast("Mode", value)
        elif not (key == "cache" and value in _CACHES):
            raise SettingsError(
                f"{scrub_url(url)!r} has a parameter {key!r} that is not known or a value that does not fit",
                hint=f"the parameters are mode ({', '.join(_MODES)}) and cache ({', '.join(_CACHES)})",
            )
    return mode
