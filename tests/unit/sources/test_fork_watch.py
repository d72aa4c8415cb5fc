"""sources/fork_watch.py: which accounts a fork leaves doubtful."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B

from account_socket.sources.fork_watch import MAX_SLOTS, ForkWatch


def chain(*slots: int) -> ForkWatch:
    """Return a watch that has seen these slots, each on top of the one before."""
    watch = ForkWatch()
    for parent, slot in zip((slots[0] - 1, *slots), slots, strict=False):
        watch.began(slot, parent, 0)
    return watch


def taken(watch: ForkWatch) -> set[str]:
    doubtful, watch.doubtful = watch.doubtful, set()
    return doubtful


def test_a_chain_without_forks_leaves_nothing_doubtful() -> None:
    """Each slot on top of the one before: whatever was written stands."""
    watch = chain(10, 11)
    watch.wrote(11, KEY_A)
    watch.began(12, 11, 0)
    watch.began(13, 12, 11)
    assert taken(watch) == set()


def test_a_slot_that_is_built_around_leaves_its_accounts_doubtful() -> None:
    """Slot 12 descends from 10: what 11 wrote is doubtful, what 10 wrote is not."""
    watch = chain(10, 11)
    watch.wrote(10, KEY_B)
    watch.wrote(11, KEY_A)
    watch.began(12, 10, 0)
    assert taken(watch) == {KEY_A}


def test_a_write_that_comes_late_in_a_slot_left_behind_is_doubtful_too() -> None:
    """The notification of a write may come after the slot that shows the fork."""
    watch = chain(10, 11)
    watch.began(12, 10, 0)
    watch.wrote(11, KEY_A)
    assert taken(watch) == {KEY_A}


def test_coming_back_to_a_fork_makes_both_doubtful() -> None:
    """The node builds on 11 after all: what it wrote counts again, what 12 wrote does not."""
    watch = chain(10, 11)
    watch.wrote(11, KEY_A)
    watch.began(12, 10, 0)
    taken(watch)
    watch.wrote(12, KEY_B)
    watch.began(13, 11, 0)
    assert taken(watch) == {KEY_A, KEY_B}


def test_a_slot_left_behind_is_doubtful_once_more_when_the_root_passes_it() -> None:
    """Until then the node may come back to it; from then on it is dead for good."""
    watch = chain(10, 11)
    watch.wrote(11, KEY_A)
    watch.began(12, 10, 0)
    taken(watch)
    watch.began(13, 12, 10)
    assert taken(watch) == set()
    watch.began(14, 13, 12)
    assert taken(watch) == {KEY_A}
    watch.began(15, 14, 13)
    assert taken(watch) == set()


def test_slots_that_were_missed_leave_nothing_doubtful_by_themselves() -> None:
    """After an interruption the parent is unknown; the gap is healed otherwise."""
    watch = chain(10, 11)
    watch.wrote(11, KEY_A)
    watch.began(20, 19, 0)
    assert taken(watch) == set()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(-1, 60), st.integers(0, 60) | st.none()), max_size=80))
def test_whatever_the_node_says_is_taken_in_bounded_memory(slots: list[tuple[int, int, int | None]]) -> None:
    """Slots in any order with any parent and root raise nothing, and what was never written is never doubtful."""
    watch = ForkWatch()
    for slot, parent, root in slots:
        watch.wrote(slot, KEY_A)
        watch.began(slot, parent, root)
    assert watch.doubtful <= {KEY_A}
    assert len(watch._writes) + len(watch._parents) <= 2 * MAX_SLOTS + 1


def test_a_node_that_names_no_root_costs_a_bounded_memory() -> None:
    """The oldest slots are forgotten."""
    watch = ForkWatch()
    for slot in range(1, 5 * MAX_SLOTS):
        watch.began(slot, slot - 1, None)
        watch.wrote(slot, KEY_A)
    assert len(watch._writes) + len(watch._parents) <= 2 * MAX_SLOTS + 1


def test_after_an_interruption_all_that_is_not_rooted_is_doubtful_once() -> None:
    """A fork may have died between two connections; what was rooted before is sure, what comes after is watched."""
    watch = ForkWatch()
    for slot in (1, 2, 3):
        watch.began(slot, slot - 1, slot - 2 if slot > 2 else None)
        watch.wrote(slot, f"in {slot}")
    watch.interrupted()
    assert watch.doubtful == set()
    watch.began(7, 6, 1)
    assert watch.doubtful == {"in 2", "in 3"}
    watch.doubtful = set()
    watch.began(8, 7, 1)
    assert watch.doubtful == set()
