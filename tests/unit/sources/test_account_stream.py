"""Reading lists of accounts while they arrive: every shape, every way of being cut, nothing kept that need not be."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from account_socket.errors import RpcError
from account_socket.sources import account_stream
from account_socket.sources.account_stream import AccountStream

ITEMS = [{"pubkey": 'é\\"]},{', "account": {"data": ["AA==", "base64"], "n": -1.5e3}}, {"pubkey": "b"}, None, [[]], 12]
CONTEXT = {"apiVersion": "3.0.6", "slot": 77}

SHAPES: list[tuple[Any, int | None, str | None]] = [
    (ITEMS, None, None),
    ({"context": CONTEXT, "value": ITEMS}, 77, None),
    ({"value": ITEMS, "context": CONTEXT}, 77, None),
    ({"accounts": ITEMS, "paginationKey": "k1", "totalResults": 9}, None, "k1"),
    ({"accounts": ITEMS, "paginationKey": None}, None, None),
    ({"context": CONTEXT, "value": {"paginationKey": "k2", "accounts": ITEMS}}, 77, "k2"),
    ({"context": CONTEXT, "value": {"accounts": ITEMS, "nextCursor": "k3", "hasMore": True}}, 77, "k3"),
    ({"context": CONTEXT, "value": {"accounts": ITEMS, "nextCursor": "k4", "hasMore": False}}, 77, None),
]


def read(body: bytes, cuts: list[int]) -> tuple[AccountStream, list[Any]]:
    """Feed `body` in pieces."""
    stream, items, start = AccountStream(), [], 0
    for end in [*sorted(cuts), len(body)]:
        items += stream.feed(body[start:end])
        start = end
    items += stream.finish()
    return stream, items


@pytest.mark.parametrize(("result", "slot", "key"), SHAPES)
@settings(deadline=None)
@given(data=st.data())
def test_every_shape_is_read_however_it_is_cut(result: Any, slot: int | None, key: str | None, data: Any) -> None:
    """Accounts, slot and page come out the same, whatever the blanks and wherever the pieces end."""
    indent = data.draw(st.sampled_from([None, 0, 3]))
    body = json.dumps({"jsonrpc": "2.0", "result": result, "id": 5}, indent=indent, ensure_ascii=False).encode()
    stream, items = read(body, data.draw(st.lists(st.integers(0, len(body)), max_size=40)))
    assert items == ITEMS
    assert (stream.slot, stream.next_key, stream.complete, stream.has_list) == (slot, key, True, True)
    assert stream.envelope == {"result": [], "id": 5}


def test_an_account_is_given_before_the_answer_ends() -> None:
    """What is whole is there at once, with the slot that stood before it."""
    stream = AccountStream()
    assert stream.feed(b'{"result":{"context":{"slot":7},"value":[{"pubkey":"a"},{"pub') == [{"pubkey": "a"}]
    assert (stream.slot, stream.complete) == (7, False)


@settings(deadline=None)
@given(st.integers(1, 200))
def test_an_answer_that_breaks_off_is_not_complete(cut: int) -> None:
    """Whatever is missing at the end, even one byte, the end is told as an error that may pass."""
    body = json.dumps({"result": {"context": CONTEXT, "value": ITEMS}, "id": 5}).encode()
    with pytest.raises(RpcError) as caught:
        read(body[: -min(cut, len(body))], [])
    assert caught.value.retryable


@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        b"[1]",
        b'{"result":[1;2]}',
        b'{"result":[1 2]}',
        b"{7:[1]}",
        b'{"result":["\xff"]}',
        b'{"result":[' + b"[" * 100_000,
        b'{"result":{"context":' + b'{"a":' * 100_000,
        b'{"result":{"context":{"slot":1},"value":[1],"context":{"slot":9},"value":[2]}}',
        b'{"result":{"context":null,"context":{"slot":9},"value":[2]}}',
        b'{"result":{"value":[1],"value":[2]}}',
        b'{"result":[1],"result":{"accounts":[2]}}',
        b'{"result":{"accounts":[1],"paginationKey":"a","paginationKey":"b"}}',
        b'{"result":[1],"id":5,"id":6}',
    ],
)
def test_what_is_no_list_is_an_error(body: bytes) -> None:
    """Anything else than JSON of these shapes is refused."""
    with pytest.raises(RpcError):
        read(body + b" " * 10, [5])


@settings(deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_nothing_but_an_rpc_error_comes_of_any_bytes(garbage: bytes, inside: bool) -> None:
    """Whatever a node sends, the outcome is accounts or an RpcError."""
    try:
        stream, _ = read((b'{"result":{"value":[{},' if inside else b"") + garbage, [3, 11, 20])
        assert isinstance(stream.envelope, dict)
        assert stream.slot is None or stream.slot >= 0
        assert stream.next_key is None or stream.next_key
    except RpcError:
        pass


@pytest.mark.parametrize("slot", [-1, 2**63, "7", None, 1.5, True])
def test_an_odd_context_slot_is_an_error(slot: Any) -> None:
    """A slot that is none is refused, not guessed."""
    stream, _ = read(json.dumps({"result": {"context": {"slot": slot}, "value": []}}).encode(), [])
    with pytest.raises(RpcError):
        stream.slot  # noqa: B018  (reading it judges it)


@pytest.mark.parametrize("key", [7, "k" * 4_097, ["k"]])
def test_an_odd_pagination_key_is_an_error(key: Any) -> None:
    """What could not be sent back is refused."""
    stream, _ = read(json.dumps({"result": {"accounts": [], "paginationKey": key}}).encode(), [])
    with pytest.raises(RpcError):
        stream.next_key  # noqa: B018  (reading it judges it)


def test_an_error_object_is_in_the_envelope() -> None:
    """An error answers instead of a list."""
    stream, items = read(b'{"error":{"code":-32010,"message":"no"},"id":5}', [])
    assert (items, stream.has_list) == ([], False)
    assert stream.envelope == {"error": {"code": -32010, "message": "no"}, "id": 5}


def test_memory_is_that_of_one_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 MB nothing stays but the piece in hand, and an account above the limit is refused."""
    monkeypatch.setattr(account_stream, "MAX_ITEM_CHARS", 200_000)
    item = json.dumps({"pubkey": "a", "account": {"data": ["A" * 3_000, "base64"]}}).encode()
    stream, count = AccountStream(), 0
    stream.feed(b'{"result":[')
    tracemalloc.start()
    for _ in range(1_000):
        count += len(stream.feed((item + b",") * 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count in {19_999, 20_000}
    assert peak < 3_000_000
    stream.feed(b'"')
    with pytest.raises(RpcError, match="over 200000 characters"):
        feed_without_end(stream)


def feed_without_end(stream: AccountStream) -> None:
    """Feed text of a string that never ends, up to some bound."""
    for _ in range(30):
        stream.feed(b"A" * 10_000)
