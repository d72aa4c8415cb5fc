"""What `doctor` checks: each function returns what it found, or raises with what to do about it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from account_socket.database_url import SqliteUrl, parse_database_url
from account_socket.endpoints import Endpoint, is_loopback
from account_socket.errors import CacheError, SourceError, StoreError, scrub_url
from account_socket.settings import Settings
from account_socket.sources.rpc_http import RpcHttp

Check = Callable[[], Awaitable[str]]
NO_TLS = "Or it speaks no TLS: then it is {plain}:// instead of {secure}://."
NODE_SECONDS = 6.0
"""A node that is well announces a slot every 0.4 s."""
REDIS_SECONDS = 3.0
MAX_MESSAGE_BYTES = 2**20
MEGABYTE = 2**20


def checks(settings: Settings) -> Iterator[tuple[str, Check]]:
    """Yield the name and the function of each check, in the order in which they make sense."""
    for number, http_url in enumerate(settings.rpc_http_urls):
        if settings.rpc_url:
            yield f"RPC WebSocket {number}", partial(check_websocket, settings.rpc_url[number])
        yield f"RPC HTTP {number}", partial(check_http, http_url, settings)
    if settings.geyser_url:
        yield "Yellowstone gRPC", partial(check_geyser, settings.geyser_url, settings)
    yield "Redis", partial(check_redis, settings)
    yield "database", partial(asyncio.to_thread, check_database, settings)


async def check_websocket(url: str) -> str:
    """Connect and wait for a slot: what the server's heartbeat needs."""
    from websockets.asyncio.client import connect  # noqa: PLC0415  (only a check that runs needs it)
    from websockets.exceptions import WebSocketException  # noqa: PLC0415

    endpoint = Endpoint(url)
    began = time.monotonic()
    hint = "Check RPC_URL: host, port, key, and that the plan has WebSockets."
    reason = f"no answer to the handshake within {NODE_SECONDS:.0f} s"
    proxy: Literal[True] | None = None if is_loopback(url) else True
    try:
        async with (
            asyncio.timeout(NODE_SECONDS),
            connect(url, compression=None, max_size=MAX_MESSAGE_BYTES, close_timeout=1, proxy=proxy) as connection,
        ):
            reason = f"no slot within {NODE_SECONDS:.0f} s"
            await connection.send('{"jsonrpc":"2.0","id":1,"method":"slotSubscribe"}')
            async for text in connection:
                slot = _slot(text)
                if slot is not None:
                    return f"{endpoint}: slot {slot} after {time.monotonic() - began:.1f} s"
        reason = "the node closed the connection"
    except TimeoutError:
        if reason.startswith("no answer") and url.startswith("wss:"):
            hint += "\n" + NO_TLS.format(plain="ws", secure="wss")
    except (OSError, WebSocketException) as error:
        reason = endpoint.scrub(str(error))
    raise SourceError(f"{endpoint}: {reason}", hint=hint)


def _slot(text: str | bytes) -> int | None:
    """Return the slot that a message announces. Raises SourceError: the node refused."""
    try:
        message: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise SourceError("what answers is not a Solana node") from None
    if "error" in message:
        raise SourceError(f"slotSubscribe was refused: {str(message['error'])[:200]}")
    slot = message.get("params", {}).get("result", {}).get("slot")
    return slot if isinstance(slot, int) else None


async def check_http(url: str, settings: Settings) -> str:
    """Ask for version, health and genesis hash, and compare the latter with the database's."""
    rpc = RpcHttp(url, max_rps=settings.rpc_max_rps, lookups_per_second=settings.rpc_lookups_per_second)
    try:
        version = await rpc.get_version(deadline=NODE_SECONDS)
        health = await rpc.get_health(deadline=NODE_SECONDS)
        genesis_hash = await rpc.get_genesis_hash(deadline=NODE_SECONDS)
    except SourceError as error:
        hint = error.hint or "Check RPC_HTTP_URL (derived from RPC_URL unless it is set)."
        if "no answer" in str(error) and url.startswith("https:"):
            hint += "\n" + NO_TLS.format(plain="http", secure="https")
        raise SourceError(str(error), hint=hint) from None
    finally:
        await rpc.close()
    bound = None
    with suppress(StoreError):  # a database that cannot be read fails its own check
        bound = await asyncio.to_thread(_bound_cluster, parse_database_url(settings.database_url))
    if bound not in {None, genesis_hash}:
        raise SourceError(
            f"{scrub_url(url)}: cluster {genesis_hash}, but the database belongs to {bound}",
            hint="Give each cluster a database of its own: DATABASE_URL.",
        )
    if health != "ok":
        raise SourceError(f"{scrub_url(url)}: unhealthy: {health}", hint="The node is behind; wait or use another.")
    return f"{scrub_url(url)}: version {version}, healthy, cluster {genesis_hash}"


async def check_geyser(url: str, settings: Settings) -> str:
    """Subscribe as the server does and wait for a slot: token and filters are judged with it."""
    from grpc.aio import AioRpcError  # noqa: PLC0415  (only a check that runs needs it)

    from account_socket.programs import load_programs  # noqa: PLC0415
    from account_socket.sources import geyser  # noqa: PLC0415
    from account_socket.sources.geyser_node import Node, open_channel  # noqa: PLC0415

    endpoint, token = Endpoint(url), settings.geyser_x_token or ""
    hint = "Check GEYSER_URL: host, port, and https or http."
    request = geyser.subscribe_request(list(load_programs().programs), (), settings.commitment)
    channel = open_channel(url)
    try:
        async with asyncio.timeout(NODE_SECONDS):
            node = Node(channel, token, NODE_SECONDS)
            version, first = await node.version(), await node.first_available()
            slot = await _first_slot(node.subscribe(), request)
    except TimeoutError:
        reason = f"no slot within {NODE_SECONDS:.0f} s"
    except AioRpcError as error:
        reason = f"{error.code().name}: {error.details()}"
        hint = geyser.HINTS.get(error.code().name, hint)
    except geyser.OddUpdateError as error:
        reason = f"what answers is not Yellowstone ({error})"
    else:
        replay = "no replay" if first is None else f"replay from slot {first}"
        return f"{endpoint}: version {version}, slot {slot}, {replay}"
    finally:
        await channel.close()
    raise SourceError(f"{endpoint}: {endpoint.scrub(reason.replace(token, '***') if token else reason)}", hint=hint)


async def _first_slot(call: Any, request: bytes) -> int:
    from account_socket.sources import geyser  # noqa: PLC0415  (only a check that runs needs it)

    await call.write(request)
    reader = geyser.UpdateReader("doctor")
    while True:
        message = await call.read()
        update = reader.read(message if isinstance(message, bytes) else b"\xff", 0.0)
        if isinstance(update, geyser.SlotUpdate):
            return update.slot


async def check_redis(settings: Settings) -> str:
    """Ask Redis for a pong."""
    url = settings.redis_url
    if url.startswith("memory:"):
        return "not used: the cache is embedded"
    from redis.asyncio import Redis  # noqa: PLC0415  (only a check that runs needs it)
    from redis.exceptions import RedisError  # noqa: PLC0415

    label = scrub_url(url)
    client = Redis.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
    try:
        async with asyncio.timeout(REDIS_SECONDS), aclosing(client):
            await client.ping()
            server: dict[str, Any] = await client.info("server")
            return f"{label}: version {server.get('redis_version', 'unknown')}"
    except (OSError, TimeoutError, RedisError) as error:
        reason = str(error) or "no answer"
    if not settings.redis_url_given:
        return f"nothing answers at {label}: the embedded cache is used"
    raise CacheError(f"{label}: {reason}", hint="Start Redis, correct REDIS_URL, or set REDIS_URL=memory://")


def check_database(settings: Settings) -> str:
    """Look at the database file and its place, without changing either."""
    place = parse_database_url(settings.database_url)
    if place.path is None:
        return "in memory: nothing survives the process"
    path = place.path.resolve()
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent} is no directory", hint="Create it, or correct DATABASE_URL.")
    exists = path.exists()
    if not os.access(path.parent, os.W_OK) or (exists and not os.access(path, os.W_OK)):
        raise StoreError(f"{path} cannot be written", hint="Give this user the right to, or correct DATABASE_URL.")
    cluster = _bound_cluster(place)
    free = shutil.disk_usage(path.parent).free // MEGABYTE
    if free < settings.disk_reserve_mb:
        raise StoreError(
            f"{path}: {free} MB free, less than DISK_RESERVE_MB={settings.disk_reserve_mb}: history is not written",
            hint="Free some space, or lower DISK_RESERVE_MB.",
        )
    known = f"cluster {cluster}" if cluster else "no cluster yet"
    return f"{path}: {known if exists else 'will be created'}, {free} MB free"


def _bound_cluster(place: SqliteUrl) -> str | None:
    """Return the genesis hash that a database keeps, None where there is none yet. Raises StoreError."""
    if place.path is None or not place.path.exists():
        return None
    try:
        with closing(sqlite3.connect(_read_only(place.path), uri=True, timeout=2)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                return None
            row = database.execute("SELECT value FROM meta WHERE key = 'genesis_hash'").fetchone()
    except sqlite3.Error as error:
        hint = "Is it a SQLite database? Another file: DATABASE_URL."
        raise StoreError(f"{place.path}: {error}", hint=hint) from error
    return row and str(row[0])


def _read_only(path: Path) -> str:
    return f"{path.resolve().as_uri()}?mode=ro"
