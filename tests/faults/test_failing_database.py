"""The database fails in every way it can; docs/operations.md names these tests."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from errno import ENOSPC
from pathlib import Path

import pytest
from tests.faults.impatient_server import impatient_server
from tests.faults.libc_faults import HANG, LibcFaults, libc_faults, libc_library  # noqa: F401
from tests.faults.observing import metrics, said, until_ready
from tests.faults.stage import Stage, stage

pytestmark = pytest.mark.fault
pytest_plugins: tuple[str, ...] = ()

NOTHING = lambda: None  # noqa: E731


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


async def test_database_locked(tmp_path: Path) -> None:
    """While another process holds the database nothing but ids is missing, and all is stored when it lets go."""
    async with stage(tmp_path) as acted:
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / "account.db"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            async with without_commits(acted):
                pass
            holder.kill()
        assert "locked" in said(acted.server, "commit failed")[0]["error"]
        await commits_again(acted, tmp_path / "account.db")




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
