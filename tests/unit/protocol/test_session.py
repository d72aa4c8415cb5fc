"""One client's conversation, with time as an argument."""

from __future__ import annotations

import json

import pytest
from tests.samples import KEY_A, KEY_B

from account_socket.protocol.codes import Close
from account_socket.protocol.messages import Subscribe, Unsubscribe
from account_socket.protocol.session import (
    LIMITED_FRAMES,
    Answer,
    Disconnect,
    RequestLimits,
    Session,
    Tally,
)

PING = '{"action":"ping","id":1}'


def make(per_second: float = 10, burst: int = 5, max_subscriptions: int = 2) -> tuple[Session, Tally]:
    tally = Tally()
    return Session(RequestLimits(max_subscriptions, per_second, burst), tally, now=100.0), tally


def code(action: object) -> str:
    assert isinstance(action, Answer)
    answer = json.loads(action.payload)
    return str(answer.get("code", answer["type"]))


def test_requests_become_actions() -> None:
    """Each request becomes one action, and is counted by its kind."""
    session, tally = make()
    subscribe = json.dumps({"action": "subscribe", "pubkey": KEY_A})
    assert session.receive_text(subscribe, (), now=100) == Subscribe(None, (KEY_A,))
    assert session.receive_text(subscribe.replace('"s', '"uns'), (), now=100) == Unsubscribe(None, (KEY_A,))
    assert session.receive_text(PING, (), now=100) == Answer(b'{"type":"pong","id":1}')
    listed = session.receive_text('{"action":"list"}', {KEY_B: None, KEY_A: None}, now=100)
    assert listed == Answer(f'{{"type":"subscriptions","pubkeys":["{KEY_B}","{KEY_A}"]}}'.encode())
    assert code(session.receive_text("?", (), now=100)) == "invalid_json"
    assert tally.requests == {"subscribe": 1, "unsubscribe": 1, "ping": 1, "list": 1}
    assert tally.errors == {"invalid_json": 1}
    assert session.requests == 5


@pytest.mark.parametrize(
    ("pubkeys", "subscribed", "allowed"),
    [
        ([KEY_A, KEY_B], [], True),
        ([KEY_A, KEY_B], ["x"], False),
        ([KEY_A, KEY_B], ["x", KEY_A], False),
        ([KEY_A, KEY_B], [KEY_B, KEY_A], True),
        ([KEY_A, KEY_A, KEY_A], ["x"], True),
        ([KEY_A], ["x", "y"], False),
        ([KEY_A], ["x", "y", KEY_A], True),
    ],
)
def test_subscriptions_are_limited(pubkeys: list[str], subscribed: list[str], allowed: bool) -> None:
    """Only accounts that are new count, each once; a request that goes beyond the limit is refused as a whole."""
    session, _ = make()
    action = session.receive_text(json.dumps({"action": "subscribe", "pubkeys": pubkeys}), subscribed, now=100)
    assert isinstance(action, Subscribe) if allowed else code(action) == "too_many_subscriptions"


def test_rate_limit() -> None:
    """After the burst one request is served per refill, the others are refused with their id."""
    session, tally = make(per_second=10, burst=5)
    assert [code(session.receive_text(PING, (), now=100)) for _ in range(7)] == ["pong"] * 5 + ["rate_limited"] * 2
    refused = session.receive_text('{"action":"ping","id":"abc"}', (), now=100.05)
    assert isinstance(refused, Answer)
    assert json.loads(refused.payload)["id"] == "abc"
    assert code(session.receive_text(PING, (), now=100.11)) == "pong"
    assert code(session.receive_text(PING, (), now=100.11)) == "rate_limited"
    assert [code(session.receive_text(PING, (), now=1000)) for _ in range(7)] == ["pong"] * 5 + ["rate_limited"] * 2
    assert tally.errors == {"rate_limited": 6}
    assert tally.requests["ping"] == 11


def test_other_frames_share_the_limit() -> None:
    """Control frames and fragments take tokens too, so that they cannot be sent without end."""
    session, _ = make(burst=5)
    assert [session.receive_other(now=100) for _ in range(5)] == [None] * 5
    assert code(session.receive_text(PING, (), now=100)) == "rate_limited"
    closing = [session.receive_other(now=100) for _ in range(LIMITED_FRAMES)]
    assert closing == [None] * (LIMITED_FRAMES - 1) + [Disconnect(Close.RATE_LIMITED)]


def test_flood_is_disconnected_by_count() -> None:
    """So many refusals without a pause disconnect."""
    session, _ = make()
    actions = [session.receive_text(PING, (), now=100) for _ in range(5 + LIMITED_FRAMES + 1)]
    assert actions[-1] == Disconnect(Close.RATE_LIMITED)
    assert not any(isinstance(action, Disconnect) for action in actions[:-1])


def test_flood_is_disconnected_by_time() -> None:
    """A client that is always a little too fast is disconnected after ten seconds, though some requests pass."""
    session, _ = make(per_second=10, burst=20)
    now, actions = 100.0, []
    while now < 115 and not (actions and isinstance(actions[-1], Disconnect)):
        now += 1 / 15
        actions.append(session.receive_text(PING, (), now=now))
    first = next(i for i, action in enumerate(actions) if code(action) == "rate_limited")
    assert actions[-1] == Disconnect(Close.RATE_LIMITED)
    assert 10 < (len(actions) - first) / 15 < 10.5


def test_a_pause_forgives() -> None:
    """A client that pauses for a second each time is refused again and again, but never disconnected."""
    session, _ = make(per_second=10, burst=20)
    now = 100.0
    for _ in range(200):
        now += 1.0
        actions = [session.receive_text(PING, (), now=now) for _ in range(100)]
        assert not any(isinstance(action, Disconnect) for action in actions)
        assert code(actions[-1]) == "rate_limited"


def test_slow_rates() -> None:
    """A rate below one a second still refuses, and still disconnects who does not stop."""
    session, _ = make(per_second=0.5, burst=1)
    assert code(session.receive_text(PING, (), now=100)) == "pong"
    assert code(session.receive_text(PING, (), now=101.9)) == "rate_limited"
    assert code(session.receive_text(PING, (), now=102.1)) == "pong"
    actions = [session.receive_text(PING, (), now=102.1) for _ in range(LIMITED_FRAMES + 1)]
    assert isinstance(actions[-1], Disconnect)
