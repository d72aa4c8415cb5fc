"""Filling the store from one answer of more than 500 MB."""

from __future__ import annotations

import base64
import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from solders.pubkey import Pubkey
from tests.hostile_node import HostileNode
from tests.integration.test_backfill import report
from tests.running import ServerProcess
from tests.samples import PROGRAM

from account_socket.devnode import shipped_recording

ACCOUNTS = 300_000
POOL = next(
    write.account.data
    for write in shipped_recording().writes
    if write.account.data.startswith(b"\xf1\x9am\x04\x11\xb1m\xbc")
)


def item(number: int, length: int) -> bytes:
    """Return an account of a list: a pool of its own, or the head of it."""
    pubkey = str(Pubkey.from_bytes(sha256(b"%d" % number).digest()))
    data = base64.b64encode((POOL[:-8] + number.to_bytes(8, "little"))[:length]).decode()
    account = {
        "lamports": 8_630_400,
        "data": [data, "base64"],
        "owner": PROGRAM,
        "executable": False,
        "rentEpoch": 2**64 - 1,
        "space": len(POOL),
    }
    return json.dumps({"pubkey": pubkey, "account": account}, separators=(",", ":")).encode()


class LargeNode(HostileNode):
    """
    A node with many pools, told to who asks for a list.

    Attributes:
        sent: bytes of every list.
    """

    def __init__(self) -> None:
        super().__init__(beat_seconds=0.2)
        self.sent: list[int] = []

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = await request.json()
        if asked["method"] == "getProgramAccounts":
            return await self._list(request, asked)
        results = {"getSlot": self.slot, "getGenesisHash": str(Pubkey.default())}
        answer = {"result": results[asked["method"]]} if asked["method"] in results else {"error": {"code": -32601}}
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], **answer})

    async def _list(self, request: web.BaseRequest, asked: dict[str, Any]) -> web.StreamResponse:
        length = asked["params"][1].get("dataSlice", {}).get("length", len(POOL))
        self.sent.append(0)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"jsonrpc":"2.0","result":{"context":{"slot":%d},"value":[' % self.slot)
        for at in range(0, ACCOUNTS, 100):
            chunk = b",".join(item(number, length) for number in range(at, at + 100))
            self.sent[-1] += len(chunk)
            await response.write(chunk if at == 0 else b"," + chunk)
        await response.write(b']},"id":%d}' % asked["id"])
        await response.write_eof()
        return response


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_filling_from_a_large_answer_takes_little_memory(tmp_path: Path) -> None:
    """300,000 pools, more than 500 MB in one answer: the process grows by at most 200 MB."""
    async with LargeNode() as node:
        runner = web.ServerRunner(web.Server(node.respond))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        env = {"RPC_URL": node.url, "RPC_HTTP_URL": f"http://127.0.0.1:{runner.addresses[0][1]}", "BACKFILL": "all"}
        began = time.monotonic()
        async with ServerProcess(tmp_path, env | {"DISK_RESERVE_MB": "0"}) as running:
            process = psutil.Process(running.pid)
            before = peak = process.memory_info().rss
            while not (await report(running))["complete"]:
                peak = max(peak, process.memory_info().rss)
                assert process.is_running()
            print(f"\n{ACCOUNTS} pools, {max(node.sent) / 1e6:.0f} MB, {time.monotonic() - began:.1f} s,")
            print(f"RSS {before / 1e6:.0f} MB before, {peak / 1e6:.0f} MB at most")
        await runner.cleanup()
    assert max(node.sent) > 500_000_000
    assert peak - before < 200_000_000
