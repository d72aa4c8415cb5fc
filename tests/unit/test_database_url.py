"""DATABASE_URL."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.database_url import SqliteUrl, parse_database_url
from account_socket.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "path", "mode"),
    [
        ("sqlite:account.db", "account.db", "rwc"),
        ("sqlite://account.db", "account.db", "rwc"),
        ("sqlite://data/account.db", "data/account.db", "rwc"),
        ("sqlite:./account.db", "account.db", "rwc"),
        ("sqlite:///var/lib/account.db", "/var/lib/account.db", "rwc"),
        ("sqlite:////var/lib/account.db", "/var/lib/account.db", "rwc"),
        ("sqlite:/var/lib/account.db", "/var/lib/account.db", "rwc"),
        ("sqlite:account.db?mode=rwc", "account.db", "rwc"),
        ("sqlite:account.db?mode=rw", "account.db", "rw"),
        ("sqlite:account.db?mode=ro", "account.db", "ro"),
        ("sqlite:account.db?cache=shared&mode=rw", "account.db", "rw"),
        ("sqlite:a%3Fb%23c%20d.db", "a?b#c d.db", "rwc"),
        (" sqlite:account.db ", "account.db", "rwc"),
        ("sqlite:C:/data.db", "C:/data.db", "rwc"),
    ],
)
def test_files(url: str, path: str, mode: str) -> None:
    """Relative and absolute paths, escapes and modes mean what sqlx makes of them."""
    assert parse_database_url(url) == SqliteUrl(Path(path), mode)


@pytest.mark.parametrize("url", ["sqlite::memory:", "sqlite://:memory:", "sqlite:any.db?mode=memory"])
def test_memory(url: str) -> None:
    """A database in memory has no path."""
    assert parse_database_url(url) == SqliteUrl(None, "memory")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "account.db",
        "sqlite",
        "sqlite:",
        "sqlite://",
        "sqlite:?mode=rw",
        "sqlite:a.db?mode=rx",
        "sqlite:a.db?mode=",
        "sqlite:a.db?vfs=unix",
        "sqlite:a.db?cache=none",
        "sqlite:a%00b",
        "sqlite:%ff",
        "mysql://host/db",
        "SQLITE:a.db",
    ],
)
def test_what_does_not_fit_is_refused(url: str) -> None:
    """Another scheme, no path, or an unknown parameter is a SettingsError with a hint or a reason."""
    with pytest.raises(SettingsError):
        parse_database_url(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_postgresql_is_not_there_yet(scheme: str) -> None:
    """PostgreSQL is named as not available, and its password is not repeated."""
    with pytest.raises(SettingsError, match="not available in this version") as raised:
        parse_database_url(f"{scheme}://user:hunter2@host/db")
    assert "hunter2" not in str(raised.value) + raised.value.hint


def test_secrets_are_not_repeated() -> None:
    """The password of a URL with a wrong scheme does not reach the message."""
    with pytest.raises(SettingsError) as raised:
        parse_database_url("mysql://user:hunter2@host/db")
    assert "hunter2" not in str(raised.value)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text leads to another exception than SettingsError."""
    for url in (text, "sqlite:" + text, "sqlite:a?" + text):
        with suppress(SettingsError):
            parse_database_url(url)
