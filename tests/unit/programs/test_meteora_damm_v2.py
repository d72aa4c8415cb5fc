"""Meteora DAMM v2: real account bytes against values that another decoder (Anchor's own) gave."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.expected import MAINNET, MODES, PUBLIC, expected, records

from account_socket.programs import load_programs

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
SIZES = {
    "ClaimFeeOperator": 168,
    "Config": 328,
    "Operator": 72,
    "Pool": 1112,
    "Position": 408,
    "TokenBadge": 168,
    "Vesting": 184,
}
REGISTRY = load_programs()
DECODER = REGISTRY.programs[PROGRAM]


RECORDS = records(PUBLIC)
BODIES = [base64.b64decode(record["data"]) for record in RECORDS]


def assert_all_equal(path: Path) -> Counter[str]:
    seen: Counter[str] = Counter()
    for record in records(path):
        decoded = REGISTRY.decode(PROGRAM, base64.b64decode(record["data"]))
        assert decoded.account_type == record["account_type"]
        # As text, so that the order of the keys counts as well.
        assert json.dumps(json.loads(decoded.data_json)) == json.dumps(expected(record)), record["pubkey"]
        seen[decoded.account_type] += 1
    return seen


def test_recorded_states():
    """Every recorded state of every account type decodes to the expected values, in the IDL's order."""
    seen = assert_all_equal(PUBLIC)
    assert set(seen) == set(SIZES)
    assert seen.total() == 1065


def test_mainnet_states():
    """Accounts dumped from mainnet decode to the expected values."""
    if not MAINNET.exists():
        pytest.skip("the mainnet dump is not part of the project")
    assert assert_all_equal(MAINNET).total() == 4


def test_layouts():
    """Each account type has Anchor's discriminator and the program's size, and its values lie without gaps."""
    assert {name: layout.size for name, layout in DECODER.layouts.items()} == SIZES
    for name, layout in DECODER.layouts.items():
        assert layout.discriminator == hashlib.sha256(f"account:{name}".encode()).digest()[:8]
        end = len(layout.discriminator)
        for place in layout.places:
            assert place.offset == end
            end += place.size
        assert end == layout.size


@pytest.mark.parametrize(
    ("account_type", "path", "offset"),
    [
        ("Pool", "pool_fees.base_fee", 8),
        ("Pool", "token_a_mint", 168),
        ("Pool", "sqrt_price", 456),
        ("Pool", "pool_status", 481),
        ("Pool", "creator", 648),
        ("Pool", "reward_infos[1].mint", 936),
        ("Position", "nft_mint", 40),
        ("Position", "delegate_permission", 392),
        ("Config", "pool_fees.base_fee", 72),
        ("Config", "permission", 248),
        ("Vesting", "inner_vesting.number_of_period", 104),
    ],
)
def test_places(account_type, path, offset):
    """Values lie where the program's clients filter for them."""
    assert {p.path: p.offset for p in DECODER.layouts[account_type].places}[path] == offset


COMMON = (2500000).to_bytes(8, "little")
SCHEDULER = "0a00 0700000000000000 0900000000000000"
MARKET_CAP = "0a00 07000000 08000000 0900000000000000"
LIMITER = "0a00 07000000 08000000 ffffffffffffffff"
BLOCKS = [
    *[
        (mode, SCHEDULER, {"number_of_period": 10, "period_frequency": "7", "reduction_factor": "9"})
        for mode in (0, 1)
    ],
    (
        2,
        LIMITER,
        {
            "fee_increment_bps": 10,
            "max_limiter_duration": 7,
            "max_fee_bps": 8,
            "reference_amount": "18446744073709551615",
        },
    ),
    *[
        (
            mode,
            MARKET_CAP,
            {
                "number_of_period": 10,
                "sqrt_price_step_bps": 7,
                "scheduler_expiration_duration": 8,
                "reduction_factor": "9",
            },
        )
        for mode in (3, 4)
    ],
]


def with_block(account_type: str, block: bytes) -> Any:
    layout = DECODER.layouts[account_type]
    (place,) = [place for place in layout.places if place.path == "pool_fees.base_fee"]
    data = bytearray(layout.discriminator.ljust(layout.size, b"\0"))
    data[place.offset : place.offset + place.size] = block
    return json.loads(DECODER.decode(bytes(data)).data_json)["pool_fees"]["base_fee"]


@pytest.mark.parametrize("account_type", ["Pool", "Config"])
@pytest.mark.parametrize(("mode", "rest", "fields"), BLOCKS)
def test_base_fee_modes(account_type, mode, rest, fields):
    """The base fee block stands decoded by its mode: name, mode byte, then the mode's own fields."""
    block = COMMON + bytes([mode]) + bytes(5) + bytes.fromhex(rest)
    shown = {"mode": MODES[mode], "base_fee_mode": mode, "cliff_fee_numerator": "2500000", **fields}
    assert json.dumps(with_block(account_type, block)) == json.dumps(shown)


@pytest.mark.parametrize("account_type", ["Pool", "Config"])
@pytest.mark.parametrize("mode", [5, 255])
def test_unknown_base_fee_mode(account_type, mode):
    """A mode that nobody knows yet keeps its bytes, and the account decodes all the same."""
    block = COMMON + bytes([mode]) + bytes(range(23))
    shown = {"mode": "Unknown", "base_fee_mode": mode, "data": block.hex()}
    assert with_block(account_type, block) == shown


@given(body=st.sampled_from(BODIES), data=st.data())
def test_truncated_accounts(body, data):
    """A real account cut anywhere is Unknown, and the reason names the first byte range that is missing."""
    size = data.draw(st.integers(0, len(body) - 1))
    decoded = DECODER.decode(body[:size])
    kind = "empty" if size == 0 else "unknown_discriminator" if size < 8 else "too_short"
    assert (decoded.account_type, decoded.failure) == ("Unknown", kind)
    assert json.loads(decoded.data_json)["raw"] == base64.b64encode(body[:size]).decode()
    if size >= 8:
        offset = int(re.search(r"at byte (\d+) is missing", decoded.error or "")[1])
        assert offset <= size


@given(
    body=st.sampled_from(BODIES), changes=st.dictionaries(st.integers(8, 1111), st.integers(0, 255)), data=st.data()
)
def test_mutated_accounts(body, changes, data):
    """A real account with any bytes changed keeps its type and its keys, and never raises."""
    changed = bytearray(body + data.draw(st.binary(max_size=9)))
    for offset, value in changes.items():
        if offset < len(body):
            changed[offset] = value
    before, after = DECODER.decode(body), DECODER.decode(bytes(changed))
    assert (after.account_type, after.error) == (before.account_type, None)
    assert list(json.loads(after.data_json)) == list(json.loads(before.data_json))


@given(
    data=st.binary(max_size=1200)
    | st.tuples(
        st.sampled_from([layout.discriminator for layout in DECODER.layouts.values()]), st.binary(max_size=1200)
    ).map(b"".join)
)
def test_any_bytes_are_a_value(data):
    """Whatever the bytes, the answer is a value with valid JSON."""
    decoded = REGISTRY.decode(PROGRAM, data)
    assert isinstance(json.loads(decoded.data_json), dict)
    assert (decoded.account_type == "Unknown") == (decoded.error is not None)


def test_largest_values():
    """A pool of all ones prints every digit of its u64, u128 and u256 values."""
    layout = DECODER.layouts["Pool"]
    fields = json.loads(DECODER.decode(layout.discriminator.ljust(layout.size, b"\xff")).data_json)
    assert fields["protocol_a_fee"] == str(2**64 - 1)
    assert fields["liquidity"] == str(2**128 - 1)
    assert fields["fee_a_per_liquidity"] == str(2**256 - 1)
    assert fields["reward_infos"][1]["reward_per_token_stored"] == str(2**256 - 1)
    assert fields["pool_fees"]["base_fee"]["base_fee_mode"] == 255


def test_decoding_again_is_equal():
    """What is kept from one state never shows in another: a second pass in another order gives the same bytes."""
    first = [DECODER.decode(body) for body in BODIES]
    again = [DECODER.decode(body) for body in reversed(BODIES)]
    assert first == again[::-1]
