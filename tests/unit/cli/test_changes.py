"""What changed between two states."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.cli.changes import Change, changes

STATES = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.integers(0, 2) | st.sampled_from("xyz"),
        lambda inner: st.dictionaries(st.sampled_from("pq"), inner) | st.lists(inner, max_size=2),
        max_leaves=6,
    ),
)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("a", 1, 2)]),
        ({"a": {"b": {"c": "1", "d": 1}}}, {"a": {"b": {"c": "2", "d": 1}}}, [("a.b.c", "1", "2")]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, [("a.1.b", 2, 3)]),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, [("a", 1, 2), ("b", 1, 2)]),
        ({"a": 1}, {"b": 2}, [("b", None, 2), ("a", 1, None)]),
        ({"a": {"b": 1}}, {"a": None}, [("a", {"b": 1}, None)]),
        ({"a": None}, {"a": {"b": 1}}, [("a", None, {"b": 1})]),
        ({"a": [1, 2]}, {"a": [1]}, [("a.1", 2, None)]),
    ],
)
def test_changes(old: dict[str, Any], new: dict[str, Any], found: list[Change]) -> None:
    """Each leaf that differs is told with its dotted path, what it was and what it is."""
    assert list(changes(old, new)) == found


@given(STATES, STATES)
def test_no_changes_means_equal(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Without a change the states are equal but for empty containers, and a state has none against itself."""
    assert not list(changes(old, deepcopy(old)))
    if not list(changes(old, new)):
        assert _leaves(old) == _leaves(new)


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in _leaves(item, f"{path}.{name}").items()}
