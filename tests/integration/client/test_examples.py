"""The programs in examples/ against a real server."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integration.client.demo_server import Demo
from tests.waiting import until

from account_socket.client import connect

EXAMPLES = Path(__file__).parents[3] / "examples"
BUSY = "7YAtw7GcEuEV93E84pRPJnyGsKnCTgfPuTZxBWXZB8Sa"


@asynccontextmanager
async def example(name: str, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / name, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            yield process.stdout
    finally:
        process.kill()
        await process.communicate()


async def test_watch_pool(demo: Demo) -> None:
    """The example prints slots and prices."""
    async with example("watch_pool.py", BUSY, demo.url) as out:
        lines = [(await out.readline()).split() for _ in range(3)]
    slots = [int(slot) for slot, _ in lines]
    assert slots == sorted(slots)
    assert all(price.isdigit() for _, price in lines)


async def test_follow_pools(demo: Demo) -> None:
    """The example tells the pools that match, when they are all, and what follows."""
    async with connect(demo.url) as client:
        state = await anext(client.subscribe(BUSY))
    async with example("follow_pools.py", state.account.data_json["token_a_mint"], demo.url) as out:
        lines = [(await out.readline()).decode() for _ in range(4)]
    assert any(line.endswith("pools are known; what follows is live\n") for line in lines)
    assert any(BUSY in line for line in lines)


async def test_store_updates_goes_on_where_it_was(demo: Demo, tmp_path: Path) -> None:
    """The example, killed and started again, has every update in its file, at most that of the kill twice."""
    file = tmp_path / "updates"
    for lines in (5, 30):
        async with example("store_updates.py", str(file), demo.url, BUSY):
            await until(lambda lines=lines: file.exists() and file.read_text().count("\n") > lines, seconds=15)
    told = [json.loads(line)["account"] for line in file.read_text().splitlines()[:30]]
    accounts = list({account["id"]: account for account in told}.values())
    assert len(accounts) >= len(told) - 1
    assert [account["prev_id"] for account in accounts[1:]] == [account["id"] for account in accounts[:-1]]
