"""What the local node's Yellowstone answers, without a socket: filters as Yellowstone checks them, slots, replay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B, PROGRAM, raw

from account_socket.devnode.geyser_feed import Feed, ReplayFaultError
from account_socket.devnode.geyser_filters import FilterFaultError, Filters, parse_filters
from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.sources.geyser import SlotUpdate, UpdateReader
from account_socket.sources.geyser_proto import geyser_pb2 as pb


def filters(level: int = pb.PROCESSED, *, slots: bool = True, **fields: object) -> Filters:
    request = pb.SubscribeRequest(commitment=pb.CommitmentLevel.Name(level))
    request.accounts["a"].MergeFrom(pb.FilterAccounts(**fields))
    if slots:
        request.slots["s"].SetInParent()
    return parse_filters(request)


def passes(account: RawAccount, /, **fields: object) -> bool:
    return filters(**fields).account_names(account) == ["a"]


@pytest.mark.parametrize(
    ("fields", "passing"),
    [
        ({}, True),
        ({"owner": [PROGRAM]}, True),
        ({"owner": [SYSTEM_PROGRAM]}, False),
        ({"owner": [SYSTEM_PROGRAM, PROGRAM]}, True),
        ({"account": [KEY_B, KEY_A]}, True),
        ({"account": [KEY_B]}, False),
        ({"account": [KEY_A], "owner": [SYSTEM_PROGRAM]}, False),
        ({"filters": [{"datasize": 4}]}, True),
        ({"filters": [{"datasize": 3}]}, False),
        ({"filters": [{"memcmp": {"offset": 1, "raw": b"bc"}}]}, True),
        ({"filters": [{"memcmp": {"offset": 1, "base64": "YmM="}}]}, True),
        ({"filters": [{"memcmp": {"offset": 3, "raw": b"de"}}]}, False),
        ({"filters": [{"datasize": 4}, {"memcmp": {"offset": 0, "raw": b"x"}}]}, False),
        ({"filters": [{"lamports": {"eq": 7}}]}, True),
        ({"filters": [{"lamports": {"ne": 7}}]}, False),
        ({"filters": [{"lamports": {"gt": 6}}, {"lamports": {"lt": 8}}]}, True),
        ({"filters": [{"lamports": {"gt": 7}}]}, False),
        ({"filters": [{"token_account_state": True}]}, False),
        ({"nonempty_txn_signature": True}, True),
        ({"nonempty_txn_signature": False}, False),
    ],
)
def test_account_filters(fields: dict[str, object], passing: bool) -> None:
    """Fields AND, values of a list OR, data tests AND; an empty filter passes everything."""
    assert passes(raw(data=b"abcd", lamports=7, signature="5Sig"), **fields) is passing


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"accounts": {"x" * 129: {}}}, "oversized filter name"),
        ({"accounts": {"a": {"owner": ["short"]}}}, "Invalid pubkey"),
        ({"accounts": {"a": {"filters": [{"datasize": 1}] * 2}}}, "datasize used more than once"),
        ({"accounts": {"a": {"filters": [{"lamports": {"eq": 1}}] * 5}}}, "Too many filters"),
        ({"accounts": {"a": {"filters": [{}]}}}, "filter should be defined"),
        ({"accounts": {"a": {"filters": [{"token_account_state": False}]}}}, "only allowed to be true"),
        ({"accounts": {"a": {"filters": [{"memcmp": {"raw": bytes(129)}}]}}}, "data too large"),
        ({"accounts": {"a": {"filters": [{"memcmp": {"base58": "1" * 176}}]}}}, "data too large"),
        ({"accounts": {"a": {"filters": [{"memcmp": {"base58": "0"}}]}}}, "invalid base58"),
        ({"accounts": {"a": {"filters": [{"memcmp": {"base64": "*"}}]}}}, "invalid base64"),
        ({"accounts_data_slice": [{"offset": 4, "length": 2}, {"offset": 5, "length": 1}]}, "overlapping"),
        ({"accounts": {"a": {"account": [KEY_A] * 4}}}, "only 3 allowed"),
    ],
)
def test_filters_that_yellowstone_refuses(request_: dict[str, object], told: str) -> None:
    """Each limit of Yellowstone's is kept, with a text that says which."""
    with pytest.raises(FilterFaultError, match=told):
        parse_filters(pb.SubscribeRequest(**request_), max_accounts=3)


def test_data_slices() -> None:
    """The result is the concatenation; a slice that reaches beyond the data is left out whole."""
    request = pb.SubscribeRequest(accounts_data_slice=[{"offset": 1, "length": 2}, {"offset": 4, "length": 3}])
    assert parse_filters(request).cut(b"abcdefg") == b"bcefg"
    assert parse_filters(request).cut(b"abcdef") == b"bc"


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [0, 1, 2]),
        ({"filter_by_commitment": True}, [1]),
        ({"interslot_updates": True}, [0, 1, 2, 3, 4, 5, 6]),
        ({"filter_by_commitment": True, "interslot_updates": True}, [1, 3, 4, 5, 6]),
    ],
)
def test_slot_filters(fields: dict[str, bool], wanted: list[int]) -> None:
    """Without options the three levels of every slot come; options narrow or widen that."""
    request = pb.SubscribeRequest(commitment=pb.CONFIRMED)
    request.slots["s"].MergeFrom(pb.FilterSlots(**fields))
    found = parse_filters(request)
    assert [status for status in range(7) if found.slot_names(status)] == wanted


class Listener:
    """A stream that keeps what it is sent, as (slot, data) and (slot, status)."""

    def __init__(self, level: int = pb.PROCESSED, **fields: object) -> None:
        self.filters: Filters | None = filters(level, **fields)
        self.heard: list[tuple[int, object]] = []

    def send(self, message: bytes) -> None:
        update = UpdateReader("x").read(message, 0.0)
        if isinstance(update, SlotUpdate):
            self.heard.append((update.slot, update.status))
        elif isinstance(update, RawAccount):
            self.heard.append((update.slot, update.data))


def feed_of(*listeners: Listener, **options: int) -> Feed:
    feed = Feed(now=lambda: 1.0, **options)
    feed.subscribers = dict.fromkeys(listeners)
    return feed


def test_what_each_level_hears() -> None:
    """Processed hears each write at once, confirmed the last write of each account when the slot is confirmed."""
    processed, confirmed = Listener(slots=False), Listener(pb.CONFIRMED)
    feed = feed_of(processed, confirmed)
    feed.create(10, 9)
    feed.write(raw(slot=10, data=b"1"))
    feed.write(raw(slot=10, data=b"2"))
    assert processed.heard == [(10, b"1"), (10, b"2")]
    assert confirmed.heard == []
    feed.settle(10)
    assert confirmed.heard == [(10, 0)]
    feed.create(11, 10)
    feed.settle(11)
    assert confirmed.heard == [(10, 0), (11, 0), (10, b"2"), (10, 1)]


def test_a_slot_is_final_when_it_is_32_slots_old() -> None:
    """The last level comes 32 slots later, in order."""
    listener = Listener(pb.FINALIZED)
    feed = feed_of(listener)
    for slot in range(1, 40):
        feed.create(slot, slot - 1)
    feed.settle(34)
    assert [slot for slot, status in listener.heard if status == pb.SLOT_FINALIZED] == [1, 2]


def test_an_abandoned_slot_gets_no_further() -> None:
    """Its status stays what it was."""
    feed = feed_of()
    feed.create(1, 0)
    feed.create(2, 1)
    feed.write(raw(slot=2))
    feed.abandon(2, tell=False)
    feed.create(3, 1)
    feed.settle(3)
    assert feed.newest(pb.PROCESSED) == 3
    assert feed._slots[2].level < pb.PROCESSED


def replayed(feed: Feed, from_slot: int, level: int = pb.PROCESSED) -> list[tuple[int, object]]:
    listener = Listener(level, slots=False)
    assert listener.filters is not None
    feed.replay(listener, listener.filters, from_slot)
    return listener.heard


def test_replay_sends_the_last_writes_of_stored_slots() -> None:
    """From the slot asked for on, slots of the stream's level, each as its last writes."""
    feed = feed_of(replay_slots=3)
    for slot in range(1, 6):
        feed.create(slot, slot - 1)
        feed.write(raw(slot=slot, data=b"x"))
        feed.write(raw(slot=slot, data=b"%d" % slot))
    feed.settle(5)
    assert feed.first_available == 3
    assert replayed(feed, 4) == [(4, b"4"), (5, b"5")]
    assert replayed(feed, 4, pb.CONFIRMED) == [(4, b"4")]


@pytest.mark.parametrize(
    ("replay_slots", "from_slot", "code", "text"),
    [
        (0, 4, "INTERNAL", "from_slot is not supported"),
        (3, 2, "OUT_OF_RANGE", "broadcast from 2 is not available, last available: 3"),
        (3, 6, "INTERNAL", "failed to get replay response"),
    ],
)
def test_replay_that_cannot_begin(replay_slots: int, from_slot: int, code: str, text: str) -> None:
    """Too old, too new and switched off are told apart as Yellowstone tells them."""
    feed = feed_of(replay_slots=replay_slots)
    for slot in range(1, 6):
        feed.create(slot, slot - 1)
    feed.settle(5)
    with pytest.raises(ReplayFaultError, match=text) as fault:
        replayed(feed, from_slot)
    assert fault.value.code == code


def test_nothing_stored_yet() -> None:
    """Before the first slot is through, the first available one is the greatest number there is."""
    assert feed_of().first_available == 2**64 - 1
    assert feed_of(replay_slots=0).first_available is None


@given(st.lists(st.tuples(st.sampled_from(["create", "write", "settle"]), st.integers(0, 5)), max_size=40))
def test_levels_only_rise_and_come_in_order(steps: list[tuple[str, int]]) -> None:
    """Whatever happens, each slot's statuses come once each, rising, and those of one level by slot."""
    listener = Listener(pb.CONFIRMED)
    feed = feed_of(listener)
    tip = 1
    feed.create(tip, 0)
    for step, amount in steps:
        if step == "create":
            feed.create(tip + 1 + amount, tip)
            tip += 1 + amount
        elif step == "write":
            feed.write(raw(slot=tip))
        else:
            feed.settle(tip - amount)
    statuses = [(slot, status) for slot, status in listener.heard if isinstance(status, int)]
    assert len(set(statuses)) == len(statuses)
    for level in range(3):
        slots = [slot for slot, status in statuses if status == level]
        assert slots == sorted(slots)
