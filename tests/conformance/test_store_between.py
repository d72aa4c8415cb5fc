"""What every store tells of the updates of all accounts between two ids, and of those that may be missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.conformance.backends import SqliteBackend
from tests.samples import KEY_A, KEY_B, update

from account_socket.store import queries
from account_socket.store.base import Store


@pytest.fixture(params=["sqlite"])
def backend(tmp_path: Path) -> SqliteBackend:
    return SqliteBackend(tmp_path)


@pytest.fixture
async def store(backend: SqliteBackend) -> AsyncIterator[Store]:
    store = backend.store()
    await store.open()
    for id_ in range(1, 9):
        await store.append([update(id_, KEY_A if id_ % 2 else KEY_B)])
    yield store
    await store.close(next_id=None)


async def ids(store: Store, after: int, upto: int = 2**63 - 1, limit: int = 100) -> list[int] | None:
    found = await store.between(after, upto, limit=limit)
    return None if found is None else [each.id for each in found]


async def test_in_the_order_of_ids(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All accounts' updates above one id and up to another come in order, a page at a time, and large ones end it."""
    assert await ids(store, 0) == list(range(1, 9))
    assert await ids(store, 2, 6) == [3, 4, 5, 6]
    assert await ids(store, 2, limit=2) == [3, 4]
    assert await ids(store, 8) == []
    assert await ids(store, 6, 2) == []
    monkeypatch.setattr(queries, "MAX_PAGE_BYTES", 300)
    assert await ids(store, 2) == [3, 4]


Spoil = Callable[[Store], Awaitable[object]]
SPOILS: dict[str, tuple[Spoil, int]] = {
    "the oldest are pruned": (lambda store: store.prune(before="2027", limit=3), 3),
    "an account's oldest are pruned": (lambda store: store.prune_accounts([KEY_B], keep=2, limit=9), 4),
    "history is not written": (lambda store: store.append([update(9), update(10, KEY_B)], history=False), 10),
    "an update was given up": (lambda store: store.append([update(12)], lost_id=11), 11),
    "an update is refused": (lambda store: store.append([update(9), update(10, lamports=2**63)]), 10),
}


@pytest.mark.parametrize("name", SPOILS)
async def test_a_hole_is_known_for_ever(store: Store, backend: SqliteBackend, name: str) -> None:
    """Below the highest id that may be missing nothing is told, above it everything, also after a new start."""
    spoil, hole = SPOILS[name]
    assert await ids(store, hole - 1) is not None
    await spoil(store)
    assert await ids(store, hole - 1) is None
    assert await ids(store, hole) is not None
    await store.prune(before="2020", limit=9)
    await store.append([update(20)], lost_id=1)
    await store.close(next_id=21)
    again = backend.store()
    await again.open()
    assert await ids(again, hole - 1) is None
    assert (await ids(again, hole) or [])[-1:] == [20]
    await again.close(next_id=None)
