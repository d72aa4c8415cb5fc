"""Running a Yellowstone source in a test, and a node on which only the test writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.samples import KEY_A, PROGRAM
from tests.waiting import until

from account_socket.backoff import Backoff
from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import Gap, RawAccount
from account_socket.sources.recording import Recording
from account_socket.sources.yellowstone import Yellowstone


class Taker:
    """Takes what a source delivers and the gaps it tells; `gate` closed makes it slow."""

    def __init__(self) -> None:
        self.accounts: list[RawAccount] = []
        self.gaps: list[Gap] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, batch: list[RawAccount]) -> None:
        self.accounts.extend(batch)
        await self.gate.wait()

    @property
    def data(self) -> list[bytes]:
        return [account.data for account in self.accounts]


def source_of(url: str, **more: Any) -> Yellowstone:
    options = {"programs": [PROGRAM], "commitment": "processed", "backoff": Backoff(0.05, 0.2), **more}
    return Yellowstone(url, name="geyser", **options)


@asynccontextmanager
async def running(source: Yellowstone, taker: Taker | None = None) -> AsyncIterator[Taker]:
    """Run a source for the block; it must still be running at its end."""
    taker = taker or Taker()
    source.on_gap = taker.gaps.append
    task = asyncio.create_task(source.run(taker.deliver))
    try:
        yield taker
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def node_of(**more: Any) -> AsyncIterator[Devnode]:
    """Run a node on which only the test writes."""
    empty = Recording(shipped_recording().header, [])
    async with Devnode(empty, geyser_port=0, geyser=more) as node:
        node.advance_slots(5)
        yield node


def write(node: Devnode, data: bytes, pubkey: str = KEY_A, slot: int = 0) -> RawAccount:
    return node.write(RawAccount(pubkey, slot, PROGRAM, 1, data))


async def settled(taker: Taker) -> None:
    """Return once the first slot came whole: from then on nothing is missed."""
    await until(lambda: taker.gaps)
