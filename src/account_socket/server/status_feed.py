"""
What clients that asked for it are told beside accounts: how upstream is, which gaps are open, what is confirmed.

Everything is told by one look, taken regularly, that compares what is with what was told. So an upstream that flaps
a thousand times a second costs each client a few frames a look, and what a client was told first plus what it is
told later is always what is. What a frame says of updates comes behind those updates.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from account_socket.hub.frames import Message, notice_message
from account_socket.hub.hub import Hub
from account_socket.hub.outbox import Outbox
from account_socket.model import Gap
from account_socket.protocol import status
from account_socket.server.readiness import Readiness
from account_socket.sources.base import Datasource

LOOK_SECONDS = 0.1
MAX_WAITING_SLOTS = 100
"""A node that tells of more slots in one look is lying, or has replayed much; the oldest are passed over."""
MAX_TOLD_SLOTS = 1_000

OpenGaps = Callable[[], Iterable[tuple[Gap, str]]]
"""Returns the gaps open now, at most one for each source, with why the last try to heal failed, or ""."""


@dataclass
class _ToldSource:
    connected: bool
    reconnects: int


@dataclass
class _ToldGap:
    """`healed_after`: the id of the newest update that the gap's healing may have brought; None while it is open."""

    gap: Gap
    error: str = ""
    healed_after: int | None = None


class StatusFeed:
    """
    Args:
        hub: whose listeners are told; its `stale` is kept up to date here, so that states and frames say the same.
        admitted: returns the id of the newest update that was admitted, published or not.
        recovered: told when states are not told as stale any more.
    """

    def __init__(
        self,
        hub: Hub,
        sources: Sequence[Datasource],
        readiness: Readiness,
        *,
        open_gaps: OpenGaps,
        admitted: Callable[[], int],
        recovered: Callable[[], None] = lambda: None,
    ) -> None:
        self._hub = hub
        self._sources = sources
        self._readiness = readiness
        self._open_gaps = open_gaps
        self._admitted = admitted
        self._recovered = recovered
        self._last_before = admitted()
        self._told_sources = {source.name: _ToldSource(connected=False, reconnects=0) for source in sources}
        self._told_gaps: dict[str, _ToldGap] = {}
        self._opened: dict[str, Gap] = {}
        self._slots: deque[tuple[int, str, int]] = deque(maxlen=MAX_WAITING_SLOTS)
        self._told_slots: dict[tuple[str, int], None] = {}
        hub.stale = readiness.stale

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def greet(self, outbox: Outbox) -> None:
        """Tell a client what is now, and from now on what changes."""
        self._hub.send(outbox, self._status("now"))
        for told in self._told_gaps.values():
            self._hub.send(outbox, _gap_message(told.gap, error=told.error))
        self._hub.listeners[outbox] = None

    def note_gaps(self) -> None:
        """Take note of gaps that were just opened: they may be healed before the next look."""
        for gap, _ in self._open_gaps():
            self._opened[gap.source] = gap

    def note_slot(self, slot: int, level: str) -> None:
        """Take that everything written in a slot was admitted, and that the slot has come to `level`."""
        if self._hub.listeners:
            self._slots.append((self._admitted(), level, slot))

    def look(self) -> None:
        """Tell what has changed since the last look."""
        if self._readiness.draining:
            return  # that we hang up on upstream is no news
        for source in self._sources:
            self._look_at_source(source)
        if self._readiness.stale != self._hub.stale:
            self._hub.stale = self._readiness.stale
            self._hub.notify(self._status("stale" if self._hub.stale else "recovered"))
            if not self._hub.stale:
                self._recovered()
        self._look_at_gaps()
        while self._slots and self._was_published(self._slots[0][0]):
            _, level, slot = self._slots.popleft()
            self._tell_slot(level, slot)

    # ---- upstream ------------------------------------------------------------------------------------------

    def _look_at_source(self, source: Datasource) -> None:
        status_now, told = source.status, self._told_sources[source.name]
        again = status_now.reconnects != told.reconnects
        lost = told.connected and (again or not status_now.connected)
        connected = status_now.connected and (again or not told.connected)
        told.connected, told.reconnects = status_now.connected, status_now.reconnects
        if lost:
            self._hub.notify(self._status("lost", source=source.name, reason=status_now.last_error))
        if connected:
            self._hub.notify(self._status("connected", source=source.name))

    def _status(self, event: str, *, source: str | None = None, reason: str | None = None) -> Message:
        payload = status.status(
            event,
            stale=self._hub.stale,
            tip_slot=self._readiness.tip_slot,
            sources={
                each.name: status.Upstream(self._told_sources[each.name].connected, each.status.tip_slot)
                for each in self._sources
            },
            source=source,
            reason=reason,
        )
        return notice_message(f"status {source or 'upstream'}", payload)

    # ---- gaps ----------------------------------------------------------------------------------------------

    def _look_at_gaps(self) -> None:
        self.note_gaps()
        opened, self._opened = self._opened, {}
        for source, gap in opened.items():
            told = self._told_gaps.get(source)
            if told is None or told.gap != gap:
                self._told_gaps[source] = _ToldGap(gap)
                self._hub.notify(_gap_message(gap))
        errors = {gap.source: error for gap, error in self._open_gaps()}
        for source, told in list(self._told_gaps.items()):
            if source in errors:
                told.healed_after = None
                self._tell_error(told, errors[source])
                continue
            if told.healed_after is None:
                told.healed_after = self._admitted()
            if self._was_published(told.healed_after):
                del self._told_gaps[source]
                self._hub.notify(_gap_message(told.gap, healed=True))

    def _tell_error(self, told: _ToldGap, error: str) -> None:
        if error and error != told.error:
            told.error = error
            self._hub.notify(_gap_message(told.gap, error=error))

    # ---- slots ---------------------------------------------------------------------------------------------

    def _tell_slot(self, level: str, slot: int) -> None:
        if (level, slot) in self._told_slots:
            return
        self._told_slots[level, slot] = None
        if len(self._told_slots) > MAX_TOLD_SLOTS:
            del self._told_slots[next(iter(self._told_slots))]
        self._hub.notify(notice_message(f"status {level}", status.commitment(level, slot)))

    def _was_published(self, id: int) -> bool:
        return id <= self._last_before or id <= self._hub.published_id


def _gap_message(gap: Gap, *, healed: bool = False, error: str = "") -> Message:
    payload = status.gap(gap.source, gap.from_slot, gap.to_slot, gap.reason, healed=healed, error=error)
    # A fence: "healed" must not come before the states that healed it, even where a newer one replaced them.
    return notice_message(f"gap {gap.source}", payload, fence=True)
