"""The cache in Redis (or Valkey), under `account:{pubkey}`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from account_socket.backoff import Backoff
from account_socket.cache.account_value import read_account_value
from account_socket.cache.base import Cache
from account_socket.cache.latest import LatestQueue
from account_socket.cache.reply_limit import LimitedParser
from account_socket.errors import CacheError, SettingsError, scrub_url
from account_socket.model import AccountUpdate, StoredState

KEY_PREFIX = "account:"
OPERATION_SECONDS = 1.0
CLOSE_SECONDS = 2.0
HEARTBEAT_SECONDS = 1.0
"""How often an idle server is asked whether it is there."""
REFUSED_RETRY_SECONDS = 1.0

GROUP_ENTRIES = 256
GROUP_BYTES = 2**20
QUEUE_ENTRIES = 100_000
QUEUE_BYTES = 64 * 2**20
READ_CONNECTIONS = 8
READ_PAGE = 200

_SET = b"*5\r\n$3\r\nSET\r\n$%d\r\n" + KEY_PREFIX.encode() + b"%b\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$%d\r\n%b\r\n"
"""`SET account:{pubkey} value EX ttl` as RESP: the library packs a command in ten times the time."""

_LOST = (RedisError, CacheError, OSError, TimeoutError)

log = structlog.get_logger("account_socket.cache")


class RedisCache(Cache):
    """
    One task writes groups of the newest values over a connection of its own; reads share a small pool.

    While the server is away, reads find what still waits to be written and nothing else; the newest value of
    each account is kept, up to a bound, and written when the server is back.
    """

    def __init__(self, url: str, *, ttl: int) -> None:
        """
        Name the server: `redis://`, `rediss://` or `unix://`; values live for `ttl` seconds.

        Raises:
            SettingsError: the URL does not fit.
        """
        self._ttl = b"%d" % ttl
        self._name = scrub_url(url)
        try:
            self._pool = BlockingConnectionPool.from_url(
                url,
                max_connections=READ_CONNECTIONS,
                timeout=OPERATION_SECONDS,
                socket_timeout=None,  # each operation has one clock around it, not one per reply
                socket_connect_timeout=OPERATION_SECONDS,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
                driver_info=None,
                parser_class=LimitedParser,
            )
            self._writing: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # the library's gap
        except (ValueError, TypeError):
            raise SettingsError(
                f"{self._name!r} is not a Redis URL", hint="for example redis://127.0.0.1:6379/0"
            ) from None
        self._reading = Redis(connection_pool=self._pool)
        self._queue = LatestQueue(max_entries=QUEUE_ENTRIES, max_bytes=QUEUE_BYTES)
        self._refused = LatestQueue(max_entries=QUEUE_ENTRIES // 10, max_bytes=QUEUE_BYTES // 4)
        self._retry_refused_at = 0.0
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._task: asyncio.Task[None] | None = None
        self._reachable = False
        self._closing = False
        self._identity: tuple[bytes, int] | None = None
        self._written = self._hits = self._misses = self._errors = 0

    async def open(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="redis-cache")

    def put(self, updates: Iterable[AccountUpdate]) -> None:
        for update in updates:
            self._refused.discard(update.pubkey)
            self._queue.put(update.pubkey, StoredState(update.id, update.account_json))
        self._settled.clear()
        self._work.set()

    async def get(self, pubkeys: Sequence[str]) -> dict[str, StoredState]:
        found: dict[str, StoredState] = {}
        asked = []
        for pubkey in pubkeys:
            waiting = self._queue.get(pubkey) or self._refused.get(pubkey)
            if waiting is None:
                asked.append(pubkey)
            elif read_account_value(pubkey, waiting.account_json) is not None:
                found[pubkey] = waiting
        if asked and self._reachable:
            try:
                async with asyncio.timeout(OPERATION_SECONDS):
                    await self._fetch(asked, found)
            except _LOST:
                self._errors += 1
                self._work.set()  # the task asks the server whether it is there
        self._hits += len(found)
        self._misses += len(pubkeys) - len(found)
        return found

    async def _fetch(self, pubkeys: Sequence[str], found: dict[str, StoredState]) -> None:
        for start in range(0, len(pubkeys), READ_PAGE):
            page = pubkeys[start : start + READ_PAGE]
            values = await self._reading.mget([KEY_PREFIX + pubkey for pubkey in page])
            if not isinstance(values, list) or len(values) != len(page):
                raise CacheError("the server does not answer as Redis does")
            for pubkey, value in zip(page, values, strict=True):
                state = read_account_value(pubkey, value)
                if state is not None:
                    found[pubkey] = state

    async def _run(self) -> None:
        """Connect, write what waits, and again after every loss, for ever."""
        backoff = Backoff(0.1, 5.0, reset_after=5.0)
        while True:
            connected_at = time.monotonic()
            try:
                async with asyncio.timeout(OPERATION_SECONDS):
                    await self._connect()
                await self._write_until_lost()
            except _LOST as error:
                self._errors += 1
                self._lost(error)
            await asyncio.sleep(backoff.next(time.monotonic() - connected_at))

    def _lost(self, error: BaseException) -> None:
        self._queue.give_back()
        if self._reachable or self._errors == 1:
            reason = str(error) or f"no answer within {OPERATION_SECONDS:g} s"
            log.warning("cache lost", url=self._name, reason=reason, queued=len(self._queue))
        self._reachable = False
        self._settled.set()  # closing does not wait for a server that is away

    async def _connect(self) -> None:
        """
        Connect, and end our earlier connection if the same server still has it.

        A server that was stopped may still hold a group we gave up; it would overwrite newer values with it.
        """
        await self._writing.disconnect(nowait=True)
        await self._writing.connect()  # type: ignore[no-untyped-call]  # the library's gap
        identity = await self._identify()
        if identity is not None and self._identity is not None and identity[0] == self._identity[0]:
            with suppress(ResponseError):
                await self._ask("CLIENT", "KILL", "ID", self._identity[1])
        self._identity = identity
        self._reachable = True
        log.info("cache connected", url=self._name)

    async def _identify(self) -> tuple[bytes, int] | None:
        """Return the run of the server and our connection's number in it; None where we may not ask."""
        try:
            server = await self._ask("INFO", "server")
            number = await self._ask("CLIENT", "ID")
        except ResponseError:
            return None
        if not isinstance(server, bytes) or not isinstance(number, int):
            raise CacheError("the server does not answer as Redis does")
        run = next((line for line in server.splitlines() if line.startswith(b"run_id:")), b"")
        return (run, number) if run else None

    async def _ask(self, *command: str | int) -> Any:
        await self._writing.send_command(*command)
        return await self._writing.read_response()

    async def _write_until_lost(self) -> None:
        while True:
            if not self._queue:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFUSED_RETRY_SECONDS if self._refused else HEARTBEAT_SECONDS):
                        await self._work.wait()
            self._work.clear()
            self._retry_refused()
            group = self._queue.take(max_entries=GROUP_ENTRIES, max_bytes=GROUP_BYTES)
            async with asyncio.timeout(OPERATION_SECONDS):
                if group:
                    await self._write(group)
                else:
                    await self._ask("PING")
            self._queue.done()
            if not self._queue:
                self._settled.set()

    def _retry_refused(self) -> None:
        if self._refused and time.monotonic() >= self._retry_refused_at:
            for pubkey, state in self._refused.take(max_entries=QUEUE_ENTRIES, max_bytes=QUEUE_BYTES).items():
                self._queue.put(pubkey, state)
            self._refused.done()

    async def _write(self, group: dict[str, StoredState]) -> None:
        """Send the group in one piece; a value that the server refuses is kept apart and tried again later."""
        connection = self._writing
        await connection.send_packed_command(self._set_commands(group), check_health=False)
        for pubkey, state in group.items():
            try:
                answer = await connection.read_response()
            except ResponseError as error:
                self._refuse(pubkey, state, error)
                continue
            if answer != b"OK":
                raise CacheError("the server does not answer as Redis does")
            self._written += 1

    def _set_commands(self, group: dict[str, StoredState]) -> bytes:
        ttl = self._ttl
        return b"".join(
            [
                _SET % (len(pubkey) + len(KEY_PREFIX), pubkey.encode(), len(value), value, len(ttl), ttl)
                for pubkey, value in ((pubkey, state.account_json) for pubkey, state in group.items())
            ]
        )

    def _refuse(self, pubkey: str, state: StoredState, error: ResponseError) -> None:
        self._errors += 1
        if self._queue.get(pubkey) is not state:
            return  # a newer value waits
        if not self._refused:
            self._retry_refused_at = time.monotonic() + REFUSED_RETRY_SECONDS
            log.warning("cache refuses values", url=self._name, reason=str(error))
        self._refused.put(pubkey, state)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._settled.wait()
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._writing.disconnect(nowait=True)
        await self._pool.disconnect()

    @property
    def available(self) -> bool:
        return self._reachable and not self._refused

    def statistics(self) -> dict[str, int]:
        return {
            "queued": len(self._queue) + len(self._refused),
            "written": self._written,
            "dropped": self._queue.dropped + self._refused.dropped,
            "hits": self._hits,
            "misses": self._misses,
            "errors": self._errors,
        }
