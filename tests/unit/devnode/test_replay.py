"""What is replayed, on which addresses, and when."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from account_socket.devnode.replay import (
    MAX_DEBT_SECONDS,
    MAX_WAIT_SECONDS,
    SLOT_ZERO_UNIX_MS,
    Pace,
    RecordedPace,
    Replay,
    derived_pubkey,
    slot_at,
    spread,
)
from account_socket.model import RawAccount
from account_socket.sources.recording import RecordedWrite, Recording, RecordingHeader

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
KEYS = [str(Pubkey.from_bytes(bytes([number]) * 32)) for number in range(1, 6)]


def recording(*writes: tuple[int, int]) -> Recording:
    """Return a recording of (slot, number of the account) writes."""
    items = [
        RecordedWrite(RawAccount(KEYS[key], slot, PROGRAM, 1 + index, bytes([index % 256])))
        for index, (slot, key) in enumerate(writes)
    ]
    return Recording(RecordingHeader(), items)


def take_all(replay: Replay) -> list[RawAccount]:
    taken = []
    while not replay.done:
        taken.append(replay.take())
    return taken


def test_writes_come_as_recorded():
    """Without more, the writes are those of the recording, slots and all."""
    source = recording((10, 0), (10, 0), (12, 1))
    replay = Replay(source)
    assert replay.total == 3
    assert take_all(replay) == [write.account for write in source.writes]
    assert (replay.position, replay.passes, replay.lowest_slot_ahead) == (3, 1, None)
    replay.rewind()
    assert (replay.position, replay.done, replay.next_slot) == (0, False, 10)


def test_slot_of_the_clock():
    """A write may be taken at another slot; nothing else of it changes."""
    source = recording((10, 0))
    taken = Replay(source).take(77)
    assert taken.slot == 77
    assert taken.content_hash() == source.writes[0].account.content_hash()


def test_lowest_slot_ahead():
    """The lowest slot still to come is known at each step, though slots may go back."""
    replay = Replay(recording((10, 0), (12, 0), (11, 1), (15, 1)))
    seen = []
    while not replay.done:
        seen.append(replay.lowest_slot_ahead)
        replay.take()
    assert seen == [10, 11, 11, 15]


@given(st.lists(st.sampled_from(range(5)), min_size=1, max_size=30), st.integers(1, 23))
def test_spread_onto_addresses(keys, accounts):
    """N addresses see, each, exactly the writes of the account that they stand for, in order."""
    source = recording(*((10 + index, key) for index, key in enumerate(keys)))
    replay = Replay(source, accounts=accounts)
    taken = take_all(replay)
    assert len(taken) == replay.total == replay.position
    addresses = {account.pubkey for account in taken}
    distinct = list(dict.fromkeys(KEYS[key] for key in keys))
    assert len(addresses) == accounts
    for original, copies in spread(distinct, accounts).items():
        expected = [w.account.data for w in source.writes if w.account.pubkey == original]
        for address in copies:
            assert [account.data for account in taken if account.pubkey == address] == expected


def test_derived_addresses():
    """A copy's address is a hash of the original and the copy's number, the same each time; copy 0 is the original."""
    assert derived_pubkey(KEYS[0], 0) == KEYS[0]
    expected = sha256(bytes([1]) * 32 + (3).to_bytes(8, "little")).digest()
    assert bytes(Pubkey.from_string(derived_pubkey(KEYS[0], 3))) == expected
    assert spread(KEYS[:2], 5) == {
        KEYS[0]: (KEYS[0], derived_pubkey(KEYS[0], 1), derived_pubkey(KEYS[0], 2)),
        KEYS[1]: (KEYS[1], derived_pubkey(KEYS[1], 1)),
    }
    assert spread([], 5) == {}


def test_fewer_addresses_than_accounts():
    """Fewer addresses than the recording has: the first ones, the others' writes left out."""
    replay = Replay(recording((10, 0), (11, 1), (12, 0), (13, 2)), accounts=1)
    assert [account.slot for account in take_all(replay)] == [10, 12]
    assert replay.done


def test_empty_recording():
    """An empty recording is done from the start."""
    replay = Replay(recording())
    assert (replay.done, replay.total, replay.lowest_slot_ahead) == (True, 0, None)


@given(st.floats(1, 50_000), st.lists(st.floats(0.0001, 0.3), min_size=1, max_size=50))
def test_pace_keeps_the_rate(rate, steps):
    """However irregular the turns, after t seconds about rate x t writes were due."""
    pace, now, made = Pace(rate, 100.0), 100.0, 0
    for step in steps:
        now += step
        made += pace.due(now, 10**9)
    assert abs(made - (1 + (now - 100.0) * rate)) <= 1.01
    assert pace.wait(now) <= 1 / rate


def test_pace_limits_a_slice_and_forgives_debt():
    """A slice is limited, what is left is due at once, and a long stall is not made up for."""
    pace = Pace(100.0, 0.0)
    assert pace.due(0.5, 20) == 20
    assert pace.wait(0.5) == 0.0
    assert pace.due(0.5, 1000) == 31
    assert pace.due(3600.0, 10**9) == pytest.approx(MAX_DEBT_SECONDS * 100, abs=2)
    assert pace.behind > 3000
    assert pace.due(3600.0, 10**9) == 0


def timed(*times: int | None) -> Recording:
    """Return a recording whose writes, each of another slot, have these times in milliseconds."""
    items = [
        RecordedWrite(RawAccount(KEYS[index % 2], 10 + index, PROGRAM, 1, b""), at_ms)
        for index, at_ms in enumerate(times)
    ]
    return Recording(RecordingHeader(), items)


def replay_at(replay: Replay, pace: RecordedPace, now: float, limit: int = 1000) -> list[int]:
    """Take what is due; return the slots."""
    return [replay.take().slot for _ in range(pace.due(now, limit))]


def test_recorded_times_are_kept():
    """Each write is due as long after the first as it was recorded, whatever came before the first."""
    replay = Replay(timed(5_000, 5_000, 5_250, 9_000), timed=True)
    pace = RecordedPace(replay, 100.0)
    assert replay_at(replay, pace, 100.0) == [10, 11]
    assert pace.wait(100.1) == pytest.approx(0.15)
    assert replay_at(replay, pace, 100.2) == []
    assert replay_at(replay, pace, 100.25) == [12]
    assert replay_at(replay, pace, 104.0) == [13]
    assert (replay.done, pace.wait(104.0)) == (True, 0.0)


def test_recorded_times_of_the_next_pass_follow():
    """The second pass begins one average distance after the first one's last write."""
    replay = Replay(timed(0, 100, 400), timed=True)
    pace = RecordedPace(replay, 0.0)
    assert len(replay_at(replay, pace, 0.4)) == 3
    replay.rewind()
    assert pace.wait(0.4) == pytest.approx(0.2)
    assert replay_at(replay, pace, 0.71) == [10, 11]
    assert replay_at(replay, pace, 1.01) == [12]


def test_recorded_pace_limits_a_slice_and_forgives_debt():
    """A slice is limited, also among the copies of a write; a long stall is not made up for; waits are bounded."""
    replay = Replay(timed(0, 10, 10_000, 10_000_000), accounts=10, timed=True)
    pace = RecordedPace(replay, 0.0)
    assert replay_at(replay, pace, 0.0, limit=3) == [10, 10, 10]
    assert replay_at(replay, pace, 0.0) == [10, 10]
    assert replay_at(replay, pace, 5.0, limit=2) == [11, 11]
    assert pace.behind > 4
    assert replay_at(replay, pace, 5.0) == [11, 11, 11]
    # A second behind at 5.0, the replay stands at 1.01 s.
    assert pace.wait(5.0) == pytest.approx(9.0, abs=0.02)
    assert replay_at(replay, pace, 14.0) == [12] * 5
    assert pace.wait(14.0) == MAX_WAIT_SECONDS


def test_times_that_go_back_or_are_missing():
    """A time before the one before it counts as that; without times there is no replay by them."""
    replay = Replay(timed(1_000, 1_500, 900, 1_600), timed=True)
    pace = RecordedPace(replay, 0.0)
    assert replay_at(replay, pace, 0.5) == [10, 11, 12]
    assert not timed(1, None).timed
    for without in (timed(1, None), timed()):
        with pytest.raises(ValueError, match="no times"):
            Replay(without, timed=True)


@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=30), st.lists(st.floats(0.001, 0.9), max_size=40))
def test_no_write_comes_early(steps, turns):
    """However irregular the turns, a write comes at its time or at the first turn after it, and none is lost."""
    times = [sum(steps[:index]) for index in range(1, len(steps) + 1)]
    replay = Replay(timed(*times), timed=True)
    pace, now = RecordedPace(replay, 0.0), 0.0
    made = replay_at(replay, pace, 0.0)
    for turn in turns:
        now += turn
        if not replay.done:
            made += replay_at(replay, pace, now)
        assert len(made) == sum((at_ms - times[0]) / 1000 <= now for at_ms in times)


def test_slots_follow_the_clock():
    """A slot lasts 400 ms and the first began with mainnet."""
    base = SLOT_ZERO_UNIX_MS
    assert [slot_at(base + ms) for ms in (-5, 0, 399, 400, 4000)] == [0, 0, 0, 1, 10]
    assert slot_at(1_795_000_000_000) == (1_795_000_000_000 - base) // 400


def test_every_copy_is_written_before_the_next_write():
    """The copies of one write come one after another, so that a slot stays together."""
    taken = take_all(Replay(recording((10, 0), (11, 0)), accounts=3))
    assert [account.slot for account in taken] == [10, 10, 10, 11, 11, 11]
    assert Counter(account.pubkey for account in taken).most_common(1)[0][1] == 2
