from __future__ import annotations

from account_socket.model import Gap
from account_socket.pipeline.gaps import Gaps


def gap(source: str, from_slot: int | None, to_slot: int) -> Gap:
    return Gap(source, from_slot, to_slot, "dropped")


def test_states_before_a_gaps_end_are_doubtful() -> None:
    """An open gap makes everything older than its end doubtful, nothing newer."""
    gaps = Gaps()
    assert gaps.trusts(0)
    assert gaps.report(gap("a", 5, 20)) is not None
    assert (gaps.trusts(19), gaps.trusts(20)) == (False, True)


def test_a_gap_is_covered_by_a_source_that_read_all_the_while() -> None:
    """Where another source was there from before its beginning, a gap is none."""
    gaps = Gaps()
    gaps.close(gaps.report(gap("a", None, 1)), everything=True)
    assert gaps.report(gap("b", None, 2)) is None
    assert gaps.report(gap("a", 10, 20)) is None
    assert (gaps.covered, gaps.opened, gaps.end) == (2, 1, 1)
    assert gaps.trusts(3)


def test_a_source_that_came_back_too_late_or_is_gone_covers_nothing() -> None:
    """A source covers only what lies after its own last interruption, and nothing once it is lost."""
    gaps = Gaps()
    gaps.close(gaps.report(gap("a", None, 1)), everything=True)
    gaps.report(gap("b", None, 15))
    assert gaps.report(gap("a", 10, 20)) is not None
    gaps.lost("b")
    assert gaps.report(gap("a", 25, 30)) is not None


def test_a_source_that_resumed_covers_as_if_it_had_not_been_lost() -> None:
    """What replay made good covers others' gaps from where the source began; a gap of its own begins anew."""
    gaps = Gaps()
    gaps.close(gaps.report(gap("a", None, 1)), everything=True)
    gaps.lost("a")
    gaps.resumed("a")
    assert gaps.report(gap("b", 10, 20)) is None
    gaps.lost("a")
    gaps.lost("a")
    gaps.report(gap("a", 25, 30))
    gaps.resumed("a")
    gaps.resumed("nobody")
    assert set(gaps.names()) == {"a", "b"}
    assert gaps.report(gap("b", 28, 40)) is not None


def test_healing_for_subscribers_only_leaves_the_rest_doubtful() -> None:
    """Only when everything was re-read are all states trusted again."""
    gaps = Gaps()
    first, second = gaps.report(gap("a", 5, 20)), gaps.report(gap("b", 10, 40))
    gaps.close(first, everything=False)
    assert not gaps.trusts(39)
    gaps.close(second, everything=True)
    assert gaps.trusts(0)
    assert (gaps.healed, gaps.open) == (2, [])


def test_a_source_that_flaps_has_one_gap() -> None:
    """Interruptions that follow each other before healing are one span, from the first's beginning."""
    gaps = Gaps()
    first = gaps.report(gap("a", 5, 20))
    last = gaps.report(gap("a", 30, 40))
    assert [each.gap for each in gaps.open] == [gap("a", 5, 40)]
    gaps.close(first, everything=False)
    assert gaps.open == [last]


def test_everything_that_was_re_read_is_trusted_unless_a_gap_came_meanwhile() -> None:
    """Trust in all states comes back only when no gap is open."""
    gaps = Gaps()
    gaps.close(gaps.report(gap("a", 5, 20)), everything=False)
    later = gaps.report(gap("a", 30, 40))
    gaps.trust_all()
    assert not gaps.trusts(39)
    gaps.close(later, everything=False)
    gaps.trust_all()
    assert gaps.trusts(0)
    assert (gaps.opened, gaps.end) == (2, 40)
