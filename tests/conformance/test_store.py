"""What every store promises (store/base.py), on every backend."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.backends import SqliteBackend, changed, state_of
from tests.samples import KEY_A, KEY_B, update

from account_socket.errors import StoreError, WrongClusterError
from account_socket.model import AccountUpdate, Mark
from account_socket.store.base import ID_BLOCK, Identity, Store

Open = Callable[[], Awaitable[tuple[Store, Identity]]]


@pytest.fixture(params=["sqlite"])
def backend(tmp_path: Path) -> SqliteBackend:
    return SqliteBackend(tmp_path)


@pytest.fixture
async def open_store(backend: SqliteBackend) -> AsyncIterator[Open]:
    opened: list[Store] = []

    async def open_one() -> tuple[Store, Identity]:
        store = backend.store()
        opened.append(store)
        return store, await store.open()

    yield open_one
    for store in opened:
        await store.close(next_id=None)


@pytest.fixture
async def store(open_store: Open) -> Store:
    return (await open_store())[0]


async def all_marks(store: Store) -> dict[str, Mark]:
    marks: dict[str, Mark] = {}
    async for page in store.marks():
        assert page
        assert not marks.keys() & {pubkey for pubkey, _ in page}
        marks.update(page)
    return marks


async def test_a_new_database_is_empty(open_store: Open) -> None:
    """A new database belongs to no cluster, holds nothing, and its first id is 1."""
    store, identity = await open_store()
    assert identity.genesis_hash is None
    assert identity.next_id == 1
    assert identity.last_created_at == ""
    assert not identity.has_states
    assert len(identity.epoch) >= 10
    assert await all_marks(store) == {}
    assert await store.states([KEY_A]) == {}


async def test_the_epoch_stays_with_the_database(open_store: Open, tmp_path: Path) -> None:
    """The epoch is the same after a restart, and another for another database."""
    store, first = await open_store()
    await store.close(next_id=1)
    _, second = await open_store()
    (tmp_path / "other").mkdir()
    other = SqliteBackend(tmp_path / "other").store()
    third = await other.open()
    await other.close(next_id=None)
    assert first.epoch == second.epoch != third.epoch


async def test_the_state_is_the_account_object_that_was_published(store: Store) -> None:
    """The state read back is, byte for byte, the account object of the account's newest update."""
    updates = [update(1, slot=7), update(2, KEY_B, data_json=b'{"a":"\xc3\xa9"}'), update(3, slot=8, prev_id=1)]
    assert await store.append(updates) == []
    assert await store.states([KEY_A, KEY_B, "unknown"]) == {
        KEY_A: state_of(updates[2]),
        KEY_B: state_of(updates[1]),
    }


async def test_a_closed_account_stays_closed(store: Store) -> None:
    """A closed account is a state as any other: null data, and `closed` said."""
    closed = changed(1, closed=True, data_json=b"null", data=b"", lamports=0, account_type="Pool")
    await store.append([closed])
    account = json.loads((await store.states([KEY_A]))[KEY_A].account_json)
    assert account["data_json"] is None
    assert account["closed"] is True


async def test_a_signature_is_kept_and_none_is_null(store: Store, backend: SqliteBackend) -> None:
    """The transaction of a state is stored with it and told with it; without one nothing is told."""
    signed = changed(1, signature="5Sig")
    await store.append([signed, changed(2, KEY_B)])
    states = await store.states([KEY_A, KEY_B])
    assert json.loads(states[KEY_A].account_json)["signature"] == "5Sig"
    assert "signature" not in json.loads(states[KEY_B].account_json)
    assert backend.signatures() == [(1, "5Sig"), (2, None)]


async def test_marks_hold_what_ordering_needs(store: Store) -> None:
    """A mark has the id, slot, write version, content hash and type of the account's newest update."""
    await store.append([changed(1), changed(2, write_version=5, content_hash=b"c" * 16), changed(3, KEY_B)])
    marks = {KEY_A: Mark(2, 2, 5, b"c" * 16, "Pool"), KEY_B: Mark(3, 3, 0, b"h" * 16, "Pool")}
    assert await all_marks(store) == marks
    assert await store.marks_of([KEY_B, KEY_A, "nobody"]) == marks


async def test_marks_come_in_pages(store: Store) -> None:
    """Every account has exactly one mark, however many there are."""
    updates = [changed(number, f"key-{number}") for number in range(1, 2502)]
    await store.append(updates)
    marks = await all_marks(store)
    assert {pubkey: mark.id for pubkey, mark in marks.items()} == {u.pubkey: u.id for u in updates}
    assert await store.marks_of(list(marks)) == marks


async def test_many_states_are_read_at_once(store: Store) -> None:
    """The states of a thousand accounts come from one call."""
    updates = [changed(number, f"key-{number}", account_json=b"") for number in range(1, 1001)]
    await store.append(updates)
    found = await store.states([u.pubkey for u in updates])
    assert {pubkey: state.id for pubkey, state in found.items()} == {u.pubkey: u.id for u in updates}


async def test_every_update_is_a_row(store: Store, backend: SqliteBackend) -> None:
    """History keeps each update under its id, in the order of ids."""
    for start in (1, 4, 7):
        await store.append([changed(number) for number in range(start, start + 3)])
    assert backend.history() == [(n, KEY_A, f'{{"n":{n}}}') for n in range(1, 10)]


async def test_an_id_is_written_once(store: Store, backend: SqliteBackend) -> None:
    """Appending ids again, changed or not, changes neither history nor state."""
    first = [changed(1), changed(2)]
    await store.append(first)
    assert await store.append([*first, changed(3)]) == []
    assert await store.append([changed(1, data_json=b'"other"')]) == []
    assert backend.history() == [(n, KEY_A, f'{{"n":{n}}}') for n in (1, 2, 3)]
    assert (await store.states([KEY_A]))[KEY_A].id == 3


async def test_without_history_only_the_state_moves(store: Store, backend: SqliteBackend) -> None:
    """`history=False` writes the newest state and no row."""
    await store.append([changed(1)])
    assert await store.append([changed(2)], history=False) == []
    assert [row[0] for row in backend.history()] == [1]
    assert (await store.states([KEY_A]))[KEY_A].id == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"lamports": 2**63},
        {"slot": -(2**63) - 1},
        {"data_json": b'"\xff"'},
        {"account_type": "\ud800"},
        {"owner": None},
        {"owner": object()},
    ],
    ids=["lamports", "slot", "not UTF-8", "surrogate", "null", "no text"],
)
@pytest.mark.parametrize("place", [0, 7, 12])
async def test_what_cannot_be_stored_is_set_apart(
    store: Store, backend: SqliteBackend, fields: dict[str, object], place: int
) -> None:
    """A row that the database refuses is returned, and every other row of its group is committed."""
    updates = [changed(number) for number in range(1, 14)]
    bad = updates[place] = changed(place + 1, **fields)
    assert await store.append(updates) == [bad]
    kept = [u.id for u in updates if u is not bad]
    assert [row[0] for row in backend.history()] == kept
    assert (await store.states([KEY_A]))[KEY_A].id == kept[-1]


async def test_several_refused_rows_come_back_in_order(store: Store, backend: SqliteBackend) -> None:
    """All refused rows of a group are returned in its order, even when nothing else is left."""
    bad = [changed(number, lamports=2**64) for number in (1, 2, 5)]
    good = [changed(3), changed(4)]
    assert await store.append([bad[0], bad[1], *good, bad[2]]) == bad
    assert await store.append([changed(6, slot=2**63)]) == [changed(6, slot=2**63)]
    assert [row[0] for row in backend.history()] == [3, 4]


async def test_the_largest_numbers_survive(store: Store) -> None:
    """Slot and lamports of 2^63-1 come back digit for digit."""
    await store.append([changed(1, slot=2**63 - 1, lamports=2**63 - 1, rent_epoch=2**64 - 1)])
    account = json.loads((await store.states([KEY_A]))[KEY_A].account_json)
    assert account["slot"] == account["lamports"] == 2**63 - 1


@settings(max_examples=25, deadline=None)
@given(
    groups=st.lists(
        st.lists(st.tuples(st.integers(1, 40), st.sampled_from("abc")), min_size=1, max_size=8),
        min_size=1,
        max_size=5,
    )
)
def test_the_newest_id_is_the_state(groups: list[list[tuple[int, str]]]) -> None:
    """Whatever order ids arrive in, the state of an account is its update of the highest id."""

    async def run(directory: Path) -> None:
        store = SqliteBackend(directory).store()
        await store.open()
        newest: dict[str, int] = {}
        for group in groups:
            await store.append([changed(number, key) for number, key in group])
            for number, key in group:
                newest[key] = max(number, newest.get(key, 0))
            found = await store.states(list("abc"))
            assert {key: state.id for key, state in found.items()} == newest
        await store.close(next_id=None)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


async def test_a_clean_stop_wastes_no_id(open_store: Open) -> None:
    """After a clean stop the next id is exactly the one that was named."""
    store, _ = await open_store()
    await store.append([changed(1), changed(2)])
    await store.close(next_id=3)
    assert (await open_store())[1].next_id == 3


async def test_ids_that_were_allotted_and_not_committed_are_skipped(open_store: Open) -> None:
    """A clean stop that names a later id skips those between."""
    store, _ = await open_store()
    await store.append([changed(1)])
    await store.close(next_id=8)
    assert (await open_store())[1].next_id == 8


async def test_a_stop_cannot_give_back_a_used_id(open_store: Open) -> None:
    """Naming an id that is committed does not make it free again."""
    store, _ = await open_store()
    await store.append([changed(1), changed(2), changed(3)])
    await store.close(next_id=2)
    assert (await open_store())[1].next_id == 4


async def test_an_unclean_stop_skips_the_block(open_store: Open) -> None:
    """After an unclean stop no id of the reserved block is used, and a stop without work skips nothing more."""
    store, _ = await open_store()
    await store.append([changed(1)])
    await store.close(next_id=None)
    store, second = await open_store()
    assert 1 + ID_BLOCK <= second.next_id <= 2 + ID_BLOCK
    await store.close(next_id=None)
    assert (await open_store())[1].next_id == second.next_id


async def test_blocks_follow_each_other(open_store: Open) -> None:
    """Ids beyond the reserved block are committed after the next one is reserved."""
    store, _ = await open_store()
    for number in (1, ID_BLOCK + 1, ID_BLOCK + 2, 5 * ID_BLOCK):
        await store.append([changed(number)])
    await store.close(next_id=None)
    assert (await open_store())[1].next_id > 6 * ID_BLOCK - 1


async def test_the_newest_time_is_known_after_a_restart(open_store: Open) -> None:
    """The identity tells the newest `created_at`, also of a state that has no row."""
    store, _ = await open_store()
    await store.append([changed(1, created_at="2026-01-01T00:00:00.000001Z")])
    await store.append([changed(2, created_at="2026-01-01T00:00:00.000002Z")], history=False)
    await store.close(next_id=3)
    assert (await open_store())[1].last_created_at == "2026-01-01T00:00:00.000002Z"


async def test_a_database_belongs_to_one_cluster(open_store: Open) -> None:
    """Binding again to the same cluster is a success; to another, an error that names both."""
    store, _ = await open_store()
    await store.bind("genesis-one")
    await store.bind("genesis-one")
    with pytest.raises(WrongClusterError, match=r"genesis-one.*genesis-two"):
        await store.bind("genesis-two")
    await store.close(next_id=1)
    assert (await open_store())[1].genesis_hash == "genesis-one"


async def test_the_oldest_rows_go_first(store: Store, backend: SqliteBackend) -> None:
    """Pruning deletes rows older than asked, oldest first, at most so many, and leaves the states."""
    updates = [changed(n, created_at=f"2026-01-01T00:00:{n:02}.000000Z") for n in range(1, 31)]
    await store.append(updates)
    assert await store.prune(before="2026-01-01T00:00:21.000000Z", limit=5) == 5
    assert [row[0] for row in backend.history()] == list(range(6, 31))
    assert await store.prune(before="2026-01-01T00:00:21.000000Z", limit=5000) == 15
    assert await store.prune(before="2026-01-01T00:00:21.000000Z", limit=5000) == 0
    assert [row[0] for row in backend.history()] == list(range(21, 31))
    assert await store.prune(before="2027", limit=5000) == 10
    assert (await store.states([KEY_A]))[KEY_A].id == 30


async def test_pruned_ids_are_not_used_again(open_store: Open) -> None:
    """The next id does not fall when history is gone."""
    store, _ = await open_store()
    await store.append([changed(n) for n in range(1, 4)])
    assert await store.prune(before="9", limit=10) == 3
    await store.close(next_id=4)
    assert (await open_store())[1].next_id == 4


async def test_of_each_account_the_newest_rows_stay(store: Store, backend: SqliteBackend) -> None:
    """Pruning accounts leaves so many of the newest rows of each, all rows of others, and every state."""
    await store.append([changed(n, KEY_A if n % 3 else KEY_B) for n in range(1, 31)])
    assert await store.prune_accounts([KEY_A, "unknown"], keep=4, limit=5) == 5
    assert await store.prune_accounts([KEY_A, "unknown"], keep=4, limit=500) == 11
    assert await store.prune_accounts([KEY_A, "unknown"], keep=4, limit=500) == 0
    kept = [row[0] for row in backend.history()]
    assert kept == sorted([25, 26, 28, 29, *range(3, 31, 3)])
    assert {pubkey: state.id for pubkey, state in (await store.states([KEY_A, KEY_B])).items()} == {
        KEY_A: 29,
        KEY_B: 30,
    }


async def test_accounts_that_grew_are_known_from_the_first_question_on(store: Store) -> None:
    """Which accounts got rows is known since the last call; at first it is not."""
    await store.append([changed(1)])
    assert await store.take_grown() is None
    await store.append([changed(2), changed(3), changed(4, KEY_B)])
    await store.append([changed(5, "state only")], history=False)
    assert await store.take_grown() == {KEY_A, KEY_B}
    assert await store.take_grown() == set()


async def test_accounts_with_history_are_listed(store: Store) -> None:
    """Accounts that have rows are listed in order, from any one on, with those that have only a state left out."""
    await store.append([changed(1, "b"), changed(2, "a"), changed(3, "c"), changed(4, "b")])
    await store.append([changed(5, "state only")], history=False)
    assert await store.accounts(after="", limit=10) == ["a", "b", "c"]
    assert await store.accounts(after="a", limit=1) == ["b"]
    assert await store.accounts(after="c", limit=10) == []


async def test_what_was_given_back_is_not_given_again(store: Store) -> None:
    """Once everything free is given back, nothing is."""
    await store.append([changed(1)])
    await store.give_back(limit=10**9)
    assert await store.give_back(limit=10**9) == 0


async def test_reads_run_beside_appends(store: Store) -> None:
    """States read while updates are appended are never older than what was committed before the read."""
    committed = 0
    done = False

    async def read() -> int:
        reads = 0
        while not done:
            before = committed
            found = await store.states([KEY_A, KEY_B])
            assert before == 0 or found[KEY_A].id >= before
            reads += 1
        return reads

    readers = [asyncio.create_task(read()) for _ in range(8)]
    for number in range(1, 301):
        await store.append([changed(number)])
        committed = number
    done = True
    assert min(await asyncio.gather(*readers)) > 0


async def test_a_cancelled_append_can_be_repeated(store: Store, backend: SqliteBackend) -> None:
    """Cancelling an append leaves whole groups only, and the same call may be made again."""
    updates = [changed(number) for number in range(1, 201)]
    for start in range(0, 200, 20):
        task = asyncio.create_task(store.append(updates[start : start + 20]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.append(updates[start : start + 20]) == []
    assert [row[0] for row in backend.history()] == list(range(1, 201))


async def test_the_caller_may_change_its_list(store: Store, backend: SqliteBackend) -> None:
    """What is appended is what the sequence held at the call."""
    updates = [changed(1), changed(2)]
    task = asyncio.create_task(store.append(updates))
    await asyncio.sleep(0)
    updates.clear()
    await task
    assert len(backend.history()) == 2


async def test_a_closed_store_says_so(open_store: Open) -> None:
    """Closing twice is a success; every other call on a closed store raises StoreError instead of hanging."""
    store, _ = await open_store()
    await store.close(next_id=1)
    await store.close(next_id=1)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.append([changed(1)]),
        lambda: store.states([KEY_A]),
        lambda: store.prune(before="9", limit=1),
        lambda: store.prune_accounts([KEY_A], keep=1, limit=1),
        lambda: store.accounts(after="", limit=1),
        lambda: store.give_back(limit=1),
        store.take_grown,
        lambda: store.bind("genesis"),
    ]
    for call in calls:
        with pytest.raises(StoreError):
            await call()
    with pytest.raises(StoreError):
        await all_marks(store)


async def test_a_store_that_was_never_opened_can_be_closed(backend: SqliteBackend) -> None:
    """Closing before opening does nothing and returns at once."""
    await backend.store().close(next_id=1)
    assert not backend.path.exists()


async def test_statistics_count_the_work(store: Store) -> None:
    """Rows, commits, refused rows and pruned rows are counted, and free space is known."""
    await store.append([changed(1), changed(2), changed(3, slot=2**63)])
    await store.append([changed(4)])
    await store.prune(before="9", limit=1)
    numbers = store.statistics()
    assert (numbers["rows"], numbers["refused"], numbers["commits"], numbers["pruned"]) == (3, 1, 2, 1)
    assert numbers["last_group"] == 1
    assert numbers["queued"] == 0
    assert 0 < numbers["last_commit_seconds"] <= numbers["commit_seconds"] < 5
    assert store.free_bytes is None or store.free_bytes > 0


async def test_nothing_is_appended_for_nothing(store: Store) -> None:
    """An empty group is no commit."""
    assert await store.append([]) == []
    assert await store.states([]) == {}
    assert store.statistics()["commits"] == 0


def test_the_suite_compares_whole_updates() -> None:
    """Updates with one different field are different: what the other tests compare is compared."""
    first: AccountUpdate = changed(1)
    assert first == changed(1)
    assert first != changed(1, lamports=2)


async def test_a_note_is_kept_until_the_next_one_under_its_name(open_store: Open) -> None:
    """What is remembered is recalled, also after a restart; other names, and the database's own, are not touched."""
    store, identity = await open_store()
    assert await store.recall("epoch") is None
    await store.remember("epoch", "mine")
    await store.remember("other", "é" * 1_000)
    await store.remember("epoch", "newer")
    await store.close(next_id=None)
    store, again = await open_store()
    assert (await store.recall("epoch"), await store.recall("other")) == ("newer", "é" * 1_000)
    assert again.epoch == identity.epoch
