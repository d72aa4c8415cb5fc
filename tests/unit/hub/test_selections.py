from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B, update
from tests.unit.hub.test_hub import Client, Loop
from tests.unit.hub.test_shapes import Time

from account_socket.hub.filters import Filter, keys_of
from account_socket.hub.frames import id_of, payload_of
from account_socket.hub.hub import Hub
from account_socket.hub.numbered import Numbered
from account_socket.hub.selections import SWEEP_ABOVE, Paging, Selections
from account_socket.hub.shapers import Rates, Shaper
from account_socket.hub.shapes import FULL

FILTERS = (
    Filter("Pool"),
    Filter(None, None, ((("a",), keys_of([0])),)),
    Filter(None, None, ((("a",), keys_of([1])),)),
    Filter("Pool", None, ((("a",), keys_of([0, 1])), (("b",), keys_of(["x"])))),
)
DATA = st.fixed_dictionaries({"a": st.sampled_from([0, 1, 2]), "b": st.sampled_from(["x", "y"])})
KEYS = st.sampled_from([KEY_A, KEY_B])
STEPS = st.one_of(
    st.tuples(st.just("update"), KEYS, DATA, st.sampled_from(["Pool", "Config"])),
    st.tuples(st.just("update"), KEYS, DATA, st.sampled_from(["Pool", "Config"])),
    st.tuples(st.just("close"), KEYS),
    st.tuples(st.just("select"), st.integers(0, 1), st.sampled_from(FILTERS)),
    st.tuples(st.just("drop"), st.integers(0, 1), st.integers(0, 3)),
    st.tuples(st.just("plain"), st.integers(0, 1), KEYS),
)


class Selector(Client):
    """A client with numbered subscriptions, and what it should have been sent."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.numbered = Numbered(hub, Rates(Time().later, lambda: 0.0), self.outbox)
        self.filters: dict[int, Filter] = {}
        self.from_id: dict[int, int] = {}
        self.plain: set[str] = set()
        self.last = 0
        self.expected: list[tuple[int, str]] = []

    @property
    def told(self) -> list[tuple[int, str]]:
        messages = [json.loads(payload_of(frame)) for write in self.writes for frame in write]
        told = [
            (each["account"]["id"], each.get("event", "")) for each in messages if each.get("source") == "realtime"
        ]
        return [(id_, "closed" if id_ in self.closes and not event else event) for id_, event in told]

    closes: set[int] = set()  # noqa: RUF012  (set by the test)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_each_client_is_told_what_a_naive_look_says(steps: list[Any]) -> None:  # noqa: C901  (a case for each step)
    """Fits are told once, who had an account learns that it left or closed, and nobody is told anything else."""
    loop = Loop()
    hub = Hub(schedule=loop.schedule, load=lambda _: None)
    clients = [Selector(hub), Selector(hub)]
    members: dict[str, set[Filter]] = defaultdict(set)
    closes: set[int] = set()
    newest: dict[str, int] = {}
    for id_, step in enumerate(steps, 1):
        match step:
            case ("select", number, chosen):
                client = clients[number]
                client.last += 1
                client.filters[client.last] = chosen
                client.from_id[client.last] = hub.published_id
                client.numbered.select(client.last, chosen, FULL, every=False, from_id=hub.published_id)
            case ("drop", number, at) if at < len(clients[number].filters):
                client = clients[number]
                sub = list(client.filters)[at]
                del client.filters[sub]
                client.numbered.drop(sub)
            case ("plain", number, pubkey):
                clients[number].plain.add(pubkey)
                clients[number].subscribe(pubkey)
                hub.settle(pubkey, None, "rpc")
            case ("update" | "close", pubkey, *rest):
                data, account_type = rest or ({}, "Pool")
                closed = not rest
                made = update(
                    id_,
                    pubkey,
                    prev_id=newest.get(pubkey),
                    data_json=json.dumps(data).encode(),
                    account_type=account_type,
                    closed=closed,
                )
                if closed:
                    closes.add(id_)
                in_use = {each for client in clients for each in client.filters.values()}
                before = members[pubkey] & in_use
                fits = {each for each in in_use if not closed and each.fits(account_type, made.owner, data)}
                members[pubkey] = set(fits)
                for client in clients:
                    own = set(client.filters.values())
                    if own & fits or pubkey in client.plain:
                        client.expected.append((id_, "closed" if closed else ""))
                    elif any(
                        chosen in before and newest[pubkey] > client.from_id[sub]
                        for sub, chosen in client.filters.items()
                    ):
                        client.expected.append((id_, "closed" if closed else "left"))
                hub.publish(made)
                newest[pubkey] = id_
        in_use = {each for client in clients for each in client.filters.values()}
        for fitted in members.values():
            fitted &= in_use  # noqa: PLW2901  (in place)
        loop.turn()
    for client in clients:
        client.closes = closes
        assert client.told == client.expected
        client.numbered.end()
    assert not hub.selections.active


def test_what_is_known_of_selections_that_ended_is_let_go() -> None:
    """Though one selection lives on, accounts that were in others only are forgotten in time."""
    selections = Selections()
    loop = Loop()
    hub = Hub(schedule=loop.schedule, load=lambda _: None)
    shaper = Shaper(hub, Client(hub).outbox, FULL)
    selections.join(Filter("Config"), shaper, pages=False)
    joined = [
        selections.join(Filter("Pool", None, ((("a",), keys_of([number])),)), shaper, pages=False)
        for number in range(SWEEP_ABOVE + 100)
    ]
    for number in range(500):
        selections.concern(update(number + 1, f"key {number}", data_json=b'{"a":%d}' % number))
    assert len(selections._in) == 500
    for paging in joined:
        selections.leave(paging)
    for number in range(100):
        selections.concern(update(number + 1_000, "another", account_type="Position"))
    assert selections._in == {}


def resuming() -> tuple[Loop, Hub, Selector, Paging]:
    """Return a client that is told what it missed of a filter."""
    loop = Loop()
    hub = Hub(schedule=loop.schedule, load=lambda _: None)
    client = Selector(hub)
    return loop, hub, client, client.numbered.select(1, Filter("Pool"), FULL, every=False, resumes=True)


def held(paging: Paging) -> list[tuple[int | None, bool]]:
    """Return what is held: ids, and whether the account left."""
    return [(id_of(message.frame), target is paging.target.client) for target, message in paging.held]


def test_who_is_told_what_it_missed_is_sent_nothing_until_it_follows() -> None:
    """Updates before `hold` are not kept, those behind it are, in order; after `follow` they are sent as ever."""
    loop, hub, client, paging = resuming()
    hub.publish(update(1, KEY_A))
    assert held(paging) == []
    hub.selections.hold(paging, 10_000)
    hub.publish(update(2, KEY_B))
    hub.publish(update(3, KEY_A, account_type="Config"))
    hub.publish(update(4, KEY_A, account_type="Config"))
    hub.publish(update(5, KEY_B, closed=True))
    assert held(paging) == [(2, False), (3, True), (5, False)]
    hub.selections.hold(paging, 10_000)
    assert held(paging) == []
    hub.publish(update(6, KEY_A))
    hub.selections.follow(paging)
    assert held(paging) == []
    hub.publish(update(7, KEY_A))
    hub.publish(update(8, KEY_A, account_type="Config"))
    loop.turn()
    assert client.told == [(7, ""), (8, "left")]
    client.numbered.end()
    assert not hub.selections.active
    assert len(hub.selections) == 0


def test_no_more_is_held_than_there_is_room_for() -> None:
    """Above its bound all that was held is let go, and stays so until it is held anew."""
    _, hub, _, paging = resuming()
    hub.selections.hold(paging, 500)
    hub.publish(update(1, KEY_A))
    assert held(paging) == [(1, False)]
    for id_ in (2, 3, 4):
        hub.publish(update(id_, KEY_A, lamports=10**18))
    assert paging.room < 0
    assert held(paging) == []
    hub.selections.hold(paging, 500)
    hub.publish(update(5, KEY_A))
    assert held(paging) == [(5, False)]


def test_what_is_sent_anyway_is_not_held() -> None:
    """An update that another subscription of the same form brings, by filter or by name, comes by that one alone."""
    loop, hub, client, paging = resuming()
    client.numbered.select(2, Filter("Pool", None, ((("a",), keys_of([1])),)), FULL, every=False)
    client.numbered.follow(3, [KEY_B], FULL, every=False, done=lambda _: None)
    hub.settle(KEY_B, None, "rpc")
    hub.selections.hold(paging, 10_000)
    hub.publish(update(1, KEY_A, data_json=b'{"a":1}'))
    hub.publish(update(2, KEY_A, data_json=b'{"a":2}'))
    hub.publish(update(3, KEY_B))
    hub.publish(update(4, KEY_B, account_type="Config"))
    assert held(paging) == [(2, False)]
    loop.turn()
    assert client.told == [(1, ""), (3, ""), (4, "")]


def test_other_clients_are_told_as_ever_while_one_resumes() -> None:
    """A selection that one client is told what it missed of tells its other clients at once."""
    loop, hub, client, paging = resuming()
    other = Selector(hub)
    other.numbered.select(1, Filter("Pool"), FULL, every=False)
    hub.selections.hold(paging, 10_000)
    hub.publish(update(1, KEY_A))
    other.numbered.end()
    hub.publish(update(2, KEY_A))
    loop.turn()
    assert (other.told, client.told, held(paging)) == ([(1, "")], [], [(1, False), (2, False)])
    client.numbered.end()
    assert len(hub.selections) == 0
