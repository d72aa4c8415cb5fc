"""What /openapi.json promises is kept, whatever is asked: schemathesis tries."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from tests.running import ServerProcess

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

CONFIGURED = Path(__file__).parent / "schemathesis"
SCHEMATHESIS = (
    *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURED / "schemathesis.toml"), "run"),
    *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "8"),
    *("--request-timeout", "10", "--continue-on-failure", "--no-color", "--generation-database", "none"),
)


async def test_the_server_keeps_what_its_description_promises(tmp_path: Path) -> None:
    """Hundreds of requests, valid and not, are answered with the statuses, types, headers and bodies described."""
    async with ServerProcess(tmp_path, command=("demo", "--websocket-port", "0", "--rate", "200")) as server:
        process = await asyncio.create_subprocess_exec(
            *SCHEMATHESIS,
            f"{server.http_url}/openapi.json",
            cwd=tmp_path,
            env={"PYTHONPATH": str(CONFIGURED), "PATH": "", "COLUMNS": "120"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    assert b"10 selected / 10 total" in told, told.decode()
