"""The time of day for deciding what is old: a clock that was set ahead by mistake must not delete history."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

JUMP_SECONDS = 60.0
"""What the wall clock may run away from the monotonic one between two looks."""
PROBATION_SECONDS = 3600.0
"""A leap ahead counts after this time; whoever sets the clock right again by then has lost nothing."""

log = structlog.get_logger("account_socket.service")


class WallClock:
    """
    Ask it regularly: a leap is seen by comparing two looks.

    Args:
        wall: seconds since 1970.
        steady: seconds that only grow.
    """

    def __init__(self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._trusted = self._seen = wall() - steady()
        self._leapt_at = steady() - PROBATION_SECONDS

    def now(self) -> datetime:
        """Return the time, or what it would be had the clock not leapt ahead."""
        steady = self._steady()
        shown = self._wall() - steady
        if abs(shown - self._seen) > JUMP_SECONDS:
            log.warning("clock jumped", seconds=round(shown - self._seen))
            self._leapt_at = steady
        self._seen = shown
        if steady - self._leapt_at >= PROBATION_SECONDS or shown < self._trusted:
            self._trusted = shown
        return datetime.fromtimestamp(steady + self._trusted, UTC)
