"""The registry of subscriptions that node and server share: who is in it, and when it is empty again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.samples import KEY_A, KEY_B, PROGRAM, raw

from account_socket.protocol.solana_jsonrpc import RpcFault
from account_socket.protocol.solana_subscriptions import Registry, parse_subscription

ASKED = [
    parse_subscription("accountSubscribe", [KEY_A]),
    parse_subscription("accountSubscribe", [KEY_B, {"encoding": "base64"}]),
    parse_subscription("programSubscribe", [PROGRAM]),
    parse_subscription("slotSubscribe", []),
]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from(["in", "out", "gone"]))))
def test_it_knows_just_who_is_subscribed(steps):
    """Whatever the order of subscribing, unsubscribing and leaving, those are told who are in, each once."""
    told = []
    registry = Registry(lambda subscribers, _notification, _topic: told.extend(subscribers))
    expected: dict[tuple[str, int], int] = {}
    for who, which, step in steps:
        if step == "in":
            expected[who, which] = registry.subscribe(who, ASKED[which])
        elif step == "out" and (who, which) in expected:
            assert registry.unsubscribe(who, [expected.pop((who, which))]) == ASKED[which]
        elif step == "gone":
            assert set(registry.drop(who)) == {ASKED[at] for name, at in expected if name == who}
            expected = {key: number for key, number in expected.items() if key[0] != who}
    for which, asked in enumerate(ASKED):
        assert registry.wants(asked.kind, asked.key) == any(at == which for _, at in expected)
    registry.notify_account(raw(KEY_A), was_open=False)
    assert sorted(told) == sorted(name for name, at in expected if at in (0, 2))
    for who in "abc":
        registry.drop(who)
    assert len(registry) == 0
    assert not any(registry.numbers_of(who) for who in "abc")


def test_a_number_of_another_is_unknown():
    """Only who is subscribed can unsubscribe."""
    registry = Registry(lambda *_: None)
    number = registry.subscribe("a", ASKED[0])
    with pytest.raises(RpcFault):
        registry.unsubscribe("b", [number])
    assert registry.holds("a", ASKED[0])
    assert not registry.holds("b", ASKED[0])
