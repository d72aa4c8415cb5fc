"""devnode/fork_choice.py: what comes after a slot that was abandoned."""

from __future__ import annotations

from tests.samples import KEY_A, KEY_B, raw

from account_socket.devnode.fork_choice import KEPT_SLOTS, ForkChoice


def test_nothing_descends_from_an_abandoned_slot() -> None:
    """The next parent is the newest slot that lives, and the accounts are what they were before the dead one."""
    forks = ForkChoice(1)
    before = raw(slot=1)
    assert forks.begin(2) == 1
    forks.wrote(2, KEY_A, before)
    forks.wrote(2, KEY_A, raw(slot=2))
    forks.wrote(2, KEY_B, None)
    assert forks.abandon(2) == {KEY_A: before, KEY_B: None}
    assert forks.begin(3) == 1
    assert forks.begin(4) == 3


def test_only_the_newest_slots_are_kept() -> None:
    """What is remembered is bounded, however long the node runs."""
    forks = ForkChoice(0)
    for slot in range(1, 2 * KEPT_SLOTS):
        forks.begin(slot)
        forks.wrote(slot, KEY_A, None)
    assert len(forks._parents) == len(forks._before) == KEPT_SLOTS
