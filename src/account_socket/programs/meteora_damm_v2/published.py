"""
What the derived numbers need of a decoded Pool, Position or Vesting, read from its `data_json`. Pure.

The account as published has decimal strings for integers of 64 bits and more; here they are integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from account_socket.errors import AccountSocketError

MAX_U64 = 2**64 - 1
MAX_U128 = 2**128 - 1

Whole = Annotated[int, msgspec.Meta(ge=0)]
_Kind = TypeVar("_Kind")


class DerivedError(AccountSocketError):
    """A number cannot be derived: the account is not what it should be, or the program's own arithmetic would fail."""


class TimeScheduler(msgspec.Struct, frozen=True):
    """Base fee modes 0 and 1: a period is so many slots or seconds."""

    cliff_fee_numerator: Whole
    number_of_period: Whole
    period_frequency: Whole
    reduction_factor: Whole


class MarketCapScheduler(msgspec.Struct, frozen=True):
    """Base fee modes 3 and 4: a period is a rise of the square root of the price, in bps."""

    cliff_fee_numerator: Whole
    number_of_period: Whole
    sqrt_price_step_bps: Whole
    scheduler_expiration_duration: Whole
    reduction_factor: Whole


class RateLimiter(msgspec.Struct, frozen=True):
    """Base fee mode 2: the fee grows with the amount, from the cliff on."""

    cliff_fee_numerator: Whole


class DynamicFee(msgspec.Struct, frozen=True):
    initialized: Whole
    variable_fee_control: Whole
    bin_step: Whole
    volatility_accumulator: Whole


class PoolFees(msgspec.Struct, frozen=True):
    """`base_fee` stays as published: what it holds depends on its mode, and only the base fee needs to know it."""

    base_fee: dict[str, Any]
    dynamic_fee: DynamicFee
    init_sqrt_price: Whole


class PoolReward(msgspec.Struct, frozen=True):
    initialized: Whole
    reward_duration_end: Whole
    reward_rate: Whole
    reward_per_token_stored: Whole
    last_update_time: Whole


class Pool(msgspec.Struct, frozen=True):
    pool_fees: PoolFees
    liquidity: Whole
    sqrt_min_price: Whole
    sqrt_max_price: Whole
    sqrt_price: Whole
    activation_point: Whole
    collect_fee_mode: Whole
    fee_version: Whole
    fee_a_per_liquidity: Whole
    fee_b_per_liquidity: Whole
    token_a_amount: Whole
    token_b_amount: Whole
    layout_version: Whole
    reward_infos: tuple[PoolReward, PoolReward]


class PositionReward(msgspec.Struct, frozen=True):
    reward_per_token_checkpoint: Whole
    reward_pendings: Whole


class Position(msgspec.Struct, frozen=True):
    fee_a_per_token_checkpoint: Whole
    fee_b_per_token_checkpoint: Whole
    fee_a_pending: Whole
    fee_b_pending: Whole
    unlocked_liquidity: Whole
    vested_liquidity: Whole
    permanent_locked_liquidity: Whole
    reward_infos: tuple[PositionReward, PositionReward]

    @property
    def liquidity(self) -> int:
        """All of the position's liquidity, locked or not. Raises DerivedError above u128."""
        total = self.unlocked_liquidity + self.vested_liquidity + self.permanent_locked_liquidity
        return bounded(total, MAX_U128, "the position's liquidity")


class InnerVesting(msgspec.Struct, frozen=True):
    cliff_point: Whole
    period_frequency: Whole
    cliff_unlock_liquidity: Whole
    liquidity_per_period: Whole
    number_of_period: Whole


class Vesting(msgspec.Struct, frozen=True):
    """A Vesting account, or a Position with its own vesting: the schedule has the same name in both."""

    inner_vesting: InnerVesting


def read(kind: type[_Kind], published: Mapping[str, Any]) -> _Kind:
    """Return what `kind` names of a decoded account. Raises DerivedError where it is missing or no such number."""
    try:
        return msgspec.convert(published, kind, strict=False)
    except msgspec.ValidationError as error:
        raise DerivedError(f"not a decoded {kind.__name__}: {error}") from error


def bounded(value: int, most: int, what: str) -> int:
    """Return `value` if it is from 0 to `most`; else the program's checked arithmetic fails. Raises DerivedError."""
    if not 0 <= value <= most:
        raise DerivedError(f"{what} is not within 0 and {most}")
    return value
