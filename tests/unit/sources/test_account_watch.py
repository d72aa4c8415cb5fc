"""sources/account_watch.py: which account subscriptions to ask for, and to end."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from tests.samples import KEY_A, KEY_B

from account_socket.sources.account_watch import AccountWatch
from account_socket.sources.pubsub import Reply


class Asker:
    """An AccountWatch with the ids of its requests."""

    def __init__(self) -> None:
        self.watch = AccountWatch("confirmed")
        self._ids = count(1)

    def choose(self, *pubkeys: str) -> list[dict[str, Any]]:
        return [json.loads(each) for each in self.watch.choose(pubkeys, lambda: next(self._ids))]

    def reply(self, request: dict[str, Any], result: object, code: int | None = None) -> list[dict[str, Any]]:
        reply = Reply(request["id"], result, code)
        return [json.loads(each) for each in self.watch.receive_reply(reply, lambda: next(self._ids))]


def test_an_account_is_asked_for_once() -> None:
    """Whether its reply has come or not, the same choice asks for nothing more."""
    asker = Asker()
    (request,) = asker.choose(KEY_A)
    assert (request["method"], request["params"][0]) == ("accountSubscribe", KEY_A)
    assert request["params"][1] == {"encoding": "base64", "commitment": "confirmed"}
    assert asker.choose(KEY_A) == []
    assert asker.reply(request, 7) == []
    assert asker.choose(KEY_A) == []
    assert asker.watch.pubkey(7) == KEY_A


def test_what_is_no_longer_wanted_is_ended() -> None:
    """Its subscription is cancelled by number, and what comes of it meanwhile is not odd."""
    asker = Asker()
    (request,) = asker.choose(KEY_A)
    asker.reply(request, 7)
    subscribe, unsubscribe = sorted(asker.choose(KEY_B), key=lambda each: str(each["method"]))
    assert (subscribe["method"], unsubscribe["params"]) == ("accountSubscribe", [7])
    assert asker.watch.pubkey(7) is None
    assert asker.watch.ended(7)
    assert asker.reply(unsubscribe, True) == []
    assert not asker.watch.ended(7)


def test_what_is_not_wanted_any_more_when_its_reply_comes_is_ended_then() -> None:
    """The number is known only from the reply."""
    asker = Asker()
    (request,) = asker.choose(KEY_A)
    assert asker.choose() == []
    (unsubscribe,) = asker.reply(request, 7)
    assert (unsubscribe["method"], unsubscribe["params"]) == ("accountUnsubscribe", [7])


def test_what_the_node_refuses_is_not_asked_for_again() -> None:
    """Not while it is wanted all along; later it may be."""
    asker = Asker()
    (request,) = asker.choose(KEY_A)
    assert asker.reply(request, None, -32603) == []
    assert asker.choose(KEY_A) == []
    assert asker.choose() == []
    assert [each["method"] for each in asker.choose(KEY_A)] == ["accountSubscribe"]
