"""A server on a local node with a subscribed client, before a fault, while it lasts, and after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.faults.impatient_server import impatient_server
from tests.faults.observing import until_ready
from tests.running import Client, ServerProcess
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording

RECORDING = shipped_recording()
ACCOUNTS = 8


@dataclass
class Stage:
    """
    Attributes:
        directory: where the server runs, its `account.db` in it.
        client: subscribed to `pubkeys`.
        pubkeys: accounts that the node has.
    """

    directory: Path
    node: Devnode
    server: ServerProcess
    client: Client
    pubkeys: list[str]

    async def streams(self, *, ids: bool = True) -> None:
        """Return when ten more updates have come, with ids or, where there can be none, without."""
        before = len(self.client.updates)

        def come() -> list[Any]:
            return [each for each in self.client.ids[before:] if (each is not None) is ids]

        await until(lambda: len(come()) >= 10, seconds=15)

    async def learns_states(self) -> dict[str, dict[str, Any]]:
        """Have another client subscribe to everything; return the first message of each account."""
        async with Client(self.server.url) as client:
            answer = await client.ask(action="subscribe", pubkeys=self.pubkeys)
            found = set(answer["found"])
            await until(lambda: found <= {update["pubkey"] for update in client.updates})
        states: dict[str, dict[str, Any]] = {}
        for update in client.updates:
            states.setdefault(update["pubkey"], update)
        return states

    def log_size(self) -> int:
        """Return where the next log line will begin."""
        return len(self.server.stderr)


def busy_node(port: int = 0, **options: str) -> Devnode:
    """Return a node that writes all the time."""
    return Devnode(RECORDING, port=port, rate=200, loop=True, accounts=2 * ACCOUNTS, **options)


@asynccontextmanager
async def stage(
    directory: Path,
    env: Mapping[str, str] | None = None,
    *,
    status: str = "ok",
    server: ServerProcess | None = None,
    node: Devnode | None = None,
) -> AsyncIterator[Stage]:
    """
    Set everything up until /readyz says `status`, let it stream; see in the end that the server stops in order.

    Args:
        node: one that runs; None: one of its own.
    """
    async with AsyncExitStack() as rest:
        node = node or await rest.enter_async_context(busy_node())
        server = server or impatient_server(directory)
        server.env |= {"RPC_URL": node.ws_url, **(env or {})}
        await rest.enter_async_context(server)
        client = await rest.enter_async_context(Client(server.url))
        await until_ready(server, lambda report: report["status"] == status)
        await until(lambda: node.statistics()["accounts"] >= ACCOUNTS, seconds=15)
        pubkeys = sorted(node._ledger._accounts)[:ACCOUNTS]
        await client.ask(action="subscribe", pubkeys=pubkeys)
        acted = Stage(directory, node, server, client, pubkeys)
        await acted.streams()
        yield acted
        if server.process.returncode is None:
            assert await server.stop() == 0


def assert_chained(client: Client) -> None:
    """Each update names the one before it: nothing is missing, nothing came twice."""
    chains = defaultdict(list)
    for update in client.updates:
        chains[update["pubkey"]].append(update["account"])
    for chain in chains.values():
        for before, after in pairwise(chain):
            assert after["prev_id"] == before["id"] < after["id"]
