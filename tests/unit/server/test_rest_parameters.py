"""What a client may ask for by HTTP."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_socket.model import MAX_I64
from account_socket.programs import load_programs
from account_socket.server.rest_parameters import (
    Fields,
    RefusedError,
    accepts_gzip,
    matches,
    read_batch,
    read_integer,
    read_pairs,
    read_pubkey,
    read_selection,
)

LAYOUTS = {name: each for decoder in load_programs().programs.values() for name, each in decoder.layouts.items()}
FIELDS = Fields(LAYOUTS)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("*;q=0, gzip", True),
        ("*, gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("xgzip", False),
    ],
)
def test_gzip_is_asked_for(header: str, accepted: bool) -> None:
    """gzip is asked for by name or by a star, unless its weight is 0; its name counts more."""
    assert accepts_gzip(header) is accepted


@pytest.mark.parametrize(
    ("header", "known"),
    [('W/"e-1"', True), ('"e-1"', True), ('"a","b", W/"e-1"', True), ("*", True), ("", False), ('"e-12"', False)],
)
def test_entity_tags_compare_weakly(header: str, known: bool) -> None:
    """A tag is known whether it is weak or strong, alone or in a list."""
    assert matches(header, 'W/"e-1"') is known


@given(st.integers(0, MAX_I64))
def test_whole_numbers(value: int) -> None:
    """Every number up to the largest a database can keep is read as it is written."""
    assert read_integer({"n": str(value)}, "n") == value


@given(st.text(max_size=25))
def test_anything_else_is_no_number(text: str) -> None:
    """A text is a whole number in its shortest form, or refused."""
    value = None
    with suppress(RefusedError):
        value = read_integer({"n": text}, "n")
    assert value is None or str(value) == text


@given(st.binary(max_size=200))
def test_any_body_is_a_list_of_keys_or_refused(body: bytes) -> None:
    """No body breaks the reading of a batch."""
    with pytest.raises(RefusedError):
        read_batch(body)


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_query_is_read_or_refused(name: str, value: str) -> None:
    """No parameter breaks the reading of a selection: what passes names fields that accounts have."""
    with suppress(RefusedError):
        asked = read_pairs([(f"where.{name}", value)], {"where."})
        selection = read_selection(asked, FIELDS)
        assert all(".".join(path) in FIELDS for path, _ in selection.where)


@given(st.text(max_size=50))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    """Only the base58 form of 32 bytes is a key."""
    with pytest.raises(RefusedError, match="not a base58 public key"):
        read_pubkey(text)


@pytest.mark.parametrize(
    ("account_type", "path", "has"),
    [
        ("Pool", "sqrt_price", True),
        ("Pool", "pool_fees.base_fee.cliff_fee_numerator", True),
        ("Pool", "pool_fees.dynamic_fee.bin_step", True),
        ("Pool", "pool_fees.dynamic_fee.bin_step.x", False),
        ("Pool", "pool_fees", False),
        ("Pool", "reward_infos.1.mint", True),
        ("Pool", "reward_infos.2.mint", False),
        ("Pool", "reward_infos[1].mint", False),
        ("Pool", "padding_1", False),
        ("Position", "sqrt_price", False),
        ("Position", "pool", True),
        ("Unknown", "error", True),
        ("Unknown", "pool", False),
    ],
)
def test_the_fields_of_a_type(account_type: str, path: str, has: bool) -> None:
    """A field is named by the dotted path that leads to it in `data_json`; padding is none."""
    assert FIELDS.has(account_type, path) is has
