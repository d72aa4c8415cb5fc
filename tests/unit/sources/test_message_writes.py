"""What recorded messages tell of accounts."""

from __future__ import annotations

import io
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile_node import account_json, program_notification, slot_notification
from tests.samples import KEY_A, KEY_B, PROGRAM

from account_socket.devnode.geyser_feed import encode_account_update, encode_slot_update
from account_socket.model import SYSTEM_PROGRAM, RawAccount
from account_socket.sources.frame_writes import FrameWrites
from account_socket.sources.geyser_writes import GeyserWrites
from account_socket.sources.pubsub import account_subscribe
from account_socket.sources.recorded_message import (
    Mark,
    RecordedMessage,
    encode_binary,
    encode_mark,
    encode_message,
    encode_sent,
)
from account_socket.sources.recorded_write import RecordedWrite, RecordingError
from account_socket.sources.recording import Recording, RecordingHeader, RecordingReader, RecordingWriter

FOREIGN = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"


def received(value: object, at_ms: int = 5) -> RecordedMessage:
    return RecordedMessage(at_ms, value if isinstance(value, bytes) else json.dumps(value).encode())


def watch_notification(subscription: int, slot: int = 9, **fields: object) -> dict[str, object]:
    result = {"context": {"slot": slot}, "value": account_json(**fields)}
    params = {"result": result, "subscription": subscription}
    return {"jsonrpc": "2.0", "method": "accountNotification", "params": params}


def watching(writes: FrameWrites, pubkey: str, subscription: int) -> None:
    request = account_subscribe(4, pubkey, encoding="base64", commitment="confirmed")
    assert writes.take(RecordedMessage(1, sent=request)) == []
    assert writes.take(received({"jsonrpc": "2.0", "id": 4, "result": subscription})) == []


def test_a_program_notification_is_a_write() -> None:
    """Each programNotification is a write at its time; slots and replies are none."""
    writes = FrameWrites(PROGRAM)
    [write] = writes.take(received(program_notification(account_json(b"two"), slot=77), at_ms=8))
    expected = RawAccount(KEY_A, 77, PROGRAM, 8_630_400, b"two", rent_epoch=2**64 - 1)
    assert write == RecordedWrite(expected, at_ms=8)
    for other in (slot_notification(5), {"jsonrpc": "2.0", "id": 1, "result": 7}):
        assert writes.take(received(other)) == []
    batch = [program_notification(slot=1), program_notification(slot=2)]
    assert [write.account.slot for write in writes.take(received(batch))] == [1, 2]
    assert writes.odd == 0


def test_odd_frames_are_counted() -> None:
    """What cannot be read is no write, and is counted."""
    writes = FrameWrites(PROGRAM)
    for odd in (b"<html>", b"\xff", b'{"method":"programNotification"}', {"method": "nonsense"}):
        assert writes.take(received(odd)) == []
    assert writes.take(RecordedMessage(1, sent=b"nonsense")) == []
    assert writes.odd == 5


def test_a_watched_account_tells_its_close() -> None:
    """An accountNotification is a write where it closes the account or gives it away; else programSubscribe tells."""
    writes = FrameWrites(PROGRAM)
    watching(writes, KEY_B, 31)
    assert writes.take(received(watch_notification(31, data=b"still ours"))) == []
    [away] = writes.take(received(watch_notification(31, slot=10, owner=FOREIGN)))
    assert (away.account.pubkey, away.account.slot, away.account.owner) == (KEY_B, 10, FOREIGN)
    [closed] = writes.take(received(watch_notification(31, slot=11, lamports=0, data=b"rest"), at_ms=6))
    assert closed == RecordedWrite(RawAccount(KEY_B, 11, SYSTEM_PROGRAM, 0, b"", rent_epoch=2**64 - 1), at_ms=6)
    assert writes.take(received(watch_notification(32, lamports=0))) == []


def test_subscriptions_end_with_their_connection() -> None:
    """On a new connection a subscription's number means nothing until it is given anew."""
    writes = FrameWrites(PROGRAM)
    watching(writes, KEY_B, 31)
    writes.take(RecordedMessage(2, mark=Mark.CONNECTED))
    assert writes.take(received(watch_notification(31, lamports=0))) == []
    watching(writes, KEY_A, 31)
    [closed] = writes.take(received(watch_notification(31, lamports=0)))
    assert closed.account.pubkey == KEY_A


@given(st.lists(st.binary(max_size=50)))
def test_garbage_is_never_an_exception(messages: list[bytes]) -> None:
    """Whatever was recorded, reading its writes does not fail."""
    for writes in (FrameWrites(PROGRAM), GeyserWrites()):
        for message in messages:
            assert isinstance(writes.take(RecordedMessage(0, message)), list)
            assert writes.take(RecordedMessage(0, sent=message)) == []


# ---- Yellowstone -------------------------------------------------------------------------------------------


def geyser_update(slot: int, write_version: int, data: bytes = b"x", **more: object) -> RecordedMessage:
    account = RawAccount(KEY_A, slot, PROGRAM, 7, data, rent_epoch=3, write_version=write_version)
    account = msgspec.structs.replace(account, **more)
    return RecordedMessage(5, encode_account_update(account, ["programs"], account.data, 0.0))


def test_yellowstone_updates_are_writes() -> None:
    """Each account update is a write; slots and what is no update are none, the latter is counted."""
    writes = GeyserWrites()
    [write] = writes.take(geyser_update(10, 3, b"data"))
    expected = RawAccount(KEY_A, 10, PROGRAM, 7, b"data", rent_epoch=3, write_version=3)
    assert write == RecordedWrite(expected, at_ms=5)
    [closed] = writes.take(geyser_update(10, 4, b"rest", lamports=0, owner=FOREIGN))
    assert closed.account == RawAccount(KEY_A, 10, SYSTEM_PROGRAM, 0, b"", write_version=4)
    assert writes.take(RecordedMessage(5, encode_slot_update(10, 9, 1, ["slots"]))) == []
    assert writes.take(RecordedMessage(5, mark=Mark.LOST)) == []
    assert writes.odd == 0
    assert writes.take(RecordedMessage(5, b"\xff\xff")) == []
    assert writes.odd == 1


def test_what_yellowstone_replays_is_no_second_write() -> None:
    """After an interruption a node tells some slots again: what is not newer is left out."""
    writes = GeyserWrites()
    updates = [geyser_update(10, 1), geyser_update(10, 2), geyser_update(11, 3)]
    told = [*updates, *updates[1:], geyser_update(12, 4)]
    places = [(write.account.slot, write.account.write_version) for one in told for write in writes.take(one)]
    assert places == [(10, 1), (10, 2), (11, 3), (12, 4)]


def test_without_write_versions_every_update_counts() -> None:
    """A node that gives no write_version tells several writes of a slot in their order."""
    writes = GeyserWrites()
    told = [geyser_update(10, 0, b"a"), geyser_update(10, 0, b"b"), geyser_update(9, 0, b"old")]
    assert [write.account.data for one in told for write in writes.take(one)] == [b"a", b"b"]


# ---- whole files -------------------------------------------------------------------------------------------


def file_of(content: str, lines: list[bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with RecordingWriter(file, RecordingHeader(content=content, program=PROGRAM)) as writer:
        for line in lines:
            writer.append(line)
    return io.BytesIO(file.getvalue())


def test_a_recording_of_frames_is_read_as_writes_and_as_messages() -> None:
    """The same file gives its writes, with what could not be read as a warning, and its messages."""
    frame = json.dumps(program_notification()).encode()
    lines = [encode_mark(Mark.CONNECTED, 1), encode_sent(b"{}", 2), encode_message(frame, 3), encode_message(b"<", 4)]
    whole = Recording.read(file_of("frames", lines))
    assert [(write.at_ms, write.account.pubkey) for write in whole.writes] == [(3, KEY_A)]
    assert whole.timed
    assert whole.warning == "1 odd messages in it are left out"
    messages = list(RecordingReader(file_of("frames", lines)).messages())
    assert [(each.at_ms, each.mark, each.sent, each.received) for each in messages] == [
        (1, "connected", None, None),
        (2, "", b"{}", None),
        (3, "", None, frame),
        (4, "", None, b"<"),
    ]


def test_a_recording_of_yellowstone_is_read_as_writes() -> None:
    """The updates in a file become writes."""
    update = geyser_update(10, 1).received
    assert update is not None
    [write] = Recording.read(file_of("geyser", [encode_binary(update, 3)])).writes
    assert (write.at_ms, write.account.slot) == (3, 10)


def test_a_recording_of_writes_holds_no_messages() -> None:
    """Asking it for messages is an error; a broken line of messages names its number."""
    with pytest.raises(RecordingError, match="holds no messages"):
        list(RecordingReader(file_of("writes", [])).messages())
    with pytest.raises(RecordingError, match="line 3: "):
        Recording.read(file_of("frames", [encode_mark(Mark.CONNECTED, 1), b"{}\n"]))
