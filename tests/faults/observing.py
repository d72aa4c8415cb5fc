"""What an operator sees of a server: /readyz, /metrics, its log."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from tests.running import ServerProcess

_SAMPLE = re.compile(r"^(account_socket_\S+) (\S+)$", re.MULTILINE)


async def _get(server: ServerProcess, path: str) -> str:
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(server.http_url + path) as response,
    ):
        return await response.text()


async def readyz(server: ServerProcess) -> dict[str, Any]:
    """Return what /readyz says now."""
    report: dict[str, Any] = json.loads(await _get(server, "/readyz"))
    return report


async def metrics(server: ServerProcess) -> dict[str, float]:
    """Return each sample of /metrics by its name, labels included."""
    return {name: float(value) for name, value in _SAMPLE.findall(await _get(server, "/metrics"))}


async def until_ready(
    server: ServerProcess, condition: Callable[[dict[str, Any]], object], *, seconds: float = 15.0
) -> dict[str, Any]:
    """Return the first report of /readyz that fulfils `condition`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        report = await readyz(server)
        if condition(report):
            return report
        assert time.monotonic() < deadline, (report, server.stderr[-3000:].decode())
        await asyncio.sleep(0.02)


async def until_ok(server: ServerProcess, *, seconds: float = 15.0) -> None:
    """Wait until /readyz has nothing to complain of."""
    await until_ready(server, lambda report: report["status"] == "ok", seconds=seconds)


def said(server: ServerProcess, event: str, since: int = 0) -> list[dict[str, Any]]:
    """Return the log lines of that event, from byte `since` of the log on."""
    lines = server.stderr[since:].decode(errors="replace").splitlines()
    return [json.loads(line) for line in lines if f'"event": "{event}"' in line]
