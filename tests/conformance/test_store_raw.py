"""What every store answers of accounts byte for byte (store/base.py), on every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.conformance.backends import SqliteBackend
from tests.samples import KEY_A, KEY_B, PROGRAM, update

from account_socket.store import raw_accounts
from account_socket.store.base import Store
from account_socket.store.raw_accounts import Bytes

KEYS = [f"{at:032d}" for at in range(20)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteBackend(tmp_path).store()
    await store.open()
    yield store
    await store.close(next_id=None)


async def pages(store: Store, chosen: Bytes, limit: int) -> list[str]:
    """Return the accounts of all pages."""
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page, after = await store.raw_page(chosen, after=after, limit=limit)
        assert len(page) <= limit
        found += [account.raw.pubkey for account in page]
    return found


async def test_raw_is_the_newest_state_byte_for_byte(store: Store) -> None:
    """The bytes, the rent epoch and the decoded fields are those of each account's newest update."""
    older, newer = update(1, KEY_A, data=b"old"), update(2, KEY_A, data=b"\0new\xff", slot=7, data_json=b'{"a":1}')
    await store.append([older, newer])
    found = await store.raw([KEY_A, KEY_B])
    assert set(found) == {KEY_A}
    account = found[KEY_A]
    assert (account.id, account.account_type, account.data_json) == (2, "Pool", b'{"a":1}')
    assert (account.raw.data, account.raw.slot, account.raw.rent_epoch) == (b"\0new\xff", 7, 2**64 - 1)


async def test_pages_hold_what_fits_and_nothing_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages together hold each open account that fits once, sorted, however few are looked at for a page."""
    states = [update(at, key, data=bytes([at]) * at) for at, key in enumerate(KEYS, 1)]
    closed = msgspec.structs.replace(update(30, KEY_A, data=b"\1\1"), lamports=0)
    foreign = msgspec.structs.replace(update(31, KEY_B, data=b"\1\1"), owner=KEY_A)
    await store.append([*states, closed, foreign])
    for scanned in (3, 5_000):
        monkeypatch.setattr(raw_accounts, "MAX_SCANNED", scanned)
        for limit in (1, 7, 100):
            assert await pages(store, Bytes(PROGRAM), limit) == KEYS
            assert await pages(store, Bytes(PROGRAM, (5,)), limit) == [KEYS[4]]
            assert await pages(store, Bytes(PROGRAM, (5, 6)), limit) == []
            assert await pages(store, Bytes(PROGRAM, (), ((1, b"\3\3"),)), limit) == [KEYS[2]]
            assert await pages(store, Bytes(PROGRAM, (), ((3, b""),)), limit) == KEYS[2:]
            for offset in (20, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1):
                assert await pages(store, Bytes(PROGRAM, (), ((offset, b"\1"),)), limit) == []
            assert await pages(store, Bytes(PROGRAM, (2**64 - 1,)), limit) == []
