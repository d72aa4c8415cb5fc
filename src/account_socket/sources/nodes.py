"""The nodes' HTTP JSON-RPC as one: accounts are read from the first node that can tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from account_socket.errors import RpcError
from account_socket.model import RawAccount
from account_socket.sources.rpc_http import RpcHttp
from account_socket.sources.slot_tip import ACCOUNT_AHEAD_SLOTS

READ_SECONDS = 4.5
"""For reading accounts from the nodes, one after the other; below the patience of who waits for them."""

LEISURE_SECONDS = 60.0
"""For a read that nobody waits for."""

GLANCE_BYTES = 8
"""The discriminator: whether an account is there, and of which kind."""

Read = tuple[int, list[RawAccount | None]]
"""The lowest context slot, and the states in the order of the keys: None where there is no account."""


class Nodes:
    """
    Every read raises RpcError, the last node's, when none can tell.

    Args:
        rpcs: in the order in which they are asked.
        tip: the newest slot that any upstream confirmed: a node that tells of slots far beyond is not believed.
    """

    def __init__(self, rpcs: Sequence[RpcHttp], tip: Callable[[], int | None]) -> None:
        self.rpcs = rpcs
        self._tip = tip

    async def look_up(self, pubkeys: Sequence[str], at_least: int) -> Read:
        """Read up to 100 accounts, at slot `at_least` or later, for a client that waits."""
        # Once: where a node cannot be reached the client is better told what is known.
        return await self._read(
            lambda rpc, seconds: rpc.get_multiple_accounts(
                pubkeys, at_least=at_least, budget=rpc.lookups, deadline=seconds, attempts=1
            )
        )

    async def read_again(self, pubkeys: Sequence[str], at_least: int) -> Read:
        """Read up to 100 accounts, at slot `at_least` or later, within the budget of background reads."""
        return await self._read(
            lambda rpc, seconds: rpc.get_multiple_accounts(
                pubkeys, at_least=at_least, budget=rpc.background, deadline=seconds, attempts=3
            )
        )

    async def glance(self, pubkeys: Sequence[str]) -> Read:
        """Read of up to 100 accounts all but their data (of which 8 bytes), within the same budget."""
        return await self._read(
            lambda rpc, seconds: rpc.get_multiple_accounts(
                pubkeys, head_bytes=GLANCE_BYTES, budget=rpc.background, deadline=seconds, attempts=3
            )
        )

    async def read_at_leisure(self, pubkeys: Sequence[str], at_least: int) -> Read:
        """Read up to 100 accounts, at slot `at_least` or later, with what is left of the background's budget."""
        return await self._read(
            lambda rpc, _: rpc.get_multiple_accounts(
                pubkeys, at_least=at_least, budget=rpc.leftover, deadline=LEISURE_SECONDS
            )
        )

    async def glance_at_leisure(self, pubkeys: Sequence[str], at_least: int) -> Read:
        """Read of up to 100 accounts all but their data, likewise."""
        return await self._read(
            lambda rpc, _: rpc.get_multiple_accounts(
                pubkeys, at_least=at_least, head_bytes=GLANCE_BYTES, budget=rpc.leftover, deadline=LEISURE_SECONDS
            )
        )

    @property
    def _seconds(self) -> float:
        return READ_SECONDS / max(1, len(self.rpcs))

    async def _read(self, ask: Callable[[RpcHttp, float], Awaitable[Read]]) -> Read:
        failure = RpcError("there is no node to ask: RPC_URL is not set", code=0, retryable=False)
        for rpc in self.rpcs:
            try:
                slot, accounts = await ask(rpc, self._seconds)
                await self._judge(rpc, max((raw.slot for raw in accounts if raw is not None), default=slot))
            except RpcError as error:
                failure = error
            else:
                return slot, accounts
        raise failure

    async def _judge(self, rpc: RpcHttp, newest: int) -> None:
        """Raise RpcError if a node's answer lies beyond what the upstreams confirm."""
        tip = self._tip() or await rpc.get_slot(deadline=self._seconds)
        if newest > tip + ACCOUNT_AHEAD_SLOTS:
            raise RpcError(f"{rpc!r} tells of slot {newest}, its tip is {tip}", code=0, retryable=True)
