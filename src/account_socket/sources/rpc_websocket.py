"""The datasource of Solana PubSub: programSubscribe over a WebSocket, reconnecting for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from account_socket.backoff import Backoff
from account_socket.endpoints import Endpoint, is_loopback
from account_socket.errors import SourceError
from account_socket.model import Gap
from account_socket.sources.base import Datasource, Deliver, SourceStatus
from account_socket.sources.fork_watch import ForkWatch
from account_socket.sources.pubsub import FrameReader
from account_socket.sources.pubsub_session import PubSubSession
from account_socket.sources.rpc_connection import PubSubConnection
from account_socket.sources.slot_tip import SlotTip
from account_socket.sources.tap import Tap
from account_socket.sources.whole_frames import WholeFrames

if TYPE_CHECKING:
    from account_socket.sources.rpc_http import RpcHttp

OPEN_SECONDS = 5.0
"""For TCP, TLS and the handshake: a node that accepts TCP and says nothing is left after it."""

BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS = 0.5, 8.0
"""The longest wait and one stalled handshake stay below the 15 s in which streaming resumes."""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""An account of 10 MiB is 14 MB as base64; a compressed one that does not shrink is no larger."""

MAX_WATCHED = 100

_MAX_QUEUED_FRAMES = 64
"""Read ahead beyond one read of the socket; few, since each may be of 14 MB."""

_MAX_RETRY_AFTER_SECONDS = 60.0
_TOO_MANY_REQUESTS = 429

log = structlog.get_logger("account_socket.upstream")

# At DEBUG the library logs the request line and headers, which hold API keys.
_silent = logging.Logger("account_socket.upstream.wire")  # noqa: LOG001  (outside the tree: no configuration can enable it)
_silent.disabled = True


class RpcWebSocket(Datasource):
    """
    Account updates of `programs` from one node.

    Args:
        url: `ws(s)://…`; its secrets appear nowhere.
        name: short and unique, without secrets.
        programs: base58 addresses; each becomes a programSubscribe.
        commitment: processed, confirmed or finalized.
        rpc: HTTP JSON-RPC of the same node, asked for the slot where a lie is possible; None: the socket is asked.
        max_watched: how many single accounts are watched by accountSubscribe.
        strict: a slot far ahead counts only when getSlot bears it out (sources/slot_tip.py).
        stale_slot_seconds: without a new slot for so long, the connection is dead whatever TCP says.
        backoff: the waits between connections.
        tap: listens in on every connection.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        programs: Sequence[str],
        commitment: str,
        rpc: RpcHttp | None,
        max_watched: int = MAX_WATCHED,
        strict: bool = False,
        stale_slot_seconds: float = 10.0,
        subscribe_seconds: float = 10.0,
        open_seconds: float = OPEN_SECONDS,
        backoff: Backoff | None = None,
        tap: Tap | None = None,
    ) -> None:
        self.name = name
        self.status = SourceStatus()
        self._endpoint = Endpoint(url)
        self._programs = tuple(programs)
        self._commitment = commitment
        self._rpc = rpc
        self._max_watched = max_watched
        self._stale_slot_seconds = stale_slot_seconds
        self._subscribe_seconds = subscribe_seconds
        self._open_seconds = open_seconds
        self._backoff = backoff or Backoff(BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS)
        self._tap = tap
        self._tip = SlotTip(strict=strict)
        self._complete_to: int | None = None
        self._why_lost = "the server was not running"
        self._reader = FrameReader(name)
        self._forks = ForkWatch() if commitment == "processed" else None
        self._watched: tuple[str, ...] = ()
        self._connection: PubSubConnection | None = None

    def __repr__(self) -> str:
        return f"RpcWebSocket({self.name!r}, {self._endpoint.label!r})"

    def watch(self, pubkeys: Collection[str]) -> None:
        """See these accounts closed at once: as many as `max_watched`, in their order."""
        watched = tuple(islice(pubkeys, self._max_watched))
        if watched != self._watched:
            self._watched = watched
            if self._connection is not None:
                self._connection.watch(watched)

    async def run(self, deliver: Deliver) -> None:
        """Deliver until cancelled. Raises only what `deliver` raises."""
        while True:
            reason, progress, asked_wait = await self._connect_once(deliver)
            wait = max(self._backoff.next(progress), asked_wait)
            repeated = reason == self.status.last_error and not progress
            self.status.last_error = reason
            note = log.debug if repeated else log.warning
            note("upstream lost", source=self.name, url=self._endpoint.label, reason=reason, retry_in=round(wait, 2))
            await asyncio.sleep(wait)
            self.status.reconnects += 1

    async def _connect_once(self, deliver: Deliver) -> tuple[str, float, float]:
        """Return why the connection ended, the seconds it made progress, and the seconds the node asks to wait."""
        try:
            connection = await self._open()
        except (OSError, WebSocketException, ValueError, ImportError, EOFError) as error:
            return self._describe(error), 0.0, _retry_after(error)
        run = PubSubConnection(
            connection,
            PubSubSession(self._reader, self._tip, self._programs, self._commitment, self._forks),
            self._tip,
            name=self.name,
            endpoint=self._endpoint,
            status=self.status,
            on_connected=self._connected_at,
            on_doubt=self._doubt,
            ask_http=self._ask_http if self._rpc else None,
            stale_slot_seconds=self._stale_slot_seconds,
            subscribe_seconds=self._subscribe_seconds,
            tap=self._tap,
        )
        self._connection = run
        if self._tap is not None:
            self._tap.opened()
        try:
            await run.run(deliver)
        finally:
            self._connection = None
            if self.status.connected:
                self._complete_to = self.status.tip_slot
                self.status.last_error = self._why_lost = run.reason or self.status.last_error
            if self._forks is not None:
                self._forks.interrupted()
            self.status.connected = False
            await connection.close()
        if self._tap is not None:
            self._tap.lost(run.reason)
        return run.reason, run.progress_seconds, 0.0

    def _doubt(self, pubkeys: Collection[str]) -> None:
        self.on_doubt(pubkeys)

    def _connected_at(self, slot: int) -> None:
        if self._connection is not None:
            self._connection.watch(self._watched)
        self.on_gap(Gap(self.name, self._complete_to, slot, self._why_lost))

    async def _open(self) -> ClientConnection:
        return await connect(
            self._endpoint.url,
            create_connection=WholeFrames,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=_MAX_QUEUED_FRAMES,
            open_timeout=self._open_seconds,
            close_timeout=1,
            ping_interval=20,  # for balancers that drop idle sockets; liveness is judged by slots
            ping_timeout=None,
            proxy=None if is_loopback(self._endpoint.url) else True,
            logger=_silent,
        )

    async def _ask_http(self) -> int | None:
        if self._rpc is None:
            return None
        try:
            return await self._rpc.get_slot(commitment="processed", deadline=2.0)
        except SourceError:
            return None

    def _describe(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            speaks = "; is it TLS that it speaks? else ws://" if self._endpoint.url.startswith("wss:") else ""
            return f"no answer to the handshake for {self._open_seconds:g} s{speaks}"
        if isinstance(error, InvalidStatus):
            return f"HTTP {error.response.status_code} at the handshake"
        return self._endpoint.scrub(f"{type(error).__name__}: {error}")


def _retry_after(error: Exception) -> float:
    """Return the seconds a 429 asks to wait, at most a minute; 0 for anything else."""
    if isinstance(error, InvalidStatus) and error.response.status_code == _TOO_MANY_REQUESTS:
        seconds = error.response.headers.get("Retry-After", "")
        if seconds.isascii() and seconds.isdigit():
            return min(float(seconds[:9]), _MAX_RETRY_AFTER_SECONDS)
    return 0.0
