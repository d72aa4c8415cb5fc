"""
Numbers of DAMM v2 that no account holds but every client wants: prices, fees, reserves, what a position is owed. Pure.

Each function takes accounts as published, the `data_json` of docs/protocol.md as a dict, and computes what the program
would: in integers, with its rounding and its wrapping. Amounts are raw base units of the token. Where the program
itself would refuse (an overflow, an unknown mode), and where the account is not of the type that is asked for,
DerivedError is raised; nothing is guessed.

Source: the program 0.2.1 and the SDK 1.5.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal, Inexact
from typing import Any, NamedTuple

from account_socket.programs.meteora_damm_v2.fees import (
    FEE_DENOMINATOR,
    base_fee_numerator,
    dynamic_fee_numerator,
    total_fee_bps,
    total_fee_numerator,
)
from account_socket.programs.meteora_damm_v2.published import (
    MAX_U64,
    MAX_U128,
    DerivedError,
    Pool,
    PoolReward,
    Position,
    Vesting,
    bounded,
    read,
)

__all__ = [
    "FEE_DENOMINATOR",
    "Amounts",
    "DerivedError",
    "base_fee_numerator",
    "dynamic_fee_numerator",
    "is_ahead",
    "pending_rewards",
    "price",
    "reserves",
    "total_fee_bps",
    "total_fee_numerator",
    "unclaimed_fees",
    "vesting_released",
    "withdraw_amounts",
]

_COMPOUNDING = 2
"""The `collect_fee_mode` of pools without a price range, whose reserves are stored."""
_MAX_DECIMALS = 255
# A square of 128 bits times 5 ** 128 has at most 167 digits.
_EXACT = Context(prec=167, traps=[Inexact])


class Amounts(NamedTuple):
    """Raw base units of the pool's token A and token B, each a u64."""

    a: int
    b: int


def price(pool: Mapping[str, Any], decimals_a: int, decimals_b: int) -> Decimal:
    """
    Return what one token A costs in token B, in whole tokens.

    Args:
        pool: a Pool's `data_json`.
        decimals_a: the decimals of token A's mint, 0 to 255.
        decimals_b: those of token B's.
    Returns:
        The exact value, of up to 167 digits, no trailing zeros; the SDK rounds it to 20 (`format(price, ".20g")`).
    Raises:
        DerivedError: not a Pool, one without a price, or decimals out of range.
    """
    sqrt_price = read(Pool, pool).sqrt_price
    if sqrt_price == 0:
        raise DerivedError("the pool has no price")
    for decimals in (decimals_a, decimals_b):
        bounded(decimals, _MAX_DECIMALS, "a mint's decimals")
    # sqrt_price is Q64, and 1 / 2 ** 128 is 5 ** 128 / 10 ** 128: the decimal form ends.
    digits = Decimal(sqrt_price**2 * 5**128)
    return digits.scaleb(decimals_a - decimals_b - 128, _EXACT).normalize(_EXACT)


def reserves(pool: Mapping[str, Any]) -> Amounts:
    """
    Return what the pool's liquidity stands for, rounded up; unclaimed fees lie in the vaults besides.

    Args:
        pool: a Pool's `data_json`.
    Raises:
        DerivedError: not a Pool, or one that the program cannot have written.
    """
    decoded = read(Pool, pool)
    if _is_compounding(decoded):
        return Amounts(decoded.token_a_amount, decoded.token_b_amount)
    a, b = _concentrated(decoded, -decoded.liquidity)
    return _amounts(-a, -b)


def withdraw_amounts(pool: Mapping[str, Any], liquidity: int) -> Amounts:
    """
    Return what removing liquidity pays out now, rounded down, before a Token-2022 transfer fee.

    Args:
        pool: a Pool's `data_json`.
        liquidity: 0 to the pool's, in its units: a position can remove its `unlocked_liquidity`.
    Raises:
        DerivedError: not a Pool, one that the program cannot have written, or more liquidity than the pool has.
    """
    decoded = read(Pool, pool)
    bounded(liquidity, decoded.liquidity, "the liquidity to withdraw")
    if not _is_compounding(decoded):
        return _amounts(*_concentrated(decoded, liquidity))
    if liquidity == 0:
        return Amounts(0, 0)
    return _amounts(
        liquidity * decoded.token_a_amount // decoded.liquidity,
        liquidity * decoded.token_b_amount // decoded.liquidity,
    )


def is_ahead(pool: Mapping[str, Any], position: Mapping[str, Any]) -> bool:
    """
    Return whether the position was last credited from a newer state of its pool than this one.

    What it is owed cannot be told from such a pair: counters that seem to have wrapped give the largest u64.

    Args:
        pool: the `data_json` of the position's Pool.
        position: a Position's `data_json`.
    Raises:
        DerivedError: not a Pool and a Position.
    """
    of_pool, own = read(Pool, pool), read(Position, position)
    growths = [
        of_pool.fee_a_per_liquidity - own.fee_a_per_token_checkpoint,
        of_pool.fee_b_per_liquidity - own.fee_b_per_token_checkpoint,
        *(
            reward.reward_per_token_stored - mine.reward_per_token_checkpoint
            for reward, mine in zip(of_pool.reward_infos, own.reward_infos, strict=True)
        ),
    ]
    # Counters do wrap, but never get half way round between two credits: a swap moves one by 2 ** 192 at most.
    return any(growth % 2**256 >= 2**255 for growth in growths)


def unclaimed_fees(pool: Mapping[str, Any], position: Mapping[str, Any]) -> Amounts:
    """
    Return the trading fees that the position can claim now; at most a u64 of each, as the program has it.

    Args:
        pool: the `data_json` of the position's Pool.
        position: a Position's `data_json`, not ahead of the pool's (see `is_ahead`).
    Raises:
        DerivedError: not a Pool and a Position, or the position's liquidity is no u128.
    """
    of_pool, own = read(Pool, pool), read(Position, position)
    growth_a = of_pool.fee_a_per_liquidity - own.fee_a_per_token_checkpoint
    growth_b = of_pool.fee_b_per_liquidity - own.fee_b_per_token_checkpoint
    return Amounts(
        _accrued(own.fee_a_pending, own.liquidity, growth_a, 128),
        _accrued(own.fee_b_pending, own.liquidity, growth_b, 128),
    )


def pending_rewards(pool: Mapping[str, Any], position: Mapping[str, Any], now: int) -> tuple[int, int]:
    """
    Return the farming rewards that the position could claim at `now`, of the pool's first and second reward.

    Args:
        pool: the `data_json` of the position's Pool.
        position: a Position's `data_json`, not ahead of the pool's (see `is_ahead`).
        now: unix time in seconds, whatever the pool's `activation_type`; a time before the reward's last update counts
            as that.
    Returns:
        Raw base units of each reward's mint, each at most a u64.
    Raises:
        DerivedError: not a Pool and a Position, or values with which the program's arithmetic fails.
    """
    bounded(now, MAX_U64, "the time")
    of_pool, own = read(Pool, pool), read(Position, position)
    first, second = (
        _accrued(
            mine.reward_pendings,
            own.liquidity,
            _reward_per_liquidity(reward, of_pool.liquidity, now) - mine.reward_per_token_checkpoint,
            192,
        )
        if reward.initialized
        else mine.reward_pendings
        for reward, mine in zip(of_pool.reward_infos, own.reward_infos, strict=True)
    )
    return first, second


def vesting_released(vesting: Mapping[str, Any], point: int) -> int:
    """
    Return the liquidity that the schedule has set free up to a point.

    What a refresh of the position would unlock is this less `total_released_liquidity`.

    Args:
        vesting: the `data_json` of a Vesting, or of a Position that keeps a vesting of its own.
        point: slot or unix time, by the pool's `activation_type`.
    Raises:
        DerivedError: neither of the two, or more liquidity than a u128.
    """
    schedule = read(Vesting, vesting).inner_vesting
    if bounded(point, MAX_U64, "the point") < schedule.cliff_point:
        return 0
    if schedule.period_frequency == 0:
        return schedule.cliff_unlock_liquidity
    periods = min(schedule.number_of_period, (point - schedule.cliff_point) // schedule.period_frequency)
    released = schedule.cliff_unlock_liquidity + periods * schedule.liquidity_per_period
    return bounded(released, MAX_U128, "the released liquidity")


def _is_compounding(pool: Pool) -> bool:
    if pool.collect_fee_mode > _COMPOUNDING:
        raise DerivedError(f"collect_fee_mode {pool.collect_fee_mode} is unknown")
    if pool.collect_fee_mode == _COMPOUNDING and pool.layout_version == 0:
        raise DerivedError("a compounding pool whose reserves are not tracked")
    return pool.collect_fee_mode == _COMPOUNDING


def _concentrated(pool: Pool, liquidity: int) -> tuple[int, int]:
    """Return A and B of some liquidity, floored; of negative liquidity: their ceiling, negated."""
    if not (pool.sqrt_price > 0 and pool.sqrt_min_price <= pool.sqrt_price <= pool.sqrt_max_price):
        raise DerivedError("the pool's price is outside of its range")
    a = liquidity * (pool.sqrt_max_price - pool.sqrt_price) // (pool.sqrt_price * pool.sqrt_max_price)
    b = liquidity * (pool.sqrt_price - pool.sqrt_min_price) >> 128
    return a, b


def _amounts(a: int, b: int) -> Amounts:
    return Amounts(bounded(a, MAX_U64, "the amount of token A"), bounded(b, MAX_U64, "the amount of token B"))


def _accrued(pending: int, liquidity: int, growth: int, scale: int) -> int:
    """Return what is owed: cumulative counters wrap at u256, amounts stop at u64."""
    return min(pending + (liquidity * (growth % 2**256) >> scale), MAX_U64)


def _reward_per_liquidity(reward: PoolReward, liquidity: int, now: int) -> int:
    if liquidity == 0:
        return reward.reward_per_token_stored
    elapsed = max(0, min(now, reward.reward_duration_end) - reward.last_update_time)
    emitted = bounded(elapsed * reward.reward_rate, MAX_U128, "the reward since the last update")
    return reward.reward_per_token_stored + (emitted << 128) // liquidity
