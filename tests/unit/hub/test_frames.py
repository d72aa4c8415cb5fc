import json

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from account_socket.hub.frames import answer_message, state_message, text_frame


def parse(frame: bytes) -> Frame:
    reader = StreamReader()
    reader.feed_data(frame)
    parser = Frame.parse(reader.read_exact, mask=False)
    try:
        next(parser)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the frame is not complete")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_frame_of_every_length_form_is_read_back_by_another_implementation(size: int) -> None:
    """A frame of every length form is read back whole by the websockets library."""
    frame = parse(text_frame(b"x" * size))
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, b"x" * size)


def test_a_state_message_carries_the_account_bytes_unchanged() -> None:
    """A state message is the envelope around the account object as it is."""
    message = state_message("KEY", "cache", b'{"id":1,"data_json":{"a":"18446744073709551615"}}')
    payload = json.loads(bytes(parse(message.frame).data))
    assert payload == {"pubkey": "KEY", "source": "cache", "account": {"id": 1, "data_json": {"a": str(2**64 - 1)}}}
    assert message.key == "KEY"


def test_an_event_stands_beside_the_source() -> None:
    """What happened beside a write is said in the envelope, not in the account."""
    message = state_message("KEY", "realtime", b"{}", event="retracted")
    payload = json.loads(bytes(parse(message.frame).data))
    assert payload == {"pubkey": "KEY", "source": "realtime", "event": "retracted", "account": {}}


def test_an_answer_is_never_replaced() -> None:
    """An answer carries no key, so nothing newer replaces it."""
    assert answer_message(b"{}").key is None
