"""
One open PubSub connection: reads, hands batches over, keeps the tip, and ends when the node falls silent.

Five tasks. The reader takes what is buffered without giving way; the hand-over delivers batches, and while it is
blocked reading stops (TCP then holds the node back); the tip keeper asks getSlot where that is needed; the sender
asks for single accounts; the watch counts silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from time import monotonic
from typing import Literal

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from account_socket.endpoints import Endpoint
from account_socket.model import RawAccount
from account_socket.sources.base import Deliver, SourceStatus
from account_socket.sources.pubsub_session import PubSubSession
from account_socket.sources.slot_tip import SlotTip
from account_socket.sources.tap import Tap

SUBSCRIBE_SECONDS = 10.0
"""A node that has not answered every programSubscribe by then is left."""

NEAR_SLOTS = 10
"""How far slotSubscribe, which tells of slots that begin, may be ahead of getSlot."""

_ASK_SECONDS = 2.0
_ASK_INTERVAL_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 60.0
_TICKS = 20

AskSlot = Callable[[], Awaitable[int | None]]
"""Asks getSlot over HTTP; None when there was no answer."""

log = structlog.get_logger("account_socket.upstream")


class PubSubConnection:
    """
    Runs one connection to its end.

    Attributes:
        reason: why it ended, scrubbed.
        progress_seconds: for how long it was subscribed with slots arriving.
    """

    def __init__(
        self,
        connection: ClientConnection,
        session: PubSubSession,
        tip: SlotTip,
        *,
        name: str,
        endpoint: Endpoint,
        status: SourceStatus,
        on_connected: Callable[[int], None],
        on_doubt: Callable[[Collection[str]], None],
        ask_http: AskSlot | None,
        stale_slot_seconds: float,
        subscribe_seconds: float = SUBSCRIBE_SECONDS,
        tap: Tap | None = None,
    ) -> None:
        self._connection = connection
        self._tap = tap
        self._session = session
        self._tip = tip
        self._name = name
        self._endpoint = endpoint
        self._status = status
        self._on_connected = on_connected
        self._on_doubt = on_doubt
        self._ask_http = ask_http
        self._stale_seconds = stale_slot_seconds
        self._subscribe_seconds = subscribe_seconds
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._slots = asyncio.Event()
        self._answered = asyncio.Event()
        self._requested = asyncio.Event()
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._slot_answer: int | None = None
        self._heard = 0
        self._heard_at = 0.0
        self._connected_at: float | None = None
        self._blocked = False
        self._ended = False
        self._logged: set[str] = set()
        self.reason = ""

    @property
    def progress_seconds(self) -> float:
        """Seconds between being connected and the last slot heard."""
        return 0.0 if self._connected_at is None else self._heard_at - self._connected_at

    async def run(self, deliver: Deliver) -> None:
        """Read until the connection ends, then deliver what had arrived. Raises what `deliver` raises."""
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(part) for part in (self._watch(), self._keep_tip(), self._send_requests())]
            group.create_task(self._hand_over(deliver))
            await self._read()
            for helper in helpers:
                helper.cancel()
            self._ended = True
            self._arrived.set()

    def watch(self, pubkeys: Collection[str]) -> None:
        """Have these accounts watched, and no others, as soon as every program is subscribed."""
        if self._connected_at is not None:
            self._session.watch(pubkeys)
            self._requested.set()

    async def _send_requests(self) -> None:
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await self._send_outgoing()
            except ConnectionClosed:
                return  # the reader tells why

    async def _send_outgoing(self) -> None:
        for message in self._session.take_outgoing():
            if self._tap is not None:
                self._tap.sent(message)
            await self._connection.send(message, text=True)

    async def _read(self) -> None:
        session, receive = self._session, self._receive_tapped if self._tap else self._connection.recv
        try:
            await self._attend()
            while not session.failure:
                # recv suspends only when nothing is buffered: a burst becomes one batch.
                if session.receive(await receive(decode=False), monotonic()):
                    await self._attend()
                if session.waiting:
                    self._arrived.set()
                    if session.full:
                        await self._wait_for_room()
            self.reason = self._endpoint.scrub(session.failure)
        except ConnectionClosed as closed:
            self.reason = self.reason or self._endpoint.scrub(_describe_close(closed))

    async def _receive_tapped(self, decode: Literal[False]) -> bytes:
        assert self._tap is not None
        message = await self._connection.recv(decode=decode)
        self._blocked = True  # a disk that stalls is not the node's silence
        await self._tap.received(message, monotonic())
        self._blocked = False
        return message

    async def _wait_for_room(self) -> None:
        self._blocked = True
        while self._session.full and self._tip.tip is not None:
            self._room.clear()
            await self._room.wait()
        self._blocked = False

    async def _attend(self) -> None:
        """Do what `PubSubSession.receive` left to do."""
        await self._send_outgoing()
        self._answered.set()
        if self._session.doubtful_slot is not None or self._session.slots_refused:
            self._slots.set()
        self._note()

    def _note(self) -> None:
        """Bring the status up to date with the session."""
        session, status = self._session, self._status
        if session.heartbeats != self._heard:
            self._heard, self._heard_at = session.heartbeats, monotonic()
            self._arrived.set()
        if session.ready and self._heard and self._connected_at is None:
            self._connected_at = monotonic()
            status.connected = True
            log.info("upstream connected", source=self._name, url=self._endpoint.label, slot=self._tip.tip)
            if self._tip.tip is not None:
                self._on_connected(self._complete_from(self._tip.tip))
        status.tip_slot, status.tip_at = self._tip.tip, self._tip.tip_at
        if session.forks is not None and session.forks.doubtful:
            doubtful, session.forks.doubtful = session.forks.doubtful, set()
            self._on_doubt(doubtful)
        for odd in session.odd:
            self._count(odd.kind, odd.detail)
        session.odd.clear()

    def _complete_from(self, tip: int) -> int:
        # Not further ahead than getSlot bears out: no node could be asked for a state of that slot.
        return tip if self._slot_answer is None else min(tip, self._slot_answer + NEAR_SLOTS)

    def _count(self, kind: str, detail: str) -> None:
        self._status.odd[kind] += 1
        if kind not in self._logged:
            self._logged.add(kind)
            log.warning("odd upstream frame", source=self._name, kind=kind, detail=self._endpoint.scrub(detail))

    async def _hand_over(self, deliver: Deliver) -> None:
        session = self._session
        while session.waiting or not self._ended:
            if not session.waiting or (self._tip.tip is None and not self._ended):
                self._arrived.clear()
                await self._arrived.wait()
                continue
            ahead = session.slot_ahead
            accounts = session.take_accounts()
            self._room.set()
            if ahead:
                accounts = await self._judge(accounts)
            if accounts:
                self._status.notifications += len(accounts)
                self._status.last_update_slot = accounts[-1].slot
                await deliver(accounts)

    async def _judge(self, accounts: list[RawAccount]) -> list[RawAccount]:
        """Return those accounts whose slot the tip allows, after asking for a newer tip if one does not."""
        if not self._ended and max(account.slot for account in accounts) > self._tip.limit:
            confirmed = await self._ask_slot()
            if confirmed is not None:
                self._tip.confirm(confirmed, monotonic(), asked=True)
        limit = self._tip.limit
        for account in accounts:
            if account.slot > limit:
                self._count("slot_ahead", f"slot {account.slot}, tip {self._tip.tip}")
        return [account for account in accounts if account.slot <= limit]

    async def _keep_tip(self) -> None:
        """Ask getSlot at the start, about doubtful slots, now and then, and often where slotSubscribe is refused."""
        session = self._session
        while True:
            slot = await self._ask_slot()
            session.settle_doubt(slot, monotonic())
            if session.slots_refused and slot is not None and await self._is_alive():
                session.polled(slot, monotonic())
            self._note()
            self._slots.clear()
            if session.slots_refused:
                await asyncio.sleep(self._stale_seconds / 5)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_AGAIN_SECONDS):
                        await self._slots.wait()

    async def _is_alive(self) -> bool:
        # That HTTP answers says nothing of this connection, so a ping must come back through it.
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await (await self._connection.ping())
        except (TimeoutError, ConnectionClosed):
            return False
        return True

    async def _ask_slot(self) -> int | None:
        """Return what getSlot answers, at most asked once a second; in between the last answer stands."""
        async with self._asking:
            if monotonic() - self._asked_at >= _ASK_INTERVAL_SECONDS:
                self._asked_at = monotonic()
                self._slot_answer = await (self._ask_http() if self._ask_http else self._ask_socket())
            return self._slot_answer

    async def _ask_socket(self) -> int | None:
        # Agave's PubSub refuses getSlot at once; many providers' sockets answer it.
        request_id = self._session.ask("getSlot", [{"commitment": "processed"}])
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await self._send_outgoing()
                while not self._session.answered(request_id):
                    self._answered.clear()
                    await self._answered.wait()
        except (TimeoutError, ConnectionClosed):
            pass
        slot = self._session.answer(request_id)
        return slot if type(slot) is int and slot >= 0 else None

    async def _watch(self) -> None:
        """
        Abort the connection when it brings no slot for long, or no answer to a subscribe.

        Silence is counted in ticks in which the reader was waiting for the node: a tick in which `deliver` held
        the reader up, or that came late because the process stood still, is not the node's silence.
        """
        tick = self._stale_seconds / _TICKS
        heard = quiet = ticks = 0
        while True:
            await asyncio.sleep(tick)
            if self._blocked:
                continue
            ticks += 1
            quiet = 0 if self._session.heartbeats != heard else quiet + 1
            heard = self._session.heartbeats
            if quiet >= _TICKS:
                self._abort(f"no slot for {self._stale_seconds:g} s")
            elif not self._session.ready and ticks * tick >= self._subscribe_seconds:
                self._abort(f"no answer to programSubscribe for {self._subscribe_seconds:g} s")

    def _abort(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._connection.transport.abort()


def _describe_close(closed: ConnectionClosed) -> str:
    if closed.rcvd is not None:
        return f"closed by the node: {closed.rcvd.code} {closed.rcvd.reason}".rstrip()
    if closed.sent is not None:
        return f"broken off: {closed.sent.code} {closed.sent.reason}".rstrip()
    return "dropped without a close frame"
