from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B, update

from account_socket.hub.hub import Answered, Hub
from account_socket.hub.outbox import Batch, Outbox
from account_socket.model import Origin, StoredState


class Loop:
    """The end of a loop turn, made by hand."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def schedule(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def turn(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class Client:
    """What a connection does with its outbox: one write per flush."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.outbox = Outbox(self.flush, Batch())
        self.writable = True
        self.writes: list[list[bytes]] = []
        self.acks: list[tuple[list[str], list[str]]] = []

    def flush(self) -> None:
        frames = self.outbox.take(writable=self.writable)
        if frames:
            self.writes.append(frames)
        if self.outbox.waiting and self.writable:
            self.hub.touch(self.outbox)

    def subscribe(self, *pubkeys: str) -> None:
        def done(answered: Answered) -> None:
            self.acks.append((answered.found, answered.foreign))
            self.hub.answer(self.outbox, b'{"type":"ack"}')

        self.hub.subscribe(self.outbox, pubkeys, done)

    @property
    def received(self) -> list[tuple[str, int] | str]:
        seen: list[tuple[str, int] | str] = []
        for frame in (frame for write in self.writes for frame in write):
            message = json.loads(frame[frame.index(b"{") :])
            seen.append((message["source"], message["account"]["id"]) if "account" in message else message["type"])
        return seen


def make() -> tuple[Hub, Loop, list[str]]:
    loop = Loop()
    loaded: list[str] = []
    hub = Hub(schedule=loop.schedule, load=loaded.extend)
    return hub, loop, loaded


def test_the_state_in_memory_comes_before_the_ack_and_live_updates_follow() -> None:
    """A subscriber gets the newest state, then the ack, then later updates."""
    hub, loop, loaded = make()
    hub.publish(update(1))
    client = Client(hub)
    client.subscribe(KEY_A)
    hub.publish(update(2))
    loop.turn()
    assert client.received == [("cache", 1), "ack", ("realtime", 2)]
    assert client.acks == [([KEY_A], [])]
    assert loaded == []


def test_a_live_update_that_comes_first_is_the_snapshot() -> None:
    """While the state is being read, a live update answers, and the slower read is not sent."""
    hub, loop, loaded = make()
    client = Client(hub)
    client.subscribe(KEY_A)
    assert loaded == [KEY_A]
    hub.publish(update(7))
    hub.settle(KEY_A, StoredState(6, b'{"id":6}'), "database")
    loop.turn()
    assert client.received == [("realtime", 7), "ack"]


def test_a_bulk_request_is_acked_once_after_its_last_state() -> None:
    """The ack of several accounts comes once, after every state, and lists found and foreign."""
    hub, loop, _ = make()
    client = Client(hub)
    client.subscribe(KEY_A, KEY_B, "C")
    hub.settle(KEY_B, None, "rpc", foreign=True)
    hub.settle("C", None, "rpc")
    assert client.acks == []
    hub.settle(KEY_A, StoredState(3, b'{"id":3}'), "database")
    loop.turn()
    assert client.received == [("database", 3), "ack"]
    assert client.acks == [([KEY_A], [KEY_B])]


def test_an_account_nobody_knows_is_subscribed_all_the_same() -> None:
    """A subscription to an unknown account stands and gets its first update."""
    hub, loop, _ = make()
    client = Client(hub)
    client.subscribe(KEY_A)
    hub.settle(KEY_A, None, "rpc")
    hub.publish(update(1, origin=Origin.LIVE))
    loop.turn()
    assert client.received == ["ack", ("realtime", 1)]


def test_two_clients_that_wait_cause_one_read_and_share_one_frame() -> None:
    """An account that several clients wait for is read once, and they are sent the same bytes object."""
    hub, loop, loaded = make()
    clients = [Client(hub), Client(hub)]
    for client in clients:
        client.subscribe(KEY_A)
    assert loaded == [KEY_A]
    hub.publish(update(1))
    loop.turn()
    assert clients[0].writes[0][0] is clients[1].writes[0][0]


def test_subscribing_again_sends_the_ack_only() -> None:
    """A second subscribe to the same account is acked and sends nothing twice."""
    hub, loop, _ = make()
    hub.publish(update(1))
    client = Client(hub)
    client.subscribe(KEY_A)
    client.subscribe(KEY_A)
    hub.publish(update(2))
    loop.turn()
    assert client.received == [("cache", 1), "ack", "ack", ("realtime", 2)]
    assert hub.subscriptions == 1


def test_subscribing_again_while_the_state_is_read_waits_for_it() -> None:
    """A second request for an account whose state is still being read is acked after it, and sends it once."""
    hub, loop, _ = make()
    client = Client(hub)
    client.subscribe(KEY_A)
    client.subscribe(KEY_A)
    assert client.acks == []
    hub.settle(KEY_A, StoredState(3, b'{"id":3}'), "database")
    loop.turn()
    assert client.received == [("database", 3), "ack", "ack"]
    assert client.acks == [([KEY_A], []), ([KEY_A], [])]


def test_a_client_that_is_behind_gets_the_state_of_a_new_subscription_behind_the_old_ones_end() -> None:
    """While behind: unsubscribe, subscribe again: the state leaves after the first's ack and before the second's."""
    hub, loop, _ = make()
    client = Client(hub)
    client.writable = False
    hub.publish(update(1))
    client.subscribe(KEY_A)
    loop.turn()
    hub.unsubscribe(client.outbox, [KEY_A])
    hub.answer(client.outbox, b'{"type":"gone"}')
    hub.publish(update(2))
    client.subscribe(KEY_A)
    loop.turn()
    client.writable = True
    hub.touch(client.outbox)
    loop.turn()
    assert client.received[-3:] == ["gone", ("cache", 2), "ack"]


def test_nothing_comes_after_unsubscribing_even_while_a_state_is_being_read() -> None:
    """Unsubscribing acks what waits and lets nothing of the account through."""
    hub, loop, _ = make()
    client = Client(hub)
    client.subscribe(KEY_A, KEY_B)
    hub.unsubscribe(client.outbox, [KEY_A])
    hub.publish(update(1))
    hub.settle(KEY_A, StoredState(1, b'{"id":1}'), "database")
    assert client.acks == []
    hub.unsubscribe(client.outbox, [KEY_B, KEY_B, "never"])
    loop.turn()
    assert client.received == ["ack"]
    assert client.acks == [([], [])]
    assert hub.subscriptions == 0
    assert hub.accounts_subscribed == 0


def test_a_client_that_left_is_forgotten() -> None:
    """After detach a client is touched by nothing, and an empty account leaves no entry."""
    hub, loop, _ = make()
    client, other = Client(hub), Client(hub)
    client.subscribe(KEY_A, KEY_B)
    other.subscribe(KEY_A)
    hub.settle(KEY_B, None, "rpc")
    hub.detach(client.outbox)
    hub.publish(update(1))
    hub.publish(update(2, KEY_B))
    loop.turn()
    assert client.received == []
    assert other.received == [("realtime", 1), "ack"]
    assert list(hub.subscribed_pubkeys()) == [KEY_A]


def test_sixteen_updates_of_one_turn_are_one_write_per_client() -> None:
    """All updates of a loop turn leave as one write."""
    hub, loop, _ = make()
    clients = [Client(hub) for _ in range(5)]
    hub.publish(update(1))
    for client in clients:
        client.subscribe(KEY_A)
    loop.turn()
    for number in range(2, 18):
        hub.publish(update(number))
    loop.turn()
    assert [[len(write) for write in client.writes] for client in clients] == [[2, 16]] * 5


def test_a_turn_is_cut_when_it_grows_too_large() -> None:
    """Published bytes beyond a turn's bound are written at once, not held to the end of the turn."""
    hub, _loop, _ = make()
    client = Client(hub)
    hub.publish(update(1))
    client.subscribe(KEY_A)
    for number in range(2, 30):
        hub.publish(update(number, data_json=b'{"x":"' + b"y" * 20_000 + b'"}'))
    assert len(client.writes) >= 1
    assert sum(len(frame) for frame in client.writes[0]) <= 300_000


def test_memory_of_newest_states_is_bounded_and_forgets_the_least_recent() -> None:
    """Beyond its bound the hub forgets the account that was quiet longest, and reads it when asked again."""
    loop = Loop()
    loaded: list[str] = []
    hub = Hub(schedule=loop.schedule, load=loaded.extend, memory_bytes=3_000)
    for number in range(1, 30):
        hub.publish(update(number, f"key-{number}", data_json=b'{"x":"' + b"y" * 100 + b'"}'))
    assert hub.newest("key-1") is None
    assert hub.newest("key-29") is not None
    Client(hub).subscribe("key-1")
    assert loaded == ["key-1"]


Step = tuple[str, int, str]
KEYS = ("A", "B", "C")


class World:
    """Three clients, a store, and what each must have seen in the end."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.unread: list[str] = []
        self.hub = Hub(schedule=self.loop.schedule, load=self.unread.extend, memory_bytes=400)
        self.clients = [Client(self.hub) for _ in range(3)]
        self.subscribed: list[set[str]] = [set(), set(), set()]
        self.stored: dict[str, StoredState] = {}
        self.last_id = 0

    def publish(self, _who: int, key: str) -> None:
        self.last_id += 1
        news = update(self.last_id, key)
        self.stored[key] = StoredState(self.last_id, news.account_json)
        self.hub.publish(news)

    def subscribe(self, who: int, key: str) -> None:
        self.clients[who].subscribe(key)
        self.subscribed[who].add(key)

    def unsubscribe(self, who: int, key: str) -> None:
        self.hub.unsubscribe(self.clients[who].outbox, [key])
        self.subscribed[who].discard(key)

    def leave(self, who: int, _key: str) -> None:
        self.hub.detach(self.clients[who].outbox)
        self.subscribed[who].clear()

    def read(self, _who: int, _key: str) -> None:
        if self.unread:
            pubkey = self.unread.pop(0)
            self.hub.settle(pubkey, self.stored.get(pubkey), "database")

    def turn(self, _who: int, _key: str) -> None:
        self.loop.turn()

    def pause(self, who: int, _key: str) -> None:
        self.clients[who].writable = False

    def resume(self, who: int, _key: str) -> None:
        self.clients[who].writable = True
        self.hub.touch(self.clients[who].outbox)

    def settle_down(self) -> None:
        while self.unread:
            self.read(0, "")
        for who in range(3):
            self.resume(who, "")
        while self.loop.callbacks:
            self.loop.turn()


STEPS = ("publish", "subscribe", "unsubscribe", "read", "turn", "pause", "resume", "leave")


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.sampled_from(KEYS)), max_size=60))
def test_no_interleaving_sends_anything_older_twice_or_stale(steps: Sequence[Step]) -> None:
    """Whatever the order of events, ids per account only grow while subscribed and end on the newest state."""
    world = World()
    for step, who, key in steps:
        getattr(world, step)(who, key)
    world.settle_down()
    for client, keys in zip(world.clients, world.subscribed, strict=True):
        frames = [frame for write in client.writes for frame in write]
        messages = [json.loads(frame[frame.index(b"{") :]) for frame in frames]
        for key in KEYS:
            ids = [message["account"]["id"] for message in messages if message.get("pubkey") == key]
            # A new subscription sends the state anew, so an id may come again then, but never an older one.
            assert ids == sorted(ids)
            if key in keys and key in world.stored:
                assert ids[-1] == world.stored[key].id
    assert world.hub.subscriptions == sum(map(len, world.subscribed))


def test_what_was_only_re_read_is_not_kept_in_memory() -> None:
    """A backfill does not push out what clients ask for; an account that is there already stays the newest."""
    hub = Hub(schedule=lambda _: None, load=lambda _: None)
    hub.publish(update(1, KEY_A))
    hub.publish(update(2, KEY_A, origin=Origin.REREAD))
    hub.publish(update(3, KEY_B, origin=Origin.REREAD))
    newest = hub.newest(KEY_A)
    assert newest is not None
    assert newest.id == 2
    assert hub.newest(KEY_B) is None
