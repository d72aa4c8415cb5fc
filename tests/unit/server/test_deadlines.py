"""Deadlines, with time as an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from account_socket.server.deadlines import Deadlines


def test_due_in_order() -> None:
    """Items are due the same time after their start, the oldest first, at most so many at once."""
    deadlines: Deadlines[str] = Deadlines(10)
    for at, item in enumerate("abcd"):
        deadlines.start(item, now=at)
    assert deadlines.take_due(now=9.9, limit=9) == []
    assert deadlines.take_due(now=11, limit=9) == ["a", "b"]
    assert len(deadlines) == 2
    assert deadlines.take_due(now=99, limit=1) == ["c"]
    assert deadlines.take_due(now=99, limit=1) == ["d"]
    assert deadlines.take_due(now=99, limit=1) == []


def test_starting_again_and_stopping() -> None:
    """An item that starts again is due later, behind the others; one that is stopped is never due."""
    deadlines: Deadlines[str] = Deadlines(10)
    deadlines.start("a", now=0)
    deadlines.start("b", now=1)
    deadlines.start("c", now=2)
    deadlines.start("a", now=3)
    deadlines.stop("b")
    deadlines.stop("never started")
    assert "b" not in deadlines
    assert deadlines.take_due(now=12, limit=9) == ["c"]
    assert deadlines.take_due(now=13, limit=9) == ["a"]


@given(st.lists(st.tuples(st.sampled_from(["start", "stop", "take", "postpone"]), st.integers(0, 5), st.floats(0, 3))))
def test_against_a_plain_model(steps: list[tuple[str, int, float]]) -> None:
    """Whatever happens in whatever order, exactly what a plain dictionary of due times says is due."""
    deadlines: Deadlines[int] = Deadlines(2.0)
    model: dict[int, float] = {}
    now = 0.0
    for kind, item, passed in steps:
        now += passed
        if kind == "postpone":
            deadlines.postpone(passed)
            model = {item: at + passed for item, at in model.items()}
            continue
        if kind == "start":
            deadlines.start(item, now=now)
            model[item] = now + 2.0
        elif kind == "stop":
            deadlines.stop(item)
            model.pop(item, None)
        else:
            due = {item for item, at in model.items() if at <= now}
            assert set(deadlines.take_due(now=now, limit=99)) == due
            model = {item: at for item, at in model.items() if item not in due}
    assert len(deadlines) == len(model)
