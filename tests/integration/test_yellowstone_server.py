"""The whole server as a process with Yellowstone as its upstream, alone and beside PubSub."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.running import Client, ServerProcess
from tests.samples import KEY_A, PROGRAM
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.programs import load_programs
from account_socket.sources.recording import Recording

RECORDING = shipped_recording()
PROGRAMS = load_programs()
PUBKEYS = sorted({write.account.pubkey for write in RECORDING.writes})
OPEN_WRITES = [write.account for write in RECORDING.writes if write.account.lamports]


def upstream(node: Devnode, **more: str) -> dict[str, str]:
    return {"GEYSER_URL": node.geyser_url, "COMMITMENT": "processed", **more}


def place(account: dict[str, Any]) -> tuple[Any, ...]:
    return account["pubkey"], account["slot"], account["lamports"]


async def test_the_corpus_at_5000_a_second_reaches_clients_and_the_database(tmp_path: Path) -> None:
    """Every write and every close of a subscribed account arrives in order with its transaction, and is stored."""
    node = Devnode(RECORDING, rate=5_000, geyser_port=0)
    node.pause()
    async with (
        node,
        ServerProcess(
            tmp_path,
            upstream(node, RPC_URL="", OUTBOX_MAX_BYTES="64MiB"),  # so that a slow machine leaves nothing out
        ) as server,
    ):
        async with Client(server.url) as client:
            await until(lambda: node.geyser.streams, seconds=15)
            await client.ask(action="subscribe", pubkeys=PUBKEYS)
            await until(lambda: any(len(each.filters.accounts) == 2 for each in node.geyser._streams), seconds=15)
            node.resume()
            wanted = [each.account for each in RECORDING.writes]
            await until(lambda: len(client.updates) >= len(wanted), seconds=30)
        assert await server.stop() == 0
    accounts = [update["account"] for update in client.updates]
    assert [place(account) for account in accounts] == [(each.pubkey, each.slot, each.lamports) for each in wanted]
    assert [account["id"] for account in accounts] == list(range(1, len(wanted) + 1))
    assert len({account["signature"] for account in accounts}) == len(wanted)
    connection = sqlite3.connect(tmp_path / "account.db")
    stored = connection.execute("SELECT id, signature FROM account_updates ORDER BY id").fetchall()
    connection.close()
    assert stored == [(account["id"], account["signature"]) for account in accounts]


async def test_a_retraction_reaches_clients(tmp_path: Path) -> None:
    """When a fork dies, a client is told the state before it, with `"event":"retracted"` and a higher id."""
    async with Devnode(Recording(RECORDING.header, []), geyser_port=0) as node:
        node.advance_slots(40)
        async with ServerProcess(tmp_path, upstream(node)) as server, Client(server.url) as client:
            await until(lambda: node.geyser.streams, seconds=15)
            await client.ask(action="subscribe", pubkeys=[KEY_A])
            await until(lambda: any(len(each.filters.accounts) == 2 for each in node.geyser._streams), seconds=15)
            node.write(RawAccount(KEY_A, 0, PROGRAM, 1, b"lives"))
            node.advance_slots(1)
            dying = node.write(RawAccount(KEY_A, 0, PROGRAM, 2, b"dies"))
            await until(lambda: len(client.updates) == 2)
            node.abandon_slot(dying.slot)
            await until(lambda: len(client.updates) == 3)
            node.write(RawAccount(KEY_A, 0, PROGRAM, 3, b"goes on"))
            await until(lambda: len(client.updates) == 4)
    assert [update.get("event") for update in client.updates] == [None, None, "retracted", None]
    assert [update["account"]["lamports"] for update in client.updates] == [1, 2, 1, 3]
    assert client.ids == sorted(set(client.ids))
    assert client.updates[2]["account"]["slot"] < dying.slot
    assert [update["account"]["prev_id"] for update in client.updates[1:]] == client.ids[:-1]


async def test_a_rejected_token_ends_the_server_with_a_clear_message(tmp_path: Path) -> None:
    """Alone, a node that does not know the token ends the server with 2, without the token in any line."""
    async with Devnode(RECORDING, geyser_port=0, geyser={"token": "known-token"}) as node:
        server = ServerProcess(tmp_path, upstream(node, GEYSER_X_TOKEN="unknown-token"))
        async with server:
            assert await server.wait() == 2
        told = server.stderr.decode()
        assert "No valid auth token" in told
        assert "GEYSER_X_TOKEN" in told
        assert "unknown-token" not in told
        assert "Traceback" not in told


async def test_a_rejected_token_beside_pubsub_ends_nothing(tmp_path: Path) -> None:
    """Beside another upstream the server goes on with that one."""
    async with Devnode(RECORDING, rate=300, loop=True, geyser_port=0, geyser={"token": "known-token"}) as node:
        env = upstream(node, GEYSER_X_TOKEN="unknown-token", RPC_URL=node.ws_url)
        async with ServerProcess(tmp_path, env) as server, Client(server.url) as client:
            await until(lambda: b"upstream given up" in server.stderr, seconds=15)
            await client.ask(action="subscribe", pubkeys=PUBKEYS)
            await until(lambda: len(client.updates) > 20, seconds=15)
            assert server.process.returncode is None


async def doctor(directory: Path, env: dict[str, str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "account_socket", "doctor"),
        cwd=directory,
        env={"PATH": os.environ["PATH"], "REDIS_URL": "memory://", "DISK_RESERVE_MB": "1", **env},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode()


async def test_doctor_examines_yellowstone(tmp_path: Path) -> None:
    """`doctor` names version, slot and replay; a wrong token and a closed port fail with what to do."""
    async with Devnode(RECORDING, geyser_port=0, geyser={"token": "known-token"}) as node:
        node.advance_slots(3)
        code, out = await doctor(tmp_path, upstream(node, GEYSER_X_TOKEN="known-token", RPC_HTTP_URL=node.http_url))
        assert code == 0, out
        assert "ok    RPC HTTP 0: " in out
        assert "ok    Yellowstone gRPC: " in out
        assert "version 15.1.2" in out
        assert "replay from slot" in out
        code, out = await doctor(tmp_path, upstream(node, GEYSER_X_TOKEN="unknown-token"))
        assert code == 1
        assert "GEYSER_X_TOKEN" in out
        assert "unknown-token" not in out
        url = node.geyser_url
    code, out = await doctor(tmp_path, {"GEYSER_URL": url})
    assert code == 1
    assert "Check GEYSER_URL" in out


async def test_http_beside_yellowstone_alone_heals_gaps_and_knows_the_cluster(tmp_path: Path) -> None:
    """With RPC_HTTP_URL and without RPC_URL what cannot be replayed is read, and another cluster's node is refused."""
    empty = Recording(RECORDING.header, [])
    async with Devnode(empty, geyser_port=0, geyser={"replay_slots": 0}) as node:
        node.advance_slots(40)
        async with ServerProcess(tmp_path, upstream(node, RPC_HTTP_URL=node.http_url)) as server:
            async with Client(server.url) as client:
                await until(lambda: node.geyser.streams, seconds=15)
                await client.ask(action="subscribe", pubkeys=[KEY_A])
                await until(lambda: node.advance_slots(1) or b"upstream connected" in server.stderr, seconds=15)
                node.write(RawAccount(KEY_A, 0, PROGRAM, 1, b"before"))
                await until(lambda: client.updates)
                node.geyser.relay.refusing = True
                node.geyser.relay.drop()
                node.write(RawAccount(KEY_A, 0, PROGRAM, 2, b"missed"))
                node.geyser.relay.refusing = False
                await until(lambda: node.advance_slots(1) or len(client.updates) == 2, seconds=15)
            assert await server.stop() == 0
    assert client.updates[1]["account"]["lamports"] == 2
    async with Devnode(empty, geyser_port=0, genesis_hash=KEY_A) as other:
        server = ServerProcess(tmp_path, upstream(other, RPC_HTTP_URL=other.http_url))
        with pytest.raises(AssertionError, match="exited 2"):
            await server.start()
        await server.kill()
    assert KEY_A in server.stderr.decode()
