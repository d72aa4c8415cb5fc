"""Users of the first server: their `.env`, their clients, their SQL and their Redis commands work unchanged."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.running import Client, ServerProcess
from tests.servers import RedisServer
from tests.waiting import until

from account_socket.devnode import Devnode, shipped_recording

RECORDING = shipped_recording()
PUBKEY = RECORDING.writes[-1].account.pubkey
NODE_MODULES = Path(__file__).parents[1] / "node" / "node_modules"

DOT_ENV = """
# Required: Solana RPC endpoint with Geyser support
RPC_URL=wss://mainnet.helius-rpc.com/?api-key=YOUR_API_KEY

# Required: Database URL
DATABASE_URL=sqlite:account.db

# Optional: Redis configuration (defaults shown)
REDIS_URL=redis://127.0.0.1:6379

# Optional: WebSocket server configuration (defaults shown)
WEBSOCKET_HOST=127.0.0.1
WEBSOCKET_PORT=8080

# Optional: Database configuration (defaults shown)
DATABASE_MAX_CONNECTIONS=10

# Optional: Logging configuration
RUST_LOG=info,account_socket=debug
"""

PYTHON_CLIENT = """
import asyncio
import websockets
import json

async def test_websocket():
    uri = "ws://localhost:8080/ws"
    async with websockets.connect(uri) as websocket:
        # Subscribe to an account
        await websocket.send(json.dumps({
            "action": "subscribe",
            "pubkey": "ACCOUNT_PUBKEY_HERE"
        }))

        # Listen for updates
        async for message in websocket:
            data = json.loads(message)
            print(f"Account update: {json.dumps(data, indent=2)}")

asyncio.run(test_websocket())
"""

NODE_CLIENT = """
const WebSocket = require('ws');

const ws = new WebSocket('ws://localhost:8080/ws');

ws.on('open', function open() {
    console.log('Connected');

    // Subscribe to an account
    ws.send(JSON.stringify({
        action: 'subscribe',
        pubkey: 'ACCOUNT_PUBKEY_HERE'
    }));
});

ws.on('message', function message(data) {
    const update = JSON.parse(data);
    console.log('Account update:', JSON.stringify(update, null, 2));
});
"""


def own_env(node: Devnode, redis: RedisServer) -> str:
    """Return the seed's `.env` with this test's addresses in place of its own."""
    return (
        DOT_ENV.replace("wss://mainnet.helius-rpc.com/?api-key=YOUR_API_KEY", node.ws_url)
        .replace("redis://127.0.0.1:6379", redis.url)
        .replace("WEBSOCKET_PORT=8080", "WEBSOCKET_PORT=0")
    )


def dot_env_server(directory: Path) -> ServerProcess:
    """Return a server that is told nothing but its `.env`."""
    server = ServerProcess(directory)
    server.env = {}
    return server


async def printed_by(directory: Path, script: str, *command: str, url: str, **env: str) -> str:
    """Run one of the seed's clients against `url` until it has printed three updates; return what it printed."""
    (directory / "client").write_text(
        script.replace("ws://localhost:8080/ws", url).replace("ACCOUNT_PUBKEY_HERE", PUBKEY)
    )
    process = await asyncio.create_subprocess_exec(
        *command, "client", cwd=directory, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    text = ""
    try:
        async with asyncio.timeout(20):
            while text.count("Account update:") < 4:
                data = await process.stdout.read(65_536)
                assert data, text
                text += data.decode()
    finally:
        process.kill()
        await process.wait()
    return text


def updates_in(text: str) -> list[dict[str, Any]]:
    """Return the complete updates that a client printed."""
    parts = text.split("Account update:")[1:-1]
    return [json.loads(part) for part in parts]


def assert_the_seeds_shape(updates: list[dict[str, Any]]) -> None:
    assert updates[0]["source"] == "cache"
    assert {update["source"] for update in updates[1:]} == {"realtime"}
    for update in updates:
        assert update["pubkey"] == update["account"]["pubkey"] == PUBKEY
        account = update["account"]
        assert {"id", "pubkey", "slot", "account_type", "owner", "lamports", "data_json", "created_at"} <= set(account)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", account["created_at"])
        assert isinstance(account["id"], int)
        assert isinstance(account["data_json"], dict)


async def test_the_seeds_env_clients_sql_and_redis_commands_work_unchanged(tmp_path: Path) -> None:
    """With the seed's `.env` its Python client, its SQL and its redis-cli commands give what its README says."""
    with RedisServer() as redis:
        async with Devnode(RECORDING, rate=400, loop=True) as node:
            (tmp_path / ".env").write_text(own_env(node, redis))
            async with dot_env_server(tmp_path) as server:
                await until(lambda: redis.command("EXISTS", f"account:{PUBKEY}") == 1, seconds=15)
                text = await printed_by(tmp_path, PYTHON_CLIENT, sys.executable, url=server.url)
                assert_the_seeds_shape(updates_in(text))
                await until(lambda: len(redis.command("KEYS", "account:*")) > 50, seconds=15)
                assert await server.stop() == 0
        cached = json.loads(redis.command("GET", f"account:{PUBKEY}"))
        assert 0 < redis.command("TTL", f"account:{PUBKEY}") <= 3600
    connection = sqlite3.connect(tmp_path / "account.db")
    recent = connection.execute("SELECT * FROM account_updates ORDER BY created_at DESC LIMIT 10").fetchall()
    assert len(recent) == 10
    history = connection.execute(
        "SELECT id, slot, data_json FROM account_updates WHERE pubkey = ? ORDER BY slot DESC", (PUBKEY,)
    ).fetchall()
    assert (cached["id"], cached["slot"]) == (max(row[0] for row in history), history[0][1])
    connection.execute("CREATE INDEX IF NOT EXISTS idx_created_at ON account_updates(created_at DESC)")
    connection.execute("CREATE INDEX IF NOT EXISTS idx_lamports ON account_updates(lamports)")
    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM account_updates WHERE pubkey = 'x' ORDER BY slot DESC LIMIT 1"
    ).fetchall()
    connection.close()
    assert any("USING INDEX" in row[3] for row in plan)


async def test_the_seeds_node_client_works_unchanged(tmp_path: Path) -> None:
    """The seed's Node.js client, with the `ws` package, prints the state and then live updates."""
    node_js = shutil.which("node")
    if node_js is None or not NODE_MODULES.exists():
        pytest.skip("Node.js and npm are not installed here; .ci/run installs them")
    async with Devnode(RECORDING, rate=400, loop=True) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url}) as server:
            async with Client(server.url) as client:
                await client.ask(action="subscribe", pubkey=PUBKEY)
                await until(lambda: client.updates, seconds=15)
            text = await printed_by(tmp_path, NODE_CLIENT, node_js, url=server.url, NODE_PATH=str(NODE_MODULES))
            assert text.startswith("Connected")
            assert_the_seeds_shape(updates_in(text))


async def test_redis_away_and_back_costs_no_client_anything(tmp_path: Path) -> None:
    """Redis killed in mid-stream: updates go on, /readyz says degraded, and the keys come back with it."""
    with RedisServer() as redis:
        async with Devnode(RECORDING, rate=200, loop=True) as node:
            env = {"RPC_URL": node.ws_url, "REDIS_URL": redis.url}
            async with ServerProcess(tmp_path, env) as server, Client(server.url) as client:
                await client.ask(action="subscribe", pubkey=PUBKEY)
                await until(lambda: redis.command("EXISTS", f"account:{PUBKEY}") == 1, seconds=15)
                redis.kill()
                before = len(client.updates)
                await until(lambda: len(client.updates) > before + 5, seconds=15)
                await until(lambda: "cache" in server.stderr.decode().lower(), seconds=15)
                redis.start()
                await until(lambda: redis.command("EXISTS", f"account:{PUBKEY}") == 1, seconds=30)
                assert await server.stop() == 0
