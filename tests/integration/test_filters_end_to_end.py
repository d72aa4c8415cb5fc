"""Subscriptions by filter against a whole server on a local node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
from tests.running import Client, ServerProcess
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording

RECORDING = shipped_recording()


def newest(client: Client) -> dict[str, tuple[int, Any]]:
    return {each["pubkey"]: (each["account"]["id"], each["account"]["data_json"]) for each in client.updates}


async def stored(base: str, **query: str) -> dict[str, tuple[int, Any]]:
    """Return every account that fits, page by page, as HTTP lists it."""
    found: dict[str, tuple[int, Any]] = {}
    async with aiohttp.ClientSession() as http:
        after: str | None = ""
        while after is not None:
            params = {**query, "limit": "1000", **({"after": after} if after else {})}
            async with http.get(f"{base}/v1/accounts", params=params) as response:
                page = await response.json()
            found |= {
                each["pubkey"]: (each["id"], each["data_json"]) for each in page["accounts"] if not each.get("closed")
            }
            after = page["next"]
    return found


async def test_what_a_filter_brings_is_what_the_database_has(tmp_path: Path) -> None:
    """Subscribed before, while and after the recording is played, a client's states are those that HTTP lists."""
    async with Devnode(RECORDING, rate=500, start_on_subscribe=True) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url}) as server:
            async with Client(server.url) as early, Client(server.url) as late, Client(server.url) as plain:
                await early.ask(action="subscribe", account_type="Pool")
                await until(lambda: len(early.updates) > 30, seconds=20)
                where = {"pool_status": [0, 1]}
                assert (await late.ask(action="subscribe", account_type="Pool", where=where))["sub"] == 1
                assert (await plain.ask(action="subscribe", where={"pool_staus": 0}))["code"] == "invalid_filter"
                await until(lambda: node.statistics()["writes"] >= len(RECORDING.writes), seconds=40)
                await until(lambda: any(each["type"] == "snapshot_end" for each in late.others))
                base = server.url.replace("ws://", "http://").removesuffix("/ws")
                async with asyncio.timeout(15):
                    while not newest(early) == newest(late) == await stored(base, account_type="Pool"):  # noqa: ASYNC110  (another process)
                        await asyncio.sleep(0.05)
                assert newest(late)
                keys = [(each["pubkey"], each["account"]["id"]) for each in late.updates]
                assert len(keys) == len(set(keys))
            assert await server.stop() == 0
