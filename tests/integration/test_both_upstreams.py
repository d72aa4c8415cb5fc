"""
PubSub and Yellowstone of one node at once, one of them dying at random: what clients see stays right.

`pytest -m soak -s` runs it for five minutes at each commitment; SOAK_MINUTES says otherwise, FAULT_SEED brings the
same faults again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Protocol

import msgspec
import pytest
from tests.faults.follower import Follower
from tests.faults.oracle import Oracle, check_stored
from tests.faults.traffic import VERSIONS, Traffic
from tests.running import ServerProcess
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.sources.recording import Recording

EMPTY = Recording(shipped_recording().header, [])
PUBKEYS = sorted(VERSIONS)
SEED = os.environ.get("FAULT_SEED") or secrets.token_hex(4)
MINUTES = float(os.environ.get("SOAK_MINUTES") or 5)
SLOT_SECONDS = 0.01
MAX_SLOT_WRITES = 6
CLOSED = 0.02
"""Of all writes, those that close an account."""
FOLLOWERS = 3
BACK_SECONDS = 30.0
SETTLE_SECONDS = 20.0
DEAF_SECONDS = 12.0
"""Longer than a source waits for a slot: what is sent to PubSub meanwhile is lost."""


class Upstream(Protocol):
    """One of the two, as a fault sees it."""

    def drop(self) -> None:
        """Abort every connection."""

    def silence(self, silent: bool) -> None:
        """Keep connections, and say nothing; or go on."""

    def refuse(self, refusing: bool) -> None:
        """Let nobody in; or go on."""

    async def restart(self) -> None:
        """Go away for a moment."""

    def reads(self) -> bool:
        """Whether the server is subscribed."""


class PubSub:
    """The node's WebSocket, and its HTTP with it."""

    def __init__(self, node: Devnode) -> None:
        self._node, self._gate = node, node._gate
        self.drop, self.silence = self._gate.drop_connections, self._gate.set_silent

    def refuse(self, refusing: bool) -> None:
        self._gate.refusing = refusing

    async def restart(self) -> None:
        await self._gate.close()
        await asyncio.sleep(0.5)
        await self._gate.listen(self._node.host, self._node.port)

    def reads(self) -> bool:
        return self._node.statistics()["subscriptions"] >= 2


class Yellowstone:
    """The node's gRPC."""

    def __init__(self, node: Devnode) -> None:
        self._geyser, relay = node.geyser, node.geyser.relay
        self.drop, self.silence = relay.drop, relay.silence
        self.restart = self._geyser.restart

    def refuse(self, refusing: bool) -> None:
        self._geyser.relay.refusing = refusing

    def reads(self) -> bool:
        return any(stream.filters is not None for stream in self._geyser._streams)


async def drop(upstream: Upstream, chance: Random) -> None:
    upstream.drop()


async def drop_twice(upstream: Upstream, chance: Random) -> None:
    upstream.drop()
    await asyncio.sleep(chance.uniform(0.05, 1.0))
    upstream.drop()


async def refuse(upstream: Upstream, chance: Random) -> None:
    upstream.refuse(True)
    upstream.drop()
    await asyncio.sleep(chance.uniform(0.5, 5.0))
    upstream.refuse(False)


async def restart(upstream: Upstream, chance: Random) -> None:
    await upstream.restart()


async def silence(upstream: Upstream, chance: Random) -> None:
    upstream.silence(True)
    await asyncio.sleep(DEAF_SECONDS)
    upstream.silence(False)


Fault = Callable[[Upstream, Random], Awaitable[None]]
QUICK: tuple[Fault, ...] = (drop, drop_twice, refuse, restart)
ALL: tuple[Fault, ...] = (*QUICK, *QUICK, silence)


async def follow_while_one_dies(
    directory: Path, commitment: str, faults: tuple[Fault, ...], seconds: float
) -> list[str]:
    """Have one upstream die again and again; return what was wrong in what clients saw, and in the database."""
    print(f"FAULT_SEED={SEED} SOAK_MINUTES={seconds / 60:g}")
    chance, died = Random(SEED), 0
    node = Devnode(EMPTY, geyser_port=0)
    async with (
        node,
        written(node, chance) as stop_writing,
        serving(node, directory, commitment) as (server, followers),
    ):
        upstreams: tuple[Upstream, ...] = (PubSub(node), Yellowstone(node))
        ends = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(chance.uniform(0.1, 1.5))
            await chance.choice(faults)(chance.choice(upstreams), chance)
            await until(lambda: all(each.reads() for each in upstreams), seconds=BACK_SECONDS)
            chance.choice(followers[1:]).leave()
            died += 1
        stop_writing()
        accounts = {pubkey: node._ledger.get(pubkey) for pubkey in PUBKEYS}
        await until(lambda: not differences(followers, accounts), seconds=SETTLE_SECONDS)
        assert server.process.returncode is None
        assert await server.stop() == 0
    print(f"{commitment}: {died} faults, {[each.oracle.seen for each in followers]} updates")
    assert died
    return [
        *(wrong for each in followers for wrong in each.oracle.wrong),
        *check_stored(directory / "account.db", accounts),
    ]


@asynccontextmanager
async def written(node: Devnode, chance: Random) -> AsyncIterator[Callable[[], object]]:
    """Write in the background; yields what ends it."""
    traffic = Traffic([node], chance, PUBKEYS)

    async def write() -> None:
        while True:
            chosen = chance.sample(PUBKEYS, k=chance.randint(1, MAX_SLOT_WRITES))
            node.advance_slots(1)
            slot = int(node.statistics()["tip_slot"])
            # PubSub tells what a slot ended with, Yellowstone at `processed` what was written before in it too.
            for pubkey in chosen[::2]:
                node.geyser.feed.write(msgspec.structs.replace(traffic.state(pubkey), slot=slot))
            for pubkey in chosen:
                closes = chance.random() < CLOSED
                account = traffic.closed(pubkey) if closes else traffic.state(pubkey)
                node.write(msgspec.structs.replace(account, slot=slot))
            await asyncio.sleep(SLOT_SECONDS)

    writing = asyncio.create_task(write())
    try:
        yield writing.cancel
        assert writing.cancelled() or writing.cancelling()
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


@asynccontextmanager
async def serving(
    node: Devnode, directory: Path, commitment: str
) -> AsyncIterator[tuple[ServerProcess, list[Follower]]]:
    """Run a server on both upstreams, and followers of every account."""
    env = {
        "RPC_URL": node.ws_url,
        "GEYSER_URL": node.geyser_url,
        "COMMITMENT": commitment,
        "RECONCILE_SECONDS": "2",
        "RPC_MAX_RPS": "50",
    }
    async with ServerProcess(directory, env) as server:
        oracles = [Oracle(f"follower {number}", serials=True, conflates=False) for number in range(FOLLOWERS)]
        followers = [Follower(lambda: server.url, PUBKEYS, oracle) for oracle in oracles]
        running = [asyncio.create_task(follower.run()) for follower in followers]
        try:
            await until(lambda: all(follower.acked for follower in followers), seconds=15)
            yield server, followers
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def differences(followers: list[Follower], accounts: Mapping[str, RawAccount | None]) -> list[str]:
    """Return where a follower's last state is not the node's; of an account that never was nobody knows."""
    return [
        difference
        for follower in followers
        for difference in follower.oracle.differences(
            {key: raw for key, raw in accounts.items() if raw or key in follower.oracle.last}
        )
    ]


@pytest.mark.fault
@pytest.mark.parametrize("commitment", ["processed", "confirmed"])
async def test_both_upstreams_with_one_dying(commitment: str, tmp_path: Path) -> None:
    """For some seconds: no client misses the newest state, sees anything twice or goes back, but by a retraction."""
    assert await follow_while_one_dies(tmp_path, commitment, QUICK, 2.0) == []


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 120)
@pytest.mark.parametrize("commitment", ["processed", "confirmed"])
async def test_both_upstreams_with_one_dying_for_long(commitment: str, tmp_path: Path) -> None:
    """The same for minutes, and with a node that falls silent."""
    assert await follow_while_one_dies(tmp_path, commitment, ALL, MINUTES * 60) == []
