"""
A node with both upstreams: `python twin_node.py MESSAGES`, the local node that writes when it is told.

It prints "ports PUBSUB YELLOWSTONE" and reads commands on stdin:

    go COUNT RATE    COUNT writes, RATE a second; answered "sent COUNT"

`lamports` tell when a write was made, as in bench/geyser_feeder.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from base64 import b64decode
from itertools import cycle
from pathlib import Path
from time import monotonic_ns

import uvloop
from geyser_feeder import STAMP_BASE, load_accounts
from lines import commands, say

from account_socket.devnode import Devnode, shipped_recording
from account_socket.model import RawAccount
from account_socket.sources.recording import Recording


async def serve(path: Path) -> None:
    accounts = cycle([(pubkey, each["owner"], b64decode(each["data"][0])) for pubkey, each in load_accounts(path)])
    silent = Recording(shipped_recording().header, [])
    async with Devnode(silent, loop=True, geyser_port=0) as node:
        say(f"ports {node.port} {node.geyser.port}")
        async for _, count, rate in commands():
            started = monotonic_ns()
            for number in range(int(count)):
                due = started + number * 1_000_000_000 // int(rate)
                await asyncio.sleep(max(0, due - monotonic_ns()) / 1e9)
                pubkey, owner, data = next(accounts)
                node.write(RawAccount(pubkey, 0, owner, STAMP_BASE + monotonic_ns(), data))
            say(f"sent {count}")
        os._exit(0)


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
