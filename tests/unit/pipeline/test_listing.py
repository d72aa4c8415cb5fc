"""What a node listed: which accounts, of which kinds, in little memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import raw

from account_socket.pipeline import listing
from account_socket.pipeline.listing import KeySet, Listing


@settings(deadline=None)
@given(st.sets(st.text(max_size=8)), st.sets(st.text(max_size=8)), st.integers(1, 5))
def test_a_key_set_is_a_set(inside: set[str], others: set[str], run: int) -> None:
    """What was put in is in, however many runs it takes; nothing else is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_RUN", run)
        keys = KeySet()
        for key in inside:
            keys.add(key)
        assert all(key in keys for key in inside)
        assert not any(key in keys for key in others - inside)


def test_few_accounts_of_a_kind_are_kept_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to FEW accounts of a kind are remembered one by one; of more only how many there are."""
    monkeypatch.setattr(listing, "FEW", 2)
    listed = Listing(KeySet())
    listed.add(raw(f"a{number}", data=b"kind-one" + b"rest") for number in range(2))
    listed.add(raw(f"b{number}", data=b"kind-two") for number in range(3))
    assert dict(listed.kinds) == {b"kind-one": 2, b"kind-two": 3}
    assert listed.few == {b"kind-one": ["a0", "a1"]}
    assert listed.total == 5
    assert "b2" in listed.pubkeys


def test_strays_are_kept_by_name_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts shorter than a discriminator, or of too many kinds, are strays; beyond the bound they are counted."""
    monkeypatch.setattr(listing, "MAX_KINDS", 1)
    monkeypatch.setattr(listing, "MAX_STRAYS", 2)
    listed = Listing(KeySet())
    listed.add([raw("a", data=b"kind-one"), raw("b", data=b"short"), raw("c", data=b"kind-two"), raw("d", data=b"")])
    assert (listed.strays, listed.left_out, listed.total) == (["b", "c"], 1, 4)
    assert "d" in listed.pubkeys
