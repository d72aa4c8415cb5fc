"""
The fee that the next swap of a DAMM v2 pool pays, from the decoded Pool. Pure.

Fees are numerators over `FEE_DENOMINATOR`. A point is a slot where the pool's `activation_type` is 0, and a unix time
in seconds where it is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from account_socket.programs.meteora_damm_v2.published import (
    MAX_U64,
    MAX_U128,
    DerivedError,
    DynamicFee,
    MarketCapScheduler,
    Pool,
    RateLimiter,
    TimeScheduler,
    bounded,
    read,
)

FEE_DENOMINATOR = 10**9
MAX_FEE_NUMERATORS = (500_000_000, 990_000_000)
"""The highest total fee, by the pool's `fee_version`."""
BASIS_POINTS = 10_000
_ONE_Q64 = 1 << 64
_VOLATILITY_SCALE = 10**11


def base_fee_numerator(pool: Mapping[str, Any], point: int) -> int:
    """
    Return the base fee at a point.

    A rate limiter's fee depends on direction and amount of the swap: of such a pool this is the least it asks for.

    Args:
        pool: a Pool's `data_json`.
        point: slot or unix time, by the pool's `activation_type`.
    Raises:
        DerivedError: not a Pool, an unknown mode, or parameters with which the program refuses to swap.
    """
    return _base_fee(read(Pool, pool), bounded(point, MAX_U64, "the point"))


def dynamic_fee_numerator(pool: Mapping[str, Any]) -> int:
    """
    Return the dynamic fee, 0 where the pool has none.

    It is that of the stored volatility, as the next swap pays it: volatility decays only with a swap, after its fee.

    Args:
        pool: a Pool's `data_json`.
    Raises:
        DerivedError: not a Pool, or values with which the program's arithmetic fails.
    """
    return _dynamic_fee(read(Pool, pool).pool_fees.dynamic_fee)


def total_fee_numerator(pool: Mapping[str, Any], point: int) -> int:
    """
    Return base and dynamic fee together, at most the cap of the pool's `fee_version`.

    Takes and raises what `base_fee_numerator` does.
    """
    decoded = read(Pool, pool)
    if decoded.fee_version >= len(MAX_FEE_NUMERATORS):
        raise DerivedError(f"fee_version {decoded.fee_version} is unknown")
    base = _base_fee(decoded, bounded(point, MAX_U64, "the point"))
    return min(base + _dynamic_fee(decoded.pool_fees.dynamic_fee), MAX_FEE_NUMERATORS[decoded.fee_version])


def total_fee_bps(pool: Mapping[str, Any], point: int) -> int:
    """Return the total fee in whole basis points, rounded down. Takes and raises what `base_fee_numerator` does."""
    return total_fee_numerator(pool, point) * BASIS_POINTS // FEE_DENOMINATOR


def _base_fee(pool: Pool, point: int) -> int:
    block = pool.pool_fees.base_fee
    mode = block.get("base_fee_mode")
    match mode:
        case 0 | 1:
            timed = read(TimeScheduler, block)
            if timed.period_frequency == 0:
                return timed.cliff_fee_numerator
            return _reduced(timed, _periods_by_time(timed, pool, point), exponential=mode == 1)
        case 2:
            return read(RateLimiter, block).cliff_fee_numerator
        case 3 | 4:
            priced = read(MarketCapScheduler, block)
            return _reduced(priced, _periods_by_price(priced, pool, point), exponential=mode == 4)
        case _:
            raise DerivedError(f"base_fee_mode {mode} is unknown")


def _periods_by_time(fee: TimeScheduler, pool: Pool, point: int) -> int:
    # Before activation only the whitelisted vault can buy; it pays the fee of the last period.
    if point < pool.activation_point:
        return fee.number_of_period
    return min(fee.number_of_period, (point - pool.activation_point) // fee.period_frequency)


def _periods_by_price(fee: MarketCapScheduler, pool: Pool, point: int) -> int:
    if not 0 <= point - pool.activation_point <= fee.scheduler_expiration_duration:
        return fee.number_of_period
    start = pool.pool_fees.init_sqrt_price
    if pool.sqrt_price <= start:
        return 0
    if start == 0 or fee.sqrt_price_step_bps == 0:
        raise DerivedError("a market cap scheduler without a starting price or a step")
    risen_bps = (pool.sqrt_price - start) * BASIS_POINTS // start
    return min(fee.number_of_period, risen_bps // fee.sqrt_price_step_bps)


def _reduced(fee: TimeScheduler | MarketCapScheduler, periods: int, *, exponential: bool) -> int:
    if not exponential:
        reduced = fee.cliff_fee_numerator - fee.reduction_factor * periods
        return bounded(reduced, MAX_U64, "the base fee")
    kept = bounded(_ONE_Q64 - (fee.reduction_factor << 64) // BASIS_POINTS, _ONE_Q64, "what a period keeps of the fee")
    return fee.cliff_fee_numerator * _power_q64(kept, periods) >> 64


def _power_q64(base: int, exponent: int) -> int:
    """Return base ** exponent in Q64, cut off after each product, in the program's order. Raises DerivedError."""
    power = _ONE_Q64
    while exponent:
        if exponent & 1:
            power = power * base >> 64
        base = base * base >> 64
        exponent >>= 1
    if power == 0:
        raise DerivedError("the exponential base fee falls below what Q64 can hold")
    return power


def _dynamic_fee(fee: DynamicFee) -> int:
    if not fee.initialized:
        return 0
    square = bounded((fee.volatility_accumulator * fee.bin_step) ** 2, MAX_U128, "the square of the volatility")
    scaled = bounded(square * fee.variable_fee_control + _VOLATILITY_SCALE - 1, MAX_U128, "the dynamic fee")
    return scaled // _VOLATILITY_SCALE
