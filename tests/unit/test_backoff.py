from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from account_socket.backoff import FLOOR_SECONDS, Backoff


def test_waits_double_up_to_the_cap() -> None:
    """With the largest draw the waits are base, twice base, and so on up to the cap, where they stay."""
    backoff = Backoff(0.5, 8.0, rng=lambda: 1.0)
    assert [backoff.next() for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_draw_of_zero_still_waits() -> None:
    """The wait is never zero."""
    assert Backoff(0.5, 8.0, rng=lambda: 0.0).next() == FLOOR_SECONDS


def test_only_lasting_progress_resets() -> None:
    """A try that went well for less than `reset_after` counts as one more failure; a longer one starts again."""
    backoff = Backoff(0.5, 8.0, reset_after=30.0, rng=lambda: 1.0)
    assert [backoff.next(), backoff.next(progress=29.9), backoff.next(progress=5.0)] == [0.5, 1.0, 2.0]
    assert [backoff.next(progress=30.0), backoff.next()] == [0.5, 1.0]


def test_reset_starts_again_at_the_base() -> None:
    """After `reset` the next wait is the first one."""
    backoff = Backoff(0.5, 8.0, rng=lambda: 1.0)
    backoff.next()
    backoff.reset()
    assert backoff.next() == 0.5


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 60)), min_size=1, max_size=100))
def test_every_wait_is_within_the_bounds(tries: list[tuple[float, float]]) -> None:
    """Whatever is drawn and however the tries went, a wait lies between the floor and the cap."""
    draws = iter([draw for draw, _ in tries])
    backoff = Backoff(0.5, 8.0, rng=lambda: next(draws))
    assert all(FLOOR_SECONDS <= backoff.next(progress) <= 8.0 for _, progress in tries)


def test_the_default_draw_spreads() -> None:
    """Without an rng the waits differ from each other, so that clients do not come back together."""
    assert len({Backoff(8.0, 8.0).next() for _ in range(20)}) > 1
