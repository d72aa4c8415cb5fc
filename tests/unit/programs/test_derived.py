"""Derived numbers: what holds of them for every account, and what is refused."""

from __future__ import annotations

import base64
import copy
import decimal
import inspect
import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.expected import PUBLIC, records

from account_socket.errors import AccountSocketError
from account_socket.programs import load_programs
from account_socket.programs.meteora_damm_v2 import derived
from account_socket.programs.meteora_damm_v2.derived import DerivedError

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
DECODER = load_programs().programs[PROGRAM]
MAX_U64 = 2**64 - 1
MAX_U128 = 2**128 - 1
DENOMINATOR = 10**9
FUTURE = 2**40

u1 = st.integers(0, 1)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, MAX_U64)
u128 = st.integers(0, MAX_U128)
u256 = st.integers(0, 2**256 - 1)

Fields = dict[str, Any]


def published(data: bytes) -> Fields:
    fields: Fields = json.loads(DECODER.decode(data).data_json)
    return fields


def first(account_type: str, **where: object) -> Fields:
    """Return the first recorded account of a type that has these values."""
    for record in records(PUBLIC):
        fields = published(base64.b64decode(record["data"])) if record["account_type"] == account_type else {}
        if fields and all(fields[name] == value for name, value in where.items()):
            return fields
    raise AssertionError(where)


POOL = first("Pool", layout_version=1, collect_fee_mode=0)
COMPOUNDING = first("Pool", layout_version=1, collect_fee_mode=2)
POSITION = first("Position")
VESTING = first("Vesting")


def changed(fields: Fields, **values: object) -> Fields:
    """Return a copy with values at paths (`a__0__b`) set, integers of any size as decimal strings."""
    result = copy.deepcopy(fields)
    for path, value in values.items():
        inner: Any = result
        *way, last = path.split("__")
        for key in way:
            inner = inner[int(key) if key.isdigit() else key]
        inner[last] = str(value) if isinstance(value, int) else value
    return result


def with_base_fee(mode: int, pool: Fields = POOL, **fields: int) -> Fields:
    fee: Fields = {"base_fee_mode": mode, "cliff_fee_numerator": "500000000", "number_of_period": 120}
    fee |= {"period_frequency": "60", "sqrt_price_step_bps": 100, "scheduler_expiration_duration": 10**6}
    fee |= {"reduction_factor": "265"}
    fee |= {name: str(value) for name, value in fields.items()}
    return changed(pool, pool_fees__base_fee=fee, activation_point=1000, fee_version=1)


# ---- price and reserves ------------------------------------------------------------------------------------


@given(sqrt_price=st.integers(1, MAX_U128), decimals_a=st.integers(0, 255), decimals_b=st.integers(0, 255))
def test_price_is_exact(sqrt_price, decimals_a, decimals_b):
    """The price is the exact ratio, whatever the decimals and whatever precision the caller works with."""
    with decimal.localcontext(decimal.Context(prec=3)):
        price = derived.price(changed(POOL, sqrt_price=sqrt_price), decimals_a, decimals_b)
    assert Fraction(price) == Fraction(sqrt_price**2, 2**128) * Fraction(10) ** (decimals_a - decimals_b)


def test_price_counts_whole_tokens():
    """At equal raw amounts, a token of 6 decimals costs a thousandth of one of 9."""
    pool = changed(POOL, sqrt_price=2**64)
    assert derived.price(pool, 9, 6) == 1000
    assert str(derived.price(pool, 6, 9)) == "0.001"


@st.composite
def pools(draw: st.DrawFn) -> Fields:
    """Return a pool of either kind with any price in its range, and reserves that fit a u64."""
    low, price, high = sorted(draw(st.lists(st.integers(1, MAX_U128), min_size=3, max_size=3)))
    most = MAX_U64 * min(price * high // max(1, high - price), 2**128 // max(1, price - low))
    liquidity = draw(st.integers(0, min(most, MAX_U128)))
    return changed(
        POOL,
        sqrt_min_price=low,
        sqrt_price=price,
        sqrt_max_price=high,
        liquidity=liquidity,
        token_a_amount=draw(u64),
        token_b_amount=draw(u64),
        collect_fee_mode=draw(st.integers(0, 2)),
    )


@given(pool=pools(), data=st.data())
def test_withdrawals_never_exceed_the_reserves(pool, data):
    """Withdrawing in two parts gives at most as much as at once, and all of it at most the reserves, a unit less."""
    liquidity = int(pool["liquidity"])
    part, more = sorted((data.draw(st.integers(0, liquidity)), data.draw(st.integers(0, liquidity))))
    least, most = derived.withdraw_amounts(pool, part), derived.withdraw_amounts(pool, more)
    rest = derived.withdraw_amounts(pool, more - part)
    everything, reserves = derived.withdraw_amounts(pool, liquidity), derived.reserves(pool)
    for side in range(2):
        assert 0 <= least[side] <= least[side] + rest[side] <= most[side] <= everything[side] <= reserves[side]
        if liquidity:
            assert reserves[side] - everything[side] <= 1
    assert derived.withdraw_amounts(pool, 0) == (0, 0)


# ---- fees --------------------------------------------------------------------------------------------------


@given(mode=st.sampled_from([0, 1]), points=st.lists(st.integers(1000, FUTURE), min_size=2, max_size=2))
def test_scheduled_fees_only_fall(mode, points):
    """From activation on the fee falls from the cliff to that of the last period, which is asked for before it too."""
    pool = with_base_fee(mode, reduction_factor=265 if mode else 4_000_000)
    earlier, later = (derived.base_fee_numerator(pool, point) for point in sorted(points))
    least = derived.base_fee_numerator(pool, FUTURE)
    assert 0 < least <= later <= earlier <= 500_000_000 == derived.base_fee_numerator(pool, 1059)
    assert derived.base_fee_numerator(pool, 999) == derived.base_fee_numerator(pool, 1000 + 60 * 120) == least


@given(mode=st.sampled_from([3, 4]), prices=st.lists(st.integers(0, MAX_U128), min_size=2, max_size=2))
def test_market_cap_fees_only_fall_with_the_price(mode, prices):
    """A higher price never asks for more, the first price for the cliff, and an expired schedule for the least."""
    pool = with_base_fee(mode, reduction_factor=265 if mode == 4 else 4_000_000)
    pool = changed(pool, pool_fees__init_sqrt_price=2**64)
    low, high = (changed(pool, sqrt_price=price) for price in sorted(prices))
    least = derived.base_fee_numerator(low, 1000 + 10**6 + 1)
    assert derived.base_fee_numerator(low, 999) == least
    assert least <= derived.base_fee_numerator(high, 1000) <= derived.base_fee_numerator(low, 1000) <= 500_000_000
    assert derived.base_fee_numerator(changed(pool, sqrt_price=2**64), 1000 + 10**6) == 500_000_000


@given(
    cliff=st.integers(0, DENOMINATOR),
    factor=st.integers(1, 9_000),
    periods=st.integers(0, 12),
    mode=st.sampled_from([1, 4]),
)
def test_exponential_fees_are_near_the_exact_power(cliff, factor, periods, mode):
    """An exponential fee is the exact power rounded down, or one less."""
    pool = with_base_fee(mode, cliff_fee_numerator=cliff, reduction_factor=factor, number_of_period=periods)
    exact = cliff * Fraction(10_000 - factor, 10_000) ** periods
    assert exact - 2 < derived.base_fee_numerator(pool, 999) <= exact


@given(point=u64, cliff=u64)
def test_flat_and_limited_fees_are_the_cliff(point, cliff):
    """Without periods, and of a rate limiter, the fee is the cliff at any point."""
    assert derived.base_fee_numerator(with_base_fee(0, cliff_fee_numerator=cliff, period_frequency=0), point) == cliff
    assert derived.base_fee_numerator(with_base_fee(2, cliff_fee_numerator=cliff), point) == cliff


@given(initialized=u1, bin_step=st.integers(0, 10), control=u32, volatility=u32, cliff=u64, version=u1)
def test_total_fees_keep_the_cap(*, initialized, bin_step, control, volatility, cliff, version):
    """The total is base and dynamic fee, this one rounded up, but at most the cap; bps are rounded down."""
    pool = changed(
        with_base_fee(2, cliff_fee_numerator=cliff),
        pool_fees__dynamic_fee__initialized=initialized,
        pool_fees__dynamic_fee__bin_step=bin_step,
        pool_fees__dynamic_fee__variable_fee_control=control,
        pool_fees__dynamic_fee__volatility_accumulator=volatility,
        fee_version=version,
    )
    dynamic = derived.dynamic_fee_numerator(pool)
    assert dynamic == math.ceil(initialized * Fraction(control * (volatility * bin_step) ** 2, 10**11))
    total = derived.total_fee_numerator(pool, 0)
    assert total == min(cliff + dynamic, (500_000_000, 990_000_000)[version])
    assert derived.total_fee_bps(pool, 0) == total * 10_000 // DENOMINATOR <= 9_900


# ---- positions ---------------------------------------------------------------------------------------------


def position(liquidity: int, pending: int = 0, checkpoint: int = 0) -> Fields:
    reward = {"reward_pendings": str(pending), "reward_per_token_checkpoint": str(checkpoint)}
    return changed(
        POSITION,
        unlocked_liquidity=liquidity,
        vested_liquidity=0,
        permanent_locked_liquidity=0,
        fee_a_pending=pending,
        fee_b_pending=pending,
        fee_a_per_token_checkpoint=checkpoint,
        fee_b_per_token_checkpoint=checkpoint,
        reward_infos=[reward, reward],
    )


@given(liquidity=u128, pending=u64, checkpoint=u256, growth_a=u256, growth_b=u256)
def test_unclaimed_fees_wrap_and_stop(liquidity, pending, checkpoint, growth_a, growth_b):
    """What is owed depends on how far the counters moved, past their end as well, and stops at the largest u64."""
    moved = [(checkpoint + growth) % 2**256 for growth in (growth_a, growth_b)]
    pool = changed(POOL, fee_a_per_liquidity=moved[0], fee_b_per_liquidity=moved[1])
    fees = derived.unclaimed_fees(pool, position(liquidity, pending, checkpoint))
    for fee, growth in zip(fees, (growth_a, growth_b), strict=True):
        assert fee == min(MAX_U64, pending + liquidity * growth // 2**128)


def test_locked_liquidity_earns_too():
    """A position earns with all of its liquidity, whether unlocked, vested or locked for ever."""
    pool = changed(POOL, fee_a_per_liquidity=2**128, fee_b_per_liquidity=2**127)
    kinds = {"unlocked_liquidity": 2, "vested_liquidity": 30, "permanent_locked_liquidity": 400}
    assert derived.unclaimed_fees(pool, changed(position(0), **kinds)) == (432, 216)


def with_reward(**values: int) -> Fields:
    """Return a pool whose first reward pays a token a second from 1000 to 2000, and which has no second one."""
    reward = {"initialized": 1, "reward_rate": 2**64, "last_update_time": 1000, "reward_duration_end": 2000}
    reward |= {"reward_per_token_stored": 0} | values
    paths = {f"reward_infos__0__{name}": value for name, value in reward.items() if name != "liquidity"}
    liquidity = values.get("liquidity", 8 * 2**64)
    return changed(POOL, **paths, liquidity=liquidity, reward_infos__1__initialized=0)


@given(times=st.lists(u64, min_size=2, max_size=2), share=st.integers(1, 8), pending=u32)
def test_rewards_grow_with_time_until_they_end(times, share, pending):
    """A position has its share of each second between the last update and the end, and nothing of other seconds."""
    early, late = (
        derived.pending_rewards(with_reward(), position(share * 2**64, pending), time) for time in sorted(times)
    )
    assert early[1] == late[1] == pending
    assert pending <= early[0] <= late[0] <= pending + 1000 * share // 8
    for rewards, time in zip((early, late), sorted(times), strict=True):
        assert rewards[0] == pending + min(max(time - 1000, 0), 1000) * share // 8


def test_rewards_that_do_not_grow():
    """Without liquidity in the pool a reward stands still, and one that wrapped counts from its checkpoint."""
    mine = position(8 * 2**64, 5, 2**256 - 2**128)
    assert derived.pending_rewards(with_reward(), mine, 1000) == (5 + 8, 5)
    assert derived.pending_rewards(with_reward(liquidity=0), mine, 1500) == (5 + 8, 5)
    assert derived.pending_rewards(with_reward(initialized=0), mine, 1500) == (5, 5)


@given(
    points=st.lists(u64, min_size=2, max_size=2),
    cliff_point=u64,
    frequency=u64,
    amounts=st.tuples(st.integers(0, 2**100), st.integers(0, 2**100)),
    periods=u16,
)
def test_vesting_only_grows(points, cliff_point, frequency, amounts, periods):
    """Nothing is released before the cliff, then ever more, and all of it after the last period."""
    cliff, per_period = amounts
    vesting = changed(
        VESTING,
        inner_vesting__cliff_point=cliff_point,
        inner_vesting__period_frequency=frequency,
        inner_vesting__cliff_unlock_liquidity=cliff,
        inner_vesting__liquidity_per_period=per_period,
        inner_vesting__number_of_period=periods,
    )
    early, late = (derived.vesting_released(vesting, point) for point in sorted(points))
    total = cliff + (per_period * periods if frequency else 0)
    assert 0 <= early <= late <= total
    assert derived.vesting_released(vesting, cliff_point) == cliff
    if cliff_point:
        assert derived.vesting_released(vesting, cliff_point - 1) == 0
    if cliff_point + frequency * periods <= MAX_U64:
        assert derived.vesting_released(vesting, cliff_point + frequency * periods) == total


# ---- what is refused ---------------------------------------------------------------------------------------

FULL = dict.fromkeys(("unlocked_liquidity", "vested_liquidity"), MAX_U128)
REFUSED = {
    "an account that is closed": lambda: derived.reserves(None),  # type: ignore[arg-type]
    "an account that did not decode": lambda: derived.reserves(published(b"?")),
    "a position for a pool": lambda: derived.total_fee_bps(POSITION, 0),
    "a pool for a position": lambda: derived.unclaimed_fees(POOL, POOL),
    "a pool for a vesting": lambda: derived.vesting_released(POOL, 0),
    "no number": lambda: derived.price(changed(POOL, sqrt_price="many"), 6, 6),
    "a negative number": lambda: derived.price(changed(POOL, sqrt_price=-1), 6, 6),
    "no price": lambda: derived.price(changed(POOL, sqrt_price=0), 6, 6),
    "decimals": lambda: derived.price(POOL, 6, 256),
    "a point before zero": lambda: derived.base_fee_numerator(POOL, -1),
    "a point above u64": lambda: derived.total_fee_bps(POOL, 2**64),
    "a time above u64": lambda: derived.pending_rewards(POOL, POSITION, 2**64),
    "an unknown mode": lambda: derived.base_fee_numerator(with_base_fee(5), 0),
    "no mode": lambda: derived.base_fee_numerator(changed(POOL, pool_fees__base_fee={}), 0),
    "fields of another mode": lambda: derived.base_fee_numerator(
        changed(POOL, pool_fees__base_fee={"base_fee_mode": 0, "cliff_fee_numerator": "1"}), 0
    ),
    "a fee below zero": lambda: derived.base_fee_numerator(with_base_fee(0, reduction_factor=10**9), FUTURE),
    "more than all of a fee": lambda: derived.base_fee_numerator(with_base_fee(1, reduction_factor=10_001), FUTURE),
    "a fee of nothing": lambda: derived.base_fee_numerator(with_base_fee(1, reduction_factor=10_000), FUTURE),
    "no first price": lambda: derived.base_fee_numerator(
        changed(with_base_fee(3), pool_fees__init_sqrt_price=0), 1000
    ),
    "no step": lambda: derived.base_fee_numerator(
        changed(with_base_fee(4, sqrt_price_step_bps=0), pool_fees__init_sqrt_price=1), 1000
    ),
    "an unknown cap": lambda: derived.total_fee_bps(changed(POOL, fee_version=2), 0),
    "boundless volatility": lambda: derived.dynamic_fee_numerator(
        changed(
            POOL,
            pool_fees__dynamic_fee__initialized=1,
            pool_fees__dynamic_fee__bin_step=1,
            pool_fees__dynamic_fee__volatility_accumulator=2**64,
        )
    ),
    "an unknown collect mode": lambda: derived.reserves(changed(POOL, collect_fee_mode=3)),
    "reserves not tracked": lambda: derived.reserves(changed(COMPOUNDING, layout_version=0)),
    "a price out of range": lambda: derived.reserves(changed(POOL, sqrt_price=2**127)),
    "reserves above u64": lambda: derived.reserves(changed(POOL, liquidity=MAX_U128)),
    "more than all liquidity": lambda: derived.withdraw_amounts(POOL, int(POOL["liquidity"]) + 1),
    "negative liquidity": lambda: derived.withdraw_amounts(COMPOUNDING, -1),
    "an empty compounding pool": lambda: derived.withdraw_amounts(changed(COMPOUNDING, liquidity=0), 1),
    "liquidity above u128": lambda: derived.unclaimed_fees(POOL, changed(POSITION, **FULL)),
    "rewards above u128": lambda: derived.pending_rewards(with_reward(reward_rate=MAX_U128), POSITION, 1002),
    "vesting above u128": lambda: derived.vesting_released(
        changed(VESTING, inner_vesting__liquidity_per_period=MAX_U128), MAX_U64
    ),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(attempt):
    """Where the program would fail, or the account is no such account, there is no number but a reason."""
    with pytest.raises(DerivedError, match=r".{10}") as refusal:
        attempt()
    assert isinstance(refusal.value, AccountSocketError)


def numbers(pool: Fields, mine: Fields, vesting: Fields, point: int) -> list[tuple[int, int]]:
    """Return each derived integer that is not refused, with the most it may be."""
    found = []
    for most, derive in (
        (MAX_U64, lambda: derived.base_fee_numerator(pool, point)),
        (2**100, lambda: derived.dynamic_fee_numerator(pool)),
        (9_900, lambda: derived.total_fee_bps(pool, point)),
        (MAX_U64, lambda: max(derived.reserves(pool))),
        (MAX_U64, lambda: max(derived.withdraw_amounts(pool, int(pool["liquidity"])))),
        (MAX_U64, lambda: max(derived.unclaimed_fees(pool, mine))),
        (MAX_U64, lambda: max(derived.pending_rewards(pool, mine, point))),
        (MAX_U128, lambda: derived.vesting_released(vesting, point)),
        (MAX_U128, lambda: derived.vesting_released(mine, point)),
    ):
        try:
            found.append((derive(), most))
        except DerivedError:
            continue
    return found


MODES = {16: 6, 484: 4, 486: 3, 696: 2}
"""Where a Pool's base fee mode, collect fee mode, fee version and layout version lie, and how many to try of each."""


def noise(account_type: str) -> st.SearchStrategy[Fields]:
    layout = DECODER.layouts[account_type]

    def account(noise: bytes) -> Fields:
        data = bytearray(layout.discriminator + noise)
        for offset, values in MODES.items() if account_type == "Pool" else ():
            data[offset] %= values
        return published(bytes(data))

    size = layout.size - len(layout.discriminator)
    return st.binary(min_size=size, max_size=size).map(account)


@given(pool=noise("Pool"), mine=noise("Position"), vesting=noise("Vesting"), point=u64)
def test_any_account_has_numbers_or_reasons(pool, mine, vesting, point):
    """Accounts of any bytes whatever give numbers within their types, or DerivedError, and nothing else."""
    assert all(0 <= number <= most for number, most in numbers(pool, mine, vesting, point))
    if int(pool["sqrt_price"]):
        assert derived.price(pool, 0, 255) > 0


def test_largest_values():
    """Accounts of all ones give numbers within their types or reasons, like any others."""
    pool, mine, vesting = (
        published(layout.discriminator.ljust(layout.size, b"\xff"))
        for layout in map(DECODER.layouts.__getitem__, ("Pool", "Position", "Vesting"))
    )
    found = numbers(pool, mine, vesting, MAX_U64)
    assert found == [(MAX_U128, MAX_U128)] * 2  # of a period that never ends: what both vestings free at their cliff
    assert Fraction(derived.price(pool, 0, 0)) == Fraction(MAX_U128**2, 2**128)


# ---- the document ------------------------------------------------------------------------------------------

DOCUMENT = (Path(__file__).parents[3] / "docs" / "derived.md").read_text(encoding="utf-8")


def test_documented_example(capsys):
    """The example of docs/derived.md prints a price and a fee."""
    (example,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    exec(example, {"pool": POOL})
    price, bps = capsys.readouterr().out.split()
    assert float(price) == pytest.approx(float(derived.price(POOL, 9, 6)))
    assert int(bps) == derived.total_fee_bps(POOL, 400_000_000)


def test_documented_functions():
    """docs/derived.md names every public function with its parameters."""
    functions = [getattr(derived, name) for name in derived.__all__ if name.islower()]
    calls = {f"`{function.__name__}({', '.join(inspect.signature(function).parameters)})`" for function in functions}
    assert {call for call in calls if call not in DOCUMENT.replace("*", "")} == set()
