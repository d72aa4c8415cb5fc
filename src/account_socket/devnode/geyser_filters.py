"""What a Yellowstone subscriber asked for, checked as Yellowstone checks it. Pure."""

from __future__ import annotations

import msgspec
import pybase64
from solders.pubkey import Pubkey

from account_socket.model import RawAccount
from account_socket.protocol import base58
from account_socket.protocol import solana_params as p
from account_socket.sources.geyser_proto import geyser_pb2 as pb

MAX_NAME_CHARACTERS = 128
MAX_ACCOUNTS = 100_000
_INTERSLOT = frozenset({pb.SLOT_FIRST_SHRED_RECEIVED, pb.SLOT_COMPLETED, pb.SLOT_CREATED_BANK, pb.SLOT_DEAD})


class FilterFaultError(ValueError):
    """A filter that the node does not accept; the text is what follows `failed to create filter: `."""


class LamportsTest(msgspec.Struct, frozen=True):
    """A comparison of an account's lamports."""

    operator: str
    value: int

    def passes(self, lamports: int) -> bool:
        """Say whether an account with `lamports` passes."""
        match self.operator:
            case "eq":
                return lamports == self.value
            case "ne":
                return lamports != self.value
            case "lt":
                return lamports < self.value
            case _:
                return lamports > self.value


class AccountFilter(msgspec.Struct, frozen=True):
    """One named filter: fields and data tests AND, values of a list OR; an empty one passes everything."""

    name: str
    accounts: frozenset[str]
    owners: frozenset[str]
    data: tuple[p.Filter, ...]
    lamports: tuple[LamportsTest, ...]
    signed: bool | None

    def passes(self, account: RawAccount) -> bool:
        """Say whether `account` passes."""
        return (
            (not self.accounts or account.pubkey in self.accounts)
            and (not self.owners or account.owner in self.owners)
            and (self.signed is None or self.signed == bool(account.signature))
            and all(each.passes(account.lamports) for each in self.lamports)
            and all(each.matches(account.data) for each in self.data)
        )


class SlotFilter(msgspec.Struct, frozen=True):
    """Which statuses of slots are wanted."""

    name: str
    own_level_only: bool
    interslot: bool

    def passes(self, status: int, level: int) -> bool:
        """Say whether `status` passes in a stream of the commitment `level`."""
        if status in _INTERSLOT:
            return self.interslot
        return not self.own_level_only or status == level


class Filters(msgspec.Struct, frozen=True):
    """
    The whole set of one subscriber.

    Attributes:
        level: the commitment, which is also the number of the status that completes a slot.
        slices: (offset, length) of the data that is sent; none: all of it.
    """

    level: int
    accounts: tuple[AccountFilter, ...]
    slots: tuple[SlotFilter, ...]
    slices: tuple[tuple[int, int], ...] = ()

    def account_names(self, account: RawAccount) -> list[str]:
        """Return the names of the filters that `account` passes."""
        return [each.name for each in self.accounts if each.passes(account)]

    def slot_names(self, status: int) -> list[str]:
        """Return the names of the filters that `status` passes."""
        return [each.name for each in self.slots if each.passes(status, self.level)]

    def cut(self, data: bytes) -> bytes:
        """Return what is sent of an account's data: slices that reach beyond it are left out whole."""
        if not self.slices:
            return data
        return b"".join(data[at : at + size] for at, size in self.slices if at + size <= len(data))


def parse_filters(request: pb.SubscribeRequest, *, max_accounts: int = MAX_ACCOUNTS) -> Filters:
    """Return what `request` asks for; a filter may name `max_accounts` accounts. Raises FilterFaultError."""
    names = (*request.accounts, *request.slots)
    if any(len(name) > MAX_NAME_CHARACTERS for name in names):
        raise FilterFaultError(f"oversized filter name (max allowed size {MAX_NAME_CHARACTERS})")
    return Filters(
        request.commitment,
        tuple(_account_filter(name, each, max_accounts) for name, each in request.accounts.items()),
        tuple(
            SlotFilter(name, each.filter_by_commitment, each.interslot_updates) for name, each in request.slots.items()
        ),
        _slices(request),
    )


def _slices(request: pb.SubscribeRequest) -> tuple[tuple[int, int], ...]:
    slices = tuple((each.offset, each.length) for each in request.accounts_data_slice)
    end = 0
    for at, size in slices:
        if at < end:
            raise FilterFaultError("data slices out of order or overlapping")
        end = at + size
    return slices


def _account_filter(name: str, found: pb.FilterAccounts, max_accounts: int) -> AccountFilter:
    if len(found.account) > max_accounts:
        raise FilterFaultError(f"Max amount of filters/data_slices reached, only {max_accounts} allowed")
    if len(found.filters) > p.MAX_FILTERS:
        raise FilterFaultError(f"Too many filters provided; max {p.MAX_FILTERS}")
    data: list[p.Filter] = []
    lamports: list[LamportsTest] = []
    for each in found.filters:
        kind = each.WhichOneof("filter")
        if kind == "memcmp":
            data.append(p.Memcmp(each.memcmp.offset, _memcmp_bytes(each.memcmp)))
        elif kind == "datasize":
            if any(isinstance(other, p.DataSize) for other in data):
                raise FilterFaultError("datasize used more than once")
            data.append(p.DataSize(each.datasize))
        elif kind == "token_account_state":
            if not each.token_account_state:
                raise FilterFaultError("token_account_state only allowed to be true")
            data.append(p.TokenAccountState())
        elif kind == "lamports" and (operator := each.lamports.WhichOneof("cmp")) is not None:
            lamports.append(LamportsTest(operator, getattr(each.lamports, operator)))
        else:
            raise FilterFaultError("filter should be defined")
    return AccountFilter(
        name,
        frozenset(map(_pubkey, found.account)),
        frozenset(map(_pubkey, found.owner)),
        tuple(data),
        tuple(lamports),
        found.nonempty_txn_signature if found.HasField("nonempty_txn_signature") else None,
    )


def _pubkey(text: str) -> str:
    try:
        Pubkey.from_string(text)
    except ValueError:
        raise FilterFaultError("Invalid pubkey string") from None
    return text


def _memcmp_bytes(memcmp: pb.Memcmp) -> bytes:
    kind = memcmp.WhichOneof("data")
    try:
        if kind == "base58":
            value = base58.decode(memcmp.base58) if len(memcmp.base58) <= p.MAX_MEMCMP_BASE58 else None
        elif kind == "base64":
            value = _from_base64(memcmp.base64)
        else:
            value = memcmp.raw
    except ValueError:
        raise FilterFaultError(f"invalid {kind}") from None
    if value is None or len(value) > p.MAX_MEMCMP_BYTES:
        raise FilterFaultError("data too large")
    return value


def _from_base64(text: str) -> bytes | None:
    return pybase64.b64decode(text, validate=True) if len(text) <= p.MAX_MEMCMP_BASE64 else None
