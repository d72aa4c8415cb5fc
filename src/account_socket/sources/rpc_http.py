"""The client of a node's HTTP JSON-RPC: bounded in time, size, attempts and rate."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any

import aiohttp

from account_socket.backoff import Backoff
from account_socket.endpoints import Endpoint, is_loopback
from account_socket.errors import RpcError
from account_socket.model import MAX_I64, Origin, RawAccount
from account_socket.sources.account_json import AccountReader, OddAccountError, show
from account_socket.sources.account_stream import AccountStream
from account_socket.sources.budget import Budget, Leftover, Turns
from account_socket.sources.pubsub import request
from account_socket.sources.rpc_answer import judge_answer, nonsense, parse_retry_after, read_answer

MAX_KEYS = 100
"""Keys of one getMultipleAccounts on an Agave node; some providers allow 5 and say so."""

MAX_ACCOUNTS_BYTES = 32 * 1024 * 1024
"""One account of 10 MiB as base64 fits twice; a hundred ordinary ones are under 1 MB. A larger answer is asked
for again in halves."""

MAX_SCALAR_BYTES = 64 * 1024

ATTEMPTS = 4
ATTEMPT_SECONDS = 10.0
DEADLINE_SECONDS = 30.0
IDLE_SECONDS = 60.0
"""A node looks through all its accounts before the first byte of a long list comes."""

_OK = 200

_INVALID_PARAMS = -32602
SLOT_NOT_REACHED = -32016
SLOT_SECONDS = 0.4
_UNHEALTHY = -32005
_TOO_MANY_REQUESTS = 429
ENCODINGS = ("base64+zstd", "base64")
_TOO_MANY = re.compile(r"too many inputs.*?max (\d{1,9})", re.IGNORECASE)


class _OversizeError(RpcError):
    """The answer is larger than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the node's answer is over {limit} bytes", code=0, retryable=False)


class RpcHttp:
    """
    One node's HTTP JSON-RPC. Every method raises RpcError (code 0 where the node gave none), never anything of
    the driver's; the URL's secrets are in none of them. Needs a running event loop from the first call on.

    Args:
        url: `http(s)://…`.
        name: of the datasource, goes into each RawAccount; an attribute too.
        commitment: of account reads; an attribute too.
        max_rps: requests a second of `background`.
        lookups_per_second: requests a second of `lookups`.
        retry_base: seconds, the first wait between attempts; it doubles, with full jitter, up to 30.

    Attributes:
        background: the budget of reads that nobody waits for.
        leftover: what is left of it.
        lookups: the budget of reads that clients cause.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "rpc",
        commitment: str = "confirmed",
        max_rps: float = 5.0,
        lookups_per_second: float = 20.0,
        retry_base: float = 1.0,
    ) -> None:
        self.name = name
        self._endpoint = Endpoint(url)
        self.commitment = commitment
        self._retry_base = retry_base
        self._reader = AccountReader(name)
        self._session: aiohttp.ClientSession | None = None
        self._resumes_at = float("-inf")
        self._last_id = 0
        self._max_keys = MAX_KEYS
        self._encoding = 0
        self.background = Budget(max_rps)
        self.leftover = Leftover(self.background)
        self.lookups = Budget(lookups_per_second)

    def __str__(self) -> str:
        return str(self._endpoint)

    def __repr__(self) -> str:
        return f"RpcHttp({self._endpoint.label!r})"

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get_account_info(
        self, pubkey: str, *, budget: Turns | None = None, deadline: float = DEADLINE_SECONDS
    ) -> tuple[int, RawAccount | None]:
        """Return the context slot and the account's state at it, None if there is none. See `call`."""
        result = await self._read_accounts("getAccountInfo", pubkey, budget=budget, deadline=deadline)
        slot, value = _context(result)
        return slot, self._account(pubkey, value, slot)

    async def get_multiple_accounts(
        self,
        pubkeys: Sequence[str],
        *,
        at_least: int = 0,
        head_bytes: int | None = None,
        budget: Turns | None = None,
        deadline: float = DEADLINE_SECONDS,
        attempts: int = ATTEMPTS,
    ) -> tuple[int, list[RawAccount | None]]:
        """
        Return the states of `pubkeys`, in their order, None where there is no account.

        Args:
            pubkeys: any number; asked in as many requests as the node's limit needs.
            at_least: the lowest context slot that will do (minContextSlot); waited for within the deadline.
            head_bytes: so many bytes of each account's data only (dataSlice); None: all of it.
            budget: charged once a request.
            deadline: seconds for all of it.
            attempts: how often at most each request is sent; waiting for `at_least` does not count.
        Returns:
            The lowest context slot of the requests (0 without keys), and the states, each with its own.
        Raises:
            RpcError: one of the requests failed, or an account made no sense.
        """
        ends = monotonic() + deadline
        states: list[RawAccount | None] = []
        lowest = None
        size = len(pubkeys)
        while len(states) < len(pubkeys):
            keys = list(pubkeys[len(states) : len(states) + min(size, self._max_keys)])
            try:
                result = await self._read_accounts(
                    "getMultipleAccounts",
                    keys,
                    at_least=at_least,
                    head_bytes=head_bytes,
                    budget=budget,
                    deadline=ends - monotonic(),
                    attempts=attempts,
                )
            except RpcError as error:
                if not self._can_split(error, keys):
                    raise
                size = max(1, len(keys) // 2) if isinstance(error, _OversizeError) else size
                continue
            slot, values = _context(result)
            if not isinstance(values, list) or len(values) != len(keys):
                raise nonsense("the node answered another number of accounts than asked for")
            states += [self._account(key, value, slot) for key, value in zip(keys, values, strict=True)]
            lowest = slot if lowest is None else min(lowest, slot)
        return lowest or 0, states

    async def get_slot(self, *, commitment: str = "processed", deadline: float = DEADLINE_SECONDS) -> int:
        """Return the newest slot at `commitment`. See `call`."""
        slot = await self.call("getSlot", [{"commitment": commitment}], deadline=deadline)
        if type(slot) is not int or not 0 <= slot <= MAX_I64:
            raise nonsense(f"getSlot answered {show(slot)}")
        return slot

    async def get_version(self, *, deadline: float = DEADLINE_SECONDS) -> str:
        """Return the node's software version (`solana-core`). See `call`."""
        result = await self.call("getVersion", deadline=deadline)
        version = result.get("solana-core") if isinstance(result, dict) else None
        if not isinstance(version, str):
            raise nonsense(f"getVersion answered {show(result)}")
        return version[:100]

    async def get_health(self, *, deadline: float = ATTEMPT_SECONDS) -> str:
        """Return `ok`, or what an unhealthy node says of itself. Asks once. See `call`."""
        try:
            result = await self.call("getHealth", deadline=deadline, attempts=1)
        except RpcError as error:
            if error.code != _UNHEALTHY:
                raise
            return str(error)
        return result[:100] if isinstance(result, str) else show(result)

    async def get_genesis_hash(self, *, deadline: float = DEADLINE_SECONDS) -> str:
        """Return the cluster's genesis hash, base58 of 32 bytes. See `call`."""
        result = await self.call("getGenesisHash", deadline=deadline)
        try:
            return self._reader.pubkey(result)
        except OddAccountError:
            pass
        raise nonsense(f"getGenesisHash answered {show(result)}")

    async def call(
        self,
        method: str,
        params: list[Any] | None = None,
        *,
        budget: Turns | None = None,
        deadline: float = DEADLINE_SECONDS,
        attempts: int = ATTEMPTS,
        max_bytes: int = MAX_SCALAR_BYTES,
    ) -> Any:
        """
        Return the `result` of one JSON-RPC call.

        Args:
            budget: charged once an attempt; waiting for it counts toward the deadline.
            deadline: seconds for everything.
            attempts: how often at most the request is sent; again only after errors that may pass.
            max_bytes: of the answer's body.
        Raises:
            RpcError: the last failure.
        """
        ends = monotonic() + deadline
        backoff = Backoff(self._retry_base, 30.0)
        while True:
            attempts -= 1
            try:
                await self._leave_alone(ends - monotonic())
                return await self._attempt(method, params, budget, ends - monotonic(), max_bytes)
            except RpcError as error:
                failure = error
            if failure.retry_after is not None:
                self._resumes_at = monotonic() + failure.retry_after
            wait = max(backoff.next(), failure.retry_after or 0.0)
            if failure.code == SLOT_NOT_REACHED:
                attempts += 1
                wait = SLOT_SECONDS / 2
            if not failure.retryable or not attempts or monotonic() + wait >= ends:
                break
            await asyncio.sleep(wait)
        # Without the frames below, whose variables hold what the node wrote: it may repeat the key.
        raise failure.with_traceback(None)

    async def _leave_alone(self, seconds: float) -> None:
        """Wait for as long as the node asked everybody to (Retry-After). Raises RpcError if it is over `seconds`."""
        rest = self._resumes_at - monotonic()
        if rest > seconds:
            message = f"{self._endpoint} asked to be left alone for a while (Retry-After)"
            raise RpcError(message, code=_TOO_MANY_REQUESTS, retryable=True, retry_after=rest)
        if rest > 0:
            await asyncio.sleep(rest)

    async def _attempt(
        self, method: str, params: list[Any] | None, budget: Turns | None, seconds: float, max_bytes: int
    ) -> Any:
        self._last_id += 1
        request_id = self._last_id
        body = request(request_id, method, params)
        failure = "too many requests are waiting for their turn"
        try:
            async with asyncio.timeout(seconds):
                if budget is not None:
                    await budget.take()
                failure = f"no answer from the node for {max(1, round(min(seconds, ATTEMPT_SECONDS)))} s"
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    status, payload, retry_after = await self._post(body, max_bytes)
        except TimeoutError:
            pass
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = self._endpoint.scrub(f"{type(error).__name__}: {error}")
        else:
            scrub, conceal = self._endpoint.scrub, self._endpoint.conceal
            return read_answer(status, payload, request_id, retry_after=retry_after, scrub=scrub, conceal=conceal)
        # Outside the except clause: the driver's error holds the URL and must not become our context.
        raise self._lost(method, failure)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No answer is taken compressed: a small one could inflate beyond every limit. No redirect is followed:
            # it would carry the key elsewhere.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, connect=5.0),
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=not is_loopback(self._endpoint.url),
                connector=aiohttp.TCPConnector(limit=16),
            )
        return self._session

    async def _post(self, body: bytes, max_bytes: int) -> tuple[int, bytes, float | None]:
        """Return status, body and Retry-After. Raises what aiohttp raises, and _OversizeError."""
        async with self._http().post(self._endpoint.url, data=body, allow_redirects=False) as response:
            return await _read_response(response, max_bytes)

    async def stream(
        self,
        method: str,
        params: list[Any],
        into: AccountStream,
        *,
        budget: Turns | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> AsyncGenerator[list[Any], None]:
        """
        Yield the accounts of one call's answer, of whatever size, as they come: parsed JSON, not checked.

        The node is read no faster than the accounts are taken. Ask it once; close the generator (`aclosing`).

        Args:
            into: takes the answer, and tells the rest of it.
            budget: charged once.
            idle_seconds: the longest time without a byte, until the first one too.
        Raises:
            RpcError: what was yielded before is true all the same; a second time may bring the rest.
        """
        if budget is not None:
            await budget.take()
        self._last_id += 1
        request_id = self._last_id
        failure: RpcError | None = None
        try:
            async with aclosing(self._chunks(request(request_id, method, params), request_id, idle_seconds)) as chunks:
                async for chunk in chunks:
                    if into.complete:
                        break
                    yield into.feed(chunk)
                yield into.finish()
        except TimeoutError:
            if not into.complete:
                failure = self._lost(method, f"nothing came from the node for {idle_seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = self._lost(method, self._endpoint.scrub(f"{type(error).__name__}: {error}"))
        except RpcError as error:
            failure = self._scrubbed(error)
        if failure is not None:
            # Outside the except clause: the errors above drag along the URL, or what the node wrote.
            raise failure
        judge_answer(_OK, into.envelope, request_id, retry_after=None, scrub=self._endpoint.scrub)

    def _lost(self, method: str, reason: str) -> RpcError:
        return RpcError(f"{method} at {self._endpoint}: {reason}", code=0, retryable=True)

    def _scrubbed(self, error: RpcError) -> RpcError:
        """Return an error like this one without what the node wrote, which may repeat the key, nor its frames."""
        return RpcError(
            self._endpoint.scrub(str(error)),
            code=error.code,
            retryable=error.retryable,
            retry_after=error.retry_after,
            hint=error.hint,
        )

    async def _chunks(self, body: bytes, request_id: int, idle_seconds: float) -> AsyncGenerator[bytes, None]:
        """Yield the body of a good response. Raises what aiohttp raises, TimeoutError, and RpcError for a bad one."""
        async with asyncio.timeout(idle_seconds):
            response = await self._http().post(self._endpoint.url, data=body, allow_redirects=False)
        async with response:
            if response.status != _OK:
                async with asyncio.timeout(idle_seconds):
                    answer = await _read_response(response, MAX_SCALAR_BYTES)
                status, payload, retry_after = answer
                read_answer(status, payload, request_id, retry_after=retry_after, scrub=self._endpoint.scrub)
            while True:
                async with asyncio.timeout(idle_seconds):
                    chunk = await response.content.readany()
                if not chunk:
                    return
                yield chunk

    async def _read_accounts(
        self,
        method: str,
        keys: str | list[str],
        *,
        at_least: int = 0,
        head_bytes: int | None = None,
        budget: Turns | None,
        deadline: float,
        attempts: int = ATTEMPTS,
    ) -> Any:
        ends = monotonic() + deadline
        for encoding in ENCODINGS[self._encoding :]:
            config: dict[str, Any] = {"encoding": encoding, "commitment": self.commitment}
            if at_least:
                config["minContextSlot"] = at_least
            if head_bytes is not None:
                config["dataSlice"] = {"offset": 0, "length": head_bytes}
            try:
                result = await self.call(
                    method,
                    [keys, config],
                    budget=budget,
                    deadline=ends - monotonic(),
                    attempts=attempts,
                    max_bytes=MAX_ACCOUNTS_BYTES,
                )
            except RpcError as error:
                if encoding == ENCODINGS[-1] or not may_mean_encoding(error):
                    raise
            else:
                self._encoding = ENCODINGS.index(encoding)
                return result
        raise AssertionError("the last encoding returns or raises")

    def _can_split(self, error: RpcError, keys: list[str]) -> bool:
        """Return whether fewer keys a request may help; what the node says it allows is remembered."""
        if len(keys) <= 1:
            return False
        if too_many := _TOO_MANY.search(str(error)):
            allowed = int(too_many[1])
            self._max_keys = allowed if 1 <= allowed < len(keys) else len(keys) // 2
            return True
        return isinstance(error, _OversizeError)

    def _account(self, pubkey: str, value: Any, slot: int) -> RawAccount | None:
        if value is None:
            return None
        try:
            return self._reader.account(pubkey, value, slot, origin=Origin.REREAD, received_at=monotonic())[0]
        except OddAccountError as odd:
            kind = odd.kind
        raise nonsense(f"the node answered a state of {pubkey:.50} that makes no sense: {kind}")


async def _read_response(response: aiohttp.ClientResponse, max_bytes: int) -> tuple[int, bytes, float | None]:
    """Return status, body and Retry-After. Raises what aiohttp raises, and _OversizeError."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            raise _OversizeError(max_bytes)
        chunks.append(chunk)
    return response.status, b"".join(chunks), parse_retry_after(response.headers.get("Retry-After"))


def _context(result: Any) -> tuple[int, Any]:
    match result:
        case {"context": {"slot": slot}, "value": value} if type(slot) is int and 0 <= slot <= MAX_I64:
            return slot, value
    raise nonsense("the node answered without a context slot")


def may_mean_encoding(error: RpcError) -> bool:
    """Return whether a node may have refused the encoding, or a key of the config, and not the request as such."""
    return "encoding" in str(error).lower() or (error.code == _INVALID_PARAMS and not _TOO_MANY.search(str(error)))
