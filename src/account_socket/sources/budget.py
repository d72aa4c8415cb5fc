"""How many requests a second may be sent, and waiting for one's turn."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TypeAlias

LEFTOVER_SECONDS = 0.02
"""How often it is looked whether others still wait."""


class TokenBucket:
    """
    `rate` tokens a second, at most `burst` saved up; starts full. Told the time, so it is pure.

    Args:
        rate: above 0.
        burst: at least 1.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = float("-inf")

    def take(self, now: float) -> float:
        """Take a token and return 0, or leave it and return the seconds until there will be one."""
        self._tokens = min(self._burst, self._tokens + self._rate * max(0.0, now - self._at))
        self._at = max(self._at, now)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate


class Budget:
    """
    A token bucket that can be waited for, first come first served.

    Args:
        per_second: requests a second, above 0; as many may come at once after a quiet second.
    """

    def __init__(self, per_second: float) -> None:
        self._bucket = TokenBucket(per_second, max(1.0, per_second))
        self._turn = asyncio.Lock()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a token."""
        return self._turn.locked()

    async def take(self) -> None:
        """Wait for a token. A waiter that is cancelled takes none and holds nobody up."""
        async with self._turn:
            while wait := self._bucket.take(monotonic()):  # noqa: ASYNC110  (time passes, nothing is signalled)
                await asyncio.sleep(wait)


class Leftover:
    """
    What others leave of a budget: whoever takes from it directly goes first.

    Args:
        budget: the one that is shared.
        patience: seconds after which it takes its turn among the others, so that it does not starve.
    """

    def __init__(self, budget: Budget, *, patience: float = 2.0) -> None:
        self._budget = budget
        self._patience = patience

    async def take(self) -> None:
        """Wait for a token that nobody else waits for."""
        ends = monotonic() + self._patience
        while self._budget.wanted and monotonic() < ends:  # noqa: ASYNC110  (waiters come and go, none is told)
            await asyncio.sleep(LEFTOVER_SECONDS)
        await self._budget.take()


Turns: TypeAlias = Budget | Leftover
"""What a request waits for before it is sent."""
