"""Leaps of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from account_socket.pipeline.wall_clock import PROBATION_SECONDS, WallClock

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = 86_400.0


class Clocks:
    """A wall clock and a steady one that a test sets."""

    def __init__(self) -> None:
        self.steady = 5.0
        self.ahead = 0.0
        self.clock = WallClock(wall=lambda: NOON.timestamp() + self.steady + self.ahead, steady=lambda: self.steady)

    def seen(self) -> float:
        """Return the seconds by which the clock is believed to be ahead."""
        return (self.clock.now() - NOON - timedelta(seconds=self.steady)).total_seconds()


def test_the_time_passes() -> None:
    """Without leaps it is the wall clock, corrections of some seconds included."""
    clocks = Clocks()
    for _ in range(100):
        clocks.steady += 10
        clocks.ahead += 3
        assert clocks.seen() == clocks.ahead


def test_a_leap_ahead_that_is_taken_back_was_none() -> None:
    """A clock that is days ahead for less than an hour makes nothing older."""
    clocks = Clocks()
    with structlog.testing.capture_logs() as lines:
        clocks.ahead = 30 * DAY
        assert clocks.seen() == 0
        clocks.steady += PROBATION_SECONDS - 10
        assert clocks.seen() == 0
        clocks.ahead = 0
        assert clocks.seen() == 0
        clocks.steady += PROBATION_SECONDS * 2
        assert clocks.seen() == 0
    assert [line["seconds"] for line in lines] == [30 * DAY, -30 * DAY]


def test_a_leap_ahead_that_lasts_is_believed() -> None:
    """After an hour the clock is believed."""
    clocks = Clocks()
    clocks.ahead = 30 * DAY
    assert clocks.seen() == 0
    clocks.steady += PROBATION_SECONDS
    assert clocks.seen() == 30 * DAY


def test_a_leap_back_is_believed_at_once() -> None:
    """It makes everything younger, which deletes nothing."""
    clocks = Clocks()
    clocks.ahead = -30 * DAY
    assert clocks.seen() == -30 * DAY
    clocks.ahead = 0
    assert clocks.seen() == -30 * DAY
    clocks.steady += PROBATION_SECONDS
    assert clocks.seen() == 0
