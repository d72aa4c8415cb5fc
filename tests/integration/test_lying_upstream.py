"""Two upstreams, one of which lies about slots: clients of the other notice nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.hostile_node import HostileNode
from tests.running import Client, ServerProcess
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording

RECORDING = shipped_recording()


@pytest.mark.fault
@pytest.mark.parametrize("ahead", [100, 100_000])
async def test_a_liar_makes_no_state_stale_and_hinders_no_healing(ahead: int, tmp_path: Path) -> None:
    """What was written while the server was away is told at subscribing, and what is written then, as it happens."""
    async with Devnode(RECORDING, rate=400, loop=True) as node, HostileNode() as liar:
        env = {"RPC_URL": node.ws_url, "RPC_HTTP_URL": node.http_url}
        async with ServerProcess(tmp_path, env) as server, Client(server.url) as client:
            await until(lambda: len(node._ledger) >= 20, seconds=15)
            node.pause()
            account = node._ledger.get(min(node._ledger._accounts))
            assert account is not None
            await client.ask(action="subscribe", pubkey=account.pubkey)
            await until(lambda: client.updates)
            assert await server.stop() == 0
        node.write(msgspec.structs.replace(account, slot=0, lamports=account.lamports + 1))
        node.advance_slots(2)
        liar.slot = int(node.statistics()["tip_slot"]) + ahead
        env["RPC_URL"] = f"{node.ws_url},{liar.url}"
        async with ServerProcess(tmp_path, env) as server, Client(server.url) as client:
            await until(lambda: liar.connected)
            await asyncio.sleep(1)  # time for its slots to run away
            answer = await client.ask(action="subscribe", pubkey=account.pubkey)
            assert "stale" not in answer
            assert client.updates[-1]["account"]["lamports"] == account.lamports + 1
            node.write(msgspec.structs.replace(account, slot=0, lamports=account.lamports + 2))
            await until(lambda: client.updates[-1]["account"]["lamports"] == account.lamports + 2)
