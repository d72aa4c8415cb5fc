"""Messages as lines of a recording: whatever a node sends comes back byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from account_socket.model import MAX_I64, Gap
from account_socket.sources import recorded_message as module
from account_socket.sources.recorded_message import (
    Mark,
    RecordedMessage,
    encode_binary,
    encode_gap,
    encode_mark,
    encode_message,
    encode_sent,
    parse_message,
)
from account_socket.sources.recorded_write import RecordingError


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
frames = st.binary(max_size=200) | st.text().map(lambda text: text.encode()) | values.map(as_json)


def read_back(line: bytes) -> RecordedMessage:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return parse_message(line[:-1], 2)


@given(frames, st.integers(0, MAX_I64))
@example(b"", 0)
@example(b' {"a":1}', 0)
@example(b'{"a":1} ', 0)
@example(b'{"a":\n1}', 0)
@example(b'{"a":1},"mark":"lost"', 0)
@example(b'1,"frame":1', 0)
@example(b'{"a":"\xff"}', 0)
@example(b'{"a":"\\ud800"}', 0)
@example(b"[" * 5_000 + b"]" * 5_000, 0)
@example(b"[" * 900 + b"]" * 900, 0)
def test_any_message_comes_back_byte_for_byte(message: bytes, at_ms: int) -> None:
    """What a node sent, JSON or not, text or not, is one line, and reads as it was."""
    for encode in (encode_message, encode_binary):
        assert read_back(encode(message, at_ms)) == RecordedMessage(at_ms, message)


@given(values)
def test_json_stays_readable(value: object) -> None:
    """JSON of one line stands in the line as it is, other JSON as a string."""
    line = json.loads(encode_message(json.dumps(value).encode(), 7))
    assert line == {"at_ms": 7, "frame": value}
    indented = json.dumps([value], indent=1)
    assert json.loads(encode_message(indented.encode(), 7)) == {"at_ms": 7, "text": indented}


def test_what_happened_beside_messages() -> None:
    """Requests, connections, their ends and gaps have lines of their own."""
    request = b'{"jsonrpc":"2.0","id":1,"method":"slotSubscribe"}'
    assert read_back(encode_sent(request, 3)) == RecordedMessage(3, sent=request)
    assert read_back(encode_mark(Mark.CONNECTED, 4)) == RecordedMessage(4, mark="connected")
    lost = read_back(encode_mark(Mark.LOST, 5, reason="x" * 1_000))
    assert lost == RecordedMessage(5, mark="lost", reason="x" * 300)
    gap = read_back(encode_gap(Gap("rpc-0", 10, 20, "dropped"), 6))
    assert gap == RecordedMessage(6, mark="gap", reason="dropped", from_slot=10, to_slot=20)
    assert json.loads(encode_gap(Gap("rpc-0", None, 20, "dropped"), 6)) == {
        "at_ms": 6,
        "mark": "gap",
        "reason": "dropped",
        "to_slot": 20,
    }


@pytest.mark.parametrize("encode", [encode_message, encode_binary])
def test_too_long_a_message_leaves_its_beginning(monkeypatch, encode) -> None:
    """A message that no reader would take as a line is marked, with its size and its beginning."""
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 2_000)
    line = encode(b"\xff" + b"y" * 1_999, 8)
    assert json.loads(line) == {"at_ms": 8, "mark": "oversize", "text": "\ufffd" + "y" * 999, "size": 2_000}
    assert read_back(line) == RecordedMessage(8, mark="oversize")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "truncated"),
        (b'{"frame":{}}', "at_ms"),
        (b'{"at_ms":-1,"frame":{}}', "$.at_ms"),
        (b'{"at_ms":1}', "neither `frame`"),
        (b'{"at_ms":1,"base64":"?"}', "$.base64"),
        (b'{"at_ms":1,"frame":{}', "truncated"),
        (b'{"at_ms":1,"mark":5}', "$.mark"),
        (b"[" * 100_000, ""),
    ],
)
def test_bad_line(line: bytes, reason: str) -> None:
    """A broken line is refused with its number and what is wrong with it."""
    with pytest.raises(RecordingError) as caught:
        parse_message(line, 17)
    assert caught.value.line == 17
    assert reason in str(caught.value)


def test_a_later_mark_is_read() -> None:
    """A mark that this version does not know stops nobody."""
    assert parse_message(b'{"at_ms":1,"mark":"moved","new":1}', 2).mark == "moved"
