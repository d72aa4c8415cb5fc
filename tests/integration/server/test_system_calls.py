"""What a real server process asks of the kernel: system calls counted by strace, and file descriptors."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from tests.integration.server.serving import Served, raw_client
from tests.samples import KEY_A
from tests.waiting import until

ROOT = Path(__file__).parents[3]
CLIENTS = 10
TURNS = 20
UPDATES_A_TURN = 16
WRITE_CALLS = "write,writev,sendto,sendmsg,sendmmsg,pwritev"


def can_trace() -> bool:
    """Return whether strace is here and allowed."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="strace is not installed or not permitted here")
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_one_write_call_per_client_and_turn(tmp_path: Path) -> None:
    """With 16 updates in a turn each client costs one write call, not sixteen."""
    trace = tmp_path / "trace"
    process = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-qq", "-s", "0", "-e", f"trace={WRITE_CALLS}", "-o", str(trace)),
        *(sys.executable, "-m", "tests.integration.server.fan_out_server", "uvloop"),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        served = cast("Served", SimpleNamespace(listener=SimpleNamespace(port=port)))
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(raw_client(served)) for _ in range(CLIENTS)]
            for client in clients:
                client.say({"action": "subscribe", "pubkey": KEY_A, "id": 1})
                assert (await client.read_message())["type"] == "ack"
            before = _write_calls(trace)
            for turn in range(TURNS):
                process.stdin.write(b"\n")
                for client in clients:
                    messages: list[Any] = [await client.read_message() for _ in range(UPDATES_A_TURN)]
                    assert messages[-1]["account"]["id"] == (turn + 1) * UPDATES_A_TURN
            calls = _write_calls(trace) - before
    finally:
        process.stdin.close()
        await process.wait()
    assert calls >= CLIENTS * TURNS  # fewer would mean that not every call was seen
    assert calls <= CLIENTS * TURNS * 1.1  # some more where a socket took only a part


def _write_calls(trace: Path) -> int:
    return len(re.findall(r"^\d+ +\w+\(\d+", trace.read_text(), re.MULTILINE))


async def share_of_a_processor(server: psutil.Process) -> float:
    """Return what part of the next half second a process computes: of one that spins, nearly all."""
    used, started = server.cpu_times(), time.monotonic()
    await asyncio.sleep(0.5)
    return (sum(server.cpu_times()[:2]) - sum(used[:2])) / (time.monotonic() - started)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_no_file_descriptors_left(loop: str) -> None:
    """When descriptors run out, the server neither spins nor ends, and serves again once some are free."""
    command = f"ulimit -n 40; exec {sys.executable} -m tests.integration.server.fan_out_server {loop}"
    process = await asyncio.create_subprocess_shell(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        served = cast("Served", SimpleNamespace(listener=SimpleNamespace(port=port)))
        server = psutil.Process(process.pid)
        async with raw_client(served) as early:
            async with AsyncExitStack() as stack:
                for _ in range(80):
                    await stack.enter_async_context(raw_client(served, shake=False))
                await until(lambda: server.num_fds() >= 39 or loop == "uvloop")
                early.say({"action": "ping", "id": 1})
                assert await early.read_message() == {"type": "pong", "id": 1}
                assert min([await share_of_a_processor(server) for _ in range(4)]) < 0.5
            async with asyncio.timeout(10), raw_client(served) as late:
                late.say({"action": "ping", "id": 2})
                assert await late.read_message() == {"type": "pong", "id": 2}
    finally:
        process.stdin.close()
        await process.wait()
