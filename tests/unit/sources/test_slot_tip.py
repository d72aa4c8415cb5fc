from __future__ import annotations

from account_socket.sources.slot_tip import ACCOUNT_AHEAD_SLOTS, STRICT_AHEAD_SLOTS, TIP_AHEAD_SLOTS, SlotTip


def test_the_tip_only_grows_within_a_connection() -> None:
    """An older slot changes neither the tip nor its time."""
    tip = SlotTip()
    tip.confirm(100, 1.0)
    tip.confirm(90, 2.0)
    assert (tip.tip, tip.tip_at) == (100, 1.0)
    tip.confirm(101, 3.0)
    assert (tip.tip, tip.tip_at) == (101, 3.0)


def test_an_account_may_be_150_slots_ahead() -> None:
    """The limit is the tip and 150 slots; before the first tip no slot is allowed."""
    tip = SlotTip()
    assert tip.limit == -1
    tip.confirm(100, 1.0)
    assert tip.limit == 100 + ACCOUNT_AHEAD_SLOTS


def test_nothing_is_believed_before_something_is_known() -> None:
    """The first slot of a process needs to be confirmed."""
    assert not SlotTip().believes(5, 0.0)


def test_a_jump_is_believed_up_to_a_million_slots() -> None:
    """One slot more than a million above the tip needs to be confirmed; the time that passed widens the bound."""
    tip = SlotTip()
    tip.confirm(100, 10.0)
    assert tip.believes(100 + TIP_AHEAD_SLOTS, 10.0)
    assert not tip.believes(101 + TIP_AHEAD_SLOTS, 10.0)
    assert tip.believes(101 + TIP_AHEAD_SLOTS, 11.0)


def test_a_new_connection_has_its_own_tip() -> None:
    """A node whose chain is far behind is judged by its own slots, not by the last node's."""
    tip = SlotTip()
    tip.confirm(1_000_000_000, 1.0)
    tip.new_connection()
    assert tip.tip is None
    assert tip.known
    assert tip.believes(7, 2.0)
    tip.confirm(7, 2.0)
    assert tip.tip == 7
    assert tip.limit == 7 + ACCOUNT_AHEAD_SLOTS


def test_one_of_several_must_have_a_leap_confirmed() -> None:
    """Beyond a minute of the chain only getSlot can bear it out."""
    tip = SlotTip(strict=True)
    tip.confirm(100, 10.0)
    assert tip.believes(100 + STRICT_AHEAD_SLOTS, 10.0)
    assert not tip.believes(101 + STRICT_AHEAD_SLOTS, 10.0)
    tip.confirm(5_000, 10.0, asked=True)
    assert tip.believes(5_000 + STRICT_AHEAD_SLOTS, 10.0)


def test_slots_that_run_away_must_be_confirmed() -> None:
    """What a node said unasked does not count as the slot from which the next may be ahead."""
    tip = SlotTip(strict=True)
    tip.confirm(0, 0.0)
    believed = 0
    for second in range(1, 100):
        for slot in range(believed + 1, believed + 51):
            if tip.believes(slot, float(second)):
                tip.confirm(slot, float(second))
                believed = slot
    assert believed <= STRICT_AHEAD_SLOTS + 10 * 99
