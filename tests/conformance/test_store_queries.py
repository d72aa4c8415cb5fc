"""What every store answers of history and states (store/base.py), on every backend."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conformance.backends import SqliteBackend
from tests.samples import KEY_A, KEY_B, update

from account_socket.model import AccountUpdate
from account_socket.store import queries
from account_socket.store.base import Selection, Store, StoredUpdate


@pytest.fixture(params=["sqlite"])
def backend(tmp_path: Path) -> SqliteBackend:
    return SqliteBackend(tmp_path)


@pytest.fixture
async def store(backend: SqliteBackend) -> AsyncIterator[Store]:
    store = backend.store()
    await store.open()
    yield store
    await store.close(next_id=None)


def chain(*slots: int, pubkey: str = KEY_A, start: int = 1) -> list[AccountUpdate]:
    """Return updates of one account, an id each from `start` on, each with the slot given."""
    return [
        update(id_, pubkey, slot=slot, prev_id=id_ - 1 if id_ > start else None)
        for id_, slot in enumerate(slots, start)
    ]


def told(stored: AccountUpdate) -> StoredUpdate:
    return StoredUpdate(stored.id, stored.prev_id, stored.pubkey, stored.slot, stored.account_json)


async def test_history_comes_in_pages_newest_first(store: Store) -> None:
    """Pages of history follow each other by id without hole or repeat, byte for byte as published."""
    updates = chain(*range(10, 17))
    await store.append([*updates, update(50, KEY_B)])
    assert await store.history(KEY_A, before=2**63 - 1, limit=3) == ([told(each) for each in updates[:3:-1]], True)
    assert await store.history(KEY_A, before=5, limit=4) == ([told(each) for each in updates[3::-1]], False)
    assert await store.history(KEY_A, before=1, limit=4) == ([], False)
    assert await store.history("nobody", before=9, limit=4) == ([], False)


async def test_a_large_page_ends_early(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page has at least one row, and ends where it has grown large."""
    await store.append(chain(1, 2, 3, 4))
    monkeypatch.setattr(queries, "MAX_PAGE_BYTES", 300)
    first, more = await store.history(KEY_A, before=9, limit=100)
    assert [each.id for each in first] == [4, 3]
    assert more


async def test_adopted_rows_are_no_history(store: Store, backend: SqliteBackend) -> None:
    """Rows that were there before this program are told neither as history nor as a past state."""
    with sqlite3.connect(backend.path) as connection:
        connection.execute(
            "INSERT INTO account_updates (id, pubkey, slot, account_type, owner, lamports, data_json, created_at)"
            " VALUES (1, ?, 5, 'Pool', 'x', 1, '{}', '2025-01-01')",
            (KEY_A,),
        )
    connection.close()
    own = update(2, slot=9)
    await store.append([own])
    assert await store.history(KEY_A, before=99, limit=1) == ([told(own)], False)
    assert await store.state_at(KEY_A, 7) is None
    assert await store.later({KEY_A: 1}, limit=9) == [2]
    assert await store.updates([1, 2]) == [told(own)]


async def test_the_state_at_a_slot(store: Store) -> None:
    """The state at a slot is the update of the highest id that is not later, and none before the first."""
    updates = chain(10, 10, 12, 20)
    await store.append(updates)
    found = {slot: await store.state_at(KEY_A, slot) for slot in (9, 10, 11, 12, 19, 20, 99)}
    ids = {slot: state and state.id for slot, state in found.items()}
    assert ids == {9: None, 10: 2, 11: 2, 12: 3, 19: 3, 20: 4, 99: 4}
    assert found[11] == told(updates[1])


async def test_a_hole_in_history_is_no_state(store: Store) -> None:
    """Where updates are missing from history, what was before them is not told as the state of a later slot."""
    updates = chain(10, 20, 30, 40)
    await store.append(updates[:1])
    await store.append(updates[1:2], history=False)
    await store.append(updates[2:3])
    await store.append(updates[3:], history=False)
    ids = [getattr(await store.state_at(KEY_A, slot), "id", None) for slot in (10, 19, 25, 30, 39, 40)]
    assert ids == [None, None, None, 3, 3, 4]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 400), st.booleans()), min_size=1, max_size=30))
async def test_any_past_slot(store: Store, steps: list[tuple[int, bool]]) -> None:
    """With slots that forks take back, each slot has the state that looking at every row finds."""
    start = next(_STARTS)
    pubkey, slots = f"key-{start}", [1000]
    for step, dies in steps:
        slots.append(slots[-1] - step % (queries.MAX_FORK_SLOTS // 30) if dies else slots[-1] + step)
    await store.append(chain(*slots, pubkey=pubkey, start=start))
    for slot in {slots[0] - 1, *slots, *(each + 1 for each in slots[::5])}:
        expected = max((id_ for id_, each in enumerate(slots, start) if each <= slot), default=None)
        assert getattr(await store.state_at(pubkey, slot), "id", None) == expected


_STARTS = count(1, 100)


def typed(id_: int, data: object, account_type: str = "Pool", owner: str = "p") -> AccountUpdate:
    base = update(id_, f"key-{id_:05}", data_json=json.dumps(data).encode())
    return msgspec.structs.replace(base, account_type=account_type, owner=owner)


async def find(store: Store, limit: int = 100, **selection: object) -> list[str]:
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await store.find(Selection(**selection), after=after, limit=limit)  # type: ignore[arg-type]
        found += [state.pubkey for state in page.states]
        after = page.next
    return found


async def test_states_are_found_by_their_fields(store: Store) -> None:
    """Type, owner and fields each narrow what is found; several are AND."""
    await store.append([
        typed(1, {"a": {"b": [1, {"c": "7"}]}, "on": True, "none": None}),
        typed(2, {"a": {"b": [1, {"c": "8"}]}, "on": False}, owner="q"),
        typed(3, {"a": {"b": ["1"]}, "on": "true"}, account_type="Position"),
        typed(4, None),
    ])  # fmt: skip
    a_b_0, a_b_1_c = ("a", "b", "0"), ("a", "b", "1", "c")
    assert await find(store) == ["key-00001", "key-00002", "key-00003", "key-00004"]
    assert await find(store, account_type="Position") == ["key-00003"]
    assert await find(store, owner="q") == ["key-00002"]
    assert await find(store, where=((a_b_0, "1"),)) == ["key-00001", "key-00002", "key-00003"]
    assert await find(store, where=((a_b_0, "1"), (a_b_1_c, "7"))) == ["key-00001"]
    assert await find(store, where=((("on",), "true"),)) == ["key-00001", "key-00003"]
    assert await find(store, where=((("none",), "null"),)) == ["key-00001"]
    assert await find(store, where=((("a",), '{"b":["1"]}'),)) == []


async def test_whoever_changes_its_type_is_found_by_the_new_one(store: Store) -> None:
    """In a group where some accounts change their type and others do not, each state has all its new values."""
    await store.append([typed(id_, {"n": 0}) for id_ in range(1, 6)])
    again = [
        msgspec.structs.replace(update(10 + id_, f"key-{id_:05}", data_json=b'{"n":1}'), account_type=type_)
        for id_, type_ in enumerate(("Pool", "Unknown", "Pool", "Position", "Pool"), 1)
    ]
    await store.append(again)
    await store.append(again)
    assert await find(store, account_type="Pool") == ["key-00001", "key-00003", "key-00005"]
    assert await find(store, account_type="Unknown") == ["key-00002"]
    assert await find(store, where=((("n",), "1"),)) == [f"key-{id_:05}" for id_ in range(1, 6)]
    await store.append([typed(1, {"n": 2}, account_type="Position")])  # older than what is stored
    assert await find(store, account_type="Position") == ["key-00004"]


async def test_states_of_a_rare_type_are_found_among_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of one type's states looks at no account of another type."""
    monkeypatch.setattr(queries, "MAX_SCANNED", 4)
    await store.append([typed(id_, {}, account_type="Config" if id_ % 30 == 0 else "Pool") for id_ in range(1, 100)])
    found = await store.find(Selection(account_type="Config"), after="", limit=100)
    assert [state.pubkey for state in found.states] == ["key-00030", "key-00060", "key-00090"]
    assert found.next is None


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_a_scan_is_bounded_and_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """However few states fit, one page looks at a bounded number, and the pages together find each one once."""
    monkeypatch.setattr(queries, "MAX_SCANNED", 4)
    await store.append([typed(id_, {"n": id_ % 9}) for id_ in range(1, 31)])
    assert await find(store, limit, where=((("n",), "0"),)) == ["key-00009", "key-00018", "key-00027"]
    assert len(await find(store, limit)) == 30


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_text_is_found(store: Store, text: str) -> None:
    """A string is found by its own text, whatever is in it."""
    await store.append([typed(abs(hash(text)) + 1, {"s": text, "t": [text]}, owner=text)])
    assert await find(store, owner=text, where=((("s",), text), (("t", "0"), text)))


async def test_later_updates(store: Store) -> None:
    """What came after an id is found for several accounts at once, and read by id."""
    updates = [*chain(1, 2, 3), *chain(4, 5, pubkey=KEY_B, start=4), update(6, "third")]
    await store.append(updates)
    assert await store.later({KEY_A: 2, KEY_B: 2}, limit=10) == [3, 4, 5]
    assert await store.later({KEY_A: 1, KEY_B: 4}, limit=10) == [2, 3, 5]
    assert len(await store.later({KEY_A: 0, KEY_B: 0}, limit=3)) == 3
    assert await store.later({}, limit=3) == []
    assert await store.updates([5, 3, 77]) == [told(updates[2]), told(updates[4])]


async def test_accounts_with_much_that_is_later(store: Store) -> None:
    """Of several accounts, those with more later updates than a number are found."""
    await store.append([*chain(1, 2, 3), *chain(4, 5, pubkey=KEY_B, start=4)])
    assert await store.crowded({KEY_A: 0, KEY_B: 0, "third": 0}, limit=2) == [KEY_A]
    assert sorted(await store.crowded({KEY_A: 1, KEY_B: 0}, limit=1)) == sorted([KEY_A, KEY_B])
    assert await store.crowded({KEY_A: 3, KEY_B: 5}, limit=0) == []
