"""HTTP reads and streams of the whole server, on the local node."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.running import ServerProcess

from account_socket.devnode import Devnode, shipped_recording


async def read_events(http: aiohttp.ClientSession, pubkeys: list[str], last_id: str, count: int) -> tuple[str, Any]:
    """Return the last id told and the `count` next events, as (name, data)."""
    query = [("pubkey", pubkey) for pubkey in pubkeys]
    found: list[tuple[str, Any]] = []
    name = ""
    async with http.get("/v1/stream", params=query, headers={"Last-Event-ID": last_id} if last_id else {}) as stream:
        async with asyncio.timeout(15):
            async for line in stream.content:
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key == "id":
                    last_id = value
                elif key == "event":
                    name = value
                elif key == "data":
                    found.append((name, json.loads(value)))
                if len(found) >= count and last_id and line == b"\n":
                    return last_id, found
    raise AssertionError(f"the stream ended after {found}")


async def until_ready(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(15):
        while True:
            async with http.get("/readyz") as response:
                if response.status == 200 and (await response.json())["gaps"]["status"] == "ok":
                    return
            await asyncio.sleep(0.05)


async def accounts_with_updates(http: aiohttp.ClientSession) -> list[str]:
    async with asyncio.timeout(15):
        while True:
            async with http.get("/v1/accounts", params={"account_type": "Pool"}) as response:
                accounts = (await response.json())["accounts"]
            busy: list[str] = [each["pubkey"] for each in accounts if each["prev_id"] is not None]
            if len(busy) >= 3:
                return busy[:3]
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
async def test_a_stream_survives_the_server(tmp_path: Path, kill: bool) -> None:
    """Across a death of the server, each account's updates follow each other by `prev_id`: no hole, no repeat."""
    async with Devnode(shipped_recording(), rate=300, loop=True) as node:
        server = ServerProcess(tmp_path, {"RPC_URL": node.ws_url})
        newest: dict[str, int] = {}
        last_id, pubkeys = "", list[str]()
        for life in range(3):
            async with server, aiohttp.ClientSession(server.http_url) as http:
                await until_ready(http)
                pubkeys = pubkeys or await accounts_with_updates(http)
                last_id, events = await read_events(http, pubkeys, last_id, 40)
                assert [data for name, data in events if name != "update"] == []
                for _, update in events:
                    account = update["account"]
                    if life or account["pubkey"] in newest:
                        assert account["prev_id"] == newest[account["pubkey"]]
                    newest[account["pubkey"]] = account["id"]
                if life == 2:
                    await check_reads(http, pubkeys[0])
                if not kill:
                    await server.stop()


async def check_reads(http: aiohttp.ClientSession, pubkey: str) -> None:
    """History, a past slot and a subscription tell the same of an account."""
    async with http.get(f"/v1/accounts/{pubkey}/history", params={"limit": 5}) as response:
        updates = (await response.json())["updates"]
    for newer, older in pairwise(updates):
        assert newer["prev_id"] == older["id"]
        if older["slot"] < newer["slot"]:
            async with http.get(f"/v1/accounts/{pubkey}", params={"slot": newer["slot"] - 1}) as response:
                assert (await response.json())["account"] == older
    sqrt_price = updates[0]["data_json"]["token_a_vault"]
    async with http.get("/v1/accounts", params={"where.token_a_vault": sqrt_price}) as response:
        assert pubkey in [account["pubkey"] for account in (await response.json())["accounts"]]
