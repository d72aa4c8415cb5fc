"""Several subscriptions of one client in one shape, by filter and by name, whatever happens in whatever order."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from tests.samples import KEY_A, KEY_B, update
from tests.unit.hub.test_hub import Loop
from tests.unit.hub.test_shapes import Time, apply

from account_socket.hub.filters import Filter, keys_of
from account_socket.hub.frames import payload_of, state_message
from account_socket.hub.hub import Hub
from account_socket.hub.numbered import Numbered
from account_socket.hub.outbox import Batch, Outbox
from account_socket.hub.shapers import Rates
from account_socket.hub.shapes import Shape

KEYS = (KEY_A, KEY_B)
CHOICES = ((0,), (1,), (2,), (0, 1), (1, 2))
SEEDS = 100
STEPS_EACH = 120
MOST = 3
STEPS = {"update": 20, "close": 1, "select": 3, "name": 1, "drop": 4, "pass": 2, "turn": 4, "stall": 1, "read": 1}
"""What happens, and how often."""


def some_steps(seed: int) -> list[tuple[Any, ...]]:
    """Return what happens to a client; to every other one that keeps up."""
    random = Random(seed)
    steps: list[tuple[Any, ...]] = []
    for kind in random.choices(list(STEPS), list(STEPS.values()), k=STEPS_EACH):
        match kind:
            case "update":
                steps.append((kind, random.choice(KEYS), random.randrange(3)))
            case "close" | "name":
                steps.append((kind, random.choice(KEYS)))
            case "select":
                steps.append((kind, random.choice(CHOICES)))
            case "drop":
                steps.append((kind, random.randrange(MOST + 1)))
            case "pass":
                steps.append((kind, random.randint(1, 50)))
            case "turn" | "read":
                steps.append((kind,))
            case "stall" if seed % 2:
                steps.append((kind,))
    return steps


class Model:
    """
    A hub with one client, what it was sent, and what its subscriptions are.

    Attributes:
        wanted: what each subscription selects, ever: an account, or values of `a`; and what was published before it.
        active: those that stand.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.loop, self.time = Loop(), Time()
        self.time.turn = self.loop.turn
        self.hub = Hub(schedule=self.loop.schedule, load=self._load)
        self.outbox = Outbox(self._flush, Batch())
        self.numbered = Numbered(self.hub, Rates(self.time.later, lambda: self.time.now), self.outbox)
        self.writable = True
        self.received: list[dict[str, Any]] = []
        self.wanted: dict[int, tuple[str | tuple[int, ...], int]] = {}
        self.active: list[int] = []
        self.newest: dict[str, dict[str, Any]] = {}
        self.last_id = 0

    def _load(self, pubkeys: Any) -> None:
        self.loop.schedule(lambda: [self.hub.settle(pubkey, None, "rpc") for pubkey in pubkeys])

    def _flush(self) -> None:
        self.received += [json.loads(payload_of(frame)) for frame in self.outbox.take(writable=self.writable)]
        if self.outbox.waiting and self.writable:
            self.hub.touch(self.outbox)

    def publish(self, pubkey: str, value: int | None) -> None:
        self.last_id += 1
        old = self.newest.get(pubkey)
        data = json.dumps({"a": value, "n": self.last_id}).encode()
        made = update(
            self.last_id, pubkey, prev_id=old and old["id"], data_json=b"null" if value is None else data,
            closed=value is None,
        )  # fmt: skip
        self.newest[pubkey] = json.loads(made.account_json)
        self.hub.publish(made)

    def begin(self, wanted: str | tuple[int, ...]) -> None:
        sub = len(self.wanted) + 1
        self.wanted[sub] = wanted, self.last_id
        self.active.append(sub)
        if isinstance(wanted, str):
            self.numbered.follow(sub, [wanted], self.shape, every=False, done=lambda _: None)
        else:
            chosen = Filter(None, None, ((("a",), keys_of(wanted)),))
            self.numbered.select(sub, chosen, self.shape, every=False, from_id=self.last_id)

    def drop(self, at: int) -> None:
        if at < len(self.active):
            sub = self.active.pop(at)
            self.numbered.drop(sub)
            self.hub.answer(self.outbox, b'{"dropped":%d}' % sub)

    def take(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("update", pubkey, value):
                self.publish(pubkey, value)
            case ("close", pubkey):
                self.publish(pubkey, None)
            case ("select" | "name", wanted) if len(self.active) < MOST:
                self.begin(wanted)
            case ("drop", at):
                self.drop(at)
            case ("pass", milliseconds):
                self.time.pass_to(self.time.now + milliseconds / 1000)
            case ("stall" | "read",):
                self.writable = step == ("read",)
                self.hub.touch(self.outbox)
        if step[0] in {"turn", "pass"}:
            self.loop.turn()

    def settle(self) -> None:
        """Let the client read all, and every account have one more update."""
        self.writable = True
        self.hub.touch(self.outbox)
        for pubkey, state in list(self.newest.items()):
            if not state.get("closed"):
                self.publish(pubkey, state["data_json"]["a"])
        for _ in range(30):
            self.loop.turn()
            self.time.pass_to(self.time.now + 0.01)

    def brings(self, sub: int, account: dict[str, Any]) -> bool:
        wanted, from_id = self.wanted[sub]
        if isinstance(wanted, str):
            return account["pubkey"] == wanted
        return account["id"] > from_id and not account.get("closed") and account["data_json"]["a"] in wanted


def check(model: Model) -> None:
    """Fail at the first message that may not come where it came, and where an account's last one is not the newest."""
    last: dict[str, dict[str, Any]] = {}
    states: dict[str, dict[str, Any]] = {}
    standing = set(model.wanted)
    for message in model.received:
        if "dropped" in message:
            standing.discard(message["dropped"])
            for pubkey in [key for key in states if not any(model.brings(sub, states[key]) for sub in standing)]:
                del states[pubkey]
            continue
        account = apply(states, message)
        pubkey, before = account["pubkey"], last.get(account["pubkey"])
        if message.get("event") == "left" or account.get("closed"):
            was_there = before is not None and "event" not in before and not before["account"].get("closed")
            named = "event" not in message and any(model.wanted[sub][0] == pubkey for sub in standing)
            assert was_there or named or model.outbox.conflated, "gone, and was not there"
        else:
            assert any(model.brings(sub, account) for sub in standing), "of no subscription that stands"
        if before is not None:
            assert account["id"] >= before["account"]["id"], "older"
            assert account["id"] > before["account"]["id"] or message["source"] != "realtime", "twice"
        last[pubkey] = message
    for pubkey, state in model.newest.items():
        if any(model.brings(sub, state) for sub in model.active) and not state.get("closed"):
            assert last[pubkey]["account"]["id"] == state["id"]
            assert "event" not in last[pubkey]


@pytest.mark.parametrize("shape", [Shape(), Shape(diff=True), Shape(fields=("a",)), Shape(max_rate_ms=50)], ids=str)
def test_each_client_is_told_what_holds(shape: Shape) -> None:
    """None older or twice, differences that apply, `left` once, nothing beyond an end, and the newest last."""
    for seed in range(SEEDS):
        model = Model(shape)
        for step in some_steps(seed):
            model.take(step)
        model.settle()
        try:
            check(model)
        except (AssertionError, KeyError) as error:
            raise AssertionError(f"seed {seed}") from error


def test_an_answer_that_is_older_than_what_is_held_does_not_end_it() -> None:
    """A state from a database that is behind goes at once, and at the end of the window the newest one."""
    model = Model(Shape(max_rate_ms=50))
    model.begin((0,))
    for _ in range(2):
        model.publish(KEY_A, 0)
    (taken,) = model.numbered._taken.values()
    taken.shaper.append(state_message(KEY_A, "database", update(1).account_json, answers=True))
    model.take(("pass", 70))
    assert [(each["source"], each["account"]["id"]) for each in model.received] == [
        ("realtime", 1),
        ("database", 1),
        ("realtime", 2),
    ]
