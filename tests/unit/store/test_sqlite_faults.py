"""What can happen to a SQLite file under a running server."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.conformance.backends import changed
from tests.samples import KEY_A
from tests.waiting import until

from account_socket.errors import StoreError
from account_socket.store import connection as connection_module
from account_socket.store import sqlite as sqlite_module
from account_socket.store import upkeep as upkeep_module
from account_socket.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.fault


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(sqlite_module, "PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(sqlite_module, "IDLE_SECONDS", 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "account.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close(next_id=None)


def ids(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    found = [row[0] for row in connection.execute("SELECT id FROM account_updates ORDER BY id")]
    connection.close()
    return found


def append_until_killed(path: Path) -> range:
    """Run a process that appends, kill it in the midst, and return the ids that it said were committed."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.store.appending_process", str(path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(40)]
        process.kill()
        rest = process.stdout.read()
        lines += rest[: rest.rfind("\n") + 1].splitlines()
    return range(int(lines[0]), int(lines[-1]) + 1)


async def test_kill_9_loses_nothing_that_was_committed(path: Path) -> None:
    """Whatever a killed process said to be committed is there with its content, and no id is used twice."""
    said = [append_until_killed(path) for _ in range(3)]
    store = SqliteStore(path)
    next_id = (await store.open()).next_id
    await store.close(next_id=None)
    assert said[0].stop <= said[1].start
    assert said[1].stop <= said[2].start
    assert said[2].stop <= next_id
    connection = sqlite3.connect(path)
    rows = dict(connection.execute("SELECT id, data_json FROM account_updates"))
    states = dict(connection.execute("SELECT pubkey, id FROM account_state"))
    newest = dict(connection.execute("SELECT pubkey, max(id) FROM account_updates GROUP BY pubkey"))
    connection.close()
    for committed in said:
        assert all(rows[number] == f'{{"n":{number}}}' for number in committed)
    assert states == newest


async def test_a_locked_database_is_told_and_survived(store: SqliteStore, path: Path) -> None:
    """While another connection holds the write lock an append fails, retryable; afterwards the same call succeeds."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked") as raised:
        await store.append([changed(1)])
    assert raised.value.retryable
    assert raised.value.hint
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
    other.execute("ROLLBACK")
    other.close()
    assert await store.append([changed(1)]) == []
    assert ids(path) == [1]


async def test_too_many_accounts_that_grew_are_not_remembered(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a bound nobody knows any more which accounts grew; after it was said, they are remembered again."""
    monkeypatch.setattr(sqlite_module, "MAX_GROWN", 10)
    await store.take_grown()
    await store.append([changed(number, f"key-{number}") for number in range(1, 12)])
    assert await store.take_grown() is None
    await store.append([changed(12)])
    assert await store.take_grown() == {KEY_A}


async def test_reads_go_on_while_the_database_is_locked(store: SqliteStore, path: Path) -> None:
    """A write lock of another connection does not keep anyone from reading."""
    await store.append([changed(1)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert (await store.states([KEY_A]))[KEY_A].id == 1
    other.execute("ROLLBACK")
    other.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs more rights than this user has")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_is_told_and_survived(small_disk: Path) -> None:
    """On a full disk an append fails whole and retryable; when there is space again the same call succeeds."""
    path = small_disk / "account.db"
    store = SqliteStore(path)
    await store.open()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 400_000))
    number, refused = 0, None
    while refused is None and number < 1000:
        group = [changed(number + n, data_json=b'"%s"' % (b"x" * 3000)) for n in range(1, 11)]
        try:
            await store.append(group)
            number += 10
        except StoreError as error:
            refused = error
    assert refused is not None
    assert refused.retryable
    assert "space" in refused.hint or "disk" in refused.hint
    assert number > 0
    assert (await store.states([KEY_A]))[KEY_A].id == number
    ballast.unlink()
    assert await store.append(group) == []
    await store.close(next_id=number + 11)
    assert ids(path) == list(range(1, number + 11))


async def test_a_full_database_is_told_and_survived(store: SqliteStore, path: Path) -> None:
    """A database that may not grow refuses a group whole, and takes it when it may grow again."""
    await store._writing.submit(lambda connection: connection.execute("PRAGMA max_page_count = 30").fetchall())
    group = [changed(n, data_json=b'"%s"' % (b"x" * 3000)) for n in range(1, 101)]
    with pytest.raises(StoreError, match="full") as raised:
        await store.append(group)
    assert raised.value.retryable
    assert ids(path) == []
    assert await store.append(group) == []  # the connection was made anew, without its limit
    assert ids(path) == list(range(1, 101))


async def test_closing_does_not_wait_for_a_database_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the writer hangs, close returns at its ceiling, the loop runs on, and the ids are not given back."""
    monkeypatch.setattr(sqlite_module, "CLOSE_SECONDS", 0.3)
    store = SqliteStore(path)
    await store.open()
    await store.append([changed(1)])
    release = threading.Event()
    hanging = store._writing.submit(lambda _: release.wait(30))
    waiting = asyncio.create_task(store.append([changed(2)]))
    started = time.monotonic()
    await store.close(next_id=3)
    assert time.monotonic() - started < 1
    assert not waiting.done()
    second = SqliteStore(path)
    with pytest.raises(StoreError, match="another server"):
        await second.open()
    await second.close(next_id=None)
    release.set()
    await hanging
    assert await waiting == []
    await until(lambda: not (path.with_name("account.db-wal")).exists())


async def test_a_reader_that_hangs_does_not_cost_the_clean_stop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When only a reader hangs, the ids are given back all the same."""
    monkeypatch.setattr(sqlite_module, "CLOSE_SECONDS", 0.3)
    store = SqliteStore(path)
    await store.open()
    await store.append([changed(1)])
    release = threading.Event()
    hanging = store._read().submit(lambda _: release.wait(30))
    await store.close(next_id=2)
    release.set()
    await hanging
    store = SqliteStore(path)
    assert (await store.open()).next_id == 2
    await store.close(next_id=2)


async def test_a_result_for_a_closed_loop_is_dropped(path: Path) -> None:
    """A job that ends after its loop was closed disturbs nobody, and what it did is kept."""
    store = SqliteStore(path)

    def other_loop() -> None:
        async def main() -> None:
            await store.open()
            store._writing.submit(lambda _: time.sleep(0.2))
            append = partial(store._append, group=(changed(1),), history=True, lost_id=0)
            store._writing.submit(append)

        asyncio.run(main())

    await asyncio.to_thread(other_loop)
    await until(lambda: ids(path) != [])
    await store.close(next_id=None)
    assert ids(path) == [1]


async def test_two_servers_on_one_database_are_refused(store: SqliteStore, path: Path) -> None:
    """A second server on the same file is refused: both would give out the same ids; afterwards it may open."""
    second = SqliteStore(path)
    with pytest.raises(StoreError, match="in use by another server") as raised:
        await second.open()
    assert raised.value.hint
    await store.close(next_id=1)
    await second.open()
    await second.close(next_id=1)


async def test_a_deleted_database_is_noticed(store: SqliteStore, path: Path) -> None:
    """Appends fail while the file is gone, instead of being written where nobody finds them."""
    await store.append([changed(1)])
    aside = path.with_name("aside.db")
    path.rename(aside)
    await until(lambda: store._upkeep.moved)
    with pytest.raises(StoreError, match="moved or deleted") as raised:
        await store.append([changed(2)])
    assert raised.value.retryable
    aside.rename(path)
    await until(lambda: not store._upkeep.moved)
    assert await store.append([changed(2)]) == []


async def test_the_wal_is_cut_when_nothing_is_written(store: SqliteStore, path: Path) -> None:
    """In a quiet moment the WAL is copied into the database and cut to nothing."""
    await store.append([changed(n) for n in range(1, 500)])
    await until(lambda: path.with_name("account.db-wal").stat().st_size == 0)
    await until(lambda: store.statistics()["wal_bytes"] == 0)
    assert len(ids(path)) == 499


async def test_the_wal_is_cut_when_it_is_large(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of work the WAL is cut once it is above its limit."""
    monkeypatch.setattr(upkeep_module, "MAX_WAL_BYTES", 200_000)
    wal = path.with_name("account.db-wal")
    number, peak, cut = 0, 0, False
    deadline = time.monotonic() + 10
    while not cut and time.monotonic() < deadline:
        number += 1
        await store.append([changed(number, data_json=b'"%s"' % (b"x" * 3000))])
        size = wal.stat().st_size
        cut = peak > 200_000 and size < peak
        peak = max(peak, size)
    assert cut


async def test_a_reader_of_others_does_not_stop_the_writer(store: SqliteStore, path: Path) -> None:
    """A long read by another program keeps the WAL from being cut, and nothing else."""
    await store.append([changed(1)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM account_updates").fetchone()
    started = time.monotonic()
    for number in range(2, 50):
        await store.append([changed(number)])
        await asyncio.sleep(0.005)
    assert time.monotonic() - started < 3
    assert other.execute("SELECT count(*) FROM account_updates").fetchone() == (1,)
    other.execute("COMMIT")
    other.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database, whatever its name says" * 100)


def directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("prepare", "pattern"), [(garbage, "not a database"), (directory, "unable to open")], ids=["text", "directory"]
)
async def test_what_is_no_database_is_told(path: Path, prepare: object, pattern: str) -> None:
    """A file that is not a database, or a directory, is a StoreError with the path and a hint, and is left alone."""
    assert callable(prepare)
    prepare(path)
    store = SqliteStore(path)
    with pytest.raises(StoreError, match=pattern) as raised:
        await store.open()
    assert str(path) in str(raised.value)
    assert raised.value.hint
    await store.close(next_id=None)
    assert path.is_dir() or path.read_bytes().startswith(b"this is not a database")


async def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    """A path whose directory does not exist is a StoreError with a hint."""
    store = SqliteStore(tmp_path / "missing" / "account.db")
    with pytest.raises(StoreError, match="unable to open") as raised:
        await store.open()
    assert "directory" in raised.value.hint
    await store.close(next_id=None)


async def test_modes_are_kept(path: Path) -> None:
    """`mode=rw` creates nothing, and `mode=ro` cannot serve."""
    store = SqliteStore(f"sqlite://{path}?mode=rw")
    with pytest.raises(StoreError, match="unable to open"):
        await store.open()
    await store.close(next_id=None)
    assert not path.exists()
    with pytest.raises(StoreError, match="reading only"):
        await SqliteStore(f"sqlite://{path}?mode=ro").open()


async def test_a_database_in_memory_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sqlite::memory:` works as a file does and is gone when it is closed."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    store = SqliteStore("sqlite::memory:")
    await store.open()
    await store.append([changed(1)])
    assert (await store.states([KEY_A]))[KEY_A].id == 1
    await store.close(next_id=2)
    assert list(tmp_path.iterdir()) == []


async def test_a_bug_reaches_its_caller(store: SqliteStore) -> None:
    """An exception that is no database's goes to who called, and the writer lives on."""
    with pytest.raises(AttributeError):
        await store.append([None])  # type: ignore[list-item]
    assert await store.append([changed(1)]) == []
