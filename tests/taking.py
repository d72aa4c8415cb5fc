"""Running a source of the hostile node and taking what it delivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.hostile_node import FIRST_SLOT, HostileNode, account_json, program_notification
from tests.samples import PROGRAM

from account_socket.backoff import Backoff
from account_socket.model import RawAccount
from account_socket.sources.rpc_http import RpcHttp
from account_socket.sources.rpc_websocket import RpcWebSocket

STALE_SECONDS = 0.6


class Taker:
    """Takes what a source delivers; `gate` closed makes it slow."""

    def __init__(self) -> None:
        self.batches: list[list[RawAccount]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, batch: list[RawAccount]) -> None:
        self.batches.append(batch)
        await self.gate.wait()

    @property
    def accounts(self) -> list[RawAccount]:
        return [account for batch in self.batches for account in batch]

    @property
    def lamports(self) -> list[int]:
        return [account.lamports for account in self.accounts]


def source_of(url: str, *, rpc: RpcHttp | None = None, **more: Any) -> RpcWebSocket:
    options = {
        "stale_slot_seconds": STALE_SECONDS,
        "backoff": Backoff(0.05, 0.2),
        "programs": [PROGRAM],
        "commitment": "confirmed",
        **more,
    }
    return RpcWebSocket(url, name="rpc-0", rpc=rpc, **options)


@asynccontextmanager
async def running(source: RpcWebSocket, taker: Taker | None = None) -> AsyncIterator[Taker]:
    """Run a source for the block; it must still be running at its end."""
    taker = taker or Taker()
    task = asyncio.create_task(source.run(taker.deliver))
    try:
        yield taker
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def note(lamports: int, *, slot: int = FIRST_SLOT, **more: Any) -> dict[str, Any]:
    """Return a programNotification that can be told by its lamports."""
    return program_notification(account_json(lamports=lamports), slot=slot, **more)


def refusing(method: str, error: dict[str, Any], node: HostileNode, *, times: int = 10**9) -> Callable[..., Any]:
    """Return an `answer` that refuses `method` the first `times` and else answers as usual."""

    def answer(request: dict[str, Any]) -> Any:
        if request["method"] == method and len(node.asked(method)) <= times:
            return {"error": error}
        return node.usual_answer(request)

    return answer
