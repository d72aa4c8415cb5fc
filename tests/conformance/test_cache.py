"""What every cache promises (cache/base.py), on every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from tests.conformance.backends import state_of
from tests.samples import KEY_A, KEY_B, update
from tests.servers import RedisServer
from tests.waiting import until

from account_socket.cache.base import Cache
from account_socket.cache.memory import MemoryCache
from account_socket.cache.redis import RedisCache


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    cache: Cache
    if request.param == "memory":
        cache = MemoryCache(ttl=60)
    else:
        server = request.getfixturevalue("server")
        server.command("FLUSHALL")
        cache = RedisCache(server.url, ttl=60)
    await cache.open()
    await until(lambda: cache.available)
    yield cache
    await cache.close()


async def settled(cache: Cache) -> None:
    """Wait until what was put is written."""
    await until(lambda: cache.statistics()["queued"] == 0)


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "when written"])
async def test_what_was_put_is_read(cache: Cache, wait: bool) -> None:
    """The newest account object of each account is there at once and stays there."""
    first, second, other = update(1), update(3), update(2, KEY_B, data_json=b'{"a":"\xc3\xa9"}')
    cache.put([first, other, second])
    if wait:
        await settled(cache)
    assert await cache.get([KEY_A, KEY_B, "unknown"]) == {KEY_A: state_of(second), KEY_B: state_of(other)}


async def test_an_older_update_changes_nothing(cache: Cache) -> None:
    """Putting a lower id while a higher one is known there keeps the higher one."""
    cache.put([update(5)])
    cache.put([update(4)])
    assert (await cache.get([KEY_A]))[KEY_A].id == 5
    await settled(cache)
    assert (await cache.get([KEY_A]))[KEY_A].id == 5


async def test_a_state_without_an_id_is_absent(cache: Cache) -> None:
    """An account object that was sent without an id is never read back, and hides the one before it."""
    cache.put([update(1)])
    await settled(cache)
    degraded = update(2)
    cache.put([msgspec.structs.replace(degraded, account_json=degraded.account_json.replace(b'"id":2', b'"id":null'))])
    assert await cache.get([KEY_A]) == {}
    await settled(cache)
    assert await cache.get([KEY_A]) == {}


async def test_thousands_are_read_at_once(cache: Cache) -> None:
    """Several thousand accounts are put and read in one call each."""
    updates = [update(number, f"key-{number}") for number in range(3000)]
    cache.put(updates)
    await settled(cache)
    found = await cache.get([u.pubkey for u in updates])
    assert found == {u.pubkey: state_of(u) for u in updates}


async def test_hits_and_misses_are_counted(cache: Cache) -> None:
    """Each asked account is a hit or a miss."""
    cache.put([update(1)])
    await cache.get([KEY_A, KEY_B, "unknown"])
    numbers = cache.statistics()
    assert (numbers["hits"], numbers["misses"], numbers["errors"]) == (1, 2, 0)
    assert {"queued", "written", "dropped"} <= numbers.keys()


async def test_nothing_is_asked_for_nothing(cache: Cache) -> None:
    """No pubkeys, no states; no updates, no work."""
    cache.put([])
    assert await cache.get([]) == {}
    assert cache.statistics()["queued"] == 0


async def test_closing_twice_is_a_success(cache: Cache) -> None:
    """Close may be called again."""
    cache.put([update(1)])
    assert await cache.close() is None
    assert await cache.close() is None
