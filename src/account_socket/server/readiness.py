"""What /readyz says: may clients be sent here, and which part is not as it should be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from account_socket.sources.base import Datasource
from account_socket.sources.rpc_http import SLOT_SECONDS

MAX_BEHIND_SLOTS = 1_000_000
"""Told where no slot is known yet."""


class Readiness:
    """
    Args:
        stale_after: seconds without a new slot from any source after which upstream counts as stale.
        parts: name → callable that tells (works, facts) of that part; a part that does not work degrades the
            server and does not make it unready.
        facts: name → callable that tells what else is worth knowing.

    Attributes:
        draining: set when the server is told to stop.
    """

    def __init__(
        self,
        sources: Sequence[Datasource],
        *,
        stale_after: float,
        parts: Mapping[str, Callable[[], tuple[bool, dict[str, Any]]]],
        facts: Mapping[str, Callable[[], dict[str, Any]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources
        self._stale_after = stale_after
        self._parts = parts
        self._facts = facts or {}
        self._clock = clock
        self.draining = False

    def report(self) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the body."""
        stale = self.stale
        report: dict[str, Any] = {"status": "ok", "upstream": {"stale": stale, "tip_slot": self.tip_slot}}
        report["upstream"]["sources"] = {source.name: self._source(source) for source in self._sources}
        works = all(source.status.connected for source in self._sources)
        for name, part in self._parts.items():
            part_works, facts = part()
            report[name] = {"status": "ok" if part_works else "degraded", **facts}
            works = works and part_works
        report |= {name: tell() for name, tell in self._facts.items()}
        if self.draining or stale:
            report["status"] = "draining" if self.draining else "stale" if self.tip_slot is not None else "starting"
            return 503, report
        if not works:
            report["status"] = "degraded"
        return 200, report

    @property
    def tip_slot(self) -> int | None:
        """The newest slot that any source confirmed, or None before the first."""
        return max((source.status.tip_slot or 0 for source in self._sources), default=0) or None

    @property
    def stale(self) -> bool:
        """Whether no source has told of a new slot for too long."""
        return self.tip_slot is None or self._clock() - self._tip_at > self._stale_after

    @property
    def slots_behind(self) -> int:
        """About how many slots the chain made since upstream fell silent; 0 while it is not stale."""
        if not self.stale:
            return 0
        tip_at = self._tip_at
        return max(1, int((self._clock() - tip_at) / SLOT_SECONDS)) if tip_at else MAX_BEHIND_SLOTS

    @property
    def _tip_at(self) -> float:
        """When a source told of a new slot last, or 0."""
        return max((source.status.tip_at or 0.0 for source in self._sources), default=0.0)

    def _source(self, source: Datasource) -> dict[str, Any]:
        status = source.status
        age = None if status.tip_at is None else round(self._clock() - status.tip_at, 3)
        return {
            "connected": status.connected,
            "tip_slot": status.tip_slot,
            "tip_age_seconds": age,
            "last_update_slot": status.last_update_slot,
            "reconnects": status.reconnects,
            "last_error": status.last_error,
        }
