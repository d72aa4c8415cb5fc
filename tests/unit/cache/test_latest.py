"""The queue of newest values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from account_socket.cache.latest import LatestQueue
from account_socket.model import StoredState

ALL = 2**31


def state(number: int, size: int = 10) -> StoredState:
    return StoredState(number, b"%d" % number + b"." * size)


def queue(max_entries: int = ALL, max_bytes: int = ALL) -> LatestQueue:
    return LatestQueue(max_entries=max_entries, max_bytes=max_bytes)


def test_only_the_newest_waits() -> None:
    """A newer value takes the place of an older one, and an older one changes nothing."""
    waiting = queue()
    waiting.put("a", state(1))
    waiting.put("a", state(3))
    waiting.put("a", state(2))
    assert waiting.take(max_entries=9, max_bytes=ALL) == {"a": state(3)}


def test_the_oldest_leaves_first() -> None:
    """Values leave in the order they came, a replaced one at the place of its newest."""
    waiting = queue()
    for number, key in enumerate("abca"):
        waiting.put(key, state(number))
    assert list(waiting.take(max_entries=2, max_bytes=ALL)) == ["b", "c"]
    waiting.done()
    assert list(waiting.take(max_entries=2, max_bytes=ALL)) == ["a"]


def test_a_group_is_bounded_by_bytes() -> None:
    """A group holds no more bytes than asked, but at least one value."""
    waiting = queue()
    waiting.put("a", state(1, 1000))
    waiting.put("b", state(2, 10))
    waiting.put("c", state(3, 1000))
    assert list(waiting.take(max_entries=9, max_bytes=100)) == ["a"]
    assert list(waiting.take(max_entries=9, max_bytes=1100)) == ["b", "c"]


def test_what_was_superseded_does_not_come_back() -> None:
    """Giving a group back keeps newer values that came meanwhile, and puts the rest in front."""
    waiting = queue()
    waiting.put("a", state(1))
    waiting.put("b", state(2))
    waiting.take(max_entries=9, max_bytes=ALL)
    waiting.put("c", state(3))
    waiting.put("a", state(4))
    waiting.give_back()
    assert waiting.take(max_entries=9, max_bytes=ALL) == {"b": state(2), "c": state(3), "a": state(4)}


def test_a_value_on_its_way_is_readable() -> None:
    """A value can be read while it waits and while it is out, and no more when it is written."""
    waiting = queue()
    waiting.put("a", state(1))
    assert waiting.get("a") == state(1)
    waiting.take(max_entries=1, max_bytes=ALL)
    assert waiting.get("a") == state(1)
    waiting.put("a", state(0))
    assert waiting.get("a") == state(1)
    waiting.done()
    assert waiting.get("a") is None
    assert len(waiting) == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcd"), st.integers(0, 40)),
        st.tuples(st.just("take"), st.integers(1, 3), st.just(0)),
        st.tuples(st.sampled_from(["done", "give_back"]), st.just(0), st.just(0)),
    )
)


@given(steps, st.integers(1, 5), st.integers(20, 200))
def test_it_stays_bounded_and_never_writes_backwards(
    actions: list[tuple[str, object, int]], max_entries: int, max_bytes: int
) -> None:
    """Whatever happens, it keeps its bounds and no account's written ids ever fall."""
    waiting = queue(max_entries, max_bytes)
    written: dict[str, int] = {}
    group: dict[str, StoredState] = {}
    offered: dict[str, int] = {}
    for action, first, second in actions:
        if action == "put" and second >= offered.get(str(first), 0):
            offered[str(first)] = second
            waiting.put(str(first), state(second))
        elif action == "take" and not group:
            assert isinstance(first, int)
            group = waiting.take(max_entries=first, max_bytes=ALL)
            assert len(group) <= first
        elif action == "done":
            for key, value in group.items():
                assert value.id >= written.get(key, 0)
                written[key] = value.id
            waiting.done()
            group = {}
        elif action == "give_back":
            waiting.give_back()
            group = {}
        sizes = [len(value.account_json) for key in "abcd" if (value := waiting._waiting.get(key))]
        assert len(waiting) == len(sizes) <= max_entries
        assert sum(sizes) == waiting._bytes <= max_bytes
