"""Faults of the parts beside the server: the database is locked, Redis dies, stands still, is full of garbage."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator

from tests.faults.fault import fault
from tests.faults.stack import Stack
from tests.faults.subject import AsProcess


@fault("the database is locked", hold=(0.1, 0.8))
async def database_locked(stack: Stack) -> AsyncGenerator[None, None]:
    """Another process writes, for so long that updates go on without ids."""
    connection = sqlite3.connect(stack.database, timeout=0, isolation_level=None, check_same_thread=False)
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError:
            await asyncio.sleep(0.005)
    yield
    connection.rollback()
    connection.close()


@fault("Redis is killed", "redis", alone="redis")
async def redis_killed(stack: Stack) -> AsyncGenerator[None, None]:
    """And comes back empty."""
    redis = stack.parts.redis
    assert redis is not None
    redis.kill()
    yield
    await asyncio.to_thread(redis.start)


@fault("Redis stands still", "redis", hold=(0.2, 1.5), alone="redis")
async def redis_stalled(stack: Stack) -> AsyncGenerator[None, None]:
    """Its sockets stay open."""
    redis = stack.parts.redis
    assert redis is not None
    redis.pause()
    yield
    redis.resume()


@fault("Redis is full of garbage", "redis", alone="redis")
async def redis_garbage(stack: Stack) -> AsyncGenerator[None, None]:
    """Under our keys."""
    redis = stack.parts.redis
    assert redis is not None
    for pubkey in stack.traffic.pubkeys:
        redis.command("SET", f"account:{pubkey}", stack.random.randbytes(50))
    yield


@fault("the server is killed", "process", alone="server")
async def server_killed(stack: Stack) -> AsyncGenerator[None, None]:
    """And comes back to its database, after things were written and closed."""
    traffic = stack.traffic
    assert isinstance(stack.server, AsProcess)
    await stack.server.kill()
    traffic.write_all()
    traffic.write(traffic.closed(traffic.some()))
    yield
    await stack.start_server()
