"""docs/solana.md: its programs, as they are printed, run against the demo."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import aiohttp
import pytest
from tests.integration.solana.stack import POOL
from tests.running import ServerProcess

ROOT = Path(__file__).parents[3]
NODE_MODULES = ROOT / "tests" / "node" / "node_modules"


async def first_lines(url: str, *command: str, program: str) -> list[str]:
    """Run a program against `url` until it has printed two lines."""
    address = url.removeprefix("ws://").removesuffix("/ws")
    program = program.replace("127.0.0.1:8080", address)
    process = await asyncio.create_subprocess_exec(
        *command, program, stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}, cwd=NODE_MODULES.parent
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            return [(await process.stdout.readline()).decode() for _ in range(2)]
    finally:
        process.kill()
        await process.communicate()


async def until_written(url: str) -> None:
    """Wait until the demo's replay has come to the pool."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(10):
        while True:
            async with http.get(url) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.02)


async def test_the_printed_programs(tmp_path: Path) -> None:
    """web3.js, kit and solana-py read the pool of the demo and are told its updates."""
    if shutil.which("node") is None or not NODE_MODULES.exists():
        pytest.skip("Node.js and npm are not installed here; .ci/run installs them")
    text = (ROOT / "docs" / "solana.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```(javascript|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = {"javascript": ("node", "--input-type=module", "-e"), "python": (sys.executable, "-c")}
    demo = ("demo", "--websocket-port", "0", "--rate", "200")
    async with ServerProcess(tmp_path, {"TMPDIR": str(tmp_path)}, command=demo) as server:
        await until_written(f"{server.http_url}/v1/accounts/{POOL}")
        printed = await asyncio.gather(
            *(first_lines(server.url, *commands[language], program=program) for language, program in programs)
        )
    assert len(printed) == 3
    for size, update in printed:
        assert re.fullmatch(r"1112n?\n", size)
        assert re.fullmatch(r"\d+n? 1112n?\n", update)
