"""HTTP reads and streams of the whole server, on the local node."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
from tests.running import ServerProcess

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.programs.meteora_damm_v2 import derived

TOKEN_PROGRAM = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"


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


async def accounts_with_updates(http: aiohttp.ClientSession) -> list[str]:
    async with asyncio.timeout(15):
        while True:
            async with http.get("/v1/accounts", params={"account_type": "Pool"}) as response:
                accounts = (await response.json())["accounts"]
            busy: list[str] = [each["pubkey"] for each in accounts if each["prev_id"] is not None]
            if len(busy) >= 3:
                return busy[:3]
            await asyncio.sleep(0.05)


async def test_a_stream_survives_the_server(tmp_path: Path) -> None:
    """Across a kill of the server the updates of each account follow each other by `prev_id`."""
    async with Devnode(shipped_recording(), rate=1000, loop=True) as node:
        server = ServerProcess(tmp_path, {"RPC_URL": node.ws_url})
        newest: dict[str, int] = {}
        last_id, pubkeys = "", list[str]()
        for life in range(2):
            async with server, aiohttp.ClientSession(server.http_url) as http:
                pubkeys = pubkeys or await accounts_with_updates(http)
                last_id, events = await read_events(http, pubkeys, last_id, 15)
                assert [data for name, data in events if name not in {"update", "stale"}] == []
                for name, update in events:
                    if name == "stale":
                        continue
                    account = update["account"]
                    if life or account["pubkey"] in newest:
                        assert account["prev_id"] == newest[account["pubkey"]]
                    newest[account["pubkey"]] = account["id"]
                if life == 1:
                    await check_reads(http, pubkeys[0])
                    await check_derived(http, node, pubkeys[0])
                    await check_positions(http)


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


async def check_derived(http: aiohttp.ClientSession, node: Devnode, pubkey: str) -> None:
    """The price follows from the decimals that the node tells of the mints; without these it is null, with why."""
    async with http.get(f"/v1/accounts/{pubkey}", params={"derived": 0}) as response:
        state = await response.json()
        assert "derived" not in state
    pool = state["account"]["data_json"]
    for name, decimals in (("token_a_mint", 9), ("token_b_mint", 6)):
        node._ledger.apply(RawAccount(pool[name], 1, TOKEN_PROGRAM, 1, bytes(44) + bytes([decimals, 1])))
    async with http.get(f"/v1/accounts/{pubkey}", params={"derived": 1}) as response:
        told = await response.json()
        pool, numbers = told["account"]["data_json"], told["derived"]
    assert Decimal(numbers["price"]) == derived.price(pool, 9, 6) > 0
    assert numbers["reserves"] == {name: str(amount) for name, amount in derived.reserves(pool)._asdict().items()}
    assert numbers["dynamic_fee_numerator"] == str(derived.dynamic_fee_numerator(pool))
    assert numbers["total_fee_bps"] == derived.total_fee_bps(pool, int(numbers["point"]))
    assert "reasons" not in numbers
    async with http.get("/v1/accounts", params={"account_type": "Pool"}) as response:
        pools = {
            each["pubkey"]: each["data_json"] for each in (await response.json())["accounts"] if each["data_json"]
        }
    mints = {pool["token_a_mint"], pool["token_b_mint"]}
    other = next(key for key, each in pools.items() if not {each["token_a_mint"], each["token_b_mint"]} <= mints)
    async with http.get(f"/v1/accounts/{other}", params={"derived": 1}) as response:
        told = await response.json()
    assert told["derived"]["price"] is None
    assert told["derived"]["reasons"]["price"].startswith("the node knows no mint ")
    assert told["derived"]["reserves"]["b"] == str(derived.reserves(told["account"]["data_json"]).b)


async def check_positions(http: aiohttp.ClientSession) -> None:
    """What positions are owed follows from their pools; of other accounts nothing follows."""
    async with http.get("/v1/accounts", params={"account_type": "Position", "limit": 8}) as response:
        positions = (await response.json())["accounts"]
    told = []
    for position in positions:
        async with http.get(f"/v1/accounts/{position['pubkey']}", params={"derived": 1}) as response:
            assert response.status == 200
            state = await response.json()
        assert (state["derived"] is None) == (state["account"]["data_json"] is None)  # closed
        if state["derived"] is not None:
            told.append(state["derived"])
    known = [numbers for numbers in told if numbers["unclaimed_fees"] is not None]
    assert all(
        int(numbers["withdraw_amounts"]["a"]) >= 0 and len(numbers["pending_rewards"]) == 2 for numbers in known
    )
    assert all(set(numbers["reasons"]) >= {"unclaimed_fees"} for numbers in told if numbers not in known)
    assert told
