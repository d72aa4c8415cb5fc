"""What one look tells, step by step: a real hub and outbox, a source whose status the test writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.samples import KEY_A, update

from account_socket.hub.hub import Hub
from account_socket.hub.outbox import Batch, Outbox
from account_socket.model import Gap
from account_socket.server.readiness import Readiness
from account_socket.server.status_feed import MAX_WAITING_SLOTS, StatusFeed
from account_socket.sources.base import Datasource, Deliver, SourceStatus

GAP = Gap("rpc-0", 10, 20, "broke off")


class Source(Datasource):
    """Connected, until the test says otherwise."""

    def __init__(self, name: str = "rpc-0") -> None:
        self.name = name
        self.status = SourceStatus(connected=True, tip_slot=5, tip_at=0.0)

    async def run(self, deliver: Deliver) -> None:
        """Deliver nothing."""


class World:
    """A feed, and clients that read everything at once."""

    def __init__(self, *sources: Source, admitted: int = 0) -> None:
        self.now = 0.0
        self.admitted = admitted
        self.open: list[tuple[Gap, str]] = []
        self.sources = list(sources or [Source()])
        self.hub = Hub(schedule=lambda _: None, load=lambda _: None)
        self.readiness = Readiness(self.sources, stale_after=15, parts={}, clock=lambda: self.now)
        self.recovered = 0
        self.feed = StatusFeed(
            self.hub,
            self.sources,
            self.readiness,
            open_gaps=lambda: self.open,
            admitted=lambda: self.admitted,
            recovered=self.count,
        )
        self.asker = self.join()

    def count(self) -> None:
        self.recovered += 1

    def join(self) -> Outbox:
        outbox = Outbox(lambda: None, Batch())
        self.feed.greet(outbox)
        return outbox

    def told(self, outbox: Outbox | None = None) -> list[dict[str, Any]]:
        """Look, and return what a client (the first one) was sent since it last read."""
        self.feed.look()
        frames = (outbox or self.asker).take(writable=True)
        return [json.loads(frame[frame.index(b"{") :]) for frame in frames]

    def events(self, outbox: Outbox | None = None) -> list[str]:
        return [describe(each) for each in self.told(outbox)]


def describe(frame: dict[str, Any]) -> str:
    if "account" in frame:
        return f"id {frame['account']['id']}"
    if frame["type"] == "gap":
        return "healed" if frame["healed"] else f"gap {frame.get('error', '')}".rstrip()
    return " ".join(str(frame[key]) for key in ("event", "source", "slot") if key in frame)


def test_who_asks_is_told_what_is_now_then_what_changes() -> None:
    """What a client was told is what it is told first and every change since; where nothing changes, nothing comes."""
    world = World()
    source = world.sources[0]
    assert world.events() == ["now", "connected rpc-0"]
    late = world.join()
    (now,) = world.told(late)
    assert now == {
        "type": "status",
        "event": "now",
        "stale": False,
        "tip_slot": 5,
        "sources": {"rpc-0": {"connected": True, "tip_slot": 5}},
    }
    assert world.told() == []
    source.status.connected, source.status.last_error = False, "dropped"
    (lost,) = world.told()
    assert (lost["event"], lost["source"], lost["reason"]) == ("lost", "rpc-0", "dropped")
    assert lost["sources"]["rpc-0"]["connected"] is False
    source.status.connected = True
    source.status.reconnects += 1
    assert world.events() == ["connected rpc-0"]
    assert world.events(late) == ["lost rpc-0", "connected rpc-0"]
    world.now = 16.0
    assert world.events() == ["stale"]
    assert world.hub.stale
    source.status.tip_at = 15.5
    assert world.recovered == 0
    assert world.events() == ["recovered"]
    assert world.recovered == 1
    assert not world.hub.stale


def test_however_it_flaps_a_look_tells_a_few_frames() -> None:
    """A source that was lost and is back before the next look is told as lost and connected, once."""
    world = World(Source("rpc-0"), Source("rpc-1"))
    world.told()
    for number in range(1000):
        for source in world.sources:
            source.status.connected = number % 2 == 1
            source.status.reconnects += 1
        world.open = [(Gap("rpc-0", 1, 2 + number, "again"), "")]
        world.feed.note_gaps()
    assert world.events() == ["lost rpc-0", "connected rpc-0", "lost rpc-1", "connected rpc-1", "gap"]


def test_a_gap_that_healed_before_the_next_look_is_told_all_the_same() -> None:
    """It is told as open, then as healed."""
    world = World()
    world.told()
    world.open = [(GAP, "")]
    world.feed.note_gaps()
    world.open = []
    opened, healed = world.told()
    assert opened == {
        "type": "gap",
        "source": "rpc-0",
        "from_slot": 10,
        "to_slot": 20,
        "reason": "broke off",
        "healed": False,
    }
    assert healed == {**opened, "healed": True}
    assert world.told() == []


def test_healed_comes_behind_the_updates_that_healed() -> None:
    """Not before everything that was admitted until then is published; ids of the run before do not count."""
    world = World(admitted=70)
    world.hub.subscribe(world.asker, [KEY_A], lambda _: None)
    world.open = [(GAP, "")]
    assert world.events()[-1] == "gap"
    world.admitted, world.open = 72, []
    assert world.events() == []
    world.hub.publish(update(71))
    assert world.events() == ["id 71"]
    world.hub.publish(update(72))
    world.admitted = 75
    assert world.events() == ["id 72", "healed"]


def test_why_healing_failed_is_told_once_for_each_reason() -> None:
    """And to who asks later, with the gap."""
    world = World()
    world.told()
    for error, told in (("", ["gap"]), ("no", ["gap no"]), ("no", []), ("never", ["gap never"]), ("never", [])):
        world.open = [(GAP, error)]
        assert world.events() == told
    assert world.events(world.join()) == ["now", "gap never"]


def test_a_later_gap_of_a_source_takes_the_earlier_ones_place() -> None:
    """There is one a source: the earlier is part of it, and not told as healed."""
    world = World(admitted=1)
    world.told()
    world.open = [(GAP, "no")]
    world.told()
    world.admitted, world.open = 2, []
    assert world.events() == []
    world.open = [(Gap("rpc-0", 10, 30, "again"), "")]
    (wider,) = world.told()
    assert (wider["to_slot"], wider["healed"]) == (30, False)
    world.hub.publish(update(2))
    assert world.events() == []
    world.open = []
    assert world.events() == ["healed"]


def test_a_slot_is_told_once_behind_its_updates() -> None:
    """However often the node says so; nothing is kept while nobody asked."""
    world = World()
    world.told()
    world.hub.subscribe(world.asker, [KEY_A], lambda _: None)
    world.admitted = 1
    world.feed.note_slot(7, "confirmed")
    assert world.events() == []
    world.hub.publish(update(1, slot=7))
    assert world.events() == ["id 1", "confirmed 7"]
    for level in ("confirmed", "finalized", "finalized"):
        world.feed.note_slot(7, level)
    assert world.told() == [{"type": "status", "event": "finalized", "slot": 7}]
    world.hub.detach(world.asker)
    world.feed.note_slot(8, "confirmed")
    assert world.events(world.join()) == ["now"]


def test_of_many_slots_the_newest_are_told() -> None:
    """A node that says a thousand slots at once costs a bounded number of frames."""
    world = World()
    world.told()
    for slot in range(1000):
        world.feed.note_slot(slot, "confirmed")
    assert world.events() == [f"confirmed {slot}" for slot in range(1000 - MAX_WAITING_SLOTS, 1000)]


def test_what_a_node_wrote_is_cut_and_made_valid() -> None:
    """A reason is told as text of bounded length, whatever it holds."""
    world = World()
    world.told()
    world.sources[0].status.connected = False
    world.sources[0].status.last_error = "\ud800" + "<html>" * 1000
    (lost,) = world.told()
    assert lost["reason"].startswith("?<html>")
    assert len(lost["reason"]) == 300


def test_a_server_that_drains_tells_nothing() -> None:
    """That it hangs up on its upstreams is no news of them."""
    world = World()
    world.told()
    world.readiness.draining = True
    world.sources[0].status.connected = False
    assert world.told() == []


STEPS = ("publish", "open", "heal", "flap", "slot", "look", "stall", "read", "late")


@given(st.lists(st.sampled_from(STEPS), max_size=80))
def test_whatever_happens_the_last_frames_say_what_is(steps: list[str]) -> None:
    """A client that stalls and reads at any time keeps a bounded number of frames, and ends on the truth."""
    world = World()
    clients = [world.asker]
    seen: dict[int, list[dict[str, Any]]] = {}
    slot = 100

    def read(outbox: Outbox) -> None:
        got = [json.loads(frame[frame.index(b"{") :]) for frame in outbox.take(writable=True)]
        seen.setdefault(clients.index(outbox), []).extend(got)

    def flap() -> None:
        status = world.sources[0].status
        status.connected = not status.connected
        status.reconnects += status.connected

    actions: dict[str, Callable[[], object]] = {
        "publish": lambda: world.hub.publish(update(world.admitted)),
        "open": lambda: (world.open.clear(), world.open.append((Gap("rpc-0", 1, slot, "x"), ""))),
        "heal": lambda: (world.feed.note_gaps(), world.open.clear()),
        "flap": flap,
        "slot": lambda: world.feed.note_slot(slot, "confirmed"),
        "look": world.feed.look,
        "stall": lambda: [outbox.take(writable=False) for outbox in clients],
        "read": lambda: read(clients[0]),
        "late": lambda: clients.append(world.join()) if len(clients) < 3 else None,
    }
    world.hub.subscribe(world.asker, [KEY_A], lambda _: None)
    for step in steps:
        slot += 1
        world.admitted += step == "publish"
        actions[step]()
    world.feed.look()
    for outbox in clients:
        outbox.take(writable=False)
        assert outbox.backlog <= 5  # the account; upstream, the source, its gap, the newest slot
        read(outbox)
    connected = world.sources[0].status.connected
    for frames in seen.values():
        states = [frame for frame in frames if "sources" in frame]
        assert states[-1]["sources"]["rpc-0"]["connected"] is connected
        gaps = [frame for frame in frames if frame.get("type") == "gap"]
        assert all(gap["healed"] for gap in gaps[-1:]) is not bool(world.open)
        assert [gap.to_slot for gap, _ in world.open] in ([], [gap["to_slot"] for gap in gaps[-1:]])
