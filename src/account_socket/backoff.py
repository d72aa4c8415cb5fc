"""How long to wait before trying again. Pure: it is told how long the last try went well."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom

FLOOR_SECONDS = 0.05
"""The shortest wait: full jitter may draw zero, and a loop without any wait would hammer the node."""

_MAX_DOUBLINGS = 32


class Backoff:
    """
    Exponential backoff with full jitter: the n-th wait is drawn evenly from 0 … min(cap, base * 2^n) seconds.

    Full jitter, so that clients cut off together do not come back together.

    Args:
        base, cap: seconds.
        reset_after: seconds of progress after which a failure counts as the first one.
        rng: returns a number in 0 … 1.
    """

    def __init__(
        self, base: float, cap: float, *, reset_after: float = 30.0, rng: Callable[[], float] | None = None
    ) -> None:
        self._base = base
        self._cap = cap
        self._reset_after = reset_after
        self._rng = rng or SystemRandom().random
        self._failures = 0

    def next(self, progress: float = 0.0) -> float:
        """Return the seconds to wait after a try that went well for `progress` seconds before it failed."""
        if progress >= self._reset_after:
            self.reset()
        ceiling = min(self._cap, self._base * 2.0**self._failures)
        self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
        return max(FLOOR_SECONDS, ceiling * self._rng())

    def reset(self) -> None:
        """Start again at the base."""
        self._failures = 0
