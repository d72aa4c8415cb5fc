"""Looking at a database and tidying it up, beside a server's store and without one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.conformance.backends import changed
from tests.samples import KEY_A, KEY_B

from account_socket.errors import StoreError
from account_socket.model import AccountUpdate
from account_socket.store import summary as summary_module
from account_socket.store.housework import count_prunable, give_back, prune
from account_socket.store.sqlite import SqliteStore
from account_socket.store.summary import summarize

OTHER = "9" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "account.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close(next_id=None)


def dated(number: int, pubkey: str = KEY_A, **fields: object) -> AccountUpdate:
    return changed(number, pubkey, created_at=f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000000Z", **fields)


def silent(_done: int) -> None:
    pass


async def fill(path: Path, updates: list[AccountUpdate]) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.append(updates)
    await store.close(next_id=updates[-1].id + 1)


def make_old(path: Path) -> None:
    """Make a file as versions did that could not give space back."""
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE other (x)")


def ids(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [number for (number,) in connection.execute("SELECT id FROM account_updates ORDER BY id")]


# ---- looking -----------------------------------------------------------------------------------------------


async def test_the_summary_tells_what_is_there(store: SqliteStore, path: Path) -> None:
    """Rows, their ends, accounts by type and whether closed, and who the database is are told beside a server."""
    await store.bind("genesis")
    await store.append([dated(1), dated(2, KEY_B, account_type="Position"), dated(5)])
    await store.append([dated(6, OTHER, closed=True, data_json=b"null")], history=False)
    told = summarize(path, seconds=None)
    assert (told.rows, told.most_rows, told.accounts) == (3, 5, 3)
    assert told.types == {"Pool": (1, 1), "Position": (1, 0)}
    assert (told.oldest, told.newest) == ("2026-01-01T00:00:01.000000Z", "2026-01-01T00:00:05.000000Z")
    assert (told.genesis_hash, told.newest_id) == ("genesis", 5)
    assert told.epoch
    assert told.reserved_id > 100_000
    assert told.gives_back
    assert told.database_bytes + told.wal_bytes > 4_096
    assert told == summarize(path, seconds=5)


async def test_an_empty_database_has_a_summary(store: SqliteStore, path: Path) -> None:
    """A database without rows and accounts says so."""
    told = summarize(path, seconds=None)
    assert (told.rows, told.most_rows, told.accounts, told.types, told.oldest) == (0, 0, 0, {}, None)
    assert told.genesis_hash is None


async def test_what_takes_too_long_is_not_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that is not done in time is left out, and what bounds it is told."""
    await fill(path, [dated(number) for number in range(3, 8)])
    long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'Pool', max(i), 0 FROM n"
    monkeypatch.setattr(summary_module, "_BY_TYPE", long)
    told = summarize(path, seconds=0.05)
    assert told.types is None
    assert (told.rows, told.accounts, told.most_rows) == (5, 1, 5)


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 300])
def test_only_a_database_of_this_version_is_touched(path: Path, content: bytes | None) -> None:
    """Of a missing, an empty and a foreign file it is said what is wrong, and nothing is created or changed."""
    if content is not None:
        path.write_bytes(content)
    for call in (
        lambda: summarize(path, seconds=1),
        lambda: prune(path, before="9", keep=1, tell=silent),
        lambda: count_prunable(path, before="9", keep=1),
        lambda: give_back(path, silent),
    ):
        with pytest.raises(StoreError, match=r"there is no database|no tables|not a database"):
            call()
    assert [file.name for file in path.parent.iterdir()] == ([] if content is None else [path.name])
    assert content is None or path.read_bytes() == content


# ---- deleting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "keep", "left"),
    [
        (None, None, list(range(1, 301))),
        ("2026-01-01T00:03:00.000000Z", None, list(range(180, 301))),
        ("2025", None, list(range(1, 301))),
        (None, 2, [200, 250, 299, 300]),
        ("2026-01-01T00:04:00.000000Z", 2, [250, 299, 300]),
        ("2027", 1, []),
    ],
)
async def test_what_would_go_is_what_goes(path: Path, before: str | None, keep: int | None, left: list[int]) -> None:
    """Too old rows and rows beyond the newest of each account go, as many as a dry run counts; states stay."""
    await fill(path, [dated(n, KEY_B if n % 50 == 0 and n < 300 else KEY_A) for n in range(1, 301)])
    counted = count_prunable(path, before=before, keep=keep)
    assert ids(path) == list(range(1, 301))
    told: list[int] = []
    assert prune(path, before=before, keep=keep, tell=told.append) == counted == 300 - len(left)
    assert ids(path) == left
    assert told == sorted(told)
    assert summarize(path, seconds=None).accounts == 2


async def test_a_server_commits_while_another_process_prunes(store: SqliteStore, path: Path) -> None:
    """Appends go on beside a pruning that takes its time, none of them fails, and both are right in the end."""
    await store.append([dated(number) for number in range(1, 1_001)])
    pruning = asyncio.create_task(asyncio.to_thread(prune, path, before=None, keep=10, tell=silent))
    appended = 1_000
    while not pruning.done():
        appended += 1
        assert await store.append([dated(appended)]) == []
    assert appended > 1_010
    assert await pruning > 900
    assert prune(path, before=None, keep=10, tell=silent) <= appended - 1_000
    assert ids(path) == list(range(appended - 9, appended + 1))


# ---- giving space back -------------------------------------------------------------------------------------

BIG = b'"%s"' % (b"x" * 8_000)


async def test_space_is_given_back_beside_a_server(store: SqliteStore, path: Path) -> None:
    """A database of this version shrinks while a server has it open, and the server goes on."""
    await store.append([dated(number, data_json=BIG) for number in range(1, 301)])
    prune(path, before=None, keep=1, tell=silent)
    told: list[int] = []
    assert await asyncio.to_thread(give_back, path, told.append) > 250 * 8_000
    assert told
    assert path.stat().st_size < 100_000
    assert await store.append([dated(301)]) == []
    assert ids(path) == [300, 301]


async def test_an_old_database_is_rewritten_once_and_not_under_a_server(path: Path) -> None:
    """One that cannot shrink is refused while a server has it; without one it is rewritten, and can from then on."""
    make_old(path)
    store = SqliteStore(path)
    await store.open()
    await store.append([dated(number, data_json=BIG) for number in range(1, 301)])
    prune(path, before=None, keep=1, tell=silent)
    assert not summarize(path, seconds=None).gives_back
    with pytest.raises(StoreError, match="in use by another server"):
        give_back(path, silent)
    await store.close(next_id=None)
    assert give_back(path, silent) > 250 * 8_000
    assert summarize(path, seconds=None).gives_back
    assert ids(path) == [300]
    reopened = SqliteStore(path)
    await reopened.open()
    assert (await reopened.states([KEY_A]))[KEY_A].id == 300
    await reopened.close(next_id=None)


async def test_a_rewrite_needs_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk has no room for a second copy the database stays as it is."""
    make_old(path)
    await fill(path, [dated(number, data_json=BIG) for number in range(1, 101)])
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1_000_000})())
    with pytest.raises(StoreError, match="MB are free"):
        give_back(path, silent)
    assert not summarize(path, seconds=None).gives_back
