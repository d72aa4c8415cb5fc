"""`db stats` and `db prune` as people type them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.commands import Ended, run
from tests.conformance.backends import changed
from tests.samples import KEY_A, KEY_B

from account_socket.store.sqlite import SqliteStore

NEW = "2999-01-01T00:00:00.000000Z"
OLD = "2020-01-01T00:00:00.000000Z"


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """A working directory with a database that a server has open: 30 old rows, 5 new ones of each of two accounts."""
    store = SqliteStore(tmp_path / "account.db")
    await store.open()
    await store.bind("genesis")
    await store.append([changed(number, created_at=OLD) for number in range(1, 31)])
    await store.append([changed(number, (KEY_A, KEY_B)[number % 2], created_at=NEW) for number in range(31, 41)])
    yield tmp_path
    await store.close(next_id=None)


async def stats(folder: Path) -> dict[str, object]:
    ended = await run("db", "stats", "--json", cwd=folder)
    assert (ended.code, ended.err) == (0, "")
    told: dict[str, object] = json.loads(ended.out)
    return told


async def test_stats(folder: Path) -> None:
    """`db stats` tells people and programs the same of the database that DATABASE_URL or the flag names."""
    text, told = await asyncio.gather(
        run("db", "stats", "--exact", "--database-url", "sqlite:account.db", cwd=folder), stats(folder)
    )
    assert (told["rows"], told["accounts"], told["genesis_hash"]) == (40, 2, "genesis")
    assert told["types"] == {"Pool": {"open": 2, "closed": 0}}
    assert (told["oldest"], told["newest"]) == (OLD, NEW)
    for line in (
        r"history +40 rows",
        r"accounts +2",
        r"  Pool +2",
        r"cluster +genesis hash genesis",
        r"  oldest +2020",
    ):
        assert re.search(f"^{line}", text.out, re.MULTILINE), text.out


async def test_stats_keep_long_types_apart_from_their_counts(tmp_path: Path) -> None:
    """However long the name of a type is, its count stands apart, and all values begin in one column."""
    store = SqliteStore(tmp_path / "account.db")
    await store.open()
    await store.append([changed(1), changed(2, KEY_B, account_type="ClaimFeeOperator2")])
    await store.close(next_id=None)
    ended = await run("db", "stats", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "\n  ClaimFeeOperator2  1\n" in ended.out
    assert "\n  Pool               1\n" in ended.out


async def test_prune(folder: Path) -> None:
    """A dry run says what would go; then it goes, beside a server, and its space goes back to the disk."""
    dry = await run("db", "prune", "--days", "7", "--rows-per-account", "2", "--dry-run", cwd=folder)
    assert dry == Ended(0, "would delete 36 rows of history\n", "")
    assert (await stats(folder))["rows"] == 40
    ended = await run("db", "prune", "--days", "7", "--rows-per-account", "2", "--vacuum", cwd=folder)
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"deleted 36 rows of history\ngave [\d.]+ MB back to the disk\n", ended.out)
    told = await stats(folder)
    assert (told["rows"], told["accounts"], told["free_bytes"]) == (4, 2, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["prune"], 2, "--days"),
        (["prune", "--rows-per-account", "0"], 2, "--rows-per-account"),
        (["stats", "--database-url", "postgresql://u:pw@host/d"], 2, "not available in this version"),
        (["stats", "--database-url", "sqlite::memory:"], 2, "in memory"),
        (["prune", "--days", "1"], 1, "there is no database"),
    ],
)
async def test_wrong_usage(tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    """Wrong usage exits 2, a missing database 1; each says what is wrong, and nothing is created."""
    ended = await run("db", *arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (code, "")
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert "pw" not in ended.err
    assert not list(tmp_path.iterdir())
