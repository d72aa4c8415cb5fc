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
from account_socket.store.stored_accounts import Fingerprint, StoredAccount, StoredAccounts, told_hash

READ_SECONDS = 60.0
AHEAD_SLOTS = 150
"""A stored slot that is farther ahead of what the node told last is not waited for, unless the node has it."""

MAX_SUSPECTS = 1_000

ROUNDS = 12
"""How often an account is looked at again that differs: a server beside may be about to store what the node says."""

STILL_ROUNDS = 4
"""So often it must stand still and differ."""

ROUND_SECONDS = 1.0
MAX_CHANGES = 20


@dataclass(frozen=True)
class Difference:
    """
    An account whose stored state is not the node's.

    Attributes:
        stored_slot, node_slot: of the two states.
        changes: what differs, stored and on the node: at most MAX_CHANGES.
        more: how many further ones there are.
    """

    pubkey: str
    account_type: str
    stored_slot: int
    node_slot: int
    changes: list[Change]
    more: int = 0


@dataclass
class Tally:
    """
    What came of an audit.

    Attributes:
        compared: accounts about which something was found out.
        different, unsettled: of these, those that differ, and those that changed whenever they were looked at.
        unknown: accounts that the database does not know.
        first_slot, last_slot: the node's slots at which was compared.
    """

    compared: int = 0
    different: int = 0
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

    id: int = -1
    still: int = 0


@dataclass(frozen=True)
class _Look:
    """One look at an account: the row before the node was asked and after, and what the node said."""

    before: Fingerprint
    after: Fingerprint
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
        self.tally.unknown += [pubkey for pubkey in pubkeys if pubkey not in looks]
        self.tally.compared += len(looks)
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
        moved = look.before.id != look.after.id or look.after.id != suspect.id
        self._suspects[pubkey] = suspect = _Suspect(look.after.id, 1 if moved else suspect.still + 1)
        if suspect.still < STILL_ROUNDS:
            return None
        stored = await asyncio.to_thread(self._stored.account, pubkey)
        if stored is None or stored.id != suspect.id:
            return None
        del self._suspects[pubkey]
        self.tally.different += 1
        return describe(stored, look.node, self._registry)

    def _agrees(self, look: _Look) -> bool:
        return any(agrees(stored, look.node, self._registry) for stored in (look.before, look.after))

    async def _look(self, pubkeys: Sequence[str]) -> dict[str, _Look]:
        """Read the rows, the node at their slot or later, and the rows again; without accounts that are not stored."""
        before = await asyncio.to_thread(self._stored.fingerprints, pubkeys)
        if not before:
            return {}
        slot, states = await self._ask(list(before), max(row.slot for row in before.values()))
        self.tally.see(slot)
        after = await asyncio.to_thread(self._stored.fingerprints, list(before))
        return {
            pubkey: _Look(row, after.get(pubkey, row), state or missing_account(pubkey, slot))
            for (pubkey, row), state in zip(before.items(), states, strict=True)
        }

    async def _ask(self, pubkeys: list[str], slot: int) -> tuple[int, list[RawAccount | None]]:
        if slot > (self.tally.last_slot or 0) + AHEAD_SLOTS:
            slot = min(slot, await self._rpc.get_slot())
        return await self._rpc.get_multiple_accounts(
            pubkeys, at_least=slot, budget=self._rpc.background, deadline=self._read_seconds
        )


def is_closed(account: RawAccount, registry: Registry) -> bool:
    """Whether the program has no such account (any more)."""
    return account.lamports == 0 or account.owner not in registry.programs


def agrees(stored: Fingerprint, node: RawAccount, registry: Registry) -> bool:
    """Whether a stored state is the node's. Of a closed account only that counts: what becomes of it is not kept."""
    closed = is_closed(node, registry)
    if stored.closed or closed:
        return stored.closed == closed
    if stored.content != node.content_hash():
        return False
    return stored.told == told_hash(registry.decode(node.owner, node.data).data_json)


def describe(stored: StoredAccount, node: RawAccount, registry: Registry) -> Difference:
    """Return what differs, field by field."""
    differing = _differing(stored, node, registry)
    shown = list(islice(differing, MAX_CHANGES))
    more = sum(1 for _ in differing)
    return Difference(node.pubkey, stored.account_type, stored.raw.slot, node.slot, shown, more)


def _differing(stored: StoredAccount, node: RawAccount, registry: Registry) -> Iterator[Change]:
    closed = is_closed(node, registry)
    if stored.closed != closed:
        yield "closed", stored.closed, closed
    for name in ("owner", "lamports", "executable"):
        old, new = getattr(stored.raw, name), getattr(node, name)
        if old != new:
            yield name, old, new
    if stored.closed or closed:
        return
    told = registry.decode(node.owner, node.data).data_json
    fields = list(changes(_parsed(stored.data_json), _parsed(told), "data_json"))
    yield from fields
    if stored.raw.data != node.data:
        if len(stored.raw.data) != len(node.data):
            yield "data bytes", len(stored.raw.data), len(node.data)
        elif not fields:
            place = next(i for i, (old, new) in enumerate(zip(stored.raw.data, node.data, strict=True)) if old != new)
            yield f"data[{place}]", stored.raw.data[place], node.data[place]


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
