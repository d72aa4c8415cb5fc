"""The machine around the server fails; docs/operations.md names these tests."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
import websockets
from tests.faults.impatient_server import PONG_SECONDS, STALL_SECONDS, impatient_server
from tests.faults.libc_faults import LibcFaults
from tests.faults.observing import metrics, said, until_ok, until_ready
from tests.faults.stage import assert_chained, stage
from tests.running import Client
from tests.waiting import until

pytestmark = pytest.mark.fault

HOUR, MONTH = 3_600, 30 * 86_400


async def test_stood_still(tmp_path: Path) -> None:
    """A process that stood still closes no client, drops no node, and misses nothing; it tells how long it was."""
    async with stage(tmp_path) as acted:
        os.kill(acted.server.pid, signal.SIGSTOP)
        await asyncio.sleep(max(PONG_SECONDS, STALL_SECONDS) + 1)
        os.kill(acted.server.pid, signal.SIGCONT)
        await acted.streams()
        report = await until_ready(acted.server, lambda report: report["status"] == "ok")
        assert report["upstream"]["sources"]["rpc-0"]["reconnects"] == 0
        assert acted.client.closed is None
        assert_chained(acted.client)
        [line] = said(acted.server, "event loop stood still")
        assert line["seconds"] >= STALL_SECONDS
        assert (await metrics(acted.server))["account_socket_loop_lag_seconds_sum"] >= STALL_SECONDS
        assert said(acted.server, "database cannot commit, updates go on without ids") == []


async def test_more_clients_than_files(tmp_path: Path) -> None:
    """Where few files may be open, clients get what the server does not need itself, and the others are told."""
    through = ("prlimit", "--nofile=400:400")
    async with stage(tmp_path, server=impatient_server(tmp_path, through=through)) as acted:
        [line] = said(acted.server, "too few open files are allowed for MAX_CONNECTIONS")
        room = line["max_connections"]
        assert (line["allowed"], room) == (400, 175)
        async with AsyncExitStack() as crowd:
            for _ in range(room - 1):
                await crowd.enter_async_context(websockets.connect(acted.server.url))
            for _ in range(5):
                async with Client(acted.server.url) as refused:
                    await until(lambda: refused.closed is not None)
                assert refused.closed is not None
                assert refused.closed[0] == 1013
            acted.node.drop_connections()
            await acted.streams()
            await until_ok(acted.server)
            assert (await metrics(acted.server))['account_socket_connections_refused_total{code="1013"}'] == 5
        await until_connected(acted.server.url)
        assert_chained(acted.client)


async def until_connected(url: str) -> None:
    """Return when a new client is served."""
    async with asyncio.timeout(10):
        while True:
            try:
                async with Client(url) as client:
                    await client.ask(action="ping")
                    return
            except (OSError, AssertionError, websockets.WebSocketException):
                await asyncio.sleep(0.05)


async def test_no_files_left(tmp_path: Path) -> None:
    """Without any file to open, who is connected is served; nodes and clients come back when there are some again."""
    async with stage(tmp_path) as acted:
        server = acted.server
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        await acted.streams()
        for _ in range(5):
            with pytest.raises((OSError, websockets.WebSocketException, TimeoutError)):
                await websockets.connect(server.url, open_timeout=0.2)
        await acted.streams()
        acted.node.drop_connections()
        await until(lambda: any("Too many open files" in line["reason"] for line in said(server, "upstream lost")))
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
        await acted.streams()
        await until_connected(server.url)
        await until_ok(server)


async def test_clock_jumps(tmp_path: Path, libc_faults: LibcFaults) -> None:
    """
    When the clock goes back `created_at` stands still, when it goes ahead it follows, and nothing gets old by that.

    The jumps are told.
    """
    server = impatient_server(tmp_path, libc_faults.env)
    async with stage(tmp_path, server=server) as acted:
        for jump in (-HOUR, MONTH + HOUR, -MONTH):
            jumps = len(said(acted.server, "clock jumped"))
            libc_faults.jump(jump)
            await until(lambda jumps=jumps: len(said(acted.server, "clock jumped")) > jumps)  # type: ignore[misc]
            await acted.streams()
        assert [round(line["seconds"], -2) for line in said(acted.server, "clock jumped")] == [
            -HOUR,
            MONTH + HOUR,
            -MONTH,
        ]
        accounts = sorted((update["account"] for update in acted.client.updates), key=lambda account: account["id"])
        assert all(before["created_at"] <= after["created_at"] for before, after in pairwise(accounts))
        span = [datetime.fromisoformat(accounts[at]["created_at"]) for at in (0, -1)]
        assert MONTH <= (span[1] - span[0]).total_seconds() < MONTH + HOUR
        await until_ok(acted.server)
        assert (await metrics(acted.server))["account_socket_store_pruned"] == 0
        assert_chained(acted.client)
