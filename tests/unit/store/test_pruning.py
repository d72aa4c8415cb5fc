"""Which rows go, which accounts have history, and the space that comes back."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.backends import changed

from account_socket.store.connection import connect_writer
from account_socket.store.pruning import MAX_ROWS, SpaceReturn, delete_rows, select_accounts, select_excess
from account_socket.store.schema import prepare
from account_socket.store.writer import Writer

ROW_BYTES = 4_000


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("pruning") / "account.db"
    with closing(connect_writer(path, create=True)) as connection:
        prepare(connection, path)
        yield connection


def fill(connection: sqlite3.Connection, pubkeys: list[str]) -> None:
    """Have exactly one row for each of `pubkeys`, in their order, from id 1 on."""
    connection.execute("DELETE FROM account_updates")
    if pubkeys:
        updates = [changed(number, pubkey) for number, pubkey in enumerate(pubkeys, 1)]
        Writer().append(connection, updates, history=True)


@settings(deadline=None, max_examples=60)
@given(
    history=st.lists(st.sampled_from("abcde"), max_size=60),
    asked=st.sets(st.sampled_from("abcdef")),
    keep=st.integers(1, 12),
    limit=st.integers(1, 70),
)
def test_what_goes_is_not_among_the_newest(
    connection: sqlite3.Connection, history: list[str], asked: set[str], keep: int, limit: int
) -> None:
    """Exactly the rows beyond the newest ones of the accounts asked for are found, as many as asked for."""
    fill(connection, history)
    rows = list(enumerate(history, 1))
    newer = Counter[str]()
    excess = set()
    for number, pubkey in reversed(rows):
        newer[pubkey] += 1
        if pubkey in asked and newer[pubkey] > keep:
            excess.add(number)
    found = select_excess(connection, sorted(asked), keep, limit)
    assert len(found) == len(set(found)) == min(limit, len(excess))
    assert set(found) <= excess
    for start in range(0, len(found), MAX_ROWS):
        delete_rows(connection, found[start : start + MAX_ROWS])
    left = [number for (number,) in connection.execute("SELECT id FROM account_updates ORDER BY id")]
    assert left == [number for number, _ in rows if number not in found]


@settings(deadline=None, max_examples=60)
@given(history=st.lists(st.text(st.characters(codec="ascii"), min_size=1, max_size=3)), limit=st.integers(1, 5))
def test_accounts_come_in_pages(connection: sqlite3.Connection, history: list[str], limit: int) -> None:
    """Page after page every account with history comes once, sorted."""
    fill(connection, history)
    pages, after = [], ""
    while page := select_accounts(connection, after, limit):
        assert len(page) <= limit
        pages += page
        after = page[-1]
    assert pages == sorted(set(history))


def test_no_account_needs_a_scan_of_the_table(connection: sqlite3.Connection) -> None:
    """What finds rows to delete searches the index by account; it never scans the table."""
    from account_socket.store import pruning

    for sql in (pruning._EXCESS, pruning._ACCOUNTS):
        values = {"pubkeys": "[]", "keep": 1, "limit": 1, "after": ""}
        plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, values)]
        assert any("SEARCH" in step and "account_updates_pubkey" in step for step in plan)
        assert not [step for step in plan if "SCAN" in step and ("account_updates" in step or "history" in step)]


def test_free_pages_go_back_to_the_disk(tmp_path: Path) -> None:
    """A new database shrinks step by step, to less than what it holds and a little more, and stays sound."""
    path = tmp_path / "account.db"
    with closing(connect_writer(path, create=True)) as connection:
        prepare(connection, path)
        big = b'"%s"' % (b"x" * ROW_BYTES)
        Writer().append(connection, [changed(number, data_json=big) for number in range(1, 501)], history=True)
        connection.execute("DELETE FROM account_updates WHERE id % 10 > 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        before = path.stat().st_size
        step, given = SpaceReturn(), []
        while bytes_given := step(connection):
            given.append(bytes_given)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert len(given) > 3
        assert sum(given) == before - path.stat().st_size > 400 * ROW_BYTES
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM account_updates").fetchone() == (50,)


def test_a_database_that_cannot_shrink_gives_nothing_back(tmp_path: Path) -> None:
    """Of a database that was made without it no step gives anything back, and none fails."""
    path = tmp_path / "account.db"
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE other (x)")
    with closing(connect_writer(path, create=True)) as connection:
        prepare(connection, path)
        fill(connection, ["a"] * 500)
        connection.execute("DELETE FROM account_updates")
        assert connection.execute("PRAGMA freelist_count").fetchone()[0] > 10
        assert SpaceReturn()(connection) == 0
