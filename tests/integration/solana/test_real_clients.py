"""The libraries that people use, unchanged: only the URL is ours."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solana.rpc.models import DataSliceOpts, MemcmpOpts
from solana.rpc.websocket_api import SolanaWsClient
from solders.pubkey import Pubkey
from solders.rpc.responses import AccountNotification, ProgramNotification, SlotNotification
from tests.integration.solana.stack import HEAD, OTHER, POOL, PROGRAM, Stack, stack

from account_socket.protocol import base58

SCRIPTS = Path(__file__).parents[2] / "node"


async def run_script(made: Stack, name: str) -> list[dict[str, Any]]:
    """Run a script of tests/node while the node writes, until it ends; return what it was told."""
    env = {
        "PATH": os.environ["PATH"],
        "OURS": made.url,
        "OURS_WS": made.ws_url,
        "NODE": made.node.http_url,
        "PROGRAM": PROGRAM,
        "POOL": POOL,
        "OTHER": OTHER,
        "HEAD": HEAD,
    }
    process = await asyncio.create_subprocess_exec(
        "node", str(SCRIPTS / name), env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    written = {}

    async def write() -> None:
        while True:
            account = made.write()
            written[account.slot, base64.b64encode(account.data).decode()] = account
            await asyncio.sleep(0.05)

    assert line == "subscribing\n", (await process.stderr.read()).decode()
    writing = asyncio.create_task(write())
    out, err = await asyncio.wait_for(process.communicate(), 20)
    writing.cancel()
    assert process.returncode == 0, err.decode()
    told = [json.loads(each) for each in out.splitlines()]
    for each in told:
        if each["kind"] != "slot":
            account = written[each["slot"], each["data"]]
            assert (each["lamports"], each["owner"]) == (account.lamports, account.owner)
    return told


@pytest.mark.parametrize("script", ["web3.mjs", "kit.mjs"])
async def test_the_node_js_libraries(tmp_path: Path, script: str) -> None:
    """web3.js and kit read what the node answers, and are told what it writes."""
    if shutil.which("node") is None or not (SCRIPTS / "node_modules").exists():
        pytest.skip("Node.js and npm are not installed here; .ci/run installs them")
    async with stack(tmp_path, RPC_PROXY="1") as made:
        told = await run_script(made, script)
    assert {each["kind"] for each in told} == {"account", "program", "slot"}
    slot = next(each for each in told if each["kind"] == "slot")
    assert slot["root"] <= slot["parent"] < slot["slot"]


async def test_solana_from_pypi(tmp_path: Path) -> None:
    """solana-py reads what the node answers, and is told what it writes."""
    pool, program = Pubkey.from_string(POOL), Pubkey.from_string(PROGRAM)
    filters = [1112, MemcmpOpts(offset=0, bytes=base58.encode(base64.b64decode(HEAD)))]
    async with stack(tmp_path) as made:
        async with AsyncClient(made.url, Confirmed) as ours, AsyncClient(made.node.http_url, Confirmed) as node:
            assert (await ours.get_account_info(pool)).value == (await node.get_account_info(pool)).value
            both = [pool, Pubkey.from_string(OTHER)]
            assert (await ours.get_multiple_accounts(both)).value == (await node.get_multiple_accounts(both)).value
            options = {"encoding": "base64", "filters": filters, "data_slice": DataSliceOpts(offset=8, length=32)}
            found = (await ours.get_program_accounts(program, **options)).value
            assert found
            assert found == (await node.get_program_accounts(program, **options)).value
            assert (await ours.get_slot()).value > 0
            assert (await ours.get_version()).value.solana_core
            assert await ours.is_connected()
        async with SolanaWsClient(made.ws_url) as client:
            account = await client.account_subscribe(pubkey=pool, commitment=Confirmed, encoding="base64+zstd")
            programs = await client.program_subscribe(
                program_id=program, commitment=Confirmed, encoding="base64", filters=filters
            )
            slots = await client.slot_subscribe()
            written = made.write()
            seen = {}
            async with asyncio.timeout(10):
                while len(seen) < 3:
                    notification = await client.recv()
                    seen[type(notification)] = notification
            assert seen[AccountNotification].subscription == account.subscription_id
            assert bytes(seen[AccountNotification].result.value.data) == written.data
            assert seen[AccountNotification].result.context.slot == written.slot
            assert seen[ProgramNotification].subscription == programs.subscription_id
            assert bytes(seen[ProgramNotification].result.value.account.data) == written.data
            assert seen[SlotNotification].subscription == slots.subscription_id
