"""
A share of the loop's time for what clients send, so that no number of busy clients holds up the stream.

An update passes through about ten turns of the loop between upstream and clients. Were there input to work off in
each of them, it would be late by ten times that; so after input had its time, the loop is left alone for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

TURN_SECONDS = 0.0005
"""How long all clients' input together may occupy the loop at a stretch."""
REST_SECONDS = 0.001
"""Then input waits this long: commits and the fan-out have the loop to themselves."""


class InputTurns:
    """
    Grants time to whoever has input, in the order of asking.

    Whoever is told that the time is up keeps its input, and is called again in a later turn.

    Attributes:
        spent: this turn's time was found to be up; what arrives is only to be set aside.
        waiting: what is to be called in later turns, in order; whoever found `spent` true may append to it.
    """

    def __init__(self) -> None:
        self.spent = False
        self._ends: float | None = None
        self.waiting: deque[Callable[[], None]] = deque()

    def time_is_up(self) -> bool:
        """Whether this turn's time for input is used up; the first question of a turn starts its time."""
        now = monotonic()
        if self._ends is None:
            self._ends = now + TURN_SECONDS
            asyncio.get_running_loop().call_later(TURN_SECONDS + REST_SECONDS, self._next_turn)
            return False
        self.spent = now > self._ends
        return self.spent

    def wait(self, go_on: Callable[[], None]) -> None:
        """Have `go_on` called when there is time, behind everybody who waits already."""
        self.waiting.append(go_on)
        if self._ends is None:
            self.time_is_up()  # begins a turn, whose end calls those who wait

    def _next_turn(self) -> None:
        self._ends = None
        self.spent = False
        waiting = self.waiting
        while waiting and not self.time_is_up():
            waiting.popleft()()
