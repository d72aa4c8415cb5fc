"""Redis fails in every way it can; docs/operations.md names these tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from operator import ge
from pathlib import Path
from typing import Any

import pytest
from tests.faults.observing import metrics, said, until_ready
from tests.faults.stage import Stage, assert_chained, stage
from tests.running import Client
from tests.servers import RedisServer, free_port
from tests.waiting import until

from account_socket.cache.account_value import read_account_value

pytestmark = pytest.mark.fault


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def kept(redis: RedisServer, pubkeys: Collection[str]) -> list[int]:
    """Return the ids that Redis holds for `pubkeys`, 0 for none."""
    values = redis.command("MGET", *(f"account:{pubkey}" for pubkey in pubkeys))
    assert isinstance(values, list)
    states = [read_account_value(pubkey, value) for pubkey, value in zip(pubkeys, values, strict=True)]
    return [state.id if state else 0 for state in states]


async def keys_are_as_told(redis: RedisServer, client: Client) -> None:
    """Return when Redis holds, of each account, what the client saw last or newer."""
    wanted = {update["pubkey"]: update["account"]["id"] for update in client.updates}
    await until(lambda: all(map(ge, kept(redis, wanted), wanted.values())), seconds=15)


@asynccontextmanager
async def without_redis(
    tmp_path: Path, redis: RedisServer, fail: Callable[[], object], mend: Callable[[], object]
) -> AsyncIterator[Stage]:
    """Break Redis, see that nothing but Redis suffers, run the block, mend it, see that everything is written."""
    async with stage(tmp_path, {"REDIS_URL": redis.url}) as acted:
        await keys_are_as_told(redis, acted.client)
        fail()
        report = await until_ready(acted.server, lambda report: report["cache"]["status"] == "degraded")
        assert report["status"] == "degraded"
        async with asyncio.timeout(10):  # one that is full is tried again each second, and then is there for a moment
            while (samples := await metrics(acted.server))["account_socket_cache_available"]:  # noqa: ASYNC110  (another process)
                await asyncio.sleep(0.02)
        assert samples["account_socket_cache_errors"] > 0
        await acted.streams()
        states = await acted.learns_states()
        assert states.keys() == set(acted.pubkeys)
        yield acted
        mend()
        report = await until_ready(acted.server, lambda report: report["cache"]["status"] == "ok")
        assert report["status"] == "ok"
        await keys_are_as_told(redis, acted.client)
        assert_chained(acted.client)


async def test_redis_away(tmp_path: Path, redis: RedisServer) -> None:
    """Without Redis everything streams; it is told once, and all keys are written when it is back."""
    async with without_redis(tmp_path, redis, redis.kill, redis.start) as acted:
        assert (await metrics(acted.server))["account_socket_cache_queued"] > 0
        [line] = said(acted.server, "cache lost")
        assert line["level"] == "warning"
    assert len(said(acted.server, "cache connected")) == 2


async def test_redis_slow(tmp_path: Path, redis: RedisServer) -> None:
    """A Redis that does not answer within a second counts as away."""
    async with without_redis(tmp_path, redis, redis.pause, redis.resume) as acted:
        [line] = said(acted.server, "cache lost")
        assert line["reason"] == "no answer within 1 s"


async def test_redis_out_of_memory(tmp_path: Path, redis: RedisServer) -> None:
    """What Redis refuses for want of memory is tried again each second, and told once a trouble."""

    def fill() -> None:
        redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        redis.command("CONFIG", "SET", "maxmemory", 1)

    async with without_redis(tmp_path, redis, fill, lambda: redis.command("CONFIG", "SET", "maxmemory", 0)) as acted:
        assert "maxmemory" in said(acted.server, "cache refuses values")[0]["reason"]
        assert (await metrics(acted.server))["account_socket_cache_queued"] > 0


async def test_redis_read_only(tmp_path: Path, redis: RedisServer) -> None:
    """A Redis that became a replica is told as refusing; when it may be written again, everything is."""

    def demote() -> None:
        redis.command("REPLICAOF", "127.0.0.1", free_port())

    async with without_redis(tmp_path, redis, demote, lambda: redis.command("REPLICAOF", "NO", "ONE")) as acted:
        assert "read only" in said(acted.server, "cache refuses values")[0]["reason"]


async def test_redis_restarted(tmp_path: Path, redis: RedisServer) -> None:
    """A Redis that comes back empty is filled by the updates that follow; states come from elsewhere until then."""
    async with stage(tmp_path, {"REDIS_URL": redis.url}) as acted:
        await keys_are_as_told(redis, acted.client)
        acted.node.pause()
        redis.restart()
        await until(lambda: len(said(acted.server, "cache connected")) == 2)
        assert (await acted.learns_states()).keys() == set(acted.pubkeys)
        acted.node.resume()
        await acted.streams()
        await until(lambda: all(kept(redis, acted.pubkeys)), seconds=15)
        assert_chained(acted.client)


GARBAGE: tuple[bytes, ...] = (b"", b"\xff\x00{", b"null", b'{"id":1}', b"[" * 100_000)


async def test_redis_full_of_garbage(tmp_path: Path, redis: RedisServer) -> None:
    """Values that are none, another account's, or old are not believed; what is right is used."""
    async with stage(tmp_path, {"REDIS_URL": redis.url}) as acted:
        acted.node.pause()
        await keys_are_as_told(redis, acted.client)
        truth = {pubkey: state["account"] for pubkey, state in (await acted.learns_states()).items()}
        assert await acted.server.stop() == 0
        spoil(redis, acted.pubkeys, truth)
        await acted.server.start()
        states = await acted.learns_states()
        assert {pubkey: state["account"] for pubkey, state in states.items()} == truth
        assert states[acted.pubkeys[-1]]["source"] == "cache"
        assert {state["source"] for state in states.values()} == {"cache", "database"}
        samples = await metrics(acted.server)
        assert samples["account_socket_cache_misses"] >= len(GARBAGE)
        acted.node.resume()
        last = max(account["id"] for account in truth.values())
        await until(lambda: min(kept(redis, acted.pubkeys)) > last, seconds=15)


def spoil(redis: RedisServer, pubkeys: list[str], truth: dict[str, Any]) -> None:
    """Put garbage under all keys but a few at the end."""
    keys = [f"account:{pubkey}" for pubkey in pubkeys]
    for key, value in zip(keys, GARBAGE, strict=False):
        redis.command("SET", key, value)
    redis.command("SET", keys[-4], json.dumps({**truth[pubkeys[-4]], "id": 1, "lamports": 1}))
    redis.command("SET", keys[-3], json.dumps(truth[pubkeys[-4]]))
    redis.command("DEL", keys[-2])
    redis.command("RPUSH", keys[-2], "a", "b")


async def test_redis_that_is_none(tmp_path: Path) -> None:
    """A server that announces more than any memory holds counts as away."""

    lies = 0

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal lies
        lies += 1
        await reader.read(100)
        writer.write(b"*1000000000\r\n")
        await reader.read()
        writer.close()

    liar = await asyncio.start_server(lie, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{liar.sockets[0].getsockname()[1]}"
    async with liar, stage(tmp_path, {"REDIS_URL": url}, status="degraded") as acted:
        assert (await acted.learns_states()).keys() == set(acted.pubkeys)
        before = lies
        await until(lambda: lies > before + 1, seconds=15)
        await acted.streams()
        [line] = said(acted.server, "cache lost")
        assert line["reason"] == "the server announces more than was asked for"
