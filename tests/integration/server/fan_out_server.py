"""
A server process for tests: publishes 16 updates in one turn per line read, ends at the end of input.

Its argument is `uvloop` or `asyncio`. Its first line of output is the port.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import structlog
import uvloop
from tests.integration.server.serving import serving
from tests.samples import KEY_A

UPDATES_A_TURN = 16


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with serving() as served:
        os.write(1, b"%d\n" % served.listener.port)
        while await reader.readline():
            for _ in range(UPDATES_A_TURN):
                served.publish(KEY_A, size=3000)


if sys.argv[1] == "uvloop":
    uvloop.run(main())
else:
    asyncio.run(main())
