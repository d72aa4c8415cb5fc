from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from account_socket.hub.filters import Filter, Filtered, FilterIndex, keys_of

NAMES = ("a", "b", "0", "1")
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "0", "1", "true", "null", "x"]))
DATA = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
)
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple)
WHERE = st.dictionaries(PATHS, st.lists(SCALARS, min_size=1, max_size=3), max_size=3)
KIND = st.sampled_from([None, "P", "Q"])


class Named(Filtered):
    """A filter with what it was made from."""

    def __init__(self, account_type: str | None, program: str | None, where: dict[tuple[str, ...], list[Any]]) -> None:
        self.where = where
        conditions = tuple(sorted((path, keys_of(values)) for path, values in where.items()))
        self.filter = Filter(account_type, program, conditions)


NOTHING = object()


def naive_value(data: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        try:
            data = data[int(step)] if isinstance(data, list) else data[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return NOTHING
    return data


def naive_fits(named: Named, account_type: str, program: str, data: Any) -> bool:
    """Say what the protocol says, without any index."""
    wanted = named.filter
    if wanted.account_type not in (None, account_type) or wanted.program not in (None, program):
        return False
    for path, values in named.where.items():
        value = naive_value(data, path)
        equal = any(type(value) is type(each) and value == each for each in values)
        if not equal and not any(type(each) is int and value == str(each) for each in values):
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(KIND, KIND, WHERE), max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.lists(st.tuples(st.sampled_from(["P", "Q"]), st.sampled_from(["P", "Q"]), DATA), min_size=1, max_size=4),
)
def test_the_index_finds_what_a_naive_look_finds(
    filters: list[Any], discarded: list[bool], accounts: list[tuple[str, str, Any]]
) -> None:
    """Whatever is added and discarded, an account fits exactly the filters that a look at each by itself says."""
    index: FilterIndex[Named] = FilterIndex()
    every = [Named(*each) for each in filters]
    for named in every:
        index.add(named)
    kept = [named for named, gone in zip(every, discarded, strict=False) if not gone]
    for named in every:
        if named not in kept:
            index.discard(named)
    for account_type, program, data in accounts:
        found = index.find(account_type, program, json.dumps(data).encode())
        assert len(found) == len(set(found))
        assert set(found) == {named for named in kept if naive_fits(named, account_type, program, data)}


def test_an_index_that_was_emptied_keeps_nothing() -> None:
    """Discarding the last filter of a path leaves no step of it behind."""
    index: FilterIndex[Named] = FilterIndex()
    named = [Named(None, None, {("a", str(number)): [number]}) for number in range(50)]
    for each in named:
        index.add(each)
    for each in named:
        index.discard(each)
    assert index._root.further == {}
    assert not index._types
    assert not index._chosen


def test_a_filter_is_looked_up_by_what_fewest_share() -> None:
    """Ten thousand filters that agree in one condition and differ in the other are not compared one by one."""
    index: FilterIndex[Named] = FilterIndex()
    for number in range(10_000):
        index.add(Named("P", None, {("a",): [0], ("b",): [f"key {number}"]}))
    sizes = [len(of_key) for step in index._root.further.values() for of_key in step.by_key.values()]
    assert max(sizes) <= 2


def test_filters_that_say_the_same_are_equal() -> None:
    """The order of conditions and values, and an integer said twice, make no difference."""
    one = Named("P", None, {("a",): [1, "x"], ("b",): [None]}).filter
    other = Named("P", None, {("b",): [None], ("a",): ["x", 1, 1]}).filter
    assert one == other
    assert hash(one) == hash(other)
