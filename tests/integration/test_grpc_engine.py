"""Which of its I/O engines gRPC runs in our processes."""

from __future__ import annotations

import asyncio
import os
import sys

from tests.yellowstone import node_of

ASK = """
import asyncio, sys
from account_socket.sources.yellowstone import open_channel, Node

async def ask():
    channel = open_channel(sys.argv[1])
    print(await Node(channel, "", 5.0).slot())
    await channel.close()

asyncio.run(ask())
"""


async def traced(url: str, **env: str) -> str:
    """Return what gRPC traces of its sockets while a process asks a node for its slot."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ASK, url),
        env={"PATH": os.environ["PATH"], "GRPC_VERBOSITY": "debug", "GRPC_TRACE": "tcp,event_engine_endpoint", **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert out.strip().isdigit(), err.decode()
    return err.decode()


async def test_the_engine_that_is_faster_from_python_is_used() -> None:
    """Messages come through the older engine; a grpcio that knows it no more would say so. The user may choose."""
    async with node_of() as node:
        ours, chosen = await asyncio.gather(
            traced(node.geyser_url), traced(node.geyser_url, GRPC_EXPERIMENTS="event_engine_client")
        )
    assert "tcp_posix.cc" in ours
    assert "posix_endpoint.cc" not in ours
    assert "Unknown experiment" not in ours
    assert "posix_endpoint.cc" in chosen
