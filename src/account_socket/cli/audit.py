"""Compares what is stored with what the node says, while both go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from account_socket.cli.changes import Change, changes
from account_socket.decode.registry import Registry
from account_socket.model import RawAccount, missing_account
from account_socket.sources.rpc_http import MAX_KEYS, RpcHttp
from account_socket.store.raw_accounts import Fingerprint, StoredAccount, told_hash
from account_socket.store.stored_accounts import StoredAccounts

READ_SECONDS = 60.0
AHEAD_SLOTS = 150
"""A stored slot that is farther ahead of what the node told last is not waited for, unless the node has it. One that
is farther ahead of the node's answer is wrong: no update of the account would be newer."""

MAX_SUSPECTS = 1_000

ROUNDS = 12
"""How often an account is looked at again that differs: a server beside may be about to store what the node says."""

STILL_ROUNDS = 4
"""So often it must stand still and differ."""

ROUND_SECONDS = 1.0
MAX_CHANGES = 20
_NO_ROW = -1


@dataclass(frozen=True)
class Difference:
    """
    An account whose stored state is not the node's.

    Attributes:
        account_type: as stored; where nothing is, as the node's bytes are decoded.
        stored_slot, node_slot: of the two states; None where nothing is stored.
        changes: what differs, stored and on the node: at most MAX_CHANGES.
        more: how many further ones there are.
    """

    pubkey: str
    account_type: str
    stored_slot: int | None
    node_slot: int
    changes: list[Change]
    more: int = 0

    @property
    def is_close(self) -> bool:
        """Whether nothing is wrong but that the account is stored as open and was closed since."""
        return self.changes[0] == ("closed", False, True)


@dataclass
class Tally:
    """
    What came of an audit.

    Attributes:
        compared: accounts about which something was found out.
        different, unsettled: of these, those that differ, and those that changed whenever they were looked at.
        closed: of the different ones, those that only were closed.
        unknown: accounts that are not stored, and of which the node says that the programs have none such.
        first_slot, last_slot: the node's slots at which was compared.
    """

    compared: int = 0
    different: int = 0
    closed: int = 0
    unsettled: int = 0
    unknown: list[str] = field(default_factory=list)
    first_slot: int | None = None
    last_slot: int | None = None

    def see(self, slot: int) -> None:
        """Take note of a slot of the node."""
        self.first_slot = slot if self.first_slot is None else min(self.first_slot, slot)
        self.last_slot = slot if self.last_slot is None else max(self.last_slot, slot)


@dataclass
class _Suspect:
    """An account that differs: the row that was last looked at, and how often it was the same."""

    id: int = _NO_ROW
    still: int = 0


@dataclass(frozen=True)
class _Look:
    """One look at an account: the row before the node was asked and after, if there is one, and what the node said."""

    before: Fingerprint | None
    after: Fingerprint | None
    node: RawAccount


class Audit:
    """
    Each method that reads raises StoreError and RpcError.

    Args:
        read_seconds: for one answer of the node, the wait for the slot that is stored included.
        round_seconds: the pause before accounts that differ are looked at again.
    """

    def __init__(
        self,
        stored: StoredAccounts,
        rpc: RpcHttp,
        registry: Registry,
        *,
        read_seconds: float = READ_SECONDS,
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        self._stored = stored
        self._rpc = rpc
        self._registry = registry
        self._read_seconds = read_seconds
        self._round_seconds = round_seconds
        self._suspects: dict[str, _Suspect] = {}
        self.tally = Tally()

    async def compare(self, pubkeys: AsyncIterator[str]) -> AsyncIterator[Difference]:
        """Yield the differences among `pubkeys`, which are asked for a hundred at a time."""
        async for page in _pages(pubkeys):
            await self._look_first(page)
            if len(self._suspects) >= MAX_SUSPECTS:
                async for difference in self._settle():
                    yield difference
        async for difference in self._settle():
            yield difference

    async def _look_first(self, pubkeys: list[str]) -> None:
        looks = await self._look(pubkeys)
        unknown = [pubkey for pubkey, look in looks.items() if look.after is None and self._agrees(look)]
        self.tally.unknown += unknown
        self.tally.compared += len(looks) - len(unknown)
        self._suspects |= {pubkey: _Suspect() for pubkey, look in looks.items() if not self._agrees(look)}

    async def _settle(self) -> AsyncIterator[Difference]:
        for number in range(ROUNDS):
            if not self._suspects:
                return
            if number:
                await asyncio.sleep(self._round_seconds)
            suspects = list(self._suspects)
            for start in range(0, len(suspects), MAX_KEYS):
                for look in (await self._look(suspects[start : start + MAX_KEYS])).values():
                    if difference := await self._judge(look):
                        yield difference
        self.tally.unsettled += len(self._suspects)
        self._suspects.clear()

    async def _judge(self, look: _Look) -> Difference | None:
        """Acquit, go on suspecting, or return what is different in an account that stands still."""
        pubkey = look.node.pubkey
        if self._agrees(look):
            del self._suspects[pubkey]
            return None
        suspect = self._suspects[pubkey]
        id_ = _id(look.after)
        moved = _id(look.before) != id_ or id_ != suspect.id
        self._suspects[pubkey] = suspect = _Suspect(id_, 1 if moved else suspect.still + 1)
        if suspect.still < STILL_ROUNDS:
            return None
        stored = await asyncio.to_thread(self._stored.account, pubkey)
        if _id(stored) != suspect.id:
            return None
        del self._suspects[pubkey]
        self.tally.different += 1
        difference = describe(stored, look.node, self._registry)
        self.tally.closed += difference.is_close
        return difference

    def _agrees(self, look: _Look) -> bool:
        return any(agrees(stored, look.node, self._registry) for stored in (look.before, look.after))

    async def _look(self, pubkeys: Sequence[str]) -> dict[str, _Look]:
        """Read the rows, the node at their slot or later, and the rows again."""
        before = await asyncio.to_thread(self._stored.fingerprints, pubkeys)
        slot, states = await self._ask(pubkeys, max((row.slot for row in before.values()), default=0))
        self.tally.see(slot)
        after = await asyncio.to_thread(self._stored.fingerprints, pubkeys)
        return {
            pubkey: _Look(before.get(pubkey), after.get(pubkey), state or missing_account(pubkey, slot))
            for pubkey, state in zip(pubkeys, states, strict=True)
        }

    async def _ask(self, pubkeys: Sequence[str], slot: int) -> tuple[int, list[RawAccount | None]]:
        if slot > (self.tally.last_slot or 0) + AHEAD_SLOTS:
            slot = min(slot, await self._rpc.get_slot())
        return await self._rpc.get_multiple_accounts(
            pubkeys, at_least=slot, budget=self._rpc.background, deadline=self._read_seconds
        )


def is_closed(account: RawAccount, registry: Registry) -> bool:
    """Whether the program has no such account (any more)."""
    return account.lamports == 0 or account.owner not in registry.programs


def is_ahead(slot: int, node: RawAccount) -> bool:
    """Whether a stored slot is one that the node cannot have told yet."""
    return slot > node.slot + AHEAD_SLOTS


def agrees(stored: Fingerprint | None, node: RawAccount, registry: Registry) -> bool:
    """
    Whether a stored state, or that there is none, is what the node says.

    Of a closed account only that counts, and its slot: what becomes of it is not kept.
    """
    closed = is_closed(node, registry)
    if stored is None:
        return closed
    if is_ahead(stored.slot, node):
        return False
    if stored.closed or closed:
        return stored.closed == closed
    if stored.content != node.content_hash():
        return False
    decoded = registry.decode(node.owner, node.data)
    return stored.account_type == decoded.account_type and stored.told == told_hash(decoded.data_json)


def describe(stored: StoredAccount | None, node: RawAccount, registry: Registry) -> Difference:
    """Return what differs, field by field."""
    if stored is None:
        account_type = registry.decode(node.owner, node.data).account_type
        return Difference(node.pubkey, account_type, None, node.slot, [("exists", False, True)])
    differing = _differing(stored, node, registry)
    shown = list(islice(differing, MAX_CHANGES))
    more = sum(1 for _ in differing)
    return Difference(node.pubkey, stored.account_type, stored.raw.slot, node.slot, shown, more)


def _differing(stored: StoredAccount, node: RawAccount, registry: Registry) -> Iterator[Change]:
    closed = is_closed(node, registry)
    if is_ahead(stored.raw.slot, node):
        yield "slot", stored.raw.slot, node.slot
    if stored.closed != closed:
        yield "closed", stored.closed, closed
    elif closed:
        return
    for name in ("owner", "lamports", "executable"):
        old, new = getattr(stored.raw, name), getattr(node, name)
        if old != new:
            yield name, old, new
    if not stored.closed and not closed:
        yield from _differing_data(stored, node, registry)


def _differing_data(stored: StoredAccount, node: RawAccount, registry: Registry) -> Iterator[Change]:
    decoded = registry.decode(node.owner, node.data)
    if stored.account_type != decoded.account_type:
        yield "account_type", stored.account_type, decoded.account_type
    fields = list(changes(_parsed(stored.data_json), _parsed(decoded.data_json), "data_json"))
    yield from fields
    if stored.raw.data != node.data:
        if len(stored.raw.data) != len(node.data):
            yield "data bytes", len(stored.raw.data), len(node.data)
        elif not fields:
            place = next(i for i, (old, new) in enumerate(zip(stored.raw.data, node.data, strict=True)) if old != new)
            yield f"data[{place}]", stored.raw.data[place], node.data[place]


def _id(row: Fingerprint | StoredAccount | None) -> int:
    return _NO_ROW if row is None else row.id


def _parsed(data_json: bytes) -> Any:
    try:
        return json.loads(data_json)
    except ValueError:
        return f"not JSON: {data_json[:40]!r}"


async def _pages(pubkeys: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    page: list[str] = []
    async for pubkey in pubkeys:
        page.append(pubkey)
        if len(page) == MAX_KEYS:
            yield page
            page = []
    if page:
        yield page
