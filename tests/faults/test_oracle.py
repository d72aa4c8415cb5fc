"""The oracle finds each thing that it is there for, and nothing where all is well."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest
from tests.faults.oracle import Account, Hole, Oracle, Update, check_holes, check_stored, content_of
from tests.samples import KEY_A, KEY_B, PROGRAM, raw


def update(id: int | None, slot: int, lamports: int = 1, *, prev_id: int | None = None, event: str = "") -> Update:
    """Return an open account's state as a client gets it."""
    data_json = msgspec.Raw(content_of(raw())[3])
    account = Account(id, KEY_A, slot, "Unknown", PROGRAM, lamports, data_json, "2026-01-01T00:00:00Z", prev_id)
    return Update(KEY_A, "realtime", account, event)


def verdict(*updates: Update | None, conflates: bool = False) -> list[str]:
    """Return what is wrong with these updates in this order; None: a new connection."""
    oracle = Oracle("client", serials=True, conflates=conflates)
    for each in updates:
        if each is None:
            oracle.connected()
        else:
            oracle.take(each)
    return oracle.wrong


def test_what_may_be() -> None:
    """Growing ids and slots, each naming the one before, are right; so is the last one again on a new connection."""
    first, second, third = update(1, 10), update(5, 11, 2, prev_id=1), update(9, 11, 3, prev_id=5)
    assert verdict(first, second, third, None, third, None, update(12, 14, 4, prev_id=11)) == []


def test_what_is_sent_without_an_id_explains_a_hole() -> None:
    """Neither the update without an id nor the one that names it leaves a hole."""
    assert verdict(update(1, 10), update(None, 11, 2, prev_id=1), update(7, 12, 3, prev_id=6)) == []


def test_a_retracted_state_may_be_older() -> None:
    """Its slot and its writes go back, its id does not."""
    assert verdict(update(1, 10, 5), update(2, 9, 4, prev_id=1, event="retracted")) == []
    assert verdict(update(3, 10, 5), update(2, 9, 4, prev_id=3, event="retracted")) != []


def test_who_was_not_there_when_a_state_was_retracted_finds_the_older_one() -> None:
    """On a new connection, under a higher id; not on the same one, and not where there are no forks."""
    for forks, reconnects, right in [(True, True, True), (True, False, False), (False, True, False)]:
        oracle = Oracle("client", serials=False, conflates=False, forks=forks)
        oracle.take(update(1, 10))
        if reconnects:
            oracle.connected()
        oracle.take(update(2, 9, 2, prev_id=1))
        assert (oracle.wrong == []) is right


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ([update(2, 10), update(1, 11, 2, prev_id=2)], "the id is 1 after 2"),
        ([update(2, 10), update(2, 11, 2, prev_id=2)], "the id is 2 after 2"),
        ([update(2, 10), None, update(1, 11, 2)], "the id is 1 after 2"),
        ([update(1, 10), update(2, 9, 2, prev_id=1)], "went back from slot 10"),
        ([update(1, 10, 8), update(2, 11, 7, prev_id=1)], "went back from write 8"),
        ([update(1, 10), None, update(2, 9, 2, prev_id=1)], "went back from slot 10"),
        ([update(1, 10), update(2, 10, prev_id=1)], "came twice"),
        ([update(1, 10), update(None, 10, prev_id=1)], "came twice"),
        ([update(1, 10), update(3, 11, 2, prev_id=2)], "3 follows on 2, not on 1"),
        ([update(1, 10), update(3, 11, 2)], "3 follows on None, not on 1"),
    ],
)
def test_what_may_not_be(wrong: list[Update | None], word: str) -> None:
    """Each is found, in words."""
    (found,) = verdict(*wrong)
    assert word in found


def test_the_hole_of_a_slow_client_is_kept_for_the_database() -> None:
    """It is judged by what was stored."""
    oracle = Oracle("slow", serials=True, conflates=True)
    oracle.take(update(1, 10))
    oracle.take(update(3, 11, 2, prev_id=2))
    assert oracle.wrong == []
    assert oracle.holes == [Hole(KEY_A, 3, 2)]


def test_last_states_are_compared_whole() -> None:
    """Another number of lamports, other bytes, a close not heard of, an account not heard of: all differ."""
    oracle = Oracle("client", serials=True, conflates=False)
    oracle.take(update(1, 10))
    same = raw()
    assert oracle.differences({KEY_A: same}) == []
    for other in (msgspec.structs.replace(same, lamports=2), msgspec.structs.replace(same, data=b"two"), None):
        assert len(oracle.differences({KEY_A: other})) == 1
    assert len(oracle.differences({KEY_A: same, KEY_B: same})) == 1


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "account.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE account_updates (id INTEGER PRIMARY KEY, pubkey TEXT)")
    connection.executemany("INSERT INTO account_updates VALUES (?, ?)", [(1, KEY_A), (2, KEY_B), (4, KEY_A)])
    connection.execute(
        "CREATE TABLE account_state (pubkey TEXT, owner TEXT, lamports INTEGER, data_json TEXT, raw BLOB)"
    )
    state = raw()
    row = (KEY_A, state.owner, state.lamports, str(content_of(state)[3], "utf-8"), state.data)
    connection.execute("INSERT INTO account_state VALUES (?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()
    return path


def test_holes_are_held_against_the_history(database: Path) -> None:
    """An update must name the one of its account that was stored before it."""
    assert check_holes(database, [Hole(KEY_A, 4, 1), Hole(KEY_A, 1, None)]) == []
    assert len(check_holes(database, [Hole(KEY_A, 4, 2), Hole(KEY_A, 4, None)])) == 2


def test_stored_states_are_held_against_the_node(database: Path) -> None:
    """Other lamports, other bytes and an account that is not there are found."""
    same = raw()
    assert check_stored(database, {KEY_A: same}) == []
    for other in (msgspec.structs.replace(same, lamports=2), msgspec.structs.replace(same, data=b"two")):
        assert len(check_stored(database, {KEY_A: other})) == 1
    assert len(check_stored(database, {KEY_B: same})) == 1
