"""What a client that goes on where it broke off may say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.samples import KEY_A, KEY_B

from account_socket.protocol.codes import ErrorCode
from account_socket.protocol.messages import MAX_PUBKEYS, Refusal, Subscribe, parse, subscribe_ack
from account_socket.protocol.resume import Resume


def read(**fields: Any) -> Any:
    return parse(json.dumps({"action": "subscribe", "id": 1, **fields}))


@pytest.mark.parametrize(
    ("fields", "pubkeys"),
    [
        ({"pubkeys": [KEY_A, KEY_B]}, (KEY_A, KEY_B)),
        ({"pubkey": KEY_A}, (KEY_A,)),
        ({}, (KEY_A,)),
    ],
)
def test_after_beside_accounts_or_alone(fields: dict[str, Any], pubkeys: tuple[str, ...]) -> None:
    """The ids stand beside the accounts, or name them."""
    assert read(after={KEY_A: 7}, epoch="e1", **fields) == Subscribe(1, pubkeys, Resume({KEY_A: 7}, "e1"))


def test_the_range_of_an_id() -> None:
    """An id is any integer that a database can have; none is needed of any account."""
    assert read(after={KEY_A: 0, KEY_B: 2**63 - 1}, epoch="e").resume.after == {KEY_A: 0, KEY_B: 2**63 - 1}
    assert read(pubkey=KEY_A, after={}, epoch="e").resume == Resume({}, "e")


@pytest.mark.parametrize(
    "fields",
    [
        {"after": [KEY_A]},
        {"after": None},
        {"after": 7},
        {"after": "7"},
        {"after": {KEY_A: "7"}},
        {"after": {KEY_A: 7.0}},
        {"after": {KEY_A: True}},
        {"after": {KEY_A: None}},
        {"after": {KEY_A: -1}},
        {"after": {KEY_A: 2**63}},
        {"after": {KEY_A: {}}},
        {"after": {KEY_A: 7}, "epoch": None},
        {"after": {KEY_A: 7}, "epoch": 7},
        {"after": {KEY_A: 7}, "epoch": ""},
        {"after": {KEY_A: 7}, "epoch": "e" * 129},
        {"after": {KEY_A: 7}, "pubkeys": [KEY_B]},
        {"after": {}},
        {"after": {KEY_A: 7}, "later": 1},
    ],
)
def test_wrong_fields(fields: dict[str, Any]) -> None:
    """Wrong types, ids that there cannot be, and accounts that are not asked for are refused as what they are."""
    refusal = read(**{"epoch": "e1", **fields})
    assert isinstance(refusal, Refusal)
    assert (refusal.id, refusal.code) == (1, ErrorCode.INVALID_MESSAGE)


def test_epoch_belongs_to_after() -> None:
    """One without the other is refused."""
    assert read(pubkey=KEY_A, epoch="e1").code == ErrorCode.INVALID_MESSAGE
    assert read(pubkey=KEY_A, after={KEY_A: 1}).code == ErrorCode.INVALID_MESSAGE


def test_an_id_for_a_filter() -> None:
    """One id stands beside a filter; it does not go with accounts, nor the ids of accounts with a filter."""
    assert read(account_type="Pool", after_id=7, epoch="e").resume == Resume({}, "e", 7)
    for wrong in (
        {"account_type": "Pool", "after_id": "7", "epoch": "e"},
        {"account_type": "Pool", "after_id": 7},
        {"account_type": "Pool", "after": {}, "pubkeys": [KEY_A], "epoch": "e"},
        {"account_type": "Pool", "after": {KEY_A: 7}, "epoch": "e"},
        {"pubkeys": [KEY_A], "after_id": 7, "epoch": "e"},
        {"pubkeys": [KEY_A], "after_id": 7, "epoch": "e", "mode": "diff"},
        {"after_id": 7, "after": {KEY_A: 7}, "epoch": "e"},
    ):
        assert read(**wrong).code == ErrorCode.INVALID_MESSAGE


def test_an_account_named_twice() -> None:
    """Two ids of one account are refused."""
    text = f'{{"action":"subscribe","after":{{"{KEY_A}":1,"{KEY_A}":2}},"epoch":"e"}}'
    assert parse(text).code == ErrorCode.INVALID_MESSAGE


def test_keys_that_are_none() -> None:
    """An account in `after` that is no public key is refused as such; so are more than a request may name."""
    assert read(after={"abc": 1}, epoch="e").code == ErrorCode.INVALID_PUBKEY
    many = {f"{number}": 1 for number in range(MAX_PUBKEYS + 1)}
    assert str(MAX_PUBKEYS) in read(after=many, epoch="e").message


def test_the_oldest_form_ignores_it() -> None:
    """Beside a `pubkey` without `id`, unknown keys were never looked at, and `after` was one."""
    assert parse(json.dumps({"action": "subscribe", "pubkey": KEY_A, "after": 7})) == Subscribe(None, (KEY_A,))


def test_the_ack() -> None:
    """An ack says whether all accounts were recovered, and which were not; that of another request says nothing."""
    plain, recovered, lost = (
        json.loads(subscribe_ack(1, "e", [KEY_A], [], unrecovered=unrecovered)) for unrecovered in (None, [], [KEY_A])
    )
    assert not plain.keys() & {"recovered", "unrecovered"}
    assert recovered["recovered"] is True
    assert "unrecovered" not in recovered
    assert (lost["recovered"], lost["unrecovered"]) == (False, [KEY_A])
