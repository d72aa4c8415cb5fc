from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B, update
from tests.unit.hub.test_hub import Loop

from account_socket.hub.filters import Filter
from account_socket.hub.frames import payload_of, state_message
from account_socket.hub.hub import Hub
from account_socket.hub.numbered import Numbered
from account_socket.hub.outbox import Batch, Outbox
from account_socket.hub.shapers import Rates
from account_socket.hub.shapes import Shape, Shapes


class Time:
    """A clock that is set by hand, and what is to be called at which time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.turn: Callable[[], None] = lambda: None

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self.calls.append((self.now + seconds, act))

    def pass_to(self, now: float) -> None:
        while self.calls and min(at for at, _ in self.calls) <= now:
            at, act = min(self.calls, key=lambda call: call[0])
            self.calls.remove((at, act))
            self.now = max(self.now, at)
            act()
            self.turn()
        self.now = now


class Scene:
    """A hub with one client of one shape, who is written to when it is told to read."""

    def __init__(self, shape: Shape) -> None:
        self.loop, self.time = Loop(), Time()
        self.time.turn = self.loop.turn
        self.hub = Hub(schedule=self.loop.schedule, load=lambda _: None)
        self.outbox = Outbox(self.flush, Batch())
        self.numbered = Numbered(self.hub, Rates(self.time.later, lambda: self.time.now), self.outbox)
        self.writable = True
        self.received: list[tuple[float, dict[str, Any]]] = []
        self.numbered.select(1, Filter(), shape, every=False, pages=False)

    def flush(self) -> None:
        for frame in self.outbox.take(writable=self.writable):
            self.received.append((self.time.now, json.loads(payload_of(frame))))
        if self.outbox.waiting and self.writable:
            self.hub.touch(self.outbox)

    def read_all(self) -> None:
        self.writable = True
        self.hub.touch(self.outbox)
        while self.loop.callbacks:
            self.loop.turn()


def put(data: Any, path: str, value: Any) -> None:
    *steps, last = path.split(".")
    for step in steps:
        data = data[int(step)] if isinstance(data, list) else data[step]
    data[int(last) if isinstance(data, list) else last] = value


def apply(states: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Do what a client does with a message; return the account's state."""
    account = message["account"]
    if message.get("shape") == "diff":
        state = copy.deepcopy(states[account["pubkey"]])
        assert account["prev_id"] == state["id"]
        for path, (old, new) in message["changed"].items():
            if path in {"lamports", "owner", "account_type"}:
                assert state[path] == old
            else:
                put(state["data_json"], path, new)
        account = {**state, **account}
    states[account["pubkey"]] = account
    return account


LEAF = st.sampled_from([0, 1, "0", True, None, [], {}])
DATA = st.fixed_dictionaries({"a": LEAF, "b": st.lists(LEAF, min_size=2, max_size=2)}, optional={"c": LEAF})
STEP = st.one_of(
    st.tuples(st.sampled_from([KEY_A, KEY_B]), DATA, st.integers(1, 2), st.sampled_from(["Pool", "Pool", "Config"])),
    st.tuples(st.sampled_from([KEY_A, KEY_B]), st.just("close"), st.just(0), st.just("Pool")),
    st.sampled_from(["stall", "read", "turn"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_what_a_client_makes_of_differences_is_always_a_state(steps: list[Any]) -> None:
    """However its reading stalls, each difference applies, gives a state that was, and in the end the newest ones."""
    scene = Scene(Shape(diff=True))
    published: dict[int, Any] = {}
    newest: dict[str, int] = {}
    for id_, step in enumerate(steps, 1):
        if step == "turn":
            scene.loop.turn()
        elif isinstance(step, str):
            scene.writable = step == "read"
            scene.hub.touch(scene.outbox)
        else:
            pubkey, data, lamports, account_type = step
            made = update(
                id_,
                pubkey,
                prev_id=newest.get(pubkey),
                data_json=json.dumps(data).encode(),
                lamports=lamports,
                account_type=account_type,
                closed=data == "close",
            )
            was_there = pubkey in newest
            scene.hub.publish(made)
            if not made.closed:
                newest[pubkey] = id_
            elif was_there:
                del newest[pubkey]
            published[id_] = json.loads(made.account_json)
    scene.read_all()
    states: dict[str, Any] = {}
    for _, message in scene.received:
        state = apply(states, message)
        truth = published[state["id"]]
        assert {key: value for key, value in state.items() if key != "prev_id"} == {
            key: value for key, value in truth.items() if key != "prev_id"
        }
    assert {key: state["id"] for key, state in states.items() if not state.get("closed")} == newest


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.sampled_from([KEY_A, KEY_B])), max_size=20))
def test_what_is_told_at_most_so_often_is_the_newest(steps: list[tuple[int, str]]) -> None:
    """One state of an account in each 100 ms, and the newest one at the latest 110 ms after it was there."""
    scene = Scene(Shape(max_rate_ms=100))
    newest: dict[str, tuple[float, int]] = {}
    for id_, (milliseconds, pubkey) in enumerate(steps, 1):
        scene.time.pass_to(scene.time.now + milliseconds / 1000)
        scene.loop.turn()
        scene.hub.publish(update(id_, pubkey))
        scene.loop.turn()
        newest[pubkey] = scene.time.now, id_
    for _ in range(40):
        scene.time.pass_to(scene.time.now + 0.005)
        scene.loop.turn()
    told: dict[str, list[tuple[float, int]]] = {}
    for at, message in scene.received:
        told.setdefault(message["pubkey"], []).append((at, message["account"]["id"]))
    assert told.keys() == newest.keys()
    for pubkey, seen in told.items():
        assert all(later[0] - earlier[0] > 0.0999 for earlier, later in pairwise(seen))
        assert seen[-1][1] == newest[pubkey][1]
        assert seen[-1][0] <= newest[pubkey][0] + 0.1101
    scene.numbered.end()
    scene.time.pass_to(scene.time.now + 1)
    assert scene.time.calls == []


def test_some_fields_keep_their_places() -> None:
    """Nesting and indexes stay; what is not there is left out; the same message is made once."""
    shapes = Shapes()
    form = shapes.form(Shape(fields=("a.b", "list.1.x", "missing", "whole")))
    data = {"a": {"b": 1, "c": 2}, "list": [{"x": 1}, {"x": 2}, {"x": 3}], "whole": {"y": [1]}, "other": 1}
    message = state_message(KEY_A, "realtime", update(1, data_json=json.dumps(data).encode()).account_json)
    made = shapes.fields(message, form)
    told = json.loads(payload_of(made.frame))
    assert told["shape"] == "fields"
    assert told["account"]["data_json"] == {"a": {"b": 1}, "list": [None, {"x": 2}], "whole": {"y": [1]}}
    assert told["account"]["id"] == 1
    assert shapes.fields(message, form) is made
    assert shapes.form(Shape(fields=("a.b", "list.1.x", "missing", "whole"))) is form


def test_forms_that_nobody_takes_are_forgotten() -> None:
    """A shape costs nothing once its last client has gone."""
    shapes = Shapes()
    for index in range(100):
        shapes.form(Shape(fields=(f"field_{index}",)))
    assert len(shapes._forms) <= 1


def test_a_client_that_asks_for_every_update_is_lost_where_one_would_be_conflated() -> None:
    """The outbox says so at the first state that another one would replace."""
    scene = Scene(Shape())
    scene.numbered.select(2, Filter("Pool"), Shape(), every=True, pages=False)
    scene.writable = False
    scene.hub.publish(update(1))
    scene.loop.turn()
    assert not scene.outbox.lost
    scene.hub.publish(update(2))
    scene.loop.turn()
    assert scene.outbox.lost
    scene.numbered.drop(2)
    assert scene.outbox.every == 0
