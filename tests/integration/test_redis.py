"""The cache in a real Redis that stalls, dies, comes back, refuses and lies."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
import structlog
from tests.conformance.backends import state_of
from tests.samples import KEY_A, KEY_B, update
from tests.servers import RedisServer, free_port
from tests.waiting import until

from account_socket.cache import redis as redis_module
from account_socket.cache.redis import RedisCache
from account_socket.errors import SettingsError

pytestmark = pytest.mark.fault


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def cache(server: RedisServer) -> AsyncIterator[RedisCache]:
    cache = RedisCache(server.url, ttl=60)
    await cache.open()
    await until(lambda: cache.available)
    yield cache
    await cache.close()


def kept(server: RedisServer, pubkey: str) -> int | None:
    """Return the id that the server holds for `pubkey`."""
    value = server.command("GET", f"account:{pubkey}")
    return json.loads(value)["id"] if isinstance(value, bytes) else None


async def settled(cache: RedisCache) -> None:
    """Wait until everything is written."""
    await until(lambda: cache.statistics()["queued"] == 0 and not cache._queue._taken)


async def test_keys_are_the_published_ones(cache: RedisCache, server: RedisServer) -> None:
    """`account:{pubkey}` holds the account object, byte for byte, with the TTL."""
    cache.put([update(1)])
    await settled(cache)
    assert server.command("KEYS", "account:*") == [f"account:{KEY_A}".encode()]
    assert server.command("GET", f"account:{KEY_A}") == update(1).account_json
    ttl = server.command("TTL", f"account:{KEY_A}")
    assert isinstance(ttl, int)
    assert 50 <= ttl <= 60


async def test_another_client_finds_what_this_one_wrote(cache: RedisCache, server: RedisServer) -> None:
    """What one server wrote is read by the next one."""
    cache.put([update(1)])
    await settled(cache)
    other = RedisCache(server.url, ttl=60)
    await other.open()
    await until(lambda: other.available)
    assert await other.get([KEY_A]) == {KEY_A: state_of(update(1))}
    await other.close()


async def test_foreign_values_are_absent(cache: RedisCache, server: RedisServer) -> None:
    """Garbage, another account's object, or a key of another type counts as absent, and is overwritten."""
    server.command("SET", "account:garbage", b"\xff{")
    server.command("SET", f"account:{KEY_B}", update(1).account_json)
    server.command("RPUSH", "account:list", "a", "b")
    cache.put([update(1)])
    await settled(cache)
    assert set(await cache.get(["garbage", KEY_B, "list", KEY_A])) == {KEY_A}
    cache.put([update(2, "list")])
    await settled(cache)
    assert kept(server, "list") == 2


async def test_a_server_that_dies_and_returns(cache: RedisCache, server: RedisServer) -> None:
    """While the server is away callers go on and the newest value of each account is kept; then it is written."""
    cache.put([update(1)])
    await settled(cache)
    server.kill()
    await until(lambda: not cache.available)
    for number in range(2, 50):
        cache.put([update(number), update(number, KEY_B)])
    started = time.monotonic()
    assert (await cache.get([KEY_A, "unknown"])) == {KEY_A: state_of(update(49))}
    assert time.monotonic() - started < 0.5
    assert cache.statistics()["queued"] == 2
    server.start()
    await settled(cache)
    assert cache.available
    assert kept(server, KEY_A) == kept(server, KEY_B) == 49


async def test_a_server_that_was_never_there(server: RedisServer) -> None:
    """Opening returns at once when nothing answers, and the cache is found when it comes up."""
    port = free_port()
    cache = RedisCache(f"redis://127.0.0.1:{port}", ttl=60)
    started = time.monotonic()
    await cache.open()
    cache.put([update(1)])
    assert await cache.get([KEY_B]) == {}
    assert time.monotonic() - started < 0.5
    await until(lambda: cache.statistics()["errors"] > 0)
    assert not cache.available
    with RedisServer(port=port) as late:
        await settled(cache)
        assert kept(late, KEY_A) == 1
        await cache.close()


async def test_a_server_that_stalls(cache: RedisCache, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped server delays no caller beyond the limit, and none at all once it is known."""
    monkeypatch.setattr(redis_module, "OPERATION_SECONDS", 0.3)
    cache.put([update(1)])
    await settled(cache)
    server.pause()
    started = time.monotonic()
    assert await cache.get([KEY_A]) == {}
    assert time.monotonic() - started < 0.6
    await until(lambda: not cache.available)
    started = time.monotonic()
    for _ in range(100):
        assert await cache.get([KEY_A]) == {}
    assert time.monotonic() - started < 0.2
    server.resume()
    await until(lambda: cache.available)
    assert await cache.get([KEY_A]) == {KEY_A: state_of(update(1))}


async def test_a_group_that_was_given_up_never_overwrites_a_newer_one(
    cache: RedisCache, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stalled server still holds of us does not come after what we wrote when it went on."""
    monkeypatch.setattr(redis_module, "OPERATION_SECONDS", 0.2)
    keys = [f"key-{n}" for n in range(200)]
    # Far more than the server reads at once, so that the two connections interleave.
    monkeypatch.setattr(redis_module, "GROUP_BYTES", 2**26)
    large = b'"%s"' % (b"x" * 100_000)
    for number in range(1, 7, 2):
        server.pause()
        cache.put([update(number, key, data_json=large) for key in keys])
        await until(lambda: not cache.available)
        cache.put([update(number + 1, key) for key in keys])
        await until(lambda: cache._writing.is_connected)  # the next try waits for its answer
        server.resume()
        await until(lambda: cache.available)
        await settled(cache)
        await asyncio.sleep(0.1)
        assert {kept(server, key) for key in keys} == {number + 1}


async def test_a_server_that_refuses_writes(cache: RedisCache, server: RedisServer) -> None:
    """Values refused for want of memory are counted and kept apart; they are written when there is room."""
    server.command("CONFIG", "SET", "maxmemory", 1)
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    cache.put([update(1), update(1, KEY_B)])
    await until(lambda: cache.statistics()["errors"] >= 2)
    assert not cache.available
    assert cache.statistics()["queued"] == 2
    assert await cache.get([KEY_A]) == {KEY_A: state_of(update(1))}
    cache.put([update(2)])
    server.command("CONFIG", "SET", "maxmemory", 0)
    await settled(cache)
    assert cache.available
    assert (kept(server, KEY_A), kept(server, KEY_B)) == (2, 1)


async def test_a_replica_refuses_writes(cache: RedisCache, server: RedisServer) -> None:
    """A server that became a read-only replica is told as degraded; when it is a primary again, all is written."""
    server.command("REPLICAOF", "127.0.0.1", free_port())
    cache.put([update(1)])
    await until(lambda: cache.statistics()["errors"] >= 1)
    server.command("REPLICAOF", "NO", "ONE")
    await settled(cache)
    assert kept(server, KEY_A) == 1


async def test_one_refused_key_does_not_hold_the_others(server: RedisServer) -> None:
    """When only some keys are refused, the others are written."""
    server.command("ACL", "SETUSER", "some", "on", ">pass", "~account:ok*", "+@all")
    cache = RedisCache(server.url.replace("//", "//some:pass@"), ttl=60)
    await cache.open()
    await until(lambda: cache.available)
    cache.put([update(n, f"{'ok' if n % 2 else 'no'}-{n}") for n in range(20)])
    await until(lambda: cache.statistics()["written"] == 10)
    assert {kept(server, f"ok-{n}") for n in range(1, 20, 2)} == set(range(1, 20, 2))
    assert cache.statistics()["queued"] == 10
    cache.put([update(100, "ok-late")])
    await until(lambda: kept(server, "ok-late") == 100)
    await cache.close()


async def test_a_user_without_rights_to_ask_can_still_write(server: RedisServer) -> None:
    """A user that may only read and write account keys is enough."""
    server.command("ACL", "SETUSER", "least", "on", ">pass", "~account:*", "+get", "+mget", "+set", "+ping")
    cache = RedisCache(server.url.replace("//", "//least:pass@"), ttl=60)
    await cache.open()
    cache.put([update(1)])
    await until(lambda: kept(server, KEY_A) == 1)
    assert cache.available
    await cache.close()


async def test_a_wrong_password_is_told_without_it(server: RedisServer) -> None:
    """A refused password is logged once, counted, and never repeated."""
    cache = RedisCache(server.url.replace("//", "//user:hunter2@"), ttl=60)
    with structlog.testing.capture_logs() as lines:
        await cache.open()
        await until(lambda: cache.statistics()["errors"] >= 2)
    assert [line["event"] for line in lines] == ["cache lost"]
    assert "hunter2" not in repr(lines) + repr(cache)
    assert not cache.available
    await cache.close()


async def test_the_queue_is_bounded(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server is away the oldest values fall out of a full queue, and are counted."""
    monkeypatch.setattr(redis_module, "QUEUE_ENTRIES", 10)
    cache = RedisCache(f"redis://127.0.0.1:{free_port()}", ttl=60)
    await cache.open()
    cache.put([update(number, f"key-{number}") for number in range(25)])
    numbers = cache.statistics()
    assert (numbers["queued"], numbers["dropped"]) == (10, 15)
    assert set(await cache.get([f"key-{n}" for n in range(25)])) == {f"key-{n}" for n in range(15, 25)}
    await cache.close()


async def test_closing_writes_what_waits(server: RedisServer) -> None:
    """What was put right before closing is written."""
    cache = RedisCache(server.url, ttl=60)
    await cache.open()
    cache.put([update(n, f"key-{n}") for n in range(1000)])
    await cache.close()
    assert server.command("DBSIZE") == 1000


async def test_closing_does_not_wait_for_a_stalled_server(
    cache: RedisCache, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing gives a stalled server up at its ceiling."""
    monkeypatch.setattr(redis_module, "CLOSE_SECONDS", 0.2)
    server.pause()
    cache.put([update(1)])
    started = time.monotonic()
    await cache.close()
    assert time.monotonic() - started < 1


LIES = [
    b"+OK\r\n" * 50,
    b":1\r\n" * 50,
    b"*-1\r\n" * 50,
    b"$-1\r\n" * 50,
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"*1\r\n" * 50,
    b"*1000000000\r\n",
    b"+OK\r\n%1000000000\r\n",
    b"$1000000000000\r\n" + bytes(2**20),
    b"",
]


@pytest.mark.parametrize("lie", LIES)
async def test_a_server_that_lies(lie: bytes) -> None:
    """A server that speaks another protocol, or answers nonsense, is survived: reads are absent, tries go on."""
    connections = ended = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, ended
        connections += 1
        with suppress(OSError):
            while await reader.read(65536) and lie:
                writer.write(lie)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        ended += 1

    liar = await asyncio.start_server(answer, "127.0.0.1", 0)
    cache = RedisCache(f"redis://127.0.0.1:{liar.sockets[0].getsockname()[1]}", ttl=60)
    await cache.open()
    for number in range(3):
        cache.put([update(number + 1)])
        await asyncio.sleep(0.05)
        assert await cache.get([KEY_B]) == {}
    await until(lambda: cache.available or connections >= 2)
    assert cache._task is not None
    assert not cache._task.done()
    await cache.close()
    await until(lambda: ended == connections)
    liar.close()
    await liar.wait_closed()


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:6379", "http://127.0.0.1", "redis://127.0.0.1:port", "redis://h?socket_timeout=x"]
)
def test_what_is_no_redis_url_is_refused(url: str) -> None:
    """Another scheme or a port that is no number is a SettingsError."""
    with pytest.raises(SettingsError):
        RedisCache(url, ttl=60)


async def test_a_unix_socket_works(tmp_path: object) -> None:
    """`unix://` names a server by its socket file, and `/1` its database."""
    path = f"{tmp_path}/redis.sock"
    with RedisServer("--unixsocket", path) as server:
        cache = RedisCache(f"unix://{path}?db=1", ttl=60)
        await cache.open()
        cache.put([update(1)])
        await settled(cache)
        await cache.close()
        assert server.command("DBSIZE") == 0
        assert "db1" in str(server.command("INFO", "keyspace"))
