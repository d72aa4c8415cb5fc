"""What counts as a cached value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B, update

from account_socket.cache.account_value import read_account_value
from account_socket.model import StoredState

GOOD = update(7).account_json


def test_an_account_object_counts() -> None:
    """A well-formed account object of the pubkey is its state, with the same bytes."""
    assert read_account_value(KEY_A, GOOD) == StoredState(7, GOOD)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"[]",
        b"{}",
        GOOD[:-1],
        GOOD + b"x",
        GOOD.replace(b'"id":7', b'"id":null'),
        GOOD.replace(b'"id":7', b'"id":"7"'),
        GOOD.replace(b'"id":7', b'"id":7.5'),
        GOOD.replace(KEY_A.encode(), KEY_B.encode()),
        GOOD.replace(KEY_A.encode(), b"\xff\xfe"),
        GOOD.decode(),
        ["a", "list"],
    ],
)
def test_anything_else_is_absent(value: object) -> None:
    """Garbage, another account's object, or one without an id counts as absent."""
    assert read_account_value(KEY_A, value) is None


@given(st.one_of(st.binary(), st.text().map(str.encode), st.none()))
def test_no_value_raises(value: object) -> None:
    """Whatever lies in a cache, reading it raises nothing."""
    assert read_account_value(KEY_A, value) is None
