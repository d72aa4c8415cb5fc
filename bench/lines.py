"""How a benchmark's program in Python is talked to: one line in, one line out."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


async def commands() -> AsyncIterator[list[str]]:
    """Yield the words of each line on stdin until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().split()
