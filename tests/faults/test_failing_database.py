"""The database fails in every way it can; docs/operations.md names these tests."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from errno import EIO
from pathlib import Path

import pytest
from tests.faults.impatient_server import impatient_server
from tests.faults.libc_faults import HANG, LibcFaults
from tests.faults.observing import metrics, said, until_ready
from tests.faults.stage import Stage, stage
from tests.waiting import until

pytestmark = pytest.mark.fault


def ids(database: Path) -> list[int]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [number for (number,) in connection.execute("SELECT id FROM account_updates ORDER BY id")]


@asynccontextmanager
async def without_commits(acted: Stage) -> AsyncIterator[None]:
    """See, while the database is broken, that updates and states go on, and how it is told."""
    await acted.streams(ids=False)
    report = await until_ready(acted.server, lambda report: report["database"]["status"] == "degraded")
    assert report["status"] == "degraded"
    assert report["database"]["commits"] is False
    samples = await metrics(acted.server)
    assert samples["account_socket_degraded"] == 1
    assert samples["account_socket_commit_queue_queued"] > 0
    assert (await acted.learns_states()).keys() == set(acted.pubkeys)
    yield
    [line] = said(acted.server, "database cannot commit, updates go on without ids")
    assert line["level"] == "error"


async def commits_again(acted: Stage, database: Path) -> None:
    """See that commits go on by themselves, and that history has no hole."""
    await acted.streams()
    report = await until_ready(acted.server, lambda report: report["database"]["status"] == "ok")
    assert report["status"] == "ok"
    assert len(said(acted.server, "database commits again")) == 1
    assert (await metrics(acted.server))["account_socket_commit_queue_shed_total"] == 0
    assert await acted.server.stop() == 0
    stored = ids(database)
    assert stored == list(range(stored[0], stored[-1] + 1))
    seen = {number for number in acted.client.ids if number is not None}
    assert seen <= set(stored)


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Have another process hold the database for the block."""
    command = (sys.executable, "-c", HOLD, str(database))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.kill()


async def test_database_locked(tmp_path: Path) -> None:
    """While another process holds the database nothing but ids is missing, and all is stored when it lets go."""
    async with stage(tmp_path) as acted:
        with held(tmp_path / "account.db"):
            async with without_commits(acted):
                await until(lambda: said(acted.server, "commit failed"))
        [line] = said(acted.server, "commit failed")
        assert "locked" in line["error"]
        assert "another process" in line["hint"]
        await commits_again(acted, tmp_path / "account.db")


def fill(ballast: Path) -> None:
    """Take all the space there is."""
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 512):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


async def test_disk_full(tmp_path: Path, small_disk: Path) -> None:
    """Without any space nothing can be committed, and all is when there is space again."""
    env = {"DATABASE_URL": f"sqlite://{small_disk}/account.db", "DISK_RESERVE_MB": "0"}
    async with stage(tmp_path, env) as acted:
        ballast = small_disk / "ballast"
        fill(ballast)
        async with without_commits(acted):
            await until(lambda: said(acted.server, "commit failed"))
        [line] = said(acted.server, "commit failed")
        assert "full" in line["error"]
        assert line["hint"] == "free space on the disk"
        ballast.unlink()
        await commits_again(acted, small_disk / "account.db")


def enlarge(disk: Path) -> None:
    """Give a small disk room."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


async def test_disk_almost_full(tmp_path: Path, small_disk: Path) -> None:
    """Below DISK_RESERVE_MB history stops, and states go on with ids; it resumes when there is space."""
    env = {"DATABASE_URL": f"sqlite://{small_disk}/account.db", "DISK_RESERVE_MB": "9"}
    async with stage(tmp_path, env, status="degraded") as acted:
        report = await until_ready(acted.server, lambda report: report["database"]["status"] == "degraded")
        assert report["database"] | {"queued": 0} == {
            "status": "degraded",
            "commits": True,
            "history": False,
            "queued": 0,
        }
        assert (await metrics(acted.server))["account_socket_store_free_bytes"] < 9 * 2**20
        [line] = said(acted.server, "disk almost full, history stops, state goes on")
        assert line["level"] == "error"
        await acted.streams()
        before = ids(small_disk / "account.db")
        await acted.streams()
        assert ids(small_disk / "account.db") == before
        enlarge(small_disk)
        await until(lambda: said(acted.server, "history is written again"), seconds=15)
        await acted.streams()
        assert ids(small_disk / "account.db") > before


async def test_disk_hangs(tmp_path: Path, libc_faults: LibcFaults) -> None:
    """A disk that takes nothing and says nothing holds up commits and nothing else."""
    server = impatient_server(tmp_path, libc_faults.env)
    async with stage(tmp_path, server=server) as acted:
        libc_faults.fail_disk(HANG)
        async with without_commits(acted):
            pass
        assert said(acted.server, "commit failed") == []
        libc_faults.fail_disk(0)
        await commits_again(acted, tmp_path / "account.db")


async def test_disk_errors(tmp_path: Path, libc_faults: LibcFaults) -> None:
    """A disk that fails is told with what to look at, and tried again."""
    server = impatient_server(tmp_path, libc_faults.env)
    async with stage(tmp_path, server=server) as acted:
        libc_faults.fail_disk(EIO)
        async with without_commits(acted):
            pass
        line = said(acted.server, "commit failed")[0]
        assert "disk I/O error" in line["error"]
        assert "kernel's log" in line["hint"]
        libc_faults.fail_disk(0)
        await commits_again(acted, tmp_path / "account.db")


async def test_database_removed(tmp_path: Path) -> None:
    """
    When the file is gone no update gets an id that nobody could find; with the file back, commits go on.

    A restart without it begins a new database with a new epoch.
    """
    async with stage(tmp_path) as acted:
        database = tmp_path / "account.db"
        database.rename(tmp_path / "aside.db")
        async with without_commits(acted):
            pass
        [line] = said(acted.server, "commit failed")
        assert "was moved or deleted" in line["error"]
        assert "restart" in line["hint"]
        assert not database.exists()
        (tmp_path / "aside.db").rename(database)
        await commits_again(acted, database)
        database.unlink()
        await acted.server.start()
        before, after = said(acted.server, "server started")
        assert before["epoch"] != after["epoch"]


async def test_corrupted_page(tmp_path: Path) -> None:
    """Overwritten pages are told with what to do, updates go on without ids, and a restart refuses the file."""
    async with stage(tmp_path) as acted:
        acted.node.pause()
        with closing(sqlite3.connect(tmp_path / "account.db")) as other:
            await until(lambda: other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0))
            with (tmp_path / "account.db").open("r+b") as file:
                file.seek(4096)
                file.write(b"\xa5" * (os.fstat(file.fileno()).st_size - 4096))
            other.execute("PRAGMA user_version = 1")  # others wrote: what the server has in memory is void
        acted.node.resume()
        async with without_commits(acted):
            pass
        [line] = said(acted.server, "commit failed")
        assert "malformed" in line["error"]
        assert ".recover" in line["hint"]
        await acted.server.kill()
        with pytest.raises(AssertionError, match="exited 1"):
            await acted.server.start()


def unprivileged() -> tuple[str, ...]:
    """Return a command that runs another one without root's right to write anywhere."""
    if os.geteuid():
        return ()
    command = ("setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override")
    if subprocess.run((*command, "true"), capture_output=True, check=False).returncode:
        pytest.skip("root may write anywhere here, and may not give that up")
    return command


async def test_read_only_directory(tmp_path: Path) -> None:
    """A directory that becomes read-only disturbs no server that runs; the next one does not start, and says why."""
    directory = tmp_path / "closed"
    directory.mkdir()
    env = {"DATABASE_URL": f"sqlite://{directory}/account.db"}
    async with stage(tmp_path, env, server=impatient_server(tmp_path, through=unprivileged())) as acted:
        directory.chmod(0o555)
        for file in directory.iterdir():
            file.chmod(0o444)
        await acted.streams()
        assert (await acted.learns_states()).keys() == set(acted.pubkeys)
        assert await acted.server.stop() == 0
        since = acted.log_size()
        with pytest.raises(AssertionError, match="exited 1"):
            await acted.server.start()
        assert b"make its directory writable" in acted.server.stderr[since:]
