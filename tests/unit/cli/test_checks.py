"""What `doctor` says of a node and a database that are not what they should be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from account_socket.cli import checks
from account_socket.cli.checks import check_database, check_http, check_websocket
from account_socket.devnode import Devnode, shipped_recording
from account_socket.errors import SourceError, StoreError
from account_socket.settings import load
from account_socket.sources.rpc_websocket import RpcWebSocket


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def test_a_silent_port_where_tls_is_expected(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address with TLS that says nothing is told apart from one without slots, and may have none."""
    monkeypatch.setattr(checks, "NODE_SECONDS", 0.3)
    address = f"://127.0.0.1:{silent_port}"
    with pytest.raises(SourceError, match="no answer to the handshake") as failed:
        await check_websocket(f"wss{address}")
    assert "ws:// instead of wss://" in failed.value.hint
    with pytest.raises(SourceError, match="no answer to the handshake") as failed:
        await check_websocket(f"ws{address}")
    assert "TLS" not in failed.value.hint
    with pytest.raises(SourceError, match="no answer") as failed:
        await check_http(f"https{address}", load({}, flags_only=True))
    assert "http:// instead of https://" in failed.value.hint


async def test_the_server_tells_of_it_too(silent_port: int) -> None:
    """The reason why an upstream with TLS is lost asks the same question."""
    address = f"://127.0.0.1:{silent_port}"
    for scheme, asks in (("wss", True), ("ws", False)):
        source = RpcWebSocket(
            f"{scheme}{address}", name="rpc-0", programs=(), commitment="confirmed", rpc=None, open_seconds=0.2
        )
        reason, *_ = await source._connect_once(lambda _: asyncio.sleep(0))
        assert reason.startswith("no answer to the handshake")
        assert ("TLS" in reason) is asks


async def test_a_database_of_garbage_fails_its_own_check_alone(tmp_path: Path) -> None:
    """What is no SQLite database is told once, by the database's check; that of the node is passed."""
    path = tmp_path / "account.db"
    path.write_bytes(bytes(range(256)) * 100)
    settings = load({"DATABASE_URL": f"sqlite://{path}"}, flags_only=True)
    async with Devnode(shipped_recording()) as node:
        assert "healthy" in await check_http(node.http_url, settings)
    with pytest.raises(StoreError, match="not a database"):
        await asyncio.to_thread(check_database, settings)
