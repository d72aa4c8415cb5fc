"""What clients may say, as tables of text and result."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey
from tests.samples import KEY_A, KEY_B

from account_socket.protocol import messages
from account_socket.protocol.codes import ABNORMAL_CLOSURE, Close, ErrorCode
from account_socket.protocol.messages import ListSubscriptions, Ping, Refusal, Subscribe, Unsubscribe, parse

ZERO_KEY = "1" * 32

GOOD = [
    ({"action": "subscribe", "pubkey": KEY_A}, Subscribe(None, (KEY_A,))),
    ({"action": "unsubscribe", "pubkey": KEY_A}, Unsubscribe(None, (KEY_A,))),
    ({"action": "subscribe", "pubkey": KEY_A, "id": 7}, Subscribe(7, (KEY_A,))),
    ({"action": "subscribe", "pubkey": KEY_A, "id": ""}, Subscribe("", (KEY_A,))),
    ({"action": "subscribe", "pubkey": KEY_A, "id": 0}, Subscribe(0, (KEY_A,))),
    ({"action": "subscribe", "pubkey": KEY_A, "id": -(2**63)}, Subscribe(-(2**63), (KEY_A,))),
    ({"action": "subscribe", "pubkey": KEY_A, "id": 2**64 - 1}, Subscribe(2**64 - 1, (KEY_A,))),
    ({"action": "subscribe", "pubkey": KEY_A, "id": "é" * 128}, Subscribe("é" * 128, (KEY_A,))),
    ({"action": "subscribe", "pubkey": ZERO_KEY}, Subscribe(None, (ZERO_KEY,))),
    ({"action": "subscribe", "pubkey": KEY_A, "extra": [1], "type": "x"}, Subscribe(None, (KEY_A,))),
    ({"action": "subscribe", "pubkey": KEY_A, "extra": [{"a": [{}]}] * 80}, Subscribe(None, (KEY_A,))),
    ({"action": "subscribe", "pubkeys": [KEY_A, KEY_B]}, Subscribe(None, (KEY_A, KEY_B))),
    ({"action": "subscribe", "pubkeys": [KEY_B, KEY_A, KEY_B], "id": 1}, Subscribe(1, (KEY_B, KEY_A))),
    ({"action": "unsubscribe", "pubkeys": [KEY_A], "id": "a"}, Unsubscribe("a", (KEY_A,))),
    ({"action": "subscribe", "pubkeys": [KEY_A] * 1000}, Subscribe(None, (KEY_A,))),
    ({"action": "ping"}, Ping(None)),
    ({"action": "ping", "id": 1}, Ping(1)),
    ({"action": "list", "id": "x"}, ListSubscriptions("x")),
]


@pytest.mark.parametrize(("fields", "request_"), GOOD)
def test_good_requests(fields: dict[str, object], request_: messages.Request) -> None:
    """A well-formed request is read, keys in any order and with any white space."""
    assert parse(json.dumps(fields)) == request_
    assert parse(json.dumps(dict(reversed(fields.items())), indent=1)) == request_


INVALID_JSON = ErrorCode.INVALID_JSON
INVALID_MESSAGE = ErrorCode.INVALID_MESSAGE
UNKNOWN_ACTION = ErrorCode.UNKNOWN_ACTION
INVALID_PUBKEY = ErrorCode.INVALID_PUBKEY

BAD = [
    ("", None, INVALID_JSON, "character 0"),
    (" ", None, INVALID_JSON, "not JSON"),
    ("{", None, INVALID_JSON, "character 1"),
    ("\ufeff{}", None, INVALID_JSON, "not JSON"),
    ("{}{}", None, INVALID_JSON, "Extra data"),
    ('{"action":"ping"}\0', None, INVALID_JSON, "Extra data"),
    ('{"action":"pi\0ng"}', None, INVALID_JSON, "control character"),
    ("{'action':'ping'}", None, INVALID_JSON, "not JSON"),
    ('{"action":"ping",}', None, INVALID_JSON, "not JSON"),
    ('{"action":"ping","id":01}', None, INVALID_JSON, "not JSON"),
    ('{"action":"ping","id":NaN}', None, INVALID_JSON, "NaN"),
    ('{"action":"ping","id":-Infinity}', None, INVALID_JSON, "-Infinity"),
    ('{"action":"ping","id":' + "9" * 5000 + "}", None, INVALID_JSON, "digits"),
    ("[" * 60_000, None, INVALID_JSON, "nested"),
    ('{"a":' * 200 + "1" + "}" * 200, None, INVALID_MESSAGE, "action"),
    ("[" + "{}," * 20_000 + "{}]", None, INVALID_MESSAGE, "objects"),
    ("null", None, INVALID_MESSAGE, "not null"),
    ("[]", None, INVALID_MESSAGE, "an array"),
    ('"subscribe"', None, INVALID_MESSAGE, "a string"),
    ("1", None, INVALID_MESSAGE, "an integer"),
    ("1.5", None, INVALID_MESSAGE, "a fraction"),
    ("true", None, INVALID_MESSAGE, "a boolean"),
    ("{}", None, INVALID_MESSAGE, "missing"),
    ('{"id":5}', 5, INVALID_MESSAGE, "missing"),
    ('{"action":null,"id":5}', 5, INVALID_MESSAGE, "null"),
    ('{"action":["ping"],"id":5}', 5, INVALID_MESSAGE, "an array"),
    ('{"action":"","id":5}', 5, UNKNOWN_ACTION, "''"),
    ('{"action":"Subscribe","id":5}', 5, UNKNOWN_ACTION, "'Subscribe'"),
    ('{"action":"\\u0007\\u202e","id":5}', 5, UNKNOWN_ACTION, "'\\x07\\u202e'"),
    ('{"action":"ping","action":"list"}', None, INVALID_MESSAGE, "twice"),
    ('{"action":"subscribe","pubkey":{"a":1,"a":2}}', None, INVALID_MESSAGE, "an object"),
    ('{"action":"subscribe","pubkey":"' + KEY_A + '","x":1,"x":2}', None, INVALID_MESSAGE, "twice"),
    ('{"action":"subscribe","pubkey":"' + KEY_A + '","x":NaN}', None, INVALID_JSON, "NaN"),
    ('{"action":"subscribe","pubkey":"' + KEY_A + '","x":{"y":1,"y":2},"id":1}', 1, INVALID_MESSAGE, "'x'"),
    ('{"action":"ping","id":null}', None, INVALID_MESSAGE, "null"),
    ('{"action":"ping","id":true}', None, INVALID_MESSAGE, "a boolean"),
    ('{"action":"ping","id":1.0}', None, INVALID_MESSAGE, "a fraction"),
    ('{"action":"ping","id":[1]}', None, INVALID_MESSAGE, "an array"),
    ('{"action":"ping","id":{}}', None, INVALID_MESSAGE, "an object"),
    ('{"action":"ping","id":18446744073709551616}', None, INVALID_MESSAGE, "64 bits"),
    ('{"action":"ping","id":"' + "x" * 129 + '"}', None, INVALID_MESSAGE, "128"),
    ('{"action":"ping","id":"\\ud800"}', None, INVALID_MESSAGE, "surrogate"),
    ('{"action":"ping","pubkey":"x","id":3}', 3, INVALID_MESSAGE, "'pubkey'"),
    ('{"action":"list","x":1}', None, INVALID_MESSAGE, "'x'"),
    ('{"action":"subscribe"}', None, INVALID_MESSAGE, "pubkey"),
    ('{"action":"subscribe","id":4}', 4, INVALID_MESSAGE, "pubkey"),
    (f'{{"action":"subscribe","pubkey":"{KEY_A}","id":4,"x":1}}', 4, INVALID_MESSAGE, "'x'"),
    (f'{{"action":"subscribe","pubkeys":["{KEY_A}"],"x":1}}', None, INVALID_MESSAGE, "'x'"),
    (f'{{"action":"subscribe","pubkey":"{KEY_A}","pubkeys":["{KEY_A}"]}}', None, INVALID_MESSAGE, "not both"),
    (f'{{"action":"subscribe","pubkey":"{KEY_A}","pubkeys":null}}', None, INVALID_MESSAGE, "not both"),
    ('{"action":"subscribe","pubkeys":[]}', None, INVALID_MESSAGE, "empty"),
    ('{"action":"subscribe","pubkeys":"x"}', None, INVALID_MESSAGE, "a string"),
    ('{"action":"subscribe","pubkeys":{}}', None, INVALID_MESSAGE, "an object"),
    (json.dumps({"action": "subscribe", "pubkeys": [KEY_A] * 1001}), None, INVALID_MESSAGE, "1001"),
    (json.dumps({"action": "subscribe", "pubkeys": [KEY_A, 5]}), None, INVALID_MESSAGE, "pubkeys[1]"),
    ('{"action":"subscribe","pubkey":5}', None, INVALID_MESSAGE, "an integer"),
    ('{"action":"subscribe","pubkey":null}', None, INVALID_MESSAGE, "null"),
    ('{"action":"subscribe","pubkey":""}', None, INVALID_PUBKEY, "'' is not"),
    (
        '{"action":"subscribe","pubkey":"abc","id":7}',
        7,
        INVALID_PUBKEY,
        "'abc' is not a base58 public key of 32 bytes",
    ),
    (json.dumps({"action": "subscribe", "pubkeys": [KEY_A, "bad1", "bad2"], "id": 9}), 9, INVALID_PUBKEY, "'bad1'"),
    (json.dumps({"action": "subscribe", "pubkey": KEY_A[:-3]}), None, INVALID_PUBKEY, KEY_A[:-3]),
    (json.dumps({"action": "subscribe", "pubkey": KEY_A + "1"}), None, INVALID_PUBKEY, "1'"),
    (json.dumps({"action": "subscribe", "pubkey": " " + KEY_A}), None, INVALID_PUBKEY, "' H"),
    (json.dumps({"action": "subscribe", "pubkey": "0" + KEY_A[1:]}), None, INVALID_PUBKEY, "'0"),
    (json.dumps({"action": "subscribe", "pubkey": "1" * 33}), None, INVALID_PUBKEY, "'111"),
    (json.dumps({"action": "subscribe", "pubkey": "z" * 44}), None, INVALID_PUBKEY, "'zzz"),
    (json.dumps({"action": "subscribe", "pubkey": "é" * 40}), None, INVALID_PUBKEY, "...'"),
    ('{"action":"subscribe","pubkey":"' + "\\ud800" * 40 + '"}', None, INVALID_PUBKEY, "...'"),
    (json.dumps({"action": "subscribe", "pubkey": "x" * 60_000}), None, INVALID_PUBKEY, "...'"),
]


@pytest.mark.parametrize(("text", "id_", "code", "part"), BAD)
def test_bad_requests(text: str, id_: messages.Id | None, code: ErrorCode, part: str) -> None:
    """Whatever is wrong gets its own code, a message that says what, and the id only if it could be read."""
    refusal = parse(text)
    assert isinstance(refusal, Refusal)
    assert (refusal.id, refusal.code) == (id_, code)
    assert part in refusal.message
    assert len(refusal.message) < 250
    assert refusal.message.isprintable()
    answer = json.loads(messages.error(refusal.id, refusal.code, refusal.message))
    assert answer["code"] == code
    assert ("id" in answer) == (id_ is not None)


def test_what_is_ignored_may_repeat_itself() -> None:
    """Beside a bare pubkey, an unknown value may be any JSON, names that appear twice included."""
    text = f'{{"action":"subscribe","x":[{{"y":1,"y":{{"z":1,"z":2}}}}],"pubkey":"{KEY_A}"}}'
    assert parse(text) == Subscribe(None, (KEY_A,))


ANY_JSON = st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists).map(json.dumps)


@given(st.text(max_size=200) | ANY_JSON)
def test_any_text(text: str) -> None:
    """No text raises."""
    result = parse(text)
    if isinstance(result, Refusal):
        assert json.loads(messages.error(result.id, result.code, result.message))["message"] == result.message


@given(
    st.dictionaries(
        st.sampled_from(["action", "id", "pubkey", "pubkeys", "x"]),
        st.sampled_from(
            ["subscribe", "unsubscribe", "ping", "list", KEY_A, "abc", [KEY_A], [], [1], None, 1, -1.5, {}]
        ),
    )
)
def test_any_fields(fields: dict[str, object]) -> None:
    """Whatever fields come together, the answer is a request within the limits or a refusal, never an exception."""
    result = parse(json.dumps(fields))
    if isinstance(result, Subscribe | Unsubscribe):
        assert result.pubkeys == (KEY_A,)
        assert ("pubkey" in fields) != ("pubkeys" in fields)
    if not isinstance(result, Refusal):
        assert result.id == fields.get("id")


@given(st.binary(min_size=32, max_size=32))
def test_pubkeys_are_canonical(data: bytes) -> None:
    """Every 32 bytes have one text that is accepted; a further leading 1 is a 33rd byte."""
    text = str(Pubkey(data))
    assert messages.is_pubkey(text)
    assert not messages.is_pubkey("1" + text)


@given(st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0OIl", min_size=30, max_size=46))
def test_accepted_pubkeys_read_back(text: str) -> None:
    """A text that is accepted is the base58 form of what it decodes to."""
    if messages.is_pubkey(text):
        assert str(Pubkey.from_string(text)) == text


def test_answers() -> None:
    """Answers have the documented keys in the documented order."""
    assert (
        messages.subscribe_ack(7, "k3", [KEY_A], [])
        == b'{"type":"ack","id":7,"action":"subscribe","epoch":"k3","found":["%b"],"foreign":[]}' % KEY_A.encode()
    )
    assert (
        messages.unsubscribe_ack("é", "k3").decode() == '{"type":"ack","id":"é","action":"unsubscribe","epoch":"k3"}'
    )
    assert messages.pong(1) == b'{"type":"pong","id":1}'
    assert messages.pong(None) == b'{"type":"pong"}'
    assert messages.subscriptions(2, [KEY_A]) == b'{"type":"subscriptions","id":2,"pubkeys":["%b"]}' % KEY_A.encode()
    assert messages.error(None, ErrorCode.INTERNAL, "x") == b'{"type":"error","code":"internal","message":"x"}'


@pytest.mark.parametrize("close", list(Close))
def test_close_reasons_fit_a_frame(close: Close) -> None:
    """Every close code may be sent, and its reason fits a control frame."""
    assert 1 <= len(close.reason.encode()) <= 123
    assert close.code in {1001, 1003, 1007, 1009, 1011, 1013} or 4000 <= close.code < 5000
    assert close.code != ABNORMAL_CLOSURE
