from __future__ import annotations

from collections.abc import Sequence

from solders.pubkey import Pubkey
from tests.samples import KEY_A, KEY_B, PROGRAM

from account_socket.model import Gap, RawAccount
from account_socket.sources.continuity import MAX_OPEN_BYTES, Continuity
from account_socket.sources.forks import Forks
from account_socket.sources.geyser import REPLAY_SLOTS, UpdateReader
from account_socket.sources.geyser_proto import geyser_pb2 as pb
from account_socket.sources.geyser_session import MAX_BATCH_ACCOUNTS, GeyserSession
from account_socket.sources.slot_tip import ACCOUNT_AHEAD_SLOTS, TIP_AHEAD_SLOTS, SlotTip

PROCESSED, CONFIRMED, FINALIZED = pb.SLOT_PROCESSED, pb.SLOT_CONFIRMED, pb.SLOT_FINALIZED


def account(slot: int, data: bytes = b"a", write_version: int = 1, pubkey: str = KEY_A) -> bytes:
    info = {
        "pubkey": bytes(Pubkey.from_string(pubkey)),
        "owner": bytes(Pubkey.from_string(PROGRAM)),
        "lamports": 1,
        "data": data,
        "write_version": write_version,
    }
    return pb.SubscribeUpdate(account={"account": info, "slot": slot}).SerializeToString()


def slot(number: int, status: int = CONFIRMED, parent: int | None = None) -> bytes:
    update = {"slot": number, "status": status, "parent": number - 1 if parent is None else parent}
    return pb.SubscribeUpdate(slot=update).SerializeToString()


class Upstream:
    """A datasource over several streams."""

    def __init__(self, commitment: str = "confirmed", tip: int | None = 100) -> None:
        self.continuity = Continuity(commitment)
        self.forks = Forks() if commitment == "processed" else None
        self.tip = SlotTip()
        self.first = tip

    def stream(self, *messages: bytes, why: str = "broke off") -> GeyserSession:
        session = GeyserSession(
            "geyser",
            UpdateReader("geyser"),
            self.tip,
            self.continuity,
            forks=self.forks,
            why_new=why,
            joined_at=self.first,
        )
        session.settle_doubt(self.first, 0.0)
        feed(session, messages)
        return session


def feed(session: GeyserSession, messages: Sequence[bytes]) -> list[tuple[int, bytes, int]]:
    for message in messages:
        session.receive(message, 1.0)
    return [(each.slot, each.data, each.write_version) for each in session.take_accounts()]


def test_the_first_stream_has_a_gap_before_its_first_whole_slot() -> None:
    """Of the slot in which a stream begins the first writes may be missing; from the next one on nothing is."""
    upstream = Upstream()
    session = upstream.stream(why="first connection")
    assert feed(session, [account(100), slot(100), account(101), slot(101)]) == [(100, b"a", 1), (101, b"a", 1)]
    assert session.gaps == [Gap("geyser", None, 101, "first connection")]
    assert upstream.continuity.newest == 101


def test_a_replayed_stream_has_no_gap_and_brings_nothing_twice() -> None:
    """Slots that came whole are dropped, what followed comes; no gap is told."""
    upstream = Upstream()
    feed(upstream.stream(), [slot(100), account(101), slot(101), account(102, b"b")])
    assert upstream.continuity.replay_from == 101
    session = upstream.stream()
    again = [
        account(101),
        slot(101),
        account(102, b"b"),
        account(102, b"c", 9, KEY_B),
        slot(102),
        account(103),
        slot(103),
    ]
    assert feed(session, again) == [(102, b"c", 9), (103, b"a", 1)]
    assert session.gaps == []
    assert session.resumed


def test_a_node_that_replays_only_from_later_on_leaves_a_gap() -> None:
    """When the first slot that comes whole is beyond what is known, the span between is told."""
    upstream = Upstream()
    feed(upstream.stream(), [slot(100), slot(101)])
    session = upstream.stream(why="lagged")
    feed(session, [account(105), slot(105), account(106), slot(106)])
    assert session.gaps == [Gap("geyser", 101, 106, "lagged")]
    assert not session.resumed
    assert upstream.continuity.newest == 106


def test_a_node_that_is_behind_misses_nothing() -> None:
    """Without replay, a node whose slots are behind what is known brings everything that is new."""
    upstream = Upstream()
    feed(upstream.stream(), [slot(100), account(101), slot(101)])
    session = upstream.stream()
    assert feed(session, [slot(99), slot(100), account(101), slot(101), account(102), slot(102)]) == [(102, b"a", 1)]
    assert session.gaps == []


def test_another_nodes_write_versions_go_behind_those_seen() -> None:
    """A slot that broke off in the middle and goes on at another node keeps its order, and repeats are dropped."""
    upstream = Upstream("processed")
    feed(upstream.stream(), [slot(100, PROCESSED), account(101, b"x", 500), account(101, b"y", 501, KEY_B)])
    session = upstream.stream()
    replayed = [
        slot(100, PROCESSED),
        account(101, b"z", 7),
        account(101, b"y", 8, KEY_B),
        account(101, b"w", 9, KEY_B),
    ]
    assert feed(session, replayed) == [(101, b"z", 501), (101, b"w", 502)]
    assert feed(session, [account(101, b"v", 12)]) == [(101, b"v", 506)]


def test_the_same_nodes_write_versions_stay() -> None:
    """From the same node the numbers are right as they are."""
    upstream = Upstream("processed")
    feed(upstream.stream(), [slot(100, PROCESSED), account(101, b"x", 500)])
    session = upstream.stream()
    assert feed(session, [slot(100, PROCESSED), account(101, b"x", 500), account(101, b"y", 503)]) == [
        (101, b"y", 503)
    ]


def test_the_slot_in_the_making_when_a_stream_begins_is_replayed_too() -> None:
    """Its first writes came before the stream and after its replay; what follows waits until they came."""
    upstream = Upstream("processed")
    feed(upstream.stream(), [slot(100, PROCESSED), account(101, b"a")])
    upstream.first = 101
    session = upstream.stream()
    replayed = [slot(100, PROCESSED), slot(101, PROCESSED)]
    live = [*replayed, account(102, b"late", 9), slot(103, pb.SLOT_CREATED_BANK), slot(102, PROCESSED)]
    assert feed(session, [*live, account(103, b"next", 10), slot(103, PROCESSED)]) == [(102, b"late", 9)]
    assert session.replay_from == 102
    again = [account(102, b"early", 8, KEY_B), account(102, b"late", 9), slot(102, PROCESSED)]
    assert feed(session, again) == [(102, b"early", 8), (103, b"next", 10)]
    assert feed(session, [account(103, b"next", 10), slot(103, PROCESSED)]) == []
    assert upstream.continuity.newest == 103
    assert session.gaps == []


def test_a_processed_stream_goes_back_31_slots() -> None:
    """Replay begins where a fork could still have changed what was seen."""
    upstream = Upstream("processed")
    feed(upstream.stream(), [slot(100, PROCESSED), slot(101, PROCESSED)])
    assert upstream.continuity.replay_from == 101 - REPLAY_SLOTS


def test_what_is_compared_again_ends() -> None:
    """Some slots after a new stream began, nothing is compared any more."""
    upstream = Upstream()
    feed(upstream.stream(), [slot(100), slot(101)])
    session = upstream.stream()
    feed(session, [slot(number) for number in range(101, 101 + REPLAY_SLOTS + 2)])
    assert session._overlap is None


def test_open_slots_hold_bounded_bytes() -> None:
    """A node that writes for ever into a slot that never ends costs a bounded amount."""
    upstream = Upstream()
    session = upstream.stream()
    for number in range(10):
        feed(session, [account(101, bytes(9_000_000), number, str(Pubkey.new_unique()))])
    assert upstream.continuity._open_bytes <= MAX_OPEN_BYTES + 9_001_000


def test_an_account_beyond_the_tip_is_for_judging() -> None:
    """A slot 150 ahead is let through, one more is marked."""
    upstream = Upstream()
    session = upstream.stream()
    session.receive(account(100 + ACCOUNT_AHEAD_SLOTS), 1.0)
    assert not session.slot_ahead
    session.receive(account(100 + ACCOUNT_AHEAD_SLOTS + 1), 1.0)
    assert session.slot_ahead


def test_a_lie_about_slots_moves_nothing() -> None:
    """A status far beyond the tip waits for GetSlot, and is odd when that says otherwise."""
    upstream = Upstream()
    session = upstream.stream(slot(100 + 2 * TIP_AHEAD_SLOTS))
    assert session.doubtful_slot == 100 + 2 * TIP_AHEAD_SLOTS
    session.settle_doubt(101, 1.0)
    assert upstream.tip.tip == 101
    assert ("tip_ahead", str(100 + 2 * TIP_AHEAD_SLOTS)) in session.odd
    assert session.heartbeats == 0


def test_without_getslot_the_first_slot_is_believed_and_a_later_jump_is_not() -> None:
    """A node that serves no unary methods is used all the same."""
    upstream = Upstream(tip=None)
    session = upstream.stream()
    assert feed(session, [account(50), slot(50), account(51), slot(51)]) == [(50, b"a", 1), (51, b"a", 1)]
    assert upstream.tip.tip == 51
    again = upstream.stream()
    assert feed(again, [account(51 + 2 * TIP_AHEAD_SLOTS)]) == []
    assert [kind for kind, _ in again.odd] == ["tip_ahead"]


def test_a_dead_fork_gives_states_back() -> None:
    """At processed the state before comes again when its slot dies, naming the slot that it takes back."""
    upstream = Upstream("processed")
    session = upstream.stream(slot(99, PROCESSED), account(100, b"a", 1), slot(100, PROCESSED))
    feed(session, [account(101, b"b", 2), slot(101, PROCESSED)])
    session.receive(slot(101, pb.SLOT_DEAD), 2.0)
    (back,) = session.take_accounts()
    assert (back.slot, back.data, back.retracts) == (100, b"a", 101)


def test_a_dead_fork_without_a_known_state_is_a_gap() -> None:
    """What cannot be given back is told as a gap, so that it is read from the node."""
    upstream = Upstream("processed")
    session = upstream.stream(slot(99, PROCESSED), slot(100, PROCESSED), account(101), slot(101, PROCESSED))
    session.gaps.clear()
    feed(session, [slot(102, PROCESSED, parent=100), slot(102, FINALIZED, parent=100)])
    (gap,) = session.gaps
    assert (gap.from_slot, gap.to_slot) == (None, 103)


def test_the_nodes_ping_is_answered() -> None:
    """A ping is answered with a ping that has an id; a pong needs nothing."""
    session = Upstream().stream(bytes.fromhex("3200"), bytes.fromhex("4a02084d"))
    (answer,) = session.outgoing
    assert pb.SubscribeRequest.FromString(answer).ping.id != 0


def test_a_batch_is_bounded() -> None:
    """After so many accounts a batch must be handed over."""
    session = Upstream().stream()
    for number in range(MAX_BATCH_ACCOUNTS):
        assert not session.full
        session.receive(account(101, write_version=number), 1.0)
    assert session.full
    assert isinstance(session.take_accounts()[0], RawAccount)
    assert not session.full
    assert not session.waiting


def test_levels_above_the_streams_own_are_told() -> None:
    """Of a processed stream both, of a confirmed one the last; the account before them waits no longer than they."""
    processed, confirmed = Upstream("processed"), Upstream()
    statuses = [slot(100, PROCESSED), slot(100, CONFIRMED), slot(100, FINALIZED)]
    session = processed.stream()
    feed(session, [account(100), *statuses])
    assert session.levels == [(100, "confirmed"), (100, "finalized")]
    assert session.waiting
    assert confirmed.stream(*statuses).levels == [(100, "finalized")]


def test_levels_that_nobody_takes_are_bounded() -> None:
    """A node that says them for ever while nothing can be handed over fills nothing."""
    session = Upstream().stream()
    feed(session, [slot(100 + number, FINALIZED) for number in range(MAX_BATCH_ACCOUNTS + 10)])
    assert len(session.levels) == MAX_BATCH_ACCOUNTS
