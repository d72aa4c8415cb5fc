"""One database, one cluster: whose nodes these are is asked at the start, and again of each that was away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from account_socket.errors import RpcError, StoreError, WrongClusterError
from account_socket.logs import Seldom
from account_socket.sources.rpc_http import RpcHttp

ASK_SECONDS = 3.0
RETRY_SECONDS = 10.0

log = structlog.get_logger("account_socket.service")


class ClusterCheck:
    """
    Args:
        rpcs: the nodes' HTTP JSON-RPC; without any there is nobody to ask.
        bind: binds the database to a genesis hash. Raises StoreError, WrongClusterError if it has another.
    """

    def __init__(self, rpcs: Sequence[RpcHttp], bind: Callable[[str], Awaitable[None]]) -> None:
        self._rpcs = rpcs
        self._bind = bind
        self._doubted = set(rpcs)
        self._wanted = asyncio.Event()
        self._tries = Seldom(log)

    def doubt(self) -> None:
        """Have every node asked: behind an address that was away there may be another one now."""
        self._doubted.update(self._rpcs)
        self._wanted.set()

    async def check(self) -> None:
        """Ask each doubted node once; one that does not answer stays doubted. Raises WrongClusterError."""
        for rpc in [rpc for rpc in self._rpcs if rpc in self._doubted]:
            self._doubted.discard(rpc)
            try:
                await self._bind(await rpc.get_genesis_hash(deadline=ASK_SECONDS))
            except WrongClusterError:
                raise
            except (RpcError, StoreError) as error:
                self._doubted.add(rpc)
                self._tries.warning("cluster not checked yet", node=str(rpc), error=str(error), hint=error.hint)

    async def run(self) -> None:
        """Ask until cancelled. Raises WrongClusterError."""
        while True:
            await self.check()
            self._wanted.clear()
            try:
                async with asyncio.timeout(RETRY_SECONDS if self._doubted else None):
                    await self._wanted.wait()
            except TimeoutError:
                continue
