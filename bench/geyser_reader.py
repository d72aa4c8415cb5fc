"""
Only reads a Yellowstone stream: `python geyser_reader.py PORT bare|parsed|source`.

`bare` takes each message from grpcio and makes nothing of it, `parsed` has protobuf parse it too: what a client in
Python cannot do without. `source` is our datasource, whose batches nobody takes. Each line on stdin is answered with
how many account updates came so far.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, cast

import structlog
import uvloop
from lines import commands, say

from account_socket.sources.geyser import subscribe_request
from account_socket.sources.geyser_node import Node, open_channel
from account_socket.sources.geyser_proto import geyser_pb2 as pb
from account_socket.sources.yellowstone import Yellowstone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from account_socket.model import RawAccount

OPEN_SECONDS = 5.0
COMMITMENT = "processed"
SMALLEST_ACCOUNT_BYTES = 200
"""A slot's status is shorter."""


class Reader:
    """Counts the account updates of one stream."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.updates = 0

    async def bare(self) -> None:
        """Count without parsing."""
        read = await self._open()
        while True:
            if len(await read()) > SMALLEST_ACCOUNT_BYTES:
                self.updates += 1

    async def parsed(self) -> None:
        """Parse each message."""
        read, parse = await self._open(), pb.SubscribeUpdate.FromString
        while True:
            if parse(await read()).WhichOneof("update") == "account":
                self.updates += 1

    async def source(self) -> None:
        """Run the datasource."""
        await Yellowstone(self._url, name="geyser", programs=[], commitment=COMMITMENT).run(self._take)

    async def _take(self, batch: list[RawAccount]) -> None:
        self.updates += len(batch)

    async def _open(self) -> Callable[[], Awaitable[bytes]]:
        self._channel = open_channel(self._url)
        call = Node(self._channel, "", OPEN_SECONDS).subscribe()
        await call.write(subscribe_request([], [], COMMITMENT))
        return cast("Callable[[], Awaitable[bytes]]", call.read)


async def run(port: str, way: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout has the answers
    reader = Reader(f"http://127.0.0.1:{port}")
    task = asyncio.create_task(getattr(reader, way)())
    async for _ in commands():
        if task.done():
            task.result()
        say(str(reader.updates))
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(run(*sys.argv[1:]))
