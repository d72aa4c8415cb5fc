"""
One open Yellowstone stream: reads, hands batches over, sends filters and pings, ends when the node falls silent.

Four tasks. The reader; the hand-over, which delivers batches, and while it is blocked reading stops (HTTP/2 then
holds the node back); the sender; the watch, which counts silence. A read is never timed out: that would cancel the
stream. The watch cancels it instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import grpc
import structlog
from grpc.aio import EOF, AioRpcError

from account_socket.model import RawAccount
from account_socket.sources.base import Datasource, Deliver
from account_socket.sources.geyser import Then, after, ping_request
from account_socket.sources.geyser_session import GeyserSession
from account_socket.sources.slot_tip import SlotTip
from account_socket.sources.tap import Tap

PING_SECONDS = 15.0
"""Balancers that ignore HTTP/2 pings drop a stream on which the client says nothing."""

DEBOUNCE_SECONDS = 0.25
"""Filters are sent anew at most so often: each time they go whole."""

ASK_INTERVAL_SECONDS = 1.0

LINGER_ABOVE, LINGER_PER_RATE, LINGER_SECONDS = 1_000, 2.5e-6, 0.005
"""gRPC gives messages one by one. Above so many accounts a second, what comes within a time that grows with their
rate, up to the last of these, is one batch: each costs less then. Below it each is handed over at once."""

RATE_SECONDS = 0.05
"""How long the rate is taken over."""

_PING_NUMBER = 2
_TICKS = 20

AskSlot = Callable[[], Awaitable[int | None]]
"""Asks GetSlot; None where the node does not tell. Raises AioRpcError."""

log = structlog.get_logger("account_socket.upstream")


class GeyserConnection:
    """
    Runs one stream to its end.

    Args:
        call: the Subscribe call, whose first request was written.
        source: the datasource whose stream it is; its callbacks are told, its status is brought up to date.
        filters: returns the request that carries all filters as they should be now; takes where to replay from.

    Attributes:
        then: what to do after its end.
        code, reason: the gRPC status and its text, scrubbed.
        progress_seconds: for how long slots arrived.
    """

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[Any, Any],
        session: GeyserSession,
        tip: SlotTip,
        *,
        source: Datasource,
        scrub: Callable[[str], str],
        filters: Callable[[int | None], bytes],
        ask_slot: AskSlot,
        stale_slot_seconds: float,
        tap: Tap | None = None,
    ) -> None:
        self._call = call
        self._tap = tap
        self._session = session
        self._tip = tip
        self._source = source
        self._status = source.status
        self._scrub = scrub
        self._filters = filters
        self._filters_changed = False
        self._ask_slot = ask_slot
        self._stale_seconds = stale_slot_seconds
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._outgoing = asyncio.Event()
        self._connected_at: float | None = None
        self._heard = 0
        self._heard_at = 0.0
        self._linger = 0.0
        self._counted, self._counted_since = 0, monotonic()
        self._blocked = False
        self._ended = False
        self._abort_reason = ""
        self._asked_at = float("-inf")
        self._slot_answer: int | None = None
        self._logged: set[str] = set()
        self.then = Then.RETRY
        self.code = ""
        self.reason = ""

    @property
    def connected(self) -> bool:
        """Whether a slot arrived."""
        return self._connected_at is not None

    @property
    def progress_seconds(self) -> float:
        """Seconds between the first slot and the last one."""
        return 0.0 if self._connected_at is None else self._heard_at - self._connected_at

    async def run(self, deliver: Deliver) -> None:
        """Read until the stream ends, then deliver what had arrived. Raises what `deliver` raises."""
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(self._watch()), group.create_task(self._send())]
            group.create_task(self._hand_over(deliver))
            await self._read()
            for helper in helpers:
                helper.cancel()
            self._ended = True
            self._arrived.set()

    # ---- in ------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        session, arrived = self._session, self._arrived
        read = self._read_tapped if self._tap else self._call.read
        try:
            while (message := await read()) is not EOF:
                assert isinstance(message, bytes)
                if session.receive(message, monotonic()):
                    self._attend()
                if session.waiting:
                    arrived.set()
                    if session.full:
                        await self._wait_for_room()
            self._end(await self._call.code(), await self._call.details() or "the node ended the stream")
        except AioRpcError as error:
            self._end(error.code(), error.details() or "")
        except asyncio.CancelledError:
            # gRPC raises it too where the call was cancelled, by the watch or by a write of ours that was given up.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self.reason = self._abort_reason or "the stream was given up"

    async def _read_tapped(self) -> Any:
        assert self._tap is not None
        message = await self._call.read()
        if isinstance(message, bytes):
            self._blocked = True  # a disk that stalls is not the node's silence
            await self._tap.received(message, monotonic())
            self._blocked = False
        return message

    def _end(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code.name
        self.then = after(code.name, details)
        self.reason = self._abort_reason or self._scrub(f"{code.name}: {details}")

    async def _wait_for_room(self) -> None:
        self._blocked = True
        while self._session.full:
            self._room.clear()
            await self._room.wait()
        self._blocked = False

    def _attend(self) -> None:
        """Do what `GeyserSession.receive` left to do, and bring the status up to date."""
        session, status = self._session, self._status
        if session.heartbeats != self._heard:
            self._heard, self._heard_at = session.heartbeats, monotonic()
            if self._connected_at is None:
                self._connected_at = monotonic()
                status.connected = True
                log.info("upstream connected", source=self._source.name, slot=self._tip.tip)
        status.tip_slot, status.tip_at = self._tip.tip, self._tip.tip_at
        for kind, detail in session.odd:
            self._count(kind, detail)
        session.odd.clear()
        gaps = session.gaps.copy()
        session.gaps.clear()
        for gap in gaps:
            self._source.on_gap(gap)
        if session.resumed:
            session.resumed = False
            self._source.on_resumed(self._source.name)
        if session.doubtful_slot is not None or session.replay_from is not None or session.outgoing:
            self._outgoing.set()

    def _count(self, kind: str, detail: str) -> None:
        self._status.odd[kind] += 1
        if kind not in self._logged:
            self._logged.add(kind)
            log.warning("odd upstream update", source=self._source.name, kind=kind, detail=self._scrub(detail))

    # ---- on ------------------------------------------------------------------------------------------------

    async def _hand_over(self, deliver: Deliver) -> None:
        session, status = self._session, self._status
        while session.waiting or not self._ended:
            if not session.waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            if self._linger and not session.full and not self._ended:
                await asyncio.sleep(self._linger)
            ahead = session.slot_ahead
            accounts = session.take_accounts()
            levels, session.levels = session.levels, []
            doubts, session.doubts = session.doubts, []
            self._room.set()
            if ahead:
                accounts = await self._judge(accounts)
            if accounts:
                status.notifications += len(accounts)
                status.last_update_slot = accounts[-1].slot
                await deliver(accounts)
            for slot, level in levels:
                self._source.on_slot(slot, level)
            if doubts:
                self._source.on_doubt(doubts)
            self._take_rate(len(accounts))

    def _take_rate(self, handed_over: int) -> None:
        self._counted += handed_over
        seconds = monotonic() - self._counted_since
        if seconds >= RATE_SECONDS:
            rate = self._counted / seconds
            self._linger = min(LINGER_SECONDS, max(0.0, rate - LINGER_ABOVE) * LINGER_PER_RATE)
            self._counted, self._counted_since = 0, monotonic()

    async def _judge(self, accounts: list[RawAccount]) -> list[RawAccount]:
        """Return those accounts whose slot the tip allows, after asking for a newer tip if one does not."""
        if not self._ended and max(account.slot for account in accounts) > self._tip.limit:
            confirmed = await self._confirmed_slot()
            if confirmed is not None:
                self._tip.confirm(confirmed, monotonic(), asked=True)
        limit = self._tip.limit
        for account in accounts:
            if account.slot > limit:
                self._count("slot_ahead", f"slot {account.slot}, tip {self._tip.tip}")
        return [account for account in accounts if account.slot <= limit]

    async def _confirmed_slot(self) -> int | None:
        """Return what GetSlot answers, asked at most once a second; None where nothing came."""
        if monotonic() - self._asked_at >= ASK_INTERVAL_SECONDS:
            self._asked_at = monotonic()
            try:
                self._slot_answer = await self._ask_slot()
            except AioRpcError:
                self._slot_answer = None
        return self._slot_answer

    # ---- out -----------------------------------------------------------------------------------------------

    def send_filters(self) -> None:
        """Have the filters sent anew, soon: several changes at once are one."""
        self._filters_changed = True
        self._outgoing.set()

    async def _send(self) -> None:
        """Send answers at once, filters debounced, and a ping where nothing else was said for long."""
        filters_at = float("-inf")
        try:
            while True:
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        await self._outgoing.wait()
                except TimeoutError:
                    await self._call.write(ping_request(_PING_NUMBER))
                    continue
                self._outgoing.clear()
                while self._session.outgoing:
                    await self._call.write(self._session.outgoing.pop(0))
                if self._session.doubtful_slot is not None:
                    self._session.settle_doubt(await self._confirmed_slot(), monotonic())
                    self._attend()
                if (from_slot := self._session.replay_from) is not None:
                    self._session.replay_from = None
                    await self._call.write(self._filters(from_slot))
                if self._filters_changed:
                    await asyncio.sleep(max(0.0, filters_at + DEBOUNCE_SECONDS - monotonic()))
                    self._filters_changed = False
                    filters_at = monotonic()
                    await self._call.write(self._filters(None))
        except (AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over; the reader says why

    # ---- watch ---------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """
        Cancel the call when it brings no slot for long.

        Silence is counted in ticks in which the reader was waiting for the node: a tick in which `deliver` held
        the reader up, or that came late because the process stood still, is not the node's silence.
        """
        tick = self._stale_seconds / _TICKS
        heard = quiet = 0
        while True:
            await asyncio.sleep(tick)
            if self._blocked:
                continue
            quiet = 0 if self._session.heartbeats != heard else quiet + 1
            heard = self._session.heartbeats
            if quiet >= _TICKS:
                self._abort_reason = self._abort_reason or f"no slot for {self._stale_seconds:g} s"
                self._call.cancel()
