"""A database that the first server made is adopted: its rows stay as history and are never served as state."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
from tests.conformance.backends import changed
from tests.samples import KEY_A

from account_socket.errors import StoreError
from account_socket.store.base import ID_BLOCK
from account_socket.store.sqlite import SqliteStore

SEED = (Path(__file__).parents[1] / "data" / "seed_account.sql").read_text()
CREATED_AT = re.compile(r"'2024-09-30 12:00:\d\d'\)")


def make(path: Path, script: str = SEED) -> None:
    """Run `script` on a new database."""
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Ask the database without our code."""
    connection = sqlite3.connect(path)
    rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


def schema(path: Path) -> list[tuple[object, ...]]:
    """Return every table and index as SQLite keeps it."""
    return query(path, "SELECT type, name, sql FROM sqlite_master ORDER BY name")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "account.db"


async def test_rows_stay_and_ids_go_on(path: Path) -> None:
    """The old rows keep their content with format 0, ours have format 1, and ids go on above any that was used."""
    make(path)
    before = query(path, "SELECT id, pubkey, slot, account_type, data_json, created_at FROM account_updates")
    store = SqliteStore(path)
    identity = await store.open()
    assert identity.next_id == 4  # 3 was used and deleted
    assert identity.genesis_hash is None
    assert identity.last_created_at == "2024-09-30T12:00:01.000000Z"
    await store.append([changed(4)])
    await store.close(next_id=5)
    after = query(path, "SELECT id, pubkey, slot, account_type, data_json, created_at FROM account_updates")
    assert after[:2] == before
    assert query(path, "SELECT id, format, prev_id FROM account_updates") == [(1, 0, None), (2, 0, None), (4, 1, None)]
    assert query(path, "SELECT version, success FROM _sqlx_migrations") == [(20240930000000, 1)]


async def test_old_rows_are_never_state(path: Path) -> None:
    """What the old rows say of an account is not served: their format is another."""
    make(path)
    store = SqliteStore(path)
    await store.open()
    assert await store.states([KEY_A]) == {}
    assert [page async for page in store.marks()] == []
    await store.append([changed(4)])
    assert (await store.states([KEY_A]))[KEY_A].id == 4
    await store.close(next_id=5)


async def test_adoption_happens_once(path: Path) -> None:
    """A second start finds the same epoch and ids."""
    make(path)
    identities = []
    for _ in range(2):
        store = SqliteStore(path)
        identities.append(await store.open())
        await store.close(next_id=identities[-1].next_id)
    assert identities[0] == identities[1]


async def test_the_published_queries_work(path: Path) -> None:
    """The SQL that the first server's README shows answers with old and new rows."""
    make(path)
    store = SqliteStore(path)
    await store.open()
    await store.append([changed(4, slot=380000000)])
    await store.close(next_id=5)
    newest = query(path, "SELECT * FROM account_updates ORDER BY created_at DESC LIMIT 10")
    assert [row[0] for row in newest] == [4, 2, 1]
    of_one = query(path, f"SELECT * FROM account_updates WHERE pubkey = '{KEY_A}' ORDER BY slot DESC")
    assert [row[0] for row in of_one] == [4, 2, 1]
    plan = query(path, "EXPLAIN QUERY PLAN SELECT * FROM account_updates WHERE pubkey = 'test'")
    assert "USING INDEX" in str(plan[0][-1])
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE INDEX IF NOT EXISTS idx_created_at ON account_updates(created_at DESC);"
        "CREATE INDEX IF NOT EXISTS idx_lamports ON account_updates(lamports);"
    )
    connection.close()


async def test_indexes_that_serve_no_query_go(path: Path) -> None:
    """The indexes on slot and on account_type go; the one on pubkey is used as it is; a user's own stay."""
    make(path, SEED + "CREATE INDEX mine ON account_updates(slot, pubkey);")
    store = SqliteStore(path)
    await store.open()
    await store.close(next_id=None)
    names = {row[0] for row in query(path, "SELECT name FROM sqlite_master WHERE tbl_name = 'account_updates'")}
    assert names == {"account_updates", "idx_account_updates_pubkey", "idx_created_at", "mine"}


VARIATIONS = {
    "no indexes": re.sub(r"CREATE INDEX.*\n", "", SEED),
    "other types": SEED.replace("TEXT NOT", "VARCHAR(255) NOT").replace("INTEGER NOT", "BIGINT NOT"),
    "no autoincrement": SEED.replace(" AUTOINCREMENT", ""),
    "empty": SEED + "DELETE FROM account_updates;",
    "null times": CREATED_AT.sub("NULL)", SEED),
    "RFC 3339 times": CREATED_AT.sub("'2024-09-30T12:00:00.123456789+00:00')", SEED),
    "unix times": CREATED_AT.sub("1727697600)", SEED),
    "nonsense times": CREATED_AT.sub("'soon')", SEED),
    "future times": CREATED_AT.sub("'2999-01-01 00:00:00')", SEED),
    "null columns": SEED.replace("data_json TEXT NOT NULL", "data_json TEXT, note TEXT"),
    "not null with a default": SEED.replace("created_at", "n INT NOT NULL DEFAULT 1, created_at", 1),
    "no sqlx table": SEED[SEED.index("CREATE TABLE account_updates") :],
    "quoted": SEED.replace("CREATE TABLE account_updates", 'CREATE TABLE "account_updates"'),
    "wal": "PRAGMA journal_mode = WAL;" + SEED,
}  # fmt: skip


@pytest.mark.parametrize("script", VARIATIONS.values(), ids=VARIATIONS.keys())
async def test_variations_are_adopted(path: Path, script: str) -> None:
    """However such a table was made, it is adopted, appended to and pruned."""
    make(path, script)
    old = [row[0] for row in query(path, "SELECT id FROM account_updates ORDER BY id")]
    store = SqliteStore(path)
    identity = await store.open()
    assert identity.next_id > max([0, *map(int, old)])
    assert identity.last_created_at < "2998"
    first = identity.next_id
    assert await store.append([changed(first), changed(first + 1, KEY_A)]) == []
    assert [row[0] for row in query(path, "SELECT id FROM account_updates ORDER BY id")] == [*old, first, first + 1]
    assert await store.prune(before="2025-09-30T00:00:00.000000Z", limit=100) in (0, len(old))
    assert await store.prune(before="2999-09-30T00:00:00.000000Z", limit=100) > 0
    assert query(path, "SELECT count(*) FROM account_updates") == [(0,)]
    await store.close(next_id=None)


@pytest.mark.parametrize("times", ["NULL)", "'soon')", "'2999-01-01 00:00:00')"])
async def test_rows_without_a_credible_time_are_as_old_as_their_adoption(path: Path, times: str) -> None:
    """Rows whose time cannot be right stay for the days of retention after adoption, then go."""
    make(path, CREATED_AT.sub(times, SEED))
    store = SqliteStore(path)
    await store.open()
    ((adopted_at,),) = query(path, "SELECT value FROM meta WHERE key = 'adopted_at'")
    assert await store.prune(before=str(adopted_at), limit=100) == 0
    assert await store.prune(before=str(adopted_at) + "Z", limit=100) == 2
    await store.close(next_id=None)


async def test_old_rows_go_by_their_own_time(path: Path) -> None:
    """Rows in the old form of time are pruned by it."""
    make(path)
    store = SqliteStore(path)
    await store.open()
    await store.append([changed(4)])
    assert await store.prune(before="2024-09-30T12:00:00.500000Z", limit=100) == 1
    assert await store.prune(before="2025-01-01T00:00:00.000000Z", limit=100) == 1
    assert query(path, "SELECT id FROM account_updates ORDER BY id") == [(4,)]
    await store.close(next_id=None)


FOREIGN = {
    "another table": "CREATE TABLE account_updates (id INTEGER PRIMARY KEY, name TEXT);",
    "a view": "CREATE VIEW account_updates AS SELECT 1 AS id;",
    "no key": SEED.replace("id INTEGER PRIMARY KEY AUTOINCREMENT", "id INTEGER"),
    "another key": SEED.replace("id INTEGER PRIMARY KEY AUTOINCREMENT", "id INTEGER").replace(
        "pubkey TEXT NOT NULL,", "pubkey TEXT NOT NULL, n INTEGER PRIMARY KEY,"
    ),
    "a column more": SEED.replace("data_json TEXT NOT NULL", "data_json TEXT NOT NULL, n INT NOT NULL").replace(
        re.search(r"INSERT INTO account_updates.*?;", SEED, re.DOTALL)[0], ""
    ),
    "one row an account": SEED.replace("WHERE id = 3", "WHERE id = 1")
    + "CREATE UNIQUE INDEX one ON account_updates(pubkey);",
    "a check": SEED.replace("slot INTEGER NOT NULL", "slot INTEGER NOT NULL CHECK (slot > 100)"),
    "a trigger": SEED
    + "CREATE TRIGGER no BEFORE INSERT ON account_updates BEGIN SELECT RAISE(ABORT, 'no'); END;",
    "our column": SEED.replace("created_at DATETIME", "prev_id TEXT, created_at DATETIME"),
    "our table": SEED + "CREATE TABLE meta (a, b);",
}  # fmt: skip


@pytest.mark.parametrize("script", FOREIGN.values(), ids=FOREIGN.keys())
async def test_what_does_not_fit_is_left_alone(path: Path, script: str) -> None:
    """A table of our name that cannot take our rows is a StoreError with a hint, and nothing of it is changed."""
    make(path, script)
    before = schema(path)
    store = SqliteStore(path)
    with pytest.raises(StoreError, match=r"account_updates|meta") as raised:
        await store.open()
    assert raised.value.hint
    assert not raised.value.retryable
    await store.close(next_id=None)
    assert schema(path) == before


async def test_an_unclean_end_skips_a_block_above_the_old_ids(path: Path) -> None:
    """Blocks of ids begin above the old rows."""
    make(path, SEED + "UPDATE sqlite_sequence SET seq = 5000;")
    store = SqliteStore(path)
    assert (await store.open()).next_id == 5001
    await store.append([changed(5001)])
    await store.close(next_id=None)
    store = SqliteStore(path)
    assert (await store.open()).next_id >= 5001 + ID_BLOCK
    await store.close(next_id=None)


async def test_nothing_goes_on_from_old_rows(path: Path) -> None:
    """Behind the id of an old row history is not whole; behind the last of them it is."""
    make(path)
    store = SqliteStore(path)
    first = (await store.open()).next_id
    await store.append([changed(first, prev_id=None)])
    assert await store.between(1, first, limit=9) is None
    assert [each.id for each in await store.between(2, first, limit=9) or []] == [first]
    await store.close(next_id=None)
