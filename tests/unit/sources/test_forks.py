from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B, raw

from account_socket.sources.forks import ACCOUNT_OVERHEAD_BYTES, MAX_SLOTS, Forks, Retraction


def chain(forks: Forks, *pairs: tuple[int, int]) -> None:
    for slot, parent in pairs:
        forks.descends(slot, parent)


def restored(retraction: Retraction | None) -> list[tuple[str, int, bytes, int | None]]:
    assert retraction is not None
    return [(account.pubkey, account.slot, account.data, account.retracts) for account in retraction.restored]


def test_a_dead_slot_gives_back_the_state_before_it() -> None:
    """The state before is the newest one in a slot that lives."""
    forks = Forks()
    chain(forks, (1, 0), (2, 1), (3, 2))
    for slot in (1, 2, 3):
        forks.write(raw(slot=slot, data=b"%d" % slot))
    assert restored(forks.dead(3)) == [(KEY_A, 2, b"2", 3)]


def test_what_descends_from_a_dead_slot_dies_with_it() -> None:
    """Each account goes back once, from its newest dead state."""
    forks = Forks()
    chain(forks, (1, 0), (2, 1), (3, 2), (4, 1))
    forks.write(raw(slot=1, data=b"a"))
    forks.write(raw(KEY_B, slot=1, data=b"b"))
    forks.write(raw(slot=2, data=b"x"))
    forks.write(raw(slot=3, data=b"y"))
    forks.write(raw(KEY_B, slot=3, data=b"z"))
    assert restored(forks.dead(2)) == [(KEY_A, 1, b"a", 3), (KEY_B, 1, b"b", 3)]
    assert forks.dead(2) is None


def test_a_finalized_sibling_kills() -> None:
    """A slot that a finalized one does not descend from is dead without a word of the node."""
    forks = Forks()
    chain(forks, (1, 0), (2, 1), (3, 1), (4, 3))
    forks.write(raw(slot=1, data=b"1"))
    forks.write(raw(slot=2, data=b"2"))
    assert forks.finalized(1) is None
    assert restored(forks.finalized(4)) == [(KEY_A, 1, b"1", 2)]


def test_a_newer_state_of_a_living_slot_stands() -> None:
    """What was written after the dead slot, on the fork that lives, needs nothing."""
    forks = Forks()
    chain(forks, (1, 0), (2, 1), (3, 1))
    for slot in (1, 2, 3):
        forks.write(raw(slot=slot, data=b"%d" % slot))
    retraction = forks.dead(2)
    assert retraction is not None
    assert (retraction.restored, retraction.unknown) == ([], [])


def test_a_state_that_was_never_seen_is_unknown() -> None:
    """What a dead slot wrote first, since this program watches, cannot be given back from here."""
    forks = Forks()
    chain(forks, (1, 0), (2, 1))
    forks.write(raw(slot=2, data=b"2"))
    retraction = forks.dead(2)
    assert retraction is not None
    assert (retraction.unknown, retraction.slot, retraction.restored) == ([KEY_A], 2, [])


def test_below_an_unknown_parent_nothing_is_judged() -> None:
    """A stream that began in the middle knows no parents of the slots before; those are not called dead."""
    forks = Forks()
    forks.write(raw(slot=5, data=b"5"))
    chain(forks, (9, 8), (10, 9))
    assert forks.finalized(10) is None
    forks.descends(7, 9)  # a parent above its slot is a lie
    assert forks.dead(7) is None


def test_the_rooted_state_is_the_last_one_that_was_written() -> None:
    """After slots were rooted, a dead slot gives back what they left."""
    forks = Forks()
    chain(forks, (1, 0), (2, 1), (3, 2))
    forks.write(raw(slot=1, data=b"1"))
    forks.write(raw(slot=2, data=b"2"))
    assert forks.finalized(2) is None
    forks.write(raw(slot=3, data=b"3"))
    assert restored(forks.dead(3)) == [(KEY_A, 2, b"2", 3)]


def test_memory_is_bounded() -> None:
    """Beyond the bound the oldest open slots count as rooted, and the oldest rooted states are forgotten."""
    forks = Forks(max_bytes=10 * (ACCOUNT_OVERHEAD_BYTES + 100))
    for slot in range(1, 100):
        forks.descends(slot, slot - 1)
        forks.write(raw(f"key-{slot}", slot=slot, data=bytes(100)))
    assert len(forks._rooted) <= 10
    assert forks._bytes <= forks._max_bytes
    for slot in range(100, 100 + 2 * MAX_SLOTS):
        forks.descends(slot, slot - 1)
    assert len(forks._slots) <= MAX_SLOTS


@settings(deadline=None)
@given(st.data())
def test_what_is_restored_is_the_newest_living_state(data: st.DataObject) -> None:
    """For any tree, writes and deaths: the restored states are those of the newest slot that is not dead."""
    forks = Forks()
    parents: dict[int, int] = {}
    writes: dict[int, bytes] = {}
    for slot in range(1, 9):
        parents[slot] = data.draw(st.integers(0, slot - 1))
        forks.descends(slot, parents[slot])
        if data.draw(st.booleans()):
            writes[slot] = b"%d" % slot
            forks.write(raw(slot=slot, data=writes[slot]))
    victim = data.draw(st.integers(1, 8))
    dead = {victim}
    for slot in range(victim + 1, 9):
        if parents[slot] in dead:
            dead.add(slot)
    living = max((slot for slot in writes if slot not in dead), default=None)
    newest_dead = max((slot for slot in writes if slot in dead), default=None)
    retraction = forks.dead(victim)
    if newest_dead is None:
        assert retraction is None
    elif living is None:
        assert retraction is not None
        assert retraction.unknown == [KEY_A]
    elif living > newest_dead:
        assert retraction is not None
        assert retraction.restored == []
    else:
        assert restored(retraction) == [(KEY_A, living, writes[living], newest_dead)]
