"""What a server sends, as the client reads it."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.samples import KEY_A

from account_socket.client.frames import Ack, Gap, Refusal, SnapshotEnd, Status, Update, Upstream, read_frame

ACCOUNT = {
    "id": 5,
    "pubkey": KEY_A,
    "slot": 7,
    "account_type": "Pool",
    "owner": KEY_A,
    "lamports": 9,
    "created_at": "2026-11-23T12:00:00.123456Z",
}


def read(**message: object) -> object:
    return read_frame(json.dumps(message).encode())


def test_full_update() -> None:
    """An update has every field of the protocol, and its text as it came."""
    account = {**ACCOUNT, "data_json": {"a": "1"}, "prev_id": 3, "signature": "s"}
    text = json.dumps({"pubkey": KEY_A, "source": "cache", "event": "retracted", "stale": True, "account": account})
    update = read_frame(text.encode())
    assert isinstance(update, Update)
    assert (update.source, update.event, update.stale, update.shape) == ("cache", "retracted", True, "full")
    assert (update.account.id, update.account.prev_id, update.account.signature) == (5, 3, "s")
    assert update.account.data_json == {"a": "1"}
    assert update.text == text


def test_closed_account() -> None:
    """A closed account has no data and says so."""
    update = read(pubkey=KEY_A, source="realtime", account={**ACCOUNT, "data_json": None, "closed": True})
    assert isinstance(update, Update)
    assert (update.account.data_json, update.account.closed) == (None, True)


def test_diff() -> None:
    """A diff has what changed, from what to what."""
    update = read(pubkey=KEY_A, source="realtime", shape="diff", account=ACCOUNT, changed={"a.0": ["1", None]})
    assert isinstance(update, Update)
    assert (update.shape, update.changed) == ("diff", {"a.0": ("1", None)})


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (
            {"type": "ack", "id": 0, "action": "subscribe", "epoch": "e", "found": [KEY_A], "foreign": [], "sub": 1},
            Ack(id=0, epoch="e", found=(KEY_A,)),
        ),
        (
            {"type": "ack", "id": 0, "epoch": "e", "recovered": False, "unrecovered": [KEY_A]},
            Ack(id=0, epoch="e", recovered=False, unrecovered=(KEY_A,)),
        ),
        ({"type": "snapshot_end", "sub": 3, "count": 2, "recovered": True}, SnapshotEnd(count=2, recovered=True)),
        ({"type": "error", "code": "c", "message": "m"}, Refusal(code="c", message="m")),
        (
            {"type": "status", "event": "now", "stale": False, "tip_slot": 1, "sources": {"r": {"connected": True}}},
            Status(event="now", stale=False, tip_slot=1, sources={"r": Upstream(connected=True)}),
        ),
        (
            {"type": "gap", "source": "r", "from_slot": None, "to_slot": 9, "reason": "x", "healed": False},
            Gap(source="r", to_slot=9, reason="x"),
        ),
        ({"type": "pong", "id": 1}, None),
        ({"type": "of a later version", "count": "many"}, None),
    ],
)
def test_other_frames(message: dict[str, object], frame: object) -> None:
    """Each other frame is read by its type; one of a type that is not known is passed over."""
    assert read(**message) == frame


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"type":7}',
        b'{"type":"ack"}',
        b'{"type":"snapshot_end","count":"2"}',
        b'{"account":{}}',
        b'{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":0}',
        json.dumps({"source": "cache", "account": {**ACCOUNT, "id": "5"}}).encode(),
    ],
)
def test_what_no_server_sends(data: bytes) -> None:
    """A message that no server of this name sends is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011  (several kinds of it)
        read_frame(data)


@given(
    st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Whatever bytes come, nothing but a ValueError is raised."""
    with suppress(ValueError):
        read_frame(data)
