"""Numbers that no account holds, beside a state: what `?derived=1` adds (docs/derived.md)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from account_socket.errors import AccountSocketError
from account_socket.model import RawAccount
from account_socket.programs.meteora_damm_v2 import derived
from account_socket.programs.meteora_damm_v2.derived import DerivedError

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
TOKEN_PROGRAMS = frozenset({
    "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
    "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb",
})  # fmt: skip
DECIMALS_OFFSET = 44
"""In a mint: an optional authority (36 bytes), the supply (8), then the decimals; both token programs."""
MAX_MINTS = 100_000
MISS_SECONDS = 60.0

Look = Callable[[Sequence[str], int], Awaitable[tuple[int, list[RawAccount | None]]]]
"""Reads up to 100 accounts from the node, at a slot or later, within the budget of reads that clients cause."""


class Decimals:
    """
    The decimals of mints, each read from the node once.

    Args:
        look: None where there is no node to ask.
    """

    def __init__(self, look: Look | None) -> None:
        self._look = look
        self._known: OrderedDict[str, int] = OrderedDict()
        self._missed: OrderedDict[str, tuple[float, str]] = OrderedDict()

    async def of(self, mints: Sequence[str]) -> list[int]:
        """Return the decimals of `mints`, in their order. Raises DerivedError where they cannot be had."""
        unknown = [mint for mint in dict.fromkeys(mints) if mint not in self._known]
        if unknown:
            await self._read(unknown)
        return [self._known[mint] for mint in mints]

    async def _read(self, mints: Sequence[str]) -> None:
        if self._look is None:
            raise DerivedError("there is no node to ask for the decimals of the mints")
        for mint in mints:
            until, reason = self._missed.get(mint, (0.0, ""))
            if until > time.monotonic():
                raise DerivedError(reason)
        try:
            _, accounts = await self._look(mints, 0)
        except AccountSocketError as error:
            raise self._miss(mints, "the node did not tell the mints") from error
        for mint, account in zip(mints, accounts, strict=True):
            if account is None or account.owner not in TOKEN_PROGRAMS or len(account.data) <= DECIMALS_OFFSET:
                raise self._miss([mint], f"the node knows no mint {mint}")
            _keep(self._known, mint, account.data[DECIMALS_OFFSET])

    def _miss(self, mints: Sequence[str], reason: str) -> DerivedError:
        for mint in mints:
            _keep(self._missed, mint, (time.monotonic() + MISS_SECONDS, reason))
        return DerivedError(reason)


def _keep(kept: OrderedDict[str, Any], mint: str, value: Any) -> None:
    kept[mint] = value
    if len(kept) > MAX_MINTS:
        kept.popitem(last=False)


class _Pool(msgspec.Struct):
    activation_type: int
    token_a_mint: str
    token_b_mint: str


class _Position(msgspec.Struct):
    pool: str
    unlocked_liquidity: int


class _Told(msgspec.Struct):
    account_type: str
    owner: str
    data_json: dict[str, Any] | None


class _Update(msgspec.Struct):
    account: _Told


_decode = msgspec.json.Decoder(_Update).decode


class Derived:
    """
    Args:
        tip_slot: the newest slot known, which is a point where the pool counts in slots.
        read: the newest state of an account, or None.
    """

    def __init__(
        self, decimals: Decimals, tip_slot: Callable[[], int | None], read: Callable[[str], Awaitable[bytes | None]]
    ) -> None:
        self._decimals = decimals
        self._tip_slot = tip_slot
        self._read = read

    async def add(self, update: bytes) -> bytes:
        """Return an update's JSON with `derived`: an object, or null for accounts from which nothing follows."""
        account = _decode(update).account
        numbers: dict[str, Any] | None = None
        if account.owner == PROGRAM and account.data_json is not None:
            with suppress(msgspec.ValidationError):  # stored by a version that knew less of the account
                if account.account_type == "Pool":
                    numbers = await self._of_pool(account.data_json)
                elif account.account_type == "Position":
                    numbers = await self._of_position(account.data_json)
        return b'%b,"derived":%b}' % (update[:-1], msgspec.json.encode(numbers))

    async def _of_pool(self, pool: dict[str, Any]) -> dict[str, Any]:
        numbers = _Numbers()
        read = msgspec.convert(pool, _Pool)
        point = self._tip_slot() if read.activation_type == 0 else int(time.time())
        numbers.values["point"] = None if point is None else str(point)
        try:
            a, b = await self._decimals.of([read.token_a_mint, read.token_b_mint])
        except DerivedError as error:
            numbers.leave_out("price", str(error))
        else:
            numbers.put("price", lambda: f"{derived.price(pool, a, b):f}")
        if point is None:
            numbers.leave_out("base_fee_numerator", "no slot is known")
            numbers.leave_out("total_fee_bps", "no slot is known")
        else:
            numbers.put("base_fee_numerator", lambda: str(derived.base_fee_numerator(pool, point)))
            numbers.put("total_fee_bps", lambda: derived.total_fee_bps(pool, point))
        numbers.put("dynamic_fee_numerator", lambda: str(derived.dynamic_fee_numerator(pool)))
        numbers.put("reserves", lambda: _pair(derived.reserves(pool)))
        return numbers.values

    async def _of_position(self, position: dict[str, Any]) -> dict[str, Any]:
        numbers = _Numbers()
        own = msgspec.convert(position, _Position, strict=False)
        update = await self._read(own.pool)
        account = None if update is None else _decode(update).account
        pool = {} if account is None or account.data_json is None else account.data_json
        if not _fits(pool, position):
            for name in ("unclaimed_fees", "pending_rewards", "withdraw_amounts"):
                numbers.leave_out(name, "the state of its pool that belongs to it is not known")
            return numbers.values
        numbers.put("unclaimed_fees", lambda: _pair(derived.unclaimed_fees(pool, position)))
        numbers.put("pending_rewards", lambda: [*map(str, derived.pending_rewards(pool, position, int(time.time())))])
        numbers.put("withdraw_amounts", lambda: _pair(derived.withdraw_amounts(pool, own.unlocked_liquidity)))
        return numbers.values


class _Numbers:
    """Derived values by name, and for those that are null the reason."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def put(self, name: str, make: Callable[[], Any]) -> None:
        try:
            self.values[name] = make()
        except DerivedError as error:
            self.leave_out(name, str(error))

    def leave_out(self, name: str, reason: str) -> None:
        self.values[name] = None
        self.values.setdefault("reasons", {})[name] = reason


def _fits(pool: Mapping[str, Any], position: Mapping[str, Any]) -> bool:
    """Whether a position can be measured against this state of its pool; a newer one may be on its way."""
    try:
        return not derived.is_ahead(pool, position)
    except DerivedError:
        return False


def _pair(amounts: derived.Amounts) -> dict[str, str]:
    return {"a": str(amounts.a), "b": str(amounts.b)}
