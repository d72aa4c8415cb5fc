"""
A Yellowstone node that only sends: `python geyser_feeder.py MESSAGES`, the account updates ready-made.

It serves GetVersion, GetSlot, SubscribeReplayInfo and Subscribe on a port of 127.0.0.1, and plays updates at a rate,
or as fast as HTTP/2 takes them, to the one stream that is open. MESSAGES: programNotifications in base64, as
`messages.make` writes them. Commands on stdin:

    go COUNT RATE    COUNT updates (0: until "stop"), RATE a second (0: as fast as possible)
    stop             both are answered "sent COUNT NANOSECONDS LATE_NANOSECONDS"

It prints "port N" at first, "subscribed" at each Subscribe, and ends when stdin does.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
import sys
from base64 import b64decode
from itertools import cycle
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec
import uvloop
from lines import commands, say
from solders.pubkey import Pubkey

from account_socket.sources.geyser_proto import geyser_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

FIRST_SLOT = 400_000_000
SLOT_ACCOUNTS = 100
"""Updates in a slot at whatever rate."""
SLOT_SECONDS = 0.4
FINALIZED_AFTER = 31
REPLAY_SLOTS = 150
STAMP_BASE = 10**18
"""`lamports` is this and the time in ns, as in bench/native/wire.h: each update is news and tells when it left."""
VERSIONS_FROM = 10**9
HEAD_BYTES = 12
"""Of a message in a file: its length, and where the feeder in C finds slot and lamports."""
LAMPORTS_BYTES, SHORT_BYTES = 9, 5
"""Of the numbers above as varints: `lamports`; slot and `write_version`."""

Context = grpc.aio.ServicerContext[Any, Any]


class Update:
    """One account update, with holes where slot, lamports and write_version go."""

    def __init__(self, pubkey: str, account: dict[str, Any], signature: bytes) -> None:
        update = pb.SubscribeUpdate(filters=["programs"])
        update.created_at.seconds, update.created_at.nanos = 1_790_000_000, 123_456_789
        update.account.slot = FIRST_SLOT
        info = update.account.account
        info.pubkey, info.owner = bytes(Pubkey.from_string(pubkey)), bytes(Pubkey.from_string(account["owner"]))
        info.lamports, info.rent_epoch, info.data = STAMP_BASE, account["rentEpoch"], b64decode(account["data"][0])
        info.write_version, info.txn_signature = VERSIONS_FROM, signature
        # In the order of their numbers, as every protobuf library writes them.
        self._head, rest = _split(update.SerializeToString(), b"\x10", STAMP_BASE, LAMPORTS_BYTES)
        self._data, rest = _split(rest, b"\x38", VERSIONS_FROM, SHORT_BYTES)
        self._signature, self._tail = _split(rest, b"\x10", FIRST_SLOT, SHORT_BYTES)

    def fill(self, slot: bytes, write_version: int, now_ns: int) -> bytes:
        """Return the message; `slot` as a varint."""
        return b"".join(
            (
                self._head,
                varint(STAMP_BASE + now_ns, LAMPORTS_BYTES),
                self._data,
                varint(write_version, SHORT_BYTES),
                self._signature,
                slot,
                self._tail,
            )
        )


def _split(message: bytes, tag: bytes, number: int, size: int) -> tuple[bytes, bytes]:
    head, tail = message.split(tag + varint(number, size))
    return head + tag, tail


def varint(number: int, size: int) -> bytes:
    """Return a protobuf varint that takes `size` bytes."""
    return bytes([number >> 7 * place & 0x7F | 0x80 for place in range(size - 1)] + [number >> 7 * (size - 1)])


def load_accounts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pubkey and the JSON account of each notification in a file of `messages.make`."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        size, _, _ = struct.unpack_from("=III", content, at)
        at += HEAD_BYTES
        value = msgspec.json.decode(content[at : at + size])["params"]["result"]["value"]
        yield value["pubkey"], value["account"]
        at += size


class Feed:
    """What is sent: slots with their accounts while a run is on, else a slot each 400 ms."""

    def __init__(self, updates: list[Update]) -> None:
        self._updates = cycle(updates)
        self._write_version = VERSIONS_FROM
        self._started = self._late = 0
        self._count = self._rate = self._sent = 0
        self._on = asyncio.Event()
        self.slot = FIRST_SLOT

    def go(self, count: int, rate: int) -> None:
        """Begin a run."""
        self._count, self._rate, self._sent, self._late, self._started = count, rate, 0, 0, monotonic_ns()
        self._on.set()

    def stop(self) -> None:
        """End the run, and say so."""
        if self._on.is_set():
            self._on.clear()
            say(f"sent {self._sent} {monotonic_ns() - self._started} {self._late}")

    async def play(self, context: Context) -> None:
        """Send for ever."""
        while True:
            self.slot += 1
            await context.write(self._status(self.slot, pb.SLOT_CREATED_BANK))
            ends = monotonic() + SLOT_SECONDS
            await self._play_slot(context)
            while not self._on.is_set() and monotonic() < ends:
                try:
                    async with asyncio.timeout(ends - monotonic()):
                        await self._on.wait()
                except TimeoutError:
                    break
            await context.write(self._status(self.slot, pb.SLOT_PROCESSED))
            await context.write(self._status(self.slot, pb.SLOT_CONFIRMED))
            await context.write(self._status(self.slot - FINALIZED_AFTER, pb.SLOT_FINALIZED))

    async def _play_slot(self, context: Context) -> None:
        slot = varint(self.slot, SHORT_BYTES)
        for _ in range(SLOT_ACCOUNTS):
            if self._rate and self._on.is_set():
                await self._pace()
            if not self._on.is_set():
                return
            self._write_version += 1
            self._sent += 1
            await context.write(next(self._updates).fill(slot, self._write_version, monotonic_ns()))
            if self._on.is_set() and 0 < self._count <= self._sent:
                self.stop()

    async def _pace(self) -> None:
        due = self._started + self._sent * 1_000_000_000 // self._rate
        if (wait := due - monotonic_ns()) > 0:
            await asyncio.sleep(wait / 1e9)
        self._late = max(self._late, monotonic_ns() - due)

    def _status(self, slot: int, status: pb.SlotStatus) -> bytes:
        update = pb.SubscribeUpdate(filters=["slots"])
        update.slot.slot, update.slot.parent, update.slot.status = slot, slot - 1, status
        return update.SerializeToString()

    # ---- methods -------------------------------------------------------------------------------------------

    async def subscribe(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve Subscribe: whatever is asked for, everything is sent."""
        taking = asyncio.create_task(_drain(requests))
        say("subscribed")
        try:
            await self.play(context)
        finally:
            taking.cancel()

    async def get_slot(self, _: bytes, context: Context) -> bytes:  # noqa: ARG002  (gRPC's signature)
        return pb.GetSlotResponse(slot=self.slot).SerializeToString()

    async def get_version(self, _: bytes, context: Context) -> bytes:  # noqa: ARG002
        return pb.GetVersionResponse(version='{"version":"15.1.2"}').SerializeToString()

    async def replay_info(self, _: bytes, context: Context) -> bytes:  # noqa: ARG002
        return pb.SubscribeReplayInfoResponse(first_available=self.slot - REPLAY_SLOTS).SerializeToString()


async def _drain(requests: AsyncIterator[bytes]) -> None:
    async for _ in requests:
        pass


async def serve(path: Path) -> None:
    chance = random.Random(0)
    feed = Feed([Update(pubkey, account, chance.randbytes(64)) for pubkey, account in load_accounts(path)])
    server = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Subscribe": grpc.stream_stream_rpc_method_handler(feed.subscribe),
        "GetSlot": grpc.unary_unary_rpc_method_handler(feed.get_slot),
        "GetVersion": grpc.unary_unary_rpc_method_handler(feed.get_version),
        "SubscribeReplayInfo": grpc.unary_unary_rpc_method_handler(feed.replay_info),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("geyser.Geyser", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say(f"port {port}")
    async for words in commands():
        match words:
            case ["go", count, rate]:
                feed.go(int(count), int(rate))
            case ["stop"]:
                feed.stop()
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
