"""The dialect on a listener and a database inside the test's process, whose circumstances the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tests.integration.server.serving import Served
from tests.samples import KEY_A, PROGRAM, update

from account_socket.hub.hub import Hub
from account_socket.metrics import Metrics
from account_socket.programs import load_programs
from account_socket.server.limits import Limits
from account_socket.server.listener import Listener
from account_socket.server.rest_parameters import Fields
from account_socket.server.rest_reading import Reads
from account_socket.server.solana_http import Solana
from account_socket.server.solana_proxy import Proxy
from account_socket.server.solana_reads import Known
from account_socket.store.sqlite import SqliteStore

TIP = 10_000


@dataclass
class Circumstances:
    """What the server believes of itself, as in `Known`; `untrusted` may not be the newest."""

    behind: int = 0
    commits: bool = True
    filled: bool = True
    untrusted: bool = False


@dataclass
class Inside:
    """A server, its circumstances, and a client of its HTTP."""

    served: Served
    store: SqliteStore
    solana: Solana
    http: aiohttp.ClientSession
    now: Circumstances

    async def commit(self, pubkey: str = KEY_A, data: bytes = b"data") -> None:
        """Commit and publish a new state."""
        self.served.last_id += 1
        made = update(self.served.last_id, pubkey, slot=self.served.last_id, data=data)
        await self.store.append([made])
        self.solana.feed.behind(self.served.hub.publish)(made)

    async def ask(self, method: str, *params: Any) -> Any:
        """Return the result of a method, or its error."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        async with self.http.post("/", json=body) as response:
            answer = await response.json()
            return answer.get("result", answer.get("error"))


@asynccontextmanager
async def inside(directory: Path, proxy: Proxy | None = None, **limits: Any) -> AsyncIterator[Inside]:
    """Run it for the block."""
    now = Circumstances()
    store = SqliteStore(directory / "account.db", readers=2)
    await store.open()
    loop = asyncio.get_running_loop()

    def load(pubkeys: Sequence[str]) -> None:
        if not served.holding:
            loop.call_soon(served.settle, pubkeys)

    hub = Hub(schedule=loop.call_soon, load=load, is_foreign=lambda pubkey: pubkey in served.foreign)
    layouts = {name: each for program in load_programs().programs.values() for name, each in program.layouts.items()}
    reads = Reads(
        store=store,
        trusts=lambda _pubkey, _slot: not now.untrusted,
        tip_slot=lambda: TIP,
        newest_id=lambda: 0,  # before the first update; it is asked for then alone
        committed_id=lambda: 0,
        fields=Fields(layouts),
    )
    known = Known(
        hub=hub,
        reads=reads,
        slots_behind=lambda: now.behind,
        commits=lambda: now.commits,
        is_filled=lambda: now.filled,
        programs={PROGRAM: "meteora-damm-v2"},
        commitment="confirmed",
        proxy=proxy,
    )
    solana = Solana(known)
    listener = Listener(
        "127.0.0.1",
        0,
        hub=hub,
        epoch="e1",
        readiness=lambda: (200, {"status": "ok"}),
        metrics=Metrics(),
        limits=Limits(**limits),
        reads=reads,
        solana=solana,
    )
    served = Served(hub, listener, Metrics())
    await listener.start()
    try:
        async with aiohttp.ClientSession(served.base) as http:
            yield Inside(served, store, solana, http, now)
    finally:
        await listener.drain(1.0)
        await store.close(next_id=None)
