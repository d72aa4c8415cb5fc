"""The TypeScript client (clients/typescript): its own tests and its README, against the server."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.running import ServerProcess

from account_socket.devnode import Devnode, shipped_recording

PACKAGE = Path(__file__).parents[2] / "clients" / "typescript"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    NODE is None or not (PACKAGE / "node_modules").exists(),
    reason="Node.js and npm are not installed here; .ci/run installs them",
)


async def run(*command: str, seconds: float, **environment: str) -> str:
    """Run a program in the package; its output, which the failure shows if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=PACKAGE,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """The URLs of two servers on one node, each with a database of its own."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(Devnode(shipped_recording(), rate=1500, loop=True))
        urls = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            server = ServerProcess(tmp_path / name, {"RPC_URL": node.ws_url})
            urls.append((await stack.enter_async_context(server)).url)
        yield urls[0], urls[1]


async def test_npm_test(servers: tuple[str, str]) -> None:
    """The package is built, and its tests pass against a server."""
    await run("npm", "run", "build", seconds=20)
    output = await run("npm", "test", seconds=40, ACCOUNT_SOCKET_URL=servers[0], ACCOUNT_SOCKET_OTHER_URL=servers[1])
    assert "skipped 0" in output
