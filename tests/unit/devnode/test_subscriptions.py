"""PubSub's registry: ids, who is told what, and the shape of it."""

from __future__ import annotations

import json

import pytest
from websockets.protocol import CLIENT, Protocol

from account_socket.devnode.subscriptions import Subscriptions
from account_socket.hub.frames import text_frame
from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.protocol.solana_jsonrpc import RpcFault

PROGRAM = "cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG"
A = "5rpEtPU2ZnMupnyRbt5AbLL7DGHia1YvtbQB7QjJmo4c"
B64 = {"encoding": "base64", "commitment": "confirmed"}


class Inbox:
    """Keeps the frames that a connection would send."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def texts(self) -> list[dict]:
        """Return the JSON of the frames since the last call, as the websockets library reads them."""
        texts = [json.loads(read_frame(frame)) for frame in self.frames]
        self.frames.clear()
        return texts


def read_frame(frame: bytes) -> bytes:
    client = Protocol(CLIENT)
    client.receive_data(frame)
    (event,) = client.events_received()
    assert event.fin
    return bytes(event.data)


@pytest.fixture
def subscriptions() -> Subscriptions:
    return Subscriptions(limit=5)


def call(subscriptions, inbox, method, *params):
    return json.loads(subscriptions.call(inbox, method, list(params)))


def pool(slot=9, data=b"\1\2\3", lamports=7):
    return RawAccount(A, slot, PROGRAM, lamports, data, rent_epoch=2**64 - 1)


def account_json(data):
    return {
        "lamports": 7,
        "data": data,
        "owner": PROGRAM,
        "executable": False,
        "rentEpoch": 18446744073709551615,
        "space": 3,
    }


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_frames_are_read_by_a_client(size):
    """A text of any size is one frame that the websockets library reads back."""
    assert read_frame(text_frame(b"x" * size)) == b"x" * size


def test_program_notification(subscriptions):
    """A write is told to who subscribed to its program, in Agave's shape."""
    inbox = Inbox()
    number = call(subscriptions, inbox, "programSubscribe", PROGRAM, B64)
    subscriptions.notify_account(pool(), was_open=False)
    value = {"pubkey": A, "account": account_json(["AQID", "base64"])}
    assert inbox.texts() == [
        {
            "jsonrpc": "2.0",
            "method": "programNotification",
            "params": {"result": {"context": {"slot": 9}, "value": value}, "subscription": number},
        }
    ]


def test_account_notification(subscriptions):
    """A write is told to who subscribed to the account; the value is the account itself."""
    inbox = Inbox()
    number = call(subscriptions, inbox, "accountSubscribe", A, B64)
    assert inbox.frames == []
    subscriptions.notify_account(pool(), was_open=False)
    result = {"context": {"slot": 9}, "value": account_json(["AQID", "base64"])}
    assert inbox.texts() == [
        {
            "jsonrpc": "2.0",
            "method": "accountNotification",
            "params": {"result": result, "subscription": number},
        }
    ]


def test_slot_and_root_notifications(subscriptions):
    """A slot is told as parent, root, slot; a root as a number."""
    inbox = Inbox()
    slots = call(subscriptions, inbox, "slotSubscribe")
    roots = call(subscriptions, inbox, "rootSubscribe")
    subscriptions.notify_slot(slot=76, parent=75)
    assert inbox.texts() == [
        {
            "jsonrpc": "2.0",
            "method": "slotNotification",
            "params": {"result": {"parent": 75, "root": 44, "slot": 76}, "subscription": slots},
        },
        {"jsonrpc": "2.0", "method": "rootNotification", "params": {"result": 44, "subscription": roots}},
    ]


def test_close_is_told_to_account_subscribers_only(subscriptions):
    """A close reaches accountSubscribe, once, and programSubscribe never, not even the system program's."""
    program, account, system = Inbox(), Inbox(), Inbox()
    call(subscriptions, program, "programSubscribe", PROGRAM, B64)
    call(subscriptions, account, "accountSubscribe", A, B64)
    call(subscriptions, system, "programSubscribe", SYSTEM_PROGRAM, B64)
    closed = RawAccount(A, 10, SYSTEM_PROGRAM, 0, b"")
    subscriptions.notify_account(closed, was_open=True)
    subscriptions.notify_account(closed, was_open=False)
    assert program.frames == system.frames == []
    (told,) = account.texts()
    assert told["params"]["result"]["value"] == {
        "lamports": 0,
        "data": ["", "base64"],
        "owner": SYSTEM_PROGRAM,
        "executable": False,
        "rentEpoch": 0,
        "space": 0,
    }


def test_filters_choose(subscriptions):
    """A filtered subscription is told of matching accounts only."""
    inbox = Inbox()
    filters = [{"dataSize": 3}, {"memcmp": {"offset": 0, "bytes": [1, 2]}}]
    call(subscriptions, inbox, "programSubscribe", PROGRAM, B64 | {"filters": filters})
    for data in (b"\1\2\3", b"\1\2\3\4", b"\1\3\3"):
        subscriptions.notify_account(pool(data=data), was_open=True)
    assert [text["params"]["result"]["value"]["account"]["space"] for text in inbox.texts()] == [3]


def test_default_encoding(subscriptions):
    """Without an encoding data is a bare base58 string, and Agave's error text where it is long."""
    inbox = Inbox()
    call(subscriptions, inbox, "programSubscribe", PROGRAM)
    subscriptions.notify_account(pool(), was_open=True)
    subscriptions.notify_account(pool(data=bytes(129)), was_open=True)
    data = [text["params"]["result"]["value"]["account"]["data"] for text in inbox.texts()]
    assert data == ["Ldp", "error: data too large for bs58 encoding"]


def test_equal_params_share_an_id_and_the_bytes(subscriptions):
    """The same params are one subscription for the node: one id, one copy for each socket, the same bytes."""
    first, second = Inbox(), Inbox()
    config = {"encoding": "base64", "commitment": "finalized"}
    number = call(subscriptions, first, "programSubscribe", PROGRAM, config)
    assert call(subscriptions, first, "programSubscribe", PROGRAM, config) == number
    assert call(subscriptions, second, "programSubscribe", PROGRAM, {"encoding": "base64", "filters": []}) == number
    assert call(subscriptions, second, "programSubscribe", PROGRAM, B64) != number
    subscriptions.notify_account(pool(), was_open=True)
    assert (len(first.frames), len(second.frames)) == (1, 2)
    assert first.frames[0] is second.frames[0]


def test_unsubscribe(subscriptions):
    """After unsubscribing nothing comes; the others' subscription with the same id stays."""
    first, second = Inbox(), Inbox()
    number = call(subscriptions, first, "programSubscribe", PROGRAM, B64)
    call(subscriptions, second, "programSubscribe", PROGRAM, B64)
    assert call(subscriptions, first, "programUnsubscribe", number) is True
    subscriptions.notify_account(pool(), was_open=True)
    assert (len(first.frames), len(second.frames)) == (0, 1)
    with pytest.raises(RpcFault, match=r"Invalid subscription id\."):
        subscriptions.call(first, "programUnsubscribe", [number])
    assert call(subscriptions, second, "programUnsubscribe", number) is True
    assert len(subscriptions) == 0
    assert call(subscriptions, first, "programSubscribe", PROGRAM, B64) != number


def test_dropping_a_connection(subscriptions):
    """A connection that is gone holds nothing; what others share stays."""
    first, second = Inbox(), Inbox()
    call(subscriptions, first, "slotSubscribe")
    call(subscriptions, first, "accountSubscribe", A)
    call(subscriptions, second, "slotSubscribe")
    subscriptions.drop(first)
    assert len(subscriptions) == 1
    subscriptions.notify_slot(slot=2, parent=1)
    assert (len(first.frames), len(second.frames)) == (0, 1)


def test_limit(subscriptions):
    """The node refuses distinct subscriptions above its limit; joining an existing one still works."""
    inbox = Inbox()
    for number in range(5):
        call(subscriptions, inbox, "programSubscribe", PROGRAM, {"filters": [{"dataSize": number}]})
    with pytest.raises(RpcFault, match=r"Subscription refused\. Node subscription limit reached") as caught:
        subscriptions.call(inbox, "slotSubscribe", [])
    assert caught.value.code == -32603
    call(subscriptions, Inbox(), "programSubscribe", PROGRAM, {"filters": [{"dataSize": 1}]})


@pytest.mark.parametrize(
    ("method", "params", "code", "message"),
    [
        ("blockSubscribe", [], -32601, "Method not found"),
        ("getSlot", [], -32601, "Method not found"),
        ("programSubscribe", [], -32602, "`params` should have at least 1 argument(s)"),
        ("programSubscribe", ["abc"], -32602, "Invalid Request: Invalid pubkey provided"),
        ("accountSubscribe", ["abc"], -32602, "Invalid Request: Invalid pubkey provided"),
        ("accountSubscribe", [A, {"encoding": "x"}], -32602, "Invalid params: Invalid enum value"),
        (
            "programSubscribe",
            [PROGRAM, {"filters": [{"dataSize": 1}] * 5}],
            -32602,
            "Invalid params: Too many filters provided; max 4",
        ),
        (
            "programSubscribe",
            [PROGRAM, {"filters": [{"memcmp": {"offset": 0, "bytes": [0] * 129}}]}],
            -32602,
            "Invalid params: Invalid param: DataTooLarge",
        ),
        ("programSubscribe", [PROGRAM, {"filters": [{}]}], -32602, "Invalid params: unknown filter"),
        ("slotSubscribe", [1], -32602, "Invalid parameters: No parameters were expected"),
        ("slotUnsubscribe", [0], -32602, "Invalid subscription id."),
        ("slotUnsubscribe", [], -32602, "`params` should have at least 1 argument(s)"),
        ("slotUnsubscribe", ["0"], -32602, "Invalid params: invalid type, expected u64"),
        ("slotUnsubscribe", [-1], -32602, "Invalid params: invalid type, expected u64"),
        ("slotUnsubscribe", [True], -32602, "Invalid params: invalid type, expected u64"),
    ],
)
def test_faults(subscriptions, method, params, code, message):
    """What PubSub does not take is refused with Agave's code and text, and subscribes nothing."""
    with pytest.raises(RpcFault) as caught:
        subscriptions.call(Inbox(), method, params)
    assert caught.value.code == code
    assert caught.value.message.startswith(message)
    assert len(subscriptions) == 0


def test_version(subscriptions):
    """getVersion works over the same socket."""
    assert call(subscriptions, Inbox(), "getVersion")["solana-core"] == "3.0.6"
