"""A server on the local node that both know every account, for clients that speak Solana's own protocol."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import websockets
from tests.running import ServerProcess

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
RECORDING = shipped_recording()
POOLS = [write.account for write in RECORDING.writes if len(write.account.data) == 1112]
POOL = POOLS[-1].pubkey
OTHER = next(write.account.pubkey for write in RECORDING.writes if len(write.account.data) == 408)
HEAD = b64encode(POOLS[0].data[:8]).decode()
JSON = {"Content-Type": "application/json"}
FOREIGN = "SysvarC1ock11111111111111111111111111111111"


@dataclass
class Stack:
    """
    Attributes:
        node: has replayed its recording, and writes what it is told.
        url: of our `POST /`.
        ws_url: of our WebSocket.
    """

    node: Devnode
    server: ServerProcess
    http: aiohttp.ClientSession
    _count: int = 0

    @property
    def url(self) -> str:
        return self.server.http_url

    @property
    def ws_url(self) -> str:
        return self.server.url.removesuffix("/ws")

    async def post(self, request: Any, *, url: str | None = None) -> Any:
        """Return what a POST of `request` (JSON, or bytes as they are) is answered, as JSON; None for nothing."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        async with self.http.post(url or self.url, data=body, headers=JSON) as response:
            text = await response.read()
            return json.loads(text) if text else None

    async def ask(self, method: str, *params: Any, url: str | None = None) -> Any:
        """Return the result of a method, or its error."""
        answer = await self.post({"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}, url=url)
        assert answer["id"] == 7
        return answer.get("result", answer.get("error"))

    async def ask_both(self, method: str, *params: Any) -> tuple[Any, Any]:
        """Return our answer and the node's."""
        return await self.ask(method, *params), await self.ask(method, *params, url=self.node.http_url)

    async def is_filled(self) -> bool:
        """Return whether the server knows every account."""
        async with self.http.get(f"{self.url}/readyz") as response:
            return bool((await response.json())["backfill"]["complete"])

    def write(self, pubkey: str = POOL, *, announce: bool = True) -> RawAccount:
        """Have the node write a new state of a pool; its slot may be announced later."""
        self._count += 1
        last = self.node._ledger.get(pubkey)
        assert last is not None
        data = last.data[:-1] + bytes([self._count % 256])
        account = RawAccount(pubkey, 0, last.owner, last.lamports + 1, data, rent_epoch=last.rent_epoch)
        return self.node.write(account, announce=announce)


@asynccontextmanager
async def stack(directory: Path, **env: str) -> AsyncIterator[Stack]:
    """Run both for the block; the server's database is filled."""
    async with Devnode(RECORDING, rate=50_000) as node:
        await asyncio.wait_for(node.finished.wait(), 10)
        settings = {"RPC_URL": node.ws_url, "RPC_HTTP_URL": node.http_url, "BACKFILL": "all", **env}
        async with ServerProcess(directory, settings) as server, aiohttp.ClientSession() as http:
            made = Stack(node, server, http)
            while settings["BACKFILL"] == "all" and not await made.is_filled():  # noqa: ASYNC110  (another process)
                await asyncio.sleep(0.02)
            yield made


class Socket:
    """A PubSub client that keeps what it is told."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket

    async def read(self) -> Any:
        async with asyncio.timeout(10):
            return json.loads(await self.socket.recv())

    async def say(self, request: Any) -> None:
        await self.socket.send(request if isinstance(request, str) else json.dumps(request))

    async def ask(self, method: str, *params: Any, id: Any = 1) -> Any:
        """Return the answer to a request; no notification may come before it."""
        await self.say({"jsonrpc": "2.0", "id": id, "method": method, "params": list(params)})
        answer = await self.read()
        assert answer.get("id") == id, answer
        return answer.get("result", answer.get("error"))

    async def notification(self, method: str) -> Any:
        """Return the params of the next notification of a method, skipping others."""
        while True:
            told = await self.read()
            if told.get("method") == method:
                return told["params"]


@asynccontextmanager
async def socket(made: Stack) -> AsyncIterator[Socket]:
    """Connect to our WebSocket for the block."""
    async with websockets.connect(made.ws_url, compression=None, max_size=None) as connection:
        yield Socket(connection)
