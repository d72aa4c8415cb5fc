"""Items of lists: what is left out is named where it can be, and what is new is told from what was there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile_node import account_json
from tests.samples import KEY_A, KEY_B, PROGRAM

from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.sources import listed_accounts
from account_socket.sources.listed_accounts import ItemReader, LeftOut, SeenKeys


def accounts(names: list[str]) -> list[RawAccount]:
    return [RawAccount(name, 1, PROGRAM, 1, b"") for name in names]


def test_what_is_left_out_is_named_where_it_can_be() -> None:
    """An item that names an account can be read otherwise; one that names none is only counted."""
    items = [
        {"pubkey": KEY_A, "account": account_json(owner=SYSTEM_PROGRAM)},
        {"pubkey": KEY_B, "account": {"lamports": -1}},
        {"pubkey": "no key", "account": account_json()},
        7,
        {"pubkey": KEY_A, "account": account_json()},
    ]
    left_out = LeftOut()
    reader = ItemReader("rpc-0")
    taken = reader.read(items, PROGRAM, 5, 1.0, left_out)
    assert [raw.pubkey for raw in taken] == [KEY_A]
    assert left_out == LeftOut([KEY_A, KEY_B], 2)
    assert reader.odd.total() == len(left_out) == 4


def test_no_more_is_named_than_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound items are counted as if they named nothing: they are not read otherwise."""
    monkeypatch.setattr(listed_accounts, "MAX_NAMED", 2)
    left_out = LeftOut()
    for _ in range(5):
        left_out.add(KEY_A)
    assert left_out == LeftOut([KEY_A, KEY_A], 3)


@given(st.lists(st.lists(st.text(max_size=3))))
def test_an_account_is_new_once(batches: list[list[str]]) -> None:
    """In a short list every key counts: a batch is new if and only if one of its keys was in none before."""
    seen, before = SeenKeys(), set[str]()
    for batch in batches:
        assert seen.add(accounts(batch)) is bool(set(batch) - before)
        before |= set(batch)


def test_a_long_list_costs_little_and_is_still_told_from_one_that_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample stays small; a thousand new accounts are noticed, the same ones again never are."""
    monkeypatch.setattr(listed_accounts, "MAX_SAMPLE", 1_000)
    seen = SeenKeys()
    batches = [accounts([f"{batch}-{number}" for number in range(1_000)]) for batch in range(50)]
    assert all(seen.add(batch) for batch in batches)
    assert len(seen._seen) <= 1_000
    assert not any(seen.add(batch) for batch in batches)
