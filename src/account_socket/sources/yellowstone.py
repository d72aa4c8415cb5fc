"""The datasource of Yellowstone gRPC: accounts as their slots are made, with replay, reconnecting for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import structlog
from grpc.aio import AioRpcError, Channel, StreamStreamCall

from account_socket.backoff import Backoff
from account_socket.endpoints import Endpoint
from account_socket.errors import SettingsError
from account_socket.sources.base import Datasource, Deliver, SourceStatus
from account_socket.sources.continuity import Continuity
from account_socket.sources.forks import Forks
from account_socket.sources.geyser import HINTS, Then, UpdateReader, after, subscribe_request
from account_socket.sources.geyser_connection import GeyserConnection
from account_socket.sources.geyser_node import Node, open_channel
from account_socket.sources.geyser_session import GeyserSession
from account_socket.sources.slot_tip import SlotTip
from account_socket.sources.tap import Tap

OPEN_SECONDS = 5.0
"""For TCP, TLS and the first answer: a node that accepts TCP and says nothing is left after it."""

BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS = 0.5, 8.0
"""The longest wait and one stalled handshake stay below the 15 s in which streaming resumes."""

LATER_SECONDS = 5.0
REFUSED_SECONDS = 60.0
"""How soon a node is asked again that was content with token and filters before, and is not any more."""

MAX_WATCHED = 1_000
_REPLAY_TRIES = 3
_REPLAY_MARGIN_SLOTS = 5
"""The first slot that can be replayed moves on while a stream is opened."""

log = structlog.get_logger("account_socket.upstream")


@dataclass(frozen=True)
class _Ending:
    """Why one connection ended; `replay` tells whether it had asked for one."""

    then: Then
    reason: str
    code: str = ""
    progress: float = 0.0
    replay: bool = False


class Yellowstone(Datasource):
    """
    Account updates of `programs` from one Yellowstone endpoint.

    Args:
        url: `http(s)://host:port`; without a port 443, or 10000 without TLS.
        name: short and unique, without secrets.
        programs: base58 addresses, the owners to filter by.
        commitment: processed, confirmed or finalized.
        token: the `x-token`, or ""; it appears nowhere.
        compression: whether the node may send gzip.
        max_watched: how many single accounts the node's limits allow in a filter.
        stale_slot_seconds: without a new slot for so long, the stream is dead whatever TCP says.
        backoff: the waits between connections.
        tap: listens in on every stream.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        programs: Sequence[str],
        commitment: str,
        token: str = "",
        compression: bool = False,
        max_watched: int = MAX_WATCHED,
        stale_slot_seconds: float = 10.0,
        open_seconds: float = OPEN_SECONDS,
        backoff: Backoff | None = None,
        tap: Tap | None = None,
    ) -> None:
        self.name = name
        self.status = SourceStatus()
        self._endpoint = Endpoint(url)
        self._token = token
        self._programs = tuple(programs)
        self._commitment = commitment
        self._compression = compression
        self._max_watched = max_watched
        self._stale_slot_seconds = stale_slot_seconds
        self._open_seconds = open_seconds
        self._backoff = backoff or Backoff(BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS)
        self._tap = tap
        self._tip = SlotTip()
        self._reader = UpdateReader(name)
        self._continuity = Continuity(commitment)
        self._forks = Forks() if commitment == "processed" else None
        self._watched: tuple[str, ...] = ()
        self._connection: GeyserConnection | None = None
        self._was_connected = False
        self._replay_failures = 0
        self._why_new = "first connection"

    def __repr__(self) -> str:
        return f"Yellowstone({self.name!r}, {self._endpoint.label!r})"

    def watch(self, pubkeys: Collection[str]) -> None:
        """See these accounts closed: as many as the node's limits allow, in their order."""
        watched = tuple(pubkeys)[: self._max_watched]
        if watched != self._watched:
            self._watched = watched
            if self._connection is not None:
                self._connection.send_filters()

    async def run(self, deliver: Deliver) -> None:
        """
        Deliver until cancelled.

        Raises:
            SettingsError: the node refuses the token or the filters, and was never connected.
            What `deliver` raises.
        """
        while True:
            ending = await self._connect_once(deliver)
            self._why_new = ending.reason
            wait = max(self._backoff.next(ending.progress), self._wait_after(ending))
            repeated = ending.reason == self.status.last_error and not ending.progress
            self.status.last_error = ending.reason
            note = log.debug if repeated else log.warning
            note(
                "upstream lost",
                source=self.name,
                url=self._endpoint.label,
                reason=ending.reason,
                retry_in=round(wait, 2),
            )
            await asyncio.sleep(wait)
            self.status.reconnects += 1

    def _wait_after(self, ending: _Ending) -> float:
        """Draw the conclusions from an ending; return the seconds to wait at least. Raises SettingsError."""
        match ending.then:
            case Then.WITHOUT_REPLAY:
                self._replay_failures = _REPLAY_TRIES
            case Then.RETRY_LATER:
                return LATER_SECONDS
            case Then.NARROW if self._watched:
                self._max_watched = len(self._watched) // 2
                log.warning("the node refuses the filters", source=self.name, watching_at_most=self._max_watched)
                self._watched = self._watched[: self._max_watched]
            case Then.STOP | Then.NARROW:
                if not self._was_connected:
                    raise SettingsError(f"{self._endpoint.label}: {ending.reason}", hint=HINTS.get(ending.code, ""))
                return REFUSED_SECONDS
            case _:
                if ending.replay and ending.progress == 0:
                    self._replay_failures += 1
        return 0.0

    async def _connect_once(self, deliver: Deliver) -> _Ending:
        # A channel of its own: a broken one would keep its own back-off, and leak streams.
        channel = open_channel(self._endpoint.url, compression=self._compression)
        try:
            return await self._stream(channel, deliver)
        except AioRpcError as error:
            return self._ending(error)
        finally:
            self.status.connected = False
            self._connection = None
            await channel.close()

    async def _stream(self, channel: Channel, deliver: Deliver) -> _Ending:
        node = Node(channel, self._token, self._open_seconds)
        tip = await node.slot()
        from_slot = self._replay_from(await node.first_available() if self._continuity.newest is not None else None)
        session = GeyserSession(
            self.name,
            self._reader,
            self._tip,
            self._continuity,
            forks=self._forks,
            why_new=self._why_new,
            joined_at=tip,
        )
        session.settle_doubt(tip, monotonic())
        call = node.subscribe()
        connection = self._connection = GeyserConnection(
            call,
            session,
            self._tip,
            source=self,
            scrub=self._scrub,
            filters=self._filters,
            ask_slot=node.slot,
            stale_slot_seconds=self._stale_slot_seconds,
            tap=self._tap,
        )
        if self._tap is not None:
            self._tap.opened()
        try:
            if not await self._open(call, from_slot):
                reason = f"the stream took no request for {self._open_seconds:g} s"
                return _Ending(Then.RETRY, reason)
            await connection.run(deliver)
        finally:
            call.cancel()
        if self._tap is not None:
            self._tap.lost(connection.reason)
        if connection.connected:
            self.status.last_error = connection.reason  # before it is seen that the connection is lost
            self._was_connected = True
            self._replay_failures = 0
        return _Ending(
            connection.then,
            connection.reason,
            connection.code,
            connection.progress_seconds,
            replay=from_slot is not None,
        )

    async def _open(self, call: StreamStreamCall[Any, Any], from_slot: int | None) -> bool:
        """
        Send the first request at once: some balancers hold a stream back until one flows. Raises AioRpcError.

        Returns:
            False where the node did not take it in time.
        """
        with suppress(asyncio.InvalidStateError):  # the node has ended the stream already; reading it tells why
            try:
                async with asyncio.timeout(self._open_seconds):
                    await call.write(self._filters(from_slot))
            except TimeoutError:
                return False
        return True

    def _replay_from(self, first_available: int | None) -> int | None:
        """Return the slot to ask replay from; None where the node cannot replay what was missed."""
        wanted, newest = self._continuity.replay_from, self._continuity.newest
        if wanted is None or newest is None or first_available is None:
            return None
        if self._replay_failures >= _REPLAY_TRIES:
            self._replay_failures = 0
            return None
        if newest < first_available:
            return None
        return wanted if wanted >= first_available else min(first_available + _REPLAY_MARGIN_SLOTS, newest)

    def _filters(self, from_slot: int | None) -> bytes:
        return subscribe_request(self._programs, self._watched, self._commitment, from_slot)

    def _ending(self, error: AioRpcError) -> _Ending:
        code, details = error.code().name, error.details() or ""
        if code == "DEADLINE_EXCEEDED":
            details = f"no answer for {self._open_seconds:g} s"
        return _Ending(after(code, details), self._scrub(f"{code}: {details}"), code)

    def _scrub(self, text: str) -> str:
        return self._endpoint.scrub(text.replace(self._token, "***") if self._token else text)
