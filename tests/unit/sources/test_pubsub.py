from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile_node import account_json, program_notification, slot_notification, zstd_frame
from tests.samples import KEY_A, PROGRAM

from account_socket.model import Origin, RawAccount
from account_socket.sources.account_json import MAX_DATA_BYTES
from account_socket.sources.pubsub import (
    MAX_BATCH_ITEMS,
    AccountNotification,
    FrameReader,
    Odd,
    Reply,
    SlotNotification,
    program_subscribe,
    request,
)

U64 = 2**64 - 1
AGAVE = (
    b'{"jsonrpc":"2.0","method":"programNotification","params":{"result":{"context":{"slot":5208469},"value":{'
    b'"pubkey":"HLnpSz9h2S4hiLQ43rnSD9XkcUThA7B8hQMKmDaiTLcC","account":{"lamports":8630400,'
    b'"data":["AQID","base64"],"owner":"cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG","executable":false,'
    b'"rentEpoch":18446744073709551615,"space":3}}},"subscription":24040}}'
)


def read(frame: Any) -> list[Any]:
    """Read one frame with a reader that saw nothing before; anything but bytes goes as JSON."""
    message = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    return FrameReader("rpc-0").read(message, 2.5)


def read_account(account: dict[str, Any]) -> tuple[RawAccount, list[str]]:
    """Read a notification of `account`; return the account and the kinds of what was odd beside it."""
    *odd, notification = read(program_notification(account))
    assert isinstance(notification, AccountNotification), notification
    return notification.account, [each.kind for each in odd]


def test_a_notification_of_agave_becomes_the_account() -> None:
    """Every field of Agave's frame arrives, with the source and the time of arrival."""
    (event,) = read(AGAVE)
    assert event.subscription == 24040
    assert event.account == RawAccount(
        pubkey=KEY_A,
        slot=5208469,
        owner=PROGRAM,
        lamports=8630400,
        data=b"\x01\x02\x03",
        executable=False,
        rent_epoch=U64,
        write_version=0,
        source="rpc-0",
        origin=Origin.LIVE,
        received_at=2.5,
    )


@pytest.mark.parametrize("indent", [None, 1])
def test_the_slow_way_reads_what_the_fast_way_reads(indent: int | None) -> None:
    """A frame in a batch, which is read generically, gives the same account as the frame alone."""
    batch = json.dumps([json.loads(AGAVE)], indent=indent).encode()
    assert read(batch) == read(AGAVE)


KNOWN_SIZE = zstandard.ZstdCompressor().compress(b"\x01\x02\x03")
DATA_SHAPES = {
    "base64": ["AQID", "base64"],
    "zstd of unknown size": [base64.b64encode(zstd_frame(b"\x01\x02\x03")).decode(), "base64+zstd"],
    "zstd of known size": [base64.b64encode(KNOWN_SIZE).decode(), "base64+zstd"],
    "base58 pair": ["Ldp", "base58"],
    "bare base58": "Ldp",
}


@pytest.mark.parametrize("shape", DATA_SHAPES)
@pytest.mark.parametrize("space", [3, None, 0, -1, 2, 4, 10**9])
def test_every_shape_of_data_gives_its_bytes(shape: str, space: int | None) -> None:
    """The data is the same in each encoding, and a wrong or missing `space` does no harm but is counted."""
    account = {**account_json(), "data": DATA_SHAPES[shape]}
    account["space"] = space
    if space is None:
        del account["space"]
    got, odd = read_account(account)
    assert got.data == b"\x01\x02\x03"
    assert odd == ([] if space == 3 else ["space_missing"] if space is None or space < 0 else ["space_mismatch"])


@pytest.mark.parametrize(("text", "data"), [("", b""), ("1", b"\0"), ("112", b"\0\0\x01"), ("5Q", b"\xff")])
def test_base58_keeps_leading_zeros(text: str, data: bytes) -> None:
    """Each leading 1 of base58 is a zero byte."""
    assert read_account({**account_json(data), "data": text})[0].data == data


def test_empty_data_is_empty() -> None:
    """A closed account's empty data arrives as empty bytes, plain and compressed."""
    assert read_account(account_json(b""))[0].data == b""
    assert read_account(account_json(b"", encoding="base64+zstd"))[0].data == b""


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(0, 0), (U64, U64), (18446744073709552000, U64), (1.8446744073709552e19, U64), (-1, 0), (None, 0), ("7", 0)],
)
def test_rent_epoch_is_a_u64(sent: Any, kept: int) -> None:
    """A rentEpoch that is no u64 is clamped and counted; the account arrives all the same."""
    account, odd = read_account(account_json(rentEpoch=sent))
    assert account.rent_epoch == kept
    assert odd == ([] if sent == kept and type(sent) is int else ["rent_epoch_clamped"])


def bomb(size: int, *, stated: bool) -> list[str]:
    """Return `data` that inflates to `size` zero bytes."""
    frame = zstandard.ZstdCompressor().compress(bytes(size)) if stated else zstd_frame(bytes(size))
    return [base64.b64encode(frame).decode(), "base64+zstd"]


BAD_ACCOUNTS = {
    "negative lamports": ({"lamports": -1}, "bad_lamports"),
    "huge lamports": ({"lamports": 2**63}, "bad_lamports"),
    "float lamports": ({"lamports": 1.0}, "bad_lamports"),
    "text lamports": ({"lamports": "1"}, "bad_lamports"),
    "bool lamports": ({"lamports": True}, "bad_lamports"),
    "null lamports": ({"lamports": None}, "bad_lamports"),
    "short owner": ({"owner": "abc"}, "bad_owner"),
    "owner of 31 bytes": ({"owner": "1" * 31}, "bad_owner"),
    "owner with a digit that base58 has not": ({"owner": "0" * 44}, "bad_owner"),
    "owner not ASCII": ({"owner": "é" * 44}, "bad_owner"),
    "endless owner": ({"owner": "1" * 100_000}, "bad_owner"),
    "numeric owner": ({"owner": 5}, "bad_owner"),
    "executable as a number": ({"executable": 0}, "bad_account"),
    "jsonParsed": ({"data": {"program": "spl-token", "parsed": {}, "space": 165}}, "data_parsed"),
    "too large for base58": ({"data": "error: data too large for bs58 encoding"}, "data_too_large"),
    "base58 with a wrong digit": ({"data": "0OIl"}, "bad_data"),
    "endless base58": ({"data": "2" * 100_000}, "data_oversize"),
    "bad base64": ({"data": ["AQI*", "base64"]}, "bad_data"),
    "unpadded base64": ({"data": ["AQI", "base64"]}, "bad_data"),
    "base64 not ASCII": ({"data": ["é", "base64"]}, "bad_data"),
    "no zstd": ({"data": ["AQID", "base64+zstd"]}, "bad_data"),
    "cut zstd": ({"data": [base64.b64encode(zstd_frame(bytes(100))[:-3]).decode(), "base64+zstd"]}, "bad_data"),
    "unknown encoding": ({"data": ["AQID", "base32"]}, "bad_encoding"),
    "data of three": ({"data": ["AQID", "base64", 1]}, "bad_data"),
    "data of numbers": ({"data": [1, 2]}, "bad_data"),
    "null data": ({"data": None}, "bad_data"),
    "zstd bomb that states its size": ({"data": bomb(1 << 26, stated=True)}, "data_oversize"),
    "zstd bomb that does not": ({"data": bomb(1 << 26, stated=False)}, "bad_data"),
    "10 MiB and a byte": ({"data": bomb(MAX_DATA_BYTES + 1, stated=True)}, "data_oversize"),
    "base64 over 10 MiB": ({"data": ["AAAA" * (MAX_DATA_BYTES // 3 + 2), "base64"]}, "data_oversize"),
}


@pytest.mark.parametrize("name", BAD_ACCOUNTS)
def test_a_bad_account_is_odd(name: str) -> None:
    """An account that cannot be true is one odd event of its kind, whichever way it is read."""
    fields, kind = BAD_ACCOUNTS[name]
    frame = program_notification({**account_json(), **fields})
    assert [event.kind for event in read(frame)] == [kind]
    assert [event.kind for event in read([frame])] == [kind]


def test_the_largest_account_arrives() -> None:
    """An account of 10 MiB is read, plain and compressed."""
    data = bytes(range(256)) * (MAX_DATA_BYTES // 256)
    for encoding in ("base64", "base64+zstd"):
        account, odd = read_account(account_json(data, encoding=encoding))
        assert account.data == data
        assert not odd


BAD_FRAMES: dict[str, tuple[Any, str]] = {
    "empty": (b"", "not_json"),
    "text": (b"pong", "not_json"),
    "two objects": (b"{} {}", "not_json"),
    "bad UTF-8": (b'{"method":"\xff"}', "not_json"),
    "nested beyond measure": (b"[" * 100_000, "not_json"),
    "a number out of range": (b'{"method":1e999}', "not_json"),
    "a number": (b"5", "not_object"),
    "a string": (b'"hello"', "not_object"),
    "null": (b"null", "not_object"),
    "an empty batch": (b"[]", "not_object"),
    "a batch in a batch": (b"[[]]", "not_object"),
    "an empty object": ({}, "unknown_frame"),
    "an unknown method": ({"method": "blockNotification", "params": {}}, "unknown_method"),
    "a method that is no text": ({"method": {"a": 1}}, "unknown_method"),
    "an accountNotification without a result": (
        {"method": "accountNotification", "params": {"subscription": 1}},
        "bad_notification",
    ),
    "no params": ({"method": "programNotification"}, "bad_notification"),
    "params as a list": ({"method": "programNotification", "params": []}, "bad_notification"),
    "no result": ({"method": "programNotification", "params": {"subscription": 1}}, "bad_notification"),
    "no subscription": ({"method": "slotNotification", "params": {"result": {"slot": 5}}}, "bad_notification"),
    "a text subscription": (slot_notification(5, subscription="7"), "bad_notification"),
    "an account that is null": (program_notification([]), "bad_account"),
    "a numeric pubkey": (program_notification(pubkey=5), "bad_pubkey"),
    "a short pubkey": (program_notification(pubkey="abc"), "bad_pubkey"),
    "an account's slot below 0": (program_notification(slot=-1), "bad_slot"),
    "an account's slot above i64": (program_notification(slot=2**63), "bad_slot"),
    "an account's slot as a float": (program_notification(slot=5.0), "bad_slot"),
    "an account's slot as text": (program_notification(slot="5"), "bad_slot"),
    "a slot below 0": (slot_notification(-1), "bad_slot"),
    "a slot above i64": (slot_notification(2**63), "bad_slot"),
    "a slot that is true": (slot_notification(True), "bad_slot"),
    "an error without an id": ({"error": {"code": -32700, "message": "Parse error"}, "id": None}, "error_frame"),
    "an error of text": ({"error": "rate limited"}, "error_frame"),
    "a reply with a text id": ({"result": 5, "id": "1"}, "unknown_reply"),
    "a reply without an id": ({"result": 5}, "unknown_reply"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_odd(name: str) -> None:
    """A frame that should not come is one odd event of its kind."""
    frame, kind = BAD_FRAMES[name]
    assert [event.kind for event in read(frame)] == [kind]


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        ({"jsonrpc": "2.0", "result": 24040, "id": 7}, Reply(7, 24040)),
        ({"result": None, "id": 7}, Reply(7, None)),
        (
            {"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": 7},
            Reply(7, None, -32601, "Method not found"),
        ),
        ({"error": {}, "id": 7}, Reply(7, None, 0, "None")),
        ({"error": [1], "id": 7}, Reply(7, None, 0, "list")),
        (slot_notification(76, subscription=0), SlotNotification(0, 76, 0, 0)),
    ],
)
def test_replies_and_slots(frame: Any, event: object) -> None:
    """Replies keep their id, result and error; a slot keeps its number."""
    assert read(frame) == [event]


def test_a_batch_gives_what_it_holds_in_order() -> None:
    """Each element of a batch is read, and a bad one harms no other."""
    events = read([slot_notification(5), 7, program_notification(), {"result": 1, "id": 2}])
    assert [type(event) for event in events] == [SlotNotification, Odd, AccountNotification, Reply]


def test_a_batch_is_bounded_in_items_and_inflated_bytes() -> None:
    """What a batch holds beyond its bounds is refused as one odd event, whatever it would inflate to."""
    events = read([5] * (MAX_BATCH_ITEMS + 10))
    assert len(events) == MAX_BATCH_ITEMS + 1
    assert events[-1].kind == "batch_oversize"
    large = program_notification({**account_json(), "data": bomb(MAX_DATA_BYTES, stated=True)})
    events = read([large] * 50)
    assert len(events) < 10
    assert events[-1].kind == "batch_oversize"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
frame_values = st.sampled_from([program_notification(), slot_notification(5), {"result": 5, "id": 1}])


@given(st.binary(max_size=300))
def test_no_bytes_raise(message: bytes) -> None:
    """Whatever bytes come, they become events."""
    assert FrameReader("rpc-0").read(message, 0.0)


@given(json_values)
def test_no_json_raises(value: Any) -> None:
    """Whatever JSON comes, it becomes events."""
    assert read(value)


@given(st.data())
def test_no_mutilated_frame_raises(data: st.DataObject) -> None:
    """A true frame with any of its values replaced becomes events, and an account that gets through is sound."""
    frame = json.loads(json.dumps(data.draw(frame_values)))
    node: Any = frame
    while True:
        key = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[key], dict) or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(json_values)
    for event in read(frame):
        if isinstance(event, AccountNotification):
            assert 0 <= event.account.slot < 2**63
            assert 0 <= event.account.lamports < 2**63
            assert 0 <= event.account.rent_epoch <= U64


def test_requests() -> None:
    """Requests are JSON-RPC 2.0, and programSubscribe always names encoding and commitment."""
    assert json.loads(request(1, "slotSubscribe")) == {"jsonrpc": "2.0", "id": 1, "method": "slotSubscribe"}
    assert json.loads(program_subscribe(2, PROGRAM, encoding="base64+zstd", commitment="confirmed")) == {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "programSubscribe",
        "params": [PROGRAM, {"encoding": "base64+zstd", "commitment": "confirmed"}],
    }
