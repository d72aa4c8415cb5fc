from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B, PROGRAM, raw

from account_socket.model import SYSTEM_PROGRAM, Mark, Origin, RawAccount
from account_socket.pipeline.ordering import Ordering


def ordering(next_id: int = 1, **more: Any) -> Ordering:
    return Ordering([PROGRAM], next_id, **more)


def admitted(order: Ordering, *batch: RawAccount) -> list[bytes]:
    return [account.data for account, _ in order.admit(batch)]


def reread(slot: int, data: bytes, **more: object) -> RawAccount:
    return raw(slot=slot, data=data, origin=Origin.REREAD, source="rpc", **more)


CASES = {
    "a later slot is news": ([raw(slot=1, data=b"a"), raw(slot=2, data=b"b")], [b"a", b"b"]),
    "an older slot is dropped": ([raw(slot=2, data=b"b"), raw(slot=1, data=b"a")], [b"b"]),
    "the same content in the same slot is a repeat": ([raw(slot=1, data=b"a")] * 2, [b"a"]),
    "without write_version arrival order counts inside a slot": (
        [raw(slot=1, data=b"a"), raw(slot=1, data=b"b"), raw(slot=1, data=b"a")],
        [b"a", b"b", b"a"],
    ),
    "pushed unchanged content in a later slot is published": (
        [raw(slot=1, data=b"a"), raw(slot=2, data=b"a")],
        [b"a", b"a"],
    ),
    "write_version orders writes of one source inside a slot": (
        [raw(data=b"b", write_version=2), raw(data=b"a", write_version=1), raw(data=b"c", write_version=3)],
        [b"b", b"c"],
    ),
    "a higher write_version with the same content is a write": (
        [raw(data=b"a", write_version=1), raw(data=b"a", write_version=2)],
        [b"a", b"a"],
    ),
    "the first source of a slot owns the account there": (
        [raw(data=b"a"), raw(data=b"b", source="rpc-1"), raw(slot=2, data=b"c", source="rpc-1")],
        [b"a", b"c"],
    ),
    "write_version does not compare across sources": (
        [raw(data=b"a", write_version=5), raw(data=b"b", write_version=9, source="other")],
        [b"a"],
    ),
    "an unchanged re-read is not published": ([raw(slot=1, data=b"a"), reread(5, b"a")], [b"a"]),
    "an unchanged re-read raises the mark": (
        [raw(slot=1, data=b"a"), reread(5, b"a"), raw(slot=4, data=b"b")],
        [b"a"],
    ),
    "what another program does with an account is not news": (
        [
            raw(slot=1, data=b"a"),
            raw(slot=2, data=b"theirs", owner=SYSTEM_PROGRAM),
            raw(slot=3, data=b"more", owner=SYSTEM_PROGRAM),
            raw(slot=4, data=b"b"),
        ],
        [b"a", b"", b"b"],
    ),
    "that a closed account is gone for good is news": (
        [
            raw(slot=1, data=b"a"),
            raw(slot=2, data=b"theirs", owner=SYSTEM_PROGRAM),
            raw(slot=3, data=b"", owner=SYSTEM_PROGRAM, lamports=0),
        ],
        [b"a", b"", b""],
    ),
    "a changed re-read is news": ([raw(slot=1, data=b"a"), reread(5, b"b")], [b"a", b"b"]),
    "a re-read of the same slot is the slot's last word": ([raw(slot=5, data=b"a"), reread(5, b"b")], [b"a", b"b"]),
    "an older re-read is dropped": ([raw(slot=6, data=b"b"), reread(5, b"a")], [b"b"]),
    "a numbered write of a re-read slot came before it": (
        [reread(5, b"b"), raw(slot=5, data=b"a", write_version=3)],
        [b"b"],
    ),
    "an unnumbered write after a re-read of its slot is news": (
        [reread(5, b"a"), raw(slot=5, data=b"b")],
        [b"a", b"b"],
    ),
    "the pushed repeat of a re-read is dropped": ([reread(5, b"a"), raw(slot=5, data=b"a")], [b"a"]),
    "lamports alone make a change": ([raw(data=b"a", lamports=1), raw(data=b"a", lamports=2)], [b"a", b"a"]),
    "a closed account that was never known is dropped": ([raw(data=b"", lamports=0, owner=SYSTEM_PROGRAM)], []),
    "a foreign account that was never known is dropped": ([raw(data=b"x", owner=SYSTEM_PROGRAM)], []),
    "a close is news": ([raw(data=b"a"), raw(slot=2, data=b"", lamports=0, owner=SYSTEM_PROGRAM)], [b"a", b""]),
    "a re-opened account is news": (
        [raw(data=b"a"), raw(slot=2, data=b"", lamports=0, owner=SYSTEM_PROGRAM), raw(slot=3, data=b"a")],
        [b"a", b"", b"a"],
    ),
    "another account has its own order": ([raw(slot=9, data=b"a"), raw(KEY_B, slot=1, data=b"b")], [b"a", b"b"]),
}


@pytest.mark.parametrize(("batch", "news"), CASES.values(), ids=CASES.keys())
def test_what_is_news(batch: list[RawAccount], news: list[bytes]) -> None:
    """Each rule of the order admits exactly what it says."""
    assert admitted(ordering(), *batch) == news


def test_a_lost_source_loses_its_slots() -> None:
    """When the source that owns a slot breaks off, another one may go on with it."""
    order = ordering()
    admitted(order, raw(data=b"a"))
    order.lose("rpc-0")
    assert admitted(order, raw(data=b"b", source="rpc-1")) == [b"b"]
    order.regain("rpc-0")
    assert admitted(order, raw(data=b"c", source="rpc-0")) == []


def test_a_source_that_is_back_does_not_own_its_last_slot_again() -> None:
    """Of the slot in which a source broke off another one may tell the end, also once the first one is back."""
    order = ordering()
    admitted(order, raw(slot=1, data=b"a", source="geyser", write_version=9))
    order.lose("geyser")
    order.regain("geyser")
    assert admitted(order, raw(slot=1, data=b"a")) == [], "the same content"
    assert admitted(order, raw(slot=1, data=b"b")) == [b"b"]
    admitted(order, raw(slot=2, data=b"c", source="geyser", write_version=12))
    assert admitted(order, raw(slot=2, data=b"d")) == []


def test_what_a_slot_ended_with_is_not_taken_back_by_a_write_in_it() -> None:
    """PubSub tells a slot's last state: a write of that slot that Yellowstone brings later is not newer, but odd."""
    order = ordering()
    admitted(order, raw(slot=1, data=b"ended with"))
    order.lose("rpc-0")
    assert admitted(order, raw(slot=1, data=b"before", source="geyser", write_version=9)) == []
    assert order.unsettled() == [KEY_A], "only the node knows for certain"
    assert order.unsettled() == []


def test_what_another_source_told_of_a_slot_is_told_of_when_its_owner_is_lost() -> None:
    """Which of the two states is newer only the node knows; accounts without such a quarrel are not named."""
    order = ordering()
    admitted(order, raw(data=b"a"), raw(KEY_B, data=b"a"), raw(data=b"b", source="rpc-1"))
    assert order.lose("rpc-1") == []
    assert order.lose("rpc-0") == [KEY_A]
    assert order.lose("rpc-0") == []


def test_duplicates_are_counted_per_source() -> None:
    """A re-read is no duplicate; what a source pushes late, again or after another is."""
    order = ordering()
    admitted(order, raw(slot=2), raw(slot=2), raw(slot=2, source="rpc-1"), raw(slot=1, source="rpc-1"))
    admitted(order, reread(3, b"one"))
    assert order.duplicates == {"rpc-0": 1, "rpc-1": 2}


def test_a_dead_slot_that_wrote_the_same_again_is_retracted_all_the_same() -> None:
    """It would hide what the living sibling of that slot wrote."""
    order = ordering()
    admitted(order, raw(slot=5, data=b"a"), raw(slot=7, data=b"a"))
    assert admitted(order, raw(slot=5, data=b"a", retracts=7)) == [b"a"]
    assert admitted(order, raw(slot=6, data=b"b")) == [b"b"]


def test_a_numbered_write_after_one_that_the_store_remembers_is_news() -> None:
    """A restart in the middle of a slot does not make the rest of it older."""
    order = ordering(10, stored=True)
    order.load([KEY_A], {KEY_A: Mark(7, 5, 3, raw(data=b"a").content_hash(), "Pool")})
    assert admitted(order, raw(slot=5, data=b"x", write_version=2), raw(slot=5, data=b"b", write_version=4)) == [b"b"]


def test_a_retraction_that_changes_nothing_is_none() -> None:
    """What the node tells is what clients were told last."""
    order = ordering()
    admitted(order, raw(slot=5, data=b"a"))
    assert admitted(order, reread(6, b"a", retracts=5)) == []
    assert order.dropped == {"unchanged": 1}


def test_a_state_that_a_dead_fork_gives_back_is_admitted_although_it_is_older() -> None:
    """A retraction makes the older state the newest: it has the next id, and later writes go on from its slot."""
    order = ordering()
    admitted(order, raw(slot=5, data=b"a"), raw(slot=7, data=b"b"))
    ((_, place),) = order.admit([raw(slot=5, data=b"a", retracts=7)])
    assert (place.id, place.prev_id) == (3, 2)
    assert admitted(order, raw(slot=4, data=b"x"), raw(slot=6, data=b"c")) == [b"c"]


@pytest.mark.parametrize("news", [[raw(slot=8, data=b"c")], [raw(slot=8, data=b"b", source="rpc-1")], []])
def test_a_retraction_of_what_is_not_the_newest_state_changes_nothing(news: list[RawAccount]) -> None:
    """When a living slot has written since, or the dead state never came, there is nothing to take back."""
    order = ordering()
    admitted(order, raw(slot=5, data=b"a"), *news)
    assert admitted(order, raw(slot=5, data=b"a", retracts=7)) == []
    assert order.dropped["not_retracted"] == 1


def test_ids_and_prev_ids_chain_per_account() -> None:
    """Ids grow by one over all accounts; prev_id is the account's own id before."""
    places = [
        place for _, place in ordering(40).admit([raw(slot=1), raw(KEY_B, slot=1), raw(slot=2), raw(KEY_B, slot=3)])
    ]
    assert [(place.id, place.prev_id) for place in places] == [(40, None), (41, None), (42, 40), (43, 41)]


def test_marks_of_a_store_are_taken_over() -> None:
    """After a restart what the store remembers decides."""
    order = ordering(10, stored=True)
    assert order.unread([KEY_A, KEY_B, KEY_A]) == [KEY_A, KEY_B]
    order.load([KEY_A, KEY_B], {KEY_A: Mark(7, 5, 0, raw(slot=5, data=b"a").content_hash(), "Pool")})
    assert order.unread([KEY_A, KEY_B]) == []
    assert admitted(order, raw(slot=4, data=b"x"), raw(slot=5, data=b"a")) == []
    ((_, place),) = order.admit([raw(slot=6, data=b"b")])
    assert (place.id, place.prev_id, place.account_type) == (10, 7, "Pool")


def test_what_is_admitted_while_the_store_is_read_stands() -> None:
    """The store's older mark does not take the place of the new one."""
    order = ordering(10, stored=True)
    admitted(order, raw(slot=6, data=b"new"))
    order.load([KEY_A], {KEY_A: Mark(7, 5, 0, b"h" * 16, "Pool")})
    assert order.newest_id(KEY_A) == 10


def test_accounts_beyond_the_bound_are_forgotten_once_they_are_committed() -> None:
    """The longest in memory go first, are asked of the store when they come again, and those not committed stay."""
    order = ordering(1, max_marks=2)
    keys = [f"key-{number}" for number in range(5)]
    admitted(order, *(raw(key) for key in keys))
    assert order.unread(keys) == []
    order.trim(committed_id=2)
    assert order.unread(keys) == keys[:2]
    order.trim(committed_id=5)
    assert order.unread(keys) == keys[:3]
    assert len(order) == 2


def test_a_forgotten_content_makes_the_next_reread_news() -> None:
    """A state that could not be read from the store is news when the node tells it again."""
    order = ordering()
    admitted(order, raw(slot=1, data=b"a"))
    order.forget_content(KEY_A)
    assert admitted(order, reread(2, b"a")) == [b"a"]


@given(
    st.lists(
        st.builds(
            raw,
            slot=st.integers(0, 4),
            data=st.sampled_from([b"a", b"b", b""]),
            write_version=st.integers(0, 2),
            source=st.sampled_from(["rpc-0", "rpc-1"]),
            origin=st.sampled_from(Origin),
            lamports=st.integers(0, 1),
        ),
        max_size=40,
    )
)
def test_whatever_arrives_slots_never_go_back_and_ids_have_no_holes(batch: list[RawAccount]) -> None:
    """For any arrivals the admitted slots never decrease and the ids are consecutive."""
    order = ordering()
    news = list(order.admit(batch))
    slots = [account.slot for account, _ in news]
    assert slots == sorted(slots)
    assert [place.id for _, place in news] == list(range(1, len(news) + 1))
    assert len(news) + sum(order.dropped.values()) == len(batch)
    mark = order.mark(KEY_A)
    assert (mark is None) == (not news)
    if mark is not None:
        assert mark.id == len(news)
