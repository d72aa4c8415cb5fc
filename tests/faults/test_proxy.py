"""The proxy's faults, seen from both of its ends over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.faults.proxy import NOISE, Proxy
from tests.waiting import until


class End:
    """One end of a connection: what arrived, and whether it ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.received = bytearray()
        self.ended = False
        self._task = asyncio.ensure_future(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(65536):
                self.received += data
        except OSError:
            pass
        self.ended = True

    async def close(self) -> None:
        self.writer.transport.abort()
        await self._task


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[Proxy, list[End], list[End]]]:
    """Run a proxy with one connection through it; yields the proxy, the near ends and the far ends."""
    far: list[End] = []
    server = await asyncio.start_server(lambda reader, writer: far.append(End(reader, writer)), "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        near = [await opened(proxy)]
        await until(lambda: far)
        try:
            yield proxy, near, far
        finally:
            for end in (*near, *far):
                await end.close()


async def opened(proxy: Proxy) -> End:
    return End(*await asyncio.open_connection("127.0.0.1", proxy.port))


async def test_what_is_sent_arrives_both_ways_and_the_end_too() -> None:
    """Without a fault the proxy passes everything on, then the end of the connection."""
    async with joined() as (proxy, (near,), (far,)):
        near.writer.write(b"up" * 100_000)
        far.writer.write(b"down" * 100_000)
        await until(lambda: far.received == b"up" * 100_000 and near.received == b"down" * 100_000)
        far.writer.write(b"last")
        far.writer.close()
        await until(lambda: near.ended)
        assert near.received.endswith(b"last")
        await until(lambda: proxy.connections == 0)


async def test_a_stalled_direction_passes_nothing_until_it_is_cleared() -> None:
    """The other direction goes on; what was held arrives afterwards, in order."""
    async with joined() as (proxy, (near,), (far,)):
        proxy.down.stall()
        far.writer.write(b"one")
        near.writer.write(b"up")
        await until(lambda: far.received == b"up")
        far.writer.write(b"two")
        await asyncio.sleep(0.05)
        assert not near.received
        proxy.clear()
        await until(lambda: near.received == b"onetwo")


async def test_dropping_ends_both_ends_and_takes_new_connections() -> None:
    """Each end sees its connection end; the next one is passed on."""
    async with joined() as (proxy, near, far):
        proxy.drop()
        await until(lambda: near[0].ended and far[0].ended)
        near.append(await opened(proxy))
        near[1].writer.write(b"again")
        await until(lambda: len(far) == 2 and far[1].received == b"again")


async def test_a_refused_connection_ends_at_once_and_reaches_nobody() -> None:
    """A connection that exists stays."""
    async with joined() as (proxy, near, far):
        proxy.refusing = True
        near.append(await opened(proxy))
        await until(lambda: near[1].ended)
        near[0].writer.write(b"still here")
        await until(lambda: far[0].received == b"still here")
        assert len(far) == 1


async def test_a_truncated_connection_ends_in_the_middle() -> None:
    """So many bytes pass, not one more, and then both ends see the end."""
    async with joined() as (proxy, (near,), (far,)):
        proxy.down.left = 7
        far.writer.write(b"0123456789")
        await until(lambda: near.ended and far.ended)
        assert near.received == b"0123456"


async def test_noise_replaces_what_passes_and_ends_with_the_connection() -> None:
    """Every byte of it is noise until the fault is cleared, which aborts the connection."""
    async with joined() as (proxy, (near,), (far,)):
        proxy.down.noisy = True
        far.writer.write(b"words")
        await until(lambda: near.received == NOISE * 5)
        proxy.clear()
        await until(lambda: near.ended and far.ended)


@pytest.mark.parametrize(("delay", "rate"), [(0.1, None), (0.0, 10_000.0)], ids=["delay", "throttle"])
async def test_a_slow_line_takes_its_time(delay: float, rate: float | None) -> None:
    """A delay holds each chunk, a throttle as long as its bytes take; nothing is lost."""
    async with joined() as (proxy, (near,), (far,)):
        proxy.down.delay, proxy.down.bytes_per_second = delay, rate
        began = time.monotonic()
        far.writer.write(bytes(1_000))
        await until(lambda: near.received == bytes(1_000))
        assert time.monotonic() - began >= 0.1
