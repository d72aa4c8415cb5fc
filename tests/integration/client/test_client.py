"""The Python client against a real server: streaming, reading, going on after every kind of break."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from tests.faults.proxy import Proxy
from tests.integration.client.demo_server import Demo
from tests.running import ServerProcess
from tests.servers import free_port
from tests.waiting import until

from account_socket.client import (
    Disconnected,
    Patience,
    Position,
    RefusedError,
    ServerError,
    SnapshotEnd,
    Subscribed,
    Subscription,
    Update,
    connect,
)
from account_socket.devnode import Devnode, shipped_recording

RECORDING = shipped_recording()
NOBODY = "11111111111111111111111111111111"
KEYS = [key for key, _ in Counter(write.account.pubkey for write in RECORDING.writes).most_common(40)]
QUICK = Patience(retry=0.01, retry_most=0.05)


@asynccontextmanager
async def served(tmp_path: Path, rate: float = 400, **env: str) -> AsyncIterator[ServerProcess]:
    env |= {"WEBSOCKET_PORT": str(free_port())}
    async with Devnode(RECORDING, rate=rate, loop=True) as node:
        async with ServerProcess(tmp_path, {"RPC_URL": node.ws_url, **env}) as server:
            yield server


def committed(server: ServerProcess | Demo, pubkey: str) -> list[int]:
    """What the database has of an account."""
    with closing(sqlite3.connect(server.directory / "account.db")) as database:
        rows = database.execute("SELECT id FROM account_updates WHERE pubkey = ? ORDER BY id", (pubkey,))
        return [number for (number,) in rows]


class Follower:
    """Reads a subscription in a task of its own and keeps what it was told."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.told: dict[str, list[int]] = {}
        self.breaks = 0
        self.answers: list[Subscribed] = []
        self.paused = asyncio.Event()
        self.paused.set()
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for event in self.subscription.events():
            await self.paused.wait()
            match event:
                case Update(account=account):
                    assert account.id is not None
                    self.told.setdefault(account.pubkey, []).append(account.id)
                case Disconnected():
                    self.breaks += 1
                case Subscribed():
                    self.answers.append(event)

    @property
    def newest(self) -> int:
        return max((ids[-1] for ids in self.told.values()), default=0)

    async def end(self) -> None:
        await self.subscription.close()
        await self.task


def assert_whole(follower: Follower, server: ServerProcess | Demo) -> None:
    """Every account's ids are those of the database, from the first that was told to the last."""
    assert follower.told
    for pubkey, ids in follower.told.items():
        assert ids == [each for each in committed(server, pubkey) if ids[0] <= each <= ids[-1]]
    assert all(answer.recovered in {None, True} for answer in follower.answers)


async def test_stream_state_and_history(demo: Demo) -> None:
    """An account streams state first and in order; `get` and `history` tell what was streamed; unknown is None."""
    async with connect(demo.url) as client:
        told = []
        async for update in client.subscribe(KEYS[0]):
            told.append(update.account)
            if len(told) == 120:
                break
        numbers = [account.id for account in told]
        assert numbers == sorted(set(numbers), key=numbers.index)
        assert [account.prev_id for account in told[1:]] == numbers[:-1]
        state = await client.get(KEYS[0])
        assert state is not None
        assert (state.account.id or 0) >= (numbers[-1] or 0)
        past = [account async for account in client.history(KEYS[0], before_id=(numbers[-1] or 0) + 1, limit=110)]
        assert past == told[-1:-111:-1]
        everything = [account.id async for account in client.history(KEYS[0])]
        assert everything == sorted(everything, key=lambda number: -(number or 0))
        assert set(numbers) <= set(everything)
        assert await client.get(NOBODY) is None
        assert [account async for account in client.history(NOBODY)] == []
        with pytest.raises(RefusedError, match="'abc' is not a base58 public key"):
            await client.get("abc")
        with pytest.raises(RefusedError) as refused:
            await anext(client.subscribe("abc"))
        assert refused.value.code == "invalid_pubkey"


async def test_cuts_and_kills_make_no_hole_and_no_repeat(tmp_path: Path) -> None:
    """Lines cut at random, in frames too, and a server killed twice: each account's ids are those of the database."""
    dice = random.Random(6)
    async with served(tmp_path) as server, Proxy(server_port(server)) as proxy:
        async with connect(f"ws://127.0.0.1:{proxy.port}", wait_for_server=True, patience=QUICK) as client:
            followers = [Follower(client.subscribe(*KEYS[each::4])) for each in range(4)]
            await until(lambda: all(len(follower.answers) for follower in followers))
            for turn in range(60):
                if turn in {20, 40}:
                    await server.kill()
                    await server.start()
                elif dice.random() < 0.5:
                    proxy.drop()
                else:
                    proxy.down.left = dice.randrange(1, 20_000)
                    await asyncio.sleep(0.02)
                    proxy.down.left = None
                await asyncio.sleep(dice.random() * 0.1)
            newest = max(follower.newest for follower in followers)
            await until(lambda: all(follower.newest > newest for follower in followers), seconds=20)
            for follower in followers:
                await follower.end()
        assert sum(follower.breaks for follower in followers) >= 100
        for follower in followers:
            assert_whole(follower, server)


def server_port(server: ServerProcess) -> int:
    return int(server.url.rsplit(":", 1)[1].removesuffix("/ws"))


async def test_by_a_filter_it_goes_on(tmp_path: Path) -> None:
    """Behind a cut comes what was missed: each account's updates follow on each other, and it says so."""
    async with served(tmp_path) as server, Proxy(server_port(server)) as proxy:
        async with connect(f"ws://127.0.0.1:{proxy.port}", patience=QUICK) as client:
            subscription = client.subscribe(account_type="Pool")
            told: dict[str, int] = {}
            verdicts = []
            updates = 0
            async for event in subscription.events():
                match event:
                    case Update(account=account):
                        assert account.id is not None
                        assert account.prev_id == told.get(account.pubkey, account.prev_id)
                        told[account.pubkey] = account.id
                        updates += 1
                        if updates == 20:
                            proxy.drop()
                    case SnapshotEnd():
                        verdicts.append(event.recovered)
                        updates = 0
                        if len(verdicts) == 5:
                            break
    assert (verdicts, subscription.recovered) == ([None, True, True, True, True], True)


@pytest.mark.parametrize("shape", ["fields", "diff", "max_rate_ms"])
async def test_shapes_by_keys_go_on(tmp_path: Path, shape: str) -> None:
    """By keys, in whatever shape, cuts make no hole and no repeat; at a slower rate the newest state is told."""
    async with served(tmp_path) as server, Proxy(server_port(server)) as proxy:
        async with connect(f"ws://127.0.0.1:{proxy.port}", patience=QUICK) as client:
            match shape:
                case "fields":
                    subscription = client.subscribe(*KEYS, fields=["sqrt_price"], delivery="every")
                case "diff":
                    subscription = client.subscribe(*KEYS, mode="diff", delivery="every")
                case _:
                    subscription = client.subscribe(*KEYS, max_rate_ms=50)
            follower = Follower(subscription)
            await until(lambda: follower.answers)
            for number in range(20):
                newest = follower.newest
                proxy.drop()
                await until(lambda n=number, at=newest: len(follower.answers) == n + 2 and follower.newest > at)
            await follower.end()
    assert [answer.recovered for answer in follower.answers[1:]] == [True] * 20
    if shape != "max_rate_ms":
        assert_whole(follower, server)
    assert all(ids == sorted(set(ids)) for ids in follower.told.values())


async def test_slow_reader(tmp_path: Path) -> None:
    """With `delivery="every"` a reader that pauses holds up no other, keeps little, is cut off, and misses nothing."""
    limits = {"OUTBOX_MAX_BYTES": "65536"}
    async with served(tmp_path, rate=1000, **limits) as server, connect(server.url, patience=QUICK) as client:
        slow, quick = Follower(client.subscribe(*KEYS, delivery="every")), Follower(client.subscribe(*KEYS))
        await until(lambda: slow.answers and quick.answers)
        connection = slow.subscription._connection
        assert connection is not None
        line = connection._socket.transport.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)  # the kernel's would take thousands of updates
        slow.paused.clear()
        begun = quick.newest
        await until(lambda: quick.newest > begun + 2_000, seconds=20)
        assert sum(len(frame.data) for frame in connection._socket.recv_messages.frames.queue) < 2**19
        at, quick_breaks = quick.newest, quick.breaks
        assert slow.newest < at
        slow.paused.set()
        await until(lambda: slow.newest >= at, seconds=20)
        await slow.end()
        await quick.end()
        assert slow.breaks >= 1
        assert quick_breaks == 0
        assert_whole(slow, server)


async def test_dead_line_is_found(tmp_path: Path) -> None:
    """A line that carries nothing any more, and says nothing, is found by a ping and made again."""
    patience = Patience(heartbeat=0.2, close=0.1, retry=0.1)
    async with served(tmp_path) as server, Proxy(server_port(server)) as proxy:
        async with connect(f"ws://127.0.0.1:{proxy.port}", patience=patience) as client:
            follower = Follower(client.subscribe(*KEYS))
            await until(lambda: follower.answers)
            began = time.monotonic()
            proxy.stall()
            await until(lambda: follower.breaks)
            assert time.monotonic() - began < 3
            proxy.clear()
            at = follower.newest
            await until(lambda: follower.newest > at + 100, seconds=10)
            await follower.end()
        assert_whole(follower, server)


async def test_quiet_line_is_not_dead(demo: Demo) -> None:
    """Silence alone ends nothing: pongs come."""
    async with connect(demo.url, patience=Patience(heartbeat=0.05)) as client:
        follower = Follower(client.subscribe(NOBODY))
        await until(lambda: follower.answers)
        await asyncio.sleep(0.6)
        assert follower.breaks == 0
        await follower.end()


async def test_cancelled_reads_lose_nothing(demo: Demo) -> None:
    """A read that is cancelled, on whatever await it is, loses no update."""
    patience = Patience(heartbeat=0.003)
    async with connect(demo.url, patience=patience) as client:
        told: list[int | None] = []
        subscription = client.subscribe(KEYS[0])
        while len(told) < 40:
            try:
                update = await asyncio.wait_for(anext(subscription), 0.008)
            except TimeoutError:
                continue
            told.append(update.account.id)
        assert told == [each for each in committed(demo, KEYS[0]) if (told[0] or 0) <= each <= (told[-1] or 0)]


async def test_what_is_left_is_unsubscribed(demo: Demo) -> None:
    """Leaving a loop, closing a subscription, closing a client each end connections; a reader gets the end."""
    async with aiohttp.ClientSession() as session:

        async def connections() -> int:
            async with session.get(f"{demo.http_url}/metrics") as response:
                found = re.search(r"^account_socket_connections (\d+)", await response.text(), re.MULTILINE)
                assert found is not None
                return int(found[1])

        async def come_to(count: int) -> None:
            async with asyncio.timeout(5):
                while await connections() != count:  # noqa: ASYNC110  (the server is another process)
                    await asyncio.sleep(0.01)

        async with connect(demo.url) as client:
            async for _ in client.subscribe(KEYS[0]):
                await come_to(1)
                break
            await come_to(0)
            async with client.subscribe(NOBODY) as subscription:
                reading = asyncio.create_task(anext(subscription, None))
                await come_to(1)
                with pytest.raises(RuntimeError, match="another task is reading"):
                    await anext(subscription)
            async with asyncio.timeout(5):
                assert await reading is None
            await come_to(0)
            waiting = asyncio.create_task(anext(client.subscribe(NOBODY), None))
            followers = [Follower(client.subscribe(*KEYS)) for _ in range(3)]
            await come_to(4)
        await come_to(0)
        async with asyncio.timeout(5):
            assert await waiting is None
            await asyncio.gather(*(follower.task for follower in followers))


async def test_position_is_for_another_process(demo: Demo) -> None:
    """A position goes on exactly where it was taken; one of another epoch begins anew and says so."""
    async with connect(demo.url) as client:
        first = Follower(client.subscribe(*KEYS))
        await until(lambda: first.newest > 500 and first.subscription.position is not None)
        position = first.subscription.position
        assert position is not None
        await first.end()
        second = Follower(client.subscribe(*KEYS, position=position))
        await until(lambda: second.answers)
        await until(lambda: second.newest > first.newest + 100)
        await second.end()
        assert second.subscription.recovered is True
        for pubkey, ids in second.told.items():
            assert ids[0] == next(each for each in committed(demo, pubkey) if each > position.after[pubkey])
        stranger = Position(epoch="another", after=position.after)
        third = Follower(client.subscribe(*KEYS, position=stranger))
        await until(lambda: third.answers)
        await third.end()
        assert third.subscription.recovered is False
        assert set(third.answers[0].unrecovered) == set(position.after)


async def test_server_that_is_not_there() -> None:
    """A server that is not there at first is an error that says so, or is waited for where that was asked."""
    url = f"ws://127.0.0.1:{free_port()}"
    async with connect(url) as client:
        with pytest.raises(ServerError, match="refused") as refused:
            await anext(client.subscribe(NOBODY))
        assert refused.value.retryable
        with pytest.raises(ServerError, match="refused"):
            await client.get(NOBODY)
    async with connect(url, wait_for_server=True) as client:
        event = await anext(client.subscribe(NOBODY).events())
        assert isinstance(event, Disconnected)
        assert 0 < event.retry_in <= 0.5
