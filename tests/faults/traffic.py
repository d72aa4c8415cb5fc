"""What is written on the nodes while faults go on: real accounts of the program, slot by slot, on all nodes alike."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from random import Random

import msgspec
from tests.samples import PROGRAM

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import SYSTEM_PROGRAM, RawAccount

FIRST_SERIAL = 1_000_000


def versions() -> dict[str, list[bytes]]:
    """Return the states that the recording has of each account, those with the most first."""
    found: defaultdict[str, dict[bytes, None]] = defaultdict(dict)
    for write in shipped_recording().writes:
        if write.account.lamports:
            found[write.account.pubkey][write.account.data] = None
    return {pubkey: list(data) for pubkey, data in sorted(found.items(), key=lambda item: -len(item[1]))}


VERSIONS = versions()


class Traffic:
    """
    Writes to `nodes`; all writes of a slot are made at once, so that every read shows whole slots.

    Each write has lamports of its own, which tell the writes of an account apart and put them in order.

    Attributes:
        pubkeys: the accounts.
        told: whether notifications are made.
    """

    def __init__(self, nodes: Sequence[Devnode], random: Random, pubkeys: Sequence[str]) -> None:
        self.pubkeys = list(pubkeys)
        self.nodes = nodes
        self.random = random
        self.told = True
        self.serial = FIRST_SERIAL
        self._going = asyncio.Event()
        self._going.set()

    def state(self, pubkey: str, *, data: bytes | None = None, owner: str = PROGRAM) -> RawAccount:
        """Return a new state of an account, not written yet."""
        self.serial += 1
        return RawAccount(pubkey, 0, owner, self.serial, data or self.random.choice(VERSIONS[pubkey]))

    def closed(self, pubkey: str) -> RawAccount:
        """Return what an account is once it is closed, not written yet."""
        return RawAccount(pubkey, 0, SYSTEM_PROGRAM, 0, b"")

    def some(self) -> str:
        """Return one of the accounts."""
        return self.random.choice(self.pubkeys)

    def write(self, *accounts: RawAccount, tell: bool = True) -> list[RawAccount]:
        """Write these states in the next slot, one after the other; return them with their slot."""
        slot = max(node.statistics()["tip_slot"] for node in self.nodes) + 1
        written = [msgspec.structs.replace(account, slot=int(slot)) for account in accounts]
        for node in self.nodes:
            for account in written:
                node.write(account, tell=tell and self.told)
        return written

    def write_all(self) -> None:
        """Write every account once."""
        self.write(*map(self.state, self.pubkeys))

    def pause(self) -> None:
        """Write nothing by itself until `resume`."""
        self._going.clear()

    def resume(self) -> None:
        """Go on writing."""
        self._going.set()

    async def run(self, rate: float) -> None:
        """Write some accounts in each of `rate` slots a second, until cancelled."""
        while True:
            await self._going.wait()
            chosen = self.random.sample(self.pubkeys, self.random.randint(1, 3))
            self.write(*map(self.state, chosen))
            await asyncio.sleep(self.random.uniform(0.2, 1.8) / rate)
