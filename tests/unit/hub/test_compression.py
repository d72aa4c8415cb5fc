"""Compressed frames as bytes: what they inflate to, who shares them, and how much is compressed at a stretch."""

from __future__ import annotations

import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.test_frames import parse

from account_socket.hub.compression import (
    BURST_BYTES,
    BYTES_PER_SECOND,
    LEAST_BYTES,
    Compressor,
    deflate,
)
from account_socket.hub.frames import Message, answer_message, notice_message, payload_of, state_message, text_frame
from account_socket.hub.outbox import Batch, Outbox

FIELDS = json.dumps({f"field_{number}": str(number**5) for number in range(100)}).encode()
STATE = state_message("KEY", "realtime", FIELDS)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def inflate(payload: bytes) -> bytes:
    """Inflate as RFC 7692, 7.2.2 says, with zlib alone."""
    inflater = zlib.decompressobj(-15)
    data = inflater.decompress(payload + b"\x00\x00\xff\xff")
    assert not inflater.unused_data
    return data


def inflated(frame: bytes) -> bytes:
    assert frame[0] == 0xC1  # final, RSV1, text
    parsed = parse(bytes([0x81]) + frame[1:])
    return inflate(bytes(parsed.data))


@given(st.binary(max_size=5000))
def test_what_was_deflated_is_inflated_again(payload: bytes) -> None:
    """Any payload comes back whole, and no deflated one depends on another or is final (BFINAL)."""
    deflated = deflate(payload)
    assert inflate(deflated) == payload
    assert inflate(deflated + b"\x00\x00\xff\xff" + deflate(b"next")) == payload + b"next"


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 200_000])
def test_the_payload_of_a_frame(size: int) -> None:
    """The payload of a frame of any length form is found again."""
    assert payload_of(text_frame(b"x" * size)) == b"x" * size


def test_a_state_is_compressed_once_for_all() -> None:
    """The first client's frame is every client's: the same object, final, RSV1 set, smaller, with the same content."""
    compressor = Compressor(Clock())
    message = state_message("KEY", "realtime", FIELDS)
    frame = compressor.frame(message)
    assert frame is compressor.frame(message)
    assert frame is Compressor(Clock()).frame(message)
    assert compressor.compressed == 1
    assert len(frame) < len(message.frame) / 2
    assert inflated(frame) == payload_of(message.frame)


@pytest.mark.parametrize(
    "message",
    [
        answer_message(FIELDS),
        state_message("KEY", "realtime", b'{"id":1}'),
        Message(text_frame(b"x" * (LEAST_BYTES - 5)), "KEY"),
        Message(text_frame(random.Random(1).randbytes(1000)), "KEY"),
    ],
    ids=["an answer", "a small state", "just too small", "no gain"],
)
def test_what_goes_out_as_it_is(message: Message) -> None:
    """Answers, small messages and those that do not shrink are not compressed: the frame is the plain one itself."""
    compressor = Compressor(Clock())
    assert compressor.frame(message) is message.frame
    assert compressor.frame(message) is message.frame
    assert compressor.skipped == 0


def test_a_notice_is_compressed_like_a_state() -> None:
    """A status or gap frame is shared by all who asked, so it is compressed where that pays."""
    notice = notice_message("status now", b'{"type":"status","reason":"%b"}' % (b"drop" * 100))
    assert inflated(Compressor(Clock()).frame(notice)) == payload_of(notice.frame)


def test_more_than_the_time_allows_goes_out_as_it_is() -> None:
    """After BURST_BYTES at a stretch messages stay plain, counted, until the clock has moved on."""
    clock = Clock()
    compressor = Compressor(clock)
    messages = [state_message("KEY", "realtime", FIELDS) for _ in range(2 * BURST_BYTES // len(FIELDS))]
    size = len(messages[0].frame)
    frames = [compressor.frame(message) for message in messages]
    compressed = sum(frame[0] == 0xC1 for frame in frames)
    assert compressed == -(-BURST_BYTES // size)
    assert [frame[0] for frame in frames] == [0xC1] * compressed + [0x81] * (len(frames) - compressed)
    assert (compressor.compressed, compressor.skipped) == (compressed, len(frames) - compressed)
    assert compressor.frame(messages[0]) is frames[0]  # what is made already costs nothing
    clock.now += 10 * size / BYTES_PER_SECOND
    again = [compressor.frame(message)[0] for message in messages[compressed : compressed + 20]]
    assert 9 <= again.count(0xC1) <= 11
    clock.now += 3600
    assert sum(compressor.frame(message)[0] == 0xC1 for message in messages) <= 2 * compressed + 11


# ---- in outboxes -------------------------------------------------------------------------------------------


def boxes(count: int, batch: Batch) -> list[Outbox]:
    made = [Outbox(lambda: None, batch) for _ in range(count)]
    answer = answer_message(b"{}")
    for box in made:
        box.pending += [STATE, answer, STATE]
    return made


def test_clients_that_compress_share_one_buffer() -> None:
    """The second and third of several clients that are written alike get one buffer, of compressed frames."""
    compressor = Compressor(Clock())
    taken = [box.take_at_once() for box in boxes(3, Batch(compressor))]
    frame = compressor.frame(STATE)
    assert taken[:2] == [b"", frame + text_frame(b"{}") + frame]
    assert taken[1] is taken[2]


def test_one_compressed_message_is_its_own_buffer() -> None:
    """A lone message is written as the frame that all share."""
    compressor = Compressor(Clock())
    box = Outbox(lambda: None, Batch(compressor))
    box.pending.append(STATE)
    assert box.take_at_once() is compressor.frame(STATE)


def test_both_forms_beside_each_other() -> None:
    """Clients that do not compress are written the plain frames of the same messages, and cause no compressing."""
    compressor = Compressor(Clock())
    message = state_message("KEY", "realtime", FIELDS)
    plain, compressing = Outbox(lambda: None, Batch()), Outbox(lambda: None, Batch(compressor))
    plain.pending += [message, message]
    assert plain.take(writable=True) == [message.frame] * 2
    assert (message.compressed, compressor.compressed) == (b"", 0)
    compressing.pending += [message, message]
    assert compressing.take(writable=True) == [message.compressed] * 2
    assert compressor.compressed == 1


def test_a_client_that_is_behind_has_compressed_only_what_it_is_sent() -> None:
    """States that are replaced while a client is behind are never compressed; the newest is, when it leaves."""
    compressor = Compressor(Clock())
    box = Outbox(lambda: None, Batch(compressor))
    states = [state_message("KEY", "realtime", FIELDS) for _ in range(10)]
    box.pending += states
    assert box.take(writable=False) == []
    assert compressor.compressed == 0
    assert box.take(writable=True) == [states[-1].compressed]
    assert (compressor.compressed, box.conflated) == (1, 9)
