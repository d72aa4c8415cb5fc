"""The bounds of the embedded cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.samples import update

from account_socket.cache.memory import MemoryCache
from account_socket.model import Origin


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_value_lives_for_its_ttl() -> None:
    """A value is there until its time is over, counted from when it was put last."""
    clock = Clock()
    cache = MemoryCache(ttl=10, clock=clock)
    cache.put([update(1, "a"), update(2, "b")])
    clock.now = 9.9
    assert set(await cache.get(["a", "b"])) == {"a", "b"}
    cache.put([update(3, "b")])
    clock.now = 10
    assert set(await cache.get(["a", "b"])) == {"b"}
    assert cache.statistics()["entries"] == 1


async def test_the_least_recently_used_goes_first() -> None:
    """A full cache lets go of what was neither written nor read for longest."""
    cache = MemoryCache(ttl=10, max_entries=3)
    cache.put([update(1, "a"), update(2, "b"), update(3, "c")])
    await cache.get(["a"])
    cache.put([update(4, "d")])
    assert set(await cache.get(["a", "b", "c", "d"])) == {"a", "c", "d"}
    assert cache.statistics()["dropped"] == 1


@given(
    puts=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50))),
    max_entries=st.integers(1, 4),
    max_bytes=st.integers(100, 2000),
)
def test_it_stays_bounded(puts: list[tuple[str, int]], max_entries: int, max_bytes: int) -> None:
    """Whatever is put, entries and bytes stay within their bounds, and the bytes are counted right."""
    cache = MemoryCache(ttl=10, max_entries=max_entries, max_bytes=max_bytes)
    for number, (key, size) in enumerate(puts):
        cache.put([update(number, key, data_json=b'"%s"' % (b"x" * size))])
        numbers = cache.statistics()
        assert numbers["entries"] <= max_entries
        assert numbers["bytes"] <= max_bytes
        assert numbers["bytes"] == sum(len(entry.account_json) for entry in cache._entries.values())


async def test_what_was_only_re_read_pushes_nothing_out() -> None:
    """A re-read replaces a value that is there, and is no reason to keep one that is not."""
    cache = MemoryCache(ttl=10)
    cache.put([update(1, "a")])
    cache.put([update(2, "a", origin=Origin.REREAD), update(3, "b", origin=Origin.REREAD)])
    assert {pubkey: state.id for pubkey, state in (await cache.get(["a", "b"])).items()} == {"a": 2}
